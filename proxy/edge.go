package proxy

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/backend"
	"github.com/sipward/sipward/proxy/binding"
	"github.com/sipward/sipward/proxy/cdr"
	"github.com/sipward/sipward/proxy/eventlog"
	"github.com/sipward/sipward/proxy/resolve"
	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/security"
	"github.com/sipward/sipward/store"
	"github.com/sipward/sipward/timers"
)

// Numbers we chose.
const (
	wheelTick = 10 * time.Millisecond
	// errorRepliesPerSecond bounds answers to messages that are not sound.
	errorRepliesPerSecond = 200
	// panicLinesPerSecond bounds the lines about our own bugs.
	panicLinesPerSecond = 1
	// noteLinesPerSecond bounds the lines about single calls.
	noteLinesPerSecond = 5
	// tokenLinesPerSecond bounds the lines about refused tokens.
	tokenLinesPerSecond = 1
	// flowLinesPerSecond bounds the lines about closed connections of registered phones.
	flowLinesPerSecond = 100
)

// Edge is one running proxy. Make it with New, which opens the sockets, then
// Start it; Reload at will; Stop it once.
type Edge struct {
	log        *eventlog.Log
	wheel      *timers.Wheel
	net        *transport.Layer
	resolver   *resolve.Resolver
	table      *transaction.Table[transactor]
	onConn     *connIndex
	affinity   *affinity
	dialogs    *dialog.Store
	bindings   *binding.Table
	registrars registrars
	learned    *learned
	records    *cdr.Writer
	state      *store.File // nil: calls do not outlive a restart
	sources    *sources
	guard      *security.Guard
	snap       atomic.Pointer[snapshot]

	key    transaction.Key // signs branches
	tokens tokenKey        // signs Record-Route
	seed   maphash.Seed    // of loop hashes

	load         load
	errorReplies *backend.Rate
	panicLines   *backend.Rate
	noteLines    *backend.Rate
	banLines     *backend.Rate
	loopLines    *backend.Rate
	tokenLines   *backend.Rate
	flowLines    *backend.Rate
	refused      refused
	stunAnswers  *backend.Rate
	reopens      *backend.Rate // connections opened to a peer outside for a response
	banned       chan struct{} // wakes watch
	suspendedAt  atomic.Int64  // when a ban was last held back, 0 = never
	offload      offload
	probePace    atomic.Pointer[timers.Pace] // of probe_rate_max
	probes       probeCounts
	count        counters
	pool         sync.Pool // *scratch

	active     atomic.Int64 // response contexts without a final response
	lastAnswer atomic.Int64 // when a 2xx to an INVITE was passed on last
	held       atomic.Int64 // bytes of messages that response contexts store
	draining   atomic.Bool
	idle       chan struct{} // closed when draining and nothing is active
	idleOnce   sync.Once

	mu       sync.Mutex // guards what follows: Start, Reload, Stop
	probers  []*prober
	watches  []func()
	running  sync.WaitGroup
	stopTime context.CancelFunc

	maxMessage int             // bytes, of datagrams too
	hook       func(*wire.Msg) // tests: called with every scanned message
}

// New opens the sockets of a sound configuration. Errors name what could not be
// done and what to do about it; then nothing stays open. records, which may be nil,
// stays the caller's, as log does: close it after Stop.
func New(c *config.Config, log *eventlog.Log, records *cdr.Writer) (_ *Edge, err error) {
	state, err := openState(c, log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && state != nil {
			err = errors.Join(err, state.Close(context.Background()))
		}
	}()
	secret := []byte(c.Secret)
	switch {
	case len(secret) > 0:
	case state != nil:
		secret = state.Secret()
	default:
		k := transaction.NewKey()
		secret = k.Append(nil, transaction.Branch{})
	}
	e := &Edge{
		log: log, records: records, state: state, learned: newLearned(), wheel: timers.NewWheel(wheelTick), table: transaction.NewTable[transactor](c.Limits.MaxTransactions),
		onConn: newConnIndex(), affinity: newAffinity(), sources: newSources(),
		key: transaction.NewKey(), tokens: newTokenKey(secret), seed: maphash.MakeSeed(),
		errorReplies: backend.NewRate(errorRepliesPerSecond), panicLines: backend.NewRate(panicLinesPerSecond),
		noteLines: backend.NewRate(noteLinesPerSecond), banLines: backend.NewRate(banLinesPerSecond), loopLines: backend.NewRate(loopLinesPerSecond),
		tokenLines: backend.NewRate(tokenLinesPerSecond), flowLines: backend.NewRate(flowLinesPerSecond), stunAnswers: backend.NewRate(stunAnswersPerSecond),
		reopens: backend.NewRate(reopensPerSecond),
		idle:    make(chan struct{}), banned: make(chan struct{}, 1), maxMessage: c.Limits.MaxMessage,
	}
	e.dialogs = dialog.NewStore(dialog.Options{
		Capacity: c.Limits.MaxDialogs, Wheel: e.wheel, Due: e.callDue, Keep: state != nil,
		Own: func(user []byte) (dialog.ID, bool) { t, ok := e.tokens.parse(user); return t.call, ok },
	})
	e.bindings = binding.NewTable(binding.Options{
		Capacity: c.Limits.MaxBindings, Wheel: e.wheel, Keep: state != nil, Ping: e.ping, Gone: e.bindingGone,
	})
	e.guard = newGuard(c, e.dialogs.CallsOf, e.isInside)
	e.wheel.OnPanic = func(v any, stack []byte) { e.panicked(v, stack, "timer") }
	e.net = transport.New(transport.Options{
		Limits: c.Limits, ClientTLSFor: e.clientTLS, Admit: e.admits, Banned: e.isBanned, KeptAlive: e.keptAlive, OnRefused: e.refused.note,
		OnProblem: func(format string, args ...any) { log.Op().Warn().Msg(fmt.Sprintf(format, args...)) },
		OnReload:  func(format string, args ...any) { log.Op().Info().Msg(fmt.Sprintf(format, args...)) },
	})
	if err := e.net.Listen(c.Listen); err != nil {
		return nil, err
	}
	e.resolver = newResolver(c.Resolver)
	snap, err := e.newSnapshot(c, e.net.Listeners(), nil)
	if err != nil {
		e.resolver.Close()
		return nil, joinClose(err, e.net)
	}
	e.take(snap)
	if state == nil {
		return e, nil
	}
	if err := e.restore(c); err != nil {
		e.resolver.Close()
		return nil, joinClose(err, e.net)
	}
	return e, nil
}

// take makes a snapshot the current one.
func (e *Edge) take(s *snapshot) {
	e.snap.Store(s)
	e.probePace.Store(timers.NewPace(s.config.Timers.ProbeRateMax))
	e.bindings.Configure(pingInterval(s.config.Registration), s.config.Registration.ClosedGrace.D())
}

// newSnapshot makes one whose backends know their calls.
func (e *Edge) newSnapshot(c *config.Config, l []*transport.Listener, old *snapshot) (*snapshot, error) {
	s, err := newSnapshot(c, l, old, e.wheel.Now())
	if err != nil {
		return nil, err
	}
	for _, p := range s.pools.Pools() {
		for _, b := range p.Backends() {
			b.CountCallsBy(e.dialogs.Tally(b.ID()))
		}
	}
	return s, nil
}

func joinClose(err error, l *transport.Layer) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if cerr := l.Close(ctx); cerr != nil {
		return fmt.Errorf("%w (and %w)", err, cerr)
	}
	return err
}

// Start begins to serve and to probe the backends.
func (e *Edge) Start() {
	e.mu.Lock()
	defer e.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	e.stopTime = cancel
	e.running.Go(func() { e.wheel.Run(ctx) }) // ends with Stop
	kernel := e.offload.open(e.snap.Load().config.Security.KernelOffload, e.net.Listeners())
	e.log.Op().Info().Str("kernel_offload", kernel).Msg("bans are enforced in the process, and by the kernel as far as it may")
	e.running.Go(func() { e.watch(ctx) })
	snap := e.snap.Load()
	e.watchLocked(snap)
	e.net.Serve(e)
	e.probers = e.startProbers(snap)
}

// watchLocked keeps the addresses of backends with names fresh.
func (e *Edge) watchLocked(s *snapshot) {
	for _, p := range s.pools.Pools() {
		for _, b := range p.Backends() {
			if _, literal := resolve.Literal(b.Query()); literal {
				continue
			}
			e.watches = append(e.watches, e.resolver.Watch(b.Query(), func(t []resolve.Target, err error) { e.found(b, t, err) }))
		}
	}
}

// found takes the addresses of a backend's name. After a failed look-up the last
// good answer stays.
func (e *Edge) found(b *backend.Backend, targets []resolve.Target, err error) {
	if err != nil {
		kept := ""
		if len(b.Targets()) > 0 {
			kept = "; the last addresses stay in use"
		}
		e.log.Op().Warn().Str("backend", b.Name()).Str("address", b.Address()).Err(err).
			Msg("backend name cannot be resolved: check the name and the resolver" + kept)
		return
	}
	b.SetTargets(targets)
	e.offload.outdate()
	e.log.Op().Info().Str("backend", b.Name()).Str("address", b.Address()).Int("targets", len(targets)).
		Msg("backend name resolved to " + targets[0].Addr.String())
}

// Reload swaps the configuration. Running transactions finish on the old one.
// What needs a restart (listeners, sizes) stays as it is: config.Diff names it.
// On an error nothing has changed.
func (e *Edge) Reload(c *config.Config) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.snap.Load()
	snap, err := e.newSnapshot(c, old.listeners, old)
	if err != nil {
		return err
	}
	e.take(snap)
	e.registrars.forget()
	e.offload.outdate()
	for _, err := range e.net.ReloadCertificates() {
		e.log.Op().Warn().Msg(err.Error())
	}
	e.endSnapshotLocked()
	e.watchLocked(snap)
	e.probers = e.startProbers(snap)
	return nil
}

// endSnapshotLocked stops what runs for a snapshot.
func (e *Edge) endSnapshotLocked() {
	for _, stop := range e.watches {
		stop()
	}
	for _, p := range e.probers {
		p.stop()
	}
	e.watches, e.probers = nil, nil
}

// FirstProbe is the first result of probing one backend.
type FirstProbe struct {
	Pool, Name, Address string
	State, Why          string // for people
	Status              int    // of the answer, 0 = none
	Unresolved          bool   // its name has no address yet
}

// FirstProbes waits for the first probe of every backend, or for ctx.
func (e *Edge) FirstProbes(ctx context.Context) []FirstProbe {
	e.mu.Lock()
	probers := e.probers
	e.mu.Unlock()
	var all []FirstProbe
	for _, p := range probers {
		if p.backend.Pool().Config().Probe.Interval > 0 {
			select {
			case <-p.known:
			case <-ctx.Done():
			}
		}
		now, b := e.wheel.Now(), p.backend
		o := p.outcome()
		all = append(all, FirstProbe{
			Pool: b.Pool().Name(), Name: b.Name(), Address: b.Address(), State: b.State(now).String(),
			Why: o.why, Status: o.status, Unresolved: o.unresolved,
		})
	}
	return all
}

// Listeners returns what the edge listens on: protocol, address, and what it
// advertises there.
func (e *Edge) Listeners() []Listener {
	snap := e.snap.Load()
	var all []Listener
	for _, l := range e.net.Listeners() {
		x := Listener{Proto: l.Proto().Param(), Bound: l.Bound(), Side: l.Config().Side}
		if a := snap.faces[l.Index()]; a.host != "" {
			port := a.port
			if port == 0 {
				port = l.Bound().Port()
			}
			x.Advertised = string(sentBy{name: a.host, port: port}.append(nil))
		}
		all = append(all, x)
	}
	return all
}

// Listener is one open listener.
type Listener struct {
	Proto      string
	Bound      netip.AddrPort
	Side       string
	Advertised string // empty: the bound address
}

// Drain refuses new calls and returns when every transaction was answered and the
// ACK of the last answered call had time to come, or when ctx ends. It returns how
// many were not answered.
func (e *Edge) Drain(ctx context.Context) int {
	e.draining.Store(true)
	e.checkIdle()
	select {
	case <-e.idle:
		e.awaitAck(ctx)
	case <-ctx.Done():
	}
	return int(e.active.Load())
}

// awaitAck waits as long as a 200 needs to be sent a second and a third time: an
// ACK has no transaction that could be waited for.
func (e *Edge) awaitAck(ctx context.Context) {
	last := time.Duration(e.lastAnswer.Load())
	if last == 0 {
		return
	}
	left := last + 4*e.snap.Load().times.T1 - e.wheel.Now()
	if left <= 0 {
		return
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// unanswered counts a response context in, answered one out.
func (e *Edge) unanswered() { e.active.Add(1) }

func (e *Edge) answered() {
	e.active.Add(-1)
	e.checkIdle()
}

func (e *Edge) checkIdle() {
	if e.draining.Load() && e.active.Load() == 0 {
		e.idleOnce.Do(func() { close(e.idle) })
	}
}

// Stop closes everything and waits for every goroutine, until ctx ends.
func (e *Edge) Stop(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.endSnapshotLocked()
	err := e.net.Close(ctx)
	e.resolver.Close()
	if e.stopTime != nil {
		e.stopTime()
		e.running.Wait()
	}
	err = errors.Join(err, e.offload.close())
	if e.state != nil { // last, with all that the others did
		err = errors.Join(err, e.state.Close(ctx))
	}
	return err
}

// Closed fails what waited on a connection. It implements transport.Handler.
func (e *Edge) Closed(c *transport.Conn, err error) {
	defer e.outlive(c.Remote().String())
	set := e.onConn.take(c.ID())
	w := e.scratch()
	defer e.release(w)
	now := e.wheel.Now()
	if !errors.Is(err, transport.ErrClosed) { // by Stop: registrations are kept as they were
		e.flowClosed(c, now)
		e.noteBroken(c, err, now)
	}
	e.dialogs.ConnClosed(&w.effects, c.ID(), now)
	w.flush()
	for t := range set {
		t.connClosed(w, c, now)
		w.flush()
	}
}

// noteBroken says why a connection that we opened is of no use: what waited on it only knows
// that it failed.
func (e *Edge) noteBroken(c *transport.Conn, err error, now time.Duration) {
	if c.Inbound() || errors.Is(err, io.EOF) || errors.Is(err, transport.ErrIdle) || !e.noteLines.Admit(now) {
		return
	}
	why := err.Error() // which may quote the peer's certificate
	e.log.Op().Warn().Str("peer", c.Proto().Param()+":"+c.Remote().String()).Str("error", why[:min(len(why), 256)]).Msg("connection failed")
}

// Unreachable fails the one leg whose request the network could not deliver. ICMP
// can be forged, so it counts only with a branch of ours in what it quotes. It
// implements transport.Handler.
func (e *Edge) Unreachable(f transport.Flow, quoted []byte) {
	defer e.outlive(f.Remote().String())
	w := e.scratch()
	defer e.release(w)
	w.msg.Scan(quoted, false) // cut short, so it is faulty
	branch, ok := e.key.Parse(w.msg.Bytes(w.msg.TopVia.Branch))
	if !ok {
		return
	}
	if t, ok := e.table.At(branch.Slot); ok {
		t.unreachable(w, branch, f.Remote())
		w.flush()
	}
}
