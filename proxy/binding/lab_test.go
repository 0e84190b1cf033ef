package binding

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// lab is a table with a running wheel, in a bubble.
type lab struct {
	*Table
	t *testing.T

	mu     sync.Mutex // guards what the wheel's goroutine notes
	gone   []string   // "3 expired"
	pinged []Binding
}

func bubble(t *testing.T, o Options, f func(t *testing.T, l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &lab{t: t}
		l.Table = l.another(o)
		f(t, l)
	})
}

// another makes a table that tells the lab what happens.
func (l *lab) another(o Options) *Table {
	o.Wheel = timers.NewWheel(10 * time.Millisecond)
	go o.Wheel.Run(l.t.Context())
	if o.Capacity == 0 {
		o.Capacity = 1000
	}
	o.Ping = func(b Binding, _ time.Duration) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.pinged = append(l.pinged, b)
	}
	o.Gone = func(b Binding, why Reason, _ time.Duration) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.gone = append(l.gone, fmt.Sprintf("%d %s", b.ID, why))
	}
	t := NewTable(o)
	t.Configure(0, 5*time.Second)
	return t
}

// ended is what has gone since the last time, sorted.
func (l *lab) ended() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	gone := l.gone
	l.gone = nil
	slices.Sort(gone)
	return strings.Join(gone, ", ")
}

// pings are those since the last time.
func (l *lab) pings() []Binding {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.pinged
	l.pinged = nil
	return all
}

func (l *lab) now() time.Duration { return l.Wheel.Now() }

// sleep lets the clock run, and the wheel do what is due by then.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// learn learns a binding and checks what came of it.
func (l *lab) learn(b Binding, want Outcome) Binding {
	l.t.Helper()
	got, after := l.Learn(b, l.now())
	if got != want {
		l.t.Errorf("learning %d is %v, want %v", b.ID, got, want)
	}
	return after
}

func tcp(conn uint64) Flow {
	return Flow{Proto: wire.TCP, Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), uint16(1024+conn)), Conn: conn}
}

func udp(n int) Flow {
	return Flow{Listener: 1, Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(n >> 8), byte(n)}), uint16(1024+n%60000))}
}

// phone is a binding as REGISTERs of a phone make it; cseq is that of its only Call-ID.
func (l *lab) phone(id ID, f Flow, cseq uint32) Binding {
	b := phone(id, f)
	b.CSeq, b.Expires = cseq, l.now()+60*time.Second
	return b
}

func phone(id ID, f Flow) Binding {
	return Binding{
		ID: id, AoR: fmt.Sprintf("user%05d@pbx.example.com", id), Contact: fmt.Sprintf("sip:user%05d@192.168.178.20:5060;transport=udp", id),
		Shown: fmt.Sprintf("sip:sw-QAEUwAACAcCoAQIAAAAAAAAAAAAAAAAAAAAAAAAAAAAA%05d@10.0.0.1:5060;transport=udp", id),
		UA:    "Grandstream GXP2170 1.0.11.64", Instance: fmt.Sprintf("<urn:uuid:00000000-0000-1000-8000-0000000%05d>", id), RegID: 1,
		Flow: f, Local: netip.AddrFrom4([4]byte{203, 0, 113, 1}), Backend: 1, NATed: true,
		Expires: time.Hour, CallID: fmt.Sprintf("%05d-1804289383@192.168.178.20", id), CSeq: 1,
	}
}

// whereTo asks where a binding went that was on f, or, with ID 0, where all went that were.
func whereTo(t *Table, id ID, f Flow) (Flow, bool) {
	if id == 0 {
		return t.Successor(f, 0)
	}
	return t.Current(id, f)
}
