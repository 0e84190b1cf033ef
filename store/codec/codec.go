// Package codec is the form of the states that a [store.File] keeps: a version, values one after the other, and a sum of
// both, so that a state is read whole or not at all. What the values mean is their owner's business.
//
//	w := codec.Begin(nil, version)
//	w.Uint(n)
//	w.String(text)
//	state := w.Seal()
//
//	r, ok := codec.Open(state, version)
//	n, text := r.Uint(most), string(r.Bytes(longest))
//	if !ok || !r.Ended() { ... }
//
// Numbers are varints (encoding/binary), texts have their length in front, the sum is a CRC-32 (Castagnoli). It finds
// damage and no forgery: a reader trusts nothing, and whoever reads says how much a value may be.
//
// [store.File]: https://pkg.go.dev/github.com/sipward/sipward/store#File
package codec

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// Bytes of what is not the owner's.
const (
	headBytes = 1
	sumBytes  = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A Writer appends values to a state. Begin makes it.
type Writer struct {
	b     []byte
	start int // of the state
}

// Begin appends a state to dst.
func Begin(dst []byte, version byte) Writer { return Writer{append(dst, version), len(dst)} }

// Uint appends a number.
func (w *Writer) Uint(n uint64) { w.b = binary.AppendUvarint(w.b, n) }

// Int appends a number that may be negative.
func (w *Writer) Int(n int64) { w.b = binary.AppendVarint(w.b, n) }

// Raw appends bytes whose number is known to whoever reads.
func (w *Writer) Raw(b ...byte) { w.b = append(w.b, b...) }

// Bytes appends bytes of any number.
func (w *Writer) Bytes(b []byte) {
	w.Uint(uint64(len(b)))
	w.b = append(w.b, b...)
}

// String is Bytes of a text.
func (w *Writer) String(s string) {
	w.Uint(uint64(len(s)))
	w.b = append(w.b, s...)
}

// Flags appends at most 63 flags.
func (w *Writer) Flags(all ...bool) {
	n := uint64(0)
	for i, f := range all {
		if f {
			n |= 1 << i
		}
	}
	w.Uint(n)
}

// Seal ends the state and returns it, with what Begin was given before it.
func (w *Writer) Seal() []byte {
	return binary.BigEndian.AppendUint32(w.b, crc32.Checksum(w.b[w.start:], castagnoli))
}

// A Reader reads the values of a state. After the first that cannot be, or that was failed, all others are zero.
type Reader struct {
	b     []byte
	isBad bool
}

// Open is false when the state is damaged or of another version.
func Open(state []byte, version byte) (Reader, bool) {
	n := len(state) - sumBytes
	if n < headBytes || state[0] != version || crc32.Checksum(state[:n], castagnoli) != binary.BigEndian.Uint32(state[n:]) {
		return Reader{isBad: true}, false
	}
	return Reader{b: state[headBytes:n:n]}, true
}

// Fail says that a value cannot be.
func (r *Reader) Fail() { r.b, r.isBad = nil, true }

// Failed: there was a value that cannot be.
func (r *Reader) Failed() bool { return r.isBad }

// Ended: all was read, and could be.
func (r *Reader) Ended() bool { return !r.isBad && len(r.b) == 0 }

// Rest is what was not read yet.
func (r *Reader) Rest() []byte { return r.b }

// Uint reads a number of at most limit.
func (r *Reader) Uint(limit uint64) uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || n > limit {
		r.Fail()
		return 0
	}
	r.b = r.b[size:]
	return n
}

// Uint32 reads a number of 32 bits.
func (r *Reader) Uint32() uint32 { return uint32(r.Uint(math.MaxUint32)) }

// Int reads a number that may be negative.
func (r *Reader) Int() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		r.Fail()
		return 0
	}
	r.b = r.b[size:]
	return n
}

// Raw reads n bytes, which are those of the state; nil when there are not as many.
func (r *Reader) Raw(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.Fail()
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

// Bytes reads at most limit bytes, which are those of the state.
func (r *Reader) Bytes(limit int) []byte { return r.Raw(int(r.Uint(uint64(limit)))) }

// Flags reads as many flags as were written together.
func (r *Reader) Flags(all ...*bool) {
	n := r.Uint(1<<len(all) - 1)
	for i, f := range all {
		*f = n&(1<<i) != 0
	}
}
