package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// maxProblems bounds a report: a file that is not meant for sipward at all should not scroll everything away.
const maxProblems = 100

// Problem is one thing that is wrong, or (Warning) worth knowing, about a configuration.
type Problem struct {
	Source  string // the file's name, "environment SIPWARD_X", "--set x" or "configuration"
	Line    int    // 1-based, 0 where the source has no lines
	Col     int    // 1-based, in bytes
	Key     string // path of the key, for example pools.pbx.backends[1].address
	Text    string
	Warning bool

	layer layer
}

// String returns the problem as compilers write theirs: file:line:col: key: text.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.position())
	if p.Key != "" {
		b.WriteString(": ")
		b.WriteString(p.Key)
	}
	b.WriteString(": ")
	if p.Warning {
		b.WriteString("warning: ")
	}
	b.WriteString(p.Text)
	return b.String()
}

func (p Problem) position() string {
	if p.Line == 0 {
		return p.Source
	}
	return fmt.Sprintf("%s:%d:%d", p.Source, p.Line, p.Col)
}

// MarshalJSON writes what `check --json` shows.
func (p Problem) MarshalJSON() ([]byte, error) {
	severity := "error"
	if p.Warning {
		severity = "warning"
	}
	return json.Marshal(struct {
		Severity string `json:"severity"`
		Source   string `json:"source"`
		Line     int    `json:"line,omitempty"`
		Col      int    `json:"col,omitempty"`
		Key      string `json:"key,omitempty"`
		Text     string `json:"text"`
	}{severity, p.Source, p.Line, p.Col, p.Key, p.Text})
}

// Problems is a report in the order of the file, then of the environment and the command line. As an error it holds
// only what makes a configuration unusable.
type Problems []Problem

// Error returns one problem a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// split sorts the report and parts errors from warnings.
func (p Problems) split() (errors, warnings Problems) {
	slices.SortStableFunc(p, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(a.layer, b.layer),
			cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col),
			strings.Compare(a.Source, b.Source), strings.Compare(a.Key, b.Key))
	})
	for _, one := range p {
		switch {
		case one.Warning && len(warnings) < maxProblems:
			warnings = append(warnings, one)
		case !one.Warning && len(errors) < maxProblems:
			errors = append(errors, one)
		}
	}
	return errors, warnings
}

// quote shows a value of the configuration inside a message: escaped, and cut so that a paste into the wrong place
// does not fill the screen.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}

// didYouMean returns a hint that names the known word nearest to the given one, or nothing when none is near.
func didYouMean(word string, known []string) string {
	if best := nearest(word, known); best != "" {
		return fmt.Sprintf(" (did you mean %q?)", best)
	}
	return ""
}

func nearest(word string, known []string) string {
	best, distance := "", len(word)/3+2
	for _, k := range known {
		if d := editDistance(strings.ToLower(word), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	return best
}

// editDistance counts the insertions, deletions, replacements and swaps of neighbours between two words. Words longer
// than 64 bytes are never near to a key.
func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	var before, last, row [65]int
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
