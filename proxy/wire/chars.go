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

// isToken and hasURIBreak look at every byte without branching: the inputs
// are short and nearly always good.
func isToken(b []byte) bool {
	and := tokenChar
	for _, c := range b {
		and &= class[c]
	}
	return len(b) > 0 && and != 0
}

func hasURIBreak(b []byte) bool {
	or := uint8(0)
	for _, c := range b {
		or |= class[c]
	}
	return or&uriBreak != 0
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

// indexColon is bytes.IndexByte(b, ':') for header names, which are so short
// that a call costs more than the search: eight bytes at a time, inline.
func indexColon(b []byte) int {
	const low, high = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:]) ^ ':'*low
		// The lowest marked byte is the first zero of x.
		if zero := (x - low) &^ x & high; zero != 0 {
			return i + bits.TrailingZeros64(zero)/8
		}
	}
	for ; i < len(b); i++ {
		if b[i] == ':' {
			return i
		}
	}
	return -1
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
