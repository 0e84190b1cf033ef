package dialog

import (
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

const (
	// expiryGrace is how long after the end of a session interval the edge looks
	// for itself: endpoints end a call before it (spec A.6).
	expiryGrace = 5 * time.Second
	// usualTTL is the session_ttl that our waits are meant for; with another one
	// they are shorter in proportion.
	usualTTL = 600 * time.Second
	// labTTL is the smallest one outside of a lab.
	labTTL = 90 * time.Second
	// byeSkip is how far a BYE jumps ahead after a 500: the leg may have seen numbers
	// that never came through us (spec C.8).
	byeSkip = 100
)

// brief is a wait that a standard or the eye of a person asks for: it is only shorter
// where session_ttl is that of a lab.
func (c *Call) brief(d time.Duration) time.Duration {
	if c.policy.TTL >= labTTL {
		return d
	}
	return c.scaled(d)
}

// scaled is a wait that suits session_ttl.
func (c *Call) scaled(d time.Duration) time.Duration {
	ttl := c.policy.TTL
	if ttl <= 0 || ttl >= usualTTL {
		return d
	}
	return time.Duration(float64(d) * float64(ttl) / float64(usualTTL))
}

// Due does what is due: limits first, then probes, at that pace.
func (c *Call) Due(fx *Effects, pace *timers.Pace, now time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		return
	}
	c.armed = 0
	for d := range c.dialogs {
		d.expireLocked(fx, pace, now)
	}
	c.settleLocked(fx, now)
}

// End ends an answered call by the will of an operator. It is false when there is
// nothing to end.
func (c *Call) End(fx *Effects, now time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := false
	for d := range c.dialogs {
		if d.state == waitsForAck || d.state == confirmed {
			d.terminateLocked(fx, Admin, now)
			found = true
		}
	}
	c.settleLocked(fx, now)
	return found
}

// limitLocked is the first of the armed limits and its reason (spec B): the hard
// one, the passive one, the proof of life.
func (d *Dialog) limitLocked() (at time.Duration, why Reason) {
	p := d.call.policy
	if p.MaxCall > 0 {
		at, why = d.answered+p.MaxCall, MaxDuration
	}
	if t := d.capLocked(); t != 0 && (at == 0 || t < at) {
		at, why = t, NoTimerDuration
	}
	if t := d.verifyByLocked(); t != 0 && (at == 0 || t < at) {
		at, why = t, SessionTTL
	}
	return at, why
}

// verifyByLocked is when the proofs of the probed legs run out, 0 = never.
func (d *Dialog) verifyByLocked() time.Duration {
	var at time.Duration
	for _, l := range [2]Leg{A, B} {
		if d.state == confirmed && d.isProbed(l) {
			at = timers.Sooner(at, d.verifyOfLocked(l))
		}
	}
	return at
}

func (d *Dialog) expireLocked(fx *Effects, pace *timers.Pace, now time.Duration) {
	c := d.call
	switch d.state {
	case none, over:
		return
	case early:
		if c.answered != 0 && now >= c.answered+c.linger()+earlyGrace {
			c.forgetLocked(d, now)
		}
		return
	case ending: // its transaction is over, whatever came of it
		if now >= d.byeBy {
			c.forgetLocked(d, now)
		}
		return
	case terminating:
		d.expireByesLocked(fx, now)
		return
	}
	if at, why := d.limitLocked(); at != 0 && now >= at {
		d.terminateLocked(fx, why, now)
		return
	}
	if d.byeBy != 0 && now >= d.byeBy { // a challenged BYE never came again
		d.hungUpLocked(fx, now)
		return
	}
	if d.expires != 0 && now >= d.expires+expiryGrace {
		d.expires = 0
		if d.sessionExpiredLocked(fx, now) {
			return
		}
	}
	if d.state == waitsForAck {
		if d.isUnclaimedLocked(now) {
			d.declineLocked(fx, now)
			return
		}
		d.ackOverdueLocked(fx, now)
	}
	d.probeLocked(fx, pace, now)
}

// sessionExpiredLocked is the end of the RFC 4028 interval without a refresh (spec
// A.6). It is true when that ended the dialog.
func (d *Dialog) sessionExpiredLocked(fx *Effects, now time.Duration) bool {
	switch d.call.policy.OnExpiry {
	case timers.ExpiryBYE:
		d.terminateLocked(fx, SessionExpired, now)
		return true
	case timers.ExpiryDropState:
		d.ended, d.by, d.reason = now, Edge, StateDropped
		d.call.forgetLocked(d, now)
		return true
	}
	if d.state != confirmed {
		return false
	}
	for _, l := range [2]Leg{B, A} {
		if d.isProbed(l) && d.leg[l].own == 0 {
			d.leg[l].soonLocked(now)
		}
	}
	return false
}

// ackOverdueLocked is ack_timeout (spec E.4). A callee that misses the ACK repeats
// its 2xx to the end; one that is quiet has it, so the caller sends past us: then
// nothing is injected, the numbers of its requests could not be translated.
func (d *Dialog) ackOverdueLocked(fx *Effects, now time.Duration) {
	c := d.call
	if d.doubted || d.noAck || d.bypassed || now < d.answered+c.policy.AckWait {
		return
	}
	if c.noInject || d.copied+c.linger()/2 < d.answered+c.policy.AckWait {
		d.bypassed, d.expires = true, 0 // refreshes would not be seen either
		d.claimedLocked(now)
		return
	}
	d.doubted = true
	if !d.canAskLocked(B) {
		d.unacknowledgedLocked(fx, B, now)
		return
	}
	d.leg[B].probeAt = now
}

// terminateLocked ends a dialog by BYE on both legs, each by itself (spec C.8). A
// call whose ACK is missing must not get one from the callee's side before 64*T1
// (RFC 3261 15).
func (d *Dialog) terminateLocked(fx *Effects, why Reason, now time.Duration) {
	wasUnacknowledged := d.state == waitsForAck && !d.noAck
	d.state = terminating
	d.ended, d.by, d.reason = now, Edge, why
	d.byeBy = now + 2*d.call.linger()
	d.quietLocked()
	d.byeLocked(fx, B, now)
	if ackBy := d.answered + d.call.linger(); wasUnacknowledged && now < ackBy {
		d.byeBy = ackBy
		return
	}
	d.byeLocked(fx, A, now)
}

// hungUpLocked ends a dialog whose leg wanted to hang up, and could not.
func (d *Dialog) hungUpLocked(fx *Effects, now time.Duration) {
	d.terminateLocked(fx, ByBYE, now)
	d.by = enderOf(d.byeFrom)
}

// quietLocked stops everything but the end.
func (d *Dialog) quietLocked() {
	for l := range d.leg {
		d.leg[l].probeAt = 0
	}
	d.expires = 0
}

func (d *Dialog) expireByesLocked(fx *Effects, now time.Duration) {
	if now < d.byeBy {
		return
	}
	isEnd := true
	for _, l := range [2]Leg{B, A} { // A when its ACK never came, both after a restart
		if x := &d.leg[l]; !x.byeSent && !x.byeDone {
			isEnd = false
			d.byeBy = now + 2*d.call.linger()
			d.byeLocked(fx, l, now)
		}
	}
	if isEnd {
		d.call.forgetLocked(d, now)
	}
}

// byeLocked sends the edge's BYE to a leg.
func (d *Dialog) byeLocked(fx *Effects, l Leg, now time.Duration) {
	x := &d.leg[l]
	x.byeSent = true
	if x.byeDone {
		return
	}
	n, ok := d.seq[l.Peer()].Inject(now, d.youth())
	if !ok { // no number is left; the last one is better than none
		n = min(d.seq[l.Peer()].Highest()+1, maxCSeq)
	}
	draft, ok := d.composeLocked(l, wire.BYE, n, timers.ProbeNone, d.reasonHeader(), Body{})
	if !ok {
		d.noteLocked(fx, Untracked, l, 0)
		d.byeEndedLocked(fx, l, now)
		return
	}
	d.actLocked(fx, l, Act{Draft: draft, Method: wire.BYE})
}

// youth is the age up to which an epoch of a sequence must stay (spec D, pruning).
func (d *Dialog) youth() time.Duration { return 2 * d.call.linger() }

// Sent takes what stops a request of ours that is on its way now. A BYE is stopped
// when the leg sends its own (spec E.2), which it may have done by now.
func (a *Act) Sent(fx *Effects, stop func()) {
	d, c := a.Ref.d, a.Ref.d.call
	if a.Method != wire.BYE {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.leg[a.To()].byeDone {
		fx.Stops = append(fx.Stops, stop)
		return
	}
	d.rareLocked().stops[a.To()] = stop
}

// byeEndedLocked: a leg needs no BYE any more.
func (d *Dialog) byeEndedLocked(fx *Effects, l Leg, now time.Duration) {
	d.leg[l].byeDone = true
	if d.rare != nil && d.rare.stops[l] != nil {
		fx.Stops = append(fx.Stops, d.rare.stops[l])
		d.rare.stops[l] = nil
	}
	if d.leg[l.Peer()].byeDone {
		d.call.forgetLocked(d, now)
	}
}

// byeFinalLocked is the answer to the edge's BYE; any ends the leg, but a 500 for a
// number that is too low, which gets one more try (spec C.8).
func (d *Dialog) byeFinalLocked(fx *Effects, l Leg, status int, now time.Duration) {
	if d.state != terminating || d.leg[l].byeDone {
		return
	}
	switch {
	case status == 500 && !d.leg[l].retried:
		d.leg[l].retried = true
		for range byeSkip - 1 {
			d.seq[l.Peer()].Inject(now, 0)
		}
		d.byeLocked(fx, l, now)
		return
	case status == 401 || status == 407:
		d.noteLocked(fx, ByeChallenged, l, status)
	}
	d.byeEndedLocked(fx, l, now)
}

// reasonHeader says in a BYE why the edge ended the call (RFC 3326): the parameter
// key is the name of the limit in the configuration.
func (d *Dialog) reasonHeader() string {
	if d.late && d.reason == AckMissing {
		return "Reason: SIP;cause=487;text=\"answered too late\"\r\n"
	}
	switch d.reason {
	case SessionTTL, SessionExpired:
		return `Reason: SIP;cause=408;text="session refresh failed";key=` + d.reason.key() + "\r\n"
	case AckMissing:
		return `Reason: SIP;cause=408;text="no ACK came";key=` + d.reason.key() + "\r\n"
	case DialogGone:
		return "Reason: SIP;cause=481;text=\"dialog is gone\"\r\n"
	case NoTimerDuration, MaxDuration:
		return `Reason: Q.850;cause=31;text="max call duration";key=` + d.reason.key() + "\r\n"
	case Admin:
		return "Reason: Q.850;cause=31;text=\"ended by the operator\"\r\n"
	case ByBYE:
		return "Reason: Q.850;cause=16;text=\"the other side hung up\"\r\n"
	}
	return ""
}

// key is the configuration key that stands behind a reason, "" when there is none.
func (r Reason) key() string {
	switch r {
	case SessionTTL:
		return "session_ttl"
	case SessionExpired:
		return "on_se_expiry"
	case NoTimerDuration:
		return "no_timer_call_duration"
	case MaxDuration:
		return "max_call_duration"
	case RangTooLong:
		return "max_ring_duration"
	case AckMissing:
		return "ack_timeout"
	}
	return ""
}
