package proxy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// Header lines of endpoints between which a session timer runs.
const (
	expiresLine = "Session-Expires: 1800\n"
	agreedLines = "Session-Expires: 1800;refresher=uac\nRequire: timer\n"
)

// sideNames are for messages of the tests.
var sideNames = [2]string{"A", "B"}

// A visit is a message that a side got while the clock ran.
type visit struct {
	*wire.Msg
	side int
	at   time.Duration // since the answer
}

func (v visit) String() string {
	return fmt.Sprintf("%s %s at %v", sideNames[v.side], title(v.Msg), v.at)
}

// runs lets the clock run to a time after the answer. What a side is asked it
// answers with what reply makes of it, and "" is silence. Copies of a request are
// treated like it, but only the first is in the list.
func (c *talk) runs(until time.Duration, reply func(v visit) string) (all []visit) {
	c.Helper()
	for c.e.wheel.Now()-c.answeredAt < until {
		pass(100 * time.Millisecond)
		for side := range 2 {
			for m := c.peer(side).getsWithin(0); m != nil; m = c.peer(side).getsWithin(0) {
				v := visit{m, side, c.e.wheel.Now() - c.answeredAt}
				isCopy := slices.ContainsFunc(all, func(o visit) bool {
					return o.side == side && title(o.Msg) == title(m) && string(o.Bytes(o.TopVia.Branch)) == string(m.Bytes(m.TopVia.Branch))
				})
				if !isCopy {
					all = append(all, v)
				}
				if m.IsRequest() && m.Method != wire.ACK {
					if text := reply(v); text != "" {
						c.peer(side).sends(text)
					}
				}
			}
		}
	}
	return all
}

// alive answers as an endpoint does that lives and knows session timers.
func (c *talk) alive(v visit) string {
	lines, body := "", ""
	if se := v.Value(wire.KindSessionExpires); se != nil {
		lines = "Session-Expires: " + string(se) + "\n"
	}
	if v.Method == wire.INVITE {
		body = [2]string{sdpA, sdpB}[v.side]
		lines += "Contact: <" + c.target(v.side) + ">\n"
	}
	return c.reply(v.Msg, 200, lines, body)
}

// target is the Contact URI of a side.
func (c *talk) target(side int) string {
	return [2]string{"sip:alice@", "sip:bob@"}[side] + c.peer(side).addr.String()
}

// mute answers nothing on one side, and as alive on the other.
func (c *talk) mute(side int) func(visit) string {
	return func(v visit) string {
		if v.side == side {
			return ""
		}
		return c.alive(v)
	}
}

// of are the visits of one side.
func of(all []visit, side int) (of []visit) {
	for _, v := range all {
		if v.side == side {
			of = append(of, v)
		}
	}
	return of
}

// come is what the visits were.
func come(all []visit) string {
	var s []string
	for _, v := range all {
		s = append(s, title(v.Msg))
	}
	return strings.Join(s, " ")
}

// isOnly says whether all visits were of that kind.
func isOnly(all []visit, what string) bool {
	return !slices.ContainsFunc(all, func(v visit) bool { return title(v.Msg) != what })
}

// about says whether a time is what it should be, but for what the lab and the
// edge's grid add.
func about(got, want time.Duration) bool {
	return got >= want-20*time.Millisecond && got <= want+600*time.Millisecond
}

// wantTimes checks when visits were.
func wantTimes(t *testing.T, all []visit, want ...time.Duration) {
	t.Helper()
	for i, v := range all {
		if i >= len(want) || !about(v.at, want[i]) {
			t.Errorf("%v, want them at %v", all, want)
			return
		}
	}
	if len(all) < len(want) {
		t.Errorf("%v, want them at %v", all, want)
	}
}

// endedBy checks that both sides got a BYE about then, with that Reason.
func (c *talk) endedBy(all []visit, at time.Duration, reason string) {
	c.Helper()
	for side := range 2 {
		x := of(all, side)
		if len(x) == 0 || x[len(x)-1].Method != wire.BYE || x[len(x)-1].at < at || x[len(x)-1].at > at+time.Second {
			c.Errorf("%s: %v, want a BYE at %v", sideNames[side], x, at)
			continue
		}
		if got := string(x[len(x)-1].Value(wire.KindReason)); got != reason {
			c.Errorf("Reason: %s, want %s", got, reason)
		}
	}
}

const (
	reasonTTL = `SIP;cause=408;text="session refresh failed";key=session_ttl`
	// reasonLimit is the passive limit's.
	reasonLimit = `Q.850;cause=31;text="max call duration";key=no_timer_call_duration`
	reasonGone  = `SIP;cause=481;text="dialog is gone"`
)

func TestG11BothLegsAreRefreshed(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines+expiresLine, timerLines+updateLines+agreedLines)
		all := c.runs(3010*time.Second, c.alive)
		for side := range 2 {
			got := of(all, side)
			if len(got) != 10 && len(got) != 9 { // the caller's come 1 to 3 s after the callee's
				t.Fatalf("%s got %v", sideNames[side], got)
			}
			last := time.Duration(0)
			for i, v := range got {
				if d := v.at - last; d < 299*time.Second || d > 304*time.Second {
					t.Errorf("%v comes %v after the one before", v, d)
				}
				last = v.at
				from, to := "<sip:alice@example.org>;tag=ta", "<sip:bob@example.org>;tag=tb"
				se := "1800;refresher=uac" // the callee's peer refreshes
				if side == sideA {
					from, to, se = to, from, "1800;refresher=uas"
				}
				for name, x := range map[string][2]string{
					"method":      {title(v.Msg), "UPDATE"},
					"Request-URI": {string(v.Bytes(v.RURI)), c.target(side)},
					"From":        {string(v.Bytes(v.From.Value)), from},
					"To":          {string(v.Bytes(v.To.Value)), to},
					"Contact":     {string(v.Value(wire.KindContact)), "<" + c.target(1-side) + ">"},
					"Route":       {string(v.Value(wire.KindRoute)), ""},
					"SE":          {string(v.Value(wire.KindSessionExpires)), se},
					"body":        {string(v.Bytes(v.Body)), ""},
					"CSeq":        {fmt.Sprint(v.CSeq), fmt.Sprint(i + 1 + side)},
				} {
					if x[0] != x[1] {
						t.Errorf("%v: %s is %q, want %q", v, name, x[0], x[1])
					}
				}
			}
		}
		c.hangsUp(sideB)
		if c.why() != "bye" {
			t.Error(c.why())
		}
	})
}

// The callee knows no session timer: it must not be given one (D5), and the caller
// keeps the one that it was promised.
func TestG13NoTimerOnALegWithoutOne(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines+expiresLine, updateLines)
		if got := string(c.ok.Value(wire.KindSessionExpires)); got != "1800;refresher=uac" {
			t.Errorf("the caller's 200 has Session-Expires %q", got)
		}
		all := c.runs(310*time.Second, c.alive)
		if come(all) != "UPDATE UPDATE" {
			t.Fatal(all)
		}
		if b := of(all, sideB)[0]; b.First(wire.KindSessionExpires) >= 0 || b.First(wire.KindMinSE) >= 0 {
			t.Errorf("B: %s", b.Buf)
		}
		a := of(all, sideA)[0]
		if got := string(a.Value(wire.KindSessionExpires)); got != "1800;refresher=uas" {
			t.Errorf("A: Session-Expires %q", got)
		}
		if !a.Lists(wire.KindSupported, "timer") {
			t.Errorf("A: %s", a.Buf)
		}
		c.hangsUp(sideA)
	})
}

// Each leg is told what it believes, whoever refreshes (D4).
func TestRefresherIsKeptOnEachLeg(t *testing.T) {
	for _, refresher := range []string{"uac", "uas"} {
		t.Run(refresher, func(t *testing.T) {
			inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
				c := l.talks(timerLines+updateLines+expiresLine, timerLines+updateLines+"Session-Expires: 1800;refresher="+refresher+"\n")
				all := c.runs(910*time.Second, c.alive)
				if len(all) != 6 {
					t.Fatal(all)
				}
				for _, v := range all {
					want := "1800;refresher=uas" // whoever is asked refreshes
					if (v.side == sideA) != (refresher == "uac") {
						want = "1800;refresher=uac"
					}
					if got := string(v.Value(wire.KindSessionExpires)); got != want {
						t.Errorf("%v: Session-Expires %q, want %q", v, got, want)
					}
				}
				c.hangsUp(sideA)
			})
		})
	}
}

// A 2xx to a probe says how the leg sees its session timer, where it is and what it
// knows.
func TestAnswerToAProbeIsLearned(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines+expiresLine, timerLines+updateLines+agreedLines)
		const contact, allow = "<sip:bob@127.0.0.1:9;x=2>", "INVITE, ACK, CANCEL, BYE, UPDATE, INFO"
		c.probed(sideB, "UPDATE", 301*time.Second, 200, "Session-Expires: 900;refresher=uas\nContact: "+contact+"\nAllow: "+allow+"\n", "")
		a, _ := c.probed(sideA, "UPDATE", 4*time.Second, 200, "Session-Expires: 1800;refresher=uas\n", "")
		if string(a.Value(wire.KindContact)) != contact || string(a.Value(wire.KindAllow)) != allow || string(a.Value(wire.KindSessionExpires)) != "1800;refresher=uas" {
			t.Errorf("A: %s", a.Buf)
		}
		b, _ := c.probed(sideB, "UPDATE", 301*time.Second, 200, "Session-Expires: 900;refresher=uas\nContact: <"+c.target(sideB)+">\n", "")
		if string(b.Bytes(b.RURI)) != "sip:bob@127.0.0.1:9;x=2" || string(b.Value(wire.KindSessionExpires)) != "900;refresher=uas" {
			t.Errorf("B: %s", b.Buf)
		}
		c.probed(sideA, "UPDATE", 4*time.Second, 200, "Session-Expires: 1800;refresher=uas\n", "")
		c.hangsUp(sideA)
	})
}

// An answer without refresher, which RFC 4028 9 forbids, makes nobody the refresher
// who was not (D4).
func TestAnswerWithoutRefresherKeepsIt(t *testing.T) {
	for _, refresher := range []string{"uac", "uas"} {
		inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
			c := l.talks(timerLines+updateLines+expiresLine, timerLines+updateLines+"Session-Expires: 1800;refresher="+refresher+"\n")
			for _, v := range c.runs(910*time.Second, func(v visit) string { return c.reply(v.Msg, 200, "Session-Expires: 1800\n", "") }) {
				want := "1800;refresher=uas"
				if (v.side == sideA) != (refresher == "uac") {
					want = "1800;refresher=uac"
				}
				if got := string(v.Value(wire.KindSessionExpires)); got != want {
					t.Errorf("%v: Session-Expires %q, want %q", v, got, want)
				}
			}
			c.hangsUp(sideA)
		})
	}
}

// A leg that answers a refresh without Session-Expires has switched its timer off.
func TestTimerThatALegGaveUpStaysOff(t *testing.T) {
	inLab(t, 1, withTimers(func(c *config.Timers) { c.OnSEExpiry = "bye" }), func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines+"Session-Expires: 400\n", timerLines+updateLines+"Session-Expires: 400;refresher=uas\n")
		all := c.runs(3000*time.Second, func(v visit) string { return c.reply(v.Msg, 200, "", "") })
		for i, v := range all {
			if hasSE := v.First(wire.KindSessionExpires) >= 0; v.Method != wire.UPDATE || hasSE != (i < 2) {
				t.Errorf("%v: Session-Expires %v", v, hasSE)
			}
		}
		c.hangsUp(sideA)
	})
}

func TestG14SilentLegEndsTheCall(t *testing.T) {
	for _, side := range []int{sideA, sideB} {
		t.Run(sideNames[side], func(t *testing.T) {
			inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
				c := l.talks(timerLines+updateLines+expiresLine, timerLines+updateLines+agreedLines)
				all := c.runs(602*time.Second, c.mute(side))
				c.endedBy(all, 600*time.Second, reasonTTL)
				got := of(all, side)
				first := got[0].at // 32 s of each transaction and 10, 20, 40, 80 s between them
				if first < 300*time.Second || first > 304*time.Second {
					t.Errorf("the first probe: %v", got[0])
				}
				wantTimes(t, got[1:], first+42*time.Second, first+94*time.Second, first+166*time.Second, 566*time.Second, 600*time.Second)
				if want := [2]string{
					// It may be UPDATE that a leg cannot; of the callee, which has answered the
					// INVITE, that is believed after the second one.
					"UPDATE UPDATE OPTIONS UPDATE OPTIONS BYE", "UPDATE UPDATE OPTIONS OPTIONS OPTIONS BYE",
				}[side]; come(got) != want {
					t.Errorf("%s, want %s", come(got), want)
				}
				c.gone()
				if c.why() != "session_ttl" {
					t.Error(c.why())
				}
			})
		})
	}
}

func TestG15OneLostProbeIsNothing(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines, timerLines+updateLines)
		all := c.runs(2000*time.Second, func(v visit) string {
			if v.side == sideB && v.at < 333*time.Second {
				return ""
			}
			return c.alive(v)
		})
		got := of(all, sideB)
		if !isOnly(got, "UPDATE") {
			t.Error(got)
		}
		wantTimes(t, got[:3], 300*time.Second, 342*time.Second, 642*time.Second)
		c.hangsUp(sideA)
	})
}

func TestG16GoneDialogEndsTheCallAtOnce(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines, timerLines+updateLines)
		var at time.Duration
		all := c.runs(310*time.Second, func(v visit) string {
			if v.side == sideA {
				at = v.at
				return c.reply(v.Msg, 481, "", "")
			}
			return c.alive(v)
		})
		c.endedBy(all, at, reasonGone)
		c.gone()
		if c.why() != "dialog_gone" {
			t.Error(c.why())
		}
	})
}

func TestG21BusyLegIsAskedAgain(t *testing.T) {
	for _, side := range []int{sideA, sideB} {
		t.Run(sideNames[side], func(t *testing.T) {
			inLab(t, 1, withTimers(func(c *config.Timers) { c.InsertSE = "never" }), func(t *testing.T, l *lab) {
				c := l.talks(timerLines+updateLines, timerLines+updateLines)
				lo, hi := 2100*time.Millisecond, 4*time.Second // towards the callee we stand for the owner of the Call-ID
				if side == sideA {
					lo, hi = 0, 2*time.Second
				}
				got := of(c.runs(2000*time.Second, func(v visit) string {
					if v.side == side {
						return c.reply(v.Msg, 491, "", "")
					}
					return c.alive(v)
				}), side)
				if len(got) < 12 || !isOnly(got, "UPDATE") {
					t.Fatal(got)
				}
				for i, v := range got[1:] {
					d := v.at - got[i].at
					if i%3 == 2 { // three in a row: the next interval
						if !about(d, 300*time.Second) {
							t.Errorf("%v, %v after the one before: %v", v, d, got[:8])
						}
						continue
					}
					if d < lo-20*time.Millisecond || d > hi+300*time.Millisecond {
						t.Errorf("%v, %v after the one before: %v", v, d, got[:8])
					}
				}
				c.hangsUp(sideA)
			})
		})
	}
}

func TestG22ServerErrorIsAliveOnce(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines, timerLines+updateLines)
		refused := false
		got := of(c.runs(2000*time.Second, func(v visit) string {
			if v.side == sideB && !refused {
				refused = true
				return c.reply(v.Msg, 500, "Retry-After: 3\n", "")
			}
			return c.alive(v)
		}), sideB)
		wantTimes(t, got[:3], 300*time.Second, 303*time.Second, 603*time.Second)
		if got[1].CSeq <= got[0].CSeq {
			t.Errorf("CSeq %d after %d", got[1].CSeq, got[0].CSeq)
		}
		c.hangsUp(sideA)
	})
	type outcome struct {
		end time.Duration
		why string
	}
	for mode, want := range map[string]outcome{
		"2xx_only":     {600 * time.Second, reasonTTL},
		"uas_response": {3000 * time.Second, reasonLimit}, // kept, and capped
	} {
		t.Run("for ever, "+mode, func(t *testing.T) {
			inLab(t, 1, withTimers(func(c *config.Timers) {
				c.Alive, c.NoTimerCallDuration = mode, config.Duration(3000*time.Second)
			}), func(t *testing.T, l *lab) {
				c := l.talks(timerLines+updateLines, timerLines+updateLines)
				all := c.runs(want.end+2*time.Second, func(v visit) string {
					if v.side == sideB && v.Method != wire.BYE {
						return c.reply(v.Msg, 500, "", "")
					}
					return c.alive(v)
				})
				c.endedBy(all, want.end, want.why)
				c.gone()
			})
		})
	}
}

// A row is one row of the table C.5: what the callee says to its first probe; it
// is silent to all others.
type row struct {
	status int
	lines  string
	next   string                               // the next probe
	after  time.Duration                        // its time after the answer
	until  time.Duration                        // and until, 0 = the same
	ends   time.Duration                        // the BYE, with alive: uas_response
	strict struct{ after, until time.Duration } // where it differs with 2xx_only
}

func TestAnswersToAProbe(t *testing.T) {
	const s = time.Second
	unknown := func(status int) row { return row{status: status, next: "UPDATE", after: 10 * s, ends: 600 * s} }
	refuses := func(status int) row { return row{status: status, next: "OPTIONS", ends: 900 * s} }
	repeated := func(status int) row {
		r := row{status: status, next: "UPDATE", after: 2 * s, ends: 600 * s}
		r.strict.after = 10 * s
		return r
	}
	challenges := func(status int) row {
		r := row{status: status, next: "OPTIONS", after: 300 * s, ends: 900 * s}
		r.strict.after = 10 * s
		return r
	}
	rows := []row{
		{status: 200, next: "UPDATE", after: 300 * s, ends: 900 * s},
		{status: 481, next: "BYE", ends: 300 * s},
		repeated(404), repeated(410), repeated(604),
		unknown(408), unknown(480), unknown(483), unknown(503), unknown(504), unknown(302), unknown(486), unknown(603),
		{status: 503, lines: "Retry-After: 60\n", next: "UPDATE", after: 60 * s, ends: 600 * s},
		{status: 503, lines: "Retry-After: 3600\n", next: "UPDATE", after: 133 * s, ends: 600 * s}, // half of what is left
		{status: 491, next: "UPDATE", after: 2100 * time.Millisecond, until: 4 * s, ends: 900 * s},
		{status: 500, next: "UPDATE", after: s, ends: 900 * s},
		{status: 500, lines: "Retry-After: 5\n", next: "UPDATE", after: 5 * s, ends: 900 * s},
		{status: 500, lines: "Retry-After: 60\n", next: "UPDATE", after: 10 * s, ends: 900 * s},
		{status: 422, lines: "Min-SE: 3600\n", next: "UPDATE", ends: 900 * s},
		refuses(405), refuses(501),
		refuses(400), refuses(403), refuses(406), refuses(415), refuses(420), refuses(488), refuses(493), refuses(606),
		challenges(401), challenges(407),
	}
	for _, r := range rows {
		for _, mode := range []string{"uas_response", "2xx_only"} {
			t.Run(fmt.Sprintf("%d %s%s", r.status, r.lines, mode), func(t *testing.T) {
				if mode == "2xx_only" {
					if r.strict.after != 0 {
						r.after, r.until = r.strict.after, r.strict.until
					}
					if r.status != 200 && r.status != 481 {
						r.ends = 600 * s
					}
				}
				inLab(t, 1, withTimers(func(c *config.Timers) { c.Alive = mode }), func(t *testing.T, l *lab) {
					r.check(t, l)
				})
			})
		}
	}
	t.Run("408 ends", func(t *testing.T) {
		inLab(t, 1, withTimers(func(c *config.Timers) { c.On408 = "end" }), func(t *testing.T, l *lab) {
			row{status: 408, next: "BYE", ends: 300 * s}.check(t, l)
		})
	})
}

func (r row) check(t *testing.T, l *lab) {
	t.Helper()
	c := l.talks(timerLines+updateLines+expiresLine, timerLines+updateLines+agreedLines)
	answered := time.Duration(0)
	all := c.runs(r.ends+5*time.Second, func(v visit) string {
		switch {
		case v.side == sideA || v.Method == wire.BYE:
			return c.alive(v)
		case answered == 0:
			answered = v.at
			if r.status == 200 {
				return c.alive(v)
			}
			return c.reply(v.Msg, r.status, r.lines, "")
		}
		return ""
	})
	got := of(all, sideB)
	if len(got) < 2 {
		t.Fatal(all)
	}
	d := got[1].at - answered
	if title(got[1].Msg) != r.next || d < r.after-20*time.Millisecond || d > max(r.after, r.until)+600*time.Millisecond {
		t.Errorf("%v follows the answer after %v, want %s after %v", got[1], d, r.next, r.after)
	}
	if r.status == 422 && string(got[1].Value(wire.KindSessionExpires)) != "3600;refresher=uac" {
		t.Errorf("Session-Expires %q", got[1].Value(wire.KindSessionExpires))
	}
	end := got[len(got)-1]
	if end.Method != wire.BYE || end.at < r.ends || end.at > r.ends+time.Second {
		t.Errorf("%v, want a BYE at %v", end, r.ends)
	}
	c.gone()
}

func TestDialogSaidToBeGoneTwiceIsGone(t *testing.T) {
	for mode, end := range map[string]time.Duration{"2xx_only": 600 * time.Second, "uas_response": 302 * time.Second} {
		t.Run(mode, func(t *testing.T) {
			inLab(t, 1, withTimers(func(c *config.Timers) { c.Alive = mode }), func(t *testing.T, l *lab) {
				c := l.talks(timerLines+updateLines, timerLines+updateLines)
				all := c.runs(end+3*time.Second, func(v visit) string {
					if v.side == sideB {
						return c.reply(v.Msg, 404, "", "")
					}
					return c.alive(v)
				})
				got := of(all, sideB)
				if end := got[len(got)-1]; end.Method != wire.BYE || end.at < 302*time.Second {
					t.Errorf("%v", got)
				}
				if n := len(got); mode == "uas_response" && n != 3 {
					t.Errorf("%v", got)
				}
				c.gone()
			})
		})
	}
	t.Run("but not by one", func(t *testing.T) {
		inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
			c := l.talks(timerLines+updateLines, timerLines+updateLines)
			n := 0
			c.runs(2000*time.Second, func(v visit) string {
				if v.side == sideB {
					if n++; n%2 == 1 {
						return c.reply(v.Msg, 404, "", "")
					}
				}
				return c.alive(v)
			})
			c.hangsUp(sideA)
		})
	})
}

// A leg that gave a better proof once is capped all the same when it gives weak ones
// only: whoever challenges everything may know nothing of the call any more. The time
// counts from the last better proof, so that no call is found to be overdue.
func TestWeakProofsAreCappedAfterBetterOnes(t *testing.T) {
	for name, worse := range map[string]func(c *talk, v visit) string{
		"challenged": func(c *talk, v visit) string {
			return c.reply(v.Msg, 401, "WWW-Authenticate: Digest realm=\"x\", nonce=\"y\"\n", "")
		},
		"refused": func(c *talk, v visit) string { return c.reply(v.Msg, 500, "", "") },
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, 1, withLab(600*time.Second, 1800*time.Second), func(t *testing.T, l *lab) {
				c := l.talks(timerLines+updateLines, timerLines+updateLines)
				proof := time.Duration(0)
				all := c.runs(4900*time.Second, func(v visit) string {
					switch {
					case v.side == sideA || v.Method == wire.BYE:
					case v.at > 3100*time.Second:
						return worse(c, v)
					default:
						proof = v.at
					}
					return c.alive(v)
				})
				c.endedBy(all, proof.Truncate(time.Second)+1800*time.Second, reasonLimit)
				c.gone()
			})
		})
	}
}

// A PBX that asks for credentials keeps the call, capped, and costs one log line.
func TestChallengedProbe(t *testing.T) {
	for _, always := range []bool{false, true} {
		t.Run(fmt.Sprint("OPTIONS too: ", always), func(t *testing.T) {
			inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
				c := l.talks(timerLines+updateLines, timerLines+updateLines)
				all := c.runs(7202*time.Second, func(v visit) string {
					if v.side == sideB && (v.Method == wire.UPDATE || v.Method == wire.OPTIONS && always) {
						return c.reply(v.Msg, 407, "Proxy-Authenticate: Digest realm=\"x\", nonce=\"y\"\n", "")
					}
					return c.alive(v)
				})
				c.endedBy(all, 7200*time.Second, reasonLimit)
				got := of(all, sideB)
				if n := strings.Count(come(got), "UPDATE"); n != 1 {
					t.Errorf("UPDATE was sent %d times", n)
				}
				if n := strings.Count(come(got), "OPTIONS"); n != 22 {
					t.Errorf("OPTIONS was sent %d times", n)
				}
				for _, v := range all {
					if v.First(wire.KindAuthorization) >= 0 || v.First(wire.KindProxyAuthorization) >= 0 {
						t.Errorf("credentials: %s", v.Buf)
					}
				}
				if n := len(l.lines("probe challenged")); n != 1 {
					t.Errorf("%d lines about the challenge", n)
				}
				c.gone()
			})
		})
	}
}

// A method that a leg does not know is not tried again in that call.
func TestRefusedMethodIsRemembered(t *testing.T) {
	for _, status := range []int{405, 501} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			inLab(t, 1, withTimers(func(c *config.Timers) { c.ProbeMethods = []string{"reinvite", "update", "options"} }), func(t *testing.T, l *lab) {
				c := l.talks(timerLines+updateLines, timerLines+updateLines)
				refusal := func(v visit) string {
					if v.side == sideB && (v.Method == wire.INVITE || v.Method == wire.UPDATE) {
						return c.reply(v.Msg, status, "", "")
					}
					return c.alive(v)
				}
				got := of(c.runs(1000*time.Second, refusal), sideB)
				if want := "INVITE ACK UPDATE OPTIONS OPTIONS OPTIONS"; come(got) != want {
					t.Fatalf("%s, want %s", come(got), want)
				}
				for _, v := range got[:4] {
					if !about(v.at, 300*time.Second) {
						t.Errorf("%v", v)
					}
				}
				c.asks(sideA, "INFO", "", "", 200, "")
				if got := of(c.runs(2000*time.Second, refusal), sideB); come(got) != "OPTIONS OPTIONS OPTIONS OPTIONS" && come(got) != "OPTIONS OPTIONS OPTIONS" {
					t.Error(got)
				}
				c.hangsUp(sideA)
			})
		})
	}
}

// UPDATE that is in Allow but never answered does not end a call whose two ends
// live, and is given up where the leg answers otherwise (spec B).
func TestUnansweredUpdateIsReplaced(t *testing.T) {
	for _, side := range []int{sideA, sideB} {
		t.Run(sideNames[side], func(t *testing.T) {
			inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
				c := l.talks(timerLines+updateLines, timerLines+updateLines)
				got := of(c.runs(4000*time.Second, func(v visit) string {
					if v.side == side && v.Method == wire.UPDATE {
						return ""
					}
					return c.alive(v)
				}), side)
				// The callee has answered the INVITE, the caller nothing before our OPTIONS.
				if n, most := strings.Count(come(got), "UPDATE"), [2]int{4, 2}[side]; n != most || strings.Count(come(got), "OPTIONS") < 10 {
					t.Errorf("%d UPDATEs, want %d: %s", n, most, come(got))
				}
				c.hangsUp(sideA)
			})
		})
	}
}

// What else proves that a leg lives also lets it be asked again, when all retries
// were spent.
func TestOtherProofAfterTheLastRetry(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines, timerLines+updateLines)
		c.runs(599*time.Second, c.mute(sideB))
		c.asks(sideA, "INFO", "", "", 200, "")
		all := c.runs(3000*time.Second, c.alive)
		if x := of(all, sideB); len(x) < 7 || !about(x[0].at, 899*time.Second) {
			t.Error(x)
		}
		c.hangsUp(sideA)
	})
}

func TestProbeMethods(t *testing.T) {
	for _, x := range []struct {
		methods string
		allow   string
		want    string // the first probe of the callee
	}{
		{"update reinvite options", updateLines, "UPDATE"},
		{"update reinvite options", plainLines, "INVITE"},
		{"update options", plainLines, "OPTIONS"},
		{"reinvite update options", updateLines, "INVITE"},
		{"options update", updateLines, "OPTIONS"},
		{"update", plainLines, ""},
		{"reinvite", updateLines, "INVITE"},
	} {
		t.Run(x.methods+" "+fmt.Sprint(x.allow == updateLines), func(t *testing.T) {
			inLab(t, 1, withTimers(func(c *config.Timers) { c.ProbeMethods = strings.Fields(x.methods) }), func(t *testing.T, l *lab) {
				c := l.talks(timerLines+updateLines, timerLines+x.allow)
				got := of(c.runs(310*time.Second, c.alive), sideB)
				if x.want == "" {
					if len(got) != 0 {
						t.Error(got)
					}
					return
				}
				if len(got) == 0 || title(got[0].Msg) != x.want || !about(got[0].at, 300*time.Second) {
					t.Errorf("%v, want %s", got, x.want)
				}
				c.hangsUp(sideA)
			})
		})
	}
}

// A leg that no method fits is not watched, so that the passive limit applies.
func TestLegWithoutProbeMethodIsCapped(t *testing.T) {
	inLab(t, 1, withTimers(func(c *config.Timers) { c.ProbeMethods = []string{"update"} }), func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines, timerLines+plainLines)
		all := c.runs(7202*time.Second, c.alive)
		if got := of(all, sideB); come(got) != "BYE" {
			t.Error(got)
		}
		c.endedBy(all, 7200*time.Second, reasonLimit)
		c.gone()
	})
}

func TestProbeLegs(t *testing.T) {
	for _, legs := range []string{"a", "b"} {
		t.Run(legs, func(t *testing.T) {
			inLab(t, 1, withTimers(func(c *config.Timers) { c.ProbeLegs, c.InsertSE = legs, "never" }), func(t *testing.T, l *lab) {
				c := l.talks(timerLines+updateLines, timerLines+updateLines)
				probed := map[string]int{"a": sideA, "b": sideB}[legs]
				all := c.runs(8000*time.Second, c.alive)
				if n := len(of(all, probed)); n != 26 || len(all) != n {
					t.Errorf("%d probes of %s, %d of the other side", n, legs, len(all)-n)
				}
				c.hangsUp(sideA)
			})
			inLab(t, 1, withTimers(func(c *config.Timers) { c.ProbeLegs, c.InsertSE = legs, "never" }), func(t *testing.T, l *lab) {
				c := l.talks(timerLines+updateLines, timerLines+updateLines)
				probed := map[string]int{"a": sideA, "b": sideB}[legs]
				c.endedBy(c.runs(602*time.Second, c.mute(probed)), 600*time.Second, reasonTTL)
				c.gone()
			})
		})
	}
}

// options_stale spends no number, so that nothing has ever to be translated; a 500
// is what it is meant to get.
func TestStaleOptions(t *testing.T) {
	inLab(t, 1, withTimers(func(c *config.Timers) {
		c.ProbeMethods, c.NoTimerCallDuration = []string{"options_stale"}, 0
	}), func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines, timerLines+updateLines)
		stale := func(v visit) string {
			if v.Method != wire.BYE {
				return c.reply(v.Msg, 500, "", "")
			}
			return c.alive(v)
		}
		if all := c.runs(1000*time.Second, stale); len(all) != 0 { // no number below the INVITE's
			t.Fatal(all)
		}
		for range 3 {
			if got := c.asks(sideA, "INFO", "", "", 200, ""); int(got.CSeq) != c.cseq[sideA] {
				t.Errorf("INFO with CSeq %d was sent on with %d", c.cseq[sideA], got.CSeq)
			}
			if got := c.asks(sideB, "INFO", "", "", 200, ""); int(got.CSeq) != c.cseq[sideB] {
				t.Errorf("INFO with CSeq %d was sent on with %d", c.cseq[sideB], got.CSeq)
			}
		}
		all := c.runs(3000*time.Second, stale)
		if len(all) < 12 {
			t.Error(all)
		}
		for _, v := range all {
			// The caller asked with 1 to 4, the callee with 1 to 3.
			if want := uint32(2 + v.side); v.Method != wire.OPTIONS || v.CSeq != want {
				t.Errorf("%v with CSeq %d, want %d", v, v.CSeq, want)
			}
		}
		if got := c.asks(sideA, "INFO", "", "", 200, ""); got.CSeq != 5 {
			t.Errorf("INFO was sent on with CSeq %d", got.CSeq)
		}
		all = c.runs(4500*time.Second, c.mute(sideA))
		if len(all) == 0 || all[len(all)-1].Method != wire.BYE {
			t.Error(all)
		}
		c.gone()
	})
}

// One segment would put the probe on the deadline: it goes 64 s before.
func TestOneSegment(t *testing.T) {
	inLab(t, 1, withTimers(func(c *config.Timers) { c.SessionUpdateSegment = 1 }), func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines, timerLines+updateLines)
		got := of(c.runs(1100*time.Second, c.alive), sideB)
		wantTimes(t, got, 536*time.Second, 1072*time.Second)
		c.hangsUp(sideA)
	})
	inLab(t, 1, withTimers(func(c *config.Timers) { c.SessionUpdateSegment = 1 }), func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines, timerLines+updateLines)
		c.endedBy(c.runs(602*time.Second, c.mute(sideB)), 600*time.Second, reasonTTL)
		c.gone()
	})
}

func TestProbeJitterStaysInItsBounds(t *testing.T) {
	inLab(t, 1, func(c *config.Config) { c.Timers.ProbeJitter = 10 }, func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines, timerLines+updateLines)
		lo, hi, last := time.Hour, time.Duration(0), time.Duration(0)
		for _, v := range of(c.runs(15000*time.Second, c.alive), sideB) {
			d := v.at - last
			lo, hi, last = min(lo, d), max(hi, d), v.at
		}
		if lo < 269900*time.Millisecond || hi > 330600*time.Millisecond {
			t.Errorf("intervals from %v to %v", lo, hi)
		}
		if hi-lo < 20*time.Second { // 50 draws from 60 s
			t.Errorf("intervals from %v to %v are no jitter", lo, hi)
		}
		c.hangsUp(sideA)
	})
}

// The edge sends fewer probes than it should: that is its fault, not the calls'.
func TestOwnOverloadEndsNoCall(t *testing.T) {
	inLab(t, 1, withTimers(func(c *config.Timers) { c.ProbeRateMax, c.SessionTTL = 1, 120e9 }), func(t *testing.T, l *lab) {
		var all []*talk
		for range 200 {
			all = append(all, l.talks(timerLines+updateLines, timerLines+updateLines))
		}
		c := all[0]
		n := len(c.runs(900*time.Second, c.alive)) // 400 legs at one a second
		if n < 700 || n > 900 {
			t.Errorf("%d probes", n)
		}
		if got := l.e.CallStats().Concurrent; got != len(all) {
			t.Errorf("%d of %d calls live: %s", got, len(all), l.lines("Call ended"))
		}
		// One that is really dead still ends once it was asked.
		silent := c.runs(3000*time.Second, func(v visit) string {
			if v.side == sideB && string(v.Bytes(v.CallID)) == c.id && v.Method != wire.BYE {
				return ""
			}
			return c.alive(v)
		})
		byes := 0
		for _, v := range silent {
			if v.Method == wire.BYE {
				byes++
				if string(v.Bytes(v.CallID)) != c.id {
					t.Errorf("a living call got %v", v)
				}
			}
		}
		if byes != 2 {
			t.Errorf("%d BYEs", byes)
		}
	})
}

// With the end of the interval of RFC 4028 the edge looks for itself, forgets the
// call, or ends it.
func TestG32SessionExpires(t *testing.T) {
	const caller, callee = timerLines + updateLines + "Session-Expires: 90\n", timerLines + updateLines + "Session-Expires: 90;refresher=uac\nRequire: timer\n"
	t.Run("probe", func(t *testing.T) {
		inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
			c := l.talks(caller, callee)
			all := c.runs(1000*time.Second, c.alive)
			if !isOnly(all, "UPDATE") || len(of(all, sideB)) != 10 {
				t.Error(all)
			}
			wantTimes(t, of(all, sideB)[:2], 95*time.Second, 190*time.Second)
			c.hangsUp(sideA)
		})
	})
	t.Run("probe, and the refresher is dead", func(t *testing.T) {
		inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
			c := l.talks(caller, callee)
			c.endedBy(c.runs(602*time.Second, c.mute(sideA)), 600*time.Second, reasonTTL)
			c.gone()
		})
	})
	t.Run("drop_state", func(t *testing.T) {
		inLab(t, 1, withTimers(func(c *config.Timers) { c.OnSEExpiry, c.MaxCallDuration = "drop_state", 3000e9 }), func(t *testing.T, l *lab) {
			c := l.talks(caller, callee)
			if all := c.runs(4000*time.Second, c.mute(sideA)); len(all) != 0 {
				t.Error(all)
			}
			if c.why() != "state_dropped" {
				t.Error(c.why())
			}
			// The endpoints' own BYE passes without it.
			c.asks(sideA, "BYE", "", "", 200, "")
			c.gone()
		})
	})
	t.Run("bye", func(t *testing.T) {
		inLab(t, 1, withTimers(func(c *config.Timers) { c.OnSEExpiry = "bye" }), func(t *testing.T, l *lab) {
			c := l.talks(caller, callee)
			c.endedBy(c.runs(97*time.Second, c.alive), 95*time.Second, `SIP;cause=408;text="session refresh failed";key=on_se_expiry`)
			c.gone()
		})
	})
}
