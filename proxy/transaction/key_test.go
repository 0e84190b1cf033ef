package transaction

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sipward/sipward/proxy/wire"
)

// request is a request as the key sees one. Empty fields get a usual value.
type request struct {
	method, uri, via, from, to, callID string
	cseq                               int
}

func (r request) scan(t testing.TB) *wire.Msg {
	t.Helper()
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&r.method, "INVITE")
	def(&r.uri, "sip:bob@example.org")
	def(&r.via, "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKabc;rport")
	def(&r.from, "<sip:alice@example.org>;tag=a1")
	def(&r.to, "<sip:bob@example.org>")
	def(&r.callID, "c1@host")
	if r.cseq == 0 {
		r.cseq = 1
	}
	text := fmt.Sprintf("%s %s SIP/2.0\r\nVia: %s\r\nVia: SIP/2.0/UDP other;branch=z9hG4bKlower\r\nMax-Forwards: 70\r\nFrom: %s\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: %d %s\r\nContent-Length: 0\r\n\r\n",
		r.method, r.uri, r.via, r.from, r.to, r.callID, r.cseq, r.method)
	m := &wire.Msg{}
	if f := m.Scan([]byte(text), false); f != wire.NoFault {
		t.Fatalf("%v: %s", f, text)
	}
	return m
}

func (r request) key(t testing.TB) string {
	m := r.scan(t)
	return string(AppendServerKey(nil, m, m.Bytes(m.MethodName)))
}

// inviteKey is the key by which an ACK or a CANCEL looks for its INVITE.
func (r request) inviteKey(t testing.TB) string {
	return string(AppendServerKey(nil, r.scan(t), []byte("INVITE")))
}

const (
	old1 = "SIP/2.0/UDP 192.0.2.1:5060"              // RFC 2543: no branch
	old2 = "SIP/2.0/UDP 192.0.2.1:5060;branch=1"     // a branch without the cookie
	old3 = "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK"    // nothing after the cookie
	old4 = "SIP/2.0/UDP 192.0.2.1;branch=Z9hG4bKabc" // not the cookie
)

// 17.2.3: what finds the same transaction, and what does not.
func TestServerKey(t *testing.T) {
	cases := []struct {
		name string
		a, b request
		same bool
	}{
		{"a retransmission", request{}, request{}, true},
		{"another branch", request{}, request{via: "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKabd"}, false},
		{"branches are case-sensitive", request{}, request{via: "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKabC"}, false},
		{"another sent-by host", request{}, request{via: "SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bKabc"}, false},
		{"another sent-by port", request{}, request{via: "SIP/2.0/UDP 192.0.2.1:5061;branch=z9hG4bKabc"}, false},
		{"another method", request{}, request{method: "OPTIONS"}, false},
		{"methods are case-sensitive", request{}, request{method: "Invite"}, false},
		{"host names without regard to case", request{via: "SIP/2.0/UDP A.Example.ORG;branch=z9hG4bKx"}, request{via: "SIP/2.0/UDP a.example.org;branch=z9hG4bKx"}, true},
		{"with the cookie nothing else counts", request{}, request{uri: "sip:x@y", from: "<sip:c@d>;tag=z", callID: "other", cseq: 9}, true},
		{"other Via parameters do not count", request{}, request{via: "SIP/2.0/UDP 192.0.2.1:5060;received=10.0.0.1;rport=1;branch=z9hG4bKabc"}, true},
		{"2543: a retransmission", request{via: old1}, request{via: old1}, true},
		{"2543: the To tag is left out", request{via: old1}, request{via: old1, to: "<sip:bob@example.org>;tag=9"}, true},
		{"2543: another Request-URI", request{via: old2}, request{via: old2, uri: "sip:carol@example.org"}, false},
		{"2543: another From tag", request{via: old2}, request{via: old2, from: "<sip:alice@example.org>;tag=a2"}, false},
		{"2543: another Call-ID", request{via: old2}, request{via: old2, callID: "c2@host"}, false},
		{"2543: another CSeq", request{via: old2}, request{via: old2, cseq: 2}, false},
		{"2543: another top Via", request{via: old1}, request{via: old2}, false},
		{"the bare cookie is no branch", request{via: old3}, request{via: old3, callID: "c2@host"}, false},
		{"the cookie is case-sensitive", request{via: old4}, request{via: old4, callID: "c2@host"}, false},
	}
	for _, c := range cases {
		if same := c.a.key(t) == c.b.key(t); same != c.same {
			t.Errorf("%s: same = %v", c.name, same)
		}
	}
}

func TestAckAndCancelFindTheInvite(t *testing.T) {
	for _, via := range []string{"", old1, old2, old3, old4} {
		invite := request{via: via}.key(t)
		ack := request{method: "ACK", via: via, to: "<sip:bob@example.org>;tag=b"}
		cancel := request{method: "CANCEL", via: via}
		if ack.inviteKey(t) != invite {
			t.Errorf("%q: the ACK does not find it", via)
		}
		if cancel.inviteKey(t) != invite {
			t.Errorf("%q: the CANCEL does not find it", via)
		}
		if cancel.key(t) == invite || ack.key(t) == invite {
			t.Errorf("%q: ACK or CANCEL is taken for the INVITE itself", via)
		}
	}
}

// The parts of a key must not run into each other: two requests that differ in
// any part have different keys, however the parts are cut.
func TestKeyPartsDoNotRunTogether(t *testing.T) {
	pieces := []string{"a", "ab", "b", "bc", "c", "z9hG4bK", "z9hG4bKa", "1", "11"}
	seen := map[string]string{}
	note := func(r request, what string) {
		k := r.key(t)
		if old, ok := seen[k]; ok && old != what {
			t.Fatalf("%q and %q have one key %q", old, what, k)
		}
		seen[k] = what
	}
	for _, x := range pieces {
		for _, y := range pieces {
			for _, z := range pieces {
				note(request{via: "SIP/2.0/UDP " + y + ";branch=z9hG4bK" + x, method: z}, strings.Join([]string{"branch", x, y, z}, " "))
				note(request{via: old1, method: x, uri: "sip:" + y, callID: z}, strings.Join([]string{"uri", x, y, z}, " "))
				note(request{via: old1, from: "<sip:a@b>;tag=" + x, callID: y, method: z}, strings.Join([]string{"tag", x, y, z}, " "))
			}
		}
	}
}

// A value may be folded over lines. Its LF must not be taken for the separator:
// white space has to follow it, and none may begin a value.
func TestFoldsDoNotForgeKeys(t *testing.T) {
	odd := []request{
		{via: old1, callID: "a\r\n b"},
		{via: old1, from: "<sip:a@b>;tag=a\r\n b"},
		{via: old1, from: "<sip:a@b>;tag=\"a\r\n b\""},
		{via: "SIP/2.0/UDP h;branch=z9hG4bKa\r\n b"},
		{via: "SIP/2.0/UDP h;branch=\"z9hG4bKa\r\n b\""},
	}
	for _, r := range odd {
		var m wire.Msg
		text := fmt.Sprintf("INVITE sip:b@c SIP/2.0\r\nVia: %s\r\nFrom: %s\r\nTo: <sip:x@y>\r\nCall-ID: %s\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n", r.via, or(r.from, "<sip:a@b>;tag=1"), or(r.callID, "c"))
		if m.Scan([]byte(text), false) != wire.NoFault {
			continue // refused at the door
		}
		for _, s := range []wire.Span{m.TopVia.Branch, m.From.Tag, m.CallID, m.RURI} {
			v := m.Bytes(s)
			if len(v) > 0 && (v[0] == ' ' || v[0] == '\t') {
				t.Errorf("%q begins with white space", v)
			}
			for i := range v {
				if v[i] == '\n' && (i+1 == len(v) || v[i+1] != ' ' && v[i+1] != '\t') {
					t.Errorf("%q can be taken for two parts", v)
				}
			}
		}
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func TestAckKey(t *testing.T) {
	base := request{method: "ACK", to: "<sip:bob@example.org>;tag=b"}
	key := func(r request) string { return string(AppendAckKey(nil, r.scan(t))) }
	same := base
	same.via, same.uri = "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKown", "sip:elsewhere@example.org"
	if key(base) != key(same) {
		t.Error("branch and Request-URI count")
	}
	for name, r := range map[string]request{
		"Call-ID":  {method: "ACK", to: base.to, callID: "c2"},
		"From tag": {method: "ACK", to: base.to, from: "<sip:alice@example.org>;tag=a2"},
		"CSeq":     {method: "ACK", to: base.to, cseq: 2},
		"To tag":   {method: "ACK", to: "<sip:bob@example.org>;tag=b2"},
	} {
		if key(base) == key(r) {
			t.Errorf("%s does not count", name)
		}
	}
	if strings.HasPrefix(key(base), base.key(t)[:4]) {
		t.Error("the key looks like a server key")
	}
}

func BenchmarkServerKey(b *testing.B) {
	m := request{}.scan(b)
	dst, method := make([]byte, 0, 256), []byte("INVITE")
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendServerKey(dst[:0], m, method)
	}
}
