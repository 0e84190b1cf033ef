package proxy

import (
	"encoding/binary"
	"net/netip"

	"github.com/sipward/sipward/proxy/resolve"
	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// forwardStateless passes what has no transaction: the ACK for a 2xx, and a CANCEL
// whose INVITE we do not know (RFC 3261 16.10, 16.11). An ACK that cannot be
// forwarded is dropped, nobody may answer it.
func (e *Edge) forwardStateless(w *scratch, p *transport.Packet) {
	m, snap := &w.msg, e.snap.Load()
	if !e.protect(w, snap, p, e.wheel.Now()) {
		return
	}
	rej := e.validateStateless(w)
	var r route
	if rej.status == 0 {
		r, rej = e.decide(w, snap, p.Flow)
	}
	if rej.status != 0 {
		e.dropStateless(w, p.Flow, rej)
		return
	}
	r.exempt = true
	if r.dialog.Known() && m.Method == wire.ACK {
		r.change.cseq = r.dialog.Ack(&w.effects, m, e.wheel.Now())
	}
	if r.kind == toName {
		e.resolveStateless(m, p.Flow, r)
		return
	}
	e.passStateless(w, m, p.Flow, snap, &r)
}

// validateStateless leaves out what does not apply to ACK and CANCEL: Proxy-Require
// (20.29) and answers in general.
func (e *Edge) validateStateless(w *scratch) rejection {
	m := &w.msg
	switch {
	case m.MaxForwards == 0:
		return rejection{status: 483, reason: "Too Many Hops"}
	case m.MaxForwards == wire.Bad:
		return rejection{status: 400, reason: "Bad Max-Forwards"}
	case e.loops(w, m):
		return rejection{status: 482, reason: "Loop Detected"}
	}
	return rejection{}
}

func (e *Edge) dropStateless(w *scratch, f transport.Flow, rej rejection) {
	e.count.rejected.Add(1)
	e.noteRejection(&w.msg, f, &rej)
	if w.msg.Method != wire.ACK {
		e.replyStateless(w, f, rej.status, rej.reason, rej.header)
	}
}

func (e *Edge) passStateless(w *scratch, m *wire.Msg, f transport.Flow, snap *snapshot, r *route) {
	h, ok := e.pick(w, r, nil, e.wheel.Now())
	if !ok {
		e.count.rejected.Add(1)
		return
	}
	branch := transaction.Branch{Slot: e.wayBack(w, m, m.TopVia, f.Remote()), Leg: transaction.StatelessLeg, Loop: e.loopHash(m)}
	w.splice(m, r, f, h, branch)
	start := len(w.arena)
	w.arena = w.edit.AppendTo(w.arena)
	e.count.forwarded.Add(1)
	e.logRelay(m, r.contact, h)
	w.send(h.flow, w.arena[start:len(w.arena):len(w.arena)])
	w.flush()
}

// resolveStateless forwards once the name of the target is known. The resolver
// bounds how many may wait.
func (e *Edge) resolveStateless(m *wire.Msg, f transport.Flow, r route) {
	stored := append([]byte(nil), m.Buf...)
	e.resolver.Resolve(r.query, func(targets []resolve.Target, err error) {
		w := e.scratch()
		defer e.release(w)
		defer e.outlive(f.Remote().String())
		snap := e.snap.Load()
		if rej := r.found(snap, targets, err); rej.status != 0 {
			e.count.rejected.Add(1)
			return
		}
		w.msg.Scan(stored, f.Proto().Streamed())
		e.passStateless(w, &w.msg, f, snap, &r)
	})
}

// wayBack is the check that a stateless branch carries: the Via below ours as we
// sent it. A response is relayed only where its request came from.
func (e *Edge) wayBack(w *scratch, m *wire.Msg, via wire.Via, src netip.AddrPort) transaction.Slot {
	w.key = append(w.key[:0], m.Bytes(via.Branch)...)
	w.key = src.Addr().AppendTo(append(w.key, '\n'))
	port := src.Port()
	if !via.HasRPort {
		port = viaPort(via, m)
	}
	w.key = binary.BigEndian.AppendUint16(append(w.key, '\n'), port)
	w.key = append(w.key, m.Bytes(m.CallID)...)
	return transaction.Slot(e.key.Sum(w.key))
}

func viaPort(via wire.Via, m *wire.Msg) uint16 {
	if via.PortNum != 0 {
		return via.PortNum
	}
	p, _ := wire.ParseProto(m.Bytes(via.Proto))
	return p.DefaultPort()
}

// relayStateless passes the response to a request that we forwarded without a
// transaction (16.11), by the Via below ours, whose address the branch vouches for.
func (e *Edge) relayStateless(w *scratch, p *transport.Packet, branch transaction.Branch) {
	m := &w.msg
	via, ok := m.NextVia(m.TopVia)
	if !ok {
		e.stray(w, p)
		return
	}
	to, ok := responseAddress(m, via)
	if !ok || e.wayBack(w, m, via, to) != branch.Slot {
		e.stray(w, p)
		return
	}
	// The branch is good for ever, and for as many responses as somebody likes to send.
	if !e.charge(w, p) {
		return
	}
	proto, _ := wire.ParseProto(m.Bytes(via.Proto))
	f, ok := e.flowBack(proto, to)
	if !ok {
		e.count.sendErrors.Add(1)
		return
	}
	start := len(w.arena)
	w.arena = w.relayed(w.arena, f, w.msg.CSeq, 0)
	w.send(f, w.arena[start:len(w.arena):len(w.arena)])
	w.flush()
}

// responseAddress is 18.2.2: received or the sent-by address, rport or the port.
func responseAddress(m *wire.Msg, via wire.Via) (netip.AddrPort, bool) {
	host := m.Bytes(via.Received)
	if len(host) == 0 {
		host = m.Bytes(via.Host)
	}
	if n := len(host); n > 2 && host[0] == '[' && host[n-1] == ']' {
		host = host[1 : n-1]
	}
	if len(host) > 45 {
		return netip.AddrPort{}, false
	}
	a, err := netip.ParseAddr(string(host))
	if err != nil {
		return netip.AddrPort{}, false
	}
	port := viaPort(via, m)
	if via.HasRPort {
		n := 0
		for _, c := range m.Bytes(via.RPort) {
			if c < '0' || c > '9' || n > 65535 {
				return netip.AddrPort{}, false
			}
			n = n*10 + int(c-'0')
		}
		if n == 0 || n > 65535 {
			return netip.AddrPort{}, false
		}
		port = uint16(n)
	}
	return netip.AddrPortFrom(a.Unmap(), port), true
}

// flowBack finds a flow for a response that has none: over UDP always, over a
// connection if one is open.
func (e *Edge) flowBack(p wire.Proto, to netip.AddrPort) (transport.Flow, bool) {
	snap := e.snap.Load()
	if p.Reliable() {
		return e.net.Connected(p, to)
	}
	l := snap.egress(p, to.Addr(), snap.pools.BySource(to.Addr()) != nil)
	if l == nil {
		return transport.Flow{}, false
	}
	return e.udpFlow(l, to), true
}
