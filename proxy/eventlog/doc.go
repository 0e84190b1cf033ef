// Package eventlog writes the log of the edge: one line for each new request, relayed request, reply and ended call, and the
// rare operational lines (start, stop, reload, a backend that goes down, what the protections decided).
//
// There are two shapes of the same events. In the format kamailio a line is what operators of Kamailio and Sipwise
// installations grep for:
//
//	Nov 19 00:35:56 lb1 sipward[812]: NOTICE: sipward: New request on sipward - M=REGISTER R=sip:example.org F=sip:jdoe@example.org T=sip:jdoe@example.org IP=192.0.2.10:5060 (203.0.113.5:5060) ID=364e46@192.0.2.10 UAIP=192.0.2.10 UA='SIP-UA 1.2.3'
//	Nov 19 00:35:56 lb1 sipward[812]: NOTICE: sipward: Relaying request - M=REGISTER R=sip:example.org F=sip:jdoe@example.org T=sip:jdoe@example.org D=pbx1:10.0.0.10:5060 ID=364e46@192.0.2.10
//	Nov 19 00:35:56 lb1 sipward[812]: NOTICE: sipward: Reply from Inbound - S=200 - OK M=REGISTER IP=10.0.0.10:5060 ID=364e46@192.0.2.10
//	Nov 19 00:36:58 lb1 sipward[812]: NOTICE: sipward: Call ended - C=bye D=61.204 F=sip:jdoe@example.org T=sip:alice@example.org ID=8f2c11@192.0.2.10
//
// In the format json a line is one object with fixed names:
//
//	{"time":"2026-11-19T00:35:56.123+01:00","level":"notice","event":"request","method":"REGISTER","ruri":…,"from":…,"to":…,"src":…,"local":…,"call_id":…,"ua_ip":…,"ua":…}
//	{…,"event":"relay","method":…,"ruri":…,"from":…,"to":…,"backend":…,"dst":…,"call_id":…}
//	{…,"event":"reply","side":…,"status":200,"reason":…,"method":…,"src":…,"call_id":…}
//	{…,"event":"call_ended","reason":"bye","duration":61.204,"from":…,"to":…,"call_id":…,"ended_by":"caller","mode":"R"}
//
// What the protections decide has lines of its own, as warnings; a loop's first line is a notice:
//
//	… WARNING: sipward: IP '192.0.2.10' is blocked and banned - R=<null> ID=364e46@192.0.2.10
//	… WARNING: sipward: Consecutive Authentication Failure for 'jdoe@example.org' UA='SIP-UA 1.2.3' IP='192.0.2.10' - R=<null> ID=364e46@192.0.2.10
//	… WARNING: sipward: NOT banned: IP '10.0.0.10' exceeded 50/2s (61) but is backend "pbx1"
//	… NOTICE: sipward: Possible loop detected on call sip:jdoe@example.org -> sip:alice@example.org (4 total calls during last second)
//	… WARNING: sipward: Loop detected on call sip:jdoe@example.org -> sip:alice@example.org (IP:192.0.2.10:5060)
//
// In the format json they are the events ban, auth_failure, not_banned and loop.
//
// Flows have two: a connection that phones were registered over is closed (a notice, whatever runs over TCP), and a
// request is refused because its flow token is not ours or not for whoever sent it (a warning):
//
//	… NOTICE: sipward: [TCP:CLOSED] wss connection closed conid=42 - IP=192.0.2.10:49152 AORS=jdoe@example.org,alice@example.org +3 more
//	… WARNING: sipward: Flow token in route is refused: its MAC is wrong - M=INVITE R=sip:bob@example.org IP=192.0.2.10:5060 ID=364e46@192.0.2.10
//
// In the format json they are the events flow_closed (proto, conid, ip, port, aors, more) and bad_token.
//
// An operational line is `script: message key=value …` in the one and an object with "message" in the other. Names and
// order of the fields of the four events are a contract with filters and dashboards.
//
// # Values from the network
//
// Every value that a peer sent is hostile. Only its first 256 bytes are written. In the format kamailio the rest is
// replaced by \... and these bytes are escaped: CR \r, LF \n, tab \t, quotes \' and \", backslash \\, and all other
// control and 8-bit bytes \xNN. Space is \x20 where the value stands without quotes, = is \x3d in a reason phrase, a
// comma is \x2c in a list. So " IP=" preceded by a space occurs once in a line before UA=, and always comes from the
// socket. An absent value is <null>. In the format json the encoder escapes; bytes that are not UTF-8 become U+FFFD,
// and an object with a shortened value has "cut":true.
//
// # Levels
//
// As in Kamailio: error, warning, notice, info, debug, each including those before it. The lines of requests,
// replies, ended calls and closed flows are notice. Lines of level info are the few that tell of start, stop, reload
// and of backends; they are written at every level, since a log that does not say when the edge started is of no use
// at level notice, which is the default. Debug lines need level debug, warnings need level warning or lower.
//
// # Writing
//
// Package outfile does it: a caller copies its finished line into a buffer, and a goroutine writes the buffer out 50 ms
// after its first line, or at once when it is half full. When the output is slow and the buffer full, lines are dropped
// and counted, and one line says how many. So a slow disk never delays a message.
package eventlog
