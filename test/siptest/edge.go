package siptest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// TB is what Edge needs of a *testing.T or *testing.B.
type TB interface {
	Helper()
	Cleanup(func())
	TempDir() string
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// startTime is how long sipward may take until it says ready, stopTime until it has gone
// after SIGTERM.
const (
	startTime = 60 * time.Second
	stopTime  = 60 * time.Second
)

var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// Binary builds sipward once per process (with the race detector when the caller is built
// with it) and returns its path. SIPTEST_BINARY names one that is built already.
func Binary() (string, error) {
	built.once.Do(func() {
		if built.path = os.Getenv("SIPTEST_BINARY"); built.path != "" {
			return
		}
		root, err := ModuleRoot()
		if err != nil {
			built.err = err
			return
		}
		if built.dir, built.err = os.MkdirTemp("", "sipward-test-"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "sipward")
		args := []string{"build", "-o", built.path}
		if Race {
			args = append(args, "-race")
		}
		cmd := exec.Command("go", append(args, "./cmd/sipward")...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build ./cmd/sipward: %w\n%s", err, out)
		}
	})
	return built.path, built.err
}

// RemoveBinary deletes what Binary built; for TestMain.
func RemoveBinary() {
	if built.dir != "" {
		_ = os.RemoveAll(built.dir) // a leftover in the temporary directory harms nobody
	}
}

// ModuleRoot finds the directory with go.mod above the working directory.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = parent
	}
}

// Edge is a running sipward process.
type Edge struct {
	tb   TB
	dir  string
	file string
	cmd  *exec.Cmd

	exited chan struct{} // closed when the process is gone and its output read
	code   int           // its exit code, valid then

	mu      sync.Mutex // guards what follows
	lines   []string
	changed chan struct{} // closed and replaced with every line
}

// StartEdge writes the YAML text into a directory of its own, starts `sipward run` with it and
// returns when the line "ready" has come. The test's end stops it, unless it is gone by then.
func StartEdge(tb TB, yaml string) *Edge {
	tb.Helper()
	dir := tb.TempDir()
	e := &Edge{tb: tb, dir: dir, file: filepath.Join(dir, "sipward.yaml"), changed: make(chan struct{})}
	e.Write(yaml)
	e.start("run", "-c", e.file)
	return e
}

// StartProxy starts `sipward proxy` with the given arguments.
func StartProxy(tb TB, args ...string) *Edge {
	tb.Helper()
	e := &Edge{tb: tb, dir: tb.TempDir(), changed: make(chan struct{})}
	e.start(append([]string{"proxy"}, args...)...)
	return e
}

func (e *Edge) start(args ...string) {
	e.tb.Helper()
	binary, err := Binary()
	if err != nil {
		e.tb.Fatalf("%v", err)
	}
	e.cmd = exec.Command(binary, args...)
	e.cmd.Dir = e.dir
	e.cmd.Env = append(environment(), "XDG_RUNTIME_DIR="+e.dir, adminSocket, raceDetector)
	out, in, err := os.Pipe()
	if err != nil {
		e.tb.Fatalf("pipe: %v", err)
	}
	e.cmd.Stdout, e.cmd.Stderr = in, in
	if err := e.cmd.Start(); err != nil {
		e.tb.Fatalf("start sipward: %v", errors.Join(err, in.Close(), out.Close()))
	}
	_ = in.Close() // the child has its own
	e.exited = make(chan struct{})
	go e.watch(out)
	e.tb.Cleanup(e.cleanup)

	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	if _, err := e.WaitLine(ctx, 0, isReady); err != nil {
		e.tb.Fatalf("sipward did not become ready: %v\n%s", err, e.Output())
	}
}

// adminSocket keeps edges of tests apart from each other, and from one that runs on this host. It is relative to the
// directory of the edge: an absolute path can be too long for a socket.
const adminSocket = "SIPWARD_ADMIN__SOCKET=./admin.sock"

// raceDetector makes a race no reason to stop, but a bad end, and that end come soon: a process waits a second there
// otherwise.
const raceDetector = "GORACE=halt_on_error=0 exitcode=66 atexit_sleep_ms=50"

// environment is ours without what would configure the edge.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "SIPWARD_") })
}

func isReady(line string) bool {
	line = strings.TrimSpace(line)
	return line == "ready" || strings.HasSuffix(line, ": ready") || strings.HasSuffix(line, " ready") || strings.Contains(line, `"ready"`)
}

// watch reads the output to its end and the exit code after it.
func (e *Edge) watch(out *os.File) {
	defer close(e.exited)
	in := bufio.NewReaderSize(out, 1<<16)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			e.mu.Lock()
			e.lines = append(e.lines, strings.TrimRight(line, "\n"))
			close(e.changed)
			e.changed = make(chan struct{})
			e.mu.Unlock()
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				e.mu.Lock()
				e.lines = append(e.lines, "reading its output: "+err.Error())
				e.mu.Unlock()
			}
			break
		}
	}
	_ = out.Close() // only read from
	_ = e.cmd.Wait()
	e.code = e.cmd.ProcessState.ExitCode()
}

// cleanup stops the process, and shows its output when the test has failed or it reported a race or panic.
func (e *Edge) cleanup() {
	if !e.Gone() {
		_ = e.cmd.Process.Signal(syscall.SIGTERM) // it may be gone by now
		// A second signal ends it at once: open transactions of a finished test are not worth
		// waiting for. Another one than the first, because two of a kind may merge into one.
		_ = e.cmd.Process.Signal(syscall.SIGINT)
		select {
		case <-e.exited:
		case <-time.After(stopTime):
			e.tb.Errorf("sipward did not stop")
			_ = e.cmd.Process.Kill()
			<-e.exited
		}
	}
	for _, line := range e.Lines() {
		if strings.Contains(line, "DATA RACE") || strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") {
			e.tb.Errorf("sipward: %s", line)
			break
		}
	}
	if e.tb.Failed() {
		e.tb.Logf("output of sipward:\n%s", e.Output())
	}
}

// Write replaces the configuration file.
func (e *Edge) Write(yaml string) {
	e.tb.Helper()
	// Renamed into place, as an editor does it.
	if err := os.WriteFile(e.file+".new", []byte(yaml), 0o600); err != nil {
		e.tb.Fatalf("%v", err)
	}
	if err := os.Rename(e.file+".new", e.file); err != nil {
		e.tb.Fatalf("%v", err)
	}
}

// Reload sends SIGHUP and waits for the line that says what became of it; it returns that line.
func (e *Edge) Reload() string {
	e.tb.Helper()
	from := len(e.Lines())
	if err := e.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		e.tb.Fatalf("SIGHUP: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	line, err := e.WaitLine(ctx, from, func(l string) bool {
		return strings.Contains(l, "configuration reloaded") || strings.Contains(l, "reload refused")
	})
	if err != nil {
		e.tb.Fatalf("no line about the reload: %v\n%s", err, e.Output())
	}
	return line
}

// Terminate sends SIGTERM and returns at once.
func (e *Edge) Terminate() {
	e.tb.Helper()
	if err := e.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		e.tb.Fatalf("SIGTERM: %v", err)
	}
}

// Stop sends SIGTERM, waits for the end and expects exit code 0.
func (e *Edge) Stop() {
	e.tb.Helper()
	e.Terminate()
	if code := e.Wait(stopTime); code != 0 {
		e.tb.Fatalf("exit code %d after SIGTERM, want 0", code)
	}
}

// Kill ends the process without a chance to clean up.
func (e *Edge) Kill() {
	e.tb.Helper()
	if err := e.cmd.Process.Kill(); err != nil {
		e.tb.Fatalf("kill: %v", err)
	}
	e.Wait(stopTime)
}

// Wait waits for the process's end and returns its exit code.
func (e *Edge) Wait(within time.Duration) int {
	e.tb.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-e.exited:
		return e.code
	case <-timer.C:
		e.tb.Fatalf("sipward still runs after %s", within)
		return -1
	}
}

// Gone tells whether the process has ended.
func (e *Edge) Gone() bool {
	select {
	case <-e.exited:
		return true
	default:
		return false
	}
}

// PID is the process's number.
func (e *Edge) PID() int { return e.cmd.Process.Pid }

// Lines are the lines printed so far, standard output and error together.
func (e *Edge) Lines() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.lines...)
}

// Output is the last of Lines as one text for a person to read, long lines cut.
func (e *Edge) Output() string {
	lines := e.Lines()
	var b strings.Builder
	if skip := len(lines) - 100; skip > 0 {
		fmt.Fprintf(&b, "(%d lines before)\n", skip)
		lines = lines[skip:]
	}
	for _, l := range lines {
		if len(l) > 700 {
			l = l[:700] + " ..."
		}
		b.WriteString(l)
		b.WriteByte('\n')
	}
	return b.String()
}

// WaitLine waits for a line, counted from the given index, that the check accepts.
func (e *Edge) WaitLine(ctx context.Context, from int, check func(string) bool) (string, error) {
	for {
		e.mu.Lock()
		for ; from < len(e.lines); from++ {
			if check(e.lines[from]) {
				line := e.lines[from]
				e.mu.Unlock()
				return line, nil
			}
		}
		changed := e.changed
		e.mu.Unlock()
		select {
		case <-changed:
		case <-e.exited:
			// Lines may have come between the look and the end.
			e.mu.Lock()
			more := from < len(e.lines)
			e.mu.Unlock()
			if !more {
				return "", fmt.Errorf("sipward has ended with code %d", e.code)
			}
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// Command runs a sub-command that asks this edge over its admin socket. See Run.
func (e *Edge) Command(ctx context.Context, args ...string) (output string, code int, err error) {
	return Run(ctx, e.dir, args...)
}

// Run runs a sub-command to its end and returns its output, both streams, and its exit code.
func Run(ctx context.Context, dir string, args ...string) (output string, code int, err error) {
	binary, err := Binary()
	if err != nil {
		return "", 0, err
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = dir
	cmd.Env = append(environment(), "XDG_RUNTIME_DIR="+dir, adminSocket, raceDetector)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return string(out), 0, err
	}
	return string(out), cmd.ProcessState.ExitCode(), nil
}
