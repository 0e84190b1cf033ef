package e2e

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// lazyPeer sends and never reads, with the smallest receive buffer the kernel gives.
type lazyPeer struct {
	conn *net.TCPConn
	port uint16
}

func dialLazy(t *testing.T, to netip.AddrPort) *lazyPeer {
	t.Helper()
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // the edge may have closed it first
	if err := conn.SetReadBuffer(1024); err != nil {
		t.Fatal(err)
	}
	return &lazyPeer{conn: conn, port: conn.LocalAddr().(*net.TCPAddr).AddrPort().Port()}
}

func (l *lazyPeer) send(b []byte) error {
	if err := l.conn.SetWriteDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	_, err := l.conn.Write(b)
	return err
}
