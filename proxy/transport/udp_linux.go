package transport

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendBuffer is asked for so that a burst of answers does not find the interface's queue in the way.
const sendBuffer = 2 << 20

// pollPause is how often a socket is looked at that cannot be waited for.
const pollPause = 5 * time.Millisecond

// udpSocket is one of the sockets of a listener.
//
// Reading waits in the runtime's poller, but the system calls are our own, and the scheduler is not told of them since
// they never wait. CPU time per datagram of 600 bytes, in and out, one core, medians of three, in microseconds:
//
//	datagrams a second                   1000  3000  7000  flat out
//	this                                   51    42    23   3.6
//	the same, sending through the poller   62    39    22   3.5
//	net.UDPConn, ReadMsgUDPAddrPort        87    77    41   4.8
//	a try, then blocking in recvmsg       113    63    30   4.5
//
// Most of it at low rates is waking up. Past the poller, the scheduler's watchdog takes the processor away from the
// blocked reader, so that each datagram goes from thread to thread; in the poller it is one context switch.
type udpSocket struct {
	listener      *Listener
	fd            int
	receiveBuffer int

	polling sync.Mutex
	file    *os.File // a second descriptor of the socket, in the poller; nil in a flood

	_        [64]byte     // what follows is written often
	users    atomic.Int64 // the owner, the reader and sends under way; at 0 the descriptor is closed
	isClosed atomic.Bool
	isFreed  atomic.Bool

	errorsDue     atomic.Bool // somebody saw an error that says there is something in the error queue
	errorsHandled atomic.Bool // a goroutine is at it
	errorQueue    sync.Mutex  // held to take one error out, and by a send that the errors hold up; never over the handler

	drops      sync.Mutex
	dropped    atomic.Uint32 // the kernel's count of drops as of the last look; written under drops
	isFiltered bool          // guarded by drops

	_     [64]byte
	count socketCounters
}

// openSockets opens Options.Readers sockets on one address and port.
func (l *Listener) openSockets(bind netip.AddrPort) error {
	for range l.layer.options.Readers {
		isFirst := len(l.sockets) == 0
		s, bound, err := openSocket(l, bind, isFirst)
		if err != nil {
			l.close()
			return err
		}
		l.sockets = append(l.sockets, s)
		if isFirst {
			l.bound = bound
			bind = bound
		}
	}
	return nil
}

func openSocket(l *Listener, bind netip.AddrPort, isFirst bool) (s *udpSocket, bound netip.AddrPort, err error) {
	family := unix.AF_INET
	if bind.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, bound, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	got, err := tuneUDP(l, fd, family)
	if err != nil {
		return nil, bound, err
	}
	// The first socket is bound without SO_REUSEPORT, so that a second server on the address is found out rather than
	// given half of the datagrams; then it lets ours join.
	if !isFirst {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}
	if err == nil {
		err = unix.Bind(fd, sockaddrOf(bind))
	}
	if err == nil && isFirst && l.layer.options.Readers > 1 {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}
	if err != nil {
		return nil, bound, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return nil, bound, err
	}
	port := bind.Port()
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		port = uint16(a.Port)
	case *unix.SockaddrInet6:
		port = uint16(a.Port)
	}
	s = &udpSocket{listener: l, fd: fd, receiveBuffer: got}
	s.users.Store(1)
	if _, err = s.enterPoller(); err != nil {
		return nil, bound, err
	}
	return s, netip.AddrPortFrom(bind.Addr(), port), nil
}

func tuneUDP(l *Listener, fd, family int) (receiveBuffer int, err error) {
	want := l.layer.limits.receiveBuffer
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, want) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, want)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	}
	receiveBuffer, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return 0, err
	}
	receiveBuffer /= 2 // the kernel doubles it for its own headers

	// Without these two it works, but less is known.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)

	type option struct{ level, name, value int }
	options := []option{{unix.IPPROTO_IP, unix.IP_RECVERR, 1},
		// No DF bit: a large INVITE is fragmented on the way instead of being lost once to learn the path's MTU.
		{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT}}
	if l.isWildcard {
		options = append(options, option{unix.IPPROTO_IP, unix.IP_PKTINFO, 1})
	}
	if family == unix.AF_INET6 {
		options = []option{{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1}, {unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1}}
		if l.isWildcard {
			options = append(options, option{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1})
		}
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return 0, err
		}
	}
	return receiveBuffer, nil
}

func sockaddrOf(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: zoneID(a.Addr().Zone())}
}

// zoneID is the interface index of an IPv6 zone. The zones we make are numbers.
func zoneID(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	return 0
}

// source is a local address to send from. There is one per listener and address, so that flows compare equal.
type source struct {
	listener *Listener
	local    netip.AddrPort
	control  []byte // ready-made IP_PKTINFO or IPV6_PKTINFO; nil = the socket's own address, or the kernel's choice
}

// newSource prepares the control message that makes the kernel send from local.
func newSource(l *Listener, local netip.Addr) *source {
	s := &source{listener: l, local: netip.AddrPortFrom(local, l.bound.Port())}
	if local.Is4() {
		s.control = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: local.As4()})
		return s
	}
	s.control = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: local.As16(), Ifindex: zoneID(local.Zone())})
	return s
}

// acquire keeps the descriptor open until release; false when the socket is closed.
func (s *udpSocket) acquire() bool {
	s.users.Add(1)
	if s.isClosed.Load() {
		s.release()
		return false
	}
	return true
}

func (s *udpSocket) release() {
	if s.users.Add(-1) == 0 && s.isFreed.CompareAndSwap(false, true) {
		s.leavePoller()
		_ = unix.Close(s.fd)
	}
}

// enterPoller has the runtime watch the socket, by a descriptor of its own: it watches for as long as that is open.
func (s *udpSocket) enterPoller() (syscall.RawConn, error) {
	fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "udp")
	s.polling.Lock()
	s.file = file
	s.polling.Unlock()
	return file.SyscallConn()
}

func (s *udpSocket) leavePoller() {
	s.polling.Lock()
	defer s.polling.Unlock()
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
}

// close wakes the reader and lets the descriptor go with its last user: a number that was closed too early could be
// somebody else's socket by the time a send gets there.
func (s *udpSocket) close() {
	if s.isClosed.CompareAndSwap(false, true) {
		s.polling.Lock() // who enters the poller later looks at isClosed afterwards
		if s.file != nil {
			_ = s.file.SetReadDeadline(time.Unix(1, 0))
		}
		s.polling.Unlock()
		s.release()
	}
}

// inbox is what recvmsg fills.
type inbox struct {
	header  *unix.Msghdr
	vector  unix.Iovec
	name    [unix.SizeofSockaddrInet6]byte
	_       [4]byte
	control [64]uint64 // aligned for the structures in it
	data    []byte
}

func newInbox(size int) *inbox {
	in := &inbox{header: new(unix.Msghdr), data: make([]byte, size)}
	in.prepare()
	return in
}

func (in *inbox) prepare() {
	in.vector.Base = &in.data[0]
	in.vector.SetLen(len(in.data))
	in.header.Name = &in.name[0]
	in.header.Iov = &in.vector
	in.header.SetIovlen(1)
	in.header.Control = (*byte)(unsafe.Pointer(&in.control[0]))
	in.restore()
}

// restore undoes what the kernel wrote into the header.
func (in *inbox) restore() {
	in.header.Namelen = uint32(len(in.name))
	in.header.SetControllen(len(in.control) * 8)
}

// receive returns the number of bytes, or EAGAIN.
func (in *inbox) receive(fd uintptr, flags int) (int, unix.Errno) {
	in.restore()
	n, _, e := unix.RawSyscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(in.header)), uintptr(flags|unix.MSG_DONTWAIT))
	return int(n), e
}

// source returns the IP address that came with the message, unmapped and without a zone.
func (in *inbox) source() netip.Addr {
	switch {
	case in.header.Namelen >= unix.SizeofSockaddrInet4 && in.family() == unix.AF_INET:
		return netip.AddrFrom4([4]byte(in.name[4:8]))
	case in.header.Namelen >= unix.SizeofSockaddrInet6 && in.family() == unix.AF_INET6:
		return netip.AddrFrom16([16]byte(in.name[8:24])).Unmap()
	}
	return netip.Addr{}
}

// from returns the address that came with the message, unmapped.
func (in *inbox) from() netip.AddrPort {
	port := uint16(in.name[2])<<8 | uint16(in.name[3])
	switch {
	case in.header.Namelen >= unix.SizeofSockaddrInet4 && in.family() == unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(in.name[4:8])), port)
	case in.header.Namelen >= unix.SizeofSockaddrInet6 && in.family() == unix.AF_INET6:
		a := netip.AddrFrom16([16]byte(in.name[8:24])).Unmap()
		if scope := *(*uint32)(unsafe.Pointer(&in.name[24])); scope != 0 && a.Is6() {
			a = a.WithZone(strconv.FormatUint(uint64(scope), 10)) // allocates for link-local peers on interfaces from 100 on
		}
		return netip.AddrPortFrom(a, port)
	}
	return netip.AddrPort{}
}

func (in *inbox) family() uint16 { return *(*uint16)(unsafe.Pointer(&in.name[0])) }

// attached is what the control messages say.
type attached struct {
	local    netip.Addr // to which the datagram was sent; where that is a broadcast, the address to answer from
	header   netip.Addr // the destination in the IP header; for ICMP errors, our address
	arrived  int64      // nanoseconds since 1970, 0 = unknown
	drops    uint32
	hasDrops bool
	failure  unix.SockExtendedErr
	hasError bool
}

func (in *inbox) attached() (a attached) {
	b := unsafe.Slice((*byte)(unsafe.Pointer(&in.control[0])), len(in.control)*8)[:in.header.Controllen]
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		size := int(h.Len)
		if size < unix.CmsgLen(0) || size > len(b) {
			return a
		}
		a.take(int(h.Level), int(h.Type), b[unix.CmsgLen(0):size])
		b = b[min(unix.CmsgSpace(size-unix.CmsgLen(0)), len(b)):]
	}
	return a
}

func (a *attached) take(level, kind int, b []byte) {
	switch {
	case level == unix.SOL_SOCKET && kind == unix.SCM_TIMESTAMPNS && len(b) >= int(unsafe.Sizeof(unix.Timespec{})):
		a.arrived = (*unix.Timespec)(unsafe.Pointer(&b[0])).Nano()
	case level == unix.SOL_SOCKET && kind == unix.SO_RXQ_OVFL && len(b) >= 4:
		a.drops, a.hasDrops = *(*uint32)(unsafe.Pointer(&b[0])), true
	case level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO && len(b) >= unix.SizeofInet4Pktinfo:
		info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&b[0]))
		a.local, a.header = netip.AddrFrom4(info.Spec_dst), netip.AddrFrom4(info.Addr)
	case level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO && len(b) >= unix.SizeofInet6Pktinfo:
		info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&b[0]))
		a.local = netip.AddrFrom16(info.Addr).Unmap()
		if a.local.IsLinkLocalUnicast() {
			a.local = a.local.WithZone(strconv.FormatUint(uint64(info.Ifindex), 10))
		}
		a.header = a.local
	case (level == unix.IPPROTO_IP && kind == unix.IP_RECVERR || level == unix.IPPROTO_IPV6 && kind == unix.IPV6_RECVERR) &&
		len(b) >= int(unsafe.Sizeof(a.failure)):
		a.failure, a.hasError = *(*unix.SockExtendedErr)(unsafe.Pointer(&b[0])), true
	}
}

// read hands every datagram to the handler until the socket is closed.
func (s *udpSocket) read() {
	if !s.acquire() {
		return
	}
	defer s.release()
	in, err := newIntake(s)
	if err != nil {
		s.listener.layer.options.OnProblem("cannot read from udp %s: %v", s.listener.bound, err)
		return
	}
	var forErrors *inbox
	p := new(Packet)
	var failures int
	for in.next() {
		if isPending(in.e) { // an earlier send's; the datagrams are still there
			if forErrors == nil {
				forErrors = newInbox(quoteSize)
			}
			s.readErrors(forErrors)
			continue
		}
		if in.e != 0 {
			s.readFailed(in.e, &failures)
			continue
		}
		failures = 0
		s.count.datagrams.Add(1)
		data := in.in.data[:in.n:in.n]
		if len(data) <= 4 && isKeepAlive(data) {
			s.count.keepAlives.Add(1)
			s.listener.layer.options.KeptAlive(in.in.from().Addr(), false)
			continue
		}
		a := in.in.attached()
		if a.hasDrops && a.drops != s.dropped.Load() {
			s.dropsRead(a.drops)
		}
		p.Waited = 0
		if a.arrived != 0 {
			p.Waited = max(0, time.Duration(time.Now().UnixNano()-a.arrived))
		}
		p.Flow = Flow{source: s.listener.sourceOf(a.local), remote: in.in.from()}
		p.Data = data
		s.listener.layer.handler.Receive(p)
	}
}

// readFailed keeps the reader going, at a walk if it fails on and on.
func (s *udpSocket) readFailed(e unix.Errno, failures *int) {
	const patience = 100
	if e == unix.EINTR {
		return
	}
	s.count.readErrors.Add(1)
	if *failures++; *failures > patience {
		s.listener.layer.pause(pollPause)
	}
}

// sendTries is how many pending errors of other sends one send steps over; each try takes one away.
const sendTries = 32

// send gives one datagram to the kernel. Where errors of earlier datagrams are pending, the kernel answers with one of
// them instead of sending; it is then tried again.
func (s *udpSocket) send(from *source, to netip.AddrPort, b []byte) error {
	if !s.acquire() {
		return ErrClosed
	}
	e := s.sendOnce(from, to, b)
	if e == unix.EINTR || isPending(e) {
		e = s.sendAgain(from, to, b)
	}
	s.release()
	if e == 0 {
		return nil
	}
	if e == unix.EMSGSIZE {
		s.count.oversize.Add(1)
	} else {
		s.count.sendErrors.Add(1)
	}
	return e
}

// sendAgain tries until the errors of others are out of the way. Whoever takes an error out of the queue makes the kernel
// show the next one to the next send (sock_dequeue_err_skb), faster than a send can step over them: they wait meanwhile.
func (s *udpSocket) sendAgain(from *source, to netip.AddrPort, b []byte) (e unix.Errno) {
	defer s.noteErrors() // the last, when none of the errors that were stepped over can be missed
	s.errorQueue.Lock()
	defer s.errorQueue.Unlock()
	for range sendTries {
		e = s.sendOnce(from, to, b)
		if e != unix.EINTR && !isPending(e) {
			break
		}
	}
	return e
}

func (s *udpSocket) sendOnce(from *source, to netip.AddrPort, b []byte) unix.Errno {
	var four unix.RawSockaddrInet4
	var six unix.RawSockaddrInet6
	name, size := unsafe.Pointer(&four), uintptr(unix.SizeofSockaddrInet4)
	port := [2]byte{byte(to.Port() >> 8), byte(to.Port())}
	is4 := s.listener.bound.Addr().Is4()
	if to.Addr().Is4() != is4 || !to.Addr().IsValid() {
		return unix.EAFNOSUPPORT
	}
	if is4 {
		four.Family, four.Addr = unix.AF_INET, to.Addr().As4()
		four.Port = *(*uint16)(unsafe.Pointer(&port))
	} else {
		name, size = unsafe.Pointer(&six), unix.SizeofSockaddrInet6
		six.Family, six.Addr = unix.AF_INET6, to.Addr().As16()
		six.Port = *(*uint16)(unsafe.Pointer(&port))
		if to.Addr().Zone() != "" {
			six.Scope_id = zoneID(to.Addr().Zone())
		}
	}
	const flags = unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	if from.control == nil {
		_, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))),
			uintptr(len(b)), flags, uintptr(name), size)
		return e
	}
	vector := unix.Iovec{Base: unsafe.SliceData(b)}
	vector.SetLen(len(b))
	header := unix.Msghdr{Name: (*byte)(name), Namelen: uint32(size), Iov: &vector, Control: &from.control[0]}
	header.SetIovlen(1)
	header.SetControllen(len(from.control))
	_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&header)), flags)
	runtime.KeepAlive(&four)
	runtime.KeepAlive(&six)
	runtime.KeepAlive(&vector)
	runtime.KeepAlive(b)
	return e
}
