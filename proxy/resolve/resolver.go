package resolve

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Errors that callers may want to tell apart. Every other error means that the
// name servers could not be asked or failed, and is likely to pass.
var (
	ErrNotFound = errors.New("no such name, or no address for it")
	ErrBusy     = errors.New("too many lookups under way")
	ErrClosed   = errors.New("resolver is closed")
)

// Numbers we chose.
const (
	maxWorkers = 32
	// waitersPerLookup bounds the callers that wait, as a multiple of MaxPending.
	waitersPerLookup = 16
	// lookupBudget bounds the time for one lookup, as a multiple of Timeout.
	lookupBudget = 6
)

// Options configure a resolver. Fields that are zero get the default.
type Options struct {
	Servers     []string      // ip or ip:port; default those of /etc/resolv.conf
	HostsFile   string        // default none
	Timeout     time.Duration // for one query to one server; default 2 s
	MinTTL      time.Duration // default 5 s
	MaxTTL      time.Duration // default 1 h
	NegativeTTL time.Duration // how long a failure is remembered; default 10 s
	CacheSize   int           // answers kept; default 4096
	MaxPending  int           // lookups at the same time; default 256
}

func (o Options) withDefaults() Options {
	setDefault(&o.Timeout, 2*time.Second)
	setDefault(&o.MinTTL, 5*time.Second)
	setDefault(&o.MaxTTL, time.Hour)
	setDefault(&o.NegativeTTL, 10*time.Second)
	setDefault(&o.CacheSize, 4096)
	setDefault(&o.MaxPending, 256)
	if len(o.Servers) == 0 {
		o.Servers = systemServers("/etc/resolv.conf")
	}
	for i, s := range o.Servers {
		o.Servers[i] = withPort(s)
	}
	return o
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Resolver looks names up and remembers the answers. Use [New]; all methods may
// be called from any goroutine.
type Resolver struct {
	o     Options
	hosts hosts
	cache cache
	// exchange sends one query to one server. Tests put their own here.
	exchange func(ctx context.Context, m *dns.Msg, server, network string) (*dns.Msg, error)

	ctx    context.Context // ends every lookup and watch; only Close ends it
	cancel context.CancelFunc
	// preferred is the server that answered last; the others are asked when it
	// does not.
	preferred atomic.Uint32
	wg        sync.WaitGroup // workers, notices and watches

	mu      sync.Mutex // guards all below
	closed  bool
	pending map[Query]*lookup
	waiting int       // callers of all pending lookups
	queue   []*lookup // pending lookups that no worker has taken yet
	workers int
}

// lookup is one question that is being answered.
type lookup struct {
	query Query
	done  []func([]Target, error)
}

// answer is the outcome of a lookup.
type answer struct {
	orders [][]Target // the same targets in one or more orders; none on failure
	err    error
	ttl    time.Duration
}

// New returns a resolver. Nothing is asked before the first call, and no
// goroutine runs while there is nothing to do.
func New(o Options) *Resolver {
	o.Servers = append([]string(nil), o.Servers...)
	r := &Resolver{o: o.withDefaults(), exchange: exchange, pending: map[Query]*lookup{}}
	r.hosts.path = o.HostsFile
	r.cache.init(r.o.CacheSize)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Close ends all lookups, whose callers get an error, and all watches, and
// waits for them. It may be called more than once.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}

// Cached returns what is known of q. It does no I/O and never blocks for long.
// True with targets is an answer, true without any means that the name is known
// to lead nowhere, false that it has to be looked up. Queries for IP addresses
// always have an answer; [Literal] gives it without an allocation. The slice is
// shared and must not be changed.
func (r *Resolver) Cached(q Query) ([]Target, bool) {
	if t, ok := Literal(q); ok {
		return []Target{t}, true
	}
	targets, err, ok := r.cache.get(q, time.Now())
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, false // Resolve tells the error
	}
	return targets, ok
}

// Resolve looks q up and calls done once, always on another goroutine, so that
// the caller may hold locks that done takes. The slice is shared and must not be
// changed. With too much to do, the error is ErrBusy, after Close ErrClosed, for
// a name that leads nowhere it wraps ErrNotFound.
func (r *Resolver) Resolve(q Query, done func([]Target, error)) {
	targets, err, known := r.known(q)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		go done(nil, ErrClosed) // ends by itself; there is no one left to wait for it
		return
	}
	if !known {
		err = r.askLocked(q, done)
		if err == nil {
			return
		}
	}
	r.wg.Go(func() { done(targets, err) })
}

// known answers from memory.
func (r *Resolver) known(q Query) ([]Target, error, bool) {
	if t, ok := Literal(q); ok {
		return []Target{t}, nil, true
	}
	return r.cache.get(q, time.Now())
}

// Lookup is Resolve for those who can wait.
func (r *Resolver) Lookup(ctx context.Context, q Query) ([]Target, error) {
	type result struct {
		targets []Target
		err     error
	}
	c := make(chan result, 1)
	r.Resolve(q, func(t []Target, err error) { c <- result{t, err} })
	select {
	case res := <-c:
		return res.targets, res.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// askLocked makes done be called with the outcome of a lookup, one that is
// under way already if there is one.
func (r *Resolver) askLocked(q Query, done func([]Target, error)) error {
	if r.waiting >= waitersPerLookup*r.o.MaxPending {
		return ErrBusy
	}
	l := r.pending[q]
	if l == nil {
		if len(r.pending) >= r.o.MaxPending {
			return ErrBusy
		}
		l = &lookup{query: q}
		r.pending[q] = l
		r.queue = append(r.queue, l)
		if r.workers < maxWorkers {
			r.workers++
			r.wg.Go(r.work)
		}
	}
	l.done = append(l.done, done)
	r.waiting++
	return nil
}

// work takes lookups from the queue and ends when there is none.
func (r *Resolver) work() {
	for l := r.take(); l != nil; l = r.take() {
		a := r.answer(l.query)
		if r.ctx.Err() != nil {
			a = answer{err: ErrClosed}
		} else {
			r.cache.put(l.query, a, time.Now())
		}
		targets := a.order(0)
		for _, done := range r.finish(l) {
			done(targets, a.err)
		}
	}
}

func (r *Resolver) take() *lookup {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		r.workers--
		r.queue = nil
		return nil
	}
	l := r.queue[0]
	r.queue[0] = nil
	r.queue = r.queue[1:]
	return l
}

// finish takes l off the list of pending lookups and returns who waits for it.
func (r *Resolver) finish(l *lookup) []func([]Target, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pending, l.query)
	r.waiting -= len(l.done)
	return l.done
}

// answer does one lookup.
func (r *Resolver) answer(q Query) answer {
	ctx, cancel := context.WithTimeout(r.ctx, lookupBudget*r.o.Timeout)
	defer cancel()
	s := &search{r: r, ctx: ctx, ttl: r.o.MaxTTL}
	groups, err := s.locate(q)
	if err != nil {
		return answer{err: err, ttl: r.o.NegativeTTL}
	}
	return answer{orders: orders(groups), ttl: max(s.ttl, r.o.MinTTL)}
}

// isTemporary reports whether the lookup failed in a way that says nothing of
// the name.
func (a answer) isTemporary() bool { return a.err != nil && !errors.Is(a.err, ErrNotFound) }

// order returns one of the orders of the targets.
func (a answer) order(n uint32) []Target {
	if len(a.orders) == 0 {
		return nil
	}
	return a.orders[n%uint32(len(a.orders))]
}
