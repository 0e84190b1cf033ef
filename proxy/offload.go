package proxy

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/sipward/sipward/proxy/nft"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/security"
)

// Bounds of the socket filter: it is a program that runs for every datagram.
const (
	filter4 = 1024
	filter6 = 256
)

const (
	// filterAgain is how often the hottest sources are looked for where not all fit.
	filterAgain = 5 * time.Second
	// followShare is which part of a processor the kernel's lists may cost: one in that
	// many. Forged addresses can be banned by the thousand a second.
	followShare = 20
)

// offload has the kernel drop what comes from banned sources, so that a flood costs
// the process nothing: by nftables, which sees UDP and TCP, where that is permitted,
// else by a filter on our UDP sockets. It only ever helps: what it lets through is
// dropped here.
type offload struct {
	mu      sync.Mutex // guards what follows
	version uint64     // of the Book that was followed last
	next    time.Duration
	full    bool                              // not all bans fit
	filter  map[security.Source]struct{}      // in the sockets' filter
	options nft.Options                       // of the table
	table   *nft.Table                        // nil: there is none
	inTable map[security.Source]time.Duration // until when
	refused string                            // why the kernel does not do it all
	dropped uint64                            // by the table, when it was last looked at
	before  uint64                            // by those before it
}

// open makes the table, empty. It returns, in words, what the kernel will do.
func (o *offload) open(c string, listeners []*transport.Listener) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c == "off" {
		o.refused = "kernel_offload is off"
		return o.refused
	}
	o.options = nft.Options{Name: tableName(listeners), Ports: portsOf(listeners)}
	table, err := nft.Open(o.options)
	if err != nil {
		o.refused, o.filter = err.Error(), map[security.Source]struct{}{}
		return "socket filter; not by nftables: " + o.refused
	}
	o.table, o.inTable = table, map[security.Source]time.Duration{}
	return "nftables"
}

// tableName is one that no other edge on this host has.
func tableName(listeners []*transport.Listener) string {
	name := []byte(nft.DefaultName)
	if len(listeners) > 0 {
		name = fmt.Appendf(name, "_%s_%s", listeners[0].Proto().Param(), listeners[0].Bound())
	}
	for i, c := range name {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789", rune(c)) {
			name[i] = '_'
		}
	}
	return string(name)
}

func portsOf(listeners []*transport.Listener) (all []nft.Port) {
	for _, l := range listeners {
		p := nft.Port{Proto: nft.TCP, Addr: l.Bound().Addr().WithZone(""), Port: l.Bound().Port()}
		if l.Proto() == wire.UDP {
			p.Proto = nft.UDP
		}
		all = append(all, p)
	}
	return all
}

// close takes back what the kernel was told.
func (o *offload) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.table == nil {
		return nil
	}
	err := o.table.Close()
	o.table = nil
	return err
}

// isCurrent says that the kernel knows of this version of the Book all that it can, or
// has to wait for it.
func (o *offload) isCurrent(version uint64, now time.Duration) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return now < o.next || o.version == version && !o.full
}

// outdate has the Book followed anew: who is trusted may have changed.
func (o *offload) outdate() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.version, o.next = 0, 0
}

// where says what in the kernel drops a source; empty: nothing does.
func (o *offload) where(s security.Source) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.inTable[s]; ok {
		return "nftables"
	}
	if _, ok := o.filter[s]; ok {
		return "filter"
	}
	return ""
}

// status says in words what the kernel does.
func (o *offload) status() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.table != nil:
		return fmt.Sprintf("nftables: %d sources", len(o.inTable))
	case o.filter == nil:
		return "none: " + o.refused
	}
	return fmt.Sprintf("socket filter: %d sources", len(o.filter))
}

// look says how many packets the table dropped, and whether there is another one now: a
// firewall that is loaded anew takes away all tables that it does not know.
func (o *offload) look(e *Edge) (dropped uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.table == nil {
		return o.before
	}
	n, _, err := o.table.Dropped()
	if err != nil {
		o.remakeLocked(e, err)
		return o.before
	}
	o.dropped = n
	return o.before + n
}

// remakeLocked makes the table anew, empty, after an error.
func (o *offload) remakeLocked(e *Edge, why error) {
	o.before, o.dropped = o.before+o.dropped, 0
	o.version, o.next = 0, 0
	table, err := nft.Open(o.options)
	if err == nil {
		o.table, o.inTable = table, map[security.Source]time.Duration{}
		e.log.Op().Warn().Err(why).Msg("the nftables table was gone or refused a change, and is made anew")
		return
	}
	o.giveUpLocked(e, err)
}

// giveUpLocked does without the table: a kernel that says no twice is asked no more.
func (o *offload) giveUpLocked(e *Edge, why error) {
	e.log.Op().Warn().Err(why).Msg("nftables cannot be used any more; bans are enforced by socket filters and in the process")
	_ = o.table.Close() // it has its say above
	o.table, o.inTable, o.refused = nil, nil, why.Error()
}

// follow brings the kernel up to the Book.
func (o *offload) follow(e *Edge, s *security.Settings, now time.Duration) {
	began := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	version := e.guard.Book.Version()
	if s.Config().KernelOffload != "off" {
		if err := o.followTableLocked(e, s, now); err != nil {
			o.remakeLocked(e, err)
			if err := o.followTableLocked(e, s, now); err != nil {
				o.giveUpLocked(e, err)
			}
		}
		if o.table == nil {
			o.followFilterLocked(e, s, now)
		}
	}
	o.version, o.next = version, now+followShare*time.Since(began)
	if o.full {
		o.next = max(o.next, now+filterAgain)
	}
}

// followTableLocked changes what differs in the table, if there is one.
func (o *offload) followTableLocked(e *Edge, s *security.Settings, now time.Duration) error {
	if o.table == nil {
		return nil
	}
	var add, remove []nft.Element
	want := make(map[security.Source]time.Duration, len(o.inTable))
	e.guard.Book.HardSources(now, func(x security.Source, until time.Duration) {
		if s.Touches(x) {
			return
		}
		want[x] = until
		if o.inTable[x] != until {
			add = append(add, nft.Element{Prefix: x.Prefix(), Timeout: max(until-now, time.Millisecond)})
		}
	})
	for x, until := range o.inTable {
		if _, ok := want[x]; !ok && until > now { // else it is gone by itself
			remove = append(remove, nft.Element{Prefix: x.Prefix()})
		}
	}
	err := o.table.Remove(remove)
	if err == nil {
		err = o.table.Add(add)
	}
	if err == nil {
		o.inTable = want
	}
	return err
}

// followFilterLocked chooses whom the sockets' filter drops.
func (o *offload) followFilterLocked(e *Edge, s *security.Settings, now time.Duration) {
	book := e.guard.Book
	four, full4 := o.chooseLocked(e, s, book.Hottest(2*filter4, true, now), true, now)
	six, full6 := o.chooseLocked(e, s, book.Hottest(2*filter6, false, now), false, now)
	var v4 []netip.Addr
	var v6 []netip.Prefix
	for _, x := range four {
		v4 = append(v4, x.Prefix().Addr())
	}
	for _, x := range six {
		v6 = append(v6, x.Prefix())
	}
	in4, in6, err := e.net.Filter(v4, v6)
	if err != nil {
		o.refused = err.Error()
	}
	o.filter = make(map[security.Source]struct{}, in4+in6)
	for _, x := range four[:min(in4, len(four))] {
		o.filter[x] = struct{}{}
	}
	for _, x := range six[:min(in6, len(six))] {
		o.filter[x] = struct{}{}
	}
	o.full = full4 || full6 || in4 < len(four) || in6 < len(six)
}

// chooseLocked takes those that are in and still banned, then the hottest: whom the
// kernel drops looks cold, for nobody counts it here. Nobody is taken whose /64 holds
// an address that is trusted.
func (o *offload) chooseLocked(e *Edge, s *security.Settings, hot []security.Source, is4 bool, now time.Duration) (chosen []security.Source, full bool) {
	most := filter4
	if !is4 {
		most = filter6
	}
	for x := range o.filter {
		if x.Is4() == is4 && e.guard.Book.Source(x, now) == security.Hard && !s.Touches(x) {
			chosen = append(chosen, x)
		}
	}
	for _, x := range hot {
		if len(chosen) >= most {
			return chosen, true
		}
		if _, in := o.filter[x]; !in && !s.Touches(x) {
			chosen = append(chosen, x)
		}
	}
	return chosen, false
}
