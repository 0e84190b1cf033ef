package binding

import (
	"math/bits"
	"time"

	"github.com/sipward/sipward/timers"
)

// golden is the golden section of a turn. Multiples of it fill the circle evenly, however many there are.
const golden = 0x9E3779B9

// Configure says how often flows are pinged, 0 = never, and how long bindings outlive their connection. It holds from
// the next ping on, and for the next connection that ends.
func (t *Table) Configure(interval, grace time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wasNever := t.every <= 0
	t.every, t.grace = interval, grace
	if !wasNever {
		return
	}
	now := t.Wheel.Now()
	for _, f := range t.byFlow {
		t.pingLocked(f, now)
	}
}

// pingLocked sets or stops the timer of a flow, by what is on it now.
func (t *Table) pingLocked(f *flow, now time.Duration) {
	wants := t.every > 0 && f.n > 0 && f.first.nated && f.closed == 0
	switch {
	case wants && f.pingAt == 0:
		t.nextPingLocked(f, now)
	case !wants && f.pingAt != 0:
		f.pingAt, f.awaits = 0, false
		t.Wheel.Stop(&f.Timer)
	}
}

// nextPingLocked sets the timer to the flow's next turn. Turns are of the clock, not of the moment when the flow was
// learned, so flows that come at any times are as even as those that come at once.
func (t *Table) nextPingLocked(f *flow, now time.Duration) {
	if f.turn == 0 {
		t.turns += golden
		f.turn = max(t.turns, 1)
	}
	part, _ := bits.Mul64(uint64(t.every), uint64(f.turn)<<32)
	f.pingAt = now - now%t.every + time.Duration(part)
	if f.pingAt <= now {
		f.pingAt += t.every
	}
	t.Wheel.Set(&f.Timer, f, f.pingAt)
}

// Expire pings the flow.
func (f *flow) Expire(_ *timers.Timer, now time.Duration) {
	if b, isDue := f.table.ping(f, now); isDue && f.table.Ping != nil {
		f.table.Ping(b, now)
	}
}

// ping counts a ping of a flow and sets the next one.
func (t *Table) ping(f *flow, now time.Duration) (b Binding, isDue bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.pingAt == 0 || now < f.pingAt {
		return Binding{}, false // moved or stopped in the meantime
	}
	if t.every <= 0 {
		f.pingAt = 0
		return Binding{}, false
	}
	t.nextPingLocked(f, now)
	if f.awaits {
		f.missed++
	}
	f.awaits, f.pinged = true, now
	f.pings++
	t.count.pings++
	return f.first.binding(), true
}

// Pong notes the answer to a ping.
func (t *Table) Pong(id ID, now time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.byID[id]; r != nil {
		t.pongLocked(r.at, now)
	}
}

// pongLocked takes one answer for each ping.
func (t *Table) pongLocked(f *flow, now time.Duration) {
	if !f.awaits {
		return
	}
	f.awaits, f.missed = false, 0
	f.ponged, f.rtt = now, now-f.pinged
	t.count.pongs++
}
