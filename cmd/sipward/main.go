// Command sipward is a stateful SIP load balancer proxy: one binary and one YAML
// file in front of a PBX. Run `sipward help` for what it can do.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/sipward/sipward/config"
)

// Exit codes.
const (
	exitOK        = 0
	exitFailure   = 1 // it could not run, or not go on
	exitBadConfig = 2 // bad configuration or usage
)

func main() { os.Exit(execute(os.Args[1:])) }

// usageError is a mistake on the command line.
type usageError struct{ error }

func execute(args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(root.ErrOrStderr(), err)
	var problems config.Problems
	var usage usageError
	if errors.As(err, &problems) || errors.As(err, &usage) {
		return exitBadConfig
	}
	return exitFailure
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "sipward",
		Short:         "A stateful SIP load balancer and edge proxy in front of a PBX",
		SilenceErrors: true, // printed once, in execute
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("sipward: unknown command %q; see sipward help", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%s: %w; see %s --help", c.CommandPath(), err, c.CommandPath())}
	})
	root.AddCommand(newRun(), newProxy())
	return root
}
