package transport

import "golang.org/x/sys/unix"

// quoteSize holds what ICMPv6 quotes of a datagram (RFC 4443 section 2.4); ICMP quotes less.
const quoteSize = 1280

// isPending tells the errors by which the kernel may mean an earlier datagram (net/ipv4/icmp.c, net/ipv6/icmp.c). Those
// of routing can be about this one too.
func isPending(e unix.Errno) bool {
	switch e {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ENOPROTOOPT, unix.EPROTO, unix.EOPNOTSUPP,
		unix.EHOSTDOWN, unix.ENONET, unix.EACCES, unix.EMSGSIZE:
		return true
	}
	return false
}

// noteErrors has the error queue read soon. A send that took a pending error off the socket also took the reader's only
// sign of it; and the sender may hold locks, so the handler is not called here.
func (s *udpSocket) noteErrors() {
	s.errorsDue.Store(true)
	if s.errorsHandled.Load() || !s.listener.layer.serves() {
		return
	}
	s.listener.layer.run(s.handleErrors) // ends when the queue is empty
}

func (s *udpSocket) handleErrors() {
	for s.errorsDue.Load() && s.errorsHandled.CompareAndSwap(false, true) {
		s.errorsDue.Store(false)
		s.readErrors(newInbox(quoteSize))
		s.errorsHandled.Store(false)
	}
}

// readErrors hands everything in the error queue to the handler.
func (s *udpSocket) readErrors(in *inbox) {
	h := s.listener.layer.handler
	if h == nil || !s.acquire() {
		return
	}
	defer s.release()
	for !s.isClosed.Load() {
		s.errorQueue.Lock()
		n, e := in.receive(uintptr(s.fd), unix.MSG_ERRQUEUE)
		s.errorQueue.Unlock()
		if e == unix.EAGAIN {
			return
		}
		if e != 0 {
			if e == unix.EINTR || isPending(e) {
				continue
			}
			s.count.readErrors.Add(1)
			return
		}
		a := in.attached()
		to := in.from()
		if !a.hasError || !isFatal(&a.failure) || !to.IsValid() {
			continue
		}
		s.count.unreachables.Add(1)
		h.Unreachable(Flow{source: s.listener.sourceOf(a.header), remote: to}, in.data[:n:n])
	}
}

// isFatal is RFC 3261 section 18.4: host, network, port or protocol unreachable and parameter problem are transport
// errors; source quench, time exceeded and the wish for smaller packets are not.
func isFatal(e *unix.SockExtendedErr) bool {
	const (
		icmpUnreachable, icmpFragmentationNeeded, icmpParameter = 3, 4, 12
		icmp6Unreachable, icmp6Parameter                        = 1, 4
	)
	switch e.Origin {
	case unix.SO_EE_ORIGIN_ICMP:
		return e.Type == icmpUnreachable && e.Code != icmpFragmentationNeeded || e.Type == icmpParameter
	case unix.SO_EE_ORIGIN_ICMP6:
		return e.Type == icmp6Unreachable || e.Type == icmp6Parameter
	case unix.SO_EE_ORIGIN_LOCAL:
		return e.Errno != uint32(unix.EMSGSIZE)
	}
	return false
}
