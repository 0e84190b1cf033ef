package proxy

import (
	"context"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// A loadLab plays calls through an edge without readers: messages are handed to
// Receive, what the edge sends goes over the loopback and is read here, without
// allocations.
type loadLab struct {
	*lab
	fromPhone, fromPBX transport.Packet
	in, out            []byte // a message being made, a message that was read
	kept               []byte // what msg was scanned from
	msg                wire.Msg
	n                  int
}

func newLoadLab(tb testing.TB) *loadLab {
	l := newLab(tb, 1, nil)
	tb.Cleanup(func() {
		if err := l.e.Stop(context.Background()); err != nil {
			tb.Error(err)
		}
		_ = l.e.log.Close()
	})
	l.log.discard = true // its memory is not the edge's
	u := l.e.net.Listeners()[0]
	return &loadLab{
		lab: l, out: make([]byte, 65536), in: make([]byte, 0, 4096),
		fromPhone: transport.Packet{Flow: u.FlowTo(l.phone.addr)}, fromPBX: transport.Packet{Flow: u.FlowTo(l.pbx[0].addr)},
	}
}

// read takes the next datagram of a peer.
func (l *loadLab) read(p *peer) []byte {
	n := 0
	var err error
	for range 100 {
		n, err = unix.Read(p.fd, l.out)
		if n > 0 {
			return l.out[:n]
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, 100)
	}
	l.Fatal("nothing to read", err, l.e.Counters())
	return nil
}

// take reads a message into l.msg.
func (l *loadLab) take(p *peer) {
	l.kept = append(l.kept[:0], l.read(p)...)
	l.msg.Scan(l.kept, false)
}

const sdp = "v=0\r\no=- 3901 3901 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\nm=audio 40000 RTP/AVP 8 0 101\r\n" +
	"a=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\na=sendrecv\r\n"

// request makes a request with 15 header lines. via is the branch, route lines end with CRLF.
func (l *loadLab) request(method string, cseq int, branch string, uri, toTag, route []byte, body string) {
	b := l.in[:0]
	b = append(append(append(b, method...), ' '), uri...)
	b = append(b, " SIP/2.0\r\nVia: SIP/2.0/UDP "...)
	b = l.phone.addr.AppendTo(b)
	b = append(append(append(b, ";rport;branch=z9hG4bK-"...), branch...), '-')
	b = appendUint(b, uint64(l.n))
	b = append(append(b, "\r\n"...), route...)
	b = append(b, "Max-Forwards: 70\r\nFrom: \"Alice Example\" <sip:alice@example.org>;tag=from"...)
	b = appendUint(b, uint64(l.n))
	b = append(append(b, "\r\nTo: <sip:bob@example.org>"...), toTag...)
	b = append(b, "\r\nCall-ID: 3848276298220188511-"...)
	b = append(appendUint(b, uint64(l.n)), "@alice.example.org\r\nCSeq: "...)
	b = append(append(append(appendUint(b, uint64(cseq)), ' '), method...), "\r\nContact: <sip:alice@192.0.2.10:5060>\r\nAllow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, MESSAGE, INFO\r\n"...)
	b = append(b, "Supported: replaces, timer, path\r\nUser-Agent: SIP Phone 1.2.3 (build 4567)\r\nSession-Expires: 1800\r\nMin-SE: 90\r\nAllow-Events: talk, hold\r\nContent-Type: application/sdp\r\nContent-Length: "...)
	b = append(append(appendUint(b, uint64(len(body))), "\r\n\r\n"...), body...)
	l.in, l.fromPhone.Data = b, b
	l.e.Receive(&l.fromPhone)
}

// answer makes a response to the request in l.msg, with as many header lines.
func (l *loadLab) answer(status, tag, body string) {
	m := &l.msg
	b := append(append(append(l.in[:0], "SIP/2.0 "...), status...), "\r\n"...)
	for i := range m.Headers {
		switch h := &m.Headers[i]; h.Kind {
		case wire.KindVia, wire.KindRecordRoute, wire.KindFrom, wire.KindCallID, wire.KindCSeq:
			b = append(b, m.Bytes(h.Line)...)
		case wire.KindTo:
			line := m.Bytes(h.Line)
			b = append(append(append(b, line[:len(line)-2]...), tag...), "\r\n"...)
		}
	}
	b = append(b, "Contact: <sip:bob@"...)
	b = l.pbx[0].addr.AppendTo(b)
	b = append(b, ">\r\nAllow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, MESSAGE, INFO\r\nSupported: replaces, timer\r\nServer: PBX 1.2.3\r\nSession-Expires: 1800;refresher=uac\r\nRequire: timer\r\nContent-Type: application/sdp\r\nContent-Length: "...)
	b = append(append(appendUint(b, uint64(len(body))), "\r\n\r\n"...), body...)
	l.in, l.fromPBX.Data = b, b
	l.e.Receive(&l.fromPBX)
}

// call is INVITE, 100, 180, 200, ACK, BYE, 200: 14 messages in or out.
func (l *loadLab) call(route []byte, uri []byte) []byte {
	l.n++
	l.request("INVITE", 1, "invite", []byte("sip:bob@example.org"), nil, nil, sdp)
	l.read(l.phone) // the 100 of the edge
	l.take(l.pbx[0])
	l.answer("100 Trying", "", "")
	l.answer("180 Ringing", ";tag=to", "")
	l.read(l.phone)
	l.answer("200 OK", ";tag=to", sdp)
	l.take(l.phone)
	rr := l.msg.Headers[l.msg.First(wire.KindRecordRoute)].Value
	route = append(append(append(route[:0], "Route: "...), l.msg.Bytes(rr)...), "\r\n"...)
	l.request("ACK", 1, "ack", uri, []byte(";tag=to"), route, "")
	l.read(l.pbx[0])
	l.request("BYE", 2, "bye", uri, []byte(";tag=to"), route, "")
	l.take(l.pbx[0])
	l.answer("200 OK", "", "")
	l.read(l.phone)
	return route
}

// BenchmarkCall is the whole way of one call through the edge, from the bytes of a
// datagram to the system call that sends one, with its log lines. The bar of the core
// alone is 40 allocations and 8 kB; the dialog, and here the SDP of both legs, come on
// top. The sockets are the loopback's: the calls of the peers are in the time, but they
// do not allocate.
func BenchmarkCall(b *testing.B) {
	l := newLoadLab(b)
	route, uri := make([]byte, 0, 256), []byte("sip:bob@"+l.pbx[0].addr.String())
	route = l.call(route, uri)
	if c := l.e.Counters(); c.Panics != 0 || c.Forwarded != 3 || c.Responses != 4 {
		b.Fatalf("no proper call: %+v", c)
	}
	b.ReportAllocs()
	for b.Loop() {
		route = l.call(route, uri)
		if l.n%1000 == 0 { // else the benchmark measures the growth of the table
			b.StopTimer()
			l.forgetAll()
			b.StartTimer()
		}
	}
}

func (l *loadLab) forgetAll() {
	l.e.table.All(func(t transactor) bool {
		c := t.(*responseContext)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.forgetLocked()
		return true
	})
}

// A call may hold 5 kB between its end and the end of its transactions, 32 s later.
func TestMemoryHeldPerRecentCall(t *testing.T) {
	if raceEnabled || testing.Short() {
		t.Skip("measures the heap")
	}
	l := newLoadLab(t)
	route, uri := make([]byte, 0, 256), []byte("sip:bob@"+l.pbx[0].addr.String())
	for range 100 {
		route = l.call(route, uri)
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const calls = 20000
	before := heap()
	for range calls {
		route = l.call(route, uri)
	}
	after := heap()
	c := l.e.Counters()
	if c.Transactions != 2*calls+200 || c.Panics != 0 {
		t.Fatalf("%+v", c)
	}
	per := float64(int64(after)-int64(before)) / calls
	t.Logf("%.0f bytes per recent call", per)
	if per > 5000 {
		t.Errorf("%.0f bytes are held per recent call, at most 5000 are allowed", per)
	}
}
