package wire

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// framed is what a Framer made of a stream.
type framed struct {
	msgs  []string
	pings int
	fault Fault
	rest  string // not consumed
}

// feed runs a stream through a Framer in segments of the sizes that size gives.
func feed(f *Framer, stream string, size func(left int) int) (r framed) {
	var buf []byte
	for len(stream) > 0 {
		n := min(max(size(len(stream)), 1), len(stream))
		buf, stream = append(buf, stream[:n]...), stream[n:]
		for more := true; more; {
			msg, consumed, pings, fault := f.Next(buf)
			r.pings += pings
			if fault != NoFault {
				r.fault = fault
				r.msgs = append(r.msgs, string(msg))
				return r
			}
			if more = msg != nil; more {
				r.msgs = append(r.msgs, string(msg))
			}
			buf = buf[consumed:]
		}
	}
	r.rest = string(buf)
	return r
}

func whole(left int) int { return left }
func byByte(int) int     { return 1 }

func TestFramer(t *testing.T) {
	one := request("Content-Length: 4") + "body"
	two := strings.Replace(okText, "Content-Length: 0", "l \t:\r\n 0002", 1) + "\r\n"
	const ping, crlf = "\r\n\r\n", "\r\n"
	cases := map[string]struct {
		stream string
		want   framed
	}{
		"nothing":                  {"", framed{}},
		"one":                      {one, framed{msgs: []string{one}}},
		"two":                      {one + two, framed{msgs: []string{one, two}}},
		"CRLF between":             {one + crlf + two + crlf, framed{msgs: []string{one, two}}},
		"ping":                     {ping, framed{pings: 1}},
		"three CRLFs":              {ping + crlf, framed{pings: 1}},
		"pings glued":              {ping + one + ping + ping + two + ping, framed{msgs: []string{one, two}, pings: 4}},
		"half a ping, then a call": {crlf + one + crlf, framed{msgs: []string{one}}},
		"body that looks like one": {request("l: 8") + ping + ping + one, framed{msgs: []string{request("l: 8") + ping + ping, one}}},
		"same length twice":        {request("l: 1", "Content-Length: 1") + "x", framed{msgs: []string{request("l: 1", "Content-Length: 1") + "x"}}},
		"incomplete header":        {one[:100], framed{rest: one[:100]}},
		"incomplete body":          {one[:len(one)-1], framed{rest: one[:len(one)-1]}},
		"a CR":                     {crlf + "\r", framed{rest: "\r"}},
		"no length":                {request(), framed{msgs: []string{request()}, fault: FaultMissingLength}},
		"two lengths":              {request("l: 1", "l: 2"), framed{msgs: []string{request("l: 1", "l: 2")}, fault: FaultRepeatedLength}},
		"bad length":               {request("l: -1"), framed{msgs: []string{request("l: -1")}, fault: FaultContentLength}},
		"length 2^64":              {request("l: 18446744073709551616"), framed{msgs: []string{request("l: 18446744073709551616")}, fault: FaultContentLength}},
		"length over Max":          {request("l: 65000"), framed{msgs: []string{request("l: 65000")}, fault: FaultTooLarge}},
		"TLS hello":                {"\x16\x03\x01\x02", framed{msgs: []string{"\x16"}, fault: FaultNotSIP}},
		"HTTP":                     {"GET / HTTP/1.1\r\n", framed{msgs: []string{"GET / HTTP/1.1\r\n"}, fault: FaultNotSIP}},
		"bare LF":                  {"OPTIONS sip:a SIP/2.0\n", framed{msgs: []string{"OPTIONS sip:a SIP/2.0\n"}, fault: FaultLineBreak}},
		"CR, then no LF":           {"\rX", framed{msgs: []string{"\rX"}, fault: FaultNotSIP}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			sizes := map[string]func(int) int{"byte by byte": byByte}
			if c.want.fault != FaultNotSIP || name == "HTTP" {
				sizes["whole"] = whole
			}
			for how, size := range sizes {
				f := Framer{Max: 2000}
				got := feed(&f, c.stream, size)
				want(t, how, got, c.want)
				if c.want.fault == NoFault {
					want(t, "Partial", f.Partial(), len(c.want.rest) > 1)
				}
			}
		})
	}
}

func TestFramerTooLarge(t *testing.T) {
	long := strings.Replace(request(), "\r\n\r\n", "\r\nX: "+strings.Repeat("x", 3000), 1)
	f := Framer{Max: 2000}
	got := feed(&f, long, func(int) int { return 700 })
	want(t, "fault", got.fault, FaultTooLarge)
	want(t, "size", len(got.msgs[0]), 2000)
	var most Framer
	got = feed(&most, "OPTIONS sip:"+strings.Repeat("a", 80000), whole)
	want(t, "fault", got.fault, FaultTooLarge)
	want(t, "size", len(got.msgs[0]), MaxSize)
}

func TestFramerIgnoresSegmentation(t *testing.T) {
	body := strings.Repeat("b", 400)
	var stream string
	for range 20 {
		stream += "\r\n\r\n\r\n" + request("X: y\r\n z", "Content-Length : 400") + body
	}
	var f Framer
	expected := feed(&f, stream, whole)
	want(t, "messages", len(expected.msgs), 20)
	want(t, "pings", expected.pings, 20)
	r := rand.New(rand.NewPCG(3, 4))
	for _, limit := range []int{1, 2, 3, 5, 50, 500, 5000} {
		want(t, "segments", feed(&f, stream, func(int) int { return 1 + r.IntN(limit) }), expected)
	}
}

// A message that grows byte by byte is looked at once, not once per byte.
func TestFramerIsLinear(t *testing.T) {
	text := []byte(request("X: "+strings.Repeat("x", 60000), "Content-Length: 0"))
	fastest := time.Hour
	for range 10 { // a busy machine may stall in some of them
		var f Framer
		start := time.Now()
		for i := 1; i < len(text); i++ {
			if msg, n, _, fault := f.Next(text[:i]); msg != nil || n != 0 || fault != NoFault {
				t.Fatal(i, n, fault)
			}
		}
		msg, _, _, _ := f.Next(text)
		want(t, "size", len(msg), len(text))
		// 60000 rescans of 30 kB on average take many seconds.
		if fastest = min(fastest, time.Since(start)); fastest < time.Second {
			return
		}
	}
	t.Errorf("took %v", fastest)
}

func TestFramerAgreesWithScan(t *testing.T) {
	for _, text := range []string{request("Content-Length: 3") + "abc", request("L\t:\r\n\t3") + "abc"} {
		var f Framer
		got := feed(&f, text+"next", whole)
		var m Msg
		want(t, "fault", m.Scan([]byte(got.msgs[0]), true), NoFault)
		want(t, "size", len(m.Buf), len(got.msgs[0]))
	}
}
