package resolve

import (
	"bufio"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxHostsFile bounds what is read of a hosts file.
const maxHostsFile = 4 << 20

// hosts knows the names of a hosts file, and reads it anew when it has changed.
type hosts struct {
	path string // empty: none

	mu       sync.Mutex // guards all below; held while reading, never by Cached
	modified time.Time
	size     int64
	names    map[string][]netip.Addr
}

// lookup returns the addresses of a name, IPv4 first, or none. The slice is
// shared.
func (h *hosts) lookup(name string) []netip.Addr {
	if h.path == "" {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refreshLocked()
	return h.names[name]
}

// refreshLocked reads the file if it is not as it was. A file that cannot be
// read has no names.
func (h *hosts) refreshLocked() {
	info, err := os.Stat(h.path)
	if err != nil {
		h.names, h.modified = nil, time.Time{}
		return
	}
	if h.names != nil && info.ModTime().Equal(h.modified) && info.Size() == h.size {
		return
	}
	f, err := os.Open(h.path)
	if err != nil {
		h.names, h.modified = nil, time.Time{}
		return
	}
	defer f.Close()
	h.names, h.modified, h.size = readHosts(io.LimitReader(f, maxHostsFile)), info.ModTime(), info.Size()
}

func readHosts(r io.Reader) map[string][]netip.Addr {
	names := map[string][]netip.Addr{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		a, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, f := range fields[1:] {
			name := hostName([]byte(f))
			if len(names[name]) < 2*maxAddresses && !slices.Contains(names[name], a.Unmap()) {
				names[name] = append(names[name], a.Unmap())
			}
		}
	}
	for _, list := range names {
		slices.SortStableFunc(list, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	}
	return names
}
