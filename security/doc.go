// Package security decides what is stopped, and never stops the wrong one. It takes
// messages and answers, and returns verdicts; it sends nothing, logs nothing, knows no
// socket and starts no goroutine.
//
// # The stages
//
// Two ordered lists in guard.go, the cheapest rule first. The packet stage knows the
// source alone; nothing of the message was read yet:
//
//	banned      a source in the Book; who is trusted passes all the same
//	flood       more messages inside dos_sampling_time_unit than a source may send; a crowd of new sources
//
// The message stage knows a new request, after retransmissions, ACK and CANCEL went
// their way:
//
//	scanner     signatures of User-Agent, From and To
//	sanity      what a PBX should not have to read
//	bannedUser  a user whose password was wrong too often
//	borrowed    a nonce of somebody else, of a source in whose name many failed
//	loop        the same two users, call after call
//
// The answers of the PBX come in from the other side (failed.go): they tell which
// passwords were wrong.
//
// # Rooms
//
//	source.go     what is counted and banned: an address, a /64, a user
//	settings.go   the section of the configuration made ready; immutable
//	guard.go      the stages; failed.go what answers tell
//	rates.go      messages of a source in an exact sliding window
//	book.go       the bans; index.go finds them without a lock; former.go remembers those that are over
//	auth.go       wrong passwords by user and by source; challenge.go reads credentials and challenges
//	accepted.go   credentials that were right before they were wrong
//	borrowed.go   wrong passwords that may be anybody's
//	loop.go       new calls by who calls whom
//	known.go      who proved itself
//	scanner.go    signatures, from scanners.txt and the operator
//	sanity.go     broken and absurd header fields
//	trust.go      whom nothing is held against; bridge.go, gateway.go whom everybody is behind
//	steady.go     new connections and keep-alives, which are no messages
//	recent.go     a map that forgets what was not touched for longest
//
// # Rules
//
//   - An address is banned for what only it can have sent, or, for floods, for as long
//     as the operator says. Whoever writes a victim's address into a header, a datagram
//     or a nonce gets nobody banned for a wrong password.
//   - A challenge is no failure, a stale nonce neither, and a right password is never
//     counted: an office whose phones all come back at once is no attack.
//   - Who knew the password lately, from that source, is not locked out by others who
//     do not.
//   - What runs goes on: a ban for wrong passwords leaves the calls of its source alone.
//   - Trust is asked at the decision and at the enforcement.
//   - Every table has a bound. What is banned, or about to be, does not make room for
//     what was seen once.
//
// # Bounds
//
//	rates           limits.max_sources; 32 bytes each, and 5 for each further message
//	bans            limits.max_bans, and an eighth of that for users; evidence of the last 4096
//	known sources   200,000, and as many pairs of source and user; 6,250 of one source
//	wrong passwords 200,000 users, sources, challenges and credentials that were right each
//	unproven failures 16,384 sources
//	loops           65,536 keys
//	connections   16,384 sources that open them, and as many that send keep-alives in a flood of these
//	evidence of sources close to a ban: 4096
package security
