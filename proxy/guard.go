package proxy

import (
	"errors"
	"net/netip"
	"os"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/eventlog"
	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/security"
)

// Numbers we chose: what is written of an attack, however large it is.
const (
	banLinesPerSecond  = 20
	loopLinesPerSecond = 5
)

// errBanned is why a connection of a banned source ends.
var errBanned = errors.New("source is banned")

// newGuard makes the tables of the protections.
func newGuard(c *config.Config, calls func(netip.Addr) int, inside func(*wire.Msg) bool) *security.Guard {
	routes4, _ := os.ReadFile("/proc/net/route") // a host without them has no gateway to be spared
	routes6, _ := os.ReadFile("/proc/net/ipv6_route")
	return security.NewGuard(security.Options{
		MaxSources: c.Limits.MaxSources, MaxBans: c.Limits.MaxBans, Calls: calls, Inside: inside,
		Gateways: security.DefaultGateways(routes4, routes6),
	})
}

// newProtection makes the rules of a snapshot ready.
func (s *snapshot) newProtection(old *snapshot) (err error) {
	var before *security.Settings
	if old != nil {
		before = old.security
	}
	s.security, err = security.NewSettings(s.config.Security, security.Surroundings{
		Own: s.self.named(), Member: s.memberName, Members: s.memberAddresses,
	}, before)
	return err
}

// memberName names the pool member at an address.
func (s *snapshot) memberName(a netip.Addr) (string, bool) {
	b := s.pools.BySource(a)
	if b == nil {
		return "", false
	}
	return b.Name(), true
}

// memberAddresses are where all pool members are.
func (s *snapshot) memberAddresses() (all []netip.Addr) {
	for _, p := range s.pools.Pools() {
		for _, b := range p.Backends() {
			for _, t := range b.Targets() {
				all = append(all, t.Addr.Addr())
			}
		}
	}
	return all
}

// isBanned is asked by the transport for each datagram, before anything else.
func (e *Edge) isBanned(src netip.Addr) bool {
	s := e.snap.Load()
	return e.guard.Banned(s.security, src, e.wheel.Now())
}

var errConnects = errors.New("too many new connections of this source")

// admits is asked by the transport for each connection.
func (e *Edge) admits(l *transport.Listener, remote netip.AddrPort) bool {
	s, now := e.snap.Load(), e.wheel.Now()
	switch {
	case s == nil:
		return true
	case e.guard.Banned(s.security, remote.Addr(), now):
		return false
	case !e.guard.Connects(s.security, remote.Addr(), s.config.Limits.MaxConnectionsPerSource, now):
		e.refused.note(l.Proto(), remote, errConnects)
		return false
	}
	return true
}

// keptAlive is asked by the transport for keep-alives, and says whether it may go on.
func (e *Edge) keptAlive(src netip.Addr, isStream bool) bool {
	p, v, now := security.Packet{From: src, Source: security.SourceOf(src), Stream: isStream}, security.Verdict{}, e.wheel.Now()
	s := e.snap.Load()
	if s == nil {
		return true
	}
	e.guard.KeepAlive(s.security, &p, &v, now)
	return e.judged(&v, src, nil)
}

// guardPacket notes in the scratch what the packet stage looks at. What its rules look at
// goes by pointer, and must not be made anew for every message.
func (w *scratch) guardPacket(p *transport.Packet) {
	from := p.Flow.Remote().Addr()
	w.packet = security.Packet{From: from, Source: security.SourceOf(from), Stream: p.Flow.Conn() != nil}
	w.verdict = security.Verdict{}
}

// guarded is the packet stage: it is passed before anything of a message is read.
func (e *Edge) guarded(w *scratch, p *transport.Packet, now time.Duration) bool {
	w.guardPacket(p)
	w.packet.Counts = security.Counts(p.Data)
	rules := e.snap.Load().security
	if e.guard.Bridge.Listens(now) && !rules.Trusts(w.packet.From) {
		e.guard.Bridge.Saw(w.packet.From, now)
	}
	v := &w.verdict
	e.guard.Packet(rules, &w.packet, v, now)
	if v.Action == security.Pass && security.IsSTUN(p.Data) {
		e.guard.KeepAlive(rules, &w.packet, v, now)
	}
	if v.Observed {
		e.count.observed[v.Rule].Add(1)
	}
	if v.Action == security.Pass && !v.Exceeded && !v.Suspended {
		return true
	}
	if v.Ban != nil {
		w.msg.Scan(p.Data, p.Flow.Proto().Streamed())
	}
	return e.packetJudged(w, p)
}

// stray counts a reply that matched nothing: enough of them are a flood.
func (e *Edge) stray(w *scratch, p *transport.Packet) {
	e.count.stray.Add(1)
	e.charge(w, p)
}

// charge counts a reply against its source, and says whether it may go on.
func (e *Edge) charge(w *scratch, p *transport.Packet) bool {
	w.guardPacket(p)
	e.guard.Stray(e.snap.Load().security, &w.packet, &w.verdict, e.wheel.Now())
	return e.packetJudged(w, p)
}

// packetJudged does what the packet stage decided of the message in w, and says whether
// it passes. A connection of a banned source has no further use.
func (e *Edge) packetJudged(w *scratch, p *transport.Packet) bool {
	if e.judged(&w.verdict, w.packet.From, w.msg.Bytes(w.msg.CallID)) {
		return true
	}
	if c := p.Flow.Conn(); c != nil {
		c.Close(errBanned)
	}
	return false
}

// judged tells what was decided about a source, and says whether its message passes.
func (e *Edge) judged(v *security.Verdict, from netip.Addr, callID []byte) bool {
	if v.Suspended {
		e.suspendedAt.Store(int64(e.wheel.Now()))
	}
	isTold := v.Exceeded && e.banLines.Admit(e.wheel.Now())
	if isTold && v.Suspended {
		e.log.Op().Warn().Str("gateway", from.String()).Msg(suspended)
	}
	if isTold {
		e.log.Exceeded(&eventlog.Exceeded{IP: from, Count: v.Count, Limit: v.Limit, Window: v.Window, Why: v.Why})
	}
	if v.Ban != nil {
		e.logBan(from, callID)
		select { // until the kernel knows, a flood fills the socket's buffer
		case e.banned <- struct{}{}:
		default: // watch is about to look
		}
	}
	if v.Action == security.Pass {
		return true
	}
	e.count.stopped[v.Rule].Add(1)
	return false
}

// logBan writes the line of a banned address, a bounded number a second: who can forge
// addresses must not be able to fill a disk.
func (e *Edge) logBan(a netip.Addr, callID []byte) {
	if e.banLines.Admit(e.wheel.Now()) {
		e.log.Banned(&eventlog.Ban{IP: a, CallID: callID})
		return
	}
	e.count.banLines.Add(1)
}

// isRunning says whether a message belongs to what runs already: an ACK or CANCEL
// whose INVITE we know, or a request in a dialog of ours; a REGISTER never is one.
func (e *Edge) isRunning(w *scratch) bool {
	m := &w.msg
	if m.Method == wire.CANCEL || m.Method == wire.ACK {
		w.key = transaction.AppendServerKey(w.key[:0], m, methodINVITE)
		if _, ok := e.table.Find(w.key); ok {
			return true
		}
	}
	return !m.To.Tag.Empty() && m.Method != wire.REGISTER && e.dialogs.Find(0, m, true).Known()
}

// isInside says whether a request with a To tag belongs to a dialog that came through
// here: one that we know, or one whose Route is ours. A BYE takes nobody anywhere.
func (e *Edge) isInside(m *wire.Msg) bool {
	if m.Method == wire.BYE || e.dialogs.Find(0, m, true).Known() || e.isOwnToken(m.Bytes(m.RURI)) {
		return true
	}
	if m.First(wire.KindRoute) < 0 {
		return false
	}
	it := m.Values(wire.KindRoute)
	for {
		v, ok := it.Next()
		if !ok {
			return false
		}
		if uri, _, ok := wire.NameAddrURI(m.Bytes(v.Span)); ok && e.isOwnToken(uri) {
			return true
		}
	}
}

// isOwnToken says whether a URI carries a token that only we can have written.
func (e *Edge) isOwnToken(uri []byte) bool {
	u, ok := wire.ParseURI(uri)
	if !ok || !u.HasUser {
		return false
	}
	_, ok = e.tokens.parse(u.User)
	return ok
}

// protect is the message stage for a new request. It is false when the request ends
// here.
func (e *Edge) protect(w *scratch, snap *snapshot, p *transport.Packet, now time.Duration) bool {
	m, from := &w.msg, p.Flow.Remote().Addr()
	w.guarding = security.Message{
		Msg: m, From: from, Source: security.SourceOf(from), Trusted: snap.security.Trusts(from), Stream: p.Flow.Conn() != nil,
		Member: m.Method == wire.INVITE && snap.sender(m, p.Flow) != nil,
	}
	w.verdict = security.Verdict{}
	v := &w.verdict
	e.guard.Message(snap.security, &w.guarding, v, now)
	if v.Observed {
		e.count.observed[v.Rule].Add(1)
	}
	if v.Rule == security.Loop {
		e.logLoop(m, p.Flow.Remote(), v, now)
	}
	switch v.Action {
	case security.Pass:
		return true
	case security.Refuse:
		if m.Method != wire.ACK && (v.Rule != security.Sanity || e.errorReplies.Admit(now)) {
			e.replyStateless(w, p.Flow, v.Status, v.Reason, v.Header)
		}
	}
	e.count.rejected.Add(1)
	e.count.stopped[v.Rule].Add(1)
	if v.Rule == security.Loop {
		e.count.loops.Add(1)
	}
	return false
}

func (e *Edge) logLoop(m *wire.Msg, src netip.AddrPort, v *security.Verdict, now time.Duration) {
	if !e.loopLines.Admit(now) {
		return
	}
	e.log.Looped(&eventlog.Loop{From: m.Bytes(m.From.URI), To: m.Bytes(m.To.URI), Calls: v.Count, Src: src, Passes: v.Action == security.Pass})
}

// isDeaf says whether a call would go to where all that comes back is dropped: it would
// ring there, and nobody could answer it.
func (e *Edge) isDeaf(snap *snapshot, r *route, now time.Duration) bool {
	if r.kind == toFlow {
		return e.guard.Stops(snap.security, r.flow.Remote().Addr(), now)
	}
	if r.kind != toDirect {
		return false
	}
	for _, t := range r.targets {
		if !e.guard.Stops(snap.security, t.Addr.Addr(), now) {
			return false
		}
	}
	return len(r.targets) > 0
}

// attemptLocked notes the credentials of a request from outside to a pool: its final
// answer tells whether the password was right.
func (c *responseContext) attemptLocked(m *wire.Msg, now time.Duration) {
	if c.route.from == nil && c.route.pool != nil && hasCredentials(m) {
		c.attempt = c.edge.guard.Attempt(c.snap.security, m, c.source.Addr(), c.up.Conn() != nil, now)
	}
}

// challengedLocked notes a challenge that is passed to its client.
func (c *responseContext) challengedLocked(m *wire.Msg, now time.Duration) {
	if c.route.from == nil && c.route.pool != nil {
		c.edge.guard.Challenge(c.snap.security, m, c.source.Addr(), c.method, now)
	}
}

// judgedLocked takes the final answer to a request with credentials; b is that answer,
// nil when only the status matters.
func (c *responseContext) judgedLocked(w *scratch, status int, b []byte, now time.Duration) {
	at := c.attempt
	if at == nil {
		return
	}
	c.attempt = nil
	stale := false
	if b != nil && (status == 401 || status == 407) {
		w.again.Scan(b, c.up.Proto().Streamed())
		stale = security.IsStale(&w.again)
	}
	e := c.edge
	v := e.guard.Answered(c.snap.security, at, status, stale, c.route.pool.Config().AuthFailureCodes, now)
	if c.snap.config.Security.FailedAuthBanEnable == config.Observe {
		e.logObserved(at, v, c.source.Addr())
		return
	}
	for _, b := range v.Users {
		if e.banLines.Admit(now) {
			e.log.FailedAuth(&eventlog.AuthFailure{User: b.User, UA: at.UA, IP: c.source.Addr(), CallID: at.CallID})
		}
	}
	if v.Source != nil {
		e.logBan(c.source.Addr(), []byte(at.CallID))
	}
}

// logObserved says what the mode enforce would have done.
func (e *Edge) logObserved(at *security.Attempt, v security.AuthVerdict, src netip.Addr) {
	all := v.Users
	if v.Source != nil {
		all = append(all, v.Source)
	}
	for _, b := range all {
		e.count.observed[b.Rule].Add(1)
		if e.banLines.Admit(e.wheel.Now()) {
			e.log.Op().Warn().Str("key", b.Key.String()).Str("rule", b.Rule.String()).Str("ip", src.String()).Str("ID", at.CallID).
				Msg("not banned for wrong passwords: failed_auth_ban_enable is observe")
		}
	}
}

func hasCredentials(m *wire.Msg) bool {
	return m.First(wire.KindAuthorization) >= 0 || m.First(wire.KindProxyAuthorization) >= 0
}

// named says what each address of this edge is, for those who ask why it is trusted.
func (s *self) named() map[netip.Addr]string {
	all := map[netip.Addr]string{}
	for a := range s.local {
		all[a] = "an address of this host"
	}
	for a := range s.bound {
		all[a] = "listener or advertised address"
	}
	return all
}
