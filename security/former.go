package security

import (
	"hash/maphash"
	"slices"
	"time"
)

// Numbers we chose.
const (
	formerSpan    = 24 * time.Hour
	mostRepeats   = 10 // bans that are remembered of one source
	formerWays    = 8
	leastFormer   = 8 // sets
	secondsOfSpan = uint32(formerSpan / time.Second)
)

// formerBans remembers when sources were banned in the last 24 h: a table of sets in
// bounded memory, that grows as it fills. It is guarded by the Book's mutex.
type formerBans struct {
	seed maphash.Seed
	sets []formerSet // a power of two
	most int         // sets
}

type formerSet [formerWays]formerBan

type formerBan struct {
	source Source
	at     [mostRepeats]uint32 // in seconds + 1, newest first, 0 = none
}

// repeats is how many of its bans began in the last 24 h.
func (f *formerBan) repeats(second uint32) int {
	n := 0
	for n < mostRepeats && f.at[n] != 0 && f.at[n]+secondsOfSpan > second {
		n++
	}
	return n
}

// secondOf counts from 1, and is good for 136 years.
func secondOf(now time.Duration) uint32 { return uint32(max(now, 0)/time.Second) + 1 }

// newFormerBans remembers up to so many sources, rounded down to a power of two.
func newFormerBans(sources int) formerBans {
	most := leastFormer
	for most*2*formerWays <= sources {
		most *= 2
	}
	return formerBans{seed: maphash.MakeSeed(), most: most}
}

func (t *formerBans) setOf(s Source) *formerSet {
	return &t.sets[maphash.Comparable(t.seed, s)&uint64(len(t.sets)-1)]
}

func (t *formerBans) find(s Source) *formerBan {
	if len(t.sets) == 0 || s == 0 {
		return nil
	}
	set := t.setOf(s)
	for i := range set {
		if set[i].source == s {
			return &set[i]
		}
	}
	return nil
}

// note remembers that a ban of the source begins.
func (t *formerBans) note(s Source, now time.Duration) {
	f := t.find(s)
	if f == nil {
		t.makeRoom(s)
		f = t.setOf(s).placeFor(secondOf(now))
		*f = formerBan{source: s}
	}
	copy(f.at[1:], f.at[:])
	f.at[0] = secondOf(now)
}

// placeFor is a free place, or else that of the source which was banned least often in
// the last 24 h, of several such the one whose ban is longest ago: somebody who comes
// back again and again is not forgotten for many who came once.
func (set *formerSet) placeFor(second uint32) *formerBan {
	best := &set[0]
	for i := range set {
		f := &set[i]
		if f.source == 0 {
			return f
		}
		n, least := f.repeats(second), best.repeats(second)
		if n < least || n == least && f.at[0] < best.at[0] {
			best = f
		}
	}
	return best
}

// makeRoom doubles the table as long as the source's set is full, and the table is not
// as large as it may become.
func (t *formerBans) makeRoom(s Source) {
	if len(t.sets) == 0 {
		t.sets = make([]formerSet, leastFormer)
	}
	for len(t.sets) < t.most && t.setOf(s).isFull() {
		old := t.sets
		t.sets = make([]formerSet, 2*len(old))
		for i := range old {
			for _, f := range old[i] {
				if f.source != 0 {
					*t.setOf(f.source).placeFor(0) = f // free: two sets take the place of one
				}
			}
		}
	}
}

func (set *formerSet) isFull() bool {
	return !slices.ContainsFunc(set[:], func(f formerBan) bool { return f.source == 0 })
}

func (t *formerBans) forget(s Source) {
	if f := t.find(s); f != nil {
		*f = formerBan{}
	}
}

func (t *formerBans) repeats(s Source, now time.Duration) int {
	if f := t.find(s); f != nil {
		return f.repeats(secondOf(now))
	}
	return 0
}
