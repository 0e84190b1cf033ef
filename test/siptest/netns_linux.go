package siptest

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace without a name: it lives as long as it is open here or something runs in it, so
// that a test that dies leaves nothing behind.
type Namespace struct {
	file *os.File
}

// NewNamespace makes one, with nothing but a loopback interface that is down. The error is unix.EPERM where that is
// not permitted.
func NewNamespace() (*Namespace, error) {
	type made struct {
		file *os.File
		err  error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // for ever: the thread belongs to the new namespace and ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- made{err: fmt.Errorf("make a network namespace: %w", err)}
			return
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		done <- made{file: file, err: err}
	}()
	m := <-done
	if m.err != nil {
		return nil, m.err
	}
	return &Namespace{file: m.file}, nil
}

// Path names it to other processes, `ip link` for instance, as long as it is open.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Close lets go of it.
func (n *Namespace) Close() error { return n.file.Close() }

// Do calls f in the namespace: sockets that f opens on its own goroutine, and processes that it starts, belong there.
// It runs on the caller's goroutine, so that f may end the test.
func (n *Namespace) Do(f func()) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return errors.Join(fmt.Errorf("enter a network namespace: %w", err), home.Close())
	}
	defer func() {
		// A thread that cannot go home stays locked, and ends with the goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		_ = home.Close() // only looked at
	}()
	f()
	return nil
}

// DialRaw is DialRawFrom in the namespace.
func (n *Namespace) DialRaw(network string, local, peer netip.AddrPort, config *tls.Config) (r *Raw, err error) {
	if entered := n.Do(func() { r, err = DialRawFrom(network, local, peer, config) }); entered != nil {
		return nil, entered
	}
	return r, err
}

// ListenRaw is the function ListenRaw in the namespace.
func (n *Namespace) ListenRaw(network string, at netip.AddrPort, config *tls.Config) (r *Raw, err error) {
	if entered := n.Do(func() { r, err = ListenRaw(network, at, config) }); entered != nil {
		return nil, entered
	}
	return r, err
}
