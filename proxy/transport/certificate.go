package transport

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/sipward/sipward/config"
)

// keyring is what a tls or wss listener shows to clients and asks of them. It is replaced, never changed.
type keyring struct {
	pairs  []*tls.Certificate            // the first is for all names that no other one has
	byName map[string][]*tls.Certificate // by lower-case DNS name, wildcards as they are written (*.example.org)
	config *tls.Config
}

func newKeyring(pairs []*tls.Certificate, authorities *x509.CertPool, auth string) *keyring {
	k := &keyring{pairs: pairs, byName: map[string][]*tls.Certificate{}}
	for _, pair := range pairs {
		for _, name := range pair.Leaf.DNSNames {
			name = strings.ToLower(name)
			k.byName[name] = append(k.byName[name], pair)
		}
	}
	k.config = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: k.choose}
	if authorities != nil {
		k.config.ClientCAs, k.config.ClientAuth = authorities, tls.RequireAndVerifyClientCert
		if auth == "optional" {
			k.config.ClientAuth = tls.VerifyClientCertIfGiven
		}
		// A session that is resumed is not verified anew: it would outlive the authority that was taken out of the file.
		k.config.SessionTicketsDisabled = true
	}
	return k
}

// choose returns the certificate for the name that a client asks for (RFC 6066 section 3): one with that name, else one
// with a wildcard for it, else the first. Among several it is the first that the client can use, RSA or ECDSA.
func (k *keyring) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	fitting := k.byName[name]
	if len(fitting) == 0 {
		if _, parent, ok := strings.Cut(name, "."); ok {
			fitting = k.byName["*."+parent]
		}
	}
	if len(fitting) == 0 && name == "" {
		fitting = k.pairs
	}
	for _, pair := range fitting {
		if hello.SupportsCertificate(pair) == nil {
			return pair, nil
		}
	}
	if len(fitting) > 0 {
		return fitting[0], nil
	}
	return k.pairs[0], nil
}

// prepareTLS reads the certificates of a tls or wss listener and sets what its connections are accepted with.
func (l *Listener) prepareTLS() error {
	own := config.KeyPair{Certificate: l.spec.Certificate, Key: l.spec.Key}
	for _, p := range append([]config.KeyPair{own}, l.spec.Certificates...) {
		l.credentials = append(l.credentials, newPair(p))
	}
	if l.spec.ClientCA != "" {
		l.credentials = append(l.credentials, newAuthorities(l.spec.ClientCA))
	}
	for _, c := range l.credentials {
		if _, err := c.read(); err != nil {
			return err
		}
		c.warned = time.Now() // whoever read the configuration has said it
	}
	l.takeCredentials()
	l.tlsConfig = &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return l.keyring.Load().config, nil },
	}
	return nil
}

// takeCredentials makes the credentials as they were read last those of new connections.
func (l *Listener) takeCredentials() {
	var pairs []*tls.Certificate
	var authorities *x509.CertPool
	for _, c := range l.credentials {
		if c.pair != nil {
			pairs = append(pairs, c.pair)
		} else {
			authorities = c.authorities
		}
	}
	l.keyring.Store(newKeyring(pairs, authorities, l.spec.ClientAuth))
}

// credential is what a listener has from one certificate with its key, or from one file of authorities.
type credential struct {
	files []file
	parse func(c *credential, texts [][]byte) error

	pair        *tls.Certificate // or
	authorities *x509.CertPool
	until       time.Time // end of the pair's certificate

	content  [sha256.Size]byte // of the files that are in use
	seen     []fs.FileInfo     // the files just before they were read last, also in vain; nil = absent
	readAt   time.Time         // when that was
	isBroken bool              // they were read in vain
	told     string            // what was said about that
	warned   time.Time         // when the end was last spoken of
}

// file is one file that a key of the configuration names.
type file struct{ setting, path string }

func newPair(p config.KeyPair) *credential {
	return &credential{files: []file{{"certificate", p.Certificate}, {"key", p.Key}}, parse: (*credential).parsePair}
}

func newAuthorities(path string) *credential {
	return &credential{files: []file{{"client_ca", path}}, parse: (*credential).parseAuthorities}
}

// read takes the files as they are now and reports whether they differ from those in use. On an error what is in use
// stays.
func (c *credential) read() (isNew bool, err error) {
	c.seen, c.readAt = c.look(), time.Now() // before reading: what is written meanwhile is found by the next look
	c.isBroken = true
	texts := make([][]byte, len(c.files))
	for i, f := range c.files {
		if texts[i], err = f.read(); err != nil {
			return false, err
		}
	}
	content := sha256.Sum256(bytes.Join(texts, []byte{0})) // PEM has no zero bytes
	if content != c.content {
		if err := c.parse(c, texts); err != nil {
			return false, err
		}
	}
	isNew = content != c.content
	c.content, c.isBroken = content, false
	return isNew, nil
}

func (c *credential) parsePair(texts [][]byte) error {
	pair, err := tls.X509KeyPair(texts[0], texts[1])
	if err != nil {
		return fmt.Errorf(`"certificate" %s and "key" %s of this listener do not serve: %s`,
			c.files[0].path, c.files[1].path, strings.TrimPrefix(err.Error(), "tls: "))
	}
	c.pair, c.until = &pair, pair.Leaf.NotAfter
	return nil
}

func (c *credential) parseAuthorities(texts [][]byte) error {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(texts[0]) {
		return fmt.Errorf(`"client_ca" of this listener has no certificate in it: %s`, c.files[0].path)
	}
	c.authorities = pool
	return nil
}

func (f file) read() ([]byte, error) {
	if f.path == "" {
		return nil, fmt.Errorf("%q of this listener is not set: name a PEM file", f.setting)
	}
	b, err := config.ReadFile(f.path)
	if err == nil {
		return b, nil
	}
	reason := err
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		reason = path.Err
	}
	return nil, fmt.Errorf("%q of this listener cannot be read: %s: %w", f.setting, f.path, reason)
}
