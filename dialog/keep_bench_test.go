package dialog

import "testing"

// BenchmarkKeep is an answered call from INVITE to BYE, without a file, noted for one, and
// written before its end.
func BenchmarkKeep(b *testing.B) {
	for _, test := range []struct {
		name         string
		keep, writes bool
	}{{"off", false, false}, {"short", true, false}, {"written", true, true}} {
		b.Run(test.name, func(b *testing.B) {
			l := newLab(b)
			l.s.Keep = test.keep
			discard := func(ID, []byte) {}
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				l.talks("", "")
				if test.writes {
					l.s.Changes(l.wall, discard, func(ID) {})
				}
				l.does(A, "BYE", 2, 200)
				if n++; n%1000 == 0 {
					l.s.Changes(l.wall, discard, func(ID) {})
					l.ended = l.ended[:0]
				}
			}
		})
	}
}

// BenchmarkAppendState is the state of one call with timers and SDP.
func BenchmarkAppendState(b *testing.B) {
	l := newLab(b)
	l.talks(labTimer, "")
	var state []byte
	b.ReportAllocs()
	for b.Loop() {
		state, _ = l.call.AppendState(state[:0], l.wall)
	}
	b.ReportMetric(float64(len(state)), "bytes/call")
}
