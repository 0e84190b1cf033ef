package transport

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// certify writes a self-signed pair for proxy.example and 127.0.0.1.
func certify(t testing.TB, dir, name string) (certificate, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issue(t, dir, name, private, time.Hour, "proxy.example")
}

// issue writes the self-signed pair name.pem and name.key of a private key.
func issue(t testing.TB, dir, name string, private crypto.Signer, life time.Duration, hosts ...string) (certificate, key string, pool *x509.CertPool) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		DNSNames: hosts, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(certificate, chain, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(chain)
	return certificate, key, pool
}

func tlsSpec(t testing.TB) (config.Listener, *x509.CertPool) {
	certificate, key, pool := certify(t, t.TempDir(), "proxy")
	s := spec("tls 127.0.0.1:0")
	s.Certificate, s.Key = certificate, key
	return s, pool
}

// startStream serves one listener and connects to it.
func startStream(t testing.TB, proto string, o Options, h Handler) (*Layer, net.Conn) {
	if proto == "tcp" {
		l := start(t, o, h, spec("tcp 127.0.0.1:0"))
		return l, dialTo(t, l, 0)
	}
	s, pool := tlsSpec(t)
	l := start(t, o, h, s)
	return l, tls.Client(dialTo(t, l, 0), &tls.Config{RootCAs: pool, ServerName: "proxy.example"})
}

func TestTLSCarriesMessages(t *testing.T) {
	r := newRecorder()
	r.onReceive = echo
	_, peer := startStream(t, "tls", Options{}, r)
	for i := range 100 {
		write(t, peer, message(i, 500*i))
		expect(t, peer, message(i, 500*i))
	}
	write(t, peer, "\r\n\r\n")
	expect(t, peer, "\r\n")
	_ = peer.Close()
	if end := next(t, r.closed); end.err != io.EOF || end.conn.Proto() != wire.TLS {
		t.Error(end.err)
	}
}

func TestSilentTLSPeerIsClosed(t *testing.T) {
	r := newRecorder()
	s, _ := tlsSpec(t)
	l := start(t, Options{Limits: config.Limits{HandshakeTimeout: config.Duration(50 * time.Millisecond)}}, r, s)
	peer := dialTo(t, l, 0)
	if end := next(t, r.closed); end.err != errHandshakeTimeout {
		t.Error(end.err)
	}
	expectEnd(t, peer)
	if s := l.Stats(); s.HandshakeFailures != 1 || s.Connections != 0 {
		t.Errorf("%+v", s)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	r := newRecorder()
	s, pool := tlsSpec(t)
	l := start(t, Options{}, r, s)
	peer := tls.Client(dialTo(t, l, 0), &tls.Config{RootCAs: pool, ServerName: "proxy.example", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	if err := peer.Handshake(); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	next(t, r.closed)
}

func TestTLSBetweenLayers(t *testing.T) {
	server, client := newRecorder(), newRecorder()
	server.onReceive = echo
	s, pool := tlsSpec(t)
	to := start(t, Options{}, server, s).Listeners()[0].Bound()
	l := start(t, Options{ClientTLS: &tls.Config{RootCAs: pool}}, client)

	flow, err := l.Connect(wire.TLS, to, "proxy.example", netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 { // the first ones wait for the handshake
		if err := flow.Send([]byte(message(i, 100))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 {
		if got := next(t, client.packets); got.data != message(i, 100) || got.flow != flow {
			t.Errorf("%.40q", got.data)
		}
	}
	again, err := l.Connect(wire.TLS, to, "proxy.example", netip.Addr{})
	if err != nil || again != flow {
		t.Error("not reused", err)
	}
	byAddress, err := l.Connect(wire.TLS, to, "", netip.Addr{})
	if err != nil || byAddress == flow {
		t.Error("a connection proven for one name was used for another", err)
	}
	_ = byAddress.Send([]byte(message(1, 0)))
	next(t, client.packets)

	wrong, err := l.Connect(wire.TLS, to, "other.example", netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	_ = wrong.Send([]byte(message(1, 0)))
	if end := next(t, client.closed); end.conn != wrong.Conn() || !strings.Contains(end.err.Error(), "other.example") {
		t.Error(end.err)
	}
}

func TestCertificateProblemsNameFileAndKey(t *testing.T) {
	dir := t.TempDir()
	certificate, key, _ := certify(t, dir, "one")
	_, otherKey, _ := certify(t, dir, "two")
	missing := filepath.Join(dir, "missing.pem")
	cases := []struct{ name, certificate, key, want string }{
		{"unset", "", "", `"certificate" of this listener is not set`},
		{"missing", missing, key, `"certificate" of this listener cannot be read: ` + missing + ": no such file"},
		{"missing key", certificate, missing, `"key" of this listener cannot be read: ` + missing},
		{"other key", certificate, otherKey, `"certificate" ` + certificate + ` and "key" ` + otherKey + " of this listener do not serve: private key does not match"},
		{"swapped", key, certificate, "do not serve"},
	}
	for _, c := range cases {
		s := spec("tls 127.0.0.1:0")
		s.Certificate, s.Key = c.certificate, c.key
		err := New(Options{}).Listen([]config.Listener{s})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "listen tls 127.0.0.1:0: ") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// greet shakes hands with a listener and returns the name of the certificate that it showed.
func greet(t *testing.T, l *Layer, o *tls.Config) (string, error) {
	t.Helper()
	own := o.Clone()
	own.InsecureSkipVerify = true
	peer := tls.Client(dialTo(t, l, 0), own)
	defer peer.Close()
	if err := peer.Handshake(); err != nil {
		return "", err
	}
	return peer.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

func TestCertificateIsChosenByName(t *testing.T) {
	dir := t.TempDir()
	r := newRecorder()
	s := spec("tls 127.0.0.1:0")
	s.Certificate, s.Key, _ = certify(t, dir, "first")
	add := func(name string, private crypto.Signer, hosts ...string) {
		certificate, key, _ := issue(t, dir, name, private, time.Hour, hosts...)
		s.Certificates = append(s.Certificates, config.KeyPair{Certificate: certificate, Key: key})
	}
	elliptic256 := func() crypto.Signer {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	add("wildcard", elliptic256(), "*.wild.example")
	add("exact", elliptic256(), "a.wild.example", "B.Other.Example")
	add("ec", elliptic256(), "two.example")
	add("rsa", rsaKey, "two.example")
	add("nameless", elliptic256())
	l := start(t, Options{}, r, s)
	onlyRSA := []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	for _, c := range []struct {
		name, want string
		suites     []uint16
	}{
		{"", "first", nil},
		{"proxy.example", "first", nil},
		{"unknown.example", "first", nil},
		{"a.wild.example", "exact", nil},
		{"A.WILD.example", "exact", nil},
		{"b.other.example", "exact", nil},
		{"c.wild.example", "wildcard", nil},
		{"d.c.wild.example", "first", nil}, // a wildcard is one label
		{"wild.example", "first", nil},
		{"two.example", "ec", nil},
		{"two.example", "rsa", onlyRSA},
		{"", "rsa", onlyRSA},
	} {
		o := &tls.Config{ServerName: c.name, CipherSuites: c.suites}
		if c.suites != nil {
			o.MaxVersion = tls.VersionTLS12
		}
		if got, err := greet(t, l, o); got != c.want || err != nil {
			t.Errorf("%q %v: got %q, want %q (%v)", c.name, c.suites, got, c.want, err)
		}
	}
}

func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	certificate, key, _ := certify(t, dir, "known")
	known, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, _ = certify(t, dir, "foreign")
	foreign, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, auth string
		shown      []tls.Certificate
		want       string
	}{
		{"none where one is required", "", nil, "didn't provide a certificate"},
		{"none where one is required in words", "require", nil, "didn't provide a certificate"},
		{"none where it is optional", "optional", nil, ""},
		{"the right one", "require", []tls.Certificate{known}, ""},
		{"the right one, optional", "optional", []tls.Certificate{known}, ""},
		{"a foreign one", "require", []tls.Certificate{foreign}, "failed to verify certificate"},
		{"a foreign one, optional", "optional", []tls.Certificate{foreign}, "failed to verify certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRecorder()
			r.onReceive = echo
			s, pool := tlsSpec(t)
			s.ClientCA, s.ClientAuth = filepath.Join(dir, "known.pem"), c.auth
			l := start(t, Options{}, r, s)
			show := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(c.shown) == 0 {
					return &tls.Certificate{}, nil
				}
				return &c.shown[0], nil
			}
			peer := tls.Client(dialTo(t, l, 0), &tls.Config{RootCAs: pool, ServerName: "proxy.example", GetClientCertificate: show})
			if c.want == "" {
				write(t, peer, message(1, 10))
				expect(t, peer, message(1, 10))
				return
			}
			_ = peer.Handshake() // TLS 1.3 learns of the refusal later
			if end := next(t, r.closed); !strings.Contains(end.err.Error(), c.want) {
				t.Error(end.err)
			}
		})
	}
}

func TestBrokenCertificateKeepsTheOldOne(t *testing.T) {
	r := newRecorder()
	s, pool := tlsSpec(t)
	l := start(t, Options{}, r, s)
	if err := os.WriteFile(s.Certificate, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if errs := l.ReloadCertificates(); len(errs) != 1 {
		t.Error("loaded a broken certificate", errs)
	}
	peer := tls.Client(dialTo(t, l, 0), &tls.Config{RootCAs: pool, ServerName: "proxy.example"})
	if err := peer.Handshake(); err != nil {
		t.Error(err)
	}
}

// What comes over TLS has to become text in time: half a record, or a handshake message that never ends, holds up to
// 64 kB in the library and is not seen by the framer.
func TestTextHasToComeOutOfTLSInTime(t *testing.T) {
	record := func(size int) []byte {
		return append([]byte{23, 3, 3, byte(size >> 8), byte(size)}, make([]byte, size/2)...)
	}
	for name, stall := range map[string]func(t *testing.T, peer *tls.Conn){
		"half a record": func(t *testing.T, peer *tls.Conn) {
			if _, err := peer.NetConn().Write(record(16000)); err != nil {
				t.Fatal(err)
			}
		},
		"a record byte by byte": func(t *testing.T, peer *tls.Conn) {
			go func() { // ends with the connection
				for _, b := range record(16000) {
					if _, err := peer.NetConn().Write([]byte{b}); err != nil {
						return
					}
					time.Sleep(5 * time.Millisecond)
				}
			}()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRecorder()
			r.onReceive = echo
			_, conn := startStream(t, "tls", Options{Limits: config.Limits{MessageTimeout: config.Duration(200 * time.Millisecond)}}, r)
			peer := conn.(*tls.Conn)
			write(t, peer, message(1, 0))
			expect(t, peer, message(1, 0))
			stall(t, peer)
			if end := next(t, r.closed); end.err != ErrSlowMessage {
				t.Error(end.err)
			}
		})
	}
}

// tailed puts something behind what is written.
type tailed struct {
	net.Conn
	tail []byte
}

func (c *tailed) Write(p []byte) (int, error) {
	if _, err := c.Conn.Write(append(p[:len(p):len(p)], c.tail...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// What the library read along with a message is no text yet either.
func TestRestBehindTextHasToComeOutOfTLSInTime(t *testing.T) {
	for name, test := range map[string]struct {
		tail []byte
		end  error
	}{
		"nothing":           {nil, ErrIdle},
		"a piece of header": {[]byte{23, 3}, ErrSlowMessage},
		"header":            {[]byte{23, 3, 3, 9, 0}, ErrSlowMessage},
		"half a record":     {append([]byte{23, 3, 3, 9, 0}, make([]byte, 100)...), ErrSlowMessage},
	} {
		t.Run(name, func(t *testing.T) {
			s, pool := tlsSpec(t)
			r := newRecorder()
			r.onReceive = echo
			l := start(t, Options{Limits: config.Limits{
				MessageTimeout: config.Duration(200 * time.Millisecond), IdleTimeout: config.Duration(time.Second),
			}}, r, s)
			wired := &tailed{Conn: dialTo(t, l, 0)}
			peer := tls.Client(wired, &tls.Config{RootCAs: pool, ServerName: "proxy.example"})
			for _, size := range []int{0, 5000, 50000} {
				write(t, peer, message(1, size))
				expect(t, peer, message(1, size))
			}
			wired.tail = test.tail
			write(t, peer, message(2, 0))
			expect(t, peer, message(2, 0))
			if end := next(t, r.closed); end.err != test.end {
				t.Error(end.err)
			}
		})
	}
}

// The tickets that a server sends after the handshake begin no message.
func TestTicketsAreNoSlowMessage(t *testing.T) {
	const limit = 200 * time.Millisecond
	spec, pool := tlsSpec(t)
	pair, err := tls.LoadX509KeyPair(spec.Certificate, spec.Key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}) // tickets come late then
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	r := newRecorder()
	own := &tls.Config{RootCAs: pool, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	l := start(t, Options{Limits: config.Limits{MessageTimeout: config.Duration(limit)}, ClientTLS: own}, r)
	flow, err := l.Connect(wire.TLS, netip.MustParseAddrPort(ln.Addr().String()), "proxy.example", netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	if err := flow.Send([]byte(message(1, 0))); err != nil {
		t.Fatal(err)
	}
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }()
	expect(t, peer, message(1, 0))
	select {
	case end := <-r.closed:
		t.Fatal(end.err)
	case <-time.After(3 * limit):
	}
	write(t, peer, message(2, 0))
	next(t, r.packets)
}
