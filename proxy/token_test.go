package proxy

import (
	"bytes"
	"math"
	"net/netip"
	"testing"

	"github.com/sipward/sipward/proxy/wire"
)

var tokens = []token{
	{remote: netip.MustParseAddrPort("0.0.0.0:0")},
	{face: outerFace, listener: 1, remote: netip.MustParseAddrPort("192.0.2.1:5060"), backend: 7},
	{face: innerFace, listener: 255, remote: netip.MustParseAddrPort("255.255.255.255:65535"), backend: math.MaxUint32},
	{remote: netip.MustParseAddrPort("[2001:db8::1]:5060"), backend: 7},
	{proto: wire.TCP, remote: netip.MustParseAddrPort("192.0.2.1:49152"), conn: 1, backend: 7},
	{proto: wire.TLS, face: outerFace, listener: 3, remote: netip.MustParseAddrPort("[2001:db8::1]:49152"), conn: math.MaxUint64, backend: 7},
	{proto: wire.WSS, remote: netip.MustParseAddrPort("192.0.2.1:49152"), conn: 9},
}

func TestTokenRoundTrip(t *testing.T) {
	k := newTokenKey([]byte("secret"))
	for _, x := range tokens {
		v := k.append([]byte("x"), x)[1:]
		if got, ok := k.parse(v); !ok || got != x {
			t.Errorf("%+v came back as %+v, %v", x, got, ok)
		}
		for _, c := range v { // it is a user part
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				t.Errorf("%q in %s", c, v)
			}
		}
		if _, ok := newTokenKey([]byte("Secret")).parse(v); ok {
			t.Error("another secret accepts it")
		}
		if got, ok := newTokenKey([]byte("secret")).parse(v); !ok || got != x {
			t.Error("the same secret in another process does not accept it")
		}
	}
}

func TestTokenHoldsMappedAddressesAsIPv4(t *testing.T) {
	k := newTokenKey(nil)
	got, ok := k.parse(k.append(nil, token{remote: netip.MustParseAddrPort("[::ffff:192.0.2.1]:5060")}))
	if !ok || got.remote != netip.MustParseAddrPort("192.0.2.1:5060") {
		t.Errorf("%v, %v", got.remote, ok)
	}
}

func TestEveryBitOfATokenCounts(t *testing.T) {
	k := newTokenKey([]byte("secret"))
	for _, x := range tokens {
		v := k.append(nil, x)
		for i := range v {
			for bit := range 8 {
				bad := bytes.Clone(v)
				bad[i] ^= 1 << bit
				if got, ok := k.parse(bad); ok {
					t.Fatalf("%s is accepted for %s: %+v", bad, v, got)
				}
			}
		}
		for n := range v {
			if _, ok := k.parse(v[:n]); ok {
				t.Fatalf("%d bytes of %d are accepted", n, len(v))
			}
		}
		for _, more := range []string{"A", "AAAA", "=", "\n", "\r\n", "\n\n\n\n"} {
			if _, ok := k.parse(append(bytes.Clone(v), more...)); ok {
				t.Fatalf("%q more is accepted", more)
			}
		}
	}
	for _, v := range []string{"", "a", "alice", "bob.smith", string(bytes.Repeat([]byte("A"), 1000)), string(bytes.Repeat([]byte("\n"), 54))} {
		if _, ok := k.parse([]byte(v)); ok {
			t.Errorf("%q is accepted", v)
		}
	}
}

func FuzzToken(f *testing.F) {
	k := newTokenKey([]byte("secret"))
	for _, x := range tokens {
		f.Add(k.append(nil, x))
	}
	f.Add([]byte("alice"))
	f.Fuzz(func(t *testing.T, v []byte) {
		x, ok := k.parse(v)
		if ok && !bytes.Equal(k.append(nil, x), v) {
			t.Errorf("%q is a second spelling of %+v", v, x)
		}
	})
}

func BenchmarkToken(b *testing.B) {
	k, dst := newTokenKey([]byte("secret")), make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		dst = k.append(dst[:0], tokens[5])
		if _, ok := k.parse(dst); !ok {
			b.Fatal("refused")
		}
	}
}
