package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// Listener is one address on which messages or connections arrive.
type Listener struct {
	layer      *Layer
	index      int
	mark       uint8
	spec       config.Listener
	proto      wire.Proto
	bound      netip.AddrPort
	isWildcard bool

	// UDP
	sockets []*udpSocket
	plain   *source // sends from the bound address, or from what the kernel chooses
	mu      sync.Mutex
	sources atomic.Pointer[map[netip.Addr]*source] // of a wildcard listener; replaced under mu

	// streams
	accepting   *net.TCPListener
	tlsConfig   *tls.Config
	keyring     atomic.Pointer[keyring] // of tls and wss
	reloading   sync.Mutex              // guards credentials and what they hold; may be held while files are read
	credentials []*credential
	origins     origins // WebSocket
}

// Proto returns the listener's protocol.
func (l *Listener) Proto() wire.Proto { return l.proto }

// Bound returns the address with the port that is really open, also when the configuration said 0.
func (l *Listener) Bound() netip.AddrPort { return l.bound }

// Index returns the position in the configuration.
func (l *Listener) Index() int { return l.index }

// Mark returns a number that tells the listener from the others, and that stays its own over a restart with listeners
// added, removed or in another order: what peers keep of a flow for us names it by that. It is never NoMark.
func (l *Listener) Mark() uint8 { return l.mark }

// NoMark is no listener's mark.
const NoMark = 255

// markAll gives each listener its mark: a hash of what it is; of two that have the same the later one takes the next.
func markAll(all []*Listener) {
	taken := map[uint8]bool{NoMark: true}
	for _, l := range all {
		h := fnv.New32a()
		fmt.Fprintf(h, "%s:%s", l.spec.Proto, l.spec.Bind)
		mark := uint8(h.Sum32() % NoMark)
		for n := 0; taken[mark] && n <= NoMark; n++ {
			mark++
		}
		l.mark, taken[mark] = mark, true
	}
}

// Config returns what the configuration says of it.
func (l *Listener) Config() config.Listener { return l.spec }

// Listen opens the sockets of all specs, or none: an error names the address and what to do. Nothing is read before
// Serve. It may be called once.
func (l *Layer) Listen(specs []config.Listener) error {
	l.mu.Lock()
	isLate := l.listeners != nil || l.isServing || l.isClosed
	l.mu.Unlock()
	if isLate {
		return errors.New("listen: called twice, or after the start")
	}
	var opened []*Listener
	for i, spec := range specs {
		listener, err := l.open(i, spec)
		if err != nil {
			for _, o := range opened {
				o.close()
			}
			return err
		}
		opened = append(opened, listener)
	}
	markAll(opened)
	l.warnOfSmallBuffers(opened)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
		for _, o := range opened {
			o.close()
		}
		return ErrClosed
	}
	l.listeners = opened
	return nil
}

func (l *Layer) open(index int, spec config.Listener) (*Listener, error) {
	proto, ok := wire.ParseProto([]byte(spec.Proto))
	if !ok {
		return nil, fmt.Errorf("listen %s: unknown protocol %q", spec.Address, spec.Proto)
	}
	bind := netip.AddrPortFrom(spec.Bind.Addr().Unmap(), spec.Bind.Port())
	if !bind.Addr().IsValid() {
		return nil, fmt.Errorf("listen %s: no IP address to bind", spec.Address)
	}
	o := &Listener{layer: l, index: index, spec: spec, proto: proto, isWildcard: bind.Addr().IsUnspecified(),
		origins: originsOf(spec.Origins)}
	var err error
	switch proto {
	case wire.UDP:
		err = o.openUDP(bind)
	case wire.TCP, wire.WS:
		err = o.openTCP(bind)
	case wire.TLS, wire.WSS:
		if err = o.prepareTLS(); err == nil {
			err = o.openTCP(bind)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listen %s %s: %w", spec.Proto, bind, err)
	}
	return o, nil
}

// advise adds to a bind error what to do about it.
func advise(err error) error {
	var call syscall.Errno
	if !errors.As(err, &call) {
		return err
	}
	switch call {
	case syscall.EADDRINUSE:
		return fmt.Errorf(`%w: another SIP server holds it; stop it or change "listen"`, call)
	case syscall.EADDRNOTAVAIL:
		return fmt.Errorf(`%w: no interface of this host has that address; add it or change "listen"`, call)
	case syscall.EACCES, syscall.EPERM:
		return fmt.Errorf(`%w: ports below 1024 need the capability CAP_NET_BIND_SERVICE; grant it or change "listen"`, call)
	case syscall.EAFNOSUPPORT:
		return fmt.Errorf(`%w: this host has no IPv6 or no IPv4; change "listen"`, call)
	case syscall.EMFILE, syscall.ENFILE:
		return fmt.Errorf("%w: raise the limit of open files (ulimit -n, LimitNOFILE)", call)
	}
	return call
}

// warnOfSmallBuffers says once if the kernel gave less than was asked for and less than 4 MiB: with the usual default of
// 212 KiB, a burst is lost at 60 % of a core.
func (l *Layer) warnOfSmallBuffers(opened []*Listener) {
	const enough = 4 << 20
	got := enough
	for _, o := range opened {
		for _, s := range o.sockets {
			got = min(got, s.receiveBuffer)
		}
	}
	if got < min(enough, l.limits.receiveBuffer) {
		l.options.OnProblem("UDP receive buffer is %d bytes where %d were asked for: bursts will be lost; raise the sysctl net.core.rmem_max to %d",
			got, l.limits.receiveBuffer, l.limits.receiveBuffer)
	}
}

func (l *Listener) serve() {
	for _, s := range l.sockets {
		l.layer.run(s.read) // ends when the socket is closed
	}
	if l.accepting != nil {
		l.layer.run(l.accept) // ends when the listener is closed
	}
}

func (l *Listener) close() {
	for _, s := range l.sockets {
		s.close()
	}
	if l.accepting != nil {
		_ = l.accepting.Close()
	}
}

func (l *Listener) openTCP(bind netip.AddrPort) error {
	network := "tcp4"
	if bind.Addr().Is6() {
		network = "tcp6" // [::] is IPv6 only
	}
	lc := net.ListenConfig{Control: tuneStream, KeepAliveConfig: l.layer.limits.keepAlive}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), network, bind.String())
	if err != nil {
		return advise(err)
	}
	l.accepting = ln.(*net.TCPListener)
	l.bound = netip.AddrPortFrom(bind.Addr(), l.accepting.Addr().(*net.TCPAddr).AddrPort().Port())
	return nil
}

// accept takes connections until the listener is closed. No error ends it: lack of descriptors or memory passes.
func (l *Listener) accept() {
	const shortest, longest = 5 * time.Millisecond, time.Second
	wait := shortest
	for {
		raw, err := l.accepting.AcceptTCP()
		if err == nil {
			wait = shortest
			if l.layer.accepted(l, raw) {
				l.layer.pause(l.layer.pace.take(time.Now()))
			}
			continue
		}
		if l.layer.isDone() || isClosedErr(err) {
			return
		}
		l.layer.count.acceptErrors.Add(1)
		if wait == shortest {
			l.layer.options.OnProblem("cannot accept connections on %s %s: %v; trying on", l.spec.Proto, l.bound, err)
		}
		l.layer.pause(wait)
		wait = min(2*wait, longest)
	}
}
