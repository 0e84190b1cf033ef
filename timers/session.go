package timers

import (
	"fmt"
	"math"
	"time"
)

// Numbers we chose.
const (
	// safeTTL is the smallest session_ttl that is legal outside a lab.
	safeTTL = 90 * time.Second
	// slack is what a probe needs besides its transaction: 2 s, and in a lab,
	// below safeTTL, as much less as the TTL is.
	slack = 2 * time.Second
	// The first wait after a probe without answer is the TTL through
	// retryShare; it doubles retryDoublings times, to TTL/7.5.
	retryShare     = 60
	retryDoublings = 3
)

// transactionT1s is how many T1 a client transaction waits for its final
// response: timers B and F, RFC 3261 17.1.1.2 and 17.1.2.2.
const transactionT1s = 64

// Never is the time of what does not happen. It is later than any deadline.
const Never = time.Duration(math.MaxInt64)

// Insert says in which requests the edge writes a Session-Expires of its own.
type Insert uint8

// The values of insert_se.
const (
	InsertNever       Insert = iota
	InsertIfSupported        // if the sender supports timer
	InsertAlways
)

// String returns the word of the configuration for i.
func (i Insert) String() string {
	switch i {
	case InsertNever:
		return "never"
	case InsertIfSupported:
		return "if_uac_supports"
	case InsertAlways:
		return "always"
	default:
		return fmt.Sprintf("Insert(%d)", uint8(i))
	}
}

// Detect says what makes a call one with timer.
type Detect uint8

// The values of detect.
const (
	DetectAny Detect = iota // any sign of the extension, from either side
	DetectSE                // a Session-Expires
)

// String returns the word of the configuration for d.
func (d Detect) String() string {
	switch d {
	case DetectAny:
		return "any"
	case DetectSE:
		return "session_expires"
	default:
		return fmt.Sprintf("Detect(%d)", uint8(d))
	}
}

// OnExpiry says what follows when a session interval passes unrefreshed.
type OnExpiry uint8

// The values of on_se_expiry.
const (
	ExpiryProbe     OnExpiry = iota // both legs are probed at once
	ExpiryDropState                 // the dialog is forgotten: RFC 4028 8.3 to the letter
	ExpiryBYE                       // both legs are ended
)

// String returns the word of the configuration for e.
func (e OnExpiry) String() string {
	switch e {
	case ExpiryProbe:
		return "probe"
	case ExpiryDropState:
		return "drop_state"
	case ExpiryBYE:
		return "bye"
	default:
		return fmt.Sprintf("OnExpiry(%d)", uint8(e))
	}
}

// ProbeMethod is a way to ask a leg whether it still lives.
type ProbeMethod uint8

// The values of probe_methods.
const (
	ProbeNone         ProbeMethod = iota // the leg cannot be probed
	ProbeUpdate                          // UPDATE without body
	ProbeReinvite                        // re-INVITE with the SDP sent last
	ProbeOptions                         // OPTIONS within the dialog
	ProbeOptionsStale                    // the same with a number that is spent
)

// String returns the word of the configuration for m, "" for ProbeNone.
func (m ProbeMethod) String() string {
	switch m {
	case ProbeNone:
		return ""
	case ProbeUpdate:
		return "update"
	case ProbeReinvite:
		return "reinvite"
	case ProbeOptions:
		return "options"
	case ProbeOptionsStale:
		return "options_stale"
	default:
		return fmt.Sprintf("ProbeMethod(%d)", uint8(m))
	}
}

// Policy is the timers section of the configuration made ready. It is
// immutable: a call keeps the one of its INVITE, so that a reload touches only
// later calls.
type Policy struct {
	TTL         time.Duration // session_ttl: life after a proof of it, 0 = no probing
	Segments    int           // session_update_segment: probes in that time
	EarlyHangup time.Duration // session_timeout_early_hangup
	NoTimerMax  time.Duration // no_timer_call_duration: limit of a call in mode N, 0 = none
	MaxCall     time.Duration // max_call_duration: limit of every call, 0 = none
	MinSE       time.Duration // min_se

	Insert      Insert        // insert_se
	RejectSmall bool          // reject_small_se
	Detect      Detect        // detect
	Methods     []ProbeMethod // probe_methods, the preferred one first
	StrictAlive bool          // alive: 2xx_only

	ProbeA, ProbeB   bool     // probe_legs
	Jitter           float64  // probe_jitter as a share of the interval: 0.1
	OnExpiry         OnExpiry // on_se_expiry
	EndOn408         bool     // on_408: end
	ReinviteWebRTC   bool     // reinvite_webrtc
	NoInjectIdentity bool     // no_inject_if_identity4474

	Ring     time.Duration // max_ring_duration
	AckWait  time.Duration // ack_timeout
	T1       time.Duration // round trip estimate of the transactions, RFC 3261 17.1.1.1
	MaxEarly int           // max_early_per_invite

	// Since is for calls that outlived a restart: what proved life before then counts
	// from then. See Resume.
	Since time.Duration
}

// Interval is the time from a proof of life to the next probe, TTL/Segments.
// It is 0 when there is no probing. A single segment, and an early hangup that
// leaves no more, would put the probe on the deadline. Then it goes two
// transactions before (64 s), or, where T1 is too long for that, after a
// quarter of the time.
func (p *Policy) Interval() time.Duration {
	if p.TTL <= 0 {
		return 0
	}
	life := p.life()
	if p.Segments > 1 {
		if i := p.TTL / time.Duration(p.Segments); i < life {
			return max(i, minTick)
		}
	}
	return max(p.latest(), life/4, minTick)
}

// NextProbe is the time of the probe that follows a proof of life at from: the
// interval later, moved by as much as Jitter says, so that calls which began
// together are not probed together. draw is a random number from 0 to 1. The
// jitter only moves a probe later while two transactions still fit before the
// deadline. Without probing it is [Never].
func (p *Policy) NextProbe(from time.Duration, draw float64) time.Duration {
	i := p.Interval()
	if i == 0 {
		return Never
	}
	spread := time.Duration(p.Jitter * float64(i))
	lo := i - spread
	hi := min(i+spread, max(i, p.latest()))
	return from + lo + time.Duration(draw*float64(hi-lo))
}

// VerifyBy is the time by which a leg whose last proof of life came at proof
// must have given another. Without probing it is [Never].
func (p *Policy) VerifyBy(proof time.Duration) time.Duration {
	if p.TTL <= 0 {
		return Never
	}
	return max(proof, p.Since) + p.life()
}

// Resume is the Since of calls that outlive a restart which ends now. Nobody could
// prove life to an edge that was not there, so each leg has at least half of its time.
func (p *Policy) Resume(now time.Duration) time.Duration { return now - p.life()/2 }

// FirstProbe is the time of the first probe after that restart: within one interval, but
// so that the probe and a retry can run out before the deadline. draw is a random number
// from 0 to 1.
func (p *Policy) FirstProbe(now time.Duration, draw float64) time.Duration {
	room := p.life()/2 - p.attempt() - p.TTL/retryShare
	within := min(p.Interval(), max(room, p.life()/8))
	return now + time.Duration(draw*float64(within))
}

// Retry is the time of the n-th retry, counted from 0, of a probe that has
// failed now: after TTL/60, /30, /15 and /7.5, which is repeated, or after
// what a Retry-After asked for, of which half the time that is left is
// granted: it must not cost the call all its chances. The last one starts when
// its transaction can just run out before the deadline, and so does one that
// the waits would put later: the leg has that chance too. It is false when
// there is no time for another. A lab's TTL may be too small for a whole
// transaction; then retries start until the deadline.
func (p *Policy) Retry(n int, now, after, deadline time.Duration) (at time.Duration, ok bool) {
	if p.TTL <= 0 {
		return 0, false
	}
	last := deadline
	hasRoom := p.hasRoom(p.Interval())
	if hasRoom {
		last -= p.attempt()
	}
	wait := p.TTL / retryShare << min(max(n, 0), retryDoublings)
	at = now + max(wait, minTick, min(after, (last-now)/2))
	if hasRoom && at > last && now < last {
		at = last
	}
	return at, at <= last
}

// life is the time from a proof of life to the deadline of the next.
func (p *Policy) life() time.Duration { return p.TTL - p.EarlyHangup }

// latest is how long after a proof of life two transactions, 64 s, still fit
// before the deadline. It may be negative.
func (p *Policy) latest() time.Duration { return p.life() - 2*transactionT1s*p.T1 }

// attempt is the time a probe may need until it is known to be unanswered.
func (p *Policy) attempt() time.Duration {
	return transactionT1s*p.T1 + min(slack, p.TTL/(safeTTL/slack))
}

// hasRoom reports whether a probe that is sent at the interval can run out
// before the deadline.
func (p *Policy) hasRoom(interval time.Duration) bool {
	return p.life()-interval >= p.attempt()
}
