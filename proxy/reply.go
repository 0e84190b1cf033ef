package proxy

import (
	"encoding/base64"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strconv"

	"github.com/sipward/sipward/proxy/eventlog"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// reply builds a response of our own (RFC 3261 8.2.6): the request's Via (with
// received and rport), From, To, Call-ID and CSeq as they came, for a 100 its
// Timestamp. All but a 100 get a To tag, the same one for every copy of a request.
// The bytes live until the scratch is released.
func (w *scratch) reply(m *wire.Msg, src netip.AddrPort, status int, reason string, extra []byte) []byte {
	ed := &w.edit
	ed.Reset(m)
	line := append(ed.Begin(wire.Span{End: uint16(m.HeadersPos())}), "SIP/2.0 "...)
	line = strconv.AppendInt(line, int64(status), 10)
	line = append(append(append(line, ' '), reason...), "\r\n"...)
	ed.End(line)
	pos := uint16(m.HeadersPos())
	for i := range m.Headers {
		h := &m.Headers[i]
		ed.Delete(wire.Span{Start: pos, End: h.Line.Start}) // lines that are no header, in a faulty request
		pos = h.Line.End
		switch h.Kind {
		case wire.KindVia:
		case wire.KindFrom, wire.KindTo, wire.KindCallID, wire.KindCSeq:
			if m.First(h.Kind) != i { // there too
				ed.DeleteHeader(i)
			}
		case wire.KindTimestamp:
			if status != 100 {
				ed.DeleteHeader(i)
			}
		default:
			ed.DeleteHeader(i)
		}
	}
	received(ed, m, src)
	switch {
	case status <= 100 || !m.To.Tag.Empty():
	case m.To.Tag.Absent():
		ed.End(w.edge.appendOwnTag(append(ed.Begin(wire.At(int(m.To.Value.End))), ";tag="...), m))
	default: // ";tag=" with nothing after it
		ed.End(w.edge.appendOwnTag(ed.Begin(m.To.Tag), m))
	}
	end := append(ed.Begin(wire.Span{Start: uint16(w.endOfHeaders(m)), End: uint16(len(m.Buf))}), extra...)
	if id := w.edge.serverLine(status); id != "" {
		end = append(end, id...)
	}
	ed.End(append(end, "Content-Length: 0\r\n\r\n"...))
	start := len(w.arena)
	w.arena = ed.AppendTo(w.arena)
	return w.arena[start:len(w.arena):len(w.arena)]
}

// endOfHeaders is where the last header line ends.
func (w *scratch) endOfHeaders(m *wire.Msg) int {
	if n := len(m.Headers); n > 0 {
		return int(m.Headers[n-1].Line.End)
	}
	return m.HeadersPos()
}

// replyStateless answers and forgets (8.2.7): a retransmission is answered anew,
// with the same tag. The ACK is recognised by it.
func (e *Edge) replyStateless(w *scratch, f transport.Flow, status int, reason string, extra []byte) {
	m := &w.msg
	b := w.reply(m, f.Remote(), status, reason, extra)
	if err := replyFlow(m, f).Send(b); err != nil {
		e.count.sendErrors.Add(1)
	}
	e.logOwnReply(m, f.Remote(), status, reason)
}

func (e *Edge) logOwnReply(m *wire.Msg, to netip.AddrPort, status int, reason string) {
	e.log.Reply(&eventlog.Reply{
		Status: status, Reason: []byte(reason), Method: m.Bytes(m.CSeqMethod), CallID: m.Bytes(m.CallID), Src: to, Side: "Edge",
	})
}

const ownTagPrefix = "swd"

// appendOwnTag appends the To tag of our own responses: a keyed hash of what an
// ACK repeats, so that it is known again without any state.
func (e *Edge) appendOwnTag(dst []byte, m *wire.Msg) []byte {
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], e.ownTagSum(m))
	return base64.RawURLEncoding.AppendEncode(append(dst, ownTagPrefix...), raw[:])
}

func (e *Edge) ownTagSum(m *wire.Msg) uint64 {
	w := e.scratch()
	defer e.release(w)
	w.key = append(append(w.key[:0], m.Bytes(m.CallID)...), '\n')
	w.key = append(append(w.key, m.Bytes(m.From.Tag)...), '\n')
	w.key = binary.BigEndian.AppendUint32(w.key, m.CSeq)
	return e.key.Sum(w.key)
}

// isOwnToTag says whether a request acknowledges a response of our own.
func (e *Edge) isOwnToTag(m *wire.Msg) bool {
	tag := m.Bytes(m.To.Tag)
	if len(tag) < len(ownTagPrefix) || string(tag[:len(ownTagPrefix)]) != ownTagPrefix {
		return false
	}
	var own [32]byte
	return string(e.appendOwnTag(own[:0], m)) == string(tag)
}

// serverLine is the Server header of final responses, if the operator wants one.
func (e *Edge) serverLine(status int) string {
	if id := e.snap.Load().config.ServerID; id != "" && status >= 200 {
		return "Server: " + id + "\r\n"
	}
	return ""
}

// retryLater is a Retry-After of a few seconds, not the same for everybody.
func (e *Edge) retryLater() []byte {
	return append(strconv.AppendInt([]byte("Retry-After: "), 2+rand.Int64N(8), 10), "\r\n"...)
}

// pong answers an OPTIONS that asks for the edge itself (RFC 3261 11): a monitor
// sees at once whether calls can be placed.
func (e *Edge) pong(snap *snapshot, from netip.Addr) rejection {
	now := e.wheel.Now()
	if snap.config.Security.OptionsFromUnknown == "drop" && !snap.security.Trusts(from) && !e.guard.IsKnown(from, now) {
		return rejection{status: 403, silent: true}
	}
	if e.draining.Load() || !snap.anyUp(now) {
		return rejection{status: 503, reason: "Service Unavailable", header: e.retryLater()}
	}
	return rejection{status: 200, reason: "OK"}
}

// reasonOf is the reason phrase of the responses that a response context gives by
// itself.
func reasonOf(status int) string {
	switch status {
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 408:
		return "Request Timeout"
	case 430:
		return "Flow Failed"
	case 482:
		return "Loop Detected"
	case 487:
		return "Request Terminated"
	case 503:
		return "Service Unavailable"
	}
	return "Server Internal Error"
}
