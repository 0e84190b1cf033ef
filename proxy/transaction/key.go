package transaction

import (
	"crypto/sha256"

	"github.com/sipward/sipward/proxy/wire"
)

// AppendServerKey appends the key by which a request finds its server
// transaction (RFC 3261 17.2.3): branch, sent-by and method. method is the
// request's own, or INVITE to find what an ACK or a CANCEL belongs to.
//
// Without the magic cookie (RFC 2543) the key is made of Request-URI, From tag,
// Call-ID, CSeq number and topmost Via. The To tag is left out: an ACK has the
// one of the response, its INVITE has none.
func AppendServerKey(dst []byte, m *wire.Msg, method []byte) []byte {
	return bounded(appendServerKey(dst, m, method), len(dst))
}

func appendServerKey(dst []byte, m *wire.Msg, method []byte) []byte {
	branch := m.Bytes(m.TopVia.Branch)
	dst = append(dst, method...)
	if len(branch) > len(Cookie) && string(branch[:len(Cookie)]) == Cookie {
		dst = appendPart(dst, branch)
		dst = appendLower(append(dst, '\n'), m.Bytes(m.TopVia.Host))
		return appendPart(dst, m.Bytes(m.TopVia.Port))
	}
	dst = appendPart(dst, m.Bytes(m.RURI))
	dst = appendPart(dst, m.Bytes(m.From.Tag))
	dst = appendPart(dst, m.Bytes(m.CallID))
	dst = appendNumber(append(dst, '\n'), m.CSeq)
	return appendPart(dst, m.Bytes(m.TopVia.Value))
}

// AppendAckKey appends the key by which an ACK finds the failed INVITE it
// acknowledges when it comes with a branch of its own, as some clients send it.
// m is the ACK, or the final response that it acknowledges. The To tag tells the
// branches of a fork apart: below a forking proxy one may fail and another be
// answered, and the ACK for the 2xx must not end here.
func AppendAckKey(dst []byte, m *wire.Msg) []byte {
	start := len(dst)
	dst = append(dst, "ack of"...)
	dst = appendPart(dst, m.Bytes(m.CallID))
	dst = appendNumber(append(dst, '\n'), m.CSeq)
	dst = appendPart(dst, m.Bytes(m.From.Tag))
	return bounded(appendPart(dst, m.Bytes(m.To.Tag)), start)
}

// maxKey bounds what the table keeps of what a stranger wrote: a longer key is
// replaced by its hash.
const maxKey = 160

func bounded(dst []byte, start int) []byte {
	if len(dst)-start <= maxKey {
		return dst
	}
	sum := sha256.Sum256(dst[start:])
	return append(dst[:start], sum[:]...)
}

// appendPart separates with LF: inside a value it stands only in a fold, before
// white space, and no value begins with that.
func appendPart(dst, part []byte) []byte { return append(append(dst, '\n'), part...) }

func appendLower(dst, b []byte) []byte {
	for _, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}

func appendNumber(dst []byte, n uint32) []byte {
	return append(dst, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}
