//go:build race

package siptest

// Race tells whether the race detector is on: it makes everything several times slower.
const Race = true
