package wire

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

func TestForwardTouchesOnlyWhatItMust(t *testing.T) {
	m := mustScan(t, inviteText)
	var e Edit
	e.Reset(m)
	forward(&e, m)
	_, rest, _ := strings.Cut(inviteText, "Route: <sip:edge.example.com;lr>\r\n")
	want(t, "result", e.AppendTo(nil), lines(
		"INVITE sip:+14155550123@198.51.100.20:5060 SIP/2.0",
		"Via: SIP/2.0/UDP 198.51.100.1;branch=z9hG4bKsw3kd92jf0293jf0wej0f92",
		"Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-524287-1---a1b2c3d4e5f60718;rport=4711;received=203.0.113.7",
		"Record-Route: <sip:198.51.100.1;lr>",
		"Max-Forwards: 69")+rest)
}

// forward is what a proxy does to a request (RFC 3261 16.6).
func forward(e *Edit, m *Msg) {
	e.ReplaceString(m.RURI, "sip:+14155550123@198.51.100.20:5060")
	e.InsertString(m.ViaPos(), "Via: SIP/2.0/UDP 198.51.100.1;branch=z9hG4bKsw3kd92jf0293jf0wej0f92\r\n")
	e.SetReceived(m.TopVia, netip.AddrFrom4([4]byte{203, 0, 113, 7}))
	e.SetRPort(m.TopVia, 4711)
	e.InsertString(m.RecordRoutePos(), "Record-Route: <sip:198.51.100.1;lr>\r\n")
	e.SetMaxForwards(m.MaxForwards - 1)
	e.DeleteFirst(KindRoute, 1)
}

func TestPositions(t *testing.T) {
	m := mustScan(t, lines("BYE sip:b SIP/2.0", "To: <sip:b>;tag=2", "Via: SIP/2.0/UDP a", "From: <sip:a>;tag=1",
		"v: SIP/2.0/UDP b", "Call-ID: 1", "Record-Route: <sip:r>", "CSeq: 1 BYE", "Record-Route: <sip:s>", ""))
	before := func(pos int, line string) {
		t.Helper()
		want(t, "line", strings.HasPrefix(string(m.Buf[pos:]), line), true)
	}
	before(m.HeadersPos(), "To:")
	before(m.ViaPos(), "Via: SIP/2.0/UDP a")
	before(m.RecordRoutePos(), "Record-Route: <sip:r>")
	m = mustScan(t, strings.ReplaceAll(string(m.Buf), "Record-Route", "X"))
	before(m.RecordRoutePos(), "Call-ID")
	m.Scan([]byte(strings.Replace(strings.Replace(string(m.Buf), "Via", "X", 1), "v:", "X:", 1)), false)
	before(m.ViaPos(), "To:")
	before(m.RecordRoutePos(), "To:")
}

func TestSetMaxForwards(t *testing.T) {
	cases := map[string]string{
		request("Max-Forwards: 0070", "X: y"): request("Max-Forwards: 69", "X: y"),
		request("Max-Forwards:\r\n 70 "):      request("Max-Forwards:\r\n 69 "),
		request("Max-Forwards: x"):            request("Max-Forwards: 69"),
		request("Max-Forwards:"):              request("Max-Forwards:69"),
		request("Max-Forwards: \r\n "):        request("Max-Forwards: \r\n 69"),
		request():                             strings.Replace(request(), "From:", "Max-Forwards: 69\r\nFrom:", 1),
	}
	for text, expected := range cases {
		m := mustScan(t, text)
		var e Edit
		e.Reset(m)
		e.SetMaxForwards(69)
		want(t, "result", e.AppendTo(nil), expected)
	}
}

// A client must not smuggle a header past its removal (CVE-2020-28361).
func TestDeleteNamedKnowsEverySpelling(t *testing.T) {
	m := mustScan(t, request("X-Auth-IP: 1", "x-auth-ip:2", "X-AUTH-IP \t : 3", "X-Auth-Ip:\r\n 4\r\n\t5", "X-Auth-IPs: 6", "y: 7", "Identity : 8"))
	var e Edit
	e.Reset(m)
	want(t, "deleted", e.DeleteNamed("X-Auth-IP"), 4)
	want(t, "deleted", e.DeleteNamed("identity"), 2)
	want(t, "deleted", e.DeleteNamed("X-None"), 0)
	want(t, "result", e.AppendTo(nil), request("X-Auth-IPs: 6"))
}

func TestInsertsKeepTheOrderOfTheCalls(t *testing.T) {
	m := mustScan(t, request())
	var e Edit
	e.Reset(m)
	e.InsertString(len(m.Buf), "5")
	e.InsertString(0, "1")
	e.Insert(0, []byte("2"))
	e.ReplaceString(Span{0, 1}, "3")
	e.InsertString(0, "")
	e.InsertString(0, "4")
	want(t, "result", e.AppendTo([]byte("> ")), "> 1234"+request()[1:]+"5")
	e.Reset(m)
	want(t, "after Reset", e.AppendTo(nil), request())
}

func TestEditStaysInTheMessage(t *testing.T) {
	m := mustScan(t, request())
	var e Edit
	e.Reset(m)
	e.InsertString(60000, "x")
	e.Delete(Span{50000, 60000})
	e.Delete(Span{9, 5})
	want(t, "result", e.AppendTo(nil), request()+"x")
	e.Delete(Span{4, 60000})
	want(t, "result", e.AppendTo(nil), "OPTIx")
	want(t, "Len", e.Len(), 5)
}

// editModel says what an Edit is: texts at positions, and deleted bytes.
type editModel struct {
	texts   map[int]string
	deleted map[int]bool
}

func (e editModel) apply(text string) string {
	var b strings.Builder
	for i := 0; i <= len(text); i++ {
		b.WriteString(e.texts[i])
		if i < len(text) && !e.deleted[i] {
			b.WriteByte(text[i])
		}
	}
	return b.String()
}

// checkEdit makes edits as next tells and compares with the model.
func checkEdit(t testing.TB, m *Msg, e *Edit, ops int, next func(n int) int) {
	t.Helper()
	e.Reset(m)
	model := editModel{map[int]string{}, map[int]bool{}}
	for range ops {
		start := next(len(m.Buf) + 1)
		s := span(start, start+next(len(m.Buf)-start+1))
		text := "+++++++++"[:next(9)]
		switch next(3) {
		case 0:
			e.InsertString(start, text)
			s.End = s.Start
		case 1:
			e.Delete(s)
			text = ""
		case 2:
			e.ReplaceString(s, text)
		}
		model.texts[start] += text
		for i := s.Start; i < s.End; i++ {
			model.deleted[int(i)] = true
		}
	}
	got, expected := string(e.AppendTo(nil)), model.apply(string(m.Buf))
	if got != expected {
		t.Fatalf("got\n%q\nwant\n%q", got, expected)
	}
	if e.Len() != len(got) {
		t.Fatalf("Len() = %d, result has %d bytes", e.Len(), len(got))
	}
}

func TestEditIsItsModel(t *testing.T) {
	m := mustScan(t, request("Content-Length: 4")+"body")
	r := rand.New(rand.NewPCG(1, 2))
	var e Edit
	for range 3000 {
		checkEdit(t, m, &e, r.IntN(12), r.IntN)
	}
	checkEdit(t, m, &e, 2000, r.IntN)
}

func TestEditDoesNotAllocate(t *testing.T) {
	m := mustScan(t, inviteText)
	var e Edit
	var out []byte
	run := func() {
		e.Reset(m)
		forward(&e, m)
		out = e.AppendTo(out[:0])
	}
	run()
	if n := testing.AllocsPerRun(100, run); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
