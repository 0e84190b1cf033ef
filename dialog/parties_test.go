package dialog

import (
	"net/netip"
	"testing"
)

func TestCallsOf(t *testing.T) {
	here, there := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8:1:2::7")
	neighbour, stranger := netip.MustParseAddr("2001:db8:1:2:ffff::9"), netip.MustParseAddr("2001:db8:1:3::7")
	at := func(a netip.Addr) flow { return packFlow(Flow{Remote: netip.AddrPortFrom(a, 5060)}) }
	s := NewStore(Options{Capacity: 10})
	c := &Call{store: s}
	want := func(a netip.Addr, n int) {
		t.Helper()
		if got := s.CallsOf(a); got != n {
			t.Errorf("%s: %d calls, want %d", a, got, n)
		}
	}
	c.outsideLocked(at(here))
	want(here, 0) // not answered yet
	c.answered = 1
	s.parties.move(party{}, c.outside.party())
	want(here, 1)
	c.outsideLocked(at(there)) // the phone moved
	want(here, 0)
	want(there, 1)
	want(neighbour, 1)
	want(stranger, 0)
	c.outsideLocked(flow{})
	want(there, 0)
	for i := range s.parties.shard {
		if n := len(s.parties.shard[i].of); n != 0 {
			t.Errorf("%d parties left", n)
		}
	}
}
