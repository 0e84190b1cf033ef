package dialog

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/store/codec"
	"github.com/sipward/sipward/timers"
)

// epoch0 is the time of the day at which the clock of a lab shows 0.
var epoch0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (l *lab) wall(t time.Duration) time.Time { return epoch0.Add(t) }

// restarts is the lab of an edge that starts anew with the states of all calls, after
// it was away for some time.
func (l *lab) restarts(away time.Duration, bump uint32) *lab {
	l.Helper()
	n := newLab(l.TB)
	n.policy = usual(func(p *timers.Policy) {
		p.TTL, p.NoTimerMax, p.MaxCall = 90*time.Second, 60*time.Second, 60*time.Second
	})
	r := l.restorer(n, away, bump)
	l.s.All(func(c *Call) bool {
		if state, ok := c.AppendState(nil, l.wall); ok {
			if !r.Call(c.id, state) {
				l.Errorf("call %x was not restored", c.id)
			}
			n.call = n.s.Get(c.id)
		}
		return true
	})
	r.Finish()
	return n
}

func (l *lab) restorer(n *lab, away time.Duration, bump uint32) *Restorer {
	return &Restorer{
		Store: n.s, Now: n.now, Bump: bump,
		Clock: func(t time.Time) time.Duration { return t.Sub(l.wall(l.now+away)) + n.now },
	}
}

// waits moves the clock until the edge sends something.
func (l *lab) waits() {
	l.Helper()
	for end := l.now + time.Hour; len(l.acts) == 0 && l.now < end; {
		l.pass(time.Second)
	}
}

// refreshes answers probes of both legs.
func (l *lab) refreshes(method wire.Method, sdpA, sdpB string) {
	l.Helper()
	l.pass(306 * time.Second)
	l.done(l.next(B, method), 200, "", sdpB)
	l.done(l.next(A, method), 200, "", sdpA)
	l.quiet()
}

// TestEachFieldIsKeptOrLostOnPurpose: who adds a field has to say what a restart does to it.
func TestEachFieldIsKeptOrLostOnPurpose(t *testing.T) {
	for _, test := range []struct {
		of         reflect.Type
		kept, lost string
	}{
		{reflect.TypeFor[Call](), "policy began invite first more source outside backend answered setup tagAt tagLen outer noInject reported failed",
			"store id revived timer mu armed forwarded supports hasSE seated gaveUp marked saved done"},
		{reflect.TypeFor[Dialog](), "texts media seq leg answered expires byeBy ended minSE state mode reason by byeFrom dared noAck bypassed mute late",
			"call key copied doubted rare"},
		{reflect.TypeFor[leg](), "proof strong se allow supported method refused refreshes updates unsafe answers proven byeDone",
			"probeAt blocked invite last retries failures late glares own open reoffer turn byeSent retried"},
		{reflect.TypeFor[Sequence](), "epochs base loIn hiIn hiOut seen", "opened"},
		{reflect.TypeFor[epoch](), "first delta", "opened"},
		{reflect.TypeFor[Media](), "side kept", ""},
		{reflect.TypeFor[sender](), "sum invite within is keep", "next may"},
		{reflect.TypeFor[transaction](), "cseq state asks later", "spoilt"},
		{reflect.TypeFor[origin](), "addr port proto", ""},
		{reflect.TypeFor[flow](), "conn addr port proto listener isSet", ""},
	} {
		known := strings.Fields(test.kept + " " + test.lost)
		for f := range test.of.Fields() {
			i := slices.Index(known, f.Name)
			if i < 0 {
				t.Errorf("%v.%s: is it to be kept over a restart?", test.of, f.Name)
				continue
			}
			known = slices.Delete(known, i, i+1)
		}
		if len(known) > 0 {
			t.Errorf("%v has no %v", test.of, known)
		}
	}
}

func TestPolicyIsKeptAsValues(t *testing.T) {
	p := &timers.Policy{Methods: []timers.ProbeMethod{timers.ProbeOptions, timers.ProbeUpdate}}
	for f, v := range reflect.ValueOf(p).Elem().Fields() {
		switch {
		case f.Name == "Since":
		case v.Kind() == reflect.Bool:
			v.SetBool(true)
		case v.Kind() == reflect.Uint8:
			v.SetUint(1)
		case v.CanInt():
			v.SetInt(int64(len(f.Name)) + 1)
		case v.CanFloat():
			v.SetFloat(0.25)
		}
	}
	e := encoder{Writer: codec.Begin(nil, stateVersion)}
	e.policy(p)
	in, _ := codec.Open(e.Seal(), stateVersion)
	d := decoder{Reader: in}
	if got := d.policy(); !d.Ended() || !reflect.DeepEqual(&got, p) {
		t.Errorf("got %+v, want %+v", got, p)
	}
}

func TestRestartKeepsTheTranslationOfCSeq(t *testing.T) {
	l := newLab(t)
	l.talks(labTimer+labUpdate, labTimer+labUpdate)
	l.does(B, "INFO", 50, 200)
	l.refreshes(wire.UPDATE, "", "")
	l.does(A, "INFO", 2, 200)
	l.refreshes(wire.UPDATE, "", "")
	sentOn := [2]uint32{l.asks(A, "INFO", 2, "", "").CSeq, l.asks(B, "INFO", 50, "", "").CSeq}

	n := l.restarts(time.Minute, 1000)
	if again := [2]uint32{n.asks(A, "INFO", 2, "", "").CSeq, n.asks(B, "INFO", 50, "", "").CSeq}; again != sentOn {
		t.Errorf("copies are sent on as %v, before as %v", again, sentOn)
	}
	if a, b := n.asks(A, "INFO", 3, "", "").CSeq, n.asks(B, "INFO", 51, "", "").CSeq; a != 4+1000+1 || b != 52+1000+1 {
		t.Errorf("the next requests are sent on as %d and %d", a, b)
	}
	n.does(A, "BYE", 4, 200)
	n.over(ByBYE)
}

// TestRestartKeepsACallTransparent: where nothing was injected and nothing will be, a
// restart does not change a byte.
func TestRestartKeepsACallTransparent(t *testing.T) {
	l := newLab(t)
	l.talks("", "")
	l.does(A, "INFO", 2, 200)
	n := l.restarts(time.Hour, 1000)
	if a, b := n.asks(A, "INFO", 3, "", "").CSeq, n.asks(B, "INFO", 7, "", "").CSeq; a != 3 || b != 7 {
		t.Errorf("sent on as %d and %d", a, b)
	}
	n.does(B, "BYE", 8, 200)
	n.over(ByBYE)
}

// TestRestartSkipsNumbersOfProbes: a probe may have gone out after the state was written.
func TestRestartSkipsNumbersOfProbes(t *testing.T) {
	for _, test := range []struct {
		name    string
		methods []timers.ProbeMethod
		want    uint32
	}{
		{"update", []timers.ProbeMethod{timers.ProbeUpdate}, 1003},
		{"options_stale", []timers.ProbeMethod{timers.ProbeOptionsStale}, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t, func(p *timers.Policy) { p.Methods = test.methods })
			l.talks(labTimer+labUpdate, labTimer+labUpdate)
			l.does(A, "INFO", 2, 200)
			n := l.restarts(time.Second, 1000)
			if got := n.asks(A, "INFO", 3, "", "").CSeq; got != test.want {
				t.Errorf("sent on as %d, want %d", got, test.want)
			}
		})
	}
}

func TestLimitsCountFromTheAnswerOverARestart(t *testing.T) {
	for _, test := range []struct {
		name          string
		maxCall       time.Duration
		caller        string
		lived, away   time.Duration
		least, within time.Duration // after the restart
		why           Reason
	}{
		{"passive", 0, "", time.Hour, time.Minute, 7200*time.Second - time.Hour - time.Minute, time.Second, NoTimerDuration},
		{"hard", 3 * time.Minute, labTimer, time.Minute, time.Minute, time.Minute, time.Second, MaxDuration},
		{"passive, overdue", 0, "", time.Hour, 24 * time.Hour, 0, time.Minute, NoTimerDuration},
		{"hard, overdue", time.Hour, labTimer + labUpdate, time.Minute, 2 * time.Hour, 0, time.Minute, MaxDuration},
	} {
		t.Run(test.name, func(t *testing.T) {
			spread := map[time.Duration]bool{}
			for range 5 {
				l := newLab(t, func(p *timers.Policy) { p.MaxCall = test.maxCall })
				l.talks(test.caller, "")
				l.until(l.call.answered + test.lived)
				n := l.restarts(test.away, 1000)
				start := n.now
				n.until(start + test.least - 10*time.Millisecond)
				for len(n.ended) == 0 && n.now < start+time.Hour {
					for len(n.acts) > 0 && n.acts[0].Method != wire.BYE { // probes of a call that lives
						a := n.acts[0]
						n.acts = n.acts[1:]
						n.done(a, 200, "", "")
					}
					n.pass(10 * time.Millisecond)
				}
				if after := n.now - start; after < test.least || after > test.least+test.within {
					t.Errorf("ended %v after the restart", after)
				}
				spread[n.now] = true
				n.over(test.why)
				if e := n.ended[0]; len(n.ended) == 1 && e.At-e.Answered < test.lived+test.away {
					t.Errorf("the record says %v", e.Duration())
				}
			}
			if test.least == 0 && len(spread) < 2 {
				t.Error("all end in the same instant")
			}
		})
	}
}

// TestRestartEndsNoCallUnasked: a call with timers that was away for hours is probed
// within an interval, lives if it answers, and ends after silence only.
func TestRestartEndsNoCallUnasked(t *testing.T) {
	for _, lives := range []bool{true, false} {
		for _, policy := range []func(*timers.Policy){
			func(*timers.Policy) {},
			func(p *timers.Policy) { p.EarlyHangup = 260 * time.Second },
			func(p *timers.Policy) { p.Segments = 1 },
			func(p *timers.Policy) { p.OnExpiry = timers.ExpiryBYE },
			func(p *timers.Policy) { p.TTL, p.MinSE, p.OnExpiry = 12*time.Second, time.Second, timers.ExpiryBYE },
		} {
			l := newLab(t, policy)
			l.talks(labTimer+labUpdate+"Session-Expires: 1800\r\n", labTimer+labUpdate+"Session-Expires: 1800;refresher=uac\r\n")
			n := l.restarts(24*time.Hour, 1000)
			asked, start := [2]int{}, n.now
			for n.now < start+l.policy.TTL && len(n.ended) == 0 {
				n.pass(time.Second)
				for len(n.acts) > 0 && n.acts[0].Method != wire.BYE {
					a := n.acts[0]
					n.acts = n.acts[1:]
					asked[a.To()]++
					if lives {
						n.done(a, 200, "", "")
						continue
					}
					at := n.now
					n.until(at + min(32*time.Second, l.policy.TTL/10)) // timer F
					n.done(a, 0, "", "")
				}
			}
			switch {
			case asked[A] == 0 || asked[B] == 0:
				t.Errorf("probes: %v", asked)
			case lives && len(n.ended) != 0:
				t.Errorf("a living call has ended: %v after %v", n.ended[0].Reason, n.now-start)
			case !lives && (len(n.ended) != 1 || n.ended[0].Reason != SessionTTL):
				t.Errorf("records: %+v", n.ended)
			case !lives && n.ended[0].Verified > n.now-24*time.Hour:
				t.Errorf("last verified %v before the end", n.now-n.ended[0].Verified)
			}
		}
	}
}

func TestRestartAmidABYE(t *testing.T) {
	hangsUp := func(t *testing.T) *lab {
		l := newLab(t)
		l.talks(labTimer+labUpdate, labTimer+labUpdate)
		l.asks(A, "BYE", 2, "", "")
		return l.restarts(time.Second, 1000)
	}
	t.Run("it comes again", func(t *testing.T) {
		n := hangsUp(t)
		v := n.asks(A, "BYE", 2, "", "")
		if v.CSeq != 2 {
			t.Errorf("sent on as %d", v.CSeq)
		}
		n.gets(v, 481, "", "")
		n.over(ByBYE)
	})
	t.Run("it does not", func(t *testing.T) {
		n := hangsUp(t)
		n.pass(31 * time.Second)
		n.quiet()
		n.pass(2 * time.Second)
		n.done(n.next(A, wire.BYE), 481, "", "")
		n.done(n.next(B, wire.BYE), 200, "", "")
		n.over(ByBYE)
		if n.ended[0].By != Caller {
			t.Errorf("ended by the %v", n.ended[0].By)
		}
	})
	t.Run("of the edge", func(t *testing.T) {
		l := newLab(t)
		l.talks("", "")
		l.until(l.call.answered + l.policy.NoTimerMax)
		l.done(l.next(A, wire.BYE), 200, "", "")
		if len(l.ended) != 1 {
			t.Fatal("no record")
		}
		n := l.restarts(time.Second, 1000)
		n.pass(time.Minute)
		n.done(n.next(B, wire.BYE), 200, "", "")
		n.quiet()
		if len(n.ended) != 0 {
			t.Error("a second record")
		}
		n.pass(time.Minute)
		n.empty()
	})
}

func TestRestartBeforeTheACK(t *testing.T) {
	l := newLab(t)
	l.invites(labTimer + labUpdate)
	l.answers("tb", labTimer+labUpdate)
	n := l.restarts(10*time.Second, 1000)
	if s := n.call.Report().State; s != "unacknowledged" {
		t.Fatalf("it is %s", s)
	}
	n.acks("tb")
	n.refreshes(wire.UPDATE, "", "")

	n = l.restarts(10*time.Second, 1000)
	n.pass(40 * time.Second)
	n.done(n.next(B, wire.UPDATE), 200, "", "")
	n.waits()
	n.done(n.next(A, wire.UPDATE), 481, "", "")
	n.done(n.next(B, wire.BYE), 200, "", "")
	n.done(n.next(A, wire.BYE), 481, "", "")
	n.over(AckMissing)
}

// TestRestartKeepsTheSDPOfCommittedExchanges: the re-INVITE after it is what the leg
// saw before, and the same answer is no change.
func TestRestartKeepsTheSDPOfCommittedExchanges(t *testing.T) {
	l := newLab(t)
	l.talks(labTimer, "")
	n := l.restarts(time.Hour, 1000)
	n.waits()
	a := n.next(B, wire.INVITE)
	if m := n.sent(&a); string(m.Bytes(m.Body)) != labSDPA {
		t.Errorf("offered to the callee:\n%s", m.Buf)
	}
	n.done(a, 200, "", strings.Replace(labSDPB, " 1 1 ", " 1 2 ", 1))
	n.waits()
	a = n.next(A, wire.INVITE)
	if m := n.sent(&a); string(m.Bytes(m.Body)) != labSDPB {
		t.Errorf("offered to the caller:\n%s", m.Buf)
	}
	n.done(a, 200, "", labSDPA)
	n.quiet()
	if len(n.notes) > 0 {
		t.Errorf("notes: %+v", n.notes)
	}
}

func TestRestartAmidAnOfferLeavesTheSDPUnknown(t *testing.T) {
	l := newLab(t)
	l.talks(labTimer, "")
	l.asks(A, "INVITE", 2, "Contact: "+labCaller+"\r\n", strings.Replace(labSDPA, "4000", "4002", 1))
	n := l.restarts(time.Minute, 1000)
	n.pass(303 * time.Second)
	n.next(B, wire.OPTIONS)
	n.next(A, wire.OPTIONS)
	n.quiet()
}

// TestRestartKeepsEachAnsweredForkAndItsPlace: also backend, flow and figures.
func TestRestartKeepsEachAnsweredForkAndItsPlace(t *testing.T) {
	l := newLab(t)
	l.policy = usual()
	m := l.message("INVITE sip:bob@example.org SIP/2.0", identity(A, "", "INVITE", 1), "Contact: "+labCaller+"\r\n", body(labSDPA))
	at := Flow{Proto: wire.TLS, Listener: 3, Remote: netip.MustParseAddrPort("[2001:db8::1]:5071"), Conn: 99}
	l.call, _ = l.s.Open(Invite{Policy: l.policy, Msg: m, Source: at, Now: l.now})
	l.call.Forwarded(labTarget)
	l.rings("early", "")
	l.answers("tb", "")
	l.answers("tc", "")
	l.acks("tb")
	l.acks("tc")
	before := l.call.Report()
	n := l.restarts(time.Minute, 1000)
	if n.call == nil || n.call.id != l.call.id || n.s.Len() != 2 || n.s.Tally(7).Load() != 1 || len(n.s.streams.on[99]) != 1 {
		t.Fatalf("restored: %+v, %d dialogs", n.call, n.s.Len())
	}
	after := n.call.Report()
	if after.Source != before.Source || after.Backend != 7 || after.Mode != before.Mode || after.State != before.State ||
		string(after.To) != string(before.To) || after.Dialogs != 2 || after.Answered-after.Began != before.Answered-before.Began {
		t.Errorf("it was %+v, now %+v", before, after)
	}
	if s := n.s.Stats(n.now); s.Concurrent != 1 || s.Ringing != 0 {
		t.Errorf("figures: %+v", s)
	}
	if r := n.s.Find(n.call.id, n.message("BYE sip:x@192.0.2.3 SIP/2.0", identity(B, "tc", "BYE", 1)), false); !r.Known() || r.From != B || !r.Place().Outside || r.Place().Flow != at {
		t.Error("the second fork is not found")
	}
	// Its place is taken: new calls get others, and names of their own.
	for i := range 200 {
		c, refusal := n.opens(fmt.Sprintf("Subject: %d\r\n", i))
		if refusal == Full {
			break
		}
		if c.id == l.call.id {
			t.Fatal("two calls of one name")
		}
	}
	n.s.All(func(c *Call) bool {
		if c.answered == 0 {
			c.Abandon()
		}
		return true
	})
	n.does(A, "BYE", 2, 200)
	n.until(n.now + 3*time.Hour)
	n.over(NoTimerDuration) // the fork that nobody hung up
	if s := n.s.Stats(n.now); s.Concurrent != 0 {
		t.Errorf("figures: %+v", s)
	}
}

func TestStatesThatAreNoneAreRefused(t *testing.T) {
	l := newLab(t)
	l.talks(labTimer+labUpdate, labTimer)
	state, ok := l.call.AppendState([]byte("before"), l.wall)
	if !ok || !bytes.HasPrefix(state, []byte("before")) {
		t.Fatal("no state")
	}
	state = state[len("before"):]
	t.Logf("%d bytes", len(state))
	n := newLab(t)
	r := l.restorer(n, time.Hour, 1000)
	for i := range state {
		damaged := bytes.Clone(state)
		damaged[i] ^= 1 << rand.IntN(8)
		if r.Call(l.call.id, damaged) || r.Call(l.call.id, state[:i]) {
			t.Fatalf("byte %d is wrong, and nobody minds", i)
		}
	}
	for _, id := range []ID{0, l.call.id & (1<<32 - 1), l.call.id | maxIndex<<6} {
		if r.Call(id, state) {
			t.Errorf("restored as %x", id)
		}
	}
	n.empty()
	if !r.Call(l.call.id, state) || r.Call(l.call.id, state) {
		t.Error("the whole one, once")
	}
	if _, ok := newLab(t).invites("").AppendState(nil, l.wall); ok {
		t.Error("a call that rings has a state")
	}
}

// changed is what Changes says, by call.
func (l *lab) changed() (put map[ID][]byte, removed []ID) {
	put = map[ID][]byte{}
	l.s.Changes(l.wall, func(id ID, state []byte) { put[id] = bytes.Clone(state) }, func(id ID) { removed = append(removed, id) })
	return put, removed
}

func TestOnlyWhatHasChangedIsWritten(t *testing.T) {
	l := newLab(t)
	l.s.Keep = true
	l.invites("")
	if put, removed := l.changed(); len(put)+len(removed) != 0 {
		t.Error("a call that rings is written")
	}
	l.answers("tb", "")
	l.acks("tb")
	l.does(A, "INFO", 2, 200)
	put, _ := l.changed()
	if want, _ := l.call.AppendState(nil, l.wall); len(put) != 1 || !bytes.Equal(put[l.call.id], want) {
		t.Errorf("written: %v", put)
	}
	if put, removed := l.changed(); len(put)+len(removed) != 0 {
		t.Error("written again without a change")
	}
	l.does(B, "INFO", 1, 200)
	if put, _ := l.changed(); len(put) != 1 {
		t.Error("a change is not written")
	}
	l.does(B, "BYE", 2, 200)
	if put, removed := l.changed(); len(put) != 0 || len(removed) != 1 || removed[0] != l.call.id {
		t.Errorf("after the end: %v written, %v removed", put, removed)
	}
	// A call that comes and goes between two writes was never there.
	l.talks("", "")
	l.does(A, "BYE", 2, 200)
	if put, removed := l.changed(); len(put)+len(removed) != 0 {
		t.Errorf("a short call: %v written, %v removed", put, removed)
	}
	l.s.changes.limit = 1
	for range 3 {
		l.talks("", "")
		l.does(A, "INFO", 2, 200)
	}
	if put, _ := l.changed(); len(put) != 1 || l.s.LostChanges() == 0 {
		t.Errorf("%d written, %d lost", len(put), l.s.LostChanges())
	}
}

func TestNothingIsNotedWhenNobodyKeeps(t *testing.T) {
	l := newLab(t)
	l.talks(labTimer+labUpdate, "")
	l.does(A, "BYE", 2, 200)
	if put, removed := l.changed(); len(put)+len(removed) != 0 || cap(l.s.changes.changed) != 0 {
		t.Errorf("%v written, %v removed", put, removed)
	}
}

// TestAnyHistoryIsKept: after random steps a call is restored as what it was, and what
// is restored is restored once more the same.
func TestAnyHistoryIsKept(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		pick := func(of ...string) string { return of[rnd.IntN(len(of))] }
		l := newLab(t)
		l.talks(pick("", labTimer, labTimer+labUpdate, labTimer+"Session-Expires: 4294967295\r\n"), pick("", labTimer, labUpdate))
		cseq := [2]uint32{1, rnd.Uint32N(1000)}
		for range rnd.IntN(20) {
			from := Leg(rnd.IntN(2))
			if l.call.first.state != confirmed {
				break
			}
			switch rnd.IntN(4) {
			case 0:
				cseq[from] += 1 + rnd.Uint32N(3)
				if v := l.asks(from, pick("INFO", "REFER", "UPDATE"), cseq[from], "", ""); v.Tx != nil {
					l.gets(v, 200, "", "")
				}
			case 1:
				l.pass(time.Duration(rnd.Int64N(int64(400 * time.Second))))
			default:
				if len(l.acts) > 0 {
					a := l.acts[0]
					l.acts = l.acts[1:]
					l.done(a, []int{200, 200, 200, 491, 500, 405, 401}[rnd.IntN(7)], "", pick("", labSDPA, labSDPB))
				}
			}
		}
		if l.call.done || l.call.first.state != confirmed {
			continue
		}
		l.now = l.now.Round(time.Microsecond) // what a state can tell
		n := l.restarts(0, 0)
		was, is := &l.call.first, &n.call.first
		for _, leg := range [...]Leg{A, B} {
			for c := uint32(0); c < cseq[leg]+3; c++ {
				if was.seq[leg].Map(c) != is.seq[leg].Map(c) {
					t.Fatalf("seed %d: %d is %d, was %d", seed, c, is.seq[leg].Map(c), was.seq[leg].Map(c))
				}
			}
			if was.isProbed(leg) != is.isProbed(leg) || was.methodLocked(leg) != is.methodLocked(leg) || (was.capLocked() == 0) != (is.capLocked() == 0) {
				t.Fatalf("seed %d: %v is probed by %v, was by %v", seed, leg, is.methodLocked(leg), was.methodLocked(leg))
			}
			if is.leg[leg].strong != was.leg[leg].strong {
				t.Fatalf("seed %d: %v proved more %d s after the answer, it was %d s", seed, leg, is.leg[leg].strong, was.leg[leg].strong)
			}
		}
		if string(was.texts.all()) != string(is.texts.all()) || was.mode != is.mode {
			t.Fatalf("seed %d: %+v, was %+v", seed, is, was)
		}
		once, _ := n.call.AppendState(nil, n.wall)
		m := n.restarts(0, 0)
		twice, _ := m.call.AppendState(nil, m.wall)
		if !bytes.Equal(once, twice) {
			t.Fatalf("seed %d:\n%x\n%x", seed, once, twice)
		}
	}
}

// FuzzRestore: whatever a file holds, nothing breaks, and what is taken can be kept
// again and comes to an end.
func FuzzRestore(f *testing.F) {
	for _, caller := range []string{"", labTimer, labTimer + labUpdate} {
		l := newLab(f)
		l.talks(caller, "")
		state, _ := l.call.AppendState(nil, l.wall)
		f.Add(state[:len(state)-4])
		l.until(l.call.answered + 300*time.Second)
		l.asks(A, "BYE", 2, "", "")
		state, _ = l.call.AppendState(nil, l.wall)
		f.Add(state[:len(state)-4])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		l := newLab(t)
		if len(body) == 0 {
			return
		}
		w := codec.Begin(nil, body[0])
		w.Raw(body[1:]...)
		state := w.Seal()
		r := &Restorer{Store: l.s, Now: l.now, Bump: 1000, Clock: func(t time.Time) time.Duration { return t.Sub(epoch0) }}
		id := makeID(1, 2, 3)
		if !r.Call(id, state) {
			l.empty()
			return
		}
		r.Finish()
		c := l.s.Get(id)
		c.Report()
		again, ok := c.AppendState(nil, l.wall)
		if !ok && !c.done {
			t.Fatal("it cannot be kept again")
		}
		if other := newLab(t); ok && !(&Restorer{Store: other.s, Now: l.now, Bump: 1000, Clock: r.Clock}).Call(id, again) {
			t.Fatal("it cannot be restored again")
		}
		for range 100 {
			if c.done {
				break
			}
			var fx Effects
			l.now += time.Minute
			c.Due(&fx, timers.NewPace(1e6), l.now)
			for i := range fx.Acts {
				fx.Acts[i].Done(&Effects{}, nil, 0, 0, l.now)
			}
		}
		var fx Effects
		c.End(&fx, l.now)
	})
}
