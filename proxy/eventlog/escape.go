package eventlog

import (
	"net/netip"
	"strconv"
)

// maxValue is how many bytes of one value are written.
const maxValue = 256

// kind says where a value stands, which decides what must be escaped in it.
type kind uint8

const (
	token   kind = 1 << iota // without quotes, ends at a space
	quoted                   // between single quotes
	reason                   // without quotes, with spaces; fields follow
	message                  // the text of an operational line; fields follow
	item                     // one of several without quotes, between commas
)

// unsafeIn holds for each byte the kinds in which it must be escaped.
var unsafeIn = func() (t [256]kind) {
	for c := range t {
		if c < ' ' || c >= 0x7f || c == '\\' {
			t[c] = token | quoted | reason | message | item
		}
	}
	t['\''] = token | quoted | reason | item
	t['"'] = token | quoted | reason | item
	t[' '] = token | item
	t[','] = item
	t['='] = reason | message
	return t
}()

const hexDigits = "0123456789abcdef"

// appendEscaped appends at most the given number of bytes of a value; \... says that there were more.
func appendEscaped[T []byte | string](b []byte, v T, k kind, most int) []byte {
	rest := len(v) - most
	if rest > 0 {
		v = v[:most]
	}
	done := 0
	for i := 0; i < len(v); i++ {
		c := v[i]
		if unsafeIn[c]&k == 0 {
			continue
		}
		b = append(b, v[done:i]...)
		done = i + 1
		switch c {
		case '\\', '\'', '"':
			b = append(b, '\\', c)
		case '\r':
			b = append(b, '\\', 'r')
		case '\n':
			b = append(b, '\\', 'n')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	b = append(b, v[done:]...)
	if rest > 0 {
		b = append(b, `\...`...)
	}
	return b
}

const null = "<null>"

// appendToken appends a value that stands without quotes; an absent one is <null>, as Kamailio writes it.
func appendToken[T []byte | string](b []byte, v T) []byte { return appendBare(b, v, token) }

func appendBare[T []byte | string](b []byte, v T, k kind) []byte {
	if len(v) == 0 {
		return append(b, null...)
	}
	if string(v) == null {
		return append(b, `\x3cnull>`...) // a peer that sent just this
	}
	return appendEscaped(b, v, k, maxValue)
}

// appendText appends a value for between single quotes.
func appendText(b, v []byte) []byte { return appendEscaped(b, v, quoted, maxValue) }

// appendReason appends a reason phrase. Its spaces stay for the reader, its = do not: no field can be forged in it.
func appendReason(b, v []byte) []byte { return appendEscaped(b, v, reason, maxValue) }

func appendAddrPort(b []byte, a netip.AddrPort) []byte {
	if !a.Addr().IsValid() {
		return append(b, null...)
	}
	if a.Addr().Is4() { // AppendTo of the standard library takes a detour
		b = a.Addr().AppendTo(b)
		return strconv.AppendUint(append(b, ':'), uint64(a.Port()), 10)
	}
	return a.AppendTo(b)
}

func appendAddr(b []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return append(b, null...)
	}
	return a.AppendTo(b)
}
