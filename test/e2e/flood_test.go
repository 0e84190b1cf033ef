package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/sipward/sipward/test/siptest"
)

// number is a setting of the environment, for runs by hand.
func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	if siptest.Race {
		otherwise /= 5
	}
	return otherwise
}

// A spoofer sends each of its datagrams with a source address of its own in 127.0.0.0/8, as whoever
// forges addresses does.
type spoofer struct {
	udp   *net.UDPConn
	out   *ipv4.PacketConn
	batch []ipv4.Message
	marks [][]int // where the number of each message of the batch stands in it
	from  int     // where its source address stands in its control message
	sent  int
}

const (
	spoofBatch = 64
	mark       = "##########" // is replaced by a number of as many digits
	// The addresses are 127.16.0.0 to 127.255.255.255: whoever else takes part is below.
	firstSpoofed = 127<<24 + 16<<16
	mostSpoofed  = 240 << 16
)

// newSpoofer makes one that aims at an edge with what phones send: each message is a request of its
// own, with a User-Agent that nobody blocks.
func newSpoofer(t *testing.T, to netip.AddrPort) *spoofer {
	t.Helper()
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = udp.Close() }) // what it still had to read is of no interest
	address := net.IPv4(127, 16, 32, 64).To4()
	control := (&ipv4.ControlMessage{Src: address}).Marshal()
	s := &spoofer{udp: udp, out: ipv4.NewPacketConn(udp), from: bytes.Index(control, address)}
	via := siptest.URI("", netip.AddrPortFrom(siptest.Loopback, uint16(udp.LocalAddr().(*net.UDPAddr).Port)), "udp")
	via, _, _ = strings.Cut(strings.TrimPrefix(via, "sip:"), ";")
	for i := range spoofBatch {
		method := []string{"REGISTER", "INVITE", "OPTIONS", "MESSAGE"}[i%4]
		text := siptest.Request(method, "sip:n"+mark+"@"+domain).Prepend("Via", "SIP/2.0/UDP "+via+";branch=z9hG4bK"+mark).
			Set("From", "<sip:f"+mark+"@"+domain+">;tag=t"+mark).Set("Call-ID", "flood"+mark).
			Add("Contact", "<sip:f"+mark+"@"+via+">").Add("User-Agent", "Yealink SIP-T46S 66.85.0.5").Bytes()
		var marks []int
		for at := 0; ; {
			i := bytes.Index(text[at:], []byte(mark))
			if i < 0 {
				break
			}
			at += i + len(mark)
			marks = append(marks, at-len(mark))
		}
		s.marks = append(s.marks, marks)
		s.batch = append(s.batch, ipv4.Message{Buffers: [][]byte{text}, OOB: bytes.Clone(control), Addr: net.UDPAddrFromAddrPort(to)})
	}
	return s
}

// send sends so many messages, each from the next address.
func (s *spoofer) send(n int) error {
	var digits [len(mark)]byte
	for n > 0 {
		batch := s.batch[:min(n, spoofBatch)]
		for i := range batch {
			binary.BigEndian.PutUint32(batch[i].OOB[s.from:], firstSpoofed+uint32(s.sent%mostSpoofed))
			for at, rest := len(digits)-1, s.sent; at >= 0; at, rest = at-1, rest/10 {
				digits[at] = '0' + byte(rest%10)
			}
			for _, at := range s.marks[i] {
				copy(batch[i].Buffers[0][at:], digits[:])
			}
			s.sent++
		}
		n -= len(batch)
		for len(batch) > 0 {
			sent, err := s.out.WriteBatch(batch, 0)
			if err != nil {
				return err
			}
			batch = batch[sent:]
		}
	}
	return nil
}

// flood sends total messages at a rate per second, or as fast as it can where that is slower.
func (s *spoofer) flood(ctx context.Context, total, rate int) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); s.sent < total; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		due := min(int(time.Since(began).Seconds()*float64(rate)), total)
		if err := s.send(min(due-s.sent, rate/50)); err != nil {
			return err
		}
	}
	return nil
}

// resident is the memory of a process in MB, now and at its most.
func resident(t *testing.T, pid int) (now, most int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for what, to := range map[string]*int{"VmRSS": &now, "VmHWM": &most} {
		found := regexp.MustCompile(what + `:\s+(\d+) kB`).FindSubmatch(status)
		if found == nil {
			t.Fatalf("no %s", what)
		}
		kB, _ := strconv.Atoi(string(found[1])) // digits
		*to = kB / 1024
	}
	return now, most
}

// TestFloodFromForgedAddresses: hundreds of thousands of addresses, a message each. The memory of
// the edge stays bounded, the log grows by lines that count, not by the flood, a source that
// really floods amid all that is banned with its 51st message, the calls of a known and of a trusted
// address do not fail, and a telephone that nobody knows registers all the same.
func TestFloodFromForgedAddresses(t *testing.T) {
	const callRate = 10
	sources, rate := number("SIPWARD_FLOOD_SOURCES", 200000), number("SIPWARD_FLOOD_RATE", 30000)
	attacker, known, trusted := netip.MustParseAddr("127.9.9.9"), phoneA, netip.MustParseAddr("127.1.1.1")
	node := newAnswerer(t, "one", nodeA)
	addr := fortPort(t, fortAddr)
	security := strangers + "trusted: [127.1.1.0/24]"
	if siptest.Race { // which makes a new request ten times as costly
		security += ", dos_new_sources_per_second: 100"
	}
	edge := siptest.StartEdge(t, settings{
		listen: []string{"udp:" + addr.String()}, backends: []string{node.URI()}, security: security,
	}.yaml())
	h := &hop{network: "udp", addr: addr, edge: edge}

	// The known address has a telephone with a right password.
	h.caller = h.dial(t, known)
	register := h.begin0(t, "REGISTER")
	register.req.Add("Authorization", `Digest username="alice", realm="pbx", nonce="n", uri="sip:x", response="00"`)
	register.send(register.req)
	register.callerGets(200, "REGISTER")
	if x := explain(t, edge, known.String()); !x.Known {
		t.Fatalf("explained: %+v", x)
	}
	before, _ := resident(t, edge.PID())

	took := time.Duration(sources/rate) * time.Second
	ctx := within(t, 3*took+60*time.Second)
	flooding, ended := context.WithCancel(ctx)
	defer ended()
	var running sync.WaitGroup
	loads := map[string]*siptest.Load{
		"known": {Target: addr, Local: known, Rate: callRate, Hold: 300 * time.Millisecond}, "trusted": {Target: addr, Local: trusted, Rate: callRate, Hold: 300 * time.Millisecond},
	}
	for name, load := range loads {
		running.Go(func() {
			calls, err := load.Run(flooding)
			failed, again := 0, 0
			for _, c := range calls {
				again += c.Resent
				if c.Status != 200 || c.ByeCode != 200 {
					failed++
				}
			}
			if err != nil || failed > 0 || len(calls) < callRate {
				t.Errorf("%d of %d calls from the %s address failed, %v", failed, len(calls), name, err)
			}
			t.Logf("%d calls from the %s address, %d requests sent again", len(calls), name, again)
		})
	}
	evil := newCrowd(t, h.dial(t, attacker))
	running.Go(func() {
		tick := time.NewTicker(time.Second / 40)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				evil.burst(1)
			case <-flooding.Done():
				return
			}
		}
	})
	s := newSpoofer(t, addr)
	still := siptest.WatchStillness(t)
	began := time.Now()
	running.Go(func() {
		defer ended()
		if err := s.flood(ctx, sources, rate); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	// Somebody new, amid the flood: his first request may be dropped, its repetition is not.
	until(t, "first messages are dropped", func() bool { return securityStats(t, edge).Dropped["new_sources"] > 0 })
	phone := newPhone(t, siptest.PhoneOptions{User: "carol", Address: phoneC, Proxy: addr})
	if a, err := phone.Register(within(t, time.Minute), ""); err != nil || a.Status != 200 {
		t.Errorf("a new phone registers amid the flood: %+v, %v", a, err)
	} else {
		t.Logf("a new phone registered within %s", a.Took.Round(time.Millisecond))
	}
	running.Wait()
	lasted := time.Since(began)
	after, most := resident(t, edge.PID())
	t.Logf("%d messages of as many addresses in %s: %.0f per second", s.sent, lasted.Round(time.Millisecond), float64(s.sent)/lasted.Seconds())
	t.Logf("memory before %d MB, after %d MB, most %d MB", before, after, most)
	if !siptest.Race && most-before > 200 {
		t.Errorf("memory grew by %d MB", most-before)
	}

	l := bans(t, edge)
	if len(l) != 1 || l[0].Key != attacker.String() || l[0].Count != 51 {
		t.Fatalf("bans %+v, want the attacker's alone", l)
	}
	if late := l[0].Since.Sub(began) - still.Between(began, l[0].Since); late > 4*time.Second {
		t.Errorf("the attacker was banned after %s", late)
	}
	stats := securityStats(t, edge)
	t.Logf("stopped %v, tracked %d", stats.Dropped, stats.Tracked)
	seen := node.Count("REGISTER") + node.Count("OPTIONS") + node.Count("MESSAGE")
	lines, flood, sums := edge.Lines(), 0, 0
	for _, line := range lines {
		if strings.Contains(line, "ID=flood") {
			flood++
		}
		if strings.Contains(line, "messages stopped in the last 10 s") {
			sums++
		}
	}
	t.Logf("%d lines of the log speak of single messages of the flood, %d sum it up; the node saw %d of them", flood, sums, seen)
	// What passes until the flood is seen to be one is a thousand messages in each of the two seconds
	// that it may begin in, each with five lines at most.
	if flood > 12000 || seen > 3000 || sums > int(lasted/(10*time.Second))+1 || len(linesWith(edge, "is blocked and banned")) != 1 {
		t.Errorf("%d lines, %d sums, %d messages seen", flood, sums, seen)
	}
	if stats.Tracked > 1000000 {
		t.Errorf("%d sources are tracked", stats.Tracked)
	}

	// It is over: the first message of a stranger passes again.
	until(t, "strangers are served at once", func() bool {
		y := h.by(h.dial(t, netip.AddrFrom4([4]byte{127, 2, byte(time.Now().UnixNano() >> 20), byte(time.Now().UnixNano() >> 12)}))).begin0(t, "OPTIONS")
		y.send(y.req)
		m, err := y.atCaller.Next(time.Second)
		return err == nil && m.Status() == 200
	})
}

// begin0 is begin for a hop whose node is no Raw.
func (h *hop) begin0(t *testing.T, method string) *exchange {
	t.Helper()
	x := &exchange{hop: h, t: t, req: h.caller.Request(method, "sip:bob@"+domain)}
	x.atCaller = h.caller.Box(x.req.CallID())
	return x
}
