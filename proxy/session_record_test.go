package proxy

import (
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// ended is what a record has to say besides what is the same in all of them.
type ended struct {
	reason, by, mode string
	status           int
	setup, talked    time.Duration // talked 0: never answered
	verified         time.Duration // after the answer
	backend          string        // "" = pbx1
}

// is checks every field of the only record, and the line of the ended call. began is
// when the INVITE was sent.
func (b *book) is(c *talk, began time.Time, want ended) {
	b.Helper()
	r := b.only()
	if want.backend == "" {
		want.backend = "pbx1"
	}
	got := ended{r.Reason, r.EndedBy, r.Mode, r.Status, time.Duration(r.SetupMS) * time.Millisecond, 0, 0, r.Backend}
	isAnswered := want.talked != 0
	if (r.Answer != nil) != isAnswered || (r.LastVerified != nil) != isAnswered || r.Start == nil || r.End == nil {
		b.Fatalf("a time is missing or too much: %+v", r)
	}
	if isAnswered {
		got.talked = time.Duration(r.Duration * float64(time.Second)).Round(time.Millisecond)
		if late := got.talked - want.talked; late > 0 && late <= 300*time.Millisecond { // the wheel's grid
			got.talked = want.talked
		}
		got.verified = r.LastVerified.Sub(*r.Answer)
		if d := r.End.Sub(*r.Answer).Seconds(); math.Abs(d-r.Duration) > 0.002 {
			b.Errorf("from answer to end it is %v s, duration %v", d, r.Duration)
		}
	} else if r.Duration != 0 {
		b.Errorf("duration %v of a call that was not answered", r.Duration)
	}
	if got != want {
		b.Errorf("the record says\n%+v, want\n%+v", got, want)
	}
	if r.CallID != c.id || r.From != "sip:alice@example.org" || r.To != "sip:bob@example.org" || r.RURI != "sip:bob@example.org" ||
		r.Src != c.a.addr.String() || r.Transport != "udp" || r.Pool != "pbx" || r.Start.Sub(began).Abs() > time.Millisecond {
		b.Errorf("%+v", r)
	}
	lines := b.lines("Call ended")
	text := fmt.Sprintf("Call ended - C=%s D=%.3f F=%s T=%s ID=%s", r.Reason, r.Duration, r.From, r.To, r.CallID)
	if len(lines) != 1 || !strings.Contains(lines[0], text) {
		b.Errorf("the line is %q, want %q", lines, text)
	}
}

// tries has the callee answer 100, so that the INVITE is not repeated.
func (t *talk) tries() { t.b.answers(t.invite, 100, "") }

// One record for every call, right in every field, whatever ended it.
func TestEveryCallLeavesOneRecord(t *testing.T) {
	s := time.Second
	timer := func(f func(*config.Timers)) func(*config.Config) { return withTimers(f) }
	plain := timer(func(*config.Timers) {})
	// The call rings 2 s after the INVITE and is answered 3 s later.
	answered := func(c *talk, callee string) {
		c.tries()
		pass(2 * s)
		c.b.sends(c.reply(c.invite, 180, "", ""))
		c.a.get("180 INVITE")
		pass(3 * s)
		c.answers(callee)
		c.acks()
	}
	rings := func(c *talk) {
		c.tries()
		pass(2 * s)
		c.b.sends(c.reply(c.invite, 180, "", ""))
		c.a.get("180 INVITE")
	}
	fails := func(c *talk, status int) {
		c.b.sends(c.reply(c.invite, status, "", ""))
		c.b.get("ACK")
		c.a.get(fmt.Sprintf("%d INVITE", status))
	}
	cases := []struct {
		name   string
		change func(*config.Config)
		caller string
		run    func(c *talk)
		want   ended
	}{
		{"bye of the caller", plain, "", func(c *talk) {
			answered(c, "")
			pass(7 * s)
			c.asks(sideA, "BYE", "", "", 200, "")
		}, ended{reason: "bye", by: "caller", mode: "N", status: 200, setup: 2 * s, talked: 7 * s}},
		{"bye of the callee", plain, refreshes, func(c *talk) {
			answered(c, refreshesOK)
			pass(7 * s)
			c.asks(sideA, "UPDATE", "", "", 200, "")
			pass(7 * s)
			c.asks(sideB, "BYE", "", "", 200, "")
		}, ended{reason: "bye", by: "callee", mode: "R", status: 200, setup: 2 * s, talked: 14 * s, verified: 7 * s}},
		{"cancel", plain, "", func(c *talk) {
			rings(c)
			pass(s)
			c.a.sends(strings.Replace(c.text(sideA, "CANCEL", 1, "", "", "sip:bob@example.org", "", ""), fmt.Sprintf("-%d;", c.branch), "-1;", 1))
			c.a.get("200 CANCEL")
			c.b.sends(c.reply(c.b.get("CANCEL"), 200, "", ""))
			fails(c, 487)
		}, ended{reason: "cancel", by: "caller", status: 487, setup: 2 * s}},
		{"rejected", plain, "", func(c *talk) {
			c.tries()
			pass(3 * s)
			fails(c, 486)
		}, ended{reason: "rejected", by: "callee", status: 486, setup: 3 * s}},
		{"rejected after it rang", plain, "", func(c *talk) {
			rings(c)
			pass(3 * s)
			fails(c, 603)
		}, ended{reason: "rejected", by: "callee", status: 603, setup: 2 * s}},
		{"timer B", plain, "", func(c *talk) {
			pass(33 * s)
			c.b.skip()
			c.a.get("408 INVITE")
		}, ended{reason: "timeout", by: "edge", status: 408, setup: 32 * s}},
		{"timer C, the callee takes the CANCEL", func(c *config.Config) { plain(c); c.Transaction.TimerC = 40e9 }, "", func(c *talk) {
			rings(c)
			pass(40*s + s/3)
			c.b.sends(c.reply(c.b.get("CANCEL"), 200, "", ""))
			fails(c, 487)
		}, ended{reason: "timeout", by: "edge", status: 487, setup: 2 * s}},
		{"timer C, the callee is gone", func(c *config.Config) { plain(c); c.Transaction.TimerC = 40e9 }, "", func(c *talk) {
			rings(c)
			pass(41*s + 33*s)
			c.b.skip()
			c.a.get("408 INVITE")
		}, ended{reason: "timeout", by: "edge", status: 408, setup: 2 * s}},
		{"max_ring_duration", timer(func(c *config.Timers) { c.MaxRingDuration = 30e9 }), "", func(c *talk) {
			rings(c)
			pass(28*s + s/3)
			cancel := c.b.get("CANCEL")
			wantsReason(c, cancel, `SIP;cause=408;text="rang too long";key=max_ring_duration`)
			c.b.sends(c.reply(cancel, 200, "", ""))
			fails(c, 487)
		}, ended{reason: "max_ring_duration", by: "edge", status: 487, setup: 2 * s}},
		{"session_ttl", plain, refreshes, func(c *talk) {
			answered(c, refreshesOK)
			c.byes(c.attends(610*s, silence))
			pass(s)
		}, ended{reason: "session_ttl", by: "edge", mode: "R", status: 200, setup: 2 * s, talked: 600 * s}},
		{"session_ttl after some proofs", timer(func(c *config.Timers) { c.ProbeLegs = "b" }), "", func(c *talk) {
			answered(c, timerLines+updateLines)
			c.attends(301*s, nil)
			c.byes(c.attends(910*s, silence))
		}, ended{reason: "session_ttl", by: "edge", mode: "P", status: 200, setup: 2 * s, talked: 900 * s}},
		{"no_timer_call_duration", plain, "", func(c *talk) {
			answered(c, "")
			c.until(7199 * s)
			c.byes(c.attends(7201*s, nil))
		}, ended{reason: "no_timer_call_duration", by: "edge", mode: "N", status: 200, setup: 2 * s, talked: 7200 * s}},
		{"max_call_duration", timer(func(c *config.Timers) { c.MaxCallDuration = 90e9 }), "", func(c *talk) {
			answered(c, "")
			c.byes(c.attends(91*s, nil))
		}, ended{reason: "max_call_duration", by: "edge", mode: "N", status: 200, setup: 2 * s, talked: 90 * s}},
		{"ack_missing", plain, timerLines + updateLines, func(c *talk) {
			rings(c)
			pass(3 * s)
			c.answers(timerLines + updateLines)
			c.withoutAck(timerLines+updateLines, 40*s, func(side int, m *wire.Msg) int { return 481 })
		}, ended{reason: "ack_missing", by: "edge", mode: "R", status: 200, setup: 2 * s, talked: 37 * s}},
		{"admin", plain, "", func(c *talk) {
			answered(c, "")
			pass(11 * s)
			c.e.EndCall(c.e.Calls(CallFilter{})[0].ID)
			c.answered(sideB, "BYE", 200, "", "")
			c.answered(sideA, "BYE", 200, "", "")
		}, ended{reason: "admin", by: "edge", mode: "N", status: 200, setup: 2 * s, talked: 11 * s}},
		{"dialog_gone", plain, refreshes, func(c *talk) {
			answered(c, refreshesOK)
			c.byes(c.attends(310*s, func(side int, m *wire.Msg) int { return 481 }))
		}, ended{reason: "dialog_gone", by: "edge", mode: "R", status: 200, setup: 2 * s, talked: 300 * s}},
		{"session_expired", timer(func(c *config.Timers) { c.OnSEExpiry = "bye" }), timerLines + "Session-Expires: 90\n", func(c *talk) {
			answered(c, timerLines+"Session-Expires: 90;refresher=uac\nRequire: timer\n")
			c.byes(c.attends(96*s, nil))
		}, ended{reason: "session_expired", by: "edge", mode: "R", status: 200, setup: 2 * s, talked: 95 * s}},
		{"state_dropped", timer(func(c *config.Timers) { c.OnSEExpiry = "drop_state" }), timerLines + "Session-Expires: 90\n", func(c *talk) {
			answered(c, timerLines+"Session-Expires: 90;refresher=uac\nRequire: timer\n")
			if all := c.attends(96*s, nil); len(all) > 0 {
				c.Errorf("%v", titles(all))
			}
		}, ended{reason: "state_dropped", by: "edge", mode: "R", status: 200, setup: 2 * s, talked: 95 * s}},
	}
	for _, x := range cases {
		t.Run(x.name, func(t *testing.T) {
			inLab(t, 1, x.change, func(t *testing.T, l *lab) {
				b := l.records()
				began := time.Now()
				c := l.rings(x.caller)
				x.run(c)
				b.is(c, began, x.want)
				pass(200 * s)
				b.is(c, began, x.want) // still the only one
				if n := l.e.dialogs.Len(); n != 0 {
					t.Errorf("%d calls left", n)
				}
				if s := l.e.CallStats(); s.Ended[x.want.reason] != 1 || s.Concurrent != 0 || s.Ringing != 0 || s.Attempts != 1 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// The record names the backend that had the call in the end.
func TestRecordOfACallThatMovedOn(t *testing.T) {
	inLab(t, 2, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		b := l.records()
		began := time.Now()
		c := l.rings("")
		pass(5 * time.Second)
		c.b.skip()
		c.b = l.pbx[1]
		for _, n := range []int{0, 1} {
			want := int64(n)
			if got := l.e.dialogs.Tally(l.e.snap.Load().pools.Pool("pbx").Backends()[n].ID()).Load(); got != want {
				t.Errorf("%d calls at backend %d", got, n)
			}
		}
		c.invite = c.b.get("INVITE")
		c.b.skip()
		c.answers("")
		c.acks()
		setup := time.Since(began)
		pass(3 * time.Second)
		c.asks(sideB, "BYE", "", "", 200, "")
		b.is(c, began, ended{reason: "bye", by: "callee", mode: "N", status: 200, setup: setup, talked: 3 * time.Second, backend: "pbx2"})
		l.pbx[0].skip()
		c.gone()
	})
}

// A backend that a reload removed is still named by the calls that it had.
func TestRecordOfACallAtARemovedBackend(t *testing.T) {
	inLab(t, 2, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		b := l.records()
		began := time.Now()
		c := l.talks("", "")
		without := *l.e.snap.Load().config
		pool := without.Pools["pbx"]
		pool.Backends = pool.Backends[1:]
		without.Pools = map[string]config.Pool{"pbx": pool}
		if err := l.e.Reload(&without); err != nil {
			t.Fatal(err)
		}
		if got := c.info().Backend; got != "pbx1" {
			t.Errorf("listed at %q", got)
		}
		pass(3 * time.Second)
		c.asks(sideB, "BYE", "", "", 200, "")
		b.is(c, began, ended{reason: "bye", by: "callee", mode: "N", status: 200, talked: 3 * time.Second, backend: "pbx1"})
		c.gone()
	})
}

// A challenge is no call that ended: the next INVITE is the call.
func TestAChallengeLeavesNoRecord(t *testing.T) {
	for _, status := range []int{401, 407} {
		inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
			b := l.records()
			c := l.rings("")
			c.b.sends(c.reply(c.invite, status, "", ""))
			c.b.get("ACK")
			c.a.get(fmt.Sprintf("%d INVITE", status))
			if all := b.all(); len(all) != 0 || len(l.lines("Call ended")) != 0 {
				t.Errorf("%+v", all)
			}
			if s := l.e.CallStats(); s.Attempts != 0 || s.Failed != 0 || s.Ringing != 0 || len(s.Ended) != 0 {
				t.Errorf("%+v", s)
			}
			c.gone()
		})
	}
}

// A forked call is one call: its end is that of its last dialog.
func TestRecordOfAForkedCall(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		b := l.records()
		began := time.Now()
		c := l.rings("")
		c.tries()
		pass(time.Second)
		for i := range 3 { // a 180 and a 200 from each of three phones behind the PBX
			c.b.answers(c.invite, 180, fmt.Sprintf("t%d", i), "Contact: <sip:bob@"+c.b.addr.String()+">\r\n")
			c.a.get("180 INVITE")
		}
		pass(time.Second)
		c.answers("")
		c.acks()
		c.b.answers(c.invite, 200, "t1", "Contact: <sip:bob@"+c.b.addr.String()+">\r\n")
		loser := c.a.get("200 INVITE")
		for _, method := range []string{"ACK", "BYE"} { // RFC 3261 13.2.2.4
			cseq := map[string]int{"ACK": 1, "BYE": 2}[method]
			c.a.sends(c.text(sideA, method, cseq, "", "", "sip:bob@"+c.b.addr.String(), routeOf(loser), "t1"))
			m := c.b.get(method)
			if method == "BYE" {
				c.b.answers(m, 200, "")
				c.a.get("200 BYE")
			}
		}
		pass(9 * time.Second)
		if all := b.all(); len(all) != 0 {
			t.Fatalf("the call goes on: %+v", all)
		}
		if x := l.e.Calls(CallFilter{}); len(x) != 1 || x[0].State != "confirmed" {
			t.Fatalf("%+v", x)
		}
		c.asks(sideB, "BYE", "", "", 200, "")
		b.is(c, began, ended{reason: "bye", by: "callee", mode: "N", status: 200, setup: time.Second, talked: 9 * time.Second})
		c.gone()
		b.is(c, began, ended{reason: "bye", by: "callee", mode: "N", status: 200, setup: time.Second, talked: 9 * time.Second})
	})
}

// The counters of all calls.
func TestCallStats(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		check := func(what string, want CallStats) {
			t.Helper()
			got := l.e.CallStats()
			got.Probes, got.CPS = nil, math.Round(got.CPS*100)/100
			if want.Ended == nil {
				want.Ended = map[string]uint64{}
			}
			if want.Modes == nil {
				want.Modes = map[string]int{}
			}
			if !maps.Equal(got.Ended, want.Ended) || !maps.Equal(got.Modes, want.Modes) {
				t.Errorf("%s: ended %v, modes %v", what, got.Ended, got.Modes)
			}
			got.Ended, got.Modes, want.Ended, want.Modes = nil, nil, nil, nil
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s:\n%+v, want\n%+v", what, got, want)
			}
		}
		pass(20 * time.Second)
		check("before", CallStats{})
		ringing := l.rings("")
		ringing.tries()
		pass(2 * time.Second)
		check("one rings", CallStats{Attempts: 1, Ringing: 1, CPS: 0.1})
		ringing.b.sends(ringing.reply(ringing.invite, 180, "", ""))
		ringing.a.get("180 INVITE")
		pass(time.Second)
		ringing.answers("")
		ringing.acks()
		check("one talks", CallStats{Attempts: 1, Answered: 1, Concurrent: 1, ASR: 100, PDD: 2, CPS: 0.1, Modes: map[string]int{"N": 1}})
		busy := l.rings("")
		busy.tries()
		pass(4 * time.Second)
		busy.b.sends(busy.reply(busy.invite, 486, "", ""))
		busy.b.get("ACK")
		busy.a.get("486 INVITE")
		check("one was busy", CallStats{
			Attempts: 2, Answered: 1, Failed: 1, Concurrent: 1, ASR: 50, PDD: 3, CPS: 0.2, Modes: map[string]int{"N": 1}, Ended: map[string]uint64{"rejected": 1},
		})
		second := l.talksIn("R")
		pass(6 * time.Second)
		l.phone.skip()                              // copies of the 486
		ringing.asks(sideA, "BYE", "", "", 200, "") // 10 s
		check("the first ends", CallStats{
			Attempts: 3, Answered: 2, Failed: 1, Concurrent: 1, ASR: 100 * 2.0 / 3, ACD: 10, PDD: 2, CPS: 0.2, Modes: map[string]int{"R": 1},
			Ended: map[string]uint64{"rejected": 1, "bye": 1},
		})
		pass(14 * time.Second)
		l.phone.skip()
		second.asks(sideB, "BYE", "", "", 200, "") // 20 s
		check("the second ends", CallStats{
			Attempts: 3, Answered: 2, Failed: 1, ASR: 100 * 2.0 / 3, ACD: 15, PDD: 2, Ended: map[string]uint64{"rejected": 1, "bye": 2},
		})
	})
}
