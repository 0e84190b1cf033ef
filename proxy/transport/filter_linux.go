package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// maxProgram is BPF_MAXINSNS.
	maxProgram = 4096
	// networkHeader is SKF_NET_OFF: offsets from it on are in the IP header, also on a UDP socket.
	networkHeader = 0xfff00000
	// source4 and source6 are where the source addresses are in there.
	source4 = networkHeader + 12
	source6 = networkHeader + 8
	// wordsPerLeaf is how many comparisons in a row end a search. More make the program shorter and slower.
	wordsPerLeaf = 8
)

// Filter has the kernel drop the datagrams of the given sources on all UDP sockets, before they are queued or wake
// anybody: IPv4 addresses on IPv4 sockets, IPv6 /64s on IPv6 sockets. It takes the place of what an earlier call said;
// empty lists take it away. It needs no privilege.
//
// A program holds about 3,000 addresses or 900 to 3,000 prefixes, less where net.core.optmem_max is small. What does not
// fit is left out from the end of the list; installed4 and installed6 say how many there are on every socket. It takes
// milliseconds: call it each few seconds with the sources that send most.
func (l *Layer) Filter(v4 []netip.Addr, v6 []netip.Prefix) (installed4, installed6 int, err error) {
	words4, err := filterWords4(v4)
	if err != nil {
		return 0, 0, err
	}
	words6, err := filterWords6(v6)
	if err != nil {
		return 0, 0, err
	}
	l.filtering.Lock()
	defer l.filtering.Unlock()
	var errs []error
	installed4, err = attachAll(l.udpSockets(true), words4, filterProgram4)
	errs = append(errs, err)
	installed6, err = attachAll(l.udpSockets(false), words6, filterProgram6)
	errs = append(errs, err)
	if err = errors.Join(errs...); err != nil {
		err = fmt.Errorf("socket filter: %w", err)
	}
	return installed4, installed6, err
}

func (l *Layer) udpSockets(is4 bool) (all []*udpSocket) {
	for _, listener := range l.Listeners() {
		if listener.bound.Addr().Is4() == is4 {
			all = append(all, listener.sockets...)
		}
	}
	return all
}

// attachAll puts the longest list on the sockets that all of them take.
func attachAll[T any](sockets []*udpSocket, list []T, compile func([]T) []bpf.Instruction) (installed int, err error) {
	if len(sockets) == 0 {
		return 0, nil
	}
	for {
		var program []unix.SockFilter
		list, program, err = fit(list, compile)
		if err != nil {
			return 0, err
		}
		err = nil
		for _, s := range sockets {
			if err = s.attach(program); err != nil {
				break
			}
		}
		if !errors.Is(err, unix.ENOMEM) || len(list) == 0 {
			break
		}
		list = list[:len(list)/2]
	}
	if err != nil {
		return 0, err
	}
	return len(list), nil
}

// fit cuts list until its program is short enough for the kernel. No program stands for an empty list.
func fit[T any](list []T, compile func([]T) []bpf.Instruction) ([]T, []unix.SockFilter, error) {
	list = list[:min(len(list), maxProgram)]
	for len(list) > 0 {
		p := compile(list)
		if len(p) > maxProgram {
			list = list[:min(len(list)-1, len(list)*maxProgram/len(p))]
			continue
		}
		raw, err := bpf.Assemble(p)
		if err != nil {
			return nil, nil, err
		}
		program := make([]unix.SockFilter, len(raw))
		for i, r := range raw {
			program[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
		}
		return list, program, nil
	}
	return nil, nil, nil
}

// attach replaces the socket's filter; the kernel never lets a datagram through in between.
func (s *udpSocket) attach(program []unix.SockFilter) error {
	if !s.acquire() {
		return nil // the layer is being closed
	}
	defer s.release()
	s.drops.Lock()
	defer s.drops.Unlock()
	if !s.isFiltered && len(program) == 0 {
		return nil
	}
	s.readDropsLocked() // up to now they were of the other kind
	if len(program) == 0 {
		s.isFiltered = false
		return unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	}
	if err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}); err != nil {
		return err
	}
	s.isFiltered = true
	return nil
}

// dropsRead takes the socket's number of drops as a datagram or the socket itself tells it, modulo 2^32. The kernel has
// one number for a full buffer and for the filter: while there is a filter, all count as the filter's.
func (s *udpSocket) dropsRead(now uint32) {
	s.drops.Lock()
	defer s.drops.Unlock()
	s.dropsReadLocked(now)
}

func (s *udpSocket) dropsReadLocked(now uint32) {
	more := int32(now - s.dropped.Load())
	if more <= 0 { // an older number than the last
		return
	}
	s.dropped.Store(now)
	if s.isFiltered {
		s.count.filtered.Add(uint64(more))
		return
	}
	s.count.drops.Add(uint64(more))
}

// readDrops asks the socket: behind a good filter no datagram comes that would tell.
func (s *udpSocket) readDrops() {
	if !s.acquire() {
		return
	}
	defer s.release()
	s.drops.Lock()
	defer s.drops.Unlock()
	s.readDropsLocked()
}

func (s *udpSocket) readDropsLocked() {
	var info [16]uint32 // SK_MEMINFO_*
	const dropsIndex = 8
	size := uint32(unsafe.Sizeof(info))
	_, _, e := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(s.fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if e == 0 && size >= 4*(dropsIndex+1) {
		s.dropsReadLocked(info[dropsIndex])
	}
}

// filterWords4 are the addresses as the kernel compares them, in the order given, each once.
func filterWords4(list []netip.Addr) ([]uint32, error) {
	words := make([]uint32, 0, len(list))
	known := make(map[uint32]bool, len(list))
	for _, a := range list {
		a = a.Unmap()
		if !a.Is4() {
			return nil, fmt.Errorf("socket filter: %s is no IPv4 address", a)
		}
		b := a.As4()
		w := binary.BigEndian.Uint32(b[:])
		if !known[w] {
			known[w] = true
			words = append(words, w)
		}
	}
	return words, nil
}

func filterWords6(list []netip.Prefix) ([]uint64, error) {
	words := make([]uint64, 0, len(list))
	known := make(map[uint64]bool, len(list))
	for _, p := range list {
		if !p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() != 64 {
			return nil, fmt.Errorf("socket filter: %s is no IPv6 prefix of 64 bits", p)
		}
		b := p.Addr().As16()
		w := binary.BigEndian.Uint64(b[:])
		if !known[w] {
			known[w] = true
			words = append(words, w)
		}
	}
	return words, nil
}

// The programs are made of blocks that end in a return whichever way they are gone through, so they can be put one
// behind the other. Jumps on a condition reach 255 instructions, others any distance.
var (
	pass = bpf.RetConstant{Val: 0xffffffff}
	drop = bpf.RetConstant{Val: 0}
)

// filterProgram4 drops datagrams from the given IPv4 addresses.
func filterProgram4(words []uint32) []bpf.Instruction {
	words = slices.Sorted(slices.Values(words))
	return append([]bpf.Instruction{bpf.LoadAbsolute{Off: source4, Size: 4}}, searchWord(words)...)
}

// searchWord drops if the accumulator is one of the sorted words.
func searchWord(words []uint32) []bpf.Instruction {
	if len(words) > wordsPerLeaf {
		half := (len(words) + wordsPerLeaf) / wordsPerLeaf / 2 * wordsPerLeaf // full leaves are the shortest program
		return branch(words[half], searchWord(words[:half]), searchWord(words[half:]))
	}
	p := make([]bpf.Instruction, 0, len(words)+2)
	for i, w := range words {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: w, SkipTrue: uint8(len(words) - i)})
	}
	return append(p, pass, drop)
}

// branch goes on in less or in more, which begins with the word at.
func branch(at uint32, less, more []bpf.Instruction) []bpf.Instruction {
	var p []bpf.Instruction
	if len(less) <= 255 {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: at, SkipTrue: uint8(len(less))})
	} else {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: at, SkipFalse: 1}, bpf.Jump{Skip: uint32(len(less))})
	}
	return append(append(p, less...), more...)
}

// filterProgram6 drops datagrams from the given IPv6 /64s: it searches the first word, then what there is behind it.
func filterProgram6(prefixes []uint64) []bpf.Instruction {
	var groups []group6
	for _, x := range slices.Sorted(slices.Values(prefixes)) {
		first, second := uint32(x>>32), uint32(x)
		if n := len(groups); n > 0 && groups[n-1].first == first {
			groups[n-1].second = append(groups[n-1].second, second)
			continue
		}
		groups = append(groups, group6{first, []uint32{second}})
	}
	return append([]bpf.Instruction{bpf.LoadAbsolute{Off: source6, Size: 4}}, searchGroups(groups)...)
}

// group6 are the prefixes with the same first word.
type group6 struct {
	first  uint32
	second []uint32 // sorted
}

func searchGroups(groups []group6) []bpf.Instruction {
	loadSecond := bpf.LoadAbsolute{Off: source6 + 4, Size: 4}
	switch {
	case len(groups) == 0:
		return []bpf.Instruction{pass}
	case len(groups) == 1 && len(groups[0].second) > 1:
		p := []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpEqual, Val: groups[0].first, SkipTrue: 1}, pass, loadSecond}
		return append(p, searchWord(groups[0].second)...)
	case len(groups) > wordsPerLeaf || slices.ContainsFunc(groups, func(g group6) bool { return len(g.second) > 1 }):
		half := len(groups) / 2
		return branch(groups[half].first, searchGroups(groups[:half]), searchGroups(groups[half:]))
	}
	// One second word behind each first: comparisons of the first, then pairs of load and compare, and two ends for all.
	n := len(groups)
	var p, seconds []bpf.Instruction
	for i, g := range groups {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: g.first, SkipTrue: uint8(n - i + 2*i)})
		toEnd := uint8(2 * (n - 1 - i))
		seconds = append(seconds, loadSecond,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: g.second[0], SkipTrue: toEnd + 1, SkipFalse: toEnd})
	}
	p = append(p, pass)
	p = append(p, seconds...)
	return append(p, pass, drop)
}
