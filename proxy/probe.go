package proxy

import (
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"github.com/sipward/sipward/proxy/backend"
	"github.com/sipward/sipward/proxy/resolve"
	"github.com/sipward/sipward/proxy/transaction"
	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/timers"
)

// A prober asks one backend, again and again, whether it is alive. It lives as
// long as its snapshot is the current one.
type prober struct {
	edge    *Edge
	snap    *snapshot
	backend *backend.Backend
	timer   timers.Timer
	first   sync.Once
	known   chan struct{} // closed with the first result
	said    outcome       // the first result; read it after known is closed
}

// startProbers begins to probe the backends of a snapshot.
func (e *Edge) startProbers(s *snapshot) []*prober {
	var all []*prober
	for _, pool := range s.pools.Pools() {
		for _, b := range pool.Backends() {
			p := &prober{edge: e, snap: s, backend: b, known: make(chan struct{})}
			all = append(all, p)
			p.schedule(e.wheel.Now())
		}
	}
	return all
}

func (p *prober) schedule(now time.Duration) {
	if wait := p.backend.NextProbe(now); wait > 0 {
		p.edge.wheel.Set(&p.timer, p, now+wait)
	}
}

func (p *prober) stop() { p.edge.wheel.Stop(&p.timer) }

// Expire sends one probe and arms the next.
func (p *prober) Expire(_ *timers.Timer, now time.Duration) {
	if p.edge.snap.Load() != p.snap {
		return // a reload took over
	}
	defer p.schedule(now) // also when the probe panics
	p.probe(now)
}

func (p *prober) probe(now time.Duration) {
	targets := p.backend.Targets()
	if len(targets) == 0 {
		p.result(p.backend.Miss(now, backend.Probe), outcome{why: "its name is not resolved", unresolved: true})
		return
	}
	e, t := p.edge, targets[0]
	f, ok := e.flowTo(t, p.backend)
	if !ok {
		p.result(p.backend.Miss(now, backend.Probe), outcome{why: "no listener can reach it over " + t.Proto.String()})
		return
	}
	r := &ownRequest{edge: e, snap: p.snap, flow: f, done: p.answered}
	if !r.start(optionsText(e.sentBy(p.snap, f), p.backend, t, p.snap.config.ServerID), now+p.backend.ProbeTimeout(), now) {
		p.result(p.backend.Miss(now, backend.Probe), outcome{why: "the transaction table is full"})
	}
}

// answered judges the answer; status 0 stands for none.
func (p *prober) answered(status int, retryAfter, now time.Duration) {
	switch status {
	case 0:
		p.result(p.backend.Miss(now, backend.Probe), outcome{why: "no answer to " + p.method() + "; check that it listens there and accepts requests from this host"})
	case 503:
		p.result(p.backend.Unavailable(now, retryAfter, backend.Probe), outcome{why: "answers 503", status: status})
	default:
		p.result(p.backend.Alive(now, backend.Probe), outcome{why: "answers " + strconv.Itoa(status), status: status})
	}
}

func (p *prober) method() string { return p.backend.Pool().Config().Probe.Method }

func (p *prober) result(c backend.Change, said outcome) {
	p.edge.logChange(c)
	p.first.Do(func() {
		p.said = said
		close(p.known)
	})
}

// An outcome is what a probe came to.
type outcome struct {
	why        string // for people
	status     int    // of the answer, 0 = none
	unresolved bool   // there was no address to ask
}

// outcome is the first result so far.
func (p *prober) outcome() outcome {
	select {
	case <-p.known:
		return p.said
	default:
		return outcome{why: "not probed yet"}
	}
}

// optionsText builds the probe: an OPTIONS without a user part, so that the
// backend itself is asked. The Via is put on when it is sent.
func optionsText(by sentBy, b *backend.Backend, t resolve.Target, serverID string) *sip.Request {
	var uri sip.Uri
	if err := sip.ParseUri(b.Address(), &uri); err != nil {
		uri = sip.Uri{Host: t.Addr.Addr().String(), Port: int(t.Addr.Port())}
	}
	host := string(sentBy{name: by.name, addr: by.addr}.appendHost(nil))
	own := sip.Uri{Host: host, Port: int(by.port)}
	req := sip.NewRequest(sip.OPTIONS, uri)
	from := sip.FromHeader{Address: own, Params: sip.NewParams()}
	from.Params.Add("tag", sip.GenerateTagN(12))
	req.AppendHeader(&from)
	req.AppendHeader(&sip.ToHeader{Address: uri, Params: sip.NewParams()})
	id := sip.CallIDHeader(sip.GenerateTagN(24) + "@" + host)
	req.AppendHeader(&id)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: 1, MethodName: sip.OPTIONS})
	maxForwards := sip.MaxForwardsHeader(defaultMaxForwards)
	req.AppendHeader(&maxForwards)
	req.AppendHeader(&sip.ContactHeader{Address: own, Params: sip.NewParams()})
	if serverID != "" {
		req.AppendHeader(sip.NewHeader("User-Agent", serverID))
	}
	return req
}

// An ownRequest is a client transaction of the edge itself (not INVITE).
type ownRequest struct {
	edge *Edge
	snap *snapshot
	flow transport.Flow
	done func(status int, retryAfter, now time.Duration) // once, no lock held

	mu       sync.Mutex
	timer    timers.Timer
	slot     transaction.Slot
	client   transaction.Machine
	out      []byte
	deadline time.Duration
	over     bool
}

// start sends the request. It is false when the table is full.
func (r *ownRequest) start(req *sip.Request, deadline, now time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.edge
	slot, ok := e.table.Bare(r)
	if !ok {
		return false
	}
	r.slot, r.deadline = slot, deadline
	r.client = transaction.NewMachine(transaction.NonInviteClient, r.flow.Proto().Reliable())
	r.client.Step(transaction.Start, now, &r.snap.times)

	by := e.sentBy(r.snap, r.flow)
	branch := string(e.key.Append(nil, transaction.Branch{Slot: slot, Leg: transaction.OwnLeg}))
	via := &sip.ViaHeader{
		ProtocolName: "SIP", ProtocolVersion: "2.0", Transport: by.proto.String(),
		Host: string(by.appendHost(nil)), Port: int(by.port), Params: sip.NewParams(),
	}
	via.Params.Add("branch", branch)
	req.PrependHeader(via)
	req.SetBody(nil)
	r.out = []byte(req.String())
	if conn := r.flow.Conn(); conn != nil {
		e.onConn.add(conn.ID(), r)
	}
	// A failed send is a lost datagram: the deadline says so in time.
	if err := r.flow.Send(r.out); err != nil {
		e.count.sendErrors.Add(1)
	}
	e.wheel.Set(&r.timer, r, sooner(r.client.Due(), r.deadline))
	return true
}

// response ends the request with a final answer.
func (r *ownRequest) response(w *scratch, _ transaction.Branch, now time.Duration) {
	if status := w.msg.Status; status >= 200 {
		r.end(status, retryAfter(&w.msg), now)
	}
}

// connClosed ends it without one.
func (r *ownRequest) connClosed(_ *scratch, _ *transport.Conn, now time.Duration) { r.end(0, 0, now) }

func (r *ownRequest) end(status int, retryAfter, now time.Duration) {
	if r.close() {
		r.done(status, retryAfter, now)
	}
}

// close takes it out of every table, once.
func (r *ownRequest) close() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return false
	}
	r.over = true
	r.edge.wheel.Stop(&r.timer)
	r.edge.table.Remove("", r.slot)
	if conn := r.flow.Conn(); conn != nil {
		r.edge.onConn.remove(conn.ID(), r)
	}
	return true
}

// unreachable ends it without one, too.
func (r *ownRequest) unreachable(_ *scratch, _ transaction.Branch, to netip.AddrPort) {
	if r.flow.Remote() == to {
		r.end(0, 0, r.edge.wheel.Now())
	}
}

// Expire retransmits (timer E) or gives up.
func (r *ownRequest) Expire(_ *timers.Timer, now time.Duration) {
	if again, over := r.tick(now); over {
		r.end(0, 0, now)
	} else if again {
		if err := r.flow.Send(r.out); err != nil {
			r.edge.count.sendErrors.Add(1)
		}
	}
}

func (r *ownRequest) tick(now time.Duration) (again, over bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return false, false
	}
	eff := r.client.Step(transaction.Tick, now, &r.snap.times)
	if now >= r.deadline || eff&transaction.Terminates != 0 {
		return false, true
	}
	r.edge.wheel.Set(&r.timer, r, sooner(r.client.Due(), r.deadline))
	return eff&transaction.Send != 0, false
}
