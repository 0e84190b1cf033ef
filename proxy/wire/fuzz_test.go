package wire

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// seedMessages adds every message the tests know.
func seedMessages(f *testing.F, add func(text []byte)) {
	f.Helper()
	files, _ := filepath.Glob("testdata/rfc4475/*.dat")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		add(text)
	}
	for _, text := range []string{inviteText, okText, request(), request("Content-Length: 1\r\n ")} {
		add([]byte(text))
	}
}

func FuzzScan(f *testing.F) {
	seedMessages(f, func(text []byte) { f.Add(text, false) })
	f.Fuzz(func(t *testing.T, text []byte, stream bool) {
		before := bytes.Clone(text)
		var m Msg
		fault := m.Scan(text, stream)
		checkSpans(t, &m)
		checkReuse(t, &m, fault, text, stream)
		m.Replyable()
		for v, ok := m.TopVia, m.Vias > 0; ok; {
			v, ok = m.NextVia(v)
		}
		if !bytes.Equal(before, text) {
			t.Fatal("input changed")
		}
		if fault != NoFault {
			return
		}
		var e Edit
		e.Reset(&m)
		if got := e.AppendTo(nil); !bytes.Equal(got, m.Buf) || e.Len() != len(got) {
			t.Fatal("an Edit without edits changed the message")
		}
		var again Msg
		if f := again.Scan(m.Buf, stream); f != NoFault || len(again.Buf) != len(m.Buf) {
			t.Fatalf("the cut message is not one: %v", f)
		}
	})
}

// checkReuse compares m, which had not been used before, with a Msg that had.
func checkReuse(t *testing.T, m *Msg, fault Fault, text []byte, stream bool) {
	t.Helper()
	used := *mustScan(t, with("Via: SIP/2.0/UDP h:5;rport=1;received=192.0.2.1;maddr=h;branch=z9hG4bK1",
		"To: B <sip:b@example.com>;tag=2\r\nMax-Forwards: 7\r\nRoute: <sip:c>\r\nl: 0"))
	if f := used.Scan(text, stream); f != fault {
		t.Fatalf("%v, in a used Msg %v", fault, f)
	}
	fresh := *m
	if len(fresh.Headers) == 0 && len(used.Headers) == 0 {
		fresh.Headers, used.Headers = nil, nil
	}
	if !reflect.DeepEqual(fresh, used) {
		t.Fatalf("%+v, in a used Msg %+v", fresh, used)
	}
}

func FuzzFrame(f *testing.F) {
	seedMessages(f, func(text []byte) { f.Add(text, []byte{1, 2, 3, 200}, 3000) })
	f.Add([]byte("\r\n\r\n"+request("l: 0")+"\r\n\r\n\r\n"+request("l: 0")), []byte{1}, 0)
	f.Fuzz(func(t *testing.T, stream, sizes []byte, limit int) {
		i := 0
		segment := func(left int) int {
			if len(sizes) == 0 {
				return left
			}
			i++
			return int(sizes[i%len(sizes)])
		}
		a, b := Framer{Max: limit}, Framer{Max: limit}
		one, other := feed(&a, string(stream), whole), feed(&b, string(stream), segment)
		if one.fault != other.fault || one.pings != other.pings || len(one.msgs) != len(other.msgs) || one.rest != other.rest {
			t.Fatalf("whole: %+v\nsegments: %+v", one, other)
		}
		n := len(one.msgs)
		if one.fault != NoFault {
			n-- // of a broken message there may be more or less
		}
		for i, msg := range one.msgs[:n] {
			if msg != other.msgs[i] {
				t.Fatalf("message %d: %q, in segments %q", i, msg, other.msgs[i])
			}
			var m Msg
			if fault := m.Scan([]byte(msg), true); fault == NoFault && len(m.Buf) != len(msg) {
				t.Fatalf("Framer has %d bytes, Scan %d", len(msg), len(m.Buf))
			}
		}
	})
}

func FuzzSplice(f *testing.F) {
	seedMessages(f, func(text []byte) { f.Add(text, []byte("\x01\x40\x05\x02\x00\x10\x03\x01")) })
	f.Fuzz(func(t *testing.T, text, ops []byte) {
		var m Msg
		if m.Scan(text, false) != NoFault || len(m.Buf) > 4000 {
			return
		}
		next := func(n int) int {
			if len(ops) < 2 || n < 1 {
				return 0
			}
			r := int(ops[0])<<8 | int(ops[1])
			ops = ops[2:]
			return r % n
		}
		var e Edit
		checkEdit(t, &m, &e, min(len(ops)/4, 100), next)
	})
}

func FuzzVia(f *testing.F) {
	for _, v := range []string{"SIP/2.0/UDP h", "SIP / 2.0 / TCP [::1] : 5060 ; rport ; received = 1.2.3.4", `SIP/2.0/UDP h;x=",";rport=,SIP/2.0/UDP i`,
		"SIP/2.0/UDP h;rport;branch=z9hG4bK1;received=1::", "SIP/2.0/UDP h\r\n ;branch\r\n\t=a"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		var m Msg
		if len(value) > 2000 || m.Scan([]byte(with("Via: "+value)), false) != NoFault {
			return
		}
		v := m.TopVia
		addr := netip.AddrFrom4([4]byte{203, 0, 113, 7})
		var e Edit
		e.Reset(&m)
		e.SetReceived(v, addr)
		e.SetRPort(v, 4711)
		edited := e.AppendTo(nil)
		var n Msg
		if fault := n.Scan(edited, false); fault != NoFault {
			t.Fatalf("%v after the edit: %q", fault, edited)
		}
		w := n.TopVia
		for what, pair := range map[string][2]string{
			"received": {"203.0.113.7", string(n.Bytes(w.Received))},
			"rport":    {"4711", string(n.Bytes(w.RPort))},
			"host":     {string(m.Bytes(v.Host)), string(n.Bytes(w.Host))},
			"port":     {string(m.Bytes(v.Port)), string(n.Bytes(w.Port))},
			"branch":   {string(m.Bytes(v.Branch)), string(n.Bytes(w.Branch))},
		} {
			if pair[0] != pair[1] {
				t.Errorf("%s = %q, want %q in %q", what, pair[1], pair[0], edited)
			}
		}
		if a, b := m.CountValues(KindVia), n.CountValues(KindVia); a != b {
			t.Errorf("%d values became %d", a, b)
		}
	})
}

func FuzzURI(f *testing.F) {
	for _, u := range []string{"sip:a@b", "sips:[::1]:5061;transport=tcp?a=b", "tel:+1;x=y", "sip:user;par=u%40x@b;lr", "<sip:a@b>;tag=1", `"a" <sip:b>`} {
		f.Add(u)
	}
	f.Fuzz(func(t *testing.T, in string) {
		NameAddrURI([]byte(in))
		Param([]byte(in), "tag")
		u, ok := ParseURI([]byte(in))
		if !ok || u.Scheme == OtherScheme {
			return
		}
		u.Addr()
		if got := unparse(u, in); got != in {
			t.Errorf("%q comes back as %q", in, got)
		}
		if v, found := u.Param("transport"); found && u.Transport == nil && v != nil {
			t.Errorf("transport %q not noted", v)
		}
	})
}

// unparse puts the parts of u together again; in settles what the parts leave
// open (brackets, a colon without port, a question mark without headers).
func unparse(u URI, in string) string {
	s := string(u.SchemeName) + ":"
	if u.Scheme == Tel {
		return s + string(u.User) + string(u.Params)
	}
	if u.HasUser {
		s += string(u.User) + "@"
	}
	if strings.HasPrefix(in[len(s):], "[") {
		s += "[" + string(u.Host) + "]"
	} else {
		s += string(u.Host)
	}
	if strings.HasPrefix(in[len(s):], ":") {
		s += ":" + string(u.Port)
	}
	s += string(u.Params)
	if strings.HasPrefix(in[len(s):], "?") {
		s += "?" + string(u.Headers)
	}
	return s
}

func FuzzValues(f *testing.F) {
	for _, list := range []string{"<sip:a>, <sip:b>", `"a,b" <sip:c,d>;x=",",,sip:e`, "a,b,c,d\r\n ,e", ",,a,,", "<a>\r\nRoute: b,c\r\nX: y\r\nRoute: d"} {
		f.Add(list, uint16(5))
	}
	f.Fuzz(func(t *testing.T, list string, mask uint16) {
		var m Msg
		if len(list) > 2000 || m.Scan([]byte(request("Route: "+list)), false) != NoFault {
			return
		}
		var e Edit
		e.Reset(&m)
		var left []string
		it := m.Values(KindRoute)
		for i := 0; ; i++ {
			v, ok := it.Next()
			if !ok {
				break
			}
			if mask>>(i%16)&1 != 0 {
				e.DeleteValue(v)
				continue
			}
			left = append(left, string(m.Bytes(v.Span)))
		}
		edited := e.AppendTo(nil)
		var n Msg
		if fault := n.Scan(edited, false); fault != NoFault {
			t.Fatalf("%v after deletion: %q", fault, edited)
		}
		it = n.Values(KindRoute)
		for _, expected := range left {
			v, _ := it.Next()
			if got := string(n.Bytes(v.Span)); got != expected {
				t.Fatalf("value %q, want %q in %q", got, expected, edited)
			}
		}
		if v, ok := it.Next(); ok {
			t.Fatalf("value %q is left in %q", n.Bytes(v.Span), edited)
		}
	})
}
