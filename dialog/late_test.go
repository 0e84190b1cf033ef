package dialog

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// refuses takes a 2xx whose client transaction is over.
func (l *lab) refuses(tag string) {
	l.Helper()
	var fx Effects
	l.call.Refuse(&fx, l.response(B, 200, tag, "INVITE", 1, "", labSDPB), labTarget, l.now)
	l.take(&fx)
}

// TestRefusedAnswerIsNotInTheWayOfAnother: a target that was given up answers too late, and the one that was tried instead
// of it answers then, with a tag of its own or with the same, as two ways to one PBX may.
func TestRefusedAnswerIsNotInTheWayOfAnother(t *testing.T) {
	for _, tag := range []string{"tb", "tc"} {
		for _, gap := range []time.Duration{0, 300 * time.Second} { // the callee that was refused is there, and is gone
			for _, rings := range []bool{false, true} {
				l := newLab(t)
				l.invites("")
				l.refuses("tb")
				l.refuses("tb")
				if rings {
					l.rings("td", "")
				}
				l.pass(gap)
				l.answers(tag, "")
				l.acks(tag)
				if d := l.call.first; !rings && d.state != confirmed {
					t.Errorf("tag %s after %s: %v", tag, gap, d.state)
				}
				if l.call.answered == 0 {
					t.Errorf("tag %s after %s: the call rings for ever", tag, gap)
				}
				l.pass(7200 * time.Second)
				l.over(NoTimerDuration)
			}
		}
	}
}

// TestRefusedAnswersAreBounded: a callee answers again and again, each time as another one, when its caller has a failure,
// or before that.
func TestRefusedAnswersAreBounded(t *testing.T) {
	for _, early := range []int{0, 1, 16} {
		for _, fails := range []bool{true, false} {
			l := newLab(t, func(p *timers.Policy) { p.MaxEarly = early })
			l.invites("")
			if fails {
				l.fails()
			}
			for i := range 1000 {
				l.refuses(fmt.Sprint("t", i))
			}
			if n := l.s.Len(); n < 2 || n > 2+early {
				t.Errorf("max_early_per_invite %d: %d dialogs", early, n)
			}
			if n := len(l.acts); n < 2 || n > 2*(2+early) {
				t.Errorf("max_early_per_invite %d: %d requests", early, n)
			}
			if !fails {
				l.answers("tb", "") // has its place all the same
				l.acks("tb")
				l.does(A, "BYE", 2, 200)
				l.over(ByBYE)
				continue
			}
			l.over(Rejected)
		}
	}
}

// TestRefusedAnswerIsNotTheCall: the record and the mode are those of the dialog that was talked in.
func TestRefusedAnswerIsNotTheCall(t *testing.T) {
	for _, rings := range []bool{false, true} { // the one that is refused
		l := newLab(t)
		l.invites("")
		if rings {
			l.rings("late", "")
		}
		l.answers("tb", "")
		l.acks("tb")
		l.pass(40 * second)
		v := l.asks(A, "BYE", 2, "", "")
		at := l.now
		l.pass(second)
		l.refuses("late")
		l.gets(v, 200, "", "")
		l.over(ByBYE)
		if e := l.ended[0]; e.By != Caller || e.At != at || !strings.Contains(string(e.To), "tag=tb") {
			t.Errorf("%v at %v with %s", e.By, e.At, e.To)
		}
	}
}

func TestRefusedAnswerHasNoMode(t *testing.T) {
	l := newLab(t)
	l.talks("", labUpdate)
	before := l.s.Modes()
	l.pass(40 * second)
	l.refuses("late")
	if got := l.s.Modes(); !maps.Equal(got, before) {
		t.Errorf("%v, before that %v", got, before)
	}
}

// fails hands the caller a 486.
func (l *lab) fails() {
	l.Helper()
	var fx Effects
	l.call.Failure(&fx, 486, Callee, Rejected, l.now)
	l.take(&fx)
}

// TestRefusedAnswerIsNotListed: a listing shows the dialog that is there.
func TestRefusedAnswerIsNotListed(t *testing.T) {
	l := newLab(t)
	l.invites("")
	l.rings("t0", "")
	l.answers("tb", "")
	l.refuses("t0")
	if r := l.call.Report(); r.State != "unacknowledged" {
		t.Errorf("%s", r.State)
	}
	l.acks("tb")
	l.does(A, "BYE", 2, 200)
	l.over(ByBYE)
}

// TestRestartAmidALateAnswer: what comes of it is the same as without the restart.
func TestRestartAmidALateAnswer(t *testing.T) {
	for _, takes := range []bool{true, false} {
		l := newLab(t)
		l.invites("")
		l.fails()
		l.answers("tb", "")
		n := l.restarts(second, 1000)
		if got := n.s.Tally(7).Load(); got != l.s.Tally(7).Load() {
			t.Errorf("%d calls at the backend", got)
		}
		if takes {
			n.acks("tb")
			if s := n.s.Stats(n.now); s.Concurrent != 1 || s.Ringing != 0 {
				t.Errorf("%+v", s)
			}
			n.does(A, "BYE", 2, 200)
			n.over(ByBYE)
			continue
		}
		n.pass(30 * second) // copies find no transaction any more, so that both are asked
		n.quiet()
		n.pass(8 * second)
		n.done(n.next(B, wire.OPTIONS), 200, "", "")
		n.pass(0)
		n.done(n.next(A, wire.OPTIONS), 481, "", "")
		if a := n.next(B, wire.BYE); !strings.Contains(string(a.Rest), "answered too late") {
			t.Errorf("%s", a.Rest)
		}
		n.pass(200 * second)
		n.next(A, wire.BYE)
		n.pass(200 * second)
		n.empty()
		if s := n.s.Stats(n.now); len(n.ended) != 0 || s.Concurrent != 0 || s.Ringing != 0 || s.Attempts != 0 {
			t.Errorf("%+v, %+v", n.ended, s)
		}
	}
}

// TestLateAnswerThatIsAcknowledgedPastUs: the callee is quiet, so somebody talks to it, and the call ends as any other whose
// caller ignores our Record-Route. One that goes on to repeat its answer is talked to by nobody.
func TestLateAnswerThatIsAcknowledgedPastUs(t *testing.T) {
	for _, c := range []struct {
		name   string
		copies []time.Duration // in milliseconds after the answer
		hungUp time.Duration   // 0 = not
	}{
		{"acknowledged at once", nil, 0},
		{"acknowledged after a few copies", []time.Duration{500, 1500, 3500}, 0},
		{"never", []time.Duration{500, 1500, 3500, 7500}, 8000},
		{"never, and copies are lost", []time.Duration{500, 15500}, 15500},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			l.invites(labTimer)
			l.fails()
			answered := l.now
			l.answers("tb", "")
			for _, at := range c.copies {
				l.until(answered + at*time.Millisecond)
				l.quiet()
				l.answers("tb", "")
			}
			if c.hungUp != 0 {
				l.until(answered + c.hungUp*time.Millisecond)
				if a := l.next(B, wire.BYE); !strings.Contains(string(a.Rest), "answered too late") {
					t.Errorf("%s", a.Rest)
				}
				l.next(B, wire.ACK)
				l.pass(400 * second)
				l.empty()
				return
			}
			l.until(answered + 7199*second)
			l.quiet()
			if s := l.s.Stats(l.now); s.Concurrent != 1 || s.Ringing != 0 {
				t.Errorf("%+v", s)
			}
			l.pass(2 * second)
			for len(l.acts) > 0 {
				a := l.acts[0]
				l.acts = l.acts[1:]
				l.done(a, 200, "", "")
			}
			l.pass(200 * second)
			l.empty()
			if len(l.ended) != 2 || l.ended[1].Reason != NoTimerDuration {
				t.Errorf("records: %+v", l.ended)
			}
		})
	}
}

// TestLateAnswerWhoseCallerIsHeard: its ACK went past us, what it asks next does not.
func TestLateAnswerWhoseCallerIsHeard(t *testing.T) {
	for _, method := range []string{"INFO", "BYE"} {
		l := newLab(t)
		l.invites("")
		l.fails()
		l.answers("tb", "")
		l.pass(5 * second)
		l.answers("tb", "") // crosses the ACK
		l.does(A, method, 2, 200)
		l.pass(600 * second)
		l.quiet()
		if method == "BYE" {
			l.empty()
			continue
		}
		if s := l.s.Stats(l.now); s.Concurrent != 1 || s.Ringing != 0 {
			t.Errorf("%+v", s)
		}
		l.does(A, "BYE", 3, 200)
		l.pass(600 * second)
		l.empty()
		if len(l.ended) != 2 || l.ended[1].Reason != ByBYE {
			t.Errorf("records: %+v", l.ended)
		}
	}
}
