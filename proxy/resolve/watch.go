package resolve

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// Watch keeps an eye on q: it calls changed with the first answer, and again
// when the targets are others than before, when a lookup fails and when it
// succeeds again. It asks again shortly before the answer's time to live ends,
// at a time that varies, and after a failure when that may be forgotten. With an
// error changed is given the last good targets, or none.
//
// changed is called on a goroutine of the watch, one call at a time. stop ends
// the watch; a call that has begun may still be running when it returns.
// A query for an IP address is answered once.
func (r *Resolver) Watch(q Query, changed func([]Target, error)) (stop func()) {
	ctx, cancel := context.WithCancel(r.ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return cancel
	}
	w := &watch{r: r, query: q, changed: changed}
	r.wg.Go(func() {
		defer cancel()
		w.run(ctx)
	})
	return cancel
}

// watch is the state of one watch, used by its goroutine only.
type watch struct {
	r       *Resolver
	query   Query
	changed func([]Target, error)
	good    []Target // the last good answer, as it came
	sorted  []Target // the same in an order that does not change
	failing bool
}

func (w *watch) run(ctx context.Context) {
	if t, ok := Literal(w.query); ok {
		w.changed([]Target{t}, nil)
		return
	}
	for {
		targets, err := w.lookup(ctx)
		if ctx.Err() != nil {
			return
		}
		w.note(targets, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(w.pause()):
		}
	}
}

// lookup asks anew, unless the first answer is there already.
func (w *watch) lookup(ctx context.Context) ([]Target, error) {
	if w.good == nil && !w.failing {
		return w.r.Lookup(ctx, w.query)
	}
	return w.r.renew(ctx, w.query)
}

// note tells what is new.
func (w *watch) note(targets []Target, err error) {
	if err != nil {
		if !w.failing {
			w.failing = true
			w.changed(w.good, err)
		}
		return
	}
	sorted := slices.SortedFunc(slices.Values(targets), compare)
	if w.failing || !slices.Equal(sorted, w.sorted) {
		w.failing, w.good, w.sorted = false, targets, sorted
		w.changed(targets, nil)
	}
}

// pause returns how long to wait before asking again: until 80 to 95 % of the
// time to live are over.
func (w *watch) pause() time.Duration {
	ttl := w.r.cache.ttl(w.query, time.Now())
	if ttl <= 0 || w.failing {
		ttl = w.r.o.NegativeTTL // no time to live: failed, refused, or evicted already
	}
	return time.Duration((0.8 + 0.15*rand.Float64()) * float64(ttl))
}

// compare gives targets an order that does not depend on weights and chance.
func compare(a, b Target) int {
	return cmp.Or(cmp.Compare(a.Proto, b.Proto), a.Addr.Compare(b.Addr), cmp.Compare(a.ServerName, b.ServerName))
}

// renew looks q up although the cache may have an answer.
func (r *Resolver) renew(ctx context.Context, q Query) ([]Target, error) {
	type result struct {
		targets []Target
		err     error
	}
	c := make(chan result, 1)
	r.mu.Lock()
	err := r.askLocked(q, func(t []Target, err error) { c <- result{t, err} })
	r.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case res := <-c:
		return res.targets, res.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
