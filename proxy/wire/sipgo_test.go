package wire

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/emiago/sipgo/sip"
)

// FuzzScanAgainstSipgo compares with sipgo what makes a transaction and a
// dialog: Call-ID, CSeq, tags and branch, where both accept a message.
func FuzzScanAgainstSipgo(f *testing.F) {
	sip.SetDefaultLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))
	parser := sip.NewParser()
	seedMessages(f, func(text []byte) { f.Add(text) })
	f.Fuzz(func(t *testing.T, text []byte) {
		var m Msg
		if m.Scan(text, false) != NoFault || beyondSipgo(&m) {
			return
		}
		theirs, err := parser.ParseSIP(bytes.Clone(m.Buf))
		if err != nil {
			return
		}
		compare(t, &m, theirs)
	})
}

// sipgoDiffers matches legal header parts that sipgo v1.7.2 is known to read
// in another way: quotes, brackets, escapes and commas within parameters,
// white space around separators (COLON = SWS ":" SWS between host and port of
// a Via too, RFC 3261 25.1 and the example in 20.42), folds, names in other
// than lower case. And quotes within a value of a Via, which are malformed
// (via-branch = "branch" EQUAL token) and kept as they are (16.3 step 1).
var sipgoDiffers = regexp.MustCompile(`[;=] *"|[\[\]\\\t\x00?]|[^:]  | [;=/:]|[;=/] |\r\n |` +
	`;[a-z0-9-]*[A-Z][A-Za-z0-9-]*|;;|;=|=;|=\r|;\r|(?i:\n(via|v|from|f|to|t)[ \t]*:[^\r]*([^ -~\r]|,))|(?i:\n(via|v)[ \t]*:[^\r]*(: |"))`)

// nameAddr is a From or To in a form where both agree what is the URI's and
// what is the header's, and where the name of a parameter ends. sipgo looks
// for the last '=' of a From or To parameter. By RFC 3261 25.1 it is the first
// one: generic-param = token [ EQUAL gen-value ], and '=' is no token
// character. A second one makes the value malformed, but a tag is opaque here
// and goes on as it is (16.3 step 1); padded base64 is met.
var nameAddr = regexp.MustCompile(`^(("[^"]*" ?|[a-z ]*)<[^<>"]*>|sip:[^;<>"]*)(;[^;=<>"]*(=[^;=<>"]*)?)*$`)

func beyondSipgo(m *Msg) bool {
	callID := m.Bytes(m.CallID)
	return sipgoDiffers.Match(m.Buf[:m.Body.Start]) || !nameAddr.Match(m.Bytes(m.From.Value)) || !nameAddr.Match(m.Bytes(m.To.Value)) ||
		// LWS is SP, HTAB and folds (RFC 3261 25.1), and a Call-ID is compared
		// byte by byte (20.8); sipgo trims all that Unicode calls a space.
		len(bytes.TrimSpace(callID)) != len(callID)
}

// The oracle is of use only while most messages reach it.
func TestSipgoIsAsked(t *testing.T) {
	asked := 0
	files, _ := filepath.Glob("testdata/rfc4475/*.dat")
	for _, file := range files {
		text, _ := os.ReadFile(file)
		var m Msg
		if m.Scan(text, false) == NoFault && !beyondSipgo(&m) {
			asked++
		}
	}
	if asked < 15 {
		t.Errorf("%d messages of RFC 4475 are compared", asked)
	}
	if beyondSipgo(mustScan(t, inviteText)) || beyondSipgo(mustScan(t, okText)) {
		t.Error("everyday messages are not compared")
	}
}

func compare(t *testing.T, m *Msg, theirs sip.Message) {
	t.Helper()
	same := func(what, ours, sipgo string) {
		if ours != sipgo {
			t.Errorf("%s = %q, sipgo has %q in\n%q", what, ours, sipgo, m.Buf)
		}
	}
	if h := theirs.CallID(); h != nil {
		same("Call-ID", string(m.Bytes(m.CallID)), h.Value())
	}
	if h := theirs.CSeq(); h != nil {
		if h.SeqNo != m.CSeq {
			t.Errorf("CSeq = %d, sipgo has %d", m.CSeq, h.SeqNo)
		}
		same("CSeq method", string(m.Bytes(m.CSeqMethod)), string(h.MethodName))
	}
	if h := theirs.From(); h != nil {
		tag, _ := h.Params.Get("tag")
		same("From tag", string(m.Bytes(m.From.Tag)), tag)
	}
	if h := theirs.To(); h != nil {
		tag, _ := h.Params.Get("tag")
		same("To tag", string(m.Bytes(m.To.Tag)), tag)
	}
	if h := theirs.Via(); h != nil {
		branch, _ := h.Params.Get("branch")
		same("branch", string(m.Bytes(m.TopVia.Branch)), branch)
		same("Via host", string(m.Bytes(m.TopVia.Host)), h.Host)
	}
}
