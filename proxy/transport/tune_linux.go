package transport

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// tuneStream prepares listening sockets, whose connections inherit it, and those that dial.
func (l *limits) tuneStream(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(l.unacknowledged.Milliseconds()))
		// A dial from a given address takes its port at connect, so that ports are shared between destinations.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
}
