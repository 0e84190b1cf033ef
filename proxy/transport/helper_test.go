package transport

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

func TestMain(m *testing.M) {
	if os.Getenv(crowdVariable) != "" {
		crowd()
		return
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// recorder is a handler that copies what it gets into channels.
type recorder struct {
	onReceive   func(*Packet) // instead of packets
	packets     chan received
	closed      chan closing
	unreachable chan unreached
}

type received struct {
	flow  Flow
	data  string
	fault wire.Fault
}

type closing struct {
	conn *Conn
	err  error
}

type unreached struct {
	flow   Flow
	quoted string
}

func newRecorder() *recorder {
	return &recorder{packets: make(chan received, 1000), closed: make(chan closing, 1000), unreachable: make(chan unreached, 100)}
}

func (r *recorder) Receive(p *Packet) {
	if r.onReceive != nil {
		r.onReceive(p)
		return
	}
	r.packets <- received{p.Flow, string(p.Data), p.Fault}
}
func (r *recorder) Closed(c *Conn, err error)         { r.closed <- closing{c, err} }
func (r *recorder) Unreachable(f Flow, quoted []byte) { r.unreachable <- unreached{f, string(quoted)} }

func next[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// until waits for what other goroutines do.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for begun := time.Now(); !is(); runtime.Gosched() {
		if time.Since(begun) > patience {
			t.Fatal("not in time: ", what)
		}
	}
}

// spec is a listener of the configuration: "udp 127.0.0.1:0".
func spec(s string) config.Listener {
	proto, bind, _ := strings.Cut(s, " ")
	return config.Listener{Proto: proto, Bind: netip.MustParseAddrPort(bind), Address: proto + ":" + bind}
}

// start returns a serving layer that the test's end closes.
func start(t testing.TB, o Options, h Handler, specs ...config.Listener) *Layer {
	t.Helper()
	l := New(o)
	serve(t, l, h, specs...)
	return l
}

// serve starts a layer, until the test ends.
func serve(t testing.TB, l *Layer, h Handler, specs ...config.Listener) {
	t.Helper()
	if err := l.Listen(specs); err != nil {
		t.Fatal(err)
	}
	l.Serve(h)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := l.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

func dialTo(t testing.TB, l *Layer, index int) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", l.Listeners()[index].Bound().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

func udpPeer(t testing.TB, address string) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	_ = conn.SetReadBuffer(4 << 20)
	return conn
}

func addrOf(c net.Conn) netip.AddrPort { return netip.MustParseAddrPort(c.LocalAddr().String()) }

// message is a SIP request with that number and a body of that many bytes.
func message(number, body int) string {
	return fmt.Sprintf("MESSAGE sip:a@b.example SIP/2.0\r\nVia: SIP/2.0/TCP c.example;branch=z9hG4bK%d\r\nFrom: <sip:a@b.example>;tag=1\r\n"+
		"To: <sip:a@b.example>\r\nCall-ID: %d\r\nCSeq: %d MESSAGE\r\nContent-Length: %d\r\n\r\n%s", number, number, number, body, strings.Repeat("x", body))
}

func write(t testing.TB, c io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

func expect(t testing.TB, c io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, []byte(want)) {
		t.Fatalf("got %.60q, want %.60q: %v", got[:n], want, err)
	}
}

func expectEnd(t testing.TB, c io.Reader) {
	t.Helper()
	b := make([]byte, 1)
	if n, err := c.Read(b); n > 0 || err == nil || os.IsTimeout(err) {
		t.Fatalf("the connection is open: %d bytes, %v", n, err)
	}
}
