package transport

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/sipward/sipward/proxy/wire"
)

var (
	// ErrTotalLimit and ErrSourceLimit are why a peer outside may not have another connection: Limits.MaxConnections and
	// Limits.MaxConnectionsPerSource.
	ErrTotalLimit  = errors.New("connection limit reached")
	ErrSourceLimit = errors.New("connection limit of this source reached")
)

// registry knows all connections and enforces how many there may be. Guests may take 15/16 of the total only, and an
// eighth of what may be dialled at a time: a flood from outside must leave room to reach the PBX.
type registry struct {
	mu       sync.RWMutex
	limits   limits
	lastID   uint64
	byID     map[uint64]*Conn
	byPeer   map[peer]*Conn     // the newest; Conn.older leads to the others
	bySource map[netip.Addr]int // guests per sourceOf
	dialing  int
	isShut   bool
}

// peer is what connections are found by for reuse.
type peer struct {
	proto  wire.Proto
	remote netip.AddrPort
}

func (r *registry) init(l limits) {
	r.limits = l
	// Microseconds since 1970 are ahead of all ids given before a restart, as long as connections come at less than a
	// million a second: an id in a flow token of our former life finds nothing, not somebody else.
	r.lastID = uint64(time.Now().UnixMicro())
	r.byID = make(map[uint64]*Conn)
	r.byPeer = make(map[peer]*Conn)
	r.bySource = make(map[netip.Addr]int)
}

// accept enters an accepted connection.
func (r *registry) accept(c *Conn) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isShut {
		return ErrClosed
	}
	if err := r.refusesLocked(c.remote.Addr()); err != nil {
		return err
	}
	r.enterLocked(c)
	return nil
}

// refusesLocked tells why a peer outside may not have another connection.
func (r *registry) refusesLocked(a netip.Addr) error {
	if limit := r.limits.maxConnections; limit > 0 && len(r.byID) >= limit-limit/16 {
		return ErrTotalLimit
	}
	if limit := r.limits.maxConnectionsPerSource; limit > 0 && r.bySource[sourceOf(a)] >= limit {
		return ErrSourceLimit
	}
	return nil
}

// find returns the newest connection that fits, or nil.
func (r *registry) find(p peer, fits func(*Conn) bool) *Conn {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.findLocked(p, fits)
}

func (r *registry) findLocked(p peer, fits func(*Conn) bool) *Conn {
	for c := r.byPeer[p]; c != nil; c = c.older {
		if fits(c) {
			return c
		}
	}
	return nil
}

// reuseOrDial is find, or else enters fresh(), which is a guest or not, and reports true: the caller is to dial it.
func (r *registry) reuseOrDial(p peer, fits func(*Conn) bool, fresh func() *Conn, isGuest bool) (*Conn, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isShut {
		return nil, false, ErrClosed
	}
	if c := r.findLocked(p, fits); c != nil {
		return c, false, nil
	}
	if limit := r.limits.maxConnections; limit > 0 && len(r.byID) >= limit {
		return nil, false, ErrTooManyConnections
	}
	if r.dialing >= maxDialing || isGuest && r.dialing >= maxDialing/8 {
		return nil, false, ErrTooManyDials
	}
	if isGuest {
		if err := r.refusesLocked(p.remote.Addr()); err != nil {
			return nil, false, err
		}
	}
	c := fresh()
	r.dialing++
	c.isDialing = true
	r.enterLocked(c)
	return c, true, nil
}

func (r *registry) enterLocked(c *Conn) {
	r.lastID++
	c.id = r.lastID
	r.byID[c.id] = c
	if c.isGuest {
		r.bySource[sourceOf(c.remote.Addr())]++
	}
	p := c.peer()
	c.older = r.byPeer[p]
	r.byPeer[p] = c
}

// established ends the dialling state of c.
func (r *registry) established(c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.isDialing {
		c.isDialing = false
		r.dialing--
	}
}

// retire makes sure that c is not reused any more.
func (r *registry) retire(c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.retireLocked(c)
}

func (r *registry) retireLocked(c *Conn) {
	p := c.peer()
	newest := r.byPeer[p]
	if newest == c {
		if c.older == nil {
			delete(r.byPeer, p)
		} else {
			r.byPeer[p] = c.older
		}
		c.older = nil
		return
	}
	for at := newest; at != nil; at = at.older {
		if at.older == c {
			at.older, c.older = c.older, nil
			return
		}
	}
}

// leave forgets c, when its goroutine has nothing more to do.
func (r *registry) leave(c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byID[c.id] != c {
		return
	}
	delete(r.byID, c.id)
	r.retireLocked(c)
	if c.isDialing {
		c.isDialing = false
		r.dialing--
	}
	if !c.isGuest {
		return
	}
	source := sourceOf(c.remote.Addr())
	if r.bySource[source]--; r.bySource[source] <= 0 {
		delete(r.bySource, source)
	}
}

func (r *registry) get(id uint64) *Conn {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.byID[id]
}

func (r *registry) size() (connections, dialing int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.byID), r.dialing
}

// guests returns the connections that count among those of their source.
func (r *registry) guests() []*Conn {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*Conn, 0, len(r.byID))
	for _, c := range r.byID {
		if c.isGuest {
			all = append(all, c)
		}
	}
	return all
}

// shut refuses all further connections and returns those that there are.
func (r *registry) shut() []*Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isShut = true
	return r.allLocked()
}

func (r *registry) all() []*Conn {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.allLocked()
}

func (r *registry) allLocked() []*Conn {
	all := make([]*Conn, 0, len(r.byID))
	for _, c := range r.byID {
		all = append(all, c)
	}
	return all
}

// sourceOf is what counts as one source: an IPv4 address, an IPv6 /64.
func sourceOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}
