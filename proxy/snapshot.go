package proxy

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/backend"
	"github.com/sipward/sipward/proxy/resolve"
	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/security"
	"github.com/sipward/sipward/timers"
)

// A snapshot is the configuration made ready for the message path. It is
// immutable; a reload builds a new one and swaps the pointer. A transaction keeps
// the one it began with.
type snapshot struct {
	config    *config.Config
	times     transaction.Times
	policy    *timers.Policy
	pools     *backend.Set
	security  *security.Settings
	rules     []*rule
	identity  []string // header names that only we may write towards a backend
	self      self
	listeners []*transport.Listener
	faces     []advertised           // by listener index
	tls       map[string]*tls.Config // towards backends, by pool
	places    map[uint32]place       // by backend ID; of former snapshots too, calls may still be there
}

// place names a backend in records and listings.
type place struct{ pool, backend string }

// advertised is what a listener shows instead of its address.
type advertised struct {
	host string
	port uint16
}

// rule is one entry of `routes:`.
type rule struct {
	methods []string
	prefix  string
	domain  string
	sources []netip.Prefix
	pool    *backend.Pool
	limit   *backend.Rate
}

func newSnapshot(c *config.Config, listeners []*transport.Listener, old *snapshot, now time.Duration) (*snapshot, error) {
	s := &snapshot{config: c, listeners: listeners}
	t := c.Transaction
	s.times = transaction.Times{T1: t.T1.D(), T2: t.T2.D(), T4: t.T4.D(), B: t.TimerB.D(), C: t.TimerC.D()}
	s.policy = policyOf(c)
	var before *backend.Set
	if old != nil {
		before = old.pools
	}
	s.pools = backend.NewSet(c.Pools, before, now)
	s.addPlaces(old)
	for _, l := range listeners {
		f, err := parseAdvertise(l.Config().Advertise, c.Advertise)
		if err != nil {
			return nil, err
		}
		s.faces = append(s.faces, f)
	}
	s.self = newSelf(listeners, s.faces, c.Aliases)
	s.addRules(old)
	names := map[string]bool{}
	s.tls = map[string]*tls.Config{}
	for name, p := range c.Pools {
		t, err := clientTLSOf(p.TLS)
		if err != nil {
			return nil, fmt.Errorf("pools.%s.%w", name, err)
		}
		s.tls[name] = t
		if p.IdentityHeader != "" {
			names[p.IdentityHeader] = true
		}
	}
	for _, n := range c.Security.StripHeaders {
		names[n] = true
	}
	s.identity = slices.Sorted(maps.Keys(names))
	return s, s.newProtection(old)
}

// addPlaces names all backends that there are and were.
func (s *snapshot) addPlaces(old *snapshot) {
	s.places = map[uint32]place{}
	if old != nil {
		maps.Copy(s.places, old.places)
	}
	for _, p := range s.pools.Pools() {
		for _, b := range p.Backends() {
			s.places[b.ID()] = place{p.Name(), b.Name()}
		}
	}
}

// addRules compiles `routes:`. Without any, the only pool takes everything.
func (s *snapshot) addRules(old *snapshot) {
	for i, r := range s.config.Routes {
		x := &rule{
			methods: r.Match.Method, prefix: r.Match.RURIPrefix, domain: strings.ToLower(r.Match.FromDomain),
			sources: r.Match.Source, pool: s.pools.Pool(r.Pool), limit: backend.NewRate(r.MaxCPS),
		}
		if old != nil && i < len(old.rules) && old.rules[i].pool.Name() == r.Pool {
			x.limit = old.rules[i].limit.WithLimit(r.MaxCPS)
		}
		s.rules = append(s.rules, x)
	}
	if len(s.rules) == 0 && len(s.pools.Pools()) == 1 {
		s.rules = []*rule{{pool: s.pools.Pools()[0]}}
	}
}

func parseAdvertise(own, global string) (a advertised, err error) {
	text := own
	if text == "" {
		text = global
	}
	if text == "" {
		return a, nil
	}
	host, port, err := config.HostPort(text)
	if err != nil {
		return a, fmt.Errorf("advertise: %w", err)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = hostText(ip)
	}
	return advertised{host, port}, nil
}

func hostText(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// listener returns the listener with that mark, if it has that protocol.
func (s *snapshot) listener(mark uint8, p wire.Proto) *transport.Listener {
	for _, l := range s.listeners {
		if l.Mark() == mark && l.Proto() == p {
			return l
		}
	}
	return nil
}

// egress chooses the listener to send from: of the right protocol and address
// family, first one that faces the side, then one that can reach the address.
func (s *snapshot) egress(p wire.Proto, to netip.Addr, inside bool) (best *transport.Listener) {
	score := -1
	for _, l := range s.listeners {
		bound := l.Bound().Addr()
		if l.Proto() != p || bound.Is4() != to.Is4() {
			continue
		}
		n := 0
		if (l.Config().Side == config.SideInside) == inside {
			n += 2
		}
		if bound.IsUnspecified() || bound.IsLoopback() == to.IsLoopback() {
			n++
		}
		if n > score {
			score, best = n, l
		}
	}
	return best
}

// member returns the backend at an address, or, for another port of its host
// (a Contact often names one), a backend of that host. On an address of this very
// host only the backend's own port counts: what else listens there is nobody's
// business, least of all a stranger's who writes it into a Request-URI.
func (s *snapshot) member(a netip.AddrPort) *backend.Backend {
	if b := s.pools.ByTarget(a); b != nil {
		return b
	}
	if s.self.isHost(a.Addr()) {
		return nil
	}
	return s.pools.BySource(a.Addr())
}

// reachable says whether a request from outside may be sent to an address: to a
// backend as configured, and, in a dialog that we carry, to the port of its host
// that Contact named. Over a stream only SIP's own ports, lest the edge be aimed at
// other services there.
func (s *snapshot) reachable(t resolve.Target, bound bool) bool {
	if s.pools.ByTarget(t.Addr) != nil {
		return true
	}
	if !bound || s.member(t.Addr) == nil {
		return false
	}
	return !t.Proto.Reliable() || t.Addr.Port() == 5060 || t.Addr.Port() == 5061
}

// sender names the pool member that a message comes from, nil for everybody else.
// An address that is shared with this host or with phones on it (loopback) counts
// only with the port of the backend, by the socket or, over a connection, by the
// sent-by of Via.
func (s *snapshot) sender(m *wire.Msg, f transport.Flow) *backend.Backend {
	src := f.Remote()
	b := s.pools.BySource(src.Addr())
	if b == nil {
		return nil
	}
	l := f.Listener()
	isInside := l != nil && l.Config().Side == config.SideInside
	if f.Proto() == wire.UDP && !isInside && s.hasInside(src.Addr()) { // anybody outside can write this source
		return nil
	}
	if exact := s.pools.ByTarget(src); exact != nil {
		return exact
	}
	if isInside {
		return b
	}
	if !src.Addr().IsLoopback() && !s.self.isHost(src.Addr()) {
		return b
	}
	if f.Conn() != nil && sameHost(m.Bytes(m.TopVia.Host), src.Addr()) {
		return s.pools.ByTarget(netip.AddrPortFrom(src.Addr(), m.TopVia.PortNum))
	}
	return nil
}

// hasInside says whether a UDP listener faces the PBX, of this address family.
func (s *snapshot) hasInside(a netip.Addr) bool {
	for _, l := range s.listeners {
		if l.Proto() == wire.UDP && l.Config().Side == config.SideInside && l.Bound().Addr().Is4() == a.Is4() {
			return true
		}
	}
	return false
}

// rule finds the first rule that takes a request. Of requests from a pool member
// only rules that name its address speak.
func (s *snapshot) rule(m *wire.Msg, src netip.Addr, mustNameSource bool) *rule {
	for _, r := range s.rules {
		if (!mustNameSource || len(r.sources) > 0) && r.matches(m, src) {
			return r
		}
	}
	return nil
}

func (r *rule) matches(m *wire.Msg, src netip.Addr) bool {
	return r.matchesMethod(m.Bytes(m.MethodName)) &&
		bytes.HasPrefix(m.Bytes(m.RURI), []byte(r.prefix)) &&
		r.matchesDomain(m) && r.matchesSource(src)
}

func (r *rule) matchesMethod(method []byte) bool {
	for _, x := range r.methods {
		if string(method) == x {
			return true
		}
	}
	return len(r.methods) == 0
}

func (r *rule) matchesDomain(m *wire.Msg) bool {
	if r.domain == "" {
		return true
	}
	u, ok := wire.ParseURI(m.Bytes(m.From.URI))
	return ok && equalFold(u.Host, r.domain)
}

func (r *rule) matchesSource(src netip.Addr) bool {
	for _, p := range r.sources {
		if p.Contains(src) {
			return true
		}
	}
	return len(r.sources) == 0
}

// emergency says whether no limit may refuse a call (RFC 5031 and what the
// operator lists).
func (s *snapshot) emergency(u wire.URI, ruri []byte) bool {
	const service = "urn:service:"
	for _, x := range s.config.Limits.Emergency {
		if string(u.User) == x {
			return true
		}
		if len(ruri) >= len(service)+len(x) && equalFold(ruri[:len(service)], service) &&
			equalFold(ruri[len(service):len(service)+len(x)], x) {
			return true
		}
	}
	return false
}

// inviteFailover and requestFailover are how long a target may be silent.
func (s *snapshot) inviteFailover(p *backend.Pool) time.Duration {
	if p != nil && p.Config().InviteFailover > 0 {
		return p.Config().InviteFailover.D()
	}
	return s.config.Transaction.InviteFailover.D()
}

func (s *snapshot) requestFailover(p *backend.Pool) time.Duration {
	if p != nil && p.Config().RequestFailover > 0 {
		return p.Config().RequestFailover.D()
	}
	return s.config.Transaction.RequestFailover.D()
}
