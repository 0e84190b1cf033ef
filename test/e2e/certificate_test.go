package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

// renewal is a directory as certbot keeps it: the names that the configuration has are links to the files of the present
// certificate, and replaced by renaming.
type renewal struct {
	t         *testing.T
	dir       string
	cert, key string
	number    int
}

func newRenewal(t *testing.T, first *siptest.Certificate) *renewal {
	t.Helper()
	dir := t.TempDir()
	r := &renewal{t: t, dir: dir, cert: filepath.Join(dir, "fullchain.pem"), key: filepath.Join(dir, "privkey.pem")}
	r.put(first.CertPEM, first.KeyPEM)
	return r
}

func (r *renewal) put(cert, key []byte) {
	r.t.Helper()
	r.number++
	for link, text := range map[string][]byte{r.cert: cert, r.key: key} {
		target := fmt.Sprintf("%s.%d", filepath.Base(link), r.number)
		err := os.WriteFile(filepath.Join(r.dir, target), text, 0o600)
		if err == nil {
			err = os.Symlink(target, link+".new")
		}
		if err == nil {
			err = os.Rename(link+".new", link)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

// listener is a list item for `listen:`, with further keys.
func (r *renewal) listener(network string, addr netip.AddrPort, more ...string) string {
	keys := append([]string{fmt.Sprintf("address: %q, certificate: %q, key: %q", network+":"+addr.String(), r.cert, r.key)}, more...)
	return "{ " + strings.Join(keys, ", ") + " }"
}

// pairOf writes a certificate and names it as a map of the configuration does.
func pairOf(t *testing.T, c *siptest.Certificate) string {
	t.Helper()
	cert, key, err := c.Write(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("certificate: %q, key: %q", cert, key)
}

// fileOf writes the certificate without its key.
func fileOf(t *testing.T, c *siptest.Certificate) string {
	t.Helper()
	path, _, err := c.Write(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// shows expects a new connection that asks for a name to see that certificate.
func shows(t *testing.T, addr netip.AddrPort, name string, want *siptest.Certificate) {
	t.Helper()
	conn, err := tls.Dial("tcp", addr.String(), &tls.Config{InsecureSkipVerify: true, ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // only looked at
	if is(conn.ConnectionState().PeerCertificates, want) {
		return
	}
	t.Errorf("%s shows for %q the certificate of %v", addr, name, conn.ConnectionState().PeerCertificates[0].DNSNames)
}

func is(chain []*x509.Certificate, want *siptest.Certificate) bool {
	block, _ := pem.Decode(want.CertPEM)
	return len(chain) > 0 && bytes.Equal(chain[0].Raw, block.Bytes)
}

// longCalls are calls of phones, each on a connection of its own, to one telephone behind the edge.
type longCalls struct {
	t       *testing.T
	callers []*siptest.Party
	callee  map[string]*siptest.Party // by Call-ID
}

// each runs something for every call, several at a time, and reports all that fail.
func (c *longCalls) each(what string, do func(ctx context.Context, i int) error) {
	c.t.Helper()
	ctx := within(c.t, 60*time.Second)
	next, failed := make(chan int), make(chan error, len(c.callers))
	var work sync.WaitGroup
	for range 10 {
		work.Go(func() {
			for i := range next {
				if err := do(ctx, i); err != nil {
					failed <- err
				}
			}
		})
	}
	for i := range c.callers {
		next <- i
	}
	close(next)
	work.Wait()
	close(failed)
	for err := range failed {
		c.t.Errorf("%s: %v", what, err)
	}
	if c.t.Failed() {
		c.t.FailNow()
	}
}

// talk exchanges requests of both sides in every call.
func (c *longCalls) talk(t *testing.T) {
	t.Helper()
	on := *c
	on.t = t
	on.each("in the calls", func(ctx context.Context, i int) error {
		a := on.callers[i]
		b := on.callee[a.CallID()]
		return errors.Join(succeeds(ctx, a, "INVITE"), succeeds(ctx, b, "INFO"), succeeds(ctx, a, "INFO"))
	})
}

func succeeds(ctx context.Context, p *siptest.Party, method string) error {
	res, err := p.Request(ctx, method)
	if err == nil && res.Status() != 200 {
		err = fmt.Errorf("%d to %s", res.Status(), method)
	}
	return err
}

// place sets up n calls, seven of ten over TLS and the others over WSS.
func place(t *testing.T, n int, secure, web netip.AddrPort, cert *siptest.Certificate, desk *siptest.Handset) *longCalls {
	t.Helper()
	c := &longCalls{t: t, callers: make([]*siptest.Party, n), callee: make(map[string]*siptest.Party)}
	for i := range c.callers {
		network, addr := "tls", secure
		if i%10 >= 7 {
			network, addr = "wss", web
		}
		c.callers[i] = siptest.NewParty(rawDial(t, network, addr, cert), siptest.PartyOptions{Name: fmt.Sprintf("phone%d", i), Lines: plainLines})
		t.Cleanup(c.callers[i].Close)
	}
	c.each("call", func(ctx context.Context, i int) error {
		_, err := c.callers[i].Call(ctx, "sip:desk@siptest.example")
		return err
	})
	ctx := within(t, soon)
	for i := range c.callers {
		p, err := desk.Rung(ctx, i+1)
		if err != nil {
			t.Fatal(err)
		}
		c.callee[p.CallID()] = p
	}
	return c
}

// TestCertificateSwapUnderCalls: certificate and key are replaced under a hundred running calls, once with SIGHUP, once with
// a pair that does not fit, once without a word. New connections see what is sound of it; the calls notice nothing: requests
// of both sides go on over the connections that they have, to the last BYE.
func TestCertificateSwapUnderCalls(t *testing.T) {
	t.Parallel()
	n := 100
	certs := make([]*siptest.Certificate, 4)
	for i := range certs {
		certs[i] = certificate(t, fmt.Sprintf("edge%d.example", i))
	}
	files := newRenewal(t, certs[0])
	secure, web, records := freeAddr(t), freeAddr(t), filepath.Join(t.TempDir(), "calls")
	node := rawListen(t, "udp", at(nodeA), nil)
	desk := siptest.NewHandset(node, siptest.HandsetOptions{User: "desk", Domain: domain})
	t.Cleanup(desk.Close)
	edge := siptest.StartEdge(t, settings{
		listen:   []string{"udp:" + freeAddr(t).String(), files.listener("tls", secure), files.listener("wss", web)},
		backends: []string{node.URI("")},
		top:      "log: { requests: no, replies: no }\n" + recordsTo(records, "json"),
	}.yaml())
	calls := place(t, n, secure, web, certs[0], desk)
	calls.talk(t)
	newcomersSee := func(t *testing.T, want *siptest.Certificate) {
		t.Helper()
		shows(t, secure, "", want)
		shows(t, web, "", want)
	}

	t.Run("reload", func(t *testing.T) {
		newcomersSee(t, certs[0])
		files.put(certs[1].CertPEM, certs[1].KeyPEM)
		if line := edge.Reload(); !strings.Contains(line, "configuration reloaded") {
			t.Fatal(line)
		}
		newcomersSee(t, certs[1])
		calls.talk(t)
	})
	t.Run("broken pair", func(t *testing.T) {
		from := len(edge.Lines())
		files.put(certs[2].CertPEM, certs[1].KeyPEM)
		if line := edge.Reload(); !strings.Contains(line, "reload refused") || !strings.Contains(line, files.cert) || !strings.Contains(line, files.key) {
			t.Fatalf("the line %q does not say that %s and %s do not fit", line, files.cert, files.key)
		}
		newcomersSee(t, certs[1])
		calls.talk(t)
		said := 0
		for _, line := range edge.Lines()[from:] {
			if strings.Contains(line, "private key does not match") {
				said++
			}
		}
		if said != 2 { // one for each listener, with its place in the file
			t.Errorf("%d lines about it:\n%s", said, strings.Join(edge.Lines()[from:], "\n"))
		}
	})
	t.Run("by itself", func(t *testing.T) {
		from := len(edge.Lines())
		files.put(certs[3].CertPEM, certs[3].KeyPEM)
		for _, addr := range []netip.AddrPort{secure, web} {
			_, err := edge.WaitLine(within(t, time.Minute), from, func(l string) bool {
				return strings.Contains(l, "certificate "+files.cert) && strings.Contains(l, addr.String()+" reloaded, valid until ")
			})
			if err != nil {
				t.Fatalf("no line about the certificate of %s: %v", addr, err)
			}
		}
		newcomersSee(t, certs[3])
		calls.talk(t)
	})

	calls.each("hang up", func(ctx context.Context, i int) error {
		if p := calls.callers[i]; i%2 == 0 {
			return succeeds(ctx, p, "BYE")
		}
		return succeeds(ctx, calls.callee[calls.callers[i].CallID()], "BYE")
	})
	for _, r := range recordsOf(t, records, n) {
		if r.Reason != "bye" || r.Status != 200 {
			t.Errorf("call record %+v", r)
		}
	}
	wrong := desk.Wrong()
	for _, p := range calls.callers {
		wrong = append(wrong, p.Wrong()...)
	}
	for _, w := range wrong {
		t.Error(w)
	}
}

// TestCertificateByName: one listener has several certificates, and shows the one for the name that the client asks for.
func TestCertificateByName(t *testing.T) {
	t.Parallel()
	other, exact, wild := certificate(t, "edge.example"), certificate(t, "sip.a.example"), certificate(t, "*.b.example")
	more := fmt.Sprintf("certificates: [ { %s }, { %s } ]", pairOf(t, exact), pairOf(t, wild))
	files := newRenewal(t, other)
	secure, web := freeAddr(t), freeAddr(t)
	siptest.StartEdge(t, settings{
		listen:   []string{files.listener("tls", secure, more), files.listener("wss", web, more)},
		backends: []string{siptest.URI("", freeAddr(t), "udp")},
	}.yaml())
	for name, want := range map[string]*siptest.Certificate{
		"": other, "edge.example": other, "a.example": other, "x.y.b.example": other, "b.example": other,
		"sip.a.example": exact, "SIP.A.example": exact, "x.b.example": wild, "other.b.example": wild,
	} {
		shows(t, secure, name, want)
		shows(t, web, name, want)
	}
	for _, network := range []string{"tls", "wss"} { // and what a phone thinks of it
		config := exact.Client()
		config.ServerName = "sip.a.example"
		addr := map[string]netip.AddrPort{"tls": secure, "wss": web}[network]
		if err := asks(network, addr, config); err != nil {
			t.Error(network, err)
		}
	}
}

// asks is a phone that connects and sends an OPTIONS to the edge.
func asks(network string, addr netip.AddrPort, config *tls.Config) error {
	r, err := siptest.DialRaw(network, addr, config)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // the edge may have closed it first
	if err := r.Send(r.Request("OPTIONS", "sip:"+addr.String()).Bytes()); err != nil {
		return err
	}
	m, err := r.Next(soon)
	if err == nil && m.Status() != 200 {
		err = fmt.Errorf("%s", m.StartLine())
	}
	return err
}

// TestClientCertificates: with client_ca a listener takes phones with a certificate of that authority only, and those
// without one where client_auth is optional; the authority can be replaced.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	cert, ours, foreign := certificate(t), certificate(t, "phone.example"), certificate(t, "stranger.example")
	authority := filepath.Join(t.TempDir(), "clients.pem")
	if err := os.WriteFile(authority, ours.CertPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	files := newRenewal(t, cert)
	addrs := make(map[string]netip.AddrPort)
	s := settings{backends: []string{siptest.URI("", freeAddr(t), "udp")}}
	for _, auth := range []string{"", "require", "optional"} {
		for _, network := range []string{"tls", "wss"} {
			addrs[auth+network] = freeAddr(t)
			s.listen = append(s.listen, files.listener(network, addrs[auth+network], fmt.Sprintf("client_ca: %q, client_auth: %q", authority, auth)))
		}
	}
	edge := siptest.StartEdge(t, s.yaml())
	with := func(c *siptest.Certificate) *tls.Config {
		config := cert.Client()
		if c != nil { // shown whatever authorities the edge names
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.Server().Certificates[0], nil }
		}
		return config
	}
	expect := func(authority *siptest.Certificate) {
		t.Helper()
		for key, addr := range addrs {
			for name, c := range map[string]*siptest.Certificate{"none": nil, "ours": ours, "foreign": foreign} {
				network := key[len(key)-3:]
				err := asks(network, addr, with(c))
				taken := c == authority || c == nil && strings.HasPrefix(key, "optional")
				if taken != (err == nil) || errors.Is(err, siptest.ErrNothing) {
					t.Errorf("client_auth %q, certificate %s: %v", strings.TrimSuffix(key, network), name, err)
				}
			}
		}
	}
	expect(ours)
	if err := os.WriteFile(authority, foreign.CertPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	edge.Reload()
	expect(foreign)
}

// TestBackendDemandsACertificate: a node that takes nobody without a certificate takes the edge, which shows the one of the
// pool, and on the next connection after a reload the new one; without one the node is out of reach.
func TestBackendDemandsACertificate(t *testing.T) {
	t.Parallel()
	server, first, second := certificate(t), certificate(t, "edge.example"), certificate(t, "edge.example")
	var mu sync.Mutex
	var shown []*x509.Certificate
	config := server.Server()
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	config.ClientCAs.AppendCertsFromPEM(first.CertPEM)
	config.ClientCAs.AppendCertsFromPEM(second.CertPEM)
	config.VerifyConnection = func(s tls.ConnectionState) error {
		mu.Lock()
		defer mu.Unlock()
		shown = s.PeerCertificates
		return nil
	}
	sees := func(want *siptest.Certificate) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if !is(shown, want) {
			t.Error("the node was shown another certificate")
		}
	}
	h := &hop{network: "udp", addr: freeAddr(t)}
	h.node = keep(t)(siptest.ListenRaw("tls", at(nodeA), config))
	h.caller = rawDial(t, "udp", h.addr, nil)
	files := newRenewal(t, first)
	trust := fmt.Sprintf("ca: %q", fileOf(t, server))
	s := settings{
		listen:   []string{"udp:" + h.addr.String(), listener(t, "tls", freeAddr(t), certificate(t))},
		backends: []string{h.node.URI("")},
		pool:     fmt.Sprintf("    tls: { %s, certificate: %q, key: %q }\n", trust, files.cert, files.key),
	}
	h.edge = siptest.StartEdge(t, s.yaml())
	h.node.Auto(func(m *siptest.Message) bool { return m.Respond(200, "OK", "n1") == nil })
	arrives := func() bool { // a request; one that met the end of a connection fails
		t.Helper()
		x := h.begin(t, "OPTIONS")
		x.send(x.req)
		m, err := x.atCaller.Next(soon)
		if err != nil {
			t.Fatal(err)
		}
		return m.Status() == 200
	}
	reload := func() {
		t.Helper()
		if line := h.edge.Reload(); !strings.Contains(line, "configuration reloaded") {
			t.Fatal(line)
		}
	}
	again := func() {
		t.Helper()
		h.node.DropConnections()
		until(t, "another connection", arrives)
	}
	again()
	sees(first)
	files.put(second.CertPEM, second.KeyPEM)
	reload()
	if !arrives() { // over the connection that there is
		t.Error("a request failed after the reload")
	}
	sees(first)
	again()
	sees(second)

	with := s.pool
	s.pool = fmt.Sprintf("    tls: { %s }\n", trust)
	h.edge.Write(s.yaml())
	reload()
	h.node.DropConnections()
	for range 3 {
		if arrives() {
			t.Error("a request arrived without a certificate")
		}
	}
	s.pool = with
	h.edge.Write(s.yaml())
	reload()
	again()
	sees(second)
}
