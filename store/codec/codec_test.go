package codec

import (
	"bytes"
	"fmt"
	"math"
	"testing"
)

const version = 7

// sealed is a state with these bytes between version and sum.
func sealed(body ...byte) []byte {
	w := Begin(nil, version)
	w.Raw(body...)
	return w.Seal()
}

func TestValuesAreReadAsTheyWereWritten(t *testing.T) {
	w := Begin([]byte("before"), version)
	for _, n := range []uint64{0, 127, 128, math.MaxUint32, math.MaxUint64} {
		w.Uint(n)
	}
	for _, n := range []int64{0, -1, math.MinInt64, math.MaxInt64} {
		w.Int(n)
	}
	w.Raw(1, 2, 3)
	w.Bytes(nil)
	w.Bytes([]byte("bytes"))
	w.String("text")
	w.Flags(true, false, true)
	w.Flags()
	before, state := w.Seal()[:6], w.Seal()[6:]

	r, ok := Open(state, version)
	if string(before) != "before" || !ok {
		t.Fatalf("%q %x is not opened", before, state)
	}
	var a, b, c bool
	got := fmt.Sprint(r.Uint(0), r.Uint(127), r.Uint(128), r.Uint32(), r.Uint(math.MaxUint64), r.Int(), r.Int(), r.Int(), r.Int(), r.Raw(3),
		string(r.Bytes(0)), string(r.Bytes(5)), string(r.Bytes(math.MaxInt)))
	rest := len(r.Rest())
	r.Flags(&a, &b, &c)
	if r.Ended() {
		t.Error("ended too early")
	}
	r.Flags()
	want := fmt.Sprint(0, 127, 128, math.MaxUint32, uint64(math.MaxUint64), 0, -1, math.MinInt64, math.MaxInt64, []byte{1, 2, 3}, "", "bytes", "text")
	if got != want || !a || b || !c || rest != 2 || !r.Ended() || r.Failed() {
		t.Errorf("got  %s %v %v %v, %d bytes rest, ended %v\nwant %s", got, a, b, c, rest, r.Ended(), want)
	}
}

// TestLayoutStays: files have it.
func TestLayoutStays(t *testing.T) {
	w := Begin(nil, 1)
	w.Uint(300)
	w.Int(-2)
	w.Raw(9)
	w.Bytes([]byte("ab"))
	w.String("c")
	w.Flags(false, true)
	if got, want := fmt.Sprintf("%x", w.Seal()), "01ac020309026162016302d0f5f5a3"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestValuesThatCannotBe: the first one ends it, and what was read after it is zero.
func TestValuesThatCannotBe(t *testing.T) {
	for _, test := range []struct {
		name string
		body []byte
		read func(r *Reader)
	}{
		{"no number", nil, func(r *Reader) { r.Uint(math.MaxUint64) }},
		{"no signed number", nil, func(r *Reader) { r.Int() }},
		{"number that goes on", []byte{0x80}, func(r *Reader) { r.Uint(math.MaxUint64) }},
		{"signed number that goes on", []byte{0x80}, func(r *Reader) { r.Int() }},
		{"number of more than 64 bits", bytes.Repeat([]byte{0xff}, 10), func(r *Reader) { r.Uint(math.MaxUint64) }},
		{"signed number of more than 64 bits", bytes.Repeat([]byte{0xff}, 10), func(r *Reader) { r.Int() }},
		{"above the limit", []byte{6}, func(r *Reader) { r.Uint(5) }},
		{"more than 32 bits", []byte{0x80, 0x80, 0x80, 0x80, 0x10}, func(r *Reader) { r.Uint32() }},
		{"text longer than the state", []byte{2, 'a'}, func(r *Reader) { r.Bytes(10) }},
		{"text longer than the limit", []byte{2, 'a', 'b'}, func(r *Reader) { r.Bytes(1) }},
		{"text of a length beyond all", []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 'a'}, func(r *Reader) { r.Bytes(math.MaxInt) }},
		{"fewer than none", []byte{1, 'a'}, func(r *Reader) { r.Raw(-1) }},
		{"fewer bytes", []byte{1, 2}, func(r *Reader) { r.Raw(3) }},
		{"flags that nobody knows", []byte{4}, func(r *Reader) { r.Flags(new(bool), new(bool)) }},
		{"failed", []byte{1, 1}, func(r *Reader) { r.Fail() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, ok := Open(sealed(test.body...), version)
			if !ok {
				t.Fatal("not opened")
			}
			test.read(&r)
			flag := true
			r.Flags(&flag)
			if n := r.Uint(9) + uint64(r.Uint32()) + uint64(r.Int()) + uint64(len(r.Raw(1))+len(r.Bytes(1))+len(r.Rest())); n != 0 || flag || !r.Failed() || r.Ended() {
				t.Errorf("%d read afterwards, flag %v, failed %v, ended %v", n, flag, r.Failed(), r.Ended())
			}
		})
	}
}

// TestDamagedStates: none is opened, whatever is cut off or flipped.
func TestDamagedStates(t *testing.T) {
	state := sealed(1, 2, 3)
	refused := func(what string, state []byte) {
		t.Helper()
		if r, ok := Open(state, version); ok || r.Ended() || !r.Failed() {
			t.Errorf("%s is opened", what)
		}
	}
	for i := range state {
		refused(fmt.Sprintf("cut at %d", i), state[:i])
		for bit := range 8 {
			damaged := bytes.Clone(state)
			damaged[i] ^= 1 << bit
			refused(fmt.Sprintf("flipped %d in %d", bit, i), damaged)
		}
	}
	refused("one byte more", append(bytes.Clone(state), 0))
	if _, ok := Open(state, version+1); ok {
		t.Error("another version is opened")
	}
	if r, ok := Open(sealed(), version); !ok || !r.Ended() {
		t.Error("an empty state is not opened")
	}
}

// TestReadingDoesNotAllocate, nor does writing where there is room.
func TestReadingDoesNotAllocate(t *testing.T) {
	text, room := []byte("some text"), make([]byte, 0, 100)
	var a, b bool
	if n := testing.AllocsPerRun(100, func() {
		w := Begin(room, version)
		w.Uint(1 << 40)
		w.Int(-5)
		w.Bytes(text)
		w.Flags(true, false)
		r, _ := Open(w.Seal(), version)
		r.Uint(1 << 50)
		r.Int()
		r.Bytes(20)
		r.Flags(&a, &b)
		if !r.Ended() {
			t.Fatal("not ended")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzReader: no bytes make it panic or read past the end, no value is above its limit, and what was read can be written
// and read again. Each byte of plan is a value to read.
func FuzzReader(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5}, []byte{0xac, 2, 3, 9, 2, 'a', 'b', 1, 'c', 2, 0})
	f.Add([]byte{5, 5, 5}, []byte{7, 0, 1})
	f.Add([]byte{3, 3}, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 'a'})
	f.Fuzz(func(t *testing.T, plan, body []byte) {
		if _, ok := Open(body, version); ok && len(body) < headBytes+sumBytes {
			t.Fatal("opened what is too short")
		}
		r, ok := Open(sealed(body...), version)
		if !ok {
			t.Fatal("not opened")
		}
		w, before := Begin(nil, version), len(body)
		for _, what := range plan {
			limit := uint64(what) * 3
			switch what % 6 {
			case 0:
				n := r.Uint(limit)
				w.Uint(n)
				if n > limit {
					t.Fatalf("%d is above %d", n, limit)
				}
			case 1:
				w.Int(r.Int())
			case 2:
				w.Uint(uint64(r.Uint32()))
			case 3:
				b := r.Bytes(int(limit))
				w.Bytes(b)
				if uint64(len(b)) > limit {
					t.Fatalf("%d bytes are more than %d", len(b), limit)
				}
			case 4:
				w.Raw(r.Raw(int(what) / 6)...)
			case 5:
				var a, b, c bool
				r.Flags(&a, &b, &c)
				w.Flags(a, b, c)
			}
			if left := len(r.Rest()); left > before || r.Failed() && left != 0 {
				t.Fatalf("%d bytes left of %d", left, before)
			}
			before = len(r.Rest())
		}
		if r.Failed() {
			return
		}
		again, ok := Open(w.Seal(), version)
		if !ok {
			t.Fatal("not opened again")
		}
		first, _ := Open(sealed(body...), version)
		for _, what := range plan {
			if a, b := value(&first, what), value(&again, what); a != b {
				t.Fatalf("%s, written and read again %s", a, b)
			}
		}
		if !again.Ended() {
			t.Fatal("there is more in it than was written")
		}
	})
}

// value reads one as text.
func value(r *Reader, what byte) string {
	switch what % 6 {
	case 0:
		return fmt.Sprint(r.Uint(uint64(what) * 3))
	case 1:
		return fmt.Sprint(r.Int())
	case 2:
		return fmt.Sprint(r.Uint32())
	case 3:
		return string(r.Bytes(int(what) * 3))
	case 4:
		return string(r.Raw(int(what) / 6))
	}
	var a, b, c bool
	r.Flags(&a, &b, &c)
	return fmt.Sprint(a, b, c)
}
