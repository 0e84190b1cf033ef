package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// errInUse: somebody listens on the socket.
var errInUse = errors.New("in use by another edge; give this one a path of its own")

// Numbers we chose.
const (
	mode = 0o660
	// answerTime is how long a socket that was found may take to let us in.
	answerTime = time.Second
	// mostConnections are served at a time; others wait in the kernel's queue.
	mostConnections = 32
)

// listen makes the socket file. The file of a process that died is replaced.
func listen(path string) (*net.UnixListener, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	if err := makeParent(path); err != nil {
		return nil, err
	}
	l, err := bind(path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err = bind(path)
	if errors.Is(err, syscall.EADDRINUSE) { // another edge was as quick
		return nil, errInUse
	}
	return l, err
}

// bind creates the file with its mode: there is no moment at which others could
// open it.
func bind(path string) (*net.UnixListener, error) {
	back := othersOut()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	back()
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)                    // by then the file may be another's
	if err := os.Chmod(path, mode); err != nil { // where an ACL overrides the umask
		return nil, errors.Join(err, os.Remove(path), l.Close())
	}
	return l, nil
}

// removeStale removes the socket file of a process that is gone: only then a
// connection is refused.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return errors.New("there is a file of this name that is no socket; it was not touched")
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(errInUse, c.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w (%w)", errInUse, err)
	}
	return os.Remove(path)
}

// A door lets in a bounded number of connections.
type door struct {
	net.Listener
	places   chan struct{}
	isClosed chan struct{}
	once     sync.Once
}

func newDoor(l net.Listener, places int) *door {
	return &door{Listener: l, places: make(chan struct{}, places), isClosed: make(chan struct{})}
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case d.places <- struct{}{}:
	case <-d.isClosed:
		return nil, net.ErrClosed
	}
	c, err := d.Listener.Accept()
	if err != nil {
		<-d.places
		return nil, err
	}
	return &guest{Conn: c, leave: sync.OnceFunc(func() { <-d.places })}, nil
}

func (d *door) Close() error {
	d.once.Do(func() { close(d.isClosed) })
	return d.Listener.Close()
}

// A guest is a connection that holds a place.
type guest struct {
	net.Conn
	leave func()
}

func (g *guest) Close() error {
	defer g.leave()
	return g.Conn.Close()
}
