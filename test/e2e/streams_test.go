package e2e

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
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
	phones.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", idlersVariable, network, edge, all), "GORACE=atexit_sleep_ms=0")
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
		{"tls", 3000, 40 << 10},
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
				limits:   "max_connections: 20000, accept_rate: 100000",
				top:      "log: { requests: no, replies: no }\n",
			}.yaml())
			before := residentBytes(t, edge.PID())
			began := time.Now()
			gather(t, test.network, addr, all)
			used := (residentBytes(t, edge.PID()) - before) / all
			if siptest.Race { // whose own memory is many times more
				return
			}
			t.Logf("%s: %d connections at rest take %d bytes each; opened in %s", test.network, all, used, time.Since(began).Round(time.Millisecond))
			if used > test.most {
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

const (
	handshakeTime = 5 * time.Second
	messageTime   = 4 * time.Second
)

// A staller begins something on a connection and does not end it.
type staller struct {
	name   string
	number int
	dial   func(local netip.AddrPort) (net.Conn, error)
	text   string
	sends  int  // bytes of the text
	drips  bool // the others follow one by one, too slowly
	limit  time.Duration
}

// queue is an edge with a listener of each kind, and who stalls there.
type queue struct {
	cert *siptest.Certificate
	at   map[string]netip.AddrPort

	stallers sync.WaitGroup
	mu       sync.Mutex // guards what follows
	open     int
	closed   map[string]int
	wrong    []string
}

// tcp, secure and web are how far a staller gets on the listener of a network before it stalls.
func (q *queue) tcp(network string) func(netip.AddrPort) (net.Conn, error) {
	return func(local netip.AddrPort) (net.Conn, error) {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(local)}
		return d.Dial("tcp", q.at[network].String())
	}
}

func (q *queue) secure(network string) func(netip.AddrPort) (net.Conn, error) {
	return func(local netip.AddrPort) (net.Conn, error) {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(local)}
		return tls.DialWithDialer(&d, "tcp", q.at[network].String(), q.cert.Client())
	}
}

func (q *queue) web(network string) func(netip.AddrPort) (net.Conn, error) {
	return func(local netip.AddrPort) (net.Conn, error) {
		w, err := siptest.DialWebSocket(network, local, q.at[network], q.cert.Client())
		if err != nil {
			return nil, err
		}
		return w.Conn, nil
	}
}

// stall opens a connection, sends what it sends, calls begun, and waits for the edge to close it.
func (q *queue) stall(k *staller, local netip.AddrPort, begun func()) {
	started := time.Now()
	conn, err := k.dial(local)
	if err != nil {
		q.note(k, err.Error())
		begun()
		return
	}
	defer func() { _ = conn.Close() }() // is closed already
	if k.limit == messageTime {
		started = time.Now()
	}
	_, err = io.WriteString(conn, k.text[:k.sends])
	q.mu.Lock()
	q.open++
	q.mu.Unlock()
	begun()
	closed := make(chan struct{})
	var dripper sync.WaitGroup
	if k.drips {
		dripper.Go(func() {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for at := k.sends; at < len(k.text); at++ {
				select {
				case <-tick.C:
					_, _ = io.WriteString(conn, k.text[at:at+1]) // fails in the end
				case <-closed:
					return
				}
			}
		})
	}
	if err == nil {
		err = conn.SetReadDeadline(started.Add(k.limit + slow))
	}
	if err == nil {
		_, err = io.Copy(io.Discard, conn) // nil: the edge closed it in good order
	}
	took := time.Since(started)
	close(closed)
	dripper.Wait()
	q.mu.Lock()
	q.open--
	q.closed[k.name]++
	q.mu.Unlock()
	if took < k.limit || errors.Is(err, os.ErrDeadlineExceeded) {
		q.note(k, fmt.Sprintf("after %s: %v", took, err))
	}
}

func (q *queue) note(k *staller, what string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wrong = append(q.wrong, k.name+": "+what)
}

// TestStalledConnectionsDelayNobody: hundreds stop amid a TLS handshake, an upgrade to a WebSocket, a frame or a message, or
// send it byte by byte. A phone connects and registers as if they were not there; each of them is closed when its time is
// over, not before.
func TestStalledConnectionsDelayNobody(t *testing.T) {
	t.Parallel()
	registrar, err := siptest.NewRegistrar(siptest.RegistrarOptions{Address: at(nodeA), Path: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registrar.Close() }) // what it still had to read is of no interest
	q := &queue{cert: certificate(t), at: map[string]netip.AddrPort{}, closed: map[string]int{}}
	o := settings{
		listen:   []string{"udp:" + freeAddr(t).String()},
		backends: []string{registrar.URI()},
		limits:   fmt.Sprintf("handshake_timeout: %v, message_timeout: %v", handshakeTime.Seconds(), messageTime.Seconds()),
	}
	networks := []string{"tcp", "tls", "ws", "wss"}
	for _, network := range networks {
		q.at[network] = freeAddr(t)
		o.listen = append(o.listen, listener(t, network, q.at[network], q.cert))
	}
	siptest.StartEdge(t, o.yaml())

	hello := clientHello(t, q.cert)
	get := strings.Join(siptest.UpgradeLines("edge.example"), "\r\n")
	message := string(siptest.Request("OPTIONS", "sip:edge.example").Bytes())
	frame := string(siptest.Final(siptest.TextFrame, message).Bytes())
	count := 0
	for i, k := range []staller{
		{name: "no ClientHello", number: 20, dial: q.tcp("tls"), limit: handshakeTime},
		{name: "half a ClientHello", number: 90, dial: q.tcp("tls"), text: hello, sends: len(hello) / 2, limit: handshakeTime},
		{name: "ClientHello and no more", number: 90, dial: q.tcp("wss"), text: hello, sends: len(hello), limit: handshakeTime},
		{name: "half a GET over WS", number: 100, dial: q.tcp("ws"), text: get, sends: len(get) / 2, limit: handshakeTime},
		{name: "half a GET over WSS", number: 95, dial: q.secure("wss"), text: get, sends: len(get) / 2, limit: handshakeTime},
		{name: "slow GET over WSS", number: 5, dial: q.secure("wss"), text: get, sends: 1, drips: true, limit: handshakeTime},
		{name: "half a frame over WS", number: 30, dial: q.web("ws"), text: frame, sends: len(frame) / 2, limit: messageTime},
		{name: "half a frame over WSS", number: 30, dial: q.web("wss"), text: frame, sends: len(frame) / 2, limit: messageTime},
		{name: "slow frame over WSS", number: 5, dial: q.web("wss"), text: frame, sends: 1, drips: true, limit: messageTime},
		{name: "half a message over TCP", number: 35, dial: q.tcp("tcp"), text: message, sends: len(message) / 2, limit: messageTime},
	} {
		var begun sync.WaitGroup
		begun.Add(k.number)
		for range k.number {
			q.stallers.Go(func() { q.stall(&k, at(netip.AddrFrom4([4]byte{127, 3, 0, byte(1 + i)})), begun.Done) })
		}
		begun.Wait()
		count += k.number
	}

	var slowest time.Duration
	for _, network := range networks {
		took := make([]time.Duration, 5)
		for i := range took {
			took[i] = q.register(t, network, fmt.Sprintf("%s%d", network, i))
		}
		slices.Sort(took)
		slowest = max(slowest, took[len(took)/2])
	}
	q.mu.Lock()
	stood := q.open
	q.mu.Unlock()
	t.Logf("beside %d stalled connections a phone takes %s to connect and register", stood, slowest.Round(time.Millisecond))
	if most := 300 * time.Millisecond; !siptest.Race && (slowest > most || stood < count) {
		t.Errorf("a phone takes %s to connect and register beside %d stalled connections, want %s at most beside %d", slowest, stood, most, count)
	}
	q.stallers.Wait()
	for _, wrong := range q.wrong {
		t.Error(wrong)
	}
	t.Logf("closed when their time was over: %v", q.closed)
}

// register is a new phone that connects and registers; it returns how long that took.
func (q *queue) register(t *testing.T, network, user string) time.Duration {
	t.Helper()
	began := time.Now()
	phone := siptest.NewHandset(rawDial(t, network, q.at[network], q.cert), siptest.HandsetOptions{User: user, Domain: domain})
	t.Cleanup(phone.Close)
	if res, err := phone.Register(within(t, soon), 60); err != nil || res.Status() != 200 {
		t.Fatalf("REGISTER over %s: %v %v", network, res, err)
	}
	return time.Since(began)
}

// clientHello is the first thing that a TLS client sends.
func clientHello(t *testing.T, cert *siptest.Certificate) string {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() { // ends with the pipe
		_ = tls.Client(theirs, cert.Client()).Handshake()
	}()
	buf := make([]byte, 16384)
	n, err := ours.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	_ = ours.Close()
	return string(buf[:n])
}
