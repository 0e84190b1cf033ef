package dialog

import (
	"math/rand/v2"
	"reflect"
	"strconv"
	"testing"

	"github.com/sipward/sipward/proxy/wire"
)

// sent is one message of a random script. Its SDP is named by its index, so that
// each body is found once.
type sent struct {
	from     Leg
	method   wire.Method
	cseq     uint32
	status   int // 0: a request
	reliable bool
	opaque   bool
	sdp      bool
}

// scripted reads three bytes per message.
func scripted(script []byte) (all []sent) {
	for ; len(script) >= 3 && len(all) < 200; script = script[3:] {
		x, y, z := script[0], script[1], script[2]
		s := sent{
			from:     Leg(x & 1),
			method:   [...]wire.Method{wire.INVITE, wire.UPDATE, wire.PRACK, wire.ACK}[x>>1&3],
			status:   [...]int{0, 0, 0, 180, 200, 200, 491, 500}[x>>3&7],
			reliable: x&64 != 0,
			cseq:     uint32(y & 15),
			sdp:      z&3 != 0,
			opaque:   z&3 == 3 && z&4 != 0,
		}
		if s.method == wire.ACK {
			s.status = 0
		}
		all = append(all, s)
	}
	return all
}

func (s sent) to(m *Media, i int) {
	var b Body
	switch {
	case s.opaque:
		b = Body{Opaque: true}
	case s.sdp:
		b = Body{SDP: description(strconv.Itoa(i)), Type: []byte("Application/SDP")}
	}
	switch {
	case s.method == wire.ACK:
		m.Ack(s.from, s.cseq, b)
	case s.status == 0:
		m.Request(s.from, s.method, s.cseq, b)
	default:
		m.Response(s.from, s.method, s.cseq, s.status, s.reliable, b)
	}
}

// requester is whose request the message is about.
func (s sent) requester() Leg {
	if s.status == 0 {
		return s.from
	}
	return s.from.Peer()
}

// isOf tells whether s has the number of request r. The layer below matches the
// method too, which matters for no more than UPDATE against PRACK.
func (s sent) isOf(r sent) bool {
	return s.requester() == r.requester() && s.cseq == r.cseq && (s.method == wire.INVITE) == (r.method == wire.INVITE)
}

// answers tells whether message s can be what commits an offer made in message o.
// An answer in a preview is committed by a 2xx, which is not looked for here.
func (s sent) answers(o sent) bool {
	if s.from == o.from {
		return false
	}
	switch {
	case o.method != wire.ACK && o.status == 0: // offer in a request
		return s.status != 0 && s.status < 300 && s.isOf(o)
	case o.method == wire.INVITE && o.status < 200:
		return s.method == wire.PRACK && s.status == 0
	case o.method == wire.INVITE && o.status < 300:
		return s.method == wire.ACK && s.requester() == o.requester() && s.cseq == o.cseq
	}
	return false
}

// FuzzMedia plays any script. What is known of both legs is always one exchange of
// it; copies of the last message change nothing; an offer whose request was refused
// never stays; in the end nothing is open, and a clean exchange heals everything.
func FuzzMedia(f *testing.F) {
	f.Add([]byte{0, 1, 1, 0x21, 1, 1, 6, 1, 0}, byte(3))
	f.Fuzz(func(t *testing.T, script []byte, keep byte) { playRandom(t, scripted(script), keep) })
}

// TestRandomScripts is the same with few numbers, so that much of it fits together.
func TestRandomScripts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	script := make([]byte, 3*40)
	for range 5000 {
		for i := range script {
			script[i] = byte(r.Uint32())
			if i%3 == 1 {
				script[i] &= 1
				script[i] += byte(i / 60)
			}
		}
		playRandom(t, scripted(script), byte(r.Uint32()))
	}
}

func playRandom(t *testing.T, all []sent, keep byte) {
	t.Helper()
	var m Media
	m.Keep(A, keep&1 != 0)
	m.Keep(B, keep&2 != 0)
	byHash := make(map[uint64]int, len(all))
	for i, s := range all {
		if s.sdp && !s.opaque {
			byHash[Fingerprint(description(strconv.Itoa(i)))] = i
		}
		s.to(&m, i)
		checkKnown(t, &m, all[:i+1], byHash)
		before := m
		s.to(&m, i)
		if !reflect.DeepEqual(before, m) {
			t.Fatalf("message %d, %+v: the copy makes %+v of %+v", i, s, m, before)
		}
		if keep&3 == 0 && m.Size() != 0 {
			t.Fatalf("message %d: %d bytes are held", i, m.Size())
		}
		if fork := m.Fork(); fork.side[A].is|fork.side[B].is != 0 {
			t.Fatal("a fork knows an answer")
		}
	}
	finish(&m, all)
	if m.Open() {
		t.Fatalf("open after everything is final: %+v", m)
	}
	if m.kept != nil && (m.kept.cut[2].sdp != 0 || m.kept.cut[3].sdp != 0) {
		t.Fatal("an offer is held after everything is final")
	}
	heal(t, &m)
}

// finish ends every transaction of the script.
func finish(m *Media, all []sent) {
	for _, s := range all {
		by := s.requester()
		m.Response(by.Peer(), s.method, s.cseq, 500, false, Body{})
		m.Ack(by, s.cseq, Body{})
	}
}

func heal(t *testing.T, m *Media) {
	m.Keep(A, true)
	m.Keep(B, true)
	for i, line := range []string{"A INVITE 1000 a", "B 200 INVITE 1000 b", "A ACK 1000"} {
		play(t, m, line)
		if m.Open() != (i == 0) {
			t.Fatalf("after %s: open %v", line, m.Open())
		}
	}
	if got := known(t, m); got != "ab" {
		t.Fatalf("a clean exchange leaves %s", got)
	}
}

// checkKnown finds the two bodies in the script.
func checkKnown(t *testing.T, m *Media, all []sent, byHash map[uint64]int) {
	t.Helper()
	at := [2]int{-1, -1}
	for _, l := range [...]Leg{A, B} {
		b, kept := m.SentBy(l)
		sum, ok := m.Fingerprint(l)
		if ok == m.Unknown(l.Peer()) || kept && !ok {
			t.Fatalf("%v: fingerprint %v, kept %v, unknown %v", l, ok, kept, m.Unknown(l.Peer()))
		}
		if !ok {
			continue
		}
		i, ok := byHash[sum]
		if !ok || all[i].from != l || all[i].status >= 300 {
			t.Fatalf("%v is said to have sent message %d, %+v", l, i, all[i])
		}
		if kept && string(b.SDP) != string(description(strconv.Itoa(i))) {
			t.Fatalf("%v: %q, but the fingerprint of message %d", l, b.SDP, i)
		}
		checkNotRefused(t, all, i)
		at[l] = i
	}
	if at[A] < 0 || at[B] < 0 {
		return
	}
	a, b := all[at[A]], all[at[B]]
	if !(at[A] < at[B] && b.answers(a)) && !(at[B] < at[A] && a.answers(b)) {
		t.Fatalf("%d, %+v and %d, %+v are no exchange", at[A], a, at[B], b)
	}
}

// checkNotRefused finds the first final response to a request whose SDP counts.
func checkNotRefused(t *testing.T, all []sent, n int) {
	t.Helper()
	if all[n].status != 0 || all[n].method == wire.ACK {
		return
	}
	for i, s := range all[n+1:] {
		if s.status == 0 || !s.isOf(all[n]) {
			continue
		}
		switch {
		case s.status >= 300:
			t.Fatalf("message %d, %+v, counts though %d refused it", n, all[n], n+1+i)
		case s.status >= 200 || s.reliable && s.sdp:
			return
		}
	}
}
