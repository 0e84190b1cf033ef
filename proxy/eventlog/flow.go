package eventlog

import (
	"net/netip"
	"strconv"

	"github.com/rs/zerolog"
)

// mostAoRs is how many addresses of record one line names.
const mostAoRs = 5

// FlowClosed is the end of a connection that phones were registered over.
type FlowClosed struct {
	Proto string         // tcp, tls, ws or wss
	Conn  uint64         // number of the connection
	Src   netip.AddrPort // of the phone as the socket saw it
	AoRs  []string       // user@host; those after the fifth are counted only
	Total int            // how many there are, where AoRs does not name them all
}

// named are the addresses of record that the line names, and how many more there are.
func (x *FlowClosed) named() (aors []string, more int) {
	aors = x.AoRs[:min(len(x.AoRs), mostAoRs)]
	return aors, max(len(x.AoRs), x.Total) - len(aors)
}

// BadToken is a request refused because of the flow token in it. It is a warning.
type BadToken struct {
	Src                  netip.AddrPort
	Method, RURI, CallID []byte // as received
	Where                string // of the token: route or request-uri
	Why                  string // it is refused: "its MAC is wrong"
}

// FlowClosed writes the line of a closed connection. It is a notice: phones go, and
// come back. Nothing of x is kept.
func (l *Log) FlowClosed(x *FlowClosed) {
	s := l.settings.Load()
	if s.level < levelNotice {
		return
	}
	if s.isJSON {
		l.flowClosedJSON(x)
		return
	}
	p := lines.Get().(*line)
	defer lines.Put(p)
	b := l.begins(p.b[:0], "NOTICE: ", "[TCP:CLOSED] ") // for each protocol, as Sipwise writes it
	b = append(appendToken(b, x.Proto), " connection closed conid="...)
	b = append(strconv.AppendUint(b, x.Conn, 10), " - IP="...)
	b = append(appendAddrPort(b, x.Src), " AORS="...)
	p.b = append(appendAoRs(b, x), '\n')
	_, _ = l.writer.Write(p.b)
}

// appendAoRs appends AOR,AOR +N more. Neither a comma nor a space of a name is
// written as such.
func appendAoRs(b []byte, x *FlowClosed) []byte {
	aors, more := x.named()
	if len(aors) == 0 {
		b = append(b, null...)
	}
	for i, aor := range aors {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendBare(b, aor, item)
	}
	if more > 0 {
		b = append(strconv.AppendInt(append(b, " +"...), int64(more), 10), " more"...)
	}
	return b
}

func (l *Log) flowClosedJSON(x *FlowClosed) {
	o := l.begin("flow_closed")
	o.e.Str("proto", x.Proto).Uint64("conid", x.Conn)
	o.addr("ip", x.Src.Addr())
	o.e.Uint16("port", x.Src.Port())
	aors, more := x.named()
	list := zerolog.Arr()
	for _, aor := range aors {
		list.Bytes(o.bounded([]byte(aor)))
	}
	o.e.Array("aors", list).Int("more", more)
	o.end()
}

// BadToken writes the line of a refused flow token. Nothing of x is kept.
func (l *Log) BadToken(x *BadToken) {
	s := l.settings.Load()
	if s.level < levelWarning {
		return
	}
	if s.isJSON {
		o := l.beginAt("warning", "bad_token")
		o.e.Str("where", x.Where).Str("why", x.Why)
		o.bytes("method", x.Method)
		o.bytes("ruri", x.RURI)
		o.addr("ip", x.Src.Addr())
		o.e.Uint16("port", x.Src.Port())
		o.bytes("call_id", x.CallID)
		o.end()
		return
	}
	p := lines.Get().(*line)
	defer lines.Put(p)
	b := l.begins(p.b[:0], "WARNING: ", "Flow token in ")
	b = append(appendToken(b, x.Where), " is refused: "...)
	b = append(appendEscaped(b, x.Why, reason, maxValue), " - M="...)
	b = append(appendToken(b, x.Method), " R="...)
	b = append(appendToken(b, x.RURI), " IP="...)
	l.ends(p, appendAddrPort(b, x.Src), x.CallID)
}
