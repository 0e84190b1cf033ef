package security

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// Bounds of tables that the configuration does not name.
const (
	knownSources = 200000
	authEntries  = 200000
	loopKeys     = 65536
	trailSources = 4096
	toldKeys     = 4096
)

// toldAgain is how long nothing more is said about a source that stays above a limit.
const toldAgain = time.Minute

// A Guard holds what the rules count and remember. It decides; its caller drops,
// answers, logs and closes. All methods are safe for concurrent use.
type Guard struct {
	Rates  *Rates // messages
	Book   *Book
	Known  *Known
	Auth   *Auth
	Loops  *Loops
	Bridge *Bridge

	calls     func(netip.Addr) int
	inside    func(*wire.Msg) bool
	newcomers newcomers
	connects  *Rates // new connections
	// Keep-alives, where all sources together send many.
	pinging    newcomers
	keepAlives *Rates
	trails     trails
	told       told
	soft       softBans
}

// Options of a Guard. All are needed.
type Options struct {
	MaxSources, MaxBans int
	Calls               func(netip.Addr) int // answered calls of an address; asked rarely
	Inside              func(*wire.Msg) bool // a request with a To tag belongs to a dialog that runs; asked rarely
	Gateways            []netip.Addr         // see Bridge
}

// NewGuard makes an empty one.
func NewGuard(o Options) *Guard {
	g := &Guard{
		Rates: NewRates(o.MaxSources), Book: NewBook(o.MaxBans), Known: NewKnown(knownSources), Auth: NewAuth(authEntries),
		connects: NewRates(steadySources), keepAlives: NewRates(steadySources),
		Loops: NewLoops(loopKeys), Bridge: NewBridge(o.Gateways), calls: o.Calls, inside: o.Inside,
	}
	g.trails.of = newRecent[Source, trail](trailSources)
	g.told.until = newRecent[Key, time.Duration](toldKeys)
	return g
}

// Action is what is to be done with a message.
type Action uint8

const (
	Pass Action = iota
	Drop
	Refuse // answer with Verdict.Status
)

// A Verdict is what the rules make of one message. The zero Verdict lets it pass.
type Verdict struct {
	Action Action
	Rule   Rule
	Status int // of Refuse
	Reason string
	Header []byte // of Refuse, whole lines
	// Soft: a message of a source whose running calls go on, and nothing else.
	Soft bool
	// Near: a message that may be one of the last before a ban; see Guard.Trail.
	Near bool
	// Ban was decided just now and is in the Book.
	Ban *Ban
	// Exceeded: a limit was exceeded that nobody is banned for.
	Exceeded bool
	Count    int
	Limit    int
	Window   time.Duration
	Why      string // nobody is
	// Suspended: it would have been a ban of a gateway that everybody is behind.
	Suspended bool
	// Observed: it would have been stopped, had the mode of Rule not been observe.
	Observed bool
}

// A Packet is what the packet stage looks at: nothing of the message was read.
type Packet struct {
	From   netip.Addr
	Source Source
	Stream bool
	Counts bool // see Counts
}

// Counts says whether a message is charged to its source at once: requests, and what
// is no SIP. Of replies only those count that match nothing, and of keep-alives none;
// empty lines have not come this far.
func Counts(b []byte) bool {
	return !isReply(b) && !IsSTUN(b)
}

var replyLine = []byte("SIP/2.0 ")

func isReply(b []byte) bool { return bytes.HasPrefix(b, replyLine) }

// IsSTUN tells a STUN message, as clients send it to keep a NAT open (RFC 5389 6).
func IsSTUN(b []byte) bool {
	return len(b) >= 20 && b[0]&0xc0 == 0 && b[4] == 0x21 && b[5] == 0x12 && b[6] == 0xa4 && b[7] == 0x42
}

// packetStage looks at a message before anything of it is read, the cheapest rule
// first. A rule that returns true has the last word.
var packetStage = [...]func(*Guard, *Settings, *Packet, *Verdict, time.Duration) bool{
	(*Guard).banned,
	(*Guard).flood,
}

// Packet judges a message by its source alone. v has to be empty.
func (g *Guard) Packet(s *Settings, p *Packet, v *Verdict, now time.Duration) {
	for _, rule := range packetStage {
		if rule(g, s, p, v, now) {
			return
		}
	}
}

// grade is how a ban stops what comes from an address. Whom it must not hit is asked
// again here: a name may have been resolved, a configuration reloaded since the ban.
func (g *Guard) grade(s *Settings, src Source, from netip.Addr, now time.Duration) Grade {
	grade := g.Book.Source(src, now)
	if grade == Free || s.Trusts(from) || g.Bridge.Suspends(from, now) {
		return Free
	}
	return grade
}

// banned drops what comes from a banned source.
func (g *Guard) banned(s *Settings, p *Packet, v *Verdict, now time.Duration) bool {
	switch g.grade(s, p.Source, p.From, now) {
	case Hard:
		g.Book.Strike(p.Source, now)
		v.Action = Drop
	case Soft:
		v.Soft = true // and it may not flood either
	}
	return v.Action == Drop
}

// Banned is the packet stage's first rule alone, for who has nothing but an address:
// it counts a message that is to be dropped unread.
func (g *Guard) Banned(s *Settings, from netip.Addr, now time.Duration) bool {
	src := SourceOf(from)
	if g.grade(s, src, from, now) != Hard {
		return false
	}
	g.Book.Strike(src, now)
	return true
}

// Stops says whether everything that an address sends is dropped.
func (g *Guard) Stops(s *Settings, from netip.Addr, now time.Duration) bool {
	return g.grade(s, SourceOf(from), from, now) == Hard
}

// flood counts a message, and bans its source when it is one too many.
func (g *Guard) flood(s *Settings, p *Packet, v *Verdict, now time.Duration) bool {
	if !p.Counts || s.c.DoSBanEnable == config.Off {
		return false
	}
	n := g.Rates.Count(p.Source, s.c.DoSSamplingTimeUnit.D(), s.most, now)
	if n == 1 && !p.Stream && g.isCrowd(s, p, now) {
		return v.stop(NewSources, s.c.DoSBanEnable, Drop, 0, "")
	}
	if n <= s.density-maxEvidence {
		return false
	}
	g.crowded(s, p, n, budget{g.Rates, s.density, s.c.DoSSamplingTimeUnit.D()}, v, now)
	return v.Action != Pass
}

// isCrowd says whether the first message of a source is one of too many. A real client
// sends its request again (RFC 3261 17.1), and that one passes; who forges addresses
// would have to use each of them twice.
func (g *Guard) isCrowd(s *Settings, p *Packet, now time.Duration) bool {
	limit := s.c.DoSNewSourcesPerSecond
	return limit > 0 && g.newcomers.over(limit, now) && !s.Trusts(p.From) && !g.isKnown(p.Source, p.From, now)
}

// newcomers count sources that are new, by the second.
type newcomers struct {
	second atomic.Int64
	n      atomic.Int64
	before atomic.Int64 // in the second before
}

// over counts one and says whether there are, or just were, more than the limit: as
// long as a flood lasts, none of it passes.
func (c *newcomers) over(limit int, now time.Duration) bool {
	second := int64(now / time.Second)
	if was := c.second.Load(); was != second && c.second.CompareAndSwap(was, second) {
		n := c.n.Swap(0)
		if was != second-1 {
			n = 0
		}
		c.before.Store(n)
	}
	return c.n.Add(1) > int64(limit) || c.before.Load() > int64(limit)
}

// budget is what a source that nobody knows may send.
type budget struct {
	counted *Rates
	limit   int
	window  time.Duration
}

// crowded judges a source that sent so much that a closer look is worth its time.
func (g *Guard) crowded(s *Settings, p *Packet, n int, b budget, v *Verdict, now time.Duration) {
	limit := b.limit
	v.Near = n <= limit
	if v.Near {
		return
	}
	v.Count, v.Limit, v.Window, v.Rule = n, limit, b.window, DoS
	if s.Trusts(p.From) {
		if g.exceeds(p.Source, v, now) {
			v.Why = "is " + s.TrustedAs(p.From)
		}
		return
	}
	known := g.isKnown(p.Source, p.From, now)
	if known {
		limit *= s.c.DoSKnownFactor
		v.Limit = limit
		v.Near = n > limit-maxEvidence && n <= limit
		if n <= limit {
			return
		}
	}
	switch {
	case s.c.DoSBanEnable == config.Observe:
		v.Observed, v.Why = true, "dos_ban_enable is observe"
		g.exceeds(p.Source, v, now)
		return
	case g.Bridge.Suspends(p.From, now):
		v.Suspended, v.Why = true, "is this host's gateway, and all comes from there"
		g.exceeds(p.Source, v, now)
		return
	}
	v.Action = Drop
	g.ban(s, p, known, b.counted, v, now)
}

// ban enters a source that floods. When the Book is full of worse ones, or another
// reader was faster, its message is dropped all the same.
func (g *Guard) ban(s *Settings, p *Packet, known bool, counted *Rates, v *Verdict, now time.Duration) {
	_, first, last := counted.Read(p.Source, v.Window, now)
	x := Ban{
		Key: Key{Source: p.Source}, Rule: DoS, Since: now, Until: now + s.c.DoSBanTime.D(), Hard: true, Proven: p.Stream || known,
		Count: v.Count, Limit: v.Limit, Window: v.Window, First: first, Last: last, By: "edge", Evidence: g.trails.take(p.Source),
	}
	if short := s.c.DoSUnprovenBanTime.D(); short > 0 && !x.Proven {
		x.Until = now + min(short<<min(g.Book.Repeats(p.Source, now), 20), s.c.DoSBanTime.D())
	}
	if g.Book.Add(x, now) {
		v.Ban = &x
	} else if v.Soft {
		g.Book.SetHard(p.Source, true, now)
	}
}

// exceeds says whether it is to be told that nobody is banned: once a minute for each
// source.
func (g *Guard) exceeds(s Source, v *Verdict, now time.Duration) bool {
	v.Exceeded = g.told.isNews(Key{Source: s}, now)
	return v.Exceeded
}

// Stray counts a reply that matched nothing, which no Packet verdict did.
func (g *Guard) Stray(s *Settings, p *Packet, v *Verdict, now time.Duration) {
	p.Counts = true
	g.flood(s, p, v, now)
}

// isKnown says whether a source proved itself: by a password that was right in the
// last hour, or by a call that goes on.
func (g *Guard) isKnown(src Source, a netip.Addr, now time.Duration) bool {
	return g.Known.Source(src, now) || g.calls(a) > 0
}

// IsKnown is isKnown for an address.
func (g *Guard) IsKnown(a netip.Addr, now time.Duration) bool { return g.isKnown(SourceOf(a), a, now) }

// Trail keeps a message that may turn out to be evidence; see Verdict.Near.
func (g *Guard) Trail(src Source, m *wire.Msg, now time.Duration) {
	g.trails.add(src, Evidence{At: now, Method: textOf(m.Bytes(m.MethodName)), CallID: textOf(m.Bytes(m.CallID))})
}

// textOf is the beginning of a value as evidence keeps it.
func textOf(b []byte) string { return string(b[:min(len(b), maxEvidenceText)]) }

// A Message is what the message stage looks at: a new request with sound syntax.
type Message struct {
	Msg     *wire.Msg
	From    netip.Addr
	Source  Source
	Trusted bool // Settings.Trusts(From)
	Stream  bool // over TCP, TLS or WebSocket
	// Member: sent by a pool member, towards anywhere.
	Member bool
	// What the sanity check read, when isRead: the first credentials.
	credentials            Credentials
	hasCredentials, isRead bool
	caller                 party // From, when isCallerRead
	isCallerRead           bool
	// Key of the user that it speaks for, where the rules had to know; see AppendUser.
	user []byte
	buf  [1 + maxUser]byte // asName, user
}

// hasTag says whether the message claims to be part of a dialog, as anybody may.
func (x *Message) hasTag() bool { return !x.Msg.To.Tag.Empty() }

// from is whom From names, which several rules ask for.
func (x *Message) from() *party {
	if !x.isCallerRead {
		x.caller, x.isCallerRead = partyOf(x.Msg, &x.Msg.From), true
	}
	return &x.caller
}

// isInside says whether a message is part of a dialog that runs: nothing of it is
// stopped. Registrations never are.
func (g *Guard) isInside(m *wire.Msg) bool {
	return !m.To.Tag.Empty() && m.Method != wire.REGISTER && g.inside(m)
}

// messageStage looks at a new request that is no retransmission, and at an ACK or CANCEL
// of no INVITE that we know; the cheapest rule first.
var messageStage = [...]func(*Guard, *Settings, *Message, *Verdict, time.Duration) bool{
	(*Guard).scanner,
	(*Guard).sanity,
	(*Guard).bannedUser,
	(*Guard).borrowed,
	(*Guard).loop,
}

// Message judges a new request. v has to be empty; one that passes with Observed set
// tells of the first rule that would have stopped it.
func (g *Guard) Message(s *Settings, x *Message, v *Verdict, now time.Duration) {
	for _, rule := range messageStage {
		if rule(g, s, x, v, now) {
			return
		}
	}
}

// stop is what a rule decides in its mode: it returns true when the message is not to
// go on.
func (v *Verdict) stop(r Rule, mode config.Mode, a Action, status int, reason string) bool {
	if mode == config.Observe {
		if !v.Observed {
			v.Observed, v.Rule = true, r
		}
		return false
	}
	v.Action, v.Rule, v.Status, v.Reason = a, r, status, reason
	return true
}

func (g *Guard) scanner(s *Settings, x *Message, v *Verdict, _ time.Duration) bool {
	b := &s.c.BlockUserAgents
	if b.Enable == config.Off || x.Trusted {
		return false
	}
	if _, found := s.signatures.Match(x.Msg); !found || g.isInside(x.Msg) {
		return false
	}
	if b.Action == "reject" {
		return v.stop(Scanner, b.Enable, Refuse, 403, "Forbidden")
	}
	return v.stop(Scanner, b.Enable, Drop, 0, "")
}

func (g *Guard) sanity(s *Settings, x *Message, v *Verdict, _ time.Duration) bool {
	if s.c.SanityEnable == config.Off || x.Trusted {
		return false
	}
	c, has, reason := sane(x.Msg)
	if reason != "" {
		return v.stop(Sanity, s.c.SanityEnable, Refuse, 400, reason)
	}
	x.credentials, x.hasCredentials, x.isRead = c, has, true
	return false
}

// bannedUser refuses who failed too often, unless the source proved for that very user
// that it knows the password: else anybody could lock a victim out.
func (g *Guard) bannedUser(s *Settings, x *Message, v *Verdict, now time.Duration) bool {
	if s.c.FailedAuthBanEnable == config.Off || x.Trusted || !g.Book.HasUsers() {
		return false
	}
	if x.Msg.Method == wire.ACK || x.Msg.Method == wire.CANCEL {
		return false
	}
	k, found := g.bannedKey(x, now)
	if !found || g.isInside(x.Msg) {
		return false
	}
	g.Book.StrikeUser(k, now)
	if s.c.FailedAuthBanReply == "drop" {
		return v.stop(FailedAuth, s.c.FailedAuthBanEnable, Drop, 0, "")
	}
	return v.stop(FailedAuth, s.c.FailedAuthBanEnable, Refuse, 403, "Try again later")
}

// bannedKey is the ban of a user that a message speaks for: of anyone whose credentials
// it has, for which of them a backend reads is not known here, else of the one in From.
func (g *Guard) bannedKey(x *Message, now time.Duration) (k Key, found bool) {
	has := false
	x.eachCredentials(func(c Credentials) bool {
		has = true
		k, found = g.banOf(x, c, now)
		found = found && !g.Known.User(x.Source, x.user, now)
		return !found
	})
	if !has {
		k, found = g.banOf(x, Credentials{}, now)
		found = found && !g.Known.User(x.Source, x.user, now) && !g.Known.User(x.Source, x.buf[:1+len(x.user)], now)
	}
	return k, found
}

// eachCredentials is the function of that name. Most messages have one line of them at
// most, which needs no second reading.
func (x *Message) eachCredentials(f func(Credentials) bool) {
	lines := 0
	for i := range x.Msg.Headers {
		if k := x.Msg.Headers[i].Kind; k == wire.KindAuthorization || k == wire.KindProxyAuthorization {
			lines++
		}
	}
	switch {
	case lines > 1 || !x.isRead:
		eachCredentials(x.Msg, f)
	case x.hasCredentials:
		f(x.credentials)
	}
}

func (g *Guard) banOf(x *Message, c Credentials, now time.Duration) (Key, bool) {
	x.user = appendUser(append(x.buf[:0], asName...)[1:], x.Msg, x.from(), c)
	return g.Book.User(x.user, x.Source, now)
}

// loop counts a new call. Those of trusted sources count too: loops come from
// carriers. A PBX that rings several contacts of one user sends as many calls at once,
// which differ in their Request-URI; a loop through it does not.
func (g *Guard) loop(s *Settings, x *Message, v *Verdict, now time.Duration) bool {
	m := x.Msg
	if m.Method != wire.INVITE || s.c.LoopEnable == config.Off || x.hasTag() {
		return false
	}
	key, ok := g.loopKey(s, x)
	if !ok {
		return false
	}
	n, isNew := g.Loops.Count(key, m.Bytes(m.CallID), s.c.LoopFromToPerSecond, now)
	if n <= s.c.LoopFromToPerSecond || !isNew {
		return false
	}
	v.Count, v.Limit, v.Window = n, s.c.LoopFromToPerSecond, time.Second
	return v.stop(Loop, s.c.LoopEnable, Refuse, 482, "Loop detected")
}

// loopKey is what the calls of a loop have in common. Each source that is not trusted is
// counted apart: else whoever names two others could keep them from each other. A loop comes
// by the same sources again and again.
func (g *Guard) loopKey(s *Settings, x *Message) (key uint64, ok bool) {
	m := x.Msg
	var target, apart []byte
	if x.Member {
		target = m.Bytes(m.RURI)
	}
	var source [8]byte
	if !x.Trusted {
		apart = binary.BigEndian.AppendUint64(source[:0], uint64(x.Source))
	}
	from, to := x.from(), partyOf(m, &m.To)
	if !from.isSound || !to.isSound {
		return g.Loops.Key(m.Bytes(m.From.URI), m.Bytes(m.To.URI), target, apart), true
	}
	if s.isExempt(from.user) || s.isExempt(to.user) {
		return 0, false
	}
	if s.c.LoopKey == "uri" {
		var bufF, bufT [255]byte
		return g.Loops.Key(from.user, lowered(bufF[:0], from.host), to.user, lowered(bufT[:0], to.host), target, apart), true
	}
	return g.Loops.Key(from.user, to.user, target, apart), true
}

// lowered appends ASCII letters in lower case, as hosts are compared.
func lowered(dst, b []byte) []byte {
	for _, c := range b[:min(len(b), cap(dst))] {
		dst = append(dst, lower(c))
	}
	return dst
}

// trails keep the last messages of sources that are close to a ban.
type trails struct {
	mu sync.Mutex
	of recent[Source, trail]
}

type trail struct {
	rows [maxEvidence]Evidence
	n    int // messages so far
}

func (t *trails) add(s Source, e Evidence) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.of.get(s)
	if x == nil {
		x = t.of.add(s, false)
		*x = trail{}
	}
	x.rows[x.n%maxEvidence] = e
	x.n++
}

// take returns the rows, the oldest first, and forgets them.
func (t *trails) take(s Source) (rows []Evidence) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.of.peek(s)
	if x == nil {
		return nil
	}
	for i := max(0, x.n-maxEvidence); i < x.n; i++ {
		rows = append(rows, x.rows[i%maxEvidence])
	}
	t.of.remove(s)
	return rows
}

func (t *trails) forgetAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of = newRecent[Source, trail](trailSources)
}

// told remembers about whom something was said lately.
type told struct {
	mu    sync.Mutex
	until recent[Key, time.Duration]
}

func (t *told) isNews(k Key, now time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	until := t.until.get(k)
	if until != nil && now < *until {
		return false
	}
	if until == nil {
		until = t.until.add(k, false)
	}
	*until = now + toldAgain
	return true
}
