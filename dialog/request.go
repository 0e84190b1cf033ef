package dialog

import (
	"bytes"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// maxDared is how many challenges to a BYE are borne: one, and two for nonces that
// were stale.
const maxDared = 3

// A Ref is a dialog and the leg that speaks. The zero Ref is none.
type Ref struct {
	d    *Dialog
	key  uint64
	From Leg
}

// Known says whether there is a dialog.
func (r Ref) Known() bool { return r.d != nil }

// holdsLocked says whether the Ref still means the dialog that it was made for.
func (r Ref) holdsLocked() bool { return r.d.key == r.key && r.d.state != over && !r.d.call.done }

// Find finds the dialog of an in-dialog request: by the ID that our Route carried,
// if the Call-ID and both tags are its own, else by those alone (spec E.1). Where
// both tags are the same, fromCaller tells the direction.
func (s *Store) Find(id ID, m *wire.Msg, fromCaller bool) Ref {
	callID, from, to := m.Bytes(m.CallID), m.Bytes(m.From.Tag), m.Bytes(m.To.Tag)
	down := s.keyOf(callID, from, to) // from the caller
	up := down
	if !bytes.Equal(from, to) {
		up = s.keyOf(callID, to, from)
	}
	sameTags := down == up
	if c := s.Get(id); c != nil && id != 0 {
		if r := c.find(down, up); r.Known() {
			return r.turn(sameTags, fromCaller)
		}
	}
	for _, key := range [2]uint64{down, up} {
		id, ok := s.lookUp(key)
		if !ok {
			continue
		}
		if c := s.Get(id); c != nil {
			if r := c.find(down, up); r.Known() {
				return r.turn(sameTags, fromCaller)
			}
		}
	}
	return Ref{}
}

// IsOver says whether the dialog of a request ended within the last 64*T1.
func (s *Store) IsOver(m *wire.Msg, now time.Duration) bool {
	callID, from, to := m.Bytes(m.CallID), m.Bytes(m.From.Tag), m.Bytes(m.To.Tag)
	return s.isBuried(s.keyOf(callID, from, to), now) || s.isBuried(s.keyOf(callID, to, from), now)
}

func (c *Call) find(down, up uint64) Ref {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		return Ref{}
	}
	for d := range c.dialogs {
		if d.state == none || d.state == over {
			continue
		}
		switch d.key {
		case down:
			return Ref{d: d, key: d.key, From: A}
		case up:
			return Ref{d: d, key: d.key, From: B}
		}
	}
	return Ref{}
}

func (r Ref) turn(sameTags, fromCaller bool) Ref {
	if sameTags && !fromCaller {
		r.From = B
	}
	return r
}

// Place is where the leg that a request goes to is.
func (r Ref) Place() Place {
	c := r.d.call
	c.mu.Lock()
	defer c.mu.Unlock()
	return r.d.placeLocked(r.From.Peer())
}

func (d *Dialog) placeLocked(l Leg) Place {
	c := d.call
	at := site{c.outside, c.backend}
	if d.rare != nil && d.rare.at != nil && l == B {
		at = *d.rare.at
	}
	p := Place{Outside: l == c.outer && at.outside.isSet, Backend: at.backend, Began: c.began}
	if p.Outside {
		p.Flow = at.outside.unpack()
	}
	return p
}

// A site is where a callee is.
type site struct {
	outside flow
	backend uint32
}

// answersFromLocked notes where a callee is that is not the one that the call is at.
func (d *Dialog) answersFromLocked(t Target) {
	c := d.call
	at := site{c.outside, t.Backend}
	if c.outer == B {
		at = site{packFlow(t.Flow), c.backend}
	}
	if at != (site{c.outside, c.backend}) {
		d.rareLocked().at = &at
	}
}

// A Verdict says what becomes of an in-dialog request.
type Verdict struct {
	Status int         // answer it with this, 0 = forward it
	CSeq   uint32      // number to forward it with
	RAck   uint32      // CSeq number in RAck, of a PRACK
	Duty   timers.Duty // what happens to its session timer; Reject goes with Status 422
	Tx     *Tx         // to be told of its responses; nil when there is nothing to tell
}

// Request takes a request inside the dialog, not ACK and not CANCEL, before it is
// forwarded (spec C.3, D, E.2). from is the flow it came over, learned the Min-SE of
// a 422 to its sender a short time ago, 0 = none.
func (r Ref) Request(fx *Effects, m *wire.Msg, from Flow, learned uint32, now time.Duration) Verdict {
	d, c := r.d, r.d.call
	c.mu.Lock()
	defer c.mu.Unlock()
	v := Verdict{CSeq: m.CSeq}
	if !r.holdsLocked() {
		return v
	}
	if d.state == terminating {
		v.Status = 481
		if m.Method == wire.BYE {
			v.Status = 200
			d.byeEndedLocked(fx, r.From, now)
			c.settleLocked(fx, now)
		}
		return v
	}
	t := &Tx{ref: r, method: m.Method, cseq: m.CSeq}
	if m.Method == wire.INVITE || m.Method == wire.UPDATE {
		t.ask = AskOf(m)
		v.Duty = c.policy.Request(t.ask, learned)
		if v.Duty.Reject {
			v.Status = 422
			return v
		}
		t.forwarded = v.Duty.Forwarded
		t.contact = bytes.Clone(firstContact(m))
		t.flow = packFlow(from)
	}
	x := &d.leg[r.From]
	v.CSeq = d.seq[r.From].Pass(m.CSeq)
	x.open = saturated(x.open)
	if m.Method == wire.INVITE {
		x.invite = m.CSeq
	}
	if m.Method == wire.PRACK {
		v.RAck = d.rackLocked(r.From, m)
	}
	switch m.Method {
	case wire.INVITE, wire.UPDATE, wire.PRACK:
		d.media.Request(r.From, m.Method, m.CSeq, BodyOf(m))
	case wire.BYE:
		target, ok := d.targetLocked(r.From.Peer())
		t.isAstray = ok && !bytes.Equal(target, m.Bytes(m.RURI))
		d.hangUpLocked(r.From, now)
	}
	d.learnLocked(r.From, m)
	d.seenLocked(r.From, now)
	c.settleLocked(fx, now)
	v.Tx = t
	return v
}

// rackLocked translates the CSeq number that a PRACK acknowledges, which is one of
// its own direction. 0 = there is none.
func (d *Dialog) rackLocked(from Leg, m *wire.Msg) uint32 {
	_, n, ok := RAckNumber(m)
	if !ok {
		return 0
	}
	return d.seq[from].Map(n)
}

// RAckNumber finds the CSeq number in RAck (RFC 3262 7.2).
func RAckNumber(m *wire.Msg) (at wire.Span, n uint32, ok bool) {
	i := m.First(wire.KindRAck)
	if i < 0 {
		return at, 0, false
	}
	v := m.Headers[i].Value
	b := m.Bytes(v)
	digits := func(p int) int {
		for p < len(b) && '0' <= b[p] && b[p] <= '9' {
			p++
		}
		return p
	}
	p := digits(0)
	start := p
	for start < len(b) && (b[start] == ' ' || b[start] == '\t' || b[start] == '\r' || b[start] == '\n') {
		start++
	}
	end := digits(start)
	if p == 0 || start == p || end == start || end-start > 10 || end == len(b) {
		return at, 0, false
	}
	var sum uint64
	for _, c := range b[start:end] {
		sum = sum*10 + uint64(c-'0')
	}
	if sum > maxCSeq {
		return at, 0, false
	}
	return wire.Span{Start: v.Start + uint16(start), End: v.Start + uint16(end)}, uint32(sum), true
}

// hangUpLocked notes the BYE of a leg that is forwarded.
func (d *Dialog) hangUpLocked(from Leg, now time.Duration) {
	if d.state == early && from == A { // 15: as good as a CANCEL
		d.call.gaveUp = true
	}
	if d.state != confirmed && d.state != waitsForAck {
		return
	}
	d.state, d.byeFrom = ending, from
	d.ended, d.by, d.reason = now, enderOf(from), ByBYE
	d.byeBy = now + d.call.linger() + earlyGrace
	d.quietLocked()
}

// Ack takes the ACK for a 2xx before it is forwarded and returns the number to
// forward it with: by its own number, never "the last one sent" (spec D).
func (r Ref) Ack(fx *Effects, m *wire.Msg, now time.Duration) uint32 {
	d, c := r.d, r.d.call
	c.mu.Lock()
	defer c.mu.Unlock()
	if !r.holdsLocked() {
		return m.CSeq
	}
	n := d.seq[r.From].Map(m.CSeq)
	if d.state == terminating {
		if r.From == A && !d.leg[A].byeSent { // E.4: now the callee role may
			d.byeBy = now + 2*c.linger()
			d.byeLocked(fx, A, now)
			c.settleLocked(fx, now)
		}
		return n
	}
	d.ackLocked(r.From, m, now)
	c.settleLocked(fx, now)
	return n
}

// A Tx is an in-dialog request of an endpoint that was forwarded and has no final
// response yet.
type Tx struct {
	ref       Ref
	method    wire.Method
	cseq      uint32
	ask       timers.Ask
	forwarded uint32
	insert    uint32
	contact   []byte // of a target refresh request
	flow      flow
	arrived   bool // a response came
	final     bool
	refreshed bool
	isAstray  bool // a BYE that was not addressed to the remote target
}

// Arrived is told of any 1xx, also of a 100 that goes no further: the request is not
// on its way any more, and nothing of ours can overtake it.
func (t *Tx) Arrived() {
	c := t.ref.d.call
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.ref.holdsLocked() {
		t.arriveLocked()
	}
}

func (t *Tx) arriveLocked() {
	if x := &t.ref.d.leg[t.ref.From]; !t.arrived && x.open > 0 {
		x.open--
	}
	t.arrived = true
}

// Provisional takes a 1xx as it goes back.
func (t *Tx) Provisional(m *wire.Msg, _ time.Duration) {
	d, c := t.ref.d, t.ref.d.call
	c.mu.Lock()
	defer c.mu.Unlock()
	if !t.ref.holdsLocked() || t.final || t.method != wire.INVITE {
		return
	}
	reliable := m.First(wire.KindRSeq) >= 0
	d.media.Response(t.ref.From.Peer(), t.method, t.cseq, m.Status, reliable, BodyOf(m))
	if reliable && m.Status > 100 { // RFC 6141 4: committed with it
		t.refreshLocked()
	}
}

// refreshLocked commits the target refresh of the requester (spec C.6): its Contact
// and, for the outside party, where it can be reached now.
func (t *Tx) refreshLocked() {
	d := t.ref.d
	if t.refreshed || t.method != wire.INVITE && t.method != wire.UPDATE {
		return
	}
	t.refreshed = true
	d.retargetLocked(t.ref.From, t.contact)
	if c := d.call; c.outer == t.ref.From && c.outside.isSet {
		d.moveLocked(t.flow, t.contact)
	}
}

// retargetLocked takes a new remote target of a leg.
func (d *Dialog) retargetLocked(l Leg, contact []byte) {
	if contact == nil {
		return
	}
	if !d.texts.put(textChange{contactOf(l), contact}) {
		d.mute = true
	}
}

// moveLocked follows the outside party. Where it announces another port of the
// address it is seen at, that is where it listens; else answers reach it where the
// request came from.
func (d *Dialog) moveLocked(from flow, contact []byte) {
	uri, _, ok := wire.NameAddrURI(contact)
	if u, isURI := wire.ParseURI(uri); ok && isURI && !from.proto.Reliable() {
		a, isIP := u.Addr()
		if isIP && a.Unmap().As16() == from.addr {
			from.port = 5060
			if u.PortNum != 0 {
				from.port = u.PortNum
			}
		}
	}
	if d.rare != nil && d.rare.at != nil && d.call.outer == B {
		d.rare.at.outside = from
		return
	}
	d.call.outsideLocked(from)
}

// Final takes the final response as it goes back; m is nil when it is the edge's
// own. Copies of a 2xx to a re-INVITE come again and again. It returns the
// Session-Expires to write into it, 0 = none.
func (t *Tx) Final(fx *Effects, m *wire.Msg, status int, now time.Duration) (insertSE uint32) {
	d, c := t.ref.d, t.ref.d.call
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.final {
		return t.insert
	}
	t.final = true
	if !t.ref.holdsLocked() {
		return 0
	}
	from, to := t.ref.From, t.ref.From.Peer()
	x := &d.leg[from]
	t.arriveLocked()
	var body Body
	if m != nil {
		body = BodyOf(m)
		if status < 300 {
			d.learnLocked(to, m)
		}
	}
	switch t.method {
	case wire.INVITE, wire.UPDATE, wire.PRACK:
		d.media.Response(to, t.method, t.cseq, status, status < 300, body)
	}
	if t.method == wire.INVITE && x.invite == t.cseq && status >= 300 { // else the ACK ends it
		x.invite = 0
	}
	switch {
	case t.method == wire.BYE:
		d.byeAnsweredLocked(fx, from, status, t.isAstray, now)
	case status < 300:
		t.succeededLocked(m, now)
	case status == 481 || status == 408:
		d.doubtLocked(to, now)
	}
	c.settleLocked(fx, now)
	return t.insert
}

// succeededLocked: a 2xx proves that both ends live (spec B). A refresh also moves
// the next probe.
func (t *Tx) succeededLocked(m *wire.Msg, now time.Duration) {
	d := t.ref.d
	from, to := t.ref.From, t.ref.From.Peer()
	d.leg[from].liveLocked(now)
	d.leg[to].liveLocked(now)
	d.leg[from].provedLocked(d, now)
	d.leg[to].provedLocked(d, now)
	d.leg[to].answers = d.leg[to].answers || t.method != wire.UPDATE
	if t.method != wire.INVITE && t.method != wire.UPDATE {
		return
	}
	t.refreshLocked()
	if m != nil {
		d.retargetLocked(to, bytes.Clone(firstContact(m)))
		g := d.call.policy.Success(t.ask, t.forwarded, ReplyOf(m))
		t.insert = g.InsertSE
		d.agreeLocked(g, from, now)
	}
	d.leg[from].proven, d.leg[to].proven = strongly, strongly
	d.scheduleLocked(now)
}

// byeAnsweredLocked is the final answer to an endpoint's BYE (spec E.2, E.3). Who
// sends it elsewhere to hear that there is no such dialog has not ended it.
func (d *Dialog) byeAnsweredLocked(fx *Effects, from Leg, status int, isAstray bool, now time.Duration) {
	if d.state == confirmed && d.byeBy != 0 && from != d.byeFrom { // it crossed one that was challenged
		d.hangUpLocked(from, now)
	}
	if d.state != ending {
		return
	}
	switch {
	case status == 401 || status == 407:
		// Not ended: the BYE with credentials is to come. Until then all is as it
		// was, but for a deadline.
		if from == d.byeFrom {
			d.state = confirmed
			d.byeChallengedLocked(fx, now)
		}
	case status < 300 || (status == 481 || status == 408) && !isAstray:
		d.call.forgetLocked(d, now)
	default:
		// The sender is gone all the same (RFC 3261 15.1.1); the one who refused is
		// told by us.
		d.state = terminating
		d.byeBy = now + 2*d.call.linger()
		d.leg[from].byeDone = true
		d.byeLocked(fx, from.Peer(), now)
	}
}

// byeChallengedLocked gives a challenged BYE 64*T1 to come again, but not again and again:
// that would put off all limits.
func (d *Dialog) byeChallengedLocked(fx *Effects, now time.Duration) {
	if d.dared++; d.dared > maxDared {
		d.hungUpLocked(fx, now)
		return
	}
	d.byeBy = now + d.call.linger()
	d.reason, d.ended = NoReason, 0
}

// doubtLocked: a leg was silent to the other one, or did not know the dialog. The
// other one has to hang up; we look for ourselves.
func (d *Dialog) doubtLocked(l Leg, now time.Duration) {
	if d.state == confirmed && d.isProbed(l) && d.leg[l].own == 0 {
		d.leg[l].soonLocked(now + d.call.brief(5*time.Second))
	}
}

func saturated(n uint8) uint8 {
	if n == 255 {
		return n
	}
	return n + 1
}
