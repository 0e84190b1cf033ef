package proxy

import (
	"slices"
	"time"

	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/cdr"
	"github.com/sipward/sipward/proxy/eventlog"
	"github.com/sipward/sipward/proxy/resolve"
	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// callDue is a due time of a call. It runs on the wheel's goroutine.
func (e *Edge) callDue(c *dialog.Call, now time.Duration) {
	w := e.scratch()
	defer e.release(w)
	c.Due(&w.effects, e.probePace.Load(), now)
	w.flush()
}

// perform does what calls asked for. No lock may be held.
func (w *scratch) perform() {
	fx := w.effects
	w.effects, w.acting = w.acting, dialog.Effects{} // acting may ask for more
	for i := range fx.Ended {
		w.edge.callEnded(&fx.Ended[i])
	}
	for _, n := range fx.Notes {
		w.edge.logNote(n)
	}
	for _, stop := range fx.Stops {
		stop()
	}
	for first, i := 0, 1; i <= len(fx.Acts); i++ {
		if i == len(fx.Acts) || fx.Acts[i].Ref != fx.Acts[first].Ref {
			w.edge.inject(w, slices.Clone(fx.Acts[first:i])) // they live until they are answered
			first = i
		}
	}
	fx.Reset()
	w.acting = fx
}

// inject sends requests of the edge's own to one leg of a dialog, the way an endpoint's
// would go (RFC 3261 16.6 steps 6 to 10): over the outside party's flow, or to the next hop
// that Route and remote target name. They go in their order: a BYE is not to overtake the ACK
// before it while the name of the next hop is looked up.
func (e *Edge) inject(w *scratch, acts []dialog.Act) {
	now, snap := e.wheel.Now(), e.snap.Load()
	for i := range acts {
		a := &acts[i]
		r, ok := e.wayTo(snap, a)
		switch {
		case !ok:
			e.injected(w, a, nil, 0, now)
		case r.kind == toName:
			w.flushQueue() // another goroutine goes on
			e.resolver.Resolve(r.query, func(targets []resolve.Target, err error) { e.injectResolved(acts[i:], r, targets, err) })
			return
		default:
			e.sendInjected(w, snap, a, &r, now)
		}
	}
}

// wayTo decides where a request of our own goes.
func (e *Edge) wayTo(snap *snapshot, a *dialog.Act) (route, bool) {
	d := decision{edge: e, snap: snap, uri: a.Next}
	at := a.Place
	if at.Outside {
		if f, ok := e.outsideFlow(snap, at.Flow, at.Began); ok {
			return route{kind: toFlow, flow: f, exempt: true}, true
		}
	}
	u, ok := wire.ParseURI(a.Next)
	if !ok || at.Outside && !leadsBack(at.Flow, u) {
		return route{}, false
	}
	// Towards the inside it has no more rights than the outside party that it
	// stands for.
	d.r.guarded, d.r.bound, d.r.inDialog, d.r.exempt = !at.Outside, true, true, true
	if !at.Outside {
		d.bound.backend = at.Backend
		d.pinToken()
	}
	rej := d.toURI(u)
	return d.r, rej.status == 0
}

// injectResolved goes on once the name of the next hop is known to which the first of them goes.
func (e *Edge) injectResolved(acts []dialog.Act, r route, targets []resolve.Target, err error) {
	w := e.scratch()
	defer e.release(w)
	defer e.outlive("resolver")
	a, snap, now := &acts[0], e.snap.Load(), e.wheel.Now()
	if rej := r.found(snap, targets, err); rej.status != 0 {
		e.injected(w, a, nil, 0, now)
	} else {
		e.sendInjected(w, snap, a, &r, now)
	}
	e.inject(w, acts[1:])
	w.flush()
}

func (e *Edge) sendInjected(w *scratch, snap *snapshot, a *dialog.Act, r *route, now time.Duration) {
	h, ok := e.pick(w, r, nil, now)
	if !ok {
		e.injected(w, a, nil, 0, now)
		return
	}
	if a.Method == wire.ACK { // no transaction (RFC 3261 17.1.1.3)
		w.send(h.flow, a.Append(nil, e.appendVia(nil, snap, h.flow, transaction.Branch{
			Slot: transaction.Slot(e.key.Sum(a.Rest)), Leg: transaction.OwnLeg, Loop: ackVia,
		})))
		return
	}
	q := &ownRequest{edge: e, snap: snap, flow: h.flow}
	build := a.Append
	if a.Method == wire.BYE { // who greps for a call has to see its end; probes would only be noise
		build = func(dst, via []byte) []byte {
			dst = a.Append(dst, via)
			e.logBye(dst, h)
			return dst
		}
	}
	q.answered = func(w *scratch, status int, _ bool, now time.Duration) {
		if status == 0 {
			e.injected(w, a, nil, 0, now)
			return
		}
		if a.Method == wire.BYE {
			e.logReply(&w.msg, q.flow)
		}
		e.injected(w, a, &w.msg, status, now)
	}
	if a.Method == wire.INVITE {
		q.ack = func(w *scratch) []byte {
			draft, ok := a.AckFor(&w.msg)
			if !ok {
				return nil
			}
			return draft.Append(nil, q.appendVia(nil, ackVia))
		}
	}
	if !q.start(w, a.Method, now, build) {
		e.injected(w, a, nil, 0, now)
		return
	}
	e.count.injected.Add(1)
	a.Sent(&w.effects, q.quit)
}

// logBye writes the line of a BYE of our own.
func (e *Edge) logBye(b []byte, h hop) {
	var m wire.Msg
	m.Scan(b, h.flow.Proto().Streamed())
	e.logRelay(&m, nil, h)
}

// injected tells the dialog what became of a request of ours; m is nil without a
// response.
func (e *Edge) injected(w *scratch, a *dialog.Act, m *wire.Msg, status int, now time.Duration) {
	after := time.Duration(0)
	if m != nil {
		after = retryAfter(m)
	}
	class := a.Done(&w.effects, m, status, after, now)
	if a.Probe != timers.ProbeNone {
		e.probes.note(a.Probe, class)
	}
}

// callEnded writes the line and the record of a call that is over.
func (e *Edge) callEnded(c *dialog.Ended) {
	from, to := uriOf(c.From), uriOf(c.To)
	e.log.Ended(&eventlog.End{
		Reason: c.Reason.String(), Duration: c.Duration(), From: from, To: to, CallID: c.CallID,
		By: c.By.String(), Mode: c.Mode.String(),
	})
	if !e.records.Writes() {
		return
	}
	r := cdr.Record{
		CallID: string(c.CallID), From: string(from), To: string(e.calleeOf(c.To)), RURI: string(c.RURI),
		Src: c.Source.Remote.String(), Transport: c.Source.Proto.Param(),
		Start: e.wallTime(c.Began), End: e.wallTime(c.At), Setup: c.Setup, Duration: c.Duration(),
		Status: c.Status, EndedBy: c.By.String(), Reason: c.Reason.String(), Mode: c.Mode.String(),
	}
	at := e.snap.Load().places[c.Backend]
	r.Pool, r.Backend = at.pool, at.backend
	if c.Answered != 0 {
		r.Answer, r.LastVerified = e.wallTime(c.Answered), e.wallTime(c.Verified)
	}
	e.records.Write(&r)
}

// wallTime is a time of the wheel's clock on the wall's.
func (e *Edge) wallTime(at time.Duration) time.Time { return time.Now().Add(at - e.wheel.Now()) }

// uriOf is the URI of a From, To or Contact value.
func uriOf(v []byte) []byte {
	uri, _, ok := wire.NameAddrURI(v)
	if !ok {
		return v
	}
	return uri
}

// calleeOf is the URI of a To value for whoever reads listings and records. A registrar without Path calls a phone by a Contact
// of ours: then it is the phone's address of record, or its own Contact when it is not registered any more.
func (e *Edge) calleeOf(to []byte) []byte {
	uri := uriOf(to)
	t, ok := e.contactToken(uri)
	if !ok {
		return uri
	}
	if b, ok := e.bindings.Follow(t.binding); ok {
		return []byte("sip:" + b.AoR)
	}
	if contact, ok := e.contactBehind(&t); ok {
		return contact
	}
	return uri
}

// logNote tells an operator what a call needs. Peers can repeat it, so it is sampled.
func (e *Edge) logNote(n dialog.Note) {
	e.count.notes.Add(1)
	if !e.noteLines.Admit(e.wheel.Now()) {
		return
	}
	line := e.log.Op().Warn().Bytes("call_id", n.CallID).Str("leg", n.Leg.String())
	if n.Status != 0 {
		line.Int("status", n.Status)
	}
	line.Msg(noteText[n.Kind])
}

var noteText = map[dialog.NoteKind]string{
	dialog.Challenged:     "probe challenged: the call goes on, capped by no_timer_call_duration; let the PBX accept UPDATE, re-INVITE and BYE from the edge without authentication",
	dialog.ByeChallenged:  "BYE challenged: the leg may not have ended; let the PBX accept BYE from the edge without authentication",
	dialog.Diverged:       "re-INVITE answered with other media, which the other side could not be told of; it is not used in this call any more",
	dialog.Untracked:      "header fields too long or no usable Contact: the edge cannot send requests of its own to this leg",
	dialog.Exhausted:      "CSeq numbers are used up: the call is not probed any more, no_timer_call_duration applies",
	dialog.Unacknowledged: "no ACK came, but both sides live: the call goes on, no_timer_call_duration applies",
}
