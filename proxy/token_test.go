package proxy

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/binding"
	"github.com/sipward/sipward/proxy/wire"
)

// places are flows that a token can bind.
var places = []dialog.Flow{
	{Remote: netip.MustParseAddrPort("0.0.0.0:0")},
	{Listener: 1, Remote: netip.MustParseAddrPort("192.0.2.1:5060")},
	{Listener: 254, Remote: netip.MustParseAddrPort("255.255.255.255:65535")},
	{Remote: netip.MustParseAddrPort("[2001:db8::1]:5060")},
	{Proto: wire.TCP, Listener: dialled, Remote: netip.MustParseAddrPort("192.0.2.1:49152"), Conn: 1},
	{Proto: wire.TLS, Listener: 3, Remote: netip.MustParseAddrPort("[2001:db8::1]:49152"), Conn: math.MaxUint64},
	{Proto: wire.WSS, Remote: netip.MustParseAddrPort("192.0.2.1:49152"), Conn: 9},
}

var tokens = []token{
	{flow: places[0]},
	{flow: places[1], face: outerFace, backend: 7},
	{flow: places[2], face: innerFace, backend: math.MaxUint32, caller: math.MaxUint32, call: math.MaxUint64, isCallee: true},
	{flow: places[3], backend: 7},
	{flow: places[4], backend: 7},
	{flow: places[5], face: outerFace, backend: 7},
	{flow: places[6]},
}

// flowTokens are those of Path and Contact.
func flowTokens() (all []flowToken) {
	for i, p := range places {
		all = append(all, flowToken{flow: p, binding: binding.ID(i + 1)},
			flowToken{flow: p, binding: math.MaxUint64, contact: []byte("sip:alice@192.168.1.20:5060;transport=udp;ob")},
			flowToken{flow: p, binding: 1, contact: bytes.Repeat([]byte("x"), maxTokenContact)})
	}
	return all
}

func TestTokenRoundTrip(t *testing.T) {
	k := newTokenKey([]byte("secret"))
	for _, x := range tokens {
		v := k.append([]byte("x"), x)[1:]
		if got, ok := k.parse(v); !ok || got != x {
			t.Errorf("%+v came back as %+v, %v", x, got, ok)
		}
		if !isTokenText(v) { // it is a user part
			t.Errorf("%s is not recognised", v)
		}
		if _, ok := k.parseFlow(v); ok {
			t.Errorf("%s passes for one of a Path", v)
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
	got, ok := k.parse(k.append(nil, token{flow: dialog.Flow{Remote: netip.MustParseAddrPort("[::ffff:192.0.2.1]:5060")}}))
	if !ok || got.flow.Remote != netip.MustParseAddrPort("192.0.2.1:5060") {
		t.Errorf("%v, %v", got.flow.Remote, ok)
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

func TestFlowTokenRoundTrip(t *testing.T) {
	k := newTokenKey([]byte("secret"))
	for _, x := range flowTokens() {
		v := k.appendFlow([]byte("x"), x)[1:]
		got, ok := k.parseFlow(v)
		if !ok || got.flow != x.flow || got.binding != x.binding || !bytes.Equal(got.contact, x.contact) {
			t.Errorf("%+v came back as %+v, %v", x, got, ok)
		}
		if !isTokenText(v) {
			t.Errorf("%s is not recognised", v)
		}
		if _, ok := k.parse(v); ok {
			t.Errorf("%s passes for one of a Record-Route", v)
		}
		if _, ok := newTokenKey([]byte("Secret")).parseFlow(v); ok {
			t.Error("another secret accepts it")
		}
		if len(v) > 200 {
			t.Errorf("%d bytes are too long for some registrars", len(v))
		}
		for i := range v {
			for bit := range 8 {
				bad := bytes.Clone(v)
				bad[i] ^= 1 << bit
				if _, ok := k.parseFlow(bad); ok {
					t.Fatalf("%s is accepted for %s", bad, v)
				}
			}
			if _, ok := k.parseFlow(v[:i]); ok {
				t.Fatalf("%d bytes of %d are accepted", i, len(v))
			}
		}
	}
	long := k.appendFlow(nil, flowToken{flow: places[1], binding: 5, contact: bytes.Repeat([]byte("x"), maxTokenContact+1)})
	if got, ok := k.parseFlow(long); !ok || got.contact != nil || got.binding != 5 {
		t.Errorf("a long contact is left to the table: %+v, %v", got, ok)
	}
}

// A letter and its escape are the same (RFC 3261 19.1.4). Twinkle escapes each Z of a Record-Route.
func TestEscapedLettersOfAToken(t *testing.T) {
	k := newTokenKey([]byte("secret"))
	escaped := func(v []byte, which string, format string) (s []byte) {
		for _, c := range v {
			if which == "" || bytes.IndexByte([]byte(which), c) >= 0 {
				s = fmt.Appendf(s, format, c)
				continue
			}
			s = append(s, c)
		}
		return s
	}
	for _, as := range []struct{ letters, format string }{{"Z", "%%%02x"}, {"-_", "%%%02X"}, {"s", "%%%02X"}, {"", "%%%02x"}} {
		for _, x := range tokens {
			v := escaped(k.append(nil, x), as.letters, as.format)
			if got, ok := k.parse(v); !ok || got != x || !isTokenText(v) {
				t.Errorf("%s is %+v, %v, and not %+v", v, got, ok, x)
			}
		}
		for _, x := range flowTokens() {
			v := escaped(k.appendFlow(nil, x), as.letters, as.format)
			if got, ok := k.parseFlow(v); !ok || got.binding != x.binding || !isTokenText(v) {
				t.Errorf("%s is %+v, %v, and not %+v", v, got, ok, x)
			}
		}
	}
	v := k.append(nil, tokens[0])
	for _, end := range []string{"%", "%4", "%4g", "%25", "%41", "%00", "%0d%0a", strings.Repeat("%41", 1000)} {
		if got, ok := k.parse(append(bytes.Clone(v), end...)); ok {
			t.Errorf("with %q at its end it is %+v", end, got)
		}
	}
	if bad := bytes.Replace(v, []byte("sw-"), []byte("sw%252d"), 1); isTokenText(bad) {
		t.Errorf("%s is undone twice", bad)
	}
}

func TestWhatLooksLikeAToken(t *testing.T) {
	for text, want := range map[string]bool{
		"alice": false, "sw-john": false, "sw-0123456789abcdefghijk": false, "sw-0123456789abcdefghijklmn": true,
		"sw-%30123456789abcdefghijklmn": true, "sw-%2E123456789abcdefghijklmn": false, "sw-0123456789abcdefghijkl%6": false,
		"SW-0123456789abcdefghijklmn": false, "sw-0123456789abcdefghijkl.n": false, "sw-0123456789abcdefghijkl=n": false, "": false,
	} {
		if got := isTokenText([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzToken(f *testing.F) {
	k := newTokenKey([]byte("secret"))
	for _, x := range tokens {
		f.Add(k.append(nil, x))
	}
	for _, x := range flowTokens() {
		f.Add(k.appendFlow(nil, x))
	}
	f.Add([]byte("alice"))
	f.Add(bytes.ReplaceAll(k.append(nil, tokens[1]), []byte("A"), []byte("%41")))
	f.Fuzz(func(t *testing.T, v []byte) {
		x, ok := k.parse(v)
		y, isFlow := k.parseFlow(v)
		claims := isTokenText(v)
		v = plainText(v)
		if ok && !bytes.Equal(k.append(nil, x), v) {
			t.Errorf("%q is a second spelling of %+v", v, x)
		}
		if isFlow && !bytes.Equal(k.appendFlow(nil, y), v) {
			t.Errorf("%q is a second spelling of %+v", v, y)
		}
		if ok && isFlow || (ok || isFlow) && !claims {
			t.Errorf("%q is of both kinds, or of none", v)
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
