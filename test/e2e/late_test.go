package e2e

import "testing"

// TestLateAnswerIsHungUpOn: a callee that answers when the caller has its failure already, on the
// same To tag or on another fork, gets ACK and BYE from the edge, for nobody else would end its
// call; the caller hears nothing of it.
func TestLateAnswerIsHungUpOn(t *testing.T) {
	h := newHop(t, "udp", settings{probe: ignorant})
	for _, tag := range []string{"n1", "n2"} {
		t.Run(tag, func(t *testing.T) {
			x := h.begin(t, "INVITE")
			got := x.invite()
			x.reject(got, 486)
			passed := x.fence()
			x.answer(got, tag)
			ack := x.nodeGets("ACK")
			bye := x.nodeGets("BYE")
			if ack.Tag("To") != tag || bye.Tag("To") != tag || ack.CSeq() != got.CSeq() || bye.CSeq() != got.CSeq()+1 {
				t.Errorf("the node got\n%s\nand\n%s", ack, bye)
			}
			x.respond(bye, 200, "OK", "")
			passed()
		})
	}
	until(t, "no calls", func() bool { return statsOf(t, h.edge).Concurrent == 0 })
}
