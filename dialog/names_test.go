package dialog

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

func TestNamesAreThereAsLongAsADialogHoldsThem(t *testing.T) {
	var n names
	n.init()
	a := n.swap(0, []byte("INVITE, UPDATE"))
	b := n.swap(0, []byte("INVITE"))
	if a == 0 || b == 0 || a == b || !n.listsUpdate(a) || n.listsUpdate(b) || n.get(a) != "INVITE, UPDATE" {
		t.Fatalf("%d %d", a, b)
	}
	if n.swap(a, []byte("INVITE, UPDATE")) != a || n.share(a) != a {
		t.Error("another one")
	}
	n.release(a)
	if n.get(a) != "INVITE, UPDATE" {
		t.Error("gone while it is held")
	}
	n.release(a)
	if c := n.swap(b, []byte("BYE")); n.get(c) != "BYE" || len(n.of) != 2 {
		t.Errorf("%v", n.of)
	}
	if n.swap(0, nil) != 0 || n.swap(0, []byte(strings.Repeat("x", maxNameLen+1))) != 0 {
		t.Error("kept")
	}
}

// Strangers may send what they like: it is forgotten with their calls.
func TestNamesOfStrangersDoNotFillTheTable(t *testing.T) {
	l := newLab(t)
	for i := range 2 * maxNames {
		l.invites(fmt.Sprintf("Allow: X%d\r\nSupported: y%d\r\n", i, i))
		l.call.Abandon()
	}
	if n := len(l.s.names.all); n > 3 {
		t.Errorf("%d places", n)
	}
	var held []uint16
	for i := range maxNames + 10 {
		held = append(held, l.s.names.hold(fmt.Append(nil, i)))
	}
	if n := len(l.s.names.of); n != maxNames {
		t.Errorf("%d names", n)
	}
	for _, i := range held {
		l.s.names.release(i)
	}
	l.empty()
}

func TestNamesConcurrently(t *testing.T) {
	var n names
	n.init()
	var all sync.WaitGroup
	for range 4 {
		all.Add(1)
		go func() {
			defer all.Done()
			held := uint16(0)
			for i := range 5000 {
				text := fmt.Append(nil, "X", i%3)
				if held = n.swap(held, text); n.get(held) != string(text) {
					t.Error(n.get(held))
				}
			}
			n.release(held)
		}()
	}
	all.Wait()
	if len(n.of) != 1 {
		t.Errorf("%v", n.of)
	}
}
