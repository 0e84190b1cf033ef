package proxy

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
)

func TestCancel(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		pbx := l.pbx[0]
		c := l.phone.call()
		c.sends("INVITE")
		l.phone.get("100 INVITE")
		inv := pbx.get("INVITE")
		pbx.answers(inv, 180, "b")
		l.phone.get("180 INVITE")
		c.more = "Reason: SIP;cause=200;text=\"Call completed\r\n elsewhere\"\r\n"
		c.sends("CANCEL")
		c.more = ""
		l.phone.get("200 CANCEL")
		cancel := pbx.get("CANCEL")
		if !bytes.Equal(cancel.Bytes(cancel.TopVia.Value), inv.Bytes(inv.TopVia.Value)) || cancel.Vias != 1 || cancel.CSeq != inv.CSeq {
			t.Errorf("the CANCEL does not match its INVITE:\n%s", cancel.Buf)
		}
		if !strings.Contains(string(cancel.Buf), "Reason: SIP;cause=200") {
			t.Error("the Reason is lost (RFC 3326)")
		}
		c.sends("CANCEL") // again: no second one downstream
		l.phone.get("200 CANCEL")
		pbx.nothing()
		pbx.answers(cancel, 200, "b")
		pass(5 * time.Second) // answered, it is not sent again
		pbx.nothing()
		l.phone.nothing() // no 487 of our own
		pbx.answers(inv, 487, "b")
		ack := pbx.get("ACK")
		if !bytes.Equal(ack.Bytes(ack.TopVia.Value), inv.Bytes(inv.TopVia.Value)) || string(ack.Bytes(ack.To.Tag)) != "b" {
			t.Errorf("the ACK does not match:\n%s", ack.Buf)
		}
		m := l.phone.get("487 INVITE")
		pbx.answers(inv, 487, "b") // again: acknowledged, not relayed
		pbx.get("ACK")
		l.phone.nothing()
		c.to = string(m.Bytes(m.To.Tag))
		c.sends("ACK")
		pbx.nothing()
		pass(40 * time.Second)
		l.atRest()
	})
}

// The CANCEL waits for the first provisional, and a 200 that crosses it is passed on.
func TestCancelCrossesAnswer(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		pbx := l.pbx[0]
		c := l.phone.call()
		c.sends("INVITE")
		l.phone.get("100 INVITE")
		inv := pbx.get("INVITE")
		c.sends("CANCEL")
		l.phone.get("200 CANCEL")
		pbx.nothing()
		pbx.answers(inv, 100, "")
		cancel := pbx.get("CANCEL")
		pbx.answers(inv, 200, "b")
		l.phone.get("200 INVITE")
		pbx.answers(cancel, 200, "b")
		l.phone.nothing()
		pass(40 * time.Second)
		l.atRest()
	})
}

func TestCancelOfNothing(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		pbx := l.pbx[0]
		c := l.phone.call()
		c.branch++
		c.sends("CANCEL") // 16.10: passed on without state
		m := pbx.get("CANCEL")
		pbx.answers(m, 481, "b")
		l.phone.get("481 CANCEL")
		pbx.answers(m, 481, "b")
		l.phone.get("481 CANCEL")
		// A forged answer goes nowhere: another address below, another branch.
		for _, bad := range []func(string) string{
			func(s string) string {
				return strings.Replace(s, "rport="+strings.Split(l.phone.addr.String(), ":")[1], "rport=9", 1)
			},
			func(s string) string { return strings.Replace(s, "received=127.0.0.1", "received=127.0.0.2", 1) },
			func(s string) string { return strings.Replace(s, "z9hG4bK-call", "z9hG4bK-Call", 1) },
			func(s string) string { return strings.Replace(s, "Call-ID: ", "Call-ID: x", 1) },
		} {
			s := response(m, 481, "b")
			if bad(s) == s {
				t.Fatalf("no change: %s", s)
			}
			pbx.sends(bad(s))
			l.phone.nothing()
		}
		if n := l.e.Counters().Stray; n != 4 {
			t.Errorf("%d strays", n)
		}
		l.atRest()
	})
}

// Responses that match nothing are dropped (RFC 6026 8.9).
func TestStrayResponses(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		pbx := l.pbx[0]
		c := l.phone.call()
		c.sends("INVITE")
		l.phone.get("100 INVITE")
		inv := pbx.get("INVITE")
		ok := response(inv, 200, "b")
		for name, s := range map[string]string{
			"another CSeq":   strings.Replace(ok, "CSeq: 1 INVITE", "CSeq: 2 INVITE", 1),
			"another method": strings.Replace(ok, "CSeq: 1 INVITE", "CSeq: 1 BYE", 1),
			"foreign branch": strings.Replace(ok, string(inv.Bytes(inv.TopVia.Branch)), "z9hG4bKAAAAAQAAACoAAabcdEEAAHbDQ5o1KNCD", 1),
			"a leg too many": strings.Replace(ok, string(inv.Bytes(inv.TopVia.Branch)), string(l.otherLeg(inv)), 1),
			"without ours":   strings.Replace(ok, "Via: "+string(inv.Bytes(inv.TopVia.Value))+"\r\n", "", 1),
		} {
			if s == ok {
				t.Fatal(name)
			}
			pbx.sends(s)
			if m := l.phone.gets(); m != nil {
				t.Errorf("%s: %s was relayed", name, title(m))
			}
		}
		if n := l.e.Counters().Stray; n != 5 {
			t.Errorf("%d strays", n)
		}
	})
}

func (l *lab) otherLeg(m *wire.Msg) []byte {
	b, _ := l.e.key.Parse(m.Bytes(m.TopVia.Branch))
	b.Leg++
	return l.e.key.Append(nil, b)
}

// A loop comes back with the same routing inputs, a spiral with others (RFC 5393).
func TestLoopAndSpiral(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		pbx := l.pbx[0]
		for _, c := range []struct {
			name   string
			change func(string) string
			loop   bool
		}{
			{"unchanged", func(s string) string { return s }, true},
			{"another header", func(s string) string { return strings.Replace(s, "Max-Forwards: 69", "X: y\r\nMax-Forwards: 60", 1) }, true},
			{"another Request-URI", func(s string) string { return strings.Replace(s, "INVITE sip:bob", "INVITE sip:carol", 1) }, false},
			{"another To tag", func(s string) string {
				return strings.Replace(s, "To: <sip:bob@example.org>", "To: <sip:bob@example.org>;tag=x", 1)
			}, false},
			{"a Route", func(s string) string {
				return strings.Replace(s, "Max-Forwards", "Route: <sip:"+l.edge().String()+";lr>\r\nMax-Forwards", 1)
			}, false},
			{"another Call-ID", func(s string) string { return strings.Replace(s, "Call-ID: ", "Call-ID: x", 1) }, false},
			{"another CSeq", func(s string) string { return strings.Replace(s, "CSeq: 1 ", "CSeq: 2 ", 1) }, false},
		} {
			l.phone.call().sends("INVITE")
			l.phone.get("100 INVITE")
			back := string(pbx.get("INVITE").Buf)
			if c.loop || c.change(back) != back {
				// It comes back by way of somebody else.
				l.phone.sends(c.change(strings.Replace(back, "Via: ", "Via: SIP/2.0/UDP 192.0.2.1;rport;branch=z9hG4bK"+strings.ReplaceAll(c.name, " ", "-")+"\r\nVia: ", 1)))
			}
			if c.loop {
				l.phone.get("482 INVITE")
				pbx.nothing()
				continue
			}
			l.phone.get("100 INVITE")
			if m := pbx.getsWithin(2000); title(m) != "INVITE" {
				t.Errorf("%s: PBX1 got %q, PHONE %q", c.name, title(m), title(l.phone.gets()))
			}
		}
		if n := l.e.Counters().Loops; n != 2 {
			t.Errorf("%d loops", n)
		}
	})
}

// The hash of a loop is over what the parts are, not over their joined bytes only.
func TestLoopHash(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		seen := map[uint32]string{}
		for _, s := range [][4]string{{"sip:a@b", "1", "c", ""}, {"sip:a@b", "1c", "", ""}, {"sip:a@b1", "", "c", ""}, {"sip:a@b", "1", "c", "Route: <sip:x>\r\n"}, {"sip:a@b", "1", "c", "Route: <sip:x>,<sip:y>\r\n"}} {
			var m wire.Msg
			m.Scan([]byte("INVITE "+s[0]+" SIP/2.0\r\nVia: SIP/2.0/UDP x;branch=z9hG4bK1\r\n"+s[3]+"From: <sip:x@y>;tag="+s[1]+"\r\nTo: <sip:x@y>;tag="+s[2]+"\r\nCall-ID: i\r\nCSeq: 1 INVITE\r\n\r\n"), false)
			h := l.e.loopHash(&m)
			if h == 0 {
				t.Error("a hash of 0")
			}
			if old, ok := seen[h]; ok {
				t.Errorf("%q and %q have one hash", s, old)
			}
			seen[h] = strings.Join(s[:], " ")
		}
	})
}

// 16.7 step 6: which of two final responses is the better.
func TestRank(t *testing.T) {
	order := []int{600, 302, 401, 486, 408, 500, 503}
	for i := range order {
		for j := range order {
			if (rank(order[i]) < rank(order[j])) != (i < j) {
				t.Errorf("%d and %d", order[i], order[j])
			}
		}
	}
	for _, same := range [][2]int{{603, 600}, {407, 401}, {415, 420}, {404, 480}} {
		if rank(same[0]) != rank(same[1]) {
			t.Errorf("%v differ", same)
		}
	}
	var c responseContext
	for _, s := range []int{503, 500, 408, 486, 480, 401, 600, 404} {
		c.considerLocked(s, nil)
	}
	if c.bestCode != 600 {
		t.Errorf("best is %d", c.bestCode)
	}
}

func TestRetryAfter(t *testing.T) {
	for v, want := range map[string]time.Duration{
		"5": 5 * time.Second, "18000;duration=3600": 18000 * time.Second, "120 (I'm in a meeting)": 2 * time.Minute, "": 0, "x": 0, "-1": 0,
		"99999999999999999999": 99999999 * time.Second,
	} {
		var m wire.Msg
		m.Scan([]byte("SIP/2.0 503 No\r\nRetry-After: "+v+"\r\n\r\n"), false)
		got := retryAfter(&m)
		if got < 0 || got != want && len(v) < 10 {
			t.Errorf("%q: %v, want %v", v, got, want)
		}
	}
}

func TestConnIndex(t *testing.T) {
	x := newConnIndex()
	a, b := &responseContext{}, &responseContext{}
	x.add(1, a)
	x.add(1, b)
	x.add(2, a)
	x.remove(1, b)
	x.remove(1, b)
	x.remove(3, a)
	if set := x.take(1); len(set) != 1 {
		t.Errorf("%d on connection 1", len(set))
	}
	if set := x.take(1); len(set) != 0 {
		t.Error("taken twice")
	}
	x.remove(2, a)
	if len(x.on) != 0 {
		t.Errorf("%d left", len(x.on))
	}
}

// The retry with credentials reaches the node that sent the challenge, and a client
// that ignores Record-Route the node that has its call.
func TestAffinity(t *testing.T) {
	inLab(t, 2, nil, func(t *testing.T, l *lab) {
		c := l.phone.call()
		c.sends("REGISTER")
		m := l.pbx[0].get("REGISTER")
		l.pbx[0].answers(m, 503, "x")
		m = l.pbx[1].get("REGISTER")
		l.pbx[1].answers(m, 401, "x")
		l.phone.get("401 REGISTER")
		pass(60 * time.Second) // pbx1 is well again
		l.pbx[0].skip()
		c.cseq++
		c.more = "Authorization: Digest username=\"a\"\r\n"
		c.sends("REGISTER")
		l.pbx[1].get("REGISTER")
		c.cseq++
		c.more = ""
		c.sends("REGISTER")
		l.pbx[0].get("REGISTER")
	})
}
