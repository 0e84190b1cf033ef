package siptest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// PartyOptions says what one end of a call is like.
type PartyOptions struct {
	Name   string         // user part of its URIs, and its tag's prefix
	Lines  []string       // header lines of its INVITEs, UPDATEs and their 2xx: Supported, Allow
	Timer  bool           // it knows RFC 4028: it repeats a Session-Expires in its 2xx
	T1     time.Duration  // RFC 3261 17.1.1.1; default 500 ms
	T2     time.Duration  // the longest pause between repeats; default 8*T1
	Public netip.AddrPort // where it says it can be reached; default its own address
}

// Party is one end of one call, without a SIP stack, that takes RFC 3261 at its word:
// a request of its dialog has to come to its Contact, with the tags of the dialog and a
// CSeq number above all before (12.2.2), an ACK with the number of an INVITE that it has
// answered (13.2.2.4), a PRACK with the numbers of the response that it confirms
// (RFC 3262 3), a response with the number of the request (8.1.3.3). It refuses what is
// not so and remembers it: see Wrong. It retransmits over UDP as clause 17 says.
//
// Its methods may be called from any goroutine.
type Party struct {
	raw  *Raw
	o    PartyOptions
	stop chan struct{}
	work sync.WaitGroup

	mu      sync.Mutex // guards what follows
	changed chan struct{}
	closed  bool
	out     func([]byte) error // where its requests go

	callID, tag, local string
	remote, target     string
	routes             []string
	cseq, rseq         int
	highest            int             // of the other side; -1: none yet
	inviting           bool            // an INVITE of its own is open
	early              map[string]bool // branches of its INVITEs that ring: not sent again
	sent               map[string]*sentRequest
	acks               map[int]*Text         // for 2xx, by the number of the INVITE
	invited            map[int]chan struct{} // INVITEs it has answered, closed with the ACK
	pracked            map[string]chan struct{}
	answers            map[string][]byte // to requests, by branch and method; nil: none
	script             map[string]int
	heard              []Heard
	wrong              []string
	deaf               bool
}

// Heard is a request that a Party got, copies left out.
type Heard struct {
	*Message
	At   time.Time
	Late bool // its CSeq number was below another's: it was refused
	Deaf bool // the Party was deaf and gave no answer
}

// sentRequest is a request under way.
type sentRequest struct {
	method string
	cseq   int
	final  chan *Message
	text   *Text
}

// NewParty makes an endpoint one end of a call. It takes every message that comes to it.
func NewParty(raw *Raw, o PartyOptions) *Party {
	p := newParty(raw, o)
	raw.Auto(func(m *Message) bool {
		p.take(m)
		return true
	})
	return p
}

func newParty(raw *Raw, o PartyOptions) *Party {
	if o.T1 == 0 {
		o.T1 = t1
	}
	if o.T2 == 0 {
		o.T2 = 8 * o.T1
	}
	if !o.Public.IsValid() {
		o.Public = raw.Addr()
	}
	return &Party{
		raw: raw, o: o, stop: make(chan struct{}), changed: make(chan struct{}), out: raw.Send, highest: -1,
		tag: Unique(o.Name), early: make(map[string]bool), sent: make(map[string]*sentRequest), acks: make(map[int]*Text),
		invited: make(map[int]chan struct{}), pracked: make(map[string]chan struct{}), answers: make(map[string][]byte), script: make(map[string]int),
	}
}

// Close ends what it has under way. The endpoint below stays open.
func (p *Party) Close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.stop)
	}
	p.mu.Unlock()
	p.work.Wait()
}

// Contact is the URI it says it can be reached at.
func (p *Party) Contact() string { return URI(p.o.Name, p.o.Public, p.raw.Network()) }

// CallID is that of the call, "" before it.
func (p *Party) CallID() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.callID
}

// Deafen makes it answer nothing any more, or again; it still notes what it hears.
func (p *Party) Deafen(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = on
}

// Script fixes the code of its answers to a method; 0 takes that away.
func (p *Party) Script(method string, code int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script[method] = code
}

// Move makes it go on over another endpoint, with a Contact there.
func (p *Party) Move(raw *Raw) {
	p.mu.Lock()
	p.raw, p.out, p.o.Public = raw, raw.Send, raw.Addr()
	p.mu.Unlock()
	raw.Auto(func(m *Message) bool {
		p.take(m)
		return true
	})
}

// Wrong is everything that came and should not have.
func (p *Party) Wrong() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.wrong...)
}

// Heard are the requests of a method that came, of all when it is "".
func (p *Party) Heard(method string) []Heard {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heardLocked(method)
}

func (p *Party) heardLocked(method string) []Heard {
	var out []Heard
	for _, h := range p.heard {
		if method == "" || h.Method() == method {
			out = append(out, h)
		}
	}
	return out
}

// Await waits for the n-th request of a method, counted from 1.
func (p *Party) Await(ctx context.Context, method string, n int) (Heard, error) {
	for {
		p.mu.Lock()
		heard, changed := p.heardLocked(method), p.changed
		p.mu.Unlock()
		if len(heard) >= n {
			return heard[n-1], nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Heard{}, fmt.Errorf("%s waits for %s number %d, has %d: %w", p.o.Name, method, n, len(heard), ctx.Err())
		}
	}
}

// Call places the call and returns its 2xx once it is acknowledged.
func (p *Party) Call(ctx context.Context, uri string) (*Message, error) {
	return p.call(ctx, Request("INVITE", uri))
}

func (p *Party) call(ctx context.Context, req *Text) (*Message, error) {
	p.mu.Lock()
	p.callID, p.cseq = req.CallID(), 1
	p.local = "<sip:" + p.o.Name + "@siptest.example>;tag=" + p.tag
	p.mu.Unlock()
	req.Set("From", p.local)
	res, err := p.transact(ctx, p.dress(req))
	if err != nil {
		return nil, err
	}
	if res.Status() >= 300 {
		return res, fmt.Errorf("the call was answered with %d", res.Status())
	}
	p.mu.Lock()
	p.join(res)
	p.mu.Unlock()
	return res, p.acknowledge(1)
}

// join makes the dialog of a response to its first INVITE (12.1.2); p.mu is held.
func (p *Party) join(m *Message) {
	p.remote, p.target, p.routes = m.Get("To"), AddrURI(m.Get("Contact")), nil
	recorded := m.Values("Record-Route")
	for i := len(recorded) - 1; i >= 0; i-- {
		p.routes = append(p.routes, recorded[i])
	}
}

// dress adds Via, and what a target refresh request has besides.
func (p *Party) dress(req *Text) *Text {
	p.mu.Lock()
	defer p.mu.Unlock()
	req.Prepend("Via", p.raw.Via()+";rport")
	switch method, _, _ := strings.Cut(req.Start, " "); method {
	case "INVITE":
		p.describe(req)
	case "UPDATE":
	default:
		return req
	}
	req.Add("Contact", "<"+p.Contact()+">")
	req.Lines = append(req.Lines, p.o.Lines...)
	return req
}

// describe adds its SDP, the same every time.
func (p *Party) describe(m *Text) {
	m.SDP()
	m.Body = strings.Replace(m.Body, "o=siptest", "o="+p.o.Name, 1)
}

// Request sends a request inside the dialog, with further header lines, and returns its
// final response, acknowledged if it was an INVITE.
func (p *Party) Request(ctx context.Context, method string, lines ...string) (*Message, error) {
	p.mu.Lock()
	p.cseq++
	req := p.numbered(method, p.cseq)
	cseq := p.cseq
	p.mu.Unlock()
	req.Lines = append(req.Lines, lines...)
	res, err := p.transact(ctx, p.dress(req))
	if err != nil {
		return nil, err
	}
	if method == "INVITE" && res.Status() < 300 {
		return res, p.acknowledge(cseq)
	}
	return res, nil
}

// numbered is a request of the dialog without Via (12.2.1.1); p.mu is held.
func (p *Party) numbered(method string, cseq int) *Text {
	req := Request(method, p.target)
	req.Set("From", p.local).Set("To", p.remote).Set("Call-ID", p.callID).Set("CSeq", fmt.Sprintf("%d %s", cseq, method))
	for i := len(p.routes) - 1; i >= 0; i-- {
		req.Prepend("Route", p.routes[i])
	}
	return req
}

// acknowledge sends the ACK for a 2xx; copies of the 2xx get it again.
func (p *Party) acknowledge(cseq int) error {
	p.mu.Lock()
	ack := p.numbered("ACK", cseq).Prepend("Via", p.raw.Via()+";rport")
	p.acks[cseq] = ack
	out := p.out
	p.mu.Unlock()
	return out(ack.Bytes())
}

// transact sends a request until its final response (17.1).
func (p *Party) transact(ctx context.Context, req *Text) (*Message, error) {
	method, _, _ := strings.Cut(req.Start, " ")
	cseq, _ := strconv.Atoi(strings.Fields(req.Get("CSeq"))[0])
	branch, _ := Param(req.Get("Via"), "branch")
	tx := &sentRequest{method: method, cseq: cseq, final: make(chan *Message, 1), text: req}
	p.mu.Lock()
	p.sent[branch] = tx
	p.inviting = p.inviting || method == "INVITE"
	p.mu.Unlock()
	if method == "INVITE" {
		defer func() {
			p.mu.Lock()
			p.inviting = false
			p.mu.Unlock()
		}()
	}
	data, wait := req.Bytes(), p.o.T1
	timer := time.NewTimer(0)
	defer timer.Stop()
	for first := true; ; first = false {
		select {
		case m := <-tx.final:
			return m, nil
		case <-timer.C:
			p.mu.Lock()
			again, out := !p.early[branch] && p.raw.Network() == "udp", p.out
			p.mu.Unlock()
			if first || again {
				if err := out(data); err != nil {
					return nil, err
				}
			}
			timer.Reset(wait)
			wait = min(2*wait, p.o.T2)
		case <-p.stop:
			return nil, errors.New("the party was closed")
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: no answer to %s %d: %w", p.o.Name, method, cseq, ctx.Err())
		}
	}
}

// take gets every message, on the reader's goroutine.
func (p *Party) take(m *Message) {
	switch {
	case len(m.Data) < 5: // a keep-alive
	case m.Status() != 0:
		p.answered(m)
	case m.Method() == "ACK":
		p.acknowledged(m)
	default:
		p.asked(m)
	}
}

// complain notes what should not have come; p.mu is held.
func (p *Party) complain(format string, m *Message) {
	p.wrong = append(p.wrong, p.o.Name+": "+format+":\n"+m.String())
}

// answered takes a response.
func (p *Party) answered(m *Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tx := p.sent[m.Branch()]
	if tx == nil {
		p.complain("response to nothing it has sent", m)
		return
	}
	if m.CSeq() != tx.cseq || m.Method() != tx.method || m.Tag("From") != p.tag || m.CallID() != p.callID {
		p.complain(fmt.Sprintf("response to %s %d that is not its own", tx.method, tx.cseq), m)
		return
	}
	code := m.Status()
	switch {
	case p.deaf:
		return
	case code < 200:
		p.early[m.Branch()] = true
		p.confirm(m)
		return
	case tx.method == "INVITE" && code >= 300: // 17.1.1.3
		ack := tx.text.Clone().Method("ACK").Set("To", m.Get("To")).Del("Contact").Del("Content-Type")
		ack.Body = ""
		_ = p.out(ack.Bytes()) // a lost one is asked for again
	case tx.method == "INVITE" && p.acks[tx.cseq] != nil: // 13.2.2.4
		_ = p.out(p.acks[tx.cseq].Bytes())
	}
	select {
	case tx.final <- m:
	default: // a copy
	}
}

// confirm sends PRACK for a reliable provisional response (RFC 3262 4); p.mu is held.
func (p *Party) confirm(m *Message) {
	rseq := m.Get("RSeq")
	if rseq == "" || p.closed {
		return
	}
	if p.target == "" {
		p.join(m)
	}
	key := rseq + " " + m.Get("CSeq")
	if p.pracked[key] != nil {
		return
	}
	p.pracked[key] = make(chan struct{})
	p.cseq++
	prack := p.numbered("PRACK", p.cseq).Add("RAck", key).Prepend("Via", p.raw.Via()+";rport")
	p.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 64*p.o.T1)
		defer cancel()
		res, err := p.transact(ctx, prack)
		if err == nil && res.Status() == 200 {
			return
		}
		select {
		case <-p.stop:
			return
		default:
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if err != nil {
			p.wrong = append(p.wrong, p.o.Name+": PRACK: "+err.Error())
			return
		}
		p.complain("PRACK refused", res)
	})
}

// acknowledged takes an ACK.
func (p *Party) acknowledged(m *Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	done := p.invited[m.CSeq()]
	if done == nil || m.Tag("To") != p.tag {
		if _, refused := p.answers[m.Branch()+" INVITE"]; !refused {
			p.complain("ACK for nothing it has answered", m)
		}
		return
	}
	select {
	case <-done:
	default:
		close(done)
		p.note(m, false)
	}
}

// note puts a request into what was heard; p.mu is held.
func (p *Party) note(m *Message, late bool) {
	p.heard = append(p.heard, Heard{Message: m, At: time.Now(), Late: late, Deaf: p.deaf})
	close(p.changed)
	p.changed = make(chan struct{})
}

// asked takes a request other than ACK.
func (p *Party) asked(m *Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	method, key := m.Method(), m.Branch()+" "+m.Method()
	if res, again := p.answers[key]; again {
		if res != nil && !p.deaf {
			_ = m.Reply(res)
		}
		return
	}
	p.answers[key] = nil
	switch {
	case p.callID == "" && method == "INVITE":
		p.adopt(m)
	case m.CallID() != p.callID || m.Tag("To") != p.tag || m.Tag("From") == "" || p.remote != "" && m.Tag("From") != tagOf(p.remote):
		p.complain("request of another dialog", m)
		p.reply(m, key, Respond(m, 481, "Call/Transaction Does Not Exist", ""))
		return
	case m.RURI() != p.Contact():
		p.complain("Request-URI is not its Contact "+p.Contact(), m)
	}
	if m.CSeq() <= p.highest { // 12.2.2
		p.note(m, true)
		p.reply(m, key, Respond(m, 500, "CSeq Too Low", ""))
		return
	}
	p.highest = m.CSeq()
	p.note(m, false)
	if p.deaf {
		return
	}
	if code := p.script[method]; code != 0 {
		p.reply(m, key, Respond(m, code, reasonOf(code), p.tag))
		return
	}
	switch method {
	case "INVITE":
		if p.inviting { // 14.1
			p.reply(m, key, Respond(m, 491, "Request Pending", ""))
			return
		}
		p.target = AddrURI(m.Get("Contact"))
		if !p.closed {
			p.work.Go(func() { p.serve(m, key) })
		}
	case "UPDATE":
		p.target = AddrURI(m.Get("Contact"))
		p.reply(m, key, p.agree(m, Respond(m, 200, "OK", "")))
	case "PRACK":
		done := p.pracked[m.Get("RAck")]
		if done == nil {
			p.complain("PRACK for a response it has not sent", m)
			p.reply(m, key, Respond(m, 481, "No Such Response", ""))
			return
		}
		select {
		case <-done:
			p.complain("second PRACK for a response", m)
		default:
			close(done)
		}
		p.reply(m, key, Respond(m, 200, "OK", ""))
	case "REFER":
		p.reply(m, key, Respond(m, 202, "Accepted", ""))
	default:
		p.reply(m, key, Respond(m, 200, "OK", ""))
	}
}

// adopt makes the dialog of an INVITE that came; p.mu is held.
func (p *Party) adopt(m *Message) {
	p.callID, p.remote = m.CallID(), m.Get("From")
	p.local = m.Get("To") + ";tag=" + p.tag
	p.target, p.routes = AddrURI(m.Get("Contact")), m.Values("Record-Route")
	p.out = m.Reply
}

func tagOf(value string) string {
	tag, _ := Param(afterURI(value), "tag")
	return tag
}

// reply answers, now and every copy of the request; p.mu is held.
func (p *Party) reply(m *Message, key string, res *Text) {
	p.answers[key] = res.Bytes()
	_ = m.Reply(p.answers[key]) // a lost one is asked for again
}

// agree dresses a 2xx to INVITE or UPDATE; p.mu is held.
func (p *Party) agree(m *Message, res *Text) *Text {
	res.Add("Contact", "<"+p.Contact()+">")
	res.Lines = append(res.Lines, p.o.Lines...)
	if se := m.Get("Session-Expires"); p.o.Timer && se != "" {
		if !strings.Contains(se, "refresher=") {
			se += ";refresher=uac"
		}
		res.Add("Require", "timer").Add("Session-Expires", se)
	}
	return res
}

// serve answers an INVITE: a reliable 183 if the caller knows that, then 200 until the ACK.
func (p *Party) serve(m *Message, key string) {
	p.mu.Lock()
	if lists(m, "Supported", "100rel") {
		p.rseq++
		done := make(chan struct{})
		p.pracked[fmt.Sprintf("%d %s", p.rseq, m.Get("CSeq"))] = done
		ringing := Respond(m, 183, "Session Progress", p.tag).Add("Contact", "<"+p.Contact()+">").
			Add("Require", "100rel").Add("RSeq", strconv.Itoa(p.rseq)).Bytes()
		p.mu.Unlock()
		if !p.until(done, m, key, ringing) {
			return
		}
		p.mu.Lock()
	}
	ok := p.agree(m, Respond(m, 200, "OK", p.tag))
	p.describe(ok)
	done := make(chan struct{})
	p.invited[m.CSeq()] = done
	p.mu.Unlock()
	p.until(done, m, key, ok.Bytes())
}

// until sends a response again and again (RFC 3262 3, RFC 3261 13.3.1.4).
func (p *Party) until(done <-chan struct{}, m *Message, key string, res []byte) bool {
	p.mu.Lock()
	p.answers[key] = res
	p.mu.Unlock()
	wait, began := p.o.T1, time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-done:
			return true
		case <-timer.C:
			if time.Since(began) > 64*p.o.T1 {
				p.mu.Lock()
				p.complain("no ACK or PRACK came for what was sent", m)
				p.mu.Unlock()
				return false
			}
			_ = m.Reply(res) // a lost one is sent again
			timer.Reset(wait)
			wait = min(2*wait, p.o.T2)
		case <-p.stop:
			return false
		}
	}
}

func lists(m *Message, header, token string) bool {
	for _, v := range m.Values(header) {
		if strings.EqualFold(v, token) {
			return true
		}
	}
	return false
}
