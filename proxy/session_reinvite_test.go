package proxy

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// Header lines of endpoints that have to be asked by re-INVITE.
const (
	reinviteA = timerLines + plainLines
	reinviteB = timerLines + plainLines
)

// withSDP answers an INVITE with that SDP.
func (c *talk) withSDP(v visit, sdp string) string {
	return c.reply(v.Msg, 200, "Contact: <"+c.target(v.side)+">\n", sdp)
}

// ackRefusal is the ACK of a side for the refusal of its re-INVITE, which is a matter
// of the hop (RFC 3261 17.1.1.3).
func (c *talk) ackRefusal(side int, invite string, refusal *wire.Msg) {
	c.Helper()
	m := &wire.Msg{}
	m.Scan([]byte(invite), false)
	c.peer(1 - side).get("ACK")
	c.peer(side).sends(strings.Replace(ackOf(m, refusal), "CSeq: 1 ", fmt.Sprintf("CSeq: %d ", m.CSeq), 1))
}

// reinvites has a side send a re-INVITE and the other one answer it.
func (c *talk) reinvites(side int, offer string, status int, answer string) {
	c.Helper()
	c.next(side, "INVITE", "Contact: <"+c.target(side)+">\n", offer)
	invite := c.last
	c.peer(side).get("100 INVITE")
	got := c.peer(1 - side).get("INVITE")
	lines := ""
	if status < 300 {
		lines = "Contact: <" + c.target(1-side) + ">\n"
	}
	c.peer(1 - side).sends(c.reply(got, status, lines, answer))
	back := c.peer(side).get(fmt.Sprint(status, " INVITE"))
	if status >= 300 {
		c.ackRefusal(side, invite, back)
		return
	}
	c.from(side, "ACK", c.cseq[side], "", "")
	c.peer(1 - side).get("ACK")
}

func TestG18ReinviteRepeatsTheCommittedSDP(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(reinviteA, reinviteB)
		said := [2]string{sdpA, sdpB} // by each side, in the last exchange that was completed
		check := func(until time.Duration) {
			t.Helper()
			seen := 0
			for _, v := range c.runs(until, func(v visit) string { return c.withSDP(v, said[v.side]) }) {
				if v.Method != wire.INVITE {
					continue
				}
				seen++
				want := crlf(said[1-v.side])
				if got := v.Bytes(v.Body); sha256.Sum256(got) != sha256.Sum256([]byte(want)) {
					t.Errorf("%v has\n%swant\n%s", v, got, want)
				}
				if got := string(v.Value(wire.KindContentType)); got != "application/sdp" {
					t.Errorf("%v: Content-Type %q", v, got)
				}
			}
			if seen != 2 {
				t.Errorf("%d re-INVITEs", seen)
			}
		}
		check(310 * time.Second)
		said[sideA] = strings.Replace(sdpA, "1 1 IN", "1 2 IN", 1) + "a=sendonly\n" // hold
		said[sideB] = strings.Replace(sdpB, "7 7 IN", "7 8 IN", 1) + "a=recvonly\n"
		c.reinvites(sideA, said[sideA], 200, said[sideB])
		check(620 * time.Second)
		c.reinvites(sideB, sdpB, 488, "") // rolled back
		check(920 * time.Second)
		c.hangsUp(sideB)
	})
}

// asksFor checks that each leg is asked by a re-INVITE with what its peer said last.
func (c *talk) asksFor(said [2]string, until time.Duration) {
	c.Helper()
	seen := [2]int{}
	for _, v := range c.runs(until, func(v visit) string { return c.withSDP(v, said[v.side]) }) {
		switch got := string(v.Bytes(v.Body)); {
		case v.Method == wire.ACK:
		case v.Method != wire.INVITE || got != crlf(said[1-v.side]):
			c.Errorf("%v has\n%s", v, got)
		default:
			seen[v.side]++
		}
	}
	if seen != [2]int{1, 1} {
		c.Errorf("%v re-INVITEs", seen)
	}
}

// A call that began without an offer of the caller (CUCM's delayed offer) has its SDP
// from the 200 and the ACK, or from a reliable 183 and the PRACK.
func TestReinviteRepeatsALateOffer(t *testing.T) {
	begin := func(l *lab) *talk {
		callNumber++
		c := &talk{lab: l, id: fmt.Sprintf("talk-%d", callNumber), a: l.phone, b: l.pbx[0], cseq: [2]int{1, 0}}
		c.a.sends(c.text(sideA, "INVITE", 1, reinviteA+"Contact: <sip:alice@"+c.a.addr.String()+">\n", "", "sip:bob@example.org", "", ""))
		c.a.get("100 INVITE")
		c.invite = c.b.get("INVITE")
		return c
	}
	answers := func(c *talk, sdp string) {
		c.b.sends(c.reply(c.invite, 200, reinviteB+"Contact: <sip:bob@"+c.b.addr.String()+">\n", sdp))
		c.ok = c.a.get("200 INVITE")
		c.answeredAt = c.e.wheel.Now()
	}
	acks := func(c *talk, sdp string) {
		c.from(sideA, "ACK", 1, "", sdp)
		c.b.get("ACK")
	}
	for name, talks := range map[string]func(c *talk){
		"200 and ACK": func(c *talk) {
			answers(c, sdpB)
			acks(c, sdpA)
		},
		"183 and PRACK": func(c *talk) {
			c.b.sends(c.reply(c.invite, 183, "Require: 100rel\nRSeq: 1\nContact: <sip:bob@"+c.b.addr.String()+">\n", sdpB))
			c.ok = c.a.get("183 INVITE")
			c.next(sideA, "PRACK", "RAck: 1 1 INVITE\n", sdpA)
			c.b.sends(c.reply(c.b.get("PRACK"), 200, "", ""))
			c.a.get("200 PRACK")
			answers(c, "")
			acks(c, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
				c := begin(l)
				talks(c)
				c.asksFor([2]string{sdpA, sdpB}, 310*time.Second)
				c.hangsUp(sideA)
			})
		})
	}
}

// A call that nobody was to ask keeps no SDP; one that is watched from some re-INVITE
// on has that of the next.
func TestReinviteRepeatsTheSDPOfACallThatIsWatchedLate(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(plainLines, plainLines)
		c.refreshes(sideA, "INVITE", timerLines+expiresLine, timerLines+agreedLines)
		hold := strings.Replace(sdpA, "1 1 IN", "1 2 IN", 1) + "a=sendonly\n"
		c.reinvites(sideA, hold, 200, sdpB)
		c.asksFor([2]string{hold, sdpB}, c.since()+310*time.Second)
		c.hangsUp(sideB)
	})
}

// An endpoint that does not get our ACK sends its 200 again and again.
func TestG20EveryCopyOfA200IsAcknowledged(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(reinviteA, reinviteB)
		inv, _ := c.waits(sideB, "INVITE", 301*time.Second)
		ok := c.reply(inv, 200, "Contact: <"+c.target(sideB)+">\n", sdpB)
		first := ""
		for range 6 {
			c.b.sends(ok)
			ack := c.b.get("ACK")
			if ack.CSeq != inv.CSeq || len(ack.Bytes(ack.Body)) != 0 || string(ack.Bytes(ack.RURI)) != c.target(sideB) {
				t.Errorf("%s", ack.Buf)
			}
			if first == "" {
				first = string(ack.Buf)
			}
			if string(ack.Buf) != first {
				t.Errorf("%s\nis another ACK than\n%s", ack.Buf, first)
			}
			pass(400 * time.Millisecond)
		}
		c.runs(310*time.Second, c.alive)
		if got := c.asks(sideA, "INFO", "", "", 200, ""); got.CSeq != inv.CSeq+1 {
			t.Errorf("CSeq %d after %d", got.CSeq, inv.CSeq)
		}
		c.hangsUp(sideA)
	})
}

func TestG23TooSmallIntervalIsRaisedOnce(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(reinviteA+"Session-Expires: 90\n", reinviteB+"Session-Expires: 90;refresher=uac\nRequire: timer\n")
		minSE := 300
		all := c.runs(180*time.Second, func(v visit) string {
			if v.side == sideB && v.Method == wire.INVITE && minSE <= 400 {
				minSE += 100
				return c.reply(v.Msg, 422, fmt.Sprintf("Min-SE: %d\n", minSE-100), "")
			}
			return c.alive(v)
		})
		got := of(all, sideB)
		if want := "INVITE ACK INVITE ACK"; come(got) != want { // and not a third time for the second 422
			t.Fatalf("%s, want %s", come(got), want)
		}
		for i, want := range []string{"90;refresher=uac", "300;refresher=uac"} {
			if se := string(got[2*i].Value(wire.KindSessionExpires)); se != want {
				t.Errorf("%v has Session-Expires %q, want %q", got[2*i], se, want)
			}
		}
		if v := string(got[2].Value(wire.KindMinSE)); v != "300" {
			t.Errorf("Min-SE %q", v)
		}
		if d := got[2].at - got[0].at; d > time.Second {
			t.Errorf("%v after the 422", d)
		}
		if a := of(all, sideA)[0]; string(a.Value(wire.KindSessionExpires)) != "90;refresher=uas" {
			t.Errorf("%s", a.Buf)
		}
		c.hangsUp(sideA)
	})
}

func TestG25NoProbeWhileAReinviteRings(t *testing.T) {
	for _, side := range []int{sideA, sideB} {
		for _, status := range []int{200, 488} {
			t.Run(fmt.Sprint(sideNames[side], " ", status), func(t *testing.T) {
				inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
					c := l.talks(timerLines+updateLines, timerLines+updateLines)
					c.until(295 * time.Second)
					c.next(side, "INVITE", "Contact: <"+c.target(side)+">\n", sdpA)
					invite := c.last
					c.peer(side).get("100 INVITE")
					inv := c.peer(1 - side).get("INVITE")
					c.peer(1 - side).sends(c.reply(inv, 180, "", ""))
					c.peer(side).get("180 INVITE")
					if all := c.runs(315*time.Second, c.alive); len(all) != 0 {
						t.Errorf("while it rang: %v", all)
					}
					c.peer(1 - side).sends(c.reply(inv, status, "Contact: <"+c.target(1-side)+">\n", ""))
					back := c.peer(side).get(fmt.Sprint(status, " INVITE"))
					if status == 488 {
						c.ackRefusal(side, invite, back)
						got := of(c.runs(325*time.Second, c.alive), sideB)
						if len(got) != 1 || got[0].at > 316500*time.Millisecond {
							t.Error(got)
						}
						c.hangsUp(sideA)
						return
					}
					if all := c.runs(317*time.Second, c.alive); len(all) != 0 {
						t.Errorf("without the ACK: %v", all)
					}
					c.from(side, "ACK", c.cseq[side], "", "")
					c.peer(1 - side).get("ACK")
					// The 200 was a refresh of both legs.
					wantTimes(t, of(c.runs(620*time.Second, c.alive), sideB), 615*time.Second)
					c.hangsUp(sideA)
				})
			})
		}
	}
}

// A probe must not overtake what the peer has asked (spec C.3); the other direction
// has its own numbers.
func TestNoProbeWhileThePeerWaitsForAnAnswer(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines, timerLines+updateLines)
		c.until(299 * time.Second)
		c.next(sideA, "INFO", "", "")
		info := c.b.get("INFO")
		all := c.runs(320*time.Second, func(v visit) string {
			if v.Method == wire.INFO {
				return "" // copies
			}
			return c.alive(v)
		})
		if come(of(all, sideB)) != "INFO" || come(of(all, sideA)) != "UPDATE" {
			t.Error(all)
		}
		c.b.sends(c.reply(info, 200, "", ""))
		c.a.get("200 INFO")
		got := of(c.runs(325*time.Second, c.alive), sideB)
		if len(got) != 1 || got[0].Method != wire.UPDATE || got[0].at > 321500*time.Millisecond || got[0].CSeq <= info.CSeq {
			t.Error(got)
		}
		c.hangsUp(sideA)
	})
}

// Two re-INVITEs of ours at the same time could change what the other one offers.
func TestReinvitesOfBothLegsDoNotOverlap(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(reinviteA, reinviteB)
		all := c.runs(602*time.Second, c.mute(sideB))
		var under []visit // of the callee's, each is given up after 32 s
		for _, v := range of(all, sideB) {
			if v.Method == wire.INVITE {
				under = append(under, v)
			}
		}
		a := of(all, sideA)
		if len(under) < 4 || come(a[:2]) != "INVITE ACK" {
			t.Fatal(all)
		}
		for _, u := range under {
			if a[0].at >= u.at && a[0].at < u.at+32*time.Second {
				t.Errorf("%v within %v", a[0], u)
			}
		}
		c.endedBy(all, 600*time.Second, reasonTTL)
		c.gone()
	})
}

// An INVITE that rings on and on must not cost the call its proof of life: after a
// minute the legs are asked by what touches neither offer nor answer.
func TestLongBlockedProbeIsReplaced(t *testing.T) {
	for _, lines := range []string{updateLines, plainLines} {
		t.Run(fmt.Sprint("UPDATE: ", lines == updateLines), func(t *testing.T) {
			inLab(t, 1, withTimers(func(c *config.Timers) { c.InsertSE = "never" }), func(t *testing.T, l *lab) {
				c := l.talks(timerLines+lines, timerLines+lines)
				c.until(295 * time.Second)
				c.next(sideA, "INVITE", "Contact: <"+c.target(sideA)+">\n", sdpA)
				invite := c.last
				c.a.get("100 INVITE")
				inv := c.b.get("INVITE")
				c.b.sends(c.reply(inv, 180, "", ""))
				c.a.get("180 INVITE")
				var all []visit
				for until := 400 * time.Second; until < 900*time.Second; until += 100 * time.Second {
					all = append(all, c.runs(until, c.alive)...)
					c.b.sends(c.reply(inv, 180, "", "")) // before timer C
					c.a.get("180 INVITE")
				}
				want := "UPDATE"
				if lines == plainLines {
					want = "OPTIONS"
				}
				for _, v := range all {
					if title(v.Msg) != want {
						t.Fatal(all)
					}
				}
				got := of(all, sideB)
				wantTimes(t, got, 360*time.Second, 720*time.Second)
				c.b.sends(c.reply(inv, 488, "", ""))
				c.ackRefusal(sideA, invite, c.a.get("488 INVITE"))
				if lines == plainLines { // OPTIONS was for then only
					got := of(c.runs(2000*time.Second, c.alive), sideB)
					if len(got) == 0 || got[0].Method != wire.INVITE {
						t.Error(got)
					}
				}
				c.hangsUp(sideA)
			})
		})
	}
}

func TestG27Glare(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(reinviteA, reinviteB)
		ours, at := c.waits(sideB, "INVITE", 301*time.Second)
		pass(10 * time.Millisecond)
		offer := strings.Replace(sdpB, "7 7 IN", "7 8 IN", 1)
		c.next(sideB, "INVITE", "Contact: <"+c.target(sideB)+">\n", offer)
		c.b.get("100 INVITE")
		theirs := c.a.get("INVITE")
		if string(theirs.Bytes(theirs.Body)) != crlf(offer) {
			t.Errorf("%s", theirs.Buf)
		}
		c.a.sends(c.reply(theirs, 180, "", ""))
		c.b.get("180 INVITE")
		c.b.sends(c.reply(ours, 491, "", ""))
		c.b.get("ACK")
		pass(time.Second)
		c.a.sends(c.reply(theirs, 200, "Contact: <"+c.target(sideA)+">\n", sdpA))
		c.b.get("200 INVITE")
		c.from(sideB, "ACK", c.cseq[sideB], "", "")
		c.a.get("ACK")
		// Their re-INVITE was the refresh.
		got := of(c.runs(at+310*time.Second, c.alive), sideB)
		if come(got) != "INVITE ACK" || got[0].at < at+300*time.Second {
			t.Error(got)
		}
		c.hangsUp(sideA)
	})
}

func TestG28ProbesFollowTheContact(t *testing.T) {
	for _, side := range []int{sideA, sideB} {
		for _, status := range []int{200, 488} {
			t.Run(fmt.Sprint(sideNames[side], " ", status), func(t *testing.T) {
				inLab(t, 2, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
					c := l.talks(timerLines+updateLines, timerLines+updateLines)
					moved := l.newPeerAt("MOVED", c.peer(side).addr.Addr().String()+":0")
					if side == sideB { // the PBX's other port has to be one of its own
						moved = l.pbx[1]
					}
					uri := strings.Replace(c.target(side), c.peer(side).addr.String(), moved.addr.String(), 1)
					c.until(100 * time.Second)
					c.next(side, "INVITE", "Contact: <"+uri+">\n", sdpA)
					invite := c.last
					c.peer(side).get("100 INVITE")
					inv := c.peer(1 - side).get("INVITE")
					c.peer(1 - side).sends(c.reply(inv, status, "Contact: <"+c.target(1-side)+">\n", ""))
					back := c.peer(side).get(fmt.Sprint(status, " INVITE"))
					old := c.peer(side)
					if status == 200 {
						c.from(side, "ACK", c.cseq[side], "", "")
						c.peer(1 - side).get("ACK")
						if side == sideA {
							c.a = moved
						} else {
							c.b = moved
						}
					} else {
						c.ackRefusal(side, invite, back)
					}
					all := c.runs(410*time.Second, c.alive)
					if got := of(all, side); len(got) != 1 || string(got[0].Bytes(got[0].RURI)) != c.target(side) {
						t.Errorf("%v", all)
					}
					other := of(all, 1-side)
					if len(other) != 1 || string(other[0].Value(wire.KindContact)) != "<"+c.target(side)+">" {
						t.Errorf("%v", all)
					}
					if old != c.peer(side) {
						old.nothing()
					} else {
						moved.nothing()
					}
					c.hangsUp(1 - side)
				})
			})
		}
	}
}

// What a leg answers to our re-INVITE, its peer did not ask for: it is told, or the
// leg is not asked that way again.
func TestG29ChangedAnswerIsToldToThePeer(t *testing.T) {
	changed := strings.Replace(sdpB, "audio 5000", "audio 5002", 1)
	for _, x := range []struct {
		name, caller string
		answer       func(c *talk, v visit) string // of the caller, to being told
		told         string                        // what the caller gets
		next         string                        // the callee's next probe
		lines        int
	}{
		{"told", reinviteA, (*talk).alive, "INVITE ACK", "INVITE", 0},
		{"told, to a caller with UPDATE", timerLines + updateLines, (*talk).alive, "INVITE ACK", "INVITE", 0},
		{"refused", reinviteA, func(c *talk, v visit) string { return c.reply(v.Msg, 488, "", "") }, "INVITE ACK", "OPTIONS", 1},
		{"answered with something else", reinviteA, func(c *talk, v visit) string {
			return c.withSDP(v, strings.Replace(sdpA, "4000", "4002", 1))
		}, "INVITE ACK", "OPTIONS", 1},
	} {
		t.Run(x.name, func(t *testing.T) {
			inLab(t, 1, withTimers(func(c *config.Timers) { c.InsertSE = "never" }), func(t *testing.T, l *lab) {
				c := l.talks(x.caller, reinviteB)
				said, isTold := changed, false // by the callee
				reply := func(v visit) string {
					if v.side == sideB && v.Method == wire.INVITE {
						return c.withSDP(v, said)
					}
					if v.Method == wire.INVITE && string(v.Bytes(v.Body)) == crlf(changed) && !isTold {
						isTold = true
						return x.answer(c, v)
					}
					return c.alive(v)
				}
				all := c.runs(300900*time.Millisecond, reply)
				if !isTold || come(of(all, sideA)) != x.told {
					t.Errorf("%v", all)
				}
				if n := len(l.lines("answered with other media")); n != x.lines {
					t.Errorf("%d lines", n)
				}
				c.runs(310*time.Second, reply)
				all = c.runs(610*time.Second, reply)
				got := of(all, sideB)
				if len(got) == 0 || title(got[0].Msg) != x.next {
					t.Fatalf("%v, want %s", got, x.next)
				}
				if n := strings.Count(come(of(all, sideA)), "INVITE"); x.next == "INVITE" && n > 1 {
					t.Errorf("told again: %v", all)
				}
				// What was told counts as the callee's SDP from now on.
				if x.next == "INVITE" && x.caller == reinviteA {
					a := of(c.runs(910*time.Second, reply), sideA)
					if len(a) == 0 || string(a[0].Bytes(a[0].Body)) != crlf(changed) {
						t.Errorf("%v", a)
					}
					// The callee's own re-INVITE has the CSeq number that ours went out with.
					said = strings.Replace(sdpB, "audio 5000", "audio 5004", 1)
					c.reinvites(sideB, said, 200, sdpA)
					a = of(c.runs(1250*time.Second, reply), sideA)
					if len(a) == 0 || string(a[0].Bytes(a[0].Body)) != crlf(said) {
						t.Errorf("%v", a)
					}
				}
				// Nor are the caller's own re-INVITEs confused by it.
				c.reinvites(sideA, strings.Replace(sdpA, "4000", "4004", 1), 200, sdpB)
				c.hangsUp(sideA)
			})
		})
	}
}

func TestRefusedSessionMakesAReinviteUnsafe(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(reinviteA, reinviteB)
		got := of(c.runs(2000*time.Second, func(v visit) string {
			if v.side == sideB && v.Method == wire.INVITE {
				return c.reply(v.Msg, 488, "", "")
			}
			return c.alive(v)
		}), sideB)
		if strings.Count(come(got), "INVITE") != 1 || strings.Count(come(got), "OPTIONS") < 6 {
			t.Error(come(got))
		}
		c.hangsUp(sideA)
	})
}

// With nothing else allowed the leg is not asked any more, and the call capped.
func TestRefusedSessionWithoutAnotherMethod(t *testing.T) {
	inLab(t, 1, withTimers(func(c *config.Timers) {
		c.ProbeMethods, c.NoTimerCallDuration = []string{"reinvite"}, 1000e9
	}), func(t *testing.T, l *lab) {
		c := l.talks(reinviteA, reinviteB)
		all := c.runs(1002*time.Second, func(v visit) string {
			if v.side == sideB && v.Method == wire.INVITE {
				return c.reply(v.Msg, 488, "", "")
			}
			return c.alive(v)
		})
		if got := of(all, sideB); come(got) != "INVITE ACK BYE" {
			t.Error(got)
		}
		c.endedBy(all, 1000*time.Second, reasonLimit)
		c.gone()
	})
}

func TestG30BrowserIsAskedByOptionsOnly(t *testing.T) {
	inLab(t, 1, withTimers(func(c *config.Timers) { c.InsertSE = "never" }), func(t *testing.T, l *lab) {
		c := l.rings(reinviteA)
		webrtc := strings.Replace(sdpB, "RTP/AVP", "UDP/TLS/RTP/SAVPF", 1) + "a=ice-ufrag:x\na=fingerprint:sha-256 00\na=setup:active\n"
		c.b.sends(c.reply(c.invite, 200, reinviteB+"Contact: <"+c.target(sideB)+">\n", webrtc))
		c.ok = c.a.get("200 INVITE")
		c.answeredAt = c.e.wheel.Now()
		c.acks()
		if got := of(c.runs(2000*time.Second, c.alive), sideB); !isOnly(got, "OPTIONS") || len(got) != 6 {
			t.Error(got)
		}
		c.hangsUp(sideA)
	})
	inLab(t, 1, withTimers(func(c *config.Timers) { c.InsertSE, c.ReinviteWebRTC = "never", true }), func(t *testing.T, l *lab) {
		c := l.rings(reinviteA)
		webrtc := strings.Replace(sdpB, "RTP/AVP", "UDP/TLS/RTP/SAVPF", 1)
		c.b.sends(c.reply(c.invite, 200, reinviteB+"Contact: <"+c.target(sideB)+">\n", webrtc))
		c.ok = c.a.get("200 INVITE")
		c.answeredAt = c.e.wheel.Now()
		c.acks()
		got := of(c.runs(1000*time.Second, func(v visit) string {
			if v.side == sideB && v.Method == wire.INVITE {
				return c.withSDP(v, webrtc)
			}
			return c.alive(v)
		}), sideB)
		if come(got) != "INVITE ACK INVITE ACK INVITE ACK" {
			t.Error(got)
		}
		c.hangsUp(sideA)
	})
}

// A leg on a connection is asked on that connection. When it is gone, that is no
// proof of death: the leg is asked until the deadline.
func TestG31ProbesOnAConnection(t *testing.T) {
	l, pbx := startedWithPBX(t, func(c *config.Config) {
		c.Transaction.T1 = 100e6 // a machine may stall for some seconds before 64*T1 are over
		c.Timers.SessionTTL, c.Timers.ProbeJitter, c.Timers.ProbeLegs = 4e9, 0, "a"
	})
	phone := l.dial(1)
	tcp := func(method string, cseq int, uri, route, toTag, lines string) string {
		return fmt.Sprintf("%s %s SIP/2.0\nVia: SIP/2.0/TCP 10.0.0.1;branch=z9hG4bKg31%s\n%sMax-Forwards: 70\nFrom: <sip:alice@example.org>;tag=ta\nTo: <sip:bob@example.org>%s\nCall-ID: g31\nCSeq: %d %s\n%sContent-Length: 0\n\n",
			method, uri, method, route, toTag, cseq, method, lines)
	}
	phone.sends(tcp("INVITE", 1, "sip:bob@example.org", "", "", timerLines+updateLines+"Contact: <sip:alice@127.0.0.1:1;transport=tcp>\n"))
	phone.get("100 INVITE")
	inv := pbx.get("INVITE")
	l.sendUDP(pbx, response(inv, 200, "tb", crlf(timerLines+updateLines+"Contact: <sip:bob@"+pbx.addr.String()+">\n")))
	ok := phone.get("200 INVITE")
	answered := time.Now()
	phone.sends(tcp("ACK", 1, "sip:bob@"+pbx.addr.String(), routeOf(ok), ";tag=tb", ""))
	pbx.get("ACK")
	for range 2 {
		m := phone.get("UPDATE")
		if !strings.Contains(string(m.Buf), "\r\nVia: SIP/2.0/TCP 127.0.0.1") {
			t.Errorf("%s", m.Buf)
		}
		answered = time.Now() // not later than the edge has it
		phone.sends(response(m, 200, ""))
	}
	_ = phone.conn.Close()
	// The next probe cannot be sent, nor any retry: the BYE comes at the deadline.
	bye := pbx.getsWithin(patience)
	d := time.Since(answered)
	if title(bye) != "BYE" || d < 3900*time.Millisecond {
		t.Errorf("%s after %v", title(bye), d)
	}
	if n := l.e.CallStats().Probes["update/unknown"]; n < 3 {
		t.Errorf("%d retries", n)
	}
	l.sendUDP(pbx, response(bye, 200, ""))
	awaits(func() bool { return l.e.dialogs.Len() == 0 })
	if n := l.e.dialogs.Len(); n != 0 {
		t.Errorf("%d calls left", n)
	}
}

// The texts of requests of our own, between two more proxies: one between the
// phone and the edge, one between the edge and the PBX. PHONE and PBX1 are what
// the edge sees of them.
func TestInjectedRequests(t *testing.T) {
	for _, x := range []struct {
		name      string
		near, far string // Record-Routes of the two proxies
		caller    string
		callee    string
		answer    func(c *talk, v visit) string
		method    string
		edit      func(*config.Timers)
	}{
		{name: "UPDATE", caller: updateLines, callee: updateLines, method: "UPDATE"},
		{name: "INVITE", caller: plainLines, callee: plainLines, method: "INVITE"},
		{name: "ACK", caller: plainLines, callee: plainLines, method: "ACK"},
		{name: "OPTIONS", caller: plainLines, callee: plainLines, method: "OPTIONS", edit: func(c *config.Timers) { c.ProbeMethods = []string{"options"} }},
		{name: "BYE", caller: updateLines, callee: updateLines, method: "BYE", edit: func(c *config.Timers) { c.MaxCallDuration = 200e9 }},
		{name: "strict UPDATE", near: "<sip:near@PHONE>", far: "<sip:far@PBX1;x=1>", caller: updateLines, callee: updateLines, method: "UPDATE"},
		{name: "strict BYE", near: "<sip:near@PHONE>", far: "<sip:far@PBX1;x=1>", caller: updateLines, callee: updateLines, method: "BYE", edit: func(c *config.Timers) { c.MaxCallDuration = 200e9 }},
	} {
		t.Run(x.name, func(t *testing.T) {
			inLab(t, 1, withTimers(func(c *config.Timers) {
				if x.edit != nil {
					x.edit(c)
				}
			}), func(t *testing.T, l *lab) {
				phone, pbx := l.phone, l.pbx[0]
				names := strings.NewReplacer("PHONE", phone.addr.String(), "PBX1", pbx.addr.String())
				near, far := x.near, x.far
				if near == "" {
					near, far = "<sip:near@PHONE;lr>", "<sip:far@PBX1;lr;x=1>"
				}
				c := &talk{lab: l, id: "injected", a: phone, b: pbx, cseq: [2]int{7, 0}}
				invite := names.Replace("INVITE sip:bob@example.org SIP/2.0\nVia: SIP/2.0/UDP PHONE;branch=z9hG4bKnear1;rport\n" +
					"Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKphone1\nRecord-Route: " + near + "\nRecord-Route: <sip:192.0.2.9;lr>\nMax-Forwards: 69\n" +
					"From: \"Alice, A.\" <sip:alice@example.org>;tag=ta\nTo: \"Bob\" <sip:bob@example.org>\nCall-ID: injected\nCSeq: 7 INVITE\n" +
					"Contact: \"Phone\" <sip:alice@192.0.2.1:5062;ob>\n" + x.caller + "Supported: timer, replaces\nSession-Expires: 1800\nMin-SE: 120\n" +
					"User-Agent: Phone\nContent-Type: application/sdp\nContent-Length: " + fmt.Sprint(len(crlf(sdpA))) + "\n\n" + sdpA)
				phone.sends(invite)
				phone.get("100 INVITE")
				in := pbx.get("INVITE")
				ok := response(in, 200, "tb", names.Replace(crlf(x.callee+"Contact: <sip:bob@192.0.2.2:5070>\nSupported: timer\nSession-Expires: 1800;refresher=uac\nRequire: timer\nServer: PBX\nContent-Type: application/sdp\n")))
				ok = strings.Replace(ok, "Record-Route:", "Record-Route: <sip:192.0.2.8;lr>\r\n"+names.Replace("Record-Route: "+far)+"\r\nRecord-Route:", 1)
				ok = strings.Replace(ok, "Content-Length: 0\r\n\r\n", fmt.Sprintf("Content-Length: %d\r\n\r\n", len(crlf(sdpB))), 1) + crlf(sdpB)
				pbx.sends(ok)
				c.ok = phone.get("200 INVITE")
				c.answeredAt = l.e.wheel.Now()
				phone.sends(names.Replace("ACK sip:bob@192.0.2.2:5070 SIP/2.0\nVia: SIP/2.0/UDP PHONE;branch=z9hG4bKnear2;rport\n" + routeOf(c.ok) +
					"Max-Forwards: 69\nFrom: \"Alice, A.\" <sip:alice@example.org>;tag=ta\nTo: \"Bob\" <sip:bob@example.org>;tag=tb\nCall-ID: injected\nCSeq: 7 ACK\nContent-Length: 0\n\n"))
				pbx.get("ACK")
				all := c.runs(306*time.Second, func(v visit) string {
					lines, body := "", ""
					if v.Method == wire.INVITE {
						lines = [2]string{"Contact: <sip:alice@192.0.2.1:5064>\n", "Contact: <sip:bob@192.0.2.2:5072>\n"}[v.side]
						body = [2]string{sdpA, sdpB}[v.side]
					}
					return c.reply(v.Msg, 200, lines, body)
				})
				text := ""
				for _, side := range []int{sideB, sideA} {
					for _, v := range of(all, side) {
						if title(v.Msg) == x.method {
							text += fmt.Sprintf("--- to %s\n%s", c.peer(side).name, l.plain(v.Buf))
						}
					}
				}
				file := filepath.Join("testdata", "injected", strings.ReplaceAll(x.name, " ", "-")+".txt")
				if *update {
					if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
					return
				}
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if string(want) != text {
					t.Errorf("%s:\n%s\ngot\n%s", file, want, text)
				}
			})
		})
	}
}

// A leg that lists UPDATE and refuses it is asked by re-INVITE as soon as its SDP is
// known, which was not kept while UPDATE seemed enough (spec E.6).
func TestRefusedUpdateGivesWayToReinviteWithTheNextSDP(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.talks(timerLines+updateLines, timerLines+updateLines)
		answer := func(v visit) string {
			if v.side == sideB && v.Method == wire.UPDATE {
				return c.reply(v.Msg, 501, "", "")
			}
			return c.withSDP(v, sdpB)
		}
		var got []string
		probesOfB := func(until time.Duration) {
			for _, v := range of(c.runs(until, answer), sideB) {
				got = append(got, string(v.Bytes(v.MethodName)))
			}
		}
		probesOfB(310 * time.Second)
		hold := strings.Replace(sdpA, "1 1 IN", "1 2 IN", 1) + "a=sendonly\n"
		c.reinvites(sideA, hold, 200, sdpB)
		probesOfB(620 * time.Second)
		if want := "UPDATE OPTIONS INVITE"; strings.Join(got, " ") != want && strings.Join(got, " ") != want+" ACK" {
			t.Errorf("the callee got %q, want %q", got, want)
		}
		c.hangsUp(sideA)
	})
}
