package transport

import (
	"errors"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// webSocket is a connection after the upgrade. What is read from it is frames as they come, which reader takes apart; what
// is written to it becomes one message per Write (RFC 7118 section 5).
type webSocket struct {
	under  io.ReadWriter
	frames frames // the reader's
	first  []byte // what came behind the upgrade request; the reader's

	mu       sync.Mutex // makes the close frame the last one
	isClosed bool       // it was sent
}

// errWebClosed is the answer to what is sent while the peer's answer to our close frame is awaited.
var errWebClosed = errors.New("WebSocket is closed")

func (w *webSocket) Read(p []byte) (int, error) {
	if len(w.first) == 0 {
		return w.under.Read(p)
	}
	n := copy(p, w.first)
	if w.first = w.first[n:]; len(w.first) == 0 {
		w.first = nil
	}
	return n, nil
}

// Write sends a message. SIP may hold bytes that are not UTF-8, which a text frame must not.
func (w *webSocket) Write(p []byte) (int, error) {
	op := ws.OpText
	if !utf8.Valid(p) {
		op = ws.OpBinary
	}
	if err := w.send(op, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// send gives the connection below header and payload in one piece, because that is what it keeps together.
func (w *webSocket) send(op ws.OpCode, payload []byte) error {
	size := maxFrameHeader + len(payload)
	var b []byte
	if size <= midBuffer {
		borrowed := midBuffers.Get().(*[midBuffer]byte)
		defer midBuffers.Put(borrowed)
		b = borrowed[:0]
	} else {
		b = make([]byte, 0, size)
	}
	b = append(appendFrameHeader(b, op, len(payload)), payload...)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isClosed {
		return errWebClosed
	}
	w.isClosed = op == ws.OpClose
	_, err := w.under.Write(b)
	return err
}

// close sends the close frame, once; code 0 = without a code.
func (w *webSocket) close(code ws.StatusCode) {
	var payload []byte
	if code != 0 {
		payload = ws.NewCloseFrameBody(code, "")
	}
	_ = w.send(ws.OpClose, payload)
}

// goodbye tells the peer that the connection ends for a reason of ours.
func (w *webSocket) goodbye(reason error) {
	if reason == ErrUnwanted || reason == ErrSlowMessage {
		w.close(ws.StatusPolicyViolation)
		return
	}
	w.close(ws.StatusGoingAway)
}

// deliverFrames is deliver for a WebSocket.
func (r *reader) deliverFrames() error {
	pings := pingFrames{c: r.c}
	begun := r.begun
	for {
		op, payload, err := r.c.web.frames.next(r.buf[:r.filled])
		if err != nil {
			return r.c.fail(err)
		}
		switch op {
		case ws.OpContinuation:
			pings.answerLast()
			r.filled = r.c.web.frames.compact(r.buf[:r.filled])
			r.began(begun, r.filled > 0 || r.c.web.frames.isPartial())
			return r.c.pinged(pings.texts + pings.frames + pings.empty + r.c.web.frames.takeEmpty())
		case ws.OpClose:
			return r.c.answerClose(payload)
		case ws.OpPing:
			pings.came(payload)
		case ws.OpPong: // shows that the peer lives, as all bytes do
			pings.empty++
		default:
			r.message(payload, &pings)
		}
		if !r.c.web.frames.isPartial() {
			begun = time.Time{}
		}
	}
}

// message hands over what is one. Keep-alives of RFC 5626 are answered as on other streams: browsers let no page send
// ping frames.
func (r *reader) message(payload []byte, pings *pingFrames) {
	switch string(payload) {
	case "", pong:
		pings.empty++
	case ping:
		pings.text()
	default:
		r.packet.Data = payload
		r.c.layer.handler.Receive(&r.packet)
	}
}

// pingFrames are the keep-alives of one read. The first maxPongs are answered, after those the last frame alone (RFC 6455
// section 5.5.3).
type pingFrames struct {
	c            *Conn
	texts        int // CRLFCRLF
	empty        int // what needs no answer: pong frames, CRLF, nothing at all
	frames, size int
	last         [ws.MaxControlFramePayloadSize]byte
}

func (p *pingFrames) text() {
	p.c.layer.count.pings.Add(1)
	if p.texts++; p.texts <= maxPongs {
		_ = p.c.send(pongs[:len(pong)])
	}
}

func (p *pingFrames) came(payload []byte) {
	p.c.layer.count.pings.Add(1)
	if p.frames++; p.frames <= maxPongs {
		_ = p.c.control(ws.OpPong, payload)
		return
	}
	p.size = copy(p.last[:], payload) // a copy, because fragments may be moved to where payload is
}

func (p *pingFrames) answerLast() {
	if p.frames > maxPongs {
		_ = p.c.control(ws.OpPong, p.last[:p.size])
	}
}

// control sends a ping or pong frame.
func (c *Conn) control(op ws.OpCode, payload []byte) error { return c.sent(c.web.send(op, payload)) }

// fail tells the peer what it did wrong.
func (c *Conn) fail(err error) error {
	var fault *webFault
	if errors.As(err, &fault) {
		c.web.close(fault.code)
	}
	return err
}

// answerClose completes the closing handshake and returns why the connection ends.
func (c *Conn) answerClose(payload []byte) error {
	code, err := closeAnswer(payload)
	if err != nil {
		return c.fail(err)
	}
	c.web.close(code)
	return io.EOF
}
