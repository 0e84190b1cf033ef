package proxy

import (
	"time"

	"github.com/sipward/sipward/security"
)

// BanInfo is one ban as the admin socket shows it and as an export writes it. In an
// import only the key is needed: a Since of zero is now, an Until of zero ends with
// the time that the configuration has for its kind, no rule means an operator's.
type BanInfo struct {
	Key    string    `json:"key"`  // 192.0.2.1, 2001:db8:1:2::/64, user@domain, or user@domain/192.0.2.1
	Rule   string    `json:"rule"` // dos | failed_auth | failed_auth_source | enumeration | operator
	Since  time.Time `json:"since,omitzero"`
	Until  time.Time `json:"until,omitzero"`
	Hard   bool      `json:"hard"`   // all that comes from the source is dropped; else its running calls go on
	Proven bool      `json:"proven"` // the source receives what is sent to it: nobody else can have forged its messages

	Count  int       `json:"count"`          // what was counted when the ban was decided
	Limit  int       `json:"limit"`          // that it went beyond, 0 = none
	Window float64   `json:"window"`         // seconds inside which it was counted, 0 = in a row
	First  time.Time `json:"first,omitzero"` // the oldest of what was counted
	Last   time.Time `json:"last,omitzero"`  // the newest

	By       string         `json:"by"`                 // who asked for it: edge, or what an operator called himself
	Why      string         `json:"why"`                // an operator's words, empty for rules
	Drops    uint64         `json:"drops"`              // messages that it stopped so far
	LastDrop time.Time      `json:"last_drop,omitzero"` //
	Kernel   string         `json:"kernel"`             // where the kernel drops it before us: filter | nftables, empty: it does not
	Evidence []EvidenceInfo `json:"evidence,omitempty"` // some of what led to it, the oldest first
}

// EvidenceInfo is one message that led to a ban.
type EvidenceInfo struct {
	At     time.Time `json:"at"`
	Method string    `json:"method"` // as received, cut; empty for what was no SIP
	CallID string    `json:"call_id"`
	Status int       `json:"status"` // what it was answered with, 0 = unknown
}

// BanKinds are what a BanFilter can choose: bans of sources, and bans of users,
// wherever they are or at one source.
var BanKinds = []string{"ip", "user"}

// BanRules are the rules that ban.
var BanRules = []string{
	security.DoS.String(), security.FailedAuth.String(), security.FailedAuthSource.String(),
	security.Enumeration.String(), security.Operator.String(),
}

// BanFilter chooses bans; the zero value takes all.
type BanFilter struct {
	Kind  string // of BanKinds
	Rule  string // exact
	Key   string // part of the key
	Limit int    // at most so many, 0 = all
}

// NewBan is a ban that an operator asks for.
type NewBan struct {
	Key string
	For float64 // seconds, 0 = the time that the configuration has for its kind
	By  string
	Why string
}

// Explanation says what happens to a message of a source or a user now, and why.
type Explanation struct {
	Key     string        `json:"key"`
	Kind    string        `json:"kind"`    // ip | user
	Verdict string        `json:"verdict"` // passes | dropped | refused
	Why     string        `json:"why"`     // the verdict in words
	Trusted string        `json:"trusted"` // what makes it trusted, empty: it is not
	Known   bool          `json:"known"`   // it proved itself in the last hour: a registration, a call, an accepted password
	Calls   int           `json:"calls"`   // in progress
	Ban     *BanInfo      `json:"ban,omitempty"`
	Rules   []RuleReading `json:"rules"`  // in the order in which they look at a message
	Change  []string      `json:"change"` // commands and keys that would change the outcome
}

// RuleReading is what one rule says of a source or a user now.
type RuleReading struct {
	Rule    string  `json:"rule"`
	Mode    string  `json:"mode"`  // enforce | observe | off
	Looks   bool    `json:"looks"` // it applies to this key
	Count   int     `json:"count"`
	Limit   int     `json:"limit"`
	Window  float64 `json:"window"`  // seconds, 0 = in a row
	Outcome string  `json:"outcome"` // of the next message: passes | dropped | refused
	Why     string  `json:"why"`
}

// SecurityStats are what the protections did since the start, and what they hold now.
type SecurityStats struct {
	Modes     map[string]string `json:"modes"` // by rule: enforce | observe | off
	Bans      int               `json:"bans"`  // of sources, now
	UserBans  int               `json:"user_bans"`
	Tracked   int               `json:"tracked"`   // sources that are counted now
	Dropped   map[string]uint64 `json:"dropped"`   // messages, by rule
	Patterns  []PatternHits     `json:"patterns"`  // of scanners that were seen
	Kernel    string            `json:"kernel"`    // where bans are enforced besides here, or why nowhere
	Suspended string            `json:"suspended"` // why bans of addresses are not enforced, empty: they are
}

// PatternHits counts the messages that one signature of a scanner matched.
type PatternHits struct {
	Pattern string `json:"pattern"`
	Hits    uint64 `json:"hits"`
}

// BanKey reads what an operator calls a source or a user, and writes it as listings
// do: an address of an IPv6 /64 becomes the prefix, a domain becomes lower case.
func BanKey(text string) (string, error) {
	k, err := security.ParseKey(text)
	if err != nil {
		return "", err
	}
	return k.String(), nil
}
