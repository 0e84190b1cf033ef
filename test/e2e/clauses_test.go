package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

// A clause is one demand of RFC 3261 on a proxy. It runs over UDP and over TCP, on an edge that
// all clauses with the same configuration share; each has a Call-ID of its own.
type clause struct {
	name string // number of the section, and what it demands
	only string // a transport, "" for both
	run  func(x *exchange)
}

// TestRFC3261Chapter16 goes through chapter 16, and what of chapters 9, 17 and 18 a proxy needs,
// clause by clause.
func TestRFC3261Chapter16(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			h := newHop(t, network, settings{probe: ignorant})
			for _, c := range clauses {
				if c.only != "" && c.only != network {
					continue
				}
				t.Run(c.name, func(t *testing.T) { c.run(h.begin(t, "INVITE")) })
			}
		})
	}
}

var clauses = []clause{
	{"16.3.1 a request that is no SIP gets 400", "", func(x *exchange) {
		x.req.Set("CSeq", "7 OPTIONS") // not the method of the start line
		x.send(x.req)
		x.callerGets(400, "OPTIONS")
		x.fenceNode()
	}},
	{"16.3.2 an unknown scheme gets 416", "", func(x *exchange) {
		x.req.Method("OPTIONS").URI("nobodyKnowsThisScheme:totallyopaquecontent")
		x.send(x.req)
		x.callerGets(416, "OPTIONS")
		x.fenceNode()
	}},
	{"16.3.3 Max-Forwards 0 gets 483", "", func(x *exchange) {
		x.req.Set("Max-Forwards", "0")
		x.send(x.req)
		res, err := x.atCaller.Next(soon)
		for err == nil && res.Status() == 100 {
			res, err = x.atCaller.Next(soon)
		}
		if err != nil || res.Status() != 483 {
			x.t.Fatalf("got %v, %v", res, err)
		}
		if res.Tag("To") == "" {
			x.t.Fatal("a final answer has a To tag (8.2.6.2)")
		}
		x.ackFinal(res)
		x.fenceNode()
	}},
	{"16.3.4 a loop gets 482", "", func(x *exchange) {
		got := x.invite()
		// The very request comes back, as from a proxy below that does not change it.
		x.send(again(x.hop, got, ""))
		res := x.callerGets(482, "INVITE")
		if vias := res.Values("Via"); len(vias) != 3 {
			x.t.Fatalf("Via of the 482: %q", vias)
		}
		x.reject(got, 486)
	}},
	{"16.3.4 a spiral is no loop", "", func(x *exchange) {
		got := x.invite()
		// It comes back with another Request-URI: call forwarding.
		x.send(again(x.hop, got, "sip:carol@siptest.example"))
		x.callerGets(100, "INVITE")
		second := x.nodeGets("INVITE")
		if second.RURI() != "sip:carol@siptest.example" || second.Branch() == got.Branch() {
			x.t.Fatalf("spiral arrived as\n%s", second)
		}
		x.respond(second, 486, "Busy Here", "n2")
		x.nodeGets("ACK")
		x.callerGets(486, "INVITE")
		x.reject(got, 486)
	}},
	{"16.3.5 Proxy-Require gets 420 with Unsupported", "", func(x *exchange) {
		x.req.Method("OPTIONS").Add("Proxy-Require", "foo, bar")
		x.send(x.req)
		res := x.callerGets(420, "OPTIONS")
		if got := res.Values("Unsupported"); !slices.Equal(got, []string{"foo", "bar"}) {
			x.t.Fatalf("Unsupported: %q", got)
		}
		x.fenceNode()
	}},
	{"16.4 our own Route is removed, a following one kept", "", func(x *exchange) {
		// The second names the node, so that it may be followed from outside.
		next := "<" + x.node.URI("") + ";lr>"
		x.req.Prepend("Route", "<"+siptest.URI("", x.addr, x.network)+";lr>, "+next)
		got := x.invite()
		if routes := got.Values("Route"); !slices.Equal(routes, []string{next}) {
			x.t.Fatalf("Route: %q", routes)
		}
		x.reject(got, 486)
	}},
	{"16.4 a Route of ours alone leaves none", "", func(x *exchange) {
		x.req.Prepend("Route", "<sip:"+x.addr.String()+";lr>")
		got := x.invite()
		if routes := got.Values("Route"); len(routes) != 0 {
			x.t.Fatalf("Route: %q", routes)
		}
		x.reject(got, 486)
	}},
	{"16.4 what a strict router did is repaired", "", func(x *exchange) {
		ok := talk(x)
		info := x.inside(ok, "INFO", 2)
		recorded := siptest.AddrURI(ok.Values("Record-Route")[0])
		target := siptest.AddrURI(ok.Get("Contact"))
		// A strict router puts our Record-Route into the Request-URI, the target at the end of Route.
		info.Del("Route").URI(recorded).Prepend("Route", "<"+target+">")
		x.send(info)
		got := x.nodeGets("INFO")
		if got.RURI() != target || got.Get("Route") != "" {
			x.t.Fatalf("not repaired:\n%s", got)
		}
		x.respond(got, 200, "OK", "")
		x.callerGets(200, "INFO")
	}},
	{"16.4 maddr that names us is stripped", "", func(x *exchange) {
		x.req.URI(fmt.Sprintf("sip:bob@siptest.example:%d;maddr=%s;transport=%s", x.addr.Port(), x.addr.Addr(), x.network))
		got := x.invite()
		if uri := got.RURI(); strings.Contains(uri, "maddr") || strings.Contains(uri, "transport") || !strings.HasPrefix(uri, "sip:bob@siptest.example") {
			x.t.Fatalf("Request-URI: %s", uri)
		}
		x.reject(got, 486)
	}},
	{"16.6.2 the Request-URI stays what it was", "", func(x *exchange) {
		x.req.URI("sip:%62ob;x=%79@SipTest.Example:5099;unknown=%76;Flag")
		got := x.invite()
		if want := "sip:%62ob;x=%79@SipTest.Example:5099;unknown=%76;Flag"; got.RURI() != want {
			x.t.Fatalf("Request-URI %s, want %s", got.RURI(), want)
		}
		x.reject(got, 486)
	}},
	{"16.6.3 Max-Forwards is decremented", "", func(x *exchange) {
		x.req.Set("Max-Forwards", "1")
		got := x.invite()
		if got.Get("Max-Forwards") != "0" {
			x.t.Fatalf("Max-Forwards: %s", got.Get("Max-Forwards"))
		}
		x.reject(got, 486)
	}},
	{"16.6.3 an absent Max-Forwards becomes 70", "", func(x *exchange) {
		x.req.Del("Max-Forwards")
		got := x.invite()
		if got.Get("Max-Forwards") != "70" {
			x.t.Fatalf("Max-Forwards: %q", got.Get("Max-Forwards"))
		}
		x.reject(got, 486)
	}},
	{"16.6.4 Record-Route with lr goes on top", "", func(x *exchange) {
		x.req.Add("Record-Route", "<sip:before.example;lr>")
		got := x.invite()
		recorded := got.Values("Record-Route")
		if len(recorded) < 2 || recorded[len(recorded)-1] != "<sip:before.example;lr>" {
			x.t.Fatalf("Record-Route: %q", recorded)
		}
		for _, r := range recorded[:len(recorded)-1] {
			host, ok := siptest.URIHost(siptest.AddrURI(r))
			if _, lr := siptest.Param(siptest.AddrURI(r), "lr"); !lr || !ok || host != x.addr {
				x.t.Fatalf("ours does not lead back to us: %q", r)
			}
		}
		x.reject(got, 486)
	}},
	{"16.6.8 our Via is on top, with a branch of its own", "", func(x *exchange) {
		got := x.invite()
		vias := got.Values("Via")
		if len(vias) != 2 || !strings.HasPrefix(got.Branch(), "z9hG4bK") {
			x.t.Fatalf("Via: %q", vias)
		}
		if want := "SIP/2.0/" + strings.ToUpper(x.network) + " " + x.addr.String(); !strings.HasPrefix(vias[0], want) {
			x.t.Fatalf("our Via %q does not begin with %q", vias[0], want)
		}
		if branch, _ := siptest.Param(x.req.Get("Via"), "branch"); branch == got.Branch() || !strings.Contains(vias[1], branch) {
			x.t.Fatalf("Via: %q", vias)
		}
		x.reject(got, 486)
	}},
	{"16.2 an INVITE gets 100 at once, without a To tag", "", func(x *exchange) {
		x.send(x.req)
		trying := x.callerGets(100, "INVITE")
		if trying.Tag("To") != "" || len(trying.Values("Via")) != 1 {
			x.t.Fatalf("100:\n%s", trying)
		}
		x.reject(x.nodeGets("INVITE"), 486)
	}},
	{"16.7.3 our Via is removed from the response", "", func(x *exchange) {
		got := x.invite()
		x.respond(got, 180, "Ringing", "n1")
		res := x.callerGets(180, "INVITE")
		if vias := res.Values("Via"); len(vias) != 1 || res.Branch() != branchOf(x.req) {
			x.t.Fatalf("Via: %q", vias)
		}
		x.reject(got, 486)
	}},
	{"16.7.5 a 100 from below is not forwarded", "", func(x *exchange) {
		got := x.invite()
		x.respond(got, 100, "Trying", "")
		x.respond(got, 180, "Ringing", "n1")
		x.callerGets(180, "INVITE") // and no second 100 before it
		x.reject(got, 486)
	}},
	{"16.7.5 every other provisional is forwarded, forked tags too", "", func(x *exchange) {
		got := x.invite()
		for _, p := range []struct {
			code int
			tag  string
		}{{180, "a"}, {183, "b"}, {199, "c"}, {180, "a"}} {
			x.respond(got, p.code, "Progress", p.tag)
			if res := x.callerGets(p.code, "INVITE"); res.Tag("To") != p.tag {
				x.t.Fatalf("tag %q, want %q", res.Tag("To"), p.tag)
			}
		}
		x.reject(got, 486)
	}},
	{"16.7.5 every 2xx to INVITE is forwarded, and every copy", "", func(x *exchange) {
		got := x.invite()
		for _, tag := range []string{"a", "b", "a"} {
			x.answer(got, tag)
			ok := x.callerGets(200, "INVITE")
			if ok.Tag("To") != tag {
				x.t.Fatalf("tag %q, want %q", ok.Tag("To"), tag)
			}
			x.send(x.inside(ok, "ACK", 1))
			if ack := x.nodeGets("ACK"); ack.Tag("To") != tag || ack.Branch() == got.Branch() {
				x.t.Fatalf("ACK:\n%s", ack)
			}
		}
	}},
	{"16.7.5 after a final answer nothing but 2xx is forwarded", "", func(x *exchange) {
		got := x.invite()
		passed := x.fence()
		x.reject(got, 486)
		x.respond(got, 180, "Ringing", "n1")
		x.respond(got, 404, "Not Found", "n1")
		passed()
	}},
	{"16.7.5 nothing is forwarded after a final answer to another method", "", func(x *exchange) {
		x.req.Method("MESSAGE")
		x.send(x.req)
		got := x.nodeGets("MESSAGE")
		passed := x.fence()
		x.respond(got, 404, "Not Found", "n1")
		x.callerGets(404, "MESSAGE")
		x.respond(got, 200, "OK", "n1")
		x.respond(got, 404, "Not Found", "n1")
		passed()
	}},
	{"16.7.6 6xx, 4xx and 3xx are passed on as they are", "", func(x *exchange) {
		for _, code := range []int{302, 401, 404, 407, 486, 488, 500, 600, 603} {
			y := x.begin(x.t, "INVITE")
			y.reject(y.invite(), code)
		}
	}},
	{"16.7.6 a lone 503 becomes another code", "", func(x *exchange) {
		got := x.invite()
		x.respond(got, 503, "Service Unavailable", "n1")
		x.nodeGets("ACK")
		x.ackFinal(x.callerGets(500, "INVITE"))
	}},
	{"16.9 an answer that matches no transaction is dropped", "", func(x *exchange) {
		got := x.invite()
		passed := x.fence()
		for name, branch := range map[string]string{
			"unknown branch": "z9hG4bKunknown", "changed branch": changed(got.Branch()), "no cookie": "1",
		} {
			forged := siptest.Respond(got, 200, "OK "+name, "evil")
			forged.Lines[0] = strings.Replace(forged.Lines[0], got.Branch(), branch, 1)
			if err := got.Reply(forged.Bytes()); err != nil {
				x.t.Fatal(err)
			}
		}
		// Without our Via on top it is a reflector's food: the next Via would be sent to.
		bare := siptest.Respond(got, 200, "OK bare", "evil")
		bare.Lines = bare.Lines[1:]
		if err := got.Reply(bare.Bytes()); err != nil {
			x.t.Fatal(err)
		}
		passed()
		x.reject(got, 486)
	}},
	{"16.10 CANCEL before a provisional answer waits for one", "", func(x *exchange) {
		got := x.invite()
		x.send(x.cancel())
		x.callerGets(200, "CANCEL")
		x.fenceNode()
		x.respond(got, 180, "Ringing", "n1")
		endByCancel(x, got, true)
	}},
	{"16.10 CANCEL after a provisional answer goes on at once", "", func(x *exchange) {
		got := x.invite()
		x.respond(got, 180, "Ringing", "n1")
		x.callerGets(180, "INVITE")
		x.send(x.cancel())
		x.callerGets(200, "CANCEL")
		endByCancel(x, got, false)
	}},
	{"16.10 a 200 that crosses the CANCEL is passed on", "", func(x *exchange) {
		got := x.invite()
		x.respond(got, 180, "Ringing", "n1")
		x.callerGets(180, "INVITE")
		x.send(x.cancel())
		x.callerGets(200, "CANCEL")
		x.respond(x.nodeGets("CANCEL"), 481, "Call/Transaction Does Not Exist", "n1")
		x.answer(got, "n1")
		ok := x.callerGets(200, "INVITE")
		x.send(x.inside(ok, "ACK", 1))
		x.nodeGets("ACK")
		x.send(x.inside(ok, "BYE", 2))
		x.respond(x.nodeGets("BYE"), 200, "OK", "")
		x.callerGets(200, "BYE")
	}},
	{"16.10 a second CANCEL is answered and not repeated below", "", func(x *exchange) {
		got := x.invite()
		x.respond(got, 180, "Ringing", "n1")
		x.callerGets(180, "INVITE")
		x.send(x.cancel())
		x.callerGets(200, "CANCEL")
		x.respond(x.nodeGets("CANCEL"), 200, "OK", "n1")
		x.send(x.cancel())
		x.callerGets(200, "CANCEL")
		x.fenceNode()
		x.reject(got, 487)
	}},
	{"16.10 CANCEL after the final answer changes nothing", "", func(x *exchange) {
		got := x.invite()
		x.respond(got, 486, "Busy Here", "n1")
		x.nodeGets("ACK")
		x.callerGets(486, "INVITE")
		x.send(x.cancel())
		x.callerGetsOneOf("CANCEL", 200, 481)
		x.fenceNode()
	}},
	{"16.10 CANCEL for nothing we know is not answered with 200 by us", "", func(x *exchange) {
		x.send(x.cancel())
		m, err := x.atNode.Next(time.Second)
		if errors.Is(err, siptest.ErrNothing) {
			x.callerGets(481, "CANCEL") // an answer of ours is as good
			return
		}
		if err != nil || m.Method() != "CANCEL" {
			x.t.Fatalf("got %v, %v", m, err)
		}
		x.respond(m, 481, "Call/Transaction Does Not Exist", "n1")
		x.callerGets(481, "CANCEL")
	}},
	{"9.1 the CANCEL below is like the INVITE below", "", func(x *exchange) {
		got := x.invite()
		x.respond(got, 183, "Session Progress", "n1")
		x.callerGets(183, "INVITE")
		x.send(x.cancel().Add("Reason", `SIP;cause=200;text="Call completed elsewhere"`))
		x.callerGets(200, "CANCEL")
		c := x.nodeGets("CANCEL")
		if c.RURI() != got.RURI() || c.Branch() != got.Branch() || len(c.Values("Via")) != 1 || c.CSeq() != got.CSeq() ||
			c.Get("To") != got.Get("To") || c.Get("From") != got.Get("From") {
			x.t.Fatalf("INVITE\n%s\nCANCEL\n%s", got, c)
		}
		if c.Get("Reason") == "" {
			x.t.Fatal("the Reason of the CANCEL is lost (RFC 3326)")
		}
		x.respond(c, 200, "OK", "n1")
		x.reject(got, 487)
	}},
	{"17.1.1.3 the ACK to an error answer is ours, the caller's goes no further", "", func(x *exchange) {
		got := x.invite()
		x.respond(got, 486, "Busy Here", "n1")
		ack := x.nodeGets("ACK")
		if ack.Branch() != got.Branch() || ack.Tag("To") != "n1" || ack.RURI() != got.RURI() || len(ack.Values("Via")) != 1 || ack.CSeq() != 1 {
			x.t.Fatalf("ACK:\n%s", ack)
		}
		x.ackFinal(x.callerGets(486, "INVITE"))
		x.fenceNode()
	}},
	{"17.1.1.3 a repeated error answer is acknowledged again", "udp", func(x *exchange) {
		got := x.invite()
		x.respond(got, 486, "Busy Here", "n1")
		x.nodeGets("ACK")
		x.ackFinal(x.callerGets(486, "INVITE"))
		passed := x.fence()
		x.respond(got, 486, "Busy Here", "n1")
		x.nodeGets("ACK")
		passed()
	}},
	{"13.2.2.4 the ACK to a 2xx goes end to end", "", func(x *exchange) {
		got := x.invite()
		x.answer(got, "n1")
		ok := x.callerGets(200, "INVITE")
		x.send(x.inside(ok, "ACK", 1).Set("Max-Forwards", "9").SDP())
		ack := x.nodeGets("ACK")
		if ack.RURI() != x.node.URI("bob") || ack.Get("Route") != "" || len(ack.Values("Via")) != 2 || ack.Get("Max-Forwards") != "8" || len(ack.Body()) == 0 {
			x.t.Fatalf("ACK:\n%s", ack)
		}
	}},
	{"17.2.1 a repeated INVITE is absorbed and answered again", "udp", func(x *exchange) {
		got := x.invite()
		x.send(x.req)
		x.callerGets(100, "INVITE")
		x.respond(got, 180, "Ringing", "n1")
		x.callerGets(180, "INVITE")
		x.send(x.req)
		x.callerGets(180, "INVITE")
		x.fenceNode()
		x.respond(got, 486, "Busy Here", "n1")
		x.nodeGets("ACK")
		x.callerGets(486, "INVITE")
		x.send(x.req)
		x.ackFinal(x.callerGets(486, "INVITE"))
		x.fenceNode()
	}},
	{"17.2.2 a repeated request is absorbed and answered again", "udp", func(x *exchange) {
		x.req.Method("MESSAGE")
		x.send(x.req)
		got := x.nodeGets("MESSAGE")
		x.send(x.req)
		x.fenceNode()
		x.respond(got, 202, "Accepted", "n1")
		x.callerGets(202, "MESSAGE")
		x.send(x.req)
		x.callerGets(202, "MESSAGE")
		x.fenceNode()
	}},
	{"17.1.1.2 an unanswered INVITE is sent again after T1", "udp", func(x *exchange) {
		got := x.invite()
		second := x.nodeGets("INVITE")
		if second.String() != got.String() {
			x.t.Fatalf("first\n%s\nsecond\n%s", got, second)
		}
		x.reject(got, 486)
	}},
	{"17.1.2.2 an unanswered request is sent again after T1", "udp", func(x *exchange) {
		x.req.Method("MESSAGE")
		x.send(x.req)
		got := x.nodeGets("MESSAGE")
		second := x.nodeGets("MESSAGE")
		if second.String() != got.String() {
			x.t.Fatalf("first\n%s\nsecond\n%s", got, second)
		}
		x.respond(got, 200, "OK", "n1")
		x.callerGets(200, "MESSAGE")
	}},
	{"18.2.1 received is added where the sent-by is not the source", "", func(x *exchange) {
		x.req.Method("MESSAGE").Set("Via", "SIP/2.0/"+strings.ToUpper(x.network)+" phone.example.com:"+portOf(x.caller)+";branch="+branchOf(x.req))
		x.send(x.req)
		got := x.nodeGets("MESSAGE")
		via := got.Values("Via")[1]
		if r, _ := siptest.Param(via, "received"); r != "127.0.0.1" {
			x.t.Fatalf("Via: %q", via)
		}
		x.respond(got, 200, "OK", "n1")
		x.callerGets(200, "MESSAGE")
	}},
	{"18.2.1 a received of the sender's own making is replaced", "", func(x *exchange) {
		x.req.Method("MESSAGE").Set("Via", x.req.Get("Via")+";received=192.0.2.66")
		x.send(x.req)
		got := x.nodeGets("MESSAGE")
		if via := got.Values("Via")[1]; strings.Contains(via, "192.0.2.66") {
			x.t.Fatalf("Via: %q", via)
		}
		x.respond(got, 200, "OK", "n1")
		x.callerGets(200, "MESSAGE")
	}},
	{"RFC 3581 rport is filled in and the answer goes to the source", "udp", func(x *exchange) {
		x.req.Method("MESSAGE").Set("Via", "SIP/2.0/UDP 192.0.2.1:5098;rport;branch="+branchOf(x.req))
		x.send(x.req)
		got := x.nodeGets("MESSAGE")
		via := got.Values("Via")[1]
		received, _ := siptest.Param(via, "received")
		if rport, _ := siptest.Param(via, "rport"); rport != portOf(x.caller) || received != "127.0.0.1" {
			x.t.Fatalf("Via: %q", via)
		}
		x.respond(got, 200, "OK", "n1")
		x.callerGets(200, "MESSAGE")
	}},
	{"18.1.1 a body longer than its Content-Length is cut", "udp", func(x *exchange) {
		x.req.Method("MESSAGE").Set("Content-Type", "text/plain").Set("Content-Length", "4")
		x.req.Body = "fourANDMORE"
		x.send(x.req)
		got := x.nodeGets("MESSAGE")
		if string(got.Body()) != "four" {
			x.t.Fatalf("body %q", got.Body())
		}
		x.respond(got, 200, "OK", "n1")
		x.callerGets(200, "MESSAGE")
	}},
	{"18.3 a datagram shorter than its Content-Length gets 400", "udp", func(x *exchange) {
		x.req.Method("MESSAGE").Set("Content-Length", "9999")
		x.send(x.req)
		x.callerGets(400, "MESSAGE")
		x.fenceNode()
	}},
	{"12.2 requests inside a dialog follow Route both ways", "", func(x *exchange) {
		got := x.invite()
		x.answer(got, "n1")
		ok := x.callerGets(200, "INVITE")
		x.send(x.inside(ok, "ACK", 1))
		x.nodeGets("ACK")

		x.send(x.inside(ok, "UPDATE", 2))
		update := x.nodeGets("UPDATE")
		if update.Get("Route") != "" || update.RURI() != x.node.URI("bob") {
			x.t.Fatalf("UPDATE:\n%s", update)
		}
		x.respond(update, 200, "OK", "")
		x.callerGets(200, "UPDATE")

		// And from the callee's side, on the flow that the edge has to it.
		bye := x.insideFromNode(got, "n1", "BYE", 77)
		if err := got.Reply(bye.Bytes()); err != nil {
			x.t.Fatal(err)
		}
		m, err := x.atCaller.Next(soon)
		if err != nil || m.Method() != "BYE" || m.Status() != 0 {
			x.t.Fatalf("caller waits for BYE: %v, %v", m, err)
		}
		if m.RURI() != x.caller.URI("caller") || m.Get("Route") != "" || m.CSeq() != 77 {
			x.t.Fatalf("BYE:\n%s", m)
		}
		x.respond(m, 200, "OK", "")
		if res, err := x.atNode.Next(soon); err != nil || res.Status() != 200 || res.Method() != "BYE" || len(res.Values("Via")) != 1 {
			x.t.Fatalf("node waits for the 200 to its BYE: %v, %v", res, err)
		}
	}},
	{"14.1 a re-INVITE and its ACK follow Route", "", func(x *exchange) {
		ok := talk(x)
		x.send(x.inside(ok, "INVITE", 2).SDP())
		x.callerGets(100, "INVITE")
		got := x.nodeGets("INVITE")
		if got.Get("Route") != "" || got.RURI() != x.node.URI("bob") {
			x.t.Fatalf("re-INVITE:\n%s", got)
		}
		x.answer(got, "")
		x.callerGets(200, "INVITE")
		x.send(x.inside(ok, "ACK", 2))
		if ack := x.nodeGets("ACK"); ack.CSeq() != 2 {
			x.t.Fatalf("ACK:\n%s", ack)
		}
	}},
	{"16 an unknown method is carried like any other", "", func(x *exchange) {
		x.req.Method("!interesting-Method0123456789_*+`.%indeed'~")
		x.send(x.req)
		got := x.nodeGets("!interesting-Method0123456789_*+`.%indeed'~")
		x.respond(got, 501, "Not Implemented", "n1")
		x.callerGets(501, "!interesting-Method0123456789_*+`.%indeed'~")
	}},
	{"7.1 methods are case-sensitive", "", func(x *exchange) {
		x.req.Method("invite")
		x.send(x.req)
		got := x.nodeGets("invite") // no 100: it is not INVITE
		x.respond(got, 501, "Not Implemented", "n1")
		x.callerGets(501, "invite")
	}},
	{"11 OPTIONS to the edge itself is answered by it", "", func(x *exchange) {
		x.req.Method("OPTIONS").URI("sip:" + x.addr.String())
		x.send(x.req)
		if res := x.callerGets(200, "OPTIONS"); res.Tag("To") == "" {
			x.t.Fatalf("no To tag:\n%s", res)
		}
		x.fenceNode()
	}},
}

// TestRFC3261Timeouts needs short timers, so each clause has an edge of its own.
func TestRFC3261Timeouts(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			h := newHop(t, network, settings{top: hasty, probe: ignorant})
			t.Run("16.8 408 when nobody answers", func(t *testing.T) {
				x := h.begin(t, "INVITE")
				x.invite()
				x.ackFinal(x.callerGets(408, "INVITE"))
			})
			t.Run("16.7.2 a provisional answer restarts timer C", func(t *testing.T) {
				x := h.begin(t, "INVITE")
				got := x.invite()
				began := time.Now()
				for range 3 {
					x.respond(got, 180, "Ringing", "n1")
					x.callerGets(180, "INVITE")
					if m, err := x.atNode.Next(hastyTimerC / 2); !errors.Is(err, siptest.ErrNothing) {
						t.Fatalf("after %s the node got %v, %v", time.Since(began), m, err)
					}
				}
				x.reject(got, 486)
			})
			t.Run("16.8 timer C cancels a call that rings for ever", func(t *testing.T) {
				x := h.begin(t, "INVITE")
				got := x.invite()
				x.respond(got, 180, "Ringing", "n1")
				x.callerGets(180, "INVITE")
				x.respond(x.nodeGets("CANCEL"), 200, "OK", "n1")
				x.respond(got, 487, "Request Terminated", "n1")
				x.nodeGets("ACK")
				x.ackFinal(x.callerGetsOneOf("INVITE", 408, 487))
			})
			t.Run("9.1 a cancelled INVITE that is never answered ends by itself", func(t *testing.T) {
				x := h.begin(t, "INVITE")
				got := x.invite()
				x.respond(got, 180, "Ringing", "n1")
				x.callerGets(180, "INVITE")
				x.send(x.cancel())
				x.callerGets(200, "CANCEL")
				x.nodeGets("CANCEL")
				x.ackFinal(x.callerGetsOneOf("INVITE", 408, 487))
			})
			t.Run("17.2.1 an error answer is repeated until its ACK", func(t *testing.T) {
				if network != "udp" {
					t.Skip("only unreliable transports repeat")
				}
				x := h.begin(t, "INVITE")
				got := x.invite()
				x.respond(got, 486, "Busy Here", "n1")
				x.nodeGets("ACK")
				x.callerGets(486, "INVITE")
				x.ackFinal(x.callerGets(486, "INVITE"))
				x.fenceNode() // the ACK has been handled
				for x.atCaller.Len() > 0 {
					x.callerGets(486, "INVITE") // sent before it
				}
				if m, err := x.atCaller.Next(300 * time.Millisecond); !errors.Is(err, siptest.ErrNothing) {
					t.Fatalf("after the ACK: %v, %v", m, err)
				}
			})
		})
	}
}

// TestRFC3261BestResponse: with two nodes the response context has something to choose from.
func TestRFC3261BestResponse(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			cert := certificate(t)
			second := rawListen(t, network, at(nodeB), cert)
			h := newHop(t, network, settings{
				pool:     "    policy: priority\n",
				probe:    ignorant,
				backends: []string{fmt.Sprintf("{ name: second, address: %q, priority: 5 }", second.URI(""))},
			})
			cases := []struct {
				name        string
				first, then int
				want        int
			}{
				{"16.7.6 503 then 486 gives 486", 503, 486, 486},
				{"16.7.6 503 then 603 gives 603", 503, 603, 603},
				{"16.7.6 503 then 503 gives 500", 503, 503, 500},
				{"16.7.6 503 then 200 gives 200", 503, 200, 200},
			}
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) {
					x := h.begin(t, "INVITE")
					atSecond := second.Box(x.req.CallID())
					// After a 503 the first node may be held to be down for a while; either may be asked first.
					x.send(x.req)
					x.callerGets(100, "INVITE")
					asked := 0
					for _, code := range []int{c.first, c.then} {
						m := eitherGets(x, atSecond)
						asked++
						if code == 200 {
							x.answer(m, "n1")
							continue
						}
						x.respond(m, code, "No", "n1")
						if ack := eitherGets(x, atSecond); ack.Method() != "ACK" {
							t.Fatalf("no ACK but\n%s", ack)
						}
						if asked == 1 && x.atCaller.Len() > 0 {
							t.Fatal("the first answer was passed on")
						}
					}
					res := x.callerGets(c.want, "INVITE")
					if c.want >= 300 {
						x.ackFinal(res)
						return
					}
					x.send(x.inside(res, "ACK", 1))
					if ack := eitherGets(x, atSecond); ack.Method() != "ACK" {
						t.Fatalf("no ACK but\n%s", ack)
					}
				})
			}
		})
	}
}

// eitherGets takes the next message at one of the two nodes.
func eitherGets(x *exchange, second *siptest.Box) *siptest.Message {
	x.t.Helper()
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); {
		for _, b := range []*siptest.Box{x.atNode, second} {
			if m, err := b.Next(10 * time.Millisecond); err == nil {
				return m
			}
		}
	}
	x.t.Fatal("no node got anything")
	return nil
}

// talk sets a call up and returns the 200 as the caller saw it.
func talk(x *exchange) *siptest.Message {
	x.t.Helper()
	x.answer(x.invite(), "n1")
	ok := x.callerGets(200, "INVITE")
	x.send(x.inside(ok, "ACK", 1))
	x.nodeGets("ACK")
	return ok
}

// endByCancel plays the node's part after a CANCEL. ringing: the caller still has to get the 180.
func endByCancel(x *exchange, invite *siptest.Message, ringing bool) {
	x.t.Helper()
	if ringing {
		x.callerGets(180, "INVITE")
	}
	c := x.nodeGets("CANCEL")
	if c.Branch() != invite.Branch() {
		x.t.Fatalf("CANCEL has branch %q, the INVITE had %q", c.Branch(), invite.Branch())
	}
	x.respond(c, 200, "OK", "n1")
	x.reject(invite, 487)
}

// again makes of a request that the node got one that comes back to the edge: a Via of the
// sender on top, and another Request-URI if there is one.
func again(h *hop, got *siptest.Message, uri string) *siptest.Text {
	m := &siptest.Text{Start: got.StartLine(), Lines: got.HeaderLines(), Body: string(got.Body())}
	if uri != "" {
		m.URI(uri)
	}
	return m.Prepend("Via", h.caller.Via())
}

func branchOf(m *siptest.Text) string {
	b, _ := siptest.Param(m.Get("Via"), "branch")
	return b
}

func portOf(r *siptest.Raw) string { return fmt.Sprint(r.Addr().Port()) }

// changed alters the last character of a branch: as good as a forger can do.
func changed(branch string) string {
	last := branch[len(branch)-1]
	if last == 'a' {
		return branch[:len(branch)-1] + "b"
	}
	return branch[:len(branch)-1] + "a"
}
