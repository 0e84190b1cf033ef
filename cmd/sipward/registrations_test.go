package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/admin"
	"github.com/sipward/sipward/proxy"
)

// shownRegistrations are registrations of each kind, two of one address; the last has what a phone can write to harm
// who reads it.
func shownRegistrations() []proxy.RegistrationInfo {
	at := func(d time.Duration) time.Time { return noon.Add(d) }
	return []proxy.RegistrationInfo{
		{
			ID: "1a", AoR: "alice@example.org", Contact: "sip:alice@192.168.1.23:5060", Mode: "path", Flow: "udp:203.0.113.7:41022", NATed: true,
			Pool: "pbx", Backend: "pbx1", UA: "phone 1.2", CallID: "4f2a@192.168.1.23", State: "registered", Since: at(-26 * time.Hour),
			Refreshed: at(-48 * time.Second), Expires: at(552 * time.Second), LastPong: at(-3 * time.Second), Pings: 4680, RTT: 0.0342,
			Former: "udp:203.0.113.7:40990", Why: "a call goes to udp:203.0.113.7:41022",
		},
		{
			ID: "1b", AoR: "alice@example.org", Contact: "sip:alice@a-very-long-name-of-a-browser-tab.invalid;transport=ws", Mode: "contact",
			Shown: "sip:sw-AQIDBAUGBwgJCg@10.0.0.2:5060", Instance: "<urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6>", RegID: 1,
			Flow: "wss:[2001:db8::7]:49152", Connection: 42, NATed: true, Pool: "pbx", Backend: "pbx2", UA: "JsSIP 3.10", CallID: "b7", State: "closed",
			Since: at(-time.Hour), Refreshed: at(-10 * time.Minute), Expires: at(50 * time.Minute), Closed: at(-4 * time.Second),
			LastPong: at(-44 * time.Second), Pings: 177, Missed: 2, RTT: 0.0042,
			Why: "its connection ended 4s ago: a call gets 430 at once\nit is forgotten in 1s unless it registers again",
		},
		{
			ID: "1c", AoR: "bob@example.org", Contact: "sip:bob@198.51.100.7", Mode: "path", Flow: "udp:198.51.100.7:5060", Backend: "pbx1", State: "registered",
			RegID: 2, Since: at(-time.Minute), Refreshed: at(-time.Minute), Expires: at(-time.Second),
		},
		{
			ID: "1d", AoR: "x\x1b]0;owned\x07 y@example.org", Contact: "sip:\u202egro\n@x", Mode: "\x1b[1m", Shown: "\x1b", Instance: "\u009b2J", RegID: 1,
			Flow: "udp:192.0.2.1:5060\x1b", Former: "\x1b[2J", Pool: "\x1b", Backend: "\x1b", UA: "a\\b\tc\x1b[2J", CallID: "\x1b\r\n", State: "\x1b[31m",
			Pings: 1, Why: "one\ntwo\x1b[2J",
		},
	}
}

// TestRegistrationListingsAreAsPromised: golden files of all that people read.
func TestRegistrationListingsAreAsPromised(t *testing.T) {
	all := shownRegistrations()
	stats := proxy.RegistrationStats{
		Registered: 1041, Flows: 1, Capacity: 100000, Added: 1500, Refreshed: 90210, Moved: 12, Expired: 455, Lost: 4, Refused: 3,
		Flow430: 17, Forged: 1, Pings: 48000, Pongs: 47990,
	}
	goldens(t, map[string]func(*strings.Builder){
		"registrations-list": func(b *strings.Builder) { writeRegistrations(b, admin.RegistrationList{Registrations: all}, noon) },
		"registrations-list-more": func(b *strings.Builder) {
			writeRegistrations(b, admin.RegistrationList{Registrations: all[:1], More: true}, noon)
		},
		"registrations-none":         func(b *strings.Builder) { writeRegistrations(b, admin.RegistrationList{}, noon) },
		"registrations-show-path":    func(b *strings.Builder) { writeRegistration(b, all[0], noon) },
		"registrations-show-closed":  func(b *strings.Builder) { writeRegistration(b, all[1], noon) },
		"registrations-show-expired": func(b *strings.Builder) { writeRegistration(b, all[2], noon) },
		"registrations-show-hostile": func(b *strings.Builder) { writeRegistration(b, all[3], noon) },
		"registrations-stats":        func(b *strings.Builder) { writeRegistrationStats(b, stats) },
		"registrations-stats-new":    func(b *strings.Builder) { writeRegistrationStats(b, proxy.RegistrationStats{}) },
		"registrations-list-json": func(b *strings.Builder) {
			if err := writeJSON(b, admin.RegistrationList{Registrations: all}); err != nil {
				t.Error(err)
			}
		},
	})
}

// TestRegistrationCommands: exit codes and what is said, with an edge that answers.
func TestRegistrationCommands(t *testing.T) {
	e := answering(t)
	if code, out, errOut := run(t, "registrations", "list"); code != exitOK || out != "no registrations\n" || errOut != "" {
		t.Errorf("none: exit code %d, %s%s", code, out, errOut)
	}
	e.SetRegistrations(shownRegistrations())
	cases := []struct {
		args     string
		code     int
		out, err string // parts
		without  string // what the output must not have
	}{
		{args: "registrations list", out: "1c  bob@example.org"},
		{args: "registrations list --json", out: `"more": false`},
		{args: "registrations list --limit 3", out: "only the first 3: narrow it down"},
		{args: "registrations list --aor sip:bob@EXAMPLE.org", out: "1c  bob@", without: "alice"},
		{args: "registrations list --text JsSIP", out: "1b  alice@", without: "1a"},
		{args: "registrations list --source 198.51.100.7:5060", out: "1c  bob@", without: "alice"},
		{args: "registrations list --source [2001:DB8::7]", out: "1b  alice@", without: "1a"},
		{args: "registrations list --source 192.0.2.99 --json", out: `"registrations": []`},
		{args: "registrations list --backend pbx2", out: "1b  alice@", without: "1a"},
		{args: "registrations show 1b", out: "registration 1b of alice@example.org: closed, ", without: "1a"},
		{args: "registrations show sips:alice@Example.org", out: "registration 1b of alice@example.org: closed, "},
		{args: "registrations show alice@example.org --json", out: `"id": "1b"`},
		{args: "registrations show Alice@example.org", code: exitFailure,
			err: `sipward registrations show: no registration of "Alice@example.org"; it may have expired, lost its connection, or never come by here`},
		{args: "registrations show alice", code: exitFailure, err: `no registration of "alice"`},
		{args: "registrations stats", out: "4 registrations of at most 100, over 4 flows"},
		{args: "registrations stats --json", out: `"registered": 4`},
	}
	for _, c := range cases {
		t.Run(c.args, func(t *testing.T) {
			code, out, errOut := run(t, strings.Fields(c.args)...)
			if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(errOut, c.err) || (c.code == exitOK) != (errOut == "") ||
				c.without != "" && strings.Contains(out, c.without) {
				t.Errorf("exit code %d, output %s, errors %q", code, out, errOut)
			}
			if strings.Contains(c.args, "--json") && !json.Valid([]byte(out)) {
				t.Errorf("not JSON: %s", out)
			}
		})
	}
	if code, out, errOut := run(t, "registrations", "show", ""); code != exitFailure || out != "" || !strings.Contains(errOut, `no registration of ""`) {
		t.Errorf("of nobody: exit code %d, %s%s", code, out, errOut)
	}
}

// TestRegistrationCompletion: each address of record once, and only what begins with what is typed.
func TestRegistrationCompletion(t *testing.T) {
	answering(t).SetRegistrations(shownRegistrations())
	for args, want := range map[string]string{
		"show|":         "alice@example.org\tudp:203.0.113.7:41022, registered\nbob@example.org\tudp:198.51.100.7:5060, registered\nx\\x1b",
		"show|sip":      ":4\n",
		"show|bob":      "bob@example.org\tudp:198.51.100.7:5060, registered\n:4\n",
		"show x|":       ":4\n",
		"list --aor|b":  "bob@example.org\tudp:",
		"list --aor|jj": ":4\n",
	} {
		before, typed, _ := strings.Cut(args, "|")
		code, out, _ := run(t, append(append([]string{"__complete", "registrations"}, strings.Fields(before)...), typed)...)
		if code != exitOK || !strings.HasPrefix(out, want) {
			t.Errorf("%s: exit code %d, %q", args, code, out)
		}
	}
}

func TestPingsInAWord(t *testing.T) {
	for want, r := range map[string]proxy.RegistrationInfo{
		"-": {NATed: true, Pings: 1}, "1 missed": {Missed: 1, RTT: 0.1}, "0.4ms": {RTT: 0.0004}, "10ms": {RTT: 0.0101}, "1250ms": {RTT: 1.25},
	} {
		if got := ping(r); got != want {
			t.Errorf("%+v: %s, want %s", r, got, want)
		}
	}
}
