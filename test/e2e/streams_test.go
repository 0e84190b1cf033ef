package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

// idlersVariable makes the test binary a crowd of phones: "NETWORK ADDRESS NUMBER". They are another process so that none
// of their memory is counted, and so that one process has to hold one end of each connection only.
const idlersVariable = "SIPTEST_IDLERS"

// fromOneAddress is how many phones of a crowd share an address; the default of limits.max_connections_per_source is above.
const fromOneAddress = 250

// idlers opens connections, uses each of them, says so, and keeps them until its input ends.
func idlers() {
	f := strings.Fields(os.Getenv(idlersVariable))
	edge, all := netip.MustParseAddrPort(f[1]), 0
	if _, err := fmt.Sscan(f[2], &all); err != nil {
		panic(err)
	}
	kept := make([]net.Conn, all)
	failed := make(chan error, all)
	next := make(chan int)
	var phones sync.WaitGroup
	for range 16 {
		phones.Go(func() {
			for i := range next {
				var err error
				if kept[i], err = attend(f[0], edge, i); err != nil {
					failed <- err
				}
			}
		})
	}
	for i := range all {
		next <- i
	}
	close(next)
	phones.Wait()
	if n := len(failed); n > 0 {
		fmt.Printf("%d failed: %v\n", n, <-failed)
		return
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(kept)
}

// attend is one phone: it sends a request as large as a REGISTER with credentials, and a keep-alive, and takes the answers.
func attend(network string, edge netip.AddrPort, i int) (net.Conn, error) {
	a := netip.AddrFrom4([4]byte{127, 2, byte(i / fromOneAddress / 250), byte(1 + i/fromOneAddress%250)})
	var conn net.Conn
	var err error
	config := &tls.Config{InsecureSkipVerify: true}
	switch d := (&net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(at(a))}); network {
	case "ws", "wss":
		conn, err = siptest.DialWebSocket(network, at(a), edge, config)
	case "tls":
		conn, err = tls.DialWithDialer(d, "tcp", edge.String(), config)
	default:
		conn, err = d.Dial("tcp", edge.String())
	}
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	via := "SIP/2.0/" + strings.ToUpper(network) + " " + conn.LocalAddr().String() + ";branch=z9hG4bK" + siptest.Unique("b")
	req := siptest.Request("OPTIONS", "sip:"+edge.String()).Prepend("Via", via).Add("X-Filler", strings.Repeat("f", 900))
	if _, err := conn.Write(req.Bytes()); err != nil {
		return nil, err
	}
	if got, err := readUntil(conn, "\r\n\r\n"); err != nil || !strings.HasPrefix(got, "SIP/2.0 200 ") {
		return nil, fmt.Errorf("%v to OPTIONS over %s: %.60q", err, network, got)
	}
	if _, err := conn.Write([]byte("\r\n\r\n")); err != nil {
		return nil, err
	}
	if got, err := readUntil(conn, "\r\n"); err != nil || got != "\r\n" {
		return nil, fmt.Errorf("%v to a keep-alive over %s: %.60q", err, network, got)
	}
	return conn, nil
}

// readUntil reads what ends so.
func readUntil(conn net.Conn, end string) (string, error) {
	var got []byte
	buf := make([]byte, 2048)
	for !strings.HasSuffix(string(got), end) {
		n, err := conn.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			return string(got), err
		}
	}
	return string(got), nil
}

// gather starts a crowd, waits until it is complete, and keeps it until the test's end.
func gather(t *testing.T, network string, edge netip.AddrPort, all int) {
	t.Helper()
	phones := exec.Command(os.Args[0], "-test.run=^$")
	phones.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", idlersVariable, network, edge, all))
	phones.Stderr = os.Stderr
	in, err := phones.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := phones.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := phones.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()    // sends them home
		_ = phones.Wait() // its exit code says nothing
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the phones: %s %v", line, err)
	}
}

// descriptors bounds a number of connections by what a process may open here.
func descriptors(t *testing.T, want int) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if most := int(min(limit.Max, 1<<20)) - 200; most < want {
		t.Logf("%d connections instead of %d: ulimit -Hn is %d", most, want, limit.Max)
		return most
	}
	return want
}

// TestIdleConnectionsTakeLittle: ten thousand connections at rest, each of which was used, 250 from one address as the
// defaults permit. The memory is that of the edge's process as the kernel counts it, less what it had before.
func TestIdleConnectionsTakeLittle(t *testing.T) {
	// How much room garbage may take before it is collected is this setting's affair, not that of a connection. The
	// default doubles the heap at most.
	if os.Getenv("GOGC") == "" {
		t.Setenv("GOGC", "25")
	}
	for _, test := range []struct {
		network string
		all     int
		most    int // bytes for a connection
	}{
		{"tcp", 10000, 12 << 10},
		{"ws", 2000, 12 << 10},
		{"tls", 5000, 40 << 10},
		{"wss", 2000, 40 << 10},
	} {
		t.Run(test.network, func(t *testing.T) {
			all := descriptors(t, number("SIPWARD_CONNECTIONS", test.all))
			if siptest.Race {
				all = 100
			}
			addr := freeAddr(t)
			edge := siptest.StartEdge(t, settings{
				listen:   []string{listener(t, test.network, addr, certificate(t))},
				backends: []string{siptest.URI("", freeAddr(t), "udp")},
				top:      "limits: { max_connections: 20000, accept_rate: 100000 }\nlog: { requests: no, replies: no }\n",
			}.yaml())
			before := residentBytes(t, edge.PID())
			began := time.Now()
			gather(t, test.network, addr, all)
			used := (residentBytes(t, edge.PID()) - before) / all
			t.Logf("%s: %d connections at rest take %d bytes each; opened in %s", test.network, all, used, time.Since(began).Round(time.Millisecond))
			if !siptest.Race && used > test.most {
				t.Errorf("%s: %d bytes for a connection at rest, want %d at most", test.network, used, test.most)
			}
		})
	}
}

// residentBytes is the memory of a process, exactly.
func residentBytes(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
