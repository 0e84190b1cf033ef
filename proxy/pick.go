package proxy

import (
	"net/netip"
	"time"

	"github.com/sipward/sipward/proxy/backend"
	"github.com/sipward/sipward/proxy/resolve"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// A hop is one place to send a request to.
type hop struct {
	flow    transport.Flow
	backend *backend.Backend // nil when it is no pool member's
	addr    resolve.Target
}

// pick chooses the next hop that c (nil: none yet) has not tried.
func (e *Edge) pick(w *scratch, r *route, c *responseContext, now time.Duration) (hop, bool) {
	switch r.kind {
	case toFlow:
		if c != nil && c.legs > 0 {
			return hop{}, false
		}
		return hop{flow: r.flow, addr: resolve.Target{Proto: r.flow.Proto(), Addr: r.flow.Remote()}}, true
	case toDirect:
		return e.pickDirect(r, c)
	case toPool:
		return e.pickBackend(w, r, c, now)
	}
	return hop{}, false
}

func (e *Edge) pickDirect(r *route, c *responseContext) (hop, bool) {
	snap := e.snap.Load()
	for _, t := range r.targets {
		b := snap.member(t.Addr)
		if r.guarded && !snap.reachable(t, r.bound) || c.tried(b, t) {
			continue
		}
		if f, ok := e.flowTo(t, b); ok {
			return hop{f, b, t}, true
		}
	}
	return hop{}, false
}

func (e *Edge) pickBackend(w *scratch, r *route, c *responseContext, now time.Duration) (hop, bool) {
	if r.pinned != nil {
		if h, ok := e.pickAddress(r, r.pinned, c, now); ok || r.only {
			return h, ok
		}
	}
	w.order = r.pool.Order(w.order[:0], r.key, now)
	for _, b := range w.order {
		if h, ok := e.pickAddress(r, b, c, now); ok {
			return h, true
		}
	}
	return hop{}, false
}

// pickAddress takes the first address of a backend that was not tried, if the
// backend may have the request.
func (e *Edge) pickAddress(r *route, b *backend.Backend, c *responseContext, now time.Duration) (hop, bool) {
	for _, t := range b.Targets() {
		if c.tried(b, t) {
			continue
		}
		if !r.exempt && (r.opens && !b.HasRoom() || !b.Admit(now)) {
			r.overLimit = true
			return hop{}, false
		}
		if f, ok := e.flowTo(t, b); ok {
			return hop{f, b, t}, true
		}
	}
	return hop{}, false
}

// flowTo gives the flow to an address: over the listener that suits its side, or
// over a connection. A connection that is not open yet queues what is sent.
func (e *Edge) flowTo(t resolve.Target, b *backend.Backend) (transport.Flow, bool) {
	snap := e.snap.Load()
	l := snap.egress(t.Proto, t.Addr.Addr(), b != nil)
	if !t.Proto.Reliable() {
		if l == nil {
			return transport.Flow{}, false
		}
		return e.udpFlow(l, t.Addr), true
	}
	name := t.ServerName
	if b != nil {
		if n := b.Pool().Config().TLS.ServerName; n != "" {
			name = n
		}
	}
	f, err := e.net.Connect(t.Proto, t.Addr, name, dialsFrom(l))
	return f, err == nil
}

// dialsFrom is the address of a listener, invalid where the kernel is to choose.
func dialsFrom(l *transport.Listener) netip.Addr {
	if l == nil || l.Bound().Addr().IsUnspecified() {
		return netip.Addr{}
	}
	return l.Bound().Addr()
}

// overTCP is the flow for a request that is too long for a datagram to its backend
// (RFC 3261 18.1.1), where the pool says so. A request that cannot go there either is
// the leg's failure.
func (e *Edge) overTCP(h hop, size int) (transport.Flow, bool) {
	if h.backend == nil || h.flow.Proto() != wire.UDP {
		return transport.Flow{}, false
	}
	if most := h.backend.Pool().Config().TCPAbove; most == 0 || size <= most {
		return transport.Flow{}, false
	}
	t := h.addr
	t.Proto = wire.TCP
	return e.flowTo(t, h.backend)
}

// udpFlow is the flow from a UDP listener to an address, with the local address
// that the kernel would choose where the listener is a wildcard: Via has to say it.
func (e *Edge) udpFlow(l *transport.Listener, to netip.AddrPort) transport.Flow {
	if !l.Bound().Addr().IsUnspecified() {
		return l.FlowTo(to)
	}
	return l.FlowFrom(e.sources.of(to.Addr()), to)
}

func (h hop) backendID() uint32 {
	if h.backend == nil {
		return 0
	}
	return h.backend.ID()
}
