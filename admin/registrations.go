package admin

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/sipward/sipward/proxy"
)

// RegistrationList is the answer to GET /v1/registrations.
type RegistrationList struct {
	Registrations []proxy.RegistrationInfo `json:"registrations"`
	More          bool                     `json:"more"` // others match, beyond the limit
}

func (s *Server) listRegistrations(r *http.Request) answer {
	f, err := registrationFilterOf(r.URL.RawQuery)
	if err != nil {
		return refuse(http.StatusBadRequest, "%v", err)
	}
	var l RegistrationList
	l.Registrations, l.More = upTo(f.Limit, func(n int) []proxy.RegistrationInfo {
		f.Limit = n
		return s.edge.Registrations(f)
	})
	return say(http.StatusOK, l)
}

// registrationFilterKeys are what GET /v1/registrations takes.
var registrationFilterKeys = []string{"aor", "text", "source", "backend", "limit"}

// registrationFilterOf reads the query of GET /v1/registrations.
func registrationFilterOf(query string) (proxy.RegistrationFilter, error) {
	var f proxy.RegistrationFilter
	values, err := queryOf(query, registrationFilterKeys)
	if err != nil {
		return f, err
	}
	f.AoR, f.Text, f.Backend = values.Get("aor"), values.Get("text"), values.Get("backend")
	if source := values.Get("source"); source != "" {
		a, err := netip.ParseAddr(source)
		if err != nil {
			return f, fmt.Errorf("source %q: want an IP address", source)
		}
		f.Source = a.Unmap().String()
	}
	f.Limit, err = limitOf(values)
	return f, err
}

func (s *Server) showRegistration(r *http.Request) answer {
	all := s.edge.Registrations(proxy.RegistrationFilter{ID: r.PathValue("id"), Limit: 1})
	if len(all) == 0 {
		return refuse(http.StatusNotFound, "no such registration; it may have expired")
	}
	return say(http.StatusOK, all[0])
}

func (s *Server) registrationStats(*http.Request) answer {
	return say(http.StatusOK, s.edge.RegistrationStats())
}

// Registrations lists the registrations that match, by address of record. A Limit of
// zero is DefaultLimit; an ID finds at most one.
func (c *Client) Registrations(ctx context.Context, f proxy.RegistrationFilter) (RegistrationList, error) {
	var l RegistrationList
	if f.ID != "" {
		var one proxy.RegistrationInfo
		found, err := c.find(ctx, http.MethodGet, "/v1/registrations/"+element(f.ID), &one)
		if found {
			l.Registrations = append(l.Registrations, one)
		}
		return l, err
	}
	path := listing("/v1/registrations", map[string]string{
		"aor": f.AoR, "text": f.Text, "source": f.Source, "backend": f.Backend, "limit": limitText(f.Limit),
	})
	err := c.ask(ctx, http.MethodGet, path, nil, &l)
	return l, err
}

// RegistrationStats returns the figures of registrations since the start of the edge.
func (c *Client) RegistrationStats(ctx context.Context) (proxy.RegistrationStats, error) {
	var s proxy.RegistrationStats
	err := c.ask(ctx, http.MethodGet, "/v1/registration_stats", nil, &s)
	return s, err
}
