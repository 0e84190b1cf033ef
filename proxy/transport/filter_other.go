//go:build !linux

package transport

import "net/netip"

// Filter has the kernel drop the datagrams of some sources; see there for Linux. Here it cannot.
func (l *Layer) Filter(v4 []netip.Addr, v6 []netip.Prefix) (installed4, installed6 int, err error) {
	return 0, 0, ErrNoFilter
}
