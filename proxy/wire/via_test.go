package wire

import (
	"net/netip"
	"strings"
	"testing"
)

// topVia is the top Via of a request with that Via value.
func topVia(t *testing.T, value string) (*Msg, Via) {
	t.Helper()
	m := mustScan(t, with("Via: "+value))
	return m, m.TopVia
}

func TestVia(t *testing.T) {
	type fields struct{ proto, host, port, branch, received, rport, maddr, params string }
	cases := map[string]fields{
		"SIP/2.0/UDP h":       {proto: "UDP", host: "h"},
		"SIP/2.0/UDP h:5070":  {proto: "UDP", host: "h", port: "5070"},
		"sip/2.0/udp h":       {proto: "udp", host: "h"},
		"SIP/2.0/SCTP h_1.a-": {proto: "SCTP", host: "h_1.a-"},
		"SIP/2.0/TLS [2001:db8::9:1]:5061;branch=z9hG4bKa": {proto: "TLS", host: "[2001:db8::9:1]", port: "5061",
			branch: "z9hG4bKa", params: ";branch=z9hG4bKa"},
		"SIP / 2.0 / UDP  h : 5060 ; Branch = z9hG4bKa ;  RECEIVED\t= 1.2.3.4 ; rPort = 9": {proto: "UDP", host: "h", port: "5060",
			branch: "z9hG4bKa", received: "1.2.3.4", rport: "9", params: "; Branch = z9hG4bKa ;  RECEIVED\t= 1.2.3.4 ; rPort = 9"},
		"SIP/2.0/WSS\r\n h;maddr=[::1];ttl=1;received=2001:db8::5;branch=x": {proto: "WSS", host: "h", maddr: "[::1]",
			received: "2001:db8::5", branch: "x", params: ";maddr=[::1];ttl=1;received=2001:db8::5;branch=x"},
		`SIP/2.0/UDP h;x="q;branch=no\"";branch=yes;y="a,b"`: {proto: "UDP", host: "h", branch: "yes",
			params: `;x="q;branch=no\"";branch=yes;y="a,b"`},
		"SIP/2.0/UDP h;rport;branch=x": {proto: "UDP", host: "h", branch: "x", params: ";rport;branch=x"},
		"SIP/2.0/UDP h;branch":         {proto: "UDP", host: "h", params: ";branch"},
	}
	for value, c := range cases {
		t.Run(value, func(t *testing.T) {
			m, v := topVia(t, value)
			want(t, "all", fields{string(m.Bytes(v.Proto)), string(m.Bytes(v.Host)), string(m.Bytes(v.Port)),
				string(m.Bytes(v.Branch)), string(m.Bytes(v.Received)), string(m.Bytes(v.RPort)), string(m.Bytes(v.MAddr)),
				string(m.Bytes(v.Params))}, c)
			want(t, "HasRPort", v.HasRPort, strings.Contains(strings.ToLower(value), "rport"))
		})
	}
}

func TestNextViaWalksLinesAndLists(t *testing.T) {
	m := mustScan(t, lines("SIP/2.0 200 OK", `Via: SIP/2.0/UDP a;x=",",SIP/2.0/UDP b`, "From: <sip:a@b>;tag=1",
		"v: SIP/2.0/UDP c\r\n , SIP/2.0/UDP d:1", "To: <sip:a@b>;tag=1", "Call-ID: 1", "VIA :SIP/2.0/UDP e", "CSeq: 1 BYE", ""))
	var hosts []string
	for v, ok := m.TopVia, true; ok; v, ok = m.NextVia(v) {
		hosts = append(hosts, string(m.Bytes(v.Host)))
	}
	want(t, "hosts", strings.Join(hosts, " "), "a b c d e")
	want(t, "lines", m.Vias, 3)
	want(t, "values", m.CountValues(KindVia), 5)
}

func TestSetReceivedAndRPort(t *testing.T) {
	cases := map[string]string{
		"SIP/2.0/UDP h":                                   "SIP/2.0/UDP h;received=192.0.2.7;rport=4711",
		"SIP/2.0/UDP h;rport":                             "SIP/2.0/UDP h;rport=4711;received=192.0.2.7",
		"SIP/2.0/UDP h;rport=":                            "SIP/2.0/UDP h;rport=4711;received=192.0.2.7",
		"SIP/2.0/UDP h;rport=1;a":                         "SIP/2.0/UDP h;rport=4711;a;received=192.0.2.7",
		"SIP/2.0/UDP h; RPort ;received=1.1.1.1;b=c":      "SIP/2.0/UDP h; RPort=4711 ;received=192.0.2.7;b=c",
		"SIP/2.0/UDP h ;received;rport = 5 , SIP/2.0/a b": "SIP/2.0/UDP h ;received=192.0.2.7;rport=4711 , SIP/2.0/a b",
		"SIP/2.0/UDP h;rport,SIP/2.0/UDP i":               "SIP/2.0/UDP h;rport=4711;received=192.0.2.7,SIP/2.0/UDP i",
	}
	addr := netip.MustParseAddr("::ffff:192.0.2.7")
	for value, expected := range cases {
		for _, rportFirst := range []bool{true, false} {
			m, v := topVia(t, value)
			var e Edit
			e.Reset(m)
			if rportFirst && v.HasRPort {
				e.SetRPort(v, 4711)
				e.SetReceived(v, addr)
			} else {
				e.SetReceived(v, addr)
				e.SetRPort(v, 4711)
			}
			want(t, value, e.AppendTo(nil), with("Via: "+expected))
		}
	}
	m, v := topVia(t, "SIP/2.0/UDP h")
	var e Edit
	e.Reset(m)
	e.SetReceived(v, netip.MustParseAddr("fe80::1%eth0"))
	want(t, "IPv6", e.AppendTo(nil), with("Via: SIP/2.0/UDP h;received=fe80::1"))
}

func TestDeleteTopVia(t *testing.T) {
	const rest = "SIP/2.0/UDP i;branch=2"
	cases := map[string][2]string{
		"own line":       {"Via: SIP/2.0/UDP h;branch=1\r\nVia: " + rest, "Via: " + rest},
		"one line":       {"Via: SIP/2.0/UDP h;branch=1, " + rest, "Via: " + rest},
		"quoted comma":   {`Via: SIP/2.0/UDP h;a=",", ` + rest, "Via: " + rest},
		"folds":          {"Via:\r\n SIP/2.0/UDP h;branch=1\r\n ,\r\n\t" + rest, "Via:\r\n " + rest},
		"folded line":    {"Via: SIP/2.0/UDP\r\n h\r\nVia: " + rest, "Via: " + rest},
		"empty elements": {"Via: ,SIP/2.0/UDP h, ,, " + rest, "Via: " + rest},
		"trailing comma": {"Via: SIP/2.0/UDP h,\r\nVia: " + rest, "Via: " + rest},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m := mustScan(t, with(c[0]))
			var e Edit
			e.Reset(m)
			e.DeleteTopVia()
			want(t, "result", e.AppendTo(nil), with(c[1]))
		})
	}
}
