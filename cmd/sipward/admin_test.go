package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sipward/sipward/admin"
	"github.com/sipward/sipward/proxy"
	"github.com/sipward/sipward/test/admintest"
	"github.com/sipward/sipward/test/siptest"
)

// noon is when the listings of the golden files are made.
var noon = admintest.Noon

// shownCalls are calls of each kind; 1c has what a caller can write to harm who reads it.
func shownCalls() []proxy.CallInfo {
	at := func(d time.Duration) time.Time { return noon.Add(d) }
	return []proxy.CallInfo{
		{
			ID: "1a", CallID: "4f2a@192.0.2.10", From: "sip:alice@example.org", To: "sip:bob@example.org", RURI: "sip:bob@203.0.113.5",
			Source: "udp:192.0.2.10:5060", Pool: "pbx", Backend: "pbx1", State: "confirmed", Mode: "R",
			Start: at(-26 * time.Hour), Answer: at(-26*time.Hour + 9*time.Second), Age: 93591,
			NextProbe: at(252 * time.Second), LastVerified: at(-48 * time.Second), Ends: at(552 * time.Second), EndsBy: "session_ttl",
			Why: "both legs have a session timer, and the edge probes both", Dialogs: 2,
			Limits: []proxy.Limit{{Key: "max_call_duration", At: at(3 * time.Hour)}, {Key: "session_ttl", At: at(552 * time.Second)}},
			Legs: []proxy.LegInfo{
				{Leg: "caller", Target: "sip:alice@192.0.2.10:5060;transport=udp", Probe: "update", SE: 600, Refresher: "self", LastVerified: at(-48 * time.Second)},
				{Leg: "callee", Target: "sip:bob@10.0.0.10", Probe: "reinvite", SE: 600, Refresher: "peer", LastVerified: at(-52 * time.Second), Failures: 2},
			},
		},
		{
			ID: "1b", CallID: "b7@host", From: "sip:a-very-long-user-name-of-a-trunk@carrier.example.net;user=phone", To: "sip:+4930123456@example.org",
			Source: "tls:198.51.100.7:40112", Pool: "pbx", Backend: "pbx2", State: "confirmed", Mode: "N", Start: at(-3 * time.Minute), Answer: at(-2 * time.Minute),
			Age: 120, Ends: at(7080 * time.Second), EndsBy: "no_timer_call_duration", Why: "neither side takes part in session timers",
			Limits: []proxy.Limit{{Key: "no_timer_call_duration", At: at(7080 * time.Second)}},
			Legs:   []proxy.LegInfo{{Leg: "caller", Target: "sip:carrier.example.net"}, {Leg: "callee", Target: "sip:10.0.0.11"}},
		},
		{
			ID: "1c", CallID: "x\x1b]0;owned\x07\x9b2J\u009b1m\u202egro", From: "sip:\x1b[31mred@example.org", To: "sip:b\\ob\n@example.org", RURI: "sip:\tx",
			Pool: "pbx", State: "ringing", Start: at(-4 * time.Second), Age: 4, Ends: at(-time.Second), EndsBy: "max_ring_duration", Dialogs: 1,
			Why: "not answered\nyet\x1b[2J", Legs: []proxy.LegInfo{{Leg: "caller", Target: "sip:\x1b[2J"}},
		},
		{
			ID: "1d", CallID: "c1@host", From: "sip:alice@example.org", To: "sip:bob@example.org", RURI: "sip:bob@203.0.113.5",
			Source: "udp:192.0.2.10:5060", Pool: "pbx", Backend: "pbx1", State: "terminating", Mode: "P", Start: at(-time.Minute), Answer: at(-50 * time.Second),
			Age: 50, LastVerified: at(-50 * time.Second), Why: "the edge has ended it", Dialogs: 1, Legs: []proxy.LegInfo{{Leg: "caller"}, {Leg: "callee"}},
		},
	}
}

// TestListingsAreAsPromised: golden files of all that people read, and nothing in them that a terminal obeys.
func TestListingsAreAsPromised(t *testing.T) {
	calls := shownCalls()
	backends := []proxy.BackendInfo{
		{Pool: "pbx", Name: "pbx1", Address: "sip:10.0.0.10:5060", Targets: []string{"udp:10.0.0.10:5060"}, State: "up", Since: noon.Add(-time.Hour), Calls: 12},
		{Pool: "pbx", Name: "pbx2", Address: "sip:pbx2.example.org", State: "down", Why: "no answer", Since: noon.Add(-5 * time.Second), Calls: 3, MaxCalls: 100, MaxCPS: 50},
		{Pool: "trunk", Name: "t1", Address: "sip:192.0.2.1", Targets: []string{"udp:192.0.2.1:5060", "tcp:192.0.2.1:5060"}, State: "drain", Why: "set by the operator\x1b[2J"},
	}
	stats := proxy.CallStats{
		Attempts: 1000, Answered: 900, Failed: 80, Concurrent: 12, Ringing: 8, ASR: 91.84, ACD: 187.4, PDD: 1.234, CPS: 3.5,
		Ended: map[string]uint64{"bye": 870, "session_ttl": 1, "admin": 17}, Modes: map[string]int{"R": 9, "P": 2, "N": 1},
		Probes: map[string]uint64{"update/2xx": 4000, "options/timeout": 3},
	}
	goldens(t, map[string]func(*strings.Builder){
		"calls-list":      func(b *strings.Builder) { writeCalls(b, admin.CallList{Calls: calls}, noon) },
		"calls-list-more": func(b *strings.Builder) { writeCalls(b, admin.CallList{Calls: calls[:1], More: true}, noon) },
		"calls-none":      func(b *strings.Builder) { writeCalls(b, admin.CallList{}, noon) },
		"calls-show-r":    func(b *strings.Builder) { writeCall(b, calls[0], noon) },
		"calls-show-n":    func(b *strings.Builder) { writeCall(b, calls[1], noon) },
		"calls-show-ring": func(b *strings.Builder) { writeCall(b, calls[2], noon) },
		"calls-show-end":  func(b *strings.Builder) { writeCall(b, calls[3], noon) },
		"calls-stats":     func(b *strings.Builder) { writeStats(b, stats) },
		"calls-stats-new": func(b *strings.Builder) { writeStats(b, proxy.CallStats{}) },
		"backends-list":   func(b *strings.Builder) { writeBackends(b, backends, noon) },
		"calls-list-json": func(b *strings.Builder) {
			if err := writeJSON(b, admin.CallList{Calls: calls}); err != nil {
				t.Error(err)
			}
		},
	})
}

// goldens holds what is written to golden files, and nothing in it may be what a terminal obeys.
func goldens(t *testing.T, all map[string]func(*strings.Builder)) {
	t.Helper()
	for name, write := range all {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			write(&b)
			golden(t, name+".golden", b.String())
			if strings.ContainsFunc(b.String(), func(r rune) bool { return r != '\n' && r != '\\' && r != '\t' && isHidden(r) }) {
				t.Errorf("a terminal obeys this: %q", b.String())
			}
		})
	}
}

// TestColoursStandAroundWholeCells: the columns stay aligned, and the head is never a state.
func TestColoursStandAroundWholeCells(t *testing.T) {
	var b strings.Builder
	p := colors{green: "<g>", dim: "<d>"}
	writeTable(&b, p, [][]string{{"A", "STATE", "B"}, {"x", "up", "y"}}, tint{1, func(s string) string { return map[string]string{"up": p.green, "STATE": p.green}[s] }})
	if want := "<d>A  STATE  B\x1b[0m\nx  <g>up   \x1b[0m  y\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestSpans(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 59 * time.Second: "59s", time.Minute: "1m00s", 59*time.Minute + 59600*time.Millisecond: "1h00m",
		2*time.Hour + 5*time.Minute + 59*time.Second: "2h05m", 49*time.Hour + 59*time.Minute: "2d01h",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// FuzzVisible: what is shown has nothing that a terminal obeys, and two texts look alike only if they are.
func FuzzVisible(f *testing.F) {
	for _, s := range []string{"sip:alice@example.org", "\x1b[2J", "\u202egro", "\\x1b", "\x9b", "ü\ufffd", "\U000e0001", "\x1b\\"} {
		f.Add(s, "x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.ContainsFunc(visible(a), func(r rune) bool { return r != '\\' && isHidden(r) }) {
			t.Errorf("%q", visible(a))
		}
		if a != b && visible(a) == visible(b) {
			t.Errorf("%q and %q are both %s", a, b, visible(a))
		}
		var out strings.Builder
		if err := writeJSON(&out, a); err != nil {
			t.Fatal(err)
		}
		var back string
		if err := json.Unmarshal([]byte(out.String()), &back); err != nil || back != strings.ToValidUTF8(a, "\ufffd") && strings.ToValidUTF8(a, "") == a {
			t.Errorf("%q became %s, %q, %v", a, out.String(), back, err)
		}
		if strings.ContainsFunc(strings.TrimSuffix(out.String(), "\n"), func(r rune) bool { return r != '\\' && isHidden(r) }) {
			t.Errorf("JSON %q", out.String())
		}
	})
}

// twoPools is an edge with the calls above and a backend of the same name in two pools.
type twoPools struct {
	admintest.Guard
	admintest.Registrar
	mu    sync.Mutex // guards what follows
	ended []string
	set   []string
}

func (e *twoPools) Calls(f proxy.CallFilter) (all []proxy.CallInfo) {
	for _, c := range append(shownCalls(), proxy.CallInfo{ID: "2a", CallID: "twice", Answer: noon}, proxy.CallInfo{ID: "2b", CallID: "twice"}) {
		if (f.ID == "" || f.ID == c.ID) && (f.CallID == "" || f.CallID == c.CallID) && (f.Mode == "" || f.Mode == c.Mode) &&
			(f.Backend == "" || f.Backend == c.Backend) && strings.Contains(c.From+c.To, f.Party) && (f.Limit == 0 || len(all) < f.Limit) {
			all = append(all, c)
		}
	}
	return all
}

func (e *twoPools) EndCall(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = append(e.ended, id)
	return id == "1a"
}

func (e *twoPools) CallStats() proxy.CallStats { return proxy.CallStats{Attempts: 7} }

func (e *twoPools) Backends() []proxy.BackendInfo {
	return []proxy.BackendInfo{{Pool: "a", Name: "same", State: "up"}, {Pool: "b", Name: "same", State: "up"}, {Pool: "b", Name: "one", State: "drain"}}
}

func (e *twoPools) SetBackend(pool, name, state string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.set = append(e.set, pool+"/"+name+"="+state)
	return nil
}

// answering serves twoPools at admin.sock in a directory that the test changes to.
func answering(t *testing.T) *twoPools {
	t.Helper()
	inDir(t, nil)
	e, nop := new(twoPools), zerolog.Nop()
	s, err := admin.Listen("admin.sock", e, &nop)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	t.Setenv(socketVariable, "admin.sock")
	return e
}

// TestAskingCommands: exit codes and what is said, with an edge that answers.
func TestAskingCommands(t *testing.T) {
	e := answering(t)
	cases := []struct {
		args     string
		code     int
		out, err string // parts
	}{
		{args: "calls list", out: "4f2a@192.0.2.10"},
		{args: "calls list --json", out: `"more": false`},
		{args: "calls list --limit 2", out: "only the first 2: narrow it down"},
		{args: "calls list --mode n", out: "no_timer_call_duration"},
		{args: "calls list --party nobody@nowhere", out: "no calls\n"},
		{args: "calls list --call-id none --json", out: `"calls": []`},
		{args: "calls list --socket admin.sock --backend pbx1", out: "pbx1"},
		{args: "calls show 1a", out: "call 1a: confirmed for 1d01h, mode R"},
		{args: "calls show b7@host", out: "call 1b: "},
		{args: "calls show 1a --json", out: `"ends_by": "session_ttl"`},
		{args: "calls show 9z", code: exitFailure, err: `sipward calls show: no call with the ID or Call-ID "9z"; it may have ended`},
		{args: "calls show twice", code: exitFailure, err: "2 calls have this Call-ID, say which by its ID: 2a 2b"},
		{args: "calls end 4f2a@192.0.2.10", out: "call 1a is being ended: BYE goes to sip:alice@example.org and sip:bob@example.org\n"},
		{args: "calls end 1a --json", out: `"id": "1a"`},
		{args: "calls end 9z", code: exitFailure, err: `no call with the ID or Call-ID "9z"`},
		{args: "calls end 1c", code: exitFailure, err: "call 1c: the call is not answered yet"},
		{args: "calls end 2a", code: exitFailure, err: "call 2a: no such call; it may have ended"},
		{args: "calls stats", out: "7 attempts"},
		{args: "calls stats --json", out: `"attempts": 7`},
		{args: "backends list", out: "b     one      drain"},
		{args: "backends list --json", out: `"backends": [`},
		{args: "backends drain one", out: "one"},
		{args: "backends up b/same --json", out: `"pool": "b"`},
		{args: "backends down a/same", out: "same"},
		{args: "backends drain same", code: exitFailure, err: `backend "same" is in 2 pools, say which: a/same b/same`},
		{args: "backends up none", code: exitFailure, err: `no backend "none"; there are: a/same b/same b/one`},
	}
	for _, c := range cases {
		t.Run(c.args, func(t *testing.T) {
			code, out, errOut := run(t, strings.Fields(c.args)...)
			if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(errOut, c.err) || (c.code == exitOK) != (errOut == "") || strings.Count(errOut, "\n") > 1 {
				t.Errorf("exit code %d, output %s, errors %q", code, out, errOut)
			}
			if strings.Contains(c.args, "--json") && !json.Valid([]byte(out)) {
				t.Errorf("not JSON: %s", out)
			}
		})
	}
	if want := []string{"1a", "1a", "1c", "2a"}; !slices.Equal(e.ended, want) {
		t.Errorf("ended %v, want %v", e.ended, want)
	}
	if want := []string{"b/one=drain", "b/same=up", "a/same=disabled"}; !slices.Equal(e.set, want) {
		t.Errorf("set %v, want %v", e.set, want)
	}
}

// TestCompletionAsksTheEdge: for calls and backends, and says nothing where none answers.
func TestCompletionAsksTheEdge(t *testing.T) {
	answering(t)
	for args, want := range map[string]string{
		"calls show":           "1a\tsip:alice@example.org to sip:bob@example.org\n",
		"calls end":            `1c	sip:\x1b[31mred@example.org to sip:b\\ob\x0a@example.org` + "\n",
		"backends drain":       "a/same\tup\nb/same\tup\none\tdrain\n",
		"calls list --backend": "a/same\tup\nb/same\tup\none\tdrain\n",
		"calls list --mode":    "R\nP\nN\n",
	} {
		if code, out, _ := run(t, append(append([]string{"__complete"}, strings.Fields(args)...), "")...); code != exitOK || !strings.Contains(out, want) {
			t.Errorf("%s: exit code %d, %q", args, code, out)
		}
	}
	t.Setenv(socketVariable, "nowhere.sock")
	if code, out, _ := run(t, "__complete", "calls", "show", ""); code != exitOK || out != ":4\n" {
		t.Errorf("no edge: exit code %d, %q", code, out)
	}
}

// TestNoEdgeAnswers: one line, exit code 1, and where it was looked for.
func TestNoEdgeAnswers(t *testing.T) {
	inDir(t, map[string]string{defaultFile: soundFile + "admin: { socket: ./its.sock }\n", "none.yaml": soundFile + "admin: { socket: \"\" }\n"})
	t.Setenv(socketVariable, "") // put back at the end
	if err := os.Unsetenv(socketVariable); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", "/nonexistent")
	for args, want := range map[string]string{
		"calls list --socket gone.sock":      "sipward calls list: no edge answers at gone.sock: is it running?\n",
		"backends list -c " + defaultFile:    "sipward backends list: no edge answers at ./its.sock: is it running?\n",
		"calls end 1 --socket /no/such/s":    "sipward calls end: no edge answers at /no/such/s: is it running?\n",
		"backends up a --socket sipward.yam": "sipward backends up: no edge answers at sipward.yam: is it running?\n",
	} {
		if code, out, errOut := run(t, strings.Fields(args)...); code != exitFailure || out != "" || errOut != want {
			t.Errorf("%s: exit code %d, output %q, errors %q", args, code, out, errOut)
		}
	}
	if code, _, errOut := run(t, "calls", "list", "-c", "none.yaml"); code != exitBadConfig || !strings.Contains(errOut, "admin.socket is empty") {
		t.Errorf("no socket in the file: exit code %d, %q", code, errOut)
	}
}

// TestEdgeAnswersOnItsSocket: the built program, asked by the commands, and the file gone when it ended.
func TestEdgeAnswersOnItsSocket(t *testing.T) {
	port, err := siptest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	inDir(t, nil)
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	edge := siptest.StartProxy(t, "--to", "127.0.0.9:9", "--listen", fmt.Sprintf("udp:127.0.0.1:%d", port), "--set", "admin.socket="+socket,
		"--set", "pools.pbx.probe.interval=0")
	if !strings.Contains(edge.Output(), socket) {
		t.Errorf("no line about the socket:\n%s", edge.Output())
	}
	if code, out, errOut := run(t, "backends", "drain", "pbx1", "--socket", socket); code != exitOK || !strings.Contains(out, "drain") {
		t.Errorf("exit code %d, %s%s", code, out, errOut)
	}
	if code, out, errOut := run(t, "calls", "list", "--socket", socket); code != exitOK || out != "no calls\n" {
		t.Errorf("exit code %d, %s%s", code, out, errOut)
	}
	code, out, errOut := run(t, "proxy", "--to", "127.0.0.9:9", "--listen", "udp:127.0.0.1:0", "--set", "admin.socket="+socket)
	if code != exitFailure || !strings.Contains(errOut, "admin.socket: "+socket+": in use by another edge; give this one a path of its own\n") {
		t.Errorf("a second edge: exit code %d, %s%s", code, out, errOut)
	}
	edge.Stop()
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket file is there: %v", err)
	}
}
