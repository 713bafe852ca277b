package pool

import (
	"math"
	"slices"
	"time"
)

// view is who of some endpoints can be chosen, as of one moment. Making one
// looks at all of them, so that choosing need not. It is immutable.
type view struct {
	changes uint64 // of the pool, as of this view
	until   int64  // when an endpoint is back, or has a greater weight

	balancer  Balancer
	near, far group   // those in our zone; those in others, or all if zones make no difference
	nearShare float64 // of the calls
	ring      *walk   // for RingHash
}

// group is endpoints that share calls by their weights.
type group struct {
	members []member
	uneven  bool // there are different weights
}

type member struct {
	*Endpoint
	weight float64 // as a part of the greatest in the group, above 0 and up to 1
}

// isIn reports whether e may be chosen, unless too few may.
func (e *Endpoint) isIn(now int64) bool { return e.out.Load() <= now && !e.unhealthy.Load() }

// panics reports whether so few of n endpoints are in that all are used.
func (cfg *Config) panics(in, n int) bool {
	if cfg.MinHealthPercent == 0 {
		return in < n-mayBeOut(n, cfg.Ejection.MaxPercent) // one always stays in
	}
	return in*100 < n*cfg.MinHealthPercent
}

// newView returns the view of list, which is not empty, at now.
func newView(s *state, changes uint64, now int64, list []*Endpoint) *view {
	cfg := &s.version.Config
	v := &view{changes: changes, until: math.MaxInt64, balancer: cfg.Balancer}
	in := make([]*Endpoint, 0, len(list))
	for _, e := range list {
		if out := e.out.Load(); out > now {
			v.until = min(v.until, out)
		}
		if e.isIn(now) {
			in = append(in, e)
		}
	}
	if cfg.panics(len(in), len(list)) {
		in = list
	}
	near, far := 0.0, 0.0 // sums of weights
	for _, e := range in {
		part, left := cfg.Warmup.part(now - e.warmSince(now))
		if part < 1 {
			v.until = min(v.until, now+max(int64(cfg.Warmup.Duration/100), min(int64(left), int64(10*time.Millisecond))))
		}
		m := member{e, float64(e.weight) * part}
		if cfg.Zone != "" && e.zone == cfg.Zone {
			v.near.members, near = append(v.near.members, m), near+m.weight
		} else {
			v.far.members, far = append(v.far.members, m), far+m.weight
		}
	}
	v.nearShare = nearShare(near, far, zones(list), cfg.ZoneLoad)
	v.near.scale()
	v.far.scale()
	if cfg.Balancer == RingHash && s.ring != nil {
		v.ring = newWalk(s.ring, cfg.HashKey, v)
	}
	return v
}

// zones returns how many zones list is spread over.
func zones(list []*Endpoint) int {
	var found []string
	for _, e := range list {
		if !slices.Contains(found, e.zone) {
			found = append(found, e.zone)
		}
	}
	return len(found)
}

// nearShare returns which part of our calls stays in our zone, if weights near
// of it and far of others are in and each zone has the same traffic.
func nearShare(near, far float64, zones, zoneLoad int) float64 {
	switch {
	case near == 0:
		return 0
	case far == 0:
		return 1
	}
	return min(1, float64(zoneLoad)/100*float64(zones)*near/(near+far))
}

func (g *group) scale() {
	greatest := 0.0
	for _, m := range g.members {
		greatest = max(greatest, m.weight)
	}
	for i := range g.members {
		m := &g.members[i]
		m.weight /= greatest
		g.uneven = g.uneven || m.weight != 1
	}
}

// part returns which part of its weight an endpoint has that came in passed ns
// ago, and how long it takes until it has all of it.
func (w *Warmup) part(passed int64) (part float64, left time.Duration) {
	if passed < 0 {
		passed = 0
	}
	if left = w.Duration - time.Duration(passed); left <= 0 {
		return 1, 0
	}
	part = math.Pow(float64(passed)/float64(w.Duration), 1/w.Aggression)
	return max(part, float64(w.MinimumPercent)/100), left
}

// warmSince returns when e came in the last time, as of now.
func (e *Endpoint) warmSince(now int64) int64 {
	since := e.joined
	if well := e.wellAt.Load(); well > 0 {
		since = max(since, well)
	}
	if out := e.out.Load(); out > 0 && out <= now {
		since = max(since, out)
	}
	return since
}
