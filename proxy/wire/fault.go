package wire

import "strconv"

// Fault says why a message is not accepted. It is an error; compare it with
// [NoFault] before storing it in an error variable.
type Fault uint8

// The faults. Where several apply, Scan reports the first it meets.
const (
	NoFault               Fault = iota
	FaultNotSIP                 // no SIP start line at all; nothing else was read
	FaultTooLarge               // more than MaxSize bytes, or than Framer.Max
	FaultVersion                // not SIP/2.0
	FaultStartLine              // a start line with extra white space or a bad token
	FaultRequestURI             // empty, or with characters no URI may have
	FaultStatus                 // a status code that is not 100 to 699
	FaultLineBreak              // CR or LF alone, or no empty line at the end
	FaultHeaderName             // a line without colon, or a name that is no token
	FaultTooManyHeaders         // more than MaxHeaders lines
	FaultVia                    // unreadable topmost Via
	FaultFrom                   // unreadable From
	FaultTo                     // unreadable To
	FaultCallID                 // empty Call-ID, or one with white space
	FaultCSeq                   // no number below 2^31 followed by a method
	FaultCSeqMethod             // not the method of the request line
	FaultContentLength          // not a number
	FaultQuoting                // unclosed quote or angle bracket in an address list
	FaultMissingVia             // mandatory headers (RFC 3261 8.1.1)
	FaultMissingFrom            //
	FaultMissingTo              //
	FaultMissingCallID          //
	FaultMissingCSeq            //
	FaultMissingLength          // no Content-Length on a stream (RFC 3261 18.3)
	FaultRepeatedFrom           // headers that may appear once
	FaultRepeatedTo             //
	FaultRepeatedCallID         //
	FaultRepeatedCSeq           //
	FaultRepeatedForwards       // Max-Forwards
	FaultRepeatedLength         // Content-Lengths of different values
	FaultBody                   // shorter than Content-Length says
	numFaults
)

var faultReasons = [numFaults]string{
	NoFault:               "OK",
	FaultNotSIP:           "Not SIP",
	FaultTooLarge:         "Message Too Large",
	FaultVersion:          "Version Not Supported",
	FaultStartLine:        "Bad Start Line",
	FaultRequestURI:       "Bad Request-URI",
	FaultStatus:           "Bad Status Code",
	FaultLineBreak:        "Bad Line Break",
	FaultHeaderName:       "Bad Header Name",
	FaultTooManyHeaders:   "Too Many Headers",
	FaultVia:              "Bad Via",
	FaultFrom:             "Bad From",
	FaultTo:               "Bad To",
	FaultCallID:           "Bad Call-ID",
	FaultCSeq:             "Bad CSeq",
	FaultCSeqMethod:       "CSeq Method Mismatch",
	FaultContentLength:    "Bad Content-Length",
	FaultQuoting:          "Unclosed Quote Or Bracket",
	FaultMissingVia:       "Missing Via",
	FaultMissingFrom:      "Missing From",
	FaultMissingTo:        "Missing To",
	FaultMissingCallID:    "Missing Call-ID",
	FaultMissingCSeq:      "Missing CSeq",
	FaultMissingLength:    "Missing Content-Length",
	FaultRepeatedFrom:     "Duplicate From",
	FaultRepeatedTo:       "Duplicate To",
	FaultRepeatedCallID:   "Duplicate Call-ID",
	FaultRepeatedCSeq:     "Duplicate CSeq",
	FaultRepeatedForwards: "Duplicate Max-Forwards",
	FaultRepeatedLength:   "Conflicting Content-Length",
	FaultBody:             "Incomplete Body",
}

// Status is the status code of the reply (RFC 3261 21.4.1, 21.5.6, 21.5.7),
// 0 for NoFault.
func (f Fault) Status() int {
	switch f {
	case NoFault:
		return 0
	case FaultVersion:
		return 505
	case FaultTooLarge:
		return 513
	default:
		return 400
	}
}

// Reason is the reason phrase of the reply: it names the fault, no input.
func (f Fault) Reason() string {
	if f >= numFaults {
		return "Bad Request"
	}
	return faultReasons[f]
}

// Error makes a Fault an error: "400 Duplicate Call-ID".
func (f Fault) Error() string {
	return strconv.Itoa(f.Status()) + " " + f.Reason()
}
