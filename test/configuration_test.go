package test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/timers"
)

const configuration = "docs/configuration.md"

const configurationHead = `# Configuration

Every key of the file, made from the code by ` + "`go test ./test -update`" + `. ` + "`<name>`" + ` stands for the name of a pool, ` + "`[]`" + ` for
an element of a list. Times are seconds (` + "`0.5`" + `) or have a unit (` + "`500ms`, `2h`" + `). The environment variable of a key is
` + "`SIPWARD_`" + ` and its path in capitals, two underscores between levels: ` + "`SIPWARD_LIMITS__MAX_MESSAGE`" + `.

A reload (SIGHUP) takes changes over, but for keys marked *restart*. A call keeps the ` + "`timers`" + ` of its INVITE: a reload
touches only later INVITEs.
`

// TestConfigurationIsDocumented: docs/configuration.md has every key, as the code has it.
func TestConfigurationIsDocumented(t *testing.T) {
	var b strings.Builder
	b.WriteString(configurationHead)
	section := "\x00"
	for _, k := range config.Keys() {
		if s := sectionOf(k); s != section {
			section = s
			title := s
			if s == "" {
				title = "Top level"
			}
			fmt.Fprintf(&b, "\n## %s\n\n| key | type | default | meaning |\n|---|---|---|---|\n", cell(title))
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.Path, k.Type, defaultOf(k), cell(meaning(k)))
	}
	if *update {
		if err := os.WriteFile(path(t, configuration), []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	same(t, configuration, read(t, configuration), b.String())
}

// TestProbesGoOutWhenTheConfigurationSays: what start and check show is what timers does.
func TestProbesGoOutWhenTheConfigurationSays(t *testing.T) {
	for _, c := range []struct{ ttl, segments, early, t1 float64 }{
		{600, 2, 0, 0.5}, {600, 1, 0, 0.5}, {600, 3, 160, 0.5}, {90, 2, 5, 0.5}, {90, 1, 0, 0.5}, {90, 1, 0, 1}, {0, 2, 0, 0.5},
		{86400, 20, 0, 0.1}, {12, 2, 3, 0.1}, {1.5, 3, 1, 0.01}, {0.5, 2, 0.25, 0.05},
	} {
		seconds := func(f float64) config.Duration { return config.Duration(f * float64(time.Second)) }
		section := config.Timers{
			SessionTTL: seconds(c.ttl), SessionUpdateSegment: int(c.segments), SessionTimeoutEarlyHangup: seconds(c.early),
		}
		p := timers.Policy{
			TTL: section.SessionTTL.D(), Segments: section.SessionUpdateSegment, EarlyHangup: section.SessionTimeoutEarlyHangup.D(), T1: seconds(c.t1).D(),
		}
		if got, want := section.ProbeInterval(seconds(c.t1)).D(), p.Interval(); got != want {
			t.Errorf("%+v: shown %v, done %v", c, got, want)
		}
	}
}

// sectionOf is the first level of a key with several, or of a list of sections, or empty.
func sectionOf(k config.Key) string {
	section, _, found := strings.Cut(k.Path, ".")
	if !found && k.Type != "list" {
		return ""
	}
	return strings.TrimSuffix(section, "[]")
}

func meaning(k config.Key) string {
	text := k.Doc
	if k.Bounds != "" {
		text += " [" + k.Bounds + "]"
	}
	if k.Restart {
		text += " *restart*"
	}
	return text
}

// defaultOf shows a default as the file would have it; empty texts and lists show as –.
func defaultOf(k config.Key) string {
	if k.Default == "" || k.Default == `""` || k.Default == "[]" {
		return "–"
	}
	switch k.Type {
	case "time":
		return "`" + k.Default + "` s"
	case "bytes":
		return "`" + k.Default + "` bytes"
	default:
		return "`" + k.Default + "`"
	}
}

// cell escapes what Markdown would take for something else in a table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", `\<`).Replace(s)
}
