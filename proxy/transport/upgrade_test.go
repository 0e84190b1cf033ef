package transport

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
)

// upgradeRequest is RFC 7118's example with other lines put in or, if a line of that name is there, in its place; an empty
// value takes the line away.
func upgradeRequest(fields ...string) string {
	lines := []string{"Host: sip-ws.example.com", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
		"Sec-WebSocket-Protocol: sip", "Sec-WebSocket-Version: 13"}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		at := -1
		for i, line := range lines {
			if strings.HasPrefix(line, name+": ") {
				at = i
			}
		}
		switch {
		case value == "":
			lines = append(lines[:at], lines[at+1:]...)
		case at >= 0:
			lines[at] = field
		default:
			lines = append(lines, field)
		}
	}
	return "GET /chat HTTP/1.1\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
}

func TestUpgrade(t *testing.T) {
	only := []string{"https://phone.example", "http://Other.example:80", "app://phone"}
	cases := []struct {
		name, request string
		origins       []string
		status        int
	}{
		{"RFC 7118", upgradeRequest(), nil, 101},
		{"one of several subprotocols", upgradeRequest("Sec-WebSocket-Protocol: xmpp, sip"), nil, 101},
		{"as a browser writes it", upgradeRequest("Connection: keep-alive, Upgrade", "Upgrade: WebSocket", "Origin: https://anything.example", "Sec-WebSocket-Extensions: permessage-deflate"), nil, 101},
		{"no subprotocol", upgradeRequest("Sec-WebSocket-Protocol: "), nil, 400},
		{"another subprotocol", upgradeRequest("Sec-WebSocket-Protocol: xmpp, sips"), nil, 400},
		{"no upgrade", upgradeRequest("Upgrade: "), nil, 426},
		{"upgrade to something else", upgradeRequest("Upgrade: h2c"), nil, 426},
		{"no connection", upgradeRequest("Connection: "), nil, 400},
		{"old version", upgradeRequest("Sec-WebSocket-Version: 8"), nil, 426},
		{"no version", upgradeRequest("Sec-WebSocket-Version: "), nil, 400},
		{"no host", upgradeRequest("Host: "), nil, 400},
		{"no key", upgradeRequest("Sec-WebSocket-Key: "), nil, 400},
		{"short key", upgradeRequest("Sec-WebSocket-Key: AAAA"), nil, 400},
		{"HTTP/1.0", strings.Replace(upgradeRequest(), "HTTP/1.1", "HTTP/1.0", 1), nil, 505},
		{"POST", strings.Replace(upgradeRequest(), "GET", "POST", 1), nil, 405},
		{"no request line", "\r\n\r\n", nil, 400},
		{"no colon", strings.Replace(upgradeRequest(), "Host:", "Host", 1), nil, 400},
		{"allowed origin", upgradeRequest("Origin: https://phone.example"), only, 101},
		{"port that is implied", upgradeRequest("Origin: HTTPS://PHONE.example:443"), only, 101},
		{"the other way round", upgradeRequest("Origin: http://other.example"), only, 101},
		{"another scheme", upgradeRequest("Origin: app://phone"), only, 101},
		{"http for https", upgradeRequest("Origin: http://phone.example"), only, 403},
		{"another port", upgradeRequest("Origin: https://phone.example:8443"), only, 403},
		{"longer name", upgradeRequest("Origin: https://phone.example.evil.example"), only, 403},
		{"no page's", upgradeRequest("Origin: null"), only, 403},
		{"no origin", upgradeRequest(), only, 403},
		{"two origins", upgradeRequest("Origin: https://phone.example", "origin: https://evil.example"), only, 403},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var s sink
			rest, err := upgrade(&script{sink: &s, input: c.request}, originsOf(c.origins))
			answer, parseErr := http.ReadResponse(bufio.NewReader(strings.NewReader(strings.Join(s.writes, ""))), nil)
			if parseErr != nil || answer.StatusCode != c.status || len(rest) > 0 {
				t.Fatalf("%+v %v, %v", answer, parseErr, err)
			}
			var refused *refusal
			if c.status != 101 {
				if !errors.As(err, &refused) || refused.status != c.status {
					t.Error(err)
				}
				return
			}
			// RFC 6455 section 1.3 computes this answer.
			if err != nil || answer.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" ||
				answer.Header.Get("Sec-WebSocket-Protocol") != "sip" || answer.Header.Get("Sec-WebSocket-Extensions") != "" {
				t.Errorf("%v %+v", err, answer.Header)
			}
		})
	}
}

// script is a stream that gives its input in pieces of 7 bytes.
type script struct {
	*sink
	input string
}

func (s *script) Read(p []byte) (int, error) {
	if s.input == "" {
		return s.sink.Read(p)
	}
	n := copy(p[:min(len(p), 7)], s.input)
	s.input = s.input[n:]
	return n, nil
}

// FuzzUpgrade: every request gets one whole answer.
func FuzzUpgrade(f *testing.F) {
	f.Add([]byte(upgradeRequest()))
	f.Add([]byte(upgradeRequest("Origin: https://phone.example:443", "Sec-WebSocket-Protocol: a, \"b\", sip")))
	f.Add([]byte(message(1, 0)))
	f.Fuzz(func(t *testing.T, request []byte) {
		if len(request) > maxUpgrade {
			return
		}
		answer, err := accept(bytes.Clone(request), originsOf([]string{"https://phone.example"}))
		var refused *refusal
		if err != nil {
			if !errors.As(err, &refused) {
				t.Fatal(err)
			}
			answer = refused.answer()
		}
		parsed, parseErr := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), nil)
		if parseErr != nil || (parsed.StatusCode == 101) != (err == nil) {
			t.Errorf("%v: %q", parseErr, answer)
		}
	})
}
