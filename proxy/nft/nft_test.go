package nft

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestElementsAreSorted(t *testing.T) {
	element := func(prefix string, timeout time.Duration) Element {
		return Element{netip.MustParsePrefix(prefix), timeout}
	}
	v4, v6, err := sorted([]Element{
		element("192.0.2.1/32", 1*time.Second),
		element("2001:db8:1:2:3::/64", 2*time.Second),
		element("::ffff:192.0.2.2/128", 3*time.Second),
		element("192.0.2.1/32", 4*time.Second),
		element("2001:db8:1:2::/64", 0),
	})
	if err != nil || !slices.Equal(v4, []Element{element("192.0.2.1/32", 4*time.Second), element("192.0.2.2/32", 3*time.Second)}) ||
		!slices.Equal(v6, []Element{element("2001:db8:1:2::/64", 0)}) {
		t.Error(v4, v6, err)
	}
	for _, bad := range []Element{{}, element("192.0.2.0/24", 0), element("2001:db8::/48", 0), element("2001:db8::1/128", 0),
		element("192.0.2.1/32", -1), element("192.0.2.1/32", time.Microsecond)} {
		if _, _, err := sorted([]Element{bad}); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := []Port{{UDP, netip.MustParseAddr("::ffff:192.0.2.1"), 5060}, {TCP, netip.MustParseAddr("fe80::1%eth0"), 5061}}
	o := Options{Ports: good}
	if err := o.validate(); err != nil || o.Name != DefaultName || o.Ports[0].Addr.String() != "192.0.2.1" ||
		o.Ports[1].Addr.String() != "fe80::1" {
		t.Error(o, err)
	}
	for name, o := range map[string]Options{
		"name":          {Name: "sip ward", Ports: good},
		"long name":     {Name: strings.Repeat("a", 65), Ports: good},
		"no ports":      {},
		"many ports":    {Ports: make([]Port, maxPorts+1)},
		"port 0":        {Ports: []Port{{UDP, netip.Addr{}, 0}}},
		"some protocol": {Ports: []Port{{1, netip.Addr{}, 5060}}},
	} {
		if err := o.validate(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
