package proxy

import (
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// TestRefreshOffersNoReliableResponses: what the peer supports is passed on in a refresh, but a
// re-INVITE of the edge must not offer 100rel, for nobody would send the PRACK.
func TestRefreshOffersNoReliableResponses(t *testing.T) {
	for _, test := range []struct{ method, body, allow, supported, want string }{
		{"INVITE", sdpB, plainLines, "100rel, timer, replaces", "timer, replaces"},
		{"INVITE", sdpB, plainLines, "timer,100REL", "timer"},
		{"UPDATE", "", updateLines, "100rel, timer, replaces", "100rel, timer, replaces"},
	} {
		t.Run(test.method+" "+test.supported, func(t *testing.T) {
			inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
				c := l.talks("Supported: "+test.supported+"\n"+test.allow, test.allow)
				m, _ := c.probed(sideB, test.method, 301*time.Second, 200, "", test.body)
				if got := string(m.Value(wire.KindSupported)); got != test.want {
					t.Errorf("Supported: %q, want %q", got, test.want)
				}
				if test.method == "INVITE" {
					c.b.get("ACK")
				}
				c.probed(sideA, test.method, 4*time.Second, 200, "", sdpA)
				if test.method == "INVITE" {
					c.a.get("ACK")
				}
				c.hangsUp(sideA)
			})
		})
	}
}
