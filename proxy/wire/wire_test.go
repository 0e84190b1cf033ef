package wire

import (
	"fmt"
	"strings"
	"testing"
)

// inviteText is an INVITE of 850 bytes as a phone sends it.
var inviteText = lines(
	"INVITE sip:+14155550123@edge.example.com;user=phone SIP/2.0",
	"Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-524287-1---a1b2c3d4e5f60718;rport",
	"Max-Forwards: 70",
	"Route: <sip:edge.example.com;lr>",
	"Contact: <sip:alice@192.0.2.10:5060;transport=udp>",
	"To: <sip:+14155550123@edge.example.com>",
	`From: "Alice" <sip:alice@edge.example.com>;tag=8f2a61bc`,
	"Call-ID: 84917NWUxYmI2ZDE0ZmY4N2E1@192.0.2.10",
	"CSeq: 1 INVITE",
	"Session-Expires: 1800;refresher=uac",
	"Allow: INVITE, ACK, CANCEL, BYE, NOTIFY, REFER, OPTIONS, INFO, UPDATE",
	"Content-Type: application/sdp",
	"Supported: replaces, timer, path",
	"User-Agent: Example Phone 5.4.1",
	"Content-Length: 200",
	"",
	"v=0",
	"o=- 3724394400 3724394400 IN IP4 192.0.2.10",
	"s=-",
	"c=IN IP4 192.0.2.10",
	"t=0 0",
	"m=audio 49170 RTP/AVP 0 8 101",
	"a=rtpmap:0 PCMU/8000",
	"a=rtpmap:101 telephone-event/8000",
	"a=fmtp:101 0-15",
	"a=sendrecv",
)

var okText = lines(
	"SIP/2.0 200 OK",
	"Via: SIP/2.0/UDP 198.51.100.1;branch=z9hG4bKsw3kd92jf0293jf0wej0f92",
	"Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-524287-1---a1b2c3d4e5f60718;rport=5060;received=192.0.2.10",
	"Record-Route: <sip:198.51.100.1;lr>",
	"Contact: <sip:+14155550123@198.51.100.20:5060>",
	"To: <sip:+14155550123@edge.example.com>;tag=as58f4201b",
	`From: "Alice" <sip:alice@edge.example.com>;tag=8f2a61bc`,
	"Call-ID: 84917NWUxYmI2ZDE0ZmY4N2E1@192.0.2.10",
	"CSeq: 1 INVITE",
	"Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, SUBSCRIBE, NOTIFY, INFO",
	"Supported: replaces, timer",
	"Content-Length: 0",
	"",
)

func lines(l ...string) string { return strings.Join(l, "\r\n") + "\r\n" }

// request is a good OPTIONS with more header lines.
func request(more ...string) string {
	return lines("OPTIONS sip:b@example.com SIP/2.0",
		"Via: SIP/2.0/UDP a.example.com;branch=z9hG4bK1",
		"From: <sip:a@example.com>;tag=1",
		"To: <sip:b@example.com>",
		"Call-ID: c1",
		"CSeq: 1 OPTIONS") + head(more) + "\r\n"
}

func head(l []string) string {
	if len(l) == 0 {
		return ""
	}
	return lines(l...)
}

// with is a good OPTIONS in which the lines replace those of the same name.
func with(replace ...string) string {
	text := request()
	for _, line := range replace {
		name, _, _ := strings.Cut(line, ":")
		start := strings.Index(text, "\r\n"+strings.TrimSpace(name)+":") + 2
		end := start + strings.Index(text[start:], "\r\n")
		text = text[:start] + line + text[end:]
	}
	return text
}

func mustScan(t testing.TB, text string) *Msg {
	t.Helper()
	m := new(Msg)
	if f := m.Scan([]byte(text), false); f != NoFault {
		t.Fatalf("%v in\n%s", f, text)
	}
	return m
}

func want(t *testing.T, what string, got, expected any) {
	t.Helper()
	if g, e := fmt.Sprintf("%v", str(got)), fmt.Sprintf("%v", str(expected)); g != e {
		t.Errorf("%s = %q, want %q", what, g, e)
	}
}

func str(v any) any {
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	return v
}
