package proxy

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/backend"
)

// twoPools has pbx1 in two pools, pbx2 in the one and trunk in the other.
func twoPools(c *config.Config) {
	p := c.Pools["pbx"]
	p.Backends[0].MaxCalls, p.Backends[1].MaxCPS = 30, 7
	other := config.DefaultPool()
	other.Probe.Interval = 0
	for i, name := range []string{"pbx1", "trunk", "broken"} {
		b := config.DefaultBackend()
		b.Name, b.Address = name, []string{"sip:192.0.2.1:5070;transport=tcp", "sip:trunk.example.org", "tel:1"}[i]
		other.Backends = append(other.Backends, b)
	}
	c.Pools["carrier"] = other
	c.Routes = []config.Route{{Pool: "pbx"}}
}

func TestBackendsAreListedByPoolAndFile(t *testing.T) {
	inLab(t, 2, twoPools, func(t *testing.T, l *lab) {
		start := time.Now()
		pass(10 * time.Second)
		b := l.e.snap.Load().pools.Pool("pbx").Backend("pbx1")
		n := &atomic.Int64{}
		n.Store(3)
		b.CountCallsBy(n)
		b.Unavailable(l.e.wheel.Now(), 30*time.Second, backend.Traffic)
		if err := l.e.SetBackend("", "pbx2", "drain"); err != nil {
			t.Fatal(err)
		}
		all := l.e.Backends()
		if len(all) != 5 {
			t.Fatalf("%d backends", len(all))
		}
		for i, want := range []BackendInfo{
			{Pool: "carrier", Name: "pbx1", Address: "sip:192.0.2.1:5070;transport=tcp", Targets: []string{"tcp:192.0.2.1:5070"}, State: "up", Since: start},
			{Pool: "carrier", Name: "trunk", Address: "sip:trunk.example.org", State: "up", Since: start},
			{Pool: "carrier", Name: "broken", Address: "tel:1", State: "disabled", Why: "the address is no SIP URI that can be reached"},
			{
				Pool: "pbx", Name: "pbx1", Address: "sip:" + l.pbx[0].addr.String(), Targets: []string{"udp:" + l.pbx[0].addr.String()},
				State: "down", Why: "503 to a request, held for 30s", Since: start.Add(10 * time.Second), Calls: 3, MaxCalls: 30,
			},
			{
				Pool: "pbx", Name: "pbx2", Address: "sip:" + l.pbx[1].addr.String(), Targets: []string{"udp:" + l.pbx[1].addr.String()},
				State: "drain", Why: "drained by the operator", MaxCPS: 7,
			},
		} {
			got := all[i]
			if got.Targets == nil || strings.Join(got.Targets, " ") != strings.Join(want.Targets, " ") || !got.Since.Equal(want.Since) {
				t.Errorf("%s/%s: targets %v, since %v; want %v, %v", got.Pool, got.Name, got.Targets, got.Since, want.Targets, want.Since)
			}
			got.Targets, want.Targets = nil, nil
			got.Since, want.Since = time.Time{}, time.Time{}
			if got.Pool != want.Pool || got.Name != want.Name || got.Address != want.Address || got.State != want.State ||
				got.Why != want.Why || got.Calls != want.Calls || got.MaxCalls != want.MaxCalls || got.MaxCPS != want.MaxCPS {
				t.Errorf("got %+v, want %+v", got, want)
			}
		}
	})
}

func TestBackendThatIsSetMustBeKnownAndOnlyOne(t *testing.T) {
	inLab(t, 2, twoPools, func(t *testing.T, l *lab) {
		for _, c := range []struct{ pool, name, state, want string }{
			{"", "pbx2", "drain", ""},
			{"", "trunk", "disabled", ""},
			{"carrier", "pbx1", "drain", ""},
			{"", "pbx1", "drain", `backend "pbx1" is in the pools carrier, pbx: say which`},
			{"", "pbx9", "drain", `there is no backend "pbx9"`},
			{"", "", "drain", `there is no backend ""`},
			{"pbx", "trunk", "drain", `there is no backend "trunk" in pool "pbx"`},
			{"nowhere", "pbx1", "drain", `there is no pool "nowhere"`},
			{"", "pbx2", "down", `state "down": a backend can be set to up, drain or disabled`},
			{"", "pbx2", "Up", `state "Up": a backend can be set to up, drain or disabled`},
			{"", "pbx2", "", `state "": a backend can be set to up, drain or disabled`},
			{"", "broken", "up", "backend broken cannot be set to up: the address is no SIP URI that can be reached"},
			{"", "broken", "disabled", ""},
		} {
			got := ""
			if err := l.e.SetBackend(c.pool, c.name, c.state); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("%q/%q to %q: %q, want %q", c.pool, c.name, c.state, got, c.want)
			}
		}
		if s := l.e.snap.Load().pools.Pool("pbx").Backend("pbx1").State(0); s != backend.Up {
			t.Errorf("the other backend of that name is %v", s)
		}
	})
}

func TestDrainedBackendKeepsItsCallsAndGetsNoNewOnes(t *testing.T) {
	inLab(t, 2, nil, func(t *testing.T, l *lab) {
		c := l.phone.call()
		c.sends("INVITE")
		l.phone.get("100 INVITE")
		inv := l.pbx[0].get("INVITE")
		l.pbx[0].answers(inv, 200, "b")
		ok := l.phone.get("200 INVITE")
		c.to, c.route = "b", routeOf(ok)
		c.sends("ACK")
		l.pbx[0].get("ACK")

		for _, x := range []struct {
			state string
			to    *peer // new calls
		}{{"drain", l.pbx[1]}, {"disabled", l.pbx[1]}, {"up", l.pbx[0]}} {
			if err := l.e.SetBackend("pbx", "pbx1", x.state); err != nil {
				t.Fatal(err)
			}
			l.phone.call().sends("INVITE")
			l.phone.get("100 INVITE")
			m := x.to.get("INVITE")
			x.to.answers(m, 486, "x")
			x.to.get("ACK")
			l.phone.get("486 INVITE")
			if x.state == "drain" {
				c.cseq++
				c.sends("BYE")
				l.pbx[0].answers(l.pbx[0].get("BYE"), 200, "")
				l.phone.get("200 BYE")
			}
			pass(40 * time.Second)
			l.phone.skip()
		}
	})
}

func TestOrderIsLoggedOnce(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		b := l.e.snap.Load().pools.Pool("pbx").Backend("pbx1")
		for _, state := range []string{"up", "drain", "drain", "disabled"} {
			if err := l.e.SetBackend("", "pbx1", state); err != nil {
				t.Fatal(err)
			}
		}
		b.Unavailable(l.e.wheel.Now(), 30*time.Second, backend.Traffic)
		if err := l.e.SetBackend("", "pbx1", "up"); err != nil {
			t.Fatal(err)
		}
		lines := l.lines("by the operator")
		wants := [][]string{
			{"backend pbx1 is set to drain by the operator", "pool=pbx", "backend=pbx1", "state=drain"},
			{"backend pbx1 is set to disabled by the operator", "state=disabled"},
			{"backend pbx1 is set to up by the operator", "state=down", "503 to a request"},
		}
		if len(lines) != len(wants) {
			t.Fatalf("%d lines, want %d:\n%s", len(lines), len(wants), strings.Join(lines, ""))
		}
		for i, want := range wants {
			for _, part := range want {
				if !strings.Contains(lines[i], part) {
					t.Errorf("no %q in %s", part, lines[i])
				}
			}
		}
	})
}

func TestOrderSurvivesAReload(t *testing.T) {
	var conf *config.Config
	inLab(t, 2, func(c *config.Config) { conf = c }, func(t *testing.T, l *lab) {
		if err := l.e.SetBackend("", "pbx1", "drain"); err != nil {
			t.Fatal(err)
		}
		reload := func(state, ca string) error {
			next := *conf
			p := conf.Pools["pbx"]
			p.TLS.CA = ca
			p.Backends = append([]config.Backend{}, p.Backends...)
			p.Backends[0].State = state
			next.Pools = map[string]config.Pool{"pbx": p}
			return l.e.Reload(&next)
		}
		for _, x := range []struct {
			file, ca string
			fails    bool
			want     string
		}{
			{"up", "", false, "drain"},
			{"disabled", "/does/not/exist", true, "drain"},
			{"disabled", "", false, "disabled"},
			{"up", "", false, "up"},
		} {
			err := reload(x.file, x.ca)
			if got := l.e.Backends()[0].State; got != x.want || (err != nil) != x.fails {
				t.Errorf("file %s: %s, want %s (%v)", x.file, got, x.want, err)
			}
		}
	})
}

func TestProbesEndAndBeginWithTheOrder(t *testing.T) {
	inLab(t, 1, probing, func(t *testing.T, l *lab) {
		pbx := l.pbx[0]
		l.e.mu.Lock()
		l.e.probers = l.e.startProbers(l.e.snap.Load())
		l.e.mu.Unlock()
		probes := func(d time.Duration) (n int) {
			for range d / (100 * time.Millisecond) {
				pass(100 * time.Millisecond)
				if m := pbx.getsWithin(0); m != nil {
					pbx.answers(m, 200, "x")
					n++
				}
			}
			return n
		}
		for _, x := range []struct {
			state string
			after time.Duration
			want  int
		}{
			{"up", time.Second, 1},
			{"drain", 35 * time.Second, 3},
			{"disabled", 35 * time.Second, 0},
			{"up", time.Second, 1}, // at once: what is known is old
			{"disabled", 35 * time.Second, 0},
			{"drain", 12500 * time.Millisecond, 2},
		} {
			if err := l.e.SetBackend("", "pbx1", x.state); err != nil {
				t.Fatal(err)
			}
			if n := probes(x.after); n != x.want {
				t.Errorf("%s: %d probes in %v, want %d", x.state, n, x.after, x.want)
			}
		}
		l.e.mu.Lock()
		l.e.endSnapshotLocked()
		l.e.mu.Unlock()
		pass(80 * time.Second)
		l.atRest()
	})
}
