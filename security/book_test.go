package security

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func bannedSource(i int) Source {
	if i%3 == 2 {
		return Source(0x2001_0db8_0000_0000 + uint64(i)<<3)
	}
	return mark4 | Source(10<<24+i)
}

func sourceBan(s Source, until time.Duration) Ban {
	return Ban{Key: Key{Source: s}, Rule: DoS, Until: until, Hard: true, By: edgeBy}
}

func mustAdd(t testing.TB, b *Book, x Ban, now time.Duration) {
	t.Helper()
	if !b.Add(x, now) {
		t.Fatalf("ban of %s is refused", x.Key)
	}
}

// check fails if the parts of the list contradict each other.
func check(t *testing.T, b *Book) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	loose := 0
	for _, shelf := range []*banShelf{&b.sources, &b.persons} {
		if len(shelf.due) > shelf.most {
			t.Fatalf("%d bans, more than %d", len(shelf.due), shelf.most)
		}
		loose += len(shelf.loose)
		for i, d := range shelf.due {
			r := b.records.at(d.record)
			switch {
			case r.duePos != uint32(i):
				t.Fatalf("record %d is at %d of the heap, and thinks at %d", d.record, i, r.duePos)
			case d.until != banState(r.state.Load()).until():
				t.Fatalf("record %d ends twice", d.record)
			case i > 0 && shelf.due[(i-1)/2].until > d.until:
				t.Fatalf("heap out of order at %d", i)
			case (r.loosePos != 0) != (r.rule != Operator && !r.isProven):
				t.Fatalf("record %d: loose %d, rule %s, proven %t", d.record, r.loosePos, r.rule, r.isProven)
			case r.loosePos != 0:
				if shelf.loose[r.loosePos-1] != d.record {
					t.Fatalf("record %d is not where it thinks among the loose", d.record)
				}
				loose--
			}
		}
	}
	if loose != 0 {
		t.Fatalf("%d loose bans too many", loose)
	}
	if len(b.names) != len(b.persons.due) || len(b.users) != len(b.names) || b.userCount.Load() != int64(len(b.names)) {
		t.Fatalf("%d users, %d names, %d in the map, %d counted", len(b.persons.due), len(b.names), len(b.users), b.userCount.Load())
	}
	index := b.index.Load()
	if (index != nil) != (len(b.sources.due) > 0) {
		t.Fatalf("index %p for %d sources", index, len(b.sources.due))
	}
	if index == nil {
		return
	}
	live, used := 0, 0
	for i := range index.words {
		w := index.words[i].Load()
		if w != emptyWord {
			used++
		}
		if w > buriedWord {
			live++
		}
	}
	if live != len(b.sources.due) || used != index.used || used*16 > len(index.words)*11 {
		t.Fatalf("index: %d live, %d used of %d, counted %d; %d sources", live, used, len(index.words), index.used, len(b.sources.due))
	}
}

func TestBanStopsUntilItsLastMoment(t *testing.T) {
	b := NewBook(10)
	s := bannedSource(1)
	now := time.Second
	if b.Source(s, now) != Free || b.Strike(s, now) != Free {
		t.Error("an empty list stops something")
	}
	x := sourceBan(s, 5*time.Second)
	x.Hard = false
	mustAdd(t, b, x, now)
	if b.Add(x, now) {
		t.Error("one source is banned twice")
	}
	if g := b.Source(s, now); g != Soft {
		t.Errorf("grade %s", g)
	}
	if !b.SetHard(s, true, now) || b.Source(s, 5*time.Second-1) != Hard {
		t.Error("the ban is not hard in its last moment")
	}
	if b.Source(s, 5*time.Second) != Free || b.Strike(s, 5*time.Second) != Free {
		t.Error("the ban goes on when it is over")
	}
	if _, ok := b.Get(x.Key, 5*time.Second); ok {
		t.Error("a ban that is over is listed")
	}
	if b.SetHard(s, false, 5*time.Second) {
		t.Error("a ban that is over becomes soft")
	}
	mustAdd(t, b, sourceBan(s, 9*time.Second), 5*time.Second)
	if n := b.Expire(8 * time.Second); n != 0 {
		t.Errorf("%d bans end early", n)
	}
	if n := b.Expire(9 * time.Second); n != 1 {
		t.Errorf("%d bans end", n)
	}
	if n, _ := b.Len(); n != 0 {
		t.Errorf("%d bans are left", n)
	}
	check(t, b)
}

func TestBanComesBackAsItWasAdded(t *testing.T) {
	b := NewBook(10)
	now := time.Minute
	for _, x := range []Ban{
		{
			Key: Key{Source: bannedSource(1)}, Rule: DoS, Since: now, Until: 2 * now, Hard: true,
			Count: 51, Limit: 50, Window: 2 * time.Second, First: 58 * time.Second, Last: now, By: edgeBy,
			Evidence: []Evidence{{now, "INVITE", "a", 0}, {now, "", "", 0}},
		},
		{Key: Key{Source: none6}, Rule: Operator, Since: now, Until: math.MaxInt64, Proven: true, By: "anna", Why: "fraud"},
		{Key: Key{User: "alice@example.org"}, Rule: FailedAuth, Since: now, Until: 3 * now, Count: 3, Limit: 3, By: edgeBy},
		{
			Key: Key{"bob@example.org", bannedSource(2)}, Rule: FailedAuth, Since: now, Until: 3 * now, By: edgeBy,
			Drops: 7, LastDrop: 50 * time.Second, Evidence: []Evidence{{now, "REGISTER", "b", 401}},
		},
	} {
		mustAdd(t, b, x, now)
		got, ok := b.Get(x.Key, now)
		if !ok || !reflect.DeepEqual(got, x) {
			t.Errorf("%s:\n got %+v\nwant %+v", x.Key, got, x)
		}
	}
	check(t, b)
}

func TestAddRefusesWhatIsNoBan(t *testing.T) {
	b := NewBook(10)
	for name, x := range map[string]Ban{
		"no key":    {Until: time.Hour},
		"over":      sourceBan(bannedSource(1), time.Second),
		"no end":    sourceBan(bannedSource(1), 0),
		"long name": {Key: Key{User: strings.Repeat("a", maxUser+1)}, Until: time.Hour},
	} {
		if b.Add(x, time.Second) {
			t.Errorf("%s: added", name)
		}
	}
	if n, m := b.Len(); n+m != 0 {
		t.Errorf("%d and %d bans", n, m)
	}
}

func TestOperatorsBanTakesThePlaceOfAnother(t *testing.T) {
	b := NewBook(10)
	s := bannedSource(1)
	x := sourceBan(s, 5*time.Second)
	x.Evidence = []Evidence{{1, "INVITE", "a", 0}}
	mustAdd(t, b, x, 1)
	b.Strike(s, 2)
	y := Ban{Key: x.Key, Rule: Operator, Since: 3, Until: time.Hour, By: "anna", Why: "carrier"}
	mustAdd(t, b, y, 3)
	check(t, b)
	y.Drops, y.LastDrop, y.Evidence = 1, 2, x.Evidence
	if got, _ := b.Get(x.Key, 4); !reflect.DeepEqual(got, y) {
		t.Errorf("got %+v\nwant %+v", got, y)
	}
	if n := b.Expire(5 * time.Second); n != 0 {
		t.Error("the ban ends with the one that it replaced")
	}
	if b.Add(x, 4) {
		t.Error("a rule takes the place of an operator's ban")
	}
	y.Until = 10 * time.Second
	mustAdd(t, b, y, 5)
	if n := b.Expire(10 * time.Second); n != 1 {
		t.Error("an operator cannot shorten his ban")
	}
}

func TestUserIsFoundEverywhereOrAtTheSource(t *testing.T) {
	b := NewBook(10)
	here, there := bannedSource(1), bannedSource(2)
	alice, bob := Key{User: "alice@example.org"}, Key{"bob@example.org", here}
	for _, k := range []Key{alice, bob} {
		mustAdd(t, b, Ban{Key: k, Rule: FailedAuth, Until: time.Minute}, 1)
	}
	for _, c := range []struct {
		user  string
		at    Source
		now   time.Duration
		want  Key
		found bool
	}{
		{"alice@example.org", here, 2, alice, true},
		{"alice@example.org", 0, 2, alice, true},
		{"bob@example.org", here, 2, bob, true},
		{"bob@example.org", there, 2, Key{}, false},
		{"bob@example.org", 0, 2, Key{}, false},
		{"alice@example.org", here, time.Minute, Key{}, false},
		{"", here, 2, Key{}, false},
		{"carol@example.org", here, 2, Key{}, false},
	} {
		if got, ok := b.User([]byte(c.user), c.at, c.now); got != c.want || ok != c.found {
			t.Errorf("%s at %s, %s: %v %t", c.user, c.at, c.now, got, ok)
		}
	}
	if b.Source(here, 2) != Free {
		t.Error("the ban of a user at a source stops the source")
	}
	b.StrikeUser(bob, 3)
	b.StrikeUser(Key{User: "carol@example.org"}, 3)
	if x, _ := b.Get(bob, 4); x.Drops != 1 || x.LastDrop != 3 {
		t.Errorf("%d drops, last %d", x.Drops, x.LastDrop)
	}
	check(t, b)
}

func TestStrikesAreCounted(t *testing.T) {
	b := NewBook(10)
	s := bannedSource(1)
	mustAdd(t, b, sourceBan(s, math.MaxInt64), 1)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 10_000 {
				b.Strike(s, time.Duration(i)*20*time.Millisecond) // through several epochs of heat
			}
		})
	}
	wg.Wait()
	if x, _ := b.Get(Key{Source: s}, 1); x.Drops != 40_000 {
		t.Errorf("%d drops", x.Drops)
	}
}

// A plain map that does the same.
type plainBook struct {
	bans map[Key]*Ban
	past map[Source][]time.Duration
}

func TestBookDoesWhatAPlainMapDoes(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		keys := 20 << rnd.IntN(9)           // up to 5120
		b := NewBook(20_000)                // more than there will be
		b.former = newFormerBans(64 * keys) // so many that none is forgotten
		plain := plainBook{make(map[Key]*Ban), make(map[Source][]time.Duration)}
		now := time.Second
		for step := range 8000 {
			k := Key{Source: bannedSource(rnd.IntN(keys))}
			switch rnd.IntN(6) {
			case 0:
				k.User = fmt.Sprintf("u%d@example.org", rnd.IntN(keys))
			case 1:
				k = Key{User: fmt.Sprintf("u%d@example.org", rnd.IntN(keys))}
			}
			now += time.Duration(rnd.IntN(int(200 * time.Millisecond)))
			stepBoth(t, rnd, b, &plain, k, now, step)
			if t.Failed() {
				t.Fatalf("seed %d, step %d, %s", seed, step, k)
			}
			if step%1000 == 0 {
				check(t, b)
				compareAll(t, b, &plain, now)
			}
		}
	}
}

// stepBoth does one thing to both and compares what they answer.
func stepBoth(t *testing.T, rnd *rand.Rand, b *Book, plain *plainBook, k Key, now time.Duration, step int) {
	x := plain.bans[k]
	if x != nil && x.Until <= now {
		x = nil
	}
	version := b.Version()
	changed := false
	switch rnd.IntN(20) {
	default:
		n := Ban{
			Key: k, Rule: Rule(1 + rnd.IntN(int(Operator))), Since: now, Until: now + time.Duration(rnd.IntN(int(5*time.Minute))),
			Hard: rnd.IntN(2) == 0, Proven: rnd.IntN(2) == 0, Count: step, By: edgeBy,
		}
		if n.Rule == Operator {
			n.By, n.Why = fmt.Sprint("op", step%3), "because"
		}
		want := n.Until > now && (x == nil || n.Rule == Operator)
		if got := b.Add(n, now); got != want {
			t.Errorf("add: %t", got)
		}
		if want {
			changed = k.User == ""
			if x != nil {
				n.Drops, n.LastDrop = x.Drops, x.LastDrop
			} else if n.Rule != Operator && k.User == "" {
				plain.past[k.Source] = append(plain.past[k.Source], now)
			}
			plain.bans[k] = &n
		}
	case 0, 1:
		_, was := plain.bans[k]
		got, ok := b.Remove(k)
		if ok && !was || x != nil && (!ok || !reflect.DeepEqual(got, *x)) {
			t.Errorf("remove: %+v %t, want %+v", got, ok, x)
		}
		changed = ok && k.User == ""
		delete(plain.bans, k)
		if k.User == "" {
			delete(plain.past, k.Source)
		}
	case 2, 3, 4:
		hard := rnd.IntN(2) == 0
		at := plain.bans[Key{Source: k.Source}]
		want := at != nil && at.Until > now
		if got := b.SetHard(k.Source, hard, now); got != want {
			t.Errorf("set hard: %t", got)
		}
		if want {
			changed = at.Hard != hard
			at.Hard = hard
		}
	case 5:
		n := 0
		for k, x := range plain.bans {
			if x.Until <= now {
				n++
				changed = changed || k.User == ""
				delete(plain.bans, k)
			}
		}
		if got := b.Expire(now); got > n { // what is over may have been freed before
			t.Errorf("%d expire, want %d", got, n)
		}
		changed = changed && b.Version() != version
		if sources, users := b.Len(); sources+users != len(plain.bans) {
			t.Errorf("%d and %d bans, want %d", sources, users, len(plain.bans))
		}
	case 6, 7, 8:
		b.StrikeUser(k, now)
		if k.User != "" && x != nil {
			x.Drops, x.LastDrop = x.Drops+1, now
		}
	case 9, 10, 11:
		at := plain.bans[Key{Source: k.Source}]
		want := Free
		if at != nil && at.Until > now {
			want = Soft
			if at.Hard {
				want = Hard
			}
			at.Drops, at.LastDrop = at.Drops+1, now
		}
		if g := b.Source(k.Source, now); g != want {
			t.Errorf("grade %s, want %s", g, want)
		}
		if g := b.Strike(k.Source, now); g != want {
			t.Errorf("strike: grade %s, want %s", g, want)
		}
	}
	if got := b.Version() != version; changed && !got {
		t.Errorf("version changed: %t, want %t", got, changed)
	}
	x = plain.bans[k]
	got, ok := b.Get(k, now)
	if want := x != nil && x.Until > now; ok != want || want && !reflect.DeepEqual(got, *x) {
		t.Errorf("get: %+v %t, want %+v", got, ok, x)
	}
	if _, found := b.User([]byte(k.User), k.Source, now); k.User != "" {
		at, all := plain.bans[k], plain.bans[Key{User: k.User}]
		if want := at != nil && at.Until > now || all != nil && all.Until > now; found != want {
			t.Errorf("user: %t, want %t", found, want)
		}
	}
	want := 0
	for _, at := range plain.past[k.Source] {
		if at > now-formerSpan {
			want++
		}
	}
	if n := b.Repeats(k.Source, now); n != min(want, mostRepeats) {
		t.Errorf("%d repeats, want %d", n, want)
	}
}

func compareAll(t *testing.T, b *Book, plain *plainBook, now time.Duration) {
	t.Helper()
	want := make(map[Key]Ban)
	hard := make(map[Source]time.Duration)
	for k, x := range plain.bans {
		if x.Until > now {
			want[k] = *x
			if k.User == "" && x.Hard {
				hard[k.Source] = x.Until
			}
		}
	}
	got := make(map[Key]Ban)
	since := time.Duration(0)
	b.All(now, func(x Ban) bool {
		if _, twice := got[x.Key]; twice || x.Since < since {
			t.Errorf("%s: twice (%t) or out of order", x.Key, twice)
		}
		got[x.Key], since = x, x.Since
		return true
	})
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%d bans are listed, want %d, or others", len(got), len(want))
	}
	b.HardSources(now, func(s Source, until time.Duration) {
		if hard[s] != until {
			t.Errorf("%s is hard until %s, want %s", s, until, hard[s])
		}
		delete(hard, s)
	})
	if len(hard) != 0 {
		t.Errorf("%d hard bans are missing", len(hard))
	}
}

func TestNoBanIsLostWhileTheIndexIsRebuilt(t *testing.T) {
	const lasting, fleeting = 300, 3000
	b := NewBook(lasting + fleeting)
	for i := range lasting {
		mustAdd(t, b, sourceBan(bannedSource(i), math.MaxInt64), 1)
	}
	free := netip.MustParseAddr("192.0.2.1")
	var stop atomic.Bool
	var readers, writers sync.WaitGroup
	var reads atomic.Int64
	for range 4 {
		readers.Go(func() {
			for i := 0; !stop.Load(); i++ {
				s := bannedSource(i % lasting)
				if g := b.Source(s, 2); g != Hard {
					t.Errorf("%s is %s", s, g)
					return
				}
				if g := b.Strike(SourceOf(free), 2); g != Free {
					t.Errorf("%s is %s", free, g)
					return
				}
				b.Strike(bannedSource(lasting+i%fleeting), 2)
				b.User([]byte("alice@example.org"), s, 2)
				if reads.Add(1)%64 == 0 {
					runtime.Gosched() // two cores have to do
				}
			}
		})
	}
	rebuilds := 0
	writers.Go(func() {
		for round := range 12 {
			was := b.index.Load()
			for i := range fleeting {
				s := bannedSource(lasting + (i*7+round)%fleeting)
				switch (i + round) % 3 {
				case 0:
					b.Remove(Key{Source: s})
				case 1:
					b.Add(sourceBan(s, 3), 2)
				default:
					b.Add(Ban{Key: Key{Source: s}, Rule: Operator, Until: 3}, 2)
					b.SetHard(s, i%2 == 0, 2)
				}
				if i%100 == 0 {
					b.mu.Lock()
					b.rebuildLocked()
					b.mu.Unlock()
				}
				if now := b.index.Load(); now != was {
					rebuilds++
					was = now
				}
			}
			b.Expire(3)
		}
	})
	writers.Go(func() {
		for i := range 200 {
			b.Add(Ban{Key: Key{User: "alice@example.org"}, Until: 3}, 2)
			b.StrikeUser(Key{User: "alice@example.org"}, 2)
			b.Hottest(10, i%2 == 0, 2)
			seen := 0
			b.HardSources(2, func(_ Source, until time.Duration) {
				if until == math.MaxInt64 {
					seen++
				}
			})
			if seen != lasting {
				t.Errorf("%d of %d lasting bans are hard", seen, lasting)
			}
			b.Remove(Key{User: "alice@example.org"})
			runtime.Gosched()
		}
	})
	writers.Wait()
	stop.Store(true)
	readers.Wait()
	check(t, b)
	if rebuilds == 0 {
		t.Error("the index was never rebuilt")
	}
	t.Logf("%d reads, %d indexes", reads.Load(), rebuilds)
}

func TestReadersSurviveAFlush(t *testing.T) {
	b := NewBook(2000)
	var stop atomic.Bool
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for i := 0; !stop.Load(); i++ {
				b.Strike(bannedSource(i%1500), 2)
				b.StrikeUser(Key{User: "a@b"}, 2)
				if i%500 == 0 {
					b.All(2, func(Ban) bool { return true })
					runtime.Gosched()
				}
			}
		})
	}
	for range 30 {
		for i := range 700 {
			b.Add(sourceBan(bannedSource(i), 9), 2)
		}
		b.Add(Ban{Key: Key{User: "a@b"}, Until: 9}, 2)
		if n := b.Flush(); n != 701 {
			t.Errorf("%d bans are flushed", n)
		}
		check(t, b)
	}
	stop.Store(true)
	readers.Wait()
	if n := b.Repeats(bannedSource(1), 2); n != 0 {
		t.Errorf("%d former bans outlive the flush", n)
	}
}

func TestFullListKeepsWhoSends(t *testing.T) {
	const capacity = 1000
	b := NewBook(capacity)
	now := time.Second
	var attackers, operators, proven []Source
	next := 0
	source := func() Source { next++; return bannedSource(next) }
	for range 10 {
		s := source()
		mustAdd(t, b, Ban{Key: Key{Source: s}, Rule: Operator, Until: math.MaxInt64, By: "anna"}, now)
		operators = append(operators, s)
		s = source()
		mustAdd(t, b, Ban{Key: Key{Source: s}, Rule: FailedAuthSource, Until: math.MaxInt64, Proven: true}, now)
		proven = append(proven, s)
	}
	// Forged messages get three sources banned each millisecond. The first thousand fill
	// the list, and then the attackers come.
	for ms := range 20_000 {
		now += time.Millisecond
		for range 3 {
			mustAdd(t, b, sourceBan(source(), now+time.Hour), now)
		}
		if ms > 400 && ms%200 == 0 && len(attackers) < 50 {
			s := source()
			mustAdd(t, b, sourceBan(s, now+time.Hour), now)
			attackers = append(attackers, s)
		}
		for i, s := range attackers { // 40 messages a second each
			if (ms+i)%25 == 0 && b.Strike(s, now) != Hard {
				t.Fatalf("attacker %d of %d is out of the list after %s", i, len(attackers), now)
			}
		}
	}
	for _, s := range slices.Concat(operators, proven) {
		if b.Source(s, now) == Free {
			t.Errorf("%s made room for a forged one", s)
		}
	}
	if n, _ := b.Len(); n != capacity {
		t.Errorf("%d bans", n)
	}
	if evicted, refused := b.Overflow(); evicted == 0 || refused != 0 {
		t.Errorf("%d evicted, %d refused", evicted, refused)
	}
	check(t, b)
}

func TestFullListRefusesWhenNothingMayMakeRoom(t *testing.T) {
	b := NewBook(4)
	for i := range 4 {
		x := sourceBan(bannedSource(i), 10)
		x.Proven, x.Rule = i%2 == 0, Operator
		mustAdd(t, b, x, 1)
	}
	if b.Add(sourceBan(bannedSource(9), 99), 2) {
		t.Error("a fifth ban is added")
	}
	if b.Add(Ban{Key: Key{Source: bannedSource(9)}, Rule: Operator, Until: 99}, 2) {
		t.Error("an operator's ban pushes out another one")
	}
	if !b.Add(Ban{Key: Key{User: "alice@example.org"}, Until: 99}, 2) {
		t.Error("sources leave no room for users")
	}
	if _, refused := b.Overflow(); refused != 2 {
		t.Errorf("%d refused", refused)
	}
	if !b.Add(sourceBan(bannedSource(9), 99), 10) {
		t.Error("bans that are over leave no room")
	}
	check(t, b)
}

func TestUsersDoNotPushOutSources(t *testing.T) {
	const capacity = 100
	b := NewBook(capacity)
	for i := range capacity {
		mustAdd(t, b, sourceBan(bannedSource(i), 99), 1)
	}
	for i := range 10 * capacity {
		mustAdd(t, b, Ban{Key: Key{User: fmt.Sprintf("%d@example.org", i)}, Rule: FailedAuth, Until: 99}, time.Duration(i/100+2))
	}
	if sources, users := b.Len(); sources != capacity || users != capacity {
		t.Errorf("%d sources, %d users", sources, users)
	}
	check(t, b)
}

func TestHottestComeFirst(t *testing.T) {
	b := NewBook(2000)
	now := time.Second
	for i := range 1500 {
		mustAdd(t, b, sourceBan(bannedSource(i), math.MaxInt64), now)
	}
	soft := sourceBan(bannedSource(1600), math.MaxInt64)
	soft.Hard = false
	mustAdd(t, b, soft, now)
	strike := func(i, n int) {
		for range n {
			b.Strike(bannedSource(i), now)
		}
	}
	strike(1600, 500) // soft
	strike(1499, 40)  // IPv6
	strike(3, 100)
	now += 10 * heatHalf // of which nothing is left by now
	strike(1200, 3)
	strike(6, 30)
	strike(600, 20)
	strike(7, 30)
	now++
	strike(7, 1)
	want := []Source{bannedSource(7), bannedSource(6), bannedSource(600), bannedSource(1200), bannedSource(3)}
	if got := b.Hottest(5, true, now); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := b.Hottest(3, false, now); len(got) != 3 || got[0] != bannedSource(1499) {
		t.Errorf("IPv6: %v", got)
	}
	if n := len(b.Hottest(math.MaxInt, true, now)); n != 1000 {
		t.Errorf("%d IPv4 sources", n)
	}
	if n := len(b.Hottest(0, true, now)); n != 0 {
		t.Errorf("%d of none", n)
	}
}

func TestEvidenceIsKeptForTheMostRecentBans(t *testing.T) {
	b := NewBook(mostEvidence + 100)
	rows := make([]Evidence, maxEvidence+2)
	for i := range rows {
		rows[i] = Evidence{At: 1, Method: "INVITE", CallID: strings.Repeat("é", maxQuote), Status: 401}
	}
	for i := range mostEvidence + 100 {
		x := sourceBan(bannedSource(i), math.MaxInt64)
		x.Evidence = rows
		mustAdd(t, b, x, 1)
		if i < 10 { // a ban that is gone makes no difference to those that follow
			b.Remove(x.Key)
			mustAdd(t, b, sourceBan(bannedSource(i), math.MaxInt64), 1)
		}
	}
	for i, want := range map[int]int{5: 0, 50: 0, 99: 0, 100: maxEvidence, mostEvidence + 99: maxEvidence} {
		x, _ := b.Get(Key{Source: bannedSource(i)}, 2)
		if len(x.Evidence) != want {
			t.Errorf("ban %d has %d rows", i, len(x.Evidence))
		}
		for _, e := range x.Evidence {
			if e.CallID != strings.Repeat("é", maxQuote/2) {
				t.Errorf("Call-ID %q", e.CallID)
			}
		}
	}
	if len(b.proofs) != mostEvidence {
		t.Errorf("%d bans have evidence", len(b.proofs))
	}
	for i := range mostEvidence + 100 {
		b.Remove(Key{Source: bannedSource(i)})
	}
	if b.text != 0 {
		t.Errorf("%d bytes of text are left", b.text)
	}
}

func TestListingMayChangeTheList(t *testing.T) {
	b := NewBook(2000)
	for i := range 1000 {
		x := sourceBan(bannedSource(i), math.MaxInt64)
		x.Since = time.Duration(1 + i*37%1000)
		mustAdd(t, b, x, 1)
	}
	var since time.Duration
	n := 0
	b.All(2, func(x Ban) bool {
		if x.Since <= since {
			t.Fatalf("%s comes after %s", x.Since, since)
		}
		since = x.Since
		b.Remove(x.Key)
		b.Add(sourceBan(x.Source, math.MaxInt64), 2000)
		n++
		return n < 900
	})
	if n != 900 {
		t.Errorf("%d bans are listed", n)
	}
	check(t, b)
}

func TestRepeatsAreOfOneDay(t *testing.T) {
	b := NewBook(1000)
	s := bannedSource(1)
	for i := range 12 {
		now := time.Duration(i)*time.Hour + 1
		if n := b.Repeats(s, now); n != min(i, mostRepeats) {
			t.Errorf("hour %d: %d", i, n)
		}
		mustAdd(t, b, sourceBan(s, now+time.Minute), now)
	}
	if n := b.Repeats(s, 30*time.Hour); n != 5 {
		t.Errorf("%d of the last 24 h", n)
	}
	if n := b.Repeats(s, 36*time.Hour); n != 0 {
		t.Errorf("%d after a day", n)
	}
	mustAdd(t, b, Ban{Key: Key{Source: s}, Rule: Operator, Until: math.MaxInt64}, 40*time.Hour)
	if n := b.Repeats(s, 40*time.Hour); n != 0 {
		t.Errorf("an operator's ban is counted: %d", n)
	}
	b.Remove(Key{Source: s})
	mustAdd(t, b, sourceBan(s, math.MaxInt64), 41*time.Hour)
	b.Remove(Key{Source: s})
	if n := b.Repeats(s, 41*time.Hour); n != 0 {
		t.Errorf("%d are left after an unban", n)
	}
}

func TestFormerBansOfOneWhoComesBackOutliveManyWhoDoNot(t *testing.T) {
	f := newFormerBans(1000)
	again := bannedSource(1)
	now := time.Hour
	for range 3 {
		f.note(again, now)
	}
	for i := range 100_000 {
		now += time.Millisecond
		f.note(bannedSource(i+2), now)
	}
	if n := f.repeats(again, now); n != 3 {
		t.Errorf("%d repeats", n)
	}
	if n := len(f.sets) * formerWays; n > 1000 {
		t.Errorf("%d places", n)
	}
}

func TestManyEndAtOnce(t *testing.T) {
	b := NewBook(10_000)
	for i := range 10_000 {
		mustAdd(t, b, sourceBan(bannedSource(i), time.Duration(2+i%2)), 1)
	}
	if n := b.Expire(2); n != 5000 {
		t.Errorf("%d expire", n)
	}
	check(t, b)
	for i := range 10_000 {
		if g := b.Source(bannedSource(i), 2); (g == Hard) != (i%2 == 1) {
			t.Fatalf("%d is %s", i, g)
		}
	}
	if n := b.Expire(3); n != 5000 {
		t.Errorf("%d expire", n)
	}
	check(t, b)
}

func TestLookupsDoNotAllocate(t *testing.T) {
	b := NewBook(1000)
	for i := range 1000 {
		mustAdd(t, b, sourceBan(bannedSource(i), math.MaxInt64), 1)
	}
	mustAdd(t, b, Ban{Key: Key{User: "alice@example.org"}, Until: math.MaxInt64}, 1)
	alice, bob := []byte("alice@example.org"), []byte(strings.Repeat("bob", 30)+"@example.org")
	for name, f := range map[string]func(){
		"banned":     func() { b.Strike(bannedSource(7), 2) },
		"free":       func() { b.Strike(bannedSource(1001), 2) },
		"user":       func() { b.User(alice, bannedSource(1), 2) },
		"other user": func() { b.User(bob, bannedSource(1), 2) },
		"expire":     func() { b.Expire(2) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %.0f allocations", name, n)
		}
	}
}

// heap is what f leaves behind, in bytes.
func heap(f func() *Book) (*Book, int) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&before)
	b := f()
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return b, int(after.HeapAlloc) - int(before.HeapAlloc)
}

// fullBooks are lists that are full, and were so for a while, by what fills them.
var fullBooks = []struct {
	name string
	ban  func(i int) Ban
}{
	{"Rules", func(i int) Ban { return sourceBan(bannedSource(i), time.Hour+time.Duration(i%1000)*time.Second) }},
	{"List", func(i int) Ban {
		return Ban{Key: Key{Source: bannedSource(i)}, Rule: Operator, Until: math.MaxInt64, By: "anna", Why: "list of a friend"}
	}},
	{"Users", func(i int) Ban {
		x := sourceBan(bannedSource(i), time.Hour)
		if i%8 == 0 {
			x.Key = Key{User: fmt.Sprintf("user%d@sip.example.org", i)}
		}
		return x
	}},
	{"Evidence", func(i int) Ban {
		x := sourceBan(bannedSource(i), time.Hour)
		for range maxEvidence {
			x.Evidence = append(x.Evidence, Evidence{1, "REGISTER", "304153-3624477113-19168@tedadg.testlab.local", 401})
		}
		return x
	}},
}

func fullBook(capacity int, ban func(i int) Ban) *Book {
	b := NewBook(capacity)
	for i := range 2 * capacity {
		b.Add(ban(i), time.Duration(i+1))
	}
	return b
}

func TestMemoryIsTakenAsBansCome(t *testing.T) {
	b, idle := heap(func() *Book { return NewBook(200_000) })
	if idle > 64<<10 {
		t.Errorf("idle: %d bytes", idle)
	}
	runtime.KeepAlive(b)
	const bans = 20_000
	for _, c := range fullBooks {
		limit := bans * 250
		if c.name == "Evidence" {
			limit += mostEvidence * maxEvidence * 150
		}
		b, n := heap(func() *Book { return fullBook(bans, c.ban) })
		t.Logf("%s: %.2f MB, Bytes says %.2f MB", c.name, float64(n)/1e6, float64(b.Bytes())/1e6)
		if n > limit {
			t.Errorf("%s: %d bytes, more than %d", c.name, n, limit)
		}
		if d := float64(b.Bytes()) / float64(n); d < 0.8 || d > 1.25 {
			t.Errorf("%s: %d bytes, Bytes says %d", c.name, n, b.Bytes())
		}
		b.Flush()
		if left := b.Bytes(); left > 64<<10 {
			t.Errorf("%s: %d bytes are left when no ban is", c.name, left)
		}
	}
}

// The heap of a full list of the default size.
func BenchmarkBookMemory(b *testing.B) {
	for _, c := range fullBooks {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				book, n := heap(func() *Book { return fullBook(200_000, c.ban) })
				sources, users := book.Len()
				b.ReportMetric(float64(n)/1e6, "MB")
				b.ReportMetric(float64(sources+users), "bans")
			}
		})
	}
}

func benchmarkBook(b *testing.B, bans int) *Book {
	k := NewBook(200_000)
	for i := range bans {
		mustAdd(b, k, sourceBan(bannedSource(i), math.MaxInt64), 1)
	}
	return k
}

func BenchmarkBookSource(b *testing.B) {
	for _, c := range []struct {
		name        string
		bans, first int
	}{
		{"Empty", 0, 0}, {"FreeOf100", 100, 1 << 20}, {"FreeOf200k", 200_000, 1 << 20}, {"BannedOf200k", 200_000, 0},
	} {
		k := benchmarkBook(b, c.bans)
		sources := make([]Source, 1<<17) // so many that caches do not hold them
		for i := range sources {
			sources[i] = bannedSource(c.first + i)
		}
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				k.Source(sources[i&(1<<17-1)], 2)
				i++
			}
		})
		b.Run(c.name+"Parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				i := rand.IntN(1 << 17)
				for pb.Next() {
					k.Source(sources[i&(1<<17-1)], 2)
					i++
				}
			})
		})
	}
}

func BenchmarkBookStrike(b *testing.B) {
	k := benchmarkBook(b, 200_000)
	b.Run("Many", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			k.Strike(bannedSource(i&(1<<17-1)), 2)
			i++
		}
	})
	b.Run("OneParallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				k.Strike(bannedSource(7), 2)
			}
		})
	})
}

func BenchmarkBookUser(b *testing.B) {
	k := NewBook(200_000)
	free, banned := []byte("4930123456@sip.example.org"), []byte("user7@sip.example.org")
	b.Run("Empty", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			k.User(free, 1, 2)
		}
	})
	for i := range 20_000 {
		mustAdd(b, k, Ban{Key: Key{User: fmt.Sprintf("user%d@sip.example.org", i)}, Until: math.MaxInt64}, 1)
	}
	for name, user := range map[string][]byte{"Free": free, "Banned": banned} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				k.User(user, 1, 2)
			}
		})
	}
	b.Run("FreeParallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				k.User(free, 1, 2)
			}
		})
	})
}

func BenchmarkBookAddToFull(b *testing.B) {
	k := benchmarkBook(b, 200_000)
	b.ReportAllocs()
	i := 200_000
	for b.Loop() {
		k.Add(sourceBan(bannedSource(i), time.Hour), time.Duration(i))
		i++
	}
}

func BenchmarkBookExpireNothing(b *testing.B) {
	k := benchmarkBook(b, 200_000)
	b.ReportAllocs()
	for b.Loop() {
		k.Expire(2)
	}
}

func BenchmarkBookHottest(b *testing.B) {
	k := benchmarkBook(b, 200_000)
	b.ReportAllocs()
	for b.Loop() {
		k.Hottest(500, true, 2)
	}
}
