package demo

import (
	"fmt"
	"slices"
	"time"
)

// failoverLimit is how long a call may take that has to go to another node: two seconds of silence, the ringing, and
// what a busy machine adds. Without a failover it would be 32 seconds.
const failoverLimit = 10 * time.Second

// call is what came of one call.
type call struct {
	phone  string
	callID string
	want   string // node that had to answer; empty: any

	// As the phone saw it.
	status int
	node   string // that answered
	took   time.Duration
	bye    int // answer to the BYE, whoever sent it
	err    error

	tried []string // nodes that the INVITE was sent to, as the log has it
}

// complaint says what a call did that it should not, and nothing if it was as it should.
func (c call) complaint() string {
	switch {
	case c.err != nil:
		return c.err.Error()
	case c.status != 200:
		return fmt.Sprintf("got %d instead of an answer", c.status)
	case c.want != "" && c.node != c.want:
		return fmt.Sprintf("answered by %s, which should be %s", c.node, c.want)
	case c.took > failoverLimit:
		return "answered only after " + c.took.String()
	case c.bye != 200:
		return fmt.Sprintf("its BYE got %d", c.bye)
	default:
		return ""
	}
}

// tally is what there is to say about one node at the end.
type tally struct {
	name     string
	relayed  int // INVITEs that the log says were sent to it
	answered int // calls that the phones say it answered
	inVain   int // relayed to it, answered by the other
	tookOver int // answered by it, after the other was tried

	invites int // that the node itself counted
}

// count makes the tally of a node from what the phones saw and the log has.
func count(name string, invites int, calls []call) tally {
	t := tally{name: name, invites: invites}
	for _, c := range calls {
		for i, n := range c.tried {
			switch {
			case n != name:
			case i < len(c.tried)-1:
				t.relayed, t.inVain = t.relayed+1, t.inVain+1
			default:
				t.relayed++
				if i > 0 && c.node == name {
					t.tookOver++
				}
			}
		}
		if c.status == 200 && c.node == name {
			t.answered++
		}
	}
	return t
}

// verdict compares what phones, log and nodes say, and lists everything that is not as it should be.
func verdict(calls []call, nodes []tally) []string {
	var wrong []string
	add := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if len(calls) == 0 {
		add("no call was placed")
	}
	for _, c := range calls {
		if text := c.complaint(); text != "" {
			add("call of %s, %s: %s", c.phone, c.callID, text)
		}
		if c.status == 200 && (len(c.tried) == 0 || c.tried[len(c.tried)-1] != c.node) {
			add("call of %s, %s: answered by %s, but by the log it was sent to %v", c.phone, c.callID, c.node, c.tried)
		}
		if c.status == 200 && !slices.ContainsFunc(nodes, func(t tally) bool { return t.name == c.node }) {
			add("call of %s, %s: answered by %q, which is no node", c.phone, c.callID, c.node)
		}
	}
	if failoversOf(calls) == 0 {
		add("no call was failed over")
	}
	for _, t := range nodes {
		if t.invites != t.answered || t.relayed-t.inVain != t.answered {
			add("%s counted %d calls, by the log it was sent %d and %d were in vain, the phones heard it answer %d",
				t.name, t.invites, t.relayed, t.inVain, t.answered)
		}
		if t.answered == 0 {
			add("%s answered no call", t.name)
		}
	}
	return wrong
}

// close shows the closing table and the verdict, and returns what is wrong.
func (p *play) close(took time.Duration) []string {
	p.title("What came of it")
	var all []tally
	p.say("   %s", paint(fmt.Sprintf("%-6s %6s %9s %13s %10s", "node", "calls", "answered", "tried in vain", "took over"), p.o.Dim))
	for _, n := range p.nodes {
		t := count(n.name, n.Count("INVITE"), p.calls)
		all = append(all, t)
		p.say("   %-6s %6d %9d %13d %10d", t.name, t.relayed, t.answered, t.inVain, t.tookOver)
	}
	wrong := verdict(p.calls, all)
	p.say("")
	for _, text := range wrong {
		p.say("   %s", paint(text, p.o.Bad))
	}
	answered := 0
	for _, t := range all {
		answered += t.answered
	}
	if len(wrong) > 0 {
		p.say("   %s", paint(fmt.Sprintf("FAILED: %d of %d calls were answered", answered, len(p.calls)), p.o.Bad))
		return wrong
	}
	p.say("   %s", paint(fmt.Sprintf("Every call did what it should: %d of %d answered and ended, in %.1f s. Phones, nodes and log agree.",
		answered, len(p.calls), took.Seconds()), p.o.Good))
	return nil
}
