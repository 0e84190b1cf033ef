package proxy

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/security"
)

// Limits small enough for a fuzzer to reach them with one input.
const (
	fuzzSources = 64
	fuzzBans    = 16
	fuzzDensity = 10
)

func verdictLab(c *config.Config) {
	c.Limits.MaxSources, c.Limits.MaxBans = fuzzSources, fuzzBans
	c.Security.TrustLoopback = false
	c.Security.Trusted = []netip.Prefix{netip.MustParsePrefix("127.77.0.0/16"), netip.MustParsePrefix("2001:db8:77::/48")}
	c.Security.DoSReqsDensityPerUnit, c.Security.DoSKnownFactor = fuzzDensity, 2
	c.Security.DoSNewSourcesPerSecond = 0 // at the fuzzer's pace everybody is new
	c.Security.FailedAuthAttempts, c.Security.FailedAuthSourceAttempts, c.Security.EnumerationUsers = 2, 3, 2
	c.Security.LoopEnable = config.Enforce
}

// fuzzSource is one of few addresses of each kind, so that one of them is met again.
// No packet can leave this host: the listener is bound to 127.0.0.1.
func fuzzSource(n uint16, pbx netip.Addr, own netip.Addr) netip.Addr {
	low := byte(n>>3) & 15
	switch n & 7 {
	case 0:
		return netip.AddrFrom4([4]byte{127, 77, 0, low}) // trusted
	case 1:
		return pbx
	case 2:
		return own // the edge's
	case 3: // neighbours in two /64
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0x78, 0, low & 1, 15: low})
	case 4:
		return netip.AddrFrom16([16]byte{0xfe, 0x80, 15: low}).WithZone("lo")
	case 5:
		return netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff, 12: 127, 13: 66, 15: low}) // ::ffff:127.66.0.x
	}
	return netip.AddrFrom4([4]byte{127, 66, byte(n >> 7), low})
}

// FuzzDatagramToVerdict sends any bytes, several times, from any address, has the PBX
// answer what reaches it, and checks after every datagram what must hold whatever is
// sent.
func FuzzDatagramToVerdict(f *testing.F) {
	guess := "REGISTER sip:example.org SIP/2.0\nVia: SIP/2.0/UDP 127.9.9.9:%PORT%;received=127.9.9.9;maddr=127.9.9.9;branch=z9hG4bK%N%\nMax-Forwards: 9\nFrom: <sip:1000@example.org>;tag=a\nTo: <sip:1000@example.org>\nCall-ID: %N%\nCSeq: 1 REGISTER\nContact: <sip:a@127.9.9.9:%PORT%>\nAuthorization: Digest username=\"1000\", realm=\"r\", nonce=\"%NONCE%\", uri=\"sip:r\", response=\"0\"\nContent-Length: 0\n\n"
	call := "INVITE sip:b@example.org SIP/2.0\nVia: SIP/2.0/UDP 127.9.9.9:%PORT%;branch=z9hG4bK%N%\nMax-Forwards: 9\nFrom: <sip:a@example.org>;tag=a\nTo: <sip:b@example.org>\nCall-ID: %N%\nCSeq: 1 INVITE\nContact: <sip:a@127.9.9.9:%PORT%>\nContent-Length: 0\n\n"
	for n := range uint16(8) {
		for _, answer := range []uint16{200, 401, 403} {
			f.Add(n, byte(5), answer, []byte(guess))
		}
		f.Add(n, byte(30), uint16(404), []byte(call))
	}
	for _, text := range []string{
		strings.ReplaceAll(guess, "1000", "%N%"),                                          // many users
		strings.Replace(guess, "To: <sip:1000@example.org>", "To: <sip:1000@x>;tag=t", 1), // as if in a dialog
		strings.Replace(guess, "Authorization:", "Authorization: Digest username=\"%N%\", realm=\"decoy\", nonce=\"x\", response=\"1\"\nAuthorization:", 1),
		strings.Replace(guess, "Max-Forwards", "User-Agent: friendly-scanner\nMax-Forwards", 1),
		strings.Replace(guess, "response=", "response", 1),
		strings.Replace(call, "INVITE", "ACK", 2), strings.Replace(call, "INVITE", "CANCEL", 2), strings.Replace(call, "INVITE", "OPTIONS", 2),
		"\r\n\r\n" + call, "\r\nSIP/2.0 200 OK\n\n", "SIP/2.0 ", "\r\n\r\n", "\x00\x01\x00\x00\x21\x12\xa4\x42aaaaaaaaaaaa",
		"SIP/2.0 200 OK\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1\nVia: SIP/2.0/UDP 127.9.9.9:%PORT%;branch=z9hG4bK1\nFrom: <sip:a@b>;tag=a\nTo: <sip:b@c>;tag=b\nCall-ID: %N%\nCSeq: 1 INVITE\nContent-Length: 0\n\n",
	} {
		f.Add(uint16(6), byte(14), uint16(401), []byte(text))
		f.Add(uint16(3), byte(14), uint16(401), []byte(text))
	}
	files, _ := filepath.Glob("wire/testdata/rfc4475/*.dat")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint16(6), byte(2), uint16(200), text)
	}
	v := newVerdicts(f)
	f.Fuzz(func(t *testing.T, source uint16, times byte, answer uint16, text []byte) {
		if len(text) == 0 || len(text) > wire.MaxSize {
			return
		}
		slow := time.AfterFunc(time.Minute, func() { panic(fmt.Sprintf("hangs: source %d, %q", source, text)) })
		defer slow.Stop()
		v.TB, v.t = t, t
		v.inputs++
		v.nonce = fmt.Sprintf("nonce%d", v.inputs)
		defer v.end()
		// Once from the address, once from its neighbour, so that the bans meet others.
		for i := range int(times % 32) {
			n := source
			if i%8 == 7 {
				n += 8
			}
			v.send(netip.AddrPortFrom(fuzzSource(n, v.pbx[0].addr.Addr(), v.edge().Addr()), v.port), text, i, 100+(int(answer)+500)%600)
		}
	})
}

// verdicts is a lab whose other end is every address of 127.0.0.0/8, at one port.
type verdicts struct {
	*lab
	t       *testing.T
	all     *ipv4.PacketConn
	port    uint16
	buf     []byte
	senders map[netip.Addr]bool // ever, for what they are sent may be late
	// Of this input: who sent, and the nonce that the PBX gives.
	seen   map[security.Source]bool
	nonce  string
	inputs int
}

func newVerdicts(f *testing.F) *verdicts {
	l := newLab(f, 1, verdictLab)
	// A PBX with an address of its own.
	pbx := l.newPeerAt("PBX1", "127.0.0.9:0")
	c := *l.e.snap.Load().config
	pool := c.Pools["pbx"]
	pool.Backends = []config.Backend{pool.Backends[0]}
	pool.Backends[0].Address = "sip:" + pbx.addr.String()
	c.Pools = map[string]config.Pool{"pbx": pool}
	if err := l.e.Reload(&c); err != nil {
		f.Fatal(err)
	}
	l.pbx[0] = pbx
	sink := l.newPeerAt("ALL", "0.0.0.0:0")
	all := ipv4.NewPacketConn(sink.conn)
	if err := all.SetControlMessage(ipv4.FlagDst, true); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := l.e.Stop(context.Background()); err != nil {
			f.Error(err)
		}
		_ = l.e.log.Close()
	})
	return &verdicts{lab: l, all: all, port: sink.addr.Port(), buf: make([]byte, 65536), seen: map[security.Source]bool{}, senders: map[netip.Addr]bool{}}
}

// send hands one datagram to the edge, and looks at what came of it.
func (v *verdicts) send(from netip.AddrPort, text []byte, i, status int) {
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) // as the transport does
	data := bytes.ReplaceAll(text, []byte("%N%"), fmt.Append(nil, "n", i))
	data = bytes.ReplaceAll(data, []byte("%PORT%"), fmt.Append(nil, v.port))
	data = bytes.ReplaceAll(data, []byte("%NONCE%"), []byte(v.nonce))
	data = bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
	data = bytes.ReplaceAll(data, []byte("\r\r\n"), []byte("\r\n"))
	if len(data) > wire.MaxSize {
		return
	}
	v.faulty, v.relays = true, true
	settings := v.e.snap.Load().security
	isTrusted := settings.Trusts(from.Addr())
	src := security.SourceOf(from.Addr())
	v.seen[src], v.senders[from.Addr()] = true, true
	before := v.stopped()
	v.e.Receive(&transport.Packet{Flow: v.e.net.Listeners()[0].FlowTo(from), Data: data})
	if n := v.e.count.panics.Swap(0); n != 0 {
		v.t.Fatalf("%d panics: %s", n, strings.Join(v.lines("panic"), ""))
	}
	after := v.stopped()
	if isTrusted && after.sum != before.sum && after.loops == before.loops {
		v.t.Errorf("%v is trusted, and was stopped", from)
	}
	isBanned := v.e.guard.Book.Source(src, v.e.wheel.Now()) == security.Hard
	if after.none != before.none && !isBanned {
		v.t.Errorf("a message of %v was stopped by no rule", from)
	}
	reached := false
	for range 8 {
		m := v.pbx[0].getsWithin(0)
		if m == nil {
			break
		}
		reached = true
		if m.IsRequest() && m.Method != wire.ACK {
			more := []string{"WWW-Authenticate: Digest realm=\"r\", nonce=\"" + v.nonce + "\"\r\n"}
			v.pbx[0].sends(response(m, status, "t", more...))
		}
	}
	if reached && after.sum != before.sum {
		v.t.Errorf("a message of %v was stopped and reached the PBX", from)
	}
	v.answers(from.Addr(), isTrusted)
	v.holds(settings)
}

type stopped struct{ sum, none, loops uint64 }

func (v *verdicts) stopped() (s stopped) {
	for r := range security.Rules {
		s.sum += v.e.count.stopped[r].Load()
	}
	s.none, s.loops = v.e.count.stopped[security.NoRule].Load(), v.e.count.stopped[security.Loop].Load()
	return s
}

// answers reads what was sent to anybody: replies go to who sent something. What
// trusted parties send may be for others.
func (v *verdicts) answers(from netip.Addr, isTrusted bool) {
	for {
		if err := v.waits(20 * time.Microsecond); err != nil {
			v.t.Fatal(err)
		}
		n, cm, _, err := v.all.ReadFrom(v.buf)
		if err != nil {
			return
		}
		to, _ := netip.AddrFromSlice(cm.Dst.To4())
		if !v.senders[to] && !isTrusted {
			v.t.Errorf("%v was sent what answers %v:\n%s", to, from, v.buf[:n])
		}
	}
}

// waits sets how long reads wait for what is sent to anybody.
func (v *verdicts) waits(d time.Duration) error { return v.all.SetReadDeadline(time.Now().Add(d)) }

// holds checks the book and the tables.
func (v *verdicts) holds(settings *security.Settings) {
	g, now := v.e.guard, v.e.wheel.Now()
	g.Book.All(now, func(b security.Ban) bool {
		if b.Source != 0 && !v.seen[b.Source] {
			v.t.Errorf("%v is banned and was never heard of", b.Key)
		}
		if b.User == "" && b.Source.Is4() && settings.Trusts(b.Source.Prefix().Addr()) {
			v.t.Errorf("%v is banned and trusted", b.Key)
		}
		if b.Rule == security.NoRule || b.By != "edge" || b.Count < b.Limit || len(b.Evidence) > 8 || b.Until <= now {
			v.t.Errorf("not a sound ban: %+v", b)
		}
		if b.Rule != security.DoS && b.User == "" && !b.Proven {
			v.t.Errorf("banned without a proof: %+v", b)
		}
		return true
	})
	sources, users := g.Book.Len()
	if sources > fuzzBans || users > 1024 || g.Rates.Len() > fuzzSources {
		v.t.Errorf("%d sources and %d users are banned, %d are counted", sources, users, g.Rates.Len())
	}
	if n := g.Rates.Bytes() + g.Book.Bytes(); n > 4<<20 {
		v.t.Errorf("%d bytes of tables", n)
	}
	g.Settle(now)
}

// end leaves the lab as it was: no transaction, no call, no ban.
func (v *verdicts) end() {
	for range 3 { // a look-up may be under way
		endAll(v.lab)
	}
	v.e.guard.PardonAll()
	clear(v.seen)
	for v.pbx[0].getsWithin(0) != nil {
	}
	for {
		if v.waits(2*time.Millisecond) != nil {
			return
		}
		if _, _, _, err := v.all.ReadFrom(v.buf); err != nil {
			return
		}
	}
}
