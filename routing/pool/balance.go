package pool

import (
	"context"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// draws is how often a draw by weights is made anew before all are looked at.
const draws = 8

// pick returns a member of g as b says, or nil if g has none, or none but those
// that the call in again, which may be nil, was tried at. turn counts the picks
// of round robin.
func (g *group) pick(b Balancer, turn *atomic.Uint64, again context.Context) *Endpoint {
	if len(g.members) == 0 {
		return nil
	}
	if b == RoundRobin {
		return g.next(turn, again)
	}
	i, j := g.pair(b, again)
	if i < 0 {
		return nil
	}
	switch {
	case j < 0:
		return g.members[i].Endpoint
	case b == LeastRequest:
		return lessLoaded(&g.members[i], &g.members[j])
	}
	return cheaper(&g.members[i], &g.members[j])
}

// pair returns the numbers of two different members by chance and weight, or of
// one and -1 if there is no other, or one is enough for b.
func (g *group) pair(b Balancer, again context.Context) (i, j int) {
	n := uint64(len(g.members))
	if n > 1 && b != Random && !g.uneven && again == nil {
		r := rand.Uint64() // of which each half is enough for one
		i, j := int(r>>32*n>>32), int(r&math.MaxUint32*(n-1)>>32)
		if j >= i {
			j++
		}
		return i, j
	}
	i = g.draw(-1, again)
	if i < 0 || b == Random {
		return i, -1
	}
	return i, g.draw(i, again)
}

// next returns whose turn it is. Of every 1/weight rounds an endpoint takes part
// in one, and they do not all begin with the same. To pass somebody over uses up
// a turn: else the next one in the list would get it each time.
func (g *group) next(turn *atomic.Uint64, again context.Context) *Endpoint {
	const whole = 1 << 16
	n := uint64(len(g.members))
	for range 2 * n { // one of weight 1 takes part in each round
		t := turn.Add(1)
		i, round := t%n, t/n
		m := &g.members[i]
		if w := uint64(m.weight * whole); w < whole {
			w = max(w, 1)
			if (w*round+i*(whole/2))%whole < whole-w {
				continue
			}
		}
		if !tried(again, m.Endpoint) {
			return m.Endpoint
		}
	}
	if i := g.sample(-1, again); i >= 0 {
		return g.members[i].Endpoint
	}
	return nil
}

// draw returns the number of a member by chance and weight, another one than
// not, or -1 if there is none.
func (g *group) draw(not int, again context.Context) int {
	if again != nil {
		return g.sample(not, again)
	}
	n := len(g.members)
	if not >= 0 {
		n--
	}
	if n == 0 {
		return -1
	}
	for range draws {
		i := rand.IntN(n)
		if not >= 0 && i >= not {
			i++
		}
		if w := g.members[i].weight; w == 1 || rand.Float64() < w {
			return i
		}
	}
	return g.sample(not, nil)
}

// sample is draw by a look at all.
func (g *group) sample(not int, again context.Context) int {
	found, sum := -1, 0.0
	for i := range g.members {
		if i == not || tried(again, g.members[i].Endpoint) {
			continue
		}
		w := g.members[i].weight
		sum += w
		if found < 0 || rand.Float64()*sum < w {
			found = i
		}
	}
	return found
}

// tried reports whether the call in again, which may be nil, was tried at e.
func tried(again context.Context, e *Endpoint) bool {
	return again != nil && gatemesh.TriedEndpoint(again, e.addr)
}

// lessLoaded returns the one of a and b with fewer attempts in flight for its
// weight. Of equals it is a, which was drawn first.
func lessLoaded(a, b *member) *Endpoint {
	if float64(b.inflight.Load())*a.weight < float64(a.inflight.Load())*b.weight {
		return b.Endpoint
	}
	return a.Endpoint
}

// cheaper returns a or b. An endpoint costs its average latency for each
// attempt in flight and the new one; one with half the weight has attempts that
// count twice. It is a, which was drawn first and by its weight, unless b costs a
// quarter less or a has failed the last time: chance alone makes equal endpoints
// measure differently, and the one that looks best would get half of all calls
// that find no other under way, the one that looks worst none. Between different
// weights, equal costs would make equal shares.
//
// One without a sample gets a first attempt before all others, and until that
// is answered counts as twice as slow as what it is compared with: it is not
// flooded before it has shown anything, and not starved if its first attempt is
// a stream that never shows a latency. One that failed before it had a sample,
// as a pod that was in the DNS before it listened, gets another first attempt
// after a while.
func cheaper(a, b *member) *Endpoint {
	loadA, loadB := float64(a.inflight.Load())/a.weight, float64(b.inflight.Load())/b.weight
	slowA, slowB := compare(&a.latency, &b.latency)
	newA, newB := slowA == 0, slowB == 0
	switch {
	case newA && newB:
		// Equal but for what failed, and the load.
		slowA, slowB = 1+float64(a.failures.Load()), 1+float64(b.failures.Load())
	case newA:
		if loadA == 0 && a.untried() {
			return a.Endpoint
		}
		slowA = 2 * slowB
	case newB:
		if loadB == 0 && b.untried() {
			return b.Endpoint
		}
		slowB = 2 * slowA
	}
	least := slowA * (loadA + 1)
	if a.failures.Load() == 0 {
		least *= 0.75
	}
	if slowB*(loadB+1) < least {
		return b.Endpoint
	}
	return a.Endpoint
}

// untried reports whether e, which has no sample, is to have its first attempt
// or, if that failed, another one: when it is back from an ejection, or else in
// a second, and twice as late after each further failure, up to a minute.
func (e *Endpoint) untried() bool {
	n := e.failures.Load()
	if n == 0 {
		return true
	}
	at := e.failedAt.Load()
	due := at + int64(min(time.Second<<min(n-1, 6), time.Minute))
	if out := e.out.Load(); out > at {
		due = out
	}
	return e.pool.now() >= due
}
