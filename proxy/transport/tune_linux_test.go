package transport

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// The kernel is told of both limits, on accepted and on dialled connections.
func TestDeadPeersAreLookedFor(t *testing.T) {
	cases := []struct {
		name           string
		limits         config.Limits
		idle, patience int // seconds, milliseconds
	}{
		{"configured", config.Limits{KeepaliveIdle: config.Duration(7 * time.Second), UnackedTimeout: config.Duration(3 * time.Second)}, 7, 3000},
		{"defaults", config.Limits{}, 20, 10000},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := newRecorder()
			l := start(t, Options{Limits: c.limits}, r, spec("tcp 127.0.0.1:0"))
			dialled, err := l.Connect(wire.TCP, l.Listeners()[0].Bound(), "", netip.Addr{})
			if err != nil {
				t.Fatal(err)
			}
			_ = dialled.Send([]byte(message(1, 0)))
			accepted := next(t, r.packets).flow
			want := map[int]int{unix.TCP_KEEPIDLE: c.idle, unix.TCP_KEEPINTVL: 5, unix.TCP_KEEPCNT: 3, unix.TCP_USER_TIMEOUT: c.patience}
			_ = accepted.Send([]byte(message(2, 0)))
			next(t, r.packets)
			for name, flow := range map[string]Flow{"accepted": accepted, "dialled": dialled} {
				for option, want := range want {
					if got := socketOption(t, flow.Conn(), option); got != want {
						t.Errorf("%s: option %d is %d, want %d", name, option, got, want)
					}
				}
			}
		})
	}
}

// A lost keep-alive probe must not cost a connection at rest: the impatience lasts as long as there may be data under way.
func TestConnectionsAtRestArePatient(t *testing.T) {
	r := newRecorder()
	l := start(t, Options{}, r, spec("tcp 127.0.0.1:0"))
	peer := dialTo(t, l, 0)
	write(t, peer, message(1, 0))
	flow := next(t, r.packets).flow
	for i, step := range []struct {
		do   func()
		want int
	}{
		{func() {}, 0},
		{func() { _ = flow.Send([]byte("a")) }, 10000},
		{flow.Conn().relax, 10000}, // it may have been sent just now
		{func() { _ = flow.Send([]byte("b")) }, 10000},
		{flow.Conn().relax, 10000},
		{flow.Conn().relax, 0},
		{flow.Conn().relax, 0},
		{func() { _ = flow.Conn().Ping() }, 10000},
	} {
		step.do()
		if got := socketOption(t, flow.Conn(), unix.TCP_USER_TIMEOUT); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
}

func socketOption(t *testing.T, c *Conn, option int) (value int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	controlErr := c.box.raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option) })
	if err != nil || controlErr != nil {
		t.Fatal(err, controlErr)
	}
	return value
}
