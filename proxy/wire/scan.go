package wire

import "bytes"

var crlf = []byte("\r\n")

// Scan reads one message from buf and keeps buf. Bytes after the end that
// Content-Length gives are left out of m.Buf (RFC 3261 18.3 for datagrams; a
// Framer has cut a stream before). Stream says that Content-Length is
// mandatory.
//
// Scan goes on after a fault as far as that makes sense, so that a reply can
// be built when [Msg.Replyable] says so; the first fault is returned.
func (m *Msg) Scan(buf []byte, stream bool) Fault {
	m.reset()
	if len(buf) > MaxSize {
		return m.fail(FaultTooLarge)
	}
	for len(buf) > 1 && buf[0] == '\r' && buf[1] == '\n' {
		buf = buf[2:] // RFC 3261 7.5
	}
	m.Buf = buf
	if !m.scanStartLine() {
		return m.fault
	}
	end := m.scanHeaders()
	m.readSingletons()
	m.checkLists()
	m.readContentLength(stream)
	m.cutBody(end)
	return m.fault
}

func (m *Msg) reset() {
	headers := m.Headers[:0]
	*m = Msg{} // by itself, so that it is cleared in place and not copied
	m.Headers, m.MaxForwards, m.ContentLength, m.lastVia = headers, None, None, -1
}

// fail notes the first fault.
func (m *Msg) fail(f Fault) Fault {
	if m.fault == NoFault {
		m.fault = f
	}
	return m.fault
}

// scanStartLine reads the first line; false when this is not SIP at all.
func (m *Msg) scanStartLine() bool {
	m.start = bytes.IndexByte(m.Buf, '\r') + 2
	if m.start < 2 || m.start > len(m.Buf) || m.Buf[m.start-1] != '\n' {
		m.start = bytes.Index(m.Buf, crlf) + 2
	}
	line := m.Buf[:max(m.start-2, 0)]
	known := false
	if len(line) >= 4 && equalFold(line[:4], "SIP/") {
		known = m.statusLine(line)
	} else {
		known = m.requestLine(line)
	}
	if !known {
		m.fault = FaultNotSIP
	}
	return known
}

// requestLine: Method SP Request-URI SP SIP-Version (RFC 3261 7.1).
func (m *Msg) requestLine(line []byte) bool {
	m.request = true
	_, end := trimLWS(line, 0, len(line))
	sp := tokenEnd(line, 0, len(line))
	last := bytes.LastIndexByte(line[:end], ' ')
	if sp == 0 || sp == len(line) || line[sp] != ' ' || end-last-1 < 4 || !equalFold(line[last+1:last+5], "SIP/") {
		return false
	}
	m.MethodName = span(0, sp)
	m.Method = MethodOf(line[:sp])
	if sp < last {
		m.RURI = span(sp+1, last)
	}
	m.setVersion(span(last+1, end))
	if end != len(line) {
		m.fail(FaultStartLine)
	}
	m.checkRequestURI()
	return true
}

func (m *Msg) setVersion(s Span) {
	m.Version = s
	if !equalFold(m.Bytes(s), "SIP/2.0") {
		m.fail(FaultVersion)
	}
}

// checkRequestURI refuses what no URI may hold; a proxy has no business with
// the rest of it until it routes by it.
func (m *Msg) checkRequestURI() {
	uri := m.Bytes(m.RURI)
	if len(uri) == 0 || hasURIBreak(uri) {
		m.fail(FaultRequestURI)
	}
}

// statusLine: SIP-Version SP Status-Code SP Reason-Phrase (RFC 3261 7.2).
func (m *Msg) statusLine(line []byte) bool {
	sp := bytes.IndexByte(line, ' ')
	if sp < 0 {
		return false
	}
	m.setVersion(span(0, sp))
	code, rest := line[sp+1:], len(line)
	if i := bytes.IndexByte(code, ' '); i >= 0 {
		code, rest = code[:i], sp+1+i+1
	}
	m.ReasonPhrase = span(rest, len(line))
	if bytes.IndexByte(line, '\r') >= 0 || bytes.IndexByte(line, '\n') >= 0 {
		m.fail(FaultLineBreak)
	}
	n, ok := number(code, 699)
	if !ok || n < 100 || len(code) != 3 {
		m.fail(FaultStatus)
		n = 0
	}
	m.Status = int(n)
	return true
}

// scanHeaders reads all header lines and returns where the body starts.
func (m *Msg) scanHeaders() int {
	b, pos := m.Buf, m.start
	crs := 0 // that belong to CRLFs
	for pos < len(b) {
		lf := pos + bytes.IndexByte(b[pos:], '\n')
		if lf == pos+1 && b[pos] == '\r' {
			m.checkCRs(pos, crs)
			return lf + 1
		}
		if lf <= pos || b[lf-1] != '\r' || folded(b, lf) {
			var more int
			if lf, more = m.longLine(pos); lf < 0 {
				break
			}
			crs += more
		}
		crs++
		m.addHeader(pos, lf+1)
		pos = lf + 1
	}
	m.fail(FaultLineBreak)
	return len(b)
}

// folded tells whether the line that ends at lf goes on: the next one starts
// with white space (RFC 3261 7.3.1).
func folded(b []byte, lf int) bool {
	return lf+1 < len(b) && (b[lf+1] == ' ' || b[lf+1] == '\t')
}

// longLine finds the end of a header line with folds, and their number. A LF
// without CR is a fault and does not end a line.
func (m *Msg) longLine(pos int) (lf, folds int) {
	for i := pos; ; i++ {
		n := bytes.IndexByte(m.Buf[i:], '\n')
		if n < 0 {
			return -1, folds
		}
		i += n
		switch {
		case i == pos || m.Buf[i-1] != '\r':
			m.fail(FaultLineBreak)
		case folded(m.Buf, i):
			folds++
		default:
			return i, folds
		}
	}
}

// checkCRs compares the number of CRs in the header lines, which end at end,
// with the number of CRLFs that were seen.
func (m *Msg) checkCRs(end, seen int) {
	if bytes.Count(m.Buf[m.start:end], crlf[:1]) != seen {
		m.fail(FaultLineBreak)
	}
}

// addHeader reads the line [start, end), CRLF included.
func (m *Msg) addHeader(start, end int) {
	b := m.Buf
	k, n := KindOther, 0
	if start+16 <= len(b) { // nearly always, and then nearly always known
		lo, loEnd := upToColon(word(b, start))
		hi, _ := upToColon(word(b, start+8))
		if loEnd {
			hi = 0
		}
		k, n = lookup(lo, hi)
	}
	colon, nameEnd := start+n, start+n
	if k == KindOther {
		if k, nameEnd, colon = headerName(b, start, end); colon < 0 {
			m.fail(FaultHeaderName)
			return
		}
	}
	if len(m.Headers) == MaxHeaders {
		m.fail(FaultTooManyHeaders)
		return
	}
	i := len(m.Headers)
	vs, ve := colon+1, end-len("\r\n")
	if b[vs] == ' ' {
		vs++ // as nearly always, and nothing else to trim
	}
	if vs >= ve || b[vs] <= ' ' || b[ve-1] <= ' ' {
		vs, ve = trimLWS(b, colon+1, end-len("\r\n"))
	}
	m.Headers = append(m.Headers, Header{k, span(start, end), span(start, nameEnd), span(vs, ve)})
	if m.first[k] == 0 {
		m.first[k] = uint16(i) + 1
	} else {
		m.repeated(k)
	}
	if k == KindVia {
		m.Vias++
		m.lastVia = i
	}
}

// headerName reads the name of the line [start, end): colon is -1 when it has
// none or the name is no token.
func headerName(b []byte, start, end int) (k Kind, nameEnd, colon int) {
	n := bytes.IndexByte(b[start:end], ':')
	if n < 0 {
		return KindOther, 0, -1
	}
	colon = start + n
	nameEnd = colon
	for nameEnd > start && (b[nameEnd-1] == ' ' || b[nameEnd-1] == '\t') {
		nameEnd-- // HCOLON = *( SP / HTAB ) ":" SWS
	}
	k = KindOf(b[start:nameEnd])
	if k == KindOther && !isToken(b[start:nameEnd]) {
		return KindOther, 0, -1
	}
	return k, nameEnd, colon
}

// repeated refuses the second header of a kind that may appear once.
func (m *Msg) repeated(k Kind) {
	switch k {
	case KindFrom:
		m.fail(FaultRepeatedFrom)
	case KindTo:
		m.fail(FaultRepeatedTo)
	case KindCallID:
		m.fail(FaultRepeatedCallID)
	case KindCSeq:
		m.fail(FaultRepeatedCSeq)
	case KindMaxForwards:
		m.fail(FaultRepeatedForwards)
	}
}

// header is the value of the first header of kind k.
func (m *Msg) header(k Kind) (Span, bool) {
	i := m.First(k)
	if i < 0 {
		return Span{}, false
	}
	return m.Headers[i].Value, true
}

// readSingletons reads the headers that RFC 3261 8.1.1 makes mandatory, and
// Max-Forwards, whose absence is tolerated (16.3 step 3).
func (m *Msg) readSingletons() {
	m.readVia()
	m.readFromTo()
	m.readCallID()
	m.readCSeq()
	if v, ok := m.header(KindMaxForwards); ok {
		m.MaxForwardsValue = v
		n, ok := number(m.Bytes(v), 1<<31-1)
		m.MaxForwards = int(n)
		if !ok {
			m.MaxForwards = Bad
		}
	}
}

func (m *Msg) readVia() {
	if m.Vias == 0 {
		m.fail(FaultMissingVia)
		return
	}
	i := m.First(KindVia)
	v := Value{Span: m.Headers[i].Value, Header: i}
	if bytes.IndexByte(m.Bytes(v.Span), ',') >= 0 || v.Empty() {
		it := m.Values(KindVia)
		v, _ = it.Next()
	}
	if !m.TopVia.parse(m.Buf, v.Span, v.Header) {
		m.fail(FaultVia)
	}
}

func (m *Msg) readFromTo() {
	if v, ok := m.header(KindFrom); !ok {
		m.fail(FaultMissingFrom)
	} else if !m.From.parse(m.Buf, v) {
		m.fail(FaultFrom)
	}
	if v, ok := m.header(KindTo); !ok {
		m.fail(FaultMissingTo)
	} else if !m.To.parse(m.Buf, v) {
		m.fail(FaultTo)
	}
}

// readCallID takes any word but white space: a Call-ID is compared, never
// understood (RFC 3261 8.1.1.4).
func (m *Msg) readCallID() {
	v, ok := m.header(KindCallID)
	if !ok {
		m.fail(FaultMissingCallID)
		return
	}
	m.CallID = v
	end := int(v.End)
	if v.Empty() || indexEither(m.Buf, int(v.Start), end, ' ', '\t') < end {
		m.fail(FaultCallID)
	}
}

// readCSeq: 1*DIGIT LWS Method, the number below 2^31 (RFC 3261 8.1.1.5).
func (m *Msg) readCSeq() {
	v, ok := m.header(KindCSeq)
	if !ok {
		m.fail(FaultMissingCSeq)
		return
	}
	start, end := int(v.Start), int(v.End)
	i := start
	for i < end && isDigit(m.Buf[i]) {
		i++
	}
	n, ok := number(m.Buf[start:i], 1<<31-1)
	name := skipLWS(m.Buf, i, end)
	method := m.Buf[name:end]
	same := m.request && bytes.Equal(method, m.Bytes(m.MethodName)) // then it is a token
	if !ok || name == i || !same && !isToken(method) {
		m.fail(FaultCSeq)
		return
	}
	m.CSeq, m.CSeqMethod = n, span(name, end)
	if same {
		m.CSeqMethodID = m.Method
		return
	}
	m.CSeqMethodID = MethodOf(method)
	if m.request {
		m.fail(FaultCSeqMethod)
	}
}

// checkLists refuses address lists in which a quote or bracket stays open:
// no two implementations agree where the next value starts.
func (m *Msg) checkLists() {
	const lists = 1<<KindVia | 1<<KindRoute | 1<<KindRecordRoute | 1<<KindContact | 1<<KindPath
	for i := range m.Headers {
		h := &m.Headers[i]
		if lists>>h.Kind&1 == 0 {
			continue
		}
		if !balanced(m.Bytes(h.Value)) {
			m.fail(FaultQuoting)
		}
	}
}

// readContentLength looks at every Content-Length: they must agree
// (RFC 4475 3.3.9), and a number we cannot hold is not one.
func (m *Msg) readContentLength(stream bool) {
	first := m.First(KindContentLength)
	if first < 0 {
		if stream {
			m.fail(FaultMissingLength)
		}
		return
	}
	for i := first; i < len(m.Headers); i++ {
		h := &m.Headers[i]
		if h.Kind != KindContentLength {
			continue
		}
		n, ok := number(m.Bytes(h.Value), 1<<31-1)
		switch {
		case !ok:
			m.ContentLength = Bad
			m.fail(FaultContentLength)
			return
		case m.ContentLength != None && m.ContentLength != int(n):
			m.ContentLength = Bad
			m.fail(FaultRepeatedLength)
			return
		}
		m.ContentLength = int(n)
	}
}

// cutBody ends the message where Content-Length says (RFC 3261 18.3).
func (m *Msg) cutBody(body int) {
	end := len(m.Buf)
	switch {
	case m.ContentLength > end-body:
		m.fail(FaultBody)
	case m.ContentLength >= 0:
		end = body + m.ContentLength
	}
	m.Buf = m.Buf[:end:end]
	m.Body = span(body, end)
}
