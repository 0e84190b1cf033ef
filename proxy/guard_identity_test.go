package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// forged are the ways to write a header that a PBX trusts. LF stands for CRLF.
var forged = []string{
	"X-AUTH-IP: 6.6.6.6\n",
	"x-auth-ip: 6.6.6.6\n",
	"X-Auth-Ip:6.6.6.6\n",
	"X-AUTH-IP \t : 6.6.6.6\n",
	"X-AUTH-IP:\n 6.6.6.6\n",
	"X-AUTH-IP:\n\t\n 6.6.6.6\n",
	"X-AUTH-IP: 1.1.1.1,\n 6.6.6.6\nX-AUTH-IP: 6.6.6.6\n",
	"X-AUTH-IP:\nx-auth-ip: 6.6.6.6\n",
	"X-AUTH-PORT: 6666\n",
	"P-Trusted: 6.6.6.6\n",
	"X-Pool-IP: 6.6.6.6\n",
}

func identity(c *config.Config) {
	c.Security.StripHeaders = append(c.Security.StripHeaders, "P-Trusted")
	p := c.Pools["pbx"]
	p.IdentityHeader = "X-Pool-IP"
	c.Pools["pbx"] = p
}

// clean checks that nothing of a forged header arrived, and that the header of the pool
// says where the message came from, in a request.
func clean(t *testing.T, l *lab, m *wire.Msg, from *peer) {
	t.Helper()
	text := string(m.Buf)
	if strings.Contains(text, "6.6.6.6") || strings.Contains(text, "6666") {
		t.Errorf("a forged header arrived:\n%s", text)
	}
	want := 0
	if m.IsRequest() && from != nil {
		want = 1
	}
	if n := strings.Count(text, "X-Pool-IP: 127.0.0.9\r\n"); n != want {
		t.Errorf("%d headers of ours, want %d:\n%s", n, want, text)
	}
}

// A header that the PBX trusts is never passed from outside: in any spelling, in any
// message of a call.
func TestIdentityHeadersFromOutsideAreRemoved(t *testing.T) {
	for _, lines := range forged {
		t.Run(fmt.Sprintf("%.20q", lines), func(t *testing.T) {
			underGuard(t, 1, identity, func(t *testing.T, l *lab) {
				c := l.talks(lines, "")
				clean(t, l, c.invite, l.phone)
				c.next(sideA, "INVITE", lines, sdpA)
				l.phone.get("100 INVITE")
				again := l.pbx[0].get("INVITE")
				clean(t, l, again, l.phone)
				l.pbx[0].sends(c.reply(again, 200, "Contact: <sip:bob@"+l.pbx[0].addr.String()+">\n", sdpB))
				l.phone.get("200 INVITE")
				c.from(sideA, "ACK", c.cseq[sideA], lines, "")
				clean(t, l, l.pbx[0].get("ACK"), l.phone)
				for _, method := range []string{"INFO", "UPDATE", "MESSAGE", "REFER", "NOTIFY"} {
					clean(t, l, c.asks(sideA, method, lines, "", 200, ""), l.phone)
				}
				// The other direction: what the phone answers.
				for _, method := range []string{"INFO", "BYE"} {
					c.next(sideB, method, "", "")
					req := l.phone.get(method)
					l.phone.sends(c.reply(req, 200, lines, ""))
					clean(t, l, l.pbx[0].get("200 "+method), nil)
				}
			})
		})
	}
	for _, lines := range forged {
		t.Run(fmt.Sprintf("called %.20q", lines), func(t *testing.T) {
			underGuard(t, 1, identity, func(t *testing.T, l *lab) {
				for _, status := range []int{180, 200, 302, 407, 486, 603} {
					c := l.pbx[0].call()
					c.uri = "sip:alice@" + l.phone.addr.String()
					c.sends("INVITE")
					l.pbx[0].get("100 INVITE")
					inv := l.phone.get("INVITE")
					l.phone.answers(inv, status, "b", crlf(lines))
					clean(t, l, l.pbx[0].get(fmt.Sprint(status, " INVITE")), nil)
					l.phone.skip()
					pass(time.Second)
					l.pbx[0].skip()
				}
				// A CANCEL whose INVITE nobody knows is passed without a transaction.
				c := l.phone.call()
				c.more = lines
				c.sends("CANCEL")
				clean(t, l, l.pbx[0].get("CANCEL"), l.phone)
				for _, method := range []string{"REGISTER", "SUBSCRIBE", "OPTIONS", "PUBLISH", "FOO"} {
					c := l.phone.call()
					c.more = lines
					c.sends(method)
					clean(t, l, l.pbx[0].get(method), l.phone)
				}
			})
		})
	}
}

// What the edge reads as part of another line a PBX might read as a header: such
// messages do not pass at all.
func TestIdentityHeadersCannotBeSmuggled(t *testing.T) {
	for _, x := range []string{
		"Subject: x\rX-AUTH-IP: 6.6.6.6\r\n",
		"Subject: x\nX-AUTH-IP: 6.6.6.6\r\n",
		"Subject: x\r\r\nX-AUTH-IP: 6.6.6.6\r\n",
		"Subject: x\n\rX-AUTH-IP: 6.6.6.6\r\n",
		"Subject: x\x00X-AUTH-IP: 6.6.6.6\r\n",
		"Subject: x\x0bX-AUTH-IP: 6.6.6.6\r\n",
		"X-AUTH-IP\x00: 6.6.6.6\r\n",
		"X-AUTH-IP\r\n : 6.6.6.6\r\n",
		"X-AUTH-IP\r: 6.6.6.6\r\n",
		"\x00X-AUTH-IP: 6.6.6.6\r\n",
		": x\r\nX-AUTH-IP: 6.6.6.6\r\n",
		"\xefX-AUTH-IP: 6.6.6.6\r\n",
		" X-AUTH-IP: 6.6.6.6\r\n", // a fold of the line before, unless that is the first
		"X-AUTH-IP; 6.6.6.6\r\nX-AUTH-IP: 6.6.6.6\r\n",
	} {
		for _, isFirst := range []bool{true, false} {
			t.Run(fmt.Sprintf("%q %v", x, isFirst), func(t *testing.T) {
				underGuard(t, 1, nil, func(t *testing.T, l *lab) {
					l.faulty = true
					lines := crlf(fmt.Sprintf("Via: SIP/2.0/UDP %s;rport;branch=z9hG4bK1\nMax-Forwards: 70\nFrom: <sip:a@b>;tag=a\nTo: <sip:b@c>\nCall-ID: 1\nCSeq: 1 INVITE\n", l.phone.addr))
					text := "INVITE sip:bob@example.org SIP/2.0\r\n" + lines + x + "Content-Length: 0\r\n\r\n"
					if isFirst {
						text = "INVITE sip:bob@example.org SIP/2.0\r\n" + x + lines + "Content-Length: 0\r\n\r\n"
					}
					l.e.Receive(&transport.Packet{Flow: l.e.net.Listeners()[0].FlowTo(l.phone.addr), Data: []byte(text)})
					m := l.pbx[0].gets()
					if m == nil {
						return
					}
					if i := namedHeader(m, "X-AUTH-IP"); i >= 0 || strings.Contains(string(m.Buf), "6.6.6.6") && !strings.Contains(string(m.Buf), "INVITE\r\n X-AUTH-IP: 6.6.6.6\r\n") {
						t.Errorf("arrived:\n%q", m.Buf)
					}
				})
			})
		}
	}
}

func namedHeader(m *wire.Msg, name string) int {
	for i, h := range m.Headers {
		if strings.EqualFold(string(m.Bytes(h.Name)), name) {
			return i
		}
	}
	return -1
}

// Among themselves, backends may say what they like.
func TestIdentityHeadersOfBackendsStay(t *testing.T) {
	underGuard(t, 2, identity, func(t *testing.T, l *lab) {
		c := l.pbx[0].call()
		c.more = "X-AUTH-IP: 10.0.0.1\n"
		c.uri = "sip:bob@" + l.pbx[1].addr.String()
		c.sends("INVITE")
		l.pbx[0].get("100 INVITE")
		m := l.pbx[1].get("INVITE")
		if namedHeader(m, "X-AUTH-IP") < 0 {
			t.Errorf("%s", m.Buf)
		}
		l.pbx[1].answers(m, 200, "b", "X-AUTH-IP: 10.0.0.2\r\n")
		if m := l.pbx[0].get("200 INVITE"); namedHeader(m, "X-AUTH-IP") < 0 {
			t.Errorf("%s", m.Buf)
		}
	})
}
