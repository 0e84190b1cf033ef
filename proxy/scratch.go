package proxy

import (
	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/backend"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/security"
)

// scratch is what the handling of one message or timer works in: reused, owned by
// one goroutine at a time, never kept. Messages to send are queued in it while a
// lock is held and go out in flush.
type scratch struct {
	edge  *Edge
	msg   wire.Msg
	again wire.Msg // the stored request, scanned once more
	edit  wire.Edit
	key   []byte
	text  []byte
	arena []byte // bytes of queued messages that nobody stores
	order []*backend.Backend

	packet   security.Packet  // what the packet stage looks at
	guarding security.Message // what the message stage looks at
	verdict  security.Verdict // of either
	strip    []string         // headers that the sender of the response in msg may not write
	comeBack bool             // the phone that gets the response in msg is to register again soon
	restores bool             // the response in msg is that of a registrar of ours

	effects dialog.Effects   // to be acted on
	acting  dialog.Effects   // the buffers of those that are acted on
	changes []backend.Change // to be logged
	queue   []outgoing
}

// outgoing is a message on its way out.
type outgoing struct {
	flow  transport.Flow
	bytes []byte
	owner sender // nil when nobody minds a failure
	leg   uint16
	up    *responseContext // of a response
}

// A sender is told that its request could not be sent: a response context, on
// which leg, or a request of our own.
type sender interface {
	sendFailed(w *scratch, leg int)
}

func (e *Edge) scratch() *scratch {
	if w, _ := e.pool.Get().(*scratch); w != nil {
		return w
	}
	return &scratch{edge: e}
}

func (e *Edge) release(w *scratch) {
	w.queue, w.arena, w.changes, w.comeBack = w.queue[:0], w.arena[:0], w.changes[:0], false
	if cap(w.arena) > 256<<10 {
		w.arena = nil
	}
	e.pool.Put(w)
}

// send queues bytes that stay unchanged until flush.
func (w *scratch) send(f transport.Flow, b []byte) {
	w.queue = append(w.queue, outgoing{flow: f, bytes: b})
}

// sendFor queues a request; a failure to send it is its owner's, on that leg.
func (w *scratch) sendFor(f transport.Flow, b []byte, owner sender, leg uint16) {
	w.queue = append(w.queue, outgoing{flow: f, bytes: b, owner: owner, leg: leg})
}

// sendUp queues a response to the request of c.
func (w *scratch) sendUp(c *responseContext, b []byte) {
	w.queue = append(w.queue, outgoing{flow: c.up, bytes: b, up: c})
}

// pathMTU is the size above which a datagram may go in fragments (RFC 3261 18.1.1).
const pathMTU = 1300

// flush sends what is queued, in order, and does what calls ask for. No lock may be
// held. A failed leg queues its successor, which goes out in the same call; maxLegs
// bounds that. A failed request of our own is tried again by a timer only.
func (w *scratch) flush() {
	w.flushQueue()
	for !w.effects.Empty() {
		w.perform()
		w.flushQueue()
	}
	for _, c := range w.changes {
		w.edge.logChange(c)
	}
	w.changes = w.changes[:0]
}

func (w *scratch) flushQueue() {
	for i := 0; i < len(w.queue); i++ {
		o := w.queue[i]
		if len(o.bytes) > pathMTU && o.flow.Proto() == wire.UDP {
			w.edge.count.large.Add(1)
		}
		err := o.flow.Send(o.bytes)
		switch {
		case err == nil:
		case o.owner != nil:
			w.edge.count.sendErrors.Add(1)
			o.owner.sendFailed(w, int(o.leg))
		case o.up != nil && o.up.reopen(w, o.flow, o.bytes):
		default:
			w.edge.count.sendErrors.Add(1)
		}
		w.queue[i] = outgoing{}
	}
	w.queue = w.queue[:0]
}
