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
			if got := string(bye.Value(wire.KindReason)); got != reasonLimit {
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

// A fork bomb: a thousand To tags for one INVITE. The edge keeps sixteen of them, and
// the one that answers is among them.
func TestG54ForkBomb(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.rings(timerLines)
		for i := range 1000 {
			c.b.answers(c.invite, 180+i%2*3, fmt.Sprintf("bomb%d", i), "Contact: <sip:bob@"+c.b.addr.String()+">\r\n")
			c.a.get([]string{"180 INVITE", "183 INVITE"}[i%2])
			if n := l.e.dialogs.Len(); n > 16 {
				t.Fatalf("%d records after %d tags", n, i+1)
			}
		}
		c.answers(timerLines + updateLines)
		c.acks()
		if n := l.e.dialogs.Len(); n > 16 {
			t.Fatalf("%d records", n)
		}
		if x := l.e.Calls(CallFilter{}); len(x) != 1 || x[0].State != "confirmed" {
			t.Fatalf("%+v", x)
		}
		pass(38 * time.Second)             // C.7: the others wait 64*T1 + 5 s for a late 2xx
		if n := l.e.dialogs.Len(); n > 2 { // the first one, which is the call's, and the answered one
			t.Errorf("%d records after the answer", n)
		}
		c.hangsUp(sideB)
	})
}

// A thousand answers to one INVITE: as many are passed on as there is place for in the
// store. Who of the others is real hangs up by himself for want of an ACK.
func TestManyAnswersToOneInvite(t *testing.T) {
	inLab(t, 1, withTimers(func(c *config.Timers) { c.MaxCallDuration = 60e9 }), func(t *testing.T, l *lab) {
		b := l.records()
		c := l.rings("")
		for i := range 1000 {
			c.b.answers(c.invite, 200, fmt.Sprintf("bomb%d", i), "Contact: <sip:bob@"+c.b.addr.String()+">\r\n")
			if i >= 16 {
				c.a.nothing()
				continue
			}
			c.a.get("200 INVITE")
			if n := l.e.dialogs.Len(); n != i+1 {
				t.Fatalf("%d records after %d answers", n, i+1)
			}
		}
		pass(10 * time.Minute)
		c.a.skip()
		c.b.skip()
		c.gone()
		b.only()
	})
}

// Half-open dialogs end with the ring limit, those of every fork, and the backend
// that never answers is told.
func TestHalfOpenDialogsEndWithTheRingLimit(t *testing.T) {
	change := func(c *config.Config) {
		c.Timers.MaxRingDuration = 60e9
		c.Transaction.TimerC = 200e9
	}
	inLab(t, 1, change, func(t *testing.T, l *lab) {
		b := l.records()
		const calls = 50
		var all []*talk
		for range calls {
			c := l.rings(timerLines)
			for _, tag := range []string{"x", "y"} {
				c.b.answers(c.invite, 180, tag)
				c.a.get("180 INVITE")
			}
			all = append(all, c)
		}
		if n := l.e.dialogs.Len(); n != 2*calls {
			t.Fatalf("%d records", n)
		}
		for range 11 { // they go on ringing
			pass(5 * time.Second)
			for _, c := range all {
				c.b.answers(c.invite, 180, "x")
			}
		}
		l.phone.skip()
		if n := l.e.dialogs.Len(); n != 2*calls {
			t.Errorf("%d records before the limit", n)
		}
		pass(40 * time.Second) // and say nothing to the CANCEL
		if n := l.e.dialogs.Len(); n != 0 {
			t.Errorf("%d records after the limit", n)
		}
		for _, r := range b.all() {
			if r.Reason != "max_ring_duration" || r.EndedBy != "edge" || r.Status != 408 {
				t.Errorf("%+v", r)
			}
		}
		if n := len(b.all()); n != calls {
			t.Errorf("%d records", n)
		}
		l.pbx[0].skip()
		pass(200 * time.Second)
		l.atRest()
	})
}

// At max_dialogs a new call gets 503 with Retry-After; what runs goes on, and the
// place of a call that ended is free.
func TestFullStoreRefusesNewCallsOnly(t *testing.T) {
	change := func(c *config.Config) {
		c.Timers.ProbeJitter = 0
		c.Limits.MaxDialogs = 3
	}
	inLab(t, 1, change, func(t *testing.T, l *lab) {
		b := l.records()
		calls := []*talk{l.talksIn("R"), l.talksIn("N"), l.talksIn("P")}
		refused := l.phone.call()
		refused.sends("INVITE")
		m := l.phone.get("503 INVITE")
		if m.First(wire.KindRetryAfter) < 0 {
			t.Errorf("%s", m.Buf)
		}
		if s := l.e.CallStats(); s.Attempts != 3 || l.e.Counters().DialogsFull != 1 || len(b.all()) != 0 {
			t.Errorf("%+v", s)
		}
		l.pbx[0].nothing()
		for _, c := range calls {
			c.asks(sideA, "INFO", "", "", 200, "")
			c.asks(sideB, "INVITE", "Contact: <sip:bob@"+c.b.addr.String()+">\n", "", 200, "Contact: <sip:alice@"+c.a.addr.String()+">\n")
			c.from(sideB, "ACK", c.cseq[sideB], "", "")
			c.a.get("ACK")
		}
		calls[0].attends(400*time.Second, nil) // of the other one too, they share the sockets
		calls[1].asks(sideB, "BYE", "", "", 200, "")
		again := l.talksIn("N")
		again.asks(sideA, "BYE", "", "", 200, "")
		calls[0].asks(sideA, "BYE", "", "", 200, "")
		calls[2].hangsUp(sideB)
	})
}

// An emergency call is taken at max_dialogs too.
func TestFullStoreTakesEmergencyCalls(t *testing.T) {
	change := func(c *config.Config) { c.Limits.MaxDialogs, c.Limits.Emergency = 8, []string{"112"} }
	inLab(t, 1, change, func(t *testing.T, l *lab) {
		for range 8 {
			l.talksIn("N")
		}
		l.phone.call().sends("INVITE")
		l.phone.get("503 INVITE")
		c := l.phone.call()
		c.uri = "sip:112@example.org"
		c.sends("INVITE")
		l.phone.get("100 INVITE")
		l.pbx[0].get("INVITE")
	})
}

// A reload touches new calls only: limits, methods, everything of `timers:`.
func TestReloadTouchesNewCallsOnly(t *testing.T) {
	old := config.Timers{SessionTTL: 600e9, NoTimerCallDuration: 300e9, MaxCallDuration: 400e9, ProbeMethods: []string{"update"}}
	now := config.Timers{SessionTTL: 60e9, NoTimerCallDuration: 60e9, MaxCallDuration: 100e9, ProbeMethods: []string{"options"}}
	set := func(c *config.Timers, x config.Timers) {
		c.SessionTTL, c.NoTimerCallDuration, c.MaxCallDuration, c.ProbeMethods = x.SessionTTL, x.NoTimerCallDuration, x.MaxCallDuration, x.ProbeMethods
	}
	for _, x := range []struct {
		mode, method string
		isNew        bool
		probe, end   time.Duration
		why          string
	}{
		{"N", "", false, 0, 300 * time.Second, "no_timer_call_duration"}, {"N", "", true, 0, 60 * time.Second, "no_timer_call_duration"},
		{"P", "UPDATE", false, 300 * time.Second, 400 * time.Second, "max_call_duration"}, {"P", "OPTIONS", true, 30 * time.Second, 60 * time.Second, "no_timer_call_duration"},
	} {
		t.Run(fmt.Sprintf("%s new %v", x.mode, x.isNew), func(t *testing.T) {
			inLab(t, 1, withTimers(func(c *config.Timers) { set(c, old) }), func(t *testing.T, l *lab) {
				reload := func() {
					c := *l.e.snap.Load().config
					set(&c.Timers, now)
					if err := l.e.Reload(&c); err != nil {
						t.Fatal(err)
					}
				}
				if x.isNew {
					reload()
				}
				c := l.talksIn(x.mode)
				if !x.isNew {
					reload()
				}
				all := c.attends(x.end+5*time.Second, nil)
				if x.method != "" && (len(all) == 0 || title(all[0].m) != x.method || !near(all[0].at, x.probe)) {
					t.Errorf("first of all came %v", titles(all))
				}
				for _, s := range c.byes(all) {
					if !near(s.at, x.end) {
						t.Errorf("BYE after %v", s.at)
					}
				}
				c.gone()
				if got := c.why(); got != x.why {
					t.Error(got)
				}
			})
		})
	}
}

// max_calls and least_calls count records: a full backend is passed over, with none
// left a new call gets 503, and a call that ended counts no more.
func TestMaxCallsAndLeastCalls(t *testing.T) {
	change := func(c *config.Config) {
		c.Timers.ProbeJitter = 0
		p := c.Pools["pbx"]
		p.Policy = "least_calls"
		for i := range p.Backends {
			p.Backends[i].Priority, p.Backends[i].MaxCalls = 0, []int{1, 3, 2}[i]
		}
		c.Pools["pbx"] = p
	}
	inLab(t, 3, change, func(t *testing.T, l *lab) {
		tallies := func(want ...int) {
			t.Helper()
			for i, b := range l.e.snap.Load().pools.Pool("pbx").Backends() {
				if b.Calls() != want[i] {
					t.Errorf("%s has %d calls, want %d", b.Name(), b.Calls(), want[i])
				}
			}
		}
		var at [3][]*talk
		place := func() int {
			t.Helper()
			callNumber++
			c := &talk{lab: l, id: fmt.Sprintf("talk-%d", callNumber), a: l.phone, cseq: [2]int{1, 0}}
			c.a.sends(c.text(sideA, "INVITE", 1, "Contact: <sip:alice@"+c.a.addr.String()+">\n", sdpA, "sip:bob@example.org", "", ""))
			c.a.get("100 INVITE")
			for i, p := range l.pbx {
				if m := p.gets(); m != nil {
					c.b, c.invite = p, m
					c.answers("")
					c.acks()
					at[i] = append(at[i], c)
					return i
				}
			}
			c.a.get("503 INVITE")
			c.a.sends(strings.Replace(c.text(sideA, "ACK", 1, "", "", "sip:bob@example.org", "", "x"), fmt.Sprintf("-%d;", c.branch), "-1;", 1))
			return -1
		}
		for range 3 { // one each
			place()
		}
		tallies(1, 1, 1)
		for range 2 { // the first is full
			place()
		}
		tallies(1, 2, 2)
		if got := place(); got != 1 {
			t.Errorf("went to %d", got)
		}
		tallies(1, 3, 2)
		for range 2 {
			if got := place(); got != -1 {
				t.Errorf("went to %d", got)
			}
		}
		tallies(1, 3, 2)
		for _, c := range at[1] { // what runs goes on
			c.asks(sideB, "INVITE", "Contact: <sip:bob@"+c.b.addr.String()+">\n", "", 200, "Contact: <sip:alice@"+c.a.addr.String()+">\n")
			c.from(sideB, "ACK", c.cseq[sideB], "", "")
			c.a.get("ACK")
		}
		at[1][0].asks(sideA, "BYE", "", "", 200, "")
		at[1][1].asks(sideB, "BYE", "", "", 200, "")
		tallies(1, 1, 2)
		for range 2 {
			if got := place(); got != 1 {
				t.Errorf("went to %d", got)
			}
		}
		tallies(1, 3, 2)
		pass(7300 * time.Second) // the passive limit ends them all
		for _, p := range append(l.pbx, l.phone) {
			p.skip()
		}
		tallies(0, 0, 0)
		pass(100 * time.Second)
		l.atRest()
	})
}
