package security

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// Trusted knows the addresses that are never banned. It does not change.
type Trusted struct {
	four, six ranges
}

// NewTrusted trusts the addresses of own, whose values say why; loopback, if that is
// asked for; and prefixes. Of several reasons the narrowest network's is named, of the
// same network the first in this order.
func NewTrusted(loopback bool, prefixes []netip.Prefix, own map[netip.Addr]string) *Trusted {
	var four, six []network
	add := func(p netip.Prefix, why string, rank int) {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		switch {
		case !p.IsValid():
		case p.Addr().Is4():
			four = append(four, newNetwork(p, 32, why, rank))
		default:
			six = append(six, newNetwork(p, 128, why, rank))
		}
	}
	for a, why := range own {
		if !a.IsUnspecified() {
			add(netip.PrefixFrom(a.WithZone(""), a.BitLen()), why, 0)
		}
	}
	if loopback {
		add(netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8), "loopback", 1)
		add(netip.PrefixFrom(netip.IPv6Loopback(), 128), "loopback", 1)
	}
	for _, p := range prefixes {
		add(p, "security.trusted "+p.Masked().String(), 2)
	}
	return &Trusted{newRanges(four), newRanges(six)}
}

// By tells whether an address is trusted, and why, in words for logs and listings:
// `loopback`, `security.trusted 198.51.100.0/24`, or what own said.
func (t *Trusted) By(a netip.Addr) (why string, ok bool) {
	if a = a.Unmap(); a.Is4() {
		why = t.four.find(wordsOf(a))
	} else if a.Is6() {
		why = t.six.find(wordsOf(a))
	}
	return why, why != ""
}

// addrWords is an address as two words; an IPv4 one is the upper half of the first.
type addrWords struct{ hi, lo uint64 }

func wordsOf(a netip.Addr) addrWords {
	if a.Is4() {
		b := a.As4()
		return addrWords{hi: uint64(binary.BigEndian.Uint32(b[:])) << 32}
	}
	b := a.As16()
	return addrWords{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (w addrWords) less(other addrWords) bool {
	return w.hi < other.hi || w.hi == other.hi && w.lo < other.lo
}

func (w addrWords) compare(other addrWords) int {
	return cmp.Or(cmp.Compare(w.hi, other.hi), cmp.Compare(w.lo, other.lo))
}

// network is a prefix as its first and last address.
type network struct {
	first, last addrWords
	why         string
	rank        int // smaller goes first where first and last are the same
}

func newNetwork(p netip.Prefix, size int, why string, rank int) network {
	n := network{first: wordsOf(p.Masked().Addr()), why: why, rank: rank}
	hostHi, hostLo := ^uint64(0), ^uint64(0) // all ones where the host part is
	if p.Bits() <= 64 {
		hostHi >>= p.Bits()
	} else {
		hostHi, hostLo = 0, hostLo>>(p.Bits()-64)
	}
	if size == 32 {
		hostHi, hostLo = hostHi>>32<<32, 0
	}
	n.last = addrWords{n.first.hi | hostHi, n.first.lo | hostLo}
	return n
}

// ranges says why an address is trusted: start[i] begins the addresses of why[i], which
// go on to start[i+1]. The first start is below all addresses. Nil: none is trusted.
type ranges struct {
	start []addrWords
	why   []string
}

// newRanges cuts networks, of which two overlap only if one is inside the other, into
// ranges that do not overlap.
func newRanges(nets []network) (r ranges) {
	if len(nets) == 0 {
		return r
	}
	slices.SortFunc(nets, func(a, b network) int {
		return cmp.Or(a.first.compare(b.first), b.last.compare(a.last), cmp.Compare(a.rank, b.rank), cmp.Compare(a.why, b.why))
	})
	r.begin(addrWords{}, "")
	var open []network // each inside the one before
	leave := func() {
		n := open[len(open)-1]
		open = open[:len(open)-1]
		outer := ""
		if len(open) > 0 {
			outer = open[len(open)-1].why
		}
		if next := n.last.next(); next != (addrWords{}) {
			r.begin(next, outer)
		}
	}
	for _, n := range nets {
		for len(open) > 0 && open[len(open)-1].last.less(n.first) {
			leave()
		}
		if len(open) > 0 && open[len(open)-1].first == n.first && open[len(open)-1].last == n.last {
			continue
		}
		r.begin(n.first, n.why)
		open = append(open, n)
	}
	for len(open) > 0 {
		leave()
	}
	return r
}

// begin starts a range, in the place of one that would be empty.
func (r *ranges) begin(at addrWords, why string) {
	if n := len(r.start) - 1; n >= 0 && r.start[n] == at {
		r.why[n] = why
		return
	}
	r.start, r.why = append(r.start, at), append(r.why, why)
}

// next is the address after, zero after the last one.
func (w addrWords) next() addrWords {
	if w.lo++; w.lo == 0 {
		w.hi++
	}
	return w
}

// find is a binary search for the last start that is not above w.
func (r *ranges) find(w addrWords) string {
	i, n := 0, len(r.start)
	if n == 0 {
		return ""
	}
	for n > 1 {
		half := n / 2
		if !w.less(r.start[i+half]) {
			i += half
		}
		n -= half
	}
	return r.why[i]
}
