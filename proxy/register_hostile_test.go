package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/security"
)

// TestEveryRegisterIsEnrolled: whatever a REGISTER from outside claims to be part of, the
// registrar does not get a Contact that leads around the edge.
func TestEveryRegisterIsEnrolled(t *testing.T) {
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		pbx, mallory := l.pbx[0], l.phone.handset("mallory")
		own := string(l.e.tokens.append(nil, token{flow: l.dialogFlowTo(mallory.addr), backend: l.e.snap.Load().pools.Pool("pbx").Backends()[0].ID()}))
		for name, more := range map[string]string{
			"plain":              "",
			"Route to the edge":  "Route: <sip:" + l.edge().String() + ";lr>\n",
			"Route to the PBX":   "Route: <sip:" + pbx.addr.String() + ";lr>\n",
			"both":               "Route: <sip:" + l.edge().String() + ";lr>, <sip:" + pbx.addr.String() + ";lr>\n",
			"a strict router":    "Route: <sip:" + l.edge().String() + ";lr>, <sip:" + pbx.addr.String() + ">\n",
			"token of a call":    "Route: <sip:" + own + "@" + l.edge().String() + ";lr>\n",
			"token, then PBX":    "Route: <sip:" + own + "@" + l.edge().String() + ";lr>, <sip:" + pbx.addr.String() + ";lr>\n",
			"a name nobody told": "Route: <sip:proxy.example.net;lr>\n",
			"a stranger":         "Route: <sip:192.0.2.9;lr>\n",
			"PBX and a stranger": "Route: <sip:" + pbx.addr.String() + ";lr>, <sip:192.0.2.9;lr>\n",
			"edge, a stranger":   "Route: <sip:" + l.edge().String() + ";lr>, <sip:192.0.2.9;lr>\n",
			"Path to a stranger": "Path: <sip:192.0.2.9;lr>\n",
		} {
			for _, tag := range []string{"", ";tag=x"} {
				mallory.more = more
				text := strings.Replace(mallory.register("<sip:victim@192.0.2.1:80>"), "To: <sip:"+mallory.aor+">", "To: <sip:"+mallory.aor+">"+tag, 1)
				mallory.sends(text)
				asked := pbx.getsWithin(50)
				if asked == nil {
					if got := title(mallory.gets()); !strings.HasPrefix(got, "4") {
						t.Errorf("%s%s: %s", name, tag, got)
					}
					continue
				}
				if strings.Contains(string(asked.Buf), "192.0.2.") || asked.First(wire.KindRoute) >= 0 {
					t.Errorf("%s%s: the registrar is sent\n%s", name, tag, asked.Buf)
				}
				pbx.answers(asked, 200, "r", keeps(asked)...)
				mallory.get("200 REGISTER")
			}
		}
		pass(time.Minute)
	})
}

// TestOneTokenDoesNotOpenAnother: who holds the token of the other party, as a route set
// shows it where the PBX is a proxy, does not reach that party with his own in front.
func TestOneTokenDoesNotOpenAnother(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		mallory, victim := l.newPeer("MALLORY"), l.newPeer("VICTIM")
		id := l.e.snap.Load().pools.Pool("pbx").Backends()[0].ID()
		uri := func(tok token) string {
			return "<sip:" + string(l.e.tokens.append(nil, tok)) + "@" + l.edge().String() + ";lr>"
		}
		own := uri(token{flow: l.dialogFlowTo(mallory.addr), backend: id, caller: l.e.tokens.tagHash([]byte("b")), isCallee: true})
		theirs := uri(token{flow: l.dialogFlowTo(victim.addr), backend: id, caller: l.e.tokens.tagHash([]byte("a")), isCallee: true})
		for _, route := range []string{theirs, own + ", " + theirs, theirs + ", " + own + ", " + theirs, theirs + ", " + own} {
			for _, tag := range []string{"", "b"} {
				for _, method := range []string{"INVITE", "MESSAGE", "BYE"} {
					c := mallory.call()
					c.uri, c.to, c.route = "sip:victim@"+victim.addr.String(), tag, "Route: "+route+"\n"
					c.sends(method)
					victim.nothing()
				}
			}
		}
		mallory.skip()
		l.pbx[0].skip()
		pass(time.Minute)
	})
}

// TestNobodyTurnsARegistrarIntoOneWithoutPath: what one phone asks for does not change how
// others are registered.
func TestNobodyTurnsARegistrarIntoOneWithoutPath(t *testing.T) {
	for _, x := range []struct {
		name, contact string
		lines         []string
	}{
		{"taken back", "<sip:alice@192.168.1.20>;expires=0", []string{"Contact: <sip:alice@192.168.1.77>;expires=60\r\n"}},
		{"not listed", "<sip:alice@192.168.1.20>;expires=60", []string{"Contact: <sip:alice@192.168.1.77>;expires=60\r\n"}},
		{"listed as over", "<sip:alice@192.168.1.20>;expires=60", []string{"Contact: <sip:alice@192.168.1.20>;expires=0\r\n"}},
		{"no SIP", "<tel:+4930123>;expires=60", []string{"Contact: <tel:+4930123>;expires=60\r\n"}},
		// Asterisk keeps no Path of a phone whose user part is not the name of its AOR.
		{"another user part", "<sip:x@192.168.1.20>;expires=60", []string{"Contact: <sip:x@192.168.1.20>;expires=60\r\n"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			inLab(t, 1, mode("auto", true), func(t *testing.T, l *lab) {
				pbx, alice, bob := l.pbx[0], l.phone.handset("alice"), l.newPeer("BOB").handset("bob")
				alice.sends(alice.register(x.contact))
				pbx.answers(pbx.get("REGISTER"), 200, "r", x.lines...)
				alice.get("200 REGISTER")
				if asked, _ := bob.registers(pbx, "<sip:bob@192.168.1.30>"); asked.First(wire.KindPath) < 0 {
					t.Errorf("another phone is registered as\n%s", asked.Buf)
				}
				pass(time.Minute)
			})
		})
	}
}

// TestRegistrationProvesNoPassword: a registrar that lets everybody in makes nobody known who
// may have forged his address.
func TestRegistrationProvesNoPassword(t *testing.T) {
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		alice := l.phone.handset("alice")
		alice.registers(l.pbx[0], "<sip:alice@192.168.1.20>;expires=86400")
		src := security.SourceOf(alice.addr.Addr())
		if l.e.guard.Known.Source(src, l.e.wheel.Now()) {
			t.Error("known without a password")
		}
		l.e.guard.Known.Succeeded(src, "alice@example.org", l.e.wheel.Now())
		alice.registers(l.pbx[0], "<sip:alice@192.168.1.20>;expires=86400")
		pass(2 * time.Hour)
		if !l.e.guard.Known.Source(src, l.e.wheel.Now()) {
			t.Error("not known as long as it is registered")
		}
	})
}

// TestTokensInForeignAnswersStay: only the answer of a registrar of ours is put back. The PBX
// registers at a carrier as if there were no edge.
func TestTokensInForeignAnswersStay(t *testing.T) {
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		pbx, carrier := l.pbx[0], l.newPeer("CARRIER")
		asked, _ := l.phone.handset("alice").registers(pbx, "<sip:alice@192.168.1.20>")
		shown := uriIn(asked, wire.KindContact)
		const contact = "Contact: <sip:trunk@10.0.0.5:5060>;expires=300\n"
		pbx.sends(fmt.Sprintf("REGISTER sip:%s SIP/2.0\nVia: SIP/2.0/UDP %s;branch=z9hG4bK-out\nMax-Forwards: 70\nFrom: <sip:trunk@c>;tag=a\nTo: <sip:trunk@c>\nCall-ID: out\nCSeq: 1 REGISTER\n%sContent-Length: 0\n\n",
			carrier.addr, pbx.addr, contact))
		req := carrier.get("REGISTER")
		if s := string(req.Buf); !strings.Contains(s, crlf(contact)) || strings.Contains(s, "Path") || strings.Contains(s, "Supported") {
			t.Errorf("the carrier is sent\n%s", s)
		}
		line := "Contact: <" + shown + ">;expires=300\r\n"
		carrier.answers(req, 200, "c", line)
		if s := string(pbx.get("200 REGISTER").Buf); !strings.Contains(s, line) {
			t.Errorf("the PBX gets\n%s", s)
		}
		if n := l.e.bindings.Len(); n != 1 {
			t.Errorf("%d bindings", n)
		}
		pass(time.Minute)
	})
}

// TestContactOfOursInStrangeRequests: a backend may combine what we wrote in ways that make no
// sense. What goes out is sound all the same.
func TestContactOfOursInStrangeRequests(t *testing.T) {
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		pbx, alice := l.pbx[0], l.phone.handset("alice")
		asked, _ := alice.registers(pbx, "<sip:alice@192.168.1.20:5060>;expires=60")
		shown := uriIn(asked, wire.KindContact)
		own := "sip:" + string(l.e.tokens.append(nil, token{flow: l.dialogFlowTo(alice.addr)})) + "@" + l.edge().String()
		for name, c := range map[string]*call{
			"maddr":           pbx.callsTo(shown+";maddr=127.0.0.1", ""),
			"strict router":   pbx.callsTo(own+";lr", shown),
			"Path of another": pbx.callsTo(shown, shown+";lr"),
			"a Route behind":  pbx.callsTo(shown, shown+";lr>, <sip:"+alice.addr.String()),
		} {
			c.sends("INVITE")
			pbx.skip()
			m := alice.gets()
			if m == nil {
				continue // refused
			}
			if u, ok := wire.ParseURI(m.Bytes(m.RURI)); !ok || strings.Count(string(m.Buf), "\r\n\r\n") != 1 || string(u.Host) == "" {
				t.Errorf("%s: the phone is sent\n%s", name, m.Buf)
			}
			alice.answers(m, 486, "p")
			pbx.skip()
			alice.skip()
		}
		pass(2 * time.Minute)
		l.atRest()
	})
}

// TestHostileAddressOfRecord: what is kept of a To must not become lines of a ping.
func TestHostileAddressOfRecord(t *testing.T) {
	inLab(t, 1, func(c *config.Config) {
		mode("contact", false)(c)
		c.Registration.Ping = "options"
	}, func(t *testing.T, l *lab) {
		for _, to := range []string{
			"<sip:al\n ice@example.org>", "<sip:al\r\n X-Evil: 1\r\n ice@example.org>", "sip:a>b@example.org", "<sip:a<b@example.org>", "\"<sip:x@y>\" <sip:a\"b@example.org>",
			"<sip:a\tb@example.org>", "<sip:a b@example.org>", "<sip:a\x00b@example.org>", "<sip:alice@example.org\n >",
		} {
			h := l.phone.handset("alice")
			h.sends(strings.Replace(h.register("<sip:alice@192.168.1.20>;expires=60"), "To: <sip:alice@example.org>", "To: "+to, 1))
			asked := l.pbx[0].gets()
			if asked == nil {
				l.phone.skip()
				continue
			}
			l.pbx[0].answers(asked, 200, "r", keeps(asked)...)
			l.phone.skip()
			pass(45 * time.Second)
			for m := l.phone.gets(); m != nil; m = l.phone.gets() { // a broken one is an error
				if u, ok := wire.ParseURI(m.Bytes(m.To.URI)); !ok || strings.ContainsAny(string(u.User), "\r\n<> \t\x00") {
					t.Errorf("%q: pinged with\n%s", to, m.Buf)
				}
			}
			pass(time.Minute)
		}
	})
}

// TestEnrolmentsAreWeighed: what waits for registrars counts as memory, and goes with the answer.
func TestEnrolmentsAreWeighed(t *testing.T) {
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		alice := l.phone.handset("alice")
		var all []string
		for i := range maxContacts {
			all = append(all, fmt.Sprintf("<sip:alice@192.168.1.20:%d;x=%s>", 5060+i, strings.Repeat("y", 40)))
		}
		alice.sends(alice.register(strings.Join(all, ", ")))
		asked := l.pbx[0].get("REGISTER")
		c := l.context()
		if n := l.e.held.Load(); n < int64(2*len(asked.Buf)) {
			t.Errorf("%d bytes held for a REGISTER of %d", n, len(asked.Buf))
		}
		l.pbx[0].answers(asked, 403, "r")
		alice.get("403 REGISTER")
		c.mu.Lock()
		if c.route.enrols != nil {
			t.Error("kept after the answer")
		}
		c.mu.Unlock()
		pass(time.Minute)
		l.atRest()
		if n := l.e.held.Load(); n != 0 {
			t.Errorf("%d bytes held", n)
		}
	})
}
