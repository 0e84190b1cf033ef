package dialog

import (
	"testing"
	"time"
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
