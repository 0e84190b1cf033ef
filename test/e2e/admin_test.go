package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/admin"
	"github.com/sipward/sipward/proxy"
	"github.com/sipward/sipward/test/siptest"
)

// desk is an edge with two nodes, one and two, that its operator asks and steers.
type desk struct {
	*hop
	t       *testing.T
	records string
	nodes   map[string]*siptest.Answerer
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t, records: filepath.Join(t.TempDir(), "calls"), nodes: map[string]*siptest.Answerer{
		"one": newAnswerer(t, "one", nodeA), "two": newAnswerer(t, "two", nodeB),
	}}
	d.hop = &hop{network: "udp", addr: freeAddr(t)}
	var backends []string
	for _, name := range []string{"one", "two"} {
		backends = append(backends, fmt.Sprintf("{ name: %s, address: %q }", name, d.nodes[name].URI()))
	}
	d.edge = siptest.StartEdge(t, settings{
		listen: []string{"udp:" + d.addr.String()}, backends: backends, pool: "    policy: round_robin\n",
		top: quick + recordsTo(d.records, "json"),
	}.yaml())
	d.caller = rawDial(t, "udp", d.addr, nil)
	d.caller.Absorb()
	d.node = d.caller
	return d
}

// live is a call that is up.
type live struct {
	*exchange
	ok   *siptest.Message
	node string // that has it
}

// place makes a call.
func (d *desk) place() live {
	d.t.Helper()
	x := d.begin(d.t, "INVITE")
	x.send(x.req)
	x.callerGets(100, "INVITE")
	x.callerGets(180, "INVITE")
	ok := x.callerGets(200, "INVITE")
	x.send(x.inside(ok, "ACK", 1))
	return live{x, ok, ok.Tag("To")}
}

// on makes calls until a node has one; those that went elsewhere it ends.
func (d *desk) on(name string) live {
	d.t.Helper()
	for range 4 {
		c := d.place()
		if c.node == name {
			return c
		}
		c.hangUp(2)
	}
	d.t.Fatalf("no call went to %s", name)
	return live{}
}

func (l live) hangUp(cseq int) {
	l.t.Helper()
	l.send(l.inside(l.ok, "BYE", cseq))
	l.callerGets(200, "BYE")
}

func (d *desk) list() []proxy.CallInfo {
	d.t.Helper()
	var l admin.CallList
	ask(d.t, d.edge, &l, "calls", "list")
	return l.Calls
}

func (d *desk) backend(name string) proxy.BackendInfo {
	d.t.Helper()
	var l admin.BackendList
	ask(d.t, d.edge, &l, "backends", "list")
	for _, b := range l.Backends {
		if b.Name == name {
			return b
		}
	}
	d.t.Fatalf("no backend %s in %+v", name, l.Backends)
	return proxy.BackendInfo{}
}

// shows checks that a command prints all of these.
func (d *desk) shows(args []string, wants ...string) {
	d.t.Helper()
	out := tell(d.t, d.edge, args...)
	for _, want := range wants {
		if !strings.Contains(out, want) {
			d.t.Errorf("sipward %v does not show %q:\n%s", args, want, out)
		}
	}
}

// TestCallsAreShownAndEnded: the commands show a call as it is, for people and as JSON, and end
// it: BYE on both legs and a record that says who it was.
func TestCallsAreShownAndEnded(t *testing.T) {
	d := newDesk(t)
	d.shows([]string{"calls", "list"}, "no calls")
	c, other := d.place(), d.place()
	id := c.req.CallID()
	until(t, "both acknowledged", func() bool {
		calls := d.list()
		return len(calls) == 2 && calls[0].State == "confirmed" && calls[1].State == "confirmed"
	})

	calls := d.list()
	got := calls[0]
	if got.CallID != id || calls[1].CallID != other.req.CallID() {
		t.Fatalf("the calls are not in their order: %+v", calls)
	}
	if got.From != "sip:caller@siptest.example" || got.To != "sip:callee@siptest.example" || got.RURI != "sip:bob@siptest.example" ||
		got.Source != "udp:"+d.caller.Addr().String() || got.Pool != "pbx" || got.Backend != c.node || got.Mode != "N" ||
		got.EndsBy != "no_timer_call_duration" || got.Ends.Sub(got.Answer).Seconds() < 7199 || len(got.Legs) != 2 || got.Answer.IsZero() || got.Age <= 0 {
		t.Errorf("the call is %+v", got)
	}
	d.shows([]string{"calls", "list"}, "STATE", "confirmed", got.ID, id, other.req.CallID(), c.node, "no_timer_call_duration")
	d.shows([]string{"calls", "list", "--call-id", id}, id)
	if out := tell(t, d.edge, "calls", "list", "--backend", c.node); strings.Contains(out, other.req.CallID()) {
		t.Errorf("the call of %s is listed for %s:\n%s", other.node, c.node, out)
	}
	d.shows([]string{"calls", "show", id}, "call "+got.ID, "confirmed", "mode N", id, "no_timer_call_duration", "caller", "callee")
	var shown proxy.CallInfo
	if ask(t, d.edge, &shown, "calls", "show", got.ID); shown.CallID != id || shown.ID != got.ID {
		t.Errorf("shown is %+v", shown)
	}
	d.shows([]string{"calls", "stats"}, "2 answered calls", "2 attempts, 2 answered, 0 failed")
	if s := statsOf(t, d.edge); s.Concurrent != 2 || s.Attempts != 2 || s.Answered != 2 || s.Modes["N"] != 2 || s.ASR < 0 {
		t.Errorf("figures %+v", s)
	}

	d.shows([]string{"calls", "end", id}, got.ID, "BYE")
	bye, err := c.atCaller.Next(soon)
	if err != nil || bye.Method() != "BYE" || !strings.Contains(bye.Get("Reason"), "ended by the operator") {
		t.Fatalf("want BYE, got %v, %v", bye, err)
	}
	c.respond(bye, 200, "OK", "")
	until(t, "the call is gone", func() bool { return len(d.list()) == 1 })
	if n := d.nodes[c.node].Count("BYE"); n != 1 {
		t.Errorf("the node got %d BYEs, want 1", n)
	}
	if r := recordsOf(t, d.records, 1)[0]; r.CallID != id || r.Reason != "admin" || r.EndedBy != "edge" || r.Backend != c.node {
		t.Errorf("call record %+v", r)
	}

	for _, args := range [][]string{{"calls", "show", id}, {"calls", "end", id}, {"calls", "show", "nobody"}} {
		if out, code, err := d.edge.Command(within(t, time.Minute), args...); err != nil || code == 0 || !strings.Contains(out, "no call") {
			t.Errorf("sipward %v: exit code %d, %v: %s", args, code, err, out)
		}
	}
	var ended proxy.CallInfo
	ask(t, d.edge, &ended, "calls", "end", other.req.CallID())
	if ended.CallID != other.req.CallID() {
		t.Errorf("ended is %+v", ended)
	}
	bye, err = other.atCaller.Next(soon)
	if err != nil || bye.Method() != "BYE" {
		t.Fatalf("want BYE, got %v, %v", bye, err)
	}
	other.respond(bye, 200, "OK", "")
	until(t, "no call left", func() bool { return len(d.list()) == 0 })
	if n := len(recordsOf(t, d.records, 2)); n != 2 {
		t.Errorf("%d records", n)
	}
}

// TestBackendsAreSteered: a node that is drained gets no new call and keeps what it has; one that
// is down gets nothing; up takes it back.
func TestBackendsAreSteered(t *testing.T) {
	d := newDesk(t)
	c := d.on("one")
	if b := d.backend("one"); b.State != "up" || b.Calls != 1 || b.Pool != "pbx" {
		t.Errorf("backend %+v", b)
	}
	d.shows([]string{"backends", "list"}, "POOL", "one", "two", "up", d.nodes["one"].Addr().String())

	d.shows([]string{"backends", "drain", "one"}, "one", "drain")
	var others []live
	for range 5 {
		x := d.place()
		if x.node != "two" {
			t.Errorf("a draining node got a new call")
		}
		others = append(others, x)
	}
	if one, two := d.backend("one"), d.backend("two"); one.State != "drain" || one.Calls != 1 || two.Calls != 5 {
		t.Errorf("backends %+v, %+v", one, two)
	}
	infos := d.nodes["one"].Count("INFO")
	c.send(c.inside(c.ok, "INFO", 2))
	c.callerGets(200, "INFO")
	if d.nodes["one"].Count("INFO") != infos+1 {
		t.Error("an INFO of the running call did not reach its node")
	}
	for _, x := range others {
		x.hangUp(2)
	}

	var b proxy.BackendInfo
	if ask(t, d.edge, &b, "backends", "up", "pbx/one"); b.Name != "one" || b.State != "up" {
		t.Errorf("backend %+v", b)
	}
	if ask(t, d.edge, &b, "backends", "down", "two"); b.Name != "two" || b.State != "disabled" {
		t.Errorf("backend %+v", b)
	}
	for range 4 {
		x := d.place()
		if x.node != "one" {
			t.Error("a node that is down got a new call")
		}
		x.hangUp(2)
	}
	d.shows([]string{"backends", "up", "two"}, "two", "up")
	d.on("two").hangUp(2)
	c.hangUp(3)
	until(t, "no call left", func() bool {
		return len(d.list()) == 0 && d.backend("one").Calls == 0 && d.backend("two").Calls == 0
	})
	if out, code, err := d.edge.Command(within(t, time.Minute), "backends", "drain", "three"); err != nil || code == 0 || !strings.Contains(out, "pbx/one") {
		t.Errorf("an unknown node: exit code %d, %v: %s", code, err, out)
	}
}

// TestNobodyToAsk: without a running edge a command says so.
func TestNobodyToAsk(t *testing.T) {
	out, code, err := siptest.Run(within(t, time.Minute), t.TempDir(), "calls", "list")
	if err != nil || code == 0 || !strings.Contains(out, "admin.sock") {
		t.Errorf("exit code %d, %v: %s", code, err, out)
	}
}
