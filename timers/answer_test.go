package timers

import (
	"fmt"
	"testing"
	"time"
)

// answers is the table of the answers to a probe, a class a row.
var answers = []struct {
	row      string
	statuses []int
	class    Class
	proves   bool
}{
	{"2xx", []int{200, 202, 204, 299}, ClassAlive, true},
	{"481", []int{481}, ClassDead, false},
	{"404, 410, 416, 484, 485, 604", []int{404, 410, 416, 484, 485, 604}, ClassDeadIfRepeated, false},
	{"silence, 408, 480, 482, 483, 502, 503, 504", []int{0, 408, 480, 482, 483, 502, 503, 504}, ClassUnknown, false},
	{"491", []int{491}, ClassBusy, true},
	{"500", []int{500}, ClassOverlap, true},
	{"422", []int{422}, ClassTooSmall, true},
	{"405, 501", []int{405, 501}, ClassRefusedMethod, true},
	{"400, 403, 406, 415, 420, 488, 493, 606", []int{400, 403, 406, 415, 420, 488, 493, 606}, ClassRefusedSession, true},
	{"401, 407", []int{401, 407}, ClassWeak, true},
	{"3xx, other 4xx to 6xx", []int{300, 302, 399, 402, 413, 421, 423, 486, 487, 489, 499, 505, 513, 580, 600, 603, 699}, ClassUnknown, false},
	{"no final status", []int{-1, 100, 180, 199, 700, 1 << 30}, ClassUnknown, false},
}

func TestClassOfEachAnswer(t *testing.T) {
	for _, c := range answers {
		t.Run("C.5 "+c.row, func(t *testing.T) {
			for _, status := range c.statuses {
				got := Classify(status, false, false)
				if got != c.class || got.Proves() != c.proves {
					t.Errorf("%d: %v, proof %v", status, got, got.Proves())
				}
			}
		})
	}
}

func TestStrictTakesOnly2xxAnd481(t *testing.T) {
	for status := -1; status <= 700; status++ {
		want := ClassUnknown
		switch {
		case status == 481:
			want = ClassDead
		case status >= 200 && status < 300:
			want = ClassAlive
		}
		got := Classify(status, true, false)
		if got != want || got.Proves() != (want == ClassAlive) {
			t.Errorf("%d: %v, proof %v", status, got, got.Proves())
		}
	}
}

func TestEndOn408EndsAt408AndNothingElse(t *testing.T) {
	for _, strict := range []bool{false, true} {
		for status := -1; status <= 700; status++ {
			want := Classify(status, strict, false)
			if status == 408 {
				want = ClassDead
			}
			if got := Classify(status, strict, true); got != want {
				t.Errorf("%d, strict %v: %v, want %v", status, strict, got, want)
			}
		}
	}
}

func TestRepeatedAnswers(t *testing.T) {
	for _, c := range []struct {
		name      string
		prev, now int
		want      Class
	}{
		{"500 once is alive", 200, 500, ClassOverlap},
		{"500 after 500 is unknown", 500, 500, ClassUnknown},
		{"500 after 491 is alive", 491, 500, ClassOverlap},
		{"404 once is not the end", 200, 404, ClassDeadIfRepeated},
		{"404 after 404 is", 404, 404, ClassDead},
		{"410 after 404 is", 404, 410, ClassDead},
		{"404 after silence is not", 0, 404, ClassDeadIfRepeated},
		{"200 after 404 is alive", 404, 200, ClassAlive},
		{"silence after silence is unknown", 0, 0, ClassUnknown},
		{"491 after 491 is busy", 491, 491, ClassBusy},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Classify(c.now, false, false).After(Classify(c.prev, false, false)); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestClassesHaveDistinctNames(t *testing.T) {
	seen := map[string]Class{}
	for c := range Classes {
		name := c.String()
		if other, ok := seen[name]; ok || name == fmt.Sprintf("Class(%d)", uint8(c)) {
			t.Errorf("%d and %d are %q", c, other, name)
		}
		seen[name] = c
	}
	if got := Classes.String(); got != "Class(10)" {
		t.Errorf("past the last: %q", got)
	}
}

func TestRetryGlare(t *testing.T) {
	for _, c := range []struct {
		name         string
		towardsOwner bool
		lo, hi       time.Duration
	}{
		{"towards B: 2.1 to 4 s", false, 2100 * time.Millisecond, 4 * time.Second},
		{"towards A: 0 to 2 s", true, 0, 2 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := map[time.Duration]bool{}
			const draws = 10_000
			for i := range draws + 1 {
				d := RetryGlare(c.towardsOwner, float64(i)/draws)
				if d < c.lo || d > c.hi || d%(10*time.Millisecond) != 0 {
					t.Fatalf("draw %d: %v", i, d)
				}
				seen[d] = true
			}
			if want := int((c.hi-c.lo)/(10*time.Millisecond)) + 1; len(seen) != want {
				t.Errorf("%d different waits, want %d", len(seen), want)
			}
		})
	}
}
