package proxy

import (
	"net/netip"
	"sync"
	"time"

	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// An ownRequest is a client transaction of the edge itself (RFC 3261 17.1, RFC
// 6026), for any method but ACK and CANCEL. Fill in the first block and start it.
//
// The callbacks run without any lock. What they queue in w is flushed by whoever
// brought the event; they must not flush themselves, nor write to w.msg.
type ownRequest struct {
	edge *Edge
	snap *snapshot
	flow transport.Flow
	// answered is called once, with the final result: the status of the response in
	// w.msg, or 0 with w.msg undefined for silence (timer B or F, the deadline) or,
	// with failed, for a transport error.
	answered func(w *scratch, status int, failed bool, now time.Duration)
	// ack builds the ACK for the 2xx to an INVITE in w.msg (13.2.2.4); it is called
	// once, before answered, also for a 2xx that comes after answered was told of
	// silence. What it returns may lie in w.
	ack      func(w *scratch) []byte
	deadline time.Duration // for the result, 0 = none but B, C and F

	slot   transaction.Slot
	method wire.Method

	mu     sync.Mutex // guards what follows
	timer  timers.Timer
	client transaction.Machine
	cancel *cancelLeg    // the CANCEL for it
	out    []byte        // the request as sent; nil when no longer needed
	acked  []byte        // the ACK of the 2xx, for every copy of it
	late   time.Duration // until when a final response to a given up INVITE is acknowledged, 0 = not
	held   int           // bytes of stored messages, as counted in Edge.held
	acking bool          // ack was called, or is about to be
	told   bool          // answered was called, or is about to be
	quits  bool          // to be cancelled as soon as a provisional comes (9.1)
	done   bool          // out of every table
	panics uint8
}

// A verdict is what a step under the lock leaves to be done without it.
type verdict struct {
	tell   bool // call answered
	status int
	failed bool
	ack    bool // call ack
}

// start takes a slot of the table, has build write the message around the Via line
// that it is given, and queues it in w; a failure to send it is the request's. It is
// false when the table is full. build runs without any lock.
func (r *ownRequest) start(w *scratch, method wire.Method, now time.Duration, build func(dst, via []byte) []byte) bool {
	slot, ok := r.edge.table.Bare(r, r.edge.table.Cap()/8) // a full table must not keep a call from its BYE
	if !ok {
		return false
	}
	r.slot, r.method = slot, method
	started := false
	defer func() {
		if !started { // a panic: nobody else would give the slot back
			r.drop()
		}
	}()
	out := build(make([]byte, 0, 1024), r.appendVia(nil, requestVia))
	r.begin(out, now)
	w.sendFor(r.flow, out, r, 0)
	started = true
	return true
}

func (r *ownRequest) begin(out []byte, now time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	kind := transaction.NonInviteClient
	if r.method == wire.INVITE {
		kind = transaction.InviteClient
	}
	r.out = out
	r.client = transaction.NewMachine(kind, r.reliable())
	t := r.times()
	r.client.Step(transaction.Start, now, &t)
	if conn := r.flow.Conn(); conn != nil {
		r.edge.onConn.add(conn.ID(), r)
	}
	r.settleLocked(now)
}

func (r *ownRequest) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgetLocked()
}

// What a Via of ours stands on, so that their branches differ.
const (
	requestVia uint32 = iota
	ackVia            // the ACK for a 2xx is a transaction of its own (17.1.1.3)
)

// appendVia appends a whole Via line.
func (r *ownRequest) appendVia(dst []byte, what uint32) []byte {
	return r.edge.appendVia(dst, r.snap, r.flow, transaction.Branch{Slot: r.slot, Leg: transaction.OwnLeg, Loop: what})
}

// appendVia appends the Via line of a request of our own.
func (e *Edge) appendVia(dst []byte, snap *snapshot, f transport.Flow, branch transaction.Branch) []byte {
	by := e.sentBy(snap, f)
	dst = append(append(append(dst, "Via: SIP/2.0/"...), by.proto.String()...), ' ')
	dst = append(by.append(dst), ";rport;branch="...)
	dst = e.key.Append(dst, branch)
	return append(dst, "\r\n"...)
}

func (r *ownRequest) reliable() bool { return r.flow.Proto().Reliable() }

// times are those of the snapshot, but for C: no person has to be waited for.
func (r *ownRequest) times() transaction.Times {
	t := r.snap.times
	t.C = r.linger()
	return t
}

func (r *ownRequest) linger() time.Duration { return 64 * r.snap.times.T1 }

// run is the way in of all that happens to the request: a step under the lock, then
// what that leaves to be done.
func (r *ownRequest) run(w *scratch, now time.Duration, step func(*ownRequest, *scratch, time.Duration, *verdict)) {
	var v verdict
	defer r.conclude(w, &v, now) // also after a panic: somebody waits for the result
	r.mu.Lock()
	defer r.unlock(&v)
	if r.done {
		return
	}
	step(r, w, now, &v)
	r.settleLocked(now)
}

func (r *ownRequest) conclude(w *scratch, v *verdict, now time.Duration) {
	if v.tell {
		defer r.answered(w, v.status, v.failed, now) // the ACK is first, but the result does not hang on it
	}
	if v.ack && r.ack != nil {
		r.acknowledge(w, r.ack(w), now)
	}
}

// acknowledge sends the ACK for a 2xx and keeps it for the copies of that.
func (r *ownRequest) acknowledge(w *scratch, ack []byte, now time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done || len(ack) == 0 {
		return
	}
	r.acked = append([]byte(nil), ack...)
	w.send(r.flow, r.acked)
	r.settleLocked(now)
}

// tellLocked has the result told, unless it was.
func (r *ownRequest) tellLocked(v *verdict, status int, failed bool) {
	if !r.told {
		r.told = true
		v.tell, v.status, v.failed = true, status, failed
	}
}

// response takes the response in w.msg.
func (r *ownRequest) response(w *scratch, _ transaction.Branch, now time.Duration) (asked bool) {
	r.run(w, now, func(r *ownRequest, w *scratch, now time.Duration, v *verdict) {
		of := w.msg.CSeqMethodID
		asked = of == r.method || of == wire.CANCEL && r.cancel != nil
		r.responseLocked(w, now, v)
	})
	return asked
}

func (r *ownRequest) responseLocked(w *scratch, now time.Duration, v *verdict) {
	m := &w.msg
	t := r.times()
	if m.CSeqMethodID == wire.CANCEL && r.cancel != nil {
		r.cancel.client.Step(transaction.Response(m.Status), now, &t)
		return
	}
	if m.CSeqMethodID != r.method {
		return
	}
	if m.Status < 200 {
		// Every 1xx counts as a 100: it starts C but does not extend it, which would
		// be up to the peer for ever.
		r.client.Step(transaction.Provisional100, now, &t)
		if r.quits {
			r.cancelLocked(w, now)
		}
		return
	}
	eff := r.client.Step(transaction.Response(m.Status), now, &t)
	r.cancel = nil // it has nothing to end any more
	switch {
	case r.method != wire.INVITE:
		// Without K: a copy of the answer is a stray, as much as it was one.
		r.tellLocked(v, m.Status, false)
		r.forgetLocked()
	case m.Status < 300:
		if eff&transaction.PassUp != 0 || r.late != 0 {
			r.successLocked(w, now, v)
		}
	default:
		if (eff&transaction.SendAck != 0 || r.late != 0) && r.out != nil {
			w.send(r.flow, w.ackFor(&leg{flow: r.flow, out: r.out}))
		}
		if eff&transaction.PassUp != 0 {
			r.tellLocked(v, m.Status, false)
		}
	}
}

// successLocked has every 2xx acknowledged, every time with the same ACK.
func (r *ownRequest) successLocked(w *scratch, now time.Duration, v *verdict) {
	r.out = nil
	switch {
	case !r.acking:
		if r.late != 0 {
			r.late = now + r.linger() // as M
		}
		r.acking, v.ack = true, true
		r.tellLocked(v, w.msg.Status, false)
	case r.acked != nil:
		w.send(r.flow, r.acked)
	}
}

// connClosed fails it, and nothing more can be said there.
func (r *ownRequest) connClosed(w *scratch, _ *transport.Conn, now time.Duration) {
	r.run(w, now, (*ownRequest).closedLocked)
}

func (r *ownRequest) closedLocked(_ *scratch, _ time.Duration, v *verdict) {
	r.tellLocked(v, 0, true)
	r.forgetLocked()
}

// unreachable fails it, unless it has its result.
func (r *ownRequest) unreachable(w *scratch, _ transaction.Branch, to netip.AddrPort) {
	if r.flow.Remote() == to {
		r.sendFailed(w, 0)
	}
}

// sendFailed is a transport error of the request (17.1.4).
func (r *ownRequest) sendFailed(w *scratch, _ int) {
	r.run(w, r.edge.wheel.Now(), (*ownRequest).failedLocked)
}

func (r *ownRequest) failedLocked(_ *scratch, _ time.Duration, v *verdict) {
	if !r.told { // else it stays to acknowledge copies; ICMP can be forged
		r.tellLocked(v, 0, true)
		r.forgetLocked()
	}
}

// Expire is a due time of the request or of its CANCEL.
func (r *ownRequest) Expire(_ *timers.Timer, now time.Duration) {
	w := r.edge.scratch()
	defer r.edge.release(w)
	r.run(w, now, (*ownRequest).tickLocked)
	w.flush()
}

func (r *ownRequest) tickLocked(w *scratch, now time.Duration, v *verdict) {
	if r.deadline != 0 && now >= r.deadline && !r.told {
		r.giveUpLocked(w, now, v)
		if r.done {
			return
		}
	}
	t := r.times()
	if c := r.cancel; c != nil && c.client.Step(transaction.Tick, now, &t)&transaction.Send != 0 {
		w.send(r.flow, c.out)
	}
	if r.late != 0 && now >= r.late {
		r.late = 0
	}
	eff := r.client.Step(transaction.Tick, now, &t)
	switch {
	case eff&transaction.TimedOut != 0:
		r.tellLocked(v, 0, false)
		if r.method == wire.INVITE {
			// Without an ACK the peer would end the call that its 2xx was about.
			r.late = now + r.linger()
		}
	case eff&transaction.CFired != 0: // C.4: a 1xx, then nothing
		r.cancelLocked(w, now)
	case eff&transaction.Send != 0:
		r.edge.count.retransmitted.Add(1)
		w.sendFor(r.flow, r.out, r, 0)
	}
}

// giveUpLocked is the deadline. An INVITE cannot be dropped: it is cancelled, and a
// 2xx that comes all the same is acknowledged.
func (r *ownRequest) giveUpLocked(w *scratch, now time.Duration, v *verdict) {
	r.tellLocked(v, 0, false)
	if r.method != wire.INVITE {
		r.forgetLocked()
		return
	}
	r.client.Quiet()
	r.quits = true
	r.cancelLocked(w, now)
}

// cancelLocked sends the CANCEL, if a provisional response has come (9.1).
func (r *ownRequest) cancelLocked(w *scratch, now time.Duration) {
	if r.cancel != nil || r.client.State() != transaction.Proceeding {
		return
	}
	t := r.times()
	w.again.Scan(r.out, r.reliable())
	c := &cancelLeg{
		client: transaction.NewMachine(transaction.NonInviteClient, r.reliable()),
		out:    appendHopRequest(make([]byte, 0, 512), &w.again, "CANCEL", w.again.Bytes(w.headerLine(&w.again, wire.KindTo)), ""),
	}
	c.client.Step(transaction.Start, now, &t)
	r.client.Step(transaction.Cancelled, now, &t)
	r.cancel = c
	w.send(r.flow, c.out)
}

// quit forgets a request whose result nobody needs any more. It is not for an INVITE.
func (r *ownRequest) quit() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = true
	r.forgetLocked()
}

// settleLocked arms the timer, or forgets the request when nothing is due any more.
// Call it after every change.
func (r *ownRequest) settleLocked(now time.Duration) {
	if r.done {
		return
	}
	due := timers.Sooner(r.client.Due(), r.late)
	if r.cancel != nil {
		due = timers.Sooner(due, r.cancel.client.Due())
	}
	if due == 0 {
		r.forgetLocked()
		return
	}
	n := len(r.out) + len(r.acked)
	if r.cancel != nil {
		n += len(r.cancel.out)
	}
	r.edge.held.Add(int64(n - r.held))
	r.held = n
	if r.told {
		due = timers.Coarse(due, now)
	} else {
		due = timers.Sooner(due, r.deadline)
	}
	r.edge.wheel.Set(&r.timer, r, due)
}

// forgetLocked takes it out of every table.
func (r *ownRequest) forgetLocked() {
	if r.done {
		return
	}
	r.done = true
	e := r.edge
	e.held.Add(int64(-r.held))
	r.held, r.out, r.acked, r.cancel = 0, nil, nil, nil
	e.wheel.Stop(&r.timer)
	e.table.Remove("", r.slot)
	if conn := r.flow.Conn(); conn != nil {
		e.onConn.remove(conn.ID(), r)
	}
}

// unlock ends a step; defer it. After a panic the timer is armed anew, or, if it
// happens again and again, the request has failed: it must not stay for ever.
func (r *ownRequest) unlock(v *verdict) {
	defer r.mu.Unlock()
	if p := recover(); p != nil {
		if r.panics++; r.panics > maxPanics {
			r.tellLocked(v, 0, true)
			r.forgetLocked()
		}
		r.settleLocked(r.edge.wheel.Now())
		panic(p)
	}
}
