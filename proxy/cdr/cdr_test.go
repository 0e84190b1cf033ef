package cdr

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/outfile"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	start    = time.Date(2026, 11, 19, 1, 35, 56, 120_999_999, time.FixedZone("CET", 3600))
	answered = Record{
		CallID: "8f2c11@192.0.2.10", From: "sip:jdoe@example.org", To: "sip:alice@example.org;user=phone", RURI: "sip:alice@example.org",
		Src: "192.0.2.10:5060", Transport: "udp", Pool: "default", Backend: "pbx1",
		Start: start, Answer: start.Add(4 * time.Second), End: start.Add(4*time.Second + 61_204*time.Millisecond),
		Setup: 350*time.Millisecond + 999*time.Microsecond, Duration: 61_204*time.Millisecond + 999*time.Microsecond, Status: 200,
		EndedBy: "caller", Reason: "bye", Mode: "R", LastVerified: start.Add(time.Minute),
	}
	failed = Record{
		CallID: "9a", From: "sip:jdoe@example.org", To: "sip:bob@example.org", RURI: "sip:bob@example.org", Src: "[2001:db8::1]:40000",
		Transport: "tls", Pool: "default", Backend: "pbx2", Start: start, End: start.Add(time.Second), Setup: time.Second,
		Status: 486, EndedBy: "callee", Reason: "rejected",
	}
	hostile = "a,\"b\"\r\nc;'d'\t\\ <&> =1+1 \x00\x1b[31m\x7f\xff\xc3\xa9\xe2\x80\xa8\xc2\x85\xed\xa0\x80|"
	bad     = Record{
		CallID: hostile, From: hostile, To: strings.Repeat("é", 300), RURI: strings.Repeat("0123456789", 100), Src: hostile, Transport: hostile,
		Pool: hostile, Backend: hostile, Start: start, End: start, Setup: -time.Second, Duration: -time.Second, Status: 699,
		EndedBy: hostile, Reason: hostile, Mode: `\.`,
	}
	all = []Record{answered, failed, {}, bad}
)

// record opens a Writer to a file, lets write write, and returns what is in the file then.
func record(t testing.TB, format string, write func(w *Writer)) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "calls")
	w := open(t, config.CDR{Output: file, Format: format}, Options{})
	write(w)
	closed(t, w)
	return contents(t, file)
}

func open(t testing.TB, c config.CDR, o Options) *Writer {
	t.Helper()
	w, err := Open(c, o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func closed(t testing.TB, w *Writer) {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func contents(t testing.TB, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func writeAll(w *Writer) {
	for i := range all {
		w.Write(&all[i])
	}
}

func TestRecordsAreAsPromised(t *testing.T) {
	for _, format := range []string{"json", "csv"} {
		t.Run(format, func(t *testing.T) {
			got := record(t, format, writeAll)
			file := filepath.Join("testdata", "calls."+format)
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got != contents(t, file) {
				t.Errorf("got:\n%s", got)
			}
		})
	}
}

// decoded is a record as a reader sees it.
type decoded struct {
	CallID, From, To, RURI, Src, Transport, Pool, Backend string
	Start, Answer, End                                    *time.Time
	SetupMS                                               int
	Duration                                              float64
	Status                                                int
	EndedBy, Reason, Mode                                 string
	LastVerified                                          *time.Time
}

// readJSON reads the lines back, each on its own, and returns their keys too.
func readJSON(t *testing.T, text string) (records []decoded, keys []string) {
	t.Helper()
	for line := range strings.Lines(text) {
		var raw map[string]json.RawMessage
		var d decoded
		underscores := strings.NewReplacer(`"call_id"`, `"callid"`, `"setup_ms"`, `"setupms"`, `"ended_by"`, `"endedby"`, `"last_verified"`, `"lastverified"`)
		if err := errors.Join(json.Unmarshal([]byte(line), &raw), json.Unmarshal([]byte(underscores.Replace(line)), &d)); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		records = append(records, d)
		keys = keys[:0]
		decoder := json.NewDecoder(strings.NewReader(line))
		for i := 0; ; i++ {
			token, err := decoder.Token()
			if err != nil {
				break
			}
			if key, ok := token.(string); ok && i%2 == 1 {
				keys = append(keys, key)
			}
		}
		if len(raw) != len(keys) {
			t.Errorf("%d keys in %q", len(raw), line)
		}
	}
	return records, keys
}

// readCSV does so with rows.
func readCSV(t *testing.T, text string) (records []decoded, head []string) {
	t.Helper()
	instant := func(s string) *time.Time {
		if s == "" {
			return nil
		}
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Error(err)
		}
		return &v
	}
	for line := range strings.Lines(text) {
		row, err := csv.NewReader(strings.NewReader(line)).Read() // each line is a row
		if err != nil || len(row) != 18 {
			t.Fatalf("%q: %d fields, %v", line, len(row), err)
		}
		if head == nil {
			head = row
			continue
		}
		setup, err1 := strconv.Atoi(row[11])
		duration, err2 := strconv.ParseFloat(row[12], 64)
		status, err3 := strconv.Atoi(row[13])
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Error(err)
		}
		records = append(records, decoded{
			row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], instant(row[8]), instant(row[9]), instant(row[10]),
			setup, duration, status, row[14], row[15], row[16], instant(row[17]),
		})
	}
	return records, head
}

func TestEveryRecordReadsBackAlikeFromBothFormats(t *testing.T) {
	fromJSON, keys := readJSON(t, record(t, "json", writeAll))
	fromCSV, head := readCSV(t, record(t, "csv", writeAll))
	if !slices.Equal(keys, head) || strings.Join(head, ",")+"\n" != names {
		t.Errorf("keys %q, columns %q", keys, head)
	}
	if len(fromJSON) != len(all) || len(fromCSV) != len(all) {
		t.Fatalf("%d objects, %d rows", len(fromJSON), len(fromCSV))
	}
	same := func(a, b *time.Time) bool { return a == b || a != nil && b != nil && a.Equal(*b) }
	wants := func(want time.Time) *time.Time {
		if want.IsZero() {
			return nil
		}
		want = want.Truncate(time.Millisecond)
		return &want
	}
	for i, r := range all {
		want := decoded{
			clean(r.CallID), clean(r.From), clean(r.To), clean(r.RURI), clean(r.Src), clean(r.Transport), clean(r.Pool), clean(r.Backend),
			wants(r.Start), wants(r.Answer), wants(r.End), int(max(0, r.Setup).Milliseconds()), float64(max(0, r.Duration).Milliseconds()) / 1000,
			r.Status, clean(r.EndedBy), clean(r.Reason), clean(r.Mode), wants(r.LastVerified),
		}
		for format, got := range map[string]decoded{"json": fromJSON[i], "csv": fromCSV[i]} {
			for _, at := range [][2]*time.Time{{got.Start, want.Start}, {got.Answer, want.Answer}, {got.End, want.End}, {got.LastVerified, want.LastVerified}} {
				if !same(at[0], at[1]) {
					t.Errorf("%s record %d: time %v, want %v", format, i, at[0], at[1])
				}
			}
			got.Start, got.Answer, got.End, got.LastVerified = want.Start, want.Answer, want.End, want.LastVerified
			if got != want {
				t.Errorf("%s record %d:\n%+v\nwant\n%+v", format, i, got, want)
			}
		}
	}
}

func TestValuesAreMadeFitForOneLine(t *testing.T) {
	const fits = maxValue - len(ellipsis)
	for _, tc := range []struct{ name, value, want string }{
		{"nothing", "", ""},
		{"plain", `sip:"a b"@c;d=\e,f`, `sip:"a b"@c;d=\e,f`},
		{"UTF-8", "sip:jürgen@münchen", "sip:jürgen@münchen"},
		{"line feeds", "a\r\nb\vc\fd", "a\ufffd\ufffdb\ufffdc\ufffdd"},
		{"other controls", "\x00\x1b\x7f\u0085\u009b", "\ufffd\ufffd\ufffd\ufffd\ufffd"},
		{"line separators", "a\u2028b\u2029c", "a\ufffdb\ufffdc"},
		{"not UTF-8", "a\xffb\xc3", "a\ufffdb\ufffd"},
		{"longest", strings.Repeat("a", maxValue), strings.Repeat("a", maxValue)},
		{"too long", strings.Repeat("a", maxValue+1), strings.Repeat("a", fits) + ellipsis},
		{"longest of two bytes each", strings.Repeat("é", maxValue/2), strings.Repeat("é", maxValue/2)},
		{"too long of two bytes each", strings.Repeat("é", maxValue), strings.Repeat("é", fits/2) + ellipsis},
		{"grows too long", strings.Repeat("\x01", maxValue), strings.Repeat("\ufffd", fits/3) + ellipsis},
	} {
		if got := clean(tc.value); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestRecordsAreThereAfterATick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		w := open(t, config.CDR{Output: "stdout", Format: "csv"}, Options{Stdout: &out})
		defer w.Close()
		w.Write(&answered)
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		if got := out.String(); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, answered.CallID) {
			t.Errorf("got %q", got) // a row, and no names on stdout
		}
	})
}

func TestReopenFollowsLogrotate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "calls.csv")
	w := open(t, config.CDR{Output: file, Format: "csv"}, Options{})
	w.Write(&answered)
	w.Flush()
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	w.Write(&failed)
	w.Flush()
	if err := w.Reopen(); err != nil {
		t.Fatal(err)
	}
	w.Write(&answered)
	closed(t, w)
	for name, want := range map[string]int{file: 1, file + ".1": 2} {
		if got, head := readCSV(t, contents(t, name)); len(got) != want || len(head) != 18 {
			t.Errorf("%s: %d records", name, len(got))
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm()&^0o640 != 0 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
}

func TestARestartAppends(t *testing.T) {
	file := filepath.Join(t.TempDir(), "calls.csv")
	for range 2 {
		w := open(t, config.CDR{Output: file, Format: "csv"}, Options{})
		w.Write(&answered)
		closed(t, w)
	}
	if got, _ := readCSV(t, contents(t, file)); len(got) != 2 || strings.Count(contents(t, file), "call_id") != 1 {
		t.Errorf("%d records", len(got))
	}
}

func TestSettingsChangeWhileRunning(t *testing.T) {
	var out bytes.Buffer
	dir := t.TempDir()
	a, b, c := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
	w := open(t, config.CDR{}, Options{Stdout: &out})
	w.Write(&answered) // to nowhere
	for _, next := range []config.CDR{
		{Output: a}, {Output: a, Format: "json"}, {Output: c}, {Output: b, Format: "csv"}, {Output: "none"}, {Output: "stdout"},
	} {
		if err := w.Configure(next); err != nil {
			t.Fatal(err)
		}
		w.Write(&answered)
		if next.Output == a || next.Output == c {
			w.Flush() // a record that waits follows the output
		}
	}
	for _, bad := range []config.CDR{{Format: "xml"}, {Output: filepath.Join(a, "below")}, {Output: dir, Format: "csv"}} {
		if err := w.Configure(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	w.Write(&failed)
	if err := w.Reopen(); err != nil {
		t.Error(err)
	}
	closed(t, w)
	closed(t, w)
	for name, want := range map[string]struct{ text, format string }{
		"a": {contents(t, a), "json2"}, "b": {contents(t, b), "csv1"}, "c": {contents(t, c), "json1"}, "stdout": {out.String(), "json2"},
	} {
		var got string
		if strings.HasPrefix(want.text, "{") {
			records, _ := readJSON(t, want.text)
			got = "json" + strconv.Itoa(len(records))
		} else {
			records, _ := readCSV(t, want.text)
			got = "csv" + strconv.Itoa(len(records))
		}
		if got != want.format {
			t.Errorf("%s has %s, want %s", name, got, want.format)
		}
	}
	if err := w.Configure(config.CDR{Output: a}); !errors.Is(err, outfile.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	w.Write(&answered)
	if n := w.Dropped(); n != 1 {
		t.Errorf("%d dropped", n)
	}
	for _, bad := range []config.CDR{{Format: "xml"}, {Output: dir}} {
		if _, err := Open(bad, Options{}); err == nil {
			t.Errorf("%+v was opened", bad)
		}
	}
}

// stuck is an output that does not return before it may, and that refuses everything when it is full.
type stuck struct {
	open chan struct{}
	full bool
}

func (s stuck) Write(p []byte) (int, error) {
	<-s.open
	if s.full {
		return 0, errors.New("no space left on device")
	}
	return len(p), nil
}

func TestSlowOutputStallsNoCallAndIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		s := stuck{open: make(chan struct{})}
		w := open(t, config.CDR{Output: "stdout"}, Options{Stdout: s, Buffer: 4096, OnProblem: func(err error) { told = append(told, err.Error()) }})
		w.Write(&answered)
		time.Sleep(time.Second)
		before := time.Now()
		for range 1000 {
			w.Write(&answered)
		}
		if d := time.Since(before); d != 0 {
			t.Errorf("waited %v", d)
		}
		if n := w.Dropped(); n < 900 || n >= 1000 {
			t.Errorf("%d dropped", n)
		}
		if len(told) != 1 || told[0] != "call records: output is too slow, lines lost: 1" {
			t.Errorf("told %q", told)
		}
		close(s.open)
		closed(t, w)
	})
}

func TestFormerOutputsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		s := stuck{open: make(chan struct{}), full: true}
		close(s.open)
		w := open(t, config.CDR{Output: "stdout"}, Options{Stdout: s, OnProblem: func(err error) { told = append(told, err.Error()) }})
		w.Write(&answered)
		w.Write(&answered)
		if err := w.Configure(config.CDR{Output: "none"}); err != nil {
			t.Error(err)
		}
		if n := w.Dropped(); n != 2 || len(told) != 1 || told[0] != "call records: no space left on device, lines lost: 2" {
			t.Errorf("%d dropped, told %q", n, told)
		}
		closed(t, w)
	})
}

func TestAStuckFormerOutputIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		s := stuck{open: make(chan struct{})}
		w := open(t, config.CDR{Output: "stdout"}, Options{Stdout: s, OnProblem: func(err error) { told = append(told, err.Error()) }})
		w.Write(&answered)
		if err := w.Configure(config.CDR{Output: "none"}); err != nil {
			t.Error(err)
		}
		if len(told) != 1 {
			t.Errorf("told %q", told)
		}
		close(s.open)
		synctest.Wait()
		closed(t, w)
	})
}

func TestTheNilWriterWritesNothing(t *testing.T) {
	var w *Writer
	w.Write(&answered)
	w.Flush()
	if err := errors.Join(w.Reopen(), w.Configure(config.CDR{Output: "stdout"}), w.Close()); err != nil || w.Dropped() != 0 {
		t.Errorf("%v, %d dropped", err, w.Dropped())
	}
}

// Run with -race.
func TestManyCallersAndChangesLoseDoubleAndMixNothing(t *testing.T) {
	dir := t.TempDir()
	configs := []config.CDR{
		{Output: filepath.Join(dir, "a.json"), Format: "json"}, {Output: filepath.Join(dir, "b.json"), Format: "json"},
		{Output: filepath.Join(dir, "c.csv"), Format: "csv"}, {Output: filepath.Join(dir, "d.csv"), Format: "csv"},
	}
	w := open(t, configs[0], Options{})
	const callers, each = 4, 500
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			r := answered
			for n := range each {
				r.CallID = strconv.Itoa(i*each + n)
				w.Write(&r)
			}
		})
	}
	wg.Go(func() {
		for i := range 40 {
			if err := errors.Join(w.Configure(configs[i*i%len(configs)]), w.Configure(configs[i%len(configs)]), w.Reopen()); err != nil {
				t.Error(err)
			}
			w.Flush()
		}
	})
	wg.Wait()
	closed(t, w)
	seen := make(map[string]int)
	for _, c := range configs {
		text := contents(t, c.Output)
		read := readJSON
		if c.Format == "csv" {
			read = readCSV
		}
		records, _ := read(t, text)
		for _, r := range records {
			seen[r.CallID]++
		}
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("call %s has %d records", id, n)
		}
	}
	if len(seen) != callers*each || w.Dropped() != 0 {
		t.Errorf("%d records, %d dropped", len(seen), w.Dropped())
	}
}

func FuzzARecordIsOneLineAndReadsBack(f *testing.F) {
	f.Add("8f2c11@192.0.2.10", "sip:jdoe@example.org", "bye")
	f.Add(hostile, strings.Repeat(hostile, 20), `\.`)
	f.Add("", " ", "\"")
	f.Add("a\u2028b", "\xed\xa0\x80", "null")
	f.Add(strings.Repeat("é", maxValue), strings.Repeat("\x80", maxValue), strings.Repeat(`"`, maxValue+1))
	l := newLine()
	f.Fuzz(func(t *testing.T, id, party, reason string) {
		r := Record{CallID: id, From: party, To: reason, RURI: party, Backend: id, Reason: reason, Mode: party, Start: start}
		want := []string{clean(id), clean(party), clean(reason), clean(party), clean(id), clean(reason), clean(party)}
		for _, v := range want {
			if len(v) > maxValue || !utf8.ValidString(v) || strings.ContainsFunc(v, unicode.IsControl) || clean(v) != v {
				t.Fatalf("%q is not clean", v)
			}
		}
		l.encode(&r, "json")
		text := l.String()
		if strings.IndexByte(text, '\n') != len(text)-1 {
			t.Fatalf("not one line: %q", text)
		}
		var o object
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if got := []string{o.CallID, o.From, o.To, o.RURI, o.Backend, o.Reason, o.Mode}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		l.encode(&r, "csv")
		text = l.String()
		if strings.IndexByte(text, '\n') != len(text)-1 || strings.IndexByte(text, '\r') >= 0 {
			t.Fatalf("not one line: %q", text)
		}
		rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
		if err != nil || len(rows) != 1 || len(rows[0]) != 18 {
			t.Fatalf("%q: %d rows, %v", text, len(rows), err)
		}
		if w := rows[0]; !slices.Equal([]string{w[0], w[1], w[2], w[3], w[7], w[15], w[16]}, want) {
			t.Errorf("got %q, want %q", w, want)
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	for _, format := range []string{"json", "csv"} {
		b.Run(format, func(b *testing.B) {
			w := open(b, config.CDR{Output: os.DevNull, Format: format}, Options{})
			defer w.Close()
			b.ReportAllocs()
			for b.Loop() {
				w.Write(&answered)
			}
			b.ReportMetric(float64(w.Dropped())/float64(b.N), "dropped/op")
		})
	}
}
