package main

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sipward/sipward/proxy"
)

// knownBans is an edge that knows bans. 10.0.0.1 is trusted.
type knownBans struct {
	banned sync.Mutex // guards what follows
	bans   []proxy.BanInfo
}

func (e *knownBans) Bans(f proxy.BanFilter) (all []proxy.BanInfo) {
	e.banned.Lock()
	defer e.banned.Unlock()
	for _, b := range e.bans {
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

func (e *knownBans) Ban(key string) (proxy.BanInfo, bool) {
	e.banned.Lock()
	defer e.banned.Unlock()
	i := slices.IndexFunc(e.bans, func(b proxy.BanInfo) bool { return b.Key == key })
	if i < 0 {
		return proxy.BanInfo{}, false
	}
	return e.bans[i], true
}

func (e *knownBans) AddBan(n proxy.NewBan) (proxy.BanInfo, error) {
	if n.Key == "10.0.0.1" {
		return proxy.BanInfo{}, errors.New(`10.0.0.1 is never banned: it is backend "pbx1"`)
	}
	b := proxy.BanInfo{Key: n.Key, Rule: "operator", Since: noon, Until: noon.Add(time.Duration(n.For) * time.Second), Hard: true, By: n.By, Why: n.Why}
	e.banned.Lock()
	defer e.banned.Unlock()
	e.bans = append(e.bans, b)
	return b, nil
}

func (e *knownBans) RemoveBan(key string) (proxy.BanInfo, bool, error) {
	was, ok := e.Ban(key)
	e.banned.Lock()
	defer e.banned.Unlock()
	e.bans = slices.DeleteFunc(e.bans, func(b proxy.BanInfo) bool { return b.Key == key })
	return was, ok, nil
}

func (e *knownBans) FlushBans() int {
	e.banned.Lock()
	defer e.banned.Unlock()
	n := len(e.bans)
	e.bans = nil
	return n
}

func (e *knownBans) ImportBans(all []proxy.BanInfo) (added, skipped int, err error) {
	for _, b := range all {
		if _, ok := e.Ban(b.Key); ok || b.Key == "10.0.0.1" {
			skipped++
			continue
		}
		e.banned.Lock()
		e.bans = append(e.bans, b)
		e.banned.Unlock()
		added++
	}
	return added, skipped, nil
}

func (e *knownBans) Explain(key string) (proxy.Explanation, error) {
	return proxy.Explanation{Key: key, Verdict: "passes", Why: "nothing stops it"}, nil
}

func (e *knownBans) SecurityStats() proxy.SecurityStats { return proxy.SecurityStats{Bans: 7} }
