package resolve

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/sipward/sipward/proxy/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zone is what a test's name server knows. Questions are written "name TYPE".
type zone struct {
	mu      sync.Mutex
	records map[string][]dns.RR
	rcode   map[string]int  // answer with this instead
	silent  map[string]bool // do not answer
	cut     map[string]bool // truncate over UDP
	asked   map[string]int
}

// newZone reads records in the format of zone files, one a line.
func newZone(t *testing.T, text string) *zone {
	t.Helper()
	z := &zone{rcode: map[string]int{}, silent: map[string]bool{}, cut: map[string]bool{}, asked: map[string]int{}}
	z.set(t, text)
	return z
}

// set replaces all records.
func (z *zone) set(t *testing.T, text string) {
	t.Helper()
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records = map[string][]dns.RR{}
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i]) // a zone file gives indentation a meaning
	}
	p := dns.NewZoneParser(strings.NewReader(strings.Join(lines, "\n")), ".", "")
	p.SetDefaultTTL(60)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		h := rr.Header()
		k := question(h.Name, h.Rrtype)
		z.records[k] = append(z.records[k], rr)
	}
	if err := p.Err(); err != nil {
		t.Fatal(err)
	}
}

func question(name string, kind uint16) string {
	return strings.ToLower(strings.TrimSuffix(name, ".")) + " " + dns.TypeToString[kind]
}

func (z *zone) count(q string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.asked[q]
}

func (z *zone) total() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	n := 0
	for _, c := range z.asked {
		n += c
	}
	return n
}

// mute makes the zone stop, or go on, answering anything.
func (z *zone) mute(on bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.silent[""] = on
}

// answer returns nil when there is none.
func (z *zone) answer(q *dns.Msg, network string) *dns.Msg {
	z.mu.Lock()
	defer z.mu.Unlock()
	name, kind := q.Question[0].Name, q.Question[0].Qtype
	k := question(name, kind)
	z.asked[k]++
	if z.silent[k] || z.silent[""] {
		return nil
	}
	m := new(dns.Msg).SetReply(q)
	if code, ok := z.rcode[k]; ok {
		m.Rcode = code
		return m
	}
	if z.cut[k] && network == "udp" {
		m.Truncated = true
		return m
	}
	m.Answer = append(m.Answer, z.records[k]...)
	// A real server sends the target of an alias along.
	for _, rr := range z.records[question(name, dns.TypeCNAME)] {
		m.Answer = append(m.Answer, rr)
		m.Answer = append(m.Answer, z.records[question(rr.(*dns.CNAME).Target, kind)]...)
	}
	if len(m.Answer) == 0 {
		m.Rcode = dns.RcodeNameError
	}
	return m
}

// exchange stands in for the network where time is not real.
func (z *zone) exchange(ctx context.Context, q *dns.Msg, _, network string) (*dns.Msg, error) {
	if m := z.answer(q, network); m != nil {
		return m, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// serve answers over UDP and TCP on a port of the loopback until the test ends.
func (z *zone) serve(t *testing.T) string {
	t.Helper()
	pc, l := listenBoth(t)
	handler := func(network string) dns.HandlerFunc {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			if m := z.answer(q, network); m != nil {
				m.Compress = true
				if network == "udp" {
					m.Truncate(payload)
				}
				_ = w.WriteMsg(m)
			}
		}
	}
	for _, s := range []*dns.Server{
		{PacketConn: pc, Handler: handler("udp")},
		{Listener: l, Handler: handler("tcp")},
	} {
		started, ended := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			if err := errors.Join(s.Shutdown(), <-ended); err != nil {
				t.Error(err)
			}
		})
	}
	return pc.LocalAddr().String()
}

// listenBoth finds a port that is free for UDP and TCP.
func listenBoth(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	var err error
	for range 100 {
		var pc net.PacketConn
		if pc, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			continue
		}
		var l net.Listener
		if l, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			return pc, l
		}
		pc.Close()
	}
	t.Fatal(err)
	return nil, nil
}

// over returns a resolver that asks z without a network.
func over(t *testing.T, z *zone, o Options) *Resolver {
	t.Helper()
	o.Servers = []string{"192.0.2.53"}
	r := New(o)
	r.exchange = z.exchange
	t.Cleanup(r.Close)
	return r
}

func query(t *testing.T, uri string) Query {
	t.Helper()
	u, ok := wire.ParseURI([]byte(uri))
	if !ok {
		t.Fatalf("%s does not parse", uri)
	}
	q, ok := QueryOf(u)
	if !ok {
		t.Fatalf("%s makes no query", uri)
	}
	return q
}

// show writes targets as "udp 192.0.2.1:5060, …".
func show(targets []Target) string {
	var list []string
	for _, t := range targets {
		list = append(list, t.Proto.Param()+" "+t.Addr.String())
	}
	return strings.Join(list, ", ")
}
