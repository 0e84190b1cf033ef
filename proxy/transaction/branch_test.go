package transaction

import (
	"bytes"
	"math"
	"testing"
)

var branches = []Branch{
	{},
	{Slot: 1, Leg: 1, Loop: 1},
	{Slot: makeSlot(63, 1<<26-1, math.MaxUint32), Leg: 7, Loop: math.MaxUint32},
	{Slot: math.MaxUint64, Leg: StatelessLeg, Loop: 0},
	{Slot: 1 << 40, Leg: OwnLeg, Loop: 12345},
}

func TestBranchRoundTrip(t *testing.T) {
	k := NewKey()
	for _, b := range branches {
		v := k.Append([]byte("x"), b)[1:]
		if len(v) != BranchLen {
			t.Errorf("%+v: %d bytes", b, len(v))
		}
		if got, ok := k.Parse(v); !ok || got != b {
			t.Errorf("%+v came back as %+v, %v", b, got, ok)
		}
		if _, ok := NewKey().Parse(v); ok {
			t.Errorf("%+v: a foreign key accepts it", b)
		}
	}
}

func TestEveryBitOfABranchCounts(t *testing.T) {
	k := NewKey()
	for _, b := range branches {
		v := k.Append(nil, b)
		for i := range v {
			for bit := range 8 {
				bad := bytes.Clone(v)
				bad[i] ^= 1 << bit
				if _, ok := k.Parse(bad); ok {
					t.Fatalf("%s is accepted for %s", bad, v)
				}
			}
		}
		for n := range v {
			if _, ok := k.Parse(v[:n]); ok {
				t.Fatalf("%d of its bytes are accepted", n)
			}
		}
		if _, ok := k.Parse(append(bytes.Clone(v), 'A')); ok {
			t.Fatal("one byte more is accepted")
		}
	}
}

// Line breaks inside base64 are skipped by encoding/base64; they must not make a
// second spelling of a branch.
func TestBranchHasOneSpelling(t *testing.T) {
	k := Key{1, 2}
	for _, v := range []string{"z9hG4bK\r\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "z9hG4bK" + string(bytes.Repeat([]byte("\n"), 32)), "Z9HG4BK"} {
		if _, ok := k.Parse([]byte(v)); ok {
			t.Errorf("%q accepted", v)
		}
	}
}

func TestKeysDiffer(t *testing.T) {
	if a, b := NewKey(), NewKey(); a == b || a == (Key{}) {
		t.Error("keys are not random")
	}
}

func FuzzBranch(f *testing.F) {
	k := Key{0x0706050403020100, 0x0f0e0d0c0b0a0908}
	for _, b := range branches {
		f.Add(k.Append(nil, b))
	}
	f.Add([]byte("z9hG4bK776asdhds"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, v []byte) {
		b, ok := k.Parse(v)
		if ok && !bytes.Equal(k.Append(nil, b), v) {
			t.Errorf("%q is a second spelling of %+v", v, b)
		}
	})
}

func BenchmarkBranchAppend(b *testing.B) {
	k, dst := NewKey(), make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		dst = k.Append(dst[:0], branches[1])
	}
}

func BenchmarkBranchParse(b *testing.B) {
	k := NewKey()
	v := k.Append(nil, branches[1])
	b.ReportAllocs()
	for b.Loop() {
		k.Parse(v)
	}
}
