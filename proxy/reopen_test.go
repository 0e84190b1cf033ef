package proxy

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/wire"
)

// callerOver is an INVITE over TCP whose Via says to be called back there.
func callerOver(via string, n int) string {
	return fmt.Sprintf("INVITE sip:bob@example.org SIP/2.0\nVia: SIP/2.0/TCP %s;branch=z9hG4bK%d\nFrom: <sip:a@b>;tag=a\nTo: <sip:b@c>\nContact: <sip:a@127.0.0.1>\nCall-ID: %d\nCSeq: 1 INVITE\nContent-Length: 0\n\n", via, n, n)
}

// leaves closes a connection and waits until the edge knows.
func (w *wireEnd) leaves() {
	w.lab.Helper()
	before := w.lab.e.net.Stats().Connections
	_ = w.conn.Close()
	awaits(func() bool { return w.lab.e.net.Stats().Connections < before })
}

func portOf(ln net.Listener) uint16 { return netip.MustParseAddrPort(ln.Addr().String()).Port() }

// A response whose connection is gone goes over a new one (18.2.2): to the address that the
// request came from, whatever Via names, and the port of sent-by, as it was in the request.
func TestResponseReopensItsConnection(t *testing.T) {
	for name, host := range map[string]string{
		"address":         "127.0.0.1",
		"other address":   "10.9.9.9",
		"name of another": "victim.example.com",
	} {
		t.Run(name, func(t *testing.T) {
			l, pbx := startedWithPBX(t, nil)
			ln := listenTCP(t)
			phone := l.dial(1)
			phone.sends(callerOver(fmt.Sprintf("%s:%d;rport", host, portOf(ln)), 1))
			phone.get("100 INVITE")
			inv := pbx.get("INVITE")
			phone.leaves()
			// Whoever answers must not choose the port.
			l.sendUDP(pbx, strings.Replace(response(inv, 180, "b"), fmt.Sprintf("%s:%d", host, portOf(ln)), host+":9", 1))
			again := accept(l, ln)
			again.get("180 INVITE")
			l.sendUDP(pbx, response(inv, 486, "b"))
			final := again.get("486 INVITE")
			pbx.get("ACK")
			req := &wire.Msg{}
			req.Scan([]byte(crlf(callerOver(fmt.Sprintf("%s:%d", host, portOf(ln)), 1))), true)
			again.sends(ackOf(req, final))
			c := l.context()
			isAcked := func() bool {
				c.mu.Lock()
				defer c.mu.Unlock()
				return c.server.State() == transaction.Terminated
			}
			awaits(isAcked)
			if n := l.e.Counters().Reopened; n != 1 || !isAcked() {
				t.Errorf("%d connections, acknowledged: %t", n, isAcked())
			}
		})
	}
}

// A 2xx comes again and again (16.7 step 5); a peer outside has one attempt all the same.
func TestResponseReopensItsConnectionOnce(t *testing.T) {
	l, pbx := startedWithPBX(t, nil)
	ln := listenTCP(t)
	phone := l.dial(1)
	phone.sends(callerOver(ln.Addr().String(), 1))
	phone.get("100 INVITE")
	inv := pbx.get("INVITE")
	phone.leaves()
	l.sendUDP(pbx, response(inv, 200, "b"))
	again := accept(l, ln)
	again.get("200 INVITE")
	l.sendUDP(pbx, response(inv, 200, "b"))
	again.get("200 INVITE")
	again.leaves()
	before := l.e.Counters().SendErrors
	l.sendUDP(pbx, response(inv, 200, "b"))
	awaits(func() bool { return l.e.Counters().SendErrors > before })
	if n := l.e.Counters().Reopened; n != 1 || l.e.Counters().SendErrors == before {
		t.Errorf("%d connections: %+v", n, l.e.Counters())
	}
}

// All peers outside together have a few connections opened in a second.
func TestReopenedConnectionsAreRare(t *testing.T) {
	const calls = 3 * reopensPerSecond
	l, pbx := startedWithPBX(t, nil)
	phone := l.dial(1)
	var invites []*wire.Msg
	for i := range calls {
		phone.sends(callerOver(fmt.Sprintf("127.0.0.1:%d", firstUserPort+i), i)) // nobody is there
		invites = append(invites, pbx.get("INVITE"))
	}
	phone.leaves()
	began := time.Now()
	for _, inv := range invites {
		l.sendUDP(pbx, response(inv, 486, "b"))
		pbx.get("ACK")
	}
	seconds := uint64(time.Since(began)/time.Second) + 1
	if n := l.e.Counters().Reopened; n == 0 || n > seconds*reopensPerSecond+1 {
		t.Errorf("%d connections in %s", n, time.Since(began))
	}
}

// A carrier has all its calls on one connection. That is opened again once, whatever goes over it then: what is bounded are
// connections.
func TestResponsesShareAReopenedConnection(t *testing.T) {
	const calls = 3 * reopensPerSecond
	l, pbx := startedWithPBX(t, nil)
	ln := listenTCP(t)
	carrier := l.dial(1)
	var invites []*wire.Msg
	for i := range calls {
		carrier.sends(callerOver(ln.Addr().String(), i))
		carrier.get("100 INVITE")
		invites = append(invites, pbx.get("INVITE"))
	}
	carrier.leaves()
	for _, inv := range invites {
		l.sendUDP(pbx, response(inv, 486, "b"))
		pbx.get("ACK")
	}
	again := accept(l, ln)
	for range invites {
		again.get("486 INVITE")
	}
	if n := l.e.net.Stats().Connections; n != 1 {
		t.Errorf("%d connections", n)
	}
}

// A node of the pool is called back where it takes requests, as often as it takes.
func TestResponseReopensTheConnectionOfANode(t *testing.T) {
	ln := listenTCP(t)
	l := started(t, "sip:"+ln.Addr().String()+";transport=tcp", nil)
	for range 2 * reopensPerSecond { // a quota of others
		l.e.reopens.Admit(l.e.wheel.Now())
	}
	node := l.dial(1)
	node.sends(strings.Replace(callerOver(ln.Addr().String(), 1), "sip:bob@example.org", "sip:bob@"+l.phone.addr.String()+";transport=udp", 1))
	node.get("100 INVITE")
	inv := l.phone.get("INVITE")
	node.leaves()
	for range 3 {
		l.sendUDP(l.phone, response(inv, 200, "p"))
		again := accept(l, ln)
		again.get("200 INVITE")
		again.leaves()
	}
}

// The response to a CANCEL that has no transaction goes over an open connection or nowhere.
func TestStatelessResponseOpensNothing(t *testing.T) {
	l, pbx := startedWithPBX(t, nil)
	ln := listenTCP(t)
	phone := l.dial(1)
	cancel := strings.ReplaceAll(callerOver(ln.Addr().String(), 1), "INVITE", "CANCEL")
	phone.sends(cancel)
	m := pbx.get("CANCEL")
	before := l.e.Counters().SendErrors
	l.sendUDP(pbx, response(m, 481, "b"))
	awaits(func() bool { return l.e.Counters().SendErrors > before })
	if s := l.e.net.Stats(); s.Connections != 1 || l.e.Counters().SendErrors == before {
		t.Errorf("%+v", s)
	}
	phone.sends(strings.Replace(strings.Replace(cancel, ";branch=z9hG4bK1", ";branch=z9hG4bK2;rport", 1), "Call-ID: 1", "Call-ID: 2", 1))
	m = pbx.get("CANCEL")
	l.sendUDP(pbx, response(m, 481, "b"))
	phone.get("481 CANCEL")
}

// Nobody opens a connection to a browser.
func TestBrowserIsNotCalledBack(t *testing.T) {
	l, pbx := startedWithPBX(t, func(c *config.Config) {
		c.Listen = append(c.Listen, config.Listener{Address: "ws:127.0.0.1:0", Proto: "ws", Bind: netip.MustParseAddrPort("127.0.0.1:0")})
	})
	ln := listenTCP(t)
	tab := l.dial(2)
	tab.sends("GET / HTTP/1.1\nHost: edge\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Version: 13\nSec-WebSocket-Protocol: sip\n\n")
	if _, err := bufio.NewReader(tab.conn).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	text := crlf(strings.Replace(callerOver(ln.Addr().String(), 1), "SIP/2.0/TCP", "SIP/2.0/WS", 1))
	frame := binary.BigEndian.AppendUint16([]byte{0x81, 0x80 | 126}, uint16(len(text)))
	if _, err := tab.conn.Write(append(append(frame, 0, 0, 0, 0), text...)); err != nil {
		t.Fatal(err)
	}
	inv := pbx.get("INVITE")
	tab.leaves()
	before := l.e.Counters().SendErrors
	l.sendUDP(pbx, response(inv, 486, "b"))
	pbx.get("ACK")
	awaits(func() bool { return l.e.Counters().SendErrors > before })
	if n := l.e.Counters().Reopened; n != 0 || l.e.Counters().SendErrors == before {
		t.Errorf("%d connections: %+v", n, l.e.Counters())
	}
}

// Over TLS the peer has to prove the name in its Via; this one shows a certificate that nobody
// vouches for.
func TestStrangerIsNotCalledBackOverTLS(t *testing.T) {
	cert, key := certificate(t)
	own := &tls.Config{Certificates: []tls.Certificate{readPair(t, cert, key)}}
	l, pbx := startedWithPBX(t, func(c *config.Config) {
		c.Listen = append(c.Listen, config.Listener{
			Address: "tls:127.0.0.1:0", Proto: "tls", Bind: netip.MustParseAddrPort("127.0.0.1:0"), Certificate: cert, Key: key,
		})
	})
	ln := listenTCP(t)
	raw := l.dial(2)
	phone := l.wireEnd(tls.Client(raw.conn, &tls.Config{InsecureSkipVerify: true}))
	phone.sends(strings.Replace(callerOver(fmt.Sprintf("pbx.example.com:%d", portOf(ln)), 1), "SIP/2.0/TCP", "SIP/2.0/TLS", 1))
	phone.get("100 INVITE")
	inv := pbx.get("INVITE")
	phone.leaves()
	l.sendUDP(pbx, response(inv, 486, "b"))
	asked := ""
	own.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) { asked = h.ServerName; return nil, nil }
	again := accept(l, ln)
	secured := tls.Server(again.conn, own)
	if n, err := secured.Read(make([]byte, 1000)); err == nil || n > 0 || asked != "pbx.example.com" {
		t.Errorf("%d bytes for %q: %v", n, asked, err)
	}
}

// What a peer outside writes into its Via is kept for as long as its transaction is, where it
// can be the name in a certificate.
func TestReturnAddressIsBounded(t *testing.T) {
	long := strings.Repeat("a", 60000)
	for _, test := range []struct {
		proto, via string
		port       uint16
		name       int
	}{
		{"TCP", "10.0.0.1", 5060, 0},
		{"TCP", "a.example.com:5070", 5070, 0},
		{"TCP", long + ":5070", 5070, 0},
		{"TLS", "10.0.0.1:5071", 5071, 0},
		{"TLS", "a.example.com", 5061, 13},
		{"TLS", "a.example.com:443", 443, 13},
		{"TLS", long[:255], 5061, 255},
		{"TLS", long[:256], 0, 0},
		{"TLS", long, 0, 0},
	} {
		l := started(t, "sip:127.0.0.1:9", func(c *config.Config) {
			if test.proto == "TLS" {
				cert, key := certificate(t)
				c.Listen = append(c.Listen, config.Listener{
					Address: "tls:127.0.0.1:0", Proto: "tls", Bind: netip.MustParseAddrPort("127.0.0.1:0"), Certificate: cert, Key: key,
				})
			}
		})
		phone := l.dial(1)
		if test.proto == "TLS" {
			phone = l.wireEnd(tls.Client(l.dial(2).conn, &tls.Config{InsecureSkipVerify: true}))
		}
		phone.sends(strings.Replace(callerOver(test.via, 1), "SIP/2.0/TCP", "SIP/2.0/"+test.proto, 1))
		phone.get("100 INVITE")
		if a := l.context().home; a.port != test.port || len(a.host) != test.name {
			t.Errorf("%s %.20s: port %d, a name of %d bytes", test.proto, test.via, a.port, len(a.host))
		}
	}
}

// Services of a system are called by nobody outside: who comes through a gateway of ours has
// the address of that, and writes most of a response.
func TestSystemPortIsNotCalledBack(t *testing.T) {
	l, pbx := startedWithPBX(t, nil)
	for i, port := range []int{1023, 25, 1024} {
		phone := l.dial(1)
		phone.sends(callerOver(fmt.Sprintf("127.0.0.1:%d", port), i))
		phone.get("100 INVITE")
		inv := pbx.get("INVITE")
		phone.leaves()
		before := l.e.Counters()
		l.sendUDP(pbx, response(inv, 486, "b"))
		pbx.get("ACK")
		isDone := func() bool {
			now := l.e.Counters()
			return now.SendErrors > before.SendErrors || now.Reopened > before.Reopened
		}
		awaits(isDone)
		if isCalled := l.e.Counters().Reopened > before.Reopened; isCalled != (port >= 1024) {
			t.Errorf("port %d: called %t", port, isCalled)
		}
	}
}

// An address behind a NAT, be it that of a carrier (RFC 6598), is not that of the request, and
// the port next to it is somebody else's there.
func TestRequestThroughNAT(t *testing.T) {
	l := started(t, "sip:127.0.0.1:9", nil)
	for _, test := range []struct {
		src, via string
		want     bool
	}{
		{"203.0.113.1", "10.0.0.1", true},
		{"203.0.113.1", "192.168.1.2:5060", true},
		{"203.0.113.1", "100.64.0.1", true},
		{"203.0.113.1", "100.127.255.255", true},
		{"203.0.113.1", "100.128.0.1", false},
		{"203.0.113.1", "203.0.113.1", false},
		{"203.0.113.1", "203.0.113.2", false},
		{"203.0.113.1", "a.example.com", false},
		{"2001:db8::1", "[fd00::1]", true},
		{"100.64.0.2", "100.64.0.1", false}, // a network of ours
		{"100.64.0.2", "10.0.0.1", false},
		{"10.0.0.2", "100.64.0.1", false},
		{"127.0.0.1", "10.0.0.1", false},
	} {
		m := &wire.Msg{}
		m.Scan([]byte(crlf(callerOver(test.via, 1))), true)
		f := l.e.net.Listeners()[0].FlowTo(netip.AddrPortFrom(netip.MustParseAddr(test.src), 40000))
		if isTranslated(m, f) != test.want {
			t.Errorf("%s from %s: not %t", test.via, test.src, test.want)
		}
	}
}
