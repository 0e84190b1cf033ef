package test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/sipward/sipward"

// edges are the packages of ours that each room may import. What is not listed may import nothing of ours.
var edges = map[string][]string{
	"timers":            {},
	"config":            {},
	"dialog":            {"proxy/wire", "timers", "store/codec"},
	"security":          {"proxy/wire", "config"},
	"proxy/wire":        {},
	"proxy/transport":   {"proxy/wire", "timers", "config"},
	"proxy/transaction": {"proxy/wire", "timers"},
	"proxy/resolve":     {"proxy/wire"},
	"proxy/backend":     {"proxy/wire", "proxy/resolve", "config", "timers"},
	"proxy/binding":     {"proxy/wire", "timers", "store/codec"},
	"proxy/nft":         {},
	"proxy/outfile":     {},
	"store":             {},
	"store/codec":       {},
	"proxy/eventlog":    {"proxy/wire", "proxy/outfile", "config"},
	"proxy/cdr":         {"proxy/outfile", "config"},
	"proxy": {
		"proxy/wire", "proxy/transport", "proxy/transaction", "proxy/resolve", "proxy/backend", "proxy/binding", "proxy/eventlog", "proxy/cdr", "proxy/nft",
		"dialog", "security", "config", "timers", "store",
	},
	"admin":            {"proxy"},
	"cmd/sipward":      {"admin", "proxy", "config", "proxy/cdr", "proxy/eventlog", "cmd/sipward/demo"},
	"cmd/sipward/demo": {"proxy", "config", "proxy/eventlog", "test/siptest"},
	"test/siptest":     {},
	"test/admintest":   {"proxy"},
	"test/e2e":         {"test/siptest"},
	"test/bench":       {"test/siptest"},
}

// foreign are the modules that a room may import besides the standard library. Leaves stay free of log, command line and
// the like.
var foreign = map[string][]string{
	"timers":            {},
	"config":            {"github.com/knadh/koanf", "go.yaml.in/yaml/v3"},
	"dialog":            {},
	"proxy/wire":        {"github.com/emiago/sipgo/sip"},
	"proxy/transport":   {"golang.org/x/sys", "golang.org/x/net/bpf", "github.com/gobwas/ws"},
	"proxy/transaction": {"github.com/dchest/siphash"},
	"proxy/resolve":     {"github.com/miekg/dns"},
	"proxy/backend":     {},
	"proxy/binding":     {},
	"proxy/nft":         {"github.com/google/nftables"},
	"proxy/outfile":     {},
	"store":             {"go.etcd.io/bbolt"},
	"store/codec":       {},
	"proxy/eventlog":    {"github.com/rs/zerolog"},
	"proxy/cdr":         {},
}

// TestImportEdges: imports run one way only.
func TestImportEdges(t *testing.T) {
	for dir, p := range packages(t) {
		for _, i := range p.imports {
			if of, ok := strings.CutPrefix(i, module+"/"); ok && !slices.Contains(edges[dir], of) {
				t.Errorf("%s must not import %s", dir, of)
			}
		}
		allowed, isLeaf := foreign[dir]
		for _, i := range p.imports {
			if !isLeaf || isOurs(i) || isStandard(i) {
				continue
			}
			if !slices.ContainsFunc(allowed, func(a string) bool { return i == a || strings.HasPrefix(i, a+"/") }) {
				t.Errorf("%s must not import %s", dir, i)
			}
		}
	}
}

// TestRoomsAreListed: a new room has to say what it may import.
func TestRoomsAreListed(t *testing.T) {
	found := packages(t)
	for dir := range found {
		if _, ok := edges[dir]; !ok && dir != "test" {
			t.Errorf("%s has no line in edges", dir)
		}
	}
	for dir := range edges {
		if _, ok := found[dir]; !ok {
			t.Errorf("%s is in edges and not there", dir)
		}
	}
	for dir := range foreign {
		if _, ok := found[dir]; !ok {
			t.Errorf("%s is in foreign and not there", dir)
		}
	}
}

// TestNothingShipsTesting: no program carries the testing package.
func TestNothingShipsTesting(t *testing.T) {
	for dir, p := range packages(t) {
		if slices.Contains(p.imports, "testing") {
			t.Errorf("%s imports testing outside of its tests", dir)
		}
	}
}

type imports struct{ imports, testImports []string }

// packages are the directories with Go files and what they import.
func packages(t *testing.T) map[string]imports {
	t.Helper()
	root := path(t, ".")
	all := make(map[string]imports)
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); file != root && (strings.HasPrefix(name, ".") || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(file, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(rel)
		p := all[dir]
		for _, i := range parsed.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			if strings.HasSuffix(file, "_test.go") {
				p.testImports = append(p.testImports, name)
			} else {
				p.imports = append(p.imports, name)
			}
		}
		all[dir] = p
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < len(edges) {
		t.Fatalf("only %d packages found in %s", len(all), root)
	}
	return all
}

func isOurs(i string) bool { return strings.HasPrefix(i, module+"/") }

// isStandard: paths of the standard library have no dot in their first element.
func isStandard(i string) bool {
	first, _, _ := strings.Cut(i, "/")
	return !strings.Contains(first, ".")
}
