package security

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
)

var (
	authAt    = Source(mark4 | 0xc0000201)
	elsewhere = Source(mark4 | 0xc6336401)

	// authDefaults are the limits of a file that says nothing.
	authDefaults = AuthLimits{Attempts: 3, SourceAttempts: 20, EnumerationUsers: 5, Window: time.Minute, KnownFactor: 10, Key: ByUser}
	authCodes    = []int{401, 403, 407}
)

func TestJudgeAnswer(t *testing.T) {
	for _, x := range []struct {
		name     string
		method   wire.Method
		status   int
		stale    bool
		answered bool
		codes    []int
		want     Outcome
	}{
		{"wrong password", wire.REGISTER, 401, false, false, authCodes, Wrong},
		{"wrong password of a call", wire.INVITE, 407, false, true, authCodes, Wrong},
		{"any method", wire.OPTIONS, 401, false, false, authCodes, Wrong},
		{"stale nonce", wire.REGISTER, 401, true, true, authCodes, Nothing},
		{"stale nonce of a call", wire.INVITE, 407, true, false, authCodes, Nothing},
		{"403 to REGISTER", wire.REGISTER, 403, false, false, authCodes, Wrong},
		{"403 to INVITE is a barred call", wire.INVITE, 403, false, false, authCodes, Nothing},
		{"403 to INVITE, answered", wire.INVITE, 403, false, true, authCodes, Nothing},
		{"a pool without 403", wire.REGISTER, 403, false, true, []int{401, 407}, Nothing},
		{"a pool without 401", wire.REGISTER, 401, false, true, []int{403}, Nothing},
		{"no codes", wire.REGISTER, 401, false, true, nil, Nothing},
		{"a code that cannot mean it", wire.REGISTER, 404, false, true, []int{404}, Nothing},

		{"registered", wire.REGISTER, 200, false, false, authCodes, Right},
		{"REGISTER refused otherwise", wire.REGISTER, 404, false, true, authCodes, Nothing},
		{"call answered, nonce invented", wire.INVITE, 200, false, false, authCodes, Nothing},
		{"call answered", wire.INVITE, 200, false, true, authCodes, Right},
		{"2xx", wire.MESSAGE, 202, false, true, authCodes, Right},
		{"busy, nonce invented", wire.INVITE, 486, false, false, authCodes, Nothing},
		{"OPTIONS", wire.OPTIONS, 200, false, false, authCodes, Nothing},
		{"OPTIONS, answered", wire.OPTIONS, 200, false, true, authCodes, Nothing},
		{"provisional", wire.INVITE, 183, false, true, authCodes, Nothing},
		{"redirected", wire.INVITE, 302, false, true, authCodes, Nothing},
	} {
		t.Run(x.name, func(t *testing.T) {
			if o := JudgeAnswer(x.method, x.status, x.stale, x.answered, x.codes); o != x.want {
				t.Fatal(o)
			}
		})
	}
	proving := map[int]bool{404: true, 480: true, 484: true, 486: true, 488: true, 600: true, 603: true, 604: true, 606: true}
	for status := 300; status < 700; status++ {
		want := Nothing
		switch {
		case proving[status]:
			want = Right
		case status == 401 || status == 407:
			want = Wrong
		}
		if o := JudgeAnswer(wire.INVITE, status, false, true, authCodes); o != want {
			t.Errorf("%d: %v", status, o)
		}
	}
}

// authEdge judges exchanges of real messages as an edge does.
type authEdge struct {
	t      *testing.T
	a      *Auth
	l      AuthLimits
	source Source
	stream bool
	known  bool
	now    time.Duration
}

func newAuthEdge(t *testing.T) *authEdge {
	return &authEdge{t: t, a: NewAuth(1000), l: authDefaults, source: authAt, now: time.Hour}
}

// exchange is one transaction: the request, with credentials if there is a nonce, and
// the final answer to it, with a challenge if there is one.
func (e *authEdge) exchange(method wire.Method, user, nonce string, status int, challenge string) (o Outcome, v AuthVerdict) {
	e.t.Helper()
	e.now += 100 * time.Millisecond
	var lines []string
	if nonce != "" {
		lines = append(lines, fmt.Sprintf(`Authorization: Digest username="%s", realm="r", nonce="%s", uri="sip:r", response="0"`, user, nonce))
	}
	m := authRequest(e.t, lines...)
	c, has, ok := ReadCredentials(m)
	if !ok {
		e.t.Fatal("malformed")
	}
	at := &Attempt{
		User: string(AppendUser(nil, m, c)), Source: e.source, Method: method, Nonce: e.a.Nonce(c.Nonce), Opaque: e.a.Opaque(c.Nonce, c.Opaque), Stream: e.stream,
		CallID: "call", At: e.now,
	}
	if challenge != "" {
		lines = []string{"WWW-Authenticate: Digest realm=r, " + challenge}
	}
	answer := authAnswer(e.t, status, lines...)
	if has {
		switch o = JudgeAnswer(method, status, IsStale(answer), e.a.Answered(at, e.now), authCodes); o {
		case Wrong:
			v = e.a.Failure(at, e.l, e.known, status, e.now)
		case Right:
			e.a.Success(at, e.now)
		}
	}
	Challenged(answer, func(c Challenge) { e.a.Issued(e.source, c, method, e.now) })
	return o, v
}

// userOf is the ban of the only user.
func userOf(v AuthVerdict) *Ban {
	if len(v.Users) != 1 {
		return nil
	}
	return v.Users[0]
}

func (e *authEdge) inARow(user string) int {
	return e.a.Read(Key{User: user + "@example.org"}, e.l, e.now).InARow
}

// guess fails with a nonce that the backend gave to this source alone.
func (e *authEdge) guess(user string) AuthVerdict {
	e.t.Helper()
	nonce := fmt.Sprint("n", e.source, e.now)
	e.exchange(wire.REGISTER, user, "", 401, `nonce="`+nonce+`"`)
	o, v := e.exchange(wire.REGISTER, user, nonce, 401, "")
	if o != Wrong {
		e.t.Fatal(o)
	}
	return v
}

func TestFailuresOfAUser(t *testing.T) {
	type step struct {
		method    wire.Method
		nonce     string
		status    int
		challenge string
		inARow    int
		banned    bool
	}
	const reg, inv, opt = wire.REGISTER, wire.INVITE, wire.OPTIONS
	wrong := func(inARow int) step { return step{reg, "x", 401, `nonce="y"`, inARow, false} }
	third := step{reg, "x", 401, `nonce="y"`, 0, true}
	for _, x := range []struct {
		name  string
		steps []step
	}{
		{"three wrong passwords", []step{{reg, "", 401, `nonce="n"`, 0, false}, wrong(1), wrong(2), third}},
		{"a first challenge is no failure", []step{{reg, "", 401, `nonce="1"`, 0, false}, {reg, "", 401, `nonce="2"`, 0, false},
			{inv, "", 407, `nonce="3"`, 0, false}, {reg, "", 403, "", 0, false}}},
		{"a stale nonce is none", []step{wrong(1), {reg, "x", 401, `nonce="2", stale=true`, 1, false}, {reg, "x", 401, `nonce="2", stale="TRUE"`, 1, false},
			{reg, "x", 401, `nonce="2", Stale=True`, 1, false}, {reg, "x", 401, `nonce="2", stale=false`, 2, false}}},
		{"403 counts for REGISTER only", []step{{reg, "x", 403, "", 1, false}, {inv, "x", 403, "", 1, false}, {reg, "x", 403, "", 2, false}}},
		{"no answer and trouble are none", []step{wrong(1), {reg, "x", 408, "", 1, false}, {reg, "x", 500, "", 1, false}, {reg, "x", 503, "", 1, false}, {inv, "x", 420, "", 1, false}}},
		{"success in between", []step{wrong(1), wrong(2), {reg, "x", 200, "", 0, false}, wrong(1), wrong(2), third}},
		{"OPTIONS says nothing", []step{wrong(1), wrong(2), {opt, "x", 200, "", 2, false}, third}},
		{"OPTIONS with an issued nonce says nothing", []step{wrong(1), {opt, "", 401, `nonce="o"`, 1, false}, {opt, "o", 200, "", 1, false}}},
		{"a call with an invented nonce says nothing", []step{wrong(1), wrong(2), {inv, "x", 404, "", 2, false}, third}},
		{"a call with a nonce that was issued for REGISTER says nothing", []step{{reg, "", 401, `nonce="r"`, 0, false}, wrong(1), {inv, "r", 404, "", 1, false}}},
		{"a call with a nonce that was issued for calls", []step{wrong(1), wrong(2), {inv, "", 407, `nonce="i"`, 2, false}, {inv, "i", 404, "", 0, false}, wrong(1)}},
		{"the ban counts from 0 again", []step{wrong(1), wrong(2), third, wrong(1), wrong(2), third}},
	} {
		t.Run(x.name, func(t *testing.T) {
			e := newAuthEdge(t)
			for i, s := range x.steps {
				_, v := e.exchange(s.method, "alice", s.nonce, s.status, s.challenge)
				if n := e.inARow("alice"); n != s.inARow || (v.Users != nil) != s.banned || v.Source != nil {
					t.Fatalf("step %d: %d in a row, %+v", i+1, n, v)
				}
			}
		})
	}
}

func TestBanOfAUser(t *testing.T) {
	e := newAuthEdge(t)
	for range 2 {
		e.exchange(wire.REGISTER, "alice", "x", 401, "")
	}
	_, v := e.exchange(wire.REGISTER, "alice@example.net", "x", 407, "")
	b := userOf(v)
	if b == nil || b.Key != (Key{User: "alice@example.org"}) || b.Rule != FailedAuth || b.Hard || b.Proven || b.Window != 0 || b.Until != 0 ||
		b.Count != 3 || b.Limit != 3 || b.Since != e.now || b.First != e.now-200*ms || b.Last != e.now || len(b.Evidence) != 3 {
		t.Fatalf("%+v", b)
	}
	if w := (Evidence{At: e.now, Method: "REGISTER", CallID: "call", Status: 407}); b.Evidence[2] != w {
		t.Fatalf("%+v", b.Evidence[2])
	}
}

func TestKeysOfFailures(t *testing.T) {
	for _, x := range []struct {
		key     string
		proven  bool
		at      Source // of the third failure
		user    Key
		source  Key
		blameBy Rule
	}{
		{ByUser, false, authAt, Key{User: "alice@example.org"}, Key{}, FailedAuth},
		{ByUser, true, elsewhere, Key{User: "alice@example.org"}, Key{}, FailedAuth},
		{"", false, elsewhere, Key{User: "alice@example.org"}, Key{}, FailedAuth},
		{ByUserSource, false, authAt, Key{User: "alice@example.org", Source: authAt}, Key{}, FailedAuth},
		{ByUserSource, false, elsewhere, Key{}, Key{}, NoRule},
		{BySource, true, authAt, Key{}, Key{Source: authAt}, FailedAuth},
		{BySource, true, elsewhere, Key{}, Key{}, NoRule},
		{BySource, false, authAt, Key{}, Key{}, NoRule},
	} {
		t.Run(fmt.Sprint(x.key, x.proven, x.at), func(t *testing.T) {
			e := newAuthEdge(t)
			e.l.Key, e.stream = x.key, x.proven
			for range 2 {
				if _, v := e.exchange(wire.REGISTER, "alice", "x", 401, ""); v.Users != nil || v.Source != nil {
					t.Fatal("too early")
				}
			}
			e.source = x.at
			_, v := e.exchange(wire.REGISTER, "alice", "x", 401, "")
			for _, y := range []struct {
				b    *Ban
				want Key
			}{{userOf(v), x.user}, {v.Source, x.source}} {
				if (y.b != nil) != (y.want != Key{}) || y.b != nil && (y.b.Key != y.want || y.b.Rule != x.blameBy || y.b.Proven != x.proven) {
					t.Fatalf("%+v, want %v", y.b, y.want)
				}
			}
		})
	}
}

func TestSourcesAreBlamedWithProofOnly(t *testing.T) {
	mark := func(e *authEdge, s Source, opaque string) {
		e.a.Issued(s, Challenge{Nonce: []byte("x"), Opaque: []byte(opaque)}, wire.REGISTER, e.now)
	}
	issue := func(e *authEdge, s Source, nonce string) {
		e.a.Issued(s, Challenge{Nonce: []byte(nonce)}, wire.REGISTER, e.now)
	}
	for _, x := range []struct {
		name   string
		before func(e *authEdge)
		banned bool
	}{
		{"invented nonce", func(*authEdge) {}, false},
		{"a stream", func(e *authEdge) { e.stream = true }, true},
		{"issued to it", func(e *authEdge) { issue(e, authAt, "x") }, true},
		{"issued to it for another method", func(e *authEdge) { e.a.Issued(authAt, Challenge{Nonce: []byte("x")}, wire.INVITE, e.now) }, true},
		{"issued to it twice", func(e *authEdge) { issue(e, authAt, "x"); issue(e, authAt, "x") }, true},
		{"another one issued to it", func(e *authEdge) { issue(e, authAt, "y") }, false},
		{"issued to somebody else", func(e *authEdge) { issue(e, elsewhere, "x") }, false},
		// A backend whose nonces hold the second and a secret gives the forger the same.
		{"issued to somebody else too", func(e *authEdge) { issue(e, authAt, "x"); issue(e, elsewhere, "x") }, false},
		{"issued to somebody else before", func(e *authEdge) { issue(e, elsewhere, "x"); issue(e, authAt, "x"); issue(e, authAt, "x") }, false},
		{"too long ago", func(e *authEdge) { issue(e, authAt, "x"); e.now += nonceLife + time.Second }, false},
		// Asterisk does so too, but each of its challenges has an opaque of its own.
		{"with an opaque of its own", func(e *authEdge) { mark(e, authAt, "o"); mark(e, elsewhere, "p") }, true},
		{"with the opaque of somebody else", func(e *authEdge) { mark(e, authAt, "p"); mark(e, elsewhere, "o") }, false},
		{"with one opaque for all", func(e *authEdge) { mark(e, authAt, "o"); mark(e, elsewhere, "o") }, false},
		{"with an opaque, which is left out", func(e *authEdge) { mark(e, authAt, ""); mark(e, elsewhere, "p") }, false},
		{"long ago, and again", func(e *authEdge) { issue(e, elsewhere, "x"); e.now += nonceLife + time.Second; issue(e, authAt, "x") }, true},
	} {
		t.Run(x.name, func(t *testing.T) {
			for _, rule := range []Rule{Enumeration, FailedAuthSource} {
				e := newAuthEdge(t)
				x.before(e)
				var got *Ban
				for i := range 100 {
					user := "alice"
					if rule == Enumeration {
						user = fmt.Sprint("user", i)
					}
					if _, v := e.exchange(wire.REGISTER, user, `x", opaque="o`, 401, ""); v.Source != nil {
						got = v.Source
						break
					}
				}
				if (got != nil) != x.banned || got != nil && (got.Rule != rule || !got.Proven || got.Hard || got.Key != (Key{Source: authAt})) {
					t.Fatalf("%v: %+v", rule, got)
				}
			}
		})
	}
}

func TestUnprovenFailuresDoNotAddToProvenOnes(t *testing.T) {
	e := newAuthEdge(t)
	for i := range 40 {
		e.exchange(wire.REGISTER, fmt.Sprint("user", i), "x", 401, "") // forged
	}
	if v := e.guess("alice"); v.Source != nil { // the owner of the address mistyped once
		t.Fatalf("%+v", v.Source)
	}
	if r := e.a.Read(Key{Source: authAt}, e.l, e.now); r.SourceAttempts != 1 || r.SourceUsers != 1 {
		t.Fatalf("%+v", r)
	}
}

func TestEnumeration(t *testing.T) {
	users := func(n int) (l []string) {
		for i := range n {
			l = append(l, fmt.Sprint("user", i))
		}
		return l
	}
	for _, x := range []struct {
		name  string
		users []string
		every time.Duration
		known bool
		off   bool
		want  int // number of the failure that bans, 0 = none
	}{
		{name: "five users", users: users(5), want: 5},
		{name: "four users", users: users(4)},
		{name: "the same ones again", users: []string{"a", "b", "a", "b", "c", "d", "a", "e"}, want: 8},
		{name: "too slow", users: users(40), every: 15 * time.Second},
		{name: "just fast enough", users: users(5), every: 14 * time.Second, want: 5},
		{name: "an office that registered", users: users(49), known: true},
		{name: "even for an office", users: users(50), known: true, want: 50},
		{name: "off", users: users(19), off: true},
		{name: "off, but many", users: users(20), off: true, want: 20},
	} {
		t.Run(x.name, func(t *testing.T) {
			e := newAuthEdge(t)
			e.known, e.stream = x.known, true
			if x.off {
				e.l.EnumerationUsers = 0
			}
			for i, user := range x.users {
				_, v := e.exchange(wire.REGISTER, user, "x", 401, "")
				if (v.Source != nil) != (i+1 == x.want) {
					t.Fatalf("failure %d: %+v", i+1, v.Source)
				}
				e.now += x.every
			}
		})
	}
}

func TestBanOfASource(t *testing.T) {
	for _, x := range []struct {
		rule  Rule
		known bool
		count int
	}{
		{Enumeration, false, 5}, {Enumeration, true, 50}, {FailedAuthSource, false, 20}, {FailedAuthSource, true, 200},
	} {
		t.Run(fmt.Sprint(x.rule, x.known), func(t *testing.T) {
			e := newAuthEdge(t)
			e.known, e.stream = x.known, true
			start := e.now + 100*ms
			for i := range x.count {
				user := "alice"
				if x.rule == Enumeration {
					user = fmt.Sprint("user", i)
				}
				_, v := e.exchange(wire.REGISTER, user, "x", 401, "")
				b := v.Source
				if i < x.count-1 {
					if b != nil {
						t.Fatalf("failure %d: %+v", i+1, b)
					}
					continue
				}
				if b == nil || b.Rule != x.rule || b.Count != x.count || b.Limit != x.count || b.Window != time.Minute || b.First != start ||
					b.Last != e.now || b.Since != e.now || len(b.Evidence) != min(x.count, maxEvidence) || b.Evidence[len(b.Evidence)-1].At != e.now {
					t.Fatalf("%+v", b)
				}
			}
			if r := e.a.Read(Key{Source: authAt}, e.l, e.now); r != (AuthReading{}) {
				t.Fatalf("still counted: %+v", r)
			}
		})
	}
}

func TestFailuresAreForgotten(t *testing.T) {
	e := newAuthEdge(t)
	fail := func() { e.exchange(wire.REGISTER, "alice", "x", 401, "") }
	fail()
	fail()
	e.now += failuresLife - time.Second
	if n := e.inARow("alice"); n != 2 {
		t.Fatal(n)
	}
	e.now += 2 * time.Second
	if n := e.inARow("alice"); n != 0 {
		t.Fatal(n)
	}
	if fail(); e.inARow("alice") != 1 {
		t.Fatal("not from 1 again")
	}

	for _, k := range []Key{{User: "alice@example.org"}, {Source: authAt}} {
		e = newAuthEdge(t)
		e.l.Key, e.stream = ByUserSource, true
		fail()
		fail()
		k2 := Key{User: "alice@example.org", Source: authAt}
		if r := e.a.Read(k2, e.l, e.now); r.InARow != 2 || r.SourceAttempts != 2 || r.SourceUsers != 1 || r.Last != e.now || r.First != e.now-100*ms {
			t.Fatalf("%+v", r)
		}
		e.a.Forget(Key{User: "bob@example.org"})
		e.a.Forget(Key{Source: elsewhere})
		e.a.Forget(Key{User: "alice@example.org", Source: elsewhere})
		if r := e.a.Read(k2, e.l, e.now); r.InARow != 2 {
			t.Fatalf("%+v", r)
		}
		e.a.Forget(k)
		if r := e.a.Read(k2, e.l, e.now); r.InARow != 0 || (r.SourceAttempts == 0) != (k.User == "") {
			t.Fatalf("%v: %+v", k, r)
		}
	}
}

func TestAuthIsBounded(t *testing.T) {
	const capacity = 100
	a := NewAuth(capacity)
	text := strings.Repeat("x", 10000)
	for i := range 10 * capacity {
		now := time.Duration(i + 1)
		s := Source(i + 1)
		a.Issued(s, Challenge{Nonce: fmt.Append(nil, i)}, wire.REGISTER, now)
		v := a.Failure(&Attempt{User: fmt.Sprint("user", i), Source: s, Stream: true, CallID: text}, authDefaults, false, 401, now)
		if v.Users != nil || v.Source != nil {
			t.Fatalf("%+v", v)
		}
	}
	for _, n := range []int{len(a.users.slots), len(a.sources.slots), len(a.owners.slots), len(a.issued.slots)} {
		if n > capacity+1 {
			t.Errorf("%d slots", n)
		}
	}
	if e := a.users.oldest().rows[0]; len(e.CallID) > maxEvidenceText || e.At == 0 {
		t.Error(len(e.CallID), e.At)
	}
}

func TestAuthTakesAnything(t *testing.T) {
	a := NewAuth(-1)
	for _, at := range []*Attempt{{}, {Stream: true}, {User: "a@b"}, {Source: authAt, Stream: true}, {User: "a@b", Source: authAt, Stream: true, Method: 200}} {
		for _, l := range []AuthLimits{{}, {Attempts: 1, SourceAttempts: 1, EnumerationUsers: 1, Key: "?"}, {Attempts: -1, SourceAttempts: -1, EnumerationUsers: -1, Window: -1, KnownFactor: -1},
			{Attempts: 1 << 62, SourceAttempts: 1 << 62, EnumerationUsers: 1 << 62, KnownFactor: 1 << 62, Key: BySource}} {
			a.Issued(at.Source, Challenge{Nonce: []byte("n")}, at.Method, 1)
			a.Answered(at, 1)
			v := a.Failure(at, l, true, 401, 1)
			if userOf(v) != nil && userOf(v).User == "" || v.Source != nil && v.Source.Source == 0 {
				t.Errorf("a ban of nobody: %+v", v)
			}
			a.Read(Key{User: at.User, Source: at.Source}, l, 1)
			a.Success(at, 1)
			a.Forget(Key{})
		}
	}
}

func TestAuthByManyAtOnce(t *testing.T) {
	a := NewAuth(50)
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 2000 {
				now := time.Duration(i+1) * ms
				nonce := fmt.Append(nil, i%70)
				at := &Attempt{User: fmt.Sprint(i % 60), Source: Source(g + 1), Method: wire.REGISTER, Nonce: a.Nonce(nonce), Stream: i%2 == 0}
				a.Issued(at.Source, Challenge{Nonce: nonce}, at.Method, now)
				a.Answered(at, now)
				a.Failure(at, authDefaults, i%3 == 0, 401, now)
				a.Read(Key{User: at.User, Source: at.Source}, authDefaults, now)
				if i%5 == 0 {
					a.Success(at, now)
					a.Forget(Key{Source: at.Source})
				}
			}
		})
	}
	all.Wait()
}

func TestRecentIsAMapOfTheLatest(t *testing.T) {
	r := newRecent[int, int](3)
	var want []int // newest last
	touch := func(k int) {
		for i, x := range want {
			if x == k {
				want = append(want[:i], want[i+1:]...)
				break
			}
		}
	}
	for i := range 10000 {
		k := i * i % 7
		switch i % 5 {
		case 0:
			if r.remove(k) {
				touch(k)
			}
		default:
			if v := r.get(k); v == nil {
				*r.add(k, false) = k
				if want = append(want, k); len(want) > 3 {
					want = want[1:]
				}
			} else {
				touch(k)
				want = append(want, k)
			}
		}
		if len(r.index) != len(want) || len(r.slots) > 4 {
			t.Fatal(i, r, want)
		}
		for _, k := range want {
			if v := r.peek(k); v == nil || *v != k {
				t.Fatal(i, r, want)
			}
		}
		if o := r.oldest(); (o == nil) != (len(want) == 0) || o != nil && *o != want[0] {
			t.Fatal(i, r, want)
		}
	}
}

func BenchmarkAuth(b *testing.B) {
	a := NewAuth(1 << 16)
	nonce := []byte("1763780000/0f3c0f2fd6f1")
	at := &Attempt{User: "alice@example.org", Source: authAt, Method: wire.REGISTER, Nonce: a.Nonce(nonce)}
	b.Run("issued", func(b *testing.B) {
		now := time.Duration(1)
		b.ReportAllocs()
		for b.Loop() {
			now++
			nonce[0], nonce[1], nonce[2] = byte(now), byte(now>>8), byte(now>>16)
			a.Issued(authAt, Challenge{Nonce: nonce}, wire.REGISTER, now)
		}
	})
	b.Run("answered", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			a.Answered(at, 1)
		}
	})
	b.Run("success", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			a.Success(at, 1)
		}
	})
	b.Run("failure", func(b *testing.B) {
		l := authDefaults
		l.Attempts = 1 << 30
		b.ReportAllocs()
		for b.Loop() {
			a.Failure(at, l, false, 401, 1)
		}
	})
}
