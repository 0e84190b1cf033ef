package binding

import (
	"strings"
	"time"
)

// maxRemovals bounds what is remembered of removals; each takes about 100 bytes and the AoR. It is far more than
// registrars grant while an answer is on its way, and who is forgotten too early costs a binding that expires by itself.
const maxRemovals = 4096

// A removal is what a REGISTER took away: one binding, or those of an AoR at a node.
type removal struct {
	id      ID // 0: all
	aor     string
	backend uint32
}

// removals remember when the REGISTERs came that took bindings away, so that the answer to an older one does not bring
// them back (RFC 3261 10.3 step 7). The order is that in which they came: it is the one in which they went on to the
// registrar, and phones that count their CSeq anew are believed.
type removals struct {
	asked map[removal]time.Duration
	ring  []noted
	next  int // in the ring, the oldest
}

// noted is a removal as it was noted once. It may have been repeated since then.
type noted struct {
	removal
	asked time.Duration
}

func (x *removals) note(r removal, asked time.Duration) {
	if asked == 0 || asked <= x.asked[r] || len(r.aor) > MaxAoR {
		return
	}
	if x.asked == nil {
		x.asked = make(map[removal]time.Duration)
	}
	r.aor = strings.Clone(r.aor) // theirs may be part of a whole message
	x.asked[r] = asked
	if len(x.ring) < maxRemovals {
		x.ring = append(x.ring, noted{r, asked})
		return
	}
	oldest := &x.ring[x.next]
	if x.asked[oldest.removal] == oldest.asked {
		delete(x.asked, oldest.removal)
	}
	*oldest = noted{r, asked}
	x.next = (x.next + 1) % maxRemovals
}

// hold: a REGISTER that came after the one of b took it away.
func (x *removals) hold(b *Binding) bool {
	if b.Asked == 0 || len(x.asked) == 0 {
		return false
	}
	return b.Asked < max(x.asked[removal{id: b.ID}], x.asked[removal{aor: b.AoR, backend: b.Backend}])
}
