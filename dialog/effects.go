package dialog

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// Effects are what is to be done after an event, without any lock. Events append
// to it; who acts on it empties it.
type Effects struct {
	Acts  []Act
	Ended []Ended
	Notes []Note
	Stops []func() // requests of ours whose result nobody needs any more
}

// Empty says whether there is nothing to do.
func (fx *Effects) Empty() bool { return len(fx.Acts)+len(fx.Ended)+len(fx.Notes)+len(fx.Stops) == 0 }

// Reset empties it and keeps its buffers.
func (fx *Effects) Reset() {
	clear(fx.Acts)
	clear(fx.Ended)
	clear(fx.Notes)
	clear(fx.Stops)
	fx.Acts, fx.Ended, fx.Notes, fx.Stops = fx.Acts[:0], fx.Ended[:0], fx.Notes[:0], fx.Stops[:0]
}

// An Act is one request of the edge itself to send into a dialog. Its CSeq number
// is spent: tell what became of it by Ref.Done, also when it could not be sent.
type Act struct {
	Draft
	Ref    Ref // of the leg that the edge speaks for; Ref.From.Peer gets the request
	Method wire.Method
	Probe  timers.ProbeMethod // how it probes, ProbeNone for a BYE
	Place  Place

	number uint32 // of an INVITE
	mends  Body   // of a re-INVITE that tells a leg what the other one answered; else none
}

// actLocked asks for a request to a leg.
func (d *Dialog) actLocked(fx *Effects, l Leg, a Act) {
	a.Ref, a.Place = Ref{d: d, key: d.key, From: l.Peer()}, d.placeLocked(l)
	fx.Acts = append(fx.Acts, a)
}

// noteLocked tells the operator of a leg; status is of the response that is the
// reason, 0 = none.
func (d *Dialog) noteLocked(fx *Effects, k NoteKind, l Leg, status int) {
	fx.Notes = append(fx.Notes, Note{Kind: k, CallID: d.texts.get(callID), Leg: l, Status: status})
}

// To is the leg that gets the request.
func (a *Act) To() Leg { return a.Ref.From.Peer() }

// A Draft is an in-dialog request but for its Via.
type Draft struct {
	Line []byte // start line
	Rest []byte // the header fields after Via, and the body
	Next []byte // URI of the next hop: the first Route, or the Request-URI
}

// Append puts the request together around a Via line.
func (d *Draft) Append(dst, via []byte) []byte {
	return append(append(append(dst, d.Line...), via...), d.Rest...)
}

// A Place is where one leg of a call is, as the proxy told it.
type Place struct {
	Outside bool          // the leg is the outside party: reached over Flow
	Flow    Flow          // of the outside party
	Backend uint32        // ID of the call's backend, 0 = none
	Began   time.Duration // when the call began
}

// A Flow is a socket's or connection's peer.
type Flow struct {
	Proto    wire.Proto
	Listener uint8
	Remote   netip.AddrPort
	Conn     uint64 // streams only
}

// flow is a Flow in 32 bytes.
type flow struct {
	conn     uint64
	addr     [16]byte
	port     uint16
	proto    wire.Proto
	listener uint8
	isSet    bool
}

// origin is where a call came from, for its record.
type origin struct {
	addr  [16]byte
	port  uint16
	proto wire.Proto
}

func (f flow) origin() origin { return origin{f.addr, f.port, f.proto} }

func (o origin) flow() flow { return flow{addr: o.addr, port: o.port, proto: o.proto, isSet: true} }

func packFlow(f Flow) flow {
	return flow{conn: f.Conn, addr: f.Remote.Addr().As16(), port: f.Remote.Port(), proto: f.Proto, listener: f.Listener, isSet: true}
}

func (f flow) unpack() Flow {
	a := netip.AddrFrom16(f.addr).Unmap()
	return Flow{Proto: f.proto, Listener: f.listener, Remote: netip.AddrPortFrom(a, f.port), Conn: f.conn}
}

// Reason says why a call ended: a closed list, whose words stand in call records.
type Reason uint8

const (
	NoReason        Reason = iota
	ByBYE                  // one of the two hung up
	ByCancel               // the caller gave up before the answer
	Rejected               // a final response other than 2xx
	TimedOut               // nobody answered in time (timers B, C)
	RangTooLong            // max_ring_duration
	SessionTTL             // no proof of life for session_ttl
	NoTimerDuration        // no_timer_call_duration
	MaxDuration            // max_call_duration
	AckMissing             // ack_timeout, and the dialog is dead
	Admin                  // an operator ended it
	DialogGone             // a leg answered that it knows no such dialog
	SessionExpired         // on_se_expiry: bye
	StateDropped           // on_se_expiry: drop_state
	Failed                 // no place for it in a table, or our own fault
	Reasons                // how many there are
)

var reasonWords = [Reasons]string{
	"", "bye", "cancel", "rejected", "timeout", "max_ring_duration", "session_ttl", "no_timer_call_duration",
	"max_call_duration", "ack_missing", "admin", "dialog_gone", "session_expired", "state_dropped", "failed",
}

func (r Reason) String() string {
	if r < Reasons {
		return reasonWords[r]
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

// Enders are who ends a call.
type Ender uint8

const (
	Nobody Ender = iota
	Caller
	Callee
	Edge
)

func (e Ender) String() string { return [...]string{"none", "caller", "callee", "edge"}[e&3] }

func enderOf(l Leg) Ender {
	if l == A {
		return Caller
	}
	return Callee
}

// Ended is the record of a call that is over. Its texts are the call's, unchanged.
type Ended struct {
	CallID, From, To, RURI []byte // To with the callee's tag if there was one
	Source                 Flow   // of the caller
	Backend                uint32
	Began, Answered, At    time.Duration // on the wheel's clock; Answered 0: never
	Setup                  time.Duration // from the INVITE to the first 18x or final response
	Status                 int           // final one of the INVITE, 0 = none
	By                     Ender
	Reason                 Reason
	Mode                   timers.Mode
	Verified               time.Duration // last proof that both legs live, 0 = none
}

// Duration is how long the call was answered.
func (e *Ended) Duration() time.Duration {
	if e.Answered == 0 {
		return 0
	}
	return e.At - e.Answered
}

// A Note is something that an operator has to know of a call.
type Note struct {
	Kind   NoteKind
	CallID []byte
	Leg    Leg
	Status int
}

// NoteKind says what a Note is about.
type NoteKind uint8

const (
	// Challenged: the leg asked for credentials that a proxy cannot have. The call
	// goes on, capped by no_timer_call_duration.
	Challenged NoteKind = iota
	// ByeChallenged: the same to a BYE. The edge forgets the call; the leg may not.
	ByeChallenged
	// Diverged: a leg answered a re-INVITE with other media, which the other leg
	// could not be told of.
	Diverged
	// Untracked: a leg's header fields are too long to be kept: it cannot be sent
	// requests of our own.
	Untracked
	// Exhausted: the CSeq numbers of a direction are used up.
	Exhausted
	// Unacknowledged: no ACK came for a call whose legs live.
	Unacknowledged
)
