package backend

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestNoWindowOfOneSecondHasMoreThanTheLimit(t *testing.T) {
	for _, limit := range []int{1, 2, 10, 257, 1000} {
		for seed := range uint64(5) {
			rnd := rand.New(rand.NewPCG(seed, uint64(limit)))
			r := NewRate(limit)
			var admitted []time.Duration
			now := time.Duration(rnd.Int64N(int64(time.Hour)))
			for range 20 * limit {
				if rnd.IntN(limit) == 0 {
					now += time.Duration(rnd.Int64N(int64(2 * time.Second))) // a pause, then a burst
				}
				now += time.Duration(rnd.Int64N(int64(time.Second) / int64(limit)))
				if r.Admit(now) {
					admitted = append(admitted, now)
				}
			}
			for i := limit; i < len(admitted); i++ {
				if gap := admitted[i] - admitted[i-limit]; gap < time.Second {
					t.Fatalf("limit %d: %d events within %v", limit, limit+1, gap)
				}
			}
		}
	}
}

func TestWholeLimitIsAvailableEachSecond(t *testing.T) {
	r := NewRate(100)
	for s := range 10 {
		now := time.Duration(s) * (time.Second + cellTime)
		n := 0
		for range 200 {
			if r.Admit(now) {
				n++
			}
		}
		if n != 100 {
			t.Fatalf("burst %d: %d admitted, want 100", s, n)
		}
	}
}

func TestSteadyLoadBelowTheLimitIsNeverRefused(t *testing.T) {
	r := NewRate(10)
	for i := range 1000 {
		if !r.Admit(time.Duration(i) * 111 * time.Millisecond) {
			t.Fatalf("event %d refused at 9 per second", i)
		}
	}
}

func TestNoLimitAdmitsEverything(t *testing.T) {
	r := NewRate(0)
	for range 1000 {
		if !r.Admit(0) {
			t.Fatal("refused")
		}
	}
	if !r.WithLimit(1).Admit(0) || r.WithLimit(0) != nil {
		t.Error("a limit that comes or goes")
	}
}

func TestConcurrentCallersDoNotExceedTheLimit(t *testing.T) {
	const limit, seconds = 50, 20
	r := NewRate(limit)
	var clock, admitted atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for clock.Load() < int64(seconds*time.Second) {
				if r.Admit(time.Duration(clock.Add(int64(50 * time.Microsecond)))) {
					admitted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := admitted.Load(); n > limit*(seconds+1) || n < limit*seconds*9/10 {
		t.Errorf("%d admitted in %d s at %d per second", n, seconds, limit)
	}
	total := int64(0)
	for i := range r.m.counts {
		total += int64(r.m.counts[i].Load() & (1<<countBits - 1))
	}
	if total != r.m.total.Load() {
		t.Errorf("cells hold %d, total is %d", total, r.m.total.Load())
	}
}

func BenchmarkAdmit(b *testing.B) {
	r := NewRate(1000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Admit(time.Duration(i) * 10 * time.Microsecond)
	}
}
