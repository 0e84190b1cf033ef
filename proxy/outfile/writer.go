package outfile

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

// Numbers that we chose.
const (
	tick      = 50 * time.Millisecond // from the first waiting line to the write
	again     = time.Second           // from a refused write to the next try, with Keep
	quiet     = 10 * time.Second      // least time between two calls of OnProblem
	flushWait = 2 * time.Second       // longest time that Flush and Close wait for a stuck output
)

// ErrClosed is returned for what comes after Close.
var ErrClosed = errors.New("output is closed")

var (
	errSlow  = errors.New("output is too slow")
	errStuck = errors.New("output is stuck: the last lines are lost")
)

// Options are what a Writer needs besides the name of its output. The zero value works.
type Options struct {
	Stdout io.Writer // what the name stdout means; nil: os.Stdout
	Stderr io.Writer // what the name stderr means; nil: os.Stderr
	Buffer int       // bytes that may wait to be written; 0: 1 MiB. Twice this much memory is taken
	Head   string    // first line of an empty file, with its line feed; empty: none
	Keep   bool      // lines that the output refuses wait and are tried again

	// Lost appends the line that tells of n lost ones to b; nil: the output is not told.
	Lost func(b []byte, now time.Time, n uint64) []byte
	// OnProblem is told why lines wait or are lost, at most once in 10 s; nil: nobody is. It is called by the goroutine
	// or within Write, with no lock of the Writer held. It must not block and not call the Writer.
	OnProblem func(error)
}

// Writer is a bounded buffer and the goroutine that empties it. The goroutine runs from Open to Close. The nil Writer has
// no output: it takes lines and does nothing with them.
type Writer struct {
	options Options
	dropped atomic.Uint64

	mu      sync.Mutex // guards what follows; held for copies only
	out     *output
	retired []*output // replaced outputs that the goroutine may still be writing to
	active  []byte    // lines that wait; its capacity is the bound
	pending uint64    // dropped lines that no line has told of yet
	untold  uint64    // and those that OnProblem has not heard of
	told    time.Time // when OnProblem was called last
	closed  bool

	// Of the goroutine.
	full []byte // the buffer that callers do not fill at the moment
	next int    // what of full is still to be written; len(full): nothing

	timer   *time.Timer   // armed by the first line after a write
	half    chan struct{} // the buffer is half full, or an output waits to be closed
	flushes chan chan struct{}
	stop    chan struct{}
	done    chan struct{}
}

// Open opens an output, which is stdout, stderr or the path of a file, and starts the goroutine that writes.
func Open(name string, o Options) (*Writer, error) {
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	if o.Buffer == 0 {
		o.Buffer = 1 << 20
	}
	out, err := o.open(name, func(os.FileInfo) bool { return false })
	if err != nil {
		return nil, err
	}
	w := &Writer{
		options: o, out: out, active: make([]byte, 0, o.Buffer), full: make([]byte, 0, o.Buffer),
		timer: time.NewTimer(time.Hour), half: make(chan struct{}, 1), flushes: make(chan chan struct{}),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	w.timer.Stop()
	go w.run() // until Close
	return w, nil
}

// Write takes one finished line. It does not wait for the output and never fails; a line that finds no room is counted
// as dropped.
func (w *Writer) Write(line []byte) (int, error) {
	if w == nil {
		return len(line), nil
	}
	w.mu.Lock()
	before := len(w.active)
	if w.closed || before+len(line) > cap(w.active) {
		w.pending++
		w.untold++
		w.mu.Unlock()
		w.dropped.Add(1)
		w.complain(nil, false)
		return len(line), nil
	}
	w.active = append(w.active, line...)
	half := cap(w.active) / 2
	if before == 0 {
		w.timer.Reset(tick)
	}
	isHalf := before < half && len(w.active) >= half
	w.mu.Unlock()
	if isHalf {
		w.wake()
	}
	return len(line), nil
}

// Redirect opens an output and uses it from the next write on, for lines that wait too. A write under way ends on the
// old one, which the goroutine then closes. With an error the old one stays in use.
func (w *Writer) Redirect(name string) error {
	if w == nil {
		return nil
	}
	out, err := w.options.open(name, w.isOurs)
	if err != nil {
		return err
	}
	w.mu.Lock()
	closed := w.closed
	if !closed {
		w.retired = append(w.retired, w.out)
		w.out = out
	}
	w.mu.Unlock()
	if closed {
		_ = out.close()
		return ErrClosed
	}
	w.wake()
	return nil
}

// isOurs says whether a file is open here: the one that is written to, or one that was until now.
func (w *Writer) isOurs(info os.FileInfo) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range append([]*output{w.out}, w.retired...) {
		if o.file == nil {
			continue
		}
		if i, err := o.file.Stat(); err == nil && os.SameFile(i, info) {
			return true
		}
	}
	return false
}

func (w *Writer) wake() {
	select {
	case w.half <- struct{}{}:
	default: // told already
	}
}

// Flush waits until all lines so far are written or refused, but not longer than two seconds.
func (w *Writer) Flush() {
	if w == nil {
		return
	}
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

// Close flushes, ends the goroutine and closes the file. Lines that come later are dropped. It may be called again.
func (w *Writer) Close() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	repeated := w.closed
	w.closed = true
	w.mu.Unlock()
	if repeated {
		return nil
	}
	close(w.stop)
	t := time.NewTimer(flushWait)
	defer t.Stop()
	select {
	case <-w.done:
	case <-t.C:
		return errStuck
	}
	w.timer.Stop()
	w.mu.Lock()
	out := w.out
	w.mu.Unlock()
	return out.close()
}

// Dropped counts the lines that were lost because the output was too slow, failed or was closed.
func (w *Writer) Dropped() uint64 {
	if w == nil {
		return 0
	}
	return w.dropped.Load()
}

// run writes the buffer out when it is time.
func (w *Writer) run() {
	defer close(w.done)
	for {
		var flushed chan struct{}
		select {
		case <-w.timer.C:
		case <-w.half:
		case flushed = <-w.flushes:
		case <-w.stop:
			w.finish()
			return
		}
		if err := w.drain(); err != nil {
			w.timer.Reset(again)
			w.complain(err, false)
		}
		if flushed != nil {
			close(flushed)
		}
	}
}

// drain writes what waits. With an error some of it goes on waiting.
func (w *Writer) drain() error {
	out := w.output()
	if err := w.emit(out); err != nil { // refused before, and again
		return err
	}
	w.mu.Lock()
	w.full, w.active, w.next = w.active, w.full[:0], 0
	lost := w.pending
	w.pending = 0
	untold := w.untold > 0
	w.mu.Unlock()
	err := w.emit(out)
	if lost > 0 && (err != nil || !w.confess(out, lost)) {
		w.mu.Lock()
		w.pending += lost
		w.mu.Unlock()
	}
	if untold {
		w.complain(nil, false)
	}
	return err
}

// confess writes the line that tells of lost ones; they came after those written before.
func (w *Writer) confess(out *output, lost uint64) bool {
	if w.options.Lost == nil {
		return true
	}
	_, err := out.Write(w.options.Lost(nil, time.Now(), lost))
	return err == nil
}

// output returns the output of the moment and closes those before it. A new one begins with a whole line.
func (w *Writer) output() *output {
	w.mu.Lock()
	out, retired := w.out, w.retired
	w.retired = nil
	w.mu.Unlock()
	for _, old := range retired {
		_ = old.close()
	}
	if len(retired) > 0 && w.next < len(w.full) {
		w.next = bytes.LastIndexByte(w.full[:w.next], '\n') + 1
	}
	return out
}

// emit writes what is left of full. What the output refuses stays there with Keep, and is lost and counted without.
func (w *Writer) emit(out *output) error {
	rest := w.full[w.next:]
	if len(rest) == 0 {
		return nil
	}
	n, err := out.Write(rest)
	if err == nil || n >= len(rest) {
		w.next = len(w.full)
		return nil
	}
	w.next += max(0, n)
	if w.options.Keep {
		return err
	}
	w.lose(w.full[w.next:])
	w.next = len(w.full)
	w.complain(err, false)
	return nil
}

// finish writes for the last time.
func (w *Writer) finish() {
	err := w.drain()
	if err != nil {
		w.mu.Lock()
		waiting := w.active
		w.mu.Unlock()
		w.lose(w.full[w.next:])
		w.lose(waiting)
	}
	w.complain(err, true)
}

// lose counts the lines of a text as dropped.
func (w *Writer) lose(lines []byte) {
	n := uint64(bytes.Count(lines, []byte{'\n'}))
	w.dropped.Add(n)
	w.mu.Lock()
	w.pending += n
	w.untold += n
	w.mu.Unlock()
}

// complain tells OnProblem why lines wait or how many are lost, unless it was called a moment ago. At last it is
// called all the same.
func (w *Writer) complain(cause error, last bool) {
	if w.options.OnProblem == nil {
		return
	}
	now := time.Now()
	w.mu.Lock()
	lost := w.untold
	due := cause != nil || lost > 0
	if !last && !w.told.IsZero() && now.Sub(w.told) < quiet {
		due = false
	}
	if due {
		w.told, w.untold = now, 0
	}
	w.mu.Unlock()
	switch {
	case !due:
	case lost == 0:
		w.options.OnProblem(fmt.Errorf("%w, lines wait", cause))
	case cause == nil:
		w.options.OnProblem(fmt.Errorf("%w, lines lost: %d", errSlow, lost))
	default:
		w.options.OnProblem(fmt.Errorf("%w, lines lost: %d", cause, lost))
	}
}
