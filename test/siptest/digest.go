package siptest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/icholy/digest"
)

// doorman asks for passwords (RFC 3261 22) and remembers none of his questions.
type doorman struct {
	realm    string
	accounts map[string]string // user to password; empty: no challenge
	secret   []byte
}

func newDoorman(realm string, accounts map[string]string) (*doorman, error) {
	d := &doorman{realm: realm, accounts: accounts, secret: make([]byte, 16)}
	_, err := rand.Read(d.secret)
	return d, err
}

// challenge is a WWW-Authenticate value.
func (d *doorman) challenge() string {
	c := digest.Challenge{Realm: d.realm, Nonce: d.nonce(time.Now().Unix()), Algorithm: "MD5", QOP: []string{"auth"}}
	return c.String()
}

// nonce carries its time and a MAC, so that none has to be remembered.
func (d *doorman) nonce(at int64) string {
	stamp := fmt.Sprintf("%x", at)
	mac := hmac.New(sha256.New, d.secret)
	mac.Write([]byte(stamp))
	return stamp + "-" + hex.EncodeToString(mac.Sum(nil)[:8])
}

// authorized checks an Authorization value; tried says that it is for a nonce of ours.
func (d *doorman) authorized(method, credentials string) (authorized, tried bool) {
	if len(d.accounts) == 0 {
		return true, false
	}
	got, err := digest.ParseCredentials(credentials)
	if err != nil {
		return false, false
	}
	var at int64
	if _, err := fmt.Sscanf(got.Nonce, "%x-", &at); err != nil || got.Nonce != d.nonce(at) {
		return false, false
	}
	password, ok := d.accounts[got.Username]
	if !ok {
		return false, true
	}
	challenge := &digest.Challenge{Realm: d.realm, Nonce: got.Nonce, Algorithm: "MD5"}
	if got.QOP != "" {
		challenge.QOP = []string{got.QOP}
	}
	want, err := digest.Digest(challenge, digest.Options{
		Method: method, URI: got.URI, Username: got.Username, Password: password, Cnonce: got.Cnonce, Count: got.Nc,
	})
	return err == nil && want.Response == got.Response, true
}
