package proxy

import (
	"encoding/base64"
	"encoding/binary"
	"net/netip"

	"github.com/dchest/siphash"

	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// A token is the user part of our Record-Route. It binds the dialog to the flow
// of its outside party and to the backend on the inside, so that a request of the
// dialog finds both without any table, and so that a forged Route cannot make the
// edge send anywhere else: what is not bound here is not reached.
//
// It also knows the caller's tag, by which a request tells its direction wherever
// it comes from: nodes send from other addresses, phones change theirs. And it
// names the call in the dialog store, which knows better as long as it knows it.
//
// Layout before base64url: flags, listener, remote port, remote address (4 or
// 16 bytes), connection (8, streams only), backend (4), caller (4), call (8), sum (8).
type token struct {
	proto    wire.Proto     // transport of the outside flow
	face     face           // which side this Record-Route faces
	listener uint8          // index of the listener of the outside flow
	remote   netip.AddrPort // outside party as the socket saw it
	conn     uint64         // its connection, streams only
	backend  uint32         // backend.Backend.ID, 0 = none
	caller   uint32         // hash of the caller's tag
	call     dialog.ID      // in the store of the process that wrote it, 0 = none
	isCallee bool           // the outside party is the callee
}

// face tells the two values of a double Record-Route apart. The one that faces
// the sender of a later request comes first in its Route.
type face uint8

const (
	bothFaces face = iota // a single Record-Route
	outerFace
	innerFace
)

const (
	tokenProtoMask = 0x07
	tokenFaceShift = 3
	tokenFaceMask  = 0x18
	tokenV6        = 0x20
	tokenVersion   = 0x40
	tokenCallee    = 0x80
	tokenMaxRaw    = 1 + 1 + 2 + 16 + 8 + 4 + 4 + 8 + 8
)

// tokenKey signs tokens. It must outlive a restart for calls to do so.
type tokenKey struct{ a, b uint64 }

// newTokenKey derives the key from the configured secret.
func newTokenKey(secret []byte) tokenKey {
	return tokenKey{siphash.Hash(0x73697077617264, 1, secret), siphash.Hash(0x73697077617264, 2, secret)}
}

func (k tokenKey) append(dst []byte, t token) []byte {
	var buf [tokenMaxRaw]byte
	flags := byte(tokenVersion) | byte(t.proto)&tokenProtoMask | byte(t.face)<<tokenFaceShift
	a := t.remote.Addr().Unmap()
	if t.isCallee {
		flags |= tokenCallee
	}
	if a.Is6() {
		flags |= tokenV6
	}
	raw := append(buf[:0], flags, t.listener)
	raw = binary.BigEndian.AppendUint16(raw, t.remote.Port())
	if a.Is6() {
		b := a.As16()
		raw = append(raw, b[:]...)
	} else {
		b := a.As4()
		raw = append(raw, b[:]...)
	}
	if t.proto.Reliable() {
		raw = binary.BigEndian.AppendUint64(raw, t.conn)
	}
	raw = binary.BigEndian.AppendUint32(raw, t.backend)
	raw = binary.BigEndian.AppendUint32(raw, t.caller)
	raw = binary.BigEndian.AppendUint64(raw, uint64(t.call))
	raw = binary.BigEndian.AppendUint64(raw, siphash.Hash(k.a, k.b, raw))
	return base64.RawURLEncoding.AppendEncode(dst, raw)
}

var strictBase64 = base64.RawURLEncoding.Strict()

// parse reads a token that append wrote with the same key.
func (k tokenKey) parse(user []byte) (t token, ok bool) {
	var buf [tokenMaxRaw + 2]byte
	if base64.RawURLEncoding.DecodedLen(len(user)) > tokenMaxRaw {
		return t, false
	}
	// One spelling only: no stray bits at the end, no line breaks inside.
	n, err := strictBase64.Decode(buf[:], user)
	raw := buf[:n]
	if err != nil || n < 8+8 || strictBase64.EncodedLen(n) != len(user) || raw[0]&tokenVersion == 0 {
		return t, false
	}
	body, sum := raw[:n-8], raw[n-8:]
	if binary.BigEndian.Uint64(sum) != siphash.Hash(k.a, k.b, body) {
		return t, false
	}
	t.isCallee = raw[0]&tokenCallee != 0
	t.proto, t.face, t.listener = wire.Proto(raw[0]&tokenProtoMask), face(raw[0]&tokenFaceMask>>tokenFaceShift), raw[1]
	alen, clen := 4, 0
	if raw[0]&tokenV6 != 0 {
		alen = 16
	}
	if t.proto.Reliable() {
		clen = 8
	}
	if len(body) != 4+alen+clen+16 {
		return t, false
	}
	a, _ := netip.AddrFromSlice(body[4 : 4+alen])
	t.remote = netip.AddrPortFrom(a, binary.BigEndian.Uint16(body[2:]))
	if clen != 0 {
		t.conn = binary.BigEndian.Uint64(body[4+alen:])
	}
	t.backend = binary.BigEndian.Uint32(body[4+alen+clen:])
	t.caller = binary.BigEndian.Uint32(body[4+alen+clen+4:])
	t.call = dialog.ID(binary.BigEndian.Uint64(body[4+alen+clen+8:]))
	return t, true
}

// tagHash is what a token keeps of a tag.
func (k tokenKey) tagHash(tag []byte) uint32 { return uint32(siphash.Hash(k.b, k.a, tag)) }

// outsideToken binds a flow and a backend id.
func outsideToken(f transport.Flow, backendID uint32) token {
	t := token{proto: f.Proto(), remote: f.Remote(), backend: backendID}
	if l := f.Listener(); l != nil {
		t.listener = uint8(l.Index())
	}
	if c := f.Conn(); c != nil {
		t.conn = c.ID()
	}
	return t
}
