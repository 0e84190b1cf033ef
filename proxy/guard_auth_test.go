package proxy

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

func contextOf(l *lab) (context.Context, context.CancelFunc) {
	return context.WithCancel(l.Context())
}

// same compares two values field by field, so that a difference can be read.
func same(t *testing.T, got, want any) {
	t.Helper()
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		if a, b := fmt.Sprintf("%+v", g.Field(i).Interface()), fmt.Sprintf("%+v", w.Field(i).Interface()); a != b {
			t.Errorf("%s:\n%s\nwant\n%s", g.Type().Field(i).Name, a, b)
		}
	}
}

// A user is a phone that proves who it is, or tries to.
type user struct {
	*peer
	name   string // of the credentials
	as     string // user of From and To
	domain string
	cseq   int
	id     string
	nonce  string // of the last challenge
	last   string // request
}

func (p *peer) user(name string) *user {
	callNumber++
	return &user{peer: p, name: name, as: name, domain: "pbx.example.org", id: fmt.Sprintf("user-%d", callNumber)}
}

// request writes a request, with credentials when there is a nonce.
func (u *user) request(method, nonce string) string {
	u.cseq++
	target, to := "sip:"+u.domain, u.as
	if method != "REGISTER" {
		target, to = "sip:2000@"+u.domain, "2000"
	}
	more := ""
	if nonce != "" {
		header := "Authorization"
		if method != "REGISTER" {
			header = "Proxy-Authorization"
		}
		more = fmt.Sprintf("%s: Digest username=\"%s\",realm=\"pbx\",nonce=\"%s\",uri=\"%s\",response=\"0123456789abcdef0123456789abcdef\"\n", header, u.name, nonce, target)
	}
	u.last = fmt.Sprintf("%s %s SIP/2.0\nVia: SIP/2.0/UDP %s;rport;branch=z9hG4bK-%s-%d\nMax-Forwards: 70\nFrom: <sip:%s@%s>;tag=%s\nTo: <sip:%s@%s>\nCall-ID: %s\nCSeq: %d %s\nContact: <sip:%s@%s>\nUser-Agent: evil\n%sContent-Length: 0\n\n",
		method, target, u.addr, u.id, u.cseq, u.as, u.domain, u.id, to, u.domain, u.id, u.cseq, method, u.as, u.addr, more)
	return u.last
}

// asks sends a request, with credentials or without, and has the PBX give an answer.
// It returns that answer as it arrived.
func (u *user) asks(method string, withCredentials bool, status int, lines ...string) *wire.Msg {
	u.lab.Helper()
	nonce := ""
	if withCredentials {
		nonce = u.nonce
	}
	u.sends(u.request(method, nonce))
	if method == "INVITE" {
		u.get("100 INVITE")
	}
	pbx := u.lab.pbx[0]
	req := pbx.get(method)
	pbx.answers(req, status, "t", lines...)
	if method == "INVITE" && status >= 300 {
		pbx.get("ACK")
	}
	return u.get(fmt.Sprint(status, " ", method))
}

var nonces int

// challenged has a request without credentials be answered by 401 or 407 with a nonce.
func (u *user) challenged(method string) {
	u.lab.Helper()
	nonces++
	u.nonce = fmt.Sprintf("nonce%d", nonces)
	status, header := 401, "WWW-Authenticate"
	if method != "REGISTER" {
		status, header = 407, "Proxy-Authenticate"
	}
	u.asks(method, false, status, challenge(header, u.nonce, ""))
}

func challenge(header, nonce, more string) string {
	return fmt.Sprintf("%s: Digest realm=\"pbx\",nonce=\"%s\"%s\r\n", header, nonce, more)
}

// registers is a REGISTER with a challenge before it, which the PBX answers so.
func (u *user) registers(status int) {
	u.lab.Helper()
	u.challenged("REGISTER")
	u.tries(status)
}

// tries sends a REGISTER with the nonce that it has; a 401 brings a new one.
func (u *user) tries(status int) {
	u.lab.Helper()
	if status == 401 {
		nonces++
		next := fmt.Sprintf("nonce%d", nonces)
		u.asks("REGISTER", true, status, challenge("WWW-Authenticate", next, ""))
		u.nonce = next
		return
	}
	u.asks("REGISTER", true, status)
}

// refused checks that a request of this user is refused, and that no backend sees it.
func (u *user) refused(method string, withCredentials bool) {
	u.lab.Helper()
	nonce := ""
	if withCredentials {
		nonce = u.nonce
	}
	u.sends(u.request(method, nonce))
	m := u.get("403 " + method)
	if got := string(m.Bytes(m.ReasonPhrase)); got != "Try again later" {
		u.lab.Errorf("403 %s", got)
	}
	u.lab.pbx[0].nothing()
}

const failedLine = "WARNING: sipward: Consecutive Authentication Failure for '%s' UA='evil' IP='127.0.0.9' - R=<null> ID=%s"

// The sequence of an NGCP: a REGISTER without credentials, three with a wrong password,
// and then the edge says no for an hour.
func TestThreeWrongPasswordsBanTheUser(t *testing.T) {
	for _, code := range []int{401, 403} { // 403: FreeSWITCH
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			underGuard(t, 1, nil, func(t *testing.T, l *lab) {
				u := l.phone.user("1000")
				u.domain = "PBX.Example.org"
				start := l.e.wheel.Now()
				u.challenged("REGISTER")
				for range 3 {
					l.alarms()
					pass(time.Second)
					u.tries(code)
				}
				at := l.e.wheel.Now()
				l.alarms(fmt.Sprintf(failedLine, "1000@pbx.example.org", u.id))
				u.refused("REGISTER", true)
				u.refused("REGISTER", false)
				u.refused("INVITE", false)
				u.refused("INVITE", true)
				elsewhere := l.newPeerAt("X", "127.0.0.10:0").user("1000")
				elsewhere.domain = u.domain
				elsewhere.refused("REGISTER", false)
				other := l.phone.user("1001") // of the same address
				other.registers(200)
				want := BanInfo{
					Key: "1000@pbx.example.org", Rule: "failed_auth", Since: l.e.wallTime(at), Until: l.e.wallTime(at + time.Hour), Proven: true,
					Count: 3, Limit: 3, First: l.e.wallTime(start + time.Second), Last: l.e.wallTime(at), By: "edge",
					Drops: 5, LastDrop: l.e.wallTime(at),
				}
				for i := range 3 {
					want.Evidence = append(want.Evidence, EvidenceInfo{
						At: l.e.wallTime(start + time.Duration(i+1)*time.Second), Method: "REGISTER", CallID: u.id, Status: code,
					})
				}
				got := l.e.Bans(BanFilter{})
				if len(got) != 1 {
					t.Fatalf("%+v", got)
				}
				same(t, got[0], want)
				l.pbx[0].skip()
				pass(at + time.Hour - 1 - l.e.wheel.Now())
				u.refused("REGISTER", false)
				pass(1)
				u.registers(200)
				for range 2 {
					u.tries(code)
				}
				l.alarms()
				if got := l.e.Bans(BanFilter{}); len(got) != 0 {
					t.Errorf("%+v", got)
				}
			})
		})
	}
}

// What is no wrong password, however often it comes: between two of them, each of
// these leaves the count at 2.
func TestWhatIsNoWrongPassword(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(u *user)
	}{
		{"a first challenge", func(u *user) { u.challenged("REGISTER") }},
		{"a stale nonce", func(u *user) {
			u.asks("REGISTER", true, 401, challenge("WWW-Authenticate", "n2", ",stale=true"))
			u.asks("REGISTER", true, 401, challenge("www-authenticate", "n2", ", STALE = \"TRUE\""))
		}},
		{"a timeout", func(u *user) { u.asks("REGISTER", true, 408) }},
		{"an error", func(u *user) { u.asks("REGISTER", true, 500) }},
		{"overload", func(u *user) {
			u.sends(u.request("REGISTER", u.nonce))
			u.lab.pbx[0].answers(u.lab.pbx[0].get("REGISTER"), 503, "t")
			u.get("500 REGISTER")
		}},
		{"another refusal", func(u *user) { u.asks("REGISTER", true, 423) }},
		{"a forbidden call", func(u *user) { u.challenged("INVITE"); u.asks("INVITE", true, 403) }},
		{"silence", func(u *user) {
			u.sends(u.request("REGISTER", u.nonce))
			u.lab.pbx[0].get("REGISTER")
			pass(33 * time.Second)
			u.lab.pbx[0].skip()
			u.get("408 REGISTER")
		}},
		{"OPTIONS", func(u *user) { u.asks("OPTIONS", true, 200) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			underGuard(t, 1, nil, func(t *testing.T, l *lab) {
				u := l.phone.user("1000")
				u.challenged("REGISTER")
				u.tries(401)
				u.tries(401)
				for range 4 {
					c.do(u)
				}
				l.alarms()
				if x, err := l.e.Explain("1000@pbx.example.org"); err != nil || x.Rules[0].Count != 2 {
					t.Errorf("%+v, %v", x, err)
				}
				u.tries(401)
				l.alarms(fmt.Sprintf(failedLine, "1000@pbx.example.org", u.id))
				u.refused("REGISTER", true)
			})
		})
	}
}

// A password that was right in between begins the count anew.
func TestRightPasswordForgetsWrongOnes(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(u *user)
	}{
		{"REGISTER", func(u *user) { u.registers(200) }},
		{"a call", func(u *user) { u.challenged("INVITE"); u.asks("INVITE", true, 200) }},
		{"a busy callee", func(u *user) { u.challenged("INVITE"); u.asks("INVITE", true, 486) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			underGuard(t, 1, nil, func(t *testing.T, l *lab) {
				u := l.phone.user("1000")
				u.challenged("REGISTER")
				for range 3 {
					u.tries(401)
					u.tries(401)
					c.do(u)
				}
				l.alarms()
				if n := len(l.e.Bans(BanFilter{})); n != 0 {
					t.Errorf("%d bans", n)
				}
			})
		})
	}
}

// A PBX that was started anew knows none of its nonces, and not all say so (stale=true).
// The phones of an office all come with credentials that were right.
func TestForgottenNoncesAreNoGuesses(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		var office []*user
		for i := range 60 {
			u := l.phone.user(fmt.Sprint(1000 + i))
			u.registers(200)
			office = append(office, u)
		}
		for range 3 {
			pass(10 * time.Second)
			for _, u := range office {
				u.tries(401)
			}
			for _, u := range office {
				u.tries(200)
			}
		}
		l.alarms()
		guess := l.phone.user("1000") // who never had it answered is not spared
		guess.nonce = office[1].nonce
		for range 3 {
			guess.asks("REGISTER", true, 401)
		}
		l.alarms(fmt.Sprintf(failedLine, "1000@pbx.example.org", guess.id))
	})
}

// One transaction is one attempt: its copies and those of its answer are not counted.
func TestRetransmissionIsOneAttempt(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		u := l.phone.user("1000")
		u.challenged("REGISTER")
		for range 2 {
			text := u.request("REGISTER", u.nonce)
			u.sends(text)
			u.sends(text)
			m := l.pbx[0].get("REGISTER")
			for range 5 {
				l.pbx[0].answers(m, 401, "t", challenge("WWW-Authenticate", "x", ""))
			}
			u.sends(text)
			u.skip()
		}
		l.alarms()
		u.tries(401)
		l.alarms(fmt.Sprintf(failedLine, "1000@pbx.example.org", u.id))
	})
}

// What a carrier says to a request of the PBX says nothing of who may call us.
func TestChallengesOfCarriersAreNotCounted(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		for range 30 {
			u := l.pbx[0].user("trunk")
			text := strings.Replace(u.request("REGISTER", "n"), "REGISTER sip:pbx.example.org ", "REGISTER sip:"+l.phone.addr.String()+" ", 1)
			u.sends(text)
			m := l.phone.get("REGISTER")
			l.phone.answers(m, 401, "t", challenge("WWW-Authenticate", "n", ""))
			l.pbx[0].get("401 REGISTER")
		}
		l.alarms()
		if n := len(l.e.Bans(BanFilter{})); n != 0 {
			t.Errorf("%d bans", n)
		}
	})
}

// failed_auth_ban_key, failed_auth_ban_reply and auth_failure_codes.
func TestKeysOfFailedAuthentication(t *testing.T) {
	fail := func(l *lab, p *peer) *user {
		u := p.user("1000")
		u.challenged("REGISTER")
		for range 3 {
			u.tries(401)
		}
		return u
	}
	t.Run("user_source", func(t *testing.T) {
		underGuard(t, 1, func(c *config.Config) { c.Security.FailedAuthBanKey = "user_source" }, func(t *testing.T, l *lab) {
			u := fail(l, l.phone)
			l.alarms(fmt.Sprintf(failedLine, "1000@pbx.example.org", u.id))
			u.refused("REGISTER", true)
			l.newPeerAt("X", "127.0.0.10:0").user("1000").registers(200)
			u.refused("REGISTER", true)
			if b := l.e.Bans(BanFilter{}); len(b) != 1 || b[0].Key != "1000@pbx.example.org/127.0.0.9" {
				t.Errorf("%+v", b)
			}
		})
	})
	t.Run("source", func(t *testing.T) {
		underGuard(t, 1, func(c *config.Config) { c.Security.FailedAuthBanKey = "source" }, func(t *testing.T, l *lab) {
			x := l.newPeerAt("X", "127.0.0.10:0").user("1000") // which never asks for a challenge: anybody may be it
			x.nonce = "guessed"
			for range 20 { // from then on it is to answer a nonce of its own
				x.asks("REGISTER", true, 401)
			}
			l.alarms()
			u := fail(l, l.phone)
			l.alarms("WARNING: sipward: IP '127.0.0.9' is blocked and banned - R=<null> ID=" + u.id)
			l.stops(l.phone, 1)
			x.registers(200)
			if b := l.e.Bans(BanFilter{}); len(b) != 1 || b[0].Key != "127.0.0.9" || b[0].Rule != "failed_auth" || b[0].Hard || !b[0].Proven {
				t.Errorf("%+v", b)
			}
		})
	})
	t.Run("drop", func(t *testing.T) {
		underGuard(t, 1, func(c *config.Config) { c.Security.FailedAuthBanReply = "drop" }, func(t *testing.T, l *lab) {
			u := fail(l, l.phone)
			u.sends(u.request("REGISTER", ""))
			u.nothing()
			l.pbx[0].nothing()
		})
	})
	t.Run("codes of a pool", func(t *testing.T) {
		only := func(c *config.Config) {
			p := c.Pools["pbx"]
			p.AuthFailureCodes = []int{401}
			c.Pools["pbx"] = p
		}
		underGuard(t, 1, only, func(t *testing.T, l *lab) {
			u := l.phone.user("1000")
			u.challenged("REGISTER")
			for range 5 {
				u.tries(403)
			}
			l.alarms()
		})
	})
	t.Run("a trusted source", func(t *testing.T) {
		trust := func(c *config.Config) {
			c.Security.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}
		}
		underGuard(t, 1, trust, func(t *testing.T, l *lab) {
			u := fail(l, l.phone)
			for range 30 {
				u.tries(401)
			}
			l.alarms()
		})
	})
}

// A source is banned for twenty wrong passwords or five wrong users inside a minute,
// when it answered challenges that it got; the 20th and the 5th are exact.
func TestSourcesOfWrongPasswords(t *testing.T) {
	t.Run("passwords", func(t *testing.T) {
		underGuard(t, 1, func(c *config.Config) { c.Security.FailedAuthAttempts = 1000 }, func(t *testing.T, l *lab) {
			u := l.phone.user("1000")
			u.challenged("REGISTER")
			u.tries(401)
			pass(time.Minute) // it leaves the window
			for range 19 {
				u.tries(401)
				pass(time.Second)
			}
			l.alarms()
			u.tries(401)
			l.alarms("WARNING: sipward: IP '127.0.0.9' is blocked and banned - R=<null> ID=" + u.id)
			l.stops(l.phone, 1)
			b := l.e.Bans(BanFilter{})
			if len(b) != 1 || b[0].Rule != "failed_auth_source" || b[0].Count != 20 || b[0].Limit != 20 || b[0].Window != 60 || b[0].Hard || !b[0].Proven ||
				len(b[0].Evidence) != 8 || b[0].Until.Sub(b[0].Since) != time.Hour {
				t.Errorf("%+v", b)
			}
		})
	})
	t.Run("users", func(t *testing.T) {
		underGuard(t, 1, nil, func(t *testing.T, l *lab) {
			for i := range 4 {
				l.phone.user(fmt.Sprint("10", i)).registers(401)
			}
			l.phone.user("100").registers(401) // again: no fifth
			l.alarms()
			u := l.phone.user("104")
			u.registers(403)
			l.alarms("WARNING: sipward: IP '127.0.0.9' is blocked and banned - R=<null> ID=" + u.id)
			l.stops(l.phone, 1)
			if b := l.e.Bans(BanFilter{}); len(b) != 1 || b[0].Rule != "enumeration" || b[0].Count != 5 || b[0].Limit != 5 || b[0].Window != 60 {
				t.Errorf("%+v", b)
			}
		})
	})
	t.Run("forged", func(t *testing.T) {
		underGuard(t, 1, nil, func(t *testing.T, l *lab) {
			l.phone.user("1").challenged("REGISTER")
			x := l.newPeerAt("X", "127.0.0.10:0") // in whose name somebody sends, with a nonce that he got himself
			for i := range 40 {
				u := x.user(fmt.Sprint("20", i))
				u.nonce = fmt.Sprint("nonce", nonces)
				if i < 20 {
					u.asks("REGISTER", true, 401)
				} else { // it is to answer a nonce of its own
					u.sends(u.request("REGISTER", u.nonce))
					u.get("401 REGISTER")
					l.pbx[0].nothing()
				}
				pass(100 * time.Millisecond)
			}
			l.alarms()
			l.passes(x, 1)
		})
	})
}

// Who made others believe that a user fails cannot lock him out where he proved that he
// knows the password.
func TestVictimIsNotLockedOut(t *testing.T) {
	for _, c := range []struct {
		name  string
		prove func(u *user)
		alias string // other than the user of the credentials
	}{
		{"registered", func(u *user) { u.registers(200) }, ""},
		{"called", func(u *user) { u.challenged("INVITE"); u.asks("INVITE", true, 200) }, ""},
		{"registered under another name", func(u *user) { u.registers(200) }, "1000"},
		{"called under another name", func(u *user) { u.challenged("INVITE"); u.asks("INVITE", true, 200) }, "1000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			underGuard(t, 1, nil, func(t *testing.T, l *lab) {
				victim := l.newPeerAt("V", "127.0.0.20:0").user("1000")
				if c.alias != "" {
					victim.name, victim.as = "auth-"+c.alias, c.alias
				}
				c.prove(victim)
				pass(50 * time.Minute)
				u := l.phone.user("1000")
				u.challenged("REGISTER")
				for range 3 {
					u.tries(401)
				}
				l.alarms(fmt.Sprintf(failedLine, "1000@pbx.example.org", u.id))
				u.refused("REGISTER", true)
				u.refused("INVITE", false)
				for range 4 {
					victim.skip() // copies of answers to calls, that it did not acknowledge
					victim.registers(200)
					victim.challenged("INVITE")
					victim.asks("INVITE", true, 200)
					victim.asks("SUBSCRIBE", false, 200)
					u.refused("REGISTER", true)
					pass(15 * time.Minute)
				}
				u.registers(401) // an hour is over at last
			})
		})
	}
	// The other name that somebody may use does not let him guess its password.
	t.Run("no way around", func(t *testing.T) {
		underGuard(t, 1, nil, func(t *testing.T, l *lab) {
			insider := l.phone.user("evil")
			insider.as = "1000"
			insider.registers(200)
			u := l.phone.user("1000")
			for range 3 {
				u.registers(401)
			}
			u.refused("REGISTER", true)
			u.refused("INVITE", true)
		})
	})
}

// phoneFails has the address of the phone be banned for wrong passwords: by the rule of
// sources, so that user 1000 is not.
func (l *lab) phoneFails() *user {
	l.Helper()
	for i := range 50 { // 5 of who has no call
		l.phone.user(fmt.Sprint("20", i)).registers(401)
		pass(100 * time.Millisecond)
		if b, ok := l.e.Ban("127.0.0.9"); ok {
			if b.Rule != "enumeration" || b.Hard {
				l.Errorf("%+v", b)
			}
			l.clearLog()
			return l.phone.user("1000")
		}
	}
	l.Fatal("it is not banned")
	return nil
}

// A call goes on and ends properly though its address was just banned for wrong
// passwords; nothing else of that address passes. When it is over, nothing does.
func TestRunningCallOutlivesTheBanOfItsAddress(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		l.settles()
		c := l.talks("", "")
		u := l.phoneFails()
		pass(10 * time.Minute) // whatever settles has settled
		l.skipAll()
		l.stops(l.phone, 1)
		for _, method := range []string{"REGISTER", "INVITE", "SUBSCRIBE", "MESSAGE"} {
			u.sends(u.request(method, ""))
			u.nothing()
			l.pbx[0].nothing()
		}
		forged := c.text(sideA, "BYE", 9, "", "", "sip:bob@"+l.pbx[0].addr.String(), routeOf(c.ok), "other") // of no dialog
		l.phone.sends(forged)
		l.phone.nothing()
		l.pbx[0].nothing()
		c.asks(sideA, "INFO", "", "", 200, "")
		c.asks(sideB, "INFO", "", "", 200, "")
		c.next(sideA, "INVITE", "", sdpA)
		l.phone.get("100 INVITE")
		again := l.pbx[0].get("INVITE")
		l.pbx[0].sends(c.reply(again, 200, "Contact: <sip:bob@"+l.pbx[0].addr.String()+">\n", sdpB))
		l.phone.get("200 INVITE")
		c.acks()
		c.asks(sideA, "BYE", "", "", 200, "")
		if b, ok := l.e.Ban("127.0.0.9"); !ok || b.Hard {
			t.Errorf("%+v", b)
		}
		pass(2 * time.Second)
		if b, ok := l.e.Ban("127.0.0.9"); !ok || !b.Hard {
			t.Errorf("%+v", b)
		}
		l.stops(l.phone, 2)
		c.gone()
	})
}

func (l *lab) skipAll() {
	l.phone.skip()
	for _, p := range l.pbx {
		p.skip()
	}
}

// What was begun before the ban can be ended: a call that rings is cancelled or
// answered and acknowledged, minutes later.
func TestRingingCallOutlivesTheBanOfItsAddress(t *testing.T) {
	ring := func(t *testing.T, f func(l *lab, c *talk)) {
		underGuard(t, 1, nil, func(t *testing.T, l *lab) {
			l.settles()
			c := l.rings("")
			l.pbx[0].sends(c.reply(c.invite, 180, "", ""))
			l.phone.get("180 INVITE")
			l.phoneFails()
			pass(2 * time.Minute)
			l.skipAll()
			f(l, c)
			l.stops(l.phone, 1)
			pass(4 * time.Minute)
			if b, ok := l.e.Ban("127.0.0.9"); !ok || !b.Hard {
				t.Errorf("%+v", b)
			}
			l.stops(l.phone, 2)
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		ring(t, func(l *lab, c *talk) {
			l.phone.sends(strings.NewReplacer("INVITE sip", "CANCEL sip", "1 INVITE", "1 CANCEL").Replace(headOf(c.first)))
			l.phone.get("200 CANCEL")
			l.pbx[0].get("CANCEL")
			l.pbx[0].sends(c.reply(c.invite, 487, "", ""))
			l.pbx[0].get("ACK")
			l.phone.get("487 INVITE")
			l.phone.sends(strings.NewReplacer("INVITE sip", "ACK sip", "1 INVITE", "1 ACK").Replace(headOf(c.first)))
			pass(40 * time.Second)
			l.phone.nothing() // it was acknowledged
		})
	})
	t.Run("answered", func(t *testing.T) {
		ring(t, func(l *lab, c *talk) {
			c.answers("")
			c.acks()
			c.asks(sideA, "BYE", "", "", 200, "")
		})
	})
	t.Run("called", func(t *testing.T) {
		underGuard(t, 1, nil, func(t *testing.T, l *lab) {
			l.settles()
			c := l.pbx[0].call()
			c.uri = "sip:alice@" + l.phone.addr.String()
			c.sends("INVITE")
			l.pbx[0].get("100 INVITE")
			inv := l.phone.get("INVITE")
			l.phone.answers(inv, 180, "b")
			l.pbx[0].get("180 INVITE")
			l.phoneFails()
			pass(2 * time.Minute)
			l.phone.answers(inv, 200, "b", "Contact: <sip:alice@"+l.phone.addr.String()+">\r\n")
			l.pbx[0].get("200 INVITE")
		})
	})
}

// headOf is a request without its body.
func headOf(text string) string {
	head, _, _ := strings.Cut(text, "\r\n\r\n")
	return regexp.MustCompile(`Content-(Type|Length): .*\r\n`).ReplaceAllString(head+"\r\n", "") + "Content-Length: 0\r\n\r\n"
}

// A source whose calls go on gets no more messages for it than anybody who is known.
func TestBannedSourceWithACallCannotFlood(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		l.talks("", "")
		l.phoneFails()
		pass(10 * time.Second)
		for i := range 500 {
			l.phone.sends(l.options(l.phone, i))
		}
		if b, _ := l.e.Ban("127.0.0.9"); b.Hard {
			t.Errorf("%+v", b)
		}
		l.phone.sends(l.options(l.phone, 501))
		if b, _ := l.e.Ban("127.0.0.9"); !b.Hard {
			t.Errorf("%+v", b)
		}
		l.alarms() // it is banned already
	})
}

// A user's ban stops new requests of his alone: his call goes on, ends and can be cancelled.
func TestRunningCallOutlivesTheBanOfItsUser(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		c := l.talks("", "") // of alice@example.org
		ring := l.phone.call()
		ring.more = "Require: x\n" // another call of the same user
		ring.sends("INVITE")
		l.phone.get("100 INVITE")
		inv := l.pbx[0].get("INVITE")
		l.pbx[0].answers(inv, 180, "b")
		l.phone.get("180 INVITE")
		u := l.newPeerAt("X", "127.0.0.10:0").user("alice")
		u.domain = "example.org"
		u.challenged("REGISTER")
		for range 3 {
			u.tries(401)
		}
		u.refused("REGISTER", false)
		again := l.phone.user("alice")
		again.domain = "example.org"
		again.refused("INVITE", false)
		c.asks(sideA, "INFO", "", "", 200, "")
		c.asks(sideA, "UPDATE", "", "", 200, "")
		c.asks(sideB, "INFO", "", "", 200, "")
		ring.sends("CANCEL")
		l.phone.get("200 CANCEL")
		l.pbx[0].get("CANCEL")
		l.pbx[0].answers(inv, 487, "b")
		l.pbx[0].get("ACK")
		l.phone.get("487 INVITE")
		ring.sends("ACK")
		c.next(sideA, "INVITE", "", sdpA)
		l.phone.get("100 INVITE")
		re := l.pbx[0].get("INVITE")
		l.pbx[0].sends(c.reply(re, 200, "Contact: <sip:bob@"+l.pbx[0].addr.String()+">\n", sdpB))
		l.phone.get("200 INVITE")
		c.acks()
		c.asks(sideA, "BYE", "", "", 200, "")
	})
}
