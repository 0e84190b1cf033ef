package proxy

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/resolve"
	"github.com/sipward/sipward/proxy/wire"
)

// Anybody can write a To tag. It lets nobody past the limits.
func TestAnInventedToTagIsNoCall(t *testing.T) {
	change := func(c *config.Config) { c.Pools["pbx"].Backends[0].MaxCPS = 1 }
	inLab(t, 1, change, func(t *testing.T, l *lab) {
		for i, want := range []string{"100 INVITE", "503 INVITE"} {
			c := l.phone.call()
			c.to = "invented"
			c.sends("INVITE")
			l.phone.get("100 INVITE")
			if i > 0 {
				l.phone.get(want)
			}
		}
	})
}

func TestStoredMessagesAreBounded(t *testing.T) {
	change := func(c *config.Config) { c.Limits.TransactionMemory = 4000 }
	inLab(t, 1, change, func(t *testing.T, l *lab) {
		n := 0
		for {
			l.phone.call().sends("REGISTER")
			if m := l.phone.getsWithin(0); m != nil {
				if title(m) != "503 REGISTER" {
					t.Fatal(title(m))
				}
				break
			}
			if n++; n > 100 {
				t.Fatal("no bound")
			}
		}
		if n < 2 || l.e.Counters().Held > 8000 {
			t.Errorf("refused after %d requests with %d bytes held", n, l.e.Counters().Held)
		}
		for l.pbx[0].gets() != nil {
		}
		pass(80 * time.Second)
		if c := l.e.Counters(); c.Held != 0 || c.Transactions != 0 {
			t.Errorf("%d bytes and %d transactions are left", c.Held, c.Transactions)
		}
	})
}

func TestALongDatagramIsRefused(t *testing.T) {
	change := func(c *config.Config) { c.Limits.MaxMessage = 2000 }
	inLab(t, 1, change, func(t *testing.T, l *lab) {
		c := l.phone.call()
		c.more = "X-Padding: " + strings.Repeat("x", 2000) + "\n"
		c.sends("REGISTER")
		l.phone.get("513 REGISTER")
	})
}

// From outside, a Request-URI reaches a backend at its own address; a dialog that
// we carry also reaches the port that its Contact named, but no other service.
func TestReachable(t *testing.T) {
	b := config.DefaultBackend()
	b.Name, b.Address = "pbx1", "sip:192.0.2.10:5060"
	pool := config.DefaultPool()
	pool.Probe.Interval, pool.Backends = 0, []config.Backend{b}
	c := testConfig("udp:127.0.0.1:0")
	c.Pools = map[string]config.Pool{"pbx": pool}
	e := newEdge(t, c, &logLines{})
	t.Cleanup(func() {
		if err := errors.Join(e.Stop(context.Background()), e.log.Close()); err != nil {
			t.Error(err)
		}
	})
	for _, x := range []struct {
		proto wire.Proto
		to    string
		bound bool
		want  bool
	}{
		{wire.UDP, "192.0.2.10:5060", false, true},
		{wire.UDP, "192.0.2.10:5080", false, false},
		{wire.UDP, "192.0.2.10:5080", true, true},
		{wire.TCP, "192.0.2.10:5038", true, false},
		{wire.TCP, "192.0.2.10:5061", true, true},
		{wire.UDP, "192.0.2.11:5060", true, false},
		{wire.UDP, "127.0.0.1:5060", true, false},
	} {
		target := resolve.Target{Proto: x.proto, Addr: netip.MustParseAddrPort(x.to)}
		if got := e.snap.Load().reachable(target, x.bound); got != x.want {
			t.Errorf("%v %s, with a token %v: %v, want %v", x.proto, x.to, x.bound, got, x.want)
		}
	}
}
