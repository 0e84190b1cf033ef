package wire

import "testing"

func TestNameAddrURI(t *testing.T) {
	cases := []struct {
		in, uri, params string
		ok              bool
	}{
		{"<sip:a@b>", "sip:a@b", "", true},
		{" <sip:a@b;lr> ; x = 1 ", "sip:a@b;lr", "; x = 1", true},
		{"sip:a@b;tag=1", "sip:a@b", ";tag=1", true},
		{"sip:a@b", "sip:a@b", "", true},
		{`"a <b> \" ;" <sip:a@b>;tag=1`, "sip:a@b", ";tag=1", true},
		{"a b c<sip:a@b>", "sip:a@b", "", true},
		{"Bell, A <sip:a@b>;tag=1", "sip:a@b", ";tag=1", true},
		{"< sip:a@b >", "sip:a@b", "", true},
		{`sip:a@b;x="<";tag=1`, "sip:a@b", `;x="<";tag=1`, true},
		{"<sip:a@b;x=\"q\">", `sip:a@b;x="q"`, "", true},
		{"<sip:[2001:db8::1]:5060;lr>", "sip:[2001:db8::1]:5060;lr", "", true},
		{"\"a\"\r\n <sip:a@b>\r\n ;q=0.5", "sip:a@b", ";q=0.5", true},
		{"*", "*", "", true},
		{"", "", "", false},
		{"   ", "", "", false},
		{"<>", "", "", false},
		{"<sip:a@b", "", "", false},
		{`"a <sip:a@b>`, "", "", false},
		{`"a" sip:a@b`, "", "", false},
		{"<sip:a@b>x", "", "", false},
		{";tag=1", "", "", false},
	}
	for _, c := range cases {
		uri, params, ok := NameAddrURI([]byte(c.in))
		want(t, c.in+" ok", ok, c.ok)
		if ok {
			want(t, c.in+" uri", uri, c.uri)
			want(t, c.in+" params", params, c.params)
		}
	}
}

func TestParam(t *testing.T) {
	const params = `;A = 1 ; b;c="x;d=\"y";E=;f=g=h;a=2; reg-id`
	cases := []struct {
		name, value string
		found       bool
	}{
		{"a", "1", true}, {"B", "", true}, {"c", `"x;d=\"y"`, true}, {"d", "", false}, {"e", "", true},
		{"f", "g=h", true}, {"reg-id", "", true}, {"", "", false}, {"x", "", false},
	}
	for _, c := range cases {
		value, found := Param([]byte(params), c.name)
		want(t, c.name+" found", found, c.found)
		want(t, c.name, value, c.value)
	}
	for _, bad := range []string{"", "a=1", `;x="open;a=1`, " "} {
		_, found := Param([]byte(bad), "a")
		want(t, bad, found, false)
	}
}

// A tag ends at the ';', whatever it holds: it is compared, never understood.
func TestTagWithEqualSigns(t *testing.T) {
	m := mustScan(t, with("From: <sip:a@example.com>;tag==9ansfi3", "To: <sip:b@example.com>;x=y;tag=YWJj=="))
	want(t, "From tag", m.Bytes(m.From.Tag), "=9ansfi3")
	want(t, "To tag", m.Bytes(m.To.Tag), "YWJj==")
}
