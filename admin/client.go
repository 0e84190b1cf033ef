package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sipward/sipward/proxy"
)

// Numbers we chose.
const (
	waitTime   = 10 * time.Second // for one answer
	exportTime = time.Minute      // for each part of all bans; the server gives up before
	mostAnswer = 64 << 20         // bytes
)

// Client asks a running edge. It has no state; use it from anywhere.
type Client struct {
	paths []string
	http  *http.Client
}

// NewClient is for the edge that answers at the first of paths that has one. It
// does not connect yet.
func NewClient(paths ...string) *Client {
	c := &Client{paths: paths}
	c.http = &http.Client{
		Timeout: waitTime,
		Transport: &http.Transport{
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
			DisableKeepAlives: true,
		},
	}
	return c
}

// A StatusError is an answer of the edge that says no.
type StatusError struct {
	Status int
	Text   string
}

func (e *StatusError) Error() string { return e.Text }

// A noEdge is a socket that nobody answers at, or that may not be opened.
type noEdge struct{ text string }

func (e noEdge) Error() string { return e.text }

// dial tries the paths in order.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	for _, path := range c.paths {
		if err := trusted(path); err != nil {
			return nil, noEdge{fmt.Sprintf("%s: %v", path, err)}
		}
		conn, err := d.DialContext(ctx, "unix", path)
		switch {
		case err == nil:
			return conn, nil
		case errors.Is(err, fs.ErrPermission):
			return nil, noEdge{path + ": permission denied: be the user of the edge, or in its group"}
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOTDIR):
			return nil, noEdge{path + ": " + reason(err)}
		}
	}
	return nil, noEdge{fmt.Sprintf("no edge answers at %s: is it running?", strings.Join(c.paths, " or "))}
}

// trusted refuses a path that another user could have made to be asked there.
func trusted(path string) error {
	if err := checkPath(path); err != nil {
		return err
	}
	if path != temporaryPath() {
		return nil
	}
	if err := checkPrivate(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Calls lists the calls that match. A Limit of zero is DefaultLimit; an ID finds at
// most one.
func (c *Client) Calls(ctx context.Context, f proxy.CallFilter) (CallList, error) {
	var l CallList
	if f.ID != "" {
		var one proxy.CallInfo
		found, err := c.find(ctx, http.MethodGet, callPath(f.ID), &one)
		if found {
			l.Calls = append(l.Calls, one)
		}
		return l, err
	}
	path := listing("/v1/calls", map[string]string{
		"call_id": f.CallID, "party": f.Party, "backend": f.Backend, "mode": f.Mode, "limit": limitText(f.Limit),
	})
	err := c.ask(ctx, http.MethodGet, path, nil, &l)
	return l, err
}

// listing is the path of a listing that is narrowed down; what is empty does not.
func listing(path string, by map[string]string) string {
	q := url.Values{}
	for key, v := range by {
		if v != "" {
			q.Set(key, v)
		}
	}
	return path + "?" + q.Encode()
}

func limitText(limit int) string {
	if limit == 0 {
		return ""
	}
	return strconv.Itoa(limit)
}

// EndCall ends an answered call, by the ID of the listing, and returns what it was.
func (c *Client) EndCall(ctx context.Context, id string) (proxy.CallInfo, error) {
	var was proxy.CallInfo
	err := c.ask(ctx, http.MethodDelete, callPath(id), nil, &was)
	return was, err
}

func callPath(id string) string { return "/v1/calls/" + element(id) }

// element is a name as an element of a path. A server would take . and .. for
// directories.
func element(name string) string {
	if name == "." || name == ".." {
		return strings.ReplaceAll(name, ".", "%2E")
	}
	return url.PathEscape(name)
}

// Stats returns the figures of all calls since the start of the edge.
func (c *Client) Stats(ctx context.Context) (proxy.CallStats, error) {
	var s proxy.CallStats
	err := c.ask(ctx, http.MethodGet, "/v1/stats", nil, &s)
	return s, err
}

// Backends lists the backends of all pools.
func (c *Client) Backends(ctx context.Context) (BackendList, error) {
	var l BackendList
	err := c.ask(ctx, http.MethodGet, "/v1/backends", nil, &l)
	return l, err
}

// SetBackend gives a backend one of States and returns it as it is then.
func (c *Client) SetBackend(ctx context.Context, pool, name, state string) (proxy.BackendInfo, error) {
	body, err := json.Marshal(backendState{state})
	if err != nil {
		return proxy.BackendInfo{}, err
	}
	var b proxy.BackendInfo
	err = c.ask(ctx, http.MethodPut, "/v1/backends/"+element(pool)+"/"+element(name), body, &b)
	return b, err
}

// find is ask for one thing; false: the edge has none of that name.
func (c *Client) find(ctx context.Context, method, path string, into any) (bool, error) {
	err := c.ask(ctx, method, path, nil, into)
	var refused *StatusError
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

// ask sends one request and reads a 2xx answer into a value.
func (c *Client) ask(ctx context.Context, method, path string, body []byte, into any) (err error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://sipward"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := c.http.Do(r)
	if err != nil {
		return noAnswer(err)
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	if err := refusal(res); err != nil {
		return err
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, mostAnswer)).Decode(into); err != nil {
		return fmt.Errorf("answer of the edge: %w", err)
	}
	return nil
}

func noAnswer(err error) error {
	var lost noEdge
	if errors.As(err, &lost) { // without the address that means nothing
		return lost
	}
	return fmt.Errorf("the edge gave no answer: %w", err)
}

// refusal is the error that an answer is.
func refusal(res *http.Response) error {
	if res.StatusCode/100 == 2 {
		return nil
	}
	var f failure
	if err := json.NewDecoder(io.LimitReader(res.Body, mostAnswer)).Decode(&f); err != nil || f.Error == "" {
		f.Error = "the edge answered " + res.Status
	}
	return &StatusError{res.StatusCode, f.Error}
}
