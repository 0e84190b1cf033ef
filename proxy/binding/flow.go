package binding

import (
	"slices"
	"time"

	"github.com/sipward/sipward/timers"
)

// flow is a flow with bindings on it, or with some that have moved on. Its table's lock guards it.
type flow struct {
	timers.Timer // set to pingAt

	table *Table
	key   Flow
	first *record // of the ring; those that are to be pinged come first
	left  *stay   // of who moved on, the last one first
	nodes []tally // of the bindings
	n     uint32  // bindings
	most  uint32  // bindings that it ever had at once

	closed time.Duration // when the connection ended
	heard  time.Duration // when a binding was learned over it last
	leftAt time.Duration // when one moved on last

	pingAt time.Duration // 0: it is not to be pinged
	turn   uint32        // its part of the interval, in 2^-32; 0: none yet
	awaits bool          // the answer to a ping
	missed uint32
	pings  uint64
	pinged time.Duration
	ponged time.Duration
	rtt    time.Duration
}

// tally is how many bindings have the same node.
type tally struct{ node, n uint32 }

// stay is a flow that a binding has moved on from.
type stay struct {
	at         *flow
	of         *record
	before     *stay // of the same binding
	prev, next *stay // on the same flow
}

// flowLocked finds a flow, or makes it.
func (t *Table) flowLocked(key Flow) *flow {
	if f := t.byFlow[key]; f != nil {
		return f
	}
	f := &flow{table: t, key: key}
	t.byFlow[key] = f
	if key.Conn != 0 {
		t.byConn[key.Conn] = f
	}
	return f
}

// tidyLocked forgets a flow that nobody is on or was on.
func (t *Table) tidyLocked(f *flow) {
	if f.n > 0 || f.left != nil {
		return
	}
	delete(t.byFlow, f.key)
	if t.byConn[f.key.Conn] == f {
		delete(t.byConn, f.key.Conn)
	}
}

// join puts a binding on the flow.
func (f *flow) join(r *record) {
	r.at = f
	f.count(r.backend)
	f.n++
	f.most = max(f.most, f.n)
	if f.n == 1 {
		f.table.count.flows++
		r.left, r.right, f.first = r, r, r
		return
	}
	r.left, r.right = f.first.left, f.first
	r.left.right, r.right.left = r, r
	if r.nated {
		f.first = r
	}
}

// leave takes a binding from the flow. r.at still names it.
func (f *flow) leave(r *record) {
	f.uncount(r.backend)
	if f.n--; f.n == 0 {
		f.table.count.flows--
		f.first = nil
		return
	}
	r.left.right, r.right.left = r.right, r.left
	if f.first == r {
		f.first = r.right
	}
}

// bindings yields those on the flow. None may join or leave meanwhile.
func (f *flow) bindings(yield func(*record) bool) {
	r := f.first
	for range f.n {
		if !yield(r) {
			return
		}
		r = r.right
	}
}

func (f *flow) count(node uint32) {
	for i := range f.nodes {
		if f.nodes[i].node == node {
			f.nodes[i].n++
			return
		}
	}
	if f.nodes == nil {
		f.nodes = make([]tally, 0, 1)
	}
	f.nodes = append(f.nodes, tally{node, 1})
}

func (f *flow) uncount(node uint32) {
	for i := range f.nodes {
		if f.nodes[i].node != node {
			continue
		}
		if f.nodes[i].n--; f.nodes[i].n == 0 {
			f.nodes = slices.Delete(f.nodes, i, i+1)
		}
		return
	}
}

// NodeAt is the node of the bindings on a flow, if all agree.
func (t *Table) NodeAt(key Flow) (uint32, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	f := t.byFlow[key]
	if f == nil || len(f.nodes) != 1 {
		return 0, false
	}
	return f.nodes[0].node, true
}

// Current is where the phone that had flow f is now: false when it has not moved on from there, as far as is known.
func (t *Table) Current(id ID, key Flow) (Flow, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r := t.followLocked(id)
	if r == nil {
		return Flow{}, false
	}
	for s := r.past; s != nil; s = s.before {
		if s.at.key == key {
			return r.at.key, true
		}
	}
	return Flow{}, false
}

// Successor is where all bindings went that moved on from f, if they agree, and if the last one did since then: whoever
// used f before that has moved too. A NAT gives an address that was left to others in the end.
//
// One that moves away from others must not take them along, for on the connection of an SBC they are other people's:
// nobody has moved as long as some are on f and f is open, or has been registered over since; and where fewer left than
// there were, they count only at the address that f came from. Of very many, those that left last are asked.
func (t *Table) Successor(key Flow, since time.Duration) (Flow, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	f := t.byFlow[key]
	if f == nil || f.leftAt < since {
		return Flow{}, false
	}
	return f.successor()
}

func (f *flow) successor() (Flow, bool) {
	if f.left == nil || f.n > 0 && (f.closed == 0 || f.heard > f.leftAt) {
		return Flow{}, false
	}
	to, n := f.left.of.at, uint32(0)
	for s := f.left; s != nil && n < askedMost; s = s.next {
		if s.of.at != to {
			return Flow{}, false
		}
		n++
	}
	if n < f.most && to.key.Remote.Addr() != f.key.Remote.Addr() {
		return Flow{}, false
	}
	return to.key, true
}

// remember notes that a binding has moved on from f.
func (r *record) remember(f *flow, now time.Duration) {
	f.leftAt = max(f.leftAt, now)
	s := &stay{at: f, of: r, before: r.past, next: f.left}
	if f.left != nil {
		f.left.prev = s
	}
	r.past, f.left = s, s
	n := 0
	for ; s != nil; s = s.before {
		n++
	}
	if n > formers {
		r.dropOldest()
	}
}

// forget undoes remember, for a binding that is on f again. It is false when there is nothing to undo.
func (r *record) forget(f *flow) bool {
	for p := &r.past; *p != nil; p = &(*p).before {
		if s := *p; s.at == f {
			*p = s.before
			s.unlink()
			return true
		}
	}
	return false
}

func (r *record) dropOldest() {
	p := &r.past
	for (*p).before != nil {
		p = &(*p).before
	}
	s := *p
	*p = nil
	s.unlink()
	r.table.tidyLocked(s.at)
}

// unlink takes a stay from its flow.
func (s *stay) unlink() {
	if s.next != nil {
		s.next.prev = s.prev
	}
	if s.prev != nil {
		s.prev.next = s.next
		return
	}
	s.at.left = s.next
}
