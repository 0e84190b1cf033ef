package proxy

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/eventlog"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// A lab is an edge with real sockets and no readers: the test hands every message
// to Receive itself and looks into the sockets of the peers afterwards. All of it
// runs in a synctest bubble, so that the wheel's clock is the test's.
type lab struct {
	testing.TB
	e   *Edge
	log *logLines
	// pbx are the backends of the pool "pbx", phone is an outside party.
	pbx   []*peer
	phone *peer
	// faulty: what is sent is not sound, so the copied parts of a response need not be.
	// relays: a response may carry what a backend wrote for others.
	faulty, relays bool
	// isInBubble: made by inLab. inRealTime: made by started, so that a slow machine sees retransmissions.
	isInBubble, inRealTime bool
}

// inLab runs f with a lab of n backends in a bubble. change may alter the configuration.
func inLab(t *testing.T, n int, change func(*config.Config), f func(t *testing.T, l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, n, change)
		l.isInBubble = true
		ctx, cancel := context.WithCancel(t.Context())
		l.e.running.Go(func() { l.e.wheel.Run(ctx) })
		l.e.stopTime = cancel
		defer func() {
			if err := l.e.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			if err := l.e.log.Close(); err != nil {
				t.Error(err)
			}
		}()
		f(t, l)
	})
}

// newLab makes an edge with one UDP listener that neither reads nor keeps time.
func newLab(tb testing.TB, n int, change func(*config.Config)) *lab {
	tb.Helper()
	l := &lab{TB: tb, log: &logLines{}}
	c := testConfig("udp:127.0.0.1:0")
	pool := config.DefaultPool()
	pool.Probe.Interval, pool.SlowStart = 0, 0
	for i := range n {
		p := l.newPeer(fmt.Sprintf("PBX%d", i+1))
		l.pbx = append(l.pbx, p)
		b := config.DefaultBackend()
		b.Name, b.Address, b.Priority = fmt.Sprintf("pbx%d", i+1), "sip:"+p.addr.String(), i
		pool.Backends = append(pool.Backends, b)
	}
	pool.Policy = "priority" // the order of the list
	c.Pools = map[string]config.Pool{"pbx": pool}
	if change != nil {
		change(c)
	}
	l.phone = l.newPeer("PHONE")
	l.e = newEdge(tb, c, l.log)
	return l
}

// pass lets the bubble's clock run, and all be done that is due by then: the wheel's goroutine
// may be in the middle of it when a message that it has sent is there already.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func newEdge(tb testing.TB, c *config.Config, w *logLines) *Edge {
	tb.Helper()
	log, err := eventlog.Open(c.Log, eventlog.Options{Host: "host", PID: 1, Stdout: w})
	if err != nil {
		tb.Fatal(err)
	}
	e, err := New(c, log, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

func testConfig(listen ...string) *config.Config {
	c := config.Default()
	c.Listen = nil
	for _, a := range listen {
		proto, bind, _ := strings.Cut(a, ":")
		c.Listen = append(c.Listen, config.Listener{Address: a, Proto: proto, Bind: netip.MustParseAddrPort(bind)})
	}
	c.Limits.ReceiveBuffer = 1 << 16
	c.Security.LoopEnable = config.Off // tests place the same call again and again
	c.Security.KernelOffload = "off"
	c.Resolver.HostsFile = ""
	c.Resolver.Servers = []string{"127.0.0.1:9"}
	return c
}

// edge is the address of the first listener.
func (l *lab) edge() netip.AddrPort { return l.e.Listeners()[0].Bound }

// logLines collects what is logged.
type logLines struct {
	discard bool
	mu      sync.Mutex
	b       bytes.Buffer
}

func (w *logLines) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.discard {
		return len(p), nil
	}
	return w.b.Write(p)
}

func (w *logLines) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// lines flushes the log and returns those that contain a text.
func (l *lab) lines(text string) (all []string) {
	l.e.log.Flush()
	for line := range strings.Lines(l.log.text()) {
		if strings.Contains(line, text) {
			all = append(all, line)
		}
	}
	return all
}

// A peer is a UDP socket of somebody who talks to the edge.
type peer struct {
	lab  *lab
	name string
	conn *net.UDPConn
	fd   int // of conn, which lives as long as the test
	buf  []byte
	addr netip.AddrPort
	seen map[string]bool // what it got in real time
}

func (l *lab) newPeer(name string) *peer {
	l.Helper()
	return l.newPeerAt(name, "127.0.0.1:0")
}

func (l *lab) newPeerAt(name, at string) *peer {
	l.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at)))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = conn.Close() })
	raw, err := conn.SyscallConn()
	if err != nil {
		l.Fatal(err)
	}
	p := &peer{lab: l, name: name, conn: conn, addr: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
	if err := raw.Control(func(fd uintptr) { p.fd = int(fd) }); err != nil {
		l.Fatal(err)
	}
	return p
}

// sends hands a message of this peer to the edge. Lines may end with LF alone.
func (p *peer) sends(text string) { p.sendsAfter(text, 0) }

// flow is what this peer's messages come on: a backend's on the listener that faces it, if
// there is one.
func (p *peer) flow() transport.Flow {
	on := p.lab.e.net.Listeners()[0]
	for _, l := range p.lab.e.net.Listeners() {
		if l.Config().Side == config.SideInside && slices.Contains(p.lab.pbx, p) {
			on = l
		}
	}
	return on.FlowTo(p.addr)
}

// sendsRaw hands over bytes as they are.
func (p *peer) sendsRaw(b []byte) {
	p.lab.e.Receive(&transport.Packet{Flow: p.flow(), Data: b})
}

// sendsAfter is sends of a datagram that waited in the kernel's queue.
func (p *peer) sendsAfter(text string, waited time.Duration) {
	p.lab.Helper()
	p.lab.e.Receive(&transport.Packet{Flow: p.flow(), Data: []byte(crlf(text)), Waited: waited})
}

func crlf(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n")
}

// gets returns the oldest message that waits for this peer, nil when there is
// none. On the loopback a datagram is there when the send returns, or very soon
// after when the kernel has other work to do.
func (p *peer) gets() *wire.Msg { return p.getsWithin(3) }

// getsWithin is gets that waits for some milliseconds of real time. Copies of what came before
// are left out when the edge runs in real time, too: nobody knows how many it sends.
func (p *peer) getsWithin(ms int) *wire.Msg {
	p.lab.Helper()
	for {
		m := p.reads(ms)
		if m == nil || !p.lab.inRealTime {
			return m
		}
		if text := string(m.Buf); !p.seen[text] {
			if p.seen == nil {
				p.seen = make(map[string]bool)
			}
			p.seen[text] = true
			return m
		}
	}
}

// waitsFor tells whether a datagram is there within some milliseconds. A signal, such as those
// the runtime interrupts its threads with, is no reason to stop waiting.
func (p *peer) waitsFor(ms int) bool {
	for {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, ms)
		if err != unix.EINTR {
			return err == nil && ready > 0
		}
	}
}

// reads returns the next datagram.
func (p *peer) reads(ms int) *wire.Msg {
	p.lab.Helper()
	if !p.waitsFor(ms) {
		return nil
	}
	if p.buf == nil {
		p.buf = make([]byte, 65536)
	}
	n, _ := unix.Read(p.fd, p.buf)
	if n <= 0 {
		return nil
	}
	m := &wire.Msg{} // which may be kept for long
	f := m.Scan(bytes.Clone(p.buf[:n]), false)
	isRefusal := m.Status >= 400 && bytes.Index(m.Buf, []byte("\r\n\r\n")) == n-4
	if f != wire.NoFault && !(p.lab.faulty && isRefusal) && !(p.lab.relays && m.Status > 100) {
		p.lab.Errorf("%s was sent a broken message (%v): %s", p.name, f, m.Buf)
	}
	return m
}

// patience is for how many milliseconds a test waits for what must come.
const patience = 20000

// get is gets that must succeed: with a request of that method or a response with
// that status and method ("200 INVITE").
func (p *peer) get(what string) *wire.Msg {
	p.lab.Helper()
	m := p.getsWithin(patience)
	if got := title(m); got != what {
		p.lab.Fatalf("%s got %q, want %q", p.name, got, what)
	}
	return m
}

// skip reads what is there and forgets it.
func (p *peer) skip() {
	for p.gets() != nil {
	}
}

// nothing checks that nothing was sent to a peer.
func (p *peer) nothing() {
	p.lab.Helper()
	if m := p.gets(); m != nil {
		p.lab.Fatalf("%s got %q:\n%s", p.name, title(m), m.Buf)
	}
}

func title(m *wire.Msg) string {
	switch {
	case m == nil:
		return "nothing"
	case m.IsRequest():
		return string(m.Bytes(m.MethodName))
	}
	return fmt.Sprintf("%d %s", m.Status, m.Bytes(m.CSeqMethod))
}

// answers sends a response to a request that the peer got. tag goes into To, more
// lines (each with its end) before Content-Length.
func (p *peer) answers(req *wire.Msg, status int, tag string, more ...string) {
	p.lab.Helper()
	p.sends(response(req, status, tag, more...))
}

func response(req *wire.Msg, status int, tag string, more ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "SIP/2.0 %d Whatever\r\n", status)
	for _, h := range req.Headers {
		switch h.Kind {
		case wire.KindVia, wire.KindFrom, wire.KindCallID, wire.KindCSeq, wire.KindRecordRoute:
			b.Write(req.Bytes(h.Line))
		case wire.KindTo:
			line := strings.TrimSuffix(string(req.Bytes(h.Line)), "\r\n")
			if tag != "" && req.To.Tag.Empty() {
				line += ";tag=" + tag
			}
			b.WriteString(line + "\r\n")
		}
	}
	for _, m := range more {
		b.WriteString(m)
	}
	b.WriteString("Content-Length: 0\r\n\r\n")
	return b.String()
}

// A call makes the messages of one caller's dialog.
type call struct {
	id     string
	from   *peer
	cseq   int
	branch int
	via    string // parameters of Via besides the branch; "-" = none
	uri    string
	to     string // tag
	route  string // lines
	more   string // header lines
	body   string
}

var callNumber int

func (p *peer) call() *call {
	callNumber++
	return &call{id: fmt.Sprintf("call-%d", callNumber), from: p, cseq: 1, uri: "sip:bob@example.org", via: ";rport"}
}

// text builds a request. A new branch is drawn for each but ACK and CANCEL.
func (c *call) text(method string) string {
	if method != "ACK" && method != "CANCEL" {
		c.branch++
	}
	to := ""
	if c.to != "" {
		to = ";tag=" + c.to
	}
	return crlf(fmt.Sprintf("%s %s SIP/2.0\nVia: SIP/2.0/UDP %s;branch=z9hG4bK-%s-%d%s\n%sMax-Forwards: 70\nFrom: <sip:alice@example.org>;tag=a\nTo: <sip:bob@example.org>%s\nCall-ID: %s\nCSeq: %d %s\n%sContent-Length: %d\n\n%s",
		method, c.uri, c.from.addr, c.id, c.branch, c.via, c.route, to, c.id, c.cseq, method, c.more, len(c.body), c.body))
}

func (c *call) sends(method string) { c.from.lab.Helper(); c.from.sends(c.text(method)) }

// context finds the response context of the only transaction.
func (l *lab) context() *responseContext {
	l.Helper()
	var all []*responseContext
	l.e.table.All(func(t transactor) bool {
		if c, ok := t.(*responseContext); ok {
			all = append(all, c)
		}
		return true
	})
	if len(all) != 1 {
		l.Fatalf("%d contexts", len(all))
	}
	return all[0]
}

// atRest checks that nothing is left in any table.
func (l *lab) atRest() {
	l.Helper()
	if l.isInBubble {
		synctest.Wait()
	}
	c := l.e.Counters()
	if c.Transactions != 0 || c.Active != 0 || l.strayTimers() != 0 {
		l.Errorf("left over: %d transactions, %d active, %d timers", c.Transactions, c.Active, l.strayTimers())
	}
	for i := range l.e.onConn.on {
		l.Errorf("left over: transactions on connection %d", i)
	}
	if c.Panics != 0 {
		l.Errorf("%d panics:\n%s", c.Panics, strings.Join(l.lines("panic"), ""))
	}
}

// strayTimers is how many timers are armed besides the one of each answered call.
func (l *lab) strayTimers() int {
	n := l.e.Counters().Timers
	for _, c := range l.e.Calls(CallFilter{}) {
		if c.State == "ringing" {
			l.Errorf("left over: a call that rings: %+v", c)
		}
		n--
	}
	return n
}

// plain replaces what differs from run to run: branches and tokens of the edge,
// its tags, addresses of the peers.
func (l *lab) plain(b []byte) string {
	s := string(b)
	s = regexp.MustCompile(`z9hG4bK[A-Za-z0-9_-]{32}`).ReplaceAllStringFunc(s, func(v string) string {
		if _, ok := l.e.key.Parse([]byte(v)); ok {
			return "<branch>"
		}
		return v
	})
	s = regexp.MustCompile(`sips?:(sw-[A-Za-z0-9_-]{20,250})@`).ReplaceAllStringFunc(s, func(v string) string {
		scheme, user, _ := strings.Cut(strings.TrimSuffix(v, "@"), ":")
		if t, ok := l.e.tokens.parseFlow([]byte(user)); ok {
			return strings.TrimSuffix(fmt.Sprintf("%s:<flow %s %s", scheme, t.flow.Remote, t.contact), " ") + ">@"
		}
		if t, ok := l.e.tokens.parse([]byte(user)); ok {
			return fmt.Sprintf("%s:<token %s>@", scheme, [...]string{"", "outer", "inner"}[t.face])
		}
		return v
	})
	s = regexp.MustCompile(`swd[A-Za-z0-9_-]{11}`).ReplaceAllString(s, "<own tag>")
	s = regexp.MustCompile(`Retry-After: \d+`).ReplaceAllString(s, "Retry-After: <n>")
	names := map[string]netip.AddrPort{"PHONE": l.phone.addr}
	for i, x := range l.e.Listeners() {
		names[fmt.Sprintf("EDGE%d", i+1)] = x.Bound
	}
	for _, p := range l.pbx {
		names[p.name] = p.addr
	}
	for name, a := range names {
		s = strings.ReplaceAll(s, a.String(), name)
		s = regexp.MustCompile(fmt.Sprintf(`([:=])%d\b`, a.Port())).ReplaceAllString(s, "$1<port of "+name+">")
	}
	return strings.ReplaceAll(s, "\r\n", "\n")
}

// routeOf makes the caller's Route lines of the Record-Routes of a response.
func routeOf(m *wire.Msg) string {
	var lines []string
	for _, h := range m.Headers {
		if h.Kind == wire.KindRecordRoute {
			lines = append([]string{"Route: " + string(m.Bytes(h.Value)) + "\r\n"}, lines...)
		}
	}
	return strings.Join(lines, "")
}
