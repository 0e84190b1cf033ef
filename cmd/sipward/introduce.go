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
	neverBanned(op, s.config.Security)
	protections(op, s.config)
	bans(op, s.config.Security)
	callLimits(op, s.config)
	reachable(op, s.config)
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

// neverBanned names the networks that the file trusts; a long list only begins.
func neverBanned(op *zerolog.Logger, s config.Security) {
	const most = 8
	networks := []string{}
	if len(s.Trusted) == 0 {
		networks = append(networks, "none")
	}
	for i, p := range s.Trusted {
		if i == most {
			networks = append(networks, fmt.Sprintf("%d more", len(s.Trusted)-most))
			break
		}
		networks = append(networks, p.String())
	}
	op.Info().Bool("loopback", s.TrustLoopback).Str("networks", strings.Join(networks, ",")).
		Msg("trusted: these are never banned, like backends and own addresses")
}

// protections shows what is on, with the numbers in force and the keys that set them.
func protections(op *zerolog.Logger, c *config.Config) {
	l, t := c.Limits, c.Transaction
	op.Info().Str("sanity", string(c.Security.SanityEnable)).Str("queue_delay", orOff(l.QueueDelay)).Int("max_message", l.MaxMessage).Str("message_timeout", l.MessageTimeout.D().String()).
		Str("idle_timeout", l.IdleTimeout.D().String()).Int("max_connections_per_source", l.MaxConnectionsPerSource).
		Msg("protections: malformed messages, loops and forged responses are refused")
	op.Info().Int("max_transactions", l.MaxTransactions).Int("max_dialogs", l.MaxDialogs).Int("max_connections", l.MaxConnections).
		Int("max_sources", l.MaxSources).Int("max_bans", l.MaxBans).Int("write_queue", l.WriteQueue).Str("timer_b", t.TimerB.D().String()).Str("timer_c", t.TimerC.D().String()).Msg("limits")
}

// bans shows what the edge stops and bans by itself, with the numbers in force.
func bans(op *zerolog.Logger, s config.Security) {
	e := op.Info().Str("mode", string(s.DoSBanEnable))
	if s.DoSBanEnable != config.Off {
		e = e.Str("messages", rate(s.DoSReqsDensityPerUnit, s.DoSSamplingTimeUnit)).
			Str("from_known_sources", rate(s.DoSReqsDensityPerUnit*s.DoSKnownFactor, s.DoSSamplingTimeUnit)).
			Str("ban_time", s.DoSBanTime.D().String())
		if s.DoSUnprovenBanTime > 0 {
			e = e.Str("unproven_ban_time", s.DoSUnprovenBanTime.D().String())
		}
	}
	e.Str("kernel_offload", s.KernelOffload).Msg("protection from floods")

	e = op.Info().Str("mode", string(s.FailedAuthBanEnable))
	if s.FailedAuthBanEnable != config.Off {
		e = e.Str("ban_key", s.FailedAuthBanKey).Int("attempts", s.FailedAuthAttempts).Str("ban_time", s.FailedAuthBanTime.D().String()).
			Str("reply", s.FailedAuthBanReply).Str("source_attempts", rateOrOff(s.FailedAuthSourceAttempts, guessingWindow)).
			Str("users_of_one_source", rateOrOff(s.EnumerationUsers, guessingWindow))
	}
	e.Msg("protection from wrong passwords")

	e = op.Info().Str("mode", string(s.LoopEnable))
	if s.LoopEnable != config.Off {
		e = e.Str("calls", rate(s.LoopFromToPerSecond, config.Duration(time.Second))).Str("key", s.LoopKey)
		if len(s.LoopExempt) > 0 {
			e = e.Int("exempt", len(s.LoopExempt))
		}
	}
	e.Msg("protection from call loops")

	b := s.BlockUserAgents
	e = op.Info().Str("mode", string(b.Enable))
	if b.Enable != config.Off {
		e = e.Str("list", b.Mode).Int("own_patterns", len(b.UAPatterns)).Str("action", b.Action)
	}
	e.Str("options_from_unknown", s.OptionsFromUnknown).Msg("protection from scanners")
}

// guessingWindow is the time inside which wrong passwords of one source count.
const guessingWindow = config.Duration(time.Minute)

// rate is a number of things inside a time, as 50/2s.
func rate(n int, in config.Duration) string { return fmt.Sprintf("%d/%s", n, in.D()) }

func rateOrOff(n int, in config.Duration) string {
	if n == 0 {
		return "off"
	}
	return rate(n, in)
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

// reachable shows how calls find registered phones.
func reachable(op *zerolog.Logger, c *config.Config) {
	r := c.Registration
	e := op.Info().Str("mode", r.Mode).Str("ping", r.Ping)
	if r.Ping != "none" {
		e = e.Str("ping_interval", r.PingInterval.D().String())
	}
	e.Bool("stun", r.STUN).Str("closed_grace", r.ClosedGrace.D().String()).Int("max_bindings", c.Limits.MaxBindings).
		Str("keepalive_idle", c.Limits.KeepaliveIdle.D().String()).Str("unacked_timeout", c.Limits.UnackedTimeout.D().String()).
		Str("accept_rate", rate(c.Limits.AcceptRate, config.Duration(time.Second))).Msg("registered phones")
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
	switch {
	case c.StateFile != "":
		op.Info().Msg("calls and registrations are kept over a restart in " + c.StateFile)
	case c.Secret != "":
		op.Info().Msg("calls and registrations are not kept over a restart, but stay routable by their tokens")
	default:
		op.Warn().Msg("a restart loses calls and registrations, phones are found again when they register: set state_file, or secret at least")
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
