package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// listenProtos are what a listener may speak.
var listenProtos = []string{"udp", "tcp", "tls", "ws", "wss"}

// parseListen reads the address of a listener, proto:ip:port.
func parseListen(s string) (proto string, bind netip.AddrPort, err error) {
	proto, rest, ok := strings.Cut(s, ":")
	proto = strings.ToLower(strings.TrimSpace(proto))
	switch {
	case !ok || strings.Contains(proto, ".") || strings.Contains(proto, "["):
		return "", bind, fmt.Errorf("want proto:ip:port, for example udp:0.0.0.0:5060, not %s", quote(s))
	case !slices.Contains(listenProtos, proto):
		return "", bind, fmt.Errorf("unknown protocol %s: want udp, tcp, tls, ws or wss", quote(proto))
	}
	rest = strings.TrimSpace(rest)
	bind, err = netip.ParseAddrPort(rest)
	if err == nil {
		return proto, netip.AddrPortFrom(bind.Addr().Unmap(), bind.Port()), nil
	}
	host, port, err := net.SplitHostPort(rest)
	switch {
	case err != nil && isDigits(rest):
		return "", bind, fmt.Errorf("the address is missing: write %s:0.0.0.0:%s for all addresses", proto, rest)
	case err != nil:
		return "", bind, fmt.Errorf("want proto:ip:port (IPv6 in brackets), not %s", quote(s))
	case host == "" || host == "*":
		return "", bind, fmt.Errorf("the address is missing: write %s:0.0.0.0:%s for all addresses", proto, port)
	}
	if _, err := parsePort(port); err != nil {
		return "", bind, err
	}
	return "", bind, fmt.Errorf("the address must be an IP address of this host, not %s", quote(host))
}

// parsePort reads 0 to 65535.
func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || !isDigits(s) {
		return 0, fmt.Errorf("want a port from 1 to 65535, not %s", quote(s))
	}
	return uint16(n), nil
}

// HostPort splits the value of an advertise key, host or host:port. IPv6 is returned without brackets; port 0 means
// that none is given. The host is an IP address or a name.
func HostPort(s string) (host string, port uint16, err error) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil && strings.HasPrefix(s, "[") == strings.HasSuffix(s, "]") {
		return a.Unmap().String(), 0, advertisable(a)
	}
	host = s
	if h, p, found := cutPort(s); found {
		host = h
		if port, err = parsePort(p); err != nil {
			return "", 0, err
		}
		if port == 0 {
			return "", 0, errors.New("want a port from 1 to 65535, not 0")
		}
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().String(), port, advertisable(a)
	}
	if !isHostName(host) {
		return "", 0, fmt.Errorf("want host or host:port (IPv6 in brackets), not %s", quote(s))
	}
	return host, port, nil
}

// cutPort parts host:port or [v6]:port.
func cutPort(s string) (host, port string, found bool) {
	if rest, ok := strings.CutPrefix(s, "["); ok {
		host, after, _ := strings.Cut(rest, "]")
		port, ok := strings.CutPrefix(after, ":")
		return host, port, ok
	}
	return strings.Cut(s, ":")
}

func advertisable(a netip.Addr) error {
	if a.IsUnspecified() || a.IsMulticast() {
		return fmt.Errorf("nobody can reach %s: want the address that peers send to", a)
	}
	return nil
}

// isHostName reports whether a name could be in DNS: RFC 1123 labels, and '_' which some networks use. A name whose
// last label is a number would be taken for an IPv4 address by somebody.
func isHostName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	last := ""
	for last = range strings.SplitSeq(s, ".") {
		if !isName(last, "-_") || last[0] == '-' || last[len(last)-1] == '-' {
			return false
		}
	}
	return !isDigits(last)
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// sipURI is what a backend's address says (RFC 3261 19.1).
type sipURI struct {
	host  string // IPv6 without brackets
	port  uint16 // 0: none
	proto string // of the transport parameter, or tls for sips; empty: open
}

// BackendURI returns the SIP URI that an operator means by an address on a command line: sip: is put in front of a bare
// host or host:port. It returns an error where Load would.
func BackendURI(s string) (string, error) {
	s = strings.TrimSpace(s)
	if lower := strings.ToLower(s); !strings.HasPrefix(lower, "sip:") && !strings.HasPrefix(lower, "sips:") {
		if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
			s = "[" + s + "]"
		}
		s = "sip:" + s
	}
	_, err := parseBackendURI(s)
	return s, err
}

// parseBackendURI reads the address of a backend. A user part and headers have no meaning there and are refused.
func parseBackendURI(s string) (sipURI, error) {
	var u sipURI
	scheme, rest, ok := strings.Cut(s, ":")
	switch {
	case ok && strings.EqualFold(scheme, "sip"):
	case ok && strings.EqualFold(scheme, "sips"):
		u.proto = "tls"
	case s == "":
		return u, errors.New("missing")
	default:
		if _, err := BackendURI("sip:" + s); err == nil {
			return u, fmt.Errorf("want a SIP URI, not %s (did you mean %q?)", quote(s), "sip:"+s)
		}
		return u, fmt.Errorf("want a SIP URI, for example sip:10.0.0.10:5060, not %s", quote(s))
	}
	for i := range len(rest) {
		if c := rest[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("<>\"\\", c) >= 0 {
			return u, fmt.Errorf("%s is not a SIP URI: character %q", quote(s), c)
		}
	}
	if strings.ContainsAny(rest, "@?") {
		return u, fmt.Errorf("%s: the address of a backend has no user part and no headers", quote(s))
	}
	hostPort, params, _ := strings.Cut(rest, ";")
	if err := u.parseHost(hostPort); err != nil {
		return u, fmt.Errorf("%s is not a SIP URI: %w", quote(s), err)
	}
	if params == "" && strings.HasSuffix(rest, ";") {
		return u, fmt.Errorf("%s is not a SIP URI: empty parameter", quote(s))
	}
	for params != "" {
		var one string
		one, params, _ = strings.Cut(params, ";")
		name, value, _ := strings.Cut(one, "=")
		if name == "" {
			return u, fmt.Errorf("%s is not a SIP URI: empty parameter", quote(s))
		}
		if !strings.EqualFold(name, "transport") {
			continue
		}
		switch value = strings.ToLower(value); value {
		case "udp", "tcp", "tls":
		default:
			return u, fmt.Errorf("transport %s is not possible towards a backend: want udp, tcp or tls", quote(value))
		}
		if u.proto == "tls" && value == "udp" {
			return u, errors.New("sips and transport=udp exclude each other")
		}
		if u.proto == "" {
			u.proto = value
		}
	}
	return u, nil
}

func (u *sipURI) parseHost(s string) error {
	if strings.HasPrefix(s, "[") {
		inside, after, closed := strings.Cut(s[1:], "]")
		a, err := netip.ParseAddr(inside)
		if !closed || err != nil || !a.Is6() {
			return fmt.Errorf("bad IPv6 address %s", quote(s))
		}
		if after != "" && after[0] != ':' {
			return fmt.Errorf("bad port %s", quote(after))
		}
		u.host, s = a.String(), after
	} else {
		host, _, _ := strings.Cut(s, ":")
		if strings.Count(s, ":") > 1 {
			return errors.New("an IPv6 address needs brackets")
		}
		u.host, s = host, s[len(host):]
	}
	if s != "" {
		port, err := parsePort(s[1:])
		if err != nil || port == 0 {
			return fmt.Errorf("want a port from 1 to 65535, not %s", quote(s[1:]))
		}
		u.port = port
	}
	a, err := netip.ParseAddr(u.host)
	if err != nil && !isHostName(u.host) {
		return fmt.Errorf("%s is neither an IP address nor a host name", quote(u.host))
	}
	if err == nil && (a.IsUnspecified() || a.IsMulticast()) {
		return fmt.Errorf("nobody answers at %s", a)
	}
	return nil
}

// endpoint returns where an address that needs no DNS leads to (RFC 3263 4.1, 4.2).
func (u sipURI) endpoint() (proto string, to netip.AddrPort, ok bool) {
	a, err := netip.ParseAddr(u.host)
	if err != nil {
		return "", to, false
	}
	proto, port := u.proto, u.port
	if proto == "" {
		proto = "udp"
	}
	if port == 0 {
		port = 5060
		if proto == "tls" {
			port = 5061
		}
	}
	return proto, netip.AddrPortFrom(a.Unmap(), port), true
}

// name is what a backend without a name is called.
func (u sipURI) name() string {
	if u.port == 0 {
		return u.host
	}
	return net.JoinHostPort(u.host, strconv.Itoa(int(u.port)))
}

// isAddress reports whether a text is an IP address, without brackets.
func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}
