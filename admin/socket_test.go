package admin

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/rs/zerolog"

	"github.com/sipward/sipward/config"
)

func TestDefaultPathIsTheConfigurations(t *testing.T) {
	if got := config.Default().Admin.Socket; got != DefaultPath {
		t.Errorf("%s, want %s", DefaultPath, got)
	}
}

func TestPathsOfTheDefaultHaveFallbacks(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	if got := Paths(DefaultPath); len(got) != 3 || got[0] != DefaultPath || got[1] != "/run/user/7/sipward.sock" || got[2] != temporaryPath() {
		t.Errorf("got %v", got)
	}
	t.Setenv("XDG_RUNTIME_DIR", "relative")
	if got := Paths(DefaultPath); len(got) != 2 {
		t.Errorf("a relative XDG_RUNTIME_DIR is to be ignored: %v", got)
	}
	if got := Paths("/srv/s"); len(got) != 1 || got[0] != "/srv/s" {
		t.Errorf("a configured path is the only one: %v", got)
	}
}

func TestSocketIsClosedToOthers(t *testing.T) {
	path := filepath.Join(tempSocket(t), "made", "s") // two directories that are missing
	serve(t, path, realEdge(t), new(lines))
	for name, want := range map[string]fs.FileMode{path: 0o660 | fs.ModeSocket, filepath.Dir(path): 0o750 | fs.ModeDir} {
		info, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode(); got != want {
			t.Errorf("%s has mode %v, want %v", name, got, want)
		}
	}
}

// TestUmaskIsPutBack: files that are created after the socket have the mode that
// they would have had before.
func TestUmaskIsPutBack(t *testing.T) {
	dir := filepath.Dir(tempSocket(t))
	created := func(name string) fs.FileMode {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_RDWR, 0o777)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode()
	}
	before := created("before")
	l, err := bind(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if after := created("after"); after != before {
		t.Errorf("mode %v, before %v", after, before)
	}
}

func TestSocketOfADeadProcessIsReplaced(t *testing.T) {
	path := tempSocket(t)
	dead, err := bind(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.Close(); err != nil { // leaves the file
		t.Fatal(err)
	}
	serve(t, path, realEdge(t), new(lines))
	if _, err := NewClient(path).Stats(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSocketInUseIsRefused(t *testing.T) {
	path := tempSocket(t)
	edge := realEdge(t)
	serve(t, path, edge, new(lines))
	_, err := Listen(path, edge, nop())
	if err == nil || !strings.Contains(err.Error(), "admin.socket: "+path+": in use by another edge; give this one a path of its own") {
		t.Errorf("got %v", err)
	}
	if _, err := NewClient(path).Stats(t.Context()); err != nil {
		t.Errorf("the first edge does not answer any more: %v", err)
	}
}

// TestFallbackIsForWhatCannotBeMade: not for a path that another edge has, whose
// socket the commands would find.
func TestFallbackIsForWhatCannotBeMade(t *testing.T) {
	path, edge := tempSocket(t), realEdge(t)
	file := path + "-file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(file, "s")
	s, err := listenFirst([]string{below, path}, edge, nop())
	if err != nil || s.Path() != path {
		t.Fatalf("got %v", err)
	}
	defer func() {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if _, err := NewClient(below, path).Stats(t.Context()); err != nil {
		t.Errorf("the client does not look where the server is: %v", err)
	}
	_, err = listenFirst([]string{below, path, path + "2"}, edge, nop())
	if want := "admin.socket: " + below + ": not a directory; " + path + ": " + errInUse.Error(); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func nop() *zerolog.Logger {
	z := zerolog.Nop()
	return &z
}

func TestPathsThatCannotBe(t *testing.T) {
	dir := filepath.Dir(tempSocket(t))
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := []struct{ name, path, want string }{
		{"empty", "", "the path is empty"},
		{"too long", filepath.Join(dir, strings.Repeat("x", 200)), "bytes long, a unix socket's path may have"},
		{"abstract", "@sipward", "begins with @"},
		{"a file", file, "there is a file of this name that is no socket; it was not touched"},
		{"below a file", filepath.Join(file, "s"), file + "/s: not a directory"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Listen(c.path, realEdge(t), nop())
			if err == nil || !strings.HasPrefix(err.Error(), "admin.socket: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "text" {
		t.Errorf("the file was touched: %q, %v", text, err)
	}
}

// TestTemporaryDirectoryOfOthersIsNotUsed: neither to serve in it nor to ask in it.
func TestTemporaryDirectoryOfOthersIsNotUsed(t *testing.T) {
	t.Setenv("TMPDIR", filepath.Dir(tempSocket(t)))
	path := temporaryPath()
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := listenAt(path, realEdge(t), nop())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewClient(path).Stats(t.Context()); err != nil {
		t.Errorf("a directory of one's own: %v", err)
	}
	if err := os.Chmod(filepath.Dir(path), 0o770); err != nil {
		t.Fatal(err)
	}
	if _, err := NewClient(path).Stats(t.Context()); err == nil || !strings.Contains(err.Error(), "this user alone") {
		t.Errorf("asked in a directory that others can write to: %v", err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := listenAt(path, realEdge(t), nop()); err == nil || !strings.Contains(err.Error(), "this user alone") {
		t.Errorf("served in a directory that others can write to: %v", err)
	}
}

// TestDoorLetsFewIn: the others wait until one leaves.
func TestDoorLetsFewIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(street{}, 3)
		var in []net.Conn
		accepting := make(chan struct{})
		go func() {
			defer close(accepting)
			for {
				c, err := d.Accept()
				if err != nil {
					return
				}
				in = append(in, c)
			}
		}()
		synctest.Wait()
		if len(in) != 3 {
			t.Fatalf("%d are in, want 3", len(in))
		}
		first := in[0]
		for range 2 { // leaving twice gives one place
			if err := first.Close(); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if len(in) != 4 {
			t.Errorf("%d were let in, want 4", len(in))
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		<-accepting
	})
}

// A street is a listener with a queue that never ends.
type street struct{ net.Listener }

func (street) Accept() (net.Conn, error) {
	c, _ := net.Pipe()
	return c, nil
}

func (street) Close() error { return nil }

// TestCloseRemovesTheFileThatIsOurs: and leaves one that another edge put there.
func TestCloseRemovesTheFileThatIsOurs(t *testing.T) {
	path, edge := tempSocket(t), realEdge(t)
	s, err := Listen(path, edge, nop())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // again: the same, and nothing
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is there: %v", err)
	}

	s, err = Listen(path, edge, nop())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the file of another is gone: %v", err)
	}
}
