package nft

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/nftables"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// inNamespace marks the process that runs the tests, in a network namespace of its own.
const inNamespace = "SIPWARD_TEST_NETNS"

func TestMain(m *testing.M) {
	if os.Getenv(inNamespace) != "" {
		if err := raiseLoopback(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		goleak.VerifyTestMain(m)
		return
	}
	if os.Getuid() != 0 {
		os.Exit(m.Run()) // what needs a namespace is skipped
	}
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), inNamespace+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the child dies with this thread
	err := c.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(1)
	case errors.Is(err, syscall.EPERM): // root of a container
		os.Exit(m.Run())
	case err != nil:
		fmt.Fprintln(os.Stderr, "no network namespace:", err)
		os.Exit(1)
	}
}

func needNamespace(t testing.TB) {
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs root, for a network namespace")
	}
}

// The addresses of lo, besides 127.0.0.0/8.
var (
	ours6   = netip.MustParseAddr("2001:db8:0:1::1")
	banned6 = netip.MustParseAddr("2001:db8:0:66::1234")
	other6  = netip.MustParseAddr("2001:db8:0:67::1")
	ours4   = netip.MustParseAddr("127.0.0.1")
	banned4 = netip.MustParseAddr("127.0.0.66")
	other4  = netip.MustParseAddr("127.0.0.67")
)

func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return err
	}
	for _, a := range []netip.Addr{ours6, banned6, other6} {
		request := struct { // struct in6_ifreq
			address [16]byte
			bits    uint32
			index   int32
		}{a.As16(), 128, 1}
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&request))); e != 0 {
			return fmt.Errorf("address %s: %w", a, e)
		}
	}
	return nil
}

const (
	ourPort, otherPort = 5060, 5999
	patience           = 20 * time.Second
)

// server listens with UDP and TCP; datagrams come as their payload.
type server struct {
	at        netip.AddrPort
	datagrams chan string
}

func serve(t testing.TB, at netip.AddrPort) *server {
	t.Helper()
	s := &server{at: at, datagrams: make(chan string, 1000)}
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{}, 2)
	go func() {
		defer func() { ended <- struct{}{} }()
		b := make([]byte, 100)
		for {
			n, err := udp.Read(b)
			if err != nil {
				return
			}
			s.datagrams <- string(b[:n])
		}
	}()
	go func() {
		defer func() { ended <- struct{}{} }()
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_, _ = udp.Close(), tcp.Close()
		<-ended
		<-ended
	})
	return s
}

func send(t testing.TB, from netip.Addr, to netip.AddrPort, what string) {
	t.Helper()
	c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte(what)); err != nil {
		t.Fatal(err)
	}
}

// reaches tells which of UDP and TCP gets through. On loopback a datagram is at its socket when the send returns, so the
// one of another source that follows comes next or the first was dropped. A connection that is to come about has time.
func (s *server) reaches(t testing.TB, from, other netip.Addr, wantTCP bool) (udp, tcp bool) {
	t.Helper()
	send(t, from, s.at, "from it")
	send(t, other, s.at, "from the other")
	for {
		select {
		case got := <-s.datagrams:
			if got == "from it" {
				udp = true
				continue
			}
		case <-time.After(patience):
			t.Fatal("nothing comes from ", other)
		}
		break
	}
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: 150 * time.Millisecond}
	if wantTCP {
		d.Timeout = patience
	}
	c, err := d.Dial("tcp", s.at.String())
	if err == nil {
		_ = c.Close()
	}
	return udp, err == nil
}

func (s *server) expect(t testing.TB, from netip.Addr, want bool) {
	t.Helper()
	other := other4
	if from.Is6() {
		other = other6
	}
	if udp, tcp := s.reaches(t, from, other, want); udp != want || tcp != want {
		t.Errorf("%s reaches %s by UDP: %v, by TCP: %v, want %v", from, s.at, udp, tcp, want)
	}
}

func open(t testing.TB, ports ...Port) *Table {
	t.Helper()
	needNamespace(t)
	if ports == nil {
		ports = []Port{{UDP, netip.Addr{}, ourPort}, {TCP, netip.Addr{}, ourPort}}
	}
	table, err := Open(Options{Ports: ports})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	return table
}

func elementOf(a netip.Addr, timeout time.Duration) []Element {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	return []Element{{netip.PrefixFrom(a, bits), timeout}}
}

func (t *Table) elements(tb testing.TB) map[netip.Addr]time.Duration {
	tb.Helper()
	all := make(map[netip.Addr]time.Duration)
	for _, set := range []*nftables.Set{t.v4, t.v6} {
		list, err := new(nftables.Conn).GetSetElements(set)
		if err != nil {
			tb.Fatal(err)
		}
		for _, e := range list {
			a, _ := netip.AddrFromSlice(e.Key)
			all[a] = e.Timeout
		}
	}
	return all
}

// count is the number of elements. A listing taken while the kernel gives the hash table another size misses some of them
// (rhashtable walks): it is repeated until it is the wanted one, or for 20 s.
func (t *Table) count(tb testing.TB, want int) int {
	for limit := time.Now().Add(20 * time.Second); ; {
		if n := len(t.elements(tb)); n == want || time.Now().After(limit) {
			return n
		}
	}
}

func TestBannedSourcesReachNoPortOfOurs(t *testing.T) {
	table := open(t)
	for _, c := range []struct{ ours, banned, other netip.Addr }{{ours4, banned4, other4}, {ours6, banned6, other6}} {
		ours, theirs := serve(t, netip.AddrPortFrom(c.ours, ourPort)), serve(t, netip.AddrPortFrom(c.ours, otherPort))
		ours.expect(t, c.banned, true)
		if err := table.Add(elementOf(c.banned, time.Hour)); err != nil {
			t.Fatal(err)
		}
		ours.expect(t, c.banned, false)
		theirs.expect(t, c.banned, true)
		if packets, bytes, err := table.Dropped(); packets == 0 || bytes == 0 || err != nil {
			t.Error(packets, bytes, err)
		}
		if err := table.Remove(elementOf(c.banned, 0)); err != nil {
			t.Fatal(err)
		}
		ours.expect(t, c.banned, true)
	}
}

func TestPortsAreMatchedAsTheyAreOpen(t *testing.T) {
	second := netip.MustParseAddr("127.0.0.2")
	table := open(t, Port{UDP, ours4, ourPort}, Port{TCP, netip.IPv4Unspecified(), ourPort}, Port{UDP, ours6, ourPort})
	if err := table.Add(append(elementOf(banned4, time.Hour), elementOf(banned6, time.Hour)...)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		at, banned, other netip.Addr
		udp, tcp          bool
	}{
		{ours4, banned4, other4, false, false},
		{second, banned4, other4, true, false}, // UDP is open on one address, TCP on all of IPv4
		{ours6, banned6, other6, false, true},
	} {
		if udp, tcp := serve(t, netip.AddrPortFrom(c.at, ourPort)).reaches(t, c.banned, c.other, c.tcp); udp != c.udp || tcp != c.tcp {
			t.Errorf("%s from %s by UDP: %v, by TCP: %v", c.at, c.banned, udp, tcp)
		}
	}
}

func TestBansEndByThemselves(t *testing.T) {
	table := open(t)
	s := serve(t, netip.AddrPortFrom(ours4, ourPort))
	const timeout, jiffy = 300 * time.Millisecond, 10 * time.Millisecond
	begun := time.Now()
	if err := table.Add(elementOf(banned4, timeout)); err != nil {
		t.Fatal(err)
	}
	var sent []time.Duration // by the number of the datagram: when it was
	for len(s.datagrams) == 0 {
		if time.Since(begun) > patience {
			t.Fatal("banned for ever")
		}
		send(t, banned4, s.at, strconv.Itoa(len(sent)))
		sent = append(sent, time.Since(begun))
	}
	first, err := strconv.Atoi(<-s.datagrams)
	if err != nil || sent[first] < timeout-jiffy {
		t.Errorf("number %d passes after %s, %v", first, sent[first], err)
	}
}

func TestTimeoutIsChanged(t *testing.T) {
	table := open(t)
	for _, updates := range []bool{table.updates, false} {
		table.updates = updates
		for _, timeout := range []time.Duration{time.Minute, time.Hour, 10 * time.Minute, 0} {
			for _, a := range []netip.Addr{banned4, banned6} {
				if err := table.Add(elementOf(a, timeout)); err != nil {
					t.Fatal(err)
				}
			}
			all := table.elements(t)
			prefix, _ := banned6.Prefix(64)
			if len(all) != 2 || all[banned4] != timeout || all[prefix.Addr()] != timeout {
				t.Errorf("kernel updates %v, want %s: %v", updates, timeout, all)
			}
		}
	}
}

func TestRemoveOfWhatIsNotThere(t *testing.T) {
	table := open(t)
	for range 2 {
		if err := table.Remove(append(elementOf(banned4, 0), elementOf(banned6, time.Hour)...)); err != nil {
			t.Error(err)
		}
	}
	if all := table.elements(t); len(all) != 0 {
		t.Error(all)
	}
}

func TestManyElementsInBatches(t *testing.T) {
	table := open(t)
	all := many(3*batchSize/2, time.Hour)
	if err := table.Add(append(all, all[:batchSize]...)); err != nil { // some twice
		t.Fatal(err)
	}
	if n := table.count(t, len(all)); n != len(all) {
		t.Errorf("%d elements", n)
	}
	if err := table.Remove(all[batchSize:]); err != nil {
		t.Fatal(err)
	}
	if n := table.count(t, batchSize); n != batchSize {
		t.Errorf("%d elements left", n)
	}
	if err := table.Sync(all[len(all)-10:]); err != nil {
		t.Fatal(err)
	}
	table.count(t, 10)
	if got := table.elements(t); len(got) != 10 || got[all[len(all)-1].Prefix.Addr()] != time.Hour {
		t.Errorf("after Sync: %v", got)
	}
}

func TestTableOfADeadInstanceIsReplaced(t *testing.T) {
	first := open(t)
	if err := first.Add(elementOf(banned4, 0)); err != nil {
		t.Fatal(err)
	}
	other, err := Open(Options{Name: "sipward-2", Ports: []Port{{UDP, netip.Addr{}, otherPort}}})
	if err != nil {
		t.Fatal(err)
	}
	second := open(t)
	if all := second.elements(t); len(all) != 0 {
		t.Error(all)
	}
	serve(t, netip.AddrPortFrom(ours4, ourPort)).expect(t, banned4, true)
	tables := func() (n int) {
		all, err := new(nftables.Conn).ListTables()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if n := tables(); n != 2 {
		t.Errorf("%d tables", n)
	}
	for range 2 {
		if err := errors.Join(other.Close(), second.Close(), first.Close()); err != nil {
			t.Error(err)
		}
	}
	if n := tables(); n != 0 {
		t.Errorf("%d tables are left", n)
	}
	if err := second.Add(elementOf(banned4, 0)); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// A table that somebody deleted is an error for Add and none for Close.
func TestTableIsGone(t *testing.T) {
	table := open(t)
	c := new(nftables.Conn)
	c.DelTable(table.table)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := table.Add(elementOf(banned4, 0)); !errors.Is(err, syscall.ENOENT) {
		t.Error(err)
	}
}

func TestPermissionIsMissing(t *testing.T) {
	needNamespace(t)
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here, with what it is not allowed to do
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			result <- err
			return
		}
		_, err := Open(Options{Ports: []Port{{UDP, netip.Addr{}, ourPort}}})
		result <- err
	}()
	if err := <-result; err != ErrPermission {
		t.Error(err)
	}
}

func many(n int, timeout time.Duration) (all []Element) {
	for i := range n {
		all = append(all, Element{netip.PrefixFrom(netip.AddrFrom4([4]byte{198, byte(18 + i>>16), byte(i >> 8), byte(i)}), 32), timeout})
	}
	return all
}

// BenchmarkElements is 50,000 elements, which are added, added again, removed and synced.
func BenchmarkElements(b *testing.B) {
	all := many(50000, time.Hour)
	for name, f := range map[string]func(*Table) error{
		"add":  func(t *Table) error { return t.Add(all) },
		"sync": func(t *Table) error { return t.Sync(all) },
		"one":  func(t *Table) error { return t.Add(all[:1]) },
		"addAndRemove": func(t *Table) error {
			return errors.Join(t.Add(all), t.Remove(all))
		},
	} {
		b.Run(name, func(b *testing.B) {
			table := open(b)
			b.ReportAllocs()
			for b.Loop() {
				if err := f(table); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCleanDatagram is a datagram of 600 bytes over loopback to a port of ours while 50,000 others are banned.
func BenchmarkCleanDatagram(b *testing.B) {
	needNamespace(b)
	for _, isBanning := range []bool{false, true} {
		b.Run(fmt.Sprintf("table=%v", isBanning), func(b *testing.B) {
			if isBanning {
				if err := open(b).Add(many(50000, time.Hour)); err != nil {
					b.Fatal(err)
				}
			}
			at, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ours4, ourPort)))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = at.Close() }()
			datagram := make([]byte, 600)
			for b.Loop() {
				_, _ = at.WriteToUDPAddrPort(datagram, netip.AddrPortFrom(ours4, ourPort))
				_, _ = at.Read(datagram)
			}
		})
	}
}
