package proxy

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares what the edge makes of a message with the second part of a file
// whose first part is the message. Lines end with LF in the file.
func golden(t *testing.T, file, in, out string) {
	t.Helper()
	text := "--- in\n" + in + "--- out\n" + out
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != text {
		t.Errorf("%s:\n%s\ngot\n%s", file, want, text)
	}
}

// spliceCases: one request each, from PHONE unless it says so. The names PHONE,
// PBX1, EDGE1 and EDGE2 stand for addresses, <inner> and <outer> for a token of
// this dialog.
var spliceCases = []struct {
	name    string
	fromPBX bool
	method  string // "" = INVITE
	in      string
}{
	{name: "plain", in: `INVITE sip:bob@example.org SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
Max-Forwards: 70
From: "Alice" <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>
Call-ID: 1
CSeq: 1 INVITE
Contact: <sip:alice@PHONE>
Content-Type: application/sdp
Content-Length: 4

v=0
`},
	{name: "rport", in: `INVITE sip:bob@example.org SIP/2.0
Via: SIP/2.0/UDP 10.1.1.1:5060;rport;branch=z9hG4bK1
Max-Forwards: 70
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>
Call-ID: 2
CSeq: 1 INVITE
Content-Length: 0

`},
	{name: "received", in: `INVITE sip:bob@example.org SIP/2.0
Via: SIP/2.0/UDP phone.example.org:<port>;branch=z9hG4bK1;received=192.0.2.77;x=y
Max-Forwards: 70
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>
Call-ID: 3
CSeq: 1 INVITE
Content-Length: 0

`},
	{name: "no max-forwards", in: `INVITE sip:bob@example.org SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>
Call-ID: 4
CSeq: 1 INVITE
Content-Length: 0

`},
	{name: "compact and folded", in: `INVITE sip:bob@example.org SIP/2.0
v: SIP / 2.0 / UDP PHONE
 ;branch=z9hG4bK1,
  SIP/2.0/TCP lower.example.org;branch=z9hG4bKx
f: sip:alice@example.org;tag=a
t: sip:bob@example.org
i: 5
MAX-FORWARDS  :  7
CSeq: 1
 INVITE
s: folded
	subject
m: <sip:alice@PHONE>
l: 0

`},
	{name: "identity", in: `INVITE sip:bob@example.org SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
X-AUTH-IP: 10.9.9.9
Max-Forwards: 70
x-auth-ip:10.9.9.9
X-Auth-Ip : 10.9.9.9,
 10.9.9.8
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>
X-Auth-IPs: stays
Call-ID: 6
CSeq: 1 INVITE
Content-Length: 0
X-AUTH-IP:

`},
	{name: "via not first", in: `INVITE sip:bob@example.org SIP/2.0
Max-Forwards: 70
Call-ID: 7
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
From: <sip:alice@example.org>;tag=a
Via: SIP/2.0/UDP lower.example.org;branch=z9hG4bKx
To: <sip:bob@example.org>
Record-Route: <sip:lower.example.org;lr>
CSeq: 1 INVITE
Content-Length: 0

`},
	{name: "own route", in: `INVITE sip:bob@example.org SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
Route: <sip:EDGE1;lr>
Max-Forwards: 70
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>
Call-ID: 8
CSeq: 1 INVITE
Content-Length: 0

`},
	{name: "own routes and one more", method: "BYE", in: `BYE sip:bob@PBX1 SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
Route: <sip:<outer>@EDGE1;lr> , <sip:<inner>@EDGE2;lr>
Route:<sip:PBX1;lr>,<sip:far.example.org;lr>
Max-Forwards: 70
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>;tag=b
Call-ID: 9
CSeq: 2 BYE
Content-Length: 0

`},
	{name: "strict router before us", method: "BYE", in: `BYE sip:<outer>@EDGE1;lr SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
Route: <sip:<inner>@EDGE2;lr>, <sip:bob@PBX1;x=1>
Max-Forwards: 70
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>;tag=b
Call-ID: 10
CSeq: 2 BYE
Content-Length: 0

`},
	{name: "strict router after us", method: "BYE", in: `BYE sip:bob@far.example.org SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
Route: <sip:<outer>@EDGE1;lr>, <sip:<inner>@EDGE2;lr>, <sip:strict@PBX1>, <sip:far.example.org;lr>
Max-Forwards: 70
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>;tag=b
Call-ID: 11
CSeq: 2 BYE
Content-Length: 0

`},
	{name: "strict routers on both sides", method: "BYE", in: `BYE sip:<outer>@EDGE1;lr SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
Route: <sip:strict@PBX1>
Route: <sip:bob@far.example.org>
Max-Forwards: 70
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>;tag=b
Call-ID: 12
CSeq: 2 BYE
Content-Length: 0

`},
	{name: "from the pbx", fromPBX: true, in: `INVITE sip:alice@PHONE SIP/2.0
Via: SIP/2.0/UDP PBX1;branch=z9hG4bK1;rport
X-AUTH-IP: 192.0.2.1
Max-Forwards: 70
From: <sip:bob@example.org>;tag=b
To: <sip:alice@example.org>
Call-ID: 13
CSeq: 1 INVITE
Content-Length: 0

`},
	{name: "in the call from the pbx", fromPBX: true, method: "BYE", in: `BYE sip:alice@10.1.1.1:5060 SIP/2.0
Via: SIP/2.0/UDP PBX1;branch=z9hG4bK1;rport
Route: <sip:<inner>@EDGE2;lr>,<sip:<outer>@EDGE1;lr>
Max-Forwards: 70
From: <sip:bob@example.org>;tag=b
To: <sip:alice@example.org>;tag=a
Call-ID: 14
CSeq: 1 BYE
Content-Length: 0

`},
	{name: "sips", in: `INVITE sips:bob@example.org SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
Max-Forwards: 70
From: <sip:alice@example.org>;tag=a
To: <sips:bob@example.org>
Call-ID: 15
CSeq: 1 INVITE
Content-Length: 0

`},
	{name: "odd but legal", method: "!%*_+-'~", in: `!%*_+-'~ tel:+4930;phone-context=a,b SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1;x="a;b,c"
Max-Forwards: 0070
FROM   :   "Quote \" <,;" <sip:a;lice?x=y@example.org;p=1>  ;  TAG=a
TO: " " <tel:+4930>
Call-ID:   16
CSeq:    0000001      !%*_+-'~
Unknown: ` + "\x80\xff" + ` ,,,
Empty:
Content-Length: 0

`},
}

// The edge has two listeners in these cases: one outside, one inside.
func spliceLab(c *config.Config) {
	c.Listen = append(c.Listen, testConfig("udp:127.0.0.1:0").Listen...)
	c.Listen[1].Side = config.SideInside
	p := c.Pools["pbx"]
	p.IdentityHeader = "X-AUTH-IP"
	c.Pools["pbx"] = p
}

func TestSplice(t *testing.T) {
	for _, c := range spliceCases {
		t.Run(c.name, func(t *testing.T) {
			inLab(t, 1, spliceLab, func(t *testing.T, l *lab) {
				from, to := l.phone, l.pbx[0]
				if c.fromPBX {
					from, to = to, from
				}
				from.sends(l.named(c.in))
				method := c.method
				if method == "" {
					method = "INVITE"
					from.get("100 INVITE")
				}
				m := to.get(method)
				golden(t, filepath.Join("testdata/splice", strings.ReplaceAll(c.name, " ", "-")+".txt"), c.in, l.plain(m.Buf))
			})
		})
	}
}

// named puts addresses and tokens in the place of their names.
func (l *lab) named(s string) string {
	all := l.e.Listeners()
	tok := token{flow: dialogFlow(l.e.net.Listeners()[0].FlowTo(l.phone.addr)), backend: l.e.snap.Load().pools.Pool("pbx").Backends()[0].ID(), face: outerFace}
	outer := string(l.e.tokens.append(nil, tok))
	tok.face = innerFace
	inner := string(l.e.tokens.append(nil, tok))
	pairs := []string{"PHONE", l.phone.addr.String(), "PBX1", l.pbx[0].addr.String(), "<outer>", outer, "<inner>", inner, "<port>", fmt.Sprint(l.phone.addr.Port())}
	for i, x := range all {
		pairs = append(pairs, []string{"EDGE1", "EDGE2"}[i], x.Bound.String())
	}
	return strings.NewReplacer(pairs...).Replace(s)
}

// replyCases: requests that the edge answers itself, and responses that it makes.
var replyCases = []struct {
	name, want string
	change     func(*config.Config)
	in         string
}{
	{name: "100", want: "100 INVITE", in: `INVITE sip:bob@example.org SIP/2.0
Via: SIP/2.0/UDP 10.1.1.1;rport;branch=z9hG4bK1, SIP/2.0/UDP lower;branch=z9hG4bK0
Record-Route: <sip:lower;lr>
Timestamp: 54
Max-Forwards: 70
From: <sip:alice@example.org>;tag=a
To: Bob <sip:bob@example.org>
Call-ID: 1
CSeq: 1 INVITE
Content-Length: 4

v=0
`},
	{name: "483", want: "483 OPTIONS", in: `OPTIONS sip:bob@example.org SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
Timestamp: 54
Max-Forwards: 0
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>
Call-ID: 2
CSeq: 1 OPTIONS
Content-Length: 0

`},
	{name: "420", want: "420 INVITE", in: `INVITE sip:bob@example.org SIP/2.0
v: SIP/2.0/UDP PHONE;branch=z9hG4bK1
Proxy-Require: foo,
 bar
Proxy-Require: baz
Max-Forwards: 70
f: <sip:alice@example.org>;tag=a
t: sip:bob@example.org
i: 3
CSeq: 1 INVITE
Content-Length: 0

`},
	{name: "416", want: "416 INVITE", in: `INVITE http://example.org SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
Max-Forwards: 70
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>
Call-ID: 4
CSeq: 1 INVITE
Content-Length: 0

`},
	{name: "400", want: "400 INVITE", in: `INVITE sip:bob@example.org SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
Max-Forwards: 70
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>
Call-ID: 5
Call-ID: 6
CSeq: 1 INVITE
Content-Length: 0

`},
	{name: "400 garbage", want: "400 INVITE", in: `INVITE sip:bob@example.org SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
From: <sip:alice@example.org>;tag=a
X-Folded
	: before the colon
no colon here
To: <sip:bob@example.org>
To: <sip:bob@example.org>;tag=2
CSeq: 1 INVITE
CSeq: 2 INVITE
Call-ID: 6
From: <sip:mallory@example.org>;tag=m
bad name: x
Content-Length: 0

`},
	{name: "505", want: "505 INVITE", in: `INVITE sip:bob@example.org SIP/3.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>
Call-ID: 7
CSeq: 1 INVITE
Content-Length: 0

`},
	{name: "503", want: "503 INVITE", change: func(c *config.Config) {
		p := c.Pools["pbx"]
		p.Backends[0].State = "disabled"
		c.Pools["pbx"] = p
		c.ServerID = "edge/1"
	}, in: `INVITE sip:bob@example.org SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
Max-Forwards: 70
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>
Call-ID: 8
CSeq: 1 INVITE
Content-Length: 0

`},
	{name: "options to the edge", want: "200 OPTIONS", in: `OPTIONS sip:EDGE1 SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
Max-Forwards: 70
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>
Call-ID: 9
CSeq: 1 OPTIONS
Content-Length: 0

`},
	{name: "404 from the pbx", want: "404 INVITE", in: `INVITE sip:bob@EDGE1 SIP/2.0
Via: SIP/2.0/UDP PBX1;branch=z9hG4bK1
Max-Forwards: 70
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>
Call-ID: 10
CSeq: 1 INVITE
Content-Length: 0

`},
	{name: "403 foreign route", want: "403 INVITE", in: `INVITE sip:bob@example.org SIP/2.0
Via: SIP/2.0/UDP PHONE;branch=z9hG4bK1
Route: <sip:192.0.2.1;lr>
Max-Forwards: 70
From: <sip:alice@example.org>;tag=a
To: <sip:bob@example.org>
Call-ID: 11
CSeq: 1 INVITE
Content-Length: 0

`},
}

func TestReply(t *testing.T) {
	for _, c := range replyCases {
		t.Run(c.name, func(t *testing.T) {
			inLab(t, 1, c.change, func(t *testing.T, l *lab) {
				from := l.phone
				if strings.Contains(c.name, "from the pbx") {
					from = l.pbx[0]
				}
				from.sends(l.named(c.in))
				var m *wire.Msg
				for m = from.gets(); m != nil && m.Status == 100 && c.want[:3] != "100"; m = from.gets() {
				}
				if title(m) != c.want {
					t.Fatalf("got %s, want %s", title(m), c.want)
				}
				golden(t, filepath.Join("testdata/reply", strings.ReplaceAll(c.name, " ", "-")+".txt"), c.in, l.plain(m.Buf))
				if m.Status < 200 {
					return
				}
				from.sends(l.named(c.in)) // the same tag again
				again := from.gets()
				for again != nil && again.Status == 100 {
					again = from.gets()
				}
				if again == nil || string(again.Bytes(again.To.Tag)) != string(m.Bytes(m.To.Tag)) {
					t.Errorf("the copy is answered by %s", title(again))
				}
				if m.CSeqMethodID != wire.INVITE {
					return
				}
				req := &wire.Msg{}
				req.Scan([]byte(crlf(l.named(c.in))), false)
				from.sends(ackOf(req, m))
				l.pbx[0].nothing()
				from.nothing()
			})
		})
	}
}

// ackOf is the ACK for a failure, as 17.1.1.3 has it.
func ackOf(req, resp *wire.Msg) string {
	var b strings.Builder
	b.WriteString("ACK " + string(req.Bytes(req.RURI)) + " SIP/2.0\r\nVia: " + string(req.Bytes(req.TopVia.Value)) + "\r\n")
	b.WriteString("From: " + string(req.Bytes(req.From.Value)) + "\r\nTo: " + string(resp.Bytes(resp.To.Value)) + "\r\n")
	b.WriteString("Call-ID: " + string(req.Bytes(req.CallID)) + "\r\nMax-Forwards: 70\r\nCSeq: 1 ACK\r\nContent-Length: 0\r\n\r\n")
	return b.String()
}
