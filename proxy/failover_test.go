package proxy

import (
	"fmt"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

func TestFailoverBySilence(t *testing.T) {
	inLab(t, 3, nil, func(t *testing.T, l *lab) {
		c := l.phone.call()
		c.sends("INVITE")
		l.phone.get("100 INVITE")
		l.pbx[0].get("INVITE")
		pass(2100 * time.Millisecond) // invite_failover
		inv := l.pbx[1].get("INVITE")
		l.pbx[1].answers(inv, 180, "b")
		l.phone.get("180 INVITE")
		for l.pbx[0].gets() != nil { // retransmissions of the first 2 s
		}
		// Timer B of the first leg must not ring a third phone while the second rings.
		pass(60 * time.Second)
		l.pbx[2].nothing()
		l.pbx[0].nothing()
		l.pbx[1].answers(inv, 200, "b")
		l.phone.get("200 INVITE")
		pass(40 * time.Second)
		l.phone.nothing()
		l.atRest()
	})
}

func TestCancelledCallIsNotTriedElsewhere(t *testing.T) {
	inLab(t, 2, nil, func(t *testing.T, l *lab) {
		c := l.phone.call()
		c.sends("INVITE")
		l.phone.get("100 INVITE")
		l.pbx[0].get("INVITE")
		c.sends("CANCEL")
		l.phone.get("200 CANCEL")
		pass(33 * time.Second) // timer B: the backend never said a word
		l.pbx[1].nothing()
		l.phone.get("487 INVITE")
		for m := l.pbx[0].gets(); m != nil; m = l.pbx[0].gets() {
			if m.Method != wire.INVITE {
				t.Errorf("%s before any provisional (RFC 3261 9.1)", title(m))
			}
		}
		c.to = "x"
		c.sends("ACK")
		pass(40 * time.Second)
		l.atRest()
	})
}

func TestLateProvisionalOfAnAbandonedLeg(t *testing.T) {
	for _, method := range []string{"INVITE", "MESSAGE"} {
		t.Run(method, func(t *testing.T) {
			inLab(t, 2, nil, func(t *testing.T, l *lab) {
				c := l.phone.call()
				c.sends(method)
				if method == "INVITE" {
					l.phone.get("100 INVITE")
				}
				first := l.pbx[0].get(method)
				pass(4100 * time.Millisecond)
				for l.pbx[0].gets() != nil {
				}
				second := l.pbx[1].get(method)
				l.pbx[0].answers(first, 180, "a")
				if method == "INVITE" { // it would ring for nobody
					cancel := l.pbx[0].get("CANCEL")
					l.pbx[0].answers(cancel, 200, "a")
				} else {
					l.pbx[0].nothing() // 9.1: INVITE only
				}
				l.phone.nothing()
				l.pbx[1].answers(second, 200, "b")
				l.phone.get("200 " + method)
				l.pbx[0].answers(first, 487, "a")
				l.phone.nothing()
				pass(40 * time.Second)
				l.atRest()
			})
		})
	}
}

// The callee of a leg that was given up answers after all: the caller has to hear
// of it, and the other leg ends.
func TestLateAnswerOfAnAbandonedLeg(t *testing.T) {
	inLab(t, 2, nil, func(t *testing.T, l *lab) {
		c := l.phone.call()
		c.sends("INVITE")
		l.phone.get("100 INVITE")
		first := l.pbx[0].get("INVITE")
		pass(2100 * time.Millisecond)
		second := l.pbx[1].get("INVITE")
		l.pbx[1].answers(second, 180, "b")
		l.phone.get("180 INVITE")
		for l.pbx[0].gets() != nil {
		}
		l.pbx[0].answers(first, 200, "a")
		l.phone.get("200 INVITE")
		cancel := l.pbx[1].get("CANCEL")
		wantsReason(t, cancel, `SIP;cause=200;text="Call completed elsewhere"`)
		l.pbx[1].answers(cancel, 200, "b")
		l.pbx[1].answers(second, 487, "b")
		l.pbx[1].get("ACK")
		l.phone.nothing()
		pass(40 * time.Second)
		l.atRest()
	})
}

// What a status of the first backend leads to.
func TestFailoverByStatus(t *testing.T) {
	cases := []struct {
		status int
		codes  []int
		next   bool
	}{
		{503, nil, true}, {503, []int{503}, true}, {502, []int{502, 503}, true}, {504, []int{502, 504}, true}, {500, []int{500}, true},
		{500, []int{503}, false}, {502, []int{503}, false}, {486, nil, false}, {603, nil, false}, {600, nil, false}, {401, nil, false}, {407, nil, false},
		{404, nil, false}, {408, nil, false}, {480, nil, false}, {302, nil, false},
	}
	for _, c := range cases {
		for _, method := range []string{"INVITE", "REGISTER"} {
			t.Run(fmt.Sprint(method, c.status, c.codes), func(t *testing.T) {
				change := func(x *config.Config) {
					p := x.Pools["pbx"]
					p.FailoverCodes = c.codes
					x.Pools["pbx"] = p
				}
				inLab(t, 2, change, func(t *testing.T, l *lab) {
					l.phone.call().sends(method)
					if method == "INVITE" {
						l.phone.get("100 INVITE")
					}
					req := l.pbx[0].get(method)
					l.pbx[0].answers(req, c.status, "a")
					if method == "INVITE" {
						l.pbx[0].get("ACK")
					}
					if !c.next {
						l.phone.get(fmt.Sprint(c.status, " ", method))
						l.pbx[1].nothing()
						return
					}
					l.phone.nothing()
					req = l.pbx[1].get(method)
					l.pbx[1].answers(req, 200, "b")
					l.phone.get("200 " + method)
				})
			})
		}
	}
}

func TestNoFailoverOnceItRang(t *testing.T) {
	for _, tag := range []string{"", "b"} {
		inLab(t, 2, nil, func(t *testing.T, l *lab) {
			l.phone.call().sends("INVITE")
			l.phone.get("100 INVITE")
			inv := l.pbx[0].get("INVITE")
			l.pbx[0].answers(inv, 183, tag)
			l.phone.get("183 INVITE")
			l.pbx[0].answers(inv, 503, "b")
			l.pbx[0].get("ACK")
			if tag == "" {
				l.pbx[1].get("INVITE")
				return
			}
			l.pbx[1].nothing()
			l.phone.get("500 INVITE") // a raw 503 never goes up
		})
	}
}

// A raw 503 never goes up (16.7 step 6); only the edge may say that all are down.
func TestAllBackendsFail(t *testing.T) {
	inLab(t, 2, nil, func(t *testing.T, l *lab) {
		c := l.phone.call()
		c.sends("INVITE")
		l.phone.get("100 INVITE")
		for _, p := range l.pbx {
			inv := p.get("INVITE")
			p.answers(inv, 503, "x", "Retry-After: 20\r\n")
			p.get("ACK")
		}
		m := l.phone.get("500 INVITE")
		if s := string(m.Bytes(m.ReasonPhrase)); s != "Server Internal Error" {
			t.Errorf("500 %s", s)
		}
		c.to = string(m.Bytes(m.To.Tag))
		c.sends("ACK")
		pass(40 * time.Second)
		l.phone.nothing()
		l.atRest()
	})
}

func TestNobodyAnswers(t *testing.T) {
	for _, method := range []string{"INVITE", "REGISTER", "FOO"} {
		inLab(t, 1, nil, func(t *testing.T, l *lab) {
			l.phone.call().sends(method)
			if method == "INVITE" {
				l.phone.get("100 INVITE")
			}
			pass(33 * time.Second)
			l.phone.get("408 " + method)
			n := 0
			for l.pbx[0].gets() != nil {
				n++
			}
			if want := map[string]int{"INVITE": 7, "REGISTER": 11, "FOO": 11}[method]; n != want {
				t.Errorf("%s was sent %d times, want %d", method, n, want)
			}
			pass(70 * time.Second)
			l.atRest()
		})
	}
}

// wantsReason holds the Reason of a request of ours against what is due.
func wantsReason(t testing.TB, m *wire.Msg, want string) {
	t.Helper()
	if got := string(m.Value(wire.KindReason)); got != want {
		t.Errorf("Reason %q, want %q", got, want)
	}
}

func TestTimerC(t *testing.T) {
	inLab(t, 2, nil, func(t *testing.T, l *lab) {
		l.phone.call().sends("INVITE")
		l.phone.get("100 INVITE")
		inv := l.pbx[0].get("INVITE")
		l.pbx[0].answers(inv, 180, "b")
		l.phone.get("180 INVITE")
		pass(181 * time.Second)
		wantsReason(t, l.pbx[0].get("CANCEL"), `SIP;cause=408;text="rang too long";key=timer_c`)
		l.phone.nothing()
		pass(33 * time.Second) // it does not heed the CANCEL
		l.phone.get("408 INVITE")
		l.pbx[1].nothing()
		pass(60 * time.Second)
		l.atRest()
	})
}

// Two branches of a fork below a proxy behind us: one fails, the other is
// answered. The ACK for the answer has the Call-ID, From tag and CSeq of both.
func TestAckOfAnAnsweredForkIsNotAbsorbedByAFailedOne(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		pbx := l.pbx[0]
		c := l.phone.call()
		c.sends("INVITE")
		l.phone.get("100 INVITE")
		inv := pbx.get("INVITE")
		fork := pbx.call() // the PBX passes the call on to the phone of somebody, through us
		fork.id, fork.uri = c.id, "sip:carol@"+l.phone.addr.String()
		fork.sends("INVITE")
		pbx.get("100 INVITE")
		busy := l.phone.get("INVITE")
		l.phone.answers(busy, 486, "carol")
		l.phone.get("ACK")
		pbx.get("486 INVITE")
		pbx.answers(inv, 200, "dave") // another one took it
		ok := l.phone.get("200 INVITE")
		c.to, c.route, c.uri = "dave", routeOf(ok), "sip:dave@"+pbx.addr.String()
		c.branch++
		c.sends("ACK")
		if m := pbx.gets(); m == nil || m.Method != wire.ACK || string(m.Bytes(m.To.Tag)) != "dave" {
			t.Errorf("the callee gets %q instead of its ACK", title(m))
		}
	})
}
