//go:build linux

package e2e

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

// asteriskRoot is the root directory of the Asterisk to use: SIPWARD_ASTERISK, or that of this host. No package of
// Debian 12 has one, so that nothing fails where it is missing, not even in CI.
func asteriskRoot(t *testing.T) string {
	t.Helper()
	if root := os.Getenv("SIPWARD_ASTERISK"); root != "" {
		return root
	}
	if _, err := exec.LookPath("asterisk"); err != nil {
		t.Skip("asterisk is not installed, and SIPWARD_ASTERISK names no root directory with one")
	}
	return "/"
}

// recipeFiles are the files of a page of docs/recipes by their names, as they are there.
func recipeFiles(t *testing.T, page string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../docs/recipes", page))
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, m := range regexp.MustCompile("(?s)```[a-z]+\n[#;] /\\S+/(\\S+)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		files[m[1]] = m[2]
	}
	return files
}

// startAsterisk runs Asterisk in the inside network with these files besides what it cannot be without.
func startAsterisk(t *testing.T, l *natLab, files map[string]string) {
	t.Helper()
	root := asteriskRoot(t)
	modules, err := filepath.Glob(filepath.Join(root, "usr/lib*/asterisk/modules"))
	more, _ := filepath.Glob(filepath.Join(root, "usr/lib/*/asterisk/modules")) // the pattern is a good one
	if modules = append(modules, more...); err != nil || len(modules) == 0 {
		t.Fatalf("no modules of Asterisk under %s", root)
	}
	dir, err := os.MkdirTemp(filepath.Join(root, "tmp"), "sipward-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // it is in a temporary directory
	within := func(path string) string { return "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/") }
	settings := "[directories]\nastmoddir => " + within(modules[0]) + "\nastdatadir => /usr/share/asterisk\nastagidir => /usr/share/asterisk/agi-bin\n"
	for _, name := range []string{"etc", "varlib", "db", "key", "spool", "run", "log", "cache"} {
		settings += "ast" + name + "dir => " + within(dir) + "\n"
	}
	for name, text := range map[string]string{
		"asterisk.conf": settings, "modules.conf": "[modules]\nautoload=yes\nnoload => chan_sip.so\n",
		"logger.conf": "[logfiles]\nfull => notice,warning,error\n", "pjsip.conf": files["pjsip.conf"], "extensions.conf": files["extensions.conf"],
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("asterisk", "-f", "-C", within(dir)+"/asterisk.conf")
	if root != "/" {
		cmd = exec.Command("chroot", root, "asterisk", "-f", "-C", within(dir)+"/asterisk.conf")
	}
	enter(t, l.pbx, func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		late := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() }) // it may be gone by now
		_ = cmd.Process.Signal(syscall.SIGTERM)                                   // as above
		_ = cmd.Wait()                                                            // however it ends
		late.Stop()
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, "full"))
			t.Logf("log of Asterisk:\n%s", text)
		}
	})
	asked := keep(t)(l.pbx.DialRaw("udp", netip.AddrPortFrom(natPBX.Addr(), 0), natPBX, nil))
	req := asked.Request("OPTIONS", "sip:"+natPBX.String()).Bytes()
	for range 600 {
		if err := asked.Send(req); err != nil {
			t.Fatal(err)
		}
		if _, err := asked.Next(100 * time.Millisecond); err == nil {
			return
		}
	}
	t.Fatal("Asterisk does not answer")
}

// TestRecipeForAsterisk: with the files of the recipe, in addresses of the NAT laboratory, phones with one private
// address register at an Asterisk with their passwords, call each other, hold, and hang up from either side; meanwhile
// the edge refreshes all four legs, and Asterisk and the phones take it. Again with Path.
func TestRecipeForAsterisk(t *testing.T) {
	t.Parallel()
	asteriskRoot(t)
	cert, key, err := certificate(t).Write(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	files := recipeFiles(t, "asterisk.md")
	here := strings.NewReplacer("203.0.113.5", natEdge.Addr().String(), "10.0.0.5", natInside.Addr().String(), "10.0.0.10", natPBX.Addr().String(),
		"203.0.113.6", natPBX.Addr().String(), "example.org", natDomain,
		"/etc/sipward/cert.pem", cert, "/etc/sipward/key.pem", key)
	for name, text := range files {
		files[name] = here.Replace(text)
	}
	_, alice, ok := strings.Cut(files["pjsip.conf"], "[alice](phone)")
	_, line, found := strings.Cut(files["extensions.conf"], "exten")
	if !ok || !found || files["sipward.yaml"] == "" {
		t.Fatalf("the recipe has %q", files)
	}
	files["pjsip.conf"] += "\n[bob](phone)" + strings.ReplaceAll(alice, "alice", "bob")
	files["extensions.conf"] += "exten" + strings.ReplaceAll(line, "alice", "bob")
	files["sipward.yaml"] += "lab: yes\ntimers: { session_ttl: 4, no_timer_call_duration: 60 }\n"

	path := map[string]string{
		"pjsip.conf":      strings.Replace(files["pjsip.conf"], "type=aor\n", "type=aor\nsupport_path=yes\n", 1),
		"extensions.conf": regexp.MustCompile(`\$\{PJSIP_DIAL_CONTACTS\((\w+)\)\}`).ReplaceAllString(files["extensions.conf"], "PJSIP/$1"),
		"sipward.yaml":    strings.NewReplacer("  asterisk:\n", "  asterisk:\n    supports_path: yes\n", "mode: contact", "mode: auto").Replace(files["sipward.yaml"]),
	}
	for mode, files := range map[string]map[string]string{"contact": files, "path": path} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			h, _ := newNATHome(t, natWay{password: "change-me", edge: strings.Replace(files["sipward.yaml"], "/var/lib/sipward", t.TempDir(), 1), registrar: func(t *testing.T, l *natLab) func(string) string {
				startAsterisk(t, l, files)
				return nil
			}})
			h.register(h.alice)
			h.register(h.bob)
			for _, r := range h.registrations() {
				if r.Mode != mode {
					t.Errorf("registered by %s: %+v", r.Mode, r)
				}
			}
			for i, ends := range [][2]*siptest.Handset{{h.alice, h.bob}, {h.bob, h.alice}} {
				c := h.call(ends[0], ends[1])
				for i, p := range []*siptest.Party{c.caller, c.callee} {
					c.asks(p, "INVITE")
					c.asks(p, "INFO")
					c.hears(p, "INVITE", 2+i) // refreshes by the edge: the callee has had one before
				}
				c.hangUp(i == 0)
			}
			h.leaves()
		})
	}
}
