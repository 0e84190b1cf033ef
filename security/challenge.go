package security

import (
	"bytes"

	"github.com/sipward/sipward/proxy/wire"
)

// Credentials are what a request says in a Digest header. All parts are of the
// message and without their quotes; escapes ("\x") are kept.
type Credentials struct{ User, Realm, Nonce []byte }

// ReadCredentials reads the Authorization and Proxy-Authorization lines of a request
// and takes the first Digest that answers a challenge. Without a response there is no
// password to be wrong (RFC 3310 clients name their user in the first REGISTER), so
// such a line is as none: has is false.
//
// ok is false when a Digest line has no single reading: a quote stays open, a
// parameter has no value, there is no username, username, realm, nonce or response
// are there twice, or two lines name different users of one realm.
func ReadCredentials(m *wire.Msg) (c Credentials, has, ok bool) {
	i := m.First(wire.KindAuthorization)
	if j := m.First(wire.KindProxyAuthorization); i < 0 || j >= 0 && j < i {
		i = j
	}
	if i < 0 {
		return c, false, true
	}
	for ; i < len(m.Headers); i++ {
		h := &m.Headers[i]
		if h.Kind != wire.KindAuthorization && h.Kind != wire.KindProxyAuthorization {
			continue
		}
		rest, digest := cutDigest(m.Bytes(h.Value))
		if !digest {
			continue
		}
		x, response, ok := readDigest(rest)
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

// readDigest reads the parameters of one line of credentials.
func readDigest(b []byte) (c Credentials, response []byte, ok bool) {
	for w := (fields{b: b}); ; {
		name, value, kind := w.next()
		switch kind {
		case fieldsEnd:
			return c, response, c.User != nil
		case fieldScheme, fieldBroken:
			return c, nil, false
		}
		switch len(name) {
		case 5:
			if isWord(name, "realm") && !once(&c.Realm, value) || isWord(name, "nonce") && !once(&c.Nonce, value) {
				return c, nil, false
			}
		case 8:
			if isWord(name, "username") && !once(&c.User, value) || isWord(name, "response") && !once(&response, value) {
				return c, nil, false
			}
		}
	}
}

// once fills a part, which is never nil afterwards; false when it was filled before.
func once(part *[]byte, value []byte) bool {
	if *part != nil {
		return false
	}
	*part = value
	return true
}

// Challenged calls f for the nonce of every Digest challenge in a 401 or 407. It is
// lenient: what comes before a mistake counts.
func Challenged(m *wire.Msg, f func(nonce []byte)) {
	eachChallenge(m, func(name, value []byte) {
		if isWord(name, "nonce") && len(value) > 0 {
			f(value)
		}
	})
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

// eachChallenge calls f for every parameter of every Digest challenge of a 401 or
// 407, be there one challenge on a line, as RFC 3261 25.1 wants it, or several.
func eachChallenge(m *wire.Msg, f func(name, value []byte)) {
	if m.Status != 401 && m.Status != 407 {
		return
	}
	for i := range m.Headers {
		h := &m.Headers[i]
		if h.Kind != wire.KindWWWAuthenticate && h.Kind != wire.KindProxyAuthenticate {
			continue
		}
		digest := false
		for w := (fields{b: m.Bytes(h.Value)}); ; {
			name, value, kind := w.next()
			if kind == fieldScheme {
				digest = isWord(name, "digest")
			} else if kind == fieldParam && digest {
				f(name, value)
			} else if kind != fieldParam {
				break
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

// fields walks the parameters of a header with a scheme: `Digest a="b", c=d`. Empty
// elements are skipped.
type fields struct {
	b   []byte
	pos int
}

type fieldKind uint8

const (
	fieldsEnd   fieldKind = iota
	fieldParam            // name and value
	fieldScheme           // name alone, with parameters after it
	fieldBroken           // nothing behind it has one reading
)

// next reads one parameter; its value comes without quotes and is never nil.
func (w *fields) next() (name, value []byte, kind fieldKind) {
	b, i := w.b, w.pos
	for i < len(b) && (b[i] == ',' || isSpace(b[i])) {
		i++
	}
	if i == len(b) {
		return nil, nil, fieldsEnd
	}
	from := i
	for i < len(b) && isTokenChar[b[i]] {
		i++
	}
	name = b[from:i:i]
	end := i
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	switch {
	case len(name) == 0:
		return nil, nil, fieldBroken
	case i < len(b) && b[i] == '=':
		return w.value(name, i+1)
	case i > end && i < len(b) && isTokenChar[b[i]]:
		w.pos = i
		return name, nil, fieldScheme
	}
	return nil, nil, fieldBroken
}

// value reads what follows the '=' before i.
func (w *fields) value(name []byte, i int) (_, value []byte, kind fieldKind) {
	b := w.b
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	if i == len(b) || b[i] != '"' {
		return w.bare(name, i)
	}
	n := quotedLen(b[i+1:])
	if n < 0 {
		return nil, nil, fieldBroken
	}
	value = b[i+1 : i+1+n : i+1+n]
	for i += n + 2; i < len(b) && isSpace(b[i]); {
		i++
	}
	if i < len(b) && b[i] != ',' {
		return nil, nil, fieldBroken
	}
	w.pos = i
	return name, value, fieldParam
}

// bare reads a value without quotes: all up to the comma, for there are clients that
// forget the quotes of what is no token.
func (w *fields) bare(name []byte, from int) (_, value []byte, kind fieldKind) {
	b, end := w.b, from
	for end < len(b) && b[end] != ',' {
		if b[end] == '"' {
			return nil, nil, fieldBroken
		}
		end++
	}
	w.pos = end
	for end > from && isSpace(b[end-1]) {
		end--
	}
	return name, b[from:end:end], fieldParam
}

// quotedLen is the number of bytes up to the quote that ends a quoted string, -1 when
// there is none.
func quotedLen(b []byte) int {
	n := bytes.IndexByte(b, '"')
	if n < 0 || bytes.IndexByte(b[:n], '\\') < 0 {
		return n
	}
	for n = 0; n < len(b); n++ {
		switch b[n] {
		case '"':
			return n
		case '\\':
			n++
		}
	}
	return -1
}

// isSpace tells white space of a header value, which includes folds.
func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// isTokenChar is the token of RFC 3261 25.1.
var isTokenChar = func() (t [256]bool) {
	for c := range 128 {
		b := byte(c)
		t[c] = 'a' <= b|0x20 && b|0x20 <= 'z' || '0' <= b && b <= '9' || bytes.IndexByte([]byte("-.!%*_+`'~"), b) >= 0
	}
	return t
}()

// isWord compares with a word of lower-case letters, in any case.
func isWord(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
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
	from, _ := wire.ParseURI(m.Bytes(m.From.URI))
	var space [maxUser]byte
	user := appendUnescaped(space[:0], c.User)
	var domain []byte
	if i := bytes.LastIndexByte(user, '@'); i > 0 {
		user, domain = user[:i], user[i+1:]
	}
	if user = bytes.TrimSpace(user); len(user) == 0 {
		user = bytes.TrimSpace(appendURIUser(space[:0], from.User))
	}
	host := from.Host
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
	host = host[:min(len(host), maxHost)]
	v6 := bytes.IndexByte(host, ':') >= 0
	room := maxUser - len("@") - len(host)
	if v6 {
		room -= len("[]")
	}
	dst = append(dst, user[:min(len(user), max(room, 1))]...)
	dst = append(dst, '@')
	if v6 {
		dst = append(dst, '[')
	}
	for _, c := range host {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		dst = append(dst, c)
	}
	if v6 {
		dst = append(dst, ']')
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
