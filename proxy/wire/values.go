package wire

import "bytes"

// Value is one element of a comma list.
type Value struct {
	Span
	Header      int  // index into Msg.Headers
	First, Last bool // of its header line
}

// ValueIter walks the elements of all header lines of one kind in order.
// Quoted strings and angle brackets are respected; empty elements are skipped.
type ValueIter struct {
	m      *Msg
	kind   Kind
	header int
	pos    int // where to go on in that header's value; 0 at its start
}

// Values starts a walk over the comma lists of kind k. Use it for headers that
// are lists of addresses, tokens or Via values; not for credentials, Date and
// others where a comma means something else.
func (m *Msg) Values(k Kind) ValueIter {
	return ValueIter{m: m, kind: k, header: m.First(k)}
}

// Next is the next element, false at the end.
func (it *ValueIter) Next() (Value, bool) {
	if it.header < 0 {
		return Value{}, false
	}
	for ; it.header < len(it.m.Headers); it.header++ {
		h := &it.m.Headers[it.header]
		if h.Kind == it.kind {
			if v, ok := it.next(h); ok {
				return v, true
			}
		}
		it.pos = 0
	}
	return Value{}, false
}

// next is the next element of one line.
func (it *ValueIter) next(h *Header) (Value, bool) {
	b, end := it.m.Buf, int(h.Value.End)
	first := it.pos == 0
	from := skipEmpty(b, max(it.pos, int(h.Value.Start)), end)
	if from >= end {
		return Value{}, false
	}
	stop := end
	if bytes.IndexByte(b[from:end], ',') >= 0 {
		stop, _ = valueEnd(b, from, end)
	}
	it.pos = stop
	s, e := trimLWS(b, from, stop)
	return Value{
		Span:   span(s, e),
		Header: it.header,
		First:  first,
		Last:   skipEmpty(b, stop, end) >= end,
	}, true
}

// skipEmpty steps over white space and commas.
func skipEmpty(b []byte, i, end int) int {
	for i < end && (b[i] == ',' || isLWS(b[i])) {
		i++
	}
	return i
}

// valueEnd is the index of the comma that ends the element at i, or end.
// closed is false when a quote or angle bracket is still open there.
func valueEnd(b []byte, i, end int) (at int, closed bool) {
	for ; i < end; i++ {
		switch b[i] {
		case ',':
			return i, true
		case '"':
			if i = quoted(b, i, end) - 1; i < 0 {
				return end, false
			}
		case '<':
			n := bytes.IndexByte(b[i:end], '>')
			if n < 0 {
				return end, false
			}
			i += n
		}
	}
	return end, true
}

// CountValues is the number of elements of the comma lists of kind k.
func (m *Msg) CountValues(k Kind) int {
	n := 0
	for it := m.Values(k); ; n++ {
		if _, ok := it.Next(); !ok {
			return n
		}
	}
}

// HasToken tells whether a comma list of tokens holds one, in any case:
// "path, 100rel" of a Supported header. It looks at one header's value; see
// [Msg.Lists] for all of a kind.
func HasToken(value, token []byte) bool {
	end := len(value)
	for i := skipEmpty(value, 0, end); i < end; i = skipEmpty(value, i, end) {
		stop, _ := valueEnd(value, i, end)
		s, e := trimLWS(value, i, stop)
		if equalFoldBytes(value[s:e], token) {
			return true
		}
		i = stop
	}
	return false
}

// Lists tells whether any header of kind k lists the token, in any case.
func (m *Msg) Lists(k Kind, token string) bool {
	for it := m.Values(k); ; {
		v, ok := it.Next()
		if !ok {
			return false
		}
		if equalFold(m.Bytes(v.Span), token) {
			return true
		}
	}
}

func equalFoldBytes(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}
