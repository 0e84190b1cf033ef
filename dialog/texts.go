package dialog

import (
	"slices"
	"unsafe"

	"github.com/sipward/sipward/proxy/wire"
)

// field names one text of a dialog.
type field uint8

const (
	callID   field = iota
	fromText       // the caller's From value, with its tag
	toText         // the callee's To value, with its tag
	ruriText       // Request-URI of the INVITE, empty where it is the URI of toText
	contactA       // Contact value of the caller as the callee was shown it
	contactB       // and the other way round
	routesA        // Route values of requests to the caller, in order, comma separated
	routesB        // and to the callee
	numFields
)

// Bounds of what one dialog keeps of header text (spec E.8).
const (
	maxText   = 4096
	maxRoutes = 2048
	maxHops   = 20
)

// MaxTag is the longest To tag of a dialog. An answer with a longer one must not get
// through: the caller could not be sent a BYE.
const MaxTag = 512

// texts keeps all header texts of a dialog in one allocation, which is never changed
// but replaced.
type texts struct {
	start *byte
	end   [numFields]uint16
}

// all is the texts one behind the other.
func (t *texts) all() []byte { return unsafe.Slice(t.start, t.end[numFields-1]) }

// get is the text of a field; it is valid until the next put.
func (t *texts) get(f field) []byte {
	start := uint16(0)
	if f > 0 {
		start = t.end[f-1]
	}
	return t.all()[start:t.end[f]:t.end[f]]
}

// textChange is a new value of one field.
type textChange struct {
	field field
	value []byte
}

// put replaces fields. It is false, and nothing changes, when the texts would
// become longer than they may.
func (t *texts) put(changes ...textChange) bool { return t.putUpTo(maxText, changes) }

// ruri is the Request-URI of the INVITE.
func (t *texts) ruri() []byte {
	if v := t.get(ruriText); len(v) > 0 {
		return v
	}
	uri, _, _ := wire.NameAddrURI(t.get(toText))
	return uri
}

// name puts the callee's tag with the Request-URI in place of a value that is too long
// to be kept: the caller knows the dialog by the tag (RFC 3261 12.2.2).
func (t *texts) name(tag []byte) {
	v := append(append(append([]byte{'<'}, t.ruri()...), ">;tag="...), tag...)
	t.putUpTo(2*maxText+2*MaxTag, []textChange{{toText, v}})
}

func (t *texts) putUpTo(limit int, changes []textChange) bool {
	size, isSame := len(t.all()), true
	for _, c := range changes {
		size += len(c.value) - len(t.get(c.field))
		isSame = isSame && slices.Equal(c.value, t.get(c.field))
	}
	if isSame {
		return true
	}
	if size > limit {
		return false
	}
	var n texts
	all := make([]byte, 0, size)
	for f := range numFields {
		v := t.get(f)
		for _, c := range changes {
			if c.field == f {
				v = c.value
			}
		}
		all = append(all, v...)
		n.end[f] = uint16(len(all))
	}
	n.start = unsafe.SliceData(all)
	*t = n
	return true
}

func contactOf(l Leg) field { return contactA + field(l) }
func routesTo(l Leg) field  { return routesA + field(l) }
