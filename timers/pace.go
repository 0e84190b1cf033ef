package timers

import (
	"sync"
	"time"
)

// paceBurst is how far ahead of their turn events may go: closer ones are not worth a
// timer.
const paceBurst = 100 * time.Millisecond

// Pace lets at most so many events happen a second, first come, first served: who has
// to wait is given a turn of its own, so that nobody is passed over for ever. All
// methods may be called from any goroutine. Make it with [NewPace].
type Pace struct {
	gap time.Duration

	mu   sync.Mutex
	next time.Duration // the first turn that is free
}

// NewPace returns a Pace of perSecond events, at least one.
func NewPace(perSecond int) *Pace {
	return &Pace{gap: time.Second / time.Duration(max(perSecond, 1))}
}

// Turn takes the next turn and returns how long it is until then, 0 = now.
func (p *Pace) Turn(now time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := max(p.next, now)
	p.next = at + p.gap
	if at-now < paceBurst {
		return 0
	}
	return at - now
}
