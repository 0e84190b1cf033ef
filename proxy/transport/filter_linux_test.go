package transport

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/sipward/sipward/config"
)

// verdict runs a program on the first words of a packet: source addresses only, the VM knows no network header.
func verdict(t *testing.T, program []bpf.Instruction, offset uint32, packet []byte) (isPassed bool) {
	t.Helper()
	program = slices.Clone(program)
	for i, x := range program {
		if load, ok := x.(bpf.LoadAbsolute); ok {
			load.Off -= offset
			program[i] = load
		}
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	n, err := vm.Run(packet)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

func TestFilterProgramsDropTheirListAndNothingElse(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{1, 2, 7, 8, 9, 16, 17, 100, 1000, 2500} {
		known := make(map[uint32]bool)
		for len(known) < size {
			known[random.Uint32()>>(random.IntN(4)*8)] = true
		}
		known[0], known[0xffffffff] = true, size > 1
		var words []uint32
		for w, ok := range known {
			if ok {
				words = append(words, w)
			}
		}
		p := filterProgram4(words)
		for i := 0; i < len(words); i += 1 + len(words)/50 {
			for _, w := range []uint32{words[i] - 1, words[i], words[i] + 1} {
				if got := verdict(t, p, source4, binary.BigEndian.AppendUint32(nil, w)); got == known[w] {
					t.Errorf("%d words: %08x passed: %v", len(words), w, got)
				}
			}
		}
	}
}

func TestFilterProgramsOfPrefixes(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, size := range []int{1, 2, 8, 9, 40, 300, 900} {
		for _, firsts := range []int{1, 3, size} { // first words in use: one network, few, each its own
			known := make(map[uint64]bool)
			for len(known) < size {
				known[uint64(0x20010db8+random.IntN(firsts)*7)<<32|uint64(random.IntN(2*size))] = true
			}
			var words []uint64
			for w := range known {
				words = append(words, w)
			}
			p := filterProgram6(words)
			for i := 0; i < len(words); i += 1 + len(words)/50 {
				w := words[i]
				for _, w := range []uint64{w - 1, w, w + 1, w - 1<<32, w + 1<<32, w + 7<<32} {
					packet := binary.BigEndian.AppendUint64(nil, w)
					if got := verdict(t, p, source6, packet); got == known[w] {
						t.Errorf("%d prefixes in %d networks: %016x passed: %v", size, firsts, w, got)
					}
				}
			}
		}
	}
}

func TestFilterProgramsFit(t *testing.T) {
	var dense, sparse []uint64
	var words []uint32
	for i := range uint32(5000) {
		words = append(words, i*17)
		dense = append(dense, 0x20010db8<<32|uint64(i))
		sparse = append(sparse, uint64(0x20010000+i)<<32|uint64(i))
	}
	check := func(name string, cut, length, least int) {
		t.Helper()
		t.Logf("%s: %d in %d instructions", name, cut, length)
		if cut < least || length > maxProgram {
			t.Errorf("%s: %d in %d instructions", name, cut, length)
		}
	}
	list, p, err := fit(words, filterProgram4)
	if err != nil || list[0] != words[0] {
		t.Fatal(err)
	}
	check("IPv4", len(list), len(p), 2500)
	for name, words := range map[string][]uint64{"dense": dense, "sparse": sparse} {
		list, p, err := fit(words, filterProgram6)
		if err != nil {
			t.Fatal(err)
		}
		check(name, len(list), len(p), 1000)
	}
	if list, p, err := fit(nil, filterProgram4); len(list) > 0 || p != nil || err != nil {
		t.Error("a program for nothing")
	}
}

func many4(n int) (all []netip.Addr) {
	for i := range n {
		all = append(all, netip.AddrFrom4([4]byte{198, byte(18 + i>>16), byte(i >> 8), byte(i)}))
	}
	return all
}

func many6(n int) (all []netip.Prefix) {
	for i := range n {
		all = append(all, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, byte(i >> 12), byte(i >> 4), byte(i << 4)}), 64))
	}
	return all
}

func TestFilterDropsInTheKernel(t *testing.T) {
	attacker4, attacker6 := netip.MustParseAddr("127.0.0.66"), netip.MustParsePrefix("::/64") // that of ::1
	for _, c := range []struct {
		name, bind, attacker, other string
		more                        int
	}{
		{"one IPv4 address", "127.0.0.1:0", "127.0.0.66:0", "127.0.0.67:0", 0},
		{"one IPv6 prefix", "[::1]:0", "[::1]:0", "", 0},
		{"full lists, IPv4", "127.0.0.1:0", "127.0.0.66:0", "127.0.0.65:0", 5000},
		{"full lists, IPv6", "[::1]:0", "[::1]:0", "", 5000},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRecorder()
			l := start(t, Options{Readers: 2}, r, spec("udp "+c.bind))
			to := l.Listeners()[0].Bound()
			attacker := udpPeer(t, c.attacker)
			n4, n6, err := l.Filter(append([]netip.Addr{attacker4}, many4(c.more)...), append([]netip.Prefix{attacker6}, many6(c.more)...))
			if err != nil || to.Addr().Is4() && n4 < min(c.more, 300)+1 || to.Addr().Is6() && n6 < min(c.more, 100)+1 {
				t.Fatal(n4, n6, err)
			}
			for range 100 {
				_, _ = attacker.WriteToUDPAddrPort([]byte("dropped"), to)
			}
			if c.other != "" {
				_, _ = udpPeer(t, c.other).WriteToUDPAddrPort([]byte("hello"), to)
				if got := next(t, r.packets); got.data != "hello" {
					t.Error(got.data)
				}
			}
			if s := l.Stats(); s.Filtered != 100 || s.SocketDrops != 0 || s.Datagrams > 1 {
				t.Errorf("%+v", s)
			}
			// Without it all pass, and drops are again those of full buffers.
			if n4, n6, err := l.Filter(nil, nil); n4 != 0 || n6 != 0 || err != nil {
				t.Fatal(n4, n6, err)
			}
			_, _ = attacker.WriteToUDPAddrPort([]byte("hello again"), to)
			if got := next(t, r.packets); got.data != "hello again" {
				t.Error(got.data)
			}
			s := l.Listeners()[0].sockets[0]
			s.dropsRead(s.dropped.Load() + 3)
			s.dropsRead(s.dropped.Load() - 1) // late news
			if s := l.Stats(); s.Filtered != 100 || s.SocketDrops != 3 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// No datagram of a filtered source comes through while one filter takes the place of another.
func TestFilterIsReplacedWithoutAGap(t *testing.T) {
	attacker := netip.MustParseAddr("127.0.0.66")
	r := newRecorder()
	l := start(t, Options{Readers: 1}, r, spec("udp 127.0.0.1:0"))
	peer := udpPeer(t, "127.0.0.66:0")
	if _, _, err := l.Filter([]netip.Addr{attacker}, nil); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = peer.WriteToUDPAddrPort([]byte("dropped"), l.Listeners()[0].Bound())
			}
		}
	}()
	others := many4(2000)
	for i := range 100 {
		if _, _, err := l.Filter(append(slices.Clone(others[:20*i]), attacker), nil); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	<-stopped
	if s := l.Stats(); s.Datagrams != 0 || s.Filtered == 0 {
		t.Errorf("%+v", s)
	}
}

func TestFilterRefusesWhatItCannotDo(t *testing.T) {
	l := start(t, Options{}, newRecorder(), spec("udp 127.0.0.1:0"))
	if _, _, err := l.Filter([]netip.Addr{netip.IPv6Loopback()}, nil); err == nil {
		t.Error("an IPv6 address among those of IPv4")
	}
	if _, _, err := l.Filter(nil, []netip.Prefix{netip.MustParsePrefix("2001:db8::/48")}); err == nil {
		t.Error("a /48")
	}
	twice := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::ffff:192.0.2.1")}
	if n, _, err := l.Filter(twice, nil); n != 1 || err != nil {
		t.Error(n, err)
	}
}

// BenchmarkFilter is one clean datagram through a socket with a filter of that many sources, sending included.
func BenchmarkFilter(b *testing.B) {
	for name, sources := range map[string]int{"none": 0, "16": 16, "256": 256, "full": 4000} {
		b.Run(name, func(b *testing.B) {
			l := New(Options{Readers: 1})
			if err := l.Listen([]config.Listener{spec("udp 127.0.0.1:0")}); err != nil {
				b.Fatal(err)
			}
			defer func() { _ = l.Close(b.Context()) }()
			n, _, err := l.Filter(many4(sources), nil)
			if err != nil {
				b.Fatal(err)
			}
			s := l.Listeners()[0].sockets[0]
			to := sockaddrOf(l.Listeners()[0].Bound())
			datagram := make([]byte, 600)
			in := newInbox(maxDatagram)
			for b.Loop() {
				_ = unix.Sendto(s.fd, datagram, 0, to)
				if _, e := in.receive(uintptr(s.fd), 0); e != 0 {
					b.Fatal(e)
				}
			}
			b.ReportMetric(float64(n), "sources")
		})
	}
}

// BenchmarkFilterChange is a call of Filter with full lists.
func BenchmarkFilterChange(b *testing.B) {
	l := start(b, Options{Readers: 1}, newRecorder(), spec("udp 127.0.0.1:0"), spec("udp [::1]:0"))
	v4, v6 := many4(4000), many6(2000)
	begun := time.Now()
	for b.Loop() {
		if _, _, err := l.Filter(v4, v6); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(time.Since(begun).Milliseconds())/float64(b.N), "ms/op")
}
