package security

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sipward/sipward/proxy/wire"
)

// A flaw is one that was published for a SIP server, or a class of them, with a message
// of its shape and what becomes of it here. An empty outcome means that the message is
// accepted: what the flaw was in is not read, or read harmlessly.
type flaw struct {
	text     string
	datagram string // outcome as a datagram
	stream   string // outcome on a stream, "=" when it is the same
}

// none is the outcome of a message that a stream still waits for the rest of.
const none = "incomplete"

func flaws() map[string]flaw {
	msg, long := message, strings.Repeat
	start := func(line string) string { return line + msg("INVITE")[strings.Index(msg("INVITE"), "\r\n"):] }
	response := func(line string, replace ...string) string {
		text := msg("INVITE", replace...)
		return line + text[strings.Index(text, "\r\n"):]
	}
	body := func(text string, lines ...string) string {
		return msg("INVITE", append([]string{fmt.Sprintf("Content-Length: %d", len(text))}, lines...)...) + text
	}
	register := func(digest string) string { return msg("REGISTER", "Authorization: Digest "+digest) }
	const sdp = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"

	return map[string]flaw{
		// Kamailio
		"CVE-2016-2385 a large message encoded into a small buffer":     {msg("INVITE", "X: "+long("x", 8000), "Y: "+long("y", 8000)), "", "="},
		"CVE-2018-8828 long branch and From tag, off by one":            {msg("REGISTER", "Via: SIP/2.0/UDP h;branch=z9hG4bK"+long("b", 2000), "From: <sip:a@b>;tag="+long("1", 2000)), "Invalid From Header", "="},
		"CVE-2018-14767 two To":                                         {msg("INVITE", "To: <sip:a@b>\r\nTo: <sip:c@d>;tag=1"), "Duplicate To", "="},
		"CVE-2018-14767 an empty To":                                    {msg("INVITE", "To:"), "Bad To", "="},
		"CVE-2018-14767 an empty To before a good one":                  {msg("INVITE", "To:\r\nt: <sip:a@b>"), "Duplicate To", "="},
		"CVE-2018-16657 an empty Via":                                   {msg("INVITE", "Via:"), "Bad Via", "="},
		"CVE-2018-16657 a Via of separators":                            {msg("INVITE", "Via: SIP/2.0/UDP 192.0.2.15;;,;,,"), "Bad Via", "="},
		"CVE-2018-16657 a Via without sent-by":                          {msg("INVITE", "Via: SIP/2.0/UDP"), "Bad Via", "="},
		"CVE-2020-27507 repeated fields and a long tag":                 {msg("INVITE", "From: <sip:a@b>;tag="+long("t", 3000)+"\r\nFrom: <sip:a@b>;tag=1"), "Duplicate From", "="},
		"CVE-2020-27507 a long tag":                                     {msg("INVITE", "To: <sip:a@b>;tag="+long("t", 3000)), "Invalid To Header", "="},
		"CVE-2020-28361 a space before the colon":                       {msg("INVITE", "X-AUTH-IP : 192.0.2.66"), "", "="},
		"CVE-2020-28361 a tab before the colon of a second Call-ID":     {msg("INVITE", "Call-ID: a\r\nCall-ID\t: b"), "Duplicate Call-ID", "="},
		"CVE-2026-106803 an alias with a port out of range":             {msg("REGISTER", "Contact: <sip:a@192.0.2.1;alias=192.0.2.1~99999999999~1>"), "", "="},
		"CVE-2026-108822 ISUP that ends early":                          {body("\x01\x00", "Content-Type: application/ISUP;version=itu-t92+"), "", "="},
		"kamailio#2044 lines without their end":                         {strings.ReplaceAll(msg("INVITE"), "\r\n", ""), "Not SIP", none},
		"kamailio#2044 the last line without its end":                   {strings.TrimSuffix(msg("INVITE"), "\r\n\r\n"), "Bad Line Break", none},
		"kamailio#2503 header names without values":                     {msg("INVITE", "From:\r\nFrom:\r\nVia:\r\nVia:\r\nCSeq:"), "Duplicate From", "="},
		"kamailio#3911 #4204 a URI parameter without end":               {msg("INVITE", "Contact: <sip:a@b;"+long("x", 3000)+">"), "Bad Contact Header", "="},
		"kamailio#4876 #4929 #4930 an address cut off":                  {msg("INVITE", "From: \"a\" <sip:a@b"), "Bad From", "="},
		"kamailio#4954 an alias without a port":                         {msg("REGISTER", "Contact: <sip:a@192.0.2.1;alias=192.0.2.1~>;alias"), "", "="},
		"kamailio 24030e5899 CSeq 2^31":                                 {msg("INVITE", "CSeq: 2147483648 INVITE"), "Bad CSeq", "="},
		"kamailio 24030e5899 CSeq 2^32+1":                               {msg("INVITE", "CSeq: 4294967297 INVITE"), "Bad CSeq", "="},
		"kamailio 8f7b0b049a a multipart body without its boundary":     {body("--x\r\n\r\n--x\r\n--x--x--", "Content-Type: multipart/mixed;boundary="), "", "="},
		"kamailio 8f7b0b049a a multipart body without end":              {body("--x\r\nContent-Type: a/b\r\n\r\n", "Content-Type: multipart/mixed;boundary=x"), "", "="},
		"kamailio 8f7b0b049a a boundary with an open quote":             {body("--x--", `Content-Type: multipart/mixed;boundary="x`), "", "="},
		"kamailio: an unknown scheme in From, as RFC 4475's unksm2 has": {msg("REGISTER", "From: <name:John_Smith>;tag=1"), "", "="},

		// OpenSIPS
		"CVE-2023-27600 a body line that is all there is":           {body("a=", "Content-Type: application/sdp"), "", "="},
		"CVE-2023-28098 a digest parameter without end":             {register(`username="a", realm="r`), "Bad Auth Header", "="},
		"CVE-2023-28098 a digest of one name":                       {register(`u`), "Bad Auth Header", "="},
		"CVE-2023-28098 a digest parameter without value":           {register(`username="a", qop`), "Bad Auth Header", "="},
		"CVE-2023-28098 a digest of commas":                         {register(`,,,,`), "Bad Auth Header", "="},
		"CVE-2023-28098 a digest that ends in an escape":            {register(`username="a\`), "Bad Auth Header", "="},
		"GHSA-wxfg-3gwh-rhvx a Via that ends in its protocol":       {msg("INVITE", "Via: SIP/2.0/"), "Bad Via", "="},
		"GHSA-wxfg-3gwh-rhvx a Via with an open bracket":            {msg("INVITE", "Via: SIP/2.0/UDP [2001:db8::1"), "Bad Via", "="},
		"GHSA-wxfg-3gwh-rhvx a Via port out of range":               {msg("INVITE", "Via: SIP/2.0/UDP h:65536"), "Bad Via", "="},
		"GHSA-wxfg-3gwh-rhvx a Via with an open comment":            {msg("INVITE", "Via: SIP/2.0/UDP h;branch=z9hG4bK1 (comment"), "", "="},
		"GHSA-358f-935m-7p9c a URI of its scheme":                   {msg("INVITE", "To: <sip:>"), "Invalid To Header", "="},
		"GHSA-358f-935m-7p9c a URI of a user":                       {msg("INVITE", "To: <sip:a@>"), "Invalid To Header", "="},
		"GHSA-358f-935m-7p9c a URI that ends in its port's colon":   {msg("INVITE", "To: <sip:a@b:>"), "", "="},
		"GHSA-358f-935m-7p9c a port of letters":                     {msg("INVITE", "To: <sip:a@b:x>"), "Invalid To Header", "="},
		"GHSA-358f-935m-7p9c nothing but separators":                {msg("INVITE", "To: <sip:;;??@:;>"), "Invalid To Header", "="},
		"GHSA-xj5x-g52f-548h SDP without a line feed":               {body("v=0", "Content-Type: application/sdp"), "", "="},
		"GHSA-xj5x-g52f-548h SDP that ends in a CR":                 {body(sdp+"m=audio 1\r", "Content-Type: application/sdp"), "", "="},
		"CVE-2026-45084 a body without Content-Type":                {body(sdp), "", "="},
		"CVE-2026-45084 a body with an empty Content-Type":          {body(sdp, "Content-Type:"), "", "="},
		"CVE-2026-45538 a long header name":                         {msg("INVITE", long("N", 9000)+": x"), "Header Too Long", "="},
		"CVE-2026-45538 a header name of 300 bytes":                 {msg("INVITE", long("N", 300)+": x"), "Header Too Long", "="},
		"CVE-2026-45809 a body of another type than it says":        {body("\xff\xfe", "Content-Type: application/sdp"), "", "="},
		"CVE-2026-46334 SDP with b= and no colon":                   {body(sdp+"b=\r\nm=audio 1 RTP/AVP 0\r\nb=AS\r\n", "Content-Type: application/sdp"), "", "="},
		"CVE-2026-110679 a header list without end":                 {msg("INVITE", "Route: <sip:p;lr>,<sip:q"), "Unclosed Quote Or Bracket", "="},
		"opensips 7cab422e2f Content-Length of 2^32":                {msg("INVITE", "Content-Length: 4294967296"), "Bad Content-Length", "="},
		"opensips 7cab422e2f Content-Length of letters":             {msg("INVITE", "Content-Length: x"), "Bad Content-Length", "="},
		"opensips 1480b1faaa Content-Length cut off":                {strings.Split(msg("INVITE", "Content-Length: 1"), ": 1\r\n\r\n")[0], "Bad Line Break", none},
		"CVE-2026-23457 Content-Length that 32 bits cut to a small": {msg("INVITE", "Content-Length: 4294967328"), "Bad Content-Length", "="},

		// sipgo, SIPp, sofia-sip, pjsip
		"CVE-2026-58268 Content-Length as an allocation":       {msg("INVITE", "Content-Length: 2147483647"), "Incomplete Body", "Message Too Large"},
		"CVE-2026-77322 a WebSocket frame of 2^63 bytes":       {"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00mask", "Not SIP", "="},
		"CVE-2026-77322 a WebSocket handshake":                 {"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", "Not SIP", "="},
		"CVE-2026-0710 a response without all it copies":       {"SIP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", "Missing Via", "="},
		"CVE-2022-31001 SDP cut off in its first line":         {body("v", "Content-Type: application/sdp"), "", "="},
		"CVE-2022-31002 a URI with an escape cut off":          {msg("INVITE", "From: <sip:a%@b%4>;tag=1"), "Invalid From Header", "="},
		"CVE-2022-31002 a user with an escape cut off":         {msg("INVITE", "From: <sip:a%2@b>;tag=1"), "", "="},
		"CVE-2022-31003 SDP lines without values":              {body("v=\r\no=\r\ns\r\n=\r\nm=\r\n", "Content-Type: application/sdp"), "", "="},
		"CVE-2023-22741 STUN with an attribute beyond its end": {"\x00\x01\x00\x08\x21\x12\xa4\x42aaaaaaaaaaaa\x00\x01\xff\xff\x00\x00\x00\x00", "Not SIP", "="},
		"CVE-2023-32307 STUN that is cut off":                  {"\x01\x01", "Not SIP", "="},
		"pjsip 2026-03 a tel URI without number":               {msg("INVITE", "To: <tel:;phone-context=x>"), "Invalid To Header", "="},
		"pjsip 2026-03 a multipart body of boundaries":         {body(long("--x\r\n", 2000), "Content-Type: multipart/mixed;boundary=x"), "", "="},
		"pjsip 2026-03 credentials of 16 kB":                   {register(`username="` + long("a", 16000) + `", realm="r", nonce="n", response="x"`), "Header Too Long", "="},

		// mandatory headers
		"no Via":                         {msg("INVITE", "Via:-"), "Missing Via", "="},
		"no From":                        {msg("INVITE", "From:-"), "Missing From", "="},
		"no To":                          {msg("INVITE", "To:-"), "Missing To", "="},
		"no Call-ID":                     {msg("INVITE", "Call-ID:-"), "Missing Call-ID", "="},
		"no CSeq":                        {msg("INVITE", "CSeq:-"), "Missing CSeq", "="},
		"two Call-IDs":                   {msg("INVITE", "Call-ID: a\r\ni: a"), "Duplicate Call-ID", "="},
		"two CSeqs":                      {msg("INVITE", "CSeq: 1 INVITE\r\nCSEQ: 1 INVITE"), "Duplicate CSeq", "="},
		"empty From":                     {msg("INVITE", "From: "), "Bad From", "="},
		"empty Call-ID":                  {msg("INVITE", "Call-ID: "), "Bad Call-ID", "="},
		"empty CSeq":                     {msg("INVITE", "CSeq: "), "Bad CSeq", "="},
		"an empty tag counts as none":    {msg("INVITE", "From: <sip:a@b>;tag="), "", "="},
		"no tag, as before RFC 3261":     {msg("INVITE", "From: <sip:a@b>"), "", "="},
		"two tags":                       {msg("INVITE", "From: <sip:a@b>;tag=1;tag=2"), "Bad From", "="},
		"CSeq of another method":         {msg("INVITE", "CSeq: 1 BYE"), "CSeq Method Mismatch", "="},
		"two Max-Forwards":               {msg("INVITE", "Max-Forwards: 70\r\nMax-Forwards: 0"), "Duplicate Max-Forwards", "="},
		"two Content-Types":              {body("x", "Content-Type: application/sdp\r\nc: text/plain"), "Duplicate Content-Type", "="},
		"two Content-Lengths, different": {msg("INVITE", "Content-Length: 0\r\nl: 5"), "Conflicting Content-Length", "="},
		"two Content-Lengths, the same":  {msg("INVITE", "Content-Length: 0\r\nl: 0"), "", "="},

		// lines and octets
		"a bare LF smuggles a header":            {msg("INVITE", "Subject: a\nX-AUTH-IP: 192.0.2.66"), "Bad Line Break", "="},
		"a bare CR smuggles a header":            {msg("INVITE", "Subject: a\rX-AUTH-IP: 192.0.2.66"), "Bad Line Break", "="},
		"lines that end in LF":                   {strings.ReplaceAll(msg("INVITE"), "\r\n", "\n"), "Not SIP", "Bad Line Break"},
		"a log line in a user":                   {msg("INVITE", "From: <sip:a\nWARNING: IP '192.0.2.1'@b>;tag=1"), "Bad Line Break", "="},
		"an escape sequence in a display name":   {msg("INVITE", "From: \"\x1b]0;x\x07\" <sip:a@b>;tag=1"), "Control Character In Header", "="},
		"NUL in a From":                          {msg("INVITE", "From: <sip:a\x00@b>;tag=1"), "Control Character In Header", "="},
		"NUL in a header name":                   {msg("INVITE", "X\x00: a"), "Bad Header Name", "="},
		"NUL in the Request-URI":                 {start("INVITE sip:a\x00@b SIP/2.0"), "Bad Request-URI", "="},
		"NUL as keep-alive":                      {"\x00\x00\x00\x00", "Not SIP", "="},
		"8-bit octets that are no UTF-8":         {msg("INVITE", "Subject: \xc3\x28\xa0\xa1\xff"), "", "="},
		"a folded header":                        {msg("INVITE", "Subject: a\r\n b\r\n\tc"), "", "="},
		"a fold without a header":                {strings.Replace(msg("INVITE"), "Via:", " Via:", 1), "Bad Header Name", "="},
		"a folded CSeq":                          {msg("INVITE", "CSeq: 1\r\n INVITE"), "", "="},
		"a line without colon":                   {msg("INVITE", "X-AUTH-IP"), "Bad Header Name", "="},
		"an empty header name":                   {msg("INVITE", ": a"), "Bad Header Name", "="},
		"a space inside a name":                  {msg("INVITE", "X AUTH: a"), "Bad Header Name", "="},
		"300 headers":                            {msg("INVITE", long("X: y\r\n", 300)+"X: y"), "Too Many Headers", "="},
		"a URI of 64 kB":                         {start("INVITE sip:" + long("a", 60000) + "@b SIP/2.0"), "Request-URI Too Long", "="},
		"a parameter of 32 kB":                   {msg("INVITE", "From: <sip:a@b>;x="+long("a", 32000)), "Header Too Long", "="},
		"a header of 60 kB":                      {msg("INVITE", "X: "+long("a", 60000)), "Header Too Long", "="},
		"more than 64 kB":                        {msg("INVITE", "X: "+long("a", 66000)), "Message Too Large", "="},
		"100 Vias":                               {msg("INVITE", long("Via: SIP/2.0/UDP h;branch=z9hG4bK1\r\n", 99)+"Via: SIP/2.0/UDP h"), "Too Many Vias", "="},
		"100 Vias on a line":                     {msg("INVITE", "Via: SIP/2.0/UDP h;branch=z9hG4bK1"+long(", SIP/2.0/UDP h", 99)), "Too Many Vias", "="},
		"Routes joined by commas":                {msg("INVITE", `Route: <sip:p;lr>, "a,b" <sip:q;lr>,<sip:r;lr>`), "", "="},
		"Routes with an open quote":              {msg("INVITE", `Route: "a <sip:p;lr>, <sip:q;lr>`), "Unclosed Quote Or Bracket", "="},
		"From with an open quote":                {msg("INVITE", `From: "a <sip:a@b>;tag=1`), "Bad From", "="},
		"Contact with port 65536":                {msg("INVITE", "Contact: <sip:a@b:65536>"), "Bad Contact Header", "="},
		"From with an open IPv6 address":         {msg("INVITE", "From: <sip:a@[::1>;tag=1"), "Invalid From Header", "="},
		"Contact with a broken IPv6 address":     {msg("REGISTER", "Contact: <sip:a@[1:2:3:4:5:6:7:8:9]>"), "Bad Contact Header", "="},
		"Contact of two @":                       {msg("REGISTER", "Contact: <sip:a@192.0.2.1@198.51.100.1>"), "Bad Contact Header", "="},
		"From without scheme":                    {msg("INVITE", "From: alice;tag=1"), "Invalid From Header", "="},
		"credentials with two usernames":         {register(`username="a", username="b", realm="r", nonce="n", response="x"`), "Bad Auth Header", "="},
		"credentials with two nonces":            {register(`username="a", realm="r", nonce="n", nonce="m", response="x"`), "Bad Auth Header", "="},
		"credentials with an open quote":         {register(`username="a, realm="r", nonce="n", response="x"`), "Bad Auth Header", "="},
		"credentials without username":           {register(`realm="r", nonce="n", response="x"`), "Bad Auth Header", "="},
		"credentials without a space":            {register(`username="a",realm="r",nonce="n",response="x"`), "", "="},
		"own header in another case":             {msg("INVITE", "x-auth-ip: 192.0.2.66"), "", "="},
		"own header folded":                      {msg("INVITE", "X-Auth-IP:\r\n 192.0.2.66"), "", "="},
		"Max-Forwards of letters, 400 elsewhere": {msg("INVITE", "Max-Forwards: many"), "", "="},

		// Content-Length
		"Content-Length negative":        {msg("INVITE", "Content-Length: -1"), "Bad Content-Length", "="},
		"Content-Length with a sign":     {msg("INVITE", "Content-Length: +0"), "Bad Content-Length", "="},
		"Content-Length too short":       {msg("INVITE", "Content-Length: 1", "Content-Type: a/b") + "xyz", "", "="},
		"Content-Length too long":        {msg("INVITE", "Content-Length: 9", "Content-Type: a/b") + "xyz", "Incomplete Body", none},
		"Content-Length missing":         {msg("INVITE", "Content-Length:-"), "", "Missing Content-Length"},
		"Content-Length of 2^64":         {msg("INVITE", "Content-Length: 18446744073709551616"), "Bad Content-Length", "="},
		"Content-Length in hexadecimal":  {msg("INVITE", "Content-Length: 0x0"), "Bad Content-Length", "="},
		"Content-Length of 60 kB zeroes": {msg("INVITE", "Content-Length: "+long("0", 60000)), "Header Too Long", "="},

		// what is no SIP
		"nothing":                       {"", "Not SIP", none},
		"CRLF":                          {"\r\n", "Not SIP", none},
		"HTTP":                          {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "Not SIP", "="},
		"HEP":                           {"HEP3\x00\x10\x00\x00\x00\x01\x00\x07\x02\x00\x00\x00", "Not SIP", none},
		"TLS":                           {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "Not SIP", "="},
		"RTSP":                          {"OPTIONS rtsp://h RTSP/1.0\r\nCSeq: 1\r\n\r\n", "Not SIP", "="},
		"RTP":                           {"\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01", "Not SIP", "="},
		"one byte, as of a slow client": {"I", "Not SIP", none},
		"a first line without end":      {"INVITE " + long("x", 70000), "Message Too Large", "="},
		"another version":               {strings.Replace(msg("INVITE"), "SIP/2.0\r", "SIP/3.0\r", 1), "Version Not Supported", "="},
		"a method of 200 bytes":         {msg(long("M", 200)), "Method Too Long", "="},

		// sound by themselves: what they belong to is not there, and that is found out later
		"a response with our branch and another CSeq": {response("SIP/2.0 200 OK", "CSeq: 77 BYE"), "", "="},
		"a response with a status of ten digits":      {response("SIP/2.0 4294967301 OK"), "Bad Status Code", "="},
		"a response with status 0":                    {response("SIP/2.0 000 OK"), "Bad Status Code", "="},
		"CANCEL without INVITE":                       {msg("CANCEL"), "", "="},
		"ACK of nothing":                              {msg("ACK"), "", "="},
		"forged BYE with wrong tags":                  {msg("BYE", "From: <sip:a@b>;tag=x", "To: <sip:c@d>;tag=y"), "", "="},
	}
}

func TestPublishedFlaws(t *testing.T) {
	for name, c := range flaws() {
		t.Run(name, func(t *testing.T) {
			if got := datagram([]byte(c.text)); got != c.datagram {
				t.Errorf("as a datagram: %q, want %q", got, c.datagram)
			}
			if c.stream == "=" {
				c.stream = c.datagram
			}
			for _, piece := range []int{1, 7, len(c.text) + 1} {
				if got := stream([]byte(c.text), piece); got != c.stream {
					t.Errorf("on a stream in pieces of %d: %q, want %q", piece, got, c.stream)
				}
			}
			// A message that is cut anywhere must do no harm either.
			for n := range min(len(c.text), 1200) {
				datagram([]byte(c.text[:n]))
			}
		})
	}
}

// datagram is the outcome of a message that came as one: why it is refused, or "".
func datagram(text []byte) string {
	var m wire.Msg
	fault := m.Scan(text, false)
	_, _, reason := sane(&m) // of a faulty message only that it returns
	if fault != wire.NoFault {
		return fault.Reason()
	}
	return reason
}

// stream is the outcome of a message that came in pieces.
func stream(text []byte, piece int) string {
	var f wire.Framer
	for n := 0; n < len(text); {
		n = min(n+piece, len(text))
		msg, _, _, fault := f.Next(text[:n])
		if fault != wire.NoFault {
			return fault.Reason()
		}
		if msg == nil {
			continue
		}
		var m wire.Msg
		if fault := m.Scan(msg, true); fault != wire.NoFault {
			return fault.Reason()
		}
		_, _, reason := sane(&m)
		return reason
	}
	return none
}

// Whichever way a header is spelled, it is found, so that a copy from outside can be
// taken out (CVE-2020-28361 and its kin).
func TestNoSpellingHidesAHeader(t *testing.T) {
	for _, line := range []string{"X-AUTH-IP: 1", "x-auth-ip: 1", "X-Auth-Ip:1", "X-AUTH-IP : 1", "X-AUTH-IP\t: 1", "X-AUTH-IP \t : 1", "X-AUTH-IP:\r\n 1"} {
		if m := scan(t, message("INVITE", line)); m.Find("X-AUTH-IP") < 0 {
			t.Errorf("%q hides it", line)
		}
	}
}

func FuzzSane(f *testing.F) {
	for _, c := range flaws() {
		if len(c.text) < 2000 {
			f.Add([]byte(c.text))
		}
	}
	f.Add([]byte(register))
	for _, uri := range []string{"sip:a@b:5060;lr", "sip:a@b:65536", "sip:a@b:0", "sip::1", "sip:a;b@c:0005060", "sip:@h", "sip:a@b:5060?x", "sip:a@b@c", "SIP:[::1]:7"} {
		f.Add([]byte(uri))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, ok := wire.ParseURI(text); plainURI(text) && !ok {
			t.Fatalf("%q is not a URI", text)
		}
		var m wire.Msg
		fault := m.Scan(text, false)
		_, _, reason := sane(&m)
		fuzzSignatures.Match(&m)
		if fault != wire.NoFault || reason != "" {
			return
		}
		for _, h := range m.Headers {
			if value := m.Bytes(h.Value); anyControl(value) && !escapesControls(value) {
				t.Fatalf("a control character passed in %q", value)
			}
		}
		for _, a := range []*wire.Addr{&m.From, &m.To} {
			u, ok := wire.ParseURI(m.Bytes(a.URI))
			if !ok || u.Scheme <= wire.SIPS && u.Scheme != wire.OtherScheme && len(u.Host) == 0 {
				t.Fatalf("passed with %q", m.Bytes(a.URI))
			}
		}
	})
}
