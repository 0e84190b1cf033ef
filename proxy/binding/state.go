package binding

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"net/netip"
	"time"

	"github.com/sipward/sipward/proxy/wire"
)

// The state of a binding is what a restart must not lose of it.
//
// Layout: version, body, CRC-32 of both. Numbers are varints, texts and addresses have their length in front. Times are
// microseconds of the day's clock, the others after or before the last REGISTER.
const stateVersion = 1

// Bounds of what a state may say, such that no sum of times overflows.
const (
	longest  = 150 * 365 * 24 * time.Hour // an Expires may be one of 136 years
	farthest = 100 * 365 * 24 * time.Hour // from now
	maxAddr  = 64                         // bytes, with a zone
	crcBytes = 4
)

// What a binding is besides.
const (
	flagNATed  = 1
	flagProven = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendState(dst []byte, b *Binding, past []Flow, wall func(time.Duration) time.Time) []byte {
	e := encoder{append(dst, stateVersion)}
	e.uint(uint64(b.ID))
	for _, s := range b.list() {
		e.uint(uint64(len(*s)))
		e.b = append(e.b, *s...)
	}
	e.uint(uint64(b.RegID))
	e.uint(uint64(b.Backend))
	e.uint(uint64(b.CSeq))
	flags := uint64(0)
	if b.Proven {
		flags |= flagProven
	}
	if b.NATed {
		flags |= flagNATed
	}
	e.uint(flags)
	e.flow(b.Flow)
	e.addr(b.Local)
	e.b = binary.AppendVarint(e.b, wall(b.Refreshed).UnixMicro())
	e.uint(uint64(max(b.Refreshed-b.Since, 0).Microseconds()))
	e.uint(uint64(max(b.Expires-b.Refreshed, 0).Microseconds()))
	e.uint(uint64(len(past)))
	for _, f := range past {
		e.flow(f)
	}
	return binary.BigEndian.AppendUint32(e.b, crc32.Checksum(e.b[len(dst):], castagnoli))
}

// encoder appends the parts of a state.
type encoder struct{ b []byte }

func (e *encoder) uint(n uint64) { e.b = binary.AppendUvarint(e.b, n) }

func (e *encoder) flow(f Flow) {
	e.b = append(e.b, byte(f.Proto), f.Listener)
	e.addr(f.Remote.Addr())
	e.uint(uint64(f.Remote.Port()))
	e.uint(f.Conn)
}

func (e *encoder) addr(a netip.Addr) {
	raw, _ := a.MarshalBinary() // never fails
	if len(raw) > maxAddr {
		raw, _ = a.WithZone("").MarshalBinary()
	}
	e.uint(uint64(len(raw)))
	e.b = append(e.b, raw...)
}

// parseState reads a state. Since and Refreshed may lie before the clock's beginning, never after now.
func parseState(state []byte, clock func(time.Time) time.Duration, now time.Duration) (b Binding, past []Flow, ok bool) {
	n := len(state) - crcBytes
	if n < 1 || state[0] != stateVersion || crc32.Checksum(state[:n], castagnoli) != binary.BigEndian.Uint32(state[n:]) {
		return Binding{}, nil, false
	}
	d := decoder{b: state[1:n]}
	b.ID = ID(d.uint(math.MaxUint64))
	for x, s := range b.list() {
		*s = string(d.raw(d.uint(uint64(limits[x]))))
	}
	b.RegID, b.Backend, b.CSeq = d.u32(), d.u32(), d.u32()
	flags := d.uint(flagNATed | flagProven)
	b.NATed, b.Proven = flags&flagNATed != 0, flags&flagProven != 0
	b.Flow = d.flow()
	b.Local = d.addr()
	refreshed := clock(time.UnixMicro(d.int()))
	since, expires := d.span(), d.span()
	for range d.uint(formers) {
		past = append(past, d.flow())
	}
	if d.isBad || len(d.b) > 0 || b.ID == 0 || refreshed < now-farthest || refreshed > now+farthest {
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

// decoder reads the parts of a state. After the first part that cannot be, all others are zero and isBad is set.
type decoder struct {
	b     []byte
	isBad bool
}

func (d *decoder) fail() uint64 {
	d.b, d.isBad = nil, true
	return 0
}

// uint reads a number of at most limit.
func (d *decoder) uint(limit uint64) uint64 {
	n, size := binary.Uvarint(d.b)
	if size <= 0 || n > limit {
		return d.fail()
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) u32() uint32 { return uint32(d.uint(math.MaxUint32)) }

func (d *decoder) int() int64 {
	n, size := binary.Varint(d.b)
	if size <= 0 {
		return int64(d.fail())
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) span() time.Duration {
	return time.Duration(d.uint(uint64(longest.Microseconds()))) * time.Microsecond
}

// raw reads n bytes, which are those of the state.
func (d *decoder) raw(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

// flow reads one that can be: a datagram has no connection.
func (d *decoder) flow() (f Flow) {
	head := d.raw(2)
	if head == nil {
		return Flow{}
	}
	f.Proto, f.Listener = wire.Proto(head[0]), head[1]
	f.Remote = netip.AddrPortFrom(d.addr(), uint16(d.uint(math.MaxUint16)))
	f.Conn = d.uint(math.MaxUint64)
	if f.Proto > wire.WSS || !f.Remote.IsValid() || f.Proto.Reliable() != (f.Conn != 0) {
		d.fail()
	}
	return f
}

func (d *decoder) addr() (a netip.Addr) {
	if a.UnmarshalBinary(d.raw(d.uint(maxAddr))) != nil {
		d.fail()
	}
	return a
}
