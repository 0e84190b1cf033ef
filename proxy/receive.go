package proxy

import (
	"runtime/debug"

	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/security"
)

var methodINVITE = []byte("INVITE")

// Receive takes one message all the way, on the goroutine that read it: scan,
// match, route, splice, send. It implements transport.Handler.
func (e *Edge) Receive(p *transport.Packet) {
	defer e.survive(p)
	e.count.received.Add(1)
	w := e.scratch()
	defer e.release(w)
	now := e.wheel.Now()
	if !e.guarded(w, p, now) {
		return
	}
	if security.IsSTUN(p.Data) {
		e.answerSTUN(w, p)
		return
	}
	fault := p.Fault
	if f := w.msg.Scan(p.Data, p.Flow.Proto().Streamed()); fault == wire.NoFault {
		fault = f
	}
	if fault == wire.NoFault && len(p.Data) > e.maxMessage {
		fault = wire.FaultTooLarge
	}
	if e.hook != nil {
		e.hook(&w.msg)
	}
	if w.verdict.Near {
		e.guard.Trail(security.SourceOf(p.Flow.Remote().Addr()), &w.msg, now)
	}
	switch {
	case fault != wire.NoFault:
		e.refuseFault(w, p, fault)
	case w.verdict.Soft && w.msg.IsRequest() && !e.isRunning(w):
		e.count.stopped[security.FailedAuthSource].Add(1)
		e.guard.Book.Strike(w.packet.Source, now)
	case w.msg.IsRequest():
		e.handleRequest(w, p)
	default:
		e.handleResponse(w, p)
	}
}

// survive makes a panic cost one message. It is a bug all the same, so it is
// counted and logged, with the stack, but not more often than an operator reads.
func (e *Edge) survive(p *transport.Packet) {
	if r := recover(); r != nil {
		e.panicked(r, debug.Stack(), p.Flow.Remote().String())
	}
}

// outlive is survive where there is no message; peer names what was at work.
func (e *Edge) outlive(peer string) {
	if r := recover(); r != nil {
		e.panicked(r, debug.Stack(), peer)
	}
}

func (e *Edge) panicked(r any, stack []byte, peer string) {
	n := e.count.panics.Add(1)
	if e.panicLines.Admit(e.wheel.Now()) {
		e.log.Op().Error().Interface("panic", r).Str("peer", peer).Uint64("count", n).Str("stack", string(stack)).
			Msg("a message could not be handled, this is a bug; the edge goes on")
	}
}

// refuseFault answers what is no sound message, if it is a request that can be
// answered at all, and not faster than errorReplies.Admits: a flood of garbage
// must not become a flood of answers.
func (e *Edge) refuseFault(w *scratch, p *transport.Packet, f wire.Fault) {
	e.count.malformed.Add(1)
	if !security.Counts(p.Data) {
		e.stray(w, p)
		return
	}
	if !w.msg.Replyable() || !e.errorReplies.Admit(e.wheel.Now()) {
		return
	}
	e.replyStateless(w, p.Flow, f.Status(), f.Reason(), nil)
}

// handleRequest finds out whether a request is new (RFC 3261 17.2.3).
func (e *Edge) handleRequest(w *scratch, p *transport.Packet) {
	m := &w.msg
	if m.Method == wire.ACK {
		e.handleAck(w, p)
		return
	}
	w.key = transaction.AppendServerKey(w.key[:0], m, m.Bytes(m.MethodName))
	if t, ok := e.table.Find(w.key); ok {
		if c, ok := t.(*responseContext); ok {
			c.repeated(w, p)
		}
		return
	}
	e.logRequest(m, p.Flow)
	if m.Method == wire.CANCEL {
		e.handleCancel(w, p)
		return
	}
	e.serve(w, p)
}

// repeated answers a retransmitted request with what was answered last. An
// INVITE that was not answered yet gets its 100 again.
func (c *responseContext) repeated(w *scratch, p *transport.Packet) {
	c.repeatedLocked(w, p)
	w.flush()
}

func (c *responseContext) repeatedLocked(w *scratch, p *transport.Packet) {
	c.mu.Lock()
	defer c.unlock()
	c.edge.count.repeated.Add(1)
	if c.done || c.server.Step(transaction.Request, c.edge.wheel.Now(), &c.snap.times)&transaction.Resend == 0 {
		return
	}
	switch {
	case c.last != nil:
		w.sendUp(c, c.last)
	case c.method == wire.INVITE && !c.answered:
		w.sendUp(c, w.reply(&w.msg, c.source, 100, "Trying", nil))
	}
}
