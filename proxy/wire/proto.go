package wire

// Proto is a transport protocol of SIP.
type Proto uint8

// The transports of RFC 3261 18 and RFC 7118. The zero value is UDP.
const (
	UDP Proto = iota
	TCP
	TLS
	WS
	WSS
)

var protoNames = [...]struct{ via, param string }{
	UDP: {"UDP", "udp"},
	TCP: {"TCP", "tcp"},
	TLS: {"TLS", "tls"},
	WS:  {"WS", "ws"},
	WSS: {"WSS", "wss"},
}

// String is the spelling of a Via header: "UDP".
func (p Proto) String() string {
	if int(p) >= len(protoNames) {
		return "UNKNOWN"
	}
	return protoNames[p].via
}

// Param is the spelling of a transport parameter: "udp".
func (p Proto) Param() string {
	if int(p) >= len(protoNames) {
		return "unknown"
	}
	return protoNames[p].param
}

// URIParam is the transport parameter of a URI: a browser's is ws, secure or not
// (RFC 7118 5.2).
func (p Proto) URIParam() string {
	if p == WSS {
		return WS.Param()
	}
	return p.Param()
}

// Reliable tells whether the transport retransmits for us.
func (p Proto) Reliable() bool { return p != UDP }

// Streamed tells whether messages follow each other in a stream, so that their
// Content-Length says where they end (RFC 3261 18.3); a datagram and a WebSocket
// message end by themselves (RFC 7118 5).
func (p Proto) Streamed() bool { return p == TCP || p == TLS }

// Secure tells whether the transport is encrypted.
func (p Proto) Secure() bool { return p == TLS || p == WSS }

// DefaultPort is the port where none is written (RFC 3261 19.1.2, RFC 7118 5.2.4).
func (p Proto) DefaultPort() uint16 {
	switch p {
	case TLS:
		return 5061
	case WS:
		return 80
	case WSS:
		return 443
	default:
		return 5060
	}
}

// ParseProto reads a transport name in any case.
func ParseProto(b []byte) (Proto, bool) {
	for i := range protoNames {
		if equalFold(b, protoNames[i].via) {
			return Proto(i), true
		}
	}
	return UDP, false
}
