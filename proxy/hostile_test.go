package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
)

// No message of 64 kB may cost more than a few hundred small ones: whoever can send
// it must not be able to hold a reader for long.
func TestCostOfHostileMessages(t *testing.T) {
	if raceEnabled || testing.Short() {
		t.Skip("measures time")
	}
	l := newLoadLab(t)
	edge := l.edge().String()
	msg := func(head string) string {
		s := "INVITE sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP x;rport;branch=z9hG4bK%d\r\n" + head +
			"Max-Forwards: 70\r\nFrom: <sip:a@b>;tag=a\r\nTo: <sip:b@c>\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
		if len(s) > wire.MaxSize {
			t.Fatal(len(s))
		}
		return s
	}
	many := func(part string, sep string) string {
		return strings.TrimSuffix(strings.Repeat(part+sep, 64000/(len(part)+len(sep))), sep)
	}
	lines := func(part string) string { return strings.Repeat(part, min(200, 64000/len(part))) }
	cases := map[string]string{
		"plain":            msg(""),
		"Vias in one line": msg("Via: " + many("SIP/2.0/UDP a;branch=z9hG4bKAAAAAQAAACoAAabcdEEAAHbDQ5o1KNCD", ",") + "\r\n"),
		"short Vias":       msg("Via: " + many("a/b/c d", ",") + "\r\n"),
		"Via parameters":   msg("Via: a/b/c d" + many(";a", "") + "\r\n"),
		"own Routes":       msg("Route: " + many("<sip:"+edge+";lr>", ",") + "\r\n"),
		"foreign Routes":   msg("Route: " + many("<sip:a>", ",") + "\r\n"),
		"empty Routes":     msg("Route: " + many(",", "") + "\r\n"),
		"Route lines":      msg(lines("Route: <sip:" + edge + ";lr>,<sip:" + edge + ";lr>,<sip:" + edge + ";lr>\r\n")),
		"Proxy-Require":    msg("Proxy-Require: " + many("a", ",") + "\r\n"),
		"commas":           msg("Proxy-Require: " + many(",", "") + "\r\n"),
		"quotes":           msg("Route: " + many("\"\\\"\"", ",") + "\r\n"),
		"folds":            msg("Subject: " + many("\r\n ", "") + "x\r\n"),
		"From parameters":  msg("X: y\r\nFrom: <sip:a@b>" + many(";a=b", "") + "\r\n"),
		"URI parameters":   strings.Replace(msg(""), "example.org", "example.org"+many(";a=b", ""), 1),
		"Call-ID":          strings.Replace(msg(""), "Call-ID: x", "Call-ID: "+many("x", ""), 1),
		"record routes":    msg("Record-Route: " + many("<sip:a>", ",") + "\r\n"),
	}
	for name, text := range cases {
		best := time.Hour
		for i := range 5 {
			l.fromPhone.Data = []byte(strings.Replace(text, "%d", strings.ReplaceAll(name, " ", "")+fmt.Sprint(i), 1))
			start := time.Now()
			l.e.Receive(&l.fromPhone)
			best = min(best, time.Since(start))
		}
		t.Logf("%-18s %6d bytes %8v", name, len(text), best.Round(time.Microsecond))
		if best > 20*time.Millisecond {
			t.Errorf("%s: %v", name, best)
		}
		l.phone.skip()
		l.pbx[0].skip()
	}
	if n := l.e.Counters().Panics; n != 0 {
		t.Errorf("%d panics", n)
	}
}
