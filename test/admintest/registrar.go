package admintest

import (
	"strings"
	"sync"

	"github.com/sipward/sipward/proxy"
)

// Registrar is an edge that knows registrations. The zero value has none.
type Registrar struct {
	mu    sync.Mutex // guards what follows
	all   []proxy.RegistrationInfo
	stats proxy.RegistrationStats
}

// SetRegistrations replaces all registrations; the figures follow.
func (e *Registrar) SetRegistrations(all []proxy.RegistrationInfo) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append([]proxy.RegistrationInfo(nil), all...)
	e.stats = proxy.RegistrationStats{Registered: len(all), Flows: len(all), Capacity: 100, Added: uint64(len(all))}
}

func (e *Registrar) Registrations(f proxy.RegistrationFilter) (all []proxy.RegistrationInfo) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.all {
		if f.ID != "" && f.ID != r.ID || f.AoR != "" && f.AoR != r.AoR || f.Backend != "" && f.Backend != r.Backend ||
			!strings.Contains(r.AoR+"\n"+r.Contact+"\n"+r.UA, f.Text) || !isFrom(r.Flow, f.Source) {
			continue
		}
		if all = append(all, r); len(all) == f.Limit {
			break
		}
	}
	return all
}

// isFrom tells whether a flow is one of an address; of none, all are.
func isFrom(flow, address string) bool {
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	_, source, _ := strings.Cut(flow, ":")
	return address == "" || strings.HasPrefix(source, address+":")
}

func (e *Registrar) RegistrationStats() proxy.RegistrationStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stats
}
