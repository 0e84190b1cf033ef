package proxy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/cdr"
	"github.com/sipward/sipward/proxy/wire"
)

// Header lines of endpoints whose calls get each mode.
const (
	refreshes   = timerLines + updateLines + "Session-Expires: 1800\n"
	refreshesOK = timerLines + updateLines + "Session-Expires: 1800;refresher=uac\nRequire: timer\n"
)

// talksIn makes a call of a mode: R, P or N.
func (l *lab) talksIn(mode string) *talk {
	l.Helper()
	switch mode {
	case "R":
		return l.talks(refreshes, refreshesOK)
	case "P":
		return l.talks(updateLines, timerLines+updateLines)
	}
	return l.talks(plainLines, plainLines)
}

// A book is the call records of a lab.
type book struct {
	*lab
	out *logLines
	w   *cdr.Writer
}

// A callRecord is one of them as a reader sees it.
type callRecord struct {
	CallID                                        string `json:"call_id"`
	From, To, RURI, Src, Transport, Pool, Backend string
	Start, Answer, End                            *time.Time
	SetupMS                                       int `json:"setup_ms"`
	Duration                                      float64
	Status                                        int
	EndedBy                                       string `json:"ended_by"`
	Reason, Mode                                  string
	LastVerified                                  *time.Time `json:"last_verified"`
}

// records has the edge write call records, which the book keeps.
func (l *lab) records() *book {
	l.Helper()
	b := &book{lab: l, out: &logLines{}}
	w, err := cdr.Open(config.CDR{Output: "stdout"}, cdr.Options{Stdout: b.out})
	if err != nil {
		l.Fatal(err)
	}
	b.w, l.e.records = w, w
	l.Cleanup(func() {
		if err := w.Close(); err != nil {
			l.Error(err)
		}
	})
	return b
}

func (b *book) all() (all []callRecord) {
	b.Helper()
	b.w.Flush()
	for line := range strings.Lines(b.out.text()) {
		var r callRecord
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			b.Fatalf("%v in %s", err, line)
		}
		all = append(all, r)
	}
	return all
}

// only is the record of the only call.
func (b *book) only() callRecord {
	b.Helper()
	all := b.all()
	if len(all) != 1 {
		b.Fatalf("%d records: %+v", len(all), all)
	}
	return all[0]
}

// seen is a message that the edge sent to a side, and when, from the answer on.
type seen struct {
	side int
	m    *wire.Msg
	at   time.Duration
}

// since is the time since the answer.
func (t *talk) since() time.Duration { return t.e.wheel.Now() - t.answeredAt }

// attends lets the clock run to a time after the answer and has both sides answer
// what comes to them: with the status that answer says, 0 for silence; nil stands
// for 200. It returns what came.
func (t *talk) attends(until time.Duration, answer func(side int, m *wire.Msg) int) (all []seen) {
	t.Helper()
	for ; t.since() < until; pass(min(50*time.Millisecond, until-t.since())) {
		all = append(all, t.answersAll(answer)...)
	}
	return append(all, t.answersAll(answer)...)
}

func (t *talk) answersAll(answer func(side int, m *wire.Msg) int) (all []seen) {
	for side := range 2 {
		for m := t.peer(side).getsWithin(0); m != nil; m = t.peer(side).getsWithin(0) {
			all = append(all, seen{side, m, t.since()})
			status := 200
			if answer != nil {
				status = answer(side, m)
			}
			if m.IsRequest() && status != 0 && m.Method != wire.ACK {
				t.peer(side).sends(t.reply(m, status, echoed(m, status), ""))
			}
		}
	}
	return all
}

// echoed are the header lines of an answer that keeps the session timer.
func echoed(m *wire.Msg, status int) string {
	if v := m.Value(wire.KindSessionExpires); status == 200 && v != nil {
		return "Session-Expires: " + string(v) + "\nRequire: timer\n"
	}
	return ""
}

// silence is an endpoint that is gone.
func silence(int, *wire.Msg) int { return 0 }

// byes are the first BYE of each side; it fails without both.
func (t *talk) byes(all []seen) (first [2]seen) {
	t.Helper()
	for _, x := range all {
		if title(x.m) == "BYE" && first[x.side].m == nil {
			first[x.side] = x
		}
	}
	if first[sideA].m == nil || first[sideB].m == nil {
		t.Fatalf("no BYE to both: %v", titles(all))
	}
	return first
}

func titles(all []seen) (s []string) {
	for _, x := range all {
		s = append(s, fmt.Sprintf("%v %c %s", x.at, "AB"[x.side], title(x.m)))
	}
	return s
}

// near says whether a time is the expected one: timers may be late by little.
func near(got, want time.Duration) bool { return got >= want && got <= want+time.Second }

func TestG41PassiveLimit(t *testing.T) {
	inLab(t, 1, withTimers(func(c *config.Timers) { c.NoTimerCallDuration = 8e9 }), func(t *testing.T, l *lab) {
		b := l.records()
		c := l.talks("", "")
		c.until(7900 * time.Millisecond)
		c.a.nothing()
		c.b.nothing()
		for _, side := range []int{sideB, sideA} {
			bye, at := c.probed(side, "BYE", time.Second, 200, "", "")
			if got := string(bye.Value(wire.KindReason)); got != `Q.850;cause=31;text="max call duration";key=no_timer_call_duration` {
				t.Errorf("Reason: %s", got)
			}
			if !near(at, 8*time.Second) {
				t.Errorf("BYE after %v", at)
			}
		}
		c.gone()
		if got := c.why(); got != "no_timer_call_duration" {
			t.Error(got)
		}
		if r := b.only(); r.Duration < 8 || r.Duration > 8.5 || r.Mode != "N" || r.EndedBy != "edge" {
			t.Errorf("the record: %+v", r)
		}
	})
}

// Every combination of mode, max_call_duration and no_timer_call_duration, with
// endpoints that answer every probe.
func TestG42TheFirstArmedLimitEndsTheCall(t *testing.T) {
	type limits struct{ maxCall, noTimer int }
	for _, mode := range []string{"N", "P", "R"} {
		for _, x := range []limits{{0, 0}, {0, 8}, {5, 0}, {5, 8}, {8, 8}, {9, 8}} {
			want, why := 0, ""
			switch {
			case mode == "N" && x.noTimer > 0 && (x.maxCall == 0 || x.noTimer < x.maxCall):
				want, why = x.noTimer, "no_timer_call_duration"
			case x.maxCall > 0: // at equal instants the hard limit has it
				want, why = x.maxCall, "max_call_duration"
			}
			t.Run(fmt.Sprintf("%s max %d no timer %d", mode, x.maxCall, x.noTimer), func(t *testing.T) {
				change := withTimers(func(c *config.Timers) {
					c.SessionTTL, c.MaxCallDuration, c.NoTimerCallDuration = 4e9, config.Duration(x.maxCall)*1e9, config.Duration(x.noTimer)*1e9
				})
				inLab(t, 1, change, func(t *testing.T, l *lab) { endsAfter(t, l, mode, want, why) })
			})
		}
	}
}

func endsAfter(t *testing.T, l *lab, mode string, want int, why string) {
	b := l.records()
	c := l.talksIn(mode)
	if got := l.e.Calls(CallFilter{})[0]; got.Mode != mode || got.EndsBy != why && mode == "N" {
		t.Errorf("mode %q, ends by %q", got.Mode, got.EndsBy)
	}
	all := c.attends(30*time.Second, nil)
	probes := 0
	for _, x := range all {
		if title(x.m) == "UPDATE" {
			probes++
		}
	}
	if (probes > 0) != (mode != "N") {
		t.Errorf("%d probes in mode %s", probes, mode)
	}
	if why == "" {
		c.hangsUp(sideB)
		if r := b.only(); r.Reason != "bye" || r.EndedBy != "callee" || r.Duration < 30 || r.Duration > 31 {
			t.Errorf("the record: %+v", r)
		}
		return
	}
	limit := time.Duration(want) * time.Second
	for _, x := range c.byes(all) {
		if !near(x.at, limit) || !strings.HasSuffix(string(x.m.Value(wire.KindReason)), ";key="+why) {
			t.Errorf("BYE after %v:\n%s", x.at, x.m.Buf)
		}
	}
	c.gone()
	if r := b.only(); r.Reason != why || r.EndedBy != "edge" || r.Duration < limit.Seconds() || r.Duration > limit.Seconds()+0.5 || r.Mode != mode {
		t.Errorf("the record: %+v", r)
	}
}

// Where the proof of life runs out at the same instant as the hard limit, that one
// is the reason.
func TestG42AtEqualInstantsTheHardLimitIsTheReason(t *testing.T) {
	change := withTimers(func(c *config.Timers) { c.SessionTTL, c.MaxCallDuration = 8e9, 8e9 })
	inLab(t, 1, change, func(t *testing.T, l *lab) {
		b := l.records()
		c := l.talksIn("P")
		c.byes(c.attends(20*time.Second, silence))
		c.gone()
		if r := b.only(); r.Reason != "max_call_duration" || r.Duration < 8 || r.Duration > 8.5 {
			t.Errorf("%+v", r)
		}
	})
}

// A leg that only ever gives weak proofs keeps the call, up to
// no_timer_call_duration (spec B).
func TestG42WeakProofsAreCapped(t *testing.T) {
	change := withTimers(func(c *config.Timers) { c.SessionTTL, c.NoTimerCallDuration = 4e9, 20e9 })
	inLab(t, 1, change, func(t *testing.T, l *lab) {
		c := l.talksIn("R")
		all := c.attends(30*time.Second, func(side int, m *wire.Msg) int {
			if side == sideB && m.Method != wire.BYE {
				return 401
			}
			return 200
		})
		if x := c.byes(all)[sideB]; !near(x.at, 20*time.Second) {
			t.Errorf("BYE after %v", x.at)
		}
		c.gone()
		if got := c.why(); got != "no_timer_call_duration" {
			t.Error(got)
		}
	})
}

func TestG44EarlyHangup(t *testing.T) {
	change := withTimers(func(c *config.Timers) { c.SessionTTL, c.SessionTimeoutEarlyHangup = 12e9, 3e9 })
	for _, mode := range []string{"P", "R"} {
		t.Run("dead from the start "+mode, func(t *testing.T) {
			inLab(t, 1, change, func(t *testing.T, l *lab) { deadAt(t, l.talksIn(mode), 0) })
		})
		t.Run("dead later "+mode, func(t *testing.T) {
			inLab(t, 1, change, func(t *testing.T, l *lab) {
				c := l.talksIn(mode)
				proof := time.Duration(0)
				for _, x := range c.attends(13*time.Second, nil) {
					if x.side == sideB { // B is the first of the two
						proof = x.at
					}
				}
				deadAt(t, c, proof)
			})
		})
		t.Run("living "+mode, func(t *testing.T) {
			inLab(t, 1, change, func(t *testing.T, l *lab) {
				c := l.talksIn(mode)
				for _, x := range c.attends(5*time.Minute, nil) {
					if title(x.m) != "UPDATE" {
						t.Fatalf("after %v: %s", x.at, title(x.m))
					}
				}
				c.hangsUp(sideA)
			})
		})
	}
}

// deadAt checks that a call whose last proof of life is known ends 9 s later.
func deadAt(t *testing.T, c *talk, proof time.Duration) {
	t.Helper()
	for _, x := range c.byes(c.attends(c.since()+20*time.Second, silence)) {
		if !near(x.at, proof+9*time.Second) {
			t.Errorf("BYE %v after the proof", x.at-proof)
		}
		if got := string(x.m.Value(wire.KindReason)); got != `SIP;cause=408;text="session refresh failed";key=session_ttl` {
			t.Errorf("Reason: %s", got)
		}
	}
	c.gone()
	if got := c.why(); got != "session_ttl" {
		t.Error(got)
	}
}
