package demo

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(siptest.StrayReader)) }

// good is a small play in which all went well: three calls, one failed over from a to b.
func good() ([]call, []tally) {
	calls := []call{
		{phone: "p", callID: "1", status: 200, node: "a", bye: 200, tried: []string{"a"}},
		{phone: "p", callID: "2", status: 200, node: "b", bye: 200, tried: []string{"b"}},
		{phone: "p", callID: "3", status: 200, node: "b", bye: 200, tried: []string{"a", "b"}, want: "b", took: 2 * time.Second},
	}
	return calls, []tally{count("a", 1, calls), count("b", 2, calls)}
}

func TestCount(t *testing.T) {
	_, nodes := good()
	want := []tally{
		{name: "a", relayed: 2, answered: 1, inVain: 1, invites: 1},
		{name: "b", relayed: 2, answered: 2, tookOver: 1, invites: 2},
	}
	for i := range want {
		if nodes[i] != want[i] {
			t.Errorf("got %+v, want %+v", nodes[i], want[i])
		}
	}
}

// TestVerdict: whatever is not as it should be is found, also when a node lies about what it did.
func TestVerdict(t *testing.T) {
	if calls, nodes := good(); verdict(calls, nodes) != nil {
		t.Fatalf("complaints about a good play: %v", verdict(calls, nodes))
	}
	cases := []struct {
		name  string
		spoil func(calls []call, nodes []tally) ([]call, []tally)
		want  string
	}{
		{"a node says it had more calls", func(c []call, n []tally) ([]call, []tally) { n[0].invites++; return c, n }, "a counted 2 calls"},
		{"a node says it had fewer", func(c []call, n []tally) ([]call, []tally) { n[1].invites--; return c, n }, "b counted 1 calls"},
		{"a call that the log does not have", func(c []call, n []tally) ([]call, []tally) { c[0].tried = nil; return c, n }, "by the log it was sent to []"},
		{"answered by a stranger", func(c []call, n []tally) ([]call, []tally) { c[0].node = "x"; return c, n }, "which is no node"},
		{"answered by the wrong node", func(c []call, n []tally) ([]call, []tally) { c[1].want = "a"; return c, n }, "answered by b, which should be a"},
		{"rejected", func(c []call, n []tally) ([]call, []tally) { c[1].status = 503; return c, n }, "got 503"},
		{"not answered", func(c []call, n []tally) ([]call, []tally) { c[1].err = errors.New("no reply"); return c, n }, "no reply"},
		{"late", func(c []call, n []tally) ([]call, []tally) { c[2].took = 11 * time.Second; return c, n }, "only after 11s"},
		{"not ended", func(c []call, n []tally) ([]call, []tally) { c[2].bye = 481; return c, n }, "its BYE got 481"},
		{"no failover", func(c []call, n []tally) ([]call, []tally) {
			c = c[:2]
			return c, []tally{count("a", 1, c), count("b", 1, c)}
		}, "no call was failed over"},
		{"an idle node", func(c []call, n []tally) ([]call, []tally) { return c, append(n, count("c", 0, c)) }, "c answered no call"},
		{"nothing at all", func([]call, []tally) ([]call, []tally) { return nil, nil }, "no call was placed"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := strings.Join(verdict(c.spoil(good())), "\n"); !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q in it", got, c.want)
			}
		})
	}
}

// TestLines: the log is kept whole lines at a time, found by text, and read for the nodes that were tried.
func TestLines(t *testing.T) {
	l := newLines()
	mark := l.mark()
	if _, err := l.Write([]byte("x: Relaying request - M=INVITE R=r F=f T=t D=a:127.0.0.1:1 ID=7\n" +
		"x: Relaying request - M=INVITE R=r F=f T=t D=b:127.0.0.1:2 ID=7\nx: Relaying request - M=BYE R=r F=f T=t D=a:127.0.0.1:1 ID=7\n")); err != nil {
		t.Fatal(err)
	}
	if got := l.tried("7"); len(got) != 2 || got[0] != "a" || got[1] != "b" {
		t.Errorf("tried %v", got)
	}
	if line, err := l.wait(t.Context(), mark, "D=b"); err != nil || !strings.Contains(line, "D=b:127.0.0.1:2") {
		t.Errorf("%q, %v", line, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.wait(ctx, l.mark(), "D=b"); !errors.Is(err, context.Canceled) {
		t.Errorf("a line from before the mark was found: %v", err)
	}
}

// output is a writer that tells when a text has come.
type output struct {
	mu   sync.Mutex // guards what follows
	b    bytes.Buffer
	text string
	come chan struct{} // closed when text has come
	once sync.Once
}

func newOutput(text string) *output { return &output{text: text, come: make(chan struct{})} }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b.Write(b)
	if strings.Contains(o.b.String(), o.text) {
		o.once.Do(func() { close(o.come) })
	}
	return len(b), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// TestStay: after the table everything stays up until it is told to end, and the end is a good one.
func TestStay(t *testing.T) {
	out := newOutput("Call any number")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Options{Out: out, Stay: true}) }() // ends with ctx
	select {
	case <-out.come:
	case err := <-ended:
		t.Fatalf("ended: %v\n%s", err, out)
	}
	if !strings.Contains(out.String(), "outbound proxy  127.0.0.1:") || !strings.Contains(out.String(), password) {
		t.Errorf("does not say what to set a softphone to:\n%s", out)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestInterrupted: who stops it in the middle gets an error and no leftovers.
func TestInterrupted(t *testing.T) {
	out := newOutput("1  The phones register")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Options{Out: out}) }() // ends with ctx
	<-out.come
	cancel()
	if err := <-ended; err == nil || errors.Is(err, ErrVerdict) {
		t.Errorf("got %v", err)
	}
}
