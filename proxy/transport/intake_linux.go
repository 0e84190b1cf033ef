package transport

import (
	"net/netip"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers we chose for floods of banned datagrams.
const (
	// floodCount banned datagrams within floodSpan begin a flood; fewer than leaveCount in leaveNaps end it.
	floodCount = 64
	floodSpan  = 32 * time.Millisecond
	leaveNaps  = 64
	leaveCount = 64
	// floodNap is what a clean datagram waits for at most in a flood.
	floodNap = time.Millisecond
	// floodBatch is how many datagrams one system call takes in a flood.
	floodBatch = 32
	// floodRoom is the room of one datagram in a batch: the largest one, and a bit more so that the heads of the
	// buffers do not share the same few lines of the cache.
	floodRoom = maxDatagram + 1 + 17*64
	// floodTurn is how many full batches are taken before other goroutines get a turn.
	floodTurn = 16
	// steadyTime is how long a socket stays in the poller that was too fast to take naps.
	steadyTime = time.Second
)

// intake takes datagrams from a socket and throws away those of banned sources.
//
// As a rule it waits in the poller and takes one datagram at a time: at the rates of SIP there is seldom a second one. A
// banned one costs a system call and no turn through the poller.
//
// Most of what a flood costs is waking up for it, though. So when banned datagrams come fast, the socket leaves the
// poller: the reader takes what there is, many datagrams with one system call, then sleeps for floodNap while nobody is
// woken. A clean datagram then waits for floodNap more. CPU time per banned datagram of 600 bytes, the sender on another
// core, medians of three, in microseconds:
//
//	datagrams a second                         10000  50000  200000  480000
//	this                                         4.5    1.6     0.9     0.7
//	one at a time, in the poller                23      5.9     2.7     1.9
//	a loop in C, blocking in recvmmsg, 64       20      5.5     2.6     1.9
//
// Where the receive buffer is too small for what comes during a nap, the socket stays in the poller.
type intake struct {
	socket *udpSocket
	banned func(netip.Addr) bool
	raw    syscall.RawConn       // the socket in the poller; nil in a flood
	ready  func(fd uintptr) bool // receive, prepared
	one    *inbox

	seen       int       // banned datagrams since
	since      time.Time // when their count began
	steadyTill time.Time
	isFlooded  bool // receive saw a flood begin

	many      *batch // nil out of floods
	isDrained bool   // the kernel had no more than many
	batches   int
	naps      int       // since the flood was last looked at
	caught    int       // banned datagrams in them
	woke      time.Time // from the last nap
	pile      int       // bytes, about, that came from the receive buffer since

	// The result of next: a datagram of n bytes in in, or an error; EAGAIN is none.
	in *inbox
	n  int
	e  unix.Errno
}

func newIntake(s *udpSocket) (*intake, error) {
	t := &intake{socket: s, banned: s.listener.layer.options.Banned, one: newInbox(maxDatagram + 1)}
	t.in, t.ready = t.one, t.receive
	s.polling.Lock()
	defer s.polling.Unlock()
	var err error
	t.raw, err = s.file.SyscallConn()
	return t, err
}

// next waits for a datagram that is not banned, or an error; false when the socket is closed.
func (t *intake) next() bool {
	for !t.socket.isClosed.Load() {
		if t.many != nil {
			if t.nextOfMany() {
				return true
			}
			continue
		}
		t.e = unix.EAGAIN
		if err := t.raw.Read(t.ready); err != nil && !t.socket.isClosed.Load() {
			// The poller gives up on a socket with an error to tell and a full send buffer, until the next datagram.
			t.socket.noteErrors()
			t.socket.listener.layer.pause(pollPause)
			t.receive(0)
		}
		if t.e != unix.EAGAIN {
			return true
		}
		if t.isFlooded {
			t.begin()
		}
	}
	return false
}

// receive is the poller's question whether there is something to do; false = wait.
func (t *intake) receive(uintptr) bool {
	for {
		t.n, t.e = t.one.receive(uintptr(t.socket.fd), 0)
		if t.e != 0 {
			return t.e != unix.EAGAIN
		}
		if t.banned == nil || !t.banned(t.one.source()) {
			return true
		}
		t.e = unix.EAGAIN
		t.socket.count.banned.Add(1)
		if t.seen++; t.seen >= floodCount && t.floods() || t.socket.isClosed.Load() {
			return true
		}
	}
}

// floods decides, each floodCount banned datagrams, whether they come fast enough to leave the poller for.
func (t *intake) floods() bool {
	now := time.Now()
	t.isFlooded = now.Sub(t.since) < floodSpan && now.After(t.steadyTill)
	t.seen, t.since = 0, now
	return t.isFlooded
}

// begin leaves the poller: from now on nobody is woken.
func (t *intake) begin() {
	t.isFlooded = false
	t.socket.leavePoller()
	t.raw, t.many, t.in = nil, newBatch(), nil
	t.isDrained, t.naps, t.caught, t.pile, t.woke = false, 0, 0, 0, time.Now()
}

// end goes back into the poller, if there is a descriptor to be had.
func (t *intake) end() {
	raw, err := t.socket.enterPoller()
	if err != nil {
		return
	}
	t.raw, t.many, t.in = raw, nil, t.one
	t.seen, t.since = 0, time.Time{}
}

// nextOfMany is one round of a flood: it throws away what is banned of the batch and takes the next. True when there is
// a clean datagram or an error.
func (t *intake) nextOfMany() bool {
	b := t.many
	banned := 0
	isClean := false
	for b.next < b.filled && !isClean {
		in := &b.boxes[b.next]
		t.in, t.n, t.e = in, int(b.heads[b.next].n), 0
		b.next++
		t.pile += 2*t.n + 1024 // the kernel rounds up to powers of two and adds its own
		isClean = !t.banned(in.source())
		if !isClean {
			banned++
		}
	}
	if banned > 0 {
		t.caught += banned
		t.socket.count.banned.Add(uint64(banned))
	}
	if isClean {
		return true
	}
	if t.isDrained && !t.nap() {
		t.end()
		return false
	}
	if t.batches++; t.batches%floodTurn == 0 {
		runtime.Gosched()
	}
	t.e = b.receive(uintptr(t.socket.fd))
	t.isDrained = t.e == unix.EAGAIN || t.e == 0 && b.filled < floodBatch
	return t.e != 0 && t.e != unix.EAGAIN
}

// nap sleeps while datagrams pile up; false when the flood is over, or so fast that the receive buffer might not hold
// what comes meanwhile.
func (t *intake) nap() bool {
	now := time.Now()
	if float64(t.pile)/float64(now.Sub(t.woke)+floodNap)*float64(floodNap) > float64(t.socket.receiveBuffer/2) {
		t.steadyTill = now.Add(steadyTime)
		return false
	}
	if t.naps++; t.naps >= leaveNaps {
		if t.caught < leaveCount {
			return false
		}
		t.naps, t.caught = 0, 0
	}
	t.pile = 0
	time.Sleep(floodNap)
	t.woke = now.Add(floodNap)
	return true
}

// batch is what recvmmsg fills.
type batch struct {
	heads        [floodBatch]messageHead
	boxes        [floodBatch]inbox
	filled, next int
}

// messageHead is struct mmsghdr.
type messageHead struct {
	unix.Msghdr
	n uint32
}

func newBatch() *batch {
	b := new(batch)
	room := make([]byte, floodBatch*floodRoom) // 4 MiB of addresses; memory as far as datagrams reach
	for i := range b.boxes {
		b.boxes[i].header = &b.heads[i].Msghdr
		b.boxes[i].data = room[i*floodRoom:][: maxDatagram+1 : maxDatagram+1]
		b.boxes[i].prepare()
	}
	return b
}

func (b *batch) receive(fd uintptr) unix.Errno {
	for i := range b.filled {
		b.boxes[i].restore()
	}
	b.filled, b.next = 0, 0
	n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.heads[0])), floodBatch, unix.MSG_DONTWAIT, 0, 0)
	if e == 0 {
		b.filled = int(n)
	}
	return e
}
