package security

import (
	"hash/maphash"
	"sync"
	"time"
)

const (
	loopWindow = time.Second
	// loopMemory is how many calls of one key are remembered, more where the limit is
	// higher, up to maxLoopMemory.
	loopMemory    = 64
	maxLoopMemory = 1 << 16
	loopShards    = 16
)

// Loops counts new calls by who calls whom, each Call-ID once, in a sliding second. A
// call that goes in circles through B2BUAs comes back with the same two users and
// another Call-ID; a retransmission, a fork and the retry with credentials keep theirs.
type Loops struct {
	seed   maphash.Seed
	shards [loopShards]loopShard
}

type loopShard struct {
	mu   sync.Mutex // guards keys
	keys recent[uint64, loopCalls]
	_    [40]byte // shards do not share cache lines
}

// loopCalls are the calls of one key, oldest first, none at the same time as another
// of the same Call-ID.
type loopCalls struct {
	last  time.Duration
	calls []loopCall
}

type loopCall struct {
	id uint64 // hash of the Call-ID
	at time.Duration
}

// NewLoops makes a table of that many keys. It takes memory for those of one second.
func NewLoops(capacity int) *Loops {
	l := &Loops{seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].keys = newRecent[uint64, loopCalls]((capacity + loopShards - 1) / loopShards)
	}
	return l
}

// Key is the key of some texts, with their borders: "a","bc" is not "ab","c".
func (l *Loops) Key(parts ...[]byte) uint64 {
	const odd = 0x9e3779b97f4a7c15 // nothing is lost, and the order matters
	key := uint64(len(parts))
	for _, p := range parts {
		key = (key ^ maphash.Bytes(l.seed, p)) * odd
	}
	return key
}

// Count counts a new call of key, refused ones too. n is the number of calls with
// different Call-IDs in (now-1s, now], this one included; it is exact up to the
// larger of 64 and limit+1, and does not go beyond. isNew is false when this Call-ID
// was counted in that second already; it is not counted again.
func (l *Loops) Count(key uint64, callID []byte, limit int, now time.Duration) (n int, isNew bool) {
	id := maphash.Bytes(l.seed, callID)
	keep := loopMemory
	if limit >= keep {
		keep = min(limit, maxLoopMemory-1) + 1
	}
	s := &l.shards[key%loopShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(key, now).count(id, keep, now)
}

// of finds or makes the entry of a key.
func (s *loopShard) of(key uint64, now time.Duration) *loopCalls {
	if c := s.keys.get(key); c != nil {
		return c
	}
	o := s.keys.oldest()
	c := s.keys.add(key, o != nil && now-o.last >= loopWindow)
	if cap(c.calls) > loopMemory/8 {
		c.calls = nil // of one who called too often, which most do not
	}
	c.last, c.calls = 0, c.calls[:0]
	return c
}

func (c *loopCalls) count(id uint64, keep int, now time.Duration) (n int, isNew bool) {
	now = max(now, c.last) // readers of the clock may overtake each other
	c.last = now
	over := 0
	for over < len(c.calls) && now-c.calls[over].at >= loopWindow {
		over++
	}
	for _, x := range c.calls[over:] {
		if x.id == id {
			c.drop(over)
			return len(c.calls), false
		}
	}
	c.drop(max(over, len(c.calls)-keep+1))
	c.calls = append(c.calls, loopCall{id, now})
	return len(c.calls), true
}

// drop forgets the n oldest calls.
func (c *loopCalls) drop(n int) {
	if n > 0 {
		c.calls = c.calls[:copy(c.calls, c.calls[n:])]
	}
}
