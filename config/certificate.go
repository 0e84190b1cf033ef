package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// expiresSoon is how long before its end a certificate is warned about.
const expiresSoon = 14 * 24 * time.Hour

// checkCertificates looks at everything of a listener that belongs to TLS.
func (l *loader) checkCertificates(one *Listener, key string) {
	if !one.Secure() {
		for _, given := range []struct {
			name string
			is   bool
		}{
			{"certificate", one.Certificate != ""}, {"key", one.Key != ""}, {"certificates", len(one.Certificates) > 0},
			{"client_ca", one.ClientCA != ""}, {"client_auth", one.ClientAuth != ""},
		} {
			if given.is {
				l.errorf(key+"."+given.name, "belongs to tls and wss listeners, and this one is %s", one.Proto)
			}
		}
		return
	}
	l.checkPair(KeyPair{one.Certificate, one.Key}, key, "a "+one.Proto+" listener needs")
	for i, pair := range one.Certificates {
		at := fmt.Sprintf("%s.certificates[%d]", key, i)
		if l.isBroken(at) {
			continue
		}
		leaf := l.checkPair(pair, at, "a pair needs")
		if leaf != nil && len(leaf.DNSNames) == 0 {
			l.warnf(at+".certificate", "it is for no host name (subjectAltName), so no client will ever get it")
		}
	}
	switch {
	case one.ClientCA != "":
		l.checkAuthorities(one.ClientCA, key+".client_ca")
	case one.ClientAuth != "":
		l.errorf(key+".client_auth", "needs client_ca, which says whose certificates count")
	}
}

// checkPair reads a certificate and its key, each of which is needed, and returns the certificate; nil: there was
// something to say.
func (l *loader) checkPair(p KeyPair, key, needs string) *x509.Certificate {
	if l.isBroken(key+".certificate") || l.isBroken(key+".key") {
		return nil
	}
	var text [2][]byte
	missing := false
	for i, file := range []struct{ name, path string }{{"certificate", p.Certificate}, {"key", p.Key}} {
		if file.path == "" {
			l.keyErrorf(key, "%s %s", needs, file.name)
			missing = true
			continue
		}
		var err error
		if text[i], err = readPEM(file.path); err != nil {
			l.errorf(key+"."+file.name, "%v", err)
			missing = true
		}
	}
	if missing {
		return nil
	}
	pair, err := tls.X509KeyPair(text[0], text[1])
	if err != nil {
		l.errorf(key+".certificate", "%s and %s do not serve: %s", quote(p.Certificate), quote(p.Key), strings.TrimPrefix(err.Error(), "tls: "))
		return nil
	}
	chain := make([]*x509.Certificate, 0, len(pair.Certificate))
	for _, der := range pair.Certificate {
		if c, err := x509.ParseCertificate(der); err == nil {
			chain = append(chain, c)
		}
	}
	l.warnOfExpiry(chain, key+".certificate")
	return pair.Leaf
}

// checkAuthorities reads a file of certificates that sign others.
func (l *loader) checkAuthorities(path, key string) {
	text, err := readPEM(path)
	if err != nil {
		l.errorf(key, "%v", err)
		return
	}
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		l.errorf(key, "no certificate in %s", quote(path))
		return
	}
	// Of many authorities, as in the system's bundle, one may be over without harm.
	if all := parsePEM(text); len(all) == 1 {
		l.warnOfExpiry(all, key)
	}
}

// warnOfExpiry names the certificate of a chain that ends first, when that is soon, or one that is not valid yet.
func (l *loader) warnOfExpiry(chain []*x509.Certificate, key string) {
	if len(chain) == 0 {
		return
	}
	now := time.Now()
	for _, c := range chain {
		if now.Before(c.NotBefore) {
			l.warnf(key, "valid only from %s on: is the clock of this host right?", day(c.NotBefore))
			return
		}
	}
	first := slices.MinFunc(chain, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
	which := ""
	if first != chain[0] {
		which = fmt.Sprintf("%s in its chain ", quote(first.Subject.CommonName))
	}
	switch left := first.NotAfter.Sub(now); {
	case left < 0:
		l.warnf(key, "%sexpired on %s: peers refuse it; renew it", which, day(first.NotAfter))
	case left < expiresSoon:
		l.warnf(key, "%sexpires on %s: renew it", which, day(first.NotAfter))
	}
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// parsePEM returns the certificates of a PEM file; what is none is left out.
func parsePEM(text []byte) []*x509.Certificate {
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return all
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			all = append(all, c)
		}
	}
}

// readPEM reads a file that another key names. The error is a short reason.
func readPEM(path string) ([]byte, error) {
	text, err := ReadFile(path)
	if err != nil {
		return nil, cannotRead(path, err)
	}
	return text, nil
}

// ReadFile reads a file that a key names, of at most MaxFile bytes. Whoever opens a pipe may wait for ever, in the middle of
// a reload too, and a device may have no end.
func ReadFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	switch info, err := f.Stat(); {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, syscall.EISDIR
	case !info.Mode().IsRegular():
		return nil, errNoFile
	case info.Size() > MaxFile:
		return nil, errLargeFile
	}
	return io.ReadAll(io.LimitReader(f, MaxFile))
}

var (
	errNoFile    = errors.New("it is no regular file")
	errLargeFile = fmt.Errorf("it is larger than %d bytes", MaxFile)
)

func cannotRead(path string, err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return fmt.Errorf("cannot read %s: %w", quote(path), err)
}

// checkPoolTLS looks at how the connections to the backends of a pool are made safe.
func (l *loader) checkPoolTLS(t PoolTLS, key string) {
	if t.CA != "" {
		l.checkAuthorities(t.CA, key+".ca")
	}
	if t.ServerName != "" && !isHostName(t.ServerName) && !isAddress(t.ServerName) {
		l.errorf(key+".server_name", "want a host name, not %s", quote(t.ServerName))
	}
	if t.Insecure {
		l.warnf(key+".insecure", "the backends' certificates are not verified: anybody in between can read and change everything")
	}
	if t.Certificate != "" || t.Key != "" {
		l.checkPair(KeyPair{t.Certificate, t.Key}, key, "to show a certificate to backends needs")
	}
}
