package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/admin"
	"github.com/sipward/sipward/proxy"
)

// shownBans are bans of each kind; the last has what an attacker can write to harm who reads it.
func shownBans() []proxy.BanInfo {
	at := func(d time.Duration) time.Time { return noon.Add(d) }
	return []proxy.BanInfo{
		{
			Key: "192.0.2.1", Rule: "dos", Since: at(-170 * time.Second), Until: at(3430 * time.Second), Hard: true, Count: 51, Limit: 50, Window: 2,
			First: at(-172 * time.Second), Last: at(-170 * time.Second), By: "edge", Drops: 48213, LastDrop: at(-time.Second), Kernel: "nftables",
			Evidence: []proxy.EvidenceInfo{
				{At: at(-171 * time.Second), Method: "REGISTER", CallID: "4f2a@192.0.2.1", Status: 401},
				{At: at(-170 * time.Second)},
			},
		},
		{
			Key: "2001:db8:1:2::/64", Rule: "failed_auth_source", Since: at(-26 * time.Hour), Until: at(60 * time.Second), Proven: true, Count: 20, Limit: 20, Window: 60,
			First: at(-26 * time.Hour), Last: at(-26 * time.Hour), By: "edge", Drops: 1, LastDrop: at(-time.Hour), Kernel: "filter",
		},
		{
			Key: "alice@example.org", Rule: "failed_auth", Since: at(-time.Minute), Until: at(59 * time.Minute), Proven: true, Count: 3, Limit: 3,
			First: at(-80 * time.Second), Last: at(-time.Minute), By: "edge",
		},
		{
			Key: "bob@example.org/198.51.100.7", Rule: "operator", Since: at(-time.Minute), Until: at(30 * 24 * time.Hour), By: "carol",
			Why: "ticket 17: the phone in the lobby that nobody has the password of any more",
		},
		{
			Key: "x\x1b]0;owned\x07 y:: 1@example.org", Rule: "failed_auth", Since: at(-time.Minute), Until: at(-time.Second), Count: 4, Limit: 3, By: "ed\x1b[2Jge",
			Why: "\u202egro\nEntry:: 99", Kernel: "\u009b2J",
			Evidence: []proxy.EvidenceInfo{{At: at(-time.Minute), Method: "REG\x1b[1m", CallID: "\x1b[2J\r\n@h", Status: 403}},
		},
	}
}

// TestBanListingsAreAsPromised: golden files of all that people and programs read.
func TestBanListingsAreAsPromised(t *testing.T) {
	bans := shownBans()
	listed := proxy.Explanation{
		Key: "192.0.2.1", Kind: "ip", Verdict: "dropped", Why: "it sent more than 50 messages in 2 s", Calls: 2, Ban: &bans[0],
		Rules: []proxy.RuleReading{
			{Rule: "dos", Mode: "enforce", Looks: true, Count: 51, Limit: 50, Window: 2, Outcome: "dropped", Why: "banned"},
			{Rule: "scanner", Mode: "enforce", Outcome: "passes"},
			{Rule: "failed_auth", Mode: "observe", Looks: true, Count: 2, Limit: 3, Outcome: "passes", Why: "one more and it would be banned"},
			{Rule: "loop", Mode: "off", Outcome: "passes", Why: "loop_enable is no"},
		},
		Change: []string{"sipward bans del 192.0.2.1", "security.trusted: [192.0.2.1]"},
	}
	hostile := proxy.Explanation{
		Key: bans[4].Key, Verdict: "refused\x1b[2J", Why: "two\nlines\x1b[2J", Trusted: "backend \"\x1b[1m\"", Known: true, Ban: &bans[4],
		Rules: []proxy.RuleReading{{Rule: "\x1b", Mode: "\x1b", Looks: true, Count: 1, Outcome: "\x1b", Why: "\x1b"}}, Change: []string{"\x1b[2J"},
	}
	stats := proxy.SecurityStats{
		Modes: map[string]string{"dos": "enforce", "failed_auth": "observe", "loop": "off"}, Bans: 2, UserBans: 3, Tracked: 1041,
		Dropped: map[string]uint64{"dos": 48213, "kernel": 90000}, Patterns: []proxy.PatternHits{{Pattern: "ua friendly-scanner", Hits: 7}, {Pattern: "user \x1b[2J", Hits: 1}},
		Kernel: "nftables", Suspended: "all comes from 172.17.0.1",
	}
	written := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	goldens(t, map[string]func(*strings.Builder){
		"bans-list":         func(b *strings.Builder) { writeBans(b, admin.BanList{Bans: bans}, noon) },
		"bans-list-more":    func(b *strings.Builder) { writeBans(b, admin.BanList{Bans: bans[:1], More: true}, noon) },
		"bans-none":         func(b *strings.Builder) { writeBans(b, admin.BanList{}, noon) },
		"bans-show-ip":      func(b *strings.Builder) { writeBan(b, bans[0], noon) },
		"bans-show-soft":    func(b *strings.Builder) { writeBan(b, bans[1], noon) },
		"bans-show-user":    func(b *strings.Builder) { writeBan(b, bans[2], noon) },
		"bans-show-why":     func(b *strings.Builder) { writeBan(b, bans[3], noon) },
		"bans-show-hostile": func(b *strings.Builder) { writeBan(b, bans[4], noon) },
		"bans-sht-dump":     func(b *strings.Builder) { writeHashTable(b, bans) },
		"bans-stats":        func(b *strings.Builder) { writeSecurity(b, stats) },
		"bans-stats-new":    func(b *strings.Builder) { writeSecurity(b, proxy.SecurityStats{}) },
		"bans-export-json":  func(b *strings.Builder) { written(writeExport(b, bans, noon)) },
		"bans-export-nft":   func(b *strings.Builder) { written(writeNFT(b, bans, noon)) },
		"bans-export-ipset": func(b *strings.Builder) { written(writeIPSet(b, bans, noon)) },
		"bans-export-plain": func(b *strings.Builder) { written(writePlain(b, bans, noon)) },
		"explain":           func(b *strings.Builder) { writeExplanation(b, listed, noon) },
		"explain-hostile":   func(b *strings.Builder) { writeExplanation(b, hostile, noon) },
		"explain-unknown": func(b *strings.Builder) {
			writeExplanation(b, proxy.Explanation{Key: "192.0.2.9", Verdict: "passes", Why: "nothing is known of it"}, noon)
		},
	})
}

// TestBanCommands: exit codes and what is said, with an edge that answers.
func TestBanCommands(t *testing.T) {
	e := answering(t)
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("list.txt", "# a list\n\n203.0.113.1\n 203.0.113.2 # the second\r\n[2001:db8:9::1]\n10.0.0.1\nAlice@EXAMPLE.org\n")
	write("bracket.txt", "[2001:db8:8::1]\n")
	write("bad.txt", "203.0.113.7\n203.0.113.0/24\nx\n")
	write("worse.txt", strings.Repeat("x\n", 9))
	write("long.txt", strings.Repeat("9", 5000))
	write("bad.json", `{"bans":[{"key":"203.0.113.8"},{"key":"x"}]}`)
	write("cut.json", `{"bans":[{"key":"203.0.113.8"},`)
	write("other.json", `{"calls":[]}`)
	t.Setenv("SUDO_USER", "carol")
	cases := []struct {
		args     string
		code     int
		out, err string // parts
	}{
		{args: "bans list", out: "no bans\n"},
		{args: "bans list --json", out: `"bans": []`},
		{args: "bans list --sht-dump"},
		{args: "bans add 192.0.2.1 --for 90m --why ticket", out: "192.0.2.1 is banned for 1h30m: all that comes from there is dropped\n"},
		{args: "bans add 2001:db8:1:2::9 --for 60 --json", out: `"key": "2001:db8:1:2::/64"`},
		{args: "bans add sip:Alice@EXAMPLE.org --for 60", out: "Alice@example.org is banned for 1m00s: requests of this user are refused"},
		{args: "explain <sip:Alice@EXAMPLE.org:5060;transport=tcp>", out: "Alice@example.org: passes"},
		{args: "explain sip:bob@[2001:db8::1]:5060;x=y", out: "bob@[2001:db8::1]: passes"},
		{args: "explain sip:bob@example.org:5060/2001:db8::1 --json", out: `"key": "bob@example.org/2001:db8::/64"`},
		{args: "bans add 10.0.0.1", code: exitFailure, err: `sipward bans add: 10.0.0.1 is never banned: it is backend "pbx1"`},
		{args: "bans add 192.0.2.2 --for 99999h", code: exitFailure, err: "1 to 315360000 seconds, or 0 for the configured time"},
		{args: "bans list", out: "192.0.2.1          operator  all    ticket"},
		{args: "bans list --kind user --json", out: `"key": "Alice@example.org"`},
		{args: "bans list --rule dos", out: "no bans\n"},
		{args: "bans list --key 192 --limit 1", out: "carol"},
		{args: "bans list --limit 1", out: "only the first 1: narrow it down"},
		{args: "bans list --sht-dump --kind ip", out: "Entry:: 1\n\t2001:db8:1:2::/64:: 1\n"},
		{args: "bans list --sht-dump --kind ip --limit 1", out: "Entry:: 0\n\t192.0.2.1:: 1\n"},
		{args: "bans list --sht-dump --kind user", out: "\tAlice@example.org::last_auth:: 1772366400\n"},
		{args: "bans show 192.0.2.1:5060", out: "192.0.2.1 is banned until now\nall that comes from there is dropped\n"},
		{args: "bans show [2001:db8:1:2::5]:5060 --json", out: `"rule": "operator"`},
		{args: "bans show 192.0.2.99", code: exitFailure, err: "192.0.2.99 is not banned; sipward explain says what happens to it"},
		{args: "bans export", out: `"key": "192.0.2.1"`},
		{args: "bans export --json", out: `"more": false`},
		{args: "bans export --kind user --format json -o users.json"},
		{args: "bans export --format plain", out: "192.0.2.1\n2001:db8:1:2::/64\n", err: "1 ban of users left out: only --format json can have them\n"},
		{args: "bans export --format plain --kind ip", out: "192.0.2.1\n2001:db8:1:2::/64\n"},
		{args: "bans export -o no/such/dir/x", code: exitFailure, err: "no such file or directory"},
		{args: "bans import bad.txt", code: exitBadConfig, err: "bad.txt:2: \"203.0.113.0/24\": 203.0.113.0/24: a ban is of one IPv4 address or one IPv6 /64\n" +
			"bad.txt:3: \"x\": want an IP address, user@domain, or user@domain/address\nnothing was imported\n"},
		{args: "bans import worse.txt", code: exitBadConfig, err: "worse.txt: and 4 more\nnothing was imported\n"},
		{args: "bans import long.txt", code: exitBadConfig, err: "long.txt: line 1 has more than 4096 bytes: neither an export nor a list"},
		{args: "bans import bad.json", code: exitBadConfig, err: "bad.json: ban 2: \"x\": want"},
		{args: "bans import cut.json", code: exitBadConfig, err: "cut.json: unexpected EOF\n"},
		{args: "bans import other.json", code: exitBadConfig, err: "other.json: want {\"bans\": […]}\n"},
		{args: "bans import list.txt --for 1h", out: "3 bans added, 2 skipped\n"},
		{args: "bans import bracket.txt --json", out: `"added": 1`},
		{args: "bans import users.json", out: "0 bans added, 1 skipped\n"},
		{args: "bans show 203.0.113.2", out: "imported from list.txt"},
		{args: "bans del 192.0.2.1 2001:db8:1:2::1", out: "192.0.2.1 is no longer banned (operator, it stopped 0 messages)\n2001:db8:1:2::/64 is no longer banned"},
		{args: "bans del 192.0.2.1 203.0.113.1", code: exitFailure, out: "203.0.113.1 is no longer banned", err: "192.0.2.1 is not banned"},
		{args: "bans del 203.0.113.2 --json", out: `"key": "203.0.113.2"`},
		{args: "bans import users.json --json", out: `"skipped": 1`},
		{args: "bans stats", out: "3 of addresses, 0 of users"},
		{args: "bans stats --json", out: `"bans": 3`},
		{args: "explain 192.0.2.1:5060", out: "192.0.2.1: passes\nnothing stops it\n"},
		{args: "explain bob@example.org/2001:db8::1 --json", out: `"key": "bob@example.org/2001:db8::/64"`},
		{args: "bans flush --yes", out: "3 bans lifted\n"},
		{args: "bans flush --yes --json", out: `"lifted": 0`},
	}
	for _, c := range cases {
		t.Run(c.args, func(t *testing.T) {
			code, out, errOut := run(t, strings.Fields(c.args)...)
			if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(errOut, c.err) || c.err == "" && errOut != "" {
				t.Errorf("exit code %d, output %s, errors %q", code, out, errOut)
			}
			if strings.Contains(c.args, "--json") && !json.Valid([]byte(out)) {
				t.Errorf("not JSON: %s", out)
			}
		})
	}
	if left, err := filepath.Glob(".*"); err != nil || len(left) > 0 {
		t.Errorf("files left: %v, %v", left, err)
	}
	if len(e.Bans(proxy.BanFilter{})) != 0 {
		t.Error("bans are left")
	}
}

// TestExportsComeBack: an edge that imports an export of another has its bans.
func TestExportsComeBack(t *testing.T) {
	e := answering(t)
	e.SetBans(shownBans())
	if code, _, errOut := run(t, "bans", "export", "-o", "all.json"); code != exitOK || errOut != "" {
		t.Fatalf("exit code %d, %q", code, errOut)
	}
	info, err := os.Stat("all.json")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	want := fmt.Sprintf("%+v", e.Bans(proxy.BanFilter{}))
	e.FlushBans()
	if code, out, errOut := run(t, "bans", "import", "all.json"); code != exitOK || out != "5 bans added, 0 skipped\n" || errOut != "" {
		t.Fatalf("exit code %d, %s%s", code, out, errOut)
	}
	if got := fmt.Sprintf("%+v", e.Bans(proxy.BanFilter{})); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestBanCompletion: what is typed narrows the keys, and each argument is offered some.
func TestBanCompletion(t *testing.T) {
	e := answering(t)
	e.SetBans(shownBans())
	for args, want := range map[string]string{
		"bans show|":                "192.0.2.1\tdos, ends ",
		"bans show|192":             "192.0.2.1\tdos, ends ",
		"bans del|2001:db8":         "2001:db8:1:2::/64\tfailed_auth_source, ends ",
		"bans del 192.0.2.1|alice":  "alice@example.org\tfailed_auth, ends ",
		"bans show|x":               `x\x1b]0;owned\x07 y:: 1@example.org` + "\tfailed_auth, ends now\n",
		"explain|bob":               "bob@example.org/198.51.100.7\toperator, ends ",
		"bans list --rule|fail":     "dos\nfailed_auth\n",
		"bans list --kind|":         "ip\nuser\n",
		"bans export --format|":     "json\nnft\nipset\nplain\n",
		"bans show 192.0.2.1|alice": ":4\n",
		"bans import|":              ":0\n",
	} {
		before, typed, _ := strings.Cut(args, "|")
		code, out, _ := run(t, append(append([]string{"__complete"}, strings.Fields(before)...), typed)...)
		if code != exitOK || !strings.Contains(out, want) {
			t.Errorf("%s: exit code %d, %q", args, code, out)
		}
	}
}

// TestFlushNeedsSomebodyToAsk: a pipe and /dev/null are nobody.
func TestFlushNeedsSomebodyToAsk(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	var said bytes.Buffer
	if yes, err := confirmed(null, &said, "Sure?"); yes || err == nil || said.String() != "Sure? [y/N] \n" {
		t.Errorf("%v, %v, %q", yes, err, said.String())
	}
	stdin := os.Stdin
	os.Stdin = null
	code, out, errOut := run(t, "bans", "flush")
	os.Stdin = stdin
	if code != exitBadConfig || out != "" || !strings.Contains(errOut, "there is no terminal to ask at: --yes does it; see sipward bans flush --help\n") {
		t.Errorf("exit code %d, output %q, errors %q", code, out, errOut)
	}
	if yes, err := confirmed(strings.NewReader("y\n"), &said, "Sure?"); yes || err == nil {
		t.Errorf("from a pipe: %v, %v", yes, err)
	}
}

// TestNFTTakesTheExport: where nft is installed and may be used.
func TestNFTTakesTheExport(t *testing.T) {
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("nft is not installed")
	}
	var b strings.Builder
	if err := writeNFT(&b, shownBans(), noon); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), nft, "-c", "-f", "-")
	cmd.Stdin = strings.NewReader(b.String())
	out, err := cmd.CombinedOutput()
	if err != nil && (strings.Contains(string(out), "not permitted") || strings.Contains(string(out), "Protocol not supported")) {
		t.Skipf("nft may not be used here: %s", out)
	}
	if err != nil {
		t.Errorf("%v: %s\n%s", err, out, b.String())
	}
}

// FuzzImportedList: whatever a file has, each ban taken from it has a key, and a mistake takes none.
func FuzzImportedList(f *testing.F) {
	f.Add("192.0.2.1\n2001:db8::1 # x\n")
	f.Add("[2001:db8::1]\n")
	f.Add(`{"bans":[{"key":"a@b"}]}`)
	f.Add(` [{"key":"192.0.2.1"}]`)
	f.Fuzz(func(t *testing.T, text string) {
		all, err := readImport(strings.NewReader(text), "f", proxy.BanInfo{Rule: "operator"})
		if err != nil && len(all) > 0 {
			t.Errorf("%d bans and %v", len(all), err)
		}
		for _, b := range all {
			if key, err := proxy.BanKey(b.Key); err != nil || key != b.Key {
				t.Errorf("key %q: %q, %v", b.Key, key, err)
			}
		}
	})
}

// FuzzExports: no key gets into a script that root runs but addresses, and no line is forged.
func FuzzExports(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "2001:db8::/64", "x }\nflush ruleset\n", "a@b\n\tEntry:: 9", "fe80::1%eth0 }", "::ffff:192.0.2.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		all := []proxy.BanInfo{{Key: key, Until: noon}}
		for _, x := range exportFormats[1:] {
			var b, none strings.Builder
			if err := errors.Join(x.write(&b, all, noon), x.write(&none, []proxy.BanInfo{{}}, noon)); err != nil {
				t.Fatal(err)
			}
			if more := strings.Count(b.String(), "\n") - strings.Count(none.String(), "\n"); more > 1 {
				t.Errorf("%s: %d lines more: %q", x.name, more, b.String())
			}
			for line := range strings.Lines(b.String()) {
				if (strings.HasPrefix(line, "add element ") || strings.HasPrefix(line, "add sipward")) && strings.ContainsAny(line, `%\;#"'`) {
					t.Errorf("%s: %q", x.name, line)
				}
			}
		}
		var b strings.Builder
		if writeHashTable(&b, all); !slices.Contains([]int{2, 4}, strings.Count(b.String(), "\n")) {
			t.Errorf("%q", b.String())
		}
	})
}
