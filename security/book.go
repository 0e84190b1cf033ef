package security

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
	"unsafe"
)

// A Grade says how much of what a source sends is stopped.
type Grade uint8

const (
	Free Grade = iota
	Soft       // new requests
	Hard       // everything, unread
)

// String is the grade's name.
func (g Grade) String() string {
	switch g {
	case Soft:
		return "soft"
	case Hard:
		return "hard"
	}
	return "free"
}

// Numbers we chose.
const (
	mostBans     = 1 << 24
	mostEvidence = 4096 // bans that keep theirs, the most recent ones
	evictSample  = 32   // bans that are looked at for the one which makes room
	expireBatch  = 1024 // bans that end in one hold of the mutex: less than 1 ms
	listBatch    = 256  // bans that are copied in one hold of the mutex
	maxLabel     = 256  // of By and Why, in bytes
	maxQuote     = 128  // of what evidence quotes from a message, in bytes
)

// Book is the list of bans.
//
// Source and Strike, asked for every packet, take no lock and do not wait for anybody
// who changes the list; User takes a lock that is held for the length of a map access.
// It has room for so many sources, and for users an eighth more. A ban that is over
// stops nothing from that moment on, and is in the counts until Expire sees it.
type Book struct {
	records   banRecords
	index     atomic.Pointer[banIndex] // nil while no source is banned
	version   atomic.Uint64
	userCount atomic.Int64

	// users is written with both mutexes held, and read with either. usersMu comes
	// after mu.
	usersMu sync.RWMutex
	users   map[Key]*bannedUser

	// mu guards what follows, and is held by all who change anything.
	mu      sync.Mutex
	sources banShelf
	persons banShelf
	names   map[uint32]*bannedUser // by record, of users' bans
	labels  map[uint32]*banLabel   // by record, of bans that the edge did not make
	label   *banLabel              // the last one, for bans come in lists from one operator
	proofs  map[uint32][]Evidence  // by record
	former  formerBans
	serial  uint32
	evicted uint64
	refused uint64
	text    int // bytes of names, labels and proofs
	// shown is whose evidence is kept, a ring when it is full; nextShown is the oldest.
	shown     []shownBan
	nextShown int
}

// A banShelf holds the bans of one kind.
type banShelf struct {
	most int
	due  []dueBan // a heap, the first to end on top
	// loose are those that may make room for another one: neither proven nor an
	// operator's.
	loose []uint32
}

type dueBan struct {
	until  time.Duration
	record uint32
}

type bannedUser struct {
	Key
	record *banRecord
}

type banLabel struct {
	by, why string
	bans    int // that it is of
}

type shownBan struct{ record, serial uint32 }

// edgeBy is who makes the bans of rules.
const edgeBy = "edge"

// NewBook makes a list with room for so many bans of sources. Memory is taken as bans
// are added.
func NewBook(capacity int) *Book {
	capacity = min(max(capacity, 1), mostBans)
	users := max(capacity/8, min(capacity, 1024))
	b := &Book{
		users:   make(map[Key]*bannedUser),
		sources: banShelf{most: capacity},
		persons: banShelf{most: users},
		names:   make(map[uint32]*bannedUser),
		labels:  make(map[uint32]*banLabel),
		proofs:  make(map[uint32][]Evidence),
		former:  newFormerBans(capacity / 3),
	}
	b.records.chunks = make([]atomic.Pointer[banChunk], (capacity+users+chunkRecords-1)/chunkRecords)
	return b
}

// Source tells what is stopped of a source.
func (b *Book) Source(s Source, now time.Duration) Grade {
	if t := b.index.Load(); t != nil && s != 0 {
		if r, state := t.find(s, &b.records); r != nil {
			return state.grade(now)
		}
	}
	return Free
}

// Strike is Source that counts the message if the source is banned.
func (b *Book) Strike(s Source, now time.Duration) Grade {
	t := b.index.Load()
	if t == nil || s == 0 {
		return Free
	}
	r, state := t.find(s, &b.records)
	if r == nil {
		return Free
	}
	g := state.grade(now)
	if g != Free {
		r.strike(now)
	}
	return g
}

// User finds the ban of a user, everywhere or at the source.
func (b *Book) User(user []byte, s Source, now time.Duration) (Key, bool) {
	if b.userCount.Load() == 0 || len(user) == 0 {
		return Key{}, false
	}
	b.usersMu.RLock()
	defer b.usersMu.RUnlock()
	// A key made in the index expression is not copied to the heap.
	if u := b.users[Key{User: string(user)}]; u.isBanned(now) {
		return u.Key, true
	}
	if s != 0 {
		if u := b.users[Key{User: string(user), Source: s}]; u.isBanned(now) {
			return u.Key, true
		}
	}
	return Key{}, false
}

func (u *bannedUser) isBanned(now time.Duration) bool {
	return u != nil && banState(u.record.state.Load()).grade(now) != Free
}

// StrikeUser counts a message that the ban of a user stopped.
func (b *Book) StrikeUser(k Key, now time.Duration) {
	b.usersMu.RLock()
	defer b.usersMu.RUnlock()
	if u := b.users[k]; u.isBanned(now) {
		u.record.strike(now)
	}
}

// Add adds a ban. It is refused if there is one already, unless an operator asks for
// it: his takes its place, and goes on with its drops and evidence. It is also refused
// if it is over, if its key is none, and when the list is full of bans that are not to
// be moved: an operator's, and those of sources whose messages nobody can have forged.
// Of the others, that a flood of forged messages can bring about in any number, the one
// that stops least at present makes room.
func (b *Book) Add(x Ban, now time.Duration) bool {
	if x.Until <= max(now, 0) || x.Key == (Key{}) || len(x.User) > maxUser {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n, ok := b.numberLocked(x.Key)
	if ok && banState(b.records.at(n).state.Load()).grade(now) == Free {
		b.endLocked(n)
		ok = false
	}
	if ok {
		if x.Rule != Operator {
			return false
		}
		b.replaceLocked(n, &x, now)
		return true
	}
	if !b.makeRoomLocked(b.shelf(x.User != ""), now) {
		b.refused++
		return false
	}
	b.beginLocked(&x, now)
	return true
}

// Remove ends a ban, and forgets the former ones of its source.
func (b *Book) Remove(k Key) (Ban, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if k.User == "" {
		b.former.forget(k.Source)
	}
	n, ok := b.numberLocked(k)
	if !ok {
		return Ban{}, false
	}
	x := b.banLocked(n)
	b.endLocked(n)
	return x, true
}

// Flush ends all bans and forgets the former ones.
func (b *Book) Flush() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.sources.due) + len(b.persons.due)
	if len(b.sources.due) > 0 {
		b.version.Add(1)
	}
	b.resetLocked()
	b.former.sets = nil
	return n
}

// Get is the ban of a key.
func (b *Book) Get(k Key, now time.Duration) (Ban, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, ok := b.numberLocked(k)
	if !ok || banState(b.records.at(n).state.Load()).grade(now) == Free {
		return Ban{}, false
	}
	return b.banLocked(n), true
}

// All calls f for each ban, the oldest first, until it returns false. f may change the
// list; bans that are added meanwhile are left out.
func (b *Book) All(now time.Duration, f func(Ban) bool) {
	type row struct {
		since  time.Duration
		serial uint32
		record uint32
	}
	b.mu.Lock()
	rows := make([]row, 0, len(b.sources.due)+len(b.persons.due))
	for _, shelf := range []*banShelf{&b.sources, &b.persons} {
		for _, d := range shelf.due {
			r := b.records.at(d.record)
			rows = append(rows, row{r.since, r.serial, d.record})
		}
	}
	b.mu.Unlock()
	slices.SortFunc(rows, func(x, y row) int {
		return cmp.Or(cmp.Compare(x.since, y.since), cmp.Compare(x.serial, y.serial))
	})
	batch := make([]Ban, 0, min(listBatch, len(rows)))
	for some := range slices.Chunk(rows, listBatch) {
		batch = batch[:0]
		b.mu.Lock()
		for _, w := range some {
			r := b.records.at(w.record)
			if r != nil && r.serial == w.serial && banState(r.state.Load()).grade(now) != Free {
				batch = append(batch, b.banLocked(w.record))
			}
		}
		b.mu.Unlock()
		for i := range batch {
			if !f(batch[i]) {
				return
			}
		}
	}
}

// SetHard makes a ban of a source hard, or no longer so. It is false if there is none.
func (b *Book) SetHard(s Source, hard bool, now time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, ok := b.numberLocked(Key{Source: s})
	if !ok {
		return false
	}
	r := b.records.at(n)
	state := banState(r.state.Load())
	if state.grade(now) == Free {
		return false
	}
	if state.isHard() != hard {
		r.state.Store(uint64(stateOf(state.until(), hard)))
		b.version.Add(1)
	}
	return true
}

// Expire frees the bans that are over.
func (b *Book) Expire(now time.Duration) (expired int) {
	for {
		n := b.expireSome(now)
		expired += n
		if n < expireBatch {
			return expired
		}
	}
}

func (b *Book) expireSome(now time.Duration) (expired int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, shelf := range []*banShelf{&b.sources, &b.persons} {
		for len(shelf.due) > 0 && shelf.due[0].until <= now && expired < expireBatch {
			b.endLocked(shelf.due[0].record)
			expired++
		}
	}
	return expired
}

// Repeats is how many bans of the source rules made in the last 24 h, one that runs
// included; 10 stands for more. It is a guess in one direction: of very many sources,
// those that were banned least often are forgotten.
func (b *Book) Repeats(s Source, now time.Duration) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.former.repeats(s, now)
}

// Len is how many sources and users are banned.
func (b *Book) Len() (sources, users int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.sources.due), len(b.persons.due)
}

// HasUsers tells whether any user is banned. It takes no lock.
func (b *Book) HasUsers() bool { return b.userCount.Load() > 0 }

// Overflow counts the bans that made room for others, and those for which there was no
// room.
func (b *Book) Overflow() (evicted, refused uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.evicted, b.refused
}

// Bytes is the memory that the list takes; what maps take is estimated.
func (b *Book) Bytes() int {
	const perName, perLabel, perProofs = 160, 24, 80 // map entries and what they point to
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.records.chunks)*8 + (int(b.records.made)+chunkRecords-1)/chunkRecords*int(unsafe.Sizeof(banChunk{}))
	if t := b.index.Load(); t != nil {
		n += len(t.words) * 8
	}
	for _, shelf := range []*banShelf{&b.sources, &b.persons} {
		n += cap(shelf.due)*int(unsafe.Sizeof(dueBan{})) + cap(shelf.loose)*4
	}
	n += len(b.former.sets) * int(unsafe.Sizeof(formerSet{}))
	n += len(b.names)*perName + len(b.labels)*perLabel + len(b.proofs)*perProofs + b.text
	return n + cap(b.shown)*8
}

// Version changes whenever a ban of a source begins, ends or changes.
func (b *Book) Version() uint64 { return b.version.Load() }

// Hottest are the sources with hard bans that send most at present, up to so many, the
// hottest first; then those that were heard of last.
func (b *Book) Hottest(most int, is4 bool, now time.Duration) []Source {
	if most = min(most, mostBans); most <= 0 {
		return nil
	}
	type hot struct {
		heat     uint64
		lastDrop int64
		source   Source
	}
	byHeat := func(x, y hot) int {
		return cmp.Or(cmp.Compare(y.heat, x.heat), cmp.Compare(y.lastDrop, x.lastDrop), cmp.Compare(x.source, y.source))
	}
	var all []hot
	epoch := heatEpoch(now)
	b.eachHard(now, func(s Source, _ time.Duration, r *banRecord) {
		if s.Is4() != is4 {
			return
		}
		if len(all) >= 2*most && len(all) >= listBatch { // keeps memory and work within bounds
			slices.SortFunc(all, byHeat)
			all = all[:most]
		}
		all = append(all, hot{cooled(r.heat.Load(), epoch), r.lastDrop.Load(), s})
	})
	slices.SortFunc(all, byHeat)
	out := make([]Source, min(most, len(all)))
	for i := range out {
		out[i] = all[i].source
	}
	return out
}

// HardSources calls f for each source that has a hard ban.
func (b *Book) HardSources(now time.Duration, f func(s Source, until time.Duration)) {
	b.eachHard(now, func(s Source, until time.Duration, _ *banRecord) { f(s, until) })
}

// eachHard goes through the records without a lock. A ban that is there all the while
// is seen once.
func (b *Book) eachHard(now time.Duration, f func(Source, time.Duration, *banRecord)) {
	for i := range b.records.chunks {
		c := b.records.chunks[i].Load()
		if c == nil {
			return
		}
		for j := range c {
			r := &c[j]
			s := r.source.Load()
			state := banState(r.state.Load())
			if s != 0 && r.source.Load() == s && state.grade(now) == Hard {
				f(Source(s), state.until(), r)
			}
		}
	}
}

func (b *Book) shelf(isUser bool) *banShelf {
	if isUser {
		return &b.persons
	}
	return &b.sources
}

// numberLocked is the record of a key's ban.
func (b *Book) numberLocked(k Key) (uint32, bool) {
	if k.User != "" {
		u := b.users[k]
		if u == nil {
			return 0, false
		}
		return b.persons.due[u.record.duePos].record, true
	}
	t := b.index.Load()
	if t == nil || k.Source == 0 {
		return 0, false
	}
	return t.numberLocked(k.Source, &b.records)
}

// makeRoomLocked sees to it that one more ban fits on the shelf.
func (b *Book) makeRoomLocked(shelf *banShelf, now time.Duration) bool {
	if len(shelf.due) < shelf.most {
		return true
	}
	// What is over is no loss.
	if shelf.due[0].until <= now {
		b.endLocked(shelf.due[0].record)
		return true
	}
	if len(shelf.loose) == 0 {
		return false
	}
	epoch := heatEpoch(now)
	var victim uint32
	var least uint64
	var oldest time.Duration
	for i := range min(evictSample, len(shelf.loose)) {
		n := shelf.loose[rand.IntN(len(shelf.loose))]
		r := b.records.at(n)
		heat, active := cooled(r.heat.Load(), epoch), max(r.since, time.Duration(r.lastDrop.Load()))
		if i == 0 || heat < least || heat == least && active < oldest {
			victim, least, oldest = n, heat, active
		}
	}
	b.endLocked(victim)
	b.evicted++
	return true
}

// beginLocked makes a ban count that was not there.
func (b *Book) beginLocked(x *Ban, now time.Duration) {
	n := b.records.takeLocked()
	r := b.records.at(n)
	b.serial++
	r.serial, r.isUser, r.loosePos = b.serial, x.User != "", 0
	r.drops.Store(x.Drops)
	r.lastDrop.Store(int64(x.LastDrop))
	r.heat.Store(0)
	b.shelf(r.isUser).push(&b.records, n, x.Until)
	b.fillLocked(n, x, now)
	b.showLocked(n, x.Evidence)
	if r.isUser {
		u := &bannedUser{Key{strings.Clone(x.User), x.Source}, r}
		b.text += len(u.User)
		b.usersMu.Lock()
		b.users[u.Key] = u
		b.usersMu.Unlock()
		b.names[n] = u
		b.userCount.Add(1)
		return
	}
	if x.Rule != Operator {
		b.former.note(x.Source, now)
	}
	r.source.Store(uint64(x.Source))
	b.indexLocked(x.Source, n)
	b.version.Add(1)
}

// replaceLocked puts an operator's ban in the place of another one of the same key,
// which nobody sees missing meanwhile.
func (b *Book) replaceLocked(n uint32, x *Ban, now time.Duration) {
	b.fillLocked(n, x, now)
	if len(x.Evidence) > 0 {
		b.hideLocked(n)
		b.showLocked(n, x.Evidence)
	}
	if x.User == "" {
		b.version.Add(1)
	}
}

// fillLocked writes what an operator's ban replaces.
func (b *Book) fillLocked(n uint32, x *Ban, now time.Duration) {
	r := b.records.at(n)
	r.since, r.first, r.last, r.window = x.Since, x.First, x.Last, x.Window
	if r.since == 0 {
		r.since = now
	}
	r.count, r.limit = int32(min(max(x.Count, 0), math.MaxInt32)), int32(min(max(x.Limit, 0), math.MaxInt32))
	r.rule, r.isProven = x.Rule, x.Proven
	b.unlabelLocked(n)
	if x.By != edgeBy || x.Why != "" {
		b.labelLocked(n, cut(x.By, maxLabel), cut(x.Why, maxLabel))
	}
	shelf := b.shelf(r.isUser)
	shelf.setUntil(&b.records, r, x.Until)
	shelf.setLoose(&b.records, n, x.Rule != Operator && !x.Proven)
	r.state.Store(uint64(stateOf(x.Until, x.Hard)))
}

// indexLocked puts a source, whose record is on the shelf, into the index.
func (b *Book) indexLocked(s Source, n uint32) {
	if t := b.index.Load(); t != nil && !t.isCrowded() {
		t.putLocked(s, n)
		return
	}
	b.rebuildLocked()
}

// rebuildLocked makes a new index of all sources on the shelf.
func (b *Book) rebuildLocked() {
	t := newIndex(len(b.sources.due))
	for _, d := range b.sources.due {
		t.putLocked(Source(b.records.at(d.record).source.Load()), d.record)
	}
	b.index.Store(t)
}

// endLocked takes a ban off the list.
func (b *Book) endLocked(n uint32) {
	r := b.records.at(n)
	if r.isUser {
		u := b.names[n]
		b.usersMu.Lock()
		delete(b.users, u.Key)
		b.usersMu.Unlock()
		delete(b.names, n)
		b.text -= len(u.User)
		b.userCount.Add(-1)
	} else {
		b.index.Load().dropLocked(Source(r.source.Load()), n)
		r.source.Store(0)
		b.version.Add(1)
	}
	b.unlabelLocked(n)
	b.hideLocked(n)
	shelf := b.shelf(r.isUser)
	shelf.setLoose(&b.records, n, false)
	shelf.remove(&b.records, r)
	r.serial = 0
	b.records.giveLocked(n)
	if len(b.sources.due)+len(b.persons.due) == 0 {
		b.resetLocked()
	} else if len(b.sources.due) == 0 {
		b.index.Store(nil)
	}
}

// resetLocked gives back all memory but that of former bans.
func (b *Book) resetLocked() {
	b.index.Store(nil)
	b.records.resetLocked()
	b.sources.due, b.sources.loose = nil, nil
	b.persons.due, b.persons.loose = nil, nil
	b.usersMu.Lock()
	b.users = make(map[Key]*bannedUser)
	b.usersMu.Unlock()
	b.userCount.Store(0)
	b.names = make(map[uint32]*bannedUser)
	b.labels = make(map[uint32]*banLabel)
	b.label = nil
	b.proofs = make(map[uint32][]Evidence)
	b.shown, b.nextShown = nil, 0
	b.text = 0
}

// banLocked is a ban as the callers know it.
func (b *Book) banLocked(n uint32) Ban {
	r := b.records.at(n)
	state := banState(r.state.Load())
	x := Ban{
		Rule: r.rule, Since: r.since, Until: state.until(), Hard: state.isHard(), Proven: r.isProven,
		Count: int(r.count), Limit: int(r.limit), Window: r.window, First: r.first, Last: r.last,
		By: edgeBy, Drops: r.drops.Load(), LastDrop: time.Duration(r.lastDrop.Load()),
		Evidence: slices.Clone(b.proofs[n]),
	}
	if r.isUser {
		x.Key = b.names[n].Key
	} else {
		x.Source = Source(r.source.Load())
	}
	if l := b.labels[n]; l != nil {
		x.By, x.Why = l.by, l.why
	}
	return x
}

func (b *Book) labelLocked(n uint32, by, why string) {
	if l := b.label; l == nil || l.by != by || l.why != why {
		b.label = &banLabel{by: strings.Clone(by), why: strings.Clone(why)}
	}
	if b.label.bans++; b.label.bans == 1 {
		b.text += labelBytes(b.label)
	}
	b.labels[n] = b.label
}

func (b *Book) unlabelLocked(n uint32) {
	l := b.labels[n]
	if l == nil {
		return
	}
	if l.bans--; l.bans == 0 {
		b.text -= labelBytes(l)
	}
	delete(b.labels, n)
}

func labelBytes(l *banLabel) int { return int(unsafe.Sizeof(banLabel{})) + len(l.by) + len(l.why) }

// showLocked keeps a ban's evidence, at the cost of the one that has had its for longest.
func (b *Book) showLocked(n uint32, rows []Evidence) {
	if len(rows) == 0 {
		return
	}
	rows = slices.Clone(rows[:min(len(rows), maxEvidence)])
	for i := range rows {
		rows[i].Method = strings.Clone(cut(rows[i].Method, maxQuote))
		rows[i].CallID = strings.Clone(cut(rows[i].CallID, maxQuote))
	}
	is := shownBan{n, b.records.at(n).serial}
	if len(b.shown) < mostEvidence {
		b.shown = append(b.shown, is)
	} else {
		was := b.shown[b.nextShown]
		if r := b.records.at(was.record); r != nil && r.serial == was.serial {
			b.hideLocked(was.record)
		}
		b.shown[b.nextShown] = is
		b.nextShown = (b.nextShown + 1) % mostEvidence
	}
	b.proofs[n] = rows
	b.text += evidenceBytes(rows)
}

func (b *Book) hideLocked(n uint32) {
	if rows, ok := b.proofs[n]; ok {
		b.text -= evidenceBytes(rows)
		delete(b.proofs, n)
	}
}

func evidenceBytes(rows []Evidence) int {
	n := cap(rows) * int(unsafe.Sizeof(Evidence{}))
	for i := range rows {
		n += len(rows[i].Method) + len(rows[i].CallID)
	}
	return n
}

// cut is at most so many bytes of a text, and no part of a character.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most]
}

// push adds a record to the bans that end.
func (f *banShelf) push(records *banRecords, n uint32, until time.Duration) {
	f.due = append(f.due, dueBan{until, n})
	f.up(records, len(f.due)-1)
}

func (f *banShelf) setUntil(records *banRecords, r *banRecord, until time.Duration) {
	i := int(r.duePos)
	f.due[i].until = until
	f.up(records, i)
	f.down(records, int(r.duePos))
}

func (f *banShelf) remove(records *banRecords, r *banRecord) {
	i, last := int(r.duePos), len(f.due)-1
	f.due[i] = f.due[last]
	f.due = f.due[:last]
	if i < last {
		moved := records.at(f.due[i].record)
		moved.duePos = uint32(i)
		f.up(records, i)
		f.down(records, int(moved.duePos))
	}
}

// up moves an element towards the top of the heap, to its place.
func (f *banShelf) up(records *banRecords, i int) {
	x := f.due[i]
	for i > 0 && x.until < f.due[(i-1)/2].until {
		f.set(records, i, f.due[(i-1)/2])
		i = (i - 1) / 2
	}
	f.set(records, i, x)
}

func (f *banShelf) down(records *banRecords, i int) {
	x := f.due[i]
	for {
		child := 2*i + 1
		if child >= len(f.due) {
			break
		}
		if child+1 < len(f.due) && f.due[child+1].until < f.due[child].until {
			child++
		}
		if x.until <= f.due[child].until {
			break
		}
		f.set(records, i, f.due[child])
		i = child
	}
	f.set(records, i, x)
}

func (f *banShelf) set(records *banRecords, i int, x dueBan) {
	f.due[i] = x
	records.at(x.record).duePos = uint32(i)
}

// setLoose says whether the ban may make room for another one.
func (f *banShelf) setLoose(records *banRecords, n uint32, isLoose bool) {
	r := records.at(n)
	if isLoose == (r.loosePos != 0) {
		return
	}
	if isLoose {
		f.loose = append(f.loose, n)
		r.loosePos = uint32(len(f.loose))
		return
	}
	i, last := r.loosePos-1, len(f.loose)-1
	f.loose[i] = f.loose[last]
	records.at(f.loose[i]).loosePos = i + 1
	f.loose = f.loose[:last]
	r.loosePos = 0
}
