package proxy

import (
	"errors"
	"math"
	"time"

	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/backend"
	"github.com/sipward/sipward/proxy/binding"
	"github.com/sipward/sipward/proxy/resolve"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// routeKind says how the targets of a request are found.
type routeKind uint8

const (
	toPool   routeKind = iota // backends of a pool, in the pool's order
	toFlow                    // one flow, bound by a token
	toDirect                  // addresses that Route or Request-URI name
	toName                    // the same, but a name has to be resolved first
)

// route is the decision about a request: where it may go and which of its Route
// values are ours to remove. It holds spans and numbers only, so that it fits any
// copy of the same bytes.
type route struct {
	kind      routeKind
	inDialog  bool // has a To tag
	overLimit bool // a backend was passed over for max_cps
	exempt    bool // no limit may refuse it

	toPhone bool       // a registered one, by a token of its binding
	contact []byte     // its own URI, in the place of the one that we gave the registrar; nil: leave it
	enrols  *enrolment // of a REGISTER to a registrar of ours

	pool   *backend.Pool
	key    uint64           // rendezvous key
	pinned *backend.Backend // tried first; alone when only is set
	only   bool

	flow    transport.Flow
	query   resolve.Query
	targets []resolve.Target // shared, read-only

	from    *backend.Backend // the sender, when it is a pool member
	guarded bool             // from outside: targets must be known peers, else pinned
	bound   bool             // it came with a token of ours
	limit   *backend.Rate    // of the matching rule, nil = none

	dialog dialog.Ref // the dialog it belongs to, and who speaks
	opens  bool       // it may begin a call
	change change     // what is written anew besides RFC 3261 16.6

	ownMaddr   bool // the Request-URI's maddr is ours (16.4)
	popped     int  // own Route values to remove (16.4)
	strictRURI bool // a strict router put our Record-Route into the Request-URI
	strictNext bool // the next Route is a strict router (16.6 step 6)
}

// never is later than all times of the wheel.
const never time.Duration = math.MaxInt64

// decide is 16.4 and 16.5: remove what a previous pass of ours added, then find
// the targets. It sends nothing and changes nothing.
func (e *Edge) decide(w *scratch, snap *snapshot, f transport.Flow) (route, rejection) {
	m := &w.msg
	d := decision{edge: e, snap: snap, m: m, flow: f, began: never}
	d.r.inDialog = !m.To.Tag.Empty() && m.Method != wire.REGISTER // which is part of none
	d.r.from = snap.sender(m, f)
	d.r.guarded = d.r.from == nil
	d.stripOwnRoutes()
	d.stripOwnMaddr()
	d.findDialog()
	d.r.bound = d.hasBound
	rej := d.refusedToken()
	if rej.status == 0 {
		rej = d.target()
	}
	d.r.exempt = d.r.exempt || d.isRunning()
	return d.r, rej
}

// decision is the working state of one decide call.
type decision struct {
	edge *Edge
	snap *snapshot
	m    *wire.Msg
	flow transport.Flow
	r    route

	uri      []byte     // the Request-URI to route on
	next     wire.Value // first Route value that is not ours
	hasNext  bool
	bound    token // of the last Route of ours
	hasBound bool
	began    time.Duration // of the call, never where we do not know it
	outward  bool          // the tokens say: towards the outside party

	phone     flowToken // in a Route or, in the place of its Contact, in the Request-URI
	hasPhone  bool
	inContact bool   // it is in the Request-URI
	isSender  bool   // bound is of the flow that the request came on
	forged    string // where a token of ours stands that we did not write

	isRemembered bool // affinity knows the call
}

// findDialog asks the dialog store, which beats everything that the request says by
// itself: the outside party may have moved since our Record-Route was written.
func (d *decision) findDialog() {
	d.r.opens = d.m.Method == wire.INVITE && !d.r.inDialog
	if !d.r.inDialog {
		return
	}
	fromCaller := d.outward == d.bound.isCallee
	d.r.dialog = d.edge.dialogs.Find(d.bound.call, d.m, fromCaller)
	if !d.r.dialog.Known() {
		return
	}
	at := d.r.dialog.Place()
	d.outward = at.Outside
	if at.Outside {
		d.bound.flow, d.began = at.Flow, at.Began
	}
	if at.Backend != 0 {
		d.bound.backend = at.Backend
	}
	d.hasBound = true
}

// target finds where the request goes.
func (d *decision) target() rejection {
	u, ok := wire.ParseURI(d.uri)
	if !ok {
		return rejection{status: 400, reason: "Bad Request-URI"}
	}
	if d.r.strictRURI && !(servedScheme(u) && fitsStartLine(d.uri)) {
		return rejection{status: 400, reason: "Bad Route"}
	}
	if d.m.Method == wire.REGISTER && d.r.from == nil {
		return d.toRegistrar(u)
	}
	if d.hasPhone {
		return d.toPhone()
	}
	if d.hasBound && d.outward {
		if rej, isDone := d.toBoundFlow(u); isDone {
			return rej
		}
	}
	switch {
	case d.hasNext:
		return d.toRoute()
	case d.hasBound && !d.outward:
		d.pinToken()
		return d.toURI(u)
	case d.r.inDialog:
		return d.inDialog(u)
	}
	return d.newRequest(u)
}

// toRegistrar sends a REGISTER from outside to a pool, whatever else it wants: what
// registers around us is not led back. Its Routes end here, lest a PBX follow them; one
// that leads to somebody unknown is refused as in other requests.
func (d *decision) toRegistrar(u wire.URI) rejection {
	if d.hasNext {
		uri, _, _ := wire.NameAddrURI(d.m.Bytes(d.next.Span))
		if next, ok := wire.ParseURI(uri); !ok || !d.knownName(next) {
			return d.foreignRoute(next)
		}
		d.r.popped = d.m.CountValues(wire.KindRoute)
	}
	return d.toPool(u)
}

// pinToken makes the backend of the token the place of last resort.
func (d *decision) pinToken() {
	if b := d.snap.pools.ByID(d.bound.backend); b != nil {
		d.r.pinned, d.r.pool = b, b.Pool()
	}
}

// toRoute follows the next Route value (16.6 steps 6 and 7).
func (d *decision) toRoute() rejection {
	uri, _, _ := wire.NameAddrURI(d.m.Bytes(d.next.Span))
	u, ok := wire.ParseURI(uri)
	if !ok {
		return rejection{status: 400, reason: "Bad Route"}
	}
	if d.hasBound && !d.outward {
		d.pinToken()
	}
	if d.r.guarded && !d.hasBound && d.r.pinned == nil && !d.r.inDialog && !d.knownName(u) {
		return d.foreignRoute(u)
	}
	d.strictness()
	return d.toURI(u)
}

// foreignRoute is a preloaded Route from outside that we do not know. The sender
// sent to us because of its first Route, so an unknown *name* there is one of ours
// that nobody told us; an address is not.
func (d *decision) foreignRoute(u wire.URI) rejection {
	if _, isIP := u.Addr(); isIP || d.r.popped > 0 {
		return rejection{status: 403, reason: "Route Not Allowed"}
	}
	d.r.popped++
	it := d.m.Values(wire.KindRoute)
	for range d.r.popped {
		it.Next()
	}
	if _, more := it.Next(); more {
		return rejection{status: 403, reason: "Route Not Allowed"}
	}
	d.hasNext = false
	ruri, _ := wire.ParseURI(d.uri)
	return d.newRequest(ruri)
}

func (d *decision) knownName(u wire.URI) bool {
	q, ok := resolve.QueryOf(u)
	if !ok {
		return false
	}
	targets, ok := d.edge.resolver.Cached(q)
	return ok && d.snap.anyReachable(targets, d.hasBound)
}

// strictness: a next hop without lr is a strict router.
func (d *decision) strictness() {
	if !d.hasNext {
		return
	}
	uri, _, _ := wire.NameAddrURI(d.m.Bytes(d.next.Span))
	u, ok := wire.ParseURI(uri)
	d.r.strictNext = ok && !u.LR && (u.Scheme == wire.SIP || u.Scheme == wire.SIPS) && fitsStartLine(uri)
}

// fitsStartLine says whether a Route's URI can stand in a start line: what Scan
// refuses in a Request-URI must not get there by way of a Route.
func fitsStartLine(uri []byte) bool {
	for _, c := range uri {
		if c <= ' ' || c == 0x7f || c == '<' || c == '>' || c == '"' {
			return false
		}
	}
	return true
}

// inDialog is a request of a dialog that carries no Route of ours: a client that
// ignores Record-Route, or a token of an earlier process.
func (d *decision) inDialog(u wire.URI) rejection {
	if !d.snap.self.is(u) && (!d.r.guarded || d.knownName(u)) {
		return d.toURI(u)
	}
	return d.toPool(u)
}

// newRequest opens a dialog or stands alone.
func (d *decision) newRequest(u wire.URI) rejection {
	if d.m.Method == wire.OPTIONS && !u.HasUser && d.snap.self.is(u) {
		return d.edge.pong(d.snap, d.flow.Remote().Addr())
	}
	if d.r.from == nil {
		return d.toPool(u)
	}
	if rule := d.snap.rule(d.m, d.flow.Remote().Addr(), true); rule != nil {
		return d.byRule(rule, u)
	}
	if d.snap.self.is(u) {
		return rejection{status: 404, reason: "Not Found"}
	}
	return d.toURI(u)
}

// toPool takes the rule that matches, or the only pool.
func (d *decision) toPool(u wire.URI) rejection {
	if rule := d.snap.rule(d.m, d.flow.Remote().Addr(), false); rule != nil {
		return d.byRule(rule, u)
	}
	return rejection{status: 404, reason: "No Route For This Request"}
}

func (d *decision) byRule(rule *rule, u wire.URI) rejection {
	r := &d.r
	r.kind, r.pool, r.limit = toPool, rule.pool, rule.limit
	r.key = d.key()
	r.exempt = d.snap.emergency(u, d.uri)
	if r.inDialog || hasCredentials(d.m) {
		if id, ok := d.edge.affinity.get(d.m); ok {
			if b := d.snap.pools.ByID(id); b != nil && b.Pool() == rule.pool && d.usable(b) {
				r.pinned, d.isRemembered = b, true
			}
		}
	}
	if r.inDialog || r.from != nil {
		return rejection{}
	}
	if r.pinned == nil {
		d.stayAtRegistrar()
	}
	if d.m.Method == wire.REGISTER {
		return d.enrol()
	}
	return rejection{}
}

// stayAtRegistrar prefers the node that took the registration of the user, or of the phone
// whose flow the request came on: it knows both.
func (d *decision) stayAtRegistrar() {
	known := d.edge.bindings
	if known.Len() == 0 {
		return
	}
	of := d.m.From.URI
	if d.m.Method == wire.REGISTER {
		of = d.m.To.URI
	}
	var space [512]byte
	id, ok := known.NodeAt(binding.Flow(dialogFlow(d.flow)))
	if !ok || d.m.Method == wire.REGISTER {
		id, ok = known.Node(appendAddressOfRecord(space[:0], d.m.Bytes(of)))
	}
	if !ok {
		return
	}
	if b := d.snap.pools.ByID(id); b != nil && b.Pool() == d.r.pool && d.usable(b) {
		d.r.pinned = b
	}
}

// isRunning says whether a request belongs to a call that we carry, so that no
// limit may refuse it. A To tag alone proves nothing, anybody can write one; but
// without it, what cannot begin anything passes too.
func (d *decision) isRunning() bool {
	if !d.r.inDialog {
		return false
	}
	switch d.m.Method {
	case wire.BYE, wire.PRACK, wire.UPDATE, wire.INFO:
		return true
	}
	return d.hasBound || d.r.from != nil || d.isRemembered
}

// usable: what runs stays where it is; what is new goes where it is answered.
func (d *decision) usable(b *backend.Backend) bool {
	s := b.State(d.edge.wheel.Now())
	return s == backend.Up || d.r.inDialog && s != backend.Disabled
}

// key is what the hash policy spreads by: the user for REGISTER (To), SUBSCRIBE
// and PUBLISH (From), so that one user stays on one node, else the call.
func (d *decision) key() uint64 {
	var of wire.Span
	switch d.m.Method {
	case wire.REGISTER:
		of = d.m.To.URI
	case wire.SUBSCRIBE, wire.PUBLISH:
		of = d.m.From.URI
	default:
		return backend.Hash(d.m.Bytes(d.m.CallID))
	}
	if u, ok := wire.ParseURI(d.m.Bytes(of)); ok && len(u.Host) <= 255 {
		var host [255]byte
		return backend.Hash(u.User, lower(host[:0], u.Host))
	}
	return backend.Hash(d.m.Bytes(of))
}

// toURI sends to what a URI names (RFC 3263). From outside only known peers are
// reached that way: the edge is no open relay.
func (d *decision) toURI(u wire.URI) rejection {
	q, ok := resolve.QueryOf(u)
	if !ok || d.snap.self.is(u) {
		if d.r.pinned != nil {
			d.r.pin()
			return rejection{}
		}
		return rejection{status: 404, reason: "Not Found"}
	}
	d.r.query = q
	if targets, ok := d.edge.resolver.Cached(q); ok {
		return d.r.found(d.snap, targets, nil)
	}
	d.r.kind = toName
	return rejection{}
}

// pin leaves the pinned backend as the only target.
func (r *route) pin() { r.kind, r.only, r.pool, r.exempt = toPool, true, r.pinned.Pool(), true }

// found settles a route on the addresses of its name.
func (r *route) found(snap *snapshot, targets []resolve.Target, err error) rejection {
	switch {
	case r.guarded && !snap.anyReachable(targets, r.bound):
		if r.pinned == nil {
			return rejection{status: 403, reason: "Forbidden"}
		}
		r.pin()
	case err != nil && !errors.Is(err, resolve.ErrNotFound):
		return rejection{status: 503, reason: "Name Lookup Failed"}
	case len(targets) == 0:
		return rejection{status: 404, reason: "Not Found"}
	case snap.self.isAddr(targets[0].Addr):
		return rejection{status: 482, reason: "Loop Detected"}
	default:
		r.kind, r.targets = toDirect, targets
	}
	return rejection{}
}

// anyReachable says whether one of the addresses may be reached from outside.
func (s *snapshot) anyReachable(targets []resolve.Target, bound bool) bool {
	for _, t := range targets {
		if s.reachable(t, bound) {
			return true
		}
	}
	return false
}
