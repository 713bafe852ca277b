package manifest

import (
	"regexp"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// grpcRouteSpec is the spec of a GRPCRoute. Its limits are those of the CRD.
type grpcRouteSpec struct {
	mark       `refused:"useDefaultGateways" why:"useDefaultGateways=routes name their Gateway"`
	ParentRefs []parentRef `json:"parentRefs" check:"required items=32"`
	Hostnames  []text      `json:"hostnames" check:"items=16 format=hostname"`
	Rules      []grpcRule  `json:"rules" check:"required items=16"`
}

type grpcRule struct {
	mark        `refused:"sessionPersistence" why:"sessionPersistence=calls of one caller stay together by the canary's key, and by the consistentHash of a DestinationRule"`
	Name        text             `json:"name" check:"format=rule"`
	Matches     []grpcMatch      `json:"matches" check:"items=64"`
	Filters     []grpcFilter     `json:"filters" check:"items=16"`
	BackendRefs []grpcBackendRef `json:"backendRefs" check:"items=16"`
}

type grpcMatch struct {
	mark
	Method  methodMatch   `json:"method"`
	Headers []headerMatch `json:"headers" check:"items=16"`
}

type methodMatch struct {
	mark
	Type    text `json:"type" check:"default=Exact enum=Exact|RegularExpression"`
	Service text `json:"service" check:"len=1024"`
	Method  text `json:"method" check:"len=1024"`
}

type grpcBackendRef struct {
	mark      `why:"kind=it is not read"`
	Group     text         `json:"group" check:"empty"`
	Kind      text         `json:"kind" check:"enum=Service not=ServiceImport"`
	Name      text         `json:"name" check:"required format=label"`
	Namespace text         `json:"namespace" check:"format=label"`
	Port      number       `json:"port" check:"required min=1 max=65535"`
	Weight    number       `json:"weight" check:"max=1000000"`
	Filters   []grpcFilter `json:"filters" check:"items=16"`
}

func (b *grpcBackendRef) check(s scope) {
	checkServiceGroup(s, &b.Group)
	checkFilters(s, listed(b.Filters))
}

var (
	grpcService = regexp.MustCompile(`^\.?[A-Za-z_][A-Za-z_0-9]*(\.[A-Za-z_][A-Za-z_0-9]*)*$`)
	grpcMethod  = regexp.MustCompile(`^[A-Za-z_][A-Za-z_0-9]*$`)
)

func (m *methodMatch) check(s scope) {
	if !m.Service.present() && !m.Method.present() {
		s.fault(m.mark, "must have a service, a method or both")
	}
	checkRegex(s, &m.Type, &m.Service)
	checkRegex(s, &m.Type, &m.Method)
	if m.Type.V != "Exact" {
		return
	}
	if m.Service.present() && !grpcService.MatchString(m.Service.V) {
		s.fault(m.Service.mark, "%s is not the name of a gRPC service, such as shop.Orders", quote(m.Service.V))
	}
	if m.Method.present() && !grpcMethod.MatchString(m.Method.V) {
		s.fault(m.Method.mark, "%s is not the name of a gRPC method, such as Get", quote(m.Method.V))
	}
}

func (m *grpcMatch) check(s scope) { checkHeaders(s, m.Headers) }

func (r *grpcRule) check(s scope) {
	checkFilters(s, listed(r.Filters))
	weights := make([]*number, len(r.BackendRefs))
	for i := range r.BackendRefs {
		weights[i] = &r.BackendRefs[i].Weight
	}
	checkWeights(s, weights)
}

func (g *grpcRouteSpec) check(s scope) {
	checkParents(s, g.ParentRefs)
	seen := make(names)
	for i := range g.Rules {
		checkRuleName(s, seen, &g.Rules[i].Name, g.Rules[i].mark)
	}
	matches := 0 // of rules with some, as in the CRD
	for i := range g.Rules {
		matches += len(g.Rules[i].Matches)
	}
	checkMatchCount(s, g.sub("rules"), matches)
}

// matches is how many there are.
func (g *grpcRouteSpec) matches() (n int) {
	for i := range g.Rules {
		n += max(everyMatch, len(g.Rules[i].Matches))
	}
	return n
}

// linkGRPCRoute checks what r refers to.
func (set *Set) linkGRPCRoute(r *object[grpcRouteSpec], allowed map[grant]bool) {
	own := r.Metadata.Namespace.V
	to := func(name *text, namespace text) {
		if namespace.present() {
			set.linkReference(r.scope, namespace.mark, allowed, grant{"GRPCRoute", own, "Service", namespace.V, name.V})
		}
	}
	mirrors := func(list []grpcFilter) {
		for i := range list {
			to(&list[i].RequestMirror.BackendRef.Name, list[i].RequestMirror.BackendRef.Namespace)
		}
	}
	for i := range r.Spec.Rules {
		rule := &r.Spec.Rules[i]
		mirrors(rule.Filters)
		for j := range rule.BackendRefs {
			b := &rule.BackendRefs[j]
			to(&b.Name, b.Namespace)
			mirrors(b.Filters)
		}
	}
}

// grpcRules returns the rules of all GRPCRoutes that the Gateway serves.
func (set *Set) grpcRules() (out []routing.Route) {
	for _, r := range set.grpcRoutes {
		listeners, served := set.listenersOf(r)
		if !served {
			continue
		}
		for i := range r.Spec.Rules {
			rule := &r.Spec.Rules[i]
			to := rule.routing(r.Metadata.Namespace.V)
			// An HTTPRoute may have the same name.
			to.Name = r.name() + "/grpc/" + ruleName(&rule.Name, i)
			to.Position = r.scope.position(rule.mark)
			to.Hostnames, to.Listeners = strs(r.Spec.Hostnames), listeners()
			out = append(out, to)
		}
	}
	return out
}

func (r *grpcRule) routing(namespace string) routing.Route {
	to := routing.Route{Filters: filtersOf(listed(r.Filters), namespace)}
	for i := range r.Matches {
		m := &r.Matches[i]
		to.Matches = append(to.Matches, routing.Match{
			Protocol: gatemesh.GRPC, Path: m.Method.routing(), Headers: headersOf(m.Headers),
		})
	}
	if len(to.Matches) == 0 {
		to.Matches = []routing.Match{{Protocol: gatemesh.GRPC, Path: (&methodMatch{}).routing()}}
	}
	for i := range r.BackendRefs {
		b := &r.BackendRefs[i]
		object := backendObject{Name: b.Name, Namespace: b.Namespace, Port: b.Port}
		to.Backends = append(to.Backends, routing.Backend{
			Destination: object.destination(namespace), Weight: uint32(weight(&b.Weight)),
			Filters: filtersOf(listed(b.Filters), namespace),
		})
	}
	to.Backends = served(&to, to.Backends)
	return to
}

// routing returns the match for the path of a call, which is /SERVICE/METHOD.
func (m *methodMatch) routing() routing.PathMatch {
	service, method := m.Service.V, m.Method.V
	switch {
	case service == "" && method == "":
		return routing.PathMatch{Type: routing.PathPrefix, Value: "/"}
	case m.Type.V == "RegularExpression":
		part := func(expr string) string {
			if expr == "" {
				return "[^/]+"
			}
			return "(?:" + expr + ")"
		}
		return routing.PathMatch{Type: routing.PathRegex, Value: "/" + part(service) + "/" + part(method)}
	case service == "":
		return routing.PathMatch{Type: routing.PathRegex, Value: "/[^/]+/" + method}
	case method == "":
		return routing.PathMatch{Type: routing.PathPrefix, Value: "/" + service}
	}
	return routing.PathMatch{Type: routing.PathExact, Value: "/" + service + "/" + method}
}
