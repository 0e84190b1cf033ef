package binding

import (
	"fmt"
	"testing"
	"time"

	"github.com/sipward/sipward/timers"
)

// sizes: with the larger one nearly each look goes past the caches.
var sizes = []int{1000, 100_000}

// filled is a table of n phones with a flow each, of which every second one has moved once.
func filled(n int, keep bool) (table *Table, all []Binding) {
	table = NewTable(Options{Capacity: n, Wheel: timers.NewWheel(10 * time.Millisecond), Keep: keep})
	table.Configure(20*time.Second, 5*time.Second)
	now := table.Wheel.Now()
	for i := range n {
		b := phone(ID(i+1)*0x9E3779B97F4A7C15, tcp(uint64(i)+1))
		table.Learn(b, now)
		if i%2 == 0 {
			b.Flow, b.CSeq = udp(i), b.CSeq+1
			table.Learn(b, now)
		}
		all = append(all, b)
	}
	return table, all
}

// bench calls do with the numbers of phones in no order.
func bench(b *testing.B, keep bool, do func(table *Table, all []Binding, i int) bool) {
	for _, n := range sizes {
		table, all := filled(n, keep)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if i = (i + 7919) % n; !do(table, all, i) {
					b.Fatal(i)
				}
			}
		})
	}
}

func BenchmarkLearnRefreshed(b *testing.B) {
	bench(b, true, func(table *Table, all []Binding, i int) bool {
		all[i].CSeq++
		outcome, _ := table.Learn(all[i], time.Second)
		return outcome == Refreshed
	})
}

func BenchmarkLearnMoved(b *testing.B) {
	bench(b, true, func(table *Table, all []Binding, i int) bool {
		all[i].CSeq++
		all[i].Flow.Listener++
		outcome, _ := table.Learn(all[i], time.Second)
		return outcome == Moved
	})
}

func BenchmarkRemovedAndAdded(b *testing.B) {
	bench(b, true, func(table *Table, all []Binding, i int) bool {
		table.Remove(all[i].ID, 0)
		outcome, _ := table.Learn(all[i], time.Second)
		return outcome == Added
	})
}

func BenchmarkCurrent(b *testing.B) {
	bench(b, false, func(table *Table, all []Binding, i int) bool {
		_, ok := table.Current(all[i].ID, tcp(uint64(i)+1))
		return ok == (i%2 == 0)
	})
}

func BenchmarkSuccessor(b *testing.B) {
	bench(b, false, func(table *Table, _ []Binding, i int) bool {
		_, ok := table.Successor(tcp(uint64(i)+1), 0)
		return ok == (i%2 == 0)
	})
}

func BenchmarkNode(b *testing.B) {
	aor := make([]byte, 0, 64)
	bench(b, false, func(table *Table, all []Binding, i int) bool {
		aor = append(aor[:0], all[i].AoR...)
		_, ok := table.Node(aor)
		return ok
	})
}

func BenchmarkNodeAt(b *testing.B) {
	bench(b, false, func(table *Table, all []Binding, i int) bool {
		_, ok := table.NodeAt(all[i].Flow)
		return ok
	})
}

func BenchmarkGet(b *testing.B) {
	bench(b, false, func(table *Table, all []Binding, i int) bool {
		_, ok := table.Get(all[i].ID)
		return ok
	})
}

// BenchmarkState is a binding written and read again.
func BenchmarkState(b *testing.B) {
	one := samples()[0]
	var state []byte
	b.ReportAllocs()
	for b.Loop() {
		state = appendState(state[:0], &one, nil, wall)
		if _, _, ok := parseState(state, clock, 0); !ok {
			b.Fatal("not read")
		}
	}
	b.ReportMetric(float64(len(state)), "B/state")
}

func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(float64(perBinding(100_000)), "B/binding")
	}
}
