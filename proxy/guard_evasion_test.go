package proxy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sipward/sipward/config"
)

// guesses sends a request with credentials that the PBX refuses, as it was written by
// change.
func (u *user) guesses(method string, change func(text string) string) {
	u.lab.Helper()
	u.sends(change(u.request(method, u.nonce)))
	m := u.lab.pbx[0].getsWithin(100)
	if m == nil {
		u.lab.Fatalf("the PBX does not see %s", method)
	}
	u.lab.pbx[0].answers(m, 401, "t", challenge("WWW-Authenticate", u.nonce, ""))
	u.skip()
}

// Credentials that no backend looks at, or that not everybody can read, do not hide
// those that are guessed.
func TestDecoysDoNotHideGuesses(t *testing.T) {
	decoys := 0
	behind := func(header, before string) func(string) string {
		return func(text string) string {
			decoys++
			decoy := fmt.Sprintf("%s: Digest username=\"u%d\",realm=\"decoy\",nonce=\"x%d\",response=\"0\"\n", before, decoys, decoys)
			return strings.Replace(text, header+":", decoy+header+":", 1)
		}
	}
	for _, c := range []struct {
		name   string
		change func(string) string
		config func(*config.Config)
	}{
		{"a realm of its own", behind("Authorization", "Authorization"), nil},
		{"for a proxy", behind("Authorization", "Proxy-Authorization"), nil},
		{"no response", func(s string) string {
			return strings.Replace(s, "Authorization:", "Authorization: Digest username=\"x\",realm=\"r\"\nAuthorization:", 1)
		}, nil},
		{"broken, without sanity", func(s string) string { return strings.Replace(s, ",realm=", ",,flag,realm=", 1) },
			func(c *config.Config) { c.Security.SanityEnable = config.Off }},
		{"broken behind", func(s string) string {
			return strings.Replace(s, "response=\"0123456789abcdef0123456789abcdef\"", "response=\"0\",x", 1)
		},
			func(c *config.Config) { c.Security.SanityEnable = config.Observe }},
	} {
		t.Run(c.name, func(t *testing.T) {
			underGuard(t, 1, c.config, func(t *testing.T, l *lab) {
				u := l.phone.user("1000")
				u.challenged("REGISTER")
				for range 3 {
					u.guesses("REGISTER", c.change)
				}
				u.sends(c.change(u.request("REGISTER", u.nonce)))
				u.get("403 REGISTER")
				l.pbx[0].nothing()
				u.refused("REGISTER", true)
			})
		})
	}
}
