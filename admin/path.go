package admin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// DefaultPath is where the socket is when nobody said otherwise.
const DefaultPath = "/run/sipward/admin.sock"

// Paths are the places of a socket in the order in which server and client try
// them. What an operator chose is the only place; the default has others for a
// process that may not write to /run.
func Paths(configured string) []string {
	if configured != DefaultPath {
		return []string{configured}
	}
	paths := []string{DefaultPath}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		paths = append(paths, filepath.Join(dir, "sipward.sock"))
	}
	return append(paths, temporaryPath())
}

// temporaryPath is the last resort. Anybody can create files in a temporary
// directory, so the socket has a directory of its own there, which is held to
// checkPrivate by both sides.
func temporaryPath() string {
	return filepath.Join(os.TempDir(), "sipward-"+strconv.Itoa(os.Getuid()), "admin.sock")
}

// checkPath says what is wrong with a path before the kernel does, in words.
func checkPath(path string) error {
	if path == "" {
		return errors.New("the path is empty")
	}
	if most := len(syscall.RawSockaddrUnix{}.Path) - 1; len(path) > most {
		return fmt.Errorf("%d bytes long, a unix socket's path may have %d", len(path), most)
	}
	if path[0] == '@' { // an abstract socket has no mode: any user of the host could open it
		return errors.New("begins with @; name a file")
	}
	return nil
}

// makeParent creates the directory of a socket.
func makeParent(path string) error {
	dir := filepath.Dir(path)
	if path != temporaryPath() {
		return os.MkdirAll(dir, 0o750)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return checkPrivate(dir)
}

// checkPrivate refuses a directory that another user made or can write to.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	uid, ok := ownedBy(info.Sys())
	if !info.IsDir() || !ok || uid != os.Getuid() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is not a directory that this user alone can use", dir)
	}
	return nil
}
