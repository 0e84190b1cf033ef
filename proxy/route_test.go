package proxy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// decided says in words what decide makes of a request.
func (l *lab) decided(from *peer, method, uri, toTag string, routes ...string) string {
	l.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bKx\r\n", method, uri, from.addr)
	for _, r := range routes {
		b.WriteString("Route: " + r + "\r\n")
	}
	if toTag != "" {
		toTag = ";tag=" + toTag
	}
	fmt.Fprintf(&b, "Max-Forwards: 70\r\nFrom: <sip:a@b>;tag=a\r\nTo: <sip:b@c>%s\r\nCall-ID: c\r\nCSeq: 1 %s\r\nContent-Length: 0\r\n\r\n", toTag, method)
	w := l.e.scratch()
	defer l.e.release(w)
	if f := w.msg.Scan([]byte(l.named(b.String())), false); f != wire.NoFault {
		l.Fatal(f)
	}
	r, rej := l.e.decide(w, l.e.snap.Load(), from.flow())
	if rej.status != 0 {
		return fmt.Sprint(rej.status, " ", rej.reason)
	}
	s := ""
	switch r.kind {
	case toPool:
		s = "pool " + r.pool.Name()
		if r.only {
			s = "only " + r.pinned.Name()
		}
	case toFlow:
		s = "flow " + r.flow.Remote().String()
	case toDirect:
		s = "to " + r.targets[0].Addr.String()
	case toName:
		s = "name " + r.query.Host
	}
	if r.popped > 0 {
		s += fmt.Sprintf(", %d routes off", r.popped)
	}
	if r.strictRURI {
		s += ", repaired"
	}
	if r.strictNext {
		s += ", strict next"
	}
	return l.plain2(s)
}

func (l *lab) plain2(s string) string {
	for name, a := range map[string]netip.AddrPort{"PHONE": l.phone.addr, "PBX1": l.pbx[0].addr, "PBX2": l.pbx[1].addr} {
		s = strings.ReplaceAll(s, a.String(), name)
	}
	return s
}

func TestDecide(t *testing.T) {
	const inner, outer = "<sip:<inner>@EDGE2;lr>", "<sip:<outer>@EDGE1;lr>"
	cases := []struct {
		name, from, method, uri, tag string
		routes                       []string
		want                         string
	}{
		{"a new call from outside", "PHONE", "INVITE", "sip:bob@example.org", "", nil, "pool pbx"},
		{"whatever its Request-URI says", "PHONE", "INVITE", "sip:bob@192.0.2.1:99", "", nil, "pool pbx"},
		{"a tel URI", "PHONE", "INVITE", "tel:+4930", "", nil, "pool pbx"},
		{"for the edge itself", "PHONE", "INVITE", "sip:bob@EDGE1", "", nil, "pool pbx"},
		{"OPTIONS for the edge", "PHONE", "OPTIONS", "sip:EDGE1", "", nil, "200 OK"},
		{"OPTIONS for a user", "PHONE", "OPTIONS", "sip:bob@EDGE1", "", nil, "pool pbx"},
		{"OPTIONS for another host", "PHONE", "OPTIONS", "sip:example.org", "", nil, "pool pbx"},
		{"a preloaded Route to us", "PHONE", "INVITE", "sip:bob@example.org", "", []string{"<sip:EDGE1;lr>"}, "pool pbx, 1 routes off"},
		{"a preloaded Route to us by a name we do not know", "PHONE", "INVITE", "sip:bob@example.org", "", []string{"<sip:sip.example.net;lr>"}, "pool pbx, 1 routes off"},
		{"two of them", "PHONE", "INVITE", "sip:bob@example.org", "", []string{"<sip:a.example.net;lr>, <sip:b.example.net;lr>"}, "403 Route Not Allowed"},
		{"a preloaded Route elsewhere", "PHONE", "INVITE", "sip:bob@example.org", "", []string{"<sip:192.0.2.1;lr>"}, "403 Route Not Allowed"},
		{"after ours", "PHONE", "INVITE", "sip:bob@example.org", "", []string{"<sip:EDGE1;lr>", "<sip:192.0.2.1;lr>"}, "403 Route Not Allowed"},
		{"a preloaded Route to a backend", "PHONE", "INVITE", "sip:bob@example.org", "", []string{"<sip:EDGE1;lr>", "<sip:PBX2;lr>"}, "to PBX2, 1 routes off"},
		{"in a call, to the PBX", "PHONE", "BYE", "sip:bob@PBX1", "b", []string{outer, inner}, "to PBX1, 2 routes off"},
		{"to its Contact elsewhere: the backend of the token", "PHONE", "BYE", "sip:bob@192.0.2.1", "b", []string{outer, inner}, "only pbx1, 2 routes off"},
		{"to a port of its host that is no backend", "PHONE", "BYE", "sip:bob@127.0.0.1:9", "b", []string{outer, inner}, "only pbx1, 2 routes off"},
		{"in a call, a strict router before us", "PHONE", "BYE", "sip:<outer>@EDGE1;lr", "b", []string{inner, "<sip:bob@PBX1>"}, "to PBX1, 1 routes off, repaired"},
		{"in a call, without Route", "PHONE", "BYE", "sip:bob@PBX1", "b", nil, "to PBX1"},
		{"in a call, without Route, elsewhere", "PHONE", "BYE", "sip:bob@192.0.2.1", "b", nil, "pool pbx"},
		{"in a call, without Route, to a port that is no backend", "PHONE", "BYE", "sip:bob@127.0.0.1:9", "b", nil, "pool pbx"},
		{"in a call, with a foreign Route", "PHONE", "BYE", "sip:bob@PBX1", "b", []string{"<sip:192.0.2.1;lr>"}, "403 Forbidden"},
		{"in a call, with a Route to a port that is no backend", "PHONE", "BYE", "sip:bob@PBX1", "b", []string{"<sip:127.0.0.1:9;lr>"}, "403 Forbidden"},
		{"a forged token", "PHONE", "BYE", "sip:bob@192.0.2.1", "b", []string{"<sip:QABH8H8AAAFc3sGxEEGWKEPZyQg@EDGE1;lr>"}, "pool pbx, 1 routes off"},
		{"from the PBX, a call to an address", "PBX1", "INVITE", "sip:alice@PHONE", "", nil, "to PHONE"},
		{"from the PBX, a call to a name", "PBX1", "INVITE", "sip:alice@example.org", "", nil, "name example.org"},
		{"from the PBX, a call by Route", "PBX1", "INVITE", "sip:alice@example.org", "", []string{"<sip:EDGE2;lr>", "<sip:PHONE;lr>"}, "to PHONE, 1 routes off"},
		{"from the PBX, a call by a strict Route", "PBX1", "INVITE", "sip:alice@example.org", "", []string{"<sip:PHONE>"}, "to PHONE, strict next"},
		{"from the PBX, for the edge", "PBX1", "INVITE", "sip:alice@EDGE1", "", nil, "404 Not Found"},
		{"from the PBX, in a call: the flow of the token", "PBX1", "BYE", "sip:alice@10.1.1.1", "b", []string{inner, outer}, "flow PHONE, 2 routes off"},
		{"from another node, in a call", "PBX2", "BYE", "sip:alice@10.1.1.1", "b", []string{inner, outer}, "flow PHONE, 2 routes off"},
		{"from the PBX, in a call, a Route of the phone's proxy", "PBX1", "BYE", "sip:alice@10.1.1.1", "b", []string{inner, outer, "<sip:192.0.2.9;lr>"}, "flow PHONE, 2 routes off"},
		{"from the PBX, in a call without Route", "PBX1", "BYE", "sip:alice@PHONE", "b", nil, "to PHONE"},
	}
	inLab(t, 2, spliceLab, func(t *testing.T, l *lab) {
		for _, c := range cases {
			from := map[string]*peer{"PHONE": l.phone, "PBX1": l.pbx[0], "PBX2": l.pbx[1]}[c.from]
			var routes []string
			for _, r := range c.routes {
				routes = append(routes, strings.ReplaceAll(r, "PBX2", l.pbx[1].addr.String()))
			}
			if got := l.decided(from, c.method, c.uri, c.tag, routes...); got != c.want {
				t.Errorf("%s: %s, want %s", c.name, got, c.want)
			}
		}
	})
}

// Who is a backend and who is not, with everybody on one address.
func TestSender(t *testing.T) {
	inLab(t, 2, spliceLab, func(t *testing.T, l *lab) {
		snap := l.e.snap.Load()
		outside, inside := l.e.net.Listeners()[0], l.e.net.Listeners()[1]
		far := netip.MustParseAddrPort("192.0.2.1:5060")
		m := &wire.Msg{}
		m.Scan([]byte(crlf(l.named(spliceCases[0].in))), false)
		for _, c := range []struct {
			what string
			got  any
			want string
		}{
			{"the backend's socket", snap.sender(m, inside.FlowTo(l.pbx[0].addr)), "pbx1"},
			{"the other's", snap.sender(m, inside.FlowTo(l.pbx[1].addr)), "pbx2"},
			{"its host on its side", snap.sender(m, inside.FlowTo(l.phone.addr)), "pbx1"},
			{"who writes the backend's source", snap.sender(m, outside.FlowTo(l.pbx[0].addr)), ""},
			{"a phone on the same address", snap.sender(m, outside.FlowTo(l.phone.addr)), ""},
			{"somebody else", snap.sender(m, outside.FlowTo(far)), ""},
			{"somebody else on the inside listener", snap.sender(m, inside.FlowTo(far)), ""},
		} {
			name := ""
			if b, ok := c.got.(interface{ Name() string }); ok && fmt.Sprint(c.got) != "<nil>" {
				name = b.Name()
			}
			if name != c.want {
				t.Errorf("%s: %q, want %q", c.what, name, c.want)
			}
		}
	})
}

func TestSelf(t *testing.T) {
	change := func(c *config.Config) {
		c.Aliases = []string{"Sip.Example.ORG", "192.0.2.50", "[2001:db8::50]"}
		c.Listen[0].Advertise = "edge.example.net:6060"
	}
	inLab(t, 1, change, func(t *testing.T, l *lab) {
		port := l.edge().Port()
		for uri, want := range map[string]bool{
			fmt.Sprintf("sip:127.0.0.1:%d", port):           true,
			fmt.Sprintf("sip:x@127.0.0.1:%d;lr", port):      true,
			fmt.Sprintf("sips:127.0.0.1:%d", port):          true,
			"sip:127.0.0.1":                                 false, // 5060 is not ours
			fmt.Sprintf("sip:127.0.0.2:%d", port):           false,
			"sip:sip.example.org":                           true,
			"sip:SIP.EXAMPLE.ORG":                           true,
			fmt.Sprintf("sip:sip.example.org:%d", port):     true,
			"sip:sip.example.org:5999":                      false,
			"sip:edge.example.net:6060":                     true,
			"sip:edge.example.net":                          true,
			"sip:other.example.net":                         false,
			fmt.Sprintf("sip:192.0.2.50:%d", port):          true,
			fmt.Sprintf("sip:[2001:DB8:0::50]:%d", port):    true,
			fmt.Sprintf("sip:[::ffff:192.0.2.50]:%d", port): true,
			"tel:+4930":                                    false,
			"sip:" + strings.Repeat("a", 300):              false,
			fmt.Sprintf("sip:a@sip.example.org.:%d", port): false,
		} {
			u, ok := wire.ParseURI([]byte(uri))
			if !ok {
				t.Fatal(uri)
			}
			s := l.e.snap.Load().self
			if got := s.is(u); got != want {
				t.Errorf("%s: %v", uri, got)
			}
		}
	})
}

func TestAdvertise(t *testing.T) {
	for _, c := range []struct {
		own, global, want string
		bad               bool
	}{
		{"", "", "", false}, {"", "edge.example.org", "edge.example.org:0", false}, {"a.example.org:5070", "edge", "a.example.org:5070", false},
		{"192.0.2.1", "", "192.0.2.1:0", false}, {"192.0.2.1:7", "", "192.0.2.1:7", false}, {"2001:db8::1", "", "[2001:db8::1]:0", false},
		{"[2001:db8::1]", "", "[2001:db8::1]:0", false}, {"[2001:db8::1]:5060", "", "[2001:db8::1]:5060", false},
		{"a:0", "", "", true}, {"a:x", "", "", true}, {"a:70000", "", "", true},
	} {
		a, err := parseAdvertise(c.own, c.global)
		got := ""
		if a.host != "" {
			got = fmt.Sprintf("%s:%d", a.host, a.port)
		}
		if (err != nil) != c.bad || !c.bad && got != c.want {
			t.Errorf("%q, %q: %s, %v", c.own, c.global, got, err)
		}
	}
}

func TestSentBy(t *testing.T) {
	for want, s := range map[string]sentBy{
		"192.0.2.1:5060":     {addr: netip.MustParseAddr("192.0.2.1"), port: 5060},
		"[2001:db8::1]:5060": {addr: netip.MustParseAddr("2001:db8::1"), port: 5060},
		"edge.example.org:1": {name: "edge.example.org", port: 1},
	} {
		if got := string(s.append(nil)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	change := func(c *config.Config) {
		c.Listen = testConfig("udp:127.0.0.1:0", "udp:0.0.0.0:0", "udp:[::1]:0").Listen
		c.Listen[0].Advertise = "edge.example.org"
	}
	inLab(t, 1, change, func(t *testing.T, l *lab) {
		ls, snap := l.e.net.Listeners(), l.e.snap.Load()
		for i, want := range []string{
			fmt.Sprintf("edge.example.org:%d", ls[0].Bound().Port()), fmt.Sprintf("127.0.0.1:%d", ls[1].Bound().Port()),
			fmt.Sprintf("[::1]:%d", ls[2].Bound().Port()),
		} {
			to := l.phone.addr
			if i == 2 {
				to = netip.MustParseAddrPort("[::1]:5060")
			}
			if got := string(l.e.sentBy(snap, ls[i].FlowTo(to)).append(nil)); got != want {
				t.Errorf("listener %d says %s, want %s", i, got, want)
			}
		}
	})
}

// TestBackendIsItselfOnItsSide: where a listener faces the PBX, a datagram with the PBX's source
// on another one is somebody's who wrote that source.
func TestBackendIsItselfOnItsSide(t *testing.T) {
	inLab(t, 1, func(c *config.Config) {
		c.Listen = append(c.Listen, config.Listener{Address: "udp:127.0.0.1:0", Proto: "udp", Bind: netip.MustParseAddrPort("127.0.0.1:0"), Side: config.SideInside})
	}, func(t *testing.T, l *lab) {
		pbx, victim := l.pbx[0], l.newPeer("VICTIM")
		c := pbx.call()
		c.uri = "sip:victim@" + victim.addr.String()
		l.e.Receive(&transport.Packet{Flow: l.e.net.Listeners()[0].FlowTo(pbx.addr), Data: []byte(c.text("INVITE"))})
		victim.nothing()
		pbx.get("100 INVITE")
		if req := pbx.get("INVITE"); string(req.Bytes(req.RURI)) != c.uri { // it goes where strangers' calls go
			t.Errorf("the backend got\n%s", req.Buf)
		}
		c = pbx.call()
		c.uri = "sip:victim@" + victim.addr.String()
		c.sends("INVITE")
		victim.get("INVITE")
		pass(4 * time.Minute)
	})
}
