package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sipward/sipward/config"
)

// defaultFile is where the configuration is looked for.
const defaultFile = "sipward.yaml"

// A loader reads the configuration, at the start and at each SIGHUP.
type loader func() (*config.Config, config.Problems, error)

// fileFlags adds the flags of commands that read a file and returns what they say.
func fileFlags(c *cobra.Command) *config.Options {
	o := new(config.Options)
	c.Flags().StringVarP(&o.Path, "config", "c", defaultFile, "configuration `file`")
	setFlag(c, &o.Sets)
	_ = c.MarkFlagFilename("config", "yaml", "yml") // only fails for a flag that does not exist
	return o
}

// setFlag adds --set with completion of the keys.
func setFlag(c *cobra.Command, sets *[]string) {
	c.Flags().StringArrayVar(sets, "set", nil, "set one key over file and environment, as `key=value` (repeatable)")
	_ = c.RegisterFlagCompletionFunc("set", func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		var keys []string
		for _, k := range config.Keys() {
			if strings.HasPrefix(k.Path, begun) && !strings.ContainsAny(k.Path, "<[") {
				keys = append(keys, k.Path+"=\t"+k.Doc)
			}
		}
		return keys, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
	})
}

// load reads file, environment and flags.
func load(o config.Options) (*config.Config, config.Problems, error) {
	o.Env = os.Environ()
	c, warnings, err := config.Load(o)
	switch {
	case err == nil:
		return c, warnings, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, warnings, configError{fmt.Errorf("%s: no such file; write one with `sipward init --to sip:PBX > %s`, "+
			"or go without one: `sipward proxy --to sip:PBX`", o.Path, o.Path)}
	default:
		return nil, warnings, configError{err}
	}
}

// loadProxy reads what `sipward proxy` was told, as if it were a file.
func loadProxy(to, listen, sets []string) (*config.Config, config.Problems, error) {
	return load(config.Options{Path: "command line", Data: proxyFile(to, listen), Sets: sets})
}

// proxyFile is the file that `sipward proxy` stands for. to are URIs.
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
		fmt.Fprintf(&b, "      - { name: pbx%d, address: %q }\n", i+1, t)
	}
	return []byte(b.String())
}

// backendURIs reads the values of --to.
func backendURIs(to []string) ([]string, error) {
	var uris []string
	for _, t := range to {
		uri, err := config.BackendURI(t)
		if err != nil {
			return nil, usageError{fmt.Errorf("--to %s: %w", t, err)}
		}
		uris = append(uris, uri)
	}
	return uris, nil
}
