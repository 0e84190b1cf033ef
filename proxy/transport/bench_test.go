package transport

import (
	"io"
	"net"
	"testing"
	"time"
)

// BenchmarkUDP is one datagram of 600 bytes in and out, peer included.
func BenchmarkUDP(b *testing.B) {
	for _, bind := range []string{"127.0.0.1:0", "0.0.0.0:0"} {
		b.Run(bind, func(b *testing.B) {
			r := newRecorder()
			r.onReceive = echo
			l := start(b, Options{}, r, spec("udp "+bind))
			peer, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(l.Listeners()[0].Bound().Port())})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = peer.Close() }()
			datagram := make([]byte, 600)
			datagram[0] = 'x'
			b.ReportAllocs()
			for b.Loop() {
				_, _ = peer.Write(datagram)
				_, _ = peer.Read(datagram)
			}
		})
	}
}

// BenchmarkStream is one message of 600 bytes in and out, peer included.
func BenchmarkStream(b *testing.B) {
	for _, proto := range []string{"tcp", "tls"} {
		b.Run(proto, func(b *testing.B) {
			r := newRecorder()
			r.onReceive = echo
			_, peer := startStream(b, proto, Options{}, r)
			_ = peer.SetDeadline(time.Time{})
			sent := []byte(message(1, 400))
			got := make([]byte, len(sent))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = peer.Write(sent)
				_, _ = io.ReadFull(peer, got)
			}
		})
	}
}
