package proxy

import (
	"fmt"
	"strings"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// A talk is an answered call in the lab: a phone outside (a), the PBX inside (b).
type talk struct {
	*lab
	id     string
	a, b   *peer
	ok     *wire.Msg // the 200 as the caller got it
	invite *wire.Msg // the INVITE as the callee got it
	cseq   [2]int    // last number that each side used
	branch int
	first  string // the INVITE as the caller sent it
	last   string // message that text or reply wrote last

	answeredAt time.Duration // on the wheel's clock
}

const (
	sideA = iota
	sideB
)

// Header lines of the endpoints.
const (
	timerLines  = "Supported: timer\n"
	updateLines = "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE\n"
	plainLines  = "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS\n"
)

const (
	sdpA = "v=0\no=alice 1 1 IN IP4 192.0.2.1\ns=-\nc=IN IP4 192.0.2.1\nt=0 0\nm=audio 4000 RTP/AVP 0\n"
	sdpB = "v=0\no=bob 7 7 IN IP4 192.0.2.2\ns=-\nc=IN IP4 192.0.2.2\nt=0 0\nm=audio 5000 RTP/AVP 0\n"
)

// talks makes a call: caller and callee are the header lines of INVITE and 200.
func (l *lab) talks(caller, callee string) *talk {
	l.Helper()
	t := l.rings(caller)
	t.answers(callee)
	t.acks()
	return t
}

// rings sends the INVITE.
func (l *lab) rings(caller string) *talk {
	l.Helper()
	callNumber++
	t := &talk{lab: l, id: fmt.Sprintf("talk-%d", callNumber), a: l.phone, b: l.pbx[0], cseq: [2]int{1, 0}}
	t.a.sends(t.text(sideA, "INVITE", 1, caller+"Contact: <sip:alice@"+t.a.addr.String()+">\n", sdpA, "sip:bob@example.org", "", ""))
	t.first = t.last
	t.a.get("100 INVITE")
	t.invite = t.b.get("INVITE")
	return t
}

// answers sends the 200 with the callee's SDP.
func (t *talk) answers(callee string) {
	t.Helper()
	t.b.sends(t.reply(t.invite, 200, callee+"Contact: <sip:bob@"+t.b.addr.String()+">\n", sdpB))
	t.ok = t.a.get("200 INVITE")
	t.answeredAt = t.e.wheel.Now()
}

func (t *talk) acks() {
	t.Helper()
	t.from(sideA, "ACK", t.cseq[sideA], "", "")
	t.b.get("ACK")
}

// reply is a response of a party to a request that it got.
func (t *talk) reply(req *wire.Msg, status int, lines, body string) string {
	r := response(req, status, "tb")
	if body != "" {
		lines += "Content-Type: application/sdp\n"
	}
	t.last = strings.Replace(r, "Content-Length: 0\r\n\r\n", crlf(fmt.Sprintf("%sContent-Length: %d\n\n", lines, len(crlf(body)))), 1) + crlf(body)
	return t.last
}

// text writes a request of one side.
func (t *talk) text(side int, method string, cseq int, lines, body, uri, route, toTag string) string {
	t.branch++
	from, to := "<sip:alice@example.org>;tag=ta", "<sip:bob@example.org>"
	if toTag != "" {
		to += ";tag=" + toTag
	}
	at := t.a.addr
	if side == sideB {
		from, to, at = to, from, t.b.addr
	}
	if body != "" {
		lines += "Content-Type: application/sdp\n"
	}
	t.last = crlf(fmt.Sprintf("%s %s SIP/2.0\nVia: SIP/2.0/UDP %s;branch=z9hG4bK-%s-%d;rport\n%sMax-Forwards: 70\nFrom: %s\nTo: %s\nCall-ID: %s\nCSeq: %d %s\n%sContent-Length: %d\n\n%s",
		method, uri, at, t.id, t.branch, route, from, to, t.id, cseq, method, lines, len(crlf(body)), body))
	return t.last
}

// from sends a request inside the dialog with a number of the test's choice.
func (t *talk) from(side int, method string, cseq int, lines, body string) {
	t.Helper()
	if side == sideA {
		t.a.sends(t.text(sideA, method, cseq, lines, body, "sip:bob@"+t.b.addr.String(), routeOf(t.ok), "tb"))
		return
	}
	var route string
	for _, h := range t.invite.Headers {
		if h.Kind == wire.KindRecordRoute {
			route += "Route: " + string(t.invite.Bytes(h.Value)) + "\n"
		}
	}
	t.b.sends(t.text(sideB, method, cseq, lines, body, "sip:alice@"+t.a.addr.String(), route, "tb"))
}

// next sends a request with that side's next number.
func (t *talk) next(side int, method, lines, body string) {
	t.Helper()
	t.cseq[side]++
	t.from(side, method, t.cseq[side], lines, body)
}

// peer is the party of a side.
func (t *talk) peer(side int) *peer {
	if side == sideA {
		return t.a
	}
	return t.b
}

// asks has a side send a request, the other one answer it, and checks that both
// see what they should. It returns the request as it arrived.
func (t *talk) asks(side int, method, lines, body string, status int, answer string) *wire.Msg {
	t.Helper()
	t.next(side, method, lines, body)
	if method == "INVITE" {
		t.peer(side).get("100 INVITE")
	}
	got := t.peer(1 - side).get(method)
	t.peer(1 - side).sends(t.reply(got, status, answer, ""))
	back := t.peer(side).get(fmt.Sprintf("%d %s", status, method))
	if int(back.CSeq) != t.cseq[side] {
		t.Errorf("%s was answered with CSeq %d, sent with %d", method, back.CSeq, t.cseq[side])
	}
	return got
}

// hangsUp ends the talk by a BYE of one side and checks that nothing is left.
func (t *talk) hangsUp(side int) {
	t.Helper()
	t.asks(side, "BYE", "", "", 200, "")
	t.gone()
}

// gone checks that the call is over and, later, that nothing is left of it.
func (t *talk) gone() {
	t.Helper()
	pass(200 * time.Second)
	if n := t.e.dialogs.Len(); n != 0 {
		t.Errorf("%d calls left: %+v", n, t.e.Calls(CallFilter{}))
	}
	t.atRest()
}

// answered answers a request of the edge's own with a status, at the side it came to.
func (t *talk) answered(side int, method string, status int, lines, body string) *wire.Msg {
	t.Helper()
	m := t.peer(side).get(method)
	t.peer(side).sends(t.reply(m, status, lines, body))
	return m
}

// why is the reason in the line of the ended call.
func (t *talk) why() string {
	t.Helper()
	lines := t.lines("Call ended")
	if len(lines) != 1 {
		t.Errorf("%d lines of ended calls: %s", len(lines), strings.Join(lines, ""))
		return ""
	}
	_, rest, _ := strings.Cut(lines[0], "C=")
	reason, _, _ := strings.Cut(rest, " ")
	return reason
}

// withTimers sets the timers section.
func withTimers(f func(*config.Timers)) func(*config.Config) {
	return func(c *config.Config) {
		c.Timers.ProbeJitter = 0
		f(&c.Timers)
	}
}

// until lets the clock run to a time after the answer.
func (t *talk) until(after time.Duration) { pass(t.answeredAt + after - t.e.wheel.Now()) }

// waits lets the clock run until a side gets a message, at most for within, and
// returns it with the time since the answer. Nothing may have come before.
func (t *talk) waits(side int, what string, within time.Duration) (*wire.Msg, time.Duration) {
	t.Helper()
	for end := t.e.wheel.Now() + within; t.e.wheel.Now() <= end; pass(50 * time.Millisecond) {
		if m := t.peer(side).getsWithin(0); m != nil {
			if got := title(m); got != what {
				t.Fatalf("%s got %q, want %q:\n%s", t.peer(side).name, got, what, m.Buf)
			}
			return m, t.e.wheel.Now() - t.answeredAt
		}
	}
	t.Fatalf("%s got no %s within %v", t.peer(side).name, what, within)
	return nil, 0
}

// probed waits for a probe of a side and answers it.
func (t *talk) probed(side int, method string, within time.Duration, status int, lines, body string) (*wire.Msg, time.Duration) {
	t.Helper()
	m, at := t.waits(side, method, within)
	t.peer(side).sends(t.reply(m, status, lines, body))
	return m, at
}
