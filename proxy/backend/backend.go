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
	pool     *Pool
	name     string
	address  string
	query    resolve.Query
	id       uint32
	seed     uint64 // for rendezvous draws
	weight   float64
	rank     uint32 // of policy priority
	written  State  // in the file: Up, Drain or Disabled
	edition  uint32 // counts how often a reload changed written
	fault    string
	maxCPS   int
	rate     *Rate
	maxCalls int
	live     *live
	order    *atomic.Pointer[order] // the operator's last; shared by pool and name, wherever the address leads
}

// order is what the operator said at run time. It ends when the file says
// something else than it did then: nothing has to be undone by a reload, which may
// still fail.
type order struct {
	state   State
	edition uint32
}

// live is what outlasts a reload.
type live struct {
	health    atomic.Pointer[health]
	targets   atomic.Pointer[[]resolve.Target]
	nextProbe atomic.Int64        // time of the next probe; 0 = none was asked for
	newest    atomic.Pointer[Set] // the set made last, whose index follows the targets
	calls     atomic.Pointer[atomic.Int64]
}

func newBackend(p *Pool, c config.Backend, now time.Duration) *Backend {
	b := &Backend{
		pool: p, name: c.Name, address: c.Address,
		weight: float64(max(c.Weight, 1)), rank: uint32(max(c.Priority, 0)), written: wishOf(c.State),
		maxCPS: c.MaxCPS, rate: NewRate(c.MaxCPS), maxCalls: max(c.MaxCalls, 0),
		order: &atomic.Pointer[order]{},
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
		b.fault = "the address is no SIP URI that can be reached"
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

// obey goes on under the operator's order, unless the file changed its mind.
func (b *Backend) obey(old *Backend) {
	b.order, b.edition = old.order, old.edition
	if b.written != old.written {
		b.edition++
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

// SetState is the operator's order at run time, and reports whether it differs
// from what held until now. Drain leaves the backend what already belongs to it,
// Disabled nothing, and Up leaves the word to its health again; Down is for health
// alone to say, so it is no order. The order holds over reloads until the next one,
// or until a reload finds another state in the file for this backend. A backend
// whose address cannot be used stays disabled.
func (b *Backend) SetState(s State) (changed bool) {
	if s == Down || b.fault != "" {
		return false
	}
	before := b.written
	if old := b.order.Swap(&order{s, b.edition}); old != nil && old.edition == b.edition {
		before = old.state
	}
	if before == Disabled {
		b.live.nextProbe.Store(0) // what is known is old: the next probe is a first one
	}
	return s != before
}

// wish is what operator and file allow: Up, Drain or Disabled.
func (b *Backend) wish() State {
	s, _ := b.said()
	return s
}

// said returns the wish and whose it is.
func (b *Backend) said() (s State, by string) {
	if b.fault != "" {
		return Disabled, "configuration"
	}
	if o := b.order.Load(); o != nil && o.edition == b.edition {
		return o.state, "operator"
	}
	return b.written, "configuration"
}

// State returns what the backend may be used for.
func (b *Backend) State(now time.Duration) State {
	switch wish := b.wish(); {
	case wish != Up:
		return wish
	case b.live.health.Load().down(now):
		return Down
	default:
		return Up
	}
}

// Why returns the reason for the state, for people. It is empty for a backend
// that has always been up.
func (b *Backend) Why(now time.Duration) string {
	switch wish, by := b.said(); {
	case b.fault != "":
		return b.fault
	case wish == Drain:
		return "drained by the " + by
	case wish == Disabled:
		return "disabled by the " + by
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

// CountCallsBy says where the calls of the backend are counted, for all snapshots
// that share its health. To be set when a snapshot is made; without it, or with
// nil, there are none. The count is only read here.
func (b *Backend) CountCallsBy(n *atomic.Int64) { b.live.calls.Store(n) }

// Calls returns how many calls the backend has now.
func (b *Backend) Calls() int {
	if n := b.live.calls.Load(); n != nil {
		return int(n.Load())
	}
	return 0
}

// MaxCalls returns how many calls the backend may have at the same time, 0 for no
// limit.
func (b *Backend) MaxCalls() int { return b.maxCalls }

// MaxCPS returns how many new calls a second [Backend.Admit] allows, 0 for no
// limit.
func (b *Backend) MaxCPS() int { return b.maxCPS }

// HasRoom reports whether the backend may be given one more new call by max_calls.
// It reserves nothing: calls that are placed at the same moment may exceed the
// limit by their number. Only for a new INVITE is it to be asked.
func (b *Backend) HasRoom() bool { return b.maxCalls == 0 || b.Calls() < b.maxCalls }

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
