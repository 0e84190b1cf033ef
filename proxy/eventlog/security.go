package eventlog

import (
	"net/netip"
	"strconv"
	"time"
)

// Ban is the decision to ban an address. It is a warning, and filters read it.
type Ban struct {
	IP     netip.Addr // of the socket
	CallID []byte     // of the message that was one too many, empty if it was no SIP
}

// AuthFailure is the ban of a user whose password was wrong too often in a row. It is
// a warning, and filters read it.
type AuthFailure struct {
	User   string // user@domain
	UA     string
	IP     netip.Addr // of the socket
	CallID string
}

// Exceeded is a source above a limit that is not banned for it.
type Exceeded struct {
	IP     netip.Addr
	Count  int
	Limit  int
	Window time.Duration
	Why    string // it is not: "is backend \"pbx1\"", "dos_ban_enable is observe"
}

// Loop is a call that was refused because there were too many of its kind within a
// second.
type Loop struct {
	From, To []byte // URIs
	Calls    int    // in the last second, this one included
	Src      netip.AddrPort
	Passes   bool // it was not refused after all: loop_enable is observe
}

// Banned writes the line of a ban. Nothing of b is kept.
func (l *Log) Banned(b *Ban) {
	s := l.settings.Load()
	if s.level < levelWarning {
		return
	}
	if s.isJSON {
		o := l.beginAt("warning", "ban")
		o.addr("ip", b.IP)
		o.bytes("call_id", b.CallID)
		o.end()
		return
	}
	p := lines.Get().(*line)
	defer lines.Put(p)
	t := l.begins(p.b[:0], "WARNING: ", "IP '")
	t = append(appendAddr(t, b.IP), "' is blocked and banned - R=<null>"...)
	l.ends(p, t, b.CallID)
}

// FailedAuth writes the line of a user's ban. Nothing of a is kept.
func (l *Log) FailedAuth(a *AuthFailure) {
	s := l.settings.Load()
	if s.level < levelWarning {
		return
	}
	if s.isJSON {
		o := l.beginAt("warning", "auth_failure")
		o.bytes("user", []byte(a.User))
		o.bytes("ua", []byte(a.UA))
		o.addr("ip", a.IP)
		o.bytes("call_id", []byte(a.CallID))
		o.end()
		return
	}
	p := lines.Get().(*line)
	defer lines.Put(p)
	t := l.begins(p.b[:0], "WARNING: ", "Consecutive Authentication Failure for '")
	t = append(appendText(t, []byte(a.User)), "' UA='"...)
	t = append(appendText(t, []byte(a.UA)), "' IP='"...)
	t = append(appendAddr(t, a.IP), "' - R=<null>"...)
	l.ends(p, t, []byte(a.CallID))
}

// Exceeded writes the line of a limit that nobody was banned for. It is a warning.
func (l *Log) Exceeded(x *Exceeded) {
	s := l.settings.Load()
	if s.level < levelWarning {
		return
	}
	if s.isJSON {
		o := l.beginAt("warning", "not_banned")
		o.addr("ip", x.IP)
		o.e.Int("count", x.Count).Int("limit", x.Limit).Float64("window", x.Window.Seconds()).Str("why", x.Why)
		o.end()
		return
	}
	p := lines.Get().(*line)
	defer lines.Put(p)
	t := l.begins(p.b[:0], "WARNING: ", "NOT banned: IP '")
	t = append(appendAddr(t, x.IP), "' exceeded "...)
	t = append(strconv.AppendInt(t, int64(x.Limit), 10), '/')
	t = strconv.AppendFloat(t, x.Window.Seconds(), 'f', -1, 64)
	t = strconv.AppendInt(append(t, "s ("...), int64(x.Count), 10)
	// The reason is ours, with names of the configuration in it.
	p.b = append(appendEscaped(append(t, ") but "...), x.Why, message, maxValue), '\n')
	_, _ = l.writer.Write(p.b)
}

// Looped writes the two lines of a refused call: how many there were, and who sent
// the last. Nothing of x is kept.
func (l *Log) Looped(x *Loop) {
	s := l.settings.Load()
	if s.isJSON {
		if s.level >= levelWarning {
			o := l.beginAt("warning", "loop")
			o.bytes("from", x.From)
			o.bytes("to", x.To)
			o.e.Int("calls", x.Calls).Bool("passes", x.Passes)
			o.addrPort("src", x.Src)
			o.end()
		}
		return
	}
	p := lines.Get().(*line)
	defer lines.Put(p)
	if s.level >= levelNotice {
		t := l.begins(p.b[:0], "NOTICE: ", "Possible loop detected on call ")
		t = append(appendPair(t, x), " ("...)
		p.b = append(strconv.AppendInt(t, int64(x.Calls), 10), " total calls during last second)\n"...)
		_, _ = l.writer.Write(p.b)
	}
	if s.level >= levelWarning && !x.Passes {
		t := l.begins(p.b[:0], "WARNING: ", "Loop detected on call ")
		t = append(appendPair(t, x), " (IP:"...)
		p.b = append(appendAddrPort(t, x.Src), ")\n"...)
		_, _ = l.writer.Write(p.b)
	}
}

func appendPair(b []byte, x *Loop) []byte {
	b = append(appendToken(b, x.From), " -> "...)
	return appendToken(b, x.To)
}
