package backend

import (
	"sync/atomic"
	"time"

	"github.com/sipward/sipward/config"
)

// Pool is a group of backends that can stand in for each other.
type Pool struct {
	set      *Set
	name     string
	config   config.Pool
	policy   policy
	rules    rules
	even     bool // all weights are equal
	backends []*Backend
	turns    *atomic.Uint64 // of policies that take turns; outlasts a reload
}

func newPool(s *Set, name string, c config.Pool, now time.Duration) *Pool {
	p := &Pool{
		set: s, name: name, config: c,
		policy: policyOf(c.Policy), rules: rulesOf(c.Probe), even: true, turns: &atomic.Uint64{},
	}
	for _, bc := range c.Backends {
		b := newBackend(p, bc, now)
		p.backends = append(p.backends, b)
		p.even = p.even && b.weight == p.backends[0].weight
	}
	return p
}

func (p *Pool) takeOver(old *Pool, now time.Duration) {
	p.turns = old.turns
	for _, b := range p.backends {
		before := old.Backend(b.name)
		if before == nil {
			continue
		}
		b.obey(before)
		if before.address == b.address && old.config.TLS.ServerName == p.config.TLS.ServerName {
			b.takeOver(before, now)
		}
	}
}

// Name returns the name of the pool.
func (p *Pool) Name() string { return p.name }

// Config returns the configuration of the pool. It is shared and must not be
// changed.
func (p *Pool) Config() *config.Pool { return &p.config }

// FailoverCodes returns the statuses that make the next backend be tried,
// besides 503. The slice is shared.
func (p *Pool) FailoverCodes() []int { return p.config.FailoverCodes }

// Backends returns all members in the order of the file. The slice is shared.
func (p *Pool) Backends() []*Backend { return p.backends }

// Backend returns the member with that name, or nil.
func (p *Pool) Backend(name string) *Backend {
	for _, b := range p.backends {
		if b.name == name {
			return b
		}
	}
	return nil
}

// Panicking reports whether the pool has no member that is up, but some that
// are down and are tried nevertheless.
func (p *Pool) Panicking(now time.Duration) bool {
	down := false
	for _, b := range p.backends {
		switch b.State(now) {
		case Up:
			return false
		case Down:
			down = true
		}
	}
	return down
}
