package manifest

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// httpRouteSpec is the spec of an HTTPRoute. Its limits are those of the CRD.
type httpRouteSpec struct {
	mark       `refused:"useDefaultGateways"`
	ParentRefs []parentRef `json:"parentRefs" check:"required items=32"`
	Hostnames  []text      `json:"hostnames" check:"items=16 format=hostname"`
	Rules      []routeRule `json:"rules" check:"required items=16"`
}

type parentRef struct {
	mark        `refused:"port"`
	Group       text `json:"group" check:"enum=gateway.networking.k8s.io"`
	Kind        text `json:"kind" check:"enum=Gateway not=Service|ListenerSet|XListenerSet"`
	Name        text `json:"name" check:"required format=subdomain"`
	Namespace   text `json:"namespace" check:"format=label"`
	SectionName text `json:"sectionName" check:"format=subdomain"`
}

type routeRule struct {
	mark        `refused:"filters retry sessionPersistence timeouts"`
	Name        text         `json:"name" check:"format=rule"`
	Matches     []routeMatch `json:"matches" check:"items=64"`
	BackendRefs []backendRef `json:"backendRefs" check:"required items=16"`
}

type routeMatch struct {
	mark    `refused:"queryParams"`
	Path    pathMatch     `json:"path"`
	Method  text          `json:"method" check:"enum=GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH"`
	Headers []headerMatch `json:"headers" check:"items=16"`
}

type pathMatch struct {
	mark
	Type  text `json:"type" check:"default=PathPrefix enum=PathPrefix|Exact not=RegularExpression"`
	Value text `json:"value" check:"default=/ len=1024 format=path"`
}

type headerMatch struct {
	mark
	Type  text `json:"type" check:"default=Exact enum=Exact not=RegularExpression"`
	Name  text `json:"name" check:"required len=256 format=header"`
	Value text `json:"value" check:"required len=4096"`
}

type backendRef struct {
	mark      `refused:"filters"`
	Group     text   `json:"group" check:"empty"`
	Kind      text   `json:"kind" check:"enum=Service not=ServiceImport"`
	Name      text   `json:"name" check:"required format=label"`
	Namespace text   `json:"namespace" check:"format=label"`
	Port      number `json:"port" check:"required min=1 max=65535"`
	Weight    number `json:"weight" check:"max=1000000"`
}

func (b *backendRef) check(s scope) {
	if b.Group.V != "" {
		s.fault(b.Group.mark, "%s is not supported by gatemesh; a backend is a Service, whose group is \"\"", quote(b.Group.V))
	}
}

func (m *routeMatch) check(s scope) {
	seen := make(names)
	for _, h := range m.Headers {
		if first, twice := seen.first(strings.ToLower(h.Name.V), h.mark); twice {
			s.fault(h.Name.mark, "%s is matched by %s already", h.Name.V, first.path)
		}
	}
}

func (r *routeRule) check(s scope) {
	sum := int64(0)
	for i := range r.BackendRefs {
		sum += r.BackendRefs[i].weight()
	}
	if sum == 0 {
		s.fault(r.BackendRefs[0].sub("weight"), "the weights of all backends are 0, which serves nobody")
	}
}

func (h *httpRouteSpec) check(s scope) {
	matches := 0
	seen := make(names)
	for i := range h.Rules {
		r := &h.Rules[i]
		matches += max(1, len(r.Matches))
		if !r.Name.present() {
			continue
		}
		if first, twice := seen.first(r.Name.V, r.mark); twice {
			s.fault(r.Name.mark, "%s is the name of %s already", r.Name.V, first.path)
		}
	}
	if matches > 128 {
		s.fault(h.sub("rules"), "the rules have %d matches together; at most 128 are allowed", matches)
	}
}

// weight is 1 unless the file says otherwise.
func (b *backendRef) weight() int64 {
	if b.Weight.present() {
		return b.Weight.V
	}
	return 1
}

// linkRoute checks what r refers to.
func (set *Set) linkRoute(r *object[httpRouteSpec]) {
	before := r.scope.faults.count
	hostnames := set.attach(r)
	if r.scope.faults.count == before {
		set.hostnames[r] = hostnames
	}
	for i := range r.Spec.Rules {
		for j := range r.Spec.Rules[i].BackendRefs {
			b := &r.Spec.Rules[i].BackendRefs[j]
			if b.Namespace.present() && b.Namespace.V != r.Metadata.Namespace.V {
				r.scope.fault(b.Namespace.mark, "not supported by gatemesh: a backend in another namespace needs a ReferenceGrant there, which gatemesh does not read")
			}
		}
	}
}

// sortRoutes puts the routes in the order in which the Gateway API decides
// between equal matches: the oldest, then by namespace/name. A route without
// creationTimestamp is not created yet and thus the youngest.
func sortRoutes(routes []*object[httpRouteSpec]) {
	age := func(r *object[httpRouteSpec]) time.Time {
		if t := r.Metadata.CreationTimestamp.V; !t.IsZero() {
			return t
		}
		return time.Unix(1<<40, 0)
	}
	slices.SortFunc(routes, func(a, b *object[httpRouteSpec]) int {
		return cmp.Or(age(a).Compare(age(b)), cmp.Compare(a.name(), b.name()))
	})
}

// Routes returns the rules of all HTTPRoutes, in the order in which the Gateway
// API decides between equal matches. Their hostnames are those under which a
// listener of the Gateway serves them. Each call returns new slices.
func (set *Set) Routes() []routing.Route {
	var out []routing.Route
	for _, r := range set.httpRoutes {
		for i := range r.Spec.Rules {
			rule := &r.Spec.Rules[i]
			name := rule.Name.V
			if name == "" {
				name = strconv.Itoa(i)
			}
			to := routing.Route{
				Name:      r.name() + "/" + name,
				Position:  r.scope.position(rule.mark),
				Hostnames: slices.Clone(set.hostnames[r]),
			}
			for j := range rule.Matches {
				to.Matches = append(to.Matches, rule.Matches[j].routing())
			}
			for j := range rule.BackendRefs {
				b := &rule.BackendRefs[j]
				to.Backends = append(to.Backends, routing.Backend{
					Destination: gatemesh.Destination{Service: b.Name.V, Namespace: r.Metadata.Namespace.V, Port: uint16(b.Port.V)},
					Weight:      uint32(b.weight()),
				})
			}
			out = append(out, to)
		}
	}
	return out
}

func (m *routeMatch) routing() routing.Match {
	out := routing.Match{Method: m.Method.V, Path: routing.PathMatch{Type: routing.PathPrefix, Value: "/"}}
	if m.Path.present() {
		out.Path.Value = m.Path.Value.V
		if m.Path.Type.V == "Exact" {
			out.Path.Type = routing.PathExact
		}
	}
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, routing.HeaderMatch{Name: h.Name.V, Value: h.Value.V})
	}
	return out
}
