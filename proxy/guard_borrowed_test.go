package proxy

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
)

// borrows sends a REGISTER with a nonce that was given to somebody else, under a domain of
// its own. It returns what comes back when the PBX, if it is asked, refuses; isAsked says
// whether it was.
func (u *user) borrows(nonce, header string) (m *wire.Msg, isAsked bool) {
	u.lab.Helper()
	u.domain = fmt.Sprintf("d%d.example.org", u.cseq)
	method := map[string]string{"Authorization": "REGISTER", "Proxy-Authorization": "INVITE"}[header]
	u.sends(u.request(method, nonce))
	pbx := u.lab.pbx[0]
	var first *wire.Msg
	if method == "INVITE" {
		first = u.gets() // 100, or the refusal
	}
	if req := pbx.gets(); req != nil {
		isAsked = true
		pbx.answers(req, 407, "t", challenge("Proxy-Authenticate", fmt.Sprint("nobody's", u.cseq), ""))
		if method == "INVITE" {
			pbx.gets() // ACK
		}
		first = u.gets()
	} else if first == nil {
		first = u.gets()
	}
	return first, isAsked
}

var challengeOf = regexp.MustCompile(`Digest realm="pbx",nonce="(\w+)",stale=true,algorithm=MD5\r\n`)

// Who has his nonces fetched from another address and takes another domain each time gets
// no more guesses than others: he has to prove where he is, and is banned then.
func TestGuessesWithBorrowedNonces(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		a := l.newPeerAt("A", "127.0.0.11:0").user("x")
		a.challenged("REGISTER")
		b := l.phone.user("1000")
		asked := 0
		var m *wire.Msg
		for range 100 {
			var isAsked bool
			if m, isAsked = b.borrows(a.nonce, "Authorization"); isAsked {
				asked++
			}
			pass(time.Second / 10)
		}
		if asked != 20 {
			t.Errorf("the PBX looked at %d of 100 guesses", asked)
		}
		c := challengeOf.FindSubmatch(m.Buf)
		if title(m) != "401 REGISTER" || c == nil {
			t.Fatalf("%s", m.Buf)
		}
		if x := l.e.SecurityStats(); x.Dropped["borrowed_nonce"] != 80 {
			t.Errorf("%+v", x.Dropped)
		}
		if len(l.e.Bans(BanFilter{})) != 0 {
			t.Errorf("%+v", l.e.Bans(BanFilter{}))
		}
		asked = 0
		for range 30 { // with ours
			if _, isAsked := b.borrows(string(c[1]), "Authorization"); isAsked {
				asked++
			}
		}
		if bans := l.e.Bans(BanFilter{Kind: "ip"}); len(bans) != 1 || bans[0].Rule != "enumeration" || asked != 5 {
			t.Errorf("%d asked, %+v", asked, bans)
		}
	})
}

// Asterisk gives everybody who asks in one second the same nonce. What tells its challenges apart is their opaque: who
// guesses the passwords of many while others register is known by it, and who leaves it out has to prove where he is.
func TestGuessesWithASharedNonce(t *testing.T) {
	for _, c := range []struct {
		name      string
		givesBack bool
		asked     int
		banned    int
	}{
		{"as telephones do", true, 5, 1},
		{"without opaque", false, 20, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			underGuard(t, 1, nil, func(t *testing.T, l *lab) {
				other, evil := l.newPeerAt("A", "127.0.0.11:0").user("alice"), l.phone.user("x")
				asked := 0
				for n := range 40 {
					second := fmt.Sprint("second", n/4)
					asterisk := func(u *user, opaque string) {
						u.asks("REGISTER", false, 401, challenge("WWW-Authenticate", second, fmt.Sprintf(",opaque=\"%s%d\"", opaque, n)))
					}
					asterisk(other, "a")
					evil.name, evil.as = fmt.Sprint("user", n), fmt.Sprint("user", n)
					if len(l.e.Bans(BanFilter{Kind: "ip"})) > 0 {
						break
					}
					asterisk(evil, "e")
					nonce := second
					if c.givesBack {
						nonce += fmt.Sprintf("\",opaque=\"e%d", n)
					}
					if _, isAsked := evil.borrows(nonce, "Authorization"); isAsked {
						asked++
					}
					pass(time.Second / 4)
				}
				if bans := l.e.Bans(BanFilter{Kind: "ip"}); asked != c.asked || len(bans) != c.banned {
					t.Errorf("%d guesses, %+v", asked, bans)
				}
				l.phone.skip()
				l.pbx[0].skip()
				pass(time.Minute)
			})
		})
	}
}

// A telephone whose address others forge is challenged once more at most, and never when
// it has its nonce by us, or is known; whoever comes over a stream cannot be forged.
func TestForgedFailuresLockNobodyOut(t *testing.T) {
	for _, c := range []struct {
		name    string
		header  string
		prepare func(u *user)
		own     bool // the nonce is its own
		known   bool
	}{
		{"a nonce of its own", "Authorization", nil, true, false},
		{"a nonce of its own, for another method", "Proxy-Authorization", nil, true, false},
		{"a known source", "Authorization", func(u *user) { u.registers(200) }, false, true},
		{"a nonce from another edge", "Authorization", nil, false, false},
		{"a nonce from another edge, for a proxy", "Proxy-Authorization", nil, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			underGuard(t, 1, nil, func(t *testing.T, l *lab) {
				u := l.phone.user("1000")
				if c.prepare != nil {
					c.prepare(u)
				}
				domain := u.domain
				evil := l.phone.user("evil")
				for range 30 {
					evil.borrows("fetched", c.header)
				}
				l.phone.skip()
				l.pbx[0].skip()
				method, status := "REGISTER", "401"
				if c.header == "Proxy-Authorization" {
					method, status = "INVITE", "407"
				}
				if u.domain = domain; c.own {
					u.challenged("REGISTER")
				} else {
					u.nonce = "elsewhere"
				}
				if !c.own && !c.known {
					u.sends(u.request(method, u.nonce))
					m := u.get(status + " " + method)
					l.pbx[0].nothing()
					found := challengeOf.FindSubmatch(m.Buf)
					if found == nil {
						t.Fatalf("%s", m.Buf)
					}
					u.nonce = string(found[1])
				}
				u.asks(method, true, 200)
				pass(time.Minute)
				if len(l.e.Bans(BanFilter{Kind: "ip"})) != 0 {
					t.Errorf("%+v", l.e.Bans(BanFilter{}))
				}
			})
		})
	}
}

// The doubt ends by itself, and with what an operator says.
func TestDoubtEnds(t *testing.T) {
	for name, end := range map[string]func(*lab){
		"by itself": func(*lab) { pass(time.Minute) },
		"by word":   func(l *lab) { _, _, _ = l.e.RemoveBan("127.0.0.9") },
		"flush":     func(l *lab) { l.e.FlushBans() },
	} {
		t.Run(name, func(t *testing.T) {
			underGuard(t, 1, nil, func(t *testing.T, l *lab) {
				b := l.phone.user("1000")
				for range 20 {
					b.borrows("fetched", "Authorization")
				}
				if _, isAsked := b.borrows("fetched", "Authorization"); isAsked {
					t.Error("no doubt")
				}
				end(l)
				for range 20 {
					if _, isAsked := b.borrows("fetched", "Authorization"); !isAsked {
						t.Error("in doubt")
					}
				}
				if x, err := l.e.Explain("127.0.0.9"); err != nil || x.Rules[6].Rule != "borrowed_nonce" || x.Rules[6].Count != 20 || x.Rules[6].Limit != 20 {
					t.Errorf("%+v, %v", x.Rules, err)
				}
			})
		})
	}
}

// inDoubt is a user whose source has sent as many guesses with borrowed nonces as there may be.
func (l *lab) inDoubt() *user {
	u := l.phone.user("1000")
	domain := u.domain
	for range 20 {
		u.borrows("fetched", "Authorization")
	}
	u.domain = domain
	return u
}

// Who has credentials for a registrar and for a proxy is asked for those in doubt by the
// header that they are for: the others are held already, and to answer again does not help.
func TestBorrowedNonceAmongSeveral(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		u := l.inDoubt()
		u.challenged("REGISTER")
		const digest = `Digest username="1000",realm="far",nonce="elsewhere",uri="sip:a",response="0123456789abcdef0123456789abcdef"`
		text := u.request("REGISTER", u.nonce)
		u.sends(strings.Replace(text, "Content-Length", "Proxy-Authorization: "+digest+"\nContent-Length", 1))
		m := u.get("407 REGISTER")
		l.pbx[0].nothing()
		if i := m.First(wire.KindProxyAuthenticate); i < 0 || m.First(wire.KindWWWAuthenticate) >= 0 || !strings.Contains(string(m.Bytes(m.Headers[i].Value)), `realm="far"`) {
			t.Errorf("%s", m.Buf)
		}
	})
}

// Nobody is talked down to a weaker algorithm than the one that he came with.
func TestDoubtKeepsTheAlgorithm(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		u := l.inDoubt()
		for said, want := range map[string]string{
			``: "MD5", `algorithm=MD5,`: "MD5", `algorithm=SHA-256,`: "SHA-256", `Algorithm="sha-512-256",`: "SHA-512-256",
			`algorithm=x,`: "MD5", `algorithm="a,b",`: "MD5", `algorithm=MD5,algorithm=SHA-256,`: "MD5",
		} {
			u.sends(strings.Replace(u.request("REGISTER", "elsewhere"), "response=", said+"response=", 1))
			if m := u.get("401 REGISTER"); !strings.Contains(string(m.Buf), ",algorithm="+want+"\r\n") {
				t.Errorf("%s: %s", said, m.Buf)
			}
		}
	})
}
