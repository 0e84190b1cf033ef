package transaction

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

type entry struct{ n int }

func TestTable(t *testing.T) {
	tab := NewTable[*entry](10)
	v := &entry{1}
	kept, slot, _, verdict := tab.Add([]byte("k"), v, 0)
	if verdict != Added || kept != "k" || slot == 0 {
		t.Fatalf("Add: %v %q %v", verdict, kept, slot)
	}
	if got, ok := tab.Find([]byte("k")); !ok || got != v {
		t.Error("not found by key")
	}
	if got, ok := tab.At(slot); !ok || got != v {
		t.Error("not found by slot")
	}
	if _, _, old, verdict := tab.Add([]byte("k"), &entry{2}, 0); verdict != Exists || old != v || tab.Len() != 1 {
		t.Errorf("second Add: %v, %v, length %d", verdict, old, tab.Len())
	}
	tab.Remove(kept, slot)
	tab.Remove(kept, slot) // does nothing
	if _, ok := tab.Find([]byte("k")); ok || tab.Len() != 0 {
		t.Error("still there by key")
	}
	if _, ok := tab.At(slot); ok {
		t.Error("still there by slot")
	}
	for _, s := range []Slot{0, slot + 1, makeSlot(5, 1<<20, 1), ^Slot(0)} {
		if _, ok := tab.At(s); ok {
			t.Errorf("slot %x leads somewhere", s)
		}
	}
}

func TestTableRemoveOfAnOldSlotKeepsTheNewOne(t *testing.T) {
	tab := NewTable[*entry](10)
	kept, old, _, _ := tab.Add([]byte("k"), &entry{1}, 0)
	tab.Remove(kept, old)
	v := &entry{2}
	_, slot, _, _ := tab.Add([]byte("k"), v, 0) // same shard, same index
	if slot == old || slot.index() != old.index() || slot.shard() != old.shard() {
		t.Fatalf("slots %x and %x", old, slot)
	}
	if _, ok := tab.At(old); ok {
		t.Error("the old name finds the new entry")
	}
	tab.Remove(kept, old)
	if got, ok := tab.Find([]byte("k")); !ok || got != v || tab.Len() != 1 {
		t.Error("removed by the old name")
	}
}

func TestTableGenerationsWrapPastZero(t *testing.T) {
	tab := NewTable[*entry](10)
	kept, slot, _, _ := tab.Add([]byte("k"), &entry{}, 0)
	tab.Remove(kept, slot)
	tab.shard[slot.shard()].slots[slot.index()].gen = 1<<32 - 1
	if _, slot, _, _ = tab.Add([]byte("k"), &entry{}, 0); slot.gen() != 1 {
		t.Errorf("generation %d after the last", slot.gen())
	}
}

func TestTableIsBounded(t *testing.T) {
	tab := NewTable[*entry](10)
	if tab.Cap() != 10 {
		t.Fatal("capacity")
	}
	add := func(i, reserve int) Verdict {
		_, _, _, v := tab.Add(fmt.Appendf(nil, "k%d", i), &entry{i}, reserve)
		return v
	}
	for i := range 10 {
		if add(i, 0) != Added {
			t.Fatalf("%d refused", i)
		}
	}
	if add(10, 0) != Full || tab.Len() != 10 {
		t.Error("an eleventh is taken")
	}
	if _, ok := tab.Bare(&entry{}, 0); ok || tab.Len() != 10 {
		t.Error("a bare eleventh is taken")
	}
	for i := 10; i < 12; i++ {
		if add(i, 2) != Added {
			t.Errorf("%d refused in spite of the reserve", i)
		}
	}
	if add(12, 2) != Full || tab.Len() != 12 {
		t.Error("more than the reserve is taken")
	}
	if _, _, _, v := tab.Add([]byte("k3"), &entry{}, 0); v == Added {
		t.Error("a full table takes a key twice")
	}
	n := 0
	tab.All(func(*entry) bool { n++; return true })
	if n != 12 {
		t.Errorf("All calls %d times", n)
	}
	n = 0
	tab.All(func(*entry) bool { n++; return n < 3 })
	if n != 3 {
		t.Errorf("All goes on after false: %d", n)
	}
}

func TestTableAlias(t *testing.T) {
	tab := NewTable[*entry](10)
	a, b := &entry{1}, &entry{2}
	if !tab.Alias("x", a) || tab.Alias("x", b) {
		t.Fatal("Alias")
	}
	if v, ok := tab.Find([]byte("x")); !ok || v != a {
		t.Error("not found by its alias")
	}
	tab.Unalias("x", b) // not b's
	if _, ok := tab.Find([]byte("x")); !ok {
		t.Error("removed by a stranger")
	}
	tab.Unalias("x", a)
	if _, ok := tab.Find([]byte("x")); ok || tab.Len() != 0 {
		t.Error("still there")
	}
}

func TestTableOneOfManyAddsWins(t *testing.T) {
	tab := NewTable[*entry](1000)
	for round := range 200 {
		key := fmt.Appendf(nil, "key %d", round)
		var won atomic.Int32
		var winner atomic.Pointer[entry]
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				v := &entry{i}
				switch _, _, old, verdict := tab.Add(key, v, 0); verdict {
				case Added:
					won.Add(1)
					winner.Store(v)
				case Exists:
					if old == nil {
						t.Error("no loser is told the winner")
					}
				}
			})
		}
		wg.Wait()
		if v, ok := tab.Find(key); won.Load() != 1 || !ok || v != winner.Load() {
			t.Fatalf("round %d: %d winners", round, won.Load())
		}
	}
	if tab.Len() != 200 {
		t.Errorf("length %d", tab.Len())
	}
}

// The table behaves as two maps do.
func TestTableAgainstMaps(t *testing.T) {
	type kept struct {
		key  string
		slot Slot
		v    *entry
	}
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 2))
		const capacity, reserve = 40, 8
		tab := NewTable[*entry](capacity)
		byKey, bySlot := map[string]*entry{}, map[Slot]*entry{}
		var live, dead []kept
		for op := range 4000 {
			key := fmt.Sprintf("k%d", r.IntN(80))
			switch r.IntN(6) {
			case 0, 1:
				v, res := &entry{op}, reserve*r.IntN(2)
				k, slot, old, verdict := tab.Add([]byte(key), v, res)
				switch was, exists := byKey[key]; {
				case len(bySlot)+1 > capacity+res: // a full table does not look
					if verdict != Full {
						t.Fatalf("seed %d: %v in a full table", seed, verdict)
					}
				case exists:
					if verdict != Exists || old != was {
						t.Fatalf("seed %d: %v for a key that exists", seed, verdict)
					}
				case verdict != Added || k != key:
					t.Fatalf("seed %d: %v", seed, verdict)
				default:
					if _, used := bySlot[slot]; used {
						t.Fatalf("seed %d: a slot twice", seed)
					}
					byKey[key], bySlot[slot] = v, v
					live = append(live, kept{key, slot, v})
				}
			case 2:
				v := &entry{op}
				slot, ok := tab.Bare(v, 0)
				if ok != (len(bySlot) < capacity) {
					t.Fatalf("seed %d: Bare %v with %d", seed, ok, len(bySlot))
				}
				if ok {
					bySlot[slot] = v
					live = append(live, kept{"", slot, v})
				}
			case 3, 4:
				if len(live) == 0 {
					continue
				}
				i := r.IntN(len(live))
				k := live[i]
				tab.Remove(k.key, k.slot)
				delete(bySlot, k.slot)
				if k.key != "" {
					delete(byKey, k.key)
				}
				live[i] = live[len(live)-1]
				live, dead = live[:len(live)-1], append(dead, k)
			case 5:
				if len(dead) > 0 {
					k := dead[r.IntN(len(dead))]
					tab.Remove(k.key, k.slot)
					if _, ok := tab.At(k.slot); ok {
						t.Fatalf("seed %d: a removed slot leads somewhere", seed)
					}
				}
			}
			if v, ok := tab.Find([]byte(key)); ok != (byKey[key] != nil) || v != byKey[key] {
				t.Fatalf("seed %d: Find(%s)", seed, key)
			}
			if tab.Len() != len(bySlot) {
				t.Fatalf("seed %d: length %d, want %d", seed, tab.Len(), len(bySlot))
			}
		}
		for slot, v := range bySlot {
			if got, ok := tab.At(slot); !ok || got != v {
				t.Fatalf("seed %d: At", seed)
			}
		}
		for i := range tab.shard {
			if n := len(tab.shard[i].slots); n > capacity+reserve {
				t.Fatalf("seed %d: a shard of %d slots", seed, n)
			}
		}
	}
}

func TestTableUnderLoad(t *testing.T) {
	tab := NewTable[*entry](64)
	var wg sync.WaitGroup
	for g := range uint64(6) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(g, 3))
			for i := range 3000 {
				key := fmt.Appendf(nil, "k%d", r.IntN(100))
				v := &entry{i}
				k, slot, _, verdict := tab.Add(key, v, 0)
				tab.Find(key)
				if verdict != Added {
					continue
				}
				tab.Alias("alias "+k, v)
				if got, ok := tab.At(slot); !ok || got != v {
					t.Error("someone else's entry in the slot")
				}
				tab.Unalias("alias "+k, v)
				tab.Remove(k, slot)
			}
		})
		wg.Go(func() {
			for range 200 {
				tab.All(func(*entry) bool { return true })
			}
		})
	}
	wg.Wait()
	if tab.Len() != 0 {
		t.Errorf("%d left", tab.Len())
	}
	for i := range tab.shard {
		if n := len(tab.shard[i].byKey); n != 0 {
			t.Errorf("%d keys left", n)
		}
	}
}

func BenchmarkTableAddFindRemove(b *testing.B) {
	tab := NewTable[*entry](100000)
	v, key := &entry{}, []byte("INVITE\nz9hG4bK-1234567890123456\n192.0.2.1\n5060")
	b.ReportAllocs()
	for b.Loop() {
		k, slot, _, _ := tab.Add(key, v, 0)
		tab.Find(key)
		tab.At(slot)
		tab.Remove(k, slot)
	}
}

func BenchmarkTableFindParallel(b *testing.B) {
	tab := NewTable[*entry](100000)
	var keys [1024][]byte
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "INVITE\nz9hG4bK-%d\n192.0.2.1\n5060", i)
		tab.Add(keys[i], &entry{}, 0)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			tab.Find(keys[i&1023])
		}
	})
}
