package siptest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
)

// PhoneOptions says whose telephone it is and where its outbound proxy stands.
type PhoneOptions struct {
	User    string         // default "phone"
	Address netip.Addr     // default 127.0.0.1
	Domain  string         // of the address-of-record; default "siptest.example"
	Network string         // udp (default), tcp or tls
	Proxy   netip.AddrPort // where everything outside a dialog is sent
	TLS     *tls.Config    // certificate and RootCAs, for tls
	Ringing time.Duration  // for calls that come in: to 180
	Answer  time.Duration  // and from there to 200

	// Describe makes the session description of an answer, or of an offer of the telephone's own when it is given none.
	// By default it is one that nobody can talk by.
	Describe func(offer []byte) []byte
}

// Phone is a telephone behind an outbound proxy: it registers, places calls, and answers
// those that come in. Its methods may be called from any goroutine.
type Phone struct {
	*agent
	domain  string
	network string
	proxy   netip.AddrPort
}

// NewPhone opens the telephone's sockets.
func NewPhone(o PhoneOptions) (*Phone, error) {
	if o.User == "" {
		o.User = "phone"
	}
	if o.Domain == "" {
		o.Domain = "siptest.example"
	}
	if o.Network == "" {
		o.Network = "udp"
	}
	networks := []string{"udp", "tcp"}
	if o.Network == "tls" {
		if o.TLS == nil {
			return nil, errors.New("a tls phone needs a certificate")
		}
		networks = append(networks, "tls")
	}
	p := &Phone{agent: newAgent("phone", o.User, networks, o.TLS), domain: o.Domain, network: o.Network, proxy: o.Proxy}
	p.ringing, p.answer = o.Ringing, o.Answer
	if o.Describe != nil {
		p.describe = o.Describe
	}
	if !o.Address.IsValid() {
		o.Address = Loopback
	}
	free := netip.AddrPortFrom(o.Address, 0)
	if err := p.start(free, free, nil); err != nil {
		return nil, err
	}
	return p, nil
}

// Close ends the telephone. It is idempotent.
func (p *Phone) Close() error { return p.stop() }

// URI is where the telephone itself can be reached.
func (p *Phone) URI() string { return URI(p.user, p.address(p.network), p.network) }

// AOR is the telephone's address-of-record.
func (p *Phone) AOR() string { return "sip:" + p.user + "@" + p.domain }

// Received is the number of requests of a method that came in.
func (p *Phone) Received(method string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[method]
}

// Answer is the outcome of a transaction. Times run from the first request.
type Answer struct {
	Status int // the final code
	Reason string
	Took   time.Duration
}

// Register registers the telephone's contact for an hour; a challenge is answered once.
func (p *Phone) Register(ctx context.Context, password string) (Answer, error) {
	s, ok := p.enter()
	if !ok {
		return Answer{}, errStopped
	}
	defer s.calls.Done()
	started := time.Now()
	req, err := p.outside(sip.REGISTER, "sip:"+p.domain, p.AOR())
	if err != nil {
		return Answer{}, err
	}
	req.AppendHeader(sip.NewHeader("Expires", "3600"))
	res, err := s.client.Do(ctx, req, p.addVia(p.network))
	if err != nil {
		return Answer{}, fmt.Errorf("register: %w", err)
	}
	if res.StatusCode == 401 || res.StatusCode == 407 {
		res, err = s.client.DoDigestAuth(ctx, req, res, sipgo.DigestAuth{Username: p.user, Password: password})
		if err != nil {
			return Answer{}, fmt.Errorf("register with credentials: %w", err)
		}
	}
	return Answer{Status: res.StatusCode, Reason: res.Reason, Took: time.Since(started)}, nil
}

// Send sends one request outside a dialog, OPTIONS or MESSAGE for instance.
func (p *Phone) Send(ctx context.Context, method, target string) (Answer, error) {
	s, ok := p.enter()
	if !ok {
		return Answer{}, errStopped
	}
	defer s.calls.Done()
	started := time.Now()
	req, err := p.outside(sip.RequestMethod(method), target, target)
	if err != nil {
		return Answer{}, err
	}
	res, err := s.client.Do(ctx, req, p.addVia(p.network))
	if err != nil {
		return Answer{}, fmt.Errorf("%s: %w", method, err)
	}
	return Answer{Status: res.StatusCode, Reason: res.Reason, Took: time.Since(started)}, nil
}

// Call is a call that the telephone placed. Its fields are final once Wait has returned.
type Call struct {
	CallID  string
	Status  int           // the final code
	Reason  string        // and its phrase
	Codes   []int         // all codes in the order of their arrival
	Ringing time.Duration // to the first 18x, 0 if none came
	Took    time.Duration // to the final answer
	Server  string        // Server header of the final answer

	phone   *Phone
	invite  *sip.Request
	dialog  *dialog
	done    chan struct{}
	err     error
	began   chan struct{} // a provisional answer has come: CANCEL may be sent
	beganDo sync.Once
}

// Answered tells whether the call was taken.
func (c *Call) Answered() bool { return c.Status >= 200 && c.Status < 300 }

// Call places a call and waits for its final answer. An error means that there was none.
func (p *Phone) Call(ctx context.Context, target string) (*Call, error) {
	c, err := p.Dial(ctx, target)
	if err != nil {
		return nil, err
	}
	return c, c.Wait(ctx)
}

// Dial places a call and returns at once; ctx bounds the whole ringing.
func (p *Phone) Dial(ctx context.Context, target string) (*Call, error) {
	s, ok := p.enter()
	if !ok {
		return nil, errStopped
	}
	started := time.Now()
	req, err := p.outside(sip.INVITE, target, target)
	if err != nil {
		s.calls.Done()
		return nil, err
	}
	req.AppendHeader(sip.NewHeader("Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE"))
	req.AppendHeader(sip.NewHeader("Content-Type", "application/sdp"))
	req.SetBody(p.describe(nil))
	c := &Call{CallID: callIDOf(req), phone: p, invite: req, done: make(chan struct{}), began: make(chan struct{})}
	tx, err := s.client.TransactionRequest(ctx, req, p.addVia(p.network))
	if err != nil {
		s.calls.Done()
		return nil, fmt.Errorf("invite: %w", err)
	}
	go func() {
		defer s.calls.Done()
		c.follow(ctx, s, tx, started)
	}()
	return c, nil
}

// Wait waits for the final answer.
func (c *Call) Wait(ctx context.Context) error {
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// follow reads the answers and acknowledges a 2xx (RFC 3261 13.2.2.4).
func (c *Call) follow(ctx context.Context, s *session, tx sip.ClientTransaction, started time.Time) {
	defer close(c.done)
	for {
		select {
		case res := <-tx.Responses():
			c.Codes = append(c.Codes, res.StatusCode)
			c.beganDo.Do(func() { close(c.began) })
			if res.IsProvisional() {
				if res.StatusCode >= 180 && c.Ringing == 0 {
					c.Ringing = time.Since(started)
				}
				continue
			}
			c.Status, c.Reason, c.Took = res.StatusCode, res.Reason, time.Since(started)
			if h := res.GetHeader("Server"); h != nil {
				c.Server = h.Value()
			}
			if res.IsSuccess() {
				c.err = c.confirm(s, tx, res)
			}
			return
		case <-tx.Done():
			c.err = tx.Err()
			return
		case <-ctx.Done():
			tx.Terminate()
			c.err = ctx.Err()
			return
		case <-s.ctx.Done():
			tx.Terminate()
			c.err = errStopped
			return
		}
	}
}

func (c *Call) confirm(s *session, tx sip.ClientTransaction, res *sip.Response) error {
	p := c.phone
	// The caller's view (RFC 3261 12.1.2): the route set is the Record-Route reversed.
	d := &dialog{
		callID: c.CallID, network: p.network, local: c.invite.From().Value(), remote: res.To().Value(),
		fallback: p.proxy.String(), cseq: c.invite.CSeq().SeqNo, acked: make(chan struct{}), ended: make(chan struct{}),
	}
	if h := res.Contact(); h != nil {
		d.target = h.Address.String()
	}
	recorded := res.GetHeaders("Record-Route")
	for i := len(recorded) - 1; i >= 0; i-- {
		d.routes = append(d.routes, recorded[i].Value())
	}
	c.dialog = d
	p.addDialog(d)
	ack := func() error {
		req, err := p.inDialog(d, sip.ACK, c.invite.CSeq().SeqNo)
		if err != nil {
			return err
		}
		return s.client.WriteRequest(req, p.addVia(p.network))
	}
	tx.OnRetransmission(func(*sip.Response) { _ = ack() }) // the next copy asks again
	return ack()
}

// Hangup ends the call with BYE and returns the code of its answer.
func (c *Call) Hangup(ctx context.Context) (int, error) {
	code, err := c.Request(ctx, "BYE")
	if err == nil {
		c.phone.end(c.dialog)
	}
	return code, err
}

// Request sends a request inside the call.
func (c *Call) Request(ctx context.Context, method string) (int, error) {
	if c.dialog == nil {
		return 0, errors.New("the call was not answered")
	}
	return c.phone.request(ctx, c.dialog, method)
}

// Ended is closed when the other side has hung up or Hangup was answered.
func (c *Call) Ended() <-chan struct{} { return c.dialog.ended }

// Routes is the call's route set as the telephone uses it.
func (c *Call) Routes() []string { return append([]string(nil), c.dialog.routes...) }

// Cancel waits for the first provisional answer and sends CANCEL (RFC 3261 9.1); the call's own
// end is Wait's.
func (c *Call) Cancel(ctx context.Context) (int, error) {
	select {
	case <-c.began:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	s, ok := c.phone.enter()
	if !ok {
		return 0, errStopped
	}
	defer s.calls.Done()
	req := sip.NewRequest(sip.CANCEL, *c.invite.Recipient.Clone())
	req.AppendHeader(c.invite.Via().Clone())
	for _, name := range []string{"From", "To", "Call-ID", "Route"} {
		for _, h := range c.invite.GetHeaders(name) {
			req.AppendHeader(sip.HeaderClone(h))
		}
	}
	maxForwards := sip.MaxForwardsHeader(70)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: c.invite.CSeq().SeqNo, MethodName: sip.CANCEL})
	req.AppendHeader(&maxForwards)
	req.SetBody(nil)
	c.phone.aim(req, c.phone.network, c.phone.proxy.String())
	res, err := s.client.Do(ctx, req, func(*sipgo.Client, *sip.Request) error { return nil })
	if err != nil {
		return 0, fmt.Errorf("cancel: %w", err)
	}
	return res.StatusCode, nil
}

// outside builds a request that opens a dialog or needs none.
func (p *Phone) outside(method sip.RequestMethod, uri, to string) (*sip.Request, error) {
	var recipient, toURI sip.Uri
	if err := sip.ParseUri(uri, &recipient); err != nil {
		return nil, fmt.Errorf("target %q: %w", uri, err)
	}
	if err := sip.ParseUri(to, &toURI); err != nil {
		return nil, fmt.Errorf("target %q: %w", to, err)
	}
	req := sip.NewRequest(method, recipient)
	from := &sip.FromHeader{Address: sip.Uri{Scheme: "sip", User: p.user, Host: p.domain}}
	from.Params.Add("tag", Unique("p"))
	callID := sip.CallIDHeader(Unique("c") + "@" + strings.ReplaceAll(p.domain, " ", ""))
	maxForwards := sip.MaxForwardsHeader(70)
	req.AppendHeader(from)
	req.AppendHeader(&sip.ToHeader{Address: toURI})
	req.AppendHeader(&callID)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: 1, MethodName: method})
	req.AppendHeader(&maxForwards)
	req.AppendHeader(sip.NewHeader("Contact", p.contact(p.network)))
	req.AppendHeader(sip.NewHeader("User-Agent", p.name))
	req.SetBody(nil)
	p.aim(req, p.network, p.proxy.String())
	return req, nil
}
