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
//
// The bodies are those of proxy.CallInfo, proxy.CallStats and proxy.BackendInfo.
// Times are RFC 3339, durations seconds. A field may be added within /v1/; none
// changes its meaning or goes. What cannot be done is {"error": "…"} with 400
// (the request is wrong), 404 (there is no such thing), 405, 409 (the call is
// not in a state to be ended), 413, or 500 (a fault of ours).
//
//	curl --unix-socket /run/sipward/admin.sock http://sipward/v1/calls?party=alice
//
// # Bounds
//
// The edge is worth more than its operator's curiosity: so many connections at a
// time, one request on each, short deadlines, small requests, listings cut at a
// limit. A panic in here ends one request.
package admin
