package dialog

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/store/codec"
	"github.com/sipward/sipward/timers"
)

// The state of a call is what a restart must not lose of it (spec D, Persistence, and
// E.9): its answered dialogs, what their legs believe, the translation of their CSeq
// numbers, and the policy of the INVITE as values. Transactions are lost: an offer
// under way leaves the SDP of both legs unknown.
//
// Its form is that of package codec. Times are microseconds after the INVITE, whose own
// is one of the wall's clock.
const stateVersion = 1

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
	e := encoder{codec.Begin(dst, stateVersion), c.began}
	e.policy(c.policy)
	e.Int(wall(c.began).UnixMicro())
	e.Uint(uint64(c.invite))
	e.flow(c.source.flow())
	e.flow(c.outside)
	e.Uint(uint64(c.backend))
	e.time(c.answered)
	e.Uint(uint64(c.setup))
	e.Uint(uint64(c.tagAt))
	e.Uint(uint64(c.tagLen))
	e.Uint(uint64(c.outer))
	e.Flags(c.noInject, c.reported, c.failed)
	e.Uint(uint64(live))
	for d := range c.dialogs {
		if d.isKept() {
			e.dialog(d)
		}
	}
	return e.Seal(), true
}

// isKept: a restart must not lose the dialog.
func (d *Dialog) isKept() bool { return d.state >= waitsForAck && d.state < over }

// encoder appends the parts of a state.
type encoder struct {
	codec.Writer
	zero time.Duration // that times are counted from
}

// time appends a moment; 0 stays 0, which means none.
func (e *encoder) time(t time.Duration) {
	if t == 0 {
		e.Uint(0)
		return
	}
	n := (t - e.zero).Microseconds()
	e.Uint((uint64(n)<<1 ^ uint64(n>>63)) + 1)
}

func (e *encoder) policy(p *timers.Policy) {
	for _, d := range [...]time.Duration{p.TTL, p.EarlyHangup, p.NoTimerMax, p.MaxCall, p.MinSE, p.Ring, p.AckWait, p.T1} {
		e.Uint(uint64(d))
	}
	for _, n := range [...]uint64{uint64(p.Segments), uint64(p.Insert), uint64(p.Detect), uint64(p.OnExpiry), uint64(p.MaxEarly)} {
		e.Uint(n)
	}
	e.Uint(math.Float64bits(p.Jitter))
	e.Flags(p.RejectSmall, p.StrictAlive, p.ProbeA, p.ProbeB, p.EndOn408, p.ReinviteWebRTC, p.NoInjectIdentity)
	e.Uint(uint64(len(p.Methods)))
	for _, m := range p.Methods {
		e.Uint(uint64(m))
	}
}

func (e *encoder) flow(f flow) {
	e.Flags(f.isSet)
	if f.isSet {
		e.Uint(f.conn)
		e.Raw(f.addr[:]...)
		e.Uint(uint64(f.port))
		e.Uint(uint64(f.proto))
		e.Uint(uint64(f.listener))
	}
}

func (e *encoder) dialog(d *Dialog) {
	e.Uint(uint64(d.state))
	e.Uint(uint64(d.mode))
	e.Uint(uint64(d.reason))
	e.Uint(uint64(d.by))
	e.Uint(uint64(d.byeFrom))
	e.Uint(uint64(d.dared))
	e.Flags(d.noAck, d.bypassed, d.mute, d.late)
	e.Uint(uint64(d.minSE))
	for _, t := range [...]time.Duration{d.answered, d.expires, d.byeBy, d.ended} {
		e.time(t)
	}
	for f := range numFields {
		e.Bytes(d.texts.get(f))
	}
	e.media(&d.media)
	for _, l := range [...]Leg{A, B} {
		e.sequence(&d.seq[l])
		e.leg(&d.leg[l], &d.call.store.names)
	}
}

func (e *encoder) leg(x *leg, names *names) {
	e.time(x.proof)
	e.Uint(uint64(x.se))
	e.String(names.get(x.allow))
	e.String(names.get(x.supported))
	e.Uint(uint64(x.method))
	e.Uint(uint64(x.refused))
	e.proven(x)
	e.Flags(x.refreshes, x.updates, x.unsafe, x.answers, x.byeDone)
}

// withTime is added to the strength of the last proof when the time of the last strong
// one follows, which the first states had not. Where both are one, it is known.
const withTime = uint64(strongly) + 1

func (e *encoder) proven(x *leg) {
	if x.proven == strongly || x.strong == 0 {
		e.Uint(uint64(x.proven))
		return
	}
	e.Uint(uint64(x.proven) + withTime)
	e.Uint(uint64(x.strong))
}

func (r *decoder) proven(d *Dialog, x *leg) {
	n := r.Uint(uint64(weakly) + withTime)
	x.proven = strength(n)
	switch {
	case n >= withTime:
		x.proven, x.strong = strength(n-withTime), uint32(r.Uint(uint64(longCall/time.Second)))
	case x.proven == strongly:
		x.provedLocked(d, x.proof)
	}
}

func (e *encoder) sequence(s *Sequence) {
	e.Flags(s.seen)
	for _, n := range [...]uint32{s.base, s.loIn, s.hiIn, s.hiOut} {
		e.Uint(uint64(n))
	}
	e.Uint(uint64(len(s.list())))
	for _, p := range s.list() {
		e.Uint(uint64(p.first))
		e.Uint(uint64(p.delta))
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
		e.Flags(s.keep)
		e.Uint(uint64(is))
		e.Raw(binary.BigEndian.AppendUint64(make([]byte, 0, 8), sum)...)
		e.transaction(&s.invite)
		e.transaction(&s.within)
		e.Bytes(body.SDP)
		e.Bytes(body.Type)
	}
}

// transaction appends one that is over. Another one begins anew if it comes again.
func (e *encoder) transaction(t *transaction) {
	isOver := t.state == finished
	e.Flags(isOver, t.asks, t.later)
	if isOver {
		e.Uint(uint64(t.cseq))
	}
}

// decoder reads the parts of a state.
type decoder struct {
	codec.Reader
	zero time.Duration
}

// Bounds by which no sum of times overflows. A session interval may be one of 136 years.
const (
	longCall = 30 * 365 * 24 * time.Hour
	longTime = 200 * 365 * 24 * time.Hour
)

func (r *decoder) span() time.Duration { return time.Duration(r.Uint(uint64(longCall))) }

func (r *decoder) time() time.Duration {
	n := r.Uint(2 * uint64(longTime.Microseconds()))
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

func (r *decoder) policy() timers.Policy {
	var p timers.Policy
	for _, d := range [...]*time.Duration{&p.TTL, &p.EarlyHangup, &p.NoTimerMax, &p.MaxCall, &p.MinSE, &p.Ring, &p.AckWait, &p.T1} {
		*d = r.span()
	}
	p.Segments = int(r.Uint(1 << 16))
	p.Insert = timers.Insert(r.Uint(uint64(timers.InsertAlways)))
	p.Detect = timers.Detect(r.Uint(uint64(timers.DetectSE)))
	p.OnExpiry = timers.OnExpiry(r.Uint(uint64(timers.ExpiryBYE)))
	p.MaxEarly = int(r.Uint(1 << 16))
	p.Jitter = math.Float64frombits(r.Uint(math.MaxUint64))
	if !(p.Jitter >= 0 && p.Jitter <= 1) { // NaN is neither
		r.Fail()
	}
	r.Flags(&p.RejectSmall, &p.StrictAlive, &p.ProbeA, &p.ProbeB, &p.EndOn408, &p.ReinviteWebRTC, &p.NoInjectIdentity)
	for range r.Uint(16) {
		p.Methods = append(p.Methods, r.method())
	}
	return p
}

func (r *decoder) method() timers.ProbeMethod {
	return timers.ProbeMethod(r.Uint(uint64(timers.ProbeOptionsStale)))
}

func (r *decoder) flow() (f flow) {
	r.Flags(&f.isSet)
	if !f.isSet {
		return f
	}
	f.conn = r.Uint(math.MaxUint64)
	copy(f.addr[:], r.Raw(len(f.addr)))
	f.port = uint16(r.Uint(math.MaxUint16))
	f.proto = wire.Proto(r.Uint(uint64(wire.WSS)))
	f.listener = uint8(r.Uint(math.MaxUint8))
	return f
}

func (r *decoder) dialog(d *Dialog) {
	d.state = state(r.Uint(uint64(over)))
	if !d.isKept() {
		r.Fail()
	}
	d.mode = timers.Mode(r.Uint(uint64(timers.ModeN)))
	d.reason = Reason(r.Uint(uint64(Reasons - 1)))
	d.by = Ender(r.Uint(uint64(Edge)))
	d.byeFrom = Leg(r.Uint(uint64(B)))
	d.dared = uint8(r.Uint(math.MaxUint8))
	r.Flags(&d.noAck, &d.bypassed, &d.mute, &d.late)
	d.minSE = r.Uint32()
	for _, t := range [...]*time.Duration{&d.answered, &d.expires, &d.byeBy, &d.ended} {
		*t = r.time()
	}
	if d.answered == 0 {
		r.Fail()
	}
	var changes [numFields]textChange
	for f := range numFields {
		changes[f] = textChange{f, r.Bytes(math.MaxUint16)}
	}
	if !d.texts.putUpTo(2*maxText+2*MaxTag, changes[:]) {
		r.Fail()
	}
	r.media(&d.media)
	for _, l := range [...]Leg{A, B} {
		r.sequence(&d.seq[l])
		r.leg(d, &d.leg[l])
	}
}

func (r *decoder) leg(d *Dialog, x *leg) {
	names := &d.call.store.names
	x.proof = r.time()
	x.se = r.Uint32()
	x.allow = names.hold(r.Bytes(maxNameLen))
	x.supported = names.hold(r.Bytes(maxNameLen))
	x.method = r.method()
	x.refused = uint8(r.Uint(math.MaxUint8))
	r.proven(d, x)
	r.Flags(&x.refreshes, &x.updates, &x.unsafe, &x.answers, &x.byeDone)
}

func (r *decoder) sequence(s *Sequence) {
	r.Flags(&s.seen)
	for _, n := range [...]*uint32{&s.base, &s.loIn, &s.hiIn, &s.hiOut} {
		*n = r.Uint32()
	}
	for range r.Uint(maxEpochs) {
		s.add(epoch{first: r.Uint32(), delta: r.Uint32()})
	}
}

func (r *decoder) media(m *Media) {
	var text [4]Body
	for _, l := range [...]Leg{A, B} {
		s := &m.side[l]
		r.Flags(&s.keep)
		s.is = nature(r.Uint(uint64(isThere | isWebRTC)))
		if b := r.Raw(8); b != nil {
			s.sum = binary.BigEndian.Uint64(b)
		}
		r.transaction(&s.invite)
		r.transaction(&s.within)
		b := Body{SDP: r.Bytes(maxSDP), Type: r.Bytes(maxContentType)}
		if len(b.SDP) > 0 {
			text[committedBody(l)] = b
		}
	}
	if !r.Failed() {
		m.setBodies(&text)
	}
}

func (r *decoder) transaction(t *transaction) {
	isOver := false
	r.Flags(&isOver, &t.asks, &t.later)
	if isOver {
		t.state, t.cseq = finished, r.Uint32()
	}
}
