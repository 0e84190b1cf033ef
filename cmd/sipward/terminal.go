package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// colors are the escape sequences that are put around a text. All are empty unless the output is a terminal.
type colors struct{ red, yellow, green, dim, bold string }

// palette returns the colours for an output: none for files and pipes, none where NO_COLOR is set (no-color.org).
func palette(out io.Writer) colors {
	if os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" || !isTerminal(out) {
		return colors{}
	}
	return colors{red: "\x1b[31m", yellow: "\x1b[33m", green: "\x1b[32m", dim: "\x1b[2m", bold: "\x1b[1m"}
}

// isTerminal tells an input or output that somebody sits at from files and pipes. /dev/null counts as one.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func paint(text, color string) string {
	if color == "" {
		return text
	}
	return color + text + "\x1b[0m"
}

// paintLines paints each line by itself, so that a pager shows each right.
func paintLines(text, color string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = paint(lines[i], color)
	}
	return strings.Join(lines, "\n")
}

// A tint colours the cells of one column by what they say.
type tint struct {
	column int
	color  func(cell string) string
}

// writeTable writes rows in aligned columns, the first row being the head.
func writeTable(out io.Writer, p colors, rows [][]string, tints ...tint) {
	var wide []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(wide) {
				wide = append(wide, 0)
			}
			wide[i] = max(wide[i], utf8.RuneCountInString(cell))
		}
	}
	for n, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			text := fmt.Sprintf("%-*s", wide[i], cell)
			for _, t := range tints {
				if t.column == i && n > 0 {
					text = paint(text, t.color(cell))
				}
			}
			line.WriteString(text)
			line.WriteString("  ")
		}
		text := strings.TrimRight(line.String(), " ")
		if n == 0 {
			text = paint(text, p.dim)
		}
		fmt.Fprintln(out, text)
	}
}

// writeLines writes the lines of a text that may be from the network; none of an empty one.
func writeLines(out io.Writer, text string) {
	if text == "" {
		return
	}
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintln(out, visible(line))
	}
}

// writePairs writes names and what they stand for. The latter may be from the network; what is empty has a dash.
func writePairs(out io.Writer, p colors, rows [][2]string) {
	wide := 0
	for _, row := range rows {
		wide = max(wide, utf8.RuneCountInString(row[0]))
	}
	for _, row := range rows {
		fmt.Fprintf(out, "%s  %s\n", paint(fmt.Sprintf("%-*s", wide, row[0]), p.dim), dash(visible(row[1])))
	}
}

// visible makes a text from the network safe to show: whatever moves a cursor, hides, or reverses the order of what is
// read becomes \x1b, \u202e and the like, and so does a backslash, to tell the two apart.
func visible(s string) string {
	if !strings.ContainsFunc(s, isHidden) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\\':
			b.WriteString(`\\`)
		case !isHidden(r):
			b.WriteRune(r)
		case r < utf8.RuneSelf: // \x80 and above are bytes that are no UTF-8
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String()
}

// isHidden: controls, format characters (of direction, of width zero), private use and spaces but the plain one.
func isHidden(r rune) bool { return r == '\\' || !unicode.IsPrint(r) }

// cut shortens a text to so many characters.
func cut(s string, most int) string {
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-1]) + "…"
}

// writeJSON writes one value for machines, and for terminals too: what JSON lets through and a terminal obeys, such as
// U+009B, is written as \u009b.
func writeJSON(out io.Writer, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	var safe strings.Builder
	for _, r := range b.String() { // all that is not ASCII stands within strings
		switch {
		case r < 0x7f || unicode.IsPrint(r):
			safe.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&safe, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&safe, `\u%04x\u%04x`, high, low)
		}
	}
	_, err := io.WriteString(out, safe.String())
	return err
}
