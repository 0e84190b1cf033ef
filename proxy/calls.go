package proxy

import (
	"time"
)

// CallInfo is one call as the admin socket shows it.
type CallInfo struct {
	ID      string    `json:"id"` // of this edge, while the call lives
	CallID  string    `json:"call_id"`
	From    string    `json:"from"` // URI
	To      string    `json:"to"`   // URI
	RURI    string    `json:"ruri"`
	Source  string    `json:"src"` // transport:ip:port of the caller as the socket saw it
	Pool    string    `json:"pool"`
	Backend string    `json:"backend"`
	State   string    `json:"state"` // ringing | unacknowledged | confirmed | ending | terminating
	Mode    string    `json:"mode"`  // R | P | N, empty before the answer
	Start   time.Time `json:"start"`
	Answer  time.Time `json:"answer,omitzero"`
	Age     float64   `json:"age"` // seconds since the answer, before it since the INVITE

	NextProbe    time.Time `json:"next_probe,omitzero"`
	LastVerified time.Time `json:"last_verified,omitzero"`
	Ends         time.Time `json:"ends,omitzero"`  // when the first limit fires if nothing changes
	EndsBy       string    `json:"ends_by"`        // the key of that limit, empty when there is none
	Why          string    `json:"why"`            // the mode and the limits in words
	Limits       []Limit   `json:"limits"`         // all that are armed
	Legs         []LegInfo `json:"legs,omitempty"` // caller, callee; of the answered dialog
	Dialogs      int       `json:"dialogs"`        // more than one where the call was forked
}

// Limit is one armed limit of a call.
type Limit struct {
	Key string    `json:"key"` // of the timers section
	At  time.Time `json:"at"`
}

// LegInfo is one leg of a call.
type LegInfo struct {
	Leg          string    `json:"leg"`    // caller | callee
	Target       string    `json:"target"` // remote target URI
	Probe        string    `json:"probe"`  // update | reinvite | options | options_stale, empty: cannot be probed
	SE           uint32    `json:"session_expires"`
	Refresher    string    `json:"refresher"` // self | peer, empty without session timer
	LastVerified time.Time `json:"last_verified,omitzero"`
	Failures     int       `json:"failures"` // probes in a row without a proof of life
}

// CallFilter chooses calls; the zero value takes all.
type CallFilter struct {
	CallID  string // exact
	ID      string // exact
	Party   string // part of From or To
	Backend string // exact
	Mode    string // R, P or N
	Limit   int    // at most so many, 0 = all
}

// BackendInfo is one backend as the admin socket shows it.
type BackendInfo struct {
	Pool     string    `json:"pool"`
	Name     string    `json:"name"`
	Address  string    `json:"address"`
	Targets  []string  `json:"targets"`
	State    string    `json:"state"` // up | down | drain | disabled
	Why      string    `json:"why"`
	Since    time.Time `json:"since,omitzero"`
	Calls    int       `json:"calls"`
	MaxCalls int       `json:"max_calls"` // 0 = no limit
	MaxCPS   int       `json:"max_cps"`   // 0 = no limit
}

// CallStats are the figures of all calls since the start.
type CallStats struct {
	Attempts   uint64  `json:"attempts"` // INVITEs that began a call
	Answered   uint64  `json:"answered"`
	Failed     uint64  `json:"failed"`
	Concurrent int     `json:"concurrent"` // answered and not ended
	Ringing    int     `json:"ringing"`    // begun and not answered
	ASR        float64 `json:"asr"`        // answered per ended attempt, percent
	ACD        float64 `json:"acd"`        // mean duration of ended answered calls, seconds
	PDD        float64 `json:"pdd"`        // mean time from INVITE to the first 18x or final response, seconds
	CPS        float64 `json:"cps"`        // attempts a second over the last ten seconds

	Ended  map[string]uint64 `json:"ended"`  // by reason
	Modes  map[string]int    `json:"modes"`  // calls now, by mode
	Probes map[string]uint64 `json:"probes"` // by method/class
}

// Calls lists the calls that match, the oldest first.
func (e *Edge) Calls(f CallFilter) []CallInfo { return nil }

// EndCall sends BYE on both legs of an answered call. It is false when there is no such call.
func (e *Edge) EndCall(id string) bool { return false }

// CallStats returns the figures of all calls since the start.
func (e *Edge) CallStats() CallStats { return CallStats{} }
