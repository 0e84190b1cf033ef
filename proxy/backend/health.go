package backend

import (
	"fmt"
	"time"

	"github.com/sipward/sipward/config"
)

// Numbers we chose.
const (
	// maxHold caps Retry-After: values of minutes are common and would take a
	// whole pool out.
	maxHold = 30 * time.Second
	// defaultHold is for a 503 without Retry-After. RFC 3261 section 21.5.4
	// treats it as a 500, so it may concern one destination only: long enough
	// to let a full node breathe, short enough to be wrong about it.
	defaultHold = 5 * time.Second
	minHold     = time.Second
	// blindHold is how long a backend that missed too often stays down when
	// there are no probes to find out that it is back.
	blindHold = 30 * time.Second
)

// health is what is known of one backend. It is an immutable value; the steps
// below return the next one, and the same one when nothing is new.
type health struct {
	dead      bool          // too many misses; ends by answers
	held      time.Duration // down until then, whatever else; 0 = never was held
	misses    [2]int        // in a row, by Source; kept at 0 while dead
	answers   int           // in a row while dead
	recovered time.Duration // when dead ended last
	returned  bool          // recovered is valid
	since     time.Duration // of the last Change
	told      State         // what the last Change said
	why       string        // its reason
}

// rules are the parts of the configuration that health depends on.
type rules struct {
	active, passive    bool
	downAfter, upAfter int
}

func rulesOf(c config.Probe) rules {
	return rules{
		active: c.Interval > 0, passive: c.Passive,
		downAfter: max(c.DownAfter, 1), upAfter: max(c.UpAfter, 1),
	}
}

// heeds reports whether an observation counts at all.
func (r rules) heeds(src Source) bool { return src == Probe || r.passive }

func (h health) down(now time.Duration) bool { return h.dead || now < h.held }

// well reports whether an answer changes nothing.
func (h *health) well() bool { return !h.dead && h.told == Up && h.misses == [2]int{} }

// alive is the step for a final response other than 503.
func (h health) alive(r rules, src Source, now time.Duration) health {
	h.misses[src] = 0
	if src == Traffic {
		h.misses[Probe] = 0
	}
	if !h.dead {
		return h.settled(now)
	}
	h.answers++
	if h.answers < r.upAfter {
		return h
	}
	h.dead, h.answers, h.misses = false, 0, [2]int{}
	h.recovered, h.returned = now, true
	if now < h.held {
		return h // told when the hold is over
	}
	return h.tell(Up, plural(r.upAfter, "answer")+" in a row", now)
}

// miss is the step for a request that got no answer.
func (h health) miss(r rules, src Source, now time.Duration) health {
	h = h.settled(now)
	h.answers = 0
	// What was sent before the backend went down says nothing new.
	if h.dead || (!r.active && now < h.held) {
		return h
	}
	h.misses[src]++
	if h.misses[src] < r.downAfter {
		return h
	}
	reason := plural(h.misses[src], src.String()) + " without answer"
	if !r.active {
		h.misses[src] = r.downAfter - 1
		h.held = now + blindHold
		return h.tell(Down, fmt.Sprintf("%s, held for %s", reason, blindHold), now)
	}
	h.dead, h.misses = true, [2]int{}
	return h.tell(Down, reason, now)
}

// unavailable is the step for a 503.
func (h health) unavailable(src Source, retryAfter, now time.Duration) health {
	h = h.settled(now)
	hold := defaultHold
	if retryAfter > 0 {
		hold = min(max(retryAfter, minHold), maxHold)
	}
	h.held = max(h.held, now+hold)
	// A server that answers is not dead, but it did not say that it is well:
	// the answers in a row begin anew.
	h.answers = 0
	return h.tell(Down, fmt.Sprintf("503 to a %s, held for %s", src, hold), now)
}

// settled tells the end of a hold once it has passed.
func (h health) settled(now time.Duration) health {
	if h.told != Down || h.down(now) {
		return h
	}
	return h.tell(Up, "hold is over", h.held)
}

// tell notes a new state and its reason; the first reason of a state stays.
func (h health) tell(s State, why string, now time.Duration) health {
	if h.told != s {
		h.told, h.why, h.since = s, why, now
	}
	return h
}

// underRules returns h as it is to go on after a reload: without probes nothing
// would ever find out that a dead backend is back, and without any observation
// nothing is known.
func (h health) underRules(r rules, now time.Duration) health {
	if !r.active && !r.passive {
		return health{since: now}
	}
	if h.dead && !r.active {
		h.dead = false
		h.held = max(h.held, now+blindHold)
	}
	return h
}

// share returns which part of its traffic the backend gets while it is up, in
// (0, 1]: from [firstShare] upwards over slowStart after it came back.
func (h health) share(slowStart, now time.Duration) float64 {
	if slowStart <= 0 || (!h.returned && h.held == 0) {
		return 1
	}
	back := h.held
	if h.returned {
		back = max(back, h.recovered)
	}
	if now-back >= slowStart {
		return 1
	}
	return max(firstShare, float64(now-back)/float64(slowStart))
}

// firstShare lets a backend that is back prove itself from the first second.
const firstShare = 0.02

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
