// Package test checks what no package can check by itself: that the documents tell the truth, and that imports run one
// way only. `go test ./test -update` writes the parts of the documents that are made from the code.
package test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sipward/sipward/test/siptest"
)

var update = flag.Bool("update", false, "rewrite what is made from the code")

// path is a file of the repository.
func path(t *testing.T, name string) string {
	t.Helper()
	root, err := siptest.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, name)
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(path(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// same compares a document, or a part of it, with what the code says.
func same(t *testing.T, name, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s is not what the code says; run: go test ./test -update", name)
	}
}

// between is the text from one mark to another, and what stands around it.
func between(t *testing.T, text, from, to string) (before, part, after string) {
	t.Helper()
	before, rest, ok := strings.Cut(text, from)
	part, after, ok2 := strings.Cut(rest, to)
	if !ok || !ok2 {
		t.Fatalf("no %q … %q", from, to)
	}
	return before + from, part, to + after
}
