package wire

import (
	"net/netip"
	"testing"
)

const inviteText = "INVITE sip:+14155550123@edge.example.com;user=phone SIP/2.0\r\n" +
	"Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-524287-1---a1b2c3d4e5f60718;rport\r\n" +
	"Max-Forwards: 70\r\n" +
	"Route: <sip:edge.example.com;lr>\r\n" +
	"Contact: <sip:alice@192.0.2.10:5060;transport=udp>\r\n" +
	"To: <sip:+14155550123@edge.example.com>\r\n" +
	"From: \"Alice\" <sip:alice@edge.example.com>;tag=8f2a61bc\r\n" +
	"Call-ID: 84917NWUxYmI2ZDE0ZmY4N2E1@192.0.2.10\r\n" +
	"CSeq: 1 INVITE\r\n" +
	"Session-Expires: 1800;refresher=uac\r\n" +
	"Allow: INVITE, ACK, CANCEL, BYE, NOTIFY, REFER, OPTIONS, INFO, UPDATE\r\n" +
	"Content-Type: application/sdp\r\n" +
	"Supported: replaces, timer, path\r\n" +
	"User-Agent: Example Phone 5.4.1\r\n" +
	"Content-Length: 178\r\n" +
	"\r\n" +
	"v=0\r\no=- 3724394400 3724394400 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\n" +
	"m=audio 49170 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=sendrecv\r\n"

func TestForwardTouchesOnlyWhatItMust(t *testing.T) {
	var m Msg
	if f := m.Scan([]byte(inviteText), false); f != NoFault {
		t.Fatal(f)
	}
	var e Edit
	e.Reset(&m)
	e.ReplaceString(m.RURI, "sip:node1.example.net")
	e.InsertString(m.ViaPos(), "Via: SIP/2.0/UDP 198.51.100.1;branch=z9hG4bKx\r\n")
	e.SetReceived(m.TopVia, netip.MustParseAddr("203.0.113.7"))
	e.SetRPort(m.TopVia, 4711)
	e.SetMaxForwards(m.MaxForwards - 1)
	e.DeleteFirst(KindRoute, 1)
	out := string(e.AppendTo(nil))
	want := "INVITE sip:node1.example.net SIP/2.0\r\n" +
		"Via: SIP/2.0/UDP 198.51.100.1;branch=z9hG4bKx\r\n" +
		"Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-524287-1---a1b2c3d4e5f60718;rport=4711;received=203.0.113.7\r\n" +
		"Max-Forwards: 69\r\n" +
		inviteText[indexOf(inviteText, "Contact:"):]
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	if len(out) != e.Len() {
		t.Errorf("Len() = %d, result has %d bytes", e.Len(), len(out))
	}
}

func indexOf(s, sub string) int {
	for i := range s {
		if len(s)-i >= len(sub) && s[i:i+len(sub)] == sub {
			return i
		}
	}
	return -1
}

func BenchmarkScanInvite(b *testing.B) {
	msg := []byte(inviteText)
	var m Msg
	b.ReportAllocs()
	b.SetBytes(int64(len(msg)))
	for b.Loop() {
		if m.Scan(msg, false) != NoFault {
			b.Fatal("fault")
		}
	}
}
