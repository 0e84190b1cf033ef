package security

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

const routes4Header = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT                                                       \n"

// word4 writes an address as /proc/net/route does on this machine.
func word4(a string) string {
	b := netip.MustParseAddr(a).As4()
	return fmt.Sprintf("%08X", binary.NativeEndian.Uint32(b[:]))
}

// route4 is a line of /proc/net/route.
func route4(dst, gateway, flags, mask string) string {
	return fmt.Sprintf("eth0\t%s\t%s\t%s\t0\t0\t0\t%s\t0\t0\t0    \n", word4(dst), word4(gateway), flags, word4(mask))
}

// route6 is a line of /proc/net/ipv6_route.
func route6(dst string, size int, hop, flags string) string {
	hex := func(a string) string { return fmt.Sprintf("%x", netip.MustParseAddr(a).AsSlice()) }
	return fmt.Sprintf("%s %02x %s 00 %s 00000400 00000003 00000000 %s     eth0\n", hex(dst), size, hex("::"), hex(hop), flags)
}

func TestDefaultGateways(t *testing.T) {
	for name, c := range map[string]struct {
		four, six string
		want      []string
	}{
		"nothing":     {"", "", nil},
		"header only": {routes4Header, "", nil},
		"container": {routes4Header + route4("0.0.0.0", "172.17.0.1", "0003", "0.0.0.0") + route4("172.17.0.0", "0.0.0.0", "0001", "255.255.0.0"),
			route6("fd00::", 64, "::", "00000001") + route6("::", 0, "fd00::1", "00000003") + route6("::", 0, "::", "00200200"),
			[]string{"172.17.0.1", "fd00::1"}},
		"two, one of them twice": {routes4Header + route4("0.0.0.0", "10.0.0.1", "0003", "0.0.0.0") + route4("0.0.0.0", "10.0.0.2", "0003", "0.0.0.0") +
			route4("0.0.0.0", "10.0.0.1", "0003", "0.0.0.0"), "", []string{"10.0.0.1", "10.0.0.2"}},
		"no gateway, a tunnel":    {routes4Header + route4("0.0.0.0", "0.0.0.0", "0001", "0.0.0.0"), "", nil},
		"half the world":          {routes4Header + route4("0.0.0.0", "10.0.0.1", "0003", "128.0.0.0"), route6("::", 1, "fd00::1", "00000003"), nil},
		"another destination":     {routes4Header + route4("10.1.0.0", "10.0.0.1", "0003", "0.0.0.0"), route6("fd01::", 0, "fd00::1", "00000003"), nil},
		"down":                    {routes4Header + route4("0.0.0.0", "10.0.0.1", "0002", "0.0.0.0"), "", nil},
		"rejected":                {"", route6("::", 0, "fd00::1", "00000203"), nil},
		"learnt from the network": {"", route6("::", 0, "fe80::1", "00450003"), []string{"fe80::1"}},
		"cut off":                 {strings.TrimSuffix(routes4Header+route4("0.0.0.0", "10.0.0.1", "0003", "0.0.0.0"), "0.0.0.0\t0\t0\t0    \n")[:150], "0000", nil},
		"short gateway":           {"eth0 00000000 0100 0003 0 0 0 00000000", "", nil},
		"no hexadecimal":          {"eth0 00000000 0100000g 0003 0 0 0 00000000", "", nil},
		"odd flags":               {"eth0 00000000 0100000A 003 0 0 0 00000000", "", nil},
		"long flags":              {"eth0 00000000 0100000A 0000000003 0 0 0 00000000", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, a := range DefaultGateways([]byte(c.four), []byte(c.six)) {
				got = append(got, a.String())
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
	var many strings.Builder
	for i := range 100 {
		many.WriteString(route4("0.0.0.0", fmt.Sprintf("10.0.0.%d", i+1), "0003", "0.0.0.0"))
	}
	if n := len(DefaultGateways([]byte(many.String()), nil)); n != maxGateways {
		t.Errorf("%d gateways", n)
	}
}

func FuzzDefaultGateways(f *testing.F) {
	f.Add([]byte(routes4Header+route4("0.0.0.0", "172.17.0.1", "0003", "0.0.0.0")), []byte(route6("::", 0, "fd00::1", "00000003")))
	f.Add([]byte("eth0 00000000 0100 0003 0 0 0 00000000"), []byte("00 00 00 00 00"))
	f.Fuzz(func(t *testing.T, four, six []byte) {
		list := DefaultGateways(four, six)
		for i, a := range list {
			if !a.IsValid() || a.IsUnspecified() || slices.Contains(list[:i], a) {
				t.Fatalf("%v", list)
			}
		}
		NewBridge(list)
	})
}
