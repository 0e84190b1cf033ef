package binding

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
)

// model does what a Table does, by looking at everything every time.
type model struct {
	all      map[ID]*modelled
	flows    map[Flow]*modelledFlow // somebody is on it or was
	removed  map[any]time.Duration  // by ID or user and node: when the last REGISTER came that removed it
	order    int
	grace    time.Duration
	capacity int
}

type modelled struct {
	b     Binding
	past  []Flow // the last one first
	due   time.Duration
	order int // of the last refresh
}

type modelledFlow struct {
	closed, heard, left time.Duration
	most                int // bindings at once
}

func (m *model) uses(f Flow) bool {
	for _, x := range m.all {
		if x.b.Flow == f || slices.Contains(x.past, f) {
			return true
		}
	}
	return false
}

// tidy forgets flows that nobody knows.
func (m *model) tidy() {
	maps.DeleteFunc(m.flows, func(f Flow, _ *modelledFlow) bool { return !m.uses(f) })
}

func (m *model) get(id ID) (Binding, bool) {
	x := m.all[id]
	if x == nil {
		return Binding{}, false
	}
	b := x.b
	b.Closed = m.flows[b.Flow].closed
	if len(x.past) > 0 {
		b.Former = x.past[0]
	}
	return b, true
}

func (m *model) of(aor string) []*modelled {
	var all []*modelled
	for _, x := range m.all {
		if x.b.AoR == aor {
			all = append(all, x)
		}
	}
	slices.SortFunc(all, func(a, b *modelled) int { return b.order - a.order })
	return all
}

func (m *model) learn(b Binding, now time.Duration) Outcome {
	b.UA = b.UA[:min(len(b.UA), MaxUA)]
	if b.ID == 0 || len(b.CallID) > MaxCallID {
		return Full
	}
	if b.Asked != 0 && b.Asked < max(m.removed[b.ID], m.removed[userAt{b.AoR, b.Backend}]) {
		return Old
	}
	x := m.all[b.ID]
	outcome := Refreshed
	if x == nil {
		if all := m.of(b.AoR); len(all) >= perAoR {
			delete(m.all, all[len(all)-1].b.ID)
			m.tidy()
		}
		if len(m.all) >= m.capacity {
			return Full
		}
		x = &modelled{}
		outcome, b.Since = Added, now
	} else {
		if b.Asked != 0 && b.Asked < x.b.Asked {
			return Old
		}
		isNewer := b.Flow.Conn > x.b.Flow.Conn && x.b.Flow.Conn != 0
		if !isNewer && b.CallID == x.b.CallID && b.CSeq <= x.b.CSeq && now-x.b.Refreshed < lateAnswer {
			return Old
		}
		if all := m.of(b.AoR); x.b.AoR != b.AoR && len(all) >= perAoR {
			delete(m.all, all[len(all)-1].b.ID)
		}
		b.Since, b.Returned = x.b.Since, x.b.Returned
		if from := x.b.Flow; from != b.Flow {
			outcome = Moved
			if slices.Contains(x.past, b.Flow) {
				b.Returned++
			}
			x.past = slices.DeleteFunc(x.past, func(f Flow) bool { return f == b.Flow })
			x.past = slices.Insert(x.past, 0, from)
			x.past = x.past[:min(len(x.past), formers)]
			m.flows[from].left = now
		}
	}
	b.Refreshed = now
	m.order++
	x.b, x.order, x.due = b, m.order, b.Expires
	m.all[b.ID] = x
	f := m.flows[b.Flow]
	if f == nil {
		f = &modelledFlow{}
		m.flows[b.Flow] = f
	}
	f.heard = now
	on := 0
	for _, x := range m.all {
		if x.b.Flow == b.Flow {
			on++
		}
	}
	f.most = max(f.most, on)
	if f.closed != 0 {
		x.due = min(x.due, now+m.grace)
	}
	m.tidy()
	return outcome
}

// userAt is who a "*" is for.
type userAt struct {
	aor  string
	node uint32
}

// remove takes those away that were not learned from a later REGISTER, and all from before that come later.
func (m *model) remove(what any, asked time.Duration, is func(*modelled) bool) (n int) {
	m.removed[what] = max(m.removed[what], asked)
	for id, x := range m.all {
		if is(x) && (asked == 0 || x.b.Asked <= asked) {
			delete(m.all, id)
			n++
		}
	}
	m.tidy()
	return n
}

func (m *model) closed(conn uint64, now time.Duration) (n int) {
	for key, f := range m.flows {
		if conn == 0 || key.Conn != conn || f.closed != 0 {
			continue
		}
		f.closed = now
		for _, x := range m.all {
			if x.b.Flow == key {
				x.due = min(x.due, now+m.grace)
				n++
			}
		}
	}
	return n
}

func (m *model) expire(now time.Duration) string {
	var gone []string
	for id, x := range m.all {
		if x.due > now {
			continue
		}
		why := Expired
		if x.due < x.b.Expires {
			why = Lost
		}
		gone = append(gone, fmt.Sprintf("%d %s", id, why))
		delete(m.all, id)
	}
	m.tidy()
	slices.Sort(gone)
	return strings.Join(gone, ", ")
}

func (m *model) current(id ID, from Flow) (Flow, bool) {
	to := make(map[Flow]int)
	isUsed := false
	for i, x := range m.all {
		if (id == 0 || id == i) && slices.Contains(x.past, from) {
			to[x.b.Flow]++
		}
		isUsed = isUsed || x.b.Flow == from
	}
	f := m.flows[from]
	if len(to) != 1 || id == 0 && isUsed && (f.closed == 0 || f.heard > f.left) {
		return Flow{}, false
	}
	for at, n := range to {
		if id != 0 || n >= f.most || at.Remote.Addr() == from.Remote.Addr() {
			return at, true
		}
	}
	return Flow{}, false
}

func (m *model) node(aor string) (uint32, bool) {
	all := m.of(aor)
	for _, x := range all {
		if m.flows[x.b.Flow].closed == 0 {
			return x.b.Backend, true
		}
	}
	if len(all) == 0 {
		return 0, false
	}
	return all[0].b.Backend, true
}

func (m *model) nodeAt(f Flow) (uint32, bool) {
	nodes := make(map[uint32]bool)
	for _, x := range m.all {
		if x.b.Flow == f {
			nodes[x.b.Backend] = true
		}
	}
	if len(nodes) != 1 {
		return 0, false
	}
	for n := range nodes {
		return n, true
	}
	return 0, false
}

// file is what Changes has told.
type file map[ID][]byte

func (f file) take(t *Table, day time.Time) {
	t.Changes(func(d time.Duration) time.Time { return day.Add(d) },
		func(id ID, state []byte) { f[id] = slices.Clone(state) }, func(id ID) { delete(f, id) })
}

// TestTableIsLikeTheModel: thousands of random steps, after each of which both know the same.
func TestTableIsLikeTheModel(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { likeTheModel(t, seed) })
	}
}

func likeTheModel(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 5))
	ids, flows, aors := 10+rnd.IntN(70), 2+rnd.IntN(20), 1+rnd.IntN(10)
	flow := func() Flow {
		n := rnd.IntN(flows)
		f := udp(n)
		if n%2 == 1 {
			f = tcp(uint64(n))
			f.Proto = wire.TLS
		}
		return f
	}
	day, kept := time.Now().Truncate(time.Microsecond), make(file)
	bubble(t, Options{Capacity: 50, Keep: true}, func(t *testing.T, l *lab) {
		m := &model{all: make(map[ID]*modelled), flows: make(map[Flow]*modelledFlow), removed: make(map[any]time.Duration), grace: 5 * time.Second, capacity: 50}
		binding := func() Binding {
			b := phone(ID(rnd.IntN(ids)), flow())
			b.ID |= b.ID % 3 << 32
			b.AoR = fmt.Sprintf("u%d@example.com", rnd.IntN(aors))
			b.Backend, b.CSeq, b.NATed = 1+uint32(rnd.IntN(3)), uint32(rnd.IntN(100)), false
			b.UA = strings.Repeat("u", rnd.IntN(MaxUA+3))
			if rnd.IntN(3) > 0 {
				b.CallID = fmt.Sprint(rnd.Int())
			}
			if rnd.IntN(50) == 0 {
				b.CallID = strings.Repeat("c", MaxCallID+rnd.IntN(2))
			}
			if rnd.IntN(4) > 0 { // answers overtake each other
				b.Asked = max(l.now()-time.Duration(rnd.IntN(3000))*time.Millisecond, 0)
			}
			b.Expires = l.now() + time.Duration(rnd.IntN(90))*time.Second + 5*time.Millisecond
			return b
		}
		for step := range 1500 {
			now := l.now()
			switch n := rnd.IntN(20); {
			case n < 11:
				b := binding()
				want := m.learn(b, now)
				got, after := l.Learn(b, now)
				if known, ok := m.get(b.ID); got != want || ok && want != Full && after != known {
					t.Fatalf("step %d: learned %v, want %v\ngot  %+v\nwant %+v", step, got, want, after, known)
				}
			case n == 11:
				b := binding()
				want := m.remove(b.ID, b.Asked, func(x *modelled) bool { return x.b.ID == b.ID })
				if _, ok := l.Remove(b.ID, b.Asked); ok != (want == 1) {
					t.Fatalf("step %d: removed %v, want %d", step, ok, want)
				}
			case n == 12:
				b := binding()
				want := m.remove(userAt{b.AoR, b.Backend}, b.Asked, func(x *modelled) bool { return x.b.AoR == b.AoR && x.b.Backend == b.Backend })
				if got := l.RemoveAll(b.AoR, b.Backend, b.Asked); got != want {
					t.Fatalf("step %d: removed %d, want %d", step, got, want)
				}
			case n == 13:
				conn := flow().Conn
				want := m.closed(conn, now)
				some, total := l.Closed(conn, now)
				if total != want || len(some) != min(want, toldMost) {
					t.Fatalf("step %d: closed %d, told of %d, want %d", step, total, len(some), want)
				}
				for _, b := range some {
					if b.Flow.Conn != conn || b.Closed != now {
						t.Fatalf("step %d: told of %+v", step, b)
					}
				}
			case n == 14:
				kept.take(l.Table, day)
			default:
				sleep(time.Duration(rnd.IntN(8))*time.Second + 20*time.Millisecond)
				want := m.expire(l.now())
				if got := l.ended(); got != want {
					t.Fatalf("step %d: gone %s, want %s", step, got, want)
				}
			}
			m.compare(t, l.Table, step)
			if f := flow(); step%7 == 0 {
				m.compareLookups(t, l.Table, f, ID(rnd.IntN(ids)), aors)
			}
		}
		kept.take(l.Table, day)
		m.compareRestored(t, l, kept, day)
	})
}

func (m *model) compare(t *testing.T, table *Table, step int) {
	t.Helper()
	on := make(map[Flow]bool)
	for id, x := range m.all {
		want, _ := m.get(id)
		if got, ok := table.Get(id); !ok || got != want {
			t.Fatalf("step %d: %d is\n%+v, want\n%+v", step, id, got, want)
		}
		on[x.b.Flow] = true
	}
	if table.Len() != len(m.all) || table.Flows() != len(on) || len(table.byFlow) != len(m.flows) {
		t.Fatalf("step %d: %d bindings on %d flows of %d, want %d on %d of %d", step, table.Len(), table.Flows(), len(table.byFlow), len(m.all), len(on), len(m.flows))
	}
	if n := table.Wheel.Len(); n != len(m.all) {
		t.Fatalf("step %d: %d timers for %d bindings", step, n, len(m.all))
	}
}

func (m *model) compareLookups(t *testing.T, table *Table, f Flow, id ID, aors int) {
	t.Helper()
	same := func(what string, got, want any, ok, wantOK bool) {
		t.Helper()
		if got != want || ok != wantOK {
			t.Fatalf("%s: %v %v, want %v %v", what, got, ok, want, wantOK)
		}
	}
	for _, id := range []ID{0, id, id | id%3<<32} {
		want, wantOK := m.current(id, f)
		got, ok := whereTo(table, id, f)
		same(fmt.Sprintf("current of %d from %v", id, f), got, want, ok, wantOK)
	}
	want, wantOK := m.nodeAt(f)
	got, ok := table.NodeAt(f)
	same("node at flow", got, want, ok, wantOK)
	for i := range aors {
		aor := fmt.Sprintf("u%d@example.com", i)
		want, wantOK := m.node(aor)
		got, ok := table.Node([]byte(aor))
		same("node of "+aor, got, want, ok, wantOK)
	}
}

// compareRestored: what Changes told makes a table that knows the same, but for connections.
func (m *model) compareRestored(t *testing.T, l *lab, kept file, day time.Time) {
	t.Helper()
	if len(kept) != len(m.all) {
		t.Fatalf("%d states of %d", len(kept), len(m.all))
	}
	again := l.another(Options{Capacity: m.capacity})
	shift := again.Wheel.Now() - l.now()
	for id, state := range kept {
		want, ok := m.get(id)
		if _, isRestored := again.Restore(state, func(t time.Time) time.Duration { return t.Sub(day) + shift }, again.Wheel.Now()); !ok || !isRestored {
			t.Fatalf("%d is kept, %v; restored, %v", id, ok, isRestored)
		}
		want.Expires, want.Since, want.Refreshed, want.Closed = want.Expires+shift, want.Since+shift, want.Refreshed+shift, 0
		want.Returned = 0
		want.Asked = 0 // no answer is on its way to a process that has just begun
		if want.Flow.Conn != 0 {
			want.Closed = again.Wheel.Now()
		}
		if got, _ := again.Get(id); got != want {
			t.Fatalf("restored %+v\nwant     %+v", got, want)
		}
	}
	for id, x := range m.all {
		for _, f := range x.past {
			if got, ok := whereTo(again, id, f); !ok || got != x.b.Flow {
				t.Fatalf("%d was on %v and is at %v %v, want %v", id, f, got, ok, x.b.Flow)
			}
		}
	}
}
