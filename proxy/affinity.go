package proxy

import (
	"hash/maphash"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/sipward/sipward/proxy/backend"
	"github.com/sipward/sipward/proxy/wire"
)

// affinityKept bounds the calls whose backend is remembered: 40 bytes each.
const affinityKept = 65536

// affinity remembers which backend took part in a call, by Call-ID: the retry with
// credentials must reach the node that issued the challenge, and a client that
// ignores Record-Route must reach the node that has its call. The least recently
// used is forgotten first; then policy decides again.
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

// rememberLeg notes the backend that challenged or took a request. A call that
// went where its hash says needs no note.
func (e *Edge) rememberLeg(m *wire.Msg, l *leg, c *responseContext) {
	if l.backend == nil {
		return
	}
	if m.Status == 401 || m.Status == 407 || l.n > 0 || l.backend.Pool().Config().Policy != "hash" {
		e.affinity.set(m, l.backend)
	}
}
