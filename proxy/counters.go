package proxy

import (
	"sync/atomic"

	"github.com/sipward/sipward/security"
	"github.com/sipward/sipward/timers"
)

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
	dialogsFull   atomic.Uint64 // of them: max_dialogs
	badTimers     atomic.Uint64 // requests whose Session-Expires cannot be read
	injected      atomic.Uint64 // requests of our own in dialogs
	notes         atomic.Uint64 // what was to be told of single calls
	lateSuccess   atomic.Uint64 // 2xx to an INVITE after a failure was passed on, or whose transaction was over
	flowFailed    atomic.Uint64 // requests for a phone whose flow is gone
	badTokens     atomic.Uint64 // requests with a token that was forged, or given to somebody else
	large         atomic.Uint64 // datagrams sent that are longer than pathMTU
	sendErrors    atomic.Uint64
	reopened      atomic.Uint64 // connections asked for to send a response, whose own was gone
	panics        atomic.Uint64

	stopped  [security.Rules]atomic.Uint64 // messages, by the rule that stopped them
	observed [security.Rules]atomic.Uint64 // those that a rule would have stopped, were it not observing
	banLines atomic.Uint64                 // lines of bans that were not written
}

// Counters is a reading of what the edge counts.
type Counters struct {
	Received, Malformed, Responses, Stray, Repeated, Forwarded, Failovers, Retransmitted uint64
	Rejected, Loops, Overload, OverLimit, TableFull, LateSuccess, SendErrors, Panics     uint64

	DialogsFull, Injected, Notes uint64
	BadTimers                    uint64 // requests whose Session-Expires cannot be read
	FlowFailed, BadTokens        uint64 // requests for a flow that is gone; with a token that was refused
	Large                        uint64 // datagrams sent that may have gone in fragments
	Reopened                     uint64 // connections asked for to send a response, whose own was gone
	StateLost                    uint64 // changes of calls that could not wait for state_file

	Calls        int // in the dialog store now, further dialogs of forked calls too
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
		DialogsFull: c.dialogsFull.Load(), Injected: c.injected.Load(), Notes: c.notes.Load(), BadTimers: c.badTimers.Load(), StateLost: e.stateLost(),
		FlowFailed: c.flowFailed.Load(), BadTokens: c.badTokens.Load(), Large: c.large.Load(), Reopened: c.reopened.Load(), Calls: e.dialogs.Len(),
		Transactions: e.table.Len(), Active: int(e.active.Load()), Timers: e.wheel.Len(), Held: int(e.held.Load()),
	}
}

// probeMethods is how many ways to probe there are, and ProbeNone.
const probeMethods = int(timers.ProbeOptionsStale) + 1

// probeCounts count the results of probes.
type probeCounts [probeMethods][timers.Classes]atomic.Uint64

func (p *probeCounts) note(m timers.ProbeMethod, c timers.Class) { p[m][c].Add(1) }

// read names every result that occurred: "update/alive".
func (p *probeCounts) read() map[string]uint64 {
	all := map[string]uint64{}
	for m := range p {
		for c := range p[m] {
			if n := p[m][c].Load(); n > 0 {
				all[timers.ProbeMethod(m).String()+"/"+timers.Class(c).String()] = n
			}
		}
	}
	return all
}
