package wire

import (
	"strings"
	"testing"
)

// Header lines that parsers built on decoded headers are known to damage:
// each must be understood and must leave as it came.
func TestOddLinesAreUnderstoodAndKept(t *testing.T) {
	via := func(host, port, branch string) func(*testing.T, *Msg) {
		return func(t *testing.T, m *Msg) {
			want(t, "host", m.Bytes(m.TopVia.Host), host)
			want(t, "port", m.Bytes(m.TopVia.Port), port)
			want(t, "branch", m.Bytes(m.TopVia.Branch), branch)
		}
	}
	uriHost := func(k Kind, host string, lr bool) func(*testing.T, *Msg) {
		return func(t *testing.T, m *Msg) {
			uri, _, ok := NameAddrURI(m.Value(k))
			want(t, "address", ok, true)
			u, ok := ParseURI(uri)
			want(t, "URI", ok, true)
			want(t, "host", u.Host, host)
			want(t, "lr", u.LR, lr)
		}
	}
	values := func(k Kind, n int) func(*testing.T, *Msg) {
		return func(t *testing.T, m *Msg) { want(t, "values", m.CountValues(k), n) }
	}
	ruri := func(host string) func(*testing.T, *Msg) {
		return func(t *testing.T, m *Msg) {
			u, ok := ParseURI(m.Bytes(m.RURI))
			want(t, "URI", ok, true)
			want(t, "host", u.Host, host)
		}
	}
	requestURI := func(uri string) string { return strings.Replace(request(), "sip:b@example.com SIP", uri+" SIP", 1) }

	cases := map[string]struct {
		text  string
		check func(*testing.T, *Msg)
	}{
		"comma list without parameters": {with("Via: SIP/2.0/UDP a, SIP/2.0/UDP b;branch=z9hG4bK1"), via("a", "", "")},
		"space around the port colon":   {with("Via: SIP/2.0/UDP a : 5060;branch=z9hG4bK1"), via("a", "5060", "z9hG4bK1")},
		"space after the port":          {with("Via: SIP/2.0/UDP a:5060 ;branch=z9hG4bK1"), via("a", "5060", "z9hG4bK1")},
		"space around the slashes":      {with("Via: SIP / 2.0 / UDP a;branch=z9hG4bK1"), via("a", "", "z9hG4bK1")},
		"quoted Via parameter":          {with(`Via: SIP/2.0/UDP a;x="q";branch=z9hG4bK1;rport`), via("a", "", "z9hG4bK1")},
		"quoted comma in a Via":         {with(`Via: SIP/2.0/UDP a;x="q,r";branch=z9hG4bK1`), via("a", "", "z9hG4bK1")},
		"parameter names of any case":   {with("Via: SIP/2.0/UDP a;Branch=z9hG4bK1"), via("a", "", "z9hG4bK1")},
		"quoted From parameter":         {with(`From: <sip:a@b>;description="hello world";tag=2`), func(t *testing.T, m *Msg) { want(t, "tag", m.Bytes(m.From.Tag), "2") }},
		"space around a tag":            {with("From: <sip:a@b> ; tag = 2"), func(t *testing.T, m *Msg) { want(t, "tag", m.Bytes(m.From.Tag), "2") }},
		"escaped quote before a comma":  {request(`Contact: "a \", b" <sip:c@d>`), values(KindContact, 1)},
		"empty port":                    {request("Contact: <sip:b:>"), uriHost(KindContact, "b", false)},
		"IPv6 in a URI parameter":       {request("Route: <sip:p;lr;received=sip:[2001:db8::5]:5060>"), uriHost(KindRoute, "p", true)},
		"IPv6 maddr":                    {requestURI("sip:host;maddr=[::1]"), ruri("host")},
		"URI headers":                   {request("Contact: <sip:a@b;p?X=1&Y=2>"), uriHost(KindContact, "b", false)},
		"quoted URI parameter":          {requestURI("sip:host;x='q'"), ruri("host")},
		"Route parameters":              {request(`Route: "p" <sip:p;lr>;x=y`), uriHost(KindRoute, "p", true)},
		"Record-Route parameters":       {request(`Record-Route: "p" <sip:p;lr>;x=y`), uriHost(KindRecordRoute, "p", true)},
		"Refer-To parameters":           {request(`Refer-To: "p" <sip:p>;x=y`), uriHost(KindReferTo, "p", false)},
		"Route without brackets": {request("Route: sip:p1;lr"), func(t *testing.T, m *Msg) {
			uri, params, _ := NameAddrURI(m.Value(KindRoute)) // RFC 3261 20: lr is a header parameter here
			want(t, "URI", uri, "sip:p1")
			want(t, "params", params, ";lr")
		}},
		"method of mixed case": {strings.ReplaceAll(request(), "OPTIONS", "NewMethod"), func(t *testing.T, m *Msg) {
			want(t, "method", m.Bytes(m.MethodName), "NewMethod")
			want(t, "CSeq method", m.Bytes(m.CSeqMethod), "NewMethod")
		}},
		"spaces in CSeq":     {with("CSeq: 1   OPTIONS"), func(t *testing.T, m *Msg) { want(t, "method", m.CSeqMethodID, OPTIONS) }},
		"empty Record-Route": {request("Record-Route:"), values(KindRecordRoute, 0)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m := mustScan(t, c.text)
			c.check(t, m)
			var e Edit
			e.Reset(m)
			e.SetMaxForwards(69)
			want(t, "forwarded", strings.Replace(string(e.AppendTo(nil)), "Max-Forwards: 69\r\n", "", 1), c.text)
		})
	}
}

// Inputs built to make a scanner work in squares; all take a moment at most.
func TestHostileSizesAreLinear(t *testing.T) {
	long := func(unit string) string { return strings.Repeat(unit, 60000/len(unit)) }
	for name, text := range map[string]string{
		"quotes in a parameter":  with("From: <sip:a@b>;x=" + long(`"" `)),
		"semicolons":             with("To: <sip:a@b>" + long(";")),
		"commas":                 request("Route: " + long(",")),
		"commas, then values":    request("Route: " + long(",")[:30000] + long("a,")[:30000]),
		"values":                 request("Route: " + long("<a>,")),
		"folds":                  request("Subject: a" + long("\r\n ")),
		"bare LFs":               request("Subject: " + long("\n")),
		"bare CRs":               request("Subject: " + long("\r")),
		"brackets":               request("Contact: " + long("<")),
		"closed brackets":        request("Contact: " + long("<>")),
		"open quotes":            request("Contact: " + long(`"\`)),
		"Vias":                   with("Via: SIP/2.0/UDP h" + long(",SIP/2.0/UDP h")),
		"Via parameters":         with("Via: SIP/2.0/UDP h" + long(";a")),
		"white space":            with("To: " + long(" ") + "<sip:a@b>"),
		"long Request-URI":       strings.Replace(request(), "sip:b", "sip:"+long("b"), 1),
		"long method":            strings.ReplaceAll(request(), "OPTIONS", long("M")[:30000]),
		"long header name":       request(long("N") + ": x"),
		"long name, no colon":    request(long("N")),
		"digits":                 request("Content-Length: " + long("0")),
		"CSeq digits":            with("CSeq: " + long("9") + " OPTIONS"),
		"space before the colon": request("X" + long(" ") + ": x"),
	} {
		t.Run(name, func(t *testing.T) {
			var m Msg
			m.Scan([]byte(text), false)
			checkSpans(t, &m)
			for _, k := range []Kind{KindVia, KindRoute, KindContact} {
				m.CountValues(k)
				var e Edit
				e.Reset(&m)
				e.DeleteFirst(k, 1<<30)
			}
			Param([]byte(text), "x")
			HasToken([]byte(text), []byte("x"))
		})
	}
}
