package security

import (
	"crypto/rand"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// strangerSources bounds the sources whose unproven failures are counted. One that goes
// on failing is not the one that is forgotten.
const strangerSources = 16384

// strangers are wrong passwords that nobody proved to be his: over UDP, with a nonce that
// was given to another source or to several. They ban no source, for it may be forged;
// but whoever has his nonces fetched elsewhere would guess as often as he likes. Auth.mu
// guards what is not atomic.
type strangers struct {
	of    recent[Source, []time.Duration] // as many times as the limit, the oldest first
	until atomic.Int64                    // nobody is at the limit from then on
}

func (x *strangers) failedLocked(s Source, l AuthLimits, now time.Duration) {
	if s == 0 || l.SourceAttempts <= 0 {
		return
	}
	at := x.of.get(s)
	if at == nil {
		at = x.of.add(s, false)
		*at = nil
	}
	*at = append(*at, now)
	if over := len(*at) - l.SourceAttempts; over > 0 {
		*at = (*at)[:copy(*at, (*at)[over:])]
	}
	if len(*at) == l.SourceAttempts && now-(*at)[0] < l.window() {
		x.until.Store(int64(max(time.Duration(x.until.Load()), (*at)[0]+l.window())))
	}
}

func (x *strangers) countLocked(s Source, l AuthLimits, now time.Duration) (n int) {
	if at := x.of.peek(s); at != nil {
		for _, t := range *at {
			if now-t < l.window() {
				n++
			}
		}
	}
	return n
}

// Doubts tells whether so many wrong passwords came in the name of a source, none of them
// proven, that it has to prove itself first.
func (a *Auth) Doubts(s Source, l AuthLimits, now time.Duration) bool {
	if now >= time.Duration(a.strangers.until.Load()) { // as nearly always
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return l.SourceAttempts > 0 && a.strangers.countLocked(s, l, now) >= l.SourceAttempts
}

// Holds tells whether credentials are of a challenge that was given to a source, for any
// method: a telephone uses that of its registration for its calls. That others have the same
// nonce is no matter, unless their challenges can be told apart by their opaque: whoever
// leaves his out or has changed it may have the nonce from elsewhere.
func (a *Auth) Holds(s Source, c Credentials, now time.Duration) bool {
	n, both := a.Nonce(c.Nonce), a.Opaque(c.Nonce, c.Opaque)
	a.nonceMu.Lock()
	defer a.nonceMu.Unlock()
	if !a.isIssuedLocked(s, n, now) {
		return false
	}
	o := a.owners.peek(n)
	if o == nil || !o.isMarked || o.source == s {
		return true
	}
	m := a.owners.peek(both)
	return m != nil && (m.source == s || m.source == 0)
}

func (a *Auth) isIssuedLocked(s Source, nonce uint64, now time.Duration) bool {
	for method := wire.UnknownMethod; method <= wire.UPDATE; method++ {
		if a.wasIssuedLocked(issue{nonce, s, method}, now) {
			return true
		}
	}
	return false
}

// borrowed asks a source in doubt to answer a nonce of ours, when the one that it comes
// with was not given to it. It is challenged, not refused: a telephone that has its nonce
// from another edge, or had another address when it got it, or whose address somebody
// forges, is asked once more, without a word to its user, for the nonce is said to be
// stale. Who answers has proved where he is, and what he fails from then on counts.
func (g *Guard) borrowed(s *Settings, x *Message, v *Verdict, now time.Duration) bool {
	if s.c.FailedAuthBanEnable == config.Off || x.Trusted || x.Stream || !g.Auth.Doubts(x.Source, s.auth, now) {
		return false
	}
	m := x.Msg
	if m.Method == wire.ACK || m.Method == wire.CANCEL {
		return false
	}
	var in Credentials // doubt
	isBorrowed := false
	x.eachCredentials(func(c Credentials) bool {
		isBorrowed, in = !g.Auth.Holds(x.Source, c, now), c
		return !isBorrowed
	})
	if !isBorrowed || g.isKnown(x.Source, x.From, now) || g.isInside(m) {
		return false
	}
	if !isQuotable(in.Realm) {
		return v.stop(Borrowed, s.c.FailedAuthBanEnable, Refuse, 400, "Bad Auth Header")
	}
	status, reason, header := 401, "Unauthorized", "WWW-Authenticate"
	if in.ForProxy {
		status, reason, header = 407, "Proxy Authentication Required", "Proxy-Authenticate"
	}
	if !v.stop(Borrowed, s.c.FailedAuthBanEnable, Refuse, status, reason) {
		return false
	}
	nonce := rand.Text()
	g.Auth.Issued(x.Source, Challenge{Realm: in.Realm, Nonce: []byte(nonce)}, m.Method, now)
	v.Header = []byte(header + `: Digest realm="` + string(in.Realm) + `",nonce="` + nonce + `",stale=true,algorithm=` + algorithmOf(in) + "\r\n")
	return true
}

// algorithmOf is that of credentials: nobody is talked down to a weaker one (RFC 8760). Who
// comes with one that we do not know is asked for what all know.
func algorithmOf(c Credentials) string {
	for _, name := range []string{"SHA-256", "SHA-512-256"} {
		if strings.EqualFold(name, string(c.Algorithm)) {
			return name
		}
	}
	return "MD5"
}

// isQuotable tells whether text can stand between quotes as it is.
func isQuotable(text []byte) bool {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text) && text[i+1] >= ' ':
			i++
		case c == '\\' || c == '"' || c < ' ' || c == 0x7f:
			return false
		}
	}
	return len(text) <= maxUser
}
