package resolve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/sipward/sipward/proxy/wire"
)

// Numbers we chose: what is taken of one answer. The rest is ignored.
const (
	maxNAPTR     = 8
	maxSRV       = 16
	maxAddresses = 8 // per host and family
	maxTargets   = 16
)

// group is a set of servers that share the load by weight.
type group []server

// server is one host with its addresses in the order to try.
type server struct {
	weight  uint16
	targets []Target
}

// search is one lookup under way.
type search struct {
	r   *Resolver
	ctx context.Context
	mu  sync.Mutex
	ttl time.Duration // shortest of all records used so far
}

// locate finds the servers for q: groups in the order to try.
func (s *search) locate(q Query) ([]group, error) {
	if addrs := s.r.hosts.lookup(q.Host); len(addrs) > 0 {
		s.limitTTL(s.r.o.MinTTL) // the file may change
		return s.single(q, q.proto(), addrs), nil
	}
	switch {
	case q.Port != 0:
		// RFC 3263 4.1 and 4.2: with a port there is nothing to choose, so
		// neither NAPTR nor SRV is asked.
		return s.byAddress(q, q.proto())
	case q.HasProto:
		return s.byTransport(q, q.Proto)
	default:
		return s.byNAPTR(q)
	}
}

// byNAPTR lets the domain choose the transport (RFC 3263 4.1).
func (s *search) byNAPTR(q Query) ([]group, error) {
	rrs, err := s.ask(q.Host, dns.TypeNAPTR)
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, errRefused) {
		return nil, err
	}
	// A server that refuses the question (some do not know the type) has no
	// NAPTR for us.
	var groups []group
	for _, n := range services(rrs, q.Secure) {
		found, srvErr := s.bySRV(q, n.proto, n.domain)
		groups = append(groups, found...)
		if srvErr != nil && !errors.Is(srvErr, ErrNotFound) {
			err = srvErr
		}
	}
	if len(groups) > 0 {
		return groups, nil
	}
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, errRefused) {
		return nil, err
	}
	return s.bySupported(q)
}

// service is a NAPTR record that is of use.
type service struct {
	order, preference uint16
	proto             wire.Proto
	domain            string
}

// services picks the records for transports we have, in their order. For sips
// only SIPS+D2T will do (RFC 3263 4.1).
func services(rrs []dns.RR, secure bool) []service {
	var list []service
	for _, rr := range rrs {
		n, ok := rr.(*dns.NAPTR)
		if !ok || !strings.EqualFold(n.Flags, "s") || n.Regexp != "" {
			continue
		}
		proto, ok := serviceProto(n.Service)
		if !ok || (secure && proto != wire.TLS) || !isAsked(n.Replacement) {
			continue
		}
		list = append(list, service{n.Order, n.Preference, proto, n.Replacement})
	}
	slices.SortStableFunc(list, func(a, b service) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.preference, b.preference))
	})
	return list[:min(len(list), maxNAPTR)]
}

func serviceProto(s string) (wire.Proto, bool) {
	switch strings.ToUpper(s) {
	case "SIP+D2U":
		return wire.UDP, true
	case "SIP+D2T":
		return wire.TCP, true
	case "SIPS+D2T":
		return wire.TLS, true
	default:
		return 0, false
	}
}

// bySupported is for domains without NAPTR: the first of our transports that
// has SRV records, else the plain host (RFC 3263 4.1).
func (s *search) bySupported(q Query) ([]group, error) {
	protos := []wire.Proto{wire.UDP, wire.TCP}
	if q.Secure {
		protos = []wire.Proto{wire.TLS}
	}
	refused := false
	for _, p := range protos {
		groups, err := s.bySRV(q, p, srvName(p, q.Host))
		switch {
		case err == nil:
			return groups, nil
		case errors.Is(err, errNoService):
			refused = true
		case !errors.Is(err, ErrNotFound):
			return nil, err
		}
	}
	if refused {
		return nil, errNoService
	}
	return s.byAddress(q, q.proto())
}

// byTransport is for a transport that the URI chose (RFC 3263 4.2).
func (s *search) byTransport(q Query, p wire.Proto) ([]group, error) {
	if name := srvName(p, q.Host); name != "" {
		groups, err := s.bySRV(q, p, name)
		if err == nil || !errors.Is(err, ErrNotFound) || errors.Is(err, errNoService) {
			return groups, err
		}
	}
	return s.byAddress(q, p)
}

// srvName returns the name of the SRV records for a transport; WebSocket has
// none.
func srvName(p wire.Proto, host string) string {
	switch p {
	case wire.UDP:
		return "_sip._udp." + host
	case wire.TCP:
		return "_sip._tcp." + host
	case wire.TLS:
		return "_sips._tcp." + host
	default:
		return ""
	}
}

// errNoService is RFC 2782's target ".": the service is decidedly not there.
var errNoService = fmt.Errorf("the domain says that it has no such service: %w", ErrNotFound)

// bySRV returns a group for each priority.
func (s *search) bySRV(q Query, p wire.Proto, name string) ([]group, error) {
	rrs, err := s.ask(name, dns.TypeSRV)
	if err != nil {
		return nil, err
	}
	records := srvRecords(rrs)
	if len(records) == 0 {
		return nil, errNoService
	}
	var groups []group
	last := -1
	for _, srv := range records {
		// A host that cannot be resolved does not spoil the others.
		addrs, hostErr := s.addresses(srv.Target)
		if hostErr != nil {
			err = hostErr
			continue
		}
		if last != int(srv.Priority) {
			groups, last = append(groups, nil), int(srv.Priority)
		}
		g := &groups[len(groups)-1]
		*g = append(*g, server{srv.Weight, targets(q, p, addrs, srv.Port)})
	}
	if len(groups) == 0 {
		return nil, err
	}
	return groups, nil
}

// srvRecords picks the records that name a server, by priority.
func srvRecords(rrs []dns.RR) []*dns.SRV {
	var list []*dns.SRV
	for _, rr := range rrs {
		if srv, ok := rr.(*dns.SRV); ok && srv.Port != 0 && isAsked(srv.Target) {
			list = append(list, srv)
		}
	}
	slices.SortStableFunc(list, func(a, b *dns.SRV) int { return cmp.Compare(a.Priority, b.Priority) })
	return list[:min(len(list), maxSRV)]
}

// isAsked reports whether a name from an answer is worth a question. The name
// "." means none.
func isAsked(name string) bool {
	return name != "." && len(name) <= maxName+1
}

// byAddress uses the host itself, without SRV.
func (s *search) byAddress(q Query, p wire.Proto) ([]group, error) {
	addrs, err := s.addresses(q.Host)
	if err != nil {
		return nil, err
	}
	return s.single(q, p, addrs), nil
}

func (s *search) single(q Query, p wire.Proto, addrs []netip.Addr) []group {
	return []group{{{targets: targets(q, p, addrs, q.port(p))}}}
}

func targets(q Query, p wire.Proto, addrs []netip.Addr, port uint16) []Target {
	list := make([]Target, len(addrs))
	for i, a := range addrs {
		list[i] = Target{Proto: p, Addr: netip.AddrPortFrom(a, port), ServerName: q.Host}
	}
	return list
}

// addresses asks for both families at the same time. IPv4 comes first; that one
// family fails is an error only if the other has nothing.
func (s *search) addresses(host string) ([]netip.Addr, error) {
	if addrs := s.r.hosts.lookup(hostName([]byte(host))); len(addrs) > 0 {
		s.limitTTL(s.r.o.MinTTL)
		return addrs, nil
	}
	var v4, v6 []netip.Addr
	var err4, err6 error
	var wg sync.WaitGroup
	wg.Go(func() { v6, err6 = s.family(host, dns.TypeAAAA) })
	v4, err4 = s.family(host, dns.TypeA)
	wg.Wait()
	if all := append(v4, v6...); len(all) > 0 {
		return all, nil
	}
	if err4 != nil && !errors.Is(err4, ErrNotFound) {
		return nil, err4
	}
	return nil, cmp.Or(err6, fmt.Errorf("%s: %w", host, ErrNotFound))
}

func (s *search) family(host string, kind uint16) ([]netip.Addr, error) {
	rrs, err := s.ask(host, kind)
	var list []netip.Addr
	for _, rr := range rrs {
		a := address(rr)
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || slices.Contains(list, a) {
			continue
		}
		if list = append(list, a); len(list) == maxAddresses {
			break
		}
	}
	return list, err
}

func address(rr dns.RR) netip.Addr {
	var a netip.Addr
	switch rr := rr.(type) {
	case *dns.A:
		a, _ = netip.AddrFromSlice(rr.A)
	case *dns.AAAA:
		a, _ = netip.AddrFromSlice(rr.AAAA)
	}
	return a.Unmap()
}

// limitTTL notes how long a part of the answer is good.
func (s *search) limitTTL(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ttl = min(s.ttl, d)
}
