package wire

import (
	"bytes"
	"strings"
	"testing"
)

func TestScanRequest(t *testing.T) {
	m := mustScan(t, inviteText)
	want(t, "size", len(m.Buf), len(inviteText))
	want(t, "IsRequest", m.IsRequest(), true)
	want(t, "Replyable", m.Replyable(), true)
	want(t, "Method", m.Method, INVITE)
	want(t, "RURI", m.Bytes(m.RURI), "sip:+14155550123@edge.example.com;user=phone")
	want(t, "Version", m.Bytes(m.Version), "SIP/2.0")
	want(t, "Headers", len(m.Headers), 14)
	want(t, "Via host", m.Bytes(m.TopVia.Host), "192.0.2.10")
	want(t, "Via port", m.TopVia.PortNum, 5060)
	want(t, "branch", m.Bytes(m.TopVia.Branch), "z9hG4bK-524287-1---a1b2c3d4e5f60718")
	want(t, "HasRPort", m.TopVia.HasRPort, true)
	want(t, "From URI", m.Bytes(m.From.URI), "sip:alice@edge.example.com")
	want(t, "From tag", m.Bytes(m.From.Tag), "8f2a61bc")
	want(t, "From display", m.Bytes(m.From.Display), `"Alice"`)
	want(t, "To URI", m.Bytes(m.To.URI), "sip:+14155550123@edge.example.com")
	want(t, "To tag absent", m.To.Tag.Absent(), true)
	want(t, "Call-ID", m.Bytes(m.CallID), "84917NWUxYmI2ZDE0ZmY4N2E1@192.0.2.10")
	want(t, "CSeq", m.CSeq, 1)
	want(t, "CSeq method", m.CSeqMethodID, INVITE)
	want(t, "Max-Forwards", m.MaxForwards, 70)
	want(t, "Content-Length", m.ContentLength, 200)
	want(t, "Body", m.Body.Len(), 200)
	want(t, "Route", m.Value(KindRoute), "<sip:edge.example.com;lr>")
	want(t, "Supported", m.Lists(KindSupported, "TIMER"), true)
	want(t, "Find", m.Find("user-agent"), m.First(KindUserAgent))
	want(t, "Find none", m.Find("X-None"), -1)
	want(t, "First none", m.First(KindPath), -1)
	want(t, "First of no kind", m.First(Kind(200)), -1)
}

func TestScanResponse(t *testing.T) {
	m := mustScan(t, okText)
	want(t, "IsRequest", m.IsRequest(), false)
	want(t, "Replyable", m.Replyable(), false)
	want(t, "Status", m.Status, 200)
	want(t, "Reason", m.Bytes(m.ReasonPhrase), "OK")
	want(t, "Vias", m.Vias, 2)
	next, ok := m.NextVia(m.TopVia)
	want(t, "second Via", ok, true)
	want(t, "received", m.Bytes(next.Received), "192.0.2.10")
	want(t, "rport", m.Bytes(next.RPort), "5060")
	_, ok = m.NextVia(next)
	want(t, "third Via", ok, false)
}

// Lines that are legal, if rare, or that real peers send. All pass, and pass
// unchanged.
func TestScanAccepts(t *testing.T) {
	longHeader := "X-Long: " + strings.Repeat("x", 60000)
	cases := map[string]string{
		"compact forms":              strings.NewReplacer("Via:", "v:", "From:", "f:", "To:", "t:", "Call-ID:", "i:").Replace(request("l: 0", "k: path", "m: *")),
		"odd case":                   strings.NewReplacer("Via:", "vIA:", "From:", "FROM:", "CSeq:", "cseq:").Replace(request()),
		"space before the colon":     strings.ReplaceAll(request("Max-Forwards : 1", "Content-Length\t : 0"), "Call-ID:", "Call-ID \t:"),
		"folded CSeq":                with("CSeq: \r\n 1\r\n\tOPTIONS"),
		"spaces in CSeq":             with("CSeq: 1   OPTIONS"),
		"largest CSeq":               with("CSeq: 2147483647 OPTIONS"),
		"8-bit octets":               request("Subject: \xff\xfe\x80"),
		"NUL in a quoted string":     with("From: \"\\\x00\" <sip:a@example.com>;tag=1"),
		"unknown method":             strings.ReplaceAll(request(), "OPTIONS", "newMETHOD-!%*_+`'~"),
		"unknown scheme":             strings.Replace(request(), "sip:b@example.com SIP", "nobodyKnowsThis:a?b@c SIP", 1),
		"lower-case version":         strings.Replace(request(), "SIP/2.0\r", "sip/2.0\r", 1),
		"CRLFs before":               "\r\n\r\n\r\n" + request(),
		"empty optional headers":     request("Subject:", "Supported: ", "Record-Route:", "Contact:"),
		"unknown header":             request("!odd%Name*: x"),
		"same Content-Length twice":  request("Content-Length: 0", "l: 00"),
		"Max-Forwards above 255":     request("Max-Forwards: 300"),
		"unreadable Max-Forwards":    request("Max-Forwards: many"),
		"64 kB of one header":        request(longHeader),
		"escaped quote":              with(`From: "a \" ; tag=x < , \\" <sip:a@example.com>;tag=1`),
		"semicolon in a quote":       with(`From: <sip:a@example.com>;x=";tag=2";tag=1`),
		"comma in a Via quote":       with(`Via: SIP/2.0/UDP h;x="a,b";branch=z9hG4bK1, SIP/2.0/UDP i;y=",";branch=z9hG4bK2`),
		"comma in angle brackets":    request("Contact: <sip:a,b@c>, <sip:d@e>"),
		"star Contact":               request("Contact: *"),
		"no brackets":                with("From: sip:a@example.com;tag=1", "To: sip:b@example.com;x=\"<\""),
		"space after a bracket":      with("To: < sip:b@example.com > ; tag = 2"),
		"IPv6 Via":                   with("Via: SIP/2.0/TLS [2001:db8::1]:5061;received=2001:db8::2;branch=z9hG4bK1"),
		"space around a Via colon":   with("Via: SIP / 2.0 / UDP  h : 5060 ; branch = z9hG4bK1"),
		"unknown transport":          with("Via: SIP/2.0/SCTP h;branch=z9hG4bK1"),
		"no branch":                  with("Via: SIP/2.0/UDP h"),
		"valueless Via parameters":   with("Via: SIP/2.0/UDP h;alias;rport;branch=z9hG4bK1"),
		"no From tag":                with("From: <sip:a@example.com>"),
		"quote in the Call-ID":       with(`Call-ID: a"b<c`),
		"unusual Authorization":      request(`Authorization: Digest username="a,b", realm="unclosed`),
		"status without phrase":      strings.Replace(okText, "200 OK", "200 ", 1),
		"status without phrase, SP":  strings.Replace(okText, "200 OK", "200", 1),
		"8-bit phrase":               strings.Replace(okText, "200 OK", "699 \xd0\xbd = 2**3", 1),
		"256 header lines":           request(strings.Fields(strings.Repeat("X:y ", MaxHeaders-5))...),
		"response, other CSeq":       strings.Replace(okText, "1 INVITE", "1 invite", 1),
		"many Vias":                  request(strings.Split(strings.Repeat("v: SIP/2.0/UDP h,", 99)+"v: SIP/2.0/UDP h", ",")...),
		"white-space-only fold":      request("Subject: a\r\n \r\n b"),
		"HTTP tokens in a parameter": with("To: <sip:b@example.com>;a=b=c;d"),
	}
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			m := mustScan(t, text)
			var e Edit
			e.Reset(m)
			if got := string(e.AppendTo(nil)); got != strings.TrimLeft(text, "\r\n") {
				t.Errorf("came back as\n%s", got)
			}
			if m.IsRequest() && !m.Replyable() {
				t.Error("not replyable")
			}
		})
	}
}

func TestScanRefuses(t *testing.T) {
	type c struct {
		text  string
		fault Fault
	}
	start := func(s string) string { return s + request()[strings.Index(request(), "\r\n"):] }
	resp := func(s string) string { return s + okText[strings.Index(okText, "\r\n"):] }
	cases := map[string]c{
		"nothing":                      {"", FaultNotSIP},
		"CRLF":                         {"\r\n\r\n", FaultNotSIP},
		"NULs":                         {"\x00\x00\x00\x00", FaultNotSIP},
		"HTTP":                         {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", FaultNotSIP},
		"STUN":                         {"\x00\x01\x00\x00\x21\x12\xa4\x42\r\n\r\n", FaultNotSIP},
		"no version":                   {start("OPTIONS sip:b@example.com"), FaultNotSIP},
		"method with a control":        {start("OPT\x01 sip:b@example.com SIP/2.0"), FaultNotSIP},
		"too large":                    {request("X: " + strings.Repeat("x", MaxSize)), FaultTooLarge},
		"SIP/7.0":                      {start("OPTIONS sip:b@example.com SIP/7.0"), FaultVersion},
		"SIP/2.01":                     {start("OPTIONS sip:b@example.com SIP/2.01"), FaultVersion},
		"response SIP/3.0":             {resp("SIP/3.0 200 OK"), FaultVersion},
		"two spaces":                   {start("OPTIONS  sip:b@example.com SIP/2.0"), FaultRequestURI},
		"space in the URI":             {start("OPTIONS sip:b@example.com; lr SIP/2.0"), FaultRequestURI},
		"URI in brackets":              {start("OPTIONS <sip:b@example.com> SIP/2.0"), FaultRequestURI},
		"tab in the URI":               {start("OPTIONS sip:b\t SIP/2.0"), FaultRequestURI},
		"no URI":                       {start("OPTIONS  SIP/2.0"), FaultRequestURI},
		"one space":                    {start("OPTIONS SIP/2.0"), FaultRequestURI},
		"space at the end":             {start("OPTIONS sip:b@example.com SIP/2.0 "), FaultStartLine},
		"status 99":                    {resp("SIP/2.0 099 OK"), FaultStatus},
		"status 700":                   {resp("SIP/2.0 700 OK"), FaultStatus},
		"status of ten digits":         {resp("SIP/2.0 4294967301 OK"), FaultStatus},
		"status -20":                   {resp("SIP/2.0 -20 OK"), FaultStatus},
		"CR in the phrase":             {resp("SIP/2.0 200 O\rK"), FaultLineBreak},
		"bare LF in a value":           {request("X: a\nY: b"), FaultLineBreak},
		"bare CR in a value":           {request("X: a\rY: b"), FaultLineBreak},
		"bare CR in a fold":            {request("X: a\r\n b\r c"), FaultLineBreak},
		"two CRs":                      {request("X: a\r"), FaultLineBreak},
		"LF first in a line":           {request("X: a", "\nY: b"), FaultLineBreak},
		"no empty line":                {strings.TrimSuffix(request(), "\r\n"), FaultLineBreak},
		"no last line end":             {strings.TrimSuffix(request(), "\r\n\r\n"), FaultLineBreak},
		"no colon":                     {request("NoColon"), FaultHeaderName},
		"fold without a header":        {strings.Replace(request(), "Via:", " Via:", 1), FaultHeaderName},
		"NUL in a name":                {request("X\x00Y: a"), FaultHeaderName},
		"space in a name":              {request("X Y: a"), FaultHeaderName},
		"empty name":                   {request(": a"), FaultHeaderName},
		"8-bit name":                   {request("X\xc3\xa9: a"), FaultHeaderName},
		"257 header lines":             {request(strings.Fields(strings.Repeat("X:y ", MaxHeaders-4))...), FaultTooManyHeaders},
		"no Via":                       {strings.Replace(request(), "Via:", "X:", 1), FaultMissingVia},
		"no From":                      {strings.Replace(request(), "From:", "X:", 1), FaultMissingFrom},
		"no To":                        {strings.Replace(request(), "To:", "X:", 1), FaultMissingTo},
		"no Call-ID":                   {strings.Replace(request(), "Call-ID:", "X:", 1), FaultMissingCallID},
		"no CSeq":                      {strings.Replace(request(), "CSeq:", "X:", 1), FaultMissingCSeq},
		"empty Via":                    {with("Via:"), FaultVia},
		"Via of commas":                {with("Via: ,,"), FaultVia},
		"Via without host":             {with("Via: SIP/2.0/UDP ;branch=z9hG4bK1"), FaultVia},
		"Via without transport":        {with("Via: SIP/2.0/ h"), FaultVia},
		"Via glued":                    {with("Via: SIP/2.0/UDP"), FaultVia},
		"Via, open bracket":            {with("Via: SIP/2.0/UDP [::1;branch=z9hG4bK1"), FaultVia},
		"Via, two hosts":               {with("Via: SIP/2.0/UDP a b"), FaultVia},
		"Via port 0":                   {with("Via: SIP/2.0/UDP h:0"), FaultVia},
		"Via port 65536":               {with("Via: SIP/2.0/UDP h:65536"), FaultVia},
		"Via empty port":               {with("Via: SIP/2.0/UDP h:;branch=z9hG4bK1"), FaultVia},
		"Via empty parameters":         {with("Via: SIP/2.0/UDP h;;,;,,"), FaultVia},
		"Via two branches":             {with("Via: SIP/2.0/UDP h;branch=z9hG4bK1;BRANCH=z9hG4bK2"), FaultVia},
		"Via two received":             {with("Via: SIP/2.0/UDP h;received=1.1.1.1;received=2.2.2.2"), FaultVia},
		"Via two rports":               {with("Via: SIP/2.0/UDP h;rport;rport=1"), FaultVia},
		"Via open quote":               {with(`Via: SIP/2.0/UDP h;x="a`), FaultVia},
		"lower Via open quote":         {request(`Via: SIP/2.0/UDP h;x="a`), FaultQuoting},
		"empty From":                   {with("From:"), FaultFrom},
		"From open quote":              {with(`From: "a <sip:a@example.com>;tag=1`), FaultFrom},
		"From quote ends in an escape": {with(`From: "a\" <sip:a@example.com>;tag=1`), FaultFrom},
		"From without URI":             {with("From: <>;tag=1"), FaultFrom},
		"From two tags":                {with("From: <sip:a@example.com>;tag=1;Tag=2"), FaultFrom},
		"From open parameter quote":    {with(`From: <sip:a@example.com>;x=";tag=1`), FaultFrom},
		"From display only":            {with(`From: "a"`), FaultFrom},
		"empty To":                     {with("To:"), FaultTo},
		"To open bracket":              {with("To: <sip:b@example.com"), FaultTo},
		"To with text after":           {with("To: <sip:b@example.com>tag=1"), FaultTo},
		"empty Call-ID":                {with("Call-ID: "), FaultCallID},
		"Call-ID with a space":         {with("Call-ID: a b"), FaultCallID},
		"CSeq 2^31":                    {with("CSeq: 2147483648 OPTIONS"), FaultCSeq},
		"CSeq of 20 digits":            {with("CSeq: 36893488147419103232 OPTIONS"), FaultCSeq},
		"negative CSeq":                {with("CSeq: -1 OPTIONS"), FaultCSeq},
		"CSeq without method":          {with("CSeq: 1"), FaultCSeq},
		"CSeq without number":          {with("CSeq: OPTIONS"), FaultCSeq},
		"CSeq glued":                   {with("CSeq: 1OPTIONS"), FaultCSeq},
		"CSeq of two methods":          {with("CSeq: 1 OPTIONS INVITE"), FaultCSeq},
		"empty CSeq":                   {with("CSeq:"), FaultCSeq},
		"CSeq of another method":       {with("CSeq: 1 INVITE"), FaultCSeqMethod},
		"CSeq of another case":         {with("CSeq: 1 Options"), FaultCSeqMethod},
		"two Froms":                    {request("f: <sip:x@y>;tag=2"), FaultRepeatedFrom},
		"two Tos":                      {request("t : <sip:x@y>"), FaultRepeatedTo},
		"two Call-IDs":                 {request("i: c1"), FaultRepeatedCallID},
		"two CSeqs":                    {request("cSEQ: 1 OPTIONS"), FaultRepeatedCSeq},
		"two Max-Forwards":             {request("Max-Forwards: 1", "Max-Forwards: 1"), FaultRepeatedForwards},
		"two Content-Lengths":          {request("Content-Length: 0", "l: 1"), FaultRepeatedLength},
		"negative Content-Length":      {request("Content-Length: -1"), FaultContentLength},
		"signed Content-Length":        {request("Content-Length: +0"), FaultContentLength},
		"empty Content-Length":         {request("Content-Length:"), FaultContentLength},
		"Content-Length list":          {request("Content-Length: 0, 0"), FaultContentLength},
		"huge Content-Length":          {request("Content-Length: 18446744073709551616"), FaultContentLength},
		"Content-Length too long":      {request("Content-Length: 1"), FaultBody},
		"Contact open quote":           {request(`Contact: "a <sip:a@b>`), FaultQuoting},
		"Contact open bracket":         {request(`Contact: <sip:a@b>, <sip:c`), FaultQuoting},
		"Route open bracket":           {request(`Route: <sip:a@b`), FaultQuoting},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var m Msg
			f := m.Scan([]byte(c.text), false)
			if f != c.fault {
				t.Errorf("fault = %v, want %v", f, c.fault)
			}
			if m.Replyable() && f == FaultNotSIP {
				t.Error("replyable")
			}
			checkSpans(t, &m)
		})
	}
}

// checkSpans fails when a span leaves the message.
func checkSpans(t testing.TB, m *Msg) {
	t.Helper()
	ok := func(s Span) bool { return s.Start <= s.End && int(s.End) <= len(m.Buf) }
	for _, h := range m.Headers {
		if !ok(h.Line) || !ok(h.Name) || !ok(h.Value) || h.Name.Start < h.Line.Start || h.Value.End > h.Line.End {
			t.Fatalf("header spans %v in %d bytes", h, len(m.Buf))
		}
	}
	v := m.TopVia
	for _, s := range []Span{m.MethodName, m.RURI, m.Version, m.ReasonPhrase, m.From.Value, m.From.URI, m.From.Tag,
		m.From.Display, m.To.Value, m.To.URI, m.To.Tag, m.To.Display, m.CallID, m.CSeqMethod, m.MaxForwardsValue, m.Body,
		v.Value, v.Proto, v.Host, v.Port, v.Params, v.Branch, v.Received, v.MAddr, v.RPort, v.RPortName, v.ReceivedParam} {
		if !ok(s) {
			t.Fatalf("span %v in %d bytes", s, len(m.Buf))
		}
	}
}

func TestReplyable(t *testing.T) {
	cases := map[string]struct {
		text string
		is   bool
	}{
		"good request":             {request(), true},
		"ACK":                      {strings.ReplaceAll(request(), "OPTIONS", "ACK"), false},
		"response":                 {okText, false},
		"wrong version":            {strings.Replace(request(), "SIP/2.0\r", "SIP/7.0\r", 1), true},
		"two Tos":                  {request("To: <sip:x@y>"), true},
		"bare LF elsewhere":        {request("X: a\nb"), true},
		"bare LF in From":          {with("From: <sip:a@example.com>;tag=1\nVia: evil"), false},
		"bare CR in a lower Via":   {request("Via: SIP/2.0/UDP h;x=\r"), false},
		"folded To":                {with("To: <sip:b@example.com>\r\n ;a"), true},
		"no Call-ID":               {strings.Replace(request(), "Call-ID:", "X:", 1), false},
		"Via without host":         {with("Via: SIP/2.0/UDP ;a"), false},
		"Via with bad parameters":  {with("Via: SIP/2.0/UDP h;;"), true},
		"Content-Length too large": {request("Content-Length: 9999"), true},
		"no SIP":                   {"GET / HTTP/1.0\r\n\r\n", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var m Msg
			m.Scan([]byte(c.text), false)
			want(t, "Replyable", m.Replyable(), c.is)
		})
	}
}

func TestContentLengthCutsADatagram(t *testing.T) {
	m := mustScan(t, request("Content-Length: 3")+"abcdef")
	want(t, "body", m.Bytes(m.Body), "abc")
	want(t, "end", bytes.HasSuffix(m.Buf, []byte("\r\n\r\nabc")), true)
	m = mustScan(t, request()+"abcdef")
	want(t, "body without Content-Length", m.Bytes(m.Body), "abcdef")
	want(t, "ContentLength", m.ContentLength, None)
}

func TestStreamNeedsContentLength(t *testing.T) {
	var m Msg
	want(t, "fault", m.Scan([]byte(request()), true), FaultMissingLength)
	want(t, "fault", m.Scan([]byte(request("l:0")), true), NoFault)
}

func TestLargestMessage(t *testing.T) {
	text := request("X: ")
	text = strings.Replace(text, "X: ", "X: "+strings.Repeat("x", MaxSize-len(text)), 1)
	m := mustScan(t, text)
	want(t, "size", len(m.Buf), MaxSize)
	want(t, "body position", m.Body, Span{MaxSize, MaxSize})
	var e Edit
	e.Reset(m)
	e.InsertString(MaxSize, "end")
	want(t, "appended", bytes.HasSuffix(e.AppendTo(nil), []byte("\r\n\r\nend")), true)
	var big Msg
	want(t, "one more", big.Scan([]byte(text+"x"), false), FaultTooLarge)
}

func TestMsgIsReusable(t *testing.T) {
	var m Msg
	m.Scan([]byte(inviteText), false)
	m.Scan([]byte(okText), false)
	fresh := mustScan(t, okText)
	want(t, "TopVia", m.TopVia, fresh.TopVia)
	want(t, "Headers", m.Headers, fresh.Headers)
	want(t, "RURI", m.RURI, Span{})
	want(t, "Route", m.First(KindRoute), -1)
	want(t, "Max-Forwards", m.MaxForwards, None)
	want(t, "fault after not SIP", m.Scan([]byte("x"), false), FaultNotSIP)
	want(t, "headers after not SIP", len(m.Headers), 0)
}

func TestScanDoesNotAllocate(t *testing.T) {
	var m Msg
	text := []byte(inviteText)
	m.Scan(text, false)
	if n := testing.AllocsPerRun(100, func() { m.Scan(text, true) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
