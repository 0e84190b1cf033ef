package dialog

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sipward/sipward/timers"
)

func TestCallEndsByBYE(t *testing.T) {
	l := newLab(t)
	l.talks("", "")
	l.pass(time.Minute)
	l.does(A, "BYE", 2, 200)
	l.over(ByBYE)
	if e := l.ended[0]; e.By != Caller || e.Duration() != time.Minute || e.Backend != 7 {
		t.Errorf("%+v", e)
	}
}

func TestFirstAnswerIsFollowedWhateverTheBoundsSay(t *testing.T) {
	for _, c := range []struct {
		name     string
		early    int // of the policy
		capacity int
		ringing  int // To tags before the answer
	}{
		{"one dialog for each INVITE", 1, 100, 1},
		{"full store", 16, 1, 1},
		{"fork bomb", 16, 100, 1000},
		{"fork bomb in a full store", 16, 4, 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, func(p *timers.Policy) { p.MaxEarly = c.early })
			l.s.Capacity = c.capacity
			l.invites("")
			for i := range c.ringing {
				l.rings(fmt.Sprint("fork", i), "")
				if n := l.s.Len(); n > min(c.early, c.capacity) {
					t.Fatalf("%d dialogs", n)
				}
			}
			l.answers("tb", "")
			l.acks("tb")
			if n := l.s.Len(); n > c.early+1 {
				t.Errorf("%d dialogs", n)
			}
			l.until(time.Second + 7200*time.Second)
			l.over(NoTimerDuration)
		})
	}
}

func TestLateFailureAfterTheAnswerChangesNothing(t *testing.T) {
	l := newLab(t)
	d := l.talks("", "")
	var fx Effects
	l.call.Failure(&fx, 487, Caller, ByCancel, l.now)
	l.call.Abandon()
	l.take(&fx)
	if d.state != confirmed || len(l.ended) != 0 {
		t.Errorf("%v, %d records", d.state, len(l.ended))
	}
	l.does(B, "BYE", 1, 200)
	l.over(ByBYE)
}

func TestEachForkEndsByItself(t *testing.T) {
	l := newLab(t)
	l.invites("")
	l.rings("t0", "")
	for i := range 3 {
		l.answers(fmt.Sprint("t", i), "")
		l.acks(fmt.Sprint("t", i))
	}
	for i := range 3 {
		m := l.message("BYE sip:x@192.0.2.3 SIP/2.0", identity(A, fmt.Sprint("t", i), "BYE", 2))
		var fx Effects
		v := l.find(m).Request(&fx, m, labFlow, 0, l.now)
		l.take(&fx)
		if len(l.ended) != 0 {
			t.Fatal("a record before the last dialog ended")
		}
		v.Tx.Final(&fx, l.response(B, 200, fmt.Sprint("t", i), "BYE", 2, "", ""), 200, l.now)
		fx.Acts, l.ended = nil, append(l.ended, fx.Ended...)
	}
	l.over(ByBYE)
}

func TestCallsThatFail(t *testing.T) {
	for _, why := range []Reason{Rejected, ByCancel, TimedOut, RangTooLong, Failed} {
		t.Run(why.String(), func(t *testing.T) {
			l := newLab(t)
			l.invites("")
			l.rings("x", "")
			l.rings("y", "")
			var fx Effects
			l.call.Failure(&fx, 486, Callee, why, l.now)
			l.take(&fx)
			l.over(why)
			if l.ended[0].Answered != 0 || l.ended[0].Status != 486 {
				t.Errorf("%+v", l.ended[0])
			}
		})
	}
}

func TestChallengedAndAbandonedINVITEsLeaveNoRecord(t *testing.T) {
	for name, end := range map[string]func(*Call, *Effects){
		"challenge": func(c *Call, fx *Effects) { c.Failure(fx, 401, Callee, NoReason, time.Second) },
		"abandoned": func(c *Call, _ *Effects) { c.Abandon() },
		"abandoned while it rang": func(c *Call, _ *Effects) {
			l := newLab(t)
			c.Provisional(l.response(B, 180, "x", "INVITE", 1, "", ""), time.Second)
			c.Provisional(l.response(B, 180, "y", "INVITE", 1, "", ""), time.Second)
			c.Abandon()
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			var fx Effects
			end(l.invites(""), &fx)
			l.empty()
			if s := l.s.Stats(l.now); len(fx.Ended) != 0 || s.Attempts != 0 || s.Ringing != 0 {
				t.Errorf("%d records, %+v", len(fx.Ended), s)
			}
		})
	}
}

func TestStoreRefusesWhatIsTooMuchOrTooLong(t *testing.T) {
	l := newLab(t)
	long := make([]byte, maxText)
	for i := range long {
		long[i] = 'x'
	}
	for _, lines := range []string{
		"Record-Route: <sip:" + string(long[:maxRoutes]) + ";lr>\r\n",
		"Record-Route: <sip:h;lr>" + string(repeated(",<sip:h;lr>", maxHops)) + "\r\n",
	} {
		if _, refusal := l.opens(lines); refusal != TooLong {
			t.Errorf("%v", refusal)
		}
	}
	l.s.Capacity = 1
	l.invites("")
	if _, refusal := l.opens(""); refusal != Full {
		t.Errorf("%v", refusal)
	}
	var fx Effects
	l.call.Failure(&fx, 486, Callee, Rejected, l.now)
	l.empty()
}

func repeated(s string, n int) (b []byte) {
	for range n {
		b = append(b, s...)
	}
	return b
}

// Listings, requests and timers meet calls that begin and end.
func TestConcurrentUse(t *testing.T) {
	l := newLab(t)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for _, f := range []func(){
		func() { l.s.All(func(c *Call) bool { c.Report(); return true }) },
		func() { l.s.Modes(); l.s.Stats(l.now) },
		func() {
			l.s.All(func(c *Call) bool {
				var fx Effects
				c.Due(&fx, timers.NewPace(1e6), time.Second)
				return true
			})
		},
	} {
		readers.Add(1)
		go func() {
			defer readers.Done()
			for {
				select {
				case <-done:
					return
				default:
					f()
				}
			}
		}()
	}
	for range 200 {
		l.talks(labTimer, labUpdate)
		l.does(A, "BYE", 2, 200)
	}
	close(done)
	readers.Wait()
	if l.ended = l.ended[:1]; l.ended[0].Reason != ByBYE {
		t.Error(l.ended[0].Reason)
	}
	l.empty()
}
