package binding

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/store/codec"
	"github.com/sipward/sipward/timers"
)

var someDay = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// wall and clock fit each other: the clock began with that day.
func wall(d time.Duration) time.Time  { return someDay.Add(d) }
func clock(t time.Time) time.Duration { return t.Sub(someDay) }

// resealed is a state with a sum that fits.
func resealed(body []byte) []byte {
	if len(body) == 0 {
		return nil
	}
	w := codec.Begin(nil, body[0])
	w.Raw(body[1:]...)
	return w.Seal()
}

// sumBytes are what a state has behind its body.
const sumBytes = 4

func samples() []Binding {
	plain := phone(1, udp(1))
	v6 := phone(1<<63|5, Flow{wire.WSS, 3, netip.MustParseAddrPort("[2001:db8::1]:443"), 1 << 60})
	v6.Local, v6.NATed, v6.Proven = netip.MustParseAddr("fe80::1%eth0"), false, true
	empty := Binding{ID: 3, Flow: tcp(5), Expires: 2 * time.Hour}
	all := []Binding{plain, v6, empty}
	for i := range all {
		all[i].Since, all[i].Refreshed = 10*time.Minute, 30*time.Minute
	}
	return all
}

func TestStateIsCompactAndExact(t *testing.T) {
	past := []Flow{tcp(9), udp(8)}
	for _, b := range samples() {
		state := appendState([]byte("before"), &b, past, wall)[len("before"):]
		got, gotPast, ok := parseState(state, clock, 40*time.Minute)
		if !ok || got != b || !slices.Equal(gotPast, past) {
			t.Errorf("got %+v %v %v\nwant %+v %v", got, gotPast, ok, b, past)
		}
		texts := 0
		for _, s := range b.list() {
			texts += len(*s)
		}
		if more := len(state) - texts; more > 120 {
			t.Errorf("%d bytes besides the texts", more)
		}
	}
}

// TestRestores: datagram flows go on, connections are closed, until they expire.
func TestRestores(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, l *lab) {
		began := time.Now()
		clock := func(t time.Time) time.Duration { return l.now() + t.Sub(began) }
		restore := func(b Binding, want bool) Binding {
			t.Helper()
			got, ok := l.Restore(appendState(nil, &b, nil, func(d time.Duration) time.Time { return began.Add(d) }), clock, l.now())
			if ok != want {
				t.Errorf("%d is restored: %v", b.ID, ok)
			}
			return got
		}
		state := func(id ID, f Flow) Binding {
			b := phone(id, f)
			b.Since, b.Refreshed, b.Expires = -time.Hour, -time.Minute, 30*time.Second
			return b
		}
		if b := restore(state(1, udp(1)), true); b.Closed != 0 {
			t.Errorf("a datagram's flow is closed: %+v", b)
		}
		if b := restore(state(2, tcp(2)), true); b.Closed != l.now() || b.Expires != l.now()+30*time.Second {
			t.Errorf("a connection outlived the process: %+v", b)
		}
		restore(state(2, tcp(3)), false) // is there
		late := state(4, udp(4))
		late.Expires = 0
		restore(late, false)
		if got, _ := l.Closed(2, l.now()); got != nil {
			t.Errorf("closed again: %v", got)
		}
		sleep(10 * time.Second)
		if b := l.learn(l.phone(2, tcp(10), 2), Moved); b.Closed != 0 || b.Former != tcp(2) {
			t.Errorf("back: %+v", b)
		}
		sleep(21 * time.Second)
		if gone := l.ended(); gone != "1 expired" || l.Len() != 1 {
			t.Errorf("gone: %s; %d left", gone, l.Len())
		}
		for i := range ID(3) { // in the order of a file, not of their REGISTERs
			b := state(50+i, udp(int(i)))
			b.AoR, b.Backend = "order@example.com", uint32(i)
			b.Refreshed = []time.Duration{-3 * time.Second, -time.Second, -2 * time.Second}[i]
			restore(b, true)
		}
		if node, ok := l.Node([]byte("order@example.com")); !ok || node != 1 {
			t.Errorf("node %d %v, want that of the last REGISTER", node, ok)
		}
		for i := ID(0); i < perAoR+1; i++ {
			b := state(100+i, udp(int(i)))
			b.AoR, b.Expires = "one@example.com", time.Hour
			restore(b, i < perAoR)
		}
	})
	bubble(t, Options{Capacity: 1}, func(t *testing.T, l *lab) {
		for i, b := range samples() {
			if _, ok := l.Restore(appendState(nil, &b, nil, wall), clock, l.now()); ok != (i == 0) {
				t.Errorf("%d restored: %v", i, ok)
			}
		}
	})
}

// TestChangesAreTheLastWord on each binding, also when it went and came back meanwhile.
func TestChangesAreTheLastWord(t *testing.T) {
	bubble(t, Options{Capacity: 1, Keep: true}, func(t *testing.T, l *lab) {
		kept := make(file)
		check := func(want int) {
			t.Helper()
			kept.take(l.Table, someDay)
			if len(kept) != want {
				t.Errorf("%d kept, want %d", len(kept), want)
			}
		}
		check(0)
		l.learn(l.phone(1, udp(1), 1), Added)
		check(1)
		l.Remove(1, 0)
		l.learn(l.phone(1, udp(1), 1), Added)
		check(1)
		l.Remove(1, 0)
		check(0)
		l.learn(l.phone(1, udp(1), 1), Added)
		sleep(2 * time.Minute)
		check(0)
		for id := ID(1); id < 3000; id++ { // far more than the table holds
			l.learn(l.phone(id, udp(1), 1), Added)
			l.Remove(id, 0)
		}
		if lost := l.LostChanges(); lost == 0 || len(l.changed) > 1024 {
			t.Errorf("%d lost, %d wait", lost, len(l.changed))
		}
	})
}

// TestDamagedStates: none is taken for sound, whatever is cut off or flipped.
func TestDamagedStates(t *testing.T) {
	b := samples()[0]
	state := appendState(nil, &b, []Flow{tcp(1)}, wall)
	for i := range state {
		if _, _, ok := parseState(state[:i], clock, 0); ok {
			t.Errorf("cut at %d", i)
		}
		damaged := bytes.Clone(state)
		damaged[i] ^= 1
		if _, _, ok := parseState(damaged, clock, 0); ok {
			t.Errorf("flipped at %d", i)
		}
	}
	body := state[:len(state)-sumBytes]
	newer := bytes.Clone(body)
	newer[0]++
	for _, test := range []struct {
		name string
		body []byte
	}{
		{"newer version", newer},
		{"cut, with a sum", body[:len(body)-3]},
		{"more at the end", append(bytes.Clone(body), 0)},
		{"version only", body[:1]},
	} {
		if _, _, ok := parseState(resealed(test.body), clock, 0); ok {
			t.Errorf("%s is taken", test.name)
		}
	}
}

// FuzzRestore: no bytes make it panic, and what it takes is whole and bounded.
func FuzzRestore(f *testing.F) {
	for _, b := range samples() {
		state := appendState(nil, &b, []Flow{tcp(1), udp(2), tcp(1), b.Flow}, wall)
		f.Add(state[:len(state)-sumBytes])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		w := timers.NewWheel(time.Millisecond)
		table := NewTable(Options{Capacity: 10, Wheel: w, Keep: true})
		table.Configure(20*time.Second, 5*time.Second)
		now := w.Now()
		at := func(t time.Time) time.Duration { return now + t.Sub(someDay) }
		table.Restore(body, at, now)
		b, ok := table.Restore(resealed(body), at, now)
		if !ok {
			if table.Len() != 0 || len(table.byFlow) != 0 {
				t.Fatal("something is left of a state that was not taken")
			}
			return
		}
		if b.ID == 0 || !b.fits() || b.Expires <= now || b.Refreshed > now || b.Since == 0 || b.Refreshed == 0 || !b.Flow.Remote.IsValid() {
			t.Fatalf("taken: %+v", b)
		}
		if got, _ := table.Get(b.ID); got != b {
			t.Fatalf("got %+v, want %+v", got, b)
		}
		// Written and read again it is the same, but for what is below a microsecond.
		_, past, _ := table.trace(b.ID)
		for i, f := range past {
			if f == b.Flow || slices.Contains(past[:i], f) {
				t.Fatalf("on %v, before on %v", b.Flow, past)
			}
		}
		again, pastAgain, ok := parseState(appendState(nil, &b, past, func(d time.Duration) time.Time { return someDay.Add(d - now) }), at, now)
		again.Closed, again.Former = b.Closed, b.Former
		if !isNear(again.Expires, b.Expires) || !isNear(again.Since, b.Since) || !isNear(again.Refreshed, b.Refreshed) {
			t.Fatalf("times again %v %v %v, want %v %v %v", again.Since, again.Refreshed, again.Expires, b.Since, b.Refreshed, b.Expires)
		}
		again.Expires, again.Since, again.Refreshed = b.Expires, b.Since, b.Refreshed
		if !ok || again != b || !slices.Equal(past, pastAgain) {
			t.Fatalf("again %+v %v\nwant  %+v %v", again, pastAgain, b, past)
		}
		moved := b
		moved.Flow, moved.CSeq, moved.Expires = udp(77), b.CSeq+1, now+time.Hour
		table.Learn(moved, now)
		table.Current(b.ID, b.Flow)
		table.Remove(b.ID, 0)
		if table.Len()+table.Flows()+len(table.byFlow)+len(table.byAoR)+len(table.byConn)+w.Len() != 0 {
			t.Fatal("something is left")
		}
	})
}

func isNear(a, b time.Duration) bool { return (a - b).Abs() <= 2*time.Microsecond }
