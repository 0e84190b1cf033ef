package backend

import (
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
)

// withCalls gives each backend a counter, the first of them with these counts.
func withCalls(p *Pool, calls ...int64) []*atomic.Int64 {
	var all []*atomic.Int64
	for i, b := range p.Backends() {
		n := &atomic.Int64{}
		if i < len(calls) {
			n.Store(calls[i])
		}
		b.CountCallsBy(n)
		all = append(all, n)
	}
	return all
}

func maxCalls(n ...int) func(*config.Pool) {
	return func(c *config.Pool) {
		for i := range n {
			c.Backends[i].MaxCalls = n[i]
		}
	}
}

func TestFewestCallsForTheWeightComeFirst(t *testing.T) {
	for _, c := range []struct {
		name    string
		weights []int
		calls   []int64
		change  func(p *Pool)
		want    string
	}{
		{"equal weights", []int{1, 1, 1}, []int64{5, 0, 4}, nil, "b1 b2 b0 "},
		{"one call makes the difference", []int{1, 1, 1}, []int64{100_000, 100_001, 99_999}, nil, "b2 b0 b1 "},
		{"by weight", []int{1, 10, 3}, []int64{2, 10, 9}, nil, "b1 b0 b2 "},
		{"the number alone does not count", []int{1000, 1, 1}, []int64{999, 1, 2}, nil, "b0 b1 b2 "},
		{"a full one is still listed", []int{1, 1, 1}, []int64{30, 0, 10}, nil, "b1 b2 b0 "},
		{"a count below zero is none", []int{1, 1, 1}, []int64{-1, 2, 1}, nil, "b0 b2 b1 "},
		{"down is no candidate", []int{1, 1, 1}, []int64{5, 0, 4}, func(p *Pool) { kill(p.Backend("b1"), 0) }, "b2 b0 "},
		{"drained is none either", []int{1, 1, 1}, []int64{5, 0, 4}, func(p *Pool) { p.Backend("b2").SetState(Drain) }, "b1 b0 "},
		{
			"in panic, those that answer first, then by calls", []int{1, 1, 1},
			[]int64{5, 0, 4},
			func(p *Pool) {
				kill(p.Backend("b1"), 0)
				for _, name := range []string{"b0", "b2"} {
					p.Backend(name).Unavailable(0, 10*second, Traffic)
				}
			},
			"b2 b0 b1 ",
		},
	} {
		p := newTestPool(poolOf("least_calls", 3, weights(c.weights...), maxCalls(30)))
		withCalls(p, c.calls...)
		if c.change != nil {
			c.change(p)
		}
		for i := range 20 {
			if got := names(p.Order(nil, key(i), 0)); got != c.want {
				t.Errorf("%s: order %s, want %s", c.name, got, c.want)
				break
			}
		}
	}
}

// place gives n calls to the first of each order and returns who got how many.
func place(p *Pool, counts []*atomic.Int64, n int, now time.Duration) []int {
	got := make([]int, len(counts))
	for i := range n {
		first := p.Order(nil, key(i), now)[0]
		for j, b := range p.Backends() {
			if b == first {
				counts[j].Add(1)
				got[j]++
			}
		}
	}
	return got
}

func TestABurstOfCallsSpreadsByWeight(t *testing.T) {
	for _, w := range [][]int{{1, 1, 1, 1}, {1, 2, 3, 4}} {
		p := newTestPool(poolOf("least_calls", 4, weights(w...)))
		sum := 0
		for _, x := range w {
			sum += x
		}
		got := place(p, withCalls(p), 1003, 0)
		for i, n := range got {
			if want := 1003 * float64(w[i]) / float64(sum); math.Abs(float64(n)-want) > float64(w[i]) {
				t.Errorf("weights %v: b%d got %d of 1003 calls, want %.0f", w, i, n, want)
			}
		}
	}
}

func TestAnEmptyBackendIsFilledFirst(t *testing.T) {
	p := newTestPool(poolOf("least_calls", 3))
	if got := place(p, withCalls(p, 100, 0, 100), 100, 0); got[1] != 100 {
		t.Errorf("calls went to %v", got)
	}
}

func TestSlowStartKeepsAnEmptyBackendFromTakingAllCalls(t *testing.T) {
	for _, w := range [][]int{{1, 1, 1, 1}, {4, 1, 2, 3}} {
		p := newTestPool(poolOf("least_calls", 4, weights(w...)))
		b := p.Backend("b0")
		kill(b, 0)
		b.Alive(second, Probe)
		b.Alive(second, Probe)
		full := b.weight / (b.weight + p.Backend("b1").weight + p.Backend("b2").weight + p.Backend("b3").weight)
		for _, part := range []float64{0.1, 0.5, 0.9} {
			counts := withCalls(p, 0, 100_000, 200_000, 300_000)
			got := place(p, counts, keys, second+time.Duration(part*float64(p.config.SlowStart)))
			checkShare(t, fmt.Sprint("weights ", w, ": b0 at ", part), got[0], part*full)
		}
		now := second + p.config.SlowStart.D()
		if got := place(p, withCalls(p, 0, 100_000, 200_000, 300_000), 1000, now); got[0] != 1000 {
			t.Errorf("after slow start the calls went to %v", got)
		}
	}
}

func TestRoomIsWhatMaxCallsLeaves(t *testing.T) {
	for _, c := range []struct {
		limit int
		calls int64
		want  bool
	}{
		{0, 0, true},
		{0, 1 << 40, true},
		{1, 0, true},
		{1, 1, false},
		{10, 9, true},
		{10, 10, false},
		{10, 11, false},
		{10, -1, true},
	} {
		p := newTestPool(poolOf("hash", 1, maxCalls(c.limit)))
		withCalls(p, c.calls)
		b := p.Backends()[0]
		if got := b.HasRoom(); got != c.want || b.MaxCalls() != c.limit || b.Calls() != int(c.calls) {
			t.Errorf("%d of %d calls: room %v, max %d, calls %d", c.calls, c.limit, got, b.MaxCalls(), b.Calls())
		}
	}
}

func TestWithoutACounterThereAreNoCalls(t *testing.T) {
	b := newTestPool(poolOf("least_calls", 1, maxCalls(1))).Backends()[0]
	for range 2 {
		if b.Calls() != 0 || !b.HasRoom() {
			t.Errorf("%d calls, room %v", b.Calls(), b.HasRoom())
		}
		b.CountCallsBy(nil)
	}
}

func TestReloadKeepsTheCountAndTakesTheNewLimit(t *testing.T) {
	old := newSet(poolOf("hash", 1, maxCalls(5)), nil, 0)
	counts := withCalls(old.Pool("pbx"), 5)
	b := newSet(poolOf("hash", 1, maxCalls(6)), old, second).Pool("pbx").Backends()[0]
	before := old.Pool("pbx").Backends()[0]
	if b.Calls() != 5 || !b.HasRoom() || before.HasRoom() {
		t.Errorf("%d calls, room %v, before the reload %v", b.Calls(), b.HasRoom(), before.HasRoom())
	}
	counts[0].Add(1)
	if b.HasRoom() {
		t.Error("a call was not seen")
	}
	another := &atomic.Int64{}
	b.CountCallsBy(another)
	another.Store(2)
	if b.Calls() != 2 || before.Calls() != 2 {
		t.Errorf("another counter: %d calls, the old set sees %d", b.Calls(), before.Calls())
	}
}

func TestAFullBackendKeepsItsPlaceInTheOrder(t *testing.T) {
	for _, policy := range []string{"hash", "priority", "least_calls"} {
		p := newTestPool(poolOf(policy, 3))
		full := newTestPool(poolOf(policy, 3, maxCalls(1, 1, 1)))
		withCalls(p, 1, 1, 1)
		withCalls(full, 1, 1, 1)
		for i := range 100 {
			if got, want := names(full.Order(nil, key(i), 0)), names(p.Order(nil, key(i), 0)); got != want {
				t.Fatalf("%s: order %s, without limits %s", policy, got, want)
			}
		}
	}
}
