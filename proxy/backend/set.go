package backend

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sipward/sipward/config"
)

// Set holds the pools of one snapshot of the configuration.
type Set struct {
	pools  []*Pool // by name
	byName map[string]*Pool
	byID   map[uint32]*Backend

	mu    sync.Mutex // serialises reindex
	where atomic.Pointer[whereabouts]
}

// whereabouts finds backends by what the socket saw.
type whereabouts struct {
	addr   map[netip.Addr]*Backend
	target map[netip.AddrPort]*Backend
}

// NewSet makes the pools of a configuration that config has found sound. Of
// old, which may be nil, it takes over health, targets and counters of every
// backend whose pool, name, address and TLS name are still the same, and the
// operator's order for it even at another address. old may stay in use.
func NewSet(pools map[string]config.Pool, old *Set, now time.Duration) *Set {
	s := &Set{byName: map[string]*Pool{}, byID: map[uint32]*Backend{}}
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		p := newPool(s, name, pools[name], now)
		s.pools = append(s.pools, p)
		s.byName[name] = p
		for _, b := range p.backends {
			s.number(b)
		}
		if before := old.Pool(name); before != nil {
			p.takeOver(before, now)
		}
	}
	// The index of this set must follow targets that the old set is told of,
	// and must not miss those it is told of right now: first announce, then read.
	for _, b := range s.byID {
		b.live.newest.Store(s)
	}
	s.reindex()
	return s
}

// number gives b its ID.
func (s *Set) number(b *Backend) {
	b.id = uint32(b.seed)
	for b.id == 0 || s.byID[b.id] != nil {
		b.id++
	}
	s.byID[b.id] = b
}

// Pool returns the pool with that name, or nil. s may be nil.
func (s *Set) Pool(name string) *Pool {
	if s == nil {
		return nil
	}
	return s.byName[name]
}

// Pools returns all pools, sorted by name.
func (s *Set) Pools() []*Pool { return s.pools }

// ByID returns the backend with that ID, or nil.
func (s *Set) ByID(id uint32) *Backend { return s.byID[id] }

// BySource returns the backend that has the address, or nil when the address
// is outside. When several have it, it is the first by pool name and order in
// the file. It takes no lock and does not allocate.
func (s *Set) BySource(a netip.Addr) *Backend { return s.where.Load().addr[a.Unmap()] }

// ByTarget is BySource for address and port: it tells backends apart that share
// an address, and a backend from others behind it.
func (s *Set) ByTarget(a netip.AddrPort) *Backend {
	return s.where.Load().target[netip.AddrPortFrom(a.Addr().Unmap(), a.Port())]
}

// reindex makes the addresses of all backends known to BySource and ByTarget.
func (s *Set) reindex() {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &whereabouts{addr: map[netip.Addr]*Backend{}, target: map[netip.AddrPort]*Backend{}}
	for _, p := range s.pools {
		for _, b := range p.backends {
			w.add(b)
		}
	}
	s.where.Store(w)
}

func (w *whereabouts) add(b *Backend) {
	for _, t := range b.Targets() {
		at := netip.AddrPortFrom(t.Addr.Addr().Unmap(), t.Addr.Port())
		if w.target[at] == nil {
			w.target[at] = b
		}
		if w.addr[at.Addr()] == nil {
			w.addr[at.Addr()] = b
		}
	}
}
