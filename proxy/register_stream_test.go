package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// A mobile is a phone on a TCP connection of its own to listener 1.
type mobile struct {
	*wireEnd
	l    *lab
	pbx  *peer
	id   string
	cseq int
	user string
	last int // seconds, that its registrations do

	asked *wire.Msg // what the registrar got last
	path  string    // in it
}

func (l *lab) mobile(pbx *peer) *mobile {
	callNumber++
	return &mobile{wireEnd: l.dial(1), l: l, pbx: pbx, user: "alice", last: 600, id: fmt.Sprintf("mobile-%d", callNumber)}
}

// reconnects opens another connection; the old one stays as it is.
func (m *mobile) reconnects() (old net.Conn) {
	old = m.conn
	m.wireEnd = m.l.dial(1)
	return old
}

// registers returns the Contact that the registrar keeps.
func (m *mobile) registers(more string) string {
	m.l.Helper()
	asked := m.asks(more)
	m.l.sendUDP(m.pbx, response(asked, 200, "r", keeps(asked)...))
	m.get("200 REGISTER")
	return uriIn(asked, wire.KindContact)
}

// asks returns the REGISTER as the registrar gets it.
func (m *mobile) asks(more string) *wire.Msg {
	m.l.Helper()
	m.cseq++
	m.sends(fmt.Sprintf("REGISTER sip:example.org SIP/2.0\nVia: SIP/2.0/TCP %s;rport;branch=z9hG4bK-%s-%d\nMax-Forwards: 70\nFrom: <sip:%s@example.org>;tag=a\nTo: <sip:%s@example.org>\nCall-ID: %s\nCSeq: %d REGISTER\nContact: <sip:%s@%s;transport=tcp>;expires=%d%s\nContent-Length: 0\n\n",
		m.conn.LocalAddr(), m.id, m.cseq, m.user, m.user, m.id, m.cseq, m.user, m.conn.LocalAddr(), m.last, more))
	asked := m.pbx.get("REGISTER")
	m.asked, m.path = asked, uriIn(asked, wire.KindPath)
	return asked
}

// called has the backend call, and returns the answer to it that is no 100.
func (l *lab) called(pbx *peer, uri string) (status string, took time.Duration) {
	l.Helper()
	began := time.Now()
	c := pbx.callsTo(uri, "")
	l.sendUDP(pbx, c.text("INVITE"))
	for {
		m := pbx.getsWithin(patience)
		if m == nil {
			l.Fatalf("no answer to a call to %s", uri)
		}
		if m.Status != 100 {
			c.to = string(m.Bytes(m.To.Tag))
			l.sendUDP(pbx, c.text("ACK"))
			return title(m), time.Since(began)
		}
	}
}

const instance = `;+sip.instance="<urn:uuid:1>"`

// TestCallToAClosedConnectionFailsAtOnce: however the connection ended, the PBX hears 430
// while the caller still listens, and the phone is found again on its next one.
func TestCallToAClosedConnectionFailsAtOnce(t *testing.T) {
	for _, x := range []struct {
		name string
		ends func(net.Conn) error
	}{
		{"FIN", func(c net.Conn) error { return c.Close() }},
		{"RST", func(c net.Conn) error {
			_ = c.(*net.TCPConn).SetLinger(0)
			return c.Close()
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			l, pbx := startedWithPBX(t, mode("contact", false))
			m := l.mobile(pbx)
			before := m.registers(instance)
			if strings.Contains(before, "transport=tcp") {
				t.Errorf("the registrar is led to a connection: %s", before)
			}
			if err := x.ends(m.conn); err != nil {
				t.Fatal(err)
			}
			fastest := time.Hour
			for range 3 { // a busy machine may stall in one of them
				got, took := l.called(pbx, before)
				if got != "430 INVITE" {
					t.Errorf("%s after %s", got, took)
				}
				fastest = min(fastest, took)
			}
			if fastest > time.Second {
				t.Errorf("430 after %s", fastest)
			}
			if got := l.oneLine("[TCP:CLOSED] tcp connection closed conid="); len(got) != 1 || !strings.Contains(got[0], "alice@example.org") {
				t.Errorf("%q", got)
			}
			m.reconnects()
			now := m.registers(instance)
			for _, uri := range []string{now, before} { // the registrar may not have noticed yet
				c := pbx.callsTo(uri, "")
				l.sendUDP(pbx, c.text("INVITE"))
				pbx.get("100 INVITE")
				m.sends(response(m.get("INVITE"), 486, "p"))
				pbx.get("486 INVITE")
				m.get("ACK")
			}
		})
	}
}

// TestConnectionThatEndsBeforeItIsRegistered: the phone is gone when the registrar's answer comes. That is a lost way as any
// other.
func TestConnectionThatEndsBeforeItIsRegistered(t *testing.T) {
	l, pbx := startedWithPBX(t, func(c *config.Config) {
		mode("contact", false)(c)
		c.Registration.ClosedGrace = config.Duration(time.Minute)
	})
	m := l.mobile(pbx)
	asked := m.asks("")
	m.leaves()
	l.sendUDP(pbx, response(asked, 200, "r", keeps(asked)...))
	if got := l.oneLine("[TCP:CLOSED] tcp connection closed conid="); len(got) != 1 || !strings.Contains(got[0], "alice@example.org") {
		t.Errorf("%q", got)
	}
	if x := l.e.Registrations(RegistrationFilter{}); len(x) != 1 || x[0].State != "closed" {
		t.Errorf("%+v", x)
	}
}

// awaits gives an edge that runs in real time the time to notice something; what is checked
// afterwards tells whether it has.
func awaits(holds func() bool) {
	for deadline := time.Now().Add(patience * time.Millisecond); !holds() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// oneLine is lines that waits for the first: the edge may have answered before it writes one.
func (l *lab) oneLine(text string) []string {
	awaits(func() bool { return len(l.lines(text)) > 0 })
	return l.lines(text)
}

// TestNewerConnectionWins: the end of the old one comes late, and harms nobody.
func TestNewerConnectionWins(t *testing.T) {
	l, pbx := startedWithPBX(t, func(c *config.Config) {
		mode("contact", false)(c)
		c.Registration.ClosedGrace = config.Duration(20 * time.Millisecond)
	})
	m := l.mobile(pbx)
	before := m.registers(instance)
	old := m.reconnects()
	now := m.registers(instance)
	if before == now {
		t.Fatal("the registrar keeps the old flow")
	}
	id := l.e.Registrations(RegistrationFilter{})[0].Connection
	_ = old.Close()
	gone := func() bool { // the edge has seen the end of it
		for _, c := range []uint64{id - 1, id} {
			if l.e.net.ConnByID(c) == nil {
				return true
			}
		}
		return false
	}
	awaits(gone)
	for _, uri := range []string{now, before} {
		c := pbx.callsTo(uri, "")
		l.sendUDP(pbx, c.text("INVITE"))
		pbx.get("100 INVITE")
		m.sends(response(m.get("INVITE"), 486, "p"))
		pbx.get("486 INVITE")
		m.get("ACK")
	}
	if x := l.e.Registrations(RegistrationFilter{}); len(x) != 1 || x[0].State != "registered" {
		t.Errorf("%+v", x)
	}
	if got := l.lines("[TCP:CLOSED]"); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

// TestDialogFollowsThePhone: in a call that runs, requests of the PBX go to the connection
// that the phone has registered over since.
func TestDialogFollowsThePhone(t *testing.T) {
	l, pbx := startedWithPBX(t, mode("contact", false))
	m := l.mobile(pbx)
	uri := m.registers(instance)
	c := pbx.callsTo(uri, "")
	l.sendUDP(pbx, c.text("INVITE"))
	pbx.get("100 INVITE")
	m.sends(response(m.get("INVITE"), 200, "p", "Contact: <sip:alice@192.168.1.20:40000;transport=tcp>\r\n"))
	ok := pbx.get("200 INVITE")
	c.to, c.uri, c.route = "p", uriIn(ok, wire.KindContact), routeOf(ok)
	l.sendUDP(pbx, c.text("ACK"))
	m.get("ACK")
	_ = m.reconnects().Close()
	m.registers(instance)
	c.cseq++
	l.sendUDP(pbx, c.text("INFO"))
	m.sends(response(m.get("INFO"), 200, ""))
	pbx.get("200 INFO")

	// With nowhere to go the request fails at once, and the call goes on.
	_ = m.conn.Close()
	c.cseq++
	l.sendUDP(pbx, c.text("INFO"))
	if got := title(pbx.getsWithin(patience)); got != "430 INFO" {
		t.Errorf("%s", got)
	}
	if n := len(l.e.Calls(CallFilter{})); n != 1 {
		t.Errorf("%d calls", n)
	}

	// But when the other side hangs up, it is over, though nobody can be told.
	c.cseq++
	l.sendUDP(pbx, c.text("BYE"))
	if got := title(pbx.getsWithin(patience)); got != "430 BYE" {
		t.Errorf("%s", got)
	}
	awaits(func() bool { return len(l.e.Calls(CallFilter{})) == 0 })
	if n := len(l.e.Calls(CallFilter{})); n != 0 {
		t.Errorf("%d calls after a BYE", n)
	}
}

// TestSilentBrowserIsGivenUp: one that answers pings stays, one that does not is closed. On a
// machine that stalls for longer than the interval every browser is silent, so it is made longer.
func TestSilentBrowserIsGivenUp(t *testing.T) {
	const most = 4 * time.Second
	for interval := 40 * time.Millisecond; !silentBrowser(t, interval); interval *= 10 {
		if interval >= most {
			t.Fatalf("with a ping every %s it is closed though it answers", interval)
		}
	}
}

// silentBrowser answers five pings and then no more; false when it was closed before.
func silentBrowser(t *testing.T, interval time.Duration) (wasHeard bool) {
	t.Helper()
	l, pbx := startedWithPBX(t, func(c *config.Config) {
		mode("contact", false)(c)
		c.Registration.Ping, c.Registration.PingInterval = "options", config.Duration(interval)
		c.Listen = append(c.Listen, config.Listener{Address: "ws:127.0.0.1:0", Proto: "ws", Bind: netip.MustParseAddrPort("127.0.0.1:0")})
	})
	w := l.dial(2)
	if _, err := io.WriteString(w.conn, "GET / HTTP/1.1\r\nHost: edge\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: sip\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(w.conn)
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	// frame writes one frame with an empty mask.
	frame := func(opcode byte, payload string) {
		b := []byte{0x80 | opcode, 0x80 | 126, byte(len(payload) >> 8), byte(len(payload)), 0, 0, 0, 0}
		if len(payload) < 126 {
			b = []byte{0x80 | opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}
		}
		if _, err := w.conn.Write(append(b, payload...)); err != nil {
			t.Fatal(err)
		}
	}
	// next reads one frame of the edge.
	next := func() (opcode byte, payload []byte, err error) {
		head := make([]byte, 2)
		if _, err = io.ReadFull(r, head); err != nil {
			return 0, nil, err
		}
		n := int(head[1])
		if n == 126 {
			long := make([]byte, 2)
			if _, err = io.ReadFull(r, long); err != nil {
				return 0, nil, err
			}
			n = int(long[0])<<8 | int(long[1])
		}
		payload = make([]byte, n)
		_, err = io.ReadFull(r, payload)
		return head[0] & 15, payload, err
	}
	const text, closes, ping, pong = 1, 8, 9, 10
	frame(text, crlf("REGISTER sip:example.org SIP/2.0\nVia: SIP/2.0/WS x.invalid;branch=z9hG4bK1\nMax-Forwards: 70\nFrom: <sip:alice@example.org>;tag=a\nTo: <sip:alice@example.org>\nCall-ID: ws\nCSeq: 1 REGISTER\nContact: <sip:alice@x.invalid;transport=ws>;expires=600\n\n"))
	asked := pbx.get("REGISTER")
	l.sendUDP(pbx, response(asked, 200, "r", keeps(asked)...))
	answered := 0
	for {
		opcode, payload, err := next()
		if err != nil || opcode == closes {
			break
		}
		switch {
		case opcode == ping && answered < 5:
			frame(pong, string(payload))
			answered++
		case opcode == text && !strings.Contains(string(payload), "<sip:alice@x.invalid;transport=ws>;expires=600"):
			t.Errorf("the page got\n%s", payload)
		}
	}
	if answered != 5 {
		return false
	}
	if got, _ := l.called(pbx, uriIn(asked, wire.KindContact)); got != "430 INVITE" {
		t.Errorf("a call to it gets %s", got)
	}
	if got := l.oneLine("[TCP:CLOSED] ws connection closed"); len(got) != 1 {
		t.Errorf("%q", got)
	}
	return true
}
