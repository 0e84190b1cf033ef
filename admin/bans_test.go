package admin

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy"
	"github.com/sipward/sipward/test/admintest"
)

// keys are keys of every kind, some of them no friends of URLs.
var keys = []string{
	"192.0.2.1", "2001:db8:1:2::/64", "::/64", "alice@example.org", "alice@example.org/192.0.2.1", "alice@example.org/2001:db8:1:2::/64",
	"a/b@example.org", "a/../b@example.org", "?x=1#y@example.org", "%2e%2F@example.org", "../../x@example.org", "//@example.org/192.0.2.1",
	"a b@example.org", "\x00\x1b\r\n@example.org", "ü€@example.org", `"al'ice"@example.org`, "sip:@x;y=1@example.org", "+4930@[2001:db8::1]", ".@.", "..@..",
}

// TestEveryKeyArrivesAsItIs: through the path of each request, over a socket.
func TestEveryKeyArrivesAsItIs(t *testing.T) {
	path := tempSocket(t)
	serve(t, path, &manyCalls{}, new(lines))
	ctx, c := t.Context(), NewClient(path)
	for _, key := range keys {
		b, err := c.AddBan(ctx, proxy.NewBan{Key: key, For: 60, By: "bob", Why: "it's a test"})
		if err != nil || b.Key != key || b.By != "bob" || b.Why != "it's a test" || b.Until.Sub(b.Since) != time.Minute {
			t.Errorf("add %q: %+v, %v", key, b, err)
		}
		if b, ok, err := c.Ban(ctx, key); err != nil || !ok || b.Key != key {
			t.Errorf("show %q: %+v, %v, %v", key, b, ok, err)
		}
		if l, err := c.Bans(ctx, proxy.BanFilter{Key: key}); err != nil || len(l.Bans) != 1 || l.Bans[0].Key != key {
			t.Errorf("list %q: %+v, %v", key, l, err)
		}
		if x, err := c.Explain(ctx, key); err != nil || x.Key != key || x.Verdict != "passes" {
			t.Errorf("explain %q: %+v, %v", key, x, err)
		}
		if was, ok, err := c.RemoveBan(ctx, key); err != nil || !ok || was.Key != key {
			t.Errorf("remove %q: %+v, %v, %v", key, was, ok, err)
		}
		if _, ok, err := c.RemoveBan(ctx, key); err != nil || ok {
			t.Errorf("remove %q again: %v, %v", key, ok, err)
		}
		if _, ok, err := c.Ban(ctx, key); err != nil || ok {
			t.Errorf("show %q that is gone: %v, %v", key, ok, err)
		}
	}
}

// TestKeysOfPeople: what is written otherwise means the same ban; what is no key is refused.
func TestKeysOfPeople(t *testing.T) {
	path := tempSocket(t)
	serve(t, path, &manyCalls{}, new(lines))
	c := NewClient(path)
	for given, want := range map[string]string{
		"2001:DB8:1:2:3:4:5:6": "2001:db8:1:2::/64", "::ffff:192.0.2.1": "192.0.2.1", "[2001:db8::1]": "2001:db8::/64", "Alice@EXAMPLE.org": "Alice@example.org",
	} {
		if b, err := c.AddBan(t.Context(), proxy.NewBan{Key: given}); err != nil || b.Key != want || b.By != "admin" {
			t.Errorf("%q: %+v, %v; want %s", given, b, err, want)
		}
	}
	for _, bad := range []string{"", "alice", "192.0.2.0/24", "2001:db8::/48", "alice@", "@example.org", "alice@example.org/x", "192.0.2.1:5060", "*"} {
		if b, err := c.AddBan(t.Context(), proxy.NewBan{Key: bad}); err == nil {
			t.Errorf("%q: %+v", bad, b)
		}
	}
}

// TestBanAnswers: status and body of every path of bans, and of what is wrong.
func TestBanAnswers(t *testing.T) {
	path := tempSocket(t)
	edge := new(manyCalls)
	edge.SetBans([]proxy.BanInfo{
		{Key: "192.0.2.1", Rule: "dos"}, {Key: "2001:db8:1:2::/64", Rule: "operator"}, {Key: "alice@example.org", Rule: "failed_auth"},
	})
	serve(t, path, edge, new(lines))
	many := `{"bans":[` + strings.TrimSuffix(strings.Repeat(`{"key":"192.0.2.1"},`, MaxImport+1), ",") + `]}`
	answers(t, path, []exchange{
		{"all", "GET", "/v1/bans", "", 200, `"more":false`},
		{"more", "GET", "/v1/bans?limit=2", "", 200, `"more":true`},
		{"exactly", "GET", "/v1/bans?limit=3", "", 200, `"more":false`},
		{"without limit", "GET", "/v1/bans?limit=all", "", 200, `"key":"alice@example.org"`},
		{"of addresses", "GET", "/v1/bans?kind=ip&limit=2", "", 200, `"more":false`},
		{"of users", "GET", "/v1/bans?kind=user", "", 200, `{"bans":[{"key":"alice@example.org","rule":"failed_auth"`},
		{"of a rule", "GET", "/v1/bans?rule=operator", "", 200, `{"bans":[{"key":"2001:db8:1:2::/64"`},
		{"by a part of the key", "GET", "/v1/bans?key=2001", "", 200, `{"bans":[{"key":"2001:db8:1:2::/64"`},
		{"none match", "GET", "/v1/bans?key=zz", "", 200, `{"bans":[],"more":false}`},
		{"none match, without limit", "GET", "/v1/bans?key=zz&limit=all", "", 200, `{"bans":[],"more":false}`},
		{"unknown kind", "GET", "/v1/bans?kind=x", "", 400, `kind \"x\": ip or user`},
		{"unknown rule", "GET", "/v1/bans?rule=x", "", 400, `rule \"x\": dos, failed_auth, failed_auth_source, enumeration, operator`},
		{"unknown limit", "GET", "/v1/bans?limit=ALL", "", 400, `limit \"ALL\": 1 to 10000`},
		{"unknown parameter", "GET", "/v1/bans?rules=dos", "", 400, `unknown parameter \"rules\"; there are: kind, rule, key, limit`},
		{"one", "GET", "/v1/bans/192.0.2.1", "", 200, `{"key":"192.0.2.1","rule":"dos"`},
		{"one, unescaped slash", "GET", "/v1/bans/2001:db8:1:2::/64", "", 200, `{"key":"2001:db8:1:2::/64"`},
		{"one, escaped slash", "GET", "/v1/bans/2001:db8:1:2::%2F64", "", 200, `{"key":"2001:db8:1:2::/64"`},
		{"one, by an address in it", "GET", "/v1/bans/2001:db8:1:2::9", "", 200, `{"key":"2001:db8:1:2::/64"`},
		{"one that is not", "GET", "/v1/bans/192.0.2.2", "", 404, `no ban of 192.0.2.2`},
		{"no key", "GET", "/v1/bans/", "", 400, `key \"\": want an IP address, user@domain, or user@domain/address`},
		{"network", "GET", "/v1/bans/192.0.2.0/24", "", 400, `a ban is of one IPv4 address or one IPv6 /64`},
		{"trusted", "PUT", "/v1/bans/10.0.0.1", `{}`, 409, `10.0.0.1 is never banned: it is backend \"pbx1\"`},
		{"no body", "PUT", "/v1/bans/192.0.2.7", "", 400, `want {\"for\": 3600`},
		{"misspelt", "PUT", "/v1/bans/192.0.2.7", `{"fore": 1}`, 400, `unknown field \"fore\"`},
		{"time gone by", "PUT", "/v1/bans/192.0.2.7", `{"for": -1}`, 400, `for -1: 1 to 315360000 seconds`},
		{"no time", "PUT", "/v1/bans/192.0.2.7", `{"for": 0.001}`, 400, `for 0.001: 1 to`},
		{"time without end", "PUT", "/v1/bans/192.0.2.7", `{"for": 1e300}`, 400, `seconds, or 0 for the configured time`},
		{"a tale", "PUT", "/v1/bans/192.0.2.7", `{"why": "` + strings.Repeat("x", 201) + `"}`, 400, `why: more than 200 bytes`},
		{"an epic", "PUT", "/v1/bans/192.0.2.7", `{"why": "` + strings.Repeat("x", 5000) + `"}`, 413, `more than 4096 bytes`},
		{"lift none", "DELETE", "/v1/bans/192.0.2.2", "", 404, `no ban of 192.0.2.2`},
		{"lift", "DELETE", "/v1/bans/192.0.2.1", "", 200, `{"key":"192.0.2.1","rule":"dos"`},
		{"import", "POST", "/v1/bans", `{"bans":[{"key":"192.0.2.5","rule":"dos","of_a_later_version":{}},{"key":"10.0.0.1"}],"more":false}`, 200, `{"added":1,"skipped":1}`},
		{"import a bad key", "POST", "/v1/bans", `{"bans":[{"key":"192.0.2.6"},{"key":"x"}]}`, 400, `bans[1]: key \"x\": want an IP address`},
		{"import a bad rule", "POST", "/v1/bans", `{"bans":[{"key":"192.0.2.6","rule":"whim"}]}`, 400, `bans[0]: rule \"whim\": dos,`},
		{"import a bad time", "POST", "/v1/bans", `{"bans":[{"key":"192.0.2.6","until":"soon"}]}`, 400, `want {\"bans\": […]}`},
		{"import too many", "POST", "/v1/bans", many, 400, `501 bans, at most 500 at a time`},
		{"import too much", "POST", "/v1/bans", strings.Repeat(" ", mostImport) + `{}`, 413, `more than 1048576 bytes`},
		{"import nothing", "POST", "/v1/bans", `{}`, 200, `{"added":0,"skipped":0}`},
		{"none of a bad import came in", "GET", "/v1/bans?key=192.0.2.6", "", 200, `{"bans":[],`},
		{"explain", "GET", "/v1/explain/alice@example.org/192.0.2.1", "", 200, `{"key":"alice@example.org/192.0.2.1"`},
		{"explain no key", "GET", "/v1/explain/alice", "", 400, `key \"alice\": want an IP address`},
		{"cannot explain", "GET", "/v1/explain/" + admintest.Unexplained, "", 409, `cannot say`},
		{"figures", "GET", "/v1/security", "", 200, `"bans":3,`},
		{"wrong method", "PATCH", "/v1/bans", "", 405, `PATCH is not for this path: GET, POST`},
		{"wrong method of one", "POST", "/v1/bans/192.0.2.1", "", 405, `POST is not for this path: GET, PUT, DELETE`},
		{"flush", "DELETE", "/v1/bans", "", 200, `{"lifted":3}`},
		{"flush again", "DELETE", "/v1/bans", "", 200, `{"lifted":0}`},
	})
}

// TestManyBansGoOutAndIn: more than any limit, in requests that fit, with all that a ban has.
func TestManyBansGoOutAndIn(t *testing.T) {
	const n = MaxLimit + 501
	var want []proxy.BanInfo
	for i := range n {
		b := proxy.BanInfo{
			Key: fmt.Sprintf("10.%d.%d.%d", 1+i>>16, i>>8&255, i&255), Rule: "dos", Since: admintest.Noon, Until: admintest.Noon.Add(time.Hour), Hard: true,
			Count: 51, Limit: 50, Window: 2, First: admintest.Noon.Add(-time.Second), Last: admintest.Noon, By: "edge", Drops: uint64(i),
		}
		if i < 300 { // too much for one request
			for range 8 {
				b.Evidence = append(b.Evidence, proxy.EvidenceInfo{At: admintest.Noon, Method: "REGISTER", CallID: strings.Repeat("\x01", 64), Status: 401})
			}
		}
		want = append(want, b)
	}
	from, to := tempSocket(t), tempSocket(t)
	edge, other := new(manyCalls), new(manyCalls)
	edge.SetBans(want)
	serve(t, from, edge, new(lines))
	serve(t, to, other, new(lines))
	var got []proxy.BanInfo
	err := NewClient(from).AllBans(t.Context(), proxy.BanFilter{Kind: "ip"}, func(b proxy.BanInfo) error {
		got = append(got, b)
		return nil
	})
	if err != nil || len(got) != n {
		t.Fatalf("%d bans, %v", len(got), err)
	}
	told := 0
	sum, err := NewClient(to).ImportBans(t.Context(), got, func(sent int) {
		if sent <= told || sent > told+MaxImport {
			t.Errorf("%d are told after %d", sent, told)
		}
		told = sent
	})
	if err != nil || sum != (Imported{Added: n}) || told != n {
		t.Fatalf("%+v of %d, told %d, %v", sum, n, told, err)
	}
	a, b := fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", other.Bans(proxy.BanFilter{}))
	if a != b {
		t.Error("the bans are not what they were")
	}
	stop := errors.New("enough")
	if err := NewClient(from).AllBans(t.Context(), proxy.BanFilter{}, func(proxy.BanInfo) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped with %v", err)
	}
}

// TestOneListingOfAllAtATime: another is refused while one is written, and then served.
func TestOneListingOfAllAtATime(t *testing.T) {
	path := tempSocket(t)
	begun, goOn, isFirst := make(chan struct{}), make(chan struct{}), atomic.Bool{}
	isFirst.Store(true)
	edge := &manyCalls{n: 1}
	slow := &slowBans{edge, func() {
		if isFirst.Swap(false) {
			close(begun)
			<-goOn
		}
	}}
	serve(t, path, slow, new(lines))
	c, none := NewClient(path), func(proxy.BanInfo) error { return nil }
	var first sync.WaitGroup
	first.Go(func() {
		if err := c.AllBans(t.Context(), proxy.BanFilter{}, none); err != nil {
			t.Error(err)
		}
	})
	<-begun
	if err := c.AllBans(t.Context(), proxy.BanFilter{}, none); err == nil || !strings.Contains(err.Error(), "another listing of all bans is under way") {
		t.Errorf("at the same time: %v", err)
	}
	close(goOn)
	first.Wait()
	if err := c.AllBans(t.Context(), proxy.BanFilter{}, none); err != nil {
		t.Error(err)
	}
}

// slowBans is an edge whose listing of bans waits.
type slowBans struct {
	*manyCalls
	wait func()
}

func (e *slowBans) Bans(f proxy.BanFilter) []proxy.BanInfo {
	e.wait()
	return e.manyCalls.Bans(f)
}

// TestPanicWhileStreaming: the listing is cut off where it can be seen, and the next one is served.
func TestPanicWhileStreaming(t *testing.T) {
	path, panics := tempSocket(t), atomic.Bool{}
	panics.Store(true)
	serve(t, path, &slowBans{&manyCalls{}, func() {
		if panics.Load() {
			panic("a bug")
		}
	}}, new(lines))
	c, none := NewClient(path), func(proxy.BanInfo) error { return nil }
	if err := c.AllBans(t.Context(), proxy.BanFilter{}, none); err == nil {
		t.Error("no error")
	}
	panics.Store(false)
	if err := c.AllBans(t.Context(), proxy.BanFilter{}, none); err != nil {
		t.Error(err)
	}
}

// TestReadBans: of an export, of a bare array, and of what is neither.
func TestReadBans(t *testing.T) {
	for text, want := range map[string]string{
		`{"bans":[{"key":"a"},{"key":"b"}],"more":false}`:        "a b",
		`{"version":{"x":[1]},"bans":[{"key":"a"}],"more":true}`: "a",
		`[{"key":"a"},{"key":"b"}]`:                              "a b",
		`[]`:                                                     "",
		`{"bans":[]}`:                                            "",
		`{"bans":[{"key":"a"}`:                                   "a unexpected EOF",
		`{"bans":[{"key":"a"}]`:                                  "a unexpected EOF",
		`{"bans":[{"key":"a"}],"more":false`:                     "a unexpected EOF",
		`{"bans":{"key":"a"}}`:                                   `want {"bans": […]}`,
		`{"ban":[]}`:                                             `want {"bans": […]}`,
		`"x"`:                                                    `want {"bans": […]}`,
		`{"bans":[{"key":7}]}`:                                   "json: cannot unmarshal number into Go struct field BanInfo.key of type string",
		``:                                                       "EOF",
	} {
		var got []string
		if err := ReadBans(strings.NewReader(text), func(b proxy.BanInfo) error {
			got = append(got, b.Key)
			return nil
		}); err != nil {
			got = append(got, err.Error())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %q, want %s", text, got, want)
		}
	}
}

// FuzzImportIsBounded: what is accepted has few bans, each of a key that can be read.
func FuzzImportIsBounded(f *testing.F) {
	f.Add(`{"bans":[{"key":"192.0.2.1","rule":"dos","since":"2026-03-01T12:00:00Z","evidence":[{"status":401}]}]}`)
	f.Add(`{"bans":[{"key":"a@b/2001:db8::1"}]}`)
	f.Add(`{"bans":null}`)
	f.Fuzz(func(t *testing.T, body string) {
		got, err := importOf(strings.NewReader(body))
		if err != nil {
			return
		}
		if len(got) > MaxImport {
			t.Errorf("%d bans", len(got))
		}
		for _, b := range got {
			if again, err := proxy.BanKey(b.Key); err != nil || again != b.Key {
				t.Errorf("key %q: %q, %v", b.Key, again, err)
			}
		}
	})
}
