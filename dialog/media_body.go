package dialog

import (
	"bytes"
	"hash/crc32"
	"unsafe"

	"github.com/sipward/sipward/proxy/wire"
)

// Bounds of what is kept; both are our choice.
const (
	maxSDP         = 8 << 10
	maxContentType = 255
)

// Body is the body of a message as the offer/answer model sees it. The zero Body
// is none.
type Body struct {
	SDP    []byte // nil: none, or not understood
	Opaque bool   // there is something, but multipart, encrypted, encoded, too long
	Type   []byte // Content-Type as it stands in the message
}

// BodyOf is the body of m; its bytes are those of m. Whatever could hold or hide
// SDP without being just that is opaque.
func BodyOf(m *wire.Msg) Body {
	sdp := m.Bytes(m.Body)
	if len(sdp) == 0 {
		return Body{}
	}
	b := Body{SDP: sdp, Type: m.Value(wire.KindContentType)}
	if !isSDP(b.Type) || !isSession(m) || m.First(wire.KindContentEncoding) >= 0 ||
		!bytes.HasPrefix(sdp, []byte("v=")) || !b.understood() {
		b.SDP, b.Opaque = nil, true
	}
	return b
}

// isSDP tells whether a Content-Type says application/sdp, whatever its
// parameters. It will be written into other messages, so it must be one line.
func isSDP(value []byte) bool {
	if bytes.ContainsAny(value, "\r\n") {
		return false
	}
	kind, _, _ := bytes.Cut(value, []byte(";"))
	kind, sub, _ := bytes.Cut(kind, []byte("/"))
	return bytes.EqualFold(bytes.TrimSpace(kind), []byte("application")) &&
		bytes.EqualFold(bytes.TrimSpace(sub), []byte("sdp"))
}

// isSession tells whether a body is the session description, which it is unless
// Content-Disposition says otherwise (RFC 3261 20.11): early-session (RFC 3959)
// is no part of this model. A second Content-Type leaves us guessing.
func isSession(m *wire.Msg) bool {
	types := 0
	for i := range m.Headers {
		if m.Headers[i].Kind == wire.KindContentType {
			types++
		}
	}
	if types > 1 {
		return false
	}
	i := m.Find("Content-Disposition")
	if i < 0 {
		return true
	}
	kind, _, _ := bytes.Cut(m.Bytes(m.Headers[i].Value), []byte(";"))
	return bytes.EqualFold(bytes.TrimSpace(kind), []byte("session"))
}

// carried: there is a body.
func (b Body) carried() bool { return len(b.SDP) > 0 || b.Opaque }

// understood: there is one that can be known and kept.
func (b Body) understood() bool {
	return len(b.SDP) > 0 && !b.Opaque && len(b.SDP) <= maxSDP && len(b.Type) <= maxContentType
}

// nature is what is to be known of a body without its text.
type nature uint8

const (
	isThere  nature = 1 << iota
	isOpaque        // never known
	isWebRTC
	isPreview // of an answer, in an unreliable response
)

func (n nature) known() bool { return n&(isThere|isOpaque) == isThere }

func natureOf(b Body) nature {
	switch {
	case !b.carried():
		return 0
	case !b.understood():
		return isThere | isOpaque
	case isDTLS(b.SDP):
		return isThere | isWebRTC
	}
	return isThere
}

// isDTLS tells SDP of a browser or its like: feedback profile, or DTLS with ICE.
func isDTLS(sdp []byte) bool {
	if bytes.Contains(sdp, []byte("a=fingerprint:")) && bytes.Contains(sdp, []byte("a=ice-ufrag:")) {
		return true
	}
	for at := 0; ; at++ {
		i := bytes.Index(sdp[at:], []byte("SAVPF"))
		if i < 0 {
			return false
		}
		at += i
		line := sdp[bytes.LastIndexAny(sdp[:at], "\r\n")+1 : at]
		if bytes.HasPrefix(line, []byte("m=")) {
			return true
		}
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Fingerprint is a hash of SDP, every byte of it but the version of its o= line:
// equal for a session that was not changed, whether or not its version was
// raised. It is the same in every process, for what a restart brings back; it keeps
// nobody from making two texts with one sum, who would only deceive himself.
func Fingerprint(sdp []byte) uint64 {
	start, end := version(sdp)
	one := crc32.Update(crc32.ChecksumIEEE(sdp[:start]), crc32.IEEETable, sdp[end:])
	other := crc32.Update(crc32.Checksum(sdp[:start], castagnoli), castagnoli, sdp[end:])
	return uint64(one)<<32 | uint64(other)
}

// version is where the third field of the first o= line is: o=<username>
// <sess-id> <sess-version> <nettype> … (RFC 8866 5.2). Empty when there is none.
func version(sdp []byte) (start, end int) {
	for at := 0; ; at++ {
		i := bytes.Index(sdp[at:], []byte("o="))
		if i < 0 {
			return 0, 0
		}
		at += i
		if at == 0 || sdp[at-1] == '\n' || sdp[at-1] == '\r' {
			return thirdField(sdp, at)
		}
	}
}

func thirdField(sdp []byte, at int) (start, end int) {
	line := sdp[at:]
	if i := bytes.IndexAny(line, "\r\n"); i >= 0 {
		line = line[:i]
	}
	for range 2 {
		i := bytes.IndexByte(line, ' ')
		if i < 0 {
			return 0, 0
		}
		line, at = line[i+1:], at+i+1
	}
	if i := bytes.IndexByte(line, ' '); i >= 0 {
		line = line[:i]
	}
	return at, at + len(line)
}

// sumOf is the fingerprint of what is understood.
func sumOf(b Body) uint64 {
	if !b.understood() {
		return 0
	}
	return Fingerprint(b.SDP)
}

// bodies is the texts that are kept, side by side: what A and B sent in the last
// committed exchange, then their open offers.
// the texts themselves follow it in the same allocation.
type bodies struct {
	cut [4]struct {
		sdp  uint16
		kind uint8 // length of the Content-Type, 0 for the usual one
	}
}

const bodiesHead = unsafe.Sizeof(bodies{})

// text is all bodies and types one behind the other.
func (k *bodies) text() []byte {
	n := 0
	for _, c := range k.cut {
		n += int(c.sdp) + int(c.kind)
	}
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(k), bodiesHead)), n)
}

func committedBody(l Leg) int { return int(l) }
func pendingBody(l Leg) int   { return 2 + int(l) }

// usualType is what almost all bodies say; it takes no room.
var usualType = []byte("application/sdp")

func (k *bodies) body(n int) Body {
	at := 0
	for _, c := range k.cut[:n] {
		at += int(c.sdp) + int(c.kind)
	}
	kind := at + int(k.cut[n].sdp)
	end := kind + int(k.cut[n].kind)
	text := k.text()
	b := Body{SDP: text[at:kind:kind], Type: text[kind:end:end]}
	switch {
	case at == kind:
		return Body{}
	case kind == end:
		b.Type = usualType[:len(usualType):len(usualType)]
	}
	return b
}

// pending is the open offer or preview of leg l as far as it is kept.
func (m *Media) pending(l Leg) Body {
	if m.kept == nil {
		return Body{}
	}
	return m.kept.body(pendingBody(l))
}

// hold replaces one of the texts.
func (m *Media) hold(n int, b Body) {
	if m.kept == nil && b.SDP == nil || m.kept != nil && m.kept.cut[n].sdp == 0 && b.SDP == nil {
		return
	}
	var all [4]Body
	if m.kept != nil {
		for i := range all {
			all[i] = m.kept.body(i)
		}
	}
	all[n] = b
	m.setBodies(&all)
}

// setBodies keeps these texts, which may be parts of the old one, and no more.
func (m *Media) setBodies(all *[4]Body) {
	size := 0
	for i := range all {
		if bytes.Equal(all[i].Type, usualType) {
			all[i].Type = nil
		}
		size += len(all[i].SDP) + len(all[i].Type)
	}
	if size == 0 {
		m.kept = nil
		return
	}
	whole := make([]byte, bodiesHead, int(bodiesHead)+size)
	k := (*bodies)(unsafe.Pointer(unsafe.SliceData(whole)))
	for i, b := range all {
		whole = append(append(whole, b.SDP...), b.Type...)
		k.cut[i].sdp, k.cut[i].kind = uint16(len(b.SDP)), uint8(len(b.Type))
	}
	m.kept = k
}
