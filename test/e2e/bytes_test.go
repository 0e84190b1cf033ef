package e2e

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

// lines are header lines that are legal, or met in the wild, and that stacks which parse and
// print again are known to damage. Each has to come out as it went in.
var lines = []string{
	`Via: SIP/2.0/UDP a.example;branch=z9hG4bK1, SIP/2.0/TCP b.example;branch=z9hG4bK2`,
	`Via: SIP/2.0/UDP a.example : 5060;branch=z9hG4bK1`,
	`Via: SIP/2.0/UDP a.example:5060 ;branch=z9hG4bK1`,
	`Via: SIP / 2.0 / UDP a.example ; branch = z9hG4bK1`,
	`Via: SIP/2.0/UDP a.example;x="q";branch=z9hG4bK1;rport`,
	`Via: SIP/2.0/UDP a.example;x="q,r";branch=z9hG4bK1`,
	`Via: SIP/2.0/UDP [2001:db8::9]:5060;branch=z9hG4bK1;received=[2001:db8::9:255]`,
	`v:SIP/2.0/SCTP t2.example.com;Branch=z9hG4bKklasjdhf;RPORT=5;received=192.0.2.9`,
	"Via: SIP/2.0/UDP\r\n a.example\r\n\t;branch=z9hG4bK1",
	`X-Params: ;description="hello world";;,,;,`,
	`Contact: "a \", b" <sip:a@b.example>`,
	`Contact: <sip:b.example:>`,
	`Contact: sip:caller@b.example;transport=tcp;q=0.5`,
	`m:"Quoted string \"\"" <sip:jdrosen@example.com> ; newparam = newvalue ; secondparam ; q = 0.33`,
	`Contact: <sip:host.example;maddr=[::1]>, *`,
	`Contact: <sip:a@b.example;p?X=1&Y=2>;expires=0`,
	`Contact: <sip:a@b.example;x="y">`,
	`Record-Route: <sip:p1.example;lr>;rr-param=1, "Display" <sip:p2.example;lr=on;ftag=x>`,
	`Record-Route: sip:p1.example;lr`,
	`Record-Route:`,
	`Refer-To: "Carol \"C\"" <sip:c@d.example?Replaces=a%3Bto-tag%3Db>;x=y`,
	`P-Asserted-Identity: "Cullen Jennings" <sip:fluffy@cisco.com>, tel:+14085264000`,
	`Supported: a,b ,  c`,
	`k: 100rel,path`,
	`Supported:`,
	`Require : foo`,
	`SUBJECT:  two  spaces   inside  `,
	"Subject: folded\r\n   once\r\n\t and again",
	"s :\r\n folded at once",
	`UnknownHeaderWithUnusualValue: ;;,,;;,;`,
	"extensionHeader-!.%*+_`'~:\xef\xbb\xbf\xe5\xa4\xa7\xe5\x81\x9c\xe9\x9b\xbb",
	"X-Binary: \x01\x02\x80\xff",
	`X-No-Space:value`,
	"X-Tab:\tvalue\t",
	`X-Colon: a:b:c`,
	`X-Empty:`,
	`x-odd-CASE: 1`,
	`Identity: "eyJhbGciOi..sig";info=<https://cert.example/a.pem>;alg=ES256;ppt=shaken`,
	`Authorization: Digest username="a,b\"c", realm="x", nonce="=", uri="sip:x;y=z", response="0"`,
	`Proxy-Authorization: NoOneKnowsThisScheme opaque-data=here`,
	`Date: Fri, 01 Jan 2010 16:00:00 EST`,
	`Expires: 10000000000000000000000`,
	`Warning: 1812 overture "In, Progress"`,
	`Session-Expires: 1800;refresher=uac`,
	`Privacy: header;session`,
	`History-Info: <sip:a@b.example?Reason=SIP%3Bcause%3D302>;index=1.1`,
	`Geolocation: <cid:target123@atlanta.example.com>`,
	`Allow-Events: talk, hold`,
	`C: text/plain;charset="utf-8"`,
	`e: identity`,
	`C%6Fntact: <sip:alias2@host2.example.com>`,
}

// fromLines are odd From values; a tag is in each.
var fromLines = []string{
	`From: <sip:a@b.example> ; tag = 2`,
	`From: sip:a@b.example;tag=1`,
	`f: Alice Smith <sip:a@b.example>;tag=1`,
	`From: caller<sip:caller@example.com>;tag=323`,
	`from   : "J Rosenberg \\\""       <sip:jdrosen@example.com>` + "\r\n  ;\r\n  tag = 98asjd8",
	`From: "%Z%45" <sip:resource@example.com>;tag=f232jadfj23`,
	`From: <http://www.example.com>;tag=3234233`,
	`From: "a;tag=no" <sip:a@b.example;tag=no>;x="tag=no";tag=yes`,
	"From: \"BEL:\\\x07 DEL:\\\x7f\" <sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*@example.com>;tag=1",
	`From: <sip:a@[2001:db8::5]:5060;transport=tcp>;tag=1;received="[::1]"`,
	"From: <sip:x@example.com>;fromParam''~+*_!.-%=\"\xd1\x80\xd0\xb0\";tag=\"q\"",
}

// TestHeaderLinesPassUnchanged sends a request with each odd line through the edge, and an answer
// with it back, and compares all bytes but those the edge has to change.
func TestHeaderLinesPassUnchanged(t *testing.T) {
	for _, network := range []string{"udp", "tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			h := newHop(t, network, settings{})
			for i, line := range lines {
				t.Run(fmt.Sprintf("%02d", i), func(t *testing.T) {
					x := h.begin(t, "MESSAGE")
					x.req.Lines = append(x.req.Lines, line)
					x.req.Set("Content-Type", "text/plain")
					x.req.Body = "bytes \x00\xff\r\n\r\n of all kinds"
					passes(x, line)
				})
			}
			for i, line := range fromLines {
				t.Run(fmt.Sprintf("from %02d", i), func(t *testing.T) {
					x := h.begin(t, "MESSAGE")
					x.req.Del("From")
					x.req.Lines = append(x.req.Lines, line)
					passes(x, line)
				})
			}
		})
	}
}

// passes sends x.req, compares it at the node, and answers with the odd line in the response.
func passes(x *exchange, line string) {
	x.t.Helper()
	x.send(x.req)
	got := x.nodeGets("MESSAGE")
	same(x.t, undo(x.t, got.Data), x.req.Bytes())

	// The response keeps its own order and spelling, too.
	res := siptest.Respond(got, 404, "Not = 2**3 \xd0\xbd\xd0\xbe", "n1")
	name, _, _ := strings.Cut(line, ":")
	if n := strings.ToLower(strings.TrimSpace(name)); n != "via" && n != "v" && n != "from" && n != "f" {
		res.Lines = append(res.Lines, line)
	}
	res.Body = "\x00 body"
	if err := got.Reply(res.Bytes()); err != nil {
		x.t.Fatal(err)
	}
	back := x.callerGets(404, "MESSAGE")
	want := res.Clone()
	want.Lines = want.Lines[1:] // our Via
	same(x.t, back.Data, want.Bytes())
}

var maxForwards = regexp.MustCompile(`(?i)\r\n(max-forwards *: *)(\d+)`)

// undo takes back what a proxy adds to a request: its Via line in front of the sender's, its
// Record-Route, one hop of Max-Forwards, and received and rport in the sender's Via.
func undo(t *testing.T, got []byte) []byte {
	t.Helper()
	head, body, _ := bytes.Cut(got, []byte("\r\n\r\n"))
	var kept [][]byte
	via, recorded := false, 0
	for _, line := range bytes.Split(head, []byte("\r\n")) {
		name, _, _ := bytes.Cut(line, []byte(":"))
		ours := bytes.Contains(line, []byte("127.0.0.1:"))
		switch {
		case !via && ours && string(name) == "Via":
			via = true
		case recorded < 2 && ours && string(name) == "Record-Route" && bytes.Contains(line, []byte(";lr")):
			recorded++
		default:
			kept = append(kept, line)
		}
	}
	if !via {
		t.Fatalf("no Via of ours:\n%s", got)
	}
	head = bytes.Join(kept, []byte("\r\n"))
	head = maxForwards.ReplaceAllFunc(head, func(m []byte) []byte {
		parts := maxForwards.FindSubmatch(m)
		var n int
		_, _ = fmt.Sscan(string(parts[2]), &n) // the pattern has digits only
		return fmt.Appendf(nil, "\r\n%s%d", parts[1], n+1)
	})
	if i := received.FindIndex(head); i != nil {
		head = append(head[:i[0]:i[0]], head[i[1]:]...)
	}
	return append(append(head, "\r\n\r\n"...), body...)
}

// received is what the edge adds to the Via of a sender that has not told the truth.
var received = regexp.MustCompile(`;received=127\.0\.[01]\.\d+`)

// same compares two messages and shows the first place where they differ. Spelling of the number
// in Max-Forwards (0068) is the one thing that may not come back.
func same(t *testing.T, got, want []byte) {
	t.Helper()
	leading := regexp.MustCompile(`(?i)(\r\nmax-forwards *: *)0+(\d)`)
	rport := regexp.MustCompile(`;rport=\d+`)
	got, want = leading.ReplaceAll(got, []byte("$1$2")), leading.ReplaceAll(want, []byte("$1$2"))
	want = rport.ReplaceAll(want, []byte(";rport"))
	got = rport.ReplaceAll(got, []byte(";rport"))
	if bytes.Equal(got, want) {
		return
	}
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	t.Fatalf("differs at byte %d\ngot  %q\nwant %q", at, tail(got, at), tail(want, at))
}

func tail(b []byte, at int) []byte { return b[max(0, min(at, len(b))-40):min(len(b), at+120)] }

// fate is what may become of a torture message.
type fate struct {
	code   int    // expected answer of the edge; 0 = none
	passes bool   // it goes through to the node
	either bool   // both are right: the RFC leaves the choice
	silent bool   // dropping it without an answer is right as well
	route  string // Route line to put in the place of the RFC's
}

var torture = map[string]fate{
	// 3.1.1 valid
	"wsinv": {passes: true, route: "-"}, "intmeth": {passes: true}, "esc01": {passes: true}, "escnull": {passes: true},
	"esc02": {passes: true}, "lwsdisp": {passes: true}, "longreq": {passes: true}, "dblreq": {passes: true},
	"semiuri": {passes: true}, "transports": {passes: true}, "mpart01": {passes: true, route: "-"},
	"unreason": {silent: true}, "noreason": {silent: true}, // responses to nothing we sent
	// 3.1.2 invalid
	"badinv01": {code: 400, silent: true}, "clerr": {code: 400}, "ncl": {code: 400}, "scalar02": {code: 400},
	"scalarlg": {silent: true}, "quotbal": {code: 400}, "ltgtruri": {code: 400}, "lwsruri": {code: 400},
	"lwsstart": {code: 400}, "trws": {code: 400}, "escruri": {code: 400, either: true},
	"baddate": {code: 400, either: true}, "regbadct": {code: 400, either: true}, "badaspec": {code: 400, either: true},
	"baddn": {code: 400, either: true, silent: true}, "badvers": {code: 505}, "mismatch01": {code: 400}, "mismatch02": {code: 400},
	"bigcode": {silent: true},
	// 3.2 transaction layer
	"badbranch": {passes: true},
	// 3.3 application layer
	"insuf": {code: 400, silent: true}, "unkscm": {code: 416}, "novelsc": {code: 416}, "unksm2": {passes: true},
	"bext01": {code: 420}, "invut": {passes: true}, "regaut01": {passes: true}, "multi01": {code: 400, silent: true},
	"mcl01": {code: 400}, "bcast": {silent: true}, "zeromf": {code: 483}, "cparam01": {passes: true},
	"cparam02": {passes: true}, "regescrt": {passes: true}, "sdp01": {passes: true},
	// 3.4 RFC 2543
	"inv2543": {passes: true},
}

// TestTortureMessages sends every message of RFC 4475 as the RFC has it and looks at what becomes of
// it. The sender sits on port 5060 of an address of its own: that is where the answers to Via
// headers without a port have to go.
func TestTortureMessages(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			h := newHop(t, network, settings{probe: ignorant, limits: "message_timeout: 1", top: "registration: { mode: path }\n"})
			files, err := filepath.Glob("testdata/rfc4475/*.dat")
			if err != nil || len(files) != len(torture) {
				t.Fatalf("%d messages for %d entries, %v", len(files), len(torture), err)
			}
			for i, file := range files {
				name := strings.TrimSuffix(filepath.Base(file), ".dat")
				t.Run(name, func(t *testing.T) {
					data, err := os.ReadFile(file)
					if err != nil {
						t.Fatal(err)
					}
					tortured(t, h, torture[name], name, data, byte(100+i))
				})
			}
			// And it still works.
			x := h.begin(t, "INVITE")
			x.reject(x.invite(), 486)
		})
	}
}

// pathLines are what a REGISTER gets in mode path; its Contacts stay as they came.
var pathLines = regexp.MustCompile(`(?:Path: <sip:sw-[^\r]*|Supported: path)\r\n`)

var routeLine = regexp.MustCompile(`(?i)\r\nRoute:(\r\n )?[^\r]*`)

func tortured(t *testing.T, h *hop, f fate, name string, data []byte, host byte) {
	t.Helper()
	if f.route != "" {
		// A preloaded Route to a stranger is another test's matter.
		data = routeLine.ReplaceAll(data, nil)
	}
	if h.network == "tcp" {
		switch name {
		case "clerr":
			f = fate{silent: true} // the rest of the message never comes
		case "baddn", "inv2543":
			data = withLength(data) // the RFC has them for UDP
		}
	}
	local := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, host}), 5060)
	switch {
	case h.network == "tcp":
		local = netip.AddrPortFrom(local.Addr(), 0) // answers come on the connection
	case name == "quotbal":
		local = netip.AddrPortFrom(local.Addr(), 5050) // its Via says so
	}
	// Some share their branch, and would be copies of each other.
	data = bytes.Replace(data, []byte("branch=z9hG4bKkdjuw"), []byte("branch=z9hG4bKkdjuw"+name), 1)
	sender := keep(t)(siptest.DialRawFrom(h.network, local, h.addr, h.cert.Client()))
	if err := sender.Send(data); err != nil {
		t.Fatal(err)
	}
	passed, answer := outcome(h, sender, data, f)
	switch {
	case passed != nil && (f.passes || f.either):
		want := data
		if name == "dblreq" {
			want = want[:bytes.Index(want, []byte("\r\n\r\n"))+4]
		}
		got := undo(t, passed.Data)
		if passed.Method() == "REGISTER" {
			got = pathLines.ReplaceAll(got, nil)
		}
		if !maxForwards.Match(data) {
			got = regexp.MustCompile(`(?i)\r\nMax-Forwards: 7[01]`).ReplaceAll(got, nil) // it was added
		}
		same(t, got, want)
		if passed.Method() == "INVITE" {
			if err := passed.Respond(486, "Busy Here", "n1"); err != nil {
				t.Fatal(err)
			}
		} else if err := passed.Respond(404, "Not Found", "n1"); err != nil {
			t.Fatal(err)
		}
	case passed != nil:
		t.Fatalf("it went through:\n%s", passed)
	case answer != nil && f.code != 0 && answer.Status() != f.code:
		t.Fatalf("answered with\n%s\nwant %d", answer, f.code)
	case answer != nil && f.code == 0:
		t.Fatalf("answered with\n%s\nwant nothing", answer)
	case answer == nil && !f.silent:
		t.Fatalf("neither passed nor answered (want %+v)", f)
	}
}

// outcome waits for the message at the node or an answer at the sender.
func outcome(h *hop, sender *siptest.Raw, data []byte, f fate) (passed, answer *siptest.Message) {
	patience := soon
	if f.silent {
		patience = 300 * time.Millisecond // nothing has to come
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if m, err := h.node.Next(5 * time.Millisecond); err == nil {
			// What is left of the message before (the second one in dblreq) is none of it.
			if m.Status() == 0 && m.Method() != "ACK" && bytes.Contains(data, []byte(m.CallID())) {
				return m, nil
			}
		}
		m, err := sender.Next(5 * time.Millisecond)
		if err == nil && m.Status() >= 200 {
			return nil, m
		}
	}
	return nil, nil
}

func withLength(data []byte) []byte {
	head, body, ok := bytes.Cut(data, []byte("\r\n\r\n"))
	if !ok {
		head, body = bytes.TrimRight(data, "\r\n"), nil
	}
	if regexp.MustCompile(`(?i)\r\n(l|content-length) *:`).Match(head) {
		return append(append(bytes.Clone(head), "\r\n\r\n"...), body...)
	}
	return fmt.Appendf(nil, "%s\r\nContent-Length: %d\r\n\r\n%s", head, len(body), body)
}

// TestStreamFraming: however a stream is cut, the same messages come out.
func TestStreamFraming(t *testing.T) {
	h := newHop(t, "tcp", settings{})
	t.Run("one byte at a time, with keep-alives between", func(t *testing.T) {
		x := h.begin(t, "MESSAGE")
		for _, b := range append([]byte("\r\n\r\n"), x.req.Bytes()...) {
			if err := x.caller.Send([]byte{b}); err != nil {
				t.Fatal(err)
			}
		}
		got := x.nodeGets("MESSAGE")
		same(t, undo(t, got.Data), x.req.Bytes())
		x.respond(got, 200, "OK", "n1")
		x.callerGets(200, "MESSAGE")
		if pong, err := h.caller.Next(soon); err != nil || pong.String() != "\r\n" {
			t.Fatalf("pong: %q, %v", pong, err)
		}
	})
	t.Run("two messages and a ping in one segment", func(t *testing.T) {
		x, y := h.begin(t, "MESSAGE"), h.begin(t, "INFO")
		glued := append(append(x.req.Bytes(), "\r\n\r\n"...), y.req.Bytes()...)
		if err := h.caller.Send(glued); err != nil {
			t.Fatal(err)
		}
		x.respond(x.nodeGets("MESSAGE"), 200, "OK", "n1")
		y.respond(y.nodeGets("INFO"), 200, "OK", "n1")
		x.callerGets(200, "MESSAGE")
		y.callerGets(200, "INFO")
		if pong, err := h.caller.Next(soon); err != nil || pong.String() != "\r\n" {
			t.Fatalf("pong: %q, %v", pong, err)
		}
	})
	t.Run("60,000 bytes", func(t *testing.T) {
		for _, network := range []string{"tcp", "udp"} {
			big := h
			if network == "udp" {
				big = newHop(t, "udp", settings{})
			}
			x := big.begin(t, "MESSAGE")
			x.req.Set("Content-Type", "text/plain")
			x.req.Body = strings.Repeat("0123456789", 6000)
			x.send(x.req)
			got := x.nodeGets("MESSAGE")
			same(t, undo(t, got.Data), x.req.Bytes())
			x.respond(got, 200, "OK", "n1")
			x.callerGets(200, "MESSAGE")
		}
	})
}
