package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Numbers that we chose.
const (
	tick     = 250 * time.Millisecond // from one write to the next
	lockWait = time.Second            // for a process that is about to end
	quiet    = 10 * time.Second       // least time between two calls of the problem function
	maxBytes = 256 << 20              // that may wait to be written
	overhead = 64                     // bytes that a change costs besides its state
	secret   = 32                     // bytes
)

// format is what the file says of itself. Another one is not ours to read.
const format = "1"

var (
	bucketAbout          = []byte("sipward")
	keyFormat, keySecret = []byte("format"), []byte("secret")
)

// Kind is what a state is of. Each kind has its own ids.
type Kind uint8

// The kinds.
const (
	Calls Kind = iota
	Bindings
)

// buckets are where the states are, by kind.
var buckets = [...][]byte{Calls: []byte("calls"), Bindings: []byte("bindings")}

var (
	errForeign = errors.New("it is no state file of sipward, or one of another version")
	errSlow    = errors.New("the disk is too slow")
	errStuck   = errors.New("the last changes are not written: the disk is too slow")
)

// File is an open state file. All methods but Start and Close may be called from any goroutine.
type File struct {
	path    string
	db      *bolt.DB
	secret  []byte
	problem func(error)
	gather  func()
	lost    atomic.Uint64

	mu      sync.Mutex // guards what follows; held for copies only
	pending map[name]change
	bytes   int // of pending
	limit   int
	told    time.Time // when problem was called last

	flushes chan chan error
	stop    chan struct{}
	done    chan error // nil until Start
	once    sync.Once
}

// name is of a state.
type name struct {
	kind Kind
	id   uint64
}

func (a name) compare(b name) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.id, b.id))
}

// change is a new state; nil: it is to be forgotten.
type change struct{ state []byte }

func (c change) size() int { return overhead + len(c.state) }

// Open opens a state file, or makes it, readable for its owner only. problem is told why changes wait or are lost, at
// most once in 10 s; it must not block and not call the File.
func Open(path string, problem func(error)) (*File, error) {
	f := &File{
		path: path, problem: problem, pending: make(map[name]change), limit: maxBytes,
		flushes: make(chan chan error), stop: make(chan struct{}),
	}
	err := guard(func() (err error) {
		f.db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType})
		if err == nil {
			err = f.db.Update(f.prepare)
		}
		return err
	})
	if err == nil {
		return f, nil
	}
	if f.db != nil {
		_ = guard(f.db.Close) // there is a better error to tell
	}
	var system *fs.PathError
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("state_file %s: another process has it; stop that one, or give this edge a file of its own", path)
	case errors.As(err, &system):
		return nil, fmt.Errorf("state_file: %w", err)
	}
	return nil, f.damaged(err)
}

// damaged says how to go on with a file that cannot be used.
func (f *File) damaged(err error) error {
	return fmt.Errorf("state_file %s cannot be read: %w; move it away to start without it: calls that are in it go on, but nothing refreshes or ends them, and phones are known again when they register again", f.path, err)
}

// prepare makes sure that the file is ours and has all that it needs.
func (f *File) prepare(tx *bolt.Tx) error {
	about := tx.Bucket(bucketAbout)
	if about == nil {
		if name, _ := tx.Cursor().First(); name != nil {
			return errForeign
		}
		b, err := tx.CreateBucket(bucketAbout)
		if err != nil {
			return err
		}
		f.secret = make([]byte, secret)
		_, _ = rand.Read(f.secret) // never fails
		return errors.Join(b.Put(keyFormat, []byte(format)), b.Put(keySecret, f.secret), makeBuckets(tx))
	}
	f.secret = append([]byte(nil), about.Get(keySecret)...)
	if string(about.Get(keyFormat)) != format || len(f.secret) != secret || tx.Bucket(buckets[Calls]) == nil {
		return errForeign
	}
	return makeBuckets(tx)
}

// makeBuckets makes those that are not there: a file may be older than some kinds. An older edge reads past them.
func makeBuckets(tx *bolt.Tx) error {
	for _, b := range buckets {
		if _, err := tx.CreateBucketIfNotExists(b); err != nil {
			return err
		}
	}
	return nil
}

// Secret is a random text that was made with the file.
func (f *File) Secret() []byte { return f.secret }

// Each calls visit with every state of a kind on the disk. It is valid only during the call.
func (f *File) Each(kind Kind, visit func(id uint64, state []byte)) error {
	err := guard(func() error {
		return f.db.View(func(tx *bolt.Tx) error {
			return tx.Bucket(buckets[kind]).ForEach(func(k, v []byte) error {
				if len(k) == 8 {
					visit(binary.BigEndian.Uint64(k), v)
				}
				return nil
			})
		})
	})
	if err != nil {
		return f.damaged(err)
	}
	return nil
}

// Put notes a state, which is copied.
func (f *File) Put(kind Kind, id uint64, state []byte) {
	f.note(name{kind, id}, change{append(make([]byte, 0, len(state)), state...)})
}

// Delete notes that what had a state is over.
func (f *File) Delete(kind Kind, id uint64) { f.note(name{kind, id}, change{}) }

func (f *File) note(n name, c change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	size := f.bytes + c.size()
	if before, ok := f.pending[n]; ok {
		size -= before.size()
	}
	if size > f.limit {
		f.lost.Add(1)
		return
	}
	f.pending[n], f.bytes = c, size
}

// Lost is how many changes found no room.
func (f *File) Lost() uint64 { return f.lost.Load() }

// Start begins to write. gather is called before each write, by the goroutine that writes, to Put and Delete what has
// changed; nil: nobody is.
func (f *File) Start(gather func()) {
	f.gather = gather
	f.done = make(chan error, 1)
	go f.run() // until Close
}

func (f *File) run() {
	t := time.NewTicker(tick)
	defer t.Stop()
	lost := uint64(0)
	for {
		select {
		case <-t.C:
			err := f.write()
			if n := f.lost.Load(); err == nil && n != lost {
				lost, err = n, errSlow
			}
			f.complain(err)
		case answer := <-f.flushes:
			answer <- f.write()
		case <-f.stop:
			f.done <- errors.Join(f.write(), f.db.Close())
			return
		}
	}
}

// Flush writes what has changed so far and returns when it is on the disk.
func (f *File) Flush() error {
	if f.done == nil {
		return f.write()
	}
	answer := make(chan error, 1)
	select {
	case f.flushes <- answer:
		return <-answer
	case <-f.stop:
		return fs.ErrClosed
	}
}

// Close writes what has changed and closes the file. When ctx ends before the disk has taken all, it does not wait any
// longer.
func (f *File) Close(ctx context.Context) error {
	err := fs.ErrClosed
	f.once.Do(func() {
		close(f.stop)
		if f.done == nil {
			err = errors.Join(f.write(), f.db.Close())
			return
		}
		select {
		case err = <-f.done:
		case <-ctx.Done():
			err = errStuck
		}
	})
	if err != nil {
		return fmt.Errorf("state_file %s: %w", f.path, err)
	}
	return nil
}

// write brings all changes to the disk. Those that it refuses wait again, unless there are newer ones.
func (f *File) write() error {
	if f.gather != nil {
		f.gather()
	}
	f.mu.Lock()
	batch, bytes := f.pending, f.bytes
	if len(batch) > 0 {
		f.pending, f.bytes = make(map[name]change, min(len(batch), 1024)), 0
	}
	f.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	err := guard(func() error {
		return f.db.Update(func(tx *bolt.Tx) error { return put(tx, batch) })
	})
	if err == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	newer := f.pending
	f.pending, f.bytes = batch, bytes
	for n, c := range newer {
		if before, ok := f.pending[n]; ok {
			f.bytes -= before.size()
		}
		f.pending[n] = c
		f.bytes += c.size()
	}
	return err
}

func put(tx *bolt.Tx, batch map[name]change) error {
	for _, n := range slices.SortedFunc(maps.Keys(batch), name.compare) { // neighbours share pages
		c, of := batch[n], tx.Bucket(buckets[n.kind])
		key := binary.BigEndian.AppendUint64(nil, n.id)
		var err error
		if c.state == nil {
			err = of.Delete(key)
		} else {
			err = of.Put(key, c.state)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// complain tells of a write that failed, or of changes that were lost.
func (f *File) complain(err error) {
	if err == nil || f.problem == nil {
		return
	}
	now := time.Now()
	f.mu.Lock()
	isTold := !f.told.IsZero() && now.Sub(f.told) < quiet
	if !isTold {
		f.told = now
	}
	n := len(f.pending)
	f.mu.Unlock()
	if !isTold {
		f.problem(fmt.Errorf("state_file %s: %w; %d changes wait, %d are lost", f.path, err, n, f.lost.Load()))
	}
}

// guard makes an error of a panic: bbolt does not expect damaged pages, and a file that another process cut off is a
// fault of memory.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return f()
}
