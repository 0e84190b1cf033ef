package security

import "time"

// A Rule is what judged a message.
type Rule uint8

// The rules, in the order in which they look at a message.
const (
	NoRule     Rule = iota
	NewSources      // one of too many that were never heard of
	DoS             // more messages than dos_reqs_density_per_unit
	Sanity
	Scanner
	FailedAuth       // failed_auth_attempts of one user
	FailedAuthSource // failed_auth_source_attempts of one source
	Enumeration      // enumeration_users of one source
	Borrowed         // credentials with the nonce of another, of a source in doubt
	Loop
	Operator // a ban that somebody asked for
	Rules    // how many there are
)

var ruleNames = [Rules]string{
	"none", "new_sources", "dos", "sanity", "scanner", "failed_auth", "failed_auth_source", "enumeration", "borrowed_nonce", "loop", "operator",
}

// String is the rule's name in listings and exports.
func (r Rule) String() string {
	if r >= Rules {
		return ruleNames[NoRule]
	}
	return ruleNames[r]
}

// ParseRule reads what String writes.
func ParseRule(name string) (Rule, bool) {
	for r, n := range ruleNames {
		if n == name && Rule(r) != NoRule {
			return Rule(r), true
		}
	}
	return NoRule, false
}

// A Ban is one entry of the Book. Times are of the edge's clock.
type Ban struct {
	Key
	Rule  Rule
	Since time.Duration
	Until time.Duration
	// Hard drops all that comes from the source, unread. A ban that is not hard leaves
	// running calls alone: their requests and all replies pass.
	Hard bool
	// Proven says that the source receives what is sent to it, so that nobody else can
	// have forged its messages.
	Proven bool

	Count  int           // what was counted when the ban was decided
	Limit  int           // that it went beyond
	Window time.Duration // inside which it was counted, 0 = in a row
	First  time.Duration // the oldest of what was counted
	Last   time.Duration // the newest

	By       string // who asked for it: "edge", or what an operator called himself
	Why      string // an operator's words, empty for rules
	Drops    uint64 // messages that it stopped so far
	LastDrop time.Duration
	Evidence []Evidence
}

// maxEvidence is how many messages a ban keeps.
const maxEvidence = 8

// Evidence is one message that led to a ban.
type Evidence struct {
	At     time.Duration
	Method string // as received, cut; empty for what was no SIP
	CallID string // the same
	Status int    // what it was answered with, 0 = unknown
}
