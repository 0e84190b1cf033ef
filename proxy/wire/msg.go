package wire

import "bytes"

// Bounds of a message. MaxSize is what offsets of 16 bits reach and a UDP
// datagram can carry; MaxHeaders is our choice (RFC 4475's longreq has 44).
const (
	MaxSize    = 65535
	MaxHeaders = 256
)

// Span is the part [Start, End) of Msg.Buf. The zero Span means that the part
// is absent; a part that is there but empty has a position.
type Span struct{ Start, End uint16 }

// At is the empty span at a position, for [Edit.Begin].
func At(pos int) Span { return Span{uint16(pos), uint16(pos)} }

// Len is the number of bytes.
func (s Span) Len() int { return int(s.End) - int(s.Start) }

// Empty tells whether there are no bytes, absent or not.
func (s Span) Empty() bool { return s.End <= s.Start }

// Absent tells whether the part was not found.
func (s Span) Absent() bool { return s == Span{} }

func span(start, end int) Span { return Span{uint16(start), uint16(end)} }

// Header is one header line.
type Header struct {
	Kind  Kind
	Line  Span // the whole line, with its folds and the CRLF at its end
	Name  Span // as spelled
	Value Span // without white space around it; folds inside are kept
}

// Addr is a From or To value.
type Addr struct {
	Value   Span // the whole value
	URI     Span // without angle brackets
	Tag     Span // value of the tag parameter of the header
	Display Span // as spelled, with quotes
}

// What MaxForwards and ContentLength hold in place of a number.
const (
	None = -1 // no such header
	Bad  = -2 // not a number
)

// Msg is one scanned message. The zero value is ready for Scan, which may be
// called again and again. All spans refer to Buf.
type Msg struct {
	Buf []byte // exactly one message: header part, and body as long as Content-Length says

	// Of a request.
	Method     Method
	MethodName Span
	RURI       Span
	Version    Span // of responses too

	// Of a response.
	Status       int // 0 in a request
	ReasonPhrase Span

	Headers []Header // in order; reused by the next Scan

	TopVia   Via
	Vias     int // Via header lines
	From, To Addr
	CallID   Span

	CSeq         uint32
	CSeqMethod   Span
	CSeqMethodID Method

	MaxForwards      int // None, Bad, or the number (the RFC's range ends at 255, nobody's arithmetic does)
	MaxForwardsValue Span
	ContentLength    int // None, Bad, or the number
	Body             Span

	request bool
	fault   Fault            // the first one of this scan
	start   int              // end of the start line
	first   [numKinds]uint16 // 1 + index of the first header of a kind, 0 when absent
	lastVia int              // index of the last Via header line, -1 when absent
}

// IsRequest tells whether the start line is a request line.
func (m *Msg) IsRequest() bool { return m.request }

// Bytes is the part of the message that s denotes, empty for the zero Span.
func (m *Msg) Bytes(s Span) []byte {
	if s.End <= s.Start || int(s.End) > len(m.Buf) {
		return nil
	}
	return m.Buf[s.Start:s.End:s.End]
}

// First is the index of the first header of kind k, -1 when there is none.
func (m *Msg) First(k Kind) int {
	if k >= numKinds {
		return -1
	}
	return int(m.first[k]) - 1
}

// Value is the value of the first header of kind k, empty when there is none;
// First tells an absent header from an empty one.
func (m *Msg) Value(k Kind) []byte {
	i := m.First(k)
	if i < 0 {
		return nil
	}
	return m.Bytes(m.Headers[i].Value)
}

// Find is the index of the first header of that name in any spelling the RFCs
// allow (case, compact form), -1 when there is none.
func (m *Msg) Find(name string) int {
	if k := KindOf([]byte(name)); k != KindOther {
		return m.First(k)
	}
	for i := range m.Headers {
		if m.named(i, name) {
			return i
		}
	}
	return -1
}

// named tells whether header i has that name, which is of no known kind.
func (m *Msg) named(i int, name string) bool {
	h := &m.Headers[i]
	return h.Kind == KindOther && equalFold(m.Bytes(h.Name), name)
}

// HeadersPos is where a line becomes the first header.
func (m *Msg) HeadersPos() int { return m.start }

// ViaPos is where a new topmost Via line goes: before the first Via.
func (m *Msg) ViaPos() int {
	if i := m.First(KindVia); i >= 0 {
		return int(m.Headers[i].Line.Start)
	}
	return m.start
}

// RecordRoutePos is where a new topmost Record-Route line goes: before the
// first one, else after the last Via.
func (m *Msg) RecordRoutePos() int {
	if i := m.First(KindRecordRoute); i >= 0 {
		return int(m.Headers[i].Line.Start)
	}
	return m.afterVias()
}

// afterVias is the end of the last Via line.
func (m *Msg) afterVias() int {
	if m.lastVia >= 0 {
		return int(m.Headers[m.lastVia].Line.End)
	}
	return m.start
}

// Replyable tells whether a reply can be built by copying Via, From, To,
// Call-ID and CSeq (RFC 3261 8.2.6.2): each was found and holds no line break
// that a receiver could take for the end of a line. Never for responses and
// ACK. A faulty message may be replyable.
func (m *Msg) Replyable() bool {
	if !m.request || m.MethodName.Empty() || m.Method == ACK {
		return false
	}
	if m.TopVia.Host.Empty() || m.From.Value.Empty() || m.To.Value.Empty() || m.CallID.Empty() {
		return false
	}
	if len(m.Value(KindCSeq)) == 0 {
		return false
	}
	for i := range m.Headers {
		switch h := &m.Headers[i]; h.Kind {
		case KindVia, KindFrom, KindTo, KindCallID, KindCSeq:
			if !wholeLine(m.Bytes(h.Line)) {
				return false
			}
		}
	}
	return true
}

// wholeLine tells whether every CR and LF of a header line belongs to its end
// or to a fold.
func wholeLine(line []byte) bool {
	folds := bytes.Count(line, crlf)
	return bytes.Count(line, crlf[:1]) == folds && bytes.Count(line, crlf[1:]) == folds
}
