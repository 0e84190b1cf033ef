package backend

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
)

const (
	goldenHash  = 0x9013d8d4629dc5fd
	goldenOrder = "b2 b1 b3 b4 b0 "
)

const keys = 30_000

func key(i int) uint64 { return Hash(fmt.Appendf(nil, "user%d@example.org", i)) }

// firsts counts how many of the keys each backend is first for.
func firsts(p *Pool, now time.Duration) map[string]int {
	count := map[string]int{}
	var dst []*Backend
	for i := range keys {
		dst = p.Order(dst, key(i), now)
		count[dst[0].Name()]++
	}
	return count
}

func checkShare(t *testing.T, what string, got int, want float64) {
	t.Helper()
	if share := float64(got) / keys; math.Abs(share-want) > 0.01 {
		t.Errorf("%s: share %.3f, want %.3f", what, share, want)
	}
}

func weights(w ...int) func(*config.Pool) {
	return func(c *config.Pool) {
		for i := range w {
			c.Backends[i].Weight = w[i]
		}
	}
}

func priorities(prio ...int) func(*config.Pool) {
	return func(c *config.Pool) {
		for i := range prio {
			c.Backends[i].Priority = prio[i]
		}
	}
}

func names(bs []*Backend) string {
	s := ""
	for _, b := range bs {
		s += b.Name() + " "
	}
	return s
}

func TestHashIsTheSameForEver(t *testing.T) {
	if h := Hash([]byte("alice@example.org")); h != goldenHash {
		t.Errorf("Hash = %#x: users would move to other backends", h)
	}
	p := newTestPool(poolOf("hash", 5))
	if got := names(p.Order(nil, key(1), 0)); got != goldenOrder {
		t.Errorf("order %s: users would move to other backends", got)
	}
	if Hash([]byte("ab"), []byte("c")) == Hash([]byte("a"), []byte("bc")) {
		t.Error("the borders of the parts do not count")
	}
}

func TestEveryPolicyListsEachCandidateOnce(t *testing.T) {
	for _, policy := range []string{"hash", "round_robin", "weighted", "priority", "least_calls"} {
		p := newTestPool(poolOf(policy, 7, weights(1, 2, 3), priorities(2, 2, 1)))
		for i := range 100 {
			seen := map[*Backend]bool{}
			for _, b := range p.Order(nil, key(i), 0) {
				seen[b] = true
			}
			if len(seen) != 7 {
				t.Fatalf("%s: %d of 7 in the list", policy, len(seen))
			}
		}
	}
}

func TestSharesFollowWeights(t *testing.T) {
	for _, policy := range []string{"hash", "weighted", "least_calls"} {
		p := newTestPool(poolOf(policy, 4, weights(1, 2, 3, 4)))
		count := firsts(p, 0)
		for i := range 4 {
			checkShare(t, fmt.Sprint(policy, " b", i), count[fmt.Sprint("b", i)], float64(i+1)/10)
		}
	}
}

func TestSharesAreEven(t *testing.T) {
	for _, policy := range []string{"hash", "weighted", "round_robin", "priority", "least_calls"} {
		p := newTestPool(poolOf(policy, 10))
		count := firsts(p, 0)
		for i := range 10 {
			checkShare(t, fmt.Sprint(policy, " b", i), count[fmt.Sprint("b", i)], 0.1)
		}
	}
}

func TestHashMovesOnlyTheLostShareAndEvenly(t *testing.T) {
	for _, w := range [][]int{{1, 1, 1, 1, 1}, {1, 1, 4, 2, 2}} {
		p := newTestPool(poolOf("hash", 5, weights(w...)))
		lost := p.Backend("b2")
		before := make([]*Backend, keys)
		for i := range before {
			before[i] = p.Order(nil, key(i), 0)[0]
		}
		kill(lost, second)
		moved := map[string]int{}
		share := 0
		for i := range before {
			now := p.Order(nil, key(i), 2*second)[0]
			switch {
			case before[i] == lost:
				share++
				moved[now.Name()]++
			case before[i] != now:
				t.Fatalf("key %d moved from %s to %s, neither of which left", i, before[i].Name(), now.Name())
			}
		}
		rest := 0
		for i, n := range w {
			if i != 2 {
				rest += n
			}
		}
		for i, n := range w {
			if i == 2 {
				continue
			}
			got, want := float64(moved[fmt.Sprint("b", i)])/float64(share), float64(n)/float64(rest)
			if math.Abs(got-want) > 0.02 {
				t.Errorf("weights %v: b%d took %.3f of the lost share, want %.3f", w, i, got, want)
			}
		}
	}
}

func TestSecondChoiceIsWhereTheKeyGoesWhenTheFirstIsDown(t *testing.T) {
	p := newTestPool(poolOf("hash", 5, weights(1, 2, 3, 4, 5)))
	second2 := make([]*Backend, 1000)
	for i := range second2 {
		if o := p.Order(nil, key(i), 0); o[0].Name() == "b4" {
			second2[i] = o[1]
		}
	}
	kill(p.Backend("b4"), second)
	for i, want := range second2 {
		if want != nil && p.Order(nil, key(i), second)[0] != want {
			t.Fatalf("key %d went elsewhere than where its fail-over goes", i)
		}
	}
}

func TestRoundRobinTakesTurns(t *testing.T) {
	p := newTestPool(poolOf("round_robin", 3))
	for i, want := range []string{"b0 b1 b2 ", "b1 b2 b0 ", "b2 b0 b1 ", "b0 b1 b2 "} {
		if got := names(p.Order(nil, 42, 0)); got != want {
			t.Errorf("turn %d: %s, want %s", i, got, want)
		}
	}
	kill(p.Backend("b1"), 0)
	count := firsts(p, 0)
	checkShare(t, "b0", count["b0"], 0.5)
	checkShare(t, "b2", count["b2"], 0.5)
}

func TestWeightedIsSmooth(t *testing.T) {
	w := []int{5, 1, 1, 3}
	p := newTestPool(poolOf("weighted", 4, weights(w...)))
	count := make([]float64, 4)
	for turn := 1; turn <= 10_000; turn++ {
		first := p.Order(nil, 0, 0)[0]
		for i, b := range p.Backends() {
			if b == first {
				count[i]++
			}
			if off := count[i] - float64(turn)*float64(w[i])/10; math.Abs(off) > 3 {
				t.Fatalf("after %d turns b%d is %.1f calls off its share", turn, i, off)
			}
		}
	}
}

func TestWeightedGivesALostShareToAllOthersByWeight(t *testing.T) {
	p := newTestPool(poolOf("weighted", 4, weights(4, 1, 2, 3)))
	next := map[string]int{}
	n := 0
	for range keys {
		if o := p.Order(nil, 0, 0); o[0].Name() == "b0" {
			next[o[1].Name()]++
			n++
		}
	}
	for i := 1; i < 4; i++ {
		if got := float64(next[fmt.Sprint("b", i)]) / float64(n); math.Abs(got-float64(i)/6) > 0.02 {
			t.Errorf("b%d is the second choice in %.3f of the cases, want %.3f", i, got, float64(i)/6)
		}
	}
}

func TestLowerPriorityNumberIsFirst(t *testing.T) {
	p := newTestPool(poolOf("priority", 4, priorities(20, 10, 10, 30)))
	count := map[string]int{}
	for i := range 1000 {
		o := p.Order(nil, key(i), 0)
		count[o[0].Name()]++
		if o[2].Name() != "b0" || o[3].Name() != "b3" {
			t.Fatalf("order %s", names(o))
		}
	}
	if count["b1"] < 400 || count["b2"] < 400 {
		t.Errorf("equal priorities share %v", count)
	}
	kill(p.Backend("b1"), 0)
	kill(p.Backend("b2"), 0)
	if o := p.Order(nil, key(1), 0); names(o) != "b0 b3 " {
		t.Errorf("order %s", names(o))
	}
}

func TestPanicTriesAllThatAreDownBusyOnesFirst(t *testing.T) {
	for _, policy := range []string{"hash", "round_robin", "weighted", "priority", "least_calls"} {
		p := newTestPool(poolOf(policy, 5, func(c *config.Pool) {
			c.Backends[3].State, c.Backends[4].State = "drain", "disabled"
		}))
		kill(p.Backend("b0"), 0)
		kill(p.Backend("b1"), 0)
		if p.Panicking(0) {
			t.Fatalf("%s: panic while b2 is up", policy)
		}
		p.Backend("b2").Unavailable(0, 10*second, Traffic)
		for i := range 100 {
			o := p.Order(nil, key(i), 0)
			if len(o) != 3 || o[0].Name() != "b2" {
				t.Fatalf("%s: order %s", policy, names(o))
			}
		}
		if !p.Panicking(0) || p.Panicking(10*second) {
			t.Errorf("%s: panic does not begin or end when it should", policy)
		}
	}
}

func TestSlowStartRampsTheShareOfARecoveredBackend(t *testing.T) {
	for _, policy := range []string{"hash", "round_robin", "weighted", "priority"} {
		p := newTestPool(poolOf(policy, 4))
		b := p.Backend("b0")
		kill(b, 0)
		b.Alive(second, Probe)
		b.Alive(second, Probe)
		for _, part := range []float64{0.1, 0.5, 0.9, 1} {
			now := second + time.Duration(part*float64(p.config.SlowStart))
			count := firsts(p, now)
			want := part / 4
			checkShare(t, fmt.Sprint(policy, " b0 at ", part), count["b0"], want)
			for i := 1; i < 4; i++ {
				checkShare(t, fmt.Sprint(policy, " b", i, " at ", part), count[fmt.Sprint("b", i)], (1-want)/3)
			}
		}
	}
}

func TestSlowStartMovesEachKeyOnce(t *testing.T) {
	p := newTestPool(poolOf("hash", 3))
	b := p.Backend("b0")
	b.Unavailable(0, 10*second, Traffic)
	mine := make([]bool, 1000)
	for now := 10 * second; now <= 45*second; now += second {
		for i := range mine {
			is := p.Order(nil, key(i), now)[0] == b
			if mine[i] && !is {
				t.Fatalf("key %d went back", i)
			}
			mine[i] = is
		}
	}
}

func TestRecoveringBackendIsUsedWhenThereIsNoOther(t *testing.T) {
	p := newTestPool(poolOf("priority", 2, priorities(1, 2)))
	b := p.Backend("b0")
	b.Unavailable(0, 10*second, Traffic)
	kill(p.Backend("b1"), 0)
	for i := range 100 {
		if o := p.Order(nil, key(i), 10*second); len(o) != 1 || o[0] != b {
			t.Fatalf("order %s", names(o))
		}
	}
}

func TestOrderReusesItsSlice(t *testing.T) {
	if raceDetector {
		t.Skip("under the race detector a sync.Pool forgets on purpose")
	}
	for _, policy := range []string{"hash", "round_robin", "weighted", "priority", "least_calls"} {
		p := newTestPool(poolOf(policy, 100, weights(1, 2, 3)))
		withCalls(p)
		dst := p.Order(nil, 1, 0)
		if n := testing.AllocsPerRun(1000, func() { dst = p.Order(dst, 1, 0) }); n >= 1 {
			t.Errorf("%s: %v allocations", policy, n)
		}
	}
}

func BenchmarkOrder(b *testing.B) {
	for _, policy := range []string{"hash", "hash with weights", "round_robin", "weighted", "priority", "least_calls"} {
		for _, n := range []int{2, 10, 100} {
			b.Run(fmt.Sprintf("%s/%d", policy, n), func(b *testing.B) {
				c := poolOf(policy, n)
				if policy == "hash with weights" {
					c = poolOf("hash", n, weights(1, 2))
				}
				p := newTestPool(c)
				withCalls(p, 3, 1, 2)
				dst := p.Order(nil, 0, 0)
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					dst = p.Order(dst, uint64(i)*fnvPrime, second)
				}
			})
		}
	}
}
