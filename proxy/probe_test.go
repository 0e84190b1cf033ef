package proxy

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/backend"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

func probing(c *config.Config) {
	p := c.Pools["pbx"]
	p.Probe = config.DefaultPool().Probe
	c.Pools["pbx"] = p
	c.ServerID = "edge/1"
}

// A backend goes down when its probes are not answered, or by 503, and comes back.
func TestProbes(t *testing.T) {
	inLab(t, 1, probing, func(t *testing.T, l *lab) {
		pbx := l.pbx[0]
		snap := l.e.snap.Load()
		b := snap.pools.Pool("pbx").Backends()[0]
		l.e.mu.Lock()
		l.e.probers = l.e.startProbers(snap)
		l.e.mu.Unlock()
		state := func() backend.State { return b.State(l.e.wheel.Now()) }
		next := func() *wire.Msg {
			t.Helper()
			for range 130 { // interval and jitter
				pass(100 * time.Millisecond)
				if m := pbx.getsWithin(0); m != nil {
					return m
				}
			}
			t.Fatal("no probe")
			return nil
		}
		m := next()
		if title(m) != "OPTIONS" || m.Vias != 1 || m.First(wire.KindContact) < 0 || string(m.Value(wire.KindUserAgent)) != "edge/1" {
			t.Errorf("the probe:\n%s", m.Buf)
		}
		if u, _ := wire.ParseURI(m.Bytes(m.RURI)); u.HasUser {
			t.Errorf("the probe asks for a user: %s", m.Bytes(m.RURI))
		}
		pbx.answers(m, 401, "x")
		if state() != backend.Up {
			t.Fatalf("%v after a 401", state())
		}
		for range 2 { // E retransmits until the timeout of 3 s
			next()
			pass(3500 * time.Millisecond)
			pbx.skip()
		}
		if state() != backend.Down {
			t.Fatalf("%v after two misses", state())
		}
		l.phone.call().sends("INVITE") // panic mode: it is tried all the same
		l.phone.get("100 INVITE")
		inv := pbx.get("INVITE")
		pbx.answers(inv, 486, "x")
		pbx.skip()
		l.phone.get("486 INVITE")
		for range 2 {
			m := next()
			for title(m) != "OPTIONS" {
				m = next()
			}
			pbx.answers(m, 200, "x")
			pbx.answers(m, 200, "x") // a copy is a stray
		}
		if state() != backend.Up {
			t.Fatalf("%v after two answers", state())
		}
		pbx.answers(next(), 503, "x", "Retry-After: 60\r\n")
		if state() != backend.Down {
			t.Fatalf("%v after a 503", state())
		}
		if n := len(l.lines("backend pbx1 is down")); n != 2 {
			t.Errorf("%d lines", n)
		}
		l.e.mu.Lock()
		l.e.endSnapshotLocked()
		l.e.mu.Unlock()
		pass(80 * time.Second)
		l.atRest()
	})
}

// ICMP: the leg whose datagram could not be delivered fails at once; anything that
// does not quote a branch of ours, or comes from elsewhere, is nothing.
func TestUnreachable(t *testing.T) {
	inLab(t, 2, nil, func(t *testing.T, l *lab) {
		u := l.e.net.Listeners()[0]
		l.phone.call().sends("INVITE")
		l.phone.get("100 INVITE")
		inv := l.pbx[0].get("INVITE")
		flow := u.FlowTo(l.pbx[0].addr)
		for _, quoted := range []string{"", "INVITE", strings.Replace(string(inv.Buf), "z9hG4bKA", "z9hG4bKB", 1)} {
			l.e.Unreachable(flow, []byte(quoted))
		}
		l.e.Unreachable(u.FlowTo(netip.MustParseAddrPort("192.0.2.1:5060")), inv.Buf)
		l.pbx[1].nothing()
		l.e.Unreachable(flow, inv.Buf[:200]) // the kernel quotes the head only
		second := l.pbx[1].get("INVITE")
		l.e.Unreachable(flow, inv.Buf) // once is enough
		l.pbx[1].answers(second, 180, "b")
		l.phone.get("180 INVITE")
		l.e.Unreachable(u.FlowTo(l.pbx[1].addr), second.Buf) // while it rings
		l.phone.get("500 INVITE")
		l.pbx[0].nothing()
	})
}

func TestRules(t *testing.T) {
	change := func(c *config.Config) {
		second := c.Pools["pbx"]
		first := second
		first.Backends, second.Backends = first.Backends[:1], second.Backends[1:]
		c.Pools = map[string]config.Pool{"a": first, "b": second}
		c.Routes = []config.Route{
			{Match: config.Match{Method: []string{"REGISTER", "SUBSCRIBE"}}, Pool: "b"},
			{Match: config.Match{RURIPrefix: "sip:+49"}, Pool: "b"},
			{Match: config.Match{FromDomain: "Example.ORG", Method: []string{"MESSAGE"}}, Pool: "b"},
			{Match: config.Match{Source: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, Pool: "b"},
			{Match: config.Match{Method: []string{"INVITE", "MESSAGE"}}, Pool: "a"},
		}
	}
	inLab(t, 2, change, func(t *testing.T, l *lab) {
		snap := l.e.snap.Load()
		for _, c := range []struct{ method, uri, from, src, want string }{
			{"REGISTER", "sip:example.org", "sip:a@b", "10.0.0.1", "b"}, {"register", "sip:example.org", "sip:a@b", "10.0.0.1", ""},
			{"INVITE", "sip:+4930@x", "sip:a@b", "10.0.0.1", "b"}, {"INVITE", "sip:+1@x", "sip:a@b", "10.0.0.1", "a"},
			{"MESSAGE", "sip:x", "sip:a@EXAMPLE.org:5080", "10.0.0.1", "b"}, {"MESSAGE", "sip:x", "sip:a@sub.example.org", "10.0.0.1", "a"},
			{"FOO", "sip:x", "sip:a@b", "192.0.2.9", "b"}, {"FOO", "sip:x", "sip:a@b", "192.0.3.9", ""},
		} {
			var m wire.Msg
			m.Scan([]byte(c.method+" "+c.uri+" SIP/2.0\r\nVia: SIP/2.0/UDP x;branch=z9hG4bK1\r\nFrom: <"+c.from+">;tag=a\r\nTo: <sip:x@y>\r\nCall-ID: 1\r\nCSeq: 1 "+c.method+"\r\n\r\n"), false)
			got := ""
			if r := snap.rule(&m, netip.MustParseAddr(c.src), false); r != nil {
				got = r.pool.Name()
			}
			if got != c.want {
				t.Errorf("%+v: pool %q", c, got)
			}
		}
		l.phone.call().sends("FOO")
		l.phone.get("404 FOO")
	})
}

// A start that fails leaves nothing open.
func TestFailedStart(t *testing.T) {
	l := newLab(t, 1, nil)
	defer func() {
		if err := l.e.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		_ = l.e.log.Close()
	}()
	c := testConfig("udp:127.0.0.1:0", "tcp:127.0.0.1:0", "udp:"+l.edge().String())
	if e, err := New(c, l.e.log, nil); err == nil {
		t.Errorf("%s is bound twice", e.Listeners()[2].Bound)
	}
	c = testConfig("udp:127.0.0.1:0")
	c.Advertise = "x:y"
	if _, err := New(c, l.e.log, nil); err == nil {
		t.Error("a bad advertise is taken")
	}
}

// What is stored must not be the reader's buffer, which the next datagram overwrites.
func TestNothingKeepsTheReadersBuffer(t *testing.T) {
	inLab(t, 2, nil, func(t *testing.T, l *lab) {
		f := l.e.net.Listeners()[0]
		buf := make([]byte, 65536)
		put := func(p *peer, text string) {
			n := copy(buf, crlf(text))
			l.e.Receive(&transport.Packet{Flow: f.FlowTo(p.addr), Data: buf[:n]})
			for i := range buf[:n] {
				buf[i] = 'X'
			}
		}
		c := l.phone.call()
		c.body = sdp
		put(l.phone, c.text("INVITE"))
		l.phone.get("100 INVITE")
		inv := l.pbx[0].get("INVITE")
		ringing := response(inv, 180, "")
		put(l.pbx[0], ringing)
		want := string(l.phone.get("180 INVITE").Buf)
		c.branch--
		put(l.phone, c.text("INVITE")) // a copy
		if got := string(l.phone.get("180 INVITE").Buf); got != want {
			t.Errorf("the 180 again:\n%s", got)
		}
		c.branch--
		put(l.phone, c.text("CANCEL"))
		c.branch++
		put(l.pbx[0], response(inv, 503, "b"))
		l.pbx[0].skip()
		l.phone.skip()
		l.phone.call().sends("INVITE")
		l.phone.get("100 INVITE")
		m := l.pbx[0].gets()
		if m == nil { // pbx1 has said 503
			m = l.pbx[1].get("INVITE")
		}
		put(l.pbx[0], response(m, 486, "b"))
		want = string(l.phone.get("486 INVITE").Buf)
		pass(600 * time.Millisecond) // timer G
		if got := string(l.phone.get("486 INVITE").Buf); got != want {
			t.Errorf("the 486 again:\n%s", got)
		}
		if strings.Contains(want, "XXX") {
			t.Errorf("overwritten:\n%s", want)
		}
	})
}
