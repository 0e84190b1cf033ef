// Command sipward is a stateful SIP load balancer proxy: one binary and one YAML file in front of a PBX.
// Run `sipward help` for what it can do.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitOK        = 0
	exitFailure   = 1 // it could not run, or not go on
	exitBadConfig = 2 // bad configuration or usage
)

func main() { os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr)) }

// execute runs one command line. What goes wrong is printed here and nowhere else.
func execute(args []string, out, errOut io.Writer) int {
	running := false
	root := newRoot()
	root.PersistentPreRun = func(*cobra.Command, []string) { running = true }
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	c, err := root.ExecuteC()
	if err == nil {
		return exitOK
	}
	var said alreadySaid
	var config configError
	var usage usageError
	switch {
	case errors.As(err, &said):
		return said.code
	case errors.As(err, &config):
		fmt.Fprintln(errOut, paintLines(err.Error(), palette(errOut).red))
		return exitBadConfig
	case errors.As(err, &usage) || !running: // what cobra finds wrong, it finds before it runs a command
		fmt.Fprintf(errOut, "%s: %v; see %s --help\n", c.CommandPath(), err, c.CommandPath())
		return exitBadConfig
	default:
		fmt.Fprintf(errOut, "%s: %v\n", c.CommandPath(), err)
		return exitFailure
	}
}

// usageError is a mistake on the command line.
type usageError struct{ error }

// configError is a configuration that cannot be used, or a file that cannot be read.
type configError struct{ error }

func (c configError) Unwrap() error { return c.error }

// alreadySaid ends a command whose output has told what is wrong.
type alreadySaid struct{ code int }

func (a alreadySaid) Error() string { return fmt.Sprintf("exit code %d", a.code) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "sipward",
		Short: "A stateful SIP load balancer and edge proxy in front of a PBX",
		Long: `sipward stands in front of a PBX and spreads calls and registrations over its nodes.

  sipward demo                                see it work: needs nothing, ends by itself
  sipward proxy --to sip:10.0.0.10:5060       put it in front of a PBX, without a file
  sipward init --to sip:10.0.0.10 > sipward.yaml && sipward check && sipward run

Exit codes: 0 all went well, 1 it failed while running, 2 bad configuration or usage.`,
		SilenceErrors: true, // printed once, in execute
		SilenceUsage:  true,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.Args = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return unknownCommand(root, args[0])
	}
	root.SuggestionsMinimumDistance = 2
	root.CompletionOptions.DisableDefaultCmd = true // ours says which shells
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.AddCommand(newRun(), newProxy(), newCheck(), newInit(), newDemo(), newCalls(), newBackends(), newBans(), newRegistrations(), newExplain(), newVersion(), newCompletion())
	return root
}

// none refuses arguments of a command that takes flags only.
func none(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected %q", args[0])
	}
	return nil
}
