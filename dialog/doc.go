// Package dialog follows calls: which dialogs an INVITE made, what each of their
// two legs believes, and when they must end. It decides and returns what is to be
// done (Effects); it sends nothing, logs nothing and knows no socket.
//
// # Rooms
//
//	store.go      the bounded table: by ID (which travels in our Record-Route), and by Call-ID and tags
//	call.go       one INVITE: opened, forwarded, ringing, answered, failed; its one record
//	dialog.go     one To tag: route sets, targets, abilities, what is known of each leg
//	late.go       answers that come when the call has failed or is over
//	request.go    requests of the endpoints inside a dialog, and their responses
//	sequence.go   CSeq numbers, translated in epochs
//	media.go      offers and answers, to their commit points
//	probe.go      requests of the edge's own: when, how, and what their answers mean
//	limits.go     what ends a call, and the BYEs on both legs
//	compose.go    the text of such requests
//	state.go      a call as bytes, for a restart; restore.go brings it back
//
// # Rules
//
//   - What the edge sends into a dialog speaks for the other side, in that side's
//     words, and leaves the session timer as the receiver believes it. Nobody becomes
//     a refresher by it, so a call outlives the edge.
//   - A call whose two ends live is ended by its limits only. One silence is no death;
//     whatever proves that the dialog exists moves the deadline; the edge's own load
//     is nobody's fault.
//   - A call keeps the policy that it began with.
//   - An endpoint's number always maps to the same number, long after, whatever was
//     put in between.
//   - A message of the network can cost a bounded amount of memory, and cannot put off
//     all limits of a call.
//
// # Clauses
//
// Comments here, in timers and in proxy name the clauses of the session timers' design:
//
//	A    what RFC 4028 8 asks of a transparent proxy: 1 requests, 2 a 422 from below, 3 the 2xx,
//	     4 each leg's view, 5 the session's expiry, 6 what follows it (and RFC 4028 8.3, which is left on purpose)
//	B    the modes R, P and N, how a leg is asked, the limits and what moves them
//	C    requests of the edge: 1 their text, 2 their way, 3 when they are allowed, 4 re-INVITE, 5 their answers,
//	     6 target refresh, 7 early dialogs and forks, 8 BYE
//	D    CSeq and RAck
//	E    the dialog: 1 its key, 2 its states, 3 crossing BYEs, 4 a lost ACK, 5 ends that vanish, 6 what is kept,
//	     7 timers and the edge's own load, 8 bounds, 9 restart
//
// # Locks
//
// Call.mu guards a call and its dialogs. Under it a shard, the wheel, names, streams,
// parties or tallies may be locked, one at a time; nothing waits the other way. Nobody calls
// out while it is held, but for Options.Own, which must not lock.
package dialog
