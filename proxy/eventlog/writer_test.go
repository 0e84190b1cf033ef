package eventlog

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/outfile"
)

const (
	tick      = 50 * time.Millisecond // as the package's doc promises
	flushWait = 2 * time.Second       // likewise
)

// gate is an output that waits for permission before every write, and counts.
type gate struct {
	open chan struct{} // nil or closed: no waiting
	fail error

	mu     sync.Mutex
	writes int
	data   bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	if g.open != nil {
		<-g.open
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.writes++
	if g.fail != nil {
		return 0, g.fail
	}
	return g.data.Write(p)
}

func (g *gate) state() (writes int, lines int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.writes, bytes.Count(g.data.Bytes(), []byte{'\n'})
}

func openGate(t *testing.T, g *gate, buffer int) *Log {
	t.Helper()
	l, err := Open(defaults(), Options{Host: "lb1", PID: 812, Stdout: g, Buffer: buffer})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestManyLinesCostOneWriteAndIdleCostsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{}
		l := openGate(t, g, 1<<20)
		defer l.Close()
		time.Sleep(time.Hour)
		synctest.Wait()
		if writes, _ := g.state(); writes != 0 {
			t.Errorf("%d writes without a line", writes)
		}
		for range 1000 {
			l.Reply(&reply)
		}
		time.Sleep(tick - time.Nanosecond)
		synctest.Wait()
		if writes, _ := g.state(); writes != 0 {
			t.Errorf("%d writes before the tick", writes)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if writes, lines := g.state(); writes != 1 || lines != 1000 {
			t.Errorf("%d lines in %d writes", lines, writes)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		l.Reply(&reply)
		time.Sleep(tick)
		synctest.Wait()
		if writes, lines := g.state(); writes != 2 || lines != 1001 {
			t.Errorf("%d lines in %d writes", lines, writes)
		}
	})
}

func TestHalfFullBufferIsWrittenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{}
		l := openGate(t, g, 4096)
		defer l.Close()
		for range 20 { // about 2.6 kB
			l.Reply(&reply)
		}
		synctest.Wait()
		if writes, _ := g.state(); writes != 1 {
			t.Errorf("%d writes", writes)
		}
		if n := l.Dropped(); n != 0 {
			t.Errorf("%d dropped", n)
		}
	})
}

func TestSlowOutputDropsAndSaysHowMany(t *testing.T) {
	for name, format := range map[string]string{"kamailio": "log lines dropped count=", "json": `"event":"dropped","count":`} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &gate{open: make(chan struct{})}
				l, err := Open(config.Log{Format: name, Replies: true}, Options{Host: "lb1", PID: 812, Stdout: g, Buffer: 4096})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				l.Reply(&reply)
				time.Sleep(tick) // the goroutine is stuck in Write from here on
				synctest.Wait()
				for range 1000 {
					l.Reply(&reply) // returns all the same
				}
				dropped := l.Dropped()
				if dropped == 0 || dropped >= 1000 {
					t.Fatalf("%d dropped", dropped)
				}
				close(g.open)
				l.Flush()
				_, lines := g.state()
				if lines != 1+1000-int(dropped)+1 {
					t.Errorf("%d lines with %d dropped", lines, dropped)
				}
				text := g.data.String()
				if at := strings.Index(text, format); at < 0 || strings.Count(text, format) != 1 {
					t.Errorf("no single line about it in %q", text)
				}
				if name == "kamailio" {
					last := text[strings.LastIndexByte(text[:len(text)-1], '\n')+1 : len(text)-1]
					if p, err := parse(last); err != nil || p.level != "WARNING" {
						t.Errorf("got %q: %v", last, err)
					}
				}
			})
		})
	}
}

func TestFailedWritesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{fail: errors.New("no space left on device")}
		l := openGate(t, g, 4096)
		l.Reply(&reply)
		l.Reply(&reply)
		l.Flush()
		if n := l.Dropped(); n != 2 {
			t.Errorf("%d dropped", n)
		}
		g.mu.Lock()
		g.fail = nil
		g.mu.Unlock()
		l.Reply(&reply)
		l.Close()
		if !strings.Contains(g.data.String(), "count=2\n") {
			t.Errorf("got %q", g.data.String())
		}
	})
}

func TestALineLargerThanTheBufferIsDropped(t *testing.T) {
	g := &gate{}
	l := openGate(t, g, 16)
	l.Reply(&reply)
	l.Close()
	if l.Dropped() != 1 {
		t.Error("not dropped")
	}
}

func TestFlushAndCloseDoNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		l := openGate(t, g, 4096)
		l.Reply(&reply)
		start := time.Now()
		l.Flush() // handed over, but not written
		l.Flush() // not even taken
		if err := l.Close(); err == nil {
			t.Error("no error")
		}
		if d := time.Since(start); d != 3*flushWait {
			t.Errorf("waited %v", d)
		}
		close(g.open)
		synctest.Wait()
	})
}

func TestCloseWritesWhatWaitsAndMayBeRepeated(t *testing.T) {
	g := &gate{}
	l := openGate(t, g, 4096)
	l.Op().Info().Msg("stop")
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	if _, lines := g.state(); lines != 1 {
		t.Errorf("%d lines", lines)
	}
	l.Reply(&reply)
	l.Flush()
	if l.Dropped() != 1 {
		t.Error("a line after Close was not counted")
	}
	if err := l.Reopen(); !errors.Is(err, outfile.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestReopenFollowsLogrotate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sipward.log")
	c := defaults()
	c.Output = file
	l, err := Open(c, Options{})
	if err != nil {
		t.Fatal(err)
	}
	l.Reply(&reply)
	l.Flush()
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	l.Reply(&reply)
	l.Flush()
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Reply(&reply)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(file + ".1")
	if err != nil || bytes.Count(old, []byte{'\n'}) != 2 {
		t.Errorf("old file: %q %v", old, err)
	}
	now, err := os.ReadFile(file)
	if err != nil || bytes.Count(now, []byte{'\n'}) != 1 {
		t.Errorf("new file: %q %v", now, err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm()&^0o640 != 0 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
}

// Run with -race.
func TestManyCallersAndChangesAtOnce(t *testing.T) {
	dir := t.TempDir()
	c := defaults()
	c.Output = filepath.Join(dir, "a")
	l, err := Open(c, Options{Buffer: 16 << 20}) // all lines fit, however slow the machine is
	if err != nil {
		t.Fatal(err)
	}
	const callers, each = 4, 500
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				l.Request(&request)
				l.Relay(&relay)
				l.Reply(&reply)
				l.Op().Info().Str("k", "v").Msg("m")
			}
		})
	}
	wg.Go(func() {
		for i := range 50 {
			next := c
			next.Output = filepath.Join(dir, string(rune('a'+i%3)))
			if err := errors.Join(l.Configure(next), l.Reopen(), l.SetLevel("info")); err != nil {
				t.Error(err)
			}
			l.Flush()
		}
	})
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	lines := 0
	for _, name := range []string{"a", "b", "c"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if _, err := parse(strings.TrimSuffix(line, "\n")); err != nil {
				t.Fatal(err)
			}
			lines++
		}
	}
	if lines != callers*each*4 || l.Dropped() != 0 {
		t.Errorf("%d lines, %d dropped", lines, l.Dropped())
	}
}

func TestLinesCostNoGarbage(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	for name, c := range map[string]config.Log{"kamailio": defaults(), "json": asJSON()} {
		g := &gate{}
		l, err := Open(c, Options{Stdout: g})
		if err != nil {
			t.Fatal(err)
		}
		for event, f := range map[string]func(){
			"request": func() { r := request; l.Request(&r) },
			"relay":   func() { r := relay; l.Relay(&r) },
			"reply":   func() { r := reply; l.Reply(&r) },
			"ended":   func() { e := ended; l.Ended(&e) },
		} {
			if n := testing.AllocsPerRun(200, f); n != 0 {
				t.Errorf("%s %s: %v allocations", name, event, n)
			}
		}
		l.Close()
	}
}

func BenchmarkLine(b *testing.B) {
	for _, format := range []config.Log{defaults(), asJSON()} {
		events := []struct {
			name string
			call func(l *Log)
		}{
			{"request", func(l *Log) { r := request; l.Request(&r) }},
			{"relay", func(l *Log) { r := relay; l.Relay(&r) }},
			{"reply", func(l *Log) { r := reply; l.Reply(&r) }},
			{"ended", func(l *Log) { e := ended; l.Ended(&e) }},
		}
		for _, event := range events {
			b.Run(format.Format+"/"+event.name, func(b *testing.B) {
				null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
				if err != nil {
					b.Fatal(err)
				}
				defer null.Close()
				l, err := Open(format, Options{Stdout: null})
				if err != nil {
					b.Fatal(err)
				}
				defer l.Close()
				b.ReportAllocs()
				for b.Loop() {
					event.call(l)
				}
				b.ReportMetric(float64(l.Dropped())/float64(b.N), "dropped/op")
			})
		}
	}
}
