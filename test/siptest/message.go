package siptest

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
)

// seed keeps the tokens of two processes apart.
var seed = func() string {
	var b [5]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	return "x" + hex.EncodeToString(b[:])
}()

// Message is one received message: its bytes and where they came from. Its accessors
// read the bytes each time; they are written for tests, independent of the code under
// test, and take LWS, folds and compact names as RFC 3261 7.3 has them.
type Message struct {
	Data    []byte
	Network string         // udp, tcp or tls
	From    netip.AddrPort // the sender's address as the socket saw it
	Local   netip.AddrPort // the local address it arrived at

	reply func([]byte) error
}

// Reply sends bytes back the way the message came: to its source address, or on its connection.
func (m *Message) Reply(b []byte) error { return m.reply(b) }

// Respond answers the message: see the function Respond.
func (m *Message) Respond(code int, reason, tag string) error {
	return m.Reply(Respond(m, code, reason, tag).Bytes())
}

// String is the message's text.
func (m *Message) String() string { return string(m.Data) }

// StartLine is the first line without its CRLF.
func (m *Message) StartLine() string {
	line, _, _ := strings.Cut(string(m.Data), "\r\n")
	return line
}

// Status is the code of a response, 0 for a request.
func (m *Message) Status() int {
	rest, ok := strings.CutPrefix(m.StartLine(), "SIP/2.0 ")
	if !ok {
		return 0
	}
	code, _, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(code)
	if err != nil {
		return 0
	}
	return n
}

// Method is the method of a request, or of a response's CSeq.
func (m *Message) Method() string {
	if m.Status() != 0 {
		fields := strings.Fields(m.Get("CSeq"))
		if len(fields) < 2 {
			return ""
		}
		return fields[1]
	}
	method, _, _ := strings.Cut(m.StartLine(), " ")
	return method
}

// RURI is the Request-URI.
func (m *Message) RURI() string {
	fields := strings.Split(m.StartLine(), " ")
	if len(fields) < 2 {
		return ""
	}
	return fields[1]
}

// HeaderLines are the header lines with their folds, without the closing CRLF.
func (m *Message) HeaderLines() []string {
	head, _, _ := bytes.Cut(m.Data, []byte("\r\n\r\n"))
	var lines []string
	for i, line := range strings.Split(string(head), "\r\n") {
		switch {
		case i == 0:
		case len(lines) > 0 && (strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")):
			lines[len(lines)-1] += "\r\n" + line
		default:
			lines = append(lines, line)
		}
	}
	return lines
}

// Get is the value of the first header line of that name.
func (m *Message) Get(name string) string {
	for _, line := range m.HeaderLines() {
		if n, v := splitLine(line); n == canonical(name) {
			return v
		}
	}
	return ""
}

// Values are the values of all lines of that name, comma lists taken apart.
func (m *Message) Values(name string) []string {
	var out []string
	for _, line := range m.HeaderLines() {
		if n, v := splitLine(line); n == canonical(name) {
			out = append(out, splitList(v)...)
		}
	}
	return out
}

// CallID is the value of Call-ID.
func (m *Message) CallID() string { return m.Get("Call-ID") }

// CSeq is the number of CSeq, -1 when it cannot be read.
func (m *Message) CSeq() int {
	fields := strings.Fields(m.Get("CSeq"))
	if len(fields) == 0 {
		return -1
	}
	n, err := strconv.Atoi(fields[0])
	if err != nil {
		return -1
	}
	return n
}

// Branch is the branch of the topmost Via.
func (m *Message) Branch() string {
	vias := m.Values("Via")
	if len(vias) == 0 {
		return ""
	}
	branch, _ := Param(vias[0], "branch")
	return branch
}

// Tag is the tag of From or To.
func (m *Message) Tag(header string) string {
	tag, _ := Param(afterURI(m.Get(header)), "tag")
	return tag
}

// Body is what follows the header part.
func (m *Message) Body() []byte {
	_, body, _ := bytes.Cut(m.Data, []byte("\r\n\r\n"))
	return body
}

// Param finds a ";name=value" parameter in a header value, whatever its case.
func Param(value, name string) (string, bool) {
	for _, part := range strings.Split(value, ";")[1:] {
		k, v, _ := strings.Cut(part, "=")
		if strings.EqualFold(strings.TrimSpace(k), name) {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}

// AddrURI is the URI of a name-addr or addr-spec value.
func AddrURI(value string) string {
	if _, rest, ok := strings.Cut(value, "<"); ok {
		uri, _, _ := strings.Cut(rest, ">")
		return uri
	}
	uri, _, _ := strings.Cut(value, ";")
	return strings.TrimSpace(uri)
}

// URIHost reads the host and the port of a SIP URI with a numeric host; the port's default is 5060.
func URIHost(uri string) (netip.AddrPort, bool) {
	_, rest, _ := strings.Cut(uri, ":")
	rest, _, _ = strings.Cut(rest, "?")
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		rest = rest[at+1:]
	}
	rest, _, _ = strings.Cut(rest, ";")
	if ap, err := netip.ParseAddrPort(rest); err == nil {
		return ap, true
	}
	a, err := netip.ParseAddr(strings.Trim(rest, "[]"))
	if err != nil {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a, 5060), true
}

func afterURI(value string) string {
	if i := strings.LastIndex(value, ">"); i >= 0 {
		return value[i:]
	}
	return value
}

// splitLine returns the lower-case long name and the value of a header line, folds made into spaces.
func splitLine(line string) (name, value string) {
	name, value, _ = strings.Cut(line, ":")
	value = strings.NewReplacer("\r\n ", " ", "\r\n\t", " ").Replace(value)
	return canonical(strings.TrimSpace(name)), strings.TrimSpace(value)
}

var compact = map[string]string{
	"v": "via", "f": "from", "t": "to", "i": "call-id", "m": "contact", "l": "content-length",
	"c": "content-type", "e": "content-encoding", "k": "supported", "s": "subject",
}

func canonical(name string) string {
	name = strings.ToLower(name)
	if long, ok := compact[name]; ok {
		return long
	}
	return name
}

// splitList takes a comma list apart; quotes and angle brackets protect their commas.
func splitList(value string) []string {
	var out []string
	start, quoted, angle := 0, false, 0
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '<':
			angle++
		case c == '>':
			angle--
		case c == ',' && angle == 0:
			out = append(out, strings.TrimSpace(value[start:i]))
			start = i + 1
		}
	}
	return append(out, strings.TrimSpace(value[start:]))
}
