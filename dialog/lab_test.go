package dialog

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// A lab is a store whose clock the test moves by hand. It hands messages to it as
// the proxy would and keeps what it asks for.
type lab struct {
	testing.TB
	s      *Store
	policy *timers.Policy
	now    time.Duration
	call   *Call   // the last one opened
	acts   []Act   // not yet answered
	ended  []Ended // records
	notes  []Note
	wait   time.Duration // until a probe has its turn
}

// usual is a policy at the defaults.
func usual(changes ...func(*timers.Policy)) *timers.Policy {
	p := &timers.Policy{
		TTL: 600 * time.Second, Segments: 2, NoTimerMax: 7200 * time.Second, MinSE: 90 * time.Second,
		Insert: timers.InsertIfSupported, RejectSmall: true, ProbeA: true, ProbeB: true,
		Methods: []timers.ProbeMethod{timers.ProbeUpdate, timers.ProbeReinvite, timers.ProbeOptions},
		Ring:    600 * time.Second, AckWait: 37 * time.Second, T1: 500 * time.Millisecond, MaxEarly: 16,
	}
	for _, change := range changes {
		change(p)
	}
	return p
}

// newest is the ID of the call that was opened last: its is the Record-Route of the edge.
func (l *lab) newest() (id ID) {
	began := time.Duration(-1)
	l.s.All(func(c *Call) bool {
		if c.began > began {
			began, id = c.began, c.id
		}
		return true
	})
	return id
}

func newLab(t testing.TB, changes ...func(*timers.Policy)) *lab {
	l := &lab{TB: t, policy: usual(changes...), now: time.Second}
	l.s = NewStore(Options{
		Capacity: 100, Wheel: timers.NewWheel(10 * time.Millisecond), Due: func(*Call, time.Duration) {},
		Own: func(user []byte) (ID, bool) { return l.newest(), bytes.HasPrefix(user, []byte("edge")) },
	})
	return l
}

const (
	labCaller = "<sip:alice@192.0.2.1>"
	labCallee = "<sip:bob@192.0.2.2>"
	labSDPA   = "v=0\r\no=alice 1 1 IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r\n"
	labSDPB   = "v=0\r\no=bob 1 1 IN IP4 192.0.2.2\r\nm=audio 5000 RTP/AVP 0\r\n"
	labTimer  = "Supported: timer\r\n"
	labUpdate = "Allow: INVITE, ACK, BYE, UPDATE\r\n"
)

var (
	labFlow   = Flow{Remote: netip.MustParseAddrPort("192.0.2.1:5060")}
	labTarget = Target{7, labFlow}
)

// message is text as a message. Lines end with CRLF already.
func (l *lab) message(start string, lines ...string) *wire.Msg {
	l.Helper()
	m, text := new(wire.Msg), start+"\r\nVia: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK1\r\n"+strings.Join(lines, "")
	if !strings.Contains(text, "\r\n\r\n") {
		text += "\r\n"
	}
	if f := m.Scan([]byte(text), false); f != wire.NoFault {
		l.Fatalf("%v:\n%s", f, text)
	}
	return m
}

func body(sdp string) string {
	if sdp == "" {
		return "\r\n"
	}
	return "Content-Type: application/sdp\r\n\r\n" + sdp
}

// identity is the From, To, Call-ID and CSeq of a message in the dialog with a tag.
func identity(from Leg, tag, method string, cseq uint32) string {
	a, b := labCaller+";tag=ta", labCallee
	if tag != "" {
		b += ";tag=" + tag
	}
	if from == B {
		a, b = b, a
	}
	return fmt.Sprintf("From: %s\r\nTo: %s\r\nCall-ID: lab\r\nCSeq: %d %s\r\n", a, b, cseq, method)
}

// invites opens a call with the caller's header lines and an offer.
func (l *lab) invites(lines string) *Call {
	l.Helper()
	c, refusal := l.opens(lines)
	if refusal != Opened {
		l.Fatalf("refused: %v", refusal)
	}
	return c
}

func (l *lab) opens(lines string) (*Call, Refusal) {
	m := l.message("INVITE sip:bob@example.org SIP/2.0", identity(A, "", "INVITE", 1), "Contact: "+labCaller+"\r\n", lines, body(labSDPA))
	ask := AskOf(m)
	c, refusal := l.s.Open(Invite{
		Policy: l.policy, Msg: m, Ask: ask, Duty: l.policy.Request(ask, 0), Source: labFlow, Now: l.now,
	})
	if c != nil {
		c.Forwarded(labTarget)
		l.call = c
	}
	return c, refusal
}

// response is one to a request in the dialog with a tag.
func (l *lab) response(from Leg, status int, tag, method string, cseq uint32, lines, sdp string) *wire.Msg {
	l.Helper()
	if status < 300 && method != "BYE" && !strings.Contains(lines, "Contact:") {
		lines += "Contact: " + [2]string{labCaller, labCallee}[from] + "\r\n"
	}
	return l.message(fmt.Sprintf("SIP/2.0 %d X", status), identity(from.Peer(), tag, method, cseq), lines, body(sdp))
}

func (l *lab) rings(tag, lines string) {
	l.Helper()
	l.call.Provisional(l.response(B, 180, tag, "INVITE", 1, lines, ""), l.now)
}

func (l *lab) answers(tag, lines string) {
	l.Helper()
	var fx Effects
	l.call.Success(&fx, l.response(B, 200, tag, "INVITE", 1, lines, labSDPB), labTarget, l.now)
	l.take(&fx)
}

func (l *lab) acks(tag string) {
	l.Helper()
	m := l.message("ACK sip:bob@192.0.2.2 SIP/2.0", identity(A, tag, "ACK", 1))
	var fx Effects
	l.find(m).Ack(&fx, m, l.now)
	l.take(&fx)
}

// talks is a call that is answered and acknowledged.
func (l *lab) talks(caller, callee string) *Dialog {
	l.Helper()
	l.invites(caller)
	l.answers("tb", callee)
	l.acks("tb")
	return &l.call.first
}

func (l *lab) find(m *wire.Msg) Ref {
	l.Helper()
	r := l.s.Find(0, m, true)
	if !r.Known() {
		l.Fatalf("no dialog of\n%s", m.Buf)
	}
	return r
}

// asks hands a request in the dialog to the store.
func (l *lab) asks(from Leg, method string, cseq uint32, lines, sdp string) Verdict {
	l.Helper()
	m := l.message(method+" sip:x@192.0.2.3 SIP/2.0", identity(from, "tb", method, cseq), lines, body(sdp))
	var fx Effects
	v := l.find(m).Request(&fx, m, labFlow, 0, l.now)
	l.take(&fx)
	return v
}

// gets hands it the final response to such a request.
func (l *lab) gets(v Verdict, status int, lines, sdp string) {
	l.Helper()
	var fx Effects
	v.Tx.Final(&fx, l.response(v.Tx.ref.From.Peer(), status, "tb", v.Tx.method.String(), v.Tx.cseq, lines, sdp), status, l.now)
	l.take(&fx)
}

// does has a request answered with a status.
func (l *lab) does(from Leg, method string, cseq uint32, status int) {
	l.Helper()
	l.gets(l.asks(from, method, cseq, "", ""), status, "", "")
}

func (l *lab) take(fx *Effects) {
	l.Helper()
	for _, a := range fx.Acts {
		l.check(&a)
		l.acts = append(l.acts, a)
	}
	l.ended, l.notes = append(l.ended, fx.Ended...), append(l.notes, fx.Notes...)
}

// sent is a request of the edge as a message.
func (l *lab) sent(a *Act) *wire.Msg {
	l.Helper()
	m := new(wire.Msg)
	b := a.Append(nil, []byte("Via: SIP/2.0/UDP 192.0.2.100;rport;branch=z9hG4bKown\r\n"))
	if f := m.Scan(b, true); f != wire.NoFault {
		l.Fatalf("%v in what the edge sends:\n%q", f, b)
	}
	return m
}

// check is what holds for every request of the edge, whoever provoked it.
func (l *lab) check(a *Act) {
	l.Helper()
	m := l.sent(a)
	if len(m.Buf) != len(a.Append(nil, []byte("Via: SIP/2.0/UDP 192.0.2.100;rport;branch=z9hG4bKown\r\n"))) {
		l.Fatalf("bytes behind the end:\n%q", m.Buf)
	}
	once := map[wire.Kind]int{}
	for i := range m.Headers {
		h := &m.Headers[i]
		switch h.Kind {
		case wire.KindVia, wire.KindMaxForwards, wire.KindFrom, wire.KindTo, wire.KindCallID, wire.KindCSeq, wire.KindContact,
			wire.KindAllow, wire.KindSupported, wire.KindSessionExpires, wire.KindMinSE, wire.KindContentType, wire.KindContentLength,
			wire.KindReason, wire.KindRoute:
		default:
			l.Fatalf("a forged header:\n%q", m.Buf)
		}
		if once[h.Kind]++; once[h.Kind] > 1 {
			l.Fatalf("%v twice:\n%q", h.Kind, m.Buf)
		}
	}
	if m.Method != a.Method || m.CSeqMethodID != a.Method || m.MaxForwards != 70 {
		l.Fatalf("start line or Max-Forwards:\n%q", m.Buf)
	}
	if m.From.Tag.Empty() && m.To.Tag.Empty() {
		l.Fatalf("no tags:\n%q", m.Buf)
	}
}

// next is the oldest request of the edge that is not answered.
func (l *lab) next(to Leg, method wire.Method) Act {
	l.Helper()
	for i, a := range l.acts {
		if a.To() == to && a.Method == method {
			l.acts = append(l.acts[:i:i], l.acts[i+1:]...)
			return a
		}
	}
	l.Fatalf("no %v to the %v among %d", method, to, len(l.acts))
	return Act{}
}

func (l *lab) quiet() {
	l.Helper()
	for i := range l.acts {
		l.Errorf("the edge sent:\n%s", l.sent(&l.acts[i]).Buf)
	}
}

// done tells the outcome of a request of the edge: 0 is silence.
func (l *lab) done(a Act, status int, lines, sdp string) {
	l.Helper()
	var m *wire.Msg
	if status != 0 {
		m = l.response(a.To(), status, "tb", a.Method.String(), l.sent(&a).CSeq, lines, sdp)
	}
	var fx Effects
	a.Done(&fx, m, status, 0, l.now)
	l.take(&fx)
}

// until moves the clock and does what falls due on the way.
func (l *lab) until(at time.Duration) {
	l.Helper()
	for n := 0; ; n++ {
		if n > 10_000 {
			l.Fatalf("due again and again at %v", l.now)
		}
		var first *Call
		l.s.All(func(c *Call) bool {
			if c.armed != 0 && c.armed <= at && (first == nil || c.armed < first.armed) {
				first = c
			}
			return true
		})
		if first == nil {
			break
		}
		l.now = max(l.now, first.armed)
		l.due(first)
	}
	l.now = max(l.now, at)
}

func (l *lab) due(c *Call) {
	l.Helper()
	var fx Effects
	c.Due(&fx, paceOf(l.wait, l.now), l.now)
	l.take(&fx)
}

func (l *lab) pass(d time.Duration) {
	l.Helper()
	l.until(l.now + d)
}

// over checks that nothing is left, and one record written.
func (l *lab) over(why Reason) {
	l.Helper()
	for len(l.acts) > 0 {
		a := l.acts[0]
		l.acts = l.acts[1:]
		l.done(a, 200, "", "")
	}
	l.pass(200 * time.Second)
	l.empty()
	if len(l.ended) != 1 || l.ended[0].Reason != why {
		l.Errorf("records: %+v, want one: %v", l.ended, why)
	}
}

// empty checks that the store holds nothing.
func (l *lab) empty() {
	l.Helper()
	if n := l.s.Len(); n != 0 {
		l.Errorf("%d dialogs left", n)
	}
	if n := l.s.Wheel.Len(); n != 0 {
		l.Errorf("%d timers left", n)
	}
	for i := range l.s.shard {
		sh := &l.s.shard[i]
		if len(sh.free) != len(sh.slots) {
			l.Errorf("shard %d: %d of %d slots free", i, len(sh.free), len(sh.slots))
		}
	}
	if found, _ := l.s.Traces(l.now); found != 0 {
		l.Errorf("%d dialogs are found", found)
	}
	if n := len(l.s.names.of); n != 1 {
		l.Errorf("%d names left", n-1)
	}
	for id, n := range l.s.tallies.of {
		if n.Load() != 0 {
			l.Errorf("backend %d has %d calls", id, n.Load())
		}
	}
	for i := range l.s.parties.shard {
		if n := len(l.s.parties.shard[i].of); n != 0 {
			l.Errorf("shard %d: %d parties left", i, n)
		}
	}
	if len(l.s.streams.on) != 0 {
		l.Errorf("%d connections remembered", len(l.s.streams.on))
	}
}

// opensWith opens a call with no header lines but these, which may hold a Contact.
func (l *lab) opensWith(lines string) {
	l.Helper()
	if !strings.Contains(lines, "Contact:") {
		lines += "Contact: " + labCaller + "\r\n"
	}
	m := l.message("INVITE sip:bob@example.org SIP/2.0", identity(A, "", "INVITE", 1), lines, body(labSDPA))
	ask := AskOf(m)
	c, refusal := l.s.Open(Invite{Policy: l.policy, Msg: m, Ask: ask, Duty: l.policy.Request(ask, 0), Source: labFlow, Now: l.now})
	if refusal != Opened {
		l.Fatalf("refused: %v", refusal)
	}
	l.call = c
}

// paceOf is a pace that makes whoever comes wait for some seconds.
func paceOf(wait, now time.Duration) *timers.Pace {
	if wait == 0 {
		return timers.NewPace(1e6)
	}
	p := timers.NewPace(1)
	for ; wait > 0; wait -= second {
		p.Turn(now)
	}
	return p
}
