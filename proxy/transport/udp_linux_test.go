package transport

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sipward/sipward/config"
)

func TestWildcardAnswersFromTheAddressAsked(t *testing.T) {
	r := newRecorder()
	r.onReceive = echo
	l := start(t, Options{}, r, spec("udp 0.0.0.0:0"))
	port := l.Listeners()[0].Bound().Port()
	peer := udpPeer(t, "127.0.0.1:0")
	for _, address := range []string{"127.0.0.2", "127.0.0.1", "127.0.0.3"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(address), port)
		_, _ = peer.WriteToUDPAddrPort([]byte("hello"), to)
		_, from, err := peer.ReadFromUDPAddrPort(make([]byte, 100))
		if err != nil || netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != to {
			t.Errorf("asked %s, answered from %s: %v", to, from, err)
		}
	}
	// A flow made from scratch leaves the address to the kernel.
	f := l.Listeners()[0].FlowTo(addrOf(peer))
	if err := f.Send([]byte("hello")); err != nil || !f.Local().Addr().IsUnspecified() {
		t.Error(f.Local(), err)
	}
	if _, from, err := peer.ReadFromUDPAddrPort(make([]byte, 100)); err != nil || from.Port() != port {
		t.Error(from, err)
	}
}

func TestIPv6Wildcard(t *testing.T) {
	r := newRecorder()
	l := start(t, Options{}, r, spec("udp [::]:0"))
	port := l.Listeners()[0].Bound().Port()
	peer := udpPeer(t, "[::1]:0")
	to := netip.AddrPortFrom(netip.MustParseAddr("::1"), port)
	_, _ = peer.WriteToUDPAddrPort([]byte("hello"), to)
	got := next(t, r.packets)
	if got.flow.Local() != to || got.flow.Remote() != addrOf(peer) {
		t.Errorf("%s from %s", got.flow.Local(), got.flow.Remote())
	}
	_ = got.flow.Send([]byte("answer"))
	if _, from, err := peer.ReadFromUDPAddrPort(make([]byte, 100)); err != nil || from != to {
		t.Error(from, err)
	}
	// IPv6 only: the IPv4 address with the same port is free.
	start(t, Options{}, r, spec("udp "+netip.AddrPortFrom(netip.IPv4Unspecified(), port).String()))
	if err := got.flow.Listener().FlowTo(netip.MustParseAddrPort("127.0.0.1:5060")).Send([]byte("x")); err == nil {
		t.Error("sent to IPv4 from an IPv6 socket")
	}
}

func TestClosedPortIsReportedWithWhatWasSent(t *testing.T) {
	for _, bind := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"} {
		r := newRecorder()
		l := start(t, Options{Readers: 2}, r, spec("udp "+bind))
		loopback := "127.0.0.1:0"
		if strings.Contains(bind, "[") {
			loopback = "[::1]:0"
		}
		gone := udpPeer(t, loopback)
		to := addrOf(gone)
		_ = gone.Close()
		sent := message(7, 300)
		if err := l.Listeners()[0].FlowTo(to).Send([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		got := next(t, r.unreachable)
		if got.flow.Remote() != to || got.flow.Listener() != l.Listeners()[0] || got.flow.Local().Addr() != to.Addr() ||
			len(got.quoted) < 100 || !strings.HasPrefix(sent, got.quoted) {
			t.Errorf("%s: %s to %s: %q", bind, got.flow.Local(), got.flow.Remote(), got.quoted)
		}
	}
}

// While one backend answers with ICMP errors, nothing that goes to another one or comes from it is lost.
func TestPendingErrorsLoseNothing(t *testing.T) {
	const all, senders = 2000, 4
	r := newRecorder()
	r.unreachable = make(chan unreached, senders*all)
	r.onReceive = func(*Packet) {}
	l := start(t, Options{Readers: 1}, r, spec("udp 127.0.0.1:0"))
	gone := udpPeer(t, "127.0.0.1:0")
	dead := l.Listeners()[0].FlowTo(addrOf(gone))
	_ = gone.Close()
	peer := udpPeer(t, "127.0.0.1:0")
	live := l.Listeners()[0].FlowTo(addrOf(peer))
	var sending sync.WaitGroup
	for range senders {
		sending.Go(func() {
			for i := range all {
				if err := dead.Send([]byte("to nobody")); err != nil {
					t.Error(i, err)
					return
				}
			}
		})
	}
	b := make([]byte, 100)
	for i := range all {
		if err := live.Send([]byte("to the living")); err != nil {
			t.Fatal(i, err)
		}
		if _, err := peer.Read(b); err != nil {
			t.Fatal(i, err)
		}
	}
	sending.Wait()
	next(t, r.unreachable)
	if s := l.Stats(); s.SendErrors != 0 || s.ReadErrors != 0 {
		t.Errorf("%+v", s)
	}
}

func TestQueueingTimeIsKnown(t *testing.T) {
	waited := make(chan time.Duration, 10)
	r := newRecorder()
	r.onReceive = func(p *Packet) { waited <- p.Waited }
	l := New(Options{Readers: 1})
	if err := l.Listen([]config.Listener{spec("udp 127.0.0.1:0")}); err != nil {
		t.Fatal(err)
	}
	peer := udpPeer(t, "127.0.0.1:0")
	_, _ = peer.WriteToUDPAddrPort([]byte("hello"), l.Listeners()[0].Bound())
	begun := time.Now()
	for time.Since(begun) < 2*time.Millisecond {
	}
	l.Serve(r)
	defer func() { _ = l.Close(t.Context()) }()
	if got := next(t, waited); got < 2*time.Millisecond || got > patience {
		t.Error(got)
	}
}

func TestDropsOfTheSocketAreCounted(t *testing.T) {
	r := newRecorder()
	r.onReceive = func(*Packet) {}
	l := New(Options{Readers: 1})
	if err := l.Listen([]config.Listener{spec("udp 127.0.0.1:0")}); err != nil {
		t.Fatal(err)
	}
	s := l.Listeners()[0].sockets[0]
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
	peer := udpPeer(t, "127.0.0.1:0")
	flood := func() {
		for range 1000 {
			_, _ = peer.WriteToUDPAddrPort(make([]byte, 1000), l.Listeners()[0].Bound())
		}
	}
	flood()
	l.Serve(r)
	defer func() { _ = l.Close(t.Context()) }()
	// The kernel tells with the next datagram that it does take.
	until := time.Now().Add(patience)
	for l.Stats().SocketDrops == 0 && time.Now().Before(until) {
		_, _ = peer.WriteToUDPAddrPort([]byte("hello"), l.Listeners()[0].Bound())
	}
	if l.Stats().SocketDrops == 0 {
		t.Error("no drop was counted")
	}
}

func TestUDPPathDoesNotAllocate(t *testing.T) {
	for _, bind := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::]:0"} {
		r := newRecorder()
		r.onReceive = echo
		l := start(t, Options{}, r, spec("udp "+bind))
		loopback := "127.0.0.1"
		if strings.Contains(bind, "[") {
			loopback = "::1"
		}
		peer := udpPeer(t, net.JoinHostPort(loopback, "0"))
		to := netip.AddrPortFrom(netip.MustParseAddr(loopback), l.Listeners()[0].Bound().Port())
		b := make([]byte, 600)
		allocations := testing.AllocsPerRun(1000, func() {
			_, _ = peer.WriteToUDPAddrPort(b, to)
			_, _, _ = peer.ReadFromUDPAddrPort(b)
		})
		if allocations > 0 {
			t.Errorf("%s: %v allocations", bind, allocations)
		}
	}
}

func TestListenerOutlivesLackOfDescriptors(t *testing.T) {
	problems := make(chan string, 10)
	r := newRecorder()
	l := start(t, Options{OnProblem: func(format string, _ ...any) { problems <- format }}, r, spec("tcp 127.0.0.1:0"))
	peer, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(peer) }()
	free, err := unix.Dup(peer)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(free)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(free), Max: before.Max}); err != nil {
		t.Skip("cannot lower the limit of open files: ", err)
	}
	restore := func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) }
	defer restore()
	if err := unix.Connect(peer, sockaddrOf(l.Listeners()[0].Bound())); err != nil {
		t.Fatal(err)
	}
	if line := next(t, problems); !strings.Contains(line, "cannot accept connections") {
		t.Error(line)
	}
	restore()
	if _, err := unix.Write(peer, []byte(message(1, 0))); err != nil {
		t.Fatal(err)
	}
	next(t, r.packets)
	if s := l.Stats(); s.AcceptErrors == 0 || s.Accepted != 1 {
		t.Errorf("%+v", s)
	}
}
