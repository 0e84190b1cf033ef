package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy"
	"github.com/sipward/sipward/test/siptest"
)

// Header lines of the parties of a call.
var (
	timerLines = []string{"Supported: timer", "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO, REFER, NOTIFY, PRACK"}
	plainLines = []string{"Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO"}
)

// quick are transaction timers that leave room for many of them in a short call.
const quick = "lab: yes\ntransaction: { t1: 0.05, t2: 0.4, t4: 0.4, timer_b: 3.2, invite_failover: 1, request_failover: 1 }\n"

// quickT1 is their T1, for parties that keep pace.
const quickT1 = 50 * time.Millisecond

// brisk are shorter ones: a request without answer is given up after 1.3 s.
const brisk = "lab: yes\ntransaction: { t1: 0.02, t2: 0.16, t4: 0.16, timer_b: 1.28, invite_failover: 0.5, request_failover: 0.5 }\n"

// slow is what a loaded machine may add to a time that is due. What must not come too early is
// held to the exact time.
const slow = 5 * time.Second

// conversation is one call between two strict parties through an edge of its own.
type conversation struct {
	t       *testing.T
	edge    *siptest.Edge
	addr    netip.AddrPort
	records string // the file of call records
	a, b    *siptest.Party
	atA     *siptest.Raw
	atB     *siptest.Raw
	ok      *siptest.Message // the 2xx as the caller got it
}

// newConversation starts an edge with these top-level keys, and the two parties; there is no
// call yet.
func newConversation(t *testing.T, network, top string, a, b siptest.PartyOptions) *conversation {
	t.Helper()
	c := &conversation{t: t, addr: freeAddr(t), records: filepath.Join(t.TempDir(), "calls")}
	atB := rawListen(t, network, at(nodeA), nil)
	c.edge = siptest.StartEdge(t, settings{
		listen: []string{network + ":" + c.addr.String()}, backends: []string{atB.URI("")}, top: top + recordsTo(c.records, "json"),
	}.yaml())
	c.atA = rawDial(t, network, c.addr, nil)
	c.atB = atB
	c.parties(a, b)
	return c
}

func recordsTo(output, format string) string {
	return fmt.Sprintf("cdr: { output: %q, format: %s }\n", output, format)
}

func (c *conversation) parties(a, b siptest.PartyOptions) {
	a.Name, b.Name = "alice", "bob"
	for _, o := range []*siptest.PartyOptions{&a, &b} {
		if o.T1 == 0 {
			o.T1 = 100 * time.Millisecond
		}
	}
	c.a, c.b = siptest.NewParty(c.atA, a), siptest.NewParty(c.atB, b)
	c.t.Cleanup(func() {
		c.a.Close()
		c.b.Close()
		for _, wrong := range append(c.a.Wrong(), c.b.Wrong()...) {
			c.t.Error(wrong)
		}
	})
}

// call places the call; the callee has its ACK when it returns.
func (c *conversation) call() *conversation {
	c.t.Helper()
	ctx := within(c.t, 30*time.Second)
	ok, err := c.a.Call(ctx, "sip:bob@siptest.example")
	if err != nil {
		c.t.Fatal(err)
	}
	c.ok = ok
	c.hears(c.b, "ACK", 1)
	return c
}

// hears waits for the n-th request of a method.
func (c *conversation) hears(p *siptest.Party, method string, n int) siptest.Heard {
	c.t.Helper()
	h, err := p.Await(within(c.t, 60*time.Second), method, n)
	if err != nil {
		c.t.Fatal(err)
	}
	return h
}

// hungUp waits for the edge's BYE on both legs and checks its Reason, and that it came not
// before the limit after since.
func (c *conversation) hungUp(reason string, since time.Time, limit time.Duration) {
	c.t.Helper()
	for _, p := range []*siptest.Party{c.a, c.b} {
		bye := c.hears(p, "BYE", 1)
		if got := bye.Get("Reason"); !strings.HasPrefix(got, reason) {
			c.t.Errorf("BYE with Reason %q, want %q", got, reason)
		}
		if len(bye.Values("Via")) != 1 {
			c.t.Errorf("not a BYE of the edge itself:\n%s", bye)
		}
		if took := bye.At.Sub(since); took < limit || took > limit+slow {
			c.t.Errorf("BYE after %s, the limit is %s", took, limit)
		}
	}
}

// record is one line of a JSON file of call records.
type record struct {
	CallID       string    `json:"call_id"`
	From         string    `json:"from"`
	To           string    `json:"to"`
	RURI         string    `json:"ruri"`
	Source       string    `json:"src"`
	Transport    string    `json:"transport"`
	Pool         string    `json:"pool"`
	Backend      string    `json:"backend"`
	Start        time.Time `json:"start"`
	Answer       time.Time `json:"answer"`
	End          time.Time `json:"end"`
	SetupMS      int       `json:"setup_ms"`
	Duration     float64   `json:"duration"`
	Status       int       `json:"status"`
	EndedBy      string    `json:"ended_by"`
	Reason       string    `json:"reason"`
	Mode         string    `json:"mode"`
	LastVerified time.Time `json:"last_verified"`
}

// linesOf waits until a file has n whole lines, and returns all it has.
func linesOf(t *testing.T, path string, n int) []string {
	t.Helper()
	var lines []string
	until(t, fmt.Sprintf("%d lines in %s", n, filepath.Base(path)), func() bool {
		data, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		text := string(data)
		text = text[:strings.LastIndexByte(text, '\n')+1]
		lines = strings.Split(text, "\n")
		lines = lines[:len(lines)-1]
		return len(lines) >= n
	})
	return lines
}

// until asks again and again, for what has no event to wait for.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx := within(t, 60*time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		}
	}
}

// recordsOf waits until there are n call records and checks that there are no more.
func recordsOf(t *testing.T, path string, n int) []record {
	t.Helper()
	lines := linesOf(t, path, n)
	if len(lines) != n {
		t.Fatalf("%d call records, want %d:\n%s", len(lines), n, strings.Join(lines, "\n"))
	}
	out := make([]record, n)
	for i, line := range lines {
		if err := json.Unmarshal([]byte(line), &out[i]); err != nil {
			t.Fatalf("call record %q: %v", line, err)
		}
	}
	return out
}

// recorded checks the one call record of the conversation.
func (c *conversation) recorded(by, reason, mode string, atLeast time.Duration) record {
	c.t.Helper()
	r := recordsOf(c.t, c.records, 1)[0]
	if r.CallID != c.a.CallID() || r.EndedBy != by || r.Reason != reason || r.Mode != mode || r.Status != 200 {
		c.t.Errorf("call record %+v, want reason %s by %s in mode %s", r, reason, by, mode)
	}
	if limit := atLeast.Seconds(); r.Duration < limit || r.Duration > limit+slow.Seconds() {
		c.t.Errorf("call record says %.3f s, want %s", r.Duration, atLeast)
	}
	return r
}

// ask runs a sub-command of the binary that asks the edge, with --json, and reads its answer.
func ask(t *testing.T, edge *siptest.Edge, into any, args ...string) {
	t.Helper()
	out := tell(t, edge, append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		t.Fatalf("sipward %v: %v\n%s", args, err, out)
	}
}

// tell runs one that has to succeed, and returns what it printed.
func tell(t *testing.T, edge *siptest.Edge, args ...string) string {
	t.Helper()
	out, code, err := edge.Command(within(t, time.Minute), args...)
	if err != nil || code != 0 {
		t.Fatalf("sipward %v: exit code %d, %v\n%s", args, code, err, out)
	}
	return out
}

func statsOf(t *testing.T, edge *siptest.Edge) proxy.CallStats {
	t.Helper()
	var s proxy.CallStats
	ask(t, edge, &s, "calls", "stats")
	return s
}

// TestTimerCallIsRefreshedUntilOneSideFallsSilent is the first call of the mission: both know
// session timers. Each leg gets a refresh every session_ttl/session_update_segment; when one
// does not answer any more, both get BYE at the end of session_ttl, not before.
func TestTimerCallIsRefreshedUntilOneSideFallsSilent(t *testing.T) {
	t.Parallel()
	const ttl, interval, jitter = 6 * time.Second, 2 * time.Second, 200 * time.Millisecond
	for _, silent := range []string{"callee", "caller"} {
		t.Run(silent, func(t *testing.T) {
			t.Parallel()
			o := siptest.PartyOptions{Lines: timerLines, Timer: true}
			c := newConversation(t, "udp", brisk+"timers: { session_ttl: 6, session_update_segment: 3, min_se: 1, no_timer_call_duration: 20 }\n", o, o).call()
			if got := c.hears(c.b, "INVITE", 1).Get("Session-Expires"); got != "90" {
				t.Errorf("INVITE went on with Session-Expires %q, want 90", got)
			}
			if got := c.ok.Get("Session-Expires"); got != "90;refresher=uac" {
				t.Errorf("the caller got Session-Expires %q, want the callee's", got)
			}
			for _, leg := range []struct {
				party, peer *siptest.Party
				expires     string
			}{{c.a, c.b, "90;refresher=uas"}, {c.b, c.a, "90;refresher=uac"}} {
				last := c.hears(c.b, "ACK", 1).At
				for n := range 2 {
					h := c.hears(leg.party, "UPDATE", n+1)
					if len(h.Body()) != 0 || h.Get("Contact") != "<"+leg.peer.Contact()+">" || h.Get("Session-Expires") != leg.expires || len(h.Values("Via")) != 1 {
						t.Errorf("want a refresh without body, with Contact of the other leg and Session-Expires %s, got\n%s", leg.expires, h)
					}
					if n > 0 {
						if took := h.At.Sub(last); took < interval-jitter || took > interval+jitter+slow {
							t.Errorf("refreshed after %s, want %s", took, interval)
						}
					}
					last = h.At
				}
			}
			quiet, alive := c.b, c.a
			if silent == "caller" {
				quiet, alive = c.a, c.b
			}
			quiet.Deafen(true)
			bye := c.hears(quiet, "BYE", 1)
			var proof siptest.Heard // the last that it answered
			tried := 0
			for _, h := range quiet.Heard("UPDATE") {
				if !h.Deaf {
					proof = h
				}
				if h.Deaf && h.At.Before(bye.At) {
					tried++
				}
			}
			c.hungUp(`SIP;cause=408;text="session refresh failed";key=session_ttl`, proof.At, ttl)
			if tried < 2 {
				t.Errorf("the silent side was asked %d times, want a retry", tried)
			}
			if n := len(alive.Heard("UPDATE")); n < 3 {
				t.Errorf("the other side got %d refreshes", n)
			}
			r := c.recorded("edge", "session_ttl", "R", bye.At.Sub(c.hears(c.b, "ACK", 1).At)-time.Second)
			if since := r.End.Sub(r.LastVerified); since < ttl || since > ttl+slow {
				t.Errorf("last_verified is %s before the end", since)
			}
		})
	}
}

// TestCallWithoutTimersEndsAtItsLimit is the second: neither knows session timers. Nothing is
// added to a message and nothing is injected; both get BYE at no_timer_call_duration.
func TestCallWithoutTimersEndsAtItsLimit(t *testing.T) {
	t.Parallel()
	o := siptest.PartyOptions{Lines: plainLines}
	c := newConversation(t, "udp", quick+"timers: { session_ttl: 1, min_se: 1, no_timer_call_duration: 4 }\n", o, o).call()
	invite := c.hears(c.b, "INVITE", 1)
	for _, m := range []*siptest.Message{invite.Message, c.ok} {
		for _, name := range []string{"Session-Expires", "Min-SE", "Require", "Supported"} {
			if v := m.Get(name); v != "" {
				t.Errorf("%s: %s was added to\n%s", name, v, m)
			}
		}
	}
	c.hungUp(`Q.850;cause=31;text="max call duration";key=no_timer_call_duration`, invite.At, 4*time.Second)
	for _, p := range []struct {
		*siptest.Party
		want int
	}{{c.a, 1}, {c.b, 3}} { // BYE; INVITE, ACK, BYE
		if got := p.Heard(""); len(got) != p.want {
			t.Errorf("got %d requests, want %d: %v", len(got), p.want, got)
		}
	}
	if r := c.recorded("edge", "no_timer_call_duration", "N", 4*time.Second); !r.LastVerified.IsZero() && r.LastVerified.After(r.Answer) {
		t.Errorf("verified at %s, but nobody asked", r.LastVerified)
	}
}

// TestEveryCallEndsAtMaxCallDuration is the third: a limit shorter than the others ends calls
// with and without timers, however alive they are.
func TestEveryCallEndsAtMaxCallDuration(t *testing.T) {
	t.Parallel()
	for mode, lines := range map[string][]string{"R": timerLines, "N": plainLines} {
		t.Run("mode "+mode, func(t *testing.T) {
			t.Parallel()
			o := siptest.PartyOptions{Lines: lines, Timer: mode == "R"}
			c := newConversation(t, "udp", quick+"timers: { session_ttl: 10, session_update_segment: 10, min_se: 1, no_timer_call_duration: 30, max_call_duration: 4 }\n", o, o).call()
			c.hungUp(`Q.850;cause=31;text="max call duration";key=max_call_duration`, c.hears(c.b, "INVITE", 1).At, 4*time.Second)
			if n := len(c.a.Heard("UPDATE")); (n > 0) != (mode == "R") {
				t.Errorf("%d refreshes in mode %s", n, mode)
			}
			c.recorded("edge", "max_call_duration", mode, 4*time.Second)
		})
	}
}

// TestSIPpTimerCalls are the same three calls between two SIPp.
func TestSIPpTimerCalls(t *testing.T) {
	t.Parallel()
	need(t, "sipp")
	for _, test := range []struct {
		name, timers, supported, callee string
		reason, mode                    string
		limit                           time.Duration
		probed                          bool
	}{
		{"one falls silent", "session_ttl: 4, session_update_segment: 4, no_timer_call_duration: 30", "timer", "session_silent.xml", "session_ttl", "R", 4 * time.Second, true},
		{"no timers", "session_ttl: 1, no_timer_call_duration: 4", "replaces", "session_uas.xml", "no_timer_call_duration", "N", 4 * time.Second, false},
		{"longest call", "session_ttl: 10, session_update_segment: 10, no_timer_call_duration: 30, max_call_duration: 4", "timer", "session_uas.xml", "max_call_duration", "R", 4 * time.Second, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			const calls = 5
			keys := []string{"-key", "supported", test.supported}
			uas, node := sippNode(t, "udp", nodeA, calls, nil, append(scenario(t, test.callee), keys...)...)
			addr, records := freeAddr(t), filepath.Join(t.TempDir(), "calls")
			edge := siptest.StartEdge(t, settings{
				listen: []string{"udp:" + addr.String()}, backends: []string{siptest.URI("", node, "udp")},
				top: quick + "timers: { min_se: 1, " + test.timers + " }\n" + recordsTo(records, "json"),
			}.yaml())
			sippClient(t, "udp", addr, calls, nil, append(scenario(t, "session_uac.xml"), keys...)...)
			uas.wait(30 * time.Second)
			for _, r := range recordsOf(t, records, calls) {
				if r.Reason != test.reason || r.Mode != test.mode || r.EndedBy != "edge" || r.Duration < test.limit.Seconds() {
					t.Errorf("call record %+v", r)
				}
			}
			s := statsOf(t, edge)
			if probed := len(s.Probes) > 0; probed != test.probed || s.Concurrent != 0 || s.Ended[test.reason] != calls {
				t.Errorf("figures %+v", s)
			}
		})
	}
}

// everyHalfSecond probes each leg twice a second and forgives ten seconds of silence.
const everyHalfSecond = quick + "timers: { session_ttl: 10, session_update_segment: 20, min_se: 1, no_timer_call_duration: 60 }\n"

// refreshed waits until both parties have heard one more refresh of the edge than they have now.
func (c *conversation) refreshed(method string) {
	c.t.Helper()
	own := func(p *siptest.Party) int {
		n := 0
		for _, h := range p.Heard(method) {
			if len(h.Values("Via")) == 1 {
				n++
			}
		}
		return n
	}
	a, b := own(c.a), own(c.b)
	until(c.t, "a refresh of both legs", func() bool { return own(c.a) > a && own(c.b) > b })
}

// request has one party ask the other inside the dialog.
func (c *conversation) request(ctx context.Context, p *siptest.Party, method string, want int, lines ...string) {
	c.t.Helper()
	res, err := p.Request(ctx, method, lines...)
	if err != nil {
		c.t.Fatal(err)
	}
	if res.Status() != want {
		c.t.Fatalf("%s was answered\n%s", method, res)
	}
}

// TestG39EndpointsNumbersHoldBetweenRefreshes: after requests of the edge, which use up CSeq
// numbers, everything that either party sends itself still arrives with rising numbers, and is
// answered with its own; PRACK confirms the right INVITE, ACK acknowledges it. The parties are
// strict: see siptest.Party. Where loss is named, a fifth of all datagrams is lost on both sides of
// the edge, each way.
func TestG39EndpointsNumbersHoldBetweenRefreshes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		network, refresh, hangsUp string
		lost                      float64
	}{
		{"udp", "UPDATE", "caller", 0}, {"tcp", "UPDATE", "callee", 0},
		{"udp", "UPDATE", "caller", 0.2}, {"udp", "UPDATE", "callee", 0.2},
		{"udp", "INVITE", "callee", 0}, {"tcp", "INVITE", "caller", 0}, {"udp", "INVITE", "callee", 0.2},
	} {
		name := test.refresh + " over " + test.network
		if test.lost > 0 {
			name += " with loss"
		}
		t.Run(name+", "+test.hangsUp+" hangs up", func(t *testing.T) {
			t.Parallel()
			lines := append([]string{"Supported: 100rel"}, timerLines...)
			a, b := siptest.PartyOptions{Lines: lines, Timer: true}, siptest.PartyOptions{Lines: lines, Timer: true}
			top := everyHalfSecond
			if test.refresh == "INVITE" {
				top = strings.Replace(top, "timers: {", "timers: { probe_methods: [reinvite],", 1)
			}
			var c *conversation
			var relays []*siptest.Relay
			if test.lost > 0 {
				c, relays = newLossyConversation(t, top, test.lost, a, b)
			} else {
				c = newConversation(t, test.network, top, a, b)
			}
			c.call()
			ctx := within(t, 90*time.Second)
			for range 2 {
				for _, pair := range [][2]*siptest.Party{{c.a, c.b}, {c.b, c.a}} {
					from, to := pair[0], pair[1]
					c.refreshed(test.refresh)
					for _, method := range []string{"INFO", "UPDATE", "INVITE"} {
						c.request(ctx, from, method, 200)
					}
					c.refreshed(test.refresh)
					c.request(ctx, from, "REFER", 202, "Refer-To: <sip:carol@siptest.example>")
					for range 2 {
						c.request(ctx, to, "NOTIFY", 200, "Event: refer", "Subscription-State: active")
					}
				}
			}
			c.refreshed(test.refresh)
			until(t, "the ACK of each INVITE of a party, a lost one once more", func() bool {
				return fromPeer(c.a, "ACK") == 2 && fromPeer(c.b, "ACK") == 3
			})
			if test.hangsUp == "caller" {
				c.request(ctx, c.a, "BYE", 200)
			} else {
				c.request(ctx, c.b, "BYE", 200)
			}
			for _, p := range []*siptest.Party{c.a, c.b} {
				// Each of the peer's INVITEs was confirmed and acknowledged.
				own := map[bool]map[string]int{true: {}, false: {}}
				for _, h := range p.Heard("") {
					isOwn := len(h.Values("Via")) == 1
					if own[isOwn][h.Method()]++; h.Late && (test.lost == 0 || !isOwn) {
						t.Errorf("refused for its number:\n%s", h)
					}
				}
				invites := 2
				if p == c.b {
					invites = 3
				}
				if n := own[false]; n["INVITE"] != invites || n["PRACK"] != invites || n["ACK"] != invites || n["INFO"] != 2 || n["REFER"] != 2 || n["NOTIFY"] != 4 {
					t.Errorf("from the peer came %v", n)
				}
				// That every INVITE it has answered was acknowledged, a Party sees to itself.
				if n := own[true]; n[test.refresh] == 0 || n["ACK"] > n["INVITE"] || (n["ACK"] == 0) != (n["INVITE"] == 0) {
					t.Errorf("from the edge came %v", n)
				}
			}
			if r := recordsOf(t, c.records, 1)[0]; r.EndedBy != test.hangsUp || r.Reason != "bye" || r.Mode != "R" || r.LastVerified.Before(r.Answer) {
				t.Errorf("call record %+v", r)
			}
			for _, r := range relays {
				if r.Lost() == 0 {
					t.Error("nothing was lost")
				}
			}
		})
	}
}

// fromPeer counts the requests of a method that the other party has sent, and not the edge.
func fromPeer(p *siptest.Party, method string) (n int) {
	for _, h := range p.Heard(method) {
		if len(h.Values("Via")) > 1 {
			n++
		}
	}
	return n
}

// newLossyConversation is newConversation over UDP with a relay on each side that loses a share
// of the datagrams, each way.
func newLossyConversation(t *testing.T, top string, lost float64, a, b siptest.PartyOptions) (*conversation, []*siptest.Relay) {
	t.Helper()
	c := &conversation{t: t, addr: freeAddr(t), records: filepath.Join(t.TempDir(), "calls")}
	atB := rawListen(t, "udp", at(nodeA), nil)
	inside := newRelay(t, nodeA, atB.Addr())
	c.edge = siptest.StartEdge(t, settings{
		listen: []string{"udp:" + c.addr.String()}, backends: []string{siptest.URI("", inside.Front(), "udp")},
		top: top + recordsTo(c.records, "json"),
	}.yaml())
	outside := newRelay(t, siptest.Loopback, c.addr)
	c.atA = rawDial(t, "udp", outside.Front(), nil)
	a.Public, b.Public = outside.Back(), inside.Front()
	// As the edge's: its transactions would be over before an endpoint had repeated itself often enough for such a line.
	a.T1, b.T1 = quickT1, quickT1
	// A 2xx and its ACK cross four lossy ways, so two of five pairs come through where a fifth is lost: with pauses of up to
	// 8*T1 one call in two hundred would stay without an ACK.
	a.T2, b.T2 = 2*quickT1, 2*quickT1
	c.atB = atB
	c.parties(a, b)
	outside.Lose(lost)
	inside.Lose(lost)
	return c, []*siptest.Relay{outside, inside}
}

func newRelay(t *testing.T, on netip.Addr, target netip.AddrPort) *siptest.Relay {
	t.Helper()
	r, err := siptest.NewRelay(on, target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}
