package proxy

import (
	"sync/atomic"
	"time"

	"github.com/sipward/sipward/proxy/wire"
)

// admit decides whether the edge takes a new request at all. Requests of running
// calls and emergency calls always pass.
func (e *Edge) admit(m *wire.Msg, r *route, waited, now time.Duration) rejection {
	level := e.load.observe(waited, e.snap.Load().config.Limits.QueueDelay.D(), now)
	if r.exempt {
		return rejection{}
	}
	switch {
	case e.draining.Load():
		return rejection{status: 503, reason: "Shutting Down", header: e.retryLater()}
	case level.refuses(m.Method):
		e.count.overload.Add(1)
		return rejection{status: 503, reason: "Overloaded", header: e.retryLater()}
	case !r.limit.Admit(now):
		e.count.overLimit.Add(1)
		return rejection{status: 503, reason: "Call Rate Exceeded", header: e.retryLater()}
	}
	return rejection{}
}

// loadLevel says what is refused while the edge cannot keep up.
type loadLevel int32

const (
	calm loadLevel = iota
	busy           // REGISTER and OPTIONS: they come again by themselves
	full           // new INVITEs and the rest too
)

func (l loadLevel) refuses(m wire.Method) bool {
	switch l {
	case full:
		return true
	case busy:
		return m == wire.REGISTER || m == wire.OPTIONS
	}
	return false
}

// load watches how long datagrams wait in the kernel: the one measure of overload
// that does not depend on what a message costs. It is the smallest wait of the
// last window that counts (as in CoDel): a burst that is drained within one is no
// overload.
type load struct {
	window atomic.Int64 // start of the current window
	least  atomic.Int64 // smallest wait in it
	level  atomic.Int32
}

// loadWindow is long enough for a machine that was held up to catch up.
const loadWindow = 500 * time.Millisecond

// observe takes one wait and returns the current level. limit 0 switches it off.
func (l *load) observe(waited, limit, now time.Duration) loadLevel {
	if limit == 0 {
		return calm
	}
	start := time.Duration(l.window.Load())
	if now-start < loadWindow {
		if int64(waited) < l.least.Load() {
			l.least.Store(int64(waited))
		}
		return loadLevel(l.level.Load())
	}
	if l.window.CompareAndSwap(int64(start), int64(now)) {
		least := time.Duration(l.least.Swap(int64(waited)))
		level := calm
		switch {
		case now-start > 2*loadWindow: // idle in between
		case least > 2*limit:
			level = full
		case least > limit:
			level = busy
		}
		l.level.Store(int32(level))
	}
	return loadLevel(l.level.Load())
}
