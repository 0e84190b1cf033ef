package config

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// check looks at what no single key can know: names that refer to each other, addresses that must differ, files that
// must be there. It also fills in what is derived: parsed listeners and names of backends.
func (l *loader) check(c *Config, host []netip.Addr) {
	l.checkListeners(c, host)
	l.checkLog(c.Log)
	l.checkCDR(c.CDR, c.Log)
	l.checkStateFile(c)
	l.checkServerID(c.ServerID)
	l.checkSecret(c.Secret)
	for i, alias := range c.Aliases {
		l.checkAdvertise(fmt.Sprintf("aliases[%d]", i), alias)
	}
	if _, ok := l.keyAt["lab"]; ok && c.Lab {
		l.warnf("lab", "values below the safe minima are permitted: for laboratories only")
	}
	l.checkRegistration(c.Registration)
	l.checkTimers(c.Timers, c.Transaction)
	l.checkSecurity(c.Security)
	l.checkTransaction(c.Transaction)
	l.checkLimits(c.Limits)
	l.checkAdmin(c.Admin)
	l.checkResolver(&c.Resolver)
	backends := 0
	for _, name := range slices.Sorted(maps.Keys(c.Pools)) {
		pool := c.Pools[name]
		backends += len(pool.Backends)
		l.checkPool(&pool, c, "pools."+name, host)
		c.Pools[name] = pool
	}
	if len(c.Pools) == 0 && !l.isBroken("pools") {
		l.keyErrorf("pools", "no pool: at least one with one backend is needed")
	}
	l.checkRoutes(c)
}

func (l *loader) checkListeners(c *Config, host []netip.Addr) {
	if len(c.Listen) == 0 {
		l.errorf("listen", "no listener")
	}
	if c.Advertise != "" {
		l.checkAdvertise("advertise", c.Advertise)
	}
	type bound struct {
		network string
		bind    netip.AddrPort
	}
	seen, warned := map[bound]string{}, false
	for i := range c.Listen {
		key := fmt.Sprintf("listen[%d]", i)
		one := &c.Listen[i]
		if one.Address == "" {
			if !l.isBroken(key) {
				l.keyErrorf(key, "address is missing")
			}
			continue
		}
		var err error
		if one.Proto, one.Bind, err = parseListen(one.Address); err != nil {
			l.errorf(key+".address", "%v", err)
			continue
		}
		if one.Advertise != "" {
			l.checkAdvertise(key+".advertise", one.Advertise)
		}
		l.checkCertificates(one, key)
		l.checkOrigins(one, key)
		if one.Web() && one.Side == SideInside {
			l.errorf(key+".side", "browsers come from outside: leave side out, and give the PBX a listener of its own")
		}
		network := "tcp"
		if one.Proto == "udp" {
			network = "udp"
		}
		at := bound{network, one.Bind}
		if other, taken := seen[at]; taken && one.Bind.Port() != 0 {
			l.errorf(key+".address", "same address as %s", other)
			continue
		}
		seen[at] = key
		if n := reachable(one.Bind.Addr(), host); one.Advertise == "" && c.Advertise == "" && n > 1 && !warned {
			warned = true // once, not for UDP and TCP each
			l.warnf(key, "listens on all addresses and this host has %d: set advertise to the one that peers shall see", n)
		}
	}
}

// reachable counts the addresses of the host that a wildcard listener answers on; 0 for any other listener.
func reachable(bind netip.Addr, host []netip.Addr) int {
	n := 0
	for _, a := range host {
		if bind.IsUnspecified() && !a.IsLoopback() && a.Is4() == bind.Is4() {
			n++
		}
	}
	return n
}

func (l *loader) checkAdvertise(key, value string) {
	if _, _, err := HostPort(value); err != nil {
		l.errorf(key, "%v", err)
	}
}

func (l *loader) checkLog(log Log) {
	if out := log.Output; out != "stdout" && out != "stderr" && !strings.Contains(out, "/") {
		l.errorf("log.output", "want stdout, stderr or a path with a slash in it, not %s%s",
			quote(out), didYouMean(out, []string{"stdout", "stderr"}))
	}
}

func (l *loader) checkCDR(cdr CDR, log Log) {
	switch out := cdr.Output; {
	case out == "none" || out == "stdout":
	case !strings.Contains(out, "/"):
		l.errorf("cdr.output", "want none, stdout or a path with a slash in it, not %s%s",
			quote(out), didYouMean(out, []string{"none", "stdout"}))
	case filepath.Clean(out) == filepath.Clean(log.Output):
		l.errorf("cdr.output", "same file as log.output")
	}
}

// checkStateFile makes sure that the file can be there and is no other one of ours.
func (l *loader) checkStateFile(c *Config) {
	const key = "state_file"
	path := c.StateFile
	if path == "" {
		return
	}
	switch clean := filepath.Clean(path); {
	case !strings.Contains(path, "/") || strings.ContainsRune(path, 0):
		l.errorf(key, "want a path with a slash in it, not %s", quote(path))
	case clean == filepath.Clean(c.Log.Output):
		l.errorf(key, "same file as log.output")
	case clean == filepath.Clean(c.CDR.Output):
		l.errorf(key, "same file as cdr.output")
	default:
		if at, err := os.Stat(filepath.Dir(clean)); err != nil || !at.IsDir() {
			l.warnf(key, "no directory %s: the start will fail", quote(filepath.Dir(clean)))
		}
	}
}

// checkAdmin bounds the path by what fits into a socket address everywhere.
func (l *loader) checkAdmin(a Admin) {
	const most = 103
	if a.Socket != "" && (!strings.Contains(a.Socket, "/") || strings.ContainsRune(a.Socket, 0) || len(a.Socket) > most) {
		l.errorf("admin.socket", "want a path with a slash in it, of at most %d bytes", most)
	}
}

func (l *loader) checkServerID(id string) {
	if len(id) > 256 || strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
		l.errorf("server_id", "want one line of at most 256 bytes")
	}
}

// checkSecret never shows the value.
func (l *loader) checkSecret(secret string) {
	const least, most = 16, 1024
	if secret != "" && (len(secret) < least || len(secret) > most) {
		l.errorf("secret", "want %d to %d bytes that nobody can guess", least, most)
	}
}

// checkRegistration looks at pings that come too late.
func (l *loader) checkRegistration(r Registration) {
	const forgets = 30 * second // what many NATs keep a UDP mapping for, less a little for the way
	if r.Ping != "none" && r.PingInterval > forgets-second {
		l.warnf("registration.ping_interval", "%s s: many NATs forget a phone after %s s, and calls to it fail until it registers again", r.PingInterval, forgets)
	}
}

// checkTimers looks for limits that contradict each other, and for calls that nothing would end.
func (l *loader) checkTimers(t Timers, tr Transaction) {
	l.checkEarlyHangup(t)
	l.checkProbeMethods(t.ProbeMethods)
	if wait := 64 * tr.T1; t.AckTimeout > 0 && t.AckTimeout < wait && !l.lab {
		l.errorf("timers.ack_timeout", "%s s is below 64*transaction.t1 (%s s): the callee still repeats its answer then", t.AckTimeout, wait)
	}
	if t.SessionTTL > 0 {
		if t.Alive == "2xx_only" && slices.Contains(t.ProbeMethods, "options_stale") {
			l.warnf("timers.alive", "options_stale is answered with 500, which 2xx_only takes for no sign of life: living calls would be ended")
		}
		if t.SessionUpdateSegment == 1 {
			l.warnf("timers.session_update_segment", "with 1 segment a probe goes out just before the end: 2 or more leave time for retries")
		}
		if t.NoTimerCallDuration > 0 && t.NoTimerCallDuration < 3*t.SessionTTL {
			l.warnf("timers.no_timer_call_duration", "%s s is below 3*session_ttl (%s s): short for calls that nobody can probe", t.NoTimerCallDuration, 3*t.SessionTTL)
		}
		if t.MinSE > t.SessionTTL && t.InsertSE != "never" {
			l.warnf("timers.min_se", "%s s is above session_ttl (%s s): the edge asks for a Session-Expires of it, but ends a call after session_ttl without a sign of life", t.MinSE, t.SessionTTL)
		}
	}
	if t.MaxCallDuration == 0 {
		if t.SessionTTL == 0 {
			l.warnf("timers.session_ttl", "without probing and max_call_duration nothing ends a call with a session timer whose ends are gone")
		}
		if t.NoTimerCallDuration == 0 {
			l.warnf("timers.no_timer_call_duration", "without it and max_call_duration nothing ends a call without session timers whose ends are gone")
		}
	}
}

// checkEarlyHangup leaves time for a probe and its retries before the hang-up. A laboratory needs no time for retries.
func (l *loader) checkEarlyHangup(t Timers) {
	const key = "timers.session_timeout_early_hangup"
	if t.SessionTimeoutEarlyHangup == 0 {
		return
	}
	most, spared := t.SessionTTL-t.segment(), ""
	if !l.lab {
		most, spared = most-40*second, " and 40 s for retries"
	}
	switch {
	case t.SessionTTL == 0:
		l.errorf(key, "session_ttl is 0: nothing is probed, so nothing times out")
	case most <= 0:
		l.errorf(key, "session_ttl (%s s) less one of %d segments%s leaves no time for it", t.SessionTTL, t.SessionUpdateSegment, spared)
	case t.SessionTimeoutEarlyHangup > most:
		l.errorf(key, "%s s is too large: session_ttl (%s s) less one of %d segments%s leaves %s s",
			t.SessionTimeoutEarlyHangup, t.SessionTTL, t.SessionUpdateSegment, spared, most)
	}
}

func (l *loader) checkProbeMethods(methods []string) {
	const key = "timers.probe_methods"
	if len(methods) == 0 && !l.isBroken(key) {
		l.errorf(key, "no method: session_ttl: 0 is how probing is turned off")
	}
	first := map[string]int{}
	for i, method := range methods {
		if n, twice := first[method]; twice && method != "" {
			l.errorf(fmt.Sprintf("%s[%d]", key, i), "%s is there already, as probe_methods[%d]", quote(method), n)
			continue
		}
		first[method] = i
	}
}

func (l *loader) checkTransaction(t Transaction) {
	if t.T1 > t.T2 {
		l.errorf("transaction.t1", "t1 (%s s) is above t2 (%s s)", t.T1, t.T2)
	}
	for _, f := range []struct {
		key   string
		value Duration
	}{{"invite_failover", t.InviteFailover}, {"request_failover", t.RequestFailover}} {
		l.checkFailover("transaction."+f.key, f.value, t)
	}
}

// checkFailover makes sure that fail-over comes before the transaction is over.
func (l *loader) checkFailover(key string, d Duration, t Transaction) {
	if d >= t.TimerB {
		l.errorf(key, "%s s is not below transaction.timer_b (%s s): no other backend would ever be tried", d, t.TimerB)
	}
}

func (l *loader) checkLimits(m Limits) {
	if m.MaxConnectionsPerSource > m.MaxConnections {
		l.errorf("limits.max_connections_per_source", "%d is above limits.max_connections (%d)", m.MaxConnectionsPerSource, m.MaxConnections)
	}
	if m.ReceiveBuffer < 4<<20 {
		l.warnf("limits.receive_buffer", "below 4 MiB a burst of registrations is lost in the kernel")
	}
	for i, name := range m.Emergency {
		if name == "" || len(name) > 128 || strings.ContainsAny(name, " @<>\"\r\n\t") {
			l.errorf(fmt.Sprintf("limits.emergency[%d]", i), "want the user part of a Request-URI or a urn:service name, not %s", quote(name))
		}
	}
}

func (l *loader) checkResolver(r *Resolver) {
	if r.MinTTL > r.MaxTTL {
		l.errorf("resolver.min_ttl", "min_ttl (%s s) is above max_ttl (%s s)", r.MinTTL, r.MaxTTL)
	}
	for i, s := range r.Servers {
		if a, err := netip.ParseAddr(s); err == nil {
			r.Servers[i] = netip.AddrPortFrom(a, 53).String()
		} else if _, err := netip.ParseAddrPort(s); err != nil {
			l.errorf(fmt.Sprintf("resolver.servers[%d]", i), "want ip or ip:port, not %s", quote(s))
		}
	}
}

func (l *loader) checkPool(p *Pool, c *Config, key string, host []netip.Addr) {
	if len(p.Backends) == 0 && !l.isBroken(key) {
		l.keyErrorf(key, "no backends")
	}
	if p.InviteFailover > 0 {
		l.checkFailover(key+".invite_failover", p.InviteFailover, c.Transaction)
	}
	if p.RequestFailover > 0 {
		l.checkFailover(key+".request_failover", p.RequestFailover, c.Transaction)
	}
	if p.Probe.Interval > 0 && p.Probe.Timeout > p.Probe.Interval {
		l.errorf(key+".probe.timeout", "timeout (%s s) is above interval (%s s)", p.Probe.Timeout, p.Probe.Interval)
	}
	if !slices.Contains(p.FailoverCodes, 503) {
		p.FailoverCodes = append(p.FailoverCodes, 503)
	}
	slices.Sort(p.FailoverCodes)
	p.FailoverCodes = slices.Compact(p.FailoverCodes)
	slices.Sort(p.AuthFailureCodes)
	p.AuthFailureCodes = slices.Compact(p.AuthFailureCodes)
	l.checkIdentity(key+".identity_header", p.IdentityHeader)
	l.checkPoolTLS(p.TLS, key+".tls")
	names := map[string]int{}
	for i := range p.Backends {
		l.checkBackend(&p.Backends[i], c, fmt.Sprintf("%s.backends[%d]", key, i), host)
		name := strings.ToLower(p.Backends[i].Name)
		if first, taken := names[name]; taken && name != "" {
			at := fmt.Sprintf("%s.backends[%d]", key, i)
			if _, ok := l.valueAt[at+".name"]; ok {
				at += ".name"
			}
			l.errorf(at, "the name %s is taken by backends[%d]", quote(p.Backends[i].Name), first)
			continue
		}
		names[name] = i
	}
}

// token are the characters of a token besides letters and digits (RFC 3261 25.1).
const token = "-.!%*_+`'~"

// needed are the header fields, long and short, that a message cannot be without when it has them.
var needed = []string{
	"via", "v", "from", "f", "to", "t", "call-id", "i", "cseq", "contact", "m", "max-forwards", "route", "record-route", "path",
	"content-length", "l", "content-type", "c", "content-encoding", "e", "authorization", "proxy-authorization",
	"www-authenticate", "proxy-authenticate", "require", "proxy-require", "supported", "k", "session-expires", "x",
	"expires", "event", "o", "refer-to", "r",
}

// checkIdentity refuses names that are no header field or that SIP itself gives a meaning to.
func (l *loader) checkIdentity(key, name string) {
	if name == "" {
		return
	}
	meaningful := []string{"subject", "s", "identity", "y"}
	switch {
	case !isName(name, token):
		l.errorf(key, "%s is not the name of a header field", quote(name))
	case slices.Contains(needed, strings.ToLower(name)) || slices.Contains(meaningful, strings.ToLower(name)):
		l.errorf(key, "%s has a meaning of its own in SIP: choose a private name such as X-AUTH-IP", quote(name))
	}
}

func (l *loader) checkBackend(b *Backend, c *Config, key string, host []netip.Addr) {
	if b.Name != "" && !isName(b.Name, "-_.:[]") {
		l.errorf(key+".name", "a backend's name is up to 64 letters, digits and -_.:[]")
		b.Name = ""
	}
	if b.Address == "" {
		if !l.isBroken(key) {
			l.keyErrorf(key, "address is missing")
		}
		return
	}
	u, err := parseBackendURI(b.Address)
	if err != nil {
		l.errorf(key+".address", "%v", err)
		return
	}
	if b.Name == "" {
		b.Name = u.name()
	}
	proto, to, ok := u.endpoint()
	if !ok {
		return
	}
	for i, own := range c.Listen {
		if own.Proto == proto && own.receives(to, c.Advertise, host) {
			l.errorf(key+".address", "%s is this edge itself (listen[%d]): requests would come back for ever", quote(b.Address), i)
			return
		}
	}
}

// receives reports whether what is sent to an address arrives at the listener.
func (n Listener) receives(to netip.AddrPort, advertise string, host []netip.Addr) bool {
	if n.Advertise != "" {
		advertise = n.Advertise
	}
	if name, port, err := HostPort(advertise); err == nil && name == to.Addr().String() {
		if port == 0 {
			port = n.Bind.Port()
		}
		if port == to.Port() {
			return true
		}
	}
	if n.Bind.Port() != to.Port() {
		return false
	}
	if n.Bind.Addr() == to.Addr() {
		return true
	}
	return n.Bind.Addr().IsUnspecified() && (to.Addr().IsLoopback() || slices.Contains(host, to.Addr()))
}

func (l *loader) checkRoutes(c *Config) {
	if len(c.Routes) == 0 && len(c.Pools) > 1 {
		l.keyErrorf("pools", "%d pools but no routes: nothing says which pool takes a request", len(c.Pools))
	}
	names := slices.Sorted(maps.Keys(c.Pools))
	takesAll := -1
	for i := range c.Routes {
		key := fmt.Sprintf("routes[%d]", i)
		r := &c.Routes[i]
		if takesAll >= 0 {
			l.warnf(key, "never reached: routes[%d] takes everything", takesAll)
		}
		if _, ok := c.Pools[r.Pool]; r.Pool == "" {
			if !l.isBroken(key) {
				l.keyErrorf(key, "pool is missing")
			}
		} else if !ok {
			l.errorf(key+".pool", "no pool is called %s%s", quote(r.Pool), didYouMean(r.Pool, names))
		}
		l.checkMatch(r.Match, key+".match")
		if r.Match.isEmpty() && takesAll < 0 {
			takesAll = i
		}
	}
}

func (m Match) isEmpty() bool {
	return len(m.Method) == 0 && m.RURIPrefix == "" && m.FromDomain == "" && len(m.Source) == 0
}

// dialogForming and standalone methods that a route may name. ACK, BYE and CANCEL follow their call.
var routable = []string{"INVITE", "REGISTER", "SUBSCRIBE", "OPTIONS", "MESSAGE", "PUBLISH", "NOTIFY", "REFER", "INFO", "UPDATE", "PRACK"}

func (l *loader) checkMatch(m Match, key string) {
	for i, method := range m.Method {
		at := fmt.Sprintf("%s.method[%d]", key, i)
		switch {
		case !isName(method, token):
			l.errorf(at, "%s is not a method", quote(method))
		case method == "ACK" || method == "BYE" || method == "CANCEL":
			l.errorf(at, "%s follows its call and is never routed by a pool's rule", method)
		case !slices.Contains(routable, method) && nearest(method, routable) != "":
			// Methods are case-sensitive (RFC 3261 7.1), and new ones are legal: a hint only when one is near.
			l.warnf(at, "unknown method %s%s", quote(method), didYouMean(method, routable))
		}
	}
	if m.FromDomain != "" && !isHostName(m.FromDomain) {
		if _, err := netip.ParseAddr(strings.Trim(m.FromDomain, "[]")); err != nil {
			l.errorf(key+".from_domain", "want a host name or an IP address, not %s", quote(m.FromDomain))
		}
	}
	if strings.ContainsAny(m.RURIPrefix, " \t\r\n") {
		l.errorf(key+".ruri_prefix", "a Request-URI has no white space")
	}
}
