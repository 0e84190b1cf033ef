package timers

import (
	"testing"
	"time"
)

func TestFarDeadlinesShareAGrid(t *testing.T) {
	const now = 7*time.Second + 13*time.Millisecond
	for _, c := range []struct {
		name     string
		in, want time.Duration
	}{
		{"a retransmission is on time", now + 500*time.Millisecond, now + 500*time.Millisecond},
		{"fail-over is on time", now + 2*time.Second, now + 2*time.Second},
		{"timer K goes to the next quarter second", now + 5*time.Second, 12250 * time.Millisecond},
		{"what is on the grid stays", 40 * time.Second, 40 * time.Second},
		{"none stays none", 0, 0},
	} {
		if got := Coarse(c.in, now); got != c.want {
			t.Errorf("%s: Coarse(%v) = %v, want %v", c.name, c.in, got, c.want)
		}
	}
}
