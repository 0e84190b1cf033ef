package transport

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"

	"github.com/sipward/sipward/proxy/wire"
)

// Connect returns a flow over a connection to remote: the newest open one, whoever opened it, or one that is dialled from
// now on. What is sent before it is established waits, bounded by Limits.WriteQueue; when it cannot be established that
// is dropped and Handler.Closed says why. Connect itself never blocks.
//
// serverName is what a TLS peer has to prove to be; empty means its IP address. A connection that we opened is shared only
// among users of one serverName. local, if it is an address and not a wildcard, is what we dial from; a connection with
// another local address is not reused.
func (l *Layer) Connect(proto wire.Proto, remote netip.AddrPort, serverName string, local netip.Addr) (Flow, error) {
	return l.connect(proto, remote, serverName, local, false)
}

// ConnectBack is Connect for an address that a peer outside made us call. It leaves most of what may be dialled at a time
// to Connect, and the connection counts among those that were accepted from its source. Over TLS none is reused that
// was accepted: its peer has proved nothing.
func (l *Layer) ConnectBack(proto wire.Proto, remote netip.AddrPort, serverName string, local netip.Addr) (Flow, error) {
	return l.connect(proto, remote, serverName, local, true)
}

// Connected returns a flow over the newest open connection to remote, if there is one.
func (l *Layer) Connected(proto wire.Proto, remote netip.AddrPort) (Flow, bool) {
	c := l.conns.find(peer{proto, unmapped(remote)}, func(c *Conn) bool { return c.Err() == nil })
	if c == nil {
		return Flow{}, false
	}
	return c.Flow(), true
}

// ConnectedBack returns the flow that ConnectBack would find, if there is one.
func (l *Layer) ConnectedBack(proto wire.Proto, remote netip.AddrPort, serverName string, local netip.Addr) (Flow, bool) {
	c := l.conns.find(peer{proto, unmapped(remote)}, fitting(proto, serverName, local, true))
	if c == nil {
		return Flow{}, false
	}
	return c.Flow(), true
}

// fitting tells which connections serve who asks for one.
func fitting(proto wire.Proto, serverName string, local netip.Addr, isBack bool) func(*Conn) bool {
	local = local.Unmap()
	return func(c *Conn) bool {
		if local.IsValid() && !local.IsUnspecified() && c.Local().Addr() != local {
			return false
		}
		return proto != wire.TLS || c.inbound && !isBack || !c.inbound && c.serverName == serverName
	}
}

func (l *Layer) connect(proto wire.Proto, remote netip.AddrPort, serverName string, local netip.Addr, isBack bool) (Flow, error) {
	if proto != wire.TCP && proto != wire.TLS {
		return Flow{}, fmt.Errorf("connect to %s: %s is not supported", remote, proto)
	}
	if !remote.Addr().IsValid() || remote.Port() == 0 {
		return Flow{}, fmt.Errorf("connect to %s: no address", remote)
	}
	if !l.serves() {
		return Flow{}, errNotServing
	}
	remote, local = unmapped(remote), local.Unmap()
	if local.IsValid() && local.IsUnspecified() {
		local = netip.Addr{}
	}
	fits := fitting(proto, serverName, local, isBack)
	if c := l.conns.find(peer{proto, remote}, fits); c != nil {
		return c.Flow(), nil
	}
	fresh := func() *Conn {
		c := &Conn{layer: l, proto: proto, remote: remote, from: local, serverName: serverName, isGuest: isBack}
		c.ctx, c.cancel = context.WithCancel(context.Background())
		return c
	}
	c, isNew, err := l.conns.reuseOrDial(peer{proto, remote}, fits, fresh, isBack)
	if err != nil {
		return Flow{}, err
	}
	if isNew && !l.run(func() { c.run(nil) }) { // ends when the connection is closed
		l.conns.leave(c)
		return Flow{}, ErrClosed
	}
	return c.Flow(), nil
}

func (l *Layer) serves() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.isServing
}

// dial opens the TCP connection, until Close.
func (c *Conn) dial() (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(c.ctx, dialTimeout)
	defer cancel()
	d := net.Dialer{Control: tuneStream, KeepAliveConfig: c.layer.limits.keepAlive}
	d.SetMultipathTCP(false)
	if c.from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.from, 0))
	}
	conn, err := d.DialContext(ctx, "tcp", c.remote.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// clientTLS is the configuration for one connection that we open.
func (l *Layer) clientTLS(serverName string, remote netip.AddrPort) *tls.Config {
	var base *tls.Config
	if choose := l.options.ClientTLSFor; choose != nil {
		base = choose(serverName, remote)
	}
	if base == nil {
		base = l.options.ClientTLS
	}
	own := &tls.Config{}
	if base != nil {
		own = base.Clone()
	}
	own.MinVersion = max(own.MinVersion, tls.VersionTLS12)
	if own.ServerName == "" {
		own.ServerName = serverName
	}
	if own.ServerName == "" {
		own.ServerName = remote.Addr().WithZone("").String()
	}
	return own
}
