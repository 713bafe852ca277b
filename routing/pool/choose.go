package pool

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// Choose returns the endpoint among candidates that the next attempt of the
// call in ctx should go to, or nil if there are none. It takes the cheaper of
// two that it draws at random, from those that are not ejected, and of these
// from those that the call has not tried yet, as far as there are any. See the
// package documentation for costs and ejection.
//
// It takes no lock, does not allocate, and is safe for concurrent use. It
// changes nothing: [Endpoint.Begin] must follow.
func (p *Pool) Choose(ctx context.Context, candidates []*Endpoint) *Endpoint {
	return p.choose(ctx, p.clock(time.Now()), candidates)
}

func (p *Pool) choose(ctx context.Context, now int64, candidates []*Endpoint) *Endpoint {
	n := len(candidates)
	switch n {
	case 0:
		return nil
	case 1:
		return candidates[0]
	}
	f := filter{now: now, ejected: p.anyOut(now)}
	if c := gatemesh.FromContext(ctx); c != nil && c.Attempt() > 1 {
		f.again = ctx
	}
	if f.ejected {
		out := 0
		for _, e := range candidates {
			if e.out.Load() > now {
				out++
			}
		}
		// Beyond the ceiling, the few that are in could not carry the load.
		f.ejected = out > 0 && out <= mayBeOut(n, p.state.Load().version.Ejection.MaxPercent)
	}
	i, j := draw(n)
	if a, b := candidates[i], candidates[j]; f.passes(a) && f.passes(b) {
		return cheaper(now, a, b)
	}
	return rare(now, candidates, f)
}

// rare is choose where some candidates are to be left out.
func rare(now int64, candidates []*Endpoint, f filter) *Endpoint {
	for {
		passing := 0
		for _, e := range candidates {
			if f.passes(e) {
				passing++
			}
		}
		switch {
		case passing >= 2:
			i, j := draw(passing)
			a, b := nth(candidates, i, j, f)
			return cheaper(now, a, b)
		case passing == 1:
			a, _ := nth(candidates, 0, -1, f)
			return a
		case f.again != nil:
			f.again = nil // tried, but not known to be bad
		default:
			f.ejected = false
		}
	}
}

// draw returns two different numbers below n, in random order.
func draw(n int) (i, j int) {
	i, j = rand.IntN(n), rand.IntN(n-1)
	if j >= i {
		j++
	}
	return i, j
}

// nth returns the endpoints number i and j of those that pass f. If others were
// ejected in the meantime, it returns what passed last, or anything.
func nth(candidates []*Endpoint, i, j int, f filter) (a, b *Endpoint) {
	last := candidates[0]
	n := 0
	for _, e := range candidates {
		if !f.passes(e) {
			continue
		}
		if n == i {
			a = e
		}
		if n == j {
			b = e
		}
		last = e
		n++
	}
	if a == nil {
		a = last
	}
	if b == nil {
		b = last
	}
	return a, b
}

// filter says which endpoints are left out. The zero filter lets all pass.
type filter struct {
	now     int64
	ejected bool            // leave out those that are ejected
	again   context.Context // of a call that is tried again, whose endpoints are left out; nil for others
}

func (f *filter) passes(e *Endpoint) bool {
	return !(f.ejected && e.out.Load() > f.now) && !(f.again != nil && gatemesh.TriedEndpoint(f.again, e.addr))
}

// cheaper returns a or b. An endpoint costs its average latency for each
// attempt in flight and the new one.
//
// One without a sample gets a first attempt before all others, and until that
// is answered counts as twice as slow as what it is compared with: it is not
// flooded before it has shown anything, and not starved if its first attempt is
// a stream that never shows a latency. One that failed before it had a sample,
// as a pod that was in the DNS before it listened, gets another first attempt
// after a while.
func cheaper(now int64, a, b *Endpoint) *Endpoint {
	loadA, loadB := float64(a.inflight.Load()), float64(b.inflight.Load())
	slowA, slowB := a.latency.at(now), b.latency.at(now)
	newA, newB := slowA == 0, slowB == 0
	switch {
	case newA && newB:
		// Equal but for what failed, and the load.
		slowA, slowB = 1+float64(a.failures.Load()), 1+float64(b.failures.Load())
	case newA:
		if loadA == 0 && a.untried(now) {
			return a
		}
		slowA = 2 * slowB
	case newB:
		if loadB == 0 && b.untried(now) {
			return b
		}
		slowB = 2 * slowA
	}
	if slowB*(loadB+1) < slowA*(loadA+1) {
		return b
	}
	return a
}

// untried reports whether e, which has no sample, is to have its first attempt
// or, if that failed, another one: when it is back from an ejection, or else in
// a second, and twice as late after each further failure, up to a minute.
func (e *Endpoint) untried(now int64) bool {
	n := e.failures.Load()
	if n == 0 {
		return true
	}
	at := e.failedAt.Load()
	due := at + int64(min(time.Second<<min(n-1, 6), time.Minute))
	if out := e.out.Load(); out > at {
		due = out
	}
	return now >= due
}
