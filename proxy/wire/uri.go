package wire

import (
	"bytes"
	"net/netip"
	"unsafe"
)

// Scheme is a URI scheme as far as the proxy cares.
type Scheme uint8

// The schemes of RFC 3261 and RFC 3966; any other one is forwarded as it is.
const (
	OtherScheme Scheme = iota
	SIP
	SIPS
	Tel
)

// String is the scheme in lower case, "other" for the zero value.
func (s Scheme) String() string {
	switch s {
	case SIP:
		return "sip"
	case SIPS:
		return "sips"
	case Tel:
		return "tel"
	default:
		return "other"
	}
}

// URI is a URI taken apart; all parts are slices of what was parsed, as
// written (percent-escapes are kept). Of a tel URI only User and Params are
// set, of an unknown scheme only SchemeName.
type URI struct {
	Scheme     Scheme
	SchemeName []byte
	User       []byte // with password and user parameters; the number of a tel URI
	Host       []byte // IPv6 without its brackets
	Port       []byte // nil when absent, and when empty ("sip:b:")
	Params     []byte // from the first ';' on, for Param
	Headers    []byte // after '?'
	PortNum    uint16 // 0 without port
	Transport  []byte
	MAddr      []byte
	TTL        []byte
	LR         bool // lr is there, with or without value
	HasUser    bool // there is an '@', be the user empty or not
}

// ParseURI reads a URI without angle brackets. It refuses a SIP URI without
// host, with a port outside 1..65535, a host that is neither name nor address
// by its characters, and one with two '@', which has two readings.
func ParseURI(b []byte) (u URI, ok bool) {
	colon := bytes.IndexByte(b, ':')
	if colon <= 0 || !isToken(b[:colon]) {
		return u, false
	}
	u.SchemeName = b[:colon:colon]
	rest := b[colon+1:]
	switch {
	case equalFold(u.SchemeName, "sip"):
		u.Scheme = SIP
		return u, u.parseSIP(rest)
	case equalFold(u.SchemeName, "sips"):
		u.Scheme = SIPS
		return u, u.parseSIP(rest)
	case equalFold(u.SchemeName, "tel"):
		u.Scheme = Tel
		u.parseTel(rest)
		return u, len(u.User) > 0
	}
	return u, true
}

// parseTel: number *( ";" parameter ) (RFC 3966 3).
func (u *URI) parseTel(b []byte) {
	u.User, u.HasUser = b, true
	if i := bytes.IndexByte(b, ';'); i >= 0 {
		u.User, u.Params = b[:i:i], b[i:]
	}
}

// parseSIP: [ userinfo "@" ] hostport uri-parameters [ "?" headers ]
// (RFC 3261 19.1.1). A user may hold ';', '?' and '/', hence the '@' first.
func (u *URI) parseSIP(b []byte) bool {
	if i := bytes.IndexByte(b, '@'); i >= 0 {
		u.User, u.HasUser = b[:i:i], true
		b = b[i+1:]
		if bytes.IndexByte(b, '@') >= 0 {
			return false
		}
	}
	end := hostEnd(b, 0, len(b))
	if end < 0 {
		return false
	}
	u.Host = b[:end:end]
	if b[0] == '[' {
		u.Host = b[1 : end-1 : end-1]
	}
	return u.parseTail(b[end:])
}

// parseTail reads what follows the host.
func (u *URI) parseTail(b []byte) bool {
	if len(b) > 0 && b[0] == ':' {
		end := 1
		for end < len(b) && isDigit(b[end]) {
			end++
		}
		if end > 1 {
			u.Port = b[1:end:end]
			n, ok := number(u.Port, 65535)
			if !ok || n == 0 {
				return false
			}
			u.PortNum = uint16(n)
		}
		b = b[end:]
	}
	if i := bytes.IndexByte(b, '?'); i >= 0 {
		u.Headers, b = b[i+1:], b[:i:i]
	}
	if len(b) == 0 {
		return true
	}
	u.Params = b
	u.parseParams()
	return b[0] == ';'
}

// parseParams notes the parameters that routing needs; the first of a name
// counts.
func (u *URI) parseParams() {
	var name, value []byte
	for rest := u.Params; len(rest) > 0; {
		name, value, rest = nextURIParam(rest)
		switch {
		case equalFold(name, "lr"):
			u.LR = true
		case u.Transport == nil && equalFold(name, "transport"):
			u.Transport = value
		case u.MAddr == nil && equalFold(name, "maddr"):
			u.MAddr = value
		case u.TTL == nil && equalFold(name, "ttl"):
			u.TTL = value
		}
	}
}

// Param finds a URI parameter by its name in any case, the first one of that
// name; its value is nil without '='. Unlike the function Param it gives
// quotes no meaning.
func (u URI) Param(name string) (value []byte, found bool) {
	var n []byte
	for rest := u.Params; len(rest) > 0; {
		n, value, rest = nextURIParam(rest)
		if equalFold(n, name) {
			return value, true
		}
	}
	return nil, false
}

// nextURIParam takes ";name[=value]" off the front of b.
func nextURIParam(b []byte) (name, value, rest []byte) {
	name = b[1:]
	if i := bytes.IndexByte(name, ';'); i >= 0 {
		name, rest = name[:i:i], name[i:]
	}
	if i := bytes.IndexByte(name, '='); i >= 0 {
		name, value = name[:i:i], name[i+1:]
	}
	return name, value, rest
}

// Addr is the host as an address, false when it is a name.
func (u URI) Addr() (netip.Addr, bool) { return ParseAddr(u.Host) }

// ParseAddr reads an IP address as it stands in a URI or Via: IPv6 with or
// without brackets, no zone. It does not allocate for a valid address.
func ParseAddr(b []byte) (netip.Addr, bool) {
	if n := len(b); n > 2 && b[0] == '[' && b[n-1] == ']' {
		b = b[1 : n-1]
	}
	if len(b) < 2 || len(b) > 45 || bytes.IndexByte(b, '%') >= 0 || !addrLike(b) {
		return netip.Addr{}, false
	}
	// netip keeps its argument only as zone or in an error; there is no zone,
	// and the error is dropped here.
	a, err := netip.ParseAddr(unsafe.String(&b[0], len(b)))
	return a, err == nil
}

// addrLike sorts out host names before netip builds an error for them: an
// address has a colon or ends in a digit (RFC 3261 25.1: a toplabel starts
// with a letter).
func addrLike(b []byte) bool {
	return isDigit(b[len(b)-1]) || bytes.IndexByte(b, ':') >= 0
}
