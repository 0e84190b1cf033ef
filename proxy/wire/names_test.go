package wire

import (
	"strings"
	"testing"
)

func TestKindOfEveryName(t *testing.T) {
	for k := KindOther + 1; k < numKinds; k++ {
		name := k.String()
		for _, spelled := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			want(t, spelled, KindOf([]byte(spelled)), k)
		}
		for _, other := range []string{name + "x", name[:len(name)-1], "x" + name[1:], strings.ReplaceAll(name, "-", "\r")} {
			if KindOf([]byte(other)) == k && len(other) > 1 && other != name {
				t.Errorf("%q taken for %s", other, name)
			}
		}
	}
	compact := map[string]Kind{"i": KindCallID, "m": KindContact, "e": KindContentEncoding, "l": KindContentLength,
		"c": KindContentType, "f": KindFrom, "s": KindSubject, "k": KindSupported, "t": KindTo, "v": KindVia,
		"o": KindEvent, "u": KindAllowEvents, "r": KindReferTo, "b": KindReferredBy, "x": KindSessionExpires,
		"a": KindAcceptContact, "j": KindRejectContact, "d": KindRequestDisposition, "n": KindIdentityInfo, "y": KindIdentity}
	for c := range 256 {
		name := string([]byte{byte(c)})
		want(t, name, KindOf([]byte(name)), compact[strings.ToLower(name)])
	}
	want(t, "empty", KindOf(nil), KindOther)
	want(t, "unknown kind", Kind(255).String(), "")
}

func TestEveryNameInALine(t *testing.T) {
	check := func(name string, k Kind) {
		for _, spelled := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			for _, rest := range []string{":", ": x", " : x", "\t:x:y", ":\r\n x"} {
				var m Msg
				m.Scan([]byte("OPTIONS sip:b SIP/2.0\r\n"+spelled+rest+"\r\n\r\n"), false)
				want(t, spelled+rest, m.First(k), 0)
				want(t, spelled+rest, m.Bytes(m.Headers[0].Name), spelled)
			}
		}
		for _, other := range []string{name + "x", "x" + name, name + "\x00", strings.ReplaceAll(name, "-", "\r")} {
			var m Msg
			m.Scan([]byte("OPTIONS sip:b SIP/2.0\r\n"+other+": 123456789012345\r\n\r\n"), false)
			if m.First(k) >= 0 && other != name {
				t.Errorf("%q taken for %s", other, name)
			}
		}
	}
	for k := KindOther + 1; k < numKinds; k++ {
		check(k.String(), k)
	}
	for c, k := range compactKinds {
		check(string([]byte{c}), k)
	}
}

func TestMethodOfEveryName(t *testing.T) {
	for m := UnknownMethod + 1; m <= UPDATE; m++ {
		want(t, m.String(), MethodOf([]byte(m.String())), m)
		want(t, "lower "+m.String(), MethodOf([]byte(strings.ToLower(m.String()))), UnknownMethod)
	}
	want(t, "unknown", MethodOf([]byte("FOO")).String(), "UNKNOWN")
}

func TestProto(t *testing.T) {
	ports := map[Proto]uint16{UDP: 5060, TCP: 5060, TLS: 5061, WS: 80, WSS: 443}
	for p, port := range ports {
		want(t, "port", p.DefaultPort(), port)
		want(t, "param", p.Param(), strings.ToLower(p.String()))
		want(t, "reliable", p.Reliable(), p != UDP)
		want(t, "secure", p.Secure(), p == TLS || p == WSS)
		for _, s := range []string{p.String(), p.Param()} {
			got, ok := ParseProto([]byte(s))
			want(t, s, got, p)
			want(t, s, ok, true)
		}
	}
	_, ok := ParseProto([]byte("SCTP"))
	want(t, "SCTP", ok, false)
	want(t, "unknown", Proto(9).String()+Proto(9).Param(), "UNKNOWNunknown")
}

func TestFault(t *testing.T) {
	for f := NoFault; f < numFaults; f++ {
		if f.Reason() == "" || strings.ContainsAny(f.Reason(), "\r\n") {
			t.Errorf("fault %d has the reason %q", f, f.Reason())
		}
	}
	want(t, "error", FaultRepeatedCallID.Error(), "400 Duplicate Call-ID")
	want(t, "version", FaultVersion.Status(), 505)
	want(t, "size", FaultTooLarge.Status(), 513)
	want(t, "none", NoFault.Status(), 0)
	want(t, "unknown", Fault(200).Error(), "400 Bad Request")
}
