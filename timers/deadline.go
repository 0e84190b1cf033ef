package timers

import "time"

// Sooner is the earlier of two times, of which 0 means never.
func Sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Coarse puts a deadline that is far off on a grid, later by less than a tenth: what
// a busy second leaves to be done then happens in a few wake-ups instead of hundreds,
// and a wake-up is dearer than all that is done in it.
func Coarse(due, now time.Duration) time.Duration {
	const far, grid = 3 * time.Second, 250 * time.Millisecond
	if due == 0 || due-now < far {
		return due
	}
	return (due + grid - 1) / grid * grid
}
