package proxy

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/sipward/sipward/security"
)

// Bounds of the socket filter: it is a program that runs for every datagram.
const (
	filter4 = 1024
	filter6 = 256
)

// filterAgain is how often the hottest sources are looked for where not all fit.
const filterAgain = 5 * time.Second

// offload has the kernel drop what comes from banned sources, so that a flood costs
// the process nothing. It only ever helps: what it lets through is dropped here.
// watch alone writes to it.
type offload struct {
	mu      sync.Mutex // guards what follows
	version uint64     // of the Book that was followed last
	at      time.Duration
	full    bool                         // not all bans fit
	filter  map[security.Source]struct{} // in the sockets' filter
	refused string                       // why there is no filter
}

// isCurrent says that the kernel knows of this version of the Book all that it can.
func (o *offload) isCurrent(version uint64, now time.Duration) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.version == version && !(o.full && now-o.at >= filterAgain)
}

// where says what in the kernel drops a source; empty: nothing does.
func (o *offload) where(s security.Source) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.filter[s]; ok {
		return "filter"
	}
	return ""
}

// status says in words what the kernel does.
func (o *offload) status() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.refused != "" {
		return "none: " + o.refused
	}
	return fmt.Sprintf("socket filter: %d sources", len(o.filter))
}

// follow brings the kernel up to the Book.
func (o *offload) follow(e *Edge, s *security.Settings, now time.Duration) {
	book := e.guard.Book
	version := book.Version()
	if s.Config().KernelOffload == "off" {
		o.followed(version, now, nil, false, "kernel_offload is off")
		return
	}
	keep := o.kept(e, now)
	four, full4 := choose(s, keep, book.Hottest(2*filter4, true, now), true, filter4)
	six, full6 := choose(s, keep, book.Hottest(2*filter6, false, now), false, filter6)
	var v4 []netip.Addr
	var v6 []netip.Prefix
	for _, x := range four {
		v4 = append(v4, x.Prefix().Addr())
	}
	for _, x := range six {
		v6 = append(v6, x.Prefix())
	}
	in4, in6, err := e.net.Filter(v4, v6)
	installed := map[security.Source]struct{}{}
	for _, x := range append(four[:min(in4, len(four)):min(in4, len(four))], six[:min(in6, len(six))]...) {
		installed[x] = struct{}{}
	}
	why := ""
	if err != nil {
		why = err.Error()
	}
	o.followed(version, now, installed, full4 || full6 || in4 < len(four) || in6 < len(six), why)
}

// kept are the sources in the filter that are still banned: whom the kernel drops
// looks cold, for nobody counts it here.
func (o *offload) kept(e *Edge, now time.Duration) map[security.Source]struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	keep := map[security.Source]struct{}{}
	for s := range o.filter {
		if e.guard.Book.Source(s, now) == security.Hard {
			keep[s] = struct{}{}
		}
	}
	return keep
}

// choose takes those that are in, then the hottest. Nobody is taken whose /64 holds
// an address that is trusted.
func choose(s *security.Settings, keep map[security.Source]struct{}, hot []security.Source, is4 bool, most int) (chosen []security.Source, full bool) {
	for x := range keep {
		if x.Is4() == is4 && !s.Touches(x) {
			chosen = append(chosen, x)
		}
	}
	for _, x := range hot {
		if len(chosen) >= most {
			return chosen, true
		}
		if _, in := keep[x]; !in && !s.Touches(x) {
			chosen = append(chosen, x)
		}
	}
	return chosen, false
}

func (o *offload) followed(version uint64, now time.Duration, in map[security.Source]struct{}, full bool, refused string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.version, o.at, o.filter, o.full, o.refused = version, now, in, full, refused
}
