package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// How the caller of a late answer comes to its failure. Each returns the INVITE as the
// node got it that answers too late.
var failures = []struct {
	name   string
	status int
	nodes  int
	passes bool // there is a transaction for the 2xx: it goes to the caller
	record string
	comes  func(l *lab, c *call) *wire.Msg
}{
	{"486 of the next node, the first was given up", 486, 2, true, "rejected", func(l *lab, c *call) *wire.Msg {
		first := l.pbx[0].get("INVITE")
		pass(2100 * time.Millisecond)
		l.pbx[1].answers(l.pbx[1].get("INVITE"), 486, "z")
		l.pbx[1].get("ACK")
		l.pbx[0].skip()
		return first
	}},
	{"603 of the next node, the first rings and was cancelled", 603, 2, true, "rejected", func(l *lab, c *call) *wire.Msg {
		first := l.pbx[0].get("INVITE")
		pass(2100 * time.Millisecond)
		second := l.pbx[1].get("INVITE")
		l.pbx[0].skip()
		l.pbx[0].answers(first, 180, "b")
		l.pbx[0].answers(l.pbx[0].get("CANCEL"), 200, "b")
		l.pbx[1].answers(second, 603, "z")
		l.pbx[1].get("ACK")
		return first
	}},
	{"the caller's CANCEL, the next node's 487, the first was given up", 487, 2, true, "cancel", func(l *lab, c *call) *wire.Msg {
		first := l.pbx[0].get("INVITE")
		pass(2100 * time.Millisecond)
		second := l.pbx[1].get("INVITE")
		l.pbx[0].skip()
		l.pbx[1].answers(second, 180, "z")
		l.phone.get("180 INVITE")
		c.cancels()
		l.pbx[1].answers(l.pbx[1].get("CANCEL"), 200, "z")
		l.pbx[1].answers(second, 487, "z")
		l.pbx[1].get("ACK")
		return first
	}},
	{"486 of the same node", 486, 1, false, "rejected", refuses(486)},
	{"486 of the same dialog", 486, 1, false, "rejected", func(l *lab, c *call) *wire.Msg {
		m := c.rings()
		l.pbx[0].answers(m, 486, "b")
		l.pbx[0].get("ACK")
		return m
	}},
	{"a challenge", 401, 1, false, "", refuses(401)},
	{"a redirection", 302, 1, false, "rejected", refuses(302)},
	{"our 408 after silence", 408, 1, false, "timeout", func(l *lab, c *call) *wire.Msg {
		m := l.pbx[0].get("INVITE")
		pass(32100 * time.Millisecond)
		l.pbx[0].skip()
		return m
	}},
	{"the caller's CANCEL and a 487", 487, 1, false, "cancel", func(l *lab, c *call) *wire.Msg {
		m := c.rings()
		c.cancels()
		l.pbx[0].answers(l.pbx[0].get("CANCEL"), 200, "b")
		l.pbx[0].answers(m, 487, "b")
		l.pbx[0].get("ACK")
		return m
	}},
	{"the caller's CANCEL, which was ignored", 487, 1, false, "cancel", func(l *lab, c *call) *wire.Msg {
		m := c.rings()
		c.cancels()
		l.pbx[0].get("CANCEL")
		pass(33 * time.Second)
		l.pbx[0].skip()
		return m
	}},
	{"max_ring_duration, and the CANCEL was ignored", 408, 1, false, "max_ring_duration", func(l *lab, c *call) *wire.Msg {
		m := c.rings()
		pass(93 * time.Second)
		l.pbx[0].skip()
		return m
	}},
}

// refuses is a node that says no.
func refuses(status int) func(*lab, *call) *wire.Msg {
	return func(l *lab, _ *call) *wire.Msg {
		m := l.pbx[0].get("INVITE")
		l.pbx[0].answers(m, status, "z")
		l.pbx[0].get("ACK")
		return m
	}
}

// rings takes the INVITE to the first node, which rings.
func (c *call) rings() (inv *wire.Msg) {
	pbx := c.from.lab.pbx[0]
	inv = pbx.get("INVITE")
	pbx.answers(inv, 180, "b")
	c.from.get("180 INVITE")
	return inv
}

func (c *call) cancels() {
	c.sends("CANCEL")
	c.from.get("200 CANCEL")
}

// late is a call that failed and is answered all the same.
type late struct {
	*lab
	c    *call
	pbx  *peer
	inv  *wire.Msg // as the PBX got it
	book *book
	two  string // the 200 as the PBX sends it
}

const lateContact = "Contact: <sip:bob@%s>\r\n"

// failsLate runs a test with each failure, a tag of the 2xx, and whether the caller has
// acknowledged its failure.
func failsLate(t *testing.T, f func(t *testing.T, x *late, passes bool, record string)) {
	for _, fail := range failures {
		for _, tag := range []string{"b", "fork"} {
			for _, acked := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, tag %s, acknowledged %v", fail.name, tag, acked), func(t *testing.T) {
					change := withTimers(func(x *config.Timers) { x.MaxRingDuration = 60e9 })
					inLab(t, fail.nodes, change, func(t *testing.T, l *lab) {
						x := &late{lab: l, c: l.phone.call(), pbx: l.pbx[0], book: l.records()}
						x.c.more = "Contact: <sip:alice@" + l.phone.addr.String() + ">\r\nAllow: INVITE, BYE\r\n"
						x.c.sends("INVITE")
						x.c.more = ""
						l.phone.get("100 INVITE")
						x.inv = fail.comes(l, x.c)
						m := l.phone.get(fmt.Sprint(fail.status, " INVITE"))
						if acked {
							x.c.to = string(m.Bytes(m.To.Tag))
							x.c.sends("ACK")
							x.c.to = ""
						}
						l.e.log.Flush()
						x.two = response(x.inv, 200, tag, fmt.Sprintf(lateContact, x.pbx.addr))
						f(t, x, fail.passes, fail.record)
					})
				})
			}
		}
	}
}

// ended checks the records, and that nothing is left, after a time for all transactions.
func (x *late) ended(t *testing.T, want ...string) {
	t.Helper()
	pass(200 * time.Second)
	if n := x.e.dialogs.Len(); n != 0 {
		t.Errorf("%d calls left: %+v", n, x.e.Calls(CallFilter{}))
	}
	x.atRest()
	if found, _ := x.e.dialogs.Traces(x.e.wheel.Now()); found != 0 {
		t.Errorf("%d dialogs can be found", found)
	}
	for _, b := range x.e.snap.Load().pools.Pool("pbx").Backends() {
		if b.Calls() != 0 {
			t.Errorf("%s has %d calls", b.Name(), b.Calls())
		}
	}
	var got []string
	for _, r := range x.book.all() {
		got = append(got, r.Reason)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("records %q, want %q", got, want)
	}
	if s := x.e.CallStats(); s.Concurrent != 0 || s.Ringing != 0 || int(s.Attempts) != len(want) {
		t.Errorf("%+v", s)
	}
}

func reasons(record string, more ...string) []string {
	if record == "" { // a challenge
		return more
	}
	return append([]string{record}, more...)
}

// hungUp checks ACK and BYE of the edge to the callee.
func (x *late) hungUp(t *testing.T) {
	t.Helper()
	ack, bye := x.pbx.get("ACK"), x.pbx.get("BYE")
	two := &wire.Msg{}
	two.Scan([]byte(x.two), false)
	if ack.CSeq != x.inv.CSeq || bye.CSeq != x.inv.CSeq+1 {
		t.Errorf("ACK %d, BYE %d", ack.CSeq, bye.CSeq)
	}
	for _, m := range []*wire.Msg{ack, bye} {
		if string(m.Bytes(m.To.Tag)) != string(two.Bytes(two.To.Tag)) || string(m.Bytes(m.From.Tag)) != "a" ||
			string(m.Bytes(m.RURI)) != "sip:bob@"+x.pbx.addr.String() || m.Vias != 1 {
			t.Errorf("not of the dialog:\n%s", m.Buf)
		}
	}
	if !strings.Contains(string(bye.Buf), `Reason: SIP;cause=487;text="answered too late"`) {
		t.Errorf("no reason:\n%s", bye.Buf)
	}
	x.pbx.answers(bye, 200, "")
}

// An answer that nobody takes is ended by the edge: at once where it must not be passed
// on, after some copies where it was.
func TestLateAnswerThatNobodyTakes(t *testing.T) {
	failsLate(t, func(t *testing.T, x *late, passes bool, record string) {
		x.pbx.sends(x.two)
		if passes {
			x.phone.get("200 INVITE")
			x.repeats(500, 1500, 3500, 7500)
			pass(700 * time.Millisecond)
		}
		x.hungUp(t)
		x.pbx.sends(x.two) // one that crossed the BYE
		x.pbx.skip()       // it may be acknowledged again
		x.phone.skip()
		if passes { // the caller may think that it has a call, for all we know
			pass(25 * time.Second)
			x.phone.answers(x.phone.get("BYE"), 481, "")
		}
		x.ended(t, reasons(record)...)
	})
}

// repeats sends copies of the answer, in milliseconds after it, as a callee does that has no ACK.
func (x *late) repeats(at ...time.Duration) {
	var now time.Duration
	for _, d := range at {
		pass((d - now) * time.Millisecond)
		now = d
		x.pbx.nothing()
		x.pbx.sends(x.two)
		x.phone.get("200 INVITE")
	}
}

// The ACK, or the BYE, of the edge is lost: it comes again with a copy.
func TestLateAnswerWhoseACKIsLost(t *testing.T) {
	failsLate(t, func(t *testing.T, x *late, passes bool, record string) {
		x.pbx.sends(x.two)
		if passes {
			x.phone.get("200 INVITE")
			x.repeats(500, 1500, 3500, 7500)
			pass(700 * time.Millisecond)
		}
		x.pbx.get("ACK")
		x.pbx.get("BYE")
		x.pbx.sends(x.two)
		x.pbx.get("ACK")
		x.pbx.nothing()
		pass(600 * time.Millisecond)
		x.pbx.answers(x.pbx.get("BYE"), 200, "")
		x.phone.skip()
		pass(25 * time.Second)
		for m := x.phone.gets(); m != nil; m = x.phone.gets() {
			if m.Method == wire.BYE {
				x.phone.answers(m, 481, "")
			}
		}
		x.ended(t, reasons(record)...)
	})
}

// The caller takes it: then it is a call like any other, with the end of any other.
func TestLateAnswerThatTheCallerTakes(t *testing.T) {
	failsLate(t, func(t *testing.T, x *late, passes bool, record string) {
		if !passes {
			return
		}
		x.pbx.sends(x.two)
		ok := x.phone.get("200 INVITE")
		pass(3 * time.Second)
		x.c.to, x.c.route, x.c.uri = string(ok.Bytes(ok.To.Tag)), routeOf(ok), "sip:bob@"+x.pbx.addr.String()
		x.c.branch++
		x.c.sends("ACK")
		x.pbx.get("ACK")
		if s := x.e.CallStats(); s.Concurrent != 1 || x.e.snap.Load().pools.Pool("pbx").Backends()[0].Calls() != 1 {
			t.Errorf("%+v", s)
		}
		pass(7000 * time.Second)
		x.phone.nothing()
		x.pbx.nothing()
		pass(300 * time.Second)
		for _, p := range []*peer{x.phone, x.pbx} {
			p.answers(p.get("BYE"), 200, "")
		}
		x.ended(t, reasons(record, "no_timer_call_duration")...)
	})
}

// The caller takes it, and ignores our Record-Route: a living call is not cut, and ends as one that was answered in time.
func TestLateAnswerThatIsAcknowledgedPastTheEdge(t *testing.T) {
	failsLate(t, func(t *testing.T, x *late, passes bool, record string) {
		if !passes {
			return
		}
		x.pbx.sends(x.two)
		x.phone.get("200 INVITE")
		x.repeats(500, 1500) // then it has its ACK
		pass(7000 * time.Second)
		x.phone.nothing()
		x.pbx.nothing()
		if s := x.e.CallStats(); s.Concurrent != 1 || x.e.snap.Load().pools.Pool("pbx").Backends()[0].Calls() != 1 {
			t.Errorf("%+v", s)
		}
		pass(300 * time.Second)
		for _, p := range []*peer{x.phone, x.pbx} {
			p.answers(p.get("BYE"), 200, "")
		}
		x.ended(t, reasons(record, "no_timer_call_duration")...)
	})
}

// The caller knows what to do: ACK and BYE.
func TestLateAnswerThatTheCallerEnds(t *testing.T) {
	failsLate(t, func(t *testing.T, x *late, passes bool, record string) {
		if !passes {
			return
		}
		x.pbx.sends(x.two)
		ok := x.phone.get("200 INVITE")
		x.c.to, x.c.route, x.c.uri = string(ok.Bytes(ok.To.Tag)), routeOf(ok), "sip:bob@"+x.pbx.addr.String()
		x.c.branch++
		x.c.sends("ACK")
		x.pbx.get("ACK")
		x.c.cseq++
		x.c.sends("BYE")
		x.pbx.answers(x.pbx.get("BYE"), 200, "")
		x.phone.get("200 BYE")
		x.ended(t, reasons(record, "bye")...)
	})
}

// When every trace of the INVITE is gone there is no transaction (RFC 6026 8.9): the
// callee, which gets no ACK, ends it by itself (RFC 3261 13.3.1.4).
func TestAnswerWithoutTransactionIsDropped(t *testing.T) {
	failsLate(t, func(t *testing.T, x *late, passes bool, record string) {
		pass(200 * time.Second)
		x.pbx.skip()
		x.phone.skip()
		stray := x.e.Counters().Stray
		x.pbx.sends(x.two)
		x.pbx.nothing()
		x.phone.nothing()
		if n := x.e.Counters().Stray - stray; n != 1 {
			t.Errorf("%d strays", n)
		}
		x.ended(t, reasons(record)...)
	})
}

// The caller has hung up on one fork when the next one answers.
func TestForkThatAnswersAfterTheEnd(t *testing.T) {
	for _, rang := range []bool{false, true} {
		for _, takes := range []bool{true, false} {
			t.Run(fmt.Sprintf("rang %v, the caller ends it %v", rang, takes), func(t *testing.T) {
				inLab(t, 1, nil, func(t *testing.T, l *lab) {
					b := l.records()
					x := l.rings(plainLines)
					if rang {
						x.b.sends(response(x.invite, 180, "fork"))
						x.a.get("180 INVITE")
					}
					x.answers(plainLines)
					x.acks()
					x.asks(sideA, "BYE", "", "", 200, "")
					pass(10 * time.Second)
					contact := fmt.Sprintf(lateContact, x.b.addr)
					x.b.answers(x.invite, 200, "fork", contact)
					x.a.get("200 INVITE")
					if n := l.e.dialogs.Len(); n == 0 {
						t.Error("nobody follows it")
					}
					if takes {
						to := func(method string, n int) {
							x.a.sends(x.text(sideA, method, n, "", "", "sip:bob@"+x.b.addr.String(), routeOf(x.ok), "fork"))
						}
						to("ACK", 1)
						x.b.get("ACK")
						to("BYE", 2)
						x.b.answers(x.b.get("BYE"), 200, "")
						x.a.get("200 BYE")
					} else {
						pass(7210 * time.Second)
						for _, p := range []*peer{x.a, x.b} {
							p.answers(p.get("BYE"), 481, "")
						}
					}
					x.gone()
					if all := b.all(); len(all) != 1 {
						t.Errorf("%d records: %+v", len(all), all)
					}
				})
			})
		}
	}
}

// Of several targets the one that answers is where the call is.
func TestLateAnswerIsCountedWhereItCameFrom(t *testing.T) {
	inLab(t, 2, withTimers(func(x *config.Timers) { x.MaxCallDuration = 100e9 }), func(t *testing.T, l *lab) {
		c := l.phone.call()
		c.more = "Contact: <sip:alice@" + l.phone.addr.String() + ">\r\n"
		c.sends("INVITE")
		l.phone.get("100 INVITE")
		first := l.pbx[0].get("INVITE")
		pass(2100 * time.Millisecond)
		l.pbx[1].get("INVITE")
		l.pbx[0].skip()
		l.pbx[0].answers(first, 200, "b", "Contact: <sip:bob@unknown.invalid>\r\n")
		l.phone.get("200 INVITE")
		all := l.e.snap.Load().pools.Pool("pbx").Backends()
		if all[0].Calls() != 1 || all[1].Calls() != 0 {
			t.Errorf("%d and %d calls", all[0].Calls(), all[1].Calls())
		}
	})
}
