package proxy

import (
	"fmt"
	"strings"
	"time"

	"github.com/sipward/sipward/proxy/backend"
)

// Backends lists the members of all pools, by the pools' names and then in the
// order of the file.
func (e *Edge) Backends() []BackendInfo {
	now := e.wheel.Now()
	all := []BackendInfo{}
	for _, p := range e.snap.Load().pools.Pools() {
		for _, b := range p.Backends() {
			all = append(all, e.backendInfo(b, now))
		}
	}
	return all
}

func (e *Edge) backendInfo(b *backend.Backend, now time.Duration) BackendInfo {
	state := b.State(now)
	x := BackendInfo{
		Pool: b.Pool().Name(), Name: b.Name(), Address: b.Address(), Targets: []string{},
		State: state.String(), Why: b.Why(now),
		Calls: b.Calls(), MaxCalls: b.MaxCalls(), MaxCPS: b.MaxCPS(),
	}
	for _, t := range b.Targets() {
		x.Targets = append(x.Targets, t.Proto.Param()+":"+t.Addr.String())
	}
	if state == backend.Up || state == backend.Down { // what is known of the others is of their health
		x.Since = e.wallTime(b.Since(now)).Round(time.Millisecond)
	}
	return x
}

// SetBackend gives a backend the state up, drain or disabled until it is given
// another, here or by a reload of a file that says something new. pool may be empty
// when only one has a backend of that name.
func (e *Edge) SetBackend(pool, name, state string) error {
	order, err := orderOf(state)
	if err != nil {
		return err
	}
	b, changed, err := e.order(pool, name, order)
	if err != nil || !changed {
		return err
	}
	now := e.wheel.Now()
	line := e.log.Op().Warn()
	if order == backend.Up {
		line = e.log.Op().Info()
	}
	if why := b.Why(now); why != "" {
		line.Str("reason", why)
	}
	line.Str("pool", b.Pool().Name()).Str("backend", b.Name()).Str("state", b.State(now).String()).
		Msg("backend " + b.Name() + " is set to " + state + " by the operator")
	return nil
}

// named finds the value that goes by a word.
func named[T fmt.Stringer](word string, all ...T) (found T, ok bool) {
	for _, v := range all {
		if v.String() == word {
			return v, true
		}
	}
	return found, false
}

func orderOf(state string) (backend.State, error) {
	if s, ok := named(state, backend.Up, backend.Drain, backend.Disabled); ok {
		return s, nil
	}
	return 0, fmt.Errorf("state %q: a backend can be set to up, drain or disabled", state)
}

// order sets the state and lets the probes begin or end with it. It holds the lock
// of Reload, so that the order is given to the snapshot that stays.
func (e *Edge) order(pool, name string, s backend.State) (b *backend.Backend, changed bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if b, err = e.snap.Load().backendNamed(pool, name); err != nil {
		return nil, false, err
	}
	changed = b.SetState(s)
	now := e.wheel.Now()
	if s != backend.Disabled && b.State(now) == backend.Disabled {
		return nil, false, fmt.Errorf("backend %s cannot be set to %s: %s", name, s, b.Why(now))
	}
	for _, p := range e.probers {
		if changed && p.backend == b {
			p.stop()
			p.schedule(now)
		}
	}
	return b, changed, nil
}

// backendNamed finds a member of a pool, or of any when pool is empty.
func (s *snapshot) backendNamed(pool, name string) (found *backend.Backend, err error) {
	if pool != "" && s.pools.Pool(pool) == nil {
		return nil, fmt.Errorf("there is no pool %q", pool)
	}
	var in []string
	for _, p := range s.pools.Pools() {
		if pool != "" && p.Name() != pool {
			continue
		}
		if b := p.Backend(name); b != nil {
			found, in = b, append(in, p.Name())
		}
	}
	switch {
	case len(in) > 1:
		return nil, fmt.Errorf("backend %q is in the pools %s: say which", name, strings.Join(in, ", "))
	case found == nil && pool != "":
		return nil, fmt.Errorf("there is no backend %q in pool %q", name, pool)
	case found == nil:
		return nil, fmt.Errorf("there is no backend %q", name)
	}
	return found, nil
}
