//go:build !linux

package transport

// inlet is what Linux needs to read past the scheduler.
type inlet struct{}

const canLend = false

func (o *outbox) receive(r *reader) (int, error) { return o.TCPConn.Read(r.lend()) }
