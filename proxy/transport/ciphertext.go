package transport

import "time"

// ciphertext is what TLS reads from.
type ciphertext struct {
	*outbox
	reader *reader // nil without a limit, and during the handshake, which has one of its own
	came   bool    // since the reader asked for text
	record record  // up to which the library has read: it takes along what follows the one that it needs
}

// record is how much of a TLS record came (RFC 8446 section 5.1).
type record struct {
	header int    // bytes of it; type, version, length
	length uint16 // the last two of them
	left   int    // bytes of the fragment to come
}

func (r *record) isPartial() bool { return r.header > 0 || r.left > 0 }

func (r *record) goOn(p []byte) {
	for len(p) > 0 {
		if r.left > 0 {
			n := min(r.left, len(p))
			r.left, p = r.left-n, p[n:]
			continue
		}
		r.length, p = r.length<<8|uint16(p[0]), p[1:]
		if r.header++; r.header == 5 {
			r.header, r.left = 0, int(r.length)
		}
	}
}

// Read begins a message where what came before is no text yet. Without that limit a peer could leave half a record, or
// half a handshake message, in the library for as long as a connection may be idle. One that renews its keys and then says
// nothing is closed with them.
func (i *ciphertext) Read(p []byte) (int, error) {
	if r := i.reader; r != nil && (i.came || i.record.isPartial()) && r.begun.IsZero() {
		r.begun = time.Now()
		r.limit()
	}
	n, err := i.outbox.Read(p)
	i.came = i.came || n > 0
	i.record.goOn(p[:n])
	return n, err
}
