package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/sipward/sipward/admin"
	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy"
	"github.com/sipward/sipward/proxy/cdr"
	"github.com/sipward/sipward/proxy/eventlog"
)

// closeTime bounds the closing of sockets and goroutines at the end.
const closeTime = 5 * time.Second

// serve is the life of the edge, from the configuration to a clean stop.
func serve(out, errOut io.Writer, load loader) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	c, warnings, err := load()
	if err != nil {
		return err
	}
	log, err := eventlog.Open(c.Log, eventlog.Options{Script: "sipward", Stdout: out, Stderr: errOut})
	if err != nil {
		return fmt.Errorf("log.output: %w", err)
	}
	defer log.Close() // what it could say, the log could not
	if o := c.Log.Output; o != "stdout" && o != "stderr" {
		fmt.Fprintf(errOut, "log lines go to %s\n", o)
	}
	records, err := cdr.Open(c.CDR, cdr.Options{Stdout: out, OnProblem: func(err error) {
		log.Op().Error().Err(err).Msg("call records")
	}})
	if err != nil {
		return fmt.Errorf("cdr.output: %w", err)
	}
	defer records.Close() // what it could say, its OnProblem has said
	edge, err := proxy.New(c, log, records)
	if err != nil {
		return err
	}
	edge.Start()
	s := session{edge: edge, log: log, records: records, config: c, load: load, signals: signals}
	if err := s.openAdmin(); err != nil {
		return errors.Join(err, s.close())
	}
	if s.introduce(warnings) {
		s.untilStopped()
	}
	return s.stop()
}

// session is a running edge and what its signals act on.
type session struct {
	edge    *proxy.Edge
	admin   *admin.Server // nil: there is none
	log     *eventlog.Log
	records *cdr.Writer
	config  *config.Config
	load    loader
	signals chan os.Signal
}

// openAdmin opens the admin socket. An edge serves without one, unless the operator said where it has to be.
func (s *session) openAdmin() error {
	path, op := s.config.Admin.Socket, s.log.Op()
	if path == "" {
		return nil
	}
	server, err := admin.Listen(path, s.edge, op)
	switch {
	case err == nil:
		s.admin = server
	case path == admin.DefaultPath:
		op.Warn().Err(err).Msg("no admin socket: sipward calls, registrations, backends, bans and explain cannot ask this edge; set admin.socket to a path that it may create")
	default:
		return err
	}
	return nil
}

func (s *session) untilStopped() {
	for sig := range s.signals {
		if sig != syscall.SIGHUP {
			return
		}
		s.reload()
	}
}

// reload takes a new configuration over, or says why not.
func (s *session) reload() {
	op := s.log.Op()
	if err := s.log.Reopen(); err != nil {
		op.Error().Err(err).Msg("log file could not be opened anew, the old one stays in use")
	}
	if err := s.records.Reopen(); err != nil {
		op.Error().Err(err).Msg("file of the call records could not be opened anew, the old one stays in use")
	}
	c, warnings, err := s.load()
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			op.Error().Msg("reload refused: " + line)
		}
		op.Error().Msg("the running configuration stays in use")
		return
	}
	applied, restart := config.Diff(s.config, c)
	if err := s.edge.Reload(c); err != nil {
		op.Error().Msg("reload refused: " + err.Error() + "; the running configuration stays in use")
		return
	}
	if err := s.log.Configure(c.Log); err != nil {
		op.Error().Err(err).Msg("log settings not taken over")
	}
	if err := s.records.Configure(c.CDR); err != nil {
		op.Error().Err(err).Msg("settings of the call records not taken over")
	}
	s.config = c
	for _, w := range warnings {
		op.Warn().Msg(w.String())
	}
	op.Info().Str("changed", orNothing(applied)).Str("restart_needed_for", orNothing(restart)).Msg("configuration reloaded")
}

func orNothing(keys []string) string {
	if len(keys) == 0 {
		return "nothing"
	}
	return strings.Join(keys, ",")
}

// stop lets transactions end, then closes. A second signal ends it at once.
func (s *session) stop() error {
	op := s.log.Op()
	op.Info().Str("at_most", s.config.StopTimeout.D().String()).Msg("stopping: new calls get 503, running transactions may end")
	ctx, cancel := context.WithTimeout(context.Background(), s.config.StopTimeout.D())
	defer cancel()
	go func() { // ends with ctx
		for {
			select {
			case sig := <-s.signals:
				if sig != syscall.SIGHUP {
					cancel()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	left := s.edge.Drain(ctx)
	err := s.close()
	n := s.edge.Counters()
	op.Info().Int("unanswered", left).Uint64("received", n.Received).Uint64("forwarded", n.Forwarded).
		Uint64("failovers", n.Failovers).Uint64("rejected", n.Rejected).Uint64("malformed", n.Malformed).
		Uint64("stray", n.Stray).Uint64("long_datagrams", n.Large).Uint64("log_lines_lost", s.log.Dropped()).
		Uint64("call_records_lost", s.records.Dropped()).Msg("stopped")
	return err
}

// close closes sockets and ends goroutines, in the end of a stop or at once. The admin socket goes first, it asks the
// edge.
func (s *session) close() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if s.admin != nil {
		err = s.admin.Close(ctx)
	}
	return errors.Join(err, s.edge.Stop(ctx))
}
