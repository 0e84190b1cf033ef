package main

import (
	"cmp"
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

func newRegistrations() *cobra.Command {
	a := new(asking)
	c := group("registrations", "List and explain the registrations that a running edge follows",
		`Ask the running edge which phones registered through it, over its admin socket: where each of them is, which node took
the registration, and what a call to it does now. The edge follows them; the registrar is the PBX.

A registration is named by the ID that the listing shows, or by its address of record, which may have several.`,
		newRegistrationsList(a), newRegistrationsShow(a), newRegistrationsStats(a))
	c.Example = `  sipward registrations list --source 203.0.113.7
  sipward registrations show alice@example.org
  sipward registrations stats`
	a.flags(c)
	return c
}

func newRegistrationsList(a *asking) *cobra.Command {
	var f proxy.RegistrationFilter
	c := &cobra.Command{
		Use:   "list",
		Short: "List the registrations, by address of record",
		Long: `List the registrations, by address of record.

FLOW is where the phone is, as the edge sees it. PING is the round trip of the last answered keep-alive, or how many in a row
were not answered; a phone that is not behind NAT gets none. A registration is closed when the connection ended that it
came over: calls to it fail at once, until the phone registers again.`,
		Example: `  sipward registrations list --text phone
  sipward registrations list --json | jq -r '.registrations[] | select(.state == "closed") | .aor'`,
		Args: none,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkLimit(f.Limit); err != nil {
				return err
			}
			f.AoR = aorOf(f.AoR)
			if f.Source != "" {
				source, err := addressOf(f.Source)
				if err != nil {
					return usageError{fmt.Errorf("--source %s: want an IP address", f.Source)}
				}
				f.Source = source.String()
			}
			return shows(c, a, func(ctx context.Context, client *admin.Client) (admin.RegistrationList, error) {
				return client.Registrations(ctx, f)
			},
				func(out io.Writer, l admin.RegistrationList) { writeRegistrations(out, l, time.Now()) })
		},
	}
	c.Flags().StringVar(&f.AoR, "aor", "", "only those of this `user@domain`")
	c.Flags().StringVar(&f.Text, "text", "", "only those with this `text` in address of record, contact or User-Agent")
	c.Flags().StringVar(&f.Source, "source", "", "only those from this `address`")
	backendFlag(c, a, &f.Backend)
	limitFlag(c, &f.Limit)
	_ = c.RegisterFlagCompletionFunc("aor", a.completesTyped(-1, registeredNames)) // only fails for a flag that does not exist
	return c
}

func newRegistrationsShow(a *asking) *cobra.Command {
	return &cobra.Command{
		Use:               "show AOR|ID",
		Short:             "Explain the registrations of one address: where the phone is, what a call to it does now",
		Args:              oneArgument("an address of record (user@domain), or the ID that sipward registrations list shows"),
		ValidArgsFunction: a.completesTyped(1, registeredNames),
		RunE: func(c *cobra.Command, args []string) error {
			return shows(c, a, func(ctx context.Context, client *admin.Client) (admin.RegistrationList, error) {
				return findRegistrations(ctx, client, args[0])
			},
				func(out io.Writer, l admin.RegistrationList) {
					for i, r := range l.Registrations {
						if i > 0 {
							fmt.Fprintln(out)
						}
						writeRegistration(out, r, time.Now())
					}
				})
		},
	}
}

func newRegistrationsStats(a *asking) *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Show the figures of all registrations since the start",
		Args:  none,
		RunE: func(c *cobra.Command, _ []string) error {
			return shows(c, a, func(ctx context.Context, client *admin.Client) (proxy.RegistrationStats, error) {
				return client.RegistrationStats(ctx)
			}, writeRegistrationStats)
		},
	}
}

// registeredNames completes an address of record.
func registeredNames(ctx context.Context, c *admin.Client, typed string) ([]string, error) {
	l, err := c.Registrations(ctx, proxy.RegistrationFilter{Text: typed})
	var names []string
	last := ""
	for _, r := range l.Registrations {
		if !strings.HasPrefix(r.AoR, typed) || r.AoR == last { // the text stands in its contact, or it is offered already
			continue
		}
		last = r.AoR
		if names = append(names, visible(r.AoR)+"\t"+visible(r.Flow+", "+r.State)); len(names) == mostOffered {
			break
		}
	}
	return names, err
}

// findRegistrations takes an ID or an address of record.
func findRegistrations(ctx context.Context, c *admin.Client, name string) (admin.RegistrationList, error) {
	for _, f := range []proxy.RegistrationFilter{{ID: name}, {AoR: aorOf(name)}} {
		if f == (proxy.RegistrationFilter{}) { // which would be all of them
			continue
		}
		l, err := c.Registrations(ctx, f)
		if err != nil || len(l.Registrations) > 0 {
			return l, err
		}
	}
	return admin.RegistrationList{}, fmt.Errorf("no registration of %q; it may have expired, lost its connection, or never come by here", name)
}

// aorOf reads an address of record as people write it, which may be a URI. Hosts
// have no case.
func aorOf(text string) string {
	text = withoutScheme(text)
	host := strings.LastIndexByte(text, '@') + 1
	return text[:host] + strings.ToLower(text[host:])
}

func writeRegistrations(out io.Writer, l admin.RegistrationList, now time.Time) {
	p := palette(out)
	rows := [][]string{{"ID", "AOR", "CONTACT", "FLOW", "NODE", "EXPIRES", "PING", "STATE"}}
	for _, r := range l.Registrations {
		rows = append(rows, []string{
			visible(r.ID), cut(visible(r.AoR), widestParty), cut(visible(r.Contact), widestParty), visible(r.Flow), dash(visible(r.Backend)),
			until(r.Expires, now), ping(r), visible(r.State),
		})
	}
	writeListing(out, p, "registrations", rows, l.More, tint{6, p.ofPing}, tint{7, p.ofRegistration})
}

// ping is what is known of the keep-alive of a registration, in a word.
func ping(r proxy.RegistrationInfo) string {
	switch {
	case r.Missed > 0:
		return strconv.Itoa(r.Missed) + " missed"
	case r.RTT > 0:
		return trip(r.RTT)
	default:
		return "-"
	}
}

// trip is a number of seconds that are few.
func trip(seconds float64) string {
	ms := seconds * 1000
	if ms < 10 {
		return fmt.Sprintf("%.1fms", ms)
	}
	return fmt.Sprintf("%.0fms", ms)
}

// ofPing is the colour of what ping says.
func (p colors) ofPing(said string) string {
	if strings.HasSuffix(said, "missed") {
		return p.yellow
	}
	return ""
}

// ofRegistration is the colour of a registration's state.
func (p colors) ofRegistration(state string) string {
	switch state {
	case "registered":
		return p.green
	case "closed":
		return p.red
	default:
		return ""
	}
}

// writeRegistration explains a registration.
func writeRegistration(out io.Writer, r proxy.RegistrationInfo, now time.Time) {
	p := palette(out)
	head := fmt.Sprintf("registration %s of %s: %s, ", visible(r.ID), visible(r.AoR), visible(r.State))
	if r.Expires.After(now) {
		head += "expires " + in(r.Expires, now)
	} else {
		head += "expired"
	}
	fmt.Fprintln(out, paint(head, p.ofRegistration(r.State)))
	writeLines(out, r.Why)
	fmt.Fprintln(out)
	flow := r.Flow
	if r.Connection != 0 {
		flow += fmt.Sprintf(", connection %d", r.Connection)
	}
	rows := [][2]string{{"contact", r.Contact}, {"the PBX keeps", kept(r)}, {"flow", flow}}
	if r.Former != "" {
		rows = append(rows, [2]string{"flow before", r.Former})
	}
	if !r.Closed.IsZero() {
		rows = append(rows, [2]string{"closed", moment(r.Closed, now)})
	}
	rows = append(rows, [][2]string{
		{"backend", strings.Trim(r.Pool+"/"+r.Backend, "/")}, {"user agent", r.UA}, {"instance", instance(r)}, {"Call-ID", r.CallID},
		{"registered", moment(r.Since, now)}, {"refreshed", moment(r.Refreshed, now)}, {"expires", expiry(r.Expires, now)}, {"pings", pings(r, now)},
	}...)
	writePairs(out, p, rows)
}

// kept is what the registrar has of a registration.
func kept(r proxy.RegistrationInfo) string {
	switch r.Mode {
	case "path":
		return "this contact, and a Path by the edge"
	case "contact":
		return cmp.Or(r.Shown, "a contact at the edge")
	default:
		return r.Mode
	}
}

func instance(r proxy.RegistrationInfo) string {
	if r.RegID == 0 {
		return r.Instance
	}
	return strings.TrimSpace(fmt.Sprintf("%s reg-id %d", r.Instance, r.RegID))
}

func expiry(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return clock(t, now) + ", " + in(t, now)
}

// pings says what became of the keep-alives of a registration.
func pings(r proxy.RegistrationInfo, now time.Time) string {
	if r.Pings == 0 && !r.NATed {
		return "none: not behind NAT"
	}
	text := strconv.FormatUint(r.Pings, 10) + " sent"
	if r.Missed > 0 {
		text += fmt.Sprintf(", the last %d not answered", r.Missed)
	}
	if r.LastPong.IsZero() {
		return text
	}
	text += ", last answer " + ago(r.LastPong, now)
	if r.RTT > 0 {
		text += ", after " + trip(r.RTT)
	}
	return text
}

func writeRegistrationStats(out io.Writer, s proxy.RegistrationStats) {
	writePairs(out, palette(out), [][2]string{
		{"now", fmt.Sprintf("%s of at most %d, over %s", count(s.Registered, "registration"), s.Capacity, count(s.Flows, "flow"))},
		{"since the start", fmt.Sprintf("%d added, %d refreshed, %d moved to another flow", s.Added, s.Refreshed, s.Moved)},
		{"ended", fmt.Sprintf("%d expired, %d lost with their connection", s.Expired, s.Lost)},
		{"not followed", fmt.Sprintf("%d: the table is full, or they are too long", s.Refused)},
		{"pings", fmt.Sprintf("%d sent, %d answered", s.Pings, s.Pongs)},
		{"to a flow that is gone", fmt.Sprintf("%s answered with 430", count(int(s.Flow430), "request"))},
		{"with a bad flow token", fmt.Sprintf("%s answered with 403", count(int(s.Forged), "request"))},
	})
}
