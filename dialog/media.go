package dialog

import (
	"github.com/sipward/sipward/proxy/wire"
)

// Media follows the offers and answers of one dialog (RFC 3264, RFC 3261 13.2
// and 14, RFC 3262 5, RFC 3311, summed up by RFC 6337) and knows what each leg
// sent last in an exchange that both ends have completed. The zero Media is
// ready and may be copied; each dialog of a forked INVITE has its own, see Fork.
//
// An exchange is committed by its answer: the reliable 1xx or 2xx to the INVITE,
// the 2xx to the UPDATE or PRACK that carried the offer; the PRACK or ACK after a
// reliable 1xx or 2xx that did. A non-2xx to the request rolls the offer back.
//
// SDP in an unreliable 1xx is a preview, which commits nothing: the answer must
// be in a reliable response, which should repeat it (RFC 3261 13.2.1, RFC 6337
// 3.1.1). Should the two differ, the reliable one counts, as the one that both
// ends have seen for certain; if the 2xx omits it, the preview is the answer, for
// lack of another that the caller could have taken. Two different previews and
// then none are no answer that we could name.
//
// Where the ends may differ about what holds, nobody's SDP is known until the
// next clean exchange: an offer accepted without an answer, offers that crossed
// and were both accepted, requests of one leg that overlap, a re-INVITE that
// fails after an exchange inside of it (RFC 6141 leaves open who rolled back).
type Media struct {
	side [2]sender
	kept *bodies // never changed but replaced; nil when nothing is kept
}

// sender is what one leg says. The order of fields keeps it small.
type sender struct {
	sum    uint64      // fingerprint of what it sent in the last committed exchange
	next   uint64      // of its open offer or preview
	invite transaction // its last INVITE
	within transaction // its last UPDATE or PRACK with SDP
	is     nature      // of what was committed
	may    nature      // of the open offer or preview
	keep   bool
}

// transaction is one request as far as its offer and answer go.
type transaction struct {
	cseq   uint32
	state  progress
	asks   bool // an INVITE that carried an offer
	spoilt bool // must not commit: another offer overlaps, or was committed since
	later  bool // another exchange was committed inside of this INVITE or after it
}

// progress is how far the exchange of a request has come.
type progress uint8

const (
	unseen    progress = iota
	bare               // INVITE without offer, and none yet
	offered            // the request carried an offer
	relOffer           // a reliable 1xx carried the offer; the PRACK must answer
	lateOffer          // the 2xx carried the offer; the ACK must answer
	answered           // INVITE with its exchange complete, but not final
	replied            // PRACK with an answer, not final
	finished
)

// open: an offer waits for its answer.
func (t *transaction) open() bool {
	return t.state == offered || t.state == relOffer || t.state == lateOffer
}

// running: an INVITE that is not final, or whose 2xx lacks the answer.
func (t *transaction) running() bool {
	return t.open() || t.state == bare || t.state == answered
}

// Request is an INVITE, UPDATE or PRACK of leg from with its own CSeq number.
// A copy of the request that was handed over last changes nothing.
func (m *Media) Request(from Leg, method wire.Method, cseq uint32, b Body) {
	switch method {
	case wire.INVITE:
		m.invite(from, cseq, b)
	case wire.UPDATE, wire.PRACK:
		m.inside(from, method, cseq, b)
	}
	m.settle()
}

// Response is what leg from answers to such a request. reliable tells a 1xx with
// RSeq; each 2xx is reliable.
func (m *Media) Response(from Leg, method wire.Method, cseq uint32, status int, reliable bool, b Body) {
	switch method {
	case wire.INVITE:
		m.toInvite(from, cseq, status, reliable, b)
	case wire.UPDATE, wire.PRACK:
		m.toInside(from, cseq, status, b)
	}
	m.settle()
}

// Ack is the ACK that leg from sends for a 2xx. Copies change nothing.
func (m *Media) Ack(from Leg, cseq uint32, b Body) {
	t := &m.side[from].invite
	if t.state != lateOffer || t.cseq != cseq {
		return
	}
	if b.carried() {
		m.commit(from.Peer(), t, b)
	} else {
		m.lose() // RFC 3261 13.2.1: the ACK had to answer
	}
	t.state = finished
	m.settle()
}

// Fork is the Media of one more dialog of the caller's first INVITE: the same
// offer, waiting for another callee's answer. The callee that m is about may have
// answered it already.
func (m *Media) Fork() Media {
	var f Media
	from, to := &m.side[A], &f.side[A]
	to.invite = transaction{cseq: from.invite.cseq, state: bare}
	to.keep, f.side[B].keep = from.keep, m.side[B].keep
	switch t := &from.invite; {
	case t.state == unseen:
		to.invite.state = unseen
	case !t.asks:
	case t.state == offered && !t.spoilt:
		f.offer(A, &to.invite, offered, m.pending(A))
		to.next, to.may = from.next, from.may
	case (t.state == answered || t.state == finished) && !t.later && from.is.known():
		sent, _ := m.SentBy(A)
		f.offer(A, &to.invite, offered, sent)
		to.next, to.may = from.sum, from.is
	default:
		f.offer(A, &to.invite, offered, Body{Opaque: true})
	}
	to.invite.asks = from.invite.asks
	return f
}

// Open tells whether an offer waits for its answer, in either direction. An
// INVITE without SDP is no offer.
func (m *Media) Open() bool { return m.offering(A) || m.offering(B) }

// Unknown tells that it is not known what leg l would have to be sent: what its
// peer sent last, in an exchange that was committed and understood.
func (m *Media) Unknown(l Leg) bool { return !m.side[l.Peer()].is.known() }

// SentBy is what leg l sent last in a committed exchange. False when that is
// not known or was not kept. The bytes belong to m and are good until it is
// told of the next message.
func (m *Media) SentBy(l Leg) (Body, bool) {
	if !m.side[l].is.known() || m.kept == nil {
		return Body{}, false
	}
	b := m.kept.body(committedBody(l))
	return b, b.SDP != nil
}

// Fingerprint is that of the same body, whether it was kept or not. When it is
// missing, an answer of leg l cannot be compared with anything.
func (m *Media) Fingerprint(l Leg) (sum uint64, ok bool) {
	return m.side[l].sum, m.side[l].is.known()
}

// WebRTC tells whether that body is for media of the DTLS and ICE kind, which an
// offer of the same text may restart or break.
func (m *Media) WebRTC(l Leg) bool { return m.side[l].is&isWebRTC != 0 }

// Keep tells whether the bodies that leg l sends are to be kept. An offer that
// went by before keep was set is not there when it is committed; so set it before
// the INVITE, and take it back when it turns out that nobody will need the body.
func (m *Media) Keep(l Leg, keep bool) {
	m.side[l].keep = keep
	if !keep {
		m.hold(committedBody(l), Body{})
		m.hold(pendingBody(l), Body{})
	}
}

// Size is the number of bytes held besides m itself.
func (m *Media) Size() int {
	if m.kept == nil {
		return 0
	}
	return int(bodiesHead) + len(m.kept.text())
}

// Amend is an exchange of the edge's own, complete: the peer of l was told that l
// sends b from now on, and answered what it had sent before. With an offer of an
// endpoint under way nobody can tell what holds.
func (m *Media) Amend(l Leg, b Body) {
	if m.Open() {
		m.lose()
		return
	}
	s := &m.side[l]
	s.sum, s.is = sumOf(b), natureOf(b)
	if s.keep {
		m.hold(committedBody(l), b)
	}
}

func (m *Media) invite(from Leg, cseq uint32, b Body) {
	t := &m.side[from].invite
	if !m.fresh(t, cseq) {
		return
	}
	overlaps := t.running() // RFC 3261 14.1 forbids it, 14.2 answers 500
	*t = transaction{cseq: cseq, state: bare, asks: b.carried(), spoilt: overlaps}
	if overlaps {
		m.lose()
	}
	if b.carried() {
		m.offer(from, t, offered, b)
	}
}

// inside takes an UPDATE or a PRACK.
func (m *Media) inside(from Leg, method wire.Method, cseq uint32, b Body) {
	t, in := &m.side[from].within, &m.side[from].invite
	if !b.carried() || !m.fresh(t, cseq) {
		return
	}
	overlaps := t.open()
	*t = transaction{cseq: cseq, spoilt: overlaps}
	if overlaps {
		m.lose()
	}
	if method == wire.PRACK && in.state == relOffer {
		m.commit(from.Peer(), in, b)
		in.state, t.state = answered, replied
		return
	}
	m.offer(from, t, offered, b)
}

// fresh tells whether a request is a new one, and not a copy. One with a lower
// number comes too late and should be refused (RFC 3261 12.2.2); should it not,
// we cannot tell what it does.
func (m *Media) fresh(t *transaction, cseq uint32) bool {
	if t.state == unseen || cseq > t.cseq {
		return true
	}
	if cseq < t.cseq {
		m.lose()
	}
	return false
}

func (m *Media) toInvite(from Leg, cseq uint32, status int, reliable bool, b Body) {
	t := &m.side[from.Peer()].invite
	switch {
	case t.state == unseen || cseq > t.cseq:
		if isSuccess(status) || reliable && b.carried() {
			m.lose() // an INVITE that we have not seen
		}
	case t.state == finished || cseq < t.cseq: // a copy
	case status < 200:
		if b.carried() {
			m.provisional(from, t, reliable, b)
		}
	case isSuccess(status):
		m.accepted(from, t, b)
	case t.state != lateOffer: // else too late: it has its 2xx
		if t.state == answered || t.later {
			m.lose()
		}
		t.state, t.later = finished, true // what is committed is not its offer
	}
}

// provisional takes the body of a 1xx to an INVITE.
func (m *Media) provisional(from Leg, t *transaction, reliable bool, b Body) {
	// What is not understood need not be an offer or answer: a 183 with nothing
	// but ISUP. The 2xx will show.
	understood := b.understood()
	switch t.state {
	case offered:
		if !reliable || !understood {
			m.preview(from, b)
			return
		}
		m.commit(from.Peer(), t, b)
		t.state = answered
	case bare:
		if reliable && understood {
			m.offer(from, t, relOffer, b)
		}
	case relOffer:
		if reliable && understood && Fingerprint(b.SDP) != m.side[from].next {
			t.spoilt = true // not a copy but a second offer
		}
	case answered:
		m.repeated(from, t, b)
	}
}

// preview takes the body of an unreliable 1xx before the answer.
func (m *Media) preview(from Leg, b Body) {
	if m.offering(from) {
		return // crossing offers; ours to remember is the offer
	}
	s := &m.side[from]
	if s.may&isPreview == 0 {
		m.note(from, b)
		s.may |= isPreview
		return
	}
	if !b.understood() || Fingerprint(b.SDP) != s.next {
		s.may |= isOpaque
	}
}

// accepted takes a 2xx to an INVITE.
func (m *Media) accepted(from Leg, t *transaction, b Body) {
	switch t.state {
	case lateOffer: // a copy
		return
	case bare:
		if b.carried() {
			m.offer(from, t, lateOffer, b)
			return
		}
	case offered:
		switch {
		case b.carried():
			m.commit(from.Peer(), t, b)
		case m.side[from].may&isPreview != 0:
			m.promote(from.Peer(), t, m.pending(from))
		default:
			m.lose()
		}
	case relOffer:
		m.lose() // RFC 3262 3: not before the PRACK, which had to answer
	case answered:
		m.repeated(from, t, b)
	}
	t.state = finished
}

// repeated takes SDP in a response to an INVITE that has its answer: the caller
// must ignore it (RFC 3261 13.2.1). Not all do, so it had better be the same.
func (m *Media) repeated(from Leg, t *transaction, b Body) {
	if b.understood() && !t.later && !m.isCommitted(from, b) {
		m.forget(from)
	}
}

// toInside takes a response to an UPDATE or PRACK.
func (m *Media) toInside(from Leg, cseq uint32, status int, b Body) {
	t := &m.side[from.Peer()].within
	switch {
	case status < 200:
	case t.state == unseen || cseq > t.cseq:
		// The request had no SDP, so the 2xx has none (RFC 3311 5.2). Some
		// repeat what they sent last.
		if isSuccess(status) && b.carried() && !m.isCommitted(from, b) {
			m.lose()
		}
	case t.state == finished || cseq < t.cseq: // a copy
	case t.state == replied:
		if !isSuccess(status) {
			m.lose() // who made the offer did not take the answer
		}
		t.state = finished
	default:
		if isSuccess(status) {
			if b.carried() {
				m.commit(from.Peer(), t, b)
			} else {
				m.lose()
			}
		}
		t.state = finished
	}
}

// offer opens an exchange of leg by in transaction t.
func (m *Media) offer(by Leg, t *transaction, s progress, b Body) {
	for _, o := range m.offers(by) {
		if o != nil { // RFC 3264 4: one at a time
			o.spoilt, t.spoilt = true, true
		}
	}
	t.state = s
	m.note(by, b)
}

// offers is the transactions with an open offer of leg l.
func (m *Media) offers(l Leg) (open [3]*transaction) {
	s, peer := &m.side[l], &m.side[l.Peer()]
	if s.invite.state == offered {
		open[0] = &s.invite
	}
	if s.within.state == offered {
		open[1] = &s.within
	}
	if peer.invite.state == relOffer || peer.invite.state == lateOffer {
		open[2] = &peer.invite
	}
	return open
}

func (m *Media) offering(l Leg) bool { return m.offers(l) != [3]*transaction{} }

// note remembers an offer or preview.
func (m *Media) note(by Leg, b Body) {
	s := &m.side[by]
	s.next, s.may = sumOf(b), natureOf(b)
	if s.keep && s.may.known() {
		m.hold(pendingBody(by), b)
	} else {
		m.hold(pendingBody(by), Body{})
	}
}

// commit completes the exchange of transaction t with the peer's answer.
func (m *Media) commit(offerer Leg, t *transaction, answer Body) {
	s := &m.side[offerer.Peer()]
	// An offer of the answering leg that crosses this one cannot be committed
	// any more; its place is free.
	s.next, s.may = sumOf(answer), natureOf(answer)
	m.promote(offerer, t, answer)
}

// promote makes what is pending on both sides the state of the session.
func (m *Media) promote(offerer Leg, t *transaction, answer Body) {
	for i := range m.side {
		s := &m.side[i]
		m.overtake(t, &s.invite)
		m.overtake(t, &s.within)
	}
	if t.spoilt {
		m.lose()
		return
	}
	var text [4]Body
	text[committedBody(offerer)] = m.pending(offerer)
	text[committedBody(offerer.Peer())] = answer
	for _, l := range [...]Leg{A, B} {
		s := &m.side[l]
		s.sum, s.is = s.next, s.may&^isPreview
		if !s.keep || !s.is.known() {
			text[committedBody(l)] = Body{}
		}
	}
	m.setBodies(&text)
}

// overtake tells transaction o that t is committed while o runs or after it.
func (m *Media) overtake(t, o *transaction) {
	if o == t {
		return
	}
	inside := t == &m.side[A].within || t == &m.side[B].within
	if o.open() {
		o.spoilt = true
	}
	if o.state == finished || inside && (o.state == bare || o.state == answered) {
		o.later = true
	}
}

// isCommitted tells whether b is what the leg sent last in a committed exchange.
func (m *Media) isCommitted(l Leg, b Body) bool {
	s := &m.side[l]
	return b.understood() && s.is.known() && Fingerprint(b.SDP) == s.sum
}

// forget makes the SDP of leg l unknown.
func (m *Media) forget(l Leg) {
	m.side[l].sum, m.side[l].is = 0, 0
	m.hold(committedBody(l), Body{})
}

// lose makes both unknown.
func (m *Media) lose() {
	m.forget(A)
	m.forget(B)
}

// settle lets go of what no open offer and no preview needs any more.
func (m *Media) settle() {
	for _, l := range [...]Leg{A, B} {
		s := &m.side[l]
		awaited := s.may&isPreview != 0 && m.side[l.Peer()].invite.state == offered
		if s.may != 0 && !awaited && !m.offering(l) {
			s.next, s.may = 0, 0
		}
		if s.may == 0 {
			m.hold(pendingBody(l), Body{})
		}
	}
}

func isSuccess(status int) bool { return status >= 200 && status < 300 }
