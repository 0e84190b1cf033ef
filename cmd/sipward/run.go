package main

import (
	"github.com/spf13/cobra"

	"github.com/sipward/sipward/config"
)

func newRun() *cobra.Command {
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the edge with a configuration file",
		Long: `Run the edge with a configuration file until SIGTERM or SIGINT.

SIGHUP reads the file again and opens a log file anew; on any error the old configuration stays.
SIGTERM refuses new calls with 503 and ends when running transactions have, at the latest after
stop_timeout; a second one ends at once.

A key can also be given in the environment, SIPWARD_ and its path in capitals with two underscores
between levels (SIPWARD_LOG__LEVEL=debug), or by --set log.level=debug.`,
		Args: none,
	}
	o := fileFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return serve(c.OutOrStdout(), c.ErrOrStderr(), func() (*config.Config, config.Problems, error) { return load(*o) })
	}
	return c
}
