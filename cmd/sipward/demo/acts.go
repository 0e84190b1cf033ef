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

	manyCalls    = 20
	failingCalls = 12 // calls while a node is down, all at once
	mostFailing  = 40 // and how many until one has met the dead node
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
	c := p.talk(ctx, 0, "", true)
	p.note(c)
	p.showLog(c.callID)
	return c.err
}

// forgotten is a call that neither side ends; its two ends know nothing of session timers.
func (p *play) forgotten(ctx context.Context) error {
	p.title("A call that nobody ends: the edge hangs up on both sides")
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	from := p.lines.mark()
	placed, err := p.phones[1].Call(ctx, "sip:+4930123456@"+domain)
	if err != nil || !placed.Answered() {
		return fmt.Errorf("a call to forget: %w", errors.Join(err, errors.New("not answered")))
	}
	c := call{phone: cast[1].user, callID: placed.CallID, status: placed.Status, node: placed.Server, took: placed.Took}
	line, err := p.waitFor(ctx, from, "Call ended - C=no_timer_call_duration")
	if err != nil {
		return err
	}
	p.say("   %s", paint(line, p.o.Dim))
	select {
	case <-placed.Ended(): // the phone had its BYE
		c.bye = 200
	case <-ctx.Done():
		c.err = ctx.Err()
	}
	p.note(c)
	if n := p.node(c.node); n != nil {
		if err := n.WaitCalls(ctx, 0); err != nil { // and the node its own
			return fmt.Errorf("%s still has the call: %w", c.node, err)
		}
	}
	return c.err
}

// manyCalls places calls from all phones; the Call-ID decides which node takes one.
func (p *play) manyCalls(ctx context.Context) error {
	p.title(fmt.Sprintf("%d calls, %d at a time; every other one is ended by the node", manyCalls, len(p.phones)))
	return p.spread(ctx)
}

// spread places calls and says who took them. Each node has to take some.
func (p *play) spread(ctx context.Context) error {
	taken := make(map[string]int)
	for _, c := range p.several(ctx, manyCalls, len(p.phones), "") {
		taken[c.node]++
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

// several places calls, some of them at a time, and shows a dot for each. want is as for talk.
func (p *play) several(ctx context.Context, calls, atATime int, want string) []call {
	results := make(chan call)
	var running sync.WaitGroup
	for i := range atATime {
		running.Go(func() { // ends with its calls, each of which has a time limit
			for n := i; n < calls; n += atATime {
				results <- p.talk(ctx, i%len(p.phones), want, n/atATime%2 == 0)
			}
		})
	}
	go func() { // ends with the calls
		running.Wait()
		close(results)
	}()
	from := len(p.calls)
	fmt.Fprint(p.o.Out, "   ")
	for c := range results {
		p.note(c)
		p.dot(c)
	}
	return p.calls[from:]
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
	dead := p.nodes[0]
	p.title(dead.name + " goes down: its sockets are closed, and the edge does not know yet")
	from := p.lines.mark()
	if err := dead.Stop(); err != nil {
		return fmt.Errorf("stop %s: %w", dead.name, err)
	}
	example, err := p.failing(ctx, dead, p.nodes[1])
	if err != nil {
		return err
	}
	p.showLog(example)
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

// nodeSilent leaves the sockets of the other node open, but nothing is answered: only time tells.
func (p *play) nodeSilent(ctx context.Context) error {
	dead := p.nodes[1]
	p.title(dead.name + " hangs: its sockets are open, and it answers nothing")
	dead.Silence()
	defer dead.Resume()
	_, err := p.failing(ctx, dead, p.nodes[0])
	return err
}

// failing places calls while a node is dead and returns the Call-ID of one that met it.
func (p *play) failing(ctx context.Context, dead, other *node) (example string, err error) {
	// The first calls go out before a probe can have noticed, so some meet the dead node: which, their Call-IDs decide.
	calls := p.several(ctx, failingCalls, failingCalls, other.name)
	for failoversOf(calls) == 0 && len(calls) < mostFailing && ctx.Err() == nil {
		calls = append(calls, p.several(ctx, 1, 1, other.name)...)
	}
	p.say("  answered by %s", other.name)
	var slowest time.Duration
	for _, c := range calls {
		if len(c.tried) > 1 {
			slowest, example = max(slowest, c.took), c.callID
		}
	}
	if example == "" {
		return "", errors.New("no call met the dead node")
	}
	p.say("   %d of %d were sent to %s first and failed over; the slowest was answered after %s, of which it rang %s",
		failoversOf(calls), len(calls), dead.name, millis(slowest), millis(ringing+answering))
	return example, nil
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

func failoversOf(calls []call) (n int) {
	for _, c := range calls {
		if len(c.tried) > 1 {
			n++
		}
	}
	return n
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
