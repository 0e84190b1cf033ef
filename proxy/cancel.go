package proxy

import (
	"time"

	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// handleCancel is RFC 3261 16.10 and 9.2. The CANCEL gets its 200 at once, from
// no state: every copy of it gets the same one. Whether the INVITE ends is up to
// its branches: we never say 487 while one may still answer.
func (e *Edge) handleCancel(w *scratch, p *transport.Packet) {
	m := &w.msg
	w.key = transaction.AppendServerKey(w.key[:0], m, methodINVITE)
	t, ok := e.table.Find(w.key)
	c, isContext := t.(*responseContext)
	if !ok || !isContext {
		e.forwardStateless(w, p)
		return
	}
	e.replyStateless(w, p.Flow, 200, "OK", nil)
	c.cancelAll(w, e.wheel.Now())
	w.flush()
}

// cancelAll is the CANCEL from upstream.
func (c *responseContext) cancelAll(w *scratch, now time.Duration) {
	c.mu.Lock()
	defer c.unlock()
	if c.done || c.answered || c.canceled {
		return
	}
	c.canceled = true
	if i := w.msg.First(wire.KindReason); i >= 0 { // RFC 3326: "completed elsewhere" must reach the phone
		c.reason = string(w.msg.Bytes(w.msg.Headers[i].Line))
	}
	c.cancelAllLocked(w, nil, now)
	if !c.anyPendingLocked() || c.waiting {
		c.waiting = false
		c.considerLocked(487, nil)
		c.concludeLocked(w, now)
	}
	c.settleLocked(now)
}

// Why the edge itself cancels (RFC 3326): the key of the limit, as in its BYEs, or what
// keeps a phone from showing a missed call.
const (
	rangTooLong = "Reason: SIP;cause=408;text=\"rang too long\";key=max_ring_duration\r\n"
	timerCFired = "Reason: SIP;cause=408;text=\"rang too long\";key=timer_c\r\n"
	elsewhere   = "Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\n"
)

// becauseLocked sets the Reason of our CANCELs, unless the caller gave one.
func (c *responseContext) becauseLocked(reason string) {
	if c.reason == "" {
		c.reason = reason
	}
}

// cancelAllLocked cancels every open leg but one.
func (c *responseContext) cancelAllLocked(w *scratch, except *leg, now time.Duration) {
	for i := range c.legs {
		if l := c.leg(i); l != except && l.pending() {
			c.cancelLegLocked(w, l, now)
		}
	}
}

// cancelLegLocked sends the CANCEL of a leg, or has it wait for a provisional
// response (9.1: before that it could overtake the INVITE).
func (c *responseContext) cancelLegLocked(w *scratch, l *leg, now time.Duration) {
	if l.cancel != nil || c.method != wire.INVITE {
		return
	}
	l.wantsEnd, l.failover = true, 0
	if l.client.State() != transaction.Proceeding || l.out == nil {
		return
	}
	w.again.Scan(l.out, l.flow.Proto().Streamed())
	cl := &cancelLeg{
		client: transaction.NewMachine(transaction.NonInviteClient, l.flow.Proto().Reliable()),
		out:    appendHopRequest(make([]byte, 0, 512), &w.again, "CANCEL", w.again.Bytes(w.headerLine(&w.again, wire.KindTo)), c.reason),
	}
	l.cancel = cl
	cl.client.Step(transaction.Start, now, &c.snap.times)
	l.client.Step(transaction.Cancelled, now, &c.snap.times)
	w.send(l.flow, cl.out)
}

// ackFor builds the ACK for the 3xx–6xx in w.msg (17.1.1.3): everything of the
// request as sent, but the To of the response.
func (w *scratch) ackFor(l *leg) []byte {
	w.again.Scan(l.out, l.flow.Proto().Streamed())
	start := len(w.arena)
	w.arena = appendHopRequest(w.arena, &w.again, "ACK", w.msg.Bytes(w.headerLine(&w.msg, wire.KindTo)), "")
	return w.arena[start:len(w.arena):len(w.arena)]
}

func (w *scratch) headerLine(m *wire.Msg, k wire.Kind) wire.Span {
	if i := m.First(k); i >= 0 {
		return m.Headers[i].Line
	}
	return wire.Span{}
}

// appendHopRequest appends an ACK or a CANCEL to a request that we sent (9.1,
// 17.1.1.3): its Request-URI, our Via alone, Route, From, Call-ID and CSeq number.
func appendHopRequest(dst []byte, sent *wire.Msg, method string, to []byte, extra string) []byte {
	dst = append(append(dst, method...), ' ')
	dst = append(append(dst, sent.Bytes(sent.RURI)...), " SIP/2.0\r\nVia: "...)
	dst = append(append(dst, sent.Bytes(sent.TopVia.Value)...), "\r\n"...)
	for i := range sent.Headers {
		h := &sent.Headers[i]
		switch h.Kind {
		case wire.KindRoute, wire.KindFrom, wire.KindCallID, wire.KindMaxForwards:
			dst = append(dst, sent.Bytes(h.Line)...)
		}
	}
	dst = append(append(dst, to...), "CSeq: "...)
	dst = appendUint(dst, uint64(sent.CSeq))
	dst = append(append(append(dst, ' '), method...), "\r\n"...)
	dst = append(dst, extra...)
	return append(dst, "Content-Length: 0\r\n\r\n"...)
}
