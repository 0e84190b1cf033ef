package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/gobwas/ws"
)

// maxUpgrade bounds the header of the HTTP request that asks for a WebSocket.
const maxUpgrade = 8 << 10

// subprotocol is that of SIP (RFC 7118 section 4.1).
const subprotocol = "sip"

// refusal is an HTTP answer that is no upgrade.
type refusal struct {
	status int
	reason string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("WebSocket upgrade refused: %d %s", r.status, r.reason)
}

// answer is the whole response. The header fields are those of 426 (RFC 9110 section 15.5.22, RFC 6455 section 4.4);
// they do no harm with the others.
func (r *refusal) answer() []byte {
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Protocol: %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s\n",
		r.status, http.StatusText(r.status), subprotocol, len(r.reason)+1, r.reason)
}

// upgrade reads the request from stream and answers it; rest is what came behind it. A *refusal was sent, other errors
// are of reading or writing. Time is bounded by the read deadline.
func upgrade(stream io.ReadWriter, allowed origins) (rest []byte, err error) {
	borrowed := midBuffers.Get().(*[midBuffer]byte)
	defer midBuffers.Put(borrowed)
	size, filled, err := readHead(stream, borrowed[:maxUpgrade])
	var answer []byte
	if err == nil {
		answer, err = accept(borrowed[:size], allowed)
	}
	var refused *refusal
	if errors.As(err, &refused) {
		_, _ = stream.Write(refused.answer())
	}
	if err != nil {
		return nil, err
	}
	if _, err := stream.Write(answer); err != nil {
		return nil, err
	}
	return bytes.Clone(borrowed[size:filled]), nil
}

// readHead reads up to the empty line at the end of an HTTP header and maybe further.
func readHead(from io.Reader, buf []byte) (size, filled int, err error) {
	end := []byte("\r\n\r\n")
	for filled < len(buf) {
		n, err := from.Read(buf[filled:])
		searched := max(0, filled-len(end)+1)
		filled += n
		if i := bytes.Index(buf[searched:filled], end); i >= 0 {
			return searched + i + len(end), filled, nil
		}
		if err != nil {
			return 0, filled, err
		}
	}
	return 0, filled, &refusal{http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("header over %d bytes", maxUpgrade)}
}

// accept returns the response that makes a WebSocket of the connection on which head came, or a *refusal. It overwrites
// head.
func accept(head []byte, allowed origins) ([]byte, error) {
	var isOffered, hasOrigin bool
	u := ws.Upgrader{
		Protocol: func(name []byte) bool {
			isOffered = isOffered || strings.EqualFold(string(name), subprotocol)
			return isOffered
		},
		OnHeader: func(key, value []byte) error {
			if string(key) != "Origin" {
				return nil
			}
			hasOrigin = true
			return allowed.check(string(value))
		},
		OnBeforeUpgrade: func() (ws.HandshakeHeader, error) {
			if !isOffered {
				return nil, &refusal{http.StatusBadRequest, `the subprotocol "sip" (RFC 7118) is not offered`}
			}
			if !hasOrigin {
				return ws.HandshakeHeaderString(""), allowed.check("")
			}
			return ws.HandshakeHeaderString(""), nil
		},
	}
	var answer bytes.Buffer
	_, err := u.Upgrade(struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(head), &answer})
	if err != nil {
		return nil, refusalOf(err)
	}
	return answer.Bytes(), nil
}

// refusalOf tells what to answer; the library's own answers are not used.
func refusalOf(err error) *refusal {
	var own *refusal
	if errors.As(err, &own) {
		return own
	}
	if err == ws.ErrHandshakeBadUpgrade {
		return &refusal{http.StatusUpgradeRequired, "this is a WebSocket server for SIP (RFC 7118)"}
	}
	var rejected *ws.ConnectionRejectedError
	if errors.As(err, &rejected) && rejected.StatusCode() != 0 {
		return &refusal{rejected.StatusCode(), rejected.Error()}
	}
	return &refusal{http.StatusBadRequest, "malformed HTTP request"}
}

// origins are the web origins whose pages may connect (RFC 6455 section 10.2), normalized; empty = all.
type origins map[string]bool

func originsOf(configured []string) origins {
	all := make(origins, len(configured))
	for _, o := range configured {
		all[normalOrigin(o)] = true
	}
	return all
}

func (o origins) check(origin string) error {
	if len(o) == 0 || o[normalOrigin(origin)] {
		return nil
	}
	if origin == "" {
		return &refusal{http.StatusForbidden, "only web pages may connect, and this client names no origin"}
	}
	return &refusal{http.StatusForbidden, fmt.Sprintf("pages of the origin %.128s may not connect", origin)}
}

// normalOrigin makes equal origins equal strings: scheme and host know no case, and the port may be implied.
func normalOrigin(origin string) string {
	origin = strings.ToLower(origin)
	switch scheme, host, _ := strings.Cut(origin, "://"); scheme {
	case "http":
		return "http://" + strings.TrimSuffix(host, ":80")
	case "https":
		return "https://" + strings.TrimSuffix(host, ":443")
	}
	return origin
}
