package proxy

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// both are the header lines of an endpoint that takes UPDATE and keeps no interval.
const both = timerLines + updateLines

// renumbered are the changes of a request, and of its response, whose CSeq is
// translated and of which nothing else differs.
func renumbered(method string, own, other int) (there, back []string) {
	a, b := fmt.Sprintf("CSeq: %d %s", own, method), fmt.Sprintf("CSeq: %d %s", other, method)
	return []string{"- " + a, "+ " + b}, []string{"- " + b, "+ " + a}
}

// exchanges has a side send a request with its next number, and checks that the other
// one sees it with the number sees, and that nothing else is changed either way.
func (t *talk) exchanges(side int, method, lines string, sees int) {
	t.Helper()
	there, back := t.refreshes(side, method, lines, "")
	wantThere, wantBack := renumbered(method, t.cseq[side], sees)
	if t.cseq[side] == sees {
		wantThere, wantBack = nil, nil
	}
	if !slices.Equal(there, wantThere) || !slices.Equal(back, wantBack) {
		t.Errorf("%s: changed %q, %q, want %q, %q", method, there, back, wantThere, wantBack)
	}
}

// probes lets the clock run until both sides were probed so often.
func (t *talk) probes(times int) {
	t.Helper()
	for range times {
		t.probed(sideB, "UPDATE", 331*time.Second, 200, "", "")
		t.probed(sideA, "UPDATE", 4*time.Second, 200, "", "")
	}
}

func TestG33EndpointsNumbersStayInOrderAfterProbes(t *testing.T) {
	for _, side := range []int{sideA, sideB} {
		inLab(t, 1, withTimers(func(c *config.Timers) { c.InsertSE = "never" }), func(t *testing.T, l *lab) {
			c := l.talks(both, both)
			if side == sideB {
				c.cseq[sideB] = 40 // whatever it begins with, it is above ours
			}
			first := c.cseq[side]
			c.probes(2) // numbers 2 and 3 of A, 1 and 2 of B
			shift := 2
			if side == sideB {
				shift = 0
			}
			for i, m := range []string{"INFO", "INVITE", "UPDATE", "REFER"} {
				c.exchanges(side, m, "", first+1+i+shift)
			}
			c.probes(1)
			for i, m := range []string{"MESSAGE", "INVITE", "INVITE", "BYE"} {
				c.exchanges(side, m, "", first+5+i+shift+1)
			}
			c.gone()
			if got := c.why(); got != "bye" {
				t.Error(got)
			}
		})
	}
}

func TestG36LateRetransmissionHasTheNumberOfTheFirst(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(both, both)
		c.probes(1)
		c.exchanges(sideA, "INFO", "", 3)
		c.next(sideA, "INFO", "", "")
		info := c.last
		first := c.b.get("INFO")
		c.b.sends(c.reply(first, 200, "", ""))
		c.a.get("200 INFO")
		c.probes(1) // its transaction is gone by then, and a number of ours follows
		c.a.sends(info)
		again := c.b.get("INFO")
		if again.CSeq != first.CSeq || first.CSeq != 4 {
			t.Errorf("INFO with CSeq %d, then %d, want 4", first.CSeq, again.CSeq)
		}
		c.b.sends(c.reply(again, 500, "", "")) // it is no retransmission to a UA that forgot
		if got := c.a.get("500 INFO"); int(got.CSeq) != c.cseq[sideA] {
			t.Errorf("answered with CSeq %d", got.CSeq)
		}
		c.exchanges(sideA, "INFO", "", 6)

		c.next(sideA, "BYE", "", "")
		bye := c.last
		sees := c.b.get("BYE").CSeq
		pass(100 * time.Millisecond)
		c.a.sends(bye) // while the transaction lives it stays here
		c.b.nothing()
		pass(33 * time.Second) // B is silent: timer F
		c.b.skip()
		c.a.get("408 BYE")
		pass(20 * time.Second)
		c.a.sends(bye)
		c.a.get("408 BYE")
		pass(20 * time.Second) // the transaction is gone
		c.a.sends(bye)
		if got := c.b.gets(); got != nil && got.CSeq > sees {
			t.Errorf("BYE with CSeq %d after %d", got.CSeq, sees)
		}
		pass(40 * time.Second)
		c.a.skip()
		c.b.skip()
		c.gone()
	})
}

func TestG36ByeRepeatedAfterTheEndIsAnsweredByTheEdge(t *testing.T) {
	inLab(t, 1, func(c *config.Config) {
		withTimers(func(*config.Timers) {})(c)
		c.Transaction.T1 = config.Duration(50 * time.Millisecond) // the edge forgets before the endpoint does
	}, func(t *testing.T, l *lab) {
		c := l.talks(both, both)
		c.probes(1)
		c.next(sideA, "BYE", "", "")
		bye := c.last
		c.answered(sideB, "BYE", 200, "", "")
		c.a.get("200 BYE")
		pass(3400 * time.Millisecond)
		c.a.sends(bye)
		c.b.nothing()
		switch got := title(c.a.getsWithin(2000)); got {
		case "200 BYE", "481 BYE": // from the transaction or from what is left of the dialog
		default:
			t.Errorf("got %q", got)
		}
		c.gone()
	})
}

func TestG37CancelAndFailureOfALaterInviteKeepTheirNumbers(t *testing.T) {
	for _, side := range []int{sideA, sideB} {
		for _, status := range []int{487, 488, 491} {
			t.Run(fmt.Sprintf("side %d %d", side, status), func(t *testing.T) {
				inLab(t, 1, withTimers(func(c *config.Timers) { c.InsertSE = "never" }), func(t *testing.T, l *lab) {
					c := l.talks(both, both)
					from, to := c.peer(side), c.peer(1-side)
					c.exchanges(side, "INFO", "", c.cseq[side]+1)
					c.probes(2)
					c.next(side, "INVITE", "Contact: <sip:x@"+from.addr.String()+">\n", sdpA)
					invite, own := c.last, uint32(c.cseq[side])
					from.get("100 INVITE")
					got := to.get("INVITE")
					if got.CSeq != own+2 {
						t.Errorf("INVITE with CSeq %d, want %d", got.CSeq, own+2)
					}
					to.sends(c.reply(got, 180, "", ""))
					if ringing := from.get("180 INVITE"); ringing.CSeq != own {
						t.Errorf("180 with CSeq %d, want %d", ringing.CSeq, own)
					}
					if status == 487 {
						var sent wire.Msg
						sent.Scan([]byte(invite), false)
						to0 := sent.Headers[sent.First(wire.KindTo)].Line
						from.sends(string(appendHopRequest(nil, &sent, "CANCEL", sent.Bytes(to0), nil)))
						if ok := from.get("200 CANCEL"); ok.CSeq != own {
							t.Errorf("200 to CANCEL with CSeq %d, want %d", ok.CSeq, own)
						}
						cancel := to.get("CANCEL")
						if cancel.CSeq != got.CSeq || string(cancel.Bytes(cancel.TopVia.Branch)) != string(got.Bytes(got.TopVia.Branch)) {
							t.Errorf("CANCEL does not match the INVITE:\n%s\n%s", cancel.Buf, got.Buf)
						}
						to.sends(c.reply(cancel, 200, "", ""))
					}
					to.sends(c.reply(got, status, "", ""))
					sent := c.last
					ack := to.get("ACK")
					if ack.CSeq != got.CSeq || string(ack.Bytes(ack.TopVia.Branch)) != string(got.Bytes(got.TopVia.Branch)) {
						t.Errorf("ACK does not match the INVITE:\n%s\n%s", ack.Buf, got.Buf)
					}
					failure := from.get(fmt.Sprintf("%d INVITE", status))
					if d, want := changed(sent, failure), []string{
						fmt.Sprintf("- CSeq: %d INVITE", own+2), fmt.Sprintf("+ CSeq: %d INVITE", own),
					}; !slices.Equal(d, want) {
						t.Errorf("changed %q, want %q", d, want)
					}
					c.acksFailure(side, invite, failure)
					// The call goes on as if nothing had been.
					c.exchanges(side, "INFO", "", int(own)+3)
					c.probes(1)
					c.exchanges(side, "INVITE", "", int(own)+5)
					c.exchanges(side, "BYE", "", int(own)+6)
					c.gone()
				})
			})
		}
	}
}

// The direction from B begins with requests of ours: whatever number B then chooses,
// A, who accepts rising numbers only, gets one that rises.
func TestG38CalleesFirstNumberAfterProbes(t *testing.T) {
	for _, first := range []int{0, 1, 2, 3, 4, 102} {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
				c := l.talks(both, both)
				last := uint32(0)
				rises := func(m *wire.Msg) {
					t.Helper()
					if m.CSeq <= last {
						t.Errorf("%s with CSeq %d after %d", title(m), m.CSeq, last)
					}
					last = m.CSeq
				}
				for range 3 {
					c.probed(sideB, "UPDATE", 331*time.Second, 200, "", "")
					m, _ := c.probed(sideA, "UPDATE", 4*time.Second, 200, "", "")
					rises(m)
				}
				if last != 3 {
					t.Errorf("three probes end with CSeq %d", last)
				}
				c.cseq[sideB] = first - 1
				sees := max(first, 4)
				c.exchanges(sideB, "INFO", "", sees)
				last = uint32(sees)
				c.probed(sideB, "UPDATE", 331*time.Second, 200, "", "")
				m, _ := c.probed(sideA, "UPDATE", 4*time.Second, 200, "", "")
				rises(m)
				c.exchanges(sideB, "INVITE", "", sees+2)
				c.exchanges(sideB, "BYE", "", sees+3)
				c.gone()
			})
		})
	}
}

func TestG38ExhaustedDirectionIsNotProbedAndTheCallIsCapped(t *testing.T) {
	for _, hangsUp := range []bool{true, false} {
		inLab(t, 1, withLab(600*time.Second, 7200*time.Second), func(t *testing.T, l *lab) {
			c := l.talks(both, both)
			c.probes(3)
			if got := c.info(); got.EndsBy != "session_ttl" || len(got.Limits) != 1 {
				t.Errorf("limits %+v", got.Limits)
			}
			c.cseq[sideB] = math.MaxInt32 - 2
			c.exchanges(sideB, "INFO", "", math.MaxInt32-1)
			if got := c.info(); !slices.ContainsFunc(got.Limits, func(l Limit) bool { return l.Key == "no_timer_call_duration" }) {
				t.Errorf("not capped: %+v", got.Limits)
			}
			// From now on nothing of ours goes to A, whose own direction is as it was.
			for range 5 {
				c.probed(sideB, "UPDATE", 331*time.Second, 200, "", "")
				c.a.nothing()
			}
			c.exchanges(sideA, "INFO", "", 10)
			if hangsUp {
				c.exchanges(sideB, "BYE", "", math.MaxInt32)
				c.gone()
				return
			}
			for c.e.wheel.Now() < c.answeredAt+7190*time.Second {
				pass(time.Second)
				if m := c.b.getsWithin(0); m != nil {
					if title(m) != "UPDATE" {
						t.Fatalf("B got %q", title(m))
					}
					c.b.sends(c.reply(m, 200, "", ""))
				}
			}
			c.a.nothing()
			for _, side := range []int{sideB, sideA} {
				bye, at := c.probed(side, "BYE", 12*time.Second, 200, "", "")
				if at < 7200*time.Second || at > 7201*time.Second {
					t.Errorf("BYE after %v", at)
				}
				if side == sideA && bye.CSeq != math.MaxInt32 {
					t.Errorf("BYE with CSeq %d", bye.CSeq)
				}
			}
			c.gone()
			if got := c.why(); got != "no_timer_call_duration" {
				t.Error(got)
			}
		})
	}
}

// reliably has a side answer an INVITE with a reliable 183, the other one acknowledge
// that by PRACK, and checks the numbers that each of them sees (RFC 3262 7.2).
func (t *talk) reliably(side int, invite *wire.Msg, own, sees int) {
	t.Helper()
	from, to := t.peer(side), t.peer(1-side)
	to.sends(t.reply(invite, 183, "Require: 100rel\nRSeq: 777\n", ""))
	if t.ok == nil && side == sideA {
		t.ok = from.get("183 INVITE")
	} else {
		from.get("183 INVITE")
	}
	t.next(side, "PRACK", fmt.Sprintf("RAck: 777  %d INVITE\n", own), "")
	got := to.get("PRACK")
	var want []string
	if own != sees {
		want = []string{
			fmt.Sprintf("- CSeq: %d PRACK", t.cseq[side]), fmt.Sprintf("- RAck: 777  %d INVITE", own),
			fmt.Sprintf("+ CSeq: %d PRACK", t.cseq[side]+sees-own), fmt.Sprintf("+ RAck: 777  %d INVITE", sees),
		}
	}
	if d := changed(t.last, got); !slices.Equal(d, want) {
		t.Errorf("PRACK: changed %q, want %q", d, want)
	}
	if sees != int(invite.CSeq) {
		t.Errorf("RAck would name %d, the INVITE had %d", sees, invite.CSeq)
	}
	to.sends(t.reply(got, 200, "", ""))
	if ok := from.get("200 PRACK"); int(ok.CSeq) != t.cseq[side] {
		t.Errorf("200 to PRACK with CSeq %d, want %d", ok.CSeq, t.cseq[side])
	}
}

func TestPrackNamesTheInviteAsItsReceiverKnowsIt(t *testing.T) {
	inLab(t, 1, withTimers(func(c *config.Timers) { c.InsertSE = "never" }), func(t *testing.T, l *lab) {
		// In the early dialog nothing was injected: all stays as it is.
		c := l.rings(both + "Require: 100rel\n")
		c.reliably(sideA, c.invite, 1, 1)
		c.next(sideA, "UPDATE", "", "") // RFC 3311 5.1
		early := c.last
		got := c.b.get("UPDATE")
		if d := changed(early, got); d != nil {
			t.Errorf("UPDATE before the answer: changed %q", d)
		}
		c.b.sends(c.reply(got, 200, "", ""))
		c.a.get("200 UPDATE")
		c.answers(both)
		c.from(sideA, "ACK", 1, "", "")
		if ack := c.b.get("ACK"); ack.CSeq != 1 {
			t.Errorf("ACK with CSeq %d", ack.CSeq)
		}
		c.probes(2)
		for _, side := range []int{sideA, sideB} {
			from, to := c.peer(side), c.peer(1-side)
			// B's direction begins with two of ours, A's has two after its third.
			c.next(side, "INVITE", "Contact: <sip:x@"+from.addr.String()+">\n", sdpA)
			own := c.cseq[side]
			from.get("100 INVITE")
			invite := to.get("INVITE")
			c.reliably(side, invite, own, own+2)
			to.sends(c.reply(invite, 200, "Contact: <sip:y@"+to.addr.String()+">\n", sdpB))
			from.get("200 INVITE")
			c.from(side, "ACK", own, "", "")
			if ack := to.get("ACK"); ack.CSeq != invite.CSeq {
				t.Errorf("ACK with CSeq %d for an INVITE with %d", ack.CSeq, invite.CSeq)
			}
			c.exchanges(side, "INFO", "", own+2+2)
		}
		c.probes(1)
		c.exchanges(sideB, "BYE", "", c.cseq[sideB]+1+3)
		c.gone()
	})
}

func TestG53CallerThatIgnoresRecordRouteIsLeftAlone(t *testing.T) {
	inLab(t, 1, withLab(90*time.Second, 300*time.Second), func(t *testing.T, l *lab) {
		c := l.rings(both + "Session-Expires: 1800\n")
		c.answers(both + "Require: timer\nSession-Expires: 1800;refresher=uac\n")
		// The ACK and all that follows go straight to B.
		c.until(200 * time.Second)
		c.a.nothing()
		c.b.nothing()
		if got := c.info(); got.Mode != "N" || got.EndsBy != "no_timer_call_duration" {
			t.Errorf("mode %s, ends by %s", got.Mode, got.EndsBy)
		}
		// B follows it. Its numbers are its own.
		c.exchanges(sideB, "INFO", "", 1)
		// A hangs up past us, with number 2: nothing of ours made B expect a higher one.
		for _, side := range []int{sideB, sideA} {
			_, at := c.probed(side, "BYE", 110*time.Second, 481, "", "")
			if at < 300*time.Second || at > 301*time.Second {
				t.Errorf("BYE after %v", at)
			}
		}
		c.gone()
		if got := c.why(); got != "no_timer_call_duration" {
			t.Error(got)
		}
	})
}

func TestG53CallerThatComesBackIsWatchedAgain(t *testing.T) {
	inLab(t, 1, withLab(90*time.Second, 300*time.Second), func(t *testing.T, l *lab) {
		c := l.rings(both + "Session-Expires: 1800\n")
		c.answers(both + "Require: timer\nSession-Expires: 1800;refresher=uac\n")
		c.until(100 * time.Second)
		se := timerLines + "Session-Expires: 1800;refresher=uac\n"
		there, back := c.refreshes(sideA, "UPDATE", se, se)
		if there != nil || back != nil {
			t.Errorf("changed %q, %q", there, back)
		}
		if n := c.lives(300*time.Second, updateLines, nil); n[sideA] < 4 || n[sideB] < 4 {
			t.Errorf("%v probes", n)
		}
		c.hangsUp(sideA)
	})
}
