package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy"
	"github.com/sipward/sipward/proxy/eventlog"
	"github.com/sipward/sipward/test/siptest"
)

const (
	domain   = "demo.example"
	password = "sipward-demo"

	ringing   = 60 * time.Millisecond // from INVITE to 180 at a node
	answering = 90 * time.Millisecond // from there to 200
	closing   = 3 * time.Second       // for the edge to close its sockets
)

// cast are the phones.
var cast = []struct{ user, network string }{{"alice", "udp"}, {"bob", "udp"}, {"carol", "tcp"}, {"dave", "udp"}}

// stage holds all that the play needs. close ends it.
type stage struct {
	nodes  []*node
	phones []*siptest.Phone
	addr   netip.AddrPort // of the edge
	yaml   string
	edge   *proxy.Edge
	log    *eventlog.Log
	lines  *lines
}

// node is a PBX node with its name in the configuration.
type node struct {
	*siptest.PBX
	name string
}

// Name is the name of the node in the configuration, and its Server header field.
func (n *node) Name() string { return n.name }

// newStage starts nodes, edge and phones, and returns when the edge has had an answer of both nodes.
func newStage(ctx context.Context) (s *stage, err error) {
	s = &stage{lines: newLines()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	accounts := make(map[string]string)
	for _, c := range cast {
		accounts[c.user] = password
	}
	for _, name := range []string{"pbx1", "pbx2"} {
		pbx, err := siptest.NewPBX(siptest.PBXOptions{
			Name: name, Realm: domain, Accounts: accounts, Ringing: ringing, Answer: answering,
		})
		if err != nil {
			return s, fmt.Errorf("start node %s: %w", name, err)
		}
		s.nodes = append(s.nodes, &node{pbx, name})
	}
	if err := s.startEdge(ctx); err != nil {
		return s, fmt.Errorf("start the edge: %w", err)
	}
	for _, c := range cast {
		phone, err := siptest.NewPhone(siptest.PhoneOptions{User: c.user, Domain: domain, Network: c.network, Proxy: s.addr})
		if err != nil {
			return s, fmt.Errorf("start phone %s: %w", c.user, err)
		}
		s.phones = append(s.phones, phone)
	}
	return s, nil
}

// startEdge starts what `sipward run` does, with a configuration of its own.
func (s *stage) startEdge(ctx context.Context) error {
	port, err := siptest.FreePort()
	if err != nil {
		return err
	}
	s.addr = netip.AddrPortFrom(siptest.Loopback, port)
	s.yaml = s.configuration() + quickTimers
	c, err := load(s.yaml)
	if err != nil {
		return err
	}
	if s.log, err = eventlog.Open(c.Log, eventlog.Options{Stdout: s.lines}); err != nil {
		return err
	}
	if s.edge, err = proxy.New(c, s.log, nil); err != nil {
		return err
	}
	s.edge.Start()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, p := range s.edge.FirstProbes(ctx) {
		if p.Status/100 != 2 {
			return fmt.Errorf("node %s: %s", p.Name, p.Why)
		}
	}
	return nil
}

func load(yaml string) (*config.Config, error) {
	c, _, err := config.Load(config.Options{Path: "demo.yaml", Data: []byte(yaml), Addresses: []netip.Addr{siptest.Loopback}})
	return c, err
}

// quickTimers end a forgotten call while somebody looks on.
const quickTimers = `lab: yes
timers: { no_timer_call_duration: 2, session_ttl: 2 }
`

// usualTimers leave the calls of a softphone alone: a reload touches later calls only.
func (s *stage) usualTimers() error {
	c, err := load(s.configuration())
	if err != nil {
		return err
	}
	return s.edge.Reload(c)
}

// configuration is a file as an operator would write it. Probes and the return of a node are quick, so that the play is.
func (s *stage) configuration() string {
	return fmt.Sprintf(`listen: [udp:%[1]s, tcp:%[1]s]
pools:
  pbx:
    backends:
      - { name: %s, address: "sip:%s" }
      - { name: %s, address: "sip:%s" }
    probe: { interval: 1, timeout: 0.5 }
    slow_start: 0
security: { loop_enable: no, kernel_offload: off } # the same two call each other all the time
`, s.addr, s.nodes[0].name, s.nodes[0].Addr(), s.nodes[1].name, s.nodes[1].Addr())
}

func (s *stage) node(name string) *node {
	for _, n := range s.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// close ends whatever was started.
func (s *stage) close() error {
	var all []error
	for _, p := range s.phones {
		all = append(all, p.Close())
	}
	if s.edge != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closing)
		defer cancel()
		all = append(all, s.edge.Stop(ctx))
	}
	if s.log != nil {
		all = append(all, s.log.Close())
	}
	for _, n := range s.nodes {
		all = append(all, n.Stop())
	}
	return errors.Join(all...)
}
