package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sipward/sipward/proxy"
)

// Numbers we chose.
const (
	MaxImport  = 500                  // bans in one request
	mostImport = 1 << 20              // bytes of it
	mostWords  = 200                  // bytes of what an operator calls himself, and of his reason
	longestBan = 10 * 365 * 24 * 3600 // seconds
)

// all is the limit of a listing that has none.
const all = "all"

// BanList is the answer to GET /v1/bans, the body of POST, and what an export is.
type BanList struct {
	Bans []proxy.BanInfo `json:"bans"`
	More bool            `json:"more"` // others match, beyond the limit
}

// Imported is the answer to POST /v1/bans.
type Imported struct {
	Added   int `json:"added"`
	Skipped int `json:"skipped"` // over, trusted, or banned already
}

// lifted is the answer to DELETE /v1/bans.
type lifted struct {
	Lifted int `json:"lifted"`
}

// newBan is the body of PUT /v1/bans/{key}.
type newBan struct {
	For float64 `json:"for"` // seconds, 0 = the configured time
	By  string  `json:"by"`
	Why string  `json:"why"`
}

func (s *Server) listBans(r *http.Request) answer {
	f, every, err := banFilterOf(r.URL.RawQuery)
	if err != nil {
		return refuse(http.StatusBadRequest, "%v", err)
	}
	if every {
		return s.exportBans(f)
	}
	var l BanList
	l.Bans, l.More = upTo(f.Limit, func(n int) []proxy.BanInfo {
		f.Limit = n
		return s.edge.Bans(f)
	})
	return say(http.StatusOK, l)
}

// exportBans lists all bans. The edge may hold some 100,000: they become JSON one
// by one, and one such listing is made at a time.
func (s *Server) exportBans(f proxy.BanFilter) answer {
	if !s.exporting.TryLock() {
		return refuse(http.StatusConflict, "another listing of all bans is under way; try again")
	}
	return answer{status: http.StatusOK, stream: func(w io.Writer) error {
		defer s.exporting.Unlock()
		b := bufio.NewWriterSize(w, 64<<10)
		_, _ = b.WriteString(`{"bans":[`) // an error stays in b
		e := json.NewEncoder(b)
		e.SetEscapeHTML(false)
		for i, ban := range s.edge.Bans(f) {
			if i > 0 {
				_ = b.WriteByte(',')
			}
			if err := e.Encode(ban); err != nil {
				return err
			}
		}
		_, _ = b.WriteString("],\"more\":false}\n")
		return b.Flush()
	}}
}

// banFilterKeys are what GET /v1/bans takes.
var banFilterKeys = []string{"kind", "rule", "key", "limit"}

// banFilterOf reads the query of GET /v1/bans.
func banFilterOf(query string) (f proxy.BanFilter, every bool, err error) {
	values, err := queryOf(query, banFilterKeys)
	if err != nil {
		return f, false, err
	}
	f.Kind, f.Rule, f.Key = values.Get("kind"), values.Get("rule"), values.Get("key")
	if f.Kind != "" && !slices.Contains(proxy.BanKinds, f.Kind) {
		return f, false, fmt.Errorf("kind %q: %s", f.Kind, strings.Join(proxy.BanKinds, " or "))
	}
	if f.Rule != "" && !slices.Contains(proxy.BanRules, f.Rule) {
		return f, false, fmt.Errorf("rule %q: %s", f.Rule, strings.Join(proxy.BanRules, ", "))
	}
	if values.Get("limit") == all {
		return f, true, nil
	}
	f.Limit, err = limitOf(values)
	return f, false, err
}

// keyed calls a handler with the key of the path.
func keyed(r *http.Request, handle func(key string) answer) answer {
	key, err := proxy.BanKey(r.PathValue("key"))
	if err != nil {
		return refuse(http.StatusBadRequest, "key %q: %v", r.PathValue("key"), err)
	}
	return handle(key)
}

func noBan(key string) answer { return refuse(http.StatusNotFound, "no ban of %s", key) }

func (s *Server) showBan(r *http.Request) answer {
	return keyed(r, func(key string) answer {
		b, ok := s.edge.Ban(key)
		if !ok {
			return noBan(key)
		}
		return say(http.StatusOK, b)
	})
}

func (s *Server) addBan(r *http.Request) answer {
	return keyed(r, func(key string) answer {
		n, err := newBanOf(r.Body)
		if err != nil {
			return badBody(err)
		}
		b, err := s.edge.AddBan(proxy.NewBan{Key: key, For: n.For, By: n.By, Why: n.Why})
		if err != nil {
			return refuse(http.StatusConflict, "%v", err)
		}
		return say(http.StatusOK, b)
	})
}

// newBanOf reads the body of PUT /v1/bans/{key}.
func newBanOf(body io.Reader) (newBan, error) {
	var n newBan
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	if err := d.Decode(&n); err != nil {
		return n, fmt.Errorf(`body: want {"for": 3600, "by": "who", "why": "…"}: %w`, err)
	}
	switch {
	case n.For < 0 || n.For > longestBan || n.For != 0 && n.For < 1:
		return n, fmt.Errorf("for %v: 1 to %d seconds, or 0 for the configured time", n.For, longestBan)
	case len(n.By) > mostWords:
		return n, fmt.Errorf("by: more than %d bytes", mostWords)
	case len(n.Why) > mostWords:
		return n, fmt.Errorf("why: more than %d bytes", mostWords)
	}
	if n.By == "" {
		n.By = "admin"
	}
	return n, nil
}

func (s *Server) removeBan(r *http.Request) answer {
	return keyed(r, func(key string) answer {
		was, ok, err := s.edge.RemoveBan(key)
		switch {
		case err != nil:
			return refuse(http.StatusConflict, "%v", err)
		case !ok:
			return noBan(key)
		}
		return say(http.StatusOK, was)
	})
}

func (s *Server) flushBans(*http.Request) answer {
	return say(http.StatusOK, lifted{s.edge.FlushBans()})
}

func (s *Server) importBans(r *http.Request) answer {
	bans, err := importOf(r.Body)
	if err != nil {
		return badBody(err)
	}
	added, skipped, err := s.edge.ImportBans(bans)
	if err != nil {
		return refuse(http.StatusConflict, "%v", err)
	}
	return say(http.StatusOK, Imported{added, skipped})
}

// importOf reads the body of POST /v1/bans. A field that is unknown is of a version
// to come and does no harm; a key that cannot be read is refused with all others.
func importOf(body io.Reader) ([]proxy.BanInfo, error) {
	var l BanList
	if err := json.NewDecoder(body).Decode(&l); err != nil {
		return nil, fmt.Errorf(`body: want {"bans": […]}: %w`, err)
	}
	if len(l.Bans) > MaxImport {
		return nil, fmt.Errorf("%d bans, at most %d at a time", len(l.Bans), MaxImport)
	}
	for i := range l.Bans {
		b := &l.Bans[i]
		key, err := proxy.BanKey(b.Key)
		if err != nil {
			return nil, fmt.Errorf("bans[%d]: key %q: %w", i, b.Key, err)
		}
		if b.Rule != "" && !slices.Contains(proxy.BanRules, b.Rule) {
			return nil, fmt.Errorf("bans[%d]: rule %q: %s", i, b.Rule, strings.Join(proxy.BanRules, ", "))
		}
		b.Key = key
		if len(b.By) > mostWords || len(b.Why) > mostWords {
			return nil, fmt.Errorf("bans[%d]: by or why: more than %d bytes", i, mostWords)
		}
	}
	return l.Bans, nil
}

func (s *Server) explain(r *http.Request) answer {
	return keyed(r, func(key string) answer {
		x, err := s.edge.Explain(key)
		if err != nil {
			return refuse(http.StatusConflict, "%v", err)
		}
		return say(http.StatusOK, x)
	})
}

func (s *Server) security(*http.Request) answer { return say(http.StatusOK, s.edge.SecurityStats()) }

// Bans lists the bans that match. A Limit of zero is DefaultLimit.
func (c *Client) Bans(ctx context.Context, f proxy.BanFilter) (BanList, error) {
	var l BanList
	err := c.ask(ctx, http.MethodGet, bansPath(f, limitText(f.Limit)), nil, &l)
	return l, err
}

func bansPath(f proxy.BanFilter, limit string) string {
	return listing("/v1/bans", map[string]string{"kind": f.Kind, "rule": f.Rule, "key": f.Key, "limit": limit})
}

// AllBans calls do with each ban that matches, however many there are, until it
// returns an error.
func (c *Client) AllBans(ctx context.Context, f proxy.BanFilter, do func(proxy.BanInfo) error) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(exportTime, func() { cancel(errSilent) })
	defer silent.Stop()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errSilent) {
			err = errSilent
		}
	}()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sipward"+bansPath(f, all), nil)
	if err != nil {
		return err
	}
	patient := *c.http
	patient.Timeout = 0 // of the whole: silent is for each part
	res, err := patient.Do(r)
	if err != nil {
		return noAnswer(err)
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	if err := refusal(res); err != nil {
		return err
	}
	if err := ReadBans(timed{res.Body, silent}, do); err != nil {
		return fmt.Errorf("answer of the edge: %w", err)
	}
	return nil
}

var errSilent = fmt.Errorf("the edge was silent for %v", exportTime)

// timed gives each read exportTime, and who reads all the time he wants in between.
type timed struct {
	in     io.Reader
	silent *time.Timer
}

func (t timed) Read(b []byte) (int, error) {
	t.silent.Reset(exportTime)
	defer t.silent.Stop()
	return t.in.Read(b)
}

// ReadBans calls do with each ban of a BanList or of a bare array of bans, and
// returns the first error. It holds one at a time.
func ReadBans(in io.Reader, do func(proxy.BanInfo) error) error {
	d := json.NewDecoder(in)
	err := errNoBans
	switch first, bad := d.Token(); {
	case bad != nil:
		return bad
	case first == json.Delim('['):
		err = readArray(d, do)
	case first == json.Delim('{'):
		err = readList(d, do)
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readList reads the rest of a BanList that has begun.
func readList(d *json.Decoder, do func(proxy.BanInfo) error) error {
	found := false
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		if name != "bans" {
			var other json.RawMessage
			if err := d.Decode(&other); err != nil {
				return err
			}
			continue
		}
		if begin, err := d.Token(); err != nil || begin != json.Delim('[') {
			return errors.Join(errNoBans, err)
		}
		if err := readArray(d, do); err != nil {
			return err
		}
		found = true
	}
	if _, err := d.Token(); err != nil {
		return err
	}
	if !found {
		return errNoBans
	}
	return nil
}

var errNoBans = errors.New(`want {"bans": […]}`)

// readArray reads the bans of an array that has begun, and its end.
func readArray(d *json.Decoder, do func(proxy.BanInfo) error) error {
	for d.More() {
		var b proxy.BanInfo
		if err := d.Decode(&b); err != nil {
			return err
		}
		if err := do(b); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

// Ban finds the ban of a key; false: there is none.
func (c *Client) Ban(ctx context.Context, key string) (proxy.BanInfo, bool, error) {
	var b proxy.BanInfo
	found, err := c.find(ctx, http.MethodGet, banPath(key), &b)
	return b, found, err
}

func banPath(key string) string { return "/v1/bans/" + element(key) }

// AddBan bans a source or a user.
func (c *Client) AddBan(ctx context.Context, n proxy.NewBan) (proxy.BanInfo, error) {
	var b proxy.BanInfo
	if math.IsNaN(n.For) || math.IsInf(n.For, 0) {
		return b, fmt.Errorf("a ban for %v seconds", n.For)
	}
	body, err := json.Marshal(newBan{For: n.For, By: n.By, Why: n.Why})
	if err != nil {
		return b, err
	}
	err = c.ask(ctx, http.MethodPut, banPath(n.Key), body, &b)
	return b, err
}

// RemoveBan lifts the ban of a key and returns it as it was; false: there was none.
func (c *Client) RemoveBan(ctx context.Context, key string) (proxy.BanInfo, bool, error) {
	var was proxy.BanInfo
	found, err := c.find(ctx, http.MethodDelete, banPath(key), &was)
	return was, found, err
}

// FlushBans lifts all bans and returns how many there were.
func (c *Client) FlushBans(ctx context.Context) (int, error) {
	var l lifted
	err := c.ask(ctx, http.MethodDelete, "/v1/bans", nil, &l)
	return l.Lifted, err
}

// ImportBans hands bans to the edge, so many at a time that it goes on with its
// calls. after, if not nil, is told how many went. With an error, what was sent
// before stays.
func (c *Client) ImportBans(ctx context.Context, bans []proxy.BanInfo, after func(sent int)) (Imported, error) {
	var sum Imported
	for sent := 0; sent < len(bans); {
		body, n, err := batch(bans[sent:])
		if err != nil {
			return sum, err
		}
		var part Imported
		if err := c.ask(ctx, http.MethodPost, "/v1/bans", body, &part); err != nil {
			return sum, err
		}
		sum.Added += part.Added
		sum.Skipped += part.Skipped
		sent += n
		if after != nil {
			after(sent)
		}
	}
	return sum, nil
}

// batch is a request with as many of the bans as fit.
func batch(bans []proxy.BanInfo) (body []byte, n int, err error) {
	const end = "]}"
	b := bytes.NewBufferString(`{"bans":[`)
	for n < len(bans) && n < MaxImport {
		one, err := json.Marshal(bans[n])
		if err != nil {
			return nil, 0, err
		}
		if n > 0 {
			if b.Len()+len(one)+len(end) >= mostImport {
				break
			}
			b.WriteByte(',')
		}
		b.Write(one)
		n++
	}
	b.WriteString(end)
	return b.Bytes(), n, nil
}

// Explain says what happens to a message of a source or a user now, and why.
func (c *Client) Explain(ctx context.Context, key string) (proxy.Explanation, error) {
	var x proxy.Explanation
	err := c.ask(ctx, http.MethodGet, "/v1/explain/"+element(key), nil, &x)
	return x, err
}

// SecurityStats returns what the protections did since the start of the edge.
func (c *Client) SecurityStats(ctx context.Context) (proxy.SecurityStats, error) {
	var s proxy.SecurityStats
	err := c.ask(ctx, http.MethodGet, "/v1/security", nil, &s)
	return s, err
}
