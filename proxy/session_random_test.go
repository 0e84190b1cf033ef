package proxy

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// A world is a lab in which many phones talk to each other by themselves: they
// repeat what is not answered, lose datagrams, and answer as their manners are.
type world struct {
	*lab
	book  *book
	r     *rand.Rand
	calls map[string]*chat
	next  events
	loss  float64                         // of each datagram on either side of the edge
	serve func(c *chat, invite *wire.Msg) // what the callee does with an INVITE
}

// step is how coarse the world's time is.
const step = 50 * time.Millisecond

// A chat is one call of a world.
type chat struct {
	*talk
	end     [2]end
	answers bool                   // the callee answered
	serves  func(invite *wire.Msg) // what the callee does with the INVITE
	talks   func()                 // what happens once it is answered
	callee  string                 // header lines of its 200
	kinds   [2]int
	over    bool // an endpoint sent or got a BYE
	overAt  time.Duration
	byEdge  bool            // it was the edge's
	acked   map[uint32]bool // 2xx of the callee or the caller by CSeq number and side
}

// An end is one phone in one call.
type end struct {
	dead    bool
	manners manners
	last    uint32            // highest number it took
	said    map[string]string // its responses, by CSeq
	heard   map[string]int    // final statuses of its own requests
	byeIs   []int             // how it answers one BYE after the other, then 200
}

// manners are how a phone answers requests of a dialog.
type manners func(m *wire.Msg) (status int, lines string, wait time.Duration)

type event struct {
	at time.Duration
	n  int
	do func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].n < e[j].n
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	x := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return x
}

func newWorld(l *lab, seed uint64) *world {
	l.log.discard = true
	for _, p := range append(l.pbx, l.phone) {
		if err := p.conn.SetReadBuffer(4 << 20); err != nil {
			l.Fatal(err)
		}
	}
	return &world{lab: l, book: l.records(), r: rand.New(rand.NewPCG(seed, 41)), calls: map[string]*chat{}}
}

func (w *world) now() time.Duration { return w.e.wheel.Now() }

// after does something later.
func (w *world) after(d time.Duration, do func()) {
	heap.Push(&w.next, event{w.now() + d, len(w.next), do})
}

// runs lets the world run until a time from now, or until nothing is to happen any
// more and the edge has no call left.
func (w *world) runs(d time.Duration) {
	w.Helper()
	for end := w.now() + d; w.now() < end; {
		pass(step)
		for len(w.next) > 0 && w.next[0].at <= w.now() {
			heap.Pop(&w.next).(event).do()
		}
		for busy := true; busy; {
			busy = w.hears(w.phone, sideA)
			for _, p := range w.pbx {
				busy = w.hears(p, sideB) || busy
			}
		}
	}
}

func (w *world) hears(p *peer, side int) bool {
	m := p.getsWithin(0)
	if m == nil {
		return false
	}
	c := w.calls[string(m.Bytes(m.CallID))]
	if c == nil || c.end[side].dead || w.loses() {
		return true
	}
	if side == sideB {
		c.b = p
	}
	if m.IsRequest() {
		w.asked(c, side, m)
	} else {
		w.told(c, side, m)
	}
	return true
}

func (w *world) loses() bool { return w.loss > 0 && w.r.Float64() < w.loss }

func (w *world) sends(c *chat, side int, text string) {
	if !w.loses() && !c.end[side].dead {
		c.peer(side).sends(text)
	}
}

// begins makes a call with the header lines of its INVITE.
func (w *world) begins(lines string) *chat {
	callNumber++
	c := &chat{talk: &talk{lab: w.lab, id: fmt.Sprintf("chat-%d", callNumber), a: w.phone, b: w.pbx[0], cseq: [2]int{0, 0}}, acked: map[uint32]bool{}}
	for i := range c.end {
		c.end[i].said, c.end[i].heard = map[string]string{}, map[string]int{}
	}
	w.calls[c.id] = c
	w.requests(c, sideA, "INVITE", lines, sdpA)
	return c
}

func contactLine(c *chat, side int) string {
	return "Contact: <sip:x@" + c.peer(side).addr.String() + ">\n"
}

// requests sends a request with the next number, until it is answered.
func (w *world) requests(c *chat, side int, method, lines, body string) {
	c.cseq[side]++
	n := c.cseq[side]
	if method == "INVITE" || method == "UPDATE" {
		lines += contactLine(c, side)
	}
	var text string
	switch {
	case side == sideA && c.ok == nil:
		text = c.text(side, method, n, lines, body, "sip:bob@example.org", "", "")
	case side == sideA:
		text = c.text(side, method, n, lines, body, "sip:bob@"+c.b.addr.String(), routeOf(c.ok), "tb")
	default:
		text = c.text(side, method, n, lines, body, "sip:alice@"+c.a.addr.String(), c.routesOfCallee(), "tb")
	}
	w.repeats(c, side, text, func() bool { return c.end[side].heard[key(n, method)] != 0 })
}

func (t *talk) routesOfCallee() (lines string) {
	for _, h := range t.invite.Headers {
		if h.Kind == wire.KindRecordRoute {
			lines += "Route: " + string(t.invite.Bytes(h.Value)) + "\n"
		}
	}
	return lines
}

func key(n int, method string) string { return strconv.Itoa(n) + " " + method }

// repeats sends a message again and again, as timers E and G do.
func (w *world) repeats(c *chat, side int, text string, enough func() bool) {
	until := w.now() + 32*time.Second
	var again func(gap time.Duration) func()
	again = func(gap time.Duration) func() {
		return func() {
			if w.now() < until && !enough() {
				w.sends(c, side, text)
				w.after(gap, again(min(2*gap, 4*time.Second)))
			}
		}
	}
	again(500 * time.Millisecond)()
}

// told takes a response.
func (w *world) told(c *chat, side int, m *wire.Msg) {
	number, method := int(m.CSeq), string(m.Bytes(m.CSeqMethod))
	e, k := &c.end[side], key(number, method)
	first := m.Status >= 200 && e.heard[k] < 200
	e.heard[k] = max(e.heard[k], m.Status)
	if method == "INVITE" && m.Status >= 200 {
		if m.Status < 300 && c.ok == nil {
			c.ok, c.answeredAt = m, w.now()
		}
		w.acknowledges(c, side, number, m)
	}
	if !first {
		return
	}
	switch {
	case method == "INVITE" && number == 1 && m.Status < 300 && c.talks != nil:
		c.talks()
	case method == "BYE" && (m.Status == 401 || m.Status == 407):
		if c.over = false; w.r.IntN(2) == 0 {
			w.hangsUp(c, side, "Authorization: Digest username=\"x\"\n")
		}
	}
}

func (w *world) acknowledges(c *chat, side, number int, m *wire.Msg) {
	switch {
	case m.Status >= 300: // by the transaction: the edge stops repeating
		return
	case side == sideA:
		w.sends(c, side, c.text(side, "ACK", number, "", "", "sip:bob@"+c.b.addr.String(), routeOf(c.ok), "tb"))
	default:
		w.sends(c, side, c.text(side, "ACK", number, "", "", "sip:alice@"+c.a.addr.String(), c.routesOfCallee(), "tb"))
	}
}

// asked takes a request, as a strict UAS: a number below the last one is refused, the
// same one is answered as before.
func (w *world) asked(c *chat, side int, m *wire.Msg) {
	e, k := &c.end[side], key(int(m.CSeq), string(m.Bytes(m.MethodName)))
	switch {
	case m.Method == wire.ACK:
		c.acked[m.CSeq<<1|uint32(side)] = true
		return
	case m.Method == wire.CANCEL:
		w.sends(c, side, c.reply(m, 200, "", ""))
		if c.invite != nil && !c.answers {
			w.replies(c, side, c.invite, 487, "", "")
		}
		return
	case e.said[k] != "":
		w.sends(c, side, e.said[k])
		return
	case m.Method == wire.INVITE && m.To.Tag.Empty():
		if c.invite == nil {
			c.invite = m
			e.last = m.CSeq
			w.serve(c, m)
		}
		return
	case m.CSeq < e.last:
		w.replies(c, side, m, 500, "", "")
		return
	case m.CSeq == e.last: // its answer is on the way
		return
	}
	e.last = m.CSeq
	if m.Method == wire.BYE {
		w.byeCame(c, side, m)
		return
	}
	status, lines, wait := 200, "", time.Duration(0)
	if e.manners != nil {
		status, lines, wait = e.manners(m)
	}
	if status == 0 {
		return
	}
	w.after(wait, func() {
		if status >= 300 || m.Method != wire.INVITE {
			w.replies(c, side, m, status, lines+echoed(m, status), "")
			return
		}
		w.answersOK(c, side, m, lines+echoed(m, status))
	})
}

// answersOK sends a 200 to an INVITE until the ACK comes.
func (w *world) answersOK(c *chat, side int, m *wire.Msg, lines string) {
	body := []string{sdpA, sdpB}[side]
	text := c.reply(m, 200, lines+contactLine(c, side), body)
	c.end[side].said[key(int(m.CSeq), string(m.Bytes(m.MethodName)))] = text
	w.repeats(c, side, text, func() bool { return c.acked[m.CSeq<<1|uint32(side)] })
}

func (w *world) replies(c *chat, side int, m *wire.Msg, status int, lines, body string) {
	text := c.reply(m, status, lines, body)
	if status >= 200 {
		c.end[side].said[key(int(m.CSeq), string(m.Bytes(m.MethodName)))] = text
	}
	w.sends(c, side, text)
}

func (w *world) byeCame(c *chat, side int, m *wire.Msg) {
	e := &c.end[side]
	status := 200
	if len(e.byeIs) > 0 {
		status, e.byeIs = e.byeIs[0], e.byeIs[1:]
	}
	if !c.over {
		c.over, c.overAt = true, w.now()
	}
	c.byEdge = c.byEdge || m.First(wire.KindReason) >= 0
	if status != 0 {
		w.replies(c, side, m, status, "", "")
	}
}

func (w *world) hangsUp(c *chat, side int, lines string) {
	c.over, c.overAt = true, w.now()
	w.requests(c, side, "BYE", lines, "")
}

// Kinds of living phones.
const (
	takesUpdate = iota
	noUpdate
	refusesUpdate
	ignoresUpdate
	refusesOffers
	asksForCredentials
	isSlow
	isBusy
	failsForMinutes
	kinds
)

// mannersOf are those of a phone that lives, but is difficult.
func (w *world) mannersOf(kind int) manners {
	r := w.r
	failUntil, nextFail := time.Duration(0), time.Duration(r.Int64N(int64(20*time.Minute)))
	return func(m *wire.Msg) (int, string, time.Duration) {
		switch kind {
		case refusesUpdate:
			if m.Method == wire.UPDATE {
				return []int{405, 501}[r.IntN(2)], "", 0
			}
		case ignoresUpdate:
			if m.Method == wire.UPDATE {
				return 0, "", 0
			}
		case refusesOffers:
			if m.Method == wire.INVITE || m.Method == wire.UPDATE {
				return []int{488, 403, 400}[r.IntN(3)], "", 0
			}
		case asksForCredentials:
			return 401, "WWW-Authenticate: Digest realm=\"x\", nonce=\"y\"\n", 0
		case isSlow:
			return 200, "", time.Duration(r.Int64N(int64(20 * time.Second)))
		case isBusy:
			if m.Method != wire.OPTIONS && r.IntN(2) == 0 {
				return 491, "", 0
			}
		case failsForMinutes:
			if now := w.now(); now >= nextFail {
				failUntil = now + time.Duration(r.Int64N(int64(2*time.Minute)))
				nextFail = failUntil + 8*time.Minute
			}
			if w.now() < failUntil {
				return []int{500, 503, 504, 480, 408}[r.IntN(5)], []string{"", "Retry-After: 5\n", "Retry-After: 600\n"}[r.IntN(3)], 0
			}
		}
		return 200, "", 0
	}
}

// linesOf are the header lines of a phone.
func linesOf(kind int, timer bool) (lines string) {
	if timer {
		lines = timerLines
	}
	if kind == noUpdate || kind == refusesOffers {
		return lines + plainLines
	}
	return lines + updateLines
}

// establishes makes n calls of phones of all kinds.
func (w *world) establishes(n int) (all []*chat) {
	w.serve = func(c *chat, m *wire.Msg) {
		w.replies(c, sideB, m, 180, "", "")
		w.after(time.Duration(w.r.Int64N(int64(5*time.Second))), func() {
			c.answers = true
			w.answersOK(c, sideB, m, c.callee)
		})
	}
	for i := range n {
		w.after(time.Duration(w.r.Int64N(int64(20*time.Second))), func() {
			ka, kb := i%kinds, w.r.IntN(kinds)
			lines := linesOf(ka, w.r.IntN(2) == 0)
			if w.r.IntN(4) == 0 && strings.HasPrefix(lines, timerLines) {
				lines += "Session-Expires: 1800\n"
			}
			c := w.begins(lines)
			c.kinds = [2]int{ka, kb}
			c.callee = linesOf(kb, w.r.IntN(2) == 0)
			c.end[sideA].manners, c.end[sideB].manners = w.mannersOf(ka), w.mannersOf(kb)
			all = append(all, c)
		})
	}
	w.runs(60 * time.Second)
	if len(all) != n {
		w.Fatalf("%d of %d calls", len(all), n)
	}
	for _, c := range all {
		if c.ok == nil {
			w.Fatalf("call %s was not answered", c.id)
		}
	}
	return all
}

// chatters has the phones of a call do something now and then.
func (w *world) chatters(c *chat) {
	w.after(time.Duration(w.r.Int64N(int64(10*time.Minute))), func() {
		if c.over {
			return
		}
		side := w.r.IntN(2)
		switch w.r.IntN(3) {
		case 0:
			w.requests(c, side, "INFO", "", "")
		case 1:
			w.requests(c, side, "UPDATE", "", "")
		default:
			w.requests(c, side, "INVITE", "", []string{sdpA, sdpB}[side])
		}
		w.chatters(c)
	})
}

// No call whose two ends live is ever ended by anything but its limits: not by loss of
// 30 % for minutes, slow answers, 491, 5xx, 401, refused or ignored UPDATE, nor by the
// edge's own overload.
func TestLivingCallsAreNeverEnded(t *testing.T) {
	seeds, virtual := 3, 60*time.Minute
	if testing.Short() || raceEnabled {
		seeds = 1
	}
	for _, x := range []struct {
		name    string
		rate    int
		chatter bool
	}{{"quiet", 2000, false}, {"with requests of their own", 2000, true}, {"overload", 1, true}} {
		for seed := range seeds {
			t.Run(fmt.Sprintf("%s %d", x.name, seed), func(t *testing.T) {
				change := func(c *config.Config) {
					c.Timers.ProbeRateMax = x.rate
					if x.rate == 1 { // far more probes than it admits
						c.Timers.SessionUpdateSegment = 10
					}
				}
				inLab(t, 1, change, func(t *testing.T, l *lab) {
					w := newWorld(l, uint64(seed))
					all := w.establishes(50)
					for _, c := range all {
						if x.chatter {
							w.chatters(c)
						}
					}
					for began := w.now(); w.now() < began+virtual; {
						w.loss = 0.3
						w.runs(time.Duration(1+w.r.IntN(5)) * time.Minute)
						w.loss = 0
						w.runs(time.Duration(1+w.r.IntN(5)) * time.Minute)
						if w.anyEnded(t, all) {
							return
						}
					}
					if s := l.e.CallStats(); s.Concurrent != 50 {
						t.Errorf("%+v", s)
					}
					t.Logf("%v", l.e.CallStats().Probes)
					for i, c := range all {
						w.hangsUp(c, i%2, "")
					}
					w.runs(2 * time.Minute)
					for _, r := range w.book.all() {
						if r.Reason != "bye" || r.Duration < virtual.Seconds() {
							t.Errorf("%+v", r)
						}
					}
					if n := len(w.book.all()); n != 50 {
						t.Errorf("%d records", n)
					}
				})
			})
		}
	}
}

func (w *world) anyEnded(t *testing.T, all []*chat) bool {
	t.Helper()
	for _, c := range all {
		if c.over {
			t.Errorf("call %s between phones of kinds %v ended at %v", c.id, c.kinds, c.overAt)
		}
	}
	for _, r := range w.book.all() {
		t.Errorf("%+v", r)
	}
	return t.Failed()
}

// envCalls is how many calls the longest tests make.
func envCalls(usual int) int {
	if n, err := strconv.Atoi(os.Getenv("SIPWARD_LAB_CALLS")); err == nil {
		return n
	}
	return usual
}

// And the opposite: a call of which one end is gone, or both, always ends, by the
// deadline of its last proof of life.
func TestDeadCallsAlwaysEnd(t *testing.T) {
	seeds := 3
	if testing.Short() || raceEnabled {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inLab(t, 1, nil, func(t *testing.T, l *lab) {
				w := newWorld(l, uint64(seed))
				all := w.establishes(60)
				died := map[string]time.Duration{}
				for i, c := range all {
					w.chatters(c)
					w.after(time.Duration(w.r.Int64N(int64(30*time.Minute))), func() {
						died[c.id] = w.now()
						c.end[i%2].dead = true
						c.end[1-i%2].dead = i%3 == 0
					})
				}
				for began := w.now(); w.now() < began+45*time.Minute; {
					w.loss = 0.3
					w.runs(2 * time.Minute)
					w.loss = 0
					w.runs(3 * time.Minute)
				}
				w.checkDeadlines(t, died)
				w.runs(90 * time.Minute) // the passive limits of those without timers
				w.checkDeadlines(t, died)
				if n := len(w.book.all()); n != 60 || l.e.dialogs.Len() != 0 {
					t.Errorf("%d records, %d calls left", n, l.e.dialogs.Len())
				}
			})
		})
	}
}

// checkDeadlines checks the records of calls whose ends died. A call with a probed
// dead end may not outlive its last proof by more than session_ttl; one that nobody
// watches has the passive limit.
func (w *world) checkDeadlines(t *testing.T, died map[string]time.Duration) {
	t.Helper()
	const ttl, passive = 600.0, 7200.0
	for _, r := range w.book.all() {
		gone := w.e.wallTime(died[r.CallID])
		switch r.Reason {
		case "session_ttl":
			if d := r.End.Sub(*r.LastVerified).Seconds(); d < ttl || d > ttl+1 {
				t.Errorf("%v s after the last proof: %+v", d, r)
			}
			if d := r.End.Sub(gone).Seconds(); d > ttl+40 { // an answer may be on its way
				t.Errorf("%v s after it died: %+v", d, r)
			}
		case "no_timer_call_duration":
			if r.Duration < passive || r.Duration > passive+1 {
				t.Errorf("%+v", r)
			}
		default:
			t.Errorf("%+v", r)
		}
	}
	for _, x := range w.e.Calls(CallFilter{}) {
		if x.EndsBy != "no_timer_call_duration" && x.State != "terminating" {
			t.Errorf("still there: %+v", x)
		}
	}
}

// ways are how a call of TestNothingLeaks goes on once it began; each sets what the
// callee does with the INVITE.
var ways = []func(w *world, c *chat){
	func(w *world, c *chat) { c.takes(w, func() { w.hangsUp(c, sideA, "") }) },
	func(w *world, c *chat) { c.takes(w, func() { w.hangsUp(c, sideB, "") }) },
	func(w *world, c *chat) { // both at once
		c.takes(w, func() { w.hangsUp(c, sideA, ""); w.hangsUp(c, sideB, "") })
	},
	func(w *world, c *chat) { // BYEs that are refused
		for side := range c.end {
			c.end[side].byeIs = [][]int{{401}, {500, 500}, {481}, {0, 0}, {407, 401}, {603}}[w.r.IntN(6)]
		}
		c.takes(w, func() { w.hangsUp(c, w.r.IntN(2), "") })
	},
	func(w *world, c *chat) { c.takes(w, func() { w.e.EndCall(w.idOf(c)) }) },
	func(w *world, c *chat) { c.takes(w, func() { c.end[w.r.IntN(2)].dead = true }) },
	func(w *world, c *chat) { c.takes(w, func() { c.end[sideA].dead, c.end[sideB].dead = true, true }) },
	func(w *world, c *chat) { c.takes(w, func() {}) }, // till a limit
	func(w *world, c *chat) { // a refresh, refused in all ways
		c.takes(w, func() {
			status := []int{200, 481, 408, 488, 500, 401}[w.r.IntN(6)]
			c.end[sideB].manners = func(*wire.Msg) (int, string, time.Duration) { return status, "", 0 }
			w.requests(c, sideA, []string{"UPDATE", "INVITE"}[w.r.IntN(2)], "", "")
		})
	},
	func(w *world, c *chat) { // the caller is gone before the ACK
		c.callee = linesOf(w.r.IntN(2), w.r.IntN(2) == 0)
		c.serves = func(m *wire.Msg) { c.end[sideA].dead = true; w.answersOK(c, sideB, m, c.callee) }
	},
	func(w *world, c *chat) { // forks
		n := w.r.IntN(20)
		c.serves = func(m *wire.Msg) {
			for i := range n {
				w.sends(c, sideB, response(m, 180+w.r.IntN(4), fmt.Sprintf("f%d", i)))
			}
			if w.r.IntN(2) == 0 {
				w.sends(c, sideB, response(m, 200, "f1"))
			}
			w.answersOK(c, sideB, m, c.callee)
		}
		c.talks = func() { w.after(time.Second, func() { w.hangsUp(c, sideA, "") }) }
	},
	func(w *world, c *chat) { // refused
		status := []int{401, 407, 422, 486, 500, 503, 603, 302}[w.r.IntN(8)]
		c.serves = func(m *wire.Msg) { w.replies(c, sideB, m, status, "Min-SE: 1800\n", "") }
	},
	func(w *world, c *chat) { c.end[sideB].dead = true },                                             // nobody answers
	func(w *world, c *chat) { c.serves = func(m *wire.Msg) { w.replies(c, sideB, m, 180, "", "") } }, // nobody picks up
	func(w *world, c *chat) { // cancelled, or answered at that moment
		w.after(time.Duration(w.r.Int64N(int64(4*time.Second))), func() { w.cancels(c) })
		c.serves = func(m *wire.Msg) {
			w.replies(c, sideB, m, 183, "", "")
			w.after(2*time.Second, func() {
				if c.end[sideB].said["1 INVITE"] == "" {
					c.answers = true
					w.answersOK(c, sideB, m, c.callee)
				}
			})
		}
		c.talks = func() { w.hangsUp(c, sideA, "") }
	},
	func(w *world, c *chat) { // refused, and answered all the same
		c.serves = func(m *wire.Msg) {
			w.replies(c, sideB, m, []int{486, 603, 302, 401, 487}[w.r.IntN(5)], "", "")
			w.after(time.Duration(w.r.Int64N(int64(40*time.Second))), func() { w.answersOK(c, sideB, m, c.callee) })
		}
	},
	func(w *world, c *chat) { // a fork answers after the CANCEL, or when another one has hung up
		cancels := w.r.IntN(2) == 0
		c.serves = func(m *wire.Msg) {
			w.sends(c, sideB, response(m, []int{180, 183, 199}[w.r.IntN(3)], "f1"))
			w.after(3*time.Second, func() {
				if c.answers = true; !cancels {
					w.answersOK(c, sideB, m, c.callee)
				}
			})
			w.after(3*time.Second+time.Duration(w.r.Int64N(int64(40*time.Second))), func() {
				w.sends(c, sideB, response(m, 200, []string{"f1", "f2"}[w.r.IntN(2)], c.callee, contactLine(c, sideB)))
			})
		}
		if cancels {
			w.after(time.Second, func() { w.cancels(c) })
		}
		c.talks = func() { w.hangsUp(c, sideA, "") }
	},
	func(w *world, c *chat) { // both want something while it ends
		c.takes(w, func() {
			w.requests(c, sideA, "INVITE", "", sdpA)
			w.requests(c, sideB, []string{"INVITE", "UPDATE"}[w.r.IntN(2)], "", "")
			w.hangsUp(c, w.r.IntN(2), "")
		})
	},
	func(w *world, c *chat) { // given up by BYE
		c.serves = func(m *wire.Msg) {
			w.replies(c, sideB, m, 183, "", "")
			w.after(2*time.Second, func() { w.replies(c, sideB, m, 487, "", "") })
		}
		w.after(time.Second, func() { w.hangsUp(c, sideA, "") })
	},
}

// takes has the callee answer after some time, and something happen later.
func (c *chat) takes(w *world, then func()) {
	c.serves = func(m *wire.Msg) {
		w.replies(c, sideB, m, 180, "", "")
		w.after(time.Duration(w.r.Int64N(int64(8*time.Second))), func() {
			c.answers = true
			w.answersOK(c, sideB, m, c.callee)
		})
	}
	c.talks = func() { w.after(time.Duration(w.r.Int64N(int64(40*time.Second))), then) }
}

// cancels sends the CANCEL of the first INVITE.
func (w *world) cancels(c *chat) {
	branch := c.branch
	text := c.text(sideA, "CANCEL", 1, "", "", "sip:bob@example.org", "", "")
	text = strings.Replace(text, fmt.Sprintf("-%d;", c.branch), "-1;", 1)
	c.branch = branch
	w.repeats(c, sideA, text, func() bool { return c.end[sideA].heard["1 CANCEL"] != 0 })
}

// idOf is the edge's name of a call, from its Record-Route: a listing would be dear.
func (w *world) idOf(c *chat) string {
	for _, h := range c.invite.Headers {
		if h.Kind != wire.KindRecordRoute {
			continue
		}
		uri, _, _ := wire.NameAddrURI(c.invite.Bytes(h.Value))
		if u, ok := wire.ParseURI(uri); ok {
			if t, ok := w.e.tokens.parse(u.User); ok {
				return callIDText(t.call)
			}
		}
	}
	w.Errorf("call %s has no Record-Route of the edge", c.id)
	return ""
}

// Nothing leaks: after calls with every ending there is, with loss on all ways, no
// record, timer, transaction, tally, index entry or memory of a dialog is left. Each
// call that was no mere challenge has left one record. SIPWARD_LAB_CALLS sets how many
// calls that are.
func TestNothingLeaks(t *testing.T) {
	n := envCalls(20_000)
	if testing.Short() || raceEnabled {
		n = 2000
	}
	change := func(c *config.Config) {
		c.Timers.SessionTTL, c.Timers.NoTimerCallDuration, c.Timers.MaxCallDuration, c.Timers.MaxRingDuration = 60e9, 70e9, 120e9, 30e9
		p := c.Pools["pbx"]
		p.Policy = "least_calls"
		for i := range p.Backends {
			p.Backends[i].Priority, p.Backends[i].MaxCalls = 0, 10_000
		}
		c.Pools["pbx"] = p
		c.Log.Requests, c.Log.Replies = false, false
	}
	inLab(t, 2, change, func(t *testing.T, l *lab) {
		w := newWorld(l, 48)
		w.loss = 0.05
		w.serve = func(c *chat, m *wire.Msg) {
			if c.serves != nil {
				c.serves(m)
			}
		}
		const perSecond = 100
		for i := range n {
			w.after(time.Duration(i)*time.Second/perSecond, func() {
				c := w.begins(linesOf(w.r.IntN(2), w.r.IntN(2) == 0))
				c.callee = linesOf(w.r.IntN(2), w.r.IntN(2) == 0)
				ways[w.r.IntN(len(ways))](w, c)
				w.after(8*time.Minute, func() { delete(w.calls, c.id) })
			})
		}
		w.runs(time.Duration(n)*time.Second/perSecond + 8*time.Minute)
		if k := l.e.dialogs.Len(); k != 0 {
			t.Errorf("%d calls left, the first: %+v", k, l.e.Calls(CallFilter{Limit: 3}))
		}
		l.atRest()
		if found, remembered := l.e.dialogs.Traces(w.now()); found != 0 || remembered != 0 {
			t.Errorf("%d dialogs can be found, %d are remembered", found, remembered)
		}
		for _, b := range l.e.snap.Load().pools.Pool("pbx").Backends() {
			if b.Calls() != 0 {
				t.Errorf("%s has %d calls", b.Name(), b.Calls())
			}
		}
		s, records := l.e.CallStats(), w.book.all()
		over := uint64(0)
		for _, k := range s.Ended {
			over += k
		}
		if s.Concurrent != 0 || s.Ringing != 0 || over != s.Attempts || uint64(len(records)) != over {
			t.Errorf("%d records, %d ended: %+v", len(records), over, s)
		}
		seen := map[string]bool{}
		for _, r := range records {
			if seen[r.CallID] {
				t.Errorf("twice: %+v", r)
			}
			seen[r.CallID] = true
		}
		t.Logf("%d calls: %+v", n, s)
		if c := l.e.Counters(); c.Held != 0 || c.SendErrors != 0 {
			t.Errorf("%+v", c)
		}
	})
}
