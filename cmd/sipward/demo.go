package main

import (
	"errors"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sipward/sipward/cmd/sipward/demo"
)

func newDemo() *cobra.Command {
	stay := false
	c := &cobra.Command{
		Use:   "demo",
		Short: "See it work: an edge, two PBX nodes and phones on this machine",
		Long: `Start an edge and two small PBX nodes on loopback ports of this machine, register phones, place calls, kill a
node, bring it back, hang the other, and show a closing table. It needs nothing, sends nothing to other machines,
and ends by itself in less than half a minute, with exit code 0 when every call did what it should.`,
		Args: none,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := signal.NotifyContext(c.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer cancel()
			p := palette(c.OutOrStdout())
			err := demo.Run(ctx, demo.Options{
				Out: c.OutOrStdout(), Stay: stay,
				Dim: p.dim, Bold: p.bold, Good: p.green, Bad: p.red,
			})
			if errors.Is(err, demo.ErrVerdict) {
				return alreadySaid{exitFailure}
			}
			return err
		},
	}
	c.Flags().BoolVar(&stay, "stay", false, "keep edge and nodes up after the table, for a softphone, until Ctrl-C")
	return c
}
