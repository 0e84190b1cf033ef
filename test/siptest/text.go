package siptest

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
)

var serial atomic.Uint64

// Unique returns a token that no other call in this process returns.
func Unique(prefix string) string {
	return prefix + strconv.FormatUint(serial.Add(1), 36) + seed
}

// Text is a SIP message under construction. Lines are header lines without CRLF,
// written exactly as they stand; Content-Length is added by Bytes unless a line has it.
type Text struct {
	Start string
	Lines []string
	Body  string
}

// Request starts a request with From (tagged), To, Call-ID, CSeq 1 and Max-Forwards 70;
// Via and Contact are the sender's: see Raw.Request.
func Request(method, uri string) *Text {
	return &Text{
		Start: method + " " + uri + " SIP/2.0",
		Lines: []string{
			"Max-Forwards: 70",
			"From: <sip:caller@siptest.example>;tag=" + Unique("f"),
			"To: <sip:callee@siptest.example>",
			"Call-ID: " + Unique("c") + "@siptest",
			"CSeq: 1 " + method,
		},
	}
}

// Respond answers a received request: Via, Record-Route, From, To, Call-ID and CSeq are
// copied byte for byte (RFC 3261 8.2.6). A non-empty tag is added to a To without one.
func Respond(req *Message, code int, reason, tag string) *Text {
	t := &Text{Start: fmt.Sprintf("SIP/2.0 %d %s", code, reason)}
	for _, line := range req.HeaderLines() {
		name, value := splitLine(line)
		switch name {
		case "via", "from", "call-id", "cseq", "record-route":
			if name == "record-route" && (code <= 100 || code >= 300) {
				continue
			}
		case "to":
			if tag != "" && !strings.Contains(value, "tag") {
				line += ";tag=" + tag
			}
		default:
			continue
		}
		t.Lines = append(t.Lines, line)
	}
	return t
}

// Clone makes an independent copy.
func (t *Text) Clone() *Text {
	return &Text{Start: t.Start, Lines: append([]string(nil), t.Lines...), Body: t.Body}
}

// Method replaces the method in the start line and in CSeq.
func (t *Text) Method(method string) *Text {
	_, rest, _ := strings.Cut(t.Start, " ")
	t.Start = method + " " + rest
	number, _, _ := strings.Cut(t.Get("CSeq"), " ")
	return t.Set("CSeq", number+" "+method)
}

// URI replaces the Request-URI.
func (t *Text) URI(uri string) *Text {
	method, _, _ := strings.Cut(t.Start, " ")
	t.Start = method + " " + uri + " SIP/2.0"
	return t
}

// Get returns the value of the first line of that name, "" when there is none.
func (t *Text) Get(name string) string {
	for _, line := range t.Lines {
		if n, v := splitLine(line); n == canonical(name) {
			return v
		}
	}
	return ""
}

// Set replaces the first line of that name in place, or adds one at the end.
func (t *Text) Set(name, value string) *Text {
	for i, line := range t.Lines {
		if n, _ := splitLine(line); n == canonical(name) {
			t.Lines[i] = name + ": " + value
			return t
		}
	}
	return t.Add(name, value)
}

// Add appends a line.
func (t *Text) Add(name, value string) *Text {
	t.Lines = append(t.Lines, name+": "+value)
	return t
}

// Prepend puts a line in front of all others.
func (t *Text) Prepend(name, value string) *Text {
	t.Lines = append([]string{name + ": " + value}, t.Lines...)
	return t
}

// Del removes all lines of that name.
func (t *Text) Del(name string) *Text {
	kept := t.Lines[:0]
	for _, line := range t.Lines {
		if n, _ := splitLine(line); n != canonical(name) {
			kept = append(kept, line)
		}
	}
	t.Lines = kept
	return t
}

// SDP gives the message a small session description as its body.
func (t *Text) SDP() *Text {
	t.Body = sessionDescription
	return t.Set("Content-Type", "application/sdp")
}

// Bytes is the message as it goes onto the wire.
func (t *Text) Bytes() []byte {
	var b strings.Builder
	b.WriteString(t.Start)
	b.WriteString("\r\n")
	measured := false
	for _, line := range t.Lines {
		if n, _ := splitLine(line); n == "content-length" {
			measured = true
		}
		b.WriteString(line)
		b.WriteString("\r\n")
	}
	if !measured {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(t.Body))
	}
	b.WriteString("\r\n")
	b.WriteString(t.Body)
	return []byte(b.String())
}

// CallID is the value of the Call-ID line.
func (t *Text) CallID() string { return t.Get("Call-ID") }

const sessionDescription = "v=0\r\no=siptest 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\n" +
	"t=0 0\r\nm=audio 40000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=inactive\r\n"
