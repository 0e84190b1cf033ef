package dialog

import (
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// Report is one call as a listing shows it. Times are of the wheel's clock, 0 = none.
type Report struct {
	ID                     ID
	CallID, From, To, RURI []byte // header values
	Source                 Flow
	Backend                uint32
	State                  string
	Mode                   timers.Mode
	Began, Answered        time.Duration
	NextProbe, Verified    time.Duration
	Limits                 []Limit // the first to fire first
	Legs                   [2]LegReport
	Dialogs                int
	Watched                bool   // probes are sent
	Unheard                bool   // no ACK came, or requests of the caller go past us
	Reason                 Reason // of the end, once the edge has sent BYE
}

// Limit is one armed limit.
type Limit struct {
	Key string // of the timers section
	At  time.Duration
}

// LegReport is one leg of the answered dialog.
type LegReport struct {
	Target    []byte
	Probe     timers.ProbeMethod // ProbeNone: it is not probed
	SE        uint32
	Refreshes bool
	Verified  time.Duration
	Failures  int
}

// Report describes the call.
func (c *Call) Report() Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := &c.first
	n := 0
	for x := range c.dialogs {
		if x.state != none && x.state != over {
			n++
			if d.state == over || !d.isTaken() && x.isTaken() {
				d = x
			}
		}
	}
	r := Report{
		ID: c.id, CallID: d.texts.get(callID), From: d.texts.get(fromText), To: d.texts.get(toText), RURI: d.texts.ruri(),
		Source: c.source.flow().unpack(), Backend: c.backend, State: d.state.String(), Mode: d.modeNow(),
		Began: c.began, Answered: c.answered, Dialogs: n,
	}
	if d.answered == 0 {
		if c.policy.Ring > 0 {
			r.Limits = []Limit{{RangTooLong.key(), c.began + c.policy.Ring}}
		}
		return r
	}
	r.NextProbe = timers.Sooner(d.leg[A].probeAt, d.leg[B].probeAt)
	r.Verified = min(d.leg[A].proof, d.leg[B].proof)
	r.Limits = d.limitsLocked()
	isRunning := d.state == waitsForAck || d.state == confirmed
	r.Unheard = isRunning && (d.noAck || d.bypassed)
	if d.state == terminating {
		r.Reason = d.reason
	}
	for _, l := range [2]Leg{A, B} {
		x := &d.leg[l]
		leg := LegReport{SE: x.se, Refreshes: x.refreshes, Verified: x.proof, Failures: int(x.failures)}
		if uri, _, ok := wire.NameAddrURI(d.texts.get(contactOf(l))); ok {
			leg.Target = uri
		}
		if isRunning && d.isProbed(l) {
			leg.Probe = d.methodLocked(l)
			r.Watched = true
		}
		r.Legs[l] = leg
	}
	return r
}

// limitsLocked are all armed limits, the first to fire first.
func (d *Dialog) limitsLocked() []Limit {
	if d.state != waitsForAck && d.state != confirmed {
		return nil
	}
	p := d.call.policy
	var all []Limit
	add := func(why Reason, at time.Duration) {
		if at == 0 {
			return
		}
		i := len(all)
		for i > 0 && all[i-1].At > at {
			i--
		}
		all = append(all[:i], append([]Limit{{why.key(), at}}, all[i:]...)...)
	}
	if p.MaxCall > 0 {
		add(MaxDuration, d.answered+p.MaxCall)
	}
	add(NoTimerDuration, d.capLocked())
	add(SessionTTL, d.verifyByLocked())
	if d.state == waitsForAck && !d.noAck && !d.bypassed {
		add(AckMissing, d.answered+p.AckWait)
	}
	return all
}
