package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// loopLines are the lines of a refused call of alice to bob.
func loopLines(n int, src *peer) []string {
	const pair = "sip:alice@example.org -> sip:bob@example.org"
	return []string{
		fmt.Sprintf("NOTICE: sipward: Possible loop detected on call %s (%d total calls during last second)", pair, n),
		fmt.Sprintf("WARNING: sipward: Loop detected on call %s (IP:%s)", pair, src.addr),
	}
}

// calls sends a new INVITE of alice to bob and takes the answer of the edge; the backend
// refuses what arrives.
func (l *lab) calls(p *peer, want string) *wire.Msg {
	l.Helper()
	c := p.call()
	c.sends("INVITE")
	m := p.get(want)
	if want == "100 INVITE" {
		l.pbx[0].get("INVITE")
	} else {
		l.pbx[0].nothing()
	}
	return m
}

// A B2BUA that sends each call back with a new Call-ID is cut with the fourth of them.
func TestLoopThroughB2BUAsIsCut(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		pbx := l.pbx[0]
		l.phone = l.newPeerAt("CARRIER", "127.0.0.30:0")
		rounds := 0
		for ; ; rounds++ {
			c := l.phone.call() // what the carrier sends: alice calls bob
			c.sends("INVITE")
			m := l.phone.getsWithin(2000)
			if title(m) == "482 INVITE" {
				if got := string(m.Bytes(m.ReasonPhrase)); got != "Loop detected" {
					t.Errorf("482 %s", got)
				}
				pbx.nothing()
				break
			}
			pbx.get("INVITE")
			back := pbx.call() // bob's calls are forwarded to the carrier
			back.uri = "sip:bob@" + l.phone.addr.String()
			back.sends("INVITE")
			pbx.get("100 INVITE")
			l.phone.get("INVITE")
			pass(20 * time.Millisecond)
		}
		if rounds != 3 {
			t.Errorf("cut after %d rounds", rounds)
		}
		l.alarms(loopLines(4, l.phone)...)
		if c := l.e.Counters(); c.Loops != 1 {
			t.Errorf("%d loops", c.Loops)
		}
	})
}

// The second slides: a fourth call passes when the first is exactly a second old, and
// refused ones count.
func TestCallsOfOneSecond(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		l.calls(l.phone, "100 INVITE")
		pass(500 * time.Millisecond)
		l.calls(l.phone, "100 INVITE")
		l.calls(l.phone, "100 INVITE")
		pass(500*time.Millisecond - 1)
		l.skipAll()
		l.calls(l.phone, "482 INVITE")
		l.alarms(loopLines(4, l.phone)...)
		pass(1) // three are left, the refused one among them
		l.skipAll()
		l.calls(l.phone, "482 INVITE")
		l.alarms(loopLines(4, l.phone)...)
		pass(10 * time.Second)
		l.skipAll()
		for range 3 {
			l.calls(l.phone, "100 INVITE")
		}
		for i := range 10 { // of a loop that goes on, five are told of in a second
			l.calls(l.phone, "482 INVITE")
			if i < 5 {
				l.alarms(loopLines(4+i, l.phone)...)
			}
		}
		l.alarms()
		pass(time.Second)
		l.skipAll()
		// Another pair is no loop, nor is another method.
		c := l.phone.call()
		text := strings.ReplaceAll(c.text("INVITE"), "alice", "carol")
		l.phone.sends(text)
		l.phone.get("100 INVITE")
		l.pbx[0].get("INVITE")
		l.phone.call().sends("MESSAGE")
		l.pbx[0].get("MESSAGE")
	})
}

// What is one call, however often its INVITE comes.
func TestOneCallIsNoLoop(t *testing.T) {
	many := func(f func(l *lab)) func(*testing.T) {
		return func(t *testing.T) {
			underGuard(t, 1, nil, func(t *testing.T, l *lab) {
				f(l)
				l.alarms()
				l.skipAll()
			})
		}
	}
	t.Run("retransmissions", many(func(l *lab) {
		text := l.phone.call().text("INVITE")
		for range 10 {
			l.phone.sends(text)
		}
	}))
	t.Run("credentials", many(func(l *lab) {
		for range 3 {
			c := l.phone.call()
			c.sends("INVITE")
			l.phone.get("100 INVITE")
			inv := l.pbx[0].get("INVITE")
			l.pbx[0].answers(inv, 407, "b", challenge("Proxy-Authenticate", "n", ""))
			l.phone.get("407 INVITE")
			l.pbx[0].get("ACK")
			c.cseq++
			c.more = "Proxy-Authorization: Digest username=\"alice\",realm=\"pbx\",nonce=\"n\",uri=\"sip:x\",response=\"0\"\n"
			c.sends("INVITE")
			l.phone.get("100 INVITE")
			l.pbx[0].get("INVITE")
		}
	}))
	t.Run("forks", many(func(l *lab) {
		c := l.phone.call()
		for range 10 {
			c.sends("INVITE") // with a branch of its own
			l.phone.get("100 INVITE")
			l.pbx[0].get("INVITE")
		}
	}))
	t.Run("contacts", many(func(l *lab) { // that a PBX rings at once, with a call each
		for range 10 {
			c := l.pbx[0].call()
			c.uri = "sip:bob@" + l.newPeerAt("C", "127.0.0.9:0").addr.String()
			c.sends("INVITE")
			l.pbx[0].get("100 INVITE")
		}
	}))
	t.Run("re-INVITE", many(func(l *lab) {
		c := l.talks("", "")
		for range 10 {
			c.next(sideA, "INVITE", "", sdpA)
			l.phone.get("100 INVITE")
			re := l.pbx[0].get("INVITE")
			l.pbx[0].sends(c.reply(re, 200, "Contact: <sip:bob@"+l.pbx[0].addr.String()+">\n", sdpB))
			l.phone.get("200 INVITE")
			c.acks()
		}
	}))
}

// loop_key, loop_exempt, loop_from_to_per_second.
func TestKeysOfLoops(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*config.Security)
		limit  int // of calls that pass
		domain bool
	}{
		{"user", func(s *config.Security) {}, 3, true},
		{"uri", func(s *config.Security) { s.LoopKey = "uri" }, 10, true},
		{"uri of one", func(s *config.Security) { s.LoopKey = "uri" }, 3, false},
		{"five", func(s *config.Security) { s.LoopFromToPerSecond = 5 }, 5, false},
		{"exempt", func(s *config.Security) { s.LoopExempt = []string{"*97", "bob"} }, 10, false},
		{"exempt prefix", func(s *config.Security) { s.LoopExempt = []string{"bo*"} }, 10, false},
		{"not exempt", func(s *config.Security) { s.LoopExempt = []string{"bobby", "bob2*", "lice"} }, 3, false},
		{"exempt caller", func(s *config.Security) { s.LoopExempt = []string{"al*"} }, 10, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			underGuard(t, 1, func(x *config.Config) { c.change(&x.Security) }, func(t *testing.T, l *lab) {
				n := 0
				for i := range 10 {
					text := l.phone.call().text("INVITE")
					if c.domain {
						text = strings.Replace(text, "From: <sip:alice@example.org>", fmt.Sprintf("From: <sip:alice@d%d.example.org>", i), 1)
					}
					l.phone.sends(text)
					if title(l.phone.getsWithin(2000)) == "100 INVITE" {
						n++
					}
				}
				if n != c.limit {
					t.Errorf("%d passed, want %d", n, c.limit)
				}
				l.skipAll()
			})
		})
	}
}

// Trusted sources are counted too: loops come from carriers.
func TestLoopsOfTrustedSources(t *testing.T) {
	underGuard(t, 1, func(c *config.Config) { c.Security.TrustLoopback = true }, func(t *testing.T, l *lab) {
		for range 3 {
			l.calls(l.phone, "100 INVITE")
		}
		l.calls(l.phone, "482 INVITE")
		l.alarms(loopLines(4, l.phone)...)
	})
}

// The loops of RFC 3261 16.3: by Max-Forwards and by our own Via.
func TestLoopsOfTheStandard(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		c := l.phone.call()
		l.phone.sends(strings.Replace(c.text("INVITE"), "Max-Forwards: 70", "Max-Forwards: 0", 1))
		l.phone.get("483 INVITE")
		c = l.phone.call()
		l.phone.sends(strings.Replace(c.text("INVITE"), "Max-Forwards: 70", "Max-Forwards: 1", 1))
		l.phone.get("100 INVITE")
		m := l.pbx[0].get("INVITE")
		if m.MaxForwards != 0 {
			t.Errorf("Max-Forwards: %d", m.MaxForwards)
		}
		c = l.phone.call()
		c.sends("INVITE")
		l.phone.get("100 INVITE")
		m = l.pbx[0].get("INVITE")
		via := fmt.Sprintf("Via: SIP/2.0/UDP %s;rport;branch=z9hG4bK-x", l.phone.addr)
		again := strings.Replace(string(m.Buf), "Via: ", via+"\r\nVia: ", 1)
		l.phone.sends(again)
		l.phone.get("482 INVITE")
		l.pbx[0].nothing()
		// With another Request-URI it is a spiral (RFC 5393 4.1).
		l.phone.sends(strings.Replace(strings.Replace(again, "z9hG4bK-x", "z9hG4bK-y", 1), "INVITE sip:bob@", "INVITE sip:carol@", 1))
		l.phone.get("100 INVITE")
		l.pbx[0].get("INVITE")
		l.alarms()
	})
}
