// Package binding is what the edge knows of registered phones: where each is now, which node took its registration, and
// until when. A [Table] learns it from the registrar's answers and never speaks for the registrar.
//
// Rules:
//
//   - A binding lives until it expires, is removed, or its connection has been closed for a grace. Whoever registers
//     again over another flow in time has moved; the close of the connection it left touches nobody any more.
//   - Where a phone was is remembered for as long as its binding lives, so that a token which names an old flow finds the
//     new one.
//   - REGISTERs count in the order in which they came, not in that of their answers: what a later one took away, the answer
//     to an older one does not bring back.
//   - A flow is what is pinged, once, whatever the number of bindings on it. Each flow that is pinged has its turn within
//     the interval, given out such that any number of them makes an even stream, also when all are learned at once.
//   - Everything is bounded: the bindings, those of one AoR, the texts of each, the flows and removals remembered, the
//     changes noted. What finds no room is counted, but for removals: the oldest makes room.
//   - The functions of [Options] are called without a lock and may call the table.
//
// A connection may close while the registrar still thinks, so whoever learns a binding over one looks afterwards
// whether it is still there, and says so:
//
//	outcome, b := table.Learn(b, now)
//	if !isOpen(b.Flow.Conn) {
//		table.Closed(b.Flow.Conn, now)
//	}
//
// The state of a binding outlives a restart through [Table.Changes] and [Table.Restore]. Connections do not: what was
// registered over one is restored as closed, with a grace until it expires.
package binding
