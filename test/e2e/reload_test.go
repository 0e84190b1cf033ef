package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

// TestReloadUnderLoad: at 500 calls a second the file is reloaded again and again; no call is
// lost, and every message of a call stays on the node that took it.
func TestReloadUnderLoad(t *testing.T) {
	p := newTwoNodes(t, "")
	p.load.Rate, p.load.Calls, p.load.Hold = 500, 2500, 300*time.Millisecond
	if siptest.Race {
		p.load.Rate, p.load.Calls = 100, 500
	}
	var loader sync.WaitGroup
	var calls []*siptest.LoadCall
	var err error
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	done := make(chan struct{})
	loader.Go(func() {
		defer close(done)
		calls, err = p.load.Run(ctx)
	})
	defer loader.Wait()
	n := 0
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-tick.C:
			n++
			s := p.s
			s.pool = []string{"    policy: hash\n", "    policy: round_robin\n", "    policy: weighted\n"}[n%3]
			p.edge.Write(s.yaml())
			p.edge.Reload()
		}
	}
	loader.Wait()
	if err != nil {
		t.Fatal(err)
	}
	bad := 0
	for _, c := range calls {
		if c.Status != 200 || c.ByeCode != 200 {
			if bad++; bad < 10 {
				t.Errorf("call %+v", c)
			}
		}
		// A call whose first INVITE was answered late may have been tried at both: that is fail-over.
		if c.Took < time.Second && p.a.Saw(c.CallID) && p.b.Saw(c.CallID) {
			if bad++; bad < 10 {
				t.Errorf("call %s was seen by both nodes", c.CallID)
			}
		}
	}
	if n < 5 {
		t.Errorf("only %d reloads", n)
	}
	t.Logf("%d reloads, %d of %d calls bad", n, bad, len(calls))
}

// TestReloadTouchesNewCallsOnly: a node added or drained by a reload gets or loses new calls; a
// call that is up stays where it is.
func TestReloadTouchesNewCallsOnly(t *testing.T) {
	a, b := newAnswerer(t, "nodeA", nodeA), newAnswerer(t, "nodeB", nodeB)
	addr := freeAddr(t)
	s := settings{listen: []string{"udp:" + addr.String()}, backends: []string{a.URI()}}
	edge := siptest.StartEdge(t, s.yaml())
	caller := rawDial(t, "udp", addr, certificate(t))
	h := &hop{network: "udp", addr: addr, caller: caller, node: caller}

	place := func() (*exchange, *siptest.Message) {
		x := h.begin(t, "INVITE")
		x.send(x.req)
		x.callerGets(100, "INVITE")
		x.callerGets(180, "INVITE")
		ok := x.callerGets(200, "INVITE")
		x.send(x.inside(ok, "ACK", 1))
		return x, ok
	}
	leave := func(x *exchange, ok *siptest.Message) {
		x.send(x.inside(ok, "BYE", 2))
		x.callerGets(200, "BYE")
	}
	old, oldOK := place()
	if oldOK.Tag("To") != "nodeA" {
		t.Fatalf("answered by %s", oldOK.Tag("To"))
	}

	s.backends = []string{fmt.Sprintf("{ address: %q, state: drain }", a.URI()), b.URI()}
	edge.Write(s.yaml())
	edge.Reload()
	for range 10 {
		x, ok := place()
		if ok.Tag("To") != "nodeB" {
			t.Fatalf("a draining node got a new call")
		}
		leave(x, ok)
	}
	byes := a.Count("BYE")
	leave(old, oldOK)
	if a.Count("BYE") != byes+1 {
		t.Fatal("the BYE of the old call did not reach its node")
	}
}

// TestBrokenFileChangesNothing: a reload of a wrong file is refused with the place of the mistake,
// and everything goes on.
func TestBrokenFileChangesNothing(t *testing.T) {
	a := newAnswerer(t, "nodeA", nodeA)
	addr := freeAddr(t)
	s := settings{listen: []string{"udp:" + addr.String()}, backends: []string{a.URI()}}
	edge := siptest.StartEdge(t, s.yaml())
	for _, broken := range []string{
		strings.Replace(s.yaml(), "backends:", "bakends:", 1),
		"pools: [",
		"",
	} {
		from := len(edge.Lines())
		edge.Write(broken)
		edge.Reload()
		text := strings.Join(edge.Lines()[from:], "\n")
		if strings.Contains(broken, "bakends") {
			if _, err := edge.WaitLine(within(t, soon), from, func(l string) bool {
				return strings.Contains(l, "bakends") && strings.Contains(l, "sipward.yaml:")
			}); err != nil {
				t.Errorf("no line names file, line and key: %v\n%s", err, text)
			}
		}
		load := &siptest.Load{Target: addr, Rate: 100, Calls: 10}
		calls, err := load.Run(within(t, time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range calls {
			if c.Status != 200 {
				t.Errorf("call %+v", c)
			}
		}
	}
}

// TestStopEndsWhatIsOpen: SIGTERM refuses new calls with 503, lets open transactions end, exits 0.
func TestStopEndsWhatIsOpen(t *testing.T) {
	h := newHop(t, "udp", settings{})
	x := h.begin(t, "INVITE")
	got := x.invite()
	x.respond(got, 180, "Ringing", "n1")
	x.callerGets(180, "INVITE")
	h.edge.Terminate()
	// The signal and a datagram race: ask until it is refused.
	refused := false
	for range 100 {
		y := h.begin(t, "INVITE")
		y.send(y.req)
		m, err := y.atCaller.Next(soon)
		if err != nil {
			t.Fatal(err)
		}
		if m.Status() == 100 {
			y.reject(y.nodeGets("INVITE"), 486)
			continue
		}
		if m.Status() != 503 {
			t.Fatalf("a new call got\n%s", m)
		}
		refused = true
		break
	}
	if !refused {
		t.Fatal("new calls were taken all the time")
	}
	x.answer(got, "n1")
	ok := x.callerGets(200, "INVITE")
	x.send(x.inside(ok, "ACK", 1))
	x.nodeGets("ACK")
	if code := h.edge.Wait(60 * time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
}

// TestSecondSignalStopsAtOnce: who asks twice does not wait.
func TestSecondSignalStopsAtOnce(t *testing.T) {
	h := newHop(t, "udp", settings{})
	x := h.begin(t, "INVITE")
	got := x.invite()
	x.respond(got, 180, "Ringing", "n1")
	x.callerGets(180, "INVITE")
	from := len(h.edge.Lines())
	h.edge.Terminate()
	// The first has to be taken before the second is sent: signals of one kind merge.
	if _, err := h.edge.WaitLine(within(t, soon), from, func(line string) bool { return strings.Contains(line, "stopping: ") }); err != nil {
		t.Fatal("no line says that it is stopping:", err)
	}
	h.edge.Terminate()
	h.edge.Wait(soon) // the default stop_timeout is longer
}
