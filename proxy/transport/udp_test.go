package transport

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

func echo(p *Packet) { _ = p.Flow.Send(p.Data) }

func TestDatagramsOfOnePeerKeepTheirOrder(t *testing.T) {
	const all, underWay = 10000, 100 // no receive buffer runs over, whoever has to wait
	r := newRecorder()
	r.onReceive = echo
	l := start(t, Options{Readers: 4}, r, spec("udp 127.0.0.1:0"))
	peer := udpPeer(t, "127.0.0.1:0")
	to := l.Listeners()[0].Bound()
	var back atomic.Uint32
	go func() {
		b := []byte("number ....")
		for i := range uint32(all) {
			for i-back.Load() >= underWay && t.Context().Err() == nil {
				runtime.Gosched()
			}
			binary.BigEndian.PutUint32(b[7:], i)
			_, _ = peer.WriteToUDPAddrPort(b, to)
		}
	}()
	b := make([]byte, 100)
	for i := range uint32(all) {
		n, err := peer.Read(b)
		if err != nil {
			t.Fatal(i, err)
		}
		if got := binary.BigEndian.Uint32(b[7:n]); got != i {
			t.Fatalf("got %d, want %d", got, i)
		}
		back.Add(1)
	}
	if s := l.Stats(); s.Datagrams != all || s.SocketDrops != 0 {
		t.Errorf("%+v", s)
	}
}

func TestLargeDatagramsPassBothWays(t *testing.T) {
	r := newRecorder()
	r.onReceive = echo
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l := start(t, Options{}, r, spec("udp "+address))
		peer := udpPeer(t, address)
		sent := strings.Repeat("0123456789", 6500)
		if _, err := peer.WriteToUDPAddrPort([]byte(sent), l.Listeners()[0].Bound()); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 65535)
		n, from, err := peer.ReadFromUDPAddrPort(b)
		if err != nil || string(b[:n]) != sent || from != l.Listeners()[0].Bound() {
			t.Fatal(n, from, err)
		}
		if err := l.Listeners()[0].FlowTo(addrOf(peer)).Send(make([]byte, 65530)); err == nil {
			t.Error("a datagram that is too large was sent")
		}
		if s := l.Stats(); s.Oversize != 1 {
			t.Errorf("%+v", s)
		}
	}
}

func TestFlowsOfOnePeerAreEqual(t *testing.T) {
	r := newRecorder()
	l := start(t, Options{Readers: 2}, r, spec("udp 127.0.0.1:0"), spec("udp 0.0.0.0:0"))
	for i, listener := range l.Listeners() {
		peer := udpPeer(t, "127.0.0.1:0")
		to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), listener.Bound().Port())
		for range 2 {
			_, _ = peer.WriteToUDPAddrPort([]byte("hello"), to)
		}
		a, b := next(t, r.packets).flow, next(t, r.packets).flow
		again := listener.FlowFrom(a.Local().Addr(), a.Remote())
		if a != b || a != again || i == 0 && a != listener.FlowTo(addrOf(peer)) {
			t.Errorf("%s: %v %v %v", listener.Bound(), a, b, again)
		}
		if a.Proto() != wire.UDP || a.Conn() != nil || a.Listener() != listener || a.Remote() != addrOf(peer) || a.Local() != to || a.IsZero() {
			t.Errorf("%+v", a)
		}
	}
}

func TestKeepAliveDatagramsAreDropped(t *testing.T) {
	r := newRecorder()
	l := start(t, Options{}, r, spec("udp 127.0.0.1:0"))
	peer := udpPeer(t, "127.0.0.1:0")
	for _, s := range []string{"", "\r\n", "\r\n\r\n", "\x00", "\x00\x00\x00\x00", "\r\nx", "\r\n\r\n\r\n"} {
		_, _ = peer.WriteToUDPAddrPort([]byte(s), l.Listeners()[0].Bound())
	}
	if got := next(t, r.packets).data; got != "\r\nx" {
		t.Errorf("%q", got)
	}
	if got := next(t, r.packets).data; got != "\r\n\r\n\r\n" {
		t.Errorf("%q", got)
	}
	if s := l.Stats(); s.KeepAlives != 5 {
		t.Errorf("%+v", s)
	}
}

func TestSecondServerOnTheAddressIsRefused(t *testing.T) {
	for _, proto := range []string{"udp", "tcp"} {
		first := start(t, Options{Readers: 2}, newRecorder(), spec(proto+" 127.0.0.1:0"))
		second := New(Options{Readers: 2})
		taken := first.Listeners()[0].Bound().String()
		err := second.Listen([]config.Listener{spec("udp 127.0.0.1:0"), spec(proto + " " + taken)})
		want := "listen " + proto + " " + taken + `: address already in use: another SIP server holds it; stop it or change "listen"`
		if err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		if len(second.Listeners()) != 0 {
			t.Error("something was opened")
		}
	}
}

func TestForeignAddressIsExplained(t *testing.T) {
	err := New(Options{}).Listen([]config.Listener{spec("udp 192.0.2.1:5060")})
	if err == nil || !strings.Contains(err.Error(), "no interface of this host has that address") {
		t.Error(err)
	}
}

func TestSmallReceiveBufferIsReportedOnce(t *testing.T) {
	var lines []string
	l := New(Options{OnProblem: func(format string, _ ...any) { lines = append(lines, format) }})
	s := &udpSocket{receiveBuffer: 212992}
	l.warnOfSmallBuffers([]*Listener{{sockets: []*udpSocket{s, s}}})
	if len(lines) != 1 || !strings.Contains(lines[0], "net.core.rmem_max") {
		t.Error(lines)
	}
}
