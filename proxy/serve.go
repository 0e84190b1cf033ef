package proxy

import (
	"time"

	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/eventlog"
	"github.com/sipward/sipward/proxy/resolve"
	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// A rejection is an answer that the edge gives by itself. The zero value is none.
type rejection struct {
	status int
	reason string
	header []byte // whole lines
	silent bool   // nobody is to know that we are here
	token  badToken
}

// badToken is what is wrong with the token that a request came with. The zero value is
// nothing.
type badToken struct {
	where string // route or request-uri
	why   string
}

// serve takes a new request: check it (16.3), decide where it goes (16.4, 16.5),
// open its response context and forward it (16.6).
func (e *Edge) serve(w *scratch, p *transport.Packet) {
	m, snap := &w.msg, e.snap.Load()
	now := e.wheel.Now()
	if !e.protect(w, snap, p, now) {
		return
	}
	rej := e.validate(w, snap)
	var r route
	if rej.status == 0 {
		r, rej = e.decide(w, snap, p.Flow)
	}
	if rej.status == 0 {
		rej = e.admit(m, &r, p.Waited, now)
	}
	if rej.status == 0 && r.opens && e.isDeaf(snap, &r, now) {
		rej = rejection{status: 480, reason: "Temporarily Unavailable"}
	}
	if rej.status != 0 {
		e.count.rejected.Add(1)
		e.noteRejection(m, p.Flow, &rej)
		if rej.silent {
			return
		}
		e.endUnheard(w, &r, &rej, p.Flow, now)
		e.replyStateless(w, p.Flow, rej.status, rej.reason, rej.header)
		return
	}
	e.open(w, p, snap, r, now)
}

// endUnheard takes a BYE that does not reach its phone for what it is: whoever sent it has
// hung up.
func (e *Edge) endUnheard(w *scratch, r *route, rej *rejection, from transport.Flow, now time.Duration) {
	if rej.status != statusFlowFailed || w.msg.Method != wire.BYE || !r.dialog.Known() {
		return
	}
	if v := r.dialog.Request(&w.effects, &w.msg, dialogFlow(from), 0, now); v.Tx != nil {
		v.Tx.Final(&w.effects, nil, rej.status, now)
	}
	w.flush()
}

// noteRejection counts what became of a flow or token, and logs a sample of tokens.
func (e *Edge) noteRejection(m *wire.Msg, f transport.Flow, rej *rejection) {
	if rej.status == statusFlowFailed {
		e.count.flowFailed.Add(1)
	}
	if rej.token.why == "" {
		return
	}
	e.count.badTokens.Add(1)
	if e.tokenLines.Admit(e.wheel.Now()) {
		e.log.BadToken(&eventlog.BadToken{
			Src: f.Remote(), Method: m.Bytes(m.MethodName), RURI: m.Bytes(m.RURI), CallID: m.Bytes(m.CallID),
			Where: rej.token.where, Why: rej.token.why,
		})
	}
}

// open makes the response context and sends the request on its way.
func (e *Edge) open(w *scratch, p *transport.Packet, snap *snapshot, r route, now time.Duration) {
	m := &w.msg
	kind := transaction.NonInviteServer
	if m.Method == wire.INVITE {
		kind = transaction.InviteServer
	}
	c := &responseContext{
		edge: e, snap: snap, method: m.Method, cseq: m.CSeq, loop: e.loopHash(m),
		up: replyFlow(m, p.Flow), home: returnAddressOf(m, p.Flow), source: p.Flow.Remote(), arrival: p.Flow, route: r,
		server: transaction.NewMachine(kind, p.Flow.Proto().Reliable()),
		req:    append([]byte(nil), m.Buf...),
	}
	c.enter(w, now)
	w.flush()
}

// enter puts the context into the table and tries the first target.
func (c *responseContext) enter(w *scratch, now time.Duration) {
	c.mu.Lock()
	defer c.unlock()
	e, m := c.edge, &w.msg
	reserve, memory := 0, int64(c.snap.config.Limits.TransactionMemory)
	if c.route.exempt {
		reserve = e.table.Cap() / 8
		memory += memory / 8
	}
	key, slot, _, verdict := e.table.Add(w.key, c, reserve)
	if verdict == transaction.Added && e.held.Load() > memory {
		e.table.Remove(key, slot)
		verdict = transaction.Full
	}
	switch verdict {
	case transaction.Full:
		e.count.tableFull.Add(1)
		c.done = true
		e.replyStateless(w, c.arrival, 503, "Server Busy", e.retryLater())
		return
	case transaction.Exists: // the same request, at the same moment, on another socket
		c.done = true
		return
	}
	c.key, c.slot = key, slot
	e.unanswered()
	if rej := c.joinLocked(w, m, now); rej.status != 0 {
		e.count.rejected.Add(1)
		if c.route.dialog.Known() && m.Method == wire.INVITE {
			// Its ACK carries the tag of the dialog: only the transaction knows that
			// it is not to be forwarded.
			c.server.Step(transaction.Start, now, &c.snap.times)
			b := append([]byte(nil), w.reply(m, c.source, rej.status, rej.reason, rej.header)...)
			c.sendFinalLocked(w, rej.status, b, dialog.Edge, now)
			c.settleLocked(now)
			return
		}
		c.forgetLocked()
		e.replyStateless(w, c.arrival, rej.status, rej.reason, rej.header)
		return
	}
	c.attemptLocked(m, now)
	c.server.Step(transaction.Start, now, &c.snap.times)
	if m.Method == wire.INVITE { // 16.2: at once, so that the caller is quiet
		c.server.Step(transaction.Provisional100, now, &c.snap.times)
		w.sendUp(c, w.reply(m, c.source, 100, "Trying", nil))
	}
	if c.route.kind == toName {
		c.resolveLocked()
	} else if !c.tryNextFromLocked(w, m, now) {
		c.noTargetLocked(w, now)
	}
	c.settleLocked(now)
}

// noTargetLocked answers when there was nothing to try at all.
func (c *responseContext) noTargetLocked(w *scratch, now time.Duration) {
	if c.route.pool != nil {
		c.bestCode = 503
		if c.route.overLimit {
			c.edge.count.overLimit.Add(1)
		}
		c.sendFinalLocked(w, 503, c.localReply(w, 503), dialog.Edge, now)
		return
	}
	c.considerLocked(404, nil)
	c.concludeLocked(w, now)
}

// resolveLocked looks the target's name up; the answer comes back on another
// goroutine. The request waits in c.req meanwhile.
func (c *responseContext) resolveLocked() {
	c.waiting = true
	c.edge.resolver.Resolve(c.route.query, c.resolved)
}

// localReply builds a response of our own from the stored request.
func (c *responseContext) localReply(w *scratch, status int) []byte {
	if c.req == nil {
		return nil
	}
	w.again.Scan(c.req, c.up.Proto().Streamed())
	var extra []byte
	if status == 503 {
		extra = c.edge.retryLater()
	}
	return append([]byte(nil), w.reply(&w.again, c.source, status, reasonOf(status), extra)...)
}

// resolved goes on with the addresses of a name, or without any.
func (c *responseContext) resolved(targets []resolve.Target, err error) {
	w := c.edge.scratch()
	defer c.edge.release(w)
	defer c.edge.outlive("resolver")
	c.goOn(w, targets, err, c.edge.wheel.Now())
	w.flush()
}

func (c *responseContext) goOn(w *scratch, targets []resolve.Target, err error, now time.Duration) {
	c.mu.Lock()
	defer c.unlock()
	if c.done || !c.waiting { // cancelled meanwhile
		return
	}
	c.waiting = false
	rej := c.route.found(c.snap, targets, err)
	switch {
	case rej.status != 0:
		c.sendFinalLocked(w, rej.status, c.localReply(w, rej.status), dialog.Edge, now)
	case !c.tryNextLocked(w, now):
		c.noTargetLocked(w, now)
	}
	c.settleLocked(now)
}

func (e *Edge) logRequest(m *wire.Msg, f transport.Flow) {
	e.log.Request(&eventlog.Request{
		Method: m.Bytes(m.MethodName), RURI: m.Bytes(m.RURI), From: m.Bytes(m.From.URI), To: m.Bytes(m.To.URI),
		CallID: m.Bytes(m.CallID), UA: m.Value(wire.KindUserAgent),
		Src: f.Remote(), Local: f.Local(), UAIP: f.Remote().Addr(),
	})
}
