package transport

import (
	"sync"
	"time"
)

// pace is a token bucket that spreads what comes at once, as when all phones of a site come back after a power cut: a
// TLS handshake takes a millisecond of a core. It holds the tokens of a quarter of a second, so that no second sees much
// more than the rate.
type pace struct {
	rate float64 // per second

	mu     sync.Mutex
	tokens float64 // below 0: users that wait
	filled time.Time
}

// take takes one token and returns how long to wait until it is there.
func (p *pace) take(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	burst := max(1, p.rate/4)
	if p.filled.IsZero() {
		p.tokens = burst
	} else {
		p.tokens = min(burst, p.tokens+now.Sub(p.filled).Seconds()*p.rate)
	}
	p.filled = now
	p.tokens--
	if p.tokens >= 0 {
		return 0
	}
	return time.Duration(-p.tokens / p.rate * float64(time.Second))
}
