package siptest

import (
	"sync"
	"time"
)

// Stillness notes when this process did not get to run, so that a test can tell a slow edge from
// a machine that stood still: what is due within a time may be late by that much.
type Stillness struct {
	mu   sync.Mutex
	gaps []gap
}

// gap is a span in which nothing ran that should have.
type gap struct {
	end  time.Time
	lost time.Duration
}

const (
	stillTick = 5 * time.Millisecond
	// stillLeast is the shortest delay that counts.
	stillLeast = 20 * time.Millisecond
	// stillMost is how many are kept, the oldest go first.
	stillMost = 10000
)

// WatchStillness watches until the test ends.
func WatchStillness(t TB) *Stillness {
	s := new(Stillness)
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		tick := time.NewTicker(stillTick)
		defer tick.Stop()
		for last := time.Now(); ; {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			now := time.Now()
			s.note(last, now)
			last = now
		}
	})
	t.Cleanup(func() {
		close(stop)
		watch.Wait()
	})
	return s
}

// note takes two moments in which the watch ran, one after the other.
func (s *Stillness) note(last, now time.Time) {
	lost := now.Sub(last) - stillTick
	if lost < stillLeast {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.gaps) == stillMost {
		s.gaps = s.gaps[1:]
	}
	s.gaps = append(s.gaps, gap{now, lost})
}

// Between is how long the machine stood still in a span.
func (s *Stillness) Between(from, to time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum time.Duration
	for _, g := range s.gaps {
		begin, end := g.end.Add(-g.lost), g.end
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		sum += max(end.Sub(begin), 0)
	}
	return sum
}

// Since is how long something took that began then, without what the machine stood still.
func (s *Stillness) Since(began time.Time) time.Duration {
	now := time.Now()
	return now.Sub(began) - s.Between(began, now)
}
