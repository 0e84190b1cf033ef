// Package timers keeps the many deadlines of a SIP edge on one goroutine, and
// knows what the session timers of RFC 4028 ask of a proxy that ends calls.
//
// # The wheel
//
// A proxy arms several timers for each message and stops or moves nearly all
// of them before they expire (RFC 3261 timers A to K, timer C, session and
// registration lifetimes). So arming, moving and stopping must be cheap, and
// expiring need not be exact. The [Wheel] is a hierarchical timing wheel: 64
// slots a level, each level 64 times as coarse as the one below. A [Timer] is
// a list node that lives in its owner; the wheel never allocates and its
// memory does not grow with the number of armed timers.
//
// Rules:
//
//   - Times are durations since the start of the wheel, as read from
//     [Wheel.Now].
//   - A timer never expires early. It expires late by at most one tick plus
//     what the scheduler and the owners before it in the same tick need.
//   - [Owner.Expire] is called on the wheel's goroutine and without any lock
//     of the wheel, so it may call [Wheel.Set] and [Wheel.Stop]. All owners
//     share that goroutine: Expire must not block.
//   - An expiry is a hint. It may cross a Set or Stop made elsewhere, so an
//     owner compares its own deadline, under its own lock, before it acts.
//   - The goroutine sleeps until the next occupied slot. With nothing armed it
//     does not wake at all.
//
// An owner with one deadline:
//
//	type lease struct {
//		timers.Timer
//		mu  sync.Mutex
//		end time.Duration
//	}
//
//	func (l *lease) Expire(_ *timers.Timer, now time.Duration) {
//		l.mu.Lock()
//		defer l.mu.Unlock()
//		if now < l.end {
//			return // renewed in the meantime; that Set armed the timer again
//		}
//		…
//	}
//
// # Session timers
//
// A [Policy] is the timers section of the configuration. Its methods are
// arithmetic on values: they send nothing and read no clock. They answer three
// questions.
//
// What does the edge do to a session refresh request and to its 2xx, so that a
// session timer runs where an endpoint supports one (RFC 4028 8.1 and 8.2)?
// [Policy.Request] and [Policy.Success] say it, and [Policy.ModeOf] how the
// call is watched from then on:
//
//	duty := policy.Request(ask, learned)
//	if duty.Reject {
//		… // 422 with Min-SE: duty.MinSE
//	}
//	…     // write duty.SE and duty.MinSE as told, forward, receive the 2xx
//	agreement := policy.Success(ask, duty.Forwarded, reply)
//	mode := policy.ModeOf(ask, duty, reply, agreement)
//
// When is a leg probed, again, and by when must it have answered?
// [Policy.NextProbe], [Policy.Retry] and [Policy.VerifyBy].
//
// What does the answer to a probe say of the leg? [Classify].
//
// RFC 4028 8.3 is not followed: there a proxy may forget a session that was not
// refreshed, but not end it. The edge ends it, after its own requests have
// failed to find the leg alive; [ExpiryDropState] is what the RFC says.
package timers
