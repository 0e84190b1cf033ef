package dialog

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// The bars of heap for each confirmed dialog, with its share of store, index and
// timers, at 100,000 dialogs of usual header lengths.
const (
	barWithout = 1000 // no SDP
	barWith    = 1800 // two bodies of 420 bytes, as a leg that takes no UPDATE needs them
)

func TestMemoryOfADialog(t *testing.T) {
	n := 100_000
	if testing.Short() {
		n = 20_000
	}
	for name, c := range map[string]struct {
		allow, sdp string
		bar        int
	}{
		"without SDP":  {labUpdate, "", barWithout},
		"not kept SDP": {labUpdate, sized(420), barWithout},
		"two SDPs":     {"Allow: INVITE, ACK, BYE\r\n", sized(420), barWith},
	} {
		t.Run(name, func(t *testing.T) {
			s, each := held(t, n, c.allow, c.sdp)
			t.Logf("%d bytes for each of %d dialogs", each, s.Len())
			if each > c.bar {
				t.Errorf("%d bytes for each dialog, bar %d", each, c.bar)
			}
			if got := s.Wheel.Len(); got != n {
				t.Errorf("%d timers", got)
			}
			runtime.KeepAlive(s)
		})
	}
}

// sized is SDP of a length.
func sized(n int) string {
	s := "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8 0 101\r\n"
	return s + "a=" + strings.Repeat("x", n-len(s)-4) + "\r\n"
}

// held is a store with n confirmed dialogs, and the heap that each of them takes.
func held(t testing.TB, n int, allow, sdp string) (*Store, int) {
	m := new(wire.Msg)
	scan := func(text string) *wire.Msg {
		if f := m.Scan([]byte(text), false); f != wire.NoFault {
			t.Fatal(f)
		}
		return m
	}
	policy := usual()
	// A message of each kind first, so that what the process keeps once is not counted.
	before := heap()
	s := NewStore(Options{
		Capacity: n, Wheel: timers.NewWheel(10 * time.Millisecond), Due: func(*Call, time.Duration) {}, Own: func([]byte) (ID, bool) { return 0, false },
	})
	var fx Effects
	for i := range n {
		via := "Via: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK1\r\n"
		from := fmt.Sprintf("<sip:+49301234%05d@sip.example.com>;tag=%016x", i, i*7)
		to := fmt.Sprintf("<sip:+49891234%05d@sip.example.com>", i)
		id := fmt.Sprintf("Call-ID: %08x-aaaa-bbbb-cccc-0123456789ab\r\n", i)
		ids := func(to, method string) string {
			return via + "From: " + from + "\r\nTo: " + to + "\r\n" + id + "CSeq: 1 " + method + "\r\nContact: <sip:user@192.0.2.17:5060;transport=udp>\r\n"
		}
		scan("INVITE " + strings.Trim(to, "<>") + " SIP/2.0\r\n" + ids(to, "INVITE") + labTimer + allow + body(sdp))
		ask := AskOf(m)
		c, refusal := s.Open(Invite{
			Policy: policy, Msg: m, Ask: ask, Duty: policy.Request(ask, 0), Now: time.Second,
			Source: Flow{Remote: netip.MustParseAddrPort("192.0.2.17:5060")},
		})
		if refusal != Opened {
			t.Fatal(refusal)
		}
		c.Forwarded(Target{Backend: 1})
		tagged := fmt.Sprintf("%s;tag=%016x", to, i*13)
		scan("SIP/2.0 180 Ringing\r\n" + ids(tagged, "INVITE") + "\r\n")
		c.Provisional(m, 2*time.Second)
		scan("SIP/2.0 200 OK\r\n" + ids(tagged, "INVITE") + labTimer + allow + body(sdp))
		c.Success(&fx, m, Target{Backend: 1}, 3*time.Second)
		scan("ACK sip:user@192.0.2.17 SIP/2.0\r\n" + ids(tagged, "ACK") + "\r\n")
		s.Find(c.ID(), m, true).Ack(&fx, m, 4*time.Second)
		if c.first.state != confirmed || !fx.Empty() {
			t.Fatal(c.first.state)
		}
	}
	return s, int(heap()-before) / n
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkCall(b *testing.B) {
	l := newLab(b)
	b.ReportAllocs()
	for b.Loop() {
		l.talks(labTimer, labUpdate)
		l.does(A, "BYE", 2, 200)
		l.ended = l.ended[:0]
	}
}
