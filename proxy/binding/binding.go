package binding

import (
	"net/netip"
	"time"

	"github.com/sipward/sipward/proxy/wire"
)

// ID names a binding. The caller makes it, before the registrar has answered, because our tokens carry it: the same for
// each REGISTER of the same contact, never 0, and such that nobody outside can choose it (a keyed hash).
type ID uint64

// Flow is the way to a phone: the socket or connection of ours and the address behind it (RFC 5626 3.3).
type Flow struct {
	Proto    wire.Proto
	Listener uint8
	Remote   netip.AddrPort
	Conn     uint64 // 0: UDP
}

// Binding is one registered contact. It is a copy: nobody else has it.
//
// Times are those of the wheel's clock; 0 is never.
type Binding struct {
	ID       ID
	AoR      string // user@host, host in lower case
	Contact  string // the URI as the phone wrote it
	Shown    string // the URI that the registrar keeps in contact mode, else ""
	UA       string
	Instance string // +sip.instance
	RegID    uint32
	Flow     Flow
	Local    netip.Addr
	Backend  uint32 // node that took the registration
	NATed    bool   // the flow is to be pinged
	Proven   bool   // the phone showed a password, or that it is where it says
	Expires  time.Duration
	CallID   string // of the REGISTER
	CSeq     uint32
	Asked    time.Duration // when the REGISTER came; 0: not known
	Instead  ID            // the binding whose place this one takes; see [Table.Predecessor]

	// What follows is kept by the table; Learn does not read it.

	Since     time.Duration // first REGISTER
	Refreshed time.Duration // last one
	Former    Flow          // the flow before this one; zero: none
	Returned  uint16        // how often it was back on a flow that it had left
	Closed    time.Duration // when its connection ended
	// Of the flow, which other bindings may share.
	Ponged time.Duration // last answer to a ping
	Missed int           // pings without an answer, in a row
	Pings  uint64        // sent
	RTT    time.Duration // of the last ping that was answered
}

// Bounds of what a phone may make us keep, in bytes.
const (
	MaxAoR      = 256
	MaxContact  = 512 // also of Shown
	MaxUA       = 128 // what is longer is cut
	MaxInstance = 128
	MaxCallID   = 256
)

// Outcome is what became of a binding that was to be learned.
type Outcome uint8

// The outcomes of [Table.Learn].
const (
	Added     Outcome = iota
	Refreshed         // over the same flow
	Moved             // refreshed over another flow
	Full              // no room, or a text that is too long
	Old               // of a REGISTER that is not newer than the one known
)

func (o Outcome) String() string {
	switch o {
	case Added:
		return "added"
	case Refreshed:
		return "refreshed"
	case Moved:
		return "moved"
	case Full:
		return "full"
	case Old:
		return "old"
	}
	return "unknown"
}

// Reason is why a binding is gone.
type Reason uint8

// The reasons that [Options.Gone] is told.
const (
	Expired Reason = iota // not refreshed in time
	Lost                  // its connection ended, and the phone did not come back in time
)

func (r Reason) String() string {
	switch r {
	case Expired:
		return "expired"
	case Lost:
		return "lost"
	}
	return "unknown"
}
