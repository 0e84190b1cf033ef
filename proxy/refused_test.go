package proxy

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
)

// Why a phone or a browser gets no connection is found in the log.
func TestRefusedConnectionsAreTold(t *testing.T) {
	l := started(t, "sip:127.0.0.1:9", func(c *config.Config) {
		c.Limits.MaxConnectionsPerSource = 2
		c.Listen = append(c.Listen, config.Listener{Address: "ws:127.0.0.1:0", Proto: "ws", Bind: c.Listen[0].Bind, Origins: []string{"https://phone.example"}})
	})
	ended := 0
	connects := func(listener int, text string) {
		t.Helper()
		ended++
		conn, err := net.Dial("tcp", l.e.Listeners()[listener].Bound.String())
		if err != nil { // it was faster
			return
		}
		defer func() { _ = conn.Close() }()
		if text == "" && listener == 2 { // looks whether somebody listens
			return
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		_, _ = fmt.Fprint(conn, text)
		for buf := make([]byte, 1024); err == nil; {
			_, err = conn.Read(buf)
		}
	}
	told, number := 0, regexp.MustCompile(`(\w+)=(\d+)`)
	tells := func(want map[string]int, parts ...string) {
		t.Helper()
		awaits(func() bool {
			s := l.e.net.Stats()
			return int(s.HandshakeFailures+s.RefusedPerSource) == ended && s.Connections <= 2
		})
		l.e.tellRefused()
		lines := l.lines("connections refused") // more than one if this took very long
		text := strings.Join(lines[told:], "")
		told = len(lines)
		for _, n := range number.FindAllStringSubmatch(text, -1) {
			i, _ := strconv.Atoi(n[2])
			want[n[1]] -= i
		}
		for key, n := range want {
			if n != 0 {
				t.Errorf("%s: %d more wanted in %q", key, n, text)
			}
		}
		for _, p := range parts {
			if !strings.Contains(text, p) {
				t.Errorf("no %q in %q", p, text)
			}
		}
	}
	const upgrade = "GET / HTTP/1.1\r\nHost: edge\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: sip\r\n"
	tells(map[string]int{})
	connects(2, upgrade+"Origin: https://other.example\r\n\r\n")
	tells(map[string]int{"handshake": 1}, "WARNING", "last=ws:127.0.0.1:", "https://other.example")
	connects(2, upgrade+"\r\n")
	tells(map[string]int{"handshake": 1}, "names no origin")
	connects(2, "")
	tells(map[string]int{})
	l.dial(1)
	l.dial(1)
	connects(1, "")
	connects(1, "")
	tells(map[string]int{"max_connections_per_source": 2}, "last=tcp:127.0.0.1:")
}
