package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/eventlog"
)

// forged is the address that an attacker wants to be banned in his place.
const forged = "203.0.113.66"

// injections are values that an attacker can write into a user name, a User-Agent, a From or a Call-ID. Each tries to
// make a line, or a part of one, that names forged as the sender.
var injections = []string{
	forged,
	"IP='" + forged + "'",
	"' IP='" + forged + "' - R=<null> ID=x",
	"x' UA='' IP='" + forged + "' - R=<null> ID=x",
	"x' UA='y' IP='" + forged + "' - R=<null> ID=x\n",
	"\\' IP='" + forged + "' - R=<null> ID=x",
	"\\\\' IP='" + forged + "' - R=<null> ID=x",
	"\\",
	"x\\",
	"\" IP='" + forged + "' - R=<null> ID=x",
	"x\r\nNov 19 00:35:56 host sipward[123]: WARNING: sipward: IP '" + forged + "' is blocked and banned - R=<null> ID=x",
	"x\nNov 19 00:35:56 host sipward[123]: WARNING: sipward: Consecutive Authentication Failure for 'a@b' UA='c' IP='" + forged + "' - R=<null> ID=x\n",
	"x\x0bNov 19 00:35:56 host sipward[123]: WARNING: sipward: IP '" + forged + "' is blocked and banned - R=<null> ID=x",
	"x\u2028IP '" + forged + "' is blocked and banned - R=<null> ID=x",
	"x\u0085IP '" + forged + "' is blocked and banned - R=<null> ID=x",
	"x\x00' IP='" + forged + "' - R=<null> ID=x",
	": IP '" + forged + "' is blocked and banned - R=<null> ID=x",
	"sipward[123]: WARNING: sipward: IP '" + forged + "' is blocked and banned - R=<null> ID=x",
	"Consecutive Authentication Failure for 'a@b' UA='c' IP='" + forged + "' - R=<null> ID=x",
	"Nov 19 00:35:56 ' IP='" + forged + "' - R=<null> ID=x",
	"2026-11-19T00:35:56Z 1795048556 19/Nov/2026:00:35:56 +0000 " + forged,
	"[" + forged + "]",
	"x@" + forged,
	strings.Repeat("'", 300) + " IP='" + forged + "' - R=<null> ID=x",
	strings.Repeat("x", 255) + "' IP='" + forged + "' - R=<null> ID=x",
	strings.Repeat("x", 256) + "\\",
	strings.Repeat("x", 254) + "'\\' IP='" + forged + "'",
	"ü' IP='" + forged + "' - R=<null> ID=x",
	"\x1b[2K\rIP '" + forged + "' is blocked and banned - R=<null> ID=x",
	"", " ", "'", "''", "' '", "%(host)s <HOST> <ADDR> " + forged,
}

// senders are the addresses that the lines are about.
var senders = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1:2::7")}

// logged is what the log has after some events.
func logged(t *testing.T, events func(*eventlog.Log)) string {
	t.Helper()
	var out bytes.Buffer
	c := config.Default().Log
	c.Level = "debug"
	log, err := eventlog.Open(c, eventlog.Options{Host: "host", PID: 123, Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	events(log)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// ofBans are lines of banned addresses, ofAuth those of failed authentication, one for each sender and injection;
// others are lines that name no one to ban.
func ofBans(l *eventlog.Log) {
	for _, value := range injections {
		for _, a := range senders {
			l.Banned(&eventlog.Ban{IP: a, CallID: []byte(value)})
		}
	}
}

func ofAuth(l *eventlog.Log) {
	for i, value := range injections {
		for _, a := range senders {
			x := eventlog.AuthFailure{User: "alice@example.org", UA: "phone", IP: a, CallID: "x@host"}
			switch i % 4 {
			case 0:
				x.User = value
			case 1:
				x.UA = value
			case 2:
				x.CallID = value
			default:
				x.User, x.UA, x.CallID = value, value, value
			}
			l.FailedAuth(&x)
			l.FailedAuth(&eventlog.AuthFailure{User: value, UA: value, IP: a, CallID: value})
			l.FailedAuth(&eventlog.AuthFailure{User: value, UA: "phone", IP: a})
		}
	}
}

func others(l *eventlog.Log) {
	src := netip.AddrPortFrom(senders[0], 5060)
	for _, text := range injections {
		v := []byte(text)
		l.Request(&eventlog.Request{Method: v, RURI: v, From: v, To: v, CallID: v, UA: v, Src: src, Local: src})
		l.Relay(&eventlog.Relay{Method: v, RURI: v, From: v, To: v, CallID: v, Backend: text, Dst: src})
		l.Reply(&eventlog.Reply{Status: 401, Reason: v, Method: v, CallID: v, Src: src, Side: "Inbound"})
		l.Ended(&eventlog.End{Reason: "bye", From: v, To: v, CallID: v})
		l.Looped(&eventlog.Loop{From: v, To: v, Calls: 4, Src: src})
		l.Exceeded(&eventlog.Exceeded{IP: senders[0], Count: 61, Limit: 50, Why: "is backend " + text})
		l.Op().Warn().Str("reason", text).Str(text, text).Msg(text)
	}
}

// TestFail2BanReadsTheSender: of every line that it should read, whatever the values in it say, and of no other.
func TestFail2BanReadsTheSender(t *testing.T) {
	program, err := exec.LookPath("fail2ban-regex")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("fail2ban-regex is missing: .ci/run installs the package fail2ban")
		}
		t.Skip("fail2ban-regex is not installed (Debian: fail2ban)")
	}
	bans, auth, rest := logged(t, ofBans), logged(t, ofAuth), logged(t, others)
	perBan, perAuth := len(injections), 3*len(injections)
	// What a journal or syslog puts in front of a line.
	carried := regexp.MustCompile(`(?m)^(... .. ..:..:..)`).ReplaceAllString(bans+auth+rest, "$1 vm sipward[9]: $1")
	mistakes := strings.NewReplacer("WARNING", "NOTICE", "sipward[123]", "sshd[123]").Replace(bans + auth)
	for _, c := range []struct {
		name, mode, text string
		each             int // lines that count, of each sender
	}{
		{"banned addresses", "normal", bans + auth + rest, perBan},
		{"failed authentication", "auth", bans + auth + rest, perAuth},
		{"both", "all", bans + auth + rest, perBan + perAuth},
		{"both, from a journal", "all", carried, perBan + perAuth},
		{"neither", "all", rest, 0},
		{"not ours", "all", mistakes, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			filter := path(t, "contrib/fail2ban/filter.d/sipward.conf") + "[mode=" + c.mode + "]"
			var errOut bytes.Buffer
			cmd := exec.CommandContext(t.Context(), program, "--out", "ip", file, filter)
			cmd.Stderr = &errOut
			out, err := cmd.Output()
			if err != nil && errOut.Len() > 0 {
				t.Fatalf("%v: %s%s", err, out, errOut.String())
			}
			found := make(map[string]int)
			for line := range strings.Lines(string(out)) {
				found[strings.TrimSpace(line)]++
			}
			want := make(map[string]int)
			for _, a := range senders {
				if c.each > 0 {
					want[a.String()] = c.each
				}
			}
			if fmt.Sprint(found) != fmt.Sprint(want) {
				t.Errorf("found %v, want %v", found, want)
			}
		})
	}
}

// TestFail2BanJailIsSound: its filter and modes exist, and it does nothing until it is enabled.
func TestFail2BanJailIsSound(t *testing.T) {
	jail := read(t, "contrib/fail2ban/jail.d/sipward.conf")
	filter := read(t, "contrib/fail2ban/filter.d/sipward.conf")
	for _, m := range regexp.MustCompile(`(?m)^filter\s*=\s*(\S+?)(?:\[mode=(\w+)\])?$`).FindAllStringSubmatch(jail, -1) {
		if m[1] != "sipward" || m[2] != "" && !strings.Contains(filter, "\n_re_"+m[2]+" = ") {
			t.Errorf("jail: %s", m[0])
		}
	}
	if strings.Count(jail, "enabled  = false") != strings.Count(jail, "\n[") {
		t.Error("a jail is enabled before anybody looked at it")
	}
}

// TestCrowdSecReadsTheSender: the patterns, as the expressions that they stand for, take the right values from every line.
func TestCrowdSecReadsTheSender(t *testing.T) {
	type node struct {
		Grok struct {
			Pattern string `yaml:"pattern"`
			ApplyOn string `yaml:"apply_on"`
			Statics []struct {
				Meta       string `yaml:"meta"`
				Value      string `yaml:"value"`
				Expression string `yaml:"expression"`
			} `yaml:"statics"`
		} `yaml:"grok"`
	}
	var parser struct {
		Name          string            `yaml:"name"`
		Filter        string            `yaml:"filter"`
		OnSuccess     string            `yaml:"onsuccess"`
		PatternSyntax map[string]string `yaml:"pattern_syntax"`
		Nodes         []node            `yaml:"nodes"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "contrib/crowdsec/parsers/s01-parse/sipward-logs.yaml")), &parser); err != nil {
		t.Fatal(err)
	}
	if parser.Name == "" || parser.OnSuccess != "next_stage" || parser.Filter != "evt.Parsed.program == 'sipward'" || len(parser.Nodes) != 2 {
		t.Errorf("%+v", parser)
	}
	// Those of grok's own patterns that are used.
	grok := map[string]string{"NOTSPACE": `\S+`, "IP": `(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f]*(?::[0-9A-Fa-f]*){2,7})`}
	for name, text := range parser.PatternSyntax {
		grok[name] = text
	}
	var kinds []string
	var compiled []*regexp.Regexp
	for _, n := range parser.Nodes {
		text := regexp.MustCompile(`%\{(\w+):(\w+)\}`).ReplaceAllStringFunc(n.Grok.Pattern, func(s string) string {
			name, field, _ := strings.Cut(strings.Trim(s, "%{}"), ":")
			if grok[name] == "" {
				t.Errorf("no pattern %s", name)
			}
			return "(?P<" + field + ">" + grok[name] + ")"
		})
		compiled = append(compiled, regexp.MustCompile(text))
		kinds = append(kinds, n.Grok.Statics[0].Value)
	}
	syslog := regexp.MustCompile(`^[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d (\S+) ([^\s\[]+)\[(\d+)\]: (.*)$`)
	count := func(text string) map[string]int {
		found := make(map[string]int)
		for line := range strings.Lines(text) {
			m := syslog.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
			if m == nil || m[2] != "sipward" {
				t.Errorf("no line of syslog: %s", line)
				continue
			}
			for i, re := range compiled {
				if m := re.FindStringSubmatch(m[4]); m != nil {
					found[kinds[i]+" "+m[re.SubexpIndex("source_ip")]]++
				}
			}
		}
		return found
	}
	want := make(map[string]int)
	for _, a := range senders {
		want["sipward_ban "+a.String()] = len(injections)
		want["sipward_failed_auth "+a.String()] = 3 * len(injections)
	}
	if found := count(logged(t, ofBans) + logged(t, ofAuth) + logged(t, others)); fmt.Sprint(found) != fmt.Sprint(want) {
		t.Errorf("found %v, want %v", found, want)
	}
	m := compiled[1].FindStringSubmatch("WARNING: sipward: Consecutive Authentication Failure for 'al\\'ice@example.org' UA='a phone' IP='192.0.2.1' - R=<null> ID=x@host")
	if !slices.Equal(m[1:], []string{"sipward", `al\'ice@example.org`, "a phone", "192.0.2.1", "x@host"}) {
		t.Errorf("%q", m)
	}

	d := yaml.NewDecoder(strings.NewReader(read(t, "contrib/crowdsec/scenarios/sipward-bf.yaml")))
	for n := 0; ; n++ {
		var s struct {
			Type     string         `yaml:"type"`
			Name     string         `yaml:"name"`
			Filter   string         `yaml:"filter"`
			GroupBy  string         `yaml:"groupby"`
			Distinct string         `yaml:"distinct"`
			Labels   map[string]any `yaml:"labels"`
		}
		err := d.Decode(&s)
		if errors.Is(err, io.EOF) && n == 2 {
			break
		}
		if err != nil {
			t.Fatalf("%d scenarios: %v", n, err)
		}
		kind := strings.TrimSuffix(strings.TrimPrefix(s.Filter, "evt.Meta.log_type == '"), "'")
		if !slices.Contains(kinds, kind) || s.GroupBy != "evt.Meta.source_ip" || s.Name == "" || s.Type == "" || s.Labels["remediation"] != true {
			t.Errorf("%+v", s)
		}
	}
}
