package transport

import (
	"io"
	"os"
	"syscall"
	"unsafe"
)

// The scheduler is not told of these system calls: the sockets are non-blocking, so
// they never wait. Telling it wakes its watchdog at each of them, which took a
// quarter of the CPU of calls over TCP.

// writeNow writes to a non-blocking socket what fits now.
func writeNow(fd uintptr, p []byte) (int, error) {
	n, e := rawIO(syscall.SYS_WRITE, fd, p)
	if e == syscall.EAGAIN {
		return 0, nil
	}
	if e != 0 {
		return 0, e
	}
	return n, nil
}

func rawIO(call, fd uintptr, p []byte) (int, syscall.Errno) {
	for {
		n, _, e := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		if e != syscall.EINTR {
			return int(n), e
		}
	}
}

// canLend: receive waits without a buffer.
const canLend = true

// inlet is the state of one read; a connection has one reader.
type inlet struct {
	read   func(fd uintptr) bool // prepared, so that a read does not allocate it
	into   []byte
	reader *reader // gives into, and takes it back for as long as there is nothing to read
	n      int
	err    syscall.Errno
}

// Read is net.TCPConn's, deadlines included.
func (o *outbox) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return o.take(p, nil)
}

// receive is Read into what r lends.
func (o *outbox) receive(r *reader) (int, error) { return o.take(nil, r) }

func (o *outbox) take(p []byte, r *reader) (int, error) {
	in := &o.inlet
	if in.read == nil {
		in.read = in.readNow
	}
	in.into, in.reader, in.n, in.err = p, r, 0, 0
	err := o.raw.Read(in.read)
	in.into, in.reader = nil, nil
	switch {
	case err != nil:
		return 0, err
	case in.err != 0:
		return 0, os.NewSyscallError("read", in.err)
	case in.n == 0:
		return 0, io.EOF
	}
	return in.n, nil
}

// readNow is called by raw.Read, again when there is something.
func (in *inlet) readNow(fd uintptr) bool {
	if in.reader != nil {
		in.into = in.reader.lend()
	}
	in.n, in.err = rawIO(syscall.SYS_READ, fd, in.into)
	if in.err != syscall.EAGAIN {
		return true
	}
	if in.reader != nil {
		in.into = nil
		in.reader.rest()
	}
	return false
}
