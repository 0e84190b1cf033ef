package security

import (
	"hash/maphash"
	"sync/atomic"
	"time"
)

// A banRecord is one ban as it lies in memory: no pointers, so that a full Book costs
// the garbage collector nothing. What is rare (names of users, words of operators,
// evidence) lies in the Book's maps under the record's number.
type banRecord struct {
	// Read and written without the Book's mutex. A record changes its source only by
	// way of 0, and state is set before source is: who reads a source, the state and
	// the same source again has the state of that source's ban (or, if the source was
	// let go and banned again in between, perhaps that of a ban in between).
	source   atomic.Uint64 // 0 when free, and for users' bans
	state    atomic.Uint64 // a banState
	drops    atomic.Uint64
	lastDrop atomic.Int64
	heat     atomic.Uint64 // see banHeat

	// Guarded by the Book's mutex.
	since, first, last, window time.Duration
	count, limit               int32
	duePos                     uint32 // where it is in its shelf's due; of a free record, the next free one + 1
	loosePos                   uint32 // where it is in its shelf's loose + 1, 0 = not there
	serial                     uint32 // tells the bans apart that a record held, and their order
	rule                       Rule
	isProven, isUser           bool
}

// strike counts a message that the ban stopped.
func (r *banRecord) strike(now time.Duration) {
	r.drops.Add(1)
	r.lastDrop.Store(int64(now))
	for epoch := heatEpoch(now); ; {
		was := r.heat.Load()
		if was>>32 >= epoch { // as nearly always
			r.heat.Add(1)
			return
		}
		if r.heat.CompareAndSwap(was, epoch<<32|cooled(was, epoch)+1) {
			return
		}
	}
}

// A banState is when a ban ends, and in the top bit whether it is hard.
type banState uint64

const hardState = 1 << 63

func stateOf(until time.Duration, hard bool) banState {
	if hard {
		return banState(until) | hardState
	}
	return banState(until)
}

func (s banState) until() time.Duration { return time.Duration(s &^ hardState) }
func (s banState) isHard() bool         { return s&hardState != 0 }

func (s banState) grade(now time.Duration) Grade {
	switch {
	case s.until() <= now:
		return Free
	case s.isHard():
		return Hard
	}
	return Soft
}

// Heat is how much a ban stops at present: its drops, halved with every heatHalf. The
// word holds the epoch it is of in its upper half, so that nobody has to go round and
// cool what nobody asks about. Drops of one epoch stay below 2^32: 140 million a second.
const heatHalf = 30 * time.Second // chosen: longer than the pause of a scanner, shorter than a short ban

func heatEpoch(now time.Duration) uint64 { return uint64(max(now, 0) / heatHalf) }

// cooled is what a heat word is worth in an epoch.
func cooled(heat, epoch uint64) uint64 {
	if of := heat >> 32; epoch > of {
		return heat & (1<<32 - 1) >> min(epoch-of, 63)
	}
	return heat & (1<<32 - 1)
}

// chunkRecords is how many records are made at a time: 24 kB, a size the allocator has.
const chunkRecords = 256

type banChunk [chunkRecords]banRecord

// banRecords holds the records, by number. Readers need no lock.
type banRecords struct {
	chunks []atomic.Pointer[banChunk] // made in order
	made   uint32                     // records that were in use ever, below it are the free ones; guarded by the Book's mutex
	free   uint32                     // the first free one + 1; guarded by the Book's mutex
}

// at is a record, nil if its chunk has been thrown away since its number was read.
func (m *banRecords) at(n uint32) *banRecord {
	c := m.chunks[n/chunkRecords].Load()
	if c == nil {
		return nil
	}
	return &c[n%chunkRecords]
}

func (m *banRecords) takeLocked() uint32 {
	if n := m.free; n != 0 {
		m.free = m.at(n - 1).duePos
		return n - 1
	}
	n := m.made
	if n%chunkRecords == 0 {
		m.chunks[n/chunkRecords].Store(new(banChunk))
	}
	m.made++
	return n
}

func (m *banRecords) giveLocked(n uint32) {
	m.at(n).duePos = m.free
	m.free = n + 1
}

// resetLocked throws all records away. Readers that are under way may hold on to them.
func (m *banRecords) resetLocked() {
	for i := range m.chunks {
		if m.chunks[i].Swap(nil) == nil {
			break
		}
	}
	m.made, m.free = 0, 0
}

// A banIndex says which record holds the ban of a source: a hash table with open
// addressing, one word for each ban. The upper half of a word is of the source's hash,
// the lower half the record's number + firstRecord.
//
// Readers take no lock. Words are only ever filled, never moved, so that no ban can be
// missed by a reader that is under way; when too many are used up, a new index is built
// and takes the place of the old one, which nobody writes to any more.
type banIndex struct {
	seed  maphash.Seed
	words []atomic.Uint64 // a power of two

	used int // words that are not empty; guarded by the Book's mutex
}

const (
	emptyWord   = 0 // no ban was put further along
	buriedWord  = 1 // the ban that stood here is over
	firstRecord = 2
	leastWords  = 64
)

// newIndex has room for the bans, and for a quarter of its size in changes until it is
// crowded.
func newIndex(bans int) *banIndex {
	size := leastWords
	for size*7 < bans*16 {
		size *= 2
	}
	return &banIndex{seed: maphash.MakeSeed(), words: make([]atomic.Uint64, size)}
}

// isCrowded tells that another ban would make lookups slow: more than 11/16 are used.
func (t *banIndex) isCrowded() bool { return (t.used+1)*16 > len(t.words)*11 }

func (t *banIndex) wordOf(s Source, n uint32) (word uint64, at int) {
	h := maphash.Comparable(t.seed, s)
	return h>>32<<32 | uint64(n+firstRecord), int(h) & (len(t.words) - 1)
}

// find is the record of a source's ban and its state, nil if there is none.
func (t *banIndex) find(s Source, records *banRecords) (*banRecord, banState) {
	h := maphash.Comparable(t.seed, s)
	mask := uint(len(t.words) - 1)
	for i, n := uint(h), uint(0); n <= mask; i, n = i+1, n+1 {
		w := t.words[i&mask].Load()
		if w == emptyWord {
			break
		}
		if w>>32 != h>>32 || w == buriedWord {
			continue
		}
		r := records.at(uint32(w) - firstRecord)
		if r == nil || r.source.Load() != uint64(s) {
			continue
		}
		state := banState(r.state.Load())
		if r.source.Load() == uint64(s) {
			return r, state
		}
	}
	return nil, 0
}

// numberLocked is the number of the record that find finds.
func (t *banIndex) numberLocked(s Source, records *banRecords) (uint32, bool) {
	word, i := t.wordOf(s, 0)
	for ; ; i++ {
		w := t.words[i&(len(t.words)-1)].Load()
		if w == emptyWord {
			return 0, false
		}
		if w>>32 != word>>32 || w == buriedWord {
			continue
		}
		if n := uint32(w) - firstRecord; records.at(n).source.Load() == uint64(s) {
			return n, true
		}
	}
}

// putLocked adds a source that is not there. The index is not crowded.
func (t *banIndex) putLocked(s Source, n uint32) {
	word, i := t.wordOf(s, n)
	for ; ; i++ {
		at := &t.words[i&(len(t.words)-1)]
		switch at.Load() {
		case emptyWord:
			t.used++
			at.Store(word)
			return
		case buriedWord:
			at.Store(word)
			return
		}
	}
}

// dropLocked takes away a source that is there.
func (t *banIndex) dropLocked(s Source, n uint32) {
	mask := len(t.words) - 1
	word, i := t.wordOf(s, n)
	for t.words[i&mask].Load() != word {
		i++
	}
	t.words[i&mask].Store(buriedWord)
	if t.words[(i+1)&mask].Load() != emptyWord {
		return
	}
	// Nothing was put further along, so that this word, and the buried ones before it,
	// lead nowhere.
	for ; t.words[i&mask].Load() == buriedWord; i += mask {
		t.words[i&mask].Store(emptyWord)
		t.used--
	}
}
