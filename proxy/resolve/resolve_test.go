package resolve

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

const hostRecords = `
a.example.org. A 192.0.2.1
b.example.org. A 192.0.2.2
c.example.org. A 192.0.2.3
c.example.org. AAAA 2001:db8::3
`

// TestServersOfADomain is RFC 3263 sections 4.1 and 4.2 by example.
func TestServersOfADomain(t *testing.T) {
	cases := []struct {
		name, zone, uri, want string
	}{
		{"NAPTR chooses the transport", `
			example.org. NAPTR 10 50 "s" "SIPS+D2T" "" _sips._tcp.example.org.
			example.org. NAPTR 20 50 "s" "SIP+D2T" "" _sip._tcp.example.org.
			example.org. NAPTR 20 60 "S" "sip+d2u" "" _sip._udp.example.org.
			_sips._tcp.example.org. SRV 0 1 5061 a.example.org.
			_sip._tcp.example.org. SRV 0 1 5060 b.example.org.
			_sip._udp.example.org. SRV 0 1 5060 c.example.org.`,
			"sip:example.org", "tls 192.0.2.1:5061, tcp 192.0.2.2:5060, udp 192.0.2.3:5060, udp [2001:db8::3]:5060"},
		{"NAPTR of other services, flags and with regular expressions is ignored", `
			example.org. NAPTR 1 1 "u" "E2U+sip" "!^.*$!sip:x@example.org!" .
			example.org. NAPTR 2 1 "s" "SIP+D2S" "" _sip._sctp.example.org.
			example.org. NAPTR 3 1 "a" "SIP+D2T" "" a.example.org.
			example.org. NAPTR 4 1 "s" "SIP+D2T" "" _other._tcp.example.net.
			_other._tcp.example.net. SRV 0 1 5080 a.example.org.`,
			"sip:example.org", "tcp 192.0.2.1:5080"},
		{"sips takes nothing but TLS", `
			example.org. NAPTR 10 50 "s" "SIP+D2U" "" _sip._udp.example.org.
			example.org. NAPTR 20 50 "s" "SIPS+D2T" "" _sips._tcp.example.org.
			_sip._udp.example.org. SRV 0 1 5060 a.example.org.
			_sips._tcp.example.org. SRV 0 1 5061 b.example.org.`,
			"sips:example.org", "tls 192.0.2.2:5061"},
		{"sips without a record for TLS", `
			example.org. NAPTR 10 50 "s" "SIP+D2U" "" _sip._udp.example.org.
			_sip._udp.example.org. SRV 0 1 5060 a.example.org.
			example.org. A 192.0.2.9`,
			"sips:example.org", "tls 192.0.2.9:5061"},
		{"NAPTR that leads nowhere falls back to SRV", `
			example.org. NAPTR 10 50 "s" "SIP+D2T" "" _gone._tcp.example.org.
			_sip._udp.example.org. SRV 0 1 5060 a.example.org.`,
			"sip:example.org", "udp 192.0.2.1:5060"},
		{"no NAPTR: SRV for UDP", `
			_sip._udp.example.org. SRV 0 1 5070 a.example.org.
			_sip._tcp.example.org. SRV 0 1 5060 b.example.org.`,
			"sip:example.org", "udp 192.0.2.1:5070"},
		{"no NAPTR, no UDP: SRV for TCP", `_sip._tcp.example.org. SRV 0 1 5060 b.example.org.`,
			"sip:example.org", "tcp 192.0.2.2:5060"},
		{"no NAPTR, no SRV: the address", `example.org. A 192.0.2.9`,
			"sip:example.org", "udp 192.0.2.9:5060"},
		{"both families, IPv4 first", ``,
			"sip:c.example.org", "udp 192.0.2.3:5060, udp [2001:db8::3]:5060"},
		{"IPv6 alone", `six.example.org. AAAA 2001:db8::6`,
			"sip:six.example.org", "udp [2001:db8::6]:5060"},
		{"a transport goes to its SRV", `
			example.org. NAPTR 10 50 "s" "SIP+D2U" "" _sip._udp.example.org.
			_sip._udp.example.org. SRV 0 1 5060 a.example.org.
			_sip._tcp.example.org. SRV 0 1 5062 b.example.org.`,
			"sip:example.org;transport=tcp", "tcp 192.0.2.2:5062"},
		{"transport=tls goes to the SRV of sips", `_sips._tcp.example.org. SRV 0 1 5061 b.example.org.`,
			"sip:example.org;transport=TLS", "tls 192.0.2.2:5061"},
		{"a transport without SRV goes to the address", `example.org. A 192.0.2.9`,
			"sip:example.org;transport=tls", "tls 192.0.2.9:5061"},
		{"WebSocket has no SRV", `example.org. A 192.0.2.9`,
			"sip:example.org;transport=wss", "wss 192.0.2.9:443"},
		{"a port goes to the address", `
			_sip._udp.example.org. SRV 0 1 5060 a.example.org.
			example.org. A 192.0.2.9`,
			"sip:example.org:5080", "udp 192.0.2.9:5080"},
		{"a port with sips", `example.org. A 192.0.2.9`,
			"sips:example.org:5080", "tls 192.0.2.9:5080"},
		{"maddr takes the place of the host", ``,
			"sip:example.org;maddr=a.example.org", "udp 192.0.2.1:5060"},
		{"priorities in order", `
			_sip._udp.example.org. SRV 30 1 5060 c.example.org.
			_sip._udp.example.org. SRV 10 1 5060 b.example.org.
			_sip._udp.example.org. SRV 20 1 5060 a.example.org.`,
			"sip:example.org", "udp 192.0.2.2:5060, udp 192.0.2.1:5060, udp 192.0.2.3:5060, udp [2001:db8::3]:5060"},
		{"a host that is gone does not spoil the others", `
			_sip._udp.example.org. SRV 10 1 5060 gone.example.org.
			_sip._udp.example.org. SRV 20 1 5060 a.example.org.`,
			"sip:example.org", "udp 192.0.2.1:5060"},
		{"one target for what is listed twice", `
			_sip._udp.example.org. SRV 10 1 5060 a.example.org.
			_sip._udp.example.org. SRV 20 1 5060 a.example.org.`,
			"sip:example.org", "udp 192.0.2.1:5060"},
		{"an alias", `www.example.org. CNAME a.example.org.`,
			"sip:www.example.org", "udp 192.0.2.1:5060"},
		{"an alias of an alias", `
			x.example.org. CNAME y.example.org.
			y.example.org. CNAME a.example.org.`,
			"sip:x.example.org", "udp 192.0.2.1:5060"},
		{"addresses no one can have are ignored", `
			odd.example.org. A 0.0.0.0
			odd.example.org. A 224.0.0.1
			odd.example.org. A 192.0.2.7
			odd.example.org. AAAA ::`,
			"sip:odd.example.org", "udp 192.0.2.7:5060"},
	}
	z := newZone(t, "")
	r := New(Options{Servers: []string{z.serve(t)}})
	defer r.Close()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			z.set(t, hostRecords+c.zone)
			q := query(t, c.uri)
			a := r.answer(q)
			if a.err != nil || len(a.orders) == 0 || show(a.orders[0]) != c.want {
				t.Fatalf("got %v, error %v\nwant %s", a.orders, a.err, c.want)
			}
			for _, target := range a.orders[0] {
				if target.ServerName != q.Host {
					t.Errorf("TLS name %q, want that of the query", target.ServerName)
				}
			}
		})
	}
}

func TestNamesThatLeadNowhere(t *testing.T) {
	for _, c := range []struct{ name, zone, uri string }{
		{"no such name", ``, "sip:nowhere.example.org"},
		{"no such name with a port", ``, "sip:nowhere.example.org:5060"},
		{"the domain says no", `
			_sip._udp.example.org. SRV 0 0 0 .
			_sip._tcp.example.org. SRV 0 0 5060 .
			example.org. A 192.0.2.9`, "sip:example.org"},
		{"the domain says no to a transport", `
			_sip._tcp.example.org. SRV 0 0 0 .
			example.org. A 192.0.2.9`, "sip:example.org;transport=tcp"},
		{"alias of itself", `loop.example.org. CNAME loop.example.org.`, "sip:loop.example.org"},
		{"aliases in a circle", `
			x.example.org. CNAME y.example.org.
			y.example.org. CNAME z.example.org.
			z.example.org. CNAME x.example.org.`, "sip:x.example.org"},
	} {
		t.Run(c.name, func(t *testing.T) {
			z := newZone(t, hostRecords+c.zone)
			targets, err := over(t, z, Options{}).Lookup(t.Context(), query(t, c.uri))
			if !errors.Is(err, ErrNotFound) || len(targets) != 0 {
				t.Errorf("got %s, error %v", show(targets), err)
			}
			if n := z.total(); n > 5*maxAliases {
				t.Errorf("%d questions asked", n)
			}
		})
	}
}

func TestNameServersThatFail(t *testing.T) {
	const zoneText = hostRecords + `_sip._udp.example.org. SRV 0 1 5060 a.example.org.`
	for _, c := range []struct {
		name, question string
		rcode          int
		want           string
	}{
		{"SERVFAIL to NAPTR is no NAPTR", "example.org NAPTR", dns.RcodeServerFailure, "udp 192.0.2.1:5060"},
		{"REFUSED to NAPTR is no NAPTR", "example.org NAPTR", dns.RcodeRefused, "udp 192.0.2.1:5060"},
		{"SERVFAIL to SRV is an error, not a reason to use the address", "_sip._udp.example.org SRV", dns.RcodeServerFailure, ""},
		{"SERVFAIL to AAAA leaves A", "a.example.org AAAA", dns.RcodeServerFailure, "udp 192.0.2.1:5060"},
		{"SERVFAIL to A", "a.example.org A", dns.RcodeServerFailure, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			z := newZone(t, zoneText)
			z.rcode[c.question] = c.rcode
			targets, err := over(t, z, Options{}).Lookup(t.Context(), query(t, "sip:example.org"))
			if show(targets) != c.want || (err == nil) != (c.want != "") || errors.Is(err, ErrNotFound) {
				t.Errorf("got %q, error %v", show(targets), err)
			}
		})
	}
}

func TestServerWithoutEDNSIsAskedWithout(t *testing.T) {
	z := newZone(t, hostRecords)
	r := over(t, z, Options{})
	r.exchange = func(ctx context.Context, q *dns.Msg, server, network string) (*dns.Msg, error) {
		if q.IsEdns0() != nil {
			return new(dns.Msg).SetRcodeFormatError(q).SetRcode(q, dns.RcodeFormatError), nil
		}
		return z.exchange(ctx, q, server, network)
	}
	if targets, err := r.Lookup(t.Context(), query(t, "sip:a.example.org:5060")); show(targets) != "udp 192.0.2.1:5060" {
		t.Errorf("got %s, error %v", show(targets), err)
	}
}

func TestAnswerToAnotherQuestionIsNotTaken(t *testing.T) {
	z := newZone(t, hostRecords)
	r := over(t, z, Options{})
	r.exchange = func(ctx context.Context, q *dns.Msg, server, network string) (*dns.Msg, error) {
		other := q.Copy()
		other.Question[0].Name = "b.example.org."
		return z.exchange(ctx, other, server, network)
	}
	if targets, err := r.Lookup(t.Context(), query(t, "sip:a.example.org:5060")); err == nil {
		t.Errorf("got %s", show(targets))
	}
}

func TestTruncatedAnswerIsFetchedByTCP(t *testing.T) {
	z := newZone(t, hostRecords)
	z.cut["a.example.org A"] = true
	r := New(Options{Servers: []string{z.serve(t)}})
	defer r.Close()
	targets, err := r.Lookup(t.Context(), query(t, "sip:a.example.org:5060"))
	if show(targets) != "udp 192.0.2.1:5060" || z.count("a.example.org A") != 2 {
		t.Errorf("got %s, error %v, asked %d times", show(targets), err, z.count("a.example.org A"))
	}
}

func TestSilentServerIsLeftForTheNextAndRemembered(t *testing.T) {
	dead, z := newZone(t, ""), newZone(t, hostRecords)
	dead.mute(true)
	// Time enough for the one that is alive on a busy machine.
	r := New(Options{Servers: []string{dead.serve(t), z.serve(t)}, Timeout: 3 * time.Second})
	defer r.Close()
	for _, uri := range []string{"sip:a.example.org:5060", "sip:b.example.org:5060"} {
		if targets, err := r.Lookup(t.Context(), query(t, uri)); err != nil || len(targets) != 1 {
			t.Fatalf("%s: %s, error %v", uri, show(targets), err)
		}
	}
	if n := dead.total(); n > 2 {
		t.Errorf("the silent server was asked %d times", n)
	}
}

func TestSilenceEndsInAnErrorWithinTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, hostRecords)
		z.mute(true)
		r := New(Options{Servers: []string{"192.0.2.53", "192.0.2.54"}, Timeout: time.Second})
		r.exchange = z.exchange
		defer r.Close()
		start := time.Now()
		_, err := r.Lookup(t.Context(), query(t, "sip:example.org"))
		if took := time.Since(start); err == nil || errors.Is(err, ErrNotFound) || took > lookupBudget*time.Second {
			t.Errorf("error %v after %v", err, took)
		}
	})
}

func TestAnswersAreKeptForTheirTimeToLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, `
			_sip._udp.example.org. 300 SRV 0 1 5060 a.example.org.
			a.example.org. 30 A 192.0.2.1
			blink.example.org. 0 A 192.0.2.2
			stone.example.org. 999999 A 192.0.2.3`)
		r := New(Options{Servers: []string{"192.0.2.53"}})
		r.exchange = z.exchange
		defer r.Close()
		for _, c := range []struct {
			uri string
			ttl time.Duration
		}{
			{"sip:example.org", 30 * time.Second}, // the shortest of all records
			{"sip:blink.example.org:5060", 5 * time.Second},
			{"sip:stone.example.org:5060", time.Hour},
			{"sip:nowhere.example.org", 10 * time.Second},
		} {
			q := query(t, c.uri)
			if _, ok := r.Cached(q); ok {
				t.Fatalf("%s is known before it was asked", c.uri)
			}
			_, _ = r.Lookup(t.Context(), q)
			time.Sleep(c.ttl - time.Nanosecond)
			if _, ok := r.Cached(q); !ok {
				t.Errorf("%s: forgotten before %v", c.uri, c.ttl)
			}
			time.Sleep(time.Nanosecond)
			if _, ok := r.Cached(q); ok {
				t.Errorf("%s: still known after %v", c.uri, c.ttl)
			}
		}
	})
}

func TestFailuresAreRememberedForAShortTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, "")
		r := New(Options{Servers: []string{"192.0.2.53"}})
		r.exchange = z.exchange
		defer r.Close()
		q := query(t, "sip:nowhere.example.org")
		_, first := r.Lookup(t.Context(), q)
		asked := z.total()
		if _, err := r.Lookup(t.Context(), q); !errors.Is(err, ErrNotFound) || first == nil || z.total() != asked {
			t.Errorf("error %v, %d more questions", err, z.total()-asked)
		}
		if targets, known := r.Cached(q); !known || len(targets) != 0 {
			t.Errorf("Cached: %v, %v", targets, known)
		}
		z.mute(true)
		out := query(t, "sip:out.example.org")
		_, _ = r.Lookup(t.Context(), out)
		if _, known := r.Cached(out); known {
			t.Error("an outage counts as no such name")
		}
	})
}

func TestAnswerOutlivesAnOutageUntilItsTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, hostRecords)
		r := New(Options{Servers: []string{"192.0.2.53"}})
		r.exchange = z.exchange
		defer r.Close()
		q := query(t, "sip:a.example.org:5060")
		_, _ = r.Lookup(t.Context(), q)
		z.mute(true)
		if _, err := r.renew(t.Context(), q); err == nil {
			t.Fatal("no outage")
		}
		if targets, ok := r.Cached(q); !ok || len(targets) != 1 {
			t.Error("the outage wiped out a good answer")
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	var c cache
	c.init(16)
	now := time.Now()
	hot := Query{Host: "hot"}
	c.put(hot, answer{orders: [][]Target{nil}, ttl: time.Hour}, now)
	for i := range 1000 {
		now = now.Add(time.Millisecond)
		c.put(Query{Host: fmt.Sprint(i)}, answer{ttl: time.Hour}, now)
		c.get(hot, now)
		if len(c.entries) > 16 {
			t.Fatalf("%d entries", len(c.entries))
		}
	}
	if _, _, ok := c.get(hot, now); !ok {
		t.Error("the entry in use was evicted")
	}
}

func TestCallersShareOneLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, hostRecords)
		r := New(Options{Servers: []string{"192.0.2.53"}})
		gate := make(chan struct{})
		r.exchange = func(ctx context.Context, q *dns.Msg, server, network string) (*dns.Msg, error) {
			<-gate
			return z.exchange(ctx, q, server, network)
		}
		defer r.Close()
		var answered atomic.Int32
		for range 100 {
			r.Resolve(query(t, "sip:a.example.org:5060"), func(targets []Target, err error) {
				if err == nil && len(targets) == 1 {
					answered.Add(1)
				}
			})
		}
		synctest.Wait()
		close(gate)
		synctest.Wait()
		if answered.Load() != 100 || z.count("a.example.org A") != 1 {
			t.Errorf("%d answered by %d questions", answered.Load(), z.count("a.example.org A"))
		}
	})
}

func TestTooManyLookupsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, "")
		z.mute(true)
		r := New(Options{Servers: []string{"192.0.2.53"}, MaxPending: 40})
		r.exchange = z.exchange
		var mu sync.Mutex
		errs := map[error]int{}
		for i := range 50 {
			r.Resolve(Query{Host: fmt.Sprintf("n%d.example.org", i), Port: 5060}, func(_ []Target, err error) {
				mu.Lock()
				defer mu.Unlock()
				errs[err]++
			})
		}
		for range 2 * waitersPerLookup * 40 {
			r.Resolve(Query{Host: "n1.example.org", Port: 5060}, func(_ []Target, err error) {
				mu.Lock()
				defer mu.Unlock()
				errs[err]++
			})
		}
		synctest.Wait()
		if busy, want := errs[ErrBusy], 10+2*waitersPerLookup*40-(waitersPerLookup*40-40); busy != want {
			t.Errorf("%d refused, want %d", busy, want)
		}
		if r.workers != maxWorkers {
			t.Errorf("%d workers, want %d", r.workers, maxWorkers)
		}
		r.Close()
		if errs[ErrClosed] != waitersPerLookup*40 {
			t.Errorf("%d callers heard of the end", errs[ErrClosed])
		}
		if len(r.pending) != 0 || r.waiting != 0 || r.workers != 0 {
			t.Errorf("left: %d pending, %d waiting, %d workers", len(r.pending), r.waiting, r.workers)
		}
	})
}

func TestDoneMayTakeALockThatTheCallerHolds(t *testing.T) {
	z := newZone(t, hostRecords)
	r := over(t, z, Options{})
	known := query(t, "sip:a.example.org:5060")
	_, _ = r.Lookup(t.Context(), known)
	for _, q := range []Query{known, query(t, "sip:192.0.2.1"), query(t, "sip:b.example.org")} {
		var mu sync.Mutex
		done := make(chan struct{})
		mu.Lock()
		r.Resolve(q, func([]Target, error) {
			mu.Lock()
			defer mu.Unlock()
			close(done)
		})
		mu.Unlock()
		<-done
	}
}

func TestLookupEndsWithItsContext(t *testing.T) {
	z := newZone(t, "")
	z.mute(true)
	r := over(t, z, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Lookup(ctx, query(t, "sip:example.org")); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestCloseEndsLookupsOnTheNetworkAtOnce(t *testing.T) {
	z := newZone(t, "")
	z.mute(true)
	r := New(Options{Servers: []string{z.serve(t)}, Timeout: time.Hour})
	failed := make(chan error, 1)
	r.Resolve(query(t, "sip:example.org:5060"), func(_ []Target, err error) { failed <- err })
	r.Close()
	r.Close()
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Errorf("error %v", err)
	}
	if _, err := r.Lookup(t.Context(), query(t, "sip:example.org")); !errors.Is(err, ErrClosed) {
		t.Errorf("error %v after Close", err)
	}
	r.Watch(query(t, "sip:example.org"), func([]Target, error) { t.Error("a watch after Close") })()
}

func TestLoadFollowsWeightsOfEqualPriority(t *testing.T) {
	z := newZone(t, hostRecords+`
		_sip._udp.example.org. SRV 1 60 5060 a.example.org.
		_sip._udp.example.org. SRV 1 30 5060 b.example.org.
		_sip._udp.example.org. SRV 1 10 5061 b.example.org.
		_sip._udp.example.org. SRV 1 0 5062 b.example.org.
		_sip._udp.example.org. SRV 2 0 5060 c.example.org.`)
	r := over(t, z, Options{})
	q := query(t, "sip:example.org")
	_, _ = r.Lookup(t.Context(), q)
	first := map[string]int{}
	const lookups = 1000
	for range lookups {
		targets, ok := r.Cached(q)
		if !ok || len(targets) != 6 || targets[4].Addr.String() != "192.0.2.3:5060" {
			t.Fatalf("got %s", show(targets))
		}
		first[targets[0].Addr.String()]++
	}
	for addr, want := range map[string]float64{"192.0.2.1:5060": 0.6, "192.0.2.2:5060": 0.3, "192.0.2.2:5061": 0.1} {
		if share := float64(first[addr]) / lookups; math.Abs(share-want) > 1.0/manyOrders+0.001 {
			t.Errorf("%s is first in %.2f of the cases, want %.2f", addr, share, want)
		}
	}
}

func TestWeightsOfZero(t *testing.T) {
	count := [3]int{}
	for i := range 3000 {
		count[choose([]server{{weight: 0}, {weight: 0}, {weight: 0}}, float64(i)/3000)]++
	}
	for _, n := range count {
		if n < 990 || n > 1010 {
			t.Errorf("all zero: %v", count)
		}
	}
	if i := choose([]server{{weight: 0}, {weight: 10}}, 0); i != 0 {
		t.Error("weight 0 has no chance at all")
	}
}

func TestHugeAnswersAreCut(t *testing.T) {
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, "example.org. NAPTR %d 1 \"s\" \"SIP+D2T\" \"\" _s%d._tcp.example.org.\n", i, i)
		fmt.Fprintf(&text, "_s%d._tcp.example.org. SRV 0 1 5060 h.example.org.\n", i)
		fmt.Fprintf(&text, "_s0._tcp.example.org. SRV 0 1 %d h%d.example.org.\n", i+1, i)
		fmt.Fprintf(&text, "h%d.example.org. A 10.0.%d.%d\n", i, i/250, i%250+1)
		fmt.Fprintf(&text, "h.example.org. A 10.1.%d.%d\n", i/250, i%250+1)
	}
	z := newZone(t, text.String())
	r := New(Options{Servers: []string{z.serve(t)}})
	defer r.Close()
	for _, uri := range []string{"sip:example.org", "sip:h.example.org:5060"} {
		targets, err := r.Lookup(t.Context(), query(t, uri))
		if err != nil || len(targets) == 0 || len(targets) > maxTargets {
			t.Errorf("%s: %d targets, error %v", uri, len(targets), err)
		}
	}
	if n := z.total(); n > 2*maxNAPTR*(1+2*maxSRV) {
		t.Errorf("%d questions asked", n)
	}
}

func TestNamesOfTheHostsFileAreNotAskedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# names\n2001:db8::7 PBX pbx.lan # six\n192.0.2.7\tpbx pbx.lan\nnonsense\n300.1.1.1 x\n")
	z := newZone(t, `_sip._udp.example.org. SRV 0 1 5070 pbx.lan.`)
	r := over(t, z, Options{HostsFile: path})
	for _, c := range []struct{ uri, want string }{
		{"sip:pbx", "udp 192.0.2.7:5060, udp [2001:db8::7]:5060"},
		{"sip:pbx.lan:5080;transport=tcp", "tcp 192.0.2.7:5080, tcp [2001:db8::7]:5080"},
		{"sip:example.org", "udp 192.0.2.7:5070, udp [2001:db8::7]:5070"},
	} {
		if targets, err := r.Lookup(t.Context(), query(t, c.uri)); show(targets) != c.want {
			t.Errorf("%s: %s, error %v", c.uri, show(targets), err)
		}
	}
	if n := z.count("pbx NAPTR") + z.count("pbx.lan A"); n != 0 {
		t.Errorf("%d questions for names of the file", n)
	}
	write("192.0.2.8 pbx newcomer\n")
	if got := r.hosts.lookup("newcomer"); len(got) != 1 {
		t.Error("a change of the file is not seen")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := r.hosts.lookup("pbx"); got != nil {
		t.Error("a file that is gone still has names")
	}
}

func TestServersOfTheSystem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("search example.org\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(systemServers(path)); got != "[192.0.2.53:53 [2001:db8::53]:53]" {
		t.Errorf("got %s", got)
	}
	if got := fmt.Sprint(systemServers(path + ".missing")); got != "[127.0.0.1:53]" {
		t.Errorf("got %s", got)
	}
	for in, want := range map[string]string{
		"192.0.2.53": "192.0.2.53:53", "192.0.2.53:5353": "192.0.2.53:5353",
		"2001:db8::53": "[2001:db8::53]:53", "[2001:db8::53]:5353": "[2001:db8::53]:5353",
	} {
		if got := withPort(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func BenchmarkCached(b *testing.B) {
	r := New(Options{Servers: []string{"127.0.0.1:1"}})
	defer r.Close()
	q := Query{Host: "pbx.example.org"}
	t, _ := Literal(Query{Host: "192.0.2.1"})
	r.cache.put(q, answer{orders: [][]Target{{t}}, ttl: time.Hour}, time.Now())
	b.ReportAllocs()
	for b.Loop() {
		r.Cached(q)
	}
}

func BenchmarkLiteral(b *testing.B) {
	q := Query{Host: "192.0.2.1"}
	b.ReportAllocs()
	for b.Loop() {
		Literal(q)
	}
}
