package proxy

import (
	"net"
	"net/netip"
	"strings"

	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// self knows by which addresses and names a URI means this edge.
type self struct {
	ports map[uint16]bool     // of all listeners, and advertised ones
	bound map[netip.Addr]bool // addresses of listeners and advertised ones
	local map[netip.Addr]bool // the host's own, where a listener is a wildcard
	names map[string]bool     // advertised names and aliases, lower case
	any   bool                // a wildcard listener exists
}

func newSelf(listeners []*transport.Listener, faces []advertised, aliases []string) self {
	s := self{ports: map[uint16]bool{}, bound: map[netip.Addr]bool{}, local: map[netip.Addr]bool{}, names: map[string]bool{}}
	for _, l := range listeners {
		s.ports[l.Bound().Port()] = true
		if l.Bound().Addr().IsUnspecified() {
			s.any = true
		} else {
			s.bound[l.Bound().Addr()] = true
		}
	}
	for _, f := range faces {
		s.addHost(f.host)
		if f.port != 0 {
			s.ports[f.port] = true
		}
	}
	for _, a := range aliases {
		s.addHost(a)
	}
	if s.any {
		addrs, _ := net.InterfaceAddrs() // none is no reason not to start
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				s.local[p.Addr().Unmap().WithZone("")] = true
			}
		}
	}
	return s
}

func (s *self) addHost(host string) {
	host = strings.Trim(host, "[]")
	if a, err := netip.ParseAddr(host); err == nil {
		s.bound[a.Unmap()] = true
	} else if host != "" {
		s.names[strings.ToLower(host)] = true
	}
}

// is says whether a SIP URI's host and port are ours.
func (s *self) is(u wire.URI) bool {
	if u.Scheme != wire.SIP && u.Scheme != wire.SIPS {
		return false
	}
	port := u.PortNum
	if a, ok := u.Addr(); ok {
		if port == 0 {
			port = 5060
			if p, known := wire.ParseProto(u.Transport); u.Scheme == wire.SIPS || known && p.Secure() {
				port = 5061
			}
		}
		return s.isAddr(netip.AddrPortFrom(a.Unmap(), port))
	}
	if len(u.Host) > 255 {
		return false
	}
	var buf [255]byte
	return s.names[string(lower(buf[:0], u.Host))] && (port == 0 || s.ports[port])
}

// isAddr says whether an address and port are ours.
func (s *self) isAddr(a netip.AddrPort) bool {
	return s.ports[a.Port()] && (s.bound[a.Addr()] || s.any && s.isHost(a.Addr()))
}

// isHost says whether an address is this host's.
func (s *self) isHost(a netip.Addr) bool {
	return a.IsLoopback() || s.local[a.WithZone("")] || s.bound[a]
}
