package dialog

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// composeLocked builds a request to leg l as its peer would send it (spec C.1). The
// text is put together here and not by a SIP library: From, To, Contact and Route
// have to be the very bytes that the leg saw before. extra are whole lines. It is
// false when the leg's remote target is not known.
func (d *Dialog) composeLocked(l Leg, method wire.Method, cseq uint32, probe timers.ProbeMethod, extra string, body Body) (Draft, bool) {
	target, ok := d.targetLocked(l)
	if !ok {
		return Draft{}, false
	}
	ruri, route, next := routed(target, d.texts.get(routesTo(l)))
	from, to := d.texts.get(fromText), d.texts.get(toText)
	if l == A {
		from, to = to, from
	}
	rest := make([]byte, 0, 512+len(body.SDP))
	if len(route) > 0 {
		rest = appendLine(rest, "Route: ", route)
	}
	rest = append(rest, "Max-Forwards: 70\r\n"...)
	rest = appendLine(rest, "From: ", from)
	rest = appendLine(rest, "To: ", to)
	rest = appendLine(rest, "Call-ID: ", d.texts.get(callID))
	rest = strconv.AppendUint(append(rest, "CSeq: "...), uint64(cseq), 10)
	rest = append(append(append(rest, ' '), method.String()...), "\r\n"...)
	if method != wire.BYE && method != wire.ACK {
		rest = d.appendAbilities(rest, l, probe)
	}
	rest = append(rest, extra...)
	if body.SDP != nil {
		rest = appendLine(rest, "Content-Type: ", body.Type)
	}
	rest = strconv.AppendInt(append(rest, "Content-Length: "...), int64(len(body.SDP)), 10)
	rest = append(append(rest, "\r\n\r\n"...), body.SDP...)

	line := append(append(append([]byte(method.String()), ' '), ruri...), " SIP/2.0\r\n"...)
	return Draft{Line: line, Rest: rest, Next: next}, true
}

// appendAbilities adds what the peer of l is known by to l: Contact, Allow and
// Supported, and the session timer as l believes it (spec D4, D5).
func (d *Dialog) appendAbilities(b []byte, l Leg, probe timers.ProbeMethod) []byte {
	x, peer, names := &d.leg[l], &d.leg[l.Peer()], &d.call.store.names
	if contact := d.texts.get(contactOf(l.Peer())); len(contact) > 0 {
		b = appendLine(b, "Contact: ", contact)
	}
	if v := names.get(peer.allow); v != "" {
		b = append(append(append(b, "Allow: "...), v...), "\r\n"...)
	}
	carriesSE := x.se > 0 && (probe == timers.ProbeUpdate || probe == timers.ProbeReinvite)
	supported := names.get(peer.supported)
	if probe == timers.ProbeReinvite {
		supported = without(supported, "100rel")
	}
	if carriesSE && !wire.HasToken([]byte(supported), []byte("timer")) {
		if supported != "" {
			supported += ", "
		}
		supported += "timer"
	}
	if supported != "" {
		b = append(append(append(b, "Supported: "...), supported...), "\r\n"...)
	}
	if !carriesSE {
		return b
	}
	b = strconv.AppendUint(append(b, "Session-Expires: "...), uint64(x.se), 10)
	if x.refreshes {
		b = append(b, ";refresher=uas\r\n"...)
	} else {
		b = append(b, ";refresher=uac\r\n"...)
	}
	if d.minSE > 90 && d.minSE <= x.se { // RFC 4028 5: never above the interval
		b = strconv.AppendUint(append(b, "Min-SE: "...), uint64(d.minSE), 10)
		b = append(b, "\r\n"...)
	}
	return b
}

// without is a list of option tags without one of them. A re-INVITE of ours must not
// offer 100rel: there would be no PRACK for a reliable 1xx (RFC 3262 3).
func without(tags, tag string) string {
	if !wire.HasToken([]byte(tags), []byte(tag)) {
		return tags
	}
	var kept []string
	for t := range strings.SplitSeq(tags, ",") {
		if t = strings.TrimSpace(t); t != "" && !strings.EqualFold(t, tag) {
			kept = append(kept, t)
		}
	}
	return strings.Join(kept, ", ")
}

func appendLine(dst []byte, name string, value []byte) []byte {
	return append(append(append(dst, name...), value...), "\r\n"...)
}

// targetLocked is the remote target URI of a leg. What cannot stand in a start line
// is none.
func (d *Dialog) targetLocked(l Leg) ([]byte, bool) {
	uri, _, ok := wire.NameAddrURI(d.texts.get(contactOf(l)))
	if !ok {
		return nil, false
	}
	return startLineURI(uri)
}

// startLineURI is a URI as it may stand in a start line: without headers (RFC 3261
// 19.1.1), and without a byte that would end it.
func startLineURI(uri []byte) ([]byte, bool) {
	u, ok := wire.ParseURI(uri)
	if !ok || u.Scheme != wire.SIP && u.Scheme != wire.SIPS {
		return nil, false
	}
	if len(u.Headers) > 0 {
		uri = uri[:bytes.LastIndexByte(uri[:len(uri)-len(u.Headers)], '?')]
	}
	for _, c := range uri {
		if c <= ' ' || c == 0x7f || c == '<' || c == '>' || c == '"' {
			return nil, false
		}
	}
	return uri, true
}

// routed is RFC 3261 12.2.1.1: with a strict router on top of the route set it is
// the Request-URI, and the remote target the last Route.
func routed(target, routes []byte) (ruri, route, next []byte) {
	if len(routes) == 0 {
		return target, nil, target
	}
	first, others := cutRoute(routes)
	uri, _, ok := wire.NameAddrURI(first)
	if !ok {
		return target, routes, target
	}
	if u, ok := wire.ParseURI(uri); ok && u.LR {
		return target, routes, uri
	}
	strict, ok := startLineURI(uri)
	if !ok {
		return target, routes, uri
	}
	route = bytes.Clone(others)
	if len(route) > 0 {
		route = append(route, ", "...)
	}
	return strict, append(append(append(route, '<'), target...), '>'), strict
}

// cutRoute splits the first value off a list that recordRoutes made, at the comma
// where wire.Values found it.
func cutRoute(routes []byte) (first, others []byte) {
	for i := 0; i < len(routes); i++ {
		switch routes[i] {
		case '"':
			for i++; i < len(routes) && routes[i] != '"'; i++ {
				if routes[i] == '\\' {
					i++
				}
			}
		case '<':
			i += max(bytes.IndexByte(routes[i:], '>'), 0)
		case ',':
			return routes[:i], bytes.TrimLeft(routes[i+1:], " ")
		}
	}
	return routes, nil
}
