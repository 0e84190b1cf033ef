package transport

import (
	"net"
	"sync"
	"syscall"
	"time"
)

// outbox is a TCP connection whose Write never blocks: it gives the kernel what it takes at once and queues the rest,
// which a goroutine writes that exists only as long as there is something. TLS writes into it as well, so both have one
// way of dealing with slow peers. Bytes leave in the order of the Writes and each Write's stay together.
//
// When the queue would exceed its limit or the peer takes nothing in time, the connection is reset: what the kernel holds
// for it is of no use either.
type outbox struct {
	*net.TCPConn
	limit   int
	timeout time.Duration
	start   func(func()) bool // starts the writing goroutine
	failed  func(error)       // told of errors outside Write; called without mu

	unacknowledged time.Duration

	inlet inlet
	raw   syscall.RawConn
	try   func(fd uintptr) bool // prepared, so that a Write does not allocate it

	mu       sync.Mutex
	trying   []byte // argument and results of try
	tried    int
	tryErr   error
	queue    []byte
	writing  int           // bytes in the writer's hands
	drained  chan struct{} // closed when the writer ends; nil = there is none
	err      error
	isClosed bool

	// isHasty: the kernel gives the connection up when data is not acknowledged in time (TCP_USER_TIMEOUT). That option
	// may not stay set on a connection at rest: with it Linux gives up at the first keep-alive probe that is lost, and
	// one lost packet, or a burst of probes over many connections, must not cost a phone its registration.
	isHasty bool
	wrote   bool // since the last relax
}

// writeChunk is what a peer has to take within the write timeout.
const writeChunk = 64 << 10

func newOutbox(conn *net.TCPConn, l limits, start func(func()) bool, failed func(error)) (*outbox, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	o := &outbox{TCPConn: conn, limit: l.writeQueue, timeout: l.write, start: start, failed: failed, raw: raw,
		unacknowledged: l.unacknowledged}
	o.try = o.tryLocked
	return o, nil
}

// Write queues at most and does not keep p.
func (o *outbox) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	all := len(p)
	o.wrote = true
	if o.drained == nil {
		n, err := o.tryWriteLocked(p)
		if err != nil {
			o.failLocked(err)
			return n, err
		}
		if n == len(p) {
			return all, nil
		}
		p = p[n:]
	}
	if len(o.queue)+o.writing+len(p) > o.limit {
		o.failLocked(ErrQueueFull)
		return all - len(p), ErrQueueFull
	}
	o.queue = append(o.queue, p...)
	if o.drained == nil {
		o.drained = make(chan struct{})
		if !o.start(o.drain) { // ends when the queue is empty or the connection fails
			close(o.drained)
			o.drained = nil
			o.failLocked(ErrClosed)
			return 0, ErrClosed
		}
	}
	return all, nil
}

// tryWriteLocked returns what the kernel took without waiting, 0 if nothing.
func (o *outbox) tryWriteLocked(p []byte) (int, error) {
	o.trying, o.tried, o.tryErr = p, 0, nil
	err := o.raw.Write(o.try)
	o.trying = nil
	if err == nil {
		err = o.tryErr
	}
	return o.tried, err
}

// tryLocked is called back by raw.Write under mu. It always says that it is done.
func (o *outbox) tryLocked(fd uintptr) bool {
	if !o.isHasty {
		o.isHasty = true
		setUserTimeout(fd, o.unacknowledged)
	}
	o.tried, o.tryErr = writeNow(fd, o.trying)
	return true
}

// relax comes at intervals of more than unacknowledged: what was written before the last one has arrived by now, or the
// connection is gone.
func (o *outbox) relax() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.isHasty || o.isClosed {
		return
	}
	if o.wrote || o.drained != nil {
		o.wrote = false
		return
	}
	o.isHasty = false
	_ = o.raw.Control(func(fd uintptr) { setUserTimeout(fd, 0) })
}

// failLocked ends the connection. Writing fails from now on with err, reading with whatever the closed socket gives.
func (o *outbox) failLocked(err error) {
	if o.err == nil {
		o.err = err
	}
	o.queue = nil
	o.closeLocked(true)
}

func (o *outbox) closeLocked(reset bool) {
	if o.isClosed {
		return
	}
	o.isClosed = true
	if reset {
		_ = o.SetLinger(0)
	}
	_ = o.TCPConn.Close()
}

// Close drops what is queued.
func (o *outbox) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = net.ErrClosed
	}
	isStuck := len(o.queue)+o.writing > 0
	o.queue = nil
	o.closeLocked(isStuck)
	return nil
}

// failure is why writing failed, otherwise err.
func (o *outbox) failure(err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	return err
}

// drain writes the queue.
func (o *outbox) drain() {
	var spare []byte
	for {
		o.mu.Lock()
		b := o.queue
		if len(b) == 0 {
			_ = o.TCPConn.SetWriteDeadline(time.Time{}) // or the next try would fail on it
			close(o.drained)
			o.drained = nil
			o.queue = nil
			o.mu.Unlock()
			return
		}
		o.queue, o.writing = spare[:0], len(b)
		o.mu.Unlock()
		spare = b
		for len(b) > 0 {
			_ = o.TCPConn.SetWriteDeadline(time.Now().Add(o.timeout))
			n, err := o.TCPConn.Write(b[:min(len(b), writeChunk)])
			b = b[n:]
			o.mu.Lock()
			o.writing = len(b)
			if err != nil {
				o.writing = 0
				err = o.drainFailedLocked(err)
				o.mu.Unlock()
				o.failed(err)
				break
			}
			o.mu.Unlock()
		}
	}
}

func (o *outbox) drainFailedLocked(err error) error {
	if e, ok := err.(net.Error); ok && e.Timeout() {
		err = ErrWriteTimeout
	}
	o.failLocked(err)
	return o.err
}

// flush waits until everything is in the kernel, for as long as the write timeout allows, or until Close, which ends the
// writer.
func (o *outbox) flush() {
	o.mu.Lock()
	drained := o.drained
	o.mu.Unlock()
	if drained == nil {
		return
	}
	t := time.NewTimer(o.timeout)
	defer t.Stop()
	select {
	case <-drained:
	case <-t.C:
	}
}

// SetWriteDeadline does nothing: writes do not wait, and the queue has deadlines of its own.
func (o *outbox) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline sets that of reading.
func (o *outbox) SetDeadline(t time.Time) error { return o.SetReadDeadline(t) }
