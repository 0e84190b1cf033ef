package timers

import (
	"bytes"
	"fmt"
	"math"
	"time"
)

// defaultMinSE is the Min-SE of a request without one, and the smallest
// Session-Expires that may be offered: RFC 4028 4 and 5.
const defaultMinSE = 90

// Mode says how a call is watched.
type Mode uint8

// The modes.
const (
	ModeNone Mode = iota // no dialog yet
	ModeR                // a session timer runs on a leg at least; probed
	ModeP                // no session timer; probed
	ModeN                // nobody knows of timers; ended by its limits only
)

// String returns the letter of m, "" for ModeNone.
func (m Mode) String() string {
	switch m {
	case ModeNone:
		return ""
	case ModeR:
		return "R"
	case ModeP:
		return "P"
	case ModeN:
		return "N"
	default:
		return fmt.Sprintf("Mode(%d)", uint8(m))
	}
}

// After is the mode once a later session refresh of the call has led to g. It
// only ever rises: a refresh that ends the session timer leaves a call that is
// probed.
func (m Mode) After(g Agreement) Mode {
	if g.SE > 0 {
		return ModeR
	}
	return m
}

// Refresher is the value of the refresher parameter, RFC 4028 4.
type Refresher uint8

// The refreshers. Who is UAC is said by the request that the header field
// belongs to, not by the call.
const (
	RefresherNone Refresher = iota // no such parameter
	RefresherUAC
	RefresherUAS
)

// String returns the value of the parameter, "" for RefresherNone.
func (r Refresher) String() string {
	switch r {
	case RefresherNone:
		return ""
	case RefresherUAC:
		return "uac"
	case RefresherUAS:
		return "uas"
	default:
		return fmt.Sprintf("Refresher(%d)", uint8(r))
	}
}

// ParseSessionExpires reads the value of a Session-Expires header field, RFC
// 4028 4. A value that is no number, 0 or above 2^32-1 is refused. Parameters
// other than refresher, and a refresher that is none, are ignored; of several
// refreshers the first counts.
func ParseSessionExpires(v []byte) (seconds uint32, r Refresher, ok bool) {
	seconds, params, ok := parseSeconds(v)
	if !ok {
		return 0, RefresherNone, false
	}
	var param []byte
	for len(params) > 0 {
		param, params = cutParam(params)
		name, value, _ := bytes.Cut(param, []byte{'='})
		if !bytes.EqualFold(bytes.Trim(name, lws), []byte("refresher")) {
			continue
		}
		switch value = bytes.Trim(value, lws); {
		case bytes.EqualFold(value, []byte("uac")):
			return seconds, RefresherUAC, true
		case bytes.EqualFold(value, []byte("uas")):
			return seconds, RefresherUAS, true
		}
	}
	return seconds, RefresherNone, true
}

// ParseMinSE reads the value of a Min-SE header field, RFC 4028 5, by the
// rules of [ParseSessionExpires].
func ParseMinSE(v []byte) (seconds uint32, ok bool) {
	seconds, _, ok = parseSeconds(v)
	return seconds, ok
}

// lws is the white space that RFC 3261 25.1 allows around the parts of a
// value, the line breaks of a folded one included.
const lws = " \t\r\n"

// parseSeconds reads delta-seconds; rest is what follows the first semicolon.
func parseSeconds(v []byte) (seconds uint32, rest []byte, ok bool) {
	v = bytes.TrimLeft(v, lws)
	var n uint64
	i := 0
	for ; i < len(v) && '0' <= v[i] && v[i] <= '9'; i++ {
		n = n*10 + uint64(v[i]-'0')
		if n > math.MaxUint32 {
			return 0, nil, false
		}
	}
	rest = bytes.TrimLeft(v[i:], lws)
	if n == 0 || len(rest) > 0 && rest[0] != ';' {
		return 0, nil, false
	}
	return uint32(n), bytes.TrimPrefix(rest, []byte{';'}), true
}

// cutParam splits v at the first semicolon outside quotes.
func cutParam(v []byte) (param, rest []byte) {
	quoted := false
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case c == ';' && !quoted:
			return v[:i], v[i+1:]
		}
	}
	return v, nil
}

// Ask is what a session refresh request says: INVITE, re-INVITE or UPDATE.
type Ask struct {
	Supported bool // Supported or Require lists timer
	HasSE     bool // exactly one Session-Expires, and it parses
	BadSE     bool // more than one, or one that does not parse
	SE        uint32
	Refresher Refresher
	HasMinSE  bool
	MinSE     uint32
}

// Duty is what the edge does to such a request before it forwards it, RFC 4028
// 8.1.
type Duty struct {
	Unread bool // its Session-Expires means nothing: it is left alone
	Reject bool // answer 422 with Min-SE: MinSE
	// MinSE is the value of the Min-SE in the 422, or of the one to write into
	// the request when SetMinSE.
	MinSE    uint32
	SetMinSE bool
	SetSE    bool   // write a Session-Expires; a refresher that stands there is kept
	SE       uint32 // its value
	// Forwarded is the Session-Expires of the request as it is forwarded, 0 =
	// none. It is for [Policy.Success].
	Forwarded uint32
}

// Request decides what happens to a session refresh request. learned is the
// Min-SE of an earlier 422 of this call attempt, 0 = none.
func (p *Policy) Request(a Ask, learned uint32) Duty {
	minSE := inSeconds(p.MinSE)
	switch {
	case a.BadSE:
		// What cannot be read is not mended, and a second one not added.
		return Duty{Unread: true}
	case !a.HasSE:
		return p.insert(a, minSE, learned)
	case a.SE >= minSE:
		// RFC 4028 8.1 lets a proxy lower it down to Min-SE. That would only
		// call forth 422s: the edge probes by itself.
		return Duty{Forwarded: a.SE}
	case !a.Supported:
		// RFC 4028 8.1: whoever does not support timer cannot react to a 422,
		// so the interval is raised for it. It must not be below Min-SE then.
		d := Duty{MinSE: max(a.minSE(), minSE), SetSE: true}
		d.SetMinSE = !a.HasMinSE || a.MinSE != d.MinSE
		d.SE, d.Forwarded = d.MinSE, d.MinSE
		return d
	case p.RejectSmall:
		// RFC 4028 8.1: 422 only to those who support timer.
		return Duty{Reject: true, MinSE: minSE}
	default:
		// RFC 4028 8.1: Session-Expires MUST NOT be increased, nor Min-SE
		// touched, when the sender supports timer.
		return Duty{Forwarded: a.SE}
	}
}

// insert decides whether a request without Session-Expires gets one, RFC 4028
// 8.1. It is not below the Min-SE of the request, of the edge and of an earlier
// 422, or the next hop, which may be the edge again, would answer 422 to each
// attempt. It has no refresher: that is for the endpoints to settle.
func (p *Policy) insert(a Ask, minSE, learned uint32) Duty {
	wanted := p.Insert == InsertAlways || p.Insert == InsertIfSupported && a.Supported
	if !wanted || p.TTL <= 0 { // without a TTL there is nothing to propose
		return Duty{}
	}
	se := max(inSeconds(p.TTL), a.minSE(), defaultMinSE, minSE, learned)
	return Duty{SetSE: true, SE: se, Forwarded: se}
}

// minSE is the smallest interval the request accepts.
func (a Ask) minSE() uint32 {
	if a.HasMinSE {
		return a.MinSE
	}
	return defaultMinSE
}

// Reply is what the 2xx to a session refresh request says.
type Reply struct {
	HasSE        bool // exactly one Session-Expires, and it parses
	BadSE        bool // more than one, or one that does not parse
	SE           uint32
	Refresher    Refresher
	Supported    bool // Supported or Require lists timer
	RequireTimer bool // Require does
}

// Agreement is what holds after that 2xx, on each leg as that leg saw it. The
// zero value is a session without expiration.
type Agreement struct {
	// InsertSE is the value of a Session-Expires with refresher=uac to write
	// into the 2xx, and into each copy of it and that of each fork, together
	// with Require: timer. 0: the 2xx is not touched.
	InsertSE uint32
	SE       uint32 // interval of the session, 0 = it does not expire

	// The requester is who sent the request, the responder who sent the 2xx.
	RequesterSE, ResponderSE               uint32 // interval the leg knows of, 0 = none
	RequesterRefreshes, ResponderRefreshes bool   // the leg believes it is the refresher
}

// Success decides what a 2xx to a session refresh request makes of the
// session, RFC 4028 8.2. a is the request as it was received and forwarded
// [Duty.Forwarded]. For a request of the edge itself a says whether it carried
// timer in Supported and forwarded is 0: there is nobody to insert for, and
// only the responder's part counts.
//
// The Agreement replaces that of every earlier 2xx, also by none: a 2xx without
// Session-Expires ends the session timer.
func (p *Policy) Success(a Ask, forwarded uint32, r Reply) Agreement {
	if r.HasSE {
		uac := r.Refresher == RefresherUAC
		if r.Refresher == RefresherNone {
			// RFC 4028 9 demands the parameter. Without it only a requester
			// that supports timer can have been meant.
			uac = a.Supported
		}
		return Agreement{
			SE:                 r.SE,
			RequesterSE:        r.SE,
			ResponderSE:        r.SE,
			RequesterRefreshes: uac,
			ResponderRefreshes: !uac,
		}
	}
	if r.BadSE { // what cannot be read is not mended, and a second one not added
		return Agreement{}
	}
	// RFC 4028 8.2: the responder does not support timer, the requester does
	// and an interval was asked for: the requester refreshes. A responder that
	// demands timer without an interval says that the requester supports it.
	if forwarded > 0 && (a.Supported || r.RequireTimer) {
		return Agreement{
			InsertSE:           forwarded,
			SE:                 forwarded,
			RequesterSE:        forwarded,
			RequesterRefreshes: true,
		}
	}
	return Agreement{}
}

// ModeOf is the mode of the dialog that an INVITE makes, from the INVITE, what
// was done to it, its 2xx and what that led to.
func (p *Policy) ModeOf(a Ask, d Duty, r Reply, g Agreement) Mode {
	hasSE := a.HasSE && !a.BadSE
	supported := a.Supported || r.Supported || r.RequireTimer
	switch {
	case d.Reject:
		return ModeNone
	case g.SE > 0:
		return ModeR
	case p.TTL <= 0:
		return ModeN
	case hasSE || supported && p.Detect == DetectAny:
		return ModeP
	default:
		return ModeN
	}
}

// inSeconds rounds d up to what a header field can say.
func inSeconds(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(min((d-1)/time.Second+1, math.MaxUint32))
}
