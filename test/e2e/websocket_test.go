package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

// webHop is an edge between a browser and a node on TCP.
type webHop struct {
	*hop
	t *testing.T
}

func newWebHop(t *testing.T, network string) *webHop {
	t.Helper()
	h := &hop{network: network, addr: freeAddr(t), cert: certificate(t)}
	h.node = rawListen(t, "tcp", at(nodeA), nil)
	h.edge = siptest.StartEdge(t, settings{
		listen: []string{listener(t, network, h.addr, h.cert), "tcp:" + freeAddr(t).String()}, backends: []string{h.node.URI("")},
	}.yaml())
	return &webHop{h, t}
}

// dial opens a WebSocket whose reads end in time.
func (h *webHop) dial() *siptest.WebSocket {
	h.t.Helper()
	w, err := siptest.DialWebSocket(h.network, at(siptest.Loopback), h.addr, h.cert.Client())
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = w.Close() }) // the edge may have closed it first
	if err := w.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		h.t.Fatal(err)
	}
	return w
}

// request is an OPTIONS through the edge, of that size where it is not 0.
func (h *webHop) request(size int) *siptest.Text {
	m := siptest.Request("OPTIONS", "sip:bob@siptest.example").
		Prepend("Via", "SIP/2.0/"+strings.ToUpper(h.network)+" df7jal23ls0d.invalid;branch=z9hG4bK"+siptest.Unique("b")).
		Add("Contact", "<sip:ann@df7jal23ls0d.invalid;transport=ws>").Set("Content-Length", "0")
	if size > 0 {
		m.Set("Content-Length", "00000") // of as many digits as what takes its place
		m.Body = strings.Repeat("x", size-len(m.Bytes()))
		m.Set("Content-Length", fmt.Sprintf("%05d", len(m.Body)))
	}
	h.node.Box(m.CallID())
	return m
}

// arrives answers a request at the node, with further header lines, and returns the frame that the answer comes in.
func (h *webHop) arrives(w *siptest.WebSocket, req *siptest.Text, lines ...string) siptest.Frame {
	h.t.Helper()
	got, err := h.node.Box(req.CallID()).Next(soon)
	if err != nil {
		h.t.Fatalf("node waits for OPTIONS: %v", err)
	}
	if string(got.Body()) != req.Body {
		h.t.Errorf("a body of %d bytes came out with %d", len(req.Body), len(got.Body()))
	}
	res := siptest.Respond(got, 200, "OK", "n1")
	res.Lines = append(res.Lines, lines...)
	if err := got.Reply(res.Bytes()); err != nil {
		h.t.Fatal(err)
	}
	f := h.frame(w)
	if !strings.HasPrefix(string(f.Payload), "SIP/2.0 200 ") || !strings.Contains(string(f.Payload), req.CallID()) {
		h.t.Fatalf("waits for an answer, got %s", f)
	}
	return f
}

func (h *webHop) send(w *siptest.WebSocket, frames ...siptest.Frame) {
	h.t.Helper()
	for _, f := range frames {
		if err := w.SendFrame(f); err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h *webHop) frame(w *siptest.WebSocket) siptest.Frame {
	h.t.Helper()
	f, err := w.NextFrame()
	if err != nil {
		h.t.Fatal(err)
	}
	return f
}

// gets expects that frame next.
func (h *webHop) gets(w *siptest.WebSocket, want siptest.Frame) {
	h.t.Helper()
	if f := h.frame(w); f.First != want.First || string(f.Payload) != string(want.Payload) {
		h.t.Fatalf("got %s, want %s", f, want)
	}
}

// ends expects a close frame with that code, and the connection's end after it.
func (h *webHop) ends(w *siptest.WebSocket, code int) {
	h.t.Helper()
	if f := h.frame(w); f.First != 0x80|siptest.CloseFrame || f.Code() != code {
		h.t.Fatalf("got %s (status %d), want to be closed with %d", f, f.Code(), code)
	}
	if f, err := w.NextFrame(); !errors.Is(err, io.EOF) {
		h.t.Errorf("after the close frame: %s, %v", f, err)
	}
}

// whole is a message in one frame.
func whole(m *siptest.Text) siptest.Frame { return siptest.Final(siptest.TextFrame, string(m.Bytes())) }

// pieces is a message in frames of n bytes.
func pieces(m *siptest.Text, n int) []siptest.Frame {
	b := m.Bytes()
	var out []siptest.Frame
	for at := 0; at < len(b); at += n {
		f := siptest.Frame{First: siptest.Continuation, Payload: b[at:min(len(b), at+n)]}
		if at == 0 {
			f.First = siptest.TextFrame
		}
		if at+n >= len(b) {
			f.First |= 0x80
		}
		out = append(out, f)
	}
	return out
}

// TestWebSocketFrames: what RFC 6455 and RFC 7118 let a browser send is understood, over WS and WSS.
func TestWebSocketFrames(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"ws", "wss"} {
		h := newWebHop(t, network)
		for _, c := range []struct {
			name string
			try  func(h *webHop, w *siptest.WebSocket)
		}{
			{"a message is a text frame", func(h *webHop, w *siptest.WebSocket) {
				req := h.request(0)
				h.send(w, whole(req))
				if f := h.arrives(w, req); f.First != 0x80|siptest.TextFrame {
					h.t.Errorf("answered by %s", f)
				}
			}},
			{"binary frame", func(h *webHop, w *siptest.WebSocket) {
				req := h.request(0)
				h.send(w, siptest.Final(siptest.BinaryFrame, string(req.Bytes())))
				h.arrives(w, req)
			}},
			{"an answer that is not UTF-8 is a binary frame", func(h *webHop, w *siptest.WebSocket) {
				req := h.request(0)
				h.send(w, whole(req))
				if f := h.arrives(w, req, "Subject: M\xfcller"); f.First != 0x80|siptest.BinaryFrame || !strings.Contains(string(f.Payload), "M\xfcller") {
					h.t.Errorf("answered by %s", f)
				}
			}},
			{"ping with payload", func(h *webHop, w *siptest.WebSocket) {
				for _, payload := range []string{"", "hello", strings.Repeat("\x00\xff", 62)} {
					h.send(w, siptest.Final(siptest.PingFrame, payload))
					h.gets(w, siptest.Final(siptest.PongFrame, payload))
				}
			}},
			{"CRLF keep-alive", func(h *webHop, w *siptest.WebSocket) {
				h.send(w, siptest.Final(siptest.TextFrame, "\r\n\r\n"))
				h.gets(w, siptest.Final(siptest.TextFrame, "\r\n"))
			}},
			{"nothing and an unasked pong are no message", func(h *webHop, w *siptest.WebSocket) {
				req := h.request(0)
				h.send(w, siptest.Final(siptest.TextFrame, ""), siptest.Final(siptest.PongFrame, "hello"), whole(req))
				h.arrives(w, req)
			}},
			{"fragments with control frames in between", func(h *webHop, w *siptest.WebSocket) {
				req := h.request(3000)
				sent := pieces(req, 400)
				sent = slices.Insert(sent, 3, siptest.Final(siptest.PingFrame, "between"), siptest.Final(siptest.PongFrame, ""))
				sent = slices.Insert(sent, 1, siptest.Frame{First: siptest.Continuation})
				h.send(w, sent...)
				h.gets(w, siptest.Final(siptest.PongFrame, "between"))
				h.arrives(w, req)
			}},
			{"one byte a segment", func(h *webHop, w *siptest.WebSocket) {
				req := h.request(400)
				for _, b := range whole(req).Bytes() {
					if _, err := w.Conn.Write([]byte{b}); err != nil {
						h.t.Fatal(err)
					}
				}
				h.arrives(w, req)
			}},
			{"many frames a segment", func(h *webHop, w *siptest.WebSocket) {
				first, second := h.request(0), h.request(2000)
				b := slices.Concat(whole(first).Bytes(), siptest.Final(siptest.PingFrame, "amid").Bytes(), whole(second).Bytes())
				if _, err := w.Conn.Write(b); err != nil {
					h.t.Fatal(err)
				}
				h.gets(w, siptest.Final(siptest.PongFrame, "amid"))
				h.arrives(w, first)
				h.arrives(w, second)
			}},
			{"no Content-Length", func(h *webHop, w *siptest.WebSocket) {
				req := h.request(600)
				bare := strings.Replace(string(req.Bytes()), "Content-Length: "+req.Get("Content-Length")+"\r\n", "", 1)
				h.send(w, siptest.Final(siptest.TextFrame, bare))
				h.arrives(w, req)
			}},
			{"64 kB", func(h *webHop, w *siptest.WebSocket) {
				req := h.request(65535)
				h.send(w, whole(req))
				if f := h.arrives(w, req, "Subject: "+strings.Repeat("y", 60000)); len(f.Payload) < 60000 {
					h.t.Errorf("an answer of %d bytes", len(f.Payload))
				}
				first, second := h.request(65535), h.request(0)
				h.send(w, append(pieces(first, 9000), whole(second))...)
				h.arrives(w, first)
				h.arrives(w, second)
			}},
			{"close handshake", func(h *webHop, w *siptest.WebSocket) {
				h.send(w, siptest.Final(siptest.CloseFrame, "\x03\xe8goodbye"))
				h.ends(w, 1000)
			}},
			{"close without a code", func(h *webHop, w *siptest.WebSocket) {
				h.send(w, siptest.Final(siptest.CloseFrame, ""))
				h.ends(w, 0)
			}},
		} {
			t.Run(network+" "+c.name, func(t *testing.T) {
				h := &webHop{h.hop, t}
				c.try(h, h.dial())
			})
		}
	}
}

// TestWebSocketFaults: what RFC 6455 forbids ends the connection, with the status code that it asks for, and no other one.
func TestWebSocketFaults(t *testing.T) {
	t.Parallel()
	h := newWebHop(t, "ws")
	bystander := h.dial()
	long := strings.Repeat("x", 70000)
	for _, c := range []struct {
		name string
		code int
		sent []siptest.Frame
	}{
		{"no mask", 1002, []siptest.Frame{{First: 0x80 | siptest.TextFrame, Bare: true, Payload: []byte("\r\n\r\n")}}},
		{"reserved bit", 1002, []siptest.Frame{{First: 0xc0 | siptest.TextFrame, Payload: []byte("\r\n\r\n")}}},
		{"reserved opcode", 1002, []siptest.Frame{siptest.Final(3, "")}},
		{"reserved control opcode", 1002, []siptest.Frame{siptest.Final(11, "")}},
		{"fragmented ping", 1002, []siptest.Frame{{First: siptest.PingFrame}}},
		{"long ping", 1002, []siptest.Frame{siptest.Final(siptest.PingFrame, long[:126])}},
		{"end of what has not begun", 1002, []siptest.Frame{siptest.Final(siptest.Continuation, "x")}},
		{"message amid a message", 1002, []siptest.Frame{{First: siptest.TextFrame, Payload: []byte("OPT")}, siptest.Final(siptest.TextFrame, "x")}},
		{"half a close code", 1002, []siptest.Frame{siptest.Final(siptest.CloseFrame, "\x03")}},
		{"close code that is none", 1002, []siptest.Frame{siptest.Final(siptest.CloseFrame, "\x03\xed")}},
		{"large message", 1009, []siptest.Frame{siptest.Final(siptest.TextFrame, long)}},
		{"large in pieces", 1009, []siptest.Frame{{First: siptest.TextFrame, Payload: []byte(long[:40000])}, siptest.Final(siptest.Continuation, long[:40000])}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &webHop{h.hop, t}
			w := h.dial()
			h.send(w, c.sent...)
			h.ends(w, c.code)
		})
	}
	req := h.request(0)
	h.send(bystander, whole(req))
	h.arrives(bystander, req)
}

// TestWebSocketUpgrade: who asks for a WebSocket as RFC 6455 and RFC 7118 say gets one; others get an HTTP answer.
func TestWebSocketUpgrade(t *testing.T) {
	t.Parallel()
	everybody, some := freeAddr(t), freeAddr(t)
	siptest.StartEdge(t, settings{
		listen: []string{
			"ws:" + everybody.String(),
			fmt.Sprintf("{ address: %q, origins: [\"https://phones.example.org\", \"http://intranet:8080\"] }", "ws:"+some.String()),
		},
		backends: []string{siptest.URI("", freeAddr(t), "udp")},
	}.yaml())
	without := func(name string) func([]string) []string {
		return func(lines []string) []string {
			return slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, name) })
		}
	}
	with := func(old, line string) func([]string) []string {
		return func(lines []string) []string { return append(without(old)(lines), line) }
	}
	start := func(line string) func([]string) []string {
		return func(lines []string) []string { return append([]string{line}, lines[1:]...) }
	}
	as := func(lines []string) []string { return lines }
	for _, c := range []struct {
		name   string
		to     netip.AddrPort
		edit   func([]string) []string
		status int
	}{
		{"as it should be", everybody, as, 101},
		{"any path", everybody, start("GET /ws/sip?x=1 HTTP/1.1"), 101},
		{"several subprotocols", everybody, with("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: xmpp, sip"), 101},
		{"any origin", everybody, with("Origin", "Origin: https://anybody.example"), 101},
		{"no subprotocol", everybody, without("Sec-WebSocket-Protocol"), 400},
		{"another subprotocol", everybody, with("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: xmpp"), 400},
		{"no key", everybody, without("Sec-WebSocket-Key"), 400},
		{"plain GET", everybody, func(lines []string) []string { return lines[:2] }, 426},
		{"another version", everybody, with("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"), 426},
		{"POST", everybody, start("POST / HTTP/1.1"), 405},
		{"large header", everybody, with("Cookie", "Cookie: "+strings.Repeat("c", 9000)), 431},
		{"no HTTP", everybody, start("OPTIONS sip:bob@siptest.example SIP/2.0"), 400},
		{"the origin", some, with("Origin", "Origin: https://phones.example.org"), 101},
		{"the origin, written otherwise", some, with("Origin", "Origin: HTTPS://Phones.Example.Org:443"), 101},
		{"the other origin", some, with("Origin", "Origin: http://intranet:8080"), 101},
		{"wrong origin", some, with("Origin", "Origin: https://phones.example.com"), 403},
		{"wrong scheme", some, with("Origin", "Origin: http://phones.example.org"), 403},
		{"wrong port", some, with("Origin", "Origin: http://intranet"), 403},
		{"no page at all", some, with("Origin", "Origin: null"), 403},
		{"no origin", some, as, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", c.to.String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }() // the edge may have closed it first
			w, res, err := siptest.Upgrade(conn, c.edit(siptest.UpgradeLines(c.to.String())))
			if err != nil || res.StatusCode != c.status {
				t.Fatalf("%+v %v, want %d", res, err, c.status)
			}
			if c.status == http.StatusSwitchingProtocols {
				h := &webHop{t: t}
				h.send(w, siptest.Final(siptest.TextFrame, "\r\n\r\n"))
				h.gets(w, siptest.Final(siptest.TextFrame, "\r\n"))
				return
			}
			if why, err := io.ReadAll(res.Body); err != nil || len(why) < 5 || !res.Close {
				t.Errorf("the answer says %q, %v: %+v", why, err, res.Header)
			}
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("after the answer: %v", err)
			}
		})
	}
}
