package proxy

import (
	"sync"
)

// registrars is what their answers have taught of backends. It is known until a reload: who
// changes a registrar tells the edge so. It is bounded by the backends there are.
type registrars struct {
	mu       sync.Mutex
	pathless map[uint32]bool // by backend.Backend.ID: did not keep a Path
	single   map[uint32]bool // refused a REGISTER that took an old Contact back
}

func (r *registrars) isPathless(id uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pathless[id]
}

func (r *registrars) isSingle(id uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.single[id]
}

// ignoresPath returns whether that is news.
func (r *registrars) ignoresPath(id uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return addTo(&r.pathless, id)
}

func (r *registrars) takesOne(id uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return addTo(&r.single, id)
}

func addTo(set *map[uint32]bool, id uint32) (isNews bool) {
	if (*set)[id] {
		return false
	}
	if *set == nil {
		*set = map[uint32]bool{}
	}
	(*set)[id] = true
	return true
}

func (r *registrars) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pathless, r.single = nil, nil
}
