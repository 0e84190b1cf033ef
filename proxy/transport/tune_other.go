//go:build !linux

package transport

import (
	"syscall"
	"time"
)

func tuneStream(_, _ string, _ syscall.RawConn) error { return nil }

func setUserTimeout(uintptr, time.Duration) {}
