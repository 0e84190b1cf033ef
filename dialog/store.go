package dialog

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sipward/sipward/timers"
)

const shards = 64 // a power of two

// ID names a call for the life of the process: shard, index and a generation. The
// zero ID names nothing. It travels in our Record-Route (spec E.1).
type ID uint64

func makeID(shard, index, gen uint32) ID {
	return ID(gen)<<32 | ID(index)<<6 | ID(shard)
}

func (id ID) shard() uint32 { return uint32(id) & (shards - 1) }
func (id ID) index() uint32 { return uint32(id) >> 6 }
func (id ID) gen() uint32   { return uint32(id >> 32) }

// Options of a Store. All fields but Keep are needed.
type Options struct {
	Capacity int // calls at the same time
	Wheel    *timers.Wheel
	// Due is called on the wheel's goroutine, without a lock, when a call wants
	// its Due.
	Due  func(c *Call, now time.Duration)
	Keep bool // note which calls change, for Changes
	// Own reads the user part of a Record-Route: false when it is not one of ours,
	// else the call that it was written for, 0 = none.
	Own func(user []byte) (ID, bool)
}

// Store is the bounded, sharded table of all calls. All methods are safe for
// concurrent use.
type Store struct {
	Options
	seed  maphash.Seed
	next  atomic.Uint32 // spreads new calls over the shards
	count atomic.Int64  // calls, and dialogs beyond the first of each
	shard [shards]shard

	names   names
	streams streams
	parties parties
	tallies tallies
	stats   stats
	changes changes
}

type shard struct {
	mu    sync.Mutex
	slots []slot
	free  []uint32
	byKey map[uint64]trace // dialogs by Call-ID and tags, for requests without our Route
	tombs tombs
	_     [24]byte // own cache lines
}

type slot struct {
	gen  uint32
	call *Call
}

// NewStore makes an empty store.
func NewStore(o Options) *Store {
	s := &Store{Options: o, seed: maphash.MakeSeed()}
	for i := range s.shard {
		s.shard[i].byKey = make(map[uint64]trace)
		s.shard[i].tombs.limit = max(o.Capacity/shards, 64)
	}
	s.names.init()
	s.parties.init()
	s.changes.limit = max(4*o.Capacity, 1024)
	return s
}

// Len is the number of calls and of dialogs beyond the first of each.
func (s *Store) Len() int { return int(s.count.Load()) }

// Cap is the bound of Len for new calls.
func (s *Store) Cap() int { return s.Capacity }

// add gives a new call its place. It is false when the store is full; reserve
// more calls are taken for those that no limit refuses.
func (s *Store) add(c *Call, reserve int) bool {
	if s.count.Add(1) > int64(s.Capacity+reserve) {
		s.count.Add(-1)
		return false
	}
	n := s.next.Add(1) & (shards - 1)
	sh := &s.shard[n]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	var i uint32
	if k := len(sh.free); k > 0 {
		i = sh.free[k-1]
		sh.free = sh.free[:k-1]
	} else {
		i = uint32(len(sh.slots))
		sh.slots = append(sh.slots, slot{})
	}
	e := &sh.slots[i]
	e.gen++
	if e.gen == 0 { // after 2^32 uses; 0 names nothing
		e.gen = 1
	}
	e.call = c
	c.id = makeID(n, i, e.gen)
	return true
}

// grow counts one more dialog of a call, if the store is not full or it must be.
func (s *Store) grow(must bool) bool {
	if s.count.Add(1) > int64(s.Capacity) && !must {
		s.count.Add(-1)
		return false
	}
	return true
}

// remove forgets a call. c.mu is held; nobody holds a shard and waits for a call.
func (s *Store) remove(c *Call) {
	sh := &s.shard[c.id.shard()]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e := &sh.slots[c.id.index()]; e.gen == c.id.gen() && e.call == c {
		e.call = nil
		sh.free = append(sh.free, c.id.index())
		s.count.Add(-1)
	}
}

// Get finds a call by its ID.
func (s *Store) Get(id ID) *Call {
	sh := &s.shard[id.shard()]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if i := id.index(); int(i) < len(sh.slots) && sh.slots[i].gen == id.gen() {
		return sh.slots[i].call
	}
	return nil
}

// All calls f for a snapshot of the calls, outside any lock, until f is false.
func (s *Store) All(f func(*Call) bool) {
	for i := range s.shard {
		sh := &s.shard[i]
		sh.mu.Lock()
		live := make([]*Call, 0, len(sh.slots)-len(sh.free))
		for j := range sh.slots {
			if c := sh.slots[j].call; c != nil {
				live = append(live, c)
			}
		}
		sh.mu.Unlock()
		for _, c := range live {
			if !f(c) {
				return
			}
		}
	}
}

// keyOf sums what identifies a dialog: Call-ID, the caller's and the callee's tag.
// The seed is secret, so that two dialogs cannot be made to meet in one sum.
func (s *Store) keyOf(callID, tagA, tagB []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	h.Write(callID)
	h.WriteByte(0)
	h.Write(tagA)
	h.WriteByte(0)
	h.Write(tagB)
	return h.Sum64()
}

func (s *Store) keyShard(key uint64) *shard { return &s.shard[key&(shards-1)] }

// index makes a dialog findable without our Route. Where the key is there already
// (a proxying PBX sends the call through us twice, a spiral) the first one stays:
// the second has its ID.
func (s *Store) index(key uint64, id ID) {
	sh := s.keyShard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if !sh.byKey[key].isLive() {
		sh.byKey[key] = trace(id)
	}
}

// unindex forgets it, and remembers for some time that it was there.
func (s *Store) unindex(key uint64, id ID, now, until time.Duration) {
	sh := s.keyShard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.byKey[key] != trace(id) {
		return
	}
	if until <= now {
		delete(sh.byKey, key)
		return
	}
	sh.sweep(now)
	o := tomb{key, overUntil(until)}
	sh.byKey[key] = o.until
	sh.tombs.order = append(sh.tombs.order, o)
	if len(sh.tombs.order)-sh.tombs.head > sh.tombs.limit {
		sh.drop()
	}
}

func (s *Store) lookUp(key uint64) (ID, bool) {
	sh := s.keyShard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	x := sh.byKey[key]
	return ID(x), x.isLive()
}

// A trace is what is known of a dialog by its key: the ID of its call, or the second
// until which it is remembered that it is over. No ID is that low: generations start
// at 1.
type trace uint64

func overUntil(t time.Duration) trace { return trace((t + time.Second - 1) / time.Second) }

func (x trace) isLive() bool { return x >= 1<<32 }

func (x trace) isOver(now time.Duration) bool {
	return x != 0 && !x.isLive() && now < time.Duration(x)*time.Second
}

// tombs is the order in which dialogs ended within the last 64*T1: a late request
// gets its 481 from us (spec E.2). Bounded: the oldest is forgotten first.
type tombs struct {
	limit int
	order []tomb
	head  int
}

type tomb struct {
	key   uint64
	until trace
}

// sweep forgets what is over; entries come in the order of their end, nearly.
func (sh *shard) sweep(now time.Duration) {
	t := &sh.tombs
	for t.head < len(t.order) && !t.order[t.head].until.isOver(now) {
		sh.drop()
	}
	if t.head > len(t.order)/2 {
		t.order = append(t.order[:0], t.order[t.head:]...)
		t.head = 0
	}
}

// drop forgets the oldest.
func (sh *shard) drop() {
	o := sh.tombs.order[sh.tombs.head]
	sh.tombs.head++
	if sh.byKey[o.key] == o.until {
		delete(sh.byKey, o.key)
	}
}

// Traces is how many dialogs can be found by their tags, and how many are remembered
// after their end.
func (s *Store) Traces(now time.Duration) (found, remembered int) {
	for i := range s.shard {
		sh := &s.shard[i]
		sh.mu.Lock()
		sh.sweep(now)
		for _, x := range sh.byKey {
			if x.isLive() {
				found++
			} else {
				remembered++
			}
		}
		sh.mu.Unlock()
	}
	return found, remembered
}

// isBuried says whether a dialog ended a short time ago.
func (s *Store) isBuried(key uint64, now time.Duration) bool {
	sh := s.keyShard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.byKey[key].isOver(now)
}

// tallies count the calls of each backend. The only writers are Call.seatLocked
// and the end of a call, so a count is the number of records that name it.
type tallies struct {
	mu sync.RWMutex
	of map[uint32]*atomic.Int64
}

// Tally is the number of calls of a backend, by its ID: one value, which stays the
// same one as long as the store lives.
func (s *Store) Tally(backend uint32) *atomic.Int64 {
	t := &s.tallies
	t.mu.RLock()
	known := t.of[backend]
	t.mu.RUnlock()
	if known != nil {
		return known
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = make(map[uint32]*atomic.Int64)
	}
	n := t.of[backend]
	if n == nil {
		n = new(atomic.Int64)
		t.of[backend] = n
	}
	return n
}
