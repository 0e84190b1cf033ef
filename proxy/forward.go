package proxy

import (
	"net/netip"
	"time"

	"github.com/sipward/sipward/proxy/backend"
	"github.com/sipward/sipward/proxy/eventlog"
	"github.com/sipward/sipward/proxy/resolve"
	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// defaultMaxForwards is RFC 3261 16.6 step 3's.
const defaultMaxForwards = 70

// A hop is one place to send a request to.
type hop struct {
	flow    transport.Flow
	backend *backend.Backend // nil when it is no pool member's
	addr    resolve.Target
}

// tryNextLocked forwards the stored request to the next target.
func (c *responseContext) tryNextLocked(w *scratch, now time.Duration) bool {
	if c.req == nil {
		return false
	}
	w.again.Scan(c.req, c.up.Proto().Reliable())
	return c.tryNextFromLocked(w, &w.again, now)
}

// tryNextFromLocked opens a leg to the next target, 16.6 steps 7 to 11. m is the
// request. It is false when there is nowhere left to go.
func (c *responseContext) tryNextFromLocked(w *scratch, m *wire.Msg, now time.Duration) bool {
	if c.legs >= maxLegs {
		return false
	}
	h, ok := c.edge.pick(w, &c.route, c, now)
	if !ok {
		return false
	}
	kind := transaction.NonInviteClient
	wait := c.snap.requestFailover(c.route.pool)
	if c.method == wire.INVITE {
		kind, wait = transaction.InviteClient, c.snap.inviteFailover(c.route.pool)
	}
	l := c.newLegLocked()
	l.flow, l.backend, l.addr = h.flow, h.backend, h.addr
	l.client = transaction.NewMachine(kind, h.flow.Proto().Reliable())
	l.client.Step(transaction.Start, now, &c.snap.times)
	l.failover = now + wait

	branch := transaction.Branch{Slot: c.slot, Leg: l.n, Loop: c.loop}
	w.splice(m, &c.route, c.arrival, h, branch)
	l.out = w.edit.AppendTo(make([]byte, 0, w.edit.Len()))
	if conn := l.flow.Conn(); conn != nil {
		c.edge.onConn.add(conn.ID(), c)
	}
	c.edge.count.forwarded.Add(1)
	if l.n > 0 {
		c.edge.count.failovers.Add(1)
	}
	c.edge.logRelay(m, h)
	w.sendFor(l.flow, l.out, c, l.n)
	return true
}

func (e *Edge) logRelay(m *wire.Msg, h hop) {
	name := ""
	if h.backend != nil {
		name = h.backend.Name()
	}
	e.log.Relay(&eventlog.Relay{
		Method: m.Bytes(m.MethodName), RURI: m.Bytes(m.RURI), From: m.Bytes(m.From.URI), To: m.Bytes(m.To.URI),
		CallID: m.Bytes(m.CallID), Backend: name, Dst: h.flow.Remote(),
	})
}

// pick chooses the next hop that c (nil: none yet) has not tried.
func (e *Edge) pick(w *scratch, r *route, c *responseContext, now time.Duration) (hop, bool) {
	switch r.kind {
	case toFlow:
		if c != nil && c.legs > 0 {
			return hop{}, false
		}
		return hop{flow: r.flow, addr: resolve.Target{Proto: r.flow.Proto(), Addr: r.flow.Remote()}}, true
	case toDirect:
		return e.pickDirect(r, c)
	case toPool:
		return e.pickBackend(w, r, c, now)
	}
	return hop{}, false
}

func (e *Edge) pickDirect(r *route, c *responseContext) (hop, bool) {
	snap := e.snap.Load()
	for _, t := range r.targets {
		b := snap.member(t.Addr)
		if r.guarded && !snap.reachable(t, r.bound) || c.tried(b, t) {
			continue
		}
		if f, ok := e.flowTo(t, b); ok {
			return hop{f, b, t}, true
		}
	}
	return hop{}, false
}

func (e *Edge) pickBackend(w *scratch, r *route, c *responseContext, now time.Duration) (hop, bool) {
	if r.pinned != nil {
		if h, ok := e.pickAddress(r, r.pinned, c, now); ok || r.only {
			return h, ok
		}
	}
	w.order = r.pool.Order(w.order[:0], r.key, now)
	for _, b := range w.order {
		if h, ok := e.pickAddress(r, b, c, now); ok {
			return h, true
		}
	}
	return hop{}, false
}

// pickAddress takes the first address of a backend that was not tried, if the
// backend may have the request.
func (e *Edge) pickAddress(r *route, b *backend.Backend, c *responseContext, now time.Duration) (hop, bool) {
	for _, t := range b.Targets() {
		if c.tried(b, t) {
			continue
		}
		if !r.exempt && !b.Admit(now) {
			r.overLimit = true
			return hop{}, false
		}
		if f, ok := e.flowTo(t, b); ok {
			return hop{f, b, t}, true
		}
	}
	return hop{}, false
}

// flowTo gives the flow to an address: over the listener that suits its side, or
// over a connection. A connection that is not open yet queues what is sent.
func (e *Edge) flowTo(t resolve.Target, b *backend.Backend) (transport.Flow, bool) {
	snap := e.snap.Load()
	l := snap.egress(t.Proto, t.Addr.Addr(), b != nil)
	if !t.Proto.Reliable() {
		if l == nil {
			return transport.Flow{}, false
		}
		return e.udpFlow(l, t.Addr), true
	}
	var local netip.Addr
	if l != nil && !l.Bound().Addr().IsUnspecified() {
		local = l.Bound().Addr()
	}
	name := t.ServerName
	if b != nil {
		if n := snap.serverName(b); n != "" {
			name = n
		}
	}
	f, err := e.net.Connect(t.Proto, t.Addr, name, local)
	return f, err == nil
}

// udpFlow is the flow from a UDP listener to an address, with the local address
// that the kernel would choose where the listener is a wildcard: Via has to say it.
func (e *Edge) udpFlow(l *transport.Listener, to netip.AddrPort) transport.Flow {
	if !l.Bound().Addr().IsUnspecified() {
		return l.FlowTo(to)
	}
	return l.FlowFrom(e.sources.of(to.Addr()), to)
}

// splice prepares the request for one hop in w.edit (16.6): every byte that is not
// named here leaves as it came.
func (w *scratch) splice(m *wire.Msg, r *route, arrival transport.Flow, h hop, branch transaction.Branch) {
	e, ed := w.edge, &w.edit
	snap := e.snap.Load()
	ed.Reset(m)
	w.spliceRoutes(m, r)
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
	w.spliceIdentity(snap, m, r, arrival, h)
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
			if !r.strictNext {
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

func (h hop) backendID() uint32 {
	if h.backend == nil {
		return 0
	}
	return h.backend.ID()
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
	if name := snap.identityHeader(h.backend); name != "" {
		text := append(append(w.edit.Begin(wire.At(m.HeadersPos())), name...), ": "...)
		w.edit.End(append(arrival.Remote().Addr().AppendTo(text), "\r\n"...))
	}
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
	if f.Conn() != nil || m.TopVia.HasRPort {
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
	dst = key.append(dst, t)
	dst = by.append(append(dst, '@'))
	if by.proto != wire.UDP {
		dst = append(append(dst, ";transport="...), by.proto.Param()...)
	}
	return append(dst, ";lr>\r\n"...)
}
