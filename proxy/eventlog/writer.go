package eventlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	tick      = 50 * time.Millisecond // from the first waiting line to the write
	flushWait = 2 * time.Second       // longest time that Flush and Close wait for a stuck output
)

var errClosed = errors.New("log is closed")

// writer is a bounded buffer and the goroutine that empties it. The goroutine runs from startWriter to close.
type writer struct {
	stdout, stderr io.Writer
	dropText       func(b []byte, now time.Time, n uint64) []byte
	out            atomic.Pointer[output]
	dropped        atomic.Uint64

	mu      sync.Mutex // guards what follows; held for copies only
	active  []byte     // lines that wait; its capacity is the bound
	retired []*output  // replaced outputs that the goroutine may still have been writing to
	pending uint64     // dropped lines that no line has told of yet
	second  int64      // of stamp, Unix time
	stamp   []byte     // time.Stamp text of second
	closed  bool

	timer   *time.Timer   // armed by the first line after a write
	half    chan struct{} // the buffer is half full, or an output waits to be closed
	flushes chan chan struct{}
	stop    chan struct{}
	done    chan struct{}
}

// output is where lines go.
type output struct {
	io.Writer
	file *os.File // nil for what is not ours to close
}

func (o *output) close() error {
	if o.file == nil {
		return nil
	}
	return o.file.Close()
}

// openOutput opens stdout, stderr or a file to append to, which group and owner may read.
func openOutput(name string, stdout, stderr io.Writer) (*output, error) {
	switch name {
	case "stdout":
		return &output{Writer: stdout}, nil
	case "stderr":
		return &output{Writer: stderr}, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("log output: %w", err)
	}
	return &output{Writer: f, file: f}, nil
}

func startWriter(out *output, o Options, dropText func([]byte, time.Time, uint64) []byte) *writer {
	w := &writer{
		stdout: o.Stdout, stderr: o.Stderr, dropText: dropText,
		active: make([]byte, 0, o.Buffer), second: -1,
		timer: time.NewTimer(time.Hour), half: make(chan struct{}, 1), flushes: make(chan chan struct{}),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	w.timer.Stop()
	w.out.Store(out)
	go w.run(make([]byte, 0, o.Buffer)) // until close
	return w
}

// Write appends one finished line. It never fails.
func (w *writer) Write(p []byte) (int, error) {
	w.write("", "", p)
	return len(p), nil
}

// write appends one line: with an ident, the time, the ident and the level's name are put in front.
func (w *writer) write(ident, name string, text []byte) {
	var now time.Time
	need := len(text)
	if ident != "" {
		now = time.Now()
		need += len(time.Stamp) + len(ident) + len(name)
	}
	w.mu.Lock()
	before := len(w.active)
	if w.closed || before+need > cap(w.active) {
		w.pending++
		w.mu.Unlock()
		w.dropped.Add(1)
		return
	}
	if ident != "" {
		if s := now.Unix(); s != w.second {
			w.second, w.stamp = s, now.AppendFormat(w.stamp[:0], time.Stamp)
		}
		w.active = append(w.active, w.stamp...)
		w.active = append(w.active, ident...)
		w.active = append(w.active, name...)
	}
	w.active = append(w.active, text...)
	half := cap(w.active) / 2
	if before == 0 {
		w.timer.Reset(tick)
	}
	isHalf := before < half && len(w.active) >= half
	w.mu.Unlock()
	if isHalf {
		select {
		case w.half <- struct{}{}:
		default: // told already
		}
	}
}

// run writes the buffer out when it is time. spare is the buffer that callers fill meanwhile.
func (w *writer) run(spare []byte) {
	defer close(w.done)
	for {
		var flushed chan struct{}
		select {
		case <-w.timer.C:
		case <-w.half:
		case flushed = <-w.flushes:
		case <-w.stop:
			w.drain(spare)
			return
		}
		spare = w.drain(spare)
		if flushed != nil {
			close(flushed)
		}
	}
}

// drain swaps the buffers and writes the full one. It returns the one that is free now.
func (w *writer) drain(spare []byte) []byte {
	w.mu.Lock()
	full, lost, retired := w.active, w.pending, w.retired
	w.active, w.pending, w.retired = spare[:0], 0, nil
	w.mu.Unlock()
	for _, old := range retired { // emit has not loaded the present one yet: nobody uses these any more
		_ = old.close()
	}
	w.emit(full)
	if lost > 0 {
		// The lost lines came after those in full.
		w.emit(w.dropText(nil, time.Now(), lost))
	}
	return full[:0]
}

// emit writes lines out. What the output does not take is lost, and counted: the log must not grow for a full disk.
func (w *writer) emit(lines []byte) {
	if len(lines) == 0 {
		return
	}
	n, err := w.out.Load().Write(lines)
	if err == nil || n >= len(lines) {
		return
	}
	lost := uint64(bytes.Count(lines[max(0, n):], []byte{'\n'}))
	w.dropped.Add(lost)
	w.mu.Lock()
	w.pending += lost
	w.mu.Unlock()
}

// redirect opens an output and uses it from the next write on. A write under way ends on the old one, which the
// goroutine then closes.
func (w *writer) redirect(name string) error {
	out, err := openOutput(name, w.stdout, w.stderr)
	if err != nil {
		return err
	}
	w.mu.Lock()
	closed := w.closed
	if !closed {
		w.retired = append(w.retired, w.out.Swap(out))
	}
	w.mu.Unlock()
	if closed {
		_ = out.close()
		return errClosed
	}
	select {
	case w.half <- struct{}{}:
	default:
	}
	return nil
}

func (w *writer) flush() {
	flushed := make(chan struct{})
	t := time.NewTimer(flushWait)
	defer t.Stop()
	select {
	case w.flushes <- flushed:
	case <-w.done:
		return
	case <-t.C:
		return
	}
	select {
	case <-flushed:
	case <-t.C:
	}
}

func (w *writer) close() error {
	w.mu.Lock()
	again := w.closed
	w.closed = true
	w.mu.Unlock()
	if again {
		return nil
	}
	close(w.stop)
	t := time.NewTimer(flushWait)
	defer t.Stop()
	select {
	case <-w.done:
	case <-t.C:
		return errors.New("log output is stuck: the last lines are lost")
	}
	w.timer.Stop()
	return w.out.Load().close()
}
