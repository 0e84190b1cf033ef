package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
)

// shownTo returns the certificate that a connection to a backend shows when it is asked for one, or what it says to
// there being none.
func shownTo(t *testing.T, server, client *tls.Config) ([]byte, error) {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	deadline := time.Now().Add(20 * time.Second)
	_, _ = near.SetDeadline(deadline), far.SetDeadline(deadline)
	asked := tls.Server(far, server)
	met := make(chan error, 1)
	go func() {
		c := tls.Client(near, client)
		err := c.Handshake()
		if err == nil { // takes what the server says after its handshake: a refusal, tickets
			_, _ = io.Copy(io.Discard, c)
		}
		met <- err
	}()
	err := asked.Handshake()
	_ = far.Close()
	if err = errors.Join(err, <-met); err != nil {
		return nil, err
	}
	if shown := asked.ConnectionState().PeerCertificates; len(shown) > 0 {
		return shown[0].Raw, nil
	}
	return nil, nil
}

func readPair(t *testing.T, certificate, key string) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A reload takes over renewed certificates, towards backends and of listeners, though no key of the configuration
// changed; of a listener's broken one the old one stays.
func TestReloadTakesRenewedCertificates(t *testing.T) {
	listenCert, listenKey := certificate(t)
	ownCert, ownKey := certificate(t)
	newCert, newKey := certificate(t)
	const backendAddr = "127.0.0.1:9"
	c := testConfig("tls:127.0.0.1:0")
	c.Listen[0].Certificate, c.Listen[0].Key = listenCert, listenKey
	pool, b := config.DefaultPool(), config.DefaultBackend()
	pool.Probe.Interval = 0
	pool.TLS = config.PoolTLS{Insecure: true, Certificate: ownCert, Key: ownKey}
	b.Name, b.Address = "pbx", "sip:"+backendAddr+";transport=tls"
	pool.Backends = []config.Backend{b}
	c.Pools = map[string]config.Pool{"pbx": pool}
	log := &logLines{}
	e := newEdge(t, c, log)
	e.Start()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := errors.Join(e.Stop(ctx), e.log.Close()); err != nil {
			t.Error(err)
		}
	}()
	server := &tls.Config{Certificates: []tls.Certificate{readPair(t, listenCert, listenKey)}, ClientAuth: tls.RequireAnyClientCert}
	expect := func(want tls.Certificate) {
		t.Helper()
		got, err := shownTo(t, server, e.clientTLS("", netip.MustParseAddrPort(backendAddr)))
		if err != nil || string(got) != string(want.Certificate[0]) {
			t.Errorf("not the certificate that was expected (%v)", err)
		}
	}
	expect(readPair(t, ownCert, ownKey))

	renewed := readPair(t, newCert, newKey)
	for from, to := range map[string][]string{newCert: {ownCert, listenCert}, newKey: {ownKey, listenKey}} {
		for _, path := range to {
			copyFile(t, from, path)
		}
	}
	if err := e.Reload(c); err != nil {
		t.Fatal(err)
	}
	expect(renewed)
	peer, err := tls.Dial("tcp", e.Listeners()[0].Bound.String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	_ = peer.Close()
	if !peer.ConnectionState().PeerCertificates[0].Equal(renewed.Leaf) {
		t.Error("the listener shows the old certificate")
	}

	if err := os.WriteFile(listenKey, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.Reload(c); err != nil {
		t.Fatal(err)
	}
	e.log.Flush()
	for _, want := range []string{"certificate " + listenCert + " of tls 127.0.0.1:", "the old one stays in use"} {
		if !strings.Contains(log.text(), want) {
			t.Errorf("no line with %q:\n%s", want, log.text())
		}
	}
	if err := os.WriteFile(ownKey, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.Reload(c); err == nil || !strings.Contains(err.Error(), "pools.pbx.tls.certificate "+ownCert) {
		t.Errorf("got %v", err)
	}
	expect(renewed)
}

// The backend's list of authorities is advice: what we have is shown, and its refusal says why.
func TestCertificateIsShownWhateverAuthoritiesTheBackendNames(t *testing.T) {
	cert, key := certificate(t)
	otherCert, otherKey := certificate(t)
	other := readPair(t, otherCert, otherKey)
	known := x509.NewCertPool()
	known.AddCert(other.Leaf)
	client, err := clientTLSOf(config.PoolTLS{Insecure: true, Certificate: cert, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	server := &tls.Config{Certificates: []tls.Certificate{other}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: known}
	if _, err := shownTo(t, server, client); err == nil || !strings.Contains(err.Error(), "failed to verify certificate") {
		t.Errorf("got %v", err)
	}
	none, err := clientTLSOf(config.PoolTLS{Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	server.ClientAuth = tls.VerifyClientCertIfGiven
	if got, err := shownTo(t, server, none); got != nil || err != nil {
		t.Errorf("got %x %v", got, err)
	}
}

func TestPoolTLSThatCannotBeRead(t *testing.T) {
	cert, key := certificate(t)
	for want, p := range map[string]config.PoolTLS{
		"tls.ca: open /no/such/file":               {CA: "/no/such/file"},
		"tls.ca " + key + ": no certificate in it": {CA: key},
		"tls.certificate /no/such/file":            {Certificate: "/no/such/file", Key: key},
		"tls.certificate " + cert:                  {Certificate: cert, Key: cert},
	} {
		if _, err := clientTLSOf(p); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
