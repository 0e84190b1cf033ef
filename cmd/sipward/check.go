package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy"
)

// resolveTime bounds the look-up of all backends together.
const resolveTime = 5 * time.Second

func newCheck() *cobra.Command {
	asJSON := false
	c := &cobra.Command{
		Use:   "check",
		Short: "Say everything that is wrong with a configuration, or what it comes to",
		Long: `Read the configuration as sipward run would and say everything that is wrong with it, each problem with
file, line, column and key. When it is sound, show warnings, where the backends are, and the limits and
protections in force.

Names of backends are looked up by DNS; nothing is sent to a SIP port. Exit code 2 on any problem; a name
that cannot be resolved is a warning, since the edge starts without it and looks again.`,
		Args: none,
	}
	o := fileFlags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		r, err := newCheckReport(c.Context(), *o)
		if err != nil {
			return err
		}
		if asJSON {
			err = writeJSON(c.OutOrStdout(), r)
		} else {
			r.write(c.OutOrStdout())
		}
		if err == nil && !r.Sound {
			return alreadySaid{exitBadConfig}
		}
		return err
	}
	return c
}

// checkReport is what check shows.
type checkReport struct {
	File      string          `json:"file"`
	Sound     bool            `json:"sound"`
	Problems  config.Problems `json:"problems"`
	Warnings  config.Problems `json:"warnings"`
	Listen    []checkListener `json:"listen"`
	Backends  []checkBackend  `json:"backends"`
	Effective []config.Row    `json:"effective"`
}

type checkListener struct {
	Address   string `json:"address"`
	Advertise string `json:"advertise,omitempty"`
	Side      string `json:"side,omitempty"`
}

type checkBackend struct {
	Pool    string   `json:"pool"`
	Name    string   `json:"name"`
	Address string   `json:"address"`
	State   string   `json:"state"`
	Targets []string `json:"targets"`
	Error   string   `json:"error,omitempty"`
}

func newCheckReport(ctx context.Context, o config.Options) (*checkReport, error) {
	c, warnings, err := load(o)
	r := &checkReport{
		File: o.Path, Problems: config.Problems{}, Warnings: append(config.Problems{}, warnings...),
		Listen: []checkListener{}, Backends: []checkBackend{}, Effective: []config.Row{}, // [] rather than null in JSON
	}
	if errors.As(err, &r.Problems) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	r.Sound = true
	r.Effective = config.Effective(c)
	for _, l := range c.Listen {
		advertise := l.Advertise
		if advertise == "" {
			advertise = c.Advertise
		}
		r.Listen = append(r.Listen, checkListener{l.Address, advertise, l.Side})
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	for _, b := range proxy.ResolveBackends(ctx, c) {
		r.addBackend(c, b)
	}
	return r, nil
}

func (r *checkReport) addBackend(c *config.Config, b proxy.Resolution) {
	one := checkBackend{Pool: b.Pool, Name: b.Backend, Address: b.Address, Targets: append([]string{}, b.Targets...)}
	for _, x := range c.Pools[b.Pool].Backends {
		if x.Name == b.Backend {
			one.State = x.State
		}
	}
	if b.Err != nil {
		one.Error = b.Err.Error()
		r.Warnings = append(r.Warnings, config.Problem{
			Source: r.File, Key: fmt.Sprintf("pools.%s.backends[%s].address", b.Pool, b.Backend), Warning: true,
			Text: fmt.Sprintf("backend unresolvable: %s: %v; check the name, or give the IP address", b.Address, b.Err),
		})
	}
	r.Backends = append(r.Backends, one)
}

func (r *checkReport) write(out io.Writer) {
	p := palette(out)
	for _, one := range r.Problems {
		fmt.Fprintln(out, paint(one.String(), p.red))
	}
	for _, one := range r.Warnings {
		fmt.Fprintln(out, paint(one.String(), p.yellow))
	}
	if !r.Sound {
		fmt.Fprintf(out, "%s: %s\n", r.File, count(len(r.Problems), "problem"))
		return
	}
	verdict := "sound"
	if len(r.Warnings) > 0 {
		verdict += ", " + count(len(r.Warnings), "warning")
	}
	fmt.Fprintf(out, "%s: %s\n\n", r.File, paint(verdict, p.green))
	rows := [][]string{{"LISTEN", "ADVERTISE", "SIDE"}}
	for _, l := range r.Listen {
		rows = append(rows, []string{l.Address, dash(l.Advertise), dash(l.Side)})
	}
	writeTable(out, p, rows)
	rows = [][]string{{"POOL", "BACKEND", "STATE", "ADDRESS", "LEADS TO"}}
	for _, b := range r.Backends {
		to := strings.Join(b.Targets, " ")
		if b.Error != "" {
			to = b.Error
		}
		rows = append(rows, []string{b.Pool, b.Name, b.State, b.Address, to})
	}
	fmt.Fprintln(out)
	writeTable(out, p, rows)
	rows = [][]string{{"IN FORCE", "VALUE", "KEY"}}
	for _, e := range r.Effective {
		rows = append(rows, []string{e.Name, e.Value, e.Key})
	}
	fmt.Fprintln(out)
	writeTable(out, p, rows)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
