//go:build !linux

package transport

import "syscall"

func (l *limits) tuneStream(_, _ string, _ syscall.RawConn) error { return nil }
