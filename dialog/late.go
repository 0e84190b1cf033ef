package dialog

import (
	"math"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// A callee may answer when its call is over already: the caller has its failure, or has
// hung up on another fork. Such a 2xx goes on to the caller as long as there is a
// transaction for it (RFC 3261 16.7 step 5), which may acknowledge it and talk. If it
// does not, nobody but the edge can end the callee's call, and does, as a UAC that does
// not want an answer: by ACK and BYE (13.2.2.4). Its ACK may go past us: what shows that
// there is none are the copies of the 2xx, as with any other answer (spec E.4).

// patience is how long a caller that has its failure may take to acknowledge a 2xx, of
// which it gets a copy every now and then.
func (c *Call) patience() time.Duration { return 16 * c.policy.T1 }

// declineByLocked is when a callee that repeats its 2xx is not made to wait any longer,
// 0 = it is quiet, so that it may have its ACK, or has it. It repeats it every 8*T1 at
// least; from ack_timeout on it has given up, and both are asked.
func (d *Dialog) declineByLocked() time.Duration {
	by := d.answered + d.call.patience()
	if d.state != waitsForAck || !d.late || d.copied < by-8*d.call.policy.T1 || d.copied >= d.answered+d.call.policy.AckWait {
		return 0
	}
	return by
}

// isUnclaimedLocked says whether the caller had its time.
func (d *Dialog) isUnclaimedLocked(now time.Duration) bool {
	by := d.declineByLocked()
	return by != 0 && now >= by
}

// Refuse takes a 2xx to the INVITE that must not be passed on, because its client
// transaction is over (RFC 6026 8.9). Its callee is hung up on at once, and the call stays
// where it is; a copy of an answer that was passed on means nothing any more.
func (c *Call) Refuse(fx *Effects, m *wire.Msg, from Target, now time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, key := c.knownLocked(m)
	switch {
	case d == nil:
	case d.answered != 0:
		d.copyLocked(fx, now)
		return
	case c.answered == 0 && !c.failed: // it rings over another transaction, by which it may answer
		return
	}
	c.reviveLocked()
	if d == nil && c.mayRefuseLocked() { // first stays for whom the caller will talk to
		d = c.forkLocked(true, now)
	}
	if d == nil {
		c.settleLocked(fx, now)
		return
	}
	d.beginLocked(key)
	d.answersFromLocked(from)
	d.meetLocked(m)
	d.answered, d.late = now, true
	d.state, d.ended, d.by, d.reason = terminating, now, Edge, AckMissing
	d.byeBy = now + 2*c.linger()
	d.leg[A].byeSent, d.leg[A].byeDone = true, true // it knows nothing of the dialog
	d.acknowledgeLocked(fx)
	d.byeLocked(fx, B, now)
	c.settleLocked(fx, now)
}

// mayRefuseLocked bounds the answers that are refused before one is taken: a callee may send any number.
func (c *Call) mayRefuseLocked() bool {
	return c.answered != 0 || len(c.forks()) < max(c.policy.MaxEarly, 1)
}

// declineLocked ends a dialog that the caller does not take.
func (d *Dialog) declineLocked(fx *Effects, now time.Duration) {
	d.acknowledgeLocked(fx)
	d.terminateLocked(fx, AckMissing, now)
}

// copyLocked takes a copy of a 2xx: where the edge has hung up in place of the caller,
// it acknowledges in its place.
func (d *Dialog) copyLocked(fx *Effects, now time.Duration) {
	switch {
	case d.state == terminating && d.late:
		d.acknowledgeLocked(fx)
	case d.isUnclaimedLocked(now):
		d.declineLocked(fx, now)
	}
}

// isTaken: it is a dialog of the caller's, as far as we know.
func (d *Dialog) isTaken() bool { return d.answered != 0 && !d.late }

// acknowledgeLocked sends the callee the ACK of its 2xx to the INVITE.
func (d *Dialog) acknowledgeLocked(fx *Effects) {
	if draft, ok := d.composeLocked(B, wire.ACK, d.call.invite, timers.ProbeNone, "", Body{}); ok {
		d.actLocked(fx, B, Act{Draft: draft, Method: wire.ACK})
	}
}

// claimedLocked: the caller takes the answer, all the same if it is a late one. Its failure
// has its record already, so what begins now is a call of its own.
func (d *Dialog) claimedLocked(now time.Duration) {
	c := d.call
	if d.late = false; !c.failed {
		return
	}
	c.failed, c.reported = false, false
	c.store.stats.began(now)
	c.store.stats.answered(c.setupLocked())
}

// reviveLocked brings a call that is over back into the store for one more answer,
// whatever max_dialogs says: calls that can be answered late are as few as transactions.
func (c *Call) reviveLocked() {
	if !c.done {
		return
	}
	c.revived, c.done, c.marked, c.saved = true, false, false, false
	c.store.count.Add(int64(len(c.forks())))
	c.store.add(c, math.MaxInt32)
	at, backend := c.outside, c.backend
	c.outside, c.backend = flow{}, 0
	c.outsideLocked(at)
	c.seatLocked(backend)
}

// isNamed says whether a Record-Route of ours was written for this call. The ID that a
// revived one had names nothing any more.
func (c *Call) isNamed(id ID) bool { return id == c.id || c.revived && c.store.Get(id) == nil }
