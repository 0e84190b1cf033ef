//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

const natDomain = "pbx.example"

// startKamailio runs Kamailio in the inside network, as registrar and proxy of natDomain, with or without Path.
func startKamailio(t *testing.T, l *natLab, path bool) {
	t.Helper()
	dir := t.TempDir()
	config, err := filepath.Abs("testdata/nat/kamailio.cfg")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-DD", "-E", "-T", "-m", "32", "-M", "4", "-Y", dir, "-w", dir, "-f", config, "-l", "udp:" + natPBX.String()}
	if path {
		args = append(args, "-A", "PATH")
	}
	output, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(need(t, "kamailio"), args...)
	cmd.Stdout, cmd.Stderr = output, output
	enter(t, l.pbx, func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		late := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() }) // it may be gone by now
		_ = cmd.Process.Signal(syscall.SIGTERM)                                   // as above
		_ = cmd.Wait()                                                            // however it ends
		late.Stop()
		_ = output.Close() // all is written
		if t.Failed() {
			text, _ := os.ReadFile(output.Name())
			t.Logf("output of Kamailio:\n%s", text)
		}
	})
	asked := keep(t)(l.pbx.DialRaw("udp", netip.AddrPortFrom(natPBX.Addr(), 0), natPBX, nil))
	req := asked.Request("OPTIONS", "sip:"+natPBX.String()).Bytes()
	for range 100 {
		if err := asked.Send(req); err != nil {
			t.Fatal(err)
		}
		if _, err := asked.Next(100 * time.Millisecond); err == nil {
			return
		}
	}
	t.Fatal("Kamailio does not answer")
}

// b2bua is a PBX as most are: it is one end of each of two dialogs. It knows neither Path nor NAT: a call goes to the
// Contact that the last REGISTER had, to the letter. It repeats nothing by itself, but what is repeated to it.
type b2bua struct {
	raw *siptest.Raw

	mu       sync.Mutex        // guards what follows
	bindings map[string]string // user to Contact URI
	seen     []string          // every Contact and Via of a REGISTER
	legs     map[string]*leg   // by Call-ID
	relayed  map[string]*relay // by the branch of what it sent
	asked    map[string]*relay // by the branch and method of what it got
}

// leg is one of the two dialogs of a call.
type leg struct {
	callID, local, remote, target string
	routes                        []string
	cseq                          int
	other                         *leg
}

// relay is a request that went on to the other leg.
type relay struct {
	from   *leg
	req    *siptest.Message
	out    []byte // what went on
	to     netip.AddrPort
	answer []byte // the last answer
	cseq   int    // of what went on
	ack    []byte // that went on, for a 2xx
}

func startB2BUA(t *testing.T, l *natLab) *b2bua {
	t.Helper()
	p := &b2bua{
		raw: keep(t)(l.pbx.ListenRaw("udp", natPBX, nil)), bindings: make(map[string]string),
		legs: make(map[string]*leg), relayed: make(map[string]*relay), asked: make(map[string]*relay),
	}
	p.raw.Auto(func(m *siptest.Message) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if m.Status() != 0 {
			p.answered(m)
		} else {
			p.request(m)
		}
		return true
	})
	return p
}

// registered is the Contact that a user has.
func (p *b2bua) registered(user string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bindings[user]
}

// request takes a request; p.mu is held.
func (p *b2bua) request(m *siptest.Message) {
	if m.Method() == "ACK" {
		p.confirm(m)
		return
	}
	key := m.Branch() + m.Method()
	if r := p.asked[key]; r != nil {
		if r.answer != nil {
			_ = m.Reply(r.answer) // a lost one is asked for again
		}
		if r.out != nil {
			p.send(r.out, r.to)
		}
		return
	}
	r := &relay{req: m}
	p.asked[key] = r
	switch {
	case m.Method() == "REGISTER":
		p.register(r)
	case m.Method() == "OPTIONS" && m.Tag("To") == "":
		p.answer(r, siptest.Respond(m, 200, "OK", "b2b"))
	case m.Method() == "INVITE" && m.Tag("To") == "":
		p.call(r)
	default:
		p.inside(r)
	}
}

func (p *b2bua) register(r *relay) {
	user, _, _ := strings.Cut(strings.TrimPrefix(siptest.AddrURI(r.req.Get("To")), "sip:"), "@")
	res := siptest.Respond(r.req, 200, "OK", "b2b")
	if r.req.Get("Expires") == "0" {
		delete(p.bindings, user)
	} else {
		p.seen = append(append(p.seen, r.req.Values("Contact")...), r.req.Values("Via")...)
		p.bindings[user] = siptest.AddrURI(r.req.Get("Contact"))
		res.Add("Contact", "<"+p.bindings[user]+">;expires="+r.req.Get("Expires"))
	}
	p.answer(r, res)
}

// call begins the second dialog of a call.
func (p *b2bua) call(r *relay) {
	m := r.req
	user, _, _ := strings.Cut(strings.TrimPrefix(m.RURI(), "sip:"), "@")
	if p.bindings[user] == "" {
		p.answer(r, siptest.Respond(m, 404, "Not Found", "b2b"))
		return
	}
	tag := siptest.Unique("b2b")
	a := &leg{
		callID: m.CallID(), local: m.Get("To") + ";tag=" + tag, remote: m.Get("From"),
		target: siptest.AddrURI(m.Get("Contact")), routes: m.Values("Record-Route"),
	}
	b := &leg{
		callID: siptest.Unique("b2b"), local: "<" + siptest.AddrURI(m.Get("From")) + ">;tag=" + siptest.Unique("b2b"),
		remote: "<sip:" + user + "@" + natDomain + ">", target: p.bindings[user], other: a,
	}
	a.other = b
	p.legs[a.callID], p.legs[b.callID] = a, b
	_ = m.Respond(100, "Trying", "") // a lost one is asked for again
	p.pass(r, a)
}

// inside takes a request of a dialog.
func (p *b2bua) inside(r *relay) {
	l := p.legs[r.req.CallID()]
	if l == nil || !strings.HasSuffix(l.local, ";tag="+r.req.Tag("To")) {
		p.answer(r, siptest.Respond(r.req, 481, "Call/Transaction Does Not Exist", "b2b"))
		return
	}
	if contact := r.req.Get("Contact"); contact != "" {
		l.target = siptest.AddrURI(contact)
	}
	p.pass(r, l)
}

// pass sends a request of a leg on to the other one.
func (p *b2bua) pass(r *relay, from *leg) {
	to, method := from.other, r.req.Method()
	to.cseq++
	r.from, r.cseq = from, to.cseq
	req := p.text(to, method, to.cseq)
	branch, _ := siptest.Param(req.Get("Via"), "branch")
	if method == "INVITE" || method == "UPDATE" {
		req.Add("Contact", "<"+p.raw.URI("b2b")+">")
	}
	if body := r.req.Body(); len(body) > 0 {
		req.Add("Content-Type", r.req.Get("Content-Type"))
		req.Body = string(body)
	}
	r.out, r.to = req.Bytes(), hopOf(to)
	p.relayed[branch] = r
	p.send(r.out, r.to)
}

// text is a request of a leg (RFC 3261 12.2.1.1).
func (p *b2bua) text(l *leg, method string, cseq int) *siptest.Text {
	req := siptest.Request(method, l.target).Set("From", l.local).Set("To", l.remote).Set("Call-ID", l.callID).
		Set("CSeq", fmt.Sprintf("%d %s", cseq, method)).Prepend("Via", p.raw.Via())
	for _, route := range l.routes {
		req.Add("Route", route)
	}
	return req
}

// hopOf is where the requests of a leg go.
func hopOf(l *leg) netip.AddrPort {
	uri := l.target
	if len(l.routes) > 0 {
		uri = siptest.AddrURI(l.routes[0])
	}
	to, _ := siptest.URIHost(uri)
	return to
}

// answered takes a response; p.mu is held.
func (p *b2bua) answered(m *siptest.Message) {
	r := p.relayed[m.Branch()]
	if r == nil || m.Status() == 100 {
		return
	}
	to, method := r.from.other, r.req.Method()
	if method == "INVITE" && m.Status() >= 300 { // 17.1.1.3
		ack := p.text(to, "ACK", r.cseq).Set("To", m.Get("To"))
		ack.Set("Via", m.Get("Via"))
		p.send(ack.Bytes(), r.to)
	}
	if m.Status() < 300 && r.ack != nil { // 13.2.2.4
		p.send(r.ack, hopOf(to))
		return
	}
	if method == "INVITE" && m.Status() < 300 && m.Status() >= 200 {
		to.target = siptest.AddrURI(m.Get("Contact"))
		if to.routes == nil { // 12.1.2
			to.remote = m.Get("To")
			recorded := m.Values("Record-Route")
			for i := len(recorded) - 1; i >= 0; i-- {
				to.routes = append(to.routes, recorded[i])
			}
		}
	}
	_, tag, _ := strings.Cut(r.from.local, ";tag=")
	res := siptest.Respond(r.req, m.Status(), "As The Other Says", tag)
	if method == "INVITE" && m.Status() < 300 {
		res.Add("Contact", "<"+p.raw.URI("b2b")+">")
	}
	if body := m.Body(); len(body) > 0 {
		res.Add("Content-Type", m.Get("Content-Type"))
		res.Body = string(body)
	}
	p.answer(r, res)
}

// confirm takes an ACK on to the other leg.
func (p *b2bua) confirm(m *siptest.Message) {
	l := p.legs[m.CallID()]
	if l == nil {
		return
	}
	for _, r := range p.asked {
		if r.from == l && r.req.Method() == "INVITE" && r.req.CSeq() == m.CSeq() && strings.HasPrefix(string(r.answer), "SIP/2.0 2") {
			r.ack = p.text(l.other, "ACK", r.cseq).Bytes()
			p.send(r.ack, hopOf(l.other))
		}
	}
}

func (p *b2bua) answer(r *relay, res *siptest.Text) {
	r.answer = res.Bytes()
	_ = r.req.Reply(r.answer) // a lost one is asked for again
}

func (p *b2bua) send(b []byte, to netip.AddrPort) {
	_ = p.raw.SendTo(b, to) // a lost one is asked for again; what cannot be reached has no call
}
