package security

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/wire"
)

// A right password proves one user at most, a wrong one is held against all who may be meant.
func TestWhoseCredentialsTheyAre(t *testing.T) {
	line := func(user, realm, nonce string) string {
		return fmt.Sprintf(`Authorization: Digest username="%s", realm="%s", nonce="%s", response="0"`, user, realm, nonce)
	}
	for _, x := range []struct {
		name   string
		lines  []string
		user   string
		others string
	}{
		{"one", []string{line("a", "one", "n1")}, "a", ""},
		{"one, of a challenge from elsewhere", []string{line("a", "one", "x")}, "a", ""},
		{"twice the same", []string{line("a", "one", "n1"), line("a", "two", "n2")}, "a", ""},
		{"of another proxy", []string{line("b", "other", "x"), line("a", "one", "n1")}, "a", ""},
		{"a decoy with the nonce", []string{line("b", "other", "n1"), line("a", "one", "n1")}, "a", "b"},
		{"the decoy behind", []string{line("a", "one", "n1"), line("b", "other", "n1")}, "a", "b"},
		{"two realms", []string{line("a", "one", "n1"), line("b", "two", "n2")}, "", "a b"},
		{"two realms and a decoy", []string{line("c", "other", "n1"), line("a", "one", "n1"), line("b", "two", "n2")}, "", "c a b"},
		{"both from elsewhere", []string{line("a", "one", "x"), line("b", "two", "y")}, "", "a b"},
	} {
		t.Run(x.name, func(t *testing.T) {
			g := NewGuard(Options{MaxSources: 100, MaxBans: 100, Calls: func(netip.Addr) int { return 0 }, Inside: func(*wire.Msg) bool { return false }})
			s, err := NewSettings(config.Default().Security, Surroundings{Member: func(netip.Addr) (string, bool) { return "", false }}, nil)
			if err != nil {
				t.Fatal(err)
			}
			from, now := netip.MustParseAddr("192.0.2.1"), time.Hour
			g.Challenge(s, authAnswer(t, 401, `WWW-Authenticate: Digest nonce="n1", realm="one"`, `WWW-Authenticate: Digest realm="two", nonce="n2"`), from, wire.REGISTER, now)
			at := g.Attempt(s, authRequest(t, x.lines...), from, false, now)
			others := strings.ReplaceAll(strings.Join(at.Others, " "), "@example.org", "")
			if strings.TrimSuffix(at.User, "@example.org") != x.user || others != x.others {
				t.Errorf("%q and %q", at.User, at.Others)
			}
		})
	}
}
