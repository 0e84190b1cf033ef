package backend

import (
	"fmt"
	"time"
)

// State is what a backend may be used for.
type State uint8

// The states. An operator's wish outranks health: a drained backend is Drain
// whether it answers or not.
const (
	Up       State = iota // takes new calls
	Down                  // takes new calls only if no other can
	Drain                 // takes only requests of its own dialogs
	Disabled              // takes nothing
)

// String returns the word of the configuration for s.
func (s State) String() string {
	switch s {
	case Up:
		return "up"
	case Down:
		return "down"
	case Drain:
		return "drain"
	case Disabled:
		return "disabled"
	default:
		return fmt.Sprintf("State(%d)", uint8(s))
	}
}

// Source says what an observation of a backend was made with.
type Source uint8

// The sources.
const (
	Probe   Source = iota // our own OPTIONS
	Traffic               // a request that was relayed
)

// String returns what the source is called in log lines, in the singular.
func (s Source) String() string {
	if s == Probe {
		return "probe"
	}
	return "request"
}

// Change is a difference worth a log line. The zero value is none.
type Change struct {
	Backend *Backend // nil when there was no change
	To      State    // Up or Down
	Reason  string
	At      time.Duration
}

// Happened reports whether there is something to log.
func (c Change) Happened() bool { return c.Backend != nil }

// String returns the text of the log line: "pbx1 is down: 2 probes without answer".
func (c Change) String() string {
	if c.Backend == nil {
		return "no change"
	}
	return fmt.Sprintf("%s is %s: %s", c.Backend.name, c.To, c.Reason)
}
