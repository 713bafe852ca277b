package routing

import (
	"slices"
	"sync/atomic"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/match"
)

// everyService as the name of a Service stands for all those of its namespace
// that have none of their own.
const everyService = "*"

// service is a compiled Service.
type service struct{ paths paths }

// serviceOf returns what is said about calls to d, or nil. Whoever named a
// subset has decided.
func (t *table) serviceOf(d *gatemesh.Destination) *service {
	if len(t.services) == 0 || d.Subset != "" {
		return nil
	}
	if s := t.services[serviceKey{d.Service, d.Namespace}]; s != nil {
		return s
	}
	return t.services[serviceKey{everyService, d.Namespace}]
}

// route returns the rule for c, a call to d.
func (s *service) route(t *table, c *gatemesh.Call, d *gatemesh.Destination) (*target, error) {
	what := subject{call: c, method: c.Method(), table: t, work: match.NewWork(maxWork)}
	r := s.paths.match(&what)
	if denial := what.tooMuch(); denial != nil {
		return nil, denial
	}
	if r == nil {
		return nil, denyNoRule.of(c)
	}
	return r.to(d.Port), nil
}

// target is a Route with what follows from its Backends.
type target struct {
	route gatemesh.Route
	// only is the one of the Backends that has a weight, if just one has.
	only *gatemesh.WeightedDestination
}

// ported are the targets of a rule for calls to the ports that it has met, if
// some of its backends have no port of their own.
type ported struct {
	needed bool
	known  atomic.Pointer[[]*portedTarget]
}

// maxPorts is how many ports a rule remembers. Destinations come from the
// configuration, and no service has that many.
const maxPorts = 64

// to returns the target for a call to port. It allocates only when it meets a
// port for the first time.
func (r *rule) to(port uint16) *target {
	if !r.ported.needed || port == 0 {
		return &r.target
	}
	for {
		known := r.ported.known.Load()
		var old []*portedTarget
		if known != nil {
			old = *known
		}
		for _, p := range old {
			if p.port == port {
				return &p.target
			}
		}
		p := r.withPort(port)
		if len(old) >= maxPorts {
			return &p.target
		}
		grown := append(old[:len(old):len(old)], p)
		if r.ported.known.CompareAndSwap(known, &grown) {
			return &p.target
		}
	}
}

type portedTarget struct {
	target
	port uint16
}

func (r *rule) withPort(port uint16) *portedTarget {
	p := &portedTarget{target{route: r.route}, port}
	p.route.Backends = slices.Clone(r.route.Backends)
	for i := range p.route.Backends {
		if d := &p.route.Backends[i].Destination; d.Port == 0 {
			d.Port = port
		}
	}
	p.only = onlyOf(p.route.Backends)
	return p
}

// onlyOf returns the one of backends that has a weight, or nil if there is a
// choice.
func onlyOf(backends []gatemesh.WeightedDestination) (only *gatemesh.WeightedDestination) {
	for i := range backends {
		if backends[i].Weight == 0 {
			continue
		}
		if only != nil {
			return nil
		}
		only = &backends[i]
	}
	return only
}

// lanes gives each of a service's rules the subsets that only the others have,
// the first rule that has one first.
func lanes(rules []*rule) {
	first := map[string]gatemesh.WeightedDestination{}
	var subsets []string
	for _, r := range rules {
		for _, b := range r.route.Backends {
			subset := b.Destination.Subset
			if _, known := first[subset]; !known && subset != "" && b.Weight > 0 {
				first[subset], subsets = b, append(subsets, subset)
			}
		}
	}
	for _, r := range rules {
		for _, subset := range subsets {
			if !slices.ContainsFunc(r.route.Backends, func(b gatemesh.WeightedDestination) bool { return b.Destination.Subset == subset }) {
				r.route.Lanes = append(r.route.Lanes, first[subset])
			}
		}
	}
}

// RouteTo returns the rule of [Config.Services] for c if it goes to d: the first
// one of the service that matches, or nil if the service has none at all or d
// names a subset. It is NotFound, or Unimplemented for gRPC, if the service has rules and none of them
// matches.
func (r *Router) RouteTo(c *gatemesh.Call, d gatemesh.Destination) (*gatemesh.Route, error) {
	t := r.table.For(c)
	s := t.serviceOf(&d)
	if s == nil {
		return nil, nil
	}
	p, err := s.route(t, c, &d)
	if err != nil {
		return nil, err
	}
	return &p.route, nil
}
