package manifest

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// Services returns what the VirtualServices say about calls of self: one
// Service for each host of each, with its rules in their order, for
// [routing.Config.Services]. Rules for other callers, by sourceLabels or
// sourceNamespace, are left out; where none is left, as in Istio the service
// has no route, and calls to it get 404. Each call returns new slices.
func (set *Set) Services(self gatemesh.Workload) []routing.Service {
	return set.services(func(m *httpMatch) bool {
		return self.HasLabels(m.SourceLabels.V) && (!m.SourceNamespace.present() || m.SourceNamespace.V == self.Namespace)
	})
}

// services is Services for a caller to whom the matches apply that applies says.
func (set *Set) services(applies func(*httpMatch) bool) []routing.Service {
	var out []routing.Service
	for _, v := range set.virtualServices {
		for _, h := range v.Spec.Hosts {
			host, _ := resolveAll(v.scope, h, v.Metadata.Namespace.V)
			to := routing.Service{Position: v.scope.position(v.mark), Service: host.name, Namespace: host.namespace}
			name := v.name() + "/mesh/"
			if len(v.Spec.Hosts) > 1 {
				name += host.String() + "/"
			}
			for i := range v.Spec.HTTP {
				if rule, ok := v.Spec.HTTP[i].routing(v, applies); ok {
					rule.Name = name + strconv.Itoa(i)
					to.Rules = append(to.Rules, rule)
				}
			}
			if to.Rules == nil {
				none := routing.Filters{Response: &routing.Response{Status: http.StatusNotFound}}
				to.Rules = []routing.Route{{Name: name + "none", Position: to.Position, Filters: none}}
			}
			out = append(out, to)
		}
	}
	return out
}

// routing returns r for a caller, or false if it is for others alone.
func (r *httpRule) routing(v *object[virtualServiceSpec], applies func(*httpMatch) bool) (routing.Route, bool) {
	out := routing.Route{Position: v.scope.position(r.mark), Timeout: r.Timeout.V}
	for i := range r.Match {
		if m := &r.Match[i]; applies(m) {
			out.Matches = append(out.Matches, m.routing())
		}
	}
	if r.Match != nil && out.Matches == nil {
		return out, false
	}
	to := func(d *destination) gatemesh.Destination {
		host, _ := resolve(v.scope, d.Host, v.Metadata.Namespace.V)
		return gatemesh.Destination{Service: host.name, Namespace: host.namespace, Subset: d.Subset.V, Port: uint16(d.Port.Number.V)}
	}
	for i := range r.Route {
		d := &r.Route[i]
		weight := d.Weight.V
		if len(r.Route) == 1 && weight == 0 {
			weight = 100
		}
		out.Backends = append(out.Backends, routing.Backend{
			Destination: to(&d.Destination), Weight: uint32(weight), Filters: d.Headers.routing(),
		})
	}
	out.Filters = r.Headers.routing()
	if m := (&r.Mirror); m.present() {
		out.Mirrors = append(out.Mirrors, r.MirrorPercentage.mirror(to(m)))
	}
	for i := range r.Mirrors {
		out.Mirrors = append(out.Mirrors, r.Mirrors[i].Percentage.mirror(to(&r.Mirrors[i].Destination)))
	}
	if r.Retries.present() {
		out.AttemptTimeout, out.Retry = r.Retries.PerTryTimeout.V, r.Retries.policy(v.scope)
	}
	out.Redirect, out.Response, out.Rewrite = r.Redirect.routing(), r.DirectResponse.routing(), r.rewrite()
	out.Fault, out.CORS = r.Fault.routing(), r.CORSPolicy.routing()
	return out, true
}

func (m *httpMatch) routing() routing.Match {
	out := routing.Match{Scheme: m.Scheme.routing(), Authority: m.Authority.routing()}
	switch u := &m.URI; {
	case u.Exact.present():
		out.Path = routing.PathMatch{Type: routing.PathExact, Value: u.Exact.V, IgnoreCase: m.IgnoreURICase.V}
	case u.Prefix.present():
		out.Path = routing.PathMatch{Type: routing.PathStart, Value: u.Prefix.V, IgnoreCase: m.IgnoreURICase.V}
	case u.Regex.present():
		out.Path = routing.PathMatch{Type: routing.PathRegex, Value: u.Regex.V}
	}
	if m.Method.Exact.present() {
		out.Method = m.Method.Exact.V
	} else {
		out.Methods = m.Method.routing()
	}
	for _, list := range []struct {
		values []headerValue
		not    bool
	}{{m.Headers, false}, {m.WithoutHeaders, true}} {
		for i := range list.values {
			h := &list.values[i]
			how := valueMatch(&h.Exact, &h.Prefix, &h.Regex)
			out.Headers = append(out.Headers, routing.HeaderMatch{Name: h.Key.V, Type: how.Type, Value: how.Value, Not: list.not})
		}
	}
	for i := range m.QueryParams {
		q := &m.QueryParams[i]
		how := valueMatch(&q.Exact, &q.Prefix, &q.Regex)
		out.Query = append(out.Query, routing.QueryMatch{Name: q.Key.V, Type: how.Type, Value: how.Value})
	}
	return out
}

// valueMatch returns the match by that of three forms which is there, or else
// one for every value.
func valueMatch(exact, prefix, regex *text) routing.ValueMatch {
	switch {
	case exact.present():
		return routing.ValueMatch{Type: routing.MatchExact, Value: exact.V}
	case prefix.present():
		return routing.ValueMatch{Type: routing.MatchPrefix, Value: prefix.V}
	case regex.present():
		return routing.ValueMatch{Type: routing.MatchRegex, Value: regex.V}
	}
	return routing.ValueMatch{Type: routing.MatchPresent}
}

func (m *stringMatch) routing() *routing.ValueMatch {
	if !m.present() {
		return nil
	}
	out := valueMatch(&m.Exact, &m.Prefix, &m.Regex)
	return &out
}

func (h *headerRules) routing() routing.Filters {
	return routing.Filters{RequestHeader: h.Request.routing(), ResponseHeader: h.Response.routing()}
}

func (h *headerRule) routing() routing.HeaderChange {
	fields := func(l labels) (out []gatemesh.Field) {
		for _, name := range slices.Sorted(maps.Keys(l.V)) {
			out = append(out, gatemesh.Field{Name: name, Value: l.V[name]})
		}
		return out
	}
	return routing.HeaderChange{Set: fields(h.Set), Add: fields(h.Add), Remove: strs(h.Remove)}
}

func (p *percentage) mirror(to gatemesh.Destination) routing.Mirror {
	out := routing.Mirror{Destination: to}
	if p.present() {
		out.Numerator, _ = p.Value.perMillion()
		out.Denominator = 1_000_000
	}
	return out
}

func (r *httpRedirect) routing() *routing.Redirect {
	if !r.present() {
		return nil
	}
	return &routing.Redirect{
		Scheme: r.Scheme.V, Hostname: r.Authority.V, Port: uint16(r.Port.V),
		Path:   routing.PathChange{Full: r.URI.V, ReplacePrefix: r.PrefixRewrite.present(), Prefix: r.PrefixRewrite.V},
		Status: int(cmp.Or(r.RedirectCode.V, http.StatusMovedPermanently)),
	}
}

func (d *directResponse) routing() *routing.Response {
	if !d.present() {
		return nil
	}
	out := &routing.Response{Status: int(d.Status.V)}
	if body := d.Body.String.V; body != "" {
		out.Body, out.ContentType = []byte(body), "text/plain"
	}
	return out
}

func (r *httpRule) rewrite() *routing.Rewrite {
	w := &r.Rewrite
	if !w.present() {
		return nil
	}
	out := &routing.Rewrite{Hostname: w.Authority.V}
	switch _, prefix := r.uriMatches(); {
	case w.URIRegexRewrite.present():
		out.Path = routing.PathChange{Regex: w.URIRegexRewrite.Match.V, Substitution: w.URIRegexRewrite.Rewrite.V}
	case w.URI.present() && prefix:
		out.Path = routing.PathChange{ReplacePrefix: true, Prefix: w.URI.V}
	case w.URI.present():
		out.Path = routing.PathChange{Full: w.URI.V}
	}
	return out
}

func (f *httpFault) routing() *routing.Fault {
	if !f.present() {
		return nil
	}
	out := &routing.Fault{Delay: f.Delay.FixedDelay.V, DelayPercent: f.Delay.Percentage.Value.V}
	if a := &f.Abort; a.present() {
		out.AbortPercent, out.AbortStatus, out.AbortCode = a.Percentage.Value.V, int(a.HTTPStatus.V), codeNames[a.GRPCStatus.V]
	}
	return out
}

func (c *corsPolicy) routing() *routing.CORS {
	if !c.present() {
		return nil
	}
	out := &routing.CORS{
		AllowMethods: strs(c.AllowMethods), AllowHeaders: strs(c.AllowHeaders), ExposeHeaders: strs(c.ExposeHeaders),
		MaxAge: c.MaxAge.V, AllowCredentials: c.AllowCredentials.V,
	}
	for i := range c.AllowOrigins {
		o := &c.AllowOrigins[i]
		if o.Exact.present() {
			out.AllowOrigins = append(out.AllowOrigins, o.Exact.V)
		} else {
			out.AllowOriginMatches = append(out.AllowOriginMatches, *o.routing())
		}
	}
	return out
}
