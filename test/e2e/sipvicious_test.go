package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

// victims are the accounts that sipvicious looks for. They lie well inside the ranges that it is
// given, and 1000 belongs to somebody who telephones meanwhile.
var victims = map[string]string{"1000": "a good one", "1777": "4321"}

// scan is one run of a tool of sipvicious. svwar and svcrack bind to no address whatever they are
// told, and so come from 127.0.0.1.
type scan struct {
	name  string
	tool  string
	args  []string // before the target
	found string   // in its output when it has won
	tries int      // how many extensions or passwords are in its range
}

var scans = []scan{
	{"svmap", "svmap", []string{"-b", evilA.String()}, "| ", 1},
	{"svmap with INVITE", "svmap", []string{"-b", evilA.String(), "-m", "INVITE"}, "| ", 1},
	{"svwar", "svwar", []string{"-e", "1700-3699"}, "1777", 2000},
	{"svwar with INVITE", "svwar", []string{"-e", "1700-3699", "-m", "INVITE"}, "1777", 2000},
	{"svwar with OPTIONS", "svwar", []string{"-e", "1700-3699", "-m", "OPTIONS"}, "1777", 2000},
	{"svcrack", "svcrack", []string{"-u", "1777", "-r", "4000-8999", "--maximumtime=5"}, "4321", 5000},
}

// run runs it against an address, and says whether it found what it looks for.
func (s scan) run(ctx context.Context, t *testing.T, target fmt.Stringer, args ...string) (found bool, output string) {
	t.Helper()
	host, port, _ := strings.Cut(target.String(), ":")
	// With a port of its own, nothing comes to it that is meant for somebody at 5060.
	all := slices.Concat(s.args, args, []string{"-P", fmt.Sprint(freeAddr(t).Port()), "-p", port, host})
	cmd := exec.CommandContext(ctx, need(t, s.tool), all...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(cmd.Environ(), "HOME="+cmd.Dir)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", s.tool, all, err, out)
	}
	// What is found stands in a table, with the range that was asked for nowhere in it.
	for line := range bytes.Lines(out) {
		if bytes.HasPrefix(line, []byte("|")) && bytes.Contains(line, []byte(s.found)) {
			found = true
		}
	}
	return found, string(out)
}

// TestSipviciousAgainstItself: without an edge every one of these scans finds what it looks for.
func TestSipviciousAgainstItself(t *testing.T) {
	t.Parallel()
	for _, s := range scans {
		t.Run(s.name, func(t *testing.T) {
			need(t, s.tool)
			t.Parallel()
			pbx := newPBX(t, siptest.PBXOptions{Accounts: victims, Unknown: 404})
			quick := map[string][]string{
				"svwar": {"-e", "1770-1780", "--maximumtime=1"}, "svcrack": {"-r", "4310-4330", "--maximumtime=1"},
			}
			// The tools give up when a machine that stands still answers nothing for a second.
			for tries := 1; ; tries++ {
				found, out := s.run(within(t, time.Minute), t, pbx.Addr(), quick[s.tool]...)
				if found {
					break
				}
				if tries == 5 {
					t.Fatalf("%s found nothing:\n%s", s.tool, out)
				}
			}
		})
	}
}

// TestSipviciousGetsNowhere: behind the edge none of them finds an extension or a password, and
// the PBX sees next to nothing of them, by the list of known scanners and, where that is off, by
// bans alone; a telephone at another address registers and calls all the while.
func TestSipviciousGetsNowhere(t *testing.T) {
	t.Parallel()
	for _, s := range scans {
		for name, security := range map[string]string{"known scanners": "", "bans alone": "block_useragents: { enable: no }, "} {
			if s.tool == "svmap" && security != "" {
				continue // it asks each host once: there is nothing to ban it for
			}
			t.Run(s.name+" by "+name, func(t *testing.T) {
				need(t, s.tool)
				t.Parallel()
				f := newFort(t, siptest.PBXOptions{Accounts: victims, Unknown: 404, Ringing: time.Millisecond, Answer: time.Millisecond}, security, "")
				ctx := within(t, 60*time.Second)
				stop := alive(ctx, t, f.phone("1000", phoneA), victims["1000"], "sip:1000@"+domain, 500*time.Millisecond)
				found, out := s.run(ctx, t, f.addr)
				rounds := stop()
				t.Logf("the good phone registered and called %d times", rounds)

				if found {
					t.Errorf("%s found something:\n%s", s.tool, out)
				}
				// Each round is a challenged and an accepted REGISTER, and a call.
				seen := f.pbx.Count("REGISTER") - 2*rounds + f.pbx.Count("INVITE") - rounds + f.pbx.Count("OPTIONS")
				var stopped uint64
				for _, n := range securityStats(t, f.edge).Dropped {
					stopped += n
				}
				t.Logf("of %s the PBX saw %d messages, the edge stopped %d", s.tool, seen, stopped)
				switch {
				case security == "" && seen != 0:
					t.Errorf("the PBX saw %d messages", seen)
				case security == "" && stopped == 0:
					t.Error("nothing was stopped")
				case security != "" && seen*20 > s.tries:
					t.Errorf("the PBX saw %d messages for %d tries", seen, s.tries)
				}
			})
		}
	}
}
