package wire

import "bytes"

// param is one ";name[=value]" as offsets into the bytes it was found in. Not
// more than four of them, so that they stay in registers.
type param struct {
	name, nEnd int
	val        int // after the '=', -1 without one
	end        int // the next ';', or the end
}

// nextParam reads the parameter whose ';' is at i. A ';' inside a quoted
// string does not end it. ok is false at the end and when a quote stays open.
func nextParam(b []byte, i, end int) (p param, ok bool) {
	if i >= end || b[i] != ';' {
		return param{}, false
	}
	p.val = -1
	if p.name, p.nEnd, p.end = paramName(b, i+1, end); p.end < 0 {
		return oddParam(b, i, end)
	}
	if p.end < end && b[p.end] == '=' {
		p.val = p.end + 1
		if p.end = paramEnd(b, p.val, end); p.end < 0 {
			return param{}, false
		}
	}
	return p, true
}

// paramName finds the token at i and the '=' or ';' or end that follows it;
// next is -1 when something else does.
func paramName(b []byte, i, end int) (name, nEnd, next int) {
	name = skipLWS(b, i, end)
	nEnd = tokenEnd(b, name, end)
	next = skipLWS(b, nEnd, end)
	if next < end && b[next] != '=' && b[next] != ';' {
		return name, nEnd, -1
	}
	return name, nEnd, next
}

// oddParam is nextParam for a name that is no token.
func oddParam(b []byte, i, end int) (p param, ok bool) {
	p.val = -1
	if p.end = paramEnd(b, i+1, end); p.end < 0 {
		return param{}, false
	}
	p.nEnd = p.end
	if eq := bytes.IndexByte(b[i:p.end], '='); eq >= 0 {
		p.nEnd, p.val = i+eq, i+eq+1
	}
	p.name, p.nEnd = trimLWS(b, i+1, p.nEnd)
	return p, true
}

// paramEnd is the index of the ';' that ends the parameter at i, or end; -1
// when a quote stays open.
func paramEnd(b []byte, i, end int) int {
	for i >= 0 {
		if i = indexEither(b, i, end, ';', '"'); i == end || b[i] == ';' {
			break
		}
		i = quoted(b, i, end)
	}
	return i
}

// value is the span of the value without white space, absent without '='.
func (p param) value(b []byte) Span {
	if p.val < 0 {
		return Span{}
	}
	return span(trimLWS(b, p.val, p.end))
}

// Param finds a parameter of ";a=b;c" by its name in any case: the first one
// of that name. Its value comes as written, a quoted string with its quotes;
// it is nil without "=".
func Param(params []byte, name string) (value []byte, found bool) {
	p, found := findParam(params, 0, len(params), name)
	if !found || p.val < 0 {
		return nil, found
	}
	s, e := trimLWS(params, p.val, p.end)
	return params[s:e:e], true
}

// Param is the function Param for parameters of m, and says where the value
// stands; it is absent without "=".
func (m *Msg) Param(params Span, name string) (value Span, found bool) {
	p, found := findParam(m.Buf, int(params.Start), int(params.End), name)
	if !found {
		return Span{}, false
	}
	return p.value(m.Buf), true
}

func findParam(b []byte, i, end int, name string) (p param, found bool) {
	for i = skipLWS(b, i, end); ; i = p.end {
		var ok bool
		if p, ok = nextParam(b, i, end); !ok {
			return param{}, false
		}
		if equalFold(b[p.name:p.nEnd], name) {
			return p, true
		}
	}
}
