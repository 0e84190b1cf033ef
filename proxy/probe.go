package proxy

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"github.com/sipward/sipward/proxy/backend"
	"github.com/sipward/sipward/proxy/resolve"
	"github.com/sipward/sipward/proxy/wire"
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
	w := p.edge.scratch()
	defer p.edge.release(w)
	p.probe(w, now)
	w.flush()
}

func (p *prober) probe(w *scratch, now time.Duration) {
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
	r := &ownRequest{edge: e, snap: p.snap, flow: f, answered: p.answered, deadline: now + p.backend.ProbeTimeout()}
	options := optionsText(e.sentBy(p.snap, f), p.backend, t, p.snap.config.ServerID)
	build := func(dst, via []byte) []byte {
		options.PrependHeader(sip.NewHeader("Via", strings.TrimSpace(string(via[len("Via:"):]))))
		return append(dst, options.String()...)
	}
	if !r.start(w, wire.OPTIONS, now, build) {
		p.result(p.backend.Miss(now, backend.Probe), outcome{why: "the transaction table is full"})
	}
}

// answered judges the answer; status 0 stands for none.
func (p *prober) answered(w *scratch, status int, _ bool, now time.Duration) {
	switch status {
	case 0:
		p.result(p.backend.Miss(now, backend.Probe), outcome{why: "no answer to " + p.method() + "; check that it listens there and accepts requests from this host"})
	case 503:
		p.result(p.backend.Unavailable(now, retryAfter(&w.msg), backend.Probe), outcome{why: "answers 503", status: status})
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
// backend itself is asked. It has no Via yet.
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
	req.SetBody(nil) // and Content-Length
	return req
}
