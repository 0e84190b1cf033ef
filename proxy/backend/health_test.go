package backend

import (
	"testing"
	"time"

	"github.com/sipward/sipward/config"
)

// TestHealth is the whole of the state machine as stories: what is observed,
// when, what is told and how the backend stands afterwards.
func TestHealth(t *testing.T) {
	type event struct {
		at    time.Duration
		what  string // alive, miss, or 503 with after
		src   Source
		after time.Duration
		want  State
		told  string // the log line, empty for none
	}
	noProbes := func(c *config.Pool) { c.Probe.Interval = 0 }
	notPassive := func(c *config.Pool) { c.Probe.Passive = false }
	cases := []struct {
		name   string
		config func(*config.Pool)
		events []event
	}{
		{"one lost probe is forgiven", nil, []event{
			{at: 10 * second, what: "miss", want: Up},
			{at: 20 * second, what: "alive", want: Up},
			{at: 30 * second, what: "miss", want: Up},
		}},
		{"misses in a row take it down and answers in a row bring it back", nil, []event{
			{at: 10 * second, what: "miss", want: Up},
			{at: 20 * second, what: "miss", want: Down, told: "b0 is down: 2 probes without answer"},
			{at: 30 * second, what: "miss", want: Down},
			{at: 40 * second, what: "alive", want: Down},
			{at: 50 * second, what: "alive", want: Up, told: "b0 is up: 2 answers in a row"},
			{at: 60 * second, what: "miss", want: Up},
		}},
		{"a miss between answers begins the count anew", nil, []event{
			{at: 1 * second, what: "miss", want: Up},
			{at: 2 * second, what: "miss", want: Down, told: "b0 is down: 2 probes without answer"},
			{at: 3 * second, what: "alive", want: Down},
			{at: 4 * second, what: "miss", want: Down},
			{at: 5 * second, what: "alive", want: Down},
			{at: 6 * second, what: "alive", want: Up, told: "b0 is up: 2 answers in a row"},
		}},
		{"answers to probes do not excuse calls without answer", nil, []event{
			{at: 1 * second, what: "miss", src: Traffic, want: Up},
			{at: 2 * second, what: "alive", src: Probe, want: Up},
			{at: 3 * second, what: "miss", src: Traffic, want: Down, told: "b0 is down: 2 requests without answer"},
		}},
		{"an answer to a call excuses probes without answer", nil, []event{
			{at: 1 * second, what: "miss", src: Probe, want: Up},
			{at: 2 * second, what: "alive", src: Traffic, want: Up},
			{at: 3 * second, what: "miss", src: Probe, want: Up},
		}},
		{"real traffic brings it back too", nil, []event{
			{at: 1 * second, what: "miss", want: Up},
			{at: 2 * second, what: "miss", want: Down, told: "b0 is down: 2 probes without answer"},
			{at: 3 * second, what: "alive", src: Traffic, want: Down},
			{at: 3 * second, what: "alive", src: Probe, want: Up, told: "b0 is up: 2 answers in a row"},
		}},
		{"a 503 to a call holds it down whatever probes say", nil, []event{
			{at: 10 * second, what: "503", src: Traffic, after: 20 * second, want: Down, told: "b0 is down: 503 to a request, held for 20s"},
			{at: 11 * second, what: "alive", src: Probe, want: Down},
			{at: 12 * second, what: "alive", src: Probe, want: Down},
			{at: 13 * second, what: "alive", src: Traffic, want: Down},
			{at: 29 * second, what: "alive", src: Probe, want: Down},
			{at: 30 * second, what: "alive", src: Probe, want: Up, told: "b0 is up: hold is over"},
		}},
		{"a 503 to a probe holds it down", nil, []event{
			{at: 10 * second, what: "503", src: Probe, after: 3 * second, want: Down, told: "b0 is down: 503 to a probe, held for 3s"},
			{at: 13 * second, what: "alive", want: Up, told: "b0 is up: hold is over"},
		}},
		{"Retry-After is capped", nil, []event{
			{at: 10 * second, what: "503", src: Traffic, after: 300 * second, want: Down, told: "b0 is down: 503 to a request, held for 30s"},
			{at: 40 * second, what: "alive", want: Up, told: "b0 is up: hold is over"},
		}},
		{"no Retry-After means a short hold", nil, []event{
			{at: 10 * second, what: "503", src: Traffic, want: Down, told: "b0 is down: 503 to a request, held for 5s"},
			{at: 15 * second, what: "alive", want: Up, told: "b0 is up: hold is over"},
		}},
		{"a shorter hold does not end a longer one", nil, []event{
			{at: 10 * second, what: "503", after: 20 * second, want: Down, told: "b0 is down: 503 to a probe, held for 20s"},
			{at: 11 * second, what: "503", after: 2 * second, want: Down},
			{at: 14 * second, what: "alive", want: Down},
			{at: 30 * second, what: "alive", want: Up, told: "b0 is up: hold is over"},
		}},
		{"it can die under a hold", nil, []event{
			{at: 10 * second, what: "503", after: 5 * second, want: Down, told: "b0 is down: 503 to a probe, held for 5s"},
			{at: 11 * second, what: "miss", want: Down},
			{at: 12 * second, what: "miss", want: Down},
			{at: 16 * second, what: "alive", want: Down},
			{at: 17 * second, what: "alive", want: Up, told: "b0 is up: 2 answers in a row"},
		}},
		{"answers under a hold revive it but do not lift the hold", nil, []event{
			{at: 1 * second, what: "miss", want: Up},
			{at: 2 * second, what: "miss", want: Down, told: "b0 is down: 2 probes without answer"},
			{at: 3 * second, what: "503", after: 10 * second, want: Down},
			{at: 4 * second, what: "alive", want: Down},
			{at: 5 * second, what: "alive", want: Down},
			{at: 13 * second, what: "alive", want: Up, told: "b0 is up: hold is over"},
		}},
		{"passive: no hears probes only", notPassive, []event{
			{at: 1 * second, what: "miss", src: Traffic, want: Up},
			{at: 2 * second, what: "miss", src: Traffic, want: Up},
			{at: 3 * second, what: "503", src: Traffic, want: Up},
			{at: 4 * second, what: "miss", src: Probe, want: Up},
			{at: 5 * second, what: "alive", src: Traffic, want: Up},
			{at: 6 * second, what: "miss", src: Probe, want: Down, told: "b0 is down: 2 probes without answer"},
			{at: 7 * second, what: "alive", src: Traffic, want: Down},
			{at: 8 * second, what: "alive", src: Traffic, want: Down},
		}},
		{"without probes it is tried again after a while, on probation", noProbes, []event{
			{at: 1 * second, what: "miss", src: Traffic, want: Up},
			{at: 2 * second, what: "miss", src: Traffic, want: Down, told: "b0 is down: 2 requests without answer, held for 30s"},
			{at: 3 * second, what: "miss", src: Traffic, want: Down},
			{at: 33 * second, what: "miss", src: Traffic, want: Down},
			{at: 63 * second, what: "alive", src: Traffic, want: Up, told: "b0 is up: hold is over"},
			{at: 64 * second, what: "miss", src: Traffic, want: Up},
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			pool := poolOf("hash", 1)
			if c.config != nil {
				c.config(&pool)
			}
			b := newTestPool(pool).Backends()[0]
			for _, e := range c.events {
				var change Change
				switch e.what {
				case "alive":
					change = b.Alive(e.at, e.src)
				case "miss":
					change = b.Miss(e.at, e.src)
				case "503":
					change = b.Unavailable(e.at, e.after, e.src)
				}
				told := ""
				if change.Happened() {
					told = change.String()
				}
				if got := b.State(e.at); got != e.want || told != e.told {
					t.Errorf("after %s to a %s at %v: %v, told %q; want %v, %q", e.what, e.src, e.at, got, told, e.want, e.told)
				}
			}
		})
	}
}

func TestHoldEndsByItself(t *testing.T) {
	b := newTestPool(poolOf("hash", 1)).Backends()[0]
	b.Unavailable(10*second, 5*second, Traffic)
	if b.State(15*second-1) != Down || b.State(15*second) != Up {
		t.Error("the hold does not end when it should")
	}
	if why, since := b.Why(12*second), b.Since(12*second); why != "503 to a request, held for 5s" || since != 10*second {
		t.Errorf("held: %q since %v", why, since)
	}
	if why, since := b.Why(time.Minute), b.Since(time.Minute); why != "hold is over" || since != 15*second {
		t.Errorf("afterwards: %q since %v", why, since)
	}
}

func TestShareGrowsAfterRecovery(t *testing.T) {
	fresh := health{}
	back := health{recovered: 100 * second, returned: true}
	held := health{held: 100 * second}
	for _, c := range []struct {
		name  string
		h     health
		ramp  time.Duration
		after time.Duration
		want  float64
	}{
		{"never was down", fresh, 30 * second, 0, 1},
		{"just back", back, 30 * second, 0, firstShare},
		{"half way", back, 30 * second, 15 * second, 0.5},
		{"all the way", back, 30 * second, 30 * second, 1},
		{"half way after a hold", held, 30 * second, 15 * second, 0.5},
		{"slow start is off", back, 0, 0, 1},
	} {
		if got := c.h.share(c.ramp, 100*second+c.after); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestWellBackendCostsNothing(t *testing.T) {
	b := newTestPool(poolOf("hash", 1)).Backends()[0]
	if n := testing.AllocsPerRun(1000, func() {
		b.Alive(second, Traffic)
		b.State(second)
		b.Targets()
		b.Admit(second)
		b.pool.set.BySource(addr("10.0.0.1"))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAlive(b *testing.B) {
	p := newTestPool(poolOf("hash", 1)).Backends()[0]
	b.ReportAllocs()
	for b.Loop() {
		p.Alive(second, Traffic)
	}
}

func BenchmarkBySource(b *testing.B) {
	s := newSet(poolOf("hash", 10), nil, 0)
	a := addr("10.0.0.1")
	b.ReportAllocs()
	for b.Loop() {
		s.BySource(a)
	}
}
