package transaction

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"

	"github.com/dchest/siphash"
)

// Cookie starts every branch of RFC 3261 (8.1.1.7).
const Cookie = "z9hG4bK"

// BranchLen is the length in bytes of a branch that we write.
const BranchLen = len(Cookie) + 32

// Branch is what the branch parameter of our own Via says: where the response
// belongs, and the hash of everything that routed the request, by which a loop
// is told from a spiral (RFC 5393 4.2).
type Branch struct {
	Slot Slot
	Leg  uint16 // which client branch of the transaction; see StatelessLeg and those after it
	Loop uint32
}

// Legs that belong to no response context.
const (
	StatelessLeg uint16 = 0xffff - iota // forwarded without a transaction; Slot carries the check of the answer's way back
	OwnLeg                              // a request of our own; Slot says which
	PingLeg                             // a request of our own that nobody waits for; Slot is the sender's
)

// Key signs branches. Make one per process: a response to a branch of an earlier
// process belongs to nobody.
type Key struct{ a, b uint64 }

// NewKey draws a random key.
func NewKey() Key {
	var s [16]byte
	rand.Read(s[:]) // never fails (crypto/rand)
	return Key{binary.LittleEndian.Uint64(s[:]), binary.LittleEndian.Uint64(s[8:])}
}

// Sum is the keyed hash of b (SipHash-2-4).
func (k Key) Sum(b []byte) uint64 { return siphash.Hash(k.a, k.b, b) }

// Append writes the branch parameter's value: cookie and base64url of
// slot (8), leg (2), loop (4), sum (8), padded to whole groups.
func (k Key) Append(dst []byte, b Branch) []byte {
	var raw [24]byte
	binary.BigEndian.PutUint64(raw[0:], uint64(b.Slot))
	binary.BigEndian.PutUint16(raw[8:], b.Leg)
	binary.BigEndian.PutUint32(raw[10:], b.Loop)
	binary.BigEndian.PutUint64(raw[16:], k.Sum(raw[:14]))
	dst = append(dst, Cookie...)
	return base64.RawURLEncoding.AppendEncode(dst, raw[:])
}

// Parse reads a branch that Append wrote with the same key. Anything else, also
// with a single bit changed, is refused.
func (k Key) Parse(v []byte) (Branch, bool) {
	var raw [24]byte
	if len(v) != BranchLen || string(v[:len(Cookie)]) != Cookie {
		return Branch{}, false
	}
	if _, err := base64.RawURLEncoding.Decode(raw[:], v[len(Cookie):]); err != nil {
		return Branch{}, false
	}
	if binary.BigEndian.Uint16(raw[14:]) != 0 || binary.BigEndian.Uint64(raw[16:]) != k.Sum(raw[:14]) {
		return Branch{}, false
	}
	return Branch{
		Slot: Slot(binary.BigEndian.Uint64(raw[0:])),
		Leg:  binary.BigEndian.Uint16(raw[8:]),
		Loop: binary.BigEndian.Uint32(raw[10:]),
	}, true
}
