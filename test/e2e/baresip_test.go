package e2e

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

// baresip is one running softphone, driven over its control connection.
type baresip struct {
	t    *testing.T
	addr netip.AddrPort
	conn net.Conn

	mu      sync.Mutex
	events  []string // types in order, CALL_ESTABLISHED and so on
	changed chan struct{}
}

// baresipModules finds the directory of the program's plug-ins.
func baresipModules(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{"/usr/lib/baresip/modules", "/usr/local/lib/baresip/modules", "/opt/homebrew/lib/baresip/modules"} {
		if _, err := os.Stat(filepath.Join(dir, "ctrl_tcp.so")); err == nil {
			return dir
		}
	}
	t.Skip("baresip's modules are not where they are looked for")
	return ""
}

// startBaresip starts one on an address. Its account sends everything through the outbound proxy
// when there is one; it answers calls by itself.
func startBaresip(t *testing.T, user, network string, on netip.Addr, proxy netip.AddrPort, cert *siptest.Certificate) *baresip {
	t.Helper()
	for range 5 {
		if b := tryBaresip(t, user, network, on, proxy, cert); b != nil {
			return b
		}
	}
	t.Fatal("baresip found no free ports five times")
	return nil
}

// tryBaresip is nil when a port was taken: baresip binds the one above the one it is told as well.
func tryBaresip(t *testing.T, user, network string, on netip.Addr, proxy netip.AddrPort, cert *siptest.Certificate) *baresip {
	t.Helper()
	program := need(t, "baresip")
	modules := baresipModules(t)
	dir := t.TempDir()
	if _, _, err := cert.Write(dir); err != nil {
		t.Fatal(err)
	}
	sipPort, ctrlPort := freeAddr(t).Port(), freeAddr(t).Port()
	listen := sipPort
	if network == "tls" {
		listen-- // baresip puts TLS one above what it is told
	}
	config := fmt.Sprintf(`poll_method epoll
sip_listen %s:%d
sip_certificate both.pem
sip_cafile cert.pem
call_local_timeout 60
call_max_calls 4
net_interface %s
audio_source aufile,%s
audio_player aubridge,x
audio_alert aubridge,y
rtp_ports 20000-40000
module_path %s
module g711.so
module aubridge.so
module aufile.so
module_tmp account.so
module_app menu.so
module_app contact.so
module_app ctrl_tcp.so
ctrl_tcp_listen 127.0.0.1:%d
`, on, listen, on, filepath.Join(dir, "tone.wav"), modules, ctrlPort)
	account := fmt.Sprintf("<sip:%s@%s:%d;transport=%s>;regint=0;answermode=auto", user, on, sipPort, network)
	if proxy.IsValid() {
		account += fmt.Sprintf(`;outbound="sip:%s;transport=%s"`, proxy, network)
	}
	for name, text := range map[string]string{"config": config, "accounts": account + "\n", "contacts": "", "tone.wav": tone()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := start(t, dir, program, "-4", "-f", dir)
	ctrl := netip.AddrPortFrom(siptest.Loopback, ctrlPort)
	b := &baresip{t: t, addr: netip.AddrPortFrom(on, sipPort), changed: make(chan struct{})}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ctx := within(t, time.Minute)
	for b.conn == nil {
		if conn, err := net.Dial("tcp", ctrl.String()); err == nil {
			b.conn = conn
			break
		}
		select {
		case <-p.done:
			if strings.Contains(p.output(), "Address already in use") {
				return nil
			}
			t.Fatalf("baresip ended: %v", p.err)
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("baresip opens no control connection")
		}
	}
	var reader sync.WaitGroup
	reader.Go(b.read)
	t.Cleanup(func() {
		_ = b.conn.Close() // ends the reader
		reader.Wait()
	})
	return b
}

// tone is 100 s of silence as a WAV file: 8000 Hz, 16 bits, one channel.
func tone() string {
	const samples = 100 * 8000
	head := struct {
		RIFF       [4]byte
		Size       uint32
		WAVE, Form [4]byte
		FormSize   uint32
		PCM, Ch    uint16
		Rate, Bps  uint32
		Align, Bit uint16
		Data       [4]byte
		DataSize   uint32
	}{
		RIFF: [4]byte([]byte("RIFF")), Size: 36 + 2*samples, WAVE: [4]byte([]byte("WAVE")), Form: [4]byte([]byte("fmt ")), FormSize: 16,
		PCM: 1, Ch: 1, Rate: 8000, Bps: 16000, Align: 2, Bit: 16, Data: [4]byte([]byte("data")), DataSize: 2 * samples,
	}
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, head) // a buffer takes everything
	b.Write(make([]byte, 2*samples))
	return b.String()
}

// command sends one command as a netstring.
func (b *baresip) command(name, params string) {
	b.t.Helper()
	text, err := json.Marshal(map[string]string{"command": name, "params": params, "token": "t"})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(b.conn, "%d:%s,", len(text), text); err != nil {
		b.t.Fatal(err)
	}
}

// read collects events until the connection ends.
func (b *baresip) read() {
	in := bufio.NewReader(b.conn)
	for {
		digits, err := in.ReadString(':')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimSuffix(digits, ":"))
		if err != nil {
			return
		}
		text := make([]byte, n+1) // with the closing comma
		for got := 0; got < len(text); {
			k, err := in.Read(text[got:])
			if err != nil {
				return
			}
			got += k
		}
		var event struct {
			Event bool   `json:"event"`
			Type  string `json:"type"`
		}
		if json.Unmarshal(text[:n], &event) != nil || !event.Event {
			continue
		}
		b.mu.Lock()
		b.events = append(b.events, event.Type)
		close(b.changed)
		b.changed = make(chan struct{})
		b.mu.Unlock()
	}
}

// await waits for an event.
func (b *baresip) await(kind string) {
	b.t.Helper()
	ctx := within(b.t, 15*time.Second)
	for {
		b.mu.Lock()
		events, changed := append([]string(nil), b.events...), b.changed
		b.mu.Unlock()
		for _, e := range events {
			if e == kind {
				return
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			b.t.Fatalf("no %s, but %v", kind, events)
		}
	}
}

// baresipCall: alice calls bob, who answers; either hangs up.
func baresipCall(t *testing.T, alice, bob *baresip, target string, calleeHangsUp bool) {
	t.Helper()
	alice.command("dial", target)
	bob.await("CALL_ESTABLISHED")
	alice.await("CALL_ESTABLISHED")
	if calleeHangsUp {
		bob.command("hangup", "")
	} else {
		alice.command("hangup", "")
	}
	alice.await("CALL_CLOSED")
	bob.await("CALL_CLOSED")
}

// TestBaresipAgainstItself proves the set-up, without an edge.
func TestBaresipAgainstItself(t *testing.T) {
	need(t, "baresip")
	for _, network := range []string{"udp", "tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			cert := certificate(t)
			bob := startBaresip(t, "bob", network, nodeA, netip.AddrPort{}, cert)
			alice := startBaresip(t, "alice", network, siptest.Loopback, netip.AddrPort{}, cert)
			baresipCall(t, alice, bob, siptest.URI("bob", bob.addr, network), false)
		})
	}
}

// TestBaresipThroughTheEdge: one softphone is the caller, another stands where the PBX would.
func TestBaresipThroughTheEdge(t *testing.T) {
	need(t, "baresip")
	for _, mix := range []struct{ outside, inside string }{{"udp", "udp"}, {"tcp", "tcp"}, {"tls", "tls"}, {"udp", "tcp"}, {"tcp", "udp"}} {
		for _, calleeHangsUp := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s to %s, callee hangs up %v", mix.outside, mix.inside, calleeHangsUp), func(t *testing.T) {
				cert := certificate(t)
				bob := startBaresip(t, "bob", mix.inside, nodeA, netip.AddrPort{}, cert)
				edge, addr := mixed(t, mix.outside, mix.inside, cert, settings{backends: []string{siptest.URI("", bob.addr, mix.inside)}})
				alice := startBaresip(t, "alice", mix.outside, siptest.Loopback, addr, cert)
				baresipCall(t, alice, bob, "sip:bob@siptest.example", calleeHangsUp)
				for _, want := range []string{"M=INVITE", "M=ACK", "M=BYE"} {
					if _, err := edge.WaitLine(within(t, soon), 0, func(l string) bool { return strings.Contains(l, want) }); err != nil {
						t.Fatalf("%s did not pass the edge: %v", want, err)
					}
				}
			})
		}
	}
}
