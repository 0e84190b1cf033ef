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
