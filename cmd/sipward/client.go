package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sipward/sipward/admin"
	"github.com/sipward/sipward/config"
)

// completionTime bounds what is asked while somebody types.
const completionTime = time.Second

// socketVariable is the environment's word for admin.socket, which an edge heeds too.
const socketVariable = config.EnvPrefix + "ADMIN__SOCKET"

// group makes a command that only holds others.
func group(use, short, long string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Long: long, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.SuggestionsMinimumDistance = 2
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return unknownCommand(c, args[0])
	}
	c.AddCommand(subs...)
	return c
}

func unknownCommand(c *cobra.Command, name string) error {
	hint := ""
	if near := c.SuggestionsFor(name); len(near) > 0 {
		hint = fmt.Sprintf(" (did you mean %q?)", near[0])
	}
	return fmt.Errorf("unknown command %q%s", name, hint)
}

// oneArgument asks for a thing and no more.
func oneArgument(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch len(args) {
		case 0:
			return errors.New("say which: " + what)
		case 1:
			return nil
		default:
			return fmt.Errorf("unexpected %q: one at a time", args[1])
		}
	}
}

// asking are the flags of commands that ask a running edge.
type asking struct {
	socket, file string
	asJSON       bool
}

func (a *asking) flags(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&a.socket, "socket", "", "the admin socket of the edge, as `path` (default: where an edge without configuration has it)")
	f.StringVarP(&a.file, "config", "c", "", "ask at the admin.socket of this configuration `file`")
	f.BoolVar(&a.asJSON, "json", false, "print JSON")
	_ = c.MarkFlagFilename("config", "yaml", "yml") // only fails for a flag that does not exist
}

// limitFlag is the flag that bounds a listing.
func limitFlag(c *cobra.Command, limit *int) {
	c.Flags().IntVar(limit, "limit", admin.DefaultLimit, "at most `so many`")
}

func checkLimit(limit int) error {
	if limit < 1 || limit > admin.MaxLimit {
		return usageError{fmt.Errorf("--limit %d: 1 to %d", limit, admin.MaxLimit)}
	}
	return nil
}

// writeListing writes the table of what an edge has many of, or that there is none. more: its limit left some out.
func writeListing(out io.Writer, p colors, what string, rows [][]string, more bool, tints ...tint) {
	n := len(rows) - 1 // without the head
	if n == 0 {
		fmt.Fprintln(out, "no "+what)
		return
	}
	writeTable(out, p, rows, tints...)
	if more {
		fmt.Fprintf(out, "only the first %d: narrow it down, or raise --limit (at most %d)\n", n, admin.MaxLimit)
	}
}

// backendFlag is the flag that narrows a listing down to a backend.
func backendFlag(c *cobra.Command, a *asking, name *string) {
	c.Flags().StringVar(name, "backend", "", "only those on the backend of this `name`")
	_ = c.RegisterFlagCompletionFunc("backend", a.completes(backendNames)) // only fails for a flag that does not exist
}

// client is for the edge that the flags mean.
func (a *asking) client() (*admin.Client, error) {
	path := admin.DefaultPath
	switch {
	case a.socket != "" && a.file != "":
		return nil, usageError{errors.New("--socket and --config exclude each other")}
	case a.socket != "":
		path = a.socket
	case a.file != "":
		c, _, err := load(config.Options{Path: a.file})
		if err != nil {
			return nil, err
		}
		if path = c.Admin.Socket; path == "" {
			return nil, configError{fmt.Errorf("%s: admin.socket is empty: an edge with this file has no socket", a.file)}
		}
	case os.Getenv(socketVariable) != "":
		path = os.Getenv(socketVariable)
	}
	return admin.NewClient(admin.Paths(path)...), nil
}

// shows asks the edge and writes the answer, as JSON or as text for people.
func shows[T any](c *cobra.Command, a *asking, ask func(context.Context, *admin.Client) (T, error), text func(io.Writer, T)) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	answer, err := ask(c.Context(), client)
	if err != nil {
		return err
	}
	if a.asJSON {
		return writeJSON(c.OutOrStdout(), answer)
	}
	text(c.OutOrStdout(), answer)
	return nil
}

// completes makes a completion that asks the edge. What goes wrong completes nothing.
func (a *asking) completes(ask func(ctx context.Context, c *admin.Client) ([]string, error)) cobra.CompletionFunc {
	return a.completesTyped(1, func(ctx context.Context, c *admin.Client, _ string) ([]string, error) { return ask(ctx, c) })
}

// completesTyped is completes for so many arguments, -1 for any number, that is told what is typed of one so far.
func (a *asking) completesTyped(most int, ask func(ctx context.Context, c *admin.Client, typed string) ([]string, error)) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		client, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		parent := c.Context()
		if parent == nil {
			parent = context.Background()
		}
		ctx, cancel := context.WithTimeout(parent, completionTime)
		defer cancel()
		all, err := ask(ctx, client, typed)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return all, cobra.ShellCompDirectiveNoFileComp
	}
}

// backendNames completes the name of a backend, with the pool where two pools have one of that name.
func backendNames(ctx context.Context, c *admin.Client) ([]string, error) {
	l, err := c.Backends(ctx)
	times := make(map[string]int)
	for _, b := range l.Backends {
		times[b.Name]++
	}
	var names []string
	for _, b := range l.Backends {
		name := b.Name
		if times[name] > 1 {
			name = b.Pool + "/" + name
		}
		names = append(names, visible(name)+"\t"+visible(strings.TrimSpace(b.State+" "+b.Address)))
	}
	return names, err
}
