package proxy

import (
	"hash/maphash"
	"strconv"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// joinLocked makes a request known to its call: an INVITE begins one (RFC 4028 8.1
// applies to it), an in-dialog request is numbered anew. It may answer in place of
// the other side.
func (c *responseContext) joinLocked(w *scratch, m *wire.Msg, now time.Duration) rejection {
	switch {
	case c.route.opens:
		return c.beginCallLocked(m, now)
	case c.route.dialog.Known():
		return c.joinDialogLocked(w, m, now)
	case c.route.inDialog && c.edge.dialogs.IsOver(m, now):
		return rejection{status: 481, reason: "Call/Transaction Does Not Exist"}
	}
	return rejection{}
}

func (c *responseContext) beginCallLocked(m *wire.Msg, now time.Duration) rejection {
	e, r := c.edge, &c.route
	ask := dialog.AskOf(m)
	r.change.timer = c.snap.policy.Request(ask, e.learned.get(m, now))
	e.countTimer(r.change.timer)
	if r.change.timer.Reject {
		return tooSmall(r.change.timer)
	}
	in := dialog.Invite{
		Policy: c.snap.policy, Msg: m, Ask: ask, Duty: r.change.timer, Source: dialogFlow(c.arrival), Now: now,
	}
	if r.from != nil {
		in.Inside, in.Backend = true, r.from.ID()
	}
	if r.exempt {
		in.Reserve = e.dialogs.Cap() / 8
	}
	call, refusal := e.dialogs.Open(in)
	switch refusal {
	case dialog.Full:
		e.count.dialogsFull.Add(1)
		return rejection{status: 503, reason: "Too Many Calls", header: e.retryLater()}
	case dialog.TooLong:
		return rejection{status: 513, reason: "Header Fields Too Long"}
	}
	c.call, r.change.call = call, call.ID()
	if ring := c.snap.policy.Ring; ring > 0 {
		c.ringBy = now + ring
	}
	return rejection{}
}

func (c *responseContext) joinDialogLocked(w *scratch, m *wire.Msg, now time.Duration) rejection {
	r := &c.route
	minSE := uint32(0)
	if m.Method == wire.INVITE || m.Method == wire.UPDATE {
		minSE = c.edge.learned.get(m, now)
	}
	v := r.dialog.Request(&w.effects, m, dialogFlow(c.arrival), minSE, now)
	c.edge.countTimer(v.Duty)
	switch v.Status {
	case 0:
	case 200: // the edge has hung up itself
		return rejection{status: 200, reason: "OK"}
	case 422:
		return tooSmall(v.Duty)
	default:
		return rejection{status: v.Status, reason: "Call/Transaction Does Not Exist"}
	}
	c.tx = v.Tx
	r.change.cseq, r.change.rack, r.change.timer = v.CSeq, v.RAck, v.Duty
	return rejection{}
}

func (e *Edge) countTimer(d timers.Duty) {
	if d.Unread {
		e.count.badTimers.Add(1)
	}
}

// tooSmall is the 422 of RFC 4028 6.
func tooSmall(d timers.Duty) rejection {
	h := strconv.AppendUint([]byte("Min-SE: "), uint64(d.MinSE), 10)
	return rejection{status: 422, reason: "Session Interval Too Small", header: append(h, "\r\n"...)}
}

// sentCSeq is the number that the request went on with.
func (c *responseContext) sentCSeq() uint32 {
	if n := c.route.change.cseq; n != 0 {
		return n
	}
	return c.cseq
}

// heardProvisionalLocked tells the call of a 1xx that goes up.
func (c *responseContext) heardProvisionalLocked(m *wire.Msg, now time.Duration) {
	switch {
	case c.call != nil:
		c.call.Provisional(m, now)
	case c.tx != nil:
		c.tx.Provisional(m, now)
	}
}

// heardSuccessLocked tells the call of a 2xx to an INVITE that goes up, and returns
// the session timer to write into it, 0 = none. It is false when it must not go up.
func (c *responseContext) heardSuccessLocked(w *scratch, l *leg, now time.Duration) (insertSE uint32, pass bool) {
	m := &w.msg
	if c.call != nil {
		if c.legs > 1 {
			c.call.Forwarded(l.target())
		}
		return c.call.Success(&w.effects, m, l.target(), now)
	}
	return c.heardFinalLocked(w, m, m.Status, now), true
}

// target is where the leg went, as dialogs keep it.
func (l *leg) target() dialog.Target {
	return dialog.Target{Backend: hop{backend: l.backend}.backendID(), Flow: dialogFlow(l.flow)}
}

// refuseLocked has a 2xx refused whose client transaction is over.
func (c *responseContext) refuseLocked(w *scratch, l *leg, now time.Duration) {
	c.edge.count.lateSuccess.Add(1)
	c.call.Refuse(&w.effects, &w.msg, l.target(), now)
}

// heardFinalLocked tells the dialog of the final response to a request in it; m is
// nil when only the status matters.
func (c *responseContext) heardFinalLocked(w *scratch, m *wire.Msg, status int, now time.Duration) uint32 {
	if c.tx == nil {
		return 0
	}
	return c.tx.Final(&w.effects, m, status, now)
}

// failedLocked tells the call that its INVITE got a final response other than 2xx.
func (c *responseContext) failedLocked(w *scratch, status int, by dialog.Ender, now time.Duration) {
	if c.call == nil {
		return
	}
	why := dialog.Rejected
	switch {
	case c.canceled:
		by, why = dialog.Caller, dialog.ByCancel
	case c.tooLong:
		by, why = dialog.Edge, dialog.RangTooLong
	case c.overdue && status == 487: // the answer to our CANCEL
		by, why = dialog.Edge, dialog.TimedOut
	case status == 401 || status == 407:
		why = dialog.NoReason // a challenge: the call has yet to come
	case status == 408 && by == dialog.Edge:
		why = dialog.TimedOut
	}
	c.call.Failure(&w.effects, status, by, why, now)
}

// dialogFlow is a flow as dialogs keep it.
func dialogFlow(f transport.Flow) dialog.Flow {
	d := dialog.Flow{Proto: f.Proto(), Listener: dialled, Remote: f.Remote()}
	if l := f.Listener(); l != nil {
		d.Listener = l.Mark()
	}
	if c := f.Conn(); c != nil {
		d.Conn = c.ID()
	}
	return d
}

// learnedKept bounds the call attempts whose 422 is remembered.
const learnedKept = 4096

// learnedFor is how long.
const learnedFor = 60 * time.Second

// learned remembers the Min-SE of a 422 for the caller's next attempt, so that a
// session interval of ours is not too small again (RFC 4028 8.1).
type learned struct {
	seed  maphash.Seed
	cache *lru.Cache[uint64, lesson]
}

type lesson struct {
	minSE uint32
	until time.Duration
}

func newLearned() *learned {
	c, err := lru.New[uint64, lesson](learnedKept)
	if err != nil { // only for a size below 1
		panic(err)
	}
	return &learned{seed: maphash.MakeSeed(), cache: c}
}

func (l *learned) key(m *wire.Msg) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	h.Write(m.Bytes(m.CallID))
	h.WriteByte(0)
	h.Write(m.Bytes(m.From.Tag))
	return h.Sum64()
}

func (l *learned) set(m *wire.Msg, now time.Duration) {
	if n, ok := timers.ParseMinSE(m.Value(wire.KindMinSE)); ok {
		l.cache.Add(l.key(m), lesson{n, now + learnedFor})
	}
}

func (l *learned) get(m *wire.Msg, now time.Duration) uint32 {
	if l.cache.Len() == 0 {
		return 0
	}
	x, ok := l.cache.Get(l.key(m))
	if !ok || x.until < now {
		return 0
	}
	return x.minSE
}

// policyOf makes the `timers:` section ready.
func policyOf(c *config.Config) *timers.Policy {
	t := &c.Timers
	p := &timers.Policy{
		TTL: t.SessionTTL.D(), Segments: t.SessionUpdateSegment, EarlyHangup: t.SessionTimeoutEarlyHangup.D(),
		NoTimerMax: t.NoTimerCallDuration.D(), MaxCall: t.MaxCallDuration.D(), MinSE: t.MinSE.D(),
		RejectSmall: t.RejectSmallSE, StrictAlive: t.Alive == "2xx_only",
		ProbeA: t.ProbeLegs != "b", ProbeB: t.ProbeLegs != "a", Jitter: float64(t.ProbeJitter) / 100,
		EndOn408: t.On408 == "end", ReinviteWebRTC: t.ReinviteWebRTC, NoInjectIdentity: t.NoInjectIfIdentity4474,
		Ring: t.MaxRingDuration.D(), AckWait: t.AckWait(c.Transaction.T1).D(), T1: c.Transaction.T1.D(), MaxEarly: t.MaxEarlyPerInvite,
	}
	// Other words than these the configuration has refused.
	p.Insert, _ = named(t.InsertSE, timers.InsertNever, timers.InsertIfSupported, timers.InsertAlways)
	p.Detect, _ = named(t.Detect, timers.DetectAny, timers.DetectSE)
	p.OnExpiry, _ = named(t.OnSEExpiry, timers.ExpiryProbe, timers.ExpiryDropState, timers.ExpiryBYE)
	for _, name := range t.ProbeMethods {
		m, _ := named(name, timers.ProbeUpdate, timers.ProbeReinvite, timers.ProbeOptions, timers.ProbeOptionsStale)
		p.Methods = append(p.Methods, m)
	}
	return p
}
