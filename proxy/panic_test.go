package proxy

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/sipward/sipward/proxy/wire"
)

// broken runs f, which is to panic inside of the edge, with the snapshot of a
// transaction taken away: every step of a machine then panics under its lock.
func (l *lab) broken(mu *sync.Mutex, snap **snapshot, f func()) {
	mu.Lock()
	whole := *snap
	*snap = nil
	mu.Unlock()
	f()
	synctest.Wait()
	if !mu.TryLock() {
		l.Fatal("the lock of the transaction is held after the panic")
	}
	*snap = whole
	mu.Unlock()
}

func TestPanicInAHandlerCostsOneMessage(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		l.e.hook = func(m *wire.Msg) {
			if strings.Contains(string(m.Buf), "X-Panic") {
				var none *wire.Msg
				_ = none.Buf
			}
		}
		for range 50 {
			c := l.phone.call()
			c.more = "X-Panic: yes\r\n"
			c.sends("INVITE")
		}
		l.phone.nothing()
		l.pbx[0].nothing()
		c := l.e.Counters()
		if c.Panics != 50 || c.Transactions != 0 {
			t.Errorf("%d panics, %d transactions", c.Panics, c.Transactions)
		}
		lines := l.lines("this is a bug")
		if len(lines) != 1 {
			t.Fatalf("%d lines about 50 panics within a second", len(lines))
		}
		for _, part := range []string{"nil pointer", "panic_test.go", l.phone.addr.String()} {
			if !strings.Contains(lines[0], part) {
				t.Errorf("the line does not say %q: %s", part, lines[0])
			}
		}
		l.phone.call().sends("OPTIONS")
		l.pbx[0].get("OPTIONS")
	})
}

// A panic while a request is being taken must not leave a transaction behind that
// nobody ends, and that swallows the retransmissions.
func TestPanicWhileARequestIsOpened(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		c := l.phone.call()
		text := c.text("INVITE")
		l.withoutEdge(func() { l.phone.sends(text) })
		if n := l.e.Counters().Panics; n != 1 {
			t.Fatalf("%d panics", n)
		}
		for l.phone.gets() != nil {
		}
		for l.pbx[0].gets() != nil {
		}
		if n := l.e.Counters(); n.Transactions != 0 || n.Active != 0 {
			t.Errorf("left over: %d transactions, %d active", n.Transactions, n.Active)
		}
		l.phone.sends(text)
		l.phone.get("100 INVITE")
		l.pbx[0].get("INVITE")
	})
}

// withoutEdge takes the edge away from the scratch of the messages that f sends. It
// is needed first for the 100, when the context is in the table already.
func (l *lab) withoutEdge(f func()) {
	var w *scratch
	l.e.hook = func(m *wire.Msg) {
		w = (*scratch)(unsafe.Add(unsafe.Pointer(m), -int(unsafe.Offsetof(scratch{}.msg))))
		w.edge = nil
	}
	f()
	w.edge, l.e.hook = l.e, nil
}

func TestPanicInAResponse(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		l.phone.call().sends("INVITE")
		l.phone.get("100 INVITE")
		inv := l.pbx[0].get("INVITE")
		c := l.context()
		l.broken(&c.mu, &c.snap, func() { l.pbx[0].answers(inv, 180, "b") })
		if n := l.e.Counters().Panics; n != 1 {
			t.Fatalf("%d panics", n)
		}
		l.phone.nothing()
		l.pbx[0].answers(inv, 200, "b") // the call goes on
		l.phone.get("200 INVITE")
		pass(70 * time.Second)
		if n := l.e.Counters(); n.Transactions != 0 || n.Active != 0 || l.strayTimers() != 0 {
			t.Errorf("left over: %+v", n)
		}
	})
}

// A timer that panics must not be the last one of its transaction.
func TestPanicInATimer(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		l.phone.call().sends("INVITE")
		l.phone.get("100 INVITE")
		l.pbx[0].get("INVITE")
		c := l.context()
		l.broken(&c.mu, &c.snap, func() { pass(521 * time.Millisecond) }) // timer A
		if n := l.e.Counters(); n.Panics == 0 || n.Transactions != 1 {
			t.Fatalf("%+v", n)
		}
		pass(200 * time.Second)
		if n := l.e.Counters(); n.Transactions != 0 || n.Active != 0 || l.strayTimers() != 0 {
			t.Errorf("left over: %+v", n)
		}
	})
}

// A bug that shows at every tick costs that transaction, not a core for ever.
func TestPanicInEveryTimer(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		l.phone.call().sends("INVITE")
		l.phone.get("100 INVITE")
		l.pbx[0].get("INVITE")
		c := l.context()
		l.broken(&c.mu, &c.snap, func() { pass(5 * time.Second) })
		if n := l.e.Counters(); n.Transactions != 0 || n.Active != 0 || l.strayTimers() != 0 || n.Panics != maxPanics+1 {
			t.Errorf("left over: %+v", n)
		}
	})
}
