package dialog

import (
	"bytes"
	"math"
	"slices"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

const (
	// recheck is the wait of a probe that may not go out now (spec C.3).
	recheck = time.Second
	// blockedLong is after how long of that a harmless one does.
	blockedLong = 60 * time.Second
	// maxGlares is after how many 491s in a row a probe waits for the next interval.
	maxGlares = 3
	// repeatAfter is the wait before a dialog that is said to be gone is asked again.
	repeatAfter = 2 * time.Second
	// fairChances is after how many unanswered probes a leg's deadline is not put off
	// any more by our own load.
	fairChances = 3
	// maxRetryAfter bounds what a 500 may ask for.
	maxRetryAfter = 10 * time.Second
)

// scheduleLocked sets the next probe of both legs after a proof of life: the callee
// first, the caller one to three seconds later.
func (d *Dialog) scheduleLocked(now time.Duration) {
	if d.state != confirmed || d.byeBy != 0 {
		return
	}
	next := d.call.policy.NextProbe(now, draw())
	gap := d.call.brief(time.Second + time.Duration(draw()*float64(2*time.Second)))
	for _, l := range [2]Leg{B, A} {
		x := &d.leg[l]
		x.probeAt, x.blocked, x.turn = 0, 0, false
		if d.isProbed(l) {
			x.probeAt = next
			if l == A && d.isProbed(B) {
				x.probeAt += gap
			}
		}
		x.retries, x.glares, x.failures = 0, 0, 0
	}
}

// rescheduleLocked sets the next probe of one leg.
func (d *Dialog) rescheduleLocked(l Leg, now time.Duration) {
	d.leg[l].probeAt, d.leg[l].turn = 0, false
	if d.state == confirmed && d.isProbed(l) {
		d.leg[l].probeAt = d.call.policy.NextProbe(now, draw())
	}
}

// watchLocked begins to probe a leg that was not probed: nothing allowed it, or all
// retries were spent and then something else proved that it lives. Its time runs
// from now.
func (d *Dialog) watchLocked(now time.Duration) {
	if d.state != confirmed || d.byeBy != 0 {
		return
	}
	for _, l := range [2]Leg{A, B} {
		if x := &d.leg[l]; x.probeAt == 0 && x.own == 0 && x.failures == 0 && d.isProbed(l) {
			x.proof = now
			d.rescheduleLocked(l, now)
		}
	}
}

// soonLocked brings the next probe forward, unless the leg waits for its turn already.
func (x *leg) soonLocked(at time.Duration) {
	if !x.turn {
		x.probeAt = timers.Sooner(x.probeAt, at)
	}
}

// liveLocked notes a proof of life.
func (x *leg) liveLocked(now time.Duration) { x.proof, x.failures, x.retries, x.late = now, 0, 0, 0 }

// methodLocked is how a leg is probed now: the first of the configured methods that
// it takes (spec B).
func (d *Dialog) methodLocked(l Leg) timers.ProbeMethod {
	x := &d.leg[l]
	for _, m := range d.call.policy.Methods {
		if x.refused&bit(m) == 0 && d.canProbeBy(l, m) {
			return m
		}
	}
	return timers.ProbeNone
}

// otherwiseLocked: a leg that never answered UPDATE and was silent to it twice may
// swallow it, whatever its Allow says. Then every other attempt asks in another way: a
// living call must not end for that.
func (d *Dialog) otherwiseLocked(l Leg, m timers.ProbeMethod) timers.ProbeMethod {
	x := &d.leg[l]
	if m != timers.ProbeUpdate || x.method == m || x.failures < 2 || x.failures%2 != 0 {
		return m
	}
	for _, o := range d.call.policy.Methods {
		if o != m && x.refused&bit(o) == 0 && d.canProbeBy(l, o) {
			return o
		}
	}
	return m
}

func bit(m timers.ProbeMethod) uint8 { return 1 << m }

// challenged, among the refused methods: the leg asked for credentials.
const challenged = 1 << 7

func (d *Dialog) canProbeBy(l Leg, m timers.ProbeMethod) bool {
	x := &d.leg[l]
	switch m {
	case timers.ProbeUpdate:
		return x.updates
	case timers.ProbeReinvite:
		_, ok := d.media.SentBy(l.Peer())
		return ok && !d.doubted && d.takesOffersLocked(l) // E.4: no offer before the ACK
	case timers.ProbeOptionsStale:
		return d.seq[l.Peer()].Highest() >= 2
	}
	return m == timers.ProbeOptions
}

// takesOffersLocked says whether a re-INVITE to a leg does no harm.
func (d *Dialog) takesOffersLocked(l Leg) bool {
	return d.bearsOffersLocked(l) && !d.media.Unknown(l)
}

// bearsOffersLocked is that as far as the leg goes, whatever is known of the SDP.
func (d *Dialog) bearsOffersLocked(l Leg) bool {
	return !d.leg[l].unsafe && (!d.media.WebRTC(l) || d.call.policy.ReinviteWebRTC)
}

// probeLocked sends the probes that are due.
func (d *Dialog) probeLocked(fx *Effects, pace *timers.Pace, now time.Duration) {
	for _, l := range [2]Leg{B, A} {
		x := &d.leg[l]
		if x.probeAt == 0 || now < x.probeAt {
			continue
		}
		if x.own > 0 {
			x.probeAt = now + recheck
			continue
		}
		if !d.doubted && !d.isProbed(l) { // not any more
			x.probeAt = 0
			if d.seq[l.Peer()].Exhausted() {
				d.noteLocked(fx, Exhausted, l, 0)
			}
			continue
		}
		m := d.otherwiseLocked(l, d.methodLocked(l))
		if m == timers.ProbeNone {
			x.probeAt = 0
			continue
		}
		if !d.mayProbeLocked(l, m) {
			if m = d.blockedLocked(l, now); m == timers.ProbeNone {
				continue
			}
		}
		if !x.turn {
			if wait := pace.Turn(now); wait > 0 {
				x.turn, x.probeAt = true, now+wait
				if x.failures < fairChances { // our own load must not cost the leg its time (spec E.7)
					x.late = uint16(min(time.Duration(x.late)+(wait+time.Second-1)/time.Second, math.MaxUint16))
				}
				continue
			}
		}
		x.turn = false
		d.sendProbeLocked(fx, l, m, now)
	}
}

// mayProbeLocked is spec C.3: nothing of ours may meet an offer or an INVITE under
// way, nor overtake a request of the endpoint.
func (d *Dialog) mayProbeLocked(l Leg, m timers.ProbeMethod) bool {
	peer := l.Peer()
	if d.state != confirmed && !d.doubted || d.leg[l].own > 0 || d.leg[peer].open > 0 {
		return false
	}
	if d.leg[A].invite != 0 && !(d.doubted && d.state == waitsForAck) || d.leg[B].invite != 0 || d.media.Open() && !d.doubted {
		return false
	}
	if m == timers.ProbeReinvite {
		return d.leg[peer].own == 0 && !d.doubted
	}
	return !d.leg[peer].reoffer
}

// blockedLocked puts a probe off. After a long time it chooses one that touches
// neither offer nor answer, if the leg takes it.
func (d *Dialog) blockedLocked(l Leg, now time.Duration) timers.ProbeMethod {
	x := &d.leg[l]
	x.blocked = saturated(x.blocked)
	wait := max(d.call.brief(recheck), 10*time.Millisecond)
	if d.state == confirmed && x.own == 0 && time.Duration(x.blocked-1)*wait >= d.call.scaled(blockedLong) {
		for _, m := range d.harmless() {
			if d.leg[l.Peer()].open > 0 && m != timers.ProbeOptionsStale {
				break // it would be refused for its number if ours came first
			}
			if x.refused&bit(m) == 0 && d.canProbeBy(l, m) {
				return m // which may be put off once more, by our own load
			}
		}
	}
	x.probeAt = now + wait
	return timers.ProbeNone
}

// harmless are the probes that touch neither offer nor answer. Who has chosen
// options_stale wants no number spent.
func (d *Dialog) harmless() []timers.ProbeMethod {
	if slices.Contains(d.call.policy.Methods, timers.ProbeOptionsStale) {
		return []timers.ProbeMethod{timers.ProbeOptionsStale}
	}
	return []timers.ProbeMethod{timers.ProbeUpdate, timers.ProbeOptions}
}

// sendProbeLocked makes one probe.
func (d *Dialog) sendProbeLocked(fx *Effects, l Leg, m timers.ProbeMethod, now time.Duration) {
	x, seq := &d.leg[l], &d.seq[l.Peer()]
	n, ok := uint32(0), true
	if m == timers.ProbeOptionsStale { // a number that is spent: nothing to translate later
		n = seq.Highest() - 1
	} else if n, ok = seq.Inject(now, d.youth()); !ok {
		x.probeAt = now + recheck
		return
	}
	method, body := wire.OPTIONS, Body{}
	switch m {
	case timers.ProbeUpdate:
		method = wire.UPDATE
	case timers.ProbeReinvite:
		method = wire.INVITE
		body, _ = d.media.SentBy(l.Peer())
	}
	draft, ok := d.composeLocked(l, method, n, m, "", body)
	if !ok {
		d.mute = true
		x.probeAt = 0
		d.noteLocked(fx, Untracked, l, 0)
		return
	}
	x.probeAt, x.blocked = 0, 0
	x.own++
	x.reoffer = m == timers.ProbeReinvite
	d.actLocked(fx, l, Act{Draft: draft, Method: method, Probe: m, number: n})
}

// AckFor builds the ACK for the 2xx m to an INVITE of ours (spec C.4).
func (a *Act) AckFor(m *wire.Msg) (Draft, bool) {
	d, c := a.Ref.d, a.Ref.d.call
	c.mu.Lock()
	defer c.mu.Unlock()
	l := a.To()
	if contact := firstContact(m); contact != nil {
		d.retargetLocked(l, bytes.Clone(contact))
	}
	return d.composeLocked(l, wire.ACK, a.number, timers.ProbeNone, "", Body{})
}

// Done tells what became of a request of ours: status is that of the final response
// m, or 0 for silence and for what could not be sent, with m nil.
func (a *Act) Done(fx *Effects, m *wire.Msg, status int, retryAfter, now time.Duration) (class timers.Class) {
	d, c := a.Ref.d, a.Ref.d.call
	c.mu.Lock()
	defer c.mu.Unlock()
	class = timers.Classify(status, false, c.policy.EndOn408)
	if a.Method == wire.ACK { // nobody answers it
		return class
	}
	if d.key != a.Ref.key || c.done {
		return class
	}
	l := a.To()
	if a.Probe == timers.ProbeNone {
		d.byeFinalLocked(fx, l, status, now)
		c.settleLocked(fx, now)
		return class
	}
	x := &d.leg[l]
	if x.own > 0 {
		x.own--
	}
	x.reoffer = false
	if d.state == confirmed || d.state == waitsForAck {
		switch {
		case a.mends.SDP != nil:
			d.mendedLocked(fx, l, a.mends, m, status)
		case d.doubted:
			d.doubtAnsweredLocked(fx, l, class, now)
		default:
			d.probedLocked(fx, a, m, class, retryAfter, now)
		}
	}
	c.settleLocked(fx, now)
	return class
}

// probedLocked acts on the class of an answer (spec C.5).
func (d *Dialog) probedLocked(fx *Effects, a *Act, m *wire.Msg, class timers.Class, retryAfter, now time.Duration) {
	l, p := a.To(), d.call.policy
	x := &d.leg[l]
	if a.Probe == timers.ProbeOptionsStale && class == timers.ClassOverlap && !p.StrictAlive {
		class = timers.ClassAlive // what a spent number deserves (RFC 3261 12.2.2)
	}
	if p.StrictAlive && class == timers.ClassDeadIfRepeated {
		class = timers.ClassUnknown
	}
	before := x.last
	meaning := class.After(before)
	x.last = class
	if meaning == timers.ClassDead {
		d.terminateLocked(fx, DialogGone, now)
		return
	}
	proves := meaning.Proves() && (!p.StrictAlive || meaning == timers.ClassAlive)
	if class == timers.ClassOverlap && !p.StrictAlive {
		// C.5 calls the second 500 in a row unknown. A leg that goes on to say so, for
		// numbers that its peer sent past us, say, is there all the same: it is kept,
		// and capped.
		proves = true
	}
	if proves {
		x.liveLocked(now)
		x.answers = x.answers || a.Probe != timers.ProbeUpdate
		if isWeak(a.Probe, class) {
			x.proven = weakly
		} else {
			x.proven = strongly
			x.provedLocked(d, now)
		}
	} else {
		x.failures = saturated(x.failures)
	}
	switch meaning {
	case timers.ClassAlive:
		if a.Probe == d.methodLocked(l) { // and not what replaced it for once
			x.method = a.Probe
		}
		x.glares = 0
		d.refreshedLocked(fx, a, m, now)
	case timers.ClassDeadIfRepeated:
		x.probeAt = now + d.call.brief(repeatAfter)
	case timers.ClassBusy:
		d.glareLocked(l, now)
	case timers.ClassOverlap:
		wait := min(max(retryAfter, d.call.brief(time.Second)), maxRetryAfter)
		x.probeAt = now + wait
	case timers.ClassTooSmall:
		d.tooSmallLocked(l, m, before == timers.ClassTooSmall, now)
	case timers.ClassRefusedMethod:
		d.refuseLocked(l, a.Probe, now)
	case timers.ClassRefusedSession:
		if a.Probe == timers.ProbeReinvite && m.Status == 488 {
			x.unsafe = true
		}
		d.refuseLocked(l, a.Probe, now)
	case timers.ClassWeak:
		x.refused |= bit(timers.ProbeUpdate) | bit(timers.ProbeReinvite) | bit(a.Probe)
		if x.refused&challenged == 0 {
			x.refused |= challenged
			d.noteLocked(fx, Challenged, l, m.Status)
		}
		if a.Probe == timers.ProbeOptions { // it will not answer anything else either
			x.refused &^= bit(timers.ProbeOptions)
		}
	}
	switch {
	case x.probeAt != 0:
	case proves:
		d.rescheduleLocked(l, now)
	default:
		d.retryLocked(l, a, retryAfter, now)
	}
}

// isWeak: something answered, but not as the dialog's peer would.
func isWeak(m timers.ProbeMethod, class timers.Class) bool {
	switch class {
	case timers.ClassWeak, timers.ClassOverlap:
		return true
	case timers.ClassAlive:
		return m == timers.ProbeOptions || m == timers.ProbeOptionsStale
	}
	return false
}

// retryLocked asks again before the deadline. A leg that was silent to UPDATE twice,
// and never answered one, but answers otherwise, is asked otherwise (spec B).
func (d *Dialog) retryLocked(l Leg, a *Act, retryAfter, now time.Duration) {
	x, p := &d.leg[l], d.call.policy
	if a.Probe == timers.ProbeUpdate && x.method != timers.ProbeUpdate && x.answers && x.failures > 1 {
		d.bansLocked(l, timers.ProbeUpdate)
	}
	at, ok := p.Retry(int(x.retries), now, retryAfter, d.verifyOfLocked(l))
	x.retries = saturated(x.retries)
	if !ok {
		x.probeAt = 0
		return
	}
	x.probeAt = at
}

func (d *Dialog) verifyOfLocked(l Leg) time.Duration {
	x := &d.leg[l]
	return d.call.policy.VerifyBy(x.proof) + time.Duration(x.late)*time.Second
}

// glareLocked waits as the peer that we stand for would (RFC 3261 14.1).
func (d *Dialog) glareLocked(l Leg, now time.Duration) {
	x := &d.leg[l]
	if x.glares++; x.glares >= maxGlares {
		x.glares = 0
		return
	}
	// Towards the callee we stand for the caller, who chose the Call-ID.
	x.probeAt = now + d.call.brief(timers.RetryGlare(l == A, draw()))
}

// tooSmallLocked takes the Min-SE of a 422 and tries once more. It only concerns a
// leg with a session timer.
func (d *Dialog) tooSmallLocked(l Leg, m *wire.Msg, again bool, now time.Duration) {
	x := &d.leg[l]
	n, ok := timers.ParseMinSE(m.Value(wire.KindMinSE))
	if !ok || x.se == 0 || n <= x.se {
		return
	}
	x.se = n
	d.minSE = max(d.minSE, n)
	if !again {
		x.probeAt = now
	}
}

// refuseLocked never uses a method again for this leg, and the next one at once.
func (d *Dialog) refuseLocked(l Leg, m timers.ProbeMethod, now time.Duration) {
	if d.bansLocked(l, m) {
		d.leg[l].probeAt = now
	}
}

// bansLocked takes a method from a leg, unless it is the last one.
func (d *Dialog) bansLocked(l Leg, m timers.ProbeMethod) bool {
	x := &d.leg[l]
	x.refused |= bit(m)
	if d.methodLocked(l) == timers.ProbeNone {
		x.refused &^= bit(m)
		return false
	}
	if m == timers.ProbeUpdate && d.keepsBodies() { // a re-INVITE may be needed now (spec E.6)
		d.media.Keep(l.Peer(), true)
	}
	return true
}

// refreshedLocked takes what a 2xx to our own refresh says: the leg's view of the
// session timer, its target, and for a re-INVITE its media.
func (d *Dialog) refreshedLocked(fx *Effects, a *Act, m *wire.Msg, now time.Duration) {
	if m == nil || a.Probe != timers.ProbeUpdate && a.Probe != timers.ProbeReinvite {
		return
	}
	l := a.To()
	x := &d.leg[l]
	d.learnLocked(l, m)
	d.retargetLocked(l, bytes.Clone(firstContact(m)))
	if x.se > 0 {
		r := ReplyOf(m)
		g := d.call.policy.Success(timers.Ask{Supported: true}, 0, r)
		if x.se = g.ResponderSE; x.se > 0 {
			if r.Refresher != timers.RefresherNone { // else it is as we asked for: as it was (D4)
				x.refreshes = g.ResponderRefreshes
			}
			d.expires = now + time.Duration(x.se)*time.Second
		} else if d.leg[l.Peer()].se == 0 { // nobody's timer runs any more
			d.expires = 0
		}
	}
	if a.Probe == timers.ProbeReinvite {
		d.compareLocked(fx, l, m, now)
	}
}

// compareLocked: the answer to our re-INVITE must be what the leg answered before.
// If it is not, its peer is told by one re-INVITE, or the leg is never asked this
// way again (spec C.4).
func (d *Dialog) compareLocked(fx *Effects, l Leg, m *wire.Msg, now time.Duration) {
	body := BodyOf(m)
	was, ok := d.media.Fingerprint(l)
	if body.SDP != nil && ok && Fingerprint(body.SDP) == was {
		return
	}
	peer := l.Peer()
	d.leg[l].unsafe = true
	told := body.SDP != nil && d.takesOffersLocked(peer) && d.leg[peer].own == 0 &&
		d.leg[A].invite == 0 && d.leg[B].invite == 0 && !d.media.Open()
	if told {
		told = d.mendLocked(fx, peer, body, now)
	}
	if !told {
		d.noteLocked(fx, Diverged, l, 0)
	}
}

// mendLocked offers to leg l what its peer changed.
func (d *Dialog) mendLocked(fx *Effects, l Leg, body Body, now time.Duration) bool {
	n, ok := d.seq[l.Peer()].Inject(now, d.youth())
	if !ok {
		return false
	}
	draft, ok := d.composeLocked(l, wire.INVITE, n, timers.ProbeReinvite, "", body)
	if !ok {
		return false
	}
	d.leg[l].own++
	d.leg[l].reoffer = true
	d.actLocked(fx, l, Act{
		Draft: draft, Method: wire.INVITE, Probe: timers.ProbeReinvite, number: n,
		mends: Body{SDP: bytes.Clone(body.SDP), Type: bytes.Clone(body.Type)},
	})
	return true
}

// mendedLocked: what the leg answered must be what it had.
func (d *Dialog) mendedLocked(fx *Effects, l Leg, told Body, m *wire.Msg, status int) {
	if status/100 == 2 {
		body := BodyOf(m)
		if was, ok := d.media.Fingerprint(l); ok && body.SDP != nil && Fingerprint(body.SDP) == was {
			d.media.Amend(l.Peer(), told)
			d.leg[l.Peer()].unsafe = false
			return
		}
	}
	d.leg[l].unsafe = true
	d.noteLocked(fx, Diverged, l, 0)
}

// doubtAnsweredLocked: the ACK is missing and the legs were asked, the callee first
// (spec E.4). One that is gone, or silent twice, ends the call.
func (d *Dialog) doubtAnsweredLocked(fx *Effects, l Leg, class timers.Class, now time.Duration) {
	x := &d.leg[l]
	switch {
	case class.Proves():
		x.proof, x.failures = now, 0
		if l == B && d.canAskLocked(A) {
			d.leg[A].probeAt = now
			return
		}
		d.unacknowledgedLocked(fx, l, now)
	case class == timers.ClassDead || x.failures > 0:
		d.terminateLocked(fx, AckMissing, now)
	default:
		x.failures = saturated(x.failures)
		x.probeAt = now + d.call.scaled(usualTTL/60)
	}
}

// unacknowledgedLocked: no ACK came, and nothing more is to be learnt. Nothing is
// injected any more, no_timer_call_duration applies.
func (d *Dialog) unacknowledgedLocked(fx *Effects, l Leg, now time.Duration) {
	d.doubted, d.noAck, d.expires = false, true, 0
	d.claimedLocked(now)
	d.noteLocked(fx, Unacknowledged, l, 0)
}

func (d *Dialog) canAskLocked(l Leg) bool {
	_, ok := d.targetLocked(l)
	return ok && d.methodLocked(l) != timers.ProbeNone
}
