package e2e

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/admin"
	"github.com/sipward/sipward/proxy"
	"github.com/sipward/sipward/test/siptest"
)

// site is where the page with the telephone comes from, and a browser to show it in. One certificate is for all edges.
type site struct {
	*httptest.Server
	browser *chromium
	cert    *siptest.Certificate
}

func newSite(t *testing.T) *site {
	t.Helper()
	need(t, "chromium")
	modules := npmCI(t, "testdata/browser")
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir("testdata/browser")))
	mux.Handle("/node_modules/", http.StripPrefix("/node_modules/", http.FileServer(http.Dir(modules))))
	s := &site{Server: httptest.NewServer(mux), cert: certificate(t)}
	t.Cleanup(s.Close)
	s.browser = startChromium(t, pin(t, s.cert))
	return s
}

func (s *site) page() string { return s.URL + "/phone.html" }

// pin is what Chromium knows a certificate by.
func pin(t *testing.T, c *siptest.Certificate) string {
	t.Helper()
	block, _ := pem.Decode(c.CertPEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// users of the domain, and their passwords.
var users = map[string]string{"ann": "open sesame", "ben": "open barley", "desk": "on the desk"}

// switchboard is an edge between browsers and a desk phone outside, and the registrar of their domain inside.
type switchboard struct {
	*site
	edge      *siptest.Edge
	udp, wss  netip.AddrPort
	registrar *siptest.Registrar
	desk      *siptest.Phone
}

// newSwitchboard starts one. The registrar knows Path or it does not; top are further keys of the configuration.
func newSwitchboard(t *testing.T, s *site, path bool, top string) *switchboard {
	t.Helper()
	b := &switchboard{site: s, udp: freeAddr(t), wss: freeAddr(t)}
	registrar, err := siptest.NewRegistrar(siptest.RegistrarOptions{Address: at(nodeA), Accounts: users, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := registrar.Close(); err != nil {
			t.Error(err)
		}
	})
	b.registrar = registrar
	certFile, keyFile, err := s.cert.Write(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b.edge = siptest.StartEdge(t, settings{
		listen: []string{
			"udp:" + b.udp.String(),
			fmt.Sprintf("{ address: \"wss:%s\", certificate: %q, key: %q, origins: [%q] }", b.wss, certFile, keyFile, s.URL),
		},
		backends: []string{registrar.URI()},
		top:      top,
	}.yaml())
	b.desk = newPhone(t, siptest.PhoneOptions{
		User: "desk", Proxy: b.udp, Describe: describe, Ringing: 10 * time.Millisecond, Answer: 10 * time.Millisecond,
	})
	if a, err := b.desk.Register(within(t, soon), users["desk"]); err != nil || a.Status != 200 {
		t.Fatalf("the desk phone registers: %d %s %v", a.Status, a.Reason, err)
	}
	return b
}

// registered is a page of a user that has registered.
func (b *switchboard) registered(t *testing.T, user string) *webphone {
	t.Helper()
	w := &webphone{b.browser.open(t, b.page())}
	w.register(b, user)
	return w
}

// list are the registrations that the edge knows, of one user.
func (b *switchboard) list(t *testing.T, user string) []proxy.RegistrationInfo {
	t.Helper()
	var all struct {
		Registrations []proxy.RegistrationInfo `json:"registrations"`
	}
	ask(t, b.edge, &all, "registrations", "list")
	var out []proxy.RegistrationInfo
	for _, r := range all.Registrations {
		if strings.HasPrefix(r.AoR, user+"@") {
			out = append(out, r)
		}
	}
	return out
}

// closed waits for the log line that tells of the closed connection of a registration.
func (b *switchboard) closed(t *testing.T, r proxy.RegistrationInfo) {
	t.Helper()
	conid := regexp.MustCompile(fmt.Sprintf(`\bconid"?[=:]"?%d\b`, r.Connection))
	_, err := b.edge.WaitLine(within(t, soon), 0, func(l string) bool {
		return strings.Contains(l, "[TCP:CLOSED]") && conid.MatchString(l) && strings.Contains(l, r.AoR)
	})
	if err != nil {
		t.Fatalf("no line about the closed connection %d of %s: %v", r.Connection, r.AoR, err)
	}
}

// unreachable: a call to a user is answered with 430 at once.
func (b *switchboard) unreachable(t *testing.T, user string) {
	t.Helper()
	still, began := siptest.WatchStillness(t), time.Now()
	c, err := b.desk.Call(within(t, soon), b.aor(user))
	if err != nil {
		t.Fatal(err)
	}
	if took := still.Since(began); c.Status != 430 || took > time.Second {
		t.Errorf("a call to %s got %d %s after %s, want 430 at once", user, c.Status, c.Reason, took)
	}
}

// calls is a call from the desk to ann that rings in her page.
func (b *switchboard) calls(t *testing.T, ann *webphone) *siptest.Call {
	t.Helper()
	c, err := b.desk.Dial(within(t, browserTime), b.aor("ann"))
	if err != nil {
		t.Fatal(err)
	}
	if e := ann.until("incoming"); e.From != b.aor("desk") {
		t.Errorf("called by %s", e.From)
	}
	return c
}

func (b *switchboard) aor(user string) string { return "sip:" + user + "@siptest.example" }

// webphone is the telephone in a page.
type webphone struct{ *tab }

func (w *webphone) register(b *switchboard, user string) {
	w.t.Helper()
	w.start(b, user)
	if e := w.until("registered", "registrationFailed", "disconnected"); e.Name != "registered" {
		w.t.Fatalf("%s does not register: %+v", user, e)
	}
}

func (w *webphone) start(b *switchboard, user string) {
	w.t.Helper()
	instance := fmt.Sprintf("00000000-0000-4000-8000-%012x", user) // the same for the same user
	options, err := json.Marshal(map[string]string{
		"url": "wss://" + b.wss.String() + "/sip", "uri": b.aor(user), "password": users[user], "instance": instance,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.eval(fmt.Sprintf("phone.start(%s)", options), nil)
}

// pageEvent is something that happened in the page.
type pageEvent struct {
	Name       string `json:"name"`
	Status     int    `json:"status"`
	Code       int    `json:"code"`
	Originator string `json:"originator"`
	Cause      string `json:"cause"`
	From       string `json:"from"`
	State      string `json:"state"`
}

// until waits for the next event with one of these names.
func (w *webphone) until(names ...string) pageEvent {
	w.t.Helper()
	var e pageEvent
	w.eval(fmt.Sprintf("phone.until('%s')", strings.Join(names, "', '")), &e)
	return e
}

// confirmed waits until the call is up: the ACK was sent or has come.
func (w *webphone) confirmed() {
	w.t.Helper()
	if e := w.until("confirmed", "failed", "ended"); e.Name != "confirmed" {
		w.t.Fatalf("the call does not come about: %+v", e)
	}
}

// ended waits until the call is over, ended by the page ("local") or by the other side ("remote").
func (w *webphone) ended(by string) {
	w.t.Helper()
	if e := w.until("ended", "failed"); e.Name != "ended" || e.Originator != by {
		w.t.Errorf("the call ended so: %+v, want by %s", e, by)
	}
}

func (w *webphone) do(what string) {
	w.t.Helper()
	w.eval("phone."+what, nil)
}

// messages are those of the messages that the tab has received, or sent, that begin like this.
func (p *tab) messages(from *[]string, start string) []*siptest.Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*siptest.Message
	for _, text := range *from {
		if strings.HasPrefix(text, start) {
			out = append(out, &siptest.Message{Data: []byte(text)})
		}
	}
	return out
}

// describe is the session description of a gateway that speaks WebRTC: a browser takes it, though nobody is there.
// An answer has the media identification of its offer.
func describe(offer []byte) []byte {
	setup, mid := "actpass", "0"
	if len(offer) > 0 {
		setup = "active"
		if m := regexp.MustCompile(`(?m)^a=mid:([^\r\n]+)`).FindSubmatch(offer); m != nil {
			mid = string(m[1])
		}
	}
	lines := []string{
		"v=0", "o=desk 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0", "m=audio 9 UDP/TLS/RTP/SAVPF 0", "c=IN IP4 127.0.0.1",
		"a=rtpmap:0 PCMU/8000", "a=mid:" + mid, "a=sendrecv", "a=rtcp-mux", "a=ice-ufrag:desk", "a=ice-pwd:0123456789abcdef01234567",
		"a=fingerprint:sha-256 " + strings.TrimSuffix(strings.Repeat("AB:", 32), ":"), "a=setup:" + setup,
		"a=candidate:1 1 udp 2130706431 127.0.0.1 9 typ host", "a=end-of-candidates",
	}
	return []byte(strings.Join(lines, "\r\n") + "\r\n")
}

// TestBrowserThroughTheEdge: a page registers over WSS with its password, calls a telephone on UDP and is called by it,
// also over a connection that it made amid the call, and two pages talk to each other; with a registrar that knows Path
// and with one that does not.
func TestBrowserThroughTheEdge(t *testing.T) {
	s := newSite(t)
	for _, mode := range []struct{ name, ping string }{{"path", "options"}, {"contact", "crlf"}} {
		t.Run(mode.name, func(t *testing.T) {
			b := newSwitchboard(t, s, mode.name == "path",
				fmt.Sprintf("lab: yes\nregistration: { mode: %s, ping: %s, ping_interval: 0.5 }\n", mode.name, mode.ping))
			ann := b.registered(t, "ann")
			isRegisteredAs(t, b, ann, mode.name)
			talks(t, b, ann)
			changesConnections(t, b, ann)
			isPinged(t, b, "ann")
			t.Run("a page calls a page", func(t *testing.T) {
				ann.in(t)
				pagesTalk(t, b, ann, b.registered(t, "ben"))
			})
			t.Run("a page of another site", func(t *testing.T) { foreignPageIsRefused(t, b) })
			ann.do("unregister()")
			ann.until("unregistered")
			if l := b.list(t, "ann"); len(l) != 0 {
				t.Errorf("registered after all: %+v", l)
			}
		})
	}
}

// isRegisteredAs: the registrar has nothing but the edge to call, and the page sees nothing but itself.
func isRegisteredAs(t *testing.T, b *switchboard, ann *webphone, mode string) {
	t.Helper()
	sent := ann.messages(&ann.sent, "REGISTER ")
	own := siptest.AddrURI(sent[len(sent)-1].Get("Contact"))
	ok := ann.messages(&ann.received, "SIP/2.0 200")
	if got := siptest.AddrURI(ok[0].Get("Contact")); got != own {
		t.Errorf("the page registered %s and is told of %s", own, got)
	}
	bound := b.registrar.Bindings("ann")
	if len(bound) != 1 {
		t.Fatalf("the registrar has %d contacts, want one: %+v", len(bound), bound)
	}
	way := bound[0].Contact
	if mode == "path" {
		if way != own || len(bound[0].Path) != 1 {
			t.Fatalf("the registrar has %+v, want %s with one Path", bound[0], own)
		}
		way = siptest.AddrURI(bound[0].Path[0])
	}
	if host, ok := siptest.URIHost(way); !ok || host != b.udp {
		t.Errorf("calls would go to %s, want the edge's %s", way, b.udp)
	}
	l := b.list(t, "ann")
	if len(l) != 1 || l[0].Mode != mode || l[0].State != "registered" || l[0].Contact != own || !strings.HasPrefix(l[0].Flow, "wss:127.0.0.1:") {
		t.Errorf("listed as %+v", l)
	}
}

// talks: calls in both directions that end in every way.
func talks(t *testing.T, b *switchboard, ann *webphone) {
	final := func(t *testing.T, c *siptest.Call, status int) {
		t.Helper()
		if err := c.Wait(within(t, soon)); err != nil || c.Status != status {
			t.Fatalf("the call got %d %s (%v), want %d", c.Status, c.Reason, err, status)
		}
	}
	byes := func() int { return b.desk.Received("BYE") }
	t.Run("the page calls and hangs up", func(t *testing.T) {
		ann.in(t)
		before := byes()
		ann.do(fmt.Sprintf("call(%q)", b.aor("desk")))
		ann.confirmed()
		ann.do("hangup()")
		ann.ended("local")
		if err := b.desk.WaitCalls(within(t, soon), 0); err != nil || byes() != before+1 {
			t.Errorf("the desk phone got %d BYE: %v", byes()-before, err)
		}
	})
	t.Run("the page calls and the phone hangs up", func(t *testing.T) {
		ann.in(t)
		ann.do(fmt.Sprintf("call(%q)", b.aor("desk")))
		ann.confirmed()
		if code, err := b.desk.Request(within(t, soon), last(b.desk.CallIDs()), "BYE"); err != nil || code != 200 {
			t.Errorf("BYE of the desk phone: %d %v", code, err)
		}
		ann.ended("remote")
	})
	t.Run("the page is called and hangs up", func(t *testing.T) {
		ann.in(t)
		c := b.calls(t, ann)
		ann.do("answer()")
		ann.confirmed()
		final(t, c, 200)
		ann.do("hangup()")
		ann.ended("local")
		select {
		case <-c.Ended():
		case <-time.After(soon):
			t.Error("the desk phone got no BYE")
		}
	})
	t.Run("the page is called and the phone hangs up", func(t *testing.T) {
		ann.in(t)
		c := b.calls(t, ann)
		ann.do("answer()")
		ann.confirmed()
		final(t, c, 200)
		if code, err := c.Hangup(within(t, soon)); err != nil || code != 200 {
			t.Errorf("BYE of the desk phone: %d %v", code, err)
		}
		ann.ended("remote")
	})
	t.Run("the page refuses", func(t *testing.T) {
		ann.in(t)
		c := b.calls(t, ann)
		ann.do("reject(486)")
		final(t, c, 486)
	})
	t.Run("the phone thinks better of it", func(t *testing.T) {
		ann.in(t)
		c := b.calls(t, ann)
		if code, err := c.Cancel(within(t, soon)); err != nil || code != 200 {
			t.Errorf("CANCEL: %d %v", code, err)
		}
		final(t, c, 487)
		if e := ann.until("failed"); e.Originator != "remote" || e.Cause != "Canceled" {
			t.Errorf("in the page it ended so: %+v", e)
		}
	})
}

// changesConnections: a page that loses its connection amid a call, as it does when its user leaves the Wi-Fi, makes a
// new one; what belongs to the call comes and goes over that.
func changesConnections(t *testing.T, b *switchboard, ann *webphone) {
	comesBack := func(t *testing.T) {
		t.Helper()
		before := b.list(t, "ann")[0]
		ann.do("lose()")
		ann.until("disconnected")
		ann.until("registered")
		b.closed(t, before)
		if l := b.list(t, "ann"); len(l) != 1 || l[0].State != "registered" || l[0].Connection == before.Connection {
			t.Errorf("listed: %+v, before %+v", l, before)
		}
	}
	t.Run("the page calls and changes its connection", func(t *testing.T) {
		ann.in(t)
		ann.do(fmt.Sprintf("call(%q)", b.aor("desk")))
		ann.confirmed()
		comesBack(t)
		if code, err := b.desk.Request(within(t, soon), last(b.desk.CallIDs()), "BYE"); err != nil || code != 200 {
			t.Errorf("BYE of the desk phone: %d %v", code, err)
		}
		ann.ended("remote")
	})
	t.Run("the page is called and changes its connection", func(t *testing.T) {
		ann.in(t)
		c := b.calls(t, ann)
		ann.do("answer()")
		ann.confirmed()
		if err := c.Wait(within(t, soon)); err != nil || c.Status != 200 {
			t.Fatalf("the call got %d %s (%v)", c.Status, c.Reason, err)
		}
		comesBack(t)
		// JsSIP wants INFO to be about something, and says so in the call.
		if code, err := c.Request(within(t, soon), "INFO"); err != nil || code != 415 {
			t.Errorf("INFO of the desk phone: %d %v", code, err)
		}
		ann.do("hangup()")
		ann.ended("local")
		select {
		case <-c.Ended():
		case <-time.After(soon):
			t.Error("the desk phone got no BYE")
		}
	})
}

// isPinged: the connection of a page is kept busy, whatever the page does, and its answers are seen.
func isPinged(t *testing.T, b *switchboard, user string) {
	t.Helper()
	for deadline := time.Now().Add(soon); ; {
		l := b.list(t, user)
		if len(l) == 1 && l[0].Pings > 0 && l[0].Missed == 0 && !l[0].LastPong.IsZero() {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("listed: %+v", l)
			return
		}
		<-time.After(100 * time.Millisecond) // a ping leaves no line
	}
}

// pagesTalk: what two pages say of their media reaches the other byte by byte. It is enough for ICE and DTLS, whose
// fingerprints a changed byte would break.
func pagesTalk(t *testing.T, b *switchboard, ann, ben *webphone) {
	t.Helper()
	before := len(ann.messages(&ann.sent, "INVITE "))
	ann.do("forget()")
	ann.do(fmt.Sprintf("call(%q)", b.aor("ben")))
	ben.until("incoming")
	ben.do("answer()")
	for _, w := range []*webphone{ann, ben} {
		for {
			e := w.until("media", "failed", "ended")
			if e.State == "connected" {
				break
			}
			if e.Name != "media" || e.State == "failed" {
				t.Fatalf("no media: %+v", e)
			}
		}
	}
	offered, got := ann.messages(&ann.sent, "INVITE ")[before], ben.messages(&ben.received, "INVITE ")[0]
	if string(offered.Body()) != string(got.Body()) || len(got.Body()) == 0 {
		t.Errorf("offer changed from\n%s\nto\n%s", offered.Body(), got.Body())
	}
	callID := offered.CallID()
	if answered, heard := answerOf(t, ben, &ben.sent, callID), answerOf(t, ann, &ann.received, callID); answered != heard {
		t.Errorf("answer changed from\n%s\nto\n%s", answered, heard)
	}
	ben.do("hangup()")
	ann.ended("remote")
	ben.close()
}

// answerOf is the body of the 200 to the INVITE of a call.
func answerOf(t *testing.T, w *webphone, from *[]string, callID string) string {
	t.Helper()
	for _, m := range w.messages(from, "SIP/2.0 200") {
		if m.Method() == "INVITE" && m.CallID() == callID && len(m.Body()) > 0 {
			return string(m.Body())
		}
	}
	t.Fatal("no 200 with a body")
	return ""
}

// foreignPageIsRefused: a page of a site that is not in the list gets no connection, so that no site can use the
// browsers of its visitors.
func foreignPageIsRefused(t *testing.T, b *switchboard) {
	t.Helper()
	ofBen := func(m *siptest.Message) bool {
		return strings.Contains(m.Get("From"), "ben@") && m.Method() == "REGISTER"
	}
	before := len(b.registrar.Seen(ofBen))
	foreign := httptest.NewServer(b.Config.Handler)
	t.Cleanup(foreign.Close)
	w := &webphone{b.browser.open(t, foreign.URL+"/phone.html")}
	w.start(b, "ben")
	if e := w.until("connected", "disconnected"); e.Name != "disconnected" {
		t.Errorf("the page of %s: %+v", foreign.URL, e)
	}
	if n := len(b.registrar.Seen(ofBen)) - before; n > 0 {
		t.Errorf("%d messages reached the registrar", n)
	}
	w.close()
}

// TestClosedTabIsADeadRegistration: however a page goes away, calls to it are refused at once, and its registration
// is gone when the time to come back is over. One that comes back is called on its new connection.
func TestClosedTabIsADeadRegistration(t *testing.T) {
	const grace = time.Second
	s := newSite(t)
	b := newSwitchboard(t, s, true, fmt.Sprintf("registration: { closed_grace: %g }\n", grace.Seconds()))
	// only is the one registration of ann.
	only := func(t *testing.T) proxy.RegistrationInfo {
		t.Helper()
		l := b.list(t, "ann")
		if len(l) != 1 || l[0].State != "registered" {
			t.Fatalf("listed: %+v", l)
		}
		return l[0]
	}
	t.Run("the page is reloaded", func(t *testing.T) {
		ann := b.registered(t, "ann")
		before := only(t)
		ann.load(b.page())
		ann.register(b, "ann")
		b.closed(t, before)
		<-time.After(grace + grace/2) // nothing may happen in this time
		if after := only(t); after.Connection == before.Connection {
			t.Errorf("listed: %+v, before %+v", after, before)
		}
		c := b.calls(t, ann)
		ann.do("answer()")
		ann.confirmed()
		if err := c.Wait(within(t, soon)); err != nil || c.Status != 200 {
			t.Fatalf("the call got %d %s (%v)", c.Status, c.Reason, err)
		}
		ann.do("hangup()")
		ann.ended("local")
		ann.close()
	})
	t.Run("the tab is closed while it rings", func(t *testing.T) {
		ann := b.registered(t, "ann")
		c := b.calls(t, ann)
		still := siptest.WatchStillness(t)
		closed := time.Now()
		ann.close()
		if err := c.Wait(within(t, browserTime)); err != nil || c.Status != 430 {
			t.Errorf("the call got %d %s (%v), want 430", c.Status, c.Reason, err)
		}
		if took := still.Since(closed); took > 2*slow {
			t.Errorf("the caller waited %s", took)
		}
	})
	t.Run("the tab is closed amid a call", func(t *testing.T) {
		ann := b.registered(t, "ann")
		r := only(t)
		ann.do(fmt.Sprintf("call(%q)", b.aor("desk")))
		ann.confirmed()
		ann.close()
		b.closed(t, r)
		// Nobody can take the BYE, but the call has ended all the same.
		if code, err := b.desk.Request(within(t, soon), last(b.desk.CallIDs()), "BYE"); err != nil || code != 430 {
			t.Errorf("BYE of the desk phone: %d %v, want 430", code, err)
		}
		var left admin.CallList
		if ask(t, b.edge, &left, "calls", "list"); len(left.Calls) > 0 {
			t.Errorf("calls are left: %+v", left.Calls)
		}
	})
	for _, way := range []struct {
		name string
		ends func(*webphone)
	}{
		{"the tab is closed", func(w *webphone) { w.close() }},
		{"the page crashes", func(w *webphone) { w.crash() }},
		{"the browser is killed", func(w *webphone) { w.browser.kill() }},
	} {
		t.Run(way.name, func(t *testing.T) {
			ann := b.registered(t, "ann")
			r := only(t)
			way.ends(ann)
			b.closed(t, r)
			b.unreachable(t, "ann")
			for deadline := time.Now().Add(grace + soon); ; {
				l := b.list(t, "ann")
				if len(l) == 0 {
					break
				}
				if l[0].State != "closed" || time.Now().After(deadline) {
					t.Fatalf("listed: %+v", l)
				}
				<-time.After(100 * time.Millisecond) // there is no line for the end of the grace
			}
			b.unreachable(t, "ann")
		})
	}
}

func last[T any](list []T) T { return list[len(list)-1] }
