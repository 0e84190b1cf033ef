package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
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
	mostImported  = 1_000_000 // bans of one file
	longestLine   = 4096      // bytes of a list
	mostMistakes  = 5         // that are told of one file
	elementsALine = 100       // of an nft set
	progressAfter = time.Second
	// mostIPSetTime is what ipset takes, in seconds.
	mostIPSetTime = 2147483
)

// An exportFormat writes bans for something that reads them.
type exportFormat struct {
	name      string
	withUsers bool
	write     func(out io.Writer, all []proxy.BanInfo, now time.Time) error
}

var exportFormats = []exportFormat{
	{"json", true, writeExport},
	{"nft", false, writeNFT},
	{"ipset", false, writeIPSet},
	{"plain", false, writePlain},
}

func formatNames() []string {
	var names []string
	for _, f := range exportFormats {
		names = append(names, f.name)
	}
	return names
}

func newBansExport(a *asking) *cobra.Command {
	var f proxy.BanFilter
	var name, file string
	c := &cobra.Command{
		Use:   "export",
		Short: "Write all bans for another edge or for a firewall",
		Long: `Write all bans. json has all that is known of them and is what "sipward bans import" reads. The others have addresses only:
nft is a script for "nft -f" with two sets and no rule, ipset is for "ipset restore", plain has one address a line.

A firewall that drops these addresses drops them for all ports, and in running calls too.`,
		Example: `  sipward bans export -o bans.json
  sipward bans export --format nft | sudo nft -f -
  sipward bans export --format plain --rule dos`,
		Args: none,
		RunE: func(c *cobra.Command, _ []string) error {
			i := slices.IndexFunc(exportFormats, func(x exportFormat) bool { return x.name == name })
			if i < 0 {
				return usageError{fmt.Errorf("--format %s: %s", name, strings.Join(formatNames(), ", "))}
			}
			format := exportFormats[i]
			if a.asJSON && format.name != "json" {
				return usageError{fmt.Errorf("--json and --format %s exclude each other", name)}
			}
			if err := checkBanFilter(f); err != nil {
				return err
			}
			all, err := allBans(c.Context(), a, f)
			if err != nil {
				return err
			}
			if !format.withUsers {
				n := len(all)
				all = slices.DeleteFunc(all, func(b proxy.BanInfo) bool { return stops(b) == "user" })
				if n -= len(all); n > 0 && f.Kind != "ip" {
					fmt.Fprintf(c.ErrOrStderr(), "%s left out: only --format json can have them\n", count(n, "ban")+" of users")
				}
			}
			write := func(out io.Writer) error { return format.write(out, all, time.Now()) }
			if file == "" || file == "-" {
				return write(c.OutOrStdout())
			}
			return replaceFile(file, write)
		},
	}
	c.Flags().StringVar(&name, "format", "json", "`one` of json, nft, ipset, plain")
	c.Flags().StringVarP(&file, "output", "o", "", "write to this `file`, which is replaced when all is written")
	banFilterFlags(c, &f)
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(formatNames(), cobra.ShellCompDirectiveNoFileComp)) // only fails for a flag that does not exist
	_ = c.MarkFlagFilename("output")
	return c
}

// replaceFile writes a file that is there as a whole or not at all.
func replaceFile(name string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	b := bufio.NewWriter(f)
	if err := errors.Join(write(b), b.Flush(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

func writeExport(out io.Writer, all []proxy.BanInfo, _ time.Time) error {
	if all == nil {
		all = []proxy.BanInfo{}
	}
	return writeJSON(out, admin.BanList{Bans: all})
}

func writePlain(out io.Writer, all []proxy.BanInfo, _ time.Time) error {
	for _, b := range all {
		if _, err := fmt.Fprintln(out, visible(b.Key)); err != nil {
			return err
		}
	}
	return nil
}

// An element is a banned network and the seconds that are left.
type element struct {
	key  string // without the length of a single address
	left int64
}

// elements are the banned addresses of each family. What is no address has no
// place in a script that root will run.
func elements(all []proxy.BanInfo, now time.Time) (v4, v6 []element) {
	for _, b := range all {
		x := element{left: max(1, int64(b.Until.Sub(now)/time.Second))}
		if a, err := netip.ParseAddr(b.Key); err == nil && a.Is4() {
			x.key = a.String()
			v4 = append(v4, x)
		} else if p, err := netip.ParsePrefix(b.Key); err == nil && p.Addr().Is6() {
			x.key = p.Masked().String()
			v6 = append(v6, x)
		}
	}
	return v4, v6
}

func writeNFT(out io.Writer, all []proxy.BanInfo, now time.Time) error {
	b := bufio.NewWriter(out)
	v4, v6 := elements(all, now)
	fmt.Fprintf(b, `# %s of sipward, %s. Sets only; a rule to use them is, for example:
#   nft add chain inet sipward_export input '{ type filter hook input priority -10; }'
#   nft add rule inet sipward_export input ip saddr @banned4 drop
#   nft add rule inet sipward_export input ip6 saddr @banned6 drop
add table inet sipward_export
add set inet sipward_export banned4 { type ipv4_addr; flags timeout; }
add set inet sipward_export banned6 { type ipv6_addr; flags interval, timeout; }
flush set inet sipward_export banned4
flush set inet sipward_export banned6
`, count(len(v4)+len(v6), "ban"), now.UTC().Format(time.RFC3339))
	for _, set := range []struct {
		name string
		all  []element
	}{{"banned4", v4}, {"banned6", v6}} {
		for part := range slices.Chunk(set.all, elementsALine) {
			var texts []string
			for _, x := range part {
				texts = append(texts, fmt.Sprintf("%s timeout %ds", x.key, x.left))
			}
			fmt.Fprintf(b, "add element inet sipward_export %s { %s }\n", set.name, strings.Join(texts, ", "))
		}
	}
	return b.Flush()
}

func writeIPSet(out io.Writer, all []proxy.BanInfo, now time.Time) error {
	b := bufio.NewWriter(out)
	v4, v6 := elements(all, now)
	for _, set := range []struct {
		name, kind string
		all        []element
	}{{"sipward4", "hash:ip family inet", v4}, {"sipward6", "hash:net family inet6", v6}} {
		fmt.Fprintf(b, "create %s %s timeout 3600 maxelem %d -exist\nflush %s\n", set.name, set.kind, max(65536, 2*len(set.all)), set.name)
		for _, x := range set.all {
			fmt.Fprintf(b, "add %s %s timeout %d -exist\n", set.name, x.key, min(x.left, mostIPSetTime))
		}
	}
	return b.Flush()
}

func newBansImport(a *asking) *cobra.Command {
	var length, why string
	c := &cobra.Command{
		Use:   "import [FILE]",
		Short: "Take over the bans of an export or of a list of addresses",
		Long: `Take over bans from a file, or from standard input: what "sipward bans export" wrote, or a list with one address, /64 or user
a line; what follows a # is a comment. A file with a mistake is refused as a whole. What is over, trusted or banned
already is skipped.

--for and --why are for lists; bans of an export keep their own.`,
		Example: `  sipward bans import bans.json
  ssh other-edge sipward bans export | sipward bans import
  sipward bans import blocklist.txt --for 24h`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("unexpected %q: one file at a time", args[1])
			}
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(c *cobra.Command, args []string) error {
			now := time.Now()
			plain := proxy.BanInfo{Rule: "operator", Since: now, Hard: true, By: operator(), Why: why}
			seconds, err := lengthOf(length)
			if err != nil {
				return err
			}
			if seconds > 0 {
				plain.Until = now.Add(time.Duration(seconds * float64(time.Second)))
			}
			in, name := c.InOrStdin(), "standard input"
			if len(args) == 1 && args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return configError{err}
				}
				defer func() { _ = f.Close() }() // it was only read
				in, name = f, args[0]
			}
			if plain.Why == "" {
				plain.Why = "imported from " + cut(name, widestWhy)
			}
			all, err := readImport(in, name, plain)
			if err != nil {
				return err
			}
			return shows(c, a, func(ctx context.Context, client *admin.Client) (admin.Imported, error) {
				return client.ImportBans(ctx, all, progress(c.ErrOrStderr(), len(all)))
			}, func(out io.Writer, x admin.Imported) {
				fmt.Fprintf(out, "%s added, %d skipped\n", count(x.Added, "ban"), x.Skipped)
			})
		},
	}
	c.Flags().StringVar(&length, "for", "", "how `long` the bans of a list are: 1h, 90m, or seconds (default: the time that the configuration has)")
	c.Flags().StringVar(&why, "why", "", "a `reason` to show with the bans of a list (default: the file's name)")
	return c
}

// progress tells how an import goes on, at a terminal and when it takes a while.
func progress(out io.Writer, total int) func(sent int) {
	if !isTerminal(out) {
		return nil
	}
	return progressSince(out, total, time.Now())
}

func progressSince(out io.Writer, total int, began time.Time) func(sent int) {
	told := false
	return func(sent int) {
		if time.Since(began) < progressAfter && !told {
			return
		}
		told = true
		fmt.Fprintf(out, "\r%d of %s", sent, count(total, "ban"))
		if sent == total {
			fmt.Fprintln(out)
		}
	}
}

// readImport reads an export or a list, whichever it is. The bans of a list are
// plain but for their keys.
func readImport(in io.Reader, name string, plain proxy.BanInfo) ([]proxy.BanInfo, error) {
	b := bufio.NewReaderSize(in, longestLine)
	isJSON, err := beginsJSON(b)
	if err != nil {
		return nil, configError{fmt.Errorf("%s: %w", name, err)}
	}
	var all []proxy.BanInfo
	var mistakes []string
	bad := 0
	take := func(where string, x proxy.BanInfo) error {
		key, err := proxy.BanKey(x.Key)
		if err != nil {
			if bad++; bad <= mostMistakes {
				mistakes = append(mistakes, fmt.Sprintf("%s:%s: %q: %v", name, where, x.Key, err))
			}
			return nil
		}
		if len(all) == mostImported {
			return fmt.Errorf("more than %d bans", mostImported)
		}
		x.Key = key
		all = append(all, x)
		return nil
	}
	if isJSON {
		n := 0
		err = admin.ReadBans(b, func(x proxy.BanInfo) error {
			n++
			return take(" ban "+strconv.Itoa(n), x)
		})
	} else {
		err = readList(b, plain, take)
	}
	if err != nil {
		return nil, configError{fmt.Errorf("%s: %w", name, err)}
	}
	if bad > mostMistakes {
		mistakes = append(mistakes, fmt.Sprintf("%s: and %d more", name, bad-mostMistakes))
	}
	if bad > 0 {
		return nil, configError{errors.New(strings.Join(append(mistakes, "nothing was imported"), "\n"))}
	}
	return all, nil
}

// beginsJSON tells an export from a list, in which a line may begin with [2001:db8::1].
func beginsJSON(b *bufio.Reader) (bool, error) {
	for i := 1; ; i++ {
		head, err := b.Peek(i)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if len(head) < i {
			return false, nil
		}
		switch head[i-1] {
		case ' ', '\t', '\r', '\n':
			continue
		case '{':
			return true, nil
		case '[':
			more, _ := b.Peek(i + 1) // what is wrong is found when it is read
			return len(more) <= i || !strings.ContainsRune("0123456789abcdefABCDEF:", rune(more[i])), nil
		default:
			return false, nil
		}
	}
}

// readList reads one key a line.
func readList(in io.Reader, plain proxy.BanInfo, take func(where string, x proxy.BanInfo) error) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, longestLine)
	n := 0
	for lines.Scan() {
		n++
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		x := plain
		x.Key = text
		if err := take(strconv.Itoa(n), x); err != nil {
			return err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("line %d has more than %d bytes: neither an export nor a list of addresses", n+1, longestLine)
	}
	return lines.Err()
}
