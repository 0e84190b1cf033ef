// Package transport moves SIP messages: UDP datagrams, TCP and TLS connections (RFC 3261 section 18, RFC 5626 keep-alives
// on streams) and WebSockets (RFC 7118), which browsers open.
//
// The idea: whoever reads a message carries it all the way. One goroutine per UDP socket (SO_REUSEPORT, one socket per
// core) and one per connection calls Handler.Receive with bytes that are valid until it returns; whoever wants to answer
// calls Flow.Send, which never blocks. There is no goroutine, channel or allocation per message.
//
// Rules:
//
//   - Messages of one peer arrive in the order in which they came, and leave in the order in which they were sent.
//   - A Flow names where a message came from and where an answer goes: the local socket and address and the peer, or the
//     connection. It is a small comparable value that stays valid for ever; sending on a closed one is an error.
//   - A slow or hostile peer costs its own connection only: bounded queue, write deadline, message and idle limits,
//     connection limits per source and in total.
//   - A banned source costs next to nothing: its datagrams are thrown away unread (Options.Banned) or do not get out of
//     the kernel (Layer.Filter), its connections are refused (Options.Admit) or closed (Layer.CloseFrom).
//   - Handler.Closed comes once per connection, on the connection's own goroutine, as the last thing it does, and never
//     while a lock of this package is held. Send and Close never call the handler.
//   - Connections are accepted at a bounded rate (Limits.AcceptRate), all listeners together. Who has to wait waits in the
//     kernel; who is refused takes no share.
//
// A connection is established in establish (dial, TLS handshake, WebSocket upgrade), on its own goroutine and in bounded
// time, then read and written through one io.ReadWriter. On a WebSocket that one makes a message of each Write, and reader
// takes the frames apart (frames.go, which knows no connections): fragments are put together in the read buffer, control
// frames are answered in between, and a client that breaks RFC 6455 is told the status code and closed.
//
// A connection at rest takes 6 kB, with TLS 20 kB: its goroutine's stack, with TLS a read buffer of 2 kB and what the
// library keeps. Until the next collection, the stack is as large as the last message needed it.
// TestIdleConnectionsAreSmall watches over it.
//
// On Linux UDP uses system calls of its own; udp_linux.go says why and what that saves. Elsewhere it is portable and knows
// less: no local address on wildcard listeners, no ICMP errors, queueing times and drops.
package transport
