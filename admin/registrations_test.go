package admin

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy"
	"github.com/sipward/sipward/test/admintest"
)

// somePhones are registered at a pool of two backends, the last two over one connection.
func somePhones() []proxy.RegistrationInfo {
	return []proxy.RegistrationInfo{
		{ID: "1a", AoR: "alice@example.org", Contact: "sip:alice@192.168.1.23", Flow: "udp:203.0.113.7:41022", Backend: "pbx1", UA: "phone 1.2", Expires: admintest.Noon},
		{ID: "1b", AoR: "bob/desk@example.org", Contact: "sip:bob@192.168.1.24", Flow: "udp:203.0.113.70:5060", Backend: "pbx2"},
		{ID: "1c", AoR: "carol@example.org", Contact: "sip:c1@x.invalid", Flow: "wss:[2001:db8::7]:49152", Backend: "pbx1", Connection: 42},
		{ID: "1d", AoR: "carol@example.org", Contact: "sip:c2@x.invalid", Flow: "wss:[2001:db8::7]:49152", Backend: "pbx1", Connection: 42},
	}
}

// TestRegistrationAnswers: status and body of every path of registrations, and of what is wrong.
func TestRegistrationAnswers(t *testing.T) {
	path, edge := tempSocket(t), new(manyCalls)
	edge.SetRegistrations(somePhones())
	serve(t, path, edge, new(lines))
	answers(t, path, []exchange{
		{"all", "GET", "/v1/registrations", "", 200, `"more":false`},
		{"more", "GET", "/v1/registrations?limit=3", "", 200, `"more":true`},
		{"exactly", "GET", "/v1/registrations?limit=4", "", 200, `"more":false`},
		{"of an address of record", "GET", "/v1/registrations?aor=bob%2Fdesk@example.org", "", 200, `{"registrations":[{"id":"1b","aor":"bob/desk@example.org",`},
		{"two of one", "GET", "/v1/registrations?aor=carol@example.org", "", 200, `"id":"1d"`},
		{"a part is not exact", "GET", "/v1/registrations?aor=carol", "", 200, `{"registrations":[],"more":false}`},
		{"by a part of the contact", "GET", "/v1/registrations?text=1.24", "", 200, `{"registrations":[{"id":"1b"`},
		{"by a part of the agent", "GET", "/v1/registrations?text=phone+1", "", 200, `{"registrations":[{"id":"1a"`},
		{"from an address", "GET", "/v1/registrations?source=203.0.113.7&limit=1", "", 200, `"id":"1a"`},
		{"from no more than it", "GET", "/v1/registrations?source=203.0.113.7&limit=1", "", 200, `"more":false`},
		{"written otherwise", "GET", "/v1/registrations?source=::ffff:203.0.113.70", "", 200, `{"registrations":[{"id":"1b"`},
		{"IPv6, in capitals", "GET", "/v1/registrations?source=2001:DB8:0::7", "", 200, `{"registrations":[{"id":"1c"`},
		{"on a backend", "GET", "/v1/registrations?backend=pbx2", "", 200, `{"registrations":[{"id":"1b"`},
		{"no address", "GET", "/v1/registrations?source=203.0.113.7:5060", "", 400, `source \"203.0.113.7:5060\": want an IP address`},
		{"no limit", "GET", "/v1/registrations?limit=all", "", 400, `limit \"all\": 1 to 10000`},
		{"misspelt", "GET", "/v1/registrations?aors=a", "", 400, `unknown parameter \"aors\"; there are: aor, text, source, backend, limit`},
		{"twice", "GET", "/v1/registrations?aor=a&aor=b", "", 400, `aor is given twice`},
		{"one", "GET", "/v1/registrations/1c", "", 200, `{"id":"1c","aor":"carol@example.org"`},
		{"one that is not", "GET", "/v1/registrations/1", "", 404, `no such registration; it may have expired`},
		{"none", "GET", "/v1/registrations/", "", 404, `no such path; there are: `},
		{"figures", "GET", "/v1/registration_stats", "", 200, `{"registered":4,"flows":4,`},
		{"cannot be changed", "DELETE", "/v1/registrations/1c", "", 405, `DELETE is not for this path: GET`},
	})
}

// TestClientFindsRegistrations: over a socket, whatever the identifier.
func TestClientFindsRegistrations(t *testing.T) {
	path, edge := tempSocket(t), new(manyCalls)
	edge.SetRegistrations(somePhones())
	serve(t, path, edge, new(lines))
	ctx, c := t.Context(), NewClient(path)
	for f, want := range map[proxy.RegistrationFilter]string{
		{}:                            "1a 1b 1c 1d false",
		{Limit: 2}:                    "1a 1b true",
		{ID: "1b"}:                    "1b false",
		{Text: "c2@"}:                 "1d false",
		{Source: "203.0.113.7"}:       "1a false",
		{AoR: "bob/desk@example.org"}: "1b false",
		{Backend: "pbx3"}:             "false",
		{AoR: "carol@example.org", Text: "invalid", Source: "2001:db8::7", Backend: "pbx1"}: "1c 1d false",
	} {
		l, err := c.Registrations(ctx, f)
		got := ""
		for _, r := range l.Registrations {
			got += r.ID + " "
		}
		if got += fmt.Sprint(l.More); err != nil || got != want {
			t.Errorf("%+v: %s, %v; want %s", f, got, err, want)
		}
	}
	for _, id := range []string{".", "..", "a/b", "%2e", "?x=1", "#", "1b/", "\x00", "ü", "bob/desk@example.org"} {
		if l, err := c.Registrations(ctx, proxy.RegistrationFilter{ID: id}); err != nil || len(l.Registrations) != 0 {
			t.Errorf("%q: %+v, %v", id, l, err)
		}
	}
	l, err := c.Registrations(ctx, proxy.RegistrationFilter{ID: "1a"})
	if err != nil || l.Registrations[0] != somePhones()[0] {
		t.Errorf("%+v, %v", l, err)
	}
	if s, err := c.RegistrationStats(ctx); err != nil || s.Registered != 4 || s.Capacity != 100 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestRegistrationsOfARealEdge: none yet, and no null.
func TestRegistrationsOfARealEdge(t *testing.T) {
	path := tempSocket(t)
	serve(t, path, realEdge(t), new(lines))
	answers(t, path, []exchange{
		{"list", "GET", "/v1/registrations", "", 200, `{"registrations":[],"more":false}`},
		{"one", "GET", "/v1/registrations/1", "", 404, `no such registration`},
		{"figures", "GET", "/v1/registration_stats", "", 200, `{"registered":0,`},
	})
}

// TestZeroTimesAreLeftOut: a moment that was not is no moment of the year 1.
func TestZeroTimesAreLeftOut(t *testing.T) {
	path, edge := tempSocket(t), new(manyCalls)
	r := proxy.RegistrationInfo{ID: "1", Since: admintest.Noon, Refreshed: admintest.Noon, Expires: admintest.Noon.Add(time.Hour)}
	edge.SetRegistrations([]proxy.RegistrationInfo{r})
	serve(t, path, edge, new(lines))
	answers(t, path, []exchange{{"one", "GET", "/v1/registrations/1", "", 200, `"expires":"2026-03-01T13:00:00Z","pings":0,"missed":0,"why":""}`}})
}

// FuzzRegistrationFilterIsBounded: what is accepted has a limit, and a source that is an address.
func FuzzRegistrationFilterIsBounded(f *testing.F) {
	f.Add("aor=a%40b&text=x&source=2001:db8::1&backend=pbx1&limit=10000")
	f.Add("source=::ffff:1.2.3.4")
	f.Fuzz(func(t *testing.T, query string) {
		got, err := registrationFilterOf(query)
		if err != nil {
			return
		}
		if got.Limit < 1 || got.Limit > MaxLimit || got.ID != "" {
			t.Errorf("%q: %+v", query, got)
		}
		if _, err := netip.ParseAddr(got.Source); got.Source != "" && err != nil {
			t.Errorf("%q: %v", query, err)
		}
	})
}
