//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sipward/sipward/test/siptest"
)

// The world of the NAT laboratory, each box a network namespace of its own:
//
//	phone 192.168.1.20 – 192.168.1.1 NAT 198.51.100.11 –\
//	                                                     198.51.100.1 edge 10.0.0.1 – 10.0.0.2 PBX
//	phone 192.168.1.20 – 192.168.1.1 NAT 198.51.100.12 –/
var (
	natEdge   = netip.MustParseAddrPort("198.51.100.1:5060")
	natInside = netip.MustParseAddrPort("10.0.0.1:5060")
	natPBX    = netip.MustParseAddrPort("10.0.0.2:5060")
	natPublic = [2]netip.Addr{netip.MustParseAddr("198.51.100.11"), netip.MustParseAddr("198.51.100.12")}
	natPhone  = netip.MustParseAddrPort("192.168.1.20:5060") // of both phones
)

// A mapping of the NATs is forgotten after this time without a datagram: 30 s of the real ones, scaled.
const (
	mappingLife  = 4 * time.Second
	pingInterval = time.Second
)

// natLab is the network, without anything that runs in it.
type natLab struct {
	edge, pbx *siptest.Namespace
	router    [2]*siptest.Namespace
	phone     [2]*siptest.Namespace
}

// newNATLab builds the network.
func newNATLab(t *testing.T) *natLab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, for network namespaces")
	}
	l := &natLab{edge: newNamespace(t), pbx: newNamespace(t)}
	inside(t, l.edge, fmt.Sprintf(`link set lo up
		link add pbx type veth peer name edge netns %s
		address add 10.0.0.1/24 dev pbx
		link set pbx up`, l.pbx.Path()))
	inside(t, l.pbx, `link set lo up
		address add 10.0.0.2/24 dev edge
		link set edge up`)
	for i, public := range natPublic {
		l.router[i], l.phone[i] = newNamespace(t), newNamespace(t)
		inside(t, l.edge, fmt.Sprintf(`link add nat%[1]d type veth peer name wan netns %[2]s
			address add 198.51.100.1/32 dev nat%[1]d
			link set nat%[1]d up
			route add %[3]s/32 dev nat%[1]d`, i, l.router[i].Path(), public))
		inside(t, l.router[i], fmt.Sprintf(`link set lo up
			link add lan type veth peer name eth0 netns %s
			address add %s/32 dev wan
			address add 192.168.1.1/24 dev lan
			link set wan up
			link set lan up
			route add 198.51.100.1/32 dev wan
			route add default via 198.51.100.1 dev wan`, l.phone[i].Path(), public))
		inside(t, l.phone[i], fmt.Sprintf(`link set lo up
			address add %s/24 dev eth0
			link set eth0 up
			route add default via 192.168.1.1 dev eth0`, natPhone.Addr()))
		beNAT(t, l.router[i])
	}
	return l
}

func newNamespace(t *testing.T) *siptest.Namespace {
	t.Helper()
	n, err := siptest.NewNamespace()
	if errors.Is(err, unix.EPERM) {
		t.Skip("root may not make a network namespace here")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// enter calls f in a namespace.
func enter(t *testing.T, n *siptest.Namespace, f func()) {
	t.Helper()
	if err := n.Do(f); err != nil {
		t.Fatal(err)
	}
}

// inside runs lines of `ip` in a namespace.
func inside(t *testing.T, n *siptest.Namespace, lines string) {
	t.Helper()
	enter(t, n, func() { feed(t, lines, "ip", "-batch", "-") })
}

// feed runs a program with a text as its input.
func feed(t *testing.T, input, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(need(t, program), args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s\n%s", program, args, err, input, out)
	}
}

// beNAT makes a router what a home router is: a mapping has a public port of its own, which differs from the private
// one and is another each time; it lets in what comes from the address and port that it was made for, and nothing else;
// it is gone after a time without a datagram. What finds no mapping is counted and dropped without a word.
func beNAT(t *testing.T, n *siptest.Namespace) {
	t.Helper()
	enter(t, n, func() {
		feed(t, `table ip home {
	counter stray { }
	chain out { type nat hook postrouting priority srcnat; oifname "wan" masquerade fully-random; }
	chain through {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		iifname "lan" accept
	}
	chain in {
		type filter hook input priority filter; policy accept;
		iifname "wan" counter name stray drop
	}
}
`, "nft", "-f", "-")
		seconds := strconv.Itoa(int(mappingLife.Seconds()))
		for file, value := range map[string]string{
			"net/ipv4/ip_forward":                                "1",
			"net/netfilter/nf_conntrack_udp_timeout":             seconds,
			"net/netfilter/nf_conntrack_udp_timeout_stream":      seconds,
			"net/netfilter/nf_conntrack_tcp_timeout_established": "7440",
		} {
			if err := os.WriteFile("/proc/sys/"+file, []byte(value), 0); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// strays is how many datagrams found no mapping at a NAT.
func (l *natLab) strays(t *testing.T, i int) int {
	t.Helper()
	var out string
	enter(t, l.router[i], func() { out = run(t, "nft", "list", "counter", "ip", "home", "stray") })
	_, rest, ok := strings.Cut(out, "packets ")
	n, err := strconv.Atoi(strings.Fields(rest + " x")[0])
	if !ok || err != nil {
		t.Fatalf("no packets in %q", out)
	}
	return n
}

// TestNATLaboratory: the NATs of the laboratory do what the tests believe of them.
func TestNATLaboratory(t *testing.T) {
	t.Parallel()
	l := newNATLab(t)
	const shortly = 300 * time.Millisecond // what does not come has no other sign
	server := keep(t)(l.edge.ListenRaw("udp", natEdge, nil))
	other := keep(t)(l.edge.ListenRaw("udp", netip.AddrPortFrom(natEdge.Addr(), 0), nil))
	var phone [2]*siptest.Raw
	for i := range phone {
		phone[i] = keep(t)(l.phone[i].DialRaw("udp", natPhone, natEdge, nil))
	}
	knock := func(i int) netip.AddrPort {
		t.Helper()
		req := phone[i].Request("OPTIONS", "sip:"+natEdge.String())
		if err := phone[i].Send(req.Bytes()); err != nil {
			t.Fatal(err)
		}
		m, err := server.Next(soon)
		if err != nil {
			t.Fatal(err)
		}
		if m.CallID() != req.CallID() || m.From.Addr() != natPublic[i] {
			t.Fatalf("from %s:\n%s", m.From, m)
		}
		return m.From
	}
	reaches := func(from *siptest.Raw, at netip.AddrPort, i int, patience time.Duration) bool {
		t.Helper()
		if err := from.SendTo(from.Request("OPTIONS", "sip:x").Bytes(), at); err != nil {
			t.Fatal(err)
		}
		_, err := phone[i].Next(patience)
		return err == nil
	}
	for i := range phone {
		first := knock(i)
		if first.Port() == natPhone.Port() {
			t.Errorf("%s keeps the private port", first)
		}
		if again := knock(i); again != first {
			t.Errorf("the mapping %s became %s while it was in use", first, again)
		}
		if !reaches(server, first, i, soon) {
			t.Errorf("the mapping %s lets nothing in", first)
		}
		if reaches(other, first, i, shortly) {
			t.Errorf("the mapping %s lets in what comes from elsewhere", first)
		}
		if reaches(server, netip.AddrPortFrom(first.Addr(), natPhone.Port()), i, shortly) {
			t.Errorf("the NAT %s lets in what has no mapping", first.Addr())
		}
		if n := l.strays(t, i); n != 2 {
			t.Errorf("%d datagrams without a mapping were counted, want 2", n)
		}
	}
	before := knock(0)
	silence(t)
	if reaches(server, before, 0, shortly) {
		t.Errorf("the mapping %s lives after a silence", before)
	}
	if after := knock(0); after == before {
		t.Errorf("the mapping is %s again", after)
	}
}

// silence is longer than a mapping lives.
func silence(t *testing.T) {
	t.Helper()
	<-within(t, mappingLife+1500*time.Millisecond).Done()
}
