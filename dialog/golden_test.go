package dialog

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/proxy/wire"
)

// TestStatesOfVersion1AreReadForGood: the bytes in testdata/state are those of the first build that wrote them. They stay
// as they are; a new layout is a new version.
func TestStatesOfVersion1AreReadForGood(t *testing.T) {
	for name, lives := range map[string]func(l *lab){
		"answered": func(l *lab) { l.talks("", "") },
		"probed": func(l *lab) {
			l.talks(labTimer+labUpdate, labTimer+labUpdate)
			l.does(B, "INFO", 50, 200)
			l.refreshes(wire.UPDATE, "", "")
			l.does(A, "INFO", 2, 200)
		},
		"ending": func(l *lab) {
			l.talks(labTimer, "")
			l.until(l.call.answered + 300*time.Second)
			l.asks(A, "BYE", 2, "", "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			want, err := os.ReadFile(filepath.Join("testdata", "state", name+".hex"))
			if err != nil {
				t.Fatal(err)
			}
			l := newLab(t)
			lives(l)
			state, ok := l.call.AppendState(nil, l.wall)
			if got := hex.EncodeToString(state); !ok || got != strings.TrimSpace(string(want)) {
				t.Errorf("written %s\nwant    %s", got, want)
			}
			kept, err := hex.DecodeString(strings.TrimSpace(string(want)))
			if err != nil {
				t.Fatal(err)
			}
			n := newLab(t)
			r := l.restorer(n, 0, 1000)
			if !r.Call(l.call.id, kept) {
				t.Fatal("not read")
			}
			r.Finish()
			c := n.s.Get(l.call.id)
			if c.answered-c.began != l.call.answered-l.call.began || c.backend != l.call.backend || c.first.texts.get(callID) == nil ||
				string(c.first.texts.get(callID)) != string(l.call.first.texts.get(callID)) || c.first.leg[B].allow == 0 != (l.call.first.leg[B].allow == 0) {
				t.Errorf("read: %+v", c)
			}
		})
	}
}
