package proxy

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/security"
)

// underGuard is inLab with all protections on and a phone that nobody trusts: edge and
// backends are at 127.0.0.1, the phone at 127.0.0.9.
func underGuard(t *testing.T, n int, change func(*config.Config), f func(t *testing.T, l *lab)) {
	t.Helper()
	guard := func(c *config.Config) {
		guarded(c)
		if change != nil {
			change(c)
		}
	}
	inLab(t, n, guard, func(t *testing.T, l *lab) {
		l.phone = l.newPeerAt("PHONE", "127.0.0.9:0")
		l.clearLog()
		f(t, l)
	})
}

// guarded switches on what labs have off.
func guarded(c *config.Config) {
	c.Security.TrustLoopback, c.Security.LoopEnable = false, config.Enforce
}

// settles has bans looked through every second, as in production. It is to be called
// before anything else is done.
func (l *lab) settles() {
	ctx, stop := contextOf(l)
	l.e.running.Go(func() { l.e.watch(ctx) })
	before := l.e.stopTime
	l.e.stopTime = func() { stop(); before() }
}

func (l *lab) clearLog() {
	l.e.log.Flush()
	l.log.mu.Lock()
	defer l.log.mu.Unlock()
	l.log.b.Reset()
}

var lineStart = regexp.MustCompile(`^\w+ +\d+ \S+ host \S+\[1\]: `)

// alarms checks all warnings and notices since it was called last, to the byte but for
// what every line begins with.
func (l *lab) alarms(want ...string) {
	l.Helper()
	l.e.log.Flush()
	got := []string{}
	for line := range strings.Lines(l.log.text()) {
		line = lineStart.ReplaceAllString(strings.TrimSuffix(line, "\n"), "")
		if strings.Contains(line, " backend=") || strings.HasPrefix(line, "ERROR: sipward: no backend is up") {
			continue // of its health
		}
		if strings.HasPrefix(line, "WARNING: ") || strings.HasPrefix(line, "ERROR: ") || strings.HasPrefix(line, "NOTICE: sipward: Possible loop") {
			got = append(got, line)
		}
	}
	if !slices.Equal(got, want) {
		l.Errorf("alarms:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	l.clearLog()
}

// from hands a datagram to the edge as if it came from an address that this host need
// not have; what is answered there goes nowhere.
func (l *lab) from(a string, data string) {
	f := l.e.net.Listeners()[0].FlowTo(netip.MustParseAddrPort(a))
	l.e.Receive(&transport.Packet{Flow: f, Data: []byte(crlf(data))})
}

// options is a request that the edge answers itself; n makes it a new one.
func (l *lab) options(p *peer, n int) string {
	return fmt.Sprintf("OPTIONS sip:%s SIP/2.0\nVia: SIP/2.0/UDP %s;rport;branch=z9hG4bK-o%d\nMax-Forwards: 70\nFrom: <sip:%s@example.org>;tag=a\nTo: <sip:%s>\nCall-ID: o%d\nCSeq: 1 OPTIONS\nContent-Length: 0\n\n",
		l.edge(), p.addr, n, p.name, l.edge(), n)
}

// passes checks that a new message of a peer is answered, stops that it is not.
func (l *lab) passes(p *peer, n int) {
	l.Helper()
	p.sends(l.options(p, n))
	p.get("200 OPTIONS")
}

func (l *lab) stops(p *peer, n int) {
	l.Helper()
	p.sends(l.options(p, n))
	p.nothing()
}

// 50 messages inside 2 s are no flood, 51 are, and whatever comes then for an hour is
// dropped. What is counted is exact to the microsecond, bans are to the nanosecond.
func TestFloodIsBannedWithTheMessageThatIsOneTooMany(t *testing.T) {
	underGuard(t, 1, nil, func(t *testing.T, l *lab) {
		a, other := l.newPeerAt("A", "127.0.0.11:0"), l.newPeerAt("B", "127.0.0.12:0")
		for i := range 50 {
			l.passes(a, i)
		}
		pass(2 * time.Second) // the window is (now-2s, now]: the 50 are just out
		for i := range 50 {
			l.passes(a, 100+i)
			pass(10 * time.Millisecond)
		}
		l.alarms()
		if n := len(l.e.Bans(BanFilter{})); n != 0 {
			t.Fatalf("%d bans at the limit", n)
		}
		pass(1500*time.Millisecond - time.Nanosecond)
		l.stops(a, 200) // the first of the 50 is 2s-1ns old
		at := l.e.wheel.Now()
		l.alarms("WARNING: sipward: IP '127.0.0.11' is blocked and banned - R=<null> ID=o200")
		for i := range 500 {
			l.stops(a, 300+i)
			if i%100 == 0 {
				pass(time.Second)
			}
		}
		l.passes(other, 1)
		b := l.e.Bans(BanFilter{})
		if len(b) != 1 {
			t.Fatalf("%+v", b)
		}
		want := BanInfo{
			Key: "127.0.0.11", Rule: "dos", Since: l.e.wallTime(at), Until: l.e.wallTime(at + time.Hour), Hard: true,
			Count: 51, Limit: 50, Window: 2, First: l.e.wallTime(at - 2*time.Second + time.Nanosecond), Last: l.e.wallTime(at.Truncate(time.Microsecond)),
			By: "edge", Drops: 500, LastDrop: l.e.wallTime(at + 5*time.Second),
		}
		for i := range 8 { // the last that passed
			want.Evidence = append(want.Evidence, EvidenceInfo{
				At: l.e.wallTime(at - 1500*time.Millisecond + time.Nanosecond - time.Duration(8-i)*10*time.Millisecond), Method: "OPTIONS", CallID: fmt.Sprintf("o%d", 142+i),
			})
		}
		same(t, b[0], want)
		pass(at + time.Hour - time.Nanosecond - l.e.wheel.Now())
		l.stops(a, 900)
		pass(time.Nanosecond)
		l.passes(a, 901)
		if b := l.e.Bans(BanFilter{}); len(b) != 0 {
			t.Errorf("%+v", b)
		}
		l.alarms()
	})
}

// What is one message too many: every request, the repeated ones too, what is no SIP,
// and replies that match nothing. Keep-alives and replies to what we sent are not.
func TestWhatAFloodIsMadeOf(t *testing.T) {
	register := "REGISTER sip:example.org SIP/2.0\nVia: SIP/2.0/UDP 127.0.0.11;rport;branch=z9hG4bK1\nMax-Forwards: 70\nFrom: <sip:a@example.org>;tag=a\nTo: <sip:a@example.org>\nCall-ID: r\nCSeq: 1 REGISTER\nContent-Length: 0\n\n"
	stun := "\x00\x01\x00\x00\x21\x12\xa4\x42" + strings.Repeat("x", 12)
	for _, c := range []struct {
		name, text, id string
		counts         bool
	}{
		{"retransmissions", register, "r", true},
		{"garbage", "hello", "", true},
		{"a fault", strings.Replace(register, "CSeq: 1", "CSeq: x", 1), "r", true},
		{"zeroes", "\x00\x00\x00\x00", "", true},
		{"stray replies", "SIP/2.0 200 OK\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKx\nFrom: <sip:a@b>;tag=a\nTo: <sip:b@c>;tag=b\nCall-ID: s\nCSeq: 1 INVITE\nContent-Length: 0\n\n", "s", true},
		{"faulty replies", "SIP/2.0 200 OK\nCall-ID: s\n\n", "s", true},
		{"STUN", stun, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			underGuard(t, 1, nil, func(t *testing.T, l *lab) {
				l.faulty = true
				for range 50 {
					l.from("127.0.0.11:5060", c.text)
				}
				l.alarms()
				for range 200 {
					l.from("127.0.0.11:5060", c.text)
				}
				l.pbx[0].skip()
				if !c.counts {
					l.alarms()
					return
				}
				l.alarms("WARNING: sipward: IP '127.0.0.11' is blocked and banned - R=<null> ID=" + orNull(c.id))
				if b := l.e.Bans(BanFilter{}); len(b) != 1 || b[0].Count != 51 {
					t.Errorf("%+v", b)
				}
			})
		})
	}
	t.Run("replies to our requests", func(t *testing.T) {
		underGuard(t, 1, nil, func(t *testing.T, l *lab) {
			c := l.pbx[0].call()
			c.uri = "sip:alice@" + l.phone.addr.String()
			c.sends("INVITE")
			l.pbx[0].get("100 INVITE")
			inv := l.phone.get("INVITE")
			for range 300 {
				l.phone.answers(inv, 180, "b")
			}
			l.phone.answers(inv, 200, "b")
			l.alarms()
			l.passes(l.phone, 1)
		})
	})
}

// An IPv6 source is its /64: whoever has one has 2^64 addresses.
func TestFloodFromASubnetOfIPv6(t *testing.T) {
	six := func(c *config.Config) { c.Listen = testConfig("udp:[::1]:0").Listen }
	underGuard(t, 1, six, func(t *testing.T, l *lab) {
		send := func(a string, n int) {
			l.from(a, fmt.Sprintf("OPTIONS sip:[::1] SIP/2.0\nVia: SIP/2.0/UDP [2001:db8::1];rport;branch=z9hG4bK-%d\nFrom: <sip:a@b>;tag=a\nTo: <sip:b@c>\nCall-ID: v%d\nCSeq: 1 OPTIONS\nContent-Length: 0\n\n", n, n))
		}
		for i := range 50 {
			send(fmt.Sprintf("[2001:db8:1:2:%x::1]:5060", i), i)
			send(fmt.Sprintf("[2001:db8:1:3:%x::1]:5060", i), i)
			if i < 49 {
				send("[::ffff:192.0.2.7]:5060", i)
			}
		}
		l.alarms()
		send("[2001:db8:1:2:ffff::77]:5060", 50)
		l.alarms("WARNING: sipward: IP '2001:db8:1:2:ffff::77' is blocked and banned - R=<null> ID=v50")
		before := l.e.Counters().Rejected + l.e.count.sendErrors.Load()
		send("[2001:db8:1:2::1]:5060", 51)
		if after := l.e.Counters().Rejected + l.e.count.sendErrors.Load(); after != before {
			t.Error("a message of a banned /64 was answered")
		}
		bans := l.e.Bans(BanFilter{})
		if len(bans) != 1 || bans[0].Key != "2001:db8:1:2::/64" || bans[0].Drops != 1 {
			t.Errorf("%+v", bans)
		}
		send("[::ffff:192.0.2.7]:5060", 60) // the 50th: IPv4 is the address alone, mapped or not
		send("192.0.2.7:5060", 61)
		l.alarms("WARNING: sipward: IP '192.0.2.7' is blocked and banned - R=<null> ID=v61")
		send("192.0.2.8:5060", 62)
		l.alarms()
	})
}

// A source whose password was right lately, or that has a call, may send ten times more.
func TestKnownSourcesMaySendMore(t *testing.T) {
	prove := map[string]func(l *lab){
		"password": func(l *lab) {
			u := l.phone.user("1000")
			u.registers(200)
		},
		"call": func(l *lab) { l.talks("", "") },
	}
	for name, f := range prove {
		t.Run(name, func(t *testing.T) {
			underGuard(t, 1, nil, func(t *testing.T, l *lab) {
				f(l)
				l.alarms()
				pass(10 * time.Second)
				for i := range 500 {
					l.passes(l.phone, i)
				}
				l.stops(l.phone, 501)
				l.alarms("WARNING: sipward: IP '127.0.0.9' is blocked and banned - R=<null> ID=o501")
				if b := l.e.Bans(BanFilter{}); len(b) != 1 || b[0].Count != 501 || b[0].Limit != 500 || !b[0].Proven || len(b[0].Evidence) != 8 || b[0].Evidence[7].CallID != "o499" {
					t.Errorf("%+v", b)
				}
			})
		})
	}
}

// Who never proved that it receives anything can be given a shorter ban, that doubles:
// its address may be forged. Without that key it is banned as everybody is.
func TestUnprovenSourcesAreBannedForLonger(t *testing.T) {
	for short, bans := range map[int][]time.Duration{60: {60, 120, 200, 200}, 0: {200, 200}} {
		t.Run(fmt.Sprint(short), func(t *testing.T) {
			underGuard(t, 1, func(c *config.Config) {
				c.Security.DoSUnprovenBanTime = seconds(short)
				c.Security.DoSBanTime = seconds(200)
			}, func(t *testing.T, l *lab) {
				a := l.newPeerAt("A", "127.0.0.11:0")
				n := 0
				for _, want := range bans {
					for range 50 {
						n++
						l.passes(a, n)
					}
					n++
					l.stops(a, n)
					pass(want*time.Second - 1)
					n++
					l.stops(a, n)
					pass(1)
				}
			})
		})
	}
}

// Nobody whom the edge needs is ever banned, and the log says that it might have been.
func TestTrustedSourcesAreNeverBanned(t *testing.T) {
	trust := func(c *config.Config) {
		c.Security.Trusted = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
		c.Advertise = "203.0.113.9"
		p := c.Pools["pbx"]
		b := p.Backends[0]
		b.Name, b.Address = "far", "sip:203.0.113.77:5070"
		p.Backends = append(p.Backends, b)
		c.Pools["pbx"] = p
	}
	underGuard(t, 1, trust, func(t *testing.T, l *lab) {
		for _, c := range []struct{ from, why string }{
			{"203.0.113.77:5070", `is backend "far"`},
			{"203.0.113.77:1024", `is backend "far"`}, // any port of it
			{"127.0.0.1:9999", `is backend "pbx1"`},
			{"203.0.113.9:5060", "is listener or advertised address"},
			{"198.51.100.200:5060", "is security.trusted 198.51.100.0/24"},
			{"127.0.0.9:1", ""},
		} {
			ip := netip.MustParseAddrPort(c.from).Addr()
			before := l.e.Counters().Received
			for i := range 61 {
				l.from(c.from, l.options(l.phone, i))
			}
			if c.why == "" {
				l.alarms("WARNING: sipward: IP '127.0.0.9' is blocked and banned - R=<null> ID=o50")
				continue
			}
			l.alarms(fmt.Sprintf("WARNING: sipward: NOT banned: IP '%s' exceeded 50/2s (51) but %s", ip, c.why))
			pass(59 * time.Second)
			for i := range 61 {
				l.from(c.from, l.options(l.phone, i))
			}
			l.alarms() // once a minute
			pass(time.Second)
			for i := range 61 {
				l.from(c.from, l.options(l.phone, i))
			}
			n := l.e.Counters().Received - before
			l.alarms(fmt.Sprintf("WARNING: sipward: NOT banned: IP '%s' exceeded 50/2s (%d) but %s", ip, 61+1, c.why))
			if n != 183 || l.e.count.stopped[security.DoS].Load() != 0 {
				t.Errorf("%s: %d messages, %d stopped", c.from, n, l.e.count.stopped[security.DoS].Load())
			}
			pass(time.Minute)
		}
		if b := l.e.Bans(BanFilter{}); len(b) != 1 {
			t.Errorf("%+v", b)
		}
	})
	t.Run("loopback", func(t *testing.T) {
		underGuard(t, 1, func(c *config.Config) { c.Security.TrustLoopback = true }, func(t *testing.T, l *lab) {
			for i := range 51 {
				l.passes(l.phone, i)
			}
			l.alarms("WARNING: sipward: NOT banned: IP '127.0.0.9' exceeded 50/2s (51) but is loopback")
		})
	})
}

func seconds(n int) config.Duration { return config.Duration(time.Duration(n) * time.Second) }

func orNull(s string) string {
	if s == "" {
		return "<null>"
	}
	return s
}
