package security

import (
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// rules are the settings of a configuration, and a guard for them.
func rules(t *testing.T, change func(*config.Security)) (*Guard, *Settings) {
	t.Helper()
	c := config.Default().Security
	if change != nil {
		change(&c)
	}
	s, err := NewSettings(c, Surroundings{
		Member: func(netip.Addr) (string, bool) { return "", false }, Members: func() []netip.Addr { return nil },
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return NewGuard(Options{
		MaxSources: 1000, MaxBans: 100, Calls: func(netip.Addr) int { return 0 }, Inside: func(*wire.Msg) bool { return false },
	}), s
}

// floods sends so many messages from an address and returns how many pass before the
// first that does not.
func (g *Guard) floods(s *Settings, from netip.Addr, n int, now time.Duration) (passed int) {
	for range n {
		var v Verdict
		g.Packet(s, &Packet{From: from, Source: SourceOf(from), Counts: true}, &v, now)
		if v.Action != Pass {
			break
		}
		passed++
	}
	return passed
}

// A ban that is lifted in the middle of a flood is not made again by what was counted
// before: the whole density passes first.
func TestPardonInTheMiddleOfAFlood(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.1")
	for name, pardon := range map[string]func(*Guard){
		"one": func(g *Guard) { g.Pardon(Key{Source: SourceOf(a)}) },
		"all": func(g *Guard) { g.PardonAll() },
	} {
		t.Run(name, func(t *testing.T) {
			g, s := rules(t, func(c *config.Security) { c.DoSNewSourcesPerSecond = 0 })
			stop, banned := make(chan struct{}), make(chan struct{}, 1)
			var flooding sync.WaitGroup
			flooding.Go(func() {
				for passed := 0; ; {
					select {
					case <-stop:
						return
					default:
					}
					var v Verdict
					g.Packet(s, &Packet{From: a, Source: SourceOf(a), Counts: true}, &v, time.Second)
					switch {
					case v.Action == Pass:
						passed++
					case v.Ban != nil:
						if passed != s.density {
							t.Errorf("%d messages passed before the ban", passed)
						}
						passed = 0
						banned <- struct{}{}
					default:
						runtime.Gosched() // to whom lifts the ban
					}
				}
			})
			for range 200 {
				<-banned
				pardon(g)
			}
			close(stop)
			flooding.Wait()
		})
	}
}

// Where there was no ban, what was counted is forgotten too.
func TestPardonOfWhoIsNotBanned(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.1")
	for name, pardon := range map[string]func(*Guard){
		"one": func(g *Guard) { g.Pardon(Key{Source: SourceOf(a)}) },
		"all": func(g *Guard) { g.PardonAll() },
	} {
		t.Run(name, func(t *testing.T) {
			g, s := rules(t, nil)
			if n := g.floods(s, a, s.density, time.Second); n != s.density {
				t.Fatalf("%d passed", n)
			}
			pardon(g)
			if n := g.floods(s, a, s.density+1, time.Second); n != s.density {
				t.Errorf("%d passed", n)
			}
			if b, ok := g.Book.Get(Key{Source: SourceOf(a)}, time.Second); !ok || b.Count != s.density+1 {
				t.Errorf("%+v", b)
			}
		})
	}
}
