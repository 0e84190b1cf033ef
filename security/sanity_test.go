package security

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sipward/sipward/proxy/wire"
)

func TestSane(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	msg := message
	for name, c := range map[string]struct{ text, reason string }{
		"sound":                          {msg("INVITE"), ""},
		"no From host":                   {msg("INVITE", "From: <sip:alice@>;tag=1"), "Invalid From Header"},
		"From without scheme":            {msg("INVITE", "From: <alice@example.com>;tag=1"), "Invalid From Header"},
		"From, empty URI":                {msg("INVITE", "From: <sip:>;tag=1"), "Invalid From Header"},
		"From, two @":                    {msg("INVITE", "From: <sip:a@b@c>;tag=1"), "Invalid From Header"},
		"From, port 65536":               {msg("INVITE", "From: <sip:a@b:65536>;tag=1"), "Invalid From Header"},
		"From, port of words":            {msg("INVITE", "From: <sip:a@b:sip>;tag=1"), "Invalid From Header"},
		"From, open IPv6":                {msg("INVITE", "From: <sip:a@[::1>;tag=1"), "Invalid From Header"},
		"From, no IPv6":                  {msg("INVITE", "From: <sip:a@[1:2]>;tag=1"), "Invalid From Header"},
		"From, IPv4 in brackets":         {msg("INVITE", "From: <sip:a@[192.0.2.1]>;tag=1"), "Invalid From Header"},
		"From, IPv6":                     {msg("INVITE", "From: <sip:a@[2001:db8::1]:5060>;tag=1"), ""},
		"From, IPv6 without user":        {msg("INVITE", "From: <sip:[2001:db8::1]>;tag=1"), ""},
		"From, long URI":                 {msg("INVITE", "From: <sip:a@"+long(1020)+">;tag=1"), "Invalid From Header"},
		"From, longest URI":              {msg("INVITE", "From: <sip:a@"+long(1018)+">;tag=1"), ""},
		"From, long tag":                 {msg("INVITE", "From: <sip:a@b>;tag="+long(257)), "Invalid From Header"},
		"From, tel":                      {msg("INVITE", "From: <tel:+14155550123>;tag=1"), ""},
		"From, empty tel":                {msg("INVITE", "From: <tel:>;tag=1"), "Invalid From Header"},
		"From, another scheme":           {msg("INVITE", "From: <urn:service:sos>;tag=1"), ""},
		"From, anonymous":                {msg("INVITE", `From: "Anonymous" <sip:anonymous@anonymous.invalid>;tag=1`), ""},
		"From, no brackets":              {msg("INVITE", "From: sip:alice@example.com;tag=1"), ""},
		"From, underscore and 8 bits":    {msg("INVITE", "From: J\xf6rg <sip:j\xc3\xb6rg@pbx_1.local>;tag=1"), ""},
		"no To host":                     {msg("INVITE", "To: <sip:bob@>"), "Invalid To Header"},
		"To, long tag":                   {msg("INVITE", "To: <sip:b@h>;tag="+long(257)), "Invalid To Header"},
		"To, number":                     {msg("INVITE", "To: <sip:*98@example.com;user=phone>"), ""},
		"To, hash":                       {msg("INVITE", "To: <sip:%2321@example.com>"), ""},
		"Contact of words":               {msg("INVITE", "Contact: nonsense"), "Bad Contact Header"},
		"Contact without host":           {msg("REGISTER", "Contact: <sip:alice@>"), "Bad Contact Header"},
		"Contact, port 65536":            {msg("SUBSCRIBE", "Contact: <sip:alice@192.0.2.1:65536>"), "Bad Contact Header"},
		"empty Contact":                  {msg("REGISTER", "Contact:"), "Bad Contact Header"},
		"Contact of commas":              {msg("REGISTER", "Contact: ,,"), "Bad Contact Header"},
		"second Contact":                 {msg("REGISTER", "Contact: <sip:a@b>, <sip:>"), "Bad Contact Header"},
		"second Contact line":            {msg("REGISTER", "Contact: <sip:a@b>\r\nm: <sip:a@[::g]>"), "Bad Contact Header"},
		"text behind a Contact":          {msg("REGISTER", "Contact: <sip:a@b> x"), "Bad Contact Header"},
		"Contact, headers, no brackets":  {msg("REGISTER", "Contact: sip:a@b?Route=x"), "Bad Contact Header"},
		"Contact, headers":               {msg("REGISTER", "Contact: <sip:a@b?Route=x>"), ""},
		"Contact of another method":      {msg("OPTIONS", "Contact: nonsense"), ""},
		"no Contact":                     {msg("REGISTER", "Contact:-"), ""},
		"star":                           {msg("REGISTER", "Contact: *"), ""},
		"star of an INVITE":              {msg("INVITE", "Contact: *"), "Bad Contact Header"},
		"star and more":                  {msg("REGISTER", "Contact: *, <sip:a@b>"), "Bad Contact Header"},
		"Contact of WebRTC":              {msg("REGISTER", `Contact: <sip:r4u1@df7jal23ls0d.invalid;transport=ws>;reg-id=1;+sip.instance="<urn:uuid:0-1>";expires=600`), ""},
		"Contact over IPv6":              {msg("INVITE", "Contact: <sip:a@[2001:db8::1]:5062;transport=tcp>"), ""},
		"Contact, empty port":            {msg("INVITE", "Contact: <sip:a@b:>"), ""},
		"Contact, long":                  {msg("REGISTER", "Contact: <sip:a@b;x="+long(1020)+">"), "Bad Contact Header"},
		"NUL in a value":                 {msg("INVITE", "Subject: a\x00b"), "Control Character In Header"},
		"ESC in a value":                 {msg("INVITE", "User-Agent: Phone \x1b[2J 1.0"), "Control Character In Header"},
		"DEL in a value":                 {msg("INVITE", "X: 123456789\x7f"), "Control Character In Header"},
		"bell in a display name":         {msg("INVITE", "From: \"Al\aice\" <sip:a@b>;tag=1"), "Control Character In Header"},
		"quoted bell":                    {msg("INVITE", "From: \"Al\\\aice\" <sip:a@b>;tag=1"), ""},
		"quoted bell, not in a string":   {msg("INVITE", "X: Al\\\aice"), "Control Character In Header"},
		"bell behind a string":           {msg("INVITE", "X: \"a\\\"\" \a"), "Control Character In Header"},
		"NUL in a Via":                   {msg("INVITE", "Via: SIP/2.0/UDP h;branch=z9hG4bK\x00"), "Control Character In Header"},
		"NUL in a Call-ID":               {msg("INVITE", "Call-ID: a\x00b"), "Control Character In Header"},
		"tab and fold":                   {msg("INVITE", "Subject: a\tb\r\n c"), ""},
		"NUL in a body":                  {msg("INVITE", "Content-Length: 3", "Content-Type: application/x") + "a\x00b", ""},
		"8-bit value":                    {msg("INVITE", "Subject: \xff\xfe\x80 gr\xc3\xbc\xc3\x9fe"), ""},
		"control in a reason phrase":     {"SIP/2.0 200 O\x01K\r\n" + strings.SplitN(msg("INVITE"), "\r\n", 2)[1], "Control Character In Reason Phrase"},
		"long User-Agent":                {msg("INVITE", "User-Agent: "+long(513)), "Header Too Long"},
		"longest User-Agent":             {msg("INVITE", "User-Agent: "+long(512)), ""},
		"long Call-ID":                   {msg("INVITE", "Call-ID: "+long(257)), "Call-ID Too Long"},
		"longest Call-ID":                {msg("INVITE", "Call-ID: "+long(256)), ""},
		"long header":                    {msg("INVITE", "X: "+long(9000)), "Header Too Long"},
		"long Identity":                  {msg("INVITE", "Identity: "+long(9000)), ""},
		"absurd Identity":                {msg("INVITE", "Identity: "+long(40000)), "Header Too Long"},
		"long header name":               {msg("INVITE", long(257)+": x"), "Header Too Long"},
		"long method":                    {msg(long(65)), "Method Too Long"},
		"long Request-URI":               {strings.Replace(msg("INVITE"), "bob@", long(1024)+"@", 1), "Request-URI Too Long"},
		"71 Vias":                        {msg("INVITE", strings.Repeat("Via: SIP/2.0/UDP h\r\n", 70)+"Via: SIP/2.0/UDP h"), "Too Many Vias"},
		"70 Vias":                        {msg("INVITE", strings.Repeat("Via: SIP/2.0/UDP h\r\n", 69)+"Via: SIP/2.0/UDP h"), ""},
		"71 Vias on a line":              {msg("INVITE", "Via: SIP/2.0/X h"+strings.Repeat(",SIP/2.0/X h", 70)), "Too Many Vias"},
		"71 shortest Vias":               {msg("INVITE", "Via: a/b/c d"+strings.Repeat(",a/b/c d", 70)), "Too Many Vias"},
		"71 Vias on two lines":           {msg("INVITE", "Via: SIP/2.0/X h\r\nv: SIP/2.0/X h"+strings.Repeat(",SIP/2.0/X h", 69)), "Too Many Vias"},
		"two Content-Types":              {msg("INVITE", "Content-Type: application/sdp\r\nc: text/plain"), "Duplicate Content-Type"},
		"two Events":                     {msg("SUBSCRIBE", "Event: reg\r\no: presence"), "Duplicate Event"},
		"two Refer-Tos":                  {msg("REFER", "Refer-To: <sip:a@b>\r\nr: <sip:c@d>"), "Duplicate Refer-To"},
		"two Supporteds":                 {msg("INVITE", "Supported: path\r\nk: timer"), ""},
		"two User-Agents":                {msg("INVITE", "User-Agent: a\r\nUser-Agent: b"), ""},
		"credentials":                    {msg("REGISTER", "Authorization: "+credentials), ""},
		"credentials, open quote":        {msg("REGISTER", `Authorization: Digest username="a, realm="r"`), "Bad Auth Header"},
		"credentials without username":   {msg("REGISTER", `Authorization: Digest realm="r", nonce="n", response="0"`), "Bad Auth Header"},
		"proxy credentials, two nonces":  {msg("INVITE", `Proxy-Authorization: Digest username="a", nonce="n", nonce="m", response="0"`), "Bad Auth Header"},
		"credentials of another scheme":  {msg("REGISTER", "Authorization: NoOneKnowsThisScheme opaque-data=here"), ""},
		"all that is wrong, first first": {msg("INVITE", "X: \x00", "From: <sip:>", "Contact: x"), "Control Character In Header"},
	} {
		t.Run(name, func(t *testing.T) {
			m := scan(t, c.text)
			if _, _, reason := sane(m); reason != c.reason {
				t.Errorf("%q, want %q", reason, c.reason)
			}
		})
	}
}

const credentials = `Digest username="alice",realm="example.com",nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093",uri="sip:example.com",` +
	`response="6629fae49393a05397450978507c4ef1",algorithm=MD5,cnonce="0a4f113b",qop=auth,nc=00000001`

// What RFC 4475 calls legal passes, and so does all else in it that Scan lets pass but
// what is named here.
func TestTortureMessagesPass(t *testing.T) {
	refused := map[string]string{
		"regbadct": "Bad Contact Header", // 3.1.2.13: a question mark without angle brackets
	}
	files, err := filepath.Glob("../proxy/wire/testdata/rfc4475/*.dat")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var m wire.Msg
		if m.Scan(text, false) != wire.NoFault {
			sane(&m) // must not panic
			continue
		}
		name := strings.TrimSuffix(filepath.Base(file), ".dat")
		if _, _, reason := sane(&m); reason != refused[name] {
			t.Errorf("%s: %q, want %q", name, reason, refused[name])
		}
	}
}

func TestHasControl(t *testing.T) {
	for _, text := range []string{"a text with none !~ ", "The quick \t \xff\x80\xa0\r\n <~>", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80"} {
		for size := range len(text) + 1 {
			for at := range size {
				for c := range 256 {
					b := []byte(text)[:size]
					b[at] = byte(c)
					want := c < ' ' && c != '\t' && c != '\r' && c != '\n' || c == 0x7f
					if hasControl(b) != want {
						t.Fatalf("%#x at %d of %q: %v", c, at, b, !want)
					}
				}
			}
		}
	}
}

// register is a REGISTER with credentials as a telephone sends it.
var register = message("REGISTER",
	`From: "Alice Example" <sip:alice@example.com>;tag=8f2a61bc`,
	"To: <sip:alice@example.com>",
	"Call-ID: 84917NWUxYmI2ZDE0ZmY4N2E1@192.0.2.10",
	`Contact: <sip:alice@192.0.2.10:5060;transport=udp>;+sip.instance="<urn:uuid:00000000-0000-1000-8000-0004f2a1b2c3>";expires=3600`,
	"User-Agent: Polycom/6.4.0.11234 PolycomVVX-VVX_450-UA/6.4.0.11234",
	"Allow: INVITE, ACK, CANCEL, BYE, NOTIFY, REFER, OPTIONS, INFO, UPDATE",
	"Supported: replaces, timer, path, outbound",
	"Authorization: "+credentials)

func TestSaneDoesNotAllocate(t *testing.T) {
	m := scan(t, register)
	if n := testing.AllocsPerRun(100, func() { sane(m) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSane(b *testing.B) {
	for name, text := range map[string]string{"REGISTER": register, "INVITE": message("INVITE")} {
		b.Run(name, func(b *testing.B) {
			m := scan(b, text)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, reason := sane(m); reason != "" {
					b.Fatal(reason)
				}
			}
		})
	}
}
