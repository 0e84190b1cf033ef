package binding

import (
	"fmt"
	"testing"
	"time"
)

// reconnected is a phone without an instance: its Contact has the port of its connection.
func (l *lab) reconnected(id ID, conn uint64, cseq uint32) Binding {
	b := l.phone(id, tcp(conn), cseq)
	b.AoR, b.Instance, b.Contact = "u@example.com", "", fmt.Sprintf("sip:u@10.0.0.7:%d;transport=tcp", 40000+conn)
	return b
}

// TestPredecessor: what a phone left behind is told by user and host of its Contact.
func TestPredecessor(t *testing.T) {
	for _, test := range []struct {
		name    string
		aor     string
		contact string
		change  func(b *Binding)
		isOpen  bool
		want    bool
	}{
		{name: "another port", contact: "sip:u@10.0.0.7:40002", want: true},
		{name: "other parameters", contact: "sip:u@10.0.0.7:40002;ob", want: true},
		{name: "another user", contact: "sip:v@10.0.0.7:40002"},
		{name: "another host", contact: "sip:u@10.0.0.8:40002"},
		{name: "another AoR", aor: "v@example.com", contact: "sip:u@10.0.0.7:40002"},
		{name: "its connection is open", contact: "sip:u@10.0.0.7:40002", isOpen: true},
		{name: "it has an instance", contact: "sip:u@10.0.0.7:40002", change: func(b *Binding) { b.Instance = "<urn:uuid:1>" }},
		{name: "no URI", contact: "@"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, l *lab) {
				b := l.reconnected(1, 1, 1)
				if test.change != nil {
					test.change(&b)
				}
				l.learn(b, Added)
				if !test.isOpen {
					l.Closed(1, l.now())
				}
				aor := test.aor
				if aor == "" {
					aor = b.AoR
				}
				if got, ok := l.Predecessor(aor, []byte(test.contact)); ok != test.want || ok && got.ID != 1 {
					t.Errorf("got %+v, %v", got, ok)
				}
			})
		})
	}
}

// TestTakesThePlaceOfItsPredecessor: all IDs that the phone had lead to where it is, as far as they are remembered.
func TestTakesThePlaceOfItsPredecessor(t *testing.T) {
	bubble(t, Options{Keep: true}, func(t *testing.T, l *lab) {
		day, kept := time.Now(), make(file)
		l.learn(l.reconnected(1, 1, 1), Added)
		kept.take(l.Table, day)
		const last = formers + 2
		for n := ID(2); n <= last; n++ {
			l.Closed(uint64(n-1), l.now())
			sleep(time.Second)
			b := l.reconnected(n, uint64(n), uint32(n))
			b.Instead = n - 1
			if got := l.learn(b, Moved); got.ID != n || got.Former != tcp(uint64(n-1)) || got.Contact != b.Contact || got.Since > l.now()-time.Second*time.Duration(n-1) {
				t.Errorf("got %+v", got)
			}
			kept.take(l.Table, day)
		}
		for n := ID(1); n < last; n++ {
			isKnown := n >= last-formers
			if f, ok := l.Current(n, tcp(uint64(n))); ok != isKnown || ok && f != tcp(uint64(last)) {
				t.Errorf("%d is at %v, %v", n, f, ok)
			}
			if b, ok := l.Follow(n); ok != isKnown || ok && b.ID != last {
				t.Errorf("%d is %+v, %v", n, b, ok)
			}
			if _, ok := l.Get(n); ok {
				t.Errorf("%d is still there", n)
			}
		}
		names := func() int {
			l.Table.mu.RLock()
			defer l.Table.mu.RUnlock()
			return len(l.byFirst)
		}
		if l.Len() != 1 || names() != formers || len(kept) != 1 || kept[last] == nil {
			t.Errorf("%d bindings, %d names, %d in the file", l.Len(), names(), len(kept))
		}
		sleep(time.Minute)
		if got := l.ended(); got != fmt.Sprintf("%d expired", last) || names() != 0 {
			t.Errorf("gone: %s; %d names", got, names())
		}
	})
}

// TestPlaceThatCannotBeTaken: whoever comes instead of nobody is new.
func TestPlaceThatCannotBeTaken(t *testing.T) {
	for name, change := range map[string]func(l *lab, b *Binding){
		"it is not there":    func(_ *lab, b *Binding) { b.Instead = 9 },
		"of another AoR":     func(_ *lab, b *Binding) { b.AoR = "v@example.com" },
		"it is open":         func(l *lab, b *Binding) { l.learn(l.reconnected(1, 3, 2), Moved) },
		"it has an instance": func(_ *lab, b *Binding) { b.Instead = 5 },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, Options{}, func(_ *testing.T, l *lab) {
				l.learn(l.reconnected(1, 1, 1), Added)
				other := l.reconnected(5, 1, 1)
				other.Instance = "<urn:uuid:5>"
				l.learn(other, Added)
				l.Closed(1, l.now())
				b := l.reconnected(2, 2, 3)
				b.Instead = 1
				change(l, &b)
				l.learn(b, Added)
			})
		})
	}
}

// TestAnswersInAnotherOrder: what the registrar was asked later counts.
func TestAnswersInAnotherOrder(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, l *lab) {
		sleep(time.Second)
		second := l.phone(1, tcp(2), 1)
		second.CallID, second.Asked = "second", 20*time.Millisecond
		l.learn(second, Added)
		first := l.phone(1, tcp(1), 9)
		first.Asked = 10 * time.Millisecond
		l.learn(first, Old)
		if _, ok := l.Remove(1, 10*time.Millisecond); ok || l.RemoveAll(second.AoR, second.Backend, 10*time.Millisecond) != 0 {
			t.Error("forgotten by a REGISTER that came before")
		}
		if _, ok := l.Remove(1, 20*time.Millisecond); !ok || l.Len() != 0 {
			t.Error("not forgotten")
		}
		l.learn(first, Old)
		first.Asked = 20 * time.Millisecond
		l.learn(first, Added)
		if n := l.RemoveAll(first.AoR, first.Backend, 30*time.Millisecond); n != 1 {
			t.Errorf("%d removed", n)
		}
	})
}

// TestOldSuccessorTakesNoPlace: the answer to an older REGISTER leaves the ID as it is, too.
func TestOldSuccessorTakesNoPlace(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, l *lab) {
		before := l.reconnected(1, 2, 1)
		before.Asked = 20 * time.Millisecond
		l.learn(before, Added)
		l.Closed(2, l.now())
		b := l.reconnected(3, 1, 9)
		b.Instead, b.Asked = 1, 10*time.Millisecond
		l.learn(b, Old)
		if _, ok := l.Get(1); !ok || l.Len() != 1 {
			t.Error("it has lost its ID")
		}
	})
}

// TestPortsThatComeAgain: a phone may get a port that it had before, and is one name less then, not two.
func TestPortsThatComeAgain(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, l *lab) {
		ports := []ID{1, 2, 3, 2, 3, 2, 3, 2, 3}
		for i, id := range ports {
			b := l.reconnected(id, uint64(i)+1, uint32(i)+1)
			if i > 0 {
				l.Closed(uint64(i), l.now())
				b.Instead = ports[i-1]
			}
			l.Learn(b, l.now())
			for _, before := range ports[:i] {
				if b, ok := l.Follow(before); !ok || b.ID != id {
					t.Errorf("at connection %d nobody knows where %d went", i+1, before)
				}
			}
		}
		if r := l.byID[3]; len(r.was) != 2 || len(l.byFirst) != 2 {
			t.Errorf("names before: %v of %d", r.was, len(l.byFirst))
		}
		l.Remove(3, 0)
		if len(l.byFirst) != 0 {
			t.Errorf("%d names are left", len(l.byFirst))
		}
	})
}

// TestLateAnswerToAFormerName: an answer to what a phone asked over its former connection, and by its former name, does not
// bring that name back beside the binding that goes on by another one, nor after that one is removed.
func TestLateAnswerToAFormerName(t *testing.T) {
	for _, removed := range []string{"", "one", "all"} {
		bubble(t, Options{}, func(t *testing.T, l *lab) {
			step := func(id ID, instead ID, cseq uint32, asked time.Duration) Binding {
				b := l.reconnected(id, uint64(id), cseq)
				b.Asked, b.Instead = asked, instead
				return b
			}
			l.learn(step(1, 0, 1, 1*time.Second), Added)
			late := step(1, 0, 2, 2*time.Second)
			l.Closed(1, l.now())
			l.learn(step(2, 1, 1, 3*time.Second), Moved)
			want := 1
			switch removed {
			case "one":
				l.Remove(2, 4*time.Second)
				want = 0
			case "all":
				l.RemoveAll(late.AoR, 1, 4*time.Second)
				want = 0
			}
			l.learn(late, Old)
			if n := l.Len(); n != want {
				t.Errorf("removed %q: %d bindings, want %d", removed, n, want)
			}
			if removed == "" { // the port is another phone's since
				other := late
				other.Flow = tcp(3)
				l.learn(other, Added)
				return
			}
			late.Asked = 5 * time.Second // its port is another phone's now
			l.learn(late, Added)
		})
	}
}
