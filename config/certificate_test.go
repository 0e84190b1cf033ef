package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// issued is a certificate of its own signature, with its key.
type issued struct{ certificate, key string }

// issue writes name.pem and name.key for some host names; more follows in the chain.
func issue(t *testing.T, dir, name string, from, until time.Duration, hosts []string, more ...string) issued {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: hosts,
		NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(until),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for _, file := range more {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, text...)
	}
	made := issued{filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")}
	for path, text := range map[string][]byte{made.certificate: chain, made.key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return made
}

const (
	day1  = 24 * time.Hour
	year1 = 365 * day1
)

func TestCertificatesThatCannotServe(t *testing.T) {
	dir := t.TempDir()
	good := issue(t, dir, "good", -day1, year1, []string{"a.example"})
	other := issue(t, dir, "other", -day1, year1, []string{"b.example"})
	nameless := issue(t, dir, "nameless", -day1, year1, nil)
	expired := issue(t, dir, "expired", -year1, -day1, []string{"a.example"})
	soon := issue(t, dir, "soon", -day1, 13*day1, []string{"a.example"})
	inTime := issue(t, dir, "in-time", -day1, 15*day1, []string{"a.example"})
	early := issue(t, dir, "early", day1, year1, []string{"a.example"})
	underSoon := issue(t, dir, "under-soon", -day1, year1, []string{"a.example"}, soon.certificate)
	bundle := issue(t, dir, "bundle", -day1, year1, nil, expired.certificate)
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, []byte(strings.Repeat("#", MaxFile+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	listener := func(more string) string {
		return fmt.Sprintf("listen: [ { address: \"wss:127.0.0.1:8443\", certificate: %q, key: %q, %s } ]\n", good.certificate, good.key, more) + small
	}
	pair := func(i issued) string { return fmt.Sprintf("certificate: %q, key: %q", i.certificate, i.key) }
	primary := func(i issued) string {
		return "listen: [ { address: \"tls:127.0.0.1:5061\", " + pair(i) + " } ]\n" + small
	}
	pool := func(more string) string {
		return "pools: { pbx: { tls: { " + more + " }, backends: [ \"sips:10.0.0.1\" ] } }\n"
	}
	for _, tc := range []struct{ name, yaml, want string }{
		{"good", primary(good), ""},
		{"key of another", primary(issued{good.certificate, other.key}), "listen[0].certificate: %good.pem\" and %good.key\" do not serve: private key does not match"},
		{"too large", primary(issued{big, good.key}), "listen[0].certificate: cannot read %big\": it is larger than 1048576 bytes"},
		{"pipe", primary(issued{pipe, good.key}), "listen[0].certificate: cannot read %pipe\": it is no regular file"},
		{"device", primary(issued{"/dev/zero", good.key}), "listen[0].certificate: cannot read \"/dev/zero\": it is no regular file"},
		{"expired", primary(expired), "listen[0].certificate: warning: expired on "},
		{"soon", primary(soon), "listen[0].certificate: warning: expires on "},
		{"in time", primary(inTime), ""},
		{"early", primary(early), "listen[0].certificate: warning: valid only from "},
		{"chain", primary(underSoon), "listen[0].certificate: warning: \"soon\" in its chain expires on "},
		{"by name", listener("certificates: [ { " + pair(other) + " } ]"), ""},
		{"by name, expired", listener("certificates: [ { " + pair(other) + " }, { " + pair(expired) + " } ]"), "listen[0].certificates[1].certificate: warning: expired on "},
		{"by name, for none", listener("certificates: [ { " + pair(nameless) + " } ]"), "listen[0].certificates[0].certificate: warning: it is for no host name"},
		{"authority", listener(fmt.Sprintf("client_ca: %q, client_auth: optional", other.certificate)), ""},
		{"authority expired", listener(fmt.Sprintf("client_ca: %q", expired.certificate)), "listen[0].client_ca: warning: expired on "},
		{"one of several authorities expired", listener(fmt.Sprintf("client_ca: %q", bundle.certificate)), ""},
		{"authority is a key", listener(fmt.Sprintf("client_ca: %q", good.key)), "listen[0].client_ca: no certificate in "},
		{"authority absent", listener("client_ca: /no/such/file"), "listen[0].client_ca: cannot read \"/no/such/file\": no such file"},
		{"pool", pool(pair(good)), ""},
		{"pool, key of another", pool(pair(issued{good.certificate, other.key})), "pools.pbx.tls.certificate: %good.pem\" and %good.key\" do not serve: "},
		{"pool, soon", pool(pair(soon)), "pools.pbx.tls.certificate: warning: expires on "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, warnings, err := Load(Options{Path: "f.yaml", Data: []byte(tc.yaml), Addresses: host[:1]})
			var lines []string
			if err != nil {
				lines = strings.Split(err.Error(), "\n")
			}
			for _, w := range warnings {
				lines = append(lines, w.String())
			}
			if tc.want == "" && len(lines) > 0 || tc.want != "" && len(lines) != 1 {
				t.Fatalf("got %q", lines)
			}
			want := strings.NewReplacer("%good.key", "\""+other.key, "%", "\""+dir+"/").Replace(tc.want)
			if tc.want != "" && !strings.Contains(lines[0], ": "+want) {
				t.Errorf("got %s\nwant %s", lines[0], want)
			}
		})
	}
}
