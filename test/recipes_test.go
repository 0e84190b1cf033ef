package test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/test/siptest"
)

const recipes = "docs/recipes"

// pages are the recipes by file name.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(path(t, recipes+"/*.md"))
	if err != nil || len(files) < 7 {
		t.Fatalf("%d recipes: %v", len(files), err)
	}
	all := make(map[string]string)
	for _, file := range files {
		all[filepath.Base(file)] = read(t, filepath.Join(recipes, filepath.Base(file)))
	}
	return all
}

// TestRecipesLoad: every sipward.yaml is sound, on the host that the pages speak of: its directories and a certificate
// are there.
func TestRecipesLoad(t *testing.T) {
	dir := t.TempDir()
	certificate, err := siptest.NewCertificate()
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := certificate.Write(dir)
	if err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("/etc/sipward/cert.pem", cert, "/etc/sipward/key.pem", key, "/var/lib/sipward/", dir+"/")
	host := []netip.Addr{netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("172.31.0.5")}
	for name, text := range pages(t) {
		all := blocks(text, "yaml")
		if len(all) == 0 && name != "README.md" {
			t.Errorf("%s: no sipward.yaml", name)
		}
		for i, text := range all {
			if !strings.HasPrefix(text, "# /etc/sipward/sipward.yaml\n") {
				t.Errorf("%s: example %d does not say which file it is", name, i+1)
			}
			o := config.Options{Path: fmt.Sprintf("%s, example %d", name, i+1), Data: []byte(here.Replace(text)), Addresses: host}
			_, warnings, err := config.Load(o)
			warnings = slices.DeleteFunc(warnings, func(p config.Problem) bool {
				return strings.HasPrefix(p.Text, "expires on ") // of a certificate that lives for this test
			})
			if err != nil || len(warnings) > 0 {
				t.Errorf("%v %v", err, warnings)
			}
		}
	}
}

// option is a line of pjsip.conf or extensions.conf: a comment, a section or an option.
var option = regexp.MustCompile(`^(;.*|\[[\w-]+\](\([\w!,+-]+\))?|[a-z_]+ ?=>? ?\S.*|)$`)

// TestRecipesForPBXsAreWellFormed: what is for other programs names its file in a comment, and has the form of such a
// file.
func TestRecipesForPBXsAreWellFormed(t *testing.T) {
	found := 0
	for name, text := range pages(t) {
		for _, text := range blocks(text, "xml") {
			found++
			if !strings.HasPrefix(text, "<!-- /etc/") {
				t.Errorf("%s: XML that does not say which file it is", name)
			}
			if err := wellFormed(text); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, text := range blocks(text, "ini") {
			found++
			if !strings.HasPrefix(text, "; /etc/") {
				t.Errorf("%s: a file that does not say which it is", name)
			}
			for line := range strings.Lines(text) {
				if line = strings.TrimSuffix(line, "\n"); !option.MatchString(line) {
					t.Errorf("%s: %q is neither comment, section nor option", name, line)
				}
			}
		}
	}
	if found < 4 {
		t.Errorf("only %d files", found)
	}
}

func wellFormed(text string) error {
	d := xml.NewDecoder(strings.NewReader(text))
	elements := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) && elements > 0 {
			return nil
		}
		if err != nil {
			return err
		}
		if _, ok := token.(xml.StartElement); ok {
			elements++
		}
	}
}

// TestRecipeForKamailioIsSound: Kamailio takes the file, and it listens where the edge's file sends.
func TestRecipeForKamailioIsSound(t *testing.T) {
	text := pages(t)["kamailio.md"]
	files := blocks(text, "kamailio")
	if len(files) != 1 {
		t.Fatalf("%d files for Kamailio", len(files))
	}
	m := regexp.MustCompile(`(?m)^listen=udp:(\S+)$`).FindStringSubmatch(files[0])
	if m == nil || !strings.Contains(blocks(text, "yaml")[0], `"sip:`+m[1]+`;transport=udp"`) {
		t.Errorf("the edge sends elsewhere than Kamailio listens: %v", m)
	}
	kamailio, err := exec.LookPath("kamailio")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("kamailio is not installed: apt-get install kamailio")
		}
		t.Skip("kamailio is not installed")
	}
	file := filepath.Join(t.TempDir(), "kamailio.cfg")
	if err := os.WriteFile(file, []byte(files[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), kamailio, "-c", "-f", file).CombinedOutput()
	if err != nil || regexp.MustCompile(`(?m)ERROR|CRITICAL|WARNING`).Match(out) {
		t.Errorf("%v\n%s", err, out)
	}
}

var code = regexp.MustCompile("`[^`]*`")

// TestRecipesLinks: what the pages point to is there, and the README points to each page.
func TestRecipesLinks(t *testing.T) {
	front := read(t, readme)
	for name, text := range pages(t) {
		if !strings.Contains(front, "("+recipes+"/"+name+")") {
			t.Errorf("the README does not point to %s", name)
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#]+)\)`).FindAllStringSubmatch(code.ReplaceAllString(fence.ReplaceAllString(text, ""), ""), -1) {
			if _, err := os.Stat(path(t, filepath.Join(recipes, m[1]))); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
