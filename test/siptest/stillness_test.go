package siptest

import (
	"testing"
	"time"
)

func TestStillness(t *testing.T) {
	var s Stillness
	at := func(ms int) time.Time { return time.Time{}.Add(time.Duration(ms) * time.Millisecond) }
	s.note(at(0), at(10))      // as good as in time
	s.note(at(100), at(605))   // from 105 to 605
	s.note(at(1000), at(1105)) // from 1005 to 1105
	for _, test := range []struct{ from, to, want int }{
		{0, 100, 0},
		{0, 2000, 600},
		{205, 2000, 500},
		{0, 205, 100},
		{300, 400, 100},
		{605, 1005, 0},
		{1055, 1055, 0},
	} {
		if got := s.Between(at(test.from), at(test.to)); got != time.Duration(test.want)*time.Millisecond {
			t.Errorf("from %d to %d: %s, want %d ms", test.from, test.to, got, test.want)
		}
	}
	for i := range 2 * stillMost {
		s.note(at(2000+100*i), at(2100+100*i))
	}
	if n := len(s.gaps); n != stillMost {
		t.Errorf("%d gaps are kept", n)
	}
}
