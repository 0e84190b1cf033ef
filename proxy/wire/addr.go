package wire

import "bytes"

// addrParts are the parts of a name-addr or addr-spec with its header
// parameters, as offsets: RFC 3261 20.10 (without angle brackets, parameters
// belong to the header), 25.1. Not more than four of them, so that they stay
// in registers.
type addrParts struct {
	dEnd      int // of the display name, which starts the value; 0 without
	uri, uEnd int
	params    int // of the first ';', or the end of the value
}

// splitAddr finds the parts of the value [start, end).
func splitAddr(b []byte, start, end int) (a addrParts, ok bool) {
	start, end = trimLWS(b, start, end)
	i := start
	if i < end && b[i] == '"' {
		if i = quoted(b, i, end); i < 0 {
			return a, false
		}
	}
	if i = skipLWS(b, i, end); i < end && b[i] == '<' {
		return bracketed(b, start, i, end)
	}
	v := b[i:end]
	semi := bytes.IndexByte(v, ';')
	if semi < 0 {
		semi = len(v)
	}
	lt := bytes.IndexByte(v[:semi], '<')
	if lt < 0 {
		a.uri, a.uEnd = trimLWS(b, i, i+semi)
		a.params = i + semi
		return a, i == start && a.uri < a.uEnd
	}
	return bracketed(b, start, i+lt, end)
}

// bracketed finds the parts of a name-addr whose '<' is at lt.
func bracketed(b []byte, start, lt, end int) (a addrParts, ok bool) {
	n := bytes.IndexByte(b[lt:end], '>')
	if n < 0 {
		return a, false
	}
	gt := lt + n
	if start < lt {
		_, a.dEnd = trimLWS(b, start, lt)
	}
	a.uri, a.uEnd = trimLWS(b, lt+1, gt)
	a.params = skipLWS(b, gt+1, end)
	return a, a.uri < a.uEnd && (a.params == end || b[a.params] == ';')
}

// parse fills the zero Addr from a From or To value in b, which is trimmed. A tag that is there
// twice has two readings and is refused (RFC 3261 7.3.1).
func (addr *Addr) parse(b []byte, v Span) bool {
	addr.Value = v
	end := int(v.End)
	a, ok := splitAddr(b, int(v.Start), end)
	if !ok {
		return false
	}
	addr.URI = span(a.uri, a.uEnd)
	if a.dEnd > 0 {
		addr.Display = span(int(v.Start), a.dEnd)
	}
	for i := a.params; i < end; {
		p, ok := nextParam(b, i, end)
		if !ok {
			return false
		}
		if p.nEnd-p.name == 3 && equalFold(b[p.name:p.nEnd], "tag") && !once(&addr.Tag, p.value(b)) {
			return false
		}
		i = p.end
	}
	return true
}

// NameAddrURI splits one value of Route, Record-Route, Path, Contact, From or
// To: the URI without angle brackets, and the header's parameters, which start
// with ';' or are empty.
func NameAddrURI(b []byte) (uri, params []byte, ok bool) {
	a, ok := splitAddr(b, 0, len(b))
	if !ok {
		return nil, nil, false
	}
	_, end := trimLWS(b, 0, len(b))
	return b[a.uri:a.uEnd:a.uEnd], b[a.params:end:end], true
}

// ValueURI finds the URI in one value of such a header of m, and its parameters.
// isBare: no angle brackets are around it, so that another URI needs them (RFC 3261
// 20.10: parameters would become the header's).
func (m *Msg) ValueURI(v Value) (uri, params Span, isBare, ok bool) {
	a, ok := splitAddr(m.Buf, int(v.Start), int(v.End))
	if !ok {
		return Span{}, Span{}, false, false
	}
	return span(a.uri, a.uEnd), span(a.params, int(v.End)), a.uri == int(v.Start), true
}

// balanced tells whether every quoted string and every angle bracket of a
// list is closed.
func balanced(b []byte) bool {
	if len(b) > 0 && b[0] == '<' && bytes.IndexByte(b, '>') == len(b)-1 {
		return true // one URI in brackets, as most are
	}
	if bytes.IndexByte(b, '"') < 0 && bytes.IndexByte(b, '<') < 0 {
		return true
	}
	for i := 0; i < len(b); {
		end, closed := valueEnd(b, i, len(b))
		if !closed {
			return false
		}
		i = end + 1
	}
	return true
}
