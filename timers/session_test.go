package timers

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// policy is the one of an empty timers section.
func policy() *Policy {
	return &Policy{
		TTL:         600 * time.Second,
		Segments:    2,
		NoTimerMax:  7200 * time.Second,
		MinSE:       90 * time.Second,
		Insert:      InsertIfSupported,
		RejectSmall: true,
		Methods:     []ProbeMethod{ProbeUpdate, ProbeReinvite, ProbeOptions},
		ProbeA:      true,
		ProbeB:      true,
		Jitter:      0.1,
		T1:          500 * time.Millisecond,
		MaxEarly:    16,
	}
}

// with returns the default policy after change.
func with(change func(*Policy)) *Policy {
	p := policy()
	change(p)
	return p
}

// seconds makes lists of times readable.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// lab is a policy of small values: ttl in seconds, T1 in milliseconds.
func lab(ttl float64, segments, t1 int) *Policy {
	return with(func(p *Policy) {
		p.TTL, p.Segments, p.T1 = seconds(ttl), segments, time.Duration(t1)*time.Millisecond
	})
}

func TestIntervalIsAShareOfTheTTL(t *testing.T) {
	for _, c := range []struct {
		name string
		p    *Policy
		want time.Duration
	}{
		{"default", policy(), seconds(300)},
		{"three segments", lab(600, 3, 500), seconds(200)},
		{"no TTL, no probing", lab(0, 2, 500), 0},
		{"one segment goes 64 s before the deadline", lab(600, 1, 500), seconds(536)},
		{"one segment with early hangup goes 64 s before that", with(func(p *Policy) {
			p.Segments, p.EarlyHangup = 1, seconds(100)
		}), seconds(436)},
		{"one segment at the smallest safe TTL", lab(90, 1, 500), seconds(26)},
		{"one segment, transactions longer than the TTL", lab(90, 1, 2000), seconds(22.5)},
		{"early hangup at the interval does not meet the probe", with(func(p *Policy) {
			p.EarlyHangup = seconds(300)
		}), seconds(236)},
		{"lab, 6 s", lab(6, 2, 500), seconds(3)},
		{"lab, 6 s in one segment", lab(6, 1, 500), seconds(1.5)},
		{"lab, half a second", lab(0.5, 2, 500), seconds(0.25)},
		{"lab, below the tick of the wheel", lab(0.001, 20, 500), time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.p.Interval(); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestNextProbeIsSpreadByTheJitter(t *testing.T) {
	wide := func(p *Policy) { p.Jitter = 0.5 }
	for _, c := range []struct {
		name           string
		p              *Policy
		low, mid, high float64
	}{
		{"default", policy(), 270, 300, 330},
		{"none", with(func(p *Policy) { p.Jitter = 0 }), 300, 300, 300},
		{"wide", with(wide), 150, 300, 450},
		{"wide with an early hangup leaves room for a retry", with(func(p *Policy) {
			wide(p)
			p.EarlyHangup = seconds(200)
		}), 150, 243, 336},
		{"one segment leaves room for a retry", lab(600, 1, 500), 482.4, 509.2, 536},
		{"the smallest safe TTL has no room to be late", lab(90, 2, 500), 40.5, 42.75, 45},
		{"lab, 6 s with T1 to match", lab(6, 2, 10), 2.7, 3, 3.3},
		{"lab, 6 s", lab(6, 2, 500), 2.7, 2.85, 3},
		{"lab, half a second", lab(0.5, 2, 500), 0.225, 0.2375, 0.25},
	} {
		t.Run(c.name, func(t *testing.T) {
			from := 17 * time.Hour
			for draw, want := range map[float64]float64{0: c.low, 0.5: c.mid, 1: c.high} {
				got := c.p.NextProbe(from, draw) - from
				if d := got - seconds(want); d.Abs() > time.Microsecond {
					t.Errorf("draw %v: got %v, want %vs", draw, got, want)
				}
			}
		})
	}
}

func TestVerifyByIsTheTTLLessTheEarlyHangup(t *testing.T) {
	from := 17 * time.Hour
	if got := policy().VerifyBy(from) - from; got != seconds(600) {
		t.Errorf("default: %v", got)
	}
	early := lab(12, 2, 500) // matrix 44
	early.EarlyHangup = seconds(3)
	if got := early.VerifyBy(from) - from; got != seconds(9) {
		t.Errorf("early hangup of 3 s: %v", got)
	}
	if got := lab(0.5, 2, 500).VerifyBy(from) - from; got != seconds(0.5) {
		t.Errorf("lab: %v", got)
	}
}

func TestWithoutTTLNothingIsEverDue(t *testing.T) {
	p := lab(0, 2, 500)
	if at := p.NextProbe(time.Hour, 0.5); at != Never {
		t.Errorf("probe at %v", at)
	}
	if at := p.VerifyBy(time.Hour); at != Never {
		t.Errorf("deadline at %v", at)
	}
	if at, ok := p.Retry(0, time.Hour, 0, Never); ok {
		t.Errorf("retry at %v", at)
	}
}

// silence probes a leg that never answers and returns when, in seconds after
// the proof of life: each probe takes a transaction to fail, or until the
// deadline if that is sooner.
func silence(p *Policy, took time.Duration) []float64 {
	deadline := p.VerifyBy(0)
	at := p.Interval()
	list := []float64{at.Seconds()}
	for n := 0; ; n++ {
		var ok bool
		if at, ok = p.Retry(n, min(at+took, deadline), 0, deadline); !ok {
			return list
		}
		list = append(list, at.Seconds())
	}
}

func TestRetriesOfASilentLeg(t *testing.T) {
	for _, c := range []struct {
		name string
		p    *Policy
		took float64
		want []float64
	}{
		{"default: 10, 20, 40 s, the last 34 s before the deadline", policy(), 32, []float64{300, 342, 394, 466, 566}},
		{"answered at once with 503: 80 s repeat", policy(), 0, []float64{300, 310, 330, 370, 450, 530, 566}},
		{"smallest safe TTL", lab(90, 2, 500), 32, []float64{45}},
		{"smallest safe TTL, answered at once", lab(90, 2, 500), 0, []float64{45, 46.5, 49.5, 55.5, 56}},
		{"lab with T1 to match", lab(6, 2, 10), 0.64, []float64{3, 3.74, 4.58, 5.226667}},
		{"lab with T1 of the RFC", lab(6, 2, 500), 0.1, []float64{3, 3.2, 3.5, 4, 4.9, 5.8}},
		{"lab with T1 of the RFC, silent", lab(6, 2, 500), 32, []float64{3}},
		{"lab, half a second", lab(0.5, 2, 500), 0, []float64{0.25, 0.258333, 0.275, 0.308333, 0.375, 0.441667}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := silence(c.p, seconds(c.took))
			if g, w := fmt.Sprintf("%.3f", got), fmt.Sprintf("%.3f", c.want); g != w {
				t.Errorf("got  %s\nwant %s", g, w)
			}
		})
	}
}

func TestRetryWaits(t *testing.T) {
	for n, want := range map[int]float64{-1: 10, 0: 10, 1: 20, 2: 40, 3: 80, 4: 80, 1 << 40: 80} {
		at, ok := policy().Retry(n, seconds(100), 0, seconds(600))
		if !ok || at != seconds(100+want) {
			t.Errorf("retry %d: %v, %v", n, at-seconds(100), ok)
		}
	}
}

// A leg that asks for time gets it, but is asked more than once before the deadline.
func TestRetryAfterCostsNoCall(t *testing.T) {
	for _, c := range []struct {
		name       string
		p          *Policy
		now, after float64
		want       float64
	}{
		{"less than the wait", policy(), 300, 5, 310},
		{"more than the wait", policy(), 300, 60, 360},
		{"half of what is left", policy(), 300, 133, 433},
		{"more than that", policy(), 300, 134, 433},
		{"for ever", policy(), 433, 1e7, 499.5},
		{"close to the end", policy(), 550, 1e7, 560},
		{"lab without room", lab(6, 2, 500), 3, 30, 4.5},
		{"lab without room, close to the end", lab(6, 2, 500), 5.85, 30, 5.95},
	} {
		t.Run(c.name, func(t *testing.T) {
			at, ok := c.p.Retry(0, seconds(c.now), seconds(c.after), c.p.VerifyBy(0))
			if !ok || at != seconds(c.want) {
				t.Errorf("%v, %v", at, ok)
			}
		})
	}
}

// anyPolicy is a policy that the configuration accepts: safe, or of a lab.
func anyPolicy(r *rand.Rand) *Policy {
	p := with(func(p *Policy) {
		p.Segments = 1 + r.IntN(20)
		p.Jitter = float64(r.IntN(51)) / 100
		p.Insert = Insert(r.IntN(3))
		p.Detect = Detect(r.IntN(2))
		p.RejectSmall = r.IntN(2) == 0
	})
	margin := 40 * time.Second
	if r.IntN(2) == 0 {
		p.TTL = 90*time.Second + time.Duration(r.Int64N(int64(24*time.Hour)))
		p.MinSE = 90*time.Second + time.Duration(r.Int64N(int64(time.Hour)))
	} else {
		p.TTL = 10*time.Millisecond + time.Duration(r.Int64N(int64(time.Minute)))
		p.MinSE = time.Duration(1 + r.Int64N(int64(time.Minute)))
		p.T1 = time.Millisecond + time.Duration(r.Int64N(int64(500*time.Millisecond)))
		margin = 0
	}
	if most := p.TTL - p.TTL/time.Duration(p.Segments) - margin; most > 0 {
		p.EarlyHangup = time.Duration(r.Int64N(int64(most + 1)))
	}
	return p
}

func TestEveryProbeComesBeforeTheDeadline(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		p := anyPolicy(r)
		from := time.Duration(r.Int64N(int64(time.Hour)))
		at, deadline := p.NextProbe(from, r.Float64()), p.VerifyBy(from)
		if at <= from || at >= deadline {
			t.Fatalf("%+v: probe %v and deadline %v after the proof", p, at-from, deadline-from)
		}
	}
}

func TestRetriesAdvanceAndEnd(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		p := anyPolicy(r)
		at, deadline := p.NextProbe(0, r.Float64()), p.VerifyBy(0)
		last := deadline
		if p.hasRoom(p.Interval()) {
			last -= p.attempt()
		}
		after := func() time.Duration { return time.Duration(r.Int64N(2)) * time.Duration(r.Int64N(int64(24*time.Hour))) }
		for n := 0; ; n++ {
			now := at
			var ok bool
			if at, ok = p.Retry(n, now, after(), deadline); !ok {
				break
			}
			if at <= now || at > last || n > 1000 {
				t.Fatalf("%+v: retry %d at %v, failed at %v, last start %v", p, n, at, now, last)
			}
		}
	}
}

func TestWordsOfTheConfiguration(t *testing.T) {
	for _, c := range []struct {
		got  fmt.Stringer
		want string
	}{
		{InsertNever, "never"}, {InsertIfSupported, "if_uac_supports"}, {InsertAlways, "always"}, {Insert(9), "Insert(9)"},
		{DetectAny, "any"}, {DetectSE, "session_expires"}, {Detect(9), "Detect(9)"},
		{ExpiryProbe, "probe"}, {ExpiryDropState, "drop_state"}, {ExpiryBYE, "bye"}, {OnExpiry(9), "OnExpiry(9)"},
		{ProbeNone, ""}, {ProbeUpdate, "update"}, {ProbeReinvite, "reinvite"}, {ProbeOptions, "options"},
		{ProbeOptionsStale, "options_stale"}, {ProbeMethod(9), "ProbeMethod(9)"},
		{ModeNone, ""}, {ModeR, "R"}, {ModeP, "P"}, {ModeN, "N"}, {Mode(9), "Mode(9)"},
		{RefresherNone, ""}, {RefresherUAC, "uac"}, {RefresherUAS, "uas"}, {Refresher(9), "Refresher(9)"},
	} {
		if got := c.got.String(); got != c.want {
			t.Errorf("%T(%v): want %q", c.got, got, c.want)
		}
	}
}
