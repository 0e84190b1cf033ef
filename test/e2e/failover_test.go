package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

// twoNodes is an edge over UDP in front of two fast nodes that share the calls evenly.
type twoNodes struct {
	edge *siptest.Edge
	a, b *siptest.Answerer
	load *siptest.Load
	s    settings
}

func newTwoNodes(t *testing.T, probe string) *twoNodes {
	t.Helper()
	p := &twoNodes{a: newAnswerer(t, "nodeA", nodeA), b: newAnswerer(t, "nodeB", nodeB)}
	addr := freeAddr(t)
	p.s = settings{
		listen: []string{"udp:" + addr.String()},
		backends: []string{
			fmt.Sprintf("{ name: nodeA, address: %q }", p.a.URI()),
			fmt.Sprintf("{ name: nodeB, address: %q }", p.b.URI()),
		},
		pool: "    policy: round_robin\n    slow_start: 0\n", probe: probe,
		top: "lab: yes\ntransaction: { invite_failover: 1 }\n",
	}
	p.edge = siptest.StartEdge(t, p.s.yaml())
	// The window keeps a machine that is too slow for the rate of a test from being flooded: one second of 100 a second.
	p.load = &siptest.Load{Target: addr, Hold: 20 * time.Millisecond, Window: 100}
	return p
}

// TestKilledNodeLosesNoNewCall: at 100 calls a second one node goes away, as a dead process
// (ICMP unreachable) or a dead machine (silence). Every call that begins after that is answered
// by the other within 3 s; when the node is back it takes calls again.
func TestKilledNodeLosesNoNewCall(t *testing.T) {
	for _, how := range []string{"process gone", "silent"} {
		t.Run(how, func(t *testing.T) {
			p := newTwoNodes(t, "{ interval: 0.2, timeout: 0.2, down_after: 2, up_after: 2 }")
			p.load.Rate = 100
			still := siptest.WatchStillness(t)
			// A call that begins while everything stands still begins after what comes before it in the edge's socket.
			slower := func(c *siptest.LoadCall, limit time.Duration) bool {
				return c.Took-still.Between(c.Began.Add(-time.Second), c.Began.Add(c.Took)) > limit
			}
			steps := make(chan error, 3)
			gone, back := time.Now().Add(2*time.Second), time.Now().Add(5*time.Second)
			quit := time.AfterFunc(time.Until(gone), func() {
				if how == "silent" {
					p.a.Silence(true)
					steps <- nil
					return
				}
				steps <- p.a.Stop()
			})
			defer quit.Stop()
			again := time.AfterFunc(time.Until(back), func() {
				if how == "silent" {
					p.a.Silence(false)
					steps <- nil
					return
				}
				steps <- p.a.Start()
			})
			defer again.Stop()
			p.load.Calls = 900
			calls, err := p.load.Run(within(t, 60*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := <-steps; err != nil {
					t.Fatal(err)
				}
			}
			late, returned := 0, 0
			for _, c := range calls {
				newCall := c.Began.After(gone)
				if newCall && (c.Status != 200 || slower(c, 3*time.Second)) {
					t.Errorf("call %s after %s: %d in %s (tag %q)", c.CallID, c.Began.Sub(gone), c.Status, c.Took, c.Tag)
				}
				if !newCall && c.Status != 200 && c.Began.Before(gone.Add(-time.Second)) {
					t.Errorf("call before: %+v", c)
				}
				if c.Took > time.Second {
					late++
				}
				if c.Began.After(back.Add(2*time.Second)) && c.Tag == "nodeA" {
					returned++
				}
			}
			if returned == 0 {
				t.Error("the node that came back got no call")
			}
			t.Logf("%d calls took over a second, %d went to the node after its return", late, returned)
		})
	}
}

// TestBusyNodeIsPassedOver: 503 from one node makes the other be tried, and no 503 reaches the caller.
func TestBusyNodeIsPassedOver(t *testing.T) {
	p := newTwoNodes(t, "")
	p.a.Code(503)
	p.load.Rate, p.load.Calls = 50, 50
	still := siptest.WatchStillness(t)
	calls, err := p.load.Run(within(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		if c.Status != 200 || c.Tag != "nodeB" || c.Took-still.Between(c.Began, c.Began.Add(c.Took)) > 3*time.Second {
			t.Errorf("call %+v", c)
		}
	}
	if p.a.Count("INVITE") == 0 {
		t.Error("the busy node was never asked: nothing is proved")
	}
}

// TestFinalCodesAreFinal: 486, 603, 401 and 407 are not tried elsewhere.
func TestFinalCodesAreFinal(t *testing.T) {
	for _, code := range []int{486, 600, 603, 401, 407} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			p := newTwoNodes(t, "")
			p.a.Code(code)
			p.b.Code(code)
			p.load.Rate, p.load.Calls = 50, 10
			calls, err := p.load.Run(within(t, time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range calls {
				if c.Status != code {
					t.Errorf("call %+v", c)
				}
				if p.a.Saw(c.CallID) && p.b.Saw(c.CallID) {
					t.Errorf("call %s was tried at both nodes", c.CallID)
				}
			}
		})
	}
}

// TestSpread: hash keeps a Call-ID on its node and shares the calls out; round robin shares evenly.
func TestSpread(t *testing.T) {
	for _, policy := range []string{"hash", "round_robin", "weighted"} {
		t.Run(policy, func(t *testing.T) {
			p := newTwoNodes(t, ignorant) // a node of a machine that stands still for a second is not passed over
			p.s.pool = "    policy: " + policy + "\n"
			p.edge.Write(p.s.yaml())
			p.edge.Reload()
			p.load.Rate, p.load.Calls = 200, 300
			calls, err := p.load.Run(within(t, time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			n := map[string]int{}
			for _, c := range calls {
				if c.Status != 200 || c.ByeCode != 200 {
					t.Errorf("call %+v", c)
				}
				n[c.Tag]++
			}
			// 300 fair tosses stay within 100 of 150 for all time to come.
			if n["nodeA"] < 50 || n["nodeB"] < 50 {
				t.Errorf("spread %v", n)
			}
		})
	}
}

// TestAllNodesDown: a caller gets an answer, OPTIONS to the edge says 503, and service comes back
// with the nodes.
func TestAllNodesDown(t *testing.T) {
	p := newTwoNodes(t, "{ interval: 0.2, timeout: 0.2, down_after: 1, up_after: 1 }")
	caller := rawDial(t, "udp", p.load.Target, certificate(t))
	ping := func() int {
		t.Helper()
		req := caller.Request("OPTIONS", "sip:"+p.load.Target.String())
		box := caller.Box(req.CallID())
		if err := caller.Send(req.Bytes()); err != nil {
			t.Fatal(err)
		}
		m, err := box.Next(soon)
		if err != nil {
			t.Fatal(err)
		}
		return m.Status()
	}
	if code := ping(); code != 200 {
		t.Fatalf("OPTIONS with both nodes up: %d", code)
	}
	for _, n := range []*siptest.Answerer{p.a, p.b} {
		if err := n.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	awaitCode(t, ping, 503)
	p.load.Rate, p.load.Calls = 20, 5
	still := siptest.WatchStillness(t)
	calls, err := p.load.Run(within(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		if c.Status < 400 || c.Took-still.Between(c.Began, c.Began.Add(c.Took)) > 5*time.Second {
			t.Errorf("call with no node: %+v", c)
		}
	}
	for _, n := range []*siptest.Answerer{p.a, p.b} {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	awaitCode(t, ping, 200)
	again := &siptest.Load{Target: p.load.Target, Rate: 50, Calls: 20}
	calls, err = again.Run(within(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		if c.Status != 200 {
			t.Errorf("call after the return: %+v", c)
		}
	}
}

// awaitCode asks until the answer is right; the health check needs its intervals.
func awaitCode(t *testing.T, ask func() int, want int) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ctx := within(t, time.Minute)
	for {
		if ask() == want {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("OPTIONS never got %d", want)
		}
	}
}
