package proxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// labTimes shortens every timer.
func labTimes(c *config.Config) {
	ms := config.Duration(time.Millisecond)
	c.Lab = true
	c.Transaction = config.Transaction{T1: 4 * ms, T2: 30 * ms, T4: 40 * ms, TimerB: 250 * ms, TimerC: 300 * ms, InviteFailover: 40 * ms, RequestFailover: 40 * ms}
	c.Limits.MaxTransactions, c.Limits.ReceiveBuffer = 100000, 4<<20
}

// An oddPBX answers as the user part of a Request-URI tells it, over UDP or TCP,
// sometimes twice, late or not at all.
type oddPBX struct {
	t    *testing.T
	wg   sync.WaitGroup
	udp  *net.UDPConn
	tcp  net.Listener
	done chan struct{}
}

func newOddPBX(t *testing.T) *oddPBX {
	t.Helper()
	u, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	_ = u.SetReadBuffer(4 << 20)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &oddPBX{t: t, udp: u, tcp: ln, done: make(chan struct{})}
	p.wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := u.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			p.take(buf[:n], func(b string) { _, _ = u.WriteToUDPAddrPort([]byte(b), from) }, nil)
		}
	})
	p.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.stream(c) })
		}
	})
	return p
}

func (p *oddPBX) stream(c net.Conn) {
	defer c.Close()
	p.wg.Go(func() { // ends with stop
		<-p.done
		_ = c.Close()
	})
	var f wire.Framer
	f.Max = 65535
	var have []byte
	buf := make([]byte, 65536)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		have = append(have, buf[:n]...)
		for {
			msg, k, _, fault := f.Next(have)
			if fault != wire.NoFault {
				p.t.Errorf("the edge's stream is broken: %v %q", fault, have)
				return
			}
			text := append([]byte(nil), msg...)
			have = have[k:]
			if msg == nil {
				break
			}
			p.take(text, func(b string) { _, _ = c.Write([]byte(b)) }, c)
		}
	}
}

func (p *oddPBX) stop() {
	close(p.done)
	_ = p.udp.Close()
	_ = p.tcp.Close()
	p.wg.Wait()
}

// take answers one request.
func (p *oddPBX) take(b []byte, send func(string), c net.Conn) {
	var m wire.Msg
	if f := m.Scan(append([]byte(nil), b...), c != nil); f != wire.NoFault {
		p.t.Errorf("the edge sent a broken message: %v %q", f, b)
		return
	}
	if !m.IsRequest() || m.Method == wire.ACK {
		return
	}
	if m.Method == wire.CANCEL {
		send(response(&m, 200, "b"))
		if rand.IntN(4) > 0 { // or the call is never ended
			send(strings.Replace(response(&m, 487, "b"), " CANCEL\r\n", " INVITE\r\n", 1))
		}
		return
	}
	u, _ := wire.ParseURI(m.Bytes(m.RURI))
	switch string(u.User) {
	case "answer":
		send(response(&m, 180, "b"))
		send(response(&m, 200, "b"))
	case "twice":
		send(response(&m, 200, "b"))
		send(response(&m, 200, "b"))
		send(response(&m, 200, "c"))
	case "busy":
		send(response(&m, 486, "b"))
	case "unavailable":
		send(response(&m, 503, "b"))
	case "ring":
		send(response(&m, 180, "b"))
	case "trying":
		send(response(&m, 100, ""))
	case "close":
		if c != nil {
			_ = c.Close()
		}
	case "after":
		send(response(&m, 486, "b"))
		send(response(&m, 200, "b"))
	}
}

// Many calls at once, over UDP and TCP, with every ending there is. Afterwards
// nothing may be left: no transaction, no timer, no entry of a connection.
func TestEveryEndingAtOnce(t *testing.T) {
	pbx := newOddPBX(t)
	defer pbx.stop()
	l := started(t, "sip:"+pbx.udp.LocalAddr().String(), func(c *config.Config) {
		labTimes(c)
		p := c.Pools["pbx"]
		b := config.DefaultBackend()
		b.Name, b.Address = "pbx2", "sip:"+pbx.tcp.Addr().String()+";transport=tcp"
		p.Backends = append(p.Backends, b)
		p.Policy = "round_robin"
		p.Probe.DownAfter = 100
		c.Pools["pbx"] = p
	})
	udp, tcp := l.e.Listeners()[0].Bound, l.e.Listeners()[1].Bound
	calls := 60
	if raceEnabled {
		calls = 40
	}
	endings := []string{"answer", "twice", "busy", "unavailable", "ring", "trying", "close", "after", "silence"}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 9))
			for i := range calls {
				proto, to := "UDP", udp
				if r.IntN(2) == 0 {
					proto, to = "TCP", tcp
				}
				placeCall(t, r, proto, to, fmt.Sprintf("%d-%d", g, i), endings[r.IntN(len(endings))])
			}
		})
	}
	wg.Wait()
	waitForRest(t, l)
	if c := l.e.Counters(); c.Forwarded < uint64(8*calls) || c.Responses < uint64(4*calls) {
		t.Errorf("hardly a call: %+v", c)
	}
}

// placeCall sends the requests of one call and does not care for the answers.
func placeCall(t *testing.T, r *rand.Rand, proto string, to netip.AddrPort, id, user string) {
	conn, err := net.Dial(strings.ToLower(proto), to.String())
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	method := []string{"INVITE", "INVITE", "INVITE", "REGISTER", "FOO"}[r.IntN(5)]
	request := func(m, branch, tag string, cseq int) {
		_, _ = fmt.Fprintf(conn, "%s sip:%s@example.org SIP/2.0\r\nVia: SIP/2.0/%s %s;rport;branch=z9hG4bK%s%s\r\nMax-Forwards: 70\r\nFrom: <sip:a@b>;tag=a\r\nTo: <sip:b@c>%s\r\nCall-ID: %s\r\nCSeq: %d %s\r\nContent-Length: 0\r\n\r\n",
			m, user, proto, conn.LocalAddr(), id, branch, tag, id, cseq, m)
	}
	request(method, "i", "", 1)
	if r.IntN(3) == 0 {
		request(method, "i", "", 1)
	}
	if method == "INVITE" && r.IntN(2) == 0 {
		if r.IntN(2) == 0 { // the provisional is there
			buf := make([]byte, 65536)
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, _ = conn.Read(buf)
			_, _ = conn.Read(buf)
		}
		request("CANCEL", "i", "", 1)
	}
	switch r.IntN(4) {
	case 0:
		return // closed at once
	case 1:
		request("ACK", "i", ";tag=b", 1)
	case 2:
		request("ACK", "a", ";tag=b", 1)
		request("BYE", "b", ";tag=b", 2)
	}
	buf := make([]byte, 65536)
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	for {
		if _, err := conn.Read(buf); err != nil {
			return
		}
	}
}

// len is how many connections have transactions.
func (x *connIndex) len() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.on)
}

// waitForRest waits for the linger of the last transaction, in lab time.
func waitForRest(t *testing.T, l *lab) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience*time.Millisecond)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c := l.e.Counters()
		n := l.e.onConn.len()
		if c.Transactions == 0 && l.strayTimers() == 0 && c.Active == 0 && n == 0 {
			if c.Panics != 0 {
				t.Errorf("%d panics: %s", c.Panics, strings.Join(l.lines("panic"), ""))
			}
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			l.e.table.All(func(x transactor) bool {
				c := x.(*responseContext)
				c.mu.Lock()
				defer c.mu.Unlock()
				t.Logf("%s: server %v, %d legs, first %v (abandoned %v, cancel %v), armed %v, waiting %v", c.key, c.server.State(), c.legs, c.first.client.State(), c.first.abandoned, c.first.cancel != nil, c.armed, c.waiting)
				return true
			})
			t.Fatalf("left over: %+v, %d connections", c, n)
		}
	}
}

// Drain and Stop while calls are under way.
func TestStopUnderLoad(t *testing.T) {
	pbx := newOddPBX(t)
	defer pbx.stop()
	l := started(t, "sip:"+pbx.tcp.Addr().String()+";transport=tcp", labTimes)
	udp := l.e.Listeners()[0].Bound
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 10))
			for i := range 15 {
				placeCall(t, r, "UDP", udp, fmt.Sprintf("%d-%d", g, i), []string{"answer", "ring", "silence"}[r.IntN(3)])
			}
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience*time.Millisecond)
	defer cancel()
	if n := l.e.Drain(ctx); n != 0 && ctx.Err() == nil {
		t.Errorf("%d transactions are not answered", n)
	}
	if err := l.e.Stop(ctx); err != nil {
		t.Error(err)
	}
	wg.Wait()
}
