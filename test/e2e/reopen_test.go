package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sipward/sipward/test/siptest"
)

// TestAnswerGoesOverANewConnection: whoever asked over TCP or TLS and has lost the connection is called back (RFC 3261
// 18.2.2): a phone outside at the address that its request came from, whatever its Via names, and a node of the pool.
func TestAnswerGoesOverANewConnection(t *testing.T) {
	t.Parallel()
	for _, side := range []struct {
		name, network string
		isNode        bool
	}{
		{"phone outside over tcp", "tcp", false},
		{"node over tcp", "tcp", true},
		{"node over tls", "tls", true},
	} {
		t.Run(side.name, func(t *testing.T) {
			t.Parallel()
			cert := certificate(t)
			asker, callee := rawListen(t, side.network, at(siptest.Loopback), cert), rawListen(t, "udp", at(nodeB), nil)
			addr := freeAddr(t)
			o := settings{
				listen:   []string{listener(t, side.network, addr, cert), "udp:" + addr.String()},
				backends: []string{callee.URI("")},
			}
			target, sentBy := "sip:bob@"+domain, "pbx.example.com"
			if side.isNode {
				o.backends, target, sentBy = []string{asker.URI("")}, callee.URI("bob"), siptest.Loopback.String()
			}
			if side.network == "tls" {
				file, _, err := cert.Write(t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				o.pool = fmt.Sprintf("    tls: { ca: %q }\n", file)
			}
			siptest.StartEdge(t, o.yaml())

			conn := rawDial(t, side.network, addr, cert)
			branch := "z9hG4bK" + siptest.Unique("b")
			via := fmt.Sprintf("SIP/2.0/%s %s:%d;branch=%s;rport", strings.ToUpper(side.network), sentBy, asker.Addr().Port(), branch)
			req := siptest.Request("INVITE", target).Prepend("Via", via).Set("Contact", "<"+asker.URI("alice")+">")
			if err := conn.Send(req.Bytes()); err != nil {
				t.Fatal(err)
			}
			got, err := callee.Next(soon)
			if err != nil || got.Method() != "INVITE" {
				t.Fatalf("%v %v", got, err)
			}
			if err := conn.Reset(); err != nil {
				t.Fatal(err)
			}
			// The answer is repeated as a callee does (13.3.1.4): the first may meet the end of the connection.
			ok := siptest.Respond(got, 200, "OK", "b").Add("Contact", "<"+callee.URI("bob")+">").Bytes()
			var answer *siptest.Message
			for tries := 0; answer == nil && tries < 20; tries++ {
				if err := got.Reply(ok); err != nil {
					t.Fatal(err)
				}
				answer, _ = asker.Next(soon / 10)
			}
			if answer == nil || answer.Status() != 200 || answer.Branch() != branch {
				t.Fatalf("got back: %v", answer)
			}
			ack := asker.Request("ACK", siptest.AddrURI(answer.Get("Contact"))).Set("CSeq", "1 ACK")
			for _, name := range []string{"From", "To", "Call-ID"} {
				ack.Set(name, answer.Get(name))
			}
			for _, route := range answer.Values("Record-Route") {
				ack.Prepend("Route", route)
			}
			if err := answer.Reply(ack.Bytes()); err != nil {
				t.Fatal(err)
			}
			if m, err := callee.Next(soon); err != nil || m.Method() != "ACK" {
				t.Fatalf("the callee got %v %v", m, err)
			}
		})
	}
}
