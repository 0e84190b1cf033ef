package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

// TestCallOutlivesAKilledEdge: the process is killed amid a call whose CSeq numbers it has
// shifted. The next one goes on with refreshes; what either party sends is accepted by the other,
// which is strict; the call has one record, from its beginning to its end.
func TestCallOutlivesAKilledEdge(t *testing.T) {
	t.Parallel()
	for _, hangsUp := range []string{"caller", "callee"} {
		t.Run(hangsUp+" hangs up", func(t *testing.T) {
			t.Parallel()
			state := filepath.Join(t.TempDir(), "state")
			top := everyHalfSecond + fmt.Sprintf("state_file: %q\n", state)
			o := siptest.PartyOptions{Lines: timerLines, Timer: true}
			c := newConversation(t, "udp", top, o, o).call()
			answered := time.Now()
			ctx := within(t, 90*time.Second)
			talk := func() {
				c.refreshed("UPDATE")
				c.request(ctx, c.a, "INFO", 200)
				c.request(ctx, c.b, "INFO", 200)
				c.refreshed("UPDATE")
			}
			talk()
			until(t, "the call is in the file", func() bool {
				data, err := os.ReadFile(state)
				return err == nil && strings.Contains(string(data), c.a.CallID())
			})
			c.edge.Kill()
			if data, err := os.ReadFile(c.records); err != nil || len(data) > 0 {
				t.Fatalf("call records before the end: %q, %v", data, err)
			}
			c.edge = siptest.StartEdge(t, settings{
				listen: []string{"udp:" + c.addr.String()}, backends: []string{c.atB.URI("")}, top: top + recordsTo(c.records, "json"),
			}.yaml())
			if !strings.Contains(c.edge.Output(), "1 calls restored from "+state+", 0 skipped") {
				t.Errorf("no line of the restored call:\n%s", c.edge.Output())
			}
			talk()
			talk()
			lasted := time.Since(answered)
			if hangsUp == "caller" {
				c.request(ctx, c.a, "BYE", 200)
			} else {
				c.request(ctx, c.b, "BYE", 200)
			}
			c.recorded(hangsUp, "bye", "R", lasted.Truncate(time.Second))
			c.edge.Stop()
			c.recorded(hangsUp, "bye", "R", lasted.Truncate(time.Second))
		})
	}
}
