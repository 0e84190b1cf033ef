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
var compactKinds = map[byte]Kind{
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

// shortName is a compact name, or a long one of less than 16 bytes, with its
// colon, as two words: a line is compared with it in two steps.
type shortName struct {
	lo, hi         uint64 // in lower case, NULs behind the colon
	loCase, hiCase uint64 // the case bit of every letter; a '-' has none
	colon          uint8
	kind           Kind
}

// shortNames holds every short name in its slot; a test looks for each.
var shortNames = func() (t [256]shortName) {
	add := func(name string, k Kind) {
		n := shortName{colon: uint8(len(name)), kind: k}
		n.lo, n.hi = words([]byte(name))
		n.loCase, n.hiCase = letterCase(n.lo), letterCase(n.hi)
		n.lo, n.hi = n.lo|n.loCase, n.hi|n.hiCase
		t[nameSlot(n.lo, n.hi)] = n
	}
	for k, name := range kindNames {
		if name != "" && len(name) < 16 {
			add(name, Kind(k))
		}
	}
	for c, k := range compactKinds {
		add(string([]byte{c}), k)
	}
	return t
}()

// words packs a name of less than 16 bytes and a colon.
func words(name []byte) (lo, hi uint64) {
	var text [16]byte
	text[copy(text[:15], name)] = ':'
	return word(text[:], 0), word(text[:], 8)
}

// letterCase is the case bit of every letter in a word of a name.
func letterCase(x uint64) (bits uint64) {
	for i := 0; i < 64; i += 8 {
		if c := byte(x >> i); c|0x20 >= 'a' {
			bits |= 0x20 << i
		}
	}
	return bits
}

// nameSlot is the same for upper and lower case. The multiplier was found by
// trying: no two short names share a slot.
func nameSlot(lo, hi uint64) uint8 {
	const multiplier = 0x5b00d55274d43735
	return uint8((lo ^ hi | 0x20*lowBits) * multiplier >> 56)
}

// lookup finds the kind of a short name packed as words does.
func lookup(lo, hi uint64) (k Kind, colon int) {
	n := &shortNames[nameSlot(lo, hi)]
	if lo|n.loCase == n.lo && hi|n.hiCase == n.hi {
		return n.kind, int(n.colon)
	}
	return KindOther, 0
}

// upToColon is x with NULs behind the first colon; found is false when there
// is none.
func upToColon(x uint64) (cut uint64, found bool) {
	mark := markByte(x, ':')
	return x & (mark ^ (mark - 1)), mark != 0
}

// String is the long name, "" for KindOther.
func (k Kind) String() string {
	if k >= numKinds {
		return ""
	}
	return kindNames[k]
}

// KindOf finds the kind of a header name without surrounding white space.
func KindOf(name []byte) Kind {
	if len(name) < 16 {
		k, _ := lookup(words(name))
		return k
	}
	for _, k := range longKinds {
		if equalFold(name, kindNames[k]) {
			return k
		}
	}
	return KindOther
}

// longKinds are the kinds whose names are too long for shortNames.
var longKinds = [...]Kind{KindContentEncoding, KindWWWAuthenticate, KindProxyAuthenticate, KindProxyAuthorization, KindRequestDisposition}
