package proxy

import (
	"time"

	"github.com/sipward/sipward/proxy/backend"
)

// note keeps a change of health until the locks are released.
func (w *scratch) note(c backend.Change) {
	if c.Happened() {
		w.changes = append(w.changes, c)
	}
}

// logChange writes the line of a change, and one more when it leaves a pool
// without any backend.
func (e *Edge) logChange(c backend.Change) {
	if !c.Happened() {
		return
	}
	line := e.log.Op().Warn()
	if c.To == backend.Up {
		line = e.log.Op().Info()
	}
	line.Str("pool", c.Backend.Pool().Name()).Str("backend", c.Backend.Name()).Str("state", c.To.String()).
		Str("reason", c.Reason).Msg("backend " + c.Backend.Name() + " is " + c.To.String())
	if c.To == backend.Down && c.Backend.Pool().Panicking(e.wheel.Now()) {
		e.log.Op().Error().Str("pool", c.Backend.Pool().Name()).
			Msg("no backend is up: all are tried, whatever is known of them")
	}
}

// missed is a passive observation: no answer.
func (w *scratch) missed(b *backend.Backend, now time.Duration) {
	if b != nil {
		w.note(b.Miss(now, backend.Traffic))
	}
}

// heard is a passive observation of the answer in w.msg. One answer is enough to
// know that a backend lives, a 503 says that it cannot.
func (w *scratch) heard(l *leg, now time.Duration) {
	m := &w.msg
	switch {
	case l.backend == nil:
	case m.Status == 503:
		w.note(l.backend.Unavailable(now, retryAfter(m), backend.Traffic))
	case !l.heard:
		w.note(l.backend.Alive(now, backend.Traffic))
	}
}

// anyUp says whether calls can be placed at all.
func (s *snapshot) anyUp(now time.Duration) bool {
	for _, p := range s.pools.Pools() {
		for _, b := range p.Backends() {
			if b.State(now) == backend.Up {
				return true
			}
		}
	}
	return false
}
