package proxy

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/sipward/sipward/proxy/backend"
	"github.com/sipward/sipward/proxy/binding"
	"github.com/sipward/sipward/proxy/eventlog"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/security"
)

// Numbers we chose.
const (
	// comeBackIn is the time in seconds until a phone is to register again whose Path was ignored.
	comeBackIn = 30
	// maxBelieved bounds in seconds how long a registration is taken to last of which the answer says nothing.
	maxBelieved = 24 * 3600
)

// registeredLocked learns from the 2xx to a REGISTER in w.msg what the registrar holds now.
func (c *responseContext) registeredLocked(w *scratch, l *leg, now time.Duration) {
	x, e := c.route.enrols, c.edge
	if x == nil || l.backend == nil || c.req == nil {
		return
	}
	if x.tookBack || x.wentBare {
		e.registrars.took(l.backend.ID(), x.first(), x.tookBack)
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
			e.ignoredPath(w, l.backend, x.aor, x.isAlone(req, res), now)
			ignored = false
		}
		c.learnLocked(req, k, l, time.Duration(lasts)*time.Second, now)
	}
}

// learnLocked keeps or forgets one contact.
func (c *responseContext) learnLocked(req *wire.Msg, k *enrolled, l *leg, lasts, now time.Duration) {
	x, e := c.route.enrols, c.edge
	if lasts == 0 {
		e.bindings.Remove(k.id, x.at)
		if k.instead != 0 { // the registrar was told to forget that one, too
			e.bindings.Remove(k.instead, x.at)
		}
		return
	}
	callID := req.Bytes(req.CallID)
	callID = callID[:min(len(callID), binding.MaxCallID)]
	contact := req.Bytes(k.uri)
	b := binding.Binding{
		ID: k.id, AoR: x.aor, Contact: string(contact), UA: string(req.Value(wire.KindUserAgent)),
		Instance: k.instance, RegID: k.regID,
		Flow: binding.Flow(x.flow), Local: c.arrival.Local().Addr(), Backend: l.backend.ID(), NATed: needsPings(req, c.arrival, contact),
		Expires: now + lasts, CallID: string(callID), CSeq: req.CSeq, Asked: x.at, Instead: k.instead,
		Proven: c.attempt != nil || c.isProvenLocked(now),
	}
	if !x.path { // another node may have been shown another one in the meantime
		b.Shown = string(appendContactURI(nil, k.token, e.innerFace(e.snap.Load(), l.flow)))
	}
	outcome, _ := e.bindings.Learn(b, now)
	if outcome == binding.Old { // a later REGISTER has said what holds
		return
	}
	if outcome == binding.Full && e.noteLines.Admit(now) {
		e.log.Op().Warn().Str("aor", x.aor).Str("ID", b.CallID).
			Msg("registration is not followed: limits.max_bindings is reached, or its texts are too long; calls to it go where the registrar's Contact leads")
	}
	if conn := c.arrival.Conn(); conn != nil && e.net.ConnByID(conn.ID()) == nil {
		e.flowClosed(conn, now) // it ended while the answer was on its way
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
	seconds, best := asked, 0
	it := res.Values(wire.KindContact)
	for {
		v, ok := it.Next()
		if !ok {
			return seconds, best > 0
		}
		uri, params, _, ok := res.ValueURI(v)
		if !ok {
			continue
		}
		fit := x.likeness(req.Bytes(k.uri), res.Bytes(uri), res.Bytes(params), k)
		if fit <= best {
			continue
		}
		best, seconds = fit, asked
		if p, found := wire.Param(res.Bytes(params), "expires"); found && secondsOf(p) != wire.None {
			seconds = secondsOf(p)
		}
	}
}

// isAlone says whether the answer lists no Contact but what was asked for. Registrars may have
// no Path for others, and say none then, or that of any one, as Asterisk does.
func (x *enrolment) isAlone(req, res *wire.Msg) bool {
	it := res.Values(wire.KindContact)
	for {
		v, ok := it.Next()
		if !ok {
			return true
		}
		uri, params, _, ok := res.ValueURI(v)
		if !ok || !slices.ContainsFunc(x.contacts, func(k enrolled) bool {
			return x.likeness(req.Bytes(k.uri), res.Bytes(uri), res.Bytes(params), &k) > 0
		}) {
			return false
		}
	}
}

// likeness is how much a Contact of the answer is the one that was asked for, 0 not at all. Registrars write URIs in a way
// of their own, and list other phones with the same private address, and the same phone on another flow, too.
func (x *enrolment) likeness(asked, answered, params []byte, k *enrolled) (fit int) {
	u, ok := wire.ParseURI(answered)
	if !ok {
		return 0
	}
	if !x.path {
		if bytes.Equal(u.User, k.token) {
			return 1
		}
		return 0
	}
	own, ok := wire.ParseURI(asked)
	if !ok || !bytes.Equal(own.User, u.User) || !bytes.EqualFold(own.Host, u.Host) || own.PortNum != u.PortNum {
		return 0
	}
	fit = 1
	if bytes.Equal(asked, answered) {
		fit++
	}
	instance, isNamed := wire.Param(params, "+sip.instance")
	switch {
	case isNamed != (k.instance != ""):
		return fit
	case isNamed && k.instance != string(instance):
		return 0
	}
	if id, found := wire.Param(params, "reg-id"); isNamed && found && uint32(max(secondsOf(id), 0)) != k.regID {
		return 0
	}
	return fit + 2
}

// needsPings says whether something on the way to a phone forgets it: a NAT, when the phone
// knows another address of itself than we see, be it in Via alone, since some put the one that
// they learnt from rport into Contact; a web proxy, behind which browsers may be. TCP has
// keep-alives of the kernel.
func needsPings(m *wire.Msg, f transport.Flow, contact []byte) bool {
	switch f.Proto() {
	case wire.WS, wire.WSS:
		return true
	case wire.UDP:
		u, ok := wire.ParseURI(contact)
		if !ok || !isUDPSource(u.Host, u.PortNum, f) {
			return true
		}
		host := m.Bytes(m.TopVia.Host)
		_, isAddr := wire.ParseAddr(host) // a name says nothing
		return isAddr && !isUDPSource(host, m.TopVia.PortNum, f)
	}
	return false
}

// isUDPSource says whether what a URI or a Via names is where a message came from.
func isUDPSource(host []byte, port uint16, f transport.Flow) bool {
	if port == 0 {
		port = wire.UDP.DefaultPort()
	}
	return port == f.Remote().Port() && sameHost(host, f.Remote().Addr())
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
		c.edge.registrars.refusedBack(l.backend.ID(), x.first())
	}
}

// ignoredPath takes a registrar's 2xx without Path for what it is: RFC 3327 5.3 has it
// repeated there. In mode auto the phone is to come back soon, for a Contact of ours.
func (e *Edge) ignoredPath(w *scratch, b *backend.Backend, aor string, isAlone bool, now time.Duration) {
	isAuto := e.snap.Load().config.Registration.Mode != "path"
	if isAuto {
		w.comeBack = true
	} else if !isAlone { // it may have kept it, and nothing would change
		return
	}
	isNews, isAllNews := e.registrars.ignoresPath(b.ID(), aor, isAlone)
	if !isAllNews && (!isNews || !e.noteLines.Admit(now)) {
		return
	}
	line := e.log.Op().Warn().Str("backend", b.Name())
	switch {
	case isAllNews && isAuto:
		line.Msg("registrar ignores Path: phones get a Contact of the edge's from their next REGISTER on")
	case isAllNews:
		line.Msg("registrar ignores Path: calls to phones will not find the edge; let it accept Path, or set registration.mode to auto or contact")
	case isAuto:
		line.Str("aor", aor).Msg("registrar ignores Path of this user: his phones get a Contact of the edge's from their next REGISTER on, which this one is asked for soon")
	default:
		line.Str("aor", aor).Msg("registrar ignores Path of this user: calls to his phone will not find the edge; let it accept Path, or set registration.mode to auto or contact")
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
		switch at, _ := m.Param(params, "expires"); {
		case at.Empty():
			w.edit.InsertString(int(v.End), ";expires="+strconv.Itoa(comeBackIn))
		case secondsOf(m.Bytes(at)) > comeBackIn:
			w.edit.End(appendUint(w.edit.Begin(at), comeBackIn))
		}
	}
}

// flowClosed says which phones lost their way here. They have closed_grace to come back. What
// Stop ends is kept as it was.
func (e *Edge) flowClosed(c *transport.Conn, now time.Duration) {
	if errors.Is(c.Err(), transport.ErrClosed) {
		return
	}
	some, total := e.bindings.Closed(c.ID(), now)
	if total == 0 || !e.flowLines.Admit(now) {
		return
	}
	aors := make([]string, 0, len(some))
	for i := range some {
		aors = append(aors, some[i].AoR)
	}
	e.log.FlowClosed(&eventlog.FlowClosed{
		Proto: c.Proto().Param(), Conn: c.ID(), Src: c.Remote(), AoRs: aors, Total: total,
	})
}

// bindingGone notes a registration that ended by itself.
func (e *Edge) bindingGone(b binding.Binding, why binding.Reason, _ time.Duration) {
	e.log.Op().Debug().Str("aor", b.AoR).Str("flow", b.Flow.Proto.Param()+":"+b.Flow.Remote.String()).
		Str("ID", b.CallID).Msg("registration " + why.String())
}
