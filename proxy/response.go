package proxy

import (
	"bytes"
	"net/netip"
	"time"

	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/eventlog"
	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// A transactor is what lives in the transaction table: a forwarded request or one
// of our own.
type transactor interface {
	// response takes the response in w.msg, which carries a branch of ours. It is false
	// when it answers nothing that was asked.
	response(w *scratch, b transaction.Branch, now time.Duration) bool
	// connClosed is told that a connection it sent on is gone.
	connClosed(w *scratch, conn *transport.Conn, now time.Duration)
	// unreachable is told that the network could not deliver what it sent there.
	unreachable(w *scratch, b transaction.Branch, to netip.AddrPort)
}

// handleResponse is RFC 3261 16.7 step 1 and 18.1.2. Our Via must be on top and
// its branch must be one that we signed for a transaction that still lives;
// whatever else comes is dropped (RFC 6026 8.9): relaying it would make the edge a
// reflector.
func (e *Edge) handleResponse(w *scratch, p *transport.Packet) {
	m := &w.msg
	branch, ok := e.key.Parse(m.Bytes(m.TopVia.Branch))
	if !ok {
		e.stray(w, p)
		return
	}
	now := e.wheel.Now()
	if branch.Leg == transaction.PingLeg {
		e.ponged(w, p, branch, now)
		return
	}
	w.strip = e.snap.Load().notToWrite(m, p.Flow)
	if branch.Leg == transaction.StatelessLeg {
		e.relayStateless(w, p, branch)
		return
	}
	t, ok := e.table.At(branch.Slot)
	if !ok || branch.Leg != transaction.OwnLeg && m.CSeqMethodID != wire.CANCEL && !hasLowerVia(m) {
		e.stray(w, p)
		return
	}
	e.count.responses.Add(1)
	if branch.Leg != transaction.OwnLeg {
		e.logReply(m, p.Flow)
	}
	if !t.response(w, branch, now) {
		e.stray(w, p)
	}
	w.flush()
}

// hasLowerVia says whether a Via is left for somebody upstream: a response without
// one is not to be forwarded (16.7 step 3).
func hasLowerVia(m *wire.Msg) bool {
	it := m.Values(wire.KindVia)
	it.Next()
	_, more := it.Next()
	return more
}

func (e *Edge) logReply(m *wire.Msg, f transport.Flow) {
	side := "Outbound"
	if e.snap.Load().pools.BySource(f.Remote().Addr()) != nil {
		side = "Inbound"
	}
	e.log.Reply(&eventlog.Reply{
		Status: m.Status, Reason: m.Bytes(m.ReasonPhrase), Method: m.Bytes(m.CSeqMethod), CallID: m.Bytes(m.CallID),
		Src: f.Remote(), Side: side,
	})
}

// response is 16.7 steps 2 to 10 for one response of one leg.
func (c *responseContext) response(w *scratch, b transaction.Branch, now time.Duration) bool {
	c.mu.Lock()
	defer c.unlock()
	m := &w.msg
	isTooLong := c.call != nil && m.Status < 300 && m.To.Tag.Len() > dialog.MaxTag
	if c.done || int(b.Leg) >= c.legs || m.CSeq != c.sentCSeq() || isTooLong {
		return false
	}
	l := c.leg(int(b.Leg))
	if m.CSeqMethodID == wire.CANCEL && c.method == wire.INVITE {
		if l.cancel != nil {
			l.cancel.client.Step(transaction.Response(m.Status), now, &c.snap.times)
			c.settleLocked(now)
		}
		return true
	}
	if m.CSeqMethodID != c.method {
		return false
	}
	w.heard(l, now)
	l.heard, l.failover = true, 0

	eff := l.client.Step(transaction.Response(m.Status), now, &c.snap.times)
	if eff&transaction.SendAck != 0 && l.out != nil {
		w.send(l.flow, w.ackFor(l))
	}
	switch {
	case eff&transaction.PassUp != 0:
		c.passUpLocked(w, l, now)
	case m.Status/100 == 2 && c.call != nil: // the transaction is over (RFC 6026 8.9)
		c.refuseLocked(w, l, now)
	}
	c.settleLocked(now)
	return true
}

// passUpLocked decides what becomes of a response that is not a retransmission.
func (c *responseContext) passUpLocked(w *scratch, l *leg, now time.Duration) {
	m := &w.msg
	switch {
	case m.Status < 200:
		c.provisionalLocked(w, l, now)
	case m.Status < 300:
		c.successLocked(w, l, now)
	default:
		c.failureLocked(w, l, now)
	}
}

// provisionalLocked passes every 1xx but the 100, which is hop by hop (16.7 step 5).
func (c *responseContext) provisionalLocked(w *scratch, l *leg, now time.Duration) {
	m := &w.msg
	if l.wantsEnd { // 9.1: the CANCEL had to wait for this
		c.cancelLegLocked(w, l, now)
	}
	if c.tx != nil {
		c.tx.Arrived()
	}
	if m.Status == 100 || c.answered || l.abandoned {
		return
	}
	if c.server.Step(transaction.Provisional, now, &c.snap.times)&transaction.Send == 0 {
		return
	}
	if !m.To.Tag.Empty() {
		c.ringing = true
	}
	c.heardProvisionalLocked(m, now)
	c.last = w.relayed(make([]byte, 0, len(m.Buf)), c.up, c.cseq, 0)
	w.sendUp(c, c.last)
}

// successLocked passes a 2xx at once: to an INVITE every one, of every fork and
// again and again (16.7 step 5, RFC 6026), to anything else the first.
func (c *responseContext) successLocked(w *scratch, l *leg, now time.Duration) {
	m := &w.msg
	if c.method != wire.INVITE {
		if c.answered {
			return
		}
		c.registeredLocked(w, l, now)
		w.restores = c.route.enrols != nil
		se := c.heardFinalLocked(w, m, m.Status, now)
		c.sendFinalLocked(w, m.Status, w.relayed(make([]byte, 0, len(m.Buf)), c.up, c.cseq, se), dialog.Callee, now)
		c.heldLocked(now)
		return
	}
	se, hasPlace := c.heardSuccessLocked(w, l, now)
	if !hasPlace {
		return
	}
	if c.server.Step(transaction.Success, now, &c.snap.times)&transaction.Send == 0 {
		// After a failure went up the server transaction takes no 2xx, but the
		// call exists below: its caller must hear of it (16.7 step 10).
		c.edge.count.lateSuccess.Add(1)
	}
	c.last = nil
	start := len(w.arena)
	w.arena = w.relayed(w.arena, c.up, c.cseq, se)
	w.sendUp(c, w.arena[start:len(w.arena):len(w.arena)])
	c.edge.lastAnswer.Store(int64(now))
	if !c.answered {
		c.judgedLocked(w, m.Status, nil, now)
		c.answeredLocked()
		c.becauseLocked(elsewhere)
		c.cancelAllLocked(w, l, now)
	}
}

// failureLocked is 16.7 steps 4 to 6 for a 3xx–6xx.
func (c *responseContext) failureLocked(w *scratch, l *leg, now time.Duration) {
	m := &w.msg
	if c.answered || l.abandoned {
		return
	}
	if m.Status == 401 || m.Status == 407 {
		c.edge.rememberChallenger(m, l)
		c.challengedLocked(m, now)
	}
	c.refusedLocked(l, m.Status)
	if m.Status == 422 {
		c.edge.learned.set(m, now)
	}
	if m.Status >= 600 {
		c.cancelAllLocked(w, l, now)
	}
	retry := c.failsOver(m.Status)
	if !retry && m.Status != 503 && c.bestCode == 0 && !c.waitsForLegsLocked() {
		c.sendFinalLocked(w, m.Status, w.relayed(make([]byte, 0, len(m.Buf)), c.up, c.cseq, 0), dialog.Callee, now)
		return
	}
	c.considerLocked(m.Status, w.relayed(make([]byte, 0, len(m.Buf)), c.up, c.cseq, 0))
	if retry && c.tryNextLocked(w, now) {
		return
	}
	c.concludeLocked(w, now)
}

// failsOver says whether this final response makes us try the next target. What a
// person or a PBX decided (486, 603, 401 …) stands; and once the caller was told
// of a dialog, the call stays where it is.
func (c *responseContext) failsOver(status int) bool {
	if c.canceled || c.ringing {
		return false
	}
	if status == 503 {
		return true
	}
	if c.route.pool == nil {
		return false
	}
	for _, s := range c.route.pool.FailoverCodes() {
		if s == status {
			return true
		}
	}
	return false
}

// considerLocked keeps the better of two final responses (16.7 step 6). bytes nil
// stands for a response that we would make ourselves.
func (c *responseContext) considerLocked(status int, bytes []byte) {
	if c.bestCode == 0 || rank(status) < rank(c.bestCode) {
		c.bestCode, c.best = status, bytes
	}
}

// rank orders final responses, the best first: 6xx, then the lowest class, within
// 4xx those that tell the caller how to change its request, and a 408 of ours last.
func rank(status int) int {
	switch {
	case status >= 600:
		return 0
	case status == 401 || status == 407 || status == 415 || status == 420 || status == 484:
		return 400
	case status == 408:
		return 499
	case status == 503:
		return 599
	}
	return status/100*100 + 50
}

// concludeLocked answers with the best response when nothing is open any more.
func (c *responseContext) concludeLocked(w *scratch, now time.Duration) {
	if c.answered || c.waitsForLegsLocked() {
		return
	}
	status, b := c.bestCode, c.best
	switch {
	case status == 0:
		status = 500
	case status == 503 && c.canceled:
		status, b = 487, nil
	case status == 503 && (b != nil || !c.poolDown(now)):
		// A 503 says "I serve nobody"; only our own may say that of us (16.7 step 6).
		status, b = 500, withStatusLine(b, "SIP/2.0 500 Server Internal Error\r\n")
	}
	by := dialog.Callee
	if b == nil {
		by, b = dialog.Edge, c.localReply(w, status)
	}
	c.sendFinalLocked(w, status, b, by, now)
}

// poolDown says that no request would fare better: no backend is up.
func (c *responseContext) poolDown(now time.Duration) bool {
	return c.route.pool != nil && c.route.pool.Panicking(now)
}

// withStatusLine replaces the status line of a response.
func withStatusLine(b []byte, line string) []byte {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return nil
	}
	return append([]byte(line), b[i+1:]...)
}

// sendFinalLocked sends the one final response of this context. b is kept for
// retransmissions, by says whose decision it is.
func (c *responseContext) sendFinalLocked(w *scratch, status int, b []byte, by dialog.Ender, now time.Duration) {
	if c.server.Step(transaction.Response(status), now, &c.snap.times)&transaction.Send == 0 {
		return
	}
	c.last = b
	if by == dialog.Callee {
		c.judgedLocked(w, status, b, now)
	}
	c.answeredLocked()
	c.heardFinalLocked(w, nil, status, now)
	c.failedLocked(w, status, by, now)
	if c.method == wire.INVITE && status >= 300 && c.server.State() == transaction.Completed {
		w.again.Scan(b, c.up.Proto().Streamed())
		w.key = transaction.AppendAckKey(w.key[:0], &w.again)
		if k := string(w.key); c.edge.table.Alias(k, c) {
			c.ackKey = k
		}
	}
	w.sendUp(c, b)
}

// retryAfter reads the seconds of Retry-After, 0 when there is none.
func retryAfter(m *wire.Msg) time.Duration {
	i := m.First(wire.KindRetryAfter)
	if i < 0 {
		return 0
	}
	var n time.Duration
	for _, c := range m.Bytes(m.Headers[i].Value) {
		if c < '0' || c > '9' || n > 1e6 {
			break
		}
		n = n*10 + time.Duration(c-'0')
	}
	return n * time.Second
}

// sendFailed is a transport error of a leg's request: to the proxy core it is a
// 503 (16.9).
func (c *responseContext) sendFailed(w *scratch, n int) {
	c.mu.Lock()
	defer c.unlock()
	if c.done || n >= c.legs {
		return
	}
	now := c.edge.wheel.Now()
	c.legFailedLocked(w, c.leg(n), now)
	c.settleLocked(now)
}

// unreachable is sendFailed, later.
func (c *responseContext) unreachable(w *scratch, b transaction.Branch, to netip.AddrPort) {
	if n := int(b.Leg); c.sentTo(n, to) {
		c.sendFailed(w, n)
	}
}

func (c *responseContext) sentTo(n int, to netip.AddrPort) bool {
	c.mu.Lock()
	defer c.unlock()
	return n < c.legs && c.leg(n).flow.Remote() == to
}

// connClosed fails the legs that were waiting on a connection.
func (c *responseContext) connClosed(w *scratch, conn *transport.Conn, now time.Duration) {
	c.mu.Lock()
	defer c.unlock()
	if c.done {
		return
	}
	for i := range c.legs {
		if l := c.leg(i); l.flow.Conn() == conn {
			c.legFailedLocked(w, l, now)
		}
	}
	c.settleLocked(now)
}

// failedStatus is what a transport error of a leg means: to the proxy core a 503 (16.9);
// where the request had but one flow to go, that this flow failed (RFC 5626 5.3.1), so that
// the PBX goes on to the next contact.
func (c *responseContext) failedStatus(l *leg) int {
	if c.route.kind == toFlow && (c.route.toPhone || l.flow.Listener() != nil && l.flow.Conn() != nil) {
		c.edge.count.flowFailed.Add(1)
		return statusFlowFailed
	}
	return 503
}

func (c *responseContext) legFailedLocked(w *scratch, l *leg, now time.Duration) {
	if l.cancel != nil {
		l.cancel.client.Step(transaction.SendFailed, now, &c.snap.times)
	}
	l.failover = 0
	if l.client.Step(transaction.SendFailed, now, &c.snap.times)&transaction.Failed == 0 {
		return
	}
	if !l.heard {
		w.missed(l.backend, now)
	}
	if c.answered || l.abandoned {
		return
	}
	if c.canceled {
		c.considerLocked(487, nil)
	} else {
		c.considerLocked(c.failedStatus(l), nil)
		if !c.ringing && c.tryNextLocked(w, now) {
			return
		}
	}
	c.concludeLocked(w, now)
}
