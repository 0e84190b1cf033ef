package proxy

import (
	"hash/maphash"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/sipward/sipward/proxy/backend"
	"github.com/sipward/sipward/proxy/wire"
)

// affinityKept bounds the calls whose backend is remembered: 40 bytes each.
const affinityKept = 65536

// affinity remembers which backend issued a challenge, by Call-ID: the retry with
// credentials must reach it. The least recently used is forgotten first; then policy
// decides again. Where a call is, its dialog knows.
type affinity struct {
	seed  maphash.Seed
	cache *lru.Cache[uint64, uint32] // hash of Call-ID → backend.Backend.ID
}

func newAffinity() *affinity {
	c, err := lru.New[uint64, uint32](affinityKept)
	if err != nil { // only for a size below 1
		panic(err)
	}
	return &affinity{seed: maphash.MakeSeed(), cache: c}
}

func (a *affinity) key(m *wire.Msg) uint64 { return maphash.Bytes(a.seed, m.Bytes(m.CallID)) }

// get returns the id of the call's backend.
func (a *affinity) get(m *wire.Msg) (id uint32, ok bool) { return a.cache.Get(a.key(m)) }

func (a *affinity) set(m *wire.Msg, b *backend.Backend) { a.cache.Add(a.key(m), b.ID()) }

// rememberChallenger notes the backend that challenged a request.
func (e *Edge) rememberChallenger(m *wire.Msg, l *leg) {
	if l.backend != nil {
		e.affinity.set(m, l.backend)
	}
}
