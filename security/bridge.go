package security

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// Bridge finds out that all traffic comes from one private gateway, as it does behind
// a container bridge that replaces the addresses of its clients: a ban of that address
// would be a ban of everyone.
type Bridge struct {
	gateways  []netip.Addr
	elsewhere atomic.Int64 // when an untrusted message last came from another address, 0 = never
}

// bridgeQuiet is how long all has to come from the gateway.
const bridgeQuiet = time.Minute

// NewBridge takes the default gateways of the host. Without a private one among them
// it never suspends a ban.
func NewBridge(gateways []netip.Addr) *Bridge {
	b := &Bridge{}
	for _, g := range gateways {
		if g = plain(g); g.IsPrivate() || g.IsLinkLocalUnicast() || sharedSpace.Contains(g) {
			b.gateways = append(b.gateways, g)
		}
	}
	return b
}

// sharedSpace is between a carrier's NAT and its customers, RFC 6598.
var sharedSpace = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10)

// plain is an address without zone, an IPv4 one as such.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func (b *Bridge) isGateway(a netip.Addr) bool {
	a = plain(a)
	for _, g := range b.gateways {
		if g == a {
			return true
		}
	}
	return false
}

// Listens says whether it matters who is heard now: once a second, if there is a gateway.
func (b *Bridge) Listens(now time.Duration) bool {
	last := time.Duration(b.elsewhere.Load())
	return len(b.gateways) > 0 && (last == 0 || now-last >= time.Second)
}

// Saw notes where an untrusted message came from.
func (b *Bridge) Saw(a netip.Addr, now time.Duration) {
	if b.Listens(now) && !b.isGateway(a) {
		b.elsewhere.Store(int64(now))
	}
}

// Suspends tells whether a is such a gateway and nothing untrusted came from elsewhere
// for a minute, so that no ban of it may be made or kept.
func (b *Bridge) Suspends(a netip.Addr, now time.Duration) bool {
	if len(b.gateways) == 0 || !b.isGateway(a) {
		return false
	}
	last := time.Duration(b.elsewhere.Load())
	return last == 0 || now-last >= bridgeQuiet
}
