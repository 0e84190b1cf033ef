package siptest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
)

// RFC 3261 17.1.1.1, as sipgo has them.
const (
	t1     = 500 * time.Millisecond
	t2     = 4 * time.Second
	timerH = 32 * time.Second
)

// StrayReader is the goroutine, for goleak.IgnoreAnyFunction, that a stopped agent may leave behind:
// sipgo opens a socket of its own for a request whose listener was closed between its arrival and
// the choice of the way back, and nobody can close that one once the user agent has gone.
const StrayReader = "github.com/emiago/sipgo/sip.(*TransportUDP).readUDPConnection"

// silenceSipgo sets sipgo's process-wide switches: its datagrams are limited to 1300 bytes
// otherwise, and it logs every stray message.
var silenceSipgo = sync.OnceFunc(func() {
	sip.UDPMTUSize = 65535
	sip.SetDefaultLogger(slog.New(slog.DiscardHandler))
})

// agent is the common body of PBX and Phone: sockets, a sipgo user agent on them, answering
// of what arrives, and the dialogs it is in.
type agent struct {
	name     string // Server header and tag prefix
	user     string // of Contact
	networks []string
	tls      *tls.Config
	refuses  func(*sip.Request) int    // code for a request that is not served, 0 for others; may be nil
	describe func(offer []byte) []byte // see PhoneOptions

	silent atomic.Bool

	mu      sync.Mutex // guards what follows
	at      netip.AddrPort
	atTLS   netip.AddrPort
	running *session
	ringing time.Duration
	answer  time.Duration
	script  map[string][]int
	counts  map[string]int
	callIDs []string
	seen    map[string]bool
	dialogs map[string]*dialog
	changed chan struct{} // closed and replaced whenever a count or a dialog changes
}

// session is what lives from start to stop.
type session struct {
	ua     *sipgo.UserAgent
	client *sipgo.Client
	close  []func() error
	ctx    context.Context // ends the handlers that wait; not stored beyond the session
	cancel context.CancelFunc
	serves sync.WaitGroup
	calls  sync.WaitGroup
}

// dialog is one side's view of a call (RFC 3261 12).
type dialog struct {
	callID     string
	network    string
	local      string // From value of our requests, with tag
	remote     string // To value of our requests, with tag
	target     string // remote target
	routes     []string
	cseq       uint32
	fallback   string // where to send when the route set is empty and the target has no numeric host
	acked      chan struct{}
	ackOnce    sync.Once
	ended      chan struct{}
	endOnce    sync.Once
	inviteCSeq uint32
}

func newAgent(name, user string, networks []string, config *tls.Config) *agent {
	silenceSipgo()
	if len(networks) == 0 {
		networks = []string{"udp", "tcp"}
	}
	return &agent{
		name: name, user: user, networks: networks, tls: config,
		describe: func([]byte) []byte { return []byte(sessionDescription) },
		script:   make(map[string][]int), counts: make(map[string]int), seen: make(map[string]bool),
		dialogs: make(map[string]*dialog), changed: make(chan struct{}),
	}
}

// start opens the sockets at the address (port 0: free ones) and serves. register installs
// the handlers that only one kind of agent has.
func (a *agent) start(at, atTLS netip.AddrPort, register func(*sipgo.Server)) error {
	s := &session{}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	options := []sipgo.UserAgentOption{sipgo.WithUserAgent(a.name)}
	if a.tls != nil {
		options = append(options, sipgo.WithUserAgenTLSConfig(a.tls.Clone()))
	}
	// Connections leave from the agent's own address, as they do from a host with one address.
	dialer := func(net.Addr) net.Dialer {
		return net.Dialer{Timeout: 10 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(at.Addr(), 0))}
	}
	options = append(options, sipgo.WithUserAgentTransportLayerOptions(
		sip.WithTransportLayerReadFilter(a.filter),
		sip.WithTransportLayerTransports(sip.TransportsConfig{
			TCP: &sip.TransportTCP{DialerCreate: dialer},
			TLS: &sip.TransportTLS{TransportTCP: &sip.TransportTCP{DialerCreate: dialer}},
		}),
	))
	var err error
	if s.ua, err = sipgo.NewUA(options...); err != nil {
		return err
	}
	udp, ln, err := bindBoth(at)
	if err != nil {
		return err
	}
	bound := addrPort(udp.LocalAddr())
	s.close = append(s.close, udp.Close, ln.Close)
	var secure net.Listener
	if a.has("tls") {
		if secure, err = tls.Listen("tcp", atTLS.String(), a.tls); err != nil {
			return errors.Join(err, udp.Close(), ln.Close())
		}
		s.close = append(s.close, secure.Close)
	}
	server, err := sipgo.NewServer(s.ua)
	if err != nil {
		return err
	}
	s.client, err = sipgo.NewClient(s.ua, sipgo.WithClientHostname(bound.Addr().String()), sipgo.WithClientPort(int(bound.Port())))
	if err != nil {
		return err
	}
	for _, method := range []sip.RequestMethod{sip.OPTIONS, sip.INFO, sip.UPDATE, sip.MESSAGE, sip.NOTIFY, sip.SUBSCRIBE, sip.PRACK, sip.REFER, sip.PUBLISH} {
		server.OnRequest(method, a.plain)
	}
	server.OnInvite(a.invited)
	server.OnAck(a.acknowledged)
	server.OnBye(a.bye)
	server.OnCancel(a.strayCancel)
	server.OnNoRoute(a.plain)
	if register != nil {
		register(server)
	}
	s.serves.Go(func() { _ = server.ServeUDP(udp) }) // ends when stop closes the socket
	s.serves.Go(func() { _ = server.ServeTCP(ln) })
	if secure != nil {
		s.serves.Go(func() { _ = server.ServeTLS(secure) })
	}
	if err := s.serving(bound); err != nil {
		return err
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	a.at, a.running = bound, s
	if secure != nil {
		a.atTLS = addrPort(secure.Addr())
	}
	return nil
}

// serving waits until sipgo has put the UDP listener into its pool: a request sent before
// that would leave from a socket of its own.
func (s *session) serving(at netip.AddrPort) error {
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if c := s.ua.TransportLayer().Pool("udp").Get(at.String()); c != nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return errors.New("sipgo did not begin to serve")
		}
	}
}

// stop closes every socket and waits for the handlers. It is idempotent.
func (a *agent) stop() error {
	a.mu.Lock()
	s := a.running
	a.running = nil
	a.mu.Unlock()
	if s == nil {
		return nil
	}
	s.cancel()
	var err error
	for _, c := range s.close {
		err = errors.Join(err, c())
	}
	s.serves.Wait()
	_ = s.ua.Close() // complains about connections that are closed already
	s.calls.Wait()
	_ = s.ua.TransportLayer().Close() // what a last handler opened
	return err
}

func (a *agent) has(network string) bool {
	for _, n := range a.networks {
		if n == network {
			return true
		}
	}
	return false
}

// enter counts a handler in, or refuses it when the agent is stopping.
func (a *agent) enter() (*session, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running == nil {
		return nil, false
	}
	a.running.calls.Add(1)
	return a.running, true
}

// address is the listening address for a network.
func (a *agent) address(network string) netip.AddrPort {
	a.mu.Lock()
	defer a.mu.Unlock()
	if network == "tls" {
		return a.atTLS
	}
	return a.at
}

// filter sees every read before it is parsed.
func (a *agent) filter(_ sip.TransportReadProps, data []byte) ([]byte, error) {
	if a.silent.Load() {
		return nil, nil
	}
	return data, nil
}

// contact is the Contact value for a network.
func (a *agent) contact(network string) string {
	return "<" + URI(a.user, a.address(network), network) + ">"
}

func (a *agent) note(req *sip.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts[string(req.Method)]++
	if id := callIDOf(req); !a.seen[id] && req.Method != sip.OPTIONS {
		a.seen[id] = true
		a.callIDs = append(a.callIDs, id)
	}
	a.wakeLocked()
}

func (a *agent) wakeLocked() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// scripted takes the next scripted answer of a method; ok is false when there is none.
// The last one stays.
func (a *agent) scripted(method sip.RequestMethod) (code int, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	codes := a.script[string(method)]
	if len(codes) == 0 {
		return 0, false
	}
	if len(codes) > 1 {
		a.script[string(method)] = codes[1:]
	}
	return codes[0], true
}

// respond answers; the To tag is the given one.
func (a *agent) respond(req *sip.Request, tx sip.ServerTransaction, code int, tag string, body []byte, headers ...sip.Header) error {
	res := sip.NewResponseFromRequest(req, code, reasonOf(code), body)
	if tag != "" && code > 100 {
		if to := res.To(); to != nil {
			if had, _ := req.To().Params.Get("tag"); had == "" {
				to.Params.Remove("tag")
				to.Params.Add("tag", tag)
			}
		}
	}
	res.AppendHeader(sip.NewHeader("Server", a.name))
	for _, h := range headers {
		res.AppendHeader(h)
	}
	return tx.Respond(res)
}

// refusal is the code for a request that is not served, 0 for others.
func (a *agent) refusal(req *sip.Request) int {
	if a.refuses == nil {
		return 0
	}
	return a.refuses(req)
}

// plain answers what needs no state: the scripted code, else 200.
func (a *agent) plain(req *sip.Request, tx sip.ServerTransaction) {
	s, ok := a.enter()
	if !ok {
		return
	}
	defer s.calls.Done()
	a.note(req)
	code, ok := a.scripted(req.Method)
	if !ok {
		code = 200
		if refusal := a.refusal(req); refusal != 0 {
			code = refusal
		}
	}
	if code == 0 {
		tx.Terminate()
		return
	}
	_ = a.respond(req, tx, code, Unique(a.name), nil) // a peer that has gone is the test's business
}

// strayCancel answers a CANCEL that matches no INVITE (RFC 3261 9.2).
func (a *agent) strayCancel(req *sip.Request, tx sip.ServerTransaction) {
	s, ok := a.enter()
	if !ok {
		return
	}
	defer s.calls.Done()
	a.note(req)
	_ = a.respond(req, tx, 481, "", nil) // as above
}

// invited answers an INVITE as the script and the delays say, and sends the 200 again until
// its ACK comes (RFC 3261 13.3.1.4).
func (a *agent) invited(req *sip.Request, tx sip.ServerTransaction) {
	s, ok := a.enter()
	if !ok {
		return
	}
	defer s.calls.Done()
	a.note(req)
	code, scripted := a.scripted(sip.INVITE)
	if refusal := a.refusal(req); !scripted && refusal != 0 {
		code, scripted = refusal, true
	}
	if scripted && code == 0 {
		tx.Terminate()
		return
	}
	cancelled := make(chan struct{})
	once := sync.OnceFunc(func() { close(cancelled) })
	if !tx.OnCancel(func(*sip.Request) { a.noteMethod("CANCEL"); once() }) {
		return
	}
	tag, early := req.To().Params.Get("tag")
	if !early {
		tag = Unique(a.name)
	}
	network := strings.ToLower(req.Transport())
	contact := sip.NewHeader("Contact", a.contact(network))
	_ = a.respond(req, tx, 100, "", nil) // lost answers are the test's business
	a.mu.Lock()
	ringing, answer := a.ringing, a.answer
	a.mu.Unlock()
	if scripted && code >= 300 {
		if pause(s.ctx, ringing, cancelled) {
			_ = a.respond(req, tx, code, tag, nil)
		}
		return
	}
	d := a.calledDialog(req, tag, network)
	if !early {
		if !pause(s.ctx, ringing, cancelled) {
			return
		}
		_ = a.respond(req, tx, 180, tag, nil, contact)
		if !pause(s.ctx, answer, cancelled) {
			return
		}
	}
	send := func() error {
		return a.respond(req, tx, 200, tag, a.describe(req.Body()), contact, sip.NewHeader("Content-Type", "application/sdp"),
			sip.NewHeader("Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, MESSAGE"))
	}
	// Registered before the 200 leaves: the ACK may be faster than this goroutine.
	a.addDialog(d)
	if err := send(); err != nil {
		return
	}
	wait, left := t1, timerH
	for left > 0 {
		timer := time.NewTimer(wait)
		select {
		case <-d.acked:
			timer.Stop()
			return
		case <-s.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			left -= wait
			wait = min(2*wait, t2)
			_ = send() // as above
		}
	}
}

// pause waits; false when the call is cancelled or the agent stops.
func pause(ctx context.Context, d time.Duration, cancelled <-chan struct{}) bool {
	if d <= 0 {
		select {
		case <-cancelled:
			return false
		default:
			return ctx.Err() == nil
		}
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-cancelled:
		return false
	case <-ctx.Done():
		return false
	}
}

func (a *agent) noteMethod(method string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts[method]++
	a.wakeLocked()
}

func (a *agent) acknowledged(req *sip.Request, _ sip.ServerTransaction) {
	s, ok := a.enter()
	if !ok {
		return
	}
	defer s.calls.Done()
	a.note(req)
	if d := a.dialog(callIDOf(req)); d != nil && req.CSeq().SeqNo >= d.inviteCSeq {
		d.ackOnce.Do(func() { close(d.acked) })
	}
}

func (a *agent) bye(req *sip.Request, tx sip.ServerTransaction) {
	s, ok := a.enter()
	if !ok {
		return
	}
	defer s.calls.Done()
	a.note(req)
	code, scripted := a.scripted(sip.BYE)
	if scripted && code == 0 {
		tx.Terminate()
		return
	}
	d := a.dialog(callIDOf(req))
	switch {
	case scripted:
	case d == nil:
		code = 481
	default:
		code = 200
	}
	_ = a.respond(req, tx, code, "", nil) // lost answers are the test's business
	if d != nil {
		a.end(d)
	}
}

func (a *agent) end(d *dialog) {
	d.ackOnce.Do(func() { close(d.acked) })
	d.endOnce.Do(func() { close(d.ended) })
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.dialogs, d.callID)
	a.wakeLocked()
}

func (a *agent) addDialog(d *dialog) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if known := a.dialogs[d.callID]; known != nil {
		// A re-INVITE refreshes the target (RFC 3261 12.2.2) and waits for an ACK of its own.
		d.routes, d.cseq, d.ended = known.routes, known.cseq, known.ended
	}
	a.dialogs[d.callID] = d
	a.wakeLocked()
}

func (a *agent) dialog(callID string) *dialog {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.dialogs[callID]
}

// calledDialog is the callee's view (RFC 3261 12.1.1).
func (a *agent) calledDialog(req *sip.Request, tag, network string) *dialog {
	d := &dialog{
		callID: callIDOf(req), network: network, local: withTag(req.To().Value(), tag), remote: req.From().Value(),
		fallback: req.Source(), acked: make(chan struct{}), ended: make(chan struct{}), inviteCSeq: req.CSeq().SeqNo,
	}
	if c := req.Contact(); c != nil {
		d.target = c.Address.String()
	}
	for _, h := range req.GetHeaders("Record-Route") {
		d.routes = append(d.routes, h.Value())
	}
	return d
}

// inDialog builds a request inside a dialog (RFC 3261 12.2.1.1) and says where it goes.
func (a *agent) inDialog(d *dialog, method sip.RequestMethod, cseq uint32) (*sip.Request, error) {
	target := d.target
	routes := d.routes
	next := target
	if len(routes) > 0 {
		next = AddrURI(routes[0])
		if !strings.Contains(strings.ToLower(next), ";lr") {
			// Strict router: its URI becomes the Request-URI, the target the last Route.
			routes = append(append([]string{}, routes[1:]...), "<"+target+">")
			target = next
		}
	}
	var uri sip.Uri
	if err := sip.ParseUri(target, &uri); err != nil {
		return nil, fmt.Errorf("remote target %q: %w", target, err)
	}
	req := sip.NewRequest(method, uri)
	for _, r := range routes {
		req.AppendHeader(sip.NewHeader("Route", r))
	}
	callID := sip.CallIDHeader(d.callID)
	maxForwards := sip.MaxForwardsHeader(70)
	from, to := new(sip.FromHeader), new(sip.ToHeader)
	var err error
	if from.DisplayName, err = sip.ParseAddressValue(d.local, &from.Address, &from.Params); err != nil {
		return nil, err
	}
	if to.DisplayName, err = sip.ParseAddressValue(d.remote, &to.Address, &to.Params); err != nil {
		return nil, err
	}
	req.AppendHeader(from)
	req.AppendHeader(to)
	req.AppendHeader(&callID)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: cseq, MethodName: method})
	req.AppendHeader(&maxForwards)
	req.AppendHeader(sip.NewHeader("Contact", a.contact(d.network)))
	req.AppendHeader(sip.NewHeader("User-Agent", a.name))
	req.SetBody(nil)
	dest := d.fallback
	if ap, ok := URIHost(next); ok {
		dest = ap.String()
	}
	a.aim(req, d.network, dest)
	return req, nil
}

// aim fixes transport, destination and, for UDP, the socket a request leaves by.
func (a *agent) aim(req *sip.Request, network, dest string) {
	req.SetTransport(strings.ToUpper(network))
	req.SetDestination(dest)
	if network == "udp" {
		at := a.address("udp")
		req.Laddr = sip.Addr{IP: at.Addr().AsSlice(), Port: int(at.Port())}
	}
}

// addVia puts a Via on top whose sent-by is where the agent listens for that transport.
func (a *agent) addVia(network string) sipgo.ClientRequestOption {
	return func(c *sipgo.Client, req *sip.Request) error {
		if err := sipgo.ClientRequestAddVia(c, req); err != nil {
			return err
		}
		req.Via().Port = int(a.address(network).Port())
		return nil
	}
}

// request sends a request inside a dialog and returns the final answer's code.
func (a *agent) request(ctx context.Context, d *dialog, method string) (int, error) {
	s, ok := a.enter()
	if !ok {
		return 0, errStopped
	}
	defer s.calls.Done()
	a.mu.Lock()
	d.cseq++
	cseq := d.cseq
	a.mu.Unlock()
	req, err := a.inDialog(d, sip.RequestMethod(method), cseq)
	if err != nil {
		return 0, err
	}
	if method == "ACK" {
		return 0, s.client.WriteRequest(req, a.addVia(d.network))
	}
	res, err := s.client.Do(ctx, req, a.addVia(d.network))
	if err != nil {
		return 0, fmt.Errorf("%s in dialog: %w", method, err)
	}
	return res.StatusCode, nil
}

var errStopped = errors.New("the endpoint is stopped")

// CallIDs are the Call-IDs seen, in the order of their first request; those of OPTIONS left out.
func (a *agent) CallIDs() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.callIDs...)
}

// Calls is the number of calls that are up.
func (a *agent) Calls() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.dialogs)
}

// WaitCalls waits until exactly n calls are up.
func (a *agent) WaitCalls(ctx context.Context, n int) error {
	return a.waitFor(ctx, func() bool { return len(a.dialogs) == n })
}

// Request sends a request inside a call that was answered here, BYE for instance,
// and returns the code of its final answer.
func (a *agent) Request(ctx context.Context, callID, method string) (int, error) {
	d := a.dialog(callID)
	if d == nil {
		return 0, fmt.Errorf("no call %q", callID)
	}
	code, err := a.request(ctx, d, method)
	if method == "BYE" && err == nil {
		a.end(d)
	}
	return code, err
}

// waitFor waits until check, called with the lock held, says so.
func (a *agent) waitFor(ctx context.Context, check func() bool) error {
	for {
		a.mu.Lock()
		done, changed := check(), a.changed
		a.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func callIDOf(m sip.Message) string {
	if h := m.CallID(); h != nil {
		return h.Value()
	}
	return ""
}

func withTag(value, tag string) string {
	if _, ok := Param(afterURI(value), "tag"); ok {
		return value
	}
	return value + ";tag=" + tag
}

func reasonOf(code int) string {
	if r, ok := reasons[code]; ok {
		return r
	}
	return "Code " + strconv.Itoa(code)
}

var reasons = map[int]string{
	100: "Trying", 180: "Ringing", 183: "Session Progress", 200: "OK", 202: "Accepted", 302: "Moved Temporarily",
	400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 407: "Proxy Authentication Required",
	408: "Request Timeout", 480: "Temporarily Unavailable", 481: "Call/Transaction Does Not Exist", 486: "Busy Here",
	487: "Request Terminated", 488: "Not Acceptable Here", 500: "Server Internal Error", 503: "Service Unavailable",
	600: "Busy Everywhere", 603: "Decline",
}
