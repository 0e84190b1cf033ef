package proxy

import (
	"context"
	"net/netip"
	"time"

	"github.com/sipward/sipward/security"
)

const (
	// settleEvery is how often bans are looked through.
	settleEvery = time.Second
	// tellEvery is how often what was stopped is told, in one line.
	tellEvery = 10 * time.Second
)

// watch looks after bans until ctx ends: what is over goes, what is new is enforced on
// connections and in the kernel, and what was stopped and refused is told.
func (e *Edge) watch(ctx context.Context) {
	t := time.NewTicker(settleEvery)
	defer t.Stop()
	told := e.wheel.Now()
	var before tally
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-e.banned:
		}
		now := e.wheel.Now()
		e.settle(now)
		if now-told >= tellEvery {
			told = now
			before = e.tellStopped(before)
			e.tellRefused()
		}
	}
}

// enforce looks at once, for an operator who waits for the effect of what he said.
func (e *Edge) enforce() {
	e.offload.outdate()
	e.settle(e.wheel.Now())
}

// settle is one look.
func (e *Edge) settle(now time.Duration) {
	defer e.outlive("bans")
	e.guard.Settle(now)
	s := e.snap.Load().security
	if e.offload.isCurrent(e.guard.Book.Version(), now) {
		return
	}
	// A ban that is not hard leaves connections open: replies of running calls may come.
	e.net.CloseFrom(func(a netip.AddrPort) bool {
		return e.guard.Stops(s, a.Addr(), now)
	})
	e.offload.follow(e, s, now)
}

// tally is what the protections did so far.
type tally struct {
	stopped, observed [security.Rules]uint64
	banned, filtered  uint64
	lines             uint64
}

func (e *Edge) tally() (t tally) {
	for r := security.NoRule + 1; r < security.Rules; r++ {
		t.stopped[r], t.observed[r] = e.count.stopped[r].Load(), e.count.observed[r].Load()
	}
	s := e.net.Stats()
	// Without a rule of its own is what a ban stopped that the transport did not: on
	// connections.
	t.banned = s.Banned + e.count.stopped[security.NoRule].Load()
	t.filtered, t.lines = s.Filtered+e.offload.look(e), e.count.banLines.Load()
	return t
}

// tellStopped writes what was stopped since the last line, if anything was.
func (e *Edge) tellStopped(before tally) tally {
	t := e.tally()
	if t == before {
		return t
	}
	line := e.log.Op().Warn()
	add := func(key string, n uint64) {
		if n > 0 {
			line.Uint64(key, n)
		}
	}
	add("banned", t.banned-before.banned)
	add("kernel", t.filtered-before.filtered)
	for r := range security.Rules {
		add(r.String(), t.stopped[r]-before.stopped[r])
	}
	for r := range security.Rules {
		add("observed_"+r.String(), t.observed[r]-before.observed[r])
	}
	add("bans_not_logged", t.lines-before.lines)
	sources, users := e.guard.Book.Len()
	line.Int("bans", sources).Int("user_bans", users).Msg("messages stopped in the last 10 s")
	return t
}
