package proxy

import (
	"hash/maphash"

	"github.com/sipward/sipward/proxy/wire"
)

// validate is RFC 3261 16.3 for a request whose syntax is sound (step 1 is
// wire.Scan's). It answers with the zero rejection when all is well.
func (e *Edge) validate(w *scratch, snap *snapshot) rejection {
	m := &w.msg
	// 2. URI scheme
	uri, ok := wire.ParseURI(m.Bytes(m.RURI))
	if !ok || len(uri.Headers) > 0 { // 19.1.1: no headers in a Request-URI
		return rejection{status: 400, reason: "Bad Request-URI"}
	}
	if !servedScheme(uri) {
		return rejection{status: 416, reason: "Unsupported URI Scheme"}
	}
	// 3. Max-Forwards
	switch m.MaxForwards {
	case 0:
		return rejection{status: 483, reason: "Too Many Hops"}
	case wire.Bad:
		return rejection{status: 400, reason: "Bad Max-Forwards"}
	}
	// 4. Loop detection
	if e.loops(w, m) {
		e.count.loops.Add(1)
		return rejection{status: 482, reason: "Loop Detected"}
	}
	// 5. Proxy-Require
	if unsupported := proxyRequire(w, m); unsupported != nil {
		return rejection{status: 420, reason: "Bad Extension", header: unsupported}
	}
	return rejection{}
}

// servedScheme: SIP and what a PBX may be asked for by name (RFC 3966, RFC 5031,
// RFC 3859, RFC 3860).
func servedScheme(u wire.URI) bool {
	switch u.Scheme {
	case wire.SIP, wire.SIPS, wire.Tel:
		return true
	}
	return equalFold(u.SchemeName, "urn") || equalFold(u.SchemeName, "im") || equalFold(u.SchemeName, "pres")
}

// proxyRequire lists the extensions we are asked to understand: none is known.
func proxyRequire(w *scratch, m *wire.Msg) []byte {
	if m.First(wire.KindProxyRequire) < 0 {
		return nil
	}
	it := m.Values(wire.KindProxyRequire)
	w.text = append(w.text[:0], "Unsupported: "...)
	for n := 0; ; n++ {
		v, ok := it.Next()
		if !ok {
			if n == 0 {
				return nil
			}
			w.text = append(w.text, "\r\n"...)
			return w.text
		}
		if n > 0 {
			w.text = append(w.text, ", "...)
		}
		w.text = append(w.text, m.Bytes(v.Span)...)
	}
}

// loops says whether the request was here before with the same routing inputs
// (RFC 5393 4.2). With other inputs it is a spiral, which is legal.
func (e *Edge) loops(w *scratch, m *wire.Msg) bool {
	var loop uint32
	for via, ok := m.TopVia, true; ok; via, ok = m.NextVia(via) {
		b, ours := e.key.Parse(m.Bytes(via.Branch))
		if !ours {
			continue
		}
		if loop == 0 {
			loop = e.loopHash(m)
		}
		if b.Loop == loop {
			return true
		}
	}
	return false
}

// loopHash sums everything that routes the request (RFC 3261 16.6 step 8 without
// the topmost Via, RFC 5393 4.2.1): Request-URI, Route, tags, Call-ID, CSeq number,
// Proxy-Require, Proxy-Authorization. It is never 0.
func (e *Edge) loopHash(m *wire.Msg) uint32 {
	var h maphash.Hash
	h.SetSeed(e.seed)
	h.Write(m.Bytes(m.RURI))
	h.WriteByte(0)
	h.Write(m.Bytes(m.From.Tag))
	h.WriteByte(0)
	h.Write(m.Bytes(m.To.Tag))
	h.WriteByte(0)
	h.Write(m.Bytes(m.CallID))
	h.Write([]byte{byte(m.CSeq >> 24), byte(m.CSeq >> 16), byte(m.CSeq >> 8), byte(m.CSeq)})
	for i := range m.Headers {
		switch x := &m.Headers[i]; x.Kind {
		case wire.KindRoute, wire.KindProxyRequire, wire.KindProxyAuthorization:
			h.WriteByte(0)
			h.Write(m.Bytes(x.Value))
		}
	}
	return uint32(h.Sum64()) | 1
}
