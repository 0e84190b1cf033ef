package transport

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gobwas/ws"
)

// frames cuts the byte stream of a WebSocket client into messages and control frames (RFC 6455 section 5), in the buffer
// that the bytes came in: a message of one frame is not copied, fragments are moved together. It knows nothing of
// connections.
type frames struct {
	max int // largest message

	op         ws.OpCode // of the message that is being read; ws.OpContinuation = none is
	start, end int       // of what there is of it in the buffer, unmasked
	at         int       // where in the buffer the bytes begin that were not looked at

	isWithin bool // a data frame has begun
	isLast   bool // it is the last one of its message
	left     int  // bytes of its payload still to come
	mask     [4]byte
	masked   int // bytes of its payload that were unmasked

	empty int // fragments that were, since takeEmpty
}

// webFault is why a WebSocket connection cannot go on, with the status code that the peer is told (RFC 6455 section 7.4.1).
type webFault struct {
	code ws.StatusCode
	err  error
}

func (f *webFault) Error() string { return fmt.Sprintf("WebSocket: %v (status %d)", f.err, f.code) }
func (f *webFault) Unwrap() error { return f.err }

var (
	errWebTooLarge = &webFault{ws.StatusMessageTooBig, errors.New("message too large")}
	errWebLength   = &webFault{ws.StatusProtocolError, ws.ErrHeaderLengthMSB}
	errWebHalfCode = &webFault{ws.StatusProtocolError, errors.New("close frame with half a status code")}
)

// next returns the next complete message (ws.OpText or ws.OpBinary) or control frame, ws.OpContinuation when more bytes
// are needed. buf is what was received and not yet compacted away; payload is a slice of it. A fault, always a *webFault,
// ends the connection.
func (f *frames) next(buf []byte) (op ws.OpCode, payload []byte, err error) {
	for {
		if f.isWithin {
			f.take(buf)
			if f.left > 0 {
				return ws.OpContinuation, nil, nil
			}
			f.isWithin = false
			if f.isLast {
				op, f.op = f.op, ws.OpContinuation
				return op, buf[f.start:f.end:f.end], nil
			}
		}
		h, size, err := frameHeader(buf[f.at:])
		if err != nil || size == 0 {
			return ws.OpContinuation, nil, err
		}
		if err := ws.CheckHeader(h, f.state()); err != nil {
			return ws.OpContinuation, nil, &webFault{ws.StatusProtocolError, err}
		}
		if h.OpCode.IsControl() { // at most 125 bytes, also between the fragments of a message
			if len(buf)-f.at-size < int(h.Length) {
				return ws.OpContinuation, nil, nil
			}
			payload = buf[f.at+size:][:h.Length:h.Length]
			ws.Cipher(payload, h.Mask, 0)
			f.at += size + len(payload)
			return h.OpCode, payload, nil
		}
		f.at += size
		if err := f.begin(h); err != nil {
			return ws.OpContinuation, nil, err
		}
	}
}

func (f *frames) state() ws.State {
	if f.op != ws.OpContinuation {
		return ws.StateServerSide | ws.StateFragmented
	}
	return ws.StateServerSide
}

// begin enters the payload of a data frame.
func (f *frames) begin(h ws.Header) error {
	if f.op == ws.OpContinuation {
		f.op = h.OpCode
		f.start, f.end = f.at, f.at
	}
	if h.Length > int64(f.max-(f.end-f.start)) {
		return errWebTooLarge
	}
	f.isWithin, f.isLast, f.left = true, h.Fin, int(h.Length)
	f.mask, f.masked = h.Mask, 0
	if h.Length == 0 && !h.Fin {
		f.empty++
	}
	return nil
}

// takeEmpty is how many fragments held nothing, since it was asked last. They bring no message nearer to its end.
func (f *frames) takeEmpty() int {
	n := f.empty
	f.empty = 0
	return n
}

// take unmasks what has come of the payload and puts it behind the fragments before it.
func (f *frames) take(buf []byte) {
	piece := buf[f.at:min(len(buf), f.at+f.left)]
	ws.Cipher(piece, f.mask, f.masked)
	if f.end != f.at {
		copy(buf[f.end:], piece)
	}
	f.end += len(piece)
	f.at += len(piece)
	f.left -= len(piece)
	f.masked = (f.masked + len(piece)) % len(f.mask)
}

// compact moves what is still needed of buf to its start, and returns how much that is.
func (f *frames) compact(buf []byte) int {
	held := 0
	if f.op != ws.OpContinuation {
		held = copy(buf, buf[f.start:f.end])
	}
	filled := held + copy(buf[held:], buf[f.at:])
	f.start, f.end, f.at = 0, held, held
	return filled
}

// isPartial tells whether a message has begun and is not complete.
func (f *frames) isPartial() bool { return f.op != ws.OpContinuation }

// frameHeader reads the header at the start of b (RFC 6455 section 5.2); size is 0 while it is incomplete.
func frameHeader(b []byte) (h ws.Header, size int, err error) {
	if len(b) < 2 {
		return h, 0, nil
	}
	h = ws.Header{Fin: b[0]&0x80 != 0, Rsv: b[0] >> 4 & 7, OpCode: ws.OpCode(b[0] & 0xf), Masked: b[1]&0x80 != 0}
	length := b[1] & 0x7f
	size = 2
	switch length {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	mask := size
	if h.Masked {
		size += len(h.Mask)
	}
	if len(b) < size {
		return h, 0, nil
	}
	switch length {
	case 126:
		h.Length = int64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		h.Length = int64(binary.BigEndian.Uint64(b[2:]))
	default:
		h.Length = int64(length)
	}
	if h.Length < 0 {
		return h, 0, errWebLength
	}
	if h.Masked {
		copy(h.Mask[:], b[mask:])
	}
	return h, size, nil
}

// maxFrameHeader is that of the frames that we send, which have no mask.
const maxFrameHeader = 10

// appendFrameHeader appends the header of an unfragmented, unmasked frame.
func appendFrameHeader(b []byte, op ws.OpCode, length int) []byte {
	b = append(b, 0x80|byte(op))
	switch {
	case length < 126:
		return append(b, byte(length))
	case length < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(length))
	}
	return binary.BigEndian.AppendUint64(append(b, 127), uint64(length))
}

// closeAnswer is the code that answers a close frame (RFC 6455 sections 5.5.1 and 7.4); 0 = none was given.
func closeAnswer(payload []byte) (ws.StatusCode, error) {
	switch len(payload) {
	case 0:
		return 0, nil
	case 1:
		return 0, errWebHalfCode
	}
	code, reason := ws.ParseCloseFrameData(payload)
	if err := ws.CheckCloseFrameData(code, reason); err != nil {
		return 0, &webFault{ws.StatusProtocolError, err}
	}
	return code, nil
}
