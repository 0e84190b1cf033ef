package wire

import (
	"net/netip"
	"slices"
	"strconv"
)

// Edit builds an outgoing message from a received one. It holds a set of
// deleted bytes and a list of texts at positions, nothing else: the result is,
// for every position of the message in order, the texts inserted there in the
// order of the calls, then the byte there unless it is deleted. So edits may
// overlap and come in any order, and bytes without edit leave as they came.
//
// All positions are those of the message as received. Texts are copied. An
// Edit is reused with Reset and does not allocate once it has grown; the
// number of edits is not limited.
type Edit struct {
	m     *Msg
	dels  []Span // sorted, apart from each other
	texts []text // sorted by position, equal ones in the order of the calls
	buf   []byte // the texts
	size  int    // of the result
	open  int    // position of the text between Begin and End
}

// text is buf[start:end], to stand before the byte at pos.
type text struct{ pos, start, end int }

// Reset starts an edit of m, which must stay as it is until AppendTo.
func (e *Edit) Reset(m *Msg) {
	e.m, e.dels, e.texts, e.buf = m, e.dels[:0], e.texts[:0], e.buf[:0]
	e.size = len(m.Buf)
}

// Insert puts text before the byte at pos, or at the end.
func (e *Edit) Insert(pos int, text []byte) { e.End(append(e.Begin(At(pos)), text...)) }

// InsertString is Insert.
func (e *Edit) InsertString(pos int, text string) { e.End(append(e.Begin(At(pos)), text...)) }

// Replace puts text in the place of s.
func (e *Edit) Replace(s Span, text []byte) { e.End(append(e.Begin(s), text...)) }

// ReplaceString is Replace.
func (e *Edit) ReplaceString(s Span, text string) { e.End(append(e.Begin(s), text...)) }

// Begin deletes s, which may be empty (see [At]), and returns a buffer to
// append the text to that goes there; hand the result to End before anything
// else is done with e.
//
//	e.End(strconv.AppendInt(e.Begin(s), n, 10))
func (e *Edit) Begin(s Span) []byte {
	e.Delete(s)
	e.open = min(int(s.Start), len(e.m.Buf))
	return e.buf
}

// End takes the buffer of Begin with the text appended.
func (e *Edit) End(b []byte) {
	t := text{e.open, len(e.buf), len(b)}
	if t.end <= t.start {
		return
	}
	e.buf = b
	e.size += t.end - t.start
	i := len(e.texts)
	for i > 0 && e.texts[i-1].pos > t.pos {
		i--
	}
	e.texts = slices.Insert(e.texts, i, t)
}

// Delete drops the bytes of s.
func (e *Edit) Delete(s Span) {
	s.End = uint16(min(int(s.End), len(e.m.Buf)))
	if s.End > s.Start {
		e.merge(s)
	}
}

// merge adds s to the deleted bytes and returns the run it is part of now.
func (e *Edit) merge(s Span) Span {
	i := len(e.dels)
	for i > 0 && e.dels[i-1].End >= s.Start {
		i--
	}
	j := i
	for ; j < len(e.dels) && e.dels[j].Start <= s.End; j++ {
		e.size += e.dels[j].Len()
		s.Start, s.End = min(s.Start, e.dels[j].Start), max(s.End, e.dels[j].End)
	}
	e.size -= s.Len()
	e.dels = slices.Replace(e.dels, i, j, s)
	return s
}

// DeleteHeader drops header line i, folds included.
func (e *Edit) DeleteHeader(i int) { e.Delete(e.m.Headers[i].Line) }

// DeleteNamed drops every header of that name, however it is spelled (case,
// compact form, white space before the colon, folds), and returns their number.
func (e *Edit) DeleteNamed(name string) int {
	k, n := KindOf([]byte(name)), 0
	for i := range e.m.Headers {
		if k != KindOther && e.m.Headers[i].Kind == k || k == KindOther && e.m.named(i, name) {
			e.DeleteHeader(i)
			n++
		}
	}
	return n
}

// DeleteValue drops one element of a comma list with the comma that is no
// longer needed, and the whole line when none of its elements is left.
func (e *Edit) DeleteValue(v Value) {
	b, h := e.m.Buf, &e.m.Headers[v.Header]
	s := v.Span
	if s.Empty() {
		return
	}
	// The comma before goes along; the first element takes the one after.
	for s.Start > h.Value.Start && (b[s.Start-1] == ',' || isLWS(b[s.Start-1])) {
		s.Start--
	}
	for s = e.merge(s); s.Start <= h.Value.Start && s.End < h.Value.End; {
		next := skipEmpty(b, int(s.End), int(h.Value.End))
		if next == int(s.End) {
			return
		}
		s = e.merge(span(int(s.End), next))
	}
	if s.Start <= h.Value.Start && s.End >= h.Value.End {
		e.merge(h.Line)
	}
}

// DeleteFirst drops the first n elements of the comma lists of kind k, such as
// our own Route values (RFC 3261 16.4), and returns how many there were.
func (e *Edit) DeleteFirst(k Kind, n int) int {
	it := e.m.Values(k)
	for i := range n {
		v, ok := it.Next()
		if !ok {
			return i
		}
		e.DeleteValue(v)
	}
	return n
}

// DeleteTopVia drops the topmost Via value, as a response is relayed
// (RFC 3261 16.7 step 3).
func (e *Edit) DeleteTopVia() { e.DeleteFirst(KindVia, 1) }

// SetMaxForwards writes n in place of the value, or a new line after the Vias
// (RFC 3261 16.6 step 3).
func (e *Edit) SetMaxForwards(n int) {
	if !e.m.MaxForwardsValue.Absent() {
		e.End(strconv.AppendInt(e.Begin(e.m.MaxForwardsValue), int64(n), 10))
		return
	}
	b := append(e.Begin(At(e.m.afterVias())), "Max-Forwards: "...)
	e.End(append(strconv.AppendInt(b, int64(n), 10), "\r\n"...))
}

// SetReceived writes the received parameter of a Via value (RFC 3261 18.2.1):
// in place of the old one, else at the end of v.
func (e *Edit) SetReceived(v Via, a netip.Addr) {
	at := v.ReceivedParam
	if at.Absent() {
		at = At(int(v.Value.End))
	}
	b := append(e.Begin(at), ";received="...)
	e.End(a.Unmap().WithZone("").AppendTo(b))
}

// SetRPort writes the rport parameter of a Via value (RFC 3581 4): into the
// one that is there, else at the end of v.
func (e *Edit) SetRPort(v Via, port uint16) {
	// The name is written anew: text after it could come to stand behind
	// what SetReceived adds at the same place.
	var b []byte
	if v.HasRPort {
		name := e.m.Bytes(v.RPortName)
		b = append(e.Begin(Span{v.RPortName.Start, max(v.RPortName.End, v.RPort.End)}), name...)
	} else {
		b = append(e.Begin(At(int(v.Value.End))), ";rport"...)
	}
	e.End(strconv.AppendUint(append(b, '='), uint64(port), 10))
}

// Len is the size of the result in bytes.
func (e *Edit) Len() int { return e.size }

// AppendTo appends the result to dst.
func (e *Edit) AppendTo(dst []byte) []byte {
	dst = slices.Grow(dst, e.size)
	pos, dels := 0, e.dels
	for _, t := range e.texts {
		dst, pos, dels = e.copyTo(dst, pos, t.pos, dels)
		dst = append(dst, e.buf[t.start:t.end]...)
	}
	dst, _, _ = e.copyTo(dst, pos, len(e.m.Buf), dels)
	return dst
}

// copyTo appends what is left of the message between pos and end; dels are
// the deletions that end after pos.
func (e *Edit) copyTo(dst []byte, pos, end int, dels []Span) ([]byte, int, []Span) {
	for len(dels) > 0 && int(dels[0].Start) < end {
		if from := int(dels[0].Start); from > pos {
			dst = append(dst, e.m.Buf[pos:from]...)
		}
		pos = max(pos, min(int(dels[0].End), end))
		if int(dels[0].End) > end {
			break
		}
		dels = dels[1:]
	}
	if pos < end {
		dst = append(dst, e.m.Buf[pos:end]...)
		pos = end
	}
	return dst, pos, dels
}
