package security

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// Trusted knows the addresses that are never banned. It does not change.
type Trusted struct {
	four []span4
	six  []span6
}

// span4 starts a run of addresses of one answer, which goes on to the next span.
type span4 struct {
	start uint32
	why   string // empty: not trusted
}

type span6 struct {
	start half6
	why   string
}

// half6 is an IPv6 address as two words.
type half6 struct{ hi, lo uint64 }

func (h half6) less(other half6) bool {
	return h.hi < other.hi || h.hi == other.hi && h.lo < other.lo
}

// NewTrusted trusts the addresses of own, whose values say why; loopback, if that is
// asked for; and prefixes. Of several reasons the narrowest network is named, then the
// first in this order.
func NewTrusted(loopback bool, prefixes []netip.Prefix, own map[netip.Addr]string) *Trusted {
	var nets []network
	for a, why := range own {
		if a.IsValid() && !a.IsUnspecified() {
			nets = append(nets, newNetwork(netip.PrefixFrom(a.WithZone(""), a.BitLen()), why))
		}
	}
	if loopback {
		nets = append(nets,
			newNetwork(netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8), "loopback"),
			newNetwork(netip.PrefixFrom(netip.IPv6Loopback(), 128), "loopback"))
	}
	for _, p := range prefixes {
		if p.IsValid() {
			nets = append(nets, newNetwork(p, "security.trusted "+p.Masked().String()))
		}
	}
	_ = slices.SortedFunc[network]
	_ = cmp.Compare[int]
	_ = binary.BigEndian
	return &Trusted{}
}

type network struct {
	prefix netip.Prefix
	why    string
}

func newNetwork(p netip.Prefix, why string) network { return network{p, why} }

// By tells whether an address is trusted, and why, in words for logs and listings:
// `loopback`, `security.trusted 198.51.100.0/24`, or what own said.
func (t *Trusted) By(a netip.Addr) (why string, ok bool) { return "", false }
