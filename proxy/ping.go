package proxy

import (
	"errors"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/binding"
	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// stunAnswersPerSecond bounds what a flood of STUN with forged sources can make us send.
const stunAnswersPerSecond = 5000

var crlfPing = []byte("\r\n\r\n")

// pingInterval is how often a phone that something forgets is to be pinged, 0 = never.
func pingInterval(r config.Registration) time.Duration {
	if r.Ping == "none" {
		return 0
	}
	return r.PingInterval.D()
}

// ping keeps the flow of a registered phone open. It comes from the wheel, one flow at a
// time. Nothing is kept of it: the answer knows by its branch whose it is.
func (e *Edge) ping(b binding.Binding, now time.Duration) {
	defer e.outlive("ping")
	snap := e.snap.Load()
	f, ok := e.flowOf(snap, dialog.Flow(b.Flow))
	if !ok {
		return
	}
	if c := f.Conn(); c != nil {
		e.pingConn(c, b.ID, now)
		return
	}
	w := e.scratch()
	defer e.release(w)
	text := crlfPing
	if snap.config.Registration.Ping == "options" {
		w.arena = e.appendPing(w.arena, snap, f, &b, now)
		text = w.arena
	}
	if f.Send(text) != nil {
		e.count.sendErrors.Add(1)
	}
}

// maxUnanswered is how many pings in a row a browser may leave unanswered.
const maxUnanswered = 3

var errSilent = errors.New("pings are not answered")

// pingConn pings a browser, which answers by itself as long as it lives.
func (e *Edge) pingConn(c *transport.Conn, id binding.ID, now time.Duration) {
	switch n := c.Unanswered(); {
	case n >= maxUnanswered:
		c.Close(errSilent)
		return
	case n == 0:
		e.bindings.Pong(id, now)
	}
	if c.Ping() != nil {
		e.count.sendErrors.Add(1)
	}
}

// appendPing appends an OPTIONS to a phone. Many NATs count only what the phone sends, so
// it has to answer; whatever it says is good.
func (e *Edge) appendPing(dst []byte, snap *snapshot, f transport.Flow, b *binding.Binding, now time.Duration) []byte {
	by := e.sentBy(snap, f)
	id := uint64(b.ID)
	dst = append(append(append(dst, "OPTIONS "...), b.Contact...), " SIP/2.0\r\n"...)
	dst = appendVia(dst, by, e.key, transaction.Branch{Slot: transaction.Slot(id), Leg: transaction.PingLeg, Loop: uint32(now / time.Millisecond)})
	dst = by.appendHost(append(dst, "Max-Forwards: 70\r\nFrom: <sip:ping@"...))
	dst = appendHex(append(dst, ">;tag="...), id)
	dst = append(append(append(dst, "\r\nTo: <sip:"...), b.AoR...), ">\r\nCall-ID: ping-"...)
	dst = appendHex(appendHex(dst, id), uint64(now/time.Millisecond))
	dst = append(dst, "\r\nCSeq: 1 OPTIONS\r\n"...)
	if server := snap.config.ServerID; server != "" {
		dst = append(append(append(dst, "User-Agent: "...), server...), "\r\n"...)
	}
	return append(dst, "Content-Length: 0\r\n\r\n"...)
}

func appendHex(dst []byte, n uint64) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, digits[n>>shift&15])
	}
	return dst
}

// ponged takes the answer to a ping. Only the phone itself can give it.
func (e *Edge) ponged(w *scratch, p *transport.Packet, b transaction.Branch, now time.Duration) {
	id := binding.ID(b.Slot)
	if at, ok := e.bindings.Get(id); !ok || at.Flow.Remote != p.Flow.Remote() {
		e.stray(w, p)
		return
	}
	e.bindings.Pong(id, now)
}

// answerSTUN answers a phone that keeps its flow open by itself (RFC 5626 3.5.2).
func (e *Edge) answerSTUN(w *scratch, p *transport.Packet) {
	if p.Flow.Proto() != wire.UDP || !e.snap.Load().config.Registration.STUN || !e.stunAnswers.Admit(e.wheel.Now()) {
		return
	}
	b, ok := appendSTUN(w.arena[:0], p.Data, p.Flow.Remote())
	if !ok {
		return
	}
	w.arena = b
	if p.Flow.Send(b) != nil {
		e.count.sendErrors.Add(1)
	}
}
