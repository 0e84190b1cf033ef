package proxy

import (
	"time"

	"github.com/sipward/sipward/proxy/eventlog"
	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/wire"
)

// tryNextLocked forwards the stored request to the next target.
func (c *responseContext) tryNextLocked(w *scratch, now time.Duration) bool {
	if c.req == nil {
		return false
	}
	w.again.Scan(c.req, c.up.Proto().Streamed())
	return c.tryNextFromLocked(w, &w.again, now)
}

// tryNextFromLocked opens a leg to the next target, 16.6 steps 7 to 11. m is the
// request. It is false when there is nowhere left to go.
func (c *responseContext) tryNextFromLocked(w *scratch, m *wire.Msg, now time.Duration) bool {
	if c.legs >= maxLegs {
		return false
	}
	h, ok := c.edge.pick(w, &c.route, c, now)
	if !ok {
		return false
	}
	kind := transaction.NonInviteClient
	wait := c.snap.requestFailover(c.route.pool)
	if c.method == wire.INVITE {
		kind, wait = transaction.InviteClient, c.snap.inviteFailover(c.route.pool)
	}
	l := c.newLegLocked()
	branch := transaction.Branch{Slot: c.slot, Leg: l.n, Loop: c.loop}
	w.splice(m, &c.route, c.arrival, h, branch)
	if over, ok := c.edge.overTCP(h, w.edit.Len()); ok {
		h.flow = over
		w.splice(m, &c.route, c.arrival, h, branch) // Via and Record-Route name the transport
	}
	l.flow, l.backend, l.addr = h.flow, h.backend, h.addr
	l.byPath = c.route.enrols != nil && c.route.enrols.path
	if c.call != nil {
		c.call.Forwarded(l.target())
	}
	l.client = transaction.NewMachine(kind, h.flow.Proto().Reliable())
	l.client.Step(transaction.Start, now, &c.snap.times)
	l.failover = now + wait

	l.out = w.edit.AppendTo(make([]byte, 0, w.edit.Len()))
	if conn := l.flow.Conn(); conn != nil {
		c.edge.onConn.add(conn.ID(), c)
	}
	c.edge.count.forwarded.Add(1)
	if l.n > 0 {
		c.edge.count.failovers.Add(1)
	}
	c.edge.logRelay(m, c.route.contact, h)
	w.sendFor(l.flow, l.out, c, l.n)
	return true
}

// logRelay writes the line of a relayed request. ruri is what it has as Request-URI now,
// nil = as it came.
func (e *Edge) logRelay(m *wire.Msg, ruri []byte, h hop) {
	if ruri == nil {
		ruri = m.Bytes(m.RURI)
	}
	name := ""
	if h.backend != nil {
		name = h.backend.Name()
	}
	e.log.Relay(&eventlog.Relay{
		Method: m.Bytes(m.MethodName), RURI: ruri, From: m.Bytes(m.From.URI), To: m.Bytes(m.To.URI),
		CallID: m.Bytes(m.CallID), Backend: name, Dst: h.flow.Remote(),
	})
}
