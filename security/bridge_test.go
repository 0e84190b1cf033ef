package security

import (
	"net/netip"
	"testing"
	"time"
)

func TestBridge(t *testing.T) {
	const s = time.Second
	bridge, lan := netip.MustParseAddr("172.17.0.1"), netip.MustParseAddr("192.168.1.20")
	bridge6 := netip.MustParseAddr("fd00::1")
	client := netip.MustParseAddr("203.0.113.9")
	type saw struct {
		from netip.Addr
		at   time.Duration
	}
	for name, c := range map[string]struct {
		gateways []netip.Addr
		saw      []saw
		asked    netip.Addr
		at       time.Duration
		want     bool
	}{
		"all from the bridge":             {[]netip.Addr{bridge}, []saw{{bridge, s}, {bridge, 90 * s}}, bridge, 100 * s, true},
		"nothing yet":                     {[]netip.Addr{bridge}, nil, bridge, s, true},
		"both bridges":                    {[]netip.Addr{bridge, bridge6}, []saw{{bridge, s}, {bridge6, 2 * s}}, bridge6, 3 * s, true},
		"mapped":                          {[]netip.Addr{bridge}, []saw{{netip.MustParseAddr("::ffff:172.17.0.1"), s}}, netip.MustParseAddr("::ffff:172.17.0.1"), 2 * s, true},
		"with a zone":                     {[]netip.Addr{netip.MustParseAddr("fe80::1")}, nil, netip.MustParseAddr("fe80::1%eth0"), s, true},
		"podman's":                        {[]netip.Addr{netip.MustParseAddr("10.88.0.1")}, nil, netip.MustParseAddr("10.88.0.1"), s, true},
		"shared address space":            {[]netip.Addr{netip.MustParseAddr("100.64.0.1")}, nil, netip.MustParseAddr("100.64.0.1"), s, true},
		"a client with its own address":   {[]netip.Addr{bridge}, []saw{{bridge, s}, {client, 2 * s}, {bridge, 3 * s}}, bridge, 4 * s, false},
		"it is still remembered":          {[]netip.Addr{bridge}, []saw{{client, 2 * s}}, bridge, 61 * s, false},
		"for a minute":                    {[]netip.Addr{bridge}, []saw{{client, 2 * s}}, bridge, 62 * s, true},
		"the later of two counts":         {[]netip.Addr{bridge}, []saw{{client, 2 * s}, {lan, 50 * s}}, bridge, 100 * s, false},
		"another address is never spared": {[]netip.Addr{bridge}, []saw{{bridge, s}}, lan, 2 * s, false},
		"no gateway":                      {nil, []saw{{bridge, s}}, bridge, 2 * s, false},
		"a public gateway":                {[]netip.Addr{client}, []saw{{client, s}}, client, 2 * s, false},
		"no address":                      {[]netip.Addr{bridge, {}}, []saw{{netip.Addr{}, s}}, netip.Addr{}, 2 * s, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := NewBridge(c.gateways)
			for _, x := range c.saw {
				b.Saw(x.from, x.at)
			}
			if got := b.Suspends(c.asked, c.at); got != c.want {
				t.Errorf("Suspends = %v", got)
			}
		})
	}
}

func TestBridgeStoresOnceASecond(t *testing.T) {
	b := NewBridge([]netip.Addr{netip.MustParseAddr("172.17.0.1")})
	a := netip.MustParseAddr("203.0.113.9")
	for now := time.Second; now < 2*time.Second; now += time.Millisecond {
		b.Saw(a, now)
	}
	if last := time.Duration(b.elsewhere.Load()); last != time.Second {
		t.Errorf("stored at %v", last)
	}
	b.Saw(a, 2*time.Second)
	if last := time.Duration(b.elsewhere.Load()); last != 2*time.Second {
		t.Errorf("stored at %v", last)
	}
	if n := testing.AllocsPerRun(100, func() { b.Saw(a, 3*time.Second); b.Suspends(a, 3*time.Second) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkBridgeSaw(b *testing.B) {
	bridge := NewBridge([]netip.Addr{netip.MustParseAddr("172.17.0.1"), netip.MustParseAddr("fd00::1")})
	a := netip.MustParseAddr("203.0.113.9")
	b.ReportAllocs()
	for b.Loop() {
		bridge.Saw(a, time.Second)
	}
}
