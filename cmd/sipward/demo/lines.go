package demo

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
)

// maxLines bounds what is kept of the log; with --stay the demo may run for long. Older lines are forgotten.
const maxLines = 20000

// lines is the log of the edge as it would stand in a file, for grep. It is the writer that the log writes to.
type lines struct {
	mu      sync.Mutex // guards what follows
	all     []string
	gone    int           // lines forgotten before all[0]
	changed chan struct{} // closed and replaced with every write
	also    io.Writer     // gets every line too; may be nil
}

func newLines() *lines { return &lines{changed: make(chan struct{})} }

// Write takes whole lines.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(string(b)) {
		l.all = append(l.all, strings.TrimRight(line, "\n"))
		if l.also != nil {
			fmt.Fprint(l.also, line)
		}
	}
	if over := len(l.all) - maxLines; over > maxLines {
		l.all = append([]string(nil), l.all[over:]...)
		l.gone += over
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return len(b), nil
}

// follow copies lines from now on to out; nil ends it.
func (l *lines) follow(out io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.also = out
}

// mark is the place after the last line.
func (l *lines) mark() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gone + len(l.all)
}

// grep returns the lines that contain text.
func (l *lines) grep(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for _, line := range l.all {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// wait returns the first line since mark that contains text.
func (l *lines) wait(ctx context.Context, mark int, text string) (string, error) {
	for {
		l.mu.Lock()
		for _, line := range l.all[min(max(0, mark-l.gone), len(l.all)):] {
			if strings.Contains(line, text) {
				l.mu.Unlock()
				return line, nil
			}
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("the log never said %q: %w", text, ctx.Err())
		}
	}
}

// tried reads from the log which nodes an INVITE was sent to, in order.
func (l *lines) tried(callID string) []string {
	var nodes []string
	for _, line := range l.grep(" ID=" + callID) {
		_, rest, ok := strings.Cut(line, "Relaying request - M=INVITE ")
		if !ok {
			continue
		}
		if _, to, ok := strings.Cut(rest, " D="); ok {
			name, _, _ := strings.Cut(to, ":")
			nodes = append(nodes, name)
		}
	}
	return nodes
}
