package transport

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/sipward/sipward/proxy/wire"
)

// Read buffers are borrowed. A connection at rest holds none, with TLS, whose Read waits with a buffer in its hands, a
// small one; what has come of a message holds one of its size.
const (
	smallBuffer = 2 << 10
	midBuffer   = 16 << 10
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	midBuffers   = sync.Pool{New: func() any { return new([midBuffer]byte) }}
)

// CRLF keep-alives (RFC 5626 section 3.5.1).
const (
	ping = "\r\n\r\n"
	pong = "\r\n"
)

// maxPongs bounds the answers to one read: a client has one ping under way, a flood deserves no more. With maxPings in
// one read the connection ends.
const (
	maxPongs = 16
	maxPings = 256
)

var errPings = errors.New("too many keep-alives")

var pongs = func() (b [maxPongs * len(pong)]byte) {
	for i := 0; i < len(b); i += len(pong) {
		copy(b[i:], pong)
	}
	return b
}()

// reader cuts what comes over a connection into messages.
type reader struct {
	c      *Conn
	framer wire.Framer
	packet Packet
	buf    []byte
	small  *[smallBuffer]byte // buf, if it is that one
	mid    *[midBuffer]byte   // or that one
	filled int                // bytes in buf
	waits  bool               // Read waits with a buffer in its hands
	heard  bool               // something has come

	// Deadlines are set when a message begins and when the connection has been at rest for long, not with each read.
	lastRead  time.Time // when the last bytes came
	begun     time.Time // when the message that is being read began; zero = none is
	isLimited bool      // the deadline set is that of a message
}

// read hands messages to the handler until the connection ends, and returns why.
func (c *Conn) read() error {
	r := &reader{c: c, waits: c.tls != nil || !canLend}
	r.framer.Max = c.layer.limits.maxMessage
	r.packet.Flow = c.Flow()
	if c.input != nil && c.inbound { // servers send tickets, which are no text, and are those that we chose
		c.input.reader = r
	}
	defer r.giveBack()
	r.lastRead = time.Now()
	_ = c.box.SetReadDeadline(r.restsUntil())
	for {
		n, err := r.receive()
		if n > 0 {
			wasFull := r.filled+n == len(r.buf)
			r.lastRead, r.heard = time.Now(), true
			r.filled += n
			if c.unanswered.Load() != 0 {
				c.unanswered.Store(0)
				r.dropPong()
			}
			if err := r.deliver(); err != nil {
				if err != io.EOF {
					c.layer.count.streamFaults.Add(1)
				}
				c.linger()
				return err
			}
			r.size(wasFull)
			r.limit()
		}
		if err != nil {
			if err = r.timedOut(err); err != nil {
				return err
			}
		}
	}
}

// receive reads behind what is in the buffer.
func (r *reader) receive() (int, error) {
	if r.c.input != nil {
		r.c.input.came = false
	}
	if r.waits || r.c.web != nil && len(r.c.web.first) > 0 {
		return r.c.stream.Read(r.lend())
	}
	return r.c.box.receive(r)
}

// lend is the room for the next read.
func (r *reader) lend() []byte {
	if r.buf == nil && r.waits {
		r.small = smallBuffers.Get().(*[smallBuffer]byte)
		r.buf = r.small[:]
	}
	if r.buf == nil {
		r.mid = midBuffers.Get().(*[midBuffer]byte)
		r.buf = r.mid[:]
	}
	return r.buf[r.filled:]
}

// rest is called when there is nothing to read.
func (r *reader) rest() {
	if r.filled == 0 {
		r.giveBack()
	}
}

// deliver hands over every complete message in the buffer and keeps the rest. After an error there is nothing more to
// read: a wire.Fault, a *webFault, or io.EOF for the close frame of a WebSocket.
func (r *reader) deliver() error {
	if r.c.web != nil {
		return r.deliverFrames()
	}
	at, begun, allPings := 0, r.begun, 0
	for at < r.filled {
		message, used, pings, fault := r.framer.Next(r.buf[at:r.filled])
		if pings > 0 {
			r.c.layer.count.pings.Add(uint64(pings))
			_ = r.c.send(pongs[:min(pings, maxPongs)*len(pong)])
			allPings += pings
		}
		if message != nil || fault != wire.NoFault {
			r.packet.Data, r.packet.Fault = message, fault
			r.c.layer.handler.Receive(&r.packet)
			begun = time.Time{}
		}
		if fault != wire.NoFault {
			return fault
		}
		at += used
		if message == nil {
			break
		}
	}
	if at > 0 {
		r.filled = copy(r.buf, r.buf[at:r.filled])
	}
	r.began(begun, r.framer.Partial())
	return r.c.pinged(allPings)
}

// pinged says why a connection ends on which so many keep-alives came with one read, nil if it goes on.
func (c *Conn) pinged(n int) error {
	if n > maxPings || n > 0 && !c.layer.options.KeptAlive(c.remote.Addr(), true) {
		return errPings
	}
	return nil
}

// dropPong takes the answer to Ping away, so that the framer does not take two of them for a ping.
func (r *reader) dropPong() {
	if r.c.web == nil && string(r.buf[:r.filled]) == pong {
		r.filled = 0
	}
}

// began notes when the message that is being read began; begun is zero if it was with the last read.
func (r *reader) began(begun time.Time, isPartial bool) {
	switch {
	case !isPartial:
		begun = time.Time{}
	case begun.IsZero():
		begun = r.lastRead
	}
	r.begun = begun
}

// size makes the buffer fit what is in it and the next read. If the last one filled all there was, there is more to come,
// and it is read in larger pieces.
func (r *reader) size(wasFull bool) {
	need := r.filled + 1
	if wasFull {
		need = max(need, midBuffer/2)
	}
	switch {
	case need == 1 && !r.waits: // at once: reading goes on in whichever is at hand
	case need <= smallBuffer:
		if r.small == nil {
			small := smallBuffers.Get().(*[smallBuffer]byte)
			r.moveTo(small[:])
			r.small = small
		}
	case need <= midBuffer:
		if len(r.buf) < midBuffer {
			mid := midBuffers.Get().(*[midBuffer]byte)
			r.moveTo(mid[:])
			r.mid = mid
		}
	case need > len(r.buf):
		// The framer refuses messages over its maximum, so this is as large as it gets.
		r.moveTo(make([]byte, r.framer.Max+midBuffer))
	}
}

func (r *reader) moveTo(buf []byte) {
	copy(buf, r.buf[:r.filled])
	r.giveBack()
	r.buf = buf
}

func (r *reader) giveBack() {
	if r.small != nil {
		smallBuffers.Put(r.small)
	}
	if r.mid != nil {
		midBuffers.Put(r.mid)
	}
	r.buf, r.small, r.mid = nil, nil, nil
}

// limit sets the deadline of a message that has begun, and takes it away with its end.
func (r *reader) limit() {
	if !r.begun.IsZero() {
		_ = r.c.box.SetReadDeadline(r.begun.Add(r.c.layer.limits.message))
		r.isLimited = true
		return
	}
	if r.isLimited {
		_ = r.c.box.SetReadDeadline(r.restsUntil())
		r.isLimited = false
	}
}

// restsUntil is when a connection has been at rest for too long. Those that we opened, for what we had to send, are no
// guests; a WebSocket has said in its upgrade what it is for, and a page may call much later.
func (r *reader) restsUntil() time.Time {
	limits := &r.c.layer.limits
	if r.heard || !r.c.inbound || r.c.web != nil {
		return r.lastRead.Add(limits.idle)
	}
	return r.lastRead.Add(min(limits.mute, limits.idle))
}

// timedOut tells what a failed read means; nil = go on reading.
func (r *reader) timedOut(err error) error {
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		return err
	}
	now := time.Now()
	if !r.begun.IsZero() {
		if !now.Before(r.begun.Add(r.c.layer.limits.message)) {
			return ErrSlowMessage
		}
		_ = r.c.box.SetReadDeadline(r.begun.Add(r.c.layer.limits.message))
		return nil
	}
	until := r.restsUntil()
	if !now.Before(until) {
		return ErrIdle
	}
	_ = r.c.box.SetReadDeadline(until)
	return nil
}

// linger lets the last replies reach a peer that is still sending: a socket closed with unread bytes in it resets the
// connection, and the peer may lose what it has not read.
func (c *Conn) linger() {
	const patience, most = time.Second, 256 << 10
	c.layer.conns.retire(c)
	c.box.flush()
	if c.tls != nil {
		_ = c.tls.CloseWrite()
	}
	c.box.flush()
	_ = c.box.CloseWrite()
	_ = c.box.SetReadDeadline(time.Now().Add(patience))
	_, _ = io.CopyN(io.Discard, c.box.TCPConn, most)
}
