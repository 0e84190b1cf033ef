package backend

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/resolve"
	"github.com/sipward/sipward/proxy/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const second = time.Second

// poolOf returns a pool with n equal backends b0, b1 … at 10.0.0.0, 10.0.0.1 …
func poolOf(policy string, n int, change ...func(*config.Pool)) config.Pool {
	c := config.DefaultPool()
	c.Policy = policy
	for i := range n {
		b := config.DefaultBackend()
		b.Name, b.Address = fmt.Sprint("b", i), fmt.Sprintf("sip:10.0.0.%d:5060", i)
		c.Backends = append(c.Backends, b)
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

func newSet(c config.Pool, old *Set, now time.Duration) *Set {
	return NewSet(map[string]config.Pool{"pbx": c}, old, now)
}

// newTestPool returns the pool of a fresh set.
func newTestPool(c config.Pool) *Pool { return newSet(c, nil, 0).Pool("pbx") }

// kill takes a backend down by misses.
func kill(b *Backend, now time.Duration) {
	for range b.pool.rules.downAfter {
		b.Miss(now, Probe)
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func target(s string) resolve.Target {
	return resolve.Target{Proto: wire.UDP, Addr: netip.MustParseAddrPort(s)}
}

func TestIPBackendHasItsTargetFromTheStart(t *testing.T) {
	c := poolOf("hash", 1, func(c *config.Pool) {
		c.Backends[0].Address = "sip:[2001:db8::1]:5070;transport=tcp"
		c.TLS.ServerName = "pbx.example.org"
	})
	b := newTestPool(c).Backends()[0]
	want := resolve.Target{Proto: wire.TCP, Addr: netip.MustParseAddrPort("[2001:db8::1]:5070"), ServerName: "pbx.example.org"}
	if got := b.Targets(); len(got) != 1 || got[0] != want {
		t.Errorf("targets %v, want %v", got, want)
	}
}

func TestNamedBackendHasNoTargetsUntilItIsResolved(t *testing.T) {
	s := newSet(poolOf("hash", 1, func(c *config.Pool) { c.Backends[0].Address = "sip:pbx.example.org" }), nil, 0)
	b := s.Pool("pbx").Backends()[0]
	if b.Query().Host != "pbx.example.org" || len(b.Targets()) != 0 {
		t.Fatalf("query %+v, targets %v", b.Query(), b.Targets())
	}
	b.SetTargets([]resolve.Target{target("192.0.2.1:5060"), target("192.0.2.2:5060")})
	if len(b.Targets()) != 2 || s.BySource(addr("192.0.2.2")) != b {
		t.Error("targets or source index do not know the new addresses")
	}
	b.SetTargets([]resolve.Target{target("192.0.2.3:5060")})
	if s.BySource(addr("192.0.2.2")) != nil || s.BySource(addr("192.0.2.3")) != b {
		t.Error("the source index did not follow")
	}
}

func TestAddressThatCannotBeReachedDisablesTheBackend(t *testing.T) {
	p := newTestPool(poolOf("hash", 2, func(c *config.Pool) { c.Backends[0].Address = "tel:123" }))
	b := p.Backends()[0]
	if b.State(0) != Disabled || b.Why(0) == "" || b.NextProbe(0) != 0 || len(p.Order(nil, 1, 0)) != 1 {
		t.Errorf("state %v, why %q", b.State(0), b.Why(0))
	}
}

func TestSourceIsKnownWhicheverWayTheAddressIsWritten(t *testing.T) {
	s := newSet(poolOf("hash", 2), nil, 0)
	if b := s.BySource(addr("::ffff:10.0.0.1")); b == nil || b.Name() != "b1" {
		t.Errorf("IPv4-mapped source: %v", b)
	}
	if s.BySource(addr("10.0.0.9")) != nil {
		t.Error("a stranger is taken for a backend")
	}
}

func TestSharedSourceGoesToTheFirstBackend(t *testing.T) {
	pools := map[string]config.Pool{"z": poolOf("hash", 1), "a": poolOf("hash", 1)}
	for range 10 {
		if b := NewSet(pools, nil, 0).BySource(addr("10.0.0.0")); b.Pool().Name() != "a" {
			t.Fatalf("got pool %s", b.Pool().Name())
		}
	}
}

func TestIDsAreStableAndDistinct(t *testing.T) {
	p := newTestPool(poolOf("hash", 1000))
	seen := map[uint32]bool{}
	for _, b := range p.Backends() {
		if b.ID() == 0 || seen[b.ID()] || p.set.ByID(b.ID()) != b {
			t.Fatalf("bad ID %d of %s", b.ID(), b.Name())
		}
		seen[b.ID()] = true
	}
	if id := p.Backend("b0").ID(); id != newTestPool(poolOf("priority", 2)).Backend("b0").ID() {
		t.Error("the ID depends on more than pool and name")
	}
}

func TestReloadKeepsWhatIsKnownOfABackend(t *testing.T) {
	c := poolOf("hash", 3, func(c *config.Pool) {
		c.Backends[1].Address = "sip:pbx.example.org"
		c.Backends[0].MaxCPS = 2
	})
	old := newSet(c, nil, 0)
	p := old.Pool("pbx")
	kill(p.Backend("b2"), second)
	p.Backend("b1").SetTargets([]resolve.Target{target("192.0.2.1:5060")})
	p.Backend("b0").Admit(second)
	probe := p.Backend("b0").NextProbe(second)

	c = poolOf("hash", 4, func(c *config.Pool) {
		c.Backends[1].Address = "sip:pbx.example.org"
		c.Backends[0].MaxCPS = 3
		c.Backends[0].Weight = 7
	})
	set := newSet(c, old, 2*second)
	p = set.Pool("pbx")
	if p.Backend("b2").State(2*second) != Down || p.Backend("b3").State(2*second) != Up {
		t.Error("health was not kept, or invented")
	}
	if set.BySource(addr("192.0.2.1")) != p.Backend("b1") {
		t.Error("the targets were not kept")
	}
	admitted := 0
	for range 10 {
		if p.Backend("b0").Admit(second) {
			admitted++
		}
	}
	if admitted != 2 {
		t.Errorf("%d calls admitted after 1 of 3 before the reload", admitted)
	}
	if got := p.Backend("b0").NextProbe(second); got != probe {
		t.Errorf("next probe in %v, was in %v before", got, probe)
	}
}

func TestReloadForgetsABackendThatMoved(t *testing.T) {
	old := newSet(poolOf("hash", 2), nil, 0)
	kill(old.Pool("pbx").Backend("b0"), second)
	moved := poolOf("hash", 2, func(c *config.Pool) { c.Backends[0].Address = "sip:10.0.1.1" })
	if s := newSet(moved, old, 2*second).Pool("pbx").Backend("b0").State(2 * second); s != Up {
		t.Errorf("state %v at a new address", s)
	}
	renamed := NewSet(map[string]config.Pool{"other": poolOf("hash", 2)}, old, 2*second)
	if s := renamed.Pool("other").Backend("b0").State(2 * second); s != Up {
		t.Errorf("state %v in another pool", s)
	}
}

func TestTargetsToldToTheOldSetReachTheNewOne(t *testing.T) {
	c := poolOf("hash", 1, func(c *config.Pool) { c.Backends[0].Address = "sip:pbx.example.org" })
	old := newSet(c, nil, 0)
	set := newSet(c, old, 0)
	old.Pool("pbx").Backends()[0].SetTargets([]resolve.Target{target("192.0.2.1:5060")})
	for _, s := range []*Set{old, set} {
		if b := s.BySource(addr("192.0.2.1")); b != s.Pool("pbx").Backends()[0] {
			t.Errorf("got %v", b)
		}
	}
}

func TestReloadWithoutProbesDoesNotLeaveABackendDownForEver(t *testing.T) {
	old := newSet(poolOf("hash", 1), nil, 0)
	kill(old.Pool("pbx").Backend("b0"), second)
	for _, passive := range []bool{true, false} {
		c := poolOf("hash", 1, func(c *config.Pool) { c.Probe.Interval, c.Probe.Passive = 0, passive })
		b := newSet(c, old, 2*second).Pool("pbx").Backend("b0")
		if s := b.State(2*second + blindHold); s != Up {
			t.Errorf("passive %v: %v", passive, s)
		}
	}
}

func TestDrainedAndDisabledOutrankHealth(t *testing.T) {
	p := newTestPool(poolOf("hash", 2, func(c *config.Pool) {
		c.Backends[0].State, c.Backends[1].State = "drain", "disabled"
	}))
	for i, want := range []State{Drain, Disabled} {
		b := p.Backends()[i]
		kill(b, 0)
		if b.State(0) != want || b.Why(0) == "" || len(b.Targets()) != 1 {
			t.Errorf("state %v, why %q, targets %v", b.State(0), b.Why(0), b.Targets())
		}
	}
	if p.Panicking(0) || len(p.Order(nil, 1, 0)) != 0 {
		t.Error("an operator's wish was overruled")
	}
}

func TestProbesAreSpreadAndJittered(t *testing.T) {
	p := newTestPool(poolOf("hash", 50))
	first, later := map[time.Duration]bool{}, map[time.Duration]bool{}
	for _, b := range p.Backends() {
		d := b.NextProbe(0)
		if d <= 0 || d > firstProbes {
			t.Fatalf("first probe after %v", d)
		}
		if again := b.NextProbe(d / 2); again != d-d/2 {
			t.Fatalf("asked again: %v, want the rest %v", again, d-d/2)
		}
		next := b.NextProbe(d)
		if next < 9*second || next > 11*second {
			t.Fatalf("next probe after %v, want 10 s ± 10 %%", next)
		}
		first[d], later[next] = true, true
	}
	if len(first) < 45 || len(later) < 45 {
		t.Errorf("%d and %d different times for 50 backends", len(first), len(later))
	}
}

func TestShorterProbeIntervalTakesEffectAtOnce(t *testing.T) {
	slow := poolOf("hash", 1, func(c *config.Pool) { c.Probe.Interval = config.Duration(time.Hour) })
	old := newSet(slow, nil, 0)
	b := old.Pool("pbx").Backends()[0]
	b.NextProbe(second)
	b.NextProbe(2 * second)
	if d := newSet(poolOf("hash", 1), old, 3*second).Pool("pbx").Backends()[0].NextProbe(3 * second); d > 11*second {
		t.Errorf("next probe after %v", d)
	}
}

func TestNoProbesWithoutAnInterval(t *testing.T) {
	b := newTestPool(poolOf("hash", 1, func(c *config.Pool) { c.Probe.Interval = 0 })).Backends()[0]
	if d := b.NextProbe(0); d != 0 {
		t.Errorf("next probe after %v", d)
	}
}

// TestEverythingAtOnce is for the race detector.
func TestEverythingAtOnce(t *testing.T) {
	c := poolOf("round_robin", 5, func(c *config.Pool) { c.Backends[0].MaxCPS = 100 })
	set := newSet(c, nil, 0)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			s, now := set, time.Duration(0)
			var dst []*Backend
			for i := range 2000 {
				now += 10 * time.Millisecond
				dst = s.Pool("pbx").Order(dst, uint64(i), now)
				b := dst[i%len(dst)]
				switch i % 7 {
				case 0:
					b.Miss(now, Traffic)
				case 1:
					b.Unavailable(now, second, Probe)
				case 2:
					b.SetTargets([]resolve.Target{target(fmt.Sprintf("10.0.%d.%d:5060", g, i%200))})
				case 3:
					s.BySource(addr("10.0.1.7"))
					b.NextProbe(now)
				case 4:
					b.Admit(now)
				case 5:
					b.Alive(now, Traffic)
				case 6:
					if i%100 == 6 {
						s = newSet(c, s, now)
					}
				}
			}
		})
	}
	wg.Wait()
}
