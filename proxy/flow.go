package proxy

import (
	"time"

	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/binding"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

const statusFlowFailed = 430 // RFC 5626 5.3.1

var flowFailed = rejection{status: statusFlowFailed, reason: "Flow Failed"}

// toBoundFlow sends to the outside party over its own flow. A connection that is gone
// leaves it to Route and Request-URI, where these lead back to where it came from; a phone
// behind NAT, or a browser, they do not reach.
func (d *decision) toBoundFlow(u wire.URI) (rej rejection, isDone bool) {
	at := d.bound.flow
	f, ok := d.edge.outsideFlow(d.snap, at, d.began)
	if !ok {
		hop := u
		if d.hasNext {
			uri, _, _ := wire.NameAddrURI(d.m.Bytes(d.next.Span))
			hop, _ = wire.ParseURI(uri)
		}
		return flowFailed, !leadsBack(at, hop)
	}
	d.r.flow, d.r.kind = f, toFlow
	d.strictness()
	return rejection{}, true
}

// toPhone sends to a registered phone over its own flow, or over the one that it has
// registered over since (RFC 5626 5.3). Where it stands for a Contact, the phone's own URI
// takes its place again.
func (d *decision) toPhone() rejection {
	t := &d.phone
	at := t.flow
	if moved, ok := d.edge.bindings.Current(t.binding, binding.Flow(at)); ok {
		at, t.contact = dialog.Flow(moved), nil // by its latest URI
	}
	f, ok := d.edge.flowOf(d.snap, at)
	if !ok {
		return flowFailed
	}
	if d.inContact {
		if d.r.contact, ok = d.edge.contactBehind(t); !ok {
			return flowFailed
		}
		d.r.ownMaddr = false
	}
	d.r.flow, d.r.kind, d.r.toPhone = f, toFlow, true
	d.strictness()
	return rejection{}
}

// outsideFlow is the way to the outside party of a call that began then: its flow, or the
// one that its phone has registered over since. A connection that is gone is none.
func (e *Edge) outsideFlow(snap *snapshot, at dialog.Flow, began time.Duration) (transport.Flow, bool) {
	if at.Conn != 0 {
		began = 0 // the number of a connection was never anybody else's
	}
	if moved, ok := e.bindings.Successor(binding.Flow(at), began); ok {
		at = dialog.Flow(moved)
	}
	return e.flowOf(snap, at)
}

// flowOf is the flow with that name, if it still exists: an address always does.
func (e *Edge) flowOf(snap *snapshot, at dialog.Flow) (transport.Flow, bool) {
	if at.Proto.Reliable() {
		c := e.net.ConnByID(at.Conn)
		if c == nil || c.Err() != nil {
			return transport.Flow{}, false
		}
		return c.Flow(), true
	}
	l := snap.listener(at.Listener, wire.UDP)
	if l == nil {
		return transport.Flow{}, false
	}
	return e.udpFlow(l, at.Remote), true
}

// leadsBack says whether a next hop is the host that the outside party came from, now that its connection is gone. What
// a stranger writes into Contact and Record-Route may name anybody, and a connection is soon closed: the edge would send
// there whatever the call needs, and not for SIP alone. A connection of ours we may open again.
func leadsBack(at dialog.Flow, next wire.URI) bool {
	host := next.Host
	if len(next.MAddr) > 0 {
		host = next.MAddr
	}
	a, isIP := wire.ParseAddr(host)
	return at.Listener == dialled || isIP && a.Unmap() == at.Remote.Addr()
}
