// Package proxy is the edge itself: RFC 3261 chapter 16, one file per act.
//
// # The way of a message
//
//	transport reader   one goroutine per UDP socket and per connection; it takes a message all the way
//	packet stage       guard.go: the source alone, before a byte is read – banned, flooding
//	wire.Scan          receive.go: spans over the received bytes; what is not sound gets its error or is dropped
//	transaction        receive.go: a retransmission, a CANCEL (cancel.go), an ACK (ack.go), or new
//	message stage      guard.go: scanner, sanity, banned user, loop; a verdict of package security
//	validate           validate.go: 16.3 – scheme, Max-Forwards, loop, Proxy-Require
//	decide             ownroute.go, route.go, flow.go: 16.4, 16.5 – own Route values, tokens, rules, targets; sends and changes nothing
//	admit              admit.go: draining, overload, rates
//	open               serve.go: response context, 100 Trying
//	join               session.go: an INVITE begins a call, a request in a dialog is numbered anew
//	forward            forward.go: 16.6 – pick a target (pick.go), splice (splice.go, change.go), open a leg, send
//
// A response: branch MAC and table slot → response.go (16.7): step the leg, pass it
// up, try the next target, or conclude with the best. Timers come back through
// context.go (16.8), ended connections and ICMP errors through edge.go (16.9).
// What has no transaction goes through stateless.go (16.11). Its final answer tells
// whether a password was right (guard.go); bans are brought to connections and to the
// kernel by enforce.go and offload.go.
//
// A REGISTER from outside to a registrar of ours is enrolled on its way: decide reads its
// contacts (enrol.go), splice writes our Path or Contacts (register.go), the 2xx teaches the
// binding table, and its Contacts are given back to the phone (registered.go). Requests that come with
// such a token go to the phone's flow, wherever it is now (flow.go). The
// table says when a phone is to be pinged (ping.go) and is told when a connection ended.
//
// Calls (package dialog) are told of all this and say what they want: requests of the
// edge's own (inject.go sends them, own.go is their transaction), lines and records.
// They are asked for nothing while a packet waits; they come back by their timer.
//
// # Decisions
//
//   - Targets are tried one after the other. Below us forks may exist; above us they
//     do not.
//   - A target that stays silent is left open for a late answer while the next one is
//     tried; whoever answers first wins, the others are cancelled. A 2xx to an INVITE
//     is passed on whenever it comes.
//   - A rejection of our own is sent without a transaction: the same request gets the
//     same answer with the same To tag, by which its ACK is known again.
//   - Record-Route carries a token (token.go) that binds the outside party's flow and
//     the backend. From outside a request reaches pool members only, whatever its
//     Route or Request-URI says; from a pool member it reaches what it names.
//   - Tokens of Path and Contact (token.go) bind a phone's flow. Only pool members may use
//     them; a token of a call leads out for a pool member, in a call that is known, or for
//     whom it names. What does not verify is refused, but for a BYE towards the pool.
//   - The response to a request whose connection is gone goes over a new one to the address that
//     the request came from and the port of its Via (18.2.2), also to a peer outside, within
//     bounds. Nobody opens one for what has no transaction.
//   - A flow that is gone is 430, not a guess at another way: a phone's own Contact is
//     tried only where it names the address that the flow came from.
//   - A message that comes from a loopback address, or from one of this host's, is a
//     backend's only if the port says so too: phones, edge and PBX often share a host.
//
// # Who owns what
//
//	snapshot (config, pools, rules)   atomic pointer; immutable, replaced by Reload
//	backend health, rates             atomics in backend; carried over a reload by name
//	flow                              transport; immutable identity
//	response context                  transaction.Table shard → responseContext.mu; ends on its snapshot
//	registered phones                 binding.Table; the only copy, taught by 2xx to REGISTER
//	what registrars can do            registrars; until a reload
//	affinity, sources, connIndex      bounded; own locks, held for a look-up
//	scratch                           the goroutine that took it from the pool
//	calls and their dialogs           dialog.Store shard → Call.mu; keep the policy of their INVITE
//	timers                            Wheel; one node per context, one per call
//	rates, bans, who is known         security.Guard; kept over a reload; offload what the kernel knows of them
//	state_file                        store.File; its goroutine asks dialog.Store what has changed (keep.go)
//
// Locks are taken in the order responseContext.mu, then Call.mu, then one of table
// shard, dialog shard, wheel or connIndex, never two of those at once. An ownRequest
// holds no lock when it tells its call. Messages, and the effects of calls, are queued
// in the scratch while a lock is held; flush acts on them after it was released. Every lock is released by a
// defer, so that a panic, which costs its message only, leaves none behind.
//
// # Bounds
//
//	transactions        limits.max_transactions; then 503 to new requests, with an eighth in reserve for dialogs
//	stored messages     limits.transaction_memory, with the same rule
//	targets per request 8
//	error replies       200 a second to unsound messages
//	affinity            65536 calls, the least recently used is forgotten
//	names to resolve    resolver.max_pending
//	calls               limits.max_dialogs; then 503 to new calls, with an eighth in reserve for emergencies
//	probes              timers.probe_rate_max a second; those that wait have a turn of their own
//	registered phones   limits.max_bindings; then a registration passes without being followed
//	contacts            16 in one REGISTER
//	STUN                5000 answers a second
//	responses           10 connections a second opened to peers outside whose own are gone
//	sources, bans       limits.max_sources, limits.max_bans; package security has the rest
//	lines of bans       20 a second, of loops 5; the rest is summed every 10 s
//	lines of tokens     1 a second; of closed connections with registrations 100
//	lines of one call   5 a second about what an operator should change
package proxy
