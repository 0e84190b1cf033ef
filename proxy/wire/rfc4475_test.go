package wire

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// torture says what becomes of each message of RFC 4475 here, in a package
// that reads no more than a proxy must. Faults with the proxy, not with the
// message (416, 420, 483, escaped headers in the Request-URI), pass.
var torture = map[string]struct {
	fault Fault
	why   string
}{
	// 3.1.1 valid messages
	"wsinv":      {NoFault, "white space and folds wherever the grammar has them"},
	"intmeth":    {NoFault, "the widest range of characters"},
	"esc01":      {NoFault, "escapes in URIs"},
	"escnull":    {NoFault, "escaped NULs"},
	"esc02":      {NoFault, "percent signs that are no escapes"},
	"lwsdisp":    {NoFault, "no white space between display name and <"},
	"longreq":    {NoFault, "long values, 34 Vias"},
	"dblreq":     {NoFault, "a second request in the datagram is cut off"},
	"semiuri":    {NoFault, "semicolon in the user part"},
	"transports": {NoFault, "unknown transports"},
	"mpart01":    {NoFault, "binary multipart body"},
	"unreason":   {NoFault, "8-bit reason phrase"},
	"noreason":   {NoFault, "empty reason phrase"},
	// 3.1.2 invalid messages
	"badinv01":   {FaultVia, "extraneous separators in the Via"},
	"clerr":      {FaultBody, "Content-Length beyond the datagram"},
	"ncl":        {FaultContentLength, "negative Content-Length"},
	"scalar02":   {FaultCSeq, "CSeq beyond 2^31"},
	"scalarlg":   {FaultCSeq, "CSeq beyond 2^31 in a response"},
	"quotbal":    {FaultTo, "unclosed quote in To"},
	"ltgtruri":   {FaultRequestURI, "Request-URI in angle brackets"},
	"lwsruri":    {FaultRequestURI, "white space in the Request-URI"},
	"lwsstart":   {FaultRequestURI, "two spaces in the start line"},
	"trws":       {FaultStartLine, "trailing space in the start line"},
	"escruri":    {NoFault, "headers in the Request-URI: the proxy sees URI.Headers"},
	"baddate":    {NoFault, "Date is not ours"},
	"regbadct":   {NoFault, "Contact is the registrar's"},
	"badaspec":   {NoFault, "spaces within angle brackets harm nobody"},
	"baddn":      {NoFault, "the display name is not ours"},
	"badvers":    {FaultVersion, "SIP/7.0"},
	"mismatch01": {FaultCSeqMethod, "OPTIONS and INVITE"},
	"mismatch02": {FaultCSeqMethod, "unknown method and INVITE"},
	"bigcode":    {FaultStatus, "status code of ten digits"},
	// 3.2 transaction layer semantics
	"badbranch": {NoFault, "z9hG4bK alone: a branch for RFC 2543 matching"},
	// 3.3 application layer semantics
	"insuf":    {FaultMissingFrom, "no Call-ID, From, To"},
	"unkscm":   {NoFault, "unknown scheme: 416 by the proxy"},
	"novelsc":  {NoFault, "unknown scheme: 416 by the proxy"},
	"unksm2":   {NoFault, "unknown schemes in From, To, Contact"},
	"bext01":   {NoFault, "Proxy-Require: 420 by the proxy"},
	"invut":    {NoFault, "unknown body type"},
	"regaut01": {NoFault, "unknown authorization scheme"},
	"multi01":  {FaultRepeatedCSeq, "repeated singletons"},
	"mcl01":    {FaultRepeatedLength, "two Content-Lengths"},
	"bcast":    {NoFault, "the proxy looks at the second Via"},
	"zeromf":   {NoFault, "Max-Forwards 0: 483 by the proxy"},
	"cparam01": {NoFault, "unknown Contact header parameter"},
	"cparam02": {NoFault, "unknown Contact URI parameter"},
	"regescrt": {NoFault, "escaped header in a Contact"},
	"sdp01":    {NoFault, "Accept is the callee's"},
	// 3.4 backward compatibility
	"inv2543": {NoFault, "RFC 2543 request without branch, tag, Content-Length"},
}

func TestRFC4475(t *testing.T) {
	files, err := filepath.Glob("testdata/rfc4475/*.dat")
	if err != nil || len(files) != len(torture) {
		t.Fatalf("%d files for %d verdicts, %v", len(files), len(torture), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".dat")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var m Msg
			if f := m.Scan(text, false); f != torture[name].fault {
				t.Fatalf("fault = %v, want %v (%s)", f, torture[name].fault, torture[name].why)
			}
			var e Edit
			e.Reset(&m)
			if got := string(e.AppendTo(nil)); !strings.HasPrefix(string(text), got) {
				t.Errorf("came back changed:\n%s", got)
			}
			want(t, "Replyable", m.Replyable(), m.IsRequest() && name != "insuf")
		})
	}
}

func tortureMsg(t *testing.T, name string) *Msg {
	t.Helper()
	text, err := os.ReadFile("testdata/rfc4475/" + name + ".dat")
	if err != nil {
		t.Fatal(err)
	}
	return mustScan(t, string(text))
}

func TestRFC4475IsUnderstood(t *testing.T) {
	m := tortureMsg(t, "wsinv")
	want(t, "From", m.Bytes(m.From.URI), "sip:jdrosen@example.com")
	want(t, "From tag", m.Bytes(m.From.Tag), "98asjd8")
	want(t, "From display", m.Bytes(m.From.Display), `"J Rosenberg \\\""`)
	want(t, "To tag", m.Bytes(m.To.Tag), "1918181833n")
	want(t, "Max-Forwards", m.MaxForwards, 68)
	want(t, "CSeq", m.CSeq, 9)
	want(t, "CSeq method", m.CSeqMethodID, INVITE)
	want(t, "Via host", m.Bytes(m.TopVia.Host), "192.0.2.2")
	want(t, "branch", m.Bytes(m.TopVia.Branch), "390skdjuw")
	second, _ := m.NextVia(m.TopVia)
	want(t, "second host", m.Bytes(second.Host), "spindle.example.com")
	want(t, "second branch", m.Bytes(second.Branch), "z9hG4bK9ikj8")
	third, _ := m.NextVia(second)
	want(t, "third host", m.Bytes(third.Host), "192.168.255.111")
	want(t, "third branch", m.Bytes(third.Branch), "z9hG4bK30239")
	_, more := m.NextVia(third)
	want(t, "fourth Via", more, false)
	want(t, "Via lines", m.Vias, 2)

	m = tortureMsg(t, "intmeth")
	want(t, "method", m.Bytes(m.MethodName), "!interesting-Method0123456789_*+`.%indeed'~")
	want(t, "branch", m.Bytes(m.TopVia.Branch), "z9hG4bK-.!%66*_+`'~")
	want(t, "From tag", m.Bytes(m.From.Tag), "_token~1'+`*%!-.")
	u, ok := ParseURI(m.Bytes(m.RURI))
	want(t, "URI", ok, true)
	want(t, "URI host", u.Host, "example.com")

	m = tortureMsg(t, "longreq")
	want(t, "Vias", m.Vias, 34)
	want(t, "From", m.From.Tag.Len() > 100, true)

	m = tortureMsg(t, "dblreq")
	want(t, "method", m.Method, REGISTER)
	want(t, "body", m.Body.Empty(), true)

	m = tortureMsg(t, "semiuri")
	u, _ = ParseURI(m.Bytes(m.RURI))
	want(t, "user", u.User, "user;par=u%40example.net")

	m = tortureMsg(t, "escruri")
	u, _ = ParseURI(m.Bytes(m.RURI))
	want(t, "escaped headers", u.Headers, "Route=%3Csip:example.com%3E")

	m = tortureMsg(t, "badbranch")
	want(t, "branch", m.Bytes(m.TopVia.Branch), "z9hG4bK")
}
