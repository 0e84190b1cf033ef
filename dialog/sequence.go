package dialog

import "time"

const (
	maxCSeq     = 1<<31 - 1     // RFC 3261 8.1.1.5: a sequence number is less than 2^31
	exhaustedAt = 1<<31 - 1<<16 // ours: from here on the numbers left are the endpoint's
	maxEpochs   = 4             // ours
)

// Sequence translates the CSeq numbers of one direction of a dialog. A request of
// the edge itself takes the next number of the endpoint it speaks for, so all later
// requests of that endpoint are sent on with higher numbers than their own
// (RFC 3261 12.2.1.1: numbers rise by one for each new request, whoever makes it).
//
// What an endpoint's number becomes depends on that number alone: a retransmission,
// the ACK of an INVITE, its CANCEL and the number in a RAck find the same one, long
// after, and however many requests the edge has put in between.
//
// The zero value is a direction in which nothing was sent yet; see StartedAt for
// the other. A Sequence is not to be copied.
type Sequence struct {
	// Numbers of the endpoint below the first epoch have base added, those of an
	// epoch its delta. Numbers above hiIn go on after hiOut: requests of ours since
	// hiIn cost no epoch until the endpoint goes on too.
	epochs *epochs
	base   uint32

	loIn   uint32 // numbers below it cannot be told from ours any more, or are none of this dialog
	hiIn   uint32 // highest of the endpoint
	hiOut  uint32 // highest sent on, ours included
	opened uint32 // when the first of ours after hiIn was sent; see epoch
	seen   bool   // the endpoint sent something: hiIn is valid
}

// epochs are few, and most directions never have one.
type epochs struct {
	n  int
	of [maxEpochs]epoch
}

// list are the epochs, the oldest first.
func (s *Sequence) list() []epoch {
	if s.epochs == nil {
		return nil
	}
	return s.epochs.of[:s.epochs.n]
}

// add begins an epoch; Inject has made room for it.
func (s *Sequence) add(e epoch) {
	if s.epochs == nil {
		s.epochs = new(epochs)
	}
	s.epochs.of[s.epochs.n] = e
	s.epochs.n++
}

// epoch holds for the endpoint's numbers from first to the next epoch.
type epoch struct {
	first, delta uint32
	opened       uint32 // seconds, rounded up: all numbers before first were new before then
}

// StartedAt is the direction of the INVITE that made the dialog; n is its number.
func StartedAt(n uint32) Sequence {
	return Sequence{seen: true, loIn: n, hiIn: n, hiOut: min(n, maxCSeq)}
}

// Pass is told the number of an endpoint's request, new or repeated, and returns the
// one to send on. ACK and CANCEL have the number of another request: Map.
func (s *Sequence) Pass(c uint32) uint32 {
	switch {
	case !s.seen:
		s.begin(c)
	case c > s.hiIn:
		if s.isAhead() {
			s.add(epoch{first: s.hiIn + 1, delta: s.hiOut - s.hiIn, opened: s.opened})
		}
		s.hiIn = c
	}
	o := s.Map(c)
	s.hiOut = max(s.hiOut, o)
	return o
}

// begin takes the endpoint's first number. All numbers up to hiOut are ours, if any
// are: we started at 1.
func (s *Sequence) begin(c uint32) {
	s.seen, s.hiIn = true, c
	switch {
	case s.hiOut == 0: // none of ours; c may be 0 as well
	case s.hiOut < c:
		s.loIn = s.hiOut + 1
	default:
		s.loIn, s.base = c, s.hiOut+1-c
	}
}

// Map is the number that c was sent on with. It is at most 2^31-1, which all of an
// endpoint's numbers share that are too high to be raised.
func (s *Sequence) Map(c uint32) uint32 {
	return uint32(min(uint64(c)+uint64(s.delta(c)), maxCSeq))
}

func (s *Sequence) delta(c uint32) uint32 {
	if c > s.hiIn && s.isAhead() {
		return s.hiOut - s.hiIn
	}
	all := s.list()
	for i := len(all) - 1; i >= 0; i-- {
		if e := &all[i]; e.first <= c {
			return e.delta
		}
	}
	return s.base
}

// isAhead reports whether requests of ours follow hiIn: the next number of the
// endpoint begins an epoch.
func (s *Sequence) isAhead() bool {
	return s.seen && uint64(s.hiIn)+uint64(s.newest()) < uint64(s.hiOut)
}

// newest is the delta of hiIn.
func (s *Sequence) newest() uint32 {
	if all := s.list(); len(all) > 0 {
		return all[len(all)-1].delta
	}
	return s.base
}

// Inject returns the number for a request of ours. It refuses when the numbers are
// exhausted, and when it would have to forget numbers of the endpoint that were new
// within the time young before now; then a later try may succeed. Numbers older than
// that are forgotten when there is need: Map then makes something lower than the
// numbers in use of them, which is what an old request deserves (12.2.2: 500).
func (s *Sequence) Inject(now, young time.Duration) (o uint32, ok bool) {
	if s.Exhausted() {
		return 0, false
	}
	if !s.isAhead() {
		if all := s.list(); len(all) == maxEpochs {
			oldest := all[0]
			if now-time.Duration(oldest.opened)*time.Second < young {
				return 0, false
			}
			s.dropOldest()
		}
		s.opened = upToSecond(now)
	}
	s.hiOut++
	return s.hiOut, true
}

// Skip leaves out n numbers, which may have been used by an edge that is no more, and
// which the endpoint's next request must not get.
func (s *Sequence) Skip(n uint32, now time.Duration) {
	if s.Exhausted() {
		return
	}
	if !s.isAhead() {
		if len(s.list()) == maxEpochs {
			s.dropOldest()
		}
		s.opened = upToSecond(now)
	}
	s.hiOut = min(s.hiOut+n, exhaustedAt)
}

// renew makes all epochs as young as they can be: their age is not known.
func (s *Sequence) renew(now time.Duration) {
	s.opened = upToSecond(now)
	for i := range s.list() {
		s.epochs.of[i].opened = s.opened
	}
}

func (s *Sequence) dropOldest() {
	all := s.list()
	s.base, s.loIn = all[0].delta, all[0].first
	copy(all, all[1:])
	s.epochs.n--
}

func upToSecond(t time.Duration) uint32 { return uint32((t + time.Second - 1) / time.Second) }

// Back is the endpoint's number that was sent on as o. There is none for a number of
// ours, and for one that is not in use. Of those that share 2^31-1 it is the highest.
func (s *Sequence) Back(o uint32) (c uint32, ok bool) {
	if !s.seen || o > maxCSeq {
		return 0, false
	}
	delta, last := s.newest(), s.hiIn
	if o == maxCSeq && s.Map(last) == o {
		return last, true
	}
	all := s.list()
	for i := len(all) - 1; i >= 0 && o < all[i].first+all[i].delta; i-- {
		last = all[i].first - 1
		delta = s.base
		if i > 0 {
			delta = all[i-1].delta
		}
	}
	if o < delta {
		return 0, false
	}
	c = o - delta
	return c, s.loIn <= c && c <= last
}

// Exhausted reports that Inject will refuse for good.
func (s *Sequence) Exhausted() bool { return s.hiOut >= exhaustedAt }

// Plain reports that the endpoint's numbers, also the next, are sent on as they are.
func (s *Sequence) Plain() bool {
	if !s.seen {
		return s.hiOut == 0
	}
	return s.base == 0 && len(s.list()) == 0 && !s.isAhead()
}

// Highest is the highest number sent on, ours included; 0 if there is none.
func (s *Sequence) Highest() uint32 { return s.hiOut }
