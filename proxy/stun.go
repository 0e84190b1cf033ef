package proxy

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"slices"
)

// STUN as a SIP edge needs it: phones keep a UDP flow open with Binding requests to the
// port they register at, and learn from the answer whether the flow is still the same
// (RFC 5626 3.5.2 and 8). That is one request without attributes and one answer of 32
// bytes, so it is written out here: the libraries that speak all of STUN bring TURN's
// transports and DTLS with them.

// From RFC 8489.
const (
	stunHeader  = 20
	stunCookie  = 0x2112A442
	stunRequest = 0x0001
	stunSuccess = 0x0101
	stunError   = 0x0111

	stunMappedAddress     = 0x0001
	stunErrorCode         = 0x0009
	stunUnknownAttributes = 0x000A
	stunXorMappedAddress  = 0x0020
	stunOptional          = 0x8000 // attributes from here on may be ignored
	stunFingerprint       = 0x8028

	stunFingerprintXor = 0x5354554E
	stunFingerprintLen = 8 // with its head
)

// stunUnknownListed is our bound for the attributes that an error lists. It keeps
// the answer below twice the request: each of them is two bytes of four.
const stunUnknownListed = 8

// appendSTUN appends the answer to a STUN Binding request that came from there. It
// returns false, and dst as it was, for what gets no answer: anything else of STUN, and
// what is no STUN. The request is not changed, and may not share memory with dst.
func appendSTUN(dst, request []byte, from netip.AddrPort) ([]byte, bool) {
	if !from.IsValid() || !isBinding(request) {
		return dst, false
	}
	unknown, signed, ok := stunAttributes(request)
	if !ok {
		return dst, false
	}
	start := len(dst)
	if len(unknown.types()) > 0 {
		dst = appendSTUNHead(dst, stunError, request)
		dst = appendSTUNUnknown(dst, unknown.types())
	} else {
		dst = appendSTUNHead(dst, stunSuccess, request)
		dst = appendXorMapped(dst, request, from)
	}
	n := len(dst) - start - stunHeader
	if !signed {
		binary.BigEndian.PutUint16(dst[start+2:], uint16(n))
		return dst, true
	}
	// RFC 8489 14.7: the length that is summed counts the FINGERPRINT already.
	binary.BigEndian.PutUint16(dst[start+2:], uint16(n+stunFingerprintLen))
	sum := stunSum(dst[start:])
	dst = binary.BigEndian.AppendUint16(dst, stunFingerprint)
	dst = binary.BigEndian.AppendUint16(dst, 4)
	return binary.BigEndian.AppendUint32(dst, sum), true
}

// isBinding tells a Binding request whose length is right (RFC 8489 6.3). Indications ask
// for no answer, and an answer to an answer could go back and forth for ever.
func isBinding(b []byte) bool {
	return len(b) >= stunHeader && len(b)%4 == 0 &&
		binary.BigEndian.Uint16(b) == stunRequest &&
		int(binary.BigEndian.Uint16(b[2:])) == len(b)-stunHeader &&
		binary.BigEndian.Uint32(b[4:]) == stunCookie
}

// stunUnknown holds the types of attributes that we would have to understand.
type stunUnknown struct {
	listed [stunUnknownListed]uint16
	n      int
}

func (u *stunUnknown) types() []uint16 { return u.listed[:u.n] }

func (u *stunUnknown) add(kind uint16) {
	if u.n < len(u.listed) && !slices.Contains(u.types(), kind) {
		u.listed[u.n] = kind
		u.n++
	}
}

// stunAttributes walks over the attributes of a Binding request. It is signed if it has a
// FINGERPRINT, and not ok if that is wrong or an attribute goes beyond its end.
func stunAttributes(request []byte) (unknown stunUnknown, signed, ok bool) {
	for at := stunHeader; at < len(request); {
		// All lengths are multiples of four: there is a whole head.
		kind := binary.BigEndian.Uint16(request[at:])
		n := int(binary.BigEndian.Uint16(request[at+2:]))
		end := at + 4 + (n+3)&^3
		if end > len(request) {
			return unknown, false, false
		}
		switch {
		case kind == stunFingerprint:
			// RFC 8489 14.7: it is the last one.
			right := n == 4 && end == len(request) && binary.BigEndian.Uint32(request[at+4:]) == stunSum(request[:at])
			return unknown, true, right
		case kind < stunOptional && !isSTUNAnswers(kind):
			// USERNAME and MESSAGE-INTEGRITY too: there are no credentials to check.
			unknown.add(kind)
		}
		at = end
	}
	return unknown, false, true
}

// isSTUNAnswers tells the attributes that belong into answers. They are known, so they are
// ignored in a request (RFC 8489 6.3).
func isSTUNAnswers(kind uint16) bool {
	switch kind {
	case stunMappedAddress, stunErrorCode, stunUnknownAttributes, stunXorMappedAddress:
		return true
	}
	return false
}

// appendSTUNHead appends a head for the same transaction, with a length of 0.
func appendSTUNHead(dst []byte, kind uint16, request []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, kind)
	dst = append(dst, 0, 0)
	return append(dst, request[4:stunHeader]...)
}

// appendXorMapped appends XOR-MAPPED-ADDRESS (RFC 8489 14.2): the address as we see it,
// masked with the cookie and the transaction so that no ALG rewrites it on its way.
func appendXorMapped(dst, request []byte, from netip.AddrPort) []byte {
	mask := request[4:stunHeader]
	var room [16]byte
	ip, family := room[:4], uint16(1)
	if a := from.Addr().Unmap(); a.Is4() {
		four := a.As4()
		copy(ip, four[:])
	} else {
		room, ip, family = a.As16(), room[:], 2
	}
	dst = binary.BigEndian.AppendUint16(dst, stunXorMappedAddress)
	dst = binary.BigEndian.AppendUint16(dst, uint16(4+len(ip)))
	dst = binary.BigEndian.AppendUint16(dst, family)
	dst = binary.BigEndian.AppendUint16(dst, from.Port()^(stunCookie>>16))
	for i, b := range ip {
		dst = append(dst, b^mask[i])
	}
	return dst
}

// appendSTUNUnknown appends ERROR-CODE 420 and UNKNOWN-ATTRIBUTES (RFC 8489 14.8, 14.9).
// The reason is short so that the answer stays short.
func appendSTUNUnknown(dst []byte, types []uint16) []byte {
	dst = binary.BigEndian.AppendUint16(dst, stunErrorCode)
	dst = append(dst, 0, 11, 0, 0, 4, 20)
	dst = append(dst, "Unknown\x00"...)
	dst = binary.BigEndian.AppendUint16(dst, stunUnknownAttributes)
	dst = binary.BigEndian.AppendUint16(dst, uint16(2*len(types)))
	for _, t := range types {
		dst = binary.BigEndian.AppendUint16(dst, t)
	}
	if len(types)%2 != 0 {
		dst = append(dst, 0, 0)
	}
	return dst
}

func stunSum(b []byte) uint32 { return crc32.ChecksumIEEE(b) ^ stunFingerprintXor }
