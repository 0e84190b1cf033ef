package proxy

import (
	"net"
	"net/netip"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// sentBy is what Via and Record-Route say of us: transport, host and port. It is
// comparable: two sides that differ in it need a double Record-Route.
type sentBy struct {
	proto wire.Proto
	name  string     // advertised host; empty = addr
	addr  netip.Addr // the address we send from
	port  uint16
}

func (s sentBy) append(dst []byte) []byte {
	return appendUint(append(s.appendHost(dst), ':'), uint64(s.port))
}

// appendAt appends what follows the user part of a URI of ours: where a request reaches us.
func (s sentBy) appendAt(dst []byte) []byte {
	dst = s.append(append(dst, '@'))
	if s.proto != wire.UDP {
		dst = append(append(dst, ";transport="...), s.proto.URIParam()...)
	}
	return dst
}

func (s sentBy) appendHost(dst []byte) []byte {
	switch {
	case s.name != "":
		return append(dst, s.name...)
	case s.addr.Is6():
		return append(s.addr.AppendTo(append(dst, '[')), ']')
	}
	return s.addr.AppendTo(dst)
}

// sentBy finds what to say on a flow: what the listener advertises, else the
// address that the flow uses, with the listener's port, because that is where a
// new request has to come to.
func (e *Edge) sentBy(snap *snapshot, f transport.Flow) sentBy {
	l := f.Listener()
	if l == nil {
		l = snap.egress(f.Proto(), f.Remote().Addr(), snap.pools.BySource(f.Remote().Addr()) != nil)
	}
	s := sentBy{proto: f.Proto(), addr: f.Local().Addr(), port: f.Local().Port()}
	if l != nil {
		s.port = l.Bound().Port()
		if a := snap.faces[l.Index()]; a.host != "" {
			s.name, s.addr = a.host, netip.Addr{}
			if a.port != 0 {
				s.port = a.port
			}
			return s
		}
		if !l.Bound().Addr().IsUnspecified() {
			s.addr = l.Bound().Addr()
		}
	}
	if !s.addr.IsValid() || s.addr.IsUnspecified() {
		s.addr = e.sources.of(f.Remote().Addr())
	}
	s.addr = s.addr.WithZone("")
	return s
}

// sources finds the local address that the kernel sends from to a peer, for
// wildcard listeners without an advertised name. Answers are kept for a while:
// they change only with the host's routes.
type sources struct {
	cache *lru.Cache[netip.Addr, sourceEntry]
	mu    sync.Mutex // one look-up at a time; it is three system calls
}

type sourceEntry struct {
	addr netip.Addr
	at   time.Time
}

const (
	sourcesKept = 1024
	sourceFresh = time.Minute
)

func newSources() *sources {
	c, err := lru.New[netip.Addr, sourceEntry](sourcesKept)
	if err != nil { // only for a size below 1
		panic(err)
	}
	return &sources{cache: c}
}

func (s *sources) of(peer netip.Addr) netip.Addr {
	if peer.IsLoopback() && peer.Is4() {
		// The kernel's choice for 127.0.0.0/8, without asking for each of them.
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if e, ok := s.cache.Get(peer); ok && time.Since(e.at) < sourceFresh {
		return e.addr
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := localTowards(peer)
	s.cache.Add(peer, sourceEntry{a, time.Now()})
	return a
}

// localTowards asks the kernel: connecting a UDP socket sends nothing. Without a
// route the unspecified address comes back.
func localTowards(peer netip.Addr) netip.Addr {
	unknown := netip.IPv4Unspecified()
	if peer.Is6() {
		unknown = netip.IPv6Unspecified()
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(peer, 9)))
	if err != nil {
		return unknown
	}
	defer c.Close()
	a, ok := c.LocalAddr().(*net.UDPAddr)
	if !ok {
		return unknown
	}
	return a.AddrPort().Addr().Unmap()
}
