package proxy

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/transport"
	"github.com/sipward/sipward/proxy/wire"
)

// FuzzReceive hands any bytes to the edge, from outside, from the PBX and as an
// answer to a request that the edge has forwarded (%VIA% is then its Via). The edge
// must not panic, must send sound messages only, and must be able to take the next.
func FuzzReceive(f *testing.F) {
	for _, c := range spliceCases {
		f.Add(byte(0), []byte(crlf(c.in)))
		f.Add(byte(1), []byte(crlf(c.in)))
	}
	for _, c := range replyCases {
		f.Add(byte(0), []byte(crlf(c.in)))
	}
	for _, status := range []string{"100 Trying", "180 Ringing", "200 OK", "302 Moved", "401 No", "486 Busy", "503 No", "603 No"} {
		f.Add(byte(2), []byte(crlf("SIP/2.0 "+status+"\nVia: %VIA%\nVia: SIP/2.0/UDP PHONE;branch=z9hG4bK1\nFrom: <sip:a@b>;tag=a\nTo: <sip:b@c>;tag=b\nCall-ID: fuzz\nCSeq: 1 INVITE\nRetry-After: 5\nContent-Length: 0\n\n")))
	}
	files, _ := filepath.Glob("wire/testdata/rfc4475/*.dat")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(0), text)
	}
	l := newLab(f, 1, spliceLab)
	f.Cleanup(func() {
		if err := l.e.Stop(context.Background()); err != nil {
			f.Error(err)
		}
		_ = l.e.log.Close()
	})
	pbx := l.pbx[0]
	f.Fuzz(func(t *testing.T, mode byte, text []byte) {
		l.TB = t
		// Without this a message that hangs the edge would pass for a slow one.
		slow := time.AfterFunc(time.Minute, func() { panic(fmt.Sprintf("hangs: mode %d, %q", mode, text)) })
		defer slow.Stop()
		text = []byte(l.named(string(text)))
		from := l.phone
		switch mode % 3 {
		case 1:
			from = pbx
		case 2:
			from = pbx
			l.phone.sends("INVITE sip:b@c SIP/2.0\nVia: SIP/2.0/UDP PHONE;rport;branch=z9hG4bK1\nMax-Forwards: 9\nFrom: <sip:a@b>;tag=a\nTo: <sip:b@c>\nCall-ID: fuzz\nCSeq: 1 INVITE\nContent-Length: 0\n\n")
			if req := pbx.getsWithin(100); req != nil {
				text = bytes.ReplaceAll(text, []byte("%VIA%"), req.Bytes(req.TopVia.Value))
			}
		}
		if len(text) > wire.MaxSize {
			return
		}
		var m wire.Msg
		// What a backend writes into the lower Vias of a response is its caller's business.
		l.faulty, l.relays = m.Scan(text, false) != wire.NoFault, mode%3 == 2
		l.e.Receive(&transport.Packet{Flow: from.flow(), Data: text})
		for _, p := range []*peer{l.phone, pbx} {
			for n := 0; p.getsWithin(0) != nil; n++ {
				if n > 4 {
					t.Errorf("%s is flooded", p.name)
				}
			}
		}
		if n := l.e.count.panics.Swap(0); n != 0 {
			t.Errorf("%d panics: %s", n, strings.Join(l.lines("panic"), ""))
		}
		endAll(l)
		if n := l.e.Counters(); n.Transactions != 0 || n.Active != 0 || l.strayTimers() != 0 {
			t.Fatalf("left over: %+v", n)
		}
	})
}

// endAll ends what runs, so that the next input finds nothing.
func endAll(l *lab) {
	for _, c := range l.e.Calls(CallFilter{}) {
		l.e.EndCall(c.ID)
	}
	l.e.table.All(func(x transactor) bool {
		if own, ok := x.(*ownRequest); ok { // a BYE
			w := l.e.scratch()
			own.sendFailed(w, 0)
			w.flush()
			l.e.release(w)
			return true
		}
		c := x.(*responseContext)
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.done { // a look-up may have ended it
			c.forgetLocked()
		}
		return true
	})
}
