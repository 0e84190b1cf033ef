package siptest

import (
	"context"
	"crypto/tls"
	"net/netip"
	"strings"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
)

// PBXOptions says what a node is like. The zero value answers every call at once on
// UDP and TCP and takes every registration without a challenge.
type PBXOptions struct {
	Name     string            // Server header; default "pbx"
	Address  netip.AddrPort    // default 127.0.0.1 with a free port, the same for UDP and TCP
	TLS      *tls.Config       // listens on TLS too, on a port of its own, and trusts its RootCAs when it calls
	Ringing  time.Duration     // from the INVITE to 180
	Answer   time.Duration     // from 180 to 200
	Realm    string            // of the digest challenge; default the name
	Accounts map[string]string // user to password; empty: no challenge
	Wrong    int               // answer to a wrong password; default 401 with a new challenge
	Unknown  int               // answer to REGISTER for, and INVITE and OPTIONS to, a user without account; default: as for everybody
}

// PBX is a small PBX node. Its methods may be called from any goroutine.
type PBX struct {
	*agent
	door     *doorman
	wrong    int
	bindings map[string][]string // AoR to Contact values, guarded by agent.mu
}

// NewPBX starts a node.
func NewPBX(o PBXOptions) (*PBX, error) {
	if o.Name == "" {
		o.Name = "pbx"
	}
	if o.Realm == "" {
		o.Realm = o.Name
	}
	if !o.Address.IsValid() {
		o.Address = netip.AddrPortFrom(Loopback, 0)
	}
	networks := []string{"udp", "tcp"}
	if o.TLS != nil {
		networks = append(networks, "tls")
	}
	door, err := newDoorman(o.Realm, o.Accounts)
	if err != nil {
		return nil, err
	}
	p := &PBX{agent: newAgent(o.Name, "pbx", networks, o.TLS), door: door, wrong: o.Wrong, bindings: make(map[string][]string)}
	p.ringing, p.answer = o.Ringing, o.Answer
	if o.Unknown != 0 {
		p.refuses = func(req *sip.Request) int {
			to := req.To()
			if _, tagged := to.Params.Get("tag"); tagged || o.Accounts[to.Address.User] != "" {
				return 0
			}
			return o.Unknown
		}
	}
	if err := p.start(o.Address, netip.AddrPortFrom(o.Address.Addr(), 0), p.handlers); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *PBX) handlers(s *sipgo.Server) { s.OnRegister(p.registers) }

// Addr is the address of UDP and TCP.
func (p *PBX) Addr() netip.AddrPort { return p.address("udp") }

// URI is the node's address as a pool has it; network is udp, tcp or tls.
func (p *PBX) URI(network string) string { return URI("", p.address(network), network) }

// Script fixes the answers to a method: one code after the other, the last one for ever.
// 0 stands for no answer at all. No codes take the script away.
func (p *PBX) Script(method string, codes ...int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script[method] = append([]int(nil), codes...)
}

// Delay changes the times from INVITE to 180 and from 180 to 200, for calls that come later.
func (p *PBX) Delay(ringing, answer time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ringing, p.answer = ringing, answer
}

// Silence keeps the sockets open and throws away what arrives.
func (p *PBX) Silence() { p.silent.Store(true) }

// Resume ends a silence.
func (p *PBX) Resume() { p.silent.Store(false) }

// Stop closes the sockets; counters stay. It is idempotent.
func (p *PBX) Stop() error { return p.stop() }

// Start opens the sockets again at the same addresses after a Stop.
func (p *PBX) Start() error {
	p.mu.Lock()
	at, atTLS := p.at, p.atTLS
	p.mu.Unlock()
	return p.start(at, atTLS, p.handlers)
}

// Count is the number of requests of a method, retransmissions absorbed by transactions not counted.
func (p *PBX) Count(method string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[method]
}

// Saw tells whether a request with that Call-ID came.
func (p *PBX) Saw(callID string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[callID]
}

// Bindings are the Contact values registered for an address-of-record.
func (p *PBX) Bindings(aor string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.bindings[aor]...)
}

// WaitCount waits until n requests of a method have come.
func (p *PBX) WaitCount(ctx context.Context, method string, n int) error {
	return p.waitFor(ctx, func() bool { return p.counts[method] >= n })
}

// registers challenges (RFC 3261 22), checks, stores, and returns the contacts (10.3).
func (p *PBX) registers(req *sip.Request, tx sip.ServerTransaction) {
	s, ok := p.enter()
	if !ok {
		return
	}
	defer s.calls.Done()
	p.note(req)
	if code, ok := p.scripted(sip.REGISTER); ok {
		if code == 0 {
			tx.Terminate()
			return
		}
		_ = p.respond(req, tx, code, Unique(p.name), nil) // lost answers are the test's business
		return
	}
	if code := p.refusal(req); code != 0 {
		_ = p.respond(req, tx, code, Unique(p.name), nil) // as above
		return
	}
	credentials := ""
	if h := req.GetHeader("Authorization"); h != nil {
		credentials = h.Value()
	}
	if authorized, tried := p.door.authorized("REGISTER", credentials); !authorized {
		if tried && p.wrong != 0 {
			_ = p.respond(req, tx, p.wrong, Unique(p.name), nil) // as above
			return
		}
		_ = p.respond(req, tx, 401, Unique(p.name), nil, sip.NewHeader("WWW-Authenticate", p.door.challenge()))
		return
	}
	_ = p.respond(req, tx, 200, Unique(p.name), nil, p.bind(req)...)
}

func (p *PBX) bind(req *sip.Request) []sip.Header {
	expires := "3600"
	if h := req.GetHeader("Expires"); h != nil {
		expires = h.Value()
	}
	var contacts []string
	for _, h := range req.GetHeaders("Contact") {
		if strings.TrimSpace(h.Value()) == "*" || expires == "0" {
			contacts = nil
			break
		}
		contacts = append(contacts, h.Value())
	}
	aor := AddrURI(req.To().Value())
	p.mu.Lock()
	if len(req.GetHeaders("Contact")) > 0 {
		p.bindings[aor] = contacts
	}
	bound := p.bindings[aor]
	p.mu.Unlock()
	out := []sip.Header{sip.NewHeader("Expires", expires)}
	for _, c := range bound {
		if !strings.Contains(c, ";expires=") {
			c += ";expires=" + expires
		}
		out = append(out, sip.NewHeader("Contact", c))
	}
	return out
}
