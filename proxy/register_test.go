package proxy

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/binding"
	"github.com/sipward/sipward/proxy/wire"
)

// A handset is a phone as registrars see it.
type handset struct {
	*peer
	aor  string
	id   string
	cseq int
	via  string // where it believes to be
	more string // header lines of each REGISTER
}

func (p *peer) handset(user string) *handset {
	callNumber++
	return &handset{peer: p, aor: user + "@example.org", id: fmt.Sprintf("reg-%d", callNumber), via: "192.168.1.20:5060"}
}

// register writes a REGISTER with these Contact lines.
func (h *handset) register(contacts ...string) string {
	h.cseq++
	text := fmt.Sprintf("REGISTER sip:example.org SIP/2.0\nVia: SIP/2.0/UDP %s;rport;branch=z9hG4bK-%s-%d\nMax-Forwards: 70\nFrom: <sip:%s>;tag=a\nTo: <sip:%s>\nCall-ID: %s\nCSeq: %d REGISTER\n%s",
		h.via, h.id, h.cseq, h.aor, h.aor, h.id, h.cseq, h.more)
	for _, c := range contacts {
		text += "Contact: " + c + "\n"
	}
	return text + "Content-Length: 0\n\n"
}

// registers does it, and has the registrar keep what it was asked for. It returns what the
// registrar saw and what the phone got.
func (h *handset) registers(at *peer, contacts ...string) (asked, got *wire.Msg) {
	h.lab.Helper()
	h.sends(h.register(contacts...))
	asked = at.get("REGISTER")
	at.answers(asked, 200, "r", keeps(asked)...)
	return asked, h.get("200 REGISTER")
}

// keeps are the lines of a registrar that does as it is asked: Contact and Path as they came.
func keeps(asked *wire.Msg) (lines []string) {
	for _, h := range asked.Headers {
		switch h.Kind {
		case wire.KindContact:
			if !strings.Contains(string(asked.Bytes(h.Line)), "expires=0") {
				lines = append(lines, string(asked.Bytes(h.Line)))
			}
		case wire.KindPath, wire.KindExpires:
			lines = append(lines, string(asked.Bytes(h.Line)))
		}
	}
	return lines
}

var inBrackets = regexp.MustCompile(`<([^>]*)>`)

// uriIn is the URI in the first header of a kind.
func uriIn(m *wire.Msg, k wire.Kind) string {
	found := inBrackets.FindSubmatch(m.Value(k))
	if found == nil {
		return ""
	}
	return string(found[1])
}

// callsTo begins a call of the backend to a registered phone.
func (p *peer) callsTo(uri, route string) *call {
	c := p.call()
	c.uri = uri
	if route != "" {
		c.route = "Route: <" + route + ">\n"
	}
	return c
}

func mode(m string, path bool) func(*config.Config) {
	return func(c *config.Config) {
		c.Registration.Mode, c.Registration.Ping = m, "none"
		pool := c.Pools["pbx"]
		pool.SupportsPath = path
		c.Pools["pbx"] = pool
	}
}

func TestRegisterOnItsWayToTheRegistrar(t *testing.T) {
	const one = "<sip:alice@192.168.1.20:5060>;expires=600"
	for _, c := range []struct {
		name     string
		mode     string
		path     bool
		more     string
		contacts []string
	}{
		{name: "path offered", mode: "auto", more: "Supported: path, outbound\n", contacts: []string{one + `;reg-id=1;+sip.instance="<urn:uuid:1>"`}},
		{name: "path of the pool", mode: "auto", path: true, contacts: []string{one}},
		{name: "path with another Supported", mode: "path", more: "k: gruu\nSupported: path\n", contacts: []string{one}},
		{name: "path on a path", mode: "auto", more: "Path: <sip:first.example.org;lr>\nSupported: path\n", contacts: []string{one}},
		{name: "contact", mode: "auto", contacts: []string{one}},
		{name: "contact asked for", mode: "contact", path: true, more: "Supported: path\n", contacts: []string{one}},
		{name: "contacts in every spelling", mode: "contact", more: "Expires: 300\n", contacts: []string{
			`"Alice, at home" <sip:alice@192.168.1.20:5060;transport=udp;ob>;q=0.5;+sip.instance="<urn:uuid:2>";reg-id=2, sip:alice@10.0.0.1;expires=60`,
			"<tel:+4930123>;expires=60", "< sips:alice@192.168.1.21 >"}},
		{name: "all contacts", mode: "contact", more: "Expires: 0\n", contacts: []string{"*"}},
		{name: "all contacts by path", mode: "path", more: "Expires: 0\n", contacts: []string{"*"}},
		{name: "no contact", mode: "path"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inLab(t, 1, mode(c.mode, c.path), func(t *testing.T, l *lab) {
				h := l.phone.handset("alice")
				h.id, h.more = "reg", c.more
				text := h.register(c.contacts...)
				h.sends(text)
				asked := l.pbx[0].get("REGISTER")
				golden(t, filepath.Join("testdata/register", strings.ReplaceAll(c.name, " ", "-")+".txt"), text, l.plain(asked.Buf))
				l.pbx[0].answers(asked, 200, "r", keeps(asked)...)
				res := h.get("200 REGISTER")
				if c.mode == "contact" && strings.Contains(string(res.Buf), "sw-") {
					t.Errorf("the phone sees a Contact that is not its own:\n%s", res.Buf)
				}
				for _, line := range c.contacts {
					line = strings.ReplaceAll(line, "sip:alice@10.0.0.1;", "<sip:alice@10.0.0.1>;") // which parameters are whose stays clear
					if !strings.Contains(string(res.Buf), line) && !strings.Contains(line, "expires=0") {
						t.Errorf("%s is missing in\n%s", line, res.Buf)
					}
				}
				pass(time.Minute)
			})
		})
	}
}

// TestRegistrarSeesOnlyTheEdge is contact mode from one end to the other.
func TestRegistrarSeesOnlyTheEdge(t *testing.T) {
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		pbx, alice, desk := l.pbx[0], l.phone.handset("alice"), l.newPeer("DESK").handset("alice")
		alice.more = "Expires: 300\n"
		asked, _ := alice.registers(pbx, "<sip:alice@192.168.1.20:5060;ob>;expires=600", "<sip:alice@192.168.1.20:5062>")
		if s := string(asked.Buf); strings.Contains(s[strings.Index(s, "Contact"):], "192.168") {
			t.Errorf("the registrar sees\n%s", s)
		}
		if n := l.e.bindings.Len(); n != 2 {
			t.Fatalf("%d bindings", n)
		}
		shown := uriIn(asked, wire.KindContact)
		for _, x := range l.e.Registrations(RegistrationFilter{}) {
			want := 300.0
			if strings.Contains(x.Contact, ":5060") {
				want = 600
			}
			if left := time.Until(x.Expires).Seconds(); left < want-2 || left > want {
				t.Errorf("%s for %f s, want %f", x.Contact, left, want)
			}
		}

		// Another phone of the same user hears of both, by their own names.
		desk.sends(desk.register("<sip:alice@192.168.1.30>"))
		req := pbx.get("REGISTER")
		pbx.answers(req, 200, "r", append(keeps(req), "Contact: <"+shown+">;expires=599;pub-gruu=\"sip:alice@example.org;gr=1\"\r\n")...)
		if s := string(desk.get("200 REGISTER").Buf); !strings.Contains(s, `Contact: <sip:alice@192.168.1.20:5060;ob>;expires=599;pub-gruu="sip:alice@example.org;gr=1"`) {
			t.Errorf("the other phone got\n%s", s)
		}

		// The registrar calls; what it calls is what it was shown.
		c := pbx.callsTo(shown, "")
		c.sends("INVITE")
		got := alice.get("INVITE")
		if ruri := string(got.Bytes(got.RURI)); ruri != "sip:alice@192.168.1.20:5060;ob" {
			t.Errorf("the phone is called as %s", ruri)
		}
		if relayed := l.lines("Relaying request - M=INVITE R=sip:alice@192.168.1.20:5060;ob "); len(relayed) != 1 {
			t.Errorf("lines of the call: %q", l.lines("Relaying"))
		}
		alice.answers(got, 486, "p")
		pbx.get("100 INVITE")
		pbx.get("486 INVITE")
		alice.get("ACK")

		// It takes one contact back, then all.
		alice.more = ""
		alice.sends(alice.register("<sip:alice@192.168.1.20:5060;ob>;expires=0"))
		req = pbx.get("REGISTER")
		if got := uriIn(req, wire.KindContact); got != shown {
			t.Errorf("%s is taken back, the registrar has %s", got, shown)
		}
		pbx.answers(req, 200, "r")
		alice.get("200 REGISTER")
		if n := l.e.bindings.Len(); n != 2 {
			t.Errorf("%d bindings after one was taken back", n)
		}
		alice.more = "Expires: 0\n"
		alice.registers(pbx, "*")
		if n := l.e.bindings.Len(); n != 0 {
			t.Errorf("%d bindings after all were taken back", n)
		}
		pass(time.Minute)
		l.atRest()
	})
}

// TestCalleeBehindAContactOfOursHasAName: who reads listings and records is told who was called.
func TestCalleeBehindAContactOfOursHasAName(t *testing.T) {
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		pbx, alice := l.pbx[0], l.phone.handset("alice")
		asked, _ := alice.registers(pbx, "<sip:x7f3@192.168.1.20:5060>")
		shown := uriIn(asked, wire.KindContact)
		b := l.records()
		pbx.sends(strings.Replace(pbx.callsTo(shown, "").text("INVITE"), "sip:bob@example.org", shown, 1))
		got := alice.get("INVITE")
		if to := string(got.Value(wire.KindTo)); to != "<"+shown+">" {
			t.Errorf("the phone is called with To: %s", to)
		}
		if x := l.e.Calls(CallFilter{Party: "alice@example.org"}); len(x) != 1 || x[0].To != "sip:alice@example.org" {
			t.Errorf("listed is %+v", x)
		}
		pbx.get("100 INVITE")
		alice.more = "Expires: 0\n"
		alice.registers(pbx, "*")
		alice.answers(got, 486, "p")
		pbx.get("486 INVITE")
		alice.get("ACK")
		if r := b.only(); r.To != "sip:x7f3@192.168.1.20:5060" {
			t.Errorf("recorded is %+v, want the phone's own Contact when nobody knows its user any more", r)
		}
		pass(time.Minute)
	})
}

// TestCallOverPath is path mode: the registrar sends where its Path leads.
func TestCallOverPath(t *testing.T) {
	inLab(t, 1, mode("auto", true), func(t *testing.T, l *lab) {
		pbx, alice := l.pbx[0], l.phone.handset("alice")
		asked, got := alice.registers(pbx, "<sip:alice@192.168.1.20:5060>")
		if string(got.Value(wire.KindContact)) != "<sip:alice@192.168.1.20:5060>" || uriIn(asked, wire.KindContact) != "sip:alice@192.168.1.20:5060" {
			t.Error("a Contact was touched")
		}
		c := pbx.callsTo("sip:alice@192.168.1.20:5060", uriIn(asked, wire.KindPath))
		c.sends("INVITE")
		req := alice.get("INVITE")
		if ruri := string(req.Bytes(req.RURI)); ruri != "sip:alice@192.168.1.20:5060" || req.First(wire.KindRoute) >= 0 {
			t.Errorf("the phone got\n%s", req.Buf)
		}
		pbx.get("100 INVITE")
		alice.answers(req, 200, "p", "Contact: <sip:alice@192.168.1.20:5060>\r\n")
		ok := pbx.get("200 INVITE")
		c.to, c.uri, c.route = "p", "sip:alice@192.168.1.20:5060", routeOf(ok)
		c.sends("ACK")
		alice.get("ACK")
		c.cseq++
		c.sends("BYE")
		alice.answers(alice.get("BYE"), 200, "")
		pbx.get("200 BYE")
		pass(time.Minute)
	})
}

// TestForeignTokensLeadNowhere: what is not ours, or was given to somebody else, is refused,
// and nothing goes to the address in it.
func TestForeignTokensLeadNowhere(t *testing.T) {
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		pbx, alice, mallory, victim := l.pbx[0], l.phone.handset("alice"), l.newPeer("MALLORY"), l.newPeer("VICTIM")
		asked, _ := alice.registers(pbx, "<sip:alice@192.168.1.20:5060>")
		shown := uriIn(asked, wire.KindContact)
		user, host, _ := strings.Cut(strings.TrimPrefix(shown, "sip:"), "@")
		foreign := string(newTokenKey([]byte("another edge")).appendFlow(nil, flowToken{flow: l.dialogFlowTo(victim.addr), binding: 1, contact: []byte("sip:victim@" + victim.addr.String())}))
		foreignRoute := string(newTokenKey([]byte("another edge")).append(nil, token{flow: l.dialogFlowTo(victim.addr), isCallee: true}))
		raw, err := base64.RawURLEncoding.DecodeString(user[len(tokenPrefix):])
		if err != nil {
			t.Fatal(err)
		}
		copy(raw[2:], []byte{byte(victim.addr.Port() >> 8), byte(victim.addr.Port())})
		forged := tokenPrefix + base64.RawURLEncoding.EncodeToString(raw)
		for _, x := range []struct{ name, user string }{
			{"forged", forged}, {"foreign", foreign}, {"of a Record-Route", foreignRoute}, {"cut", user[:len(user)-1]}, {"longer", user + "A"}, {"cut short", user[:40]},
		} {
			for _, where := range []string{"request-uri", "route"} {
				for _, from := range []*peer{pbx, mallory} {
					c := from.callsTo("sip:"+x.user+"@"+host, "")
					if where == "route" {
						c = from.callsTo("sip:victim@"+victim.addr.String(), "sip:"+x.user+"@"+host+";lr")
					}
					before := l.e.count.badTokens.Load()
					c.sends("INVITE")
					from.get("403 INVITE")
					if l.e.count.badTokens.Load() != before+1 {
						t.Errorf("%s in the %s from %s is not counted", x.name, where, from.name)
					}
				}
			}
		}
		// Ours, but held by somebody it was not given to.
		for _, c := range []*call{
			mallory.callsTo(shown, ""), mallory.callsTo("sip:alice@192.168.1.20", shown+";lr"), l.phone.callsTo(shown, ""),
		} {
			c.sends("INVITE")
			c.from.get("403 INVITE")
		}
		victim.nothing()
		alice.nothing()
		pbx.nothing()
		if got := l.lines("Flow token"); len(got) != 1 {
			t.Errorf("%d lines in one instant:\n%s", len(got), strings.Join(got, ""))
		}
		// A phone may come with its own.
		c := l.phone.callsTo("sip:bob@example.org", shown+";lr")
		c.sends("INVITE")
		if req := pbx.get("INVITE"); req.First(wire.KindRoute) >= 0 {
			t.Errorf("the backend got\n%s", req.Buf)
		}
		pass(4 * time.Minute)
	})
}

func (l *lab) dialogFlowTo(a netip.AddrPort) dialog.Flow {
	return dialogFlow(l.e.net.Listeners()[0].FlowTo(a))
}

// TestTokenOfACallIsNoRelay: a Record-Route of ours, in hands that it was not given to,
// does not lead out.
func TestTokenOfACallIsNoRelay(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		mallory, victim := l.newPeer("MALLORY"), l.newPeer("VICTIM")
		id := l.e.snap.Load().pools.Pool("pbx").Backends()[0].ID()
		for _, isCallee := range []bool{false, true} {
			tok := token{flow: l.dialogFlowTo(victim.addr), backend: id, isCallee: isCallee, caller: l.e.tokens.tagHash([]byte("a"))}
			if !isCallee {
				tok.caller = l.e.tokens.tagHash([]byte("b"))
			}
			for _, method := range []string{"BYE", "INFO", "INVITE", "NOTIFY", "ACK"} {
				c := mallory.callsTo("sip:victim@"+victim.addr.String(), "sip:"+string(l.e.tokens.append(nil, tok))+"@"+l.edge().String()+";lr")
				c.to = "b"
				c.sends(method)
				if method != "ACK" {
					c.from.get("403 " + method)
				}
				victim.nothing()
				l.pbx[0].nothing()
			}
		}
	})
}

// TestPhoneThatMovedIsFound: after a new mapping of its NAT the phone registers from another
// address. The registrar is told to forget the old one, and what it still sends there arrives.
func TestPhoneThatMovedIsFound(t *testing.T) {
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		pbx, alice := l.pbx[0], l.phone.handset("alice")
		const contact = `<sip:alice@192.168.1.20:5060>;+sip.instance="<urn:uuid:1>"`
		asked, _ := alice.registers(pbx, contact)
		before := uriIn(asked, wire.KindContact)
		alice.peer = l.newPeer("MAPPING2")
		asked, _ = alice.registers(pbx, contact)
		now := uriIn(asked, wire.KindContact)
		if now == before || !strings.Contains(string(asked.Buf), "Contact: <"+before+">;expires=0\r\n") {
			t.Errorf("the registrar was told\n%s", asked.Buf)
		}
		for _, uri := range []string{now, before} {
			c := pbx.callsTo(uri, "")
			c.sends("INVITE")
			alice.answers(alice.get("INVITE"), 486, "p")
			pbx.get("100 INVITE")
			pbx.get("486 INVITE")
			alice.get("ACK")
		}
		l.phone.nothing()
		asked, _ = alice.registers(pbx, contact)
		if strings.Contains(string(asked.Buf), "expires=0") {
			t.Errorf("nothing is left to forget:\n%s", asked.Buf)
		}
		if x := l.e.Registrations(RegistrationFilter{}); len(x) != 1 || x[0].Former == "" || x[0].Mode != "contact" {
			t.Errorf("%+v", x)
		}
		pass(2 * time.Minute)
	})
}

// TestUserStaysAtItsRegistrar: a REGISTER goes where the last one went, and calls of that
// phone too, whatever the policy says.
func TestUserStaysAtItsRegistrar(t *testing.T) {
	inLab(t, 2, func(c *config.Config) {
		mode("contact", false)(c)
		pool := c.Pools["pbx"]
		pool.Policy = "round_robin"
		c.Pools["pbx"] = pool
	}, func(t *testing.T, l *lab) {
		alice := l.phone.handset("alice")
		home := l.pbx[0]
		alice.sends(alice.register("<sip:alice@192.168.1.20>"))
		asked := home.gets()
		if asked == nil {
			home = l.pbx[1]
			asked = home.get("REGISTER")
		}
		home.answers(asked, 200, "r", keeps(asked)...)
		alice.get("200 REGISTER")
		for range 4 {
			alice.registers(home, "<sip:alice@192.168.1.20>")
			c := l.phone.call()
			c.sends("INVITE")
			home.answers(home.get("INVITE"), 486, "p")
			l.phone.skip()
			home.get("ACK")
		}
		pass(time.Minute)
	})
}

// TestRegistrarThatIgnoresPathGetsContacts: auto goes over to what works.
func TestRegistrarThatIgnoresPathGetsContacts(t *testing.T) {
	inLab(t, 1, mode("auto", true), func(t *testing.T, l *lab) {
		pbx, alice := l.pbx[0], l.phone.handset("alice")
		alice.sends(alice.register("<sip:alice@192.168.1.20>"))
		asked := pbx.get("REGISTER")
		if asked.First(wire.KindPath) < 0 {
			t.Fatalf("no Path in\n%s", asked.Buf)
		}
		pbx.answers(asked, 200, "r", "Contact: <sip:alice@192.168.1.20>;expires=600;q=1, <sip:alice@192.168.1.30>\r\nExpires: 600\r\n")
		if res := string(alice.get("200 REGISTER").Buf); !strings.Contains(res, "Contact: <sip:alice@192.168.1.20>;expires=30;q=1, <sip:alice@192.168.1.30>;expires=30\r\nExpires: 30\r\n") {
			t.Errorf("the phone is not asked to come back:\n%s", res)
		}
		asked, _ = alice.registers(pbx, "<sip:alice@192.168.1.20>")
		if asked.First(wire.KindPath) >= 0 || !strings.HasPrefix(uriIn(asked, wire.KindContact), "sip:sw-") ||
			!strings.Contains(string(asked.Buf), "Contact: <sip:alice@192.168.1.20>;expires=0\r\n") {
			t.Errorf("after a 200 without Path the registrar is sent\n%s", asked.Buf)
		}
		shown := uriIn(asked, wire.KindContact)
		asked, _ = alice.registers(pbx, "<sip:alice@192.168.1.20>")
		if strings.Contains(string(asked.Buf), "expires=0") {
			t.Errorf("nothing is left to forget:\n%s", asked.Buf)
		}

		// And back: the operator has taught it Path.
		l.e.registrars.forget()
		asked, _ = alice.registers(pbx, "<sip:alice@192.168.1.20>")
		if asked.First(wire.KindPath) < 0 || !strings.Contains(string(asked.Buf), "Contact: <"+shown+">;expires=0\r\n") {
			t.Errorf("with Path the registrar is sent\n%s", asked.Buf)
		}
		if n := len(l.lines("ignores Path")); n != 1 {
			t.Errorf("%d lines", n)
		}
		pass(time.Minute)
	})
}

// TestRegistrarIgnoresPathWhereSeveralUsersShowIt: one user changes what becomes of himself alone, three that of all. An
// answer that lists a Contact from elsewhere says nothing of the registrar: Asterisk answers with the Path of any Contact
// of the AOR, and with none where that one has none, because it came directly or while there was no Path.
func TestRegistrarIgnoresPathWhereSeveralUsersShowIt(t *testing.T) {
	for _, x := range []struct {
		name, listed string
		ignores      bool
	}{
		{"alone", "", true},
		{"with one from elsewhere", "Contact: <sip:other@10.0.0.9>;expires=600\r\n", false},
	} {
		t.Run(x.name, func(t *testing.T) {
			inLab(t, 1, mode("auto", true), func(t *testing.T, l *lab) {
				pbx := l.pbx[0]
				usesPath := func(user string) bool {
					h, contact := l.newPeer(user).handset(user), "<sip:"+user+"@192.168.1.20>"
					h.sends(h.register(contact))
					asked := pbx.get("REGISTER")
					pbx.answers(asked, 200, "r", "Contact: "+contact+";expires=600\r\n", x.listed)
					if h.get("200 REGISTER"); asked.First(wire.KindPath) < 0 {
						return false
					}
					if asked, _ = h.registers(pbx, contact); asked.First(wire.KindPath) >= 0 {
						t.Errorf("%s has a Path again", user)
					}
					return true
				}
				for n := range pathlessCount {
					if !usesPath(fmt.Sprint("user", n)) {
						t.Errorf("no Path for user %d", n)
					}
				}
				if got := usesPath("alice"); got == x.ignores {
					t.Errorf("the next one has a Path: %t", got)
				}
				if n := len(l.lines("registrar ignores Path: ")); (n == 1) != x.ignores || n > 1 {
					t.Errorf("%d lines of the registrar", n)
				}
				pass(time.Minute)
			})
		})
	}
}

func TestTooManyContactsAreRefused(t *testing.T) {
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		alice := l.phone.handset("alice")
		alice.sends(alice.register(strings.Repeat("<sip:a@192.168.1.20>, ", maxContacts) + "<sip:b@192.168.1.20>"))
		alice.get("403 REGISTER")
		for _, bad := range []string{"<sip:a@192.168.1.20 x>", "<sip:" + strings.Repeat("a", maxContactURI) + "@192.168.1.20>"} {
			alice.sends(alice.register(bad))
			alice.get("400 REGISTER")
		}
		l.pbx[0].nothing()
	})
}

// TestPhoneBehindNATIsPinged: evenly, over its flow, and its answers are heard.
func TestPhoneBehindNATIsPinged(t *testing.T) {
	inLab(t, 1, func(c *config.Config) {
		mode("contact", false)(c)
		c.Registration.Ping = "options"
	}, func(t *testing.T, l *lab) {
		alice := l.phone.handset("alice")
		alice.registers(l.pbx[0], "<sip:alice@192.168.1.20>;expires=60")
		open := l.newPeer("OPEN").handset("bob")
		open.via = open.addr.String()
		open.registers(l.pbx[0], "<sip:bob@"+open.addr.String()+">;expires=60")
		// next waits for the ping of the interval that has begun.
		next := func() (ping *wire.Msg) {
			for range 40 {
				pass(500 * time.Millisecond)
				if ping = alice.gets(); ping != nil {
					return ping
				}
			}
			t.Fatal("no ping")
			return nil
		}
		for range 2 {
			ping := next()
			if got := string(ping.Bytes(ping.RURI)); got != "sip:alice@192.168.1.20" {
				t.Errorf("OPTIONS %s", got)
			}
			pass(10 * time.Millisecond)
			alice.answers(ping, 200, "p")
		}
		x := l.e.Registrations(RegistrationFilter{AoR: alice.aor})
		if len(x) != 1 || !x[0].NATed || x[0].Pings != 2 || x[0].Missed != 0 || x[0].RTT < 0.01 || x[0].RTT > 0.6 {
			t.Errorf("%+v", x)
		}
		open.nothing() // needs none
		// An answer by anybody else is stray.
		stray := l.e.Counters().Stray
		open.answers(next(), 200, "p")
		if l.e.Counters().Stray != stray+1 {
			t.Error("an answer of another phone counts")
		}
		pass(time.Minute)
		alice.nothing() // its registration is over
		l.atRest()
		if n := len(l.lines("OPTIONS")); n != 0 {
			t.Errorf("%d lines about pings", n)
		}
	})
}

// TestWhoIsBehindNAT: a phone is where its packets come from, or a NAT is in between. Linphone puts the
// address that it learnt from rport into its Contact, and goes on to write its own into Via.
func TestWhoIsBehindNAT(t *testing.T) {
	for _, x := range []struct {
		name, via, contact string
		want               bool
	}{
		{"open", "PHONE", "PHONE", false},
		{"private", "192.168.1.20:5060", "192.168.1.20:5060", true},
		{"has learnt its address", "192.168.1.20:5060", "PHONE", true},
		{"has learnt its address, and writes another port", "192.0.2.77:5070", "PHONE", true},
		{"private Contact", "PHONE", "192.168.1.20:5060", true},
		{"writes a name", "phone.example", "PHONE", false},
	} {
		t.Run(x.name, func(t *testing.T) {
			inLab(t, 1, nil, func(t *testing.T, l *lab) {
				alice := l.phone.handset("alice")
				here := strings.NewReplacer("PHONE", alice.addr.String())
				alice.via = here.Replace(x.via)
				alice.registers(l.pbx[0], here.Replace("<sip:alice@"+x.contact+">;expires=60"))
				if r := l.e.Registrations(RegistrationFilter{AoR: alice.aor}); len(r) != 1 || r[0].NATed != x.want {
					t.Errorf("%+v", r)
				}
			})
		})
	}
}

func TestEdgeAnswersSTUN(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		request := []byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
		l.phone.sendsRaw(request)
		got := make([]byte, 100)
		_ = l.phone.conn.SetReadDeadline(time.Now().Add(time.Hour))
		n, from, err := l.phone.conn.ReadFromUDPAddrPort(got)
		if err != nil || n != 32 || from != l.edge() || got[0] != 1 || got[1] != 1 {
			t.Errorf("%x from %s, %v", got[:n], from, err)
		}
	})
}

// FuzzEnrolment sends a REGISTER with any header lines of a phone by way of the edge to a
// registrar that keeps what it is told. The registrar must get a sound message in which every
// SIP Contact is the edge's, and the phone must get back what it wrote.
func FuzzEnrolment(f *testing.F) {
	for _, lines := range []string{
		"Contact: <sip:alice@192.168.1.20:5060;ob>;expires=60\n",
		"m: sip:a@10.0.0.1;expires=60 , \"x, <y\" <sip:b@10.0.0.2?a=b>;q=0.1\nSupported: path\n",
		"Contact: *\nExpires: 0\n", "Contact:\n <sip:a@b>\n\t;expires=1\nContact: <tel:123>\nk: path\nPath: <sip:p;lr>\n",
		"Contact: <sip:sw-0123456789abcdefghijklmnop@b>;+sip.instance=\"<urn:uuid:1>\";reg-id=4294967297\n",
		"Contact: \"\\\"\" <sips:[::1]:5061;transport=tls>;expires=99999999999999999999\n", "Contact: <sip:a@b>,<sip:a@b>\n",
	} {
		f.Add(true, lines)
		f.Add(false, lines)
	}
	l := newLab(f, 1, mode("contact", false))
	path := newLab(f, 1, mode("path", false))
	f.Cleanup(func() {
		for _, l := range []*lab{l, path} {
			if err := l.e.Stop(context.Background()); err != nil {
				f.Error(err)
			}
			_ = l.e.log.Close()
		}
	})
	f.Fuzz(func(t *testing.T, byContact bool, lines string) {
		l := l
		if !byContact {
			l = path
		}
		l.TB = t
		h := l.phone.handset("alice")
		h.more = lines
		text := h.register()
		var sent wire.Msg
		if len(text) > 4000 || sent.Scan([]byte(crlf(text)), false) != wire.NoFault || sent.First(wire.KindProxyRequire) >= 0 {
			return
		}
		h.sends(text)
		asked := l.pbx[0].getsWithin(1)
		for h.getsWithin(0) != nil { // it was refused
		}
		defer func() {
			for _, x := range l.e.Registrations(RegistrationFilter{}) {
				id, _ := strconv.ParseUint(x.ID, 16, 64)
				l.e.bindings.Remove(binding.ID(id), 0)
			}
			endAll(l)
			if n := l.e.count.panics.Swap(0); n != 0 {
				t.Errorf("%d panics: %s", n, strings.Join(l.lines("panic"), ""))
			}
		}()
		if asked == nil || title(asked) != "REGISTER" {
			return
		}
		was, is := contactURIs(&sent), contactURIs(asked)
		if len(was) != len(is) {
			t.Fatalf("%q became %q", was, is)
		}
		for i := range is {
			u, ok := wire.ParseURI([]byte(was[i]))
			isSIP := ok && (u.Scheme == wire.SIP || u.Scheme == wire.SIPS)
			if ours := strings.HasPrefix(is[i], "sip:"+tokenPrefix); byContact && isSIP != ours {
				t.Errorf("%q became %q", was[i], is[i])
			}
			if (!byContact || !isSIP) && was[i] != is[i] {
				t.Errorf("%q became %q", was[i], is[i])
			}
		}
		l.pbx[0].answers(asked, 200, "r", keeps(asked)...)
		if res := h.getsWithin(1); res != nil && title(res) == "200 REGISTER" {
			if got := contactURIs(res); !strings.Contains(string(asked.Buf), "expires=0") && !slices.Equal(was, got) {
				t.Errorf("the phone wrote %q and gets %q", was, got)
			}
		}
	})
}

func contactURIs(m *wire.Msg) (all []string) {
	for it := m.Values(wire.KindContact); ; {
		v, ok := it.Next()
		if !ok {
			return all
		}
		if uri, _, _, ok := m.ValueURI(v); ok {
			all = append(all, string(m.Bytes(uri)))
		}
	}
}

// TestCallFollowsARegistration: a phone that got another mapping registers, and requests of
// its running call go there. A call that began on the old mapping afterwards is somebody else's.
func TestCallFollowsARegistration(t *testing.T) {
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		pbx, alice := l.pbx[0], l.phone.handset("alice")
		const contact = `<sip:alice@192.168.1.20:5060>;+sip.instance="<urn:uuid:1>"`
		asked, _ := alice.registers(pbx, contact)
		c := pbx.callsTo(uriIn(asked, wire.KindContact), "")
		c.sends("INVITE")
		pbx.get("100 INVITE")
		alice.answers(alice.get("INVITE"), 200, "p", "Contact: <sip:alice@192.168.1.20:5060>\r\n")
		ok := pbx.get("200 INVITE")
		c.to, c.uri, c.route = "p", uriIn(ok, wire.KindContact), routeOf(ok)
		c.sends("ACK")
		alice.get("ACK")
		pass(time.Second)
		alice.peer = l.newPeer("MAPPING2")
		alice.registers(pbx, contact)
		for _, method := range []string{"INFO", "BYE"} {
			c.cseq++
			c.sends(method)
			alice.answers(alice.get(method), 200, "")
			pbx.get("200 " + method)
		}

		// The mapping belongs to a phone now that does not register.
		pass(time.Second)
		c = l.phone.call()
		c.sends("INVITE")
		req := pbx.get("INVITE")
		l.phone.get("100 INVITE")
		pbx.answers(req, 200, "b", "Contact: <sip:bob@"+pbx.addr.String()+">\r\n")
		l.phone.get("200 INVITE")
		pbx.sends(fmt.Sprintf("BYE sip:alice@192.168.1.20 SIP/2.0\nVia: SIP/2.0/UDP %s;rport;branch=z9hG4bKbye\nRoute: %s\nMax-Forwards: 70\nFrom: <sip:bob@example.org>;tag=b\nTo: <sip:alice@example.org>;tag=a\nCall-ID: %s\nCSeq: 1 BYE\nContent-Length: 0\n\n",
			pbx.addr, req.Value(wire.KindRecordRoute), c.id))
		l.phone.answers(l.phone.get("BYE"), 200, "")
		pbx.get("200 BYE")
		pass(2 * time.Minute)
		l.phone.skip()
	})
}
