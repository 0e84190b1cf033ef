package security

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sipward/sipward/proxy/wire"
)

// digestLine is what a phone sends.
const digestLine = `Authorization: Digest username="alice", realm="pbx.example.org", nonce="1763780000/0f3c0f2fd6f1", ` +
	`uri="sip:example.org;transport=udp", response="6629fae49393a05397450978507c4ef1", algorithm=MD5, ` +
	`cnonce="0a4f113b", opaque="5ccc069c403ebaf9f0171e9517f40e41", qop=auth, nc=00000001`

// authRequest is a REGISTER of From alice with further lines.
func authRequest(t testing.TB, lines ...string) *wire.Msg {
	t.Helper()
	return authRequestFrom(t, `"Alice" <sip:alice@Example.org>;tag=1`, lines...)
}

func authRequestFrom(t testing.TB, from string, lines ...string) *wire.Msg {
	t.Helper()
	return scanned(t, "REGISTER sip:registrar.example.org SIP/2.0\r\n"+
		"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1\r\nMax-Forwards: 70\r\nFrom: "+from+
		"\r\nTo: <sip:alice@example.org>\r\nCall-ID: a@192.0.2.1\r\nCSeq: 2 REGISTER\r\n", lines)
}

// authAnswer is an answer with further lines.
func authAnswer(t testing.TB, status int, lines ...string) *wire.Msg {
	t.Helper()
	return scanned(t, fmt.Sprintf("SIP/2.0 %d Answer\r\n", status)+
		"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1\r\nFrom: <sip:alice@example.org>;tag=1\r\n"+
		"To: <sip:alice@example.org>;tag=2\r\nCall-ID: a@192.0.2.1\r\nCSeq: 2 REGISTER\r\n", lines)
}

func scanned(t testing.TB, head string, lines []string) *wire.Msg {
	t.Helper()
	var m wire.Msg
	text := head + strings.Join(append(lines, "Content-Length: 0", "", ""), "\r\n")
	if f := m.Scan([]byte(text), false); f != wire.NoFault {
		t.Fatalf("%v in\n%s", f, text)
	}
	return &m
}

func TestReadCredentials(t *testing.T) {
	const rest = `, realm="r", nonce="n", uri="sip:r", response="0"`
	long := strings.Repeat("x", 20000)
	for _, x := range []struct {
		name  string
		lines []string
		want  Credentials
		has   bool
		bad   bool
	}{
		{name: "none"},
		{name: "as phones write it", lines: []string{digestLine}, has: true,
			want: creds("alice", "pbx.example.org", "1763780000/0f3c0f2fd6f1")},
		{name: "Proxy-Authorization", lines: []string{`Proxy-Authorization: Digest username="a"` + rest}, has: true, want: creds("a", "r", "n")},
		{name: "any case of names", lines: []string{`AUTHORIZATION: dIGEST USERNAME="a", Realm="r", nOnce="n", Response="0"`}, has: true, want: creds("a", "r", "n")},
		{name: "white space and folds", lines: []string{"Authorization : Digest\r\n\tusername = \"a\"\r\n , realm=\t\"r\",\r\n nonce=\"n\" ,response=\"0\""}, has: true, want: creds("a", "r", "n")},
		{name: "empty elements", lines: []string{`Authorization: Digest ,, username="a"` + rest + ",,"}, has: true, want: creds("a", "r", "n")},
		{name: "no quotes", lines: []string{`Authorization: Digest username=a,realm=r ,nonce=MTIz/Q==,response=0`}, has: true, want: creds("a", "r", "MTIz/Q==")},
		{name: "comma and equals in quotes", lines: []string{`Authorization: Digest username="a,nonce=x", realm="r", nonce="n=,", response="0"`}, has: true, want: creds("a,nonce=x", "r", "n=,")},
		{name: "escapes stay", lines: []string{`Authorization: Digest username="a\"\\", realm="\r", nonce="n", response="0"`}, has: true, want: creds(`a\"\\`, `\r`, "n")},
		{name: "octets that are no UTF-8", lines: []string{"Authorization: Digest username=\"\xff\xfe\"" + rest}, has: true, want: creds("\xff\xfe", "r", "n")},
		{name: "very long values", lines: []string{`Authorization: Digest username="` + long + `", realm="` + long + `", nonce="` + long + `", response="0"`}, has: true, want: creds(long, long, long)},
		{name: "empty username", lines: []string{`Authorization: Digest username=""` + rest}, has: true, want: creds("", "r", "n")},
		{name: "username with domain", lines: []string{`Authorization: Digest username="a@example.net"` + rest}, has: true, want: creds("a@example.net", "r", "n")},
		{name: "empty value of what does not matter", lines: []string{`Authorization: Digest username="a", opaque=` + rest}, has: true, want: creds("a", "r", "n")},
		{name: "without realm and nonce", lines: []string{`Authorization: Digest username="a", response="0"`}, has: true,
			want: Credentials{User: []byte("a")}},

		{name: "no answer to a challenge yet, as IMS clients register first",
			lines: []string{`Authorization: Digest username="a@ims", realm="ims", nonce="", uri="sip:ims", response=""`}},
		{name: "no response at all", lines: []string{`Authorization: Digest username="a", realm="r", nonce="n"`}},
		{name: "another scheme", lines: []string{`Authorization: Basic YTpi`}},
		{name: "a scheme nobody knows", lines: []string{`Authorization: NoOneKnowsThisScheme opaque-data=here`}},
		{name: "a longer scheme", lines: []string{`Authorization: Digests username="a"` + rest}},
		{name: "no scheme", lines: []string{`Authorization:`}},

		{name: "the first of several", lines: []string{
			`Proxy-Authorization: Digest username="a"` + rest, `Authorization: Digest username="b", realm="r2", nonce="n2", response="0"`}, has: true, want: creds("a", "r", "n")},
		{name: "the first that is Digest", lines: []string{
			`Authorization: Bearer x`, `Authorization: Digest username="b"` + rest}, has: true, want: creds("b", "r", "n")},
		{name: "the first with a response", lines: []string{
			`Authorization: Digest username="a", realm="r", nonce="", response=""`, `Authorization: Digest username="b"` + rest}, has: true, want: creds("b", "r", "n")},
		{name: "the same line twice", lines: []string{digestLine, digestLine}, has: true,
			want: creds("alice", "pbx.example.org", "1763780000/0f3c0f2fd6f1")},
		{name: "two users of one realm", lines: []string{
			`Authorization: Digest username="a"` + rest, `Authorization: Digest username="b"` + rest}, has: true, bad: true},
		{name: "a broken second line", lines: []string{digestLine, `Authorization: Digest username="a`}, has: true, bad: true},

		{name: "unclosed quote", lines: []string{`Authorization: Digest username="a"` + rest + `, opaque="x`}, bad: true},
		{name: "unclosed quote by an escape", lines: []string{`Authorization: Digest username="a\", response="0\"`}, bad: true},
		{name: "quote inside of a value", lines: []string{`Authorization: Digest username=a"b"` + rest}, bad: true},
		{name: "text behind a quote", lines: []string{`Authorization: Digest username="a"b` + rest}, bad: true},
		{name: "no comma", lines: []string{`Authorization: Digest username="a" realm="r", response="0"`}, bad: true},
		{name: "no parameters", lines: []string{`Authorization: Digest`}, bad: true},
		{name: "no username", lines: []string{`Authorization: Digest realm="r", nonce="n", response="0"`}, bad: true},
		{name: "username without value", lines: []string{`Authorization: Digest username` + rest}, bad: true},
		{name: "parameter without value", lines: []string{`Authorization: Digest username="a", stale` + rest}, bad: true},
		{name: "parameter without name", lines: []string{`Authorization: Digest username="a", ="x"` + rest}, bad: true},
		{name: "no token", lines: []string{`Authorization: Digest username="a", a/b=c` + rest}, bad: true},
		{name: "two usernames", lines: []string{`Authorization: Digest username="a", username="b"` + rest}, bad: true},
		{name: "two realms", lines: []string{`Authorization: Digest username="a", REALM="x"` + rest}, bad: true},
		{name: "two nonces", lines: []string{`Authorization: Digest username="a", nonce=""` + rest}, bad: true},
		{name: "two responses", lines: []string{`Authorization: Digest username="a", response="1"` + rest}, bad: true},
		{name: "two credentials on one line", lines: []string{`Authorization: Digest username="a"` + rest + `, Digest username="b"` + rest}, bad: true},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, has, ok := ReadCredentials(authRequest(t, x.lines...))
			if has != x.has || ok == x.bad {
				t.Fatalf("has %v, ok %v", has, ok)
			}
			if ok && !sameCredentials(c, x.want) {
				t.Fatalf("%.200q %.200q %.200q", c.User, c.Realm, c.Nonce)
			}
		})
	}
}

func creds(user, realm, nonce string) Credentials {
	return Credentials{User: []byte(user), Realm: []byte(realm), Nonce: []byte(nonce)}
}

func sameCredentials(a, b Credentials) bool {
	return bytes.Equal(a.User, b.User) && bytes.Equal(a.Realm, b.Realm) && bytes.Equal(a.Nonce, b.Nonce)
}

func TestTortureMessagesHaveNoBadCredentials(t *testing.T) {
	files, _ := filepath.Glob("../proxy/wire/testdata/rfc4475/*.dat")
	if len(files) == 0 {
		t.Fatal("no messages")
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var m wire.Msg
		m.Scan(text, false)
		if _, has, ok := ReadCredentials(&m); has || !ok {
			t.Errorf("%s: has %v, ok %v", file, has, ok)
		}
	}
}

func TestChallenged(t *testing.T) {
	for _, x := range []struct {
		name   string
		answer *wire.Msg
		want   string
		stale  bool
	}{
		{"401", authAnswer(t, 401, `WWW-Authenticate: Digest realm="r", nonce="n1", algorithm=MD5, qop="auth,auth-int"`), "n1", false},
		{"407", authAnswer(t, 407, `Proxy-Authenticate: Digest nonce=n1`), "n1", false},
		{"both kinds, any case", authAnswer(t, 401, `www-authenticate:DIGEST NONCE="n1"`, `Proxy-Authenticate: digest realm=r, Nonce="n2"`), "n1 n2", false},
		{"a line per algorithm", authAnswer(t, 401, `WWW-Authenticate: Digest algorithm=SHA-256, nonce="n1"`, `WWW-Authenticate: Digest nonce="n2"`), "n1 n2", false},
		{"several on one line", authAnswer(t, 401, `WWW-Authenticate: Basic realm="x", nonce="no", Digest nonce="n1", stale=false, Digest realm=r, nonce="n2"`), "n1 n2", false},
		{"another scheme", authAnswer(t, 401, `WWW-Authenticate: Basic realm="x", nonce="n"`), "", false},
		{"no scheme", authAnswer(t, 401, `WWW-Authenticate: nonce="n", stale=true`), "", false},
		{"empty nonce", authAnswer(t, 401, `WWW-Authenticate: Digest nonce=""`), "", false},
		{"what comes before a mistake", authAnswer(t, 401, `WWW-Authenticate: Digest nonce="n1", stale=true, realm="r`), "n1", true},
		{"another status", authAnswer(t, 403, `WWW-Authenticate: Digest nonce="n", stale=true`), "", false},
		{"a request", authRequest(t, `WWW-Authenticate: Digest nonce="n", stale=true`), "", false},
		{"stale", authAnswer(t, 401, `WWW-Authenticate: Digest nonce="n1", stale=true`), "n1", true},
		{"stale in quotes", authAnswer(t, 401, `WWW-Authenticate: Digest stale="true", nonce="n1"`), "n1", true},
		{"stale in capitals", authAnswer(t, 407, `Proxy-Authenticate: Digest nonce="n1", STALE=TRUE`), "n1", true},
		{"stale in both", authAnswer(t, 407, `Proxy-Authenticate: Digest nonce="n1", Stale = " True " , qop=auth`), "n1", true},
		{"stale in one of two", authAnswer(t, 401, `WWW-Authenticate: Digest nonce="n1", stale=false`, `WWW-Authenticate: Digest nonce="n2", stale=true`), "n1 n2", true},
		{"not stale", authAnswer(t, 401, `WWW-Authenticate: Digest nonce="n1", stale=FALSE`), "n1", false},
		{"stale of another scheme", authAnswer(t, 401, `WWW-Authenticate: Other stale=true, Digest nonce="n1"`), "n1", false},
		{"stale as a value", authAnswer(t, 401, `WWW-Authenticate: Digest nonce="n1", realm="stale=true"`), "n1", false},
	} {
		t.Run(x.name, func(t *testing.T) {
			var got []string
			Challenged(x.answer, func(c Challenge) { got = append(got, string(c.Nonce)) })
			if s := strings.Join(got, " "); s != x.want || IsStale(x.answer) != x.stale {
				t.Fatalf("%q, stale %v", s, IsStale(x.answer))
			}
		})
	}
}

func TestAppendUser(t *testing.T) {
	const from = "<sip:bob@Example.ORG>;tag=1"
	for _, x := range []struct{ name, from, user, want string }{
		{"the credentials' user", from, "alice", "alice@example.org"},
		{"his case is his own", from, "Alice", "Alice@example.org"},
		{"his domain gives way to From's", from, "alice@example.net", "alice@example.org"},
		{"the last @ is the domain's", from, "a@b@example.net", "a@b@example.org"},
		{"an @ at the start is none", from, "@x", "@x@example.org"},
		{"an @ at the end", from, "alice@", "alice@example.org"},
		{"escapes", from, `\al\ice`, "alice@example.org"},
		{"a quote in a name", from, `al\"ice`, `al"ice@example.org`},
		{"spaces around", from, " alice\t", "alice@example.org"},
		{"a fold", from, "alice\r\n bob", "alice bob@example.org"},
		{"From's user", from, "", "bob@example.org"},
		{"From's user of nothing but a space", from, " ", "bob@example.org"},
		{"From's user with a password", "<sip:bob:secret@h>;tag=1", "", "bob@h"},
		{"From's user with percent-escapes", "<sip:%62o%4Xb%4@h>;tag=1", "", "bo%4Xb%4@h"},
		{"no user", "<sip:example.org>;tag=1", "", ""},
		{"From without user", "<sip:Example.org>;tag=1", "alice", "alice@example.org"},
		{"a port is no domain", "<sip:bob@h:5070>;tag=1", "alice", "alice@h"},
		{"IPv6", "<sip:bob@[2001:DB8::1]:5060>;tag=1", "alice", "alice@[2001:db8::1]"},
		{"tel: his own domain stays", "<tel:+4930>;tag=1", "alice@Example.NET", "alice@example.net"},
		{"tel: the registrar", "<tel:+4930>;tag=1", "alice", "alice@registrar.example.org"},
		{"tel: no domain of his", "<tel:+4930>;tag=1", "alice@a/b", "alice@registrar.example.org"},
		{"tel: the number", "<tel:+4930;phone-context=x>;tag=1", "", "+4930@registrar.example.org"},
		{"very long", from, strings.Repeat("a", 60000), strings.Repeat("a", maxUser-len("@example.org")) + "@example.org"},
		{"very long host", "<sip:b@" + strings.Repeat("h", 300) + ">;tag=1", "alice", "al@" + strings.Repeat("h", 253)},
	} {
		t.Run(x.name, func(t *testing.T) {
			m := authRequestFrom(t, x.from)
			got := string(AppendUser([]byte("x "), m, Credentials{User: []byte(x.user)}))
			if got != "x "+x.want {
				t.Fatal(got)
			}
			if x.want == "" {
				return
			}
			if k, err := ParseKey(x.want); err != nil || k != (Key{User: x.want}) {
				t.Fatal(k, err)
			}
		})
	}
}

func FuzzCredentials(f *testing.F) {
	for _, s := range []string{
		digestLine[len("Authorization: "):], `Digest username="a\"b", realm=r,nonce="", response=0`, `Digest username="a`, "Basic x",
		"Digest \r\n ,, username = a , response = 1", `Digest username="a", response="0", Digest username="b"`, `Digest username="a@b"`,
	} {
		f.Add(s, "", "<sip:bob@example.org>;tag=1")
		f.Add(s, s, "<tel:+4930>;tag=1")
	}
	f.Fuzz(func(t *testing.T, line, second, from string) {
		var m wire.Msg
		m.Scan([]byte("INVITE sip:h SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: "+from+
			"\r\nTo: <sip:b@h>\r\nCall-ID: a\r\nCSeq: 2 INVITE\r\nAuthorization: "+line+"\r\nProxy-Authorization: "+second+"\r\n\r\n"), false)
		before := bytes.Clone(m.Buf)
		c, has, ok := ReadCredentials(&m)
		if has && c.User == nil {
			t.Fatal("no username")
		}
		if ok && !has && (c.User != nil || c.Realm != nil || c.Nonce != nil) {
			t.Fatalf("none, but %q %q %q", c.User, c.Realm, c.Nonce)
		}
		for _, part := range [][]byte{c.User, c.Realm, c.Nonce} {
			if len(part) > 0 && !bytes.Contains(m.Buf, part) {
				t.Fatalf("%q is not of the message", part)
			}
		}
		user := string(AppendUser(nil, &m, c))
		if !bytes.Equal(before, m.Buf) {
			t.Fatal("the message changed")
		}
		if user == "" {
			return
		}
		if len(user) > maxUser {
			t.Fatalf("%d bytes", len(user))
		}
		if k, err := ParseKey(user); err != nil || k.User != user || k.Source != 0 {
			t.Fatalf("%q is no key: %v %v", user, k, err)
		}
	})
}

func FuzzChallenge(f *testing.F) {
	for _, s := range []string{
		`Digest realm="r", nonce="n1", stale=TRUE, qop="auth,auth-int"`, `Basic realm=x, Digest nonce=n, Digest nonce="m"`, `Digest nonce="\""`, `Digest nonce="`,
	} {
		f.Add(s, 401)
		f.Add(s, 407)
	}
	f.Fuzz(func(t *testing.T, line string, status int) {
		var m wire.Msg
		m.Scan([]byte(fmt.Sprintf("SIP/2.0 %d x\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:b@h>;tag=2\r\n"+
			"Call-ID: a\r\nCSeq: 2 INVITE\r\nWWW-Authenticate: %s\r\n\r\n", status, line)), false)
		Challenged(&m, func(c Challenge) {
			if len(c.Nonce) == 0 || !bytes.Contains(m.Buf, c.Nonce) || !bytes.Contains(m.Buf, c.Opaque) || m.Status != 401 && m.Status != 407 {
				t.Fatalf("%q of a %d", c.Nonce, m.Status)
			}
		})
		if IsStale(&m) && !bytes.Contains(bytes.ToLower(m.Buf), []byte("stale")) {
			t.Fatal("stale by itself")
		}
	})
}

func BenchmarkReadCredentials(b *testing.B) {
	m := authRequest(b, "User-Agent: phone", digestLine)
	b.ReportAllocs()
	for b.Loop() {
		if _, has, ok := ReadCredentials(m); !has || !ok {
			b.Fatal("none")
		}
	}
}

func BenchmarkAppendUser(b *testing.B) {
	m := authRequest(b, digestLine)
	c, _, _ := ReadCredentials(m)
	var user []byte
	b.ReportAllocs()
	for b.Loop() {
		user = AppendUser(user[:0], m, c)
	}
}

func BenchmarkChallenged(b *testing.B) {
	m := authAnswer(b, 401, `WWW-Authenticate: Digest realm="pbx.example.org", nonce="1763780000/0f3c0f2fd6f1", opaque="5ccc069c403ebaf9", stale=false, algorithm=MD5, qop="auth"`)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		Challenged(m, func(Challenge) { n++ })
	}
}
