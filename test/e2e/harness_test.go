package e2e

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sipward/sipward/test/siptest"
)

// together is how many tests that only wait for timers run at a time: more than there are
// processors, which is the default.
const together = "8"

func TestMain(m *testing.M) {
	if os.Getenv(idlersVariable) != "" {
		idlers()
		return
	}
	if err := flag.Set("test.parallel", together); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(siptest.StrayReader), goleak.Cleanup(func(code int) {
		siptest.RemoveBinary()
		os.Exit(code)
	}))
}

var (
	nodeA = netip.MustParseAddr("127.0.0.2")
	nodeB = netip.MustParseAddr("127.0.0.3")
)

// soon is how long a message may take that is due at once. It is generous: it only matters
// when a test fails.
const soon = 20 * time.Second

func at(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 0) }

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// need skips a test whose program is not installed; where CI is set, it fails.
func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is needed and not installed", program)
	}
	t.Skipf("%s is not installed", program)
	return ""
}

// settings is a configuration in the making.
type settings struct {
	listen   []string // "udp:127.0.0.1:5060", or whole YAML list items
	backends []string // SIP URIs, or whole YAML list items
	pool     string   // further keys of the pool, indented by four
	top      string   // further top-level keys
	limits   string   // keys of that section
	security string   // keys of that section; default: those of a laboratory, where one user calls another all the time
	probe    string   // default: no probes
}

func (s settings) yaml() string {
	var b strings.Builder
	b.WriteString("listen:\n")
	for _, l := range s.listen {
		fmt.Fprintf(&b, "  - %s\n", l)
	}
	if s.probe == "" {
		s.probe = "{ interval: 0 }"
	}
	fmt.Fprintf(&b, "pools:\n  pbx:\n    probe: %s\n", s.probe)
	b.WriteString(s.pool)
	b.WriteString("    backends:\n")
	for _, a := range s.backends {
		if strings.HasPrefix(a, "sip") {
			a = fmt.Sprintf("{ address: %q }", a)
		}
		fmt.Fprintf(&b, "      - %s\n", a)
	}
	if s.security == "" {
		s.security = "loop_enable: no"
	}
	if !strings.Contains(s.security, "kernel_offload:") {
		s.security = "kernel_offload: off, " + s.security
	}
	fmt.Fprintf(&b, "security: { %s }\n", s.security)
	// A busy test machine must not be taken for an overloaded edge.
	fmt.Fprintf(&b, "limits: { queue_delay: 0, %s }\n", s.limits)
	b.WriteString(s.top)
	return b.String()
}

// ignorant is a pool that learns nothing of its nodes, whatever they answer.
const ignorant = "{ interval: 0, passive: no }"

// hasty are transaction timers that make time-outs testable.
const hasty = "lab: yes\ntransaction: { t1: 0.05, t2: 0.2, t4: 0.2, timer_b: 0.8, timer_c: 3, invite_failover: 0.3, request_failover: 0.3 }\n"

// hastyTimerC is their timer C.
const hastyTimerC = 3 * time.Second

// freeAddr is a free address on 127.0.0.1.
func freeAddr(t *testing.T) netip.AddrPort {
	t.Helper()
	port, err := siptest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(siptest.Loopback, port)
}

// listener is a list item for `listen:` on that address; tls and wss get a certificate.
func listener(t *testing.T, network string, addr netip.AddrPort, cert *siptest.Certificate) string {
	t.Helper()
	if network != "tls" && network != "wss" {
		return network + ":" + addr.String()
	}
	certFile, keyFile, err := cert.Write(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("{ address: %q, certificate: %q, key: %q }", network+":"+addr.String(), certFile, keyFile)
}

func certificate(t *testing.T, names ...string) *siptest.Certificate {
	t.Helper()
	c, err := siptest.NewCertificate(names...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func rawListen(t *testing.T, network string, addr netip.AddrPort, cert *siptest.Certificate) *siptest.Raw {
	t.Helper()
	var config *tls.Config
	if network == "tls" {
		config = cert.Server()
	}
	return keep(t)(siptest.ListenRaw(network, addr, config))
}

func rawDial(t *testing.T, network string, peer netip.AddrPort, cert *siptest.Certificate) *siptest.Raw {
	t.Helper()
	var config *tls.Config
	if network == "tls" || network == "wss" {
		config = cert.Client()
	}
	return keep(t)(siptest.DialRaw(network, peer, config))
}

// keep closes an endpoint at the test's end.
func keep(t *testing.T) func(*siptest.Raw, error) *siptest.Raw {
	return func(r *siptest.Raw, err error) *siptest.Raw {
		t.Helper()
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
}

func newPBX(t *testing.T, o siptest.PBXOptions) *siptest.PBX {
	t.Helper()
	if !o.Address.IsValid() {
		o.Address = at(nodeA)
	}
	p, err := siptest.NewPBX(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func newPhone(t *testing.T, o siptest.PhoneOptions) *siptest.Phone {
	t.Helper()
	p, err := siptest.NewPhone(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func newAnswerer(t *testing.T, name string, on netip.Addr) *siptest.Answerer {
	t.Helper()
	a, err := siptest.NewAnswerer(name, at(on))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// hop is one edge between an outside endpoint and a node, all of one transport, watched byte by
// byte on both sides.
type hop struct {
	network string
	addr    netip.AddrPort // of the edge
	edge    *siptest.Edge
	cert    *siptest.Certificate
	caller  *siptest.Raw
	node    *siptest.Raw
}

// newHop starts one; settings may add to the pool and the top level.
func newHop(t *testing.T, network string, s settings) *hop {
	t.Helper()
	h := &hop{network: network, addr: freeAddr(t), cert: certificate(t)}
	h.node = rawListen(t, network, at(nodeA), h.cert)
	s.listen = append(s.listen, listener(t, network, h.addr, h.cert))
	s.backends = append([]string{h.node.URI("")}, s.backends...)
	if network == "tls" {
		s.pool += "    tls: { insecure: yes }\n"
	}
	h.edge = siptest.StartEdge(t, s.yaml())
	h.caller = rawDial(t, network, h.addr, h.cert)
	return h
}

// exchange is one Call-ID as both ends see it.
type exchange struct {
	*hop
	t                *testing.T
	req              *siptest.Text
	atCaller, atNode *siptest.Box
	taken            map[string]bool // the messages that a test has looked at
}

// begin prepares a request and the two boxes for its Call-ID; nothing is sent.
func (h *hop) begin(t *testing.T, method string) *exchange {
	t.Helper()
	x := &exchange{hop: h, t: t, req: h.caller.Request(method, "sip:bob@siptest.example")}
	if method == "INVITE" {
		x.req.SDP()
	}
	x.atCaller, x.atNode = h.caller.Box(x.req.CallID()), h.node.Box(x.req.CallID())
	return x
}

// send sends from the caller.
func (x *exchange) send(m *siptest.Text) {
	x.t.Helper()
	if err := x.caller.Send(m.Bytes()); err != nil {
		x.t.Fatal(err)
	}
}

// next takes a message that is wanted. Over UDP it passes over others that repeat one already
// taken: on a slow machine a T1 goes by between a message and its answer.
func (x *exchange) next(box *siptest.Box, wanted func(*siptest.Message) bool) (*siptest.Message, error) {
	if x.taken == nil {
		x.taken = make(map[string]bool)
	}
	for {
		m, err := box.Next(soon)
		if err != nil {
			return nil, err
		}
		again := x.network == "udp" && x.taken[string(m.Data)]
		x.taken[string(m.Data)] = true
		switch {
		case wanted(m):
			return m, nil
		case !again:
			return nil, fmt.Errorf("got\n%s", m)
		}
	}
}

// nodeGets is the next message the node gets; it has to be a request of that method.
func (x *exchange) nodeGets(method string) *siptest.Message {
	x.t.Helper()
	m, err := x.next(x.atNode, func(m *siptest.Message) bool { return m.Status() == 0 && m.Method() == method })
	if err != nil {
		x.t.Fatalf("node waits for %s: %v", method, err)
	}
	return m
}

// callerGets is the next message the caller gets; it has to be a response with that code to that method.
func (x *exchange) callerGets(code int, method string) *siptest.Message {
	x.t.Helper()
	return x.callerGetsOneOf(method, code)
}

// callerGetsOneOf is callerGets where several codes are right.
func (x *exchange) callerGetsOneOf(method string, codes ...int) *siptest.Message {
	x.t.Helper()
	m, err := x.next(x.atCaller, func(m *siptest.Message) bool {
		return m.Method() == method && slices.Contains(codes, m.Status())
	})
	if err != nil {
		x.t.Fatalf("caller waits for %v (%s): %v", codes, method, err)
	}
	return m
}

func (x *exchange) respond(m *siptest.Message, code int, reason, tag string) {
	x.t.Helper()
	if err := m.Respond(code, reason, tag); err != nil {
		x.t.Fatal(err)
	}
}

// answer sends a 2xx with Contact and SDP.
func (x *exchange) answer(m *siptest.Message, tag string) {
	x.t.Helper()
	res := siptest.Respond(m, 200, "OK", tag).Add("Contact", "<"+x.node.URI("bob")+">").SDP()
	if err := m.Reply(res.Bytes()); err != nil {
		x.t.Fatal(err)
	}
}

// invite sends the INVITE and takes the edge's own 100; it returns what the node got.
func (x *exchange) invite() *siptest.Message {
	x.t.Helper()
	x.send(x.req)
	x.callerGets(100, "INVITE")
	return x.nodeGets("INVITE")
}

// within builds a request of the caller inside the dialog that a 2xx has made (RFC 3261 12.2.1.1).
func (x *exchange) inside(ok *siptest.Message, method string, cseq int) *siptest.Text {
	m := x.caller.Request(method, siptest.AddrURI(ok.Get("Contact")))
	m.Set("From", ok.Get("From")).Set("To", ok.Get("To")).Set("Call-ID", ok.CallID()).Set("CSeq", fmt.Sprintf("%d %s", cseq, method))
	recorded := ok.Values("Record-Route")
	for i := range recorded {
		m.Prepend("Route", recorded[i])
	}
	return m
}

// insideFromNode builds a request of the callee inside the dialog of an INVITE it has answered with tag.
func (x *exchange) insideFromNode(invite *siptest.Message, tag, method string, cseq int) *siptest.Text {
	m := x.node.Request(method, siptest.AddrURI(invite.Get("Contact")))
	m.Set("From", invite.Get("To")+";tag="+tag).Set("To", invite.Get("From")).Set("Call-ID", invite.CallID()).
		Set("CSeq", fmt.Sprintf("%d %s", cseq, method)).Set("Contact", "<"+x.node.URI("bob")+">")
	for _, r := range invite.Values("Record-Route") {
		m.Add("Route", r)
	}
	return m
}

// ackFinal acknowledges a 3xx–6xx from the caller's side (RFC 3261 17.1.1.3).
func (x *exchange) ackFinal(final *siptest.Message) {
	x.t.Helper()
	ack := x.req.Clone().Method("ACK").Set("To", final.Get("To")).Del("Contact").Del("Content-Type")
	ack.Body = ""
	x.send(ack)
}

// cancel is the CANCEL of the exchange's INVITE (RFC 3261 9.1).
func (x *exchange) cancel() *siptest.Text {
	m := x.req.Clone().Method("CANCEL").Del("Contact").Del("Content-Type")
	m.Body = ""
	return m
}

// reject answers at the node, sees the ACK of the edge, and takes the answer at the caller.
func (x *exchange) reject(m *siptest.Message, code int) {
	x.t.Helper()
	x.respond(m, code, "No", "n1")
	ack := x.nodeGets("ACK")
	if ack.Branch() != m.Branch() {
		x.t.Fatalf("ACK has branch %q, the INVITE had %q", ack.Branch(), m.Branch())
	}
	x.ackFinal(x.callerGets(code, "INVITE"))
}

// fenceNode proves that everything the caller has sent before was handled: an OPTIONS goes
// through to the node on the same way, and nothing else came for the exchange at the node.
func (x *exchange) fenceNode() {
	x.t.Helper()
	y := x.begin(x.t, "OPTIONS")
	y.send(y.req)
	y.respond(y.nodeGets("OPTIONS"), 200, "OK", "n1")
	y.callerGets(200, "OPTIONS")
	if n := x.atNode.Len(); n > 0 {
		m, _ := x.atNode.Next(0)
		x.t.Fatalf("the node got what it should not get (%d):\n%s", n, m)
	}
}

// fence is a transaction that the node answers when told: what the node sent before that answer
// has been handled by the edge when the answer arrives.
func (x *exchange) fence() (passed func()) {
	x.t.Helper()
	y := x.begin(x.t, "OPTIONS")
	y.send(y.req)
	m := y.nodeGets("OPTIONS")
	return func() {
		x.t.Helper()
		y.respond(m, 200, "OK", "n1")
		y.callerGets(200, "OPTIONS")
		if n := x.atCaller.Len(); n > 0 {
			m, _ := x.atCaller.Next(0)
			x.t.Fatalf("the caller got what it should not get (%d):\n%s", n, m)
		}
	}
}
