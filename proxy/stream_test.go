package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// started is a lab whose edge runs as it does in production, with a UDP and a TCP
// listener and real time. b is the address of the only backend.
func started(t *testing.T, b string, change func(*config.Config)) *lab {
	t.Helper()
	l := &lab{TB: t, log: &logLines{}, inRealTime: true}
	l.phone = l.newPeer("PHONE")
	c := testConfig("udp:127.0.0.1:0", "tcp:127.0.0.1:0")
	pool := config.DefaultPool()
	pool.Probe.Interval = 0
	x := config.DefaultBackend()
	x.Name, x.Address = "pbx1", b
	pool.Backends = []config.Backend{x}
	c.Pools = map[string]config.Pool{"pbx": pool}
	if change != nil {
		change(c)
	}
	l.e = newEdge(t, c, l.log)
	l.e.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience*time.Millisecond)
		defer cancel()
		if err := l.e.Stop(ctx); err != nil {
			t.Error(err)
		}
		if err := l.e.log.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// startedWithPBX is started in front of a PBX that the test plays, over UDP.
func startedWithPBX(t *testing.T, change func(*config.Config)) (l *lab, pbx *peer) {
	t.Helper()
	pbx = (&lab{TB: t}).newPeer("PBX1")
	l = started(t, "sip:"+pbx.addr.String(), change)
	pbx.lab = l
	return l, pbx
}

// A wireEnd is one end of a TCP connection of a peer.
type wireEnd struct {
	lab  *lab
	conn net.Conn
	buf  []byte
	f    wire.Framer
}

func (l *lab) wireEnd(conn net.Conn) *wireEnd {
	l.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(60 * time.Second)) // a test that fails must end
	return &wireEnd{lab: l, conn: conn, f: wire.Framer{Max: 65535}}
}

// dial opens a connection to listener i of the edge.
func (l *lab) dial(i int) *wireEnd {
	l.Helper()
	conn, err := net.Dial("tcp", l.e.Listeners()[i].Bound.String())
	if err != nil {
		l.Fatal(err)
	}
	return l.wireEnd(conn)
}

func (w *wireEnd) sends(text string) {
	w.lab.Helper()
	if _, err := w.conn.Write([]byte(crlf(text))); err != nil {
		w.lab.Fatal(err)
	}
}

// get reads one message off the stream.
func (w *wireEnd) get(what string) *wire.Msg {
	w.lab.Helper()
	for {
		msg, n, _, fault := w.f.Next(w.buf)
		if fault != wire.NoFault {
			w.lab.Fatalf("the stream is broken (%v): %q", fault, w.buf)
		}
		text := append([]byte(nil), msg...)
		w.buf = w.buf[n:]
		if msg != nil {
			m := &wire.Msg{}
			if f := m.Scan(text, true); f != wire.NoFault || title(m) != what {
				w.lab.Fatalf("got %v %q, want %q:\n%s", f, title(m), what, text)
			}
			return m
		}
		more := make([]byte, 65536)
		k, err := w.conn.Read(more)
		if err != nil {
			w.lab.Fatalf("waiting for %q: %v", what, err)
		}
		w.buf = append(w.buf, more[:k]...)
	}
}

func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

func accept(l *lab, ln net.Listener) *wireEnd {
	l.Helper()
	conn, err := ln.Accept()
	if err != nil {
		l.Fatal(err)
	}
	return l.wireEnd(conn)
}

func (l *lab) sendUDP(p *peer, text string) {
	l.Helper()
	to := net.UDPAddrFromAddrPort(l.e.Listeners()[0].Bound)
	if _, err := p.conn.WriteToUDP([]byte(crlf(text)), to); err != nil {
		l.Fatal(err)
	}
}

// On a stream Content-Length is what ends a message (20.14); over UDP it may be
// missing (18.3). A bridge has to add it.
func TestBridgeAddsContentLength(t *testing.T) {
	const body = "v=0\r\nodd=\r\n\r\n"
	t.Run("request", func(t *testing.T) {
		ln := listenTCP(t)
		l := started(t, "sip:"+ln.Addr().String()+";transport=tcp", nil)
		for _, length := range []string{"", "l: " + fmt.Sprint(len(body)) + "\r\n"} {
			l.sendUDP(l.phone, "INVITE sip:bob@example.org SIP/2.0\nVia: SIP/2.0/UDP 10.0.0.1;rport;branch=z9hG4bK1"+fmt.Sprint(len(length))+"\nFrom: <sip:a@b>;tag=a\nTo: <sip:b@c>\nCall-ID: 1\nCSeq: 1 INVITE\n"+length+"\n"+body)
			l.phone.get("100 INVITE")
		}
		pbx := accept(l, ln)
		for range 2 {
			m := pbx.get("INVITE")
			if string(m.Bytes(m.Body)) != body || strings.Count(strings.ToLower(string(m.Buf)), "\r\ncontent-length:")+strings.Count(string(m.Buf), "\r\nl:") != 1 {
				t.Errorf("%s", m.Buf)
			}
		}
	})
	t.Run("response", func(t *testing.T) {
		l, pbx := startedWithPBX(t, nil)
		phone := l.dial(1)
		phone.sends("INVITE sip:bob@example.org SIP/2.0\nVia: SIP/2.0/TCP 10.0.0.1;branch=z9hG4bK1\nFrom: <sip:a@b>;tag=a\nTo: <sip:b@c>\nCall-ID: 1\nCSeq: 1 INVITE\nContent-Length: 0\n\n")
		phone.get("100 INVITE")
		inv := pbx.get("INVITE")
		for _, status := range []int{183, 200} {
			l.sendUDP(pbx, strings.Replace(response(inv, status, "b"), "Content-Length: 0\r\n\r\n", "\r\n"+body, 1))
			m := phone.get(fmt.Sprint(status, " INVITE"))
			if string(m.Bytes(m.Body)) != body {
				t.Errorf("%s", m.Buf)
			}
		}
	})
}

// The end of a connection fails what waits for an answer on it at once, and leaves
// nothing in the index.
func TestConnectionClosedWhileWaiting(t *testing.T) {
	ln := listenTCP(t)
	l := started(t, "sip:"+ln.Addr().String()+";transport=tcp", nil)
	phone := l.dial(1)
	phone.sends("INVITE sip:bob@example.org SIP/2.0\nVia: SIP/2.0/TCP 10.0.0.1;branch=z9hG4bK1\nFrom: <sip:a@b>;tag=a\nTo: <sip:b@c>\nCall-ID: 1\nCSeq: 1 INVITE\nContent-Length: 0\n\n")
	phone.get("100 INVITE")
	pbx := accept(l, ln)
	pbx.get("INVITE")
	_ = pbx.conn.Close()
	m := phone.get("500 INVITE")
	awaits(func() bool { return l.e.onConn.len() == 0 })
	if n := l.e.onConn.len(); n != 0 {
		t.Errorf("%d connections in the index", n)
	}
	req := &wire.Msg{}
	req.Scan([]byte(crlf("INVITE sip:bob@example.org SIP/2.0\nVia: SIP/2.0/TCP 10.0.0.1;branch=z9hG4bK1\nFrom: <sip:a@b>;tag=a\nTo: <sip:b@c>\nCall-ID: 1\nCSeq: 1 INVITE\nContent-Length: 0\n\n")), true)
	phone.sends(ackOf(req, m))
	// The ACK ends the server transaction (timer I is zero), and with it all.
	phone.sends("OPTIONS sip:" + l.e.Listeners()[1].Bound.String() + " SIP/2.0\nVia: SIP/2.0/TCP 10.0.0.1;branch=z9hG4bK2\nFrom: <sip:a@b>;tag=a\nTo: <sip:b@c>\nCall-ID: 2\nCSeq: 1 OPTIONS\nContent-Length: 0\n\n")
	phone.get("200 OPTIONS")
	awaits(func() bool { return l.e.Counters().Transactions == 0 && l.strayTimers() == 0 })
	if c := l.e.Counters(); c.Transactions != 0 || l.strayTimers() != 0 || c.Active != 0 {
		t.Errorf("left over: %+v", c)
	}
}

// A response whose connection is gone, and cannot be opened again, is lost: the edge must
// survive that.
func TestCallerGone(t *testing.T) {
	l, pbx := startedWithPBX(t, nil)
	phone := l.dial(1)
	phone.sends("INVITE sip:bob@example.org SIP/2.0\nVia: SIP/2.0/TCP 10.0.0.1:9;branch=z9hG4bK1\nFrom: <sip:a@b>;tag=a\nTo: <sip:b@c>\nCall-ID: 1\nCSeq: 1 INVITE\nContent-Length: 0\n\n")
	phone.get("100 INVITE")
	inv := pbx.get("INVITE")
	_ = phone.conn.Close()
	l.sendUDP(pbx, response(inv, 486, "b"))
	pbx.get("ACK")
	if n := l.e.Counters().Panics; n != 0 {
		t.Errorf("%d panics", n)
	}
}

// TestLongRequestGoesOverTCP: tcp_above takes what would go in fragments to the backend's
// TCP port, and leaves the rest on UDP.
func TestLongRequestGoesOverTCP(t *testing.T) {
	pbx := (&lab{TB: t}).newPeer("PBX1")
	ln, err := net.Listen("tcp", pbx.addr.String())
	if err != nil {
		t.Skip("another program has the TCP port")
	}
	t.Cleanup(func() { _ = ln.Close() })
	l := started(t, "sip:"+pbx.addr.String(), func(c *config.Config) {
		pool := c.Pools["pbx"]
		pool.TCPAbove = 1300
		c.Pools["pbx"] = pool
	})
	pbx.lab = l
	short, long := l.phone.call(), l.phone.call()
	long.more = "Content-Type: text/plain\n"
	long.body = strings.Repeat("x", 1300)
	l.sendUDP(l.phone, short.text("INVITE"))
	pbx.get("INVITE")
	l.sendUDP(l.phone, long.text("INVITE"))
	over := accept(l, ln)
	m := over.get("INVITE")
	if via := string(m.Value(wire.KindVia)); !strings.HasPrefix(via, "SIP/2.0/TCP ") || m.CountValues(wire.KindRecordRoute) != 2 {
		t.Errorf("the backend got\n%s", m.Buf)
	}
	over.sends(response(m, 486, "p"))
	l.phone.get("100 INVITE")
	l.phone.get("100 INVITE")
	l.phone.get("486 INVITE")
	over.get("ACK")
	pbx.nothing()
	if n := l.e.Counters().Large; n != 0 {
		t.Errorf("%d long datagrams", n)
	}
}

// TestReplyThroughNAT: without rport the answer goes to the port of Via (RFC 3261 18.2.2),
// unless that is for certain a port behind a NAT.
func TestReplyThroughNAT(t *testing.T) {
	l := newLab(t, 0, nil)
	t.Cleanup(func() {
		_ = l.e.Stop(context.Background())
		_ = l.e.log.Close()
	})
	for _, c := range []struct {
		via, from string
		port      uint16
	}{
		{"192.168.1.20:5060", "198.51.100.7:40000", 40000},
		{"192.168.1.20:5060;rport", "198.51.100.7:40000", 40000},
		{"192.168.1.20", "192.168.1.20:40000", 5060},
		{"192.168.1.20:5070", "10.0.0.1:40000", 5070},
		{"203.0.113.9:5070", "198.51.100.7:40000", 5070},
		{"phone.example.org:5070", "198.51.100.7:40000", 5070},
	} {
		var m wire.Msg
		m.Scan([]byte(crlf("OPTIONS sip:a@b SIP/2.0\nVia: SIP/2.0/UDP "+c.via+";branch=z9hG4bK1\nFrom: <sip:a@b>;tag=a\nTo: <sip:b@c>\nCall-ID: 1\nCSeq: 1 OPTIONS\nMax-Forwards: 1\nContent-Length: 0\n\n")), false)
		f := replyFlow(&m, l.e.net.Listeners()[0].FlowTo(netip.MustParseAddrPort(c.from)))
		if got := f.Remote().Port(); got != c.port {
			t.Errorf("Via %s from %s: the answer goes to port %d, want %d", c.via, c.from, got, c.port)
		}
	}
}
