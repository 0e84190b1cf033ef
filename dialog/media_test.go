package dialog

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/sipward/sipward/proxy/wire"
)

// description is SDP that the tests call by a short name.
func description(name string) []byte {
	if name == "" {
		return nil
	}
	return []byte("v=0\r\no=" + name + " 1 1 IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r\n")
}

// nameOf is that name again.
func nameOf(sdp []byte) string {
	_, name, _ := strings.Cut(string(sdp), "o=")
	name, _, _ = strings.Cut(name, " ")
	return name
}

// play hands one line of a script to m: the leg, what it sends with its CSeq
// number, and the SDP by name; "?" is a body that cannot be understood. A status
// is followed by the method it answers, a reliable 1xx has an R.
//
//	A INVITE 1 a
//	B 183R INVITE 1 b
func play(t testing.TB, m *Media, line string) {
	t.Helper()
	word := strings.Fields(line)
	from := map[string]Leg{"A": A, "B": B}[word[0]]
	status, err := strconv.Atoi(strings.TrimSuffix(word[1], "R"))
	reliable := strings.HasSuffix(word[1], "R")
	method := word[1]
	word = word[1:]
	if err == nil {
		method, word = word[1], word[1:]
	}
	cseq, bad := strconv.ParseUint(word[1], 10, 32)
	if bad != nil {
		t.Fatalf("script: %q", line)
	}
	var b Body
	if len(word) > 2 && word[2] == "?" {
		b = Body{Opaque: true, Type: []byte("multipart/mixed;boundary=x")}
	} else if len(word) > 2 {
		b = Body{SDP: description(word[2]), Type: []byte("application/sdp")}
	}
	switch {
	case err == nil:
		m.Response(from, wire.MethodOf([]byte(method)), uint32(cseq), status, reliable, b)
	case method == "ACK":
		m.Ack(from, uint32(cseq), b)
	default:
		m.Request(from, wire.MethodOf([]byte(method)), uint32(cseq), b)
	}
}

// known is what each leg sent last, "?" when that is unknown.
func known(t testing.TB, m *Media) string {
	t.Helper()
	var s [2]string
	for _, l := range [...]Leg{A, B} {
		s[l] = "?"
		b, ok := m.SentBy(l)
		sum, hashed := m.Fingerprint(l)
		if ok != hashed || hashed == m.Unknown(l.Peer()) {
			t.Fatalf("%v: kept %v, fingerprint %v, unknown %v", l, ok, hashed, m.Unknown(l.Peer()))
		}
		if ok {
			s[l] = nameOf(b.SDP)
			if sum != Fingerprint(b.SDP) || string(b.SDP) != string(description(s[l])) {
				t.Fatalf("%v: not its own body: %q", l, b.SDP)
			}
		}
	}
	return s[A] + s[B]
}

// In the scripts, "=" states what is known of the two legs, and "open" that an
// offer waits; without "open" none does.
func TestOffersAndAnswers(t *testing.T) {
	for _, test := range []struct{ name, script string }{
		{"AnInviteIsCommittedByItsSuccess", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			A ACK 1	= ab`},
		{"NothingIsKnownBeforeTheAnswer", `
			A INVITE 1 a	= ?? open
			B 100 INVITE 1	= ?? open
			B 180 INVITE 1	= ?? open`},
		{"ARefusalRollsTheOfferBack", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			A INVITE 2 c	= ab open
			B 488 INVITE 2 d	= ab
			B INVITE 1 e	= ab open
			A 200 INVITE 1 f	= fe`},
		{"ALateOfferIsCommittedByTheAck", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			A INVITE 2	= ab
			B 200 INVITE 2 c	= ab open
			A ACK 2 d	= dc`},
		{"CopiesOfTheSuccessAndOfTheAckChangeNothing", `
			A INVITE 1	= ??
			A INVITE 1	= ??
			B 200 INVITE 1 b	= ?? open
			B 200 INVITE 1 b	= ?? open
			A ACK 1 a	= ab
			B 200 INVITE 1 b	= ab
			A ACK 1 a	= ab
			B UPDATE 1 c	= ab open
			A 200 UPDATE 1 d	= dc
			B 200 INVITE 1 b	= dc
			A ACK 1 a	= dc`},
		{"ACopyOfAnOlderSuccessChangesNothing", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			A INVITE 2 c	= ab open
			B 200 INVITE 1 b	= ab open
			B 200 INVITE 2 d	= cd
			B 200 INVITE 1 b	= cd`},
		{"AnAckWithoutTheAnswerLeavesNothingKnown", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			A INVITE 2	= ab
			B 200 INVITE 2 c	= ab open
			A ACK 2	= ??
			B INVITE 1 d	= ?? open
			A 200 INVITE 1 e	= ed`},
		{"AnAckOfAnotherInviteIsNoAnswer", `
			A INVITE 2	= ??
			B 200 INVITE 2 b	= ?? open
			A ACK 1 a	= ?? open
			B ACK 2 a	= ?? open
			A ACK 2 c	= cb`},
		{"AReliableProvisionalIsTheAnswer", `
			A INVITE 1 a	= ?? open
			B 183R INVITE 1 b	= ab
			B 183R INVITE 1 b	= ab
			A PRACK 2	= ab
			B 200 PRACK 2	= ab
			B 200 INVITE 1	= ab
			A ACK 1	= ab`},
		{"AReliableProvisionalMayOffer", `
			A INVITE 1	= ??
			B 183R INVITE 1 b	= ?? open
			B 183R INVITE 1 b	= ?? open
			A PRACK 2 a	= ab
			A PRACK 2 a	= ab
			B 200 PRACK 2	= ab
			B 200 INVITE 1	= ab
			A ACK 1	= ab`},
		{"APrackMayOffer", `
			A INVITE 1 a	= ?? open
			B 183R INVITE 1 b	= ab
			A PRACK 2 c	= ab open
			B 200 PRACK 2 d	= cd
			B 200 INVITE 1	= cd`},
		{"ARefusedPrackOfferIsRolledBack", `
			A INVITE 1 a	= ?? open
			B 183R INVITE 1 b	= ab
			A PRACK 2 c	= ab open
			B 488 PRACK 2	= ab`},
		{"ARefusedAnswerLeavesNothingKnown", `
			A INVITE 1	= ??
			B 183R INVITE 1 b	= ?? open
			A PRACK 2 a	= ab
			B 500 PRACK 2	= ??`},
		{"UpdateInAnEarlyDialog", `
			A INVITE 1 a	= ?? open
			B 183R INVITE 1 b	= ab
			A PRACK 2	= ab
			B 200 PRACK 2	= ab
			A UPDATE 3 c	= ab open
			B 200 UPDATE 3 d	= cd
			B UPDATE 1 e	= cd open
			A 200 UPDATE 1 f	= fe
			B 183R INVITE 1 b	= fe
			B 200 INVITE 1 b	= fe`},
		{"ARefusedUpdateIsRolledBack", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			B UPDATE 1 c	= ab open
			A 504 UPDATE 1	= ab`},
		{"UpdateWithoutSDPTouchesNothing", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			A UPDATE 2	= ab
			B 200 UPDATE 2	= ab
			A UPDATE 3	= ab
			B 200 UPDATE 3 b	= ab`},
		{"UpdateWithoutSDPIsNotAnsweredWithOther", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			A UPDATE 2	= ab
			B 200 UPDATE 2 c	= ??`},
		{"OtherMethodsAreNoPartOfTheModel", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			A INFO 2 c	= ab
			B 200 INFO 2 d	= ab
			A OPTIONS 3	= ab
			B 200 OPTIONS 3 d	= ab`},
		{"APreviewCommitsNothing", `
			A INVITE 1 a	= ?? open
			B 183 INVITE 1 b	= ?? open
			B 486 INVITE 1	= ??`},
		{"TheSuccessCountsAndNotThePreview", `
			A INVITE 1 a	= ?? open
			B 183 INVITE 1 b	= ?? open
			B 200 INVITE 1 c	= ac`},
		{"TheSuccessMayOmitWhatThePreviewSaid", `
			A INVITE 1 a	= ?? open
			B 183 INVITE 1 b	= ?? open
			B 180 INVITE 1	= ?? open
			B 180 INVITE 1 b	= ?? open
			B 200 INVITE 1	= ab`},
		{"TwoPreviewsAreNoAnswer", `
			A INVITE 1 a	= ?? open
			B 183 INVITE 1 b	= ?? open
			B 183 INVITE 1 c	= ?? open
			B 183 INVITE 1 b	= ?? open
			B 200 INVITE 1	= a?`},
		{"APreviewIsOfItsOwnInvite", `
			A INVITE 1 a	= ?? open
			B 183 INVITE 1 b	= ?? open
			B 401 INVITE 1	= ??
			A INVITE 2 c	= ?? open
			B 200 INVITE 2	= ??`},
		{"AnUnreliableResponseMakesNoOffer", `
			A INVITE 1	= ??
			B 183 INVITE 1 b	= ??
			B 200 INVITE 1 b	= ?? open
			A ACK 1 a	= ab`},
		{"AnOfferAcceptedWithoutAnswerLeavesNothingKnown", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			A INVITE 2 c	= ab open
			B 200 INVITE 2	= ??
			A UPDATE 3 d	= ?? open
			B 200 UPDATE 3	= ??
			A UPDATE 4 d	= ?? open
			B 200 UPDATE 4 e	= de`},
		{"AnotherSDPAfterTheAnswerMakesTheCalleeUnknown", `
			A INVITE 1 a	= ?? open
			B 183R INVITE 1 b	= ab
			B 200 INVITE 1 c	= a?`},
		{"TheSameSDPAfterTheAnswerIsFine", `
			A INVITE 1 a	= ?? open
			B 183R INVITE 1 b	= ab
			B 200 INVITE 1 b	= ab`},
		{"GlareRefusedByBoth", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			A INVITE 2 c	= ab open
			B INVITE 1 d	= ab open
			A 491 INVITE 1	= ab open
			B 491 INVITE 2	= ab
			B INVITE 2 e	= ab open
			A 200 INVITE 2 f	= fe`},
		{"GlareRefusedByOne", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			A INVITE 2 c	= ab open
			B INVITE 1 d	= ab open
			B 200 INVITE 2 e	= ce open
			A 491 INVITE 1	= ce`},
		{"GlareOfUpdateAndInvite", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			A UPDATE 2 c	= ab open
			B INVITE 1 d	= ab open
			B 491 UPDATE 2	= ab open
			A 200 INVITE 1 e	= ed`},
		{"CrossingOffersThatAreBothAccepted", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			A INVITE 2 c	= ab open
			B INVITE 1 d	= ab open
			B 200 INVITE 2 e	= ce open
			A 200 INVITE 1 f	= ??
			A INVITE 3 g	= ?? open
			B 200 INVITE 3 h	= gh`},
		{"TwoOffersOfOneLeg", `
			A INVITE 1 a	= ?? open
			A UPDATE 2 c	= ?? open
			B 500 UPDATE 2	= ?? open
			B 200 INVITE 1 b	= ??
			A INVITE 3 d	= ?? open
			B 200 INVITE 3 e	= de`},
		{"OverlappingInvitesLeaveNothingKnown", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			A INVITE 2 c	= ab open
			A INVITE 3 d	= ?? open
			B 500 INVITE 3	= ??
			B 200 INVITE 2 e	= ??
			A INVITE 4 f	= ?? open
			B 200 INVITE 4 g	= fg`},
		{"ARequestThatComesTooLateLeavesNothingKnown", `
			A INVITE 5 a	= ?? open
			B 200 INVITE 5 b	= ab
			A INVITE 4 c	= ??
			B 500 INVITE 4	= ??`},
		{"AResponseToAnUnseenInvite", `
			A INVITE 5 a	= ?? open
			B 200 INVITE 5 b	= ab
			B 180 INVITE 6	= ab
			B 404 INVITE 6	= ab
			B 200 INVITE 6 c	= ??`},
		{"AReinviteThatFailsAfterItsExchange", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			A INVITE 2 c	= ab open
			B 183R INVITE 2 d	= cd
			B 488 INVITE 2	= ??`},
		{"AReinviteThatFailsAfterAnUpdateInsideOfIt", `
			A INVITE 1 a	= ?? open
			B 200 INVITE 1 b	= ab
			A INVITE 2	= ab
			A UPDATE 3 c	= ab open
			B 200 UPDATE 3 d	= cd
			B 488 INVITE 2	= ??`},
		{"ASuccessBeforeThePrackLeavesNothingKnown", `
			A INVITE 1	= ??
			B 183R INVITE 1 b	= ?? open
			B 200 INVITE 1	= ??
			A PRACK 2 a	= ?? open
			B 200 PRACK 2	= ??`},
		{"AFailureAfterASuccessIsIgnored", `
			A INVITE 1	= ??
			B 200 INVITE 1 b	= ?? open
			B 500 INVITE 1	= ?? open
			A ACK 1 a	= ab`},
		{"AnOpaqueOfferIsUnknownToTheOther", `
			A INVITE 1 ?	= ?? open
			B 200 INVITE 1 b	= ?b
			A INVITE 2 c	= ?b open
			B 200 INVITE 2 d	= cd`},
		{"AnOpaqueAnswerIsUnknownToTheOther", `
			A INVITE 1 a	= ?? open
			B 183 INVITE 1 ?	= ?? open
			B 200 INVITE 1 ?	= a?
			A UPDATE 2 ?	= a? open
			B 488 UPDATE 2	= a?
			A UPDATE 3 ?	= a? open
			B 200 UPDATE 3 b	= ?b`},
		{"AnOpaqueProvisionalLeavesItToTheSuccess", `
			A INVITE 1 a	= ?? open
			B 183R INVITE 1 ?	= ?? open
			B 200 INVITE 1 b	= ab
			A INVITE 2 c	= ab open
			B 183 INVITE 2 ?	= ab open
			B 200 INVITE 2	= c?`},
		{"AnOpaqueLateOffer", `
			A INVITE 1	= ??
			B 200 INVITE 1 ?	= ?? open
			A ACK 1 a	= a?`},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, copies := range []int{1, 2} {
				var m Media
				m.Keep(A, true)
				m.Keep(B, true)
				for _, line := range strings.Split(strings.TrimSpace(test.script), "\n") {
					step, expected, _ := strings.Cut(strings.TrimSpace(line), "\t= ")
					for range copies {
						play(t, &m, step)
					}
					expected, open := strings.CutSuffix(expected, " open")
					if got := known(t, &m); got != expected || m.Open() != open {
						t.Fatalf("%d × %s: %s open %v, want %s %v", copies, step, got, m.Open(), expected, open)
					}
				}
			}
		})
	}
}

func TestMediaIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(Media{}); n > 96 {
		t.Errorf("%d bytes", n)
	}
	t.Log(fmt.Sprint(unsafe.Sizeof(Media{}), unsafe.Sizeof(bodies{})))
}
