package config

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestTemplateLoadsAsTheDefaults(t *testing.T) {
	for _, tc := range []struct {
		name string
		o    TemplateOptions
		want []string
	}{
		{"nothing given", TemplateOptions{}, []string{"sip:192.0.2.10:5060"}},
		{"two backends", TemplateOptions{To: []string{"10.0.0.10:5060", "sip:pbx2.example.org;transport=tcp"}, Pool: "office", Addresses: host},
			[]string{"sip:10.0.0.10:5060", "sip:pbx2.example.org;transport=tcp"}},
		{"IPv6", TemplateOptions{To: []string{"2001:db8::1", "[2001:db8::2]:5062"}}, []string{"sip:[2001:db8::1]", "sip:[2001:db8::2]:5062"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text, err := Template(tc.o)
			if err != nil {
				t.Fatal(err)
			}
			c, warnings, err := Load(Options{Path: "init.yaml", Data: []byte(text), Addresses: host[:1]})
			if err != nil || len(warnings) > 0 {
				t.Fatal(err, warnings)
			}
			pool := DefaultPool()
			for i, address := range tc.want {
				b := DefaultBackend()
				b.Address = address
				for _, p := range c.Pools {
					b.Name = p.Backends[i].Name
				}
				pool.Backends = append(pool.Backends, b)
			}
			for _, got := range c.Pools {
				if !reflect.DeepEqual(got, pool) {
					t.Errorf("pool: got %+v\nwant %+v", got, pool)
				}
			}
			c.Pools = nil
			applied, restart := Diff(Default(), c)
			if len(applied)+len(restart) > 0 {
				t.Errorf("differs in %v %v", applied, restart)
			}
		})
	}
	if _, err := Template(TemplateOptions{To: []string{"a b"}}); err == nil {
		t.Error("no error")
	}
}

// Every key must be there, and the examples that are commented out must load once the comment signs are gone.
func TestTemplateShowsEveryKey(t *testing.T) {
	text, err := Template(TemplateOptions{Addresses: host})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/template.golden", text)
	var bare []string
	for line := range strings.Lines(text) {
		bare = append(bare, strings.TrimLeft(strings.TrimSpace(line), "# -"))
	}
	for _, k := range Keys() {
		name := k.Path[strings.LastIndex(k.Path, ".")+1:]
		if !slices.ContainsFunc(bare, func(line string) bool { return strings.HasPrefix(line, name+":") }) {
			t.Errorf("%s is missing", k.Path)
		}
	}
	text = strings.Replace(text, "routes: []\n", "routes:\n", 1)
	var lines []string
	isExample := false
	for line := range strings.Lines(text) {
		rest, isComment := strings.CutPrefix(line, "  # ")
		isExample = isComment && (isExample || strings.HasPrefix(rest, "# "))
		if isExample {
			line = "  " + rest
		}
		lines = append(lines, line)
	}
	text = strings.Join(lines, "")
	_, _, err = Load(Options{Path: "init.yaml", Data: []byte(text), Addresses: host[:1]})
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != 2 || problems[0].Key != "listen[2].certificate" || problems[1].Key != "listen[2].key" {
		t.Errorf("want a complaint about the absent certificate and key only, got %v", err)
	}
}

func TestTemplateTakesASecret(t *testing.T) {
	secret := "-a#secret that: must be quoted"
	text, err := Template(TemplateOptions{Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := Load(Options{Path: "init.yaml", Data: []byte(text), Addresses: host[:1]})
	if err != nil || c.Secret != secret {
		t.Errorf("got %v", err)
	}
}

func TestDiffTellsWhatNeedsARestart(t *testing.T) {
	const base = `
listen: [ "udp:127.0.0.1:5060" ]
pools:
  pbx:
    backends: [ { name: a, address: "sip:10.0.0.1" }, { name: b, address: "sip:10.0.0.2" } ]
`
	for _, tc := range []struct {
		name, yaml       string
		applied, restart []string
	}{
		{"nothing", base, nil, nil},
		{"order of backends", strings.Replace(base, `{ name: a, address: "sip:10.0.0.1" }, { name: b, address: "sip:10.0.0.2" }`,
			`{ name: b, address: "sip:10.0.0.2" }, { name: a, address: "sip:10.0.0.1" }`, 1), nil, nil},
		{"log", base + "log: { level: debug, format: json, output: stderr }\n", []string{"log.format", "log.level", "log.output"}, nil},
		{"listen", strings.Replace(base, "5060", "5070", 1), nil, []string{"listen"}},
		{"limits", base + "limits: { max_transactions: 1000, receive_buffer: 4MiB, emergency: [sos, \"112\"] }\n",
			[]string{"limits.emergency"}, []string{"limits.max_transactions", "limits.receive_buffer"}},
		{"backend came and went", strings.Replace(base, "name: b", "name: c", 1), []string{"pools.pbx.backends[b]", "pools.pbx.backends[c]"}, nil},
		{"backend changed", strings.Replace(base, "name: b,", "name: b, state: drain,", 1), []string{"pools.pbx.backends[b].state"}, nil},
		{"pool", base + "  more: { backends: [ sip:10.0.0.9 ] }\nroutes: [ { pool: pbx } ]\n", []string{"pools.more", "routes"}, nil},
		{"timers", base + "transaction: { t1: 0.4 }\nadvertise: 192.0.2.1\nresolver: { timeout: 1 }\n",
			[]string{"advertise", "transaction.t1"}, []string{"resolver.timeout"}},
		{"limits of calls", base + "timers: { session_ttl: 300, probe_methods: [options] }\ncdr: { output: stdout, format: csv }\n",
			[]string{"cdr.output", "cdr.format", "timers.session_ttl", "timers.probe_methods"}, nil},
		{"calls of one backend", strings.Replace(base, "name: b,", "name: b, max_calls: 10,", 1), []string{"pools.pbx.backends[b].max_calls"}, nil},
		{"calls and socket", base + "limits: { max_dialogs: 1000 }\nadmin: { socket: /x }\n", nil, []string{"limits.max_dialogs", "admin.socket"}},
		{"security", base + "security: { dos_ban_enable: observe, trusted: [192.0.2.1], block_useragents: { ua_patterns: [x] } }\n" +
			"limits: { max_sources: 1000, max_bans: 100 }\n",
			[]string{"security.trusted", "security.dos_ban_enable", "security.block_useragents.ua_patterns"}, []string{"limits.max_sources", "limits.max_bans"}},
		{"a default that is written", base + "security: { dos_ban_enable: enforce, loop_exempt: [anonymous] }\n", nil, nil},
		{"registrations", base + "registration: { mode: contact, ping: crlf }\nlimits: { max_bindings: 1000, accept_rate: 50 }\n",
			[]string{"registration.mode", "registration.ping"}, []string{"limits.max_bindings", "limits.accept_rate"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			applied, restart := Diff(load(t, base), load(t, tc.yaml))
			if !slices.Equal(applied, tc.applied) || !slices.Equal(restart, tc.restart) {
				t.Errorf("got %v %v", applied, restart)
			}
		})
	}
}

func TestTextShowsWhatIsInForce(t *testing.T) {
	c, _, err := Load(Options{Path: "testdata/full.yaml", Addresses: []netip.Addr{}})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/effective.golden", Text(c))
}
