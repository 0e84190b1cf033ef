package proxy

import (
	"errors"
	"net/netip"
	"sync"

	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// refused are the connections from outside that did not come about since they were told of last. A phone whose
// connection is refused sends nothing that any other line could name.
type refused struct {
	mu sync.Mutex
	refusals
}

type refusals struct {
	total, perSource, handshake uint64

	proto wire.Proto // of the last one
	peer  netip.AddrPort
	why   error // nil: there is none
}

func (r *refused) note(p wire.Proto, peer netip.AddrPort, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case errors.Is(why, transport.ErrTotalLimit):
		r.total++
	case errors.Is(why, transport.ErrSourceLimit), errors.Is(why, errConnects):
		r.perSource++
	default:
		r.handshake++
	}
	r.proto, r.peer, r.why = p, peer, why
}

// take returns what there is to tell, and begins anew.
func (r *refused) take() refusals {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.refusals
	r.refusals = refusals{}
	return was
}

// tellRefused writes which connections were refused since the last line, if any were.
func (e *Edge) tellRefused() {
	r := e.refused.take()
	if r.why == nil {
		return
	}
	line := e.log.Op().Warn()
	add := func(key string, n uint64) {
		if n > 0 {
			line.Uint64(key, n)
		}
	}
	add("max_connections", r.total)
	add("max_connections_per_source", r.perSource)
	add("handshake", r.handshake)
	line.Str("last", r.proto.Param()+":"+r.peer.String()).Str("why", r.why.Error()).Msg("connections refused in the last 10 s")
}
