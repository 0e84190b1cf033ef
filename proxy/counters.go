package proxy

import "sync/atomic"

// counters count what happens; they only grow.
type counters struct {
	received      atomic.Uint64 // messages from the transport
	malformed     atomic.Uint64 // of them: not accepted by wire.Scan
	responses     atomic.Uint64 // responses that matched a transaction
	stray         atomic.Uint64 // responses that matched none, dropped
	repeated      atomic.Uint64 // retransmitted requests, absorbed
	forwarded     atomic.Uint64 // requests sent on, each attempt
	failovers     atomic.Uint64 // of them: second and later attempts
	retransmitted atomic.Uint64 // requests sent again by timers A and E
	rejected      atomic.Uint64 // requests that we answered or dropped ourselves
	loops         atomic.Uint64 // of them: loops
	overload      atomic.Uint64 // of them: self-protection
	overLimit     atomic.Uint64 // of them: max_cps
	tableFull     atomic.Uint64 // of them: max_transactions
	lateSuccess   atomic.Uint64 // 2xx to an INVITE after a failure was passed on
	sendErrors    atomic.Uint64
	panics        atomic.Uint64
}

// Counters is a reading of what the edge counts.
type Counters struct {
	Received, Malformed, Responses, Stray, Repeated, Forwarded, Failovers, Retransmitted uint64
	Rejected, Loops, Overload, OverLimit, TableFull, LateSuccess, SendErrors, Panics     uint64

	Transactions int // in the table now
	Active       int // of them: not answered yet
	Timers       int // armed now
	Held         int // bytes of stored messages
}

// Counters reads all counters. They are not read at one instant.
func (e *Edge) Counters() Counters {
	c := &e.count
	return Counters{
		Received: c.received.Load(), Malformed: c.malformed.Load(), Responses: c.responses.Load(), Stray: c.stray.Load(),
		Repeated: c.repeated.Load(), Forwarded: c.forwarded.Load(), Failovers: c.failovers.Load(),
		Retransmitted: c.retransmitted.Load(), Rejected: c.rejected.Load(), Loops: c.loops.Load(),
		Overload: c.overload.Load(), OverLimit: c.overLimit.Load(), TableFull: c.tableFull.Load(),
		LateSuccess: c.lateSuccess.Load(), SendErrors: c.sendErrors.Load(), Panics: c.panics.Load(),
		Transactions: e.table.Len(), Active: int(e.active.Load()), Timers: e.wheel.Len(), Held: int(e.held.Load()),
	}
}
