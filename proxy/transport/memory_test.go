package transport

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/sipward/sipward/config"
)

// crowdVariable makes the test binary a crowd of clients: "PROTO ADDRESS NUMBER". They are another process so that their
// memory is not counted.
const crowdVariable = "TRANSPORT_TEST_CROWD"

// crowd opens connections, lets each have a message echoed, says so, and keeps them until its input ends.
func crowd() {
	f := strings.Fields(os.Getenv(crowdVariable))
	all, err := strconv.Atoi(f[2])
	if err != nil {
		panic(err)
	}
	kept := make([]net.Conn, all)
	for i := range kept {
		if kept[i], err = attend(f[0], f[1]); err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(kept)
}

// attend is one of the crowd.
func attend(proto, address string) (net.Conn, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if proto == "tls" || proto == "wss" {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	sent, answer := message(1, 1200), message(1, 1200) // about a REGISTER with credentials
	if proto == "ws" || proto == "wss" {
		if _, _, err := (ws.Dialer{Protocols: []string{"sip"}}).Upgrade(conn, &url.URL{Scheme: "ws", Host: address}); err != nil {
			return nil, err
		}
		sent, answer = text(sent), string(appendFrameHeader(nil, ws.OpText, len(sent)))+sent
	}
	if _, err := io.WriteString(conn, sent); err != nil {
		return nil, err
	}
	got := make([]byte, len(answer))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != answer {
		return nil, fmt.Errorf("got %.60q: %v", got, err)
	}
	return conn, nil
}

// idleMemory is what one accepted connection takes that echoed a message and is at rest: heap and stacks.
func idleMemory(t testing.TB, proto string, all int) float64 {
	t.Helper()
	r := newRecorder()
	r.onReceive, r.closed = echo, make(chan closing, all)
	var s config.Listener
	if proto == "tls" || proto == "wss" {
		s, _ = tlsSpec(t)
		s.Proto = proto
	} else {
		s = spec(proto + " 127.0.0.1:0")
	}
	l := start(t, Options{Limits: config.Limits{AcceptRate: 1e6}}, r, s)
	before := inUse()
	clients := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	clients.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", crowdVariable, proto, l.Listeners()[0].Bound(), all))
	in, err := clients.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := clients.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := clients.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatal(line, err)
	}
	used := inUse() - before
	if n := l.Stats().Connections; n != all {
		t.Errorf("%d connections of %d", n, all)
	}
	_ = in.Close()
	_ = clients.Wait()
	return float64(used) / float64(all)
}

// inUse collects a few times, because a stack shrinks by half at most each time.
func inUse() uint64 {
	for range 4 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// TestIdleConnectionsAreSmall: phones are connected all day and say little.
func TestIdleConnectionsAreSmall(t *testing.T) {
	const all = 300
	for proto, most := range map[string]float64{"tcp": 8 << 10, "wss": 24 << 10} {
		if got := idleMemory(t, proto, all); got > most && !raceEnabled { // with it, stacks are larger
			t.Errorf("%s: %.0f bytes for a connection at rest, want %.0f at most", proto, got, most)
		}
	}
}

// BenchmarkIdleConnection reports idleMemory.
func BenchmarkIdleConnection(b *testing.B) {
	for _, proto := range []string{"tcp", "ws", "tls", "wss"} {
		b.Run(proto, func(b *testing.B) {
			used := idleMemory(b, proto, 2000)
			for b.Loop() {
			}
			b.ReportMetric(used, "B/conn")
		})
	}
}
