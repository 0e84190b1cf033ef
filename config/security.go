package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// maxCounted is how many messages of one source are counted inside one window. A number we chose.
const maxCounted = 100_000

// modes are the keys that a protection is switched with, and what it means when it does not stop anything.
func (s Security) modes() []struct {
	key, observe, off string
	mode              Mode
} {
	return []struct {
		key, observe, off string
		mode              Mode
	}{
		{"dos_ban_enable", "floods are logged, not stopped", "floods are not stopped", s.DoSBanEnable},
		{"failed_auth_ban_enable", "wrong passwords are logged, nobody is banned for them", "wrong passwords ban nobody", s.FailedAuthBanEnable},
		{"loop_enable", "looping calls are logged, not stopped", "looping calls go on until Max-Forwards ends them", s.LoopEnable},
		{"sanity_enable", "broken messages are logged, and reach the PBX", "broken messages reach the PBX, if they can be read at all", s.SanityEnable},
		{"block_useragents.enable", "requests of scanners are logged, not stopped", "requests of scanners are not stopped", s.BlockUserAgents.Enable},
	}
}

// checkSecurity looks for protections that protect nobody and for those that would hit the wrong ones.
func (l *loader) checkSecurity(s Security) {
	const path = "security."
	for _, one := range s.modes() {
		switch one.mode {
		case Observe:
			l.warnf(path+one.key, "observe: %s", one.observe)
		case Off:
			l.warnf(path+one.key, "no: %s", one.off)
		}
	}
	l.checkTrusted(path+"trusted", s.Trusted)
	l.checkDoS(s)
	l.checkFailedAuth(s)
	for i, user := range s.LoopExempt {
		at := fmt.Sprintf("%sloop_exempt[%d]", path, i)
		switch {
		case l.isBroken(at):
		case user == "*":
			l.errorf(at, "exempts everybody: loop_enable: no is how that is said")
		case user == "" || len(user) > 128 || strings.ContainsAny(user, " :@<>\"\r\n\t"):
			l.errorf(at, "want the user part of a To, or its beginning and *, not %s", quote(user))
		}
	}
	l.checkBlockUserAgents(path+"block_useragents", s.BlockUserAgents)
	for i, name := range s.StripHeaders {
		at := fmt.Sprintf("%sstrip_headers[%d]", path, i)
		switch {
		case l.isBroken(at):
		case !isName(name, token):
			l.errorf(at, "%s is not the name of a header field", quote(name))
		case slices.Contains(needed, strings.ToLower(name)):
			l.errorf(at, "%s cannot be taken away: phones, the PBX or this edge need it", quote(name))
		}
	}
}

// checkTrusted warns of what makes bans pointless, and of networks that are there already.
func (l *loader) checkTrusted(key string, trusted []netip.Prefix) {
	for i, p := range trusted {
		at := fmt.Sprintf("%s[%d]", key, i)
		if !p.IsValid() { // has its error
			continue
		}
		if p.Bits() == 0 {
			version := "IPv6"
			if p.Addr().Is4() {
				version = "IPv4"
			}
			l.warnf(at, "trusts every %s address: none is ever banned", version)
		}
		for j, other := range trusted {
			if !other.IsValid() || other.Bits() > p.Bits() || !other.Contains(p.Addr()) || other == p && j >= i {
				continue
			}
			l.warnf(at, "%s is in trusted[%d] already", p, j)
			break
		}
	}
}

func (l *loader) checkDoS(s Security) {
	if s.DoSUnprovenBanTime > s.DoSBanTime {
		l.errorf("security.dos_unproven_ban_time", "%s s is above dos_ban_time (%s s): sources that may be forged would be banned longer than all others",
			s.DoSUnprovenBanTime, s.DoSBanTime)
	}
	if most := s.DoSReqsDensityPerUnit * s.DoSKnownFactor; most > maxCounted {
		l.errorf("security.dos_known_factor", "%d times dos_reqs_density_per_unit (%d) is above %d, the most that is counted",
			s.DoSKnownFactor, s.DoSReqsDensityPerUnit, maxCounted)
	}
	// REGISTER and SUBSCRIBE, each twice for the challenge, and an OPTIONS or PUBLISH: a phone that starts.
	const phone = 10
	if s.DoSReqsDensityPerUnit < phone && s.DoSBanEnable != Off {
		l.warnf("security.dos_reqs_density_per_unit", "below %d a phone that registers and subscribes can be taken for a flood, several behind one address will be", phone)
	}
}

func (l *loader) checkFailedAuth(s Security) {
	if s.FailedAuthBanEnable == Off {
		return
	}
	if s.FailedAuthAttempts == 1 {
		l.warnf("security.failed_auth_attempts", "at 1 a phone is banned whose old nonce the PBX refuses without stale=true")
	}
	if n := s.FailedAuthSourceAttempts; n > 0 && n <= s.FailedAuthAttempts && s.FailedAuthBanKey != "source" {
		l.warnf("security.failed_auth_source_attempts", "%d is not above failed_auth_attempts (%d): one phone with a wrong password has its whole office banned", n, s.FailedAuthAttempts)
	}
}

// spared are parts of User-Agents that no list blocks, as package security has them: a PBX would be shut out.
var spared = []string{"asterisk pbx", "fpbx", "freeswitch", "3cx"}

// Bounds of ua_patterns, the ones of package security.
const (
	maxPatterns = 256
	maxPattern  = 64 // bytes
)

// checkBlockUserAgents refuses patterns that would never match, for they would look like protection.
func (l *loader) checkBlockUserAgents(key string, b BlockUserAgents) {
	list := key + ".ua_patterns"
	if b.Mode == "whitelist" && len(b.UAPatterns) == 0 && !l.isBroken(key) {
		l.errorf(key+".mode", "whitelist without ua_patterns: every request would be blocked")
	}
	if len(b.UAPatterns) > maxPatterns {
		l.errorf(list, "%d patterns, the most is %d", len(b.UAPatterns), maxPatterns)
	}
	for i, p := range b.UAPatterns {
		at := fmt.Sprintf("%s[%d]", list, i)
		text := strings.TrimPrefix(p, "=")
		notPrintable := func(r rune) bool { return r < ' ' || r > '~' }
		switch {
		case l.isBroken(at):
		case text == "" || strings.TrimSpace(text) != text || len(text) > maxPattern || strings.ContainsFunc(text, notPrintable):
			l.errorf(at, "want a part of a User-Agent, 1 to %d printable characters without white space around them, not %s", maxPattern, quote(p))
		case strings.ContainsAny(text, `|\`) || strings.Contains(text, ".*") || text[0] == '^' || text[len(text)-1] == '$':
			l.errorf(at, "%s looks like a regular expression: want a part of a User-Agent, or = and all of it", quote(p))
		case b.Mode != "whitelist" && slices.ContainsFunc(spared, func(pbx string) bool { return strings.Contains(strings.ToLower(text), pbx) }):
			l.errorf(at, "%s is what a PBX calls itself, which is never blocked", quote(p))
		}
	}
}
