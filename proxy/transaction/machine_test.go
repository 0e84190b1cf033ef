package transaction

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// rfcTimes are the defaults of RFC 3261 table 4.
var rfcTimes = Times{T1: 500 * time.Millisecond, T2: 4 * time.Second, T4: 5 * time.Second, B: 32 * time.Second, C: 180 * time.Second}

var allEvents = []Event{Start, Request, Ack, Provisional100, Provisional, Success, Failure, Tick, SendFailed, Cancelled}

// A cell is what RFC 3261 figures 5 to 8 and RFC 6026 figures 1 and 2 say about
// one event in one state. Cells that are not listed change nothing.
type cell struct {
	to  State
	eff Effect
}

type figure map[State]map[Event]cell

// path leads an idle machine of the kind into a state; the time stays 0.
func path(k Kind, s State) []Event {
	server := k == InviteServer || k == NonInviteServer
	switch {
	case s == Idle:
		return nil
	case s == Trying:
		return []Event{Start}
	case s == Proceeding && k == InviteServer:
		return []Event{Start}
	case s == Proceeding:
		return []Event{Start, Provisional}
	case s == Completed:
		return []Event{Start, Failure}
	case s == Confirmed:
		return []Event{Start, Failure, Ack}
	case s == Accepted:
		return []Event{Start, Success}
	case server: // Terminated
		return []Event{Start, Request, SendFailed}
	}
	return []Event{Start, SendFailed}
}

func at(t *testing.T, k Kind, reliable bool, s State) Machine {
	t.Helper()
	m := NewMachine(k, reliable)
	for _, e := range path(k, s) {
		m.Step(e, 0, &rfcTimes)
	}
	if m.State() != s {
		t.Fatalf("%v: no way into %v, got %v", k, s, m.State())
	}
	return m
}

var gone = Terminated

// The figures over an unreliable transport. A Tick in them comes when the
// state's deadline (not a retransmission) has passed.
var unreliable = map[Kind]figure{
	InviteServer: { // figure 7, RFC 6026 figure 1
		Idle: {Start: {Proceeding, 0}},
		Proceeding: {
			Request: {Proceeding, Resend}, Provisional100: {Proceeding, Send}, Provisional: {Proceeding, Send},
			Success: {Accepted, Send}, Failure: {Completed, Send}, SendFailed: {gone, Failed | Terminates},
		},
		Completed: {
			Request: {Completed, Resend}, Ack: {Confirmed, 0}, Tick: {gone, TimedOut | Terminates},
			SendFailed: {gone, Failed | Terminates},
		},
		Confirmed: {Tick: {gone, Terminates}},
		Accepted:  {Success: {Accepted, Send}, Ack: {Accepted, PassUp}, Tick: {gone, Terminates}},
	},
	NonInviteServer: { // figure 8
		Idle: {Start: {Trying, 0}},
		Trying: {
			Provisional100: {Proceeding, Send}, Provisional: {Proceeding, Send}, Success: {Completed, Send},
			Failure: {Completed, Send}, SendFailed: {gone, Failed | Terminates},
		},
		Proceeding: {
			Request: {Proceeding, Resend}, Provisional100: {Proceeding, Send}, Provisional: {Proceeding, Send},
			Success: {Completed, Send}, Failure: {Completed, Send}, SendFailed: {gone, Failed | Terminates},
		},
		Completed: {Request: {Completed, Resend}, Tick: {gone, Terminates}, SendFailed: {gone, Failed | Terminates}},
	},
	InviteClient: { // figure 5, RFC 6026 figure 2, timer C of 16.6
		Idle: {Start: {Trying, Send}},
		Trying: {
			Provisional100: {Proceeding, PassUp}, Provisional: {Proceeding, PassUp}, Success: {Accepted, PassUp},
			Failure: {Completed, PassUp | SendAck}, Tick: {gone, TimedOut | Terminates}, SendFailed: {gone, Failed | Terminates},
			Cancelled: {Trying, 0},
		},
		Proceeding: {
			Provisional100: {Proceeding, PassUp}, Provisional: {Proceeding, PassUp}, Success: {Accepted, PassUp},
			Failure: {Completed, PassUp | SendAck}, Tick: {Proceeding, CFired}, SendFailed: {gone, Failed | Terminates},
			Cancelled: {Proceeding, 0},
		},
		Completed: {Failure: {Completed, SendAck}, Tick: {gone, Terminates}, SendFailed: {gone, Terminates}},
		Accepted:  {Success: {Accepted, PassUp}, Tick: {gone, Terminates}},
	},
	NonInviteClient: { // figure 6
		Idle: {Start: {Trying, Send}},
		Trying: {
			Provisional100: {Proceeding, PassUp}, Provisional: {Proceeding, PassUp}, Success: {Completed, PassUp},
			Failure: {Completed, PassUp}, Tick: {gone, TimedOut | Terminates}, SendFailed: {gone, Failed | Terminates},
		},
		Proceeding: {
			Provisional100: {Proceeding, PassUp}, Provisional: {Proceeding, PassUp}, Success: {Completed, PassUp},
			Failure: {Completed, PassUp}, Tick: {gone, TimedOut | Terminates}, SendFailed: {gone, Failed | Terminates},
		},
		Completed: {Tick: {gone, Terminates}},
	},
}

// reliable is what differs over a reliable transport: timers D, I, J and K are zero.
var reliable = map[Kind]figure{
	InviteServer:    {Completed: {Ack: {gone, Terminates}}},
	NonInviteServer: {Trying: {Success: {gone, Send | Terminates}, Failure: {gone, Send | Terminates}}},
	InviteClient:    {Trying: {Failure: {gone, PassUp | SendAck | Terminates}}},
	NonInviteClient: {Trying: {Success: {gone, PassUp | Terminates}, Failure: {gone, PassUp | Terminates}}},
}

func TestEveryStateAndEvent(t *testing.T) {
	// Proceeding leads out over a reliable transport as Trying does.
	for k, from := range map[Kind]State{NonInviteServer: Trying, InviteClient: Trying, NonInviteClient: Trying} {
		reliable[k][Proceeding] = reliable[k][from]
	}
	for kind, f := range unreliable {
		for _, rel := range []bool{false, true} {
			for s := Idle; s <= Terminated; s++ {
				_, exists := f[s]
				if !exists && s != Terminated || rel && unreachableOver(kind, s) {
					continue
				}
				for _, e := range allEvents {
					name := fmt.Sprintf("%v reliable=%v %v %v", kind, rel, s, e)
					want, listed := f[s][e]
					if over, changed := reliable[kind][s][e]; rel && changed {
						want, listed = over, true
					}
					if !listed {
						want = cell{s, 0}
					}
					m := at(t, kind, rel, s)
					m.next = 0 // only the state's deadline
					now := time.Duration(0)
					if e == Tick {
						if eff := m.Step(Tick, 0, &rfcTimes); eff != 0 || m.State() != s {
							t.Errorf("%s: an early tick gave %s in %v", name, effects(eff), m.State())
						}
						now = m.Due()
						if want != (cell{s, 0}) && now == 0 {
							t.Errorf("%s: no deadline", name)
						}
					}
					if eff := m.Step(e, now, &rfcTimes); eff != want.eff || m.State() != want.to {
						t.Errorf("%s: %s, %v; want %s, %v", name, effects(eff), m.State(), effects(want.eff), want.to)
					}
					if m.State() == Terminated && m.Due() != 0 {
						t.Errorf("%s: over, but due at %v", name, m.Due())
					}
				}
			}
		}
	}
}

// unreachableOver: states that last zero seconds over a reliable transport.
func unreachableOver(k Kind, s State) bool {
	return s == Confirmed || s == Completed && k != InviteServer
}

func effects(e Effect) string {
	names := []string{"send", "resend", "pass up", "ack", "timed out", "C", "failed", "terminates"}
	var all []string
	for i, n := range names {
		if e&(1<<i) != 0 {
			all = append(all, n)
		}
	}
	if all == nil {
		return "nothing"
	}
	return strings.Join(all, "+")
}

// ticks runs a machine by its own due times and lists what happens, in seconds.
func ticks(m *Machine, until time.Duration) (all []string) {
	for m.Due() != 0 && m.Due() <= until {
		now := m.Due()
		if eff := m.Step(Tick, now, &rfcTimes); eff != 0 {
			all = append(all, fmt.Sprintf("%g %s", now.Seconds(), effects(eff)))
		}
	}
	return all
}

func TestTimers(t *testing.T) {
	const hour = time.Hour
	type step struct {
		at    float64
		event Event
	}
	cases := []struct {
		name     string
		kind     Kind
		reliable bool
		steps    []step
		want     string
	}{
		{"A doubles without a cap until B", InviteClient, false, []step{{0, Start}},
			"0.5 send, 1.5 send, 3.5 send, 7.5 send, 15.5 send, 31.5 send, 32 timed out+terminates"},
		{"B alone over a reliable transport", InviteClient, true, []step{{0, Start}}, "32 timed out+terminates"},
		{"a 100 ends A and B and starts C", InviteClient, false, []step{{0, Start}, {1, Provisional100}}, "181 C, 213 timed out+terminates"},
		{"a 100 after a 180 does not move C", InviteClient, false, []step{{0, Start}, {1, Provisional}, {50, Provisional100}}, "181 C, 213 timed out+terminates"},
		{"every 18x moves C", InviteClient, true, []step{{0, Start}, {1, Provisional}, {100, Provisional}}, "280 C, 312 timed out+terminates"},
		{"a cancelled INVITE has 64*T1 for its 487", InviteClient, false, []step{{0, Start}, {1, Provisional}, {10, Cancelled}}, "42 timed out+terminates"},
		{"a 180 after the CANCEL does not prolong it", InviteClient, false, []step{{0, Start}, {1, Provisional}, {10, Cancelled}, {20, Provisional}}, "42 timed out+terminates"},
		{"D after a failure", InviteClient, false, []step{{0, Start}, {1, Failure}}, "33 terminates"},
		{"D is zero over a reliable transport", InviteClient, true, []step{{0, Start}, {1, Failure}}, ""},
		{"M after a 2xx", InviteClient, false, []step{{0, Start}, {1, Success}}, "33 terminates"},
		{"M over a reliable transport too", InviteClient, true, []step{{0, Start}, {1, Success}}, "33 terminates"},
		{"a second 2xx does not prolong M", InviteClient, false, []step{{0, Start}, {1, Success}, {20, Success}}, "33 terminates"},
		{"E doubles up to T2 until F", NonInviteClient, false, []step{{0, Start}},
			"0.5 send, 1.5 send, 3.5 send, 7.5 send, 11.5 send, 15.5 send, 19.5 send, 23.5 send, 27.5 send, 31.5 send, 32 timed out+terminates"},
		{"E is T2 in Proceeding", NonInviteClient, false, []step{{0, Start}, {0.6, Provisional100}},
			"1.5 send, 5.5 send, 9.5 send, 13.5 send, 17.5 send, 21.5 send, 25.5 send, 29.5 send, 32 timed out+terminates"},
		{"F alone over a reliable transport", NonInviteClient, true, []step{{0, Start}, {1, Provisional}}, "32 timed out+terminates"},
		{"K", NonInviteClient, false, []step{{0, Start}, {1, Success}}, "6 terminates"},
		{"K is zero over a reliable transport", NonInviteClient, true, []step{{0, Start}, {1, Success}}, ""},
		{"G doubles up to T2 until H", InviteServer, false, []step{{0, Start}, {1, Failure}},
			"1.5 resend, 2.5 resend, 4.5 resend, 8.5 resend, 12.5 resend, 16.5 resend, 20.5 resend, 24.5 resend, 28.5 resend, 32.5 resend, 33 timed out+terminates"},
		{"H alone over a reliable transport", InviteServer, true, []step{{0, Start}, {1, Failure}}, "33 timed out+terminates"},
		{"I", InviteServer, false, []step{{0, Start}, {1, Failure}, {2, Ack}}, "7 terminates"},
		{"I is zero over a reliable transport", InviteServer, true, []step{{0, Start}, {1, Failure}, {2, Ack}}, ""},
		{"L", InviteServer, false, []step{{0, Start}, {1, Success}}, "33 terminates"},
		{"an ACK does not end L", InviteServer, true, []step{{0, Start}, {1, Success}, {2, Ack}}, "33 terminates"},
		{"nothing is due while an INVITE is worked on", InviteServer, false, []step{{0, Start}, {1, Provisional}}, ""},
		{"J", NonInviteServer, false, []step{{0, Start}, {1, Failure}}, "33 terminates"},
		{"J is zero over a reliable transport", NonInviteServer, true, []step{{0, Start}, {1, Failure}}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := NewMachine(c.kind, c.reliable)
			var got []string
			for _, s := range c.steps {
				now := time.Duration(s.at * float64(time.Second))
				got = append(got, ticks(&m, now)...)
				m.Step(s.event, now, &rfcTimes)
			}
			got = append(got, ticks(&m, hour)...)
			// Retransmissions before the last event are not the point of a case.
			last := c.steps[len(c.steps)-1].at
			got = slices.DeleteFunc(got, func(s string) bool {
				var at float64
				if _, err := fmt.Sscanf(s, "%g", &at); err != nil {
					t.Fatal(err)
				}
				return at <= last && len(c.steps) > 1
			})
			if s := strings.Join(got, ", "); s != c.want {
				t.Errorf("got  %s\nwant %s", s, c.want)
			}
		})
	}
}

func TestQuietStopsRetransmissionsOnly(t *testing.T) {
	for _, k := range []Kind{InviteClient, NonInviteClient} {
		m := NewMachine(k, false)
		m.Step(Start, 0, &rfcTimes)
		m.Quiet()
		if m.Step(Provisional, time.Second, &rfcTimes) != PassUp {
			t.Errorf("%v: a late provisional is lost", k)
		}
		if got := ticks(&m, 32*time.Second); len(got) > 1 || len(got) == 1 && got[0] != "32 timed out+terminates" {
			t.Errorf("%v: %v", k, got)
		}
		if k == InviteClient && m.Step(Success, 40*time.Second, &rfcTimes) != PassUp {
			t.Error("a late 2xx is lost")
		}
	}
}

func TestResponseClasses(t *testing.T) {
	for status, want := range map[int]Event{
		100: Provisional100, 101: Provisional, 180: Provisional, 199: Provisional, 200: Success, 299: Success,
		300: Failure, 401: Failure, 503: Failure, 699: Failure,
	} {
		if got := Response(status); got != want {
			t.Errorf("Response(%d) = %v, want %v", status, got, want)
		}
	}
}

// Whatever happens, in whatever order: no panic, Terminated is final, a client
// always has an end in sight and every machine that is left alone with its due
// times comes to rest.
func TestAnyEventsInAnyOrder(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := NewMachine(Kind(r.IntN(4)), r.IntN(2) == 0)
		now := time.Duration(0)
		m.Step(Start, now, &rfcTimes)
		for range r.IntN(12) {
			now += time.Duration(r.Int64N(int64(10 * time.Second)))
			before := m.State()
			e := allEvents[r.IntN(len(allEvents))]
			eff := m.Step(e, now, &rfcTimes)
			if before == Terminated && (eff != 0 || m.State() != Terminated) {
				t.Fatalf("seed %d: %v after the end", seed, e)
			}
			if (eff&Terminates != 0) != (before != Terminated && m.State() == Terminated) {
				t.Fatalf("seed %d: %v from %v to %v without telling", seed, e, before, m.State())
			}
			if eff&SendAck != 0 && m.kind != InviteClient || eff&Resend != 0 && m.kind > NonInviteServer {
				t.Fatalf("seed %d: %v must not %s", seed, m.kind, effects(eff))
			}
		}
		isClient := m.kind == InviteClient || m.kind == NonInviteClient
		for n := 0; m.Due() != 0; n++ {
			if n > 100 {
				t.Fatalf("seed %d: %v %v never rests", seed, m.kind, m.state)
			}
			now = max(now, m.Due())
			m.Step(Tick, now, &rfcTimes)
		}
		if isClient && m.State() != Terminated {
			t.Fatalf("seed %d: %v waits for ever in %v", seed, m.kind, m.state)
		}
	}
}

func TestNames(t *testing.T) {
	for k := InviteServer; k <= NonInviteClient; k++ {
		if m := NewMachine(k, true); k.String() == "" || m.Kind() != k {
			t.Errorf("kind %d", k)
		}
	}
	for s := Idle; s <= Terminated; s++ {
		if s.String() == "" {
			t.Errorf("state %d", s)
		}
	}
	for _, e := range allEvents {
		if e.String() == "" {
			t.Errorf("event %d", e)
		}
	}
}

func BenchmarkMachine(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		m := NewMachine(InviteClient, false)
		m.Step(Start, 0, &rfcTimes)
		m.Step(Provisional100, 1, &rfcTimes)
		m.Step(Provisional, 2, &rfcTimes)
		m.Step(Success, 3, &rfcTimes)
		m.Step(Tick, m.Due(), &rfcTimes)
	}
}
