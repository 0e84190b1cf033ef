package transaction

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

const shards = 64 // a power of two

// Slot names an entry of a Table: shard, index and a generation that makes the
// name unique for the life of the process. The zero Slot names nothing.
type Slot uint64

func makeSlot(shard, index, gen uint32) Slot {
	return Slot(uint64(gen)<<32 | uint64(index)<<6 | uint64(shard))
}

func (s Slot) shard() uint32 { return uint32(s) & (shards - 1) }
func (s Slot) index() uint32 { return uint32(s) >> 6 }
func (s Slot) gen() uint32   { return uint32(s >> 32) }

// Table is a bounded, sharded table of transactions. V is what a transaction is
// to its owner, usually a pointer. All methods are safe for concurrent use and
// hold one shard's lock only.
type Table[V comparable] struct {
	seed     maphash.Seed
	capacity int64
	count    atomic.Int64
	shard    [shards]tableShard[V]
}

type tableShard[V comparable] struct {
	mu    sync.Mutex
	byKey map[string]V // server keys and, for unacknowledged failures, ACK keys
	slots []slotEntry[V]
	free  []uint32
	_     [40]byte // own cache lines
}

type slotEntry[V comparable] struct {
	gen uint32
	v   V
}

// NewTable makes a table for at most capacity transactions (1 to 2^26).
func NewTable[V comparable](capacity int) *Table[V] {
	t := &Table[V]{seed: maphash.MakeSeed(), capacity: int64(capacity)}
	for i := range t.shard {
		t.shard[i].byKey = make(map[string]V)
	}
	return t
}

// Len is the number of transactions, Cap the bound.
func (t *Table[V]) Len() int { return int(t.count.Load()) }
func (t *Table[V]) Cap() int { return int(t.capacity) }

func (t *Table[V]) of(key []byte) uint32 {
	return uint32(maphash.Bytes(t.seed, key)) & (shards - 1)
}

// Find looks a server key up. It does not keep key.
func (t *Table[V]) Find(key []byte) (v V, ok bool) {
	s := &t.shard[t.of(key)]
	s.mu.Lock()
	v, ok = s.byKey[string(key)]
	s.mu.Unlock()
	return v, ok
}

// Verdict of Add.
type Verdict uint8

const (
	Added  Verdict = iota
	Exists         // there is one with that key already, it is returned
	Full           // capacity (and the reserve) is used up
)

// Add puts v under key unless the key is there already. Up to reserve entries
// beyond the capacity are taken: requests of running calls use it, so that a
// full table refuses new calls first. The key that is kept is returned with the
// slot; give both to Remove.
func (t *Table[V]) Add(key []byte, v V, reserve int) (kept string, slot Slot, existing V, verdict Verdict) {
	if t.count.Add(1) > t.capacity+int64(reserve) {
		t.count.Add(-1)
		return "", 0, existing, Full
	}
	n := t.of(key)
	s := &t.shard[n]
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.byKey[string(key)]; ok {
		t.count.Add(-1)
		return "", 0, old, Exists
	}
	kept = string(key)
	s.byKey[kept] = v
	return kept, s.take(n, v), existing, Added
}

// Bare puts v into a slot without a server key: a request of our own. reserve is as
// in Add.
func (t *Table[V]) Bare(v V, reserve int) (Slot, bool) {
	n := uint32(t.count.Add(1))
	if int64(n) > t.capacity+int64(reserve) {
		t.count.Add(-1)
		return 0, false
	}
	n &= shards - 1
	s := &t.shard[n]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.take(n, v), true
}

func (s *tableShard[V]) take(shard uint32, v V) Slot {
	var i uint32
	if n := len(s.free); n > 0 {
		i = s.free[n-1]
		s.free = s.free[:n-1]
	} else {
		i = uint32(len(s.slots))
		s.slots = append(s.slots, slotEntry[V]{})
	}
	e := &s.slots[i]
	e.gen++
	if e.gen == 0 { // after 2^32 uses; 0 names nothing
		e.gen = 1
	}
	e.v = v
	return makeSlot(shard, i, e.gen)
}

// At finds what lives in a slot, as told by the branch of a response.
func (t *Table[V]) At(slot Slot) (v V, ok bool) {
	s := &t.shard[slot.shard()]
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slot.index(); int(i) < len(s.slots) && s.slots[i].gen == slot.gen() {
		v = s.slots[i].v
	}
	var none V
	return v, v != none
}

// Alias makes v findable under a second key too (ACKs that come with a branch of
// their own). It fails when the key is taken. Remove it with Unalias.
func (t *Table[V]) Alias(key string, v V) bool {
	s := t.keyShard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.byKey[key]; taken {
		return false
	}
	s.byKey[key] = v
	return true
}

// Unalias forgets a second key, if it is v's.
func (t *Table[V]) Unalias(key string, v V) {
	s := t.keyShard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byKey[key] == v {
		delete(s.byKey, key)
	}
}

func (t *Table[V]) keyShard(key string) *tableShard[V] {
	return &t.shard[uint32(maphash.String(t.seed, key))&(shards-1)]
}

// Remove forgets a transaction. key is empty for a Bare one. A second Remove of
// the same slot does nothing.
func (t *Table[V]) Remove(key string, slot Slot) {
	var none V
	s := &t.shard[slot.shard()] // Add puts key and slot into one shard
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slot.index()
	if int(i) >= len(s.slots) || s.slots[i].gen != slot.gen() || s.slots[i].v == none {
		return
	}
	if key != "" {
		delete(s.byKey, key)
	}
	s.slots[i].v = none
	s.free = append(s.free, i)
	t.count.Add(-1)
}

// All calls f for a snapshot of the entries, outside any lock, until f is false.
func (t *Table[V]) All(f func(V) bool) {
	var none V
	for i := range t.shard {
		s := &t.shard[i]
		s.mu.Lock()
		live := make([]V, 0, len(s.slots)-len(s.free))
		for j := range s.slots {
			if s.slots[j].v != none {
				live = append(live, s.slots[j].v)
			}
		}
		s.mu.Unlock()
		for _, v := range live {
			if !f(v) {
				return
			}
		}
	}
}
