package security

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// rateSource is the n-th of many sources, every fourth of them an IPv6 one.
func rateSource(n int) Source {
	if n%4 == 3 {
		return Source(0x2001_0db8<<32 | uint64(uint32(n)))
	}
	return mark4 | Source(uint32(n)+0x0a00_0000)
}

// rateLog is what Rates has to say, written down plainly: all messages of a source.
type rateLog struct {
	all   []time.Duration
	taken int // of the oldest ones, by Credit
}

func (l *rateLog) in(window, now time.Duration) []time.Duration {
	i := l.taken
	for i < len(l.all) && l.all[i] <= now-window {
		i++
	}
	return l.all[i:]
}

// remembered is what is left after the last Count.
func (l *rateLog) remembered(window time.Duration, most int) []time.Duration {
	if len(l.all) == 0 {
		return nil
	}
	in := l.in(window, l.all[len(l.all)-1])
	return in[max(0, len(in)-most):]
}

func TestRatesAgreeWithALogOfAllMessages(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		window := []time.Duration{time.Millisecond, 2 * time.Second, time.Minute, time.Hour}[rnd.IntN(4)]
		most := []int{1, 2, 4, 5, 6, 17, 18, 51, 501}[rnd.IntN(9)]
		sources := 1 + rnd.IntN(300)
		r := NewRates(10_000)
		logs := make([]rateLog, sources)
		now := time.Duration(rnd.IntN(5000)) * time.Microsecond
		for step := range 6000 {
			// Nearly always a step that keeps some windows full, rarely one that empties all.
			now += time.Duration(rnd.Int64N(1+int64(window)*4/int64(sources*most))) / time.Microsecond * time.Microsecond
			if rnd.IntN(2000) == 0 {
				now += time.Duration(rnd.Int64N(int64(3 * time.Hour)))
				now -= now % time.Microsecond
			}
			k := rnd.IntN(sources)
			if rnd.IntN(2) == 0 {
				k /= 10 // some send more than others
			}
			s, l := rateSource(k), &logs[k]
			switch rnd.IntN(40) {
			case 0:
				r.Forget(s)
				*l = rateLog{}
			case 1:
				n := rnd.IntN(most + 3)
				r.Credit(s, n)
				l.taken = len(l.all) - max(0, len(l.remembered(window, most))-n)
			case 2, 3, 4:
				in := l.in(window, now)
				in = in[max(0, len(in)-most):]
				n, first, last := r.Read(s, window, now)
				if n != len(in) || n > 0 && (first != in[0] || last != in[n-1]) {
					t.Fatalf("seed %d step %d: read %d (%v-%v), the log has %v", seed, step, n, first, last, in)
				}
			default:
				l.all = append(l.all, now)
				want := min(most, len(l.in(window, now)))
				if n := r.Count(s, window, most, now); n != want {
					t.Fatalf("seed %d step %d: counted %d of %d in %v, want %d", seed, step, n, most, window, want)
				}
			}
		}
		for i := range r.shards {
			checkRateTable(t, &r.shards[i].rateTable)
		}
	}
}

// Between microseconds a message may leave the window early, but never late.
func TestRatesAreLateByLessThanATick(t *testing.T) {
	const most = 100
	for seed := range uint64(10) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		window := time.Duration(1000 + rnd.IntN(20_000))
		r := NewRates(1)
		var l rateLog
		var now time.Duration
		for range 1000 {
			now += time.Duration(rnd.IntN(1500))
			l.all = append(l.all, now)
			least, exact := len(l.in(window-time.Microsecond, now)), len(l.in(window, now))
			if n := r.Count(1, window, most, now); n < least || n > exact {
				t.Fatalf("seed %d at %dns: %d in %dns, want %d to %d", seed, now, n, window, least, exact)
			}
		}
	}
}

// A limit or a window that changes with each message, tables and pools that overflow,
// and clocks that were read in another order: numbers may be too low, never too high.
func TestRatesNeverCountTooMuch(t *testing.T) {
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 6))
		table := newRateTable(maphash.MakeSeed(), 1+rnd.IntN(60))
		table.maxChunks = 2 + rnd.IntN(40)
		logs := make([]rateLog, 100)
		now := time.Second
		for step := range 8000 {
			now += time.Duration(rnd.IntN(20_000)) * time.Microsecond
			k := rnd.IntN(rnd.IntN(len(logs)) + 1)
			s, l := rateSource(k), &logs[k]
			h := maphash.Comparable(table.seed, s)
			window, most := time.Duration(1+rnd.IntN(3))*time.Second, 1+rnd.IntN(80)
			at := now
			if n := len(l.all); n > 0 && rnd.IntN(10) == 0 {
				at = l.all[n-1] - 5*time.Millisecond // counts as the one before
				l.all = append(l.all, l.all[n-1])
			} else {
				l.all = append(l.all, now)
			}
			in := len(l.in(window, l.all[len(l.all)-1]))
			if n := table.count(s, h, window, most, at); n < 1 || n > min(in, most) {
				t.Fatalf("seed %d step %d: counted %d, there were %d, and %d is the most", seed, step, n, in, most)
			}
			in = len(l.in(window, now))
			if n, first, last := table.read(s, h, window, now); n > in || n > 0 && (first > last || last > now) {
				t.Fatalf("seed %d step %d: read %d (%v-%v) at %v, there were %d", seed, step, n, first, last, now, in)
			}
			if step%100 == 0 {
				checkRateTable(t, &table)
			}
		}
	}
}

// checkRateTable looks whether each source is found, and each chunk is in one list.
func checkRateTable(t *testing.T, table *rateTable) {
	t.Helper()
	used, seen := 0, make([]int, len(table.chunks))
	for i := range table.rates {
		e := &table.rates[i]
		if e.source == 0 {
			continue
		}
		used++
		if at, ok := table.find(e.source, maphash.Comparable(table.seed, e.source)); !ok || at != i {
			t.Fatalf("%v is in slot %d, but found in %d, %v", e.source, i, at, ok)
		}
		if e.n <= inline+1 {
			continue
		}
		held, last := 0, uint32(0)
		for c := e.older[0]; c != 0; c = table.chunks[c].next {
			if table.chunks[c].owner != e.source {
				t.Fatalf("chunk %d of %v belongs to %v", c, e.source, table.chunks[c].owner)
			}
			seen[c]++
			held, last = held+1, c
		}
		if want := (int(e.older[2]+e.n-1) + perChunk - 1) / perChunk; held != want || last != e.older[1] {
			t.Fatalf("%d messages in %d chunks to %d, want %d to %d", e.n, held, last, want, e.older[1])
		}
	}
	if used != table.used || used > table.most {
		t.Fatalf("%d sources, %d counted, %d at most", used, table.used, table.most)
	}
	for c := table.free; c != 0; c = table.chunks[c].next {
		seen[c]++
	}
	for c := uint32(1); c < table.fresh; c++ {
		if seen[c] != 1 {
			t.Fatalf("chunk %d is in %d lists", c, seen[c])
		}
	}
	if len(table.chunks) > table.maxChunks || len(table.rates) > slots(table.most) {
		t.Fatalf("%d chunks of %d, %d slots of %d", len(table.chunks), table.maxChunks, len(table.rates), slots(table.most))
	}
}

func TestRatesSeeTheMessageBeyondTheLimit(t *testing.T) {
	for _, c := range []struct {
		name  string
		every time.Duration
		want  []int // with at most 4 in 2 s
	}{
		{"at once", 0, []int{1, 2, 3, 4, 4, 4}},
		{"beyond the density", 666 * time.Millisecond, []int{1, 2, 3, 4, 4, 4}},
		{"at the density", 667 * time.Millisecond, []int{1, 2, 3, 3, 3, 3}},
		{"the window's start is outside", time.Second, []int{1, 2, 2, 2, 2, 2}},
		{"one at a time", 2 * time.Second, []int{1, 1, 1, 1, 1, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewRates(10)
			var got []int
			for i := range c.want {
				got = append(got, r.Count(1, 2*time.Second, 4, time.Duration(i+1)*c.every+time.Millisecond))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("counted %v, want %v", got, c.want)
			}
		})
	}
}

// The stamps' 71 minutes go around several times, near to them and far between.
func TestRatesOutliveTheirStamps(t *testing.T) {
	r := NewRates(10)
	var l rateLog
	for now := time.Duration(1<<32-2e6) * time.Microsecond; now < 9*time.Hour; now += 37 * time.Second {
		l.all = append(l.all, now)
		if n, want := r.Count(1, time.Hour, 1000, now), len(l.in(time.Hour, now)); n != want {
			t.Fatalf("counted %d at %v, want %d", n, now, want)
		}
	}
	// One stamp's cycle later nothing is there, though the stamp is the same.
	now := l.all[len(l.all)-1] + 1<<32*time.Microsecond
	if n, _, _ := r.Read(1, time.Hour, now); n != 0 {
		t.Errorf("read %d after 71 minutes of silence", n)
	}
	if n := r.Count(1, time.Hour, 1000, now); n != 1 {
		t.Errorf("counted %d after 71 minutes of silence", n)
	}
}

func TestRatesKeepTheLongestList(t *testing.T) {
	r := NewRates(1_000_000)
	now := time.Second
	for i := range 100_005 {
		now += 7 * time.Microsecond
		if n, want := r.Count(7, time.Hour, 100_001, now), min(i+1, 100_001); n != want {
			t.Fatalf("counted %d, want %d", n, want)
		}
	}
	n, first, last := r.Read(7, time.Hour, now)
	if n != 100_001 || first != now-100_000*7*time.Microsecond || last != now {
		t.Errorf("read %d (%v-%v) at %v", n, first, last, now)
	}
	if n := r.Count(7, time.Hour, 1<<40, now); n != 100_001 {
		t.Errorf("counted %d without a bound", n)
	}
}

func TestRatesTakeAnything(t *testing.T) {
	for _, size := range []int{-1, 0, 1, 2, 5000} {
		r := NewRates(size)
		for _, window := range []time.Duration{-1 << 63, -1, 0, 1, time.Second, 1<<63 - 1} {
			for _, now := range []time.Duration{0, 1, time.Second, 1<<63 - 1, -1 << 63, 5} {
				for _, most := range []int{-1 << 63, -1, 0, 1, 2, 1<<63 - 1} {
					for s := range Source(4) {
						n := r.Count(s, window, most, now)
						if n < 0 || n > max(most, 0) || n == 0 && most > 0 && s != 0 {
							t.Fatalf("Count(%d, %d, %d, %d) = %d", s, window, most, now, n)
						}
						r.Read(s, window, now)
						r.Credit(s, most)
					}
				}
			}
		}
		r.Credit(1, 1<<40)
		r.Credit(0, 1)
		r.Forget(0)
		r.Forget(1)
		if n, first, last := r.Read(1, time.Hour, time.Hour); n != 0 || first != 0 || last != 0 {
			t.Errorf("read %d (%v-%v) of a forgotten source", n, first, last)
		}
	}
}

func TestRatesForgetAndCredit(t *testing.T) {
	r := NewRates(10)
	for i := range 30 {
		r.Count(1, time.Minute, 51, time.Duration(i+1)*time.Second)
	}
	r.Credit(1, -3)
	r.Credit(1, 22)
	if n, first, last := r.Read(1, time.Minute, 30*time.Second); n != 8 || first != 23*time.Second || last != 30*time.Second {
		t.Errorf("read %d (%v-%v) after a credit of 22 of 30", n, first, last)
	}
	r.Credit(1, 6)
	if n := r.Count(1, time.Minute, 51, 31*time.Second); n != 3 {
		t.Errorf("counted %d after a credit of 28 of 30", n)
	}
	r.Credit(1, 3)
	if r.Len() != 0 {
		t.Errorf("%d sources after a credit of everything", r.Len())
	}
	r.Count(1, time.Minute, 51, 32*time.Second)
	r.Count(1, time.Minute, 51, 32*time.Second)
	r.Forget(1)
	if n := r.Count(1, time.Minute, 51, 32*time.Second); n != 1 {
		t.Errorf("counted %d after it was forgotten", n)
	}
}

// A source that is known for a while keeps its messages when it is not any more, and
// again.
func TestRatesKeepMessagesBeyondALowerLimit(t *testing.T) {
	r := NewRates(10)
	for range 30 {
		r.Count(1, time.Second, 101, time.Second)
	}
	if n := r.Count(1, time.Second, 11, time.Second); n != 11 {
		t.Errorf("counted %d of at most 11", n)
	}
	if n := r.Count(1, time.Second, 101, time.Second); n != 31 {
		t.Errorf("counted %d, want the 30 of before and this one", n)
	}
}

// Ten tables full of spoofed sources, at a rate that fills one within the window: every
// message of the real attackers is counted, and memory stays what it is.
func TestRatesCountAttackersAmongTenMillionSpoofedSources(t *testing.T) {
	const (
		scale   = 40 // of ten million sources in a table of a million at 500000/s
		spoofed = 10_000_000 / scale
		rate    = 500_000 / scale
		window  = 2 * time.Second
		most    = 51
	)
	r := NewRates(1_000_000 / scale)
	const bound = 48*1_000_000/scale + 64<<10
	type attacker struct {
		rateLog
		next, every time.Duration
		burst       int
	}
	// One with 40/s from the start; from when the table is full one with 26/s, and
	// some that are silent for most of the time.
	attackers := []attacker{
		{next: 0, every: 25 * time.Millisecond, burst: 1},
		{next: 5 * time.Second, every: 154 * time.Millisecond, burst: 4},
	}
	for k := range 40 {
		next := 5*time.Second + time.Duration(k)*40*time.Millisecond
		attackers = append(attackers, attacker{next: next, every: 1600 * time.Millisecond, burst: 2 + k})
	}
	top := 0
	for i := range spoofed {
		now := time.Duration(i+1) * (time.Second / rate)
		for k := range attackers {
			a := &attackers[k]
			if now < a.next {
				continue
			}
			a.next += a.every
			for range a.burst {
				a.all = append(a.all, now)
				want := min(most, len(a.in(window, now)))
				if n := r.Count(Source(k+1), window, most, now); n != want {
					t.Fatalf("attacker %d at %v: counted %d, want %d", k, now, n, want)
				}
				top = max(top, want)
			}
		}
		if n := r.Count(rateSource(i), window, most, now); n != 1 {
			t.Fatalf("counted %d of a source seen once", n)
		}
	}
	if top != most {
		t.Errorf("the attackers came to %d only", top)
	}
	if r.Len() > 1_000_000/scale || r.Bytes() > bound {
		t.Errorf("%d sources in %d bytes, want at most %d", r.Len(), r.Bytes(), bound)
	}
}

// Many sources that send more than fits into their slots use up the chunks: who sends most
// is still counted.
func TestRatesCountTheWorstWhenChunksRunOut(t *testing.T) {
	const window, most = 2 * time.Second, 101
	r := NewRates(4000)
	for i := range r.shards {
		r.shards[i].maxChunks = 400
	}
	var l rateLog
	now := time.Second
	for round := range 20 {
		for k := range 3600 {
			now += 25 * time.Microsecond
			r.Count(rateSource(k), window, most, now)
			if k%400 != 0 {
				continue
			}
			l.all = append(l.all, now)
			if n, want := r.Count(1, window, most, now), min(most, len(l.in(window, now))); n != want {
				t.Fatalf("round %d: counted %d of the worst, want %d", round, n, want)
			}
		}
	}
	for i := range r.shards {
		table := &r.shards[i].rateTable
		if checkRateTable(t, table); int(table.fresh) < table.maxChunks {
			t.Errorf("%d chunks of %d were used", table.fresh, table.maxChunks)
		}
	}
}

// sourcesOf fills a table that holds as many sources as there are counts. Number i sends its
// messages at once, i/10 s later than the one before.
func sourcesOf(counts []int, chunks int) (t *rateTable, count func(s int, most int, now time.Duration) int) {
	table := newRateTable(maphash.MakeSeed(), len(counts))
	table.maxChunks = chunks
	count = func(s int, most int, now time.Duration) int {
		return table.count(Source(s), maphash.Comparable(table.seed, Source(s)), 2*time.Second, most, now)
	}
	for i, n := range counts {
		for range n {
			count(i+1, 1000, time.Second+time.Duration(i)*100*time.Millisecond)
		}
	}
	return &table, count
}

func TestRatesChooseWhomToForget(t *testing.T) {
	const none = 0
	for _, c := range []struct {
		name   string
		counts []int // of the sources from 1 on, most is 10
		after  time.Duration
		forget int
	}{
		{"the lowest count", []int{3, 2, 4, 5, 1, 3}, 0, 5},
		{"the oldest of the lowest", []int{3, 2, 2, 4, 2, 2}, 0, 2},
		{"one at half of the limit", []int{9, 7, 5, 8, 6, 6}, 0, 3},
		{"nobody beyond half of the limit", []int{9, 7, 6, 8, 6, 6}, 0, none},
		{"what has lapsed before all", []int{9, 1, 1, 1, 1, 1}, 1550 * time.Millisecond, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			table, count := sourcesOf(c.counts, 100)
			now := time.Second + 500*time.Millisecond + c.after
			if n := count(77, 10, now); n != 1 {
				t.Errorf("counted %d", n)
			}
			want := 2
			if c.forget == none {
				want = 1
			}
			if n := count(77, 10, now); n != want {
				t.Errorf("counted %d of the new one, want %d", n, want)
			}
			for i := range c.counts {
				s := Source(i + 1)
				if _, ok := table.find(s, maphash.Comparable(table.seed, s)); ok == (i+1 == c.forget) {
					t.Errorf("source %d: %v", i+1, ok)
				}
			}
			checkRateTable(t, table)
		})
	}
}

func TestRatesChooseWhoseChunksToTake(t *testing.T) {
	const none = 0
	for _, c := range []struct {
		name   string
		counts []int // the last one sends one more, and needs a chunk for it
		most   int
		after  time.Duration
		strip  int
		want   int
	}{
		{"none of those that sent more", []int{7, 8, 6, 4}, 30, 0, none, 4},
		{"the oldest of those that sent no more", []int{5, 5, 6, 4}, 30, 0, 1, 5},
		{"the lowest", []int{13, 6, 7, 14}, 30, 0, 2, 15},
		{"nobody's beyond half of the limit", []int{18, 16, 17, 27}, 30, 0, none, 27},
		{"nobody's, at the limit", []int{18, 16, 17, 27}, 27, 0, none, 27},
		{"what has lapsed before all", []int{18, 6, 7, 14}, 30, 1550 * time.Millisecond, 1, 15},
	} {
		t.Run(c.name, func(t *testing.T) {
			chunks := 1
			for _, n := range c.counts {
				if n > inline+1 {
					chunks += (n - 1 + perChunk - 1) / perChunk
				}
			}
			table, count := sourcesOf(c.counts, chunks)
			hungry, now := len(c.counts), time.Second+500*time.Millisecond+c.after
			if n := count(hungry, c.most, now); n != c.want {
				t.Errorf("counted %d, want %d", n, c.want)
			}
			for i, n := range c.counts {
				switch i + 1 {
				case hungry:
					n = c.want
				case c.strip:
					n = 1
				}
				s := Source(i + 1)
				if got, _, last := table.read(s, maphash.Comparable(table.seed, s), time.Hour, now); got != n || i+1 == hungry && last != now {
					t.Errorf("%d of source %d, want %d; the last at %v", got, s, n, last)
				}
			}
			checkRateTable(t, table)
		})
	}
}

func TestRatesTakeLapsedChunksBeforeThePoolGrows(t *testing.T) {
	table, count := sourcesOf(make([]int, 100), chunksAShard)
	for s := range 10 {
		for i := range 400 { // 31 chunks
			if n := count(s+1, 1000, time.Duration(s+1)*time.Minute); n != i+1 {
				t.Fatalf("counted %d of source %d, want %d", n, s, i+1)
			}
		}
	}
	if len(table.chunks) > 64 {
		t.Errorf("%d chunks for one list of 31 at a time", len(table.chunks))
	}
	checkRateTable(t, table)
}

func TestRatesReuseWhatLapsed(t *testing.T) {
	r := NewRates(1_000_000)
	now := time.Second
	for i := range 60_000 { // 1000 sources at a time, five messages each
		now += 200 * time.Microsecond
		for range 5 {
			if n := r.Count(rateSource(i), 200*time.Millisecond, 51, now); n == 0 {
				t.Fatal("not counted")
			}
		}
	}
	if r.Len() > 10_000 || r.Bytes() > 1<<20 {
		t.Errorf("%d sources in %d bytes of 1000 at a time", r.Len(), r.Bytes())
	}
}

func TestRatesAreSmallWhenIdle(t *testing.T) {
	if n := NewRates(1_000_000).Bytes(); n > 16<<10 {
		t.Errorf("%d bytes of nothing", n)
	}
	if n := NewRates(10).Bytes(); n > 1<<10 {
		t.Errorf("%d bytes of nothing for ten sources", n)
	}
}

func TestRatesHoldWhatTheyAreMadeFor(t *testing.T) {
	const most = 100_000 // 6.4 MB, as 64 MB for a million
	r := NewRates(most)
	for i := range most {
		for range 1 + i%3 {
			r.Count(rateSource(i), 2*time.Second, 51, time.Second+time.Duration(i)*time.Microsecond)
		}
	}
	if n := r.Len(); n < most*98/100 || n > most {
		t.Errorf("remembers %d of %d sources", n, most)
	}
	if n := r.Bytes(); n > 64*most {
		t.Errorf("%d bytes", n)
	}
}

func TestRatesAreSafeForConcurrentUse(t *testing.T) {
	const workers, each = 4, 5000
	r := NewRates(4096)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				now := time.Second + time.Duration(i)*time.Microsecond
				r.Count(1, time.Minute, 100_000, now)
				r.Count(rateSource(i*workers+w), time.Minute, 51, now)
				switch i % 100 {
				case 0:
					r.Read(1, time.Minute, now)
				case 1:
					r.Len()
					r.Bytes()
				case 2:
					r.Forget(rateSource(i))
				case 3:
					r.Credit(rateSource(i), 1)
				}
			}
		})
	}
	wg.Wait()
	if n, _, _ := r.Read(1, time.Minute, 2*time.Second); n != workers*each {
		t.Errorf("counted %d of %d", n, workers*each)
	}
}

func TestRatesDoNotAllocate(t *testing.T) {
	r := NewRates(100)
	s := SourceOf(netip.MustParseAddr("192.0.2.1"))
	now := time.Second
	for range 200 {
		r.Count(s, time.Second, 51, now)
	}
	if n := testing.AllocsPerRun(1000, func() {
		now += time.Millisecond
		r.Count(s, time.Second, 51, now)
		r.Read(s, time.Second, now)
	}); n != 0 {
		t.Errorf("%v allocations a message", n)
	}
}

func BenchmarkRatesCountOfAHotSource(b *testing.B) {
	for _, most := range []int{51, 501, 10_001} {
		b.Run(fmt.Sprint(most), func(b *testing.B) {
			r := NewRates(1_000_000)
			now := time.Second
			b.ReportAllocs()
			for b.Loop() {
				now += 100 * time.Microsecond
				r.Count(1, 2*time.Second, most, now)
			}
		})
	}
}

func BenchmarkRatesCountOfSpoofedSources(b *testing.B) {
	for _, c := range []struct {
		name string
		step time.Duration
	}{{"full", 2 * time.Microsecond}, {"lapsed", 4 * time.Microsecond}} {
		b.Run(c.name, func(b *testing.B) {
			r := NewRates(1_000_000)
			now, i := time.Second, 0
			count := func() {
				now += c.step
				r.Count(rateSource(i), 2*time.Second, 51, now)
				i++
			}
			for range 1_500_000 {
				count()
			}
			b.ReportAllocs()
			for b.Loop() {
				count()
			}
		})
	}
}

func BenchmarkRatesCountFromAllCores(b *testing.B) {
	r := NewRates(1_000_000)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		now := time.Second
		for i := rand.IntN(1 << 20); pb.Next(); i++ {
			now += time.Microsecond
			r.Count(rateSource(i%100_000), 2*time.Second, 51, now)
		}
	})
}

func BenchmarkRatesRead(b *testing.B) {
	const n = 1_000_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r := NewRates(n)
	for i := range n {
		for range 1 + i%3 {
			r.Count(rateSource(i), 2*time.Second, 51, time.Second)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	heap := float64(after.HeapAlloc) - float64(before.HeapAlloc)
	for _, c := range []struct {
		name string
		of   func(i int) Source
	}{
		{"one", func(int) Source { return rateSource(5) }},
		{"any of a million", func(i int) Source { return rateSource(i * 7919 % n) }},
		{"unknown", func(i int) Source { return rateSource(n + i) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r.Read(c.of(i), 2*time.Second, 2*time.Second)
			}
			b.ReportMetric(heap/float64(r.Len()), "heap-B/source")
		})
	}
}
