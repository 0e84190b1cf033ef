package dialog

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/sipward/sipward/timers"
)

// stats count calls since the start.
type stats struct {
	attempts, answers, failures, challenges atomic.Uint64
	ends                                    [Reasons]atomic.Uint64
	talked                                  atomic.Int64 // nanoseconds of ended answered calls
	waited                                  atomic.Int64 // nanoseconds of setup of answered and failed calls
	waits                                   atomic.Uint64
	rate                                    attemptRate
}

// attemptRate counts calls by second, for the last ten.
type attemptRate struct {
	mu     sync.Mutex
	second [rateSeconds]int64
	count  [rateSeconds]uint64
}

const rateSeconds = 11 // ten whole ones and the current one

func (r *attemptRate) add(now time.Duration) {
	s := int64(now / time.Second)
	i := s % rateSeconds
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.second[i] != s {
		r.second[i], r.count[i] = s, 0
	}
	r.count[i]++
}

// perSecond is the mean of the last ten whole seconds.
func (r *attemptRate) perSecond(now time.Duration) float64 {
	s := int64(now / time.Second)
	r.mu.Lock()
	defer r.mu.Unlock()
	sum, n := uint64(0), min(s, rateSeconds-1)
	for i := range r.second {
		if r.second[i] < s && r.second[i] >= s-n {
			sum += r.count[i]
		}
	}
	if n == 0 {
		return float64(r.count[0])
	}
	return float64(sum) / float64(n)
}

func (s *stats) began(now time.Duration) {
	s.attempts.Add(1)
	s.rate.add(now)
}

// restored counts a call that was answered before the start.
func (s *stats) restored() {
	s.attempts.Add(1)
	s.answers.Add(1)
}

func (s *stats) abandoned() { s.challenges.Add(1) }

func (s *stats) answered(setup time.Duration) {
	s.answers.Add(1)
	s.waits.Add(1)
	s.waited.Add(int64(setup))
}

func (s *stats) ended(e *Ended) {
	s.ends[e.Reason].Add(1)
	if e.Answered == 0 {
		s.failures.Add(1)
		s.waits.Add(1)
		s.waited.Add(int64(e.Setup))
		return
	}
	s.talked.Add(int64(e.Duration()))
}

// Stats are the figures of all calls since the start. An INVITE that was answered
// with a challenge, or not forwarded at all, is no attempt.
type Stats struct {
	Attempts, Answered, Failed uint64
	Ended                      [Reasons]uint64
	Concurrent, Ringing        int
	ASR                        float64       // percent of ended or answered attempts that were answered
	ACD, PDD                   time.Duration // means
	CPS                        float64
}

// Stats returns the figures.
func (s *Store) Stats(now time.Duration) Stats {
	x := &s.stats
	r := Stats{Answered: x.answers.Load(), Failed: x.failures.Load(), CPS: x.rate.perSecond(now)}
	r.Attempts = x.attempts.Load() - x.challenges.Load()
	over := uint64(0)
	for i := range x.ends {
		r.Ended[i] = x.ends[i].Load()
		over += r.Ended[i]
	}
	overAnswered := over - min(r.Failed, over)
	r.Concurrent = max(int(r.Answered)-int(overAnswered), 0)
	r.Ringing = max(int(r.Attempts)-int(r.Answered)-int(r.Failed), 0)
	if n := r.Answered + r.Failed; n > 0 {
		r.ASR = 100 * float64(r.Answered) / float64(n)
	}
	if overAnswered > 0 {
		r.ACD = time.Duration(x.talked.Load() / int64(overAnswered))
	}
	if n := x.waits.Load(); n > 0 {
		r.PDD = time.Duration(x.waited.Load() / int64(n))
	}
	return r
}

// Modes counts the answered calls by mode.
func (s *Store) Modes() map[timers.Mode]int {
	n := map[timers.Mode]int{}
	s.All(func(c *Call) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.answered != 0 {
			n[c.lastLocked().modeNow()]++
		}
		return true
	})
	return n
}
