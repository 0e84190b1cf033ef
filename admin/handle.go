package admin

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sipward/sipward/proxy"
)

// Numbers we chose.
const (
	// DefaultLimit and MaxLimit bound a listing: an edge may hold a million calls.
	DefaultLimit = 1000
	MaxLimit     = 10000
)

// CallList is the answer to GET /v1/calls.
type CallList struct {
	Calls []proxy.CallInfo `json:"calls"`
	More  bool             `json:"more"` // others match, beyond the limit
}

// BackendList is the answer to GET /v1/backends.
type BackendList struct {
	Backends []proxy.BackendInfo `json:"backends"`
}

// backendState is the body of PUT /v1/backends/{pool}/{name}.
type backendState struct {
	State string `json:"state"`
}

// failure is the body of every answer that is not 2xx.
type failure struct {
	Error string `json:"error"`
}

// an answer is what a handler returns: the status, and what becomes JSON.
type answer struct {
	status int
	body   any
	stream func(w io.Writer) error // instead of body: writes what is too large to hold twice
}

func say(status int, body any) answer { return answer{status: status, body: body} }

func refuse(status int, format string, args ...any) answer {
	return say(status, failure{fmt.Sprintf(format, args...)})
}

var fault = refuse(http.StatusInternalServerError, "a bug in sipward: its log has the details")

type route struct {
	pattern string // of http.ServeMux: method and path
	handle  func(s *Server, r *http.Request) answer
	body    int64 // bytes that the request may have, 0 = mostBody
}

var routes = []route{
	{pattern: "GET /v1/calls", handle: (*Server).listCalls},
	{pattern: "GET /v1/calls/{id}", handle: (*Server).showCall},
	{pattern: "DELETE /v1/calls/{id}", handle: (*Server).endCall},
	{pattern: "GET /v1/stats", handle: (*Server).stats},
	{pattern: "GET /v1/backends", handle: (*Server).listBackends},
	{pattern: "PUT /v1/backends/{pool}/{name}", handle: (*Server).setBackend},
	{pattern: "GET /v1/bans", handle: (*Server).listBans},
	{pattern: "POST /v1/bans", handle: (*Server).importBans, body: mostImport},
	{pattern: "DELETE /v1/bans", handle: (*Server).flushBans},
	{pattern: "GET /v1/bans/{key...}", handle: (*Server).showBan},
	{pattern: "PUT /v1/bans/{key...}", handle: (*Server).addBan},
	{pattern: "DELETE /v1/bans/{key...}", handle: (*Server).removeBan},
	{pattern: "GET /v1/explain/{key...}", handle: (*Server).explain},
	{pattern: "GET /v1/security", handle: (*Server).security},
	{pattern: "GET /v1/registrations", handle: (*Server).listRegistrations},
	{pattern: "GET /v1/registrations/{id}", handle: (*Server).showRegistration},
	{pattern: "GET /v1/registration_stats", handle: (*Server).registrationStats},
}

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for _, r := range routes {
		most := cmp.Or(r.body, mostBody)
		mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) {
			req.Body = http.MaxBytesReader(w, req.Body, most)
			s.write(w, r.handle(s, req))
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) { s.write(w, s.unknown(w, req)) })
	return mux
}

// ServeHTTP bounds a request and contains what goes wrong in it.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if v := recover(); v != nil {
			s.log.Error().Interface("panic", v).Str("path", r.URL.Path).Str("stack", string(debug.Stack())).
				Msg("an administration request could not be handled, this is a bug; the edge goes on")
			s.write(w, fault)
		}
	}()
	s.mux.ServeHTTP(w, r)
}

// onePart is what a client has writeTime for.
const onePart = 64 << 10

// A patient writer gives each part of an answer its time: a client that is slow, or a machine,
// is not cut off as long as it takes something.
type patient struct {
	to  http.ResponseWriter
	end time.Time
}

func (p *patient) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		by := time.Now().Add(writeTime)
		if by.After(p.end) {
			by = p.end
		}
		_ = http.NewResponseController(p.to).SetWriteDeadline(by) // only the recorders of tests have none
		k := 0
		k, err = p.to.Write(b[:min(len(b), onePart)])
		n, b = n+k, b[k:]
	}
	return n, err
}

// write encodes first: what JSON cannot express is a fault with a status.
func (s *Server) write(w http.ResponseWriter, a answer) {
	out := &patient{w, time.Now().Add(longestAnswer)}
	w.Header().Set("Content-Type", "application/json")
	if a.stream != nil {
		w.WriteHeader(a.status)
		_ = a.stream(out) // who asked is gone
		return
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(a.body); err != nil {
		s.log.Error().Err(err).Msg("an administration request could not be answered, this is a bug; the edge goes on")
		s.write(w, fault)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(a.status)
	_, _ = out.Write(b.Bytes()) // who asked is gone
}

// unknown says what exists instead.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request) answer {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := s.mux.Handler(other); pattern != "/" {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) > 0 {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return refuse(http.StatusMethodNotAllowed, "%s is not for this path: %s", r.Method, strings.Join(allowed, ", "))
	}
	var all []string
	for _, r := range routes {
		all = append(all, r.pattern)
	}
	return refuse(http.StatusNotFound, "no such path; there are: %s", strings.Join(all, ", "))
}

func (s *Server) listCalls(r *http.Request) answer {
	f, err := filterOf(r.URL.RawQuery)
	if err != nil {
		return refuse(http.StatusBadRequest, "%v", err)
	}
	var l CallList
	l.Calls, l.More = upTo(f.Limit, func(n int) []proxy.CallInfo {
		f.Limit = n
		return s.edge.Calls(f)
	})
	return say(http.StatusOK, l)
}

// upTo asks for one more than the limit: it tells that there are more.
func upTo[T any](limit int, ask func(n int) []T) (list []T, more bool) {
	list = ask(limit + 1)
	if len(list) > limit {
		return list[:limit], true
	}
	if list == nil {
		list = []T{} // [] rather than null in JSON
	}
	return list, false
}

// filterKeys are what GET /v1/calls takes.
var filterKeys = []string{"call_id", "party", "backend", "mode", "limit"}

// filterOf reads the query of GET /v1/calls. A key that is misspelt must not list
// all calls.
func filterOf(query string) (proxy.CallFilter, error) {
	f := proxy.CallFilter{Limit: DefaultLimit}
	values, err := queryOf(query, filterKeys)
	if err != nil {
		return f, err
	}
	f.CallID, f.Party, f.Backend = values.Get("call_id"), values.Get("party"), values.Get("backend")
	switch f.Mode = values.Get("mode"); f.Mode {
	case "", "R", "P", "N":
	default:
		return f, fmt.Errorf("mode %q: R, P or N", f.Mode)
	}
	f.Limit, err = limitOf(values)
	return f, err
}

// queryOf reads a query that may have each of the keys once, and no other.
func queryOf(query string, keys []string) (url.Values, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, err
	}
	for key, v := range values {
		if !slices.Contains(keys, key) {
			return nil, fmt.Errorf("unknown parameter %q; there are: %s", key, strings.Join(keys, ", "))
		}
		if len(v) > 1 {
			return nil, fmt.Errorf("%s is given twice", key)
		}
	}
	return values, nil
}

func limitOf(values url.Values) (int, error) {
	text := values.Get("limit")
	if text == "" {
		return DefaultLimit, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > MaxLimit {
		return 0, fmt.Errorf("limit %q: 1 to %d", text, MaxLimit)
	}
	return n, nil
}

// call finds the call of a path.
func (s *Server) call(r *http.Request) (proxy.CallInfo, bool) {
	calls := s.edge.Calls(proxy.CallFilter{ID: r.PathValue("id"), Limit: 1})
	if len(calls) == 0 {
		return proxy.CallInfo{}, false
	}
	return calls[0], true
}

var noCall = refuse(http.StatusNotFound, "no such call; it may have ended")

func (s *Server) showCall(r *http.Request) answer {
	c, ok := s.call(r)
	if !ok {
		return noCall
	}
	return say(http.StatusOK, c)
}

func (s *Server) endCall(r *http.Request) answer {
	c, ok := s.call(r)
	if !ok {
		return noCall
	}
	if !s.edge.EndCall(c.ID) {
		switch {
		case c.Answer.IsZero():
			return refuse(http.StatusConflict, "the call is not answered yet, so there is nothing to send BYE for")
		case c.IsEnding():
			return refuse(http.StatusConflict, "the call is being ended already")
		}
		return noCall // since we looked
	}
	return say(http.StatusAccepted, c)
}

func (s *Server) stats(*http.Request) answer { return say(http.StatusOK, s.edge.CallStats()) }

func (s *Server) listBackends(*http.Request) answer {
	l := BackendList{Backends: s.edge.Backends()}
	if l.Backends == nil {
		l.Backends = []proxy.BackendInfo{}
	}
	return say(http.StatusOK, l)
}

// States are those that an operator can put a backend into.
var States = []string{"up", "drain", "disabled"}

func (s *Server) setBackend(r *http.Request) answer {
	want, err := stateOf(r.Body)
	if err != nil {
		return badBody(err)
	}
	pool, name := r.PathValue("pool"), r.PathValue("name")
	if _, ok := s.backend(pool, name); !ok {
		return refuse(http.StatusNotFound, "no backend %s/%s", pool, name)
	}
	if err := s.edge.SetBackend(pool, name, want); err != nil {
		return refuse(http.StatusConflict, "%v", err)
	}
	b, ok := s.backend(pool, name)
	if !ok { // a reload took it away
		return refuse(http.StatusNotFound, "no backend %s/%s", pool, name)
	}
	return say(http.StatusOK, b)
}

// badBody is the answer to a body that could not be read.
func badBody(err error) answer {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return refuse(http.StatusRequestEntityTooLarge, "more than %d bytes", large.Limit)
	}
	return refuse(http.StatusBadRequest, "%v", err)
}

// stateOf reads the body of PUT /v1/backends/{pool}/{name}.
func stateOf(body io.Reader) (string, error) {
	var b backendState
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return "", fmt.Errorf(`body: want {"state": "drain"}: %w`, err)
	}
	if !slices.Contains(States, b.State) {
		return "", fmt.Errorf("state %q: %s", b.State, strings.Join(States, ", "))
	}
	return b.State, nil
}

func (s *Server) backend(pool, name string) (proxy.BackendInfo, bool) {
	all := s.edge.Backends()
	i := slices.IndexFunc(all, func(b proxy.BackendInfo) bool { return b.Pool == pool && b.Name == name })
	if i < 0 {
		return proxy.BackendInfo{}, false
	}
	return all[i], true
}
