package proxy

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/timers"
)

// CallInfo is one call as the admin socket shows it.
type CallInfo struct {
	ID      string    `json:"id"` // of this edge, while the call lives
	CallID  string    `json:"call_id"`
	From    string    `json:"from"` // URI
	To      string    `json:"to"`   // URI; of a phone that was called by a Contact of ours, its address of record
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

// IsEnding says whether somebody has hung up, and the BYEs are under way.
func (c *CallInfo) IsEnding() bool { return c.State == "ending" || c.State == "terminating" }

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
func (e *Edge) Calls(f CallFilter) []CallInfo {
	all := []CallInfo{}
	now := e.wheel.Now()
	e.dialogs.All(func(c *dialog.Call) bool {
		if x := e.callInfo(c.Report(), now); f.takes(&x) {
			all = append(all, x)
		}
		return true
	})
	slices.SortFunc(all, func(a, b CallInfo) int { return a.Start.Compare(b.Start) })
	if f.Limit > 0 && len(all) > f.Limit {
		all = all[:f.Limit]
	}
	return all
}

func (f *CallFilter) takes(x *CallInfo) bool {
	return (f.CallID == "" || f.CallID == x.CallID) && (f.ID == "" || f.ID == x.ID) &&
		(f.Party == "" || strings.Contains(x.From, f.Party) || strings.Contains(x.To, f.Party)) &&
		(f.Backend == "" || f.Backend == x.Backend) && (f.Mode == "" || f.Mode == x.Mode)
}

// callIDText is how a listing names a call.
func callIDText(id dialog.ID) string { return strconv.FormatUint(uint64(id), 16) }

func (e *Edge) callInfo(r dialog.Report, now time.Duration) CallInfo {
	x := CallInfo{
		ID: callIDText(r.ID), CallID: string(r.CallID), From: string(uriOf(r.From)), To: string(e.calleeOf(r.To)), RURI: string(r.RURI),
		Source: r.Source.Proto.Param() + ":" + r.Source.Remote.String(), State: r.State, Mode: r.Mode.String(),
		Start: e.wallTime(r.Began), Dialogs: r.Dialogs, Limits: []Limit{}, Legs: []LegInfo{},
	}
	at := e.snap.Load().places[r.Backend]
	x.Pool, x.Backend = at.pool, at.backend
	x.Age = (now - r.Began).Seconds()
	for _, l := range r.Limits {
		x.Limits = append(x.Limits, Limit{Key: l.Key, At: e.wallTime(l.At)})
	}
	if len(x.Limits) > 0 {
		x.Ends, x.EndsBy = x.Limits[0].At, x.Limits[0].Key
	}
	if r.Answered == 0 {
		x.Why = "not answered yet"
		return x
	}
	x.Answer, x.Age = e.wallTime(r.Answered), (now - r.Answered).Seconds()
	x.LastVerified = e.wallTime(r.Verified)
	if r.NextProbe != 0 {
		x.NextProbe = e.wallTime(r.NextProbe)
	}
	for l, leg := range r.Legs {
		x.Legs = append(x.Legs, e.legInfo(dialog.Leg(l), leg))
	}
	x.Why = why(&r)
	return x
}

func (e *Edge) legInfo(l dialog.Leg, r dialog.LegReport) LegInfo {
	x := LegInfo{
		Leg: l.String(), Target: string(r.Target), Probe: r.Probe.String(), SE: r.SE, Failures: r.Failures,
		LastVerified: e.wallTime(r.Verified),
	}
	switch {
	case r.SE == 0:
	case r.Refreshes:
		x.Refresher = "self"
	default:
		x.Refresher = "peer"
	}
	return x
}

// why says in words how a call is watched.
func why(r *dialog.Report) string {
	switch {
	case r.Reason != dialog.NoReason:
		return "the edge has ended it (" + r.Reason.String() + "): its BYEs wait to be answered"
	case r.State == "ending":
		return "one side has hung up: its BYE waits to be answered"
	case r.Unheard:
		return "nothing of the caller comes through the edge, no ACK either: nothing is sent, only its limits end it"
	case r.State == "unacknowledged":
		return "the caller has not acknowledged the answer yet: nothing is sent before; after ack_timeout the edge asks both sides"
	case r.Mode == timers.ModeN:
		return "no session timer to go by: nothing is sent, only its limits end it"
	case !r.Watched:
		return "no leg is or can be probed: only its limits end it"
	case r.Mode == timers.ModeR:
		return "a session timer runs: the edge refreshes it as each leg believes, and ends the call when a leg gives no sign of life for session_ttl"
	case r.Mode == timers.ModeP:
		return "one side knows session timers, none runs: the edge asks for signs of life, and ends the call when a leg gives none for session_ttl"
	}
	return ""
}

// EndCall sends BYE on both legs of an answered call. It is false when there is no such call.
func (e *Edge) EndCall(id string) bool {
	n, err := strconv.ParseUint(id, 16, 64)
	if err != nil {
		return false
	}
	c := e.dialogs.Get(dialog.ID(n))
	if c == nil {
		return false
	}
	w := e.scratch()
	defer e.release(w)
	found := c.End(&w.effects, e.wheel.Now())
	w.flush()
	return found
}

// CallStats returns the figures of all calls since the start.
func (e *Edge) CallStats() CallStats {
	s := e.dialogs.Stats(e.wheel.Now())
	x := CallStats{
		Attempts: s.Attempts, Answered: s.Answered, Failed: s.Failed, Concurrent: s.Concurrent, Ringing: s.Ringing,
		ASR: s.ASR, ACD: s.ACD.Seconds(), PDD: s.PDD.Seconds(), CPS: s.CPS,
		Ended: map[string]uint64{}, Modes: map[string]int{}, Probes: e.probes.read(),
	}
	for r, n := range s.Ended {
		if n > 0 {
			x.Ended[dialog.Reason(r).String()] = n
		}
	}
	for m, n := range e.dialogs.Modes() {
		x.Modes[m.String()] = n
	}
	return x
}
