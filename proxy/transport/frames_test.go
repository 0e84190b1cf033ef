package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

// maxFramed is the largest message in these tests.
const maxFramed = 1000

// clientFrame is a frame as a client sends it.
func clientFrame(op ws.OpCode, isLast bool, payload string) string {
	var b bytes.Buffer
	f := ws.MaskFrameWith(ws.NewFrame(op, isLast, []byte(payload)), [4]byte{1, 2, 250, 4})
	if err := ws.WriteFrame(&b, f); err != nil {
		panic(err)
	}
	return b.String()
}

func text(payload string) string { return clientFrame(ws.OpText, true, payload) }

// framed is what became of a stream of frames.
type framed struct {
	events    []string
	code      ws.StatusCode // of the fault, 0 = there was none
	isPartial bool
}

func event(op ws.OpCode, payload []byte) string { return fmt.Sprintf("%x %q", byte(op), payload) }

// cut feeds the stream to frames in pieces of that size, as a connection does.
func cut(t testing.TB, stream string, piece int) (got framed) {
	f := frames{max: maxFramed}
	buf := make([]byte, 0, len(stream))
	for len(stream) > 0 {
		n := min(piece, len(stream))
		buf, stream = append(buf, stream[:n]...), stream[n:]
		for {
			op, payload, err := f.next(buf)
			if err != nil {
				var fault *webFault
				if !errors.As(err, &fault) {
					t.Fatal(err)
				}
				got.code = fault.code
				return got
			}
			if op == ws.OpContinuation {
				break
			}
			got.events = append(got.events, event(op, payload))
		}
		buf = buf[:f.compact(buf)]
		if most := maxFramed + 14 + ws.MaxControlFramePayloadSize; len(buf) > most {
			t.Fatalf("%d bytes are held back", len(buf))
		}
	}
	got.isPartial = f.isPartial()
	return got
}

func (f framed) equal(other framed) bool {
	return slices.Equal(f.events, other.events) && f.code == other.code && f.isPartial == other.isPartial
}

func TestFrames(t *testing.T) {
	const more, last = false, true
	part := clientFrame
	hello := strings.Repeat("hello", 60) // a length of two bytes
	cases := []struct {
		name, stream string
		want         framed
	}{
		{"nothing", "", framed{}},
		{"5.7: text", "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", framed{events: []string{`1 "Hello"`}}},
		{"5.7: text without mask", "\x81\x05Hello", framed{code: 1002}},
		{"5.7: fragments without mask", "\x01\x03Hel\x80\x02lo", framed{code: 1002}},
		{"two", text("a") + text("b"), framed{events: []string{`1 "a"`, `1 "b"`}}},
		{"binary", part(ws.OpBinary, last, "\xff\x00"), framed{events: []string{`2 "\xff\x00"`}}},
		{"text that is not UTF-8", text("caf\xe9"), framed{events: []string{`1 "caf\xe9"`}}},
		{"empty", text(""), framed{events: []string{`1 ""`}}},
		{"16 bits of length", text(hello), framed{events: []string{fmt.Sprintf("1 %q", hello)}}},
		{"64 bits of length", "\x81\xff\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00x", framed{events: []string{`1 "x"`}}},
		{"fragments", part(ws.OpText, more, "a") + part(0, more, "bcd") + part(0, more, "") + part(0, last, "e"), framed{events: []string{`1 "abcde"`}}},
		{"control frames between", part(ws.OpBinary, more, "a") + part(ws.OpPing, last, "1") + part(0, more, "b") + part(ws.OpPong, last, "2") + part(0, last, "c"),
			framed{events: []string{`9 "1"`, `a "2"`, `2 "abc"`}}},
		{"after fragments", part(ws.OpText, more, "a") + part(0, last, "b") + text("c"), framed{events: []string{`1 "ab"`, `1 "c"`}}},
		{"close", part(ws.OpClose, last, "\x03\xe8bye"), framed{events: []string{`8 "\x03\xe8bye"`}}},
		{"ping of 125 bytes", part(ws.OpPing, last, hello[:125]), framed{events: []string{fmt.Sprintf("9 %q", hello[:125])}}},
		{"ping of 126 bytes", part(ws.OpPing, last, hello[:126]), framed{code: 1002}},
		{"ping in fragments", part(ws.OpPing, more, "a"), framed{code: 1002}},
		{"RSV1", "\xc1\x80\x00\x00\x00\x00", framed{code: 1002}},
		{"RSV3 on a ping", "\x99\x80\x00\x00\x00\x00", framed{code: 1002}},
		{"opcode 3", part(3, last, ""), framed{code: 1002}},
		{"opcode 11", part(11, last, ""), framed{code: 1002}},
		{"continuation of nothing", text("a") + part(0, last, "b"), framed{events: []string{`1 "a"`}, code: 1002}},
		{"message within a message", part(ws.OpText, more, "a") + text("b"), framed{code: 1002}},
		{"largest", text(strings.Repeat("x", maxFramed)), framed{events: []string{`1 "` + strings.Repeat("x", maxFramed) + `"`}}},
		{"too large", text(strings.Repeat("x", maxFramed+1)), framed{code: 1009}},
		{"too large, said and not sent", "\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00", framed{code: 1009}},
		{"too large in all", part(ws.OpText, more, strings.Repeat("x", maxFramed)) + part(0, last, "x"), framed{code: 1009}},
		{"most significant bit of the length", "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", framed{code: 1002}},
		{"message that is not complete", text("a") + part(ws.OpText, more, "b"), framed{events: []string{`1 "a"`}, isPartial: true}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, piece := range []int{1, 2, 3, 7, 100, 1 << 20} {
				if got := cut(t, c.stream, piece); !got.equal(c.want) {
					t.Errorf("in pieces of %d: got %+v, want %+v", piece, got, c.want)
				}
			}
			if got := cutSimply(c.stream); !got.equal(c.want) {
				t.Errorf("the reference: got %+v, want %+v", got, c.want)
			}
		})
	}
}

// cutSimply does with the library's reader what frames does.
func cutSimply(stream string) (got framed) {
	r := strings.NewReader(stream)
	var message []byte
	var op ws.OpCode
	for {
		state := ws.StateServerSide
		if got.isPartial {
			state |= ws.StateFragmented
		}
		h, err := ws.ReadHeader(r)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return got
		}
		isControl := h.OpCode.IsControl()
		switch {
		case err != nil || ws.CheckHeader(h, state) != nil:
			got.code, got.isPartial = ws.StatusProtocolError, false
			return got
		case !isControl && h.Length > int64(maxFramed-len(message)):
			got.code, got.isPartial = ws.StatusMessageTooBig, false
			return got
		}
		isShort := h.Length > int64(r.Len())
		if isShort {
			got.isPartial = got.isPartial || !isControl
			return got
		}
		payload := make([]byte, h.Length)
		_, _ = io.ReadFull(r, payload)
		ws.Cipher(payload, h.Mask, 0)
		if isControl {
			got.events = append(got.events, event(h.OpCode, payload))
			continue
		}
		if h.OpCode != ws.OpContinuation {
			op = h.OpCode
		}
		message = append(message, payload...)
		if got.isPartial = !h.Fin; h.Fin {
			got.events = append(got.events, event(op, message))
			message = nil
		}
	}
}

// FuzzWebSocket: nothing that a client sends is too much, and how it is cut into segments makes no difference.
func FuzzWebSocket(f *testing.F) {
	f.Add([]byte(text("hello")+clientFrame(ws.OpText, false, "a")+clientFrame(ws.OpPing, true, "p")+clientFrame(ws.OpContinuation, true, "b")), uint8(5))
	f.Add([]byte(clientFrame(ws.OpClose, true, "\x03\xe8bye")), uint8(1))
	f.Add([]byte("\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), uint8(3))
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8) {
		whole := cut(t, string(stream), len(stream)+1)
		if got := cut(t, string(stream), int(piece)+1); !got.equal(whole) {
			t.Errorf("in pieces: %+v, whole: %+v", got, whole)
		}
		if simple := cutSimply(string(stream)); !simple.equal(whole) {
			t.Errorf("the reference: %+v, we: %+v", simple, whole)
		}
	})
}

func TestSentFramesAreReadAsTheyWere(t *testing.T) {
	for _, length := range []int{0, 1, 125, 126, 65535, 65536, 100000} {
		b := appendFrameHeader(nil, ws.OpText, length)
		h, err := ws.ReadHeader(bytes.NewReader(b))
		if err != nil || h != (ws.Header{Fin: true, OpCode: ws.OpText, Length: int64(length)}) || len(b) > maxFrameHeader {
			t.Errorf("%d: %+v %v", length, h, err)
		}
	}
}

func TestCloseFramesAreAnswered(t *testing.T) {
	for payload, want := range map[string]struct {
		code    ws.StatusCode
		isFault bool
	}{
		"":                 {0, false},
		"\x03\xe8":         {1000, false},
		"\x03\xe9leaving":  {1001, false},
		"\x0f\xa0":         {4000, false},
		"\x03":             {0, true},
		"\x03\xed":         {0, true}, // 1005 is for what was not said
		"\x00\x01":         {0, true},
		"\x03\xe8caf\xe9!": {0, true},
	} {
		code, err := closeAnswer([]byte(payload))
		if code != want.code || (err != nil) != want.isFault {
			t.Errorf("%q: %d %v", payload, code, err)
		}
	}
}
