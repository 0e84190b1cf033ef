package binding

import (
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/sipward/sipward/timers"
)

// Numbers that we chose.
const (
	perAoR    = 32 // bindings; a forking registrar with more phones than that on one name is not one
	formers   = 4  // flows that a binding has moved on from
	askedMost = 64 // bindings that are asked where they went, when none is named
	toldMost  = 8  // bindings of a closed connection that are told of: on that of an SBC there may be as many as there are
)

// lateAnswer is how long an older answer may come after a newer one: the life of a transaction, timer F of RFC 3261 (64*T1).
const lateAnswer = 32 * time.Second

// Options of a Table. Capacity and Wheel are needed.
type Options struct {
	Capacity int // bindings at the same time
	Wheel    *timers.Wheel
	Keep     bool // note which bindings change, for Changes

	// Both are called on the wheel's goroutine, without a lock; nil: nobody is told.

	// Ping is told when a flow is to be pinged: once, whatever the number of its bindings.
	Ping func(b Binding, now time.Duration)
	// Gone is told of a binding that ended by itself, not of one that was removed or that made room for another.
	Gone func(b Binding, why Reason, now time.Duration)
}

// Table is the bounded table of all bindings. All methods are safe for concurrent use.
type Table struct {
	Options

	mu      sync.RWMutex       // guards all below, and all that is reached from there
	byID    map[ID]*record     //
	byFirst map[ID]*record     // by IDs that they had before
	byAoR   map[string]*record // the one that was refreshed last, chained
	byFlow  map[Flow]*flow     // flows with bindings on them, or with some that moved on
	byConn  map[uint64]*flow   // those of connections
	removed removals           //
	changed map[ID]struct{}    // whose state is not what was written last
	count   tallies            //
	turns   uint32             // the last turn that was given to a flow
	every   time.Duration      // from one ping of a flow to the next, 0 = never
	grace   time.Duration      // that bindings have after their connection
}

// tallies are the totals.
type tallies struct {
	flows                                           int
	added, refreshed, moved, expired, lost, refused uint64
	pings, pongs                                    uint64
	lostChanges                                     uint64
}

// NewTable makes an empty table that pings nobody and has no grace; see [Table.Configure].
func NewTable(o Options) *Table {
	return &Table{
		Options: o,
		byID:    make(map[ID]*record),
		byFirst: make(map[ID]*record),
		byAoR:   make(map[string]*record),
		byFlow:  make(map[Flow]*flow),
		byConn:  make(map[uint64]*flow),
		changed: make(map[ID]struct{}),
	}
}

// Learn takes in a binding that a registrar has granted, and returns what is known of it then: after Moved, Former is
// the flow that it has just left. Old leaves everything as it was, as does Full. A long UA is cut: only people read it.
func (t *Table) Learn(b Binding, now time.Duration) (Outcome, Binding) {
	b.UA = b.UA[:min(len(b.UA), MaxUA)]
	t.mu.Lock()
	defer t.mu.Unlock()
	if b.ID == 0 || !b.fits() {
		t.count.refused++
		return Full, b
	}
	r := t.byID[b.ID]
	if r == nil {
		r = t.predecessorLocked(&b)
	}
	switch isGone := t.removed.hold(&b); {
	case r == nil && (isGone || t.hasMovedOnLocked(&b)):
		return Old, b
	case r == nil:
		return t.addLocked(b, now)
	case isGone || r.isAhead(&b, now):
		return Old, r.binding()
	case r.id != b.ID:
		t.renameLocked(r, b.ID)
	}
	outcome := Refreshed
	t.count.refreshed++
	if r.at.key != b.Flow {
		outcome = Moved
		t.count.moved++
	}
	t.refreshLocked(r, &b, now)
	return outcome, r.binding()
}

// addLocked takes in one that is not known.
func (t *Table) addLocked(b Binding, now time.Duration) (Outcome, Binding) {
	t.makeRoomLocked(b.AoR)
	b.Since, b.Refreshed = now, now
	r := t.placeLocked(&b)
	if r == nil {
		t.count.refused++
		return Full, b
	}
	t.count.added++
	t.settleLocked(r, now)
	t.markLocked(r.id)
	return Added, r.binding()
}

// placeLocked gives a new binding its place in all indexes, or returns nil.
func (t *Table) placeLocked(b *Binding) *record {
	if len(t.byID) >= t.Capacity {
		return nil
	}
	r := &record{table: t, id: b.ID, since: b.Since}
	t.byID[b.ID] = r
	r.take(b)
	r.write(b)
	t.joinAoRLocked(r)
	t.flowLocked(b.Flow).join(r)
	return r
}

// refreshLocked brings one that is known up to date.
func (t *Table) refreshLocked(r *record, b *Binding, now time.Duration) {
	b.Refreshed = now
	if isSame, isFirst := r.says(b), t.byAoR[r.text(aor)] == r; !isSame || !isFirst {
		t.leaveAoRLocked(r)
		if b.AoR != r.text(aor) {
			t.makeRoomLocked(b.AoR)
		}
		if !isSame {
			r.write(b)
		}
		r.refreshed = now
		t.joinAoRLocked(r)
	}
	from := r.at
	from.leave(r)
	r.take(b)
	if from.key == b.Flow {
		from.join(r)
	} else {
		to := t.flowLocked(b.Flow)
		if r.forget(to) && r.returned < math.MaxUint16 {
			r.returned++
		}
		to.join(r)
		r.remember(from, now)
		t.pingLocked(from, now)
	}
	t.settleLocked(r, now)
	t.markLocked(r.id)
}

// settleLocked sets the timers of a binding that was learned. The connection may have gone before the answer came.
func (t *Table) settleLocked(r *record, now time.Duration) {
	r.at.heard = max(r.at.heard, now)
	r.due = r.expires
	if r.at.closed != 0 {
		r.due = min(r.due, now+t.grace)
	}
	t.Wheel.Set(&r.Timer, r, r.due)
	t.pingLocked(r.at, now)
}

// Remove forgets a binding that was unregistered by a REGISTER that came at the time asked, 0: not known. What was learned
// from a later one stays, and nothing is learned any more from one before it.
func (t *Table) Remove(id ID, asked time.Duration) (Binding, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removed.note(removal{id: id}, asked)
	r := t.byID[id]
	if r == nil || r.isAfter(asked) {
		return Binding{}, false
	}
	for _, former := range r.was {
		t.removed.note(removal{id: former}, asked)
	}
	return t.removeLocked(r), true
}

// RemoveAll is Remove for the bindings of an AoR at a node (Contact: *). It returns how many.
func (t *Table) RemoveAll(of string, backend uint32, asked time.Duration) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removed.note(removal{aor: of, backend: backend}, asked)
	n := 0
	for r := t.byAoR[of]; r != nil; {
		older := r.older
		if r.backend == backend && !r.isAfter(asked) {
			t.removeLocked(r)
			n++
		}
		r = older
	}
	return n
}

// removeLocked takes a binding out of everything, and returns what it was.
func (t *Table) removeLocked(r *record) Binding {
	b := r.binding()
	t.Wheel.Stop(&r.Timer)
	delete(t.byID, r.id)
	t.leaveAoRLocked(r)
	for _, id := range r.was {
		t.unnameLocked(id, r)
	}
	for r.past != nil {
		r.dropOldest()
	}
	at := r.at
	at.leave(r)
	r.at = nil // an expiry that is under way sees it
	t.pingLocked(at, b.Refreshed)
	t.tidyLocked(at)
	t.markLocked(r.id)
	return b
}

// Expire ends a binding, unless it was refreshed in the meantime: that armed the timer again.
func (r *record) Expire(_ *timers.Timer, now time.Duration) {
	if b, why, isOver := r.table.end(r, now); isOver && r.table.Gone != nil {
		r.table.Gone(b, why, now)
	}
}

func (t *Table) end(r *record, now time.Duration) (b Binding, why Reason, isOver bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.at == nil || now < r.due {
		return Binding{}, 0, false
	}
	if r.due < r.expires {
		t.count.lost++
		return t.removeLocked(r), Lost, true
	}
	t.count.expired++
	return t.removeLocked(r), Expired, true
}

// Closed marks the bindings of a connection that has ended, and returns some of them and how many there are: they live for
// the grace, unless they are learned again over another flow. What has moved on before is not touched. Bindings that are
// learned later, from answers on their way, have the grace too; the second call for a connection returns nothing.
func (t *Table) Closed(conn uint64, now time.Duration) (some []Binding, total int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.byConn[conn]
	if f == nil || f.closed != 0 {
		return nil, 0
	}
	f.closed = now
	t.pingLocked(f, now)
	some = make([]Binding, 0, min(f.n, toldMost))
	for r := range f.bindings {
		r.due = min(r.expires, now+t.grace)
		t.Wheel.Set(&r.Timer, r, r.due)
		if len(some) < toldMost {
			some = append(some, r.binding())
		}
	}
	return some, int(f.n)
}

// Get finds a binding.
func (t *Table) Get(id ID) (Binding, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r := t.byID[id]
	if r == nil {
		return Binding{}, false
	}
	return r.binding(), true
}

// Node is the node of the binding of an AoR that was refreshed last. One whose connection is closed counts when there is
// no other.
func (t *Table) Node(of []byte) (uint32, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	first := t.byAoR[string(of)]
	for r := first; r != nil; r = r.older {
		if r.at.closed == 0 {
			return r.backend, true
		}
	}
	if first == nil {
		return 0, false
	}
	return first.backend, true
}

// All yields every binding, in no order, each valid until the next. What comes and goes meanwhile may be missed.
func (t *Table) All(yield func(*Binding) bool) {
	for _, id := range t.ids() {
		if b, ok := t.Get(id); ok && !yield(&b) {
			return
		}
	}
}

func (t *Table) ids() []ID {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.AppendSeq(make([]ID, 0, len(t.byID)), maps.Keys(t.byID))
}

// Len is the number of bindings.
func (t *Table) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byID)
}

// Flows is the number of flows that they are on.
func (t *Table) Flows() int { return t.tallies().flows }

// Stats counts what has happened. Refused are those that found no room, and those that had to make some for another
// binding of their AoR.
func (t *Table) Stats() (added, refreshed, moved, expired, lost, refused uint64) {
	n := t.tallies()
	return n.added, n.refreshed, n.moved, n.expired, n.lost, n.refused
}

// Pinged counts the pings that were sent and those that were answered.
func (t *Table) Pinged() (sent, answered uint64) {
	n := t.tallies()
	return n.pings, n.pongs
}

func (t *Table) tallies() tallies {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.count
}
