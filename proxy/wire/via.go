package wire

// Via is one value of the Via list (RFC 3261 20.42). Spans of parameters are
// their values without white space.
type Via struct {
	Header int  // index into Msg.Headers
	Value  Span // the whole value

	Proto Span // the transport as written: "UDP"
	Host  Span // IPv6 with its brackets
	Port  Span // absent without port
	// PortNum is Port as a number, 0 without port.
	PortNum uint16

	Params   Span // from the first ';' to the end of the value
	Branch   Span
	Received Span
	MAddr    Span
	RPort    Span // absent when rport has no '='
	HasRPort bool // with or without value

	RPortName     Span // the name of the rport parameter, an empty one is filled after it
	ReceivedParam Span // the whole ";received=...", for removal
}

// ParseVia reads the Via value v of header line index header. When it reports
// false, the fields read so far are set. A value is refused without host,
// with a port outside 1..65535, with parameters whose name is no token, and
// when branch, received, rport or maddr is repeated (RFC 3261 7.3.1).
func ParseVia(m *Msg, v Span, header int) (Via, bool) {
	var via Via
	ok := via.parse(m.Buf, v, header)
	return via, ok
}

// parse fills the zero Via v from the value s in b.
func (v *Via) parse(b []byte, s Span, header int) bool {
	if s.Empty() || int(s.End) > len(b) {
		return false
	}
	v.Header, v.Value = header, s
	p := viaParser{v, b, int(s.Start), int(s.End)}
	return p.protocol() && p.sentBy() && p.params()
}

type viaParser struct {
	via    *Via
	b      []byte
	i, end int
}

// protocol: protocol-name SLASH protocol-version SLASH transport LWS. Name
// and version are not looked at: a Via is copied, not judged.
func (p *viaParser) protocol() bool {
	const usual = "SIP/2.0/"
	if p.end-p.i > len(usual) && string(p.b[p.i:p.i+len(usual)]) == usual && !isLWS(p.b[p.i+len(usual)]) {
		p.i += len(usual)
	} else if !p.token() || !p.char('/') || !p.token() || !p.char('/') {
		return false
	}
	start := p.i
	if !p.token() {
		return false
	}
	p.via.Proto = span(start, p.i)
	start = p.i
	p.i = skipLWS(p.b, p.i, p.end)
	return p.i > start
}

// token steps over a token.
func (p *viaParser) token() bool {
	start := p.i
	p.i = tokenEnd(p.b, start, p.end)
	return p.i > start
}

// char steps over c with white space around it.
func (p *viaParser) char(c byte) bool {
	i := skipLWS(p.b, p.i, p.end)
	if i >= p.end || p.b[i] != c {
		return false
	}
	p.i = skipLWS(p.b, i+1, p.end)
	return true
}

// sentBy: host [ COLON port ].
func (p *viaParser) sentBy() bool {
	start := p.i
	p.i = hostEnd(p.b, p.i, p.end)
	if p.i < 0 {
		p.i = start
		return false
	}
	p.via.Host = span(start, p.i)
	if !p.char(':') {
		p.i = skipLWS(p.b, p.i, p.end)
		return true
	}
	start, i := p.i, p.i
	for i < p.end && isDigit(p.b[i]) {
		i++
	}
	p.via.Port = span(start, i)
	n, ok := number(p.b[start:i], 65535)
	p.via.PortNum = uint16(n)
	p.i = skipLWS(p.b, i, p.end)
	return ok && n > 0
}

// params: *( SEMI via-params ) up to the end of the value.
func (p *viaParser) params() bool {
	if p.i == p.end {
		return true
	}
	b, end := p.b, p.end
	p.via.Params = span(p.i, end)
	for i := p.i; i < end; {
		if b[i] != ';' {
			return false
		}
		name, nEnd, next := paramName(b, i+1, end)
		if next < 0 || name == nEnd {
			return false
		}
		value := Span{}
		if next < end && b[next] == '=' {
			val := next + 1
			if next = paramEnd(b, val, end); next < 0 {
				return false
			}
			value = span(trimLWS(b, val, next))
		}
		if !p.via.keep(b[name:nEnd], span(name, nEnd), value, span(i, next)) {
			return false
		}
		i = next
	}
	return true
}

// keep notes a parameter that matters; false when it is there already.
func (v *Via) keep(name []byte, at, value, whole Span) bool {
	switch name[0] | 0x20 {
	case 'b':
		if equalFold(name, "branch") {
			return once(&v.Branch, value)
		}
	case 'm':
		if equalFold(name, "maddr") {
			return once(&v.MAddr, value)
		}
	case 'r':
		if equalFold(name, "received") {
			ok := v.ReceivedParam.Absent()
			v.ReceivedParam, v.Received = whole, value
			return ok
		}
		if equalFold(name, "rport") {
			ok := !v.HasRPort
			v.HasRPort, v.RPortName, v.RPort = true, at, value
			return ok
		}
	}
	return true
}

// once stores the value of a parameter that may appear once; without a value
// it is as good as not there.
func once(s *Span, value Span) bool {
	if !s.Absent() {
		return false
	}
	*s = value
	return true
}

// hostEnd is the index after the host at i, -1 when there is none. Brackets
// enclose an IPv6 reference, whose inside is checked for its characters only.
func hostEnd(b []byte, i, end int) int {
	start := i
	if i < end && b[i] == '[' {
		for i++; i < end && isIPv6Char(b[i]); i++ {
		}
		if i >= end || b[i] != ']' || i == start+1 {
			return -1
		}
		return i + 1
	}
	for i < end && class[b[i]]&hostChar != 0 {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

func isIPv6Char(c byte) bool {
	return isDigit(c) || (c|0x20)-'a' < 6 || c == ':' || c == '.'
}

// NextVia is the Via value after prev, on the same line or the next Via line.
// False at the end and when that value is unreadable.
func (m *Msg) NextVia(prev Via) (Via, bool) {
	it := ValueIter{m: m, kind: KindVia, header: prev.Header, pos: int(prev.Value.End)}
	v, ok := it.Next()
	if !ok {
		return Via{}, false
	}
	return ParseVia(m, v.Span, v.Header)
}
