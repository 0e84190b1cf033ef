package siptest

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Opcodes of frames (RFC 6455 5.2).
const (
	Continuation byte = 0
	TextFrame    byte = 1
	BinaryFrame  byte = 2
	CloseFrame   byte = 8
	PingFrame    byte = 9
	PongFrame    byte = 10
)

// Frame is one frame of a WebSocket (RFC 6455 5.2), right or wrong.
type Frame struct {
	First   byte // FIN (0x80), RSV1 to RSV3 and the opcode
	Bare    bool // sent without a mask, as clients must not
	Payload []byte
}

// Final is an ordinary frame: a whole message, or a control frame.
func Final(op byte, payload string) Frame { return Frame{First: 0x80 | op, Payload: []byte(payload)} }

func (f Frame) String() string { return fmt.Sprintf("frame %#x %.80q", f.First, f.Payload) }

// Code is the status code of a close frame, 0 if it has none.
func (f Frame) Code() int {
	if f.First != 0x80|CloseFrame || len(f.Payload) < 2 {
		return 0
	}
	return int(binary.BigEndian.Uint16(f.Payload))
}

// Bytes is the frame as a client sends it.
func (f Frame) Bytes() []byte {
	b := []byte{f.First, 0}
	switch n := len(f.Payload); {
	case n < 126:
		b[1] = byte(n)
	case n < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if f.Bare {
		return append(b, f.Payload...)
	}
	b[1] |= 0x80
	var mask [4]byte
	_, _ = rand.Read(mask[:]) // crypto/rand.Read never fails
	b = append(b, mask[:]...)
	for i, c := range f.Payload {
		b = append(b, c^mask[i%4])
	}
	return b
}

// WebSocket is the client's side of a SIP over WebSocket connection (RFC 7118), with a framing of its own. As a
// net.Conn it makes one text message of each Write and reads the messages as one stream, where they have a
// Content-Length; SendFrame and NextFrame show what it does below that.
type WebSocket struct {
	net.Conn
	in *bufio.Reader

	writing sync.Mutex
	rest    []byte // of a message, for Read
}

// UpgradeLines are the header lines with which a phone asks for a WebSocket, the first one being the request line.
func UpgradeLines(host string) []string {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // crypto/rand.Read never fails
	return []string{
		"GET / HTTP/1.1", "Host: " + host, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Protocol: sip", "Sec-WebSocket-Key: " + base64.StdEncoding.EncodeToString(nonce[:]),
	}
}

// DialWebSocket opens one; network is ws or wss.
func DialWebSocket(network string, local, peer netip.AddrPort, config *tls.Config) (*WebSocket, error) {
	conn, err := dialStream(network == "wss", local, peer, config)
	if err != nil {
		return nil, err
	}
	w, res, err := Upgrade(conn, UpgradeLines(peer.String()))
	if err == nil && w == nil {
		err = fmt.Errorf("no WebSocket: %s", res.Status)
	}
	if err != nil {
		_ = conn.Close() // it is of no use
		return nil, err
	}
	return w, nil
}

// Upgrade sends a request and makes a WebSocket of the connection if the answer is 101, as RFC 6455 4.1 has a client check
// it. Any other answer is returned with its body read.
func Upgrade(conn net.Conn, lines []string) (*WebSocket, *http.Response, error) {
	if err := conn.SetDeadline(time.Now().Add(dialTime)); err != nil {
		return nil, nil, err
	}
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		return nil, nil, err
	}
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		body, err := io.ReadAll(res.Body)
		res.Body = io.NopCloser(strings.NewReader(string(body)))
		return nil, res, err
	}
	key := ""
	for _, l := range lines {
		if name, value := splitLine(l); name == "sec-websocket-key" {
			key = value
		}
	}
	proof := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	h := res.Header
	switch {
	case h.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(proof[:]):
		return nil, res, errors.New("wrong Sec-WebSocket-Accept")
	case !strings.EqualFold(h.Get("Upgrade"), "websocket") || !strings.EqualFold(h.Get("Connection"), "Upgrade"):
		return nil, res, errors.New("101 without an upgrade")
	case h.Get("Sec-WebSocket-Protocol") != "sip" || len(h["Sec-Websocket-Extensions"]) > 0:
		return nil, res, errors.New("a subprotocol or an extension that nobody asked for")
	}
	return &WebSocket{Conn: conn, in: in}, res, conn.SetDeadline(time.Time{})
}

// SendFrame sends one frame.
func (w *WebSocket) SendFrame(f Frame) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	_, err := w.Conn.Write(f.Bytes())
	return err
}

// NextFrame reads one frame, which must not be masked (RFC 6455 5.1).
func (w *WebSocket) NextFrame() (Frame, error) {
	var head [10]byte
	if _, err := io.ReadFull(w.in, head[:2]); err != nil {
		return Frame{}, err
	}
	size, extra := uint64(head[1]), 0
	switch size {
	case 126:
		extra = 2
	case 127:
		extra = 8
	}
	if size >= 0x80 {
		return Frame{}, errors.New("frame of a server with a mask")
	}
	if _, err := io.ReadFull(w.in, head[2:2+extra]); err != nil {
		return Frame{}, err
	}
	switch extra {
	case 2:
		size = uint64(binary.BigEndian.Uint16(head[2:]))
	case 8:
		size = binary.BigEndian.Uint64(head[2:])
	}
	if size > 1<<20 {
		return Frame{}, fmt.Errorf("frame of %d bytes", size)
	}
	f := Frame{First: head[0], Payload: make([]byte, size)}
	_, err := io.ReadFull(w.in, f.Payload)
	return f, err
}

// Write sends one message.
func (w *WebSocket) Write(b []byte) (int, error) {
	if err := w.SendFrame(Final(TextFrame, string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Read reads messages; pings are answered, the other side's close is io.EOF.
func (w *WebSocket) Read(p []byte) (int, error) {
	for len(w.rest) == 0 {
		f, err := w.NextFrame()
		if err != nil {
			return 0, err
		}
		switch f.First {
		case 0x80 | TextFrame, 0x80 | BinaryFrame:
			w.rest = f.Payload
		case 0x80 | PingFrame:
			if err := w.SendFrame(Final(PongFrame, string(f.Payload))); err != nil {
				return 0, err
			}
		case 0x80 | PongFrame:
		case 0x80 | CloseFrame:
			return 0, io.EOF
		default:
			return 0, fmt.Errorf("unexpected %s", f)
		}
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}
