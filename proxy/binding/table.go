package binding

import (
	"net/netip"
	"time"

	"github.com/sipward/sipward/timers"
)

// Options of a Table. Capacity and Wheel are needed.
type Options struct {
	Capacity int // bindings at the same time
	Wheel    *timers.Wheel
	Keep     bool // note which bindings change, for Changes

	// Both are called on the wheel's goroutine, without a lock; nil: nobody is told.

	// Ping is told when a flow is to be pinged: once, whatever the number of its bindings.
	Ping func(b Binding, now time.Duration)
	// Gone is told of a binding that ended by itself.
	Gone func(b Binding, why Reason, now time.Duration)
}

// Table is the bounded table of all bindings. All methods are safe for concurrent use.
type Table struct{ Options }

// NewTable makes an empty table that pings nobody; see [Table.Configure].
func NewTable(o Options) *Table { return &Table{Options: o} }

// Configure says how often flows are pinged, 0 = never, and how long bindings outlive their connection.
func (t *Table) Configure(interval, grace time.Duration) {}

// Learn takes in a binding that a registrar has granted.
func (t *Table) Learn(b Binding, now time.Duration) (Outcome, Binding) { return Full, b }

// Remove forgets a binding that was unregistered.
func (t *Table) Remove(id ID) (Binding, bool) { return Binding{}, false }

// RemoveAll forgets the bindings of an AoR at a node (Contact: *), and returns how many.
func (t *Table) RemoveAll(aor string, backend uint32) int { return 0 }

// Closed marks the bindings of a connection that has ended, and returns them.
func (t *Table) Closed(conn uint64, now time.Duration) []Binding { return nil }

// Get finds a binding.
func (t *Table) Get(id ID) (Binding, bool) { return Binding{}, false }

// Current is where the phone that had flow f is now; false: it has not moved on from f, as far as is known.
func (t *Table) Current(id ID, f Flow) (Flow, bool) { return Flow{}, false }

// Node is the node of the binding of an AoR that was refreshed last.
func (t *Table) Node(aor []byte) (uint32, bool) { return 0, false }

// NodeAt is the node of the bindings on a flow, if all agree.
func (t *Table) NodeAt(f Flow) (uint32, bool) { return 0, false }

// Pong notes the answer to a ping.
func (t *Table) Pong(id ID, now time.Duration) {}

// PongLow is Pong for who knows only the low 32 bits of the ID, and where the answer came from.
func (t *Table) PongLow(low uint32, remote netip.AddrPort, now time.Duration) {}

// All yields every binding, each valid until the next.
func (t *Table) All(yield func(*Binding) bool) {}

// Len is the number of bindings.
func (t *Table) Len() int { return 0 }

// Flows is the number of flows that they are on.
func (t *Table) Flows() int { return 0 }

// Stats counts what has happened.
func (t *Table) Stats() (added, refreshed, moved, expired, lost, refused uint64) { return }

// Pinged counts the pings that were sent and those that were answered.
func (t *Table) Pinged() (sent, answered uint64) { return 0, 0 }

// Changes hands over the state of each binding that has changed since the last time, and the ID of each that is gone.
func (t *Table) Changes(wall func(time.Duration) time.Time, put func(id ID, state []byte), remove func(ID)) {
}

// LostChanges is how many changes found no room.
func (t *Table) LostChanges() uint64 { return 0 }

// Restore puts back the binding of a state. It is false when the state is damaged, of another version, or over.
func (t *Table) Restore(state []byte, clock func(time.Time) time.Duration, now time.Duration) (Binding, bool) {
	return Binding{}, false
}
