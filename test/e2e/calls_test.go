package e2e

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/admin"
	"github.com/sipward/sipward/test/siptest"
)

// ended waits for the edge's BYE at both ends and answers it.
func (x *exchange) ended() (atCaller, atNode *siptest.Message) {
	x.t.Helper()
	ctx := within(x.t, 60*time.Second)
	take := func(box *siptest.Box) *siptest.Message {
		m, err := box.Wait(ctx)
		if err != nil || m.Status() != 0 || m.Method() != "BYE" {
			x.t.Fatalf("want BYE, got %v, %v", m, err)
		}
		x.respond(m, 200, "OK", "")
		return m
	}
	return take(x.atCaller), take(x.atNode)
}

// TestReloadOfTimersTouchesNewCallsOnly: a call keeps the limits of the configuration that it
// began under, whether they become longer or shorter.
func TestReloadOfTimersTouchesNewCallsOnly(t *testing.T) {
	t.Parallel()
	limit := func(seconds int) string {
		return quick + fmt.Sprintf("timers: { session_ttl: 1, min_se: 1, no_timer_call_duration: %d }\n", seconds)
	}
	h := newHop(t, "udp", settings{top: limit(4)})
	h.node.Absorb()
	h.caller.Absorb()
	reload := func(seconds int) {
		s := settings{listen: []string{"udp:" + h.addr.String()}, backends: []string{h.node.URI("")}, top: limit(seconds)}
		h.edge.Write(s.yaml())
		if line := h.edge.Reload(); !strings.Contains(line, "no_timer_call_duration") {
			t.Fatalf("the reload says %q", line)
		}
	}
	list := func() (l admin.CallList) {
		ask(t, h.edge, &l, "calls", "list")
		return l
	}
	begin := func() (x *exchange, began time.Time) {
		x, began = h.begin(t, "INVITE"), time.Now()
		talk(x)
		return x, began
	}
	first, began := begin()
	reload(600)
	second, _ := begin()
	first.ended()
	if took := time.Since(began); took < 4*time.Second {
		t.Errorf("the first call ended after %s, before its limit", took)
	}
	reload(3)
	third, began := begin()
	third.ended()
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("the third call ended after %s, before its limit", took)
	}
	until(t, "one call left", func() bool { return len(list().Calls) == 1 })
	left := list().Calls[0]
	if left.CallID != second.req.CallID() || left.EndsBy != "no_timer_call_duration" || left.Ends.Sub(left.Answer).Round(time.Second) != 600*time.Second {
		t.Errorf("left is %+v", left)
	}
	if n := second.atNode.Len() + second.atCaller.Len(); n != 0 {
		t.Errorf("%d messages for the second call", n)
	}
}

// columns are those of a call record, in their order.
var columns = []string{
	"call_id", "from", "to", "ruri", "src", "transport", "pool", "backend", "start", "answer", "end",
	"setup_ms", "duration", "status", "ended_by", "reason", "mode", "last_verified",
}

// fromCSV reads a whole file of records, with its header line, as JSON would have it.
func fromCSV(t *testing.T, text string) []record {
	t.Helper()
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) == 0 || !reflect.DeepEqual(rows[0], columns) {
		t.Fatalf("header line of %q", text)
	}
	var out []record
	for _, row := range rows[1:] {
		object := map[string]any{}
		for i, v := range row {
			n, err := strconv.ParseFloat(v, 64)
			switch number := columns[i] == "setup_ms" || columns[i] == "duration" || columns[i] == "status"; {
			case number && err != nil:
				t.Fatalf("%s is %q", columns[i], v)
			case number:
				object[columns[i]] = n
			case v != "":
				object[columns[i]] = v
			}
		}
		b, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		var r record
		if err := json.Unmarshal(b, &r); err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// fromJSON reads lines of records, each with all fields in their order.
func fromJSON(t *testing.T, lines []string) []record {
	t.Helper()
	out := make([]record, len(lines))
	for i, line := range lines {
		if err := json.Unmarshal([]byte(line), &out[i]); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		var keys []string
		d := json.NewDecoder(strings.NewReader(line))
		for depth, isKey := 0, true; ; {
			token, err := d.Token()
			if err != nil {
				break
			}
			if _, ok := token.(json.Delim); ok {
				depth++
				continue
			}
			if isKey && depth == 1 {
				keys = append(keys, token.(string))
			}
			isKey = !isKey
		}
		if !reflect.DeepEqual(keys, columns) {
			t.Errorf("fields %v, want %v", keys, columns)
		}
	}
	return out
}

// TestCallRecords: every call that ended has one record with what it was, answered or not, in
// either format, in a file or on standard output; a file that was renamed is left with SIGHUP
// and a new one begun; and a search for a Call-ID in the log shows the whole call.
func TestCallRecords(t *testing.T) {
	for _, test := range []struct{ output, format string }{{"file", "json"}, {"file", "csv"}, {"stdout", "json"}} {
		t.Run(test.format+" to "+test.output, func(t *testing.T) {
			path := "stdout"
			if test.output == "file" {
				path = filepath.Join(t.TempDir(), "calls")
			}
			h := newHop(t, "udp", settings{top: recordsTo(path, test.format)})
			begun := time.Now().Add(-time.Millisecond)

			answered := h.begin(t, "INVITE")
			ok := talk(answered)
			answered.send(answered.inside(ok, "BYE", 2))
			bye := answered.nodeGets("BYE")
			answered.respond(bye, 200, "OK", "")
			answered.callerGets(200, "BYE")
			rotated := ""
			if test.output == "file" {
				lines := 1
				if test.format == "csv" {
					lines = 2
				}
				linesOf(t, path, lines)
				rotated = path + ".1"
				if err := os.Rename(path, rotated); err != nil {
					t.Fatal(err)
				}
				h.edge.Reload()
			}

			rejected := h.begin(t, "INVITE")
			rejected.reject(rejected.invite(), 486)

			cancelled := h.begin(t, "INVITE")
			got := cancelled.invite()
			cancelled.respond(got, 180, "Ringing", "n1")
			cancelled.callerGets(180, "INVITE")
			cancelled.send(cancelled.cancel())
			cancelled.callerGets(200, "CANCEL")
			endByCancel(cancelled, got, false)

			var records []record
			switch {
			case test.output == "stdout":
				var lines []string
				until(t, "three records among the lines", func() bool {
					lines = nil
					for _, l := range h.edge.Lines() {
						if strings.HasPrefix(l, `{"call_id":`) {
							lines = append(lines, l)
						}
					}
					return len(lines) >= 3
				})
				records = fromJSON(t, lines)
			case test.format == "csv":
				records = fromCSV(t, strings.Join(linesOf(t, rotated, 2), "\n"))
				records = append(records, fromCSV(t, strings.Join(linesOf(t, path, 3), "\n"))...)
			default:
				records = fromJSON(t, append(linesOf(t, rotated, 1), linesOf(t, path, 2)...))
			}
			wants := []record{
				{CallID: answered.req.CallID(), Status: 200, EndedBy: "caller", Reason: "bye", Mode: "N"},
				{CallID: rejected.req.CallID(), Status: 486, EndedBy: "callee", Reason: "rejected"},
				{CallID: cancelled.req.CallID(), Status: 487, EndedBy: "caller", Reason: "cancel"},
			}
			if len(records) != len(wants) {
				t.Fatalf("%d records, want %d: %+v", len(records), len(wants), records)
			}
			for i, r := range records {
				if r.Start.Before(begun.Truncate(time.Millisecond)) || r.End.Before(r.Start) || r.End.After(time.Now()) || r.SetupMS < 0 || r.SetupMS > 60000 {
					t.Errorf("times of %+v", r)
				}
				if (i == 0) != (!r.Answer.IsZero()) || i > 0 && r.Duration != 0 {
					t.Errorf("answered? %+v", r)
				}
				want := wants[i]
				want.From, want.To, want.RURI = "sip:caller@siptest.example", "sip:callee@siptest.example", "sip:bob@siptest.example"
				want.Source, want.Transport, want.Pool, want.Backend = h.caller.Addr().String(), "udp", "pbx", h.node.Addr().String()
				want.Start, want.Answer, want.End, want.SetupMS, want.Duration, want.LastVerified = r.Start, r.Answer, r.End, r.SetupMS, r.Duration, r.LastVerified
				if r != want {
					t.Errorf("got  %+v\nwant %+v", r, want)
				}
			}
			wholeCall(t, h.edge, answered.req.CallID(), "bye", "M=INVITE", "Relaying request - M=INVITE", "S=200 - OK M=INVITE", "M=ACK", "M=BYE", "S=200 - OK M=BYE")
			wholeCall(t, h.edge, rejected.req.CallID(), "rejected", "M=INVITE", "S=486 - No M=INVITE")
			wholeCall(t, h.edge, cancelled.req.CallID(), "cancel", "M=INVITE", "S=180 - Ringing M=INVITE", "M=CANCEL", "S=487")
		})
	}
}

// wholeCall checks that a search for a Call-ID finds these lines in this order, and one that the
// call has ended.
func wholeCall(t *testing.T, edge *siptest.Edge, callID, reason string, wants ...string) {
	t.Helper()
	ended := func(l string) bool {
		return strings.Contains(l, "Call ended - C="+reason+" ") && strings.HasSuffix(l, "ID="+callID)
	}
	if _, err := edge.WaitLine(within(t, soon), 0, ended); err != nil {
		t.Fatalf("no line of the end of %s: %v", callID, err)
	}
	found, ends := 0, 0
	for _, l := range edge.Lines() {
		if !strings.Contains(l, "ID="+callID) {
			continue
		}
		if ended(l) {
			ends++
		}
		if found < len(wants) && strings.Contains(l, wants[found]) {
			found++
		}
	}
	if found != len(wants) || ends != 1 {
		t.Errorf("the log of %s has no %q after the %d before; %d ends", callID, wants[min(found, len(wants)-1)], found, ends)
	}
}

// TestNothingIsLeftOfManyCalls: calls that end in every way there is, at random, hundreds a
// second. Afterwards the edge knows of none, each has one record, and the figures add up.
func TestNothingIsLeftOfManyCalls(t *testing.T) {
	rate, total := 500, 5000
	if siptest.Race {
		rate, total = 80, 800
	}
	const why = "no_timer_call_duration"
	records := filepath.Join(t.TempDir(), "calls")
	nodes := []*siptest.Answerer{newAnswerer(t, "one", nodeA), newAnswerer(t, "two", nodeB)}
	addr := freeAddr(t)
	edge := siptest.StartEdge(t, settings{
		listen: []string{"udp:" + addr.String()}, backends: []string{nodes[0].URI(), nodes[1].URI()}, pool: "    policy: least_calls\n",
		// Long enough for a loaded machine to let the others hang up before.
		top: "lab: yes\ntransaction: { t1: 0.1, t2: 0.8, t4: 0.8, timer_b: 6.4 }\ntimers: { session_ttl: 2, min_se: 1, no_timer_call_duration: 10 }\nlog: { requests: no, replies: no }\n" + recordsTo(records, "json"),
	}.yaml())
	random := rand.New(rand.NewPCG(3, 4))
	// The window keeps a machine that is too slow for this rate from being flooded.
	load := &siptest.Load{Target: addr, Rate: rate, Calls: total, Hold: 500 * time.Millisecond, Window: 20, Ending: func(int) siptest.Ending {
		if random.IntN(20) == 0 { // few, for each BYE of theirs is sent a dozen times
			return siptest.BothVanish
		}
		return siptest.Ending(random.IntN(int(siptest.BothVanish)))
	}}
	calls, err := load.Run(within(t, 2*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	until(t, "no call left", func() bool {
		var left admin.CallList
		ask(t, edge, &left, "calls", "list", "--limit", "1")
		return len(left.Calls) == 0
	})
	var backends admin.BackendList
	ask(t, edge, &backends, "backends", "list")
	for _, b := range backends.Backends {
		if b.Calls != 0 {
			t.Errorf("%s still has %d calls", b.Name, b.Calls)
		}
	}
	stats := statsOf(t, edge)

	wants := [siptest.Endings]record{
		siptest.CallerHangsUp: {Status: 200, EndedBy: "caller", Reason: "bye"},
		siptest.CalleeHangsUp: {Status: 200, EndedBy: "callee", Reason: "bye"},
		siptest.CallerCancels: {Status: 487, EndedBy: "caller", Reason: "cancel"},
		siptest.CalleeRejects: {Status: 486, EndedBy: "callee", Reason: "rejected"},
		siptest.NobodyHangsUp: {Status: 200, EndedBy: "edge", Reason: why},
		siptest.BothVanish:    {Status: 200, EndedBy: "edge", Reason: why},
	}
	placed := map[string]siptest.Ending{}
	ended, answered := map[string]uint64{}, 0
	for _, c := range calls {
		placed[c.CallID] = c.Ending
		ended[wants[c.Ending].Reason]++
		if wants[c.Ending].Status == 200 {
			answered++
		}
	}
	if len(placed) != total || stats.Concurrent != 0 || stats.Ringing != 0 || len(stats.Modes) != 0 || stats.Attempts != uint64(total) || stats.Answered != uint64(answered) || !maps.Equal(stats.Ended, ended) {
		t.Errorf("%d calls, %d answered, ended %v; the edge says %+v", len(placed), answered, ended, stats)
	}
	edge.Stop() // everything is written
	seen, bad := map[string]bool{}, 0
	for _, r := range recordsOf(t, records, total) {
		ending, known := placed[r.CallID]
		want := wants[ending]
		if known && !seen[r.CallID] && r.Status == want.Status && r.EndedBy == want.EndedBy && r.Reason == want.Reason &&
			(r.Reason != why || r.Duration >= 10) && (r.Status == 200) == !r.Answer.IsZero() {
			seen[r.CallID] = true
			continue
		}
		if bad++; bad < 10 {
			t.Errorf("%s call, seen before %v: %+v", ending, seen[r.CallID], r)
		}
	}
	t.Logf("%d calls: %v", total, ended)
}
