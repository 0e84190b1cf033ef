package proxy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sipward/sipward/proxy/binding"
)

// RegistrationFilter picks registrations. Zero values pick all.
type RegistrationFilter struct {
	ID      string // exact
	AoR     string // exact user@host
	Text    string // contained in AoR, contact or User-Agent
	Source  string // address of the phone as the edge sees it, without port
	Backend string
	Limit   int // 0 = all
}

// RegistrationInfo is one registered contact as listings show it.
type RegistrationInfo struct {
	ID         string    `json:"id"`
	AoR        string    `json:"aor"`
	Contact    string    `json:"contact"`               // the URI that the phone wrote
	Shown      string    `json:"shown,omitempty"`       // the one that the registrar keeps, in contact mode
	Mode       string    `json:"mode"`                  // path or contact
	Instance   string    `json:"instance,omitempty"`    // +sip.instance
	RegID      uint32    `json:"reg_id,omitempty"`      // RFC 5626
	Flow       string    `json:"flow"`                  // proto:address:port of the phone as the edge sees it
	Connection uint64    `json:"connection,omitempty"`  // conid of the log, streams only
	NATed      bool      `json:"nated"`                 // is pinged
	Pool       string    `json:"pool"`                  //
	Backend    string    `json:"backend"`               // the node that took the registration
	UA         string    `json:"ua"`                    //
	CallID     string    `json:"call_id"`               // of its REGISTER
	State      string    `json:"state"`                 // registered | closed
	Since      time.Time `json:"since"`                 // first REGISTER
	Refreshed  time.Time `json:"refreshed"`             // last one
	Expires    time.Time `json:"expires"`               //
	Closed     time.Time `json:"closed,omitzero"`       // when its connection ended
	LastPong   time.Time `json:"last_pong,omitzero"`    //
	Pings      uint64    `json:"pings"`                 // sent
	Missed     int       `json:"missed"`                // pings without answer in a row
	RTT        float64   `json:"rtt,omitempty"`         // of the last answered ping, seconds
	Former     string    `json:"former_flow,omitempty"` // the flow that it was registered over before
	Why        string    `json:"why"`                   // for people: what a call to it does now
}

// RegistrationStats are the totals.
type RegistrationStats struct {
	Registered int    `json:"registered"` // contacts followed now
	Flows      int    `json:"flows"`      // of them, those that are different
	Capacity   int    `json:"capacity"`   // limits.max_bindings
	Added      uint64 `json:"added"`
	Refreshed  uint64 `json:"refreshed"`
	Moved      uint64 `json:"moved"`   // refreshed over another flow
	Expired    uint64 `json:"expired"` // without a refresh
	Lost       uint64 `json:"lost"`    // connection closed, not back in time
	Refused    uint64 `json:"refused"` // not followed: limits.max_bindings, or too long
	Flow430    uint64 `json:"flow_failed"`
	Forged     uint64 `json:"forged_tokens"`
	Pings      uint64 `json:"pings"`
	Pongs      uint64 `json:"pongs"`
}

// Registrations lists the contacts that match, by AoR.
func (e *Edge) Registrations(f RegistrationFilter) []RegistrationInfo {
	all := []RegistrationInfo{}
	e.bindings.All(func(b *binding.Binding) bool {
		if x := e.registrationInfo(b); f.takes(&x, b) {
			all = append(all, x)
		}
		return true
	})
	slices.SortFunc(all, func(a, b RegistrationInfo) int {
		return cmp.Or(strings.Compare(a.AoR, b.AoR), a.Since.Compare(b.Since), strings.Compare(a.ID, b.ID))
	})
	if f.Limit > 0 && len(all) > f.Limit {
		all = all[:f.Limit]
	}
	return all
}

func (f *RegistrationFilter) takes(x *RegistrationInfo, b *binding.Binding) bool {
	return (f.ID == "" || f.ID == x.ID) && (f.AoR == "" || f.AoR == x.AoR) && (f.Backend == "" || f.Backend == x.Backend) &&
		(f.Source == "" || f.Source == b.Flow.Remote.Addr().String()) &&
		(f.Text == "" || strings.Contains(x.AoR, f.Text) || strings.Contains(x.Contact, f.Text) || strings.Contains(x.UA, f.Text))
}

// flowText is how a listing names a flow.
func flowText(f binding.Flow) string { return f.Proto.Param() + ":" + f.Remote.String() }

func (e *Edge) registrationInfo(b *binding.Binding) RegistrationInfo {
	snap := e.snap.Load()
	at := snap.places[b.Backend]
	x := RegistrationInfo{
		ID: fmt.Sprintf("%016x", uint64(b.ID)), AoR: b.AoR, Contact: b.Contact, Shown: b.Shown, Mode: "path", Instance: b.Instance, RegID: b.RegID,
		Flow: flowText(b.Flow), Connection: b.Flow.Conn, NATed: b.NATed, Pool: at.pool, Backend: at.backend, UA: b.UA, CallID: b.CallID,
		State: "registered", Since: e.wallTime(b.Since), Refreshed: e.wallTime(b.Refreshed), Expires: e.wallTime(b.Expires), Pings: b.Pings,
	}
	if b.Shown != "" {
		x.Mode = "contact"
	}
	if b.Former != (binding.Flow{}) {
		x.Former = flowText(b.Former)
	}
	if b.Ponged != 0 {
		x.LastPong, x.RTT = e.wallTime(b.Ponged), b.RTT.Seconds()
	}
	if snap.config.Registration.Ping == "options" { // nobody answers to the others
		x.Missed = b.Missed
	}
	x.Why = "a call to it goes over this flow"
	switch {
	case b.Closed != 0:
		x.State, x.Closed = "closed", e.wallTime(b.Closed)
		x.Why = "its connection is closed: a call to it gets 430 at once, until the phone registers over a new one"
	case b.Shown == "" && e.registrars.isPathless(b.Backend, b.AoR):
		x.Why = "its registrar ignores its Path: a call to it does not find the edge until the phone registers again"
	case b.Instance == "" && b.Returned > 1:
		x.Why = "a call to it goes over this flow, but it has come from this one and another in turns: these may be two phones of one address without +sip.instance, of which only the one that registered last is called"
	case x.Missed > 1:
		x.Why = "a call to it goes over this flow, but the phone leaves pings unanswered: it may be gone"
	}
	return x
}

// RegistrationStats counts them.
func (e *Edge) RegistrationStats() RegistrationStats {
	t := e.bindings
	x := RegistrationStats{
		Registered: t.Len(), Flows: t.Flows(), Capacity: e.snap.Load().config.Limits.MaxBindings,
		Flow430: e.count.flowFailed.Load(), Forged: e.count.badTokens.Load(),
	}
	x.Added, x.Refreshed, x.Moved, x.Expired, x.Lost, x.Refused = t.Stats()
	x.Pings, x.Pongs = t.Pinged()
	return x
}
