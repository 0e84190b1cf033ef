package proxy

import (
	"context"
	"errors"
	"sync"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/backend"
	"github.com/sipward/sipward/proxy/resolve"
)

// lookupsAtOnce bounds the look-ups of ResolveBackends that are under way at the same time. A number we chose.
const lookupsAtOnce = 16

// Resolution is where a backend's address leads at the moment.
type Resolution struct {
	Pool, Backend, Address string
	Targets                []string // proto:ip:port, in the order to try
	Err                    error    // nil if there are targets
}

// ResolveBackends looks up every backend of a sound configuration (RFC 3263), by DNS only: nothing is sent to the
// backends. It returns when all answers are there or ctx ends, in the order of the pools' names and of the file.
func ResolveBackends(ctx context.Context, c *config.Config) []Resolution {
	r := newResolver(c.Resolver)
	defer r.Close()
	var all []Resolution
	var queries []resolve.Query
	for _, p := range backend.NewSet(c.Pools, nil, 0).Pools() {
		for _, b := range p.Backends() {
			all = append(all, Resolution{Pool: p.Name(), Backend: b.Name(), Address: b.Address()})
			queries = append(queries, b.Query())
		}
	}
	var running sync.WaitGroup
	places := make(chan struct{}, lookupsAtOnce)
	for i := range all {
		places <- struct{}{}
		running.Go(func() { // ends with the look-up, at the latest with ctx
			defer func() { <-places }()
			targets, err := r.Lookup(ctx, queries[i])
			if errors.Is(err, context.DeadlineExceeded) {
				err = errors.New("no answer in time")
			}
			for _, t := range targets {
				all[i].Targets = append(all[i].Targets, t.Proto.Param()+":"+t.Addr.String())
			}
			all[i].Err = err
		})
	}
	running.Wait()
	return all
}

func newResolver(r config.Resolver) *resolve.Resolver {
	return resolve.New(resolve.Options{
		Servers: r.Servers, HostsFile: r.HostsFile, Timeout: r.Timeout.D(), MinTTL: r.MinTTL.D(), MaxTTL: r.MaxTTL.D(),
		NegativeTTL: r.NegativeTTL.D(), CacheSize: r.CacheSize, MaxPending: r.MaxPending,
	})
}
