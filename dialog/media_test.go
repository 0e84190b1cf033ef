package dialog

import (
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
		{"AnInviteThatOverlapsIsNoCleanExchange", `
			A INVITE 1 a	= ?? open
			A INVITE 2 b	= ?? open
			B 200 INVITE 2 c	= ??
			A UPDATE 3 d	= ?? open
			A UPDATE 4 e	= ?? open
			B 200 UPDATE 4 f	= ??
			A UPDATE 5 g	= ?? open
			B 200 UPDATE 5 h	= gh`},
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

func playAll(t testing.TB, m *Media, lines ...string) {
	t.Helper()
	for _, line := range lines {
		play(t, m, line)
	}
}

func keeping() *Media {
	var m Media
	m.Keep(A, true)
	m.Keep(B, true)
	return &m
}

func TestAForkWaitsForItsOwnAnswer(t *testing.T) {
	for _, test := range []struct {
		name, before, expected string // by a fork that is answered 200 b2
	}{
		{"Before", "A INVITE 1 a", "ab2"},
		{"AfterAPreview", "A INVITE 1 a; B 183 INVITE 1 b", "ab2"},
		{"AfterAReliableAnswer", "A INVITE 1 a; B 183R INVITE 1 b", "ab2"},
		{"AfterASuccess", "A INVITE 1 a; B 200 INVITE 1 b; A ACK 1", "ab2"},
		{"AfterAnUpdateOfTheFirst", "A INVITE 1 a; B 183R INVITE 1 b; A UPDATE 2 c; B 200 UPDATE 2 d", "?b2"},
		{"AfterAnUpdateOfTheAnsweredFirst", "A INVITE 1 a; B 200 INVITE 1 b; B UPDATE 2 c; A 200 UPDATE 2 d", "?b2"},
		{"AfterAnIllegalSecondOffer", "A INVITE 1 a; A UPDATE 2 c", "?b2"},
		{"AfterARefusal", "A INVITE 0 a; B 200 INVITE 0 b; A INVITE 1 c; B 488 INVITE 1", "?b2"},
		{"AfterAnOpaqueOffer", "A INVITE 1 ?", "?b2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := keeping()
			playAll(t, m, strings.Split(test.before, "; ")...)
			before := known(t, m)
			f := m.Fork()
			if got := known(t, &f); got != "??" || !f.Open() {
				t.Fatalf("it knows %s, open %v", got, f.Open())
			}
			playAll(t, &f, "A INVITE 1 a", "B 200 INVITE 1 b2", "A ACK 1")
			if got := known(t, &f); got != test.expected || f.Open() {
				t.Fatalf("%s, open %v", got, f.Open())
			}
			if got := known(t, m); got != before {
				t.Fatalf("the other was %s and is %s", before, got)
			}
		})
	}
	for _, before := range []string{"A INVITE 1", "A INVITE 1; B 183R INVITE 1 b", "A INVITE 1; B 200 INVITE 1 b; A ACK 1 a"} {
		m := keeping()
		playAll(t, m, strings.Split(before, "; ")...)
		f := m.Fork()
		playAll(t, &f, "B 200 INVITE 1 b2", "A ACK 1 a2")
		if got := known(t, &f); got != "a2b2" {
			t.Errorf("%s: %s", before, got)
		}
	}
	if f := new(Media).Fork(); f != (Media{}) {
		t.Error("a fork of nothing is something")
	}
}

func TestBodiesAreKeptOnRequest(t *testing.T) {
	var m Media
	m.Keep(A, true)
	playAll(t, &m, "A INVITE 1 a", "B 200 INVITE 1 b")
	if b, ok := m.SentBy(A); !ok || nameOf(b.SDP) != "a" || string(b.Type) != "application/sdp" {
		t.Errorf("%q %v", b.SDP, ok)
	}
	if _, ok := m.SentBy(B); ok {
		t.Error("B's body is kept")
	}
	if sum, ok := m.Fingerprint(B); !ok || sum != Fingerprint(description("b")) {
		t.Error("B's fingerprint is missing")
	}
	if m.Unknown(A) || m.Unknown(B) {
		t.Error("not to be kept is not to be unknown")
	}
	if n := m.Size(); n < len(description("a")) || n > len(description("a"))+64 {
		t.Errorf("%d bytes are held", n)
	}
	m.Keep(B, true)
	playAll(t, &m, "B INVITE 1 c")
	m.Keep(A, false)
	if _, ok := m.SentBy(A); ok {
		t.Error("A's body was to be let go")
	}
	playAll(t, &m, "A 200 INVITE 1 d")
	if b, ok := m.SentBy(B); !ok || nameOf(b.SDP) != "c" {
		t.Errorf("%q %v", b.SDP, ok)
	}
	m.Keep(B, false)
	if m.Size() != 0 {
		t.Errorf("%d bytes are held", m.Size())
	}
}

func TestTheTypeIsKeptAsStored(t *testing.T) {
	m := keeping()
	kind := "Application/SDP ; charset=UTF-8"
	m.Request(A, wire.INVITE, 1, Body{SDP: description("a"), Type: []byte(kind)})
	m.Response(B, wire.INVITE, 1, 200, true, Body{SDP: description("b"), Type: []byte("application/sdp")})
	a, _ := m.SentBy(A)
	b, _ := m.SentBy(B)
	if string(a.Type) != kind || string(b.Type) != "application/sdp" || nameOf(a.SDP)+nameOf(b.SDP) != "ab" {
		t.Errorf("%q %q %q %q", a.SDP, a.Type, b.SDP, b.Type)
	}
}

func TestBodyIsCopied(t *testing.T) {
	m := keeping()
	sdp := description("a")
	m.Request(A, wire.INVITE, 1, Body{SDP: sdp})
	clear(sdp)
	play(t, m, "B 200 INVITE 1 b")
	if got := known(t, m); got != "ab" {
		t.Error(got)
	}
}

func TestBodyOf(t *testing.T) {
	const sdp = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\n"
	for _, test := range []struct {
		name, headers, body string
		sdp, opaque         bool
	}{
		{"None", "", "", false, false},
		{"TypeWithoutBody", "Content-Type: multipart/mixed\r\n", "", false, false},
		{"SDP", "Content-Type: application/sdp\r\n", sdp, true, false},
		{"Compact", "c: application/sdp\r\n", sdp, true, false},
		{"AnyCaseAndParameters", "Content-Type: Application / SDP ;charset=x\r\n", sdp, true, false},
		{"Session", "c: application/sdp\r\nContent-Disposition: Session;handling=required\r\n", sdp, true, false},
		{"EarlySession", "c: application/sdp\r\nContent-Disposition: early-session\r\n", sdp, false, true},
		{"Multipart", "c: multipart/mixed;boundary=application/sdp\r\n", sdp, false, true},
		{"Encrypted", "c: application/pkcs7-mime\r\n", sdp, false, true},
		{"LongerName", "c: application/sdpng\r\n", sdp, false, true},
		{"NoType", "", sdp, false, true},
		{"TwoTypes", "c: application/sdp\r\nContent-Type: text/plain\r\n", sdp, false, true},
		{"FoldedType", "c: application/sdp;\r\n charset=x\r\n", sdp, false, true},
		{"LongType", "c: application/sdp;x=" + strings.Repeat("x", 255) + "\r\n", sdp, false, true},
		{"Encoded", "c: application/sdp\r\nContent-Encoding: gzip\r\n", sdp, false, true},
		{"EncodedCompact", "c: application/sdp\r\ne: gzip\r\n", sdp, false, true},
		{"NotSDP", "c: application/sdp\r\n", "hello", false, true},
		{"AtTheBound", "c: application/sdp\r\n", sdp + strings.Repeat("x", maxSDP-len(sdp)), true, false},
		{"AboveTheBound", "c: application/sdp\r\n", sdp + strings.Repeat("x", maxSDP-len(sdp)+1), false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := "INVITE sip:b@example.com SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n" +
				"From: <sip:a@example.com>;tag=1\r\nTo: <sip:b@example.com>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n" +
				test.headers + "Content-Length: " + strconv.Itoa(len(test.body)) + "\r\n\r\n" + test.body
			var m wire.Msg
			if fault := m.Scan([]byte(text), false); fault != wire.NoFault {
				t.Fatal(fault)
			}
			b := BodyOf(&m)
			if (b.SDP != nil) != test.sdp || b.Opaque != test.opaque || test.sdp && string(b.SDP) != test.body {
				t.Errorf("%q opaque %v", b.SDP, b.Opaque)
			}
		})
	}
}

func TestFingerprintLeavesOutTheVersionOnly(t *testing.T) {
	const base = "v=0\r\no=u 7 1 IN IP4 192.0.2.1\r\ns=o=u 7 9\r\nm=audio 1 RTP/AVP 0\r\n"
	for _, test := range []struct {
		name, a, b string
		same       bool
	}{
		{"Itself", base, base, true},
		{"Version", base, strings.Replace(base, " 1 IN", " 4294967296 IN", 1), true},
		{"SessionID", base, strings.Replace(base, " 7 ", " 8 ", 1), false},
		{"Address", base, strings.Replace(base, "192.0.2.1", "192.0.2.2", 1), false},
		{"Port", base, strings.Replace(base, "audio 1 ", "audio 2 ", 1), false},
		{"OtherLines", base, strings.Replace(base, "7 9", "7 8", 1), false},
		{"LineEnds", base, strings.ReplaceAll(base, "\r\n", "\n"), false},
		{"VersionWithBareLF", "v=0\no=u 7 1 IN", "v=0\no=u 7 2 IN", true},
		{"VersionAtTheEnd", "o=u 7 1", "o=u 7 2\r\n", false},
		{"VersionAtTheEndOfALine", "o=u 7 1\r\n", "o=u 7 2\r\n", true},
		{"TooFewFields", "o=u 7\r\nx y z", "o=u 7\r\nx y w", false},
		{"NoOrigin", "x=o=u 7 1 IN", "x=o=u 7 2 IN", false},
		{"Empty", "", "", true},
	} {
		if got := Fingerprint([]byte(test.a)) == Fingerprint([]byte(test.b)); got != test.same {
			t.Errorf("%s: same %v", test.name, got)
		}
	}
}

func TestWebRTC(t *testing.T) {
	for sdp, is := range map[string]bool{
		"v=0\r\nm=audio 1 RTP/AVP 0\r\n":                                               false,
		"v=0\r\nm=audio 1 RTP/SAVP 0\r\n":                                              false,
		"v=0\r\nm=audio 1 UDP/TLS/RTP/SAVPF 0\r\n":                                     true,
		"v=0\nm=audio 1 RTP/SAVPF 0\n":                                                 true,
		"v=0\r\ns=SAVPF\r\nm=audio 1 RTP/AVP 0\r\n":                                    false,
		"v=0\r\ns=SAVPF\r\nm=audio 1 RTP/SAVPF 0\r\n":                                  true,
		"m=audio 1 UDP/TLS/RTP/SAVP 0\r\na=fingerprint:sha-256 0\r\n":                  false,
		"a=ice-ufrag:x\r\nm=audio 1 UDP/TLS/RTP/SAVP 0\r\na=fingerprint:sha-256 0\r\n": true,
	} {
		var m Media
		m.Request(A, wire.INVITE, 1, Body{SDP: []byte(sdp)})
		if m.WebRTC(A) {
			t.Errorf("%q: before the answer", sdp)
		}
		m.Response(B, wire.INVITE, 1, 200, true, Body{SDP: description("b")})
		if m.WebRTC(A) != is || m.WebRTC(B) {
			t.Errorf("%q: %v %v", sdp, m.WebRTC(A), m.WebRTC(B))
		}
	}
}

func TestMediaIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(Media{}); n > 96 {
		t.Errorf("%d bytes", n)
	}
	invite, answer := Body{SDP: description("a")}, Body{SDP: description("b")}
	if n := testing.AllocsPerRun(100, func() { followCall(invite, answer, false) }); n != 0 {
		t.Errorf("%v allocations with nothing kept", n)
	}
}

func followCall(invite, answer Body, keep bool) (m Media) {
	m.Keep(A, keep)
	m.Keep(B, keep)
	m.Request(A, wire.INVITE, 1, invite)
	m.Response(B, wire.INVITE, 1, 180, false, Body{})
	m.Response(B, wire.INVITE, 1, 200, true, answer)
	m.Ack(A, 1, Body{})
	return m
}

func BenchmarkMedia(b *testing.B) {
	sdp := append(description("a"), strings.Repeat("a=rtpmap:0 PCMU/8000\r\n", 16)...)
	body := Body{SDP: sdp, Type: []byte("application/sdp")}
	for _, keep := range []bool{false, true} {
		b.Run("Keep="+strconv.FormatBool(keep), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				followCall(body, body, keep)
			}
		})
	}
}
