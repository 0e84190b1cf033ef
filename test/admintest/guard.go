// Package admintest has the parts of an edge that the tests of the admin socket and of the commands administer: they
// keep what they are told in memory, and nothing of a network.
package admintest

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sipward/sipward/proxy"
)

// Noon is when everything happens.
var Noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Trusted is the address that a Guard never bans, and Unexplained the one that it cannot explain.
const (
	Trusted     = "10.0.0.1"
	Unexplained = "192.0.2.99"
)

var errTrusted = errors.New(Trusted + ` is never banned: it is backend "pbx1"`)

// Guard is an edge that knows bans and nothing else of security. The zero value has none.
type Guard struct {
	mu  sync.Mutex // guards what follows
	all []proxy.BanInfo
}

// SetBans replaces all bans.
func (e *Guard) SetBans(all []proxy.BanInfo) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = slices.Clone(all)
}

func (e *Guard) Bans(f proxy.BanFilter) (all []proxy.BanInfo) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, b := range e.all {
		isUser := strings.Contains(b.Key, "@")
		if f.Kind == "ip" && isUser || f.Kind == "user" && !isUser || f.Rule != "" && f.Rule != b.Rule || !strings.Contains(b.Key, f.Key) {
			continue
		}
		if all = append(all, b); len(all) == f.Limit {
			break
		}
	}
	return all
}

func (e *Guard) Ban(key string) (proxy.BanInfo, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.all, func(b proxy.BanInfo) bool { return b.Key == key })
	if i < 0 {
		return proxy.BanInfo{}, false
	}
	return e.all[i], true
}

func (e *Guard) AddBan(n proxy.NewBan) (proxy.BanInfo, error) {
	if n.Key == Trusted {
		return proxy.BanInfo{}, errTrusted
	}
	b := proxy.BanInfo{Key: n.Key, Rule: "operator", Since: Noon, Until: Noon.Add(time.Duration(n.For) * time.Second), Hard: true, By: n.By, Why: n.Why}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, b)
	return b, nil
}

func (e *Guard) RemoveBan(key string) (proxy.BanInfo, bool, error) {
	was, ok := e.Ban(key)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = slices.DeleteFunc(e.all, func(b proxy.BanInfo) bool { return b.Key == key })
	return was, ok, nil
}

func (e *Guard) FlushBans() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := len(e.all)
	e.all = nil
	return n
}

func (e *Guard) ImportBans(all []proxy.BanInfo) (added, skipped int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	known := map[string]bool{Trusted: true}
	for _, b := range e.all {
		known[b.Key] = true
	}
	for _, b := range all {
		if known[b.Key] {
			skipped++
			continue
		}
		known[b.Key] = true
		e.all = append(e.all, b)
		added++
	}
	return added, skipped, nil
}

func (e *Guard) Explain(key string) (proxy.Explanation, error) {
	if key == Unexplained {
		return proxy.Explanation{}, errors.New("cannot say")
	}
	return proxy.Explanation{Key: key, Verdict: "passes", Why: "nothing stops it"}, nil
}

func (e *Guard) SecurityStats() proxy.SecurityStats {
	return proxy.SecurityStats{Bans: len(e.Bans(proxy.BanFilter{}))}
}
