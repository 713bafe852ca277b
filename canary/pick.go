package canary

import (
	"slices"

	"github.com/gatemesh-go/gatemesh"
)

// choice is one among the backends of a route, with the shares of a rollout if
// that is about two of them.
type choice struct {
	route   *gatemesh.Route
	rollout *Rollout // or nil
	at      [2]int   // its versions among the backends
	share   uint64   // of its canary
}

// pick returns the backend of r for c, or nil if none has a weight. rollout may
// be nil.
func pick(seed hash, c *gatemesh.Call, r *gatemesh.Route, rollout *Rollout) *gatemesh.WeightedDestination {
	of := choice{route: r}
	if rollout != nil {
		if at, ok := rollout.among(r.Backends); ok { // else the rule is about something else
			of.rollout, of.at, of.share = rollout, at, uint64(rollout.share.Load())
		}
	}
	if b := of.kept(c.Lane()); b != nil {
		return b
	}
	if len(r.Backends) == 1 && r.Backends[0].Weight > 0 {
		return &r.Backends[0]
	}
	point := seed.user(c).point()
	if rollout == nil && r == c.Route() && !versions(r) {
		point = seed.request(c).point()
	}
	i, into := choose(point, len(r.Backends), of.joint)
	if i < 0 {
		return nil
	}
	if of.rollout != nil && i == of.at[stable] {
		v := of.version(into)
		of.rollout.users[v].add(slotOf(point))
		i = of.at[v]
	}
	return &r.Backends[i]
}

// versions reports whether some backend of r is a version of a service.
func versions(r *gatemesh.Route) bool {
	return slices.ContainsFunc(r.Backends, func(b gatemesh.WeightedDestination) bool { return b.Destination.Subset != "" })
}

// among returns where the versions of r are among the backends, if both are.
func (r *Rollout) among(backends []gatemesh.WeightedDestination) (at [2]int, ok bool) {
	at = [2]int{-1, -1}
	for i := range backends {
		if v := r.versionOf(backends[i].Destination); v >= 0 && at[v] < 0 {
			at[v] = i
		}
	}
	return at, at[stable] >= 0 && at[canary] >= 0
}

// joint is the weight of backend i where the two versions of a rollout are one,
// at the place of the stable one: so whoever goes elsewhere is never moved by a
// rollout, and nobody moves between the two but across the end of their shares.
func (o *choice) joint(i int) uint64 {
	w := uint64(o.route.Backends[i].Weight)
	if o.rollout == nil {
		return w
	}
	switch i {
	case o.at[stable]:
		w += uint64(o.route.Backends[o.at[canary]].Weight)
	case o.at[canary]:
		return 0
	}
	return w * whole
}

// version returns the version for who stands that far into the place of both.
// The canary has the end at which it would be without a rollout.
func (o *choice) version(into uint64) int {
	of := o.joint(o.at[stable]) / whole
	if o.at[canary] > o.at[stable] && into < of*o.share || o.at[canary] < o.at[stable] && into >= of*(whole-o.share) {
		return canary
	}
	return stable
}

// weight is that of backend i in the end.
func (o *choice) weight(i int) uint64 {
	if o.rollout != nil {
		both := o.joint(o.at[stable]) / whole
		switch i {
		case o.at[stable]:
			return both * (whole - o.share)
		case o.at[canary]:
			return both * o.share
		}
	}
	return uint64(o.route.Backends[i].Weight)
}

// kept returns the backend for a call that comes in lane, or nil if r does not
// keep it there.
func (o *choice) kept(lane string) *gatemesh.WeightedDestination {
	r := o.route
	if lane == "" || o.rollout != nil && lane == o.rollout.names[stable] {
		return nil
	}
	known := false
	for i := range r.Backends {
		if b := &r.Backends[i]; b.Destination.Subset == lane {
			if known = true; o.weight(i) > 0 {
				return b
			}
		}
	}
	if known {
		return nil
	}
	for i := range r.Lanes {
		if b := &r.Lanes[i]; b.Destination.Subset == lane && b.Weight > 0 {
			return b
		}
	}
	return nil
}
