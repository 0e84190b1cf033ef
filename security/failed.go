package security

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// successCredit is how many messages a registration that succeeds takes: it and the
// one that was challenged. They are not held against an office whose phones all come
// back at once.
const successCredit = 2

// asName precedes a name in Known that is not the one of the credentials: it may be
// used there in requests without any, but proves nothing of a password of its own. No
// user begins with a space.
const asName = " "

// Attempt reads the credentials of a request that is to be judged by its answer. It
// is nil when there are none, or when nobody counts.
func (g *Guard) Attempt(s *Settings, m *wire.Msg, from netip.Addr, stream bool, now time.Duration) *Attempt {
	if s.c.FailedAuthBanEnable == config.Off {
		return nil
	}
	var space [maxClaims]claim
	src := SourceOf(from)
	claims := g.claims(space[:0], m, src, now)
	if len(claims) == 0 || s.Trusts(from) {
		return nil
	}
	at := &Attempt{
		Source: src, Method: m.Method, Stream: stream,
		UA: textOf(m.Value(wire.KindUserAgent)), CallID: textOf(m.Bytes(m.CallID)), At: now,
	}
	c := answering(claims)
	at.Nonce, at.Opaque = g.Auth.Nonce(c.Nonce), g.Auth.Opaque(c.Nonce, c.Opaque)
	at.blame(m, claims)
	var buf [maxUser]byte
	if name := AppendUser(buf[:0], m, Credentials{}); at.User != string(name) {
		at.Name = string(name)
	}
	return at
}

// A claim is one line of credentials. Of several lines a backend reads that of its
// realm, which an attacker can put among others, or that which it finds first.
type claim struct {
	Credentials
	isGiven bool // its nonce was given to this source
	isAsked bool // and for its realm
}

// maxClaims is how many lines of credentials are looked at; sane lets no more pass.
const maxClaims = 8

func (g *Guard) claims(all []claim, m *wire.Msg, src Source, now time.Duration) []claim {
	eachCredentials(m, func(c Credentials) bool {
		x := claim{Credentials: c}
		x.isGiven, x.isAsked = g.Auth.Asked(src, c, m.Method, now)
		all = append(all, x)
		return len(all) < maxClaims
	})
	return all
}

// answering is the claim whose nonce proves most.
func answering(claims []claim) *claim {
	if i := slices.IndexFunc(claims, func(c claim) bool { return c.isGiven }); i >= 0 {
		return &claims[i]
	}
	return &claims[0]
}

// blame says whose passwords an answer is about. A right one proves only the user who
// answered what this source was asked, and nobody if there are two of them: who has an
// account must not vouch for others. A wrong one is held against everybody who may be
// meant, for else the guess hides behind names that nobody has.
func (at *Attempt) blame(m *wire.Msg, claims []claim) {
	isAsked := slices.ContainsFunc(claims, func(c claim) bool { return c.isAsked })
	var users []string
	several := false
	for i := range claims {
		c := &claims[i]
		if isAsked && !c.isGiven {
			continue
		}
		var buf [maxUser]byte
		user := string(AppendUser(buf[:0], m, c.Credentials))
		if user != "" && !slices.Contains(users, user) {
			users = append(users, user)
		}
		if isAsked == c.isAsked && user != at.User {
			several = several || at.User != ""
			at.User = user
		}
	}
	if several {
		at.User = ""
	}
	if len(users) > 1 {
		at.Others = slices.DeleteFunc(users, func(user string) bool { return user == at.User })
	}
}

// Challenge notes a 401 or 407 of a backend that is passed to a source, before it is
// sent: who answers its nonce receives what we send there.
func (g *Guard) Challenge(s *Settings, m *wire.Msg, to netip.Addr, method wire.Method, now time.Duration) {
	if s.c.FailedAuthBanEnable == config.Off {
		return
	}
	src := SourceOf(to)
	Challenged(m, func(c Challenge) { g.Auth.Issued(src, c, method, now) })
}

// Answered judges the final answer of a backend to an attempt, once per transaction:
// codes are the pool's auth_failure_codes. It returns the bans that it made; in the
// mode observe those that it would have made.
func (g *Guard) Answered(s *Settings, at *Attempt, status int, stale bool, codes []int, now time.Duration) AuthVerdict {
	switch JudgeAnswer(at.Method, status, stale, g.Auth.Answered(at, now), codes) {
	case Right:
		g.Auth.Success(at, now)
		if status < 300 { // a refusal may be given before anybody looks at the password
			g.succeeded(s, at, now)
		}
	case Wrong:
		at.wasRight = g.Auth.forgives(at, now)
		return g.failed(s, at, status, now)
	}
	return AuthVerdict{}
}

// succeeded notes who proved himself. Somebody who does so again and again pays for his
// messages as everybody does.
func (g *Guard) succeeded(s *Settings, at *Attempt, now time.Duration) {
	g.Auth.accepted(at, now)
	before := g.Known.Succeeded(at.Source, at.User, now)
	if at.Name != "" {
		g.Known.Succeeded(at.Source, asName+at.Name, now)
	}
	if before == 0 || now-before >= s.c.DoSSamplingTimeUnit.D() {
		g.Rates.Credit(at.Source, successCredit)
	}
}

func (g *Guard) failed(s *Settings, at *Attempt, status int, now time.Duration) AuthVerdict {
	from := at.Source.Prefix().Addr()
	v := g.Auth.Failure(at, s.auth, g.isKnown(at.Source, from, now), status, now)
	if v.Source != nil && g.Bridge.Suspends(from, now) {
		v.Source = nil
	}
	isNone := func(x *Ban) bool { // also who is banned already, by another answer
		x.By, x.Until = "edge", now+s.c.FailedAuthBanTime.D()
		return s.c.FailedAuthBanEnable != config.Observe && !g.Book.Add(*x, now)
	}
	v.Users = slices.DeleteFunc(v.Users, isNone)
	if v.Source != nil && isNone(v.Source) {
		v.Source = nil
	}
	if v.Source != nil && s.c.FailedAuthBanEnable == config.Enforce {
		g.soft.add(at.Source, now)
	}
	return v
}

// softFor is how long a ban leaves running calls alone though none is answered: one
// may ring, which ends by timer C (RFC 3261 16.6 step 11).
const softFor = 3 * time.Minute

// softBans are the sources whose bans leave their running calls alone.
type softBans struct {
	mu sync.Mutex
	of map[Source]time.Duration // since when; as many as the Book has
}

func (b *softBans) add(s Source, now time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.of == nil {
		b.of = map[Source]time.Duration{}
	}
	b.of[s] = now
}

// Settle makes bans hard whose source has no call any more, and lets go of what is
// over. It is to be called every second or so.
func (g *Guard) Settle(now time.Duration) {
	g.Book.Expire(now)
	g.soft.mu.Lock()
	defer g.soft.mu.Unlock()
	for s, since := range g.soft.of {
		switch {
		case g.Book.Source(s, now) != Soft:
		case now-since < softFor || g.hasCalls(s):
			continue
		default:
			g.Book.SetHard(s, true, now)
		}
		delete(g.soft.of, s)
	}
}

// hasCalls says whether a call of a source goes on. What is counted apart here may be one
// /64 to those who count calls.
func (g *Guard) hasCalls(s Source) bool {
	return g.calls(s.Prefix().Addr()) > 0 || s.Is4() && g.calls(Source(translated).Prefix().Addr()) > 0
}

// Ban enters what an operator asks for. It is false when there is no room.
func (g *Guard) Ban(x Ban, now time.Duration) bool {
	x.Hard = x.Source != 0 && x.User == "" && (x.Hard || x.Rule == Operator)
	if !g.Book.Add(x, now) {
		return false
	}
	if x.Source != 0 && x.User == "" && !x.Hard {
		g.soft.add(x.Source, now)
	}
	return true
}

// Pardon lifts a ban, if there is one, and forgets all that was counted: the next
// message passes. It forgets first: nothing is counted as long as the ban stands, and
// what comes in between does not find the old count.
func (g *Guard) Pardon(k Key) (was Ban, found bool) {
	g.Auth.Forget(k)
	if k.User == "" {
		g.Rates.Forget(k.Source)
		g.connects.Forget(k.Source)
		g.keepAlives.Forget(k.Source)
		g.trails.take(k.Source)
	}
	return g.Book.Remove(k)
}

// PardonAll lifts all bans and forgets what was counted of anybody, in the order of
// Pardon. It returns how many there were.
func (g *Guard) PardonAll() (n int) {
	g.Auth.forgetAll()
	g.Rates.ForgetAll()
	g.connects.ForgetAll()
	g.keepAlives.ForgetAll()
	g.trails.forgetAll()
	return g.Book.Flush()
}

// forgetAll forgets all failures, but no challenge.
func (a *Auth) forgetAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.users = newRecent[Key, failures](a.users.most)
	a.sources = newRecent[Source, guesses](a.sources.most)
	a.strangers.of = newRecent[Source, []time.Duration](a.strangers.of.most)
}
