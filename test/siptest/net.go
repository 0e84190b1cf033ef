package siptest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// Loopback is the address every endpoint binds to unless it is told otherwise.
var Loopback = netip.MustParseAddr("127.0.0.1")

// receiveBuffer is asked of the kernel for every UDP socket; it may give less.
const receiveBuffer = 4 << 20

var handedOut struct {
	sync.Mutex
	ports map[uint16]bool
}

// FreePort returns a port of 127.0.0.1 that is free for UDP and TCP alike, for a
// program that binds it itself. No port is handed out twice by one process.
func FreePort() (uint16, error) {
	handedOut.Lock()
	defer handedOut.Unlock()
	if handedOut.ports == nil {
		handedOut.ports = make(map[uint16]bool)
	}
	for range 50 {
		udp, ln, err := bindBoth(netip.AddrPortFrom(Loopback, 0))
		if err != nil {
			return 0, err
		}
		port := addrPort(udp.LocalAddr()).Port()
		if err := errors.Join(udp.Close(), ln.Close()); err != nil {
			return 0, err
		}
		if !handedOut.ports[port] {
			handedOut.ports[port] = true
			return port, nil
		}
	}
	return 0, errors.New("no free port found")
}

// bindBoth binds UDP and TCP to the same address; port 0 takes one that is free for both.
func bindBoth(at netip.AddrPort) (*net.UDPConn, *net.TCPListener, error) {
	var last error
	for range 50 {
		ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err != nil {
			return nil, nil, fmt.Errorf("listen on tcp %s: %w", at, err)
		}
		udp, err := bindUDP(addrPort(ln.Addr()))
		if err == nil {
			return udp, ln, nil
		}
		last = errors.Join(err, ln.Close())
		if at.Port() != 0 {
			break
		}
	}
	return nil, nil, last
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
