package proxy

import (
	"bytes"

	"github.com/sipward/sipward/proxy/wire"
)

// stripOwnRoutes finds the leading Route values that are ours (16.4), and repairs
// what a strict router did to the Request-URI.
func (d *decision) stripOwnRoutes() {
	m := d.m
	d.uri = m.Bytes(m.RURI)
	last, n := d.lastRoute()
	if n > 0 && d.isOwnRecordRoute(d.uri) {
		d.r.strictRURI = true
		uri, _, _ := wire.NameAddrURI(m.Bytes(last.Span))
		d.note(d.uri)
		d.uri = uri
		n--
	}
	it := m.Values(wire.KindRoute)
	for ; n > 0; n-- {
		v, ok := it.Next()
		if !ok {
			break
		}
		uri, _, ok := wire.NameAddrURI(m.Bytes(v.Span))
		if !ok || !d.isOwnRoute(uri) {
			d.next, d.hasNext = v, true
			break
		}
		d.r.popped++
	}
	if !d.hasNext && !d.hasPhone {
		d.noteContact()
	}
}

// noteContact reads the token of a Contact of ours, by which a registrar calls a phone.
func (d *decision) noteContact() {
	u, ok := wire.ParseURI(d.uri)
	if !ok || !isTokenText(u.User) || !d.snap.self.is(u) {
		return
	}
	if t, ok := d.edge.tokens.parseFlow(u.User); ok {
		d.phone, d.hasPhone, d.inContact = t, true, true
		return
	}
	if _, isRoute := d.edge.tokens.parse(u.User); !isRoute {
		d.forged = "request-uri"
	}
}

// stripOwnMaddr: a Request-URI that came here because of its maddr goes on without
// it (16.4).
func (d *decision) stripOwnMaddr() {
	u, ok := wire.ParseURI(d.uri)
	if !ok || len(u.MAddr) == 0 || d.r.strictRURI {
		return
	}
	at := u
	at.Host = u.MAddr
	if d.snap.self.is(at) {
		d.r.ownMaddr = true
		d.uri = appendWithoutMaddr(nil, u)
	}
}

// appendWithoutMaddr appends a URI without maddr, transport and port.
func appendWithoutMaddr(dst []byte, u wire.URI) []byte {
	dst = append(append(dst, u.SchemeName...), ':')
	if u.HasUser {
		dst = append(append(dst, u.User...), '@')
	}
	if bytes.IndexByte(u.Host, ':') >= 0 {
		dst = append(append(append(dst, '['), u.Host...), ']')
	} else {
		dst = append(dst, u.Host...)
	}
	for params := range bytes.SplitSeq(u.Params, []byte{';'}) {
		name, _, _ := bytes.Cut(params, []byte{'='})
		if len(params) > 0 && !equalFold(name, "maddr") && !equalFold(name, "transport") {
			dst = append(append(dst, ';'), params...)
		}
	}
	if len(u.Headers) > 0 {
		dst = append(append(dst, '?'), u.Headers...)
	}
	return dst
}

func (d *decision) lastRoute() (last wire.Value, n int) {
	if d.m.First(wire.KindRoute) < 0 {
		return last, 0
	}
	it := d.m.Values(wire.KindRoute)
	for {
		v, ok := it.Next()
		if !ok {
			return last, n
		}
		last, n = v, n+1
	}
}

// isOwnRoute says whether a Route value names this edge: by a token of ours, or by
// an address or name that we listen on.
func (d *decision) isOwnRoute(uri []byte) bool {
	if d.note(uri) {
		return true
	}
	u, ok := wire.ParseURI(uri)
	if !ok || !d.snap.self.is(u) {
		return false
	}
	if isTokenText(u.User) {
		d.forged = "route"
	}
	return true
}

// isOwnRecordRoute is the stricter test for a Request-URI: only what we put into a
// Record-Route ourselves.
func (d *decision) isOwnRecordRoute(uri []byte) bool {
	u, ok := wire.ParseURI(uri)
	if !ok || !u.HasUser || !d.snap.self.is(u) {
		return false
	}
	_, ok = d.edge.tokens.parse(u.User)
	return ok
}

// note reads the token of a Route of ours and tells the direction: of two
// Record-Routes the one that faces the sender comes first.
func (d *decision) note(uri []byte) bool {
	u, ok := wire.ParseURI(uri)
	if !ok || !isTokenText(u.User) {
		return false
	}
	t, ok := d.edge.tokens.parse(u.User)
	if !ok {
		return d.notePath(u.User)
	}
	if !d.hasBound {
		d.outward = d.leadsOut(t)
	}
	d.isSender = t.flow == dialogFlow(d.flow)
	d.bound, d.hasBound = t, true
	return true
}

// notePath reads the token of a Path of ours. A phone may come with its own, over the flow
// that it names (RFC 5626 5.3): then it has done its duty.
func (d *decision) notePath(user []byte) bool {
	t, ok := d.edge.tokens.parseFlow(user)
	if ok && (d.r.from != nil || t.flow != dialogFlow(d.flow)) {
		d.phone, d.hasPhone = t, true
	}
	return ok
}

// refusedToken keeps the edge from sending where a token leads that we did not write, or
// that the sender was not given: those of Path and Contact only registrars hold, and a
// token of a call leads out only for a backend, in a call that we know, or for one of its
// parties. A BYE with a token of an earlier life of ours passes: it reaches backends only.
func (d *decision) refusedToken() rejection {
	refused := rejection{status: 403, reason: "Forbidden"}
	switch {
	case d.forged != "" && (d.m.Method != wire.BYE || !d.r.inDialog):
		refused.token = badToken{d.forged, "it is not ours"}
	case d.hasPhone && d.r.from == nil && d.inContact:
		refused.token = badToken{"request-uri", "it was given to a registrar"}
	case d.hasPhone && d.r.from == nil:
		refused.token = badToken{"route", "it was given to a registrar"}
	case d.hasBound && d.outward && d.r.from == nil && !d.isSender && !d.r.dialog.Known():
		refused.token = badToken{"route", "it was given to somebody else"}
	default:
		return rejection{}
	}
	return refused
}

// leadsOut says whether a request that came with this token first goes to the
// party that the token binds: by the caller's tag, which is From in one direction
// and To in the other; where a peer changed tags, by the face of a double
// Record-Route or by the sender's address.
func (d *decision) leadsOut(t token) bool {
	src := d.flow.Remote()
	switch k := d.edge.tokens; t.caller {
	case k.tagHash(d.m.Bytes(d.m.From.Tag)):
		return t.isCallee
	case k.tagHash(d.m.Bytes(d.m.To.Tag)):
		return !t.isCallee
	}
	switch {
	case t.face != bothFaces:
		return t.face == innerFace
	case d.r.from == nil:
		return false
	case d.r.from.ID() == t.backend:
		return src != t.flow.Remote
	}
	return src.Addr() != t.flow.Remote.Addr() // another node took the call over
}
