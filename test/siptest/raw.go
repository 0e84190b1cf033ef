package siptest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Raw is an endpoint without a SIP stack: what is sent is sent byte for byte, and every
// message that arrives can be looked at. It neither retransmits nor answers on its own,
// but for what Auto is told to.
type Raw struct {
	network string // udp, tcp or tls; dialled also ws or wss
	local   netip.AddrPort
	peer    netip.AddrPort

	udp     *net.UDPConn
	ln      net.Listener
	conn    net.Conn // of a dialled stream
	readers sync.WaitGroup

	mu     sync.Mutex // guards what follows
	boxes  map[string]*Box
	rest   *Box
	auto   func(*Message) bool
	conns  map[net.Conn]bool
	closed bool
	// The last answer to each datagram that has arrived, nil without one; the map is nil where repeats are not absorbed.
	answers map[string][]byte
}

// ListenRaw binds a socket that receives: network is udp, tcp or tls, config the
// certificate for tls. Port 0 takes a free one.
func ListenRaw(network string, at netip.AddrPort, config *tls.Config) (*Raw, error) {
	r := newRaw(network)
	if network == "udp" {
		udp, err := bindUDP(at)
		if err != nil {
			return nil, err
		}
		r.udp, r.local = udp, addrPort(udp.LocalAddr())
		r.readers.Go(r.readUDP)
		return r, nil
	}
	ln, err := net.Listen("tcp", at.String())
	if err != nil {
		return nil, err
	}
	if network == "tls" {
		ln = tls.NewListener(ln, config)
	}
	r.ln, r.local = ln, addrPort(ln.Addr())
	r.readers.Go(r.accept)
	return r, nil
}

// DialRaw opens a connection to a peer, also a WebSocket, or a UDP socket whose Send goes there.
func DialRaw(network string, peer netip.AddrPort, config *tls.Config) (*Raw, error) {
	return dialRaw(network, netip.AddrPortFrom(loopbackOf(peer), 0), peer, config)
}

// DialRawFrom is DialRaw with a local address.
func DialRawFrom(network string, local, peer netip.AddrPort, config *tls.Config) (*Raw, error) {
	return dialRaw(network, local, peer, config)
}

func dialRaw(network string, local, peer netip.AddrPort, config *tls.Config) (*Raw, error) {
	if network == "udp" {
		// Not connected: an ICMP error must not fail a later read.
		r, err := ListenRaw(network, local, nil)
		if err != nil {
			return nil, err
		}
		r.peer = peer
		return r, nil
	}
	r := newRaw(network)
	r.peer = peer
	var err error
	if network == "ws" || network == "wss" {
		r.conn, err = DialWebSocket(network, local, peer, config)
	} else {
		r.conn, err = dialStream(network == "tls", local, peer, config)
	}
	if err != nil {
		return nil, err
	}
	r.local = addrPort(r.conn.LocalAddr())
	r.readers.Go(func() { r.readStream(r.conn) })
	return r, nil
}

const dialTime = 20 * time.Second

func dialStream(secure bool, local, peer netip.AddrPort, config *tls.Config) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: dialTime, LocalAddr: net.TCPAddrFromAddrPort(local)}
	if secure {
		return tls.DialWithDialer(dialer, "tcp", peer.String(), config)
	}
	return dialer.Dial("tcp", peer.String())
}

func newRaw(network string) *Raw {
	return &Raw{network: network, rest: newBox(), boxes: make(map[string]*Box), conns: make(map[net.Conn]bool)}
}

func loopbackOf(peer netip.AddrPort) netip.Addr {
	if peer.Addr().Is6() {
		return netip.IPv6Loopback()
	}
	return Loopback
}

// Addr is the local address.
func (r *Raw) Addr() netip.AddrPort { return r.local }

// Network is udp, tcp, tls, ws or wss.
func (r *Raw) Network() string { return r.network }

// Send sends bytes to the peer given to DialRaw.
func (r *Raw) Send(b []byte) error {
	if r.conn != nil {
		_, err := r.conn.Write(b)
		return err
	}
	return r.SendTo(b, r.peer)
}

// SendTo sends one datagram.
func (r *Raw) SendTo(b []byte, to netip.AddrPort) error {
	if r.udp == nil {
		return fmt.Errorf("%s endpoint has no datagrams to send", r.network)
	}
	_, err := r.udp.WriteToUDPAddrPort(b, to)
	return err
}

// Via is the Via value for a request of this endpoint, with a fresh branch.
func (r *Raw) Via() string {
	return "SIP/2.0/" + strings.ToUpper(r.network) + " " + r.local.String() + ";branch=z9hG4bK" + Unique("b")
}

// URI is a SIP URI of this endpoint.
func (r *Raw) URI(user string) string { return URI(user, r.local, r.network) }

// Request starts a request that comes from this endpoint: Request with Via and Contact.
func (r *Raw) Request(method, uri string) *Text {
	return Request(method, uri).Prepend("Via", r.Via()).Add("Contact", "<"+r.URI("caller")+">")
}

// Auto installs a handler that sees every message first, on the reader's goroutine;
// true means that it needs no box. It is for OPTIONS probes and the like.
func (r *Raw) Auto(handle func(*Message) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auto = handle
}

// Absorb treats, from now on, every datagram that repeats an earlier one byte for byte as a
// transaction layer does (RFC 3261 17): it is dropped, after the answer to the earlier one, if there
// was one, has been sent again. For tests that are not about retransmissions, since on a machine
// that is slow for a moment T1 goes by.
func (r *Raw) Absorb() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.udp != nil {
		r.answers = make(map[string][]byte)
	}
}

// Box collects the messages with one Call-ID from now on.
func (r *Raw) Box(callID string) *Box {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.boxes[callID]
	if b == nil {
		b = newBox()
		r.boxes[callID] = b
	}
	return b
}

// Rest collects what has no box of its own.
func (r *Raw) Rest() *Box { return r.rest }

// Next is the next message without a box of its own.
func (r *Raw) Next(within time.Duration) (*Message, error) { return r.rest.Next(within) }

// CloseWrite ends the sending half of a dialled stream.
func (r *Raw) CloseWrite() error {
	if c, ok := r.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.New("not a stream")
}

// Reset ends a dialled stream as a crash does: the peer gets a RST.
func (r *Raw) Reset() error {
	conn := r.conn
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return errors.New("not a stream")
	}
	if err := c.SetLinger(0); err != nil {
		return err
	}
	return errors.Join(c.Close(), r.Close())
}

// DropConnections closes every connection this endpoint has accepted, and keeps listening.
func (r *Raw) DropConnections() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		_ = c.Close() // the reader sees the error
	}
}

// Close ends the endpoint and waits for its readers.
func (r *Raw) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	var err error
	for c := range r.conns {
		err = errors.Join(err, ignoreClosed(c.Close()))
	}
	r.mu.Unlock()
	if r.udp != nil {
		err = errors.Join(err, r.udp.Close())
	}
	if r.ln != nil {
		err = errors.Join(err, r.ln.Close())
	}
	if r.conn != nil {
		err = errors.Join(err, ignoreClosed(r.conn.Close()))
	}
	r.readers.Wait()
	return err
}

// ignoreClosed: a stream the other side has shut may fail its goodbye.
func ignoreClosed(err error) error {
	var op *net.OpError
	if errors.Is(err, net.ErrClosed) || errors.As(err, &op) {
		return nil
	}
	return err
}

func (r *Raw) readUDP() {
	buf := make([]byte, 65536)
	for {
		n, from, err := r.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			r.end(err)
			return
		}
		from = unmapped(from)
		r.deliver(&Message{
			Data: bytes.Clone(buf[:n]), Network: r.network, From: from, Local: r.local,
			reply: func(b []byte) error { return r.SendTo(b, from) },
		})
	}
}

func (r *Raw) accept() {
	for {
		conn, err := r.ln.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			_ = conn.Close() // nobody is left to tell
			return
		}
		r.conns[conn] = true
		r.mu.Unlock()
		r.readers.Go(func() {
			defer func() {
				r.mu.Lock()
				delete(r.conns, conn)
				r.mu.Unlock()
				_ = conn.Close() // the peer has gone or we are closing
			}()
			r.readStream(conn)
		})
	}
}

func (r *Raw) readStream(conn net.Conn) {
	in := bufio.NewReaderSize(conn, 1<<16)
	for {
		data, err := readMessage(in)
		if err != nil {
			if r.conn != nil {
				r.end(err)
			}
			return
		}
		r.deliver(&Message{
			Data: data, Network: r.network, From: addrPort(conn.RemoteAddr()), Local: addrPort(conn.LocalAddr()),
			reply: func(b []byte) error { _, err := conn.Write(b); return err },
		})
	}
}

// readMessage cuts one message by its Content-Length; CRLFs between messages are returned
// as a message of their own ("\r\n"), so that tests see keep-alive answers.
func readMessage(in *bufio.Reader) ([]byte, error) {
	var head []byte
	length := 0
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			if errors.Is(err, io.EOF) && len(head)+len(line) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if len(head) == 0 && len(bytes.TrimRight(line, "\r\n")) == 0 {
			return line, nil
		}
		head = append(head, line...)
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			break
		}
		if name, value := splitLine(string(bytes.TrimRight(line, "\r\n"))); name == "content-length" {
			if n, err := strconv.Atoi(value); err == nil {
				length = n
			}
		}
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(in, body); err != nil {
		return nil, err
	}
	return append(head, body...), nil
}

func (r *Raw) deliver(m *Message) {
	r.mu.Lock()
	auto := r.auto
	box := r.boxes[m.CallID()]
	answer, again := r.answers[string(m.Data)]
	if r.answers != nil && !again {
		r.answers[string(m.Data)] = nil
		m.reply = r.remembering(m.reply, string(m.Data))
	}
	r.mu.Unlock()
	if again {
		if answer != nil {
			_ = m.reply(answer) // fails when the test is over
		}
		return
	}
	if auto != nil && auto(m) {
		return
	}
	if box == nil {
		box = r.rest
	}
	box.put(m)
}

// remembering keeps the answers to a request for its repeats.
func (r *Raw) remembering(reply func([]byte) error, request string) func([]byte) error {
	return func(b []byte) error {
		r.mu.Lock()
		r.answers[request] = b
		r.mu.Unlock()
		return reply(b)
	}
}

// end tells every waiting test that nothing will come any more.
func (r *Raw) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.boxes {
		b.fail(err)
	}
	r.rest.fail(err)
}

// Box is a queue of received messages, in the order of their arrival.
type Box struct {
	mu   sync.Mutex
	msgs []*Message
	err  error
	wake chan struct{} // one token: something changed
}

func newBox() *Box { return &Box{wake: make(chan struct{}, 1)} }

func (b *Box) put(m *Message) {
	b.mu.Lock()
	b.msgs = append(b.msgs, m)
	b.mu.Unlock()
	b.signal()
}

func (b *Box) fail(err error) {
	b.mu.Lock()
	b.err = err
	b.mu.Unlock()
	b.signal()
}

func (b *Box) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// ErrNothing is returned by Next when no message came in time.
var ErrNothing = errors.New("no message within the time allowed")

// Next takes the next message; ErrNothing after the time allowed, the socket's error when it is
// closed and empty. One goroutine at a time.
func (b *Box) Next(within time.Duration) (*Message, error) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		m, err := b.take()
		if m != nil || err != nil {
			return m, err
		}
		select {
		case <-b.wake:
		case <-timer.C:
			return nil, ErrNothing
		}
	}
}

// Wait is Next for a context.
func (b *Box) Wait(ctx context.Context) (*Message, error) {
	for {
		m, err := b.take()
		if m != nil || err != nil {
			return m, err
		}
		select {
		case <-b.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Len is the number of messages that wait.
func (b *Box) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.msgs)
}

func (b *Box) take() (*Message, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.msgs) > 0 {
		m := b.msgs[0]
		b.msgs = b.msgs[1:]
		return m, nil
	}
	return nil, b.err
}
