package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gobwas/ws"

	"github.com/sipward/sipward/proxy/wire"
)

// Conn is one TCP, TLS or WebSocket connection, accepted or dialled. One goroutine, run, is its whole life.
type Conn struct {
	layer      *Layer
	id         uint64
	proto      wire.Proto
	inbound    bool
	isGuest    bool      // counts among those of its source: accepted, or dialled by ConnectBack
	listener   *Listener // accepted connections
	remote     netip.AddrPort
	from       netip.Addr // dialled: the address to dial from, if any
	serverName string     // dialled TLS

	older     *Conn // guarded by registry.mu
	isDialing bool  // guarded by registry.mu

	ctx    context.Context // dialled: ends when the connection is closed; stops the dial
	cancel context.CancelFunc

	local   atomic.Pointer[netip.AddrPort]
	isReady atomic.Bool // stream may be written to; set after early was written
	stream  io.ReadWriter
	web     *webSocket // stream, if it is one

	unanswered atomic.Int32 // pings sent since something came

	mu    sync.Mutex
	early []byte // sent before the connection was ready
	box   *outbox
	tls   *tls.Conn
	input *ciphertext // of tls
	err   error       // why it is closed; nil = it is not
}

// ID returns a number that no other connection has or will have, also after a restart.
func (c *Conn) ID() uint64 { return c.id }

// Proto returns TCP, TLS, WS or WSS.
func (c *Conn) Proto() wire.Proto { return c.proto }

// Local returns our address, without a port or invalid while the connection is being dialled.
func (c *Conn) Local() netip.AddrPort {
	if a := c.local.Load(); a != nil {
		return *a
	}
	return netip.AddrPortFrom(c.from, 0)
}

// Remote returns the peer's address.
func (c *Conn) Remote() netip.AddrPort { return c.remote }

// Inbound tells whether the peer opened the connection.
func (c *Conn) Inbound() bool { return c.inbound }

// Listener returns where the connection was accepted, nil if we opened it.
func (c *Conn) Listener() *Listener { return c.listener }

// Flow returns the flow to the peer.
func (c *Conn) Flow() Flow { return Flow{conn: c} }

// Err returns why the connection is closed, nil while it is not.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection for the given reason, without waiting; of several reasons the first counts. What is queued is
// dropped. Handler.Closed follows on the connection's goroutine.
func (c *Conn) Close(reason error) {
	if reason == nil {
		reason = ErrClosed
	}
	c.end(reason)
}

// end is Close; false when the connection was closed already.
func (c *Conn) end(reason error) bool {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return false
	}
	c.err = reason
	c.layer.countClosed(reason) // before Handler.Closed may come
	c.early = nil
	box, secure, web := c.box, c.tls, c.web
	c.mu.Unlock()

	if c.cancel != nil {
		c.cancel()
	}
	c.layer.conns.retire(c)
	if web != nil {
		web.goodbye(reason)
	}
	if secure != nil {
		_ = secure.Close() // says goodbye to the peer, then closes the box
	}
	if box != nil {
		_ = box.Close()
	}
	return true
}

func (l *Layer) countClosed(reason error) {
	switch reason {
	case ErrQueueFull:
		l.count.queueOverflows.Add(1)
	case ErrWriteTimeout:
		l.count.writeTimeouts.Add(1)
	case ErrSlowMessage:
		l.count.slowMessages.Add(1)
	case ErrIdle:
		l.count.idleClosed.Add(1)
	}
}

func (c *Conn) peer() peer { return peer{c.proto, c.remote} }

// send writes b, or keeps it until the connection is ready.
func (c *Conn) send(b []byte) error {
	if !c.isReady.Load() {
		if isKept, err := c.keep(b); isKept || err != nil {
			return err
		}
	}
	_, err := c.stream.Write(b)
	return c.sent(err)
}

// sent ends the connection if err, of writing to it, says so.
func (c *Conn) sent(err error) error {
	if err == nil || err == errWebClosed {
		return err
	}
	c.Close(err)
	return c.Err()
}

// Ping sends a keep-alive, which the peer has to answer: a ping frame on a WebSocket (RFC 6455 section 5.5.2), CRLFCRLF
// on other streams (RFC 5626 section 3.5.1). It never blocks. A connection that is still being established needs none.
func (c *Conn) Ping() error {
	if !c.isReady.Load() {
		return c.Err()
	}
	c.unanswered.Add(1)
	if c.web != nil {
		return c.control(ws.OpPing, nil)
	}
	return c.send([]byte(ping))
}

// Unanswered returns how many times Ping was called since anything came from the peer: 0 says that it lives.
func (c *Conn) Unanswered() int { return int(c.unanswered.Load()) }

// keep queues b while the connection is being established.
func (c *Conn) keep(b []byte) (isKept bool, err error) {
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return false, c.err
	}
	if c.isReady.Load() {
		c.mu.Unlock()
		return false, nil
	}
	if !c.proto.Streamed() { // messages have to stay apart, and nobody knows this connection yet
		c.mu.Unlock()
		return false, errNotOpen
	}
	if len(c.early)+len(b) > c.layer.limits.writeQueue {
		c.mu.Unlock()
		c.Close(ErrQueueFull)
		return false, ErrQueueFull
	}
	c.early = append(c.early, b...)
	c.mu.Unlock()
	return true, nil
}

// accepted takes a new connection over, or refuses it and returns false.
func (l *Layer) accepted(from *Listener, raw *net.TCPConn) bool {
	remote := unmapped(raw.RemoteAddr().(*net.TCPAddr).AddrPort())
	c := &Conn{layer: l, proto: from.proto, remote: remote, inbound: true, isGuest: true, listener: from}
	if admit := l.options.Admit; admit != nil && !admit(from, remote) {
		l.count.refusedByRule.Add(1)
		return refuse(raw)
	}
	switch err := l.conns.accept(c); err {
	case nil:
	case ErrTotalLimit:
		l.options.OnRefused(c.proto, remote, err)
		l.count.refusedTotal.Add(1)
		return refuse(raw)
	case ErrSourceLimit:
		l.options.OnRefused(c.proto, remote, err)
		l.count.refusedPerSource.Add(1)
		return refuse(raw)
	default:
		return refuse(raw)
	}
	l.count.accepted.Add(1)
	if !l.run(func() { c.run(raw) }) { // ends when the connection is closed
		l.conns.leave(c)
		return refuse(raw)
	}
	return true
}

// refuse resets: a flood of refused connections must not fill the table of those in TIME_WAIT. It returns false.
func refuse(raw *net.TCPConn) bool {
	_ = raw.SetLinger(0)
	_ = raw.Close()
	return false
}

// run is the connection's goroutine. raw is nil for one that is to be dialled.
func (c *Conn) run(raw *net.TCPConn) {
	err := c.establish(raw)
	if err == nil {
		err = c.read()
	}
	c.Close(c.reason(err))
	c.layer.conns.leave(c)
	c.layer.handler.Closed(c, c.Err())
}

func (c *Conn) relax() {
	c.mu.Lock()
	box := c.box
	c.mu.Unlock()
	if box != nil {
		box.relax()
	}
}

// reason is why reading ended: where the box closed the socket because of the writing side, that is why.
func (c *Conn) reason(err error) error {
	c.mu.Lock()
	box := c.box
	c.mu.Unlock()
	if box == nil || !isClosedErr(err) {
		return err
	}
	return box.failure(err)
}

// establish brings the connection to where messages can be read and written.
func (c *Conn) establish(raw *net.TCPConn) error {
	if raw == nil {
		var err error
		if raw, err = c.dial(); err != nil {
			c.layer.count.dialFailures.Add(1)
			return err
		}
	}
	local := unmapped(raw.LocalAddr().(*net.TCPAddr).AddrPort())
	c.local.Store(&local)
	box, err := newOutbox(raw, c.layer.limits, c.layer.run, c.Close)
	if err != nil {
		_ = raw.Close()
		return err
	}
	var secure *tls.Conn
	var input *ciphertext
	if c.proto.Secure() {
		input = &ciphertext{outbox: box}
		secure = c.secure(input)
	}
	if err := c.attach(box, secure, input); err != nil {
		return err
	}
	stream, err := c.handshake(box, secure)
	if err != nil {
		c.tellRefused(err)
		c.layer.count.handshakeFailures.Add(1)
		return err
	}
	c.layer.conns.established(c)
	return c.open(stream)
}

// tellRefused says why a peer has no connection. One that went away by itself, as those do that only look whether somebody
// listens, has not been refused.
func (c *Conn) tellRefused(why error) {
	if c.inbound && !errors.Is(why, io.EOF) && !errors.Is(why, syscall.ECONNRESET) && !isClosedErr(why) {
		c.layer.options.OnRefused(c.proto, c.remote, why)
	}
}

// attach makes Close reach the socket.
func (c *Conn) attach(box *outbox, secure *tls.Conn, input *ciphertext) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		_ = box.Close()
		return c.err
	}
	c.box, c.tls, c.input = box, secure, input
	return nil
}

// open writes what was sent so far and lets later sends through, in that order.
func (c *Conn) open(stream io.ReadWriter) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	c.stream = stream
	c.web, _ = stream.(*webSocket)
	if len(c.early) > 0 {
		if _, err := stream.Write(c.early); err != nil {
			return err
		}
	}
	c.early = nil
	c.isReady.Store(true)
	return nil
}

// secure puts TLS on the socket, on the side that fits.
func (c *Conn) secure(input *ciphertext) *tls.Conn {
	if c.inbound {
		return tls.Server(input, c.listener.tlsConfig)
	}
	return tls.Client(input, c.layer.clientTLS(c.serverName, c.remote))
}

// handshake brings box to where messages can be exchanged, in bounded time: a peer that opens a connection and says
// nothing costs one goroutine for that long.
func (c *Conn) handshake(box *outbox, secure *tls.Conn) (io.ReadWriter, error) {
	if c.proto == wire.TCP {
		return box, nil
	}
	_ = box.SetReadDeadline(time.Now().Add(c.layer.limits.handshake))
	var stream io.ReadWriter = box
	var err error
	if secure != nil {
		stream, err = secure, secure.Handshake()
	}
	if err == nil && !c.proto.Streamed() {
		stream, err = c.upgrade(stream)
	}
	if err != nil {
		return nil, inTime(err)
	}
	return stream, box.SetReadDeadline(time.Time{})
}

func inTime(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return errHandshakeTimeout
	}
	return err
}

var (
	errHandshakeTimeout = errors.New("handshake not completed in time")
	errNotOpen          = errors.New("handshake is not completed")
)

// upgrade makes a WebSocket of the stream of an accepted connection.
func (c *Conn) upgrade(stream io.ReadWriter) (io.ReadWriter, error) {
	rest, err := upgrade(stream, c.listener.origins)
	if err == nil {
		return &webSocket{under: stream, frames: frames{max: c.layer.limits.maxMessage}, first: rest}, nil
	}
	var refused *refusal
	if errors.As(err, &refused) {
		c.linger()
	}
	return nil, err
}
