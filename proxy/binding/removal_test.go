package binding

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// A question is a REGISTER that the registrar grants. It came 10 ms after the one before it.
type question struct {
	takes  []ID // their bindings end
	all    bool // Contact: *
	keeps  []ID
	callID string
	cseq   uint32
}

// granted is what the answer to a question teaches.
func (l *lab) granted(q *question, asked time.Duration) {
	for _, id := range q.takes {
		l.Remove(id, asked)
	}
	if q.all {
		l.RemoveAll("alice@example.com", 1, asked)
	}
	for _, id := range q.keeps {
		b := l.phone(id, udp(1), q.cseq)
		b.AoR, b.CallID, b.Asked = "alice@example.com", q.callID, asked
		l.Learn(b, l.now())
	}
}

// orders yields all of n.
func orders(n int) (all [][]int) {
	if n == 0 {
		return [][]int{nil}
	}
	for _, o := range orders(n - 1) {
		for i := range n {
			all = append(all, slices.Insert(slices.Clone(o), i, n-1))
		}
	}
	return all
}

// TestAnswersComeInAnyOrder: what the last REGISTER wanted holds, whatever the order of the answers.
func TestAnswersComeInAnyOrder(t *testing.T) {
	for _, test := range []struct {
		name   string
		before []ID
		asks   []question
		want   []ID
	}{
		{name: "registered and gone", asks: []question{
			{keeps: []ID{1}, callID: "a", cseq: 1}, {takes: []ID{1}, callID: "a", cseq: 2}}},
		{name: "refreshed and gone", before: []ID{1}, asks: []question{
			{keeps: []ID{1}, callID: "a", cseq: 2}, {takes: []ID{1}, callID: "a", cseq: 3}}},
		{name: "gone by another Call-ID", asks: []question{
			{keeps: []ID{1}, callID: "a", cseq: 9}, {takes: []ID{1}, callID: "b", cseq: 1}}},
		{name: "gone and back", before: []ID{1}, asks: []question{
			{takes: []ID{1}, callID: "a", cseq: 2}, {keeps: []ID{1}, callID: "a", cseq: 3}}, want: []ID{1}},
		{name: "gone and back, counting anew", before: []ID{1}, asks: []question{
			{takes: []ID{1}, callID: "a", cseq: 9}, {keeps: []ID{1}, callID: "b", cseq: 1}}, want: []ID{1}},
		{name: "registered, gone and back", asks: []question{
			{keeps: []ID{1}, callID: "a", cseq: 1}, {takes: []ID{1}, callID: "a", cseq: 2}, {keeps: []ID{1}, callID: "b", cseq: 1}}, want: []ID{1}},
		{name: "gone, back and gone", before: []ID{1}, asks: []question{
			{takes: []ID{1}, callID: "a", cseq: 2}, {keeps: []ID{1}, callID: "a", cseq: 3}, {takes: []ID{1}, callID: "a", cseq: 4}}},
		{name: "twice gone", asks: []question{
			{keeps: []ID{1}, callID: "a", cseq: 1}, {takes: []ID{1}, callID: "a", cseq: 2}, {takes: []ID{1}, callID: "b", cseq: 1}}},
		{name: "all gone", before: []ID{3}, asks: []question{
			{keeps: []ID{1, 2}, callID: "a", cseq: 1}, {all: true, callID: "a", cseq: 2}}},
		{name: "all gone, one comes back", before: []ID{3}, asks: []question{
			{keeps: []ID{1, 2}, callID: "a", cseq: 1}, {all: true, callID: "a", cseq: 2}, {keeps: []ID{2}, callID: "b", cseq: 1}}, want: []ID{2}},
		{name: "one of several gone", asks: []question{
			{keeps: []ID{1, 2, 3}, callID: "a", cseq: 1}, {takes: []ID{2}, keeps: []ID{3}, callID: "a", cseq: 2}, {takes: []ID{3}, callID: "a", cseq: 3}}, want: []ID{1}},
	} {
		for _, order := range orders(len(test.asks)) {
			t.Run(fmt.Sprint(test.name, order), func(t *testing.T) {
				bubble(t, Options{}, func(t *testing.T, l *lab) {
					l.granted(&question{keeps: test.before, callID: "a", cseq: 1}, l.now())
					sleep(time.Second)
					began := l.now()
					for _, i := range order {
						l.granted(&test.asks[i], began+time.Duration(i+1)*10*time.Millisecond)
						sleep(20 * time.Millisecond)
					}
					var got []ID
					for b := range l.All {
						got = append(got, b.ID)
					}
					slices.Sort(got)
					if !slices.Equal(got, test.want) {
						t.Errorf("left: %v, want %v", got, test.want)
					}
				})
			})
		}
	}
}

// TestRemovalsAreOfTheirNode: a "*" that one node granted says nothing of what another one keeps.
func TestRemovalsAreOfTheirNode(t *testing.T) {
	bubble(t, Options{}, func(_ *testing.T, l *lab) {
		l.RemoveAll("alice@example.com", 2, time.Second)
		l.RemoveAll("bob@example.com", 1, time.Second)
		b := l.phone(1, udp(1), 1)
		b.AoR, b.Asked = "alice@example.com", time.Millisecond
		l.learn(b, Added)
		b.Backend = 2
		b.CSeq++
		b.Asked++
		l.learn(b, Old) // the one at the other node stays
	})
}

// TestRemovalsAreBounded: the last ones are remembered, those that repeat once.
func TestRemovalsAreBounded(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, l *lab) {
		for i := range time.Duration(10 * maxRemovals) {
			l.Remove(ID(i/2+1), i+1)
		}
		if n := len(l.removed.asked); n > maxRemovals || len(l.removed.ring) > maxRemovals {
			t.Errorf("%d removals of %d are kept", n, len(l.removed.ring))
		}
		old := func(id ID, asked time.Duration, want Outcome) {
			t.Helper()
			b := l.phone(id, udp(1), 1)
			b.Asked = asked
			l.learn(b, want)
		}
		old(5*maxRemovals, 10*maxRemovals-1, Old)
		old(5*maxRemovals, 10*maxRemovals, Added)
		old(1, 1, Added) // forgotten
		for range 2 * maxRemovals {
			l.Remove(7, 3) // older than what is known of it
		}
	})
}
