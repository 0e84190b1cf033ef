//go:build linux

package e2e

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy"
	"github.com/sipward/sipward/test/siptest"
)

// canary listens where nothing of the edge may ever arrive, on UDP and TCP, and notes what does.
type canary struct {
	at      netip.AddrPort
	udp     *net.UDPConn
	tcp     *net.TCPListener
	readers sync.WaitGroup
	seen    chan string
}

func newCanary(t *testing.T, where netip.AddrPort) *canary {
	t.Helper()
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(where))
	if err != nil {
		t.Fatal(err)
	}
	c := &canary{at: ln.Addr().(*net.TCPAddr).AddrPort(), tcp: ln, seen: make(chan string, 1000)}
	if c.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(c.at)); err != nil {
		t.Fatal(err)
	}
	c.readers.Go(c.readUDP)
	c.readers.Go(c.accept)
	t.Cleanup(func() {
		if err := errors.Join(c.udp.Close(), c.tcp.Close()); err != nil {
			t.Error(err)
		}
		c.readers.Wait()
	})
	return c
}

func (c *canary) note(what string) {
	select {
	case c.seen <- what:
	default: // the first thousand tell enough
	}
}

func (c *canary) readUDP() {
	buf := make([]byte, 65536)
	for {
		n, _, err := c.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		c.note(fmt.Sprintf("%s over UDP: %.400q", c.at, buf[:n]))
	}
}

// accept takes connections one by one: whoever connects is a finding, whatever it says.
func (c *canary) accept() {
	for {
		conn, err := c.tcp.AcceptTCP()
		if err != nil {
			return
		}
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		buf := make([]byte, 400)
		n, _ := conn.Read(buf) // nothing is telling as well
		_ = conn.Close()
		c.note(fmt.Sprintf("%s over TCP: %q", c.at, buf[:n]))
	}
}

const sentinel = "are you awake?"

// heard is everything that came until now: what it sends itself comes last.
func (c *canary) heard(t *testing.T) (all []string) {
	t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		conn, err := net.Dial(network, c.at.String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err = conn.Write([]byte(sentinel)); err != nil {
			t.Fatal(err)
		}
		for what := c.next(t); !strings.Contains(what, sentinel); what = c.next(t) {
			all = append(all, what)
		}
		_ = conn.Close() // it has served its purpose
	}
	return all
}

func (c *canary) next(t *testing.T) string {
	t.Helper()
	select {
	case what := <-c.seen:
		return what
	case <-time.After(soon):
		t.Fatalf("nothing comes to the canary at %s", c.at)
		return ""
	}
}

// robbery is an edge with phones that have registered and calls that run, all of whose messages the attackers have read.
type robbery struct {
	t        *testing.T
	edge     *siptest.Edge
	addr     netip.AddrPort
	pbx      *siptest.Raw
	phones   []*siptest.Raw
	answers  atomic.Bool // the PBX takes calls
	atPhones atomic.Int64

	mu     sync.Mutex
	tokens map[string]string // by token: where it stood
	opened []*siptest.Message
}

// steal notes the tokens in a message.
func (r *robbery) steal(m *siptest.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, header := range []string{"Path", "Contact", "Record-Route", "Route"} {
		for _, v := range m.Values(header) {
			if f := tokenUser.FindStringSubmatch(v); f != nil {
				r.tokens[f[1]] = header
			}
		}
	}
}

// opens notes an INVITE that came.
func (r *robbery) opens(m *siptest.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.opened {
		if m.Method() != "INVITE" || o.CallID() == m.CallID() {
			return
		}
	}
	r.opened = append(r.opened, m)
}

func newRobbery(t *testing.T) *robbery { return newRobberyWith(t, "") }

func newRobberyWith(t *testing.T, top string) *robbery {
	t.Helper()
	r := &robbery{t: t, addr: fortPort(t, fortAddr), pbx: rawListen(t, "udp", at(nodeA), nil), tokens: map[string]string{}}
	r.answers.Store(true)
	r.pbx.Auto(func(m *siptest.Message) bool {
		if m.Status() != 0 {
			r.steal(m)
			return false
		}
		r.serve(m)
		return true
	})
	r.edge = siptest.StartEdge(t, settings{
		listen: []string{"udp:" + r.addr.String(), "tcp:" + r.addr.String()}, backends: []string{r.pbx.URI("")},
		security: strangers + "loop_enable: no, dos_ban_enable: no, dos_new_sources_per_second: 0",
		top:      quick + "stop_timeout: 3\nregistration: { ping: options, ping_interval: 0.3 }\n" + top,
	}.yaml())
	return r
}

// serve is a PBX that believes everything.
func (r *robbery) serve(m *siptest.Message) {
	answering := r.answers.Load()
	if answering {
		r.steal(m)
	}
	switch {
	case m.Method() == "ACK":
	case m.Method() == "REGISTER":
		res := siptest.Respond(m, 200, "OK", "n")
		for _, header := range []string{"Contact", "Path"} {
			for _, v := range m.Values(header) {
				res.Add(header, v)
			}
		}
		_ = m.Reply(res.Bytes())
	case answering && (m.Method() == "INVITE" || m.Method() == "UPDATE"):
		r.opens(m)
		_ = m.Reply(siptest.Respond(m, 200, "OK", "n").Add("Contact", "<"+r.pbx.URI("bob")+">").SDP().Bytes())
	default:
		_ = m.Respond(404, "Not Found", "n")
	}
}

// phone registers a victim and has it call and be called.
func (r *robbery) phone(network string, from netip.Addr, path bool) {
	r.t.Helper()
	raw := keep(r.t)(siptest.DialRawFrom(network, at(from), r.addr, nil))
	r.phones = append(r.phones, raw)
	x := newExtension(r.t, raw, fmt.Sprintf("victim%d", len(r.phones)))
	x.contact = raw.URI(x.user) // true: it is not pinged
	if path {
		x.lines = []string{"Supported: path, outbound"}
	}
	raw.Auto(func(m *siptest.Message) bool {
		r.atPhones.Add(1)
		if m.Status() != 0 {
			r.steal(m)
			return false
		}
		if m.Method() == "INVITE" {
			r.steal(m)
			_ = m.Reply(siptest.Respond(m, 200, "OK", x.user).Add("Contact", "<"+x.contact+">").SDP().Bytes())
		}
		return true
	})
	res := x.asks(x.register())
	if res.Status() != 200 {
		r.t.Fatalf("registers: %s", res)
	}

	h := &hop{caller: raw, node: r.pbx}
	out := h.begin(r.t, "INVITE")
	out.send(out.req)
	for m := out.callerGetsOneOf("INVITE", 100, 200); m.Status() != 200; {
		m = out.callerGets(200, "INVITE")
		out.send(out.inside(m, "ACK", 1))
	}
	registered := registrationsOf(r.t, r.edge, x.user)[0]
	target, route := registered.Shown, ""
	if path {
		target, route = x.contact, res.Get("Path")
	}
	in := r.pbx.Request("INVITE", target).SDP()
	if route != "" {
		in.Add("Route", route)
	}
	box := r.pbx.Box(in.CallID())
	if err := r.pbx.SendTo(in.Bytes(), r.addr); err != nil {
		r.t.Fatal(err)
	}
	for {
		m, err := box.Next(soon)
		if err != nil {
			r.t.Fatal(err)
		}
		if m.Status() == 200 {
			ack := r.pbx.Request("ACK", siptest.AddrURI(m.Get("Contact"))).Set("From", m.Get("From")).Set("To", m.Get("To")).
				Set("Call-ID", m.CallID()).Set("CSeq", "1 ACK")
			for _, v := range m.Values("Record-Route") {
				ack.Add("Route", v)
			}
			if err := r.pbx.SendTo(ack.Bytes(), r.addr); err != nil {
				r.t.Fatal(err)
			}
			return
		}
	}
}

// loot is one token as an attacker uses it.
type loot struct {
	text string
	kind string
	bad  bool // the edge did not write it so: it has to be refused wherever it stands with the edge's name
}

var looksLikeToken = regexp.MustCompile(`^sw-[A-Za-z0-9_-]{24,}$`)

// forge makes of a token what somebody would who wants it to lead to an address.
func forge(rnd *rand.Rand, token string, to []netip.AddrPort) (all []loot) {
	add := func(kind, text string) {
		if text != token {
			all = append(all, loot{text, kind, looksLikeToken.MatchString(text)})
		}
	}
	for range 6 { // another letter somewhere
		b := []byte(token)
		const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		b[3+rnd.IntN(len(b)-3)] = letters[rnd.IntN(len(letters))]
		add("letter", string(b))
	}
	for range 3 {
		add("cut", token[:4+rnd.IntN(len(token)-4)])
		add("beheaded", "sw-"+token[4+rnd.IntN(len(token)-4):])
	}
	add("longer", token+"AA")
	add("padded", token+"=")
	add("doubled", token+token[3:])
	add("case", strings.ToUpper(token[:2])+token[2:])
	add("swapped", "sw-"+strings.ToLower(token[3:]))
	raw, err := base64.RawURLEncoding.DecodeString(token[3:])
	if err != nil {
		return all
	}
	for _, a := range to { // its own place in the place of the victim's
		b := append([]byte(nil), raw...)
		ip := a.Addr().As4()
		binary.BigEndian.PutUint16(b[2:], a.Port())
		copy(b[4:], ip[:])
		add("address", "sw-"+base64.RawURLEncoding.EncodeToString(b))
		for i := len(b) - 8; i < len(b); i++ {
			b[i] = byte(rnd.Uint32())
		}
		add("address and sum", "sw-"+base64.RawURLEncoding.EncodeToString(b))
		b[0] ^= byte(1 << rnd.IntN(8))
		add("address and flags", "sw-"+base64.RawURLEncoding.EncodeToString(b))
	}
	return all
}

var everyMethod = []string{"REGISTER", "INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "MESSAGE", "SUBSCRIBE", "NOTIFY", "INFO", "UPDATE", "PRACK", "REFER", "PUBLISH", "FOO"}

// shapes are the places where a URI can stand that leads: %s is the URI with a token of the edge.
func shapes(own string, to netip.AddrPort) (all []shape) {
	elsewhere := "sip:" + to.String()
	tcp := elsewhere + ";transport=tcp"
	return []shape{
		{"Route", []string{"<" + own + ";lr>"}, elsewhere, true},
		{"Route and URI of others", []string{"<" + own + ";lr>"}, "sip:bob@" + domain, true},
		{"URI", nil, own, true},
		{"URI over TCP", nil, own + ";transport=tcp", true},
		{"both", []string{"<" + own + ";lr>"}, own, true},
		{"two Routes", []string{"<" + own + ";lr>", "<" + elsewhere + ";lr>"}, "sip:bob@" + domain, true},
		{"two Routes, one line", []string{"<" + own + ";lr>, <" + tcp + ";lr>"}, elsewhere, true},
		{"strict router", []string{"<" + elsewhere + ">"}, own + ";lr", false},
		{"strict Route", []string{"<" + own + ">"}, tcp, true},
		{"token of another host", []string{"<" + strings.Replace(own, hostOf(own), to.String(), 1) + ";lr>"}, elsewhere, false},
		{"URI at another host", nil, strings.Replace(own, hostOf(own), to.String(), 1), false},
		{"maddr", nil, own + ";maddr=" + to.Addr().String(), false},
	}
}

type shape struct {
	name   string
	routes []string
	uri    string
	strict bool // a bad token is refused here
}

func hostOf(uri string) string { return uri[strings.IndexByte(uri, '@')+1:] }

// shot is one request of an attacker, and what has to become of it.
type shot struct {
	what string
	text *siptest.Text
	want int // 0: anything that an edge may say
}

// attacker sends and notes the final answers.
type attacker struct {
	*siptest.Raw
	t     *testing.T
	mu    sync.Mutex
	final map[string]int // by Call-ID
}

func newAttacker(t *testing.T, raw *siptest.Raw) *attacker {
	a := &attacker{Raw: raw, t: t, final: map[string]int{}}
	raw.Auto(func(m *siptest.Message) bool {
		switch {
		case m.Status() >= 200:
			a.mu.Lock()
			a.final[m.CallID()] = m.Status()
			a.mu.Unlock()
		case m.Method() == "OPTIONS" && m.Status() == 0: // a ping, for a registration of its own
			_ = m.Respond(200, "OK", "a")
		}
		return true
	})
	return a
}

// fires sends all, some at a time, and waits for their answers.
func (a *attacker) fires(shots []shot) {
	a.t.Helper()
	const salvo = 100
	for len(shots) > 0 {
		n := min(salvo, len(shots))
		for _, s := range shots[:n] {
			if err := a.Send(s.text.Bytes()); err != nil {
				a.t.Fatalf("%s: %v", s.what, err)
			}
		}
		a.awaits(shots[:n])
		shots = shots[n:]
	}
}

func (a *attacker) awaits(shots []shot) {
	a.t.Helper()
	for _, s := range shots {
		if strings.HasPrefix(s.text.Start, "ACK ") {
			continue
		}
		got := 0
		until(a.t, "an answer to "+s.what, func() bool {
			a.mu.Lock()
			defer a.mu.Unlock()
			got = a.final[s.text.CallID()]
			return got != 0
		})
		if s.want != 0 && got != s.want {
			a.t.Errorf("%s: %d, want %d\n%s", s.what, got, s.want, s.text.Bytes())
		}
	}
}

// request dresses a request of an attacker.
func (a *attacker) request(method string, routes []string, uri string, inside bool) *siptest.Text {
	m := a.Request(method, uri)
	if inside {
		m.Set("To", m.Get("To")+";tag="+siptest.Unique("t"))
	}
	for _, route := range routes {
		m.Add("Route", route)
	}
	return m
}

// TestNoOpenRelay: attackers have read every message of phones that are registered and of their calls. With the tokens
// of Path, Contact and Record-Route, as they are, forged in many ways, of another edge, or with none at all they send
// every method, over UDP and TCP, in every place that can lead somewhere. Nothing comes to any address that they name, nor
// to the phones; what the edge did not write gets 403; the log has a line of it now and then.
func TestNoOpenRelay(t *testing.T) {
	t.Parallel()
	const shotsEach = 1500 // over UDP, and as many over TCP
	r := newRobbery(t)
	canaries := []*canary{
		newCanary(t, netip.MustParseAddrPort("127.66.0.1:0")),    // anywhere
		newCanary(t, netip.MustParseAddrPort("127.66.0.2:5060")), // where a URI without a port leads
		newCanary(t, at(nodeA)),                                  // on the host of the PBX
		newCanary(t, at(fortAddr)),                               // on the host of the edge
	}
	var places []netip.AddrPort
	for _, c := range canaries {
		places = append(places, c.at)
	}
	for i, network := range []string{"udp", "tcp"} {
		r.phone(network, phoneA, false)
		r.phone(network, netip.AddrFrom4([4]byte{127, 1, 0, byte(10 + i)}), true)
	}
	r.answers.Store(false)
	foreign := r.foreign(canaries[0])

	rnd := rand.New(rand.NewPCG(5, 1))
	var all []loot
	for token, header := range r.tokens {
		// Of these the attacker may use none. What a Record-Route says leads inside, or to who is in the call.
		all = append(all, loot{token, "stolen from " + header, header == "Path" || header == "Contact"})
		all = append(all, forge(rnd, token, places)...)
	}
	for range 6 {
		all = append(all, loot{foreign, "of another edge", true})
		all = append(all, forge(rnd, foreign, places)...)
	}
	t.Logf("%d tokens read, %d of them made", len(r.tokens), len(all))
	before := r.atPhones.Load()
	began := time.Now()
	for _, raw := range []*siptest.Raw{
		keep(t)(siptest.DialRawFrom("udp", at(evilA), r.addr, nil)), keep(t)(siptest.DialRawFrom("tcp", at(evilB), r.addr, nil)),
	} {
		a := newAttacker(t, raw)
		shots := append(a.withoutTokens(places), a.withTokens(rnd, all, places, r.addr, shotsEach)...)
		a.fires(shots)
		a.answersNobody(places, r.addr)
	}
	took := time.Since(began)

	var s proxy.RegistrationStats
	ask(t, r.edge, &s, "registrations", "stats")
	lines := linesWith(r.edge, `Flow token in (route|request-uri) is refused: `)
	if n := len(lines); s.Forged < shotsEach || n == 0 || n > int(took.Seconds())+2 {
		t.Errorf("%d tokens were refused within %s, with %d lines", s.Forged, took, n)
	}
	r.edge.Stop() // whatever it had under way is sent by now
	for _, c := range canaries {
		for _, what := range c.heard(t) {
			t.Errorf("came to %s", what)
		}
	}
	if n := r.atPhones.Load() - before; n != 0 {
		t.Errorf("%d messages came to phones", n)
	}
}

// foreign is a token that another edge made, of a flow to a canary.
func (r *robbery) foreign(c *canary) string {
	r.t.Helper()
	addr := fortPort(r.t, fortAddr)
	node := rawListen(r.t, "udp", at(nodeB), nil)
	siptest.StartEdge(r.t, settings{
		listen: []string{"udp:" + addr.String()}, backends: []string{node.URI("")}, security: strangers + "loop_enable: no",
		top: "secret: of somebody else, who is not us, not at all\n",
	}.yaml())
	m := siptest.Request("REGISTER", "sip:"+domain).Prepend("Via", "SIP/2.0/UDP "+c.at.String()+";branch=z9hG4bK"+siptest.Unique("b")).
		Add("Contact", "<sip:canary@"+c.at.String()+">")
	if _, err := c.udp.WriteToUDPAddrPort(m.Bytes(), addr); err != nil {
		r.t.Fatal(err)
	}
	got, err := node.Next(soon)
	if err != nil {
		r.t.Fatal(err)
	}
	found := tokenUser.FindStringSubmatch(got.Get("Contact"))
	if found == nil {
		r.t.Fatalf("no token in\n%s", got)
	}
	if err := got.Reply(siptest.Respond(got, 200, "OK", "n").Add("Contact", got.Get("Contact")).Bytes()); err != nil {
		r.t.Fatal(err)
	}
	if what := c.next(r.t); !strings.Contains(what, "SIP/2.0 200") {
		r.t.Fatalf("registered elsewhere, heard %s", what)
	}
	return found[1]
}

// withTokens are so many requests, drawn from all that there are.
func (a *attacker) withTokens(rnd *rand.Rand, all []loot, places []netip.AddrPort, edge netip.AddrPort, n int) (shots []shot) {
	for i := range n {
		l := all[rnd.IntN(len(all))]
		forms := shapes("sip:"+l.text+"@"+edge.String(), places[rnd.IntN(len(places))])
		form := forms[rnd.IntN(len(forms))]
		method, inside := everyMethod[i%len(everyMethod)], rnd.IntN(3) == 0
		s := shot{what: fmt.Sprintf("%s, token %s, in %s, in a dialog %t", method, l.kind, form.name, inside), text: a.request(method, form.routes, form.uri, inside)}
		if l.bad && form.strict && !(method == "BYE" && inside) { // a BYE of an earlier life ends a call, and leads inside only
			s.want = 403
		}
		shots = append(shots, s)
	}
	return shots
}

// withoutTokens name an address in every way there is.
func (a *attacker) withoutTokens(places []netip.AddrPort) (shots []shot) {
	for _, to := range places {
		for _, x := range []struct {
			routes []string
			uri    string
		}{
			{nil, "sip:x@" + to.String()},
			{nil, "sip:x@" + to.String() + ";transport=tcp"},
			{nil, "sip:x@" + to.Addr().String()},
			{nil, "sip:x@" + domain + ";maddr=" + to.Addr().String()},
			{nil, "sip:x@" + a.Addr().String() + ";maddr=" + to.Addr().String() + ";transport=tcp"},
			{[]string{"<sip:" + to.String() + ";lr>"}, "sip:x@" + domain},
			{[]string{"<sip:" + to.String() + ";lr;transport=tcp>"}, "sip:x@" + domain},
			{[]string{"<sip:" + to.String() + ">"}, "sip:x@" + to.String()},
		} {
			for _, method := range everyMethod {
				for _, inside := range []bool{false, true} {
					shots = append(shots, shot{what: method + " without a token", text: a.request(method, x.routes, x.uri, inside)})
				}
			}
		}
	}
	return shots
}

// answersNobody sends what would be answered, or passed back, to an address that it names itself.
func (a *attacker) answersNobody(places []netip.AddrPort, edge netip.AddrPort) {
	a.t.Helper()
	network := strings.ToUpper(a.Network())
	var shots []shot
	for _, to := range places {
		for _, via := range []string{
			"SIP/2.0/%s %s;branch=%s;rport", "SIP/2.0/%s 192.0.2.1;received=%s;branch=%s;rport", "SIP/2.0/%s 192.0.2.1;maddr=%s;branch=%s;rport",
		} {
			where := to.String()
			if strings.Contains(via, "192.0.2.1") {
				where = to.Addr().String()
			}
			m := a.request("OPTIONS", nil, "sip:"+edge.String(), false)
			m.Set("Via", fmt.Sprintf(via, network, where, "z9hG4bK"+siptest.Unique("v")))
			shots = append(shots, shot{what: "Via " + m.Get("Via"), text: m})
		}
		for _, code := range []int{100, 180, 200, 302, 404, 503} {
			for _, branch := range []string{"z9hG4bK" + siptest.Unique("v"), "z9hG4bKsw" + strings.Repeat("0", 40)} {
				m := a.request("INVITE", nil, "x", true)
				m.Start = fmt.Sprintf("SIP/2.0 %d Well", code)
				m.Set("Via", fmt.Sprintf("SIP/2.0/%s %s;branch=%s", network, edge, branch))
				m.Lines = append(m.Lines[:1:1], append([]string{fmt.Sprintf("Via: SIP/2.0/%s %s;branch=z9hG4bK1;received=%s", network, to, to.Addr())}, m.Lines[1:]...)...)
				if err := a.Send(m.Bytes()); err != nil {
					a.t.Fatal(err)
				}
			}
		}
	}
	a.fires(shots)
}

// TestContactLeadsNowhere: callers from outside name another address in Contact and Record-Route, and are gone when the
// call is answered. What the PBX and the edge itself send in the call comes to the callers, or to nobody.
func TestContactLeadsNowhere(t *testing.T) {
	t.Parallel()
	r := newRobberyWith(t, "timers: { max_call_duration: 4, session_ttl: 2, session_update_segment: 4, min_se: 1 }\n")
	c := newCanary(t, netip.MustParseAddrPort("127.66.0.1:0"))
	contacts := []string{"sip:x@" + c.at.String(), "sip:x@" + c.at.String() + ";transport=tcp", fmt.Sprintf("sip:x@%s:%d;maddr=%s", evilA, c.at.Port(), c.at.Addr())}
	for _, network := range []string{"udp", "tcp"} {
		for _, contact := range contacts {
			r.deserts(network, contact, false)
			r.deserts(network, contact, true)
		}
	}
	calls := r.invites()
	if len(calls) != 4*len(contacts) {
		t.Fatalf("%d calls came to the PBX", len(calls))
	}
	asks := func(cseq int, methods ...string) {
		t.Helper()
		for _, m := range calls {
			for i, method := range methods {
				r.asks(m, cseq+i, method)
			}
		}
	}
	asks(10, "INFO", "OPTIONS", "INVITE")
	until(t, "all calls have ended", func() bool { return statsOf(t, r.edge).Concurrent == 0 })
	asks(20, "INFO", "BYE")
	r.edge.Stop()
	for _, what := range c.heard(t) {
		t.Errorf("came to %s", what)
	}
}

// asks sends a request of the PBX in the dialog of an INVITE.
func (r *robbery) asks(invite *siptest.Message, cseq int, method string) {
	r.t.Helper()
	req := r.pbx.Request(method, siptest.AddrURI(invite.Get("Contact"))).Set("From", invite.Get("To")+";tag=n").Set("To", invite.Get("From")).
		Set("Call-ID", invite.CallID()).Set("CSeq", fmt.Sprintf("%d %s", cseq, method))
	for _, v := range invite.Values("Record-Route") {
		req.Add("Route", v)
	}
	if err := r.pbx.SendTo(req.Bytes(), r.addr); err != nil {
		r.t.Fatal(err)
	}
}

// deserts makes a call with this Contact, has it answered and closes the socket that it came over.
func (r *robbery) deserts(network, contact string, recorded bool) {
	r.t.Helper()
	raw := keep(r.t)(siptest.DialRawFrom(network, at(evilA), r.addr, nil))
	x := (&hop{caller: raw, node: r.pbx}).begin(r.t, "INVITE")
	x.req.Set("Contact", "<"+contact+">").Add("Supported", "timer").Add("Session-Expires", "2").Add("Allow", "UPDATE, OPTIONS")
	if recorded {
		x.req.Add("Record-Route", "<"+contact+";lr>")
	}
	x.send(x.req)
	ok := x.callerGetsOneOf("INVITE", 100, 200)
	if ok.Status() != 200 {
		ok = x.callerGets(200, "INVITE")
	}
	x.send(x.inside(ok, "ACK", 1))
	closeRaw(r.t, raw)
}

// invites are the INVITEs that opened calls at the PBX, copies left out.
func (r *robbery) invites() (all []*siptest.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(all, r.opened...)
}
