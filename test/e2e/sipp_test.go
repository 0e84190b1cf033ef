package e2e

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

// program is a foreign program under way.
type program struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	dir  string

	mu   sync.Mutex
	out  bytes.Buffer
	done chan struct{}
	err  error
}

// Write collects the output; the process writes from one copying goroutine.
func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *program) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// start runs a program in a directory of its own; the test's end kills it.
func start(t *testing.T, dir, name string, args ...string) *program {
	t.Helper()
	p := &program{t: t, name: filepath.Base(name), dir: dir, done: make(chan struct{})}
	p.cmd = exec.Command(name, args...)
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.Env = append(os.Environ(), "TERM=dumb", "HOME="+dir)
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it has mostly gone by itself
		<-p.done
		if t.Failed() {
			t.Logf("%s %v:\n%s", p.name, args, p.output())
			p.showErrors()
		}
	})
	return p
}

// showErrors shows SIPp's own account of what it did not expect.
func (p *program) showErrors() {
	files, err := filepath.Glob(filepath.Join(p.dir, "*_errors.log"))
	if err != nil {
		return
	}
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil {
			p.t.Logf("%s:\n%s", filepath.Base(f), data)
		}
	}
}

// wait expects the program to end with exit code 0.
func (p *program) wait(within time.Duration) {
	p.t.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.done:
		if p.err != nil {
			p.t.Fatalf("%s: %v", p.name, p.err)
		}
	case <-timer.C:
		p.t.Fatalf("%s still runs after %s", p.name, within)
	}
}

// sippMode is SIPp's -t for a transport. Debian's SIPp has no TLS: it speaks TCP to a bridge then.
var sippMode = map[string]string{"udp": "u1", "tcp": "t1", "tls": "t1"}

// sippServer starts SIPp as a node and returns where the edge reaches it.
func sippServer(t *testing.T, network string, on netip.Addr, calls int, cert *siptest.Certificate, scenario ...string) netip.AddrPort {
	t.Helper()
	_, addr := sippNode(t, network, on, calls, cert, scenario...)
	return addr
}

// sippNode is sippServer for who wants to see it end, too.
func sippNode(t *testing.T, network string, on netip.Addr, calls int, cert *siptest.Certificate, scenario ...string) (*program, netip.AddrPort) {
	t.Helper()
	port, err := siptest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(on, port)
	args := append(scenario, "-i", on.String(), "-p", strconv.Itoa(int(port)), "-t", sippMode[network],
		"-m", strconv.Itoa(calls), "-nostdin", "-trace_err", "-timeout", "60s", "-timeout_error", "-skip_rlimit", "-mi", on.String())
	p := start(t, t.TempDir(), need(t, "sipp"), args...)
	bound(t, network, addr)
	if network != "tls" {
		return p, addr
	}
	return p, bridge(t, netip.AddrPortFrom(on, 0), func() (net.Conn, error) { return net.Dial("tcp", addr.String()) }, cert.Server())
}

// sippClient runs SIPp as a caller to its end; every call has to succeed.
func sippClient(t *testing.T, network string, to netip.AddrPort, calls int, cert *siptest.Certificate, scenario ...string) {
	t.Helper()
	if network == "tls" {
		secure := to
		to = bridge(t, siptest.AnyPort, func() (net.Conn, error) { return tls.Dial("tcp", secure.String(), cert.Client()) }, nil)
	}
	port, err := siptest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	args := append(scenario, to.String(), "-i", "127.0.0.1", "-p", strconv.Itoa(int(port)), "-t", sippMode[network],
		"-m", strconv.Itoa(calls), "-r", "50", "-l", "50", "-d", "50", "-nostdin", "-trace_err", "-timeout", "40s", "-timeout_error", "-skip_rlimit")
	start(t, t.TempDir(), need(t, "sipp"), args...).wait(50 * time.Second)
}

// bound waits until somebody listens there: a TCP connect succeeds, a UDP bind fails.
func bound(t *testing.T, network string, addr netip.AddrPort) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	ctx := within(t, time.Minute)
	for {
		if network == "udp" {
			conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
			if err != nil {
				return
			}
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
		} else if conn, err := net.Dial("tcp", addr.String()); err == nil {
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("nobody listens on %s %s", network, addr)
		}
	}
}

// bridge accepts streams (TLS when it has a certificate) and copies them to and from a connection
// of its own for each: it lends TLS to a program without.
func bridge(t *testing.T, on netip.AddrPort, dial func() (net.Conn, error), config *tls.Config) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", on.String())
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	if config != nil {
		ln = tls.NewListener(ln, config)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	all.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := dial()
			if err != nil {
				_ = in.Close() // that is how the other side learns of it
				continue
			}
			mu.Lock()
			conns = append(conns, in, out)
			mu.Unlock()
			pipe := func(to, from net.Conn) {
				_, _ = io.Copy(to, from) // either end may go first
				_ = errors.Join(to.Close(), from.Close())
			}
			all.Go(func() { pipe(in, out) })
			all.Go(func() { pipe(out, in) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close() // ends the loop
		mu.Lock()
		for _, c := range conns {
			_ = c.Close() // ends the pipes
		}
		mu.Unlock()
		all.Wait()
	})
	return addr
}

// scenario is SIPp's arguments for one of our files.
func scenario(t *testing.T, name string) []string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", "sipp", name))
	if err != nil {
		t.Fatal(err)
	}
	return []string{"-sf", path}
}

// TestSIPpAgainstItself proves the scenarios, without an edge.
func TestSIPpAgainstItself(t *testing.T) {
	need(t, "sipp")
	cert := certificate(t)
	for _, network := range []string{"udp", "tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			addr := sippServer(t, network, nodeA, 5, cert, scenario(t, "uas.xml")...)
			sippClient(t, network, addr, 5, cert, scenario(t, "uac.xml")...)
		})
	}
	t.Run("register", func(t *testing.T) {
		pbx := newPBX(t, siptest.PBXOptions{Accounts: map[string]string{"sipp": "secret"}})
		sippClient(t, "udp", pbx.Addr(), 5, cert, scenario(t, "register.xml")...)
	})
}

// TestSIPpThroughTheEdge runs SIPp's built-in scenarios, which know nothing of Record-Route, and
// ours, which follow it, over every mix of transports.
func TestSIPpThroughTheEdge(t *testing.T) {
	need(t, "sipp")
	for _, mix := range mixes {
		for _, kind := range []string{"built in", "with Record-Route"} {
			t.Run(fmt.Sprintf("%s to %s %s", mix.outside, mix.inside, kind), func(t *testing.T) {
				cert := certificate(t)
				const calls = 20
				uas, uac := []string{"-sn", "uas"}, []string{"-sn", "uac"}
				if kind != "built in" {
					uas, uac = scenario(t, "uas.xml"), scenario(t, "uac.xml")
				}
				node := sippServer(t, mix.inside, nodeA, calls, cert, uas...)
				_, addr := mixed(t, mix.outside, mix.inside, cert, settings{backends: []string{siptest.URI("", node, mix.inside)}})
				sippClient(t, mix.outside, addr, calls, cert, uac...)
			})
		}
	}
}

// TestSIPpRegisters: REGISTER with digest by SIPp, the node being a sipgo agent.
func TestSIPpRegisters(t *testing.T) {
	need(t, "sipp")
	for _, network := range []string{"udp", "tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			pbx := newPBX(t, siptest.PBXOptions{Accounts: map[string]string{"sipp": "secret"}})
			cert := certificate(t)
			_, addr := mixed(t, network, "udp", cert, settings{backends: []string{pbx.URI("udp")}})
			sippClient(t, network, addr, 20, cert, scenario(t, "register.xml")...)
			if n := pbx.Count("REGISTER"); n != 40 {
				t.Fatalf("%d REGISTERs, want 40", n)
			}
		})
	}
}

// TestSipsak: OPTIONS by sipsak through the edge. (Without a user in the URI, sipsak loses the last
// digit of the port, so the edge itself is asked by TestRFC3261Chapter16.)
func TestSipsak(t *testing.T) {
	sipsak := need(t, "sipsak")
	for _, network := range []string{"udp", "tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			pbx := newPBX(t, siptest.PBXOptions{})
			cert := certificate(t)
			_, addr := mixed(t, network, "udp", cert, settings{backends: []string{pbx.URI("udp")}})
			sipsakOptions(t, sipsak, network, addr, cert)
			if pbx.Count("OPTIONS") != 1 {
				t.Fatalf("the node got %d OPTIONS, want 1", pbx.Count("OPTIONS"))
			}
		})
	}
}

// TestSipsakAgainstItself proves the command line, without an edge.
func TestSipsakAgainstItself(t *testing.T) {
	sipsak := need(t, "sipsak")
	cert := certificate(t)
	pbx := newPBX(t, siptest.PBXOptions{Address: siptest.AnyPort, TLS: cert.Server()})
	for _, network := range []string{"udp", "tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			addr, _ := siptest.URIHost(pbx.URI(network))
			sipsakOptions(t, sipsak, network, addr, cert)
		})
	}
}

func sipsakOptions(t *testing.T, sipsak, network string, addr netip.AddrPort, cert *siptest.Certificate) {
	t.Helper()
	if network == "tls" {
		// Its own TLS takes a TLS 1.3 session ticket for the end of the connection.
		secure := addr
		network = "tcp"
		addr = bridge(t, siptest.AnyPort, func() (net.Conn, error) { return tls.Dial("tcp", secure.String(), cert.Client()) }, nil)
	}
	start(t, t.TempDir(), sipsak, "-v", "-s", "sip:bob@"+addr.String(), "-E", network).wait(20 * time.Second)
}
