package security

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

func newSteadyGuard(t *testing.T, mode config.Mode) (*Guard, *Settings) {
	t.Helper()
	g := NewGuard(Options{MaxSources: 100, MaxBans: 100, Calls: func(netip.Addr) int { return 0 }, Inside: func(*wire.Msg) bool { return false }})
	c := config.Default().Security
	c.DoSBanEnable = mode
	s, err := NewSettings(c, Surroundings{Member: func(netip.Addr) (string, bool) { return "", false }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return g, s
}

// Who opens and closes connections without end does not take those of others.
func TestNewConnectionsOfOneSource(t *testing.T) {
	g, s := newSteadyGuard(t, config.Enforce)
	churns, office := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	const most = 256
	open := func(a netip.Addr, n int, now time.Duration) (had int) {
		for range n {
			if g.Connects(s, a, most, now) {
				had++
			}
		}
		return had
	}
	now := time.Hour
	if n := open(churns, 1000, now); n != most {
		t.Errorf("%d at once", n)
	}
	if n := open(office, 200, now); n != 200 {
		t.Errorf("%d of an office", n)
	}
	if n := open(churns, 1000, now+connectWindow-time.Millisecond); n != 0 {
		t.Errorf("%d inside the window", n)
	}
	if n := open(churns, 1000, now+connectWindow); n != most {
		t.Errorf("%d after it: those that were refused count", n)
	}
	if n := open(netip.MustParseAddr("127.0.0.1"), 1000, now); n != 1000 {
		t.Errorf("%d of a trusted source", n)
	}
	g.Known.Succeeded(SourceOf(office), "", now)
	if n := open(office, 10000, now); n != 10*most-200 {
		t.Errorf("%d of a known source", n)
	}
}

// Keep-alives do not count as messages, but for a flood of them.
func TestFloodOfKeepAlives(t *testing.T) {
	for _, mode := range []config.Mode{config.Enforce, config.Observe, config.Off} {
		t.Run(string(mode), func(t *testing.T) {
			g, s := newSteadyGuard(t, mode)
			send := func(text string, n int, now time.Duration) (bans int, last Verdict) {
				a := netip.MustParseAddr(text)
				for range n {
					p, v := Packet{From: a, Source: SourceOf(a)}, Verdict{}
					g.KeepAlive(s, &p, &v, now)
					if v.Ban != nil {
						bans++
					}
					last = v
				}
				return bans, last
			}
			now := time.Hour
			for second := range 10 { // what all phones behind one address send
				if n, _ := send("192.0.2.1", keepAlivesPerSecond, now+time.Duration(second)*time.Second); n != 0 {
					t.Fatal("banned within the limit")
				}
			}
			now += time.Minute
			want := 0
			if mode == config.Enforce {
				want = 1
			}
			// The first ones are free, until there are many altogether.
			n, last := send("192.0.2.2", 2*keepAlivesPerSecond+1, now)
			if n != want || (last.Action == Drop) != (want == 1) || last.Observed != (mode == config.Observe) {
				t.Errorf("%d bans, %+v", n, last)
			}
			if n, _ := send("192.0.2.1", keepAlivesPerSecond/2, now); n != 0 {
				t.Error("a bystander is banned")
			}
			if n, _ := send("127.0.0.1", 5*keepAlivesPerSecond, now); n != 0 {
				t.Error("a trusted source is banned")
			}
			g.Known.Succeeded(SourceOf(netip.MustParseAddr("192.0.2.3")), "", now)
			if n, _ := send("192.0.2.3", 10*keepAlivesPerSecond, now); n != 0 {
				t.Error("a known source is banned within its limit")
			}
			if n, _ := send("192.0.2.3", 1, now); n != want {
				t.Error("a known source beyond its limit")
			}
		})
	}
}
