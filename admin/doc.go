// Package admin is how an operator speaks with a running edge: JSON over HTTP on
// a unix socket of mode 0660, and the client that the commands of sipward use.
// Who may open the socket file may do everything; nothing listens on a network.
//
//	GET    /v1/calls                    the calls, the oldest first: {"calls": […], "more": false}
//	       ?call_id=&party=&backend=&mode=R|P|N&limit=1000
//	                                    call_id and backend are exact, party is a part of From or To
//	GET    /v1/calls/{id}               one call, by the id of the listing
//	DELETE /v1/calls/{id}               ends it with a BYE on both legs; the answer 202 is the call as it was
//	GET    /v1/stats                    figures of all calls since the start
//	GET    /v1/backends                 the backends: {"backends": […]}
//	PUT    /v1/backends/{pool}/{name}   {"state": "up"|"drain"|"disabled"}; answers with the backend as it is now
//	GET    /v1/bans                     the bans, the oldest first: {"bans": […], "more": false}
//	       ?kind=ip|user&rule=&key=&limit=1000
//	                                    rule is exact, key is a part of the key; limit=all is every ban
//	POST   /v1/bans                     {"bans": […]}, at most 500: takes over bans of a listing; {"added": 1, "skipped": 0}
//	DELETE /v1/bans                     lifts all bans: {"lifted": 2}
//	GET    /v1/bans/{key}               one ban
//	PUT    /v1/bans/{key}               {"for": 3600, "by": "who", "why": "…"}, each may be absent; answers with the ban
//	DELETE /v1/bans/{key}               lifts it and forgets what was counted; answers with the ban as it was
//	GET    /v1/explain/{key}            what happens to a message of this source or user now, and why
//	GET    /v1/security                 what the protections did since the start
//	GET    /v1/registrations            what phones registered, by address of record: {"registrations": […], "more": false}
//	       ?aor=&text=&source=&backend=&limit=1000
//	                                    aor, source (an IP address) and backend are exact; text is a part of the
//	                                    address of record, the contact or the User-Agent
//	GET    /v1/registrations/{id}       one registration, by the id of the listing
//	GET    /v1/registration_stats       figures of all registrations since the start
//
// A key is an address, an IPv6 /64, user@domain, or user@domain/address, as it is
// or path-escaped: 2001:db8::/64 and 2001:db8::%2F64 are the same.
//
// The bodies are those of proxy.CallInfo, proxy.CallStats, proxy.BackendInfo,
// proxy.BanInfo, proxy.Explanation, proxy.SecurityStats, proxy.RegistrationInfo and
// proxy.RegistrationStats.
// Times are RFC 3339, durations seconds. A field may be added within /v1/; none
// changes its meaning or goes. What cannot be done is {"error": "…"} with 400
// (the request is wrong), 404 (there is no such thing), 405, 409 (the call is
// not in a state to be ended, the address is trusted), 413, or 500 (a fault of
// ours).
//
//	curl --unix-socket /run/sipward/admin.sock http://sipward/v1/calls?party=alice
//
// # Bounds
//
// The edge is worth more than its operator's curiosity: so many connections at a
// time, one request on each, short deadlines, small requests, listings cut at a
// limit, one listing of all bans at a time. A panic in here ends one request.
package admin
