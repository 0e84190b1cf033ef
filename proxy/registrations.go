package proxy

import "time"

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
func (e *Edge) Registrations(_ RegistrationFilter) []RegistrationInfo { return []RegistrationInfo{} }

// RegistrationStats counts them.
func (e *Edge) RegistrationStats() RegistrationStats { return RegistrationStats{} }
