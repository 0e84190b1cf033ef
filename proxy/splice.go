package proxy

import (
	"net/netip"

	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// defaultMaxForwards is RFC 3261 16.6 step 3's.
const defaultMaxForwards = 70

// splice prepares the request for one hop in w.edit (16.6): every byte that is not
// named here leaves as it came.
func (w *scratch) splice(m *wire.Msg, r *route, arrival transport.Flow, h hop, branch transaction.Branch) {
	e, ed := w.edge, &w.edit
	snap := e.snap.Load()
	ed.Reset(m)
	w.spliceRoutes(m, r)
	if r.contact != nil && !r.strictNext {
		ed.Replace(m.RURI, r.contact)
	}
	if r.ownMaddr && !r.strictNext {
		if u, ok := wire.ParseURI(m.Bytes(m.RURI)); ok {
			ed.End(appendWithoutMaddr(ed.Begin(m.RURI), u))
		}
	}
	if m.MaxForwards == wire.None { // 16.6 step 3
		ed.SetMaxForwards(defaultMaxForwards)
	} else {
		ed.SetMaxForwards(m.MaxForwards - 1)
	}
	// 18.2.1, RFC 3581: what the socket saw goes into the sender's Via.
	received(ed, m, arrival.Remote())
	// step 8
	ed.End(appendVia(ed.Begin(wire.At(m.ViaPos())), e.sentBy(snap, h.flow), e.key, branch))
	// step 4
	if recordRoutes(m) && !r.inDialog {
		w.spliceRecordRoute(snap, m, r, arrival, h)
	}
	if r.enrols != nil {
		w.spliceEnrolment(snap, m, r.enrols, h)
	}
	w.spliceIdentity(snap, m, r, arrival, h)
	w.spliceChange(m, &r.change)
	w.spliceLength(m, h.flow)
}

// spliceRoutes removes our own Route values and does what strict routers need
// (16.4, 16.6 step 6).
func (w *scratch) spliceRoutes(m *wire.Msg, r *route) {
	if r.popped == 0 && !r.strictRURI && !r.strictNext {
		return
	}
	ed := &w.edit
	ruri := m.Bytes(m.RURI)
	n := m.CountValues(wire.KindRoute)
	it := m.Values(wire.KindRoute)
	for i := 0; i < n; i++ {
		v, ok := it.Next()
		if !ok {
			return
		}
		last := i == n-1
		switch {
		case r.strictRURI && last:
			uri, _, _ := wire.NameAddrURI(m.Bytes(v.Span))
			ruri = uri
			if !r.strictNext && r.contact == nil {
				ed.Replace(m.RURI, uri)
			}
			ed.DeleteValue(v)
		case i < r.popped:
			ed.DeleteValue(v)
		}
	}
	if r.strictNext {
		w.spliceStrictNext(m, r, ruri)
	}
}

// spliceStrictNext swaps Request-URI and first Route for a strict router: the
// Request-URI becomes the last Route value.
func (w *scratch) spliceStrictNext(m *wire.Msg, r *route, ruri []byte) {
	ed := &w.edit
	it := m.Values(wire.KindRoute)
	var first wire.Value
	for range r.popped + 1 {
		first, _ = it.Next()
	}
	uri, _, _ := wire.NameAddrURI(m.Bytes(first.Span))
	ed.Replace(m.RURI, uri)
	ed.DeleteValue(first)
	line := m.Headers[first.Header].Line
	for i := first.Header; i < len(m.Headers); i++ {
		if m.Headers[i].Kind == wire.KindRoute {
			line = m.Headers[i].Line
		}
	}
	ed.End(append(append(append(ed.Begin(wire.At(int(line.End))), "Route: <"...), ruri...), ">\r\n"...))
}

// recordRoutes: methods that create dialogs (RFC 3261 12, 6665, 3515).
func recordRoutes(m *wire.Msg) bool {
	switch m.Method {
	case wire.INVITE, wire.SUBSCRIBE, wire.REFER, wire.NOTIFY:
		return true
	}
	return false
}

// spliceRecordRoute adds one Record-Route, or two when the sides differ in
// listener or transport: each side then sees an address that it can reach
// (16.6 step 4, RFC 5658).
func (w *scratch) spliceRecordRoute(snap *snapshot, m *wire.Msg, r *route, arrival transport.Flow, h hop) {
	e := w.edge
	in, out := e.sentBy(snap, arrival), e.sentBy(snap, h.flow)
	var t token
	towardsInside := r.from == nil
	if towardsInside {
		t = outsideToken(arrival, h.backendID())
	} else {
		t = outsideToken(h.flow, r.from.ID())
		t.isCallee = true
	}
	t.caller = e.tokens.tagHash(m.Bytes(m.From.Tag))
	t.call = r.change.call
	sips := len(m.Bytes(m.RURI)) > 5 && equalFold(m.Bytes(m.RURI)[:5], "sips:")
	text := w.edit.Begin(wire.At(m.RecordRoutePos()))
	if in != out {
		far, near := innerFace, outerFace
		if !towardsInside {
			far, near = near, far
		}
		t.face = far
		text = appendRecordRoute(text, e.tokens, t, out, sips)
		t.face = near
	}
	w.edit.End(appendRecordRoute(text, e.tokens, t, in, sips))
}

// spliceIdentity tells a backend the client's real address in the header of its
// pool, and removes what a client wrote there itself: a PBX trusts it.
func (w *scratch) spliceIdentity(snap *snapshot, m *wire.Msg, r *route, arrival transport.Flow, h hop) {
	if r.from != nil || len(snap.identity) == 0 {
		return
	}
	for _, name := range snap.identity {
		w.edit.DeleteNamed(name)
	}
	if h.backend == nil {
		return
	}
	if name := h.backend.Pool().Config().IdentityHeader; name != "" {
		text := append(append(w.edit.Begin(wire.At(m.HeadersPos())), name...), ": "...)
		w.edit.End(append(arrival.Remote().Addr().AppendTo(text), "\r\n"...))
	}
}

// notToWrite are the headers that the sender of a message may not write: none for a
// backend.
func (s *snapshot) notToWrite(m *wire.Msg, from transport.Flow) []string {
	if len(s.identity) == 0 || s.sender(m, from) != nil {
		return nil
	}
	return s.identity
}

// spliceLength says how long the body is where a datagram did not have to: on a
// stream the next message begins after it (18.3, 20.14).
func (w *scratch) spliceLength(m *wire.Msg, to transport.Flow) {
	if m.ContentLength != wire.None || !to.Proto().Reliable() {
		return
	}
	text := append(w.edit.Begin(wire.At(w.endOfHeaders(m))), "Content-Length: "...)
	w.edit.End(append(appendUint(text, uint64(m.Body.Len())), "\r\n"...))
}

// received notes the source in the topmost Via: received when sent-by is not that
// address (18.2.1) or rport asks (RFC 3581 4), rport when it is there.
func received(ed *wire.Edit, m *wire.Msg, src netip.AddrPort) {
	via := m.TopVia
	if via.HasRPort || !via.ReceivedParam.Absent() || !sameHost(m.Bytes(via.Host), src.Addr()) {
		ed.SetReceived(via, src.Addr())
	}
	if via.HasRPort {
		ed.SetRPort(via, src.Port())
	}
}

// sameHost says whether a sent-by host is this address. A name never is.
func sameHost(host []byte, a netip.Addr) bool {
	if n := len(host); n > 2 && host[0] == '[' && host[n-1] == ']' {
		host = host[1 : n-1]
	}
	if len(host) > 45 {
		return false
	}
	if a.Is4() { // without allocation
		var text [16]byte
		return string(a.AppendTo(text[:0])) == string(host)
	}
	h, err := netip.ParseAddr(string(host))
	return err == nil && h.Unmap() == a
}

// replyFlow is where responses go (18.2.2, RFC 3581): the connection, or the
// source address with the port of Via, or with the source port when rport asks.
// maddr is not followed: it would let a stranger aim our answers.
func replyFlow(m *wire.Msg, f transport.Flow) transport.Flow {
	if f.Conn() != nil || m.TopVia.HasRPort || isTranslated(m, f) {
		return f
	}
	port := m.TopVia.PortNum
	if port == 0 {
		port = f.Proto().DefaultPort()
	}
	if port == f.Remote().Port() {
		return f
	}
	return f.Listener().FlowFrom(f.Local().Addr(), netip.AddrPortFrom(f.Remote().Addr(), port))
}

// isTranslated says whether a request without rport came through a NAT for certain: a
// private address from a public one. Nobody answers at the port of its Via there.
func isTranslated(m *wire.Msg, f transport.Flow) bool {
	src := f.Remote().Addr()
	if isInner(src) || src.IsLoopback() {
		return false
	}
	host, ok := wire.ParseAddr(m.Bytes(m.TopVia.Host))
	return ok && isInner(host)
}

// isInner tells an address that is behind a NAT, seen from outside: of a private network, or
// between a carrier and its customers (RFC 6598).
func isInner(a netip.Addr) bool {
	a = a.Unmap()
	b := a.As16()
	return a.IsPrivate() || a.Is4() && b[12] == 100 && b[13]>>6 == 1
}

// appendVia appends our Via line.
func appendVia(dst []byte, by sentBy, key transaction.Key, b transaction.Branch) []byte {
	dst = append(dst, "Via: SIP/2.0/"...)
	dst = append(append(dst, by.proto.String()...), ' ')
	dst = by.append(dst)
	dst = append(dst, ";branch="...)
	dst = key.Append(dst, b)
	return append(dst, "\r\n"...)
}

// appendRecordRoute appends one Record-Route line.
func appendRecordRoute(dst []byte, key tokenKey, t token, by sentBy, sips bool) []byte {
	dst = append(dst, "Record-Route: <"...)
	if sips {
		dst = append(dst, "sips:"...)
	} else {
		dst = append(dst, "sip:"...)
	}
	dst = by.appendAt(key.append(dst, t))
	return append(dst, ";lr>\r\n"...)
}
