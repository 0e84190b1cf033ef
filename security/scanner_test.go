package security

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// message is a sound request; lines replace those of the same name or are added.
func message(method string, replace ...string) string {
	text := strings.ReplaceAll(strings.Join([]string{
		"M sip:bob@example.com SIP/2.0",
		"Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK1;rport",
		"Max-Forwards: 70",
		`From: "Alice" <sip:alice@example.com>;tag=1`,
		"To: <sip:bob@example.com>",
		"Call-ID: c1@192.0.2.10",
		"CSeq: 1 M",
		"Contact: <sip:alice@192.0.2.10:5060>",
		"Content-Length: 0",
		"", ""}, "\r\n"), "M", method)
	text = strings.Replace(text, method+"ax-Forwards", "Max-Forwards", 1)
	for _, line := range replace {
		name, value, _ := strings.Cut(line, ":")
		start := strings.Index(text, "\r\n"+strings.TrimSpace(name)+":") + 2
		if start < 2 {
			text = strings.TrimSuffix(text, "\r\n") + line + "\r\n\r\n"
			continue
		}
		end := start + strings.Index(text[start:], "\r\n")
		if value == "-" {
			text = text[:start] + text[end+2:]
			continue
		}
		text = text[:start] + line + text[end:]
	}
	return text
}

func scan(t testing.TB, text string) *wire.Msg {
	t.Helper()
	m := new(wire.Msg)
	if f := m.Scan([]byte(text), false); f != wire.NoFault {
		t.Fatalf("%v in\n%s", f, text)
	}
	return m
}

func signatures(t testing.TB, c config.BlockUserAgents) *Signatures {
	t.Helper()
	s, err := NewSignatures(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Telephones, gateways, carriers, PBXs and SDKs that must never be taken for scanners.
var honest = []string{
	"Yealink SIP-T46S 66.86.0.15",
	"Yealink SIP-T54W 96.86.0.70",
	"Yealink W70B 146.85.0.20",
	"Grandstream GXP2170 1.0.11.35",
	"Grandstream HT802 1.0.29.8",
	"Grandstream Wave 1.2.11",
	"PolycomVVX-VVX_411-UA/5.9.6.2327",
	"Polycom/6.4.0.11234 PolycomVVX-VVX_450-UA/6.4.0.11234",
	"PolycomSoundPointIP-SPIP_335-UA/4.0.15.1009",
	"Cisco-CP7960G/8.0",
	"Cisco/SPA504G-7.6.2e",
	"Cisco-CP-8841-3PCC/11.3.7",
	"Cisco-SIPGateway/IOS-15.4.3.M3",
	"Linksys/SPA942-6.1.5(a)",
	"snomD735/10.1.127.10",
	"snom320/8.7.5.35",
	"Fanvil X4U 2.12.1",
	"Fanvil X6U 2.4.3.2 0c383e1c2b10",
	"Htek UC926 V2.0.4.4.67",
	"Gigaset N510 IP PRO/42.261.00.000.000;7C2F80E06C91",
	"Panasonic_KX-HDV230/06.102 (0080f0f3a1b2)",
	"AVM FRITZ!Box 7590 154.07.57 (Mar 22 2024)",
	"Zoiper rv2.10.20.4_1",
	"Z 5.6.4 v2.10.20.4",
	"MicroSIP/3.21.3",
	"LinphoneAndroid/5.2.4 (Pixel 7) LinphoneSDK/5.3.31",
	"Linphone-Desktop/5.2.4 (Debian GNU/Linux 12) Windows/Linux",
	"Bria 6.5.4 release 6.5.4 stamp 111234",
	"X-Lite release 5.6.1 stamp 99142",
	"Telephone 1.6",
	"PJSUA v2.13 Linux-5.15/x86_64/glibc-2.35",
	"baresip v1.0.0 (x86_64/linux)",
	"JsSIP 3.10.1",
	"SIP.js/0.21.1",
	"Jitsi2.11.5633Windows 10",
	"Acrobits Groundwire/6.1",
	"Audiocodes-Sip-Gateway-Mediant 800B/v.7.20A.258.457",
	"Patton SN4141/4JS4EUI 3.20.1",
	"Sonus SBC/9.2",
	"Oracle SBC E-SBC/8.4",
	"Avaya one-X Deskphone",
	"Mitel-6867i-SIP-Phone/5.1.0.3024",
	"Aastra 6757i/3.3.1.8106",
	"Twilio Gateway",
	"Telnyx SIP Proxy",
	"Asterisk PBX 18.9.0",
	"FPBX-16.0.40.7(18.16.0)",
	"FPBX-AsteriskNOW-14(sipvicious)",
	"FreeSWITCH-mod_sofia/1.10.9-release~64bit",
	"3CXPhoneSystem 18.0.8.993",
	"3CXPhone 6.0.26523.0",
	"friendly-scanner behind Asterisk PBX 13",
	"kamailio (5.7.4 (x86_64/linux))",
	"OpenSIPS (3.4.4 (x86_64/linux))",
	"SipClient/2.1",
	"CSipSimple_GT-I9505-19/r2457",
	"PortSIP VoIP SDK 19.2",
	"DigiWare SIP 1.0",
	"Prismap 2",
	"smap 2",
	"sipsak 0.9.7",
	"SIPp v3.6.1",
	"Sipscape 4",
	"RTC/6.0",
	"voip",
	"Net2Phone VoIP SDK",
	"T\xc3\xa9l\xc3\xa9phone",
	"x",
}

func TestHonestUserAgentsPass(t *testing.T) {
	s := signatures(t, config.BlockUserAgents{Mode: "blacklist", BlockAbsent: true, BlockEmpty: true})
	for _, ua := range honest {
		for _, method := range []string{"REGISTER", "INVITE"} {
			if i, ok := s.Match(scan(t, message(method, "User-Agent: "+ua))); ok {
				t.Errorf("%q was taken for %q", ua, s.Hits()[i].Pattern)
			}
		}
	}
}

func TestScannersAreFound(t *testing.T) {
	s := signatures(t, config.BlockUserAgents{UAPatterns: []string{"EvilPhone", "=Custom SIP", "friendly-scanner"}})
	ua := func(value string) string { return "User-Agent: " + value }
	for name, c := range map[string]struct{ line, pattern string }{
		"svmap":                 {ua("friendly-scanner"), "friendly-scanner"},
		"another case":          {ua("Friendly-Scanner/0.3"), "friendly-scanner"},
		"inside":                {ua("my friendly-request 2"), "friendly-request"},
		"after a false start":   {ua("svsvmap"), "svmap"},
		"overlapping":           {ua("sipvicsipvicious"), "sipvicious"},
		"sipcli":                {ua("sipcli/v1.8"), "sipcli/"},
		"sipcli alone":          {ua("sipcli"), "=sipcli"},
		"iWar":                  {ua("iWar"), "=iwar"},
		"smap":                  {ua("smap"), "=smap"},
		"Nmap":                  {ua("Nmap NSE 7"), "nmap nse"},
		"VaxSIPUserAgent":       {ua("VaxSIPUserAgent/3.1"), "vaxsipuseragent"},
		"the operator's":        {ua("evilphone 3"), "EvilPhone"},
		"the operator's, whole": {ua("custom sip"), "=Custom SIP"},
		"second line":           {ua("Phone\r\nUser-Agent: sundayddr"), "sundayddr"},
		"From user":             {`From: <sip:SipVicious@1.1.1.1>;tag=1`, "sipvicious"},
		"From user, password":   {`From: <sip:sipvicious:x@1.1.1.1>;tag=1`, "sipvicious"},
		"From display name":     {`From: "sipvicious"<sip:100@1.1.1.1>;tag=1`, "sipvicious"},
		"From, plain name":      {`From: sipvicious <sip:100@1.1.1.1>;tag=1`, "sipvicious"},
		"To user":               {`To: <sip:sipvicious@1.1.1.1>`, "sipvicious"},
		"not the whole user":    {`To: <sip:sipvicious1@1.1.1.1>`, ""},
		"a host is no user":     {`To: <sip:sipvicious>`, ""},
		"not the whole":         {ua("custom sip 1"), ""},
		"cut short":             {ua("friendly-scanne"), ""},
		"empty":                 {ua(""), ""},
		"long":                  {ua(strings.Repeat("friendly-scan ", 1000)), ""},
		"absent":                {"X: friendly-scanner", ""},
	} {
		t.Run(name, func(t *testing.T) {
			i, ok := s.Match(scan(t, message("OPTIONS", c.line)))
			if ok != (c.pattern != "") || ok && s.Hits()[i].Pattern != c.pattern {
				t.Fatalf("index %d, %v, want %q", i, ok, c.pattern)
			}
		})
	}
}

func TestEveryEmbeddedSignatureIsFound(t *testing.T) {
	s := signatures(t, config.BlockUserAgents{})
	for i, h := range s.Hits() {
		line := "User-Agent: " + strings.ToUpper(strings.TrimPrefix(h.Pattern, "="))
		if h.User {
			line = "From: <sip:" + h.Pattern + "@h>;tag=1"
		}
		if got, ok := s.Match(scan(t, message("REGISTER", line))); !ok || got != i {
			t.Errorf("%q is found as %d, %v, want %d", h.Pattern, got, ok, i)
		}
		if h.Pattern != strings.TrimSpace(h.Pattern) || strings.TrimPrefix(h.Pattern, "=") == "" || len(h.Pattern) > maxPattern {
			t.Errorf("bad line %q", h.Pattern)
		}
	}
	if n := len(s.Hits()); n < 20 {
		t.Errorf("%d signatures", n)
	}
}

func TestWhitelistPassesNothingElse(t *testing.T) {
	s := signatures(t, config.BlockUserAgents{Mode: "whitelist", UAPatterns: []string{"yealink", "=Own Phone"}})
	for line, want := range map[string]string{
		"User-Agent: Yealink SIP-T46S": "",
		"User-Agent: own phone":        "",
		"User-Agent: own phone 2":      "whitelist",
		"User-Agent: Asterisk PBX 18":  "whitelist",
		"User-Agent:":                  "whitelist",
		"X: y":                         "whitelist",
		"From: <sip:sipvicious@h>\r\nUser-Agent: Yealink": "sipvicious",
	} {
		i, ok := s.Match(scan(t, message("INVITE", line)))
		if ok != (want != "") || ok && s.Hits()[i].Pattern != want {
			t.Errorf("%q: index %d, %v, want %q", line, i, ok, want)
		}
	}
}

func TestAbsentAndEmptyUserAgents(t *testing.T) {
	both := config.BlockUserAgents{BlockAbsent: true, BlockEmpty: true}
	for name, c := range map[string]struct {
		conf config.BlockUserAgents
		text string
		want string
	}{
		"absent":             {both, message("INVITE"), "block_absent"},
		"empty":              {both, message("INVITE", "User-Agent: "), "block_empty"},
		"absent may pass":    {config.BlockUserAgents{BlockEmpty: true}, message("INVITE"), ""},
		"empty may pass":     {config.BlockUserAgents{BlockAbsent: true}, message("INVITE", "User-Agent:"), ""},
		"ACK has none":       {both, message("ACK"), ""},
		"CANCEL has none":    {both, message("CANCEL"), ""},
		"a dialog has begun": {both, message("BYE", "To: <sip:b@h>;tag=2"), ""},
		"empty in a dialog":  {both, message("BYE", "To: <sip:b@h>;tag=2", "User-Agent:"), "block_empty"},
		"whitelist, ACK":     {config.BlockUserAgents{Mode: "whitelist", UAPatterns: []string{"=x"}}, message("ACK"), ""},
		"a response":         {both, "SIP/2.0 200 OK\r\n" + strings.SplitN(message("INVITE", "User-Agent: svmap"), "\r\n", 2)[1], ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := signatures(t, c.conf)
			i, ok := s.Match(scan(t, c.text))
			if ok != (c.want != "") || ok && s.Hits()[i].Pattern != c.want {
				t.Errorf("index %d, %v, want %q", i, ok, c.want)
			}
		})
	}
}

func TestBadPatternsAreRefused(t *testing.T) {
	for pattern, want := range map[string]string{
		"":                       "empty",
		"=":                      "empty",
		" x":                     "white space around",
		"a\x00b":                 "control characters",
		"a\tb":                   "control characters",
		"friendly|scanner":       "regular expression",
		"friendly.*":             "regular expression",
		"^friendly":              "regular expression",
		"friendly$":              "regular expression",
		`x\.y`:                   "regular expression",
		"Asterisk PBX":           "never blocked",
		"=my 3CX phone":          "never blocked",
		strings.Repeat("x", 100): "more than 64 bytes",
	} {
		_, err := NewSignatures(config.BlockUserAgents{UAPatterns: []string{"good", pattern}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", pattern, err, want)
		}
	}
	_, err := NewSignatures(config.BlockUserAgents{UAPatterns: []string{"", "a|b"}})
	if err == nil || strings.Count(err.Error(), "ua_patterns") != 2 {
		t.Errorf("not both problems: %v", err)
	}
	if _, err := NewSignatures(config.BlockUserAgents{Mode: "whitelist"}); err == nil {
		t.Error("an empty whitelist is accepted")
	}
	if _, err := NewSignatures(config.BlockUserAgents{Mode: "whitelist", UAPatterns: []string{"Asterisk PBX"}}); err != nil {
		t.Errorf("a PBX cannot be whitelisted: %v", err)
	}
	if _, err := NewSignatures(config.BlockUserAgents{UAPatterns: make([]string, maxPatterns+1)}); err == nil {
		t.Error("too many patterns are accepted")
	}
}

func TestHitsAreCountedAndInherited(t *testing.T) {
	old := signatures(t, config.BlockUserAgents{UAPatterns: []string{"one", "two"}, BlockAbsent: true})
	count := func(s *Signatures, pattern string) uint64 {
		for _, h := range s.Hits() {
			if h.Pattern == pattern && !h.User {
				return h.Hits
			}
		}
		t.Errorf("no %q", pattern)
		return 0
	}
	one, absent := scan(t, message("INVITE", "User-Agent: one")), scan(t, message("INVITE"))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				old.Match(one)
				old.Match(absent)
			}
		})
	}
	wg.Wait()
	if n := count(old, "one"); n != 400 {
		t.Errorf("one: %d hits", n)
	}
	s := signatures(t, config.BlockUserAgents{UAPatterns: []string{"three", "ONE"}, BlockAbsent: true})
	s.Inherit(old)
	s.Inherit(nil)
	old.Match(one) // a message that was on its way when the configuration changed
	s.Match(one)
	for pattern, want := range map[string]uint64{"ONE": 402, "three": 0, "block_absent": 400} {
		if n := count(s, pattern); n != want {
			t.Errorf("%s: %d hits, want %d", pattern, n, want)
		}
	}
}

// Against strings.Contains, over a small alphabet that makes texts overlap.
func TestAutomatonAgainstContains(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		text := func(most int) string {
			b := make([]byte, 1+r.IntN(most))
			for i := range b {
				b[i] = "abC-"[r.IntN(4)]
			}
			return string(b)
		}
		var parts []part
		for i := range r.IntN(12) {
			parts = append(parts, part{strings.ToLower(text(6)), i})
		}
		a := newAutomaton(parts)
		for range 100 {
			value := text(20)
			want := false
			for _, p := range parts {
				want = want || strings.Contains(strings.ToLower(value), p.text)
			}
			i := a.find([]byte(value))
			if (i >= 0) != want || i >= 0 && !strings.Contains(strings.ToLower(value), parts[i].text) {
				t.Fatalf("seed %d: %q finds %d of %v, want %v", seed, value, i, parts, want)
			}
		}
	}
}

func TestLargestAutomaton(t *testing.T) {
	var patterns []string
	for i := range maxPatterns {
		p := make([]byte, maxPattern)
		for j := range p {
			p[j] = byte('!' + (i*7+j*(i+3))%90)
		}
		p[0], p[maxPattern-1] = 'x', 'y'
		patterns = append(patterns, strings.NewReplacer(`\`, "-", "|", "-", ".*", "--").Replace(string(p)))
	}
	s := signatures(t, config.BlockUserAgents{UAPatterns: patterns})
	if n := 2*len(s.parts.next) + 4*len(s.parts.found); n > 5<<20 {
		t.Errorf("%d bytes", n)
	}
	for _, p := range patterns {
		if _, ok := s.Match(scan(t, message("INVITE", "User-Agent: a "+p))); !ok {
			t.Fatalf("%q is not found", p)
		}
	}
}

var fuzzSignatures, _ = NewSignatures(config.BlockUserAgents{UAPatterns: []string{"phone", "=x", "z"}, BlockAbsent: true, BlockEmpty: true})

func TestMatchDoesNotAllocate(t *testing.T) {
	s := signatures(t, config.BlockUserAgents{})
	m, hit := scan(t, message("REGISTER", "User-Agent: "+honest[0])), scan(t, message("REGISTER", "User-Agent: svmap"))
	if n := testing.AllocsPerRun(100, func() { s.Match(m); s.Match(hit) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	var patterns []string
	for i := range maxPatterns {
		patterns = append(patterns, fmt.Sprintf("pattern number %d", i*7919))
	}
	for name, c := range map[string]struct {
		ua       string
		patterns []string
	}{
		"telephone":     {"Polycom/6.4.0.11234 PolycomVVX-VVX_450-UA/6.4.0.11234 (secure)", nil},
		"false starts":  {"sipsv svsip friendly-s sip-s iw nmap sund sivu gul sipv vaxsi pl", nil},
		"scanner":       {"friendly-scanner", nil},
		"256 additions": {"Polycom/6.4.0.11234 PolycomVVX-VVX_450-UA/6.4.0.11234 (secure)", patterns},
	} {
		b.Run(name, func(b *testing.B) {
			s := signatures(b, config.BlockUserAgents{UAPatterns: c.patterns})
			m := scan(b, message("REGISTER", "User-Agent: "+c.ua))
			b.ReportAllocs()
			for b.Loop() {
				s.Match(m)
			}
		})
	}
}

func FuzzAutomaton(f *testing.F) {
	f.Add("friendly-scanner", "sipvicious", "My SIPvicious")
	f.Add("aab", "ab", "aaab")
	f.Fuzz(func(t *testing.T, one, two, value string) {
		var parts []part
		for i, text := range []string{lowerASCII(one), lowerASCII(two)} {
			if text != "" && len(text) <= maxPattern {
				parts = append(parts, part{text, i})
			}
		}
		want := false
		for _, p := range parts {
			want = want || strings.Contains(lowerASCII(value), p.text)
		}
		i := newAutomaton(parts).find([]byte(value))
		if (i >= 0) != want {
			t.Fatalf("%v in %q: %d, want %v", parts, value, i, want)
		}
	})
}
