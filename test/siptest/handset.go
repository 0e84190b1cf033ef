package siptest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/icholy/digest"
)

// HandsetOptions says whose handset it is.
type HandsetOptions struct {
	User     string
	Domain   string   // of its address-of-record
	Lines    []string // header lines of its REGISTERs besides: Supported, for instance
	Password string   // the password, where it is asked for one
	Params   string   // of the Contact value that it registers, each with its semicolon
}

// Handset is a telephone without a SIP stack, as plain as those that stand behind a NAT: it registers with the address
// that its socket has, asks for rport (RFC 3581), answers an OPTIONS, and each of its calls is a strict Party.
// It takes every call that comes. What is no business of a telephone is in Wrong.
//
// Its methods may be called from any goroutine.
type Handset struct {
	raw    *Raw
	o      HandsetOptions
	callID string // of its registrations
	tag    string

	mu      sync.Mutex // guards what follows
	changed chan struct{}
	cseq    int
	final   map[string]chan *Message // of its REGISTERs, by branch
	calls   map[string]*Party        // by Call-ID
	rung    []*Party                 // calls that came, in their order
	pings   int
	mapped  netip.AddrPort
	stun    []byte // the last answer
	asked   string // the last challenge to a REGISTER
	wrong   []string
	closed  bool
}

// NewHandset makes an endpoint a telephone. It takes every message that comes to it.
func NewHandset(raw *Raw, o HandsetOptions) *Handset {
	h := &Handset{
		raw: raw, o: o, callID: Unique("r"), tag: Unique(o.User), changed: make(chan struct{}),
		final: make(map[string]chan *Message), calls: make(map[string]*Party),
	}
	raw.Auto(func(m *Message) bool {
		h.take(m)
		return true
	})
	return h
}

// Close ends what its calls have under way. The endpoint below stays open.
func (h *Handset) Close() {
	h.mu.Lock()
	h.closed = true
	calls := h.calls
	h.calls = make(map[string]*Party)
	h.mu.Unlock()
	for _, p := range calls {
		p.Close()
	}
}

// AoR is its address-of-record.
func (h *Handset) AoR() string { return "sip:" + h.o.User + "@" + h.o.Domain }

// Contact is the URI that it registers.
func (h *Handset) Contact() string { return h.raw.URI(h.o.User) }

// Register registers its Contact for so many seconds, 0 takes the registration away, and returns the final answer.
// Over UDP it repeats the request (RFC 3261 17.1.2). It gives its password once, if it has one and is asked for it.
func (h *Handset) Register(ctx context.Context, expires int) (*Message, error) {
	m, err := h.register(ctx, expires)
	if err != nil || m.Status() != 401 || h.o.Password == "" {
		return m, err
	}
	h.mu.Lock()
	h.asked = m.Get("WWW-Authenticate")
	h.mu.Unlock()
	return h.register(ctx, expires)
}

// authorizeLocked answers the last challenge, if there was one.
func (h *Handset) authorizeLocked(req *Text, method, uri string) error {
	if h.asked == "" {
		return nil
	}
	c, err := digest.ParseChallenge(h.asked)
	if err != nil {
		return err
	}
	answer, err := digest.Digest(c, digest.Options{Method: method, URI: uri, Username: h.o.User, Password: h.o.Password, Count: 1})
	if err != nil {
		return err
	}
	req.Add("Authorization", answer.String())
	return nil
}

func (h *Handset) register(ctx context.Context, expires int) (*Message, error) {
	req := Request("REGISTER", "sip:"+h.o.Domain)
	h.mu.Lock()
	h.cseq++
	req.Set("From", "<"+h.AoR()+">;tag="+h.tag).Set("To", "<"+h.AoR()+">").Set("Call-ID", h.callID).
		Set("CSeq", fmt.Sprintf("%d REGISTER", h.cseq)).Prepend("Via", h.raw.Via()+";rport").
		Add("Contact", "<"+h.Contact()+">"+h.o.Params).Add("Expires", fmt.Sprint(expires))
	req.Lines = append(req.Lines, h.o.Lines...)
	if err := h.authorizeLocked(req, "REGISTER", "sip:"+h.o.Domain); err != nil {
		h.mu.Unlock()
		return nil, err
	}
	branch, _ := Param(req.Get("Via"), "branch")
	final := make(chan *Message, 1)
	h.final[branch] = final
	h.mu.Unlock()

	timer := time.NewTimer(0)
	defer timer.Stop()
	for wait := t1; ; wait *= 2 {
		select {
		case m := <-final:
			return m, nil
		case <-timer.C:
			if wait == t1 || h.raw.Network() == "udp" {
				if err := h.raw.Send(req.Bytes()); err != nil {
					return nil, err
				}
			}
			timer.Reset(wait)
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: no answer to REGISTER: %w", h.o.User, ctx.Err())
		}
	}
}

// Mapped is its address as the last answer to a REGISTER told it (RFC 3581 4).
func (h *Handset) Mapped() netip.AddrPort {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mapped
}

// Call places a call and returns its own end of it, once it is answered and acknowledged.
func (h *Handset) Call(ctx context.Context, uri string) (*Party, error) {
	req := Request("INVITE", uri)
	h.mu.Lock()
	p := h.partyLocked()
	h.calls[req.CallID()] = p
	err := h.authorizeLocked(req, "INVITE", uri)
	h.mu.Unlock()
	if err != nil {
		return p, err
	}
	_, err = p.call(ctx, req)
	return p, err
}

// Rung is the n-th call that came, counted from 1.
func (h *Handset) Rung(ctx context.Context, n int) (*Party, error) {
	var p *Party
	err := h.until(ctx, fmt.Sprintf("call number %d", n), func() bool {
		if len(h.rung) >= n {
			p = h.rung[n-1]
		}
		return p != nil
	})
	return p, err
}

// Rings is how many calls have come.
func (h *Handset) Rings() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.rung)
}

// AwaitPings waits until so many more keep-alives have come: CRLF, or OPTIONS outside a call.
func (h *Handset) AwaitPings(ctx context.Context, more int) error {
	h.mu.Lock()
	enough := h.pings + more
	h.mu.Unlock()
	return h.until(ctx, fmt.Sprintf("%d pings", more), func() bool { return h.pings >= enough })
}

// STUN asks over UDP for its address (RFC 5389), as phones do to hold a mapping open (RFC 5626 3.5.2).
func (h *Handset) STUN(ctx context.Context) (netip.AddrPort, error) {
	id := []byte(Unique("s"))[:12]
	h.mu.Lock()
	h.stun = nil
	h.mu.Unlock()
	if err := h.raw.Send(append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, id...)); err != nil {
		return netip.AddrPort{}, err
	}
	var at netip.AddrPort
	err := h.until(ctx, "a STUN response", func() bool {
		at = xorMapped(h.stun, id)
		return at.IsValid()
	})
	return at, err
}

// xorMapped reads the IPv4 address of a STUN response to the request with that transaction ID.
func xorMapped(m, id []byte) netip.AddrPort {
	const header = 20
	if len(m) < header || m[0] != 1 || m[1] != 1 || !bytes.Equal(m[8:header], id) {
		return netip.AddrPort{}
	}
	for rest := m[header:]; len(rest) >= 12; {
		size := int(binary.BigEndian.Uint16(rest[2:]))
		if binary.BigEndian.Uint16(rest) == 0x20 && size == 8 {
			port := binary.BigEndian.Uint16(rest[6:]) ^ 0x2112
			var a [4]byte
			binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(rest[8:])^0x2112a442)
			return netip.AddrPortFrom(netip.AddrFrom4(a), port)
		}
		rest = rest[min(4+(size+3)/4*4, len(rest)):]
	}
	return netip.AddrPort{}
}

// Wrong is everything that came, to it and its calls, and should not have.
func (h *Handset) Wrong() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	wrong := append([]string(nil), h.wrong...)
	for _, p := range h.calls {
		wrong = append(wrong, p.Wrong()...)
	}
	return wrong
}

// until waits for a condition, which is looked at under the lock.
func (h *Handset) until(ctx context.Context, what string, holds func() bool) error {
	for {
		h.mu.Lock()
		ok, changed := holds(), h.changed
		h.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s waits for %s: %w", h.o.User, what, ctx.Err())
		}
	}
}

func (h *Handset) partyLocked() *Party { return newParty(h.raw, PartyOptions{Name: h.o.User}) }

// take gets every message, on the reader's goroutine.
func (h *Handset) take(m *Message) {
	h.mu.Lock()
	var p *Party
	switch {
	case len(m.Data) < 5: // RFC 5626 3.5.1; over UDP it has no answer
		h.pings++
	case m.Data[0] < 4: // RFC 5389 6
		h.stun = m.Data
	default:
		if p = h.calls[m.CallID()]; p == nil {
			p = h.outsideCallLocked(m)
		}
	}
	close(h.changed)
	h.changed = make(chan struct{})
	h.mu.Unlock()
	if p != nil {
		p.take(m)
	}
}

// outsideCallLocked takes what belongs to no call yet; it returns the one that the message begins.
func (h *Handset) outsideCallLocked(m *Message) *Party {
	switch {
	case m.Status() >= 200 && h.final[m.Branch()] != nil:
		h.mapped = mappedOf(m)
		select {
		case h.final[m.Branch()] <- m:
		default: // a copy
		}
	case m.Status() != 0 && m.Status() < 200:
	case m.Method() == "OPTIONS" && m.Status() == 0:
		h.pings++
		_ = m.Respond(200, "OK", h.tag) // a lost one is the sender's concern
	case m.Method() == "INVITE" && m.Status() == 0 && m.Tag("To") == "" && !h.closed:
		p := h.partyLocked()
		h.calls[m.CallID()] = p
		h.rung = append(h.rung, p)
		return p
	case !h.closed:
		h.wrong = append(h.wrong, h.o.User+": no business of a telephone:\n"+m.String())
	}
	return nil
}

// mappedOf reads where a response was sent to.
func mappedOf(m *Message) netip.AddrPort {
	via := m.Get("Via")
	received, _ := Param(via, "received")
	rport, _ := Param(via, "rport")
	at, err := netip.ParseAddrPort(strings.Trim(received, "[]") + ":" + rport)
	if err != nil {
		return netip.AddrPort{}
	}
	return at
}
