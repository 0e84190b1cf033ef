//go:build !linux

package transport

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// udpSocket is the portable form: one socket and reader per listener, no knowledge of the local address on wildcard
// listeners, of ICMP errors, of queueing time and of drops.
type udpSocket struct {
	listener      *Listener
	conn          *net.UDPConn
	receiveBuffer int
	isClosed      atomic.Bool
	count         socketCounters
}

func (l *Listener) openSockets(bind netip.AddrPort) error {
	network := "udp4"
	if bind.Addr().Is6() {
		network = "udp6"
	}
	conn, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(bind))
	if err != nil {
		return err
	}
	want := l.layer.limits.receiveBuffer
	_ = conn.SetReadBuffer(want)
	l.bound = netip.AddrPortFrom(bind.Addr(), conn.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	l.sockets = []*udpSocket{{listener: l, conn: conn, receiveBuffer: want}}
	return nil
}

// source is a local address to send from. There is one per listener and address, so that flows compare equal.
type source struct {
	listener *Listener
	local    netip.AddrPort
}

func newSource(l *Listener, local netip.Addr) *source {
	return &source{listener: l, local: netip.AddrPortFrom(local, l.bound.Port())}
}

// readDrops: the system does not tell.
func (s *udpSocket) readDrops() {}

func (s *udpSocket) close() {
	if s.isClosed.CompareAndSwap(false, true) {
		_ = s.conn.Close()
	}
}

func (s *udpSocket) read() {
	buf := make([]byte, maxDatagram+1)
	p := new(Packet)
	for failures := 0; ; {
		n, from, err := s.conn.ReadFromUDPAddrPort(buf)
		if s.isClosed.Load() {
			return
		}
		if err != nil {
			s.count.readErrors.Add(1)
			if failures++; failures > 100 {
				s.listener.layer.pause(10 * time.Millisecond)
			}
			continue
		}
		failures = 0
		if banned := s.listener.layer.options.Banned; banned != nil && banned(from.Addr().Unmap()) {
			s.count.banned.Add(1)
			continue
		}
		s.count.datagrams.Add(1)
		if isKeepAlive(buf[:n]) {
			s.count.keepAlives.Add(1)
			s.listener.layer.options.KeptAlive(from.Addr().Unmap(), false)
			continue
		}
		p.Flow = Flow{source: s.listener.plain, remote: unmapped(from)}
		p.Data = buf[:n:n]
		s.listener.layer.handler.Receive(p)
	}
}

func (s *udpSocket) send(_ *source, to netip.AddrPort, b []byte) error {
	_, err := s.conn.WriteToUDPAddrPort(b, to)
	if err == nil {
		return nil
	}
	if s.isClosed.Load() {
		return ErrClosed
	}
	s.count.sendErrors.Add(1)
	return err
}
