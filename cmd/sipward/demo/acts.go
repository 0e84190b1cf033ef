package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

const (
	patience = 10 * time.Second // for one request or call to come to its end
	talk     = 80 * time.Millisecond

	callsPerPhone = 5
	leastFailing  = 8  // calls while a node is down
	mostFailing   = 40 // and how many until one has met the dead node
)

// register registers every phone; the nodes ask for digest credentials.
func (p *play) register(ctx context.Context) error {
	p.title("The phones register, with digest")
	for i := range p.phones {
		if err := p.registerOne(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (p *play) registerOne(ctx context.Context, i int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	phone := p.phones[i]
	before := make(map[string]int)
	for _, n := range p.nodes {
		before[n.name] = n.Count("REGISTER")
	}
	answer, err := phone.Register(ctx, password)
	if err != nil {
		return fmt.Errorf("%s: %w", cast[i].user, err)
	}
	var at []string
	requests := 0
	for _, n := range p.nodes {
		if asked := n.Count("REGISTER") - before[n.name]; asked > 0 {
			at, requests = append(at, n.name), requests+asked
		}
	}
	p.say("   %-6s %-4s challenged, then %d %s at %s  %s", cast[i].user, cast[i].network, answer.Status, answer.Reason,
		strings.Join(at, ", "), millis(answer.Took))
	if answer.Status != 200 || requests != 2 || len(at) != 1 {
		return fmt.Errorf("%s could not register: %d %s after %d requests", cast[i].user, answer.Status, answer.Reason, requests)
	}
	return nil
}

// oneCall places one call and shows all that the log has of it.
func (p *play) oneCall(ctx context.Context) error {
	p.title("One call, as the log tells it")
	c := p.place(ctx, 0, "", true)
	if c.err != nil {
		return c.err
	}
	p.showLog(c.callID)
	return nil
}

// manyCalls places calls from all phones at once; the Call-ID decides which node takes one.
func (p *play) manyCalls(ctx context.Context) error {
	p.title(fmt.Sprintf("%d calls from all phones at once; every other one is ended by the node", callsPerPhone*len(p.phones)))
	return p.spread(ctx)
}

// spread places calls from all phones and says who took them. Each node has to take some.
func (p *play) spread(ctx context.Context) error {
	var running sync.WaitGroup
	results := make(chan call)
	for i := range p.phones {
		running.Go(func() { // ends with its calls, each of which has a time limit
			for n := range callsPerPhone {
				results <- p.talk(ctx, i, "", n%2 == 0)
			}
		})
	}
	go func() { // ends with the calls
		running.Wait()
		close(results)
	}()
	taken := make(map[string]int)
	fmt.Fprint(p.o.Out, "   ")
	for c := range results {
		p.note(c)
		taken[c.node]++
		p.dot(c)
	}
	var by []string
	for _, n := range p.nodes {
		by = append(by, fmt.Sprintf("%s %d", n.name, taken[n.name]))
	}
	p.say("  answered by %s", strings.Join(by, ", "))
	for _, n := range p.nodes {
		if taken[n.name] == 0 {
			return fmt.Errorf("%s got no call", n.name)
		}
	}
	return ctx.Err()
}

func (p *play) dot(c call) {
	if c.complaint() == "" {
		fmt.Fprint(p.o.Out, paint(".", p.o.Good))
		return
	}
	fmt.Fprint(p.o.Out, paint("x", p.o.Bad))
}

// nodeDown closes the sockets of a node. The edge learns it from the calls that meet no answer, and no call is lost.
func (p *play) nodeDown(ctx context.Context) error {
	dead, other := p.nodes[0], p.nodes[1]
	p.title(dead.name + " goes down: its sockets are closed, and the edge does not know yet")
	from := p.lines.mark()
	if err := dead.Stop(); err != nil {
		return fmt.Errorf("stop %s: %w", dead.name, err)
	}
	failedOver, placed := "", 0
	for ; placed < mostFailing && (placed < leastFailing || failedOver == ""); placed++ {
		c := p.place(ctx, placed%len(p.phones), other.name, true)
		if c.err != nil {
			return c.err
		}
		if len(c.tried) > 1 {
			p.say("   call %d, %-5s  %s was tried first; answered by %s after %s", placed+1, cast[placed%len(p.phones)].user,
				c.tried[0], c.node, millis(c.took))
			failedOver = c.callID
		}
	}
	p.say("   %d calls placed, all answered by %s", placed, other.name)
	if failedOver == "" {
		return errors.New("no call met the dead node")
	}
	p.showLog(failedOver)
	line, err := p.lines.wait(ctx, from, dead.name+" is down")
	if err != nil {
		return err
	}
	p.say("   %s", paint(line, p.o.Dim))
	for i, phone := range p.phones {
		if len(dead.Bindings(phone.AOR())) > 0 {
			p.say("   A phone that was registered at %s registers again:", dead.name)
			return p.registerOne(ctx, i)
		}
	}
	return nil
}

// nodeBack starts the node again; a probe finds it and it gets its share back.
func (p *play) nodeBack(ctx context.Context) error {
	dead := p.nodes[0]
	p.title(dead.name + " comes back: a probe finds it, and it gets its share again")
	from := p.lines.mark()
	if err := dead.Start(); err != nil {
		return fmt.Errorf("start %s: %w", dead.name, err)
	}
	line, err := p.waitFor(ctx, from, dead.name+" is up")
	if err != nil {
		return err
	}
	p.say("   %s", paint(line, p.o.Dim))
	return p.spread(ctx)
}

// waitFor waits for a line and shows that it does.
func (p *play) waitFor(ctx context.Context, from int, text string) (string, error) {
	fmt.Fprint(p.o.Out, "   waiting for it ")
	defer p.say("")
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	type found struct {
		line string
		err  error
	}
	done := make(chan found, 1)
	go func() { // ends with ctx
		line, err := p.lines.wait(ctx, from, text)
		done <- found{line, err}
	}()
	tick := time.NewTicker(400 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case f := <-done:
			return f.line, f.err
		case <-tick.C:
			fmt.Fprint(p.o.Out, ".")
		}
	}
}

// place is talk, noted and complained about.
func (p *play) place(ctx context.Context, phone int, want string, byPhone bool) call {
	c := p.talk(ctx, phone, want, byPhone)
	p.note(c)
	c = p.calls[len(p.calls)-1]
	if text := c.complaint(); text != "" {
		p.say("   %s", paint("call of "+cast[phone].user+": "+text, p.o.Bad))
	}
	return c
}

// note keeps a call, with what the log has of it.
func (p *play) note(c call) {
	p.log.Flush()
	c.tried = p.lines.tried(c.callID)
	p.calls = append(p.calls, c)
}

// talk places one call, lets it be for a moment and ends it, from the phone or from the node. want names the node that
// has to answer; empty: any.
func (p *play) talk(ctx context.Context, phone int, want string, byPhone bool) call {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := call{phone: cast[phone].user, want: want}
	placed, err := p.phones[phone].Call(ctx, "sip:+4930123456@"+domain)
	if placed != nil {
		c.callID, c.status, c.node, c.took = placed.CallID, placed.Status, placed.Server, placed.Took
	}
	if err != nil || !placed.Answered() {
		c.err = err
		return c
	}
	timer := time.NewTimer(talk)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	c.bye, c.err = p.hangUp(ctx, placed, byPhone)
	return c
}

func (p *play) hangUp(ctx context.Context, c *siptest.Call, byPhone bool) (int, error) {
	if byPhone {
		return c.Hangup(ctx)
	}
	n := p.node(c.Server)
	if n == nil {
		return 0, fmt.Errorf("answered by a stranger: %q", c.Server)
	}
	code, err := n.Request(ctx, c.CallID, "BYE")
	if err != nil {
		return code, err
	}
	select {
	case <-c.Ended():
	case <-ctx.Done():
		err = ctx.Err()
	}
	return code, err
}

// showLog prints what an operator sees who looks for a Call-ID.
func (p *play) showLog(callID string) {
	p.log.Flush()
	p.say("   $ grep %s sipward.log", callID)
	for _, line := range p.lines.grep(" ID=" + callID) {
		p.say("   %s", paint(line, p.o.Dim))
	}
}

func millis(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
