package security

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
)

// Flags of a route (linux/route.h).
const (
	routeUp      = 0x1
	routeGateway = 0x2
	routeReject  = 0x200
)

// maxGateways bounds what DefaultGateways returns; a host has one or two.
const maxGateways = 16

// DefaultGateways reads the gateways of default routes from the texts of
// /proc/net/route and /proc/net/ipv6_route, either of which may be empty. Lines that
// make no sense are skipped.
func DefaultGateways(routes4, routes6 []byte) []netip.Addr {
	var list []netip.Addr
	add := func(a netip.Addr, ok bool) {
		if ok && !a.IsUnspecified() && len(list) < maxGateways && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	for line := range bytes.Lines(routes4) {
		add(gateway4(bytes.Fields(line)))
	}
	for line := range bytes.Lines(routes6) {
		add(gateway6(bytes.Fields(line)))
	}
	return list
}

// gateway4: Iface Destination Gateway Flags RefCnt Use Metric Mask ..., addresses as
// words of the host's byte order.
func gateway4(f [][]byte) (netip.Addr, bool) {
	if len(f) < 8 || !isDefault(f[1]) || !isDefault(f[7]) || !leads(f[3]) {
		return netip.Addr{}, false
	}
	var word, addr [4]byte
	if len(f[2]) != 8 {
		return netip.Addr{}, false
	}
	if _, err := hex.Decode(word[:], f[2]); err != nil {
		return netip.Addr{}, false
	}
	binary.NativeEndian.PutUint32(addr[:], binary.BigEndian.Uint32(word[:]))
	return netip.AddrFrom4(addr), true
}

// gateway6: destination, its length, source, its length, next hop, metric, references,
// use, flags, interface; all of it hexadecimal.
func gateway6(f [][]byte) (netip.Addr, bool) {
	if len(f) < 9 || !isDefault(f[0]) || !isDefault(f[1]) || !leads(f[8]) || len(f[4]) != 32 {
		return netip.Addr{}, false
	}
	var addr [16]byte
	if _, err := hex.Decode(addr[:], f[4]); err != nil {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16(addr), true
}

// isDefault tells whether a field is all zeros, as those of a default route are.
func isDefault(field []byte) bool {
	return len(field) > 0 && len(bytes.Trim(field, "0")) == 0
}

// leads tells whether the flags are those of a route that leads to a gateway.
func leads(flags []byte) bool {
	var b [4]byte
	if len(flags) > 8 || len(flags)%2 != 0 {
		return false
	}
	if _, err := hex.Decode(b[4-len(flags)/2:], flags); err != nil {
		return false
	}
	return binary.BigEndian.Uint32(b[:])&(routeUp|routeGateway|routeReject) == routeUp|routeGateway
}
