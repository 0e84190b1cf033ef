package transport

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
)

func TestPace(t *testing.T) {
	p := pace{rate: 40}
	at := time.Unix(1000, 0)
	burst := func(what string) {
		t.Helper()
		for i := range 10 { // a quarter of a second's
			if wait := p.take(at); wait != 0 {
				t.Fatalf("%s, waits %v for number %d of the burst", what, wait, i)
			}
		}
		if wait := p.take(at); wait != 25*time.Millisecond {
			t.Errorf("%s, waits %v for the first one behind the burst", what, wait)
		}
	}
	burst("at first")
	if wait := p.take(at.Add(20 * time.Millisecond)); wait != 30*time.Millisecond {
		t.Errorf("waits %v for the one behind that", wait)
	}
	at = at.Add(time.Hour)
	burst("after an hour")

	slow := pace{rate: 1}
	if wait := slow.take(at); wait != 0 {
		t.Errorf("at one a second, waits %v for the first", wait)
	}
}

// Two listeners share the rate; the kernel keeps who has to wait, and nobody is lost.
func TestConnectionsAreAcceptedAtARate(t *testing.T) {
	const rate, all = 20, 30
	r := newRecorder()
	l := start(t, Options{Limits: config.Limits{AcceptRate: rate}}, r, spec("tcp 127.0.0.1:0"), spec("tcp 127.0.0.1:0"))
	begun := time.Now()
	for i := range all {
		write(t, dialTo(t, l, i%2), message(i, 0))
	}
	for range all {
		next(t, r.packets)
	}
	// The last two may be accepted before they are waited for, one on each listener.
	if took, least := time.Since(begun), (all-rate-2)*time.Second/rate; took < least {
		t.Errorf("%d connections in %v, want %v at least", all, took, least)
	}
}

func TestWaitingToAcceptDoesNotDelayClose(t *testing.T) {
	l := New(Options{})
	l.pace.rate = 1.0 / 3600
	r := newRecorder()
	if err := l.Listen([]config.Listener{spec("tcp 127.0.0.1:0")}); err != nil {
		t.Fatal(err)
	}
	l.Serve(r)
	for range 50 {
		conn, err := net.Dial("tcp", l.Listeners()[0].Bound().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
	}
	until(t, "two connections", func() bool { return l.Stats().Accepted == 2 })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		t.Error(err)
	}
}

// Who is refused takes no share: a flood of a banned source must not keep others out.
func TestRefusedConnectionsTakeNoShare(t *testing.T) {
	r := newRecorder()
	l := start(t, Options{Limits: config.Limits{AcceptRate: 1, MaxConnectionsPerSource: 1}}, r, spec("tcp 127.0.0.1:0"))
	write(t, dialTo(t, l, 0), message(1, 0))
	next(t, r.packets)
	for range 50 {
		if conn, err := net.Dial("tcp", l.Listeners()[0].Bound().String()); err == nil {
			defer func() { _ = conn.Close() }()
		}
	}
	until(t, "50 refusals", func() bool { return l.Stats().RefusedPerSource == 50 })
}
