package transport

import (
	"net/netip"
)

// maxDatagram is the largest UDP payload that IPv4 and IPv6 without jumbograms carry, headers not subtracted.
const maxDatagram = 65535

// maxSources bounds the local addresses that a wildcard listener tells apart. Only addresses that are the host's own get
// here, but those can be whole prefixes (127.0.0.0/8, AnyIP routes).
const maxSources = 1024

// FlowTo returns the flow of a UDP listener to a peer. On a wildcard listener the kernel chooses the local address. It
// returns the zero Flow on stream listeners.
func (l *Listener) FlowTo(remote netip.AddrPort) Flow {
	if l.plain == nil {
		return Flow{}
	}
	return Flow{source: l.plain, remote: unmapped(remote)}
}

// FlowFrom is FlowTo with the local address to send from, as Flow.Local gave it; it matters on wildcard listeners only.
// The address must come from a source that is trusted to name one of ours (a flow token with a valid MAC).
func (l *Listener) FlowFrom(local netip.Addr, remote netip.AddrPort) Flow {
	if l.plain == nil {
		return Flow{}
	}
	return Flow{source: l.sourceOf(local.Unmap()), remote: unmapped(remote)}
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	if a.Addr().Is4In6() {
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	return a
}

// sourceOf returns the one source for a local address. It does not allocate for an address it has seen before.
func (l *Listener) sourceOf(local netip.Addr) *source {
	if !l.isWildcard || !local.IsValid() || local.IsUnspecified() || local.Is4() != l.bound.Addr().Is4() {
		return l.plain
	}
	if s := (*l.sources.Load())[local]; s != nil {
		return s
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := *l.sources.Load()
	if s := old[local]; s != nil {
		return s
	}
	if len(old) >= maxSources {
		return l.plain
	}
	grown := make(map[netip.Addr]*source, len(old)+1)
	for a, s := range old {
		grown[a] = s
	}
	s := newSource(l, local)
	grown[local] = s
	l.sources.Store(&grown)
	return s
}

func (l *Listener) openUDP(bind netip.AddrPort) error {
	if err := l.openSockets(bind); err != nil {
		return advise(err)
	}
	l.plain = &source{listener: l, local: l.bound}
	l.sources.Store(&map[netip.Addr]*source{})
	return nil
}

// send chooses among the sockets by peer: they share address and port, so it does not matter to anybody but the caches.
func (l *Listener) send(from *source, to netip.AddrPort, b []byte) error {
	s := l.sockets[0]
	if n := len(l.sockets); n > 1 {
		s = l.sockets[int(to.Port())%n]
	}
	return s.send(from, to, b)
}

// isKeepAlive tells the CRLF and NUL datagrams that clients send to hold a NAT binding open. They want no answer: over
// UDP a ping that does is STUN (RFC 5626 section 3.5.2).
func isKeepAlive(b []byte) bool {
	if len(b) > 4 {
		return false
	}
	for _, c := range b {
		if c != '\r' && c != '\n' && c != 0 {
			return false
		}
	}
	return true
}
