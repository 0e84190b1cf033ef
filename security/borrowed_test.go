package security

import (
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
)

// A realm goes back between quotes as it came, or not at all.
func TestQuotableRealms(t *testing.T) {
	for realm, want := range map[string]bool{
		"": true, "pbx.example.org": true, `a \"pbx\"`: true, `a\\`: true, "é": true, strings.Repeat("a", maxUser): true,
		`a\`: false, `a"`: false, `a", x="`: false, "a\r\n b": false, "a\\\r\nX: y": false, "\x00": false, "\x7f": false,
		strings.Repeat("a", maxUser+1): false,
	} {
		if isQuotable([]byte(realm)) != want {
			t.Errorf("%q: not %v", realm, want)
		}
	}
}

// A nonce is held whatever it was given for: every method that can be challenged, also one that we do not know.
func TestNonceIsHeldForAnyMethod(t *testing.T) {
	for _, name := range strings.Fields("INVITE BYE OPTIONS REGISTER PRACK SUBSCRIBE NOTIFY PUBLISH INFO REFER MESSAGE UPDATE QUERY") {
		a := NewAuth(authEntries)
		a.Issued(1, Challenge{Realm: []byte("pbx"), Nonce: []byte("n")}, wire.MethodOf([]byte(name)), time.Second)
		n := Credentials{Nonce: []byte("n")}
		if !a.Holds(1, n, time.Minute) || a.Holds(2, n, time.Minute) || a.Holds(1, Credentials{Nonce: []byte("other")}, time.Minute) {
			t.Error(name)
		}
	}
}

// Asterisk gives everybody who asks in one second the same nonce, with an opaque of his own: who leaves that out has the
// nonce from anywhere. Of a backend without opaques nobody can give one back.
func TestSharedNonceIsHeldWithItsOpaque(t *testing.T) {
	issue := func(a *Auth, s Source, opaque string) {
		a.Issued(s, Challenge{Nonce: []byte("n"), Opaque: []byte(opaque)}, wire.REGISTER, time.Second)
	}
	for _, x := range []struct {
		name         string
		his, another string // of the challenges
		answered     string
		want         bool
	}{
		{"his own", "o", "p", "o", true},
		{"left out", "o", "p", "", false},
		{"of somebody else", "o", "p", "p", false},
		{"invented", "o", "p", "q", false},
		{"nobody has one", "", "", "", true},
		{"nobody has one, invented", "", "", "q", true},
		{"one for all", "o", "o", "o", true},
	} {
		t.Run(x.name, func(t *testing.T) {
			for _, isFirst := range []bool{true, false} {
				a, c := NewAuth(authEntries), Credentials{Nonce: []byte("n"), Opaque: []byte(x.answered)}
				if !isFirst {
					issue(a, 2, x.another)
				}
				issue(a, 1, x.his)
				if isFirst {
					if got := a.Holds(1, c, time.Minute); !got {
						t.Error("he is the only one who has it")
					}
					issue(a, 2, x.another)
				}
				if got := a.Holds(1, c, time.Minute); got != x.want {
					t.Errorf("first %t: held: %t", isFirst, got)
				}
			}
		})
	}
}

// Sources that fail once in somebody's name make nobody forgotten who goes on, and take no
// more memory than so many.
func TestStrangersAreBounded(t *testing.T) {
	a, l := NewAuth(authEntries), AuthLimits{Attempts: 3, SourceAttempts: 20}
	attempt := func(s Source) *Attempt { return &Attempt{User: "alice@example.org", Source: s, Nonce: 1} }
	for i := range 20 * strangerSources / 10 {
		now := time.Second + time.Duration(i)*time.Millisecond/2
		a.Failure(attempt(Source(i+2)), l, false, 401, now)
		if i%1000 == 0 {
			a.Failure(attempt(1), l, false, 401, now)
		}
	}
	if n := len(a.strangers.of.slots); n > strangerSources+1 {
		t.Errorf("%d sources", n)
	}
	now := time.Second + 20*strangerSources/10*time.Millisecond/2
	if !a.Doubts(1, l, now) || a.Doubts(2, l, now) {
		t.Errorf("doubts %v, %v", a.Doubts(1, l, now), a.Doubts(2, l, now))
	}
	if a.Doubts(1, l, now+time.Minute) || a.Doubts(1, AuthLimits{}, now) {
		t.Error("the doubt does not end")
	}
	for range 1000 {
		a.Failure(attempt(1), l, false, 401, now)
	}
	if at := a.strangers.of.peek(1); len(*at) != 20 || cap(*at) > 64 {
		t.Errorf("%d times in the place of %d", len(*at), cap(*at))
	}
}
