// Package dialog follows calls: which dialogs an INVITE made, what each of their
// two legs believes, and when they must end. It decides and returns what is to be
// done (Effects); it sends nothing, logs nothing and knows no socket.
//
// # Rooms
//
//	store.go      the bounded table: by ID (which travels in our Record-Route), and by Call-ID and tags
//	call.go       one INVITE: opened, forwarded, ringing, answered, failed; its one record
//	dialog.go     one To tag: route sets, targets, abilities, what is known of each leg
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
// # Locks
//
// Call.mu guards a call and its dialogs. Under it a shard, the wheel, names, streams
// or tallies may be locked, one at a time; nothing waits the other way. Nobody calls
// out while it is held, but for Options.Own, which must not lock.
package dialog
