package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// Handler takes what arrives. Calls come concurrently, from one goroutine per UDP socket and per connection.
type Handler interface {
	// Receive takes one message. p and p.Data are valid until it returns and are then overwritten. A panic inside is
	// the handler's to recover.
	Receive(p *Packet)
	// Closed comes once per connection, also when a dial failed, after the last Receive of that connection. err is the
	// reason, never nil (io.EOF: the peer closed, on a WebSocket also by a close frame).
	Closed(c *Conn, err error)
	// Unreachable reports an ICMP error about a datagram sent earlier (RFC 3261 section 18.4). quoted is the head of
	// that datagram's payload as the kernel gives it: it may be short or empty and is valid until the call returns.
	// ICMP can be forged: match quoted against something that was sent. The flow's local address is that of the
	// datagram, also where it was sent on a flow that left the choice to the kernel.
	Unreachable(f Flow, quoted []byte)
}

// Packet is one message as it arrived.
type Packet struct {
	Flow Flow
	// Data is, over UDP, 1 to 65,535 bytes, not limited by Limits.MaxMessage; on a stream exactly one message by its
	// Content-Length; on a WebSocket what one WebSocket message holds, where Content-Length may be missing or wrong.
	Data []byte
	// Waited is how long a datagram sat in the kernel's receive queue, by the wall clock; 0 on streams and where the
	// system cannot tell.
	Waited time.Duration
	// Fault is set when a stream cannot be framed any further: Data is what there is of the message (possibly empty),
	// and the connection is closed once the replies that Receive sent are out.
	Fault wire.Fault
}

// Options says how a Layer works. The zero value serves.
type Options struct {
	Limits config.Limits
	// ClientTLS is used, cloned, for TLS connections that we open; nil = the system's roots, TLS 1.2 or newer.
	ClientTLS *tls.Config
	// ClientTLSFor, if set, chooses the configuration for one peer; nil from it means ClientTLS.
	ClientTLSFor func(serverName string, remote netip.AddrPort) *tls.Config
	// Admit, if set, is asked for each connection before anything is spent on it; false refuses. It must not block.
	Admit func(l *Listener, remote netip.AddrPort) bool
	// Banned, if set, is asked for the source of each datagram before anything else is done with it; true drops it. It
	// is called by every reader, for each datagram of a flood: it must be cheap and must not block or allocate.
	Banned func(src netip.Addr) bool
	// KeptAlive, if set, is asked for each keep-alive datagram, and for each read of a connection that holds keep-alives;
	// false ends the connection. It is called as often as peers like, and must not block.
	KeptAlive func(src netip.Addr, isStream bool) bool
	// Readers is the number of sockets and readers per UDP listener; 0 = GOMAXPROCS.
	Readers int
	// OnProblem takes rare operational lines, from any goroutine. It must not block.
	OnProblem func(format string, args ...any)
	// OnReload takes a line for each certificate that was read anew, as OnProblem does.
	OnReload func(format string, args ...any)
	// OnRefused is told why a connection from outside did not come about: ErrTotalLimit, ErrSourceLimit, or what went wrong
	// in the TLS handshake or the upgrade to a WebSocket. It is called as often as peers like, and must not block.
	OnRefused func(proto wire.Proto, remote netip.AddrPort, why error)
}

// Numbers we chose; those that an operator may need to change are in config.Limits.
const (
	dialTimeout = 5 * time.Second
	// mutePeer is how long a peer may say nothing at all on the connection that it opened: phones open one to register.
	mutePeer = 30 * time.Second
	// maxDialing bounds connections in the making; a storm of dials towards dead hosts must not take the process.
	maxDialing = 1024
	// Zero limits, as in tests and tools, mean these.
	defaultMaxMessage       = 65535
	defaultWriteQueue       = 1 << 20
	defaultReceiveBuffer    = 8 << 20
	defaultHandshakeTimeout = 10 * time.Second
	defaultMessageTimeout   = 15 * time.Second
	defaultIdleTimeout      = 3900 * time.Second
	defaultWriteTimeout     = 10 * time.Second
	defaultAcceptRate       = 1000
	defaultKeepAliveIdle    = 20 * time.Second
	defaultUnacknowledged   = 10 * time.Second
	// A peer that answers none of the kernel's probes is found dead so long after Limits.KeepaliveIdle.
	probeInterval = 5 * time.Second
	probes        = 3
)

var (
	// ErrClosed is the reason of connections that Layer.Close ended, and the answer to everything after it.
	ErrClosed = errors.New("transport closed")
	// ErrQueueFull is the reason of a connection whose peer took too little for too long (Limits.WriteQueue).
	ErrQueueFull = errors.New("write queue full")
	// ErrWriteTimeout is the reason of a connection whose peer took nothing for Limits.WriteTimeout.
	ErrWriteTimeout = errors.New("write timeout")
	// ErrSlowMessage is the reason of a connection whose peer did not complete a message in Limits.MessageTimeout.
	ErrSlowMessage = errors.New("message not completed in time")
	// ErrIdle is the reason of a connection on which nothing came for Limits.IdleTimeout, or nothing ever.
	ErrIdle = errors.New("idle for too long")
	// ErrUnwanted is the reason of connections that Layer.CloseFrom ended.
	ErrUnwanted = errors.New("connection of a source that is not wanted any more")
	// ErrNoFilter is Layer.Filter's answer where the system has no such thing.
	ErrNoFilter = errors.New("no socket filters on this system")
	// ErrTooManyConnections is Connect's answer at Limits.MaxConnections.
	ErrTooManyConnections = errors.New("too many connections")
	// ErrTooManyDials is Connect's answer while maxDialing connections are in the making.
	ErrTooManyDials = errors.New("too many connections being opened")

	errNotServing = errors.New("transport does not serve yet")
	errNoFlow     = errors.New("no flow")
)

// Layer holds all listeners and connections of the proxy.
type Layer struct {
	options Options
	limits  limits
	handler Handler // set by Serve, before the first goroutine
	conns   registry
	pace    pace
	count   counters

	done     chan struct{} // closed by the first Close
	finished chan struct{} // closed when every goroutine has ended

	filtering sync.Mutex // held by Filter

	mu        sync.Mutex
	running   sync.WaitGroup // Add only under mu while not isClosed
	listeners []*Listener
	isServing bool
	isClosed  bool
}

// limits are config.Limits with their defaults filled in, in the types used here.
type limits struct {
	maxMessage, writeQueue, receiveBuffer   int
	handshake, message, idle, mute, write   time.Duration
	maxConnections, maxConnectionsPerSource int
	acceptRate                              int // connections per second

	keepAlive net.KeepAliveConfig
	// unacknowledged is how long sent data may stay without an acknowledgement before the connection is given up; RFC
	// 9293 would have it retransmitted for a quarter of an hour.
	unacknowledged time.Duration
}

// New returns a Layer that does nothing yet.
func New(o Options) *Layer {
	if o.Readers <= 0 {
		o.Readers = runtime.GOMAXPROCS(0)
	}
	if o.OnProblem == nil {
		o.OnProblem = func(string, ...any) {}
	}
	if o.OnReload == nil {
		o.OnReload = func(string, ...any) {}
	}
	if o.KeptAlive == nil {
		o.KeptAlive = func(netip.Addr, bool) bool { return true }
	}
	if o.OnRefused == nil {
		o.OnRefused = func(wire.Proto, netip.AddrPort, error) {}
	}
	l := &Layer{options: o, limits: limitsOf(o.Limits), done: make(chan struct{}), finished: make(chan struct{})}
	l.conns.init(l.limits)
	l.pace.rate = float64(l.limits.acceptRate)
	return l
}

func limitsOf(c config.Limits) limits {
	return limits{
		maxMessage:              or(c.MaxMessage, defaultMaxMessage),
		writeQueue:              or(c.WriteQueue, defaultWriteQueue),
		receiveBuffer:           or(c.ReceiveBuffer, defaultReceiveBuffer),
		handshake:               or(time.Duration(c.HandshakeTimeout), defaultHandshakeTimeout),
		message:                 or(time.Duration(c.MessageTimeout), defaultMessageTimeout),
		idle:                    or(time.Duration(c.IdleTimeout), defaultIdleTimeout),
		mute:                    mutePeer,
		write:                   or(time.Duration(c.WriteTimeout), defaultWriteTimeout),
		maxConnections:          c.MaxConnections,
		maxConnectionsPerSource: c.MaxConnectionsPerSource,
		acceptRate:              or(c.AcceptRate, defaultAcceptRate),
		keepAlive: net.KeepAliveConfig{Enable: true, Idle: or(time.Duration(c.KeepaliveIdle), defaultKeepAliveIdle),
			Interval: probeInterval, Count: probes},
		unacknowledged: or(time.Duration(c.UnackedTimeout), defaultUnacknowledged),
	}
}

func or[T int | time.Duration](value, otherwise T) T {
	if value > 0 {
		return value
	}
	return otherwise
}

// Serve starts to read from all listeners and returns at once. It is called once, after Listen.
func (l *Layer) Serve(h Handler) {
	l.mu.Lock()
	if l.isServing || l.isClosed {
		l.mu.Unlock()
		return
	}
	l.isServing = true
	l.handler = h
	listeners := l.listeners
	l.mu.Unlock()
	for _, listener := range listeners {
		listener.serve()
	}
	l.run(l.relax) // ends with Close
	if l.watchesCertificates() {
		l.run(func() { // ends with Close
			t := time.NewTicker(certificatePoll)
			defer t.Stop()
			l.watchCertificates(t.C)
		})
	}
}

// relax goes through the connections for outbox.relax.
func (l *Layer) relax() {
	const margin = time.Second // the kernel's timers are not exact
	for !l.isDone() {
		l.pause(l.limits.unacknowledged + margin)
		for _, c := range l.conns.all() {
			c.relax()
		}
	}
}

// Listeners returns the listeners in the order of the configuration.
func (l *Layer) Listeners() []*Listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.listeners
}

// ConnByID returns the open connection with that id, or nil.
func (l *Layer) ConnByID(id uint64) *Conn { return l.conns.get(id) }

// CloseFrom closes the connections that were accepted from the peers that is picks, or dialled by ConnectBack, with
// ErrUnwanted, and returns how many it closed. It looks at each connection once: cheap enough for each ban, not for each
// message.
func (l *Layer) CloseFrom(is func(remote netip.AddrPort) bool) (closed int) {
	for _, c := range l.conns.guests() {
		if is(c.remote) && c.end(ErrUnwanted) {
			closed++
		}
	}
	return closed
}

// Close closes all listeners and connections and waits for every goroutine, until ctx ends. It may be called any number
// of times, but not from within the handler, whose goroutines it waits for.
func (l *Layer) Close(ctx context.Context) error {
	l.mu.Lock()
	first := !l.isClosed
	l.isClosed = true
	listeners := l.listeners
	l.mu.Unlock()
	if first {
		close(l.done)
		for _, listener := range listeners {
			listener.close()
		}
		for _, c := range l.conns.shut() {
			c.Close(ErrClosed)
		}
		go func() { // ends with the last goroutine of the layer
			l.running.Wait()
			close(l.finished)
		}()
	}
	select {
	case <-l.finished:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("closing transport: handlers still running: %w", ctx.Err())
	}
}

// run starts f on a goroutine that Close waits for; false after Close.
func (l *Layer) run(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
		return false
	}
	l.running.Go(f)
	return true
}

// pause waits, for less when the layer is closed.
func (l *Layer) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.done:
	}
}

func (l *Layer) isDone() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

func isClosedErr(err error) bool { return errors.Is(err, net.ErrClosed) }
