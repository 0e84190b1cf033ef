package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// The columns of the state table (spec E.2).
const (
	isEarly       = "EARLY"
	isWaitAck     = "WAIT_ACK"
	isConfirmed   = "CONFIRMED"
	isEnding      = "ENDING"
	isTerminating = "TERMINATING"
	isEnded       = "ENDED"
	isFreed       = "freed"
)

// inState makes a call and brings it to a state. What the edge sent to the peers on
// the way was taken; last is the BYE that the callee has not answered, if there is one.
func (l *lab) inState(state string) (c *talk, last *wire.Msg) {
	l.Helper()
	c = l.rings(timerLines + updateLines)
	if state == isEarly {
		c.b.sends(c.reply(c.invite, 183, updateLines+"Contact: <sip:bob@"+c.b.addr.String()+">\n", ""))
		c.ok = c.a.get("183 INVITE")
		return c, nil
	}
	c.answers(timerLines + updateLines)
	if state == isWaitAck {
		return c, nil
	}
	c.acks()
	switch state {
	case isEnding:
		c.next(sideA, "BYE", "", "")
		last = c.b.get("BYE")
	case isTerminating:
		if !l.e.EndCall(l.e.Calls(CallFilter{})[0].ID) {
			l.Fatal("the call is not there")
		}
		c.a.get("BYE")
		last = c.b.get("BYE")
	case isEnded, isFreed:
		c.asks(sideA, "BYE", "", "", 200, "")
	}
	if state == isFreed {
		pass(70 * time.Second)
	}
	return c, last
}

// state is the word of the listing for the only call, "" when there is none.
func (t *talk) state() string {
	t.Helper()
	all := t.e.Calls(CallFilter{})
	if len(all) == 0 {
		return ""
	}
	return all[0].State
}

func (t *talk) is(state string) {
	t.Helper()
	if got := t.state(); got != state {
		t.Errorf("the call is %q, want %q", got, state)
	}
}

// inEach runs a test for each of some states.
func inEach(t *testing.T, states []string, f func(t *testing.T, c *talk, state string, last *wire.Msg)) {
	t.Helper()
	for _, state := range states {
		t.Run(state, func(t *testing.T) {
			inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
				c, last := l.inState(state)
				f(t, c, state, last)
			})
		})
	}
}

// E.2, row 1. After the answer no provisional response is passed (RFC 3261 16.7).
func TestE2ProvisionalWithANewToTag(t *testing.T) {
	inEach(t, []string{isEarly, isWaitAck, isConfirmed, isEnding, isTerminating, isEnded}, func(t *testing.T, c *talk, state string, _ *wire.Msg) {
		dialogs := c.e.dialogs.Len()
		for i := range 20 {
			c.b.answers(c.invite, 183, fmt.Sprintf("fork%d", i))
			if state == isEarly {
				c.a.get("183 INVITE")
			}
		}
		c.a.nothing()
		if state == isEarly {
			dialogs = 16
		}
		if n := c.e.dialogs.Len(); n != dialogs {
			t.Errorf("%d dialogs, want %d", n, dialogs)
		}
	})
}

// E.2, row 2: the 2xx of the INVITE, the first one and every copy.
func TestE2Success(t *testing.T) {
	inEach(t, []string{isEarly, isWaitAck, isConfirmed, isEnding, isTerminating, isEnded}, func(t *testing.T, c *talk, state string, _ *wire.Msg) {
		before := c.state()
		if state == isEarly {
			pass(3 * time.Second)
			c.answers(timerLines + updateLines)
			c.is("unacknowledged")
			if x := c.e.Calls(CallFilter{})[0]; !x.Answer.Equal(time.Now()) || x.Mode != "R" {
				t.Errorf("answered %v, mode %q", x.Answer, x.Mode)
			}
			return
		}
		for range 3 {
			c.b.sends(c.reply(c.invite, 200, timerLines+updateLines+"Contact: <sip:bob@"+c.b.addr.String()+">\n", sdpB))
			if got := c.a.get("200 INVITE"); string(got.Buf) != string(c.ok.Buf) {
				t.Errorf("the copy differs:\n%s\n%s", got.Buf, c.ok.Buf)
			}
		}
		c.is(before)
	})
}

// E.2, row 2, of a re-INVITE: it counts as a refresh.
func TestE2SuccessOfAReinvite(t *testing.T) {
	inEach(t, []string{isConfirmed}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
		pass(100 * time.Second)
		c.asks(sideA, "INVITE", timerLines+"Contact: <sip:alice@"+c.a.addr.String()+">\n", "", 200, "Contact: <sip:bob@"+c.b.addr.String()+">\n")
		c.acks()
		x := c.e.Calls(CallFilter{})[0]
		if got := time.Until(x.NextProbe); got != 300*time.Second {
			t.Errorf("the next probe is %v after the refresh", got)
		}
		if !x.LastVerified.Equal(time.Now()) {
			t.Errorf("verified at %v", x.LastVerified)
		}
		c.hangsUp(sideB)
	})
}

// E.2, row 3.
func TestE2Ack(t *testing.T) {
	inEach(t, []string{isWaitAck, isConfirmed, isEnding, isTerminating, isEnded}, func(t *testing.T, c *talk, state string, _ *wire.Msg) {
		before := c.state()
		c.from(sideA, "ACK", 1, "", "")
		if got := c.b.get("ACK"); got.CSeq != 1 {
			t.Errorf("CSeq %d", got.CSeq)
		}
		if state != isWaitAck {
			c.is(before)
			return
		}
		c.is("confirmed")
		if x := c.e.Calls(CallFilter{})[0]; time.Until(x.NextProbe) != 300*time.Second {
			t.Errorf("the next probe is in %v", time.Until(x.NextProbe))
		}
	})
}

// E.2, row 3: the ACK of a re-INVITE after injected requests.
func TestE2AckIsForwardedByItsOwnNumber(t *testing.T) {
	inEach(t, []string{isConfirmed}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
		c.attends(310*time.Second, nil)
		got := c.asks(sideA, "INVITE", "Contact: <sip:alice@"+c.a.addr.String()+">\n", "", 200, "Contact: <sip:bob@"+c.b.addr.String()+">\n")
		for range 2 {
			c.from(sideA, "ACK", c.cseq[sideA], "", "")
			if ack := c.b.get("ACK"); ack.CSeq != got.CSeq || got.CSeq != 3 {
				t.Errorf("INVITE %d, ACK %d", got.CSeq, ack.CSeq)
			}
		}
		c.hangsUp(sideA)
	})
}

// E.2, row 4.
func TestE2EndpointBye(t *testing.T) {
	t.Run("EARLY caller", func(t *testing.T) {
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			b := l.records()
			c, _ := l.inState(isEarly)
			c.asks(sideA, "BYE", "", "", 200, "")
			c.is("ringing")
			c.b.sends(c.reply(c.invite, 487, "", ""))
			c.b.get("ACK")
			c.a.get("487 INVITE")
			c.a.sends(strings.Replace(c.text(sideA, "ACK", 1, "", "", "sip:bob@example.org", "", "tb"), fmt.Sprintf("-%d;", c.branch), "-1;", 1))
			c.gone()
			if r := b.only(); r.EndedBy != "caller" || r.Reason != "cancel" || r.Status != 487 {
				t.Errorf("%+v", r)
			}
		})
	})
	for side, name := range []string{"caller", "callee"} {
		for _, state := range []string{isWaitAck, isConfirmed} {
			t.Run(state+" "+name, func(t *testing.T) {
				inEach(t, []string{state}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
					c.next(side, "BYE", "", "")
					c.is("ending")
					got := c.peer(1 - side).get("BYE")
					c.peer(1 - side).sends(c.reply(got, 200, "", ""))
					c.peer(side).get("200 BYE")
					c.is("")
					c.gone()
				})
			})
		}
		t.Run("TERMINATING "+name, func(t *testing.T) {
			inEach(t, []string{isTerminating}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
				c.next(side, "BYE", "", "")
				c.peer(side).get("200 BYE")
				c.peer(side).nothing()
				c.peer(1 - side).nothing()
				pass(10 * time.Second)
				c.peer(side).nothing() // our own BYE is not repeated
				if c.peer(1-side).gets() == nil {
					t.Error("our BYE to the other leg is not repeated")
				}
				c.peer(1 - side).skip()
				c.gone()
			})
		})
		t.Run("ENDED "+name, func(t *testing.T) {
			inEach(t, []string{isEnded}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
				pass(60 * time.Second / 2)
				c.next(side, "BYE", "", "")
				c.peer(side).get("481 BYE")
				c.peer(1 - side).nothing()
			})
		})
		t.Run("no record "+name, func(t *testing.T) {
			inEach(t, []string{isFreed}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
				c.asks(side, "BYE", "", "", 481, "")
			})
		})
	}
	t.Run("ENDING callee", func(t *testing.T) {
		inEach(t, []string{isEnding}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
			c.asks(sideB, "BYE", "", "", 481, "")
			c.gone()
		})
	})
}

// E.2, row 5: whatever the final answer to an endpoint's BYE is, silence too.
func TestE2FinalToEndpointBye(t *testing.T) {
	for _, status := range []int{200, 202, 481, 408, 0} {
		for side, name := range []string{"caller", "callee"} {
			t.Run(fmt.Sprintf("%d to the %s", status, name), func(t *testing.T) {
				inEach(t, []string{isWaitAck, isConfirmed}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
					b := c.records()
					c.next(side, "BYE", "", "")
					got, want := c.peer(1-side).get("BYE"), fmt.Sprintf("%d BYE", status)
					if status != 0 {
						c.peer(1 - side).sends(c.reply(got, status, "", ""))
					} else {
						want = "408 BYE"
						pass(31 * time.Second)
						c.is("ending")
						pass(2 * time.Second)
						c.peer(1 - side).skip()
					}
					c.peer(side).get(want)
					c.is("")
					c.peer(1 - side).nothing()
					c.gone()
					if r := b.only(); r.Reason != "bye" || r.EndedBy != name || r.Duration != 0 {
						t.Errorf("%+v", r)
					}
				})
			})
		}
	}
}

// E.2, row 6: other requests in the dialog, from both sides.
func TestE2OtherRequests(t *testing.T) {
	inEach(t, []string{isEarly, isWaitAck, isConfirmed, isEnding, isTerminating, isEnded, isFreed}, func(t *testing.T, c *talk, state string, _ *wire.Msg) {
		for side := range 2 {
			before := c.state()
			if state == isTerminating || state == isEnded {
				c.next(side, "INFO", "", "")
				c.peer(side).get("481 INFO")
				c.peer(1 - side).nothing()
			} else {
				c.asks(side, "INFO", "", "", 200, "")
			}
			c.is(before)
		}
	})
}

// E.2, row 6: with the numbers that the injected requests left.
func TestE2OtherRequestsAfterProbes(t *testing.T) {
	inEach(t, []string{isConfirmed}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
		c.attends(310*time.Second, nil)
		for side, want := range []uint32{3, 2} {
			if got := c.asks(side, "INFO", "", "", 200, ""); got.CSeq != want {
				t.Errorf("CSeq %d, want %d", got.CSeq, want)
			}
		}
		c.hangsUp(sideB)
	})
}

// E.2, row 7 and E.3: a limit that fires while a BYE is under way is ignored.
func TestE2LimitInEnding(t *testing.T) {
	inLab(t, 1, withTimers(func(c *config.Timers) { c.MaxCallDuration = 5e9 }), func(t *testing.T, l *lab) {
		b := l.records()
		c := l.talksIn("N")
		c.until(4900 * time.Millisecond)
		c.next(sideA, "BYE", "", "")
		for _, x := range c.attends(60*time.Second, silence) {
			if x.side == sideA && x.m.IsRequest() || x.side == sideB && int(x.m.CSeq) != c.cseq[sideA] {
				t.Errorf("a BYE of our own:\n%s", x.m.Buf)
			}
		}
		c.is("")
		c.gone()
		if r := b.only(); r.Reason != "bye" || r.EndedBy != "caller" || r.Duration != 4.9 {
			t.Errorf("%+v", r)
		}
	})
}

// E.2, row 7: once the edge has hung up, no other limit is told.
func TestE2LimitInTerminating(t *testing.T) {
	inLab(t, 1, withTimers(func(c *config.Timers) { c.MaxCallDuration = 5e9 }), func(t *testing.T, l *lab) {
		b := l.records()
		c := l.talksIn("P")
		c.until(4 * time.Second)
		l.e.EndCall(l.e.Calls(CallFilter{})[0].ID)
		for _, x := range c.attends(60*time.Second, silence) {
			if got := string(x.m.Value(wire.KindReason)); got != `Q.850;cause=31;text="ended by the operator"` {
				t.Errorf("Reason: %s", got)
			}
		}
		c.gone()
		if r := b.only(); r.Reason != "admin" || r.Duration != 4 {
			t.Errorf("%+v", r)
		}
	})
}

// E.2, row 8: the INVITE is refused; a refused re-INVITE changes nothing.
func TestE2Failure(t *testing.T) {
	inEach(t, []string{isEarly}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
		c.b.answers(c.invite, 183, "fork")
		c.a.get("183 INVITE")
		c.b.sends(c.reply(c.invite, 486, "", ""))
		c.a.get("486 INVITE")
		if n := c.e.dialogs.Len(); n != 0 {
			t.Errorf("%d dialogs", n)
		}
	})
	inEach(t, []string{isConfirmed}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
		before := c.e.Calls(CallFilter{})[0]
		c.asks(sideA, "INVITE", timerLines+"Contact: <sip:elsewhere@"+c.a.addr.String()+">\n", sdpA, 488, "")
		c.b.get("ACK")
		after := c.e.Calls(CallFilter{})[0]
		if after.State != "confirmed" || after.Legs[0].Target != before.Legs[0].Target || !after.NextProbe.Equal(before.NextProbe) {
			t.Errorf("%+v", after)
		}
		c.hangsUp(sideB)
	})
}

// E.2, row 9: a side that does not know the dialog, or is silent, to the other one's
// refresh. The other one has to hang up; where it does not, we look for ourselves.
func TestE2RefreshOfADeadPeer(t *testing.T) {
	for _, status := range []int{481, 408} {
		for _, method := range []string{"UPDATE", "INVITE"} {
			for side, name := range []string{"caller", "callee"} {
				t.Run(fmt.Sprintf("%d to %s of the %s", status, method, name), func(t *testing.T) {
					inEach(t, []string{isConfirmed}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
						c.asks(side, method, "", "", status, "")
						if method == "INVITE" {
							c.peer(1 - side).get("ACK")
						}
						at := c.e.wheel.Now()
						c.waits(1-side, "UPDATE", 6*time.Second)
						if got := c.e.wheel.Now() - at; got < 5*time.Second {
							t.Errorf("asked after %v", got)
						}
					})
				})
			}
		}
	}
}

// E.3 and C.8: a BYE that is challenged has not ended the call. It comes again with
// credentials.
func TestE3ChallengedByeIsConfirmedAgain(t *testing.T) {
	for _, status := range []int{401, 407} {
		for side, name := range []string{"caller", "callee"} {
			t.Run(fmt.Sprintf("%d %s", status, name), func(t *testing.T) {
				inEach(t, []string{isConfirmed}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
					b := c.records()
					c.asks(side, "BYE", "", "", status, "")
					c.is("confirmed")
					pass(20 * time.Second)
					c.a.nothing()
					c.b.nothing()
					c.asks(1-side, "INFO", "", "", 200, "")
					c.asks(side, "BYE", "Authorization: Digest username=\"x\"\n", "", 200, "")
					c.is("")
					c.gone()
					c.a.nothing()
					c.b.nothing()
					if r := b.only(); r.Reason != "bye" || r.EndedBy != name || r.Duration != 20 {
						t.Errorf("%+v", r)
					}
				})
			})
		}
	}
}

// E.3: the credentials never come. After 64*T1 the edge hangs up on both.
func TestE3ChallengedByeThatNeverComesAgain(t *testing.T) {
	for side, name := range []string{"caller", "callee"} {
		t.Run(name, func(t *testing.T) {
			inEach(t, []string{isConfirmed}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
				b := c.records()
				c.asks(side, "BYE", "", "", 401, "")
				for _, x := range c.byes(c.attends(40*time.Second, nil)) {
					if !near(x.at, 32*time.Second) {
						t.Errorf("BYE after %v", x.at)
					}
				}
				c.gone()
				if r := b.only(); r.Reason != "bye" || r.EndedBy != name || r.Duration < 32 || r.Duration > 33 {
					t.Errorf("%+v", r)
				}
			})
		})
	}
}

// E.3: who refuses a BYE is told by the edge, for its sender is gone all the same.
func TestE3RefusedBye(t *testing.T) {
	for _, status := range []int{500, 403, 404, 603} {
		for side, name := range []string{"caller", "callee"} {
			t.Run(fmt.Sprintf("%d to the %s", status, name), func(t *testing.T) {
				inEach(t, []string{isConfirmed}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
					b := c.records()
					refused := c.asks(side, "BYE", "", "", status, "")
					c.is("terminating")
					own := c.answered(1-side, "BYE", 200, "", "")
					if own.CSeq <= refused.CSeq || !strings.Contains(string(own.Value(wire.KindReason)), "cause=16") {
						t.Errorf("our BYE after number %d:\n%s", refused.CSeq, own.Buf)
					}
					c.is("")
					c.gone()
					c.peer(side).nothing()
					if r := b.only(); r.Reason != "bye" || r.EndedBy != name {
						t.Errorf("%+v", r)
					}
				})
			})
		}
	}
}

// C.8: what becomes of the edge's own BYEs.
func TestG46AnswersToOurBye(t *testing.T) {
	for _, x := range []struct {
		name string
		a, b int // final responses, 0 = silence
		left bool
	}{
		{"both take it", 200, 200, false}, {"both know nothing", 481, 481, false}, {"one knows nothing, the other is silent", 481, 0, true},
		{"the other way round", 0, 481, true}, {"both are silent", 0, 0, true}, {"refused", 603, 408, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			inEach(t, []string{isConfirmed}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
				b := c.records()
				c.e.EndCall(c.e.Calls(CallFilter{})[0].ID)
				answer := func(side int, _ *wire.Msg) int { return [2]int{x.a, x.b}[side] }
				c.attends(31*time.Second, answer)
				if got := c.state() != ""; got != x.left {
					t.Errorf("there after 31 s: %v", got)
				}
				if x.left {
					c.is("terminating")
				}
				c.attends(33*time.Second, answer)
				c.is("") // 64*T1
				c.gone()
				if r := b.only(); r.Reason != "admin" || r.EndedBy != "edge" || r.Duration != 0 {
					t.Errorf("%+v", r)
				}
			})
		})
	}
}

func TestG46ChallengedByeIsAnAlarm(t *testing.T) {
	for _, status := range []int{401, 407} {
		inEach(t, []string{isConfirmed}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
			c.e.EndCall(c.e.Calls(CallFilter{})[0].ID)
			c.answered(sideB, "BYE", status, "", "")
			c.is("terminating")
			c.answered(sideA, "BYE", 200, "", "")
			c.is("")
			c.gone()
			c.b.nothing()
			lines := c.lines("BYE challenged")
			if len(lines) != 1 || !strings.Contains(lines[0], c.id) || !strings.Contains(lines[0], fmt.Sprint(status)) {
				t.Errorf("alarm lines: %s", lines)
			}
		})
	}
}

// C.8: a leg that has seen numbers which never came through the edge refuses ours
// as too low. It is asked once more, far above.
func TestC8ByeIsRepeatedWithAHigherNumber(t *testing.T) {
	for side, name := range []string{"caller", "callee"} {
		t.Run(name, func(t *testing.T) {
			inEach(t, []string{isConfirmed}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
				c.e.EndCall(c.e.Calls(CallFilter{})[0].ID)
				c.answered(1-side, "BYE", 200, "", "")
				first := c.answered(side, "BYE", 500, "", "")
				c.is("terminating")
				second := c.answered(side, "BYE", 500, "", "")
				if second.CSeq != first.CSeq+100 || string(second.Bytes(second.TopVia.Branch)) == string(first.Bytes(first.TopVia.Branch)) {
					t.Errorf("%d after %d", second.CSeq, first.CSeq)
				}
				c.is("") // a second refusal is final
				c.gone()
				c.peer(side).nothing()
			})
		})
	}
}

// G45: both hang up at once; every answer goes to who sent the request.
func TestG45BothHangUpAtOnce(t *testing.T) {
	for _, x := range [][2]int{{200, 200}, {481, 481}, {200, 481}, {481, 200}, {0, 200}, {200, 0}, {0, 0}, {500, 200}, {401, 200}} {
		for first, name := range []string{"caller", "callee"} {
			t.Run(fmt.Sprintf("%v, the %s first", x, name), func(t *testing.T) {
				inEach(t, []string{isConfirmed}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
					b := c.records()
					c.next(first, "BYE", "", "")
					c.next(1-first, "BYE", "", "")
					got := 0
					for _, m := range c.attends(40*time.Second, func(side int, _ *wire.Msg) int { return x[side] }) {
						if !m.m.IsRequest() && m.m.CSeqMethodID == wire.BYE {
							got++
						}
					}
					if got != 2 {
						t.Errorf("%d answers", got)
					}
					c.gone()
					by := name
					if x[1-first] == 401 { // then it was the other one's
						by = "caller"
					}
					if r := b.only(); r.Reason != "bye" || r.EndedBy != by || r.Duration != 0 {
						t.Errorf("%+v", r)
					}
				})
			})
		}
	}
}

// G45: the BYE of an endpoint crosses that of the edge.
func TestG45ByeCrossesOurs(t *testing.T) {
	for _, who := range [][]int{{sideA}, {sideB}, {sideA, sideB}} {
		for _, status := range []int{200, 481, 0} {
			t.Run(fmt.Sprintf("%v, ours is answered %d", who, status), func(t *testing.T) {
				inLab(t, 1, withTimers(func(c *config.Timers) { c.MaxCallDuration = 5e9 }), func(t *testing.T, l *lab) {
					b := l.records()
					c := l.talksIn("N")
					c.until(5500 * time.Millisecond)
					for _, side := range who {
						c.next(side, "BYE", "", "")
					}
					oks := [2]int{}
					for _, x := range c.attends(50*time.Second, func(int, *wire.Msg) int { return status }) {
						switch title(x.m) {
						case "200 BYE":
							oks[x.side]++
						case "BYE":
							if string(x.m.Value(wire.KindReason)) == "" {
								t.Errorf("an endpoint's BYE was forwarded:\n%s", x.m.Buf)
							}
						default:
							t.Error(title(x.m))
						}
					}
					if oks[sideA]+oks[sideB] != len(who) {
						t.Errorf("%v answers to the BYEs of %v", oks, who)
					}
					c.is("")
					c.gone()
					if r := b.only(); r.Reason != "max_call_duration" || r.EndedBy != "edge" || r.Duration < 5 || r.Duration > 5.5 {
						t.Errorf("%+v", r)
					}
				})
			})
		}
	}
}

// E.2, ENDED: for 64*T1 requests get 481 from the edge, then nobody knows it was there.
func TestE2EndedDialogIsRememberedFor64T1(t *testing.T) {
	inEach(t, []string{isEnded}, func(t *testing.T, c *talk, _ string, _ *wire.Msg) {
		for _, at := range []time.Duration{0, 20 * time.Second, 31 * time.Second} {
			c.until(at)
			for side := range 2 {
				for _, method := range []string{"INFO", "BYE", "UPDATE", "OPTIONS"} {
					c.next(side, method, "", "")
					c.peer(side).get("481 " + method)
					c.peer(1 - side).nothing()
				}
			}
		}
		c.until(33 * time.Second)
		for side := range 2 {
			c.asks(side, "INFO", "", "", 481, "")
			c.asks(side, "BYE", "", "", 200, "")
		}
	})
}

// E.4. The callee repeats its 2xx, for no ACK comes; the caller does send requests
// and answer them.
func (t *talk) withoutAck(callee string, until time.Duration, answer func(side int, m *wire.Msg) int) (all []seen) {
	t.Helper()
	for gap := 500 * time.Millisecond; t.since() < until && t.since() < 32*time.Second; gap = min(2*gap, 4*time.Second) {
		all = append(all, t.attends(min(t.since()+gap, until), answer)...)
		if t.since() < until {
			t.b.sends(t.reply(t.invite, 200, callee+"Contact: <sip:bob@"+t.b.addr.String()+">\n", sdpB))
		}
	}
	return append(all, t.attends(until, answer)...)
}

// G48: the ACK is lost for good, but the callee hangs up by itself.
func TestG48ByeOfTheCalleeWithoutAck(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		b := l.records()
		callee := timerLines + updateLines
		c := l.rings(timerLines + updateLines)
		c.answers(callee)
		for _, x := range c.withoutAck(callee, 32*time.Second, nil) {
			if title(x.m) != "200 INVITE" {
				t.Errorf("after %v: %s", x.at, title(x.m))
			}
		}
		c.hangsUp(sideB)
		if r := b.only(); r.Reason != "bye" || r.EndedBy != "callee" || r.Duration != 32 {
			t.Errorf("%+v", r)
		}
	})
}

// G48, E.4: the callee never hangs up either. The edge asks both legs, the callee
// first, and ends the call if one of them is gone or silent.
func TestG48TheEdgeAsksWhenNoAckComes(t *testing.T) {
	for _, mode := range []struct{ name, caller, callee, method string }{
		{"R", timerLines + updateLines, timerLines + updateLines, "UPDATE"},
		{"R without UPDATE", timerLines + plainLines, timerLines + plainLines, "OPTIONS"},
		{"P", updateLines, timerLines + updateLines, "UPDATE"},
		{"N", plainLines, plainLines, "OPTIONS"},
	} {
		for _, x := range []struct {
			name   string
			a, b   int
			ends   time.Duration // 0: the call goes on
			probed []int
		}{
			{"the callee is gone", 200, 481, 37 * time.Second, []int{sideB}},
			{"the caller is gone", 481, 200, 37 * time.Second, []int{sideB, sideA}},
			{"the callee is silent", 200, 0, 111 * time.Second, []int{sideB}},
			{"the caller is silent", 0, 200, 111 * time.Second, []int{sideB, sideA}},
			{"both live", 200, 200, 0, []int{sideB, sideA}},
		} {
			t.Run(mode.name+" "+x.name, func(t *testing.T) {
				inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
					b := l.records()
					c := l.rings(mode.caller)
					c.answers(mode.callee)
					all := c.withoutAck(mode.callee, 200*time.Second, func(side int, m *wire.Msg) int {
						if m.Method == wire.BYE {
							return 200
						}
						return [2]int{x.a, x.b}[side]
					})
					var asked, hung []int
					for _, s := range all {
						switch title(s.m) {
						case mode.method:
							if len(asked) == 0 && !near(s.at, 37*time.Second) {
								t.Errorf("asked after %v", s.at)
							}
							if n := len(asked); n == 0 || asked[n-1] != s.side {
								asked = append(asked, s.side)
							}
						case "BYE":
							hung = append(hung, s.side)
							if !near(s.at, x.ends) {
								t.Errorf("BYE after %v", s.at)
							}
							if got := string(s.m.Value(wire.KindReason)); got != `SIP;cause=408;text="no ACK came";key=ack_timeout` {
								t.Errorf("Reason %s", got)
							}
						case "200 INVITE":
						default:
							t.Errorf("%s after %v", title(s.m), s.at)
						}
					}
					if fmt.Sprint(asked) != fmt.Sprint(x.probed) {
						t.Errorf("asked %v, want %v: %v", asked, x.probed, titles(all))
					}
					if x.ends != 0 {
						if len(hung) != 2 {
							t.Errorf("BYE to %v", hung)
						}
						c.gone()
						if r := b.only(); r.Reason != "ack_missing" || r.EndedBy != "edge" {
							t.Errorf("%+v", r)
						}
						return
					}
					stays(t, c, hung)
				})
			})
		}
	}
}

// stays checks a call whose ACK never came, but whose legs live: it is not probed
// and ends at no_timer_call_duration, unless the caller shows up.
func stays(t *testing.T, c *talk, hung []int) {
	t.Helper()
	if x := c.e.Calls(CallFilter{}); len(hung) > 0 || len(x) != 1 || x[0].EndsBy != "no_timer_call_duration" || len(c.lines("no ACK came")) != 1 {
		t.Errorf("BYE to %v: %+v", hung, x)
	}
	c.until(7190 * time.Second)
	c.a.nothing()
	c.b.nothing()
	c.byes(c.attends(7210*time.Second, nil))
	c.gone()
	if got := c.why(); got != "no_timer_call_duration" {
		t.Error(got)
	}
}

// E.4: a limit fires before the ACK. The callee gets its BYE at once, the caller
// when the ACK comes, or after 64*T1 (RFC 3261 15).
func TestE4LimitBeforeTheAck(t *testing.T) {
	for _, x := range []struct {
		name string
		ack  time.Duration
		want time.Duration
	}{{"the ACK comes", 12 * time.Second, 12 * time.Second}, {"it never comes", 0, 32 * time.Second}, {"it comes late", 31 * time.Second, 31 * time.Second}} {
		for _, answer := range []int{200, 0} {
			t.Run(fmt.Sprintf("%s, BYE is answered %d", x.name, answer), func(t *testing.T) {
				inLab(t, 1, withTimers(func(c *config.Timers) { c.MaxCallDuration = 5e9 }), func(t *testing.T, l *lab) {
					b := l.records()
					c := l.rings(timerLines)
					c.answers(timerLines)
					status := func(int, *wire.Msg) int { return answer }
					all := c.attends(x.want-time.Second/2, status)
					if x.ack != 0 {
						c.until(x.ack)
						c.from(sideA, "ACK", 1, "", "")
					}
					all = append(all, c.attends(x.want+31*time.Second, status)...)
					byes := c.byes(all)
					if !near(byes[sideB].at, 5*time.Second) || !near(byes[sideA].at, x.want) {
						t.Errorf("BYE to the callee after %v, to the caller after %v", byes[sideB].at, byes[sideA].at)
					}
					if answer == 0 {
						c.is("terminating") // until the caller's 64*T1 are over, too
					} else {
						c.is("")
					}
					if r := b.only(); r.Reason != "max_call_duration" || r.Duration < 5 || r.Duration > 5.5 {
						t.Errorf("%+v", r)
					}
					pass(40 * time.Second)
					c.a.skip()
					c.b.skip()
					c.gone()
				})
			})
		}
	}
}

// E.3: a probe is under way when an endpoint hangs up. Its answer changes nothing, and
// a late 2xx to our re-INVITE gets its ACK.
func TestE3AnswerToAProbeAfterTheEnd(t *testing.T) {
	for _, x := range []struct{ lines, method string }{{updateLines, "UPDATE"}, {plainLines, "INVITE"}} {
		for _, status := range []int{200, 481, 500, 0} {
			t.Run(fmt.Sprintf("%s %d", x.method, status), func(t *testing.T) {
				inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
					b := l.records()
					c := l.talks(timerLines+x.lines, timerLines+x.lines)
					probe, _ := c.waits(sideB, x.method, 301*time.Second)
					bye := c.asks(sideA, "BYE", "", "", 200, "")
					if bye.CSeq != probe.CSeq+1 {
						t.Errorf("BYE %d after %s %d", bye.CSeq, x.method, probe.CSeq)
					}
					c.is("")
					if status != 0 {
						c.b.sends(c.reply(probe, status, "Contact: <sip:bob@"+c.b.addr.String()+">\n", ""))
						if x.method == "INVITE" {
							if ack := c.b.get("ACK"); ack.CSeq != probe.CSeq {
								t.Errorf("ACK %d for INVITE %d", ack.CSeq, probe.CSeq)
							}
						}
						c.b.nothing()
					}
					pass(100 * time.Second)
					c.b.skip()
					c.a.nothing()
					c.gone()
					if r := b.only(); r.Reason != "bye" || r.EndedBy != "caller" {
						t.Errorf("%+v", r)
					}
				})
			})
		}
	}
}

// E.5: both ends of a call without timers are gone. Its BYEs are silent, and it is freed.
func TestE5VanishedCallIsFreed(t *testing.T) {
	inLab(t, 1, withTimers(func(c *config.Timers) { c.NoTimerCallDuration = 60e9 }), func(t *testing.T, l *lab) {
		b := l.records()
		c := l.talksIn("N")
		c.byes(c.attends(91*time.Second, silence))
		c.is("terminating")
		c.attends(125*time.Second, silence)
		c.is("")
		c.gone()
		if r := b.only(); r.Reason != "no_timer_call_duration" || r.Duration < 60 || r.Duration > 60.5 {
			t.Errorf("%+v", r)
		}
	})
}
