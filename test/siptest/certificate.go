package siptest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Certificate is a self-signed certificate for localhost or other names, 127.0.0.1 to 127.0.0.9 and ::1 that
// also serves as its own authority. It is valid for one day.
type Certificate struct {
	CertPEM, KeyPEM []byte

	pair tls.Certificate
	pool *x509.CertPool
}

// NewCertificate makes a fresh one, for localhost where no names are given.
func NewCertificate(names ...string) (*Certificate, error) {
	if len(names) == 0 {
		names = []string{"localhost"}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: names[0]},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		DNSNames:              names,
		IPAddresses:           []net.IP{net.IPv6loopback},
	}
	for host := byte(1); host <= 9; host++ {
		template.IPAddresses = append(template.IPAddresses, net.IPv4(127, 0, 0, host))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	c := &Certificate{
		CertPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		KeyPEM:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		pool:    x509.NewCertPool(),
	}
	if c.pair, err = tls.X509KeyPair(c.CertPEM, c.KeyPEM); err != nil {
		return nil, err
	}
	c.pool.AppendCertsFromPEM(c.CertPEM)
	return c, nil
}

// Server is the configuration of an endpoint that accepts TLS.
func (c *Certificate) Server() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{c.pair}, RootCAs: c.pool, MinVersion: tls.VersionTLS12}
}

// Client trusts this certificate and nothing else.
func (c *Certificate) Client() *tls.Config {
	return &tls.Config{RootCAs: c.pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
}

// Write puts cert.pem, key.pem and both.pem (one after the other) into dir and names the first two.
func (c *Certificate) Write(dir string) (cert, key string, err error) {
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	both := append(append([]byte{}, c.CertPEM...), c.KeyPEM...)
	for name, text := range map[string][]byte{cert: c.CertPEM, key: c.KeyPEM, filepath.Join(dir, "both.pem"): both} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			return "", "", fmt.Errorf("write certificate: %w", err)
		}
	}
	return cert, key, nil
}
