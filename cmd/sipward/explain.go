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

func newExplain() *cobra.Command {
	a := new(asking)
	c := &cobra.Command{
		Use:   "explain KEY",
		Short: "Say what happens to a message of an address or a user, and why",
		Long: `Ask the running edge what happens to the next message of an address or of a user, which rule says so with which count,
what is exempt and why, and what would change it. Nothing is counted by asking.

The exit code is 0 whatever the answer; in --json the verdict is passes, dropped or refused.`,
		Example: `  sipward explain 192.0.2.1
  sipward explain alice@example.org
  sipward explain alice@example.org/192.0.2.1 --json | jq -r .verdict`,
		Args:              oneArgument("an IP address, user@domain, or user@domain/address"),
		ValidArgsFunction: a.completesTyped(1, banKeys),
		RunE: func(c *cobra.Command, args []string) error {
			key, err := keyOf(args[0])
			if err != nil {
				return err
			}
			return shows(c, a, func(ctx context.Context, client *admin.Client) (proxy.Explanation, error) {
				return client.Explain(ctx, key)
			},
				func(out io.Writer, x proxy.Explanation) { writeExplanation(out, x, time.Now()) })
		},
	}
	a.flags(c)
	return c
}

func writeExplanation(out io.Writer, x proxy.Explanation, now time.Time) {
	p := palette(out)
	fmt.Fprintln(out, paint(visible(x.Key)+": "+visible(x.Verdict), p.ofVerdict(x.Verdict)))
	writeLines(out, x.Why)
	fmt.Fprintln(out)
	trusted := "no"
	if x.Trusted != "" {
		trusted = "yes: " + x.Trusted
	}
	known := "no: no registration, call or accepted password of the last hour"
	if x.Known {
		known = "yes: a registration, a call or an accepted password of the last hour"
	}
	banned := "no"
	if b := x.Ban; b != nil {
		banned = fmt.Sprintf("by %s %s (%s); sipward bans show %s has more", b.Rule, left(*b, now), because(*b), b.Key)
	}
	pairs := [][2]string{{"trusted", trusted}, {"known", known}, {"calls", strconv.Itoa(x.Calls)}, {"banned", banned}}
	if x.Kind == "user" && strings.LastIndexByte(x.Key, '/') < strings.LastIndexByte(x.Key, '@') {
		pairs = pairs[3:] // the others are about an address
	}
	writePairs(out, p, pairs)
	if len(x.Rules) > 0 {
		fmt.Fprintln(out)
		rows := [][]string{{"RULE", "MODE", "COUNT", "NEXT MESSAGE", "WHY"}}
		for _, r := range x.Rules {
			rows = append(rows, []string{visible(r.Rule), visible(r.Mode), reading(r), dash(visible(r.Outcome)), dash(visible(r.Why))})
		}
		writeTable(out, p, rows, tint{1, p.ofMode}, tint{3, p.ofVerdict})
	}
	if len(x.Change) > 0 {
		fmt.Fprintf(out, "\n%s\n", paint("to change it", p.dim))
		for _, c := range x.Change {
			fmt.Fprintf(out, "  %s\n", visible(c))
		}
	}
}

// reading is what a rule counts of a key.
func reading(r proxy.RuleReading) string {
	switch {
	case !r.Looks || r.Limit == 0 && r.Count == 0:
		return "-"
	case r.Window == 0:
		return of(r.Count, r.Limit) + " in a row"
	default:
		return of(r.Count, r.Limit) + " in " + seconds(r.Window)
	}
}

// ofVerdict is the colour of what happens to a message.
func (p colors) ofVerdict(verdict string) string {
	switch verdict {
	case "passes":
		return p.green
	case "dropped":
		return p.red
	case "refused":
		return p.yellow
	default:
		return ""
	}
}
