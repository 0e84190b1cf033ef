package backend

import "time"

// Numbers we chose.
const (
	// firstProbes spreads the first probes after a start over this time.
	firstProbes = 500 * time.Millisecond
	// jitterPart of the interval is how far a probe may be off its beat, so that
	// neither backends nor several edges fall into step.
	jitterPart = 0.1
)

// NextProbe returns how long from now the next probe is to be sent, or 0 when
// this backend is not probed. Asked again before that time, it returns the
// rest, also after a reload; asked at that time or later, it settles the next:
// interval ± 10 %. So: call it, wait, send, call it again.
func (b *Backend) NextProbe(now time.Duration) time.Duration {
	interval := b.pool.config.Probe.Interval.D()
	if interval <= 0 || b.wish() == Disabled {
		return 0
	}
	next := time.Duration(b.live.nextProbe.Load())
	longest := interval + time.Duration(jitterPart*float64(interval))
	if wait := next - now; wait > 0 && wait <= longest {
		return wait
	}
	x := unit(draw(uint64(now), b.seed))
	wait := interval + time.Duration((2*x-1)*jitterPart*float64(interval))
	if next == 0 {
		wait = time.Duration(x * float64(min(firstProbes, interval)))
	}
	wait = max(wait, 1)
	b.live.nextProbe.Store(int64(now + wait))
	return wait
}

// ProbeTimeout returns how long to wait for the answer to a probe.
func (b *Backend) ProbeTimeout() time.Duration { return b.pool.config.Probe.Timeout.D() }
