// Package wire reads and edits SIP messages as the bytes they arrived in.
//
// The idea: the received bytes are the message. [Msg.Scan] walks a message
// once and notes where things are (a [Span] is a pair of offsets); nothing is
// copied, decoded or normalised. An [Edit] collects deletions and insertions
// and writes the outgoing message in one pass; every byte it was not told to
// touch leaves as it came: header order, compact names, folds, odd quoting,
// octets that are not UTF-8. The example shows a request being forwarded.
//
// # What is understood, what is refused
//
// Everything RFC 3261 allows is understood: compact names, folds wherever LWS
// may stand, white space around separators and before the colon, quoted
// strings with escapes, IPv6 references, comma lists of Via and Route, unknown
// methods, headers, schemes and transports, 8-bit octets. Also understood:
// CRLFs before a datagram's start line, "SIP/2.0 200" without the space, an
// empty port ("sip:b:"), a missing Max-Forwards, From tag or (in a datagram)
// Content-Length, and header values this package has no reason to read.
//
// Refused ([Fault]) is what two implementations could understand differently,
// because that is how messages are smuggled past an edge: line breaks that
// are not CRLF, repeated singletons and repeated tag, branch, received or
// rport parameters, two different Content-Lengths, unclosed quotes and angle
// brackets in the headers a proxy reads, numbers out of range, white space in
// the start line. Faults carry the status and reason of a reply.
//
// Choices where RFC 3261 leaves one: a repeated Content-Length with the same
// value passes; a Max-Forwards above 255 is reported as it stands; an empty
// tag counts as no tag; an element of a comma list that is empty is skipped;
// the first '>' ends a URI in angle brackets; a URI with two '@' is not
// parsed, for it has two readings; a URI parameter ends at the next ';'
// whatever quotes surround it, since quotes have no meaning there.
//
// # Rules
//
// A message has at most [MaxSize] bytes and [MaxHeaders] header lines. No
// input makes a function of this package panic. Scan, Values, ParseURI, Edit
// and Framer do not allocate once their buffers have grown. A Msg and its
// Edit belong to one goroutine at a time. Slices handed out point into the
// message and live as long as it does.
package wire
