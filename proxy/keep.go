package proxy

import (
	"fmt"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/eventlog"
	"github.com/sipward/sipward/store"
)

// openState opens state_file; nil: nothing is kept over a restart.
func openState(c *config.Config, log *eventlog.Log) (*store.File, error) {
	if c.StateFile == "" {
		return nil, nil
	}
	return store.Open(c.StateFile, func(err error) { log.Op().Error().Err(err).Msg("calls may not outlive a restart") })
}

// restoreCalls puts the calls of the file back, before the first message is read. What
// cannot be restored is forgotten. The numbers that the calls jumped over are on the disk
// before one is used.
func (e *Edge) restoreCalls(c *config.Config) error {
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
	e.state.Start(e.noteChanges) // until Stop
	if err := e.state.Flush(); err != nil {
		return fmt.Errorf("state_file %s: %w", c.StateFile, err)
	}
	e.log.Op().Info().Msg(fmt.Sprintf("%d calls restored from %s, %d skipped", restored, c.StateFile, skipped))
	return nil
}

// noteChanges tells the file which calls have changed since the last time. It runs on
// the goroutine that writes.
func (e *Edge) noteChanges() {
	defer e.outlive("state_file")
	e.dialogs.Changes(e.wallTime,
		func(id dialog.ID, state []byte) { e.state.Put(store.Calls, uint64(id), state) },
		func(id dialog.ID) { e.state.Delete(store.Calls, uint64(id)) })
}

// stateLost is how many changes of calls found no room while they waited to be written.
func (e *Edge) stateLost() uint64 {
	if e.state == nil {
		return 0
	}
	return e.state.Lost() + e.dialogs.LostChanges()
}
