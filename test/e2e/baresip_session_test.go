package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/sipward/sipward/test/siptest"
)

// passage is a message that passed a relay.
type passage struct {
	*siptest.Message
	toPhone bool
}

// hideout puts a relay between a softphone and the edge, for both directions and for all that
// either of them writes into a message as an address of its own: phone is where the softphone
// is. It returns what has passed.
func hideout(relay *siptest.Relay, phone, edge netip.AddrPort, isTarget bool, edit func(toPhone bool, data []byte) []byte) (passed func() []passage) {
	var mu sync.Mutex
	var all []passage
	outer, inner := relay.Back(), relay.Front() // what the edge, what the phone takes it for
	if isTarget {
		outer, inner = inner, outer
	}
	relay.Watch(func(toTarget bool, data []byte) []byte {
		toPhone := toTarget == isTarget
		pairs := [2][2]netip.AddrPort{{phone, outer}, {inner, edge}}
		for _, p := range pairs {
			from, to := p[0], p[1]
			if toPhone {
				from, to = to, from
			}
			data = bytes.ReplaceAll(data, []byte(from.String()), []byte(to.String()))
		}
		if edit != nil {
			data = edit(toPhone, data)
		}
		mu.Lock()
		all = append(all, passage{&siptest.Message{Data: data}, toPhone})
		mu.Unlock()
		return data
	})
	return func() []passage {
		mu.Lock()
		defer mu.Unlock()
		return append([]passage(nil), all...)
	}
}

// media passes the RTP of a call between caller and callee, and watches it.
type media struct {
	mu   sync.Mutex // guards what follows
	ends [2]stream  // of the caller, of the callee
}

// stream is the RTP that one party sends.
type stream struct {
	socket  *net.UDPConn   // where it sends to
	port    netip.AddrPort // where it wants the other's
	packets int
	last    uint16
	sources map[uint32]bool
	clock   uint32
	gaps    int // in the sequence numbers
	jumps   int // of the time stamps, which go on by 20 ms
}

func newMedia(t *testing.T, caller, callee netip.Addr) *media {
	t.Helper()
	m := &media{}
	var readers sync.WaitGroup
	for i, on := range []netip.Addr{callee, caller} {
		socket, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at(on)))
		if err != nil {
			t.Fatal(err)
		}
		m.ends[i] = stream{socket: socket, sources: map[uint32]bool{}}
	}
	for i := range m.ends {
		readers.Go(func() { m.pass(i) })
	}
	t.Cleanup(func() {
		for i := range m.ends {
			_ = m.ends[i].socket.Close() // ends the reader
		}
		readers.Wait()
	})
	return m
}

var audioPort = regexp.MustCompile(`m=audio (\d{5}) `)

// redirect has the answers to an SDP of a party come here: from is 0 for the caller.
func (m *media) redirect(from int, data []byte) []byte {
	at := audioPort.FindSubmatchIndex(data)
	if at == nil {
		return data
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	mine, theirs := &m.ends[from], &m.ends[1-from]
	port, err := strconv.ParseUint(string(data[at[2]:at[3]]), 10, 16)
	if err != nil {
		return data
	}
	here := theirs.socket.LocalAddr().(*net.UDPAddr).AddrPort()
	mine.port = netip.AddrPortFrom(here.Addr(), uint16(port))
	out := append([]byte(nil), data[:at[2]]...)
	return append(fmt.Appendf(out, "%05d", here.Port()), data[at[3]:]...)
}

// pass takes what party i sends on to the other one.
func (m *media) pass(i int) {
	buf := make([]byte, 2048)
	for {
		n, err := m.ends[i].socket.Read(buf)
		if err != nil {
			return
		}
		if n < 12 {
			continue
		}
		seq := binary.BigEndian.Uint16(buf[2:])
		clock, source := binary.BigEndian.Uint32(buf[4:]), binary.BigEndian.Uint32(buf[8:])
		m.mu.Lock()
		s := &m.ends[i]
		if s.packets > 0 && seq != s.last+1 {
			s.gaps++
		}
		if s.packets > 0 && clock-s.clock != 160 {
			s.jumps++
		}
		s.packets++
		s.last, s.clock = seq, clock
		s.sources[source] = true
		out, to := m.ends[1-i].socket, m.ends[1-i].port
		m.mu.Unlock()
		if to.IsValid() {
			_, _ = out.WriteToUDPAddrPort(buf[:n], to) // it may be gone
		}
	}
}

// heard is how far the stream of a party has come.
func (m *media) heard(i int) (packets, sources, gaps, jumps int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.ends[i]
	return s.packets, len(s.sources), s.gaps, s.jumps
}

// softCall is a call between two baresip, alice behind the edge and bob where the PBX would be.
type softCall struct {
	t          *testing.T
	edge       *siptest.Edge
	alice, bob *baresip
	media      *media
	passed     [2]func() []passage // at alice, at bob
}

// newSoftCall places the call. The relay in front of alice adds what makes it one with a session
// timer, and edits what she allows.
func newSoftCall(t *testing.T, allow func(string) string) *softCall {
	t.Helper()
	addr, cert := freeAddr(t), certificate(t)
	c := &softCall{t: t, media: newMedia(t, siptest.Loopback, nodeA)}
	c.bob = startBaresip(t, "bob", "udp", nodeA, netip.AddrPort{}, cert)
	inside := newRelay(t, nodeA, c.bob.addr)
	outside := newRelay(t, siptest.Loopback, addr)
	c.edge = siptest.StartEdge(t, settings{
		listen: []string{"udp:" + addr.String()}, backends: []string{siptest.URI("", inside.Front(), "udp")}, top: everyHalfSecond,
	}.yaml())
	c.alice = startBaresip(t, "alice", "udp", siptest.Loopback, outside.Front(), cert)
	allowing := func(data []byte) []byte {
		return allowLine.ReplaceAllFunc(data, func(line []byte) []byte { return []byte(allow(string(line))) })
	}
	c.passed[0] = hideout(outside, c.alice.addr, addr, false, func(toPhone bool, data []byte) []byte {
		if toPhone {
			return c.media.redirect(1, data)
		}
		if bytes.HasPrefix(data, []byte("INVITE ")) {
			data = bytes.Replace(data, []byte("\r\n"), []byte("\r\nSupported: timer\r\n"), 1)
		}
		return c.media.redirect(0, allowing(data))
	})
	c.passed[1] = hideout(inside, c.bob.addr, addr, true, func(toPhone bool, data []byte) []byte {
		if toPhone {
			return data
		}
		return allowing(data)
	})
	c.alice.command("dial", "sip:bob@siptest.example")
	c.bob.await("CALL_ESTABLISHED")
	c.alice.await("CALL_ESTABLISHED")
	return c
}

var allowLine = regexp.MustCompile(`(?m)^Allow: [^\r]*`)

// refreshed waits until each phone has answered so many more refreshes of the edge with 200.
func (c *softCall) refreshed(more int) {
	c.t.Helper()
	count := func(i int) (n int) {
		for _, p := range c.passed[i]() {
			if !p.toPhone && p.Status() == 200 && len(p.Values("Via")) == 1 {
				n++
			}
		}
		return n
	}
	a, b := count(0)+more, count(1)+more
	until(c.t, fmt.Sprintf("%d more refreshes", more), func() bool { return count(0) >= a && count(1) >= b })
}

// flows waits until both have sent more RTP, a second of it.
func (c *softCall) flows() {
	c.t.Helper()
	a, _, _, _ := c.media.heard(0)
	b, _, _, _ := c.media.heard(1)
	until(c.t, "RTP both ways", func() bool {
		moreA, _, _, _ := c.media.heard(0)
		moreB, _, _, _ := c.media.heard(1)
		return moreA >= a+50 && moreB >= b+50
	})
}

// holds waits until the other phone was told a direction.
func (c *softCall) holds(direction string) {
	c.t.Helper()
	until(c.t, "an offer with "+direction, func() bool {
		all := c.passed[1]()
		for i := len(all) - 1; i >= 0; i-- {
			if p := all[i]; p.toPhone && p.Status() == 0 && p.Method() == "INVITE" && len(p.Values("Via")) > 1 {
				return bytes.Contains(p.Body(), []byte("a="+direction+"\r\n"))
			}
		}
		return false
	})
}

// unchanged checks that no refresh told a phone anything new: each had the SDP that the phone had
// got from the other one last, byte by byte, and got the answer that the phone had given last, but
// for the version that baresip raises every time.
func (c *softCall) unchanged() {
	c.t.Helper()
	for i, name := range []string{"alice", "bob"} {
		var got, gave []byte
		invites := 0
		for _, p := range c.passed[i]() {
			body, own := p.Body(), len(p.Values("Via")) == 1
			switch {
			case p.Method() != "INVITE" || len(body) == 0:
			case p.toPhone && p.Status() == 0 && own: // the edge refreshes
				if invites++; !bytes.Equal(body, got) {
					c.t.Errorf("%s was refreshed with\n%s\nand had\n%s", name, body, got)
				}
			case p.toPhone:
				got = body
			case p.Status() == 200 && p.CSeq() > 0 && bytes.Equal(unversioned(body), unversioned(gave)):
			case p.Status() == 200 && own && c.isRefresh(i, p):
				c.t.Errorf("%s answered a refresh with\n%s\nbefore that it was\n%s", name, body, gave)
			default:
				gave = body
			}
		}
		if invites == 0 {
			c.t.Errorf("%s got no re-INVITE", name)
		}
	}
}

// isRefresh tells whether a response is to a request of the edge itself.
func (c *softCall) isRefresh(i int, res passage) bool {
	for _, p := range c.passed[i]() {
		if p.toPhone && p.Status() == 0 && p.Get("CSeq") == res.Get("CSeq") && p.Tag("From") == res.Tag("From") {
			return len(p.Values("Via")) == 1
		}
	}
	return false
}

var originLine = regexp.MustCompile(`(?m)^o=.*\r\n`)

func unversioned(sdp []byte) []byte { return originLine.ReplaceAll(sdp, nil) }

// TestG52BaresipIsRefreshedUnnoticed: a call of two real phones is refreshed a hundred times. Its
// RTP goes on without a lost packet, a new source or a jump of its clock; hold and resume work in
// between, and a phone hangs up. baresip knows no session timer: the relay in front of the caller
// says that it does. Without UPDATE in Allow it is refreshed by re-INVITE; where Allow promises
// an UPDATE that the phone then refuses, the edge asks by another method.
func TestG52BaresipIsRefreshedUnnoticed(t *testing.T) {
	need(t, "baresip")
	t.Parallel()
	for _, test := range []struct {
		name                string
		allow               func(string) string
		talk, held, resumed int
		hangsUp             string
	}{
		{"by re-INVITE", func(l string) string { return strings.ReplaceAll(l, ",UPDATE", "") }, 40, 10, 15, "callee"},
		{"by UPDATE if it takes that", func(l string) string { return strings.ReplaceAll(l, ",UPDATE", "") + ",UPDATE" }, 15, 5, 5, "caller"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newSoftCall(t, test.allow)
			c.flows()
			c.refreshed(test.talk)
			c.flows()
			for i, name := range []string{"alice", "bob"} {
				if packets, sources, gaps, jumps := c.media.heard(i); sources != 1 || gaps != 0 || jumps != 0 {
					t.Errorf("the RTP of %s: %d packets, %d sources, %d gaps, %d jumps", name, packets, sources, gaps, jumps)
				}
			}
			c.refreshed(1) // so that the next is half a second away
			c.alice.command("hold", "")
			c.holds("sendonly")
			c.refreshed(test.held)
			c.alice.command("resume", "")
			c.holds("sendrecv")
			c.flows()
			c.refreshed(test.resumed)
			c.flows()
			for i, name := range []string{"alice", "bob"} {
				if packets, sources, gaps, _ := c.media.heard(i); sources != 1 || gaps != 0 {
					t.Errorf("the RTP of %s after hold and resume: %d packets, %d sources, %d gaps", name, packets, sources, gaps)
				}
			}
			if n := statsOf(t, c.edge).Concurrent; n != 1 {
				t.Errorf("%d calls before the end", n)
			}
			if test.hangsUp == "callee" {
				c.bob.command("hangup", "")
			} else {
				c.alice.command("hangup", "")
			}
			c.alice.await("CALL_CLOSED")
			c.bob.await("CALL_CLOSED")
			if test.hangsUp == "callee" {
				c.unchanged()
			}
			until(t, "the edge's end of the call", func() bool { return statsOf(t, c.edge).Ended["bye"] == 1 })
			t.Logf("probes: %v", statsOf(t, c.edge).Probes)
		})
	}
}
