package transport

import (
	"net/netip"
	"testing"

	"github.com/sipward/sipward/config"
)

// TestMarksOutliveANewOrder: a listener keeps its mark whatever stands around it.
func TestMarksOutliveANewOrder(t *testing.T) {
	listener := func(proto, bind string) *Listener {
		return &Listener{spec: config.Listener{Proto: proto, Bind: netip.MustParseAddrPort(bind)}}
	}
	a, b := listener("udp", "0.0.0.0:5060"), listener("tcp", "0.0.0.0:5060")
	markAll([]*Listener{a, b})
	c, d, e := listener("tcp", "0.0.0.0:5060"), listener("wss", "[::]:8443"), listener("udp", "0.0.0.0:5060")
	markAll([]*Listener{c, d, e})
	if a.mark != e.mark || b.mark != c.mark {
		t.Errorf("%d and %d became %d and %d", a.mark, b.mark, e.mark, c.mark)
	}
	// However many there are, each has its own.
	var all []*Listener
	for i := range 200 {
		all = append(all, listener("udp", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(1+i)).String()))
	}
	markAll(all)
	seen := map[uint8]bool{NoMark: true}
	for _, l := range all {
		if seen[l.mark] {
			t.Fatalf("%s has mark %d, which is taken", l.spec.Bind, l.mark)
		}
		seen[l.mark] = true
	}
}
