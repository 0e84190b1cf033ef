package security

import (
	"hash/maphash"
	"math/bits"
	"sync"
	"time"
	"unsafe"
)

const (
	rateShards    = 32   // at most
	sourcesAShard = 1024 // at least, if there is more than one
	maxWindow     = time.Hour
	// maxCount is how many messages of one source are remembered at most: the limit
	// of 100000 and the one beyond it.
	maxCount = 100_001
)

// Rates counts messages per source in an exact sliding window: it remembers when each
// one came.
//
// Its clock ticks in microseconds. A message that leaves the window within the
// current tick counts as gone, so that a count may be late by less than a tick, but
// is never too high.
//
// Memory is bounded. A full table forgets a source of which nothing is inside the
// window; else one that sent the fewest messages, the oldest first; but none that is
// beyond half of what it may send. What cannot be remembered is not counted. A
// million sources take up to 60 MB, none take a few kB.
//
// It is safe for concurrent use. Times that were read before the lock was taken may
// come out of order: an earlier one counts as the last one.
type Rates struct {
	seed   maphash.Seed // nobody can choose addresses that meet in one place
	shards []rateShard
}

type rateShard struct {
	mu sync.Mutex
	rateTable
	_ [64]byte // no two locks in one cache line
}

// NewRates returns Rates that remember at most so many sources, and one at least.
func NewRates(maxSources int) *Rates {
	maxSources = max(maxSources, 1)
	n := 1
	for n < rateShards && maxSources >= 2*n*sourcesAShard {
		n *= 2
	}
	r := &Rates{seed: maphash.MakeSeed(), shards: make([]rateShard, n)}
	for i := range r.shards {
		most := maxSources / n
		if i < maxSources%n {
			most++
		}
		r.shards[i].rateTable = newRateTable(r.seed, most)
	}
	return r
}

// Count counts one message and returns how many the source sent in (now-window, now],
// this one included. It remembers no more than the newest most of them, and never
// returns a higher number. The window is at most an hour, most at most 100001. The
// zero Source is not counted.
func (r *Rates) Count(s Source, window time.Duration, most int, now time.Duration) int {
	if s == 0 || most < 1 {
		return 0
	}
	h, sh := r.shard(s)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.count(s, h, window, min(most, maxCount), now)
}

// Read returns what Count knows without counting: how many messages are inside the
// window, and when the first and the last of them came, in whole microseconds. It
// returns zeros when there is none.
func (r *Rates) Read(s Source, window, now time.Duration) (n int, first, last time.Duration) {
	h, sh := r.shard(s)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.read(s, h, window, now)
}

// Credit takes the n oldest remembered messages of a source back.
func (r *Rates) Credit(s Source, n int) {
	h, sh := r.shard(s)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i, ok := sh.find(s, h)
	if !ok {
		return
	}
	e := &sh.rates[i]
	if n >= int(e.n) {
		sh.remove(i)
		return
	}
	for ; n > 0; n-- {
		sh.pop(e)
	}
}

// Forget forgets a source: its next message is the first one.
func (r *Rates) Forget(s Source) {
	h, sh := r.shard(s)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if i, ok := sh.find(s, h); ok {
		sh.remove(i)
	}
}

// ForgetAll forgets all sources, and gives their memory back.
func (r *Rates) ForgetAll() {
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		sh.rateTable = newRateTable(r.seed, sh.most)
		sh.mu.Unlock()
	}
}

// Len returns how many sources are remembered, those included whose messages have
// all left the window meanwhile.
func (r *Rates) Len() (n int) {
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		n += sh.used
		sh.mu.Unlock()
	}
	return n
}

// Bytes returns how much memory is held.
func (r *Rates) Bytes() int {
	n := int(unsafe.Sizeof(*r)) + len(r.shards)*int(unsafe.Sizeof(rateShard{}))
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		n += len(sh.rates)*int(unsafe.Sizeof(rate{})) + len(sh.chunks)*int(unsafe.Sizeof(chunk{}))
		sh.mu.Unlock()
	}
	return n
}

func (r *Rates) shard(s Source) (hash uint64, sh *rateShard) {
	hash = maphash.Comparable(r.seed, s)
	return hash, &r.shards[int(hash)&(len(r.shards)-1)]
}

// A rate is what is remembered of one source: half a cache line, without pointers.
//
// A stamp is a time's lower 32 bits in microseconds, 71 minutes. That is enough,
// for nothing is older than the longest window before the last message.
type rate struct {
	source Source // zero: a free slot
	last   int64  // when the newest message came, in microseconds
	n      uint32 // messages, the newest included
	// older are the n-1 messages before the newest, the oldest first: stamps, as
	// long as they fit; else the first and the last chunk, and where the oldest
	// stands in the first.
	older [inline]uint32
}

const (
	inline   = 3  // stamps in a rate
	perChunk = 13 // stamps in a chunk
)

// A chunk is a piece of a list of stamps, a cache line long. All but the first and
// the last of a list are full.
type chunk struct {
	owner  Source // zero: free
	next   uint32 // in the list of its owner or of free ones, 0 = none
	stamps [perChunk]uint32
}

// rateTable is a hash table with linear probing. Rates are moved when one is added
// or removed, so no pointer to one outlives that.
type rateTable struct {
	seed   maphash.Seed
	rates  []rate // up to slots(most)
	used   int
	most   int     // sources
	chunks []chunk // up to maxChunks; number 0 stays unused
	fresh  uint32  // chunks from here on were never used
	free   uint32  // the first of those that were given back
	hand   uint32  // the chunk whose owner is looked at next, when there is none free

	maxChunks int
}

const (
	firstSlots  = 16
	firstChunks = 16
	// chunksAShard is what the longest list needs, and a little for the others.
	chunksAShard = 8192
	// looks is how many sources are looked at to find one to forget.
	looks = 8
)

func newRateTable(seed maphash.Seed, most int) rateTable {
	return rateTable{seed: seed, most: most, fresh: 1, hand: 1, maxChunks: min(max(most/4, chunksAShard), 1<<30)}
}

// slots is the size of a table for so many sources: three quarters full, a search ends
// after eight slots on average.
func slots(sources int) int { return sources + sources/3 + 1 }

// ticks is a window in microseconds.
type ticks struct {
	now int64
	out int64 // what came then or before is not inside; -1 = all is
}

func windowAt(window, now time.Duration) ticks {
	window = min(max(window, time.Microsecond), maxWindow)
	now = max(now, 0)
	t := ticks{now: now.Microseconds(), out: -1}
	if now >= window {
		t.out = (now - window).Microseconds()
	}
	return t
}

// window is the one that ends now, or with the last message, if somebody else's clock
// was read later.
func (e *rate) window(window, now time.Duration) ticks {
	return windowAt(window, max(now, time.Duration(e.last)*time.Microsecond))
}

// time is when a stamp of this rate was taken.
func (e *rate) time(stamp uint32) int64 { return e.last - int64(uint32(e.last)-stamp) }

func (t *rateTable) count(s Source, h uint64, window time.Duration, most int, now time.Duration) int {
	i, ok := t.find(s, h)
	if !ok {
		at := windowAt(window, now)
		if i, ok = t.add(s, h, most, at); ok {
			t.rates[i] = rate{source: s, last: at.now, n: 1}
		}
		return 1
	}
	e := &t.rates[i]
	at := e.window(window, now)
	if e.last <= at.out {
		t.strip(e)
		e.last = at.now
		return 1
	}
	for t.oldest(e) <= at.out {
		t.pop(e)
	}
	n := e.n
	t.push(e, most, at)
	e.last = at.now
	if int(n) >= most && e.n > n {
		t.pop(e)
	}
	return min(int(e.n), most)
}

func (t *rateTable) read(s Source, h uint64, window, now time.Duration) (n int, first, last time.Duration) {
	i, ok := t.find(s, h)
	if !ok {
		return 0, 0, 0
	}
	e := &t.rates[i]
	at := e.window(window, now)
	if e.last <= at.out {
		return 0, 0, 0
	}
	n, oldest := 1, e.last
	if e.n <= inline+1 {
		for k := int(e.n) - 2; k >= 0 && e.time(e.older[k]) > at.out; k-- {
			n, oldest = n+1, e.time(e.older[k])
		}
	} else {
		c, off := e.older[0], e.older[2]
		for left := int(e.n); left > 1; left-- {
			if stamp := e.time(t.chunks[c].stamps[off]); stamp > at.out {
				n, oldest = left, stamp
				break
			}
			if off++; off == perChunk {
				c, off = t.chunks[c].next, 0
			}
		}
	}
	return n, time.Duration(oldest) * time.Microsecond, time.Duration(e.last) * time.Microsecond
}

// oldest is when the oldest remembered message came.
func (t *rateTable) oldest(e *rate) int64 {
	switch {
	case e.n <= 1:
		return e.last
	case e.n <= inline+1:
		return e.time(e.older[0])
	}
	return e.time(t.chunks[e.older[0]].stamps[e.older[2]])
}

// pop forgets the oldest message of several.
func (t *rateTable) pop(e *rate) {
	switch {
	case e.n <= inline+1:
		copy(e.older[:], e.older[1:])
	default:
		t.shift(e)
	}
	e.n--
	if e.n != inline+1 {
		return
	}
	// The rest fits without chunks.
	var stamps [inline]uint32
	for k := range stamps {
		stamps[k] = t.chunks[e.older[0]].stamps[e.older[2]]
		t.shift(e)
	}
	if e.older[0] != 0 {
		t.release(e.older[0])
	}
	e.older = stamps
}

// shift takes one stamp from a list of chunks.
func (t *rateTable) shift(e *rate) {
	if e.older[2]++; e.older[2] < perChunk {
		return
	}
	c := e.older[0]
	e.older[0], e.older[2] = t.chunks[c].next, 0
	t.release(c)
}

// push makes room for a newer message behind the newest. When there is none, the new
// one takes the place of the newest.
func (t *rateTable) push(e *rate, most int, at ticks) {
	stamp := uint32(e.last)
	switch {
	case e.n <= inline:
		e.older[e.n-1] = stamp
	case e.n == inline+1:
		c := t.chunk(e, most, at)
		if c == 0 {
			return
		}
		copy(t.chunks[c].stamps[:], e.older[:])
		t.chunks[c].stamps[inline] = stamp
		e.older = [inline]uint32{c, c, 0}
	default:
		off := (e.older[2] + e.n - 1) % perChunk
		if off == 0 {
			c := t.chunk(e, most, at)
			if c == 0 {
				return
			}
			t.chunks[e.older[1]].next = c
			e.older[1] = c
		}
		t.chunks[e.older[1]].stamps[off] = stamp
	}
	e.n++
}

// strip forgets all messages but the newest.
func (t *rateTable) strip(e *rate) {
	if e.n > inline+1 {
		for c := e.older[0]; c != 0; {
			next := t.chunks[c].next
			t.release(c)
			c = next
		}
	}
	e.n = 1
}

func (t *rateTable) release(c uint32) {
	t.chunks[c].owner = 0
	t.chunks[c].next = t.free
	t.free = c
}

// chunk returns an unused chunk for e, 0 if there is none. Before the pool grows, and
// when it cannot, somebody else's are taken.
func (t *rateTable) chunk(e *rate, most int, at ticks) uint32 {
	if t.free == 0 && int(t.fresh) >= len(t.chunks) {
		victim, lapsed := t.poorest(e, most, at)
		switch {
		case lapsed:
			t.strip(victim)
		case len(t.chunks) < t.maxChunks:
			grown := make([]chunk, min(max(2*len(t.chunks), firstChunks), t.maxChunks))
			copy(grown, t.chunks)
			t.chunks = grown
		case victim != nil:
			t.strip(victim)
		default:
			return 0
		}
	}
	c := t.free
	if c != 0 {
		t.free = t.chunks[c].next
	} else {
		c = t.fresh
		t.fresh++
	}
	t.chunks[c].owner, t.chunks[c].next = e.source, 0
	return c
}

// poorest looks at some owners of chunks for one that needs them less than e does.
func (t *rateTable) poorest(e *rate, most int, at ticks) (victim *rate, lapsed bool) {
	for range min(looks, int(t.fresh)-1) {
		if t.hand++; t.hand >= t.fresh {
			t.hand = 1
		}
		owner := t.chunks[t.hand].owner
		if owner == 0 || owner == e.source {
			continue
		}
		i, ok := t.find(owner, maphash.Comparable(t.seed, owner))
		if !ok {
			continue
		}
		o := &t.rates[i]
		if o.last <= at.out {
			return o, true
		}
		if o.n <= e.n+1 && int(o.n) <= most/2 && (victim == nil || o.poorer(victim)) {
			victim = o
		}
	}
	return victim, false
}

// poorer tells which of two sources to forget.
func (e *rate) poorer(than *rate) bool {
	return e.n < than.n || e.n == than.n && e.last < than.last
}

// home is where the search for a hash starts.
func (t *rateTable) home(h uint64) int {
	i, _ := bits.Mul64(h, uint64(len(t.rates)))
	return int(i)
}

// find returns the slot of a source, or else the free one at the end of the search.
func (t *rateTable) find(s Source, h uint64) (i int, ok bool) {
	if s == 0 || len(t.rates) == 0 {
		return 0, false
	}
	for i = t.home(h); ; {
		switch t.rates[i].source {
		case s:
			return i, true
		case 0:
			return i, false
		}
		if i++; i == len(t.rates) {
			i = 0
		}
	}
}

// add finds a slot for a new source. It fails when none may be forgotten for it.
func (t *rateTable) add(s Source, h uint64, most int, at ticks) (i int, ok bool) {
	if t.used >= t.most {
		victim := t.poorestAt(t.home(h), most, at)
		if victim < 0 {
			return 0, false
		}
		t.remove(victim)
	} else if slots(t.used+1) > len(t.rates) {
		t.makeRoom(at)
	}
	t.used++
	i, _ = t.find(s, h)
	return i, true
}

// poorestAt looks at some sources from a slot on for the one to forget, -1 if none.
func (t *rateTable) poorestAt(i, most int, at ticks) (victim int) {
	victim = -1
	for seen, k := 0, 0; seen < looks && k < len(t.rates); k++ {
		e := &t.rates[i]
		if e.source != 0 {
			seen++
			if e.last <= at.out {
				return i
			}
			if int(e.n) <= most/2 && (victim < 0 || e.poorer(&t.rates[victim])) {
				victim = i
			}
		}
		if i++; i == len(t.rates) {
			i = 0
		}
	}
	return victim
}

// makeRoom forgets all sources whose messages have left the window, and doubles the
// table if those were less than half.
func (t *rateTable) makeRoom(at ticks) {
	// Removing moves sources towards the slots before them, of which only those that
	// went around the end were seen already: none is missed.
	for i := range t.rates {
		for t.rates[i].source != 0 && t.rates[i].last <= at.out {
			t.remove(i)
		}
	}
	if len(t.rates) > 0 && slots(2*t.used) <= len(t.rates) {
		return
	}
	old := t.rates
	t.rates = make([]rate, min(max(2*len(old), firstSlots), slots(t.most)))
	for _, e := range old {
		if e.source != 0 {
			i, _ := t.find(e.source, maphash.Comparable(t.seed, e.source))
			t.rates[i] = e
		}
	}
}

// remove frees a slot, and closes the gap for the searches that went over it.
func (t *rateTable) remove(gap int) {
	t.strip(&t.rates[gap])
	t.used--
	for i := gap; ; {
		if i++; i == len(t.rates) {
			i = 0
		}
		e := &t.rates[i]
		if e.source == 0 {
			break
		}
		home := t.home(maphash.Comparable(t.seed, e.source))
		if t.distance(home, i) >= t.distance(gap, i) {
			t.rates[gap] = *e
			gap = i
		}
	}
	t.rates[gap] = rate{}
}

// distance is how many slots a search goes from one to another.
func (t *rateTable) distance(from, to int) int {
	if to < from {
		to += len(t.rates)
	}
	return to - from
}
