package eventlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/outfile"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	time.Local = time.UTC
	goleak.VerifyTestMain(m)
}

func defaults() config.Log { return config.Default().Log }

func asJSON() config.Log {
	c := defaults()
	c.Format = "json"
	return c
}

// open opens a log into a buffer; read it after closed.
func open(t testing.TB, c config.Log) (l *Log, closed func() string) {
	t.Helper()
	var out bytes.Buffer
	l, err := Open(c, Options{Host: "lb1", PID: 812, Stdout: &out, Buffer: 128 << 10})
	if err != nil {
		t.Fatal(err)
	}
	return l, func() string {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		return out.String()
	}
}

var (
	request = Request{
		Method: []byte("REGISTER"), RURI: []byte("sip:sipwise.local"), From: []byte("sip:jdoe@sipwise.local"), To: []byte("sip:jdoe@sipwise.local"),
		CallID: []byte("364e4676776621034977934e055d19ea@127.0.0.1"), UA: []byte("SIP-UA 1.2.3.4"),
		Src: netip.MustParseAddrPort("10.10.1.10:5060"), Local: netip.MustParseAddrPort("127.0.0.1:5060"),
	}
	relay = Relay{
		Method: request.Method, RURI: request.RURI, From: request.From, To: request.To, CallID: request.CallID,
		Backend: "pbx1", Dst: netip.MustParseAddrPort("[2001:db8::10]:5060"),
	}
	reply = Reply{
		Status: 183, Reason: []byte("Session Progress"), Method: []byte("INVITE"), CallID: request.CallID,
		Src: netip.MustParseAddrPort("10.0.0.10:5060"), Side: "Inbound",
	}
	ended = End{
		Reason: "no_timer_call_duration", Duration: 2*time.Hour + 4*time.Millisecond + 999*time.Microsecond,
		From: []byte("sip:jdoe@sipwise.local"), To: []byte("sip:alice@sipwise.local"), CallID: request.CallID, By: "edge", Mode: "N",
	}
	hostile = []byte("a\r\nNov 19 00:35:56 lb1 sipward[1]: x IP=6.6.6.6 'q' \"d\" \\ \x1b[31m\t\x00\x7f\x80\xff\xc3\xa9 = \\...")
	long    = bytes.Repeat([]byte("0123456789"), 1000)
)

// everything writes each line there is, with harmless, absent and hostile values.
func everything(l *Log) {
	l.Request(&request)
	l.Relay(&relay)
	l.Reply(&reply)
	l.Request(&Request{})
	l.Relay(&Relay{})
	l.Reply(&Reply{})
	l.Request(&Request{
		Method: hostile, RURI: hostile, From: hostile, To: hostile, CallID: hostile, UA: hostile,
		Src: netip.MustParseAddrPort("[::1]:1"), Local: netip.MustParseAddrPort("[fe80::1%eth0]:5060"), UAIP: netip.MustParseAddr("192.0.2.9"),
	})
	l.Relay(&Relay{Method: hostile, RURI: []byte(null), From: hostile, To: hostile, CallID: hostile, Backend: "10.0.0.1:5060", Dst: request.Src})
	l.Reply(&Reply{Status: 486, Reason: hostile, Method: hostile, CallID: hostile, Src: request.Src, Side: "Outbound"})
	l.Request(&Request{Method: long, RURI: long, From: long, To: long, CallID: long, UA: long})
	l.Reply(&Reply{Status: 200, Reason: []byte("é" + strings.Repeat("é", 200)), Method: long, CallID: long})
	op := l.Op()
	op.Info().Str("listen", "udp:0.0.0.0:5060").Int("backends", 2).Dur("after", time.Second).Msg("ready")
	op.Warn().Str("backend", "pbx1").Str("reason", "no answer").Str("empty", "").Msg("backend is down")
	op.Error().Err(errors.New("it's\r\nbroken")).Interface("panic", map[string]int{"a": 1}).Msg("a=b 'quoted'\n")
	op.Log().Bool("ok", true).Msg("a notice")
	op.Debug().Msg("not to be seen")
	op.Info().Str("only", "fields").Send()
	op.Info().Bytes("hostile", hostile).Str("k=\n e", "v").Msg(string(hostile))
	l.Ended(&ended)
	l.Ended(&End{})
	l.Ended(&End{Reason: string(hostile), Duration: -time.Second, From: hostile, To: long, CallID: hostile, By: "caller", Mode: "R"})
	four, six := netip.MustParseAddr("1.2.3.4"), netip.MustParseAddr("2001:db8::7")
	l.Banned(&Ban{IP: four, CallID: []byte("304153-3624477113-19168@tedadg.testlab.local")})
	l.Banned(&Ban{IP: six})
	l.Banned(&Ban{IP: four, CallID: hostile})
	l.FailedAuth(&AuthFailure{User: "sipvicous@mydomain.com", UA: "sipvicous-client", IP: four, CallID: "313793-3624525116-589163@testlab.local"})
	l.FailedAuth(&AuthFailure{User: string(hostile), UA: "' IP='6.6.6.6' - R=<null> ID=1", IP: six, CallID: string(long)})
	l.Exceeded(&Exceeded{IP: four, Count: 61, Limit: 50, Window: 2 * time.Second, Why: `is backend "pbx1"`})
	l.Exceeded(&Exceeded{IP: six, Count: 4, Limit: 3, Window: 1500 * time.Millisecond, Why: "dos_ban_enable is observe"})
	l.Looped(&Loop{From: request.From, To: ended.To, Calls: 4, Src: request.Src})
	l.Looped(&Loop{From: hostile, Calls: 1000, Src: request.Src, Passes: true})
	l.FlowClosed(&FlowClosed{Proto: "tcp", Conn: 42, Src: request.Src, AoRs: []string{"alice@example.org", "bob@example.org"}, Total: 2})
	l.FlowClosed(&FlowClosed{})
	l.FlowClosed(&FlowClosed{
		Proto: "wss", Conn: 1 << 63, Src: netip.MustParseAddrPort("[2001:db8::7]:49152"), Total: 9,
		AoRs: []string{string(hostile), "a,b@example.org", string(long), "+3 more", "e@x", "not to be named"},
	})
	l.BadToken(&BadToken{Src: request.Src, Method: []byte("INVITE"), RURI: ended.To, CallID: request.CallID, Where: "route", Why: "its MAC is wrong"})
	l.BadToken(&BadToken{Src: request.Src, Method: hostile, RURI: long, CallID: hostile, Where: "request-uri", Why: "it comes from outside"})
	l.BadToken(&BadToken{})
}

func TestLinesAreAsPromised(t *testing.T) {
	for name, c := range map[string]config.Log{"kamailio": defaults(), "json": asJSON()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, closed := open(t, c)
				everything(l)
				got := closed()
				file := filepath.Join("testdata", name+".golden")
				if *update {
					if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if got != string(want) {
					t.Errorf("got:\n%s", got)
				}
			})
		})
	}
}

func TestEveryLineReadsBack(t *testing.T) {
	l, closed := open(t, defaults())
	everything(l)
	lines := strings.Split(strings.TrimSuffix(closed(), "\n"), "\n")
	var got []parsed
	for _, line := range lines {
		p, err := parse(line)
		if err != nil {
			t.Fatal(err)
		}
		if p.host != "lb1" || p.pid != "812" || p.script != "sipward" {
			t.Errorf("prefix of %q", line)
		}
		got = append(got, p)
	}
	if len(got) != 36 {
		t.Fatalf("%d lines", len(got))
	}
	for _, tc := range []struct {
		line              int
		event, name, want string
	}{
		{0, "request", "script", "sipward"},
		{0, "request", "M", "REGISTER"},
		{0, "request", "IP", "10.10.1.10:5060"},
		{0, "request", "local", "127.0.0.1:5060"},
		{0, "request", "UAIP", "10.10.1.10"},
		{0, "request", "UA", "SIP-UA 1.2.3.4"},
		{1, "relay", "D", "pbx1:[2001:db8::10]:5060"},
		{2, "reply", "S", "183"},
		{2, "reply", "reason", "Session Progress"},
		{3, "request", "ID", ""},
		{6, "request", "R", string(hostile)},
		{6, "request", "UA", string(hostile)},
		{6, "request", "IP", "[::1]:1"},
		{6, "request", "UAIP", "192.0.2.9"},
		{7, "relay", "R", null},
		{7, "relay", "D", "10.0.0.1:5060:10.10.1.10:5060"},
		{8, "reply", "reason", string(hostile)},
		{8, "reply", "IP", "10.10.1.10:5060"},
		{9, "request", "ID", string(long[:256]) + `\...`},
		{12, "operational", "reason", "no answer"},
		{12, "operational", "empty", ""},
		{13, "operational", "error", "it's\r\nbroken"},
		{13, "operational", "panic", `{"a":1}`},
		{13, "operational", "message", "a=b 'quoted'\n"},
		{16, "operational", "message", string(hostile)},
		{17, "ended", "C", "no_timer_call_duration"},
		{17, "ended", "D", "7200.004"},
		{17, "ended", "F", "sip:jdoe@sipwise.local"},
		{17, "ended", "T", "sip:alice@sipwise.local"},
		{17, "ended", "ID", string(request.CallID)},
		{18, "ended", "C", ""},
		{18, "ended", "D", "0.000"},
		{18, "ended", "ID", ""},
		{19, "ended", "C", string(hostile)},
		{19, "ended", "D", "0.000"},
		{19, "ended", "F", string(hostile)},
		{19, "ended", "T", string(long[:256]) + `\...`},
		{19, "ended", "ID", string(hostile)},
		{20, "ban", "IP", "1.2.3.4"},
		{20, "ban", "ID", "304153-3624477113-19168@tedadg.testlab.local"},
		{21, "ban", "IP", "2001:db8::7"},
		{21, "ban", "ID", ""},
		{22, "ban", "ID", string(hostile)},
		{23, "auth_failure", "user", "sipvicous@mydomain.com"},
		{23, "auth_failure", "UA", "sipvicous-client"},
		{23, "auth_failure", "IP", "1.2.3.4"},
		{24, "auth_failure", "user", string(hostile)},
		{24, "auth_failure", "UA", "' IP='6.6.6.6' - R=<null> ID=1"},
		{24, "auth_failure", "IP", "2001:db8::7"},
		{24, "auth_failure", "ID", string(long[:256]) + `\...`},
		{25, "not_banned", "why", `is backend "pbx1"`},
		{25, "not_banned", "count", "61"},
		{26, "not_banned", "window", "1.5"},
		{27, "maybe_loop", "calls", "4"},
		{28, "loop", "IP", "10.10.1.10:5060"},
		{28, "loop", "T", "sip:alice@sipwise.local"},
		{29, "maybe_loop", "F", string(hostile)},
		{29, "maybe_loop", "T", ""},
		{30, "flow_closed", "proto", "tcp"},
		{30, "flow_closed", "conid", "42"},
		{30, "flow_closed", "IP", "10.10.1.10:5060"},
		{30, "flow_closed", "AORS", "alice@example.org,bob@example.org"},
		{30, "flow_closed", "more", ""},
		{31, "flow_closed", "AORS", ""},
		{32, "flow_closed", "IP", "[2001:db8::7]:49152"},
		{32, "flow_closed", "AORS", string(hostile) + ",a,b@example.org," + string(long[:256]) + `\...,+3 more,e@x`},
		{32, "flow_closed", "more", "4"},
		{33, "bad_token", "where", "route"},
		{33, "bad_token", "why", "its MAC is wrong"},
		{33, "bad_token", "R", "sip:alice@sipwise.local"},
		{33, "bad_token", "IP", "10.10.1.10:5060"},
		{33, "bad_token", "ID", string(request.CallID)},
		{34, "bad_token", "M", string(hostile)},
		{34, "bad_token", "R", string(long[:256]) + `\...`},
		{34, "bad_token", "IP", "10.10.1.10:5060"},
		{34, "bad_token", "ID", string(hostile)},
		{35, "bad_token", "IP", ""},
	} {
		if tc.line == 16 && tc.name == "message" {
			continue // the encoder in between replaces what is not UTF-8
		}
		if p := got[tc.line]; p.event != tc.event || p.field(tc.name) != tc.want {
			t.Errorf("line %d: %s %s = %q, want %q", tc.line, p.event, tc.name, p.field(tc.name), tc.want)
		}
	}
	if levels := got[0].level + got[11].level + got[12].level + got[13].level + got[14].level; levels != "NOTICEINFOWARNINGERRORNOTICE" {
		t.Error(levels)
	}
}

func TestEveryJSONLineReadsBack(t *testing.T) {
	l, closed := open(t, asJSON())
	everything(l)
	d := json.NewDecoder(strings.NewReader(closed()))
	var got []map[string]any
	for {
		var m map[string]any
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if _, err := time.Parse(time.RFC3339, m["time"].(string)); err != nil {
			t.Error(err)
		}
		got = append(got, m)
	}
	if len(got) != 35 {
		t.Fatalf("%d lines", len(got))
	}
	valid := strings.ToValidUTF8(string(hostile[:bytes.IndexByte(hostile, 0x80)]), "")
	for _, tc := range []struct {
		line int
		name string
		want any
	}{
		{0, "event", "request"}, {0, "level", "notice"}, {0, "src", "10.10.1.10:5060"}, {0, "call_id", string(request.CallID)},
		{0, "ua_ip", "10.10.1.10"}, {0, "cut", nil}, {1, "event", "relay"}, {1, "backend", "pbx1"}, {1, "dst", "[2001:db8::10]:5060"},
		{2, "event", "reply"}, {2, "status", 183.0}, {2, "side", "Inbound"}, {9, "cut", true}, {9, "ua", string(long[:256])},
		{10, "reason", strings.Repeat("é", 128)}, {12, "level", "warning"}, {14, "level", "notice"}, {13, "level", "error"},
		{17, "event", "call_ended"}, {17, "level", "notice"}, {17, "reason", "no_timer_call_duration"}, {17, "duration", 7200.004},
		{17, "from", "sip:jdoe@sipwise.local"}, {17, "to", "sip:alice@sipwise.local"}, {17, "call_id", string(request.CallID)},
		{17, "ended_by", "edge"}, {17, "mode", "N"}, {17, "cut", nil}, {18, "duration", 0.0}, {18, "reason", ""}, {19, "cut", true},
		{29, "event", "flow_closed"}, {29, "level", "notice"}, {29, "proto", "tcp"}, {29, "conid", 42.0}, {29, "ip", "10.10.1.10"},
		{29, "port", 5060.0}, {29, "more", 0.0}, {29, "cut", nil}, {30, "ip", ""}, {31, "more", 4.0}, {31, "cut", true},
		{32, "event", "bad_token"}, {32, "level", "warning"}, {32, "where", "route"}, {32, "why", "its MAC is wrong"},
		{32, "method", "INVITE"}, {32, "ruri", "sip:alice@sipwise.local"}, {32, "ip", "10.10.1.10"}, {33, "cut", true},
	} {
		if got[tc.line][tc.name] != tc.want {
			t.Errorf("line %d: %s = %v", tc.line, tc.name, got[tc.line][tc.name])
		}
	}
	if ua := got[6]["ua"].(string); !strings.HasPrefix(ua, valid) {
		t.Errorf("got %q", ua)
	}
}

func TestClosedFlowNamesFewAndCountsAll(t *testing.T) {
	named := []string{"a@x", "b@x", "c@x", "d@x", "e@x", "f@x", "g@x"}
	for _, tc := range []struct {
		name  string
		aors  []string
		total int
		want  string
	}{
		{"none", nil, 0, "<null>"},
		{"counted only", nil, 3, "<null> +3 more"},
		{"one", named[:1], 1, "a@x"},
		{"without a total", named[:2], 0, "a@x,b@x"},
		{"as many as fit", named[:5], 5, "a@x,b@x,c@x,d@x,e@x"},
		{"one too many", named[:6], 6, "a@x,b@x,c@x,d@x,e@x +1 more"},
		{"first of many", named[:5], 10000, "a@x,b@x,c@x,d@x,e@x +9995 more"},
		{"a comma and a space", []string{"a,b c@x", "d"}, 2, `a\x2cb\x20c@x,d`},
		{"another field", []string{"a IP=6.6.6.6"}, 1, `a\x20IP=6.6.6.6`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, closed := open(t, defaults())
			l.FlowClosed(&FlowClosed{Proto: "tls", Conn: 7, Src: request.Src, AoRs: tc.aors, Total: tc.total})
			_, got, _ := strings.Cut(closed(), ": sipward: ")
			if want := "[TCP:CLOSED] tls connection closed conid=7 - IP=10.10.1.10:5060 AORS=" + tc.want + "\n"; got != want {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestLevelsAndSwitches(t *testing.T) {
	for _, tc := range []struct {
		name string
		c    config.Log
		want string
	}{
		{"notice", config.Log{Level: "notice", Requests: true, Replies: true}, "request relay reply ended flow_closed bad_token INFO WARNING ERROR NOTICE"},
		{"info", config.Log{Level: "info", Requests: true, Replies: true}, "request relay reply ended flow_closed bad_token INFO WARNING ERROR NOTICE"},
		{"debug", config.Log{Level: "debug", Requests: true, Replies: true}, "request relay reply ended flow_closed bad_token INFO WARNING ERROR NOTICE DEBUG"},
		{"warning", config.Log{Level: "warning", Requests: true, Replies: true}, "bad_token INFO WARNING ERROR"},
		{"error", config.Log{Level: "error", Requests: true, Replies: true}, "INFO ERROR"},
		{"requests off", config.Log{Replies: true}, "reply ended flow_closed bad_token INFO WARNING ERROR NOTICE"},
		{"replies off", config.Log{Requests: true}, "request relay ended flow_closed bad_token INFO WARNING ERROR NOTICE"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, closed := open(t, tc.c)
			l.Request(&request)
			l.Relay(&relay)
			l.Reply(&reply)
			l.Ended(&ended)
			l.FlowClosed(&FlowClosed{})
			l.BadToken(&BadToken{})
			l.Op().Info().Msg("start")
			l.Op().Warn().Msg("w")
			l.Op().Error().Msg("e")
			l.Op().Log().Msg("n")
			l.Op().Debug().Msg("d")
			var got []string
			for line := range strings.Lines(closed()) {
				p, err := parse(strings.TrimSuffix(line, "\n"))
				if err != nil {
					t.Fatal(err)
				}
				if p.event == "operational" {
					p.event = p.level
				}
				got = append(got, p.event)
			}
			if s := strings.Join(got, " "); s != tc.want {
				t.Errorf("got %s", s)
			}
		})
	}
}

func TestSettingsChangeWhileRunning(t *testing.T) {
	l, closed := open(t, defaults())
	file := filepath.Join(t.TempDir(), "log")
	if err := l.SetLevel("error"); err != nil {
		t.Fatal(err)
	}
	l.Request(&request)
	if err := l.SetLevel("loud"); err == nil {
		t.Error("a level that does not exist")
	}
	l.Flush()
	c := asJSON()
	c.Output = file
	if err := l.Configure(c); err != nil {
		t.Fatal(err)
	}
	l.Reply(&reply)
	for _, bad := range []config.Log{{Format: "xml"}, {Level: "x"}, {Output: filepath.Join(file, "below")}} {
		if err := l.Configure(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	l.Reply(&reply)
	if out := closed(); out != "" {
		t.Errorf("stdout got %q", out)
	}
	data, err := os.ReadFile(file)
	if err != nil || bytes.Count(data, []byte(`"event":"reply"`)) != 2 {
		t.Errorf("file got %q %v", data, err)
	}
	if err := l.Configure(defaults()); !errors.Is(err, outfile.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	for _, bad := range []config.Log{{Format: "xml"}, {Level: "x"}, {Output: t.TempDir()}} {
		if _, err := Open(bad, Options{}); err == nil {
			t.Errorf("%+v was opened", bad)
		}
	}
}

func TestTimeTextFollowsTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, closed := open(t, defaults())
		l.Reply(&reply)
		time.Sleep(999 * time.Millisecond)
		l.Reply(&reply)
		time.Sleep(time.Millisecond)
		l.Reply(&reply)
		var got []string
		for line := range strings.Lines(closed()) {
			got = append(got, line[:len(time.Stamp)])
		}
		if fmt.Sprint(got) != "[Jan  1 00:00:00 Jan  1 00:00:00 Jan  1 00:00:01]" {
			t.Error(got)
		}
	})
}

func FuzzALineIsOneLineAndReadsBack(f *testing.F) {
	f.Add([]byte("sip:a@b"), []byte("OK"), []byte("UA 'x'"))
	f.Add(hostile, hostile, hostile)
	f.Add(long, long, long)
	f.Add([]byte(null), []byte(`\`), []byte(`\'`))
	f.Add([]byte(`\x3cnull>`), []byte(` M=x`), []byte("' UA='"))
	f.Fuzz(func(t *testing.T, token, phrase, text []byte) {
		l, closed := open(t, defaults())
		l.Request(&Request{Method: token, RURI: token, From: token, To: token, CallID: token, UA: text})
		l.Relay(&Relay{Method: token, RURI: token, From: token, To: token, CallID: token, Backend: "pbx1"})
		l.Reply(&Reply{Status: 1, Reason: phrase, Method: token, CallID: token})
		l.Op().Info().Bytes("value", text).Msg(string(phrase))
		l.Ended(&End{Reason: "bye", From: token, To: token, CallID: token})
		l.FlowClosed(&FlowClosed{Proto: "tcp", AoRs: []string{string(token)}})
		l.BadToken(&BadToken{Method: token, RURI: token, CallID: token, Where: "route", Why: string(phrase)})
		lines := strings.Split(strings.TrimSuffix(closed(), "\n"), "\n")
		if len(lines) != 7 {
			t.Fatalf("%d lines", len(lines))
		}
		shown := func(v []byte) string {
			if len(v) > maxValue {
				return string(v[:maxValue]) + `\...`
			}
			return string(v)
		}
		for i, want := range []map[string]string{
			{"M": shown(token), "R": shown(token), "F": shown(token), "T": shown(token), "ID": shown(token), "UA": shown(text), "IP": ""},
			{"M": shown(token), "R": shown(token), "F": shown(token), "T": shown(token), "ID": shown(token)},
			{"M": shown(token), "ID": shown(token), "reason": shown(phrase), "S": "1"},
			{},
			{"C": "bye", "D": "0.000", "F": shown(token), "T": shown(token), "ID": shown(token)},
			{"proto": "tcp", "AORS": shown(token), "IP": "", "more": ""},
			{"M": shown(token), "R": shown(token), "ID": shown(token), "why": shown(phrase), "IP": ""},
		} {
			p, err := parse(lines[i])
			if err != nil {
				t.Fatal(err)
			}
			if event := []string{"request", "relay", "reply", "operational", "ended", "flow_closed", "bad_token"}[i]; p.event != event {
				t.Errorf("%q is %s, not %s", lines[i], p.event, event)
			}
			for name, value := range want {
				if p.field(name) != value {
					t.Errorf("%s = %q, want %q in %q", name, p.field(name), value, lines[i])
				}
			}
		}
	})
}
