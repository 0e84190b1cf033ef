package transport

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// browser is the client's end of a WebSocket.
type browser struct {
	net.Conn
	t testing.TB
}

func (b browser) send(frames ...string) { write(b.t, b.Conn, strings.Join(frames, "")) }

// frame reads one.
func (b browser) frame(from io.Reader) (ws.OpCode, string) {
	b.t.Helper()
	h, err := ws.ReadHeader(from)
	if err != nil {
		b.t.Fatal(err)
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(from, payload); err != nil {
		b.t.Fatal(err)
	}
	if !h.Fin || h.Masked || h.Rsv != 0 {
		b.t.Fatalf("%+v", h)
	}
	return h.OpCode, string(payload)
}

// gets expects one frame.
func (b browser) gets(op ws.OpCode, payload string) {
	b.t.Helper()
	if gotOp, got := b.frame(b); gotOp != op || got != payload {
		b.t.Fatalf("got %x %.100q, want %x %.100q", gotOp, got, op, payload)
	}
}

// closed expects a close frame with that code and the end of the connection.
func (b browser) closed(code ws.StatusCode) {
	b.t.Helper()
	b.gets(ws.OpClose, string(ws.NewCloseFrameBody(code, "")))
	expectEnd(b.t, b)
}

func webSpec(t testing.TB, proto string) (config.Listener, *tls.Config) {
	if proto == "ws" {
		return spec("ws 127.0.0.1:0"), nil
	}
	s, pool := tlsSpec(t)
	s.Proto = "wss"
	return s, &tls.Config{RootCAs: pool, ServerName: "proxy.example"}
}

// browse connects to a listener of startWeb's.
func browse(t testing.TB, l *Layer, secure *tls.Config) browser {
	t.Helper()
	var conn net.Conn = dialTo(t, l, 0)
	if secure != nil {
		conn = tls.Client(conn, secure)
	}
	d := ws.Dialer{Protocols: []string{"other", "sip"}}
	rest, shake, err := d.Upgrade(conn, &url.URL{Scheme: "ws", Host: "proxy.example", Path: "/any/path"})
	if err != nil {
		t.Fatal(err)
	}
	if shake.Protocol != "sip" || len(shake.Extensions) > 0 || rest != nil && rest.Buffered() > 0 {
		t.Fatalf("%+v", shake)
	}
	return browser{conn, t}
}

func startWeb(t testing.TB, proto string, o Options, h Handler) (*Layer, browser) {
	t.Helper()
	s, secure := webSpec(t, proto)
	l := start(t, o, h, s)
	return l, browse(t, l, secure)
}

// noLength is a message as it is allowed on a WebSocket (RFC 7118 section 5).
func noLength(number, body int) string {
	return strings.Replace(message(number, body), fmt.Sprintf("Content-Length: %d\r\n", body), "", 1)
}

func TestWebSocketCarriesMessages(t *testing.T) {
	for _, proto := range []string{"ws", "wss"} {
		t.Run(proto, func(t *testing.T) {
			r := newRecorder()
			r.onReceive = echo
			_, b := startWeb(t, proto, Options{}, r)
			for i := range 50 {
				sent := noLength(i, 900*i)
				b.send(text(sent))
				b.gets(ws.OpText, sent)
			}
			b.send(text("a"), clientFrame(ws.OpBinary, true, "b"), text("c")) // in one segment
			b.gets(ws.OpText, "a")
			b.gets(ws.OpText, "b")
			b.gets(ws.OpText, "c")
			b.send(text("caf\xe9"))
			b.gets(ws.OpBinary, "caf\xe9")
			big := strings.Repeat("x", defaultMaxMessage)
			b.send(text(big))
			b.gets(ws.OpText, big)
		})
	}
}

func TestWebSocketFlow(t *testing.T) {
	for proto, want := range map[string]wire.Proto{"ws": wire.WS, "wss": wire.WSS} {
		r := newRecorder()
		l, b := startWeb(t, proto, Options{}, r)
		b.send(text(noLength(1, 0)))
		got := next(t, r.packets)
		flow := got.flow
		if got.data != noLength(1, 0) || got.fault != 0 || flow.Proto() != want || flow.Remote() != addrOf(b) || flow.Listener() != l.Listeners()[0] ||
			!flow.Conn().Inbound() || l.ConnByID(flow.Conn().ID()) != flow.Conn() {
			t.Errorf("%s: %+v", proto, got)
		}
	}
}

func TestFragmentsAreOneMessage(t *testing.T) {
	r := newRecorder()
	_, b := startWeb(t, "ws", Options{}, r)
	sent := noLength(1, 30000)
	b.send(clientFrame(ws.OpText, false, sent[:100]))
	for at := 100; at < 30000; at += 1000 {
		b.send(clientFrame(ws.OpContinuation, false, sent[at:at+1000]), clientFrame(ws.OpPing, true, "in between"))
		b.gets(ws.OpPong, "in between")
	}
	b.send(clientFrame(ws.OpContinuation, true, sent[100+(29900+999)/1000*1000:]))
	if got := next(t, r.packets); got.data != sent {
		t.Errorf("%d bytes of %d", len(got.data), len(sent))
	}
}

func TestWebSocketKeepAlives(t *testing.T) {
	r := newRecorder()
	r.onReceive = echo
	l, b := startWeb(t, "ws", Options{}, r)
	b.send(clientFrame(ws.OpPing, true, "payload"))
	b.gets(ws.OpPong, "payload")
	b.send(text("\r\n\r\n"))
	b.gets(ws.OpText, "\r\n")
	b.send(text(""), text("\r\n"), clientFrame(ws.OpPong, true, "not asked for"), text("a")) // nothing answers the first three
	b.gets(ws.OpText, "a")
	if s := l.Stats(); s.Pings != 2 {
		t.Errorf("%+v", s)
	}
}

// A flood of pings in one read is answered in part, the last one in any case.
func TestPingFloodIsAnsweredInPart(t *testing.T) {
	c := &Conn{layer: New(Options{})}
	var sent sink
	if err := c.open(&webSocket{under: &sent}); err != nil {
		t.Fatal(err)
	}
	p := pingFrames{c: c}
	for i := range 100 {
		p.came([]byte{byte(i)})
		p.text()
	}
	p.answerLast()
	if len(sent.writes) != maxPongs*2+1 || sent.writes[len(sent.writes)-1] != "\x8a\x01\x63" {
		t.Errorf("%d answers: %q", len(sent.writes), sent.writes)
	}
}

// sink is a stream that keeps what is written to it.
type sink struct{ writes []string }

func (s *sink) Read([]byte) (int, error) { return 0, io.EOF }
func (s *sink) Write(p []byte) (int, error) {
	s.writes = append(s.writes, string(p))
	return len(p), nil
}

// Frames that hold nothing are keep-alives too, asked for or not: without a pause they are none.
func TestFloodOfEmptyFramesEndsTheConnection(t *testing.T) {
	for name, x := range map[string]struct{ first, frame string }{
		"pong":          {"", clientFrame(ws.OpPong, true, "")},
		"empty":         {"", clientFrame(ws.OpText, true, "")},
		"CRLF":          {"", clientFrame(ws.OpBinary, true, "\r\n")},
		"empty, within": {clientFrame(ws.OpText, false, "a"), clientFrame(ws.OpContinuation, false, "")},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan bool, 1)
			ask := func(_ netip.Addr, isStream bool) bool {
				select {
				case asked <- isStream:
					return true
				default:
					return false
				}
			}
			_, b := startWeb(t, "ws", Options{KeptAlive: ask}, newRecorder())
			b.send(x.first, x.frame)
			until(t, "a question", func() bool { return len(asked) == 1 })
			b.send(strings.Repeat(x.frame, maxPings+1))
			_ = b.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.Copy(io.Discard, b); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection goes on")
			}
		})
	}
}

func TestPing(t *testing.T) {
	for _, proto := range []string{"tcp", "tls"} {
		r := newRecorder()
		_, peer := startStream(t, proto, Options{}, r)
		write(t, peer, message(1, 0))
		c := next(t, r.packets).flow.Conn()
		for range 3 { // two pongs in a row are not a ping
			if err := c.Ping(); err != nil || c.Unanswered() != 1 {
				t.Fatal(err, c.Unanswered())
			}
			expect(t, peer, "\r\n\r\n")
			write(t, peer, "\r\n")
			until(t, "the pong", func() bool { return c.Unanswered() == 0 })
		}
		write(t, peer, "\r\n\r\n")
		expect(t, peer, "\r\n")
		_ = peer.Close()
		next(t, r.closed)
		if err := c.Ping(); err == nil {
			t.Error("pinged a closed connection")
		}
	}
	for _, proto := range []string{"ws", "wss"} {
		r := newRecorder()
		_, b := startWeb(t, proto, Options{}, r)
		b.send(text(message(1, 0)))
		c := next(t, r.packets).flow.Conn()
		if err := errors.Join(c.Ping(), c.Ping()); err != nil || c.Unanswered() != 2 {
			t.Fatal(err, c.Unanswered())
		}
		b.gets(ws.OpPing, "")
		b.gets(ws.OpPing, "")
		b.send(clientFrame(ws.OpPong, true, ""), text(message(2, 0)))
		next(t, r.packets)
		if c.Unanswered() != 0 {
			t.Error(c.Unanswered())
		}
	}
}

func TestWebSocketIsClosed(t *testing.T) {
	const most = 3000
	cases := []struct {
		name, sent string
		answer     ws.StatusCode
		isFault    bool
	}{
		{"by the peer", clientFrame(ws.OpClose, true, "\x03\xe9leaving"), ws.StatusGoingAway, false},
		{"bad status code", clientFrame(ws.OpClose, true, "\x03\xed"), ws.StatusProtocolError, true},
		{"no mask", "\x81\x05Hello", ws.StatusProtocolError, true},
		{"too large", text(strings.Repeat("x", most+1)), ws.StatusMessageTooBig, true},
		{"too large, with more", text(strings.Repeat("x", 50*most)), ws.StatusMessageTooBig, true},
		{"not a WebSocket any more", message(1, 0), ws.StatusProtocolError, true},
	}
	for _, c := range cases {
		for _, proto := range []string{"ws", "wss"} {
			t.Run(c.name+" "+proto, func(t *testing.T) {
				r := newRecorder()
				l, b := startWeb(t, proto, Options{Limits: config.Limits{MaxMessage: most}}, r)
				b.send(text("first"))
				flow := next(t, r.packets).flow
				b.send(c.sent)
				b.gets(ws.OpClose, string(ws.NewCloseFrameBody(c.answer, "")))
				expectEnd(t, b)
				_ = flow.Send([]byte("too late")) // and does not change the reason
				_ = b.Close()
				var fault *webFault
				end := next(t, r.closed)
				if c.isFault != errors.As(end.err, &fault) || !c.isFault && end.err != io.EOF {
					t.Error(end.err)
				}
				if s := l.Stats(); (s.StreamFaults == 1) != c.isFault {
					t.Errorf("%+v", s)
				}
			})
		}
	}
}

func TestCloseWithoutACodeIsAnsweredWithout(t *testing.T) {
	r := newRecorder()
	_, b := startWeb(t, "ws", Options{}, r)
	b.send(clientFrame(ws.OpClose, true, ""))
	b.gets(ws.OpClose, "")
	expectEnd(t, b)
	_ = b.Close()
	if end := next(t, r.closed); end.err != io.EOF {
		t.Error(end.err)
	}
}

func TestWebSocketIsClosedByUs(t *testing.T) {
	for _, proto := range []string{"ws", "wss"} {
		for reason, code := range map[error]ws.StatusCode{ErrClosed: ws.StatusGoingAway, ErrUnwanted: ws.StatusPolicyViolation} {
			r := newRecorder()
			_, b := startWeb(t, proto, Options{}, r)
			b.send(text("a"))
			next(t, r.packets).flow.Conn().Close(reason)
			b.closed(code)
			if end := next(t, r.closed); end.err != reason {
				t.Error(end.err)
			}
		}
	}
}

// A fragmented message has as much time as any other, whatever comes between its fragments.
func TestSlowFragmentsCloseTheConnection(t *testing.T) {
	r := newRecorder()
	l, b := startWeb(t, "ws", Options{Limits: config.Limits{MessageTimeout: config.Duration(100 * time.Millisecond)}}, r)
	b.send(clientFrame(ws.OpText, false, "a"))
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			<-tick.C
			if _, err := io.WriteString(b, clientFrame(ws.OpPing, true, "")+clientFrame(ws.OpContinuation, false, "b")); err != nil {
				return
			}
		}
	}()
	if end := next(t, r.closed); !errors.Is(end.err, ErrSlowMessage) {
		t.Error(end.err)
	}
	<-stop
	if s := l.Stats(); s.SlowMessages != 1 {
		t.Errorf("%+v", s)
	}
}

func TestIdleWebSocketIsClosed(t *testing.T) {
	r := newRecorder()
	_, b := startWeb(t, "ws", Options{Limits: config.Limits{IdleTimeout: config.Duration(50 * time.Millisecond)}}, r)
	b.closed(ws.StatusGoingAway)
	if end := next(t, r.closed); !errors.Is(end.err, ErrIdle) {
		t.Error(end.err)
	}
}

func TestConcurrentSendsAreMessagesOfTheirOwn(t *testing.T) {
	const senders, each = 8, 100
	for _, proto := range []string{"ws", "wss"} {
		r := newRecorder()
		_, b := startWeb(t, proto, Options{Limits: config.Limits{WriteQueue: 64 << 20}}, r)
		b.send(text("a"))
		flow := next(t, r.packets).flow
		for s := range senders {
			go func() {
				for range each {
					_ = flow.Send([]byte(strings.Repeat(string(rune('a'+s)), 1+3000*s)))
				}
			}()
		}
		in := bufio.NewReader(b)
		for range senders * each {
			if _, got := b.frame(in); len(got) != 1+3000*int(got[0]-'a') || strings.Trim(got, got[:1]) != "" {
				t.Fatalf("%d bytes: %.20q", len(got), got)
			}
		}
	}
}

// A browser that sends its first message without waiting for the answer loses nothing.
func TestFramesBehindTheRequestAreRead(t *testing.T) {
	r := newRecorder()
	l := start(t, Options{}, r, spec("ws 127.0.0.1:0"))
	peer := dialTo(t, l, 0)
	sent := noLength(1, 4000)
	write(t, peer, upgradeRequest()+text(sent))
	if got := next(t, r.packets); got.data != sent {
		t.Errorf("%.80q", got.data)
	}
}

func TestUpgradeIsRefused(t *testing.T) {
	r := newRecorder()
	s := spec("ws 127.0.0.1:0")
	s.Origins = []string{"https://phone.example"}
	l := start(t, Options{}, r, s)
	cases := []struct {
		name, request string
		status        int
	}{
		{"a page", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", http.StatusUpgradeRequired},
		{"SIP", message(1, 0), http.StatusBadRequest},
		{"no origin", upgradeRequest(), http.StatusForbidden},
		{"header without end", "GET / HTTP/1.1\r\n" + strings.Repeat("X: y\r\n", 2000), http.StatusRequestHeaderFieldsTooLarge},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			peer := dialTo(t, l, 0)
			write(t, peer, c.request)
			answer, err := http.ReadResponse(bufio.NewReader(peer), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(answer.Body)
			if answer.StatusCode != c.status || len(body) == 0 || err != nil || answer.Header.Get("Upgrade") != "websocket" {
				t.Errorf("%+v %q %v", answer, body, err)
			}
			expectEnd(t, peer)
			_ = peer.Close()
			var refused *refusal
			if end := next(t, r.closed); !errors.As(end.err, &refused) || refused.status != c.status {
				t.Error(end.err)
			}
		})
	}
	if s := l.Stats(); int(s.HandshakeFailures) != len(cases) {
		t.Errorf("%+v", s)
	}
}

// Clients that stop in the middle of the upgrade cost their own connection, for the handshake timeout.
func TestStalledUpgradesDelayNobody(t *testing.T) {
	r := newRecorder()
	// Time enough for the one that does not stall on a busy machine.
	l := start(t, Options{Limits: config.Limits{HandshakeTimeout: config.Duration(4 * time.Second)}}, r, spec("ws 127.0.0.1:0"))
	stalled := make([]net.Conn, 20)
	for i := range stalled {
		stalled[i] = dialTo(t, l, 0)
		write(t, stalled[i], upgradeRequest()[:i*5])
	}
	b := browse(t, l, nil)
	b.send(text("a"))
	next(t, r.packets)
	for range stalled {
		if end := next(t, r.closed); end.err != errHandshakeTimeout {
			t.Error(end.err)
		}
	}
	for _, peer := range stalled {
		expectEnd(t, peer)
	}
	b.send(text("b"))
	next(t, r.packets)
}

func TestSlowBrowserIsClosed(t *testing.T) {
	r := newRecorder()
	l, b := startWeb(t, "ws", Options{Limits: config.Limits{WriteQueue: 1 << 20}}, r)
	b.send(text("a"))
	flow := next(t, r.packets).flow
	big := []byte(strings.Repeat("x", 60000))
	var err error
	for sent := 0; err == nil && sent < 1<<30; sent += len(big) {
		err = flow.Send(big)
	}
	if !errors.Is(err, ErrQueueFull) {
		t.Error(err)
	}
	if end := next(t, r.closed); !errors.Is(end.err, ErrQueueFull) {
		t.Error(end.err)
	}
	if s := l.Stats(); s.QueueOverflows != 1 {
		t.Errorf("%+v", s)
	}
}

func TestWebSocketDoesNotAllocate(t *testing.T) {
	r := newRecorder()
	r.onReceive = echo
	_, b := startWeb(t, "ws", Options{}, r)
	sent := []byte(text(message(1, 300)))
	got := make([]byte, len(sent)-4) // no mask
	allocations := testing.AllocsPerRun(1000, func() {
		_, _ = b.Conn.Write(sent)
		_, _ = io.ReadFull(b.Conn, got)
	})
	if allocations > 0.5 { // the pool of buffers is emptied now and then
		t.Errorf("%v allocations", allocations)
	}
}

func TestNobodyDialsBrowsers(t *testing.T) {
	r := newRecorder()
	l := start(t, Options{}, r, spec("ws 127.0.0.1:0"))
	for _, proto := range []wire.Proto{wire.WS, wire.WSS} {
		if _, err := l.Connect(proto, l.Listeners()[0].Bound(), "", l.Listeners()[0].Bound().Addr()); err == nil {
			t.Error(proto)
		}
	}
}

// Nothing can be sent before the upgrade: messages would run together.
func TestSendBeforeTheUpgradeFails(t *testing.T) {
	l := New(Options{})
	c := &Conn{layer: l, proto: wire.WS}
	if err := c.send([]byte("a")); err != errNotOpen {
		t.Error(err)
	}
	if err := c.Ping(); err != nil || c.Unanswered() != 0 {
		t.Error(err)
	}
}
