package proxy

import (
	"fmt"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/binding"
	"github.com/sipward/sipward/proxy/eventlog"
	"github.com/sipward/sipward/security"
	"github.com/sipward/sipward/store"
)

// openState opens state_file; nil: nothing is kept over a restart.
func openState(c *config.Config, log *eventlog.Log) (*store.File, error) {
	if c.StateFile == "" {
		return nil, nil
	}
	return store.Open(c.StateFile, func(err error) { log.Op().Error().Err(err).Msg("calls and registrations may not outlive a restart") })
}

// restore puts the calls and registrations of the file back, before the first message is read. What
// cannot be restored is forgotten. The numbers that the calls jumped over are on the disk
// before one is used.
func (e *Edge) restore(c *config.Config) error {
	now, day := e.wheel.Now(), time.Now()
	r := dialog.Restorer{
		Store: e.dialogs, Now: now, Bump: uint32(c.Timers.RestoreCSeqBump),
		Clock: func(t time.Time) time.Duration { return now + t.Sub(day) },
	}
	restored, skipped := 0, 0
	err := e.state.Each(store.Calls, func(id uint64, state []byte) {
		if r.Call(dialog.ID(id), state) {
			restored++
			return
		}
		skipped++
		e.state.Delete(store.Calls, id)
	})
	r.Finish()
	if err != nil {
		return err
	}
	phones, err := e.restoreBindings(r.Clock, now)
	if err != nil {
		return err
	}
	e.state.Start(e.noteChanges) // until Stop
	if err := e.state.Flush(); err != nil {
		return fmt.Errorf("state_file %s: %w", c.StateFile, err)
	}
	e.log.Op().Info().Msg(fmt.Sprintf("%d calls restored from %s, %d skipped", restored, c.StateFile, skipped))
	if phones > 0 {
		e.log.Op().Info().Msg(fmt.Sprintf("%d registrations restored from %s", phones, c.StateFile))
	}
	return nil
}

// restoreBindings puts the registrations back. Phones on UDP are reached as before; those
// on a connection have lost it, and are known when they come back.
func (e *Edge) restoreBindings(clock func(time.Time) time.Duration, now time.Duration) (restored int, err error) {
	err = e.state.Each(store.Bindings, func(id uint64, state []byte) {
		b, ok := e.bindings.Restore(state, clock, now)
		if !ok {
			e.state.Delete(store.Bindings, id)
			return
		}
		restored++
		if b.Proven {
			e.guard.Known.Holds(security.SourceOf(b.Flow.Remote.Addr()), b.AoR, b.Expires, now)
		}
	})
	return restored, err
}

// noteChanges tells the file which calls have changed since the last time. It runs on
// the goroutine that writes.
func (e *Edge) noteChanges() {
	defer e.outlive("state_file")
	e.dialogs.Changes(e.wallTime,
		func(id dialog.ID, state []byte) { e.state.Put(store.Calls, uint64(id), state) },
		func(id dialog.ID) { e.state.Delete(store.Calls, uint64(id)) })
	e.bindings.Changes(e.wallTime,
		func(id binding.ID, state []byte) { e.state.Put(store.Bindings, uint64(id), state) },
		func(id binding.ID) { e.state.Delete(store.Bindings, uint64(id)) })
}

// stateLost is how many changes of calls found no room while they waited to be written.
func (e *Edge) stateLost() uint64 {
	if e.state == nil {
		return 0
	}
	return e.state.Lost() + e.dialogs.LostChanges() + e.bindings.LostChanges()
}
