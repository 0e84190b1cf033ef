package binding

import (
	"context"
	"testing"
	"time"

	"github.com/sipward/sipward/timers"
)

func newContext(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

// TestPings: one ping for each flow and interval, for as long as somebody on it is behind a NAT.
func TestPings(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, l *lab) {
		l.Configure(20*time.Second, 5*time.Second)
		sent := func() int {
			sleep(20 * time.Second)
			return len(l.pings())
		}
		expect := func(want int, when string) {
			t.Helper()
			if got := sent(); got != want {
				t.Errorf("%s: %d pings, want %d", when, got, want)
			}
		}
		learn := func(id ID, f Flow, cseq uint32, nated bool) {
			b := l.phone(id, f, cseq)
			b.NATed, b.Expires = nated, l.now()+time.Hour
			l.Learn(b, l.now())
		}
		learn(1, tcp(1), 1, false)
		expect(0, "no NAT")
		learn(2, tcp(1), 1, true)
		learn(3, tcp(1), 1, false)
		learn(4, tcp(1), 1, true)
		expect(1, "a flow of four")
		expect(1, "again")
		learn(2, udp(2), 2, true)
		expect(2, "one of two moved on")
		l.Remove(4, 0)
		expect(1, "nobody is left behind the NAT")
		learn(1, tcp(1), 2, true)
		expect(2, "a NAT was found")
		l.Closed(1, l.now())
		expect(1, "a closed connection")
		l.Configure(0, 5*time.Second)
		expect(0, "no pings any more")
		l.Configure(10*time.Second, 5*time.Second)
		expect(2, "pings again")
		sleep(time.Hour)
		l.pings()
		expect(0, "nobody is left")
		if l.Wheel.Len() != 0 {
			t.Errorf("%d timers left", l.Wheel.Len())
		}
	})
}

func TestPongs(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, l *lab) {
		l.Configure(20*time.Second, 5*time.Second)
		b := l.phone(1<<40|1, udp(1), 1)
		b.Expires = l.now() + time.Hour
		l.learn(b, Added)
		b.ID = 2<<40 | 1
		b.Flow = udp(2)
		b.NATed = false
		l.learn(b, Added)
		check := func(pings uint64, missed int, ponged, rtt time.Duration) {
			t.Helper()
			b, _ := l.Get(1<<40 | 1)
			if b.Pings != pings || b.Missed != missed || b.Ponged != ponged || b.RTT != rtt {
				t.Errorf("%d pings, %d missed, pong at %v after %v", b.Pings, b.Missed, b.Ponged, b.RTT)
			}
		}
		l.Pong(b.ID, l.now()) // nobody asked
		check(0, 0, 0, 0)
		var first []Binding
		for len(first) == 0 {
			sleep(10 * time.Millisecond)
			first = l.pings()
		}
		if p := first[0]; p.ID != 1<<40|1 || p.Pings != 1 {
			t.Errorf("pinged: %+v", p)
		}
		l.Pong(9, l.now()) // of somebody else
		check(1, 0, 0, 0)
		sleep(70 * time.Millisecond)
		at, rtt := l.now(), l.now()-l.Table.byFlow[udp(1)].pinged
		l.Pong(1<<40|1, l.now())
		check(1, 0, at, rtt)
		if rtt < 70*time.Millisecond {
			t.Error(rtt)
		}
		l.Pong(1<<40|1, l.now()+1) // twice
		check(1, 0, at, rtt)
		sleep(60 * time.Second)
		check(4, 2, at, rtt)
		l.Pong(1<<40|1, l.now())
		if b, _ := l.Get(1<<40 | 1); b.Missed != 0 {
			t.Errorf("%d missed after an answer", b.Missed)
		}
		if sent, answered := l.Pinged(); sent != 4 || answered != 2 {
			t.Errorf("%d sent, %d answered", sent, answered)
		}
	})
}

// TestPingsAreEven: also for flows that were learned or restored in one instant, of which some have gone.
func TestPingsAreEven(t *testing.T) {
	const flows, interval, bucket = 10_000, 20 * time.Second, 100 * time.Millisecond
	even := func(t *testing.T, l *lab, n int) {
		t.Helper()
		counts := make(map[time.Duration]int)
		from := l.now()
		sleep(bucket)
		total, _ := l.Pinged()
		for l.now() < from+2*interval+bucket {
			before, _ := l.Pinged()
			sleep(bucket)
			after, _ := l.Pinged()
			counts[l.now()] += int(after - before)
		}
		if after, _ := l.Pinged(); int(after-total) != 2*n {
			t.Errorf("%d pings in two intervals, want %d", after-total, 2*n)
		}
		mean := float64(n) * float64(bucket) / float64(interval)
		for at, c := range counts {
			if float64(c) > 1.5*mean {
				t.Errorf("%d pings in the 100 ms before %v, mean %.0f", c, at, mean)
			}
		}
	}
	var kept [][]byte
	day := time.Now()
	bubble(t, Options{Capacity: flows, Keep: true}, func(t *testing.T, l *lab) {
		l.Configure(interval, time.Second)
		for i := range flows {
			l.learn(phone(ID(i)+1, udp(i)), Added)
		}
		even(t, l, flows)
		l.Configure(interval/2, time.Second)
		sleep(2 * interval)
		l.Configure(interval, time.Second)
		sleep(2 * interval)
		even(t, l, flows)
		for i := range flows {
			if i%3 != 0 {
				l.Remove(ID(i)+1, 0)
			}
		}
		even(t, l, flows/3+1)
		for i := range flows {
			l.Learn(phone(ID(i)+1, udp(i)), l.now())
		}
		even(t, l, flows)
		l.Changes(func(d time.Duration) time.Time { return day.Add(d) },
			func(_ ID, state []byte) { kept = append(kept, append([]byte(nil), state...)) }, func(ID) {})
	})
	bubble(t, Options{Capacity: flows}, func(t *testing.T, l *lab) {
		l.Configure(interval, time.Second)
		for _, s := range kept {
			l.Restore(s, func(t time.Time) time.Duration { return t.Sub(day) }, l.now())
		}
		if l.Len() != flows {
			t.Fatalf("%d restored", l.Len())
		}
		even(t, l, flows)
	})
}

// TestTurnsDoNotOverflow: an interval may be long.
func TestTurnsDoNotOverflow(t *testing.T) {
	w := timers.NewWheel(time.Millisecond)
	table := NewTable(Options{Capacity: 10, Wheel: w})
	table.Configure(24*time.Hour, 0)
	now := w.Now()
	for i := range 10 {
		table.Learn(phone(ID(i)+1, udp(i)), now)
		if at := table.byFlow[udp(i)].pingAt; at <= now || at > now+24*time.Hour {
			t.Errorf("ping at %v, now %v", at, now)
		}
	}
}
