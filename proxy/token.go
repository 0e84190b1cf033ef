package proxy

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"net/netip"

	"github.com/dchest/siphash"

	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/binding"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// Tokens are the user parts of URIs that the edge writes of itself. Each binds the flow
// of an outside party (RFC 5626 5.2), so that a request finds it without any table, and so
// that nobody can make the edge send anywhere else: what is not bound here is not reached.
//
// A token is "sw-" and base64url of a place (flags, mark of the listener, remote port, remote address
// in 4 or 16 bytes, for streams the connection in 8), of what its kind adds, and of a sum
// (8), keyed with the secret of the edge.

// A token is the user part of our Record-Route. Besides the flow it binds the backend on
// the inside.
//
// It also knows the caller's tag, by which a request tells its direction wherever
// it comes from: nodes send from other addresses, phones change theirs. And it
// names the call in the dialog store, which knows better as long as it knows it.
//
// It adds backend (4), caller (4), call (8).
type token struct {
	flow     dialog.Flow // of the outside party
	face     face        // which side this Record-Route faces
	backend  uint32      // backend.Backend.ID, 0 = none
	caller   uint32      // hash of the caller's tag
	call     dialog.ID   // in the store of the process that wrote it, 0 = none
	isCallee bool        // the outside party is the callee
}

// A flowToken is the user part of our Path (RFC 3327), and of the Contact that we put in
// the place of a phone's. It adds the binding (8) and, in a Contact, the URI that stood
// there. Of one longer than maxTokenContact it has what is before the parameters, which any
// phone knows itself by; all of it only the binding table knows.
type flowToken struct {
	flow    dialog.Flow
	binding binding.ID
	contact []byte // nil in a Path
	isCut   bool   // there was more of it
}

// face tells the two values of a double Record-Route apart. The one that faces
// the sender of a later request comes first in its Route.
type face uint8

const (
	bothFaces face = iota // a single Record-Route
	outerFace
	innerFace
	noFace // of a flowToken
)

const (
	tokenPrefix = "sw-"
	// minTokenText is less than any token has; what is shorter may be somebody's name.
	minTokenText = len(tokenPrefix) + 24
	// maxTokenContact keeps a Contact of ours within 255 bytes, with any addresses and transports: some registrars
	// store no more, and others refuse what is longer.
	maxTokenContact = 92

	tokenProtoMask = 0x07
	tokenFaceShift = 3
	tokenFaceMask  = 0x18
	tokenV6        = 0x20
	tokenVersion   = 0x40
	tokenCallee    = 0x80
	tokenCut       = 0x80 // of a flowToken
	tokenSum       = 8
	placeMaxRaw    = 1 + 1 + 2 + 16 + 8
	routeRaw       = 4 + 4 + 8
	tokenMaxRaw    = placeMaxRaw + 8 + maxTokenContact + tokenSum
	tokenMaxText   = len(tokenPrefix) + (tokenMaxRaw*8+5)/6
)

// dialled stands for the listener of a connection that we opened.
const dialled = transport.NoMark

// tokenKey signs tokens. It must outlive a restart for calls and registrations to do so.
type tokenKey struct{ a, b uint64 }

// newTokenKey derives the key from the configured secret.
func newTokenKey(secret []byte) tokenKey {
	return tokenKey{siphash.Hash(0x73697077617264, 1, secret), siphash.Hash(0x73697077617264, 2, secret)}
}

// append appends the token of a Record-Route.
func (k tokenKey) append(dst []byte, t token) []byte {
	var buf [tokenMaxRaw]byte
	flags := byte(t.face) << tokenFaceShift
	if t.isCallee {
		flags |= tokenCallee
	}
	raw := appendPlace(buf[:0], flags, t.flow)
	raw = binary.BigEndian.AppendUint32(raw, t.backend)
	raw = binary.BigEndian.AppendUint32(raw, t.caller)
	raw = binary.BigEndian.AppendUint64(raw, uint64(t.call))
	return k.seal(dst, raw)
}

// appendFlow appends the token of a Path or Contact.
func (k tokenKey) appendFlow(dst []byte, t flowToken) []byte {
	var buf [tokenMaxRaw]byte
	flags, contact := byte(noFace)<<tokenFaceShift, t.contact
	if len(contact) > maxTokenContact {
		flags |= tokenCut
		contact = withoutParams(contact)
	}
	raw := appendPlace(buf[:0], flags, t.flow)
	raw = binary.BigEndian.AppendUint64(raw, uint64(t.binding))
	if len(contact) <= maxTokenContact {
		raw = append(raw, contact...)
	}
	return k.seal(dst, raw)
}

// withoutParams is what is before the parameters and headers of a URI.
func withoutParams(uri []byte) []byte {
	start := bytes.IndexByte(uri, '@') + 1 // a user may hold both characters
	if i := bytes.IndexAny(uri[start:], ";?"); i >= 0 {
		return uri[:start+i]
	}
	return uri
}

// parse reads a token that append wrote with the same key.
func (k tokenKey) parse(user []byte) (t token, ok bool) {
	var buf [tokenMaxRaw + 2]byte
	body, ok := k.open(buf[:], user)
	if !ok {
		return t, false
	}
	flags := body[0]
	t.isCallee = flags&tokenCallee != 0
	t.face = face(flags & tokenFaceMask >> tokenFaceShift)
	t.flow, body, ok = cutPlace(body)
	if !ok || t.face == noFace || len(body) != routeRaw {
		return token{}, false
	}
	t.backend = binary.BigEndian.Uint32(body)
	t.caller = binary.BigEndian.Uint32(body[4:])
	t.call = dialog.ID(binary.BigEndian.Uint64(body[8:]))
	return t, true
}

// parseFlow reads a token that appendFlow wrote with the same key. Its contact is a copy.
func (k tokenKey) parseFlow(user []byte) (t flowToken, ok bool) {
	var buf [tokenMaxRaw + 2]byte
	body, ok := k.open(buf[:], user)
	if !ok || body[0]&tokenFaceMask != byte(noFace)<<tokenFaceShift {
		return t, false
	}
	t.isCut = body[0]&tokenCut != 0
	t.flow, body, ok = cutPlace(body)
	if !ok || len(body) < 8 {
		return flowToken{}, false
	}
	t.binding = binding.ID(binary.BigEndian.Uint64(body))
	if body = body[8:]; len(body) > 0 {
		t.contact = append([]byte(nil), body...)
	}
	return t, true
}

// isTokenText says whether a user part claims to be a token, sound or not.
func isTokenText(user []byte) bool {
	if len(user) < minTokenText {
		return false
	}
	user = plainText(user)
	if len(user) < minTokenText || string(user[:len(tokenPrefix)]) != tokenPrefix {
		return false
	}
	for _, c := range user {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// bindingID names the binding of a contact for good: by its instance (RFC 5626 4.1) where
// it has one, else by its URI (RFC 3261 10.3). Where it came from is no part of that: phones
// move, and one that has moved and started anew looks like another phone with the same URI.
// Taken for another one, it would be called twice, and refused by registrars that take only
// so many contacts.
func (k tokenKey) bindingID(aor string, instance []byte, regID uint32, contact []byte) binding.ID {
	key := append(make([]byte, 0, 256), aor...)
	if len(instance) > 0 {
		key = append(append(key, '\n', 'i'), instance...)
		key = binary.BigEndian.AppendUint32(key, regID)
	} else {
		key = append(append(key, '\n', 'c'), contact...)
	}
	return binding.ID(siphash.Hash(k.b, k.a, key))
}

// tagHash is what a token keeps of a tag.
func (k tokenKey) tagHash(tag []byte) uint32 { return uint32(siphash.Hash(k.b, k.a, tag)) }

// outsideToken binds a flow and a backend id.
func outsideToken(f transport.Flow, backendID uint32) token {
	return token{flow: dialogFlow(f), backend: backendID}
}

// seal signs raw and appends it as text.
func (k tokenKey) seal(dst, raw []byte) []byte {
	raw = binary.BigEndian.AppendUint64(raw, siphash.Hash(k.a, k.b, raw))
	return base64.RawURLEncoding.AppendEncode(append(dst, tokenPrefix...), raw)
}

var strictBase64 = base64.RawURLEncoding.Strict()

// open decodes a token into buf and returns what was signed, a place at least.
func (k tokenKey) open(buf, user []byte) (body []byte, ok bool) {
	if len(user) < minTokenText {
		return nil, false
	}
	user = plainText(user)
	if len(user) < minTokenText || string(user[:len(tokenPrefix)]) != tokenPrefix {
		return nil, false
	}
	user = user[len(tokenPrefix):]
	if strictBase64.DecodedLen(len(user)) > tokenMaxRaw {
		return nil, false
	}
	// One spelling only but for escapes: no stray bits at the end, no line breaks inside.
	n, err := strictBase64.Decode(buf, user)
	if err != nil || n < tokenSum+8 || strictBase64.EncodedLen(n) != len(user) || buf[0]&tokenVersion == 0 {
		return nil, false
	}
	body = buf[:n-tokenSum]
	return body, binary.BigEndian.Uint64(buf[n-tokenSum:n]) == siphash.Hash(k.a, k.b, body)
}

// plainText is a user part without percent-escapes: a letter and its escape are the same
// (RFC 3261 19.1.4), and Twinkle returns a Record-Route with each Z as %5a. Nearly all have none,
// and are returned as they are; so is what is too long for a token with every letter escaped.
func plainText(user []byte) []byte {
	i := bytes.IndexByte(user, '%')
	if i < 0 || len(user) > 3*tokenMaxText {
		return user
	}
	plain := make([]byte, i, len(user))
	copy(plain, user)
	for ; i < len(user); i++ {
		plain = append(plain, user[i])
		if user[i] != '%' || len(user)-i < 3 {
			continue
		}
		if _, err := hex.Decode(plain[len(plain)-1:], user[i+1:i+3]); err == nil {
			i += 2
		}
	}
	return plain
}

// appendPlace appends where the outside party is.
func appendPlace(raw []byte, flags byte, f dialog.Flow) []byte {
	flags |= tokenVersion | byte(f.Proto)&tokenProtoMask
	a := f.Remote.Addr().Unmap()
	if a.Is6() {
		flags |= tokenV6
	}
	raw = binary.BigEndian.AppendUint16(append(raw, flags, f.Listener), f.Remote.Port())
	if a.Is6() {
		b := a.As16()
		raw = append(raw, b[:]...)
	} else {
		b := a.As4()
		raw = append(raw, b[:]...)
	}
	if f.Proto.Reliable() {
		raw = binary.BigEndian.AppendUint64(raw, f.Conn)
	}
	return raw
}

// cutPlace reads what appendPlace wrote, and returns what follows it.
func cutPlace(raw []byte) (f dialog.Flow, rest []byte, ok bool) {
	f.Proto, f.Listener = wire.Proto(raw[0]&tokenProtoMask), raw[1]
	alen, clen := 4, 0
	if raw[0]&tokenV6 != 0 {
		alen = 16
	}
	if f.Proto.Reliable() {
		clen = 8
	}
	if len(raw) < 4+alen+clen {
		return dialog.Flow{}, nil, false
	}
	a, _ := netip.AddrFromSlice(raw[4 : 4+alen])
	f.Remote = netip.AddrPortFrom(a, binary.BigEndian.Uint16(raw[2:]))
	if clen != 0 {
		f.Conn = binary.BigEndian.Uint64(raw[4+alen:])
	}
	return f, raw[4+alen+clen:], true
}
