package resolve

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// journal notes what a watch tells.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) changed(targets []Target, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	line := show(targets)
	if err != nil {
		line += " but failed"
	}
	j.lines = append(j.lines, line)
}

func (j *journal) take() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := strings.Join(j.lines, " | ")
	j.lines = nil
	return s
}

func TestWatchTellsChangesFailuresAndRecoveries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, "pbx.example.org. 60 A 192.0.2.1")
		r := New(Options{Servers: []string{"192.0.2.53"}, Timeout: time.Second})
		r.exchange = z.exchange
		defer r.Close()
		var j journal
		stop := r.Watch(query(t, "sip:pbx.example.org:5060"), j.changed)
		expect := func(after time.Duration, want string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := j.take(); got != want {
				t.Errorf("told %q, want %q", got, want)
			}
		}
		expect(0, "udp 192.0.2.1:5060")
		expect(10*time.Minute, "")
		if n := z.count("pbx.example.org A"); n < 10 || n > 14 {
			t.Errorf("asked %d times in 10 minutes with a TTL of one", n)
		}
		z.set(t, "pbx.example.org. 60 A 192.0.2.2")
		expect(time.Minute, "udp 192.0.2.2:5060")
		z.mute(true)
		expect(5*time.Minute, "udp 192.0.2.2:5060 but failed")
		z.mute(false)
		expect(20*time.Second, "udp 192.0.2.2:5060")
		z.set(t, "")
		expect(time.Minute, "udp 192.0.2.2:5060 but failed")
		stop()
		z.set(t, "pbx.example.org. 60 A 192.0.2.3")
		expect(time.Hour, "")
	})
}

func TestWatchIsNotStirredByTheOrderOfRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, "")
		r := New(Options{Servers: []string{"192.0.2.53"}})
		r.exchange = z.exchange
		defer r.Close()
		text := []string{"x.example.org. 10 A 192.0.2.1\n", "x.example.org. 10 A 192.0.2.2\n"}
		z.set(t, text[0]+text[1])
		var j journal
		defer r.Watch(query(t, "sip:x.example.org:5060"), j.changed)()
		for i := range 10 {
			z.set(t, text[i%2]+text[1-i%2])
			time.Sleep(10 * time.Second)
		}
		synctest.Wait()
		if got := strings.Count(j.take(), "|"); got != 0 {
			t.Errorf("%d changes told of the same addresses", got)
		}
	})
}

func TestWatchOfAnAddressIsAnsweredOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{Servers: []string{"192.0.2.53"}})
		defer r.Close()
		var j journal
		defer r.Watch(query(t, "sip:192.0.2.1"), j.changed)()
		time.Sleep(24 * time.Hour)
		if got := j.take(); got != "udp 192.0.2.1:5060" {
			t.Errorf("told %q", got)
		}
	})
}

func TestWatchesOfOneTTLDoNotAskAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text strings.Builder
		for i := range 20 {
			fmt.Fprintf(&text, "h%d.example.org. 100 A 192.0.2.%d\n", i, i+1)
		}
		z := newZone(t, text.String())
		r := New(Options{Servers: []string{"192.0.2.53"}})
		r.exchange = z.exchange
		defer r.Close()
		for i := range 20 {
			defer r.Watch(Query{Host: fmt.Sprintf("h%d.example.org", i), Port: 5060}, func([]Target, error) {})()
		}
		time.Sleep(79 * time.Second)
		synctest.Wait()
		before, most := z.total(), 0
		for range 17 {
			time.Sleep(time.Second)
			synctest.Wait()
			most = max(most, z.total()-before)
			before = z.total()
		}
		if z.total() != 80 || most > 20 {
			t.Errorf("%d questions in two rounds of 20 names, %d of them within a second", z.total(), most)
		}
	})
}
