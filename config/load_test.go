package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// host is the host that the tests pretend to run on.
var host = []netip.Addr{
	netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("10.0.0.5"),
	netip.MustParseAddr("2001:db8::1"),
}

const small = "pools: { pbx: { backends: [ sip:10.0.0.1 ] } }\n"

func load(t *testing.T, yaml string) *Config {
	t.Helper()
	c, _, err := Load(Options{Path: "sipward.yaml", Data: []byte(yaml), Addresses: host})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// golden compares with a file of testdata, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got:\n%s", name, got)
	}
}

func TestLoadReportsEveryProblemWithItsPlace(t *testing.T) {
	files, err := filepath.Glob("testdata/problems/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c, warnings, err := Load(Options{Path: "sipward.yaml", Data: data, Addresses: host})
			if (c == nil) != (err != nil) {
				t.Error("want either a configuration or an error")
			}
			var b strings.Builder
			if err != nil {
				fmt.Fprintln(&b, err)
			}
			for _, w := range warnings {
				fmt.Fprintln(&b, w)
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".golden", b.String())
		})
	}
}

func TestLoadReadsEveryForm(t *testing.T) {
	c, warnings, err := Load(Options{Path: "testdata/full.yaml", Addresses: host})
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 2 || warnings[0].Key != "security.dos_ban_enable" || warnings[1].Key != "lab" {
		t.Errorf("warnings: %v", warnings)
	}
	want := Default()
	want.Listen = []Listener{
		{Address: "udp:10.0.0.5:5060", Proto: "udp", Bind: netip.MustParseAddrPort("10.0.0.5:5060")},
		{Address: "tcp:[::1]:5060", Proto: "tcp", Bind: netip.MustParseAddrPort("[::1]:5060")},
		{
			Address: "udp:192.0.2.1:5060", Proto: "udp", Bind: netip.MustParseAddrPort("192.0.2.1:5060"), Side: "inside",
			Advertise: "edge.example.org:5080",
		},
		{
			Address: "WS:[::]:8080", Proto: "ws", Bind: netip.MustParseAddrPort("[::]:8080"),
			Origins: []string{"https://phone.example.org:8443", "app://-"},
		},
	}
	want.StateFile = "./calls.state"
	want.Advertise, want.ServerID, want.Lab = "203.0.113.5", "sipward", true
	want.Log = Log{Format: "json", Level: "debug", Output: "/var/log/sipward.log"}
	pbx := Pool{
		Policy: "weighted", Probe: Probe{"OPTIONS", second / 2, second / 2, 3, 1, false},
		Backends: []Backend{
			{Name: "pbx1", Address: "sip:10.0.0.10:5060;transport=udp", Weight: 3, MaxCPS: 50, MaxCalls: 100, State: "up"},
			{Name: "pbx2", Address: "sip:pbx2.example.org", Weight: 1, Priority: 1, State: "drain"},
			{Name: "2001:db8::7", Address: "sips:[2001:db8::7]", Weight: 1, State: "up"},
		},
		InviteFailover: 3 * second / 2, RequestFailover: 3 * second, FailoverCodes: []int{502, 503, 504}, AuthFailureCodes: []int{401, 407}, IdentityHeader: "X-AUTH-IP",
		SupportsPath: true,
	}
	carrier := pbx
	carrier.Policy = "least_calls"
	carrier.Backends = []Backend{{Name: "198.51.100.20", Address: "sip:198.51.100.20", Weight: 1, State: "up"}}
	want.Pools = map[string]Pool{"pbx": pbx, "carrier": carrier}
	want.Routes = []Route{
		{
			Match: Match{
				Method: []string{"REGISTER", "INVITE"}, RURIPrefix: "sip:+49", FromDomain: "Example.org",
				Source: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::1/128")},
			},
			Pool: "pbx", MaxCPS: 100,
		},
		{Pool: "carrier"},
	}
	want.CDR, want.Admin = CDR{Output: "./calls.csv", Format: "csv"}, Admin{}
	want.Registration = Registration{Mode: "contact", ClosedGrace: second / 2, Ping: "crlf", PingInterval: second / 10}
	want.Timers = Timers{
		SessionTTL: 1800 * second, SessionUpdateSegment: 3, SessionTimeoutEarlyHangup: 60 * second, NoTimerCallDuration: 7200 * second,
		MaxCallDuration: 43200 * second, MinSE: 5 * second / 2, InsertSE: "always", Detect: "session_expires",
		ProbeMethods: []string{"options", "update"}, Alive: "2xx_only", ProbeLegs: "b", ProbeRateMax: 100, OnSEExpiry: "bye",
		On408: "end", ReinviteWebRTC: true, AckTimeout: 40 * second, MaxEarlyPerInvite: 4, RestoreCSeqBump: 100,
	}
	want.Security = Security{
		Trusted: []netip.Prefix{
			netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.7/32"), netip.MustParsePrefix("2001:db8:1::/48"),
			netip.MustParsePrefix("192.0.2.128/25"),
		},
		DoSBanEnable: Observe, DoSBanTime: 7200 * second, DoSReqsDensityPerUnit: 100, DoSSamplingTimeUnit: 3 * second / 2, DoSKnownFactor: 20, DoSNewSourcesPerSecond: 500,
		DoSUnprovenBanTime: 60 * second, FailedAuthBanEnable: Enforce, FailedAuthAttempts: 5, FailedAuthBanTime: 1800 * second,
		FailedAuthBanKey: "user_source", FailedAuthBanReply: "drop", FailedAuthSourceAttempts: 50,
		LoopEnable: Enforce, LoopFromToPerSecond: 10, LoopKey: "uri", LoopExempt: []string{"*97", "8*", "**"}, SanityEnable: Enforce,
		BlockUserAgents: BlockUserAgents{
			Enable: Enforce, Action: "reject", Mode: "whitelist", BlockAbsent: true, BlockEmpty: true, UAPatterns: []string{"Yealink", "=snom 300"},
		},
		OptionsFromUnknown: "drop", StripHeaders: []string{"X-AUTH-IP", "P-Asserted-Identity"}, KernelOffload: "off",
	}
	want.Limits.MaxBindings, want.Limits.AcceptRate = 500, 10
	want.Limits.KeepaliveIdle, want.Limits.UnackedTimeout = second, 3*second
	want.Limits.MaxSources, want.Limits.MaxBans = 5000, 500
	want.Transaction.T1, want.Transaction.TimerB = second/4, 16*second
	want.Transaction.InviteFailover, want.Transaction.RequestFailover = second, 2*second
	want.Limits.MaxMessage, want.Limits.WriteQueue, want.Limits.ReceiveBuffer, want.Limits.QueueDelay = 64000, 256<<10, 16<<20, 0
	want.Limits.Emergency = []string{"sos", "112", "urn:service:sos"}
	want.Resolver.Servers, want.Resolver.HostsFile = []string{"192.0.2.53:53", "[2001:db8::53]:5353"}, ""
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestAbsentAndEmptySectionsMeanTheirDefaults(t *testing.T) {
	c := load(t, small+"log:\nlimits: {}\ntransaction: { t1: }\nlisten: ~\n")
	want := Default()
	want.Pools = c.Pools
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v", c)
	}
	pool := DefaultPool()
	pool.Backends = []Backend{{Name: "10.0.0.1", Address: "sip:10.0.0.1", Weight: 1, State: "up"}}
	if !reflect.DeepEqual(c.Pools["pbx"], pool) {
		t.Errorf("got %+v", c.Pools["pbx"])
	}
}

func TestBooleansInEverySpelling(t *testing.T) {
	for word, want := range map[string]bool{
		"yes": true, "no": false, "'yes'": true, `"no"`: false, "true": true, "False": false, "YES": true, "on": true, "off": false,
	} {
		if c := load(t, small+"log: { replies: "+word+" }\n"); c.Log.Replies != want {
			t.Errorf("%s: got %v", word, c.Log.Replies)
		}
	}
}

func TestLayersLieOverEachOther(t *testing.T) {
	const file = `
log: { level: info, format: json }
pools:
  Pbx:
    backends:
      - sip:10.0.0.1
      - { name: two, address: "sip:10.0.0.2", weight: 7 }
`
	cases := []struct {
		name string
		env  []string
		sets []string
		want func(c *Config) bool
	}{
		{"file over default", nil, nil, func(c *Config) bool { return c.Log.Level == "info" && c.Log.Output == "stdout" }},
		{"environment over file", []string{"SIPWARD_LOG__LEVEL=debug"}, nil, func(c *Config) bool {
			return c.Log.Level == "debug" && c.Log.Format == "json"
		}},
		{"flag over environment", []string{"SIPWARD_LOG__LEVEL=debug"}, []string{"log.level=error"}, func(c *Config) bool {
			return c.Log.Level == "error"
		}},
		{"the last flag wins", nil, []string{"log.level=error", "log.level=notice"}, func(c *Config) bool { return c.Log.Level == "notice" }},
		{"a value with equals signs", nil, []string{"server_id=a=b"}, func(c *Config) bool { return c.ServerID == "a=b" }},
		{"an empty value", nil, []string{"resolver.hosts_file="}, func(c *Config) bool { return c.Resolver.HostsFile == "" }},
		{"a list with commas", []string{"SIPWARD_LISTEN=udp:127.0.0.1:5062, tcp:[::1]:5062"}, nil, func(c *Config) bool {
			return len(c.Listen) == 2 && c.Listen[1].Bind == netip.MustParseAddrPort("[::1]:5062")
		}},
		{"a list as YAML", nil, []string{`listen=[{address: "udp:127.0.0.1:5062", advertise: a.example}]`}, func(c *Config) bool {
			return len(c.Listen) == 1 && c.Listen[0].Advertise == "a.example"
		}},
		{"a list of bracketed addresses", nil, []string{`resolver.servers=[2001:db8::53]:53,[2001:db8::54]:53`}, func(c *Config) bool {
			return len(c.Resolver.Servers) == 2
		}},
		{"an element of a list", []string{"SIPWARD_POOLS__PBX__BACKENDS__1__WEIGHT=9"}, []string{"pools.pbx.backends.0.max_cps=5"}, func(c *Config) bool {
			b := c.Pools["Pbx"].Backends
			return b[0].MaxCPS == 5 && b[0].Address == "sip:10.0.0.1" && b[1].Weight == 9 && b[1].Name == "two"
		}},
		{"one more element", nil, []string{"pools.pbx.backends.2=sip:10.0.0.3", "listen.0=udp:127.0.0.1:0"}, func(c *Config) bool {
			return len(c.Pools["Pbx"].Backends) == 3 && len(c.Listen) == 1
		}},
		{"a whole map, then one key of it", []string{"SIPWARD_LOG__LEVEL=error", "SIPWARD_LOG={level: debug, replies: no}"}, nil, func(c *Config) bool {
			return c.Log == Log{Format: "json", Level: "error", Output: "stdout", Requests: true}
		}},
		{"names made up by Kubernetes are not keys", []string{
			"SIPWARD_PORT=tcp://10.1.2.3:5060", "SIPWARD_PORT_5060_UDP_ADDR=x", "SIPWARD_SERVICE_HOST=x", "OTHER=1", "SIPWARD_NOVALUE",
		}, nil, func(c *Config) bool { return true }},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c, _, err := Load(Options{Path: "f.yaml", Data: []byte(file), Env: tc.env, Sets: tc.sets, Addresses: host})
			if err != nil {
				t.Fatal(err)
			}
			if !tc.want(c) {
				t.Errorf("got %+v", c)
			}
		})
	}
}

func TestProblemsOfTheUpperLayersNameTheirSource(t *testing.T) {
	const file = "pools: { pbx: { backends: [ { name: a, address: \"sip:10.0.0.1\" } ] } }\nlog: { level: x }\n"
	_, _, err := Load(Options{Path: "f.yaml", Data: []byte(file), Addresses: host, Env: []string{
		"SIPWARD_LGO__LEVEL=hunter2", "SIPWARD_LOG__FORMAT=xml", "SIPWARD_LIMITS={max_message: 1, nope: 2}", "SIPWARD_RESOLVER={",
		"SIPWARD_POOLS__PBX__BACKENDS__A__WEIGHT=1", "SIPWARD_POOLS__PBX__BACKENDS__0__WEIGHT=0",
		"SIPWARD_A__A__A__A__A__A__A__A__A__A__A__A__A__A__A__A__A__A=1",
	}, Sets: []string{
		"nonsense", "=x", "pools.pbx.backends.7.weight=1", "routes.0.pool=pxb", "transaction.t1=soon", "listen=[a", "listen.0.advertise=0.0.0.0",
		"evil\r\nname=1", "pools.pbx.policy.deep=1",
	}})
	if err == nil {
		t.Fatal("no error")
	}
	golden(t, "testdata/layers.golden", err.Error()+"\n")
}

func TestValuesOfUnknownKeysAreNotEchoed(t *testing.T) {
	_, _, err := Load(Options{
		Path: "f.yaml", Data: []byte(small + "api_token: hunter2\nadmin: { token: hunter2 }\n"),
		Env: []string{"SIPWARD_TOKEN=hunter2"}, Sets: []string{"secret=hunter2"},
	})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func TestTheSecretIsNotEchoed(t *testing.T) {
	for _, value := range []string{"hunter2", "[hunter2]", "{a: hunter2}", "!!int hunter2"} {
		_, _, err := Load(Options{Path: "f.yaml", Data: []byte(small + "secret: " + value + "\n"), Sets: []string{"secret.x=hunter2", "aliases=a b"}})
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v", err)
		}
	}
	_, _, err := Load(Options{Path: "f.yaml", Data: []byte(small), Sets: []string{"secret=hunter2"}})
	if err == nil || !strings.HasPrefix(err.Error(), "--set secret: secret: want 16 to") {
		t.Errorf("got %v", err)
	}
	c := load(t, small+"secret: hunter2hunter2hunter2\n")
	if strings.Contains(Text(c), "hunter2") {
		t.Error("shown by Text")
	}
	if _, restart := Diff(load(t, small), c); !slices.Equal(restart, []string{"secret"}) {
		t.Errorf("got %v", restart)
	}
}

func TestLoadBoundsTheFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "big.yaml")
	if err := os.WriteFile(name, []byte(strings.Repeat("#", MaxFile+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(Options{Path: name}); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
	if _, _, err := Load(Options{Path: name + ".absent"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, _, err := Load(Options{Path: t.TempDir()}); err == nil {
		t.Error("a folder was read")
	}
}

func TestReportsAreBounded(t *testing.T) {
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, "key%d: 1\n", i)
	}
	_, _, err := Load(Options{Path: "f.yaml", Data: []byte(b.String())})
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != maxProblems {
		t.Errorf("got %d problems", len(problems))
	}
	_, _, err = Load(Options{Path: "f.yaml", Data: []byte(strings.Repeat("k", 5000) + ": 1\n" + small + "server_id: [" + strings.Repeat("1,", 20000) + "1]\n")})
	if err == nil || len(err.Error()) > 2000 {
		t.Errorf("got %.200v", err)
	}
	_, _, err = Load(Options{Path: "f.yaml", Data: []byte("listen: [" + strings.Repeat("a,", 20000) + "a]\n" + small)})
	if err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %.200v", err)
	}
}

func TestCertificatesAreReadWhenLoading(t *testing.T) {
	dir := t.TempDir()
	cert, key, wrong := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "wrong.pem")
	writePair(t, cert, key)
	if err := os.WriteFile(wrong, []byte("-----BEGIN NOTHING-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := func(cert, key, ca string) []byte {
		return fmt.Appendf(nil, "listen: [ { address: \"tls:127.0.0.1:5061\", certificate: %q, key: %q } ]\n"+
			"pools: { pbx: { tls: { ca: %q }, backends: [ sip:10.0.0.1 ] } }\n", cert, key, ca)
	}
	c, _, err := Load(Options{Path: "f.yaml", Data: text(cert, key, cert), Addresses: host})
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen[0].Certificate != cert || c.Listen[0].Proto != "tls" {
		t.Errorf("got %+v", c.Listen[0])
	}
	for _, tc := range []struct{ cert, key, ca, want string }{
		{cert, wrong, cert, "failed to find any PEM data"},
		{wrong, key, cert, "failed to find"},
		{cert, "", cert, "needs key"},
		{"", key, cert, "needs certificate"},
		{cert, key, wrong, "no certificate in"},
		{cert, filepath.Join(dir, "absent"), cert, "cannot read"},
	} {
		if _, _, err := Load(Options{Path: "f.yaml", Data: text(tc.cert, tc.key, tc.ca), Addresses: host}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("want %q, got %v", tc.want, err)
		}
	}
}

// writePair makes a certificate of its own signature.
func writePair(t *testing.T, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)},
		&x509.Certificate{}, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWildcardWarnsOnlyWhereItMatters(t *testing.T) {
	one := host[:2]
	for _, tc := range []struct {
		name, yaml string
		host       []netip.Addr
		want       int
	}{
		{"several addresses", "", host, 1},
		{"one address", "", one, 0},
		{"advertise", "advertise: 203.0.113.5\n", host, 0},
		{"advertise of one listener", "listen: [ { address: \"udp:0.0.0.0:5060\", advertise: 203.0.113.5 }, \"tcp:0.0.0.0:5060\" ]\n", host, 1},
		{"fixed address", "listen: [ \"udp:192.0.2.1:5060\" ]\n", host, 0},
	} {
		_, warnings, err := Load(Options{Path: "f.yaml", Data: []byte(small + tc.yaml), Addresses: tc.host})
		if err != nil || len(warnings) != tc.want {
			t.Errorf("%s: %v %v", tc.name, warnings, err)
		}
	}
}

func TestLoadWithoutOptionsAsksTheSystem(t *testing.T) {
	_, _, err := Load(Options{})
	if err == nil || !strings.Contains(err.Error(), "configuration: pools: no pool") {
		t.Errorf("got %v", err)
	}
}

func TestProblemAsJSON(t *testing.T) {
	got, err := json.Marshal(Problems{{Source: "f.yaml", Line: 1, Col: 2, Key: "a", Text: "b"}, {Source: "--set x", Text: "c", Warning: true}})
	want := `[{"severity":"error","source":"f.yaml","line":1,"col":2,"key":"a","text":"b"},{"severity":"warning","source":"--set x","text":"c"}]`
	if err != nil || string(got) != want {
		t.Errorf("got %s %v", got, err)
	}
}

func TestHostPort(t *testing.T) {
	for in, want := range map[string]string{
		"203.0.113.5": "203.0.113.5 0", "203.0.113.5:5080": "203.0.113.5 5080", "edge.example.org": "edge.example.org 0",
		"edge.example.org:1": "edge.example.org 1", "2001:db8::1": "2001:db8::1 0", "[2001:db8::1]": "2001:db8::1 0",
		"[2001:db8::1]:5080": "2001:db8::1 5080", "::ffff:192.0.2.1": "192.0.2.1 0", "under_score": "under_score 0",
		"": "", "::": "", "224.0.0.1": "", "0.0.0.0:5060": "", "a:0": "", "a:65536": "", "a:x": "", "a:+1": "", "-a": "", "a..b": "",
		"[::1": "", "[::1]x": "", "10.0.0": "", "a b": "", "a\r\nb": "", "[a]:1": "a 1",
	} {
		h, p, err := HostPort(in)
		got := fmt.Sprint(h, " ", p)
		if err != nil {
			got = ""
		}
		if got != want {
			t.Errorf("%q: got %q want %q (%v)", in, got, want, err)
		}
	}
}

func TestBackendURI(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.10": "sip:10.0.0.10", "10.0.0.10:5060": "sip:10.0.0.10:5060", " pbx.example.org;transport=TCP": "sip:pbx.example.org;transport=TCP",
		"2001:db8::1": "sip:[2001:db8::1]", "[2001:db8::1]:5060": "sip:[2001:db8::1]:5060", "SIP:a.example": "SIP:a.example",
		"sips:a.example;transport=tls": "sips:a.example;transport=tls", "": "", "http://x": "", "sip:[::1%eth0]x": "",
	} {
		got, err := BackendURI(in)
		if err != nil {
			got = ""
		}
		if got != want {
			t.Errorf("%q: got %q want %q (%v)", in, got, want, err)
		}
	}
}

func TestDurations(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"0": 0, "0.5": 500 * time.Millisecond, "10": 10 * time.Second, "500ms": 500 * time.Millisecond, "2h": 2 * time.Hour,
		"1h30m": 90 * time.Minute, " 3 ": 3 * time.Second, "1e3": 1000 * time.Second,
		"-1": -1, "NaN": -1, "Inf": -1, "1e300": -1, "-5s": -1, "": -1, "1d": -1, "2000000h": -1,
	} {
		d, err := ParseDuration(in)
		if err != nil {
			d = -1
		}
		if d.D() != want {
			t.Errorf("%q: got %v want %v", in, d.D(), want)
		}
	}
	if text, err := json.Marshal(map[string]Duration{"a": second / 4}); err != nil || string(text) != `{"a":0.25}` {
		t.Errorf("got %s %v", text, err)
	}
}

func TestTimesThatFollowFromOthers(t *testing.T) {
	for _, tc := range []struct {
		name          string
		change        func(*Timers)
		interval, ack Duration
	}{
		{"defaults", func(*Timers) {}, 300 * second, 37 * second},
		{"no probing", func(t *Timers) { t.SessionTTL = 0 }, 0, 37 * second},
		{"fractions", func(t *Timers) { t.SessionTTL, t.SessionUpdateSegment = 3*second/2, 3 }, second / 2, 37 * second},
		{"one segment", func(t *Timers) { t.SessionUpdateSegment = 1 }, 536 * second, 37 * second},
		{"one short segment", func(t *Timers) { t.SessionTTL, t.SessionUpdateSegment = 8*second, 1 }, 2 * second, 37 * second},
		{"ACK time-out of its own", func(t *Timers) { t.AckTimeout = 40 * second }, 300 * second, 40 * second},
		{"the zero value", func(t *Timers) { *t = Timers{} }, 0, 37 * second},
	} {
		c := Default()
		tc.change(&c.Timers)
		if interval, ack := c.Timers.ProbeInterval(c.Transaction.T1), c.Timers.AckWait(c.Transaction.T1); interval != tc.interval || ack != tc.ack {
			t.Errorf("%s: got %s %s", tc.name, interval, ack)
		}
	}
}

func TestSuggestionsAreNear(t *testing.T) {
	for _, tc := range []struct{ word, want string }{
		{"advertize", "advertise"}, {"lsiten", "listen"}, {"LOG", "log"}, {"zzz", ""}, {strings.Repeat("x", 100), ""},
	} {
		if got := nearest(tc.word, fieldNames(reflect.TypeFor[Config]())); got != tc.want {
			t.Errorf("%s: got %q", tc.word, got)
		}
	}
}

func TestKeysAreDocumentedAndTheirBoundsHoldTheDefaults(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Keys() {
		if k.Doc == "" || !strings.HasSuffix(k.Doc, ".") {
			t.Errorf("%s: doc %q", k.Path, k.Doc)
		}
		if seen[k.Path] {
			t.Errorf("%s twice", k.Path)
		}
		seen[k.Path] = true
	}
	for _, path := range []string{"listen", "listen[].address", "pools.<name>.backends[].max_cps", "limits.max_message", "routes[].match.source"} {
		if !seen[path] {
			t.Errorf("%s is missing", path)
		}
	}
	i := slices.IndexFunc(Keys(), func(k Key) bool { return k.Path == "transaction.t1" })
	want := Key{
		Path: "transaction.t1", Type: "time", Default: "0.5", Bounds: "0.1 to 10 s (less with lab: yes)",
		Doc: "Estimate of the round-trip time; first retransmission interval over UDP.",
	}
	if Keys()[i] != want {
		t.Errorf("got %+v", Keys()[i])
	}
}

func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/problems/*.yaml", "testdata/*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data, "POOLS__PBX__BACKENDS__0__WEIGHT=2", "log.level=info")
		}
	}
	f.Add([]byte(small), "LISTEN=[a: b", "listen.0.address={")
	f.Fuzz(func(t *testing.T, data []byte, env, set string) {
		if strings.Contains(string(data), "/") || strings.Contains(env, "/") || strings.Contains(set, "/") {
			return // files of the machine are not part of the input
		}
		c, warnings, err := Load(Options{Path: "f.yaml", Data: data, Env: []string{EnvPrefix + env}, Sets: []string{set}, Addresses: host})
		if (c == nil) != (err != nil) {
			t.Fatal("want either a configuration or an error")
		}
		if err == nil {
			Text(c)
			if applied, restart := Diff(c, c); len(applied)+len(restart) > 0 {
				t.Fatal(applied, restart)
			}
		}
		var problems Problems
		if errors.As(err, &problems); len(problems) > maxProblems || len(warnings) > maxProblems {
			t.Fatal("unbounded report")
		}
		for _, p := range append(problems, warnings...) {
			if s := p.String(); strings.ContainsAny(s, "\r\n\x1b") || len(s) > 2000 {
				t.Fatalf("not one short line: %q", s)
			}
		}
	})
}
