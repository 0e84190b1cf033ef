package admin

import (
	"bytes"
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
}

func refuse(status int, format string, args ...any) answer {
	return answer{status, failure{fmt.Sprintf(format, args...)}}
}

var fault = refuse(http.StatusInternalServerError, "a bug in sipward: its log has the details")

type route struct {
	pattern string // of http.ServeMux: method and path
	handle  func(s *Server, r *http.Request) answer
}

var routes = []route{
	{"GET /v1/calls", (*Server).listCalls},
	{"GET /v1/calls/{id}", (*Server).showCall},
	{"DELETE /v1/calls/{id}", (*Server).endCall},
	{"GET /v1/stats", (*Server).stats},
	{"GET /v1/backends", (*Server).listBackends},
	{"PUT /v1/backends/{pool}/{name}", (*Server).setBackend},
}

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) { s.write(w, r.handle(s, req)) })
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
	r.Body = http.MaxBytesReader(w, r.Body, mostBody)
	s.mux.ServeHTTP(w, r)
}

// write encodes first: what JSON cannot express is a fault with a status.
func (s *Server) write(w http.ResponseWriter, a answer) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(a.body); err != nil {
		s.log.Error().Err(err).Msg("an administration request could not be answered, this is a bug; the edge goes on")
		s.write(w, fault)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(a.status)
	_, _ = w.Write(b.Bytes()) // who asked is gone
}

// unknown says what exists instead.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request) answer {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
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
	limit := f.Limit
	f.Limit++ // the one too many tells that there are more
	l := CallList{Calls: s.edge.Calls(f)}
	if len(l.Calls) > limit {
		l.Calls, l.More = l.Calls[:limit], true
	}
	if l.Calls == nil {
		l.Calls = []proxy.CallInfo{} // [] rather than null in JSON
	}
	return answer{http.StatusOK, l}
}

// filterKeys are what GET /v1/calls takes.
var filterKeys = []string{"call_id", "party", "backend", "mode", "limit"}

// filterOf reads the query of GET /v1/calls. A key that is misspelt must not list
// all calls.
func filterOf(query string) (proxy.CallFilter, error) {
	f := proxy.CallFilter{Limit: DefaultLimit}
	values, err := url.ParseQuery(query)
	if err != nil {
		return f, err
	}
	for key, v := range values {
		if !slices.Contains(filterKeys, key) {
			return f, fmt.Errorf("unknown parameter %q; there are: %s", key, strings.Join(filterKeys, ", "))
		}
		if len(v) > 1 {
			return f, fmt.Errorf("%s is given twice", key)
		}
	}
	f.CallID, f.Party, f.Backend = values.Get("call_id"), values.Get("party"), values.Get("backend")
	switch f.Mode = values.Get("mode"); f.Mode {
	case "", "R", "P", "N":
	default:
		return f, fmt.Errorf("mode %q: R, P or N", f.Mode)
	}
	if text := values.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > MaxLimit {
			return f, fmt.Errorf("limit %q: 1 to %d", text, MaxLimit)
		}
		f.Limit = n
	}
	return f, nil
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
	return answer{http.StatusOK, c}
}

func (s *Server) endCall(r *http.Request) answer {
	c, ok := s.call(r)
	if !ok {
		return noCall
	}
	if !s.edge.EndCall(c.ID) {
		if c.Answer.IsZero() {
			return refuse(http.StatusConflict, "the call is not answered yet, so there is nothing to send BYE for")
		}
		return noCall // since we looked
	}
	return answer{http.StatusAccepted, c}
}

func (s *Server) stats(*http.Request) answer { return answer{http.StatusOK, s.edge.CallStats()} }

func (s *Server) listBackends(*http.Request) answer {
	l := BackendList{Backends: s.edge.Backends()}
	if l.Backends == nil {
		l.Backends = []proxy.BackendInfo{}
	}
	return answer{http.StatusOK, l}
}

// States are those that an operator can put a backend into.
var States = []string{"up", "drain", "disabled"}

func (s *Server) setBackend(r *http.Request) answer {
	want, err := stateOf(r.Body)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return refuse(http.StatusRequestEntityTooLarge, "more than %d bytes", mostBody)
	case err != nil:
		return refuse(http.StatusBadRequest, "%v", err)
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
	return answer{http.StatusOK, b}
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
