// Package transaction holds what RFC 3261 §17 and RFC 6026 say about a single
// transaction, free of sockets, clocks and locks:
//
//   - [Machine] is one of the four state machines (INVITE and non-INVITE,
//     server and client). [Machine.Step] takes an event and the time and tells
//     its owner what to do; it does nothing itself.
//   - [Branch] is what our own Via branch carries: the slot of the transaction,
//     the client branch in it and a loop hash (RFC 3261 16.6 step 8, RFC 5393),
//     all under a keyed MAC. A response that we did not ask for fails the MAC
//     and costs nothing else.
//   - [Table] finds a transaction: by its server key (RFC 3261 17.2.3) when a
//     request comes in, by the slot in the branch when a response does.
//
// Rules: the owner serialises the calls to one Machine (its own mutex); a timer
// expiry is a hint, Step checks the machine's own due times; the table is
// bounded and refuses what does not fit, it never evicts.
package transaction
