package test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sipward/sipward/config"
)

const configuration = "docs/configuration.md"

const configurationHead = `# Configuration

Every key of the file, made from the code by ` + "`go test ./test -update`" + `. ` + "`<name>`" + ` stands for the name of a pool, ` + "`[]`" + ` for
an element of a list. Times are seconds (` + "`0.5`" + `) or have a unit (` + "`500ms`, `2h`" + `). The environment variable of a key is
` + "`SIPWARD_`" + ` and its path in capitals, two underscores between levels: ` + "`SIPWARD_LIMITS__MAX_MESSAGE`" + `.

A reload (SIGHUP) takes changes over, but for keys marked *restart*. Keys marked *no effect yet* are accepted for what is
to come.
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
	if k.Later {
		text += " *no effect yet*"
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
