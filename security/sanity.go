package security

import (
	"bytes"
	"encoding/binary"

	"github.com/sipward/sipward/proxy/wire"
)

// Sizes of what no sound sender sends, in bytes; all are ours. The longest of the
// telephones and carriers we know come to a fifth of them, RFC 4475's longreq to half.
const (
	maxMethod     = 64
	maxURI        = 1024 // of the Request-URI, From, To and Contact
	maxTag        = 256
	maxCallID     = 256
	maxProduct    = 512 // User-Agent and Server
	maxHeaderName = 256
	maxLine       = 8192
	maxListLine   = 32768 // of a header that lists addresses or carries a certificate's worth of text
	maxVias       = 70    // Max-Forwards of RFC 3261 8.1.1.6
)

// longLists are the headers that may have maxListLine bytes.
const longLists = 1<<wire.KindVia | 1<<wire.KindRoute | 1<<wire.KindRecordRoute | 1<<wire.KindPath |
	1<<wire.KindContact | 1<<wire.KindIdentity

// repeatReasons has the headers that may appear once, because what a message asks for
// depends on which of two is read. wire.Scan has refused the others of that sort.
var repeatReasons = [64]string{
	wire.KindContentType:    "Duplicate Content-Type",
	wire.KindEvent:          "Duplicate Event",
	wire.KindRAck:           "Duplicate RAck",
	wire.KindReferTo:        "Duplicate Refer-To",
	wire.KindReplaces:       "Duplicate Replaces",
	wire.KindSessionExpires: "Duplicate Session-Expires",
}

// sane looks for what wire.Scan lets pass and no sound sender sends, in a message that
// it found no fault in. The reason, empty if nothing is wrong, is for the reply: it names
// what is wrong, no input. The credentials are those that had to be read for that.
func sane(m *wire.Msg) (c Credentials, has bool, reason string) {
	if reason = checkHeaders(m); reason == "" {
		reason = checkParties(m)
	}
	if reason == "" {
		reason = checkContact(m)
	}
	if reason != "" {
		return c, false, reason
	}
	c, has, ok := ReadCredentials(m)
	if !ok {
		return c, false, "Bad Auth Header"
	}
	return c, has, ""
}

// checkHeaders looks at every line for its size, its octets, and whether it may be
// there again.
func checkHeaders(m *wire.Msg) string {
	if m.MethodName.Len() > maxMethod {
		return "Method Too Long"
	}
	if m.RURI.Len() > maxURI {
		return "Request-URI Too Long"
	}
	if hasControl(m.Bytes(m.ReasonPhrase)) {
		return "Control Character In Reason Phrase"
	}
	seen := uint64(0)
	for i := range m.Headers {
		h := &m.Headers[i]
		if h.Line.Len() > maxHeaderName && tooLong(h) {
			return "Header Too Long"
		}
		if value := m.Buf[h.Value.Start:h.Value.End]; hasControl(value) && !escapesControls(value) {
			return "Control Character In Header"
		}
		bit := uint64(1) << h.Kind
		if seen&bit != 0 && repeatReasons[h.Kind&63] != "" {
			return repeatReasons[h.Kind&63]
		}
		seen |= bit
	}
	if tooManyVias(m) {
		return "Too Many Vias"
	}
	return ""
}

// tooLong is for lines that are longer than any name may be.
func tooLong(h *wire.Header) bool {
	switch size := h.Line.Len(); {
	case size > maxListLine, h.Name.Len() > maxHeaderName:
		return true
	case h.Kind == wire.KindUserAgent || h.Kind == wire.KindServer:
		return h.Value.Len() > maxProduct
	default:
		return size > maxLine && longLists>>h.Kind&1 == 0
	}
}

// tooManyVias counts the values only where so many could be.
func tooManyVias(m *wire.Msg) bool {
	if m.Vias > maxVias {
		return true
	}
	if first := m.First(wire.KindVia); first < 0 || m.Vias == 1 && m.Headers[first].Value.Len() < maxVias*len("a/b/c d,") {
		return false
	}
	return m.CountValues(wire.KindVia) > maxVias
}

// checkParties: From, To, Call-ID.
func checkParties(m *wire.Msg) string {
	if m.From.Tag.Len() > maxTag || !soundURI(m.Bytes(m.From.URI)) {
		return "Invalid From Header"
	}
	if m.To.Tag.Len() > maxTag || !soundURI(m.Bytes(m.To.URI)) {
		return "Invalid To Header"
	}
	if m.CallID.Len() > maxCallID {
		return "Call-ID Too Long"
	}
	return ""
}

// soundURI wants a URI that can be read, with a host where its scheme has one, and an
// IPv6 address between brackets. Other schemes are not looked into (RFC 3261 19.1).
func soundURI(b []byte) bool {
	if len(b) > maxURI {
		return false
	}
	if plainURI(b) {
		return true
	}
	u, ok := wire.ParseURI(b)
	if !ok || u.Scheme != wire.SIP && u.Scheme != wire.SIPS {
		return ok
	}
	host := len(u.SchemeName) + len(":")
	if u.HasUser {
		host += len(u.User) + len("@")
	}
	if b[host] != '[' {
		return true
	}
	a, ok := u.Addr()
	return ok && a.Is6()
}

// plainURI knows most sound URIs at a glance: sip:user@name:port;parameters. Of others
// it says nothing.
func plainURI(b []byte) bool {
	const scheme = "sip:"
	if len(b) < len(scheme) || string(b[:len(scheme)]) != scheme {
		return false
	}
	b = b[len(scheme):]
	if at := bytes.IndexByte(b, '@'); at >= 0 {
		if b = b[at+1:]; bytes.IndexByte(b, '@') >= 0 {
			return false
		}
	}
	i := 0
	for i < len(b) && isHostChar[b[i]] {
		i++
	}
	if i == 0 {
		return false
	}
	if i < len(b) && b[i] == ':' {
		digits, port := 0, 0
		for i++; i < len(b) && b[i]-'0' <= 9 && digits < 6; i++ {
			port = port*10 + int(b[i]-'0')
			digits++
		}
		if port == 0 || port > 65535 {
			return false
		}
	}
	return i == len(b) || b[i] == ';'
}

var isHostChar = func() (t [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") {
		t[c] = true
	}
	return t
}()

// checkContact looks at the requests whose Contact is where later ones are sent to.
func checkContact(m *wire.Msg) string {
	const bad = "Bad Contact Header"
	if m.Method != wire.REGISTER && m.Method != wire.INVITE && m.Method != wire.SUBSCRIBE || m.First(wire.KindContact) < 0 {
		return ""
	}
	values, star := 0, false
	for it := m.Values(wire.KindContact); ; values++ {
		v, ok := it.Next()
		if !ok {
			break
		}
		value := m.Bytes(v.Span)
		if len(value) == 1 && value[0] == '*' {
			star = true
			continue
		}
		if !soundContact(value) {
			return bad
		}
	}
	// RFC 3261 10.2.2: "*" removes all bindings, and stands alone.
	if values == 0 || star && (values > 1 || m.Method != wire.REGISTER) {
		return bad
	}
	return ""
}

func soundContact(value []byte) bool {
	uri, _, ok := wire.NameAddrURI(value)
	if !ok || !soundURI(uri) {
		return false
	}
	// RFC 3261 20.10: a URI with a question mark is in angle brackets.
	return value[0] == '<' || bytes.IndexByte(uri, '?') < 0 || bytes.IndexByte(value, '<') >= 0
}

// hasControl looks for control characters other than those of white space and folds,
// eight bytes at a time: nearly all values have none, and no folds either.
func hasControl(b []byte) bool {
	if len(b) < 8 {
		return anyControl(b)
	}
	marks := markControls(binary.LittleEndian.Uint64(b[len(b)-8:]))
	i := 0
	for ; i+16 < len(b); i += 16 {
		two := b[i : i+16 : i+16]
		marks |= markControls(binary.LittleEndian.Uint64(two)) | markControls(binary.LittleEndian.Uint64(two[8:]))
	}
	if i+8 < len(b) {
		marks |= markControls(binary.LittleEndian.Uint64(b[i : i+8 : i+8]))
	}
	return marks&0x8080808080808080 != 0 && anyControl(b)
}

// markControls sets the highest bit of every byte below ' ' and of DEL. It sets that of
// others too, above 0x7f and next to those, which are rare enough to be looked at again.
func markControls(x uint64) uint64 {
	const low = 0x0101010101010101
	return (x - ' '*low) | (x + low)
}

func anyControl(b []byte) bool {
	for _, c := range b {
		if isControl(c) {
			return true
		}
	}
	return false
}

func isControl(c byte) bool {
	return c < ' ' && c != '\t' && c != '\r' && c != '\n' || c == 0x7f
}

// escapesControls tells whether every control character of a value is part of a quoted
// pair in a quoted string, where it is legal (RFC 3261 25.1).
func escapesControls(b []byte) bool {
	inQuotes := false
	for i := 0; i < len(b); i++ {
		switch {
		case b[i] == '"':
			inQuotes = !inQuotes
		case inQuotes && b[i] == '\\':
			i++
		case isControl(b[i]):
			return false
		}
	}
	return true
}
