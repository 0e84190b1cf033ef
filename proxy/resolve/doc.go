// Package resolve finds the servers behind a SIP URI, as RFC 3263 says: NAPTR
// for the transport, SRV for hosts and ports, A and AAAA for addresses, in the
// order in which they are to be tried.
//
// A proxy must not wait for DNS while it handles a message. So [Resolver.Cached]
// answers at once from memory, and [Resolver.Resolve] calls back later. Backends
// of the configuration are kept current by [Resolver.Watch].
//
// Rules:
//
//   - Names in a Request-URI are chosen by strangers. Every table, queue and
//     answer is bounded: lookups at the same time and callers that wait for
//     them, cache entries, records taken from one answer, the length of a
//     chain of aliases, the time for one lookup.
//   - Callers that ask for the same thing share one lookup.
//   - Names are looked up as they are; search domains are not used. A name that
//     the hosts file has is answered from there, without NAPTR and SRV.
//   - A failed lookup is remembered for a short time too.
//   - Addresses of both families are returned, IPv4 first.
//
// Servers of equal SRV priority share the load by weight (RFC 2782). As an
// answer serves many requests, several orders are drawn when it arrives, and
// given out in turn.
package resolve
