//go:build linux

package e2e

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sipward/sipward/test/siptest"
)

// Addresses of the namespace: two of one network, and one of another.
var (
	fort6     = netip.MustParseAddr("fd00:0:0:1::1")
	node6     = netip.MustParseAddr("fd00:0:0:2::1")
	evil6     = netip.MustParseAddr("fd00:0:0:66::1")
	evil6too  = netip.MustParseAddr("fd00:0:0:66:1:2:3:4")
	stranger6 = netip.MustParseAddr("fd00:0:0:67::1")
)

// inNamespace takes the test, and what it starts, to a network namespace of its own, with IPv6
// addresses. The thread has no other use afterwards, and ends with the test.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, for a network namespace")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) {
		t.Skip("root may not make a network namespace here")
	} else if err != nil {
		t.Fatal(err)
	}
	run(t, "ip", "link", "set", "lo", "up")
	for _, a := range []netip.Addr{fort6, node6, evil6, evil6too, stranger6} {
		run(t, "ip", "-6", "address", "add", a.String()+"/128", "dev", "lo", "nodad")
	}
}

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(need(t, program), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// withoutAdmin has what the test starts run without the right to change the network.
func withoutAdmin(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		return // it has none
	}
	runtime.LockOSThread() // for ever: the thread ends with the test
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_NET_ADMIN, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
}

// TestFloodOverIPv6: a source is a /64, over UDP, TCP and TLS.
func TestFloodOverIPv6(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"udp", "tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			inNamespace(t)
			h := newHopAt(t, network, fort6, node6, evil6, settings{top: "lab: yes\n", security: "dos_ban_time: 10"})
			floods(t, h, stranger6, "fd00:0:0:66::/64", 10*time.Second)

			tell(t, h.edge, "bans", "add", evil6.String())
			good := newCrowd(t, h.dial(t, stranger6))
			other, err := h.tryDial(evil6too)
			if err == nil {
				evil := newCrowd(t, keep(t)(other, nil))
				evil.burst(1)
				good.burst(1)
				good.answered(1)
				if evil.answers.Load() != 0 {
					t.Error("another address of a banned network was answered")
				}
			} else if network == "udp" {
				t.Fatal(err)
			}
			if x := explain(t, h.edge, evil6too.String()); x.Verdict != "dropped" || x.Key != "fd00:0:0:66::/64" {
				t.Errorf("explained: %+v", x)
			}
		})
	}
}

// TestKernelDropsWhatIsBanned: where it may, the edge has nftables drop what banned sources send to
// its ports, UDP and TCP, and without the right to that a filter on its UDP sockets; the listings
// say so, and what is lifted is lifted there too.
func TestKernelDropsWhatIsBanned(t *testing.T) {
	t.Parallel()
	t.Run("nftables", func(t *testing.T) {
		t.Parallel()
		inNamespace(t)
		drops(t, newFortHop(t, "udp", evilA, settings{security: "kernel_offload: auto"}), "nftables")
	})
	t.Run("socket filter", func(t *testing.T) {
		t.Parallel()
		withoutAdmin(t)
		drops(t, newFortHop(t, "udp", evilA, settings{security: "kernel_offload: auto"}), "filter")
	})
	t.Run("nftables over IPv6", func(t *testing.T) {
		t.Parallel()
		inNamespace(t)
		drops(t, newHopAt(t, "udp", fort6, node6, evil6, settings{security: "kernel_offload: auto"}), "nftables")
	})
	t.Run("socket filter over IPv6", func(t *testing.T) {
		t.Parallel()
		inNamespace(t)
		withoutAdmin(t)
		drops(t, newHopAt(t, "udp", fort6, node6, evil6, settings{security: "kernel_offload: auto"}), "filter")
	})
	t.Run("after the ruleset was flushed", func(t *testing.T) {
		t.Parallel()
		inNamespace(t)
		h := newFortHop(t, "udp", evilA, settings{security: "kernel_offload: auto"})
		has := func(what string) {
			t.Helper()
			deadline := time.Now().Add(time.Minute)
			for !strings.Contains(run(t, "nft", "list", "ruleset"), what) {
				if time.Now().After(deadline) {
					t.Fatalf("%s does not come back", what)
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		tell(t, h.edge, "bans", "add", evilA.String())
		has(evilA.String())
		run(t, "nft", "flush", "ruleset")
		has(evilA.String()) // by itself
		run(t, "nft", "flush", "ruleset")
		tell(t, h.edge, "bans", "add", "192.0.2.1")
		has("192.0.2.1") // with the next ban
		has(evilA.String())
		if b := banned(t, h.edge, "192.0.2.1"); b.Kernel != "nftables" {
			t.Errorf("ban %+v", b)
		}
	})
	t.Run("connections", func(t *testing.T) {
		t.Parallel()
		inNamespace(t)
		h := newFortHop(t, "tcp", evilA, settings{security: "kernel_offload: auto"})
		other, err := net.Listen("tcp", netip.AddrPortFrom(fortAddr, 0).String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.Close() }() // at the end of the test
		connects := func(to string) bool {
			d := net.Dialer{Timeout: time.Second, LocalAddr: net.TCPAddrFromAddrPort(at(evilA))}
			c, err := d.Dial("tcp", to)
			if err != nil {
				return false
			}
			_ = c.Close() // nothing was sent
			return true
		}
		if !connects(h.addr.String()) {
			t.Fatal("no connection before the ban")
		}
		tell(t, h.edge, "bans", "add", evilA.String())
		if b := banned(t, h.edge, evilA.String()); b.Kernel != "nftables" {
			t.Errorf("ban %+v", b)
		}
		if connects(h.addr.String()) {
			t.Error("a banned source connects")
		}
		if !connects(other.Addr().String()) {
			t.Error("a banned source is cut off another server of this host")
		}
		tell(t, h.edge, "bans", "del", evilA.String())
		if !connects(h.addr.String()) {
			t.Error("no connection after the ban")
		}
		h.edge.Stop()
		if left := run(t, "nft", "list", "ruleset"); strings.Contains(left, "sipward") {
			t.Errorf("left in the kernel:\n%s", left)
		}
	})
}

// drops bans the caller of a hop in several ways and looks who drops what it sends.
func drops(t *testing.T, h *hop, where string) {
	t.Helper()
	h.node.Auto(func(m *siptest.Message) bool { return m.Respond(200, "OK", "n1") == nil })
	evil := newCrowd(t, h.caller)
	key := explain(t, h.edge, h.caller.Addr().Addr().String()).Key
	if s := securityStats(t, h.edge); !strings.Contains(s.Kernel, where) {
		t.Fatalf("the kernel does %q, want %s", s.Kernel, where)
	}
	answers := 0
	for _, name := range []string{"of a flood", "of an operator"} {
		if name == "of a flood" {
			evil.burst(60)
			answers += 50
			evil.answered(answers)
		} else {
			tell(t, h.edge, "bans", "add", key)
		}
		until(t, "the kernel drops the messages "+name, func() bool { return banned(t, h.edge, key).Kernel == where })
		before := securityStats(t, h.edge)
		evil.burst(500)
		good := newCrowd(t, h.dial(t, neighbourOf(h)))
		good.burst(1)
		good.answered(1)
		after := securityStats(t, h.edge)
		if after.Dropped["banned"] != before.Dropped["banned"] {
			t.Errorf("%s, %d messages came to the process", name, after.Dropped["banned"]-before.Dropped["banned"])
		}
		if n := after.Dropped["kernel"] - before.Dropped["kernel"]; where == "filter" && n != 500 {
			t.Errorf("%s, %d messages were dropped by the kernel, want 500", name, n)
		}
		tell(t, h.edge, "bans", "del", key)
		evil.burst(1)
		answers++
		evil.answered(answers)
	}
}

func neighbourOf(h *hop) netip.Addr {
	if h.addr.Addr().Is6() {
		return stranger6
	}
	return phoneA
}
