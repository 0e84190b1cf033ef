package dialog

import (
	"bytes"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// A Call is one INVITE outside any dialog and the dialogs that it makes: one per
// To tag (RFC 3261 12.1). It lives from the forwarding of the INVITE until all of
// them are over, keeps the policy of its beginning and emits one record.
//
// All methods may be called from any goroutine. Those that take Effects append to
// it what is to be done.
type Call struct {
	store  *Store
	policy *timers.Policy
	id     ID
	began  time.Duration
	timer  timers.Timer

	mu        sync.Mutex // guards what follows
	armed     time.Duration
	first     Dialog        // its state is none until a To tag is known
	more      *[]*Dialog    // nil while there is but one
	answered  time.Duration // when the first 2xx was forwarded, 0 = not yet
	outside   flow          // of the outside party
	source    origin        // of the caller
	backend   uint32
	invite    uint32 // CSeq number of the INVITE; never changed
	setup     uint32 // milliseconds and one more, 0 = not yet known
	forwarded uint32 // Session-Expires of the INVITE as forwarded
	tagAt     uint16 // the caller's tag in fromText
	tagLen    uint16
	supports  bool // timer, as the INVITE said
	hasSE     bool // it had one that could be read
	outer     Leg  // which leg is the outside party
	noInject  bool
	seated    bool // it counts as one of backend's
	gaveUp    bool // the caller sent BYE before the answer
	reported  bool
	failed    bool // the caller got a final response other than 2xx, and took no answer since
	revived   bool // it came back, with another ID than our Record-Route has
	marked    bool // its state is to be written
	saved     bool // its state was written
	done      bool
}

// Invite is what opens a call.
type Invite struct {
	Policy  *timers.Policy
	Msg     *wire.Msg // as received
	Ask     timers.Ask
	Duty    timers.Duty
	Source  Flow // where it came from
	Inside  bool // the caller is the pool member Backend
	Backend uint32
	Reserve int // calls beyond the capacity that may be taken
	Now     time.Duration
}

// Refusal says why a call could not be opened.
type Refusal uint8

const (
	Opened  Refusal = iota
	Full            // capacity
	TooLong         // header fields or Route set beyond their bounds
)

// Open begins a call. The caller's first leg is known, no dialog yet.
func (s *Store) Open(in Invite) (*Call, Refusal) {
	m := in.Msg
	c := &Call{
		store: s, policy: in.Policy, began: in.Now, invite: m.CSeq, forwarded: in.Duty.Forwarded,
		supports: in.Ask.Supported, hasSE: in.Ask.HasSE && !in.Ask.BadSE, source: packFlow(in.Source).origin(), outer: A,
	}
	if in.Inside {
		c.outer = B
	}
	d := &c.first
	d.call = c
	if m.From.Tag.Len() > 0 {
		c.tagAt, c.tagLen = m.From.Tag.Start-m.From.Value.Start, uint16(m.From.Tag.Len())
	}
	ruri := m.Bytes(m.RURI)
	if bytes.Equal(ruri, m.Bytes(m.To.URI)) {
		ruri = nil // as it is with nearly all calls
	}
	routes, ok := c.recordRoutesLocked(m, A)
	if !ok || !d.texts.put(
		textChange{callID, m.Bytes(m.CallID)}, textChange{fromText, m.Bytes(m.From.Value)},
		textChange{toText, m.Bytes(m.To.Value)}, textChange{ruriText, ruri},
		textChange{contactA, firstContact(m)}, textChange{routesA, routes},
	) {
		return nil, TooLong
	}
	c.mu.Lock() // from here on others find it
	defer c.mu.Unlock()
	if !s.add(c, in.Reserve) {
		return nil, Full
	}
	d.seq[A] = StartedAt(m.CSeq)
	d.learnLocked(A, m)
	c.noInject = c.noInject || in.Policy.NoInjectIdentity && m.First(wire.KindIdentityInfo) >= 0
	if d.keepsBodies() {
		d.media.Keep(A, true)
		d.media.Keep(B, true)
	}
	d.media.Request(A, wire.INVITE, m.CSeq, BodyOf(m))
	if in.Inside {
		c.seatLocked(in.Backend)
	} else {
		c.outsideLocked(packFlow(in.Source))
	}
	s.stats.began(in.Now)
	return c, Opened
}

// ID is the call's name in our Record-Route.
func (c *Call) ID() ID { return c.id }

// A Target is where the INVITE was sent: to a backend, or from inside to an outside
// party over a flow.
type Target struct {
	Backend uint32
	Flow    Flow
}

// Forwarded tells of a target. A later one replaces an earlier one; of several, tell
// the one that answers before its answer.
func (c *Call) Forwarded(to Target) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.answered != 0:
	case c.outer == B && c.done: // noted, should an answer come all the same
		c.outside = packFlow(to.Flow)
	case c.outer == B:
		c.outsideLocked(packFlow(to.Flow))
	case c.done:
		c.backend = to.Backend
	default:
		c.seatLocked(to.Backend)
	}
}

// seatLocked moves the call to a backend, 0 = none.
func (c *Call) seatLocked(backend uint32) {
	if c.backend == backend {
		return
	}
	c.leaveLocked()
	if c.backend = backend; backend != 0 {
		c.seated = true
		c.store.Tally(backend).Add(1)
	}
}

// leaveLocked gives its place at the backend back. The ID stays: BYEs may have to go
// there.
func (c *Call) leaveLocked() {
	if c.seated {
		c.seated = false
		c.store.Tally(c.backend).Add(-1)
	}
}

// Provisional takes a 1xx to the INVITE as it goes to the caller.
func (c *Call) Provisional(m *wire.Msg, now time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		return
	}
	if m.Status >= 180 && m.Status < 190 {
		c.setUpLocked(now)
	}
	if m.Status == 100 || m.To.Tag.Empty() {
		return
	}
	d := c.dialogLocked(m, false, now)
	if d == nil || d.state != early {
		return
	}
	reliable := m.First(wire.KindRSeq) >= 0
	if reliable { // else all that it says is said again by the 2xx
		d.meetLocked(m)
	}
	if reliable || !m.Body.Empty() {
		d.media.Response(B, wire.INVITE, c.invite, m.Status, reliable, BodyOf(m))
	}
}

// Success takes a 2xx to the INVITE as it goes to the caller, any copy of that of
// any fork, from one of its targets. It returns the Session-Expires to write into it (RFC 4028 8.2), 0 = none,
// and is false when there is no place for one more dialog: then the 2xx must not get
// through, its dialog would have no end but its callee's (RFC 3261 13.3.1.4).
func (c *Call) Success(fx *Effects, m *wire.Msg, from Target, now time.Duration) (insertSE uint32, hasPlace bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setUpLocked(now)
	reply := ReplyOf(m)
	g := c.policy.Success(c.askedLocked(), c.forwarded, reply)
	d := c.dialogLocked(m, true, now)
	if d == nil {
		c.settleLocked(fx, now)
		return 0, false
	}
	d.copied = now
	if d.state != early {
		d.copyLocked(fx, now)
		c.settleLocked(fx, now)
		return g.InsertSE, true
	}
	if c.answered == 0 {
		c.answered = now
		c.store.parties.move(party{}, c.outside.party())
		if !c.failed { // else it is no answer before its ACK
			c.store.stats.answered(c.setupLocked())
		}
	} else {
		d.answersFromLocked(from)
	}
	d.late = c.failed
	d.meetLocked(m)
	d.state, d.answered = waitsForAck, now
	d.leg[A].proof, d.leg[B].proof = now, now
	d.leg[B].answers = true
	d.mode = c.policy.ModeOf(c.askedLocked(), timers.Duty{}, reply, g)
	d.agreeLocked(g, A, now)
	d.forgoBodies()
	d.media.Response(B, wire.INVITE, c.invite, m.Status, true, BodyOf(m))
	d.trimBodies()
	c.settleLocked(fx, now)
	return g.InsertSE, true
}

// Failure is the final response other than 2xx that the caller got, or that the
// request could not be forwarded at all. by is who decided.
func (c *Call) Failure(fx *Effects, status int, by Ender, why Reason, now time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done || c.answered != 0 {
		return
	}
	c.setUpLocked(now)
	c.failed = true
	if status == 487 && c.gaveUp {
		by, why = Caller, ByCancel
	}
	f := &c.first
	f.ended, f.by, f.reason = now, by, why
	for d := range c.dialogs {
		c.forgetLocked(d, now)
	}
	c.reportLocked(fx, f, status)
	c.settleLocked(fx, now)
}

// Abandon takes a call back whose INVITE was not forwarded after all; it leaves no
// record.
func (c *Call) Abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.done && c.answered == 0 {
		if !c.reported {
			c.reported = true
			c.store.stats.abandoned()
		}
		for d := range c.dialogs {
			c.forgetLocked(d, 0)
		}
		c.removeLocked()
	}
}

// dialogs are all that were made, in no order; the one that waits for its To tag
// too.
func (c *Call) dialogs(yield func(*Dialog) bool) {
	if !yield(&c.first) {
		return
	}
	for _, d := range c.forks() {
		if !yield(d) {
			return
		}
	}
}

// forks are the dialogs beyond the first.
func (c *Call) forks() []*Dialog {
	if c.more == nil {
		return nil
	}
	return *c.more
}

func (c *Call) addFork(d *Dialog) {
	if c.more == nil {
		c.more = new([]*Dialog)
	}
	*c.more = append(*c.more, d)
}

// setUpLocked notes when the caller heard of the callee first.
func (c *Call) setUpLocked(now time.Duration) {
	if c.setup == 0 {
		c.setup = uint32(min((now-c.began)/time.Millisecond, math.MaxUint32-1)) + 1
	}
}

func (c *Call) setupLocked() time.Duration {
	return time.Duration(max(c.setup, 1)-1) * time.Millisecond
}

// askedLocked is what the INVITE said of the session timer, as far as a 2xx needs it.
func (c *Call) askedLocked() timers.Ask { return timers.Ask{Supported: c.supports, HasSE: c.hasSE} }

func (c *Call) callerTagLocked() []byte {
	return c.first.texts.get(fromText)[c.tagAt : c.tagAt+c.tagLen]
}

// dialogLocked finds or makes the dialog of a response by its To tag; isAnswer: a 2xx.
// It is nil when there is no place for one more.
func (c *Call) dialogLocked(m *wire.Msg, isAnswer bool, now time.Duration) *Dialog {
	d, key := c.knownLocked(m)
	if d != nil && isAnswer && d.answered != 0 && c.answered == 0 {
		// Two targets with one tag: that of the other one was refused, this one is talked to.
		d.key, d = 0, nil
	}
	if d != nil && (d.state != over || d.answered != 0) {
		return d
	}
	c.reviveLocked()
	if d == nil {
		if d = &c.first; d.state != none {
			d = c.forkLocked(isAnswer, now)
		}
	}
	if d != nil {
		d.beginLocked(key)
	}
	return d
}

// knownLocked finds the dialog of a response, and its key.
func (c *Call) knownLocked(m *wire.Msg) (*Dialog, uint64) {
	key := c.store.keyOf(c.first.texts.get(callID), c.callerTagLocked(), m.Bytes(m.To.Tag))
	for d := range c.dialogs {
		if d.key == key && d.state != none {
			return d, key
		}
	}
	return nil, key
}

func (d *Dialog) beginLocked(key uint64) {
	d.key, d.state, d.rare = key, early, nil
	d.call.store.index(key, d.call.id)
}

// forkLocked makes room for one more dialog: the oldest one that is not answered
// gives way above the bound (spec E.2). An answer has its place whatever max_dialogs
// says, and the first one whatever the number of dialogs: a call that nobody follows
// would never end.
func (c *Call) forkLocked(isAnswer bool, now time.Duration) *Dialog {
	hasRoom := 1+len(c.forks()) < max(c.policy.MaxEarly, 1) && c.store.grow(isAnswer)
	if !hasRoom && !c.dropOldestLocked(now) {
		if !isAnswer || c.answered != 0 {
			return nil
		}
		c.store.count.Add(1)
	}
	f := &c.first
	d := &Dialog{call: c, texts: f.texts}
	d.texts.put(textChange{ruriText, f.texts.ruri()}, textChange{toText, nil}, textChange{contactB, nil}, textChange{routesB, nil})
	d.seq[A] = StartedAt(c.invite)
	d.leg[A] = leg{allow: c.store.names.share(f.leg[A].allow), supported: c.store.names.share(f.leg[A].supported), updates: f.leg[A].updates}
	d.media = f.media.Fork() // the caller's offer is made to every callee
	c.addFork(d)
	return d
}

// dropOldestLocked makes a place among more; first stays, it has the caller's offer.
func (c *Call) dropOldestLocked(now time.Duration) bool {
	oldest := -1
	for i, d := range c.forks() { // in the order of their beginning
		if d.state == early || d.state == over {
			oldest = i
			break
		}
	}
	if oldest < 0 {
		return false
	}
	c.forgetLocked((*c.more)[oldest], now)
	(*c.more)[oldest].releaseLocked()
	*c.more = slices.Delete(*c.more, oldest, oldest+1)
	return true
}

// forgetLocked ends a dialog without a word to anybody.
func (c *Call) forgetLocked(d *Dialog, now time.Duration) {
	if d.state == none || d.state == over {
		d.state = over
		return
	}
	var until time.Duration
	if d.answered != 0 && d.reason != StateDropped {
		until = now + c.linger()
	}
	c.store.unindex(d.key, c.id, now, until)
	d.state = over
	d.media = Media{}
}

// linger is 64*T1.
func (c *Call) linger() time.Duration { return 64 * c.policy.T1 }

// settleLocked ends what is over and arms the timer for what comes next. Call it
// after every change.
func (c *Call) settleLocked(fx *Effects, now time.Duration) {
	if c.done {
		return
	}
	due, isOver, isLive := time.Duration(0), true, false
	for d := range c.dialogs {
		if d.state == over {
			continue
		}
		isOver = false
		isLive = isLive || d.state != terminating && d.state != early
		d.watchLocked(now)
		due = timers.Sooner(due, d.dueLocked())
	}
	if !isLive && c.answered != 0 {
		c.reportLocked(fx, c.lastLocked(), 200)
	}
	if isOver {
		c.removeLocked()
		return
	}
	c.pruneLocked(now)
	// A deadline that moved away is not moved in the wheel: it comes, finds nothing to
	// do and sets the next one.
	due = timers.Coarse(due, now)
	switch {
	case due == 0 && c.armed != 0:
		c.armed = 0
		c.store.Wheel.Stop(&c.timer)
	case due != 0 && (c.armed == 0 || due < c.armed):
		c.armed = due
		c.store.Wheel.Set(&c.timer, c, due)
	}
	c.markLocked()
}

// pruneLocked lets go of further dialogs that are over, as soon as no 2xx can come
// any more that would make them anew.
func (c *Call) pruneLocked(now time.Duration) {
	if c.more == nil || c.answered == 0 || now < c.answered+c.linger()+earlyGrace {
		return
	}
	n := len(*c.more)
	*c.more = slices.DeleteFunc(*c.more, func(d *Dialog) bool {
		if d.state == over {
			d.releaseLocked()
		}
		return d.state == over
	})
	c.store.count.Add(int64(len(*c.more) - n))
}

// lastLocked is the dialog that ended last: the call's end is its end. Answers that were not taken are none of it.
func (c *Call) lastLocked() *Dialog {
	last := &c.first
	for d := range c.dialogs {
		if d.isTaken() && (!last.isTaken() || d.ended > last.ended) {
			last = d
		}
	}
	return last
}

// reportLocked emits the one record of the call.
func (c *Call) reportLocked(fx *Effects, d *Dialog, status int) {
	if c.reported {
		return
	}
	c.reported = true
	if d.reason == NoReason { // a challenge: the call goes on with the next INVITE
		c.store.stats.abandoned()
		return
	}
	e := Ended{
		CallID: d.texts.get(callID), From: d.texts.get(fromText), To: d.texts.get(toText), RURI: d.texts.ruri(),
		Source: c.source.flow().unpack(), Backend: c.backend, Began: c.began, Answered: c.answered, At: d.ended, Setup: c.setupLocked(),
		Status: status, By: d.by, Reason: d.reason, Mode: d.modeNow(),
	}
	if c.answered != 0 {
		e.Verified = min(d.leg[A].proof, d.leg[B].proof)
	}
	fx.Ended = append(fx.Ended, e)
	c.store.stats.ended(&e)
	c.leaveLocked()
}

// removeLocked takes the call out of the store.
func (c *Call) removeLocked() {
	c.done = true
	c.armed = 0
	c.leaveLocked()
	at := c.outside
	c.outsideLocked(flow{})
	c.outside = at // should an answer come all the same
	for d := range c.dialogs {
		d.releaseLocked()
	}
	c.store.Wheel.Stop(&c.timer)
	c.store.count.Add(-int64(len(c.forks())))
	c.store.remove(c)
	if c.saved {
		c.store.changes.forget(c.id)
	}
}

// Expire hands the call to the store's Due.
func (c *Call) Expire(_ *timers.Timer, now time.Duration) { c.store.Options.Due(c, now) }
