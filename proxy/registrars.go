package proxy

import (
	"sync"

	"github.com/sipward/sipward/proxy/binding"
)

// registrars is what their answers have taught of backends. It is known until a reload: who
// changes a registrar tells the edge so. It is bounded by the backends there are.
type registrars struct {
	mu       sync.Mutex
	pathless map[uint32]bool    // by backend.Backend.ID: did not keep a Path
	single   map[uint32]*single // refused REGISTERs that took an old Contact back
}

// A single is a registrar that may want one Contact. One refusal says little: a node is in
// trouble, a stranger's request is broken. So the phone that was refused goes without once,
// and counts when it is taken then.
type single struct {
	refused map[binding.ID]bool // until they come again
	counted map[binding.ID]bool // go without from then on; each counts once, as it may have reasons of its own
}

// Numbers we chose.
const (
	singleCount = 3   // phones that show that a registrar wants one Contact
	maxRefused  = 256 // phones that may show it next
)

func (r *registrars) isPathless(id uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pathless[id]
}

// ignoresPath returns whether that is news.
func (r *registrars) ignoresPath(id uint32) (isNews bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pathless[id] {
		return false
	}
	if r.pathless == nil {
		r.pathless = map[uint32]bool{}
	}
	r.pathless[id] = true
	return true
}

// takesBack says whether the REGISTER of a phone may take an old Contact back.
func (r *registrars) takesBack(id uint32, phone binding.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.single[id]
	return s == nil || len(s.counted) < singleCount && !s.refused[phone] && !s.counted[phone]
}

// refusedBack notes a phone whose REGISTER took an old Contact back and was refused, perhaps
// for that.
func (r *registrars) refusedBack(id uint32, phone binding.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.single[id]
	if s == nil {
		if r.single == nil {
			r.single = map[uint32]*single{}
		}
		s = &single{refused: map[binding.ID]bool{}, counted: map[binding.ID]bool{}}
		r.single[id] = s
	}
	if len(s.refused) < maxRefused {
		s.refused[phone] = true
	}
}

// took notes a 2xx to the REGISTER of a phone that took an old Contact back, or that would
// have done so but went without.
func (r *registrars) took(id uint32, phone binding.ID, isBack bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.single[id]
	switch {
	case s == nil:
	case isBack:
		delete(r.single, id)
	case s.refused[phone]:
		delete(s.refused, phone)
		if len(s.counted) < singleCount {
			s.counted[phone] = true
		}
	}
}

func (r *registrars) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pathless, r.single = nil, nil
}
