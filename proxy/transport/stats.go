package transport

import "sync/atomic"

// Stats is a reading of the gauges and counters; counters run since New.
type Stats struct {
	Connections int // open now, those being dialled included
	Dialing     int // of these, being dialled or in the TLS handshake of a dial

	Accepted          uint64
	RefusedTotal      uint64 // at accept, Limits.MaxConnections
	RefusedPerSource  uint64 // at accept, Limits.MaxConnectionsPerSource
	RefusedByRule     uint64 // at accept, Options.Admit
	AcceptErrors      uint64
	DialFailures      uint64
	HandshakeFailures uint64 // TLS and the upgrade to a WebSocket
	SlowMessages      uint64 // connections closed: Limits.MessageTimeout
	IdleClosed        uint64 // connections closed: Limits.IdleTimeout
	QueueOverflows    uint64 // connections closed: Limits.WriteQueue
	WriteTimeouts     uint64 // connections closed: Limits.WriteTimeout
	StreamFaults      uint64 // connections closed: not framable
	Pings             uint64 // CRLF keep-alives and ping frames of peers on connections

	Datagrams    uint64 // received, keep-alives included, those of banned sources not
	Banned       uint64 // datagrams dropped unread: Options.Banned
	Filtered     uint64 // datagrams dropped in the kernel while there was a Layer.Filter
	KeepAlives   uint64 // datagrams of CRLF or NUL only, dropped
	SocketDrops  uint64 // datagrams that found the receive buffer full, while there was no Layer.Filter
	ReadErrors   uint64
	SendErrors   uint64 // datagrams that the kernel did not take
	Oversize     uint64 // datagrams too large to be sent
	Unreachables uint64 // ICMP errors handed to the handler
}

type counters struct {
	accepted, refusedTotal, refusedPerSource, refusedByRule, acceptErrors atomic.Uint64
	dialFailures, handshakeFailures, slowMessages, idleClosed             atomic.Uint64
	queueOverflows, writeTimeouts, streamFaults, pings                    atomic.Uint64
}

// socketCounters are kept per UDP socket, so that readers do not share cache lines.
type socketCounters struct {
	datagrams, banned, filtered, keepAlives, drops, readErrors, sendErrors, oversize, unreachables atomic.Uint64
}

// Stats reads all counters; they are not of one instant.
func (l *Layer) Stats() Stats {
	c := &l.count
	s := Stats{
		Accepted: c.accepted.Load(), RefusedTotal: c.refusedTotal.Load(), RefusedPerSource: c.refusedPerSource.Load(),
		RefusedByRule: c.refusedByRule.Load(), AcceptErrors: c.acceptErrors.Load(), DialFailures: c.dialFailures.Load(),
		HandshakeFailures: c.handshakeFailures.Load(), SlowMessages: c.slowMessages.Load(), IdleClosed: c.idleClosed.Load(),
		QueueOverflows: c.queueOverflows.Load(), WriteTimeouts: c.writeTimeouts.Load(), StreamFaults: c.streamFaults.Load(),
		Pings: c.pings.Load(),
	}
	s.Connections, s.Dialing = l.conns.size()
	for _, listener := range l.Listeners() {
		for _, socket := range listener.sockets {
			socket.readDrops()
			u := &socket.count
			s.Datagrams += u.datagrams.Load()
			s.Banned += u.banned.Load()
			s.Filtered += u.filtered.Load()
			s.KeepAlives += u.keepAlives.Load()
			s.SocketDrops += u.drops.Load()
			s.ReadErrors += u.readErrors.Load()
			s.SendErrors += u.sendErrors.Load()
			s.Oversize += u.oversize.Load()
			s.Unreachables += u.unreachables.Load()
		}
	}
	return s
}
