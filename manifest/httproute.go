package manifest

import (
	"strconv"
	"strings"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// httpRouteSpec is the spec of an HTTPRoute. Its limits are those of the CRD.
type httpRouteSpec struct {
	mark       `refused:"useDefaultGateways" why:"useDefaultGateways=routes name their Gateway"`
	ParentRefs []parentRef `json:"parentRefs" check:"required items=32"`
	Hostnames  []text      `json:"hostnames" check:"items=16 format=hostname"`
	Rules      []routeRule `json:"rules" check:"items=16"`
}

type routeRule struct {
	mark        `refused:"sessionPersistence" why:"sessionPersistence=calls of one caller stay together by the canary's key, and by the consistentHash of a DestinationRule"`
	Name        text          `json:"name" check:"format=rule"`
	Matches     []routeMatch  `json:"matches" check:"items=64"`
	Filters     []httpFilter  `json:"filters" check:"items=16"`
	BackendRefs []backendRef  `json:"backendRefs" check:"items=16"`
	Timeouts    routeTimeouts `json:"timeouts"`
	Retry       routeRetry    `json:"retry"`
}

type routeTimeouts struct {
	mark
	Request        span `json:"request" check:"format=gep"`
	BackendRequest span `json:"backendRequest" check:"format=gep"`
}

type routeRetry struct {
	mark
	Codes    []number `json:"codes" check:"items=200 min=400 max=599"`
	Attempts number   `json:"attempts" check:"max=1000"`
	Backoff  span     `json:"backoff" check:"format=gep"`
}

type routeMatch struct {
	mark
	Path        pathMatch     `json:"path"`
	Method      text          `json:"method" check:"enum=GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH"`
	Headers     []headerMatch `json:"headers" check:"items=16"`
	QueryParams []queryMatch  `json:"queryParams" check:"items=16"`
}

type pathMatch struct {
	mark
	Type  text `json:"type" check:"default=PathPrefix enum=PathPrefix|Exact|RegularExpression"`
	Value text `json:"value" check:"default=/ len=1024 format=pathorregex"`
}

type headerMatch struct {
	mark
	Type  text `json:"type" check:"default=Exact enum=Exact|RegularExpression"`
	Name  text `json:"name" check:"required len=256 format=header"`
	Value text `json:"value" check:"required len=4096"`
}

type queryMatch struct {
	mark
	Type  text `json:"type" check:"default=Exact enum=Exact|RegularExpression"`
	Name  text `json:"name" check:"required len=256 format=token"`
	Value text `json:"value" check:"required len=1024"`
}

// backendRef is a Service and its share of the calls.
type backendRef struct {
	mark      `why:"kind=it is not read"`
	Group     text            `json:"group" check:"empty"`
	Kind      text            `json:"kind" check:"enum=Service not=ServiceImport"`
	Name      text            `json:"name" check:"required format=label"`
	Namespace text            `json:"namespace" check:"format=label"`
	Port      number          `json:"port" check:"required min=1 max=65535"`
	Weight    number          `json:"weight" check:"max=1000000"`
	Filters   []backendFilter `json:"filters" check:"items=16"`
}

func (b *backendRef) check(s scope) {
	checkServiceGroup(s, &b.Group)
	checkFilters(s, listed(b.Filters))
}

func (p *pathMatch) check(s scope) {
	format := "path"
	if p.Type.V == "RegularExpression" {
		format = "regex"
	}
	if wrong := s.formatFault(format, p.Value.V); wrong != "" {
		s.fault(p.Value.mark, "%s %s", quote(p.Value.V), wrong)
	}
}

func (h *headerMatch) check(s scope) { checkRegex(s, &h.Type, &h.Value) }
func (q *queryMatch) check(s scope)  { checkRegex(s, &q.Type, &q.Value) }

// checkRegex reports a value that does not compile, if kind says that it has to.
func checkRegex(s scope, kind, value *text) {
	if kind.V != "RegularExpression" {
		return
	}
	if wrong := s.formatFault("regex", value.V); wrong != "" {
		s.fault(value.mark, "%s %s", quote(value.V), wrong)
	}
}

func (m *routeMatch) check(s scope) {
	checkHeaders(s, m.Headers)
	for i := range m.Headers { // those of a GRPCRoute may have any value
		if v := &m.Headers[i].Value; formatFault("value", v.V) != "" {
			s.fault(v.mark, "%s %s", quote(v.V), formatFault("value", v.V))
		}
	}
	seen := make(names)
	for i := range m.QueryParams {
		q := &m.QueryParams[i]
		if first, twice := seen.first(q.Name.V, q.mark); twice {
			s.fault(q.Name.mark, "%s is matched by %s already", q.Name.V, first.path)
		}
	}
}

func checkHeaders(s scope, headers []headerMatch) {
	seen := make(names)
	for i := range headers {
		h := &headers[i]
		if first, twice := seen.first(strings.ToLower(h.Name.V), h.mark); twice {
			s.fault(h.Name.mark, "%s is matched by %s already", h.Name.V, first.path)
		}
	}
}

func (t *routeTimeouts) check(s scope) {
	if t.Request.V > 0 && t.BackendRequest.V > t.Request.V {
		s.fault(t.BackendRequest.mark, "is longer than request, which bounds it")
	}
}

func (r *routeRetry) check(s scope) {
	seen := make(map[int64]mark)
	for _, c := range r.Codes {
		if first, twice := seen[c.V]; twice {
			s.fault(c.mark, "is %s already", first.path)
		}
		seen[c.V] = c.mark
	}
}

func (r *routeRule) check(s scope) {
	filters := listed(r.Filters)
	checkFilters(s, filters)
	redirect := false
	for _, f := range filters {
		if f.kind == "RequestRedirect" {
			redirect = true
		}
	}
	if redirect && len(r.BackendRefs) > 0 {
		s.fault(r.BackendRefs[0].mark, "a redirect answers the call itself; leave out backendRefs or the redirect")
	}
	weights := make([]*number, len(r.BackendRefs))
	for i := range r.BackendRefs {
		weights[i] = &r.BackendRefs[i].Weight
	}
	checkWeights(s, weights)
	lists := [][]filter{filters}
	for i := range r.BackendRefs {
		lists = append(lists, listed(r.BackendRefs[i].Filters))
	}
	for _, list := range lists {
		at := prefixChange(list)
		if at.present() && (len(r.Matches) > 1 || len(r.Matches) == 1 && r.Matches[0].Path.present() && r.Matches[0].Path.Type.V != "PathPrefix") {
			s.fault(at, "ReplacePrefixMatch takes exactly one match, of type PathPrefix")
		}
	}
}

// weight is 1 unless the file says otherwise.
func weight(n *number) int64 {
	if n.present() {
		return n.V
	}
	return 1
}

// checkWeights reports backends of which none gets calls. The Gateway API would
// answer them with 500; who writes that has more likely made a mistake, and can
// leave the backends out.
func checkWeights(s scope, weights []*number) {
	sum := int64(0)
	for _, w := range weights {
		sum += weight(w)
	}
	if len(weights) > 0 && sum == 0 {
		s.fault(weights[0].mark, "the weights of all backends are 0, which serves nobody")
	}
}

// served returns the backends of a rule: as the Gateway API wants it, one that
// answers 500 if there are none and no filter answers.
func served(to *routing.Route, backends []routing.Backend) []routing.Backend {
	if len(backends) == 0 && to.Redirect == nil {
		return []routing.Backend{{Unserved: true, Weight: 1}}
	}
	return backends
}

func (h *httpRouteSpec) check(s scope) {
	if h.Rules == nil {
		h.Rules = []routeRule{{mark: h.mark}} // as the CRD has it: every call, with nobody to go to
	}
	checkParents(s, h.ParentRefs)
	seen := make(names)
	for i := range h.Rules {
		checkRuleName(s, seen, &h.Rules[i].Name, h.Rules[i].mark)
	}
	checkMatchCount(s, h.sub("rules"), h.matches()) // of which a rule has one at least, as in the CRD
}

// matches is how many there are.
func (h *httpRouteSpec) matches() (n int) {
	for i := range h.Rules {
		n += max(everyMatch, len(h.Rules[i].Matches))
	}
	return n
}

func checkRuleName(s scope, seen names, name *text, at mark) {
	if !name.present() {
		return
	}
	if first, twice := seen.first(name.V, at); twice {
		s.fault(name.mark, "%s is the name of %s already", name.V, first.path)
	}
}

func checkMatchCount(s scope, at mark, matches int) {
	if matches > 128 {
		s.fault(at, "the rules have %d matches together; at most 128 are allowed", matches)
	}
}

// linkHTTPRoute checks what r refers to.
func (set *Set) linkHTTPRoute(r *object[httpRouteSpec], allowed map[grant]bool) {
	own := r.Metadata.Namespace.V
	to := func(name *text, namespace text) {
		if namespace.present() {
			set.linkReference(r.scope, namespace.mark, allowed, grant{"HTTPRoute", own, "Service", namespace.V, name.V})
		}
	}
	mirrors := func(list []filter) {
		for _, f := range list {
			to(&f.mirror.BackendRef.Name, f.mirror.BackendRef.Namespace)
		}
	}
	for i := range r.Spec.Rules {
		rule := &r.Spec.Rules[i]
		mirrors(listed(rule.Filters))
		for j := range rule.BackendRefs {
			b := &rule.BackendRefs[j]
			to(&b.Name, b.Namespace)
			mirrors(listed(b.Filters))
		}
	}
}

// ruleName is the part of a name that stands for a rule.
func ruleName(name *text, i int) string {
	if name.V != "" {
		return name.V
	}
	return strconv.Itoa(i)
}

// Routes returns the rules of all HTTPRoutes and GRPCRoutes that the Gateway
// serves, in the order in which the Gateway API decides between equal matches.
// They name the listeners of the Gateway, which [Set.RouteListeners] has. Each
// call returns new slices.
func (set *Set) Routes() []routing.Route {
	var out []routing.Route
	for _, r := range set.httpRoutes {
		listeners, served := set.listenersOf(r)
		if !served {
			continue
		}
		for i := range r.Spec.Rules {
			rule := &r.Spec.Rules[i]
			to := rule.routing(r.Metadata.Namespace.V)
			to.Name = r.name() + "/" + ruleName(&rule.Name, i)
			to.Position = r.scope.position(rule.mark)
			to.Hostnames, to.Listeners = strs(r.Spec.Hostnames), listeners()
			out = append(out, to)
		}
	}
	return append(out, set.grpcRules()...)
}

// listenersOf reports whether the Gateway serves the route with this key, and
// how its listeners are called that do.
func (set *Set) listenersOf(key any) (names func() []string, served bool) {
	g := set.gateway()
	for _, a := range set.attached[key] {
		if g == nil || a.gateway != g {
			continue
		}
		return func() []string {
			out := make([]string, 0, len(a.listeners))
			for _, l := range a.listeners {
				out = append(out, l.Name.V)
			}
			return out
		}, true
	}
	return nil, false
}

func (r *routeRule) routing(namespace string) routing.Route {
	to := routing.Route{
		Filters: filtersOf(listed(r.Filters), namespace),
		Timeout: r.Timeouts.Request.V, AttemptTimeout: r.Timeouts.BackendRequest.V, Retry: r.Retry.routing(),
	}
	for i := range r.Matches {
		to.Matches = append(to.Matches, r.Matches[i].routing())
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

// routing returns nil if nothing is said about retries. The Gateway API counts
// tries after the first, of which it has one if nothing is said, and wants calls
// that never reached anybody retried, whatever their codes.
func (r *routeRetry) routing() *gatemesh.RetryPolicy {
	if !r.present() {
		return nil
	}
	out := &gatemesh.RetryPolicy{Broken: true, Backoff: r.Backoff.V, Attempts: 2}
	if r.Attempts.present() {
		out.Attempts = int(r.Attempts.V) + 1
	}
	for _, c := range r.Codes {
		out.Statuses = append(out.Statuses, int(c.V))
	}
	return out
}

func (m *routeMatch) routing() routing.Match {
	out := routing.Match{Method: m.Method.V, Path: routing.PathMatch{Type: routing.PathPrefix, Value: "/"}}
	if m.Path.present() {
		out.Path.Value = m.Path.Value.V
		switch m.Path.Type.V {
		case "Exact":
			out.Path.Type = routing.PathExact
		case "RegularExpression":
			out.Path.Type = routing.PathRegex
		}
	}
	out.Headers = headersOf(m.Headers)
	for i := range m.QueryParams {
		q := &m.QueryParams[i]
		out.Query = append(out.Query, routing.QueryMatch{Name: q.Name.V, Type: matchType(&q.Type), Value: q.Value.V})
	}
	return out
}

func headersOf(list []headerMatch) (out []routing.HeaderMatch) {
	for i := range list {
		h := &list[i]
		out = append(out, routing.HeaderMatch{Name: h.Name.V, Type: matchType(&h.Type), Value: h.Value.V})
	}
	return out
}

func matchType(t *text) routing.MatchType {
	if t.V == "RegularExpression" {
		return routing.MatchRegex
	}
	return routing.MatchExact
}
