package transport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
)

// told collects what a layer says.
type told struct{ news, problems chan string }

func listenTo(o *Options) told {
	lines := told{make(chan string, 100), make(chan string, 100)}
	o.OnReload = func(format string, args ...any) { lines.news <- fmt.Sprintf(format, args...) }
	o.OnProblem = func(format string, args ...any) { lines.problems <- fmt.Sprintf(format, args...) }
	return lines
}

// expect wants one line each that contains the given text, or none for an empty one.
func (s told) expect(t *testing.T, news, problem string) {
	t.Helper()
	for _, one := range []struct {
		what, want string
		from       chan string
	}{{"news", news, s.news}, {"problem", problem, s.problems}} {
		got := ""
		if len(one.from) > 0 {
			got = <-one.from
		}
		if len(one.from) > 0 || (got == "") != (one.want == "") || !strings.Contains(got, one.want) {
			t.Errorf("%s: got %q and %d more, want %q", one.what, got, len(one.from), one.want)
		}
	}
}

func replaceFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func swapLink(t *testing.T, target, link string) {
	t.Helper()
	fresh := link + ".fresh"
	if err := os.Symlink(target, fresh); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, link); err != nil {
		t.Fatal(err)
	}
}

// shows fails the test unless new connections get the certificate of that name.
func shows(t *testing.T, l *Layer, want string) {
	t.Helper()
	if got, err := greet(t, l, &tls.Config{}); got != want || err != nil {
		t.Errorf("got %q, want %q (%v)", got, want, err)
	}
}

func TestRenewedCertificateIsTakenOver(t *testing.T) {
	// Each case lays the pair old where the listener looks for it and returns what replaces it by the pair new.
	cases := []struct {
		name string
		lay  func(t *testing.T, dir string) (certificate, key string, renew func())
	}{
		{"written anew", func(t *testing.T, dir string) (string, string, func()) {
			certificate, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "cert.key")
			lay := func(name string) {
				replaceFile(t, filepath.Join(dir, name+".pem"), certificate)
				replaceFile(t, filepath.Join(dir, name+".key"), key)
			}
			lay("old")
			return certificate, key, func() { lay("new") }
		}},
		{"renamed over", func(t *testing.T, dir string) (string, string, func()) {
			certificate, key := filepath.Join(dir, "old.pem"), filepath.Join(dir, "old.key")
			return certificate, key, func() {
				for _, ending := range []string{".pem", ".key"} {
					if err := os.Rename(filepath.Join(dir, "new"+ending), filepath.Join(dir, "old"+ending)); err != nil {
						t.Fatal(err)
					}
				}
			}
		}},
		{"links to files", func(t *testing.T, dir string) (string, string, func()) {
			certificate, key := filepath.Join(dir, "fullchain.pem"), filepath.Join(dir, "privkey.pem")
			lay := func(name string) {
				swapLink(t, name+".pem", certificate)
				swapLink(t, name+".key", key)
			}
			lay("old")
			return certificate, key, func() { lay("new") }
		}},
		{"a link to their folder", func(t *testing.T, dir string) (string, string, func()) {
			for _, name := range []string{"old", "new"} {
				sub := filepath.Join(dir, ".."+name)
				if err := os.Mkdir(sub, 0o700); err != nil {
					t.Fatal(err)
				}
				replaceFile(t, filepath.Join(dir, name+".pem"), filepath.Join(sub, "tls.crt"))
				replaceFile(t, filepath.Join(dir, name+".key"), filepath.Join(sub, "tls.key"))
			}
			data := filepath.Join(dir, "..data")
			swapLink(t, "..old", data)
			for _, name := range []string{"tls.crt", "tls.key"} {
				if err := os.Symlink("..data/"+name, filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			return filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), func() { swapLink(t, "..new", data) }
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			certify(t, dir, "old")
			certify(t, dir, "new")
			s := spec("tls 127.0.0.1:0")
			var renew func()
			s.Certificate, s.Key, renew = c.lay(t, dir)
			r, o := newRecorder(), Options{}
			r.onReceive = echo
			lines := listenTo(&o)
			l := start(t, o, r, s)
			running := tls.Client(dialTo(t, l, 0), &tls.Config{InsecureSkipVerify: true})
			write(t, running, message(1, 10))
			expect(t, running, message(1, 10))

			now := time.Now()
			l.lookAtCertificates(now)
			lines.expect(t, "", "") // that it ends in an hour was said at the start
			shows(t, l, "old")
			renew()
			l.lookAtCertificates(now)
			lines.expect(t, "certificate "+s.Certificate+" of tls 127.0.0.1:", "expires on")
			shows(t, l, "new")
			l.lookAtCertificates(now)
			lines.expect(t, "", "")
			write(t, running, message(2, 10))
			expect(t, running, message(2, 10))
		})
	}
}

func TestHalfReplacedPairIsNoProblemUntilItStays(t *testing.T) {
	dir := t.TempDir()
	s := spec("tls 127.0.0.1:0")
	s.Certificate, s.Key = certifyFor(t, dir, "old", 100*24*time.Hour)
	newCertificate, newKey := certifyFor(t, dir, "new", 100*24*time.Hour)
	oldKey := filepath.Join(dir, "old.copy")
	replaceFile(t, s.Key, oldKey)
	o := Options{}
	lines := listenTo(&o)
	l := start(t, o, newRecorder(), s)
	look := func(news, problem, shown string) {
		t.Helper()
		l.lookAtCertificates(time.Now())
		lines.expect(t, news, problem)
		shows(t, l, shown)
	}

	look("", "", "old")
	replaceFile(t, newCertificate, s.Certificate)
	look("", "", "old") // the key may come yet
	replaceFile(t, newKey, s.Key)
	look("reloaded, valid until ", "", "new")

	replaceFile(t, oldKey, s.Key)
	look("", "", "new")
	look("", "do not serve: private key does not match public key; the old one stays in use", "new")
	look("", "", "new") // said once
	if errs := l.ReloadCertificates(); len(errs) != 1 || !strings.Contains(errs[0].Error(), "do not serve") {
		t.Error("asked for, it is said again", errs)
	}
	if err := os.Remove(s.Key); err != nil {
		t.Fatal(err)
	}
	look("", "cannot be read: "+s.Key, "new") // another reason
	look("", "", "new")
	if err := syscall.Mkfifo(s.Key, 0o600); err != nil {
		t.Fatal(err)
	}
	look("", "it is no regular file", "new") // nor waited for
	if err := os.Remove(s.Key); err != nil {
		t.Fatal(err)
	}
	replaceFile(t, newKey, s.Key)
	look("is what it was before again, valid until ", "", "new")
	look("", "", "new")
}

func TestOneBrokenPairDoesNotKeepTheOthersOld(t *testing.T) {
	dir := t.TempDir()
	s := spec("tls 127.0.0.1:0")
	s.Certificate, s.Key, _ = certify(t, dir, "first")
	certificate, key, _ := certify(t, dir, "second")
	s.Certificates = []config.KeyPair{{Certificate: certificate, Key: key}}
	l := start(t, Options{}, newRecorder(), s)
	if err := os.WriteFile(certificate, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	newCertificate, newKey, _ := certify(t, dir, "new")
	replaceFile(t, newCertificate, s.Certificate)
	replaceFile(t, newKey, s.Key)
	if errs := l.ReloadCertificates(); len(errs) != 1 || !strings.Contains(errs[0].Error(), certificate) {
		t.Error(errs)
	}
	shows(t, l, "new")
}

func TestClientAuthoritiesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	s, _ := tlsSpec(t)
	certificate, key, _ := certify(t, dir, "phone")
	other, _, _ := certify(t, dir, "other")
	s.ClientCA = filepath.Join(dir, "ca.pem")
	replaceFile(t, certificate, s.ClientCA)
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	// TLS 1.2 tells the client of a refusal inside the handshake; its sessions would be resumed.
	client := &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(1), ServerName: "proxy.example", MaxVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }}
	o := Options{}
	lines := listenTo(&o)
	l := start(t, o, newRecorder(), s)
	if _, err := greet(t, l, client); err != nil {
		t.Fatal(err)
	}
	replaceFile(t, other, s.ClientCA)
	if errs := l.ReloadCertificates(); len(errs) > 0 {
		t.Error(errs)
	}
	lines.expect(t, "client_ca "+s.ClientCA+" of tls 127.0.0.1:", "")
	if _, err := greet(t, l, client); err == nil {
		t.Error("the authority that is gone still counts")
	}
	if err := os.WriteFile(s.ClientCA, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if errs := l.ReloadCertificates(); len(errs) != 1 || !strings.Contains(errs[0].Error(), "no certificate in it") {
		t.Error(errs)
	}
	if _, err := greet(t, l, client); err == nil {
		t.Error("without an authority everybody is let in")
	}
}

func TestEndOfACertificateIsSaidOnceADay(t *testing.T) {
	s := spec("tls 127.0.0.1:0")
	s.Certificate, s.Key = certifyFor(t, t.TempDir(), "proxy", 20*24*time.Hour)
	o := Options{}
	lines := listenTo(&o)
	l := start(t, o, newRecorder(), s)
	now := time.Now()
	for _, c := range []struct {
		after time.Duration
		want  string
	}{
		{0, ""}, {5 * 24 * time.Hour, ""}, {7 * 24 * time.Hour, "expires on "}, {7*24*time.Hour + certificatePoll, ""},
		{8 * 24 * time.Hour, "expires on "}, {21 * 24 * time.Hour, "expired on "},
	} {
		l.lookAtCertificates(now.Add(c.after))
		lines.expect(t, "", c.want)
	}
}

// TestCertificatesAreWatchedUntilClose: the loop looks at each tick and ends with the layer.
func TestCertificatesAreWatchedUntilClose(t *testing.T) {
	dir := t.TempDir()
	s := spec("wss 127.0.0.1:0")
	s.Certificate, s.Key, _ = certify(t, dir, "old")
	o := Options{}
	lines := listenTo(&o)
	l := start(t, o, newRecorder(), spec("udp 127.0.0.1:0"), s)
	if !l.watchesCertificates() {
		t.Error("nothing is watched")
	}
	tick := make(chan time.Time)
	l.run(func() { l.watchCertificates(tick) })
	certificate, key, _ := certify(t, dir, "new")
	replaceFile(t, certificate, s.Certificate)
	replaceFile(t, key, s.Key)
	tick <- time.Now()
	if line := next(t, lines.news); !strings.Contains(line, "of wss 127.0.0.1:") {
		t.Error(line)
	}
}

// certifyFor is certify with another life.
func certifyFor(t *testing.T, dir, name string, life time.Duration) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, _ = issue(t, dir, name, private, life, "proxy.example")
	return certificate, key
}
