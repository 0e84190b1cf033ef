package wire

import "bytes"

// param is one ";name[=value]" as offsets into the bytes it was found in.
type param struct {
	start      int // of the ';'
	name, nEnd int
	val, vEnd  int // val is -1 without '='
	end        int // the next ';', or the end
}

// nextParam reads the parameter whose ';' is at i. A ';' inside a quoted
// string does not end it. ok is false at the end and when a quote stays open.
func nextParam(b []byte, i, end int) (p param, ok bool) {
	if i >= end || b[i] != ';' {
		return param{}, false
	}
	p = param{start: i, val: -1}
	p.name = skipLWS(b, i+1, end)
	p.nEnd = p.name
	for p.nEnd < end && class[b[p.nEnd]]&tokenChar != 0 {
		p.nEnd++
	}
	switch p.end = skipLWS(b, p.nEnd, end); {
	case p.end == end || b[p.end] == ';':
		return p, true
	case b[p.end] != '=':
		return oddParam(b, i, end)
	}
	val := p.end + 1
	if p.end = paramEnd(b, val, end); p.end < 0 {
		return param{}, false
	}
	p.val, p.vEnd = trimLWS(b, val, p.end)
	return p, true
}

// oddParam is nextParam for a name that is no token.
func oddParam(b []byte, i, end int) (p param, ok bool) {
	p = param{start: i, val: -1}
	if p.end = paramEnd(b, i+1, end); p.end < 0 {
		return param{}, false
	}
	p.nEnd = p.end
	if eq := bytes.IndexByte(b[i:p.end], '='); eq >= 0 {
		p.nEnd = i + eq
		p.val, p.vEnd = trimLWS(b, i+eq+1, p.end)
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

// value is the span of the value: absent without '='.
func (p param) value() Span {
	if p.val < 0 {
		return Span{}
	}
	return span(p.val, p.vEnd)
}

// Param finds a parameter of ";a=b;c" by its name in any case: the first one
// of that name. Its value comes as written, a quoted string with its quotes;
// it is nil without "=".
func Param(params []byte, name string) (value []byte, found bool) {
	end := len(params)
	for i := skipLWS(params, 0, end); ; {
		p, ok := nextParam(params, i, end)
		if !ok {
			return nil, false
		}
		if equalFold(params[p.name:p.nEnd], name) {
			if p.val < 0 {
				return nil, true
			}
			return params[p.val:p.vEnd:p.vEnd], true
		}
		i = p.end
	}
}
