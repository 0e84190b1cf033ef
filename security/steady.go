package security

import (
	"net/netip"
	"time"

	"github.com/sipward/sipward/config"
)

// Two things are no messages, and yet no source needs without end: new connections and
// keep-alives.
const (
	// connectWindow is the time in which a source may open as many connections as it may
	// have at the same time. Who opens and closes them would else take the share of all
	// others in limits.accept_rate, and a processor with TLS handshakes.
	connectWindow = 10 * time.Second
	// steadySources is how many sources are looked at. Forged ones do not get here with
	// connections, and with keep-alives only one that sends very many matters.
	steadySources = 16384
	// keepAlivesPerSecond is more than all phones send that fit behind one address.
	keepAlivesPerSecond = 2000
)

// Connects counts a new connection, and says whether its source may have it; most is how
// many it may have at the same time. Nobody is banned for it: phones of a large site that
// are refused come back.
func (g *Guard) Connects(s *Settings, from netip.Addr, most int, now time.Duration) bool {
	if s.Trusts(from) {
		return true
	}
	src := SourceOf(from)
	if g.isKnown(src, from, now) {
		most = times(most, s.c.DoSKnownFactor)
	}
	most = min(most, maxCount-1)
	if n, _, _ := g.connects.Read(src, connectWindow, now); n >= most {
		return false // not counted: it may have one as soon as there is room
	}
	g.connects.Count(src, connectWindow, most, now)
	return true
}

// KeepAlive counts what a client sends to keep its flow open, be it CRLF or STUN. It is no
// message, unless there is more of it than could keep anything open. v has to be empty.
func (g *Guard) KeepAlive(s *Settings, p *Packet, v *Verdict, now time.Duration) {
	if s.c.DoSBanEnable == config.Off || !g.pinging.over(keepAlivesPerSecond, now) {
		return // as nearly always: all sources together send fewer
	}
	most := keepAlivesPerSecond * s.c.DoSKnownFactor
	b := budget{g.keepAlives, keepAlivesPerSecond, time.Second}
	if n := g.keepAlives.Count(p.Source, time.Second, most+1, now); n > keepAlivesPerSecond {
		g.crowded(s, p, n, b, v, now)
	}
	v.Near = false
}
