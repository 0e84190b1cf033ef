package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/security"
)

// Every rule can be told to watch only, or to be off.
func TestModesOfRules(t *testing.T) {
	scan := func(l *lab, header string) string {
		return strings.Replace(l.options(l.phone, 1), "Content-Length", header+"\nContent-Length", 1)
	}
	cases := []struct {
		name string
		rule security.Rule
		mode func(*config.Security, config.Mode)
		// run says whether all of its messages passed.
		run func(l *lab) bool
		// alarms by the mode.
		enforce, observe []string
	}{
		{
			name: "dos", rule: security.DoS, mode: func(s *config.Security, m config.Mode) { s.DoSBanEnable = m },
			run: func(l *lab) bool {
				n := 0
				for i := range 60 {
					l.phone.sends(l.options(l.phone, i))
					if l.phone.getsWithin(0) != nil {
						n++
					}
				}
				return n == 60
			},
			enforce: []string{"WARNING: sipward: IP '127.0.0.9' is blocked and banned - R=<null> ID=o50"},
			observe: []string{"WARNING: sipward: NOT banned: IP '127.0.0.9' exceeded 50/2s (51) but dos_ban_enable is observe"},
		},
		{
			name: "new_sources", rule: security.NewSources,
			mode: func(s *config.Security, m config.Mode) { s.DoSBanEnable, s.DoSNewSourcesPerSecond = m, 10 },
			run: func(l *lab) bool {
				before := l.e.Counters().Rejected
				for i := range 20 {
					l.from(fmt.Sprintf("192.0.2.%d:5060", i+1), l.options(l.phone, i))
				}
				return l.e.Counters().Rejected == before+20 // answered by the edge
			},
		},
		{
			name: "scanner", rule: security.Scanner, mode: func(s *config.Security, m config.Mode) { s.BlockUserAgents.Enable = m },
			run: func(l *lab) bool {
				l.phone.sends(scan(l, "User-Agent: friendly-scanner"))
				return l.phone.gets() != nil
			},
		},
		{
			name: "scanner rejects", rule: security.Scanner,
			mode: func(s *config.Security, m config.Mode) {
				s.BlockUserAgents.Enable, s.BlockUserAgents.Action = m, "reject"
			},
			run: func(l *lab) bool {
				l.phone.sends(scan(l, "User-Agent: friendly-scanner"))
				return title(l.phone.gets()) == "200 OPTIONS"
			},
		},
		{
			name: "sanity", rule: security.Sanity, mode: func(s *config.Security, m config.Mode) { s.SanityEnable = m },
			run: func(l *lab) bool {
				l.phone.sends(scan(l, "Authorization: Digest username=\"a"))
				m := l.phone.gets()
				if title(m) == "400 OPTIONS" && string(m.Bytes(m.ReasonPhrase)) != "Bad Auth Header" {
					l.Errorf("%s", m.Buf)
				}
				return title(m) == "200 OPTIONS"
			},
		},
		{
			name: "failed_auth", rule: security.FailedAuth, mode: func(s *config.Security, m config.Mode) { s.FailedAuthBanEnable = m },
			run: func(l *lab) bool {
				u := l.phone.user("1000")
				u.id = "u"
				u.challenged("REGISTER")
				for range 3 {
					u.tries(401)
				}
				u.sends(u.request("REGISTER", ""))
				return l.pbx[0].gets() != nil
			},
			enforce: []string{"WARNING: sipward: Consecutive Authentication Failure for '1000@pbx.example.org' UA='evil' IP='127.0.0.9' - R=<null> ID=u"},
			observe: []string{"WARNING: sipward: not banned for wrong passwords: failed_auth_ban_enable is observe key=1000@pbx.example.org rule=failed_auth ip=127.0.0.9 ID=u"},
		},
		{
			name: "enumeration", rule: security.Enumeration, mode: func(s *config.Security, m config.Mode) { s.FailedAuthBanEnable = m },
			run: func(l *lab) bool {
				for i := range 5 {
					u := l.phone.user(fmt.Sprint(i))
					u.id = fmt.Sprint("u", i)
					u.registers(401)
				}
				l.phone.sends(l.options(l.phone, 1))
				return l.phone.gets() != nil
			},
			enforce: []string{"WARNING: sipward: IP '127.0.0.9' is blocked and banned - R=<null> ID=u4"},
			observe: []string{"WARNING: sipward: not banned for wrong passwords: failed_auth_ban_enable is observe key=127.0.0.9 rule=enumeration ip=127.0.0.9 ID=u4"},
		},
		{
			name: "failed_auth_source", rule: security.FailedAuthSource,
			mode: func(s *config.Security, m config.Mode) { s.FailedAuthBanEnable, s.FailedAuthAttempts = m, 100 },
			run: func(l *lab) bool {
				u := l.phone.user("1000")
				u.id = "u"
				u.challenged("REGISTER")
				for range 20 {
					u.tries(401)
				}
				l.phone.sends(l.options(l.phone, 1))
				return l.phone.gets() != nil
			},
			enforce: []string{"WARNING: sipward: IP '127.0.0.9' is blocked and banned - R=<null> ID=u"},
			observe: []string{"WARNING: sipward: not banned for wrong passwords: failed_auth_ban_enable is observe key=127.0.0.9 rule=failed_auth_source ip=127.0.0.9 ID=u"},
		},
		{
			name: "borrowed_nonce", rule: security.Borrowed, mode: func(s *config.Security, m config.Mode) { s.FailedAuthBanEnable = m },
			run: func(l *lab) bool {
				u, isAsked := l.phone.user("1000"), false
				for range 21 {
					_, isAsked = u.borrows("fetched elsewhere", "Authorization")
				}
				return isAsked
			},
		},
		{
			name: "loop", rule: security.Loop, mode: func(s *config.Security, m config.Mode) { s.LoopEnable = m },
			run: func(l *lab) bool {
				n := 0
				for range 4 {
					l.phone.call().sends("INVITE")
					if title(l.phone.getsWithin(2000)) == "100 INVITE" {
						n++
					}
				}
				return n == 4
			},
			observe: []string{"NOTICE: sipward: Possible loop detected on call sip:alice@example.org -> sip:bob@example.org (4 total calls during last second)"},
		},
	}
	for _, c := range cases {
		for _, mode := range []config.Mode{config.Enforce, config.Observe, config.Off} {
			t.Run(c.name+" "+string(mode), func(t *testing.T) {
				underGuard(t, 1, func(x *config.Config) { c.mode(&x.Security, mode) }, func(t *testing.T, l *lab) {
					if got := l.e.SecurityStats().Modes[c.rule.String()]; got != string(mode) {
						t.Errorf("the mode is %q", got)
					}
					if passed := c.run(l); passed != (mode != config.Enforce) {
						t.Errorf("passed: %v", passed)
					}
					stopped, observed := l.e.count.stopped[c.rule].Load(), l.e.count.observed[c.rule].Load()
					isSource := c.rule == security.Enumeration || c.rule == security.FailedAuthSource // whose message is dropped as one of a banned source
					if (stopped > 0) != (mode == config.Enforce) && !isSource || (observed > 0) != (mode == config.Observe) {
						t.Errorf("%d stopped, %d observed", stopped, observed)
					}
					switch mode {
					case config.Enforce:
						if c.rule == security.Loop {
							l.alarms(loopLines(4, l.phone)...)
						} else {
							l.alarms(c.enforce...)
						}
					case config.Observe:
						l.alarms(c.observe...)
						fallthrough
					case config.Off:
						l.alarms()
						if b := l.e.Bans(BanFilter{}); len(b) != 0 {
							t.Errorf("%+v", b)
						}
					}
					l.skipAll()
				})
			})
		}
	}
}

// An OPTIONS of somebody unknown can be left without an answer.
func TestOptionsFromUnknown(t *testing.T) {
	underGuard(t, 1, func(c *config.Config) { c.Security.OptionsFromUnknown = "drop" }, func(t *testing.T, l *lab) {
		l.stops(l.phone, 1)
		l.passes(l.pbx[0], 2)
		l.phone.user("1000").registers(200)
		l.passes(l.phone, 3)
		pass(time.Hour + time.Second)
		l.stops(l.phone, 4)
	})
}

// What was stopped is told in one line every ten seconds, and nothing when nothing was.
func TestStoppedMessagesAreSummed(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		l.settles()
		a := l.newPeerAt("A", "127.0.0.11:0")
		pass(5 * time.Second)
		scan := strings.Replace(l.options(l.phone, 1), "Content-Length", "User-Agent: friendly-scanner\nContent-Length", 1)
		for range 3 {
			l.phone.sends(scan)
		}
		l.floods(a)
		l.alarms()
		pass(6 * time.Second)
		l.alarms("WARNING: sipward: messages stopped in the last 10 s dos=1 scanner=3 bans=1 user_bans=0")
		pass(time.Minute)
		l.alarms()
		u := l.phone.user("1000")
		u.challenged("REGISTER")
		for range 3 {
			u.tries(401)
		}
		l.clearLog()
		for range 7 {
			u.refused("REGISTER", true)
		}
		pass(10 * time.Second)
		l.alarms("WARNING: sipward: messages stopped in the last 10 s failed_auth=7 bans=1 user_bans=1")
	})
}

// A crowd of sources that were never heard of costs twenty lines a second at most, and
// the others are counted.
func TestLinesOfBansAreBounded(t *testing.T) {
	underGuard(t, 1, func(c *config.Config) { c.Security.DoSNewSourcesPerSecond = 0 }, func(t *testing.T, l *lab) {
		l.settles()
		for i := range 100 {
			for n := range 51 {
				l.from(fmt.Sprintf("192.0.2.%d:5060", i+1), l.options(l.phone, n))
			}
		}
		if n := len(l.lines("is blocked and banned")); n != 20 {
			t.Errorf("%d lines", n)
		}
		l.clearLog()
		pass(11 * time.Second)
		l.alarms("WARNING: sipward: messages stopped in the last 10 s dos=100 bans_not_logged=80 bans=100 user_bans=0")
	})
}
