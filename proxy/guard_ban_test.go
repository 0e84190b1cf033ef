package proxy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/security"
)

// floods has a peer send until it is banned.
func (l *lab) floods(p *peer) {
	l.Helper()
	for i := range 51 {
		p.sends(l.options(p, 1000+i))
	}
	p.skip()
	if _, ok := l.e.Ban(p.addr.Addr().String()); !ok {
		l.Fatalf("%s is not banned", p.name)
	}
	l.clearLog()
}

func keysOf(all []BanInfo) (keys []string) {
	for _, b := range all {
		keys = append(keys, b.Key)
	}
	return keys
}

// An operator bans, lists, chooses and lifts.
func TestOperatorBansAndLifts(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		l.passes(l.phone, 1)
		now := l.e.wheel.Now()
		b, err := l.e.AddBan(NewBan{Key: " 127.0.0.9 ", For: 90.5, By: "ann", Why: "a \"test\"\nof it"})
		if err != nil {
			t.Fatal(err)
		}
		same(t, b, BanInfo{
			Key: "127.0.0.9", Rule: "operator", Since: l.e.wallTime(now), Until: l.e.wallTime(now + 90500*time.Millisecond), Hard: true,
			By: "ann", Why: "a \"test\"\nof it",
		})
		line := l.lines("banned by an operator")
		if len(line) != 1 || !strings.HasSuffix(line[0], "INFO: sipward: banned by an operator key=127.0.0.9 by=ann why='a \\\"test\\\"\\nof it' for=1m30.5s\n") {
			t.Errorf("%q", line)
		}
		l.stops(l.phone, 2)
		if again, ok := l.e.Ban("127.0.0.9"); !ok || again.Drops != 1 {
			t.Errorf("%+v", again)
		}
		pass(time.Second)
		for _, key := range []string{"2001:db8:1:2::7", "2000@Example.ORG", "3000@example.org/127.0.0.9"} {
			if _, err := l.e.AddBan(NewBan{Key: key, By: "ben"}); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
		}
		all := l.e.Bans(BanFilter{})
		if got := fmt.Sprint(keysOf(all)); got != "[127.0.0.9 2001:db8:1:2::/64 2000@example.org 3000@example.org/127.0.0.9]" {
			t.Errorf("%s", got)
		}
		for _, b := range all[1:] {
			if b.Until.Sub(b.Since) != time.Hour || b.Hard != (b.Key == "2001:db8:1:2::/64") {
				t.Errorf("%+v", b)
			}
		}
		for _, c := range []struct {
			f    BanFilter
			want string
		}{
			{BanFilter{Kind: "ip"}, "[127.0.0.9 2001:db8:1:2::/64]"},
			{BanFilter{Kind: "user"}, "[2000@example.org 3000@example.org/127.0.0.9]"},
			{BanFilter{Key: "000@"}, "[2000@example.org 3000@example.org/127.0.0.9]"},
			{BanFilter{Key: "127.0.0.9"}, "[127.0.0.9 3000@example.org/127.0.0.9]"},
			{BanFilter{Rule: "operator", Limit: 1}, "[127.0.0.9]"},
			{BanFilter{Rule: "dos"}, "[]"},
		} {
			if got := fmt.Sprint(keysOf(l.e.Bans(c.f))); got != c.want {
				t.Errorf("%+v: %s, want %s", c.f, got, c.want)
			}
		}
		// A user's ban refuses him, at one source or everywhere.
		x := l.newPeerAt("X", "127.0.0.10:0")
		for _, u := range []*user{x.user("2000"), x.user("3000")} {
			u.domain = "example.org"
			if u.name == "3000" {
				u.registers(200)
			} else {
				u.refused("REGISTER", false)
			}
		}
		was, found, err := l.e.RemoveBan("127.0.0.9")
		if err != nil || !found || was.Key != "127.0.0.9" || was.Drops != 1 || was.By != "ann" {
			t.Errorf("%+v, %v, %v", was, found, err)
		}
		l.passes(l.phone, 3)
		u := l.phone.user("3000")
		u.domain = "example.org"
		u.refused("REGISTER", false)
		if _, found, err := l.e.RemoveBan("127.0.0.9"); found || err != nil {
			t.Error(found, err)
		}
		if n := l.e.FlushBans(); n != 3 {
			t.Errorf("%d flushed", n)
		}
		if n := l.e.FlushBans(); n != 0 {
			t.Errorf("%d flushed", n)
		}
		u.registers(200)
		for _, want := range []string{"ban lifted by an operator key=127.0.0.9", "all bans lifted by an operator bans=3"} {
			if n := len(l.lines(want)); n != 1 {
				t.Errorf("%d lines of %q", n, want)
			}
		}
		for key, want := range map[string]string{
			"127.0.0.1": `127.0.0.1 is backend "pbx1": it is never banned`,
			"nobody":    "", "10.0.0.0/8": "", "@x": "", "a@": "", "": "",
		} {
			if _, err := l.e.AddBan(NewBan{Key: key}); err == nil || want != "" && err.Error() != want {
				t.Errorf("%q: %v", key, err)
			}
			if _, _, err := l.e.RemoveBan(key); err == nil && want == "" {
				t.Errorf("%q was taken for a key", key)
			}
		}
	})
}

// Lifting a ban forgets what led to it: the next 50 messages pass.
func TestLiftedBanLeavesNothing(t *testing.T) {
	lift := map[string]func(e *Edge){
		"remove": func(e *Edge) { _, _, _ = e.RemoveBan("127.0.0.9"); _, _, _ = e.RemoveBan("1000@pbx.example.org") },
		"flush":  func(e *Edge) { e.FlushBans() },
	}
	for name, f := range lift {
		t.Run(name, func(t *testing.T) {
			underGuard(t, 1, nil, func(t *testing.T, l *lab) {
				u := l.phone.user("1000")
				u.challenged("REGISTER")
				for range 3 {
					u.tries(401)
				}
				u.refused("REGISTER", true)
				l.floods(l.phone)
				f(l.e)
				u.tries(401)
				u.tries(401)
				l.alarms()
				for i := range 48 {
					l.passes(l.phone, i)
				}
				l.alarms()
				l.stops(l.phone, 60)
				l.alarms("WARNING: sipward: IP '127.0.0.9' is blocked and banned - R=<null> ID=o60")
			})
		})
	}
}

// An export is imported again, elsewhere or later, as it was.
func TestExportedBansAreImported(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		pass(time.Hour)
		l.floods(l.newPeerAt("A", "127.0.0.11:0"))
		u := l.phone.user("1000")
		u.challenged("REGISTER")
		for range 3 {
			u.tries(401)
		}
		pass(time.Second)
		if _, err := l.e.AddBan(NewBan{Key: "2001:db8::/64", By: "ann", Why: "why"}); err != nil {
			t.Fatal(err)
		}
		before := l.e.Bans(BanFilter{})
		text, err := json.Marshal(before)
		if err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Minute)
		if n := l.e.FlushBans(); n != 3 {
			t.Errorf("%d flushed", n)
		}
		var all []BanInfo
		if err := json.Unmarshal(text, &all); err != nil {
			t.Fatal(err)
		}
		l.clearLog()
		for i := range 2 {
			added, skipped, err := l.e.ImportBans(append(all,
				BanInfo{Key: "127.0.0.1"}, // trusted
				BanInfo{Key: "192.0.2.1", Until: time.Now().Add(-1)}))
			if want := 3 - 3*i; added != want || skipped != 5-want || err != nil {
				t.Errorf("%d added, %d skipped, %v", added, skipped, err)
			}
		}
		if n := len(l.lines("bans imported by an operator added=3 skipped=2")); n != 1 {
			t.Errorf("%s", l.lines("imported"))
		}
		after := l.e.Bans(BanFilter{})
		if len(after) != 3 {
			t.Fatalf("%+v", after)
		}
		for i := range after {
			for j := range before {
				if after[i].Key == before[j].Key {
					before[j].Drops, before[j].LastDrop = 0, time.Time{}
					same(t, after[i], before[j])
				}
			}
		}
		u.refused("REGISTER", true)
		pass(50*time.Minute - 2*time.Second)
		u.refused("REGISTER", true)
		pass(time.Second)
		u.registers(401)
		// A bare list of addresses will do; a mistake is named, and what is before it stays.
		added, skipped, err := l.e.ImportBans([]BanInfo{{Key: "192.0.2.1"}, {Key: "x@Y"}, {Key: "192.0.2.300"}, {Key: "192.0.2.4"}})
		if added != 2 || skipped != 0 || err == nil || !strings.HasPrefix(err.Error(), "ban 3 (192.0.2.300): ") {
			t.Errorf("%d added, %d skipped, %v", added, skipped, err)
		}
		if b, ok := l.e.Ban("192.0.2.1"); !ok || b.Rule != "operator" || !b.Hard || b.Until.Sub(b.Since) != time.Hour {
			t.Errorf("%+v", b)
		}
	})
}

// There is room for max_bans bans.
func TestBansAreBounded(t *testing.T) {
	underGuard(t, 1, func(c *config.Config) { c.Limits.MaxBans = 100 }, func(t *testing.T, l *lab) {
		n := 0
		var err error
		for ; n < 1000 && err == nil; n++ {
			_, err = l.e.AddBan(NewBan{Key: fmt.Sprintf("10.0.%d.%d", n/250, n%250)})
		}
		if n != 101 || err != errBookFull {
			t.Errorf("the ban %d: %v", n, err)
		}
		if x := l.e.SecurityStats(); x.Bans != 100 {
			t.Errorf("%+v", x)
		}
	})
}

// A reload keeps bans, counts and hits; who is trusted from now on is let in at once.
func TestReloadKeepsBans(t *testing.T) {
	var conf *config.Config
	underGuard(t, 1, func(c *config.Config) { conf = c }, func(t *testing.T, l *lab) {
		reload := func(change func(*config.Security)) {
			t.Helper()
			next := *conf
			change(&next.Security)
			if err := l.e.Reload(&next); err != nil {
				t.Fatal(err)
			}
		}
		a := l.newPeerAt("A", "127.0.0.11:0")
		u := l.phone.user("1000")
		u.challenged("REGISTER")
		u.tries(401)
		u.tries(401)
		l.from("127.0.0.12:1", strings.Replace(l.options(a, 1), "Content-Length", "User-Agent: friendly-scanner\nContent-Length", 1))
		for i := range 30 {
			l.passes(a, i)
		}
		reload(func(s *config.Security) { s.FailedAuthBanTime = seconds(10) })
		for i := range 20 {
			l.passes(a, 50+i)
		}
		l.alarms()
		l.stops(a, 99)
		u.tries(401)
		l.alarms("WARNING: sipward: IP '127.0.0.11' is blocked and banned - R=<null> ID=o99", fmt.Sprintf(failedLine, "1000@pbx.example.org", u.id))
		reload(func(s *config.Security) { s.DoSReqsDensityPerUnit = 10 })
		l.stops(a, 100)
		u.refused("REGISTER", true)
		if b, ok := l.e.Ban("127.0.0.11"); !ok || b.Until.Sub(b.Since) != time.Hour {
			t.Errorf("%+v", b)
		}
		if x := l.e.SecurityStats(); len(x.Patterns) != 1 || x.Patterns[0] != (PatternHits{"friendly-scanner", 1}) {
			t.Errorf("%+v", x.Patterns)
		}
		pass(10 * time.Second)
		u.tries(401)
		reload(func(s *config.Security) { s.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.11/32")} })
		l.passes(a, 101)
		x, err := l.e.Explain("127.0.0.11")
		if err != nil || x.Verdict != "passes" || x.Ban == nil ||
			x.Why != "it is security.trusted 127.0.0.11/32: never banned, never counted against it; its ban has no effect" {
			t.Errorf("%+v, %v", x, err)
		}
		reload(func(s *config.Security) {})
		l.stops(a, 102)
		reload(func(s *config.Security) { s.FailedAuthBanEnable, s.DoSBanEnable = config.Off, config.Off })
		for range 5 {
			u.tries(401)
		}
		l.stops(a, 103) // a ban outlasts the rule that made it
		l.alarms()
	})
}

// What explain says of everybody.
func TestExplain(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		explain := func(key string) Explanation {
			t.Helper()
			x, err := l.e.Explain(key)
			if err != nil {
				t.Fatal(err)
			}
			return x
		}
		rules := func(x Explanation) (s string) {
			for _, r := range x.Rules {
				s += fmt.Sprintf("%s %s %v %d/%d/%g %s: %s\n", r.Rule, r.Mode, r.Looks, r.Count, r.Limit, r.Window, r.Outcome, r.Why)
			}
			return s
		}
		for i := range 30 {
			l.passes(l.phone, i)
		}
		x := explain("127.0.0.9")
		const ofSource = `dos enforce true %d/%d/2 passes: %s
scanner enforce false 0/0/0 passes: by User-Agent, From and To of each request
sanity enforce false 0/0/0 passes: by the header fields of each request
failed_auth enforce false 0/0/0 passes: by the user of each request, of whom sipward explain USER@DOMAIN says more
failed_auth_source enforce true %d/%d/60 passes: %s in the last 60 s that only this source can have sent
enumeration enforce true %d/%d/60 passes: of %s
borrowed_nonce enforce true 0/20/60 passes: 0 wrong passwords that anybody can have sent in its name
loop enforce false 0/0/0 passes: by From and To of each new call, whoever sends it
`
		if got, want := rules(x), fmt.Sprintf(ofSource, 30, 50, "30 of 50 messages in the last 2 s", 0, 20, "0 wrong passwords", 0, 5, "0 users"); got != want {
			t.Errorf("%s\nwant\n%s", got, want)
		}
		x.Rules = nil
		if want := (Explanation{Key: "127.0.0.9", Kind: "ip", Verdict: "passes", Why: "not banned, but watched", Change: []string{"sipward bans add 127.0.0.9"}}); !reflect.DeepEqual(x, want) {
			t.Errorf("%+v", x)
		}
		pass(2 * time.Second)
		if x := explain("127.0.0.9"); x.Why != "nothing is held against it" || x.Rules[0].Count != 0 {
			t.Errorf("%+v", x)
		}
		l.phone.user("1000").registers(200)
		l.talks("", "")
		u := l.phone.user("2000")
		u.challenged("REGISTER")
		u.tries(401)
		pass(2 * time.Second)
		x = explain("127.0.0.9")
		if got, want := rules(x), fmt.Sprintf(ofSource, 0, 500, "0 of 500 messages in the last 2 s (10 times dos_reqs_density_per_unit: it is known)", 1, 200, "1 wrong password", 1, 50, "1 user"); got != want {
			t.Errorf("%s\nwant\n%s", got, want)
		}
		if x.Why != "not banned, but watched" || !x.Known || x.Calls != 1 {
			t.Errorf("%+v", x)
		}
		x = explain("2000@pbx.example.org")
		if rules(x) != "failed_auth enforce true 1/3/0 passes: 1 of 3 wrong passwords in a row\n" || x.Why != "a correct password sets the count to 0" || x.Kind != "user" || x.Verdict != "passes" {
			t.Errorf("%+v", x)
		}
		u.tries(401)
		u.tries(401)
		x = explain("2000@pbx.example.org")
		if x.Verdict != "refused" || x.Ban == nil || x.Rules[0].Outcome != "refused" || x.Rules[0].Count != 3 || len(x.Change) != 2 ||
			x.Why != "banned by the rule failed_auth until "+x.Ban.Until.Format(time.DateTime)+"; passes: running calls, and sources that knew the password within the last hour" {
			t.Errorf("%+v", x)
		}
		l.phone.user("1000").registers(401)
		for range 3 {
			v := l.phone.user("1000")
			v.challenged("REGISTER")
			v.tries(401)
		}
		if x := explain("1000@pbx.example.org/127.0.0.9"); x.Ban == nil || x.Verdict != "passes" || x.Rules[0].Outcome != "passes" ||
			x.Why != "banned, but this source knew the password within the last hour" {
			t.Errorf("%+v", x)
		}
		if _, ok, err := l.e.RemoveBan("1000@pbx.example.org"); !ok || err != nil {
			t.Error(ok, err)
		}
		if x := explain("9999@pbx.example.org"); x.Why != "nothing is held against it" || x.Verdict != "passes" || x.Ban != nil {
			t.Errorf("%+v", x)
		}
		if x := explain("1000@pbx.example.org/127.0.0.9"); !x.Known || x.Calls != 1 || x.Verdict != "passes" {
			t.Errorf("%+v", x)
		}
		x = explain("127.0.0.1")
		if x.Trusted != `backend "pbx1"` || x.Verdict != "passes" || x.Why != `it is backend "pbx1": never banned, never counted against it` ||
			!reflect.DeepEqual(x.Change, []string{`remove it from where it is trusted: backend "pbx1"`}) || x.Rules[0].Looks {
			t.Errorf("%+v", x)
		}
		for i := range 501 {
			l.phone.sends(l.options(l.phone, 2000+i))
		}
		l.phone.skip()
		x = explain("127.0.0.9")
		if x.Verdict != "dropped" || x.Ban == nil || x.Ban.Rule != "dos" || x.Rules[0].Outcome != "dropped" || x.Rules[4].Outcome != "passes" ||
			x.Why != "banned by the rule dos until "+x.Ban.Until.Format(time.DateTime) ||
			!reflect.DeepEqual(x.Change, []string{"sipward bans del 127.0.0.9", "security.trusted: [127.0.0.9]"}) {
			t.Errorf("%+v", x)
		}
		for _, bad := range []string{"", "x", "1.2.3", "::/48", "@", "a@b/c"} {
			if _, err := l.e.Explain(bad); err == nil {
				t.Errorf("%q was taken for a key", bad)
			}
		}
	})
}

// The figures of all protections.
func TestSecurityStats(t *testing.T) {
	underGuard(t, 1, func(c *config.Config) { c.Security.SanityEnable = config.Observe; c.Security.LoopEnable = config.Off }, func(t *testing.T, l *lab) {
		a, b := l.newPeerAt("A", "127.0.0.11:0"), l.newPeerAt("B", "127.0.0.12:0")
		scan := strings.Replace(l.options(b, 1), "Content-Length", "User-Agent: sipvicious\nContent-Length", 1)
		for range 3 {
			b.sends(scan)
		}
		b.nothing()
		l.floods(a)
		l.stops(a, 1)
		u := l.phone.user("1000")
		u.challenged("REGISTER")
		for range 3 {
			u.tries(401)
		}
		u.refused("REGISTER", true)
		u.refused("REGISTER", true)
		want := SecurityStats{
			Modes: map[string]string{
				"new_sources": "enforce", "dos": "enforce", "sanity": "observe", "scanner": "enforce", "failed_auth": "enforce",
				"failed_auth_source": "enforce", "enumeration": "enforce", "borrowed_nonce": "enforce", "loop": "off",
			},
			Bans: 1, UserBans: 1, Tracked: 3,
			Dropped:  map[string]uint64{"banned": 1, "dos": 1, "scanner": 3, "failed_auth": 2},
			Patterns: []PatternHits{{"sipvicious", 3}},
		}
		got := l.e.SecurityStats()
		got.Kernel = ""
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%+v\nwant\n%+v", got, want)
		}
	})
}

// All traffic from one private gateway: bans of addresses would stop everybody.
func TestBridgeSuspendsBansOfAddresses(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		l.e.guard.Bridge = security.NewBridge([]netip.Addr{netip.MustParseAddr("172.17.0.1")})
		const bridge = "172.17.0.1:5060"
		for i := range 200 {
			l.from(bridge, l.options(l.phone, i))
		}
		if n := l.e.SecurityStats(); n.Bans != 0 || n.Suspended != suspended || n.Dropped["dos"] != 0 {
			t.Errorf("%+v", n)
		}
		l.alarms(
			"WARNING: sipward: "+suspended+" gateway=172.17.0.1",
			"WARNING: sipward: NOT banned: IP '172.17.0.1' exceeded 50/2s (51) but is this host's gateway, and all comes from there")
		pass(30 * time.Second)
		for i := range 200 {
			l.from(bridge, l.options(l.phone, 300+i))
		}
		l.alarms()
		pass(30 * time.Second)
		for i := range 51 {
			l.from(bridge, l.options(l.phone, 600+i))
		}
		l.alarms(
			"WARNING: sipward: "+suspended+" gateway=172.17.0.1",
			"WARNING: sipward: NOT banned: IP '172.17.0.1' exceeded 50/2s (51) but is this host's gateway, and all comes from there")
		pass(2 * time.Minute)
		if n := l.e.SecurityStats(); n.Suspended != "" {
			t.Errorf("%+v", n)
		}
		// When others are heard too, the gateway is one of many.
		l.passes(l.phone, 700)
		for i := range 51 {
			l.from(bridge, l.options(l.phone, 800+i))
		}
		l.alarms("WARNING: sipward: IP '172.17.0.1' is blocked and banned - R=<null> ID=o850")
	})
}

// An office of 200 telephones behind one address, after a power cut.
func TestOfficeComesBackAtOnce(t *testing.T) {
	t.Run("known", func(t *testing.T) { // all of them ask before the first succeeds
		underGuard(t, 1, nil, func(t *testing.T, l *lab) {
			l.phone.user("1").registers(200)
			pass(55 * time.Minute)
			var all []*user
			for i := range 200 {
				all = append(all, l.phone.user(fmt.Sprint(1000+i)))
				u := all[i]
				u.sends(u.request("REGISTER", ""))
				l.pbx[0].answers(l.pbx[0].get("REGISTER"), 401, "t", challenge("WWW-Authenticate", "n"+u.name, ""))
				u.get("401 REGISTER")
				u.nonce = "n" + u.name
			}
			for _, u := range all {
				u.tries(200)
			}
			l.alarms()
		})
	})
	t.Run("new", func(t *testing.T) { // each has succeeded when the next asks, but for 40 at a time
		underGuard(t, 1, nil, func(t *testing.T, l *lab) {
			for k := range 5 {
				var all []*user
				for i := range 40 {
					u := l.phone.user(fmt.Sprint(1000 + 40*k + i))
					all = append(all, u)
					u.sends(u.request("REGISTER", ""))
					l.pbx[0].answers(l.pbx[0].get("REGISTER"), 401, "t", challenge("WWW-Authenticate", "n"+u.name, ""))
				}
				for _, u := range all {
					u.get("401 REGISTER")
					u.nonce = "n" + u.name
				}
				for _, u := range all {
					u.tries(200)
				}
			}
			l.alarms()
			for i := range 450 { // and it may do more
				l.passes(l.phone, i)
			}
			l.alarms()
		})
	})
}

// Of a network of IPv6 the address that is trusted is not said to be banned, others are.
func TestTrustedAddressOfABannedNetwork(t *testing.T) {
	trusts := func(c *config.Config) { c.Security.Trusted = []netip.Prefix{netip.MustParsePrefix("2001:db8::5/128")} }
	underGuard(t, 1, trusts, func(t *testing.T, l *lab) {
		if _, err := l.e.AddBan(NewBan{Key: "2001:db8::5"}); err == nil || err.Error() != "2001:db8::5 is security.trusted 2001:db8::5/128: it is never banned" {
			t.Error(err)
		}
		if b, err := l.e.AddBan(NewBan{Key: "2001:db8::6"}); err != nil || b.Key != "2001:db8::/64" {
			t.Errorf("%+v, %v", b, err)
		}
	})
}
