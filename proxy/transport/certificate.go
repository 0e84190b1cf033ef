package transport

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// prepareTLS reads the certificates of a tls or wss listener and sets what its connections are accepted with.
func (l *Listener) prepareTLS() error {
	l.tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: l.currentCertificate}
	return l.ReloadCertificate()
}

// ReloadCertificate reads the certificate and key files again; new connections use the new pair. On an error the old one
// stays.
func (l *Listener) ReloadCertificate() error {
	pair, err := loadCertificate(l.spec.Certificate, l.spec.Key)
	if err != nil {
		return err
	}
	l.certificate.Store(pair)
	return nil
}

func (l *Listener) currentCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return l.certificate.Load(), nil
}

func loadCertificate(certificate, key string) (*tls.Certificate, error) {
	chain, err := readPEM("certificate", certificate)
	if err != nil {
		return nil, err
	}
	private, err := readPEM("key", key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(chain, private)
	if err != nil {
		return nil, fmt.Errorf(`"certificate" %s and "key" %s of this listener do not serve: %s`,
			certificate, key, strings.TrimPrefix(err.Error(), "tls: "))
	}
	return &pair, nil
}

func readPEM(setting, file string) ([]byte, error) {
	if file == "" {
		return nil, fmt.Errorf("%q of this listener is not set: name a PEM file", setting)
	}
	b, err := os.ReadFile(file)
	if err == nil {
		return b, nil
	}
	reason := err
	var path *fs.PathError
	if errors.As(err, &path) {
		reason = path.Err
	}
	return nil, fmt.Errorf("%q of this listener cannot be read: %s: %w", setting, file, reason)
}
