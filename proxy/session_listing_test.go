package proxy

import (
	"strings"
	"testing"
	"time"
)

// What the listing says of a call is true in every state: what watches it, what will
// end it, and how its callee is asked.
func TestListingSaysWhatBecomesOfACall(t *testing.T) {
	const both = timerLines + updateLines
	reaches := func(state string) func(l *lab) *talk {
		return func(l *lab) *talk {
			c, _ := l.inState(state)
			return c
		}
	}
	for _, x := range []struct {
		name               string
		ttl                time.Duration
		call               func(l *lab) *talk
		why, probe, endsBy string
	}{
		{"rings", 600 * time.Second, reaches(isEarly), "not answered yet", "", "max_ring_duration"},
		{"has no ACK yet", 600 * time.Second, reaches(isWaitAck), "has not acknowledged the answer yet", "update", "ack_timeout"},
		{"is watched", 600 * time.Second, reaches(isConfirmed), "a session timer runs", "update", "session_ttl"},
		{"has no timer", 600 * time.Second, func(l *lab) *talk { return l.talks("", "") }, "only its limits end it", "", "no_timer_call_duration"},
		{"is not probed", 0, func(l *lab) *talk { return l.talks(both, both) }, "only its limits end it", "", "no_timer_call_duration"},
		{"goes past the edge", 90 * time.Second, func(l *lab) *talk {
			c := l.rings(both)
			c.answers(both)
			c.until(60 * time.Second)
			return c
		}, "nothing of the caller comes through the edge", "", "no_timer_call_duration"},
		{"is hung up", 600 * time.Second, reaches(isEnding), "one side has hung up", "", ""},
		{"is ended", 600 * time.Second, reaches(isTerminating), "the edge has ended it (admin)", "", ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			inLab(t, 1, withLab(x.ttl, 7200*time.Second), func(t *testing.T, l *lab) {
				got := x.call(l).info()
				if !strings.Contains(got.Why, x.why) || got.EndsBy != x.endsBy {
					t.Errorf("%q, ends by %q", got.Why, got.EndsBy)
				}
				for _, leg := range got.Legs {
					if leg.Leg == "callee" && leg.Probe != x.probe {
						t.Errorf("probed by %q", leg.Probe)
					}
				}
			})
		})
	}
}
