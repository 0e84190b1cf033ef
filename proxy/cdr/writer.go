package cdr

import (
	"fmt"
	"io"
	"sync"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/outfile"
)

// Options are what a Writer needs besides its configuration. The zero value works.
type Options struct {
	Stdout io.Writer // what the output stdout means; nil: os.Stdout
	Buffer int       // bytes of records that may wait to be written; 0: 1 MiB. Twice this much memory is taken

	// OnProblem is told that records wait or are lost, and why, at most once in 10 s; nil: nobody is. It may be called
	// within Write. It must not block and not call the Writer.
	OnProblem func(error)
}

// Writer takes records from any goroutine and never blocks on the output, except in Flush, Configure and Close, which
// wait for at most two seconds. The nil Writer writes nothing.
type Writer struct {
	options Options

	change sync.Mutex // one Configure, Reopen or Close at a time
	closed bool       // guarded by change

	mu     sync.RWMutex // guards what follows; never held for I/O. Write holds it, so a file has one format only
	config config.CDR
	file   *outfile.Writer // nil: output none
	lost   uint64          // records that former files lost
}

// Open opens the output and starts the goroutine that writes; Close ends it. An empty output or format in c means the
// default. With the output none nothing is opened until Configure says so.
func Open(c config.CDR, o Options) (*Writer, error) {
	if told := o.OnProblem; told != nil {
		o.OnProblem = func(err error) { told(fmt.Errorf("call records: %w", err)) }
	}
	w := &Writer{options: o}
	c, err := complete(c)
	if err != nil {
		return nil, err
	}
	if w.file, err = w.open(c); err != nil {
		return nil, err
	}
	w.config = c
	return w, nil
}

// complete puts the defaults in.
func complete(c config.CDR) (config.CDR, error) {
	d := config.Default().CDR
	if c.Output == "" {
		c.Output = d.Output
	}
	if c.Format == "" {
		c.Format = d.Format
	}
	if c.Format != "json" && c.Format != "csv" {
		return c, fmt.Errorf("cdr format %q is neither json nor csv", c.Format)
	}
	return c, nil
}

func (w *Writer) open(c config.CDR) (*outfile.Writer, error) {
	if c.Output == "none" {
		return nil, nil
	}
	o := outfile.Options{Stdout: w.options.Stdout, Buffer: w.options.Buffer, Keep: true, OnProblem: w.options.OnProblem}
	if c.Format == "csv" {
		o.Head = names
	}
	file, err := outfile.Open(c.Output, o)
	if err != nil {
		return nil, fmt.Errorf("cdr output: %w", err)
	}
	return file, nil
}

// Write writes one record. Nothing of r is kept. The caller sees to it that it is the only one of its call.
func (w *Writer) Write(r *Record) {
	if w == nil {
		return
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.file == nil {
		return
	}
	l := lines.Get().(*line)
	defer lines.Put(l)
	l.encode(r, w.config.Format)
	_, _ = w.file.Write(l.Bytes())
}

// Writes says whether a record would be written: with the output none nobody has to
// make one.
func (w *Writer) Writes() bool {
	if w == nil {
		return false
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.file != nil
}

// Reopen opens the output file anew, for after logrotate has renamed it. With an error the old file stays in use. For
// stdout it does nothing.
func (w *Writer) Reopen() error {
	if w == nil {
		return nil
	}
	w.change.Lock()
	defer w.change.Unlock()
	if err := w.file.Redirect(w.config.Output); err != nil {
		return fmt.Errorf("cdr output: %w", err)
	}
	return nil
}

// Configure takes a new configuration over, all of it or, with an error, nothing. Records that wait go to the new output
// if it has the same format, else to the old one.
func (w *Writer) Configure(c config.CDR) error {
	if w == nil {
		return nil
	}
	w.change.Lock()
	defer w.change.Unlock()
	c, err := complete(c)
	if err != nil {
		return err
	}
	if c == w.config {
		return nil
	}
	if w.closed {
		return fmt.Errorf("cdr: %w", outfile.ErrClosed)
	}
	if w.file != nil && c.Output != "none" && c.Format == w.config.Format {
		if err := w.file.Redirect(c.Output); err != nil {
			return fmt.Errorf("cdr output: %w", err)
		}
		w.mu.Lock()
		w.config = c
		w.mu.Unlock()
		return nil
	}
	file, err := w.open(c)
	if err != nil {
		return err
	}
	w.mu.Lock()
	old := w.file
	w.file, w.config = file, c
	lost := old.Dropped()
	w.lost += lost
	w.mu.Unlock()
	if err := old.Close(); err != nil && w.options.OnProblem != nil {
		w.options.OnProblem(err)
	}
	w.mu.Lock()
	w.lost += old.Dropped() - lost
	w.mu.Unlock()
	return nil
}

// Flush waits until all records so far are written or refused, but not longer than two seconds.
func (w *Writer) Flush() {
	if w == nil {
		return
	}
	w.mu.RLock()
	file := w.file
	w.mu.RUnlock()
	file.Flush()
}

// Close flushes, ends the goroutine and closes the file. Records that come later are dropped and counted. It may be
// called again.
func (w *Writer) Close() error {
	if w == nil {
		return nil
	}
	w.change.Lock()
	defer w.change.Unlock()
	w.closed = true
	if err := w.file.Close(); err != nil {
		return fmt.Errorf("cdr: %w", err)
	}
	return nil
}

// Dropped counts the records that were lost because the output was too slow, failed or was closed.
func (w *Writer) Dropped() uint64 {
	if w == nil {
		return 0
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.lost + w.file.Dropped()
}
