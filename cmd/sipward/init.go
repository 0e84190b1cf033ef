package main

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/sipward/sipward/config"
)

func newInit() *cobra.Command {
	var to []string
	c := &cobra.Command{
		Use:   "init",
		Short: "Print a commented configuration file for this host",
		Long: `Print a commented configuration file for this host: every key with its meaning, bounds and default, and the
addresses that were found here. Its secret is fresh and random, so that calls and registrations stay routable
over a restart: let nobody but sipward read the file. Nothing is written but the output.`,
		Example: "  sipward init --to sip:10.0.0.10:5060 > sipward.yaml",
		Args:    none,
		RunE: func(c *cobra.Command, _ []string) error {
			uris, err := backendURIs(to)
			if err != nil {
				return err
			}
			text, err := config.Template(config.TemplateOptions{To: uris, Addresses: hostAddresses(), Secret: rand.Text()})
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(c.OutOrStdout(), text)
			return err
		},
	}
	c.Flags().StringArrayVar(&to, "to", nil, "a backend, as `[sip:]host[:port][;transport=tcp]` (repeatable)")
	return c
}

// hostAddresses are those of this host's interfaces. None, where they cannot be read: the file is good without.
func hostAddresses() []netip.Addr {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var all []netip.Addr
	for _, a := range found {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				all = append(all, ip.Unmap())
			}
		}
	}
	return all
}
