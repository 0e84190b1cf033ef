package dialog

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// state is where a dialog is (spec E.2).
type state uint8

const (
	none        state = iota // the INVITE has no To tag yet
	early                    // a provisional response came
	waitsForAck              // the 2xx was forwarded
	confirmed                // its ACK was seen
	ending                   // the BYE of one of the two was forwarded
	terminating              // the edge sent BYEs
	over
)

var stateWords = [...]string{"ringing", "ringing", "unacknowledged", "confirmed", "ending", "terminating", "over"}

func (s state) String() string { return stateWords[s] }

// earlyGrace is what is added to 64*T1 for stragglers (spec C.7, E.4).
const earlyGrace = 5 * time.Second

// A Dialog is one To tag of a call. The call's mutex guards it.
type Dialog struct {
	call     *Call
	key      uint64
	texts    texts
	media    Media
	seq      [2]Sequence // by sender
	leg      [2]leg
	answered time.Duration // t0: when its first 2xx was forwarded
	copied   time.Duration // when a copy of that 2xx came last
	expires  time.Duration // se_exp of RFC 4028, 0 = none
	byeBy    time.Duration // when a BYE must have had its effect; deadline in ending and terminating
	ended    time.Duration
	rare     *rare
	minSE    uint32 // largest Min-SE seen
	state    state
	mode     timers.Mode
	reason   Reason
	by       Ender
	byeFrom  Leg   // in ending
	dared    uint8 // BYEs that were challenged
	noAck    bool  // the ACK never came, both legs live
	doubted  bool  // the ACK is overdue and the legs were asked
	bypassed bool  // the caller ignores Record-Route: its requests do not come here
	late     bool  // its answer came when the caller had a failure, or does not get there at all
	mute     bool  // texts of a leg cannot be kept: no leg is probed on its behalf
}

// rare is what few dialogs have, and most only at their end.
type rare struct {
	stops [2]func() // of our BYEs under way
	at    *site     // where the callee is, if not where the call is
}

func (d *Dialog) rareLocked() *rare {
	if d.rare == nil {
		d.rare = new(rare)
	}
	return d.rare
}

// A leg is what is known of one side of a dialog.
type leg struct {
	proof     time.Duration // V: last proof that it lives
	probeAt   time.Duration // next probe, 0 = none
	se        uint32        // Session-Expires as the leg believes it, 0 = none
	invite    uint32        // CSeq number of its INVITE that is not finished
	strong    uint32        // seconds after the answer of the last proof that was more than weak
	allow     uint16        // names
	supported uint16
	late      uint16             // seconds for which our own load put the probe off
	method    timers.ProbeMethod // that worked
	refused   uint8              // methods that did not, as bits, and challenged
	last      timers.Class       // of the last probe
	retries   uint8              // transient failures in a row
	failures  uint8              // probes in a row without proof
	glares    uint8              // 491s in a row
	own       uint8              // our requests to it that are not answered
	open      uint8              // its own requests that may still be on their way
	blocked   uint8              // how often the next probe had to wait, in a row
	reoffer   bool               // a re-INVITE of ours is under way
	refreshes bool               // it believes it is the refresher
	updates   bool               // it allows UPDATE
	unsafe    bool               // a re-INVITE may do harm
	answers   bool               // it answered a request other than UPDATE
	proven    strength
	turn      bool // it has its turn to be probed, at probeAt
	byeDone   bool // in terminating
	byeSent   bool
	retried   bool // 422 or 500 to BYE: once
}

// provedLocked notes a proof that was more than weak.
func (x *leg) provedLocked(d *Dialog, now time.Duration) {
	if d.answered != 0 {
		x.strong = uint32(max(now-d.answered, 0) / time.Second)
	}
}

// strength is that of the last proof of life that a leg gave.
type strength uint8

const (
	not strength = iota
	weakly
	strongly
)

// learnLocked notes what a message of a leg says of its abilities.
func (d *Dialog) learnLocked(l Leg, m *wire.Msg) {
	x, names := &d.leg[l], &d.call.store.names
	if i := m.First(wire.KindAllow); i >= 0 {
		if x.allow = names.swap(x.allow, joined(m, wire.KindAllow)); x.allow != 0 {
			x.updates = names.listsUpdate(x.allow)
		} else {
			x.updates = m.Lists(wire.KindAllow, "UPDATE")
		}
	}
	if i := m.First(wire.KindSupported); i >= 0 {
		x.supported = names.swap(x.supported, joined(m, wire.KindSupported))
	}
	if n, ok := timers.ParseMinSE(m.Value(wire.KindMinSE)); ok {
		d.minSE = max(d.minSE, n)
	}
}

// meetLocked takes from a response what makes the dialog: the callee's tag, remote
// target and route set (12.1.2), and its abilities.
func (d *Dialog) meetLocked(m *wire.Msg) {
	d.learnLocked(B, m)
	contact, routes := d.texts.get(contactB), d.texts.get(routesB)
	if c := firstContact(m); c != nil {
		contact = c
	}
	ok := true
	if m.First(wire.KindRecordRoute) >= 0 {
		routes, ok = d.call.recordRoutesLocked(m, B)
	}
	ruri := d.texts.ruri()
	if bytes.Equal(ruri, m.Bytes(m.To.URI)) {
		ruri = nil
	}
	ok = ok && d.texts.put(textChange{ruriText, ruri}, textChange{toText, m.Bytes(m.To.Value)}, textChange{contactB, contact}, textChange{routesB, routes})
	if d.mute = !ok; !ok {
		d.texts.name(m.Bytes(m.To.Tag))
	}
}

// keepsBodies says whether the call may ever need the SDP of a leg.
func (d *Dialog) keepsBodies() bool {
	p := d.call.policy
	if p.TTL == 0 || d.call.noInject {
		return false
	}
	return slices.Contains(p.Methods, timers.ProbeReinvite)
}

// forgoBodies is trimBodies as far as it can be told before the answer is taken, which
// then need not be copied.
func (d *Dialog) forgoBodies() {
	for _, l := range [2]Leg{A, B} {
		if !d.keepsBodies() || d.mode == timers.ModeN || d.sparesOffers(l) {
			d.media.Keep(l.Peer(), false)
		}
	}
}

// sparesOffers says whether a leg is asked in another way before a re-INVITE is thought
// of.
func (d *Dialog) sparesOffers(l Leg) bool {
	for _, m := range d.call.policy.Methods {
		switch {
		case m == timers.ProbeReinvite:
			return false
		case d.leg[l].refused&bit(m) == 0 && d.canProbeBy(l, m):
			return true
		}
	}
	return false
}

// trimBodies lets go of bodies that no re-INVITE will need: those for a leg that
// takes UPDATE, or no offers, and all of a call that is not probed (spec E.6). An
// exchange that is not complete yet, or was not understood, may still be followed by
// one that is needed.
func (d *Dialog) trimBodies() {
	for _, l := range [2]Leg{A, B} {
		needed := d.keepsBodies() && d.mode != timers.ModeN && !d.sparesOffers(l) && d.bearsOffersLocked(l)
		d.media.Keep(l.Peer(), needed)
	}
}

// agreeLocked takes what a 2xx says of the session timer, as each leg saw it
// (spec A.4, A.5). requester sent the request.
func (d *Dialog) agreeLocked(g timers.Agreement, requester Leg, now time.Duration) {
	r, s := &d.leg[requester], &d.leg[requester.Peer()]
	r.se, r.refreshes = g.RequesterSE, g.RequesterRefreshes
	s.se, s.refreshes = g.ResponderSE, g.ResponderRefreshes
	d.expires = 0
	if g.SE > 0 {
		d.expires = now + time.Duration(g.SE)*time.Second
	}
	if d.state == waitsForAck || d.state == early {
		return
	}
	before := d.mode
	if d.mode = d.mode.After(g); d.mode != before && before == timers.ModeN {
		d.trimBodies()
		d.scheduleLocked(now)
	}
}

// ackLocked takes the ACK of the 2xx, of the INVITE or of a re-INVITE, from a leg.
func (d *Dialog) ackLocked(from Leg, m *wire.Msg, now time.Duration) {
	d.media.Ack(from, m.CSeq, BodyOf(m))
	if d.leg[from].invite == m.CSeq {
		d.leg[from].invite = 0
	}
	if d.state == waitsForAck && from == A && m.CSeq == d.call.invite {
		d.state = confirmed
		d.doubted = false
		d.trimBodies() // the ACK may have answered an offer
		d.claimedLocked(now)
		d.scheduleLocked(now)
	}
	d.seenLocked(from, now)
}

// seenLocked: a message of the caller came through us, so that it does follow our
// Record-Route and may be sent requests of our own again (spec D, E.4).
func (d *Dialog) seenLocked(from Leg, now time.Duration) {
	if from == A && d.late && d.state == waitsForAck {
		d.claimedLocked(now)
	}
	if from != A || !d.noAck && !d.bypassed {
		return
	}
	d.noAck, d.bypassed = false, false
	if d.state == waitsForAck {
		d.state = confirmed
	}
	d.leg[A].liveLocked(now)
	d.leg[B].liveLocked(now) // nobody asked it in the meantime; its time runs from now
	d.scheduleLocked(now)
}

// isToBeProbed says whether the configuration wants a leg probed, if it can be.
func (d *Dialog) isToBeProbed(l Leg) bool {
	p := d.call.policy
	return p.TTL > 0 && (l == A && p.ProbeA || l == B && p.ProbeB)
}

// isProbed says whether the edge asks a leg for signs of life.
func (d *Dialog) isProbed(l Leg) bool {
	if !d.isToBeProbed(l) || d.mode != timers.ModeR && d.mode != timers.ModeP {
		return false
	}
	return !d.call.noInject && !d.noAck && !d.bypassed && !d.mute &&
		!d.seq[l.Peer()].Exhausted() && d.methodLocked(l) != timers.ProbeNone
}

// modeNow is how the call is watched: not at all while the caller is not heard.
func (d *Dialog) modeNow() timers.Mode {
	if d.noAck || d.bypassed {
		return timers.ModeN
	}
	return d.mode
}

// refreshSoon says whether a session timer runs that is worth the name: an endpoint
// may ask for one of 136 years.
func (d *Dialog) refreshSoon() bool {
	se := time.Duration(max(d.leg[A].se, d.leg[B].se)) * time.Second
	return d.expires != 0 && se <= d.call.policy.NoTimerMax
}

// capLocked is when no_timer_call_duration ends the call, 0 = it does not apply. It
// applies to calls that nobody watches, also those whose legs prove no more than that
// something answers, and those that are left to a session timer which ran out. A leg
// that proved more has the time from then on, so that it is not overdue at its first
// weak proof.
func (d *Dialog) capLocked() time.Duration {
	p := d.call.policy
	if p.NoTimerMax <= 0 {
		return 0
	}
	if d.modeNow() == timers.ModeN || d.doubted || p.TTL == 0 && d.byeBy == 0 && !d.refreshSoon() {
		return d.answered + p.NoTimerMax
	}
	at := time.Duration(0)
	for _, l := range [2]Leg{A, B} {
		switch x := &d.leg[l]; {
		case !d.isToBeProbed(l):
		case !d.isProbed(l):
			at = d.answered + p.NoTimerMax
		case x.proven == weakly:
			at = timers.Sooner(at, d.answered+time.Duration(x.strong)*time.Second+p.NoTimerMax)
		}
	}
	return at
}

// dueLocked is when something has to be done, 0 = never.
func (d *Dialog) dueLocked() time.Duration {
	c := d.call
	switch d.state {
	case early:
		if c.answered != 0 {
			return c.answered + c.linger() + earlyGrace
		}
		return 0
	case ending, terminating:
		return d.byeBy
	case none, over:
		return 0
	}
	due, _ := d.limitLocked()
	due = timers.Sooner(due, d.byeBy)
	if d.state == waitsForAck && !d.doubted && !d.noAck && !d.bypassed {
		due = timers.Sooner(due, d.answered+c.policy.AckWait)
	}
	due = timers.Sooner(due, d.declineByLocked())
	if d.expires != 0 {
		due = timers.Sooner(due, d.expires+expiryGrace)
	}
	return timers.Sooner(due, timers.Sooner(d.leg[A].probeAt, d.leg[B].probeAt))
}

// firstContact is the first Contact value, nil without one.
func firstContact(m *wire.Msg) []byte {
	it := m.Values(wire.KindContact)
	v, ok := it.Next()
	if !ok {
		return nil
	}
	return m.Bytes(v.Span)
}

// joined is the value of all header lines of a kind.
func joined(m *wire.Msg, k wire.Kind) []byte {
	first := m.First(k)
	var all []byte
	for i := first; i >= 0 && i < len(m.Headers); i++ {
		if h := &m.Headers[i]; h.Kind == k {
			if i == first {
				all = m.Bytes(h.Value)
				continue
			}
			all = append(append(all, ", "...), m.Bytes(h.Value)...) // the bytes of a message have no room behind them
		}
	}
	return all
}

// recordRoutesLocked is the route set between us and a leg, as a Route value: of the
// INVITE all Record-Route values in order, of a response those above our own ones,
// reversed (12.1.1, 12.1.2). It is false when the set is beyond its bounds.
//
// Where the nearest hop is ourselves, of another pass of the same call (a spiral
// through a PBX that does not record its route), requests have both our Routes on
// top and find one of the two calls only: neither may shift numbers then. Nor where
// a callee returns Record-Routes and has changed ours: the rest is not known then, and
// what goes past it would be told that there is no such dialog.
func (c *Call) recordRoutesLocked(m *wire.Msg, l Leg) ([]byte, bool) {
	if m.First(wire.KindRecordRoute) < 0 {
		return nil, true
	}
	var hops [maxHops][]byte
	n, size, spirals := 0, 0, false // spirals: the hop looked at is ours, of another pass
	it := m.Values(wire.KindRecordRoute)
	for {
		v, ok := it.Next()
		if !ok {
			if l == B { // without our own value nobody knows what is behind us
				c.noInject = true
				n, size = 0, 0
			}
			break
		}
		b := m.Bytes(v.Span)
		id, isOwn := c.store.ownRoute(b)
		if isOwn && l == B && c.isNamed(id) {
			break
		}
		if spirals = isOwn; spirals && n == 0 && l == A {
			c.noInject = true
		}
		if n == maxHops {
			return nil, false
		}
		hops[n] = b
		n++
		size += len(b) + 2
	}
	if spirals && l == B && n > 0 {
		c.noInject = true
	}
	if n == 0 || size > maxRoutes {
		return nil, n == 0
	}
	set := make([]byte, 0, size)
	for i := range n {
		hop := hops[i]
		if l == B {
			hop = hops[n-1-i]
		}
		if i > 0 {
			set = append(set, ", "...)
		}
		set = append(set, hop...)
	}
	return set, true
}

// ownRoute says whether a Record-Route value is ours, and which call it is of.
func (s *Store) ownRoute(value []byte) (ID, bool) {
	uri, _, ok := wire.NameAddrURI(value)
	if u, isURI := wire.ParseURI(uri); ok && isURI && u.HasUser {
		return s.Own(u.User)
	}
	return 0, false
}

// AskOf reads what a session refresh request says of the session timer.
func AskOf(m *wire.Msg) timers.Ask {
	a := timers.Ask{Supported: m.Lists(wire.KindSupported, "timer") || m.Lists(wire.KindRequire, "timer")}
	a.SE, a.Refresher, a.HasSE, a.BadSE = sessionExpires(m)
	a.MinSE, a.HasMinSE = timers.ParseMinSE(m.Value(wire.KindMinSE))
	return a
}

// ReplyOf reads what its 2xx says.
func ReplyOf(m *wire.Msg) timers.Reply {
	r := timers.Reply{RequireTimer: m.Lists(wire.KindRequire, "timer")}
	r.Supported = r.RequireTimer || m.Lists(wire.KindSupported, "timer")
	r.SE, r.Refresher, r.HasSE, r.BadSE = sessionExpires(m)
	return r
}

func sessionExpires(m *wire.Msg) (n uint32, r timers.Refresher, ok, bad bool) {
	first := m.First(wire.KindSessionExpires)
	if first < 0 {
		return 0, r, false, false
	}
	for i := first + 1; i < len(m.Headers); i++ {
		if m.Headers[i].Kind == wire.KindSessionExpires {
			return 0, r, false, true
		}
	}
	n, r, ok = timers.ParseSessionExpires(m.Bytes(m.Headers[first].Value))
	return n, r, ok, !ok
}

func draw() float64 { return rand.Float64() }
