package transport

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keepAlive finds dead peers of silent connections in two minutes.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}

// unacknowledged is how long sent data may stay without an acknowledgement before the connection is given up
// (TCP_USER_TIMEOUT); RFC 9293 would have it retransmitted for a quarter of an hour.
const unacknowledged = 30 * time.Second

// tuneStream prepares listening sockets, whose connections inherit it, and those that dial.
func tuneStream(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged.Milliseconds()))
		// A dial from a given address takes its port at connect, so that ports are shared between destinations.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
}
