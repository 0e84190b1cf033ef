package security

import (
	"bytes"
	"net/netip"
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
	cr, has := g.credentials(m, SourceOf(from), now)
	if !has || s.Trusts(from) {
		return nil
	}
	var buf, bufName [maxUser]byte
	user, name := AppendUser(buf[:0], m, cr), AppendUser(bufName[:0], m, Credentials{})
	if bytes.Equal(user, name) {
		name = nil
	}
	return &Attempt{
		User: string(user), Name: string(name), Source: SourceOf(from), Method: m.Method, Nonce: g.Auth.Nonce(cr.Nonce), Stream: stream,
		UA: textOf(m.Value(wire.KindUserAgent)), CallID: textOf(m.Bytes(m.CallID)), At: now,
	}
}

// credentials are those that the answer to a request will be about. Of several lines a
// backend reads that of its realm, which an attacker can put behind others; it is told by
// a nonce that was given to this source. Without such a one the first line is taken.
func (g *Guard) credentials(m *wire.Msg, src Source, now time.Duration) (c Credentials, has bool) {
	given := func(x Credentials) bool {
		return g.Auth.Answered(&Attempt{Source: src, Method: m.Method, Nonce: g.Auth.Nonce(x.Nonce)}, now)
	}
	eachCredentials(m, func(x Credentials) bool {
		switch {
		case !has:
			c, has = x, true
			return true
		case given(c):
			return false
		case given(x):
			c = x
			return false
		}
		return true
	})
	return c, has
}

// Challenge notes a 401 or 407 of a backend that is passed to a source, before it is
// sent: who answers its nonce receives what we send there.
func (g *Guard) Challenge(s *Settings, m *wire.Msg, to netip.Addr, method wire.Method, now time.Duration) {
	if s.c.FailedAuthBanEnable == config.Off {
		return
	}
	src := SourceOf(to)
	Challenged(m, func(nonce []byte) { g.Auth.Issued(src, nonce, method, now) })
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
		return g.failed(s, at, status, now)
	}
	return AuthVerdict{}
}

// succeeded notes who proved himself. Somebody who does so again and again pays for his
// messages as everybody does.
func (g *Guard) succeeded(s *Settings, at *Attempt, now time.Duration) {
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
	for _, b := range []**Ban{&v.User, &v.Source} {
		x := *b
		if x == nil {
			continue
		}
		x.By, x.Until = "edge", now+s.c.FailedAuthBanTime.D()
		if s.c.FailedAuthBanEnable == config.Observe {
			continue
		}
		if !g.Book.Add(*x, now) {
			*b = nil // banned already, by another answer
		}
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
		g.trails.take(k.Source)
	}
	return g.Book.Remove(k)
}

// PardonAll lifts all bans and forgets what was counted of anybody, in the order of
// Pardon. It returns how many there were.
func (g *Guard) PardonAll() (n int) {
	g.Auth.forgetAll()
	g.Rates.ForgetAll()
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
