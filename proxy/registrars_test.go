package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/binding"
	"github.com/sipward/sipward/proxy/wire"
)

// TestRegistrarOfOneContact: one that refuses requests which take an old Contact back is not asked any more when three
// phones have shown it, each by being taken without; refusals that have other reasons change nothing.
func TestRegistrarOfOneContact(t *testing.T) {
	const contact = "<sip:alice@192.168.1.20:5060>"
	for _, wants := range []string{"one", "any", "trouble"} {
		t.Run(wants, func(t *testing.T) {
			inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
				pbx := l.pbx[0]
				refusals, asked := 0, 0
				for n := range 2 * singleCount {
					aor := fmt.Sprint("user", n)
					home, office := l.newPeer("HOME").handset(aor), l.newPeer("OFFICE").handset(aor)
					home.registers(pbx, contact)
					for range 3 { // the phone has moved, and asks until it is taken
						office.sends(office.register(contact))
						m := pbx.get("REGISTER")
						isBack := strings.Contains(string(m.Buf), ";expires=0")
						if isBack {
							asked++
						}
						if isBack && wants == "one" || wants == "trouble" && n == 1 && refusals == 0 {
							refusals++
							pbx.answers(m, 500, "r")
							office.get("500 REGISTER")
							continue
						}
						pbx.answers(m, 200, "r", keeps(m)...)
						office.get("200 REGISTER")
						break
					}
					if x := l.e.Registrations(RegistrationFilter{AoR: office.aor}); len(x) != 1 || x[0].Flow != "udp:"+office.addr.String() {
						t.Errorf("%+v", x)
					}
				}
				want := map[string]int{"one": singleCount, "any": 2 * singleCount, "trouble": 2 * singleCount}[wants]
				if asked != want {
					t.Errorf("%d requests took a Contact back, want %d", asked, want)
				}
				pass(2 * time.Minute)
			})
		})
	}
}

// TestStrangersDoNotMakeARegistrarOneOfOneContact: who has no password is refused, and never taken; phones that only
// refresh say nothing of it.
func TestStrangersDoNotMakeARegistrarOneOfOneContact(t *testing.T) {
	inLab(t, 1, mode("contact", false), func(t *testing.T, l *lab) {
		const contact = "<sip:alice@192.168.1.20:5060>"
		pbx, mallory := l.pbx[0], l.newPeer("MALLORY")
		for n := range 2 * singleCount {
			alice, evil := l.phone.handset(fmt.Sprint("user", n)), mallory.handset(fmt.Sprint("user", n))
			alice.registers(pbx, contact)
			evil.sends(evil.register(contact))
			pbx.answers(pbx.get("REGISTER"), 400, "r")
			evil.get("400 REGISTER")
			alice.registers(pbx, contact)
		}
		home, office := l.phone.handset("bob"), l.newPeer("OFFICE").handset("bob")
		first, _ := home.registers(pbx, contact)
		second, _ := office.registers(pbx, contact)
		if shown := uriIn(first, wire.KindContact); !strings.Contains(string(second.Buf), "<"+shown+">;expires=0") {
			t.Errorf("nothing is taken back any more:\n%s", second.Buf)
		}
		pass(2 * time.Minute)
	})
}

// TestOnePhoneDoesNotMakeARegistrarOneOfOneContact: however often it shows it. It goes without itself, so that it is not
// refused each time it moves where there are no three phones.
func TestOnePhoneDoesNotMakeARegistrarOneOfOneContact(t *testing.T) {
	var r registrars
	for n := range 2 * singleCount {
		if got := r.takesBack(1, 7); got != (n == 0) {
			t.Errorf("it takes its Contact back after %d refusals: %v", n, got)
		}
		if !r.takesBack(1, 8) {
			t.Fatalf("nothing is taken back any more after %d refusals", n)
		}
		r.refusedBack(1, 7)
		r.took(1, 7, false)
	}
	for phone := range binding.ID(singleCount) {
		r.refusedBack(1, phone)
		r.took(1, phone, false)
	}
	if r.takesBack(1, 8) {
		t.Error("three phones have shown nothing")
	}
}

// TestUsersWithoutPathAreBounded: who registers under ever new names fills no memory.
func TestUsersWithoutPathAreBounded(t *testing.T) {
	var r registrars
	for i := range 2 * maxPathless {
		_, isAllNews := r.ignoresPath(1, fmt.Sprint("user", i), false)
		if isAllNews != (i == maxPathless-1) {
			t.Errorf("user %d: all of them: %t", i, isAllNews)
		}
	}
	if n := len(r.pathless[1].users); n != maxPathless {
		t.Errorf("%d users", n)
	}
	if !r.isPathless(1, "anybody") || r.isPathless(2, "user0") {
		t.Error("it is all users of this registrar")
	}
}
