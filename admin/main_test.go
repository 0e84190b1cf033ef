package admin

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy"
	"github.com/sipward/sipward/proxy/eventlog"
	"github.com/sipward/sipward/test/admintest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tempSocket is a path short enough for a socket, whatever the test is called.
func tempSocket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "admin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "s")
}

// serve opens a server that is closed with the test.
func serve(t *testing.T, path string, edge Edge, log *lines) *Server {
	t.Helper()
	s, err := Listen(path, edge, log.logger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return s
}

// lines is a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) logger() *zerolog.Logger {
	z := zerolog.New(l)
	return &z
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A realEdge is one that serves a pool of two backends, with no call yet.
func realEdge(t *testing.T) *proxy.Edge {
	t.Helper()
	c := config.Default()
	c.Listen = []config.Listener{{Address: "udp:127.0.0.1:0", Proto: "udp", Bind: netip.MustParseAddrPort("127.0.0.1:0")}}
	c.Limits.ReceiveBuffer = 1 << 16
	c.Resolver.HostsFile = ""
	pool := config.DefaultPool()
	pool.Probe.Interval = 0
	for i := range 2 {
		b := config.DefaultBackend()
		b.Name, b.Address = fmt.Sprintf("pbx%d", i+1), fmt.Sprintf("sip:127.0.0.%d:5099", i+9)
		pool.Backends = append(pool.Backends, b)
	}
	c.Pools = map[string]config.Pool{"pbx": pool}
	log, err := eventlog.Open(c.Log, eventlog.Options{Host: "host", PID: 1, Stdout: new(lines)})
	if err != nil {
		t.Fatal(err)
	}
	e, err := proxy.New(c, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	t.Cleanup(func() {
		if err := e.Stop(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// manyCalls is an edge with calls: every fifth rings, number 11 ends.
type manyCalls struct {
	admintest.Guard
	admintest.Registrar
	n     int
	ended []string // guarded by mu
	mu    sync.Mutex
	enter func() // called by each method
}

func (e *manyCalls) Calls(f proxy.CallFilter) (all []proxy.CallInfo) {
	e.entered()
	for i := range e.n {
		c := proxy.CallInfo{
			ID: fmt.Sprintf("%d", i), CallID: fmt.Sprintf("call/%d@host", i), Backend: fmt.Sprintf("pbx%d", i%2), Mode: "R",
			From: "sip:alice@example.org", To: "sip:bob@example.org", State: "confirmed", Answer: time.Unix(1e9, 0),
		}
		if i%5 == 4 {
			c.State, c.Mode, c.Answer = "ringing", "", time.Time{}
		}
		if i == 11 {
			c.State = "terminating"
		}
		if f.ID != "" && f.ID != c.ID || f.CallID != "" && f.CallID != c.CallID || f.Backend != "" && f.Backend != c.Backend ||
			f.Mode != "" && f.Mode != c.Mode || !strings.Contains(c.From+" "+c.To, f.Party) {
			continue
		}
		if all = append(all, c); f.Limit > 0 && len(all) == f.Limit {
			break
		}
	}
	return all
}

func (e *manyCalls) EndCall(id string) bool {
	e.entered()
	found := e.Calls(proxy.CallFilter{ID: id})
	if len(found) == 0 || found[0].State != "confirmed" {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = append(e.ended, id)
	return true
}

func (e *manyCalls) CallStats() proxy.CallStats {
	e.entered()
	return proxy.CallStats{Concurrent: e.n}
}

func (e *manyCalls) Backends() []proxy.BackendInfo {
	e.entered()
	return []proxy.BackendInfo{{Pool: "pbx", Name: "[::1]:5060", State: "up"}}
}

func (e *manyCalls) SetBackend(_, name, _ string) error {
	e.entered()
	return fmt.Errorf("backend %s cannot be set: the test says so", name)
}

func (e *manyCalls) entered() {
	if e.enter != nil {
		e.enter()
	}
}

func (e *manyCalls) endedCalls() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.ended)
}
