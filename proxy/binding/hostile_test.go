package binding

import (
	"math"
	"testing"
	"time"
)

// TestPhoneThatMovesWithoutEnd: a thousand times a second costs what one move does, and nobody is pinged the more for it.
func TestPhoneThatMovesWithoutEnd(t *testing.T) {
	bubble(t, Options{Keep: true}, func(t *testing.T, l *lab) {
		l.Configure(20*time.Second, 5*time.Second)
		for n := range 60_000 {
			f := udp(n)
			if n%2 == 1 {
				f = tcp(uint64(n))
			}
			b := phone(1, f)
			b.CSeq, b.Asked, b.Expires = uint32(n), l.now(), l.now()+time.Hour
			l.Learn(b, l.now())
			if n%3 == 0 {
				l.Closed(f.Conn, l.now())
			}
			time.Sleep(time.Millisecond)
		}
		sleep(0) // and the wheel is at rest
		flows, conns, waits := len(l.byFlow), len(l.byConn), len(l.changed)
		if flows > formers+1 || conns > formers+1 || waits != 1 || l.Flows() != 1 || l.Wheel.Len() > 2 {
			t.Errorf("%d flows, %d of connections, %d changes, %d timers", flows, conns, waits, l.Wheel.Len())
		}
		if pings := len(l.pings()); pings > 60/20+1 {
			t.Errorf("%d pings in a minute", pings)
		}
		if b, _ := l.Get(1); b.Returned != 0 {
			t.Errorf("returned %d times", b.Returned)
		}
		l.Remove(1, l.now())
		if n := len(l.byFlow) + len(l.byConn) + l.Wheel.Len(); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

// TestTwoPhonesOfOneContact look like one that is here and there.
func TestTwoPhonesOfOneContact(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, l *lab) {
		for n := range uint32(10) {
			b := l.phone(1, udp(int(n%2)), 1+n/2)
			b.CallID += string(rune('a' + n%2))
			l.Learn(b, l.now())
			sleep(30 * time.Second)
			if got, _ := l.Get(1); uint32(got.Returned) != max(n, 1)-1 || l.Len() != 1 {
				t.Errorf("%d bindings after %d REGISTERs, returned %d times", l.Len(), n+1, got.Returned)
			}
		}
	})
}

// TestLongestExpiry: 2^32-1 seconds (RFC 3261 20.19) are not over at once, whatever the clock shows.
func TestLongestExpiry(t *testing.T) {
	bubble(t, Options{Keep: true}, func(t *testing.T, l *lab) {
		day, kept := time.Now(), make(file)
		for i, clock := range []time.Duration{0, math.MaxUint32 * 10 * time.Millisecond, math.MaxInt32 * time.Second} {
			b := phone(ID(i)+1, tcp(uint64(i)+1))
			b.Expires = clock + math.MaxUint32*time.Second
			l.Learn(b, clock)
		}
		sleep(24 * time.Hour)
		kept.take(l.Table, day)
		if gone := l.ended(); gone != "" || l.Len() != 3 {
			t.Errorf("gone: %s", gone)
		}
		again := l.another(Options{})
		for id, state := range kept {
			b, ok := again.Restore(state, func(t time.Time) time.Duration { return t.Sub(day) }, again.Wheel.Now())
			if want, _ := l.Get(id); !ok || !isNear(b.Expires, want.Expires) {
				t.Errorf("%d: restored %v, expires %v, want %v", id, ok, b.Expires, want.Expires)
			}
		}
		l.Closed(1, l.now())
		sleep(10 * time.Second)
		if gone := l.ended(); gone != "1 lost" {
			t.Errorf("gone: %s", gone)
		}
	})
}
