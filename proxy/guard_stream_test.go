package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// certificate writes a self-signed pair.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// dialFrom opens a connection to the stream listener of the edge from an address of
// this host. err tells that it was refused, at once or with the handshake.
func (l *lab) dialFrom(proto, from string) (*wireEnd, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 20 * time.Second}
	conn, err := d.Dial("tcp", l.e.Listeners()[1].Bound.String())
	if err != nil {
		return nil, err
	}
	if proto == "tls" {
		c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		if err := c.Handshake(); err != nil {
			_ = conn.Close()
			return nil, err
		}
		conn = c
	}
	return l.wireEnd(conn), nil
}

func (w *wireEnd) options(n int) string {
	return fmt.Sprintf("OPTIONS sip:%s SIP/2.0\nVia: SIP/2.0/TCP 127.0.0.5;branch=z9hG4bK-o%d\nMax-Forwards: 70\nFrom: <sip:a@example.org>;tag=a\nTo: <sip:b@c>\nCall-ID: o%d\nCSeq: 1 OPTIONS\nContent-Length: 0\n\n",
		w.lab.e.Listeners()[1].Bound, n, n)
}

// ends waits for the edge to close the connection; what it sent before is read.
func (w *wireEnd) ends() {
	w.lab.Helper()
	if _, err := io.Copy(io.Discard, w.conn); err != nil {
		if e, ok := err.(net.Error); ok && e.Timeout() {
			w.lab.Errorf("the connection is still open: %v", err)
		}
	}
}

// A flood over a stream ends all connections of its source, and it gets no new one as long
// as it is banned. Others are served.
func TestFloodOverStreams(t *testing.T) {
	for _, proto := range []string{"tcp", "tls"} {
		t.Run(proto, func(t *testing.T) {
			l, _ := startedWithPBX(t, func(c *config.Config) {
				guarded(c)
				c.Security.DoSSamplingTimeUnit = seconds(60) // a slow machine takes its time for fifty
				x := &c.Listen[1]
				x.Proto = proto
				if proto == "tls" {
					x.Certificate, x.Key = certificate(t)
				}
			})
			must := func(w *wireEnd, err error) *wireEnd {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				return w
			}
			idle, a := must(l.dialFrom(proto, "127.0.0.5")), must(l.dialFrom(proto, "127.0.0.5"))
			other := must(l.dialFrom(proto, "127.0.0.6"))
			l.clearLog()
			for i := range 50 {
				a.sends(a.options(i))
				a.get("200 OPTIONS")
			}
			l.alarms()
			a.sends(a.options(50))
			a.ends()
			idle.ends()
			l.alarms("WARNING: sipward: IP '127.0.0.5' is blocked and banned - R=<null> ID=o50")
			if b := l.e.Bans(BanFilter{}); len(b) != 1 || b[0].Key != "127.0.0.5" || b[0].Rule != "dos" || b[0].Count != 51 || !b[0].Proven || !b[0].Hard {
				t.Errorf("%+v", b)
			}
			asks := func(n int) (*wireEnd, error) {
				w, err := l.dialFrom(proto, "127.0.0.5")
				if err == nil {
					_, _ = w.conn.Write([]byte(crlf(w.options(n)))) // to a connection that may be closed
					_, err = w.conn.Read(make([]byte, 4096))
				}
				return w, err
			}
			for i := range 3 {
				if _, err := asks(1000 + i); err == nil {
					t.Error("a banned source was let in")
				}
				other.sends(other.options(2000 + i))
				other.get("200 OPTIONS")
			}
			l.alarms()
			if _, found, err := l.e.RemoveBan("127.0.0.5"); !found || err != nil { // time ends bans where it stands still, in synctest
				t.Errorf("%v, %v", found, err)
			}
			must(asks(2000))
			if b := l.e.Bans(BanFilter{}); len(b) != 0 {
				t.Errorf("%+v", b)
			}
			l.alarms()
		})
	}
}

// Over a stream no nonce has to prove that a source is who it says.
func TestWrongPasswordsOverStreams(t *testing.T) {
	l, pbx := startedWithPBX(t, guarded)
	w, err := l.dialFrom("tcp", "127.0.0.5")
	if err != nil {
		t.Fatal(err)
	}
	l.clearLog()
	for i := range 5 {
		u := pbx.user(fmt.Sprint(i))
		w.sends(u.request("REGISTER", "unheard of"))
		l.sendUDP(pbx, response(pbx.get("REGISTER"), 401, "t", challenge("WWW-Authenticate", "n", "")))
		m := w.get("401 REGISTER")
		if i == 4 {
			l.alarms("WARNING: sipward: IP '127.0.0.5' is blocked and banned - R=<null> ID=" + string(m.Bytes(m.CallID)))
		}
	}
	if b := l.e.Bans(BanFilter{}); len(b) != 1 || b[0].Rule != "enumeration" || b[0].Hard {
		t.Errorf("%+v", b)
	}
	w.sends(w.options(1)) // unanswered
	if _, err := l.e.AddBan(NewBan{Key: "127.0.0.5"}); err != nil {
		t.Fatal(err)
	}
	w.ends() // an operator's ban is for all that comes from there
}

// What is banned is dropped by the kernel, before it costs a system call, and passes
// again as soon as the ban is lifted.
func TestKernelFollowsBans(t *testing.T) {
	l, _ := startedWithPBX(t, func(c *config.Config) {
		guarded(c)
		c.Security.KernelOffload = "auto"
	})
	a := l.newPeerAt("A", "127.0.0.11:0")
	ask := func(n, ms int) *wire.Msg {
		l.sendUDP(a, l.options(a, n))
		return a.getsWithin(ms)
	}
	l.sendUDP(a, l.options(a, 1))
	a.get("200 OPTIONS")
	if _, err := l.e.AddBan(NewBan{Key: "127.0.0.11"}); err != nil {
		t.Fatal(err)
	}
	b, _ := l.e.Ban("127.0.0.11")
	if b.Kernel == "" {
		t.Skip("nothing in the kernel drops it: ", l.e.SecurityStats().Kernel)
	}
	before := l.e.net.Stats()
	for i := range 10 {
		if m := ask(10+i, 50); m != nil {
			t.Errorf("a banned source got %s", title(m))
		}
	}
	after := l.e.net.Stats()
	if after.Banned != before.Banned {
		t.Errorf("%d datagrams came through the kernel", after.Banned-before.Banned)
	}
	t.Logf("%s: %s", b.Kernel, l.e.SecurityStats().Kernel)
	if n := l.e.FlushBans(); n != 1 {
		t.Errorf("%d flushed", n)
	}
	var m *wire.Msg
	for i := 0; m == nil && i < 40; i++ { // on a busy machine it takes its time
		m = ask(30+i, patience/40)
	}
	if title(m) != "200 OPTIONS" {
		t.Errorf("after the ban: %s", title(m))
	}
}

// A keep-alive is no message, but nobody needs ten thousand of them.
func TestFloodOfKeepAlivesIsBanned(t *testing.T) {
	const many = 5000 // twice what is let pass, and a little
	stun := string([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7})
	for _, c := range []struct {
		name string
		keep func(l *lab, from string)
	}{
		{"STUN", func(l *lab, from string) { l.from(from, stun) }},
		{"CRLF", func(l *lab, from string) { l.e.keptAlive(netip.MustParseAddrPort(from).Addr(), false) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			underGuard(t, 1, nil, func(t *testing.T, l *lab) {
				for range many {
					c.keep(l, "203.0.113.5:5060")
				}
				c.keep(l, "203.0.113.6:5060")
				if b := l.e.Bans(BanFilter{}); len(b) != 1 || b[0].Key != "203.0.113.5" || b[0].Rule != "dos" || b[0].Window != 1 {
					t.Errorf("%+v", b)
				}
				l.alarms("WARNING: sipward: IP '203.0.113.5' is blocked and banned - R=<null> ID=<null>")
			})
		})
	}
}

// Connections of one source do not take the share of others.
func TestChurnOfConnections(t *testing.T) {
	l, _ := startedWithPBX(t, func(c *config.Config) {
		guarded(c)
		c.Limits.MaxConnectionsPerSource, c.Limits.AcceptRate = 4, 1
	})
	listener := l.e.net.Listeners()[1]
	remote := netip.MustParseAddrPort("203.0.113.5:5060")
	for range 4 {
		if !l.e.admits(listener, remote) {
			t.Fatal("refused within the limit")
		}
	}
	if l.e.admits(listener, remote) {
		t.Error("admitted beyond the limit")
	}
	if !l.e.admits(listener, netip.MustParseAddrPort("203.0.113.6:5060")) {
		t.Error("somebody else is refused")
	}
	if b := l.e.Bans(BanFilter{}); len(b) != 0 {
		t.Errorf("%+v", b)
	}
}
