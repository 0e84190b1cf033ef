package proxy

import (
	"bytes"
	"time"
	"unsafe"

	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/binding"
	"github.com/sipward/sipward/proxy/wire"
)

// Numbers we chose.
const (
	// maxContacts bounds the contacts of one REGISTER: each may become longer on its way.
	maxContacts = 16
	// maxContactURI is the longest Contact URI that is led back to its phone.
	maxContactURI = 512
	// defaultExpires is what a registrar is free to choose where nobody says (RFC 3261 10.2).
	defaultExpires = 3600
)

// An enrolment is what a REGISTER from outside asks the registrar for, and how the edge
// makes sure that calls to it come back over the flow that it came on: by a Path of ours,
// or by Contacts of ours in the place of the phone's. It holds spans, so that it fits any
// copy of the same bytes.
type enrolment struct {
	aor      string // user@host of To, host in lower case
	contacts []enrolled
	isAll    bool // Contact: *
	expires  int  // of the Expires header field, wire.None without
	flow     dialog.Flow
	at       time.Duration // when it came
	path     bool          // it went on last with a Path; else with Contacts of ours
	tookBack bool          // with a line that takes an old Contact back
	wentBare bool          // without one, though there was something to take back
	lasts    time.Duration // for how long the registrar keeps the longest
	user     string        // whose password it has, else the AoR
}

// enrolled is one contact of it.
type enrolled struct {
	id       binding.ID
	uri      wire.Span
	isBare   bool // without angle brackets
	isOurs   bool // led back to its phone: a SIP URI
	expires  int  // of its parameter, wire.None without
	instance string
	regID    uint32
	token    []byte // of our Contact
	shown    string // what the registrar has for it from before, a Contact of ours or its own; empty: nothing
	now      string // what it is shown this time
	isOver   bool   // its binding goes on with another Contact of the same request
	instead  binding.ID
}

// enrol reads the contacts of a REGISTER to a registrar of ours.
func (d *decision) enrol() rejection {
	m, e := d.m, d.edge
	x := &enrolment{aor: addressOfRecord(m.Bytes(m.To.URI)), expires: secondsOf(m.Value(wire.KindExpires)), flow: dialogFlow(d.flow), at: e.wheel.Now()}
	if x.aor == "" || !fitsStartLine(m.Bytes(m.To.URI)) { // pings carry it
		return rejection{status: 400, reason: "Bad To"}
	}
	it := m.Values(wire.KindContact)
	for {
		v, ok := it.Next()
		if !ok {
			break
		}
		if len(x.contacts) == maxContacts {
			return rejection{status: 403, reason: "Too Many Contacts"}
		}
		if string(m.Bytes(v.Span)) == "*" {
			x.isAll = true
			continue
		}
		c, ok := e.enrolled(m, v, x)
		if !ok {
			return rejection{status: 400, reason: "Bad Contact"}
		}
		e.setApart(m, x, &c)
		x.contacts = append(x.contacts, c)
	}
	if x.isAll && (len(x.contacts) > 0 || x.expires != 0) { // RFC 3261 10.3 step 6
		return rejection{status: 400, reason: "Bad Contact"}
	}
	d.r.enrols = x
	return rejection{}
}

// setApart tells a contact from those before it that have the same instance. Phones that move
// take their old Contact back in the same request: then it is one binding, which goes on with
// the new one. Two that are to stay are two bindings (RFC 5626 6).
func (e *Edge) setApart(m *wire.Msg, x *enrolment, c *enrolled) {
	for i := range x.contacts {
		p := &x.contacts[i]
		if !c.isOurs || !p.isOurs || p.id != c.id {
			continue
		}
		switch stays, comes := x.asked(p) > 0, x.asked(c) > 0; {
		case comes && !stays:
			p.isOver = true
		case stays && !comes:
			c.isOver = true
		case len(c.instance) > 0 && !bytes.Equal(m.Bytes(p.uri), m.Bytes(c.uri)):
			c.shown, c.instead = "", 0
			e.identify(m, x, c, nil)
		}
	}
}

// enrolled reads one contact. One that is no SIP URI passes as it is: nobody can be
// reached there over a flow.
func (e *Edge) enrolled(m *wire.Msg, v wire.Value, x *enrolment) (c enrolled, ok bool) {
	uri, params, isBare, ok := m.ValueURI(v)
	if !ok || uri.Len() > maxContactURI || !fitsStartLine(m.Bytes(uri)) {
		return c, false
	}
	c.uri, c.isBare, c.expires = uri, isBare, wire.None
	if v, found := wire.Param(m.Bytes(params), "expires"); found {
		c.expires = secondsOf(v)
	}
	u, isURI := wire.ParseURI(m.Bytes(uri))
	if !isURI && isSIPScheme(m.Bytes(uri)) { // a registrar might read it all the same
		return c, false
	}
	if !isURI || u.Scheme != wire.SIP && u.Scheme != wire.SIPS {
		return c, true
	}
	c.isOurs = true
	instance, _ := wire.Param(m.Bytes(params), "+sip.instance")
	if id, found := wire.Param(m.Bytes(params), "reg-id"); found {
		c.regID = uint32(max(secondsOf(id), 0))
	}
	if len(instance) <= binding.MaxInstance { // else the table would not take it
		c.instance = string(instance)
	}
	e.identify(m, x, &c, instance)
	return c, true
}

func isSIPScheme(uri []byte) bool {
	scheme, _, _ := bytes.Cut(uri, []byte{':'})
	return equalFold(scheme, "sip") || equalFold(scheme, "sips")
}

// identify gives a contact its binding and finds what the registrar has for that.
func (e *Edge) identify(m *wire.Msg, x *enrolment, c *enrolled, instance []byte) {
	uri := m.Bytes(c.uri)
	c.id = e.tokens.bindingID(x.aor, instance, c.regID, uri)
	c.token = e.tokens.appendFlow(nil, flowToken{flow: x.flow, binding: c.id, contact: uri})
	b, known := e.bindings.Get(c.id)
	if !known && x.flow.Proto.Reliable() && len(instance) == 0 {
		if b, known = e.bindings.Predecessor(x.aor, uri); known {
			c.instead = b.ID
		}
	}
	if !known {
		return
	}
	if c.shown = b.Shown; c.shown == "" {
		c.shown = b.Contact
	}
}

// asked is the time a contact is registered for, in seconds, as far as the request says.
func (x *enrolment) asked(c *enrolled) int {
	switch {
	case c.expires != wire.None:
		return c.expires
	case x.expires != wire.None:
		return x.expires
	}
	return defaultExpires
}

// first is the binding that a Path names: one that stays, if there is one.
func (x *enrolment) first() (id binding.ID) {
	for i := range x.contacts {
		if c := &x.contacts[i]; c.isOurs && (id == 0 || x.asked(c) > 0) {
			if id = c.id; x.asked(c) > 0 {
				break
			}
		}
	}
	return id
}

// tells says whether the request tells the registrar of a URI already, at contact i.
func (x *enrolment) tells(uri string, i int) bool {
	for k := range x.contacts {
		if c := &x.contacts[k]; c.now == uri || k < i && c.shown == uri {
			return true
		}
	}
	return false
}

// size is about how many bytes it holds.
func (x *enrolment) size() (n int) {
	if x == nil {
		return 0
	}
	for i := range x.contacts {
		c := &x.contacts[i]
		n += int(unsafe.Sizeof(*c)) + len(c.instance) + len(c.token) + len(c.shown) + len(c.now)
	}
	return n
}

// addressOfRecord is what a registrar knows a user by (RFC 3261 10.3 step 5): user@host,
// without parameters, the host in lower case. It is empty where there is none.
func addressOfRecord(uri []byte) string { return string(appendAddressOfRecord(nil, uri)) }

func appendAddressOfRecord(dst, uri []byte) []byte {
	u, ok := wire.ParseURI(uri)
	if !ok || len(u.Host) > 255 || len(u.User) > 255 {
		return dst
	}
	return lower(append(append(dst, u.User...), '@'), u.Host)
}

// secondsOf reads a number of seconds; wire.None when it is none.
func secondsOf(v []byte) int {
	if len(v) == 0 {
		return wire.None
	}
	n := 0
	for _, c := range v {
		if c < '0' || c > '9' {
			return wire.None
		}
		if n = n*10 + int(c-'0'); n > 1<<31 {
			n = 1 << 31
		}
	}
	return n
}
