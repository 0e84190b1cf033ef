package siptest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// busy is a T1 with which a machine may stall for some seconds before 64*T1 are over.
const busy = 100 * time.Millisecond

// twoParties are connected by a relay that loses a share of the datagrams.
func twoParties(t *testing.T, lost float64) (alice, bob *Party, relay *Relay) {
	t.Helper()
	raws := make([]*Raw, 2)
	var err error
	if raws[1], err = ListenRaw("udp", AnyPort, nil); err != nil {
		t.Fatal(err)
	}
	if relay, err = NewRelay(Loopback, raws[1].Addr()); err != nil {
		t.Fatal(err)
	}
	relay.Lose(lost)
	if raws[0], err = DialRaw("udp", relay.Front(), nil); err != nil {
		t.Fatal(err)
	}
	lines := []string{"Supported: 100rel, timer"}
	alice = NewParty(raws[0], PartyOptions{Name: "alice", Lines: lines, Timer: true, T1: busy, Public: relay.Back()})
	bob = NewParty(raws[1], PartyOptions{Name: "bob", Lines: lines, Timer: true, T1: busy, Public: relay.Front()})
	t.Cleanup(func() {
		alice.Close()
		bob.Close()
		for _, err := range []error{raws[0].Close(), raws[1].Close(), relay.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	return alice, bob, relay
}

// TestPartiesAreContent: what is right is taken, also over a bad line.
func TestPartiesAreContent(t *testing.T) {
	for _, lost := range []float64{0, 0.2} {
		t.Run(fmt.Sprintf("%v lost", lost), func(t *testing.T) {
			alice, bob, relay := twoParties(t, lost)
			ctx := within(t, 2*time.Minute)
			if _, err := alice.Call(ctx, "sip:bob@siptest.example"); err != nil {
				t.Fatal(err)
			}
			if _, err := bob.Await(ctx, "ACK", 1); err != nil {
				t.Fatal(err)
			}
			for _, p := range []*Party{alice, bob} {
				for _, method := range []string{"INFO", "UPDATE", "INVITE"} {
					if res, err := p.Request(ctx, method); err != nil || res.Status() != 200 {
						t.Fatalf("%s: %v, %v", method, res, err)
					}
				}
			}
			if _, err := alice.Await(ctx, "ACK", 1); err != nil {
				t.Fatal(err)
			}
			if res, err := bob.Request(ctx, "BYE"); err != nil || res.Status() != 200 {
				t.Fatalf("BYE: %v, %v", res, err)
			}
			if wrong := append(alice.Wrong(), bob.Wrong()...); len(wrong) > 0 {
				t.Errorf("they complain: %s", strings.Join(wrong, "\n"))
			}
			if (relay.Lost() > 0) != (lost > 0) {
				t.Errorf("%d datagrams lost", relay.Lost())
			}
		})
	}
}

// TestPartyRefusesWhatIsWrong: a number, a tag, a target or an ACK that is not right is refused
// and remembered.
func TestPartyRefusesWhatIsWrong(t *testing.T) {
	for name, test := range map[string]struct {
		edit func(bob *Party, req *Text)
		code int
		late bool
	}{
		"number used before":   {func(_ *Party, req *Text) { req.Set("CSeq", "1 INFO") }, 500, true},
		"another dialog":       {func(_ *Party, req *Text) { req.Set("To", "<sip:bob@siptest.example>;tag=other") }, 481, false},
		"not its Contact":      {func(_ *Party, req *Text) { req.URI("sip:bob@192.0.2.1") }, 200, false},
		"PRACK for nothing":    {func(bob *Party, req *Text) { req.Method("PRACK").Add("RAck", "9 1 INVITE") }, 481, false},
		"ACK without INVITE":   {func(_ *Party, req *Text) { req.Method("ACK") }, 0, false},
		"answer of nobody":     {func(_ *Party, req *Text) { req.Start = "SIP/2.0 200 OK" }, 0, false},
		"nothing wrong at all": {func(*Party, *Text) {}, 200, false},
	} {
		t.Run(name, func(t *testing.T) {
			alice, bob, relay := twoParties(t, 0)
			ctx := within(t, time.Minute)
			ok, err := alice.Call(ctx, "sip:bob@siptest.example")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := bob.Await(ctx, "ACK", 1); err != nil {
				t.Fatal(err)
			}
			stranger, err := DialRaw("udp", netip.AddrPortFrom(Loopback, relay.target.Port()), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer stranger.Close()
			req := stranger.Request("INFO", bob.Contact())
			req.Set("From", ok.Get("From")).Set("To", ok.Get("To")).Set("Call-ID", ok.CallID()).Set("CSeq", "100 INFO")
			test.edit(bob, req)
			if err := stranger.Send(req.Bytes()); err != nil {
				t.Fatal(err)
			}
			// What follows proves that it was seen.
			fence := stranger.Request("INFO", bob.Contact()).Set("From", ok.Get("From")).Set("To", ok.Get("To")).
				Set("Call-ID", ok.CallID()).Set("CSeq", "200 INFO")
			if err := stranger.Send(fence.Bytes()); err != nil {
				t.Fatal(err)
			}
			for seen := 0; ; {
				m, err := stranger.Next(20 * time.Second)
				if err != nil {
					t.Fatal(err)
				}
				if m.CSeq() == 200 {
					if seen != test.code {
						t.Errorf("answered with %d, want %d", seen, test.code)
					}
					break
				}
				seen = m.Status()
			}
			late := false
			for _, h := range bob.Heard("INFO") {
				late = late || h.Late
			}
			right := name == "nothing wrong at all" || test.late
			if late != test.late || (len(bob.Wrong()) == 0) != right {
				t.Errorf("late %v, complaints %v", late, bob.Wrong())
			}
		})
	}
}
