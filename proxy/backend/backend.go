package backend

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/resolve"
	"github.com/sipward/sipward/proxy/wire"
)

// Backend is one server of a pool, as one snapshot configures it. What changes
// while it runs is shared with the same backend of later snapshots. All methods
// may be called from any goroutine.
type Backend struct {
	pool    *Pool
	name    string
	address string
	query   resolve.Query
	id      uint32
	seed    uint64 // for rendezvous draws
	weight  float64
	rank    uint32 // of policy priority
	wish    State  // of the operator: Up, Drain or Disabled
	fault   string
	maxCPS  int
	rate    *Rate
	live    *live
}

// live is what outlasts a reload.
type live struct {
	health    atomic.Pointer[health]
	targets   atomic.Pointer[[]resolve.Target]
	nextProbe atomic.Int64        // time of the next probe; 0 = none was asked for
	newest    atomic.Pointer[Set] // the set made last, whose index follows the targets
}

func newBackend(p *Pool, c config.Backend, now time.Duration) *Backend {
	b := &Backend{
		pool: p, name: c.Name, address: c.Address,
		weight: float64(max(c.Weight, 1)), rank: uint32(max(c.Priority, 0)), wish: wishOf(c.State),
		maxCPS: c.MaxCPS, rate: NewRate(c.MaxCPS),
	}
	if b.name == "" {
		b.name = c.Address
	}
	b.seed = Hash([]byte(p.name), []byte(b.name))
	u, ok := wire.ParseURI([]byte(c.Address))
	if ok {
		b.query, ok = resolve.QueryOf(u)
	}
	if !ok {
		b.wish, b.fault = Disabled, "the address is no SIP URI that can be reached"
	}
	b.live = &live{}
	b.live.health.Store(&health{since: now})
	if t, ok := resolve.Literal(b.query); ok {
		b.storeTargets([]resolve.Target{t})
	}
	return b
}

func wishOf(state string) State {
	switch state {
	case "drain":
		return Drain
	case "disabled":
		return Disabled
	default:
		return Up
	}
}

// takeOver goes on with what was known of the same backend before a reload.
func (b *Backend) takeOver(old *Backend, now time.Duration) {
	b.rate = old.rate.WithLimit(b.maxCPS)
	b.live = old.live
	b.step(now, func(h health) health { return h.underRules(b.pool.rules, now) })
}

// Name returns the name of the backend, unique in its pool.
func (b *Backend) Name() string { return b.name }

// Pool returns the pool the backend belongs to.
func (b *Backend) Pool() *Pool { return b.pool }

// ID returns a number that stands for pool and name, the same over restarts and
// on every machine. No two backends of a set share it; when two names meet in
// one number, the later one (by pool, then in the order of the file) gets the
// next free number. It is never 0.
func (b *Backend) ID() uint32 { return b.id }

// Address returns the SIP URI of the configuration, which has no user part.
func (b *Backend) Address() string { return b.address }

// Query returns what to resolve for the backend.
func (b *Backend) Query() resolve.Query { return b.query }

// Targets returns the addresses of the backend in the order to try, or none
// when its name was not resolved yet. The slice is shared and must not be
// changed. A drained backend has targets as any other.
func (b *Backend) Targets() []resolve.Target {
	if t := b.live.targets.Load(); t != nil {
		return *t
	}
	return nil
}

// SetTargets replaces the addresses of the backend, for later snapshots too. A
// backend whose address is an IP literal has its target from the start.
func (b *Backend) SetTargets(targets []resolve.Target) {
	if slices.Equal(b.Targets(), targets) {
		return
	}
	b.storeTargets(slices.Clone(targets))
	b.pool.set.reindex()
	if newest := b.live.newest.Load(); newest != b.pool.set {
		newest.reindex()
	}
}

// storeTargets makes targets, which it keeps, the current ones.
func (b *Backend) storeTargets(targets []resolve.Target) {
	if name := b.pool.config.TLS.ServerName; name != "" {
		for i := range targets {
			targets[i].ServerName = name
		}
	}
	b.live.targets.Store(&targets)
}

// State returns what the backend may be used for.
func (b *Backend) State(now time.Duration) State {
	switch {
	case b.wish != Up:
		return b.wish
	case b.live.health.Load().down(now):
		return Down
	default:
		return Up
	}
}

// Why returns the reason for the state, for people. It is empty for a backend
// that has always been up.
func (b *Backend) Why(now time.Duration) string {
	switch {
	case b.fault != "":
		return b.fault
	case b.wish == Drain:
		return "drained by the configuration"
	case b.wish == Disabled:
		return "disabled by the configuration"
	default:
		return b.live.health.Load().settled(now).why
	}
}

// Since returns when the health of the backend last changed.
func (b *Backend) Since(now time.Duration) time.Duration {
	return b.live.health.Load().settled(now).since
}

// Admit reports whether the backend may be given one more new call by max_cps,
// and counts it if so. Requests inside a dialog are not to be asked for.
func (b *Backend) Admit(now time.Duration) bool { return b.rate.Admit(now) }

// Alive notes a final response other than 503.
func (b *Backend) Alive(now time.Duration, src Source) Change {
	if !b.pool.rules.heeds(src) || b.live.health.Load().well() {
		return Change{}
	}
	return b.step(now, func(h health) health { return h.alive(b.pool.rules, src, now) })
}

// Miss notes that a request got no answer in time or could not be sent.
func (b *Backend) Miss(now time.Duration, src Source) Change {
	if !b.pool.rules.heeds(src) {
		return Change{}
	}
	return b.step(now, func(h health) health { return h.miss(b.pool.rules, src, now) })
}

// Unavailable notes a 503. retryAfter is the value of its Retry-After, or 0.
func (b *Backend) Unavailable(now, retryAfter time.Duration, src Source) Change {
	if !b.pool.rules.heeds(src) {
		return Change{}
	}
	return b.step(now, func(h health) health { return h.unavailable(src, retryAfter, now) })
}

// step moves the health on and tells what became of it. The usual answer of a
// backend that is well changes nothing, and so writes and allocates nothing.
func (b *Backend) step(now time.Duration, next func(health) health) Change {
	for {
		old := b.live.health.Load()
		h := next(*old)
		if h == *old {
			return Change{}
		}
		if !b.live.replace(old, h) {
			continue
		}
		if h.told == old.told {
			return Change{}
		}
		return Change{Backend: b, To: h.told, Reason: h.why, At: now}
	}
}

// replace has h as a parameter of its own, for only here does it have to be
// allocated.
func (l *live) replace(old *health, h health) bool { return l.health.CompareAndSwap(old, &h) }
