package resolve

import (
	"net/netip"
	"strings"

	"github.com/sipward/sipward/proxy/wire"
)

// Target is one place to send a request to.
type Target struct {
	Proto wire.Proto
	Addr  netip.AddrPort
	// ServerName is what a TLS certificate must be valid for: the domain of
	// the query, not the host an SRV record named (RFC 5922 section 4).
	ServerName string
}

// Query is what RFC 3263 needs to know of a URI. Queries are comparable and
// serve as cache keys; make them with [QueryOf], which settles their form.
type Query struct {
	Host     string // lower case, no trailing dot, IPv6 without brackets
	Port     uint16 // 0 = none given
	Proto    wire.Proto
	HasProto bool // Proto was given by a transport parameter
	Secure   bool // sips: TLS on every hop
}

const maxName = 253 // characters of a domain name, RFC 1035 section 2.3.4

// QueryOf returns the query for the next hop u. It reports false when u is no
// SIP or SIPS URI, has no usable host, or names a transport that is unknown or
// cannot carry sips.
//
// The parameter maddr takes the place of the host (RFC 3263 section 4), and the
// transport is matched without regard to case.
func QueryOf(u wire.URI) (Query, bool) {
	if u.Scheme != wire.SIP && u.Scheme != wire.SIPS {
		return Query{}, false
	}
	host := u.Host
	if len(u.MAddr) > 0 {
		host = u.MAddr
	}
	q := Query{Host: hostName(host), Port: u.PortNum, Secure: u.Scheme == wire.SIPS}
	if !isHost(q.Host) {
		return Query{}, false
	}
	if len(u.Transport) == 0 {
		return q, true
	}
	q.Proto, q.HasProto = wire.ParseProto(u.Transport)
	if !q.HasProto {
		return Query{}, false
	}
	if !q.Secure {
		return q, true
	}
	return q, q.secure()
}

// secure turns the transport of a sips query into its protected form: with
// sips, transport=tcp means TLS over TCP (RFC 3261 section 26.2.2). It reports
// false for a transport that has no such form.
func (q *Query) secure() bool {
	switch q.Proto {
	case wire.TCP, wire.TLS:
		q.Proto = wire.TLS
	case wire.WS, wire.WSS:
		q.Proto = wire.WSS
	default:
		return false
	}
	return true
}

// hostName settles the form of a host: lower case, without brackets and
// without the dot of the root.
func hostName(b []byte) string {
	s := strings.ToLower(string(b))
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		return s[1 : len(s)-1]
	}
	return strings.TrimSuffix(s, ".")
}

// isHost reports whether s is an IP address or may be asked for in DNS.
// Underscores are no host names but are in use.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	if s == "" || len(s) > maxName {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

func isLabel(s string) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// Literal returns the target of a query whose host is an IP address; it needs
// no DNS. Without a transport, sip means UDP and sips means TLS; without a
// port, the default one of the transport (RFC 3263 sections 4.1 and 4.2).
func Literal(q Query) (Target, bool) {
	if !mayBeAddr(q.Host) {
		return Target{}, false
	}
	addr, err := netip.ParseAddr(q.Host)
	if err != nil {
		return Target{}, false
	}
	proto := q.proto()
	return Target{Proto: proto, Addr: netip.AddrPortFrom(addr.Unmap(), q.port(proto)), ServerName: q.Host}, true
}

// mayBeAddr rules most names out without the price of an error.
func mayBeAddr(s string) bool {
	return s != "" && (s[len(s)-1] <= '9' || strings.IndexByte(s, ':') >= 0)
}

// proto returns the transport of a query that does not leave it to DNS.
func (q Query) proto() wire.Proto {
	switch {
	case q.HasProto:
		return q.Proto
	case q.Secure:
		return wire.TLS
	default:
		return wire.UDP
	}
}

func (q Query) port(p wire.Proto) uint16 {
	if q.Port != 0 {
		return q.Port
	}
	return p.DefaultPort()
}
