package transport

import (
	"net/netip"

	"github.com/sipward/sipward/proxy/wire"
)

// Flow is one direction to one peer: a UDP socket with the local address to send from and the peer's address, or a
// connection. It is comparable; the zero Flow is none.
type Flow struct {
	source *source // UDP
	conn   *Conn   // streams
	remote netip.AddrPort
}

// Send sends one message and does not keep b. It never blocks: a datagram is one system call; on a stream what the
// kernel does not take at once is queued. An error means that the message is lost; on a stream, also that the connection
// ends. No error does not mean that the peer got it.
func (f Flow) Send(b []byte) error {
	if f.source != nil {
		return f.source.listener.send(f.source, f.remote, b)
	}
	if f.conn != nil {
		return f.conn.send(b)
	}
	return errNoFlow
}

// Proto returns the transport; UDP for the zero Flow.
func (f Flow) Proto() wire.Proto {
	if f.conn != nil {
		return f.conn.proto
	}
	return wire.UDP
}

// Local returns our address. It is unspecified (0.0.0.0 or ::) on flows made by Listener.FlowTo of a wildcard listener,
// and invalid on a connection that is still being dialled from no address in particular.
func (f Flow) Local() netip.AddrPort {
	if f.source != nil {
		return f.source.local
	}
	if f.conn != nil {
		return f.conn.Local()
	}
	return netip.AddrPort{}
}

// Remote returns the peer's address, never a v4-mapped one.
func (f Flow) Remote() netip.AddrPort {
	if f.conn != nil {
		return f.conn.remote
	}
	return f.remote
}

// Conn returns the connection, nil for UDP.
func (f Flow) Conn() *Conn { return f.conn }

// Listener returns the listener of a UDP flow or of an accepted connection, nil for a connection that we opened.
func (f Flow) Listener() *Listener {
	if f.source != nil {
		return f.source.listener
	}
	if f.conn != nil {
		return f.conn.listener
	}
	return nil
}

// IsZero tells whether f is no flow at all.
func (f Flow) IsZero() bool { return f == Flow{} }
