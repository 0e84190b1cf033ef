package dialog

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// A play drives one call with what a script of bytes says: messages of endpoints
// that know no rules, the results of the edge's own requests, and time.
type playing struct {
	*lab
	script  []byte
	txs     []*Tx
	highest map[*Dialog]*[2]uint32 // sent to each leg
	failed  bool
}

func (p *playing) byte() byte {
	if len(p.script) == 0 {
		return 0
	}
	b := p.script[0]
	p.script = p.script[1:]
	return b
}

func (p *playing) pick(of ...string) string { return of[int(p.byte())%len(of)] }

func (p *playing) leg() Leg { return Leg(p.byte() & 1) }

func (p *playing) tag() string { return fmt.Sprint("t", p.byte()%20) }

// target is one of two.
func (p *playing) target() Target { return Target{uint32(len(p.script) & 1), labFlow} }

func (p *playing) number() uint32 {
	return [...]uint32{0, 1, 2, 3, 4, 5, 7, 9, 100, 1<<31 - 1<<16 - 1, 1<<31 - 2, 1<<31 - 1, 6, 8, 10, 11}[p.byte()&15]
}

func (p *playing) status() int {
	return [...]int{200, 200, 200, 202, 401, 403, 404, 405, 408, 422, 480, 481, 487, 488, 491, 500, 501, 503, 603, 302, 407, 0}[int(p.byte())%22]
}

// raw is bytes of the script in which no line can end: folds are legal.
func (p *playing) raw() string {
	n := min(int(p.byte()%64), len(p.script))
	b := string(p.script[:n])
	p.script = p.script[n:]
	b = strings.NewReplacer("\r", " ", "\n", "\r\n ").Replace(b)
	return strings.Repeat(b, 1<<(p.byte()%6))
}

// lines are header lines as endpoints may write them.
func (p *playing) lines() (s string) {
	for n := p.byte() % 6; n > 0; n-- {
		switch p.byte() % 16 {
		case 0:
			s += "Supported: timer\r\n"
		case 1:
			s += "Allow: INVITE, BYE, UPDATE\r\n"
		case 2:
			s += "Allow: INVITE, BYE\r\n"
		case 3:
			s += "Session-Expires: " + p.pick("1", "90", "1800", "4294967295", "0", "x") + p.pick("", ";refresher=uac", ";refresher=uas") + "\r\n"
		case 4:
			s += "Min-SE: " + p.pick("90", "300", "4294967295", "91") + "\r\n"
		case 5:
			s += "Contact: " + p.pick("*", "<sip:c@h>", "<sip:c@h:5070;x>;y=z", "sip:d@h", "<sips:e@h?h=v>", "<tel:1>", "<sip:f@192.0.2.1:5062>") + "\r\n"
		case 6:
			s += "Contact: " + p.raw() + "\r\n"
		case 7:
			s += "Record-Route: " + p.pick("<sip:p;lr>", "<sip:edge@h;lr>", "<sip:s>", "\"q,\\\"\" <sip:p2;lr>, <sip:p3>") + "\r\n"
		case 8:
			s += "Record-Route: " + p.raw() + "\r\n"
		case 9:
			s += "Require: timer\r\n"
		case 10:
			s += "Supported: " + p.raw() + "\r\n"
		case 11:
			s += "Allow: " + p.raw() + "\r\n"
		case 12:
			s += "RSeq: 1\r\n"
		case 13:
			s += "RAck: 1 " + p.pick("1", "2", "4294967295", "9") + " INVITE\r\n"
		case 14:
			s += "Identity-Info: <https://x>\r\n"
		case 15:
			s += "Retry-After: 5\r\n"
		}
	}
	return s
}

func (p *playing) sdp() string {
	return p.pick("", "", "v=0\r\no=a 1 1 IN IP4 h\r\nm=audio 1 RTP/AVP 0\r\n", "v=0\r\no=a 1 2 IN IP4 h\r\nm=audio 1 RTP/AVP 0\r\n",
		"v=0\r\no=b 1 1 IN IP4 h\r\nm=audio 2 RTP/AVP 0\r\n", "v=0\r\nm=audio 2 UDP/TLS/RTP/SAVPF 0\r\n", "nonsense")
}

// identity is that of the call, with values that an endpoint may write otherwise.
func (p *playing) identity(from Leg, tag, method string, cseq uint32) string {
	a, b := labCaller+";tag=ta", p.pick(labCallee, "\"B\r\n ob, <\" <sip:bob@h>", "sip:bob@h", "<sip:"+strings.Repeat("b", 5000)+"@h>")
	if tag != "" {
		b += ";tag=" + tag
	}
	if from == B {
		a, b = b, a
	}
	return fmt.Sprintf("From: %s\r\nTo: %s\r\nCall-ID: lab\r\nCSeq: %d %s\r\n", a, b, cseq, method)
}

// scan is nil for what the edge would have refused.
func (p *playing) scan(start string, lines ...string) *wire.Msg {
	m := new(wire.Msg)
	if m.Scan([]byte(start+"\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n"+strings.Join(lines, "")), false) != wire.NoFault {
		return nil
	}
	return m
}

func (p *playing) responds(status int, tag, method string, from Leg, cseq uint32) *wire.Msg {
	if m := p.scan(fmt.Sprintf("SIP/2.0 %d X", status), p.identity(from.Peer(), tag, method, cseq), p.lines(), body(p.sdp())); m != nil {
		return m
	}
	return p.scan(fmt.Sprintf("SIP/2.0 %d X", status), identity(from.Peer(), tag, method, cseq), body(""))
}

// policy is one of any kind under which every call ends.
func (p *playing) setPolicy() {
	methods := []timers.ProbeMethod{timers.ProbeUpdate, timers.ProbeReinvite, timers.ProbeOptions, timers.ProbeOptionsStale}
	bits, more := p.byte(), p.byte()
	q := p.policy
	q.Methods = nil
	for i, m := range methods {
		if bits>>i&1 == 0 {
			q.Methods = append(q.Methods, m)
		}
	}
	if len(q.Methods) == 0 {
		q.Methods = methods[:1]
	}
	q.TTL = [...]time.Duration{600, 90, 12, 0}[bits>>4&3] * time.Second
	q.Segments = 1 + int(bits>>6)
	q.NoTimerMax = 900 * time.Second
	if more&1 != 0 {
		q.MaxCall = 700 * time.Second
	}
	q.OnExpiry = timers.OnExpiry(more >> 1 % 3)
	q.StrictAlive, q.EndOn408, q.ReinviteWebRTC = more&16 != 0, more&32 != 0, more&64 != 0
	q.MaxEarly = 1 + int(more>>7)*3
	q.Insert = timers.Insert(more >> 3 & 1)
}

// took looks at what the call asked for.
func (p *playing) took(fx *Effects) {
	p.Helper()
	for i := range fx.Acts {
		a := &fx.Acts[i]
		p.rises(a.Ref.d, a.To(), p.sent(a).CSeq, a)
	}
	for _, stop := range fx.Stops {
		stop()
	}
	p.take(fx)
	*fx = Effects{}
}

// rises: to each leg all numbers rise, but that of options_stale, and where none is
// left.
func (p *playing) rises(d *Dialog, to Leg, n uint32, a *Act) {
	p.Helper()
	h := p.highest[d]
	if h == nil {
		h = &[2]uint32{}
		h[B] = 1 // the INVITE's
		p.highest[d] = h
	}
	if a != nil && a.Method == wire.ACK {
		if n != 1 {
			p.Fatalf("an ACK with CSeq %d", n)
		}
		return
	}
	if a != nil && n <= h[to] && a.Probe != timers.ProbeOptionsStale && n != maxCSeq {
		p.Fatalf("%v with CSeq %d to the %v after %d", a.Method, n, to, h[to])
	}
	h[to] = max(h[to], n)
}

func (p *playing) step() {
	var fx Effects
	c := p.call
	switch p.byte() % 16 {
	case 0:
		if p.failed { // no 1xx goes up any more
			break
		}
		if m := p.responds(180+int(p.byte()%4), p.tag(), "INVITE", B, 1); m != nil {
			c.Provisional(m, p.now)
		}
	case 1, 2:
		if m := p.responds(200, p.tag(), "INVITE", B, 1); m != nil {
			c.Success(&fx, m, p.target(), p.now)
		}
	case 3:
		if c.answered == 0 || p.byte()&3 == 0 {
			p.fails(&fx, 486, Callee, Rejected)
		}
	case 4:
		from := A
		cseq := uint32(1)
		if p.byte()&7 == 0 {
			from, cseq = p.leg(), p.number()
		}
		m := p.scan("ACK sip:x SIP/2.0", p.identity(from, p.tag(), "ACK", cseq), p.lines(), body(p.sdp()))
		if m == nil {
			break
		}
		if r := p.s.Find(c.ID(), m, p.byte()&1 == 0); r.Known() {
			r.Ack(&fx, m, p.now)
		}
	case 5, 6, 7:
		from, method := p.leg(), p.pick("INVITE", "UPDATE", "PRACK", "INFO", "BYE", "OPTIONS", "INVITE", "UPDATE")
		m := p.scan(method+" sip:x SIP/2.0", p.identity(from, p.tag(), method, p.number()), p.lines(), body(p.sdp()))
		if m == nil {
			break
		}
		r := p.s.Find(0, m, true)
		if !r.Known() {
			break
		}
		v := r.Request(&fx, m, Flow{Remote: labFlow.Remote, Conn: uint64(p.byte() % 3)}, 0, p.now)
		if v.Status == 0 && r.Known() {
			p.rises(r.d, r.From.Peer(), v.CSeq, nil)
		}
		if v.Tx != nil {
			p.txs = append(p.txs, v.Tx)
		}
	case 8, 9:
		if len(p.txs) == 0 {
			break
		}
		i := int(p.byte()) % len(p.txs)
		t, status := p.txs[i], p.status()
		switch {
		case status == 0:
			if m := p.responds(183, "t0", t.method.String(), t.ref.From.Peer(), t.cseq); m != nil {
				t.Provisional(m, p.now)
			}
		default:
			m := p.responds(status, "t0", t.method.String(), t.ref.From.Peer(), t.cseq)
			t.Final(&fx, m, status, p.now)
			if p.byte()&1 == 0 {
				t.Final(&fx, m, status, p.now) // a copy
			}
			if !t.final {
				p.Fatal("not final")
			}
			p.txs = append(p.txs[:i:i], p.txs[i+1:]...)
		}
	case 10, 11, 12:
		if len(p.acts) == 0 {
			break
		}
		i := int(p.byte()) % len(p.acts)
		a := p.acts[i]
		p.acts = append(p.acts[:i:i], p.acts[i+1:]...)
		p.finish(&fx, a, p.status())
	case 13:
		p.travel([...]time.Duration{1, 100, 1000, 5000, 32000, 100000, 310000, 1}[p.byte()&7] * time.Millisecond)
	case 14:
		c.Report()
		p.s.Stats(p.now)
		p.s.Modes()
		switch p.byte() & 7 {
		case 0:
			c.End(&fx, p.now)
		case 1:
			p.s.ConnClosed(&fx, uint64(p.byte()%3), p.now)
		case 2:
			c.Forwarded(Target{uint32(p.byte() % 3), labFlow})
		case 4, 5, 6, 7:
			if m := p.responds(200, p.tag(), "INVITE", B, 1); m != nil {
				c.Refuse(&fx, m, p.target(), p.now)
			}
		case 3:
			p.wait = second - p.wait
		}
	case 15:
		if len(p.acts) > 0 {
			a := p.acts[int(p.byte())%len(p.acts)]
			a.Sent(&fx, func() {})
		}
	}
	p.took(&fx)
	if n := p.s.Len(); n > 2+p.policy.MaxEarly { // the first answer has its place whatever was refused
		p.Fatalf("%d dialogs of one INVITE", n)
	}
}

// fails is the end of the transaction, once, unless it was answered.
func (p *playing) fails(fx *Effects, status int, by Ender, why Reason) {
	if p.failed {
		return
	}
	p.failed = p.failed || p.call.answered == 0
	p.call.Failure(fx, status, by, why, p.now)
}

// finish tells the result of a request of the edge, and has a 2xx acknowledged.
func (p *playing) finish(fx *Effects, a Act, status int) {
	var m *wire.Msg
	if status != 0 {
		m = p.responds(status, "t0", a.Method.String(), a.To(), p.sent(&a).CSeq)
	}
	if a.Method == wire.INVITE && status/100 == 2 {
		if draft, ok := a.AckFor(m); ok {
			ack := a
			ack.Draft, ack.Method = draft, wire.ACK
			p.check(&ack)
		}
	}
	a.Done(fx, m, status, time.Duration(p.byte())*time.Second, p.now)
}

// travel lets time pass. That which is due must not be due again at once for ever.
func (p *playing) travel(d time.Duration) {
	end, same, was := p.now+d, 0, p.now
	for n := 0; p.call.armed != 0 && p.call.armed <= end && !p.call.done; n++ {
		p.now = max(p.now, p.call.armed)
		if same++; p.now > was {
			was, same = p.now, 0
		}
		if same > 20 || n > 20_000 {
			p.Fatalf("due again and again at %v", p.now)
		}
		var fx Effects
		p.call.Due(&fx, paceOf(p.wait, p.now), p.now)
		p.took(&fx)
	}
	p.now = end
}

// ends has the proxy do its part: every transaction comes to an end. Nobody answers
// any more.
func (p *playing) ends() {
	p.wait = 0
	for range 200 {
		var fx Effects
		for _, t := range p.txs {
			t.Final(&fx, nil, 408, p.now)
		}
		p.txs = nil
		p.took(&fx)
		p.fails(&fx, 408, Edge, TimedOut)
		p.took(&fx)
		acts := p.acts
		p.acts = nil
		for _, a := range acts {
			a.Done(&fx, nil, 0, 0, p.now)
		}
		p.took(&fx)
		if p.s.Len() == 0 && len(p.acts) == 0 {
			break
		}
		p.travel(32 * time.Second)
	}
	p.empty()
	// A caller that takes an answer after its failure has two calls.
	n := len(p.ended)
	if n == 0 || n > 2 || n == 2 && (p.ended[0].Answered != 0 || p.ended[1].Answered == 0) {
		p.Fatalf("records: %+v", p.ended)
	}
	for _, e := range p.ended {
		if e.Reason == NoReason || e.At == 0 {
			p.Fatalf("records: %+v", p.ended)
		}
	}
	if s := p.s.Stats(p.now); s.Concurrent != 0 || s.Ringing != 0 || s.Attempts != uint64(n) {
		p.Fatalf("%+v", s)
	}
}

func FuzzCall(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 2, 0, 1, 1, 0, 0, 2, 2, 0, 1, 0, 2, 2, 0, 4, 1, 0, 0, 13, 6, 10, 0, 0, 0, 13, 6, 10, 0, 0, 0, 13, 5, 13, 5})
	f.Add([]byte{0x30, 0, 1, 3, 2, 0, 1, 0, 0, 1, 3, 2, 0, 0, 4, 1, 0, 0, 13, 6, 13, 6, 13, 6})
	f.Add([]byte{0, 0x80, 2, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 1, 9, 0, 0, 0, 0, 13, 4, 13, 4})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) <= 4096 {
			playCall(t, script)
		}
	})
}

func playCall(t *testing.T, script []byte) {
	p := &playing{lab: newLab(t), script: script, highest: map[*Dialog]*[2]uint32{}}
	p.setPolicy()
	m := p.scan("INVITE sip:bob@example.org SIP/2.0", identity(A, "", "INVITE", 1), p.lines(), body(p.sdp()))
	if m == nil {
		return
	}
	ask := AskOf(m)
	duty := p.policy.Request(ask, 0)
	if duty.Reject {
		return
	}
	c, refusal := p.s.Open(Invite{Policy: p.policy, Msg: m, Ask: ask, Duty: duty, Source: labFlow, Inside: p.byte()&1 != 0, Backend: 3, Now: p.now})
	if refusal != Opened {
		return
	}
	p.call = c
	for len(p.script) > 0 {
		p.step()
	}
	p.ends()
}

// Random scripts that begin with a call which is answered: they reach what a fuzzer
// finds late.
func TestEveryCallEnds(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 3_000
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		script := []byte{byte(r.Uint32()), byte(r.Uint32())}                                                                  // policy
		script = append(script, 3, 5, 1, 0, byte(r.IntN(3)), byte(r.IntN(6)), 2+byte(r.IntN(4)), byte(r.Uint32()))            // INVITE
		script = append(script, 1, byte(r.IntN(3)), 0, 4, 5, 1, byte(r.IntN(3)), byte(r.IntN(6)), 9, 7, 1, 2+byte(r.IntN(4))) // its 200
		script = append(script, 4, byte(r.IntN(8)), 0, 0, 0, 0, 0)                                                            // ACK
		for range r.IntN(200) {
			script = append(script, byte(r.Uint32()))
		}
		if t.Run(fmt.Sprint(i), func(t *testing.T) { playCall(t, script) }); t.Failed() {
			t.Fatalf("script %x", script)
		}
	}
}
