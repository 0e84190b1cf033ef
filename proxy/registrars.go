package proxy

import (
	"sync"

	"github.com/sipward/sipward/proxy/binding"
)

// registrars is what their answers have taught of backends. It is known until a reload: who
// changes a registrar tells the edge so. It is bounded by the backends there are.
type registrars struct {
	mu       sync.Mutex
	pathless map[uint32]*pathless // by backend.Backend.ID: did not keep a Path
	single   map[uint32]*single   // refused REGISTERs that took an old Contact back
}

// A pathless is a registrar that did not keep the Path of some users. There are registrars
// that decide by user: Asterisk does by the settings of the AOR, and keeps no Path of a phone
// whose Contact has another user part. Nobody is to change by a Contact of his own how
// others are registered, so several show that it keeps none.
type pathless struct {
	users map[string]bool // by AoR: whether the answer spoke of this phone alone
	alone int             // those that it did
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
	singleCount   = 3    // phones that show that a registrar wants one Contact
	maxRefused    = 256  // phones that may show it next
	pathlessCount = 3    // users that show that a registrar keeps no Path
	maxPathless   = 1024 // users without Path, from which on nobody has one
)

func (p *pathless) isAll() bool { return p.alone >= pathlessCount || len(p.users) >= maxPathless }

// isPathless says whether a registrar does not keep the Path of a user.
func (r *registrars) isPathless(id uint32, aor string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pathless[id]
	if p == nil {
		return false
	}
	_, found := p.users[aor]
	return found || p.isAll()
}

// ignoresPath notes a user whose Path was not kept. An answer that lists other Contacts, too,
// may have said no Path because of these. It returns whether this user and whether the whole
// registrar are news.
func (r *registrars) ignoresPath(id uint32, aor string, isAlone bool) (isNews, isAllNews bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pathless[id]
	if p == nil {
		if r.pathless == nil {
			r.pathless = map[uint32]*pathless{}
		}
		p = &pathless{users: map[string]bool{}}
		r.pathless[id] = p
	}
	if p.isAll() {
		return false, false
	}
	wasAlone, found := p.users[aor]
	p.users[aor] = wasAlone || isAlone
	if isAlone && !wasAlone {
		p.alone++
	}
	return !found, p.isAll()
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
