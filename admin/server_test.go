package admin

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy"
)

// raw sends bytes and returns all that comes back.
func raw(t *testing.T, path, request string) string {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, request); err != nil {
		t.Logf("not all was taken: %v", err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		t.Logf("after %d bytes: %v", len(got), err)
	}
	return string(got)
}

// An exchange is a request, and status and a part of the body of its answer.
type exchange struct {
	name, method, path, body string
	status                   int
	want                     string
}

// answers holds the server at a path to exchanges.
func answers(t *testing.T, path string, cases []exchange) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := raw(t, path, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: sipward\r\nContent-Length: %d\r\n\r\n%s", c.method, c.path, len(c.body), c.body))
			res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), nil)
			if err != nil {
				t.Fatalf("%v: %q", err, got)
			}
			defer func() { _ = res.Body.Close() }()
			body, err := io.ReadAll(res.Body)
			if err != nil || !json.Valid(body) || res.Header.Get("Content-Type") != "application/json" {
				t.Errorf("body %q, %v", body, err)
			}
			if res.StatusCode != c.status || !strings.Contains(string(body), c.want) {
				t.Errorf("%d, %s; want %d, %s", res.StatusCode, body, c.status, c.want)
			}
			if c.status == 405 && res.Header.Get("Allow") == "" {
				t.Error("no Allow")
			}
		})
	}
}

// TestAnswers: status and body of every path, and of what is wrong.
func TestAnswers(t *testing.T) {
	path := tempSocket(t)
	serve(t, path, &manyCalls{n: 12}, new(lines))
	answers(t, path, []exchange{
		{"all calls", "GET", "/v1/calls", "", 200, `"more":false`},
		{"cut listing says so", "GET", "/v1/calls?limit=3", "", 200, `"id":"2"`},
		{"exactly the limit", "GET", "/v1/calls?limit=12", "", 200, `"more":false`},
		{"one too many", "GET", "/v1/calls?limit=11", "", 200, `"more":true`},
		{"nothing matches", "GET", "/v1/calls?party=carol", "", 200, `{"calls":[],"more":false}`},
		{"a Call-ID with a slash", "GET", "/v1/calls?call_id=call%2F3%40host", "", 200, `{"calls":[{"id":"3",`},
		{"misspelt parameter", "GET", "/v1/calls?callid=1", "", 400, `unknown parameter \"callid\"; there are: call_id, party, backend, mode, limit`},
		{"parameter twice", "GET", "/v1/calls?mode=R&mode=P", "", 400, `mode is given twice`},
		{"unknown mode", "GET", "/v1/calls?mode=X", "", 400, `mode \"X\": R, P or N`},
		{"limit zero", "GET", "/v1/calls?limit=0", "", 400, `limit \"0\": 1 to 10000`},
		{"limit too large", "GET", "/v1/calls?limit=10001", "", 400, `1 to 10000`},
		{"limit no number", "GET", "/v1/calls?limit=all", "", 400, `1 to 10000`},
		{"broken query", "GET", "/v1/calls?mode=%zz", "", 400, `invalid URL escape`},
		{"one call", "GET", "/v1/calls/7", "", 200, `{"id":"7","call_id":"call/7@host"`},
		{"no such call", "GET", "/v1/calls/99", "", 404, `no such call; it may have ended`},
		{"end", "DELETE", "/v1/calls/7", "", 202, `"id":"7"`},
		{"end none", "DELETE", "/v1/calls/99", "", 404, `no such call`},
		{"end one that rings", "DELETE", "/v1/calls/4", "", 409, `not answered yet`},
		{"end one that ends", "DELETE", "/v1/calls/11", "", 409, `being ended already`},
		{"stats", "GET", "/v1/stats", "", 200, `"concurrent":12`},
		{"backends", "GET", "/v1/backends", "", 200, `{"backends":[{"pool":"pbx"`},
		{"backend unknown", "PUT", "/v1/backends/pbx/none", `{"state":"drain"}`, 404, `no backend pbx/none`},
		{"the edge refuses", "PUT", "/v1/backends/pbx/%5B::1%5D:5060", `{"state":"drain"}`, 409, `cannot be set: the test says so`},
		{"unknown state", "PUT", "/v1/backends/pbx/pbx1", `{"state":"gone"}`, 400, `state \"gone\": up, drain, disabled`},
		{"no body", "PUT", "/v1/backends/pbx/pbx1", "", 400, `want {\"state\": \"drain\"}`},
		{"unknown field", "PUT", "/v1/backends/pbx/pbx1", `{"stat":"up"}`, 400, `unknown field`},
		{"large body", "PUT", "/v1/backends/pbx/pbx1", strings.Repeat(" ", 1<<16) + `{"state":"up"}`, 413, `more than 4096 bytes`},
		{"wrong method", "POST", "/v1/calls", "", 405, `POST is not for this path: GET`},
		{"wrong method of an element", "PATCH", "/v1/calls/7", "", 405, `GET, DELETE`},
		{"unknown path", "GET", "/v1/nothing", "", 404, `there are: GET /v1/calls, GET /v1/calls/{id}, DELETE /v1/calls/{id}, GET /v1/stats,`},
		{"unknown version", "GET", "/v2/calls", "", 404, `no such path`},
	})
}

// TestClientAndRealEdge: every call of the client, over a socket, to an edge.
func TestClientAndRealEdge(t *testing.T) {
	path, edge := tempSocket(t), realEdge(t)
	serve(t, path, edge, new(lines))
	ctx, c := t.Context(), NewClient("/nonexistent/s", path)
	if l, err := c.Calls(ctx, proxy.CallFilter{Party: "alice", Mode: "R", Limit: 5}); err != nil || len(l.Calls) != 0 || l.More {
		t.Errorf("calls: %+v, %v", l, err)
	}
	if l, err := c.Calls(ctx, proxy.CallFilter{ID: "a/../b"}); err != nil || len(l.Calls) != 0 {
		t.Errorf("call: %+v, %v", l, err)
	}
	if _, err := c.EndCall(ctx, "1"); err == nil || err.Error() != "no such call; it may have ended" {
		t.Errorf("end: %v", err)
	}
	if s, err := c.Stats(ctx); err != nil || s.Attempts != 0 {
		t.Errorf("stats: %+v, %v", s, err)
	}
	b, err := c.SetBackend(ctx, "pbx", "pbx2", "drain")
	if err != nil || b.State != "drain" || b.Name != "pbx2" {
		t.Errorf("set: %+v, %v", b, err)
	}
	l, err := c.Backends(ctx)
	if err != nil || len(l.Backends) != 2 || l.Backends[0].State != "up" || l.Backends[1].State != "drain" {
		t.Errorf("backends: %+v, %v", l, err)
	}
	if _, err := c.SetBackend(ctx, "pbx", "pbx3", "drain"); err == nil || err.Error() != "no backend pbx/pbx3" {
		t.Errorf("set one that is not: %v", err)
	}
}

// TestClientKeepsOddIdentifiers: whatever Call-ID and name, it arrives as it is.
func TestClientKeepsOddIdentifiers(t *testing.T) {
	path, edge := tempSocket(t), &manyCalls{n: 10}
	serve(t, path, edge, new(lines))
	c := NewClient(path)
	l, err := c.Calls(t.Context(), proxy.CallFilter{CallID: "call/3@host"})
	if err != nil || len(l.Calls) != 1 || l.Calls[0].ID != "3" {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err := c.EndCall(t.Context(), "3"); err != nil || !slices.Equal(edge.endedCalls(), []string{"3"}) {
		t.Errorf("%v, ended %v", err, edge.endedCalls())
	}
	for _, id := range []string{"", ".", "..", "a/b", "%2e", "?x=1", "#", "3/", "\x00", "ü"} {
		if _, err := c.EndCall(t.Context(), id); err == nil {
			t.Errorf("ended a call for %q", id)
		}
		if l, err := c.Calls(t.Context(), proxy.CallFilter{ID: id}); id != "" && (err != nil || len(l.Calls) > 0) {
			t.Errorf("found %+v for %q: %v", l, id, err)
		}
	}
	if _, err := c.SetBackend(t.Context(), "pbx", "[::1]:5060", "up"); err == nil || !strings.Contains(err.Error(), "backend [::1]:5060 cannot be set") {
		t.Errorf("the name did not arrive: %v", err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	path := tempSocket(t)
	_, err := NewClient(path, path+"2").Stats(t.Context())
	if want := fmt.Sprintf("no edge answers at %s or %s2: is it running?", path, path); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestPanicEndsOneRequest: with an answer and a line, and the server goes on.
func TestPanicEndsOneRequest(t *testing.T) {
	path, log := tempSocket(t), new(lines)
	panics := atomic.Bool{}
	panics.Store(true)
	serve(t, path, &manyCalls{enter: func() {
		if panics.Load() {
			panic("a bug")
		}
	}}, log)
	c := NewClient(path)
	if _, err := c.Stats(t.Context()); err == nil || err.Error() != "a bug in sipward: its log has the details" {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(log.String(), `"panic":"a bug"`) || !strings.Contains(log.String(), "server_test.go") {
		t.Errorf("no line: %s", log)
	}
	panics.Store(false)
	if _, err := c.Stats(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestFewRequestsAtATime: however many ask, mostConnections are served at a time,
// and all in the end.
func TestFewRequestsAtATime(t *testing.T) {
	const asking = 3 * mostConnections
	path := tempSocket(t)
	var now, most, served atomic.Int64
	full := make(chan struct{})
	serve(t, path, &manyCalls{enter: func() {
		n := now.Add(1)
		defer now.Add(-1)
		if n > most.Load() {
			most.Store(n)
		}
		if served.Add(1) == mostConnections {
			close(full)
		}
		<-full // so all places are taken at once
	}}, new(lines))
	c := NewClient(path)
	var all sync.WaitGroup
	for range asking {
		all.Go(func() {
			if _, err := c.Stats(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if served.Load() != asking || most.Load() > mostConnections {
		t.Errorf("%d served, at most %d at a time; want %d and %d", served.Load(), most.Load(), asking, mostConnections)
	}
}

// TestHostileRequests: each is refused, and the next one is served.
func TestHostileRequests(t *testing.T) {
	path := tempSocket(t)
	serve(t, path, &manyCalls{n: 1}, new(lines))
	for name, request := range map[string]string{
		"no HTTP":          "INVITE sip:bob@example.org SIP/2.0\r\n\r\n",
		"large header":     "GET /v1/stats HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n",
		"large path":       "GET /" + strings.Repeat("x", 64<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n",
		"no host":          "GET /v1/stats HTTP/1.1\r\n\r\n",
		"two lengths":      "PUT /v1/backends/a/b HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
		"path out of root": "GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			got := raw(t, path, request)
			if status, _, _ := strings.Cut(got, "\r\n"); strings.Contains(status, " 200") || got != "" && !strings.HasPrefix(got, "HTTP/1.1 ") {
				t.Errorf("got %.200q", got)
			}
			if _, err := NewClient(path).Stats(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSlowClientsDoNotHoldUpTheClosing: those who never finish their request, or
// never read the answer, are cut off.
func TestSlowClientsDoNotHoldUpTheClosing(t *testing.T) {
	path := tempSocket(t)
	asked := make(chan struct{}) // by the last one, behind all others
	// More calls than a socket takes, but a slow machine must have written them down before the test ends.
	s := serve(t, path, &manyCalls{n: 2000, enter: sync.OnceFunc(func() { close(asked) })}, new(lines))
	for _, begun := range []string{"", "GET /v1/st", "PUT /v1/backends/a/b HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n{",
		"GET /v1/calls?limit=2000 HTTP/1.1\r\nHost: a\r\n\r\n"} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := io.WriteString(c, begun); err != nil {
			t.Fatal(err)
		}
	}
	<-asked
	began := time.Now()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	// The one that does not read would have writeTime.
	if took := time.Since(began); took > writeTime/2 {
		t.Errorf("closing took %v", took)
	}
}

// TestDeadlinesAreSet: a server without them can be held for ever.
func TestDeadlinesAreSet(t *testing.T) {
	s := serve(t, tempSocket(t), &manyCalls{}, new(lines))
	if h := s.http; h.ReadHeaderTimeout <= 0 || h.ReadTimeout <= 0 || h.WriteTimeout <= 0 || h.MaxHeaderBytes <= 0 {
		t.Errorf("%+v", h)
	}
}

// FuzzARequestIsAnswered: with JSON and a status that is no fault of ours, and it
// ends only a call that it names.
func FuzzARequestIsAnswered(f *testing.F) {
	f.Add("GET", "/v1/calls", "party=alice&limit=3", "")
	f.Add("GET", "/v1/calls/3", "", "")
	f.Add("DELETE", "/v1/calls/1", "", "")
	f.Add("PUT", "/v1/backends/pbx/pbx1", "", `{"state":"drain"}`)
	f.Add("POST", "/v1/stats", "mode=%52", `{"state":[]}`)
	f.Add("GET", "/v1//calls/../stats", "limit=-1", "\x00")
	f.Add("PUT", "/v1/bans/2001:db8::/64", "", `{"for":60,"by":"x"}`)
	f.Add("POST", "/v1/bans", "", `{"bans":[{"key":"192.0.2.1"}]}`)
	f.Add("GET", "/v1/bans", "limit=all&kind=user", "")
	f.Add("GET", "/v1/explain/a%2F@b", "", "")
	f.Add("GET", "/v1/registrations", "aor=a@b&text=x&source=::1&backend=pbx1&limit=3", "")
	f.Add("GET", "/v1/registrations/1f", "", "")
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		edge := &manyCalls{n: 10}
		s := &Server{edge: edge, log: nop()}
		s.mux = s.routes()
		r := httptest.NewRequest("GET", "/", strings.NewReader(body))
		r.Method, r.URL = method, &url.URL{Path: path, RawQuery: query}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Errorf("%d: %s", w.Code, w.Body)
		}
		if w.Code/100 != 3 && !json.Valid(w.Body.Bytes()) { // a redirect has no body that matters
			t.Errorf("%d: not JSON: %q", w.Code, w.Body)
		}
		if ended := edge.endedCalls(); len(ended) > 0 && (method != "DELETE" || path != "/v1/calls/"+ended[0]) {
			t.Errorf("%s %s ended %v", method, path, ended)
		}
	})
}

// FuzzFilterIsBounded: what is accepted has a limit and a mode.
func FuzzFilterIsBounded(f *testing.F) {
	f.Add("call_id=a%40b&party=sip:x&backend=pbx1&mode=N&limit=10000")
	f.Add("limit=+1")
	f.Fuzz(func(t *testing.T, query string) {
		got, err := filterOf(query)
		if err == nil && (got.Limit < 1 || got.Limit > MaxLimit || len(got.Mode) > 1 || got.ID != "") {
			t.Errorf("%q: %+v", query, got)
		}
	})
}
