package resolve

import (
	"strings"
	"testing"

	"github.com/sipward/sipward/proxy/wire"
)

func TestQueryOfAURI(t *testing.T) {
	for _, c := range []struct {
		uri  string
		want Query
	}{
		{"sip:example.org", Query{Host: "example.org"}},
		{"sip:alice@EXAMPLE.org.", Query{Host: "example.org"}},
		{"sip:example.org:5080", Query{Host: "example.org", Port: 5080}},
		{"sip:example.org;transport=TcP", Query{Host: "example.org", Proto: wire.TCP, HasProto: true}},
		{"sip:example.org;transport=tls", Query{Host: "example.org", Proto: wire.TLS, HasProto: true}},
		{"sip:example.org;maddr=192.0.2.9;transport=udp", Query{Host: "192.0.2.9", HasProto: true}},
		{"sip:alice@[2001:DB8::1]:5070", Query{Host: "2001:db8::1", Port: 5070}},
		{"sips:example.org", Query{Host: "example.org", Secure: true}},
		{"sips:example.org;transport=tcp", Query{Host: "example.org", Proto: wire.TLS, HasProto: true, Secure: true}},
		{"sips:example.org;transport=ws", Query{Host: "example.org", Proto: wire.WSS, HasProto: true, Secure: true}},
		{"sip:_private.example.org", Query{Host: "_private.example.org"}},
	} {
		if got := query(t, c.uri); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.uri, got, c.want)
		}
	}
}

func TestURIsThatLeadNowhere(t *testing.T) {
	long := strings.Repeat("a", 64)
	for _, u := range []wire.URI{
		{Scheme: wire.Tel, User: []byte("+4930123")},
		{Scheme: wire.SIP},
		{Scheme: wire.SIP, Host: []byte("a..b")},
		{Scheme: wire.SIP, Host: []byte("ex ample.org")},
		{Scheme: wire.SIP, Host: []byte(long + ".org")},
		{Scheme: wire.SIP, Host: []byte(strings.Repeat("abcdefg.", 40))},
		{Scheme: wire.SIP, Host: []byte("example.org"), Transport: []byte("sctp")},
		{Scheme: wire.SIPS, Host: []byte("example.org"), Transport: []byte("udp")},
	} {
		if q, ok := QueryOf(u); ok {
			t.Errorf("%+v makes %+v", u, q)
		}
	}
}

func TestIPAddressesNeedNoLookup(t *testing.T) {
	r := New(Options{Servers: []string{"127.0.0.1:1"}})
	defer r.Close()
	for _, c := range []struct{ uri, want string }{
		{"sip:192.0.2.1", "udp 192.0.2.1:5060"},
		{"sip:192.0.2.1:5070;transport=tcp", "tcp 192.0.2.1:5070"},
		{"sip:192.0.2.1;transport=tls", "tls 192.0.2.1:5061"},
		{"sips:192.0.2.1", "tls 192.0.2.1:5061"},
		{"sip:[2001:db8::1]", "udp [2001:db8::1]:5060"},
		{"sip:[::ffff:192.0.2.1]", "udp 192.0.2.1:5060"},
	} {
		targets, ok := r.Cached(query(t, c.uri))
		if !ok || show(targets) != c.want {
			t.Errorf("%s: %s, want %s", c.uri, show(targets), c.want)
		}
	}
}
