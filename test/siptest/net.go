package siptest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
)

// Loopback is the address every endpoint binds to unless it is told otherwise.
var Loopback = netip.MustParseAddr("127.0.0.1")

// receiveBuffer is asked of the kernel for every UDP socket; it may give less.
const receiveBuffer = 4 << 20

// Ports that we choose lie between these two: below those that Linux gives to sockets that ask
// for none (ip_local_port_range), so that nobody is given one that is free for a moment.
const lowestPort, highestPort = 10000, 19999

// portStep leaves the neighbours of a port free: baresip takes one of them for TLS.
const portStep = 3

var tried struct {
	sync.Mutex
	port uint16 // the last one
}

// nextPort returns a port to be tried, each in its turn.
func nextPort() uint16 {
	tried.Lock()
	defer tried.Unlock()
	if tried.port == 0 { // two processes should not try the same ones
		tried.port = lowestPort + uint16(rand.IntN(highestPort-lowestPort))
	}
	if tried.port += portStep; tried.port > highestPort {
		tried.port = lowestPort + uint16(rand.IntN(portStep))
	}
	return tried.port
}

// FreePort returns a port of 127.0.0.1 that is free for UDP and TCP alike, for a
// program that binds it itself. A port is not handed out again for thousands of others.
func FreePort() (uint16, error) {
	udp, ln, err := bindBoth(AnyPort)
	if err != nil {
		return 0, err
	}
	port := addrPort(udp.LocalAddr()).Port()
	return port, errors.Join(udp.Close(), ln.Close())
}

// bindBoth binds UDP and TCP to the same address; port 0 takes one that is free for both,
// and that stays ours while it is closed and opened again.
func bindBoth(at netip.AddrPort) (udp *net.UDPConn, ln *net.TCPListener, err error) {
	if at.Port() != 0 {
		return bindPort(at)
	}
	for range (highestPort - lowestPort) / portStep {
		udp, ln, err = bindPort(netip.AddrPortFrom(at.Addr(), nextPort()))
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return udp, ln, err
}

func bindPort(at netip.AddrPort) (*net.UDPConn, *net.TCPListener, error) {
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return nil, nil, fmt.Errorf("listen on tcp %s: %w", at, err)
	}
	udp, err := bindUDP(at)
	if err != nil {
		return nil, nil, errors.Join(err, ln.Close())
	}
	return udp, ln, nil
}

func bindUDP(at netip.AddrPort) (*net.UDPConn, error) {
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, fmt.Errorf("listen on udp %s: %w", at, err)
	}
	if err := udp.SetReadBuffer(receiveBuffer); err != nil {
		return nil, errors.Join(err, udp.Close())
	}
	return udp, nil
}

func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.UDPAddr:
		return unmapped(a.AddrPort())
	case *net.TCPAddr:
		return unmapped(a.AddrPort())
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return unmapped(ap)
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// URI writes a SIP URI for an address; user may be empty, network is udp, tcp, tls, ws or wss.
func URI(user string, at netip.AddrPort, network string) string {
	if user != "" {
		user += "@"
	}
	network = strings.ToLower(network)
	if network == "wss" { // is a transport of Via alone (RFC 7118 5.2)
		network = "ws"
	}
	return "sip:" + user + at.String() + ";transport=" + network
}

// AnyPort is 127.0.0.1 with a port the kernel chooses.
var AnyPort = netip.AddrPortFrom(Loopback, 0)
