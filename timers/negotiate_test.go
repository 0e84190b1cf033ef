package timers

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
)

// expirations are values of Session-Expires; they seed the fuzzers too.
var expirations = []struct {
	name, value string
	seconds     uint32
	refresher   Refresher
	bad         bool
}{
	{name: "number", value: "1800", seconds: 1800},
	{name: "refresher uac", value: "1800;refresher=uac", seconds: 1800, refresher: RefresherUAC},
	{name: "refresher uas", value: "1800;refresher=uas", seconds: 1800, refresher: RefresherUAS},
	{name: "any case", value: "90;Refresher=UaS", seconds: 90, refresher: RefresherUAS},
	{name: "white space", value: " \t90 ; refresher = uac ", seconds: 90, refresher: RefresherUAC},
	{name: "folded", value: "90\r\n ;\r\n refresher=uac", seconds: 90, refresher: RefresherUAC},
	{name: "other parameters", value: "90;a;b=c;refresher=uas;d", seconds: 90, refresher: RefresherUAS},
	{name: "quoted parameter", value: `90;a="x\";refresher=uac;";refresher=uas`, seconds: 90, refresher: RefresherUAS},
	{name: "open quote", value: `90;a=";refresher=uac`, seconds: 90},
	{name: "open escape", value: `90;a="\`, seconds: 90},
	{name: "unknown refresher", value: "90;refresher=both", seconds: 90},
	{name: "refresher without value", value: "90;refresher", seconds: 90},
	{name: "longer parameter name", value: "90;refresherx=uac;xrefresher=uac", seconds: 90},
	{name: "first of two refreshers", value: "90;refresher=uas;refresher=uac", seconds: 90, refresher: RefresherUAS},
	{name: "empty parameters", value: "90;;;=;", seconds: 90},
	{name: "leading zeros", value: "00000000000000000090", seconds: 90},
	{name: "largest", value: "4294967295", seconds: 4294967295},
	{name: "one second", value: "1", seconds: 1},

	{name: "nothing", value: "", bad: true},
	{name: "white space only", value: " \t", bad: true},
	{name: "zero", value: "0", bad: true},
	{name: "zeros with refresher", value: "000;refresher=uac", bad: true},
	{name: "one too large", value: "4294967296", bad: true},
	{name: "too large", value: "99999999999", bad: true},
	{name: "past 64 bits", value: "18446744073709551706", bad: true},
	{name: "sign", value: "+90", bad: true},
	{name: "negative", value: "-90", bad: true},
	{name: "fraction", value: "90.5", bad: true},
	{name: "hexadecimal", value: "0x90", bad: true},
	{name: "unit", value: "90s", bad: true},
	{name: "list", value: "90, 1800", bad: true},
	{name: "two numbers", value: "90 1800", bad: true},
	{name: "no number", value: ";refresher=uac", bad: true},
	{name: "words", value: "refresher=uac", bad: true},
	{name: "quoted", value: `"90"`, bad: true},
	{name: "NUL", value: "90\x00", bad: true},
}

func TestSessionExpiresAndMinSEValues(t *testing.T) {
	for _, c := range expirations {
		t.Run(c.name, func(t *testing.T) {
			n, r, ok := ParseSessionExpires([]byte(c.value))
			if n != c.seconds || r != c.refresher || ok == c.bad {
				t.Errorf("Session-Expires: %d, %q, %v", n, r, ok)
			}
			if n, ok := ParseMinSE([]byte(c.value)); n != c.seconds || ok == c.bad {
				t.Errorf("Min-SE: %d, %v", n, ok)
			}
		})
	}
}

func TestParsingDoesNotAllocate(t *testing.T) {
	v := []byte(`1800;a="b;c";refresher=uas`)
	if n := testing.AllocsPerRun(100, func() { ParseSessionExpires(v); ParseMinSE(v) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParseSessionExpires(f *testing.F) {
	for _, c := range expirations {
		f.Add([]byte(c.value))
	}
	f.Fuzz(func(t *testing.T, v []byte) {
		before := bytes.Clone(v)
		n, r, ok := ParseSessionExpires(v)
		if !bytes.Equal(v, before) {
			t.Fatal("input changed")
		}
		if ok != (n > 0) || !ok && r != RefresherNone {
			t.Fatalf("%d, %q, %v", n, r, ok)
		}
		checkNumber(t, v, n)
		if m, also := ParseMinSE(v); m != n || also != ok {
			t.Fatalf("Min-SE reads %d, %v, Session-Expires %d, %v", m, also, n, ok)
		}
		if !ok {
			return
		}
		if m, q, ok := ParseSessionExpires(bytes.ToUpper(ascii(v))); !ok || m != n || q != r {
			t.Fatalf("upper case reads %d, %q, %v; lower %d, %q", m, q, ok, n, r)
		}
		if r != RefresherNone && !bytes.Contains(bytes.ToLower(ascii(v)), []byte(r.String())) {
			t.Fatalf("refresher %q out of nowhere", r)
		}
		plain := strconv.FormatUint(uint64(n), 10)
		if r != RefresherNone {
			plain += ";refresher=" + r.String()
		}
		if m, q, ok := ParseSessionExpires([]byte(plain)); !ok || m != n || q != r {
			t.Fatalf("%q reads %d, %q, %v", plain, m, q, ok)
		}
	})
}

func FuzzParseMinSE(f *testing.F) {
	for _, c := range expirations {
		f.Add([]byte(c.value))
	}
	f.Fuzz(func(t *testing.T, v []byte) {
		before := bytes.Clone(v)
		n, ok := ParseMinSE(v)
		if !bytes.Equal(v, before) {
			t.Fatal("input changed")
		}
		if ok != (n > 0) {
			t.Fatalf("%d, %v", n, ok)
		}
		checkNumber(t, v, n)
	})
}

// checkNumber compares n with what strconv makes of the part of v before the
// first semicolon.
func checkNumber(t *testing.T, v []byte, n uint32) {
	t.Helper()
	number, _, _ := strings.Cut(string(v), ";")
	want, err := strconv.ParseUint(strings.Trim(number, lws), 10, 32)
	if err != nil {
		want = 0
	}
	if uint64(n) != want {
		t.Fatalf("%q reads %d, want %d", v, n, want)
	}
}

// ascii blanks out bytes that bytes.ToUpper would take for parts of runes.
func ascii(v []byte) []byte {
	v = bytes.Clone(v)
	for i, c := range v {
		if c >= 0x80 {
			v[i] = '?'
		}
	}
	return v
}

// Asks of the tables.
var (
	timerSE1800   = Ask{Supported: true, HasSE: true, SE: 1800}
	timerSE60     = Ask{Supported: true, HasSE: true, SE: 60, Refresher: RefresherUAS}
	timerOnly     = Ask{Supported: true}
	foreignSE1800 = Ask{HasSE: true, SE: 1800} // put in by a proxy before us
	foreignSE60   = Ask{HasSE: true, SE: 60}
)

// and returns a after change.
func (a Ask) and(change func(*Ask)) Ask {
	change(&a)
	return a
}

func minSE(n uint32) func(*Ask) { return func(a *Ask) { a.HasMinSE, a.MinSE = true, n } }

func TestRequestDuties(t *testing.T) {
	always := with(func(p *Policy) { p.Insert = InsertAlways })
	never := with(func(p *Policy) { p.Insert = InsertNever })
	strict := with(func(p *Policy) { p.MinSE = 1800 * time.Second })
	lenient := with(func(p *Policy) { p.RejectSmall = false })
	inserted := func(n uint32) Duty { return Duty{SetSE: true, SE: n, Forwarded: n} }
	for _, c := range []struct {
		name    string
		p       *Policy
		ask     Ask
		learned uint32
		want    Duty
	}{
		{"A.1.1 too small for us, sender supports timer: 422", policy(), timerSE60, 0, Duty{Reject: true, MinSE: 90}},
		{"A.1.1 the 422 says our minimum", strict, timerSE1800.and(func(a *Ask) { a.SE = 1799 }), 0, Duty{Reject: true, MinSE: 1800}},
		{"A.1.1 reject_small_se no: untouched", lenient, timerSE60, 0, Duty{Forwarded: 60}},
		{"A.1.1 reject_small_se no: Min-SE untouched", lenient, timerSE60.and(minSE(30)), 0, Duty{Forwarded: 60}},
		{"A.1.2 too small, sender cannot react: both raised", policy(), foreignSE60, 0,
			Duty{SetMinSE: true, MinSE: 90, SetSE: true, SE: 90, Forwarded: 90}},
		{"A.1.2 to our minimum", strict, foreignSE60, 0,
			Duty{SetMinSE: true, MinSE: 1800, SetSE: true, SE: 1800, Forwarded: 1800}},
		{"A.1.2 smaller Min-SE raised", policy(), foreignSE60.and(minSE(30)), 0,
			Duty{SetMinSE: true, MinSE: 90, SetSE: true, SE: 90, Forwarded: 90}},
		{"A.1.2 larger Min-SE stays and is what SE becomes", policy(), foreignSE60.and(minSE(300)), 0,
			Duty{MinSE: 300, SetSE: true, SE: 300, Forwarded: 300}},
		{"A.1.2 whatever reject_small_se says", lenient, foreignSE60, 0,
			Duty{SetMinSE: true, MinSE: 90, SetSE: true, SE: 90, Forwarded: 90}},
		{"A.1.3 large enough: untouched", policy(), timerSE1800, 0, Duty{Forwarded: 1800}},
		{"A.1.3 just large enough", policy(), timerSE1800.and(func(a *Ask) { a.SE = 90 }), 0, Duty{Forwarded: 90}},
		{"A.1.3 not lowered to session_ttl, nor raised to learned", always, foreignSE1800, 3600, Duty{Forwarded: 1800}},
		{"A.1.4 absent, sender supports timer: session_ttl", policy(), timerOnly, 0, inserted(600)},
		{"A.1.4 not below Min-SE", policy(), timerOnly.and(minSE(1800)), 0, inserted(1800)},
		{"A.1.4 smaller Min-SE does not matter", policy(), timerOnly.and(minSE(120)), 0, inserted(600)},
		{"A.1.4 not below our min_se, which the next pass would reject", strict, timerOnly, 0, inserted(1800)},
		{"A.1.4 never", never, timerOnly, 0, Duty{}},
		{"A.1.4 if_uac_supports: not for the others", policy(), Ask{}, 0, Duty{}},
		{"A.1.4 always", always, Ask{}, 0, inserted(600)},
		{"A.1.4 always with Min-SE", always, Ask{}.and(minSE(1800)), 0, inserted(1800)},
		{"A.1.4 no session_ttl, nothing to insert", lab(0, 2, 500), timerOnly, 0, Duty{}},
		{"A.1.4 lab: not below 90", lab(6, 2, 500), timerOnly, 0, inserted(90)},
		{"A.1.4 fractions are rounded up", lab(600.5, 2, 500), timerOnly, 0, inserted(601)},
		{"A.1.6 unreadable: as absent, but no second one", always, Ask{Supported: true, BadSE: true}, 0, Duty{Unread: true}},
		{"A.1.6 two", always, Ask{Supported: true, HasSE: true, SE: 60, BadSE: true}, 0, Duty{Unread: true}},
		{"A.2 not below the Min-SE of an earlier 422", policy(), timerOnly, 1800, inserted(1800)},
		{"A.2 a smaller one does not matter", policy(), timerOnly, 90, inserted(600)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.p.Request(c.ask, c.learned); got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestMinSEOfALabMayBeSmall(t *testing.T) {
	p := lab(0.5, 2, 500)
	p.MinSE = 500 * time.Millisecond
	if got := p.Request(Ask{Supported: true, HasSE: true, SE: 1}, 0); got != (Duty{Forwarded: 1}) {
		t.Errorf("%+v", got)
	}
}

func TestSuccess(t *testing.T) {
	both := func(n uint32, requester bool) Agreement {
		return Agreement{SE: n, RequesterSE: n, ResponderSE: n, RequesterRefreshes: requester, ResponderRefreshes: !requester}
	}
	requesterOnly := func(n uint32) Agreement {
		return Agreement{InsertSE: n, SE: n, RequesterSE: n, RequesterRefreshes: true}
	}
	for _, c := range []struct {
		name      string
		ask       Ask
		forwarded uint32
		reply     Reply
		want      Agreement
	}{
		{"A.3 SE with refresher uac: untouched", timerSE1800, 1800, Reply{HasSE: true, SE: 1200, Refresher: RefresherUAC}, both(1200, true)},
		{"A.3 SE with refresher uas: untouched", timerSE1800, 1800, Reply{HasSE: true, SE: 1800, Refresher: RefresherUAS}, both(1800, false)},
		{"A.3 SE below every minimum: untouched", timerSE1800, 1800, Reply{HasSE: true, SE: 30, Refresher: RefresherUAC}, both(30, true)},
		{"A.3 SE without refresher, requester supports timer: uac", timerSE1800, 1800, Reply{HasSE: true, SE: 1800}, both(1800, true)},
		{"A.3 SE without refresher, requester does not: uas", foreignSE1800, 1800, Reply{HasSE: true, SE: 1800}, both(1800, false)},
		{"A.3 SE that nobody asked for", Ask{}, 0, Reply{HasSE: true, SE: 1800, Refresher: RefresherUAS}, both(1800, false)},
		{"A.3 no SE, asked by the endpoint: inserted", timerSE1800, 1800, Reply{}, requesterOnly(1800)},
		{"A.3 no SE, asked by us: inserted", timerOnly, 600, Reply{Supported: true}, requesterOnly(600)},
		{"A.3 no SE, asked for one that does not support timer", foreignSE1800, 1800, Reply{}, Agreement{}},
		{"A.3 no SE, not asked", timerOnly, 0, Reply{Supported: true}, Agreement{}},
		{"A.3 no SE but Require: timer, as if the requester supported it", foreignSE1800, 1800, Reply{Supported: true, RequireTimer: true}, requesterOnly(1800)},
		{"A.3 no SE but Require: timer, not asked", timerOnly, 0, Reply{Supported: true, RequireTimer: true}, Agreement{}},
		{"A.4 own request: the responder keeps what it says", Ask{Supported: true, HasSE: true, SE: 600}, 0,
			Reply{HasSE: true, SE: 600, Refresher: RefresherUAS}, both(600, false)},
		{"A.4 own request: nothing inserted for it", Ask{Supported: true, HasSE: true, SE: 600}, 0, Reply{}, Agreement{}},
		{"A.5 a 2xx without SE clears all", Ask{}, 0, Reply{}, Agreement{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := policy().Success(c.ask, c.forwarded, c.reply); got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestModeOfEachRow(t *testing.T) {
	uac := Reply{HasSE: true, SE: 1800, Refresher: RefresherUAC}
	uas := Reply{HasSE: true, SE: 1800, Refresher: RefresherUAS, Supported: true}
	supports := Reply{Supported: true}
	never := func(p *Policy) { p.Insert = InsertNever }
	always := func(p *Policy) { p.Insert = InsertAlways }
	onlySE := func(p *Policy) { p.Detect = DetectSE }
	noTTL := func(p *Policy) { p.TTL = 0 }
	as := func(changes ...func(*Policy)) *Policy {
		return with(func(p *Policy) {
			for _, change := range changes {
				change(p)
			}
		})
	}
	bad := Ask{Supported: true, BadSE: true}
	for _, c := range []struct {
		row      string
		p        *Policy
		ask      Ask
		reply    Reply
		mode     Mode
		inserts  uint32 // into the 2xx
		a, b     uint32 // interval of each leg
		aRef     bool   // A believes it is the refresher
		bRef     bool
		intoCall uint32 // inserted into the INVITE
	}{
		{row: "1", ask: timerSE1800, reply: uac, mode: ModeR, a: 1800, b: 1800, aRef: true},
		{row: "1 uas", ask: timerSE1800, reply: uas, mode: ModeR, a: 1800, b: 1800, bRef: true},
		{row: "1 session_expires", p: as(onlySE), ask: timerSE1800, reply: uac, mode: ModeR, a: 1800, b: 1800, aRef: true},
		{row: "2", ask: timerSE1800, mode: ModeR, inserts: 1800, a: 1800, aRef: true},
		{row: "2 session_expires", p: as(onlySE), ask: timerSE1800, mode: ModeR, inserts: 1800, a: 1800, aRef: true},
		{row: "3", ask: timerOnly, reply: uas, mode: ModeR, intoCall: 600, a: 1800, b: 1800, bRef: true},
		{row: "3 never", p: as(never), ask: timerOnly, reply: uas, mode: ModeR, a: 1800, b: 1800, bRef: true},
		{row: "3 never, session_expires", p: as(never, onlySE), ask: timerOnly, reply: uas, mode: ModeR, a: 1800, b: 1800, bRef: true},
		{row: "4", ask: timerOnly, mode: ModeR, intoCall: 600, inserts: 600, a: 600, aRef: true},
		{row: "4 session_expires", p: as(onlySE), ask: timerOnly, mode: ModeR, intoCall: 600, inserts: 600, a: 600, aRef: true},
		{row: "4n", p: as(never), ask: timerOnly, mode: ModeP},
		{row: "4n callee supports", p: as(never), ask: timerOnly, reply: supports, mode: ModeP},
		{row: "4n session_expires", p: as(never, onlySE), ask: timerOnly, reply: supports, mode: ModeN},
		{row: "4n unreadable SE", ask: bad, mode: ModeP},
		{row: "4n unreadable SE, session_expires", p: as(onlySE), ask: bad, mode: ModeN},
		{row: "5", ask: foreignSE1800, reply: uas, mode: ModeR, a: 1800, b: 1800, bRef: true},
		{row: "6", ask: foreignSE1800, mode: ModeP},
		{row: "6 callee supports", ask: foreignSE1800, reply: supports, mode: ModeP},
		{row: "6 session_expires", p: as(onlySE), ask: foreignSE1800, mode: ModeP},
		{row: "6 raised", ask: foreignSE60, mode: ModeP, intoCall: 90},
		{row: "7 callee insists", reply: uas, mode: ModeR, a: 1800, b: 1800, bRef: true},
		{row: "7 always", p: as(always), reply: uas, mode: ModeR, intoCall: 600, a: 1800, b: 1800, bRef: true},
		{row: "8", reply: supports, mode: ModeP},
		{row: "8 always", p: as(always), reply: supports, mode: ModeP, intoCall: 600},
		{row: "8 session_expires", p: as(onlySE), reply: supports, mode: ModeN},
		{row: "9", mode: ModeN},
		{row: "9 always", p: as(always), mode: ModeN, intoCall: 600},
		{row: "9 session_expires", p: as(onlySE), mode: ModeN},
		{row: "10", ask: timerSE60, mode: ModeNone},
		{row: "11 of 1", p: as(noTTL), ask: timerSE1800, reply: uac, mode: ModeR, a: 1800, b: 1800, aRef: true},
		{row: "11 of 2", p: as(noTTL), ask: timerSE1800, mode: ModeR, inserts: 1800, a: 1800, aRef: true},
		{row: "11 of 4", p: as(noTTL), ask: timerOnly, mode: ModeN},
		{row: "11 of 6", p: as(noTTL), ask: foreignSE1800, mode: ModeN},
		{row: "11 of 8", p: as(noTTL), reply: supports, mode: ModeN},
		{row: "11 of 9", p: as(noTTL), mode: ModeN},
	} {
		t.Run("B."+c.row, func(t *testing.T) {
			p := c.p
			if p == nil {
				p = policy()
			}
			d := p.Request(c.ask, 0)
			var g Agreement
			if !d.Reject {
				g = p.Success(c.ask, d.Forwarded, c.reply)
			}
			if d.SE != c.intoCall {
				t.Errorf("INVITE gets SE %d, want %d", d.SE, c.intoCall)
			}
			if got := p.ModeOf(c.ask, d, c.reply, g); got != c.mode {
				t.Errorf("mode %q, want %q", got, c.mode)
			}
			want := Agreement{
				InsertSE: c.inserts, SE: max(c.a, c.b), RequesterSE: c.a, ResponderSE: c.b,
				RequesterRefreshes: c.aRef, ResponderRefreshes: c.bRef,
			}
			if g != want {
				t.Errorf("got  %+v\nwant %+v", g, want)
			}
		})
	}
}

func TestModeOnlyRises(t *testing.T) {
	for _, m := range []Mode{ModeR, ModeP, ModeN} {
		if got := m.After(Agreement{}); got != m {
			t.Errorf("%v without session timer: %v", m, got)
		}
		if got := m.After(Agreement{SE: 90, ResponderSE: 90}); got != ModeR {
			t.Errorf("%v with session timer: %v", m, got)
		}
	}
}

// anyAsk is a random request, any fields set.
func anyAsk(r *rand.Rand) Ask {
	a := Ask{
		Supported: r.IntN(2) == 0,
		BadSE:     r.IntN(8) == 0,
		HasMinSE:  r.IntN(2) == 0,
		Refresher: Refresher(r.IntN(3)),
	}
	if a.HasMinSE {
		a.MinSE = interval(r)
	}
	if a.HasSE = !a.BadSE && r.IntN(3) > 0; a.HasSE {
		a.SE = interval(r)
	}
	return a
}

// interval is a number of seconds of any magnitude.
func interval(r *rand.Rand) uint32 { return max(1, r.Uint32()>>r.IntN(32)) }

func TestRulesOfRFC4028HoldForEveryRequest(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 200_000 {
		p, a := anyPolicy(r), anyAsk(r)
		var learned uint32
		if r.IntN(3) == 0 {
			learned = interval(r)
		}
		d := p.Request(a, learned)
		own := inSeconds(p.MinSE)
		fail := func(rule string) {
			t.Helper()
			t.Fatalf("%s\npolicy %+v\nask %+v, learned %d\nduty %+v", rule, p, a, learned, d)
		}
		if d.Reject {
			if !a.Supported || !a.HasSE || a.SE >= own || !p.RejectSmall || d.MinSE != own {
				fail("422 only for a small interval of one who supports timer")
			}
			if d.SetSE || d.SetMinSE || d.Forwarded != 0 {
				fail("what is rejected is not forwarded")
			}
			continue
		}
		if a.Supported && d.SetMinSE {
			fail("Min-SE is not touched when timer is supported")
		}
		if a.HasSE && d.Forwarded < a.SE {
			fail("SE is never lowered")
		}
		if a.HasSE && d.SetSE && (a.Supported || a.SE >= own) {
			fail("SE is only raised for one who does not support timer, from below min_se")
		}
		if a.BadSE && d != (Duty{Unread: true}) {
			fail("what cannot be read is not touched")
		}
		if d.SetMinSE && a.HasMinSE && d.MinSE <= a.MinSE {
			fail("Min-SE only rises")
		}
		if d.SetSE && (d.SE != d.Forwarded || d.SE < own || d.SE < a.minSE()) {
			fail("an SE of ours is at or above every minimum")
		}
		if d.SetSE && !a.HasSE && (d.SE < learned || d.SE < defaultMinSE) {
			fail("an SE of ours is not below the Min-SE of an earlier 422, nor below 90")
		}
		if again := p.Request(forwardedAs(a, d), learned); again.SetSE || again.SetMinSE || again.Reject && a.SE >= own {
			fail(fmt.Sprintf("a second pass changes more: %+v", again))
		}
	}
}

// forwardedAs is what the next hop sees of a after d.
func forwardedAs(a Ask, d Duty) Ask {
	if d.SetMinSE {
		a.HasMinSE, a.MinSE = true, d.MinSE
	}
	if d.SetSE {
		a.HasSE, a.SE = true, d.SE
	}
	return a
}

func TestRulesOfRFC4028HoldForEverySuccess(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 200_000 {
		p, a := anyPolicy(r), anyAsk(r)
		d := p.Request(a, 0)
		if d.Reject {
			continue
		}
		reply := Reply{Supported: r.IntN(2) == 0, Refresher: Refresher(r.IntN(3))}
		reply.RequireTimer = reply.Supported && r.IntN(2) == 0
		if reply.HasSE = r.IntN(2) == 0; reply.HasSE {
			reply.SE = interval(r)
		}
		g := p.Success(a, d.Forwarded, reply)
		fail := func(rule string) {
			t.Helper()
			t.Fatalf("%s\npolicy %+v\nask %+v\nreply %+v\nagreement %+v", rule, p, a, reply, g)
		}
		if reply.HasSE && (g.InsertSE != 0 || g.SE != reply.SE) {
			fail("an SE of the responder is not touched")
		}
		if g.InsertSE != 0 && (g.InsertSE != d.Forwarded || g.ResponderSE != 0) {
			fail("only what was forwarded is inserted, and only the requester knows of it")
		}
		if g.RequesterRefreshes && g.ResponderRefreshes || (g.SE > 0) != (g.RequesterRefreshes || g.ResponderRefreshes) {
			fail("one refreshes exactly when the session expires")
		}
		switch m := p.ModeOf(a, d, reply, g); m {
		case ModeR:
			if g.SE == 0 {
				fail("mode R without a session timer")
			}
		case ModeP:
			if g.SE > 0 || p.TTL == 0 {
				fail("mode P with a session timer, or without probing")
			}
		case ModeN:
			if g.SE > 0 || a.HasSE && p.TTL > 0 {
				fail("mode N with a session timer")
			}
		default:
			fail("no mode")
		}
	}
}

func TestSecondsAreRoundedUp(t *testing.T) {
	for d, want := range map[time.Duration]uint32{
		-time.Second: 0, 0: 0, 1: 1, 500 * time.Millisecond: 1, time.Second: 1, time.Second + 1: 2, 10 * time.Minute: 600, Never: 1<<32 - 1,
	} {
		if got := inSeconds(d); got != want {
			t.Errorf("%v: %d, want %d", d, got, want)
		}
	}
}
