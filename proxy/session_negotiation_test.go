package proxy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// hopLines are the lines that every proxy writes (RFC 3261 16.6), besides the client's
// address for the PBX. The golden files of splice pin them down.
var hopLines = []string{"Via:", "Route:", "Record-Route:", "Max-Forwards:", "X-AUTH-IP:"}

// changed lists what the edge made of a message besides its hop: the lines that it
// took out ("- …") and put in ("+ …"), in order. Nothing else differs by a byte.
func changed(sent string, got *wire.Msg) []string {
	lines := func(text string) []string {
		return slices.DeleteFunc(strings.SplitAfter(text, "\r\n"), func(line string) bool {
			return slices.ContainsFunc(hopLines, func(h string) bool { return strings.HasPrefix(line, h) })
		})
	}
	was, is := lines(sent), lines(string(got.Buf))
	// The longest common part of was[i:] and is[j:].
	common := make([][]int, len(was)+1)
	for i := range common {
		common[i] = make([]int, len(is)+1)
	}
	for i := len(was) - 1; i >= 0; i-- {
		for j := len(is) - 1; j >= 0; j-- {
			common[i][j] = max(common[i+1][j], common[i][j+1])
			if was[i] == is[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var all []string
	for i, j := 0, 0; i < len(was) || j < len(is); {
		switch {
		case i < len(was) && j < len(is) && was[i] == is[j]:
			i, j = i+1, j+1
		case j == len(is) || i < len(was) && common[i+1][j] >= common[i][j+1]:
			all = append(all, "- "+strings.TrimSuffix(was[i], "\r\n"))
			i++
		default:
			all = append(all, "+ "+strings.TrimSuffix(is[j], "\r\n"))
			j++
		}
	}
	return all
}

// refreshes has a side send a session refresh request and the other one answer it
// with 200, and returns what the edge changed on the way there and on the way back.
func (t *talk) refreshes(side int, method, lines, answer string) (there, back []string) {
	t.Helper()
	from, to := t.peer(side), t.peer(1-side)
	sdp := [2]string{sdpA, sdpB}
	contact := func(side int) string {
		return fmt.Sprintf("Contact: <sip:%s@%s>\n", [...]string{"alice", "bob"}[side], t.peer(side).addr)
	}
	if method == "UPDATE" {
		sdp = [2]string{}
	}
	t.next(side, method, lines+contact(side), sdp[side])
	sent := t.last
	if method == "INVITE" {
		from.get("100 INVITE")
	}
	got := to.get(method)
	there = changed(sent, got)
	to.sends(t.reply(got, 200, answer+contact(1-side), sdp[1-side]))
	response := t.last
	arrived := from.get("200 " + method)
	back = changed(response, arrived)
	if method == "INVITE" {
		to.sends(response)
		if again := from.get("200 INVITE"); string(again.Buf) != string(arrived.Buf) {
			t.Errorf("the copy of the 200 differs:\n%s\n%s", again.Buf, arrived.Buf)
		}
		t.from(side, "ACK", t.cseq[side], "", "")
		if ack := to.get("ACK"); ack.CSeq != got.CSeq {
			t.Errorf("ACK with CSeq %d for an INVITE with %d", ack.CSeq, got.CSeq)
		}
	}
	return there, back
}

// info is the call of the talk as an operator sees it.
func (t *talk) info() CallInfo {
	t.Helper()
	all := t.e.Calls(CallFilter{CallID: t.id})
	if len(all) != 1 {
		t.Fatalf("%d calls: %+v", len(all), all)
	}
	return all[0]
}

// view is how the legs see the session timer: "1800 self, 0", the caller first.
func (t *talk) view() string {
	t.Helper()
	var all []string
	for _, l := range t.info().Legs {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%d %s", l.SE, l.Refresher)))
	}
	return strings.Join(all, ", ")
}

// negotiations are table B of the specification with the bytes that both sides see.
// Where a refresh request carries the same header fields within the dialog, the same
// happens to it.
var negotiations = []struct {
	name           string
	timers         func(*config.Timers)
	caller, callee string   // header lines of the request and of its 2xx
	there, back    []string // what the edge changes in them
	mode, view     string
	unread         uint64 // intervals that mean nothing, of all its requests
}{
	{
		name:   "G1 interval from both, the caller refreshes",
		caller: "Supported: timer, replaces\nSession-Expires: 1800\n", callee: "Require: timer\nSession-Expires: 1800;refresher=uac\n",
		mode: "R", view: "1800 self, 1800 peer",
	},
	{
		name:   "G1 interval from both, the callee refreshes",
		caller: "Supported: timer\nSession-Expires: 1800;refresher=uas\n", callee: "Session-Expires: 900;refresher=uas\n",
		mode: "R", view: "900 peer, 900 self",
	},
	{
		name:   "G1 interval from both without refresher in the answer",
		caller: "Supported: timer\nSession-Expires: 1800\n", callee: "Session-Expires: 1800\n",
		mode: "R", view: "1800 self, 1800 peer",
	},
	{
		name:   "G1 interval that a proxy before us wrote",
		caller: "Session-Expires: 1800\n", callee: "Supported: timer\nSession-Expires: 1800;refresher=uas\n",
		mode: "R", view: "1800 peer, 1800 self",
	},
	{
		name:   "G1 interval in an answer below our minimum",
		caller: "Supported: timer\nSession-Expires: 1800\n", callee: "Session-Expires: 30;refresher=uac\n",
		mode: "R", view: "30 self, 30 peer",
	},
	{
		name:   "G2 the callee knows no timer",
		caller: "Supported: timer\nSession-Expires: 1800\n",
		back:   []string{"+ Session-Expires: 1800;refresher=uac", "+ Require: timer"},
		mode:   "R", view: "1800 self, 0",
	},
	{
		name:   "G2 the callee requires something else",
		caller: "Supported: timer, 100rel\nSession-Expires: 1800;refresher=uac\n", callee: "Require: 100rel\n",
		back: []string{"- Require: 100rel", "+ Require: 100rel, timer", "+ Session-Expires: 1800;refresher=uac"},
		mode: "R", view: "1800 self, 0",
	},
	{
		name:   "G2 the callee requires two other things",
		caller: "Supported: timer, 100rel\nSession-Expires: 1800\n", callee: "Require: 100rel\nRequire: replaces\n",
		back: []string{"- Require: 100rel", "+ Require: 100rel, timer", "+ Session-Expires: 1800;refresher=uac"},
		mode: "R", view: "1800 self, 0",
	},
	{
		name:   "G2 the callee requires timer and forgot the interval",
		caller: "Supported: timer\nSession-Expires: 1800\n", callee: "Require: 100rel, timer\n",
		back: []string{"+ Session-Expires: 1800;refresher=uac"},
		mode: "R", view: "1800 self, 0",
	},
	{
		name:   "G4 the caller supports timer without an interval",
		caller: "Supported: timer\n", callee: "Session-Expires: 600;refresher=uac\nRequire: timer\n",
		there: []string{"+ Session-Expires: 600"},
		mode:  "R", view: "600 self, 600 peer",
	},
	{
		name:   "G4 and the callee does not know it",
		caller: "Supported: timer\n",
		there:  []string{"+ Session-Expires: 600"},
		back:   []string{"+ Session-Expires: 600;refresher=uac", "+ Require: timer"},
		mode:   "R", view: "600 self, 0",
	},
	{
		name:   "G4 with a minimum of the caller",
		caller: "Supported: timer\nMin-SE: 1800\n", callee: "Session-Expires: 1800;refresher=uas\n",
		there: []string{"+ Session-Expires: 1800"},
		mode:  "R", view: "1800 peer, 1800 self",
	},
	{
		name: "G4 insert_se never", timers: func(c *config.Timers) { c.InsertSE = "never" },
		caller: "Supported: timer\n",
		mode:   "P", view: "0, 0",
	},
	{
		name: "G4 insert_se never, but the callee wants it", timers: func(c *config.Timers) { c.InsertSE = "never" },
		caller: "Supported: timer\n", callee: "Require: timer\nSession-Expires: 900;refresher=uas\n",
		mode: "R", view: "900 peer, 900 self",
	},
	{
		name: "G4 insert_se never with an interval of the caller", timers: func(c *config.Timers) { c.InsertSE = "never" },
		caller: "Supported: timer\nSession-Expires: 1800\n",
		back:   []string{"+ Session-Expires: 1800;refresher=uac", "+ Require: timer"},
		mode:   "R", view: "1800 self, 0",
	},
	{
		name: "G4 insert_se always", timers: func(c *config.Timers) { c.InsertSE = "always" },
		callee: "Supported: timer\nSession-Expires: 600;refresher=uas\n",
		there:  []string{"+ Session-Expires: 600"},
		mode:   "R", view: "600 peer, 600 self",
	},
	{
		name: "G4 insert_se always, and nobody knows timer", timers: func(c *config.Timers) { c.InsertSE = "always" },
		there: []string{"+ Session-Expires: 600"},
		mode:  "N", view: "0, 0",
	},
	{
		name: "G4 session_ttl 0", timers: func(c *config.Timers) { c.SessionTTL = 0 },
		caller: "Supported: timer\n",
		mode:   "N", view: "0, 0",
	},
	{
		name:   "G5 nobody knows timer",
		caller: "Supported: replaces\nX-Custom: a,  b\n", callee: "Allow: INVITE\nX-Other:x\n",
		mode: "N", view: "0, 0",
	},
	{
		name:   "G5 only the callee supports timer",
		callee: "Supported: timer\n",
		mode:   "P", view: "0, 0",
	},
	{
		name: "G5 only the callee, detect session_expires", timers: func(c *config.Timers) { c.Detect = "session_expires" },
		callee: "Supported: timer\n",
		mode:   "N", view: "0, 0",
	},
	{
		name:   "G5 an interval without support, and none in the answer",
		caller: "Session-Expires: 1800\n",
		mode:   "P", view: "0, 0",
	},
	{
		name:   "too small an interval of a caller without timer",
		caller: "Session-Expires: 60;refresher=uac\nSupported: replaces\n", callee: "Session-Expires: 90;refresher=uas\n",
		there: []string{"- Session-Expires: 60;refresher=uac", "+ Session-Expires: 90;refresher=uac", "+ Min-SE: 90"},
		mode:  "R", view: "90 peer, 90 self",
	},
	{
		name:   "too small an interval, and a larger minimum",
		caller: "Session-Expires: 60\nMin-SE: 120;x=y\n",
		there:  []string{"- Session-Expires: 60", "+ Session-Expires: 120"},
		mode:   "P", view: "0, 0",
	},
	{
		name:   "too small an interval, and a smaller minimum",
		caller: "Min-SE: 30\nSession-Expires: 60\n",
		there:  []string{"- Min-SE: 30", "- Session-Expires: 60", "+ Min-SE: 90", "+ Session-Expires: 90"},
		mode:   "P", view: "0, 0",
	},
	{
		name: "too small an interval, with our own minimum", timers: func(c *config.Timers) { c.MinSE = 300e9 },
		caller: "Session-Expires: 299\n",
		there:  []string{"- Session-Expires: 299", "+ Session-Expires: 300", "+ Min-SE: 300"},
		mode:   "P", view: "0, 0",
	},
	{
		name:   "too small an interval, and a minimum that is none",
		caller: "Session-Expires: 60\nMin-SE: few\n",
		there:  []string{"- Session-Expires: 60", "- Min-SE: few", "+ Session-Expires: 90", "+ Min-SE: 90"},
		mode:   "P", view: "0, 0",
	},
	{
		name: "too small an interval, reject_small_se no", timers: func(c *config.Timers) { c.RejectSmallSE = false },
		caller: "Supported: timer\nSession-Expires: 60\n", callee: "Session-Expires: 60;refresher=uac\n",
		mode: "R", view: "60 self, 60 peer",
	},
	{
		name:   "G7 compact forms",
		caller: "k: timer\nx: 60000;refresher=uac\n", callee: "x: 60000;refresher=uac\n",
		mode: "R", view: "60000 self, 60000 peer",
	},
	{
		name:   "G7 compact forms that are changed",
		caller: "x:60 ; refresher=uas\nk: replaces\n",
		there:  []string{"- x:60 ; refresher=uas", "+ x:90 ; refresher=uas", "+ Min-SE: 90"},
		mode:   "P", view: "0, 0",
	},
	{
		name:   "G7 compact Supported alone",
		caller: "k: 100rel,timer\n",
		there:  []string{"+ Session-Expires: 600"},
		back:   []string{"+ Session-Expires: 600;refresher=uac", "+ Require: timer"},
		mode:   "R", view: "600 self, 0",
	},
	{
		name:   "G7 folded lines",
		caller: "Supported: replaces,\n  timer\nSession-Expires:\n 1800\n ;refresher=uac\n", callee: "Require: 100rel,\n replaces\n",
		back: []string{"-  replaces", "+  replaces, timer", "+ Session-Expires: 1800;refresher=uac"},
		mode: "R", view: "1800 self, 0",
	},
	{
		name:   "G7 folded lines that are changed",
		caller: "Session-Expires:\n\t60\n ;refresher=uas\n",
		there:  []string{"- \t60", "+ \t90", "+ Min-SE: 90"},
		mode:   "P", view: "0, 0",
	},
	{
		name:   "G7 other parameters",
		caller: "Supported: timer\nSession-Expires: 1800;x=\"a;refresher=uas\";Refresher=UAC;y\n", callee: "Session-Expires: 1800 ;a=b; refresher = uas\n",
		mode: "R", view: "1800 peer, 1800 self",
	},
	{
		name:   "G7 two intervals",
		caller: "Supported: timer\nSession-Expires: 1800\nSession-Expires: 60\n",
		mode:   "P", view: "0, 0", unread: 5,
	},
	{
		name:   "G7 two intervals in the answer",
		caller: "Supported: timer\nSession-Expires: 1800\n", callee: "Session-Expires: 1800;refresher=uac\nx: 900;refresher=uas\n",
		mode: "P", view: "0, 0",
	},
	{name: "G7 interval 0", caller: "Supported: timer\nSession-Expires: 0\n", mode: "P", view: "0, 0", unread: 5},
	{name: "G7 interval too large", caller: "Supported: timer\nSession-Expires: 99999999999\n", mode: "P", view: "0, 0", unread: 5},
	{name: "G7 interval of letters", caller: "Supported: timer\nSession-Expires: soon\n", mode: "P", view: "0, 0", unread: 5},
	{name: "G7 empty interval", caller: "Supported: timer\nSession-Expires:\n", mode: "P", view: "0, 0", unread: 5},
	{name: "G7 negative interval without support", caller: "Session-Expires: -1\n", mode: "N", view: "0, 0", unread: 5},
	{
		name:   "G7 an interval of letters in the answer",
		caller: "Supported: timer\nSession-Expires: 1800\n", callee: "Session-Expires: soon;refresher=uac\n",
		mode: "P", view: "0, 0",
	},
	{
		name:   "G7 an empty Require",
		caller: "Supported: timer\nSession-Expires: 1800\n", callee: "Require:\n",
		back: []string{"- Require:", "+ Require:timer", "+ Session-Expires: 1800;refresher=uac"},
		mode: "R", view: "1800 self, 0",
	},
}

// G1, G2, G4, G5, G7, and rows 1 to 9 of table B: INVITE, re-INVITE from either side
// and UPDATE, on both sides of the edge.
func TestG1To7SessionTimerIsNegotiatedWithNoOtherByteChanged(t *testing.T) {
	for _, n := range negotiations {
		t.Run(n.name, func(t *testing.T) {
			change := withTimers(func(c *config.Timers) {
				if n.timers != nil {
					n.timers(c)
				}
			})
			inLab(t, 1, change, func(t *testing.T, l *lab) {
				same := func(what string, got, want []string) {
					t.Helper()
					if !slices.Equal(got, want) {
						t.Errorf("%s: changed\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
					}
				}
				c := l.rings(n.caller)
				same("INVITE", changed(c.last, c.invite), n.there)
				c.answers(n.callee)
				same("200", changed(c.last, c.ok), n.back)
				c.b.sends(c.last) // and its copies
				if again := c.a.get("200 INVITE"); string(again.Buf) != string(c.ok.Buf) {
					t.Errorf("the copy of the 200 differs:\n%s\n%s", again.Buf, c.ok.Buf)
				}
				c.acks()
				if got := c.info().Mode; got != n.mode {
					t.Errorf("mode %q, want %q", got, n.mode)
				}
				if got := c.view(); got != n.view {
					t.Errorf("legs see %q, want %q", got, n.view)
				}
				for _, method := range []string{"INVITE", "UPDATE"} {
					for _, side := range []int{sideA, sideB} {
						there, back := c.refreshes(side, method, n.caller, n.callee)
						same(method+" in the dialog", there, n.there)
						same("200 to it", back, n.back)
					}
				}
				if got := l.e.Counters().BadTimers; got != n.unread {
					t.Errorf("%d intervals that mean nothing were counted, want %d", got, n.unread)
				}
				c.hangsUp(sideB)
			})
		})
	}
}

// invites has the caller send an INVITE outside any dialog, with the number of its
// attempt, and returns it as the callee got it.
func (t *talk) invites(lines string) *wire.Msg {
	t.Helper()
	t.a.sends(t.text(sideA, "INVITE", t.cseq[sideA], lines+"Contact: <sip:alice@"+t.a.addr.String()+">\n", sdpA, "sip:bob@example.org", "", ""))
	t.a.get("100 INVITE")
	t.invite = t.b.get("INVITE")
	return t.invite
}

// refused has the callee refuse the INVITE with a 422 and returns that as it arrived.
func (t *talk) refused(invite *wire.Msg, minSE string) *wire.Msg {
	t.Helper()
	t.b.sends(t.reply(invite, 422, minSE, ""))
	sent := t.last
	t.b.get("ACK")
	got := t.a.get("422 INVITE")
	if c := changed(sent, got); c != nil {
		t.Errorf("422: changed %q", c)
	}
	return got
}

// hopACK is the ACK for the failure of an INVITE that was sent (17.1.1.3).
func hopACK(sent string, failure *wire.Msg) string {
	var m wire.Msg
	m.Scan([]byte(sent), false)
	to := failure.Headers[failure.First(wire.KindTo)].Line
	return string(appendHopRequest(nil, &m, "ACK", failure.Bytes(to), ""))
}

// acksFailure has a side acknowledge the failure of its INVITE, hop by hop: the ACK
// must not reach the other side (17.2.1).
func (t *talk) acksFailure(side int, sent string, failure *wire.Msg) {
	t.Helper()
	t.peer(side).sends(hopACK(sent, failure))
	t.peer(1 - side).nothing()
	t.peer(side).nothing()
}

// header is the value of a header of a message that has one at most.
func header(m *wire.Msg, k wire.Kind) string { return string(m.Value(k)) }

func TestG6MinimumOfTheCalleeIsLearned(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.rings(timerLines)
		if got := header(c.invite, wire.KindSessionExpires); got != "600" {
			t.Fatalf("first INVITE with Session-Expires %q", got)
		}
		first := c.last
		c.acksFailure(sideA, first, c.refused(c.invite, "Min-SE: 1800\n"))
		pass(50 * time.Second)
		// The caller does as RFC 4028 7.3 says, or leaves it to us again.
		c.cseq[sideA]++
		second := c.invites(timerLines)
		if got := header(second, wire.KindSessionExpires); got != "1800" {
			t.Errorf("second INVITE with Session-Expires %q, want what the 422 said", got)
		}
		if got := second.First(wire.KindMinSE); got >= 0 {
			t.Errorf("Min-SE was added to a request of somebody who supports timer")
		}
		c.answers("Require: timer\nSession-Expires: 1800;refresher=uac\n")
		c.acks()
		if got := c.view(); got != "1800 self, 1800 peer" {
			t.Errorf("legs see %q", got)
		}
		c.hangsUp(sideA)
	})
}

func TestG6CallersOwnRetryIsNotTouched(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.rings(timerLines + "Session-Expires: 600\n")
		first := c.last
		c.acksFailure(sideA, first, c.refused(c.invite, "Min-SE: 1800\n"))
		c.cseq[sideA]++
		got := c.invites(timerLines + "Session-Expires: 1800\nMin-SE: 1800\n")
		if d := changed(c.last, got); d != nil {
			t.Errorf("changed %q", d)
		}
		c.answers("")
		if got := header(c.ok, wire.KindSessionExpires); got != "1800;refresher=uac" {
			t.Errorf("200 with Session-Expires %q", got)
		}
		c.acks()
		c.hangsUp(sideA)
	})
}

func TestG6LearnedMinimumIsForgottenAndNobodyElses(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.rings(timerLines)
		first := c.last
		c.acksFailure(sideA, first, c.refused(c.invite, "Min-SE: 1800\n"))
		other := l.rings(timerLines)
		if got := header(other.invite, wire.KindSessionExpires); got != "600" {
			t.Errorf("another call with Session-Expires %q", got)
		}
		other.answers("")
		other.acks()
		other.asks(sideA, "BYE", "", "", 200, "")
		pass(61 * time.Second)
		c.cseq[sideA]++
		if got := header(c.invites(timerLines), wire.KindSessionExpires); got != "600" {
			t.Errorf("after 61 s Session-Expires %q", got)
		}
		c.answers("")
		c.acks()
		c.hangsUp(sideA)
	})
}

func TestG6MinimumIsLearnedInTheDialogToo(t *testing.T) {
	for _, method := range []string{"INVITE", "UPDATE"} {
		for _, side := range []int{sideA, sideB} {
			t.Run(fmt.Sprintf("%s from side %d", method, side), func(t *testing.T) {
				inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
					c := l.talks("", "")
					c.next(side, method, timerLines, "")
					sent := c.last
					if method == "INVITE" {
						c.peer(side).get("100 INVITE")
					}
					got := c.peer(1 - side).get(method)
					if se := header(got, wire.KindSessionExpires); se != "600" {
						t.Errorf("Session-Expires %q was written", se)
					}
					c.peer(1 - side).sends(c.reply(got, 422, "Min-SE: 1800\n", ""))
					refusal := c.peer(side).get("422 " + method)
					if method == "INVITE" {
						c.peer(1 - side).get("ACK")
						c.acksFailure(side, sent, refusal)
					}
					there, _ := c.refreshes(side, method, timerLines, "Require: timer\nSession-Expires: 1800;refresher=uac\n")
					if want := []string{"+ Session-Expires: 1800"}; !slices.Equal(there, want) {
						t.Errorf("second %s: changed %q, want %q", method, there, want)
					}
					c.hangsUp(sideA)
				})
			})
		}
	}
}

// Row 10 of table B, A.1.1.
func TestTooSmallAnIntervalIsRefusedByTheEdge(t *testing.T) {
	for _, small := range []string{"Supported: timer\nSession-Expires: 299\n", "Require: timer\nx: 1;refresher=uas\n", "k: a,timer\nSession-Expires: 90\nMin-SE: 90\n"} {
		inLab(t, 1, withTimers(func(c *config.Timers) { c.MinSE = 300e9 }), func(t *testing.T, l *lab) {
			c := &talk{lab: l, id: "small", a: l.phone, b: l.pbx[0], cseq: [2]int{1, 0}}
			c.a.sends(c.text(sideA, "INVITE", 1, small, sdpA, "sip:bob@example.org", "", ""))
			refusal := c.a.get("422 INVITE")
			if got := header(refusal, wire.KindMinSE); got != "300" {
				t.Errorf("Min-SE %q", got)
			}
			c.acksFailure(sideA, c.last, refusal)
			if n := len(l.e.Calls(CallFilter{})); n != 0 {
				t.Errorf("%d calls", n)
			}
			c.cseq[sideA]++
			second := c.invites("Supported: timer\nSession-Expires: 300\nMin-SE: 300\n")
			if d := changed(c.last, second); d != nil {
				t.Errorf("second INVITE: changed %q", d)
			}
			c.answers("Session-Expires: 300;refresher=uac\n")
			c.acks()
			// And in the dialog, where nothing of it reaches the other side either.
			for _, method := range []string{"INVITE", "UPDATE"} {
				for _, side := range []int{sideA, sideB} {
					c.next(side, method, small, "")
					sent := c.last
					refusal := c.peer(side).get("422 " + method)
					if got := header(refusal, wire.KindMinSE); got != "300" {
						t.Errorf("Min-SE %q", got)
					}
					if int(refusal.CSeq) != c.cseq[side] {
						t.Errorf("422 with CSeq %d, want %d", refusal.CSeq, c.cseq[side])
					}
					c.peer(1 - side).nothing()
					if method == "INVITE" {
						c.acksFailure(side, sent, refusal)
					}
					there, back := c.refreshes(side, method, "Supported: timer\nSession-Expires: 300\n", "Session-Expires: 300;refresher=uac\n")
					if there != nil || back != nil {
						t.Errorf("after the 422: changed %q, %q", there, back)
					}
				}
			}
			c.hangsUp(sideA)
		})
	}
}

// lives lets the clock run while both sides answer every probe with 200 and the
// Session-Expires that it has, and counts what each of them got.
func (t *talk) lives(d time.Duration, lines string, seen func(side int, m *wire.Msg)) (n [2]int) {
	t.Helper()
	for end := t.e.wheel.Now() + d; t.e.wheel.Now() < end; pass(50 * time.Millisecond) {
		for side := range n {
			for m := t.peer(side).getsWithin(0); m != nil; m = t.peer(side).getsWithin(0) {
				if !m.IsRequest() || m.Method == wire.BYE {
					t.Fatalf("%s got %q after %v:\n%s", t.peer(side).name, title(m), t.e.wheel.Now()-t.answeredAt, m.Buf)
				}
				if m.Method == wire.ACK {
					continue
				}
				n[side]++
				if seen != nil {
					seen(side, m)
				}
				answer := lines
				if se := header(m, wire.KindSessionExpires); se != "" {
					answer += "Session-Expires: " + se + "\n"
				}
				t.peer(side).sends(t.reply(m, 200, answer, ""))
			}
		}
	}
	return n
}

func withLab(ttl, noTimer time.Duration) func(*config.Config) {
	return withTimers(func(c *config.Timers) {
		c.SessionTTL, c.NoTimerCallDuration = config.Duration(ttl), config.Duration(noTimer)
	})
}

func TestG8RefreshWithoutIntervalEndsTheSessionTimerButNotTheProbes(t *testing.T) {
	for _, method := range []string{"INVITE", "UPDATE"} {
		inLab(t, 1, withLab(12*time.Second, 30*time.Second), func(t *testing.T, l *lab) {
			with := updateLines + timerLines + "Session-Expires: 1800;refresher=uac\n"
			c := l.talks(with, with)
			if got := c.view(); got != "1800 self, 1800 peer" {
				t.Errorf("legs see %q", got)
			}
			c.lives(20*time.Second, updateLines, func(side int, m *wire.Msg) {
				want := [...]string{"1800;refresher=uas", "1800;refresher=uac"}[side]
				if got := header(m, wire.KindSessionExpires); got != want {
					t.Errorf("probe of side %d with Session-Expires %q, want %q", side, got, want)
				}
			})
			// Now a UAC without timer, answered without an interval.
			there, back := c.refreshes(sideB, method, updateLines, updateLines)
			if want := []string{"- CSeq: 1 " + method, "+ CSeq: 4 " + method}; !slices.Equal(there, want) {
				t.Errorf("changed %q, want %q", there, want)
			}
			if want := []string{"- CSeq: 4 " + method, "+ CSeq: 1 " + method}; !slices.Equal(back, want) {
				t.Errorf("changed %q, want %q", back, want)
			}
			if got, mode := c.view(), c.info().Mode; got != "0, 0" || mode != "R" {
				t.Errorf("legs see %q in mode %s", got, mode)
			}
			n := c.lives(60*time.Second, updateLines, func(side int, m *wire.Msg) {
				if m.First(wire.KindSessionExpires) >= 0 {
					t.Errorf("probe of side %d with Session-Expires:\n%s", side, m.Buf)
				}
			})
			if n[sideA] < 8 || n[sideB] < 8 {
				t.Errorf("%v probes in 60 s", n)
			}
			if got := c.info(); len(got.Limits) != 1 || got.EndsBy != "session_ttl" {
				t.Errorf("limits %+v", got.Limits)
			}
			c.hangsUp(sideA)
		})
	}
}

func TestG9RefreshByAnEndpointTakesThePlaceOfProbes(t *testing.T) {
	for _, side := range []int{sideA, sideB} {
		inLab(t, 1, withLab(12*time.Second, 30*time.Second), func(t *testing.T, l *lab) {
			with := updateLines + timerLines + "Session-Expires: 12;refresher=uac\n"
			c := l.talks(strings.Replace(with, "12;", "1800;", 1), with)
			for range 15 {
				if n := c.lives(4*time.Second, updateLines, nil); n != [2]int{} {
					t.Fatalf("%v probes", n)
				}
				there, back := c.refreshes(side, "UPDATE", "Supported: timer\nSession-Expires: 1800;refresher=uac\n", with)
				if there != nil || back != nil {
					t.Errorf("changed %q, %q", there, back)
				}
			}
			if n := c.lives(8*time.Second, updateLines, nil); n != [2]int{1, 1} {
				t.Errorf("%v probes once the endpoint is quiet", n)
			}
			c.hangsUp(sideA)
		})
	}
}

func TestG10LaterIntervalTurnsThePassiveCallIntoAWatchedOne(t *testing.T) {
	for _, method := range []string{"INVITE", "UPDATE"} {
		for _, side := range []int{sideA, sideB} {
			inLab(t, 1, withLab(12*time.Second, 30*time.Second), func(t *testing.T, l *lab) {
				c := l.talks(updateLines, updateLines)
				if n := c.lives(20*time.Second, "", nil); n != [2]int{} {
					t.Errorf("%v probes of a call without timer", n)
				}
				if got := c.info(); got.Mode != "N" || got.EndsBy != "no_timer_call_duration" {
					t.Errorf("mode %s, ends by %s", got.Mode, got.EndsBy)
				}
				se := "Supported: timer\nSession-Expires: 1800;refresher=uac\n"
				there, back := c.refreshes(side, method, se, se)
				if there != nil || back != nil {
					t.Errorf("changed %q, %q", there, back)
				}
				if got := c.info(); got.Mode != "R" || got.EndsBy != "session_ttl" || len(got.Limits) != 1 {
					t.Errorf("mode %s, limits %+v", got.Mode, got.Limits)
				}
				if n := c.lives(60*time.Second, updateLines, nil); n[sideA] < 8 || n[sideB] < 8 {
					t.Errorf("%v probes in 60 s", n)
				}
				c.hangsUp(side)
			})
		}
	}
}

// A.3: every 2xx of every fork.
func TestG2EveryForkGetsTheInterval(t *testing.T) {
	inLab(t, 1, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
		c := l.rings(timerLines + "Session-Expires: 1800\n")
		c.answers("")
		fork := strings.ReplaceAll(c.last, ";tag=tb", ";tag=tc")
		c.acks()
		for range 2 {
			c.b.sends(fork)
			got := c.a.get("200 INVITE")
			if d, want := changed(fork, got), []string{"+ Session-Expires: 1800;refresher=uac", "+ Require: timer"}; !slices.Equal(d, want) {
				t.Errorf("changed %q, want %q", d, want)
			}
		}
		for _, method := range []string{"ACK", "BYE"} { // 13.2.2.4
			cseq := 1
			if method == "BYE" {
				cseq = 2
			}
			c.a.sends(c.text(sideA, method, cseq, "", "", "sip:bob@"+c.b.addr.String(), routeOf(c.ok), "tc"))
			got := c.b.get(method)
			if method == "BYE" {
				c.b.sends(c.reply(got, 200, "", ""))
				c.a.get("200 BYE")
			}
		}
		c.hangsUp(sideA)
	})
}
