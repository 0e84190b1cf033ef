// Package siptest holds the SIP endpoints that sipward is tried against.
//
// Four kinds of peer, from the most natural to the most exact:
//
//   - PBX and Phone are user agents built on sipgo: a node that answers calls and
//     registrations as it is told, and a telephone that places and receives calls
//     through an outbound proxy. They honour Record-Route, Contact and digest.
//   - Answerer and Load are lean UDP endpoints without a stack, for rates at which
//     a real user agent would be the bottleneck.
//   - Party is one end of one call that holds the other, and all between, to the letter of
//     RFC 3261; Relay is a bad line for it.
//   - Raw sends and receives the exact bytes of a message and knows nothing of
//     transactions; Text and Respond write the messages for it.
//
// Edge starts the built sipward binary with a YAML text and watches it.
//
// Rules: every socket is bound to a loopback address and a free port; nothing
// waits by sleeping; every endpoint ends all its goroutines in Close or Stop.
// Nothing here imports the testing package, because `sipward demo` uses the
// user agents too.
package siptest
