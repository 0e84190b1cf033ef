package proxy

import (
	"time"

	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/transport"
)

// handleAck tells the three ACKs apart. One for a 3xx–6xx ends here, hop by hop
// (17.2.1); one for a stateless answer of ours too; one for a 2xx is a request of
// its own that goes end to end and never has a transaction (16.11, 17.1.1.3).
func (e *Edge) handleAck(w *scratch, p *transport.Packet) {
	m := &w.msg
	e.logRequest(m, p.Flow)
	w.key = transaction.AppendServerKey(w.key[:0], m, methodINVITE)
	t, ok := e.table.Find(w.key)
	if !ok {
		// Some clients put a branch of its own on every ACK.
		w.key = transaction.AppendAckKey(w.key[:0], m)
		t, ok = e.table.Find(w.key)
	}
	if c, isContext := t.(*responseContext); ok && isContext {
		if c.acknowledged(e.wheel.Now()) {
			return
		}
	} else if e.isOwnToTag(m) {
		return
	}
	e.forwardStateless(w, p)
}

// acknowledged takes an ACK that found its INVITE. It is false when the ACK is
// one for a 2xx (sent with the INVITE's branch) and must go on.
func (c *responseContext) acknowledged(now time.Duration) (absorbed bool) {
	c.mu.Lock()
	defer c.unlock()
	if c.done {
		return true
	}
	eff := c.server.Step(transaction.Ack, now, &c.snap.times)
	if c.server.State() == transaction.Confirmed || c.server.State() == transaction.Terminated {
		c.last = nil
	}
	c.settleLocked(now)
	return eff&transaction.PassUp == 0
}
