package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// colors are the escape sequences that are put around a text. All are empty unless the output is a terminal.
type colors struct{ red, yellow, green, dim, bold string }

// palette returns the colours for an output: none for files and pipes, none where NO_COLOR is set (no-color.org).
func palette(out io.Writer) colors {
	f, ok := out.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return colors{}
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return colors{}
	}
	return colors{red: "\x1b[31m", yellow: "\x1b[33m", green: "\x1b[32m", dim: "\x1b[2m", bold: "\x1b[1m"}
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

// writeTable writes rows in aligned columns, the first row being the head.
func writeTable(out io.Writer, p colors, rows [][]string) {
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
			fmt.Fprintf(&line, "%-*s  ", wide[i], cell)
		}
		text := strings.TrimRight(line.String(), " ")
		if n == 0 {
			text = paint(text, p.dim)
		}
		fmt.Fprintln(out, text)
	}
}

// writeJSON writes one value for machines.
func writeJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
