// Package cdr writes call records: one line for each call that ended, failed ones too.
//
// A record has always the same fields in the same order, as a JSON object or as a CSV row:
//
//	call_id        of the INVITE
//	from, to       URIs of the INVITE; where a registrar calls a phone by a Contact of the edge, to is its address of record
//	ruri           Request-URI as received
//	src            address and port of the caller as the socket saw it
//	transport      it came by
//	pool, backend  that took the call, or were tried last
//	start          when the INVITE was received
//	answer         when its first 2xx was forwarded; none for a call that failed
//	end            when the call ended: the BYE, the final response or the CANCEL
//	setup_ms       from the INVITE to the first 18x or final response
//	duration       seconds from answer to end, with three decimals; 0.000 for a call that failed
//	status         of the final response to the INVITE
//	ended_by       caller, callee, edge or none
//	reason         of a closed list: bye, cancel, rejected, timeout, session_ttl, max_call_duration …
//	mode           R, P or N; empty for a call that failed
//	last_verified  when both ends were last known to be alive
//
// Times are RFC 3339 in UTC with milliseconds. One that does not exist is null in JSON and empty in CSV; any other absent
// value is the empty string in both.
//
//	{"call_id":"8f2c11@192.0.2.10","from":"sip:jdoe@example.org",…,"start":"2026-11-19T00:35:56.120Z",…,"duration":61.204,"status":200,…}
//	8f2c11@192.0.2.10,sip:jdoe@example.org,…,2026-11-19T00:35:56.120Z,…,61.204,200,…
//
// A CSV file begins with a row of the names; stdout does not.
//
// # Values from the network
//
// What peers sent is hostile. Control characters, line separators and bytes that are not UTF-8 become U+FFFD, so a record
// is one line in both formats, also for tools that know no quotes. A value is at most 512 bytes long; a longer one ends
// in … there. Nothing else is changed: a spreadsheet has to be told that the columns are text.
//
// # Writing
//
// Package outfile does it: a slow disk never delays a call, a record is in the file 50 ms after the end of the call, and
// what a full disk refuses waits and is tried again. Records are lost when more than a buffer of them waits, or what
// waits cannot be written at the stop. They are counted, and OnProblem hears of it.
package cdr
