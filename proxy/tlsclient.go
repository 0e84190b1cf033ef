package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"

	"github.com/sipward/sipward/config"
)

// clientTLS chooses how a connection to a backend is verified, and what it shows there.
func (e *Edge) clientTLS(_ string, remote netip.AddrPort) *tls.Config {
	s := e.snap.Load()
	if s == nil {
		return nil
	}
	b := s.pools.ByTarget(remote)
	if b == nil {
		return nil
	}
	return s.tls[b.Pool().Name()]
}

// clientTLSOf reads the certificates of a pool's `tls:` section.
func clientTLSOf(p config.PoolTLS) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: p.Insecure}
	if p.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(p.Certificate, p.Key)
		if err != nil {
			return nil, fmt.Errorf("tls.certificate %s and tls.key %s: %w", p.Certificate, p.Key, err)
		}
		// GetClientCertificate rather than Certificates: a backend that lists authorities which do not know ours gets it
		// all the same, and its refusal says why; without it there would be no certificate and no reason.
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	if p.CA == "" {
		return t, nil
	}
	pem, err := os.ReadFile(p.CA)
	if err != nil {
		return nil, fmt.Errorf("tls.ca: %w", err)
	}
	t.RootCAs = x509.NewCertPool()
	if !t.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls.ca %s: no certificate in it", p.CA)
	}
	return t, nil
}
