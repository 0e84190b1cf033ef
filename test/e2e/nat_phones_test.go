//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/admin"
	"github.com/sipward/sipward/proxy"
	"github.com/sipward/sipward/test/siptest"
)

// natHome is the laboratory with an edge, a registrar behind it, and Alice and Bob behind their NATs.
type natHome struct {
	*natLab
	t     *testing.T
	edge  *siptest.Edge
	alice *siptest.Handset
	bob   *siptest.Handset
	rung  map[*siptest.Handset]int
}

// natWay is one way to be found again.
type natWay struct {
	name      string
	registrar func(*testing.T, *natLab) func(user string) string // starts it; the Contact of a user, nil where it cannot be asked
	pool      string                                             // keys of the pool
	ping      string
	networks  [2]string // of Alice and Bob; default UDP
	lines     []string  // of a REGISTER
	params    string    // of its Contact
	late      bool      // it is only found with the second REGISTER
	password  string    // of both
	edge      string    // its configuration, whole; else one is made
}

func kamailioWithPath(t *testing.T, l *natLab) func(string) string {
	startKamailio(t, l, true)
	return nil
}

func kamailioWithoutPath(t *testing.T, l *natLab) func(string) string {
	startKamailio(t, l, false)
	return nil
}

func plainB2BUA(t *testing.T, l *natLab) func(string) string { return startB2BUA(t, l).registered }

const supportsPath = "    supports_path: yes\n"

// newNATHome starts it all; nobody has registered yet.
func newNATHome(t *testing.T, w natWay) (h *natHome, registered func(user string) string) {
	t.Helper()
	h = &natHome{natLab: newNATLab(t), t: t, rung: make(map[*siptest.Handset]int)}
	registered = w.registrar(t, h.natLab)
	if w.ping == "" {
		w.ping = "options"
	}
	yaml := settings{
		listen: []string{"udp:" + natEdge.String(), "tcp:" + natEdge.String(), fmt.Sprintf("{ address: %q, side: inside }", "udp:"+natInside.String())},
		pool:   w.pool, backends: []string{"sip:" + natPBX.String()},
		top: fmt.Sprintf("lab: yes\nregistration: { ping: %s, ping_interval: %g }\n", w.ping, pingInterval.Seconds()) +
			"transaction: { t1: 0.2, t2: 0.8, t4: 0.8, timer_b: 2, invite_failover: 1, request_failover: 1 }\n",
	}.yaml()
	if w.edge != "" {
		yaml = w.edge
	}
	enter(t, h.natLab.edge, func() { h.edge = siptest.StartEdge(t, yaml) })
	h.alice, h.bob = h.phoneOf(w, "alice", 0), h.phoneOf(w, "bob", 1)
	return h, registered
}

func (h *natHome) phoneOf(w natWay, user string, i int) *siptest.Handset {
	h.t.Helper()
	network := w.networks[i]
	if network == "" {
		network = "udp"
	}
	raw := keep(h.t)(h.natLab.phone[i].DialRaw(network, natPhone, natEdge, nil))
	p := siptest.NewHandset(raw, siptest.HandsetOptions{User: user, Domain: natDomain, Password: w.password, Lines: w.lines, Params: w.params})
	h.t.Cleanup(func() {
		p.Close()
		for _, wrong := range p.Wrong() {
			h.t.Error(wrong)
		}
	})
	return p
}

// register registers a phone, which finds its own Contact and no other in the answer (RFC 3261 10.3).
func (h *natHome) register(p *siptest.Handset) {
	h.t.Helper()
	h.registersFor(p, "300")
}

// registersFor registers for so many seconds, as the phone is told.
func (h *natHome) registersFor(p *siptest.Handset, seconds string) {
	h.t.Helper()
	m, err := p.Register(within(h.t, soon), 300)
	if err != nil {
		h.t.Fatal(err)
	}
	contacts := m.Values("Contact")
	if m.Status() != 200 || len(contacts) != 1 || siptest.AddrURI(contacts[0]) != p.Contact() {
		h.t.Fatalf("%s registered %s and got\n%s", p.AoR(), p.Contact(), m)
	}
	if expires, _ := siptest.Param(contacts[0], "expires"); expires != seconds && expires != "299" {
		h.t.Errorf("%s is registered for %q seconds:\n%s", p.AoR(), expires, m)
	}
	if !slices.Contains(natPublic[:], p.Mapped().Addr()) {
		h.t.Errorf("%s was told the address %s", p.AoR(), p.Mapped())
	}
}

// natCall is one call as both ends have it.
type natCall struct {
	t              *testing.T
	caller, callee *siptest.Party
}

// call has one phone call the other.
func (h *natHome) call(from, to *siptest.Handset) natCall {
	h.t.Helper()
	caller, err := from.Call(within(h.t, 2*soon), to.AoR())
	if err != nil {
		h.t.Fatalf("%s calls %s: %v", from.AoR(), to.AoR(), err)
	}
	h.rung[to]++
	callee, err := to.Rung(within(h.t, soon), h.rung[to])
	if err != nil {
		h.t.Fatal(err)
	}
	if n := to.Rings(); n != h.rung[to] {
		h.t.Errorf("%s was rung %d times, want %d", to.AoR(), n, h.rung[to])
	}
	c := natCall{h.t, caller, callee}
	c.hears(callee, "ACK", 1)
	return c
}

func (c natCall) hears(p *siptest.Party, method string, n int) {
	c.t.Helper()
	if _, err := p.Await(within(c.t, soon), method, n); err != nil {
		c.t.Fatal(err)
	}
}

// talk has both sides ask for something inside the call, INVITEs among it.
func (c natCall) talk() {
	c.t.Helper()
	acks := map[*siptest.Party]int{c.caller: len(c.caller.Heard("ACK")), c.callee: len(c.callee.Heard("ACK"))}
	for _, p := range []*siptest.Party{c.caller, c.callee, c.callee, c.caller} {
		q := c.caller
		if p == q {
			q = c.callee
		}
		c.asks(p, "INVITE")
		acks[q]++
		c.hears(q, "ACK", acks[q])
		c.asks(p, "INFO")
	}
}

func (c natCall) asks(p *siptest.Party, method string) {
	c.t.Helper()
	res, err := p.Request(within(c.t, soon), method)
	if err != nil {
		c.t.Fatal(err)
	}
	if res.Status() != 200 {
		c.t.Fatalf("%s was answered with\n%s", method, res)
	}
}

// hangUp ends the call from one side.
func (c natCall) hangUp(byCaller bool) {
	c.t.Helper()
	by, other := c.callee, c.caller
	if byCaller {
		by, other = other, by
	}
	c.asks(by, "BYE")
	c.hears(other, "BYE", 1)
}

// bothWays has both call each other, with all that a call has, and either side hang up.
func (h *natHome) bothWays() {
	h.t.Helper()
	for _, byCaller := range []bool{true, false} {
		for _, ends := range [][2]*siptest.Handset{{h.alice, h.bob}, {h.bob, h.alice}} {
			c := h.call(ends[0], ends[1])
			c.talk()
			c.hangUp(byCaller)
		}
	}
}

func (h *natHome) registrations() []proxy.RegistrationInfo {
	h.t.Helper()
	var l admin.RegistrationList
	ask(h.t, h.edge, &l, "registrations", "list")
	return l.Registrations
}

// TestPhonesBehindNAT: two phones with the same private address behind two NATs register through the edge, at registrars
// that know Path and that do not, call each other, ask for something inside the call and hang up, from either side; a
// silence longer than a mapping lives leaves the mapping open, and the listing says how.
func TestPhonesBehindNAT(t *testing.T) {
	t.Parallel()
	for _, w := range []natWay{
		{name: "Kamailio with Path", registrar: kamailioWithPath, pool: supportsPath},
		{name: "Kamailio with Path and phones with outbound", registrar: kamailioWithPath, lines: []string{"Supported: path, outbound"},
			params: `;+sip.instance="<urn:uuid:00000000-0000-1000-8000-000A95A0E128>";reg-id=1`},
		{name: "Kamailio without Path", registrar: kamailioWithoutPath},
		{name: "Kamailio without Path and pings without answer", registrar: kamailioWithoutPath, ping: "crlf"},
		{name: "a B2BUA without Path", registrar: plainB2BUA},
		{name: "a B2BUA without Path and phones with it", registrar: plainB2BUA, lines: []string{"Supported: path"}, late: true},
	} {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			h, registered := newNATHome(t, w)
			if w.late { // each shows that the registrar ignores its Path, and is to come back soon
				h.registersFor(h.alice, "30")
				h.registersFor(h.bob, "30")
			}
			h.register(h.alice)
			h.register(h.bob)
			if registered != nil {
				h.hides(registered)
			}
			h.bothWays()
			h.staysOpen(w.ping != "crlf")
			c := h.call(h.alice, h.bob)
			c.talk()
			c.hangUp(false)
			h.call(h.bob, h.alice).hangUp(true)
			h.leaves()
		})
	}
}

// hides checks that the registrar sees the edge's address and no other.
func (h *natHome) hides(registered func(string) string) {
	h.t.Helper()
	for _, user := range []string{"alice", "bob"} {
		if at, ok := siptest.URIHost(registered(user)); !ok || at != natInside {
			h.t.Errorf("the registrar has %q for %s", registered(user), user)
		}
	}
}

// staysOpen has nobody say a word until a mapping without pings were gone, and looks whether it is still there.
func (h *natHome) staysOpen(answered bool) {
	h.t.Helper()
	phones := []*siptest.Handset{h.alice, h.bob}
	var before [2]netip.AddrPort
	for i, p := range phones {
		before[i] = p.Mapped()
	}
	quiet := within(h.t, mappingLife+1500*time.Millisecond)
	for _, p := range phones {
		if err := p.AwaitPings(within(h.t, 20*time.Second), int(mappingLife/pingInterval)); err != nil {
			h.t.Fatal(err)
		}
	}
	<-quiet.Done()
	h.arePinged(before, answered)
	for i, p := range phones {
		if n := h.strays(h.t, i); n != 0 {
			h.t.Errorf("%d datagrams for %s found no mapping", n, p.AoR())
		}
		h.register(p)
		if p.Mapped() != before[i] {
			h.t.Errorf("the mapping of %s was %s and is %s", p.AoR(), before[i], p.Mapped())
		}
	}
}

// arePinged checks what the listing says of the phones.
func (h *natHome) arePinged(flows [2]netip.AddrPort, answered bool) {
	h.t.Helper()
	list := h.registrations()
	if len(list) != 2 {
		h.t.Fatalf("registrations %+v", list)
	}
	for i, p := range []*siptest.Handset{h.alice, h.bob} {
		at := slices.IndexFunc(list, func(r proxy.RegistrationInfo) bool { return "sip:"+r.AoR == p.AoR() })
		if at < 0 {
			h.t.Errorf("%s is not listed: %+v", p.AoR(), list)
			continue
		}
		r := list[at]
		if !r.NATed || r.Missed > 1 || r.Pings < uint64(mappingLife/pingInterval) || (r.RTT > 0 && !r.LastPong.IsZero()) != answered {
			h.t.Errorf("the pings of %s are not shown: %+v", p.AoR(), r)
		}
		if r.Contact != p.Contact() || !strings.HasSuffix(r.Flow, flows[i].String()) || r.Former != "" {
			h.t.Errorf("%s at %s is shown as %+v", p.Contact(), flows[i], r)
		}
	}
}

// leaves has both phones take their registrations away.
func (h *natHome) leaves() {
	h.t.Helper()
	for _, p := range []*siptest.Handset{h.alice, h.bob} {
		m, err := p.Register(within(h.t, soon), 0)
		if err != nil {
			h.t.Fatal(err)
		}
		if m.Status() != 200 || len(m.Values("Contact")) != 0 {
			h.t.Errorf("%s took its registration away and got\n%s", p.AoR(), m)
		}
	}
	if list := h.registrations(); len(list) != 0 {
		h.t.Errorf("left behind: %+v", list)
	}
}

// TestPhonesBehindNATOverTCP: the same calls where one or both of the phones have a connection.
func TestPhonesBehindNATOverTCP(t *testing.T) {
	t.Parallel()
	for _, w := range []natWay{
		{name: "TCP and UDP, Kamailio with Path", registrar: kamailioWithPath, pool: supportsPath, networks: [2]string{"tcp", "udp"}},
		{name: "UDP and TCP, Kamailio without Path", registrar: kamailioWithoutPath, networks: [2]string{"udp", "tcp"}},
		{name: "TCP and TCP, a B2BUA without Path", registrar: plainB2BUA, networks: [2]string{"tcp", "tcp"}},
	} {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			h, _ := newNATHome(t, w)
			h.register(h.alice)
			h.register(h.bob)
			h.bothWays()
			h.leaves()
		})
	}
}

// TestMappingIsLostWithoutPings is the counter-proof, and what follows: without pings a silence closes the mapping, and
// no call comes through; once the phone has registered again, over its next mapping, calls come there and only there.
func TestMappingIsLostWithoutPings(t *testing.T) {
	t.Parallel()
	for _, w := range []natWay{
		{name: "Kamailio with Path", registrar: kamailioWithPath, pool: supportsPath, ping: "none"},
		{name: "Kamailio without Path", registrar: kamailioWithoutPath, ping: "none"},
		{name: "a B2BUA without Path", registrar: plainB2BUA, ping: "none"},
	} {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			h, _ := newNATHome(t, w)
			h.register(h.alice)
			h.register(h.bob)
			h.call(h.alice, h.bob).hangUp(true)
			first := h.bob.Mapped()
			silence(t)

			if _, err := h.alice.Call(within(t, 3*soon), h.bob.AoR()); err == nil || !strings.Contains(err.Error(), "answered with 4") {
				t.Fatalf("a call to a closed mapping: %v", err)
			}
			if n := h.bob.Rings(); n != 1 {
				t.Fatalf("Bob was rung %d times through a closed mapping", n-1)
			}
			before := h.strays(t, 1)
			if before == 0 {
				t.Fatal("nothing was sent to the closed mapping")
			}

			h.register(h.bob)
			second := h.bob.Mapped()
			if second == first {
				t.Fatalf("the mapping is %s again", second)
			}
			c := h.call(h.alice, h.bob)
			c.talk()
			c.hangUp(false)
			if n := h.strays(t, 1); n != before {
				t.Errorf("%d more datagrams went to the closed mapping", n-before)
			}
			h.movedTo(first, second)
		})
	}
}

// movedTo checks what the listing says of Bob, who has registered from two mappings.
func (h *natHome) movedTo(first, second netip.AddrPort) {
	h.t.Helper()
	var bobs []proxy.RegistrationInfo
	for _, r := range h.registrations() {
		if "sip:"+r.AoR == h.bob.AoR() {
			bobs = append(bobs, r)
		}
	}
	if len(bobs) != 1 || !strings.HasSuffix(bobs[0].Flow, second.String()) || !strings.HasSuffix(bobs[0].Former, first.String()) {
		h.t.Errorf("Bob moved from %s to %s and is shown as %+v", first, second, bobs)
	}
}

// TestCallFollowsTheMapping: a call is up while the mapping of the called phone closes; the caller holds its own open.
// A re-INVITE from the next mapping goes through, and from then on the caller reaches it there.
func TestCallFollowsTheMapping(t *testing.T) {
	t.Parallel()
	withPath := natWay{name: "Kamailio with Path", registrar: kamailioWithPath, pool: supportsPath, ping: "none"}
	without := natWay{name: "a B2BUA without Path", registrar: plainB2BUA, ping: "none"}
	for _, x := range []struct {
		natWay
		speaks bool // the phone says where it is inside the call; else it only registers
	}{{withPath, true}, {without, true}, {withPath, false}, {without, false}} {
		name := x.name + ", by a re-INVITE"
		if !x.speaks {
			name = x.name + ", by a REGISTER"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, _ := newNATHome(t, x.natWay)
			h.register(h.alice)
			h.register(h.bob)
			first := [2]netip.AddrPort{h.alice.Mapped(), h.bob.Mapped()}
			c := h.call(h.alice, h.bob)
			h.keepsItself(h.alice)
			if x.speaks {
				c.asks(c.callee, "INVITE")
				c.hears(c.caller, "ACK", 1)
			} else {
				h.register(h.bob)
			}
			c.asks(c.caller, "INFO")
			c.talk()
			c.hangUp(true)
			h.register(h.alice)
			h.register(h.bob)
			if h.alice.Mapped() != first[0] || h.bob.Mapped() == first[1] {
				t.Errorf("mappings %s became %s and %s", first, h.alice.Mapped(), h.bob.Mapped())
			}
			if n := h.strays(t, 1); n != 0 {
				t.Errorf("%d datagrams went to the closed mapping", n)
			}
		})
	}
}

// keepsItself is a silence of all but one phone, which asks for its address all the while, as phones do.
func (h *natHome) keepsItself(p *siptest.Handset) {
	h.t.Helper()
	quiet := within(h.t, mappingLife+1500*time.Millisecond)
	tick := time.NewTicker(mappingLife / 4)
	defer tick.Stop()
	for {
		select {
		case <-quiet.Done():
			return
		case <-tick.C:
		}
		at, err := p.STUN(within(h.t, soon))
		if err != nil {
			h.t.Fatal(err)
		}
		if at != p.Mapped() {
			h.t.Errorf("%s was told %s by STUN and %s by rport", p.AoR(), at, p.Mapped())
		}
	}
}
