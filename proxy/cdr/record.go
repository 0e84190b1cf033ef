package cdr

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Record is a call that ended. The doc of the package tells what the fields mean.
type Record struct {
	CallID, From, To, RURI, Src, Transport, Pool, Backend string

	Start, Answer, End time.Time // Answer is zero for a call that failed
	Setup, Duration    time.Duration
	Status             int
	EndedBy, Reason    string
	Mode               string
	LastVerified       time.Time // zero: never
}

// names are the columns of a CSV file and the keys of a JSON object, in their order.
const names = "call_id,from,to,ruri,src,transport,pool,backend,start,answer,end,setup_ms,duration,status,ended_by,reason,mode,last_verified\n"

// object is a record on its way into JSON.
type object struct {
	CallID       string      `json:"call_id"`
	From         string      `json:"from"`
	To           string      `json:"to"`
	RURI         string      `json:"ruri"`
	Src          string      `json:"src"`
	Transport    string      `json:"transport"`
	Pool         string      `json:"pool"`
	Backend      string      `json:"backend"`
	Start        *string     `json:"start"`
	Answer       *string     `json:"answer"`
	End          *string     `json:"end"`
	Setup        int64       `json:"setup_ms"`
	Duration     json.Number `json:"duration"`
	Status       int         `json:"status"`
	EndedBy      string      `json:"ended_by"`
	Reason       string      `json:"reason"`
	Mode         string      `json:"mode"`
	LastVerified *string     `json:"last_verified"`
}

// line is a scratch buffer for one record with its encoders; pooled.
type line struct {
	bytes.Buffer
	json *json.Encoder
	csv  *csv.Writer
}

var lines = sync.Pool{New: func() any { return newLine() }}

func newLine() *line {
	l := &line{}
	l.json, l.csv = json.NewEncoder(&l.Buffer), csv.NewWriter(&l.Buffer)
	l.json.SetEscapeHTML(false)
	return l
}

// encode leaves the record in the buffer, with its line feed. Plain values into a buffer: no encoder can fail.
func (l *line) encode(r *Record, format string) {
	l.Reset()
	if format == "csv" {
		_ = l.csv.Write([]string{
			clean(r.CallID), clean(r.From), clean(r.To), clean(r.RURI), clean(r.Src), clean(r.Transport), clean(r.Pool), clean(r.Backend),
			stamp(r.Start), stamp(r.Answer), stamp(r.End), strconv.FormatInt(milliseconds(r.Setup), 10), seconds(r.Duration),
			strconv.Itoa(r.Status), clean(r.EndedBy), clean(r.Reason), clean(r.Mode), stamp(r.LastVerified),
		})
		l.csv.Flush()
		return
	}
	_ = l.json.Encode(&object{
		CallID: clean(r.CallID), From: clean(r.From), To: clean(r.To), RURI: clean(r.RURI), Src: clean(r.Src),
		Transport: clean(r.Transport), Pool: clean(r.Pool), Backend: clean(r.Backend),
		Start: orNull(stamp(r.Start)), Answer: orNull(stamp(r.Answer)), End: orNull(stamp(r.End)),
		Setup: milliseconds(r.Setup), Duration: json.Number(seconds(r.Duration)), Status: r.Status,
		EndedBy: clean(r.EndedBy), Reason: clean(r.Reason), Mode: clean(r.Mode), LastVerified: orNull(stamp(r.LastVerified)),
	})
}

// stamp is a time in RFC 3339, UTC, milliseconds; empty for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func milliseconds(d time.Duration) int64 { return max(0, d).Milliseconds() }

func seconds(d time.Duration) string {
	return strconv.FormatFloat(float64(milliseconds(d))/1000, 'f', 3, 64)
}

const (
	maxValue = 512 // bytes of one value
	ellipsis = "…" // ends a value that was longer
)

// clean makes a value from the network fit for one line, see the package's doc.
func clean(s string) string {
	if isPlain(s) {
		return s
	}
	var b strings.Builder
	end := 0 // where the value ends if it is too long
	for _, c := range s {
		if unicode.IsControl(c) || c == '\u2028' || c == '\u2029' {
			c = utf8.RuneError
		}
		if b.Len()+utf8.RuneLen(c) > maxValue {
			return b.String()[:end] + ellipsis
		}
		b.WriteRune(c)
		if b.Len() <= maxValue-len(ellipsis) {
			end = b.Len()
		}
	}
	return b.String()
}

// isPlain says that a value may stay as it is; nearly all may.
func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return len(s) <= maxValue
}
