package eventlog

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

// The grammar of the lines, as a filter would write it down.
var (
	prefixPattern  = regexp.MustCompile(`^([A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d) (\S+) sipward\[(\d+)\]: ([A-Z]+): (\S+): (.*)$`)
	requestPattern = regexp.MustCompile(`^New request on (\S+) - M=(\S+) R=(\S+) F=(\S+) T=(\S+) IP=(\S+) \((\S+)\) ID=(\S+) UAIP=(\S+) UA='([^']*(?:\\'[^']*)*)'$`)
	relayPattern   = regexp.MustCompile(`^Relaying request - M=(\S+) R=(\S+) F=(\S+) T=(\S+) D=(\S+) ID=(\S+)$`)
	replyPattern   = regexp.MustCompile(`^Reply from (\S+) - S=(-?\d+) - ([^=]*) M=(\S+) IP=(\S+) ID=(\S+)$`)
	endedPattern   = regexp.MustCompile(`^Call ended - C=(\S+) D=(\d+\.\d{3}) F=(\S+) T=(\S+) ID=(\S+)$`)
	banPattern     = regexp.MustCompile(`^IP '([0-9a-f.:]+)' is blocked and banned - R=<null> ID=(\S+)$`)
	failurePattern = regexp.MustCompile(`^Consecutive Authentication Failure for '((?:[^'\\]|\\.)*)' UA='((?:[^'\\]|\\.)*)' IP='([0-9a-f.:]+)' - R=<null> ID=(\S+)$`)
	sparedPattern  = regexp.MustCompile(`^NOT banned: IP '([0-9a-f.:]+)' exceeded (\d+)/([0-9.]+)s \((\d+)\) but (.*)$`)
	maybePattern   = regexp.MustCompile(`^Possible loop detected on call (\S+) -> (\S+) \((\d+) total calls during last second\)$`)
	loopPattern    = regexp.MustCompile(`^Loop detected on call (\S+) -> (\S+) \(IP:(\S+)\)$`)
	closedPattern  = regexp.MustCompile(`^\[TCP:CLOSED\] (\S+) connection closed conid=(\d+) - IP=(\S+) AORS=(\S*)(?: \+(\d+) more)?$`)
	tokenPattern   = regexp.MustCompile(`^Flow token in (\S+) is refused: ([^=]*) - M=(\S+) R=(\S+) IP=(\S+) ID=(\S+)$`)
	fieldPattern   = regexp.MustCompile(` ([^ =]+)=('(?:[^'\\]|\\.)*'|[^ ]+)`)
)

// parsed is one line read back.
type parsed struct {
	time, host, pid, level, script string
	event                          string
	fields                         []string // names and values in turn
}

// parse reads one line of the format kamailio, without its line feed.
func parse(line string) (parsed, error) {
	m := prefixPattern.FindStringSubmatch(line)
	if m == nil {
		return parsed{}, fmt.Errorf("no prefix: %q", line)
	}
	p := parsed{time: m[1], host: m[2], pid: m[3], level: m[4], script: m[5]}
	var names []string
	var values []string
	switch {
	case requestPattern.MatchString(m[6]):
		p.event, names, values = "request", []string{"script", "M", "R", "F", "T", "IP", "local", "ID", "UAIP", "UA"}, requestPattern.FindStringSubmatch(m[6])[1:]
	case relayPattern.MatchString(m[6]):
		p.event, names, values = "relay", []string{"M", "R", "F", "T", "D", "ID"}, relayPattern.FindStringSubmatch(m[6])[1:]
	case replyPattern.MatchString(m[6]):
		p.event, names, values = "reply", []string{"side", "S", "reason", "M", "IP", "ID"}, replyPattern.FindStringSubmatch(m[6])[1:]
	case endedPattern.MatchString(m[6]):
		p.event, names, values = "ended", []string{"C", "D", "F", "T", "ID"}, endedPattern.FindStringSubmatch(m[6])[1:]
	case banPattern.MatchString(m[6]):
		p.event, names, values = "ban", []string{"IP", "ID"}, banPattern.FindStringSubmatch(m[6])[1:]
	case failurePattern.MatchString(m[6]):
		p.event, names, values = "auth_failure", []string{"user", "UA", "IP", "ID"}, failurePattern.FindStringSubmatch(m[6])[1:]
	case sparedPattern.MatchString(m[6]):
		p.event, names, values = "not_banned", []string{"IP", "limit", "window", "count", "why"}, sparedPattern.FindStringSubmatch(m[6])[1:]
	case maybePattern.MatchString(m[6]):
		p.event, names, values = "maybe_loop", []string{"F", "T", "calls"}, maybePattern.FindStringSubmatch(m[6])[1:]
	case loopPattern.MatchString(m[6]):
		p.event, names, values = "loop", []string{"F", "T", "IP"}, loopPattern.FindStringSubmatch(m[6])[1:]
	case closedPattern.MatchString(m[6]):
		p.event, names, values = "flow_closed", []string{"proto", "conid", "IP", "AORS", "more"}, closedPattern.FindStringSubmatch(m[6])[1:]
	case tokenPattern.MatchString(m[6]):
		p.event, names, values = "bad_token", []string{"where", "why", "M", "R", "IP", "ID"}, tokenPattern.FindStringSubmatch(m[6])[1:]
	default:
		p.event = "operational"
		text := m[6]
		if at := fieldPattern.FindStringIndex(text); at != nil {
			text = text[:at[0]]
		}
		names, values = append(names, "message"), append(values, text)
		for _, f := range fieldPattern.FindAllStringSubmatch(m[6], -1) {
			names, values = append(names, f[1]), append(values, strings.TrimSuffix(strings.TrimPrefix(f[2], "'"), "'"))
		}
	}
	for i, name := range names {
		if values[i] == null && name != "reason" && name != "why" && name != "UA" && p.event != "operational" {
			values[i] = ""
		}
		value, err := unescape(values[i])
		if name == "AORS" {
			value, err = unescapeList(values[i])
		}
		if err != nil {
			return p, fmt.Errorf("%s: %w in %q", name, err, line)
		}
		p.fields = append(p.fields, name, value)
	}
	return p, nil
}

// unescapeList undoes the escaping of values between commas.
func unescapeList(s string) (string, error) {
	list := strings.Split(s, ",")
	for i := range list {
		var err error
		if list[i], err = unescape(list[i]); err != nil {
			return "", err
		}
	}
	return strings.Join(list, ","), nil
}

// field returns the value of a field.
func (p parsed) field(name string) string {
	for i := 0; i < len(p.fields); i += 2 {
		if p.fields[i] == name {
			return p.fields[i+1]
		}
	}
	return "no field " + name
}

// unescape undoes the escaping. A value that was cut ends in \... and keeps this mark.
func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c < ' ' || c >= 0x7f {
			return "", fmt.Errorf("raw byte %#x", c)
		}
		if c != '\\' {
			b.WriteByte(c)
			continue
		}
		rest := s[i+1:]
		switch {
		case strings.HasPrefix(rest, "..."):
			if rest != "..." {
				return "", fmt.Errorf("cut in the middle")
			}
			b.WriteString(`\...`)
			i += 3
		case strings.HasPrefix(rest, "x") && len(rest) >= 3:
			raw, err := hex.DecodeString(rest[1:3])
			if err != nil {
				return "", err
			}
			b.Write(raw)
			i += 3
		default:
			at := strings.IndexByte(`\'"rnt`, append([]byte(rest), 0)[0])
			if at < 0 {
				return "", fmt.Errorf("unknown escape at %d", i)
			}
			b.WriteByte("\\'\"\r\n\t"[at])
			i++
		}
	}
	return b.String(), nil
}
