package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sipward/sipward/test/siptest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// asMain makes the test binary be sipward itself.
const asMain = "SIPTEST_AS_SIPWARD"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" && !slices.Contains(os.Args, "-test.fuzzworker") { // a worker has our environment
		main()
		return
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for name, value := range map[string]string{asMain: "1", "SIPTEST_BINARY": self, "NO_COLOR": "1"} {
		if err := os.Setenv(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(siptest.StrayReader))
}

// run executes a command line in a directory of its own.
func run(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = execute(args, &o, &e)
	return code, o.String(), e.String()
}

// inDir changes to a directory with the given files.
func inDir(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update rewrites it); got:\n%s", file, got)
	}
}

// TestUsageMistakes: one line that helps, nothing on standard output, exit code 2.
func TestUsageMistakes(t *testing.T) {
	inDir(t, nil)
	cases := []struct{ args, want string }{
		{"frobnicate", `sipward: unknown command "frobnicate"; see sipward --help`},
		{"chek", `unknown command "chek" (did you mean "check"?)`},
		{"run extra", `sipward run: unexpected "extra"`},
		{"run --colour", "sipward run: unknown flag: --colour; see sipward run --help"},
		{"proxy", "--to is needed: the address of your PBX, for example --to sip:10.0.0.10:5060"},
		{"proxy --to", "flag needs an argument: --to"},
		{"proxy --to http://pbx", "--to http://pbx: "},
		{"proxy --to 127.0.0.1 --listen udp:pbx", "command line:2:5: listen[0].address: "},
		{"init --to 10.0.0.1:99999", "--to 10.0.0.1:99999: "},
		{"completion", "name one shell: bash, zsh or fish"},
		{"completion tcsh", `no completion for "tcsh"`},
		{"version x", `unexpected "x"`},
		{"calls lst", `sipward calls: unknown command "lst" (did you mean "list"?); see sipward calls --help`},
		{"calls list x", `unexpected "x"`},
		{"calls list --mode X", "--mode X: R, P or N"},
		{"calls list --limit 0", "--limit 0: 1 to 10000"},
		{"calls list --limit all", "invalid argument"},
		{"calls show", "say which: the ID that sipward calls list shows, or a Call-ID"},
		{"calls end a b", `unexpected "b": one at a time`},
		{"calls stats --socket a -c b", "--socket and --config exclude each other"},
		{"calls list -c other.yaml", "other.yaml: no such file"},
		{"backends remove pbx1", `sipward backends: unknown command "remove"`},
		{"backends drain", "say which: the name of a backend; sipward backends list shows them"},
		{"bans lst", `unknown command "lst" (did you mean "list"?)`},
		{"bans list --rule whim", "--rule whim: dos, failed_auth, failed_auth_source, enumeration, operator"},
		{"bans list --kind phone", "--kind phone: ip or user"},
		{"bans list --limit 10001", "--limit 10001: 1 to 10000"},
		{"bans list --sht-dump --json", "--sht-dump and --json exclude each other"},
		{"bans show", "say which: an IP address, user@domain, or user@domain/address; sipward bans list shows those that are banned"},
		{"bans show alice", `"alice": want an IP address, user@domain, or user@domain/address`},
		{"bans add 192.0.2.0/24", "192.0.2.0/24: a ban is of one IPv4 address or one IPv6 /64"},
		{"bans add 192.0.2.1 --for soon", "--for soon: want a time of at least one second, such as 1h, 90m or 3600"},
		{"bans add 192.0.2.1 --for 0", "--for 0: want a time of at least one second"},
		{"bans del", "say which: an IP address"},
		{"bans del 192.0.2.1 x", `"x": want an IP address`},
		{"bans flush all", `unexpected "all"`},
		{"bans export --format xml", "--format xml: json, nft, ipset, plain"},
		{"bans export --json --format nft", "--json and --format nft exclude each other"},
		{"bans export --rule x", "--rule x: dos,"},
		{"bans import gone.json", "open gone.json: no such file or directory"},
		{"bans import a b", `unexpected "b": one file at a time`},
		{"registrations lst", `unknown command "lst" (did you mean "list"?)`},
		{"registrations list x", `unexpected "x"`},
		{"registrations list --limit 0", "--limit 0: 1 to 10000"},
		{"registrations list --source pbx1", "--source pbx1: want an IP address"},
		{"registrations show", "say which: an address of record (user@domain), or the ID that sipward registrations list shows"},
		{"registrations show a@b c@d", `unexpected "c@d": one at a time`},
		{"registrations stats x", `unexpected "x"`},
		{"explain", "say which: an IP address, user@domain, or user@domain/address"},
		{"explain alice", `"alice": want an IP address`},
		{"run", "sipward.yaml: no such file; write one with `sipward init --to sip:PBX > sipward.yaml`, or go without one: `sipward proxy --to sip:PBX`"},
		{"check -c other.yaml", "other.yaml: no such file"},
	}
	for _, c := range cases {
		t.Run(c.args, func(t *testing.T) {
			code, out, errOut := run(t, strings.Fields(c.args)...)
			if code != exitBadConfig || out != "" || strings.Count(errOut, "\n") != 1 || !strings.Contains(errOut, c.want) {
				t.Errorf("exit code %d, output %q, errors %q", code, out, errOut)
			}
		})
	}
}

const soundFile = `listen:
  - udp:127.0.0.1:5070
  - { address: "udp:127.0.0.2:5070", side: inside, advertise: 192.0.2.1 }
pools:
  pbx:
    backends:
      - { name: pbx1, address: "sip:10.0.0.10:5060", max_cps: 50, max_calls: 200 }
      - { name: pbx2, address: "sip:10.0.0.11;transport=tcp", state: drain }
timers: { session_ttl: 900, session_update_segment: 3, max_call_duration: 4h }
cdr: { output: stdout }
`

const faultyFile = `listen: [udp:127.0.0.1:70000]
log: { formatt: json }
pools:
  pbx:
    policy: hsah
    backends:
      - { name: a, adress: "sip:10.0.0.1" }
timers: { session_tll: 900, session_update_segment: 0, no_timer_call_duration: 5, alive: 2xx }
cdr: { output: none, formt: csv }
`

func TestCheck(t *testing.T) {
	at, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, file string
		args       []string
		code       int
	}{
		{"check-sound", soundFile, nil, exitOK},
		{"check-sound-json", soundFile, []string{"--json"}, exitOK},
		{"check-faulty", faultyFile, nil, exitBadConfig},
		{"check-faulty-json", faultyFile, []string{"--json"}, exitBadConfig},
		{"check-set", soundFile, []string{"--set", "limits.max_message=3"}, exitBadConfig},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inDir(t, map[string]string{defaultFile: c.file})
			code, out, errOut := run(t, append([]string{"check"}, c.args...)...)
			t.Chdir(at)
			golden(t, c.name+".golden", out)
			if code != c.code || errOut != "" {
				t.Errorf("exit code %d, errors %q", code, errOut)
			}
		})
	}
}

// TestCheckResolves: a name that leads nowhere is a warning that says what to do.
func TestCheckResolves(t *testing.T) {
	inDir(t, map[string]string{
		"hosts": "192.0.2.7 found.example\n",
		defaultFile: `pools: { pbx: { backends: ["sip:lost.invalid", "sip:found.example"] } }
listen: [udp:127.0.0.1:5070]
resolver: { servers: ["127.0.0.1:9"], timeout: 0.2, hosts_file: hosts }
`,
	})
	code, out, _ := run(t, "check")
	if code != exitOK || strings.Count(out, "backend unresolvable: sip:lost.invalid: ") != 1 || !strings.Contains(out, "udp:192.0.2.7:5060") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	code, out, _ = run(t, "check", "--json")
	var r checkReport
	if err := json.Unmarshal([]byte(strings.ReplaceAll(out, `"severity"`, `"-"`)), &r); err != nil || code != exitOK {
		t.Fatalf("exit code %d, %v\n%s", code, err, out)
	}
	if len(r.Warnings) != 1 || len(r.Backends) != 2 || r.Backends[0].Error == "" || len(r.Backends[1].Targets) != 1 {
		t.Errorf("got %+v", r)
	}
}

// TestInitLoads: what init prints is sound, with and without a backend.
func TestInitLoads(t *testing.T) {
	for _, args := range [][]string{{}, {"--to", "10.0.0.10"}, {"--to", "sip:pbx.invalid;transport=tcp", "--to", "10.0.0.11:5080"}} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			code, out, errOut := run(t, append([]string{"init"}, args...)...)
			if code != exitOK || errOut != "" {
				t.Fatalf("exit code %d: %s", code, errOut)
			}
			inDir(t, map[string]string{defaultFile: out})
			if code, out, errOut := run(t, "check", "--set", "resolver.servers=[127.0.0.1:9]"); code != exitOK {
				t.Errorf("check: exit code %d\n%s%s", code, out, errOut)
			}
		})
	}
}

// TestInitMakesASecret: a new one for each file.
func TestInitMakesASecret(t *testing.T) {
	secret := func() string {
		_, out, _ := run(t, "init")
		_, rest, _ := strings.Cut(out, "\nsecret: ")
		line, _, _ := strings.Cut(rest, "\n")
		return line
	}
	if a, b := secret(), secret(); len(a) < 20 || a == b {
		t.Errorf("got %q and %q", a, b)
	}
}

func TestVersion(t *testing.T) {
	b := newBuild(&debug.BuildInfo{
		Main: debug.Module{Version: "v1.2.3"},
		Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "0123456789abcdef0123"}, {Key: "vcs.modified", Value: "true"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"},
		},
	})
	if got := b.String(); !strings.HasPrefix(got, "sipward v1.2.3 commit 0123456789ab (modified) go1.") {
		t.Errorf("got %q", got)
	}
	code, out, _ := run(t, "version")
	if code != exitOK || !strings.HasPrefix(out, "sipward ") {
		t.Errorf("exit code %d, %q", code, out)
	}
	var got build
	if code, out, _ := run(t, "version", "--json"); code != exitOK || json.Unmarshal([]byte(out), &got) != nil || got.Go == "" {
		t.Errorf("exit code %d, %q", code, out)
	}
}

// TestCompletion: a script for each shell, and keys for --set.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, out, _ := run(t, "completion", shell); code != exitOK || !strings.Contains(out, "sipward") {
			t.Errorf("%s: exit code %d", shell, code)
		}
	}
	_, out, _ := run(t, "__complete", "run", "--set", "limits.max_m")
	if !strings.Contains(out, "limits.max_message=\t") {
		t.Errorf("completion of --set: %q", out)
	}
}

// TestHelpNamesEveryCommand: help exists for each.
func TestHelpNamesEveryCommand(t *testing.T) {
	_, out, _ := run(t, "help")
	for _, c := range newRoot().Commands() {
		if !strings.Contains(out, "  "+c.Name()+" ") {
			t.Errorf("help does not name %s", c.Name())
		}
		if code, _, _ := run(t, c.Name(), "--help"); code != exitOK {
			t.Errorf("%s --help: exit code %d", c.Name(), code)
		}
		for _, sub := range c.Commands() {
			if code, out, _ := run(t, c.Name()); code != exitOK || !strings.Contains(out, "  "+sub.Name()+" ") {
				t.Errorf("%s does not name %s", c.Name(), sub.Name())
			}
		}
	}
}

// TestPortInUse: one line that says what to do, exit code 1.
func TestPortInUse(t *testing.T) {
	taken, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(siptest.AnyPort))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := taken.Close(); err != nil {
			t.Error(err)
		}
	}()
	at := taken.LocalAddr().String()
	code, out, errOut := run(t, "proxy", "--to", "127.0.0.2:5099", "--listen", "udp:"+at)
	if code != exitFailure || strings.Count(errOut, "\n") != 1 || !strings.Contains(errOut, "listen udp "+at) ||
		!strings.Contains(errOut, `another SIP server holds it; stop it or change "listen"`) {
		t.Errorf("exit code %d, output %q, errors %q", code, out, errOut)
	}
}

// TestCertificateMissing: the file and the place in the configuration, exit code 2.
func TestCertificateMissing(t *testing.T) {
	inDir(t, map[string]string{defaultFile: `listen:
  - { address: "tls:127.0.0.1:5071", certificate: /nowhere/cert.pem, key: /nowhere/key.pem }
pools: { pbx: { backends: ["sip:127.0.0.2:5099"] } }
`})
	code, _, errOut := run(t, "run")
	if code != exitBadConfig || !strings.Contains(errOut, "sipward.yaml:2:") || !strings.Contains(errOut, "/nowhere/cert.pem") {
		t.Errorf("exit code %d, errors %q", code, errOut)
	}
}

// TestStartLines: what it listens on, advertises, trusts and limits, each backend's first probe; ready comes last.
func TestStartLines(t *testing.T) {
	for _, format := range []string{"kamailio", "json"} {
		t.Run(format, func(t *testing.T) {
			pbx, err := siptest.NewPBX(siptest.PBXOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := pbx.Stop(); err != nil {
					t.Error(err)
				}
			}()
			port, err := siptest.FreePort()
			if err != nil {
				t.Fatal(err)
			}
			listen := fmt.Sprintf("udp:127.0.0.1:%d", port)
			edge := siptest.StartProxy(t, "--to", pbx.Addr().String(), "--to", "127.0.0.9:9", "--listen", listen,
				"--set", "advertise=192.0.2.1", "--set", "log.format="+format)
			lines := edge.Lines()
			wants := []string{listen, "192.0.2.1:", "trusted", "protections", "limits", "limits of every call", "policy", "call records", "administration", "pbx1: answers 200", "pbx2: no answer", "ready"}
			at := 0
			for _, want := range wants {
				for at < len(lines) && !strings.Contains(lines[at], want) {
					at++
				}
				if at == len(lines) {
					t.Fatalf("no %q at its place in\n%s", want, edge.Output())
				}
			}
			if at != len(lines)-1 {
				t.Error("lines after ready")
			}
			for _, line := range lines {
				if format == "json" && !json.Valid([]byte(line)) {
					t.Errorf("not JSON: %s", line)
				}
			}
			if line := edge.Reload(); !strings.Contains(line, "configuration reloaded") {
				t.Errorf("SIGHUP: %s", line)
			}
			edge.Stop()
		})
	}
}

// TestUnresolvableBackend: the edge starts, with one line that says what to do.
func TestUnresolvableBackend(t *testing.T) {
	port, err := siptest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	edge := siptest.StartProxy(t, "--to", "lost.invalid", "--listen", fmt.Sprintf("udp:127.0.0.1:%d", port),
		"--set", "resolver.servers=[127.0.0.1:9]")
	if n := strings.Count(edge.Output(), "lost.invalid address"); n > 1 {
		t.Errorf("%d lines", n)
	}
	if !strings.Contains(edge.Output(), "backend name cannot be resolved: check the name and the resolver") {
		t.Errorf("no line in\n%s", edge.Output())
	}
	edge.Stop()
}

// TestLogFile: with the log in a file, a line says where to look, and the file has it all.
func TestLogFile(t *testing.T) {
	inDir(t, map[string]string{defaultFile: `listen: [udp:127.0.0.1:0]
pools: { pbx: { backends: ["sip:127.0.0.9:9"], probe: { interval: 0 } } }
log: { output: ./edge.log }
admin: { socket: ./s }
`})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Getenv("SIPTEST_BINARY"), "run")
	errOut, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(errOut).ReadString('\n')
	if err != nil || line != "log lines go to ./edge.log\n" {
		t.Errorf("%q, %v", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile("edge.log")
	if err != nil || !strings.Contains(string(text), "listening") || !strings.Contains(string(text), ": not probed") || !strings.Contains(string(text), "stopped") {
		t.Errorf("%s, %v", text, err)
	}
}

// TestDemo: the demo ends by itself, shows its table and finds nothing wrong.
func TestDemo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	out, code, err := siptest.Run(ctx, t.TempDir(), "demo")
	if err != nil {
		t.Fatal(err)
	}
	if code != exitOK {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"tried in vain", "Every call did what it should", "Relaying request - M=INVITE", "pbx1 is down", "pbx1 is up"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	if strings.Contains(out, "\x1b[") {
		t.Error("colours, but no terminal")
	}
	if t.Failed() {
		t.Log(out)
	}
}
