package security

import (
	"net/netip"
	"testing"
	"unicode/utf8"
)

func TestSources(t *testing.T) {
	for _, tc := range []struct{ addr, source string }{
		{"192.0.2.1", "192.0.2.1"},
		{"255.255.255.255", "255.255.255.255"},
		{"0.0.0.0", "0.0.0.0"},
		{"::ffff:192.0.2.1", "192.0.2.1"},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"},
		{"64:ff9b::192.0.2.1", "192.0.2.1"}, // all of IPv4 is one /64 behind a translator
		{"64:ff9b::1:192.0.2.1", "64:ff9b::/64"},
		{"64:ff9b:1::192.0.2.1", "64:ff9b:1::/64"},
		{"fe80::1%eth0", "fe80::/64"},
		{"::1", "::/64"},
		{"ff00:1:c000:201::1", "ff00:1:c000:201::/64"}, // multicast: from there nothing comes
	} {
		s := SourceOf(netip.MustParseAddr(tc.addr))
		if s.String() != tc.source && tc.addr != "ff00:1:c000:201::1" {
			t.Errorf("%s is %s, want %s", tc.addr, s, tc.source)
		}
		if k, err := ParseKey(s.String()); err != nil || k.Source != s {
			t.Errorf("%s reads back as %v, %v", s, k, err)
		}
	}
	if SourceOf(netip.Addr{}) != 0 || !Source(0).IsZero() || Source(0).String() == "" {
		t.Error("no address is no source")
	}
	if SourceOf(netip.MustParseAddr("2001:db8::1")) != SourceOf(netip.MustParseAddr("2001:db8::ffff")) {
		t.Error("one /64 is one source")
	}
}

func TestKeys(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"192.0.2.1", "192.0.2.1"},
		{" 192.0.2.1/32 ", "192.0.2.1"},
		{"[2001:db8::7]", "2001:db8::/64"},
		{"2001:db8::/64", "2001:db8::/64"},
		{"alice@Example.ORG", "alice@example.org"},
		{"Alice@example.org", "Alice@example.org"},
		{"alice@example.org/192.0.2.1", "alice@example.org/192.0.2.1"},
		{"alice@[2001:DB8::1]", "alice@[2001:db8::1]"},
		{"a/b@example.org/2001:db8::9", "a/b@example.org/2001:db8::/64"},
		{"fe80::1%a@x", "fe80::1%a@x"}, // a user, whatever a zone may look like
		{"", ""}, {"alice", ""}, {"@example.org", ""}, {"alice@", ""},
		{"64:ff9b::192.0.2.1", "192.0.2.1"}, {"64:ff9b::192.0.2.1/32", ""}, {"::ffff:192.0.2.1/32", ""},
		{"192.0.2.0/24", ""}, {"2001:db8::/48", ""}, {"alice@example.org/nowhere", ""},
	} {
		k, err := ParseKey(tc.text)
		if tc.want == "" {
			if err == nil {
				t.Errorf("%q is a key: %s", tc.text, k)
			}
			continue
		}
		if err != nil || k.String() != tc.want {
			t.Errorf("%q: %s, %v, want %s", tc.text, k, err, tc.want)
		}
		if again, err := ParseKey(k.String()); err != nil || again != k {
			t.Errorf("%q reads back as %v, %v", k, again, err)
		}
	}
}

// TestUsersAreText: a key that is listed as JSON can be given back.
func TestUsersAreText(t *testing.T) {
	for _, user := range []string{"alice", "müller", "\xff\xfe", "a\x80b", "\xc3"} {
		got := string(appendUserAt(nil, []byte(user), []byte("Example.org")))
		if !utf8.ValidString(got) {
			t.Errorf("%q becomes %q", user, got)
		}
		if k, err := ParseKey(got); err != nil || k.User != got {
			t.Errorf("%q: %v, %v", got, k, err)
		}
	}
	long := make([]byte, 1000)
	for i := range long {
		long[i] = 0xff
	}
	if got := appendUserAt(nil, long, []byte("example.org")); len(got) > maxUser {
		t.Errorf("%d bytes", len(got))
	}
}
