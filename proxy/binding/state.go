package binding

import (
	"math"
	"net/netip"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/store/codec"
)

// The state of a binding is what a restart must not lose of it.
//
// Its form is that of package codec. Times are microseconds: the last REGISTER's of the day's clock, the others before or
// after that.
const stateVersion = 1

// Bounds of what a state may say, such that no sum of times overflows.
const (
	longest  = 150 * 365 * 24 * time.Hour // an Expires may be one of 136 years
	farthest = 100 * 365 * 24 * time.Hour // from now
	maxAddr  = 64                         // bytes, with a zone
)

func appendState(dst []byte, b *Binding, past []Flow, wall func(time.Duration) time.Time) []byte {
	e := encoder{codec.Begin(dst, stateVersion)}
	e.Uint(uint64(b.ID))
	for _, s := range b.list() {
		e.String(*s)
	}
	e.Uint(uint64(b.RegID))
	e.Uint(uint64(b.Backend))
	e.Uint(uint64(b.CSeq))
	e.Flags(b.NATed, b.Proven)
	e.flow(b.Flow)
	e.addr(b.Local)
	e.Int(wall(b.Refreshed).UnixMicro())
	e.Uint(uint64(max(b.Refreshed-b.Since, 0).Microseconds()))
	e.Uint(uint64(max(b.Expires-b.Refreshed, 0).Microseconds()))
	e.Uint(uint64(len(past)))
	for _, f := range past {
		e.flow(f)
	}
	return e.Seal()
}

// encoder appends the parts of a state.
type encoder struct{ codec.Writer }

func (e *encoder) flow(f Flow) {
	e.Raw(byte(f.Proto), f.Listener)
	e.addr(f.Remote.Addr())
	e.Uint(uint64(f.Remote.Port()))
	e.Uint(f.Conn)
}

func (e *encoder) addr(a netip.Addr) {
	raw, _ := a.MarshalBinary() // never fails
	if len(raw) > maxAddr {
		raw, _ = a.WithZone("").MarshalBinary()
	}
	e.Bytes(raw)
}

// parseState reads a state. Since and Refreshed may lie before the clock's beginning, never after now.
func parseState(state []byte, clock func(time.Time) time.Duration, now time.Duration) (b Binding, past []Flow, ok bool) {
	body, ok := codec.Open(state, stateVersion)
	if !ok {
		return Binding{}, nil, false
	}
	d := decoder{body}
	b.ID = ID(d.Uint(math.MaxUint64))
	for x, s := range b.list() {
		*s = string(d.Bytes(limits[x]))
	}
	b.RegID, b.Backend, b.CSeq = d.Uint32(), d.Uint32(), d.Uint32()
	d.Flags(&b.NATed, &b.Proven)
	b.Flow = d.flow()
	b.Local = d.addr()
	refreshed := clock(time.UnixMicro(d.Int()))
	since, expires := d.span(), d.span()
	for range d.Uint(formers) {
		past = append(past, d.flow())
	}
	if !d.Ended() || b.ID == 0 || refreshed < now-farthest || refreshed > now+farthest {
		return Binding{}, nil, false
	}
	b.Expires = refreshed + expires
	b.Refreshed = moment(min(refreshed, now))
	b.Since = moment(min(refreshed-since, now))
	return b, past, true
}

// moment is a time that is not 0, which means never.
func moment(t time.Duration) time.Duration {
	if t == 0 {
		return -1
	}
	return t
}

// decoder reads the parts of a state.
type decoder struct{ codec.Reader }

func (d *decoder) span() time.Duration {
	return time.Duration(d.Uint(uint64(longest.Microseconds()))) * time.Microsecond
}

// flow reads one that can be: a datagram has no connection.
func (d *decoder) flow() (f Flow) {
	head := d.Raw(2)
	if head == nil {
		return Flow{}
	}
	f.Proto, f.Listener = wire.Proto(head[0]), head[1]
	f.Remote = netip.AddrPortFrom(d.addr(), uint16(d.Uint(math.MaxUint16)))
	f.Conn = d.Uint(math.MaxUint64)
	if f.Proto > wire.WSS || !f.Remote.IsValid() || f.Proto.Reliable() != (f.Conn != 0) {
		d.Fail()
	}
	return f
}

func (d *decoder) addr() (a netip.Addr) {
	if a.UnmarshalBinary(d.Bytes(maxAddr)) != nil {
		d.Fail()
	}
	return a
}
