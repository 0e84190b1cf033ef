package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sipward/sipward/admin"
	"github.com/sipward/sipward/proxy"
	"github.com/sipward/sipward/test/siptest"
)

// Addresses of the tests of the protections. What listens is trusted, and so are the nodes: the
// edge has an address of its own, and everybody else is a stranger.
var (
	fortAddr = netip.MustParseAddr("127.0.0.5")
	phoneA   = netip.MustParseAddr("127.1.0.1")
	phoneB   = netip.MustParseAddr("127.1.0.2")
	phoneC   = netip.MustParseAddr("127.1.0.3")
	evilA    = netip.MustParseAddr("127.9.0.1")
	evilB    = netip.MustParseAddr("127.9.0.2")
)

// strangers is the beginning of a section security where loopback is not trusted.
const strangers = "trust_loopback: no, "

// domain is that of all addresses-of-record.
const domain = "siptest.example"

// fortPort is a free port for an edge on an address of its own.
func fortPort(t *testing.T, at netip.Addr) netip.AddrPort {
	t.Helper()
	return netip.AddrPortFrom(at, freeAddr(t).Port())
}

// fort is an edge with one listener before one PBX.
type fort struct {
	t    *testing.T
	edge *siptest.Edge
	addr netip.AddrPort
	pbx  *siptest.PBX
}

func newFort(t *testing.T, o siptest.PBXOptions, security, top string) *fort {
	t.Helper()
	f := &fort{t: t, pbx: newPBX(t, o), addr: fortPort(t, fortAddr)}
	f.edge = siptest.StartEdge(t, settings{
		listen: []string{"udp:" + f.addr.String()}, backends: []string{f.pbx.URI("udp")}, security: strangers + security, top: top,
	}.yaml())
	return f
}

func (f *fort) phone(user string, at netip.Addr) *siptest.Phone {
	f.t.Helper()
	return newPhone(f.t, siptest.PhoneOptions{User: user, Address: at, Proxy: f.addr})
}

// registers makes a telephone register and says what has to come of it.
func (f *fort) registers(p *siptest.Phone, password string, status int, reason string) {
	f.t.Helper()
	a, err := p.Register(within(f.t, 20*time.Second), password)
	if err != nil || a.Status != status || a.Reason != reason {
		f.t.Fatalf("%s registers with %q: %d %s, %v; want %d %s", p.AOR(), password, a.Status, a.Reason, err, status, reason)
	}
}

// bans lists the bans of an edge.
func bans(t *testing.T, edge *siptest.Edge) []proxy.BanInfo {
	t.Helper()
	var l admin.BanList
	ask(t, edge, &l, "bans", "list")
	return l.Bans
}

// banned waits for the ban of a key.
func banned(t *testing.T, edge *siptest.Edge, key string) (b proxy.BanInfo) {
	t.Helper()
	until(t, key+" is banned", func() bool {
		for _, x := range bans(t, edge) {
			if x.Key == key {
				b = x
				return true
			}
		}
		return false
	})
	return b
}

// length is how long a ban lasts. Its times were made of a monotonic clock, each by itself.
func length(b proxy.BanInfo) time.Duration { return b.Until.Sub(b.Since).Round(time.Millisecond) }

func explain(t *testing.T, edge *siptest.Edge, key string) (x proxy.Explanation) {
	t.Helper()
	ask(t, edge, &x, "explain", key)
	return x
}

// reading is what a rule counts of a key.
func reading(t *testing.T, x proxy.Explanation, rule string) proxy.RuleReading {
	t.Helper()
	for _, r := range x.Rules {
		if r.Rule == rule {
			return r
		}
	}
	t.Fatalf("no rule %s in %+v", rule, x)
	return proxy.RuleReading{}
}

func securityStats(t *testing.T, edge *siptest.Edge) (s proxy.SecurityStats) {
	t.Helper()
	ask(t, edge, &s, "bans", "stats")
	return s
}

// linesWith are the lines of the log that match.
func linesWith(edge *siptest.Edge, pattern string) (found []string) {
	re := regexp.MustCompile(pattern)
	for _, l := range edge.Lines() {
		if re.MatchString(l) {
			found = append(found, l)
		}
	}
	return found
}

// TestWrongPasswordsBanTheUser is the sequence that operators of NGCP know: three wrong passwords
// get their 401 (or 403) from the PBX, then the edge says 403 Try again later and the PBX sees
// nothing of that user, until the ban is over; a right password in between begins anew.
func TestWrongPasswordsBanTheUser(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		code   int
		reason string
	}{{"the PBX challenges again", 401, "Unauthorized"}, {"the PBX says 403", 403, "Forbidden"}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			const last = 8 * time.Second
			f := newFort(t, siptest.PBXOptions{
				Accounts: map[string]string{"alice": "secret", "bob": "secret", "carol": "secret"}, Wrong: test.code,
			}, "failed_auth_ban_time: 8", "lab: yes\n")

			// A right password in between begins anew: two, two and two wrong ones are not three in a row.
			bob := f.phone("bob", phoneB)
			for range 3 {
				f.registers(bob, "guess", test.code, test.reason)
				f.registers(bob, "wrong", test.code, test.reason)
				if r := reading(t, explain(t, f.edge, "bob@"+domain), "failed_auth"); r.Count != 2 || r.Limit != 3 {
					t.Errorf("explained: %+v", r)
				}
				f.registers(bob, "secret", 200, "OK")
				if r := reading(t, explain(t, f.edge, "bob@"+domain), "failed_auth"); r.Count != 0 {
					t.Errorf("after the right password: %+v", r)
				}
			}

			alice := f.phone("alice", phoneA)
			var began time.Time
			for range 3 {
				began = time.Now()
				f.registers(alice, "wrong", test.code, test.reason)
			}
			b := banned(t, f.edge, "alice@"+domain)
			if b.Rule != "failed_auth" || b.Count != 3 || b.By != "edge" || length(b) != last || len(b.Evidence) != 3 || b.Evidence[2].Status != test.code || b.Evidence[2].Method != "REGISTER" {
				t.Errorf("ban %+v", b)
			}
			seen := f.pbx.Count("REGISTER")
			f.registers(alice, "wrong", 403, "Try again later")
			f.registers(alice, "secret", 403, "Try again later")
			if n := f.pbx.Count("REGISTER"); n != seen {
				t.Errorf("the PBX saw %d requests of a banned user", n-seen)
			}
			if x := explain(t, f.edge, "alice@"+domain); x.Verdict != "refused" || x.Ban == nil || x.Ban.Drops != 2 {
				t.Errorf("explained: %+v", x)
			}
			if time.Since(began) > last-time.Second {
				t.Fatal("this machine is too slow for this test")
			}
			// Others are not touched: not another user from there, not another one elsewhere.
			f.registers(f.phone("carol", phoneA), "secret", 200, "OK")
			f.registers(bob, "secret", 200, "OK")
			until(t, "no ban left", func() bool { return len(bans(t, f.edge)) == 0 })
			if took := time.Since(began); took < last {
				t.Errorf("the ban was over after %s", took)
			}
			f.registers(alice, "secret", 200, "OK")
			const want = `WARNING: sipward: Consecutive Authentication Failure for 'alice@siptest\.example' UA='phone' IP='127\.1\.0\.1' - R=<null> ID=\S+@siptest\.example$`
			if l := linesWith(f.edge, "Consecutive Authentication Failure"); len(l) != 1 || !regexp.MustCompile(want).MatchString(l[0]) {
				t.Errorf("lines %q", l)
			}
		})
	}
}

// TestStaleIsNoWrongPassword: a challenge with stale=true says that the password was right.
func TestStaleIsNoWrongPassword(t *testing.T) {
	t.Parallel()
	h := newFortHop(t, "udp", phoneA, settings{})
	h.node.Auto(func(m *siptest.Message) bool {
		return m.Reply(siptest.Respond(m, 401, "Unauthorized", "n1").
			Add("WWW-Authenticate", `Digest realm="pbx", nonce="`+siptest.Unique("n")+`", STALE = TRUE`).Bytes()) == nil
	})
	for range 8 {
		x := h.begin(t, "REGISTER")
		x.req.Set("From", "<sip:dave@siptest.example>;tag=1").Add("Authorization", `Digest username="dave", realm="pbx", nonce="old", uri="sip:x", response="00"`)
		x.send(x.req)
		x.callerGets(401, "REGISTER")
	}
	if r := reading(t, explain(t, h.edge, "dave@"+domain), "failed_auth"); r.Count != 0 || len(bans(t, h.edge)) != 0 {
		t.Errorf("%+v, bans %+v", r, bans(t, h.edge))
	}
}

// newFortHop is newHop for an edge and a caller that are strangers to each other.
func newFortHop(t *testing.T, network string, from netip.Addr, s settings) *hop {
	t.Helper()
	return newHopAt(t, network, fortAddr, nodeA, from, s)
}

// newHopAt is newFortHop at other addresses.
func newHopAt(t *testing.T, network string, edge, node, from netip.Addr, s settings) *hop {
	t.Helper()
	h := &hop{network: network, addr: fortPort(t, edge), cert: certificate(t)}
	h.node = rawListen(t, network, at(node), h.cert)
	s.listen = append(s.listen, listener(t, network, h.addr, h.cert))
	s.backends = append([]string{h.node.URI("")}, s.backends...)
	if network == "tls" {
		s.pool += "    tls: { insecure: yes }\n"
	}
	s.security = strangers + s.security
	h.edge = siptest.StartEdge(t, s.yaml())
	h.caller = h.dial(t, from)
	return h
}

// dial is another caller of a hop.
func (h *hop) dial(t *testing.T, from netip.Addr) *siptest.Raw {
	t.Helper()
	raw, err := h.tryDial(from)
	return keep(t)(raw, err)
}

func (h *hop) tryDial(from netip.Addr) (*siptest.Raw, error) {
	if h.network == "tls" {
		return siptest.DialRawFrom("tls", at(from), h.addr, h.cert.Client())
	}
	return siptest.DialRawFrom(h.network, at(from), h.addr, nil)
}

// by is the same hop for another caller.
func (h *hop) by(caller *siptest.Raw) *hop {
	x := *h
	x.caller = caller
	return &x
}

// crowd is who sends many requests and counts what comes back.
type crowd struct {
	*siptest.Raw
	t       *testing.T
	answers atomic.Int64
}

func newCrowd(t *testing.T, raw *siptest.Raw) *crowd {
	c := &crowd{Raw: raw, t: t}
	c.Auto(func(m *siptest.Message) bool {
		c.answers.Add(1)
		return true
	})
	return c
}

// burst sends requests, each of a transaction of its own, as fast as it can.
func (c *crowd) burst(n int) {
	c.t.Helper()
	var all [][]byte
	for range n {
		all = append(all, c.Request("MESSAGE", "sip:bob@siptest.example").Bytes())
	}
	for _, b := range all {
		if err := c.Send(b); err != nil && c.Network() == "udp" { // a connection may be closed by now
			c.t.Fatal(err)
		}
	}
}

func (c *crowd) answered(n int) {
	c.t.Helper()
	until(c.t, fmt.Sprintf("%d answers, have %d", n, c.answers.Load()), func() bool { return c.answers.Load() >= int64(n) })
	if have := c.answers.Load(); have != int64(n) {
		c.t.Fatalf("%d answers, want %d", have, n)
	}
}

// TestFloodingSourceIsBanned: fifty messages within two seconds pass, and the next one bans, at
// once and with one line; what comes then is dropped, on connections too, until the ban is over.
// Neighbours are not touched.
func TestFloodingSourceIsBanned(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"udp", "tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			h := newFortHop(t, network, evilA, settings{top: "lab: yes\n", security: "dos_ban_time: 10"})
			floods(t, h, evilB, evilA.String(), 10*time.Second)
		})
	}
	t.Run("for an hour by default", func(t *testing.T) {
		t.Parallel()
		h := newFortHop(t, "udp", evilA, settings{})
		newCrowd(t, h.caller).burst(60)
		if b := banned(t, h.edge, evilA.String()); length(b) != time.Hour {
			t.Errorf("ban %+v", b)
		}
	})
}

// floods has the caller of a hop send up to the limit, and beyond it.
func floods(t *testing.T, h *hop, neighbour netip.Addr, key string, last time.Duration) {
	t.Helper()
	var seen atomic.Int64
	h.node.Absorb()
	h.node.Auto(func(m *siptest.Message) bool {
		seen.Add(1)
		return m.Respond(200, "OK", "n1") == nil
	})
	evil, good := newCrowd(t, h.caller), newCrowd(t, h.dial(t, neighbour))
	evil.burst(50)
	evil.answered(50)
	good.burst(50)
	good.answered(50)
	if l := bans(t, h.edge); len(l) != 0 {
		t.Fatalf("fifty messages: bans %+v", l)
	}
	if r := reading(t, explain(t, h.edge, h.caller.Addr().Addr().String()), "dos"); r.Count > 50 || r.Limit != 50 || r.Window != 2 || r.Outcome != "passes" {
		t.Errorf("explained: %+v", r)
	}
	empty := func() {
		t.Helper()
		until(t, "the windows are empty", func() bool {
			return reading(t, explain(t, h.edge, h.caller.Addr().Addr().String()), "dos").Count+reading(t, explain(t, h.edge, neighbour.String()), "dos").Count == 0
		})
	}
	empty()
	began := time.Now()
	evil.burst(51)
	for tries := 1; time.Since(began) > time.Second && len(bans(t, h.edge)) == 0; tries++ {
		if tries == 5 {
			t.Fatal("this machine is too slow for 51 messages within a second")
		}
		empty()
		began = time.Now()
		evil.burst(51)
	}
	b := banned(t, h.edge, key)
	if b.Rule != "dos" || b.Count != 51 || b.Limit != 50 || b.Window != 2 || !b.Hard || b.Proven != (h.network != "udp") || length(b) != last || len(b.Evidence) == 0 || b.Evidence[0].Method != "MESSAGE" {
		t.Errorf("ban %+v", b)
	}
	until(t, "the node saw 150 messages", func() bool { return seen.Load() >= 150 })
	if h.network == "udp" {
		evil.answered(100)
	}
	before := seen.Load()
	evil.burst(100)
	if h.network != "udp" {
		// The connection is closed, and a new one is of no use.
		if again, err := h.tryDial(h.caller.Addr().Addr()); err == nil {
			x := newCrowd(t, again)
			x.burst(1)
			if m, err := again.Next(soon); m != nil || errors.Is(err, siptest.ErrNothing) {
				t.Errorf("a banned source still has a connection: %v", err)
			}
			if err := again.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	good.burst(1)
	good.answered(51)
	if n := seen.Load(); n != before+1 {
		t.Errorf("the node saw %d messages of a banned source", n-before-1)
	}
	if time.Since(began) < last { // else this machine is slow
		if x := explain(t, h.edge, h.caller.Addr().Addr().String()); x.Verdict != "dropped" && time.Since(began) < last {
			t.Errorf("explained: %+v", x)
		}
	}
	until(t, "no ban left", func() bool { return len(bans(t, h.edge)) == 0 })
	if took := time.Since(began); took < last {
		t.Errorf("the ban was over after %s", took)
	}
	if h.network != "udp" {
		evil = newCrowd(t, h.dial(t, h.caller.Addr().Addr()))
	}
	was := evil.answers.Load()
	evil.burst(1)
	evil.answered(int(was) + 1)
	ip := regexp.QuoteMeta(strings.TrimSuffix(key, "/64"))
	if l := linesWith(h.edge, `WARNING: sipward: IP '`+ip+`\S*' is blocked and banned - R=<null> ID=\S+@siptest$`); len(l) != 1 || len(linesWith(h.edge, "is blocked and banned")) != 1 {
		t.Errorf("lines %q", linesWith(h.edge, "is blocked and banned"))
	}
}

// TestVictimCannotBeLockedOut: whoever guesses passwords of a user has it refused to himself, but
// not to the telephone that registered from its own address before.
func TestVictimCannotBeLockedOut(t *testing.T) {
	t.Parallel()
	f := newFort(t, siptest.PBXOptions{Accounts: map[string]string{"1000": "secret"}, Ringing: time.Millisecond, Answer: time.Millisecond}, "loop_enable: no", "")
	real, evil, lost := f.phone("1000", phoneA), f.phone("1000", evilA), f.phone("1000", phoneB)
	f.registers(real, "secret", 200, "OK")
	ctx := within(t, time.Minute)
	calls := func() {
		t.Helper()
		call, err := real.Call(ctx, "sip:1000@siptest.example")
		if err != nil || !call.Answered() {
			t.Fatalf("call: %+v, %v", call, err)
		}
		if code, err := call.Request(ctx, "INFO"); err != nil || code != 200 {
			t.Fatalf("INFO: %d, %v", code, err)
		}
		if code, err := call.Hangup(ctx); err != nil || code != 200 {
			t.Fatalf("BYE: %d, %v", code, err)
		}
	}
	calls()
	for range 3 {
		f.registers(evil, "wrong", 401, "Unauthorized")
	}
	banned(t, f.edge, "1000@"+domain)
	for range 3 {
		f.registers(evil, "wrong", 403, "Try again later")
		f.registers(real, "secret", 200, "OK")
		calls()
	}
	// An address that nobody knows is refused, whoever it is: that is what the ban is for.
	f.registers(lost, "secret", 403, "Try again later")
	if call, err := evil.Call(ctx, "sip:1000@siptest.example"); err != nil || call.Status != 403 || call.Reason != "Try again later" {
		t.Errorf("call of the banned user from elsewhere: %+v, %v", call, err)
	}
	for key, verdict := range map[string]string{
		"1000@" + domain: "refused", "1000@" + domain + "/" + evilA.String(): "refused", "1000@" + domain + "/" + phoneA.String(): "passes",
	} {
		if x := explain(t, f.edge, key); x.Verdict != verdict {
			t.Errorf("%s: %+v, want %s", key, x, verdict)
		}
	}
}

// TestRunningCallsSurviveABan: ACK, BYE, CANCEL and requests within a call pass although the user,
// or the address, has just been banned for wrong passwords; new requests do not.
func TestRunningCallsSurviveABan(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, security, key string }{
		{"of the user", "loop_enable: no", "caller@" + domain},
		{"of the address", "loop_enable: no, failed_auth_attempts: 1000, failed_auth_source_attempts: 3, enumeration_users: 0, dos_known_factor: 1", phoneA.String()},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(test.name+" over "+network, func(t *testing.T) {
				t.Parallel()
				h := newFortHop(t, network, phoneA, settings{security: test.security})
				ofUser := strings.Contains(test.key, "@")

				talking := h.begin(t, "INVITE")
				ok := talk(talking)
				acked := h.begin(t, "INVITE") // its 200 came, its ACK comes after the ban
				acked.answer(acked.invite(), "n1")
				okLate := acked.callerGets(200, "INVITE")
				ringing := h.begin(t, "INVITE")
				invite := ringing.invite()
				ringing.respond(invite, 180, "Ringing", "n1")
				ringing.callerGets(180, "INVITE")

				for i := range 3 {
					guesses(t, h, "caller", i)
				}
				b := banned(t, h.edge, test.key)
				if b.Hard || ofUser != (b.Rule == "failed_auth") {
					t.Fatalf("ban %+v", b)
				}

				acked.send(acked.inside(okLate, "ACK", 1))
				acked.nodeGets("ACK")
				for cseq, method := range map[int]string{2: "INFO", 3: "UPDATE"} {
					talking.send(talking.inside(ok, method, cseq))
					talking.respond(talking.nodeGets(method), 200, "OK", "")
					talking.callerGets(200, method)
				}
				again := talking.inside(ok, "INVITE", 4).Set("Contact", "<"+h.caller.URI("caller")+">").SDP()
				talking.send(again)
				talking.callerGets(100, "INVITE")
				talking.answer(talking.nodeGets("INVITE"), "n1")
				talking.send(talking.inside(talking.callerGets(200, "INVITE"), "ACK", 4))
				talking.nodeGets("ACK")

				fresh := h.begin(t, "INVITE")
				fresh.send(fresh.req)
				if ofUser {
					fresh.callerGets(403, "INVITE")
				}
				inside := []*exchange{} // a To tag alone makes no dialog, and nothing makes a REGISTER part of one
				for _, method := range []string{"INFO", "REGISTER", "INVITE"} {
					y := h.begin(t, method)
					y.req.Set("To", "<sip:callee@siptest.example>;tag=forged")
					inside = append(inside, y)
				}
				y := h.begin(t, "REGISTER")
				y.req = talking.inside(ok, "REGISTER", 5)
				inside = append(inside, y)
				for _, y := range inside {
					y.atCaller = h.caller.Box(y.req.CallID())
					y.send(y.req)
					if ofUser {
						method, _, _ := strings.Cut(y.req.Start, " ")
						y.callerGets(403, method)
					}
				}

				ringing.send(ringing.cancel())
				ringing.callerGets(200, "CANCEL")
				endByCancel(ringing, invite, false)
				for _, x := range []*exchange{talking, acked} {
					response := ok
					if x == acked {
						response = okLate
					}
					x.send(x.inside(response, "BYE", 9))
					x.respond(x.nodeGets("BYE"), 200, "OK", "")
					x.callerGets(200, "BYE")
				}
				for _, y := range append(inside, fresh) {
					if y.atNode.Len() > 0 {
						t.Errorf("the node got of the banned:\n%s", y.req.Bytes())
					}
				}
				if ofUser {
					return
				}
				for _, y := range append(inside, fresh) {
					if y.atCaller.Len() > 0 {
						t.Errorf("the banned address got an answer to\n%s", y.req.Bytes())
					}
				}
				late := h.begin(t, "OPTIONS")
				if err := late.caller.Send(late.req.Bytes()); err != nil && network == "udp" {
					t.Fatal(err)
				}
				other := h.by(h.dial(t, phoneB)).begin(t, "OPTIONS")
				other.send(other.req)
				other.respond(other.nodeGets("OPTIONS"), 200, "OK", "n1")
				other.callerGets(200, "OPTIONS")
				if late.atNode.Len() > 0 {
					t.Error("the node got a request of a banned address")
				}
			})
		}
	}
}

// guesses registers with a wrong password, for a nonce that the node gave to this very source.
func guesses(t *testing.T, h *hop, user string, cseq int) {
	t.Helper()
	nonce := siptest.Unique("n")
	x := h.begin(t, "REGISTER")
	x.req.Set("From", "<sip:"+user+"@siptest.example>;tag=r")
	refuse := func() {
		t.Helper()
		m := x.nodeGets("REGISTER")
		if err := m.Reply(siptest.Respond(m, 401, "Unauthorized", "n1").Add("WWW-Authenticate", `Digest realm="pbx", nonce="`+nonce+`"`).Bytes()); err != nil {
			t.Fatal(err)
		}
		x.callerGets(401, "REGISTER")
	}
	x.send(x.req)
	refuse()
	x.send(x.req.Clone().Set("Via", h.caller.Via()).Set("CSeq", fmt.Sprintf("%d REGISTER", 2+cseq)).
		Add("Authorization", `Digest username="`+user+`", realm="pbx", nonce="`+nonce+`", uri="sip:siptest.example", response="00"`))
	refuse()
}

// forgeries are ways to write a header field that the PBX trusts: in other letters, folded, twice,
// with space before the colon, hidden behind line ends that only some parsers take for one.
var forgeries = []string{
	"X-AUTH-IP: 6.6.6.6",
	"x-auth-ip:6.6.6.6",
	"X-Auth-IP : 6.6.6.6",
	"X-AUTH-IP\t : 6.6.6.6",
	"X-AUTH-IP:\r\n 6.6.6.6",
	"X-AUTH-IP :\r\n\t6.6.6.6",
	"X-AUTH-IP:\r\n \r\n 6.6.6.6",
	"X-AUTH-IP: 6.6.6.6\r\nSubject: x\r\nX-Auth-Ip: 6.6.6.6",
	"X-AUTH-IP: 6.6.6.6\r\nX-AUTH-IP: 6.6.6.6\r\nX-AUTH-IP: 6.6.6.6",
	"X-AUTH-PORT: 6666",
	"x-Auth-Port:\r\n 6666\r\nX-AUTH-IP: 6.6.6.6",
	"X-Client-IP: 6.6.6.6",
	"x-client-ip\t:\r\n\t6.6.6.6",
	"Subject: a\nX-AUTH-IP: 6.6.6.6",
	"Subject: a\rX-AUTH-IP: 6.6.6.6",
	"Subject: a\n\rX-AUTH-IP: 6.6.6.6",
	"Subject: a\r\r\nX-AUTH-IP: 6.6.6.6",
	"Subject: a\x00\r\nX-AUTH-IP: 6.6.6.6",
	"Subject: a\r\n\x00X-AUTH-IP: 6.6.6.6",
	"Subject: a\r\nX-AUTH-IP\x00: 6.6.6.6",
	"Subject: a\x0b\x0cX-AUTH-IP: 6.6.6.6",
	"Subject: a\r\n\x0bX-AUTH-IP: 6.6.6.6",
	"Subject: a\xc2\x85X-AUTH-IP: 6.6.6.6",
	"Subject: a\xe2\x80\xa8X-AUTH-IP: 6.6.6.6",
	"Subject: a\r\n:\r\nX-AUTH-IP: 6.6.6.6",
	"Subject: a\r\nnonsense\r\nX-AUTH-IP: 6.6.6.6",
	"\xef\xbb\xbfX-AUTH-IP: 6.6.6.6",
}

// forged finds a line of these header fields in what a node got, read as the most lenient parser
// would: any line end, any space.
var forged = regexp.MustCompile(`(?i)(?:^|[\r\n])[\s\x00]*(X-AUTH-IP|X-AUTH-PORT|X-Client-IP)[\s\x00]*:[\s\x00]*6`)

// TestIdentityHeadersFromOutsideGo: what the PBX believes of a request's origin cannot be written
// by a stranger, in whichever spelling, in requests, in requests within a call, and in answers.
// The edge's own line is the only one.
func TestIdentityHeadersFromOutsideGo(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			// Many broken messages come here: what is at stake is not the answers to them.
			h := newFortHop(t, network, phoneA, settings{pool: "    identity_header: X-Client-IP\n", security: "loop_enable: no, dos_reqs_density_per_unit: 10000"})
			h.node.Auto(func(m *siptest.Message) bool {
				if m.Method() == "OPTIONS" && m.Status() == 0 {
					return m.Respond(200, "OK", "n1") == nil
				}
				return false
			})
			x := h.begin(t, "INVITE")
			ok := talk(x)
			passed := 0
			for i, line := range forgeries {
				if network != "udp" { // a broken message ends its connection
					x.hop = h.by(h.dial(t, phoneA))
				}
				for _, req := range []*siptest.Text{
					x.caller.Request("MESSAGE", "sip:bob@siptest.example"),
					x.inside(ok, "INFO", 10+i),
					x.inside(ok, "INVITE", 10+i).Set("Contact", "<"+x.caller.URI("caller")+">").SDP(),
				} {
					for _, first := range []bool{true, false} {
						m := req.Clone().Set("Via", x.caller.Via()).Set("Call-ID", x.req.CallID())
						if strings.HasPrefix(m.Start, "MESSAGE") {
							m.Set("Call-ID", siptest.Unique("f"))
						}
						m.Lines = slices.Insert(m.Lines, map[bool]int{true: 0, false: len(m.Lines)}[first], line)
						atNode := h.node.Box(m.CallID())
						_ = x.caller.Send(m.Bytes()) // a connection may be closed after the last one
						fence(t, h)
						for atNode.Len() > 0 {
							got, err := atNode.Next(0)
							if err != nil {
								t.Fatal(err)
							}
							passed++
							head, _, _ := bytes.Cut(got.Data, []byte("\r\n\r\n"))
							if found := forged.Find(head); found != nil {
								t.Errorf("%q comes through as %q in\n%q", line, found, head)
							}
							method, _, _ := strings.Cut(m.Start, " ")
							if own := got.Values("X-Client-IP"); len(own) > 1 || len(own) == 1 && own[0] != phoneA.String() || len(own) == 0 && method == "MESSAGE" {
								t.Errorf("%s has X-Client-IP %q, want the address of the phone", method, own)
							}
							if got.Method() != "ACK" {
								x.respond(got, 488, "Not Acceptable Here", "")
							}
						}
					}
				}
			}
			if passed < 12 {
				t.Errorf("only %d messages came to the node", passed)
			}
		})
	}
	t.Run("answers of phones", func(t *testing.T) {
		t.Parallel()
		h := newFortHop(t, "udp", phoneA, settings{pool: "    identity_header: X-Client-IP\n", security: "loop_enable: no, dos_reqs_density_per_unit: 10000"})
		phone := h.caller
		for _, line := range forgeries {
			req := h.node.Request("OPTIONS", phone.URI("bob"))
			atNode, atPhone := h.node.Box(req.CallID()), phone.Box(req.CallID())
			if err := h.node.SendTo(req.Bytes(), h.addr); err != nil {
				t.Fatal(err)
			}
			m, err := atPhone.Next(soon)
			if err != nil {
				t.Fatal(err)
			}
			res := siptest.Respond(m, 200, "OK", "p1")
			res.Lines = append(res.Lines, line)
			if err := m.Reply(res.Bytes()); err != nil {
				t.Fatal(err)
			}
			// A broken answer is dropped; a sound one follows.
			if err := m.Reply(siptest.Respond(m, 200, "OK", "p2").Bytes()); err != nil {
				t.Fatal(err)
			}
			got, err := atNode.Next(soon)
			if err != nil {
				t.Fatal(err)
			}
			if found := forged.Find(got.Data); found != nil {
				t.Errorf("%q comes through as %q in\n%q", line, found, got.Data)
			}
		}
	})
}

// fence proves that all that was sent to an edge before was handled, from an address of its own:
// a request goes through and its answer comes back.
func fence(t *testing.T, h *hop) {
	t.Helper()
	via := h.caller
	x := h.by(via).begin(t, "OPTIONS")
	x.send(x.req)
	x.callerGets(200, "OPTIONS")
}

// TestBansByCommand: add, del, flush, list, show, explain, export, import and --sht-dump, as an
// operator and as a script uses them: what they say is what the edge does.
func TestBansByCommand(t *testing.T) {
	t.Parallel()
	first := newFortHop(t, "udp", evilA, settings{})
	second := newFortHop(t, "udp", evilA, settings{})
	for _, h := range []*hop{first, second} {
		h.node.Auto(func(m *siptest.Message) bool { return m.Respond(200, "OK", "n1") == nil })
	}
	evil, good := newCrowd(t, first.caller), newCrowd(t, first.dial(t, phoneA))
	dropped := func() {
		t.Helper()
		was, then := evil.answers.Load(), good.answers.Load()
		evil.burst(1)
		good.burst(1)
		good.answered(int(then) + 1)
		if evil.answers.Load() != was {
			t.Error("a message of a banned address was answered")
		}
	}
	passes := func() {
		t.Helper()
		was := evil.answers.Load()
		evil.burst(1)
		evil.answered(int(was) + 1)
	}
	refused := func(wants string, args ...string) {
		t.Helper()
		out, code, err := first.edge.Command(within(t, time.Minute), args...)
		if err != nil || code == 0 || !strings.Contains(out, wants) {
			t.Errorf("sipward %v: exit code %d, %v, no %q in %s", args, code, err, wants, out)
		}
	}
	key := evilA.String()

	passes()
	if x := explain(t, first.edge, key); x.Verdict != "passes" || x.Ban != nil || x.Trusted != "" || x.Kind != "ip" || reading(t, x, "dos").Count != 1 {
		t.Errorf("explained: %+v", x)
	}
	tell(t, first.edge, "bans", "add", key, "--for", "1h", "--why", "ticket 17")
	dropped()
	b := banned(t, first.edge, key)
	if b.Rule != "operator" || b.Why != "ticket 17" || b.By == "" || b.By == "edge" || !b.Hard || length(b) != time.Hour {
		t.Errorf("ban %+v", b)
	}
	var shown proxy.BanInfo
	ask(t, first.edge, &shown, "bans", "show", key)
	if shown.Key != key || shown.Drops == 0 || shown.LastDrop.IsZero() || shown.Kernel != "" {
		t.Errorf("shown %+v", shown)
	}
	if x := explain(t, first.edge, key); x.Verdict != "dropped" || x.Ban == nil || x.Ban.Rule != "operator" || len(x.Change) == 0 {
		t.Errorf("explained: %+v", x)
	}
	for _, args := range [][]string{{"bans", "list"}, {"bans", "show", key}, {"explain", key}} {
		if out := tell(t, first.edge, args...); !strings.Contains(out, key) || !strings.Contains(out, "operator") {
			t.Errorf("sipward %v:\n%s", args, out)
		}
	}
	tell(t, first.edge, "bans", "del", key)
	passes()
	refused("not banned", "bans", "show", key)
	refused("not banned", "bans", "del", key)

	// A ban of a rule goes the same way: what was counted is forgotten with it.
	floods := func(pass int) {
		t.Helper()
		was := evil.answers.Load()
		evil.burst(60)
		evil.answered(int(was) + pass)
		banned(t, first.edge, key)
	}
	floods(50) // del has forgotten the one before
	dropped()
	tell(t, first.edge, "bans", "del", key)
	passes()
	floods(49)

	// Users.
	ban := func(key string) { tell(t, first.edge, "bans", "add", key, "--for", "600") }
	ban("Mallory@SIPTEST.example")
	ban("eve@siptest.example/" + phoneA.String())
	x := first.by(good.Raw)
	good.Auto(nil)
	ask403 := func(user string, status int) {
		t.Helper()
		y := x.begin(t, "MESSAGE")
		y.req.Set("From", "<sip:"+user+"@siptest.example>;tag=1")
		y.send(y.req)
		y.callerGets(status, "MESSAGE")
	}
	ask403("Mallory", 403)
	ask403("eve", 403)
	ask403("trent", 200)
	if u := banned(t, first.edge, "Mallory@siptest.example"); u.Drops != 1 {
		t.Errorf("ban %+v", u)
	}

	// What is trusted cannot be banned.
	for _, trusted := range []string{nodeA.String(), fortAddr.String()} {
		refused("never banned", "bans", "add", trusted)
	}
	refused("", "bans", "add", "nonsense")

	// As scripts of NGCP read it.
	if out := tell(t, first.edge, "bans", "list", "--sht-dump", "--kind", "ip"); !strings.Contains(out, key) || strings.Contains(out, "Mallory") {
		t.Errorf("sht-dump:\n%s", out)
	}
	if out := tell(t, first.edge, "bans", "list", "--sht-dump", "--kind", "user"); !strings.Contains(out, "Mallory@siptest.example") || strings.Contains(out, "::"+key) {
		t.Errorf("sht-dump:\n%s", out)
	}

	// Out of one edge and into another.
	file := filepath.Join(t.TempDir(), "bans.json")
	tell(t, first.edge, "bans", "export", "-o", file)
	if out := tell(t, second.edge, "bans", "import", file); !strings.Contains(out, "3") {
		t.Errorf("import: %s", out)
	}
	mine, theirs := bans(t, first.edge), bans(t, second.edge)
	if len(mine) != 3 || len(theirs) != 3 {
		t.Fatalf("%+v\n%+v", mine, theirs)
	}
	for i := range mine {
		a, b := mine[i], theirs[i]
		if d := a.Until.Sub(b.Until).Abs(); a.Key != b.Key || a.Rule != b.Rule || a.Hard != b.Hard || a.Why != b.Why || a.By != b.By || d > time.Second {
			t.Errorf("exported %+v\nimported %+v", a, b)
		}
	}
	there := newCrowd(t, second.caller)
	there.burst(1)
	neighbour := newCrowd(t, second.dial(t, phoneA))
	neighbour.burst(1)
	neighbour.answered(1)
	if there.answers.Load() != 0 {
		t.Error("an imported ban stops nothing")
	}
	list := filepath.Join(t.TempDir(), "list.txt")
	if err := os.WriteFile(list, []byte("# of a friend\n192.0.2.7\n2001:db8:1:2::5\n"+key+"\n"+nodeA.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tell(t, second.edge, "bans", "import", list)
	banned(t, second.edge, "192.0.2.7")
	banned(t, second.edge, "2001:db8:1:2::/64")
	if n := len(bans(t, second.edge)); n != 5 {
		t.Errorf("%d bans after the import of a list: %+v", n, bans(t, second.edge))
	}
	for _, format := range []string{"nft", "ipset", "plain"} {
		if out := tell(t, second.edge, "bans", "export", "--format", format); !strings.Contains(out, "192.0.2.7") || !strings.Contains(out, "2001:db8:1:2::/64") || strings.Contains(out, "Mallory") {
			t.Errorf("export as %s:\n%s", format, out)
		}
	}

	// A reload keeps bans.
	second.edge.Write(settings{listen: []string{"udp:" + second.addr.String()}, backends: []string{second.node.URI("")}, security: strangers + "dos_ban_time: 60"}.yaml())
	second.edge.Reload()
	if n := len(bans(t, second.edge)); n != 5 {
		t.Errorf("%d bans after a reload", n)
	}

	refused("--yes", "bans", "flush")
	tell(t, first.edge, "bans", "flush", "--yes")
	tell(t, second.edge, "bans", "flush", "--yes")
	if n := len(bans(t, first.edge)) + len(bans(t, second.edge)); n != 0 {
		t.Errorf("%d bans left", n)
	}
	passes()
	there.burst(1)
	there.answered(1)
	ask403("Mallory", 200)
}

// alive registers, calls and hangs up all the time, until it is told to stop; it says how often.
func alive(ctx context.Context, t *testing.T, phone *siptest.Phone, password, target string, pause time.Duration) (stop func() (rounds int)) {
	t.Helper()
	end, done := make(chan struct{}), make(chan struct{})
	rounds := 0
	go func() {
		defer close(done)
		rest := time.NewTimer(0)
		defer rest.Stop()
		for {
			if a, err := phone.Register(ctx, password); err != nil || a.Status != 200 {
				t.Errorf("the good phone registers: %+v, %v", a, err)
			}
			call, err := phone.Call(ctx, target)
			if err != nil || !call.Answered() {
				t.Errorf("the good phone calls: %+v, %v", call, err)
			} else if code, err := call.Hangup(ctx); err != nil || code != 200 {
				t.Errorf("the good phone hangs up: %d, %v", code, err)
			}
			rounds++
			// A pause after each round: calls that a machine has held up and let go at once are a loop.
			rest.Reset(pause)
			select {
			case <-end:
				return
			case <-rest.C:
			}
		}
	}()
	return func() int {
		close(end)
		<-done
		return rounds
	}
}
