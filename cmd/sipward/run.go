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

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy"
	"github.com/sipward/sipward/proxy/eventlog"
)

// defaultFile is where the configuration is looked for.
const defaultFile = "sipward.yaml"

// closeTime bounds the closing of sockets and goroutines at the end.
const closeTime = 5 * time.Second

func newRun() *cobra.Command {
	var o config.Options
	c := &cobra.Command{
		Use:   "run [-c sipward.yaml] [--set key=value ...]",
		Short: "Run the edge with a configuration file",
		Long: `Run the edge with a configuration file until SIGTERM or SIGINT.

SIGHUP reads the file again; on any error the old configuration stays. SIGTERM
refuses new calls and ends when running transactions have; a second one ends at once.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return serve(c.OutOrStdout(), func() (*config.Config, config.Problems, error) {
				o.Env = os.Environ()
				return config.Load(o)
			})
		},
	}
	c.Flags().StringVarP(&o.Path, "config", "c", defaultFile, "configuration file")
	c.Flags().StringArrayVar(&o.Sets, "set", nil, "set one key, for example limits.max_message=8000 (repeatable)")
	return c
}

func newProxy() *cobra.Command {
	var to, listen, sets []string
	c := &cobra.Command{
		Use:   "proxy --to sip:10.0.0.10:5060 [--to ...] [--listen udp:0.0.0.0:5060 ...]",
		Short: "Run the edge without a file, in front of the given backends",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if len(to) == 0 {
				return usageError{errors.New("sipward proxy: --to is needed: the SIP address of your PBX, for example --to sip:10.0.0.10:5060")}
			}
			return serve(c.OutOrStdout(), func() (*config.Config, config.Problems, error) {
				return config.Load(config.Options{
					Path: "command line", Data: proxyFile(to, listen), Env: os.Environ(), Sets: sets,
				})
			})
		},
	}
	c.Flags().StringArrayVar(&to, "to", nil, "a backend, as sip:host[:port][;transport=tcp] (repeatable)")
	c.Flags().StringArrayVar(&listen, "listen", nil, "an address to listen on, as proto:ip:port (repeatable; default udp and tcp on 0.0.0.0:5060)")
	c.Flags().StringArrayVar(&sets, "set", nil, "set one key (repeatable)")
	return c
}

// proxyFile is the file that `sipward proxy` stands for.
func proxyFile(to, listen []string) []byte {
	var b strings.Builder
	if len(listen) > 0 {
		b.WriteString("listen:\n")
		for _, l := range listen {
			fmt.Fprintf(&b, "  - %q\n", l)
		}
	}
	b.WriteString("pools:\n  pbx:\n    backends:\n")
	for i, t := range to {
		if uri, err := config.BackendURI(t); err == nil {
			t = uri
		}
		fmt.Fprintf(&b, "      - { name: pbx%d, address: %q }\n", i+1, t)
	}
	return []byte(b.String())
}

// A loader reads the configuration, at the start and at each SIGHUP.
type loader func() (*config.Config, config.Problems, error)

// serve is the life of the edge, from the configuration to a clean stop.
func serve(out io.Writer, load loader) error {
	c, warnings, err := load()
	if err != nil {
		return err
	}
	log, err := eventlog.Open(c.Log, eventlog.Options{Script: "sipward", Stdout: out})
	if err != nil {
		return fmt.Errorf("log.output: %w", err)
	}
	defer log.Close()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	edge, err := proxy.New(c, log)
	if err != nil {
		return err
	}
	edge.Start()
	report(log.Op(), edge, c, warnings)
	log.Flush()
	s := session{edge: edge, log: log, config: c, load: load, signals: signals}
	s.untilStopped()
	return s.stop()
}

// session is a running edge and what its signals act on.
type session struct {
	edge    *proxy.Edge
	log     *eventlog.Log
	config  *config.Config
	load    loader
	signals chan os.Signal
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
	c, warnings, err := s.load()
	if err != nil {
		for _, line := range strings.Split(err.Error(), "\n") {
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
	s.config = c
	for _, w := range warnings {
		op.Warn().Msg(w.String())
	}
	op.Info().Str("changed", orNone(applied)).Str("restart_needed_for", orNone(restart)).Msg("configuration reloaded")
}

func orNone(keys []string) string {
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
	closing, done := context.WithTimeout(context.Background(), closeTime)
	defer done()
	err := s.edge.Stop(closing)
	n := s.edge.Counters()
	op.Info().Int("unanswered", left).Uint64("received", n.Received).Uint64("forwarded", n.Forwarded).
		Uint64("failovers", n.Failovers).Uint64("rejected", n.Rejected).Uint64("malformed", n.Malformed).
		Uint64("stray", n.Stray).Uint64("log_lines_lost", s.log.Dropped()).Msg("stopped")
	return err
}

// report says once what the edge does here.
func report(op *zerolog.Logger, edge *proxy.Edge, c *config.Config, warnings config.Problems) {
	for _, w := range warnings {
		op.Warn().Msg(w.String())
	}
	for _, l := range edge.Listeners() {
		e := op.Info().Str("address", l.Proto+":"+l.Bound.String())
		if l.Side != "" {
			e = e.Str("side", l.Side)
		}
		if l.Advertised != "" {
			e = e.Str("advertise", l.Advertised)
		}
		e.Msg("listening")
	}
	wait := time.Duration(0)
	for _, p := range c.Pools {
		wait = max(wait, p.Probe.Timeout.D()+time.Second)
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	for _, b := range edge.FirstProbes(ctx) {
		op.Info().Str("pool", b.Pool).Str("backend", b.Name).Str("address", b.Address).Str("state", b.State).
			Str("probe", b.Why).Msg("backend")
	}
	op.Info().Int("max_transactions", c.Limits.MaxTransactions).Int("max_connections", c.Limits.MaxConnections).
		Int("max_connections_per_source", c.Limits.MaxConnectionsPerSource).Int("max_message", c.Limits.MaxMessage).
		Str("queue_delay", c.Limits.QueueDelay.D().String()).Msg("limits")
	if c.Lab {
		op.Warn().Msg("lab: yes permits values that are not safe on a real network")
	}
	op.Info().Msg("ready")
}
