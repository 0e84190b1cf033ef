package wire

import (
	"encoding/binary"
	"math/bits"
)

// Classes of octets, RFC 3261 25.1.
const (
	tokenChar uint8 = 1 << iota // token
	lwsChar                     // SP, HTAB, and CR and LF of a fold
	hostChar                    // hostname or IPv4address, and '_' which is met
	uriBreak                    // ends or forbids a Request-URI: controls, SP, <, >, "
)

var class = classify()

func classify() (t [256]uint8) {
	for c := range 256 {
		b := byte(c)
		if 'a' <= b|0x20 && b|0x20 <= 'z' || isDigit(b) {
			t[c] |= tokenChar | hostChar
		}
		if c <= ' ' || c == 0x7f {
			t[c] |= uriBreak
		}
	}
	set := func(chars string, bit uint8) {
		for _, c := range []byte(chars) {
			t[c] |= bit
		}
	}
	set("-.!%*_+`'~", tokenChar)
	set("-._", hostChar)
	set(" \t\r\n", lwsChar)
	set(`<>"`, uriBreak)
	return t
}

func isDigit(b byte) bool { return b-'0' <= 9 }

func isLWS(b byte) bool { return class[b]&lwsChar != 0 }

// isToken looks at every byte without branching: the inputs are short and
// nearly always good.
func isToken(b []byte) bool {
	and := tokenChar
	for _, c := range b {
		and &= class[c]
	}
	return len(b) > 0 && and != 0
}

func lower(c byte) byte {
	if c-'A' < 26 {
		return c | 0x20
	}
	return c
}

// equalFold compares in ASCII without regard to case.
func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	if string(b) == s {
		return true
	}
	for i := range len(s) {
		if b[i] != s[i] && lower(b[i]) != lower(s[i]) {
			return false
		}
	}
	return true
}

// skipLWS is the first index from i on, below end, that holds no white space.
func skipLWS(b []byte, i, end int) int {
	for i < end && isLWS(b[i]) {
		i++
	}
	return i
}

// tokenEnd is the first index from i on, below end, that holds no token
// character.
func tokenEnd(b []byte, i, end int) int {
	for i < end && class[b[i]]&tokenChar != 0 {
		i++
	}
	return i
}

// trimLWS narrows [start, end) by the white space at both ends.
func trimLWS(b []byte, start, end int) (int, int) {
	for start < end && isLWS(b[start]) {
		start++
	}
	for end > start && isLWS(b[end-1]) {
		end--
	}
	return start, end
}

// number reads 1*DIGIT up to limit.
func number(b []byte, limit uint32) (uint32, bool) {
	if len(b) == 0 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if !isDigit(c) {
			return 0, false
		}
		if n = n*10 + uint64(c-'0'); n > uint64(limit) {
			return 0, false
		}
	}
	return uint32(n), true
}

// What follows looks at eight bytes at a time. The texts are so short that a
// call of bytes.IndexByte costs more than the search.

const lowBits, highBits = 0x0101010101010101, 0x8080808080808080

// word is b[i:i+8], the first byte lowest. The third index spares the compiler
// a thought about slices at the end of their array.
func word(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[i : i+8 : i+8]) }

// markByte is not 0 when c is among the bytes of x; the lowest bit set is then
// the highest bit of the first c. Bits above that one mean nothing.
func markByte(x uint64, c byte) uint64 {
	x ^= uint64(c) * lowBits
	return (x - lowBits) &^ x & highBits
}

// hasURIBreak looks for anything of the class uriBreak: only words that hold
// '<', '>', DEL or anything below '#', as few URIs do, are looked at closely.
func hasURIBreak(b []byte) bool {
	i := 0
	for ; i+8 <= len(b); i += 8 {
		x := word(b, i)
		low := (x - '#'*lowBits) &^ x & highBits
		if low|markByte(x|2*lowBits, '>')|markByte(x, 0x7f) != 0 { // '<'|2 is '>'
			break
		}
	}
	or := uint8(0)
	for _, c := range b[i:] {
		or |= class[c]
	}
	return or&uriBreak != 0
}

// indexEither is the index of the first c or d in b[i:end], or end. It may
// look at what follows end, for want of a whole word before.
func indexEither(b []byte, i, end int, c, d byte) int {
	for ; i < end && i+8 <= len(b); i += 8 {
		x := word(b, i)
		if mark := markByte(x, c) | markByte(x, d); mark != 0 {
			return min(i+bits.TrailingZeros64(mark)/8, end)
		}
	}
	for ; i < end; i++ {
		if b[i] == c || b[i] == d {
			return i
		}
	}
	return end
}

// quoted is the index after the quoted string that starts at i, or -1 when it
// has no end below end.
func quoted(b []byte, i, end int) int {
	for i++; i < end; i++ {
		switch b[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return -1
}
