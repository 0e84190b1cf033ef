package wire

// Method is a request method known to the proxy. Names are compared with
// their case (RFC 3261 7.1): "invite" is an unknown method, not an INVITE.
type Method uint8

// The registered methods.
const (
	UnknownMethod Method = iota
	INVITE
	ACK
	BYE
	CANCEL
	OPTIONS
	REGISTER
	PRACK
	SUBSCRIBE
	NOTIFY
	PUBLISH
	INFO
	REFER
	MESSAGE
	UPDATE
)

// String is the name on the wire; "UNKNOWN" for the zero value.
func (m Method) String() string {
	switch m {
	case INVITE:
		return "INVITE"
	case ACK:
		return "ACK"
	case BYE:
		return "BYE"
	case CANCEL:
		return "CANCEL"
	case OPTIONS:
		return "OPTIONS"
	case REGISTER:
		return "REGISTER"
	case PRACK:
		return "PRACK"
	case SUBSCRIBE:
		return "SUBSCRIBE"
	case NOTIFY:
		return "NOTIFY"
	case PUBLISH:
		return "PUBLISH"
	case INFO:
		return "INFO"
	case REFER:
		return "REFER"
	case MESSAGE:
		return "MESSAGE"
	case UPDATE:
		return "UPDATE"
	default:
		return "UNKNOWN"
	}
}

// MethodOf finds the method of that exact name.
func MethodOf(name []byte) Method {
	switch string(name) {
	case "INVITE":
		return INVITE
	case "ACK":
		return ACK
	case "BYE":
		return BYE
	case "CANCEL":
		return CANCEL
	case "OPTIONS":
		return OPTIONS
	case "REGISTER":
		return REGISTER
	case "PRACK":
		return PRACK
	case "SUBSCRIBE":
		return SUBSCRIBE
	case "NOTIFY":
		return NOTIFY
	case "PUBLISH":
		return PUBLISH
	case "INFO":
		return INFO
	case "REFER":
		return REFER
	case "MESSAGE":
		return MESSAGE
	case "UPDATE":
		return UPDATE
	default:
		return UnknownMethod
	}
}
