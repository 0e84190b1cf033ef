//go:build unix

package admin

import "syscall"

// othersOut makes files that are created from now on closed to other users, until
// back is called. The mask is the process's: what another goroutine creates
// meanwhile is closed to others too, which harms nobody.
func othersOut() (back func()) {
	was := syscall.Umask(0o117)
	return func() { syscall.Umask(was) }
}

// ownedBy is the user who owns a file.
func ownedBy(stat any) (uid int, ok bool) {
	s, ok := stat.(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(s.Uid), true
}
