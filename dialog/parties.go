package dialog

import (
	"hash/maphash"
	"net/netip"
	"sync"
)

// A party is where an outside party calls from: an IPv4 address, v4-mapped, or the
// /64 of an IPv6 address. The zero party is none.
type party [16]byte

func (f flow) party() party {
	if !f.isSet {
		return party{}
	}
	p := party(f.addr)
	if !netip.AddrFrom16(f.addr).Is4In6() {
		clear(p[8:])
	}
	return p
}

const partyShards = 16 // a power of two

// parties count the answered calls of each party. The only writers are the answer of
// a call and Call.outsideLocked, so a count is the number of calls that are there.
type parties struct {
	seed  maphash.Seed
	shard [partyShards]struct {
		mu sync.Mutex
		of map[party]int32 // as many entries as answered calls at most
	}
}

func (p *parties) init() {
	p.seed = maphash.MakeSeed()
	for i := range p.shard {
		p.shard[i].of = make(map[party]int32)
	}
}

// move takes one call from a party to another.
func (p *parties) move(from, to party) {
	if from == to {
		return
	}
	p.add(from, -1)
	p.add(to, 1)
}

func (p *parties) add(x party, n int32) {
	if x == (party{}) {
		return
	}
	s := &p.shard[maphash.Comparable(p.seed, x)&(partyShards-1)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[x] += n; s.of[x] == 0 {
		delete(s.of, x)
	}
}

// CallsOf is the number of answered calls whose outside party is at that IPv4
// address, or in that address's IPv6 /64.
func (s *Store) CallsOf(a netip.Addr) int {
	x := packFlow(Flow{Remote: netip.AddrPortFrom(a, 0)}).party()
	sh := &s.parties.shard[maphash.Comparable(s.parties.seed, x)&(partyShards-1)]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return int(sh.of[x])
}
