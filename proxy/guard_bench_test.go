package proxy

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/security"
)

// A guardBench has clean messages of many sources be judged, as Receive and serve do.
type guardBench struct {
	*lab
	packets []transport.Packet
	w       *scratch
	n       int
}

const benchSources = 20000

// newGuardBench makes messages of telephones that registered lately; text has a %06d
// wherever one of them differs from another.
func newGuardBench(tb testing.TB, isOn bool, text string) *guardBench {
	l := newLab(tb, 1, func(c *config.Config) {
		guarded(c)
		s := &c.Security
		if !isOn {
			s.DoSBanEnable, s.FailedAuthBanEnable, s.LoopEnable, s.SanityEnable, s.BlockUserAgents.Enable = config.Off, config.Off, config.Off, config.Off, config.Off
		}
	})
	tb.Cleanup(func() {
		if err := l.e.Stop(context.Background()); err != nil {
			tb.Error(err)
		}
		_ = l.e.log.Close()
	})
	if _, err := l.e.AddBan(NewBan{Key: "192.0.2.1"}); err != nil { // an empty list is no test
		tb.Fatal(err)
	}
	if _, err := l.e.AddBan(NewBan{Key: "1000@example.net"}); err != nil {
		tb.Fatal(err)
	}
	b := &guardBench{lab: l, w: l.e.scratch()}
	for i := range benchSources {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		l.e.guard.Known.Succeeded(security.SourceOf(a), fmt.Sprintf("a%06d@pbx.example.org", i), l.e.wheel.Now())
		b.packets = append(b.packets, transport.Packet{
			Flow: l.e.net.Listeners()[0].FlowTo(netip.AddrPortFrom(a, 5060)), Data: []byte(crlf(strings.ReplaceAll(text, "%06d", fmt.Sprintf("%06d", i)))),
		})
	}
	return b
}

// next scans a message, and has the protections judge it.
func (b *guardBench) next(isJudged bool) {
	p := &b.packets[b.n%benchSources]
	b.n++
	e := b.e
	b.w.msg.Scan(p.Data, false)
	if !isJudged {
		return
	}
	now := e.wheel.Now()
	if !e.guarded(b.w, p, now) || !e.protect(b.w, e.snap.Load(), p, now) {
		b.Fatalf("message %d was stopped: %+v", b.n, b.w.verdict)
	}
}

var cleanMessages = map[string]string{
	"INVITE": "INVITE sip:%06d@pbx.example.org SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.10:5060;rport;branch=z9hG4bK-524287-1---%06d\nMax-Forwards: 70\n" +
		"From: \"Alice Example\" <sip:a%06d@pbx.example.org>;tag=8d7c9b2f\nTo: <sip:%06d@pbx.example.org>\nCall-ID: 3848276298220188511%06d@alice.example.org\nCSeq: 1 INVITE\n" +
		"Contact: <sip:a%06d@192.0.2.10:5060;transport=udp>\nAllow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, MESSAGE, SUBSCRIBE, INFO\nSupported: replaces, timer, path\n" +
		"User-Agent: Yealink SIP-T46S 66.85.0.5\nSession-Expires: 1800\nMin-SE: 90\nAllow-Events: talk, hold, conference\nContent-Type: application/sdp\nContent-Length: 0\n\n",
	"re-INVITE": "INVITE sip:%06d@192.0.2.20:5060 SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.10:5060;rport;branch=z9hG4bK-524287-2---%06d\nMax-Forwards: 70\nRoute: <sip:edge.example.org;lr>\n" +
		"From: \"Alice Example\" <sip:a%06d@pbx.example.org>;tag=8d7c9b2f\nTo: <sip:%06d@pbx.example.org>;tag=as4f6c2b\nCall-ID: 3848276298220188511%06d@alice.example.org\nCSeq: 2 INVITE\n" +
		"Contact: <sip:a%06d@192.0.2.10:5060;transport=udp>\nAllow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, MESSAGE, SUBSCRIBE, INFO\nSupported: replaces, timer, path\n" +
		"User-Agent: Yealink SIP-T46S 66.85.0.5\nSession-Expires: 1800\nMin-SE: 90\nContent-Type: application/sdp\nContent-Length: 0\n\n",
	"REGISTER": "REGISTER sip:pbx.example.org SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.10:5060;rport;branch=z9hG4bK-524287-1---%06d\nMax-Forwards: 70\n" +
		"From: \"Alice Example\" <sip:a%06d@pbx.example.org>;tag=8d7c9b2f\nTo: <sip:a%06d@pbx.example.org>\nCall-ID: 3848276298220188511%06d@alice.example.org\nCSeq: 2 REGISTER\n" +
		"Contact: <sip:a%06d@192.0.2.10:5060;transport=udp>;expires=600\nAllow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, MESSAGE, SUBSCRIBE, INFO\nSupported: path, outbound\n" +
		"User-Agent: Yealink SIP-T46S 66.85.0.5\n" +
		"Authorization: Digest username=\"a%06d\",realm=\"pbx.example.org\",nonce=\"YkzPpWJMzntyH6R2V0hZpm5b9qRr9Q9z\",uri=\"sip:pbx.example.org\",response=\"4f5c7d0c0b1c4a8a9e1d5f8e7a6b5c4d\",algorithm=MD5,cnonce=\"0a4f113b\",qop=auth,nc=00000001\n" +
		"Expires: 600\nContent-Length: 0\n\n",
}

// BenchmarkGuardedMessage is what all protections cost a clean message, with a ban of a
// source and of a user in force: the bar is 1.5 µs and no allocation. "checks" is the
// difference between messages that are scanned and judged and those that are scanned
// alone, of the fastest batches of each, so that what else runs does not count.
func BenchmarkGuardedMessage(b *testing.B) {
	for _, method := range []string{"INVITE", "re-INVITE", "REGISTER"} {
		for _, mode := range []string{"on", "off"} {
			b.Run(method+"/"+mode, func(b *testing.B) {
				x := newGuardBench(b, mode == "on", cleanMessages[method])
				const batch = 200
				fastest := [2]time.Duration{time.Hour, time.Hour}
				b.ReportAllocs()
				for b.Loop() {
					for i := range fastest {
						start := time.Now()
						for range batch {
							x.next(i == 0)
						}
						fastest[i] = min(fastest[i], time.Since(start))
					}
				}
				b.ReportMetric(float64(fastest[0]-fastest[1])/batch, "ns/checks")
				b.ReportMetric(float64(fastest[0])/batch, "ns/message")
			})
		}
	}
}

// Protections do not allocate for a clean message.
func TestGuardedMessageDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for method, text := range cleanMessages {
		b := newGuardBench(t, true, text)
		for range benchSources { // tables grow once
			b.next(true)
		}
		if n := testing.AllocsPerRun(2000, func() { b.next(true) }); n != 0 {
			t.Errorf("%s: %v allocations", method, n)
		}
	}
}
