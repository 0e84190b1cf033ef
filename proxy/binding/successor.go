package binding

import (
	"bytes"
	"slices"

	"github.com/sipward/sipward/proxy/wire"
)

// A phone on a connection writes the connection's port into its Contact. Without +sip.instance that is all it has for a
// name, so on its next connection it has another one, and an ID of its own. Its old binding is told by what has not
// changed: the user and the host of its Contact.

// Predecessor is the binding that a phone left behind with a connection that has ended, when it registers this Contact
// over another one: of the same AoR, without an instance, for the same user and host. The port may differ. Of several it
// is the one that was refreshed last.
func (t *Table) Predecessor(of string, contact []byte) (Binding, bool) {
	u, ok := wire.ParseURI(contact)
	if !ok {
		return Binding{}, false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	for r := t.byAoR[of]; r != nil; r = r.older {
		if r.isLeft() && r.isAt(u) {
			return r.binding(), true
		}
	}
	return Binding{}, false
}

// isLeft: its connection has ended, and its ID is not for good.
func (r *record) isLeft() bool { return r.at.closed != 0 && r.text(instance) == "" }

// isAt: its Contact has the user and host of a URI.
func (r *record) isAt(u wire.URI) bool {
	own, ok := wire.ParseURI([]byte(r.text(contact)))
	return ok && bytes.Equal(own.User, u.User) && bytes.EqualFold(own.Host, u.Host)
}

// predecessorLocked is the binding whose place b takes. It is nil when there is none any more.
func (t *Table) predecessorLocked(b *Binding) *record {
	r := t.byID[b.Instead]
	if r == nil || !r.isLeft() || r.text(aor) != b.AoR {
		return nil
	}
	return r
}

// renameLocked gives a binding another ID, that of its successor, so that it goes on as the same one.
func (t *Table) renameLocked(r *record, id ID) {
	t.markLocked(r.id)
	delete(t.byID, r.id)
	if i := slices.Index(r.was, id); i >= 0 { // ports come again
		r.was = slices.Delete(r.was, i, i+1)
		t.unnameLocked(id, r)
	}
	t.byFirst[r.id] = r
	r.was = slices.Insert(r.was, 0, r.id)
	if len(r.was) > formers {
		t.unnameLocked(r.was[formers], r)
		r.was = r.was[:formers]
	}
	r.id = id
	t.byID[id] = r
}

// hasMovedOnLocked: b is of an answer that came late, to a binding that goes on by another ID on a newer connection since.
func (t *Table) hasMovedOnLocked(b *Binding) bool {
	r := t.byFirst[b.ID]
	return r != nil && r.isAfter(b.Asked) && b.Flow.Conn < r.at.key.Conn
}

// unnameLocked forgets an ID that r had before.
func (t *Table) unnameLocked(id ID, r *record) {
	if t.byFirst[id] == r {
		delete(t.byFirst, id)
	}
}

// followLocked finds a binding by its ID, or by one that it had before.
func (t *Table) followLocked(id ID) *record {
	if r := t.byID[id]; r != nil {
		return r
	}
	return t.byFirst[id]
}

// Follow is Get that knows the IDs too which a binding had before.
func (t *Table) Follow(id ID) (Binding, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r := t.followLocked(id)
	if r == nil {
		return Binding{}, false
	}
	return r.binding(), true
}
