package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	stdlog "log"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/sipward/sipward/proxy"
)

// Numbers we chose.
const (
	headerTime = 2 * time.Second  // from the connection to the end of the header; it comes from this host
	readTime   = 10 * time.Second // to the end of the body
	writeTime  = 30 * time.Second // for each part of the answer
	partTime   = time.Second      // for requests that run when the server closes
	// longestAnswer is for all parts: who takes a listing of all bans keeps others from it.
	longestAnswer = 10 * time.Minute
	mostHeader    = 8 << 10 // bytes; net/http adds 4 kB
	mostBody      = 4 << 10 // bytes, of all but imports
)

// An Edge is what is administered. Its methods are called from several goroutines
// and do not block.
type Edge interface {
	Calls(f proxy.CallFilter) []proxy.CallInfo
	EndCall(id string) bool
	CallStats() proxy.CallStats
	Backends() []proxy.BackendInfo
	SetBackend(pool, name, state string) error
	Bans(f proxy.BanFilter) []proxy.BanInfo
	Ban(key string) (proxy.BanInfo, bool)
	AddBan(n proxy.NewBan) (proxy.BanInfo, error)
	RemoveBan(key string) (proxy.BanInfo, bool, error)
	FlushBans() int
	ImportBans(all []proxy.BanInfo) (added, skipped int, err error)
	Explain(key string) (proxy.Explanation, error)
	SecurityStats() proxy.SecurityStats
	Registrations(f proxy.RegistrationFilter) []proxy.RegistrationInfo
	RegistrationStats() proxy.RegistrationStats
}

// Server answers on the socket. Close it before the edge is stopped.
type Server struct {
	edge Edge
	log  *zerolog.Logger
	mux  *http.ServeMux
	http *http.Server

	exporting sync.Mutex // one listing of all bans at a time: it holds a copy of them

	path    string
	file    os.FileInfo // of the socket that is ours
	running sync.WaitGroup
	once    sync.Once
	err     error // of Close
}

// Listen opens the socket of admin.socket, or one of the other Paths where the
// default cannot be made, and serves on it. log is for
// what goes wrong later: what an operator does, the edge logs.
func Listen(path string, edge Edge, log *zerolog.Logger) (*Server, error) {
	return listenFirst(Paths(path), edge, log)
}

func listenFirst(paths []string, edge Edge, log *zerolog.Logger) (*Server, error) {
	var tried []string
	for _, p := range paths {
		s, err := listenAt(p, edge, log)
		if err == nil {
			return s, nil
		}
		tried = append(tried, p+": "+reason(err))
		if errors.Is(err, errInUse) { // commands would find the other edge's socket first, not one beside it
			break
		}
	}
	return nil, fmt.Errorf("admin.socket: %s", strings.Join(tried, "; "))
}

// reason is an error without the path, which stands before it.
func reason(err error) string {
	var number syscall.Errno
	if errors.As(err, &number) && !errors.Is(err, errInUse) {
		return number.Error()
	}
	return err.Error()
}

func listenAt(path string, edge Edge, log *zerolog.Logger) (*Server, error) {
	l, err := listen(path)
	if err != nil {
		return nil, err
	}
	file, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	s := &Server{edge: edge, log: log, path: path, file: file}
	s.mux = s.routes()
	s.http = s.server()
	s.running.Go(func() { // ends with Close
		if err := s.http.Serve(newDoor(l, mostConnections)); !errors.Is(err, http.ErrServerClosed) {
			log.Error().Err(err).Msg("admin socket is closed: commands are not answered until the next start")
		}
	})
	return s, nil
}

// server is what serves with s.
func (s *Server) server() *http.Server {
	h := &http.Server{
		Handler: s, ReadHeaderTimeout: headerTime, ReadTimeout: readTime, WriteTimeout: writeTime, MaxHeaderBytes: mostHeader,
		ErrorLog: stdlog.New(s.log, "", 0),
	}
	h.SetKeepAlivesEnabled(false) // an idle connection would hold a place
	return h
}

// Path is where the socket is.
func (s *Server) Path() string { return s.path }

// Close removes the socket file, lets running requests end for a moment, and
// waits for the server's goroutine. Calls after the first return what that did.
func (s *Server) Close(ctx context.Context) error {
	s.once.Do(func() {
		gone := s.removeFile() // first: a file whose listener is closed looks like one of a dead process
		ctx, cancel := context.WithTimeout(ctx, partTime)
		defer cancel()
		err := s.http.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			err = s.http.Close()
		}
		s.running.Wait()
		s.err = errors.Join(gone, err)
	})
	return s.err
}

// removeFile leaves a file that another process put in the place of ours.
func (s *Server) removeFile() error {
	file, err := os.Lstat(s.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(file, s.file) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(s.path)
}
