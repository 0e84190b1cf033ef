package backend

import "math/bits"

// FNV-1a, 64 bits.
const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

// Hash returns a key for [Pool.Order]. It is the same on every machine and in
// every version: nodes that share a load must agree, and a restart must not
// move users. The borders between the parts count: "ab","c" and "a","bc" differ.
func Hash(parts ...[]byte) uint64 {
	h := uint64(fnvOffset)
	for _, p := range parts {
		for _, c := range p {
			h = (h ^ uint64(c)) * fnvPrime
		}
		h = (h ^ 0x100) * fnvPrime // no byte has this value
	}
	return mix(h)
}

// mix spreads every bit of x over the whole word (the finaliser of MurmurHash3).
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return x
}

// draw returns the number that the backend with this seed draws for key.
func draw(key, seed uint64) uint64 { return mix(mix(key^seed) + bits.RotateLeft64(seed, 17)) }

// unit maps x evenly to (0, 1), both ends excluded.
func unit(x uint64) float64 { return (float64(x>>12) + 0.5) / (1 << 52) }
