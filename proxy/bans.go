package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/security"
)

// Bans lists the bans that match, the oldest first.
func (e *Edge) Bans(f BanFilter) []BanInfo {
	all := []BanInfo{}
	e.guard.Book.All(e.wheel.Now(), func(b security.Ban) bool {
		if f.takes(&b) {
			all = append(all, e.banInfo(&b))
		}
		return f.Limit == 0 || len(all) < f.Limit
	})
	return all
}

func (f *BanFilter) takes(b *security.Ban) bool {
	return (f.Kind == "" || (f.Kind == "user") == (b.User != "")) && (f.Rule == "" || f.Rule == b.Rule.String()) &&
		(f.Key == "" || strings.Contains(b.Key.String(), f.Key))
}

func (e *Edge) banInfo(b *security.Ban) BanInfo {
	x := BanInfo{
		Key: b.Key.String(), Rule: b.Rule.String(), Since: e.wallTime(b.Since), Until: e.wallTime(b.Until), Hard: b.Hard, Proven: b.Proven,
		Count: b.Count, Limit: b.Limit, Window: b.Window.Seconds(), By: b.By, Why: b.Why, Drops: b.Drops,
	}
	for _, t := range []struct {
		at time.Duration
		to *time.Time
	}{{b.First, &x.First}, {b.Last, &x.Last}, {b.LastDrop, &x.LastDrop}} {
		if t.at != 0 {
			*t.to = e.wallTime(t.at)
		}
	}
	if b.User == "" {
		x.Kernel = e.offload.where(b.Source)
	}
	for _, v := range b.Evidence {
		x.Evidence = append(x.Evidence, EvidenceInfo{At: e.wallTime(v.At), Method: v.Method, CallID: v.CallID, Status: v.Status})
	}
	return x
}

// Ban finds the ban of a key.
func (e *Edge) Ban(key string) (BanInfo, bool) {
	k, err := security.ParseKey(key)
	if err != nil {
		return BanInfo{}, false
	}
	b, ok := e.guard.Book.Get(k, e.wheel.Now())
	if !ok {
		return BanInfo{}, false
	}
	return e.banInfo(&b), true
}

// longestBan bounds what operators ask for: 100 years.
const longestBan = 100 * 365 * 24 * time.Hour

// durationOf is a time that an operator wrote as a number, of which any may come.
func durationOf(n float64) time.Duration {
	if !(n > 0) {
		return 0
	}
	return time.Duration(min(n, longestBan.Seconds()) * float64(time.Second))
}

var errBookFull = errors.New("there is no room for another ban: limits.max_bans")

// AddBan bans what an operator names. A trusted source is refused.
func (e *Edge) AddBan(n NewBan) (BanInfo, error) {
	k, err := security.ParseKey(n.Key)
	if err != nil {
		return BanInfo{}, err
	}
	now, s := e.wheel.Now(), e.snap.Load().security
	why := trustedAs(s, k)
	if a, err := netip.ParseAddr(n.Key); err == nil && why == "" { // of a /64 that may hold others
		why = s.TrustedAs(a.Unmap())
	}
	if why != "" {
		return BanInfo{}, fmt.Errorf("%s is %s: it is never banned", n.Key, why)
	}
	last := durationOf(n.For)
	if last <= 0 {
		last = s.BanTime(security.Operator, k.User != "")
	}
	b := security.Ban{Key: k, Rule: security.Operator, Since: now, Until: now + last, By: n.By, Why: n.Why}
	if !e.guard.Ban(b, now) {
		return BanInfo{}, errBookFull
	}
	e.enforce()
	e.log.Op().Info().Str("key", k.String()).Str("by", n.By).Str("why", n.Why).Str("for", last.String()).Msg("banned by an operator")
	x, _ := e.Ban(n.Key)
	return x, nil
}

// trustedAs says why a source is never banned; of a /64, only its own address counts.
func trustedAs(s *security.Settings, k security.Key) string {
	if k.Source == 0 || k.User != "" || !k.Source.Is4() {
		return ""
	}
	return s.TrustedAs(k.Source.Prefix().Addr())
}

// RemoveBan lifts the ban of a key and forgets what was counted: the next message
// passes. It returns the ban as it was, false when there was none.
func (e *Edge) RemoveBan(key string) (BanInfo, bool, error) {
	k, err := security.ParseKey(key)
	if err != nil {
		return BanInfo{}, false, err
	}
	was, found := e.guard.Pardon(k)
	if !found {
		return BanInfo{}, false, nil
	}
	x := e.banInfo(&was)
	e.enforce()
	e.log.Op().Info().Str("key", k.String()).Msg("ban lifted by an operator")
	return x, true, nil
}

// FlushBans lifts all bans and returns how many there were.
func (e *Edge) FlushBans() int {
	n := e.guard.PardonAll()
	e.enforce()
	if n > 0 {
		e.log.Op().Info().Int("bans", n).Msg("all bans lifted by an operator")
	}
	return n
}

// ImportBans takes over bans of an export. What is over, trusted or banned already is skipped.
func (e *Edge) ImportBans(all []BanInfo) (added, skipped int, err error) {
	now, s := e.wheel.Now(), e.snap.Load().security
	defer e.enforce()
	for i := range all {
		b, err := e.imported(&all[i], now)
		if err != nil {
			return added, skipped, fmt.Errorf("ban %d (%s): %w", i+1, all[i].Key, err)
		}
		if _, there := e.guard.Book.Get(b.Key, now); there || b.Until <= now || trustedAs(s, b.Key) != "" {
			skipped++
			continue
		}
		if !e.guard.Ban(b, now) {
			return added, skipped, errBookFull
		}
		added++
	}
	e.log.Op().Info().Int("added", added).Int("skipped", skipped).Msg("bans imported by an operator")
	return added, skipped, nil
}

// maxImported bounds the rows of evidence of an imported ban.
const maxImported = 8

func (e *Edge) imported(x *BanInfo, now time.Duration) (security.Ban, error) {
	k, err := security.ParseKey(x.Key)
	if err != nil {
		return security.Ban{}, err
	}
	rule, ok := security.ParseRule(x.Rule)
	if !ok {
		rule = security.Operator
	}
	b := security.Ban{
		Key: k, Rule: rule, Since: e.clockTime(x.Since, now), Until: now + min(time.Until(x.Until), longestBan), Hard: x.Hard, Proven: x.Proven,
		Count: x.Count, Limit: x.Limit, Window: durationOf(x.Window),
		By: x.By, Why: x.Why,
	}
	if !x.First.IsZero() { // an operator's ban has nothing that was counted
		b.First, b.Last = e.clockTime(x.First, now), e.clockTime(x.Last, now)
	}
	if x.Until.IsZero() { // a bare list of addresses
		b.Until = now + e.snap.Load().security.BanTime(rule, k.User != "")
	}
	for _, v := range x.Evidence[:min(len(x.Evidence), maxImported)] {
		b.Evidence = append(b.Evidence, security.Evidence{At: e.clockTime(v.At, now), Method: v.Method, CallID: v.CallID, Status: v.Status})
	}
	return b, nil
}

// clockTime is a time of the wall on the edge's clock; what was before its start is at
// its start.
func (e *Edge) clockTime(t time.Time, now time.Duration) time.Duration {
	if t.IsZero() {
		return now
	}
	return min(max(now-time.Since(t), 1), now)
}

// Explain says what happens to a message of a source or a user now, and why.
func (e *Edge) Explain(key string) (Explanation, error) {
	k, err := security.ParseKey(key)
	if err != nil {
		return Explanation{}, err
	}
	x := Explanation{Key: k.String(), Kind: "ip", Verdict: "passes", Rules: []RuleReading{}, Change: []string{}}
	if b, ok := e.banOn(k); ok {
		info := e.banInfo(&b)
		x.Ban = &info
	}
	if k.User != "" {
		x.Kind = "user"
		e.explainUser(&x, k)
		return x, nil
	}
	// Any address of the /64 that was asked for stands for it; only trust looks closer.
	at := k.Source.Prefix().Addr()
	if a, err := netip.ParseAddr(strings.Trim(strings.TrimSpace(key), "[]")); err == nil {
		at = a.Unmap()
	}
	e.explainSource(&x, k, at)
	return x, nil
}

// banOn finds the ban that a key falls under. A user at a source may be banned as such, or wherever he is.
func (e *Edge) banOn(k security.Key) (b security.Ban, ok bool) {
	now := e.wheel.Now()
	if k.User != "" && k.Source != 0 {
		if at, found := e.guard.Book.User([]byte(k.User), k.Source, now); found {
			k = at
		}
	}
	return e.guard.Book.Get(k, now)
}

func (e *Edge) explainSource(x *Explanation, k security.Key, at netip.Addr) {
	g, s, now := e.guard, e.snap.Load().security, e.wheel.Now()
	c := s.Config()
	x.Trusted, x.Calls, x.Known = s.TrustedAs(at), e.dialogs.CallsOf(at), g.IsKnown(at, now)
	factor, known := 1, ""
	if x.Known {
		factor, known = c.DoSKnownFactor, fmt.Sprintf(" (%d times dos_reqs_density_per_unit: it is known)", c.DoSKnownFactor)
	}
	n, _, _ := g.Rates.Read(k.Source, c.DoSSamplingTimeUnit.D(), now)
	limit := c.DoSReqsDensityPerUnit * factor
	e.addRule(x, s, security.DoS, n, limit, c.DoSSamplingTimeUnit.D().Seconds(),
		fmt.Sprintf("%d of %d messages in the last %s s%s", n, limit, c.DoSSamplingTimeUnit, known))
	e.addLook(x, s, security.Scanner, "by User-Agent, From and To of each request")
	e.addLook(x, s, security.Sanity, "by the header fields of each request")
	e.addLook(x, s, security.FailedAuth, "by the user of each request, of whom sipward explain USER@DOMAIN says more")
	r := g.Auth.Read(k, s.AuthLimits(), now)
	window := s.AuthLimits().Window.Seconds()
	e.addRule(x, s, security.FailedAuthSource, r.SourceAttempts, c.FailedAuthSourceAttempts*factor, window,
		fmt.Sprintf("%s in the last %g s that only this source can have sent", several(r.SourceAttempts, "wrong password"), window))
	e.addRule(x, s, security.Enumeration, r.SourceUsers, c.EnumerationUsers*factor, window,
		"of "+several(r.SourceUsers, "user"))
	e.addRule(x, s, security.Borrowed, r.Unproven, c.FailedAuthSourceAttempts, window,
		several(r.Unproven, "wrong password")+" that anybody can have sent in its name")
	e.addLook(x, s, security.Loop, "by From and To of each new call, whoever sends it")
	switch {
	case x.Trusted != "":
		x.Why = "it is " + x.Trusted + ": never banned, never counted against it"
		if x.Ban != nil {
			x.Why += "; its ban has no effect"
		}
		x.Change = append(x.Change, "remove it from where it is trusted: "+x.Trusted)
	case x.Ban != nil && g.Bridge.Suspends(at, now):
		x.Why = suspended
	case x.Ban != nil:
		x.Verdict = "dropped"
		x.Why = "banned by the rule " + x.Ban.Rule + " until " + x.Ban.Until.Format(time.DateTime)
		if !x.Ban.Hard {
			x.Why += "; its running calls go on"
		}
		x.Change = append(x.Change, "sipward bans del "+x.Key, "security.trusted: ["+x.Key+"]")
	default:
		x.Why = "nothing is held against it"
		if r.SourceAttempts > 0 || n > limit/2 {
			x.Why = "not banned, but watched"
		}
		x.Change = append(x.Change, "sipward bans add "+x.Key)
	}
}

func (e *Edge) explainUser(x *Explanation, k security.Key) {
	g, s, now := e.guard, e.snap.Load().security, e.wheel.Now()
	c := s.Config()
	counted := k
	if c.FailedAuthBanKey == "user" {
		counted.Source = 0 // wherever it happened
	}
	r := g.Auth.Read(counted, s.AuthLimits(), now)
	if k.Source != 0 {
		at := k.Source.Prefix().Addr()
		x.Trusted, x.Calls, x.Known = s.TrustedAs(at), e.dialogs.CallsOf(at), g.Known.User(k.Source, []byte(k.User), now)
	}
	n, limit := r.InARow, c.FailedAuthAttempts
	if x.Ban != nil && x.Ban.Count > 0 { // the count began anew with it
		n, limit = x.Ban.Count, x.Ban.Limit
	}
	e.addRule(x, s, security.FailedAuth, n, limit, 0, fmt.Sprintf("%d of %s in a row", n, several(limit, "wrong password")))
	switch {
	case x.Ban != nil && x.Trusted != "":
		x.Why = "banned, but the source is " + x.Trusted
	case x.Ban != nil && c.FailedAuthBanEnable != config.Enforce:
		x.Why = "banned, but failed_auth_ban_enable is not yes: nobody is refused for it"
	case x.Ban != nil && x.Known:
		x.Why = "banned, but this source knew the password within the last hour"
	case x.Ban != nil:
		x.Verdict = "refused"
		if c.FailedAuthBanReply == "drop" {
			x.Verdict = "dropped"
		}
		x.Rules[0].Outcome = x.Verdict
		x.Why = "banned by the rule " + x.Ban.Rule + " until " + x.Ban.Until.Format(time.DateTime) +
			"; passes: running calls, and sources that knew the password within the last hour"
		x.Change = append(x.Change, "sipward bans del "+x.Ban.Key)
		if c.FailedAuthBanKey == "user" {
			x.Change = append(x.Change, "security.failed_auth_ban_key: user_source, which bans a user at one address alone")
		}
	case r.InARow > 0:
		x.Why = "a correct password sets the count to 0"
		x.Change = append(x.Change, "sipward bans add "+x.Key)
	default:
		x.Why = "nothing is held against it"
		x.Change = append(x.Change, "sipward bans add "+x.Key)
	}
}

// addRule adds the reading of a rule that counts.
func (e *Edge) addRule(x *Explanation, s *security.Settings, r security.Rule, count, limit int, window float64, why string) {
	mode := s.Mode(r)
	y := RuleReading{Rule: r.String(), Mode: string(mode), Looks: true, Count: count, Limit: limit, Window: window, Outcome: "passes", Why: why}
	switch {
	case mode == config.Off:
		y.Looks, y.Why = false, "it is off"
	case limit == 0:
		y.Looks, y.Why = false, "its limit is 0"
	case x.Trusted != "":
		y.Looks, y.Why = false, why+"; it is "+x.Trusted
	case x.Ban != nil && x.Ban.Rule == y.Rule:
		if x.Kind == "ip" { // whether a user is stopped depends on more
			y.Outcome = "dropped"
		}
	}
	x.Rules = append(x.Rules, y)
}

// several is a number of things in words.
func several(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// addLook adds a rule that looks at what a message says, not at who sends it.
func (e *Edge) addLook(x *Explanation, s *security.Settings, r security.Rule, why string) {
	mode := s.Mode(r)
	y := RuleReading{Rule: r.String(), Mode: string(mode), Outcome: "passes", Why: why}
	if mode == config.Off {
		y.Why = "it is off"
	}
	x.Rules = append(x.Rules, y)
}

// suspended is why nothing of a gateway is banned.
const suspended = "all that is heard comes from one gateway of this host, so bans of addresses would stop everybody: " +
	"give the container the network of its host, or have the gateway keep the source addresses"

// SecurityStats returns what the protections did since the start.
func (e *Edge) SecurityStats() SecurityStats {
	s, t := e.snap.Load().security, e.tally()
	x := SecurityStats{
		Modes: map[string]string{}, Dropped: map[string]uint64{}, Patterns: []PatternHits{}, Tracked: e.guard.Rates.Len(),
		Kernel: e.offload.status(),
	}
	x.Bans, x.UserBans = e.guard.Book.Len()
	for r := security.NoRule + 1; r < security.Rules; r++ {
		if r != security.Operator {
			x.Modes[r.String()] = string(s.Mode(r))
		}
		if n := t.stopped[r]; n > 0 {
			x.Dropped[r.String()] = n
		}
	}
	if t.banned > 0 {
		x.Dropped["banned"] = t.banned
	}
	if t.filtered > 0 {
		x.Dropped["kernel"] = t.filtered
	}
	for _, h := range s.Hits() {
		if h.Hits > 0 {
			x.Patterns = append(x.Patterns, PatternHits{Pattern: h.Pattern, Hits: h.Hits})
		}
	}
	if at := time.Duration(e.suspendedAt.Load()); at != 0 && e.wheel.Now()-at < time.Minute {
		x.Suspended = suspended
	}
	return x
}
