package dialog

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// The state of a call is what a restart must not lose of it (spec D, Persistence, and
// E.9): its answered dialogs, what their legs believe, the translation of their CSeq
// numbers, and the policy of the INVITE as values. Transactions are lost: an offer
// under way leaves the SDP of both legs unknown.
//
// Layout: version, body, CRC-32 of both. Numbers are varints. Times are microseconds
// after the INVITE, whose own is one of the wall's clock.
const stateVersion = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendState appends the state of an answered call; wall makes a time of the day of
// one of the wheel's clock. It is false when there is nothing to be kept.
func (c *Call) AppendState(dst []byte, wall func(time.Duration) time.Time) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.appendStateLocked(dst, wall)
}

func (c *Call) appendStateLocked(dst []byte, wall func(time.Duration) time.Time) ([]byte, bool) {
	live := 0
	for d := range c.dialogs {
		if d.isKept() {
			live++
		}
	}
	if c.done || live == 0 {
		return dst, false
	}
	e := encoder{b: append(dst, stateVersion), zero: c.began}
	e.policy(c.policy)
	e.int(wall(c.began).UnixMicro())
	e.uint(uint64(c.invite))
	e.flow(c.source.flow())
	e.flow(c.outside)
	e.uint(uint64(c.backend))
	e.time(c.answered)
	e.uint(uint64(c.setup))
	e.uint(uint64(c.tagAt))
	e.uint(uint64(c.tagLen))
	e.uint(uint64(c.outer))
	e.flags(c.noInject, c.reported)
	e.uint(uint64(live))
	for d := range c.dialogs {
		if d.isKept() {
			e.dialog(d)
		}
	}
	return sealed(e.b, len(dst)), true
}

// sealed appends the sum of what begins at start.
func sealed(b []byte, start int) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// isKept: a restart must not lose the dialog.
func (d *Dialog) isKept() bool { return d.state >= waitsForAck && d.state < over }

// encoder appends the parts of a state.
type encoder struct {
	b    []byte
	zero time.Duration // that times are counted from
}

func (e *encoder) uint(n uint64) { e.b = binary.AppendUvarint(e.b, n) }
func (e *encoder) int(n int64)   { e.b = binary.AppendVarint(e.b, n) }

func (e *encoder) bytes(b []byte) {
	e.uint(uint64(len(b)))
	e.b = append(e.b, b...)
}

// time appends a moment; 0 stays 0, which means none.
func (e *encoder) time(t time.Duration) {
	if t == 0 {
		e.uint(0)
		return
	}
	n := (t - e.zero).Microseconds()
	e.uint((uint64(n)<<1 ^ uint64(n>>63)) + 1)
}

func (e *encoder) flags(all ...bool) {
	n := uint64(0)
	for i, f := range all {
		if f {
			n |= 1 << i
		}
	}
	e.uint(n)
}

func (e *encoder) policy(p *timers.Policy) {
	for _, d := range [...]time.Duration{p.TTL, p.EarlyHangup, p.NoTimerMax, p.MaxCall, p.MinSE, p.Ring, p.AckWait, p.T1} {
		e.uint(uint64(d))
	}
	for _, n := range [...]uint64{uint64(p.Segments), uint64(p.Insert), uint64(p.Detect), uint64(p.OnExpiry), uint64(p.MaxEarly)} {
		e.uint(n)
	}
	e.uint(math.Float64bits(p.Jitter))
	e.flags(p.RejectSmall, p.StrictAlive, p.ProbeA, p.ProbeB, p.EndOn408, p.ReinviteWebRTC, p.NoInjectIdentity)
	e.uint(uint64(len(p.Methods)))
	for _, m := range p.Methods {
		e.uint(uint64(m))
	}
}

func (e *encoder) flow(f flow) {
	e.flags(f.isSet)
	if f.isSet {
		e.uint(f.conn)
		e.b = append(e.b, f.addr[:]...)
		e.uint(uint64(f.port))
		e.uint(uint64(f.proto))
		e.uint(uint64(f.listener))
	}
}

func (e *encoder) dialog(d *Dialog) {
	e.uint(uint64(d.state))
	e.uint(uint64(d.mode))
	e.uint(uint64(d.reason))
	e.uint(uint64(d.by))
	e.uint(uint64(d.byeFrom))
	e.uint(uint64(d.dared))
	e.flags(d.noAck, d.bypassed, d.mute)
	e.uint(uint64(d.minSE))
	for _, t := range [...]time.Duration{d.answered, d.expires, d.byeBy, d.ended} {
		e.time(t)
	}
	for f := range numFields {
		e.bytes(d.texts.get(f))
	}
	e.media(&d.media)
	for _, l := range [...]Leg{A, B} {
		e.sequence(&d.seq[l])
		e.leg(&d.leg[l], &d.call.store.names)
	}
}

func (e *encoder) leg(x *leg, names *names) {
	e.time(x.proof)
	e.uint(uint64(x.se))
	e.bytes([]byte(names.get(x.allow)))
	e.bytes([]byte(names.get(x.supported)))
	e.uint(uint64(x.method))
	e.uint(uint64(x.refused))
	e.uint(uint64(x.proven))
	e.flags(x.refreshes, x.updates, x.unsafe, x.answers, x.byeDone)
}

func (e *encoder) sequence(s *Sequence) {
	e.flags(s.seen)
	for _, n := range [...]uint32{s.base, s.loIn, s.hiIn, s.hiOut} {
		e.uint(uint64(n))
	}
	e.uint(uint64(len(s.list())))
	for _, p := range s.list() {
		e.uint(uint64(p.first))
		e.uint(uint64(p.delta))
	}
}

// media appends what was committed. With an exchange under way, whose messages a
// restart loses, nobody could tell later what holds.
func (e *encoder) media(m *Media) {
	isOpen := false
	for i := range m.side {
		isOpen = isOpen || m.side[i].invite.running() || m.side[i].within.open()
	}
	for _, l := range [...]Leg{A, B} {
		s := &m.side[l]
		is, sum, body := s.is, s.sum, Body{}
		if isOpen || !is.known() {
			is, sum = 0, 0
		} else if m.kept != nil {
			body = m.kept.body(committedBody(l))
		}
		e.flags(s.keep)
		e.uint(uint64(is))
		e.b = binary.BigEndian.AppendUint64(e.b, sum)
		e.transaction(&s.invite)
		e.transaction(&s.within)
		e.bytes(body.SDP)
		e.bytes(body.Type)
	}
}

// transaction appends one that is over. Another one begins anew if it comes again.
func (e *encoder) transaction(t *transaction) {
	isOver := t.state == finished
	e.flags(isOver, t.asks, t.later)
	if isOver {
		e.uint(uint64(t.cseq))
	}
}

// decoder reads the parts of a state. After the first part that cannot be, all
// others are zero and bad is set.
type decoder struct {
	b    []byte
	zero time.Duration
	bad  bool
}

func (r *decoder) fail() uint64 {
	r.b, r.bad = nil, true
	return 0
}

// uint reads a number of at most limit.
func (r *decoder) uint(limit uint64) uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || n > limit {
		return r.fail()
	}
	r.b = r.b[size:]
	return n
}

func (r *decoder) int() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		return int64(r.fail())
	}
	r.b = r.b[size:]
	return n
}

// raw reads n bytes, which are those of the state.
func (r *decoder) raw(n int) []byte {
	if n > len(r.b) {
		r.fail()
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *decoder) bytes(limit int) []byte { return r.raw(int(r.uint(uint64(limit)))) }

// Bounds by which no sum of times overflows. A session interval may be one of 136 years.
const (
	longCall = 30 * 365 * 24 * time.Hour
	longTime = 200 * 365 * 24 * time.Hour
)

func (r *decoder) span() time.Duration { return time.Duration(r.uint(uint64(longCall))) }

func (r *decoder) time() time.Duration {
	n := r.uint(2 * uint64(longTime.Microseconds()))
	if n == 0 {
		return 0
	}
	n--
	return moment(r.zero + time.Duration(int64(n>>1)^-int64(n&1))*time.Microsecond)
}

// moment is a time that is not 0, which means never.
func moment(t time.Duration) time.Duration {
	if t == 0 {
		return -1
	}
	return t
}

func (r *decoder) flags(all ...*bool) {
	n := r.uint(1<<len(all) - 1)
	for i, f := range all {
		*f = n&(1<<i) != 0
	}
}

func (r *decoder) policy() timers.Policy {
	var p timers.Policy
	for _, d := range [...]*time.Duration{&p.TTL, &p.EarlyHangup, &p.NoTimerMax, &p.MaxCall, &p.MinSE, &p.Ring, &p.AckWait, &p.T1} {
		*d = r.span()
	}
	p.Segments = int(r.uint(1 << 16))
	p.Insert = timers.Insert(r.uint(uint64(timers.InsertAlways)))
	p.Detect = timers.Detect(r.uint(uint64(timers.DetectSE)))
	p.OnExpiry = timers.OnExpiry(r.uint(uint64(timers.ExpiryBYE)))
	p.MaxEarly = int(r.uint(1 << 16))
	p.Jitter = math.Float64frombits(r.uint(math.MaxUint64))
	if !(p.Jitter >= 0 && p.Jitter <= 1) { // NaN is neither
		r.fail()
	}
	r.flags(&p.RejectSmall, &p.StrictAlive, &p.ProbeA, &p.ProbeB, &p.EndOn408, &p.ReinviteWebRTC, &p.NoInjectIdentity)
	for range r.uint(16) {
		p.Methods = append(p.Methods, r.method())
	}
	return p
}

func (r *decoder) method() timers.ProbeMethod {
	return timers.ProbeMethod(r.uint(uint64(timers.ProbeOptionsStale)))
}

func (r *decoder) flow() (f flow) {
	r.flags(&f.isSet)
	if !f.isSet {
		return f
	}
	f.conn = r.uint(math.MaxUint64)
	copy(f.addr[:], r.raw(len(f.addr)))
	f.port = uint16(r.uint(math.MaxUint16))
	f.proto = wire.Proto(r.uint(uint64(wire.WSS)))
	f.listener = uint8(r.uint(math.MaxUint8))
	return f
}

func (r *decoder) u32() uint32 { return uint32(r.uint(math.MaxUint32)) }

func (r *decoder) dialog(d *Dialog) {
	d.state = state(r.uint(uint64(over)))
	if !d.isKept() {
		r.fail()
	}
	d.mode = timers.Mode(r.uint(uint64(timers.ModeN)))
	d.reason = Reason(r.uint(uint64(Reasons - 1)))
	d.by = Ender(r.uint(uint64(Edge)))
	d.byeFrom = Leg(r.uint(uint64(B)))
	d.dared = uint8(r.uint(math.MaxUint8))
	r.flags(&d.noAck, &d.bypassed, &d.mute)
	d.minSE = r.u32()
	for _, t := range [...]*time.Duration{&d.answered, &d.expires, &d.byeBy, &d.ended} {
		*t = r.time()
	}
	if d.answered == 0 {
		r.fail()
	}
	var changes [numFields]textChange
	for f := range numFields {
		changes[f] = textChange{f, r.bytes(math.MaxUint16)}
	}
	if !d.texts.putUpTo(2*maxText+2*MaxTag, changes[:]) {
		r.fail()
	}
	r.media(&d.media)
	for _, l := range [...]Leg{A, B} {
		r.sequence(&d.seq[l])
		r.leg(&d.leg[l], &d.call.store.names)
	}
}

func (r *decoder) leg(x *leg, names *names) {
	x.proof = r.time()
	x.se = r.u32()
	x.allow = names.hold(r.bytes(maxNameLen))
	x.supported = names.hold(r.bytes(maxNameLen))
	x.method = r.method()
	x.refused = uint8(r.uint(math.MaxUint8))
	x.proven = strength(r.uint(uint64(strongly)))
	r.flags(&x.refreshes, &x.updates, &x.unsafe, &x.answers, &x.byeDone)
}

func (r *decoder) sequence(s *Sequence) {
	r.flags(&s.seen)
	for _, n := range [...]*uint32{&s.base, &s.loIn, &s.hiIn, &s.hiOut} {
		*n = r.u32()
	}
	for range r.uint(maxEpochs) {
		s.add(epoch{first: r.u32(), delta: r.u32()})
	}
}

func (r *decoder) media(m *Media) {
	var text [4]Body
	for _, l := range [...]Leg{A, B} {
		s := &m.side[l]
		r.flags(&s.keep)
		s.is = nature(r.uint(uint64(isThere | isWebRTC)))
		if b := r.raw(8); b != nil {
			s.sum = binary.BigEndian.Uint64(b)
		}
		r.transaction(&s.invite)
		r.transaction(&s.within)
		b := Body{SDP: r.bytes(maxSDP), Type: r.bytes(maxContentType)}
		if len(b.SDP) > 0 {
			text[committedBody(l)] = b
		}
	}
	if !r.bad {
		m.setBodies(&text)
	}
}

func (r *decoder) transaction(t *transaction) {
	isOver := false
	r.flags(&isOver, &t.asks, &t.later)
	if isOver {
		t.state, t.cseq = finished, r.u32()
	}
}
