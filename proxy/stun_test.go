package proxy

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"net/netip"
	"strings"
	"testing"

	"github.com/sipward/sipward/security"
)

// The transaction of all samples in RFC 5769.
const stunID = "b7e7a701 bc34d686 fa87dfae"

const (
	stunBare = "0001 0000 2112a442 " + stunID
	// RFC 5769 2.1: SOFTWARE, PRIORITY, ICE-CONTROLLED, USERNAME, MESSAGE-INTEGRITY,
	// FINGERPRINT.
	stunSample = "0001 0058 2112a442 " + stunID +
		"8022 0010 5354554e 20746573 7420636c 69656e74" +
		"0024 0004 6e0001ff" +
		"8029 0008 932ff9b1 51263b36" +
		"0006 0009 6576746a 3a683676 59202020" +
		"0008 0014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2" +
		"8028 0004 e57a3bcf"
	// What RFC 5769 2.2 and 2.3 map to: 192.0.2.1 and 2001:db8:1234:5678:11:2233:4455:6677,
	// port 32853.
	stunMappedV4 = "0020 0008 0001 a147 e112a643"
	stunMappedV6 = "0020 0014 0002 a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9"

	stunReason420 = "0009 000b 00000414 556e6b6e 6f776e00"
)

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return b
}

// fingerprinted returns a message with a FINGERPRINT, made the other way round than in
// appendSTUN: from a whole message.
func fingerprinted(b []byte) []byte {
	b = append(bytes.Clone(b), 0x80, 0x28, 0, 4, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-20))
	n := len(b) - 8
	binary.BigEndian.PutUint32(b[n+4:], crc32.ChecksumIEEE(b[:n])^0x5354554e)
	return b
}

func TestSTUNIsAnswered(t *testing.T) {
	v4 := netip.MustParseAddrPort("192.0.2.1:32853")
	v6 := netip.MustParseAddrPort("[2001:db8:1234:5678:11:2233:4455:6677]:32853")
	success4 := "0101 000c 2112a442 " + stunID + stunMappedV4
	for _, c := range []struct {
		name, request string
		from          netip.AddrPort
		want          string
		signed        bool // the request and the answer have a FINGERPRINT
	}{
		{"over IPv4", stunBare, v4, success4, false},
		{"over IPv6", stunBare, v6, "0101 0018 2112a442 " + stunID + stunMappedV6, false},
		{"from a mapped address", stunBare, netip.MustParseAddrPort("[::ffff:192.0.2.1]:32853"), success4, false},
		{"with a zone", stunBare, netip.MustParseAddrPort("[fe80::1%eth0]:5060"),
			"0101 0018 2112a442 " + stunID + "0020 0014 0002 32d6 df92a442 b7e7a701 bc34d686 fa87dfaf", false},
		{"with a FINGERPRINT", stunBare, v4, success4, true},
		{"with a FINGERPRINT over IPv6", stunBare, v6, "0101 0018 2112a442 " + stunID + stunMappedV6, true},
		{"with SOFTWARE", "0001 000c 2112a442 " + stunID + "8022 0005 61626364 65000000", v4, success4, false},
		{"padded with anything", "0001 0008 2112a442 " + stunID + "8022 0001 61ffffff", v4, success4, false},
		{"with an empty attribute", "0001 0004 2112a442 " + stunID + "8022 0000", v4, success4, false},
		{"with attributes of answers", "0001 0010 2112a442 " + stunID + "0001 0000 0009 0000 000a 0000 0020 0000", v4, success4, false},
		{"with USERNAME", "0001 0008 2112a442 " + stunID + "0006 0001 61000000", v4,
			"0111 0018 2112a442 " + stunID + stunReason420 + "000a 0002 0006 0000", false},
		{"with CHANGE-REQUEST and a FINGERPRINT", "0001 0008 2112a442 " + stunID + "0003 0004 00000006", v4,
			"0111 0018 2112a442 " + stunID + stunReason420 + "000a 0002 0003 0000", true},
		{"RFC 5769 2.4, long-term credentials", "0001 0060 2112a442 78ad3433 c6ad72c0 29da412e" +
			"0006 0012 e3839e e38388 e383aa e38383 e382af e382b9 0000" +
			"0015 001c 662f2f34 39396b39 35346436 4f4c3334 6f4c3946 53547679 36347341" +
			"0014 000b 6578616d 706c652e 6f726700" +
			"0008 0014 f67024 656dd64a 3e02b8e0 712e85c9 a28ca896 66", v4,
			"0111 001c 2112a442 78ad3433 c6ad72c0 29da412e" + stunReason420 + "000a 0008 0006 0015 0014 0008", false},
		{"with an attribute twice", "0001 000c 2112a442 " + stunID + "7fff 0000 0006 0000 7fff 0000", v4,
			"0111 0018 2112a442 " + stunID + stunReason420 + "000a 0004 7fff 0006", false},
		{"with more unknown ones than are listed", "0001 0028 2112a442 " + stunID +
			"0030 0000 0031 0000 0032 0000 0033 0000 0034 0000 0035 0000 0036 0000 0037 0000 0038 0000 0039 0000", v4,
			"0111 0024 2112a442 " + stunID + stunReason420 + "000a 0010 0030 0031 0032 0033 0034 0035 0036 0037", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			request, want := unhex(t, c.request), unhex(t, c.want)
			if c.signed {
				request, want = fingerprinted(request), fingerprinted(want)
			}
			asked := bytes.Clone(request)
			got, ok := appendSTUN([]byte("before"), request, c.from)
			if !ok {
				t.Fatal("no answer")
			}
			if !bytes.Equal(got, append([]byte("before"), want...)) {
				t.Errorf("got  %x\nwant %x", got[6:], want)
			}
			if !bytes.Equal(request, asked) {
				t.Error("the request was changed")
			}
		})
	}
}

// The sample carries credentials, so it is refused; that it is refused and not dropped
// shows that its FINGERPRINT is right.
func TestSTUNSampleOfRFC5769IsUnderstood(t *testing.T) {
	want := fingerprinted(unhex(t, "0111 0000 2112a442 "+stunID+stunReason420+"000a 0006 0024 0006 0008 0000"))
	got, ok := appendSTUN(nil, unhex(t, stunSample), netip.MustParseAddrPort("192.0.2.1:32853"))
	if !ok || !bytes.Equal(got, want) {
		t.Errorf("%v\ngot  %x\nwant %x", ok, got, want)
	}
}

func TestSTUNIsNotAnswered(t *testing.T) {
	from := netip.MustParseAddrPort("192.0.2.1:32853")
	sample := stunSample[:len(stunSample)-2]
	for _, c := range []struct {
		name, request string
		from          netip.AddrPort
	}{
		{"nothing", "", from},
		{"a keep-alive", "0d0a0d0a", from},
		{"SIP", hex.EncodeToString([]byte("OPTIONS sip:a SIP/2.0\r\n\r\n")), from},
		{"an indication", "0011 0000 2112a442 " + stunID, from},
		{"a success response", "0101 0000 2112a442 " + stunID, from},
		{"an error response", "0111 0000 2112a442 " + stunID, from},
		{"an Allocate request", "0003 0000 2112a442 " + stunID, from},
		{"a ChannelData message of TURN", "4001 0000 2112a442 " + stunID, from},
		{"a cookie of RFC 3489", "0001 0000 2112a443 " + stunID, from},
		{"a head cut off", stunBare[:len(stunBare)-2], from},
		{"shorter than it says", "0001 0004 2112a442 " + stunID, from},
		{"longer than it says", "0001 0000 2112a442 " + stunID + "8022 0000", from},
		{"no multiple of four", "0001 0002 2112a442 " + stunID + "8022", from},
		{"an attribute beyond its end", "0001 0008 2112a442 " + stunID + "8022 0005 61616161", from},
		{"an attribute far beyond its end", "0001 0008 2112a442 " + stunID + "0001 ffff 00000000", from},
		{"an unknown attribute before a broken one", "0001 0008 2112a442 " + stunID + "0006 0000 8022 0001", from},
		{"a wrong FINGERPRINT", sample + "ce", from},
		{"a FINGERPRINT of another length", "0001 000c 2112a442 " + stunID + "8028 0008 00000000 00000000", from},
		{"an empty FINGERPRINT", "0001 0004 2112a442 " + stunID + "8028 0000", from},
		{"a FINGERPRINT that is not the last", "0001 000c 2112a442 " + stunID + "8028 0004 8efe89cd 8022 0000", from},
		{"from nowhere", stunBare, netip.AddrPort{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := appendSTUN([]byte("before"), unhex(t, c.request), c.from)
			if ok || string(got) != "before" {
				t.Errorf("%v %q", ok, got)
			}
		})
	}
}

func TestSTUNDoesNotAllocate(t *testing.T) {
	room := make([]byte, 0, 128)
	from := netip.MustParseAddrPort("[2001:db8::1]:5060")
	for name, request := range map[string][]byte{
		"bare":         unhex(t, stunBare),
		"FINGERPRINT":  fingerprinted(unhex(t, stunBare)),
		"unknown ones": unhex(t, stunSample),
	} {
		if n := testing.AllocsPerRun(100, func() {
			if _, ok := appendSTUN(room, request, from); !ok {
				t.Error("no answer")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// FuzzSTUN: whatever is answered was STUN, and the answer is a short and sound answer to it.
func FuzzSTUN(f *testing.F) {
	for _, s := range []string{stunBare, stunSample, "0001 0004 2112a442 " + stunID + "0006 0000", "0101 000c 2112a442 " + stunID + stunMappedV4} {
		f.Add(unhex(f, s), false, true)
		f.Add(unhex(f, s), true, false)
	}
	addr := map[bool]netip.AddrPort{true: netip.MustParseAddrPort("192.0.2.1:32853"), false: netip.MustParseAddrPort("[2001:db8::1]:1")}
	f.Fuzz(func(t *testing.T, request []byte, sign, four bool) {
		if sign && len(request) >= 20 && len(request) < 1<<16 {
			request = fingerprinted(request) // which the fuzzer does not find
		}
		answer, ok := appendSTUN(nil, request, addr[four])
		if !ok {
			if len(answer) != 0 {
				t.Fatalf("%x, but no answer", answer)
			}
			return
		}
		if !security.IsSTUN(request) || !security.IsSTUN(answer) || !bytes.Equal(answer[4:20], request[4:20]) {
			t.Fatalf("%x to %x", answer, request)
		}
		if n := len(answer); n > 2*len(request)+4 || n%4 != 0 || int(binary.BigEndian.Uint16(answer[2:])) != n-20 {
			t.Fatalf("an answer of %d bytes to %d: %x", n, len(request), answer)
		}
		if again, ok := appendSTUN(nil, answer, addr[four]); ok {
			t.Fatalf("the answer is answered: %x", again)
		}
		if n := len(request); n >= 28 && bytes.HasPrefix(request[n-8:], []byte("\x80\x28\x00\x04")) {
			// It may be part of another attribute too: then there is none in the answer.
			if m := len(answer); bytes.HasPrefix(answer[m-8:], []byte("\x80\x28\x00\x04")) && !bytes.Equal(fingerprinted(answer[:m-8]), answer) {
				t.Fatalf("wrong FINGERPRINT: %x", answer)
			}
		}
	})
}

func BenchmarkSTUN(b *testing.B) {
	request, from := unhex(b, stunBare), netip.MustParseAddrPort("192.0.2.1:32853")
	room := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		appendSTUN(room, request, from)
	}
}
