package resolve

import (
	"sync"
	"sync/atomic"
	"time"
)

// cache keeps a bounded number of answers. When it is full, the one that was
// not used for longest among a few picked at random makes room: good enough,
// and reading needs no more than a shared lock.
type cache struct {
	start time.Time

	mu      sync.RWMutex // guards all below
	max     int
	entries map[Query]*entry
}

type entry struct {
	answer
	expires time.Time
	used    atomic.Int64  // time of the last use, since start
	turn    atomic.Uint32 // which order comes next
}

// candidatesToEvict is how many entries are looked at to find one to evict.
const candidatesToEvict = 8

func (c *cache) init(size int) {
	c.start, c.max, c.entries = time.Now(), size, map[Query]*entry{}
}

// get returns the next order of the targets of q, or the error, if known.
func (c *cache) get(q Query, now time.Time) ([]Target, error, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e := c.entries[q]
	if e == nil || !now.Before(e.expires) {
		return nil, nil, false
	}
	e.used.Store(int64(now.Sub(c.start)))
	if len(e.orders) < 2 {
		return e.order(0), e.err, true
	}
	return e.order(e.turn.Add(1)), e.err, true
}

// ttl returns for how much longer the answer to q is good, or 0.
func (c *cache) ttl(q Query, now time.Time) time.Duration {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if e := c.entries[q]; e != nil {
		return max(e.expires.Sub(now), 0)
	}
	return 0
}

func (c *cache) put(q Query, a answer, now time.Time) {
	e := &entry{answer: a, expires: now.Add(a.ttl)}
	e.used.Store(int64(now.Sub(c.start)))
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.entries[q]
	if old != nil && old.err == nil && a.isTemporary() && now.Before(old.expires) {
		return // an answer outlives an outage of the name servers, until its time is over
	}
	if old == nil && len(c.entries) >= c.max {
		c.evictLocked(now)
	}
	c.entries[q] = e
}

// evictLocked removes one entry. A map is walked from a random place.
func (c *cache) evictLocked(now time.Time) {
	var victim Query
	oldest, seen := int64(0), 0
	for q, e := range c.entries {
		if !now.Before(e.expires) {
			victim = q
			break
		}
		if used := e.used.Load(); seen == 0 || used < oldest {
			victim, oldest = q, used
		}
		if seen++; seen == candidatesToEvict {
			break
		}
	}
	delete(c.entries, victim)
}
