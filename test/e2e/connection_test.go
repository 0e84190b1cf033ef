package e2e

import (
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

// TestG31ClosedConnectionIsNoEnd: a call over TCP is probed on the connection it has; one that is
// closed is no proof that the other end is gone.
func TestG31ClosedConnectionIsNoEnd(t *testing.T) {
	t.Parallel()
	const ttl = 4 * time.Second
	const top = quick + "timers: { session_ttl: 4, session_update_segment: 8, min_se: 1, no_timer_call_duration: 60 }\n"
	o := siptest.PartyOptions{Lines: timerLines, Timer: true}

	t.Run("the caller does not come back", func(t *testing.T) {
		t.Parallel()
		c := newConversation(t, "tcp", top, o, o).call()
		c.refreshed("UPDATE")
		closeRaw(t, c.atA)
		heard := c.a.Heard("UPDATE")
		before := len(c.b.Heard("UPDATE"))
		bye := c.hears(c.b, "BYE", 1)
		if took := bye.At.Sub(heard[len(heard)-1].At); took < ttl || took > ttl+slow {
			t.Errorf("BYE %s after the last sign of life, want %s", took, ttl)
		}
		if n := len(c.b.Heard("UPDATE")) - before; n < 3 {
			t.Errorf("the callee was refreshed %d times while the caller was away", n)
		}
		c.recorded("edge", "session_ttl", "R", bye.At.Sub(c.hears(c.b, "ACK", 1).At)-time.Second)
	})
	t.Run("the caller comes back", func(t *testing.T) {
		t.Parallel()
		c := newConversation(t, "tcp", top, o, o).call()
		c.refreshed("UPDATE")
		first := c.a.Heard("UPDATE")[0].Local
		for _, h := range c.a.Heard("UPDATE") {
			if h.Local != first {
				t.Errorf("refreshed at %s and %s: not one connection", first, h.Local)
			}
		}
		closeRaw(t, c.atA)
		c.hears(c.b, "UPDATE", len(c.b.Heard("UPDATE"))+1)
		c.a.Move(rawDial(t, "tcp", c.addr, nil))
		ctx := within(t, time.Minute)
		c.request(ctx, c.a, "INVITE", 200)
		c.refreshed("UPDATE")
		c.request(ctx, c.b, "INFO", 200)
		c.request(ctx, c.a, "BYE", 200)
		if r := recordsOf(t, c.records, 1)[0]; r.Reason != "bye" || r.EndedBy != "caller" {
			t.Errorf("call record %+v", r)
		}
	})
	t.Run("the node closes", func(t *testing.T) {
		t.Parallel()
		c := newConversation(t, "tcp", top, o, o).call()
		c.refreshed("UPDATE")
		used := map[string]bool{}
		for _, h := range c.b.Heard("") {
			used[h.From.String()] = true
		}
		if len(used) != 1 {
			t.Errorf("the node was reached over %d connections, want one: %v", len(used), used)
		}
		c.atB.DropConnections()
		c.refreshed("UPDATE")
		c.refreshed("UPDATE")
		ctx := within(t, time.Minute)
		c.request(ctx, c.a, "INFO", 200)
		c.request(ctx, c.a, "BYE", 200)
		if r := recordsOf(t, c.records, 1)[0]; r.Reason != "bye" || r.EndedBy != "caller" {
			t.Errorf("call record %+v", r)
		}
	})
}

func closeRaw(t *testing.T, r *siptest.Raw) {
	t.Helper()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}
