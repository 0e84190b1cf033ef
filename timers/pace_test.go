package timers

import (
	"slices"
	"testing"
	"time"
)

func TestPaceServesInOrder(t *testing.T) {
	p := NewPace(10)
	var turns []time.Duration
	for range 30 { // all at once
		turns = append(turns, p.Turn(time.Hour))
	}
	if !slices.IsSorted(turns) || turns[0] != 0 || turns[29] != 2900*time.Millisecond {
		t.Errorf("%v", turns)
	}
	if wait := p.Turn(time.Hour + 2*time.Second); wait != time.Second {
		t.Errorf("a later one waits %v", wait)
	}
	if wait := p.Turn(2 * time.Hour); wait != 0 {
		t.Errorf("after a rest one waits %v", wait)
	}
}

func TestPaceKeepsItsRate(t *testing.T) {
	for _, rate := range []int{1, 7, 2000} {
		p := NewPace(rate)
		n, end := 0, 20*time.Second
		for now := time.Duration(0); now < end; now += 500 * time.Microsecond {
			if now+p.Turn(now) < end {
				n++
			}
		}
		if most := 20*rate + rate/10 + 1; n > most || n < 20*rate-1 {
			t.Errorf("%d a second: %d events in 20 s", rate, n)
		}
	}
}
