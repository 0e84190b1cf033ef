package security

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestKnownRemembersForAnHour(t *testing.T) {
	const a, b Source = 1, 2
	k := NewKnown(100)
	k.Succeeded(a, "alice@example.org", time.Minute)
	for _, c := range []struct {
		name         string
		s            Source
		user         string
		at           time.Duration
		source, pair bool
	}{
		{"at once", a, "alice@example.org", time.Minute, true, true},
		{"a clock that was read before", a, "alice@example.org", 59 * time.Second, true, true},
		{"an hour later", a, "alice@example.org", 61 * time.Minute, true, true},
		{"more than an hour later", a, "alice@example.org", 61*time.Minute + 1, false, false},
		{"another user", a, "bob@example.org", time.Minute, true, false},
		{"another spelling", a, "Alice@example.org", time.Minute, true, false},
		{"no user", a, "", time.Minute, true, false},
		{"another source", b, "alice@example.org", time.Minute, false, false},
		{"no source", 0, "alice@example.org", time.Minute, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := k.Source(c.s, c.at); got != c.source {
				t.Errorf("source: %v", got)
			}
			if got := k.User(c.s, []byte(c.user), c.at); got != c.pair {
				t.Errorf("user: %v", got)
			}
		})
	}
}

func TestKnownIsRenewedByEachSuccess(t *testing.T) {
	k := NewKnown(100)
	for now := time.Second; now < 5*time.Hour; now += 30 * time.Second {
		k.Succeeded(1, "alice@example.org", now)
		if now == time.Hour+time.Second {
			k.Succeeded(1, "bob@example.org", now)
		}
		if !k.Source(1, now+time.Hour) || !k.User(1, []byte("alice@example.org"), now+time.Hour) {
			t.Fatalf("forgotten an hour after %v", now)
		}
		if got, want := k.User(1, []byte("bob@example.org"), now), now > time.Hour && now < 2*time.Hour+2*time.Second; got != want {
			t.Fatalf("bob at %v: %v", now, got)
		}
	}
	if k.Len() != 1 {
		t.Errorf("%d sources", k.Len())
	}
}

func TestKnownHoldsWhoIsRegistered(t *testing.T) {
	const now = 2 * time.Hour
	user := []byte("alice@example.org")
	for _, c := range []struct {
		name  string
		hold  func(k *Known)
		until time.Duration // the last moment at which both are known, 0 for never
	}{
		{"until it ends", func(k *Known) { k.Holds(1, "alice@example.org", now+time.Minute, now) }, now + time.Minute},
		{"beyond the hour", func(k *Known) {
			k.Succeeded(1, "alice@example.org", now)
			k.Holds(1, "alice@example.org", now+3*time.Hour, now)
		}, now + 3*time.Hour},
		{"not shorter than a success", func(k *Known) {
			k.Succeeded(1, "alice@example.org", now)
			k.Holds(1, "alice@example.org", now+time.Minute, now)
		}, now + time.Hour},
		{"not shorter than the hold before", func(k *Known) {
			k.Holds(1, "alice@example.org", now+3*time.Hour, now)
			k.Holds(1, "alice@example.org", now+time.Minute, now+time.Second)
		}, now + 3*time.Hour},
		{"a success later on", func(k *Known) {
			k.Holds(1, "alice@example.org", now+3*time.Hour, now)
			k.Succeeded(1, "alice@example.org", now+time.Minute)
		}, now + 3*time.Hour},
		{"an hour after a success, though the registration ends before", func(k *Known) {
			k.Holds(1, "alice@example.org", now+10*time.Minute, now)
			k.Succeeded(1, "alice@example.org", now+5*time.Minute)
		}, now + 65*time.Minute},
		{"a day at most", func(k *Known) { k.Holds(1, "alice@example.org", now+240*time.Hour, now) }, now + 24*time.Hour},
		{"for ever", func(k *Known) { k.Holds(1, "alice@example.org", 1<<63-1, now) }, now + 24*time.Hour},
		{"one that is over", func(k *Known) { k.Holds(1, "alice@example.org", now, now) }, 0},
		{"one that was over", func(k *Known) { k.Holds(1, "alice@example.org", now-time.Hour, now) }, 0},
		{"one at the start of the clock", func(k *Known) { k.Holds(1, "alice@example.org", time.Minute, 0) }, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := NewKnown(100)
			c.hold(k)
			for _, at := range []struct {
				now  time.Duration
				want bool
			}{{c.until, c.until > 0}, {max(c.until, now) + 1, false}} {
				if k.Source(1, at.now) != at.want || k.User(1, user, at.now) != at.want {
					t.Errorf("at %v: source %v, user %v", at.now, k.Source(1, at.now), k.User(1, user, at.now))
				}
			}
		})
	}
}

func TestKnownHoldsNobodyElse(t *testing.T) {
	k := NewKnown(100)
	k.Holds(0, "alice@example.org", time.Hour, 0)
	k.Holds(1, "", time.Hour, 0)
	k.Holds(2, "alice@example.org", time.Hour, 0)
	for _, c := range []struct {
		s            Source
		user         string
		source, pair bool
	}{
		{0, "alice@example.org", false, false},
		{1, "alice@example.org", true, false},
		{2, "alice@example.org", true, true},
		{2, "bob@example.org", true, false},
		{3, "alice@example.org", false, false},
	} {
		if k.Source(c.s, 1) != c.source || k.User(c.s, []byte(c.user), 1) != c.pair {
			t.Errorf("source %d, %s: %v %v", c.s, c.user, k.Source(c.s, 1), k.User(c.s, []byte(c.user), 1))
		}
	}
}

// A registration is no accepted password: the first one that follows earns what the
// first one earns.
func TestKnownTellsHeldFromSucceeded(t *testing.T) {
	k := NewKnown(100)
	k.Holds(1, "alice@example.org", time.Hour, time.Minute)
	if before := k.Succeeded(1, "alice@example.org", 2*time.Minute); before != 0 {
		t.Errorf("succeeded at %v", before)
	}
	k.Holds(1, "alice@example.org", time.Hour, 3*time.Minute)
	if before := k.Succeeded(1, "alice@example.org", 4*time.Minute); before != 2*time.Minute {
		t.Errorf("succeeded at %v", before)
	}
}

func TestKnownHeldIsForgottenToo(t *testing.T) {
	k := NewKnown(100)
	k.Holds(1, "alice@example.org", 3*time.Hour, time.Second)
	k.Holds(1, "bob@example.org", 3*time.Hour, time.Second)
	k.Forget(1)
	k.Holds(1, "bob@example.org", 3*time.Hour, 2*time.Second)
	if k.User(1, []byte("alice@example.org"), 2*time.Second) {
		t.Error("another user's registration brought alice back")
	}
	if !k.User(1, []byte("bob@example.org"), 2*time.Second) {
		t.Error("bob is not known again")
	}
}

func TestKnownTakesClocksInAnyOrder(t *testing.T) {
	k := NewKnown(100)
	k.Succeeded(1, "alice@example.org", time.Minute)
	k.Succeeded(1, "alice@example.org", time.Second)
	if !k.User(1, []byte("alice@example.org"), 61*time.Minute) {
		t.Error("an earlier success took the place of a later one")
	}
}

func TestKnownKeepsWhoSucceedsAgain(t *testing.T) {
	k := NewKnown(3)
	for _, s := range []Source{1, 2, 3, 1, 4} {
		k.Succeeded(s, "alice@example.org", time.Second)
	}
	for s, want := range map[Source]bool{1: true, 2: false, 3: true, 4: true} {
		if k.Source(s, time.Second) != want || k.User(s, []byte("alice@example.org"), time.Second) != want {
			t.Errorf("source %d: want %v", s, want)
		}
	}
}

func TestKnownForgetsASourceWithItsUsers(t *testing.T) {
	k := NewKnown(100)
	k.Succeeded(1, "alice@example.org", time.Second)
	k.Succeeded(2, "alice@example.org", time.Second)
	k.Forget(1)
	k.Forget(3)
	if k.Source(1, time.Second) || k.User(1, []byte("alice@example.org"), time.Second) {
		t.Error("still known")
	}
	if !k.Source(2, time.Second) || !k.User(2, []byte("alice@example.org"), time.Second) {
		t.Error("forgot another source")
	}
	k.Succeeded(1, "bob@example.org", 2*time.Second)
	if k.User(1, []byte("alice@example.org"), 2*time.Second) {
		t.Error("another user's success brought alice back")
	}
	k.Succeeded(1, "alice@example.org", 3*time.Second)
	if !k.User(1, []byte("alice@example.org"), 3*time.Second) || !k.User(1, []byte("bob@example.org"), 3*time.Second) {
		t.Error("not known again")
	}
}

// One source of very many users is one source, and the latest of its users are known.
func TestKnownIsBounded(t *testing.T) {
	k := NewKnown(1000)
	k.Succeeded(1, "alice@example.org", time.Second)
	for i := range 20_000 {
		k.Succeeded(2, fmt.Sprint(i, "@example.org"), time.Second+time.Duration(i))
	}
	if !k.Source(1, time.Second) || !k.Source(2, time.Second) || k.Len() != 2 {
		t.Errorf("%d sources of two", k.Len())
	}
	for i := 20_000 - 500; i < 20_000; i++ {
		if !k.User(2, fmt.Append(nil, i, "@example.org"), 2*time.Second) {
			t.Fatalf("user %d is not known", i)
		}
	}
	users := 0
	for i := range k.users {
		users += len(k.users[i].latest.index)
	}
	if users > 1000 {
		t.Errorf("%d users of at most 1000", users)
	}
	for i := range 20_000 {
		k.Succeeded(rateSource(i), "", 2*time.Second)
	}
	if k.Source(1, 2*time.Second) || !k.Source(rateSource(19_999), 2*time.Second) || k.Len() > 1000 {
		t.Errorf("%d sources, not the latest", k.Len())
	}
}

// Who has one account can have it accepted under any number of names, and so make room:
// not in place of most others.
func TestOneSourceMakesFewForgotten(t *testing.T) {
	const victims = 1000
	k := NewKnown(20_000)
	for i := range victims {
		k.Succeeded(rateSource(i), "alice@example.org", time.Second)
	}
	for i := range 100_000 {
		k.Succeeded(rateSource(victims), fmt.Sprint("evil@", i, ".example.org"), 2*time.Second)
	}
	known := 0
	for i := range victims {
		if k.User(rateSource(i), []byte("alice@example.org"), 3*time.Second) {
			known++
		}
	}
	if known < victims*9/10 {
		t.Errorf("%d of %d are still known", known, victims)
	}
}

func TestKnownTakesAnything(t *testing.T) {
	for _, size := range []int{-1, 0, 1} {
		k := NewKnown(size)
		for _, now := range []time.Duration{0, -1 << 63, 1<<63 - 1} {
			k.Succeeded(0, "", now)
			k.Succeeded(1, "", now)
			k.Succeeded(1, "alice", now)
			for _, until := range []time.Duration{0, -1 << 63, 1<<63 - 1} {
				k.Holds(0, "", until, now)
				k.Holds(1, "alice", until, now)
			}
			k.Source(0, now)
			k.User(1, nil, now)
			k.Forget(0)
		}
		if k.Source(0, 0) || k.Len() != 1 {
			t.Errorf("%d sources", k.Len())
		}
	}
}

func TestKnownIsSafeForConcurrentUse(t *testing.T) {
	k := NewKnown(1000)
	var wg sync.WaitGroup
	for w := range Source(4) {
		wg.Go(func() {
			for i := range 5000 {
				s, now := 1+(w+Source(i))%50, time.Duration(i)*time.Second
				k.Succeeded(s, "alice@example.org", now)
				k.Holds(s, "alice@example.org", now+time.Hour, now)
				k.Source(s, now)
				k.User(s, []byte("alice@example.org"), now)
				if i%10 == 0 {
					k.Forget(s)
					k.Len()
				}
			}
		})
	}
	wg.Wait()
}

func TestKnownDoesNotAllocateAgain(t *testing.T) {
	k := NewKnown(1000)
	user := []byte("alice@example.org")
	k.Succeeded(1, "alice@example.org", time.Second)
	if n := testing.AllocsPerRun(1000, func() {
		k.Succeeded(1, "alice@example.org", 2*time.Second)
		k.Holds(1, "alice@example.org", 2*time.Hour, 2*time.Second)
		if !k.Source(1, time.Second) || !k.User(1, user, time.Second) || k.Source(2, time.Second) {
			t.Error("unknown")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// knownMany returns one that is full.
func knownMany(n int) *Known {
	k := NewKnown(n)
	for i := range n {
		k.Succeeded(rateSource(i), "alice@example.org", time.Second)
	}
	return k
}

func BenchmarkKnownSource(b *testing.B) {
	const n = 100_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	k := knownMany(n)
	runtime.GC()
	runtime.ReadMemStats(&after)
	heap := float64(after.HeapAlloc) - float64(before.HeapAlloc)
	for _, c := range []struct {
		name string
		of   func(i int) Source
	}{
		{"one", func(int) Source { return rateSource(n - 1) }},
		{"any of 100000", func(i int) Source { return rateSource(i * 7919 % n) }},
		{"unknown", func(i int) Source { return rateSource(n + i) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				k.Source(c.of(i), time.Minute)
			}
			b.ReportMetric(heap/n, "heap-B/source")
		})
	}
}

func BenchmarkKnownUser(b *testing.B) {
	k := knownMany(100_000)
	user := []byte("alice@example.org")
	b.ReportAllocs()
	for b.Loop() {
		k.User(rateSource(99_999), user, time.Minute)
	}
}

func BenchmarkKnownSucceededAgain(b *testing.B) {
	k := knownMany(100_000)
	b.ReportAllocs()
	for b.Loop() {
		k.Succeeded(rateSource(99_999), "alice@example.org", time.Minute)
	}
}

func BenchmarkKnownHoldsAgain(b *testing.B) {
	k := knownMany(100_000)
	b.ReportAllocs()
	for b.Loop() {
		k.Holds(rateSource(99_999), "alice@example.org", 2*time.Hour, time.Minute)
	}
}
