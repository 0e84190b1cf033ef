package proxy

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/resolve"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// An ownRun is a request of the edge's own in a test.
type ownRun struct {
	*ownRequest
	lab   *lab
	began time.Duration
	then  func(w *scratch) // called with the result

	mu   sync.Mutex
	told []string // "<status>" or "failed", and when
	acks int      // how often the ACK was asked for
}

// own makes a request to the first backend.
func (l *lab) own() *ownRun {
	return l.ownOn(l.e.net.Listeners()[0].FlowTo(l.pbx[0].addr))
}

func (l *lab) ownOn(f transport.Flow) *ownRun {
	r := &ownRun{lab: l}
	r.ownRequest = &ownRequest{edge: l.e, snap: l.e.snap.Load(), flow: f, answered: r.result, ack: r.ackText}
	return r
}

func (r *ownRun) result(w *scratch, status int, failed bool, now time.Duration) {
	r.ownRequest.mu.Lock() // it would hang if the lock were held
	if !r.ownRequest.told {
		r.lab.Error("a result is told that was not noted")
	}
	r.ownRequest.mu.Unlock()
	what := fmt.Sprint(status)
	if failed {
		what = "failed"
	}
	if status != 0 && w.msg.Status != status {
		r.lab.Errorf("told %d, the response says %d", status, w.msg.Status)
	}
	r.mu.Lock()
	r.told = append(r.told, fmt.Sprintf("%s at %s", what, (now-r.began).Truncate(100*time.Millisecond)))
	r.mu.Unlock()
	if r.then != nil {
		r.then(w)
	}
}

func (r *ownRun) ackText(w *scratch) []byte {
	r.mu.Lock()
	r.acks++
	r.mu.Unlock()
	start := len(w.arena)
	w.arena = append(w.arena, r.text(wire.ACK, r.appendVia(nil, ackVia))...)
	return w.arena[start:]
}

func (r *ownRun) text(method wire.Method, via []byte) string {
	return crlf(fmt.Sprintf("%s sip:bob@192.0.2.7 SIP/2.0\n%sMax-Forwards: 70\nRoute: <sip:192.0.2.8;lr>\nFrom: <sip:alice@example.org>;tag=a\nTo: <sip:bob@example.org>;tag=b\nCall-ID: own\nCSeq: 7 %s\nContent-Length: 0\n\n", method, via, method))
}

// begin queues the request in w.
func (r *ownRun) begin(w *scratch, method wire.Method) bool {
	r.began = r.lab.e.wheel.Now()
	return r.start(w, method, r.began, func(dst, via []byte) []byte {
		return append(dst, r.text(method, via)...)
	})
}

// sends starts it.
func (r *ownRun) sends(method wire.Method) *ownRun {
	r.lab.Helper()
	w := r.lab.e.scratch()
	defer r.lab.e.release(w)
	if !r.begin(w, method) {
		r.lab.Fatal("the table is full")
	}
	w.flush()
	return r
}

// wasTold checks the results that were told.
func (r *ownRun) wasTold(want ...string) {
	r.lab.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.told, want) {
		r.lab.Errorf("told %q, want %q", r.told, want)
	}
}

// hears lets time pass and says what came when.
func (p *peer) hears(d time.Duration) (all []string) {
	began := time.Now()
	pass(50 * time.Millisecond) // between the grid of the timers
	for ; time.Since(began) < d; pass(100 * time.Millisecond) {
		synctest.Wait()
		for m := p.getsWithin(0); m != nil; m = p.getsWithin(0) {
			all = append(all, fmt.Sprintf("%s %.1f", title(m), time.Since(began).Truncate(100*time.Millisecond).Seconds()))
		}
	}
	return all
}

func TestOwnRequestIsRepeatedUntilItsTimeIsOver(t *testing.T) {
	for _, c := range []struct {
		name     string
		method   wire.Method
		deadline time.Duration
		status   int // of a provisional response, at once
		heard    string
		told     string
		rest     time.Duration // until nothing is left
	}{
		{"timers E and F", wire.UPDATE, 0, 0, "0.5 1.5 3.5 7.5 11.5 15.5 19.5 23.5 27.5 31.5", "0 at 32s", 0},
		{"timer E after a provisional", wire.BYE, 0, 100, "0.5 4.5 8.5 12.5 16.5 20.5 24.5 28.5", "0 at 32s", 0},
		{"a deadline", wire.OPTIONS, 3 * time.Second, 0, "0.5 1.5", "0 at 3s", 0},
		{"a deadline that is far off", wire.OPTIONS, time.Hour, 0, "0.5 1.5 3.5 7.5 11.5 15.5 19.5 23.5 27.5 31.5", "0 at 32s", 0},
		{"timers A and B", wire.INVITE, 0, 0, "0.5 1.5 3.5 7.5 15.5 31.5", "0 at 32s", 65 * time.Second},
		{"a deadline of an INVITE that nobody hears", wire.INVITE, 5 * time.Second, 0, "0.5 1.5 3.5", "0 at 5s", 92 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			inLab(t, 1, nil, func(t *testing.T, l *lab) {
				pass(time.Second)
				r := l.own()
				if c.deadline != 0 {
					r.deadline = l.e.wheel.Now() + c.deadline
				}
				r.sends(c.method)
				first := l.pbx[0].get(c.method.String())
				if v := string(first.Bytes(first.TopVia.Value)); !strings.Contains(v, ";rport;") || first.Vias != 1 {
					t.Errorf("Via: %s", v)
				}
				if c.status != 0 {
					l.pbx[0].answers(first, c.status, "")
				}
				heard := strings.Join(l.pbx[0].hears(40*time.Second), " ")
				if got := strings.ReplaceAll(heard, c.method.String()+" ", ""); got != c.heard {
					t.Errorf("heard at %s, want %s", got, c.heard)
				}
				r.wasTold(c.told)
				pass(c.rest)
				l.atRest()
				r.wasTold(c.told)
				if n := l.e.Counters().Held; n != 0 {
					t.Errorf("%d bytes are held", n)
				}
			})
		})
	}
}

func TestOwnRequestIsAnswered(t *testing.T) {
	for _, status := range []int{200, 202, 302, 401, 408, 481, 503, 603} {
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			r := l.own().sends(wire.UPDATE)
			m := l.pbx[0].get("UPDATE")
			l.pbx[0].answers(m, 100, "")
			r.wasTold()
			l.pbx[0].answers(m, status, "")
			l.atRest()
			l.pbx[0].answers(m, status, "") // a copy is a stray
			r.wasTold(fmt.Sprint(status, " at 0s"))
			if c := l.e.Counters(); c.Stray != 1 {
				t.Errorf("%d strays", c.Stray)
			}
			l.pbx[0].nothing()
		})
	}
}

// RFC 6026: every copy of the 2xx gets the ACK again, byte for byte (matrix no. 20).
func TestOwnInviteAcknowledgesEveryCopyOfIts2xx(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		pbx := l.pbx[0]
		r := l.own().sends(wire.INVITE)
		inv := pbx.get("INVITE")
		pbx.answers(inv, 180, "")
		var first *wire.Msg
		for i := range 6 {
			pbx.answers(inv, 200, "")
			ack := pbx.get("ACK")
			if first == nil {
				first = ack
			}
			if !bytes.Equal(ack.Buf, first.Buf) {
				t.Errorf("ACK %d differs:\n%s\n%s", i, ack.Buf, first.Buf)
			}
			pass(5 * time.Second)
		}
		if first.CSeq != inv.CSeq || bytes.Equal(first.Bytes(first.TopVia.Branch), inv.Bytes(inv.TopVia.Branch)) {
			t.Errorf("the ACK:\n%s", first.Buf)
		}
		r.wasTold("200 at 0s")
		if r.acks != 1 {
			t.Errorf("%d ACKs were built", r.acks)
		}
		pbx.nothing()
		pass(3 * time.Second) // timer M began with the first
		l.atRest()
		pbx.answers(inv, 200, "")
		pbx.nothing()
	})
}

// 17.1.1.3: the ACK for a failure has the branch and the CSeq number of the INVITE.
func TestOwnInviteAcknowledgesAFailureHopByHop(t *testing.T) {
	for _, status := range []int{302, 401, 486, 487, 491, 500, 603} {
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			pbx := l.pbx[0]
			r := l.own().sends(wire.INVITE)
			inv := pbx.get("INVITE")
			for range 3 {
				pbx.answers(inv, status, "")
				ack := pbx.get("ACK")
				for _, same := range [][2][]byte{
					{ack.Bytes(ack.TopVia.Branch), inv.Bytes(inv.TopVia.Branch)}, {ack.Bytes(ack.RURI), inv.Bytes(inv.RURI)},
					{ack.Value(wire.KindRoute), inv.Value(wire.KindRoute)}, {ack.Value(wire.KindTo), inv.Value(wire.KindTo)},
				} {
					if !bytes.Equal(same[0], same[1]) {
						t.Errorf("%s instead of %s", same[0], same[1])
					}
				}
				if ack.CSeq != 7 {
					t.Errorf("CSeq %d", ack.CSeq)
				}
			}
			pbx.answers(inv, 200, "") // too late, and from nobody who was asked
			pbx.nothing()
			r.wasTold(fmt.Sprint(status, " at 0s"))
			if r.acks != 0 {
				t.Error("an ACK for a 2xx was built")
			}
			pass(33 * time.Second)
			l.atRest()
		})
	}
}

// ringing brings an INVITE to where it is cancelled: 32 s after its first 1xx.
func (l *lab) ringing() (*ownRun, *wire.Msg) {
	l.Helper()
	pbx := l.pbx[0]
	r := l.own().sends(wire.INVITE)
	inv := pbx.get("INVITE")
	pass(100 * time.Millisecond)
	pbx.answers(inv, 180, "")
	for range 31 { // more of them do not extend it
		pass(time.Second)
		pbx.answers(inv, 180, "")
	}
	pbx.nothing()
	r.wasTold()
	pass(1100 * time.Millisecond)
	return r, inv
}

func TestOwnInviteIsCancelledWhenItRingsTooLong(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		pbx := l.pbx[0]
		r, inv := l.ringing()
		cancel := pbx.get("CANCEL")
		if cancel.CSeq != inv.CSeq || !bytes.Equal(cancel.Bytes(cancel.TopVia.Branch), inv.Bytes(inv.TopVia.Branch)) ||
			!bytes.Equal(cancel.Value(wire.KindTo), inv.Value(wire.KindTo)) {
			t.Errorf("the CANCEL:\n%s", cancel.Buf)
		}
		pass(520 * time.Millisecond)
		pbx.get("CANCEL") // timer E
		pbx.answers(cancel, 200, "")
		pass(5 * time.Second)
		pbx.nothing()
		r.wasTold()
		for range 2 {
			pbx.answers(inv, 487, "")
			pbx.get("ACK")
		}
		r.wasTold("487 at 37.7s")
		pass(33 * time.Second)
		l.atRest()
		r.wasTold("487 at 37.7s")
	})
}

func TestOwnInviteIsAnsweredWhileItIsCancelled(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		pbx := l.pbx[0]
		r, inv := l.ringing()
		cancel := pbx.get("CANCEL")
		pbx.answers(inv, 200, "")
		pbx.get("ACK")
		pbx.answers(cancel, 481, "")
		pbx.answers(inv, 200, "")
		pbx.get("ACK")
		pass(5 * time.Second)
		pbx.nothing() // the CANCEL is not repeated
		r.wasTold("200 at 32.2s")
		pass(28 * time.Second)
		l.atRest()
	})
}

// A peer that was given up must have its ACK all the same: without it, it would end
// the call.
func TestOwnInviteAcknowledgesALateAnswer(t *testing.T) {
	t.Run("unheeded CANCEL", func(t *testing.T) {
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			pbx := l.pbx[0]
			r, inv := l.ringing()
			pass(33 * time.Second)
			pbx.skip()
			r.wasTold("0 at 1m4.1s")
			pass(30 * time.Second)
			for range 3 { // 64*T1 from the first
				pbx.answers(inv, 200, "")
				pbx.get("ACK")
				pass(11 * time.Second)
			}
			if r.acks != 1 {
				t.Errorf("%d ACKs were built", r.acks)
			}
			r.wasTold("0 at 1m4.1s")
			l.atRest()
		})
	})
	t.Run("success after timer B", func(t *testing.T) {
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			pbx := l.pbx[0]
			r := l.own().sends(wire.INVITE)
			inv := pbx.get("INVITE")
			pass(33 * time.Second)
			pbx.skip()
			pbx.answers(inv, 180, "")
			pbx.nothing()
			pbx.answers(inv, 200, "")
			pbx.get("ACK")
			r.wasTold("0 at 32s")
		})
	})
	t.Run("failure after timer B", func(t *testing.T) {
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			pbx := l.pbx[0]
			r := l.own().sends(wire.INVITE)
			inv := pbx.get("INVITE")
			pass(33 * time.Second)
			pbx.skip()
			for range 2 {
				pbx.answers(inv, 500, "")
				ack := pbx.get("ACK")
				if !bytes.Equal(ack.Bytes(ack.TopVia.Branch), inv.Bytes(inv.TopVia.Branch)) {
					t.Errorf("%s", ack.Buf)
				}
			}
			r.wasTold("0 at 32s")
			pass(33 * time.Second)
			l.atRest()
		})
	})
	t.Run("deadline before a provisional", func(t *testing.T) {
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			pbx := l.pbx[0]
			r := l.own()
			r.deadline = l.e.wheel.Now() + 5*time.Second
			r.sends(wire.INVITE)
			inv := pbx.get("INVITE")
			pass(5100 * time.Millisecond)
			pbx.skip()
			r.wasTold("0 at 5s")
			pbx.answers(inv, 100, "") // now it may be cancelled (9.1)
			cancel := pbx.get("CANCEL")
			pbx.answers(cancel, 200, "")
			pbx.answers(inv, 487, "")
			pbx.get("ACK")
			r.wasTold("0 at 5s")
			pass(33 * time.Second)
			l.atRest()
		})
	})
	t.Run("deadline after a provisional", func(t *testing.T) {
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			pbx := l.pbx[0]
			r := l.own()
			r.deadline = l.e.wheel.Now() + 5*time.Second
			r.sends(wire.INVITE)
			inv := pbx.get("INVITE")
			pbx.answers(inv, 100, "")
			pass(5100 * time.Millisecond)
			pbx.get("CANCEL")
			r.wasTold("0 at 5s")
			pbx.answers(inv, 200, "")
			pbx.get("ACK")
			r.wasTold("0 at 5s")
			pass(33 * time.Second)
			l.atRest()
		})
	})
}

// What does not belong to it changes nothing.
func TestOwnRequestHeedsItsMethodOnly(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		pbx := l.pbx[0]
		r := l.own().sends(wire.INVITE)
		inv := pbx.get("INVITE")
		for _, method := range []string{"CANCEL", "BYE", "ACK", "FOO"} {
			pbx.sends(strings.Replace(response(inv, 200, ""), "7 INVITE", "7 "+method, 1))
		}
		r.wasTold()
		pbx.nothing()
		if c := l.e.Counters(); c.Stray != 4 {
			t.Errorf("%d strays", c.Stray)
		}
	})
}

// A failure to send it, at once or by ICMP, is its result.
func TestOwnRequestFails(t *testing.T) {
	for _, method := range []wire.Method{wire.BYE, wire.INVITE} {
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			r := l.ownOn(l.e.net.Listeners()[0].FlowTo(netip.MustParseAddrPort("127.0.0.1:0"))).sends(method)
			r.wasTold("failed at 0s")
			l.atRest()
		})
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			f := l.e.net.Listeners()[0].FlowTo(l.pbx[0].addr)
			r := l.own().sends(method)
			m := l.pbx[0].get(method.String())
			l.e.Unreachable(l.e.net.Listeners()[0].FlowTo(l.phone.addr), m.Buf)
			r.wasTold()
			l.e.Unreachable(f, m.Buf)
			l.e.Unreachable(f, m.Buf)
			r.wasTold("failed at 0s")
			l.atRest()
		})
	}
	t.Run("not after its answer", func(t *testing.T) {
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			pbx := l.pbx[0]
			r := l.own().sends(wire.INVITE)
			inv := pbx.get("INVITE")
			pbx.answers(inv, 200, "")
			ack := pbx.get("ACK")
			l.e.Unreachable(l.e.net.Listeners()[0].FlowTo(pbx.addr), ack.Buf)
			l.e.Unreachable(l.e.net.Listeners()[0].FlowTo(pbx.addr), inv.Buf)
			pbx.answers(inv, 200, "")
			pbx.get("ACK")
			r.wasTold("200 at 0s")
		})
	})
}

func TestOwnRequestNeedsAPlaceInTheTable(t *testing.T) {
	inLab(t, 1, func(c *config.Config) { c.Limits.MaxTransactions = 1 }, func(t *testing.T, l *lab) {
		first, second := l.own().sends(wire.OPTIONS), l.own()
		w := l.e.scratch()
		if second.begin(w, wire.BYE) {
			t.Error("two in a table for one")
		}
		l.e.release(w)
		m := l.pbx[0].get("OPTIONS")
		l.pbx[0].nothing()
		l.pbx[0].answers(m, 200, "")
		first.wasTold("200 at 0s")
		second.wasTold()
		l.atRest()
	})
}

// What a result leads to is sent, whatever brought the result.
func TestOwnRequestsFollowEachOther(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(l *lab, m *wire.Msg)
	}{
		{"answer", func(l *lab, m *wire.Msg) { l.pbx[0].answers(m, 481, "") }},
		{"silence", func(*lab, *wire.Msg) { pass(33 * time.Second) }},
		{"ICMP", func(l *lab, m *wire.Msg) { l.e.Unreachable(l.e.net.Listeners()[0].FlowTo(l.pbx[0].addr), m.Buf) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			inLab(t, 1, nil, func(t *testing.T, l *lab) {
				r, next := l.own(), l.own()
				r.then = func(w *scratch) { next.begin(w, wire.BYE) }
				r.sends(wire.UPDATE)
				m := l.pbx[0].get("UPDATE")
				c.end(l, m)
				m = l.pbx[0].getsWithin(100)
				for title(m) == "UPDATE" {
					m = l.pbx[0].getsWithin(100)
				}
				if title(m) != "BYE" {
					t.Fatalf("%s instead of BYE", title(m))
				}
				l.pbx[0].answers(m, 200, "")
				l.atRest()
			})
		})
	}
	t.Run("failure to send", func(t *testing.T) {
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			r, next := l.ownOn(l.e.net.Listeners()[0].FlowTo(netip.MustParseAddrPort("127.0.0.1:0"))), l.own()
			r.then = func(w *scratch) { next.begin(w, wire.BYE) }
			r.sends(wire.UPDATE)
			l.pbx[0].answers(l.pbx[0].get("BYE"), 200, "")
			l.atRest()
		})
	})
}

// leftNothing is atRest after panics that were meant.
func (l *lab) leftNothing(panics uint64) {
	l.Helper()
	synctest.Wait()
	if c := l.e.Counters(); c.Transactions != 0 || c.Timers != 0 || c.Held != 0 || c.Panics != panics {
		l.Errorf("left over: %+v", c)
	}
}

func TestPanicInAnOwnRequest(t *testing.T) {
	t.Run("while it is built", func(t *testing.T) {
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			r := l.own()
			w := l.e.scratch()
			func() {
				defer func() {
					if recover() == nil {
						t.Error("the panic is swallowed")
					}
				}()
				r.start(w, wire.BYE, l.e.wheel.Now(), func(_, _ []byte) []byte { panic("meant") })
			}()
			w.flush()
			l.e.release(w)
			l.pbx[0].nothing()
			r.wasTold()
			l.leftNothing(0)
		})
	})
	t.Run("when the result is told", func(t *testing.T) {
		for _, method := range []wire.Method{wire.BYE, wire.INVITE} {
			inLab(t, 1, nil, func(t *testing.T, l *lab) {
				r := l.own()
				r.then = func(*scratch) { panic("meant") }
				r.sends(method)
				m := l.pbx[0].get(method.String())
				l.pbx[0].answers(m, 200, "")
				l.pbx[0].answers(m, 200, "")
				r.wasTold("200 at 0s")
				if method == wire.INVITE {
					l.pbx[0].get("ACK") // for the copy
				}
				pass(33 * time.Second)
				l.leftNothing(1)
			})
			inLab(t, 1, nil, func(t *testing.T, l *lab) {
				r := l.own()
				r.then = func(*scratch) { panic("meant") }
				r.sends(method)
				pass(33 * time.Second)
				r.wasTold("0 at 32s")
				pass(65 * time.Second)
				l.leftNothing(1)
			})
		}
	})
	t.Run("while its ACK is built", func(t *testing.T) {
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			r := l.own()
			r.ack = func(*scratch) []byte { panic("meant") }
			r.sends(wire.INVITE)
			m := l.pbx[0].get("INVITE")
			l.pbx[0].answers(m, 200, "")
			l.pbx[0].answers(m, 200, "")
			l.pbx[0].nothing()
			r.wasTold("200 at 0s") // all the same
			pass(33 * time.Second)
			l.leftNothing(1)
		})
	})
	t.Run("in a response", func(t *testing.T) {
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			r := l.own().sends(wire.INVITE)
			inv := l.pbx[0].get("INVITE")
			l.broken(&r.ownRequest.mu, &r.snap, func() { l.pbx[0].answers(inv, 200, "") })
			r.wasTold()
			l.pbx[0].answers(inv, 200, "")
			l.pbx[0].get("ACK")
			r.wasTold("200 at 0s")
			pass(33 * time.Second)
			l.leftNothing(1)
		})
	})
	t.Run("in every timer", func(t *testing.T) {
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			r := l.own().sends(wire.UPDATE)
			l.pbx[0].get("UPDATE")
			l.broken(&r.ownRequest.mu, &r.snap, func() { pass(5 * time.Second) })
			r.wasTold("failed at 500ms")
			l.leftNothing(maxPanics + 1)
		})
	})
}

// ownOverTCP starts a request on a connection to a backend, in real time.
func ownOverTCP(l *lab, to string, method wire.Method) (r *ownRun, told chan struct{}) {
	l.Helper()
	b := l.e.snap.Load().pools.Pool("pbx").Backends()[0]
	f, ok := l.e.flowTo(resolve.Target{Proto: wire.TCP, Addr: netip.MustParseAddrPort(to)}, b)
	if !ok {
		l.Fatal("no flow")
	}
	r, told = l.ownOn(f), make(chan struct{}, 9)
	r.then = func(*scratch) { told <- struct{}{} }
	return r.sends(method), told
}

// came waits for the result.
func (r *ownRun) came(told chan struct{}, want string) {
	r.lab.Helper()
	select {
	case <-told:
	case <-time.After(20 * time.Second):
		r.lab.Fatal("no result")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.told) != 1 || !strings.HasPrefix(r.told[0], want+" ") {
		r.lab.Fatalf("told %q, want %s", r.told, want)
	}
}

// leftNothingOpen is atRest while connections come and go.
func (l *lab) leftNothingOpen() {
	l.Helper()
	var n int
	var c Counters
	awaits(func() bool { // the edge may still be at what it has told
		n, c = l.e.onConn.len(), l.e.Counters()
		return n == 0 && c.Transactions == 0 && c.Timers == 0 && c.Held == 0
	})
	if n != 0 || c.Transactions != 0 || c.Timers != 0 || c.Held != 0 || c.Panics != 0 {
		l.Errorf("left over: %d connections in the index, %+v", n, c)
	}
}

// The end of its connection is a transport error, also when it never began.
func TestOwnRequestLosesItsConnection(t *testing.T) {
	for _, method := range []wire.Method{wire.UPDATE, wire.INVITE} {
		ln := listenTCP(t)
		to := ln.Addr().String()
		l := started(t, "sip:"+to+";transport=tcp", nil)

		r, told := ownOverTCP(l, to, method)
		pbx := accept(l, ln)
		m := pbx.get(method.String())
		if got := m.Bytes(m.TopVia.Value); !bytes.HasPrefix(got, []byte("SIP/2.0/TCP ")) {
			t.Errorf("Via: %s", got)
		}
		_ = pbx.conn.Close()
		r.came(told, "failed")
		l.leftNothingOpen()

		r, told = ownOverTCP(l, to, method)
		pbx = accept(l, ln)
		m = pbx.get(method.String())
		pbx.sends(response(m, 486, ""))
		r.came(told, "486")
		if method == wire.INVITE {
			pbx.get("ACK")
		}
		l.leftNothingOpen() // timers D and K are zero

		_ = ln.Close()
		_ = pbx.conn.Close()
		r, told = ownOverTCP(l, to, method) // nobody listens
		r.came(told, "failed")
		l.leftNothingOpen()
	}
}

// An INVITE that was answered does not wait for copies on a connection that is gone.
func TestAnsweredOwnInviteLosesItsConnection(t *testing.T) {
	ln := listenTCP(t)
	l := started(t, "sip:"+ln.Addr().String()+";transport=tcp", nil)
	r, told := ownOverTCP(l, ln.Addr().String(), wire.INVITE)
	pbx := accept(l, ln)
	inv := pbx.get("INVITE")
	var first *wire.Msg
	for range 3 {
		pbx.sends(response(inv, 200, ""))
		ack := pbx.get("ACK")
		if first == nil {
			first = ack
		}
		if !bytes.Equal(ack.Buf, first.Buf) {
			t.Errorf("%s", ack.Buf)
		}
	}
	if c := l.e.Counters(); c.Transactions != 1 {
		t.Errorf("%+v", c)
	}
	if err := l.e.net.Close(t.Context()); err != nil {
		t.Error(err)
	}
	r.came(told, "200")
	l.atRest()
}

// Responses from everywhere at once, while its time runs out: one result, always.
func TestOwnRequestHasOneResult(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		methods := []wire.Method{wire.INVITE, wire.UPDATE}
		for i := range 200 {
			r := l.own()
			r.deadline = l.e.wheel.Now() + 100*time.Millisecond
			if i%4 < 2 {
				r.then = func(w *scratch) { l.own().begin(w, wire.BYE) }
			}
			r.sends(methods[i%2])
			m := l.pbx[0].get(methods[i%2].String())
			from := l.e.net.Listeners()[0].FlowTo(l.pbx[0].addr)
			var all sync.WaitGroup
			for _, status := range []int{180, 200, 200, 486, 200} {
				text := response(m, status, "")
				all.Go(func() {
					<-time.After(100 * time.Millisecond)
					l.e.Receive(&transport.Packet{Flow: from, Data: []byte(text)})
				})
			}
			all.Go(func() {
				<-time.After(100 * time.Millisecond)
				l.e.Unreachable(from, m.Buf)
			})
			all.Wait()
			synctest.Wait()
			if len(r.told) != 1 {
				t.Fatalf("told %q", r.told)
			}
			l.pbx[0].skip()
		}
		pass(200 * time.Second)
		l.atRest()
		if n := l.e.Counters().Held; n != 0 {
			t.Errorf("%d bytes are held", n)
		}
	})
}
