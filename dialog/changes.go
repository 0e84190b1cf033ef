package dialog

import (
	"sync"
	"time"
)

// changes are the calls whose state is not what was written last. Each is there once,
// so that a call costs the same however much happens to it between two writes.
type changes struct {
	mu      sync.Mutex
	limit   int
	changed []ID // that have a state to be written
	gone    []ID // whose state was written, and that are over
	lost    uint64
}

// add is false when there is no room.
func (x *changes) add(id ID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.changed) >= x.limit {
		x.lost++
		return false
	}
	x.changed = append(x.changed, id)
	return true
}

func (x *changes) forget(id ID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.gone) >= x.limit {
		x.lost++
		return
	}
	x.gone = append(x.gone, id)
}

func (x *changes) take() (changed, gone []ID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	changed, gone = x.changed, x.gone
	x.changed, x.gone = nil, nil
	return changed, gone
}

// markLocked notes that an answered call has changed. A call that is over before the
// next Changes was never there.
func (c *Call) markLocked() {
	if !c.store.Keep || c.marked || c.answered == 0 {
		return
	}
	c.marked = c.store.changes.add(c.id)
}

// Changes hands over the state of each call that has changed since the last time, and
// the ID of each that is over; no lock is held then. A state is valid during the call
// only. wall makes a time of the day of one of the wheel's clock. One goroutine at a time.
func (s *Store) Changes(wall func(time.Duration) time.Time, put func(id ID, state []byte), remove func(id ID)) {
	changed, gone := s.changes.take()
	var state []byte
	for _, id := range changed {
		c := s.Get(id)
		if c == nil {
			continue
		}
		kept, wasSaved := false, false
		if state, kept, wasSaved = c.change(state[:0], wall); kept {
			put(id, state)
		} else if wasSaved {
			remove(id)
		}
	}
	for _, id := range gone {
		remove(id)
	}
}

// change takes the mark from a call.
func (c *Call) change(dst []byte, wall func(time.Duration) time.Time) (state []byte, kept, wasSaved bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wasSaved = c.saved
	c.marked = false
	state, kept = c.appendStateLocked(dst, wall)
	c.saved = kept
	return state, kept, wasSaved
}

// LostChanges is how many changes found no room.
func (s *Store) LostChanges() uint64 {
	s.changes.mu.Lock()
	defer s.changes.mu.Unlock()
	return s.changes.lost
}
