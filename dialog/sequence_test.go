package dialog

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"
)

const young = 128 * time.Second

// side plays one direction, and fails at once when the edge does not do as it must.
type side struct {
	t   *testing.T
	s   Sequence
	now time.Duration
}

func (d *side) pass(in, out uint32) {
	d.t.Helper()
	if got := d.s.Pass(in); got != out {
		d.t.Fatalf("%d is sent on as %d, want %d", in, got, out)
	}
	d.same(in, out)
}

// same wants in and out to belong to each other, without a request of in.
func (d *side) same(in, out uint32) {
	d.t.Helper()
	if got := d.s.Map(in); got != out {
		d.t.Fatalf("%d maps to %d, want %d", in, got, out)
	}
	if got, ok := d.s.Back(out); !ok || got != in {
		d.t.Fatalf("%d comes back as %d, %v, want %d", out, got, ok, in)
	}
}

func (d *side) inject(want ...uint32) {
	d.t.Helper()
	for _, want := range want {
		if got, ok := d.s.Inject(d.now, young); !ok || got != want {
			d.t.Fatalf("injected %d, %v, want %d", got, ok, want)
		}
		d.ours(want)
	}
}

func (d *side) refused() {
	d.t.Helper()
	before := d.s.Highest()
	if got, ok := d.s.Inject(d.now, young); ok || d.s.Highest() != before {
		d.t.Fatalf("injected %d", got)
	}
}

// ours wants numbers that no request of the endpoint was sent on with.
func (d *side) ours(out ...uint32) {
	d.t.Helper()
	for _, o := range out {
		if c, ok := d.s.Back(o); ok {
			d.t.Fatalf("%d comes back as %d, want none", o, c)
		}
	}
}

func TestSequence(t *testing.T) {
	const last = math.MaxInt32 // 2^31-1
	for _, c := range []struct {
		name string
		from Sequence
		play func(d *side)
	}{
		{"nothing is rewritten in a call that is left alone", StartedAt(1), func(d *side) {
			d.same(1, 1)
			d.pass(2, 2)
			d.pass(7, 7)
			d.ours(0, 8, last)
			if !d.s.Plain() {
				d.t.Error("not plain")
			}
		}},
		{"G.33: INFO, re-INVITE and BYE after two probes rise", StartedAt(1), func(d *side) {
			d.inject(2, 3)
			d.pass(2, 4)
			d.pass(3, 5)
			d.same(3, 5) // ACK of the re-INVITE
			d.pass(4, 6)
			d.ours(2, 3)
		}},
		{"G.33: probes between the requests", StartedAt(1), func(d *side) {
			d.inject(2)
			d.pass(2, 3)
			d.inject(4)
			d.pass(3, 5)
			d.inject(6, 7)
			d.same(3, 5) // ACK after a probe
			d.pass(4, 8)
			d.ours(2, 4, 6, 7)
		}},
		{"G.36: a BYE again after its transaction is gone", StartedAt(1), func(d *side) {
			d.inject(2, 3)
			d.pass(2, 4)
			d.now = 20 * time.Second
			d.pass(2, 4)
			d.inject(5)
			d.pass(2, 4)
			d.pass(1, 1)
			if d.s.Highest() != 5 {
				d.t.Error("an old request moved the highest number to", d.s.Highest())
			}
		}},
		{"G.37: CANCEL has the number of its re-INVITE", StartedAt(101), func(d *side) {
			d.inject(102, 103, 104)
			d.pass(102, 105)
			d.inject(106)
			d.same(102, 105)
			d.pass(103, 107)
			d.same(102, 105)
		}},
		{"G.38a: B begins at 1 after three probes", Sequence{}, func(d *side) {
			d.inject(1, 2, 3)
			d.pass(1, 4)
			d.pass(2, 5)
			d.inject(6)
			d.pass(3, 7)
			d.ours(1, 2, 3, 6)
		}},
		{"G.38b: B begins at 102 after three probes", Sequence{}, func(d *side) {
			d.inject(1, 2, 3)
			if d.s.Plain() {
				d.t.Error("plain while B may begin below 4")
			}
			d.pass(102, 102)
			if !d.s.Plain() {
				d.t.Error("not plain")
			}
			d.inject(103)
			d.pass(103, 104)
			d.ours(1, 2, 3, 103)
		}},
		{"G.38c: B begins at 2^31-2 after three probes", Sequence{}, func(d *side) {
			d.inject(1, 2, 3)
			d.pass(last-1, last-1)
			if !d.s.Exhausted() {
				d.t.Error("not exhausted")
			}
			d.refused()
			d.pass(last, last)
			d.ours(1, 2, 3)
		}},
		{"B begins with the number of the latest probe", Sequence{}, func(d *side) {
			d.inject(1, 2, 3)
			d.pass(3, 4)
			d.pass(4, 5)
			d.ours(1, 2, 3)
		}},
		{"B begins one above the latest probe", Sequence{}, func(d *side) {
			d.inject(1, 2, 3)
			d.pass(4, 4)
			d.pass(5, 5)
			d.ours(1, 2, 3)
		}},
		{"B's first two requests change places", Sequence{}, func(d *side) {
			d.inject(1)
			d.pass(9, 9)
			d.pass(8, 8)
			d.pass(10, 10)
			d.ours(1)
		}},
		{"B's first two requests change places below the probes", Sequence{}, func(d *side) {
			d.inject(1, 2, 3)
			d.pass(2, 4)
			// There is no number left for what should have been first: A sees an old one.
			if got := d.s.Pass(1); got > 3 {
				d.t.Error("1 is sent on as", got)
			}
			d.pass(3, 5)
			d.ours(1, 2, 3)
		}},
		{"B has sent nothing, nothing is known", Sequence{}, func(d *side) {
			d.ours(0, 1, last, math.MaxUint32)
			if !d.s.Plain() || d.s.Highest() != 0 {
				d.t.Error("not plain, or a number in use")
			}
			d.inject(1)
			d.ours(0, 1, 2)
			if got := d.s.Map(5); got != 5 {
				d.t.Error("5 maps to", got)
			}
		}},
		{"CSeq 0 of B", Sequence{}, func(d *side) {
			d.pass(0, 0)
			d.pass(0, 0)
			if !d.s.Plain() {
				d.t.Error("not plain")
			}
			d.inject(1)
			d.pass(0, 0)
			d.pass(1, 2)
		}},
		{"CSeq 0 of B after a probe", Sequence{}, func(d *side) {
			d.inject(1)
			d.pass(0, 2)
			d.pass(1, 3)
			d.ours(1)
		}},
		{"CSeq 0 of the INVITE", StartedAt(0), func(d *side) {
			d.same(0, 0)
			d.inject(1)
			d.pass(1, 2)
			d.same(0, 0)
		}},
		{"an endpoint that skips numbers", StartedAt(1), func(d *side) {
			d.inject(2)
			d.pass(10, 11)
			d.inject(12, 13)
			d.pass(1000, 1003) // 11 may still come: 14
			d.pass(11, 14)
			d.pass(5, 6)
			d.pass(2, 3)
			d.ours(2, 12, 13)
		}},
		{"requests out of order, in another epoch", StartedAt(1), func(d *side) {
			d.pass(5, 5)
			d.inject(6)
			d.pass(8, 9)
			d.inject(10)
			d.pass(4, 4)
			d.pass(7, 8)
			d.pass(6, 7)
			d.pass(9, 11)
			d.ours(6, 10)
		}},
		{"an old number after a probe does not end the epoch to come", StartedAt(4), func(d *side) {
			d.pass(6, 6)
			d.inject(7)
			d.pass(5, 5)
			d.inject(8)
			d.pass(7, 9)
		}},
		{"the INVITE has 2^31-2", StartedAt(last - 1), func(d *side) {
			d.refused()
			d.pass(last, last)
			d.same(last-1, last-1)
			if !d.s.Plain() {
				d.t.Error("not plain")
			}
		}},
		{"the last number that is injected", StartedAt(exhaustedAt - 2), func(d *side) {
			d.inject(exhaustedAt-1, exhaustedAt)
			if !d.s.Exhausted() {
				d.t.Error("not exhausted")
			}
			d.refused()
			d.pass(exhaustedAt-1, exhaustedAt+1)
			d.pass(last-2, last)
		}},
		{"a BYE with 2^31-1 after probes is not raised", StartedAt(1), func(d *side) {
			d.inject(2, 3)
			d.pass(last, last)
			d.pass(last, last)
			d.refused()
			d.ours(2, 3)
			d.pass(2, 4)
		}},
		{"numbers that share 2^31-1 begin no epoch", StartedAt(1), func(d *side) {
			d.inject(2, 3)
			for c := uint32(last - 5); c <= last-2; c++ {
				d.pass(c, c+2)
			}
			d.pass(last-1, last)
			d.pass(last, last)
			d.same(last-3, last-1)
			if n := len(d.s.list()); n != 1 {
				d.t.Error(n, "epochs")
			}
		}},
		{"what no message can carry", Sequence{}, func(d *side) {
			d.inject(1, 2, 3)
			d.pass(1, 4)
			for range 2 {
				if got := d.s.Pass(math.MaxUint32); got != last {
					d.t.Error("sent on as", got)
				}
			}
			d.refused()
			d.same(1, 4)
			d.ours(0, 1, 2, 3, last+1, math.MaxUint32)
		}},
		{"an INVITE that no message can carry", StartedAt(math.MaxUint32), func(d *side) {
			if got := d.s.Highest(); got != last {
				d.t.Error("highest is", got)
			}
			d.refused()
		}},
		{"many probes while the endpoint is silent are one epoch", StartedAt(1), func(d *side) {
			for o := range uint32(1000) {
				d.inject(2 + o)
			}
			if cap(d.s.list()) != 0 {
				d.t.Error("an epoch before there is a number in it")
			}
			d.pass(2, 1002)
			if len(d.s.list()) != 1 {
				d.t.Error(len(d.s.list()), "epochs")
			}
		}},
		{"four young epochs postpone the fifth", StartedAt(1), func(d *side) {
			fourEpochs(d)
			d.refused()
			if d.s.Exhausted() {
				d.t.Error("exhausted")
			}
			d.pass(6, 10)
			d.now = 10*time.Second + young - 1
			d.refused()
			d.now++
			d.inject(11)
			d.now += time.Minute
			d.inject(12, 13)
			d.pass(7, 14)
			d.now = 20*time.Second + young - 1
			d.refused()
			d.now++
			d.inject(15)
		}},
		{"an epoch is no older than it is", StartedAt(1), func(d *side) {
			d.now = time.Second / 2
			fourEpochs(d)
			d.now = 10*time.Second + young + time.Second/2
			d.refused()
			d.now = 11*time.Second + young
			d.inject(10)
		}},
		{"the number to come is known before it comes", StartedAt(1), func(d *side) {
			d.inject(2)
			if got := d.s.Map(9); got != 10 {
				d.t.Error("9 will be", got)
			}
			d.ours(10)
			d.pass(9, 10)
		}},
		{"the epoch to come is extended, however young the four", StartedAt(1), func(d *side) {
			fourEpochs(d)
			d.now = 10*time.Second + young
			d.inject(10)
			d.now = 0
			d.inject(11)
		}},
		{"numbers that were forgotten", StartedAt(1), func(d *side) {
			fourEpochs(d)
			d.now = 10*time.Second + young
			d.inject(10)
			d.pass(6, 11)
			for c := uint32(2); c <= 5; c++ {
				d.pass(c, 2*c-1)
			}
			// The INVITE is of the time before the first probe.
			if got := d.s.Pass(1); got > 3 {
				d.t.Error("the INVITE is sent on as", got)
			}
			d.ours(2, 4, 6, 8, 10)
			d.now = 20*time.Second + young
			d.inject(12)
			d.pass(7, 13)
			d.pass(3, 5)
			if got := d.s.Pass(2); got > 5 {
				d.t.Error("2 is sent on as", got)
			}
			d.ours(2, 4, 6, 8, 10, 12)
			if d.s.Highest() != 13 {
				d.t.Error("highest is", d.s.Highest())
			}
		}},
		{"B's own start is no epoch", Sequence{}, func(d *side) {
			d.inject(1)
			d.pass(1, 2)
			for o := uint32(3); o <= 9; o += 2 {
				d.inject(o)
				d.pass(o/2+1, o+1)
			}
			d.refused()
			d.same(1, 2)
		}},
	} {
		t.Run(c.name, func(t *testing.T) { c.play(&side{t: t, s: c.from}) })
	}
}

// fourEpochs opens them at 10, 20, 30 and 40 s: 2..5 go as 3, 5, 7, 9.
func fourEpochs(d *side) {
	d.t.Helper()
	for c := uint32(2); c <= 5; c++ {
		d.now += 10 * time.Second
		d.inject(2*c - 2)
		d.pass(c, 2*c-1)
	}
}

// model remembers every number, and works out each by its distance to another.
type model struct {
	t   testing.TB
	s   Sequence
	now time.Duration

	seen, plain bool
	lo, hi      uint32            // of the endpoint: what can be told from ours, and its highest
	top         uint32            // highest sent on
	since       uint32            // injected since hi was new
	out         map[uint32]uint32 // of the endpoint's numbers, without those that were forgotten
	in          map[uint32]uint32 // its inverse, including those
	own         map[uint32]bool   // injected
	log         []uint32          // keys of out, as they came
	mine        []uint32          // keys of own, as they came
	stretches   []stretch         // between injections
	opened      time.Duration     // of the stretch to come
}

// stretch is a run of numbers from first on with none of ours between them; in and
// out are one of them.
type stretch struct {
	first   uint32
	in, out int64
	opened  time.Duration
}

func newModel(t testing.TB, isKnown bool, n uint32) *model {
	m := &model{t: t, plain: true, out: map[uint32]uint32{}, in: map[uint32]uint32{}, own: map[uint32]bool{}}
	if isKnown {
		m.s = StartedAt(n)
		m.lo = n
		m.highest(n, int64(n))
	}
	return m
}

// highest notes a number of the endpoint that is above all before it.
func (m *model) highest(c uint32, o int64) {
	if !m.seen || m.since > 0 {
		first := m.lo
		if m.seen {
			first = m.hi + 1
		}
		m.stretches = append(m.stretches, stretch{first, int64(c), o, m.opened})
		m.plain = m.plain && int64(c) == o
	}
	m.seen, m.hi, m.top, m.since = true, c, uint32(min(o, maxCSeq)), 0
	m.record(c)
}

func (m *model) record(c uint32) {
	o := m.s.Map(c)
	m.out[c] = o
	m.log = append(m.log, c)
	if _, isTaken := m.in[o]; !isTaken {
		m.in[o] = c
	}
}

// pass sends c, be it new, repeated or late.
func (m *model) pass(c uint32) {
	m.t.Helper()
	c &= maxCSeq // wire.Scan refuses more
	top, before := m.top, m.s.Map(c)
	o := m.s.Pass(c)
	if o != m.s.Map(c) || m.seen && o != before {
		m.t.Fatalf("%d is sent on as %d, mapped to %d before and to %d after", c, o, before, m.s.Map(c))
	}
	var want int64
	switch {
	case !m.seen: // its own number if that is above all of ours, else the next
		want = max(int64(c), int64(m.top)+1)
		if m.since == 0 {
			want = int64(c)
		} else {
			m.lo = min(c, m.top+1)
		}
		m.highest(c, want)
	case c > m.hi: // as far from the latest, ours included, as from the endpoint's latest
		want = int64(m.top) + int64(c) - int64(m.hi)
		m.highest(c, want)
		if o <= top && top != maxCSeq {
			m.t.Fatalf("%d is sent on as %d, not above %d", c, o, top)
		}
	case c < m.lo: // too old, or of no dialog: no promise but that it looks old
		if lowest := m.s.Map(m.lo); o >= lowest {
			m.t.Fatalf("old %d is sent on as %d, lowest in use is %d", c, o, lowest)
		}
		return
	default: // repeated or late
		i := len(m.stretches) - 1
		for m.stretches[i].first > c {
			i--
		}
		want = m.stretches[i].out + int64(c) - m.stretches[i].in
		if known, isRepeated := m.out[c]; !isRepeated {
			m.record(c)
		} else if o != known {
			m.t.Fatalf("%d was sent on as %d, now as %d", c, known, o)
		}
	}
	if want = min(want, maxCSeq); int64(o) != want {
		m.t.Fatalf("%d is sent on as %d, want %d; highest is %d of %d", c, o, want, m.hi, m.top)
	}
	if m.own[o] {
		m.t.Fatalf("%d is sent on as %d, which is ours", c, o)
	}
	if o == maxCSeq {
		return // may be shared
	}
	if other := m.in[o]; other != c {
		m.t.Fatalf("%d and %d are both sent on as %d", c, other, o)
	}
	if back, ok := m.s.Back(o); !ok || back != c {
		m.t.Fatalf("%d went as %d and comes back as %d, %v", c, o, back, ok)
	}
}

func (m *model) inject() {
	m.t.Helper()
	want := m.top < exhaustedAt
	if want && m.seen && m.since == 0 {
		// The first stretch is the time before any injection, or all that is old.
		if len(m.stretches) == 1+maxEpochs {
			if want = m.now-m.stretches[1].opened >= young; want {
				m.forget()
			}
		}
		m.opened = m.now
	}
	o, ok := m.s.Inject(m.now, young)
	if ok != want {
		m.t.Fatalf("injecting: %v, want %v", ok, want)
	}
	if !ok {
		if m.s.Exhausted() != (m.top >= exhaustedAt) {
			m.t.Fatalf("exhausted: %v at %d", m.s.Exhausted(), m.top)
		}
		return
	}
	if o != m.top+1 {
		m.t.Fatalf("injected %d, want %d", o, m.top+1)
	}
	m.top = o
	m.since++
	m.own[o] = true
	m.mine = append(m.mine, o)
	m.notOurs(o)
}

// forget drops the oldest stretch.
func (m *model) forget() {
	m.stretches = m.stretches[1:]
	m.lo = m.stretches[0].first
	kept := m.log[:0]
	for _, c := range m.log {
		if c >= m.lo {
			kept = append(kept, c)
		} else {
			delete(m.out, c)
		}
	}
	m.log = kept
}

func (m *model) notOurs(o uint32) {
	m.t.Helper()
	if c, ok := m.s.Back(o); ok && o != maxCSeq {
		m.t.Fatalf("injected %d comes back as %d", o, c)
	}
}

// look compares what a Sequence says of itself, and some of what is remembered.
func (m *model) look(pick uint32) {
	m.t.Helper()
	if m.s.Highest() != m.top {
		m.t.Fatalf("highest is %d, want %d", m.s.Highest(), m.top)
	}
	if want := m.plain && m.since == 0; m.s.Plain() != want {
		m.t.Fatalf("plain: %v, want %v", m.s.Plain(), want)
	}
	if len(m.s.list()) > maxEpochs || cap(m.s.list()) > maxEpochs {
		m.t.Fatalf("%d epochs, room for %d", len(m.s.list()), cap(m.s.list()))
	}
	if n := len(m.log); n > 0 {
		c := m.log[pick%uint32(n)]
		if o := m.s.Map(c); o != m.out[c] {
			m.t.Fatalf("%d was sent on as %d, now as %d", c, m.out[c], o)
		}
	}
	if n := len(m.mine); n > 0 {
		m.notOurs(m.mine[pick%uint32(n)])
	}
}

// step does one thing; all choices are in op and arg.
func (m *model) step(op byte, arg uint32) {
	m.t.Helper()
	small := arg & 0xff
	switch op % 10 {
	case 0, 1:
		m.pass(m.hi + 1)
	case 2:
		m.pass(m.hi + 2 + small&7)
	case 3, 4:
		m.inject()
	case 5: // again
		if n := uint32(len(m.log)); n > 0 {
			m.pass(m.log[n-1-min(small, n-1)])
		}
	case 6: // late
		m.pass(m.hi - min(small, m.hi))
	case 7:
		m.now += time.Duration(small) * time.Second
	case 8:
		m.pass(m.hi + arg>>8%4096)
	case 9: // anywhere; rarely, as much ends there
		if small < 8 {
			m.pass(arg)
		}
	}
	m.look(arg)
}

func TestAMillionStepsKeepEveryNumber(t *testing.T) {
	const steps, per = 1_000_000, 2_000
	rng := rand.New(rand.NewPCG(3261, 12))
	starts := []func() uint32{
		func() uint32 { return rng.Uint32N(3) },
		func() uint32 { return rng.Uint32N(100_000) },
		func() uint32 { return exhaustedAt - rng.Uint32N(3000) },
		func() uint32 { return maxCSeq - rng.Uint32N(40) },
	}
	var injected, exhausted, pruned int
	for run := range steps / per {
		n := starts[run%8/2]()
		m := newModel(t, run%2 == 0, n)
		if run%2 == 1 {
			for range rng.Uint32N(8) {
				m.inject()
			}
			m.pass(n)
		}
		for range per {
			op := byte(rng.Uint32N(10))
			if op == 9 && rng.Uint32N(20) > 0 {
				op = 7
			}
			m.step(op, rng.Uint32())
		}
		injected += len(m.mine)
		if m.s.Exhausted() {
			exhausted++
		}
		if len(m.log) < len(m.in) {
			pruned++
		}
	}
	t.Log(injected, "injected;", exhausted, "runs exhausted,", pruned, "with numbers forgotten, of", steps/per)
	if injected < steps/20 || exhausted == 0 || pruned == 0 {
		t.Error("the steps do not go where they should")
	}
}

func FuzzSequence(f *testing.F) {
	number := func(isKnown byte, n uint32) []byte {
		return binary.BigEndian.AppendUint32([]byte{isKnown}, n)
	}
	steps := func(start []byte, ops ...byte) []byte {
		for _, op := range ops {
			start = append(start, op, 0, 0, 0, 1)
		}
		return start
	}
	f.Add(steps(number(1, 1), 0, 3, 3, 0, 5, 6))
	f.Add(steps(number(0, 0), 3, 3, 3, 0, 0, 5))
	f.Add(steps(number(1, exhaustedAt-1), 3, 3, 0, 8, 3))
	f.Add(append(steps(number(0, 0), 3), 9, 0x7f, 0xff, 0xff, 0x05, 3, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < 5 || len(data) > 5*4096 {
			return
		}
		m := newModel(t, data[0]&1 == 1, binary.BigEndian.Uint32(data[1:])&maxCSeq)
		for data = data[5:]; len(data) >= 5; data = data[5:] {
			m.step(data[0], binary.BigEndian.Uint32(data[1:]))
		}
		for c, o := range m.out {
			if got := m.s.Map(c); got != o {
				t.Fatalf("%d was sent on as %d, now as %d", c, o, got)
			}
		}
		for _, o := range m.mine {
			m.notOurs(o)
		}
	})
}

func TestASequenceIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(Sequence{}); n > 48 {
		t.Error(n, "bytes")
	}
	s, late := StartedAt(1), Sequence{}
	if n := testing.AllocsPerRun(100, func() {
		s.Pass(s.Highest() + 1)
		late.Inject(0, young)
	}); n != 0 {
		t.Error(n, "allocations before there is an epoch")
	}
}

func BenchmarkSequencePass(b *testing.B) {
	full := side{t: &testing.T{}, s: StartedAt(1)}
	fourEpochs(&full)
	for _, c := range []struct {
		name string
		s    Sequence
	}{{"plain", StartedAt(1)}, {"four epochs", full.s}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			n := c.s.hiIn
			for b.Loop() {
				c.s.Pass(n)
			}
		})
	}
}

func BenchmarkSequenceInject(b *testing.B) {
	b.Run("silent endpoint", func(b *testing.B) {
		b.ReportAllocs()
		s := StartedAt(1)
		for b.Loop() {
			if _, ok := s.Inject(0, young); !ok {
				s = StartedAt(1)
			}
		}
	})
	b.Run("with the request after it", func(b *testing.B) {
		b.ReportAllocs()
		s, c, now := StartedAt(1), uint32(1), time.Duration(0)
		for b.Loop() {
			now += young
			if _, ok := s.Inject(now, young); !ok {
				s, c = StartedAt(1), 1
			}
			c++
			s.Pass(c)
		}
	})
}
