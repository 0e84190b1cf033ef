package eventlog

import (
	"net/netip"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"
)

// timeFormat is RFC 3339 with milliseconds and the zone.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// event is one line on its way into JSON.
type event struct {
	e   *zerolog.Event
	cut bool
}

func (l *Log) begin(name string) event { return l.beginAt("notice", name) }

func (l *Log) beginAt(level, name string) event {
	var text [40]byte
	// Log has no level of its own: notice is none of zerolog's.
	e := l.events.Log().Bytes("time", time.Now().AppendFormat(text[:0], timeFormat))
	return event{e: e.Str("level", level).Str("event", name)}
}

func (o *event) bytes(key string, v []byte) { o.e.Bytes(key, o.bounded(v)) }

// bounded is what is written of a value.
func (o *event) bounded(v []byte) []byte {
	if len(v) <= maxValue {
		return v
	}
	n := maxValue
	for n > maxValue-utf8.UTFMax && !utf8.RuneStart(v[n]) {
		n-- // not through the middle of a rune
	}
	o.cut = true
	return v[:n]
}

func (o *event) addrPort(key string, a netip.AddrPort) {
	var text [64]byte
	b := text[:0]
	if a.Addr().IsValid() {
		b = appendAddrPort(b, a)
	}
	o.e.Bytes(key, b)
}

func (o *event) addr(key string, a netip.Addr) {
	var text [64]byte
	b := text[:0]
	if a.IsValid() {
		b = a.AppendTo(b)
	}
	o.e.Bytes(key, b)
}

func (o *event) end() {
	if o.cut {
		o.e.Bool("cut", true)
	}
	o.e.Send()
}

func (l *Log) requestJSON(r *Request, agent netip.Addr) {
	o := l.begin("request")
	o.bytes("method", r.Method)
	o.bytes("ruri", r.RURI)
	o.bytes("from", r.From)
	o.bytes("to", r.To)
	o.addrPort("src", r.Src)
	o.addrPort("local", r.Local)
	o.bytes("call_id", r.CallID)
	o.addr("ua_ip", agent)
	o.bytes("ua", r.UA)
	o.end()
}

func (l *Log) relayJSON(r *Relay) {
	o := l.begin("relay")
	o.bytes("method", r.Method)
	o.bytes("ruri", r.RURI)
	o.bytes("from", r.From)
	o.bytes("to", r.To)
	o.e.Str("backend", r.Backend)
	o.addrPort("dst", r.Dst)
	o.bytes("call_id", r.CallID)
	o.end()
}

func (l *Log) replyJSON(r *Reply) {
	o := l.begin("reply")
	o.e.Str("side", r.Side)
	o.e.Int("status", r.Status)
	o.bytes("reason", r.Reason)
	o.bytes("method", r.Method)
	o.addrPort("src", r.Src)
	o.bytes("call_id", r.CallID)
	o.end()
}

func (l *Log) endedJSON(e *End) {
	var text [32]byte
	o := l.begin("call_ended")
	o.e.Str("reason", e.Reason)
	o.e.RawJSON("duration", appendSeconds(text[:0], e.Duration))
	o.bytes("from", e.From)
	o.bytes("to", e.To)
	o.bytes("call_id", e.CallID)
	o.e.Str("ended_by", e.By)
	o.e.Str("mode", e.Mode)
	o.end()
}
