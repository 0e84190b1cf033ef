package timers

import (
	"fmt"
	"time"
)

// Class says what an answer to a probe tells about the leg.
type Class uint8

// The classes.
const (
	ClassUnknown        Class = iota // nothing; asked again by [Policy.Retry]
	ClassAlive                       // 2xx: it lives and has refreshed the session
	ClassDead                        // 481: it knows no such dialog; the call ends
	ClassDeadIfRepeated              // the usage or the dialog may be gone; one more probe
	ClassBusy                        // 491: it is changing the session; again after [RetryGlare]
	ClassOverlap                     // 500: the probe met another request; again with a new CSeq
	ClassTooSmall                    // 422: again with its Min-SE
	ClassRefusedMethod               // 405, 501: another method, and this one never again
	ClassRefusedSession              // the session is unchanged; another method once
	ClassWeak                        // 401, 407: something answers for it; never this method again
	Classes                          // how many there are
)

// String returns the word for c in metrics.
func (c Class) String() string {
	switch c {
	case ClassUnknown:
		return "unknown"
	case ClassAlive:
		return "alive"
	case ClassDead:
		return "dead"
	case ClassDeadIfRepeated:
		return "dead_if_repeated"
	case ClassBusy:
		return "busy"
	case ClassOverlap:
		return "overlap"
	case ClassTooSmall:
		return "too_small"
	case ClassRefusedMethod:
		return "refused_method"
	case ClassRefusedSession:
		return "refused_session"
	case ClassWeak:
		return "weak"
	default:
		return fmt.Sprintf("Class(%d)", uint8(c))
	}
}

// Classify says what the final status of a probe means; status 0 is silence or
// a transport error. strict takes only a 2xx for a proof of life and only 481
// for one of death. What the others say about the method, or the interval, is
// true all the same: who wants to act on that classifies again without strict.
//
// With endOn408 a 408 is as good as 481, RFC 3261 12.2.1.2. Silence is not: it
// may be the loss of a few datagrams, or a connection that is to be made anew.
func Classify(status int, strict, endOn408 bool) Class {
	c := classOf(status)
	switch {
	case status == 408 && endOn408:
		return ClassDead
	case strict && c != ClassAlive && c != ClassDead:
		return ClassUnknown
	default:
		return c
	}
}

// classOf is the table of the classes.
func classOf(status int) Class {
	switch status {
	case 481: // RFC 3261 12.2.1.2
		return ClassDead
	case 404, 410, 416, 484, 485, 604: // RFC 5057 5.1: they end the dialog
		return ClassDeadIfRepeated
	case 491: // RFC 3261 14.2
		return ClassBusy
	case 500: // RFC 3261 12.2.2 and 14.2: a CSeq that is too low, an INVITE too early
		return ClassOverlap
	case 422: // RFC 4028 6
		return ClassTooSmall
	case 405, 501: // RFC 3261 8.2.1 and 21.5.2
		return ClassRefusedMethod
	case 400, 403, 406, 415, 420, 488, 493, 606: // RFC 3261 14.1: no change of the session
		return ClassRefusedSession
	case 401, 407: // RFC 3261 22.2 and 22.3
		return ClassWeak
	}
	if status >= 200 && status < 300 {
		return ClassAlive
	}
	return ClassUnknown
}

// After is what c means when prev is the class of the probe of the leg before
// it, as [Classify] gave it. A second 500 in a row is no collision any more,
// and a dialog that is twice said to be gone is gone.
func (c Class) After(prev Class) Class {
	switch {
	case c == ClassOverlap && prev == ClassOverlap:
		return ClassUnknown
	case c == ClassDeadIfRepeated && prev == ClassDeadIfRepeated:
		return ClassDead
	default:
		return c
	}
}

// Proves reports whether an answer of class c proves that the dialog still
// exists at the leg, which moves its deadline. The proof of [ClassWeak] is
// weak: a call with no better one has a limit besides.
func (c Class) Proves() bool {
	switch c {
	case ClassAlive, ClassBusy, ClassOverlap, ClassTooSmall, ClassRefusedMethod, ClassRefusedSession, ClassWeak:
		return true
	default: // ClassUnknown, ClassDead, ClassDeadIfRepeated
		return false
	}
}

// The waits of RFC 3261 14.1, in units of 10 ms.
const (
	glareUnit     = 10 * time.Millisecond
	glareOwnerMin = 210 // whoever chose the Call-ID waits 2.1 to 4 s
	glareOwnerMax = 400
	glareOtherMax = 200 // the other 0 to 2 s
)

// RetryGlare is the wait after a 491, RFC 3261 14.1. Towards the leg that chose
// the Call-ID, the caller, the edge stands for the other one, and vice versa.
// draw is a random number from 0 to 1.
func RetryGlare(towardsCallIDOwner bool, draw float64) time.Duration {
	lo, hi := glareOwnerMin, glareOwnerMax
	if towardsCallIDOwner {
		lo, hi = 0, glareOtherMax
	}
	n := lo + int(draw*float64(hi-lo+1))
	return time.Duration(min(n, hi)) * glareUnit
}
