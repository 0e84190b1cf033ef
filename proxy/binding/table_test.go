package binding

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sipward/sipward/timers"
)

func TestLearns(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, l *lab) {
		b := l.phone(1, udp(1), 1)
		b.Ponged, b.Missed, b.Closed, b.Former, b.Since = 1, 2, 3, udp(9), 4 // not the caller's
		got := l.learn(b, Added)
		want := l.phone(1, udp(1), 1)
		want.Since, want.Refreshed = l.now(), l.now()
		if got != want {
			t.Errorf("got %+v\nwant %+v", got, want)
		}
		sleep(time.Second)
		b = l.phone(1, udp(1), 2)
		b.Contact, b.UA, b.Backend, b.NATed = "sip:other@192.168.178.21", "", 7, false
		got = l.learn(b, Refreshed)
		b.Since, b.Refreshed = want.Since, l.now()
		if kept, ok := l.Get(1); got != b || kept != b || !ok {
			t.Errorf("got %+v\nkept %+v\nwant %+v", got, kept, b)
		}
		b.Flow, b.CSeq = tcp(1), 3
		got = l.learn(b, Moved)
		b.Former = udp(1)
		if got != b {
			t.Errorf("got %+v\nwant %+v", got, b)
		}
		if a, r, m, e, lo, f := l.Stats(); a != 1 || r != 2 || m != 1 || e+lo+f != 0 {
			t.Error(a, r, m, e, lo, f)
		}
	})
}

// TestExpires: a binding ends when it was not refreshed, and not before.
func TestExpires(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, l *lab) {
		l.learn(l.phone(1, udp(1), 1), Added)
		l.learn(l.phone(2, udp(2), 1), Added)
		sleep(40 * time.Second)
		l.learn(l.phone(2, udp(2), 2), Refreshed)
		sleep(21 * time.Second)
		if got := l.ended(); got != "1 expired" || l.Len() != 1 {
			t.Errorf("gone: %s; %d left", got, l.Len())
		}
		sleep(40 * time.Second)
		if got := l.ended(); got != "2 expired" || l.Len() != 0 || l.Flows() != 0 || l.Wheel.Len() != 0 {
			t.Errorf("gone: %s; %d left on %d flows, %d timers", got, l.Len(), l.Flows(), l.Wheel.Len())
		}
	})
}

// TestExpiryThatCrossesARefresh: the wheel may be about to tell of a time that was put off, or of what is gone.
func TestExpiryThatCrossesARefresh(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, l *lab) {
		l.Configure(20*time.Second, 5*time.Second)
		l.learn(l.phone(1, udp(1), 1), Added)
		r := l.byID[1]
		f := r.at
		r.Expire(&r.Timer, l.now())
		f.Expire(&f.Timer, f.pingAt-1)
		if pings := l.pings(); l.Len() != 1 || len(pings) != 0 {
			t.Errorf("%d left, %d pings", l.Len(), len(pings))
		}
		l.Remove(1, 0)
		r.Expire(&r.Timer, l.now()+time.Hour)
		f.Expire(&f.Timer, l.now()+time.Hour)
		if gone, pings := l.ended(), l.pings(); gone != "" || len(pings)+l.Wheel.Len() != 0 {
			t.Errorf("gone: %s, %d pings, %d timers", gone, len(pings), l.Wheel.Len())
		}
	})
}

// TestClosedConnection: spec, a newer registration over a newer connection wins, whenever the close arrives.
func TestClosedConnection(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(l *lab)
		gone string
		left int
	}{
		{"lost after the grace", func(l *lab) {
			if got, n := l.Closed(7, l.now()); n != 2 || len(got) != 2 || got[0].Closed != l.now() {
				l.t.Errorf("closed: %v", got)
			}
			if got, n := l.Closed(7, l.now()); got != nil || n != 0 {
				l.t.Errorf("closed twice: %v", got)
			}
			sleep(4990 * time.Millisecond)
			if l.Len() != 2 {
				l.t.Error("gone too early")
			}
		}, "1 lost, 2 lost", 0},
		{"comes back in time", func(l *lab) {
			l.Closed(7, l.now())
			sleep(time.Second)
			if b := l.learn(l.phone(1, tcp(8), 2), Moved); b.Closed != 0 || b.Former != tcp(7) {
				l.t.Errorf("back: %+v", b)
			}
		}, "2 lost", 1},
		{"moved on before the close", func(l *lab) {
			l.learn(l.phone(1, tcp(8), 2), Moved)
			if got, _ := l.Closed(7, l.now()); len(got) != 1 || got[0].ID != 2 {
				l.t.Errorf("closed: %v", got)
			}
		}, "2 lost", 1},
		{"answer came after the close", func(l *lab) {
			l.Closed(7, l.now())
			if b := l.learn(l.phone(1, tcp(7), 2), Refreshed); b.Closed == 0 {
				l.t.Error("a closed connection is open again")
			}
			l.learn(l.phone(3, tcp(7), 1), Added)
		}, "1 lost, 2 lost, 3 lost", 0},
		{"answer of the old connection after the new one's", func(l *lab) {
			l.learn(l.phone(1, tcp(8), 3), Moved)
			l.learn(l.phone(1, tcp(7), 2), Old)
			l.Closed(7, l.now())
		}, "2 lost", 1},
		{"no such connection", func(l *lab) {
			if got, _ := l.Closed(99, l.now()); got != nil {
				l.t.Errorf("closed: %v", got)
			}
			if got, _ := l.Closed(0, l.now()); got != nil {
				l.t.Errorf("closed: %v", got)
			}
		}, "", 2},
		{"with more than are told of", func(l *lab) {
			for id := ID(10); id < 10+toldMost; id++ {
				l.learn(l.phone(id, tcp(7), 1), Added)
			}
			if got, n := l.Closed(7, l.now()); len(got) != toldMost || n != toldMost+2 {
				l.t.Errorf("%d told of %d", len(got), n)
			}
			for id := ID(10); id < 10+toldMost; id++ {
				l.learn(l.phone(id, tcp(8), 2), Moved)
			}
		}, "1 lost, 2 lost", toldMost},
		{"expires within the grace", func(l *lab) {
			sleep(57 * time.Second)
			l.Closed(7, l.now())
		}, "1 expired, 2 expired", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, l *lab) {
				l.learn(l.phone(1, tcp(7), 1), Added)
				l.learn(l.phone(2, tcp(7), 1), Added)
				test.do(l)
				sleep(10 * time.Second)
				if got := l.ended(); got != test.gone || l.Len() != test.left {
					t.Errorf("gone: %q, want %q; left: %d, want %d", got, test.gone, l.Len(), test.left)
				}
			})
		})
	}
}

// TestOldAnswers: CSeq tells the order within a Call-ID, for as long as answers can be late.
func TestOldAnswers(t *testing.T) {
	for _, test := range []struct {
		name   string
		after  time.Duration
		change func(b *Binding)
		want   Outcome
	}{
		{"next", 0, func(b *Binding) { b.CSeq = 6 }, Refreshed},
		{"same", 0, func(*Binding) {}, Old},
		{"one before", 0, func(b *Binding) { b.CSeq = 4 }, Old},
		{"before, another flow", 0, func(b *Binding) { b.CSeq, b.Flow = 4, udp(2) }, Old},
		{"another Call-ID", 0, func(b *Binding) { b.CSeq, b.CallID = 1, "other" }, Refreshed},
		{"a phone that counts anew", lateAnswer, func(b *Binding) { b.CSeq = 1 }, Refreshed},
		{"not yet", lateAnswer - time.Second, func(b *Binding) { b.CSeq = 1 }, Old},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, l *lab) {
				before := l.learn(l.phone(1, udp(1), 5), Added)
				sleep(test.after)
				b := l.phone(1, udp(1), 5)
				test.change(&b)
				if got := l.learn(b, test.want); test.want == Old && got != before {
					t.Errorf("changed: %+v", got)
				}
			})
		})
	}
	bubble(t, Options{}, func(_ *testing.T, l *lab) {
		l.learn(l.phone(1, tcp(7), 5), Added)
		l.learn(l.phone(1, tcp(8), 1), Moved) // a phone that started anew, Call-ID and all
	})
}

// elsewhere is a connection from another address.
func elsewhere(conn uint64) Flow {
	f := tcp(conn)
	f.Remote = netip.MustParseAddrPort("203.0.113.1:5060")
	return f
}

// TestCurrent: a token that names an old flow finds the new one.
func TestCurrent(t *testing.T) {
	type question struct {
		id   ID
		from Flow
		want any // a Flow or false
	}
	for _, test := range []struct {
		name string
		do   func(l *lab)
		ask  []question
	}{
		{"nobody moved", func(*lab) {}, []question{{1, tcp(1), false}, {0, tcp(1), false}, {99, tcp(1), false}, {0, tcp(99), false}}},
		{"one of two moved", func(l *lab) { l.learn(l.phone(1, tcp(2), 2), Moved) },
			[]question{{1, tcp(1), tcp(2)}, {2, tcp(1), false}, {0, tcp(1), false}, {1, tcp(2), false}}},
		{"one of two moved, the connection has ended", func(l *lab) {
			l.Closed(1, l.now())
			l.learn(l.phone(1, tcp(2), 2), Moved)
		}, []question{{1, tcp(1), tcp(2)}, {2, tcp(1), false}, {0, tcp(1), tcp(2)}}},
		{"one of two moved to another address, the connection has ended", func(l *lab) {
			l.Closed(1, l.now())
			l.learn(l.phone(1, elsewhere(2), 2), Moved)
		}, []question{{1, tcp(1), elsewhere(2)}, {2, tcp(1), false}, {0, tcp(1), false}}},
		{"one of two moved to another address, the other one is lost", func(l *lab) {
			l.Closed(1, l.now())
			l.learn(l.phone(1, elsewhere(2), 2), Moved)
			sleep(10 * time.Second)
		}, []question{{1, tcp(1), elsewhere(2)}, {0, tcp(1), false}}},
		{"both moved to another address", func(l *lab) {
			l.learn(l.phone(1, elsewhere(2), 2), Moved)
			l.learn(l.phone(2, elsewhere(2), 2), Moved)
		}, []question{{0, tcp(1), elsewhere(2)}}},
		{"the other one stays for sure", func(l *lab) {
			l.learn(l.phone(1, udp(2), 2), Moved)
			sleep(time.Second)
			l.learn(l.phone(2, tcp(1), 2), Refreshed)
		}, []question{{1, tcp(1), udp(2)}, {0, tcp(1), false}}},
		{"both moved to one", func(l *lab) {
			l.learn(l.phone(1, tcp(2), 2), Moved)
			l.learn(l.phone(2, tcp(2), 2), Moved)
		}, []question{{1, tcp(1), tcp(2)}, {2, tcp(1), tcp(2)}, {0, tcp(1), tcp(2)}}},
		{"both moved to different ones", func(l *lab) {
			l.learn(l.phone(1, tcp(2), 2), Moved)
			l.learn(l.phone(2, tcp(3), 2), Moved)
		}, []question{{1, tcp(1), tcp(2)}, {2, tcp(1), tcp(3)}, {0, tcp(1), false}}},
		{"moved and back", func(l *lab) {
			l.learn(l.phone(1, udp(2), 2), Moved)
			l.learn(l.phone(1, tcp(1), 3), Moved)
		}, []question{{1, tcp(1), false}, {1, udp(2), tcp(1)}, {0, tcp(1), false}, {0, udp(2), tcp(1)}}},
		{"moved often", func(l *lab) {
			for n := range uint32(5) {
				l.learn(l.phone(1, tcp(uint64(n)+2), n+2), Moved)
			}
		}, []question{{1, tcp(1), false}, {1, tcp(2), tcp(6)}, {1, tcp(5), tcp(6)}, {0, tcp(1), false}, {0, tcp(2), tcp(6)}}},
		{"moved and gone", func(l *lab) {
			l.learn(l.phone(1, tcp(2), 2), Moved)
			l.Remove(1, 0)
		}, []question{{1, tcp(1), false}, {0, tcp(1), false}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, l *lab) {
				l.learn(l.phone(1, tcp(1), 1), Added)
				l.learn(l.phone(2, tcp(1), 1), Added)
				test.do(l)
				for _, q := range test.ask {
					got := any(false)
					if f, ok := whereTo(l.Table, q.id, q.from); ok {
						got = f
					}
					if got != q.want {
						t.Errorf("%d from %v is at %v, want %v", q.id, q.from, got, q.want)
					}
				}
			})
		})
	}
}

func TestNodes(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, l *lab) {
		at := func(id ID, f Flow, node, cseq uint32) {
			b := l.phone(id, f, cseq)
			b.AoR, b.Backend = "alice@example.com", node
			l.Learn(b, l.now())
			sleep(time.Millisecond)
		}
		check := func(want, wantAt string) {
			t.Helper()
			got, ok := l.Node([]byte("alice@example.com"))
			if s := fmt.Sprint(got, ok); s != want {
				t.Errorf("node %s, want %s", s, want)
			}
			got, ok = l.NodeAt(tcp(1))
			if s := fmt.Sprint(got, ok); s != wantAt {
				t.Errorf("node of the flow %s, want %s", s, wantAt)
			}
		}
		check("0 false", "0 false")
		at(1, tcp(1), 11, 1)
		check("11 true", "11 true")
		at(2, tcp(1), 12, 1)
		check("12 true", "0 false")
		at(1, tcp(1), 11, 2)
		check("11 true", "0 false")
		at(2, tcp(2), 12, 2)
		check("12 true", "11 true")
		l.Closed(2, l.now())
		check("11 true", "11 true")
		l.Closed(1, l.now())
		check("12 true", "11 true") // none is better
		if n := l.RemoveAll("alice@example.com", 12, 0); n != 1 || l.Len() != 1 {
			t.Errorf("%d removed, %d left", n, l.Len())
		}
		check("11 true", "11 true")
		if b, ok := l.Remove(1, 0); !ok || b.Flow != tcp(1) || l.Flows() != 0 {
			t.Errorf("removed %v %v, %d flows left", b, ok, l.Flows())
		}
		check("0 false", "0 false")
		if _, ok := l.Remove(1, 0); ok || l.RemoveAll("alice@example.com", 12, 0) != 0 {
			t.Error("removed what is not there")
		}
		sleep(time.Minute)
		if gone := l.ended(); gone != "" {
			t.Errorf("told of what was removed: %s", gone)
		}
	})
}

// TestBounds: what finds no room changes nothing and is counted.
func TestBounds(t *testing.T) {
	bubble(t, Options{Capacity: 40}, func(t *testing.T, l *lab) {
		long := func(change func(b *Binding)) {
			t.Helper()
			b := l.phone(1, udp(1), 9)
			change(&b)
			l.learn(b, Full)
		}
		for range 2 { // unknown, known
			long(func(b *Binding) { b.AoR = strings.Repeat("a", MaxAoR+1) })
			long(func(b *Binding) { b.Contact = strings.Repeat("a", MaxContact+1) })
			long(func(b *Binding) { b.Shown = strings.Repeat("a", MaxContact+1) })
			long(func(b *Binding) { b.Instance = strings.Repeat("a", MaxInstance+1) })
			long(func(b *Binding) { b.CallID = strings.Repeat("a", MaxCallID+1) })
			long(func(b *Binding) { b.ID = 0 })
			l.Learn(l.phone(1, udp(1), 1), l.now())
		}
		b := l.phone(1, udp(1), 2)
		b.AoR, b.Contact, b.Shown = strings.Repeat("a", MaxAoR), strings.Repeat("b", MaxContact), strings.Repeat("c", MaxContact)
		b.UA, b.Instance, b.CallID = strings.Repeat("d", MaxUA), strings.Repeat("e", MaxInstance), strings.Repeat("f", MaxCallID)
		b.UA += "and more"
		if got := l.learn(b, Refreshed); got.UA != b.UA[:MaxUA] || got.Contact != b.Contact || got.Shown != b.Shown || got.CallID != b.CallID || got.AoR != b.AoR {
			t.Errorf("got %+v", got)
		}
		// One more than an AoR may have: the one that was refreshed first makes room.
		for id := ID(2); id < 2+perAoR; id++ {
			b := l.phone(id, udp(int(id)), 1)
			b.AoR = "many@example.com"
			l.learn(b, Added)
			sleep(time.Millisecond)
		}
		again := l.phone(2, udp(2), 2)
		again.AoR = "many@example.com"
		l.learn(again, Refreshed)
		b = l.phone(100, udp(100), 1)
		b.AoR = "many@example.com"
		l.learn(b, Added)
		if _, ok := l.Get(3); ok || l.Len() != 1+perAoR {
			t.Errorf("3 is there: %v; %d in all", ok, l.Len())
		}
		if _, ok := l.Get(2); !ok {
			t.Error("2 was refreshed last but one, and is gone")
		}
		for id := ID(200); l.Len() < 40; id++ {
			l.learn(l.phone(id, udp(int(id)), 1), Added)
		}
		l.learn(l.phone(300, udp(300), 1), Full)
		l.learn(l.phone(1, udp(1), 3), Refreshed)
		if _, _, _, _, _, refused := l.Stats(); refused != 12+1+1 {
			t.Errorf("%d refused", refused)
		}
		if gone := l.ended(); gone != "" {
			t.Errorf("gone: %s", gone)
		}
	})
}

func TestAllYieldsAllAndStops(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, l *lab) {
		for id := ID(1); id <= 20; id++ {
			l.learn(l.phone(id, udp(int(id)), 1), Added)
		}
		seen := make(map[ID]bool)
		for b := range l.All {
			seen[b.ID] = true
			l.Remove(21-b.ID, 0) // the table may be changed meanwhile
		}
		if len(seen) < 10 {
			t.Errorf("%d seen", len(seen))
		}
		n := 0
		for range l.All {
			n++
			break
		}
		if l.Len() > 0 && n != 1 {
			t.Errorf("%d after break", n)
		}
	})
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	w := timers.NewWheel(time.Millisecond)
	var table *Table
	table = NewTable(Options{
		Capacity: 200, Wheel: w, Keep: true,
		Ping: func(b Binding, now time.Duration) { table.Pong(b.ID, now) },
		Gone: func(b Binding, _ Reason, _ time.Duration) { table.Get(b.ID) },
	})
	table.Configure(5*time.Millisecond, 3*time.Millisecond)
	var wheel, users sync.WaitGroup
	ctx, cancel := newContext(t)
	wheel.Go(func() { w.Run(ctx) })
	for g := range uint64(4) {
		users.Go(func() {
			x := g + 1
			for range 5000 {
				x = x*6364136223846793005 + 1442695040888963407
				id, f := ID(x>>40%300+1), tcp(x>>33%50+1)
				b := phone(id, f)
				b.Expires, b.CSeq = w.Now()+time.Duration(x>>50)*time.Microsecond, uint32(x>>20)
				switch x >> 60 {
				case 0:
					table.Closed(f.Conn, w.Now())
				case 1:
					table.Remove(id, 0)
				case 2:
					table.RemoveAll(b.AoR, 1, 0)
				case 3:
					table.Successor(f, 0)
					table.Current(id, f)
				case 4:
					table.Node([]byte(b.AoR))
					table.NodeAt(f)
					table.Pong(id, w.Now())
				default:
					table.Learn(b, w.Now())
				}
			}
		})
	}
	users.Go(func() {
		day := time.Now()
		for range 50 {
			var kept [][]byte
			table.Changes(func(d time.Duration) time.Time { return day.Add(d) },
				func(_ ID, state []byte) { kept = append(kept, slices.Clone(state)) }, func(ID) {})
			for _, s := range kept {
				table.Restore(s, func(t time.Time) time.Duration { return t.Sub(day) }, w.Now())
			}
			for range table.All {
				runtime.Gosched()
			}
			table.Configure(time.Duration(len(kept)%3)*time.Millisecond, time.Millisecond)
		}
	})
	users.Wait()
	for b := range table.All {
		table.Remove(b.ID, 0)
	}
	if table.Len() != 0 || table.Flows() != 0 || len(table.byAoR)+len(table.byFlow)+len(table.byConn)+len(table.byID) != 0 || w.Len() != 0 {
		t.Errorf("left: %d bindings, %d flows, %d timers", table.Len(), table.Flows(), w.Len())
	}
	cancel()
	wheel.Wait()
}

// TestLookupsDoNotAllocate, and a refresh that changes nothing does not either.
func TestLookupsDoNotAllocate(t *testing.T) {
	w := timers.NewWheel(time.Millisecond)
	table := NewTable(Options{Capacity: 10, Wheel: w})
	b, now := phone(1, udp(1)), w.Now()
	table.Learn(b, now)
	b.Flow = udp(2)
	b.CSeq++
	table.Learn(b, now)
	of := []byte(b.AoR)
	for _, test := range []struct {
		name string
		do   func()
	}{
		{"Node", func() { table.Node(of) }},
		{"NodeAt", func() { table.NodeAt(udp(2)) }},
		{"Current", func() { table.Current(1, udp(1)) }},
		{"Successor", func() { table.Successor(udp(1), 0) }},
		{"Get", func() { table.Get(1) }},
		{"Pong", func() { table.Pong(1, now) }},
		{"Learn", func() { b.CSeq++; table.Learn(b, now) }},
	} {
		if n := testing.AllocsPerRun(100, test.do); n != 0 {
			t.Errorf("%s: %v allocations", test.name, n)
		}
	}
}

// perBinding is the heap that each of n bindings takes, each on a flow of its own.
func perBinding(n int) int {
	table := NewTable(Options{Capacity: n, Wheel: timers.NewWheel(time.Millisecond)})
	table.Configure(20*time.Second, time.Second)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range n {
		f := tcp(uint64(i) + 1)
		if i%2 == 0 {
			f = udp(i)
			f.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 5060)
		}
		b := phone(ID(i)*0x9E3779B97F4A7C15+1, f)
		table.Learn(b, table.Wheel.Now())
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	defer runtime.KeepAlive(table)
	if table.Len() != n {
		return -1
	}
	return int(after.HeapAlloc-before.HeapAlloc) / n
}

func TestMemoryPerBinding(t *testing.T) {
	if got := perBinding(100_000); got <= 0 || got > 1200 {
		t.Errorf("%d bytes for each binding", got)
	}
}
