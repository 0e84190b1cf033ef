package security

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// A Source is what is counted and banned as one sender: an IPv4 address or an IPv6
// /64, the smallest prefix that one customer holds. The zero Source is none.
//
// It is one word, so that tables of millions hold no pointers: the upper half of an
// IPv6 address as it is, an IPv4 address under a prefix of the multicast range,
// from which no packet can come.
type Source uint64

const (
	mark4 = 0xff00_0001 << 32 // above an IPv4 address
	mask4 = 0xffff_ffff << 32
	// none6 stands for the prefix ::/64, whose number would be the zero Source.
	none6 = 0xff00_0002 << 32
	// translated is the upper half of the well-known prefix of translators (RFC 6052 2.1):
	// an edge without IPv4 sees all IPv4 clients below it, whose ban would be everybody's.
	translated = 0x0064_ff9b << 32
)

// SourceOf is the source that an address belongs to. A v4-mapped or translated address is
// an IPv4 one; a zone does not count: all links' fe80::/64 is one source.
func SourceOf(a netip.Addr) Source {
	switch {
	case a.Is4():
		b := a.As4()
		return mark4 | Source(binary.BigEndian.Uint32(b[:]))
	case a.Is4In6():
		return SourceOf(a.Unmap())
	case a.Is6():
		b := a.As16()
		switch n := Source(binary.BigEndian.Uint64(b[:])); {
		case n == 0:
			return none6
		case n == translated && binary.BigEndian.Uint32(b[8:]) == 0:
			return mark4 | Source(binary.BigEndian.Uint32(b[12:]))
		default:
			return n
		}
	}
	return 0
}

// Is4 tells an IPv4 address from an IPv6 prefix.
func (s Source) Is4() bool { return s&mask4 == mark4 }

// IsZero tells whether it is none.
func (s Source) IsZero() bool { return s == 0 }

// Prefix is the network that the source is: /32 or /64.
func (s Source) Prefix() netip.Prefix {
	if s == 0 {
		return netip.Prefix{}
	}
	if s.Is4() {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(s))
		return netip.PrefixFrom(netip.AddrFrom4(b), 32)
	}
	var b [16]byte
	if s != none6 {
		binary.BigEndian.PutUint64(b[:], uint64(s))
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

// String is the address of an IPv4 source, the prefix of an IPv6 one.
func (s Source) String() string {
	p := s.Prefix()
	if s.Is4() {
		return p.Addr().String()
	}
	return p.String()
}

// A Key is what a ban is about: a source, a user (user@domain, the domain in lower
// case), or, with both, a user at a source.
type Key struct {
	User   string
	Source Source
}

// maxUser bounds the user of a key, in bytes.
const maxUser = 256

// String is how operators write it: 192.0.2.1, 2001:db8:1:2::/64, alice@example.org,
// or alice@example.org/192.0.2.1.
func (k Key) String() string {
	switch {
	case k.User == "":
		return k.Source.String()
	case k.Source == 0:
		return k.User
	}
	return k.User + "/" + k.Source.String()
}

var errNoKey = errors.New("want an IP address, user@domain, or user@domain/address")

// ParseKey reads what String writes. Any address of an IPv6 /64 means the prefix;
// a prefix of another length is refused, for a ban has exactly one source.
func ParseKey(text string) (Key, error) {
	text = strings.TrimSpace(text)
	if s, err := parseSource(text); err == nil {
		return Key{Source: s}, nil
	} else if !strings.Contains(text, "@") {
		return Key{}, err
	}
	user, at, both := text, "", false
	for i := strings.LastIndexByte(text, '@') + 1; i < len(text); i++ {
		if text[i] == '/' {
			user, at, both = text[:i], text[i+1:], true
			break
		}
	}
	i := strings.LastIndexByte(user, '@')
	if i <= 0 || i == len(user)-1 || len(user) > maxUser {
		return Key{}, errNoKey
	}
	k := Key{User: user[:i] + strings.ToLower(user[i:])}
	if !both {
		return k, nil
	}
	var err error
	k.Source, err = parseSource(at)
	return k, err
}

func parseSource(text string) (Source, error) {
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil && a.Zone() == "" { // a zone could be "1@example.org"
		return SourceOf(a), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return 0, errNoKey
	}
	s := SourceOf(p.Addr().WithZone(""))
	if p.Addr().Is6() && s.Is4() && p.Bits() == 64 {
		s = translated // listed so when somebody has no IPv4 address behind the prefix
	}
	if p.Bits() != s.Prefix().Bits() || p.Addr().Is4() != s.Is4() {
		return 0, fmt.Errorf("%s: a ban is of one IPv4 address or one IPv6 /64", text)
	}
	return s, nil
}
