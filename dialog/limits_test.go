package dialog

import (
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

const second = time.Second

// Whatever the endpoints keep open, the limits end the call.
func TestNothingAnEndpointKeepsOpenPutsOffALimit(t *testing.T) {
	for name, hold := range map[string]func(*lab){
		"INVITE without end":   func(l *lab) { l.asks(A, "INVITE", 2, labUpdate, labSDPA) },
		"INVITE without ACK":   func(l *lab) { l.gets(l.asks(B, "INVITE", 2, "", labSDPB), 200, "", labSDPA) },
		"offer without answer": func(l *lab) { l.asks(B, "UPDATE", 2, "", labSDPB) },
		"INFO without end":     func(l *lab) { l.asks(A, "INFO", 2, "", ""); l.asks(B, "INFO", 2, "", "") },
		"late offer":           func(l *lab) { l.gets(l.asks(A, "INVITE", 2, "", ""), 200, "", labSDPB) },
		"numbers used up":      func(l *lab) { l.does(A, "INFO", maxCSeq, 200); l.does(B, "INFO", maxCSeq, 200) },
	} {
		for what, limit := range map[string]struct {
			change func(*timers.Policy)
			caller string
			after  time.Duration
			why    Reason
		}{
			"max_call_duration": {func(p *timers.Policy) { p.MaxCall = 500 * second }, labTimer + labUpdate, 500 * second, MaxDuration},
			"passive":           {func(*timers.Policy) {}, "", 7200 * second, NoTimerDuration},
			"no answers":        {func(p *timers.Policy) { p.NoTimerMax = 600 * second }, labTimer, 605 * second, 0},
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				l := newLab(t, limit.change)
				l.talks(limit.caller, "")
				start := l.now
				hold(l)
				for l.now < start+limit.after+second && len(l.ended) == 0 {
					l.pass(second)
					for i, a := range l.acts {
						if a.Method != wire.BYE {
							l.acts = append(l.acts[:i:i], l.acts[i+1:]...)
							l.done(a, 0, "", "")
							break
						}
					}
				}
				if len(l.ended) != 1 {
					t.Fatalf("not ended %v after the answer", l.now-start)
				}
				if limit.why != 0 && l.ended[0].Reason != limit.why {
					t.Errorf("%v", l.ended[0].Reason)
				}
				l.next(A, wire.BYE)
				l.next(B, wire.BYE)
			})
		}
	}
}

func TestBYEThatIsChallengedAgainAndAgainEndsTheCall(t *testing.T) {
	l := newLab(t)
	l.talks("", "")
	for n := range uint32(maxDared) {
		l.does(A, "BYE", 2+n, 401)
		l.quiet()
		l.pass(20 * second)
	}
	l.does(A, "BYE", 9, 407)
	l.next(A, wire.BYE)
	bye := l.next(B, wire.BYE)
	if m := l.sent(&bye); m.CSeq != 10 {
		t.Errorf("CSeq %d", m.CSeq)
	}
	if e := l.ended[0]; e.By != Caller {
		t.Errorf("%+v", e)
	}
	l.over(ByBYE)
}

func TestChallengedBYEThatNeverComesAgain(t *testing.T) {
	l := newLab(t)
	l.talks("", "")
	l.does(B, "BYE", 2, 401)
	l.pass(33 * second)
	l.next(A, wire.BYE)
	l.next(B, wire.BYE)
	if e := l.ended[0]; e.By != Callee {
		t.Errorf("%+v", e)
	}
	l.over(ByBYE)
}

// A BYE that goes to somebody who knows nothing of the dialog does not end it: the
// Request-URI is the sender's choice.
func TestBYEThatGoesAstray(t *testing.T) {
	for _, status := range []int{481, 408} {
		l := newLab(t)
		l.talks("", "")
		l.does(A, "BYE", 2, status) // to sip:x@192.0.2.3, see lab.asks
		l.next(B, wire.BYE)
		l.quiet()
		l.over(ByBYE)
	}
	l := newLab(t)
	l.talks("", "")
	m := l.message("BYE sip:bob@192.0.2.2 SIP/2.0", identity(A, "tb", "BYE", 2))
	var fx Effects
	v := l.find(m).Request(&fx, m, labFlow, 0, l.now)
	l.gets(v, 481, "", "")
	l.quiet()
	l.over(ByBYE)
}

func TestSessionTimerAloneDoesNotKeepACallForEver(t *testing.T) {
	for name, c := range map[string]struct {
		se    string
		alive bool // somebody refreshes
		ends  bool
	}{
		"refreshed":       {"1800", true, false},
		"ran out":         {"1800", false, true},
		"for a long time": {"4294967295", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, func(p *timers.Policy) { p.TTL = 0 })
			se := "Session-Expires: " + c.se + ";refresher=uac\r\n"
			d := l.talks(labTimer+se, labTimer+se)
			if d.mode != timers.ModeR {
				t.Fatal(d.mode)
			}
			for n := range uint32(12) {
				l.pass(900 * second)
				if c.alive {
					l.gets(l.asks(A, "UPDATE", 2+n, labTimer+se, ""), 200, labTimer+se, "")
				}
			}
			if got := d.state == terminating || l.s.Len() == 0; got != c.ends {
				t.Errorf("%v", d.state)
			}
		})
	}
}

// The caller sends past the edge until it does not any more.
func TestCallerThatIsHeardAgainIsWatchedAgain(t *testing.T) {
	for name, isRepeated := range map[string]bool{"bypassed": false, "ACK missing": true} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.invites(labTimer + labUpdate)
			l.answers("tb", labUpdate)
			l.pass(30 * second)
			if isRepeated { // the callee repeats its 2xx
				l.answers("tb", labUpdate)
			}
			l.pass(8 * second)
			for _, to := range [2]Leg{B, A} {
				if isRepeated {
					l.done(l.next(to, wire.UPDATE), 200, "", "")
					l.pass(0)
				}
			}
			l.quiet()
			d := &l.call.first
			if r := l.call.Report(); r.Mode != timers.ModeN || d.capLocked() == 0 || r.Watched {
				t.Fatalf("%+v", r)
			}
			l.until(3000 * second)
			l.quiet()
			l.does(A, "INFO", 2, 200)
			if r := l.call.Report(); r.Mode != timers.ModeR || d.capLocked() != 0 || !r.Watched {
				t.Errorf("%+v", r)
			}
			l.until(3310 * second)
			l.done(l.next(B, wire.UPDATE), 200, "", "")
			l.done(l.next(A, wire.UPDATE), 200, "", "")
			l.until(8000 * second)
			l.next(B, wire.UPDATE)
		})
	}
}

// The edge's own load puts probes off. The deadline follows, and what the record says
// of the last proof of life stays true.
func TestOwnLoadMovesTheDeadlineAndNotTheProof(t *testing.T) {
	l := newLab(t)
	d := l.talks(labTimer+labUpdate, labUpdate)
	l.wait = 1000 * second
	l.until(1200 * second)
	if d.state != confirmed {
		t.Fatal(d.state)
	}
	if r := l.call.Report(); r.Verified != second {
		t.Errorf("verified at %v", r.Verified)
	}
	l.wait = 0
	l.until(1302 * second)
	l.done(l.next(B, wire.UPDATE), 200, "", "")
	if d.leg[B].late != 0 || d.leg[B].proof != l.now {
		t.Errorf("late %d, proof %v", d.leg[B].late, d.leg[B].proof)
	}
}

func TestLateBYEStillKnowsTheBackend(t *testing.T) {
	l := newLab(t, func(p *timers.Policy) { p.MaxCall = 10 * second })
	l.invites("")
	l.answers("tb", "")
	l.pass(11 * second)
	l.next(B, wire.BYE)
	if n := l.s.Tally(7).Load(); n != 0 {
		t.Errorf("%d calls at the backend", n)
	}
	l.quiet()
	l.pass(25 * second) // the caller's has to wait: no ACK came
	if a := l.next(A, wire.BYE); a.Place.Backend != 7 {
		t.Errorf("%+v", a.Place)
	}
}

func TestACKAnswersWithTheNumberOfTheINVITE(t *testing.T) {
	l := newLab(t)
	l.talks(labTimer, "")
	l.until(310 * second)
	a := l.next(B, wire.INVITE)
	draft, ok := a.AckFor(l.response(B, 200, "tb", "INVITE", 4711, "", labSDPB))
	if a.Draft = draft; !ok || l.sent(&a).CSeq != 2 {
		t.Errorf("%s", draft.Rest)
	}
}

func TestBYERetriedAfter500SkipsNumbers(t *testing.T) {
	l := newLab(t)
	l.talks("", "")
	var fx Effects
	if !l.call.End(&fx, l.now) {
		t.Fatal("not ended")
	}
	l.take(&fx)
	l.done(l.next(B, wire.BYE), 500, "", "")
	again := l.next(B, wire.BYE)
	if m := l.sent(&again); m.CSeq != 2+byeSkip {
		t.Errorf("CSeq %d", m.CSeq)
	}
	l.done(again, 500, "", "")
	l.next(A, wire.BYE)
	l.quiet()
	l.over(Admin)
	if l.call.End(&fx, l.now) {
		t.Error("ended twice")
	}
}
