package wire

// Kind identifies a header by name, compact or long, in any case.
type Kind uint8

// The headers the proxy looks for, and all that have a compact form, so that
// a header is found whichever way it is spelled.
const (
	KindOther Kind = iota
	KindVia
	KindFrom
	KindTo
	KindCallID
	KindCSeq
	KindMaxForwards
	KindRoute
	KindRecordRoute
	KindContact
	KindContentLength
	KindContentType
	KindContentEncoding
	KindProxyRequire
	KindRequire
	KindSupported
	KindAllow
	KindUserAgent
	KindServer
	KindAuthorization
	KindProxyAuthorization
	KindWWWAuthenticate
	KindProxyAuthenticate
	KindExpires
	KindPath
	KindSessionExpires
	KindMinSE
	KindTimestamp
	KindRetryAfter
	KindReason
	KindRAck
	KindRSeq
	KindEvent
	KindDate
	KindUnsupported
	KindWarning
	KindReferTo
	KindReplaces
	KindSubject
	KindAllowEvents
	KindReferredBy
	KindAcceptContact
	KindRejectContact
	KindRequestDisposition
	KindIdentity
	KindIdentityInfo
	numKinds
)

var kindNames = [numKinds]string{
	KindOther:              "",
	KindVia:                "Via",
	KindFrom:               "From",
	KindTo:                 "To",
	KindCallID:             "Call-ID",
	KindCSeq:               "CSeq",
	KindMaxForwards:        "Max-Forwards",
	KindRoute:              "Route",
	KindRecordRoute:        "Record-Route",
	KindContact:            "Contact",
	KindContentLength:      "Content-Length",
	KindContentType:        "Content-Type",
	KindContentEncoding:    "Content-Encoding",
	KindProxyRequire:       "Proxy-Require",
	KindRequire:            "Require",
	KindSupported:          "Supported",
	KindAllow:              "Allow",
	KindUserAgent:          "User-Agent",
	KindServer:             "Server",
	KindAuthorization:      "Authorization",
	KindProxyAuthorization: "Proxy-Authorization",
	KindWWWAuthenticate:    "WWW-Authenticate",
	KindProxyAuthenticate:  "Proxy-Authenticate",
	KindExpires:            "Expires",
	KindPath:               "Path",
	KindSessionExpires:     "Session-Expires",
	KindMinSE:              "Min-SE",
	KindTimestamp:          "Timestamp",
	KindRetryAfter:         "Retry-After",
	KindReason:             "Reason",
	KindRAck:               "RAck",
	KindRSeq:               "RSeq",
	KindEvent:              "Event",
	KindDate:               "Date",
	KindUnsupported:        "Unsupported",
	KindWarning:            "Warning",
	KindReferTo:            "Refer-To",
	KindReplaces:           "Replaces",
	KindSubject:            "Subject",
	KindAllowEvents:        "Allow-Events",
	KindReferredBy:         "Referred-By",
	KindAcceptContact:      "Accept-Contact",
	KindRejectContact:      "Reject-Contact",
	KindRequestDisposition: "Request-Disposition",
	KindIdentity:           "Identity",
	KindIdentityInfo:       "Identity-Info",
}

// compactKinds is the IANA registry of compact forms, by lower-case letter.
var compactKinds = [256]Kind{
	'a': KindAcceptContact,
	'b': KindReferredBy,
	'c': KindContentType,
	'd': KindRequestDisposition,
	'e': KindContentEncoding,
	'f': KindFrom,
	'i': KindCallID,
	'j': KindRejectContact,
	'k': KindSupported,
	'l': KindContentLength,
	'm': KindContact,
	'n': KindIdentityInfo,
	'o': KindEvent,
	'r': KindReferTo,
	's': KindSubject,
	't': KindTo,
	'u': KindAllowEvents,
	'v': KindVia,
	'x': KindSessionExpires,
	'y': KindIdentity,
}

// kindSlots finds a long name by its length, first and last letter; no two
// names share all three, and the multipliers let no two share a slot (both
// are checked by a test).
var kindSlots = func() (t [256]Kind) {
	for k, name := range kindNames {
		if name != "" {
			t[kindSlot([]byte(name))] = Kind(k)
		}
	}
	return t
}()

func kindSlot(name []byte) uint8 {
	n := len(name)
	return uint8(n)*kindMulLen + (name[0]|0x20)*kindMulFirst + (name[n-1]|0x20)*kindMulLast
}

const kindMulLen, kindMulFirst, kindMulLast = 1, 9, 61

// String is the long name, "" for KindOther.
func (k Kind) String() string {
	if k >= numKinds {
		return ""
	}
	return kindNames[k]
}

// KindOf finds the kind of a header name without surrounding white space.
func KindOf(name []byte) Kind {
	switch len(name) {
	case 0:
		return KindOther
	case 1:
		return compactKinds[lower(name[0])]
	}
	k := kindSlots[kindSlot(name)]
	if s := kindNames[k]; string(name) == s || equalFold(name, s) {
		return k // never KindOther, whose name is empty
	}
	return KindOther
}
