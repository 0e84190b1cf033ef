package siptest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// Load places calls over UDP at a fixed rate, each with the messages of an ordinary call:
// INVITE, 200, ACK, a hold time, BYE, 200. It retransmits as RFC 3261 17.1 says. Without a
// Window it is open loop: a slow answer delays no later call.
type Load struct {
	Target netip.AddrPort
	Local  netip.Addr    // to send from; default the loopback address of the target's family
	Rate   int           // calls per second
	Calls  int           // in all; 0 = until ctx ends
	Hold   time.Duration // from ACK to BYE
	Domain string        // of the Request-URI; default siptest.example
	Window int           // no new call while so many begin or end; 0 = no limit

	// Ending says how call n ends; the default is CallerHangsUp. The other ones need an Answerer.
	Ending func(n int) Ending

	udp   *net.UDPConn
	wake  chan struct{} // one token: an answer has changed what is due
	mu    sync.Mutex    // guards what follows, and the calls in it
	calls map[string]*LoadCall
	order []*LoadCall
	idle  map[string]*LoadCall // calls that only wait for a BYE: nothing is due in them
	gone  map[string]bool      // calls whose caller vanished
}

// Ending is how a call ends.
type Ending uint8

// The endings of calls.
const (
	CallerHangsUp Ending = iota
	CalleeHangsUp
	CallerCancels
	CalleeRejects // with 486
	NobodyHangsUp // both wait for a BYE of somebody in between
	BothVanish    // neither answers anything after the ACK
	Endings       // how many there are
)

// endingHeader tells the Answerer the ending. In an ACK it says that its time has come.
const endingHeader = "X-Ending"

var endingWords = [Endings]string{"caller", "callee", "cancel", "reject", "nobody", "vanish"}

func (e Ending) String() string { return endingWords[e] }

// LoadCall is one call of a Load.
type LoadCall struct {
	CallID  string
	Began   time.Time
	Status  int           // final code of the INVITE, 0 if none came
	Took    time.Duration // from the first INVITE to its final answer
	Tag     string        // To tag of the answer: says which node it was
	ByeCode int           // final code of the BYE, 0 if none came or none was sent
	Resent  int           // requests sent more than once
	Ending  Ending

	number int
	branch string
	to     string
	target string
	routes []string
	bye    []byte
	state  loadState
	due    time.Time // next retransmission or the BYE
	wait   time.Duration
	giveUp time.Time
}

type loadState uint8

const (
	inviting loadState = iota
	ringing
	talking
	awaiting // a BYE
	leaving
	over
)

// Run places the calls and returns when all have ended, each with its outcome. Calls that
// have no end within 10 s after the last was placed, or 64*T1, are returned as they are.
func (l *Load) Run(ctx context.Context) ([]*LoadCall, error) {
	if l.Domain == "" {
		l.Domain = "siptest.example"
	}
	if !l.Local.IsValid() {
		l.Local = loopbackOf(l.Target)
	}
	udp, err := bindUDP(netip.AddrPortFrom(l.Local, 0))
	if err != nil {
		return nil, err
	}
	l.udp, l.calls, l.wake, l.gone = udp, make(map[string]*LoadCall), make(chan struct{}, 1), make(map[string]bool)
	l.idle = make(map[string]*LoadCall)
	var reader sync.WaitGroup
	reader.Go(l.read)
	err = l.drive(ctx)
	_ = udp.Close() // ends the reader
	reader.Wait()
	return l.order, err
}

// drive sends on time: new calls, retransmissions, BYEs.
func (l *Load) drive(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	started, placed, busy := time.Now(), 0, 0
	var ending time.Time
	done := ctx.Done()
	stopped := false
	for {
		select {
		case <-done:
			stopped, done = true, nil
		case <-tick.C:
		case <-l.wake:
		}
		now := time.Now()
		want := int(now.Sub(started).Seconds() * float64(l.Rate))
		if l.Calls > 0 {
			want = min(want, l.Calls)
		}
		if !stopped {
			for ; placed < want && (l.Window == 0 || busy < l.Window); placed++ {
				busy++
				if err := l.place(placed, now); err != nil {
					return err
				}
			}
		}
		var open int
		var err error
		if open, busy, err = l.service(now); err != nil {
			return err
		}
		all := stopped || (l.Calls > 0 && placed >= l.Calls)
		if all && ending.IsZero() {
			ending = now.Add(10*time.Second + l.Hold)
		}
		if all && (open == 0 || now.After(ending)) {
			return nil
		}
	}
}

func (l *Load) place(n int, now time.Time) error {
	c := &LoadCall{
		CallID: Unique("l"), Began: now, number: n, branch: "z9hG4bK" + Unique("b"),
		due: now.Add(t1), wait: t1, giveUp: now.Add(64 * t1),
	}
	if l.Ending != nil {
		c.Ending = l.Ending(n)
	}
	l.mu.Lock()
	l.calls[c.CallID] = c
	l.order = append(l.order, c)
	l.mu.Unlock()
	return l.send(l.invite(c))
}

func (l *Load) send(b []byte) error {
	_, err := l.udp.WriteToUDPAddrPort(b, l.Target)
	return err
}

func (l *Load) invite(c *LoadCall) []byte {
	return l.request(c, "INVITE", "sip:"+strconv.Itoa(1000+c.number)+"@"+l.Domain, c.branch, "<sip:"+strconv.Itoa(1000+c.number)+"@"+l.Domain+">", 1)
}

func (l *Load) request(c *LoadCall, method, uri, branch, to string, cseq int) []byte {
	var b bytes.Buffer
	at := addrPort(l.udp.LocalAddr())
	fmt.Fprintf(&b, "%s %s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=%s\r\n", method, uri, at, branch)
	for _, r := range c.routes {
		fmt.Fprintf(&b, "Route: %s\r\n", r)
	}
	fmt.Fprintf(&b, "Max-Forwards: 70\r\nFrom: <sip:load%d@%s>;tag=%s\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: %d %s\r\nContact: <sip:load@%s>\r\n",
		c.number, l.Domain, c.CallID, to, c.CallID, cseq, method, at)
	if method == "INVITE" || method == "ACK" && c.state == awaiting {
		fmt.Fprintf(&b, "%s: %s\r\n", endingHeader, c.Ending)
	}
	body := ""
	if method == "INVITE" {
		body = sessionDescription
		b.WriteString("Content-Type: application/sdp\r\n")
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	return b.Bytes()
}

// service sends what is due and counts the calls that are not over, and of these the busy ones,
// which do not just talk.
func (l *Load) service(now time.Time) (open, busy int, err error) {
	var out [][]byte
	l.mu.Lock()
	for _, c := range l.calls {
		switch c.state {
		case over:
			delete(l.calls, c.CallID)
			continue
		case inviting, leaving:
			if now.After(c.giveUp) {
				c.state = over
				continue
			}
			if now.After(c.due) {
				c.Resent++
				c.wait = min(2*c.wait, t2)
				c.due = now.Add(c.wait)
				if c.state == inviting {
					out = append(out, l.invite(c))
				} else {
					out = append(out, c.bye)
				}
			}
		case talking:
			if now.After(c.due) {
				out = append(out, l.part(c, now)...)
			}
		case awaiting:
			if now.After(c.giveUp) {
				c.state = over
				continue
			}
			if now.After(c.due) {
				c.Resent++
				c.due = now.Add(t1)
				out = append(out, c.bye)
			}
		case ringing:
		}
		if open++; c.state != talking {
			busy++
		}
	}
	open += len(l.idle)
	l.mu.Unlock()
	for _, b := range out {
		if err := l.send(b); err != nil {
			return open, busy, err
		}
	}
	return open, busy, nil
}

// part ends the talking of a call; l.mu is held.
func (l *Load) part(c *LoadCall, now time.Time) (out [][]byte) {
	c.wait, c.due, c.giveUp = t1, now.Add(t1), now.Add(64*t1)
	switch c.Ending {
	case BothVanish:
		c.state = over
		l.gone[c.CallID] = true
		return nil
	case NobodyHangsUp:
		delete(l.calls, c.CallID)
		l.idle[c.CallID] = c
		return nil
	case CalleeHangsUp: // an ACK is what the Answerer can be told by; copies ask for copies of its BYE
		c.state = awaiting
		c.bye = l.request(c, "ACK", c.target, "z9hG4bK"+Unique("b"), c.to, 1)
	default:
		c.state = leaving
		c.bye = l.request(c, "BYE", c.target, "z9hG4bK"+Unique("b"), c.to, 2)
	}
	return [][]byte{c.bye}
}

func (l *Load) read() {
	buf := make([]byte, 65536)
	for {
		n, _, err := l.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		m := &Message{Data: bytes.Clone(buf[:n])}
		var out []byte
		if status := m.Status(); status != 0 {
			out = l.answered(m, status, time.Now())
		} else {
			out = l.asked(m)
		}
		select {
		case l.wake <- struct{}{}:
		default:
		}
		if out != nil {
			_ = l.send(out) // what is lost is asked for again
		}
	}
}

// asked answers a request, which is a BYE.
func (l *Load) asked(m *Message) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone[m.CallID()] {
		return nil
	}
	if c := l.calls[m.CallID()]; c != nil && m.Method() == "BYE" {
		c.state = over
	}
	delete(l.idle, m.CallID())
	return Respond(m, 200, "OK", "").Bytes()
}

func (l *Load) answered(m *Message, status int, now time.Time) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.calls[m.CallID()]
	if c == nil {
		return nil
	}
	switch m.Method() {
	case "INVITE":
		if status < 200 {
			if c.state == inviting {
				c.state = ringing
			}
			if c.state == ringing && status > 100 && c.Ending == CallerCancels {
				c.state = leaving
				c.wait, c.due, c.giveUp = t1, now.Add(t1), now.Add(64*t1)
				uri := "sip:" + strconv.Itoa(1000+c.number) + "@" + l.Domain
				c.bye = l.request(c, "CANCEL", uri, c.branch, "<"+uri+">", 1)
				return c.bye
			}
			return nil
		}
		if c.Status == 0 {
			c.Status, c.Took, c.Tag = status, now.Sub(c.Began), m.Tag("To")
			c.to, c.target = m.Get("To"), AddrURI(m.Get("Contact"))
		}
		if status >= 300 {
			c.state = over
			return l.request(c, "ACK", "sip:"+strconv.Itoa(1000+c.number)+"@"+l.Domain, c.branch, m.Get("To"), 1)
		}
		if c.state < talking {
			recorded := m.Values("Record-Route")
			for i := len(recorded) - 1; i >= 0; i-- {
				c.routes = append(c.routes, recorded[i])
			}
			c.state, c.due = talking, now.Add(l.Hold)
		}
		return l.request(c, "ACK", c.target, "z9hG4bK"+Unique("b"), c.to, 1)
	case "BYE":
		if status >= 200 && c.state == leaving {
			c.ByeCode, c.state = status, over
		}
	}
	return nil
}

// Answerer is a callee for Load: UDP, every INVITE gets 180 and 200 at once (or a fixed code, or
// what the ending asks for), every other request 200. Its tag is its name.
type Answerer struct {
	name   string
	at     netip.AddrPort
	reader sync.WaitGroup

	mu     sync.Mutex // guards what follows
	udp    *net.UDPConn
	code   int
	mute   bool
	counts map[string]int
	seen   map[string]bool
	order  []string
	open   map[string]*Message // INVITEs whose ending is not the caller's
}

// NewAnswerer opens the socket; port 0 takes a free one.
func NewAnswerer(name string, at netip.AddrPort) (*Answerer, error) {
	a := &Answerer{name: name, at: at, code: 200, counts: make(map[string]int), seen: make(map[string]bool), open: make(map[string]*Message)}
	return a, a.Start()
}

// Start opens the socket, after a Stop at the same address.
func (a *Answerer) Start() error {
	udp, err := bindUDP(a.at)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.udp, a.at = udp, addrPort(udp.LocalAddr())
	a.reader.Go(func() { a.read(udp) })
	return nil
}

// Stop closes the socket.
func (a *Answerer) Stop() error {
	a.mu.Lock()
	udp := a.udp
	a.udp = nil
	a.mu.Unlock()
	if udp == nil {
		return nil
	}
	err := udp.Close()
	a.reader.Wait()
	return err
}

// Silence makes it receive and answer nothing, or ends that.
func (a *Answerer) Silence(on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mute = on
}

// Code fixes the final answer to INVITE.
func (a *Answerer) Code(code int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.code = code
}

// Addr is where it listens.
func (a *Answerer) Addr() netip.AddrPort { return a.at }

// URI is its address as a pool has it.
func (a *Answerer) URI() string { return URI("", a.at, "udp") }

// Name is its name and To tag.
func (a *Answerer) Name() string { return a.name }

// Count is the number of datagrams with requests of a method, retransmissions included.
func (a *Answerer) Count(method string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.counts[method]
}

// CallIDs are the Call-IDs of INVITEs, in order.
func (a *Answerer) CallIDs() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.order...)
}

// Saw tells whether an INVITE with that Call-ID came.
func (a *Answerer) Saw(callID string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[callID]
}

func (a *Answerer) read(udp *net.UDPConn) {
	buf := make([]byte, 65536)
	for {
		n, from, err := udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		m := &Message{Data: bytes.Clone(buf[:n]), From: from}
		if m.Status() != 0 {
			continue
		}
		for _, out := range a.answers(m) {
			if _, err := udp.WriteToUDPAddrPort(out, from); err != nil {
				break // being stopped; a lost answer is asked for again
			}
		}
	}
}

func (a *Answerer) answers(m *Message) [][]byte {
	method := m.Method()
	a.mu.Lock()
	a.counts[method]++
	code, mute := a.code, a.mute
	if id := m.CallID(); method == "INVITE" && !a.seen[id] {
		a.seen[id] = true
		a.order = append(a.order, id)
	}
	ending := m.Get(endingHeader)
	if method == "INVITE" && ending != "" && ending != CallerHangsUp.String() {
		a.open[m.CallID()] = m
	}
	invite := a.open[m.CallID()]
	a.mu.Unlock()
	if invite != nil {
		switch is := invite.Get(endingHeader); {
		case method == "ACK" && ending == CalleeHangsUp.String():
			return [][]byte{a.bye(invite)}
		case method == "INVITE" && is == CalleeRejects.String():
			code = 486
		case method == "INVITE" && is == CallerCancels.String():
			return [][]byte{Respond(m, 180, "Ringing", a.name).Bytes()}
		case method == "CANCEL" && is == CallerCancels.String():
			return [][]byte{Respond(invite, 487, "Request Terminated", a.name).Bytes(), Respond(m, 200, "OK", a.name).Bytes()}
		case method != "INVITE" && is == BothVanish.String():
			return nil
		}
	}
	switch {
	case mute || method == "ACK":
		return nil
	case method == "INVITE" && code >= 300:
		return [][]byte{Respond(m, code, reasonOf(code), a.name).Bytes()}
	case method == "INVITE":
		contact := "<" + URI(a.name, a.at, "udp") + ">"
		return [][]byte{
			Respond(m, 180, "Ringing", a.name).Set("Contact", contact).Bytes(),
			Respond(m, 200, "OK", a.name).Set("Contact", contact).SDP().Bytes(),
		}
	}
	return [][]byte{Respond(m, 200, "OK", a.name).Bytes()}
}

// bye is the BYE of the callee, the same every time.
func (a *Answerer) bye(invite *Message) []byte {
	m := Request("BYE", AddrURI(invite.Get("Contact"))).Prepend("Via", "SIP/2.0/UDP "+a.at.String()+";branch=z9hG4bKbye"+invite.CallID()).
		Set("From", invite.Get("To")+";tag="+a.name).Set("To", invite.Get("From")).Set("Call-ID", invite.CallID())
	for _, r := range invite.Values("Record-Route") {
		m.Add("Route", r)
	}
	return m.Bytes()
}
