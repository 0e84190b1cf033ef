package security

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

const ms = time.Millisecond

func TestLoopsCountDistinctCallsInASlidingSecond(t *testing.T) {
	type call struct {
		at    time.Duration
		id    string
		n     int
		isNew bool
	}
	for _, x := range []struct {
		name  string
		calls []call
	}{
		{"the fourth call", []call{{1 * ms, "a", 1, true}, {2 * ms, "b", 2, true}, {3 * ms, "c", 3, true}, {4 * ms, "d", 4, true}}},
		{"retransmission, fork, retry with credentials", []call{{1 * ms, "a", 1, true}, {2 * ms, "a", 1, false}, {501 * ms, "a", 1, false}, {600 * ms, "b", 2, true}, {601 * ms, "a", 2, false}}},
		{"a call is a second old", []call{{1 * ms, "a", 1, true}, {1000 * ms, "b", 2, true}, {1001 * ms, "c", 2, true}, {2000 * ms, "d", 2, true}, {2001 * ms, "e", 2, true}}},
		{"no border of a clock's second", []call{{900 * ms, "a", 1, true}, {999 * ms, "b", 2, true}, {1000 * ms, "c", 3, true}, {1100 * ms, "d", 4, true}}},
		{"a copy does not make a call younger", []call{{1 * ms, "a", 1, true}, {900 * ms, "a", 1, false}, {1001 * ms, "a", 1, true}}},
		{"what was refused counts", []call{{1 * ms, "a", 1, true}, {1 * ms, "b", 2, true}, {1 * ms, "c", 3, true}, {1 * ms, "d", 4, true}, {500 * ms, "e", 5, true}, {1001 * ms, "f", 2, true}}},
		{"a clock that was read too early", []call{{10 * ms, "a", 1, true}, {9 * ms, "b", 2, true}, {1010 * ms, "c", 1, true}}},
		{"an empty Call-ID is one", []call{{1 * ms, "", 1, true}, {2 * ms, "", 1, false}}},
	} {
		t.Run(x.name, func(t *testing.T) {
			l := NewLoops(100)
			key := l.Key([]byte("alice"), []byte("bob"))
			for i, c := range x.calls {
				if n, isNew := l.Count(key, []byte(c.id), 3, c.at); n != c.n || isNew != c.isNew {
					t.Fatalf("call %d: %d %v", i, n, isNew)
				}
			}
		})
	}
}

func TestLoopsAgreeWithALog(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, limit := range []int{-1, 0, 3, 64, 200} {
		l := NewLoops(1000)
		log := map[uint64][]loopCall{}
		now := time.Duration(1)
		for i := range 20000 {
			now += time.Duration(rnd.IntN(int(8 * ms)))
			key, id := uint64(rnd.IntN(4))*rnd.Uint64N(2)+1, uint64(rnd.IntN(i/4+1))
			want, isNew := 0, true
			for _, c := range log[key] {
				if now-c.at < time.Second {
					want++
					isNew = isNew && c.id != id
				}
			}
			if isNew {
				log[key] = append(log[key], loopCall{id, now})
				want++
			}
			n, gotNew := l.Count(key, binary.BigEndian.AppendUint64(nil, id), limit, now)
			if want = min(want, max(loopMemory, limit+1)); n < want || n > max(loopMemory, limit+1) || want < loopMemory && (n != want || gotNew != isNew) {
				t.Fatalf("limit %d, call %d: %d %v, want %d %v", limit, i, n, gotNew, want, isNew)
			}
		}
	}
}

func TestLoopsGoOnBeyondWhatTheyRemember(t *testing.T) {
	for _, limit := range []int{3, 63, 64, 500, 1 << 40, -1 << 40} {
		l := NewLoops(10)
		most := max(loopMemory, min(limit+1, maxLoopMemory))
		if limit == 1<<40 {
			most = 2000 // not reached
		}
		for i := range 1000 {
			n, isNew := l.Count(1, fmt.Append(nil, i), limit, 1)
			if n != min(i+1, most) || !isNew {
				t.Fatalf("limit %d, call %d: %d %v", limit, i, n, isNew)
			}
		}
	}
}

func TestLoopsKeepTheBusyOneAmongMany(t *testing.T) {
	const capacity = 1024
	l := NewLoops(capacity)
	now := time.Duration(1)
	for i := range 200000 {
		now += 10 * time.Microsecond
		l.Count(rand.Uint64(), []byte("x"), 3, now)
		if i%100 == 99 {
			if n, _ := l.Count(1, fmt.Append(nil, i), 3, now); n < min(i/100+1, loopMemory) {
				t.Fatalf("call %d: %d", i, n)
			}
		}
	}
	for i := range l.shards {
		if n := len(l.shards[i].keys.slots); n > capacity/loopShards+1 {
			t.Fatalf("%d slots", n)
		}
	}
}

func TestLoopsHoldOneSecond(t *testing.T) {
	l := NewLoops(1 << 20)
	for i := range 100000 {
		l.Count(uint64(i), []byte("x"), 3, time.Duration(i+1)*10*ms)
	}
	for i := range l.shards {
		if n := len(l.shards[i].keys.slots); n > 20 {
			t.Fatalf("%d slots for 100 calls a second", n)
		}
	}
}

func TestLoopKeysHaveBorders(t *testing.T) {
	l := NewLoops(1)
	seen := map[uint64]int{}
	for i, parts := range [][][]byte{
		{}, {nil}, {nil, nil}, {[]byte("a"), []byte("bc")}, {[]byte("ab"), []byte("c")}, {[]byte("abc")}, {[]byte("abc"), nil}, {nil, []byte("abc")}, {[]byte("bc"), []byte("a")},
	} {
		k := l.Key(parts...)
		if j, ok := seen[k]; ok {
			t.Errorf("%d is %d", i, j)
		}
		if seen[k] = i; l.Key(parts...) != k {
			t.Error("two keys of the same")
		}
	}
}

func BenchmarkLoopsCount(b *testing.B) {
	id := []byte("3848276298220188511@atlanta.example.com")
	b.Run("one key", func(b *testing.B) {
		l := NewLoops(1 << 16)
		now := time.Duration(1)
		b.ReportAllocs()
		for b.Loop() {
			now += 300 * ms
			id[0] = byte(now >> 10)
			l.Count(1, id, 3, now)
		}
	})
	b.Run("flood of one key", func(b *testing.B) {
		l := NewLoops(1 << 16)
		now := time.Duration(1)
		b.ReportAllocs()
		for b.Loop() {
			now += ms
			binary.LittleEndian.PutUint64(id, uint64(now))
			l.Count(1, id, 3, now)
		}
	})
	b.Run("many keys", func(b *testing.B) {
		l := NewLoops(1 << 16)
		now, key := time.Duration(1), uint64(1)
		count := func() {
			now += 50 * time.Microsecond
			key = key*0x9e3779b97f4a7c15 + 1
			l.Count(key, id, 3, now)
		}
		for range 100000 {
			count()
		}
		b.ReportAllocs()
		for b.Loop() {
			count()
		}
	})
}

func BenchmarkLoopsKey(b *testing.B) {
	l := NewLoops(1)
	from, to := []byte("alice"), []byte("+4930123456")
	b.ReportAllocs()
	for b.Loop() {
		l.Key(from, to)
	}
}
