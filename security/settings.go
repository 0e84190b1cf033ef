package security

import (
	"net/netip"
	"strings"
	"time"

	"github.com/sipward/sipward/config"
)

// authWindow is the time inside which the wrong passwords of a source are counted.
const authWindow = time.Minute

// Settings are the `security:` section made ready. They are immutable: a reload
// makes new ones, and a transaction keeps those that it began with.
type Settings struct {
	c          config.Security
	auth       AuthLimits
	signatures *Signatures
	trusted    *Trusted
	own        map[netip.Addr]string
	member     func(netip.Addr) (name string, ok bool)
	members    func() []netip.Addr
	exempt     map[string]bool // of the loop detector, users
	prefixes   []string        // and their beginnings
	density    int
	most       int // messages of one source that are remembered
}

// Surroundings are what the rules have to know besides their section.
type Surroundings struct {
	// Own are the addresses of listeners and the advertised ones, with what to call them.
	Own map[netip.Addr]string
	// Member names the pool member at an address. It is asked by every reader and must
	// be cheap; it may change its mind, as names are resolved again.
	Member func(netip.Addr) (name string, ok bool)
	// Members are the addresses of all pool members; asked rarely.
	Members func() []netip.Addr
}

// NewSettings makes the section ready. old, which may be nil, are those that are
// replaced: counters of what is in both go on. An error names the key.
func NewSettings(c config.Security, around Surroundings, old *Settings) (*Settings, error) {
	signatures, err := NewSignatures(c.BlockUserAgents)
	if err != nil {
		return nil, err
	}
	if old != nil {
		signatures.Inherit(old.signatures)
	}
	s := &Settings{
		c: c, signatures: signatures, own: around.Own, member: around.Member, members: around.Members,
		auth: AuthLimits{
			Attempts: c.FailedAuthAttempts, SourceAttempts: c.FailedAuthSourceAttempts, EnumerationUsers: c.EnumerationUsers,
			Window: authWindow, KnownFactor: c.DoSKnownFactor, Key: c.FailedAuthBanKey,
		},
		trusted: NewTrusted(c.TrustLoopback, c.Trusted, around.Own),
		exempt:  map[string]bool{},
		density: c.DoSReqsDensityPerUnit,
	}
	s.most = s.density*c.DoSKnownFactor + 1
	for _, x := range c.LoopExempt {
		if prefix, ok := strings.CutSuffix(x, "*"); ok {
			s.prefixes = append(s.prefixes, prefix)
		} else {
			s.exempt[x] = true
		}
	}
	return s, nil
}

// Trusts says whether nothing of an address is ever banned or counted against it.
func (s *Settings) Trusts(a netip.Addr) bool {
	if _, ok := s.trusted.By(a); ok {
		return true
	}
	_, ok := s.member(a)
	return ok
}

// Touches says whether an address that is trusted belongs to a source: a kernel that
// drops a whole /64 would drop it too.
func (s *Settings) Touches(src Source) bool {
	p := src.Prefix()
	if src.Is4() {
		return s.Trusts(p.Addr())
	}
	for _, x := range s.c.Trusted {
		if x.Overlaps(p) {
			return true
		}
	}
	for a := range s.own {
		if p.Contains(a) {
			return true
		}
	}
	for _, a := range s.members() {
		if p.Contains(a) {
			return true
		}
	}
	return s.c.TrustLoopback && p.Contains(netip.IPv6Loopback())
}

// TrustedAs says what makes an address trusted, in words; empty: it is not.
func (s *Settings) TrustedAs(a netip.Addr) string {
	if name, ok := s.member(a); ok {
		return `backend "` + name + `"`
	}
	why, _ := s.trusted.By(a)
	return why
}

// Config returns the section.
func (s *Settings) Config() *config.Security { return &s.c }

// Hits are the signatures that were met.
func (s *Settings) Hits() []Hit { return s.signatures.Hits() }

// Mode is that of a rule.
func (s *Settings) Mode(r Rule) config.Mode {
	switch r {
	case NewSources, DoS:
		return s.c.DoSBanEnable
	case Sanity:
		return s.c.SanityEnable
	case Scanner:
		return s.c.BlockUserAgents.Enable
	case FailedAuth, FailedAuthSource, Enumeration, Borrowed:
		return s.c.FailedAuthBanEnable
	case Loop:
		return s.c.LoopEnable
	}
	return config.Enforce // what an operator said
}

// BanTime is how long a ban of a rule lasts, and one of an operator who does not say.
func (s *Settings) BanTime(r Rule, isUser bool) time.Duration {
	if r == FailedAuth || r == FailedAuthSource || r == Enumeration || isUser {
		return s.c.FailedAuthBanTime.D()
	}
	return s.c.DoSBanTime.D()
}

// isExempt says whether calls from or to a user are no loops however many there are.
func (s *Settings) isExempt(user []byte) bool {
	if s.exempt[string(user)] {
		return true
	}
	for _, p := range s.prefixes {
		if len(user) >= len(p) && string(user[:len(p)]) == p {
			return true
		}
	}
	return false
}

// AuthLimits are those of failed authentication.
func (s *Settings) AuthLimits() AuthLimits { return s.auth }
