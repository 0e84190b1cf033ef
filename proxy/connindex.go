package proxy

import "sync"

// connIndex knows which transactions wait for an answer on a connection, so that
// its end fails them at once instead of after timer B.
type connIndex struct {
	mu sync.Mutex
	on map[uint64]map[transactor]struct{}
}

func newConnIndex() *connIndex { return &connIndex{on: map[uint64]map[transactor]struct{}{}} }

func (x *connIndex) add(conn uint64, t transactor) {
	x.mu.Lock()
	defer x.mu.Unlock()
	set := x.on[conn]
	if set == nil {
		set = map[transactor]struct{}{}
		x.on[conn] = set
	}
	set[t] = struct{}{}
}

func (x *connIndex) remove(conn uint64, t transactor) {
	x.mu.Lock()
	defer x.mu.Unlock()
	set := x.on[conn]
	delete(set, t)
	if len(set) == 0 {
		delete(x.on, conn)
	}
}

// take empties the entry of a connection.
func (x *connIndex) take(conn uint64) map[transactor]struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	set := x.on[conn]
	delete(x.on, conn)
	return set
}
