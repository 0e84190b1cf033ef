package backend

import (
	"sync/atomic"
	"time"
)

// Rate admits at most so many events in any window of one second: not per
// second of the clock, and without the double burst of a token bucket. It is
// exact upwards; an event may be counted for up to 1/256 s longer than a second.
// It is lock-free and does not allocate. Its size (2 kB) does not depend on the
// limit. Make it with [NewRate].
type Rate struct {
	limit int64
	m     *meter
}

// NewRate returns a Rate, or nil when limit is 0, which means no limit.
func NewRate(limit int) *Rate {
	if limit <= 0 {
		return nil
	}
	return &Rate{limit: int64(min(limit, maxRate)), m: &meter{}}
}

// WithLimit returns a Rate with another limit that goes on counting where r is.
// r may be nil.
func (r *Rate) WithLimit(limit int) *Rate {
	if r == nil || limit <= 0 {
		return NewRate(limit)
	}
	return &Rate{limit: int64(min(limit, maxRate)), m: r.m}
}

// Admit reports whether one more event may happen at now, and counts it if so.
// A nil Rate admits everything.
func (r *Rate) Admit(now time.Duration) bool { return r == nil || r.m.add(r.limit, now) }

const (
	cells     = 257 // one second and the cell that is being filled
	cellTime  = time.Second / (cells - 1)
	countBits = 24
	maxRate   = 1 << (countBits - 1) // what a cell can count, with room for callers at the same time
)

// meter counts events in cells of 1/256 s. total is the sum of all cells; an
// event is counted in total first and taken back if there is no room, so that
// two callers can never both take the last place.
//
// A cell holds the number of its period (40 bits, 136 years) and a count. Only
// a later period empties a cell, so a caller that was held up cannot wipe out
// counts that are newer than its clock.
type meter struct {
	total  atomic.Int64
	swept  atomic.Int64 // the period up to which cells were emptied
	counts [cells]atomic.Uint64
}

func (m *meter) add(limit int64, now time.Duration) bool {
	period := int64(max(now, 0) / cellTime)
	m.sweep(period)
	if m.total.Add(1) > limit {
		m.total.Add(-1)
		return false
	}
	// If the cell has moved on to a later period meanwhile, the event counts a
	// little longer.
	m.counts[period%cells].Add(1)
	return true
}

// sweep empties the cells whose period has passed.
func (m *meter) sweep(period int64) {
	swept := m.swept.Load()
	if period <= swept {
		return
	}
	for p := max(swept+1, period-cells+1); p <= period; p++ {
		m.empty(&m.counts[p%cells], uint64(p))
	}
	// Cells up to here are empty whoever stores; a smaller value of a slower
	// caller only makes the next one look again.
	m.swept.Store(period)
}

func (m *meter) empty(cell *atomic.Uint64, period uint64) {
	for {
		old := cell.Load()
		if old>>countBits >= period {
			return
		}
		if cell.CompareAndSwap(old, period<<countBits) {
			m.total.Add(-int64(old & (1<<countBits - 1)))
			return
		}
	}
}
