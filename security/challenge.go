package security

import (
	"bytes"
	"unicode/utf8"

	"github.com/sipward/sipward/proxy/wire"
)

// Credentials are what a request says in a Digest header. All parts are of the
// message and without their quotes; escapes ("\x") are kept.
type Credentials struct {
	User, Realm, Nonce []byte
	Opaque             []byte // as the challenge had it, of telephones that give it back
	Algorithm          []byte // the first, if there are several; empty = MD5
	ForProxy           bool   // of Proxy-Authorization
}

// ReadCredentials reads the Authorization and Proxy-Authorization lines of a request
// and takes the first Digest that answers a challenge. Without a response there is no
// password to be wrong (RFC 3310 clients name their user in the first REGISTER), so
// such a line is as none: has is false.
//
// ok is false when a Digest line has no single reading: a quote stays open, a
// parameter has no value, there is no username, username, realm, nonce or response
// are there twice, two lines name different users of one realm, or there are more lines
// than anybody looks at.
func ReadCredentials(m *wire.Msg) (c Credentials, has, ok bool) {
	i := m.First(wire.KindAuthorization)
	if j := m.First(wire.KindProxyAuthorization); i < 0 || j >= 0 && j < i {
		i = j
	}
	if i < 0 {
		return c, false, true
	}
	for lines := 0; i < len(m.Headers); i++ {
		h := &m.Headers[i]
		if h.Kind != wire.KindAuthorization && h.Kind != wire.KindProxyAuthorization {
			continue
		}
		rest, digest := cutDigest(m.Bytes(h.Value))
		if !digest {
			continue
		}
		if lines++; lines > maxClaims {
			return c, has, false
		}
		x, response, ok := readDigest(rest)
		x.ForProxy = h.Kind == wire.KindProxyAuthorization
		switch {
		case !ok:
			return c, has, false
		case len(response) == 0:
		case !has:
			c, has = x, true
		case bytes.Equal(c.Realm, x.Realm) && !bytes.Equal(c.User, x.User):
			return c, has, false
		}
	}
	return c, has, true
}

// eachCredentials calls f for every Digest line of a request that answers a challenge,
// until f returns false. A line that has no single reading counts with what was read of
// it: nobody knows what its reader takes.
func eachCredentials(m *wire.Msg, f func(Credentials) bool) {
	for i := range m.Headers {
		h := &m.Headers[i]
		if h.Kind != wire.KindAuthorization && h.Kind != wire.KindProxyAuthorization {
			continue
		}
		rest, digest := cutDigest(m.Bytes(h.Value))
		if !digest {
			continue
		}
		c, response, ok := readDigest(rest)
		c.ForProxy = h.Kind == wire.KindProxyAuthorization
		if (!ok || len(response) > 0) && !f(c) {
			return
		}
	}
}

// readDigest reads the parameters of one line of credentials.
func readDigest(b []byte) (c Credentials, response []byte, ok bool) {
	for pos := 0; ; {
		f, next := nextField(b, pos)
		switch {
		case next == fieldsEnd:
			return c, response, c.User != nil
		case next < 0 || f.val < 0:
			return c, nil, false
		}
		pos = next
		name, value, first := b[f.name:f.nEnd], b[f.val:f.end:f.end], true
		switch len(name) {
		case 5:
			if isWord(name, "realm") {
				first, c.Realm = c.Realm == nil, value
			} else if isWord(name, "nonce") {
				first, c.Nonce = c.Nonce == nil, value
			}
		case 8:
			if isWord(name, "username") {
				first, c.User = c.User == nil, value
			} else if isWord(name, "response") {
				first, response = response == nil, value
			}
		case 6:
			if c.Opaque == nil && isWord(name, "opaque") {
				c.Opaque = value
			}
		case 9:
			if c.Algorithm == nil && isWord(name, "algorithm") {
				c.Algorithm = value
			}
		}
		if !first {
			return c, nil, false
		}
	}
}

// A Challenge is what a Digest challenge gives for the answer to it.
type Challenge struct {
	Realm, Nonce, Opaque []byte
}

// Challenged calls f for every Digest challenge with a nonce in a 401 or 407. It is
// lenient: what comes before a mistake counts.
func Challenged(m *wire.Msg, f func(Challenge)) {
	var c Challenge
	end := func() {
		if len(c.Nonce) > 0 {
			f(c)
		}
		c = Challenge{}
	}
	eachChallenge(m, func(name, value []byte) {
		switch {
		case name == nil:
			end()
		case isWord(name, "realm"):
			c.Realm = value
		case isWord(name, "nonce"):
			c.Nonce = value
		case isWord(name, "opaque"):
			c.Opaque = value
		}
	})
	end()
}

// IsStale tells whether a 401 or 407 says that the password was right and only the
// nonce is too old: stale=true in any case, quoted or not (RFC 7616 3.3).
func IsStale(m *wire.Msg) bool {
	stale := false
	eachChallenge(m, func(name, value []byte) {
		if isWord(name, "stale") && isWord(bytes.TrimSpace(value), "true") {
			stale = true
		}
	})
	return stale
}

// eachChallenge calls each for every parameter of every Digest challenge of a 401 or
// 407, be there one challenge on a line, as RFC 3261 25.1 wants it, or several, and
// without a name where a challenge begins.
func eachChallenge(m *wire.Msg, each func(name, value []byte)) {
	if m.Status != 401 && m.Status != 407 {
		return
	}
	for i := range m.Headers {
		h := &m.Headers[i]
		if h.Kind != wire.KindWWWAuthenticate && h.Kind != wire.KindProxyAuthenticate {
			continue
		}
		b, digest := m.Bytes(h.Value), false
		for f, pos := nextField(b, 0); pos >= 0; f, pos = nextField(b, pos) {
			name := b[f.name:f.nEnd]
			if f.val < 0 {
				if digest = isWord(name, "digest"); digest {
					each(nil, nil)
				}
			} else if digest {
				each(name, b[f.val:f.end:f.end])
			}
		}
	}
}

// cutDigest takes the scheme Digest off the front of a header value.
func cutDigest(b []byte) (rest []byte, ok bool) {
	const scheme = len("Digest")
	if len(b) < scheme || !isWord(b[:scheme], "digest") || len(b) > scheme && !isSpace(b[scheme]) {
		return nil, false
	}
	return b[scheme:], true
}

// field is one parameter of a header with a scheme, as offsets: `a="b"` without the
// quotes. Not more than four of them, so that they stay in registers.
type field struct {
	name, nEnd int
	val, end   int // val is -1 of a name without '=' that more text follows, as a scheme
}

// What nextField returns in place of where to go on.
const (
	fieldsEnd    = -1
	fieldsBroken = -2 // nothing behind that has one reading
)

// nextField reads the parameter at i of a comma list. Empty elements are skipped.
func nextField(b []byte, i int) (f field, next int) {
	for i < len(b) && charClass[b[i]]&(spaceChar|commaChar) != 0 {
		i++
	}
	if i == len(b) {
		return f, fieldsEnd
	}
	f.name = i
	if n := commonName(b[i:]); n > 0 {
		f.nEnd = i + n
		f.val, f.end, next = fieldValue(b, f.nEnd+1)
		return f, next
	}
	for i < len(b) && isTokenChar(b[i]) {
		i++
	}
	f.nEnd = i
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	switch {
	case f.nEnd == f.name || i == len(b):
		return f, fieldsBroken
	case b[i] == '=':
		f.val, f.end, next = fieldValue(b, i+1)
		return f, next
	case i > f.nEnd && isTokenChar(b[i]):
		f.val = -1
		return f, i
	}
	return f, fieldsBroken
}

// commonName is the length of a name as nearly everybody writes it, with '=' right
// behind it, else 0: it spares a look at every letter.
func commonName(b []byte) int {
	if len(b) < len("algorithm=") {
		return 0
	}
	switch b[0] {
	case 'u':
		if string(b[:9]) == "username=" {
			return 8
		}
		if string(b[:4]) == "uri=" {
			return 3
		}
	case 'r':
		if string(b[:6]) == "realm=" {
			return 5
		}
		if string(b[:9]) == "response=" {
			return 8
		}
	case 'n':
		if string(b[:6]) == "nonce=" {
			return 5
		}
		if string(b[:3]) == "nc=" {
			return 2
		}
	case 'a':
		if string(b[:10]) == "algorithm=" {
			return 9
		}
	case 'c':
		if string(b[:7]) == "cnonce=" {
			return 6
		}
	case 'o':
		if string(b[:7]) == "opaque=" {
			return 6
		}
	case 'q':
		if string(b[:4]) == "qop=" {
			return 3
		}
	}
	return 0
}

// fieldValue reads what follows the '=' before i.
func fieldValue(b []byte, i int) (val, end, next int) {
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	if i == len(b) || b[i] != '"' {
		return bareValue(b, i)
	}
	val = i + 1
	if end = quotedEnd(b, val); end < 0 {
		return 0, 0, fieldsBroken
	}
	i = end + 1
	for i < len(b) && b[i] != ',' {
		if !isSpace(b[i]) {
			return 0, 0, fieldsBroken
		}
		i++
	}
	return val, end, i
}

// bareValue reads a value without quotes: all up to the comma, for there are clients
// that forget the quotes of what is no token.
func bareValue(b []byte, val int) (_, end, next int) {
	for next = val; next < len(b) && b[next] != ','; next++ {
		if b[next] == '"' {
			return 0, 0, fieldsBroken
		}
	}
	for end = next; end > val && isSpace(b[end-1]); {
		end--
	}
	return val, end, next
}

// quotedEnd is the index of the quote that ends the quoted string whose text starts
// at i, -1 when there is none.
func quotedEnd(b []byte, i int) int {
	n := bytes.IndexByte(b[i:], '"')
	switch {
	case n < 0:
		return -1
	case n == 0 || b[i+n-1] != '\\':
		return i + n
	}
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			return i
		case '\\':
			i++
		}
	}
	return -1
}

// Classes of octets.
const (
	tokenChar uint8 = 1 << iota // token of RFC 3261 25.1
	spaceChar                   // white space of a header value, which includes folds
	commaChar
)

var charClass = func() (t [256]uint8) {
	for c := range 128 {
		b := byte(c)
		if 'a' <= b|0x20 && b|0x20 <= 'z' || '0' <= b && b <= '9' || bytes.IndexByte([]byte("-.!%*_+`'~"), b) >= 0 {
			t[c] = tokenChar
		}
	}
	t[' '], t['\t'], t['\r'], t['\n'], t[','] = spaceChar, spaceChar, spaceChar, spaceChar, commaChar
	return t
}()

func isSpace(c byte) bool { return charClass[c]&spaceChar != 0 }

func isTokenChar(c byte) bool { return charClass[c]&tokenChar != 0 }

// isWord compares with a word of lower-case letters, in any case.
func isWord(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	if string(b) == word {
		return true
	}
	for i := range len(word) {
		if b[i]|0x20 != word[i] {
			return false
		}
	}
	return true
}

// AppendUser appends who a request is from, as bans call him: user@domain. The user
// is the credentials' (without a domain of his own, without escapes), else the one of
// From; the domain is From's host in lower case, and, where From has none, the one of
// the credentials' user, else the Request-URI's. It appends nothing when there is no
// user or no domain, and at most maxUser bytes.
func AppendUser(dst []byte, m *wire.Msg, c Credentials) []byte {
	from := partyOf(m, &m.From)
	return appendUser(dst, m, &from, c)
}

// A party is whom From or To names.
type party struct {
	user, host []byte
	isSound    bool // it could be read to the end
}

func partyOf(m *wire.Msg, a *wire.Addr) party {
	u, ok := wire.ParseURI(m.Bytes(a.URI))
	return party{u.User, u.Host, ok}
}

// appendUser is AppendUser of a message that is from.
func appendUser(dst []byte, m *wire.Msg, from *party, c Credentials) []byte {
	var space [maxUser]byte
	user := appendUnescaped(space[:0], c.User)
	var domain []byte
	if i := bytes.LastIndexByte(user, '@'); i > 0 {
		user, domain = user[:i], user[i+1:]
	}
	if user = bytes.TrimSpace(user); len(user) == 0 {
		user = bytes.TrimSpace(appendURIUser(space[:0], from.user))
	}
	host := from.host
	if len(host) == 0 && isHost(domain) {
		host = domain
	}
	if len(host) == 0 {
		uri, _ := wire.ParseURI(m.Bytes(m.RURI))
		host = uri.Host
	}
	if len(user) == 0 || len(host) == 0 {
		return dst
	}
	return appendUserAt(dst, user, host)
}

// appendUserAt joins user and host within maxUser bytes.
func appendUserAt(dst, user, host []byte) []byte {
	const maxHost = 253 // RFC 1035 2.3.4

	for len(host) > 1 && host[len(host)-1] == '.' { // the same name for a resolver
		host = host[:len(host)-1]
	}
	host = host[:min(len(host), maxHost)]
	v6 := bytes.IndexByte(host, ':') >= 0
	room := maxUser - len("@") - len(host)
	if v6 {
		room -= len("[]")
	}
	dst = appendText(dst, user, max(room, 1))
	dst = append(dst, '@')
	if v6 {
		dst = append(dst, '[')
	}
	at := len(dst)
	dst = append(dst, host...)
	for i, c := range dst[at:] {
		switch {
		case 'A' <= c && c <= 'Z':
			dst[at+i] = c | 0x20
		case c >= utf8.RuneSelf:
			dst[at+i] = '?' // no host name
		}
	}
	if v6 {
		dst = append(dst, ']')
	}
	return dst
}

// appendText appends at most so many bytes of a user. What is no UTF-8 is escaped as
// in a URI: listings and exports are JSON, and a key has to come back as it went.
func appendText(dst, user []byte, room int) []byte {
	plain := 0 // nearly always all of it
	for plain < min(len(user), room) && user[plain] < utf8.RuneSelf {
		plain++
	}
	dst, user, room = append(dst, user[:plain]...), user[plain:], room-plain
	for len(user) > 0 && room > 0 {
		r, n := utf8.DecodeRune(user)
		switch {
		case r == utf8.RuneError && n == 1:
			const hex = "0123456789ABCDEF"
			if room -= 3; room >= 0 {
				dst = append(dst, '%', hex[user[0]>>4], hex[user[0]&15])
			}
		default:
			if room -= n; room >= 0 {
				dst = append(dst, user[:n]...)
			}
		}
		user = user[n:]
	}
	return dst
}

// appendUnescaped appends the text of a quoted string, up to the capacity of dst:
// "a\lice" is alice for servers that read RFC 3261 25.1, and must not be counted as
// somebody else. Line breaks of folds are left out.
func appendUnescaped(dst, quoted []byte) []byte {
	for i := 0; i < len(quoted) && len(dst) < cap(dst); i++ {
		c := quoted[i]
		if c == '\\' && i+1 < len(quoted) {
			i++
			c = quoted[i]
		}
		if c != '\r' && c != '\n' {
			dst = append(dst, c)
		}
	}
	return dst
}

// appendURIUser appends the user of a URI without password and percent-escapes
// (RFC 3261 19.1.4), up to the capacity of dst.
func appendURIUser(dst, user []byte) []byte {
	for i := 0; i < len(user) && len(dst) < cap(dst) && user[i] != ':'; i++ {
		c := user[i]
		if c == '%' && i+2 < len(user) {
			if hi, lo := hexDigit(user[i+1]), hexDigit(user[i+2]); hi >= 0 && lo >= 0 {
				c = byte(hi<<4 | lo)
				i += 2
			}
		}
		dst = append(dst, c)
	}
	return dst
}

func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// isHost tells whether text can be a host name.
func isHost(b []byte) bool {
	for _, c := range b {
		if !('a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return len(b) > 0
}
