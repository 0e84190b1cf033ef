package dialog

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
	"github.com/sipward/sipward/timers"
)

func TestTextsAreReplacedAllOrNone(t *testing.T) {
	var x texts
	if !x.put(textChange{callID, []byte("id")}, textChange{routesB, []byte("r")}, textChange{toText, []byte("to")}) {
		t.Fatal("refused")
	}
	if x.put(textChange{callID, nil}, textChange{contactA, bytes.Repeat([]byte("c"), maxText)}) {
		t.Error("taken beyond the bound")
	}
	before := x.start
	if !x.put(textChange{toText, []byte("to")}) || before != x.start {
		t.Error("the same text was copied")
	}
	if !x.put(textChange{contactA, []byte("contact")}, textChange{routesB, nil}) {
		t.Fatal("refused")
	}
	for f, want := range map[field]string{callID: "id", toText: "to", contactA: "contact", routesB: "", fromText: ""} {
		if got := string(x.get(f)); got != want {
			t.Errorf("field %d: %q, want %q", f, got, want)
		}
	}
}

// A callee whose answer cannot be kept must not escape: the caller gets its BYE.
func TestCallerGetsItsBYEWhateverTheCalleeAnswers(t *testing.T) {
	long := strings.Repeat("x", maxText)
	for name, lines := range map[string]string{
		"Contact too long":     "Contact: <sip:" + long + "@h>\r\n",
		"Route set too long":   "Record-Route: <sip:" + long + ";lr>\r\n",
		"too many hops":        "Record-Route: <sip:h;lr>" + strings.Repeat(",<sip:h;lr>", maxHops) + "\r\n",
		"Contact is a star":    "Contact: *\r\n",
		"Contact without URI":  "Contact: <>\r\n",
		"Contact is a number":  "Contact: <tel:+15551>\r\n",
		"folded Contact":       "Contact: <sip:a\r\n b@h>\r\n",
		"two Contacts":         "Contact: <sip:a@h>, <sip:b@h>\r\nContact: <sip:c@h>\r\n",
		"Contact with headers": "Contact: <sip:a@h?Route=%3Csip:evil%3E>\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, func(p *timers.Policy) { p.MaxCall = 100 * time.Second })
			l.talks(labTimer, labUpdate+lines)
			l.until(102 * time.Second)
			bye := l.next(A, wire.BYE)
			m := l.sent(&bye)
			if from, to := string(m.Bytes(m.From.Tag)), string(m.Bytes(m.To.Tag)); from != "tb" || to != "ta" {
				t.Errorf("BYE from %q to %q", from, to)
			}
			l.done(bye, 200, "", "")
			l.over(MaxDuration)
		})
	}
}

func TestCallerGetsItsBYEAlsoFromALongTag(t *testing.T) {
	l := newLab(t, func(p *timers.Policy) { p.MaxCall = 100 * time.Second })
	tag := strings.Repeat("t", MaxTag)
	l.invites("Record-Route: <sip:" + strings.Repeat("r", maxRoutes-20) + ";lr>\r\nX: y\r\n")
	l.answers(tag, "Contact: <sip:"+strings.Repeat("c", maxText-100)+"@h>\r\n")
	l.acks(tag)
	l.until(102 * time.Second)
	bye := l.next(A, wire.BYE)
	if m := l.sent(&bye); string(m.Bytes(m.From.Tag)) != tag {
		t.Errorf("%q", m.Bytes(m.From.Value))
	}
}

// What cannot be kept later leaves the older text: a BYE may still arrive.
func TestTargetThatIsTooLongKeepsTheOneBefore(t *testing.T) {
	l := newLab(t)
	d := l.talks(labTimer, labUpdate)
	v := l.asks(A, "INVITE", 2, "Contact: <sip:"+strings.Repeat("c", maxText)+"@h>\r\n", "")
	l.gets(v, 200, labUpdate, "")
	if uri, ok := d.targetLocked(A); !ok || string(uri) != "sip:alice@192.0.2.1" {
		t.Errorf("%q", uri)
	}
	if d.isProbed(A) || d.isProbed(B) {
		t.Error("probes would tell of a Contact that is not true")
	}
	l.until(time.Second + 7200*time.Second)
	l.next(A, wire.BYE)
	l.next(B, wire.BYE)
}
