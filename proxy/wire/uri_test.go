package wire

import (
	"fmt"
	"testing"
)

func TestParseURI(t *testing.T) {
	cases := map[string]string{ // scheme user host port params headers transport maddr ttl lr
		"sip:b":            "sip -|b|0||",
		"sip:a@b":          "sip a|b|0||",
		"sip:@b":           "sip |b|0||",
		"SIPS:a:pw@b:5061": "sips a:pw|b|5061||",
		"sip:b:":           "sip -|b|0||",
		"sip:b:;lr":        "sip -|b|0|;lr| lr",
		"sip:[::1]":        "sip -|::1|0||",
		"sip:[2001:db8::5]:5060;transport=TCP;LR=on": "sip -|2001:db8::5|5060|;transport=TCP;LR=on| transport=TCP lr",
		"sip:p;lr;received=sip:[2001:db8::5]:5060":   "sip -|p|0|;lr;received=sip:[2001:db8::5]:5060| lr",
		"sip:h;maddr=[::1];ttl=15":                   "sip -|h|0|;maddr=[::1];ttl=15| maddr=[::1] ttl=15",
		"sip:a@b;p?X=1&Y=2":                          "sip a|b|0|;p|X=1&Y=2",
		`sip:b;x="q";transport=tls`:                  `sip -|b|0|;x="q";transport=tls| transport=tls`,
		"sip:b;transport=udp;transport=tcp":          "sip -|b|0|;transport=udp;transport=tcp| transport=udp",
		"sip:user;par=u%40x@b":                       "sip user;par=u%40x|b|0||",
		"sip:a?b/c@d":                                "sip a?b/c|d|0||",
		"sip:b?Route=%3Csip:x%3E":                    "sip -|b|0||Route=%3Csip:x%3E",
		"sip:192.0.2.1:65535":                        "sip -|192.0.2.1|65535||",
		"sip:a_b.example":                            "sip -|a_b.example|0||",
		"tel:+1-201-555-0123;phone-context=x":        "tel +1-201-555-0123||0|;phone-context=x|",
		"soap.beep://192.0.2.103:3002":               "other -||0||",
		"nobodyKnows:":                               "other -||0||",
	}
	for in, expected := range cases {
		u, ok := ParseURI([]byte(in))
		if !ok {
			t.Errorf("%s refused", in)
			continue
		}
		got := fmt.Sprintf("%v ", u.Scheme)
		if !u.HasUser {
			got += "-"
		}
		got += fmt.Sprintf("%s|%s|%d|%s|%s", u.User, u.Host, u.PortNum, u.Params, u.Headers)
		for _, p := range []struct {
			name  string
			value []byte
		}{{"transport", u.Transport}, {"maddr", u.MAddr}, {"ttl", u.TTL}} {
			if p.value != nil {
				got += fmt.Sprintf(" %s=%s", p.name, p.value)
			}
		}
		if u.LR {
			got += " lr"
		}
		want(t, in, got, expected)
	}
	for _, in := range []string{"", "b", ":b", "sip", "sip:", "sip:@", "sip:a@", "sip:a@b@c", "sip:[::1", "sip:[]", "sip:[x]",
		"sip:b:0", "sip:b:65536", "sip:b:99999999999999999999", "sip:b:5060x", "sip:b x", "sip:b/c", "tel:", "s ip:b", "sip:b,c"} {
		if _, ok := ParseURI([]byte(in)); ok {
			t.Errorf("%q accepted", in)
		}
	}
}

func TestURIParam(t *testing.T) {
	u, _ := ParseURI([]byte("sip:b;A=1;b;transport=tcp;ob;a=2"))
	v, ok := u.Param("a")
	want(t, "a", v, "1")
	want(t, "found", ok, true)
	_, ok = u.Param("OB")
	want(t, "ob", ok, true)
	_, ok = u.Param("c")
	want(t, "c", ok, false)
}

func TestParseAddr(t *testing.T) {
	for in, expected := range map[string]string{"192.0.2.1": "192.0.2.1", "::1": "::1", "[2001:DB8::1]": "2001:db8::1",
		"::ffff:1.2.3.4": "::ffff:1.2.3.4"} {
		a, ok := ParseAddr([]byte(in))
		want(t, in+" ok", ok, true)
		want(t, in, a, expected)
	}
	for _, in := range []string{"", "h", "[]", "[", "1", "1.2.3", "1.2.3.04", "1.2.3.4.5", "fe80::1%eth0", "[::1", "example.com", "a1",
		"1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa"} {
		if a, ok := ParseAddr([]byte(in)); ok {
			t.Errorf("%q gave %v", in, a)
		}
	}
	u, _ := ParseURI([]byte("sip:[::1]:5060"))
	a, ok := u.Addr()
	want(t, "URI address", fmt.Sprint(a, ok), "::1 true")
}

func TestURIDoesNotAllocate(t *testing.T) {
	in := []byte("sip:alice@[2001:db8::5]:5060;transport=tcp;lr")
	if n := testing.AllocsPerRun(100, func() {
		u, _ := ParseURI(in)
		u.Addr()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
