package proxy

import (
	"testing"
	"time"
)

func TestCall(t *testing.T) {
	inLab(t, 1, nil, func(t *testing.T, l *lab) {
		pbx := l.pbx[0]
		c := l.phone.call()
		c.sends("INVITE")
		l.phone.get("100 INVITE")
		inv := pbx.get("INVITE")
		pbx.answers(inv, 180, "b")
		l.phone.get("180 INVITE")
		pbx.answers(inv, 200, "b")
		ok := l.phone.get("200 INVITE")
		pbx.answers(inv, 200, "b")
		l.phone.get("200 INVITE") // and every retransmission
		c.to, c.route = "b", routeOf(ok)
		c.branch++
		c.uri = "sip:bob@" + pbx.addr.String()
		c.sends("ACK")
		pbx.get("ACK")
		c.cseq++
		c.sends("BYE")
		bye := pbx.get("BYE")
		pbx.answers(bye, 200, "")
		l.phone.get("200 BYE")
		l.phone.nothing()
		pbx.nothing()
		pass(40 * time.Second)
		l.atRest()
	})
}
