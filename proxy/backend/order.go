package backend

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"
)

// policy is how a pool chooses.
type policy uint8

const (
	byHash policy = iota
	byTurn
	byWeight
	byPriority
	byCalls
)

// policyOf reads the word of the configuration, which has refused all others.
func policyOf(word string) policy {
	switch word {
	case "round_robin":
		return byTurn
	case "weighted":
		return byWeight
	case "priority":
		return byPriority
	case "least_calls":
		return byCalls
	default:
		return byHash
	}
}

// candidate is a backend that may be tried.
type candidate struct {
	b     *Backend
	class uint64  // lower is first: the tier, whatever the policy says, then priority or calls
	score float64 // then this, higher is first
}

func (c *candidate) tier() uint64 { return c.class >> 32 }

// The tiers. Either the first two occur, or in panic the last two.
const (
	ready   = uint64(iota)
	resting // slow start keeps this request away from it
	held    // down, but it answers: with 503
	silent  // down, no answers
	tiers
)

// lists are reused: Order runs for every new call.
var lists = sync.Pool{New: func() any { return new([]candidate) }}

// Order returns the backends to try for one new call, best first, in dst, which
// is overwritten and grown if needed. key is what keeps calls of one user or
// dialog together, see [Hash]; policies that take turns ignore it. Members
// without targets are in the list too, and so are those over a limit: whoever
// places the call asks [Backend.HasRoom] and [Backend.Admit] and goes on to the
// next, so that a full backend moves its own calls only. The list is empty when
// all members are drained or disabled.
func (p *Pool) Order(dst []*Backend, key uint64, now time.Duration) []*Backend {
	var turn uint64
	if p.policy == byTurn || p.policy == byWeight {
		turn = p.turns.Add(1) - 1
		key = mix(turn + 1)
	}
	list := lists.Get().(*[]candidate)
	c := p.candidates((*list)[:0], key, now)
	p.score(c, key, turn)
	slices.SortFunc(c, before)
	dst = dst[:0]
	for i := range c {
		dst = append(dst, c[i].b)
	}
	clear(c) // keep no backend of an old snapshot alive
	*list = c
	lists.Put(list)
	return dst
}

// candidates appends those that may be tried to c, with their tiers.
func (p *Pool) candidates(c []candidate, key uint64, now time.Duration) []candidate {
	slowStart := p.config.SlowStart.D()
	for _, b := range p.backends {
		h := b.live.health.Load()
		if b.wish() != Up || h.down(now) {
			continue
		}
		tier := ready
		// Not the draw of the choice: both must be independent.
		if share := h.share(slowStart, now); share < 1 && unit(draw(key, ^b.seed)) >= share*p.fairness(b, now) {
			tier = resting
		}
		c = append(c, candidate{b: b, class: tier << 32})
	}
	if len(c) > 0 {
		return c
	}
	for _, b := range p.backends {
		if b.wish() != Up {
			continue
		}
		tier := held
		if b.live.health.Load().dead {
			tier = silent
		}
		c = append(c, candidate{b: b, class: tier << 32})
	}
	return c
}

// fairness is the part of all requests that is the full share of b where its share
// is not made by the draw: with least_calls a backend that is back has the fewest
// calls, and each request that slow start lets through would be its own.
func (p *Pool) fairness(b *Backend, now time.Duration) float64 {
	if p.policy != byCalls {
		return 1
	}
	sum := 0.0
	for _, x := range p.backends {
		if x.State(now) == Up {
			sum += x.weight
		}
	}
	return b.weight / max(sum, b.weight) // b may have gone down just now
}

// score ranks the candidates, which are in the order of the file.
func (p *Pool) score(c []candidate, key, turn uint64) {
	if p.policy == byTurn {
		scoreTurns(c, turn)
		return
	}
	for i := range c {
		c[i].score = p.rendezvous(c[i].b, key)
		switch p.policy {
		case byPriority:
			c[i].class |= uint64(c[i].b.rank)
		case byCalls:
			c[i].class |= uint64(c[i].b.burden())
		}
	}
	if p.policy == byWeight {
		scoreFirst(c, turn)
	}
}

// rendezvous returns the score of b for key. With weights it is w/-ln(u): the
// chance of b to be highest is its part of the sum of weights, and raising a
// weight moves keys to that backend only.
func (p *Pool) rendezvous(b *Backend, key uint64) float64 {
	u := unit(draw(key, b.seed))
	if p.even {
		return u
	}
	return b.weight / -math.Log(u)
}

// burden is the number of calls by weight, as bits that sort as it does: those of
// a float32 that is not negative.
func (b *Backend) burden() uint32 {
	return math.Float32bits(float32(float64(max(b.Calls(), 0)) / b.weight))
}

// scoreTurns lets the candidates of each tier take turns.
func scoreTurns(c []candidate, turn uint64) {
	var size, seen [tiers]uint64
	for i := range c {
		size[c[i].tier()]++
	}
	for i := range c {
		tier := c[i].tier()
		n := size[tier]
		c[i].score = -float64((seen[tier] + n - turn%n) % n)
		seen[tier]++
	}
}

// scoreFirst puts the candidate whose turn it is first. Turns step through the
// sum of the weights by the golden ratio, which visits every part in proportion
// to its size and as evenly as a fixed step can, without state that would have
// to be locked.
func scoreFirst(c []candidate, turn uint64) {
	if len(c) == 0 {
		return
	}
	best := c[0].tier()
	for i := range c {
		best = min(best, c[i].tier())
	}
	sum := 0.0
	for i := range c {
		if c[i].tier() == best {
			sum += c[i].b.weight
		}
	}
	const golden = 0x9e3779b97f4a7c15 // 2^64 / 1.618…
	at := sum * unit(turn*golden)
	for i := range c {
		if c[i].tier() != best {
			continue
		}
		if at -= c[i].b.weight; at < 0 {
			c[i].score = math.Inf(1)
			return
		}
	}
}

func before(a, b candidate) int {
	switch {
	case a.class != b.class:
		return cmp.Compare(a.class, b.class)
	case a.score > b.score:
		return -1
	case a.score < b.score:
		return 1
	default:
		return 0
	}
}
