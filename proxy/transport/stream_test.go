package transport

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

func TestStreamKeepsOrder(t *testing.T) {
	const all = 10000
	r := newRecorder()
	r.onReceive = echo
	l := start(t, Options{}, r, spec("tcp 127.0.0.1:0"))
	peer := dialTo(t, l, 0)
	go func() {
		for i := range all {
			_, _ = io.WriteString(peer, message(i, i%700))
		}
	}()
	for i := range all {
		expect(t, peer, message(i, i%700))
	}
}

func TestMessagesAreCutWhateverTheSegments(t *testing.T) {
	whole := message(1, 3000)
	cases := []struct {
		name   string
		pieces []string
		want   []string
	}{
		{"two in one", []string{message(1, 10) + message(2, 0)}, []string{message(1, 10), message(2, 0)}},
		{"one and a half", []string{message(1, 10) + message(2, 50)[:40], message(2, 50)[40:]}, []string{message(1, 10), message(2, 50)}},
		{"one in 500", split(whole, 500), []string{whole}},
		{"large", []string{message(1, 60000)}, []string{message(1, 60000)}},
		{"small after large", []string{message(1, 60000) + message(2, 1), message(3, 15000), message(4, 2)},
			[]string{message(1, 60000), message(2, 1), message(3, 15000), message(4, 2)}},
		{"byte by byte", split(message(1, 5), len(message(1, 5))), []string{message(1, 5)}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := newRecorder()
			l := start(t, Options{}, r, spec("tcp 127.0.0.1:0"))
			peer := dialTo(t, l, 0)
			_ = peer.SetNoDelay(true)
			for _, piece := range c.pieces {
				write(t, peer, piece)
			}
			for _, want := range c.want {
				got := next(t, r.packets)
				if got.data != want || got.fault != 0 {
					t.Errorf("got %.80q, %v", got.data, got.fault)
				}
				if got.flow.Proto() != wire.TCP || got.flow.Remote() != addrOf(peer) || got.flow.Local() != l.Listeners()[0].Bound() ||
					got.flow.Listener() != l.Listeners()[0] || !got.flow.Conn().Inbound() || l.ConnByID(got.flow.Conn().ID()) != got.flow.Conn() {
					t.Errorf("%+v", got.flow)
				}
			}
		})
	}
}

func split(s string, pieces int) (parts []string) {
	for i := range pieces {
		parts = append(parts, s[i*len(s)/pieces:(i+1)*len(s)/pieces])
	}
	return parts
}

func TestPingsGetPongs(t *testing.T) {
	r := newRecorder()
	r.onReceive = echo
	l := start(t, Options{}, r, spec("tcp 127.0.0.1:0"))
	peer := dialTo(t, l, 0)
	write(t, peer, "\r\n\r\n") // alone
	expect(t, peer, "\r\n")
	write(t, peer, message(1, 3)+"\r\n\r\n"+message(2, 3)) // glued
	expect(t, peer, message(1, 3)+"\r\n"+message(2, 3))
	for _, piece := range []string{"\r", "\n", "\r", "\n"} { // split
		write(t, peer, piece)
	}
	expect(t, peer, "\r\n")
	write(t, peer, "\r\n"+message(3, 0)) // a single CRLF is no ping
	expect(t, peer, message(3, 0))
	write(t, peer, strings.Repeat("\r\n\r\n", 3))
	expect(t, peer, "\r\n\r\n\r\n")
}

func TestBrokenStreamIsAnsweredThenClosed(t *testing.T) {
	cases := []struct{ name, sent, head string }{
		{"not SIP", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET /"},
		{"binary", "\x16\x03\x01\x02\x00\x01\x00", "\x16\x03"},
		{"no length", strings.Replace(message(1, 0), "Content-Length: 0\r\n", "", 1), "MESSAGE"},
		{"too large", message(1, 5000), "MESSAGE"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := newRecorder()
			got := make(chan received, 1)
			r.onReceive = func(p *Packet) {
				_ = p.Flow.Send([]byte("SIP/2.0 400 Bad Request\r\n\r\n"))
				got <- received{p.Flow, string(p.Data), p.Fault}
			}
			l := start(t, Options{Limits: config.Limits{MaxMessage: 3000}}, r, spec("tcp 127.0.0.1:0"))
			peer := dialTo(t, l, 0)
			write(t, peer, c.sent+strings.Repeat("and more", 1000))
			p := next(t, got)
			if p.fault == wire.NoFault || !strings.HasPrefix(p.data, c.head) || len(p.data) > 3000 {
				t.Errorf("%v %.60q", p.fault, p.data)
			}
			expect(t, peer, "SIP/2.0 400 Bad Request\r\n\r\n")
			if b, err := io.ReadAll(peer); len(b) > 0 || err != nil {
				t.Errorf("%q %v", b, err)
			}
			_ = peer.Close()
			if end := next(t, r.closed); end.err != p.fault || end.conn != p.flow.Conn() {
				t.Error(end.err)
			}
			if s := l.Stats(); s.StreamFaults != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestSlowMessageClosesTheConnection(t *testing.T) {
	r := newRecorder()
	l := start(t, Options{Limits: config.Limits{MessageTimeout: config.Duration(100 * time.Millisecond)}}, r, spec("tcp 127.0.0.1:0"))
	slow, whole := dialTo(t, l, 0), dialTo(t, l, 0)
	write(t, whole, message(1, 0))
	next(t, r.packets)
	stop := make(chan struct{})
	go func() { // a byte now and then does not help
		defer close(stop)
		for _, b := range []byte(message(2, 10000)) {
			if _, err := slow.Write([]byte{b}); err != nil {
				return
			}
			wait := time.NewTimer(5 * time.Millisecond)
			<-wait.C
		}
	}()
	if end := next(t, r.closed); !errors.Is(end.err, ErrSlowMessage) || end.conn.Remote() != addrOf(slow) {
		t.Error(end)
	}
	<-stop
	write(t, whole, message(3, 0)) // rest between messages is not limited so
	next(t, r.packets)
	if s := l.Stats(); s.SlowMessages != 1 || s.Connections != 1 {
		t.Errorf("%+v", s)
	}
}

func TestIdleConnectionIsClosed(t *testing.T) {
	r := newRecorder()
	// Time enough for the message on a busy machine.
	l := start(t, Options{Limits: config.Limits{IdleTimeout: config.Duration(3 * time.Second)}}, r, spec("tcp 127.0.0.1:0"))
	peer := dialTo(t, l, 0)
	write(t, peer, message(1, 0))
	next(t, r.packets)
	if end := next(t, r.closed); !errors.Is(end.err, ErrIdle) {
		t.Error(end.err)
	}
	expectEnd(t, peer)
}

// Who opens a connection and says nothing on it has no place for long; one byte more, and it may be a telephone at rest.
func TestMutePeerIsClosed(t *testing.T) {
	secure, pool := tlsSpec(t)
	for name, secret := range map[string]bool{"tcp": false, "tls": true} {
		t.Run(name, func(t *testing.T) {
			r, s := newRecorder(), spec("tcp 127.0.0.1:0")
			if secret {
				s = secure
			}
			l := New(Options{})
			l.limits.mute = 50 * time.Millisecond
			serve(t, l, r, s)
			peer := net.Conn(dialTo(t, l, 0))
			if secret {
				peer = tls.Client(peer, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
				if err := peer.(*tls.Conn).Handshake(); err != nil {
					t.Fatal(err)
				}
			}
			if end := next(t, r.closed); !errors.Is(end.err, ErrIdle) {
				t.Error(end.err)
			}
		})
	}
}

func TestHowLongAPeerMayRest(t *testing.T) {
	const idle = time.Hour
	for name, test := range map[string]struct {
		heard bool
		conn  *Conn
		idle  time.Duration
		want  time.Duration
	}{
		"accepted":             {false, &Conn{inbound: true}, idle, mutePeer},
		"accepted, as it says": {false, &Conn{inbound: true}, time.Second, time.Second},
		"it sent a ping":       {true, &Conn{inbound: true}, idle, idle},
		"dialled":              {false, &Conn{}, idle, idle},
		"dialled back":         {false, &Conn{isGuest: true}, idle, idle},
		"web":                  {false, &Conn{inbound: true, web: &webSocket{}}, idle, idle},
	} {
		test.conn.layer = &Layer{limits: limits{idle: test.idle, mute: mutePeer}}
		r := reader{c: test.conn, heard: test.heard, lastRead: time.Unix(1, 0)}
		if got := r.restsUntil().Sub(r.lastRead); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestPeerThatClosesIsReported(t *testing.T) {
	r := newRecorder()
	l := start(t, Options{}, r, spec("tcp [::1]:0"))
	peer := dialTo(t, l, 0)
	write(t, peer, message(1, 0))
	flow := next(t, r.packets).flow
	_ = peer.Close()
	end := next(t, r.closed)
	if end.conn != flow.Conn() || !errors.Is(end.err, io.EOF) || !errors.Is(flow.Conn().Err(), io.EOF) {
		t.Error(end)
	}
	if err := flow.Send([]byte("x")); err == nil {
		t.Error("sent on a closed connection")
	}
	if l.ConnByID(flow.Conn().ID()) != nil {
		t.Error("the closed connection is still known")
	}
}

func TestSlowReaderDelaysNobodyAndIsClosed(t *testing.T) {
	const queue = 1 << 20
	r := newRecorder()
	l := start(t, Options{Limits: config.Limits{WriteQueue: queue}}, r, spec("tcp 127.0.0.1:0"))
	slow, quick := dialTo(t, l, 0), dialTo(t, l, 0)
	write(t, slow, message(1, 0))
	toSlow := next(t, r.packets).flow
	write(t, quick, message(2, 0))
	toQuick := next(t, r.packets).flow

	big := []byte(message(3, 60000))
	var err error
	sent := 0
	for err == nil && sent < 1<<30 { // what the kernel buffers, then the queue
		if err = toSlow.Send(big); err == nil {
			sent += len(big)
		}
		if sent%(50*len(big)) == 0 {
			if err := toQuick.Send([]byte(message(4, 0))); err != nil {
				t.Fatal(err)
			}
			expect(t, quick, message(4, 0))
		}
	}
	if !errors.Is(err, ErrQueueFull) || sent < queue-len(big) {
		t.Fatal(sent, err)
	}
	if end := next(t, r.closed); end.conn != toSlow.Conn() || !errors.Is(end.err, ErrQueueFull) {
		t.Error(end)
	}
	if err := toQuick.Send([]byte(message(5, 0))); err != nil {
		t.Error(err)
	}
	expect(t, quick, message(5, 0))
	if s := l.Stats(); s.QueueOverflows != 1 || s.Connections != 1 {
		t.Errorf("%+v", s)
	}
}

func TestQueuedMessagesArriveWholeAndInOrder(t *testing.T) {
	const all = 300
	r := newRecorder()
	l := start(t, Options{Limits: config.Limits{WriteQueue: 64 << 20}}, r, spec("tcp 127.0.0.1:0"))
	peer := dialTo(t, l, 0)
	write(t, peer, message(0, 0))
	flow := next(t, r.packets).flow
	for i := range all { // 18 MB: more than the kernel takes
		if err := flow.Send([]byte(message(i, 60000))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range all {
		expect(t, peer, message(i, 60000))
	}
	if err := flow.Send([]byte(message(1, 1))); err != nil { // and the direct way is open again
		t.Fatal(err)
	}
	expect(t, peer, message(1, 1))
}

func TestPeerThatTakesNothingTimesOut(t *testing.T) {
	r := newRecorder()
	l := start(t, Options{Limits: config.Limits{WriteQueue: 64 << 20, WriteTimeout: config.Duration(50 * time.Millisecond)}}, r, spec("tcp 127.0.0.1:0"))
	peer := dialTo(t, l, 0)
	write(t, peer, message(0, 0))
	flow := next(t, r.packets).flow
	for range 300 {
		if flow.Send([]byte(message(1, 60000))) != nil {
			break
		}
	}
	if end := next(t, r.closed); !errors.Is(end.err, ErrWriteTimeout) {
		t.Error(end.err)
	}
	if s := l.Stats(); s.WriteTimeouts != 1 {
		t.Errorf("%+v", s)
	}
}

func TestConcurrentSendsAreNotMixed(t *testing.T) {
	const senders, each = 8, 200
	for _, proto := range []string{"tcp", "tls"} {
		r := newRecorder()
		l, peer := startStream(t, proto, Options{Limits: config.Limits{WriteQueue: 64 << 20}}, r)
		_ = l
		write(t, peer, message(0, 0))
		flow := next(t, r.packets).flow
		for s := range senders {
			go func() {
				for range each {
					_ = flow.Send([]byte(message(s, 100*s)))
				}
			}()
		}
		var framer wire.Framer
		var buf []byte
		chunk := make([]byte, 8192)
		for got := 0; got < senders*each; {
			n, err := peer.Read(chunk)
			if err != nil {
				t.Fatal(got, err)
			}
			buf = append(buf, chunk[:n]...)
			for {
				m, used, _, fault := framer.Next(buf)
				if fault != 0 {
					t.Fatal(fault)
				}
				buf = buf[used:]
				if m == nil {
					break
				}
				got++
			}
		}
	}
}

func TestConnectionLimits(t *testing.T) {
	r := newRecorder()
	l := start(t, Options{Limits: config.Limits{MaxConnections: 5, MaxConnectionsPerSource: 2}}, r,
		spec("tcp 127.0.0.1:0"), spec("tcp [::1]:0"))
	dial := func(source string) (*net.TCPConn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
		conn, err := d.Dial("tcp", l.Listeners()[0].Bound().String())
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		return conn.(*net.TCPConn), nil
	}
	from := func(source string) *net.TCPConn {
		t.Helper()
		conn, err := dial(source)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	refused := func(source string) {
		t.Helper()
		if conn, err := dial(source); err == nil { // else the reset came before the dial was over
			expectEnd(t, conn)
		}
	}
	works := func(c *net.TCPConn) {
		t.Helper()
		write(t, c, message(1, 0))
		next(t, r.packets)
	}
	first := from("127.0.0.1")
	works(first)
	works(from("127.0.0.1"))
	refused("127.0.0.1") // the third of one source
	works(from("127.0.0.2"))
	works(dialTo(t, l, 1))
	works(dialTo(t, l, 1))
	refused("127.0.0.3") // the sixth in all
	if s := l.Stats(); s.Connections != 5 || s.RefusedPerSource != 1 || s.RefusedTotal != 1 || s.Accepted != 5 {
		t.Errorf("%+v", s)
	}
	_ = first.Close()
	next(t, r.closed)
	works(from("127.0.0.1")) // room again
}

func TestAdmitRefusesBeforeAnythingElse(t *testing.T) {
	r := newRecorder()
	l := start(t, Options{Admit: func(*Listener, netip.AddrPort) bool { return false }}, r, spec("tcp 127.0.0.1:0"))
	if conn, err := net.Dial("tcp", l.Listeners()[0].Bound().String()); err == nil {
		expectEnd(t, conn)
		_ = conn.Close()
	}
	if s := l.Stats(); s.RefusedByRule != 1 {
		t.Errorf("%+v", s)
	}
}

func TestStreamSendDoesNotAllocate(t *testing.T) {
	r := newRecorder()
	r.onReceive = echo
	l := start(t, Options{}, r, spec("tcp 127.0.0.1:0"))
	peer := dialTo(t, l, 0)
	sent := []byte(message(1, 300))
	b := make([]byte, len(sent))
	allocations := testing.AllocsPerRun(1000, func() {
		_, _ = peer.Write(sent)
		_, _ = io.ReadFull(peer, b)
	})
	if allocations > 0 {
		t.Errorf("%v allocations", allocations)
	}
}

func TestConnectionsOfASourceAreClosed(t *testing.T) {
	for _, proto := range []string{"tcp", "tls"} {
		r := newRecorder()
		l, peer := startStream(t, proto, Options{}, r)
		write(t, peer, message(1, 0))
		from := next(t, r.packets).flow.Remote()
		if n := l.CloseFrom(func(a netip.AddrPort) bool { return a.Addr() == netip.MustParseAddr("192.0.2.1") }); n != 0 {
			t.Errorf("%s: %d connections of somebody else", proto, n)
		}
		if n := l.CloseFrom(func(a netip.AddrPort) bool { return a == from }); n != 1 {
			t.Errorf("%s: closed %d connections", proto, n)
		}
		if got := next(t, r.closed); got.err != ErrUnwanted || got.conn.Remote() != from {
			t.Error(proto, got.err)
		}
		expectEnd(t, peer)
		if n := l.CloseFrom(func(netip.AddrPort) bool { return true }); n != 0 {
			t.Errorf("%s: closed %d connections again", proto, n)
		}
	}
}

func TestDialledConnectionsAreNotOfASource(t *testing.T) {
	r := newRecorder()
	l := start(t, Options{}, r, spec("tcp 127.0.0.1:0"), spec("tcp 127.0.0.1:0"))
	flow, err := l.Connect(wire.TCP, l.Listeners()[1].Bound(), "", netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	_ = flow.Send([]byte(message(1, 0)))
	next(t, r.packets)
	if n := l.CloseFrom(func(netip.AddrPort) bool { return true }); n != 1 { // the accepted end alone
		t.Errorf("closed %d connections", n)
	}
}

// A connection that sends nothing but keep-alives, and those without a pause, is closed.
func TestFloodOfPingsEndsTheConnection(t *testing.T) {
	allowed := true
	for _, x := range []struct {
		name    string
		text    string
		isAsked bool
	}{
		{"too many at once", strings.Repeat("\r\n\r\n", maxPings+1), false},
		{"a source that sent enough", "\r\n\r\n", true},
	} {
		t.Run(x.name, func(t *testing.T) {
			allowed = !x.isAsked
			l := start(t, Options{KeptAlive: func(netip.Addr, bool) bool { return allowed }}, newRecorder(), spec("tcp 127.0.0.1:0"))
			peer := dialTo(t, l, 0)
			write(t, peer, x.text)
			_ = peer.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.Copy(io.Discard, peer); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection goes on")
			}
		})
	}
}
