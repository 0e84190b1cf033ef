// Package demo is the play that `sipward demo` shows: a real edge, two PBX nodes and phones, all on loopback sockets of
// this process. It registers, calls, takes a node down and brings it back.
//
// Nothing is taken on trust. What a call came to is known from three sides that do not know of each other: the phones,
// the nodes' own counters and the log lines of the edge. The verdict compares them; see verdict.go.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// ErrVerdict means that the play ran, but not every call did what it should. The output says which.
var ErrVerdict = errors.New("not every call did what it should")

// Options say how the demo is shown.
type Options struct {
	Out  io.Writer
	Stay bool // keep edge and nodes up after the table until ctx ends

	Dim, Bold, Good, Bad string // escape sequences before a text; empty: none
}

// playTime bounds the whole play. A number we chose: twice what it takes on a slow machine.
const playTime = 28 * time.Second

// Run shows the demo. It returns ErrVerdict when a call did not do what it should, and another error when the demo could
// not be shown to its end.
func Run(ctx context.Context, o Options) (err error) {
	began := time.Now()
	s, err := newStage(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	p := &play{stage: s, o: o}
	p.picture()
	playing, cancel := context.WithTimeout(ctx, playTime)
	defer cancel()
	if err := p.acts(playing); err != nil {
		return p.broken(ctx, err)
	}
	complaints := p.close(time.Since(began))
	if o.Stay {
		p.stay(ctx)
	}
	if len(complaints) > 0 {
		return ErrVerdict
	}
	return nil
}

// broken says why the play did not come to its end.
func (p *play) broken(ctx context.Context, err error) error {
	p.say("")
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return fmt.Errorf("the demo did not come to its end: %w", err)
}

// play is the demo while it runs.
type play struct {
	*stage
	o     Options
	act   int
	calls []call // all that were placed, in order
}

func (p *play) acts(ctx context.Context) error {
	for _, act := range []func(context.Context) error{p.register, p.oneCall, p.forgotten, p.manyCalls, p.nodeDown, p.nodeBack, p.nodeSilent} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *play) say(format string, args ...any) { fmt.Fprintf(p.o.Out, format+"\n", args...) }

// title begins an act.
func (p *play) title(text string) {
	p.act++
	p.say("\n%s", paint(fmt.Sprintf("%d  %s", p.act, text), p.o.Bold))
}

func paint(text, color string) string {
	if color == "" {
		return text
	}
	return color + text + "\x1b[0m"
}

func (p *play) picture() {
	p.say("%s", paint("sipward demo: one edge, two PBX nodes and four phones on this machine", p.o.Bold))
	p.say(`
    alice   bob   carol   dave       phones, udp and tcp
        \     \   /     /
     sipward %-21s   the edge, udp and tcp
           /         \
        %s       %s             two PBX nodes
`, p.addr, p.nodes[0].Name(), p.nodes[1].Name())
	p.say("All of its configuration:\n")
	for line := range strings.Lines(p.yaml) {
		p.say("   %s", paint(strings.TrimRight(line, "\n"), p.o.Dim))
	}
}

// stay keeps everything up for a softphone and shows the log as it comes.
func (p *play) stay(ctx context.Context) {
	if err := p.usualTimers(); err != nil {
		p.say("\n%v", err)
	}
	p.say("\nEdge and nodes stay up until Ctrl-C. For a softphone on this machine:\n")
	p.say("   outbound proxy  %s (UDP or TCP)", p.addr)
	p.say("   user            %s", cast[0].user)
	p.say("   password        %s", password)
	p.say("   domain          %s", domain)
	p.say("\nCall any number: a node takes the call; there is no audio, the nodes only signal. Log lines:\n")
	p.lines.follow(p.o.Out)
	<-ctx.Done()
	p.lines.follow(nil)
}
