package outfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gate is an output that waits for permission before every write, and takes so many bytes before it fails.
type gate struct {
	open chan struct{} // nil or closed: no waiting

	mu    sync.Mutex
	room  int // negative: no end
	tries int
	data  bytes.Buffer
}

var errFull = errors.New("no space left on device")

func (g *gate) Write(p []byte) (int, error) {
	if g.open != nil {
		<-g.open
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tries++
	if g.room >= 0 && len(p) > g.room {
		n, _ := g.data.Write(p[:g.room])
		g.room = 0
		return n, errFull
	}
	if g.room >= 0 {
		g.room -= len(p)
	}
	return g.data.Write(p)
}

func (g *gate) grow(room int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.room = room
}

func (g *gate) state() (tries int, text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.tries, g.data.String()
}

// told collects what OnProblem hears.
type told struct {
	mu    sync.Mutex
	lines []string
}

func (p *told) hear(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines = append(p.lines, err.Error())
}

func (p *told) want(t *testing.T, lines ...string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if got, want := strings.Join(p.lines, "\n"), strings.Join(lines, "\n"); got != want {
		t.Errorf("heard:\n%s\nwant:\n%s", got, want)
	}
}

func open(t *testing.T, name string, o Options) *Writer {
	t.Helper()
	w, err := Open(name, o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func write(w *Writer, lines ...string) {
	for _, line := range lines {
		_, _ = w.Write([]byte(line + "\n"))
	}
}

func contents(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestLinesAreWrittenTogetherAfterATickAndIdleCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{room: -1}
		w := open(t, "stdout", Options{Stdout: g})
		defer w.Close()
		time.Sleep(time.Hour)
		write(w, "1", "2", "3")
		time.Sleep(tick - time.Nanosecond)
		synctest.Wait()
		if tries, _ := g.state(); tries != 0 {
			t.Errorf("%d writes before the tick", tries)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if tries, text := g.state(); tries != 1 || text != "1\n2\n3\n" {
			t.Errorf("%q in %d writes", text, tries)
		}
	})
}

func TestRefusedLinesWaitAndAreWrittenOnce(t *testing.T) {
	for _, tc := range []struct {
		name string
		room int // what the output takes at first
	}{
		{"nothing was taken", 0},
		{"the first line was", 4},
		{"a line was cut", 6},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, p := &gate{room: tc.room}, &told{}
				w := open(t, "stdout", Options{Stdout: g, Keep: true, OnProblem: p.hear})
				write(w, "one", "two")
				time.Sleep(tick)
				write(w, "three")
				time.Sleep(again + tick)
				synctest.Wait()
				g.grow(-1)
				time.Sleep(again)
				synctest.Wait()
				if _, text := g.state(); text != "one\ntwo\nthree\n" {
					t.Errorf("got %q", text)
				}
				write(w, "four")
				if err := w.Close(); err != nil {
					t.Error(err)
				}
				if _, text := g.state(); text != "one\ntwo\nthree\nfour\n" || w.Dropped() != 0 {
					t.Errorf("got %q, %d dropped", text, w.Dropped())
				}
				p.want(t, "no space left on device, lines wait")
			})
		})
	}
}

func TestRefusedLinesGoToTheNextOutputWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "f")
		g := &gate{room: 6}
		w := open(t, "stdout", Options{Stdout: g, Keep: true})
		write(w, "one", "two", "three")
		w.Flush()
		write(w, "four")
		if err := w.Redirect(file); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if got := contents(t, file); got != "two\nthree\nfour\n" || w.Dropped() != 0 {
			t.Errorf("got %q, %d dropped", got, w.Dropped())
		}
	})
}

func TestRefusedLinesAreBoundedAndCountedAtLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, p := &gate{room: 2}, &told{}
		w := open(t, "stdout", Options{Stdout: g, Keep: true, Buffer: 16, OnProblem: p.hear})
		write(w, "abc", "def") // 8 bytes, half the buffer: written at once
		synctest.Wait()
		for range 100 {
			write(w, "ghi") // 4 find room
		}
		if n := w.Dropped(); n != 96 {
			t.Errorf("%d dropped", n)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if n := w.Dropped(); n != 102 {
			t.Errorf("%d dropped", n)
		}
		p.want(t, "no space left on device, lines wait", "no space left on device, lines lost: 102")
	})
}

func TestSlowOutputStallsNobodyAndIsToldOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, p := &gate{open: make(chan struct{}), room: -1}, &told{}
		w := open(t, "stdout", Options{Stdout: g, Buffer: 16, OnProblem: p.hear})
		write(w, "abc")
		time.Sleep(tick) // the goroutine is stuck in its write from here on
		synctest.Wait()
		for range 104 {
			write(w, "def") // 4 find room
		}
		p.want(t, "output is too slow, lines lost: 1")
		time.Sleep(quiet)
		write(w, "ghi")
		p.want(t, "output is too slow, lines lost: 1", "output is too slow, lines lost: 100")
		write(w, "jkl")
		close(g.open)
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		p.want(t, "output is too slow, lines lost: 1", "output is too slow, lines lost: 100", "output is too slow, lines lost: 1")
		if _, text := g.state(); text != "abc\ndef\ndef\ndef\ndef\n" || w.Dropped() != 102 {
			t.Errorf("got %q, %d dropped", text, w.Dropped())
		}
	})
}

func TestLostLinesAreToldInTheOutputAlsoIfThatFailsAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{room: 4}
		lost := func(b []byte, _ time.Time, n uint64) []byte { return fmt.Appendf(b, "lost %d\n", n) }
		w := open(t, "stdout", Options{Stdout: g, Buffer: 8, Lost: lost})
		write(w, "abc", "def", "ghi") // no room for the third
		synctest.Wait()
		if n := w.Dropped(); n != 2 {
			t.Errorf("%d dropped", n)
		}
		write(w, "jkl")
		w.Flush() // lost as well
		g.grow(-1)
		w.Flush()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if _, text := g.state(); text != "abc\nlost 3\n" || w.Dropped() != 3 {
			t.Errorf("got %q, %d dropped", text, w.Dropped())
		}
	})
}

func TestFlushAndCloseDoNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{}), room: -1}
		w := open(t, "stderr", Options{Stderr: g})
		write(w, "abc")
		start := time.Now()
		w.Flush() // handed over, but not written
		w.Flush() // not even taken
		if err := w.Close(); !errors.Is(err, errStuck) {
			t.Errorf("got %v", err)
		}
		if d := time.Since(start); d != 3*flushWait {
			t.Errorf("waited %v", d)
		}
		close(g.open)
		synctest.Wait()
	})
}

func TestNothingIsTakenAfterClose(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	w := open(t, file, Options{})
	write(w, "abc")
	if err := errors.Join(w.Close(), w.Close()); err != nil {
		t.Error(err)
	}
	write(w, "def")
	w.Flush()
	if err := w.Redirect(file); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if got := contents(t, file); got != "abc\n" || w.Dropped() != 1 {
		t.Errorf("got %q, %d dropped", got, w.Dropped())
	}
}

func TestTheNilWriterDoesNothing(t *testing.T) {
	var w *Writer
	write(w, "abc")
	w.Flush()
	if err := errors.Join(w.Redirect("stdout"), w.Close()); err != nil || w.Dropped() != 0 {
		t.Errorf("%v, %d dropped", err, w.Dropped())
	}
}

func TestAFileBeginsWithItsHeadAndEachLineOnItsOwn(t *testing.T) {
	for _, tc := range []struct{ name, before, want string }{
		{"empty", "", "head\nline\n"},
		{"whole", "head\nold\n", "head\nold\nline\n"},
		{"torn", "head\nol", "head\nol\nline\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(file, []byte(tc.before), 0o600); err != nil {
				t.Fatal(err)
			}
			w := open(t, file, Options{Head: "head\n"})
			write(w, "line")
			if err := w.Close(); err != nil {
				t.Error(err)
			}
			if got := contents(t, file); got != tc.want {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestRedirectFollowsARenamedFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	w := open(t, file, Options{Head: "head\n"})
	write(w, "1")
	w.Flush()
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	write(w, "2")
	w.Flush()
	if err := w.Redirect(file); err != nil {
		t.Fatal(err)
	}
	if err := w.Redirect(filepath.Join(file, "below")); err == nil {
		t.Error("a path below a file was opened")
	}
	write(w, "3")
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if old, now := contents(t, file+".1"), contents(t, file); old != "head\n1\n2\n" || now != "head\n3\n" {
		t.Errorf("got %q and %q", old, now)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm()&^0o640 != 0 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
}

// Run with -race.
func TestManyCallersAndRedirectsLoseAndSplitNothing(t *testing.T) {
	dir := t.TempDir()
	name := func(i int) string { return filepath.Join(dir, string(rune('a'+i%3))) }
	w := open(t, name(0), Options{Keep: true})
	const callers, each = 4, 2000
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				write(w, "0123456789")
			}
		})
	}
	wg.Go(func() {
		for i := range 50 {
			if err := w.Redirect(name(i)); err != nil {
				t.Error(err)
			}
			w.Flush()
		}
	})
	wg.Wait()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	all := contents(t, name(0)) + contents(t, name(1)) + contents(t, name(2))
	if want := strings.Repeat("0123456789\n", callers*each); all != want || w.Dropped() != 0 {
		t.Errorf("%d bytes, want %d; %d dropped", len(all), len(want), w.Dropped())
	}
}
