package proxy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
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

// The edge forgets before the endpoint does: what comes then is forwarded as it is,
// and a callee that has ended the call knows its number.
func TestG36ByeRepeatedLongAfterTheEndIsNoNewRequestToTheCallee(t *testing.T) {
	inLab(t, 1, func(c *config.Config) {
		withTimers(func(*config.Timers) {})(c)
		c.Transaction.T1 = config.Duration(50 * time.Millisecond)
	}, func(t *testing.T, l *lab) {
		c := l.talks(both, both)
		c.probes(1)
		c.a.skip() // with a T1 that short a copy may have been on its way before the answer
		c.b.skip()
		c.next(sideA, "BYE", "", "")
		bye := c.last
		sees := c.answered(sideB, "BYE", 200, "", "").CSeq
		c.a.get("200 BYE")
		pass(3 * time.Second)
		c.a.sends(bye)
		c.a.get("200 BYE")
		c.b.nothing()
		pass(20 * time.Second)
		c.a.sends(bye)
		got := c.answered(sideB, "BYE", 481, "", "")
		if got.CSeq > sees {
			t.Errorf("BYE with CSeq %d after %d", got.CSeq, sees)
		}
		if back := c.a.get("481 BYE"); int(back.CSeq) != c.cseq[sideA] {
			t.Errorf("answered with CSeq %d", back.CSeq)
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
						from.sends(string(appendHopRequest(nil, &sent, "CANCEL", sent.Bytes(to0), "")))
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

// A spiral is a PBX that is a proxy: it sends the call on through the edge, to a
// phone outside, with Call-ID and tags as they were.
type spiral struct {
	*talk
	pbx    *peer
	silent bool // the PBX does not record its route
}

// pump relays whatever waits at the PBX, by RFC 3261 16, as a loose router that has
// recorded itself. It waits for some milliseconds of real time.
func (s *spiral) pump(ms int) {
	s.Helper()
	var ed wire.Edit
	for m := s.pbx.getsWithin(ms); m != nil; m = s.pbx.getsWithin(ms) {
		ed.Reset(m)
		if !m.IsRequest() {
			ed.DeleteTopVia()
			s.pbx.sends(string(ed.AppendTo(nil)))
			continue
		}
		if it := m.Values(wire.KindRoute); m.First(wire.KindRoute) >= 0 {
			if v, _ := it.Next(); strings.Contains(string(m.Bytes(v.Span)), s.pbx.addr.String()) {
				ed.DeleteValue(v)
			}
		}
		if m.To.Tag.Empty() {
			ed.Replace(m.RURI, []byte("sip:bob@"+s.b.addr.String()))
			if !s.silent {
				ed.InsertString(m.RecordRoutePos(), "Record-Route: <sip:"+s.pbx.addr.String()+";lr>\r\n")
			}
		}
		branch := m.Bytes(m.TopVia.Branch)
		ed.InsertString(m.ViaPos(), fmt.Sprintf("Via: SIP/2.0/UDP %s;branch=%s-pbx\r\n", s.pbx.addr, branch))
		s.pbx.sends(string(ed.AppendTo(nil)))
	}
}

// tells has a side send a request and the other one answer it, and returns it as it
// arrived.
func (s *spiral) tells(side int, method string) *wire.Msg {
	s.Helper()
	s.next(side, method, "", "")
	s.pump(5)
	got := s.peer(1 - side).get(method)
	s.peer(1 - side).sends(s.reply(got, 200, "", ""))
	s.pump(5)
	if back := s.peer(side).get("200 " + method); int(back.CSeq) != s.cseq[side] {
		s.Errorf("%s was answered with CSeq %d, sent with %d", method, back.CSeq, s.cseq[side])
	}
	return got
}

// spirals makes such a call: a phone, the PBX, and a phone outside.
func (l *lab) spirals(silent bool) *spiral {
	l.Helper()
	s := &spiral{pbx: l.pbx[0], silent: silent, talk: &talk{lab: l, id: "spiral", a: l.phone, b: l.newPeer("PHONE2"), cseq: [2]int{1, 0}}}
	se := timerLines + updateLines + "Session-Expires: 1800\n"
	s.a.sends(s.text(sideA, "INVITE", 1, se+"Contact: <sip:alice@"+s.a.addr.String()+">\n", sdpA, "sip:bob@example.org", "", ""))
	s.a.get("100 INVITE")
	s.pump(5)
	s.invite = s.b.get("INVITE")
	s.b.sends(s.reply(s.invite, 200, both+"Session-Expires: 1800;refresher=uac\nContact: <sip:bob@"+s.b.addr.String()+">\n", sdpB))
	s.pump(5)
	s.ok = s.a.get("200 INVITE")
	s.from(sideA, "ACK", 1, "", "")
	s.pump(5)
	s.b.get("ACK")
	if all := l.e.Calls(CallFilter{CallID: s.id}); len(all) != 2 {
		l.Fatalf("%d records, want one for each pass", len(all))
	}
	return s
}

// Through a PBX that does not record its route, a request finds one of the two calls
// only: none may shift numbers.
func TestG50SpiralWithNobodyBetweenIsNotProbed(t *testing.T) {
	inLab(t, 1, withLab(90*time.Second, 7200*time.Second), func(t *testing.T, l *lab) {
		s := l.spirals(true)
		pass(20 * time.Minute)
		s.pump(5)
		s.a.nothing()
		s.b.nothing()
		for _, side := range []int{sideA, sideB} {
			if m := s.tells(side, "INFO"); int(m.CSeq) != s.cseq[side] {
				t.Errorf("INFO %d arrived as %d", s.cseq[side], m.CSeq)
			}
		}
		for _, c := range l.e.Calls(CallFilter{}) {
			if c.EndsBy != "no_timer_call_duration" {
				t.Errorf("ends by %q: %+v", c.EndsBy, c)
			}
		}
	})
}

func TestG50SpiralHasTwoRecordsThatTranslateEachOthersProbes(t *testing.T) {
	inLab(t, 1, withLab(90*time.Second, 7200*time.Second), func(t *testing.T, l *lab) {
		s := l.spirals(false)

		last := [2]uint32{0, 1} // highest number that each side has accepted
		rises := func(side int, m *wire.Msg) {
			t.Helper()
			if m.CSeq <= last[side] {
				t.Errorf("%s got %s with CSeq %d after %d", s.peer(side).name, title(m), m.CSeq, last[side])
			}
			last[side] = m.CSeq
		}
		var got [2]int
		for minute := range 20 {
			for range 60 * 10 {
				pass(100 * time.Millisecond)
				s.pump(0)
				for side := range got {
					m := s.peer(side).getsWithin(0)
					if m == nil {
						continue
					}
					if title(m) != "UPDATE" {
						t.Fatalf("%s got %q:\n%s", s.peer(side).name, title(m), m.Buf)
					}
					rises(side, m)
					got[side]++
					s.peer(side).sends(s.reply(m, 200, both+"Session-Expires: "+header(m, wire.KindSessionExpires)+"\n", ""))
				}
			}
			side := minute % 2
			rises(1-side, s.tells(side, "INFO"))
		}
		if got[sideA] < 20 || got[sideB] < 20 {
			t.Errorf("%v probes in 20 minutes", got)
		}
		for _, c := range l.e.Calls(CallFilter{}) {
			if c.Mode != "R" || len(c.Legs) != 2 || c.Legs[0].Failures+c.Legs[1].Failures != 0 {
				t.Errorf("%+v", c)
			}
		}
		rises(sideA, s.tells(sideB, "BYE"))
		pass(40 * time.Second)
		s.pump(5)
		s.a.nothing()
		s.b.nothing()
		pass(200 * time.Second)
		if n := l.e.dialogs.Len(); n != 0 {
			t.Errorf("%d records left", n)
		}
		if n := len(l.lines("Call ended - C=bye")); n != 2 {
			t.Errorf("%d lines of ended calls, want one for each pass", n)
		}
		l.atRest()
	})
}

// A strictUA is an endpoint of a talk behind a network that loses messages. It
// repeats its requests and responses as RFC 3261 17 and 3262 3 say, and refuses a new
// request whose number is not above all earlier ones.
type strictUA struct {
	t     *talk
	side  int
	peer  *peer
	other *strictUA
	rnd   *rand.Rand
	loss  float64
	lines string // of INVITE and UPDATE and of the responses to them

	sequence   int
	mine       []*uaRequest          // that wait for their final response
	acks       map[uint32]string     // for the 2xx to INVITEs of its own
	numbers    map[uint32]bool       // it has used
	last       uint32                // highest it has accepted
	served     map[string]*uaRequest // by branch and method
	answering  *uaRequest            // an INVITE that it has not answered, or whose ACK is missing
	notify     int                   // NOTIFYs that it owes
	rests      time.Duration         // when it may speak again
	rseq       int
	probes     int      // requests of the edge's own that it took
	overtaken  int      // of these, refused for their number
	complaints []string // what must not be
	gone       bool     // BYE was answered
}

// A uaRequest is a transaction of either side.
type uaRequest struct {
	msg      *wire.Msg // of a server: the request
	text     string    // what is repeated
	method   string
	cseq     int
	at, step time.Duration // when it is repeated, and the wait after that
	until    time.Duration
	invite   bool // a client's INVITE
	reliable int  // RSeq of the 183 that waits for its PRACK, 0 = none
	answerAt time.Duration
}

const (
	uaT1 = 500 * time.Millisecond
	uaT2 = 4 * time.Second
)

// endpointLine marks what an endpoint sends, to tell it from what the edge makes.
const endpointLine = "X-Endpoint: yes\n"

func newStrictUA(t *talk, side int, seed uint64, lines string) *strictUA {
	u := &strictUA{
		t: t, side: side, peer: t.peer(side), rnd: rand.New(rand.NewPCG(seed, uint64(side))), loss: 0.1, lines: lines,
		sequence: t.cseq[side], acks: map[uint32]string{}, numbers: map[uint32]bool{}, served: map[string]*uaRequest{},
	}
	if side == sideB {
		u.last = t.invite.CSeq
	} else {
		u.numbers[1] = true
	}
	return u
}

func (u *strictUA) now() time.Duration { return u.t.e.wheel.Now() }

func (u *strictUA) complain(format string, args ...any) {
	u.complaints = append(u.complaints, fmt.Sprintf("%v %s: ", u.now()-u.t.answeredAt, u.peer.name)+fmt.Sprintf(format, args...))
}

func (u *strictUA) send(text string) {
	if u.rnd.Float64() >= u.loss {
		u.peer.sends(text)
	}
}

// compose writes a request in the dialog with the next number, or for an ACK with one
// that was used.
func (u *strictUA) compose(method string, cseq int, lines, body string) string {
	t := u.t
	if u.side == sideA {
		return t.text(sideA, method, cseq, lines, body, "sip:bob@"+t.b.addr.String(), routeOf(t.ok), "tb")
	}
	var route strings.Builder
	for _, h := range t.invite.Headers {
		if h.Kind == wire.KindRecordRoute {
			route.WriteString("Route: " + string(t.invite.Bytes(h.Value)) + "\r\n")
		}
	}
	return t.text(sideB, method, cseq, lines, body, "sip:alice@"+t.a.addr.String(), route.String(), "tb")
}

func (u *strictUA) contact() string { return "Contact: <sip:x@" + u.peer.addr.String() + ">\n" }

func (u *strictUA) sdp() string { return [...]string{sdpA, sdpB}[u.side] }

// asks begins a client transaction.
func (u *strictUA) asks(method, lines string) {
	u.sequence++
	body := ""
	if method == "INVITE" {
		body = u.sdp()
	}
	if method == "INVITE" || method == "UPDATE" {
		lines += u.contact() + u.lines
	}
	r := &uaRequest{method: method, cseq: u.sequence, step: uaT1, invite: method == "INVITE"}
	r.text = u.compose(method, r.cseq, endpointLine+lines, body)
	r.at, r.until = u.now()+uaT1, u.now()+64*uaT1
	u.numbers[uint32(r.cseq)] = true
	u.mine = append(u.mine, r)
	u.send(r.text)
}

// tick repeats what is not answered.
func (u *strictUA) tick() {
	now := u.now()
	for i := 0; i < len(u.mine); i++ {
		r := u.mine[i]
		if now >= r.until {
			u.complain("%s %d got no answer", r.method, r.cseq)
			u.mine = slices.Delete(u.mine, i, i+1)
			continue
		}
		if r.at != 0 && now >= r.at {
			if r.step *= 2; !r.invite {
				r.step = min(r.step, uaT2)
			}
			r.at = now + r.step
			u.send(r.text)
		}
	}
	s := u.answering
	if s == nil {
		return
	}
	if s.answerAt != 0 && s.reliable == 0 && now >= s.answerAt {
		s.answerAt = 0
		s.text = u.t.reply(s.msg, 200, u.contact()+u.lines+timerEcho(s.msg), u.sdp())
		s.at, s.step, s.until = now+uaT1, uaT1, now+64*uaT1
		u.send(s.text)
		return
	}
	if s.at != 0 && now >= s.at {
		if now >= s.until {
			u.complain("no ACK or PRACK for INVITE %d", s.cseq)
			u.answering = nil
			return
		}
		s.step *= 2
		if s.reliable == 0 {
			s.step = min(s.step, uaT2)
		}
		s.at = now + s.step
		u.send(s.text)
	}
}

// timerEcho is the answer to the session timer of a request.
func timerEcho(m *wire.Msg) string {
	se := header(m, wire.KindSessionExpires)
	switch {
	case se == "":
		return ""
	case !strings.Contains(se, "refresher"):
		se += ";refresher=uac"
	}
	return "Require: timer\nSession-Expires: " + se + "\n"
}

func (u *strictUA) receive() {
	for m := u.peer.getsWithin(0); m != nil; m = u.peer.getsWithin(0) {
		switch {
		case u.rnd.Float64() < u.loss:
		case m.IsRequest():
			u.request(m)
		default:
			u.response(m)
		}
	}
}

func (u *strictUA) response(m *wire.Msg) {
	if !u.numbers[m.CSeq] {
		u.complain("a response with a number that was never used: %s", m.Buf)
	}
	i := slices.IndexFunc(u.mine, func(r *uaRequest) bool { return r.cseq == int(m.CSeq) && r.method == string(m.Bytes(m.CSeqMethod)) })
	if i < 0 {
		if ack, ok := u.acks[m.CSeq]; ok && title(m) == "200 INVITE" {
			u.send(ack)
		}
		return
	}
	r := u.mine[i]
	if m.Status < 200 {
		if r.invite {
			r.at, r.until = 0, u.now()+180*time.Second
			if m.First(wire.KindRSeq) >= 0 && !strings.Contains(r.text, "X-Pracked") {
				r.text += "X-Pracked" // it is not sent any more
				u.asks("PRACK", fmt.Sprintf("RAck: %s %d INVITE\n", header(m, wire.KindRSeq), r.cseq))
			}
		}
		return
	}
	u.mine = slices.Delete(u.mine, i, i+1)
	switch {
	case r.invite && m.Status < 300:
		u.acks[m.CSeq] = u.compose("ACK", r.cseq, "", "")
		u.send(u.acks[m.CSeq])
	case r.invite:
		u.send(hopACK(strings.TrimSuffix(r.text, "X-Pracked"), m))
	}
	switch {
	case m.Status < 300:
	case r.invite && m.Status == 491: // 14.1
		u.rests = u.now() + time.Duration(u.rnd.IntN(4000))*time.Millisecond
	default:
		u.complain("%s %d was answered with %d", r.method, r.cseq, m.Status)
	}
	if r.method == "BYE" {
		u.gone = true
	}
}

func (u *strictUA) request(m *wire.Msg) {
	if m.Method == wire.ACK {
		u.acknowledged(m)
		return
	}
	key := string(m.Bytes(m.TopVia.Branch)) + " " + title(m)
	if s, ok := u.served[key]; ok {
		if s.text != "" {
			u.send(s.text)
		}
		return
	}
	s := &uaRequest{msg: m, method: title(m), cseq: int(m.CSeq)}
	u.served[key] = s
	isEndpoints := strings.Contains(string(m.Buf), crlf(endpointLine))
	if !isEndpoints {
		u.probes++
	}
	answer := func(status int, lines string) {
		s.text = u.t.reply(m, status, lines, "")
		u.send(s.text)
	}
	if m.CSeq <= u.last { // 12.2.2, and stricter than it
		if isEndpoints {
			u.complain("%s with CSeq %d after %d", s.method, m.CSeq, u.last)
		} else {
			u.overtaken++
		}
		answer(500, "")
		return
	}
	u.last = m.CSeq
	switch s.method {
	case "INVITE":
		u.invited(s, isEndpoints, answer)
	case "PRACK":
		u.pracked(m, answer)
	case "UPDATE":
		answer(200, u.contact()+u.lines+timerEcho(m))
	case "REFER":
		u.notify += 2
		answer(202, "")
	case "BYE":
		u.gone = true
		answer(200, "")
	default:
		answer(200, "")
	}
}

func (u *strictUA) invited(s *uaRequest, isEndpoints bool, answer func(int, string)) {
	isCalling := slices.ContainsFunc(u.mine, func(r *uaRequest) bool { return r.invite })
	switch {
	case isCalling, u.answering != nil && u.answering.answerAt != 0:
		answer(491, "")
		return
	case !isEndpoints && !strings.HasSuffix(string(s.msg.Buf), crlf(u.other.sdp())):
		u.complain("probe with another body than the last: %s", s.msg.Buf)
	}
	now := u.now()
	u.answering = s
	s.answerAt = now
	if isEndpoints && u.rnd.IntN(2) == 0 { // with a provisional response, reliably
		u.rseq++
		s.reliable, s.answerAt = u.rseq, now+time.Duration(u.rnd.IntN(3000))*time.Millisecond
		s.text = u.t.reply(s.msg, 183, fmt.Sprintf("Require: 100rel\nRSeq: %d\n", u.rseq), "")
		s.at, s.step, s.until = now+uaT1, uaT1, now+64*uaT1
		u.send(s.text)
	}
}

func (u *strictUA) pracked(m *wire.Msg, answer func(int, string)) {
	s := u.answering
	if s == nil || header(m, wire.KindRAck) != fmt.Sprintf("%d %d INVITE", s.reliable, s.cseq) {
		u.complain("PRACK of nothing: %s", m.Buf)
		answer(481, "")
		return
	}
	s.reliable, s.at = 0, 0
	answer(200, "")
}

func (u *strictUA) acknowledged(m *wire.Msg) {
	if s, ok := u.served[string(m.Bytes(m.TopVia.Branch))+" INVITE"]; ok && int(m.CSeq) == s.cseq { // of a failure
		return
	}
	for _, s := range u.served {
		if s.method == "INVITE" && s.cseq == int(m.CSeq) {
			if s == u.answering {
				u.answering = nil
			}
			return
		}
	}
	if m.CSeq != u.t.invite.CSeq {
		u.complain("ACK of an INVITE that never was: %s", m.Buf)
	}
}

// isFree says whether it may begin a request: one at a time, so that the network
// cannot change the order of two, and no INVITE while another is under way (14.1).
func (u *strictUA) isFree() bool { return len(u.mine) == 0 && u.now() >= u.rests && !u.gone }

// talks begins a request now and then.
func (u *strictUA) talks() {
	if !u.isFree() {
		return
	}
	u.rests = u.now() + time.Duration(200+u.rnd.IntN(12000))*time.Millisecond
	n := u.rnd.IntN(100)
	switch {
	case u.notify > 0:
		u.notify--
		u.asks("NOTIFY", "Event: refer\nSubscription-State: active\n")
	case n < 6 && u.answering == nil && u.other.answering == nil:
		u.asks("INVITE", "Supported: 100rel\n")
	case n < 10:
		u.asks("UPDATE", "")
	case n < 40:
		u.asks("REFER", "Refer-To: <sip:carol@example.org>\n")
	case n < 70:
		u.asks("INFO", "")
	default:
		u.asks("MESSAGE", "")
	}
}

// G39: half an hour of everything, with every tenth message lost on each of the four
// ways. A UA that checks numbers strictly has nothing to complain of.
func TestG39NoRequestOfAnEndpointIsRefusedForItsNumber(t *testing.T) {
	se := timerLines + "Session-Expires: 1800\n"
	calls := []struct {
		name           string
		caller, callee string // abilities
	}{
		{"both take UPDATE", updateLines, updateLines},
		{"both take re-INVITE", plainLines, plainLines},
		{"one each", updateLines, plainLines},
	}
	seeds := uint64(3)
	if raceEnabled {
		seeds = 1
	}
	for _, x := range calls {
		for seed := range seeds {
			t.Run(fmt.Sprintf("%s %d", x.name, seed), func(t *testing.T) {
				inLab(t, 1, func(c *config.Config) {
					withLab(60*time.Second, 7200*time.Second)(c)
					c.Timers.ProbeJitter = 10
				}, func(t *testing.T, l *lab) {
					c := l.talks(x.caller+se, x.callee+"Require: timer\nSession-Expires: 1800;refresher=uac\n")
					a, b := newStrictUA(c, sideA, seed, x.caller+se), newStrictUA(c, sideB, seed, x.callee+timerLines)
					a.other, b.other = b, a
					both := [2]*strictUA{a, b}
					step := func(speak bool) {
						pass(50 * time.Millisecond)
						for _, u := range both {
							u.receive()
							u.tick()
							if speak {
								u.talks()
							}
						}
					}
					for c.e.wheel.Now() < c.answeredAt+30*time.Minute {
						step(true)
					}
					for range 20 * 70 { // what is under way comes to its end
						step(false)
					}
					a.asks("BYE", "")
					for range 20 * 70 {
						step(false)
					}
					if !a.gone || !b.gone {
						t.Error("the BYE did not go through")
					}
					for _, u := range both {
						t.Logf("%s: %d requests of its own, %d of the edge, %d of these overtaken", u.peer.name, len(u.numbers), u.probes, u.overtaken)
						if len(u.numbers) < 100 || u.probes < 30 {
							t.Errorf("%s: %d requests of its own, %d of the edge: too few to show anything", u.peer.name, len(u.numbers), u.probes)
						}
						for _, s := range u.complaints {
							t.Error(s)
						}
					}
					if got := c.why(); got != "bye" {
						t.Error(got)
					}
					c.gone()
				})
			})
		}
	}
}

// A probe that was put off for long goes out beside an INVITE that takes its time, but
// never past a request that may still be on its way (spec C.3, D).
func TestG39ProbePutOffForLongOvertakesNothing(t *testing.T) {
	for _, status := range []int{100, 180} {
		inLab(t, 1, withTimers(func(c *config.Timers) { c.ProbeLegs = "b" }), func(t *testing.T, l *lab) {
			c := l.talks(both, both)
			c.until(299 * time.Second)
			c.next(sideA, "INVITE", "Contact: <sip:x@"+c.a.addr.String()+">\n", sdpA)
			c.a.get("100 INVITE")
			invite := c.b.get("INVITE")
			c.b.sends(c.reply(invite, status, "", ""))
			if status == 180 {
				c.a.get("180 INVITE")
			}
			c.until(355 * time.Second)
			c.b.nothing()
			c.next(sideA, "INFO", "", "")
			info := c.b.get("INFO")
			for c.e.wheel.Now() < c.answeredAt+375*time.Second {
				pass(100 * time.Millisecond)
				if m := c.b.getsWithin(0); m != nil && m.CSeq != info.CSeq {
					t.Fatalf("%s with CSeq %d before the INFO with %d was answered", title(m), m.CSeq, info.CSeq)
				}
			}
			c.b.sends(c.reply(info, 200, "", ""))
			c.a.get("200 INFO")
			probe, _ := c.probed(sideB, "UPDATE", 3*time.Second, 200, "", "")
			if probe.CSeq != info.CSeq+1 {
				t.Errorf("probe with CSeq %d after %d", probe.CSeq, info.CSeq)
			}
			c.b.sends(c.reply(invite, 200, "Contact: <sip:y@"+c.b.addr.String()+">\n", sdpB))
			c.a.get("200 INVITE")
			c.from(sideA, "ACK", int(c.cseq[sideA])-1, "", "")
			if ack := c.b.get("ACK"); ack.CSeq != invite.CSeq {
				t.Errorf("ACK with CSeq %d for an INVITE with %d", ack.CSeq, invite.CSeq)
			}
			c.hangsUp(sideA)
		})
	}
}
