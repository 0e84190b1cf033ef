package proxy

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/security"
)

// guesses sends a request with credentials that the PBX refuses, as it was written by
// change.
func (u *user) guesses(method string, change func(text string) string) {
	u.lab.Helper()
	u.sends(change(u.request(method, u.nonce)))
	m := u.lab.pbx[0].getsWithin(100)
	if m == nil {
		u.lab.Fatalf("the PBX does not see %s", method)
	}
	u.lab.pbx[0].answers(m, 401, "t", challenge("WWW-Authenticate", u.nonce, ""))
	u.skip()
}

// Credentials that no backend looks at, or that not everybody can read, do not hide
// those that are guessed.
func TestDecoysDoNotHideGuesses(t *testing.T) {
	decoys := 0
	behind := func(header, before string) func(string) string {
		return func(text string) string {
			decoys++
			decoy := fmt.Sprintf("%s: Digest username=\"u%d\",realm=\"decoy\",nonce=\"x%d\",response=\"0\"\n", before, decoys, decoys)
			return strings.Replace(text, header+":", decoy+header+":", 1)
		}
	}
	for _, c := range []struct {
		name   string
		change func(string) string
		config func(*config.Config)
	}{
		{"a realm of its own", behind("Authorization", "Authorization"), nil},
		{"for a proxy", behind("Authorization", "Proxy-Authorization"), nil},
		{"with a nonce of its own", func(text string) string {
			decoys++
			line := text[strings.Index(text, "Authorization:"):]
			line, _, _ = strings.Cut(line, "\n")
			decoy := strings.NewReplacer("\"1000\"", fmt.Sprintf("\"u%d\"", decoys), "\"pbx\"", "\"decoy\"").Replace(line)
			return strings.Replace(text, line, decoy+"\n"+line, 1)
		}, nil},
		{"no response", func(s string) string {
			return strings.Replace(s, "Authorization:", "Authorization: Digest username=\"x\",realm=\"r\"\nAuthorization:", 1)
		}, nil},
		{"broken, without sanity", func(s string) string { return strings.Replace(s, ",realm=", ",,flag,realm=", 1) },
			func(c *config.Config) { c.Security.SanityEnable = config.Off }},
		{"broken behind", func(s string) string {
			return strings.Replace(s, "response=\"0123456789abcdef0123456789abcdef\"", "response=\"0\",x", 1)
		},
			func(c *config.Config) { c.Security.SanityEnable = config.Observe }},
	} {
		t.Run(c.name, func(t *testing.T) {
			underGuard(t, 1, c.config, func(t *testing.T, l *lab) {
				u := l.phone.user("1000")
				u.challenged("REGISTER")
				for range 3 {
					u.guesses("REGISTER", c.change)
				}
				u.sends(c.change(u.request("REGISTER", u.nonce)))
				u.get("403 REGISTER")
				l.pbx[0].nothing()
				u.refused("REGISTER", true)
			})
		})
	}
}

// Who has an account does not vouch for others with it.
func TestOwnPasswordProvesNothingOfOthers(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		u, victim := l.phone.user("1000"), l.phone.user("2000")
		u.challenged("REGISTER")
		for range 2 {
			victim.nonce = u.nonce
			victim.guesses("REGISTER", func(text string) string { return text })
		}
		text := u.request("REGISTER", u.nonce)
		line := text[strings.Index(text, "Authorization:"):]
		line, _, _ = strings.Cut(line, "\n")
		other := strings.NewReplacer("\"1000\"", "\"2000\"", "\"pbx\"", "\"decoy\"").Replace(line)
		u.sends(strings.Replace(text, line, other+"\n"+line, 1))
		l.pbx[0].answers(l.pbx[0].get("REGISTER"), 200, "t")
		u.get("200 REGISTER")
		victim.guesses("REGISTER", func(text string) string { return text })
		victim.refused("REGISTER", true)
	})
}

// Whoever gives a call up before the PBX looked at the password has not proved it.
func TestCancelledCallProvesNoPassword(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		u := l.phone.user("1000")
		u.challenged("INVITE")
		for range 2 {
			u.asks("INVITE", true, 407, challenge("Proxy-Authenticate", u.nonce, ""))
		}
		u.asks("INVITE", true, 487)
		u.asks("INVITE", true, 407, challenge("Proxy-Authenticate", u.nonce, ""))
		u.refused("INVITE", true)
	})
}

// A ban that leaves running calls alone is no licence to flood.
func TestFloodUnderASoftBan(t *testing.T) {
	underGuard(t, 1, func(c *config.Config) { c.Security.FailedAuthAttempts = 1000 }, func(t *testing.T, l *lab) {
		u := l.phone.user("1000")
		u.challenged("REGISTER")
		for range 20 {
			u.tries(401)
		}
		pass(5 * time.Second)
		source := security.SourceOf(l.phone.addr.Addr())
		grade := func() security.Grade { return l.e.guard.Book.Source(source, l.e.wheel.Now()) }
		for range 50 {
			l.phone.sends(l.phone.call().text("OPTIONS"))
		}
		if grade() != security.Soft {
			t.Errorf("%v at the limit", grade())
		}
		l.phone.sends(l.phone.call().text("OPTIONS"))
		if grade() != security.Hard {
			t.Errorf("%v beyond the limit", grade())
		}
		l.pbx[0].nothing()
	})
}

// Whoever forges addresses cannot fill the log with those who are not banned.
func TestLinesAboutWhoIsNotBanned(t *testing.T) {
	observe := func(c *config.Config) { c.Security.DoSBanEnable = config.Observe }
	underGuard(t, 1, observe, func(t *testing.T, l *lab) {
		for i := range 100 {
			for range 51 {
				l.from(fmt.Sprintf("203.0.113.%d:5060", i+1), "x")
			}
		}
		if n := len(l.lines("NOT banned")); n == 0 || n > banLinesPerSecond {
			t.Errorf("%d lines", n)
		}
	})
}

// A call that is refused proves no password to those who ask for one on other calls only.
func TestRefusalMakesNobodyKnown(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		u := l.phone.user("1000")
		u.challenged("INVITE")
		u.asks("INVITE", true, 404)
		if l.e.guard.IsKnown(l.phone.addr.Addr(), l.e.wheel.Now()) {
			t.Error("known by a 404")
		}
		u.asks("INVITE", true, 200)
		if !l.e.guard.IsKnown(l.phone.addr.Addr(), l.e.wheel.Now()) {
			t.Error("not known by a 200")
		}
	})
}

// Who has an account may not flood with it: registrations that succeed are forgiven once.
func TestRegistrationsThatSucceedAgainAndAgain(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		u := l.phone.user("1000")
		u.challenged("REGISTER")
		for range 20 {
			u.asks("REGISTER", true, 200)
		}
		if n, _, _ := l.e.guard.Rates.Read(security.SourceOf(l.phone.addr.Addr()), 2*time.Second, l.e.wheel.Now()); n != 19 {
			t.Errorf("%d of 21 messages count", n)
		}
	})
}

// Whoever was sent a request of ours that has no transaction could have answers to it
// relayed for ever.
func TestFloodOfAnswersToAnAck(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		pbx := l.pbx[0]
		c := pbx.call()
		c.uri = "sip:bob@" + l.phone.addr.String()
		c.sends("INVITE")
		l.phone.answers(l.phone.get("INVITE"), 200, "b", "Contact: <sip:bob@"+l.phone.addr.String()+">\r\n")
		pbx.get("100 INVITE")
		c.route, c.to = routeOf(pbx.get("200 INVITE")), "b"
		c.sends("ACK")
		ack := l.phone.get("ACK")
		pass(time.Minute)
		relayed := 0
		for range 600 { // ten times the limit of strangers, for it has a call
			l.phone.answers(ack, 200, "b")
			if pbx.gets() != nil {
				relayed++
			}
		}
		if relayed != 500 || len(l.e.Bans(BanFilter{})) != 1 {
			t.Errorf("%d relayed, bans: %+v", relayed, l.e.Bans(BanFilter{}))
		}
	})
}

// Numbers that an operator writes may be any.
func TestBansThatNeverEnd(t *testing.T) {
	underGuard(t, 0, nil, func(t *testing.T, l *lab) {
		far := time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
		added, skipped, err := l.e.ImportBans([]BanInfo{{Key: "192.0.2.1", Until: far, Window: 1e300}, {Key: "192.0.2.2", Until: time.Unix(-1<<60, 0)}})
		if added != 1 || skipped != 1 || err != nil {
			t.Errorf("%d added, %d skipped, %v", added, skipped, err)
		}
		for i, n := range []float64{math.Inf(1), 1e18, math.NaN(), -1, math.Inf(-1)} {
			b, err := l.e.AddBan(NewBan{Key: fmt.Sprintf("192.0.2.%d", i+10), For: n})
			if want := time.Hour; err != nil || i > 1 && b.Until.Sub(b.Since) != want || i <= 1 && b.Until.Sub(b.Since) < 1000*24*want {
				t.Errorf("for %v: %+v, %v", n, b, err)
			}
		}
	})
}

// A branch of a transaction that lives makes no reply one that was asked for.
func TestFloodOfRepliesThatAnswerNothing(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		c := l.pbx[0].call()
		c.uri = "sip:bob@" + l.phone.addr.String()
		c.sends("INVITE")
		m := l.phone.get("INVITE")
		reply := strings.Replace(response(m, 180, "b"), "CSeq: 1 ", "CSeq: 2 ", 1)
		for range 51 {
			l.phone.sends(reply)
		}
		if bans := l.e.Bans(BanFilter{}); len(bans) != 1 || l.e.Counters().Stray != 51 {
			t.Errorf("%d strays, bans: %+v", l.e.Counters().Stray, bans)
		}
		l.phone.answers(m, 200, "b")
		l.pbx[0].get("100 INVITE")
		l.pbx[0].nothing()
	})
}

// Scanners, and what no sound client sends, do not get through as what takes no answer.
func TestAckAndCancelOfNothing(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		for _, method := range []string{"ACK", "CANCEL"} {
			for more, want := range map[string]string{
				"": "nothing", "User-Agent: friendly-scanner\r\n": "nothing", "Authorization: Digest username=\"x, nonce\r\n": "400 " + method,
			} {
				c := l.phone.call()
				c.branch, c.more = 1, more
				l.phone.sends(c.text(method))
				if want == "400 ACK" {
					want = "nothing"
				}
				if got := title(l.phone.gets()); got != want {
					t.Errorf("%s with %q: the phone got %q", method, more, got)
				}
				if got := title(l.pbx[0].gets()); got == "nothing" != (more != "") {
					t.Errorf("%s with %q: the PBX got %q", method, more, got)
				}
			}
		}
	})
}

// A call to somebody whose answers are dropped fails at once, and does not ring.
func TestCallToABannedPhone(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		if _, err := l.e.AddBan(NewBan{Key: "127.0.0.9"}); err != nil {
			t.Fatal(err)
		}
		for method, want := range map[string]string{"INVITE": "nothing", "OPTIONS": "OPTIONS"} {
			c := l.pbx[0].call()
			c.uri = "sip:bob@" + l.phone.addr.String()
			c.sends(method)
			if got := title(l.phone.gets()); got != want {
				t.Errorf("%s: the phone got %q", method, got)
			}
		}
		l.pbx[0].get("480 INVITE")
		l.pbx[0].nothing()
	})
}

// An account does not let its owner keep two others from each other either.
func TestLoopsInTheNameOfOthers(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		insider := l.newPeerAt("X", "127.0.0.66:0")
		insider.user("mallory").registers(200)
		alice := l.phone.user("alice")
		alice.domain = "example.org"
		alice.registers(200)
		for range 10 {
			insider.call().sends("INVITE") // alice calls bob, he says
		}
		l.pbx[0].skip()
		for n := range 4 {
			l.phone.call().sends("INVITE")
			if got, want := title(l.phone.gets()), []string{"100 INVITE", "482 INVITE"}[n/3]; got != want {
				t.Errorf("call %d: %q", n+1, got)
			}
		}
	})
}

// Nobody can keep two others from each other by calls in their names.
func TestLoopsOfStrangersAreTheirOwn(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		stranger := l.newPeerAt("X", "127.0.0.66:0")
		for range 10 {
			stranger.call().sends("INVITE")
		}
		l.pbx[0].skip()
		for n := range 4 {
			l.phone.call().sends("INVITE")
			if got, want := title(l.phone.gets()), []string{"100 INVITE", "482 INVITE"}[n/3]; got != want {
				t.Errorf("call %d: %q", n+1, got)
			}
		}
	})
}

// One domain has many spellings.
func TestSpellingsOfABannedUser(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		u := l.phone.user("1000")
		u.challenged("REGISTER")
		for range 3 {
			u.tries(401)
		}
		for _, domain := range []string{"PBX.example.org", "pbx.example.org.", "pbx.example.org..", "pbx.example.org:5060"} {
			u.domain = domain
			u.refused("REGISTER", true)
		}
		u.domain = "pbx.example.org"
		for _, name := range []string{"\\1000", "10\\00", " 1000", "1000@pbx.example.org", "1000@x"} {
			u.name = name
			u.refused("REGISTER", true)
		}
	})
}

// What a ban stops is said to be stopped by one, wherever that is seen.
func TestBannedMessagesAreCountedAsBanned(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		if _, err := l.e.AddBan(NewBan{Key: "127.0.0.9"}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			l.phone.call().sends("OPTIONS")
		}
		l.e.tellStopped(tally{})
		lines := l.lines("messages stopped")
		if x := l.e.SecurityStats(); x.Dropped["banned"] != 3 || len(x.Dropped) != 1 || len(lines) != 1 || !strings.Contains(lines[0], "banned=3") || strings.Contains(lines[0], "none") {
			t.Errorf("%+v, %q", x.Dropped, lines)
		}
	})
}
