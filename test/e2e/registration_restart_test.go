//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy"
	"github.com/sipward/sipward/test/siptest"
)

// TestRegistrationsOutliveARestart: with state_file, phones on UDP are called over their flows and pinged as before,
// without a REGISTER; a call to one whose connection went gets 430 at once, until it is back.
func TestRegistrationsOutliveARestart(t *testing.T) {
	t.Parallel()
	for _, path := range []bool{false, true} {
		for _, end := range []struct {
			name string
			ends func(*siptest.Edge)
		}{{"stopped", (*siptest.Edge).Stop}, {"killed", (*siptest.Edge).Kill}} {
			t.Run(fmt.Sprintf("%s, path %t", end.name, path), func(t *testing.T) {
				t.Parallel()
				state := filepath.Join(t.TempDir(), "state")
				o := newOffice(t, siptest.RegistrarOptions{Path: path}, fmt.Sprintf("state_file: %q\nregistration: { ping_interval: 0.2 }\n", state))
				alice, bob := o.dial("udp", "alice"), o.dial("tcp", "bob")
				if path {
					alice.lines, bob.lines = []string{"Supported: path"}, []string{"Supported: path"}
				}
				alice.registers()
				bob.registers()
				before := o.registration("alice")
				inFile := func(users ...string) {
					t.Helper()
					until(t, "they are in the file", func() bool {
						data, err := os.ReadFile(state)
						return err == nil && !slices.ContainsFunc(users, func(u string) bool { return !strings.Contains(string(data), u+"@"+domain) })
					})
				}
				inFile("alice", "bob")
				o.dial("udp", "carol").registers()
				inFile("carol") // so the write before that is complete
				end.ends(o.edge)
				o.restart()
				if l := linesWith(o.edge, "[23] registrations restored from "); len(l) != 1 {
					t.Errorf("restored: %q", l)
				}
				o.reaches(alice)
				o.fails("bob")
				pings := alice.pings.Load()
				until(t, "pings go on", func() bool { return alice.pings.Load() >= pings+3 })
				now := o.registration("alice")
				if now.ID != before.ID || now.Flow != before.Flow || now.Contact != before.Contact || now.Shown != before.Shown || now.Mode != before.Mode ||
					now.State != "registered" || now.Since.Sub(before.Since).Abs() > time.Second || now.Expires.Sub(before.Expires).Abs() > time.Second {
					t.Errorf("before %+v\nnow %+v", before, now)
				}
				if r := o.registration("bob"); r.State != "closed" {
					t.Errorf("%+v", r)
				}

				back := bob.over(rawDial(t, "tcp", o.addr, nil))
				back.registers()
				o.reaches(back)
				if n := len(o.registrar.Bindings("bob")); n != 1 {
					t.Errorf("the registrar has %d contacts of one phone", n)
				}
				alice.registers()
				o.reaches(alice)
			})
		}
	}
}

// TestSecretAloneKeepsUDPPhones: the token is all that a call to a phone on UDP needs.
func TestSecretAloneKeepsUDPPhones(t *testing.T) {
	t.Parallel()
	for _, path := range []bool{false, true} {
		t.Run(fmt.Sprintf("path %t", path), func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, siptest.RegistrarOptions{Path: path}, "secret: correct horse battery staple, correct horse\n")
			alice, bob := o.dial("udp", "alice"), o.dial("tcp", "bob")
			if path {
				alice.lines, bob.lines = []string{"Supported: path"}, []string{"Supported: path"}
			}
			alice.registers()
			bob.registers()
			o.edge.Kill()
			o.restart()
			if all := o.registrations("alice"); len(all) != 0 {
				t.Errorf("%+v", all)
			}
			o.reaches(alice)
			o.fails("bob")
			alice.registers()
			o.reaches(alice)
			back := bob.over(rawDial(t, "tcp", o.addr, nil))
			back.registers()
			o.reaches(back)
		})
	}
}

// TestPhonesComeBackPaced: 300 phones on TCP at three sites lose the edge, and all are back in the same moment. They are
// taken in at limits.accept_rate, each is registered, and nobody is banned for the many messages of a site.
func TestPhonesComeBackPaced(t *testing.T) {
	t.Parallel()
	const sites, atSite, rate = 3, 100, 100
	var mu sync.Mutex
	var arrivals []time.Time // at the PBX
	pbx := rawListen(t, "udp", at(nodeA), nil)
	seen := map[string]bool{}
	pbx.Auto(func(m *siptest.Message) bool { // every password is right
		if m.Method() != "REGISTER" {
			return false
		}
		mu.Lock()
		if id := m.CallID() + m.Get("CSeq"); !seen[id] {
			seen[id] = true
			arrivals = append(arrivals, time.Now())
		}
		mu.Unlock()
		return m.Reply(siptest.Respond(m, 200, "OK", "r").Add("Contact", m.Get("Contact")).Bytes()) == nil
	})
	addr := fortPort(t, fortAddr)
	state := filepath.Join(t.TempDir(), "state")
	yaml := func(accepts int) string {
		return settings{
			listen: []string{"udp:" + addr.String(), "tcp:" + addr.String()}, backends: []string{pbx.URI("")}, security: strangers + "loop_enable: no",
			limits: fmt.Sprintf("accept_rate: %d", accepts), top: fmt.Sprintf("lab: yes\nstate_file: %q\n", state),
		}.yaml()
	}
	edge := siptest.StartEdge(t, yaml(10*rate))
	phones := make([]*extension, sites*atSite)
	dial := func(i int) (*siptest.Raw, error) {
		site := netip.AddrFrom4([4]byte{127, 1, 1, byte(1 + i%sites)})
		return siptest.DialRawFrom("tcp", at(site), addr, nil)
	}
	for i := range phones { // one after the other: the first of a site has to prove itself
		raw, err := dial(i)
		x := newExtension(t, keep(t)(raw, err), fmt.Sprintf("u%d", i))
		x.lines = []string{fmt.Sprintf(`Authorization: Digest username="%s", realm="%s", nonce="n", uri="sip:%[2]s", response="%032d"`, x.user, domain, i)}
		phones[i] = x
		phones[i].registers()
	}
	until(t, "all are in the file", func() bool {
		data, err := os.ReadFile(state)
		return err == nil && !slices.ContainsFunc(phones, func(x *extension) bool { return !strings.Contains(string(data), x.user+"@"+domain) })
	})
	edge.Stop()
	mu.Lock()
	arrivals = nil
	mu.Unlock()
	edge = siptest.StartEdge(t, yaml(rate))

	still := siptest.WatchStillness(t)
	began := time.Now()
	all := make(chan error, len(phones))
	for i, x := range phones {
		go func() { all <- comesBack(x, func() (*siptest.Raw, error) { return dial(i) }) }()
	}
	for range phones {
		if err := <-all; err != nil {
			t.Error(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	evenly(t, still, began, arrivals, len(phones), rate)
	if b := bans(t, edge); len(b) != 0 {
		t.Errorf("banned: %+v", b)
	}
	var s proxy.RegistrationStats
	ask(t, edge, &s, "registrations", "stats")
	if s.Registered != len(phones) || s.Moved != uint64(len(phones)) || s.Refused != 0 {
		t.Errorf("%+v", s)
	}
}

// comesBack registers a phone over another connection.
func comesBack(x *extension, dial func() (*siptest.Raw, error)) error {
	raw, err := dial()
	if err != nil {
		return err
	}
	x.t.Cleanup(func() { _ = raw.Close() }) // the edge may have gone first
	y := x.over(raw)
	box := raw.Box(y.callID)
	if err := raw.Send(y.register().Bytes()); err != nil {
		return err
	}
	m, err := box.Next(30 * time.Second)
	if err != nil {
		return fmt.Errorf("%s: %w", y.user, err)
	}
	if m.Status() != 200 || siptest.AddrURI(m.Get("Contact")) != y.contact {
		return fmt.Errorf("%s got\n%s", y.user, m)
	}
	return nil
}

// evenly: up to no moment came more than the rate allows, nor within a second; some of it the machine may have held up and
// let go at once.
func evenly(t *testing.T, still *siptest.Stillness, began time.Time, arrivals []time.Time, n, rate int) {
	t.Helper()
	if len(arrivals) != n {
		t.Fatalf("the PBX got %d REGISTERs, want %d", len(arrivals), n)
	}
	most := 0
	for i, at := range arrivals {
		if since := max(at.Sub(began), time.Second).Seconds(); float64(i+1) > 1.3*float64(rate)*since {
			t.Fatalf("%d had come after %s, at %d a second", i+1, at.Sub(began), rate)
		}
		first := slices.IndexFunc(arrivals, func(a time.Time) bool { return at.Sub(a) < time.Second })
		most = max(most, i+1-first)
	}
	t.Logf("%d came within %s, at most %d in a second", n, arrivals[n-1].Sub(began), most)
	if held := still.Between(began, arrivals[n-1]).Seconds(); float64(most) > (2+held)*float64(rate) {
		t.Errorf("%d came within a second, at %d a second", most, rate)
	}
}
