//go:build !linux

package transport

// inlet is what Linux needs to read past the scheduler.
type inlet struct{}
