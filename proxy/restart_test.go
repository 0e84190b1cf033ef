package proxy

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/eventlog"
)

// kept sets state_file.
func kept(t *testing.T, f func(*config.Timers)) func(*config.Config) {
	path := filepath.Join(t.TempDir(), "calls")
	return func(c *config.Config) {
		withTimers(f)(c)
		c.StateFile = path
	}
}

// restarts stops the edge and makes it anew, on the same port with the same file, after
// it was away for some time.
func (t *talk) restarts(away time.Duration) {
	t.Helper()
	t.stops()
	pass(away)
	t.starts()
}

// crashes does the same, but what happens after the last write, in f, is lost.
func (t *talk) crashes(away time.Duration, f func()) {
	t.Helper()
	pass(300 * time.Millisecond)
	path := t.config().StateFile
	written, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f()
	t.stops()
	if err := os.WriteFile(path, written, 0o600); err != nil {
		t.Fatal(err)
	}
	pass(away)
	t.starts()
}

func (l *lab) config() *config.Config { return l.e.snap.Load().config }

func (t *talk) stops() {
	t.Helper()
	if err := t.e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := t.e.log.Close(); err != nil {
		t.Fatal(err)
	}
}

func (t *talk) starts() {
	t.Helper()
	c := *t.config()
	c.Listen = append([]config.Listener(nil), c.Listen...)
	c.Listen[0].Bind = t.edge()
	since, records := t.since(), t.e.records
	t.e = newEdge(t.TB, &c, t.log)
	t.answeredAt, t.e.records = t.e.wheel.Now()-since, records
	ctx, cancel := context.WithCancel(t.Context())
	t.e.running.Go(func() { t.e.wheel.Run(ctx) })
	t.e.stopTime = cancel
}

// TestCallOutlivesARestart: its numbers were shifted in both directions, and what either
// side sends afterwards is accepted by a peer that wants them to rise.
func TestCallOutlivesARestart(t *testing.T) {
	for _, side := range []int{sideA, sideB} {
		t.Run([]string{"caller", "callee"}[side]+" hangs up", func(t *testing.T) {
			inLab(t, 1, kept(t, func(*config.Timers) {}), func(t *testing.T, l *lab) {
				book := l.records()
				c := l.talks(timerLines+updateLines, timerLines+updateLines)
				last := [2]uint32{1, 0}
				rises := func(from int, n uint32) {
					t.Helper()
					if n <= last[from] {
						t.Errorf("CSeq %d after %d", n, last[from])
					}
					last[from] = n
				}
				probed := func() {
					m, _ := c.probed(sideB, "UPDATE", 301*time.Second, 200, "", "")
					rises(sideA, m.CSeq)
					m, _ = c.probed(sideA, "UPDATE", 4*time.Second, 200, "", "")
					rises(sideB, m.CSeq)
				}
				probed()
				rises(sideA, c.asks(sideA, "INFO", "", "", 200, "").CSeq)
				rises(sideB, c.asks(sideB, "INFO", "", "", 200, "").CSeq)
				probed()
				id := l.e.Calls(CallFilter{})[0]
				c.restarts(time.Minute)
				now := l.e.Calls(CallFilter{})
				if len(now) != 1 || now[0].ID != id.ID || now[0].Backend != id.Backend || now[0].Source != id.Source ||
					!now[0].Start.Round(time.Millisecond).Equal(id.Start.Round(time.Millisecond)) {
					t.Fatalf("it was %+v, now %+v", id, now)
				}
				rises(sideB, c.asks(sideB, "INFO", "", "", 200, "").CSeq)
				rises(sideA, c.asks(sideA, "INFO", "", "", 200, "").CSeq)
				probed()
				lasted := c.since().Seconds()
				rises(side, c.asks(side, "BYE", "", "", 200, "").CSeq)
				if got := len(l.lines("1 calls restored from " + l.config().StateFile + ", 0 skipped")); got != 1 {
					t.Errorf("%d lines of the restored call", got)
				}
				c.gone()
				if why := c.why(); why != "bye" {
					t.Errorf("ended by %s", why)
				}
				r := book.only()
				if math.Abs(r.Duration-lasted) > 0.1 || !r.Start.Equal(id.Start.Truncate(time.Millisecond)) || r.Backend != id.Backend {
					t.Errorf("the record says %+v, it lasted %v", r, lasted)
				}
				c.restarts(time.Second)
				if got := len(l.lines("0 calls restored from")); got != 2 {
					t.Errorf("%d starts found no call", got)
				}
			})
		})
	}
}

// TestCrashUsesNoNumberTwice: what was sent after the last write is not known any more.
func TestCrashUsesNoNumberTwice(t *testing.T) {
	inLab(t, 1, kept(t, func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines, timerLines+updateLines)
		c.until(299 * time.Second)
		c.crashes(time.Second, func() {
			c.probed(sideB, "UPDATE", 2*time.Second, 200, "", "")
			c.probed(sideA, "UPDATE", 4*time.Second, 200, "", "")
			if n := c.asks(sideA, "INFO", "", "", 200, "").CSeq; n != 3 {
				t.Fatalf("INFO is %d", n)
			}
		})
		m, _ := c.probed(sideB, "UPDATE", 301*time.Second, 200, "", "")
		if m.CSeq <= 3 {
			t.Errorf("UPDATE to the callee with %d", m.CSeq)
		}
		m, _ = c.probed(sideA, "UPDATE", 4*time.Second, 200, "", "")
		if m.CSeq <= 1 {
			t.Errorf("UPDATE to the caller with %d", m.CSeq)
		}
		c.hangsUp(sideA)
	})
}

// TestPassiveLimitCountsOverARestart: nothing was sent into the call, and its numbers
// stay as they are.
func TestPassiveLimitCountsOverARestart(t *testing.T) {
	inLab(t, 1, kept(t, func(x *config.Timers) { x.NoTimerCallDuration = config.Duration(2 * time.Hour) }), func(t *testing.T, l *lab) {
		c := l.talks("", "")
		c.until(time.Hour)
		c.restarts(10 * time.Minute)
		if m := c.asks(sideA, "INFO", "", "", 200, ""); int(m.CSeq) != c.cseq[sideA] {
			t.Errorf("INFO %d is sent on as %d", c.cseq[sideA], m.CSeq)
		}
		if _, at := c.probed(sideB, "BYE", 2*time.Hour, 200, "", ""); at < 7200*time.Second || at > 7201*time.Second {
			t.Errorf("BYE %v after the answer", at)
		}
		c.answered(sideA, "BYE", 200, "", "")
		c.gone()
		if why := c.why(); why != "no_timer_call_duration" {
			t.Errorf("ended by %s", why)
		}
	})
}

// TestSilentCallEndsAfterARestart: asked anew first, and then in its time.
func TestSilentCallEndsAfterARestart(t *testing.T) {
	inLab(t, 1, kept(t, func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines, timerLines+updateLines)
		c.until(10 * time.Second)
		c.restarts(time.Hour)
		back := c.e.wheel.Now()
		_, _ = c.waits(sideB, "UPDATE", 300*time.Second)
		for m := c.b.gets(); c.e.wheel.Now() < back+299*time.Second; m = c.b.gets() {
			if m != nil && title(m) == "BYE" {
				t.Fatalf("%s after %v", title(m), c.e.wheel.Now()-back)
			}
			for m := c.a.gets(); m != nil; m = c.a.gets() {
				c.a.sends(c.reply(m, 200, "", ""))
			}
			pass(500 * time.Millisecond)
		}
		pass(2 * time.Second)
		c.answered(sideB, "BYE", 481, "", "")
		c.answered(sideA, "BYE", 200, "", "")
		c.gone()
		if why := c.why(); why != "session_ttl" {
			t.Errorf("ended by %s", why)
		}
	})
}

// TestStateFileThatCannotBeUsedStopsTheStart, and leaves nothing open.
func TestStateFileThatCannotBeUsedStopsTheStart(t *testing.T) {
	log, err := eventlog.Open(config.Default().Log, eventlog.Options{Stdout: &logLines{}})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c := testConfig("udp:127.0.0.1:0")
	b := config.DefaultBackend()
	b.Name, b.Address = "pbx", "sip:127.0.0.1:9"
	p := config.DefaultPool()
	p.Backends = []config.Backend{b}
	c.Pools = map[string]config.Pool{"pbx": p}
	c.StateFile = filepath.Join(t.TempDir(), "calls")
	first, err := New(c, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(c, log, nil); err == nil || !strings.Contains(err.Error(), "another process has it") {
		t.Errorf("a second edge: %v", err)
	}
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.StateFile, []byte(strings.Repeat("x", 1<<16)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(c, log, nil); err == nil || !strings.Contains(err.Error(), "move it away") {
		t.Errorf("a damaged file: %v", err)
	}
	// A listener that is taken leaves the file free.
	c.StateFile += "2"
	c.Listen[0].Bind = first.Listeners()[0].Bound
	busy, err := New(c, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	other := *c
	other.StateFile += "3"
	if _, err := New(&other, log, nil); err == nil {
		t.Error("two edges on one port")
	}
	if err := busy.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := New(&other, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}
