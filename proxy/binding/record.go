package binding

import (
	"net/netip"
	"time"

	"github.com/sipward/sipward/timers"
)

// record is a binding in the table. Its table's lock guards it.
type record struct {
	timers.Timer // set to due

	table       *Table
	older       *record // of the same AoR, refreshed before
	left, right *record // on the same flow, in a ring
	at          *flow   // nil: it is in the table no more
	past        *stay   // the flow before, chained

	id        ID
	was       []ID   // IDs that it had before, the last one first
	texts     string // all in one
	ends      [numTexts]uint16
	local     netip.Addr
	regID     uint32
	backend   uint32
	cseq      uint32
	returned  uint16
	nated     bool
	proven    bool
	due       time.Duration // when it ends: expires, or before that when its connection is closed
	expires   time.Duration
	since     time.Duration
	refreshed time.Duration
	asked     time.Duration // when the REGISTER came that it was learned from; 0: not known
}

// text is one of the texts of a binding.
type text uint8

const (
	aor text = iota
	contact
	shown
	ua
	instance
	callID
	numTexts
)

// limits are the most bytes of each text.
var limits = [numTexts]int{aor: MaxAoR, contact: MaxContact, shown: MaxContact, ua: MaxUA, instance: MaxInstance, callID: MaxCallID}

// list are the texts of a binding, in their order.
func (b *Binding) list() [numTexts]*string {
	return [numTexts]*string{aor: &b.AoR, contact: &b.Contact, shown: &b.Shown, ua: &b.UA, instance: &b.Instance, callID: &b.CallID}
}

// fits: no text is too long.
func (b *Binding) fits() bool {
	for x, s := range b.list() {
		if len(*s) > limits[x] {
			return false
		}
	}
	return true
}

func (r *record) text(x text) string {
	if x == 0 {
		return r.texts[:r.ends[0]]
	}
	return r.texts[r.ends[x-1]:r.ends[x]]
}

// says: the texts are those of b.
func (r *record) says(b *Binding) bool {
	for x, s := range b.list() {
		if r.text(text(x)) != *s {
			return false
		}
	}
	return true
}

// write takes the texts of b, in a string of our own: theirs may be parts of whole messages.
func (r *record) write(b *Binding) {
	n := 0
	for _, s := range b.list() {
		n += len(*s)
	}
	all := make([]byte, 0, n)
	for x, s := range b.list() {
		all = append(all, *s...)
		r.ends[x] = uint16(len(all))
	}
	r.texts = string(all)
}

// take takes the values of b.
func (r *record) take(b *Binding) {
	r.local, r.regID, r.backend, r.cseq, r.nated, r.proven = b.Local, b.RegID, b.Backend, b.CSeq, b.NATed, b.Proven
	r.expires, r.refreshed, r.asked = b.Expires, b.Refreshed, b.Asked
}

// binding is a copy.
func (r *record) binding() Binding {
	b := Binding{
		ID: r.id, Local: r.local, RegID: r.regID, Backend: r.backend, CSeq: r.cseq, NATed: r.nated, Proven: r.proven,
		Expires: r.expires, Since: r.since, Refreshed: r.refreshed, Asked: r.asked, Returned: r.returned,
		AoR: r.text(aor), Contact: r.text(contact), Shown: r.text(shown), UA: r.text(ua), Instance: r.text(instance), CallID: r.text(callID),
	}
	f := r.at
	b.Flow, b.Closed = f.key, f.closed
	b.Ponged, b.Missed, b.Pings, b.RTT = f.ponged, int(f.missed), f.pings, f.rtt
	if r.past != nil {
		b.Former = r.past.at.key
	}
	return b
}

// isAhead: b is of an answer that came late. REGISTERs are in the order in which they came to us, whatever their answers
// are in; within a Call-ID CSeq tells (RFC 3261 10.3), where no newer connection tells more. Later than an answer can be,
// it is a phone that counts anew.
func (r *record) isAhead(b *Binding, now time.Duration) bool {
	if r.isAfter(b.Asked) {
		return true
	}
	if b.Flow.Conn != 0 && b.Flow.Conn > r.at.key.Conn && r.at.key.Conn != 0 {
		return false
	}
	return b.CSeq <= r.cseq && now-r.refreshed < lateAnswer && b.CallID == r.text(callID)
}

// isAfter: it was learned from a REGISTER that came after one of then.
func (r *record) isAfter(asked time.Duration) bool { return asked != 0 && asked < r.asked }

// joinAoRLocked puts r where its last refresh belongs. The key in the map is a text of the first one, always: it must
// not keep the texts of one that is gone.
func (t *Table) joinAoRLocked(r *record) {
	p := t.byAoR[r.text(aor)]
	if p == nil || r.refreshed >= p.refreshed {
		r.older = p
		t.byAoR[r.text(aor)] = r
		return
	}
	for p.older != nil && r.refreshed < p.older.refreshed {
		p = p.older
	}
	r.older, p.older = p.older, r
}

func (t *Table) leaveAoRLocked(r *record) {
	p := t.byAoR[r.text(aor)]
	if p == r {
		if r.older == nil {
			delete(t.byAoR, r.text(aor))
			return
		}
		t.byAoR[r.older.text(aor)] = r.older
		r.older = nil
		return
	}
	for p.older != r {
		p = p.older
	}
	p.older, r.older = r.older, nil
}

// makeRoomLocked forgets the binding of an AoR that was refreshed first, when there are as many as may be.
func (t *Table) makeRoomLocked(of string) {
	last := t.byAoR[of]
	if last.namesakes() < perAoR {
		return
	}
	for last.older != nil {
		last = last.older
	}
	t.removeLocked(last)
	t.count.refused++
}

// namesakes is how many there are of the AoR from this one on.
func (r *record) namesakes() int {
	n := 0
	for ; r != nil; r = r.older {
		n++
	}
	return n
}
