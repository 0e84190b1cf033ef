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
	l.call.Refuse(&fx, l.response(B, 200, tag, "INVITE", 1, "", labSDPB), l.now)
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
		n.pass(8 * second)
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
