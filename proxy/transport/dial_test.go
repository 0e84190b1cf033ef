package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

func TestConnectDialsOnceAndQueues(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	to := netip.MustParseAddrPort(ln.Addr().String())
	r := newRecorder()
	l := start(t, Options{}, r)
	from := netip.MustParseAddr("127.0.0.9")
	flow, err := l.Connect(wire.TCP, to, "", from)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if err := flow.Send([]byte(message(i, 10))); err != nil {
			t.Fatal(err)
		}
	}
	again, err := l.Connect(wire.TCP, to, "", netip.IPv4Unspecified())
	if err != nil || again != flow {
		t.Error(again, err)
	}
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }()
	for i := range 10 {
		expect(t, peer, message(i, 10))
	}
	write(t, peer, message(1, 0))
	if got := next(t, r.packets); got.flow != flow || got.flow.Local().Addr() != from || got.flow.Local().String() != peer.RemoteAddr().String() ||
		got.flow.Conn().Inbound() || got.flow.Remote() != to || got.flow.Listener() != nil {
		t.Errorf("%+v", got)
	}
	// Another local address is another side.
	other, err := l.Connect(wire.TCP, to, "", netip.MustParseAddr("127.0.0.8"))
	if err != nil || other == flow {
		t.Error(other, err)
	}
	if s := l.Stats(); s.Connections != 2 {
		t.Errorf("%+v", s)
	}
}

func TestAcceptedConnectionsAreReused(t *testing.T) {
	r := newRecorder()
	l := start(t, Options{}, r, spec("tcp 127.0.0.1:0"))
	peer := dialTo(t, l, 0)
	write(t, peer, message(1, 0))
	accepted := next(t, r.packets).flow
	flow, err := l.Connect(wire.TCP, addrOf(peer), "", netip.Addr{})
	if err != nil || flow != accepted {
		t.Fatal(flow, err)
	}
	_ = flow.Send([]byte(message(2, 0)))
	expect(t, peer, message(2, 0))
	if n := testing.AllocsPerRun(100, func() { _, _ = l.Connect(wire.TCP, accepted.Remote(), "", netip.Addr{}) }); n > 0 {
		t.Errorf("%v allocations to find an open connection", n)
	}
	// A connection that is about to be closed is not.
	flow.Conn().Close(errors.New("enough"))
	if end := next(t, r.closed); end.err.Error() != "enough" {
		t.Error(end.err)
	}
	again, err := l.Connect(wire.TCP, addrOf(peer), "", netip.Addr{})
	if err != nil || again == flow {
		t.Error(again, err)
	}
	next(t, r.closed) // nobody listens there
}

func TestFailedDialIsReported(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to := netip.MustParseAddrPort(ln.Addr().String())
	_ = ln.Close()
	r := newRecorder()
	l := start(t, Options{}, r)
	flow, err := l.Connect(wire.TCP, to, "", netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	_ = flow.Send([]byte(message(1, 0)))
	if end := next(t, r.closed); end.conn != flow.Conn() || end.err == nil {
		t.Error(end)
	}
	if err := flow.Send([]byte(message(1, 0))); err == nil {
		t.Error("sent on a failed connection")
	}
	if s := l.Stats(); s.DialFailures != 1 || s.Connections != 0 || s.Dialing != 0 {
		t.Errorf("%+v", s)
	}
}

func TestConnectKeepsTheLimits(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	to := netip.MustParseAddrPort(ln.Addr().String())
	r := newRecorder()
	l := start(t, Options{Limits: config.Limits{MaxConnections: 1, WriteQueue: 1000}}, r)
	if _, err := l.Connect(wire.UDP, to, "", netip.Addr{}); err == nil {
		t.Error("connected over UDP")
	}
	flow, err := l.Connect(wire.TCP, to, "", netip.MustParseAddr("127.0.0.9"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Connect(wire.TCP, to, "", netip.MustParseAddr("127.0.0.8")); err != ErrTooManyConnections {
		t.Error(err)
	}
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = peer.Close()
	if end := next(t, r.closed); end.conn != flow.Conn() || end.err != io.EOF {
		t.Error(end.err)
	}
}

func TestCloseDuringTraffic(t *testing.T) {
	s, _ := tlsSpec(t)
	r := newRecorder()
	r.closed = make(chan closing, 100000)
	enough := make(chan struct{})
	var count atomic.Int64
	r.onReceive = func(p *Packet) {
		if count.Add(1) == 2000 {
			close(enough)
		}
		echo(p)
	}
	l := start(t, Options{}, r, spec("udp 127.0.0.1:0"), spec("tcp 127.0.0.1:0"), s)
	var running sync.WaitGroup
	stop := make(chan struct{})
	for i := range 3 {
		running.Go(func() {
			peer := udpPeer(t, "127.0.0.1:0")
			flow := l.Listeners()[0].FlowTo(addrOf(peer))
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, _ = peer.WriteToUDPAddrPort([]byte("hello"), l.Listeners()[0].Bound())
				_ = flow.Send([]byte("hello"))
				_, _ = l.Connect(wire.TCP, l.Listeners()[1].Bound(), "", netip.AddrFrom4([4]byte{127, 0, 0, byte(10 + i)}))
				_, _ = l.Connect(wire.TLS, l.Listeners()[2].Bound(), "proxy.example", netip.Addr{})
			}
		})
		peer := dialTo(t, l, 1)
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := io.WriteString(peer, message(1, 100)); err != nil {
					return
				}
				if _, err := io.ReadFull(peer, make([]byte, len(message(1, 100)))); err != nil {
					return
				}
			}
		})
	}
	next(t, enough)
	var closers sync.WaitGroup
	for range 3 {
		closers.Go(func() {
			if err := l.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	closers.Wait()
	close(stop)
	running.Wait()
	if _, err := l.Connect(wire.TCP, netip.MustParseAddrPort("127.0.0.1:5060"), "", netip.Addr{}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if s := l.Stats(); s.Connections != 0 || s.Dialing != 0 {
		t.Errorf("%+v", s)
	}
	seen := map[uint64]bool{}
	for len(r.closed) > 0 {
		c := next(t, r.closed).conn
		if seen[c.ID()] {
			t.Error("closed twice")
		}
		seen[c.ID()] = true
	}
}

// What a peer outside has us dial leaves room for the others, and counts among its connections.
func TestConnectBackIsBounded(t *testing.T) {
	remote := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), uint16(1+i))
	}
	every := func(*Conn) bool { return true }
	for _, test := range []struct {
		name   string
		limits config.Limits
		dials  int // under way
		most   int
		err    error
	}{
		{"dials", config.Limits{}, 0, maxDialing / 8, ErrTooManyDials},
		{"dials of others", config.Limits{}, maxDialing/8 - 1, 1, ErrTooManyDials},
		{"total", config.Limits{MaxConnections: 32}, 20, 10, ErrTotalLimit},
		{"source", config.Limits{MaxConnectionsPerSource: 5}, 20, 5, ErrSourceLimit},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := New(Options{Limits: test.limits})
			dial := func(i int, isGuest bool) (*Conn, error) {
				p := peer{wire.TCP, remote(i)}
				c, _, err := l.conns.reuseOrDial(p, every, func() *Conn { return &Conn{layer: l, proto: wire.TCP, remote: p.remote, isGuest: isGuest} }, isGuest)
				return c, err
			}
			for i := range test.dials {
				if _, err := dial(i, false); err != nil {
					t.Fatal(err)
				}
			}
			var guests []*Conn
			for {
				c, err := dial(10000+len(guests), true)
				if err != nil {
					if !errors.Is(err, test.err) || len(guests) != test.most {
						t.Errorf("%v after %d", err, len(guests))
					}
					break
				}
				guests = append(guests, c)
			}
			if _, err := dial(20000, false); err != nil {
				t.Errorf("no room for others: %v", err)
			}
			for _, c := range guests {
				l.conns.leave(c)
			}
			if n := len(l.conns.bySource); n != 0 {
				t.Errorf("%d sources are left behind", n)
			}
		})
	}
}

// An accepted TLS connection proves nothing about its peer.
func TestConnectBackProvesThePeer(t *testing.T) {
	l := New(Options{})
	l.handler, l.isServing = newRecorder(), true
	remote := netip.MustParseAddrPort("127.0.0.1:1")
	c := &Conn{layer: l, proto: wire.TLS, remote: remote, inbound: true, isGuest: true}
	if err := l.conns.accept(c); err != nil {
		t.Fatal(err)
	}
	if f, err := l.Connect(wire.TLS, remote, "", netip.Addr{}); err != nil || f.Conn() != c {
		t.Error(f, err)
	}
	f, err := l.ConnectBack(wire.TLS, remote, "", netip.Addr{})
	if err != nil || f.Conn() == c {
		t.Error(f, err)
	}
	if n := l.CloseFrom(func(netip.AddrPort) bool { return true }); n != 2 {
		t.Errorf("%d connections of the peer were closed", n)
	}
	l.conns.leave(c)
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
