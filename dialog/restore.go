package dialog

import (
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/store/codec"
	"github.com/sipward/sipward/timers"
)

// restoredOver is the time over which calls are ended whose limit passed while the
// edge was away (spec E.9).
const restoredOver = 60 * time.Second

// maxIndex bounds the index in an ID from a file: more calls than any store can have.
const maxIndex = 1 << 18

// A Restorer puts calls back into an empty store: all of them before the first
// message. Finish it.
type Restorer struct {
	Store *Store
	Now   time.Duration
	Clock func(time.Time) time.Duration // the wheel's clock at a time of the day
	Bump  uint32                        // restore_cseq_bump

	policies map[string]*timers.Policy // those of the states, which most calls share
}

// Call puts back the call of a state, with the name by which tokens know it. It is
// false when the state is damaged, of another version, or names a call that is there.
//
// Limits count from the answer, as the wall's clock has it. Nobody could give a sign of
// life while the edge was away, so each leg has half of session_ttl at least, and a probe
// in good time before its end: no call ends for want of one that was not asked for anew.
// What the edge sent since the state was written is not known: CSeq numbers jump over it.
func (r *Restorer) Call(id ID, state []byte) bool {
	body, ok := codec.Open(state, stateVersion)
	if !ok {
		return false
	}
	c := &Call{store: r.Store}
	in := decoder{Reader: body}
	c.policy = r.policy(&in)
	c.began = moment(r.Clock(time.UnixMicro(in.Int())))
	if in.zero = c.began; c.began < r.Now-longCall || c.began > r.Now+longCall {
		return false
	}
	c.invite = in.Uint32()
	c.source = in.flow().origin()
	outside := in.flow()
	backend := in.Uint32()
	c.answered = in.time()
	c.setup = in.Uint32()
	c.tagAt = uint16(in.Uint(maxText))
	c.tagLen = uint16(in.Uint(maxText))
	c.outer = Leg(in.Uint(uint64(B)))
	in.Flags(&c.noInject, &c.reported, &c.failed)
	c.first.call = c
	for i := range in.Uint(1 << 8) {
		d := &c.first
		if i > 0 {
			d = &Dialog{call: c}
			c.addFork(d)
		}
		in.dialog(d)
		if int(c.tagAt)+int(c.tagLen) > len(d.texts.get(fromText)) {
			in.Fail()
		}
		if in.Failed() {
			break
		}
	}
	if !in.Ended() || c.answered == 0 || c.first.state == none || !r.Store.place(id, c) {
		for d := range c.dialogs {
			d.releaseLocked()
		}
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.saved = true
	c.outsideLocked(outside)
	c.seatLocked(backend)
	switch {
	case c.failed: // it has yet to be taken
	case c.reported:
		c.leaveLocked()
	default:
		r.Store.stats.restored()
	}
	for d := range c.dialogs {
		d.key = r.Store.keyOf(d.texts.get(callID), c.callerTagLocked(), tagOf(d.texts.get(toText)))
		r.Store.index(d.key, id)
		d.resumeLocked(r.Now, r.Bump)
	}
	c.spreadLocked(r.Now)
	c.settleLocked(&Effects{}, r.Now)
	return true
}

// policy reads one and shares it among the calls that have the same.
func (r *Restorer) policy(in *decoder) *timers.Policy {
	from := in.Rest()
	p := in.policy()
	if in.Failed() {
		return &p
	}
	key := string(from[:len(from)-len(in.Rest())])
	if known := r.policies[key]; known != nil {
		return known
	}
	p.Since = p.Resume(r.Now)
	if r.policies == nil {
		r.policies = make(map[string]*timers.Policy)
	}
	r.policies[key] = &p
	return &p
}

// Finish makes the store ready for new calls.
func (r *Restorer) Finish() {
	for i := range r.Store.shard {
		sh := &r.Store.shard[i]
		sh.mu.Lock()
		sh.free = sh.free[:0]
		for j := range sh.slots {
			if sh.slots[j].call == nil {
				sh.free = append(sh.free, uint32(j))
			}
		}
		sh.mu.Unlock()
	}
}

// place gives a call the place that its ID names, whatever the capacity says.
func (s *Store) place(id ID, c *Call) bool {
	if id.gen() == 0 || id.index() >= maxIndex {
		return false
	}
	sh := &s.shard[id.shard()]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for len(sh.slots) <= int(id.index()) {
		sh.slots = append(sh.slots, slot{})
	}
	e := &sh.slots[id.index()]
	if e.call != nil {
		return false
	}
	e.gen, e.call = id.gen(), c
	c.id = id
	s.count.Add(1 + int64(len(c.forks())))
	return true
}

// tagOf is the tag of a From or To value.
func tagOf(value []byte) []byte {
	_, params, ok := wire.NameAddrURI(value)
	if !ok {
		return nil
	}
	tag, _ := wire.Param(params, "tag")
	return tag
}

// resumeLocked makes up for what was lost with the process.
func (d *Dialog) resumeLocked(now time.Duration, bump uint32) {
	if d.expires != 0 { // a refresh may have gone by unseen
		d.expires = max(d.expires, now+time.Duration(max(d.leg[A].se, d.leg[B].se))*time.Second)
	}
	switch d.state {
	case ending: // the BYE comes again, or its sender is gone all the same
		d.state, d.reason, d.ended = confirmed, NoReason, 0
		d.byeBy = now + d.call.linger()
	case waitsForAck: // a callee that is quiet need not have its ACK
		d.copied = max(now, d.answered+d.call.policy.AckWait)
	case terminating: // by BYEs of new transactions
		d.byeBy = now
	case confirmed:
		if d.byeBy != 0 {
			d.byeBy = now + d.call.linger()
		}
	}
	for _, l := range [2]Leg{A, B} {
		s := &d.seq[l.Peer()]
		s.renew(now)
		if !s.Plain() || d.isProbed(l) && d.methodLocked(l) != timers.ProbeOptionsStale {
			s.Skip(bump, now)
		}
	}
	if d.state != confirmed || d.byeBy != 0 {
		return
	}
	next := d.call.policy.FirstProbe(now, draw())
	for _, l := range [2]Leg{B, A} {
		if !d.isProbed(l) {
			continue
		}
		d.leg[l].probeAt = next
		if l == A && d.isProbed(B) {
			d.leg[A].probeAt += d.call.brief(time.Second + time.Duration(draw()*float64(2*time.Second)))
		}
	}
}

// spreadLocked puts off the end of a call that is overdue, so that not all BYEs of a
// long absence go out at once. The call has a policy of its own then.
func (c *Call) spreadLocked(now time.Duration) {
	until := now + time.Duration(draw()*float64(c.scaled(restoredOver)))
	p := *c.policy
	for d := range c.dialogs {
		if d.state == terminating {
			d.byeBy = until
			continue
		}
		if p.MaxCall > 0 && d.answered+p.MaxCall <= now {
			p.MaxCall = until - d.answered
		}
		if t := d.capLocked(); t != 0 && t <= now {
			p.NoTimerMax = c.policy.NoTimerMax + until - t
		}
	}
	if p.MaxCall != c.policy.MaxCall || p.NoTimerMax != c.policy.NoTimerMax {
		c.policy = &p
	}
}
