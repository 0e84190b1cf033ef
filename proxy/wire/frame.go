package wire

import "bytes"

// Framer cuts a byte stream into messages (RFC 3261 18.3). It remembers how
// far it has looked, so a message that arrives byte by byte costs no more than
// one that arrives at once. The zero value is ready; one Framer serves one
// connection.
type Framer struct {
	// Max is the largest message in bytes, MaxSize when 0 or larger.
	Max int

	seen    int  // bytes of the current message that were searched for LF
	line    int  // start of the current line
	started bool // the start line is complete and is one of SIP
	need    int  // size of the current message, 0 while its header part is incomplete
	half    bool // a CRLF came that may be the first half of a ping
}

// Next finds the next message in buf, which holds what was received and not
// yet consumed. Call it again with buf[consumed:] until msg is nil, then read
// more and append it to what is left.
//
// Msg is a slice of buf, nil when more bytes are needed. CRLFs before a
// message are consumed; pings is the number of completed CRLFCRLF among them,
// each to be answered with CRLF (RFC 5626 3.5.1), however they were split or
// glued.
//
// After a fault the boundaries are lost: msg is what belongs to the broken
// message, for a reply, and the connection is to be closed.
func (f *Framer) Next(buf []byte) (msg []byte, consumed, pings int, fault Fault) {
	skip := 0
	if f.seen == 0 {
		skip, pings = f.skipCRLF(buf)
		buf = buf[skip:]
	}
	if len(buf) == 0 {
		return nil, skip, pings, NoFault
	}
	if fault = f.head(buf); fault != NoFault {
		n := min(len(buf), f.max())
		return buf[:n:n], skip + n, pings, fault
	}
	if f.need == 0 || len(buf) < f.need {
		return nil, skip, pings, NoFault
	}
	n := f.need
	*f = Framer{Max: f.Max}
	return buf[:n:n], skip + n, pings, NoFault
}

// Partial tells whether a message has begun and is not complete.
func (f *Framer) Partial() bool { return f.seen > 0 }

func (f *Framer) max() int {
	if f.Max <= 0 || f.Max > MaxSize {
		return MaxSize
	}
	return f.Max
}

// skipCRLF counts the bytes of CRLFs in front and the pings they complete.
func (f *Framer) skipCRLF(buf []byte) (n, pings int) {
	for len(buf) >= n+2 && buf[n] == '\r' && buf[n+1] == '\n' {
		n += 2
		if f.half {
			pings++
		}
		f.half = !f.half
	}
	return n, pings
}

// head goes on reading the header part; f.need is set when it is complete.
func (f *Framer) head(buf []byte) Fault {
	if f.need > 0 {
		return NoFault
	}
	if len(buf) == 1 && buf[0] == '\r' {
		return NoFault // may become a CRLF before a message
	}
	if class[buf[0]]&tokenChar == 0 {
		return FaultNotSIP // TLS, STUN, HEP: no need to wait for a line
	}
	buf = buf[:min(len(buf), f.max())]
	for f.seen < len(buf) {
		n := bytes.IndexByte(buf[f.seen:], '\n')
		if n < 0 {
			f.seen = len(buf)
			break
		}
		lf := f.seen + n
		f.seen = lf + 1
		if lf == f.line || buf[lf-1] != '\r' {
			return FaultLineBreak
		}
		if !f.started && !startsSIP(buf[:lf-1]) {
			return FaultNotSIP
		}
		f.started = true
		if lf == f.line+1 {
			return f.setNeed(buf[:lf+1])
		}
		f.line = lf + 1
	}
	if f.seen >= f.max() {
		return FaultTooLarge
	}
	return NoFault
}

// startsSIP tells whether a line is a start line of SIP, of whatever version
// and quality: Scan finds the right words for those.
func startsSIP(line []byte) bool {
	if len(line) > 4 && equalFold(line[:4], "SIP/") {
		return true
	}
	_, end := trimLWS(line, 0, len(line))
	v := line[bytes.LastIndexByte(line[:end], ' ')+1 : end]
	return len(v) > 4 && len(v) < end && equalFold(v[:4], "SIP/")
}

// setNeed finds the size of the message with that header part.
func (f *Framer) setNeed(head []byte) Fault {
	n, fault := contentLength(head)
	switch {
	case fault != NoFault:
		return fault
	case n > f.max()-len(head):
		return FaultTooLarge
	}
	f.need = len(head) + n
	return NoFault
}

// contentLength reads the Content-Length lines of a complete header part.
func contentLength(head []byte) (int, Fault) {
	length := None
	for pos := nextLine(head, 0); pos < len(head); {
		end := nextLine(head, pos)
		for end < len(head) && (head[end] == ' ' || head[end] == '\t') {
			end = nextLine(head, end)
		}
		if value, ok := lengthLine(head[pos:end]); ok {
			n, ok := number(value, 1<<31-1)
			if !ok {
				return 0, FaultContentLength
			}
			if length != None && length != int(n) {
				return 0, FaultRepeatedLength
			}
			length = int(n)
		}
		pos = end
	}
	if length == None {
		return 0, FaultMissingLength
	}
	return length, NoFault
}

// nextLine is the index after the LF of the line at pos.
func nextLine(b []byte, pos int) int {
	n := bytes.IndexByte(b[pos:], '\n')
	if n < 0 {
		return len(b)
	}
	return pos + n + 1
}

// lengthLine is the value of the line when it is a Content-Length.
func lengthLine(line []byte) ([]byte, bool) {
	if c := line[0] | 0x20; c != 'c' && c != 'l' {
		return nil, false
	}
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return nil, false
	}
	_, end := trimLWS(line, 0, colon)
	if KindOf(line[:end]) != KindContentLength {
		return nil, false
	}
	start, end := trimLWS(line, colon+1, len(line))
	return line[start:end], true
}
