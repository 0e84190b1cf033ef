package proxy

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sipward/sipward/config"
)

// Several targets of one INVITE answer it: each has what goes to it, and the record names the one that the call was at.

// TestRefusedTargetIsNotInTheRecord: a node that refused answers too late, and the call fails, or is answered, at the next.
func TestRefusedTargetIsNotInTheRecord(t *testing.T) {
	for _, status := range []int{486, 200} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			inLab(t, 2, withTimers(func(*config.Timers) {}), func(t *testing.T, l *lab) {
				b := l.records()
				began := time.Now()
				c := l.rings("")
				c.b.sends(c.reply(c.invite, 503, "", ""))
				c.b.get("ACK")
				late := c.invite
				second := l.pbx[1].get("INVITE")
				l.pbx[0].sends(response(late, 200, "late", "Contact: <sip:bob@unknown.invalid>\r\n"))
				l.pbx[0].get("ACK")
				bye := l.pbx[0].get("BYE")
				l.pbx[0].answers(bye, 500, "") // it knows a higher number
				l.pbx[0].answers(l.pbx[0].get("BYE"), 200, "")
				all := l.e.snap.Load().pools.Pool("pbx").Backends()
				if all[0].Calls() != 0 || all[1].Calls() != 1 {
					t.Errorf("%d and %d calls", all[0].Calls(), all[1].Calls())
				}
				c.b, c.invite = l.pbx[1], second
				want := ended{reason: "rejected", by: "callee", status: 486, backend: "pbx2"}
				if status == 200 {
					c.answers("")
					c.acks()
					pass(3 * time.Second)
					c.asks(sideB, "BYE", "", "", 200, "")
					want = ended{reason: "bye", by: "callee", mode: "N", status: 200, talked: 3 * time.Second, backend: "pbx2"}
				} else {
					c.b.sends(c.reply(second, status, "", ""))
					c.b.get("ACK")
					c.a.get("486 INVITE")
				}
				b.is(c, began, want)
				c.gone()
			})
		})
	}
}

// TestEachAnswerHasItsPlace: two addresses of a trunk answer a call of the PBX, or two nodes one from outside, which name
// themselves by what nobody can resolve. What the caller sends to each, and the edge itself, gets there.
func TestEachAnswerHasItsPlace(t *testing.T) {
	for _, fromPBX := range []bool{true, false} {
		for _, refused := range []bool{true, false} {
			t.Run(fmt.Sprintf("from the PBX %v, the second is refused %v", fromPBX, refused), func(t *testing.T) {
				hosts := filepath.Join(t.TempDir(), "hosts")
				if err := os.WriteFile(hosts, []byte("127.0.63.1 trunk.lan\n127.0.63.2 trunk.lan\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				change := func(c *config.Config) {
					c.Resolver.HostsFile = hosts
					c.Timers.MaxCallDuration = 100e9
				}
				inLab(t, 2, change, func(t *testing.T, l *lab) {
					caller, target, uri := l.phone, l.pbx, "sip:bob@example.org"
					if fromPBX {
						caller = l.pbx[0]
						target = []*peer{l.newPeerAt("TRUNK1", "127.0.63.1:0")}
						port := target[0].addr.Port()
						target = append(target, l.newPeerAt("TRUNK2", netip.AddrPortFrom(netip.MustParseAddr("127.0.63.2"), port).String()))
						uri = fmt.Sprintf("sip:bob@trunk.lan:%d", port)
					}
					c := caller.call()
					c.uri, c.more = uri, "Contact: <sip:alice@"+caller.addr.String()+">\r\n"
					c.sends("INVITE")
					caller.get("100 INVITE")
					first := target[0].get("INVITE")
					if refused {
						target[0].answers(first, 503, "no")
						target[0].get("ACK")
					} else {
						pass(2100 * time.Millisecond)
						target[0].skip()
					}
					second := target[1].get("INVITE")
					contact := "Contact: <sip:bob@unknown.invalid>\r\n"
					target[1].answers(second, 200, "two", contact)
					ok := caller.get("200 INVITE")
					acks := func(to string) {
						c.to, c.route, c.uri = to, routeOf(ok), "sip:bob@unknown.invalid"
						c.sends("ACK")
					}
					acks("two")
					target[1].get("ACK")
					target[0].answers(first, 200, "one", contact)
					if !refused {
						caller.get("200 INVITE")
						acks("one")
					}
					target[0].get("ACK")
					if !refused {
						pass(101 * time.Second)
						target[1].answers(target[1].get("BYE"), 200, "")
						caller.answers(caller.get("BYE"), 200, "")
						caller.answers(caller.get("BYE"), 200, "")
					}
					target[0].answers(target[0].get("BYE"), 200, "")
					target[1].skip()
				})
			})
		}
	}
}
