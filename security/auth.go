package security

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sipward/sipward/proxy/wire"
)

const (
	// failuresLife is how long failures in a row are remembered after the last one.
	failuresLife = time.Hour
	// nonceLife is how long a nonce proves something. Backends call most of them
	// stale much sooner.
	nonceLife = time.Hour
	// maxEvidenceText bounds the texts of a row of evidence, in bytes.
	maxEvidenceText = 128
)

// An Outcome says what a final answer to a request with credentials means.
type Outcome uint8

// What an answer can say about the password.
const (
	Nothing Outcome = iota
	Wrong
	Right
)

// String is the outcome as a word.
func (o Outcome) String() string {
	switch o {
	case Wrong:
		return "wrong"
	case Right:
		return "right"
	default:
		return "nothing"
	}
}

// JudgeAnswer reads a backend's final answer to a request with credentials. Wrong are
// the codes of its pool, of which only 401, 403 and 407 can mean a password, and 403
// only for REGISTER (FreeSWITCH); never a stale nonce.
//
// Right is a 2xx to REGISTER, and nothing else to it: there are backends that refuse
// an unknown address before they look at the password. Another method says that only
// when answered, i.e. when the backend asked for credentials for that method and so
// looks at them: then also by what is wrong with the call rather than with the caller.
// OPTIONS is answered without looking.
func JudgeAnswer(method wire.Method, status int, stale, answered bool, codes []int) Outcome {
	switch status {
	case 401, 407:
		if !stale && slices.Contains(codes, status) {
			return Wrong
		}
		return Nothing
	case 403:
		if method == wire.REGISTER && !stale && slices.Contains(codes, status) {
			return Wrong
		}
		return Nothing
	}
	success := status >= 200 && status < 300
	switch {
	case method == wire.REGISTER && success:
		return Right
	case method == wire.REGISTER || method == wire.OPTIONS || !answered:
		return Nothing
	case success || provesPassword(status):
		return Right
	}
	return Nothing
}

// provesPassword tells the refusals that a backend gives only after it let the caller in.
func provesPassword(status int) bool {
	switch status {
	case 404, 480, 484, 486, 488, 600, 603, 604, 606: // not 487: a caller may give up before anybody looked
		return true
	}
	return false
}

// An Attempt is a request with credentials as its transaction keeps it until the final
// answer.
type Attempt struct {
	User   string   // whose password the answer is about, as AppendUser writes it; empty when that cannot be told
	Others []string // users that its credentials name besides: a wrong password may have been theirs
	Name   string   // the same of From, where it is another: accounts of trunks and some PBXs have names of their own
	Source Source
	Method wire.Method
	Nonce  uint64 // of Auth.Nonce
	Opaque uint64 // of Auth.Opaque
	Stream bool   // it came over TCP or TLS
	UA     string // User-Agent
	CallID string
	At     time.Duration

	wasRight bool // see Auth.forgives
}

// The values of AuthLimits.Key, as failed_auth_ban_key has them.
const (
	ByUser       = "user"
	ByUserSource = "user_source"
	BySource     = "source"
)

// AuthLimits are the limits of failed authentication; a limit of 0 is none.
type AuthLimits struct {
	Attempts         int           // of one user in a row
	SourceAttempts   int           // of one source inside Window
	EnumerationUsers int           // of one source inside Window
	Window           time.Duration // 0 = a minute
	KnownFactor      int           // a known source may do that many times more
	Key              string        // what Attempts bans: ByUser (also ""), ByUserSource, BySource
}

func (l AuthLimits) window() time.Duration {
	if l.Window <= 0 {
		return time.Minute
	}
	return l.Window
}

// key is what failures in a row are counted by.
func (l AuthLimits) key(user string, s Source) Key {
	if l.Key == ByUserSource || l.Key == BySource {
		return Key{User: user, Source: s}
	}
	return Key{User: user}
}

// An AuthVerdict is what a failure leads to: bans to add, nil = none. Whoever adds
// them says Until and By.
type AuthVerdict struct {
	Users  []*Ban
	Source *Ban
}

// An AuthReading is what is counted of a key.
type AuthReading struct {
	InARow      int           // failures of the user, in a row
	First, Last time.Duration // of these

	SourceAttempts int // proven failures of the source, inside the window
	Unproven       int // the others, as far as SourceAttempts of the limits
	SourceUsers    int // of so many users
}

// Auth counts failed authentications by user and by source, as they are read from the
// backends' answers.
//
// Anybody can send requests in somebody else's name. So a source is blamed only for
// failures that it proved to be its own: over a stream, or with a nonce that was
// issued to this source and to no other (there are backends that give all challenges
// of one second the same; Asterisk does, but with an opaque of its own in each, which
// proves as much).
type Auth struct {
	seed maphash.Seed

	mu        sync.Mutex // guards users, sources, strangers and proofs
	users     recent[Key, failures]
	sources   recent[Source, guesses]
	strangers strangers
	proofs    recent[uint64, proof]

	nonceMu sync.Mutex // guards owners and issued
	owners  recent[uint64, owner]
	issued  recent[issue, issued]
}

// failures are those of one user in a row.
type failures struct {
	n           int
	first, last time.Duration
	rows        []Evidence
}

// guesses are the proven failures of one source inside the window, oldest first. There
// are fewer than the limit of each kind, for then it is banned and they go.
type guesses struct {
	times []time.Duration
	users []guess
	rows  []Evidence
}

// guess is the last failure of one user.
type guess struct {
	user uint64 // hash
	at   time.Duration
}

// owner is the only source that a nonce, or one with its opaque, was issued to, 0 = several.
type owner struct {
	source   Source
	isMarked bool // a nonce that came with an opaque, too
	at       time.Duration
}

// issue is a challenge that a source received.
type issue struct {
	nonce  uint64
	source Source
	method wire.Method
}

// issued is when that was, and what it was for.
type issued struct {
	at    time.Duration
	realm uint64 // hash
}

// NewAuth makes tables of that many users, sources and challenges each. They take
// memory for what they hold.
func NewAuth(capacity int) *Auth {
	return &Auth{
		seed:      maphash.MakeSeed(),
		users:     newRecent[Key, failures](capacity),
		sources:   newRecent[Source, guesses](capacity),
		strangers: strangers{of: newRecent[Source, []time.Duration](min(capacity, strangerSources))},
		proofs:    newRecent[uint64, proof](capacity),
		owners:    newRecent[uint64, owner](capacity),
		issued:    newRecent[issue, issued](capacity),
	}
}

// Nonce is what an Attempt keeps of its nonce, 0 of an empty one.
func (a *Auth) Nonce(nonce []byte) uint64 {
	if len(nonce) == 0 {
		return 0
	}
	return max(maphash.Bytes(a.seed, nonce), 1)
}

// Opaque is what an Attempt keeps of its nonce and opaque together, 0 without an opaque.
func (a *Auth) Opaque(nonce, opaque []byte) uint64 {
	if len(opaque) == 0 {
		return 0
	}
	var h maphash.Hash
	h.SetSeed(a.seed)
	_, _ = h.Write(nonce) // never fails, nor do the others
	_ = h.WriteByte('"')  // in neither of them
	_, _ = h.Write(opaque)
	return max(h.Sum64(), 1)
}

// Issued notes a challenge that goes to a source. It must be called before it is sent.
func (a *Auth) Issued(s Source, c Challenge, method wire.Method, now time.Duration) {
	n, both := a.Nonce(c.Nonce), a.Opaque(c.Nonce, c.Opaque)
	if n == 0 || s == 0 {
		return
	}
	a.nonceMu.Lock()
	defer a.nonceMu.Unlock()
	a.ownsLocked(s, n, both != 0, now)
	if both != 0 {
		a.ownsLocked(s, both, false, now)
	}
	i := issue{n, s, method}
	at := a.issued.get(i)
	if at == nil {
		at = a.issued.add(i, false)
	}
	*at = issued{now, maphash.Bytes(a.seed, c.Realm)}
}

func (a *Auth) ownsLocked(s Source, n uint64, isMarked bool, now time.Duration) {
	o := a.owners.get(n)
	switch {
	case o == nil:
		*a.owners.add(n, false) = owner{s, isMarked, now}
	case now-o.at > nonceLife:
		*o = owner{s, isMarked, now}
	case o.source == s:
		*o = owner{s, isMarked || o.isMarked, now}
	default:
		*o = owner{0, isMarked || o.isMarked, now}
	}
}

// Asked tells whether the nonce of credentials was issued to a source for a method, and
// whether their realm was the one it was issued for.
func (a *Auth) Asked(s Source, c Credentials, method wire.Method, now time.Duration) (nonce, realm bool) {
	i := issue{a.Nonce(c.Nonce), s, method}
	a.nonceMu.Lock()
	defer a.nonceMu.Unlock()
	if i.nonce == 0 || !a.wasIssuedLocked(i, now) {
		return false, false
	}
	return true, a.issued.peek(i).realm == maphash.Bytes(a.seed, c.Realm)
}

// Answered tells whether the attempt's nonce was issued to its source for its method.
func (a *Auth) Answered(at *Attempt, now time.Duration) bool {
	if at.Nonce == 0 {
		return false
	}
	a.nonceMu.Lock()
	defer a.nonceMu.Unlock()
	return a.wasIssuedLocked(issue{at.Nonce, at.Source, at.Method}, now)
}

func (a *Auth) wasIssuedLocked(i issue, now time.Duration) bool {
	at := a.issued.peek(i)
	return at != nil && now-at.at <= nonceLife
}

// proves tells whether nobody but its source can have sent the attempt.
func (a *Auth) proves(at *Attempt, now time.Duration) bool {
	if at.Source == 0 || at.Stream || at.Nonce == 0 {
		return at.Source != 0 && at.Stream
	}
	a.nonceMu.Lock()
	defer a.nonceMu.Unlock()
	return a.isOwnerLocked(at.Source, at.Nonce, now) || at.Opaque != 0 && a.isOwnerLocked(at.Source, at.Opaque, now)
}

func (a *Auth) isOwnerLocked(s Source, n uint64, now time.Duration) bool {
	o := a.owners.peek(n)
	return o != nil && o.source == s && now-o.at <= nonceLife
}

// Failure counts an attempt whose answer was Wrong, once per transaction; known says
// that its source proved itself lately. When a limit is reached, what led to the ban
// is counted from 0 again.
func (a *Auth) Failure(at *Attempt, l AuthLimits, known bool, status int, now time.Duration) (v AuthVerdict) {
	proven := a.proves(at, now)
	factor := 1
	if known {
		factor = max(l.KnownFactor, 1)
	}
	row := Evidence{At: at.At, Method: at.Method.String(), CallID: cutText(at.CallID), Status: status}
	if row.At == 0 {
		row.At = now
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	at.eachUser(func(user string) {
		switch {
		case l.Key != BySource:
			if b := a.userFailedLocked(user, at.Source, l, l.Attempts, row, now); b != nil {
				b.Proven = proven
				v.Users = append(v.Users, b)
			}
		case proven:
			if b := a.userFailedLocked(user, at.Source, l, times(l.Attempts, factor), row, now); b != nil {
				v.Source = b
			}
		}
	})
	if at.wasRight { // the user's count is the right password's to clear
		return v
	}
	if !proven {
		a.strangers.failedLocked(at.Source, l, now)
		return v
	}
	if b := a.sourceFailedLocked(at, l, factor, row, now); v.Source == nil {
		v.Source = b
	}
	if v.Source != nil {
		v.Source.Key, v.Source.Proven = Key{Source: at.Source}, true
	}
	return v
}

// eachUser calls f for everybody whose password may have been wrong.
func (at *Attempt) eachUser(f func(user string)) {
	if at.User != "" {
		f(at.User)
	}
	for _, user := range at.Others {
		f(user)
	}
}

// userFailedLocked counts one user's failures in a row.
func (a *Auth) userFailedLocked(user string, s Source, l AuthLimits, limit int, row Evidence, now time.Duration) *Ban {
	if limit <= 0 {
		return nil
	}
	k := l.key(user, s)
	f := a.users.get(k)
	if f == nil {
		f = a.users.add(k, false)
		*f = failures{}
	}
	if f.n == 0 || now-f.last > failuresLife {
		*f = failures{first: now}
	}
	f.n++
	f.last = max(f.last, now)
	f.rows = appendRow(f.rows, row)
	if f.n < limit {
		return nil
	}
	b := &Ban{
		Key: k, Rule: FailedAuth, Since: now,
		Count: f.n, Limit: limit, First: f.first, Last: f.last, Evidence: f.rows,
	}
	a.users.remove(k)
	return b
}

// sourceFailedLocked counts one source's proven failures and their users.
func (a *Auth) sourceFailedLocked(at *Attempt, l AuthLimits, factor int, row Evidence, now time.Duration) *Ban {
	most, mostUsers := times(l.SourceAttempts, factor), times(l.EnumerationUsers, factor)
	if most <= 0 && mostUsers <= 0 {
		return nil
	}
	g := a.sources.get(at.Source)
	if g == nil {
		g = a.sources.add(at.Source, false)
		*g = guesses{}
	}
	g.forgetUntil(now - l.window())
	g.rows = appendRow(g.rows, row)
	if most > 0 {
		g.times = append(g.times, now)
	}
	if mostUsers > 0 {
		at.eachUser(func(user string) { g.tried(maphash.String(a.seed, user), now) })
	}
	b := &Ban{Since: now, Window: l.window(), Last: now}
	switch {
	case mostUsers > 0 && len(g.users) >= mostUsers:
		b.Rule, b.Count, b.Limit, b.First = Enumeration, len(g.users), mostUsers, g.users[0].at
	case most > 0 && len(g.times) >= most:
		b.Rule, b.Count, b.Limit, b.First = FailedAuthSource, len(g.times), most, g.times[0]
	default:
		return nil
	}
	b.Evidence = g.rows
	a.sources.remove(at.Source)
	return b
}

// forgetUntil drops what is not after t.
func (g *guesses) forgetUntil(t time.Duration) {
	g.times = slices.DeleteFunc(g.times, func(at time.Duration) bool { return at <= t })
	g.users = slices.DeleteFunc(g.users, func(u guess) bool { return u.at <= t })
	g.rows = slices.DeleteFunc(g.rows, func(e Evidence) bool { return e.At <= t })
}

// tried makes a user the last one that was tried.
func (g *guesses) tried(user uint64, now time.Duration) {
	i := slices.IndexFunc(g.users, func(u guess) bool { return u.user == user })
	if i >= 0 {
		g.users = slices.Delete(g.users, i, i+1)
	}
	g.users = append(g.users, guess{user, now})
}

// Success forgets the failures of an attempt's user: its answer was Right.
func (a *Auth) Success(at *Attempt, _ time.Duration) {
	if at.User == "" {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.users.remove(Key{User: at.User})
	a.users.remove(Key{User: at.User, Source: at.Source})
}

// Forget forgets what is counted of a key: of a user wherever he was, of a source
// whoever it tried to be. It looks at all users.
func (a *Auth) Forget(k Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if k.User == "" {
		a.sources.remove(k.Source)
		a.strangers.of.remove(k.Source)
	}
	a.users.removeFunc(func(x Key) bool {
		return (k.User == "" || k.User == x.User) && (k.Source == 0 || k.Source == x.Source)
	})
}

// Read tells what is counted of a key under these limits, without counting.
func (a *Auth) Read(k Key, l AuthLimits, now time.Duration) (r AuthReading) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if k.User != "" {
		if f := a.users.peek(l.key(k.User, k.Source)); f != nil && now-f.last <= failuresLife {
			r.InARow, r.First, r.Last = f.n, f.first, f.last
		}
	}
	if g := a.sources.peek(k.Source); g != nil {
		g.forgetUntil(now - l.window())
		r.SourceAttempts, r.SourceUsers = len(g.times), len(g.users)
	}
	r.Unproven = a.strangers.countLocked(k.Source, l, now)
	return r
}

// times is limit × factor, without overflow.
func times(limit, factor int) int {
	const most = 1 << 30
	if limit <= 0 || limit >= most/factor {
		return min(limit, most)
	}
	return limit * factor
}

// appendRow keeps the last rows of evidence.
func appendRow(rows []Evidence, e Evidence) []Evidence {
	if len(rows) < maxEvidence {
		return append(rows, e)
	}
	copy(rows, rows[1:])
	rows[len(rows)-1] = e
	return rows
}

// cutText bounds a text of a message and lets go of the rest.
func cutText(s string) string {
	if len(s) <= maxEvidenceText {
		return s
	}
	return strings.Clone(s[:maxEvidenceText])
}
