package security

import (
	"hash/maphash"
	"math"
	"sync"
	"time"
)

const (
	knownFor = time.Hour
	// heldFor bounds how far ahead a registration may keep somebody known.
	heldFor     = 24 * time.Hour
	knownShards = 32
	// knownAShard is the least that a shard holds, if there is more than one.
	knownAShard = 256
)

// Known remembers who proved itself: sources, and users at a source, whose
// credentials were accepted within the last hour or whose registration is alive. It
// remembers the latest of each up to its capacity, and is safe for concurrent use.
type Known struct {
	seed    maphash.Seed
	sources []knownShard[Source]
	users   []knownShard[knownUser] // apart, so that a source of many users is one source
}

type knownShard[K comparable] struct {
	mu     sync.Mutex
	latest recent[K, success]
	_      [8]byte // no two locks in one cache line
}

// knownUser is a user at a source.
type knownUser struct {
	source Source
	user   uint64 // hash
}

type success struct {
	first time.Duration // since it was forgotten the last time
	last  time.Duration // credentials were accepted, 0 if they never were
	noted time.Duration // credentials were accepted, or a registration was
	until time.Duration // it is known
}

// NewKnown returns a Known for so many sources, and as many users at sources.
func NewKnown(capacity int) *Known {
	capacity = max(capacity, 1)
	n := 1
	for n < knownShards && capacity >= 2*n*knownAShard {
		n *= 2
	}
	k := &Known{seed: maphash.MakeSeed(), sources: make([]knownShard[Source], n), users: make([]knownShard[knownUser], n)}
	for i := range n {
		size := capacity / n
		if i < capacity%n {
			size++
		}
		k.sources[i].latest = newRecent[Source, success](size)
		k.users[i].latest = newRecent[knownUser, success](size)
	}
	return k
}

// Succeeded says that the credentials of a user (user@domain) at a source were accepted. An
// empty user stands for none in particular. It returns when that was so the last time, 0
// when it is not remembered.
func (k *Known) Succeeded(s Source, user string, now time.Duration) (before time.Duration) {
	if s == 0 {
		return 0
	}
	before = shardOf(k.seed, k.sources, s).succeeded(s, now)
	if user != "" {
		key := knownUser{s, maphash.String(k.seed, user)}
		before = shardOf(k.seed, k.users, s).succeeded(key, now)
	}
	return before
}

// Holds says that a user (user@domain) is registered from a source until then: both are
// known for so long, at most 24 hours from now, and never shorter than they were before. So
// the end of a registration need not be told. An empty user stands for none in particular.
func (k *Known) Holds(s Source, user string, until, now time.Duration) {
	if s == 0 || until <= now {
		return
	}
	until = min(until, later(now, heldFor))
	shardOf(k.seed, k.sources, s).held(s, until, now)
	if user != "" {
		key := knownUser{s, maphash.String(k.seed, user)}
		shardOf(k.seed, k.users, s).held(key, until, now)
	}
}

// Source tells whether somebody's credentials at this source were accepted in the last
// hour, or somebody is registered from there.
func (k *Known) Source(s Source, now time.Duration) bool {
	_, ok := k.source(s, now)
	return ok
}

// User tells whether the credentials of that user at this source were accepted in the
// last hour, or the user is registered from there.
func (k *Known) User(s Source, user []byte, now time.Duration) bool {
	source, ok := k.source(s, now)
	if !ok || len(user) == 0 {
		return false
	}
	key := knownUser{s, maphash.Bytes(k.seed, user)}
	at, ok := shardOf(k.seed, k.users, s).read(key)
	// What was before the source was forgotten is forgotten too.
	return ok && now <= at.until && at.noted >= source.first
}

// Forget forgets a source and all of its users.
func (k *Known) Forget(s Source) {
	sh := shardOf(k.seed, k.sources, s)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.latest.remove(s)
}

// Len returns how many sources are remembered, those included whose time is over.
func (k *Known) Len() (n int) {
	for i := range k.sources {
		sh := &k.sources[i]
		sh.mu.Lock()
		n += len(sh.latest.index)
		sh.mu.Unlock()
	}
	return n
}

func (k *Known) source(s Source, now time.Duration) (success, bool) {
	at, ok := shardOf(k.seed, k.sources, s).read(s)
	return at, ok && now <= at.until
}

// shardOf goes by the source alone: who has an account can have it accepted under names
// without end, and must not make those of everybody be forgotten for them.
func shardOf[K comparable](seed maphash.Seed, of []knownShard[K], s Source) *knownShard[K] {
	return &of[int(maphash.Comparable(seed, s))&(len(of)-1)]
}

func (sh *knownShard[K]) succeeded(key K, now time.Duration) (before time.Duration) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	at := sh.noteLocked(key, later(now, knownFor), now)
	before = at.last
	at.last = max(at.last, now)
	return before
}

func (sh *knownShard[K]) held(key K, until, now time.Duration) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.noteLocked(key, until, now)
}

// noteLocked makes somebody the latest, known until then.
func (sh *knownShard[K]) noteLocked(key K, until, now time.Duration) *success {
	at := sh.latest.get(key)
	if at == nil {
		at = sh.latest.add(key, false)
		*at = success{first: now, noted: now, until: until}
		return at
	}
	at.noted, at.until = max(at.noted, now), max(at.until, until)
	return at
}

func (sh *knownShard[K]) read(key K) (success, bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if at := sh.latest.peek(key); at != nil {
		return *at, true
	}
	return success{}, false
}

// later is now + d, on a clock that does not go round.
func later(now, d time.Duration) time.Duration {
	if now > math.MaxInt64-d {
		return math.MaxInt64
	}
	return now + d
}
