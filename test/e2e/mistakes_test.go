package e2e

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

func runFile(t *testing.T, command, yaml string, args ...string) (string, int) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "sipward.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	out, code, err := siptest.Run(within(t, time.Minute), dir, append([]string{command, "-c", file}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out, code
}

// TestMistakesAreListed: every mistake of a file at once, each with file, line, column and key,
// and a suggestion where one can be made; exit code 2.
func TestMistakesAreListed(t *testing.T) {
	const yaml = `listen:
  - udp:127.0.0.1:70000
  - carrier-pigeon:127.0.0.1:5060
log: { formatt: json }
pools:
  pbx:
    policy: hsah
    probe: { interval: -5 }
    backends:
      - { name: a, adress: "sip:10.0.0.1" }
transaction: { t1: soon }
`
	for _, command := range []string{"run", "check"} {
		t.Run(command, func(t *testing.T) {
			out, code := runFile(t, command, yaml)
			if code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
			for _, want := range []string{
				`sipward\.yaml:2:\d+.*70000`, `sipward\.yaml:3:\d+.*carrier-pigeon`, `sipward\.yaml:4:\d+.*formatt.*format`,
				`sipward\.yaml:7:\d+.*policy.*hash`, `sipward\.yaml:8:\d+.*interval`, `sipward\.yaml:10:\d+.*adress.*address`, `sipward\.yaml:11:\d+.*t1`,
			} {
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("no line matches %s", want)
				}
			}
			if t.Failed() {
				t.Logf("output:\n%s", out)
			}
		})
	}
}

// TestSoundFileIsSound: check says 0.
func TestSoundFileIsSound(t *testing.T) {
	s := settings{listen: []string{"udp:127.0.0.1:5060"}, backends: []string{"sip:10.0.0.10:5060"}}
	if out, code := runFile(t, "check", s.yaml()); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
}

// TestWhatCannotStartSaysWhy: one clear line with the address or file in it.
func TestWhatCannotStartSaysWhy(t *testing.T) {
	taken, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(siptest.AnyPort))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := taken.Close(); err != nil {
			t.Error(err)
		}
	}()
	takenAddr := taken.LocalAddr().String()
	free := freeAddr(t).String()
	cases := []struct {
		name  string
		s     settings
		codes []int
		want  []string
	}{
		{"port in use", settings{listen: []string{"udp:" + takenAddr}, backends: []string{"sip:127.0.0.2:5099"}}, []int{1, 2}, []string{takenAddr, "in use"}},
		{"certificate missing", settings{
			listen:   []string{`{ address: "tls:` + free + `", certificate: /nowhere/cert.pem, key: /nowhere/key.pem }`},
			backends: []string{"sip:127.0.0.2:5099"},
		}, []int{1, 2}, []string{"/nowhere/cert.pem"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			out, code := runFile(t, "run", c.s.yaml())
			ok := false
			for _, want := range c.codes {
				ok = ok || code == want
			}
			if !ok {
				t.Errorf("exit code %d, want one of %v", code, c.codes)
			}
			lines := 0
			for line := range strings.Lines(out) {
				found := true
				for _, w := range c.want {
					found = found && strings.Contains(line, w)
				}
				if found {
					lines++
				}
			}
			if lines != 1 {
				t.Errorf("%d lines say %q, want 1", lines, c.want)
			}
			if strings.Contains(out, "goroutine ") {
				t.Error("it panicked")
			}
			if t.Failed() {
				t.Logf("output:\n%s", out)
			}
		})
	}
}

// TestUnresolvableBackendIsNamed: a name that DNS does not know (yet) does not keep the edge from
// running; one line says which backend it is and what is wrong.
func TestUnresolvableBackendIsNamed(t *testing.T) {
	a := newAnswerer(t, "nodeA", nodeA)
	addr := freeAddr(t)
	edge := siptest.StartEdge(t, settings{
		listen: []string{"udp:" + addr.String()}, backends: []string{a.URI(), "sip:pbx.invalid"},
		top: "lab: yes\nresolver: { servers: [\"127.0.0.1:9\"], timeout: 0.1, hosts_file: \"\", min_ttl: 0.1, negative_ttl: 0.1 }\n",
	}.yaml())
	if _, err := edge.WaitLine(within(t, time.Minute), 0, func(l string) bool {
		return strings.Contains(l, "pbx.invalid") && regexp.MustCompile("(?i)resolve|lookup|no such host|dns").MatchString(l)
	}); err != nil {
		t.Fatal("no line says that the name has no address:", err)
	}
	load := &siptest.Load{Target: addr, Rate: 50, Calls: 20}
	calls, err := load.Run(within(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		if c.Status != 200 {
			t.Errorf("call %+v", c)
		}
	}
}
