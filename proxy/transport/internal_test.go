package transport

import (
	"net/netip"
	"testing"

	"github.com/sipward/sipward/proxy/wire"
)

func TestSourcesAreAddressesOrPrefixes(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7":           "192.0.2.7",
		"2001:db8:1:2:3:4::5": "2001:db8:1:2::",
		"fe80::1%eth0":        "fe80::",
	} {
		if got := sourceOf(netip.MustParseAddr(address)); got.String() != want {
			t.Errorf("%s counts as %s, want %s", address, got, want)
		}
	}
}

// A connection holds a buffer that fits what has come of a message, whatever it carried before, and none at rest, but for
// those whose Read waits with one in its hands.
func TestBufferIsGivenBack(t *testing.T) {
	for _, waits := range []bool{true, false} {
		r := &reader{waits: waits}
		r.framer.Max = 65535
		free, atRest := midBuffer, 0
		if waits {
			free, atRest = smallBuffer, smallBuffer
		}
		if got := len(r.lend()); got != free {
			t.Errorf("waits %t: %d bytes for the first read", waits, got)
		}
		for _, step := range []struct {
			filled  int
			wasFull bool
			want    int
		}{
			{100, false, smallBuffer},
			{smallBuffer, true, midBuffer},
			{100, false, smallBuffer},
			{0, true, midBuffer},
			{midBuffer, true, 65535 + midBuffer},
			{midBuffer + 1, false, 65535 + midBuffer},
			{10, false, smallBuffer},
		} {
			r.filled = step.filled
			for i := range r.filled {
				r.buf[i] = byte(i)
			}
			r.size(step.wasFull)
			if len(r.buf) != step.want || len(r.lend()) != step.want-step.filled {
				t.Errorf("waits %t, %+v: %d bytes", waits, step, len(r.buf))
			}
			for i := range r.filled {
				if r.buf[i] != byte(i) {
					t.Fatalf("waits %t, %+v: byte %d was lost", waits, step, i)
				}
			}
		}
		r.filled = 0
		r.size(false)
		if !waits {
			r.rest()
		}
		if len(r.buf) != atRest {
			t.Errorf("waits %t: %d bytes at rest", waits, len(r.buf))
		}
	}
}

func TestOlderConnectionToAPeerIsFoundAgain(t *testing.T) {
	l := New(Options{})
	remote := netip.MustParseAddrPort("192.0.2.1:5060")
	var all []*Conn
	for range 3 {
		c := &Conn{layer: l, proto: wire.TCP, remote: remote, inbound: true, isGuest: true}
		if err := l.conns.accept(c); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	every := func(*Conn) bool { return true }
	l.conns.retire(all[1])
	l.conns.retire(all[1]) // twice does no harm
	if got := l.conns.find(peer{1, remote}, every); got != all[2] {
		t.Error("not the newest")
	}
	l.conns.leave(all[2])
	if got := l.conns.find(peer{1, remote}, every); got != all[0] {
		t.Error("not the one that is left")
	}
	l.conns.leave(all[0])
	l.conns.leave(all[1])
	if n, _ := l.conns.size(); n != 0 || len(l.conns.byPeer) != 0 || len(l.conns.bySource) != 0 || all[0].ID() >= all[1].ID() {
		t.Error("something is left behind")
	}
}
