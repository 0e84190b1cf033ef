package timers

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testTick = 10 * time.Millisecond

// alarmClock records when it expired.
type alarmClock struct {
	Timer
	then func(now time.Duration)

	mu    sync.Mutex
	times []time.Duration
}

func (a *alarmClock) Expire(_ *Timer, now time.Duration) {
	a.mu.Lock()
	a.times = append(a.times, now)
	a.mu.Unlock()
	if a.then != nil {
		a.then(now)
	}
}

// fired returns the times of the expiries so far.
func (a *alarmClock) fired() []time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.times
}

// forget makes as if the clock had never expired.
func (a *alarmClock) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.times = nil
}

// withWheel runs f in a bubble of fake time with a running wheel.
func withWheel(t *testing.T, f func(t *testing.T, w *Wheel)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := NewWheel(testTick)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { w.Run(ctx) })
		synctest.Wait()
		f(t, w)
		cancel()
		wg.Wait()
	})
}

func wakeups(w *Wheel) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wakeups
}

// pass lets fake time go by and everything that is due happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func checkFired(t *testing.T, a *alarmClock, want ...time.Duration) {
	t.Helper()
	fired := a.fired()
	if len(fired) != len(want) {
		t.Fatalf("expired at %v, want at %v", fired, want)
	}
	for i, at := range want {
		if late := fired[i] - at; late < 0 || late > testTick {
			t.Errorf("expiry %d came at %v, want within a tick after %v", i, fired[i], at)
		}
	}
}

func TestTimerIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(Timer{}); size > 48 {
		t.Errorf("a Timer takes %d bytes, want at most 48", size)
	}
}

func TestExpiresNeverEarlyAndAtMostOneTickLate(t *testing.T) {
	deadlines := []time.Duration{
		math.MinInt64, -1, 0, 1, testTick - 1, testTick, testTick + 1, 500 * time.Millisecond,
		// Around the borders of the levels.
		63 * testTick, 64*testTick - 1, 64 * testTick, 64*testTick + 1, 65 * testTick,
		4095 * testTick, 4096 * testTick, 4097 * testTick,
		262143 * testTick, 262144 * testTick, 262145 * testTick,
		2 * time.Hour, 24 * time.Hour, 24*time.Hour + 1, 49 * time.Hour, 366 * 24 * time.Hour,
	}
	// The wheel may have turned for a while when a timer is armed.
	for _, age := range []time.Duration{0, 1, 629 * time.Millisecond, 640 * time.Millisecond, 41 * time.Second, 3 * time.Hour} {
		t.Run(fmt.Sprint("armed at ", age), func(t *testing.T) {
			withWheel(t, func(t *testing.T, w *Wheel) {
				pass(age)
				now := w.Now()
				clocks := make([]alarmClock, len(deadlines))
				for i, d := range deadlines {
					w.Set(&clocks[i].Timer, &clocks[i], now+max(d, -now))
				}
				pass(400 * 24 * time.Hour)
				for i, d := range deadlines {
					checkFired(t, &clocks[i], now+max(d, 0))
				}
				if w.Len() != 0 {
					t.Errorf("%d timers still armed", w.Len())
				}
			})
		})
	}
}

func TestEndOfTimeCanBeArmed(t *testing.T) {
	withWheel(t, func(t *testing.T, w *Wheel) {
		var a alarmClock
		w.Set(&a.Timer, &a, math.MaxInt64)
		pass(100 * 365 * 24 * time.Hour)
		checkFired(t, &a)
		if !w.Stop(&a.Timer) {
			t.Error("the timer is not armed any more")
		}
	})
}

func TestReArmEarlierWakesASleeperInTime(t *testing.T) {
	withWheel(t, func(t *testing.T, w *Wheel) {
		var long, short alarmClock
		w.Set(&long.Timer, &long, time.Hour)
		pass(time.Minute)
		w.Set(&short.Timer, &short, 2*time.Minute)
		pass(time.Second)
		w.Set(&long.Timer, &long, 90*time.Second)
		pass(time.Hour)
		checkFired(t, &long, 90*time.Second)
		checkFired(t, &short, 2*time.Minute)
	})
}

func TestReArmLaterCancelsTheEarlierDeadline(t *testing.T) {
	withWheel(t, func(t *testing.T, w *Wheel) {
		var a alarmClock
		for i := range 100 {
			w.Set(&a.Timer, &a, time.Duration(i+1)*time.Second)
			pass(900 * time.Millisecond)
		}
		checkFired(t, &a)
		pass(time.Minute)
		checkFired(t, &a, 100*time.Second)
	})
}

func TestOwnerReArmsFromExpire(t *testing.T) {
	withWheel(t, func(t *testing.T, w *Wheel) {
		var a alarmClock
		a.then = func(now time.Duration) {
			if len(a.fired()) < 3 {
				w.Set(&a.Timer, &a, now+time.Second)
			}
		}
		w.Set(&a.Timer, &a, time.Second)
		pass(time.Minute)
		checkFired(t, &a, time.Second, 2*time.Second, 3*time.Second)
	})
}

func TestOwnerThatReArmsForThePastGetsOneExpiryATick(t *testing.T) {
	withWheel(t, func(t *testing.T, w *Wheel) {
		var a alarmClock
		a.then = func(time.Duration) { w.Set(&a.Timer, &a, 0) }
		w.Set(&a.Timer, &a, 0)
		pass(time.Second)
		if n := len(a.fired()); n < 99 || n > 101 {
			t.Errorf("%d expiries in 100 ticks", n)
		}
		w.Stop(&a.Timer)
	})
}

func TestStoppedTimerStaysSilent(t *testing.T) {
	withWheel(t, func(t *testing.T, w *Wheel) {
		var a alarmClock
		if w.Stop(&a.Timer) {
			t.Error("Stop of an idle timer says it was armed")
		}
		w.Set(&a.Timer, &a, time.Second)
		if !w.Stop(&a.Timer) || w.Stop(&a.Timer) {
			t.Error("want true from the first Stop, false from the second")
		}
		pass(time.Minute)
		checkFired(t, &a)
	})
}

func TestOwnerStopsAnotherTimerOfTheSameTick(t *testing.T) {
	withWheel(t, func(t *testing.T, w *Wheel) {
		var first, second alarmClock
		first.then = func(time.Duration) {
			if !w.Stop(&second.Timer) {
				t.Error("the second timer was taken out too soon")
			}
		}
		w.Set(&first.Timer, &first, time.Second)
		w.Set(&second.Timer, &second, time.Second)
		pass(time.Minute)
		checkFired(t, &first, time.Second)
		checkFired(t, &second)
	})
}

func TestIdleWheelDoesNotWake(t *testing.T) {
	withWheel(t, func(t *testing.T, w *Wheel) {
		pass(1000 * time.Hour)
		if n := wakeups(w); n != 0 {
			t.Errorf("%d wake-ups with no timer armed", n)
		}
		var a alarmClock
		w.Set(&a.Timer, &a, w.Now()+time.Second)
		pass(time.Hour)
		before := wakeups(w)
		pass(1000 * time.Hour)
		if n := wakeups(w); n != before {
			t.Errorf("%d wake-ups after the last timer expired", n-before)
		}
	})
}

func TestSleepsUntilTheNextOccupiedSlot(t *testing.T) {
	withWheel(t, func(t *testing.T, w *Wheel) {
		var a, b alarmClock
		w.Set(&a.Timer, &a, 24*time.Hour)
		w.Set(&b.Timer, &b, 24*time.Hour+time.Second)
		pass(25 * time.Hour)
		checkFired(t, &a, 24*time.Hour)
		// One wake-up for each level passed on the way down, for each timer.
		if n := wakeups(w); n > 2*levels {
			t.Errorf("%d wake-ups for two timers in 9 million ticks", n)
		}
	})
}

func TestPanicInExpireIsHandedOverAndTheWheelGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWheel(testTick)
		var got []any
		w.OnPanic = func(v any, stack []byte) {
			if len(stack) == 0 {
				t.Error("no stack")
			}
			got = append(got, v)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { w.Run(ctx) })
		bad, good := alarmClock{}, alarmClock{}
		bad.then = func(time.Duration) { panic("owner is ill") }
		w.Set(&bad.Timer, &bad, time.Second)
		w.Set(&good.Timer, &good, time.Second)
		pass(2 * time.Second)
		cancel()
		wg.Wait()
		checkFired(t, &good, time.Second)
		if len(got) != 1 || got[0] != "owner is ill" {
			t.Errorf("OnPanic was given %v", got)
		}
	})
}

func TestNoOnPanicStillKeepsTheWheelGoing(t *testing.T) {
	withWheel(t, func(t *testing.T, w *Wheel) {
		bad, good := alarmClock{}, alarmClock{}
		bad.then = func(time.Duration) { panic("owner is ill") }
		w.Set(&bad.Timer, &bad, time.Second)
		w.Set(&good.Timer, &good, 2*time.Second)
		pass(3 * time.Second)
		checkFired(t, &good, 2*time.Second)
	})
}

func TestRunCanBeStoppedAndStartedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWheel(testTick)
		var a alarmClock
		w.Set(&a.Timer, &a, time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { w.Run(ctx) })
		synctest.Wait()
		cancel()
		wg.Wait()
		pass(time.Minute)
		checkFired(t, &a)
		ctx, cancel = context.WithCancel(t.Context())
		wg.Go(func() { w.Run(ctx) })
		pass(time.Second)
		cancel()
		wg.Wait()
		checkFired(t, &a, time.Minute)
	})
}

func TestManyTimersOfACoarseSlotMoveDownInBatches(t *testing.T) {
	withWheel(t, func(t *testing.T, w *Wheel) {
		clocks := make([]alarmClock, 10*moveBatch+7)
		for i := range clocks {
			w.Set(&clocks[i].Timer, &clocks[i], 2*time.Hour+time.Duration(i)*time.Millisecond)
		}
		pass(3 * time.Hour)
		for i := range clocks {
			checkFired(t, &clocks[i], 2*time.Hour+time.Duration(i)*time.Millisecond)
		}
	})
}

// TestAgreesWithANaiveModel drives the wheel and a map of deadlines with the
// same random commands.
func TestAgreesWithANaiveModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			withWheel(t, func(t *testing.T, w *Wheel) { agree(t, w, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func agree(t *testing.T, w *Wheel, rnd *rand.Rand) {
	clocks := make([]alarmClock, 50)
	model := map[int]time.Duration{}
	for range 2000 {
		i := rnd.IntN(len(clocks))
		switch rnd.IntN(4) {
		case 0, 1:
			at := w.Now() + time.Duration(rnd.Int64N(1<<(10+rnd.IntN(38))))
			w.Set(&clocks[i].Timer, &clocks[i], at)
			model[i] = at
		case 2:
			_, armed := model[i]
			if w.Stop(&clocks[i].Timer) != armed {
				t.Fatalf("Stop disagrees with the model: armed there: %v", armed)
			}
			delete(model, i)
		case 3:
			pass(time.Duration(rnd.Int64N(1 << (10 + rnd.IntN(36)))))
		}
		now := w.Now()
		for i, at := range model {
			switch fired := clocks[i].fired(); {
			case len(fired) == 1 && fired[0] >= at && fired[0] <= at+testTick:
				delete(model, i)
				clocks[i].forget()
			case len(fired) != 0:
				t.Fatalf("timer for %v expired at %v", at, fired)
			case now > at+testTick:
				t.Fatalf("timer for %v has not expired at %v", at, now)
			}
		}
		if w.Len() != len(model) {
			t.Fatalf("%d timers armed, %d in the model", w.Len(), len(model))
		}
	}
	for i := range clocks {
		if len(clocks[i].fired()) != 0 {
			t.Fatalf("timer %d expired unasked", i)
		}
	}
}

// racer checks that expiries and successful Stops add up to Sets.
type racer struct {
	Timer
	expired atomic.Int64
}

func (r *racer) Expire(*Timer, time.Duration) { r.expired.Add(1) }

func TestEveryArmingEndsOnceWhenStopRacesExpire(t *testing.T) {
	w := NewWheel(time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	var run, users sync.WaitGroup
	run.Go(func() { w.Run(ctx) })
	racers := make([]racer, 64)
	var armed, stopped atomic.Int64
	for g := range 4 {
		users.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 2))
			for range 20_000 {
				r := &racers[g*16+rnd.IntN(16)]
				if w.Stop(&r.Timer) {
					stopped.Add(1)
				}
				w.Set(&r.Timer, r, w.Now()+time.Duration(rnd.Int64N(int64(3*time.Millisecond))))
				armed.Add(1)
			}
		})
	}
	users.Wait()
	for w.Len() > 0 {
		for i := range racers {
			if w.Stop(&racers[i].Timer) {
				stopped.Add(1)
			}
		}
	}
	cancel()
	run.Wait()
	var expired int64
	for i := range racers {
		expired += racers[i].expired.Load()
	}
	if armed.Load() != stopped.Load()+expired {
		t.Errorf("%d armed, but %d stopped and %d expired", armed.Load(), stopped.Load(), expired)
	}
}

func TestSetStopAndReArmDoNotAllocate(t *testing.T) {
	w := NewWheel(testTick)
	var a alarmClock
	if n := testing.AllocsPerRun(1000, func() {
		w.Set(&a.Timer, &a, time.Minute)
		w.Set(&a.Timer, &a, time.Hour)
		w.Stop(&a.Timer)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// nobody is the owner in benchmarks.
type nobody struct{}

func (nobody) Expire(*Timer, time.Duration) {}

// loaded returns a wheel with a million armed timers, from 1 s to 2 h ahead.
func loaded() (*Wheel, []Timer) {
	w := NewWheel(testTick)
	armed := make([]Timer, 1_000_000)
	for i := range armed {
		w.Set(&armed[i], nobody{}, time.Second+time.Duration(i)*7200*time.Microsecond)
	}
	return w, armed
}

func BenchmarkSetAndStopWithAMillionArmed(b *testing.B) {
	w, _ := loaded()
	var t Timer
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.Set(&t, nobody{}, time.Duration(i%32000)*time.Millisecond)
		w.Stop(&t)
	}
}

func BenchmarkReArmWithAMillionArmed(b *testing.B) {
	w, armed := loaded()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.Set(&armed[i*7919%len(armed)], nobody{}, time.Duration(i%7200)*time.Second)
	}
}

func BenchmarkSetAndStopFromAllCores(b *testing.B) {
	w, _ := loaded()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var t Timer
		for i := 0; pb.Next(); i++ {
			w.Set(&t, nobody{}, time.Duration(i%32000)*time.Millisecond)
			w.Stop(&t)
		}
	})
}

func BenchmarkExpire(b *testing.B) {
	w, armed := loaded()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		t := &armed[i%len(armed)]
		w.Set(t, nobody{}, 0)
		now := time.Duration(w.cur+1) * w.tick
		for w.collect(now) {
		}
		for t, o := w.take(); t != nil; t, o = w.take() {
			w.expire(t, o)
		}
	}
}
