package dialog

import (
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

func TestRoutesAreCutWhereTheWireCutsThem(t *testing.T) {
	for _, list := range []string{
		`<sip:a;lr>`,
		`<sip:a;lr>, <sip:b;lr>, <sip:c;lr>`,
		`"a, b" <sip:a;lr>, <sip:b>`,
		`"a\\" <sip:a>, "b" <sip:b>`,
		`"a\", <sip:x>" <sip:a>, <sip:b>`,
		`<sip:a"b@h>, "c" <sip:d>`,
		`<sip:a<b>, <sip:c>`,
		`sip:a;x="1,2", <sip:b>`,
		"<sip:a;lr>\r\n ;x=y, <sip:b>",
	} {
		m := new(wire.Msg)
		m.Scan([]byte("BYE sip:x SIP/2.0\r\nRoute: "+list+"\r\n\r\n"), false)
		it := m.Values(wire.KindRoute)
		rest := []byte(list)
		for {
			v, ok := it.Next()
			if !ok {
				break
			}
			var first []byte
			if first, rest = cutRoute(rest); string(first) != string(m.Bytes(v.Span)) {
				t.Errorf("%s: %q, want %q", list, first, m.Bytes(v.Span))
			}
		}
		if len(rest) > 0 {
			t.Errorf("%s: %q is left", list, rest)
		}
	}
}

func TestRequestURIAndRoute(t *testing.T) {
	for _, c := range []struct{ name, routes, ruri, route, next string }{
		{"no Route", "", "sip:t@h", "", "sip:t@h"},
		{"loose router", "<sip:a;lr>, <sip:b>", "sip:t@h", "<sip:a;lr>, <sip:b>", "sip:a;lr"},
		{"strict router", "<sip:a>, <sip:b;lr>", "sip:a", "<sip:b;lr>, <sip:t@h>", "sip:a"},
		{"one strict router", `"n" <sip:a;x>;y`, "sip:a;x", "<sip:t@h>", "sip:a;x"},
		{"strict router with headers", "<sip:a?h=v>", "sip:a", "<sip:t@h>", "sip:a"},
		{"what cannot stand in a start line", "<sip:a\r\n ;x>", "sip:t@h", "<sip:a\r\n ;x>", "sip:a\r\n ;x"},
		{"no URI", "<urn:x>", "sip:t@h", "<urn:x>", "urn:x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ruri, route, next := routed([]byte("sip:t@h"), []byte(c.routes))
			if string(ruri) != c.ruri || string(route) != c.route || string(next) != c.next {
				t.Errorf("%q, Route %q, next %q", ruri, route, next)
			}
		})
	}
}

func TestStartLineURI(t *testing.T) {
	for uri, want := range map[string]string{
		"sip:a@h":           "sip:a@h",
		"sips:a@h:5061;x=y": "sips:a@h:5061;x=y",
		"sip:a?b@h":         "sip:a?b@h",
		"sip:a@h?Route=x":   "sip:a@h",
		"sip:a?b@h;x?c=d?e": "sip:a?b@h;x",
		"sip:a@h?":          "sip:a@h?",
		"tel:+1":            "",
		"*":                 "",
		"":                  "",
		"sip:a b@h":         "",
		"sip:a\r\n b@h":     "",
		"sip:a\x00b@h":      "",
		"sip:a<b@h":         "",
		"sip:a\"b@h":        "",
		"sip:a\x7f@h":       "",
	} {
		got, ok := startLineURI([]byte(uri))
		if ok != (want != "") || string(got) != want {
			t.Errorf("%q: %q, %v", uri, got, ok)
		}
	}
}

// The texts of the endpoints are in what the edge sends; that it has no forged line
// is checked by the lab for each request.
func TestFoldedAndOddTextsStayInTheirLines(t *testing.T) {
	for name, lines := range map[string]string{
		"folded Contact":      "Contact: \"A\r\n B\" <sip:alice@192.0.2.1>\r\n ;x=\"y\r\n z\"\r\n",
		"folded Record-Route": "Record-Route: <sip:p1;lr>\r\n ;a=b\r\n\t, <sip:p2;lr>,\r\n <sip:p3>\r\n",
		"folds of nothing":    "Contact: <sip:alice@192.0.2.1>\r\n \r\n \r\nX: y\r\n",
		"folded abilities":    "Allow: INVITE,\r\n UPDATE\r\nAllow: BYE\r\nSupported: a\r\n b,\r\n timer\r\n",
		"escaped line break":  "Contact: \"x\\\r\n Via: y\" <sip:alice@192.0.2.1>\r\n",
		"strict router":       "Record-Route: <sip:p1>\r\n , \"q, \\\" \" <sip:p2;lr>\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, func(p *timers.Policy) { p.MaxCall = 400 * time.Second })
			if !strings.Contains(lines, "Supported") {
				lines += labTimer
			}
			if strings.Contains(lines, "Contact") {
				lines = strings.Replace(lines, "X: y\r\n", "", 1)
			}
			l.opensWith(lines)
			if strings.Contains(lines, "Record-Route") {
				lines += "Record-Route: <sip:edge@h;lr>\r\n"
			}
			l.answers("tb", lines)
			l.acks("tb")
			l.until(402 * time.Second)
			for _, to := range [2]Leg{A, B} {
				l.next(to, wire.BYE)
			}
			if len(l.acts) != 2 {
				t.Errorf("%d probes", len(l.acts))
			}
		})
	}
}

// Whoever answers with the Record-Routes of others and without ours has changed what we
// wrote. A probe that leaves out those behind us would be told that there is no such dialog.
func TestCalleeWithoutOurRouteIsNotAsked(t *testing.T) {
	for _, x := range []struct {
		name, lines string
		asked       bool
	}{
		{"ours", "Record-Route: <sip:p1;lr>, <sip:edge@h;lr>\r\n", true},
		{"none", "", true},
		{"only others", "Record-Route: <sip:p1;lr>, <sip:changed@h;lr>\r\n", false},
	} {
		t.Run(x.name, func(t *testing.T) {
			l := newLab(t, func(p *timers.Policy) { p.MaxCall = 400 * time.Second })
			l.talks(labTimer+labUpdate, labTimer+labUpdate+x.lines)
			l.until(399 * time.Second)
			if asked := len(l.acts) > 0; asked != x.asked {
				t.Errorf("%d probes", len(l.acts))
			}
			l.acts = nil
			l.until(402 * time.Second)
			for _, to := range [2]Leg{A, B} {
				l.next(to, wire.BYE)
			}
		})
	}
}

func TestProbeSaysWhatTheLegBelieves(t *testing.T) {
	l := newLab(t)
	d := l.talks(labTimer+labUpdate, labUpdate+"Supported: 100rel\r\n") // row 2 of the table: only A has a timer
	l.until(400 * time.Second)
	b, a := l.next(B, wire.UPDATE), l.next(A, wire.UPDATE)
	if m := l.sent(&b); m.First(wire.KindSessionExpires) >= 0 || m.First(wire.KindMinSE) >= 0 ||
		string(m.Value(wire.KindSupported)) != "timer" || string(m.Value(wire.KindContact)) != labCaller {
		t.Errorf("%s", m.Buf)
	}
	m := l.sent(&a)
	if string(m.Value(wire.KindSessionExpires)) != "600;refresher=uas" || string(m.Value(wire.KindSupported)) != "100rel, timer" ||
		string(m.Value(wire.KindContact)) != labCallee || string(m.Bytes(m.RURI)) != "sip:alice@192.0.2.1" || m.CSeq != 1 {
		t.Errorf("%s", m.Buf)
	}
	if m := l.sent(&b); m.CSeq != 2 || d.seq[A].Highest() != 2 {
		t.Errorf("%s", m.Buf)
	}
}
