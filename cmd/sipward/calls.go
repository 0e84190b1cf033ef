package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sipward/sipward/admin"
	"github.com/sipward/sipward/proxy"
)

// Numbers we chose.
const (
	widestParty  = 40 // of a URI in the listing
	widestCallID = 100
	mostOffered  = 50 // calls in a completion
)

func newCalls() *cobra.Command {
	a := new(asking)
	c := group("calls", "List, explain and end the calls of a running edge",
		`Ask the running edge about its calls, over its admin socket, and end them.

A call is named by the ID that the listing shows, or by its Call-ID.`,
		newCallsList(a), newCallsShow(a), newCallsEnd(a), newCallsStats(a))
	a.flags(c)
	return c
}

func newCallsList(a *asking) *cobra.Command {
	var f proxy.CallFilter
	c := &cobra.Command{
		Use:   "list",
		Short: "List the calls, the oldest first",
		Example: `  sipward calls list --party alice@example.org
  sipward calls list --mode N --json | jq '.calls[].call_id'`,
		Args: none,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.Mode = strings.ToUpper(f.Mode); !slices.Contains([]string{"", "R", "P", "N"}, f.Mode) {
				return usageError{fmt.Errorf("--mode %s: R, P or N", f.Mode)}
			}
			if err := checkLimit(f.Limit); err != nil {
				return err
			}
			return shows(c, a, func(ctx context.Context, client *admin.Client) (admin.CallList, error) { return client.Calls(ctx, f) },
				func(out io.Writer, l admin.CallList) { writeCalls(out, l, time.Now()) })
		},
	}
	c.Flags().StringVar(&f.CallID, "call-id", "", "only those with this `Call-ID`")
	c.Flags().StringVar(&f.Party, "party", "", "only those with this `text` in From or To")
	backendFlag(c, a, &f.Backend)
	c.Flags().StringVar(&f.Mode, "mode", "", "only those of this `mode`: R (session timer), P (probed) or N (neither)")
	limitFlag(c, &f.Limit)
	_ = c.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{"R", "P", "N"}, cobra.ShellCompDirectiveNoFileComp)) // only fails for a flag that does not exist
	return c
}

func newCallsShow(a *asking) *cobra.Command {
	return &cobra.Command{
		Use:               "show ID|CALL-ID",
		Short:             "Explain one call: what watches it, what ends it and when",
		Args:              oneArgument("the ID that sipward calls list shows, or a Call-ID"),
		ValidArgsFunction: a.completes(callNames),
		RunE: func(c *cobra.Command, args []string) error {
			return shows(c, a, func(ctx context.Context, client *admin.Client) (proxy.CallInfo, error) {
				return findCall(ctx, client, args[0])
			},
				func(out io.Writer, call proxy.CallInfo) { writeCall(out, call, time.Now()) })
		},
	}
}

func newCallsEnd(a *asking) *cobra.Command {
	return &cobra.Command{
		Use:               "end ID|CALL-ID",
		Short:             "End an answered call: BYE on both legs",
		Args:              oneArgument("the ID that sipward calls list shows, or a Call-ID"),
		ValidArgsFunction: a.completes(callNames),
		RunE: func(c *cobra.Command, args []string) error {
			return shows(c, a, func(ctx context.Context, client *admin.Client) (proxy.CallInfo, error) {
				call, err := findCall(ctx, client, args[0])
				if err != nil {
					return call, err
				}
				was, err := client.EndCall(ctx, call.ID)
				if err != nil {
					return was, fmt.Errorf("call %s: %w", visible(call.ID), err)
				}
				return was, nil
			}, func(out io.Writer, was proxy.CallInfo) {
				fmt.Fprintf(out, "call %s is being ended: BYE goes to %s and %s\n",
					visible(was.ID), cut(visible(was.From), widestParty), cut(visible(was.To), widestParty))
			})
		},
	}
}

func newCallsStats(a *asking) *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Show the figures of all calls since the start",
		Args:  none,
		RunE: func(c *cobra.Command, _ []string) error {
			return shows(c, a, func(ctx context.Context, client *admin.Client) (proxy.CallStats, error) { return client.Stats(ctx) }, writeStats)
		},
	}
}

// callNames completes the ID of a call.
func callNames(ctx context.Context, c *admin.Client) ([]string, error) {
	l, err := c.Calls(ctx, proxy.CallFilter{Limit: mostOffered})
	var names []string
	for _, x := range l.Calls {
		names = append(names, visible(x.ID)+"\t"+visible(x.From+" to "+x.To))
	}
	return names, err
}

// findCall takes an ID or a Call-ID, which several calls may have.
func findCall(ctx context.Context, c *admin.Client, name string) (proxy.CallInfo, error) {
	for _, f := range []proxy.CallFilter{{ID: name}, {CallID: name}} {
		l, err := c.Calls(ctx, f)
		switch {
		case err != nil:
			return proxy.CallInfo{}, err
		case len(l.Calls) == 1:
			return l.Calls[0], nil
		case len(l.Calls) > 1:
			var ids []string
			for _, x := range l.Calls {
				ids = append(ids, visible(x.ID))
			}
			return proxy.CallInfo{}, fmt.Errorf("%s have this Call-ID, say which by its ID: %s", count(len(ids), "call"), strings.Join(ids, " "))
		}
	}
	return proxy.CallInfo{}, fmt.Errorf("no call with the ID or Call-ID %q; it may have ended", name)
}

func writeCalls(out io.Writer, l admin.CallList, now time.Time) {
	p := palette(out)
	rows := [][]string{{"ID", "STATE", "MODE", "AGE", "FROM", "TO", "BACKEND", "PROBE", "ENDS", "BY", "CALL-ID"}}
	for _, c := range l.Calls {
		rows = append(rows, []string{
			visible(c.ID), visible(c.State), dash(visible(c.Mode)), seconds(c.Age),
			cut(visible(c.From), widestParty), cut(visible(c.To), widestParty), dash(visible(c.Backend)),
			until(c.NextProbe, now), until(c.Ends, now), dash(visible(c.EndsBy)), cut(visible(c.CallID), widestCallID),
		})
	}
	writeListing(out, p, "calls", rows, l.More, tint{1, p.ofCall})
}

// ofCall is the colour of a call's state.
func (p colors) ofCall(state string) string {
	switch state {
	case "confirmed":
		return p.green
	case "ringing", "unacknowledged":
		return p.yellow
	case "ending", "terminating":
		return p.red
	default:
		return ""
	}
}

// writeCall explains a call.
func writeCall(out io.Writer, c proxy.CallInfo, now time.Time) {
	p := palette(out)
	lasts := "for"
	if c.IsEnding() {
		lasts = "after"
	}
	head := fmt.Sprintf("call %s: %s %s %s", visible(c.ID), visible(c.State), lasts, seconds(c.Age))
	if c.Mode != "" {
		head += ", mode " + visible(c.Mode)
	}
	fmt.Fprintln(out, paint(head, p.ofCall(c.State)))
	writeLines(out, c.Why)
	fmt.Fprintln(out)
	rows := [][2]string{
		{"Call-ID", c.CallID}, {"From", c.From}, {"To", c.To}, {"Request-URI", c.RURI}, {"came from", c.Source},
		{"backend", strings.Trim(c.Pool+"/"+c.Backend, "/")},
		{"began", moment(c.Start, now)}, {"answered", moment(c.Answer, now)},
	}
	if c.Dialogs > 1 {
		rows = append(rows, [2]string{"forked", fmt.Sprintf("%d dialogs", c.Dialogs)})
	}
	ends := "by nothing but its parties: no limit is armed"
	switch {
	case c.IsEnding():
		ends = "when its BYE is answered, or cannot be any more"
	case !c.Ends.IsZero() && !c.Ends.After(now):
		ends = "now, by " + c.EndsBy
	case !c.Ends.IsZero():
		ends = fmt.Sprintf("%s by %s, if nothing changes before", in(c.Ends, now), c.EndsBy)
	}
	rows = append(rows, [2]string{"verified", ago(c.LastVerified, now)}, [2]string{"next probe", in(c.NextProbe, now)}, [2]string{"ends", ends})
	writePairs(out, p, rows)
	if len(c.Limits) > 0 {
		fmt.Fprintln(out)
		writeTable(out, p, limitRows(c, now))
	}
	if len(c.Legs) > 0 {
		fmt.Fprintln(out)
		writeTable(out, p, legRows(c, now))
	}
}

// limitRows have what fires first at the top.
func limitRows(c proxy.CallInfo, now time.Time) [][]string {
	rows := [][]string{{"LIMIT", "FIRES", "AT"}}
	armed := slices.SortedStableFunc(slices.Values(c.Limits), func(a, b proxy.Limit) int { return a.At.Compare(b.At) })
	for _, l := range armed {
		rows = append(rows, []string{visible(l.Key), in(l.At, now), clock(l.At, now)})
	}
	return rows
}

func legRows(c proxy.CallInfo, now time.Time) [][]string {
	rows := [][]string{{"LEG", "PROBED BY", "SESSION-EXPIRES", "REFRESHED BY", "VERIFIED", "FAILURES", "TARGET"}}
	for _, l := range c.Legs {
		expires := "-"
		if l.SE > 0 {
			expires = strconv.FormatUint(uint64(l.SE), 10) + " s"
		}
		refresher := dash(visible(l.Refresher))
		switch l.Refresher {
		case "self":
			refresher = "this leg"
		case "peer":
			refresher = "the other leg"
		}
		rows = append(rows, []string{
			visible(l.Leg), dash(visible(l.Probe)), expires, refresher, ago(l.LastVerified, now), strconv.Itoa(l.Failures), visible(l.Target),
		})
	}
	return rows
}

func writeStats(out io.Writer, s proxy.CallStats) {
	p := palette(out)
	now := count(s.Concurrent, "answered call")
	if len(s.Modes) > 0 {
		var modes []string
		for _, m := range slices.Sorted(maps.Keys(s.Modes)) {
			modes = append(modes, fmt.Sprintf("%s %d", dash(visible(m)), s.Modes[m]))
		}
		now += " (" + strings.Join(modes, ", ") + ")"
	}
	writePairs(out, p, [][2]string{
		{"now", fmt.Sprintf("%s, %d not answered yet", now, s.Ringing)},
		{"since the start", fmt.Sprintf("%d attempts, %d answered, %d failed", s.Attempts, s.Answered, s.Failed)},
		{"answer-seizure ratio", fmt.Sprintf("%.1f %%", s.ASR)},
		{"mean duration", seconds(s.ACD)},
		{"post-dial delay", fmt.Sprintf("%.2f s", s.PDD)},
		{"attempts a second", fmt.Sprintf("%.1f", s.CPS)},
	})
	for _, t := range []struct {
		head  string
		count map[string]uint64
	}{{"ENDED BY", s.Ended}, {"PROBE", s.Probes}} {
		if len(t.count) == 0 {
			continue
		}
		rows := [][]string{{t.head, "COUNT"}}
		for _, k := range slices.Sorted(maps.Keys(t.count)) {
			rows = append(rows, []string{visible(k), strconv.FormatUint(t.count[k], 10)})
		}
		fmt.Fprintln(out)
		writeTable(out, p, rows)
	}
}
