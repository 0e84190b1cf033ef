package proxy

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/security"
)

// TestContactsOfOneInstance: phones take their old Contact back and write the new one in the
// same REGISTER, in any order, with the same instance.
func TestContactsOfOneInstance(t *testing.T) {
	const was, is = "<sip:alice@192.168.1.20:5060>" + instance, "<sip:alice@192.168.1.99:5060>" + instance
	for _, path := range []bool{false, true} {
		for _, order := range [][]string{{was + ";expires=0", is + ";expires=600"}, {is + ";expires=600", was + ";expires=0"}} {
			t.Run(fmt.Sprint(path, order), func(t *testing.T) {
				m := "contact"
				if path {
					m = "path"
				}
				inLab(t, 1, mode(m, false), func(t *testing.T, l *lab) {
					pbx, alice := l.pbx[0], l.phone.handset("alice")
					asked, _ := alice.registers(pbx, was+";expires=600")
					before := uriIn(asked, wire.KindContact)
					asked, _ = alice.registers(pbx, order...)
					if got := strings.Count(string(asked.Buf), "expires=0"); got != 1 || !strings.Contains(string(asked.Buf), "<"+before+">"+instance+";expires=0") {
						t.Errorf("the registrar was told\n%s", asked.Buf)
					}
					x := l.e.Registrations(RegistrationFilter{})
					if len(x) != 1 || x[0].Contact != "sip:alice@192.168.1.99:5060" || time.Until(x[0].Expires) < 590*time.Second {
						t.Errorf("%+v", x)
					}
					if path {
						c := pbx.callsTo("sip:alice@192.168.1.99:5060", uriIn(asked, wire.KindPath))
						tok, _ := wire.ParseURI([]byte(uriIn(asked, wire.KindPath)))
						if got, _ := l.e.tokens.parseFlow(tok.User); fmt.Sprintf("%016x", uint64(got.binding)) != x[0].ID {
							t.Errorf("the Path is that of %x", got.binding)
						}
						c.sends("OPTIONS")
						alice.answers(alice.get("OPTIONS"), 200, "p")
						pbx.get("200 OPTIONS")
					}
					pass(time.Minute)
				})
			})
		}
	}
}

// TestTwoContactsOfOneInstance: without reg-id they are two (RFC 5626 6, RFC 3261 10.3).
func TestTwoContactsOfOneInstance(t *testing.T) {
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		pbx, alice := l.pbx[0], l.phone.handset("alice")
		const a, b = "<sip:alice@192.168.1.20:5060>" + instance, "<sip:alice@192.168.1.20:5062>" + instance
		for range 3 {
			asked, _ := alice.registers(pbx, a, b)
			if n := l.e.bindings.Len(); n != 2 || strings.Contains(string(asked.Buf), "expires=0") {
				t.Errorf("%d bindings, the registrar was told\n%s", n, asked.Buf)
			}
		}
		alice.more = "Expires: 0\n"
		alice.registers(pbx, a, b)
		if n := l.e.bindings.Len(); n != 0 {
			t.Errorf("%d bindings", n)
		}
		alice.more = ""
		alice.registers(pbx, a, a)
		if n := l.e.bindings.Len(); n != 1 {
			t.Errorf("%d bindings", n)
		}
		pass(time.Minute)
	})
}

// TestAnswersThatCross: the REGISTER that came last counts, whichever answer comes last.
func TestAnswersThatCross(t *testing.T) {
	const contact = "<sip:alice@192.168.1.20>"
	for _, first := range []string{contact + ";expires=0", "*"} {
		t.Run(first, func(t *testing.T) {
			inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
				pbx, alice := l.pbx[0], l.phone.handset("alice")
				alice.registers(pbx, contact)
				pass(time.Second)
				if first == "*" {
					alice.more = "Expires: 0\n"
				}
				alice.sends(alice.register(first))
				away := pbx.get("REGISTER")
				pass(50 * time.Millisecond)
				alice.more = ""
				alice.registers(pbx, contact)
				pbx.answers(away, 200, "r")
				alice.get("200 REGISTER")
				if n := l.e.bindings.Len(); n != 1 {
					t.Errorf("%d bindings", n)
				}
				pass(time.Minute)
			})
		})
	}
}

// TestUnregisteredStaysSo: whatever of the REGISTERs before comes after the answer to the one that took the contacts away.
func TestUnregisteredStaysSo(t *testing.T) {
	const contact, other = "<sip:alice@192.168.1.20>", "<sip:alice@192.168.1.21>"
	for _, m := range []string{"contact", "path"} {
		for _, c := range []struct {
			name string
			away []string
			left int
		}{
			{"each", []string{contact + ";expires=0", other + ";expires=0"}, 0},
			{"one of two", []string{other + ";expires=0"}, 1},
			{"all", []string{"*"}, 0},
		} {
			t.Run(m+" "+c.name, func(t *testing.T) {
				inLab(t, 1, mode(m, false), func(t *testing.T, l *lab) {
					pbx, alice := l.pbx[0], l.phone.handset("alice")
					text := alice.register(contact, other)
					alice.sends(text)
					first := pbx.get("REGISTER")
					pass(50 * time.Millisecond)
					alice.more = "Expires: 0\n"
					alice.sends(alice.register(c.away...))
					away := pbx.get("REGISTER")
					pbx.answers(away, 200, "r")
					alice.get("200 REGISTER")
					pbx.answers(first, 200, "r", keeps(first)...)
					alice.get("200 REGISTER")
					pbx.answers(first, 200, "r", keeps(first)...) // twice
					alice.sends(text)                             // it was on its way for long
					alice.get("200 REGISTER")
					pbx.nothing()
					if n := l.e.bindings.Len(); n != c.left {
						t.Errorf("%d bindings, want %d", n, c.left)
					}
					alice.id, alice.cseq, alice.more = alice.id+"-anew", 0, ""
					alice.registers(pbx, contact, other)
					if n := l.e.bindings.Len(); n != 2 {
						t.Errorf("%d bindings of a phone that came back", n)
					}
					pass(time.Minute)
				})
			})
		}
	}
}

// TestTwoPhonesOfOneContact: behind two NATs, without an instance, they are one (RFC 3261 10.3), and the operator can see it.
func TestTwoPhonesOfOneContact(t *testing.T) {
	const contact = "<sip:alice@192.168.1.20:5060>"
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		pbx, home := l.pbx[0], l.phone.handset("alice")
		office := l.newPeer("OFFICE").handset("alice")
		shown := ""
		for i := range 4 {
			for _, h := range []*handset{home, office} {
				asked, _ := h.registers(pbx, contact)
				if isTold := strings.Contains(string(asked.Buf), "Contact: <"+shown+">;expires=0\r\n"); isTold != (shown != "") {
					t.Errorf("the registrar was told\n%s", asked.Buf)
				}
				shown = uriIn(asked, wire.KindContact)
				x := l.e.Registrations(RegistrationFilter{})
				if len(x) != 1 || x[0].Flow != "udp:"+h.addr.String() || x[0].Shown != shown {
					t.Errorf("%+v", x)
				}
				if isSeen := strings.Contains(x[0].Why, "two phones"); isSeen != (i > 1 || i == 1 && h == office) {
					t.Errorf("round %d: %s", i, x[0].Why)
				}
				pass(time.Second)
			}
		}
		c := pbx.callsTo(shown, "")
		c.sends("INVITE")
		office.answers(office.get("INVITE"), 486, "p")
		pbx.get("100 INVITE")
		pbx.get("486 INVITE")
		office.get("ACK")
		home.nothing()
		pass(2 * time.Minute)
	})
}

// TestOtherPhonesOfOneContact: behind two NATs phones may have one private address, and a phone the same Contact on two
// flows (RFC 5626 4.2). The answer lists all of them, each with its own time.
func TestOtherPhonesOfOneContact(t *testing.T) {
	const contact = "<sip:alice@192.168.1.20:5060>"
	for _, c := range []struct{ name, own, other string }{
		{"another instance", contact + `;+sip.instance="<urn:uuid:1>"`, contact + `;+sip.instance="<urn:uuid:2>"`},
		{"another flow of this one", contact + `;reg-id=2;+sip.instance="<urn:uuid:1>"`, contact + `;+sip.instance="<urn:uuid:1>";reg-id=1`},
		{"one with an instance", contact, contact + `;+sip.instance="<urn:uuid:2>"`},
		{"other parameters", contact, "<sip:alice@192.168.1.20:5060;transport=tcp>"},
	} {
		for _, last := range []bool{false, true} {
			t.Run(fmt.Sprint(c.name, last), func(t *testing.T) {
				inLab(t, 1, mode("path", false), func(t *testing.T, l *lab) {
					pbx, alice := l.pbx[0], l.phone.handset("alice")
					alice.sends(alice.register(c.own))
					asked := pbx.get("REGISTER")
					lines := []string{"Contact: " + c.other + ";expires=20, " + c.own + ";expires=600\r\n"}
					if last {
						lines[0] = "Contact: " + c.own + ";expires=600, " + c.other + ";expires=20\r\n"
					}
					pbx.answers(asked, 200, "r", append(lines, "Path: "+string(asked.Value(wire.KindPath))+"\r\n")...)
					alice.get("200 REGISTER")
					x := l.e.Registrations(RegistrationFilter{})
					if len(x) != 1 || time.Until(x[0].Expires) < 590*time.Second {
						t.Errorf("%+v", x)
					}
					pass(time.Minute)
				})
			})
		}
	}
}

// TestModeThatChanges: what the registrar has of the other mode is taken back, else a phone
// would be called twice.
func TestModeThatChanges(t *testing.T) {
	const raw = "sip:alice@192.168.1.20"
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		pbx, alice := l.pbx[0], l.phone.handset("alice")
		reload := func(m string) {
			c := *l.e.snap.Load().config
			c.Registration.Mode = m
			if err := l.e.Reload(&c); err != nil {
				t.Fatal(err)
			}
		}
		told := func(asked *wire.Msg, takenBack string) {
			t.Helper()
			if n := strings.Count(string(asked.Buf), "expires=0"); takenBack == "" && n != 0 || takenBack != "" && (n != 1 || !strings.Contains(string(asked.Buf), "Contact: <"+takenBack+">;expires=0\r\n")) {
				t.Errorf("the registrar was told, not to forget %q,\n%s", takenBack, asked.Buf)
			}
		}
		asked, _ := alice.registers(pbx, "<"+raw+">")
		shown := uriIn(asked, wire.KindContact)
		reload("path")
		asked, _ = alice.registers(pbx, "<"+raw+">")
		told(asked, shown)
		asked, _ = alice.registers(pbx, "<"+raw+">")
		told(asked, "")
		reload("contact")
		asked, _ = alice.registers(pbx, "<"+raw+">")
		told(asked, raw)
		reload("path")
		alice.more = "Expires: 0\n"
		alice.sends(alice.register("<" + raw + ">"))
		asked = pbx.get("REGISTER")
		told(asked, shown)
		pbx.answers(asked, 200, "r")
		alice.get("200 REGISTER")
		if n := l.e.bindings.Len(); n != 0 {
			t.Errorf("%d bindings", n)
		}
		pass(time.Minute)
	})
}

// TestPathOfContactsThatAreNoSIP: such a Path names no binding, and leads to nobody else's flow.
func TestPathOfContactsThatAreNoSIP(t *testing.T) {
	inLab(t, 1, mode("path", false), func(t *testing.T, l *lab) {
		pbx, alice, bob := l.pbx[0], l.phone.handset("alice"), l.phone.handset("bob")
		asked, _ := alice.registers(pbx, "<tel:+4930123>")
		bob.registers(pbx, "<sip:bob@192.168.1.20>"+instance)
		bob.peer = l.newPeer("MOVED")
		pass(time.Second)
		bob.registers(pbx, "<sip:bob@192.168.1.20>"+instance)
		c := pbx.callsTo("tel:+4930123", uriIn(asked, wire.KindPath))
		c.sends("OPTIONS")
		bob.nothing()
		alice.answers(alice.get("OPTIONS"), 200, "p")
		pbx.get("200 OPTIONS")

		asked, _ = alice.registers(pbx, "<tel:+4930123>, <sip:alice@192.168.1.20>")
		u, _ := wire.ParseURI([]byte(uriIn(asked, wire.KindPath)))
		if tok, _ := l.e.tokens.parseFlow(u.User); tok.binding == 0 {
			t.Error("the Path names nobody")
		}
		pass(time.Minute)
	})
}

// TestRegistrarThatTakesOneContact: it refuses the line that takes an old Contact back; the
// phone is registered all the same.
func TestRegistrarThatTakesOneContact(t *testing.T) {
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		pbx, alice := l.pbx[0], l.phone.handset("alice")
		alice.registers(pbx, "<sip:alice@192.168.1.20>"+instance)
		alice.peer = l.newPeer("MOVED")
		alice.sends(alice.register("<sip:alice@192.168.1.20>" + instance))
		asked := pbx.get("REGISTER")
		if asked.CountValues(wire.KindContact) != 2 {
			t.Fatalf("%s", asked.Buf)
		}
		pbx.answers(asked, 400, "r")
		alice.get("400 REGISTER")
		asked, _ = alice.registers(pbx, "<sip:alice@192.168.1.20>"+instance)
		if asked.CountValues(wire.KindContact) != 1 {
			t.Errorf("it is told again\n%s", asked.Buf)
		}
		if x := l.e.Registrations(RegistrationFilter{}); len(x) != 1 || !strings.Contains(x[0].Flow, alice.addr.String()) {
			t.Errorf("%+v", x)
		}
		pass(time.Minute)
	})
}

// TestRefusedRegisterTeachesNothing: only a 2xx does (RFC 3261 10.3).
func TestRefusedRegisterTeachesNothing(t *testing.T) {
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		pbx, alice, mallory := l.pbx[0], l.phone.handset("alice"), l.newPeer("MALLORY").handset("alice")
		alice.registers(pbx, "<sip:alice@192.168.1.20>")
		before := l.e.Registrations(RegistrationFilter{})
		for _, status := range []int{300, 302, 401, 403, 404, 407, 423, 500, 600} {
			for _, contact := range []string{"<sip:alice@192.168.1.20>", "<sip:alice@192.168.1.20>;expires=0", "*"} {
				mallory.more = ""
				if contact == "*" {
					mallory.more = "Expires: 0\n"
				}
				mallory.sends(mallory.register(contact))
				asked := pbx.get("REGISTER")
				pbx.answers(asked, status, "r", append(keeps(asked), "Min-Expires: 60\r\n")...)
				if got := mallory.get(fmt.Sprint(status, " REGISTER")); status == 423 && !strings.Contains(string(got.Buf), "Min-Expires: 60\r\n") {
					t.Errorf("%s", got.Buf)
				}
			}
		}
		after := l.e.Registrations(RegistrationFilter{})
		if len(after) != 1 || after[0].Flow != before[0].Flow || after[0].Expires.Sub(before[0].Expires).Abs() > 20*time.Millisecond {
			t.Errorf("%+v", after)
		}
		pass(time.Minute)
	})
}

// TestAllButNotAll: "*" with another expiry than 0, or with other Contacts, is none
// (RFC 3261 10.2.2), whatever a registrar says.
func TestAllButNotAll(t *testing.T) {
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		pbx, alice := l.pbx[0], l.phone.handset("alice")
		alice.registers(pbx, "<sip:alice@192.168.1.20>")
		for _, more := range []string{"", "Expires: 60\n"} {
			alice.more = more
			alice.sends(alice.register("*"))
			if asked := pbx.gets(); asked != nil {
				pbx.answers(asked, 200, "r")
			}
			alice.gets()
			if n := l.e.bindings.Len(); n != 1 {
				t.Errorf("%d bindings", n)
			}
		}
		pass(time.Minute)
	})
}

// TestPhoneWithoutInstanceComesBack: over another connection it writes another port, and is the
// same phone all the same.
func TestPhoneWithoutInstanceComesBack(t *testing.T) {
	for _, m := range []string{"contact", "path"} {
		t.Run(m, func(t *testing.T) {
			l, pbx := startedWithPBX(t, mode(m, false))
			phone := l.mobile(pbx)
			before := phone.registers("")
			route := phone.path
			id := l.e.Registrations(RegistrationFilter{})[0].ID
			_ = phone.reconnects().Close()
			awaits(func() bool {
				x := l.e.Registrations(RegistrationFilter{})
				return len(x) == 1 && x[0].State == "closed"
			})
			now := phone.registers("")
			x := l.e.Registrations(RegistrationFilter{})
			if len(x) != 1 || x[0].ID == id || x[0].State != "registered" || x[0].Former == "" {
				t.Errorf("%+v", x)
			}
			if isTold := strings.Contains(string(phone.asked.Buf), "Contact: <"+before+">;expires=0\r\n"); !isTold {
				t.Errorf("the registrar was told\n%s", phone.asked.Buf)
			}
			for _, uri := range []string{now, before} {
				c := pbx.callsTo(uri, "")
				if m == "path" {
					c.route = "Route: <" + route + ">\n"
				}
				l.sendUDP(pbx, c.text("INVITE"))
				pbx.get("100 INVITE")
				req := phone.get("INVITE")
				if m == "contact" && !strings.Contains(string(req.Bytes(req.RURI)), phone.conn.LocalAddr().String()) {
					t.Errorf("called as %s", req.Bytes(req.RURI))
				}
				phone.sends(response(req, 486, "p"))
				pbx.get("486 INVITE")
				phone.get("ACK")
			}
		})
	}
}

// TestPhoneWithoutInstanceComesBackToLeave: what it left behind with the connection before is taken back at the registrar,
// and followed no more.
func TestPhoneWithoutInstanceComesBackToLeave(t *testing.T) {
	for _, m := range []string{"contact", "path"} {
		t.Run(m, func(t *testing.T) {
			l, pbx := startedWithPBX(t, func(c *config.Config) {
				mode(m, false)(c)
				c.Registration.ClosedGrace = config.Duration(5 * time.Minute)
			})
			phone := l.mobile(pbx)
			before := phone.registers("")
			_ = phone.reconnects().Close()
			awaits(func() bool {
				x := l.e.Registrations(RegistrationFilter{})
				return len(x) == 1 && x[0].State == "closed"
			})
			phone.last = 0
			phone.registers("")
			if isTold := strings.Contains(string(phone.asked.Buf), "<"+before+">;expires=0\r\n"); !isTold {
				t.Errorf("the registrar was told\n%s", phone.asked.Buf)
			}
			if x := l.e.Registrations(RegistrationFilter{}); len(x) != 0 {
				t.Errorf("still there: %+v", x)
			}
		})
	}
}

// TestLongContacts: the URI that a registrar is shown fits what registrars store, and leads
// back to a phone that the edge has forgotten.
func TestLongContacts(t *testing.T) {
	inLab(t, 1, func(c *config.Config) {
		mode("contact", false)(c)
		c.Listen[0].Advertise = "[2001:db8:1234:5678:9abc:def0:1234:5678]"
	}, func(t *testing.T, l *lab) {
		pbx := l.pbx[0]
		for _, tail := range []string{"", ";ob", ";x=" + strings.Repeat("y", 40), ";pn-provider=fcm;pn-prid=" + strings.Repeat("z", 300)} {
			alice := l.phone.handset("alice")
			contact := "sip:alice@192.168.1.20:5060;transport=udp" + tail
			asked, got := alice.registers(pbx, "<"+contact+">")
			shown := uriIn(asked, wire.KindContact)
			if len(shown) > 255 {
				t.Errorf("%d bytes: %s", len(shown), shown)
			}
			if uriIn(got, wire.KindContact) != contact {
				t.Errorf("the phone gets\n%s", got.Buf)
			}
			for _, isForgotten := range []bool{false, true} {
				if isForgotten {
					l.e.bindings.RemoveAll(alice.aor, l.e.snap.Load().pools.Pool("pbx").Backends()[0].ID(), 0)
				}
				c := pbx.callsTo(shown, "")
				c.sends("OPTIONS")
				req := alice.get("OPTIONS")
				if ruri := string(req.Bytes(req.RURI)); ruri != contact && !(isForgotten && strings.HasPrefix(contact, ruri+";") && strings.HasPrefix(ruri, "sip:alice@192.168.1.20:5060")) {
					t.Errorf("called as %s", ruri)
				}
				alice.answers(req, 200, "p")
				pbx.get("200 OPTIONS")
			}
		}
		pass(time.Minute)
	})
}

// TestLateAnswerOfTheFirstNode: one REGISTER goes to two nodes, each in its mode, and what the
// node that answers was shown counts.
func TestLateAnswerOfTheFirstNode(t *testing.T) {
	inLab(t, 2, mode("auto", true), func(t *testing.T, l *lab) {
		alice, id := l.phone.handset("alice"), l.e.snap.Load().pools.Pool("pbx").Backends()[0].ID()
		l.e.registrars.ignoresPath(id, alice.aor, true)
		alice.sends(alice.register("<sip:alice@192.168.1.20>"))
		first := l.pbx[0].get("REGISTER")
		var second *wire.Msg
		for range 100 {
			pass(100 * time.Millisecond)
			if second = l.pbx[1].gets(); second != nil {
				break
			}
		}
		if second == nil || second.First(wire.KindPath) < 0 || first.First(wire.KindPath) >= 0 {
			t.Fatalf("the nodes got\n%s%v", first.Buf, second)
		}
		l.pbx[0].answers(first, 200, "r", keeps(first)...)
		res := alice.get("200 REGISTER")
		if got := uriIn(res, wire.KindContact); got != "sip:alice@192.168.1.20" {
			t.Errorf("the phone gets %s", got)
		}
		var x []RegistrationInfo
		if x = l.e.Registrations(RegistrationFilter{}); len(x) != 1 || x[0].Backend != "pbx1" || x[0].Shown != uriIn(first, wire.KindContact) {
			t.Errorf("%+v", x)
		}
		l.pbx[1].answers(second, 200, "r", keeps(second)...) // nobody wants it any more
		if after := l.e.Registrations(RegistrationFilter{}); len(after) != 1 || after[0].Backend != "pbx1" {
			t.Errorf("%+v", after)
		}
		pass(time.Minute)
	})
}

// TestExtensionsPass: what only phone and registrar have to know goes through as it is.
func TestExtensionsPass(t *testing.T) {
	for _, m := range []string{"contact", "path"} {
		inLab(t, 1, mode(m, false), func(t *testing.T, l *lab) {
			pbx, alice := l.pbx[0], l.phone.handset("alice")
			alice.more = "Require: outbound\nSupported: path, outbound, gruu\nX-Any: thing\n"
			const params = `;q=0.7;expires=600;reg-id=1;+sip.instance="<urn:uuid:1>";+sip.ice;methods="INVITE,ACK"`
			alice.sends(alice.register("<sip:alice@[2001:db8::1]:5060;transport=udp;ob>"+params, "<sips:alice@192.168.1.20>;q=0.1", "<tel:+4930123>", "<mailto:a@b>;q=0.2"))
			asked := pbx.get("REGISTER")
			s := string(asked.Buf)
			for _, want := range []string{"Require: outbound\r\n", "Supported: path, outbound, gruu\r\n", "X-Any: thing\r\n", ">" + params + "\r\n", ">;q=0.1\r\n", "Contact: <tel:+4930123>\r\n", "Contact: <mailto:a@b>;q=0.2\r\n"} {
				if !strings.Contains(s, want) {
					t.Errorf("%s: %q is missing in\n%s", m, want, s)
				}
			}
			if m == "path" && !strings.Contains(s, ";lr;ob>\r\n") {
				t.Errorf("no ob in\n%s", s)
			}
			gruu := ">;pub-gruu=\"sip:alice@example.org;gr=urn:uuid:1\";temp-gruu=\"sip:x@example.org;gr\";expires=500\r\n"
			pbx.answers(asked, 200, "r", "Contact: <"+uriIn(asked, wire.KindContact)+gruu, "Require: outbound\r\n", "Service-Route: <sip:pbx;lr>\r\n", "Path: <"+uriIn(asked, wire.KindPath)+">\r\n")
			got := string(alice.get("200 REGISTER").Buf)
			for _, want := range []string{"Contact: <sip:alice@[2001:db8::1]:5060;transport=udp;ob" + gruu, "Require: outbound\r\n", "Service-Route: <sip:pbx;lr>\r\n"} {
				if !strings.Contains(got, want) {
					t.Errorf("%s: %q is missing in\n%s", m, want, got)
				}
			}
			if x := l.e.Registrations(RegistrationFilter{Text: "2001"}); len(x) != 1 || x[0].RegID != 1 || x[0].Instance == "" || time.Until(x[0].Expires) > 500*time.Second {
				t.Errorf("%+v", x)
			}
			pass(time.Minute)
		})
	}
}

// TestManyUsersOnOneConnection: an SBC or a phone with two lines. One that leaves takes nobody
// along, and its end is theirs.
func TestManyUsersOnOneConnection(t *testing.T) {
	l, pbx := startedWithPBX(t, mode("contact", false))
	sbc := l.mobile(pbx)
	shown := map[string]string{}
	for i := range 40 {
		user := fmt.Sprintf("user%d", i)
		sbc.user, sbc.id = user, user
		shown[user] = sbc.registers("")
	}
	if n := l.e.bindings.Len(); n != 40 || l.e.bindings.Flows() != 1 {
		t.Fatalf("%d bindings, %d flows", n, l.e.bindings.Flows())
	}
	_ = sbc.reconnects().Close()
	awaits(func() bool { return l.e.Registrations(RegistrationFilter{})[0].State == "closed" })
	if got := l.oneLine("[TCP:CLOSED]"); len(got) != 1 || len(got[0]) > 1000 {
		t.Errorf("%q", got)
	}
	sbc.user, sbc.id = "user7", "user7"
	now := sbc.registers("")
	for user, uri := range map[string]string{"user7": shown["user7"], "now": now} {
		c := pbx.callsTo(uri, "")
		l.sendUDP(pbx, c.text("OPTIONS"))
		sbc.sends(response(sbc.get("OPTIONS"), 200, "p"))
		if got := title(pbx.getsWithin(patience)); got != "200 OPTIONS" {
			t.Errorf("%s: %s", user, got)
		}
	}
	c := pbx.callsTo(shown["user8"], "")
	l.sendUDP(pbx, c.text("OPTIONS"))
	if got := title(pbx.getsWithin(patience)); got != "430 OPTIONS" {
		t.Errorf("user8: %s", got)
	}
}

// TestStopKeepsRegistrations: the edge that ends its connections does not lose who was on them,
// and nobody is told that phones are gone.
func TestStopKeepsRegistrations(t *testing.T) {
	l := &lab{TB: t, log: &logLines{}}
	pbx := l.newPeer("PBX1")
	c, pool, b := testConfig("udp:127.0.0.1:0", "tcp:127.0.0.1:0"), config.DefaultPool(), config.DefaultBackend()
	b.Name, b.Address, pool.Probe.Interval = "pbx1", "sip:"+pbx.addr.String(), 0
	pool.Backends = []config.Backend{b}
	c.Pools = map[string]config.Pool{"pbx": pool}
	mode("contact", false)(c)
	c.StateFile, c.Registration.ClosedGrace = filepath.Join(t.TempDir(), "state"), config.Duration(time.Nanosecond)
	l.e = newEdge(t, c, l.log)
	l.e.Start()
	l.mobile(pbx).registers("")
	if err := l.e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := l.lines("[TCP:CLOSED]"); len(got) != 0 {
		t.Errorf("%q", got)
	}
	again := newEdge(t, c, &logLines{})
	defer func() {
		for _, e := range []*Edge{l.e, again} {
			if err := e.log.Close(); err != nil {
				t.Error(err)
			}
		}
	}()
	if x := again.Registrations(RegistrationFilter{}); len(x) != 1 || x[0].State != "closed" {
		t.Errorf("%+v", x)
	}
	if !again.guard.Known.Source(security.SourceOf(netip.MustParseAddr("127.0.0.1")), again.wheel.Now()) {
		t.Error("a phone that had a connection is not known any more")
	}
	if err := again.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
