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
