package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// DefaultName is the table's name where Options have none.
const DefaultName = "sipward"

// batchSize is how many elements one transaction changes: the kernel takes a message of 200 kB, not more.
const batchSize = 1000

// maxPorts bounds the rules that each packet of the host is compared with.
const maxPorts = 256

var (
	// ErrPermission says that CAP_NET_ADMIN is missing.
	ErrPermission = errors.New("no permission to change nftables (CAP_NET_ADMIN)")
	// ErrUnsupported says that the system has no nftables.
	ErrUnsupported = errors.New("no nftables on this system")
)

// Proto is a transport protocol by its IP protocol number.
type Proto uint8

// The protocols there are; TLS is TCP.
const (
	TCP Proto = 6
	UDP Proto = 17
)

// Port is one of ours.
type Port struct {
	Proto Proto
	// Addr is the address it is open on: 0.0.0.0 or :: for all of one family, the zero Addr for all.
	Addr netip.Addr
	Port uint16
}

// Element is a banned source.
type Element struct {
	Prefix  netip.Prefix  // an IPv4 address (/32) or an IPv6 /64
	Timeout time.Duration // 0 = until it is removed; at least a millisecond
}

// Options say what Open makes.
type Options struct {
	Name  string // of the table; two instances on one host need two
	Ports []Port
}

func (o *Options) validate() error {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if len(o.Name) > 64 || strings.Trim(o.Name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		return fmt.Errorf("nftables: %.80q is no name of a table", o.Name)
	}
	if len(o.Ports) == 0 || len(o.Ports) > maxPorts {
		return fmt.Errorf("nftables: %d ports, want 1 to %d", len(o.Ports), maxPorts)
	}
	for i, p := range o.Ports {
		if p.Proto != UDP && p.Proto != TCP || p.Port == 0 {
			return fmt.Errorf("nftables: protocol %d, port %d is no port of ours", p.Proto, p.Port)
		}
		o.Ports[i].Addr = p.Addr.Unmap().WithZone("")
	}
	return nil
}

// sorted parts elements by family, each prefix once with the last timeout, in order of appearance.
func sorted(all []Element) (v4, v6 []Element, err error) {
	at := make(map[netip.Prefix]int, len(all))
	for _, e := range all {
		if a := e.Prefix.Addr(); a.Is4In6() && e.Prefix.Bits() >= 96 {
			e.Prefix = netip.PrefixFrom(a.Unmap(), e.Prefix.Bits()-96)
		}
		list := &v4
		if e.Prefix.Addr().Is6() {
			list = &v6
		}
		switch {
		case !e.Prefix.IsValid() || e.Prefix.Addr().Is4() && e.Prefix.Bits() != 32 || e.Prefix.Addr().Is6() && e.Prefix.Bits() != 64:
			return nil, nil, fmt.Errorf("nftables: %s is neither an IPv4 address nor an IPv6 prefix of 64 bits", e.Prefix)
		case e.Timeout < 0 || e.Timeout > 0 && e.Timeout < time.Millisecond:
			return nil, nil, fmt.Errorf("nftables: %s for %s", e.Prefix, e.Timeout)
		}
		e.Prefix = e.Prefix.Masked()
		if i, isKnown := at[e.Prefix]; isKnown {
			(*list)[i] = e
			continue
		}
		at[e.Prefix] = len(*list)
		*list = append(*list, e)
	}
	return v4, v6, nil
}
