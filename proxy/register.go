package proxy

import (
	"github.com/sipward/sipward/proxy/backend"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// spliceEnrolment writes into a REGISTER to a registrar of ours what leads calls back.
func (w *scratch) spliceEnrolment(snap *snapshot, m *wire.Msg, x *enrolment, h hop) {
	if h.backend == nil {
		return
	}
	x.path, x.tookBack, x.wentBare = w.edge.usesPath(snap, m, x.aor, h.backend), false, false
	by := w.edge.innerFace(snap, h.flow)
	if x.path {
		w.splicePath(m, x, by)
	} else {
		w.spliceContacts(m, x, by)
	}
	w.takeBack(m, x, h.backend.ID())
}

// usesPath decides between Path and Contact. What the operator wrote counts; left to
// itself the edge takes Path where phone or registrar are said to know it, and goes over
// to Contact when the registrar did not keep it. A Path that is there already would be lost
// on a registrar that knows only our Contact.
func (e *Edge) usesPath(snap *snapshot, m *wire.Msg, aor string, b *backend.Backend) bool {
	switch snap.config.Registration.Mode {
	case "path":
		return true
	case "contact":
		return false
	}
	offered := m.Lists(wire.KindSupported, "path") || m.First(wire.KindPath) >= 0
	return (offered || b.Pool().Config().SupportsPath) && !e.registrars.isPathless(b.ID(), aor)
}

// innerFace is what a registrar has to send to. Over a stream that is a listener too, never
// the address of the connection: its end must not look like the end of every phone, and
// nobody answers there.
func (e *Edge) innerFace(snap *snapshot, f transport.Flow) sentBy {
	to := f.Remote().Addr()
	if f.Proto().Reliable() && snap.egress(f.Proto(), to, true) == nil {
		if l := snap.egress(wire.UDP, to, true); l != nil {
			return e.sentBy(snap, e.udpFlow(l, f.Remote()))
		}
	}
	return e.sentBy(snap, f)
}

// splicePath adds our Path on top (RFC 3327 5.1), with ob where we are the first hop, so
// that the registrar may offer Outbound (RFC 5626 5.1). Registrars refuse a Path that the
// phone did not offer, and some read only the first Supported.
func (w *scratch) splicePath(m *wire.Msg, x *enrolment, by sentBy) {
	if x.isAll || len(x.contacts) == 0 {
		return
	}
	at := w.endOfHeaders(m)
	if i := m.First(wire.KindPath); i >= 0 {
		at = int(m.Headers[i].Line.Start)
	} else if i := m.First(wire.KindContact); i >= 0 {
		at = int(m.Headers[i].Line.Start)
	}
	const supported = "Supported: path\r\n"
	switch i := m.First(wire.KindSupported); {
	case i < 0:
		w.edit.InsertString(at, supported)
	case !wire.HasToken(m.Bytes(m.Headers[i].Value), []byte("path")):
		w.edit.InsertString(int(m.Headers[i].Line.Start), supported)
	}
	text := append(w.edit.Begin(wire.At(at)), "Path: <sip:"...)
	text = w.edge.tokens.appendFlow(text, flowToken{flow: x.flow, binding: x.first()})
	text = append(by.appendAt(text), ";lr"...)
	if !hasLowerVia(m) && m.First(wire.KindPath) < 0 {
		text = append(text, ";ob"...)
	}
	w.edit.End(append(text, ">\r\n"...))
	for i := range x.contacts {
		c := &x.contacts[i]
		c.now = string(m.Bytes(c.uri))
	}
}

// spliceContacts puts our Contacts in the place of the phone's. A Path of somebody else would
// lead calls around us, to wherever it names.
func (w *scratch) spliceContacts(m *wire.Msg, x *enrolment, by sentBy) {
	ed := &w.edit
	ed.DeleteNamed("Path")
	for i := range x.contacts {
		c := &x.contacts[i]
		if !c.isOurs {
			continue
		}
		c.now = string(appendContactURI(nil, c.token, by))
		if x.asked(c) == 0 && c.shown != "" {
			c.now = c.shown
		}
		text := c.now
		if c.isBare {
			text = "<" + text + ">"
		}
		ed.ReplaceString(c.uri, text)
	}
}

// takeBack has the registrar forget what it has for a phone under another URI (RFC 3261
// 10.2.2), because the phone was somewhere else, or Path and Contact took turns: it would be
// rung in vain until it expired, as it is where the registrar refuses such requests.
func (w *scratch) takeBack(m *wire.Msg, x *enrolment, registrar uint32) {
	for i := range x.contacts {
		c := &x.contacts[i]
		if c.shown == "" || x.tells(c.shown, i) {
			continue
		}
		if !w.edge.registrars.takesBack(registrar, x.first()) {
			x.wentBare = true
			return
		}
		w.edit.InsertString(endOfLast(m, wire.KindContact), "Contact: <"+c.shown+">;expires=0\r\n")
		x.tookBack = true
	}
}

func appendContactURI(dst, token []byte, by sentBy) []byte {
	return by.appendAt(append(append(dst, "sip:"...), token...))
}

// endOfLast is where a line goes after the last header of a kind that is there.
func endOfLast(m *wire.Msg, k wire.Kind) int {
	at := 0
	for i := range m.Headers {
		if m.Headers[i].Kind == k {
			at = int(m.Headers[i].Line.End)
		}
	}
	return at
}

// restoreContacts gives a phone its own Contacts back in the answer to its REGISTER, and
// those of the other phones of its user.
func (w *scratch) restoreContacts(m *wire.Msg) {
	it := m.Values(wire.KindContact)
	for {
		v, ok := it.Next()
		if !ok {
			return
		}
		uri, _, isBare, ok := m.ValueURI(v)
		if !ok {
			continue
		}
		contact, ok := w.edge.contactOf(m.Bytes(uri))
		if !ok {
			continue
		}
		text := w.edit.Begin(uri)
		if isBare {
			text = append(text, '<')
		}
		text = append(text, contact...)
		if isBare {
			text = append(text, '>')
		}
		w.edit.End(text)
	}
}

// contactOf is the phone's URI behind a Contact of ours.
func (e *Edge) contactOf(uri []byte) ([]byte, bool) {
	t, ok := e.contactToken(uri)
	if !ok {
		return nil, false
	}
	return e.contactBehind(&t)
}

// contactToken reads the token of a Contact of ours.
func (e *Edge) contactToken(uri []byte) (flowToken, bool) {
	u, ok := wire.ParseURI(uri)
	if !ok || !isTokenText(u.User) {
		return flowToken{}, false
	}
	return e.tokens.parseFlow(u.User)
}

// contactBehind is the URI as it is in the table where the token has only its beginning.
func (e *Edge) contactBehind(t *flowToken) ([]byte, bool) {
	if t.contact != nil && !t.isCut {
		return t.contact, true
	}
	if b, ok := e.bindings.Follow(t.binding); ok {
		return []byte(b.Contact), true
	}
	return t.contact, t.contact != nil
}
