package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sipward/sipward/admin"
	"github.com/sipward/sipward/proxy"
)

func newBackends() *cobra.Command {
	a := new(asking)
	c := group("backends", "List the backends of a running edge, take them out and in",
		`Ask the running edge about its backends, over its admin socket, and set their state. The state is kept over a
reload, until it is set again or the file gives the backend another one; a restart forgets it.

A backend is named by its name, or by POOL/NAME where two pools have one of that name.`,
		newBackendsList(a),
		newBackendsSet(a, "drain", "drain", "Let a backend run empty: calls in progress and registrations stay, new ones go elsewhere"),
		newBackendsSet(a, "up", "up", "Take a backend into service; its probes decide from here"),
		newBackendsSet(a, "down", "disabled", "Take a backend out at once: nothing is sent to it, not even a probe"))
	a.flags(c)
	return c
}

func newBackendsList(a *asking) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the backends, with state and calls",
		Args:  none,
		RunE: func(c *cobra.Command, _ []string) error {
			return shows(c, a, func(ctx context.Context, client *admin.Client) (admin.BackendList, error) {
				return client.Backends(ctx)
			},
				func(out io.Writer, l admin.BackendList) { writeBackends(out, l.Backends, time.Now()) })
		},
	}
}

// newBackendsSet makes the command that puts a backend into a state.
func newBackendsSet(a *asking, use, state, short string) *cobra.Command {
	return &cobra.Command{
		Use:               use + " NAME",
		Short:             short,
		Args:              oneArgument("the name of a backend; sipward backends list shows them"),
		ValidArgsFunction: a.completes(backendNames),
		RunE: func(c *cobra.Command, args []string) error {
			return shows(c, a, func(ctx context.Context, client *admin.Client) (proxy.BackendInfo, error) {
				b, err := findBackend(ctx, client, args[0])
				if err != nil {
					return b, err
				}
				return client.SetBackend(ctx, b.Pool, b.Name, state)
			}, func(out io.Writer, b proxy.BackendInfo) { writeBackends(out, []proxy.BackendInfo{b}, time.Now()) })
		},
	}
}

// findBackend takes NAME or POOL/NAME.
func findBackend(ctx context.Context, c *admin.Client, name string) (proxy.BackendInfo, error) {
	l, err := c.Backends(ctx)
	if err != nil {
		return proxy.BackendInfo{}, err
	}
	var all, found []string
	var b proxy.BackendInfo
	for _, x := range l.Backends {
		full := x.Pool + "/" + x.Name
		all = append(all, visible(full))
		if name == full {
			return x, nil
		}
		if name == x.Name {
			b, found = x, append(found, visible(full))
		}
	}
	switch len(found) {
	case 0:
		return b, fmt.Errorf("no backend %q; there are: %s", name, strings.Join(all, " "))
	case 1:
		return b, nil
	default:
		return b, fmt.Errorf("backend %q is in %d pools, say which: %s", name, len(found), strings.Join(found, " "))
	}
}

func writeBackends(out io.Writer, all []proxy.BackendInfo, now time.Time) {
	p := palette(out)
	rows := [][]string{{"POOL", "BACKEND", "STATE", "SINCE", "CALLS", "MAX CPS", "ADDRESS", "LEADS TO", "WHY"}}
	for _, b := range all {
		rows = append(rows, []string{
			visible(b.Pool), visible(b.Name), visible(b.State), ago(b.Since, now), of(b.Calls, b.MaxCalls), most(b.MaxCPS),
			visible(b.Address), dash(visible(strings.Join(b.Targets, " "))), dash(visible(b.Why)),
		})
	}
	writeTable(out, p, rows, tint{2, p.ofBackend})
}

// of is a number and its limit.
func of(n, limit int) string {
	if limit == 0 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%d of %d", n, limit)
}

func most(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

// ofBackend is the colour of a backend's state.
func (p colors) ofBackend(state string) string {
	switch state {
	case "up":
		return p.green
	case "down":
		return p.red
	default:
		return p.yellow
	}
}
