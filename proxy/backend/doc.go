// Package backend decides which server of a pool takes a request, and keeps
// what is known of their health. It sends nothing and reads no clock: every
// decision is made from values it is given, the time (since the start of the
// wheel, [timers.Wheel.Now]) among them.
//
// A [Set] holds the pools of one configuration snapshot. [Pool.Order] returns
// the backends to try for one request, in order. What happened to requests and
// probes comes back through [Backend.Alive], [Backend.Miss] and
// [Backend.Unavailable]; each returns a [Change] when it made a difference that
// should be logged. A reload makes a new Set from the old one: a backend keeps
// its health, targets, rate and count of calls while its pool, name and address are
// the same, and the operator's order while pool and name are.
//
// # Choice
//
// Policy hash is rendezvous hashing (highest random weight): every backend
// draws a number from the key and its own name, and the highest draw is first,
// the next highest second. So a key keeps its backend when others come and go;
// when a backend leaves, its keys, and no others, move, to all others by their
// weight. Policy priority does the same among backends of equal priority, lower
// numbers first. Policies round_robin and weighted ignore the key and count
// turns; weighted spreads them evenly in time too, and gives the share of a
// backend that fails to the others by their weight. Policy least_calls takes the
// backend with the fewest calls for its weight, of equal ones the highest draw. It
// reads the count for every choice, so calls that come in a burst spread.
//
// Only backends that are up are candidates. When none is, but some are down,
// the pool panics: those that are down are tried, the ones under a 503 hold
// first, for they do answer. Drained and disabled backends are never
// candidates, not even then: an operator said so, in the file or at run time
// ([Backend.SetState]). A drained one keeps its targets, so requests of its own
// dialogs still reach it.
//
// Limits do not change the order: [Backend.HasRoom] (max_calls, for a new INVITE)
// and [Backend.Admit] (max_cps) are asked when the call is placed, and a backend
// that refuses is passed over.
//
// # Health
//
// A miss is a request without any answer: a time-out or a transport error.
// Misses of probes and of real traffic are counted apart, down_after of either
// in a row take a backend down, up_after answers in a row, of any kind, bring
// it back. An answer to a real request clears both counts, one to a probe only
// its own: a PBX may answer OPTIONS and have lost the ability to take calls.
// Any final response but 503 counts as an answer.
//
// A 503 holds a backend down for min(Retry-After, 30 s), or [defaultHold]
// without a Retry-After. Nothing lifts a hold early, in particular no 200 to a
// probe. Its end needs no probe. Without active probes, a backend that missed
// too often is held for [blindHold] instead, and back down at the next miss.
//
// After either, the backend gets a part of its share that grows over
// slow_start. For the rest of the time it comes after the backends that have
// their full share. Which keys it gets is decided by the key, so that each moves
// once.
package backend
