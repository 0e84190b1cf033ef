package resolve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	maxAliases = 8
	// rounds is how often the list of servers is gone through.
	rounds = 2
	// payload is the size of a UDP answer we take, small enough not to be
	// fragmented (DNS flag day 2020).
	payload = 1232
)

// errRefused is an answer that is neither an address nor "no such name".
var errRefused = errors.New("the name server did not answer the question")

// ask returns the records of one kind and name, with aliases followed. No such
// name and no such record are ErrNotFound.
func (s *search) ask(name string, kind uint16) ([]dns.RR, error) {
	name = strings.ToLower(dns.Fqdn(name))
	if _, ok := dns.IsDomainName(name); !ok || name == "." || len(name) > maxName+1 {
		return nil, fmt.Errorf("%.80q is no domain name: %w", name, ErrNotFound)
	}
	asked := name
	for range maxAliases {
		m, err := s.query(asked, kind)
		if err != nil {
			return nil, err
		}
		rrs, end := s.follow(m, asked, kind)
		if len(rrs) > 0 {
			return rrs, nil
		}
		if end == asked {
			return nil, fmt.Errorf("%s %s: %w", dns.TypeToString[kind], name, ErrNotFound)
		}
		asked = end // the answer ends with an alias whose target we have to ask for
	}
	return nil, fmt.Errorf("%s %s: more than %d aliases: %w", dns.TypeToString[kind], name, maxAliases, ErrNotFound)
}

// follow goes along the aliases of an answer, a bounded number of steps, and
// returns the records at their end, and that end.
func (s *search) follow(m *dns.Msg, name string, kind uint16) ([]dns.RR, string) {
	for range maxAliases {
		var found []dns.RR
		alias := ""
		for _, rr := range m.Answer {
			h := rr.Header()
			if !strings.EqualFold(h.Name, name) || h.Class != dns.ClassINET {
				continue
			}
			cname, isAlias := rr.(*dns.CNAME)
			switch {
			case h.Rrtype == kind:
				found = append(found, rr)
			case isAlias:
				alias = strings.ToLower(cname.Target)
			default:
				continue
			}
			s.limitTTL(time.Duration(h.Ttl) * time.Second)
		}
		if len(found) > 0 || alias == "" {
			return found, name
		}
		name = alias
	}
	return nil, name
}

// query asks the servers in turn until one answers.
func (s *search) query(name string, kind uint16) (*dns.Msg, error) {
	var last error
	n, first := len(s.r.o.Servers), int(s.r.preferred.Load())
	for range rounds {
		for i := range n {
			server := s.r.o.Servers[(first+i)%n]
			if err := s.ctx.Err(); err != nil {
				return nil, fmt.Errorf("%s %s: %w", dns.TypeToString[kind], name, cause(last, err))
			}
			m, err := s.queryServer(name, kind, server)
			if err == nil {
				s.r.preferred.Store(uint32((first + i) % n))
				return m, nil
			}
			last = fmt.Errorf("%s %s at %s: %w", dns.TypeToString[kind], name, server, err)
		}
		if errors.Is(last, errRefused) {
			break // asking again will not help
		}
	}
	return nil, last
}

// cause prefers what went wrong to the fact that time ran out over it.
func cause(last, end error) error {
	if last != nil {
		return last
	}
	return end
}

// queryServer asks one server by UDP, and by TCP if the answer was cut.
func (s *search) queryServer(name string, kind uint16, server string) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(name, kind)
	q.SetEdns0(payload, false)
	m, err := s.send(q, server, "udp")
	if err == nil && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) {
		q.Extra = nil // an old server that does not know EDNS
		q.Id = dns.Id()
		m, err = s.send(q, server, "udp")
	}
	if err == nil && m.Truncated {
		q.Id = dns.Id()
		m, err = s.send(q, server, "tcp")
	}
	if err != nil {
		return nil, err
	}
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return nil, fmt.Errorf("%w: %s", errRefused, dns.RcodeToString[m.Rcode])
	}
	return m, nil
}

func (s *search) send(q *dns.Msg, server, network string) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.r.o.Timeout)
	defer cancel()
	m, err := s.r.exchange(ctx, q, server, network)
	if err != nil {
		return nil, err
	}
	if !m.Response || len(m.Question) != 1 || !strings.EqualFold(m.Question[0].Name, q.Question[0].Name) ||
		m.Question[0].Qtype != q.Question[0].Qtype {
		return nil, errors.New("the answer is to another question")
	}
	return m, nil
}

// exchange sends a query from a new socket, whose random port makes answers
// hard to forge. It ends when ctx does.
func exchange(ctx context.Context, q *dns.Msg, server, network string) (*dns.Msg, error) {
	c := dns.Client{Net: network}
	if deadline, ok := ctx.Deadline(); ok {
		c.Timeout = time.Until(deadline)
	}
	conn, err := c.DialContext(ctx, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	m, _, err := c.ExchangeWithConnContext(ctx, q, conn)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// systemServers returns the servers of a resolv.conf, or the local one when
// there are none.
func systemServers(path string) []string {
	c, err := dns.ClientConfigFromFile(path)
	if err != nil || len(c.Servers) == 0 {
		return []string{"127.0.0.1:53"}
	}
	list := make([]string, len(c.Servers))
	for i, s := range c.Servers {
		list[i] = net.JoinHostPort(s, c.Port)
	}
	return list
}

// withPort adds port 53 to an address without one.
func withPort(s string) string {
	if _, _, err := net.SplitHostPort(s); err == nil {
		return s
	}
	return net.JoinHostPort(strings.Trim(s, "[]"), "53")
}
