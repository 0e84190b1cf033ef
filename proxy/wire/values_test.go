package wire

import (
	"fmt"
	"strings"
	"testing"
)

func TestValues(t *testing.T) {
	m := mustScan(t, request("Route: <sip:a,b;lr>,\"x, \\\" <\" <sip:c> ;q=\",\"", "X: y", "ROUTE:", "Route : , ,<sip:d>\r\n\t,", "Route: sip:e;lr , sip:f"))
	var got []string
	for it := m.Values(KindRoute); ; {
		v, ok := it.Next()
		if !ok {
			break
		}
		got = append(got, fmt.Sprintf("%s %v %v", m.Bytes(v.Span), v.First, v.Last))
	}
	want(t, "values", strings.Join(got, "|"),
		`<sip:a,b;lr> true false|"x, \" <" <sip:c> ;q="," false true|<sip:d> true true|sip:e;lr true false|sip:f false true`)
	want(t, "count", m.CountValues(KindRoute), 5)
	want(t, "none", m.CountValues(KindPath), 0)
}

func TestHasToken(t *testing.T) {
	for _, yes := range []string{"timer", "path, Timer", "a,,timer ,b", "\ttimer\r\n ,x"} {
		want(t, yes, HasToken([]byte(yes), []byte("TIMER")), true)
	}
	for _, no := range []string{"", "timers", "path timer", ",", `"timer"`, "tim,er"} {
		want(t, no, HasToken([]byte(no), []byte("timer")), false)
	}
	m := mustScan(t, request("Supported: a, b", "k: c"))
	want(t, "second line", m.Lists(KindSupported, "C"), true)
	want(t, "none", m.Lists(KindSupported, "d"), false)
	want(t, "no header", m.Lists(KindRequire, "a"), false)
}

func TestDeleteValue(t *testing.T) {
	const a, b, c = "<sip:a;lr>", "\"b,\" <sip:b>", "sip:c"
	list := "Route: " + a + ", " + b + "\r\n , " + c
	cases := []struct {
		delete, left string
	}{
		{"", list},
		{"0", "Route: " + b + "\r\n , " + c},
		{"1", "Route: " + a + ", " + c},
		{"2", "Route: " + a + ", " + b},
		{"01", "Route: " + c},
		{"10", "Route: " + c},
		{"02", "Route: " + b},
		{"20", "Route: " + b},
		{"12", "Route: " + a},
		{"21", "Route: " + a},
		{"012", ""}, {"120", ""}, {"201", ""}, {"102", ""}, {"0120", ""},
	}
	for _, tc := range cases {
		t.Run("delete "+tc.delete, func(t *testing.T) {
			m := mustScan(t, request("X: y", list, "Y: z"))
			var values []Value
			for it := m.Values(KindRoute); ; {
				v, ok := it.Next()
				if !ok {
					break
				}
				values = append(values, v)
			}
			var e Edit
			e.Reset(m)
			for _, d := range tc.delete {
				e.DeleteValue(values[d-'0'])
			}
			left := []string{"X: y", tc.left, "Y: z"}
			if tc.left == "" {
				left = []string{"X: y", "Y: z"}
			} else if tc.delete == "1" {
				left[1] = "Route: " + a + "\r\n , " + c
			}
			want(t, "result", e.AppendTo(nil), request(left...))
		})
	}
}

func TestDeleteFirst(t *testing.T) {
	m := mustScan(t, request("Route: <sip:a>", "X: y", "Route: <sip:b>, <sip:c>", "Route: <sip:d>"))
	for n, left := range [][]string{
		{"Route: <sip:a>", "X: y", "Route: <sip:b>, <sip:c>", "Route: <sip:d>"},
		{"X: y", "Route: <sip:b>, <sip:c>", "Route: <sip:d>"},
		{"X: y", "Route: <sip:c>", "Route: <sip:d>"},
		{"X: y", "Route: <sip:d>"},
		{"X: y"},
	} {
		var e Edit
		e.Reset(m)
		want(t, "deleted", e.DeleteFirst(KindRoute, n), n)
		want(t, "result", e.AppendTo(nil), request(left...))
		want(t, "Len", e.Len(), len(request(left...)))
	}
	var e Edit
	e.Reset(m)
	want(t, "all there are", e.DeleteFirst(KindRoute, 9), 4)
}
