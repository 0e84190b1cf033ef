package proxy

import (
	"strconv"

	"github.com/sipward/sipward/dialog"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

// change is what the edge writes anew in a request because of its call, besides what
// RFC 3261 16.6 asks for. The zero value changes nothing.
type change struct {
	call  dialog.ID   // for our Record-Route
	cseq  uint32      // number to send on, 0 = as it came
	rack  uint32      // the same for the number in RAck
	timer timers.Duty // RFC 4028 8.1
}

// spliceChange puts it into w.edit.
func (w *scratch) spliceChange(m *wire.Msg, c *change) {
	ed := &w.edit
	if c.cseq != 0 && c.cseq != m.CSeq {
		ed.End(appendUint(ed.Begin(cseqNumber(m)), uint64(c.cseq)))
	}
	if at, n, ok := dialog.RAckNumber(m); ok && c.rack != 0 && c.rack != n {
		ed.End(appendUint(ed.Begin(at), uint64(c.rack)))
	}
	if c.timer.SetMinSE {
		w.setSeconds(m, wire.KindMinSE, c.timer.MinSE)
	}
	if c.timer.SetSE {
		w.setSeconds(m, wire.KindSessionExpires, c.timer.SE)
	}
}

// setSeconds writes the number of a header whose parameters stay, or a new line.
func (w *scratch) setSeconds(m *wire.Msg, k wire.Kind, n uint32) {
	ed := &w.edit
	if i := m.First(k); i >= 0 {
		at := m.Headers[i].Value
		if _, ok := timers.ParseMinSE(m.Bytes(at)); ok { // else there is nothing to keep
			at = digitsAt(m, at)
		}
		ed.End(appendUint(ed.Begin(at), uint64(n)))
		return
	}
	text := append(append(ed.Begin(wire.At(w.endOfHeaders(m))), k.String()...), ": "...)
	ed.End(append(appendUint(text, uint64(n)), "\r\n"...))
}

// cseqNumber is where the number of the CSeq stands.
func cseqNumber(m *wire.Msg) wire.Span {
	return digitsAt(m, m.Headers[m.First(wire.KindCSeq)].Value)
}

func digitsAt(m *wire.Msg, v wire.Span) wire.Span {
	end := v.Start
	for end < v.End && '0' <= m.Buf[end] && m.Buf[end] <= '9' {
		end++
	}
	return wire.Span{Start: v.Start, End: end}
}

// relayed appends the response in w.msg without our Via (16.7 step 3) and the headers
// of w.strip, as it goes to up: with the CSeq number that the request came with, and
// with a session timer for a requester whose peer knows none (RFC 4028 8.2).
func (w *scratch) relayed(dst []byte, up transport.Flow, cseq, insertSE uint32) []byte {
	m, ed := &w.msg, &w.edit
	ed.Reset(m)
	ed.DeleteTopVia()
	for _, name := range w.strip {
		ed.DeleteNamed(name)
	}
	if cseq != m.CSeq {
		ed.End(appendUint(ed.Begin(cseqNumber(m)), uint64(cseq)))
	}
	if insertSE != 0 {
		w.insertTimer(insertSE)
	}
	if w.restores && m.CSeqMethodID == wire.REGISTER && m.Status/100 == 2 {
		w.restoreContacts(m)
		if w.comeBack {
			w.hasten(m)
			w.comeBack = false
		}
	}
	w.spliceLength(m, up)
	return ed.AppendTo(dst)
}

// insertTimer writes Session-Expires into a 2xx, and timer into its Require.
func (w *scratch) insertTimer(se uint32) {
	m, ed := &w.msg, &w.edit
	text := append(ed.Begin(wire.At(w.endOfHeaders(m))), "Session-Expires: "...)
	text = append(strconv.AppendUint(text, uint64(se), 10), ";refresher=uac\r\n"...)
	i := m.First(wire.KindRequire)
	if i < 0 {
		text = append(text, "Require: timer\r\n"...)
	}
	ed.End(text)
	if i < 0 || m.Lists(wire.KindRequire, "timer") {
		return
	}
	v := m.Headers[i].Value
	if v.Empty() {
		ed.InsertString(int(v.End), "timer")
		return
	}
	ed.InsertString(int(v.End), ", timer")
}
