//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sipward/sipward/admin"
	"github.com/sipward/sipward/proxy"
	"github.com/sipward/sipward/test/siptest"
)

// atOnce is how long an answer may take that waits for nobody. Without it, the caller would wait 32 s.
const atOnce = time.Second

// office is an edge between telephones outside and a registrar, and somebody who calls them by way of that.
type office struct {
	t         *testing.T
	edge      *siptest.Edge
	yaml      string
	addr      netip.AddrPort // of the edge, UDP and TCP
	registrar *siptest.Registrar
	caller    *siptest.Raw
}

func newOffice(t *testing.T, o siptest.RegistrarOptions, top string) *office {
	t.Helper()
	return newOfficeAt(t, freeAddr(t), o, settings{top: top})
}

func newOfficeAt(t *testing.T, addr netip.AddrPort, o siptest.RegistrarOptions, s settings) *office {
	t.Helper()
	o.Address = at(nodeA)
	r, err := siptest.NewRegistrar(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	there, ok := siptest.URIHost(r.URI())
	if !ok {
		t.Fatalf("the registrar is at %s", r.URI())
	}
	f := &office{t: t, addr: addr, registrar: r, caller: keep(t)(siptest.DialRawFrom("udp", at(nodeB), there, nil))}
	s.listen, s.backends, s.top = []string{"udp:" + addr.String(), "tcp:" + addr.String()}, []string{r.URI()}, quick+s.top
	f.yaml = s.yaml()
	f.edge = siptest.StartEdge(t, f.yaml)
	return f
}

// restart starts the edge again, once it has ended.
func (o *office) restart() {
	o.t.Helper()
	o.edge = siptest.StartEdge(o.t, o.yaml)
}

// registrations are those of a user that the edge follows.
func (o *office) registrations(user string) []proxy.RegistrationInfo {
	o.t.Helper()
	return registrationsOf(o.t, o.edge, user)
}

func registrationsOf(t *testing.T, edge *siptest.Edge, user string) []proxy.RegistrationInfo {
	t.Helper()
	var l admin.RegistrationList
	ask(t, edge, &l, "registrations", "list", "--aor", user+"@"+domain)
	return l.Registrations
}

// registration is the only one of a user.
func (o *office) registration(user string) proxy.RegistrationInfo {
	o.t.Helper()
	all := o.registrations(user)
	if len(all) != 1 {
		o.t.Fatalf("%s has %d registrations: %+v", user, len(all), all)
	}
	return all[0]
}

// closed waits for the line about the connection of a registration.
func (o *office) closed(r proxy.RegistrationInfo) {
	o.t.Helper()
	want := fmt.Sprintf("[TCP:CLOSED] tcp connection closed conid=%d - IP=%s AORS=%s", r.Connection, strings.TrimPrefix(r.Flow, "tcp:"), r.AoR)
	if _, err := o.edge.WaitLine(within(o.t, 6*soon), 0, func(l string) bool { return strings.Contains(l, want) }); err != nil {
		o.t.Fatalf("no line %q: %v", want, err)
	}
}

// attempt is a call to a telephone.
type attempt struct {
	*exchange
	began time.Time
	still *siptest.Stillness
}

// calls begins a call to a user.
func (o *office) calls(user string) *attempt {
	o.t.Helper()
	x := &exchange{hop: &hop{caller: o.caller}, t: o.t, req: o.caller.Request("INVITE", "sip:"+user+"@"+domain).SDP()}
	x.atCaller = o.caller.Box(x.req.CallID())
	a := &attempt{x, time.Now(), siptest.WatchStillness(o.t)}
	x.send(x.req)
	return a
}

// ends waits for the final answer, acknowledges it and says how long it took
// since the given time, without what the machine stood still.
func (a *attempt) ends(since time.Time) (status int, took time.Duration) {
	a.t.Helper()
	for {
		m, err := a.atCaller.Next(40 * time.Second)
		if err != nil {
			a.t.Fatalf("no final answer: %v", err)
		}
		if m.Status() >= 200 {
			a.ackFinal(m)
			return m.Status(), a.still.Since(since)
		}
	}
}

// fails wants a call to a user answered with 430 at once.
func (o *office) fails(user string) {
	o.t.Helper()
	a := o.calls(user)
	if status, took := a.ends(a.began); status != 430 || took > atOnce {
		o.t.Errorf("a call to %s got %d after %s, want 430 at once", user, status, took)
	}
}

// reaches wants a call to come to a telephone, with the URI that it registered, and be answered there.
func (o *office) reaches(x *extension) {
	o.t.Helper()
	before := x.invites.Load()
	a := o.calls(x.user)
	if status, _ := a.ends(a.began); status != 486 || x.invites.Load() != before+1 {
		o.t.Errorf("a call to %s got %d, and %d came there", x.user, status, x.invites.Load()-before)
	}
	if m := x.last.Load(); m != nil && m.RURI() != x.contact {
		o.t.Errorf("%s registered %s and was called as %s", x.user, x.contact, m.RURI())
	}
}

// extension is a telephone that registers what it is told to. It is busy, or with rings set it rings and does no more.
type extension struct {
	*siptest.Raw
	t       *testing.T
	user    string
	contact string   // URI
	params  string   // of the Contact value
	lines   []string // of each REGISTER
	callID  string
	cseq    int

	rings   atomic.Bool
	invites atomic.Int64
	pings   atomic.Int64
	last    atomic.Pointer[siptest.Message] // INVITE
}

// instanceOf is the Contact parameter that makes several contacts one telephone.
func instanceOf(user string) string {
	return fmt.Sprintf(`;+sip.instance="<urn:uuid:00000000-0000-1000-8000-%s>"`, user)
}

// extension is a telephone at an endpoint. It knows its private address only.
func (o *office) extension(raw *siptest.Raw, user string) *extension {
	return newExtension(o.t, raw, user)
}

func newExtension(t *testing.T, raw *siptest.Raw, user string) *extension {
	x := &extension{
		Raw: raw, t: t, user: user, contact: "sip:" + user + "@192.168.1.20:5070;transport=" + raw.Network(), params: instanceOf(user), callID: siptest.Unique("reg"),
	}
	raw.Auto(x.takes)
	return x
}

// dial is a telephone of the office with a flow of its own.
func (o *office) dial(network, user string) *extension {
	o.t.Helper()
	return o.extension(rawDial(o.t, network, o.addr, nil), user)
}

// over is the same telephone over another connection.
func (x *extension) over(raw *siptest.Raw) *extension {
	y := newExtension(x.t, raw, x.user)
	y.params, y.lines, y.callID, y.cseq = x.params, x.lines, x.callID, x.cseq
	return y
}

func (x *extension) takes(m *siptest.Message) bool {
	switch {
	case m.Status() != 0:
		return false
	case m.Method() == "OPTIONS":
		x.pings.Add(1)
		_ = m.Respond(200, "OK", x.user) // a lost one is the sender's concern
	case m.Method() == "INVITE":
		if before := x.last.Swap(m); before == nil || before.Branch() != m.Branch() { // no copy
			x.invites.Add(1)
		}
		if x.rings.Load() {
			_ = m.Respond(180, "Ringing", x.user)
			break
		}
		_ = m.Respond(486, "Busy Here", x.user)
	case m.Method() == "CANCEL":
		_ = m.Respond(200, "OK", x.user)
	}
	return m.Method() != ""
}

// register is a REGISTER with these Contact values, default its own.
func (x *extension) register(contacts ...string) *siptest.Text {
	x.cseq++
	aor := "<sip:" + x.user + "@" + domain + ">"
	m := x.Request("REGISTER", "sip:"+domain).Del("Contact").Set("From", aor+";tag="+x.user).Set("To", aor).
		Set("Call-ID", x.callID).Set("CSeq", strconv.Itoa(x.cseq)+" REGISTER")
	m.Lines = append(m.Lines, x.lines...)
	if len(contacts) == 0 {
		contacts = []string{"<" + x.contact + ">" + x.params + ";expires=600"}
	}
	for _, c := range contacts {
		m.Add("Contact", c)
	}
	return m
}

// asks sends a REGISTER and returns its final answer.
func (x *extension) asks(m *siptest.Text) *siptest.Message {
	x.t.Helper()
	box := x.Box(x.callID)
	if err := x.Send(m.Bytes()); err != nil {
		x.t.Fatal(err)
	}
	for {
		res, err := box.Next(2 * soon)
		if err != nil {
			x.t.Fatalf("%s registers: %v", x.user, err)
		}
		if res.Status() >= 200 && res.CSeq() == x.cseq {
			return res
		}
	}
}

// registers has it register its Contact, and finds that and no other in the answer.
func (x *extension) registers() {
	x.t.Helper()
	res := x.asks(x.register())
	if got := res.Values("Contact"); res.Status() != 200 || len(got) != 1 || siptest.AddrURI(got[0]) != x.contact {
		x.t.Fatalf("%s registered %s and got\n%s", x.user, x.contact, res)
	}
}

// TestPhoneOnTCPDisappears: however the connection of a phone ends, what rings there fails and a call to it gets 430 at
// once; the log and the listing say so; the phone is called over its next connection.
func TestPhoneOnTCPDisappears(t *testing.T) {
	t.Parallel()
	for _, end := range []struct {
		name string
		ends func(*siptest.Raw) error
	}{{"FIN", (*siptest.Raw).Close}, {"RST", (*siptest.Raw).Reset}} {
		for _, path := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, path %t", end.name, path), func(t *testing.T) {
				t.Parallel()
				o := newOffice(t, siptest.RegistrarOptions{Path: path}, "registration: { closed_grace: 30 }\n")
				x := o.dial("tcp", "alice")
				if path {
					x.lines = []string{"Supported: path"}
				}
				x.registers()
				o.reaches(x)
				r := o.registration("alice")
				if mode := map[bool]string{true: "path", false: "contact"}[path]; r.Mode != mode || r.State != "registered" || r.Connection == 0 {
					t.Errorf("registered: %+v", r)
				}

				x.rings.Store(true)
				ringing := o.calls("alice")
				ringing.callerGets(100, "INVITE")
				ringing.callerGets(180, "INVITE")
				ended := time.Now()
				if err := end.ends(x.Raw); err != nil {
					t.Fatal(err)
				}
				if status, took := ringing.ends(ended); status != 430 || took > atOnce {
					t.Errorf("the call that rang got %d after %s, want 430 at once", status, took)
				}
				o.closed(r)
				o.fails("alice")
				o.fails("alice")
				if now := o.registration("alice"); now.State != "closed" || now.Connection != r.Connection || now.Closed.IsZero() || !strings.Contains(now.Why, "430") {
					t.Errorf("closed: %+v", now)
				}

				y := x.over(rawDial(t, "tcp", o.addr, nil))
				y.registers()
				o.reaches(y)
				if now := o.registration("alice"); now.State != "registered" || now.Connection == r.Connection || now.Former != r.Flow {
					t.Errorf("back: %+v", now)
				}
				if n := len(o.registrar.Bindings("alice")); n != 1 {
					t.Errorf("the registrar has %d contacts of one phone", n)
				}
			})
		}
	}
}

// TestLateCloseHarmsNobody: a phone registers over a new connection before the old one ends.
func TestLateCloseHarmsNobody(t *testing.T) {
	t.Parallel()
	const grace = 200 * time.Millisecond
	o := newOffice(t, siptest.RegistrarOptions{}, fmt.Sprintf("registration: { closed_grace: %g }\n", grace.Seconds()))
	x := o.dial("tcp", "alice")
	x.registers()
	first := o.registration("alice")
	y := x.over(rawDial(t, "tcp", o.addr, nil))
	y.registers()
	o.reaches(y)
	if err := x.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Next(soon); !errors.Is(err, io.EOF) { // the edge has taken the end, and closes too
		t.Fatalf("the old connection: %v", err)
	}
	o.reaches(y)
	<-within(t, 3*grace).Done()
	o.reaches(y)
	if now := o.registration("alice"); now.State != "registered" || now.Connection == first.Connection {
		t.Errorf("%+v", now)
	}
	if l := linesWith(o.edge, `\[TCP:CLOSED\]`); len(l) != 0 {
		t.Errorf("%q", l)
	}
	if n := x.invites.Load(); n != 0 {
		t.Errorf("%d calls came over the old connection", n)
	}
}

// TestSilentPhoneIsFoundDead: a phone vanishes without a word. A call to it gets 430 when nobody acknowledges it, long
// before the 32 s of an INVITE; where nobody calls, keep-alives find it out, and then a call gets 430 at once.
func TestSilentPhoneIsFoundDead(t *testing.T) {
	t.Parallel()
	inNamespace(t)
	street := newNamespace(t)
	run(t, "ip", "link", "add", "street", "type", "veth", "peer", "name", "eth0", "netns", street.Path())
	run(t, "ip", "address", "add", "198.51.100.1/24", "dev", "street")
	run(t, "ip", "link", "set", "street", "up")
	inside(t, street, "link set lo up\naddress add 198.51.100.2/24 dev eth0\nlink set eth0 up")
	phone := netip.MustParseAddr("198.51.100.2")

	const unacked = time.Second
	o := newOfficeAt(t, netip.MustParseAddrPort("198.51.100.1:5060"), siptest.RegistrarOptions{},
		settings{limits: "keepalive_idle: 1, unacked_timeout: 1", top: "registration: { closed_grace: 60 }\n"})
	dial := func(user string) *extension {
		return o.extension(keep(t)(street.DialRaw("tcp", at(phone), o.addr, nil)), user)
	}
	alice, bob := dial("alice"), dial("bob")
	alice.registers()
	bob.registers()
	o.reaches(alice)
	o.reaches(bob)
	atAlice, atBob := o.registration("alice"), o.registration("bob")

	const hush = "table inet hush {\n chain in { type filter hook input priority 0; policy drop; }\n chain out { type filter hook output priority 0; policy drop; }\n}\n"
	enter(t, street, func() { feed(t, hush, "nft", "-f", "-") })
	call := o.calls("alice")
	if status, took := call.ends(call.began); status != 430 || took > unacked+2*slow {
		t.Errorf("a call to a silent phone got %d after %s, want 430 after %s", status, took, unacked)
	}
	o.closed(atAlice)
	o.fails("alice")
	o.closed(atBob)
	o.fails("bob")
	for _, user := range []string{"alice", "bob"} {
		if r := o.registration(user); r.State != "closed" {
			t.Errorf("%s: %+v", user, r)
		}
	}

	enter(t, street, func() { run(t, "nft", "delete", "table", "inet", "hush") })
	again := alice.over(keep(t)(street.DialRaw("tcp", at(phone), o.addr, nil)))
	again.registers()
	o.reaches(again)
}

// token is the user part of a URI of the edge.
var tokenUser = regexp.MustCompile(`sip:(sw-[A-Za-z0-9_-]+)@([0-9.:]+)`)

// ledger is a REGISTER at both ends, byte by byte: what the registrar gets differs from what was sent by the URIs of its
// Contacts alone, and what the phone gets from what the registrar sent by the same.
type ledger struct {
	*hop
	t *testing.T
	x *extension
}

func newLedger(t *testing.T) *ledger {
	t.Helper()
	h := newHop(t, "udp", settings{top: "lab: yes\nregistration: { mode: contact, ping: none }\n"})
	return &ledger{hop: h, t: t, x: newExtension(t, h.caller, "alice")}
}

// asked sends a REGISTER and returns what the registrar gets of it, and the tokens there in the place of these URIs, in
// their order.
func (l *ledger) asked(contacts, uris []string) (m *siptest.Message, tokens []string) {
	l.t.Helper()
	box := l.node.Box(l.x.callID)
	req := l.x.register(contacts...).Add("X-Odd", "  <sip:alice@192.168.1.20:5070>;expires=1").Bytes()
	if err := l.x.Send(req); err != nil {
		l.t.Fatal(err)
	}
	m, err := box.Next(soon)
	if err != nil {
		l.t.Fatal(err)
	}
	seen := undo(l.t, m.Data)
	found := tokenUser.FindAllSubmatch(seen, -1)
	if len(found) < len(uris) {
		l.t.Fatalf("%d Contacts of the edge, want %d:\n%s", len(found), len(uris), m)
	}
	text := string(seen)
	for i, uri := range uris {
		if host := string(found[i][2]); host != l.addr.String() {
			l.t.Errorf("the registrar is led to %s, not to the edge at %s", host, l.addr)
		}
		token := string(found[i][0])
		if slices.Contains(tokens, token) {
			l.t.Errorf("two contacts have one token:\n%s", m)
		}
		tokens = append(tokens, token)
		text = strings.Replace(text, token, uri, 1)
	}
	for _, f := range found[len(uris):] { // what is taken back is a line of its own
		tokens = append(tokens, string(f[0]))
		text = strings.Replace(text, "Contact: <"+string(f[0])+">;expires=0\r\n", "", 1)
	}
	same(l.t, []byte(text), req)
	return m, tokens
}

// answered answers with these Contact values, and returns what the phone has to get: the same, but for these tokens.
func (l *ledger) answered(m *siptest.Message, contacts []string, tokens, uris []string) {
	l.t.Helper()
	res := siptest.Respond(m, 200, "OK", "r1").Add("Service-Route", "<sip:"+l.node.Addr().String()+";lr>")
	for _, c := range contacts {
		res.Add("Contact", c)
	}
	res.Add("X-Odd", "x,  y")
	want := string(res.Bytes())
	at := strings.Index(want, "\r\nVia:") // the first one is the edge's
	want = want[:at] + want[at+strings.Index(want[at+2:], "\r\n")+2:]
	for i := range tokens {
		want = strings.ReplaceAll(want, tokens[i], uris[i])
	}
	box := l.x.Box(l.x.callID)
	if err := m.Reply(res.Bytes()); err != nil {
		l.t.Fatal(err)
	}
	got, err := box.Next(soon)
	if err != nil {
		l.t.Fatal(err)
	}
	same(l.t, got.Data, []byte(want))
	if strings.Contains(string(got.Data), "sw-") {
		l.t.Errorf("the phone sees what the edge wrote for the registrar:\n%s", got)
	}
}

// lists compares what the edge follows: pairs of Contact URI and seconds.
func (l *ledger) lists(want map[string]int) {
	l.t.Helper()
	all := registrationsOf(l.t, l.edge, "alice")
	for _, r := range all {
		left := time.Until(r.Expires).Seconds()
		if n, ok := want[r.Contact]; !ok || left > float64(n)+1 || left < float64(n)-30 {
			l.t.Errorf("%s is followed for %.0f s, want %d", r.Contact, left, n)
		}
	}
	if len(all) != len(want) {
		l.t.Errorf("%d contacts are followed, want %d: %+v", len(all), len(want), all)
	}
}

// TestContactModeByteByByte: a registrar without Path sees the edge's address in the place of the phone's and no other
// change; the phone sees its own Contacts, each with its own time, and all that the registrar adds to them.
func TestContactModeByteByByte(t *testing.T) {
	t.Parallel()
	const uri = "sip:alice@192.168.1.20:5070;transport=udp;ob"
	const gruu = `;pub-gruu="sip:alice@siptest.example;gr=urn:uuid:1";temp-gruu="sip:tgruu.7hs==jd7vnzga5w7fajsc7-ajd6fabz0f8g5@siptest.example;gr"`
	const rest = `;q=0.7;+sip.instance="<urn:uuid:1>";reg-id=1;methods="INVITE,ACK,BYE"`
	t.Run("one contact, with GRUUs, refreshed and taken away", func(t *testing.T) {
		t.Parallel()
		l := newLedger(t)
		l.x.lines = []string{"Supported: gruu", "Allow: INVITE"}
		for range 2 {
			m, tokens := l.asked([]string{`"Alice, at home" <` + uri + `>` + rest + `;expires=600`}, []string{uri})
			l.answered(m, []string{`"Alice, at home" <` + tokens[0] + `>` + rest + gruu + `;expires=345`}, tokens, []string{uri})
			l.lists(map[string]int{uri: 345})
			if r := registrationsOf(t, l.edge, "alice"); r[0].Shown != tokens[0] || r[0].Mode != "contact" || r[0].Instance != `"<urn:uuid:1>"` || r[0].RegID != 1 {
				t.Errorf("%+v", r[0])
			}
		}
		before, tokens := l.asked([]string{"<" + uri + ">" + rest + ";expires=0"}, []string{uri})
		if n := len(tokenUser.FindAll(before.Data, -1)); n != 1 {
			t.Errorf("%d Contacts in\n%s", n, before)
		}
		l.answered(before, nil, tokens, []string{uri})
		l.lists(map[string]int{})
	})
	t.Run("several contacts, each with its time", func(t *testing.T) {
		t.Parallel()
		l := newLedger(t)
		uris := []string{"sip:alice@192.168.1.20:5070", "sips:alice@192.168.1.21", "sip:%61lice@[2001:db8::1]:5070;transport=tcp", "sip:10.0.0.1"}
		l.x.lines = []string{"Expires: 300"}
		m, tokens := l.asked([]string{
			"<" + uris[0] + ">;expires=60, <" + uris[1] + ">;q=0.1;expires=120", "<" + uris[2] + "> ;  q=0.2", "  <" + uris[3] + ">;expires=0", "<tel:+4930123>;expires=240",
		}, uris)
		l.answered(m, []string{ // in another order, with what others have registered
			"<" + tokens[2] + ">;expires=299;q=0.2,<sip:alice@10.9.9.9>;expires=7", "<tel:+4930123>;expires=240", "<" + tokens[1] + ">;q=0.1;expires=33", tokens[0] + ";expires=60",
		}, []string{tokens[2], tokens[1], "\r\nContact: " + tokens[0]}, []string{uris[2], uris[1], "\r\nContact: <" + uris[0] + ">"})
		l.lists(map[string]int{uris[0]: 60, uris[1]: 33, uris[2]: 299})

		// A query has no Contact and gets them all.
		m, _ = l.query()
		l.answered(m, []string{"<" + tokens[0] + ">;expires=50", "<" + tokens[1] + ">;expires=30"}, tokens[:2], uris[:2])
		l.lists(map[string]int{uris[0]: 60, uris[1]: 33, uris[2]: 299})

		// One of them goes, the others stay.
		m, gone := l.asked([]string{"<" + uris[1] + ">;expires=0"}, uris[1:2])
		if gone[0] != tokens[1] {
			t.Errorf("%s is taken away, %s was registered", gone[0], tokens[1])
		}
		l.answered(m, []string{"<" + tokens[0] + ">;expires=50"}, tokens[:1], uris[:1])
		l.lists(map[string]int{uris[0]: 60, uris[2]: 299})

		// And all of them.
		l.x.lines = []string{"Expires: 0"}
		m, _ = l.asked([]string{"*"}, nil)
		l.answered(m, nil, nil, nil)
		l.lists(map[string]int{})
	})
	t.Run("a phone that has moved", func(t *testing.T) {
		t.Parallel()
		l := newLedger(t)
		one := []string{"<" + uri + ">" + rest + ";expires=600"}
		m, first := l.asked(one, []string{uri})
		l.answered(m, []string{"<" + first[0] + ">;expires=600"}, first, []string{uri})

		l.x = l.x.over(rawDial(t, "udp", l.addr, nil))
		m, second := l.asked(one, []string{uri})
		if len(second) != 2 || second[0] == first[0] || second[1] != first[0] {
			t.Fatalf("had %q, asks for %q", first, second)
		}
		l.answered(m, []string{"<" + second[0] + ">;expires=600"}, second[:1], []string{uri})

		l.x = l.x.over(rawDial(t, "udp", l.addr, nil)) // and once more, to go
		m, third := l.asked([]string{"<" + uri + ">" + rest + ";expires=0"}, []string{uri})
		if len(third) != 1 || third[0] != second[0] {
			t.Fatalf("the registrar has %q, and is to forget %q", second[0], third)
		}
		l.answered(m, nil, nil, nil)
		l.lists(map[string]int{})
	})
}

// query is a REGISTER without a Contact.
func (l *ledger) query() (*siptest.Message, []string) {
	l.t.Helper()
	req := l.x.register("x").Del("Contact")
	box := l.node.Box(l.x.callID)
	if err := l.x.Send(req.Bytes()); err != nil {
		l.t.Fatal(err)
	}
	m, err := box.Next(soon)
	if err != nil {
		l.t.Fatal(err)
	}
	same(l.t, undo(l.t, m.Data), req.Bytes())
	return m, nil
}

// TestPathMode: a registrar that refuses a Path which the first Supported does not offer, as Asterisk does, keeps the
// edge's Path and calls through it; the Contact is the phone's own all the way.
func TestPathMode(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, mode string
		lines      []string
	}{
		{"path and outbound offered", "auto", []string{"Supported: path, outbound"}},
		{"nothing offered", "path", nil},
		{"offered in the second line only", "path", []string{"Supported: gruu", "Supported: path"}},
		{"something else offered", "path", []string{"k: timer, replaces"}},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(test.name+" over "+network, func(t *testing.T) {
				t.Parallel()
				o := newOffice(t, siptest.RegistrarOptions{Path: true, Strict: true}, "registration: { mode: "+test.mode+" }\n")
				x := o.dial(network, "alice")
				x.lines, x.params = test.lines, x.params+";reg-id=1"
				req := x.register()
				res := x.asks(req)
				if got := res.Values("Contact"); res.Status() != 200 || len(got) != 1 || siptest.AddrURI(got[0]) != x.contact {
					t.Fatalf("registered %s and got\n%s", x.contact, res)
				}
				seen := o.registrar.Seen(func(m *siptest.Message) bool { return m.Method() == "REGISTER" && m.Status() == 0 })
				m := seen[0] // there may be copies
				path := m.Values("Path")
				if len(path) != 1 || !strings.HasSuffix(path[0], ";lr;ob>") || !strings.HasPrefix(path[0], "<sip:sw-") || !strings.Contains(path[0], "@"+o.addr.String()+";") {
					t.Fatalf("Path %q", path)
				}
				if got := res.Values("Path"); !slices.Equal(got, path) {
					t.Errorf("the phone is told Path %q", got)
				}
				text := strings.Replace(string(undo(t, m.Data)), "Path: "+path[0]+"\r\n", "", 1)
				if !slices.Contains(test.lines, "Supported: path, outbound") {
					text = strings.Replace(text, "Supported: path\r\n", "", 1)
				}
				same(t, []byte(text), req.Bytes())
				if r := o.registration("alice"); r.Mode != "path" || r.Shown != "" || r.RegID != 1 {
					t.Errorf("%+v", r)
				}
				o.reaches(x)
				if routes := x.last.Load().Values("Route"); len(routes) != 0 {
					t.Errorf("the phone gets Route %q", routes)
				}
				if again := x.asks(x.register("<" + x.contact + ">" + x.params + ";expires=0")); again.Status() != 200 || len(again.Values("Contact")) != 0 {
					t.Errorf("taken away:\n%s", again)
				}
				if n := len(o.registrations("alice")); n != 0 {
					t.Errorf("%d are followed still", n)
				}
			})
		}
	}
}

// TestRegistrarThatDropsPath: auto takes Contacts from the second REGISTER on where the registrar did not keep a Path.
func TestRegistrarThatDropsPath(t *testing.T) {
	t.Parallel()
	o := newOffice(t, siptest.RegistrarOptions{}, "")
	x := o.dial("udp", "alice")
	x.lines = []string{"Supported: path"}
	x.registers()
	if r := o.registration("alice"); r.Mode != "path" {
		t.Errorf("%+v", r)
	}
	x.registers()
	if r := o.registration("alice"); r.Mode != "contact" {
		t.Errorf("%+v", r)
	}
	o.reaches(x)
	if l := linesWith(o.edge, "registrar ignores Path"); len(l) != 1 {
		t.Errorf("%q", l)
	}
}

// TestCallFollowsThePhone: the phone of a running call loses its connection and registers over another: what its peer
// asks for comes over that, and the phone goes on over it.
func TestCallFollowsThePhone(t *testing.T) {
	t.Parallel()
	for _, path := range []bool{false, true} {
		t.Run(fmt.Sprintf("path %t", path), func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, siptest.RegistrarOptions{Path: path}, "")
			var lines []string
			if path {
				lines = []string{"Supported: path, outbound"}
			}
			handset := func(user, network string) (*siptest.Handset, *siptest.Raw) {
				raw := rawDial(t, network, o.addr, nil)
				h := siptest.NewHandset(raw, siptest.HandsetOptions{User: user, Domain: domain, Lines: lines, Params: instanceOf(user)})
				t.Cleanup(func() {
					h.Close()
					for _, wrong := range h.Wrong() {
						t.Error(wrong)
					}
				})
				if m, err := h.Register(within(t, soon), 600); err != nil || m.Status() != 200 {
					t.Fatalf("%s registers: %v\n%s", user, err, m)
				}
				return h, raw
			}
			alice, old := handset("alice", "tcp")
			bob, _ := handset("bob", "udp")
			caller, err := bob.Call(within(t, 2*soon), alice.AoR())
			if err != nil {
				t.Fatal(err)
			}
			callee, err := alice.Rung(within(t, soon), 1)
			if err != nil {
				t.Fatal(err)
			}
			c := natCall{t, caller, callee}
			c.hears(callee, "ACK", 1)
			c.asks(caller, "INFO")
			c.asks(callee, "INFO")

			r := o.registration("alice")
			closeRaw(t, old)
			o.closed(r)
			_, fresh := handset("alice", "tcp")
			callee.Move(fresh)
			c.asks(caller, "INFO")
			c.talk()
			c.asks(caller, "BYE")
			c.hears(callee, "BYE", 1)
		})
	}
}

// TestKeepAlives: what phones send to keep their flows open is answered: STUN over UDP, CRLF over TCP in one piece, in
// two, and before a request; a registered phone is pinged over UDP if it does not know its address.
func TestKeepAlives(t *testing.T) {
	t.Parallel()
	o := newOffice(t, siptest.RegistrarOptions{}, "registration: { ping_interval: 0.2 }\n")
	u := o.dial("udp", "alice")
	u.registers()
	until(t, "three pings are answered", func() bool { r := o.registration("alice"); return r.Pings >= 3 && r.RTT > 0 && r.Missed <= 1 })

	raw := rawDial(t, "udp", o.addr, nil)
	h := siptest.NewHandset(raw, siptest.HandsetOptions{User: "bob", Domain: domain})
	defer h.Close()
	if got, err := h.STUN(within(t, soon)); err != nil || got != raw.Addr() {
		t.Errorf("STUN says %s, %v; it is %s", got, err, raw.Addr())
	}

	x := o.dial("tcp", "carol")
	x.registers()
	send := func(text string) {
		t.Helper()
		if err := x.Send([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	pong := func() {
		t.Helper()
		if m, err := x.Next(soon); err != nil || string(m.Data) != "\r\n" {
			t.Fatalf("no pong: %v, %v", m, err)
		}
	}
	send("\r\n\r\n")
	pong()
	send("\r\n\r")
	send("\n")
	pong()
	send("\r\n\r\n" + string(x.register().Bytes()) + "\r\n\r\n")
	pong()
	pong()
	if m, err := x.Box(x.callID).Next(soon); err != nil || m.Status() != 200 {
		t.Fatalf("registers behind a ping: %v, %v", m, err)
	}
}
