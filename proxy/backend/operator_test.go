package backend

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
)

func state(i int, word string) func(*config.Pool) {
	return func(c *config.Pool) { c.Backends[i].State = word }
}

func TestOperatorSetsTheStateAtRunTime(t *testing.T) {
	for _, c := range []struct {
		name    string
		file    string
		orders  []State
		dead    bool
		want    State
		why     string
		changed bool // by the last order
	}{
		{"drain", "up", []State{Drain}, false, Drain, "drained by the operator", true},
		{"disable", "up", []State{Disabled}, false, Disabled, "disabled by the operator", true},
		{"drain twice", "up", []State{Drain, Drain}, false, Drain, "drained by the operator", false},
		{"drain, then disable", "up", []State{Drain, Disabled}, false, Disabled, "disabled by the operator", true},
		{"drain, then up", "up", []State{Drain, Up}, false, Up, "", true},
		{"up what is up", "up", []State{Up}, false, Up, "", false},
		{"up against the file", "drain", []State{Up}, false, Up, "", true},
		{"up against a disabling file", "disabled", []State{Up}, false, Up, "", true},
		{"the file's own word", "drain", []State{Drain}, false, Drain, "drained by the operator", false},
		{"drain outranks health", "up", []State{Drain}, true, Drain, "drained by the operator", true},
		{"up leaves it to health", "up", []State{Drain, Up}, true, Down, "2 probes without answer", true},
		{"down is no order", "up", []State{Down}, false, Up, "", false},
		{"down does not end an order", "up", []State{Drain, Down}, false, Drain, "drained by the operator", false},
	} {
		p := newTestPool(poolOf("hash", 2, state(0, c.file)))
		b := p.Backend("b0")
		if c.dead {
			kill(b, 0)
		}
		changed := false
		for _, s := range c.orders {
			changed = b.SetState(s)
		}
		if b.State(0) != c.want || b.Why(0) != c.why || changed != c.changed {
			t.Errorf("%s: %v, %q, changed %v", c.name, b.State(0), b.Why(0), changed)
		}
		if listed := len(p.Order(nil, 1, 0)) == 2; listed != (c.want == Up) {
			t.Errorf("%s: in the list: %v", c.name, listed)
		}
	}
}

func TestOrderOutlivesReloadsUntilTheFileSaysSomethingElse(t *testing.T) {
	const keep = State(99)
	type step struct {
		file  string // of the reload
		order State  // after it
		want  State
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"the same file", []step{{"up", Drain, Drain}, {"up", keep, Drain}, {"up", keep, Drain}}},
		{"no word means up", []step{{"", Disabled, Disabled}, {"up", keep, Disabled}}},
		{"up against the file", []step{{"drain", Up, Up}, {"drain", keep, Up}}},
		{"the file changes its mind", []step{{"up", Drain, Drain}, {"disabled", keep, Disabled}}},
		{"and back again", []step{{"up", Drain, Drain}, {"disabled", keep, Disabled}, {"up", keep, Up}}},
		{"the file says what the operator said", []step{{"up", Drain, Drain}, {"drain", keep, Drain}, {"up", keep, Up}}},
		{"a new order after the file's", []step{{"up", Drain, Drain}, {"drain", Up, Up}, {"drain", keep, Up}, {"disabled", keep, Disabled}}},
	} {
		var s *Set
		for i, x := range c.steps {
			s = newSet(poolOf("hash", 1, state(0, x.file)), s, second)
			b := s.Pool("pbx").Backends()[0]
			if x.order != keep {
				b.SetState(x.order)
			}
			if got := b.State(second); got != x.want {
				t.Errorf("%s, step %d: %v, want %v", c.name, i, got, x.want)
			}
		}
	}
}

func TestOrderFollowsTheBackendToAnotherAddress(t *testing.T) {
	old := newSet(poolOf("hash", 2), nil, 0)
	old.Pool("pbx").Backend("b0").SetState(Drain)
	moved := newSet(poolOf("hash", 2, func(c *config.Pool) { c.Backends[0].Address = "sip:10.0.1.1" }), old, second)
	if b := moved.Pool("pbx").Backend("b0"); b.State(second) != Drain {
		t.Errorf("%v at a new address", b.State(second))
	}
	if s := moved.Pool("pbx").Backend("b1").State(second); s != Up {
		t.Errorf("another backend is %v", s)
	}
}

// A reload makes a set before it knows whether it can be used.
func TestASetThatIsNotUsedChangesNoOrder(t *testing.T) {
	old := newSet(poolOf("hash", 1), nil, 0)
	b := old.Pool("pbx").Backends()[0]
	b.SetState(Drain)
	newSet(poolOf("hash", 1, state(0, "disabled")), old, second)
	if b.State(second) != Drain {
		t.Errorf("%v", b.State(second))
	}
}

// Transactions of the old snapshot go on with it.
func TestOrderReachesTheOldSetToo(t *testing.T) {
	old := newSet(poolOf("hash", 1), nil, 0)
	newSet(poolOf("hash", 1), old, second).Pool("pbx").Backends()[0].SetState(Disabled)
	if s := old.Pool("pbx").Backends()[0].State(second); s != Disabled {
		t.Errorf("%v", s)
	}
}

func TestABrokenAddressCannotBeOrderedUp(t *testing.T) {
	b := newTestPool(poolOf("hash", 1, func(c *config.Pool) { c.Backends[0].Address = "tel:123" })).Backends()[0]
	if b.SetState(Up) || b.State(0) != Disabled || b.Why(0) != b.fault {
		t.Errorf("%v, %q", b.State(0), b.Why(0))
	}
}

func TestDisabledIsNotProbedAndDrainedIs(t *testing.T) {
	b := newTestPool(poolOf("hash", 1)).Backends()[0]
	b.NextProbe(0)
	b.SetState(Drain)
	if d := b.NextProbe(second); d < 9*second {
		t.Errorf("drained: next probe in %v", d)
	}
	b.SetState(Disabled)
	if d := b.NextProbe(2 * second); d != 0 {
		t.Errorf("disabled: next probe in %v", d)
	}
	b.SetState(Up)
	if d := b.NextProbe(3 * second); d <= 0 || d > firstProbes {
		t.Errorf("up again: next probe in %v, want it at once", d)
	}
}

func TestPanicDoesNotOverruleTheOperator(t *testing.T) {
	p := newTestPool(poolOf("least_calls", 3))
	kill(p.Backend("b0"), 0)
	p.Backend("b1").SetState(Drain)
	p.Backend("b2").SetState(Disabled)
	if got := names(p.Order(nil, 1, 0)); got != "b0 " || !p.Panicking(0) {
		t.Errorf("order %s, panic %v", got, p.Panicking(0))
	}
}

// TestOrdersAtOnce is for the race detector.
func TestOrdersAtOnce(t *testing.T) {
	c := poolOf("least_calls", 3, maxCalls(10))
	set := newSet(c, nil, 0)
	counts := withCalls(set.Pool("pbx"))
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			s := set
			var dst []*Backend
			for i := range 2000 {
				now := time.Duration(i) * 10 * time.Millisecond
				b := s.Pool("pbx").Backends()[(i+g)%3]
				switch i % 5 {
				case 0:
					b.SetState(State(i / 5 % 4))
				case 1:
					dst = s.Pool("pbx").Order(dst, uint64(i), now)
				case 2:
					counts[i%3].Add(1)
					b.CountCallsBy(counts[(i+g)%3])
				case 3:
					_ = fmt.Sprint(b.State(now), b.Why(now), b.HasRoom(), b.NextProbe(now))
				case 4:
					if i%100 == 4 {
						s = newSet(c, s, now)
					}
				}
			}
		})
	}
	wg.Wait()
}
