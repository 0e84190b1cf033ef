package transport

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tuneStream prepares listening sockets and those that dial.
func tuneStream(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		// A dial from a given address takes its port at connect, so that ports are shared between destinations.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
}

// setUserTimeout says how long sent data may stay without an acknowledgement before the connection is given up; 0 = as
// long as the system likes.
func setUserTimeout(fd uintptr, d time.Duration) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
}
