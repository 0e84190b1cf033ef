package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy"
)

// introduce says once what the edge does here and what it cannot; the line ready comes last. It is false when a signal
// to stop came before. The edge serves all the while.
func (s *session) introduce(warnings config.Problems) bool {
	op := s.log.Op()
	for _, w := range warnings {
		op.Warn().Msg(w.String())
	}
	listening(op, s.edge.Listeners())
	trusts(op, s.config)
	protections(op, s.config)
	callLimits(op, s.config)
	balancing(op, s.config)
	socket := ""
	if s.admin != nil {
		socket = s.admin.Path()
	}
	outputs(op, s.config, socket)
	impossible(op, s.config)
	s.log.Flush()
	probes, goOn := s.firstProbes()
	for _, p := range probes {
		if !p.Unresolved { // has its line from the look-up
			firstProbe(op, p, s.config.Pools[p.Pool].Probe.Interval > 0)
		}
	}
	if goOn {
		op.Info().Msg("ready")
	}
	s.log.Flush()
	return goOn
}

func listening(op *zerolog.Logger, listeners []proxy.Listener) {
	for _, l := range listeners {
		e := op.Info().Str("address", l.Proto+":"+l.Bound.String())
		if l.Side != "" {
			e = e.Str("side", l.Side)
		}
		switch {
		case l.Advertised != "":
			e = e.Str("advertise", l.Advertised)
		case l.Bound.Addr().IsUnspecified():
			e = e.Str("advertise", "the address that faces the peer")
		default:
			e = e.Str("advertise", l.Bound.String())
		}
		e.Msg("listening")
	}
}

// trusts names those whose requests may go anywhere; everybody else's go to the pools.
func trusts(op *zerolog.Logger, c *config.Config) {
	var who []string
	for _, name := range slices.Sorted(maps.Keys(c.Pools)) {
		for _, b := range c.Pools[name].Backends {
			who = append(who, b.Name)
		}
	}
	op.Info().Str("backends", strings.Join(who, ",")).Msg("trusted: only requests of backends may leave for other places")
}

// protections shows what is on, with the numbers in force and the keys that set them.
func protections(op *zerolog.Logger, c *config.Config) {
	l, t := c.Limits, c.Transaction
	op.Info().Str("queue_delay", orOff(l.QueueDelay)).Int("max_message", l.MaxMessage).Str("message_timeout", l.MessageTimeout.D().String()).
		Str("idle_timeout", l.IdleTimeout.D().String()).Int("max_connections_per_source", l.MaxConnectionsPerSource).
		Msg("protections: malformed messages, loops and forged responses are refused; bans and authentication are left to the PBX")
	op.Info().Int("max_transactions", l.MaxTransactions).Int("max_dialogs", l.MaxDialogs).Int("max_connections", l.MaxConnections).
		Int("write_queue", l.WriteQueue).Str("timer_b", t.TimerB.D().String()).Str("timer_c", t.TimerC.D().String()).Msg("limits")
}

// callLimits shows how every call comes to its end.
func callLimits(op *zerolog.Logger, c *config.Config) {
	t := c.Timers
	e := op.Info().Str("session_ttl", orOff(t.SessionTTL))
	if t.SessionTTL > 0 {
		e = e.Str("probe_after", t.ProbeInterval(c.Transaction.T1).D().String()).Str("probe_legs", t.ProbeLegs).
			Str("hang_up_after", (t.SessionTTL - t.SessionTimeoutEarlyHangup).D().String())
	}
	e.Str("no_timer_call_duration", orOff(t.NoTimerCallDuration)).Str("max_call_duration", orOff(t.MaxCallDuration)).
		Str("max_ring_duration", orOff(t.MaxRingDuration)).Str("ack_timeout", t.AckWait(c.Transaction.T1).D().String()).
		Str("min_se", t.MinSE.D().String()).Msg("limits of every call")
}

// balancing shows how each pool chooses, and the limits of its members.
func balancing(op *zerolog.Logger, c *config.Config) {
	t := c.Transaction
	for _, name := range slices.Sorted(maps.Keys(c.Pools)) {
		p := c.Pools[name]
		e := op.Info().Str("pool", name).Str("policy", p.Policy).Int("backends", len(p.Backends)).
			Str("invite_failover", orElse(p.InviteFailover, t.InviteFailover)).
			Str("request_failover", orElse(p.RequestFailover, t.RequestFailover))
		if p.Probe.Interval > 0 {
			e = e.Str("probe_interval", p.Probe.Interval.D().String()).Int("down_after", p.Probe.DownAfter)
		} else {
			e = e.Str("probe_interval", "off")
		}
		if n := perBackend(p, func(b config.Backend) int { return b.MaxCPS }); n != "" {
			e = e.Str("max_cps", n)
		}
		if n := perBackend(p, func(b config.Backend) int { return b.MaxCalls }); n != "" {
			e = e.Str("max_calls", n)
		}
		e.Msg("pool")
	}
}

// outputs shows where call records go and where the edge can be asked: socket is the path of the admin socket as it was
// made, empty when there is none.
func outputs(op *zerolog.Logger, c *config.Config, socket string) {
	e := op.Info().Str("output", c.CDR.Output)
	if c.CDR.Output != "none" {
		e = e.Str("format", c.CDR.Format)
	}
	e.Msg("call records")
	if c.StateFile == "" {
		op.Info().Msg("calls are not kept over a restart")
	} else {
		op.Info().Msg("calls are kept over a restart in " + c.StateFile)
	}
	if socket == "" {
		socket = "off"
	}
	op.Info().Str("socket", socket).Msg("administration")
}

func orOff(d config.Duration) string {
	if d == 0 {
		return "off"
	}
	return d.D().String()
}

func orElse(d, or config.Duration) string {
	if d == 0 {
		d = or
	}
	return d.D().String()
}

// perBackend lists one limit of a pool's members, those that have none left out.
func perBackend(p config.Pool, limit func(config.Backend) int) string {
	var limits []string
	for _, b := range p.Backends {
		if n := limit(b); n > 0 {
			limits = append(limits, fmt.Sprintf("%s:%d", b.Name, n))
		}
	}
	return strings.Join(limits, ",")
}

// impossible says what this host does not permit. A receive buffer that the kernel keeps small has its line from the
// transport, when the socket is opened.
func impossible(op *zerolog.Logger, c *config.Config) {
	if files, known := maxFiles(); known && files < uint64(c.Limits.MaxConnections)+filesBesides {
		op.Warn().Uint64("open_files", files).Int("max_connections", c.Limits.MaxConnections).
			Msg("not possible here: this many connections; raise the limit of open files (ulimit -n, LimitNOFILE) or lower limits.max_connections")
	}
}

// filesBesides is how many files are open besides connections: sockets, log, poller. A number we chose.
const filesBesides = 64

// firstProbes waits for the first result of every probe. Signals are heard meanwhile; one to stop ends the wait.
func (s *session) firstProbes() (all []proxy.FirstProbe, goOn bool) {
	longest := time.Duration(0)
	for _, p := range s.config.Pools {
		if p.Probe.Interval > 0 {
			longest = max(longest, p.Probe.Timeout.D()+time.Second)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	known := make(chan []proxy.FirstProbe, 1)
	go func() { known <- s.edge.FirstProbes(ctx) }() // ends with ctx
	for {
		select {
		case all = <-known:
			return all, true
		case sig := <-s.signals:
			if sig != syscall.SIGHUP {
				cancel()
				return <-known, false
			}
			s.reload()
		}
	}
}

func firstProbe(op *zerolog.Logger, p proxy.FirstProbe, isProbed bool) {
	e, what := op.Info(), p.Why
	switch {
	case !isProbed:
		what = "not probed, what real requests come to decides"
	case p.Status/100 != 2:
		e = op.Warn()
	}
	e.Str("pool", p.Pool).Str("address", p.Address).Str("state", p.State).Msg("backend " + p.Name + ": " + what)
}
