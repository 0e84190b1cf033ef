package test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sipward/sipward/config"
)

const readme = "README.md"

// shown are the keys of the table of defaults.
var shown = []string{
	"listen", "advertise", "state_file", "stop_timeout",
	"pools.<name>.policy", "pools.<name>.probe.interval", "pools.<name>.probe.timeout", "pools.<name>.probe.down_after",
	"pools.<name>.probe.up_after", "pools.<name>.failover_codes", "pools.<name>.slow_start",
	"registration.mode", "registration.ping", "registration.ping_interval", "registration.closed_grace",
	"timers.session_ttl", "timers.session_update_segment", "timers.no_timer_call_duration", "timers.max_call_duration",
	"timers.max_ring_duration",
	"security.trusted", "security.dos_ban_enable", "security.dos_reqs_density_per_unit", "security.dos_sampling_time_unit",
	"security.dos_ban_time", "security.failed_auth_ban_enable", "security.failed_auth_attempts", "security.failed_auth_ban_time",
	"security.failed_auth_ban_key", "security.loop_from_to_per_second", "security.kernel_offload",
	"transaction.invite_failover", "transaction.request_failover", "transaction.timer_b", "transaction.timer_c",
	"limits.max_transactions", "limits.max_dialogs", "limits.max_bindings", "limits.accept_rate", "limits.keepalive_idle", "limits.unacked_timeout", "limits.max_connections", "limits.max_connections_per_source", "limits.max_message",
	"limits.handshake_timeout", "limits.message_timeout", "limits.idle_timeout", "limits.receive_buffer", "limits.queue_delay",
	"log.format", "log.level", "cdr.output", "admin.socket",
}

// TestReadmeDefaults: the table says what the code does.
func TestReadmeDefaults(t *testing.T) {
	var b strings.Builder
	b.WriteString("\n| key | default | meaning |\n|---|---|---|\n")
	for _, want := range shown {
		i := slices.IndexFunc(config.Keys(), func(k config.Key) bool { return k.Path == want })
		if i < 0 {
			t.Fatalf("no key %s", want)
		}
		k := config.Keys()[i]
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", k.Path, defaultOf(k), cell(k.Doc))
	}
	text := read(t, readme)
	before, got, after := between(t, text, "<!-- defaults -->", "<!-- /defaults -->")
	if *update {
		if err := os.WriteFile(path(t, readme), []byte(before+b.String()+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	same(t, readme, got, b.String())
}

var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```")

// blocks are the fenced blocks of a language.
func blocks(text, language string) []string {
	var found []string
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		if m[1] == language {
			found = append(found, m[2])
		}
	}
	return found
}

// TestReadmeYAMLLoads: every example is a sound file.
func TestReadmeYAMLLoads(t *testing.T) {
	all := blocks(read(t, readme), "yaml")
	if len(all) == 0 {
		t.Fatal("no YAML in the README")
	}
	for i, text := range all {
		o := config.Options{Path: fmt.Sprintf("README.md, example %d", i+1), Data: []byte(text), Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
		if _, warnings, err := config.Load(o); err != nil || len(warnings) > 0 {
			t.Errorf("%v %v", err, warnings)
		}
	}
	if n := strings.Count(all[0], "\n"); n != 10 {
		t.Errorf("the ten lines are %d", n)
	}
}

// TestReadmeCommandsExist: every command and flag that is named, in the README and by the container, is there; and every
// command that is there is named.
func TestReadmeCommandsExist(t *testing.T) {
	text := read(t, readme)
	help := sipward(t, "help")
	_, list, _ := between(t, help, "Available Commands:\n", "\nFlags:")
	known := make(map[string]bool)
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) > 0 {
			known[f[0]] = true
			if !strings.Contains(text, "| `sipward "+f[0]) {
				t.Errorf("the table of commands lacks %s", f[0])
			}
		}
	}
	usage := make(map[string]string)
	code := strings.Join(regexp.MustCompile("`sipward [^`]*`").FindAllString(text, -1), "\n") + strings.Join(blocks(text, "sh"), "\n")
	for _, m := range regexp.MustCompile("(?m)(?:`|^|&& |/)sipward ([a-z]+)([^`\n|&>]*)").FindAllStringSubmatch(code, -1) {
		command, rest := m[1], m[2]
		if !known[command] {
			t.Errorf("README: sipward %s: no such command", command)
			continue
		}
		if usage[command] == "" {
			usage[command] = sipward(t, "help", command)
		}
		for _, flag := range regexp.MustCompile(`--?[a-z]+`).FindAllString(rest, -1) {
			if !strings.Contains(usage[command], flag) {
				t.Errorf("README: sipward %s has no %s", command, flag)
			}
		}
	}
	if len(usage) < 6 {
		t.Errorf("only %d commands found in the README", len(usage))
	}
}

func sipward(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"run", "./cmd/sipward"}, args...)...)
	cmd.Dir = path(t, ".")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("sipward %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// TestReadmeLinks: what the README points to is there.
func TestReadmeLinks(t *testing.T) {
	for _, m := range regexp.MustCompile(`\]\(([^)#]+)\)`).FindAllStringSubmatch(read(t, readme), -1) {
		if strings.Contains(m[1], "://") {
			continue
		}
		if _, err := os.Stat(path(t, m[1])); err != nil {
			t.Error(err)
		}
	}
}

// TestReadmeRooms: the rooms of the architecture section exist, and every room stands there.
func TestReadmeRooms(t *testing.T) {
	for dir := range packages(t) {
		if top, _, _ := strings.Cut(dir, "/"); top == "test" || top == "cmd" {
			continue
		}
		if !regexp.MustCompile(`(?m)^ *` + dir + "/ ").MatchString(read(t, readme)) {
			t.Errorf("the README has no line for %s/", dir)
		}
	}
}

// TestReadmeDependencies: the table names the modules that are imported, each once.
func TestReadmeDependencies(t *testing.T) {
	_, table, _ := between(t, read(t, readme), "### Dependencies", "## ")
	listed := make(map[string]bool)
	for _, m := range regexp.MustCompile("`([a-z.]+/[^`]+)`").FindAllStringSubmatch(table, -1) {
		listed[m[1]] = false
	}
	for dir, p := range packages(t) {
		for _, i := range append(p.imports, p.testImports...) {
			if isOurs(i) || isStandard(i) {
				continue
			}
			found := false
			for module := range listed {
				if i == module || strings.HasPrefix(i, module+"/") {
					listed[module], found = true, true
				}
			}
			if !found {
				t.Errorf("%s imports %s, which the table does not name", dir, i)
			}
		}
	}
	for module, isUsed := range listed {
		if !isUsed {
			t.Errorf("%s is in the table and not imported", module)
		}
	}
}
