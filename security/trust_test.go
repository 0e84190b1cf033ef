package security

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func TestTrusted(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	trusted := NewTrusted(true, []netip.Prefix{
		prefix("198.51.100.0/24"), prefix("198.51.100.128/25"), prefix("198.51.100.7/32"), prefix("127.0.0.0/8"),
		prefix("255.255.255.0/24"), prefix("2001:db8::/32"), prefix("2001:db8:1::/48"), prefix("::ffff:192.0.2.0/120"),
		prefix("203.0.113.77/24"), {},
	}, map[netip.Addr]string{
		addr("198.51.100.7"): "advertised", addr("10.0.0.1"): "listener udp:10.0.0.1:5060", addr("0.0.0.0"): "no",
		addr("::ffff:10.0.0.2"): "backend mapped", addr("fe80::1%eth0"): "listener zone", {}: "no",
	})
	for text, want := range map[string]string{
		"198.51.100.7":        "advertised",
		"198.51.100.8":        "security.trusted 198.51.100.0/24",
		"198.51.100.0":        "security.trusted 198.51.100.0/24",
		"198.51.100.127":      "security.trusted 198.51.100.0/24",
		"198.51.100.128":      "security.trusted 198.51.100.128/25",
		"198.51.100.255":      "security.trusted 198.51.100.128/25",
		"198.51.101.0":        "",
		"198.51.99.255":       "",
		"203.0.113.1":         "security.trusted 203.0.113.0/24",
		"10.0.0.0":            "",
		"10.0.0.1":            "listener udp:10.0.0.1:5060",
		"10.0.0.2":            "backend mapped",
		"::ffff:10.0.0.1":     "listener udp:10.0.0.1:5060",
		"192.0.2.200":         "security.trusted ::ffff:192.0.2.0/120",
		"127.0.0.1":           "loopback",
		"127.255.255.255":     "loopback",
		"128.0.0.0":           "",
		"255.255.255.255":     "security.trusted 255.255.255.0/24",
		"0.0.0.0":             "",
		"::":                  "",
		"::1":                 "loopback",
		"::2":                 "",
		"fe80::1":             "listener zone",
		"fe80::1%eth1":        "listener zone",
		"2001:db8::1":         "security.trusted 2001:db8::/32",
		"2001:db8:1::1":       "security.trusted 2001:db8:1::/48",
		"2001:db8:2::1":       "security.trusted 2001:db8::/32",
		"2001:db9::":          "",
		"2001:db7:ffff::ffff": "",
		"c633:6407::":         "", // the words of 198.51.100.7
	} {
		why, ok := trusted.By(addr(text))
		if why != want || ok != (want != "") {
			t.Errorf("By(%s) = %q, %v, want %q", text, why, ok, want)
		}
	}
	if why, ok := trusted.By(netip.Addr{}); ok {
		t.Errorf("no address is trusted: %q", why)
	}
	if why, ok := NewTrusted(false, nil, nil).By(addr("127.0.0.1")); ok {
		t.Errorf("nothing was trusted: %q", why)
	}
	all := NewTrusted(false, []netip.Prefix{prefix("0.0.0.0/0"), prefix("::/0")}, nil)
	for _, text := range []string{"0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"} {
		if _, ok := all.By(addr(text)); !ok {
			t.Errorf("%s is not in the whole", text)
		}
	}
}

// Against a walk over all prefixes that takes the narrowest.
func TestTrustedAgainstAWalk(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		random := func() netip.Addr {
			if r.IntN(2) == 0 {
				return netip.AddrFrom4([4]byte{10, byte(r.IntN(3)), byte(r.IntN(256)), byte(r.IntN(256))})
			}
			return netip.AddrFrom16([16]byte{0x20, 1, 0, byte(r.IntN(3)), 7: byte(r.IntN(4)), 8: byte(r.IntN(4)), 15: byte(r.IntN(256))})
		}
		var prefixes []netip.Prefix
		for range r.IntN(40) {
			a := random()
			prefixes = append(prefixes, netip.PrefixFrom(a, r.IntN(a.BitLen()+1)))
		}
		trusted := NewTrusted(false, prefixes, nil)
		for i := range 400 {
			a := random()
			if i < len(prefixes) {
				a = prefixes[i].Masked().Addr()
			}
			want, bits := "", -1
			for _, p := range prefixes {
				if p.Contains(a) && p.Bits() > bits {
					want, bits = "security.trusted "+p.Masked().String(), p.Bits()
				}
			}
			if why, _ := trusted.By(a); why != want {
				t.Fatalf("seed %d: By(%s) = %q, want %q of %v", seed, a, why, want, prefixes)
			}
		}
	}
}

func thousandPrefixes() []netip.Prefix {
	var list []netip.Prefix
	for i := range 500 {
		list = append(list,
			netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(i >> 3), byte(i << 5), 0}), 28),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 8), byte(i)}), 48))
	}
	return list
}

func BenchmarkTrusted(b *testing.B) {
	trusted := NewTrusted(true, thousandPrefixes(), map[netip.Addr]string{netip.MustParseAddr("192.0.2.1"): "advertised"})
	for _, is4 := range []bool{true, false} {
		var addrs [256]netip.Addr
		for i := range addrs {
			if is4 {
				addrs[i] = netip.AddrFrom4([4]byte{100, byte(i * 7), byte(i * 31), byte(i * 3)})
			} else {
				addrs[i] = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i & 1), byte(i * 31), 15: 1})
			}
		}
		b.Run(fmt.Sprintf("v4=%v", is4), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				trusted.By(addrs[i%256])
			}
		})
	}
}

func TestTrustedDoesNotAllocate(t *testing.T) {
	trusted := NewTrusted(true, thousandPrefixes(), nil)
	a, mapped := netip.MustParseAddr("100.1.2.3"), netip.MustParseAddr("::ffff:100.1.2.3")
	if n := testing.AllocsPerRun(100, func() { trusted.By(a); trusted.By(mapped) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
