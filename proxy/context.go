package proxy

import (
	"net/netip"
	"sync"
	"time"

	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/backend"
	"github.com/sipward/sipward/proxy/resolve"
	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/security"
	"github.com/sipward/sipward/timers"
)

// maxLegs bounds how many targets one request is tried on.
const maxLegs = 8

// maxPanics bounds how often one request may show a bug of ours.
const maxPanics = 3

// A responseContext is RFC 3261 16's: the server transaction of one request and
// the client transactions (legs) that it was forwarded on, one after the other.
//
// It is found by its server key or by the slot in our branch. mu guards all but
// the first block; it is released before anything is sent. The context lingers
// after its final response as long as RFC 3261 and RFC 6026 ask (timers H–M), by
// then without the messages.
type responseContext struct {
	edge    *Edge
	snap    *snapshot // the configuration it started with
	key     string    // server key
	slot    transaction.Slot
	method  wire.Method
	cseq    uint32
	loop    uint32            // hash of what routed the request
	arrival transport.Flow    // where it came from
	source  netip.AddrPort    // as the socket saw it
	route   route             // what was decided about it
	call    *dialog.Call      // that this INVITE began; nil otherwise
	tx      *dialog.Tx        // of a request in a dialog that we know; nil otherwise
	attempt *security.Attempt // of a request with credentials from outside, until its final answer
	home    returnAddress     // where responses go when its connection is gone

	mu       sync.Mutex
	up       transport.Flow // where responses go; not arrival where Via asks for another port, or arrival is gone
	reopened bool           // a peer outside had its attempt to be reached again
	timer    timers.Timer
	armed    time.Duration // what timer is set to, 0 = not set
	held     int           // bytes of stored messages, as counted in Edge.held
	server   transaction.Machine
	ackKey   string // second key while an unacknowledged failure waits for its ACK
	req      []byte // the request as received; nil when no longer needed
	last     []byte // last response sent up, for retransmissions; nil for a 2xx to INVITE
	best     []byte // best final response so far, without our Via; nil = a local one
	bestCode int    // its status, 0 = none
	first    leg    // the usual, only one
	more     []*leg // the others
	legs     int
	reason   string // Reason line of our CANCELs, that of the caller's if it had one
	ringing  bool   // the caller was told of a dialog
	answered bool   // the final response is out
	canceled bool
	waiting  bool          // for a name to be resolved
	tooLong  bool          // it rang for max_ring_duration
	overdue  bool          // timer C fired
	ringBy   time.Duration // when that is over, 0 = never
	done     bool
	panics   uint8
}

// A leg is one client transaction: one attempt at one target.
type leg struct {
	n         uint16
	client    transaction.Machine
	flow      transport.Flow
	backend   *backend.Backend // nil when the target is no pool member
	addr      resolve.Target
	out       []byte        // the request as sent; nil when no longer needed
	failover  time.Duration // when silence makes us go on, 0 = no longer
	heard     bool          // any response came
	abandoned bool          // another target was tried after silence
	cancel    *cancelLeg    // the CANCEL for it
	byPath    bool          // a REGISTER that has a Path of ours
	wantsEnd  bool          // to be cancelled as soon as a provisional comes (RFC 3261 9.1)
}

// A cancelLeg is the client transaction of the CANCEL of a leg.
type cancelLeg struct {
	client transaction.Machine
	out    []byte
}

// pending says that the leg may still bring a final response.
func (l *leg) pending() bool { return isOpen(&l.client) }

// isOpen says that a client transaction waits for its final response.
func isOpen(m *transaction.Machine) bool {
	return m.State() == transaction.Trying || m.State() == transaction.Proceeding
}

// leg returns client branch n.
func (c *responseContext) leg(n int) *leg {
	if n == 0 {
		return &c.first
	}
	return c.more[n-1]
}

// newLegLocked adds a client branch.
func (c *responseContext) newLegLocked() *leg {
	l := &c.first
	if c.legs > 0 {
		l = &leg{}
		c.more = append(c.more, l)
	}
	l.n = uint16(c.legs)
	c.legs++
	return l
}

// waitsForLegsLocked says whether a leg that was not given up is still open.
func (c *responseContext) waitsForLegsLocked() bool {
	for i := range c.legs {
		if l := c.leg(i); l.pending() && !l.abandoned {
			return true
		}
	}
	return c.waiting
}

// tried says whether a backend's address was tried already. Without a context
// (a request that has no transaction) nothing was.
func (c *responseContext) tried(b *backend.Backend, t resolve.Target) bool {
	if c == nil {
		return false
	}
	for i := range c.legs {
		if l := c.leg(i); l.backend == b && l.addr == t {
			return true
		}
	}
	return false
}

// settleLocked re-arms the timer, lets go of what is no longer needed and
// forgets the context when every machine is done. Call it after every change.
func (c *responseContext) settleLocked(now time.Duration) {
	if c.done {
		return
	}
	due := timers.Sooner(c.server.Due(), c.ringBy)
	open := c.server.State() != transaction.Terminated
	for i := range c.legs {
		l := c.leg(i)
		due = timers.Sooner(due, l.client.Due())
		due = timers.Sooner(due, l.failover)
		open = open || l.client.State() != transaction.Terminated
		if l.cancel != nil {
			due = timers.Sooner(due, l.cancel.client.Due())
			open = open || l.cancel.client.State() != transaction.Terminated
		}
		if !l.pending() && l.client.State() != transaction.Completed {
			l.out = nil
		}
		if l.cancel != nil && !isOpen(&l.cancel.client) {
			l.cancel.out = nil
		}
	}
	if c.answered && !c.anyPendingLocked() {
		c.req, c.best, c.route.enrols = nil, nil, nil
	}
	if !open && !c.waiting {
		c.forgetLocked()
		return
	}
	c.weighLocked()
	if due = timers.Coarse(due, now); due != c.armed {
		c.armed = due
		if due == 0 {
			c.edge.wheel.Stop(&c.timer)
		} else {
			c.edge.wheel.Set(&c.timer, c, due)
		}
	}
}

func (c *responseContext) anyPendingLocked() bool {
	for i := range c.legs {
		if c.leg(i).pending() {
			return true
		}
	}
	return c.waiting
}

// weighLocked keeps the account of the bytes that all contexts hold.
func (c *responseContext) weighLocked() {
	n := len(c.req) + len(c.last) + len(c.best) + c.route.enrols.size()
	for i := range c.legs {
		l := c.leg(i)
		n += len(l.out)
		if l.cancel != nil {
			n += len(l.cancel.out)
		}
	}
	if n != c.held {
		c.edge.held.Add(int64(n - c.held))
		c.held = n
	}
}

// forgetLocked takes the context out of every table.
func (c *responseContext) forgetLocked() {
	c.done = true
	e := c.edge
	e.held.Add(int64(-c.held))
	c.held = 0
	e.wheel.Stop(&c.timer)
	e.table.Remove(c.key, c.slot)
	if c.ackKey != "" {
		e.table.Unalias(c.ackKey, c)
	}
	for i := range c.legs {
		if conn := c.leg(i).flow.Conn(); conn != nil {
			e.onConn.remove(conn.ID(), c)
		}
	}
	if c.tx != nil { // only after a panic is there no final response yet
		c.tx.Final(&dialog.Effects{}, nil, 408, e.wheel.Now())
	}
	if c.call != nil && !c.answered {
		c.call.Abandon()
	}
	c.answeredLocked()
}

// answeredLocked notes that the final response is out.
func (c *responseContext) answeredLocked() {
	if !c.answered {
		c.answered, c.ringBy = true, 0
		c.edge.answered()
	}
}

// unlock ends what a message or a timer does to the context; defer it. A panic
// must not leave a context behind that no timer ends: it would hold its place in
// the table for ever.
func (c *responseContext) unlock() {
	defer c.mu.Unlock()
	if r := recover(); r != nil {
		c.mendLocked()
		panic(r)
	}
}

// mendLocked arms the timer anew; what has none to arm, or does it again and
// again, is forgotten.
func (c *responseContext) mendLocked() {
	if c.slot == 0 || c.done {
		return
	}
	c.panics++
	c.armed = 0
	c.settleLocked(c.edge.wheel.Now())
	isStuck := !c.waiting && (c.armed == 0 || c.legs == 0 && !c.answered)
	if !c.done && (isStuck || c.panics > maxPanics) {
		c.forgetLocked()
	}
}

// Expire is a due time of any of the machines.
func (c *responseContext) Expire(_ *timers.Timer, now time.Duration) {
	w := c.edge.scratch()
	defer c.edge.release(w)
	c.tick(w, now)
	w.flush()
}

func (c *responseContext) tick(w *scratch, now time.Duration) {
	c.mu.Lock()
	defer c.unlock()
	if c.done {
		return
	}
	c.armed = 0
	c.tickServerLocked(w, now)
	for i := 0; i < c.legs; i++ { // c.legs may grow
		c.tickLegLocked(w, c.leg(i), now)
	}
	c.settleLocked(now)
}

func (c *responseContext) tickServerLocked(w *scratch, now time.Duration) {
	eff := c.server.Step(transaction.Tick, now, &c.snap.times)
	if eff&transaction.Resend != 0 && c.last != nil {
		w.sendUp(c, c.last)
	}
	if c.ringBy != 0 && now >= c.ringBy {
		c.ringBy, c.tooLong = 0, true
		c.becauseLocked(rangTooLong)
		c.cancelAllLocked(w, nil, now)
	}
}

func (c *responseContext) tickLegLocked(w *scratch, l *leg, now time.Duration) {
	if cl := l.cancel; cl != nil {
		if cl.client.Step(transaction.Tick, now, &c.snap.times)&transaction.Send != 0 {
			w.send(l.flow, cl.out)
		}
	}
	eff := l.client.Step(transaction.Tick, now, &c.snap.times)
	switch {
	case eff&transaction.TimedOut != 0:
		c.timedOutLocked(w, l, now)
		return
	case eff&transaction.CFired != 0: // 16.8
		c.overdue = true
		c.becauseLocked(timerCFired)
		c.cancelLegLocked(w, l, now)
	case eff&transaction.Send != 0:
		c.edge.count.retransmitted.Add(1)
		w.sendFor(l.flow, l.out, c, l.n)
	}
	if l.failover != 0 && now >= l.failover {
		l.failover = 0
		c.silentLocked(w, l, now)
	}
}

// timedOutLocked treats timer B, F or an unheeded CANCEL as a 408 (16.8).
func (c *responseContext) timedOutLocked(w *scratch, l *leg, now time.Duration) {
	l.failover = 0
	if l.abandoned { // its silence was noted and acted upon long ago
		return
	}
	if !l.heard {
		w.missed(l.backend, now)
	}
	if c.answered {
		return
	}
	if c.canceled {
		c.considerLocked(487, nil)
	} else {
		c.considerLocked(408, nil)
		if !l.heard && c.tryNextLocked(w, now) {
			return
		}
	}
	c.concludeLocked(w, now)
}

// silentLocked goes on to the next target when this one has not said a word.
// The leg stays open for a late answer.
func (c *responseContext) silentLocked(w *scratch, l *leg, now time.Duration) {
	if l.heard || c.answered || c.canceled || !l.pending() {
		return
	}
	if !c.tryNextLocked(w, now) {
		return // nowhere to go: it keeps its chance until timer B
	}
	w.missed(l.backend, now)
	l.abandoned = true
	l.client.Quiet()
	l.wantsEnd = true
}
