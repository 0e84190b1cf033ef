package security

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
)

// An edge with IPv6 alone sees every IPv4 client below one /64: who floods is banned, and
// the others are not; nor are his calls cut that go through the same translator.
func TestTranslatedClientsAreNotOneSource(t *testing.T) {
	g, s := rules(t, nil)
	bad, good := netip.MustParseAddr("64:ff9b::192.0.2.1"), netip.MustParseAddr("64:ff9b::198.51.100.1")
	g.floods(s, bad, 100, time.Second)
	if g.Stops(s, good, time.Second) || g.floods(s, good, 1, time.Second) != 1 {
		t.Error("one of them is stopped for another")
	}
	if !g.Stops(s, bad, time.Second) || !g.Stops(s, netip.MustParseAddr("192.0.2.1"), time.Second) {
		t.Error("he is not banned")
	}

	g.calls = func(a netip.Addr) int {
		if a.Is6() && netip.MustParsePrefix("64:ff9b::/64").Contains(a) {
			return 1
		}
		return 0
	}
	at := &Attempt{User: "alice@example.org", Source: SourceOf(good), Method: wire.REGISTER, Stream: true}
	for range 20 * s.c.DoSKnownFactor {
		g.Answered(s, at, 401, false, []int{401}, time.Second)
	}
	g.Settle(time.Second + 2*softFor)
	if grade := g.Book.Source(SourceOf(good), time.Second+2*softFor); grade != Soft {
		t.Errorf("a ban with a call is %v", grade)
	}
}
