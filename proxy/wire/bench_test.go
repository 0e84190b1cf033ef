package wire

import "testing"

func benchmarkScan(b *testing.B, text string) {
	msg := []byte(text)
	var m Msg
	b.ReportAllocs()
	b.SetBytes(int64(len(msg)))
	for b.Loop() {
		if m.Scan(msg, false) != NoFault {
			b.Fatal("fault")
		}
	}
}

func BenchmarkScanInvite(b *testing.B) { benchmarkScan(b, inviteText) }

func BenchmarkScanOK(b *testing.B) { benchmarkScan(b, okText) }

func BenchmarkForward(b *testing.B) {
	m := mustScan(b, inviteText)
	var e Edit
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		e.Reset(m)
		forward(&e, m)
		out = e.AppendTo(out[:0])
	}
}

func BenchmarkRelay(b *testing.B) {
	m := mustScan(b, okText)
	var e Edit
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		e.Reset(m)
		e.DeleteTopVia()
		out = e.AppendTo(out[:0])
	}
}

func BenchmarkFrame(b *testing.B) {
	stream := []byte(inviteText + "\r\n\r\n" + okText)
	b.ReportAllocs()
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		var f Framer
		for buf := stream; len(buf) > 0; {
			msg, n, _, _ := f.Next(buf)
			if msg == nil {
				b.Fatal("no message")
			}
			buf = buf[n:]
		}
	}
}

func BenchmarkParseURI(b *testing.B) {
	uri := []byte("sip:alice@192.0.2.10:5060;transport=udp;lr")
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := ParseURI(uri); !ok {
			b.Fatal("refused")
		}
	}
}
