//go:build linux

package bench

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

// How many calls are held, and how fast they are placed: two probes for each have to
// stay below probe_rate_max. The environment may say otherwise, for a quick look.
var (
	heldCalls = number("SIPWARD_BENCH_CALLS", 100000)
	placeRate = number("SIPWARD_BENCH_RATE", 900)
	shortRate = number("SIPWARD_BENCH_SHORT", 1000)
	interval  = time.Duration(number("SIPWARD_BENCH_INTERVAL", 300)) * time.Second
)

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

const sdp = "v=0\r\no=- 3724394400 3724394400 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\n" +
	"m=audio 40376 RTP/AVP 8 0 18 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:18 G729/8000\r\n" +
	"a=fmtp:18 annexb=no\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\na=sendrecv\r\n"

// parties are the caller and the callee of all calls, one socket each. They follow
// RFC 3261 as far as a loopback without loss needs it.
type parties struct {
	t              *testing.T
	caller, callee *net.UDPConn
	edge           netip.AddrPort
	allow          string

	invited  []int64 // ns of the INVITE, by number
	answered []int64 // ns of its 200
	asked    []int64 // ns of the first probe of the callee
	trying   []int64 // ns from INVITE to 100
	probes   atomic.Int64
	oks      atomic.Int64
	byes     atomic.Int64
	odd      atomic.Int64
	running  sync.WaitGroup
}

func newParties(t *testing.T, allow string, calls int) *parties {
	p := &parties{t: t, allow: allow}
	for _, c := range []**net.UDPConn{&p.caller, &p.callee} {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadBuffer(16 << 20); err != nil {
			t.Fatal(err)
		}
		*c = conn
	}
	p.invited, p.answered = make([]int64, calls), make([]int64, calls)
	p.asked, p.trying = make([]int64, calls), make([]int64, calls)
	return p
}

func (p *parties) serve() {
	p.running.Go(func() { p.read(p.caller, p.atCaller) }) // both end with stop
	p.running.Go(func() { p.read(p.callee, p.atCallee) })
}

func (p *parties) stop() {
	_ = p.caller.Close()
	_ = p.callee.Close()
	p.running.Wait()
}

func (p *parties) read(c *net.UDPConn, handle func(m *siptest.Message)) {
	buf := make([]byte, 65536)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		handle(&siptest.Message{Data: buf[:n]})
	}
}

func (p *parties) send(c *net.UDPConn, b []byte) {
	if _, err := c.WriteToUDPAddrPort(b, p.edge); err != nil {
		p.odd.Add(1)
	}
}

// place sends the INVITE of call n.
func (p *parties) place(n int) {
	at := p.caller.LocalAddr().String()
	p.invited[n] = time.Now().UnixNano()
	p.send(p.caller, fmt.Appendf(nil, "INVITE sip:+4930123456@pbx.example.org SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bK%dinv;rport\r\n"+
		"Max-Forwards: 70\r\nFrom: \"Alice\" <sip:alice@example.org>;tag=from%d\r\nTo: <sip:+4930123456@pbx.example.org>\r\n"+
		"Call-ID: %d@bench.example.org-0123456789\r\nCSeq: 1 INVITE\r\nContact: <sip:alice@%s>\r\n%sSupported: timer, replaces\r\n"+
		"User-Agent: bench 1.0\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%s", at, n, n, n, at, p.allow, len(sdp), sdp))
}

// request sends a request inside call n from the caller.
func (p *parties) request(n int, method string, cseq int, m *siptest.Message) {
	var route strings.Builder
	rr := m.Values("Record-Route")
	for _, v := range slices.Backward(rr) {
		route.WriteString("Route: " + v + "\r\n")
	}
	p.send(p.caller, fmt.Appendf(nil, "%s sip:pbx@%s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bK%d%s;rport\r\n%s"+
		"Max-Forwards: 70\r\nFrom: \"Alice\" <sip:alice@example.org>;tag=from%d\r\nTo: <sip:+4930123456@pbx.example.org>;tag=to%d\r\n"+
		"Call-ID: %d@bench.example.org-0123456789\r\nCSeq: %d %s\r\nContent-Length: 0\r\n\r\n",
		method, p.callee.LocalAddr(), p.caller.LocalAddr(), n, method, route.String(), n, n, n, cseq, method))
}

// callNumber is the call of a message.
func callNumber(m *siptest.Message) int {
	id, _, _ := strings.Cut(m.CallID(), "@")
	n, err := strconv.Atoi(id)
	if err != nil {
		return -1
	}
	return n
}

func (p *parties) atCaller(m *siptest.Message) {
	n := callNumber(m)
	if n < 0 || n >= len(p.invited) {
		p.odd.Add(1)
		return
	}
	now := time.Now().UnixNano()
	switch status := m.Status(); {
	case status == 0:
		p.reply(p.caller, m, "", "")
	case status == 100:
		if p.trying[n] == 0 {
			p.trying[n] = now - p.invited[n]
		}
	case status == 200 && strings.HasSuffix(m.Get("CSeq"), "INVITE"):
		p.request(n, "ACK", 1, m)
		if p.answered[n] == 0 {
			p.answered[n] = now
			p.oks.Add(1)
			if n >= heldCalls { // a short one
				p.request(n, "BYE", 2, m)
			}
		}
	case status == 200:
		p.byes.Add(1)
	default:
		p.odd.Add(1)
	}
}

func (p *parties) atCallee(m *siptest.Message) {
	n := callNumber(m)
	switch m.Method() {
	case "INVITE":
		p.reply(p.callee, m, ";tag=to"+strconv.Itoa(n), sdp)
	case "ACK":
	case "UPDATE", "BYE", "OPTIONS":
		if m.Method() == "UPDATE" && n >= 0 && n < len(p.asked) && p.asked[n] == 0 {
			p.asked[n] = time.Now().UnixNano()
		}
		p.reply(p.callee, m, "", "")
	default:
		if m.Method() != "" && m.Status() == 0 && n < 0 { // a health probe
			p.reply(p.callee, m, ";tag=x", "")
		}
	}
}

// reply answers a request with 200.
func (p *parties) reply(c *net.UDPConn, m *siptest.Message, tag, body string) {
	if m.Method() == "UPDATE" {
		p.probes.Add(1)
	}
	var b bytes.Buffer
	b.WriteString("SIP/2.0 200 OK\r\n")
	for _, line := range m.HeaderLines() {
		name, _, _ := strings.Cut(line, ":")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "via", "record-route", "from", "call-id", "cseq":
			b.WriteString(line + "\r\n")
		case "to":
			b.WriteString(line + tag + "\r\n")
		}
	}
	if m.Method() == "INVITE" || m.Method() == "UPDATE" {
		fmt.Fprintf(&b, "Contact: <sip:party@%s>\r\n%sSupported: timer\r\n", c.LocalAddr(), p.allow)
		if v := m.Get("Session-Expires"); v != "" {
			if !strings.Contains(v, "refresher") {
				v += ";refresher=uac"
			}
			fmt.Fprintf(&b, "Session-Expires: %s\r\nRequire: timer\r\n", v)
		}
	}
	if body != "" {
		b.WriteString("Content-Type: application/sdp\r\n")
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	p.send(c, b.Bytes())
}

// pace calls f n times at a rate.
func pace(rate, n int, f func(i int)) {
	began := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for i := 0; i < n; {
		<-tick.C
		for due := int(time.Since(began).Seconds() * float64(rate)); i < min(due, n); i++ {
			f(i)
		}
	}
}

// process reads CPU seconds and resident bytes of a process.
func process(t *testing.T, pid int) (cpu float64, rss int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	u, _ := strconv.Atoi(f[11])
	s, _ := strconv.Atoi(f[12])
	pages, _ := strconv.Atoi(f[21])
	return float64(u+s) / 100, pages * os.Getpagesize()
}

func percentile(v []int64, p float64) time.Duration {
	v = slices.DeleteFunc(slices.Clone(v), func(x int64) bool { return x == 0 })
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return time.Duration(v[min(int(float64(len(v))*p), len(v)-1)])
}

// TestHeldCalls holds calls and reports what the figures ask for: the CPU of
// probing them, the error of the probes' time, and the time from INVITE to 100 of
// other calls beside them.
func TestHeldCalls(t *testing.T) {
	if os.Getenv("SIPWARD_BENCH") == "" {
		t.Skip("takes minutes; set SIPWARD_BENCH")
	}
	const shortSeconds = 10
	shorts := shortRate * shortSeconds
	p := newParties(t, "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO, REFER, NOTIFY\r\n", heldCalls+2*shorts)
	edge := siptest.StartEdge(t, fmt.Sprintf("lab: yes\nlisten: [\"udp:127.0.0.1:0\"]\nlog: { level: error }\n"+
		"timers: { session_ttl: %d, probe_jitter: 0, min_se: 90 }\nsecurity: { loop_enable: no, kernel_offload: off }\nlimits: { max_transactions: 1000000, max_dialogs: 300000 }\n"+
		"pools: { pbx: { probe: { interval: 0 }, backends: [ { name: pbx, address: \"sip:%s\" } ] } }\n",
		2*int(interval/time.Second), p.callee.LocalAddr()))
	p.edge = listening(t, edge)
	p.serve()
	defer p.stop()

	placeShorts := func(from int) time.Duration {
		pace(shortRate, shorts, func(i int) { p.place(heldCalls + from + i) })
		return percentile(p.trying[heldCalls+from:heldCalls+from+shorts], 0.99)
	}
	without := placeShorts(0)
	_, rss0 := process(t, edge.PID())

	began := time.Now()
	pace(placeRate, heldCalls, p.place)
	t.Logf("placed %d calls in %v, %d answered", heldCalls, time.Since(began).Round(time.Second), p.oks.Load())
	with := placeShorts(shorts)
	_, rss := process(t, edge.PID())
	t.Logf("resident %d MiB before, %d MiB with %d calls", rss0>>20, rss>>20, heldCalls)

	// From the first probe on, for half an interval.
	wait(began.Add(interval))
	cpu0, _ := process(t, edge.PID())
	probed, since := p.probes.Load(), time.Now()
	wait(began.Add(interval + interval/4))
	cpu1, _ := process(t, edge.PID())
	took := time.Since(since).Seconds()
	rate := float64(p.probes.Load()-probed) / took
	t.Logf("%.0f probes/s cost %.1f %% of a core", rate, 100*(cpu1-cpu0)/took)
	// All calls at 2 probes an interval cost in proportion.
	steady := 2 * float64(heldCalls) / interval.Seconds()
	t.Logf("%d calls probed every %v: %.0f probes/s, %.1f %% of a core", heldCalls, interval, steady, 100*(cpu1-cpu0)/took*steady/rate)

	var late []int64
	for n := range heldCalls {
		if p.asked[n] != 0 {
			late = append(late, max(p.asked[n]-p.answered[n]-int64(interval), 1))
		}
	}
	t.Logf("timer error over %d probes: p50 %v, p99 %v", len(late), percentile(late, 0.5), percentile(late, 0.99))
	t.Logf("INVITE to 100, p99 at %d calls/s: %v without, %v with %d calls held", shortRate, without, with, heldCalls)
	t.Logf("%d answered, %d BYEs answered, %d odd messages", p.oks.Load(), p.byes.Load(), p.odd.Load())
	if got := int(p.oks.Load()); got != heldCalls+2*shorts {
		t.Errorf("%d of %d calls were answered", got, heldCalls+2*shorts)
	}
	if e := percentile(late, 0.99); e > 2*time.Second {
		t.Errorf("timer error p99 %v", e)
	}
}

func wait(until time.Time) { <-time.After(time.Until(until)) }

// listening finds the address that the edge was given.
func listening(t *testing.T, e *siptest.Edge) netip.AddrPort {
	t.Helper()
	for _, line := range e.Lines() {
		if _, rest, ok := strings.Cut(line, "address=udp:"); ok {
			text, _, _ := strings.Cut(rest, " ")
			if a, err := netip.ParseAddrPort(strings.Trim(text, "\"")); err == nil {
				return a
			}
		}
	}
	t.Fatalf("no listening line in:\n%s", e.Output())
	return netip.AddrPort{}
}
