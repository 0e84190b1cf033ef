package wire

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
	eq := -1
scan:
	for i = p.name; i < end; i++ {
		switch b[i] {
		case ';':
			break scan
		case '=':
			if eq < 0 {
				eq = i
			}
		case '"':
			if i = quoted(b, i, end) - 1; i < 0 {
				return param{}, false
			}
		}
	}
	p.end, p.nEnd = i, i
	if eq >= 0 {
		p.nEnd = eq
		p.val, p.vEnd = trimLWS(b, eq+1, i)
	}
	p.name, p.nEnd = trimLWS(b, p.name, p.nEnd)
	return p, true
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
