package proxy

import (
	"bytes"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/backend"
	"github.com/sipward/sipward/proxy/binding"
	"github.com/sipward/sipward/proxy/eventlog"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/security"
)

// Numbers we chose.
const (
	// maxContacts bounds the contacts of one REGISTER: each may become longer on its way.
	maxContacts = 16
	// maxContactURI is the longest Contact URI that is led back to its phone.
	maxContactURI = 512
	// defaultExpires is what a registrar is free to choose where nobody says (RFC 3261 10.2).
	defaultExpires = 3600
	// comeBackIn is the time in seconds until a phone is to register again whose Path was ignored.
	comeBackIn = 30
	// maxBelieved bounds in seconds how long a registration is taken to last of which the answer says nothing.
	maxBelieved = 24 * 3600
)

// An enrolment is what a REGISTER from outside asks the registrar for, and how the edge
// makes sure that calls to it come back over the flow that it came on: by a Path of ours,
// or by Contacts of ours in the place of the phone's. It holds spans, so that it fits any
// copy of the same bytes.
type enrolment struct {
	aor      string // user@host of To, host in lower case
	contacts []enrolled
	isAll    bool // Contact: *
	expires  int  // of the Expires header field, wire.None without
	flow     dialog.Flow
	at       time.Duration // when it came
	path     bool          // it went on last with a Path; else with Contacts of ours
	tookBack bool          // with a line that takes an old Contact back
	lasts    time.Duration // for how long the registrar keeps the longest
	user     string        // whose password it has, else the AoR
}

// enrolled is one contact of it.
type enrolled struct {
	id       binding.ID
	uri      wire.Span
	isBare   bool // without angle brackets
	isOurs   bool // led back to its phone: a SIP URI
	expires  int  // of its parameter, wire.None without
	instance string
	regID    uint32
	token    []byte // of our Contact
	shown    string // what the registrar has for it from before, a Contact of ours or its own; empty: nothing
	now      string // what it is shown this time
	isOver   bool   // its binding goes on with another Contact of the same request
	instead  binding.ID
}

// enrol reads the contacts of a REGISTER to a registrar of ours.
func (d *decision) enrol() rejection {
	m, e := d.m, d.edge
	x := &enrolment{aor: addressOfRecord(m.Bytes(m.To.URI)), expires: secondsOf(m.Value(wire.KindExpires)), flow: dialogFlow(d.flow), at: e.wheel.Now()}
	if x.aor == "" || !fitsStartLine(m.Bytes(m.To.URI)) { // pings carry it
		return rejection{status: 400, reason: "Bad To"}
	}
	it := m.Values(wire.KindContact)
	for {
		v, ok := it.Next()
		if !ok {
			break
		}
		if len(x.contacts) == maxContacts {
			return rejection{status: 403, reason: "Too Many Contacts"}
		}
		if string(m.Bytes(v.Span)) == "*" {
			x.isAll = true
			continue
		}
		c, ok := e.enrolled(m, v, x)
		if !ok {
			return rejection{status: 400, reason: "Bad Contact"}
		}
		e.setApart(m, x, &c)
		x.contacts = append(x.contacts, c)
	}
	if x.isAll && (len(x.contacts) > 0 || x.expires != 0) { // RFC 3261 10.3 step 6
		return rejection{status: 400, reason: "Bad Contact"}
	}
	d.r.enrols = x
	return rejection{}
}

// setApart tells a contact from those before it that have the same instance. Phones that move
// take their old Contact back in the same request: then it is one binding, which goes on with
// the new one. Two that are to stay are two bindings (RFC 5626 6).
func (e *Edge) setApart(m *wire.Msg, x *enrolment, c *enrolled) {
	for i := range x.contacts {
		p := &x.contacts[i]
		if !c.isOurs || !p.isOurs || p.id != c.id {
			continue
		}
		switch stays, comes := x.asked(p) > 0, x.asked(c) > 0; {
		case comes && !stays:
			p.isOver = true
		case stays && !comes:
			c.isOver = true
		case len(c.instance) > 0 && !bytes.Equal(m.Bytes(p.uri), m.Bytes(c.uri)):
			c.shown, c.instead = "", 0
			e.identify(m, x, c, nil)
		}
	}
}

// enrolled reads one contact. One that is no SIP URI passes as it is: nobody can be
// reached there over a flow.
func (e *Edge) enrolled(m *wire.Msg, v wire.Value, x *enrolment) (c enrolled, ok bool) {
	uri, params, isBare, ok := m.ValueURI(v)
	if !ok || uri.Len() > maxContactURI || !fitsStartLine(m.Bytes(uri)) {
		return c, false
	}
	c.uri, c.isBare, c.expires = uri, isBare, wire.None
	if v, found := wire.Param(m.Bytes(params), "expires"); found {
		c.expires = secondsOf(v)
	}
	u, isURI := wire.ParseURI(m.Bytes(uri))
	if !isURI || u.Scheme != wire.SIP && u.Scheme != wire.SIPS {
		return c, true
	}
	c.isOurs = true
	instance, _ := wire.Param(m.Bytes(params), "+sip.instance")
	if id, found := wire.Param(m.Bytes(params), "reg-id"); found {
		c.regID = uint32(max(secondsOf(id), 0))
	}
	if len(instance) <= binding.MaxInstance { // else the table would not take it
		c.instance = string(instance)
	}
	e.identify(m, x, &c, instance)
	return c, true
}

// identify gives a contact its binding and finds what the registrar has for that.
func (e *Edge) identify(m *wire.Msg, x *enrolment, c *enrolled, instance []byte) {
	uri := m.Bytes(c.uri)
	c.id = e.tokens.bindingID(x.aor, instance, c.regID, uri)
	c.token = e.tokens.appendFlow(nil, flowToken{flow: x.flow, binding: c.id, contact: uri})
	b, known := e.bindings.Get(c.id)
	if !known && x.flow.Proto.Reliable() && len(instance) == 0 {
		if b, known = e.bindings.Predecessor(x.aor, uri); known {
			c.instead = b.ID
		}
	}
	if !known {
		return
	}
	if c.shown = b.Shown; c.shown == "" {
		c.shown = b.Contact
	}
}

// asked is the time a contact is registered for, in seconds, as far as the request says.
func (x *enrolment) asked(c *enrolled) int {
	switch {
	case c.expires != wire.None:
		return c.expires
	case x.expires != wire.None:
		return x.expires
	}
	return defaultExpires
}

// addressOfRecord is what a registrar knows a user by (RFC 3261 10.3 step 5): user@host,
// without parameters, the host in lower case. It is empty where there is none.
func addressOfRecord(uri []byte) string { return string(appendAddressOfRecord(nil, uri)) }

func appendAddressOfRecord(dst, uri []byte) []byte {
	u, ok := wire.ParseURI(uri)
	if !ok || len(u.Host) > 255 || len(u.User) > 255 {
		return dst
	}
	return lower(append(append(dst, u.User...), '@'), u.Host)
}

// secondsOf reads a number of seconds; wire.None when it is none.
func secondsOf(v []byte) int {
	if len(v) == 0 {
		return wire.None
	}
	n := 0
	for _, c := range v {
		if c < '0' || c > '9' {
			return wire.None
		}
		if n = n*10 + int(c-'0'); n > 1<<31 {
			n = 1 << 31
		}
	}
	return n
}

// usesPath decides between Path and Contact. What the operator wrote counts; left to
// itself the edge takes Path where phone or registrar are said to know it, and goes over
// to Contact when the registrar did not keep it. A Path that is there already would be lost
// on a registrar that knows only our Contact.
func (e *Edge) usesPath(snap *snapshot, m *wire.Msg, b *backend.Backend) bool {
	switch snap.config.Registration.Mode {
	case "path":
		return true
	case "contact":
		return false
	}
	offered := m.Lists(wire.KindSupported, "path") || m.First(wire.KindPath) >= 0
	return (offered || b.Pool().Config().SupportsPath) && !e.registrars.isPathless(b.ID())
}

// spliceEnrolment writes into a REGISTER to a registrar of ours what leads calls back.
func (w *scratch) spliceEnrolment(snap *snapshot, m *wire.Msg, x *enrolment, h hop) {
	if h.backend == nil {
		return
	}
	x.path, x.tookBack = w.edge.usesPath(snap, m, h.backend), false
	by := w.edge.innerFace(snap, h.flow)
	if x.path {
		w.splicePath(m, x, by)
	} else {
		w.spliceContacts(m, x, by)
	}
	if !w.edge.registrars.isSingle(h.backend.ID()) {
		w.takeBack(m, x)
	}
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
	text = by.append(append(text, '@'))
	if by.proto != wire.UDP {
		text = append(append(text, ";transport="...), by.proto.URIParam()...)
	}
	text = append(text, ";lr"...)
	if !hasLowerVia(m) && m.First(wire.KindPath) < 0 {
		text = append(text, ";ob"...)
	}
	w.edit.End(append(text, ">\r\n"...))
	for i := range x.contacts {
		c := &x.contacts[i]
		c.now = string(m.Bytes(c.uri))
	}
}

// first is the binding that a Path names: one that stays, if there is one.
func (x *enrolment) first() (id binding.ID) {
	for i := range x.contacts {
		if c := &x.contacts[i]; c.isOurs && (id == 0 || x.asked(c) > 0) {
			if id = c.id; x.asked(c) > 0 {
				break
			}
		}
	}
	return id
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
// rung in vain until it expired.
func (w *scratch) takeBack(m *wire.Msg, x *enrolment) {
	for i := range x.contacts {
		if c := &x.contacts[i]; c.shown != "" && !x.tells(c.shown, i) {
			w.edit.InsertString(endOfLast(m, wire.KindContact), "Contact: <"+c.shown+">;expires=0\r\n")
			x.tookBack = true
		}
	}
}

// tells says whether the request tells the registrar of a URI already, at contact i.
func (x *enrolment) tells(uri string, i int) bool {
	for k := range x.contacts {
		if c := &x.contacts[k]; c.now == uri || k < i && c.shown == uri {
			return true
		}
	}
	return false
}

// size is about how many bytes it holds.
func (x *enrolment) size() (n int) {
	if x == nil {
		return 0
	}
	for i := range x.contacts {
		c := &x.contacts[i]
		n += int(unsafe.Sizeof(*c)) + len(c.instance) + len(c.token) + len(c.shown) + len(c.now)
	}
	return n
}

func appendContactURI(dst, token []byte, by sentBy) []byte {
	dst = append(append(append(dst, "sip:"...), token...), '@')
	dst = by.append(dst)
	if by.proto != wire.UDP {
		dst = append(append(dst, ";transport="...), by.proto.URIParam()...)
	}
	return dst
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
	u, ok := wire.ParseURI(uri)
	if !ok || !isTokenText(u.User) {
		return nil, false
	}
	t, ok := e.tokens.parseFlow(u.User)
	if !ok {
		return nil, false
	}
	return e.contactBehind(&t)
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

// registeredLocked learns from the 2xx to a REGISTER in w.msg what the registrar holds now.
func (c *responseContext) registeredLocked(w *scratch, l *leg, now time.Duration) {
	x, e := c.route.enrols, c.edge
	if x == nil || l.backend == nil || c.req == nil {
		return
	}
	w.again.Scan(c.req, c.up.Proto().Streamed())
	req, res := &w.again, &w.msg
	if x.isAll {
		e.bindings.RemoveAll(x.aor, l.backend.ID(), x.at)
		return
	}
	x.path = l.byPath
	ignored := x.path && res.First(wire.KindPath) < 0
	for i := range x.contacts {
		k := &x.contacts[i]
		if !k.isOurs || k.isOver {
			continue
		}
		lasts, isListed := x.granted(req, res, k)
		if ignored && isListed && lasts > 0 { // anything else may have other reasons
			e.ignoredPath(w, l.backend)
			ignored = false
		}
		c.learnLocked(req, k, l, time.Duration(lasts)*time.Second, now)
	}
}

// learnLocked keeps or forgets one contact.
func (c *responseContext) learnLocked(req *wire.Msg, k *enrolled, l *leg, lasts, now time.Duration) {
	x, e := c.route.enrols, c.edge
	if lasts == 0 {
		e.bindings.Unlearn(k.id, x.at)
		return
	}
	callID := req.Bytes(req.CallID)
	callID = callID[:min(len(callID), binding.MaxCallID)]
	contact := req.Bytes(k.uri)
	b := binding.Binding{
		ID: k.id, AoR: x.aor, Contact: string(contact), UA: string(req.Value(wire.KindUserAgent)),
		Instance: k.instance, RegID: k.regID,
		Flow: binding.Flow(x.flow), Local: c.arrival.Local().Addr(), Backend: l.backend.ID(), NATed: needsPings(c.arrival, contact),
		Expires: now + lasts, CallID: string(callID), CSeq: req.CSeq, Asked: x.at, Instead: k.instead,
		Proven: c.attempt != nil || c.isProvenLocked(now),
	}
	if !x.path { // another node may have been shown another one in the meantime
		b.Shown = string(appendContactURI(nil, k.token, e.innerFace(e.snap.Load(), l.flow)))
	}
	outcome, _ := e.bindings.Learn(b, now)
	if outcome == binding.Full && e.noteLines.Admit(now) {
		e.log.Op().Warn().Str("aor", x.aor).Str("ID", b.CallID).
			Msg("registration is not followed: limits.max_bindings is reached, or its texts are too long; calls to it go where the registrar's Contact leads")
	}
	if conn := x.flow.Conn; conn != 0 && e.net.ConnByID(conn) == nil {
		e.bindings.Closed(conn, now) // it ended while the answer was on its way
	}
	x.lasts, x.user = max(x.lasts, lasts), x.aor
	if c.attempt != nil && c.attempt.User != "" {
		x.user = c.attempt.User
	}
}

// heldLocked keeps somebody known for as long as he is registered, if he proved himself: by a
// password, or to be where he says, by a connection. Of datagrams with forged sources a
// registrar that asks for no password takes any.
func (c *responseContext) heldLocked(now time.Duration) {
	x, e := c.route.enrols, c.edge
	if x == nil || x.lasts == 0 {
		return
	}
	if c.isProvenLocked(now) {
		e.guard.Known.Holds(security.SourceOf(c.source.Addr()), x.user, now+x.lasts, now)
	}
}

func (c *responseContext) isProvenLocked(now time.Duration) bool {
	return c.arrival.Conn() != nil || c.edge.guard.Known.Source(security.SourceOf(c.source.Addr()), now)
}

// granted is how long the registrar keeps a contact, in seconds (RFC 3261 10.3 step 8): what
// its answer says of it. Registrars that write Contacts in words of their own are believed to
// have done what they were asked, for a day at most.
func (x *enrolment) granted(req, res *wire.Msg, k *enrolled) (seconds int, isListed bool) {
	asked := min(x.asked(k), maxBelieved)
	if asked == 0 {
		return 0, false
	}
	if n := secondsOf(res.Value(wire.KindExpires)); n != wire.None {
		asked = n
	}
	it := res.Values(wire.KindContact)
	for {
		v, ok := it.Next()
		if !ok {
			return asked, false
		}
		uri, params, _, ok := res.ValueURI(v)
		if !ok || !x.isSame(req.Bytes(k.uri), res.Bytes(uri), k) {
			continue
		}
		if p, found := wire.Param(res.Bytes(params), "expires"); found && secondsOf(p) != wire.None {
			return secondsOf(p), true
		}
		return asked, true
	}
}

// isSame says whether a Contact of the answer is the one that was asked for.
func (x *enrolment) isSame(asked, answered []byte, k *enrolled) bool {
	u, ok := wire.ParseURI(answered)
	if !ok {
		return false
	}
	if !x.path {
		return bytes.Equal(u.User, k.token)
	}
	own, ok := wire.ParseURI(asked)
	return ok && bytes.Equal(own.User, u.User) && bytes.EqualFold(own.Host, u.Host) && own.PortNum == u.PortNum
}

// needsPings says whether something on the way to a phone forgets it: a NAT, when the phone
// knows another address of itself than we see; a web proxy, behind which browsers may be.
// TCP has keep-alives of the kernel.
func needsPings(f transport.Flow, contact []byte) bool {
	switch f.Proto() {
	case wire.WS, wire.WSS:
		return true
	case wire.UDP:
		u, ok := wire.ParseURI(contact)
		if !ok {
			return true
		}
		port := u.PortNum
		if port == 0 {
			port = wire.UDP.DefaultPort()
		}
		return port != f.Remote().Port() || !sameHost(u.Host, f.Remote().Addr())
	}
	return false
}

// registrars is what their answers have taught of backends. It is known until a reload: who
// changes a registrar tells the edge so. It is bounded by the backends there are.
type registrars struct {
	mu       sync.Mutex
	pathless map[uint32]bool // by backend.Backend.ID: did not keep a Path
	single   map[uint32]bool // refused a REGISTER that took an old Contact back
}

func (r *registrars) isPathless(id uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pathless[id]
}

func (r *registrars) isSingle(id uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.single[id]
}

// ignoresPath returns whether that is news.
func (r *registrars) ignoresPath(id uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return addTo(&r.pathless, id)
}

func (r *registrars) takesOne(id uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return addTo(&r.single, id)
}

func addTo(set *map[uint32]bool, id uint32) (isNews bool) {
	if (*set)[id] {
		return false
	}
	if *set == nil {
		*set = map[uint32]bool{}
	}
	(*set)[id] = true
	return true
}

func (r *registrars) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pathless, r.single = nil, nil
}

// refusedLocked looks whether it may have been for a Contact that we took back: there are
// registrars that want one Contact. Then old ones have to expire.
func (c *responseContext) refusedLocked(l *leg, status int) {
	x := c.route.enrols
	if x == nil || !x.tookBack || l.backend == nil {
		return
	}
	switch status {
	case 400, 500, 501:
		c.edge.registrars.takesOne(l.backend.ID())
	}
}

// ignoredPath takes a registrar's 2xx without Path for what it is: RFC 3327 5.3 has it
// repeated there. In mode auto the phone is to come back soon, for a Contact of ours.
func (e *Edge) ignoredPath(w *scratch, b *backend.Backend) {
	isNews, line := e.registrars.ignoresPath(b.ID()), e.log.Op().Warn().Str("backend", b.Name())
	if e.snap.Load().config.Registration.Mode == "path" {
		if isNews {
			line.Msg("registrar ignores Path: calls to phones will not find the edge; let it accept Path, or set registration.mode to auto or contact")
		}
		return
	}
	w.comeBack = true
	if isNews {
		line.Msg("registrar ignores Path: phones get a Contact of the edge's from their next REGISTER on, which this one is asked for soon")
	}
}

// hasten lowers how long the registration in w.msg lasts, as far as its phone knows.
func (w *scratch) hasten(m *wire.Msg) {
	if i := m.First(wire.KindExpires); i >= 0 && secondsOf(m.Bytes(m.Headers[i].Value)) > comeBackIn {
		w.edit.End(appendUint(w.edit.Begin(m.Headers[i].Value), comeBackIn))
	}
	it := m.Values(wire.KindContact)
	for {
		v, ok := it.Next()
		if !ok {
			return
		}
		_, params, _, ok := m.ValueURI(v)
		if !ok {
			continue
		}
		switch n, at := expiresIn(m, params); {
		case at.Empty():
			w.edit.InsertString(int(v.End), ";expires="+strconv.Itoa(comeBackIn))
		case n > comeBackIn:
			w.edit.End(appendUint(w.edit.Begin(at), comeBackIn))
		}
	}
}

// expiresIn is the expires parameter of a Contact and where its value stands.
func expiresIn(m *wire.Msg, params wire.Span) (seconds int, at wire.Span) {
	all := m.Bytes(params)
	v, found := wire.Param(all, "expires")
	if !found || len(v) == 0 {
		return wire.None, wire.Span{}
	}
	start := int(params.Start)
	for i := range all { // v is a part of all
		if &all[i] == &v[0] {
			start += i
			break
		}
	}
	return secondsOf(v), wire.Span{Start: uint16(start), End: uint16(start + len(v))}
}

// flowClosed says which phones lost their way here. They have closed_grace to come back.
func (e *Edge) flowClosed(c *transport.Conn, now time.Duration) {
	lost := e.bindings.Closed(c.ID(), now)
	if len(lost) == 0 || !e.flowLines.Admit(now) {
		return
	}
	aors := make([]string, 0, min(len(lost), 8))
	for i := range lost[:cap(aors)] {
		aors = append(aors, lost[i].AoR)
	}
	e.log.FlowClosed(&eventlog.FlowClosed{
		Proto: c.Proto().Param(), Conn: c.ID(), Src: c.Remote(), AoRs: aors, Total: len(lost),
	})
}

// bindingGone notes a registration that ended by itself.
func (e *Edge) bindingGone(b binding.Binding, why binding.Reason, _ time.Duration) {
	e.log.Op().Debug().Str("aor", b.AoR).Str("flow", b.Flow.Proto.Param()+":"+b.Flow.Remote.String()).
		Str("ID", b.CallID).Msg("registration " + why.String())
}
