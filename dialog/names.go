package dialog

import (
	"sync"
	"sync/atomic"

	"github.com/sipward/sipward/proxy/wire"
)

// names interns header values that many endpoints share (Allow, Supported), so that a
// dialog keeps two bytes of each, and what they list is looked up once. Each is there
// as long as a dialog holds it: what strangers send must not fill the table for good.
// Bounded: what does not fit is not known.
type names struct {
	mu   sync.RWMutex
	of   map[string]uint16
	all  []*name
	free []uint16
}

type name struct {
	text    string
	updates bool // lists UPDATE
	holders atomic.Int32
}

const (
	maxNames   = 4096
	maxNameLen = 512
)

func (n *names) init() { n.of, n.all = map[string]uint16{"": 0}, []*name{{}} }

// swap holds a value in place of the one that is held; 0 is none, and what is not kept.
func (n *names) swap(old uint16, v []byte) uint16 {
	if old != 0 && n.get(old) == string(v) {
		return old
	}
	i := n.hold(v)
	n.release(old)
	return i
}

func (n *names) hold(v []byte) uint16 {
	if len(v) == 0 || len(v) > maxNameLen {
		return 0
	}
	n.mu.RLock()
	i, ok := n.of[string(v)]
	if ok {
		n.all[i].holders.Add(1)
	}
	n.mu.RUnlock()
	if ok {
		return i
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	i, ok = n.of[string(v)]
	if !ok {
		if i, ok = n.placeLocked(); !ok {
			return 0
		}
		n.all[i] = &name{text: string(v), updates: wire.HasToken(v, []byte("UPDATE"))}
		n.of[n.all[i].text] = i
	}
	n.all[i].holders.Add(1)
	return i
}

func (n *names) placeLocked() (uint16, bool) {
	if k := len(n.free); k > 0 {
		i := n.free[k-1]
		n.free = n.free[:k-1]
		return i, true
	}
	if len(n.all) >= maxNames {
		return 0, false
	}
	n.all = append(n.all, nil)
	return uint16(len(n.all) - 1), true
}

// share holds a value once more.
func (n *names) share(i uint16) uint16 {
	if i != 0 {
		n.mu.RLock()
		defer n.mu.RUnlock()
		n.all[i].holders.Add(1)
	}
	return i
}

// release is told that a dialog does not hold a value any more.
func (n *names) release(i uint16) {
	if i == 0 {
		return
	}
	n.mu.RLock()
	x := n.all[i]
	isLast := x.holders.Add(-1) == 0
	n.mu.RUnlock()
	if !isLast {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.all[i] == x && x.holders.Load() == 0 { // nobody came in between
		delete(n.of, x.text)
		n.all[i] = nil
		n.free = append(n.free, i)
	}
}

func (n *names) get(i uint16) string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.all[i].text
}

func (n *names) listsUpdate(i uint16) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.all[i].updates
}

// releaseLocked lets go of what the dialog shares with others; it is not used any more.
func (d *Dialog) releaseLocked() {
	for l := range d.leg {
		x, names := &d.leg[l], &d.call.store.names
		names.release(x.allow)
		names.release(x.supported)
		x.allow, x.supported = 0, 0
	}
}
