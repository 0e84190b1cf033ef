package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/wire"
)

func TestLeadsBack(t *testing.T) {
	from := netip.MustParseAddrPort("192.0.2.1:49152")
	accepted := dialog.Flow{Proto: wire.TCP, Listener: 1, Remote: from, Conn: 7}
	for _, x := range []struct {
		uri   string
		leads bool
	}{
		{"sip:alice@192.0.2.1:5060;transport=tcp", true},
		{"sip:192.0.2.1;lr", true},
		{"sip:alice@192.0.2.1;maddr=192.0.2.1", true},
		{"sip:alice@192.0.2.1;maddr=198.51.100.1", false},
		{"sip:alice@198.51.100.1;maddr=192.0.2.1", true},
		{"sip:alice@198.51.100.1", false},
		{"sip:alice@[2001:db8::1]", false},
		{"sip:alice@example.org", false},
		{"sip:alice@192.0.2.1.example.org", false},
		{"tel:+4930123", false},
	} {
		u, _ := wire.ParseURI([]byte(x.uri))
		if got := leadsBack(accepted, u); got != x.leads {
			t.Errorf("%s leads back: %v", x.uri, got)
		}
		ours := accepted
		ours.Listener = dialled
		if !leadsBack(ours, u) {
			t.Errorf("%s: a connection of ours may be opened again", x.uri)
		}
	}
}

// TestRequestsOfTheEdgeDoNotGoWhereAContactSays: the caller has named somebody else in Contact and Record-Route, and
// has closed its connection. Neither probes nor the BYE go there.
func TestRequestsOfTheEdgeDoNotGoWhereAContactSays(t *testing.T) {
	for _, contact := range []string{"sip:x@127.0.0.77:%d", "sip:x@127.0.0.77:%d;transport=tcp", "sip:x@127.0.0.1:%d;maddr=127.0.0.77"} {
		for _, isRecorded := range []bool{false, true} {
			callNumber++
			number := callNumber
			t.Run(fmt.Sprintf("%s, recorded %t", contact, isRecorded), func(t *testing.T) {
				t.Parallel() // most of it is waiting
				victim, err := net.Listen("tcp", "127.0.0.77:0")
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = victim.Close() }()
				addr := victim.Addr().String()
				datagrams, err := net.ListenPacket("udp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = datagrams.Close() }()
				contact := fmt.Sprintf(contact, victim.Addr().(*net.TCPAddr).Port)
				l, pbx := startedWithPBX(t, func(c *config.Config) {
					c.Transaction.T1 = 100e6 // a machine may stall for some seconds before 64*T1 are over
					c.Timers.SessionTTL, c.Timers.ProbeJitter, c.Timers.ProbeLegs = 4e9, 0, "a"
				})
				phone := l.dial(1)
				record := ""
				if isRecorded {
					record = "Record-Route: <" + contact + ";lr>\n"
				}
				tcp := func(method, uri, route, tag, lines string) string {
					return fmt.Sprintf("%s %s SIP/2.0\nVia: SIP/2.0/TCP 10.0.0.1;branch=z9hG4bKlb%d%s\n%sMax-Forwards: 70\nFrom: <sip:x@example.org>;tag=ta\nTo: <sip:bob@example.org>%s\nCall-ID: lb%d\nCSeq: 1 %s\n%sContent-Length: 0\n\n",
						method, uri, number, method, route, tag, number, method, lines)
				}
				phone.sends(tcp("INVITE", "sip:bob@example.org", "", "", timerLines+updateLines+record+"Contact: <"+contact+">\n"))
				phone.get("100 INVITE")
				inv := pbx.get("INVITE")
				l.sendUDP(pbx, response(inv, 200, "tb", crlf(timerLines+updateLines+"Contact: <sip:bob@"+pbx.addr.String()+">\n")))
				ok := phone.get("200 INVITE")
				phone.sends(tcp("ACK", "sip:bob@"+pbx.addr.String(), routeOf(ok), ";tag=tb", ""))
				pbx.get("ACK")
				_ = phone.conn.Close()
				bye := pbx.getsWithin(patience)
				if title(bye) != "BYE" {
					t.Fatal(title(bye))
				}
				l.sendUDP(pbx, response(bye, 200, ""))
				awaits(func() bool { return l.e.dialogs.Len() == 0 })
				_ = datagrams.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				buf := make([]byte, 2000)
				if n, _, err := datagrams.ReadFrom(buf); err == nil {
					t.Errorf("came to %s: %q", addr, buf[:n])
				}
				_ = victim.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
				if conn, err := victim.Accept(); err == nil {
					t.Errorf("a connection to %s", addr)
					_ = conn.Close()
				}
			})
		}
	}
}
