package security

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// Signatures tells scanners by what they call themselves: those of the embedded list
// and what block_useragents adds. It is a filter against noise, for a scanner can
// call itself anything. Only its counters change.
type Signatures struct {
	whitelist bool
	parts     *automaton // of User-Agents
	whole     folded     // User-Agents
	users     folded     // users and display names

	// Indexes of what is no text, -1 when it is not asked for.
	absent, empty, unlisted int

	names []Hit
	hits  []*atomic.Uint64 // of names; shared with the Signatures of earlier configurations
}

// A Hit is a signature and how many messages it found.
type Hit struct {
	Pattern string // as written; block_absent, block_empty and whitelist for those keys
	User    bool   // it is about users, not about User-Agents
	Hits    uint64
}

//go:embed scanners.txt
var scanners string

// spared are parts of User-Agents that no list blocks: those of PBXs, whose loss is
// an outage, and whose names scanners like to borrow.
var spared = [...]string{"asterisk pbx", "fpbx", "freeswitch", "3cx"}

// Bounds of ua_patterns; with them the automaton stays below 3 MB.
const (
	maxPatterns = 256
	maxPattern  = 64 // bytes
)

// NewSignatures reads the embedded list and c. Whether c is enabled is the caller's
// question. The error names every pattern that is wrong.
func NewSignatures(c config.BlockUserAgents) (*Signatures, error) {
	s := &Signatures{whitelist: c.Mode == "whitelist", absent: -1, empty: -1, unlisted: -1}
	var parts []part
	ua := func(pattern string) {
		i := s.name(pattern, false)
		if whole, ok := strings.CutPrefix(pattern, "="); ok {
			s.whole.add(whole, i)
		} else {
			parts = append(parts, part{lowerASCII(pattern), i})
		}
	}
	for line := range strings.Lines(scanners) {
		kind, pattern, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case kind == "ua" && !s.whitelist:
			ua(pattern)
		case kind == "user":
			s.users.add(pattern, s.name(pattern, true))
		}
	}
	if len(c.UAPatterns) > maxPatterns {
		return nil, fmt.Errorf("ua_patterns: %d patterns, at most %d", len(c.UAPatterns), maxPatterns)
	}
	var errs []error
	for _, pattern := range c.UAPatterns {
		if err := checkPattern(pattern, s.whitelist); err != nil {
			errs = append(errs, err)
			continue
		}
		ua(pattern)
	}
	if s.whitelist && len(c.UAPatterns) == 0 {
		errs = append(errs, errors.New("mode whitelist without ua_patterns would block everyone"))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	s.parts = newAutomaton(parts)
	if c.BlockAbsent {
		s.absent = s.name("block_absent", false)
	}
	if c.BlockEmpty {
		s.empty = s.name("block_empty", false)
	}
	if s.whitelist {
		s.unlisted = s.name("whitelist", false)
	}
	return s, nil
}

// name gives a signature its index; one that is there already keeps it.
func (s *Signatures) name(pattern string, user bool) int {
	for i, n := range s.names {
		if n.User == user && strings.EqualFold(n.Pattern, pattern) {
			return i
		}
	}
	s.names = append(s.names, Hit{Pattern: pattern, User: user})
	s.hits = append(s.hits, new(atomic.Uint64))
	return len(s.names) - 1
}

// checkPattern refuses what would never match, for it would look like protection.
func checkPattern(pattern string, whitelist bool) error {
	text := strings.TrimPrefix(pattern, "=")
	switch {
	case strings.TrimSpace(text) != text || text == "":
		return fmt.Errorf("ua_patterns: %q is empty or has white space around it", pattern)
	case len(text) > maxPattern:
		return fmt.Errorf("ua_patterns: %.20q... has more than %d bytes", pattern, maxPattern)
	case hasControl([]byte(text)) || strings.ContainsAny(text, "\t\r\n"):
		return fmt.Errorf("ua_patterns: %q has control characters", pattern)
	case strings.ContainsAny(text, `|\`) || strings.Contains(text, ".*") || text[0] == '^' || text[len(text)-1] == '$':
		return fmt.Errorf("ua_patterns: %q looks like a regular expression; want a part of the User-Agent, or = and all of it", pattern)
	}
	if whitelist {
		return nil
	}
	for _, pbx := range spared {
		if containsFold([]byte(text), pbx) {
			return fmt.Errorf("ua_patterns: %q: a User-Agent with %q is never blocked", pattern, pbx)
		}
	}
	return nil
}

// Match tells whether a request is one of a scanner, counts that, and returns the
// index of the signature in Hits. A response never is one.
//
// Whether a User-Agent is there is asked only of requests outside a dialog other than
// ACK and CANCEL: many telephones leave it out of the others.
func (s *Signatures) Match(m *wire.Msg) (index int, ok bool) {
	if !m.IsRequest() {
		return -1, false
	}
	if index = s.user(m); index < 0 {
		index = s.userAgent(m)
	}
	if index < 0 {
		return -1, false
	}
	s.hits[index].Add(1)
	return index, true
}

// user looks at From and To.
func (s *Signatures) user(m *wire.Msg) int {
	for _, a := range [...]*wire.Addr{&m.From, &m.To} {
		if i := s.users.find(userPart(m.Bytes(a.URI))); i >= 0 {
			return i
		}
		display := m.Bytes(a.Display)
		if n := len(display); n > 1 && display[0] == '"' && display[n-1] == '"' {
			display = display[1 : n-1]
		}
		if i := s.users.find(display); i >= 0 {
			return i
		}
	}
	return -1
}

// userPart is the user of a SIP URI without password and parameters; it need not be
// sound.
func userPart(uri []byte) []byte {
	uri = uri[bytes.IndexByte(uri, ':')+1:]
	uri = uri[:max(bytes.IndexByte(uri, '@'), 0)]
	for i, c := range uri {
		if c == ':' || c == ';' {
			return uri[:i]
		}
	}
	return uri
}

// userAgent looks at every User-Agent line: which of them a reader takes is not known.
func (s *Signatures) userAgent(m *wire.Msg) int {
	first := m.First(wire.KindUserAgent)
	if first < 0 {
		if m.Method == wire.ACK || m.Method == wire.CANCEL || !m.To.Tag.Empty() {
			return -1
		}
		return max(s.absent, s.unlisted)
	}
	for i := first; i < len(m.Headers); i++ {
		h := &m.Headers[i]
		if h.Kind != wire.KindUserAgent {
			continue
		}
		if found := s.judge(m.Bytes(h.Value)); found >= 0 {
			return found
		}
	}
	return -1
}

// judge is the index of what blocks a User-Agent, -1 when it passes.
func (s *Signatures) judge(value []byte) int {
	if len(value) == 0 {
		return max(s.empty, s.unlisted)
	}
	found := s.parts.find(value)
	if found < 0 {
		found = s.whole.find(value)
	}
	if !s.whitelist {
		if found >= 0 && isSpared(value) {
			return -1
		}
		return found
	}
	if found >= 0 {
		return -1
	}
	return s.unlisted
}

func isSpared(value []byte) bool {
	for _, pbx := range spared {
		if containsFold(value, pbx) {
			return true
		}
	}
	return false
}

// Hits lists the signatures, in the order of Match's index.
func (s *Signatures) Hits() []Hit {
	list := make([]Hit, len(s.names))
	for i, n := range s.names {
		n.Hits = s.hits[i].Load()
		list[i] = n
	}
	return list
}

// Inherit goes on with old's counters, for a reload; call it before s is used. Both
// may count at the same time then.
func (s *Signatures) Inherit(old *Signatures) {
	if old == nil {
		return
	}
	for i, n := range s.names {
		for j, o := range old.names {
			if n.User == o.User && strings.EqualFold(n.Pattern, o.Pattern) {
				s.hits[i] = old.hits[j]
				break
			}
		}
	}
}

// folded is a set of texts that are compared in ASCII without regard to case.
type folded struct {
	index   map[string]int // by the text in lower case
	lengths [maxPattern + 1]bool
}

func (f *folded) add(text string, index int) {
	if f.index == nil {
		f.index = map[string]int{}
	}
	f.index[lowerASCII(text)] = index
	f.lengths[len(text)] = true
}

func (f *folded) find(b []byte) int {
	if len(b) > maxPattern || !f.lengths[len(b)] {
		return -1
	}
	var text [maxPattern]byte
	for i, c := range b {
		text[i] = lower(c)
	}
	if i, ok := f.index[string(text[:len(b)])]; ok {
		return i
	}
	return -1
}

// lower is c in ASCII lower case.
func lower(c byte) byte {
	if c-'A' < 26 {
		return c | 0x20
	}
	return c
}

func lowerASCII(text string) string {
	b := []byte(text)
	for i := range b {
		b[i] = lower(b[i])
	}
	return string(b)
}

// containsFold tells whether b holds text, which is in lower case.
func containsFold(b []byte, text string) bool {
	for ; len(b) >= len(text); b = b[1:] {
		i := 0
		for i < len(text) && lower(b[i]) == text[i] {
			i++
		}
		if i == len(text) {
			return true
		}
	}
	return false
}
