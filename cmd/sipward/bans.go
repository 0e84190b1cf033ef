package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sipward/sipward/admin"
	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy"
)

// Numbers we chose.
const (
	widestKey = 60
	widestWhy = 50
)

// whatKey says what a key is, for who gave none.
const whatKey = "an IP address, user@domain, or user@domain/address; sipward bans list shows those that are banned"

func newBans() *cobra.Command {
	a := new(asking)
	c := group("bans", "List, add, lift, export and import the bans of a running edge",
		`Ask the running edge about its bans, over its admin socket, and change them.

A ban is of one IPv4 address, of one IPv6 /64 (any address in it names it), of a user (user@domain), or of a user at one
address (user@domain/192.0.2.1). "sipward explain KEY" says what happens to it and why, banned or not.`,
		newBansList(a), newBansShow(a), newBansAdd(a), newBansDel(a), newBansFlush(a), newBansExport(a), newBansImport(a), newBansStats(a))
	c.Example = `  sipward bans list --rule dos
  sipward bans show 192.0.2.1
  sipward bans add 192.0.2.1 --for 1h --why "ticket 17"
  sipward bans del 192.0.2.1 alice@example.org
  sipward bans export --format nft -o banned.nft
  sipward bans import blocklist.txt
  sipward bans list --sht-dump --kind ip
  sipward bans flush --yes`
	a.flags(c)
	return c
}

// banFilterFlags are the flags that choose bans.
func banFilterFlags(c *cobra.Command, f *proxy.BanFilter) {
	c.Flags().StringVar(&f.Rule, "rule", "", "only those of this `rule`: "+strings.Join(proxy.BanRules, ", "))
	c.Flags().StringVar(&f.Kind, "kind", "", "only those of this `kind`: ip or user")
	_ = c.RegisterFlagCompletionFunc("rule", cobra.FixedCompletions(proxy.BanRules, cobra.ShellCompDirectiveNoFileComp)) // only fails for a flag that does not exist
	_ = c.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(proxy.BanKinds, cobra.ShellCompDirectiveNoFileComp))
}

func checkBanFilter(f proxy.BanFilter) error {
	switch {
	case f.Rule != "" && !slices.Contains(proxy.BanRules, f.Rule):
		return usageError{fmt.Errorf("--rule %s: %s", f.Rule, strings.Join(proxy.BanRules, ", "))}
	case f.Kind != "" && !slices.Contains(proxy.BanKinds, f.Kind):
		return usageError{fmt.Errorf("--kind %s: %s", f.Kind, strings.Join(proxy.BanKinds, " or "))}
	}
	return nil
}

func newBansList(a *asking) *cobra.Command {
	var f proxy.BanFilter
	var isDump bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List the bans, the oldest first",
		Long: `List the bans, the oldest first.

STOPS is what a ban stops: "all" drops whatever comes from the address, unread; "new" leaves its running calls alone;
"user" refuses the requests of a user, but never those within a call.`,
		Example: `  sipward bans list --rule failed_auth
  sipward bans list --json | jq -r '.bans[].key'
  sipward bans list --sht-dump --kind ip      # the shape of: ngcp-kamctl lb fifo sht_dump ipban
  sipward bans list --sht-dump --kind user    # the shape of: ngcp-kamctl lb fifo sht_dump auth`,
		Args: none,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkBanFilter(f); err != nil {
				return err
			}
			if err := checkLimit(f.Limit); err != nil {
				return err
			}
			if isDump && a.asJSON {
				return usageError{errors.New("--sht-dump and --json exclude each other")}
			}
			if isDump && !c.Flags().Changed("limit") { // scripts count on all of them
				all, err := allBans(c.Context(), a, f)
				if err != nil {
					return err
				}
				writeHashTable(c.OutOrStdout(), all)
				return nil
			}
			return shows(c, a, func(ctx context.Context, client *admin.Client) (admin.BanList, error) { return client.Bans(ctx, f) },
				func(out io.Writer, l admin.BanList) {
					if isDump {
						writeHashTable(out, l.Bans)
						return
					}
					writeBans(out, l, time.Now())
				})
		},
	}
	banFilterFlags(c, &f)
	c.Flags().StringVar(&f.Key, "key", "", "only those with this `text` in their key")
	limitFlag(c, &f.Limit)
	c.Flags().BoolVar(&isDump, "sht-dump", false, "print what the sht_dump of Kamailio's tables ipban and auth would")
	return c
}

// allBans are those that match, however many.
func allBans(ctx context.Context, a *asking, f proxy.BanFilter) ([]proxy.BanInfo, error) {
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	f.Limit = 0
	var all []proxy.BanInfo
	err = client.AllBans(ctx, f, func(b proxy.BanInfo) error {
		all = append(all, b)
		return nil
	})
	return all, err
}

func newBansShow(a *asking) *cobra.Command {
	return &cobra.Command{
		Use:               "show KEY",
		Short:             "Show one ban: what led to it, what it stopped, when it ends",
		Args:              oneArgument(whatKey),
		ValidArgsFunction: a.completesTyped(1, banKeys),
		RunE: func(c *cobra.Command, args []string) error {
			key, err := keyOf(args[0])
			if err != nil {
				return err
			}
			return shows(c, a, func(ctx context.Context, client *admin.Client) (proxy.BanInfo, error) {
				b, ok, err := client.Ban(ctx, key)
				if err == nil && !ok {
					err = notBanned(key)
				}
				return b, err
			}, func(out io.Writer, b proxy.BanInfo) { writeBan(out, b, time.Now()) })
		},
	}
}

func notBanned(key string) error {
	return fmt.Errorf("%s is not banned; sipward explain says what happens to it", visible(key))
}

// keyOf reads a key as people write it, which may be what a log line shows: with a
// port, or a URI.
func keyOf(text string) (string, error) {
	text = withoutScheme(text)
	if a, err := addressOf(text); err == nil {
		text = a.String()
	}
	key, err := proxy.BanKey(text)
	if err != nil {
		return "", usageError{fmt.Errorf("%q: %w", text, err)}
	}
	return key, nil
}

// addressOf reads an address as people write it, which may be what a log line
// shows: with a port, or in brackets.
func addressOf(text string) (netip.Addr, error) {
	if a, err := netip.ParseAddrPort(text); err == nil {
		return a.Addr(), nil
	}
	if inner, ok := strings.CutPrefix(text, "["); ok {
		text = strings.TrimSuffix(inner, "]")
	}
	return netip.ParseAddr(text)
}

// withoutScheme is the user@host of a URI, or the text as it is.
func withoutScheme(text string) string {
	uri := strings.TrimPrefix(text, "<")
	for _, scheme := range []string{"sip:", "sips:"} {
		rest, ok := strings.CutPrefix(uri, scheme)
		at := strings.LastIndexByte(rest, '@')
		if !ok || at < 0 {
			continue
		}
		user, host := rest[:at+1], rest[at+1:]
		if i := strings.IndexAny(host, ";?>"); i >= 0 {
			host = host[:i]
		}
		host, source, isBoth := strings.Cut(host, "/")
		if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
			host = host[:i]
		}
		if isBoth {
			host += "/" + source
		}
		return user + host
	}
	return text
}

// banKeys completes the key of a ban.
func banKeys(ctx context.Context, c *admin.Client, typed string) ([]string, error) {
	l, err := c.Bans(ctx, proxy.BanFilter{Key: typed, Limit: mostOffered})
	var names []string
	for _, b := range l.Bans {
		names = append(names, visible(b.Key)+"\t"+visible(b.Rule)+", ends "+in(b.Until, time.Now()))
	}
	return names, err
}

func newBansAdd(a *asking) *cobra.Command {
	var length, why string
	c := &cobra.Command{
		Use:   "add KEY",
		Short: "Ban an address or a user",
		Long: `Ban an address or a user, from now. What the edge trusts (its listeners, its backends, security.trusted) is refused.
A ban of a rule is replaced.`,
		Example: `  sipward bans add 192.0.2.1
  sipward bans add 2001:db8:1:2::/64 --for 24h --why "ticket 17"
  sipward bans add alice@example.org --for 600`,
		Args: oneArgument("an IP address, user@domain, or user@domain/address"),
		RunE: func(c *cobra.Command, args []string) error {
			n := proxy.NewBan{By: operator(), Why: why}
			var err error
			if n.Key, err = keyOf(args[0]); err != nil {
				return err
			}
			if a, err := addressOf(args[0]); err == nil { // it may be trusted where others of its /64 are not
				n.Key = a.WithZone("").String()
			}
			if n.For, err = lengthOf(length); err != nil {
				return err
			}
			return shows(c, a, func(ctx context.Context, client *admin.Client) (proxy.BanInfo, error) { return client.AddBan(ctx, n) },
				func(out io.Writer, b proxy.BanInfo) {
					fmt.Fprintf(out, "%s is banned for %s: %s\n", visible(b.Key), span(b.Until.Sub(b.Since)), stopped(b))
				})
		},
	}
	c.Flags().StringVar(&length, "for", "", "how `long`: 1h, 90m, or seconds (default: the time that the configuration has for its kind)")
	c.Flags().StringVar(&why, "why", "", "a `reason` to show with the ban")
	return c
}

// lengthOf reads --for, in seconds; empty is 0.
func lengthOf(text string) (float64, error) {
	if text == "" {
		return 0, nil
	}
	d, err := config.ParseDuration(text)
	if err != nil || d.D() < time.Second {
		return 0, usageError{fmt.Errorf("--for %s: want a time of at least one second, such as 1h, 90m or 3600", text)}
	}
	return d.D().Seconds(), nil
}

// operator is what whoever types calls himself.
func operator() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return cut(name, widestKey)
	}
	if u, err := user.Current(); err == nil && u.Username != "" {
		return cut(u.Username, widestKey)
	}
	return "operator"
}

func newBansDel(a *asking) *cobra.Command {
	return &cobra.Command{
		Use:     "del KEY…",
		Aliases: []string{"remove"},
		Short:   "Lift bans: the next message passes",
		Long: `Lift bans. What was counted of the address or the user is forgotten too, and the kernel lets it through again: its next
message passes.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("say which: " + whatKey)
			}
			return nil
		},
		ValidArgsFunction: a.completesTyped(-1, banKeys),
		RunE: func(c *cobra.Command, args []string) error {
			var keys []string
			for _, text := range args {
				key, err := keyOf(text)
				if err != nil {
					return err
				}
				keys = append(keys, key)
			}
			var failed []string
			err := shows(c, a, func(ctx context.Context, client *admin.Client) (admin.BanList, error) {
				l := admin.BanList{Bans: []proxy.BanInfo{}}
				for _, key := range keys {
					was, ok, err := client.RemoveBan(ctx, key)
					var refused *admin.StatusError
					switch {
					case err == nil && ok:
						l.Bans = append(l.Bans, was)
					case err == nil:
						failed = append(failed, notBanned(key).Error())
					case errors.As(err, &refused):
						failed = append(failed, err.Error())
					default:
						return l, err
					}
				}
				return l, nil
			}, func(out io.Writer, l admin.BanList) {
				for _, b := range l.Bans {
					fmt.Fprintf(out, "%s is no longer banned (%s, it stopped %s)\n", visible(b.Key), visible(b.Rule), count(int(b.Drops), "message"))
				}
			})
			if err == nil && len(failed) > 0 {
				err = errors.New(strings.Join(failed, "; "))
			}
			return err
		},
	}
}

func newBansFlush(a *asking) *cobra.Command {
	var isSure bool
	c := &cobra.Command{
		Use:   "flush",
		Short: "Lift all bans",
		Args:  none,
		RunE: func(c *cobra.Command, _ []string) error {
			if !isSure {
				switch yes, err := confirmed(c.InOrStdin(), c.ErrOrStderr(), "Lift all bans, of addresses and of users?"); {
				case err != nil:
					return usageError{err}
				case !yes:
					return errors.New("nothing was lifted")
				}
			}
			type answer struct {
				Lifted int `json:"lifted"`
			}
			return shows(c, a, func(ctx context.Context, client *admin.Client) (answer, error) {
				n, err := client.FlushBans(ctx)
				return answer{n}, err
			}, func(out io.Writer, x answer) { fmt.Fprintf(out, "%s lifted\n", count(x.Lifted, "ban")) })
		},
	}
	c.Flags().BoolVar(&isSure, "yes", false, "do not ask")
	return c
}

// confirmed asks who sits at the terminal. Without one it is an error.
func confirmed(in io.Reader, out io.Writer, question string) (bool, error) {
	nobody := errors.New("there is no terminal to ask at: --yes does it")
	if !isTerminal(in) {
		return false, nobody
	}
	fmt.Fprintf(out, "%s [y/N] ", question)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && line == "" { // such as /dev/null
		fmt.Fprintln(out)
		return false, nobody
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}

func newBansStats(a *asking) *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Show what the protections stopped since the start",
		Args:  none,
		RunE: func(c *cobra.Command, _ []string) error {
			return shows(c, a, func(ctx context.Context, client *admin.Client) (proxy.SecurityStats, error) {
				return client.SecurityStats(ctx)
			}, writeSecurity)
		},
	}
}

func writeBans(out io.Writer, l admin.BanList, now time.Time) {
	p := palette(out)
	rows := [][]string{{"KEY", "RULE", "STOPS", "BECAUSE", "SINCE", "ENDS", "DROPS", "LAST", "KERNEL", "BY"}}
	for _, b := range l.Bans {
		rows = append(rows, []string{
			cut(visible(b.Key), widestKey), visible(b.Rule), stops(b), cut(visible(because(b)), widestWhy), ago(b.Since, now), until(b.Until, now),
			strconv.FormatUint(b.Drops, 10), ago(b.LastDrop, now), dash(visible(b.Kernel)), dash(visible(b.By)),
		})
	}
	writeListing(out, p, "bans", rows, l.More, tint{2, p.ofBan})
}

// stops is what a ban stops, in a word.
func stops(b proxy.BanInfo) string {
	switch {
	case strings.Contains(b.Key, "@"):
		return "user"
	case b.Hard:
		return "all"
	default:
		return "new"
	}
}

// stopped is what a ban stops, in words.
func stopped(b proxy.BanInfo) string {
	switch stops(b) {
	case "user":
		return "requests of this user are refused, but never those within a call"
	case "all":
		return "all that comes from there is dropped"
	default:
		return "what is new from there is dropped, running calls go on"
	}
}

// left is how long a ban goes on.
func left(b proxy.BanInfo, now time.Time) string {
	switch text := until(b.Until, now); text {
	case "-":
		return "without an end"
	case "now":
		return "until now"
	default:
		return "for another " + text
	}
}

// ofBan is the colour of what a ban stops.
func (p colors) ofBan(stops string) string {
	if stops == "all" {
		return p.red
	}
	return p.yellow
}

// because says in few words what a ban was decided on.
func because(b proxy.BanInfo) string {
	switch {
	case b.Why != "":
		return b.Why
	case b.Count == 0:
		return "-"
	case b.Window == 0:
		return fmt.Sprintf("%d in a row", b.Count)
	default:
		return fmt.Sprintf("%d in %s, limit %d", b.Count, seconds(b.Window), b.Limit)
	}
}

// writeBan shows all of a ban.
func writeBan(out io.Writer, b proxy.BanInfo, now time.Time) {
	p := palette(out)
	fmt.Fprintln(out, paint(visible(b.Key)+" is banned "+left(b, now), p.ofBan(stops(b))))
	fmt.Fprintf(out, "%s\n\n", stopped(b))
	proven := "no: these messages may be forged by somebody else"
	switch {
	case b.Proven:
		proven = "yes: it receives what is sent to it"
	case b.Count == 0: // nothing was counted against it
		proven = ""
	}
	drops := count(int(b.Drops), "message")
	if !b.LastDrop.IsZero() {
		drops += ", the last " + ago(b.LastDrop, now)
	}
	kernel := ""
	switch b.Kernel {
	case "":
	case "filter":
		kernel = "drops it at our UDP sockets (filter)"
	default:
		kernel = "drops it before our sockets (" + b.Kernel + ")"
	}
	rows := [][2]string{{"rule", b.Rule}, {"because", because(b)}}
	if !b.First.IsZero() {
		rows = append(rows, [2]string{"counted", "from " + moment(b.First, now) + ", to " + clock(b.Last, now)})
	}
	rows = append(rows, [][2]string{
		{"banned", moment(b.Since, now)}, {"ends", strings.TrimSuffix(clock(b.Until, now)+", "+in(b.Until, now), ", -")}, {"by", b.By},
		{"proven", proven}, {"stopped so far", drops}, {"kernel", kernel},
	}...)
	writePairs(out, p, rows)
	if len(b.Evidence) == 0 {
		return
	}
	fmt.Fprintln(out)
	evidence := [][]string{{"MESSAGE", "AT", "ANSWER", "CALL-ID"}}
	for _, e := range b.Evidence {
		answer := "-"
		if e.Status != 0 {
			answer = strconv.Itoa(e.Status)
		}
		method := "no SIP"
		if e.Method != "" {
			method = visible(e.Method)
		}
		evidence = append(evidence, []string{method, clock(e.At, now), answer, dash(cut(visible(e.CallID), widestCallID))})
	}
	writeTable(out, p, evidence)
}

// writeHashTable prints bans as Kamailio's sht_dump prints its tables: of addresses
// as the table ipban has them, of users as the table auth. A slot holds one key.
func writeHashTable(out io.Writer, all []proxy.BanInfo) {
	slot := 0
	entry := func(name string, value int64) {
		fmt.Fprintf(out, "Entry:: %d\n\t%s:: %d\n", slot, visible(name), value)
		slot++
	}
	for _, b := range all {
		if stops(b) != "user" {
			entry(b.Key, 1)
		}
	}
	slot = 0
	for _, b := range all {
		if stops(b) != "user" {
			continue
		}
		last := b.Last
		if last.IsZero() {
			last = b.Since
		}
		entry(b.Key+"::auth_count", int64(max(b.Count, 1))) // an operator counts nothing
		entry(b.Key+"::last_auth", last.Unix())
	}
}

// writeSecurity shows what the protections did.
func writeSecurity(out io.Writer, s proxy.SecurityStats) {
	p := palette(out)
	if s.Suspended != "" {
		fmt.Fprintf(out, "%s\n\n", paint("bans of addresses are suspended: "+visible(s.Suspended), p.yellow))
	}
	writePairs(out, p, [][2]string{
		{"bans now", fmt.Sprintf("%d of addresses, %d of users", s.Bans, s.UserBans)},
		{"counted now", count(s.Tracked, "source")},
		{"kernel", s.Kernel},
	})
	rows := [][]string{{"RULE", "MODE", "STOPPED"}}
	for _, rule := range slices.Sorted(maps.Keys(s.Modes)) {
		rows = append(rows, []string{visible(rule), visible(s.Modes[rule]), strconv.FormatUint(s.Dropped[rule], 10)})
	}
	for _, rule := range slices.Sorted(maps.Keys(s.Dropped)) {
		if _, ok := s.Modes[rule]; !ok {
			rows = append(rows, []string{visible(rule), "-", strconv.FormatUint(s.Dropped[rule], 10)})
		}
	}
	if len(rows) > 1 {
		fmt.Fprintln(out)
		writeTable(out, p, rows, tint{1, p.ofMode})
	}
	if len(s.Patterns) == 0 {
		return
	}
	fmt.Fprintln(out)
	patterns := [][]string{{"SCANNER", "MESSAGES"}}
	for _, x := range s.Patterns {
		patterns = append(patterns, []string{visible(x.Pattern), strconv.FormatUint(x.Hits, 10)})
	}
	writeTable(out, p, patterns)
}

// ofMode is the colour of a rule's mode.
func (p colors) ofMode(mode string) string {
	switch mode {
	case "enforce":
		return p.green
	case "observe":
		return p.yellow
	default:
		return ""
	}
}
