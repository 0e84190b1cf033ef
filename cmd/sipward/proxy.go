package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/sipward/sipward/config"
)

func newProxy() *cobra.Command {
	var to, listen, sets []string
	c := &cobra.Command{
		Use:   "proxy --to sip:10.0.0.10:5060",
		Short: "Run the edge without a file, in front of the given backends",
		Long: `Run the edge without a file, in front of the given backends, until SIGTERM or SIGINT.

Everything that is not given has its default; sipward init prints the same settings as a file.
Signals do what they do for sipward run.`,
		Example: `  sipward proxy --to sip:10.0.0.10:5060 --to sip:10.0.0.11:5060
  sipward proxy --to "sip:pbx.example.org;transport=tcp" --listen udp:192.0.2.1:5060 --set log.format=json`,
		Args: none,
		RunE: func(c *cobra.Command, _ []string) error {
			if len(to) == 0 {
				return usageError{errors.New("--to is needed: the address of your PBX, for example --to sip:10.0.0.10:5060")}
			}
			uris, err := backendURIs(to)
			if err != nil {
				return err
			}
			return serve(c.OutOrStdout(), c.ErrOrStderr(), func() (*config.Config, config.Problems, error) {
				return loadProxy(uris, listen, sets)
			})
		},
	}
	c.Flags().StringArrayVar(&to, "to", nil, "a backend, as `[sip:]host[:port][;transport=tcp]` (repeatable)")
	c.Flags().StringArrayVar(&listen, "listen", nil, "an address to listen on, as `proto:ip:port` (repeatable; default udp and tcp on 0.0.0.0:5060)")
	setFlag(c, &sets)
	return c
}
