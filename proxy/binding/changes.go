package binding

import "time"

// markLocked notes that a binding has changed or is gone. Each is noted once, so it costs the same however much happens
// to it between two writes.
func (t *Table) markLocked(id ID) {
	if !t.Keep {
		return
	}
	if _, isMarked := t.changed[id]; !isMarked && len(t.changed) >= max(2*t.Capacity, 1024) {
		t.count.lostChanges++
		return
	}
	t.changed[id] = struct{}{}
}

func (t *Table) takeChanges() map[ID]struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.changed) == 0 {
		return nil // not the map itself, which others write to
	}
	all := t.changed
	t.changed = make(map[ID]struct{}, min(len(all), 1024))
	return all
}

// Changes hands over the state of each binding that has changed since the last time, and the ID of each that is gone; no
// lock is held then. What came and went in between is handed over as gone, too: the same ID may have been there before. A
// state is valid during the call only. wall makes a time of the day of one of the wheel's clock. One goroutine at a time.
func (t *Table) Changes(wall func(time.Duration) time.Time, put func(id ID, state []byte), remove func(ID)) {
	var state []byte
	for id := range t.takeChanges() {
		b, past, ok := t.trace(id)
		if !ok {
			remove(id)
			continue
		}
		state = appendState(state[:0], &b, past, wall)
		put(id, state)
	}
}

// trace is a binding with the flows that it has moved on from, the last one first.
func (t *Table) trace(id ID) (b Binding, past []Flow, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r := t.byID[id]
	if r == nil {
		return Binding{}, nil, false
	}
	for s := r.past; s != nil; s = s.before {
		past = append(past, s.at.key)
	}
	return r.binding(), past, true
}

// LostChanges is how many changes found no room.
func (t *Table) LostChanges() uint64 { return t.tallies().lostChanges }

// Restore puts back the binding of a state, before the first message. It is false when the state is damaged, of another
// version, over, or of a binding that is there, and when the table is full.
//
// A connection of that time is gone, so a binding on one is closed; its grace lasts until it expires, for the phone does
// not know yet that it has to come back. clock makes a time of the wheel's clock of one of the day.
func (t *Table) Restore(state []byte, clock func(time.Time) time.Duration, now time.Duration) (Binding, bool) {
	b, past, ok := parseState(state, clock, now)
	if !ok || b.Expires <= now {
		return Binding{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[b.ID] != nil || t.byAoR[b.AoR].namesakes() >= perAoR {
		return Binding{}, false
	}
	r := t.placeLocked(&b)
	if r == nil {
		return Binding{}, false
	}
	for i := len(past); i > 0; i-- {
		if f := t.flowLocked(past[i-1]); f != r.at {
			r.forget(f)
			r.remember(f, b.Refreshed)
		}
	}
	if b.Flow.Conn != 0 {
		r.at.closed = now
	}
	r.at.heard = max(r.at.heard, b.Refreshed)
	r.due = r.expires
	t.Wheel.Set(&r.Timer, r, r.due)
	t.pingLocked(r.at, now)
	return r.binding(), true
}
