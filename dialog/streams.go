package dialog

import (
	"sync"
	"time"
)

// streams knows which calls have their outside party on a connection, so that the
// end of a connection makes the edge look after them.
type streams struct {
	mu sync.Mutex
	on map[uint64]map[*Call]struct{} // by connection; as many entries as calls over streams
}

func (s *streams) add(conn uint64, c *Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.on == nil {
		s.on = make(map[uint64]map[*Call]struct{})
	}
	set := s.on[conn]
	if set == nil {
		set = make(map[*Call]struct{})
		s.on[conn] = set
	}
	set[c] = struct{}{}
}

func (s *streams) remove(conn uint64, c *Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.on[conn]
	delete(set, c)
	if len(set) == 0 {
		delete(s.on, conn)
	}
}

// take empties the entry of a connection.
func (s *streams) take(conn uint64) map[*Call]struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.on[conn]
	delete(s.on, conn)
	return set
}

// outsideLocked notes where the outside party is.
func (c *Call) outsideLocked(at flow) {
	was := c.outside
	c.outside = at
	if c.answered != 0 {
		c.store.parties.move(was.party(), at.party())
	}
	if was.conn == at.conn {
		return
	}
	if was.conn != 0 {
		c.store.streams.remove(was.conn, c)
	}
	if at.conn != 0 {
		c.store.streams.add(at.conn, c)
	}
}

// ConnClosed has the calls over a connection that is gone looked after. That is no
// proof of death (spec E.5): the outside party is asked soon, over another way if
// there is one, and has all of session_ttl to answer.
func (s *Store) ConnClosed(fx *Effects, conn uint64, now time.Duration) {
	for c := range s.streams.take(conn) {
		c.connClosed(fx, conn, now)
	}
}

func (c *Call) connClosed(fx *Effects, conn uint64, now time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done || c.outside.conn != conn {
		return
	}
	for d := range c.dialogs {
		if x := &d.leg[c.outer]; d.state == confirmed && d.isProbed(c.outer) && x.own == 0 {
			// Not all calls of a trunk in the same instant.
			x.soonLocked(now + c.scaled(time.Duration(draw()*float64(2*time.Second))))
		}
	}
	c.settleLocked(fx, now)
}
