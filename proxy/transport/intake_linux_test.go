package transport

import (
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sipward/sipward/config"
)

var attacker = netip.MustParseAddr("127.0.0.66")

func isAttacker(a netip.Addr) bool { return a == attacker }

func (s *udpSocket) inPoller() bool {
	s.polling.Lock()
	defer s.polling.Unlock()
	return s.file != nil
}

func TestBannedDatagramsAreNotSeen(t *testing.T) {
	r := newRecorder()
	l := start(t, Options{Readers: 1, Banned: isAttacker}, r, spec("udp 127.0.0.1:0"))
	to := l.Listeners()[0].Bound()
	banned, clean := udpPeer(t, "127.0.0.66:0"), udpPeer(t, "127.0.0.1:0")
	for range 3 {
		_, _ = banned.WriteToUDPAddrPort([]byte("banned"), to)
		_, _ = banned.WriteToUDPAddrPort([]byte("\r\n"), to)
		_, _ = clean.WriteToUDPAddrPort([]byte("clean"), to)
		if got := next(t, r.packets); got.data != "clean" || got.flow.Remote() != addrOf(clean) {
			t.Errorf("%q from %s", got.data, got.flow.Remote())
		}
	}
	if s := l.Stats(); s.Banned != 6 || s.Datagrams != 3 || s.KeepAlives != 0 {
		t.Errorf("%+v", s)
	}
}

func TestSourceOfIPv6IsAskedForWithoutZone(t *testing.T) {
	in := newInbox(10)
	binary.NativeEndian.PutUint16(in.name[:], unix.AF_INET6)
	in.header.Namelen = unix.SizeofSockaddrInet6
	address := netip.MustParseAddr("fe80::1").As16()
	copy(in.name[8:], address[:])
	in.name[24] = 3
	if got := in.source(); got != netip.MustParseAddr("fe80::1") {
		t.Error(got)
	}
	if got := in.from().Addr(); got != netip.MustParseAddr("fe80::1%3") {
		t.Error(got)
	}
	in.header.Namelen = 0
	if got := in.source(); got.IsValid() {
		t.Error(got)
	}
}

// flood sends from the banned address as fast as it can without filling the receive buffer, until the end of the test.
func flood(t testing.TB, l *Layer, to netip.AddrPort) (sent *atomic.Uint64, stop func()) {
	peer := udpPeer(t, netip.AddrPortFrom(attacker, 0).String())
	sent = new(atomic.Uint64)
	underWay := uint64(min(l.Listeners()[0].sockets[0].receiveBuffer/(2*300+1024), 1000)) // as intake reckons
	ask, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-ask:
				return
			default:
			}
			banned := uint64(0)
			for _, s := range l.Listeners()[0].sockets {
				banned += s.count.banned.Load()
			}
			if sent.Load()-banned > underWay {
				runtime.Gosched()
				continue
			}
			if _, err := peer.WriteToUDPAddrPort(make([]byte, 300), to); err == nil {
				sent.Add(1)
			}
		}
	}()
	var once atomic.Bool
	stop = func() {
		if once.CompareAndSwap(false, true) {
			close(ask)
		}
		<-stopped
	}
	t.Cleanup(stop)
	return sent, stop
}

func TestFloodHidesNoCleanDatagram(t *testing.T) {
	const all = 300
	r := newRecorder()
	l := start(t, Options{Readers: 1, Banned: isAttacker}, r, spec("udp 127.0.0.1:0"))
	to := l.Listeners()[0].Bound()
	socket := l.Listeners()[0].sockets[0]
	sent, stop := flood(t, l, to)
	until(t, "the socket leaves the poller", func() bool { return !socket.inPoller() })
	clean := udpPeer(t, "127.0.0.1:0")
	for i := range uint32(all) {
		_, _ = clean.WriteToUDPAddrPort(binary.BigEndian.AppendUint32([]byte("clean"), i), to)
		if got := next(t, r.packets); len(got.data) != 9 || binary.BigEndian.Uint32([]byte(got.data[5:])) != i ||
			got.flow.Remote() != addrOf(clean) || got.flow.Local() != to {
			t.Fatalf("%d: %q from %s to %s", i, got.data, got.flow.Remote(), got.flow.Local())
		}
	}
	stop()
	until(t, "the socket is back in the poller", socket.inPoller)
	until(t, "all banned are dropped", func() bool { return l.Stats().Banned >= sent.Load() })
	if s := l.Stats(); s.Banned != sent.Load() || s.Datagrams != all || s.SocketDrops != 0 {
		t.Errorf("%d sent: %+v", sent.Load(), s)
	}
	// And is read from there.
	_, _ = clean.WriteToUDPAddrPort([]byte("after"), to)
	if got := next(t, r.packets); got.data != "after" {
		t.Error(got.data)
	}
}

func TestManyCleanDatagramsInAFloodKeepTheirOrder(t *testing.T) {
	const all, burst = 2000, 50
	r := newRecorder()
	r.packets = make(chan received, all)
	l := start(t, Options{Readers: 1, Banned: isAttacker}, r, spec("udp 0.0.0.0:0"))
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.3"), l.Listeners()[0].Bound().Port())
	flood(t, l, to)
	until(t, "the socket leaves the poller", func() bool { return !l.Listeners()[0].sockets[0].inPoller() })
	clean := udpPeer(t, "127.0.0.1:0")
	for i := range all {
		_, _ = clean.WriteToUDPAddrPort(binary.BigEndian.AppendUint32(nil, uint32(i)|1<<31), to)
		if i%burst != burst-1 {
			continue
		}
		for k := i - burst + 1; k <= i; k++ {
			got := next(t, r.packets)
			if int(binary.BigEndian.Uint32([]byte(got.data))&^(1<<31)) != k || got.flow.Local() != to {
				t.Fatalf("%x in place of %d, to %s", got.data, k, got.flow.Local())
			}
		}
	}
}

func TestBanIsLiftedDuringAFlood(t *testing.T) {
	var isLifted atomic.Bool
	got := make(chan struct{}, 1)
	r := newRecorder()
	r.onReceive = func(*Packet) {
		select {
		case got <- struct{}{}:
		default:
		}
	}
	l := start(t, Options{Readers: 1, Banned: func(a netip.Addr) bool { return a == attacker && !isLifted.Load() }}, r, spec("udp 127.0.0.1:0"))
	socket := l.Listeners()[0].sockets[0]
	flood(t, l, l.Listeners()[0].Bound())
	until(t, "the socket leaves the poller", func() bool { return !socket.inPoller() })
	isLifted.Store(true)
	next(t, got)
	until(t, "the socket is back in the poller", socket.inPoller)
}

func TestUnreachableIsToldInAFlood(t *testing.T) {
	r := newRecorder()
	l := start(t, Options{Readers: 1, Banned: isAttacker}, r, spec("udp 127.0.0.1:0"))
	flood(t, l, l.Listeners()[0].Bound())
	until(t, "the socket leaves the poller", func() bool { return !l.Listeners()[0].sockets[0].inPoller() })
	gone := udpPeer(t, "127.0.0.1:0")
	to := addrOf(gone)
	_ = gone.Close()
	for range 10 {
		if err := l.Listeners()[0].FlowTo(to).Send([]byte("to nobody")); err != nil {
			t.Fatal(err)
		}
		if got := next(t, r.unreachable); got.flow.Remote() != to {
			t.Error(got.flow.Remote())
		}
	}
}

func TestFloodedLayerCloses(t *testing.T) {
	for range 20 {
		l := New(Options{Readers: 2, Banned: isAttacker})
		if err := l.Listen([]config.Listener{spec("udp 127.0.0.1:0")}); err != nil {
			t.Fatal(err)
		}
		l.Serve(newRecorder())
		sent, stop := flood(t, l, l.Listeners()[0].Bound())
		until(t, "datagrams", func() bool { return sent.Load() > 500 })
		begun := time.Now()
		if err := l.Close(t.Context()); err != nil || time.Since(begun) > patience/2 {
			t.Error(err, time.Since(begun))
		}
		stop()
	}
}

// A receive buffer that does not hold the datagrams of a nap is not slept over.
func TestSmallReceiveBufferStaysInThePoller(t *testing.T) {
	l := New(Options{Readers: 1, Banned: isAttacker})
	if err := l.Listen([]config.Listener{spec("udp 127.0.0.1:0")}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close(t.Context()) }()
	s := l.Listeners()[0].sockets[0]
	s.receiveBuffer = 2048
	in, err := newIntake(s)
	if err != nil {
		t.Fatal(err)
	}
	in.begin()
	in.pile = 100 * 1024
	if in.nap() {
		t.Error("slept")
	}
	in.end()
	if !s.inPoller() {
		t.Error("not back in the poller")
	}
	in.seen, in.since = floodCount, time.Now()
	if in.floods() {
		t.Error("left the poller again at once")
	}
	in.steadyTill = time.Now()
	in.since = time.Now()
	if !in.floods() {
		t.Error("never leaves the poller again")
	}
}

func TestBannedDatagramsDoNotAllocate(t *testing.T) {
	r := newRecorder()
	r.onReceive = func(*Packet) {}
	l := start(t, Options{Readers: 1, Banned: isAttacker}, r, spec("udp 127.0.0.1:0"))
	peer, err := net.DialUDP("udp", &net.UDPAddr{IP: attacker.AsSlice()}, net.UDPAddrFromAddrPort(l.Listeners()[0].Bound()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }()
	b := make([]byte, 300)
	sent := uint64(0)
	send := func() {
		for range 100 {
			_, _ = peer.Write(b)
		}
		sent += 100
		until(t, "all dropped", func() bool { return l.Listeners()[0].sockets[0].count.banned.Load() >= sent })
	}
	send() // the flood begins
	if n := testing.AllocsPerRun(100, send); n > 0 {
		t.Errorf("%v allocations in 100 datagrams", n)
	}
}

// BenchmarkBanned is one banned datagram of 600 bytes, sending included.
func BenchmarkBanned(b *testing.B) {
	r := newRecorder()
	l := start(b, Options{Readers: 1, Banned: isAttacker}, r, spec("udp 127.0.0.1:0"))
	peer, err := net.DialUDP("udp", &net.UDPAddr{IP: attacker.AsSlice()}, net.UDPAddrFromAddrPort(l.Listeners()[0].Bound()))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = peer.Close() }()
	datagram := make([]byte, 600)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = peer.Write(datagram)
	}
}
