package proxy

import (
	"net/netip"

	"github.com/sipward/sipward/proxy/resolve"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// reopensPerSecond bounds the connections that peers outside have us open.
const reopensPerSecond = 10

const (
	firstUserPort = 1024 // below are the services of a system (RFC 6335 section 6)
	maxHostName   = 255  // RFC 1035 section 2.3.4
)

// A returnAddress is where RFC 3261 18.2.2 has the response to a request over TCP or TLS sent
// when its connection is gone: the address that it came from, whatever Via says, and the port
// of sent-by. The zero value is none.
type returnAddress struct {
	port uint16
	host string // of sent-by, over TLS and where it is a name
}

// returnAddressOf is that of a request, as it came: the Via of a response is written by
// whoever answers. Nobody opens a connection to a browser, or through a NAT.
func returnAddressOf(m *wire.Msg, f transport.Flow) (a returnAddress) {
	if f.Conn() == nil || !f.Proto().Streamed() || isTranslated(m, f) {
		return a
	}
	host := m.Bytes(m.TopVia.Host)
	if _, isIP := wire.ParseAddr(host); f.Proto() == wire.TLS && !isIP {
		if len(host) > maxHostName { // no certificate has it, and it would be kept
			return a
		}
		a.host = string(host)
	}
	if a.port = m.TopVia.PortNum; a.port == 0 {
		a.port = f.Proto().DefaultPort()
	}
	return a
}

// reopen sends a response that could not be sent on a connection, because that is gone, on
// another one. It is false when the response is lost.
func (c *responseContext) reopen(w *scratch, gone transport.Flow, b []byte) bool {
	if c.home.port == 0 {
		return false
	}
	c.mu.Lock()
	defer c.unlock()
	if c.up == gone { // else another response was faster
		f, ok := c.connectBackLocked(gone)
		if !ok {
			return false
		}
		c.up = f
		c.edge.count.reopened.Add(1)
	}
	w.send(c.up, b)
	return true
}

// connectBackLocked opens a connection to a peer whose own is gone. To a pool member it is one
// as for a request. A peer outside has chosen the port and may be anybody: it has one attempt,
// what is spent on all of them is bounded, who is banned gets nothing, and with TLS it proves
// the name in its Via, or its address. Without, it has no service of a system called, maybe
// that of a gateway of ours: it writes most of what would be sent there.
func (c *responseContext) connectBackLocked(gone transport.Flow) (transport.Flow, bool) {
	e, snap := c.edge, c.edge.snap.Load()
	to := resolve.Target{Proto: gone.Proto(), Addr: netip.AddrPortFrom(gone.Remote().Addr(), c.home.port), ServerName: c.home.host}
	if b := snap.member(to.Addr); b != nil {
		for _, t := range b.Targets() {
			if t.Addr.Addr() == to.Addr.Addr() {
				to.ServerName = t.ServerName
			}
		}
		return e.flowTo(to, b)
	}
	if to.Proto == wire.TCP && to.Addr.Port() < firstUserPort {
		return transport.Flow{}, false
	}
	if c.reopened || e.isBanned(to.Addr.Addr()) {
		return transport.Flow{}, false
	}
	c.reopened = true
	from := dialsFrom(snap.egress(to.Proto, to.Addr.Addr(), false))
	if f, ok := e.net.ConnectedBack(to.Proto, to.Addr, to.ServerName, from); ok {
		return f, true // another response had it opened
	}
	if !e.reopens.Admit(e.wheel.Now()) {
		return transport.Flow{}, false
	}
	f, err := e.net.ConnectBack(to.Proto, to.Addr, to.ServerName, from)
	return f, err == nil
}
