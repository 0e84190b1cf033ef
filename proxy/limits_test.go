package proxy

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

func TestLoadLevels(t *testing.T) {
	const limit = 200 * time.Millisecond
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	steps := func(l *load, start, step, n int, waited time.Duration) (level loadLevel) {
		for i := range n {
			level = l.observe(waited, limit, ms(start+i*step))
		}
		return level
	}
	n := int(3*loadWindow/time.Millisecond) / 10 // one every 10 ms
	cases := []struct {
		name   string
		waited time.Duration
		want   loadLevel
	}{
		{"no wait", 0, calm}, {"at the limit", limit, calm}, {"above", limit + 1, busy}, {"twice", 2 * limit, busy}, {"more", 2*limit + 1, full},
	}
	for _, c := range cases {
		var l load
		if got := steps(&l, 1000, 10, n, c.waited); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		if got := steps(&l, 1000+10*n, 10, n, 0); got != calm {
			t.Errorf("%s: %v after it is over", c.name, got)
		}
	}
	var l load
	for i := range n { // one quick datagram in every window: a burst that is drained
		waited := 3 * limit
		if i%5 == 0 {
			waited = 0
		}
		if got := l.observe(waited, limit, ms(1000+10*i)); got != calm {
			t.Fatalf("a burst counts as overload: %v", got)
		}
	}
	l = load{}
	steps(&l, 1000, 10, n, 3*limit)
	if got := l.observe(3*limit, limit, ms(60000)); got != calm {
		t.Errorf("%v after an idle time", got)
	}
	if got := l.observe(time.Hour, 0, ms(60001)); got != calm {
		t.Errorf("%v while switched off", got)
	}
}

func TestLoadRefuses(t *testing.T) {
	for level, want := range map[loadLevel]map[wire.Method]bool{
		calm: {wire.INVITE: false, wire.REGISTER: false, wire.OPTIONS: false, wire.MESSAGE: false},
		busy: {wire.INVITE: false, wire.REGISTER: true, wire.OPTIONS: true, wire.MESSAGE: false},
		full: {wire.INVITE: true, wire.REGISTER: true, wire.OPTIONS: true, wire.MESSAGE: true},
	} {
		for m, refused := range want {
			if level.refuses(m) != refused {
				t.Errorf("%v %v", level, m)
			}
		}
	}
}

// Under overload new requests get 503 in their order, and what runs goes on.
func TestOverload(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		waited := 500 * time.Millisecond
		for range 3 * loadWindow / (10 * time.Millisecond) {
			l.phone.sendsAfter(l.phone.call().text("REGISTER"), waited)
			pass(10 * time.Millisecond)
		}
		for l.phone.gets() != nil {
		}
		l.pbx[0].skip()
		for _, method := range []string{"INVITE", "REGISTER"} {
			l.phone.sendsAfter(l.phone.call().text(method), waited)
			m := l.phone.get("503 " + method)
			if m.First(wire.KindRetryAfter) < 0 {
				t.Error("no Retry-After")
			}
			l.pbx[0].nothing()
		}
		l.pbx[0].skip()
		c := l.phone.call()
		c.to = "b"
		l.phone.sendsAfter(c.text("BYE"), waited)
		l.pbx[0].get("BYE")
		c = l.phone.call()
		c.uri = "urn:service:sos.police"
		l.phone.sendsAfter(c.text("INVITE"), waited)
		l.phone.get("100 INVITE")
		l.pbx[0].get("INVITE")
	})
}

func TestMaxCPS(t *testing.T) {
	t.Run("of a backend", func(t *testing.T) {
		change := func(c *config.Config) { c.Pools["pbx"].Backends[0].MaxCPS = 3 }
		inLab(t, 2, change, func(t *testing.T, l *lab) {
			for i := range 5 {
				l.phone.call().sends("INVITE")
				l.phone.get("100 INVITE")
				if i < 3 {
					l.pbx[0].get("INVITE")
				} else {
					l.pbx[1].get("INVITE")
				}
			}
			c := l.phone.call()
			c.to = "b"
			c.sends("BYE") // never limited
			l.pbx[0].get("BYE")
			pass(1100 * time.Millisecond)
			l.phone.call().sends("MESSAGE")
			for m := l.pbx[0].gets(); ; m = l.pbx[0].gets() {
				if m == nil {
					t.Fatal("still limited after a second")
				}
				if title(m) == "MESSAGE" {
					break
				}
			}
		})
	})
	t.Run("of all backends", func(t *testing.T) {
		change := func(c *config.Config) {
			for i := range c.Pools["pbx"].Backends {
				c.Pools["pbx"].Backends[i].MaxCPS = 1
			}
		}
		inLab(t, 2, change, func(t *testing.T, l *lab) {
			for range 2 {
				l.phone.call().sends("REGISTER")
			}
			l.phone.nothing()
			l.phone.call().sends("REGISTER")
			l.phone.get("503 REGISTER")
			c := l.phone.call()
			c.uri = "sip:sos@example.org"
			c.sends("INVITE")
			l.phone.get("100 INVITE")
			l.phone.nothing()
		})
	})
	t.Run("of a route", func(t *testing.T) {
		change := func(c *config.Config) {
			c.Routes = []config.Route{{Match: config.Match{Method: []string{"INVITE"}}, Pool: "pbx", MaxCPS: 1}, {Pool: "pbx"}}
		}
		inLab(t, 1, change, func(t *testing.T, l *lab) {
			l.phone.call().sends("INVITE")
			l.phone.get("100 INVITE")
			l.phone.call().sends("INVITE")
			l.phone.get("503 INVITE")
			l.phone.call().sends("REGISTER")
			l.phone.nothing()
		})
	})
}

func TestFullTable(t *testing.T) {
	inLab(t, 1, func(c *config.Config) { c.Limits.MaxTransactions = 16 }, func(t *testing.T, l *lab) {
		for range 16 {
			l.phone.call().sends("REGISTER")
		}
		l.phone.nothing()
		l.phone.call().sends("REGISTER")
		l.phone.get("503 REGISTER")
		for range 2 { // the reserve of running calls: an eighth
			c := l.phone.call()
			c.to = "b"
			c.sends("BYE")
			l.phone.nothing()
		}
		c := l.phone.call()
		c.to = "b"
		c.sends("BYE")
		l.phone.get("503 BYE")
		for l.pbx[0].gets() != nil {
		}
		pass(80 * time.Second)
		l.atRest()
	})
}

func TestDraining(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		l.phone.call().sends("INVITE")
		l.phone.get("100 INVITE")
		inv := l.pbx[0].get("INVITE")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if n := l.e.Drain(ctx); n != 1 {
			t.Errorf("Drain says %d", n)
		}
		l.phone.call().sends("INVITE")
		l.phone.get("503 INVITE")
		l.pbx[0].skip() // retransmissions of the INVITE
		c := l.phone.call()
		c.to = "b"
		c.sends("BYE")
		bye := l.pbx[0].get("BYE")
		l.pbx[0].answers(bye, 200, "")
		l.phone.get("200 BYE")
		c = l.phone.call()
		c.uri = "sip:" + l.edge().String()
		c.sends("OPTIONS")
		l.phone.get("503 OPTIONS")
		l.pbx[0].answers(inv, 200, "b")
		l.phone.get("200 INVITE")
		if n := l.e.Drain(t.Context()); n != 0 {
			t.Errorf("Drain says %d", n)
		}
	})
}

// Garbage is answered, but no flood of it.
func TestErrorRepliesAreLimited(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		n := 0
		for i := range 2 * errorRepliesPerSecond {
			l.phone.sends(fmt.Sprintf("INVITE sip:bob@example.org SIP/2.0\nVia: SIP/2.0/UDP x;rport;branch=z9hG4bK%d\nFrom: <sip:a@b>;tag=a\nTo: <sip:b@c>\nCall-ID: 1\nCSeq: 1 BYE\n\n", i))
			if l.phone.getsWithin(0) != nil {
				n++
			}
		}
		for l.phone.gets() != nil {
			n++
		}
		if n != errorRepliesPerSecond {
			t.Errorf("%d answers within a second", n)
		}
	})
}

func TestReloadKeepsCallsAndLimits(t *testing.T) {
	var conf *config.Config
	change := func(c *config.Config) {
		c.Routes = []config.Route{{Pool: "pbx", MaxCPS: 1}}
		conf = c
	}
	inLab(t, 2, change, func(t *testing.T, l *lab) {
		l.phone.call().sends("INVITE")
		l.phone.get("100 INVITE")
		inv := l.pbx[0].get("INVITE")
		next := *conf
		p := conf.Pools["pbx"]
		p.Backends = p.Backends[1:]
		next.Pools = map[string]config.Pool{"pbx": p}
		if err := l.e.Reload(&next); err != nil {
			t.Fatal(err)
		}
		l.pbx[0].answers(inv, 200, "b")
		l.phone.get("200 INVITE")
		l.phone.call().sends("INVITE") // max_cps goes on counting
		l.phone.get("503 INVITE")
		pass(1100 * time.Millisecond)
		l.phone.call().sends("INVITE")
		l.phone.get("100 INVITE")
		l.pbx[1].get("INVITE")
		bad := next
		p.TLS.CA = "/does/not/exist"
		bad.Pools = map[string]config.Pool{"pbx": p}
		before := l.e.snap.Load()
		if err := l.e.Reload(&bad); err == nil || l.e.snap.Load() != before {
			t.Errorf("a broken configuration: %v", err)
		}
	})
}
